"""Which of several normal images is most like the others. Ours, not the paper's.

With one training image much depends on which one it is. An image that models of the other ones
find hardly anomalous shows what is normal; one that they find odd would teach the oddity. Patch
distances say so without any training, and without labels. What it is worth: docs/few_shots.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from htdg.config import ConfigError, HTDGConfig
from htdg.detector import HTDGDetector
from htdg.io.images import ImageLike
from htdg.runtime.progress import ProgressBar, suitable_look


def scores_by_others(
    images: Sequence[ImageLike],
    config: HTDGConfig,
    defect_fraction: float | None = None,
    progress: bool = False,
) -> np.ndarray:
    """How anomalous several normal images are to models of the others: (K,), in [0, 1].

    Every image in turn makes a model of patch distances alone, which scores all the others; an
    image's value is the mean over these models. The lowest is the most typical.

    Args:
        images: K >= 2 of them, which can be trained on.
        config: the options of the models, but for the evidence.
        defect_fraction: the share of the pixels that makes a score; None is all of them.
        progress: show a progress bar.

    Raises:
        ConfigError: there are fewer than two images, or no distances with such options.
        ImageError: an image cannot be read or holds nothing to learn from.
    """
    if len(images) < 2:
        raise ConfigError("Typical among how many? There must be at least two images.")
    alone = config.with_options(evidence="distance")
    total = np.zeros(len(images))
    look = suitable_look() if progress else "silent"
    with ProgressBar(look, "comparing good images", len(images)) as bar:
        for i, image in enumerate(images):
            others = [j for j in range(len(images)) if j != i]
            detector = HTDGDetector(alone).fit([image], progress=False)
            total[others] += detector.anomaly_score([images[j] for j in others], defect_fraction)
            bar.advance(1)
    return total / (len(images) - 1)
