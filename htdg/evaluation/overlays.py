"""Anomaly maps laid over their images, in one scale of colours.

The same tint means the same in all images. Where the scale follows from a threshold, or where
0.5 is normal, it means the same next week, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import to_rgb
from scipy.ndimage import binary_dilation

from htdg.evaluation.plots import ANOMALOUS
from htdg.thresholds import Threshold

#: How much of the full tint a picture takes on at most.
STRENGTH = 0.55


@dataclass(frozen=True)
class ColourScale:
    """How strongly a pixel is tinted: not at all at ``low``, fully at ``high``, linear between.

    ``line`` is the value that a line is drawn around, or None. All are values of an anomaly map.
    """

    low: float
    high: float
    line: float | None

    @classmethod
    def of_threshold(cls, threshold: Threshold | float | None) -> ColourScale:
        """From a little below a threshold of pixels, with a third of the tint at it, halfway to 1.

        Without one from 0.5, the distance of normal patches, to 1.
        """
        if threshold is None:
            return cls(0.5, 1.0, None)
        pixel = threshold.pixel if isinstance(threshold, Threshold) else threshold
        half = max((1 - pixel) / 2, 1e-6)
        return cls(pixel - half / 2, pixel + half, pixel)

    @classmethod
    def of_maps(cls, medians: Sequence[float], highest: Sequence[float]) -> ColourScale:
        """From the median of the medians of maps to the highest value in any, without a line.

        For maps of votes without a threshold: what they have where all is normal differs from
        model to model, and with many transformations it is close to 1.
        """
        low = float(np.median(medians))
        return cls(low, max(max(highest), low + 1e-6), None)


def overlay(image: np.ndarray, anomaly_map: np.ndarray, scale: ColourScale) -> np.ndarray:
    """An image with its anomaly map laid over it, and lines around what is above the threshold.

    Args:
        image: (H, W, 3) uint8.
        anomaly_map: (H, W) in [0, 1].
        scale: from values of the map to colours.

    Returns:
        (H, W, 3) uint8: vermillion where the map is high. The lines are white within black, to be
        seen on any image, and lie outside the regions, which they leave as they are.
    """
    strength = np.clip((anomaly_map - scale.low) / (scale.high - scale.low), 0, 1)[..., None]
    vermillion = np.array(to_rgb(ANOMALOUS)) * 255
    blended = image + (vermillion - image) * (STRENGTH * strength)
    drawn = np.rint(blended).astype(np.uint8)
    if scale.line is not None and (above := anomaly_map > scale.line).any():
        width = max(1, max(above.shape) // 250)
        wider = binary_dilation(above, iterations=width)
        drawn[binary_dilation(wider, iterations=width) & ~wider] = 0
        drawn[wider & ~above] = 255
    return drawn
