"""What the votes say about each image of a batch: its normality at every scale, and its map."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from htdg.localisation import anomaly_map, pixel_votes
from htdg.transformations import Transformation
from htdg.votes import aggregate_votes


@dataclass(frozen=True)
class Verdict:
    """What is known of an image once its patches have voted.

    Attributes:
        normality: (F, N + 1), for each defect fraction and scale, in [0, M]; higher is more normal.
        anomaly_map: (H, W) float32 in [0, 1] at the image's own resolution, or None if not asked
            for; higher is more anomalous.
    """

    normality: np.ndarray
    anomaly_map: np.ndarray | None


def batch_verdicts(
    votes: Iterable[torch.Tensor],
    transformations: Sequence[Transformation],
    sides: Sequence[int],
    translation: str,
    defect_fractions: Sequence[float | None],
    sizes: Sequence[tuple[int, int]] | None,
) -> list[Verdict]:
    """The verdicts on B images, whose votes come scale by scale.

    Args:
        votes: (M, B, h, h) of every scale, coarsest first.
        transformations: T_1 .. T_M.
        sides: of the scales, pixels.
        translation: the mode that the copies were made with.
        defect_fractions: F of them: see ``aggregate_votes``.
        sizes: (H, W) of each image, to make maps of; None makes none.
    """
    rows, located = [], []
    for of_scale, side in zip(votes, sides, strict=True):
        rows.append(aggregate_votes(of_scale, defect_fractions))  # (F, B)
        if sizes is not None:
            located.append(pixel_votes(of_scale, transformations, side, translation))
    normality = torch.stack(rows, -1).movedim(1, 0).cpu().double().numpy()  # (B, F, N + 1)
    if sizes is None:
        return [Verdict(of_image, None) for of_image in normality]
    found = []
    for i, size in enumerate(sizes):
        own = anomaly_map([of_scale[i] for of_scale in located], size)
        found.append(Verdict(normality[i], own.cpu().numpy()))
    return found
