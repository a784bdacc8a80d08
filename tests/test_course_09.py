"""Notebook 09: the answers pass their checks, typical mistakes are told, figures hold the data."""

import math

import nbformat
import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from benchmarks.published import MEAN, ONE_SHOT
from htdg.course import checks_09, draw_09
from htdg.course.check import NotRight
from htdg.nearest import nearest_distances
from htdg.patches import PixelPatches
from tests.course import NOTEBOOKS, answers, auroc

NAME = "09_is_it_worth_it"


@pytest.fixture(scope="module")
def solution():
    return answers(NAME)


# --- Exercises ----------------------------------------------------------------------------------


def table(image, normal, side, p=2.0):
    """(h * h, h * h) lengths of the differences of all patches, and the numbers of a patch."""
    unfold = torch.nn.Unfold(side)
    one, other = (unfold(x[None])[0].T for x in (image, normal))
    return torch.cdist(one, other, p=p), one.shape[1]


def nearest(image, normal, side, *, least=lambda t: t.amin(1), scale=lambda x, n: x / n**0.5, p=2):
    lengths, numbers = table(image, normal, side, p)
    h = image.shape[-1] - side + 1
    return scale(least(lengths), numbers).view(h, h)


def of_angles(image, normal, side):
    unfold = torch.nn.Unfold(side)
    one, other = (torch.nn.functional.normalize(unfold(x[None])[0].T) for x in (image, normal))
    return (1 - one @ other.T).amin(1).view(9, 9)


def of_means(image, normal, side):
    means = torch.nn.functional.avg_pool2d(torch.stack([image, normal]).mean(1), side, 1)
    gaps = (means[0].flatten()[:, None] - means[1].flatten()).abs().amin(1)
    return gaps.view(means[0].shape)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda x, y, s: nearest(x, y, s, least=lambda t: t.amax(1)), "the farthest patch"),
        (lambda x, y, s: nearest(x, y, s, least=lambda t: t.mean(1)), "average over all patches"),
        (lambda x, y, s: nearest(x, y, s, least=lambda t: t.amin(0)), "the other way round"),
        (lambda x, y, s: nearest(y, x, s), "the other way round"),
        (lambda x, y, s: nearest(x, y, s, least=torch.diagonal), "one in the same place"),
        (lambda x, y, s: nearest(x, y, s, scale=lambda d, n: d), "root of the 48 numbers"),
        (lambda x, y, s: nearest(x, y, s, scale=lambda d, n: d**2 / n), "That is the mean square"),
        (lambda x, y, s: nearest(x, y, s, scale=lambda d, n: d**2), "the sum of the squares"),
        (lambda x, y, s: nearest(x, y, s, scale=lambda d, n: d / s), "three channels"),
        (lambda x, y, s: nearest(x, y, s, scale=lambda d, n: d / n), "inside the root"),
        (lambda x, y, s: nearest(x, y, s, p=1, scale=lambda d, n: d / n), "absolute values"),
        (lambda x, y, s: nearest(x, y, s).T, "transposed"),
        (lambda x, y, s: nearest(x, y, s).flatten(), "in one row"),
        (lambda x, y, s: torch.zeros(12, 12), "not for each pixel"),
        (lambda x, y, s: nearest(x, y, s + 1), "9 patches of 4 in a row"),
        (of_means, "the means of the patches"),
        (lambda x, y, s: table(x, y, s)[0].argmin(1).view(9, 9), "argmin"),
        (lambda x, y, s: nearest(x[:1], y[:1], s), "one channel or the mean"),
        (lambda x, y, s: nearest(x.mean(0)[None], y.mean(0)[None], s), "one channel or the mean"),
        (of_angles, "cosine"),
        (lambda x, y, s: torch.zeros(9, 9), "The patch in the upper left must have 0."),
        (lambda x, y, s: None, "returns nothing"),
        (lambda x, y, s: 1 / 0, "It fails with ZeroDivisionError"),
    ],
)
def test_mistakes_about_the_nearest_patch(answer, said):
    with pytest.raises(NotRight, match=said):
        checks_09.check_nearest_patch(answer)


def shares(labels, scores, *, ties=0.5, others=lambda labels, i: labels != labels[i]):
    values = []
    for i, label in enumerate(labels):
        compared = scores[others(labels, i)]
        below, equal = (compared < scores[i]).mean(), (compared == scores[i]).mean()
        above = 1 - below - equal
        values.append((below if label else above) + ties * equal)
    return np.array(values)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda y, s: 1 - shares(y, s), "in the wrong order"),
        (lambda y, s: np.where(y == 1, shares(y, s), 1 - shares(y, s)), "Of a normal image"),
        (lambda y, s: shares(y, s, ties=0), "A tie counts one half"),
        (lambda y, s: shares(y, s, ties=1), "A tie counts one half"),
        (lambda y, s: stats.rankdata(s), "You rank among all images"),
        (lambda y, s: stats.rankdata(s) / len(s), "You rank among all images"),
        (lambda y, s: (s[:, None] > s).mean(1), "You rank among all images"),
        (lambda y, s: shares(y, s) * np.where(y == 1, 5, 4), "Those are counts"),
        (lambda y, s: shares(y, s) * np.where(y == 1, 5, 4) / 9, "the number of all images"),
        (lambda y, s: shares(y, s, others=lambda y, i: y == y[i]), "those of its own kind"),
        (lambda y, s: roc_auc_score(y, s), "Return 9 numbers"),
        (lambda y, s: np.full(9, 0.3), "Image 0, which is normal"),
        (lambda y, s: None, "returns nothing"),
    ],
)
def test_mistakes_about_shares(answer, said):
    with pytest.raises(NotRight, match=said):
        checks_09.check_shares(answer)


def interval(one, other, *, factor=None, ddof=1, power=0.5, level=0.975, freedom=-1):
    gap = one - other
    n = len(gap)
    factor = factor or stats.t.ppf(level, n + freedom)
    half = factor * gap.std(ddof=ddof) / n**power
    return gap.mean(), gap.mean() - half, gap.mean() + half


def unpaired(one, other, ddof=1, factor=2.776445):
    mean = (one - other).mean()
    half = factor * math.sqrt((one.var(ddof=ddof) + other.var(ddof=ddof)) / len(one))
    return mean, mean - half, mean + half


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda a, b: interval(b, a), "The sign is wrong"),
        (lambda a, b: (np.median(a - b), 0, 1), "That is the median"),
        (lambda a, b: (0.5, 0, 1), "must be the mean difference"),
        (lambda a, b: np.take(interval(a, b), [0, 2, 1]), "The lower end must come second"),
        (lambda a, b: np.add(interval(a, b), [0, 0.1, 0.1]), "not the mean difference in its"),
        (lambda a, b: np.take(interval(a, b), [1, 0, 2]), "in another order"),
        (lambda a, b: np.take(interval(a, b), [1, 2, 0]), "in another order"),
        (lambda a, b: interval(a, b) - (a - b).mean() * np.array([0, 1, 1]), "add the mean"),
        (lambda a, b: ((a - b).mean(), *np.quantile(a - b, (0.025, 0.975))), "quantiles or ends"),
        (lambda a, b: ((a - b).mean(), min(a - b), max(a - b)), "quantiles or ends"),
        (unpaired, "of both methods as unrelated"),
        (lambda a, b: unpaired(a, b, 0), "of both methods as unrelated"),
        (lambda a, b: unpaired(a, b, factor=1.96), "of both methods as unrelated"),
        (lambda a, b: interval(a, b, ddof=0), "n - 1 inside the standard deviation"),
        (lambda a, b: interval(a, b, power=0), "the interval of a single draw"),
        (lambda a, b: interval(a, b, power=1), "the root of n, not n"),
        (lambda a, b: interval(a, b, factor=1.96), "the factor of Student's t"),
        (lambda a, b: interval(a, b, factor=2), "the factor of Student's t"),
        (lambda a, b: interval(a, b, factor=1), "one standard error"),
        (lambda a, b: interval(a, b, level=0.95), "leaves out 5 % at either end"),
        (lambda a, b: interval(a, b, freedom=0), "n - 1 degrees of freedom"),
        (lambda a, b: interval(a, b, factor=5), "The interval must be"),
        (lambda a, b: interval(a, b)[1:], "Return 3 numbers"),
        (lambda a, b: None, "returns nothing"),
    ],
)
def test_mistakes_about_intervals(answer, said):
    with pytest.raises(NotRight, match=said):
        checks_09.check_interval(answer)


def bootstrap(labels, one, other, rng, repeats, *, ends=(0.025, 0.975), mistake="", share=1):
    values = []
    places = [np.flatnonzero(labels == label) for label in (0, 1)]

    def drawn():
        if mistake == "together":  # and what has one kind of images only is drawn again
            while True:
                chosen = rng.choice(len(labels), len(labels))
                if len(set(labels[chosen])) == 2:
                    return chosen
        rows = [rng.choice(p, int(len(p) * share), replace=mistake != "once") for p in places]
        return np.concatenate(rows)

    for _ in range(repeats):
        first = drawn()
        second = drawn() if mistake == "apart" else first
        kinds = labels[first], labels[second]
        if mistake == "labels":
            kinds = [rng.permutation(kinds[0])] * 2
        aurocs = auroc(kinds[0], one[first]), auroc(kinds[1], other[second])
        values.append(aurocs[0] - aurocs[1])
    return np.quantile(values, ends)


def of_the_mean(labels, one, other, rng, repeats):
    drawn = draw_09.bootstrap_differences(labels, one, other, repeats)
    return drawn.mean() + np.array([-2, 2]) * drawn.std() / math.sqrt(repeats)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda *a: bootstrap(*a, mistake="apart"), "judge both methods by the same drawn images"),
        (lambda *a: bootstrap(*a, mistake="once"), "with replacement"),
        (lambda *a: -bootstrap(*a)[::-1], "The sign is wrong"),
        (lambda *a: bootstrap(*a)[::-1], "The lower end must come first"),
        (lambda *a: bootstrap(*a) + 0.05, "must lie around the difference"),
        (lambda *a: bootstrap(*a, ends=(0.05, 0.95)), "too narrow"),
        (lambda *a: bootstrap(*a, ends=(0.005, 0.995)), "too wide"),
        (lambda *a: bootstrap(*a, share=0.5), "too wide"),
        (of_the_mean, "far too narrow"),
        (lambda *a: bootstrap(*a, mistake="labels"), "labels and scores apart"),
        (lambda y, a, b, rng, n: bootstrap(y, a, 0 * b, rng, n) + 0.5, "of a single AUROC"),
        (lambda *a: bootstrap(*a, mistake="together"), "anomalous images each by themselves"),
        (lambda *a: (math.nan, 0.9), "An end is NaN"),
        (lambda *a: bootstrap(*a).mean(), "Return 2 numbers"),
        (lambda *a: None, "returns nothing"),
    ],
)
def test_mistakes_about_the_paired_bootstrap(answer, said):
    with pytest.raises(NotRight, match=said):
        checks_09.check_paired_bootstrap(answer)


def test_other_right_answers_pass(capsys):
    def library(image, normal, side):
        starts = torch.arange(image.shape[-1] - side + 1)
        rows = [PixelPatches(side)(x[None], starts)[0] for x in (image, normal)]
        return nearest_distances(*rows).view(len(starts), -1).double()

    checks_09.check_nearest_patch(library)
    checks_09.check_shares(draw_09.shares_right)
    checks_09.check_interval(draw_09.paired_interval)
    checks_09.check_paired_bootstrap(
        lambda y, a, b, rng, n: np.quantile(
            draw_09.bootstrap_differences(y, a, b, n, 5), (0.025, 0.975)
        )
    )
    assert capsys.readouterr().out.count("Right: ") == 4


def test_the_answers_agree_with_the_library(solution):
    rng = np.random.default_rng(2)
    labels = rng.permutation(np.repeat([0, 1], 20))
    one, other = np.round(rng.normal(0, 1, (2, 40)) + labels, 1)
    mine = solution["my_shares"](labels, one)
    np.testing.assert_allclose(mine, draw_09.shares_right(labels, one))
    assert mine[labels == 0].mean() == pytest.approx(roc_auc_score(labels, one))
    expected = draw_09.paired_interval(one, other)
    np.testing.assert_allclose(solution["my_paired_interval"](one, other), expected, rtol=1e-12)
    mine = solution["my_paired_bootstrap"](labels, one, other, rng, 400)
    drawn = draw_09.bootstrap_differences(labels, one, other)
    np.testing.assert_allclose(mine, np.quantile(drawn, (0.025, 0.975)), atol=0.05)
    image = torch.zeros(3, 7, 7)
    normal = torch.full((3, 7, 7), 0.5)
    mine = solution["my_nearest_patch"](image, normal, 3)
    torch.testing.assert_close(mine, torch.full((5, 5), 0.5))


# --- Statistics ---------------------------------------------------------------------------------


def test_shares_right_by_hand():
    labels, scores = [1, 0, 0, 1], [0.5, 0.5, 0.1, 0.3]
    np.testing.assert_allclose(draw_09.shares_right(labels, scores), [0.75, 0.25, 1, 0.5])


def test_paired_interval_by_hand():
    mean, low, high = draw_09.paired_interval([3.0, 5.0], [1.0, 1.0])  # 2 and 4
    assert mean == 3
    assert high - mean == pytest.approx(12.7062, abs=1e-3)  # t of one degree, error 1
    assert mean - low == pytest.approx(high - mean)
    scipy = stats.ttest_rel([1.0, 2, 4, 8], [0.0, 2, 5, 6]).confidence_interval(0.95)
    np.testing.assert_allclose(draw_09.paired_interval([1, 2, 4, 8], [0, 2, 5, 6])[1:], scipy)


def test_verdict():
    assert draw_09.verdict(0.1, 0.2, "a", "b") == "a better than b"
    assert draw_09.verdict(-0.2, -0.1, "a", "b") == "b better than a"
    assert draw_09.verdict(-0.1, 0.1, "a", "b") == "may be chance"
    assert draw_09.verdict(0, 0, "a", "b") == "may be chance"


def test_bootstrap_differences_judge_both_by_the_same_images():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 30)
    one = rng.normal(0, 1, 60) + labels
    assert (draw_09.bootstrap_differences(labels, one, 2 * one + 1, 100) == 0).all()
    other = rng.normal(0, 1, 60) + labels
    drawn = draw_09.bootstrap_differences(labels, one, other, 3000)
    gap = roc_auc_score(labels, one) - roc_auc_score(labels, other)
    assert drawn.mean() == pytest.approx(gap, abs=0.01)


# --- Figures ------------------------------------------------------------------------------------


def shown(ax):
    return np.asarray(ax.images[0].get_array())


def test_draw_stages_gives_each_map_its_own_colours():
    mask = np.zeros((8, 8), bool)
    mask[2:4, 2:4] = True
    stages = {"a": np.arange(4.0).reshape(2, 2), "b": np.arange(9.0).reshape(3, 3)}
    axes = draw_09.draw_stages(np.zeros((8, 8), np.uint8), mask, stages).axes
    np.testing.assert_array_equal(shown(axes[1]), stages["a"])
    assert axes[2].images[0].get_clim() == (0, 8)
    assert [ax.get_title() for ax in axes[:3]] == ["the image", "a", "b"]


def test_draw_shares_has_votes_upwards():
    votes, distance = {"x": np.array([0.9, 0.2])}, {"x": np.array([0.1, 0.3])}
    (ax,) = draw_09.draw_shares(votes, distance, {"x": ["hole", "stain"]}).axes
    marks = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert marks["hole"] == [[0.1, 0.9]]
    assert marks["stain"] == [[0.3, 0.2]]
    assert marks["scratch"] == []


def test_draw_wins_has_three_rows():
    images = np.random.default_rng(0).integers(0, 255, (2, 6, 6), dtype=np.uint8)
    maps = np.random.default_rng(1).random((4, 6, 6))
    figure = draw_09.draw_wins(images, [None, images[1] > 99], ["a", "b"], maps[:2], maps[2:])
    axes = np.array(figure.axes).reshape(3, 2)
    np.testing.assert_array_equal(shown(axes[1, 1]), maps[1])
    np.testing.assert_array_equal(shown(axes[2, 0]), maps[2])
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["image", "votes", "distances"]
    assert axes[0, 1].get_title() == "b"
    assert len(axes[2, 1].collections) > len(axes[2, 0].collections)  # the outline


def test_draw_changes_has_a_row_for_each_change():
    aurocs = {"brick": {"votes": np.array([0.9, 0.5]), "distance": np.array([0.4, 0.6])}}
    (ax,) = draw_09.draw_changes(["turn", "blur"], aurocs).axes
    np.testing.assert_array_equal(ax.lines[1].get_xdata(), [0.9, 0.5])
    np.testing.assert_array_equal(ax.lines[2].get_xdata(), [0.4, 0.6])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["turn", "blur"]


def test_draw_intervals_draws_every_draw_and_the_interval():
    (ax,) = draw_09.draw_intervals({"a": np.array([2.0, 4.0])}).axes
    assert [line.get_xdata()[0] for line in ax.lines[:2]] == [2, 4]
    ends = ax.containers[0].lines[2][0].get_segments()[0][:, 0]
    np.testing.assert_allclose(ends, draw_09.paired_interval([2, 4], [0, 0])[1:])


def test_draw_pairing_names_the_intervals():
    one, two = draw_09.draw_pairing(np.linspace(0, 1, 201), np.linspace(-1, 1, 201)).axes
    assert one.get_title() == "in pairs: +0.025 to +0.975"
    assert two.get_title() == "apart: -0.950 to +0.950"
    assert sum(bar.get_height() for bar in two.patches) == 201


def test_draw_luck_draws_means():
    chosen, fresh = np.array([[0.4, 0.6], [0.7, 0.9]]), np.array([[0.5, 0.5], [0.4, 0.5]])
    (ax,) = draw_09.draw_luck([1, 10], chosen, fresh).axes
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[1, 0.5], [10, 0.8]])
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [0.5, 0.45])


def test_draw_published_has_a_panel_for_each_figure():
    axes = draw_09.draw_published({"a": [(0.9, 0.1), (0.8, 0.0), (0.7, 0.2)]}).axes
    assert [ax.get_xlabel() for ax in axes] == ["image AUROC", "pixel AUROC", "AUPRO"]
    assert [ax.texts[0].get_text() for ax in axes] == ["0.900", "0.800", "0.700"]
    ends = axes[2].containers[0].lines[2][0].get_segments()[0][:, 0]
    np.testing.assert_allclose(ends, [0.5, 0.9])


# --- The page -----------------------------------------------------------------------------------


def test_published_figures_are_those_with_their_sources():
    notebook = nbformat.read(NOTEBOOKS / "solutions" / f"{NAME}.ipynb", as_version=4)
    (cell,) = (cell for cell in notebook["cells"] if cell.get("id") == "published")
    defined = {}
    exec(cell["source"].split("\nshow(")[0], defined)
    of_all_classes = [row for row in ONE_SHOT if row.images == MEAN]
    expected = {row.method: [row.image_auroc, row.pixel_auroc, row.aupro] for row in of_all_classes}
    assert defined["published"] == expected
    (bottle, grid) = (row for row in ONE_SHOT if row.images != MEAN)
    text = " ".join(cell["source"] for cell in notebook["cells"])
    numbers = (*bottle.image_auroc, *grid.image_auroc, *bottle.aupro, *grid.aupro)
    assert "gives {} and {}, and {} and {}".format(*(f"{n:.3f}" for n in numbers)) in text
