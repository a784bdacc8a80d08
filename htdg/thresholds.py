"""Thresholds: the anomaly score above which an image is called anomalous.

Learnt from normal images alone, by split conformal prediction; the paper has none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np

from htdg.numbers import digits
from htdg.votes import as_fractions

#: Where the normal images came from, or that there were none.
HELD_OUT, GENERATED, BY_HAND = "held-out images", "generated images", "set by hand"


@dataclass(frozen=True)
class Threshold:
    """Images that score above ``score``, and pixels above ``pixel``, are called anomalous.

    Attributes:
        score: anomaly score in [0, 1].
        pixel: value of the anomaly map in [0, 1].
        false_positive_rate: the largest share of normal images that may be flagged; None by hand.
        count: how many normal images it was learnt from; 0 by hand.
        source: ``HELD_OUT``; ``GENERATED``: images that the model's own generator drew stand in for
            normal ones, but they are not, and the true rate differs; or ``BY_HAND``.
        defect_fraction: what the scores were made with.
        least, median, greatest: of the images' scores; ``limit``: the one that sets the threshold.
        mean_vote: of the images for the true transformations, in [0, 1]; None where nothing votes.
    """

    score: float
    pixel: float
    false_positive_rate: float | None
    count: int
    source: str
    defect_fraction: float | None
    least: float | None = None
    median: float | None = None
    greatest: float | None = None
    limit: str = ""
    mean_vote: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be a threshold; ValueError."""
        by_hand = self.source == BY_HAND
        if not by_hand:
            check_rate(self.false_positive_rate)
        for name in ("score", "pixel"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value <= 1:  # NaN, too
                raise ValueError(f"its threshold has {name} {value!r}, which is not in [0, 1]")
        if type(self.count) is not int or self.count < (0 if by_hand else 1):
            raise ValueError(f"its threshold is from {self.count!r} images")
        if self.source not in (HELD_OUT, GENERATED, BY_HAND):
            raise ValueError(f"its threshold is from {self.source!r}")
        as_fractions(self.defect_fraction)

    def __str__(self) -> str:
        """In a sentence, with the number of images."""
        if self.false_positive_rate is None:
            return f"{digits(self.score)}, set by hand"
        least = 1 / (self.count + 1)
        sentence = f"{digits(self.score)}, for {self.false_positive_rate:.1%} of normal images "
        sentence += f"flagged, from {self.count} {self.source}"
        if least > self.false_positive_rate:
            sentence += f" (so few that {least:.1%} is the least that can be expected)"
        if self.source == GENERATED:
            sentence += "; of real images any share may be flagged, so use held-out ones if you can"
        return sentence


def upper_quantile(values: Sequence[float] | np.ndarray, false_positive_rate: float) -> float:
    """The smallest of ``values`` that a new, exchangeable one exceeds at most at this rate.

    Of n values the k-th smallest with k = ceil((n + 1) (1 - rate)): whatever their distribution, a
    further value exceeds it with probability 1 - k / (n + 1) at most (split conformal prediction).
    With fewer than 1 / rate - 1 values that is more than all of them; then the largest is taken.

    Raises:
        ValueError: no values, or the rate is not in (0, 1).
    """
    check_rate(false_positive_rate)
    ordered = np.sort(np.asarray(values, dtype=float))
    if len(ordered) == 0:
        raise ValueError("There are no scores to learn a threshold from: give normal images.")
    # Rounding before ceil: in floating point 25 * (1 - 0.44) is a little above 14.
    k = math.ceil(round((len(ordered) + 1) * (1 - false_positive_rate), 9))
    return float(ordered[min(k, len(ordered)) - 1])


def check_rate(rate: float | None) -> None:
    """Raise ValueError unless a false positive rate is a number between 0 and 1."""
    if not isinstance(rate, Real) or isinstance(rate, bool) or not 0 < rate < 1:
        raise ValueError(
            f"The false positive rate is {rate!r}, but it must be between 0 and 1 (0.05 is 5 %)."
        )
