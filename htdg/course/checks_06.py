"""Self-checks of notebook 06, few shots and ablations (paper section 4 and Table 6)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from htdg.ablations.nearest_image import NearestVoter
from htdg.course.check import check, expect
from htdg.course.draw_06 import bootstrap_aurocs, draws_needed

NOTHING = "The function returns nothing: end it with return."


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
    inverse = np.divide(1, sizes)
    expect(
        not _same(result, np.dot(losses, inverse) / inverse.sum())
        and not _same(result, np.dot(losses, inverse)),
        "You divide by the sizes: a larger chunk must count more, not less.",
    )
    expect(
        _same(result, expected), f"For the test chunks it must be {expected:.1f}, not {result:.4f}."
    )
    (result,) = _numbers(answer([3.0], [4]), 1)
    expect(_same(result, 3), f"One chunk with a loss of 3 must give 3, but you give {result:g}.")
    return "every image counts alike, whichever chunk it is in"


@check
def check_paired(answer: Callable[[np.ndarray, np.ndarray], Any]) -> str:
    """Mean of the paired differences of two variants over draws, and its standard error."""
    variant = np.array([0.60, 0.71, 0.55, 0.66, 0.83, 0.74])
    whole = np.array([0.62, 0.78, 0.56, 0.70, 0.84, 0.77])
    n, gap = 6, variant - whole
    result = _numbers(answer(variant.copy(), whole.copy()), 2)
    mean, error = gap.mean(), gap.std(ddof=1) / math.sqrt(n)
    expect(
        not _same(result[0], -mean),
        "The sign is wrong: variant less whole method, so that a variant that is worse is below 0.",
    )
    expect(
        not _same(result[0], np.median(gap)), "That is the median of the differences, not the mean."
    )
    expect(_same(result[0], mean), f"The mean difference must be {mean:.4f}, not {result[0]:.4f}.")
    apart = [math.sqrt((variant.var(ddof=d) + whole.var(ddof=d)) / n) for d in (0, 1)]
    expect(
        not any(_same(result[1], value) for value in apart),
        "You take the two sets of draws as if they had nothing to do with each other: take the "
        "differences first, then their standard error.",
    )
    expect(
        not _same(result[1], gap.std() / math.sqrt(n)),
        "You divide by n inside the standard deviation: for a few draws divide by n - 1 (ddof=1).",
    )
    expect(
        not _same(result[1], gap.std(ddof=1)) and not _same(result[1], gap.std()),
        "That is the spread of single draws: the mean is steadier, so divide by the root of n.",
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
    expect(middle > 0.5, "That is 1 less the AUROC: higher scores are more anomalous (label 1).")
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
    return "the interval says how much of the AUROC hangs on which images are tested"


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


@check
def check_draws(answer: Callable[[float, float], int]) -> str:
    """The number of draws that tell a difference from zero."""
    (result,) = _numbers(answer(0.03, 0.05), 1)  # (2 * 0.05 / 0.03)^2 = 11.1
    expect(
        not _same(result, 4),
        "The standard error falls with the root of n, so n grows with the square.",
    )
    expect(
        not _same(result, 3),
        "You compare with one standard error: two are asked for, which makes four times the draws.",
    )
    expect(not _same(result, 6), "The factor 2 is squared, too: 4 s^2 / d^2.")
    expect(
        not _same(result, 11),
        "With 11 draws two standard errors are still above the difference: round up (math.ceil).",
    )
    expect(
        result == round(result), f"The number of draws must be whole, but yours is {result:.2f}."
    )
    expect(
        not _same(result, 45),
        "That is four standard errors: square the factor 2 once.",
    )
    expect(
        _same(result, 12),
        f"For a difference of 0.03 and a deviation of 0.05 it must be 12, not {result:g}.",
    )
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
    expect(_same(result, 16), f"For 0.25 and 0.5 it must be 16, not {result:g}.")
    (result,) = _numbers(answer(0.5, 0.01), 1)
    expect(
        _same(result, 2),
        f"At least 2 draws are needed, or there is no deviation to speak of; you say {result:g}.",
    )
    for difference in (0.013, 0.02, 0.07):
        for deviation in (0.011, 0.04, 0.09):
            (result,) = _numbers(answer(difference, deviation), 1)
            expected = draws_needed(difference, deviation)
            expect(
                _same(result, expected),
                f"For a difference of {difference} and a deviation of {deviation} it must be "
                f"{expected}, not {result:g}.",
            )
    return "half the difference takes four times the draws"
