"""One-shot figures of methods with pretrained features, as they were published.

Their weights are not at hand, so nothing here was measured by us: other test images (whole MVTec AD
at full resolution), other training images, and networks that have seen millions of other images.
"""

from __future__ import annotations

from typing import NamedTuple


class PublishedResult(NamedTuple):
    """Figures in [0, 1], mean and standard deviation over draws.

    Attributes:
        method: its name, with the resolution in pixels where the paper has several.
        images: what they are of.
        image_auroc, pixel_auroc, aupro: of image scores and maps; without a deviation where the
            source has none.
        source: paper and table.
    """

    method: str
    images: str
    image_auroc: tuple[float, ...]
    pixel_auroc: tuple[float, ...]
    aupro: tuple[float, ...]
    source: str


MEAN = "MVTec AD, mean of 15 classes"
ANOMALYDINO = "arXiv 2405.14529, Table 2"
WINCLIP = "arXiv 2303.14814, as given in arXiv 2405.14529, Table 2"
REIMPLEMENTED = "not its authors' code: github.com/zqhang/Accurate-WinCLIP-pytorch, README"
#: The papers have figures of single classes only in their appendices, which could not be looked up:
#: of bottle and grid there are those of another implementation of WinCLIP+ alone.
ONE_SHOT = (
    PublishedResult("PatchCore", MEAN, (0.834, 0.030), (0.920, 0.010), (0.797, 0.020), WINCLIP),
    PublishedResult("WinCLIP+", MEAN, (0.931, 0.020), (0.952, 0.005), (0.871, 0.012), WINCLIP),
    PublishedResult(
        "AnomalyDINO-S (448)", MEAN, (0.965, 0.004), (0.963, 0.001), (0.917, 0.001), ANOMALYDINO
    ),
    PublishedResult(
        "AnomalyDINO-S (672)", MEAN, (0.966, 0.004), (0.968, 0.001), (0.927, 0.001), ANOMALYDINO
    ),
    PublishedResult("WinCLIP+", "bottle", (0.994,), (0.943,), (0.851,), REIMPLEMENTED),
    PublishedResult("WinCLIP+", "grid", (0.996,), (0.941,), (0.821,), REIMPLEMENTED),
)
