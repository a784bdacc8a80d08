"""Self-checks of notebook 05, defect detection (paper sections 3.2 and 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from htdg.course.check import check, expect
from htdg.evaluation.pixel_metrics import mean_height
from htdg.thresholds import upper_quantile
from htdg.transformations import Transformation
from htdg.votes import aggregate_votes

NOTHING = "The function returns nothing: end it with return."


def _same(result: object, expected: object) -> bool:
    """Whether both have one shape and are equal but for rounding; NaN equals NaN."""
    a, b = np.asarray(result, dtype=float), np.asarray(expected, dtype=float)
    return a.shape == b.shape and np.allclose(a, b, atol=1e-6, equal_nan=True)


def _number(result: object) -> float:
    """The result as a number; it must be a single one."""
    expect(result is not None, NOTHING)
    values = np.asarray(result, dtype=float)
    expect(values.size == 1, f"Return one number, not an array of shape {values.shape}.")
    return float(values.reshape(()))


@check
def check_lowest(answer: Callable[[np.ndarray, Sequence[float]], Any]) -> str:
    """Means of the lowest votes of several fractions from votes (M, P)."""
    votes = np.random.default_rng(5).uniform(0.1, 1, (3, 25))
    votes[1] *= 0.3  # one transformation is much lower, so pooling shows
    fractions = [1.0, 0.3, 0.1, 0.01]
    result = answer(votes.copy(), list(fractions))
    expect(result is not None, NOTHING)
    result = np.asarray(result, dtype=float)
    expect(
        result.shape == (4,),
        f"Give one number for each of the 4 fractions, not an array of shape {result.shape}.",
    )
    rows = np.sort(votes, axis=1)
    counts = [max(1, int(25 * f)) for f in fractions]  # 25, 7, 2, 1
    expect(
        not np.isnan(result[3]) and result[3] != 0,
        "1 % of 25 patches is less than one patch: average at least one, or nothing is left.",
    )
    highest = [rows[:, -count:].mean(1).sum() for count in counts]
    expect(not _same(result, highest), "Those are the highest votes; odd patches have the lowest.")
    all_votes = np.sort(votes.ravel())
    pooled = [3 * all_votes[: max(1, int(75 * f))].mean() for f in fractions]
    expect(
        not _same(result, pooled) and not _same(result, np.divide(pooled, 3)),
        "You sort the votes of all transformations together. Each transformation (row) takes the "
        "lowest of its own.",
    )
    expected = aggregate_votes(torch.from_numpy(votes)[:, None, None], fractions)[:, 0].numpy()
    expect(
        not _same(result, expected / 3),
        "You average over the transformations; sum over them, as in the formula.",
    )
    first = [votes[:, :count].mean(1).sum() for count in counts]
    expect(not _same(result, first), "You take the first votes, not the lowest: sort each row.")
    expect(
        _same(result[0], expected[0]),
        f"Of all votes it must be {expected[0]:.4f}, but you get {result[0]:.4f}.",
    )
    expect(
        _same(result[1:3], expected[1:3]),
        "The counts are not right: 30 % of 25 patches are 7 (int cuts off), and 10 % are 2.",
    )
    expect(
        _same(result, expected),
        f"With one patch it must be {expected[3]:.4f}, not {result[3]:.4f}.",
    )
    return "one sort serves all fractions, and at least one patch counts"


@check
def check_turn(answer: Callable[[np.ndarray, int], np.ndarray]) -> str:
    """A map over a copy that was turned by k quarter turns, counter-clockwise, turned back."""
    image = np.arange(16.0).reshape(4, 4)
    for k in (1, 2, 3, 0):
        result = answer(np.rot90(image, k).copy(), k)
        expect(result is not None, NOTHING)
        result = np.asarray(result)
        expect(result.shape == (4, 4), f"The map must stay 4 x 4, but yours is {result.shape}.")
        expect(
            k % 2 == 0 or not _same(result, np.rot90(image, 2 * k)),
            "You turn on in the same direction: undoing turns back, so mind the sign.",
        )
        expect(
            k == 0 or not _same(result, np.rot90(image, k)),
            f"With k = {k} the map comes back as it went in: turn it.",
        )
        transposed = _same(result, np.rot90(image, k).T)
        expect(
            not transposed,
            "You transpose: that mirrors the map, and a mirror image is no turned one.",
        )
        expect(
            k < 2 or not _same(result, np.rot90(np.rot90(image, k), -1)),
            f"You always turn by one quarter, but this copy was turned by k = {k}.",
        )
        expect(_same(result, image), f"The map of the copy with k = {k} is not back in its place.")
    return "every turned copy comes back to the image"


@check
def check_shift(answer: Callable[[np.ndarray, int], np.ndarray]) -> str:
    """A map over a copy whose content moved right by some pixels, moved back; NaN without votes."""
    h, shift = 8, 3
    over_copy = np.random.default_rng(2).uniform(0.1, 1, (h, h))
    result = answer(over_copy.copy(), shift)
    expect(result is not None, NOTHING)
    result = np.asarray(result, dtype=float)
    expect(result.shape == (h, h), f"The map must stay {h} x {h}, but yours is {result.shape}.")
    expected = np.full((h, h), np.nan)
    expected[:, : h - shift] = over_copy[:, shift:]
    expect(
        not _same(result, np.roll(over_copy, -shift, 1)),
        "What leaves on the left comes in again on the right (np.roll). Those are the votes of "
        "patches that saw the reflected border: put NaN there.",
    )
    expect(
        not _same(result, np.nan_to_num(expected)),
        "Zeros are votes, too, and very low ones: a border without votes gets NaN.",
    )
    rows = np.full((h, h), np.nan)
    rows[: h - shift] = over_copy[shift:]
    expect(not _same(result, rows), "You move rows (down or up), but the shift is along a row.")
    defined_places = ~np.isnan(result)
    back = np.full((h, h), np.nan)
    back[:, shift:] = over_copy[:, :-shift]
    expect(
        not _same(result, back),
        "You move the map right once more: the copy's content went right, so the map goes left.",
    )
    expect(defined_places.any(), "The whole map is NaN: most of the patches do vote.")
    expect(
        defined_places.sum() == expected.size - h * shift,
        f"{h * shift} patches saw the reflected border ({shift} columns), but you leave out "
        f"{h * h - defined_places.sum()}. Patch j starts at pixel j, so no half patch comes in.",
    )
    expect(
        _same(result, expected), "The votes are not in their places: column j is j + shift there."
    )
    expect(
        _same(answer(over_copy.copy(), 0), over_copy), "With shift 0 the map must stay as it is."
    )
    side = h + 10
    t = Transformation(0, 0, 1, 0, 0)  # what the library does, with its shift of int(0.15 * 18) = 2
    maps, defined = t.undo(torch.from_numpy(over_copy), side)
    theirs = np.where(defined.numpy(), maps.numpy(), np.nan)
    expect(_same(answer(over_copy.copy(), 2), theirs), "It is right for shift 3, not for shift 2.")
    return "the votes are in their places, and the border does not vote"


@check
def check_overlap(answer: Callable[[np.ndarray, np.ndarray], float]) -> str:
    """The flagged share of every region, averaged over the regions."""
    mask = np.zeros((12, 12), bool)
    mask[1:7, 1:7] = True  # 36 px, half of it flagged
    mask[9, 9] = mask[10, 10] = True  # 2 px that touch at a corner, one flagged
    mask[9:11, 2:4] = True  # 4 px, none flagged
    flagged = np.zeros((12, 12), bool)
    flagged[1:4, 1:7] = flagged[9, 9] = True
    flagged[0] = True  # 12 false alarms
    expected = (0.5 + 0.5 + 0) / 3
    result = _number(answer(flagged.copy(), mask.copy()))
    expect(
        not _same(result, 19 / 42),
        "That is the flagged share of all defect pixels, in which the large region outweighs the "
        "others. Take the share of each region first, then the mean over regions.",
    )
    expect(
        not _same(result, (0.5 + 1 + 0 + 0) / 4),
        "You have 4 regions: pixels that touch at a corner belong together (8-connected). Give "
        "ndimage.label the structure np.ones((3, 3)).",
    )
    expect(not _same(result, 1.0), "You sum over the regions: divide by their number.")
    parts, _count = ndimage.label(mask, np.ones((3, 3)))
    with_background = np.mean([flagged[parts == r].mean() for r in range(4)])
    expect(
        not _same(result, with_background),
        "You count label 0 as a region, but it is the background: regions start at 1.",
    )
    union = [(flagged & (parts == r)).sum() / (flagged | (parts == r)).sum() for r in (1, 2, 3)]
    expect(
        not _same(result, np.mean(union)),
        "Flagged pixels outside of a region do not lower its overlap: they count as false "
        "positives elsewhere.",
    )
    touched = 2 / 3
    expect(
        not _same(result, touched),
        "You count which regions are touched; asked is which share of each is flagged.",
    )
    expect(
        _same(result, expected), f"For the test mask it must be {expected:.4f}, not {result:.4f}."
    )
    expect(_same(_number(answer(mask, mask)), 1), "If all regions are flagged it must be 1.")
    return "every region counts alike, large or small"


@check
def check_aupro(answer: Callable[[np.ndarray, np.ndarray], float]) -> str:
    """The area under a curve up to a false positive rate of 0.3, divided by 0.3."""
    fpr = np.array([0.0, 0.1, 0.2, 0.5, 1.0])
    pro = np.array([0.2, 0.5, 0.6, 0.9, 1.0])
    expected = mean_height(fpr * 10, pro, 3.0)  # of whole numbers of pixels
    area = float(np.sum(np.diff(fpr) * (pro[1:] + pro[:-1]) / 2))
    result = _number(answer(fpr.copy(), pro.copy()))
    expect(
        not _same(result, 0.3 * expected),
        "That is the area, at most 0.3: divide it by 0.3, so that a perfect map gets 1.",
    )
    expect(not _same(result, area), "That is the area up to a rate of 1: stop at 0.3.")
    expect(not _same(result, area / 0.3), "You stop nowhere: cut the curve at 0.3 first.")
    short = (0.035 + 0.055) / 0.3
    expect(
        not _same(result, short) and not _same(result, short * 0.3),
        "You stop at the last point before 0.3. The line goes on to the next point: find its "
        "height at 0.3 (np.interp) and add that piece.",
    )
    expect(
        not _same(result, (0.035 + 0.055) / 0.2),
        "You stop at the last point before 0.3, here 0.2, and divide by that: go on to 0.3.",
    )
    too_far = 0.035 + 0.055 + 0.3 * 0.75
    expect(
        not _same(result, too_far / 0.3) and not _same(result, too_far),
        "You take the whole piece from 0.2 to 0.5: cut it at 0.3.",
    )
    steps = [(0.02 + 0.05 + 0.06) / 0.3, (0.05 + 0.06 + 0.07) / 0.3]
    expect(
        not any(_same(result, value) for value in steps),
        "You add up rectangles: between two points the curve is a straight line (trapezoids).",
    )
    expect(
        _same(result, expected), f"For the test curve it must be {expected:.4f}, not {result:.4f}."
    )
    line = np.array([0.0, 1.0])
    result = _number(answer(line, line))
    expect(
        _same(result, 0.15), f"A map that is constant must get 0.15, but you give it {result:.4f}."
    )
    result = _number(answer(np.array([0.0, 0, 1]), np.array([0.0, 1, 1])))
    expect(_same(result, 1), f"A perfect map must get 1, but you give it {result:.4f}.")
    result = _number(answer(np.array([0.0, 1, 1]), np.array([0.0, 0, 1])))
    expect(_same(result, 0), f"An inverted map must get 0, but you give it {result:.4f}.")
    return "perfect 1, constant 0.15, inverted 0"


@check
def check_quantile(answer: Callable[[np.ndarray, float], float]) -> str:
    """The threshold that another normal score exceeds at most at a certain rate."""
    values = (7 * np.arange(20.0) % 20 + 1) ** 2  # 1, 4, 9 ... 400 in a mixed order
    result = _number(answer(values.copy(), 0.1))
    n, k = 20, 19
    expect(
        not _same(result, values[k - 1]) and not _same(result, values[min(k, n - 1)]),
        "Sort the scores first.",
    )
    expect(
        not _same(result, 400),
        "That is the 20th smallest, but k = ceil(21 * 0.9) = 19. Python counts from 0: the k-th "
        "smallest is at index k - 1.",
    )
    expect(
        not _same(result, 18**2),
        "That is the 18th smallest. k = ceil((n + 1) (1 - rate)) = ceil(18.9) = 19: with n + 1, "
        "not n, and rounded up.",
    )
    expect(
        not any(_same(result, i * i) for i in (2, 3, 4)),
        "That is one of the lowest scores: 1 - rate of the normal scores must lie below it.",
    )
    blended = [float(np.quantile(values, 0.9)), float(np.quantile(values, 1 - 0.1 / 2))]
    expect(
        not any(_same(result, value) for value in blended),
        "That lies between two of the scores (np.quantile interpolates): take one of them.",
    )
    expect(_same(result, k * k), f"Of 1, 4, 9 ... 400 and rate 0.1 it must be 361, not {result:g}.")
    few = values[:5]
    try:
        result = _number(answer(few.copy(), 0.1))
    except IndexError:
        result = np.nan
    expect(
        _same(result, few.max()),
        "With 5 scores k would be ceil(6 * 0.9) = 6, more than there are: take the largest then.",
    )
    for n in range(9, 60):
        for rate in (0.05, 0.1, 0.2, 0.3):
            values = np.arange(1.0, n + 1)
            result, expected = _number(answer(values, rate)), upper_quantile(values, rate)
            expect(
                _same(result, expected),
                f"For {n} scores and rate {rate} it must be the {expected:g}th smallest, not the "
                f"{result:g}th.",
            )
    result = _number(answer(np.arange(1.0, 25), 0.44))
    expect(
        _same(result, 14),
        "For 24 scores and rate 0.44 it must be the 14th smallest: 25 * (1 - 0.44) is 14, but "
        f"Python says {25 * (1 - 0.44)}. Round to 9 digits before rounding up.",
    )
    return "at most the wanted share of further normal images lies above"
