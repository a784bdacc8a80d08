"""Notebook 04: the answers pass their checks, typical mistakes are told, figures hold the data."""

import re

import numpy as np
import pytest
import torch
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score, roc_curve

from htdg.course import checks_04, draw_04
from htdg.course.check import NotRight
from htdg.course.frozen import frozen
from htdg.course.placed import KINDS, placed_defect
from htdg.datasets.samples import texture_set
from htdg.evaluation.plots import ANOMALOUS, NORMAL
from htdg.localisation import patch_votes
from htdg.transformations import transformations_named
from htdg.votes import aggregate_votes, votes_from_logits
from tests.course import answers


@pytest.fixture(scope="module")
def solution():
    return answers("04_vote_aggregation")


def own_class(values):
    return torch.stack([values[k, k] for k in range(len(values))])


def diverging(logits):
    """Right, but for large logits."""
    e = logits[:, : len(logits)].exp()
    return own_class(e / e.sum(1, keepdim=True))


def of_the_notebook(logits):
    """Right, but for the notebook's number of turns only."""
    probabilities = logits[:, :4].softmax(1)
    return torch.stack([probabilities[m, m] for m in range(4)])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda x: own_class(x.softmax(1)), '"generated" has a say in your votes'),
        (lambda x: x.softmax(1)[:, -1], 'That is the probability of "generated"'),
        (lambda x: x[:, :-1].softmax(1), "all probabilities of every patch"),
        (lambda x: own_class(x[:, :-1].softmax(1)).mean((1, 2)), "must have shape (3, 5, 7)"),
        (lambda x: x[:, :-1].softmax(1).amax(1), "the most likely class. A vote is for"),
        (lambda x: x.softmax(1)[:, :-1].amax(1), "And it is the copy's own class, not the most"),
        (lambda x: own_class(x[:, :-1].softmax(0)), "not over the copies, axis 0"),
        (lambda x: own_class(x[:, :-1].softmax(2)), "not over the rows of the map, axis 2"),
        (lambda x: own_class(x[:, :-1].softmax(3)), "not over the columns of the map, axis 3"),
        (lambda x: own_class(x[:, :-1]), "take the softmax first"),
        (lambda x: own_class(x[:, :-1].exp()), "do not divide by the sum"),
        (lambda x: own_class(x[:, :-1].log_softmax(1)), "logarithms of votes"),
        (lambda x: x[:, :-1].softmax(1)[:, 0], "class 0 of every copy"),
        (lambda x: own_class(x[:, :-1].softmax(1)).numpy(), "Return a tensor, not an ndarray"),
        (lambda x: own_class(x[:, :-1].softmax(1)) ** 2, "not those of the library"),
        (lambda x: x[:, :-1].softmax(1).diagonal(), "diagonal puts the copies last"),
        (lambda x: 1 - own_class(x[:, :-1].softmax(1)), "one minus the votes"),
        (lambda x: x[:, :-1].softmax(1).mean(1), "which is 1/M everywhere"),
        (lambda x: own_class(x[:, :-1] == x[:, :-1].amax(1, True)), "Yours are 0 or 1"),
        (lambda x: own_class(x[:, 1:].softmax(1)), "You leave out the first class"),
        (diverging, "With large logits exp overflows"),
        (of_the_notebook, "which has M = 3: take M from the argument, len(logits)"),
    ],
)
def test_mistakes_with_votes(answer, said):
    with pytest.raises(NotRight, match=re.escape(said)):
        checks_04.check_votes(answer)


def test_double_precision_is_no_mistake(capsys):
    checks_04.check_votes(lambda x: own_class(x[:, :-1].double().softmax(1)))
    assert capsys.readouterr().out.startswith("Right")


def turned(i, j, k, last):
    for _ in range(k):
        i, j = j, last - i
    return i, j


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda i, j, k, s: (i, j), "its centre lies 5 pixels further"),
        (lambda i, j, k, s: turned(i, j, k, s - 1), "its centre lies 5 pixels further"),
        (lambda i, j, k, s: (i + 6, j + 6), "The middle one of 11 pixels is 5 after the first"),
        (lambda i, j, k, s: (i + 5.5, j + 5.5), "The middle one of 11 pixels is 5 after"),
        (lambda i, j, k, s: (j + 5, i + 5), "Row and column are swapped"),
        (lambda i, j, k, s: (i + 4, j + 4), "has its centre at (7, 14), but you get"),
        (lambda i, j, k, s: (i + 5, j + 5), "You never undo the turn"),
        (lambda i, j, k, s: turned(i + 5, j + 5, -k % 4, s - 1), "You turn the copy on instead"),
        (lambda i, j, k, s: turned(i + 5, j + 5, k, s), "One pixel too far"),
        (
            lambda i, j, k, s: tuple(v + 5 for v in turned(i, j, k, s - 1)),
            "Add 5 first, then turn back",
        ),
        (lambda i, j, k, s: turned(i + 5, j + 5, k, s - 11), "You turn back within side - 10"),
        (lambda i, j, k, s: turned(i + 5, j + 5, min(k, 1), s - 1), "undo k of them"),
        (lambda i, j, k, s: (j + 5, i + 5) if k % 2 else (i + 5, j + 5), "that mirrors the image"),
        (lambda i, j, k, s: turned(i + 5, j + 5, k, 24), "but not for side 41"),
        (lambda i, j, k, s: turned(i + 5, j + 5, min(k, 2), s - 1), "For k = 3 the patch (2, 9)"),
        (lambda i, j, k, s: i + 5, "Return two numbers"),
        (lambda i, j, k, s: torch.tensor(i + 5), "Return two numbers"),
        (lambda i, j, k, s: (i + 5, j + 5, k), "Return two numbers"),
    ],
)
def test_mistakes_with_places(answer, said):
    with pytest.raises(NotRight, match=re.escape(said)):
        checks_04.check_place(answer)


@pytest.mark.parametrize("form", [torch.tensor, np.array, list])
def test_a_place_may_be_a_tensor_an_array_or_a_list(form, capsys):
    checks_04.check_place(lambda i, j, k, s: form(turned(i + 5, j + 5, k, s - 1)))
    assert capsys.readouterr().out.startswith("Right")


def test_turning_the_map_and_then_adding_5_is_right_too(capsys):
    def place(i, j, k, side):
        return tuple(v + 5 for v in turned(i, j, k, side - 10 - 1))

    checks_04.check_place(place)
    assert capsys.readouterr().out.startswith("Right")


@pytest.mark.parametrize("k", range(4))
def test_places_are_those_of_the_library(solution, k):
    side, turns = 25, transformations_named("rotations")
    votes = torch.zeros(4, 1, 15, 15)
    votes[k, 0, 2, 9] = 1
    vote_map, _ = patch_votes(votes, turns, side, "pixel")
    row, column = np.argwhere(vote_map[0].numpy() > 0)[0] + 5
    assert solution["my_place"](2, 9, k, side) == (row, column)


def scales_of(votes):
    return [of_scale.mean((1, 2)).sum() for of_scale in votes]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda v: np.mean(scales_of(v)), "That is the normality, in [0, M]"),
        (lambda v: np.mean(scales_of(v)) / 3, "Higher must be more anomalous"),
        (lambda v: 1 - np.mean(scales_of(v)), "forgot to divide the normality by M"),
        (lambda v: 1 - np.sum(scales_of(v)) / 3, "add the scales up: take their mean"),
        (lambda v: 1 - np.sum(scales_of(v)), "Divide by the number of scales and by M"),
        (lambda v: 1 - np.mean(scales_of(v)) / 9, "twice by M"),
        (lambda v: 1 - np.concatenate([x.ravel() for x in v]).mean(), "all scales together"),
        (lambda v: 3 - np.mean(scales_of(v)), "divide by M"),
        (lambda v: 1 - np.array(scales_of(v)) / 3, "Return one number, but you return 5"),
        (lambda v: 1 - np.mean(scales_of(v)) / len(v), "twice by the number of scales"),
        (lambda v: 1 - np.mean(scales_of(v)) / 4, "The test has M = 3, but you divide by 4"),
        (lambda v: 1 - np.sum(scales_of(v)) / 4 / 4, "And the number of scales is len(v"),
        (lambda v: 1 - np.sum(scales_of(v)) / 4 / 3, "The test has 5 scales, but you divide by 4"),
        (lambda v: 1 - np.mean([x.sum() for x in v]) / 3, "You add up the patches of a scale"),
        (lambda v: 1 - np.mean([x.sum() for x in v]), "You add up the patches of a scale"),
        (lambda v: 1 - np.mean([x.mean(axis=0).sum() for x in v]), "You add up the patches of a"),
        (lambda v: 1 - np.mean([x.mean(axis=0).sum() for x in v]) / 3, "Divide by M once only"),
        (lambda v: 1 - np.array(v).mean(), "The scales have different h"),
        (lambda v: 1 - np.stack(v).mean(), "The scales have different h"),
        (lambda v: 1 - np.mean(scales_of(v)) / 3 + 2, "must be at most 1"),
        (lambda v: 1 - v[1].mean(), "For the test votes it must be"),
        (lambda v: 1 - v[0].mean(), "You take the coarsest scale only"),
        (lambda v: 1 - v[-1].mean(), "You take the finest scale only"),
        (lambda v: 1 - np.median([x.mean() for x in v]), "You take the median of the scales"),
        (lambda v: 1 - np.mean(scales_of(v)) / 3 if len(v) == 5 else 0.5, "With M = 5 and every"),
    ],
)
def test_mistakes_with_scores(answer, said):
    with pytest.raises(NotRight, match=re.escape(said)):
        checks_04.check_score(answer)


def rows_of(votes):
    return np.sort(votes.reshape(len(votes), -1), axis=1)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda v, f: rows_of(v)[:, -3:].mean(1).sum(), "You average the highest votes"),
        (lambda v, f: 4 * np.sort(v.ravel())[:14].mean(), "of all transformations together."),
        (lambda v, f: np.sort(v.ravel())[:14].mean(), "together (and their mean)"),
        (
            lambda v, f: rows_of(v)[:, :4].mean(1).sum(),
            "the lowest 4 of 36 patches, but int(36 * 0.1)",
        ),
        (
            lambda v, f: sum(x[x <= np.quantile(x, f)].mean() for x in rows_of(v)),
            "the lowest 4 of 36 patches, but int(36 * 0.1)",
        ),
        (lambda v, f: rows_of(v)[:, : int(v.size * f)].mean(1).sum(), "votes.size counts"),
        (lambda v, f: np.sort(v.mean(0).ravel())[:3].mean(), "the transformations before you sort"),
        (lambda v, f: 4 * np.sort(v.mean(0).ravel())[:3].mean(), "transformations before you sort"),
        (lambda v, f: 1 - rows_of(v)[:, :3].mean(1).sum(), "That is one minus the normality"),
        (lambda v, f: 4 - rows_of(v)[:, :3].mean(1).sum(), "That is M minus the normality"),
        (lambda v, f: 1 - rows_of(v)[:, :3].mean(), "the anomaly score of the scale"),
        (
            lambda v, f: np.sort(v).reshape(4, -1)[:, :3].mean(1).sum(),
            "every row of the map by itself",
        ),
        (
            lambda v, f: np.sort(v.reshape(4, -1), axis=0)[:, :3].mean(1).sum(),
            "(axis 0 would mix the transformations)",
        ),
        (lambda v, f: rows_of(v)[:, :3].mean(), "their means are added"),
        (lambda v, f: rows_of(v)[:, :3].sum(), "You add the lowest votes up"),
        (lambda v, f: np.sort(v, 2)[:, :, :1].mean((1, 2)).sum(), "every row of the map by itself"),
        (lambda v, f: v.mean((1, 2)).sum(), "only the lowest ones count"),
        (
            lambda v, f: v.reshape(4, -1)[:, :3].mean(1).sum(),
            "You take the first patches of the map, not the lowest",
        ),
        (lambda v, f: v.min((1, 2)).sum(), "the lowest vote of each transformation alone"),
        (lambda v, f: 0.5, "For the test votes it must be"),
        (lambda v, f: np.quantile(rows_of(v), f, axis=1).sum(), "(a quantile): average all"),
        (lambda v, f: rows_of(v)[:, : v[0].size * f].mean(1).sum(), "round it down with int"),
        (lambda v, f: v[v < f].sum(), "a share of the patches, not a vote"),
        (
            lambda v, f: np.argsort(v.reshape(4, -1), 1)[:, :3].mean(1).sum(),
            "Those are the places of the lowest votes",
        ),
        (
            lambda v, f: rows_of(v)[:, : int(v[0].size * f)].mean(1).sum(),
            "the mean of nothing is NaN: take at least one patch",
        ),
        (lambda v, f: rows_of(v)[:, : max(3, int(v[0].size * f))].mean(1).sum(), "one patch must"),
        (lambda v, f: rows_of(v)[:, : max(1, int(v[0].size * f) % 36)].mean(1).sum(), "fraction 1"),
    ],
)
@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value encountered")
def test_mistakes_with_the_lowest_votes(answer, said):
    with pytest.raises(NotRight, match=re.escape(said)):
        checks_04.check_lowest(answer)


right_auroc = roc_auc_score  # by another name, which the check does not refuse


def by_rectangles(labels, scores, side):
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    return np.sum(np.diff(fpr) * (tpr[:-1] if side == "left" else tpr[1:]))


def differences(labels, scores):
    return scores[labels == 1][:, None] - scores[labels == 0][None, :]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda y, s: (differences(y, s) > 0).mean(), "The tie counts nothing"),
        (lambda y, s: (differences(y, s) >= 0).mean(), "The tie counts as a success"),
        (lambda y, s: 1 - right_auroc(y, s), "Upside down: count the pairs"),
        (lambda y, s: (differences(y, s) < 0).mean(), "Upside down, and the tie is left out"),
        (lambda y, s: right_auroc(y, s) * differences(y, s).size, "You give the number of pairs"),
        (lambda y, s: right_auroc(y, s) * 12 / 49, "You divide by all 7 * 7 pairs"),
        (lambda y, s: right_auroc(y, s) * 12 / 21, "You divide by 21"),
        (lambda y, s: right_auroc(y, s) * 12 / 7, "You divide by the number of images"),
        (lambda y, s: (differences(y, s) > 0).sum(), "and leave out the tie: add 1/2"),
        (
            lambda y, s: (differences(y, s) > 0).mean() + (differences(y, s) == 0).sum() / 2,
            "but not the ties",
        ),
        (lambda y, s: differences(y, s).mean(), "By how much does not matter"),
        (lambda y, s: (s[y == 1] > np.median(s[y == 0])).mean(), "with one threshold"),
        (lambda y, s: ((s > 0.5) == y).mean(), "The AUROC has no threshold"),
        (lambda y, s: s.mean(), "For the test scores it must be"),
        (lambda y, s: right_auroc(y, s) if len(set(s)) > 1 else 0, "If all scores are equal"),
        (lambda y, s: right_auroc(y[:7], s[:7]), "but for 60 it must be"),
        (lambda y, s: differences(y, s), "Return one number, but you return 12"),
        (
            lambda y, s: np.mean([a > b for a, b in zip(s[y == 1], s[y == 0], strict=False)]),
            "You pair the first anomalous image with the first normal one",
        ),
        (lambda y, s: by_rectangles(y, s, "left"), "trapezoids for rectangles"),
        (lambda y, s: by_rectangles(y, s, "right"), "rectangles for trapezoids"),
        (lambda y, s: roc_auc_score(y, s), "the function of a library"),
    ],
)
def test_mistakes_with_auroc(answer, said):
    with pytest.raises(NotRight, match=re.escape(said)):
        checks_04.check_auroc(answer)


def test_the_answers_are_those_of_the_library(solution):
    rng = np.random.default_rng(3)
    logits = torch.from_numpy(rng.normal(size=(5, 6, 4, 4)))
    votes = votes_from_logits(logits)
    torch.testing.assert_close(solution["my_votes"](logits), votes)
    of_scale = rng.random((4, 9, 9))
    for fraction in (0.001, 0.05, 0.5, 1):
        expected = aggregate_votes(torch.from_numpy(of_scale[:, None]), fraction).item()
        assert solution["my_lowest"](of_scale, fraction) == pytest.approx(expected)
    labels, scores = rng.integers(0, 2, 50), rng.integers(0, 5, 50)
    assert solution["my_auroc"](labels, scores) == pytest.approx(roc_auc_score(labels, scores))


# --- Figures ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labels_and_scores():
    """Labels and scores of 30 images, with a tie between the kinds."""
    rng = np.random.default_rng(4)
    labels = np.repeat([0, 1], [12, 18])
    scores = rng.uniform(0.3, 0.7, 30) + 0.15 * labels
    scores[20] = scores[5]
    return labels, scores


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_patches_are_found_by_their_share_of_the_way():
    assert draw_04.patch_at(0, 0, 15) == (0, 0)
    assert draw_04.patch_at(1, 0.5, 15) == (14, 7)
    assert draw_04.patch_at(0.3, 0.2, 25) == (7, 5)


def test_the_table_of_logits():
    rng = np.random.default_rng(0)
    image, patches = np.zeros((25, 25, 3), np.uint8), np.zeros((4, 11, 11, 3), np.uint8)
    logits = rng.normal(size=(4, 5))
    probabilities = torch.from_numpy(logits[:, :4]).softmax(1).numpy()
    figure = draw_04.draw_logits(image, 3, 7, patches, logits, probabilities)
    of_image, *_, of_logits, of_probabilities = figure.axes
    assert of_image.patches[0].get_xy() == (6.5, 2.5)
    assert of_image.patches[0].get_width() == 11
    assert np.array_equal(of_logits.images[0].get_array(), logits)
    assert texts(of_logits)[:2] == [f"{logits[0, 0]:.1f}", f"{logits[0, 1]:.1f}"]
    assert [label.get_text() for label in of_logits.get_xticklabels()][-1] == "generated"
    framed = [frame.get_xy() for frame in of_probabilities.patches]
    assert framed == [(k - 0.5, k - 0.5) for k in range(4)]


def test_the_confusions():
    tables = {"a": np.eye(4), "b": np.full((4, 4), 0.25)}
    figure = draw_04.draw_confusions(tables)
    assert [ax.get_title() for ax in figure.axes[:2]] == ["a", "b"]
    assert np.array_equal(figure.axes[0].images[0].get_array(), np.eye(4))
    assert texts(figure.axes[1]) == ["0.25"] * 16
    assert texts(figure.axes[0])[:2] == ["1.00", "0.00"]


def test_the_vote_maps():
    rng = np.random.default_rng(1)
    maps = rng.random((4, 15, 15))
    located = np.stack([np.rot90(maps[k], -k) for k in range(4)])
    image, copies = np.zeros((25, 25, 3), np.uint8), np.zeros((4, 25, 25, 3), np.uint8)
    figure = draw_04.draw_vote_maps(image, copies, maps, located)
    axes = np.array(figure.axes[:15]).reshape(3, 5)
    for k in range(4):
        assert np.array_equal(axes[1, k].images[0].get_array(), maps[k])
        assert f"{maps[k].mean():.2f}" in axes[1, k].get_title()
        assert np.array_equal(axes[2, k].images[0].get_array(), located[k])
    assert np.allclose(axes[2, 4].images[0].get_array(), located.mean(0))
    for ax in (axes[1, 0], axes[2, 3], axes[2, 4]):  # patch (0, 0) lies at the pixel (5, 5)
        assert tuple(ax.images[0].get_extent()) == (4.5, 19.5, 19.5, 4.5)
        assert ax.get_xlim() == (-0.5, 24.5)
        assert ax.get_ylim() == (24.5, -0.5)
    frame = axes[0, 4].patches[0]
    assert (*frame.get_xy(), frame.get_width()) == (4.5, 4.5, 15)  # the pixels 5 to 19


def test_one_patch_and_its_votes():
    rng = np.random.default_rng(2)
    images = [rng.integers(0, 256, (side, side, 3), np.uint8) for side in (25, 30)]
    votes = [rng.random((4, side - 10, side - 10)) for side in (25, 30)]
    figure = draw_04.draw_patch(images, votes, 1, 0.5, 1)
    left, middle, right = figure.axes
    row, column = 10, 19
    assert left.get_title() == "scale 1: 30 x 30 px"
    assert left.patches[0].get_xy() == (column - 0.5, row - 0.5)
    assert [left.get_xlabel(), left.get_ylabel()] == ["column (px)", "row (px)"]
    assert np.array_equal(middle.images[0].get_array(), images[1])
    assert middle.get_xlim() == (column - 0.5, column + 10.5)  # 11 pixels, whole
    assert middle.get_ylim() == (row + 10.5, row - 0.5)
    assert list(middle.get_yticks()) == [row, row + 10]
    assert right.get_ylim() == (0, 1)  # a vote is a probability
    heights = [bar.get_height() for bar in right.patches]
    assert np.allclose(heights, votes[1][:, row, column])
    lines = {line.get_label(): line.get_ydata()[0] for line in right.lines}
    mean = votes[1][:, row, column].mean()
    assert lines == {"no information (1/4)": 0.25, f"mean vote {mean:.2f}": pytest.approx(mean)}


def test_the_lowest_votes():
    means = np.arange(12.0).reshape(2, 6) / 12
    labels = [0, 0, 0, 1, 1, 1]
    figure = draw_04.draw_lowest(means, labels, (0.05, 1), (0.9, 0.6))
    left, right = figure.axes
    curves = {line.get_label(): line.get_xydata().tolist() for line in left.lines}
    assert curves["normal images"] == [[5, 1 / 12], [100, 7 / 12]]
    assert curves["anomalous images"] == [[5, 4 / 12], [100, 10 / 12]]
    assert right.lines[0].get_xydata().tolist() == [[5, 0.9], [100, 0.6]]
    assert [tick.get_text() for tick in right.get_xticklabels()] == ["5", "100"]


def test_rates_by_hand():
    labels, scores = np.array([0, 0, 1, 1, 1]), np.array([0.1, 0.5, 0.4, 0.5, 0.9])
    assert draw_04.rates(labels, scores, 0.5) == (0.5, pytest.approx(2 / 3))
    assert draw_04.rates(labels, scores, np.inf) == (0, 0)
    assert draw_04.rates(labels, scores, 0) == (1, 1)


def test_the_threshold_and_its_point(labels_and_scores):
    labels, scores = labels_and_scores
    threshold = float(np.median(scores))
    figure = draw_04.draw_threshold(labels, scores, threshold)
    left, right = figure.axes
    flagged = scores >= threshold
    x, y = flagged[labels == 0].mean(), flagged[labels == 1].mean()
    tick_labels = [tick.get_text() for tick in left.get_yticklabels()]
    assert tick_labels[0] == f"normal:\n{flagged[:12].sum()} of 12\nflagged"
    assert tick_labels[1] == f"anomalous:\n{flagged[12:].sum()} of 18\nflagged"
    dots = [line for line in left.lines if line.get_marker() in ("o", "^")]
    assert [sorted(line.get_xdata()) for line in dots] == [sorted(scores[:12]), sorted(scores[12:])]
    for line, colour in zip(dots, (NORMAL, ANOMALOUS), strict=True):
        assert same_color(line.get_color(), colour)
    lines = {line.get_label(): line.get_xydata() for line in right.lines}
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert np.allclose(lines["all thresholds"], np.column_stack([fpr, tpr]))
    assert np.allclose(lines["this threshold"], [[x, y]])
    assert f"{x:.2f}" in right.get_xlabel()


def test_the_pairs(labels_and_scores):
    labels, scores = labels_and_scores
    won = draw_04.outcomes(labels, scores)
    assert won.shape == (18, 12)
    assert won.mean() == pytest.approx(roc_auc_score(labels, scores))
    assert (won == 0.5).sum() == 1
    assert (np.diff(won, axis=0) <= 0).all()  # down the ranks an anomalous image wins less
    assert (np.diff(won, axis=1) >= 0).all()
    figure = draw_04.draw_pairs(labels, scores)
    (ax,) = figure.axes
    assert np.array_equal(ax.collections[0].get_array().reshape(won.shape), won)
    assert ax.get_title() == f"216 pairs, {100 * won.mean():.1f} % of the area is blue"
    assert len(ax.lines[0].get_xdata()) == (won == 0).sum()


def test_the_tables_of_aurocs():
    table = np.array([[0.5, 0.6, 0.7], [0.8, 0.9, 1.0]])
    figure = draw_04.draw_aurocs({"t": (table, ["s", "mean"], ["a", "b", "sum"], "turned by")})
    ax = figure.axes[0]
    assert np.array_equal(ax.images[0].get_array(), table)
    assert texts(ax) == ["0.50", "0.60", "0.70", "0.80", "0.90", "1.00"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["a", "b", "sum"]


def test_numbers_can_be_read_on_their_colours():
    figure = draw_04.draw_aurocs({"t": (np.array([[0.5, 1.0]]), ["r"], ["a", "b"], "")})
    light, dark = figure.axes[0].texts
    assert (light.get_color(), dark.get_color()) == ("black", "white")


def test_one_kind_against_good():
    kinds = ["good", "good", "hole", "stain"]
    scores = np.array([0.2, 0.6, 0.4, 0.9])
    assert draw_04.auroc_against_good(scores, kinds, "hole") == 0.5
    assert draw_04.auroc_against_good(scores, kinds, "stain") == 1


def test_a_placed_figure_shows_each_wall_anew():
    normal = np.array([0.80, 0.82, 0.84, 0.86])
    placed = draw_04.PlacedFigure(normal, 96)
    mask = np.zeros((96, 96), bool)
    mask[40:50, 60:70] = True
    walls = np.zeros((2, 96, 96), np.uint8)
    walls[1] = 7
    maps = np.full((2, 96, 96), 0.5)
    maps[0, 30, 20], maps[1, 44, 61] = 0.8, 0.9
    placed.draw(walls[0], ~mask, maps[0], 0.83)
    left, middle, right, _bar = placed.draw(walls[1], mask, maps[1], 0.85).axes
    assert np.array_equal(left.images[0].get_array(), walls[1])
    assert np.array_equal(middle.images[0].get_array(), maps[1])
    assert middle.images[0].get_clim() == draw_04.MAP_RANGE  # the same for every wall
    assert middle.lines[0].get_xydata().tolist() == [[61, 44]]
    assert len(middle.collections) == 1  # the old outline is gone
    xs, ys = middle.collections[0].get_paths()[0].vertices.T
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (59.5, 69.5, 39.5, 49.5)
    assert left.get_xlim() == middle.get_xlim() == (-0.5, 95.5)
    assert sorted(right.lines[0].get_xdata()) == sorted(normal)
    assert right.lines[1].get_xydata().tolist() == [[0.85, 1]]
    assert right.get_title() == "score 0.850: above 3 of 4"


# --- A defect where one wants it ----------------------------------------------------------------


@pytest.fixture(scope="module")
def wall_and_gravel():
    gravel = texture_set("gravel", train=1, good=1, per_defect=0).test[0]
    return texture_set("brick", train=1, good=20, per_defect=0).test, gravel


@pytest.mark.parametrize("kind", KINDS)
def test_a_defect_is_where_the_sliders_say(wall_and_gravel, kind):
    (wall, *_), gravel = wall_and_gravel
    image, mask = placed_defect(wall, kind, across=60, down=30, size=10, other=gravel)
    assert np.array_equal(mask, image != wall)
    rows, columns = np.nonzero(mask)
    assert abs(rows.mean() - 30) < 2
    assert abs(columns.mean() - 60) < 2
    width = 1 if kind == "scratch" else 10
    assert rows.min() >= 20 - 1
    assert rows.max() <= 40 + 1
    assert columns.min() >= 60 - width - 1
    assert columns.max() <= 60 + width + 1
    assert np.ptp(rows) > 14  # as long as asked for
    _, smaller = placed_defect(wall, kind, 60, 30, 5, gravel)
    assert 0 < smaller.sum() < mask.sum()
    _, moved = placed_defect(wall, kind, 30, 70, 10, gravel)
    assert abs(np.nonzero(moved)[0].mean() - 70) < 2


def test_a_foreign_patch_is_as_bright_as_what_it_covers(wall_and_gravel):
    (wall, *_), gravel = wall_and_gravel
    image, mask = placed_defect(wall, "foreign patch", 48, 48, 14, gravel)
    assert image[mask].mean() == pytest.approx(wall[mask].mean(), abs=4)
    assert np.corrcoef(image[mask], gravel[mask])[0, 1] > 0.9


def test_a_defect_may_lie_at_the_edge_but_must_be_of_a_known_kind(wall_and_gravel):
    (wall, *_), gravel = wall_and_gravel
    _, corner = placed_defect(wall, "hole", 0, 0, 6, gravel)
    assert corner[0, 0]
    assert not corner[8:].any()
    with pytest.raises(ValueError, match="There is no defect 'crack': choose from scratch, hole"):
        placed_defect(wall, "crack", 0, 0, 6, gravel)


def test_the_map_of_the_frozen_model_follows_a_strong_defect(wall_and_gravel):
    """Its maximum lies within half a patch of the coarsest scale from the defect."""
    walls, gravel = wall_and_gravel
    detector = frozen("brick")
    reach = 96 * 5.5 / detector.sides_[0]  # pixels of the wall
    normal = detector.anomaly_score(walls, 0.02)
    places = [(across, down) for down in (24, 40, 56) for across in (30, 48, 66)]
    placed = [placed_defect(walls[0], "hole", *place, 14, gravel) for place in places]
    found = detector.predictions([image for image, _ in placed], 0.02, maps=True)
    for (_, mask), prediction in zip(placed, found, strict=True):
        highest = np.unravel_index(prediction.anomaly_map.argmax(), mask.shape)
        assert np.abs(np.argwhere(mask) - highest).max(1).min() <= reach
        assert prediction.scores[0] > normal.max()


def test_every_figure_is_new(labels_and_scores):
    one, other = (draw_04.draw_pairs(*labels_and_scores) for _ in range(2))
    assert isinstance(one, Figure)
    assert one is not other
