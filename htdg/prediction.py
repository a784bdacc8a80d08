"""What the votes say about each image of a batch: its normality at every scale, and its map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
) -> Iterator[Verdict]:
    """The verdicts on B images, whose votes come scale by scale.

    Maps are made one by one, when asked for: at the images' own size they can be large.

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
    return (
        Verdict(of_image, None if sizes is None else _map(located, i, sizes[i]))
        for i, of_image in enumerate(normality)
    )


@torch.inference_mode()
def _map(located: Sequence[torch.Tensor], i: int, size: tuple[int, int]) -> np.ndarray:
    """The map (H, W) of image i of a batch."""
    return anomaly_map([of_scale[i] for of_scale in located], size).cpu().numpy()
