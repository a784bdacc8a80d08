"""How well anomaly maps locate defects: pixel AUROC and AUPRO. Higher values are more anomalous.

They measure the maps of paper section 3.3, in the way of MVTec AD (Bergmann et al. 2019, 2021). A
threshold flags the pixels that reach it. As it falls, two figures rise: the false positive rate,
which is the flagged part of all normal pixels of all images, and either

- the true positive rate, the flagged part of all anomalous pixels: the area under it is the pixel
  AUROC, in which one large defect outweighs many small ones; or
- the per-region overlap (PRO), the flagged part of a defect region, averaged over all regions of
  all images: the area under it is the AUPRO, in which every region has the same weight.

The AUPRO takes only false positive rates up to 0.3: with more of the normal pixels flagged, a
defect no longer stands out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import ndimage

#: Maps are counted in this many equal levels of [0, 1].
LEVELS = 2**20
#: The AUPRO is the area up to this false positive rate, divided by it.
FPR_LIMIT = 0.3


class PixelMetrics:
    """Pixel AUROC and AUPRO of any number of maps of any size, added one at a time.

    Three histograms are kept, 24 MB, and no map. A value v in [0, 1] falls into the level
    round(v * (LEVELS - 1)), and values of one level are ties: two values less than a millionth
    apart nearly always count as ties.
    """

    def __init__(self) -> None:
        """Nothing counted yet."""
        self._normal = np.zeros(LEVELS, dtype=np.int64)
        self._anomalous = np.zeros(LEVELS, dtype=np.int64)
        # A pixel of a region of n pixels counts 1 / n, so that the region counts 1.
        self._regions = np.zeros(LEVELS)
        self._defect_regions = 0

    def add(self, anomaly_map: np.ndarray, mask: np.ndarray | None) -> None:
        """Count one image. The order of images does not matter.

        Args:
            anomaly_map: (H, W) in [0, 1], higher is more anomalous.
            mask: (H, W) boolean, True on the defect; None for a normal image, which is the same as
                a mask without any True.

        Raises:
            ValueError: the map is not (H, W), is empty, or holds values that are not finite or
                outside [0, 1]; the mask is not boolean or not of the map's shape. Nothing was
                counted then.
        """
        levels = _levels(anomaly_map)
        defect = _defect(mask, levels.shape)
        weights, regions = region_weights(defect)
        np.add.at(self._normal, levels[~defect], 1)
        np.add.at(self._anomalous, levels[defect], 1)
        np.add.at(self._regions, levels[defect], weights)
        self._defect_regions += regions

    def result(self) -> dict[str, Any]:
        """The metrics of all images so far; more may be added after.

        Returns:
            Plain JSON values:

            - ``pixel_auroc``: area under the true positive rate over the false positive rate, in
              [0, 1]; a tie counts one half. 0.5 is chance.
            - ``aupro``: area under the mean per-region overlap over the false positive rate up to
              ``FPR_LIMIT``, divided by it, in [0, 1]. 0.15 is chance, not 0.5.
            - ``defect_regions``: how many regions, the 8-connected parts of the masks.
            - ``pixel_undefined_because``: None, or one sentence if both metrics are None because
              there is no anomalous pixel or no normal one.
        """
        metrics: dict[str, Any] = {
            "pixel_auroc": None,
            "aupro": None,
            "defect_regions": self._defect_regions,
            "pixel_undefined_because": self._undefined_because(),
        }
        if metrics["pixel_undefined_because"] is None:
            false_positives, true_positives, overlap = self._curves()
            normal = false_positives[-1]
            metrics["pixel_auroc"] = mean_height(false_positives, true_positives, normal)
            metrics["aupro"] = mean_height(false_positives, overlap, FPR_LIMIT * normal)
        return metrics

    def _undefined_because(self) -> str | None:
        if not self._normal.any() and not self._anomalous.any():
            return "There are no images, but the pixel metrics need normal and anomalous pixels."
        for kind, counts in (("anomalous", self._anomalous), ("normal", self._normal)):
            if not counts.any():
                return f"No pixel is {kind}, but the pixel metrics need both kinds."
        return None

    def _curves(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Normal pixels flagged, true positive rate and mean overlap, from no pixel to all."""
        occupied = np.flatnonzero(self._normal + self._anomalous)[::-1]  # highest level first
        flagged = [
            np.concatenate(([0], np.cumsum(counts[occupied])))
            for counts in (self._normal, self._anomalous, self._regions)
        ]
        # Divided by its last value, which includes the rounding errors, a rate ends at exactly 1.
        return flagged[0], flagged[1] / flagged[1][-1], flagged[2] / flagged[2][-1]


def pixel_metrics(
    anomaly_maps: Iterable[np.ndarray], masks: Iterable[np.ndarray | None]
) -> dict[str, Any]:
    """The metrics of ``PixelMetrics.result`` for maps and their masks.

    Args:
        anomaly_maps: of shape (H, W), as in ``PixelMetrics.add``; sizes may differ.
        masks: a mask (H, W) for every map, or None for a normal image.

    Raises:
        ValueError: there are not as many masks as maps, or what ``PixelMetrics.add`` refuses.
    """
    metrics = PixelMetrics()
    for anomaly_map, mask in zip(anomaly_maps, masks, strict=True):
        metrics.add(anomaly_map, mask)
    return metrics.result()


def region_weights(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """For every True pixel of (H, W), row by row, one over the size of its region.

    Regions are the 8-connected parts of the mask: pixels that touch at a corner belong together.

    Returns:
        The weights, one for a True pixel, and the number of regions.
    """
    regions, count = ndimage.label(mask, np.ones((3, 3)))  # 1 .. count, 0 off the mask
    return 1 / np.bincount(regions.ravel())[regions[mask]], count


def mean_height(x: np.ndarray, y: np.ndarray, limit: float) -> float:
    """The area under the line through the points from 0 to ``limit``, divided by ``limit``.

    Args:
        x: (P,) counts, rising from 0 to at least ``limit``; several points may share one. Sums of
            counts are exact where sums of rates are not, so a perfect map gets exactly 1.
        y: (P,) in [0, 1], rising.
        limit: above 0. The segment that crosses it is cut off there.

    Returns:
        In [0, 1].
    """
    width = np.diff(x)
    inside = np.clip(limit - x[:-1], 0, width)  # the part of a segment's width up to the limit
    share = inside / np.maximum(width, 1)  # a vertical segment has no width and no area
    middle = y[:-1] + np.diff(y) * share / 2  # the height half way along that part
    return float(np.clip((inside * middle).sum() / limit, 0, 1))


def _levels(anomaly_map: np.ndarray) -> np.ndarray:
    values = np.asarray(anomaly_map, dtype=float)  # levels are past what float16 holds
    if values.ndim != 2 or values.size == 0:
        raise ValueError(
            f"anomaly_map has shape {values.shape}, but must be (height, width) of one image with "
            "at least one pixel: add images one at a time."
        )
    if not np.isfinite(values).all():
        raise ValueError(
            "anomaly_map holds values that are not finite: find out which step made them."
        )
    if values.min() < 0 or values.max() > 1:
        raise ValueError(
            f"anomaly_map goes from {values.min():g} to {values.max():g}, but must stay in [0, 1]: "
            "scale all maps in the same way first."
        )
    return np.rint(values * (LEVELS - 1)).astype(np.int64)


def _defect(mask: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    if mask is None:
        return np.zeros(shape, dtype=bool)
    defect = np.asarray(mask)
    if defect.dtype != bool:
        raise ValueError(
            f"mask has values of type {defect.dtype}, but must be boolean, True on the defect: "
            "give mask > 0."
        )
    if defect.shape != shape:
        raise ValueError(
            f"mask has shape {defect.shape} and anomaly_map {shape}, but they must be alike: bring "
            "the map to the size of the mask."
        )
    return defect
