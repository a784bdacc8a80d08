"""Self-checks of notebook 06, few shots and ablations (paper section 4 and Table 6)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats

from htdg.ablations.nearest_image import NearestVoter
from htdg.course.check import NOTHING, check, expect
from htdg.course.draw_06 import bootstrap_aurocs, draws_needed


def _same(result: object, expected: object) -> bool:
    """Whether both have one shape and are equal but for rounding."""
    a, b = np.asarray(result, dtype=float), np.asarray(expected, dtype=float)
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-5, atol=1e-7)


def _numbers(result: object, count: int) -> np.ndarray:
    """The result as an array (count,); it must hold so many numbers."""
    expect(result is not None, NOTHING)
    values = np.asarray(result, dtype=float)
    asked_for = "one number" if count == 1 else f"{count} numbers"
    expect(values.size == count, f"Return {asked_for}, not an array of shape {values.shape}.")
    return values.reshape(count)


@check
def check_chunks(answer: Callable[[Sequence[float], Sequence[int]], float]) -> str:
    """The loss of a step over K images from the losses of its chunks and their sizes."""
    losses, sizes = [1.0, 2.0, 4.0], [5, 3, 2]
    (result,) = _numbers(answer(list(losses), list(sizes)), 1)
    expected = 0.5 * 1 + 0.3 * 2 + 0.2 * 4
    expect(
        not _same(result, np.mean(losses)),
        "That is the plain mean, in which an image of a small chunk counts more than one of a "
        "large chunk: weight each chunk by its size.",
    )
    expect(
        not _same(result, np.sum(losses)),
        "You add the losses up: each is a mean already, so weight it by its share of the images.",
    )
    expect(
        not _same(result, 10 * expected),
        "You weight by the sizes but do not divide by their sum, the number of images.",
    )
    expect(
        not _same(result, 10 * expected / 3),
        "You divide by the number of chunks; divide by the number of images.",
    )
    expect(
        not _same(result, np.sum(losses) / 10),
        "You add the means up before you weight them: multiply each by its size first, then divide "
        "the sum by the number of images.",
    )
    expect(
        not _same(result, max(losses)) and not _same(result, losses[-1]),
        "That is the loss of a single chunk: all images count.",
    )
    inverse = np.divide(1, sizes)
    expect(
        not _same(result, np.dot(losses, inverse) / inverse.sum())
        and not _same(result, np.dot(losses, inverse)),
        "You divide by the sizes: a larger chunk must count more, not less.",
    )
    expect(
        _same(result, expected),
        f"Chunks of 5, 3 and 2 images with the losses 1, 2 and 4 must give (5 + 6 + 8) / 10 = "
        f"{expected:.1f}, not {result:.4f}.",
    )
    (result,) = _numbers(answer([3.0], [4]), 1)
    expect(_same(result, 3), f"One chunk with a loss of 3 must give 3, but you give {result:g}.")
    return "every image counts alike, whichever chunk it is in"


@check
def check_paired(answer: Callable[[np.ndarray, np.ndarray], Any]) -> str:
    """Mean of the paired differences of two variants over draws, and its standard error."""
    variant = np.array([0.60, 0.71, 0.55, 0.66, 0.83, 0.74])
    whole = np.array([0.62, 0.78, 0.54, 0.70, 0.84, 0.77])
    n, gap = 6, variant - whole
    result = _numbers(answer(variant.copy(), whole.copy()), 2)
    mean, error = gap.mean(), gap.std(ddof=1) / math.sqrt(n)
    expect(
        not (_same(result[0], error) and _same(result[1], mean)),
        "The two numbers are exchanged: first the mean difference, then its standard error.",
    )
    expect(
        not _same(result[0], -mean),
        "The sign is wrong: `one` minus `other`, so that the mean is below 0 where `one` is worse.",
    )
    expect(
        not _same(result[0], np.abs(gap).mean()),
        "You take the absolute differences: keep their signs, or gains and losses cannot cancel.",
    )
    expect(not _same(result[0], gap.sum()), "That is the sum of the differences, not their mean.")
    expect(
        not _same(result[0], np.median(gap)), "That is the median of the differences, not the mean."
    )
    expect(_same(result[0], mean), f"The mean difference must be {mean:.4f}, not {result[0]:.4f}.")
    apart = [math.sqrt((variant.var(ddof=d) + whole.var(ddof=d)) / n) for d in (0, 1)]
    expect(
        not any(_same(result[1], value) for value in apart),
        "You treat the two sets of draws as unrelated: take the differences first, then their "
        "standard error.",
    )
    expect(
        not _same(result[1], gap.std() / math.sqrt(n)),
        "You divide by n inside the standard deviation: for a few draws divide by n - 1 (ddof=1).",
    )
    expect(
        not _same(result[1], gap.std(ddof=1)) and not _same(result[1], gap.std()),
        "That is the standard deviation, by which single draws differ: the mean varies less, so "
        "divide by the root of n.",
    )
    expect(
        not any(_same(result[1], gap.std(ddof=d) / n) for d in (0, 1)),
        "You divide by n: divide the standard deviation by the root of n.",
    )
    expect(
        not any(_same(result[1], gap.var(ddof=d) / m) for d in (0, 1) for m in (1, n)),
        "That is a variance: take the root of it.",
    )
    expect(
        not _same(result[1], 2 * error),
        "That is two standard errors: return one, and double it where you compare.",
    )
    factors = (1.96, stats.norm.ppf(0.975), *(stats.t.ppf(0.975, m) for m in (n - 1, n)))
    expect(
        not any(_same(result[1], factor * error) for factor in factors),
        "That is half the width of a 95 % interval: return one standard error, without a factor.",
    )
    expect(
        not any(_same(result[1], sign * mean / error) for sign in (1, -1)),
        "That is t, the mean in standard errors: return the standard error itself.",
    )
    expect(_same(result[1], error), f"The standard error must be {error:.4f}, not {result[1]:.4f}.")
    return "what both share, a lucky or an unlucky image, is gone from the difference"


def expect_an_interval(low: float, high: float) -> None:
    """Two ends of a bootstrap over images of both kinds, the lower one first."""
    expect(
        not (np.isnan(low) or np.isnan(high)),
        "An end is NaN: a drawn test set has no image of one kind, so draw each kind by itself.",
    )
    expect(low <= high, "The lower end must come first.")
    expect(
        high - low > 1e-6,
        "All your test sets are the same: draw with replacement (rng.choice does so by itself).",
    )


#: Drawn test sets of ``expect_stratified``.
FEW_REPEATS = 1000


def expect_stratified(interval: Callable[[np.ndarray, np.ndarray], Any], less: float) -> None:
    """The bootstrap draws the normal images and the anomalous ones each by themselves.

    Among 45 anomalous images are five normal ones, two of which score above all anomalous ones, and
    three below. Stratified, all five drawn ones are among the two in one per cent of the cases
    only, so that the lower end is 0.2. Where fewer than five normal images may be drawn, it happens
    in four per cent, and the lower end is 0.

    Args:
        interval: takes labels and scores (50,); gives both ends for the AUROC less a constant.
        less: the constant.
    """
    labels = np.repeat([0, 1], (5, 45))
    scores = np.array([0.9, 0.9, 0.1, 0.1, 0.1] + [0.5] * 45)
    mixed = np.random.default_rng(11).permutation(50)
    low, high = _numbers(interval(labels[mixed], scores[mixed]), 2) + less
    expect(
        not (np.isnan(low) or np.isnan(high)) and abs(low) > 1e-6,
        "Some of your drawn test sets have fewer normal images than the real one: draw the normal "
        "and the anomalous images each by themselves, as many as there are.",
    )
    expect(
        _same(low, 0.2) and _same(high, 1),
        "The ends must be quantiles of the drawn AUROCs: for a test set with 5 normal images they "
        f"are {0.2 - less:.2f} and {1 - less:.2f}, not {low - less:.2f} and {high - less:.2f}.",
    )


@check
def check_interval(
    answer: Callable[[np.ndarray, np.ndarray, np.random.Generator, int], Any],
) -> str:
    """The 95 % interval of the AUROC over test images, by bootstrap."""
    rng, repeats = np.random.default_rng(3), 800
    labels = np.repeat([0, 1], 40)
    scores = np.round(rng.normal(0, 1, 80) + 1.1 * labels, 3)
    mixed = rng.permutation(80)
    labels, scores = labels[mixed], scores[mixed]
    drawn = bootstrap_aurocs(labels, scores, 20_000)
    expected, centre = np.quantile(drawn, (0.025, 0.975)), float(drawn.mean())
    arguments = (labels.copy(), scores.copy(), np.random.default_rng(0), repeats)
    low, high = _numbers(answer(*arguments), 2)
    expect_an_interval(low, high)
    middle, width = (low + high) / 2, (high - low) / np.diff(expected)[0]
    expect(
        abs(middle - 0.5) > 0.08,
        "Your interval lies around 0.5: you draw labels and scores apart, so a score no longer "
        "belongs to its label. Draw images, each with both.",
    )
    expect(middle > 0.5, "That is 1 minus the AUROC: higher scores are more anomalous (label 1).")
    expect(
        low >= 0 and high <= 1 and abs(middle - centre) < 0.03,
        f"The interval must lie around the AUROC, {centre:.2f}, but yours is {low:.2f} to "
        f"{high:.2f}.",
    )
    expect(
        width > 0.45,
        "Your interval is far too narrow: take the quantiles of the drawn AUROCs themselves, not a "
        "standard error of their mean.",
    )
    expect(
        width > 0.91,
        "Your interval is too narrow: 95 % leave out 2.5 % at either end, the quantiles 0.025 and "
        "0.975; and each drawn test set has as many images as the real one.",
    )
    expect(
        width < 1.12,
        "Your interval is too wide: a drawn test set has as many images as the real one, and the "
        "quantiles are 0.025 and 0.975.",
    )
    rng = np.random.default_rng(0)
    expect_stratified(lambda labels, scores: answer(labels, scores, rng, FEW_REPEATS), 0.0)
    return "the interval says how much the AUROC depends on which images are tested"


@check
def check_nearest(answer: Callable[[torch.Tensor, torch.Tensor], Any]) -> str:
    """The anomaly score of variant f: the mean squared error from the nearest training image."""
    rng = np.random.default_rng(4)
    image = torch.from_numpy(rng.uniform(-1, 1, (3, 6, 6)))
    training = torch.from_numpy(rng.uniform(-1, 1, (4, 3, 6, 6)))
    training[2] = (training[2] + 2 * image) / 3  # the nearest
    training[3] = -image  # the farthest
    squares = (training - image).square()  # (K, 3, 6, 6)
    errors = squares.mean((1, 2, 3))
    expected = 1 - float(NearestVoter(training)(image[None]).mean())
    (result,) = _numbers(answer(image.clone(), training.clone()), 1)
    expect(
        not any(_same(result, value) for value in (errors.mean(), errors.mean() / 4)),
        "You average over the training images: with five images in different poses nothing would "
        "be near. Take the nearest, the least error.",
    )
    expect(
        not any(_same(result, value) for value in (errors.max(), errors.max() / 4)),
        "That is the farthest training image: take the nearest.",
    )
    mixed = [squares.amin(0).mean(), squares.mean(1).amin(0).mean()]
    expect(
        not any(_same(result, m / d) for m in mixed for d in (1, 4)),
        "You choose the nearest image for every pixel anew: first take the mean over the pixels of "
        "each training image, then the least of these.",
    )
    first = (training[0] - image).square().mean()
    expect(
        not any(_same(result, first / d) for d in (1, 4)),
        "You compare with the first training image only: take the nearest.",
    )
    middle = (training.mean(0) - image).square().mean()
    expect(
        not any(_same(result, middle / d) for d in (1, 4)),
        "You compare with the mean of the training images, which looks like none of them.",
    )
    expect(
        not _same(result, expected * 4),
        "Divide by 4, so that the score is in [0, 1]: values in [-1, 1] differ by 2 at most.",
    )
    expect(
        not _same(result, 1 - expected),
        "That is the normality: the anomaly score grows with the error.",
    )
    expect(
        not _same(result, 1 - errors.min()),
        "That is a similarity, 1 minus the error: the anomaly score is the error itself, over 4.",
    )
    expect(
        not _same(result, int(errors.argmin())),
        "That is the number of the nearest training image (argmin): return its error (min).",
    )
    expect(
        not _same(result, errors.min() / 2),
        "Divide by 4, not 2: a difference of 2 at most has a square of 4 at most.",
    )
    length = errors.min().mul(108).sqrt()
    expect(
        not any(_same(result, length / d) for d in (1, 2, 4)),
        "That is the length of the difference: take the mean of its squares, without a root.",
    )
    expect(
        not any(_same(result, value / d) for value in (errors.min() * 108,) for d in (1, 4)),
        "You add the squares up: take their mean over channels and pixels.",
    )
    expect(
        not any(_same(result, value / d) for value in (errors.min().sqrt(),) for d in (1, 2, 4)),
        "You take the root of the error: the score is the mean square itself.",
    )
    absolute = (training - image).abs().mean((1, 2, 3)).min()
    expect(
        not any(_same(result, absolute / d) for d in (1, 2, 4)),
        "Square the differences; you take their absolute values.",
    )
    expect(
        _same(result, expected), f"For the test image it must be {expected:.4f}, not {result:.4f}."
    )
    (result,) = _numbers(answer(training[1].clone(), training.clone()), 1)
    expect(_same(result, 0), f"A training image itself must score 0, but it gets {result:.4f}.")
    return "this is the whole of variant f, and nothing in it was trained"


def _rounded_up(value: float) -> int:
    return math.ceil(round(value, 9))


#: What students write instead of ceil((2 s / d)^2), and what is wrong with it.
_WRONG_DRAWS: tuple[tuple[Callable[[float, float], float], str], ...] = (
    (
        lambda d, s: (2 * s / d) ** 2,
        "The number of draws must be whole: round up (math.ceil).",
    ),
    (
        lambda d, s: int((2 * s / d) ** 2),
        "You round down: with one draw fewer than needed, two standard errors are still above the "
        "difference, so round up (math.ceil).",
    ),
    (
        lambda d, s: round((2 * s / d) ** 2),
        "You round to the nearest number: round up (math.ceil), or two standard errors may still "
        "be above the difference.",
    ),
    (
        lambda d, s: _rounded_up((2 * s / d) ** 2) + 1,
        "That is one draw too many: two standard errors may equal the difference.",
    ),
    (
        lambda d, s: _rounded_up(2 * s / d),
        "The standard error falls with the root of n, so n grows with the square.",
    ),
    (
        lambda d, s: _rounded_up(math.sqrt(2 * s / d)),
        "You take a root to get rid of the root of n: square both sides.",
    ),
    (
        lambda d, s: _rounded_up(2 * s / d) ** 2,
        "You round up before you square: square first, and round up last.",
    ),
    (
        lambda d, s: _rounded_up((s / d) ** 2),
        "You compare with one standard error: two are asked for, which makes four times the draws.",
    ),
    (
        lambda d, s: _rounded_up(2 * (s / d) ** 2),
        "The factor 2 is squared, too: 4 s^2 / d^2.",
    ),
    (
        lambda d, s: _rounded_up((4 * s / d) ** 2),
        "That is four standard errors: square the factor 2 once.",
    ),
    (
        lambda d, s: _rounded_up((1.96 * s / d) ** 2),
        "You take a factor of 1.96: the exercise asks for two standard errors.",
    ),
    (
        lambda d, s: _rounded_up(4 * s / d**2),
        "The deviation is squared, too: 4 s^2 / d^2.",
    ),
    (
        lambda d, s: _rounded_up(4 * s**2 / d),
        "The difference is squared, too: 4 s^2 / d^2.",
    ),
    (
        lambda d, s: max(2, _rounded_up((d / (2 * s)) ** 2)),
        "The fraction is upside down: a larger deviation needs more draws, a larger difference "
        "fewer.",
    ),
    (
        lambda d, s: 2 * s / math.sqrt(5),
        "Those are two standard errors of five draws: solve for n, the number of draws.",
    ),
)
#: Differences and deviations that tell these apart; the number of draws is 87, 12, 29 and 7.
_DRAWS = ((0.02, 0.093), (0.03, 0.05), (0.03, 0.08), (0.07, 0.09))


@check
def check_draws(answer: Callable[[float, float], int]) -> str:
    """The number of draws that tell a difference from zero."""
    results = [_numbers(answer(d, s), 1)[0] for d, s in _DRAWS]
    for mistake, said in _WRONG_DRAWS:
        expect(not _same(results, [mistake(d, s) for d, s in _DRAWS]), said)
    for (difference, deviation), result in zip(_DRAWS, results, strict=True):
        _expect_draws(difference, deviation, result)
    (result,) = _numbers(answer(-0.03, 0.05), 1)
    expect(
        _same(result, 12),
        f"A difference of -0.03 needs as many draws as 0.03, 12, but you say {result:g}.",
    )
    (result,) = _numbers(answer(0.25, 0.5), 1)
    expect(
        not _same(result, 17),
        "With 16 draws two standard errors are exactly the difference, which is enough.",
    )
    _expect_draws(0.25, 0.5, result)
    (result,) = _numbers(answer(0.5, 0.01), 1)
    expect(
        _same(result, 2),
        f"At least 2 draws are needed, since one draw has no standard deviation; you say "
        f"{result:g}.",
    )
    for difference in (0.013, 0.02, 0.07):
        for deviation in (0.011, 0.04, 0.09):
            (result,) = _numbers(answer(difference, deviation), 1)
            _expect_draws(difference, deviation, result)
    return "half the difference takes four times the draws"


def _expect_draws(difference: float, deviation: float, result: float) -> None:
    """The number of draws is right; otherwise the message says whether it is too small."""
    expected = draws_needed(difference, deviation)
    where = f"For a difference of {difference} and a deviation of {deviation}"
    expect(
        result == round(result),
        f"The number of draws must be whole, but {where.lower()} yours is {result:.2f}.",
    )
    expect(
        result >= expected,
        f"{where} you say {result:g} draws, which are too few: two standard errors of {expected} "
        f"draws are {2 * deviation / math.sqrt(expected):.4f}, and fewer draws have larger ones.",
    )
    expect(
        result == expected,
        f"{where} you say {result:g} draws, which are more than needed: with {expected} two "
        f"standard errors are down to {2 * deviation / math.sqrt(expected):.4f} already.",
    )
