"""Defects where one wants them: the kind, the place and the size are chosen, not drawn by chance.

The shapes and contrasts are plain versions of those in ``htdg.datasets.defects``, at one strength
each, so that only the place and the size differ while a slider moves (notebook 04).
"""

from __future__ import annotations

import numpy as np
from PIL import ImageDraw

from htdg.datasets.defects import OVERSAMPLING, Defective, blend, coverage

#: What can be placed.
KINDS = ("scratch", "hole", "stain", "foreign patch")
#: Width of a scratch in pixels.
WIDTH = 2


def placed_defect(
    wall: np.ndarray, kind: str, across: float, down: float, size: float, other: np.ndarray
) -> Defective:
    """A wall with one defect, and the mask of the pixels that it changed.

    Args:
        wall: (H, W) uint8.
        kind: one of ``KINDS``.
        across: column of the middle of the defect, in pixels from the left.
        down: row of its middle, in pixels from the top. What lies outside the wall is cut off.
        size: from the middle to the edge, in pixels: the radius of a disc, half the length of a
            scratch.
        other: (H, W) uint8, the texture that a foreign patch shows.

    Returns:
        (H, W) uint8 and (H, W) bool, which is True exactly where the two walls differ.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"There is no defect {kind!r}: choose from {', '.join(KINDS)}.")
    rows, columns = np.ogrid[: wall.shape[0], : wall.shape[1]]
    distance = np.hypot(rows - down, columns - across)
    disc = np.clip(size + 0.5 - distance, 0, 1)  # a smooth edge, one pixel wide
    if kind == "scratch":
        return blend(wall, wall + 70.0, _upright(wall.shape, across, down, size))
    if kind == "hole":
        middle = np.median(wall)
        return blend(wall, 0.4 * middle + 0.25 * (wall - middle), disc)
    if kind == "stain":
        return blend(wall, 1.35 * wall, np.clip(1.6 * (1 - distance / max(size, 1e-6)), 0, 1))
    patch = other.astype(float)
    if disc.any():  # as bright as what it covers, so that only the texture gives it away
        patch += np.average(wall, weights=disc) - np.average(patch, weights=disc)
    return blend(wall, patch, disc)


def _upright(shape: tuple[int, ...], across: float, down: float, size: float) -> np.ndarray:
    """Coverage (H, W) in [0, 1] of an upright line, along which the joints of a wall run, too."""
    x, y = (OVERSAMPLING * (middle + 0.5) for middle in (across, down))  # pixel 0: from 0 to 1
    half, length = OVERSAMPLING * WIDTH / 2, OVERSAMPLING * (size + 0.5)

    def draw(canvas: ImageDraw.ImageDraw) -> None:
        # Pillow's rectangles include their last pixel.
        canvas.rectangle((x - half, y - length, x + half - 1, y + length - 1), fill=255)

    return coverage(shape, draw)
