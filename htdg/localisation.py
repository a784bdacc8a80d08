"""Where an image is anomalous: the votes laid over the image.

Paper section 3.3; the official code has none of it. Every vote under T_m belongs to a patch of the
transformed copy; undoing T_m brings it to the place of that patch in the image. There the votes of
all transformations are averaged, spread over the pixels that the patch covers, and averaged over
the scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch.nn import functional as F

from htdg.transformations import Transformation

#: A vote counts most in the middle of its patch: a Gaussian whose standard deviation is this
#: fraction of the patch's side, cut off at the patch's edge (ours; the paper does not say).
SPREAD = 0.25


def patch_votes(
    votes: torch.Tensor, transformations: Sequence[Transformation], side: int, translation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean vote of each patch of the image over the transformations that show it whole.

    Args:
        votes: (M, B, h, h) of the copies, in [0, 1].
        transformations: T_1 .. T_M.
        side: of the image at this scale, pixels.
        translation: the mode that the copies were made with.

    Returns:
        (B, h, h) in image coordinates, and the (h, h) boolean mask of where any vote counts: a
        copy's reflected border has no place in the image.
    """
    total = torch.zeros_like(votes[0])
    count = torch.zeros_like(votes[0, 0])
    for of_copy, t in zip(votes, transformations, strict=True):
        maps, defined = t.undo(of_copy, side, translation)  # (B, h, h), (h, h)
        total += maps
        count += defined
    return total / count.clamp(min=1), count > 0


def pixel_votes(
    votes: torch.Tensor, transformations: Sequence[Transformation], side: int, translation: str
) -> torch.Tensor:
    """The mean vote at each pixel: arguments as of ``patch_votes``, (B, side, side) in [0, 1].

    A pixel's value is the weighted mean of the patches that cover it. Where none counts (that takes
    a catalogue of nothing but shifts) it is the image's mean.
    """
    patches, defined = patch_votes(votes, transformations, side, translation)
    spread = spread_matrix(votes.shape[-1], side).to(patches)  # (side, h)
    weight = spread @ defined.to(patches) @ spread.T  # (side, side)
    total = spread @ (patches * defined) @ spread.T  # (B, side, side)
    mean = (patches * defined).sum((-2, -1), keepdim=True) / defined.sum().clamp(min=1)
    return torch.where(weight > 1e-9, total / weight.clamp(min=1e-9), mean).clamp(0, 1)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def spread_matrix(h: int, side: int) -> torch.Tensor:
    """(side, h): how much pixel p of an axis takes from the patch that starts at pixel i.

    The patch is side - h + 1 pixels long; rows sum to 1.
    """
    radius = (side - h) / 2
    distance = torch.arange(side)[:, None] - (torch.arange(h) + radius)[None, :]
    weights = torch.exp(-0.5 * (distance / (SPREAD * (2 * radius + 1))) ** 2)
    weights = weights * (distance.abs() <= radius)
    return weights / weights.sum(1, keepdim=True)


def anomaly_map(per_scale: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
    """One image's map at its own resolution.

    Args:
        per_scale: its ``pixel_votes`` of every scale, each (side, side).
        size: height and width of the image in pixels.

    Returns:
        (H, W) in [0, 1], 1 - the mean vote over scales; higher is more anomalous.
    """
    total = torch.zeros(size, device=per_scale[0].device)
    for votes in per_scale:
        total += F.interpolate(votes[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    return (1 - total / len(per_scale)).clamp(0, 1)
