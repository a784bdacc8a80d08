"""Self-check of notebook 07: two predictions about photographs, held against what was measured."""

from __future__ import annotations

from htdg.course.check import check, expect
from htdg.thresholds import Threshold

#: A mean vote up to this many times 1 / M is no better than a guess, as in ``htdg calibrate``.
CHANCE = 1.1


@check
def check_predictions(
    can_tell: bool | None, can_promise: bool | None, threshold: Threshold, transformations: int
) -> str:
    """Both predictions; each that is wrong is named, with what was measured and the reason.

    Args:
        can_tell: whether the mean vote of the held-out images is above ``CHANCE`` / M.
        can_promise: whether so many held-out images can promise the threshold's rate.
        threshold: as ``HTDGDetector.calibrate`` made it of the held-out images.
        transformations: M.
    """
    if can_tell is None or can_promise is None:
        raise NotImplementedError
    for name, value in (("can_tell", can_tell), ("can_promise", can_promise)):
        expect(
            isinstance(value, bool), f"{name} is {value!r}: write True or False, without quotes."
        )
    rotations, tells = _about_rotations(threshold, transformations)
    promise, keeps = _about_promise(threshold)
    wrong = []
    if can_tell != tells:
        wrong.append(f"can_tell should be {tells}: {rotations}.")
    if can_promise != keeps:
        wrong.append(f"can_promise should be {keeps}: {promise}.")
    expect(not wrong, " ".join(wrong))
    return f"{rotations}; and {promise}"


def _about_rotations(threshold: Threshold, transformations: int) -> tuple[str, bool]:
    """What the mean vote says, and whether rotations can be told apart."""
    assert threshold.mean_vote is not None  # since these detectors vote
    guess = 1 / transformations
    tells = threshold.mean_vote > CHANCE * guess
    measured = f"the mean vote of the {threshold.count} held-out images is "
    measured += f"{threshold.mean_vote:.2f}, "
    if tells:
        return (
            f"{measured}clearly above the {guess:.2f} of a guess, so that rotations can be told "
            "apart: something in these images has a direction, and the held-out images "
            "share it with the training image"
        ), True
    return (
        f"{measured}and a guess has {guess:.2f}, so that rotations cannot be told apart: either "
        "these images look the same in all directions, or the training image is too unlike the "
        "held-out ones"
    ), False


def _about_promise(threshold: Threshold) -> tuple[str, bool]:
    """What so many held-out images can promise, and whether it is the rate that was asked for."""
    count, rate = threshold.count, threshold.false_positive_rate
    assert rate is not None  # since the threshold comes from held-out images
    least = 1 / (count + 1)
    if least <= rate:
        return (
            f"{count} held-out images can promise {rate:.0%}, since 1 / ({count} + 1) = "
            f"{least:.1%} is no more, as long as new images are exchangeable with them"
        ), True
    return (
        f"{count} held-out images can promise no less than 1 / ({count} + 1) = {least:.1%}; "
        f"{rate:.0%} take {round(1 / rate) - 1} or more"
    ), False
