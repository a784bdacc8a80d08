"""Self-checks of notebook 05, defect detection (paper sections 3.2 and 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from htdg.course.check import NOTHING, NotRight, check, expect
from htdg.course.frozen import frozen
from htdg.datasets.samples import texture_set
from htdg.evaluation.pixel_metrics import mean_height
from htdg.thresholds import upper_quantile
from htdg.transformations import Transformation
from htdg.votes import aggregate_votes


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


def _refuse(result: object, mistakes: Mapping[str, object]) -> None:
    """Fail with the message of the first mistake that gives just this result."""
    for message, wrong in mistakes.items():
        expect(not _same(result, wrong), message)


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
    counts = [max(1, int(25 * f)) for f in fractions]  # 25, 7, 2, 1
    expect(
        not np.isnan(result[3]) and result[3] != 0,
        "1 % of 25 patches is less than one patch: average at least one, or nothing is left.",
    )
    expected = aggregate_votes(torch.from_numpy(votes)[:, None, None], fractions)[:, 0].numpy()
    _refuse(result, _wrong_lowest(votes, counts, expected))
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


def _wrong_lowest(votes: np.ndarray, counts: Sequence[int], right: np.ndarray) -> dict[str, object]:
    """The results of typical mistakes with votes (3, 25), so many of which count, by message."""
    rows, together = np.sort(votes, axis=1), np.sort(votes.ravel())
    pooled = np.array([together[: max(1, int(75 * f))].mean() for f in (1.0, 0.3, 0.1, 0.01)])
    apart = (
        "You sort the votes of all transformations together. Each transformation (row) takes the "
        "lowest of its own."
    )
    means = np.sort(votes.mean(0))
    mixed = np.array([means[:count].mean() for count in counts])
    first = (
        "You average over the transformations before you sort. Each transformation (row) has its "
        "own lowest patches: sort each row, and add the means of the rows."
    )
    return {
        "Those are the highest votes; anomalous patches have the lowest.": (
            [rows[:, -count:].mean(1).sum() for count in counts]
        ),
        apart: 3 * pooled,
        f"{apart} Then add their means.": pooled,
        "You average over the transformations; sum over them, as in the formula.": right / 3,
        "You take the first votes of each row, not the lowest: sort each row, axis 1 (axis 0 would "
        "mix the transformations).": ([votes[:, :count].mean(1).sum() for count in counts]),
        first: mixed,
        f"{first} (Multiplying by M does not mend it.)": 3 * mixed,
        "You add the lowest votes up: take their mean for each transformation.": (
            [rows[:, :count].sum() for count in counts]
        ),
        "That is the anomaly score, 1 - s / M: return s itself.": 1 - right / 3,
        "That is one minus the normality: return s itself.": 1 - right,
        "Those are the right numbers in another order: keep the order of the fractions.": (
            np.sort(right)
        ),
        "You take the quantile of each row, one vote: average all votes up to there.": (
            np.quantile(votes, (1.0, 0.3, 0.1, 0.01), axis=1).sum(1)
        ),
        "votes.size counts the votes of all transformations, but P is the number of patches, "
        "votes.shape[1].": [rows[:, : max(1, int(75 * f))].mean(1).sum() for f in (1, 0.3, 0.1, 0)],
        "len(votes) is the number of transformations, but P is the number of patches, "
        "votes.shape[1].": [rows[:, : max(1, int(3 * f))].mean(1).sum() for f in (1, 0.3, 0.1, 0)],
    }


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
        mirrored = [np.flip(np.rot90(image, k), axis) for axis in (0, 1)]
        expect(
            not any(_same(result, mirror) for mirror in mirrored),
            "You mirror the map (flip): turn it, np.rot90.",
        )
        expect(
            k % 2 == 0 or not _same(result, np.rot90(image, k + 2)),
            "You turn by half a turn, but this copy was turned by a quarter: np.rot90 counts "
            "quarter turns, and a negative number goes back.",
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
    _refuse(result, _wrong_shifts(over_copy, shift))
    defined_places = ~np.isnan(result)
    back = np.full((h, h), np.nan)
    back[:, shift:] = over_copy[:, :-shift]
    expect(
        not _same(result, back),
        "You move the map right once more: the copy's content went right, so the map goes left.",
    )
    expect(defined_places.any(), "The whole map is NaN: most of the patches do vote.")
    in_place = np.array_equal(
        np.where(defined_places, result, 0), np.where(defined_places, over_copy, 0)
    )
    expect(
        not in_place,
        "You put NaN where there is no vote, but the others are still where they were in the copy: "
        "move them, too.",
    )
    expect(
        not defined_places.all(),
        f"The last {shift} columns must be NaN: no patch of the copy shows what was there, so "
        "there is nothing to fill them with.",
    )
    expect(
        defined_places.sum() == expected.size - h * shift,
        f"{h * shift} patches saw the reflected border ({shift} columns), but you leave out "
        f"{h * h - defined_places.sum()}. Patch j starts at pixel j, so no half patch comes in.",
    )
    expect(
        _same(result, expected), "The votes are not in their places: column j is j + shift there."
    )
    _check_no_shift(answer, over_copy)
    side = h + 10
    t = Transformation(0, 0, 1, 0, 0)  # what the library does, with its shift of int(0.15 * 18) = 2
    maps, defined = t.undo(torch.from_numpy(over_copy), side)
    theirs = np.where(defined.numpy(), maps.numpy(), np.nan)
    expect(_same(answer(over_copy.copy(), 2), theirs), "It is right for shift 3, not for shift 2.")
    return "the votes are in their places, and the border does not vote"


def _check_no_shift(answer: Callable[[np.ndarray, int], np.ndarray], over_copy: np.ndarray) -> None:
    """A map over a copy that did not move stays as it is; ``-shift`` as an end goes wrong here."""
    minus_zero = (
        "With shift 0 it goes wrong: -0 is 0, so [:, :-shift] is empty and [:, -shift:] is "
        "everything. Count from the left, [:, : h - shift]."
    )
    try:
        still = answer(over_copy.copy(), 0)
    except ValueError as error:
        raise NotRight(minus_zero) from error
    expect(not np.isnan(np.asarray(still, dtype=float)).all(), minus_zero)
    expect(_same(still, over_copy), "With shift 0 the map must stay as it is.")


def _wrong_shifts(over_copy: np.ndarray, shift: int) -> dict[str, object]:
    """The results of typical mistakes, by message."""
    flat = np.roll(over_copy, -shift)
    return {
        "np.roll without an axis moves the flattened map; and what leaves on one side must not "
        "come in again on the other: put NaN there.": flat,
        "You fill the border by repeating the last column: nobody voted there, so put NaN.": (
            np.pad(over_copy[:, shift:], ((0, 0), (0, shift)), mode="edge")
        ),
        "You fill the border with a reflection: nobody voted there, so put NaN.": (
            np.pad(over_copy[:, shift:], ((0, 0), (0, shift)), mode="symmetric")
        ),
    }


@check
def check_overlap(answer: Callable[[np.ndarray, np.ndarray], float]) -> str:
    """The flagged share of every region, averaged over the regions."""
    mask = np.zeros((12, 12), bool)
    mask[1:7, 1:7] = True  # 36 px, a third of it flagged
    mask[9, 9] = mask[10, 10] = True  # 2 px that touch at a corner, one flagged
    mask[9:11, 2:4] = True  # 4 px, three flagged
    flagged = np.zeros((12, 12), bool)
    flagged[1:3, 1:7] = flagged[9, 2:4] = flagged[10, 2] = flagged[9, 9] = True
    flagged[0] = True  # 12 false alarms
    expected = (1 / 3 + 1 / 2 + 3 / 4) / 3
    result = _number(answer(flagged.copy(), mask.copy()))
    _refuse(result, _wrong_overlaps(flagged, mask))
    expect(
        _same(result, expected), f"For the test mask it must be {expected:.4f}, not {result:.4f}."
    )
    expect(_same(_number(answer(mask, mask)), 1), "If all regions are flagged it must be 1.")
    mask[1:7, 1:7] = False
    expect(
        _same(_number(answer(flagged, mask)), 0.625),
        "It is right for three regions, but not for two: take their number from ndimage.label.",
    )
    return "every region counts alike, large or small"


def _wrong_overlaps(flagged: np.ndarray, mask: np.ndarray) -> dict[str, object]:
    """The results of typical mistakes with three regions, by message."""
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    regions = [parts == r for r in range(1, count + 1)]
    shares = [flagged[region].mean() for region in regions]
    hits = np.array([(flagged & region).sum() for region in regions])
    background = flagged[parts == 0].mean()
    alarms, alarm_count = ndimage.label(flagged, np.ones((3, 3)))
    starts = "You count label 0 as a region, but it is the background: regions start at 1."
    four = (
        "You have 4 regions: pixels that touch at a corner belong together (8-connected). Give "
        "ndimage.label the structure np.ones((3, 3))."
    )
    pieces, four_count = ndimage.label(mask)
    apart = [flagged[pieces == r].mean() for r in range(1, four_count + 1)]
    return {
        "That is the flagged share of all defect pixels, in which the large region outweighs the "
        "others. Take the share of each region first, then the mean over regions.": (
            flagged[mask].mean()
        ),
        four: np.mean(apart),
        f"{four} And divide by the number of regions.": np.sum(apart),
        "You sum over the regions: divide by their number.": np.sum(shares),
        starts: np.mean([background, *shares]),
        f"{starts} So the last one has the number count, and range(1, count + 1) is meant.": (
            np.mean([background, *shares[:-1]])
        ),
        "range(1, count) leaves out the last region: range(1, count + 1).": np.mean(shares[:-1]),
        f"{starts} And it has no part in the sum either.": np.sum([background, *shares]) / count,
        "You divide by one more than the number of regions; is the background counted?": (
            np.sum(shares) / (count + 1)
        ),
        "Flagged pixels outside of a region do not lower its overlap: they count as false "
        "positives elsewhere. (Divide by the pixels of the region, not of the union.)": (
            np.mean([(flagged & r).sum() / (flagged | r).sum() for r in regions])
        ),
        "That is the intersection over union of the whole masks: take the flagged share of each "
        "region, then the mean over regions.": (flagged & mask).sum() / (flagged | mask).sum(),
        "You count which regions are touched; asked is which share of each is flagged.": (
            np.mean(hits > 0)
        ),
        "That is the share that is not flagged: 1 minus it.": 1 - np.mean(shares),
        "That is the share of the flagged pixels that lie on a defect (the precision): divide by "
        "the pixels of each region instead.": mask[flagged].mean(),
        "That is the share of pixels on which flagged and mask agree (the accuracy). Normal pixels "
        "have no part in the overlap.": (flagged == mask).mean(),
        "You label the flagged pixels: the regions are those of the mask.": (
            np.mean([mask[alarms == r].mean() for r in range(1, alarm_count + 1)])
        ),
        "You count the flagged pixels of each region: divide by the region's own size.": (
            np.mean(hits)
        ),
        "You divide by the pixels of the whole image: divide by those of the region.": (
            np.mean(hits) / mask.size
        ),
        "You divide by the pixels of all regions: divide by those of the region.": (
            np.mean(hits) / mask.sum()
        ),
        "You look at the first region only: take the mean over all regions.": shares[0],
        "You take the median of the regions: take their mean.": np.median(shares),
        "You take the highest share: take the mean over all regions.": np.max(shares),
        "You count the regions of which at least half is flagged: take the share itself.": (
            np.mean([share >= 0.5 for share in shares])
        ),
        "You compare the result of ndimage.label with a number, but it is a pair: regions, count = "
        "ndimage.label(...).": np.nan,
    }


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
        not any(_same(result, value) for value in (too_far, too_far / 0.3, too_far / 0.5)),
        "You take the whole piece from 0.2 to 0.5: cut it at 0.3.",
    )
    steps = [(0.02 + 0.05 + 0.06) / 0.3, (0.05 + 0.06 + 0.07) / 0.3]
    expect(
        not any(_same(result, value) for value in steps),
        "You add up rectangles: between two points the curve is a straight line (trapezoids).",
    )
    _refuse(result, _wrong_aupros(fpr, pro, expected))
    expect(
        _same(result, expected) or abs(result - expected) > 2e-3,
        f"For the test curve it must be {expected:.4f}, not {result:.4f}: a mean of many heights "
        "is only nearly the area. Add up the trapezoids between the points.",
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


def _wrong_aupros(fpr: np.ndarray, pro: np.ndarray, right: float) -> dict[str, object]:
    """The results of further mistakes with the curve of the test, by message."""

    def with_end(height: float) -> float:
        """The result if the curve has this height at 0.3."""
        return (0.035 + 0.055 + 0.1 * (0.6 + height) / 2) / 0.3

    return {
        "At 0.3 you take the height of the point before: the curve goes on rising to the next "
        "point, so interpolate, np.interp(0.3, fpr, pro).": with_end(0.6),
        "At 0.3 you take the height of the next point: interpolate, np.interp(0.3, fpr, pro).": (
            with_end(0.9)
        ),
        "At 0.3 you take the height 1, which is the curve's end: interpolate, np.interp(0.3, fpr, "
        "pro).": with_end(1.0),
        "np.interp takes the place first, then the points' places and heights: np.interp(0.3, fpr, "
        "pro).": with_end(float(np.interp(0.3, pro, fpr))),
        "That is the height of the curve at 0.3: the area below it up to there is meant.": (
            float(np.interp(0.3, fpr, pro))
        ),
        "That is one minus the AUPRO.": 1 - right,
        "That is twice the AUPRO: of a trapezoid, take the mean of the two heights.": 2 * right,
        "You take chance, 0.15, off and rescale: the AUPRO itself is meant.": (
            (right - 0.15) / 0.85
        ),
    }


@check
def check_quantile(answer: Callable[[np.ndarray, float], float]) -> str:
    """The threshold that another normal score exceeds at most at a certain rate."""
    values = (7 * np.arange(20.0) % 20 + 1) ** 2  # 1, 4, 9 ... 400 in a mixed order
    try:
        result = _number(answer(values.copy(), 0.1))
    except (IndexError, TypeError) as error:
        expect(
            "integer" not in str(error),
            "An index must be a whole number, but np.ceil returns a float: int(np.ceil(...)).",
        )
        raise
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
    _refuse(
        result,
        {
            "That is k itself: return the k-th smallest of the scores.": k,
            "That is a place among the scores (argsort): return np.sort(values)[k - 1].": (
                np.argsort(values)[k - 1]
            ),
            "That is the mean and two standard deviations, which promises nothing about scores "
            "that are not normally distributed: take the k-th smallest.": (
                values.mean() + 2 * values.std()
            ),
            "That is the median: half of the normal scores lie above it.": np.median(values),
            "np.percentile takes per cent, 0 to 100, and interpolates: take the k-th smallest "
            "score.": np.percentile(values, 0.9),
        },
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
    eleven = (1 + 7 * np.arange(11.0) % 11) ** 2
    by_method = [np.quantile(eleven, 0.9, method=m) for m in ("higher", "lower", "nearest")]
    expect(
        not any(_same(_number(answer(eleven.copy(), 0.1)), value) for value in by_method),
        "np.quantile goes by n - 1, whatever its method; the promise needs k = ceil((n + 1) (1 - "
        "rate)).",
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


@dataclass(frozen=True)
class Outcome:
    """What the frozen model of a texture does, with a threshold from 40 normal crops at 10 %.

    Attributes:
        mean_vote: of the normal test images, in [0, 1].
        auroc: of the images, in [0, 1].
        false_alarms: share of the normal test images that are flagged.
        detected: share of the defective ones that are flagged.
    """

    mean_vote: float
    auroc: float
    false_alarms: float
    detected: float


@lru_cache
def outcome(texture: str) -> Outcome:
    """Measure what the frozen model of a texture does; of the votes the lowest 2 % count."""
    detector, sample = frozen(texture), texture_set(texture)
    labels = np.array(sample.labels)
    predictions = list(detector.predictions(sample.test, [0.02, None]))
    lowest, every = np.array([prediction.scores for prediction in predictions]).T
    held_out = texture_set(texture, train=1, good=60, per_defect=0).test[20:]
    flagged = lowest > detector.calibrate(held_out, 0.1, 0.02).score
    return Outcome(
        1 - float(every[labels == 0].mean()),
        float(roc_auc_score(labels, lowest)),
        float(flagged[labels == 0].mean()),
        float(flagged[labels == 1].mean()),
    )


#: What a prediction has, and what may be predicted of it.
WORDS = ("rises", "stays", "falls")
REASONS = ("a", "b", "c", "d")


@check
def check_prediction(answer: Callable[[], Mapping[str, str]]) -> str:
    """A prediction of what changes from the wall to gravel, held against what is measured."""
    prediction = answer()
    expect(prediction is not None, NOTHING)
    expect(isinstance(prediction, Mapping), "Return a dictionary with your five entries.")
    for entry in ("mean vote", "AUROC", "false alarm rate", "detected", "why"):
        allowed = REASONS if entry == "why" else WORDS
        expect(
            prediction.get(entry) in allowed,
            f"The entry {entry!r} must be one of {', '.join(map(repr, allowed))}, but yours is "
            f"{prediction.get(entry)!r}.",
        )
    wall, gravel = outcome("brick"), outcome("gravel")
    expect(
        prediction["mean vote"] == "falls",
        f"The mean vote of normal images falls, from {wall.mean_vote:.2f} on the wall to "
        f"{gravel.mean_vote:.2f}: a patch that looks alike from all sides cannot do better than a "
        "guess among four, 0.25. Why should gravel know more about its rotation?",
    )
    expect(
        prediction["why"] == "b",
        {
            "a": "Small stones leave much to see in 11 pixels. What does a patch of gravel show of "
            "its rotation, though?",
            "c": "The wall's model had as many iterations, and no training can find in a patch "
            "what is not there. What does a patch of gravel show of its rotation?",
            "d": "The same functions draw the defects on both, and the mean vote of NORMAL images "
            "has nothing to do with them. What does a patch of gravel show of its rotation?",
        }.get(prediction["why"], ""),
    )
    expect(
        prediction["AUROC"] == "falls",
        f"The AUROC falls, from {wall.auroc:.2f} to {gravel.auroc:.2f}: where normal patches only "
        "guess, a defect can hardly lower their votes.",
    )
    expect(
        prediction["false alarm rate"] == "stays",
        f"It is {wall.false_alarms:.0%} on the wall and {gravel.false_alarms:.0%} on gravel, and a "
        "few images more or fewer are chance: the threshold comes from normal gravel, and its "
        "promise holds for ANY score, even one that says nothing.",
    )
    expect(
        prediction["detected"] == "falls",
        f"With the false alarms held at about 10 %, the share of defects detected falls, from "
        f"{wall.detected:.0%} to {gravel.detected:.0%}: this is where a bad score shows.",
    )
    return (
        f"mean vote {wall.mean_vote:.2f} and {gravel.mean_vote:.2f}, AUROC {wall.auroc:.2f} and "
        f"{gravel.auroc:.2f}, false alarms {wall.false_alarms:.0%} and {gravel.false_alarms:.0%}, "
        f"detected {wall.detected:.0%} and {gravel.detected:.0%} (wall and gravel)"
    )
