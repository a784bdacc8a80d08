"""Mask files: which pixels of an image are a defect, and which file belongs to which image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from htdg.io.images import read_image

#: What the name of a mask has after that of its image, best first.
ENDINGS = ("_mask", "_gt", "_label", "")
#: So many distinct values are the labels of kinds of defects; more are smoothed edges or noise.
FEW_VALUES = 8
#: Files that do not keep pixels as they were: around a mark nothing is quite black.
LOSSY = (".jpg", ".jpeg", ".webp")


def read_mask(path: Path) -> tuple[np.ndarray, str]:
    """A mask as (H, W) bool, and a line about how it was read if that was not certain, or "".

    Every pixel that is not black marks a defect, whatever its value; transparent ones do not. In
    JPEG and WebP files with many values, pixels brighter than half of the brightest do.

    Raises:
        ImageError: it cannot be read.
    """
    values = read_image(path)
    values = values[..., None] if values.ndim == 2 else values
    if values.shape[-1] == 4:
        colour, alpha = values[..., :3], values[..., 3:]
        values = colour * (alpha > 0) if colour.any() else alpha  # or drawn in black
    highest = values.max(-1)  # (H, W)
    count = len(np.unique(highest))
    if count <= FEW_VALUES:
        return highest > 0, ""
    if path.suffix.lower() in LOSSY:
        what, mask = "brighter than half of its brightest pixel", highest > highest.max() / 2
    else:
        what, mask = "not black", highest > 0
    share = 100 * mask.mean()
    note = f"{path} has {count} values: what is {what} counts as a defect, {share:.2g} % of it."
    return mask, note
