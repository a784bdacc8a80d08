"""From the discriminator's logits to votes, and from votes to scores.

Paper section 3.2, "Anomaly detection": every patch of every transformed copy T_m(x) votes for its
transformation with the probability that the discriminator gives to m. A patch like those of the
training images knows what was done to it; an odd one does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def votes_from_logits(logits: torch.Tensor) -> torch.Tensor:
    """The probability that each patch gives to its true transformation.

    Args:
        logits: (M, ..., M + 1, h, w); row m belongs to copies under T_m, class M is "generated".

    Returns:
        (M, ..., h, w), each in [0, 1]: softmax over the first M classes, "generated" left out
        (every patch here is real, so that class has nothing to say), read at class m.
    """
    m = logits.shape[0]
    log_p = logits[..., :m, :, :].log_softmax(dim=-3)  # (M, ..., M, h, w)
    own = [log_p[i, ..., i, :, :] for i in range(m)]
    return torch.stack(own).exp()  # (M, ..., h, w)


def binary_votes(logits: torch.Tensor) -> torch.Tensor:
    """The probability that each patch is real, of logits (M, ..., 2, h, w): (M, ..., h, w).

    For the ablation in which D only tells real patches from generated ones (paper Table 6, b, c).
    """
    return logits.softmax(dim=-3)[..., 0, :, :]


def aggregate_votes(
    votes: torch.Tensor, defect_fraction: float | Sequence[float | None] | None = None
) -> torch.Tensor:
    """The normality of each image at one scale.

    Args:
        votes: (M, B, h, w) in [0, 1].
        defect_fraction: average only this share of the patches for each transformation, those with
            the lowest votes (at least one patch): a defect covers few patches, and the mean over
            all would drown them. ``None`` averages over all. Several fractions come from the same
            sorted votes, at hardly more cost than one.

    Returns:
        (B,) the sum over m of the mean votes, in [0, M]; higher is more normal. Of F fractions
        (F, B).
    """
    patches = votes.flatten(2)  # (M, B, P)
    if defect_fraction is None:
        return patches.mean(-1).sum(0)
    if not isinstance(defect_fraction, Sequence):
        check_fraction(defect_fraction)
        count = max(1, int(patches.shape[-1] * defect_fraction))
        lowest = patches.topk(count, dim=-1, largest=False).values  # (M, B, count)
        return lowest.mean(-1).sum(0)
    for fraction in defect_fraction:
        if fraction is not None:
            check_fraction(fraction)
    sorted_votes = patches.sort(dim=-1).values
    total = patches.shape[-1]
    counts = [total if f is None else max(1, int(total * f)) for f in defect_fraction]
    means = [sorted_votes[..., :count].mean(-1).sum(0) for count in counts]  # each (B,)
    return torch.stack(means)  # (F, B)


def check_fraction(defect_fraction: float) -> None:
    """Raise ValueError unless the fraction is a number in (0, 1]."""
    number = isinstance(defect_fraction, (int, float)) and not isinstance(defect_fraction, bool)
    if not number or not 0 < defect_fraction <= 1:
        raise ValueError(
            f"defect_fraction is {defect_fraction!r}, but it must be above 0 and at most 1 "
            "(0.05 averages the lowest 5 % of the votes)."
        )
