"""Anomaly maps laid over their images, in one scale of colours.

The same tint means the same in all images. Where the scale follows from a threshold, or where
0.5 is normal, it means the same next week, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import binary_dilation

from htdg.evaluation.colours import ANOMALOUS, TINTS
from htdg.evaluation.plots import figure_png
from htdg.thresholds import Threshold

#: How much of the full tint a picture takes on at most.
STRENGTH = 0.55


@dataclass(frozen=True)
class ColourScale:
    """How strongly a pixel is tinted: not at all at ``low``, fully at ``high``, linear between.

    ``line`` is the value that a line is drawn around, or None. All are values of an anomaly map.
    ``tint`` is the colour, as Matplotlib knows it.
    """

    low: float
    high: float
    line: float | None
    tint: str = ANOMALOUS

    @classmethod
    def of_threshold(
        cls, threshold: Threshold | float | None, tint: str = ANOMALOUS
    ) -> ColourScale:
        """From a little below a threshold of pixels, with a third of the tint at it, halfway to 1.

        Without one from 0.5, the distance of normal patches, to 1.
        """
        if threshold is None:
            return cls(0.5, 1.0, None, tint)
        pixel = threshold.pixel if isinstance(threshold, Threshold) else threshold
        half = max((1 - pixel) / 2, 1e-6)
        return cls(pixel - half / 2, pixel + half, pixel, tint)

    @classmethod
    def of_maps(
        cls, medians: Sequence[float], highest: Sequence[float], tint: str = ANOMALOUS
    ) -> ColourScale:
        """From the median of the medians of maps to the highest value in any, without a line.

        For maps of votes without a threshold: what they have where all is normal differs from
        model to model, and with many transformations it is close to 1.
        """
        low = float(np.median(medians))
        return cls(low, max(max(highest), low + 1e-6), None, tint)


def clearest_tint(images: torch.Tensor) -> str:
    """The name of the tint that differs most from images (K, 3, H, W) in [-1, 1].

    What counts is the tenth of their pixels that each tint differs least from. Yellow is not among
    them, which is hardly seen on white.
    """
    pixels = (images.movedim(1, -1).flatten(0, -2) + 1) / 2  # (n, 3)
    away = {
        name: float(torch.quantile((pixels - torch.tensor(to_rgb(tint))).norm(dim=1)[::7], 0.1))
        for name, tint in TINTS.items()
        if name != "yellow"
    }
    return max(away, key=lambda name: away[name])


def colour_bar(scale: ColourScale) -> bytes:
    """What the tints of a scale stand for, on grey, as a PNG file."""
    values = np.linspace(scale.low, scale.high, 300)
    grey = np.full((20, 300, 3), 200, np.uint8)
    drawn = overlay(grey, np.tile(values, (20, 1)), replace(scale, line=None))
    figure = Figure(figsize=(4, 1), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(drawn, extent=(scale.low, scale.high, 0, 1), aspect="auto")
    axes.set(yticks=[], xlabel="value of the anomaly map")
    if scale.line is not None:
        axes.axvline(scale.line, color="black")
        axes.set_title(f"threshold {scale.line:.3g}", fontsize="medium")
    return figure_png(figure, 100)


def resized_picture(array: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """A picture (H, W, 3) uint8 or a map (H, W) float32 at ``size``, (height, width)."""
    height, width = size
    resampled = Image.fromarray(array).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resampled)


def overlay(image: np.ndarray, anomaly_map: np.ndarray, scale: ColourScale) -> np.ndarray:
    """An image with its anomaly map laid over it, and lines around what is above the threshold.

    Args:
        image: (H, W, 3) uint8.
        anomaly_map: (H, W) in [0, 1].
        scale: from values of the map to colours.

    Returns:
        (H, W, 3) uint8: tinted where the map is high. The lines are white within black, to be
        seen on any image, and lie outside the regions, which they leave as they are.
    """
    strength = np.clip((anomaly_map - scale.low) / (scale.high - scale.low), 0, 1)[..., None]
    tint = np.array(to_rgb(scale.tint), np.float32) * 255
    blended = image + (tint - image) * (STRENGTH * strength.astype(np.float32))
    drawn = np.rint(blended).astype(np.uint8)
    if scale.line is not None and (above := anomaly_map > scale.line).any():
        width = max(1, max(above.shape) // 250)
        wider = binary_dilation(above, iterations=width)
        drawn[binary_dilation(wider, iterations=width) & ~wider] = 0
        drawn[wider & ~above] = 255
    return drawn
