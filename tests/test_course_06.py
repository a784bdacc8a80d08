"""Notebook 06: the answers pass their checks, typical mistakes are told, figures hold the data."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from htdg.course import checks_06, draw_06
from htdg.course.check import NotRight
from tests.course import answers, auroc


@pytest.fixture(scope="module")
def solution():
    return answers("06_few_shots_and_ablations")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda losses, sizes: np.mean(losses), "plain mean"),
        (lambda losses, sizes: sum(losses), "You add the losses up"),
        (np.dot, "do not divide by their sum"),
        (lambda losses, sizes: np.dot(losses, sizes) / len(sizes), "by the number of chunks"),
        (lambda losses, sizes: np.dot(losses, np.divide(1, sizes)), "divide by the sizes"),
        (lambda losses, sizes: np.average(losses, weights=np.divide(1, sizes)), "must count more"),
        (lambda losses, sizes: losses, "Return one number"),
        (lambda losses, sizes: sum(losses) / sum(sizes), "add the means up before you weight"),
        (lambda losses, sizes: max(losses), "the loss of a single chunk"),
        (lambda losses, sizes: 1.7, "= 1.9, not 1.7000"),
        (lambda losses, sizes: np.dot(losses, np.divide(sizes, 10)), "must give 3"),
    ],
)
def test_mistakes_about_chunks(answer, said):
    with pytest.raises(NotRight, match=said):
        checks_06.check_chunks(answer)


def compared(one, other, *, ddof=1, power=0.5, spread=np.std):
    gap = one - other
    return gap.mean(), spread(gap, ddof=ddof) / len(gap) ** power


def unpaired(one, other, ddof=1):
    error = math.sqrt((one.var(ddof=ddof) + other.var(ddof=ddof)) / len(one))
    return (one - other).mean(), error


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda a, b: compared(b, a), "The sign is wrong"),
        (lambda a, b: (compared(a, b)[1], compared(a, b)[0]), "two numbers are exchanged"),
        (lambda a, b: compared(np.abs(a - b), 0 * a), "keep their signs"),
        (lambda a, b: ((a - b).sum(), 0.1), "the sum of the differences"),
        (unpaired, "take the differences first"),
        (lambda a, b: unpaired(a, b, 0), "take the differences first"),
        (lambda a, b: compared(a, b, ddof=0), "divide by n - 1"),
        (lambda a, b: compared(a, b, power=0), "divide by the root of n"),
        (lambda a, b: compared(a, b, power=0, ddof=0), "divide by the root of n"),
        (lambda a, b: compared(a, b, power=1), "You divide by n: "),
        (lambda a, b: compared(a, b, spread=np.var, power=0), "That is a variance"),
        (lambda a, b: compared(a, b, spread=np.var, power=1), "That is a variance"),
        (lambda a, b: (np.median(a - b), 0), "median of the differences"),
        (lambda a, b: (0.3, 0.1), "The mean difference must be -0.0267"),
        (lambda a, b: ((a - b).mean(), 0.5), "The standard error must be 0.0112"),
        (lambda a, b: np.multiply((1, 2), compared(a, b)), "two standard errors"),
        (lambda a, b: np.multiply((1, 1.96), compared(a, b)), "half the width of a 95 %"),
        (lambda a, b: np.multiply((1, 2.570582), compared(a, b)), "half the width of a 95 %"),
        (lambda a, b: ((a - b).mean(), stats.ttest_rel(a, b).statistic), "That is t"),
        (lambda a, b: (a - b).mean(), "Return 2 numbers"),
        (lambda a, b: a - b, "Return 2 numbers"),
    ],
)
def test_mistakes_about_pairs(answer, said):
    with pytest.raises(NotRight, match=said):
        checks_06.check_paired(answer)


def interval(labels, scores, rng, repeats, *, ends=(0.025, 0.975), mistake="", share=1, up=1):
    aurocs = []
    places = [np.flatnonzero(labels == label) for label in (0, 1)]
    for _ in range(repeats):
        drawn = [
            rng.choice(mine, int(len(mine) * share), replace=mistake != "once") for mine in places
        ]
        chosen = np.concatenate(drawn)
        labelled = rng.permutation(chosen) if mistake == "apart" else chosen
        aurocs.append(auroc(labels[labelled], up * scores[chosen]))
    return np.quantile(aurocs, ends)


def of_the_mean(labels, scores, rng, repeats):
    aurocs = draw_06.bootstrap_aurocs(labels, scores, repeats)
    error = aurocs.std() / math.sqrt(repeats)
    return aurocs.mean() - 2 * error, aurocs.mean() + 2 * error


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda *a: interval(*a, ends=(0.05, 0.95)), "too narrow: 95 % leave out 2.5 %"),
        (lambda *a: interval(*a, ends=(0.16, 0.84)), "too narrow: 95 % leave out 2.5 %"),
        (lambda *a: interval(*a, ends=(0.005, 0.995)), "too wide"),
        (lambda *a: interval(*a, share=0.5), "too wide"),
        (lambda *a: interval(*a, share=2), "too narrow"),
        (lambda *a: interval(*a, mistake="apart"), "labels and scores apart"),
        (lambda *a: interval(*a, mistake="once"), "with replacement"),
        (lambda *a: interval(*a, up=-1), "1 minus the AUROC"),
        (lambda *a: interval(*a)[::-1], "The lower end must come first"),
        (lambda *a: interval(*a).mean(), "Return 2 numbers"),
        (lambda *a: interval(*a, ends=(2.5, 97.5)), "It fails with ValueError"),
        (lambda *a: (math.nan, 0.9), "An end is NaN"),
        (lambda *a: interval(*a) + 0.1, "must lie around the AUROC"),
        (of_the_mean, "far too narrow"),
    ],
)
def test_mistakes_about_intervals(answer, said):
    with pytest.raises(NotRight, match=said):
        checks_06.check_interval(answer)


def drawn_together(labels, scores, rng, repeats, skip=False):
    """Both kinds of images in one draw, which the exercise forbids."""
    drawn = [rng.choice(len(labels), len(labels)) for _ in range(repeats)]
    drawn = [i for i in drawn if not skip or len(set(labels[i])) == 2]
    return np.quantile([auroc(labels[i], scores[i]) for i in drawn], (0.025, 0.975))


@pytest.mark.parametrize(("skip", "seed"), [(False, 0), (True, 0), (True, 1)])
def test_a_bootstrap_of_both_kinds_together_is_refused(skip, seed):
    def answer(labels, scores, rng, repeats):
        return drawn_together(labels, scores, np.random.default_rng(seed), repeats, skip)

    with pytest.raises(NotRight, match="anomalous images each by themselves"):
        checks_06.check_interval(answer)


def test_two_deviations_are_no_quantiles():
    def answer(labels, scores, rng, repeats):
        drawn = draw_06.bootstrap_aurocs(labels, scores, repeats)
        return drawn.mean() - 1.96 * drawn.std(), drawn.mean() + 1.96 * drawn.std()

    with pytest.raises(NotRight, match=r"0\.20 and 1\.00, not 0\.\d+ and 1\.0\d"):
        checks_06.check_interval(answer)


@pytest.mark.parametrize("seed", range(6))
def test_the_library_s_bootstrap_passes_as_an_answer(seed, capsys):
    def fast(labels, scores, rng, repeats):
        drawn = draw_06.bootstrap_aurocs(labels, scores, repeats, seed)
        return np.quantile(drawn, (0.025, 0.975))

    checks_06.check_interval(fast)
    assert capsys.readouterr().out.count("Right: ") == 1


def squares(image, training):
    return (training - image).square()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda x, t: squares(x, t).mean() / 4, "average over the training images"),
        (lambda x, t: squares(x, t).mean(), "average over the training images"),
        (lambda x, t: squares(x, t).mean((1, 2, 3)).max() / 4, "That is the farthest"),
        (lambda x, t: squares(x, t).amin(0).mean() / 4, "for every pixel anew"),
        (lambda x, t: squares(x, t).mean(1).amin(0).mean() / 4, "for every pixel anew"),
        (lambda x, t: squares(x, t)[0].mean() / 4, "the first training image only"),
        (lambda x, t: (x - t.mean(0)).square().mean() / 4, "the mean of the training images"),
        (lambda x, t: squares(x, t).mean((1, 2, 3)).min(), "Divide by 4"),
        (lambda x, t: 1 - squares(x, t).mean((1, 2, 3)).min() / 4, "That is the normality"),
        (lambda x, t: squares(x, t).sum((1, 2, 3)).min() / 4, "You add the squares up"),
        (lambda x, t: squares(x, t).mean((1, 2, 3)).min().sqrt(), "root of the error"),
        (lambda x, t: (t - x).abs().mean((1, 2, 3)).min() / 2, "Square the differences"),
        (lambda x, t: squares(x, t).mean((1, 2, 3)) / 4, "Return one number"),
        (lambda x, t: 1 - squares(x, t).mean((1, 2, 3)).min(), "That is a similarity"),
        (lambda x, t: squares(x, t).mean((1, 2, 3)).argmin(), "number of the nearest"),
        (lambda x, t: squares(x, t).mean((1, 2, 3)).min() / 2, "Divide by 4, not 2"),
        (lambda x, t: (x - t).flatten(1).norm(dim=1).min(), "length of the difference"),
        (lambda x, t: 0.5, "it must be 0.0"),
        (lambda x, t: squares(x, t[2]).mean() / 4, "A training image itself must score 0"),
    ],
)
def test_mistakes_about_the_nearest_image(answer, said):
    with pytest.raises(NotRight, match=said):
        checks_06.check_nearest(answer)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda d, s: math.ceil(2 * s / abs(d)), "grows with the square"),
        (lambda d, s: math.ceil((s / d) ** 2), "two are asked for"),
        (lambda d, s: math.ceil(2 * (s / d) ** 2), "The factor 2 is squared"),
        (lambda d, s: int((2 * s / d) ** 2), "You round down"),
        (lambda d, s: round((2 * s / d) ** 2), "round to the nearest number"),
        (lambda d, s: (2 * s / d) ** 2, "must be whole: round up"),
        (lambda d, s: math.ceil((4 * s / d) ** 2), "four standard errors"),
        (lambda d, s: math.ceil(2 * s / d) ** 2, "round up before you square"),
        (lambda d, s: math.ceil((1.96 * s / d) ** 2), "a factor of 1.96"),
        (lambda d, s: math.ceil(4 * s / d**2), "The deviation is squared"),
        (lambda d, s: math.ceil(4 * s**2 / d), "The difference is squared"),
        (lambda d, s: max(2, math.ceil((d / (2 * s)) ** 2)), "upside down"),
        (lambda d, s: math.ceil((2 * s / d) ** 2) + 1, "one draw too many"),
        (lambda d, s: math.ceil((2 * s / d) ** 0.5), "You take a root"),
        (lambda d, s: 2 * s / 5**0.5, "solve for n"),
        (lambda d, s: math.ceil(4 * s**2 / d**2) if d > 0 else 0, "as many draws as 0.03"),
        (lambda d, s: int((2 * s / d) ** 2) + 1, "exactly the difference"),
        (lambda d, s: math.ceil((2 * s / d) ** 2), "At least 2 draws"),
        (lambda d, s: 170, "170 draws, which are more than needed: with 87 .* 0.0199 already"),
        (lambda d, s: 70, "70 draws, which are too few: two standard errors of 87"),
        (lambda d, s: 86.5 + math.ceil((2 * s / d) ** 2), "deviation of 0.093 yours is 173.50"),
        (lambda d, s: (2, 3), "Return one number"),
    ],
)
def test_mistakes_about_the_number_of_draws(answer, said):
    with pytest.raises(NotRight, match=said):
        checks_06.check_draws(answer)


def test_bootstrap_draws_images_with_their_scores():
    labels = np.array([0, 1, 0, 1, 1])
    assert (draw_06.bootstrap_aurocs(labels, [0.1, 0.5, 0.2, 0.6, 0.7], 50) == 1).all()
    assert (draw_06.bootstrap_aurocs(labels, [0.3] * 5, 50) == 0.5).all()  # ties count one half
    # One normal image, two anomalous ones, one of them above it: 0, 1 or 2 of the two drawn.
    aurocs = draw_06.bootstrap_aurocs([0, 1, 1], [0.5, 0.4, 0.6], 4000)
    values, counts = np.unique(aurocs, return_counts=True)
    np.testing.assert_array_equal(values, [0, 0.5, 1])
    np.testing.assert_allclose(counts / 4000, [0.25, 0.5, 0.25], atol=0.03)
    again = [draw_06.bootstrap_aurocs([0, 1, 1], [0.5, 0.4, 0.6], 9, seed) for seed in (3, 3)]
    np.testing.assert_array_equal(*again)


def test_bootstrap_varies_about_the_auroc():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], (30, 50))
    scores = rng.normal(0, 1, 80) + labels
    aurocs = draw_06.bootstrap_aurocs(labels, scores, 4000)
    assert aurocs.mean() == pytest.approx(roc_auc_score(labels, scores), abs=0.005)
    slow = interval(labels, scores, rng, 500)
    np.testing.assert_allclose(np.quantile(aurocs, (0.025, 0.975)), slow, atol=0.03)


def test_draws_needed():
    assert draw_06.draws_needed(0.03, 0.05) == draw_06.draws_needed(-0.03, 0.05) == 12
    assert draw_06.draws_needed(0.04, 0.1) == 25
    assert draw_06.draws_needed(0.02, 0.1) == 100
    assert draw_06.draws_needed(1, 0) == 2
    with pytest.raises(ValueError, match="difference is 0"):
        draw_06.draws_needed(0, 0.1)


def test_mean_and_error():
    mean, error = draw_06.mean_and_error([[1.0, 2, 3, 6], [5, 5, 5, 5]])
    np.testing.assert_allclose(mean, [3, 5])
    np.testing.assert_allclose(error, [math.sqrt(14 / 3) / 2, 0])


def shown(ax):
    return np.asarray(ax.images[0].get_array())


def test_draw_inputs_tells_the_number_of_each_image():
    inputs = np.random.default_rng(0).normal(0, 1, (3, 4, 5, 6))
    inputs[:, 3] = np.arange(3)[:, None, None]
    axes = np.array(draw_06.draw_inputs(inputs).axes).reshape(3, 4)
    np.testing.assert_array_equal(shown(axes[1, 2]), inputs[1, 2])
    assert axes[2, 3].get_title() == "number of the image: 2"
    assert axes[2, 3].images[0].get_clim() == (0, 2)
    assert axes[2, 0].images[0].get_clim() == (-1, 1)
    assert axes[1, 0].get_ylabel() == "image 1"


def test_draw_numbers_shows_three_rows_with_errors():
    images = np.random.default_rng(0).integers(0, 255, (3, 2, 4, 4, 3), dtype=np.uint8)
    figure = draw_06.draw_numbers(*images, np.array([[0.01, 0.02], [0.01, 0.3]]))
    axes = np.array(figure.axes).reshape(3, 2)
    for row, three in zip(axes, images, strict=True):
        np.testing.assert_array_equal(shown(row[1]), three[1])
    assert [ax.get_title() for ax in axes[:, 1]] == ["", "error 0.020", "error 0.300"]


def test_draw_shots_joins_each_draw_and_adds_the_mean():
    aurocs = np.array([[0.5, 0.8], [0.7, 0.8]])
    left, right = draw_06.draw_shots([1, 5], aurocs, {"A": ([60, 70], [5, 2])}).axes
    for line, row in zip(left.lines, aurocs, strict=False):
        np.testing.assert_array_equal(line.get_ydata(), row)
    mean = left.containers[0]
    np.testing.assert_allclose(mean.lines[0].get_ydata(), [0.6, 0.8])
    first = mean.lines[2][0].get_segments()[0]  # 0.6 with its standard deviation, 0.1414
    np.testing.assert_allclose(first[:, 1], [0.6 - 0.02**0.5, 0.6 + 0.02**0.5])
    bars = right.containers[0]
    np.testing.assert_allclose(bars.lines[0].get_ydata(), [0.6, 0.7])
    np.testing.assert_allclose(bars.lines[2][0].get_segments()[1][:, 1], [0.68, 0.72])
    assert [text.get_text() for text in right.get_xticklabels()] == ["1", "5"]
    looks = {(line.get_color(), line.get_marker()) for line in left.lines[:2]}
    assert len(looks) == 2


def test_draw_bootstrap_draws_the_interval():
    values = np.linspace(0.6, 0.8, 201)
    one, two = draw_06.draw_bootstrap({"a": values, "b": values}, {"a": 0.7, "b": 0.72}).axes
    ends_and_whole = [line.get_xdata()[0] for line in one.lines]
    assert ends_and_whole == pytest.approx([0.605, 0.795, 0.7])
    assert two.get_title() == "b: 0.72, interval 0.60 to 0.80"
    assert sum(bar.get_height() for bar in one.patches) == 201


def test_draw_ablations_draws_draws_means_and_the_paper():
    aurocs = np.array([[0.6, 0.8], [0.5, 0.6]])
    left, right = draw_06.draw_ablations(["whole", "a"], aurocs, [(64.9, 5.9), (60.7, 8.5)]).axes
    np.testing.assert_array_equal(left.lines[0].get_xdata(), aurocs[:, 0])
    np.testing.assert_allclose(left.containers[0].lines[0].get_xdata(), [0.7, 0.55])
    ours = left.containers[0].lines[2][0].get_segments()[0][:, 0]  # a deviation, as the paper's
    np.testing.assert_allclose(ours, [0.7 - 0.02**0.5, 0.7 + 0.02**0.5])
    np.testing.assert_allclose(right.containers[0].lines[0].get_xdata(), [0.649, 0.607])
    ends = right.containers[0].lines[2][0].get_segments()[1]
    np.testing.assert_allclose(ends[:, 0], [0.522, 0.692])
    assert [text.get_text() for text in left.get_yticklabels()] == ["whole", "a"]
    assert left.get_ylim() == (1.5, -0.5)  # the first above


def test_draw_differences_has_the_interval_of_the_verdict():
    """The bar leaves zero out where t is beyond its factor, and only there."""
    differences = np.array([[-0.1, 0.1, 0.3], [0.1, 0.1, 0.15]])
    (ax,) = draw_06.draw_differences(["a", "b"], differences).axes
    assert [line.get_xdata()[0] for line in ax.lines[:3]] == [-0.1, 0.1, 0.3]
    bars = ax.containers[0].lines[2][0].get_segments()
    half = 4.302653 * 0.2 / math.sqrt(3)  # Student's t, two degrees of freedom
    np.testing.assert_allclose(bars[0][:, 0], [0.1 - half, 0.1 + half], rtol=1e-6)
    for row, bar in zip(differences, bars, strict=True):
        expected = stats.ttest_1samp(row, 0).confidence_interval(0.95)
        np.testing.assert_allclose(bar[:, 0], expected)
        assert (bar[0, 0] <= 0 <= bar[1, 0]) == (stats.ttest_1samp(row, 0).pvalue >= 0.05)


def test_draw_samples_gives_every_image_a_title():
    images = np.random.default_rng(0).integers(0, 255, (2, 3, 4, 4, 3), dtype=np.uint8)
    figure = draw_06.draw_samples({"b": images[0], "c": images[1, :2]})
    assert [band._suptitle.get_text() for band in figure.subfigs] == ["b", "c"]
    titles = [[ax.get_title() for ax in band.axes] for band in figure.subfigs]
    assert titles[0] == ["rebuilt from z*", "sample 1", "sample 2"]
    assert titles[1][:2] == titles[0][:2]
    np.testing.assert_array_equal(shown(figure.subfigs[1].axes[1]), images[1, 1])


def test_draw_play_shows_one_draw_among_the_others():
    labels = np.array([0, 0, 1, 1])
    scores = {"a": [np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.1, 0.3, 0.2, 0.4])]}
    left, middle, right = draw_06.draw_play(labels, scores, "a", 1).axes
    assert left.get_title() == "a, draw 1"
    assert sum(bar.get_height() for bar in left.patches) == 4
    assert middle.get_title().startswith("AUROC 0.75 (")
    np.testing.assert_allclose(right.lines[0].get_xdata(), [1, 0.75])
    np.testing.assert_allclose(right.containers[0].lines[0].get_xydata(), [[0.75, 1]])
    middle = draw_06.draw_play(labels, scores, "a", 0).axes[1]
    assert middle.get_title() == "AUROC 1.00 (1.00 to 1.00)"


def test_draw_needed_marks_where_the_curves_meet():
    (ax,) = draw_06.draw_needed(-0.04, 0.1).axes
    np.testing.assert_allclose(ax.lines[0].get_ydata()[23], 0.04)  # of 25 draws
    assert ax.lines[1].get_ydata()[0] == 0.04
    np.testing.assert_allclose(ax.lines[2].get_xydata(), [[25, 0.04]])
    assert ax.get_title().endswith("25 draws are enough")
    (ax,) = draw_06.draw_needed(0.01, 0.1).axes
    assert len(ax.lines) == 2
    assert ax.get_title().endswith("400 draws: off the figure")


def test_the_answers_agree_with_the_library(solution):
    rng = np.random.default_rng(2)
    labels, scores = np.repeat([0, 1], 30), rng.normal(0, 1, 60)
    scores[30:] += 1
    interval_ends = solution["auroc_interval"](labels, scores, rng, 500)
    wanted = np.quantile(draw_06.bootstrap_aurocs(labels, scores), (0.025, 0.975))
    np.testing.assert_allclose(interval_ends, wanted, atol=0.03)
    one, other = rng.normal(0, 1, (2, 6))
    np.testing.assert_allclose(
        solution["paired"](one, other), draw_06.mean_and_error(one - other), rtol=1e-12
    )
    assert solution["draws_enough"](0.3, 0.4) == draw_06.draws_needed(0.3, 0.4) == 8
    image, training = torch.zeros(3, 4, 4), torch.ones(2, 3, 4, 4)
    assert float(solution["nearest_error"](image, training)) == 0.25
