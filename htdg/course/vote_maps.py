"""Maps of votes, drawn where the patches are (notebooks 04 and 05)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage


def show_patches(ax: Axes, values: np.ndarray, side: int, **colours: Any) -> AxesImage:
    """Draw a value for each patch at the pixel that is the patch's centre.

    The axes are those of an image of ``side`` pixels, so that places line up with such an image
    drawn as large. The border in which no patch has its centre stays grey.

    Args:
        ax: where to draw.
        values: (h, h), h < side: of the patch whose upper left pixel is (i, j).
        side: of the image at this scale, in pixels.
        colours: ``cmap``, ``vmin``, ``vmax``.
    """
    first = (side - len(values)) / 2  # the centre of patch (0, 0): half a patch from the corner
    low, high = first - 0.5, first + len(values) - 0.5  # imshow puts the middle of pixel 0 at 0
    shown = ax.imshow(values, extent=(low, high, high, low), **colours)
    ax.set(xlim=(-0.5, side - 0.5), ylim=(side - 0.5, -0.5), xticks=[], yticks=[], facecolor="0.9")
    return shown
