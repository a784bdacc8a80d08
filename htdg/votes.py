"""From the discriminator's logits to votes, and from votes to scores.

Paper section 3.2, "Anomaly detection": every patch of every transformed copy T_m(x) votes for its
transformation with the probability that the discriminator gives to m. A patch like those of the
training images knows what was done to it; an anomalous one does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, TypeAlias, cast

import numpy as np
import torch

from htdg.numbers import ConfigError

#: One defect fraction or several; None stands for all votes.
Fractions: TypeAlias = float | Sequence[float | None] | np.ndarray | None


def votes_from_logits(logits: torch.Tensor) -> torch.Tensor:
    """The probability that each patch gives to its true transformation.

    Args:
        logits: (M, ..., M + 1, h, w); row m belongs to copies under T_m, class M is "generated".

    Returns:
        (M, ..., h, w), each in [0, 1]: softmax over the first M classes, "generated" left out
        (official: no patch of a test image is generated), read at class m.
    """
    m = logits.shape[0]
    log_p = logits[..., :m, :, :].log_softmax(dim=-3)  # (M, ..., M, h, w)
    of_true_class = [log_p[i, ..., i, :, :] for i in range(m)]
    return torch.stack(of_true_class).exp()  # (M, ..., h, w)


def binary_votes(logits: torch.Tensor) -> torch.Tensor:
    """The probability that each patch is real, of logits (M, ..., 2, h, w): (M, ..., h, w).

    For the ablation in which D only tells real patches from generated ones (paper Table 6, b, c).
    """
    return logits.softmax(dim=-3)[..., 0, :, :]


def aggregate_votes(votes: torch.Tensor, defect_fraction: Fractions = None) -> torch.Tensor:
    """The normality of each image at one scale.

    Args:
        votes: (M, B, h, w) in [0, 1].
        defect_fraction: average only this share of the patches for each transformation, those with
            the lowest votes (at least one patch): a defect covers few patches, and the mean over
            all would drown them. ``None`` averages over all. Several fractions come from the same
            sorted votes, at hardly more cost than one.

    Returns:
        (B,) the sum over m of the mean votes, in [0, M]; higher is more normal. With F fractions
        (F, B).
    """
    patches = votes.flatten(2)  # (M, B, P)
    fractions, total = as_fractions(defect_fraction), patches.shape[-1]
    counts = [total if f is None else max(1, int(total * f)) for f in fractions]
    partial = [count for count in counts if count < total]
    # Sorted once, as far as the largest fraction needs.
    lowest = patches.topk(max(partial), dim=-1, largest=False).values if partial else patches
    means = [(lowest[..., :k] if k < total else patches).mean(-1).sum(0) for k in counts]
    return torch.stack(means) if are_several(defect_fraction) else means[0]  # (F, B) or (B,)


def anomaly_scores(normality: np.ndarray, n_transformations: int) -> np.ndarray:
    """1 - the mean over scales of the normality / M: (..., N + 1) in [0, M] -> (...) in [0, 1]."""
    return 1 - normality.mean(-1) / n_transformations


def as_fractions(defect_fraction: object) -> tuple[float | None, ...]:
    """One defect fraction or several as a tuple; None stands for all votes.

    Raises:
        ConfigError: there is none, or one is not a number in (0, 1].
    """
    if isinstance(defect_fraction, np.ndarray):
        defect_fraction = defect_fraction.tolist()
    fractions: tuple[Any, ...] = (defect_fraction,)
    if are_several(defect_fraction):
        fractions = tuple(cast(Sequence[Any], defect_fraction))
    if not fractions:
        raise ConfigError("defect_fraction is an empty list: give a fraction, or None for all.")
    for fraction in fractions:
        number = isinstance(fraction, Real) and not isinstance(fraction, bool)
        if fraction is not None and not (number and 0 < fraction <= 1):
            raise ConfigError(
                f"defect_fraction is {fraction!r}, but it must be above 0 and at most 1 "
                "(0.05 averages the lowest 5 % of the votes)."
            )
    return tuple(None if fraction is None else float(fraction) for fraction in fractions)


def are_several(defect_fraction: object) -> bool:
    """Whether it is a sequence of fractions, each of which yields a row of results."""
    if isinstance(defect_fraction, np.ndarray):
        return defect_fraction.ndim > 0
    return isinstance(defect_fraction, Sequence) and not isinstance(defect_fraction, str)
