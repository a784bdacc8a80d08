"""Self-checks of notebook 09, is training worth it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from htdg.course.check import NOTHING, check, expect
from htdg.course.checks_06 import FEW_REPEATS, expect_an_interval, expect_stratified
from htdg.course.draw_09 import bootstrap_differences, paired_interval, shares_right
from htdg.nearest import nearest_distances
from htdg.patches import PixelPatches

#: What the product of matrices in ``torch.cdist`` makes of a distance of 0, in single precision.
ROUNDING = 3e-3


def _same(result: object, expected: object, atol: float = 1e-5) -> bool:
    """Whether both have one shape and are equal but for rounding."""
    a, b = np.asarray(result, dtype=float), np.asarray(expected, dtype=float)
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=atol)


def _numbers(result: object, count: int) -> np.ndarray:
    """The result as an array (count,); it must hold so many numbers."""
    expect(result is not None, NOTHING)
    values = np.asarray(result, dtype=float)
    expect(values.size == count, f"Return {count} numbers, not an array of shape {values.shape}.")
    return values.reshape(count)


@check
def check_nearest_patch(answer: Callable[[torch.Tensor, torch.Tensor, int], Any]) -> str:
    """The distance of each patch (side x side) of an image to the nearest of a normal image."""
    source = torch.Generator().manual_seed(3)
    image, normal = torch.rand(2, 3, 12, 12, generator=source) * 2 - 1
    normal = normal * 0.6
    normal[:, 4:9, 4:9] = image[:, 1:6, 1:6]  # one patch is there, elsewhere
    side, h = 4, 9
    result = answer(image.clone(), normal.clone(), side)
    expect(result is not None, NOTHING)
    result = torch.as_tensor(result).detach().double()
    expect(
        result.shape != (h * h,),
        "The distances are in one row: make a map of them, one row for each row of patches.",
    )
    expect(
        result.shape != (12, 12),
        "The map has one entry for each patch, not for each pixel: 12 - 4 + 1 = 9 in a row.",
    )
    expect(
        result.shape == (h, h),
        f"12 pixels have 9 patches of 4 in a row, so the map is (9, 9), not {tuple(result.shape)}.",
    )
    starts = torch.arange(h)
    patches, bank = (PixelPatches(side)(x[None], starts)[0].double() for x in (image, normal))
    table = torch.cdist(patches, bank)  # (h * h, h * h) lengths of differences
    numbers = patches.shape[1]  # 48
    expected = nearest_distances(patches, bank).view(h, h)

    def forms(lengths: torch.Tensor) -> list[torch.Tensor]:
        """Lengths of differences, in all the ways one may divide and take roots of them."""
        as_map = lengths.view(h, h)
        return [as_map / math.sqrt(numbers), as_map, as_map.square() / numbers, as_map.square()]

    def same(values: torch.Tensor) -> bool:
        return _same(result, values, ROUNDING)

    def is_any(lengths: torch.Tensor) -> bool:
        return any(same(values) for values in forms(lengths))

    expect(
        not same(expected.T),
        "The map is transposed: its first axis must be the rows of the image, its second the "
        "columns.",
    )
    expect(
        not is_any(table.amax(1)),
        "That is the farthest patch of the normal image: take the nearest.",
    )
    expect(
        not is_any(table.mean(1)),
        "You average over all patches of the normal image: a normal patch is near to one, not all.",
    )
    expect(
        not is_any(table.amin(0)),
        "You go the other way round: for each patch of the normal image the nearest in the image. "
        "A defect is a patch of the image that has no like in the normal one.",
    )
    expect(
        not is_any(table.diagonal()),
        "You compare each patch with the one in the same place: search in all places.",
    )
    _, length, square, sum_of_squares = forms(table.amin(1))
    expect(
        not same(length),
        f"That is the length of the difference: divide by the root of the {numbers} numbers of a "
        "patch, so that patches of all sizes can be compared.",
    )
    expect(not same(square), "That is the mean square: take the root of it.")
    expect(
        not same(sum_of_squares),
        "That is the sum of the squares: take their mean, and the root of it.",
    )
    expect(
        not same(length / side),
        f"You divide by the root of {side * side} pixels, but a patch has three channels: "
        f"{numbers} numbers.",
    )
    expect(
        not same(length / numbers),
        f"You divide the length by {numbers}: the mean belongs inside the root.",
    )
    expect(
        not same(table.argmin(1).view(h, h).double()),
        "Those are the numbers of the nearest patches (argmin): return their distances (min).",
    )
    greys = [x.view(len(x), 3, -1).mean(1) for x in (patches, bank)]
    reds = [x.view(len(x), 3, -1)[:, 0] for x in (patches, bank)]
    expect(
        not any(
            is_any(torch.cdist(one, two).amin(1) * f)
            for one, two in (greys, reds)
            for f in (1, 3**0.5)
        ),
        "You compare one channel or the mean of the channels: a patch has all three.",
    )
    angles = 1 - F.normalize(patches) @ F.normalize(bank).T
    expect(
        not same(angles.amin(1).view(h, h)),
        "Those are angles (cosine distances): take the root mean squared difference.",
    )
    absolute = torch.cdist(patches, bank, p=1).amin(1).view(h, h)
    expect(
        not same(absolute) and not same(absolute / numbers),
        "Square the differences; you take their absolute values.",
    )
    means = F.avg_pool2d(torch.stack([image, normal]).mean(1, keepdim=True), side, 1)
    gaps = (means[0].flatten()[:, None] - means[1].flatten()).abs().amin(1).view(h, h)
    expect(not same(gaps), "You compare the means of the patches: compare all their numbers.")
    expect(
        same(expected),
        f"The patch in the upper left must have {float(expected[0, 0]):.4f}, not "
        f"{float(result[0, 0]):.4f}.",
    )
    return "the patch that the normal image has elsewhere is at distance 0"


@check
def check_shares(answer: Callable[[np.ndarray, np.ndarray], Any]) -> str:
    """For each image the share of the images of the other kind that it is in right order with."""
    labels = np.array([0, 1, 0, 1, 0, 1, 1, 0, 0])
    scores = np.array([0.2, 0.5, 0.6, 0.9, 0.1, 0.15, 0.6, 0.3, 0.4])
    result = _numbers(answer(labels.copy(), scores.copy()), len(labels))
    good, odd = scores[labels == 0], scores[labels == 1]
    expected = shares_right(labels, scores)
    strict, loose = (
        np.where(labels == 1, *(_shares_above(op, scores, good, odd)))
        for op in (np.greater, np.greater_equal)
    )
    flipped = np.where(labels == 1, expected, 1 - expected)
    kinds = list(zip(labels, scores, strict=True))
    expect(
        not _same(result, 1 - expected),
        "Those are the shares in the wrong order: anomalous images should score higher.",
    )
    expect(
        not _same(result, flipped),
        "Of a normal image count the anomalous images that score higher, not lower.",
    )
    expect(
        not _same(result, strict) and not _same(result, loose),
        "A tie counts one half: an anomalous image with the score of a normal one is neither in "
        "right nor in wrong order with it.",
    )
    alike = np.where(
        labels == 1,
        [((scores[labels == k] < x) + 0.5 * (scores[labels == k] == x)).mean() for k, x in kinds],
        [((scores[labels == k] > x) + 0.5 * (scores[labels == k] == x)).mean() for k, x in kinds],
    )
    expect(
        not _same(result, alike),
        "You compare each image with those of its own kind: compare it with those of the other.",
    )
    everyone = (scores[:, None] > scores).mean(1)
    ranks = stats.rankdata(scores)
    expect(
        not any(_same(result, v) for v in (everyone, ranks, ranks / len(ranks), ranks - 1)),
        "You rank among all images: compare each with the images of the other kind alone.",
    )
    counts = expected * np.where(labels == 1, len(good), len(odd))
    expect(not _same(result, counts), "Those are counts: divide by the images of the other kind.")
    expect(
        not _same(result, counts / len(labels)),
        "You divide by the number of all images: divide by that of the other kind.",
    )
    for i, (value, right) in enumerate(zip(result, expected, strict=True)):
        kind = "anomalous" if labels[i] else "normal"
        expect(
            _same(value, right),
            f"Image {i}, which is {kind}, is in right order with {right:.2f} of the others, not "
            f"{value:.2f}.",
        )
    return "the mean over the anomalous images is the AUROC, and so is that over the normal ones"


def _shares_above(
    above: Callable[..., Any], scores: np.ndarray, good: np.ndarray, odd: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Shares of each score as an anomalous image's and as a normal one's; ``above`` decides."""
    return above(scores[:, None], good).mean(1), above(odd, scores[:, None]).mean(1)


@check
def check_interval(answer: Callable[[np.ndarray, np.ndarray], Any]) -> str:
    """Mean of the paired differences over draws, and its 95 % interval by Student's t."""
    one = np.array([0.80, 0.71, 0.85, 0.76, 0.69])
    other = np.array([0.78, 0.66, 0.84, 0.70, 0.68])
    n, gap = 5, one - other
    mean, low, high = paired_interval(one, other)
    result = _numbers(answer(one.copy(), other.copy()), 3)
    expect(
        not _same(result, (low, mean, high)) and not _same(result, (low, high, mean)),
        "The three numbers are in another order: the mean first, then the lower and the upper end.",
    )
    expect(
        not _same(result, (mean, -(mean - low), mean - low)),
        "The ends lie around 0: add the mean difference to both.",
    )
    expect(
        not _same(result[0], -mean),
        "The sign is wrong: one minus other, so that it is above 0 where one is better.",
    )
    expect(not _same(result[0], np.median(gap)), "That is the median: take the mean.")
    expect(
        _same(result[0], mean),
        f"The first number must be the mean difference, {mean:.4f}, not {result[0]:.4f}.",
    )
    expect(result[1] <= result[2], "The lower end must come second and the upper end last.")
    expect(
        not _same(result[1:], np.quantile(gap, (0.025, 0.975)))
        and not _same(result[1:], (gap.min(), gap.max())),
        "Those are quantiles or ends of the five differences: the interval of their mean is the "
        "mean plus or minus the factor of t times the standard error.",
    )
    half = (result[2] - result[1]) / 2
    expect(
        not _same(half, (high - low) / 2) or _same(result, (mean, low, high)),
        "The interval has the right width but not the mean difference in its middle.",
    )
    factor = stats.t.ppf(0.975, n - 1)
    apart = [math.sqrt((one.var(ddof=d) + other.var(ddof=d)) / n) for d in (0, 1)]
    factors = (factor, 1.96, 2, stats.t.ppf(0.975, 2 * n - 2))
    expect(
        not any(_same(half, f * e) for f in factors for e in apart),
        "You treat the draws of both methods as unrelated: take the differences first, then their "
        "standard deviation.",
    )
    for names, values in (
        ("n - 1 inside the standard deviation (ddof=1), not n", gap.std() / math.sqrt(n)),
        ("the root of n: that is the interval of a single draw", gap.std(ddof=1)),
        ("the root of n, not n", gap.std(ddof=1) / n),
    ):
        expect(not _same(half, factor * values), f"Divide by {names}.")
    error = gap.std(ddof=1) / math.sqrt(n)
    expect(
        not any(_same(half, f * error) for f in (1.96, stats.norm.ppf(0.975), 2)),
        "About 2 standard errors are right for many draws: with five the standard deviation itself "
        "is uncertain, so take the factor of Student's t.",
    )
    expect(not _same(half, error), "That is one standard error: multiply it by the factor of t.")
    expect(
        not _same(half, stats.t.ppf(0.95, n - 1) * error),
        "That leaves out 5 % at either end: 95 % in the middle leave out 2.5 %, so take 0.975.",
    )
    expect(
        not _same(half, stats.t.ppf(0.975, n) * error),
        "Take n - 1 degrees of freedom: one is spent on the mean.",
    )
    expect(
        _same(result, (mean, low, high)),
        f"The interval must be {low:.4f} to {high:.4f}, not {result[1]:.4f} to {result[2]:.4f}.",
    )
    return "what both share, a lucky or an unlucky image, is gone, and few draws make it wide"


@check
def check_paired_bootstrap(
    answer: Callable[[np.ndarray, np.ndarray, np.ndarray, np.random.Generator, int], Any],
) -> str:
    """The 95 % interval of the difference of two AUROCs over test images, by bootstrap."""
    rng, repeats = np.random.default_rng(7), 800
    labels = np.repeat([0, 1], 40)
    shared = rng.normal(0, 1, 80) + 1.2 * labels
    one, other = (np.round(shared + rng.normal(0, s, 80), 3) for s in (0.25, 0.55))
    mixed = rng.permutation(80)
    labels, one, other = labels[mixed], one[mixed], other[mixed]
    drawn = bootstrap_differences(labels, one, other, 20_000)
    expected, centre = np.quantile(drawn, (0.025, 0.975)), float(drawn.mean())
    arguments = (labels.copy(), one.copy(), other.copy(), np.random.default_rng(0), repeats)
    low, high = _numbers(answer(*arguments), 2)
    expect_an_interval(low, high)
    middle, width = (low + high) / 2, (high - low) / np.diff(expected)[0]
    expect(
        abs(middle) > 0.25 * abs(centre) or width > 1.7,
        "Your interval lies around 0: you draw labels and scores apart, so a score no longer "
        "belongs to its label. Draw images, each with its label and both scores.",
    )
    alone = [float(roc_auc_score(labels, scores)) for scores in (one, other)]
    expect(
        not any(abs(middle - value) < 0.05 for value in alone),
        "That is the interval of a single AUROC: take the difference of both in each drawn test "
        "set.",
    )
    expect(
        width < 1.7,
        "Your interval is far too wide: judge both methods by the same drawn images, so draw once "
        "and use the drawn images for both.",
    )
    expect(
        abs(middle + centre) > 0.012 or abs(middle - centre) < 0.012,
        "The sign is wrong: the AUROC of one minus that of other.",
    )
    expect(
        abs(middle - centre) < 0.012,
        f"The interval must lie around the difference of the AUROCs, {centre:+.3f}, but yours is "
        f"{low:+.3f} to {high:+.3f}.",
    )
    expect(
        width > 0.45,
        "Your interval is far too narrow: take the quantiles of the drawn differences themselves.",
    )
    expect(
        0.91 < width < 1.12,
        f"Your interval is too {'narrow' if width < 1 else 'wide'}: the quantiles are 0.025 and "
        "0.975, and a drawn test set has as many images as the real one.",
    )
    rng, flat = np.random.default_rng(0), np.zeros(50)  # which has an AUROC of 0.5
    expect_stratified(lambda y, scores: answer(y, scores, flat, rng, FEW_REPEATS), 0.5)
    return "both methods are judged by the same images, and what these share cancels out"
