"""Notebook 05: the answers pass their checks, typical mistakes are told, figures hold the data."""

import math

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from htdg.course import checks_05, draw_05
from htdg.course.check import NotRight
from htdg.course.frozen import frozen
from htdg.datasets.samples import texture_set
from htdg.evaluation.pixel_metrics import pixel_metrics
from htdg.thresholds import upper_quantile
from tests.course import answers


@pytest.fixture(scope="module")
def solution():
    return answers("05_defect_detection")


def lowest(votes, fractions, *, up=False, least=1, counts=int, sort=True, mean=False):
    """The means of the lowest votes, with their mistakes as options."""
    rows = np.sort(votes, axis=1) if sort else votes
    rows = rows[:, ::-1] if up else rows
    means = []
    for fraction in fractions:
        count = max(least, counts(rows.shape[1] * fraction))
        part = rows[:, :count]
        means.append(part.mean(1).sum() if count else math.nan)
    return np.array(means) / (len(votes) if mean else 1)


def pooled(votes, fractions):
    return len(votes) * lowest(votes.reshape(1, -1), fractions)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda v, f: lowest(v, f, up=True), "Those are the highest votes"),
        (lambda v, f: lowest(v, f, least=0), "average at least one"),
        (pooled, "the votes of all transformations together"),
        (lambda v, f: pooled(v, f) / 3, "the votes of all transformations together"),
        (lambda v, f: lowest(v, f, mean=True), "sum over them"),
        (lambda v, f: lowest(v, f, sort=False), "the first votes of each row"),
        (lambda v, f: lowest(v, f, counts=math.ceil), r"int cuts off"),
        (lambda v, f: lowest(v, f)[0], "one number for each of the 4 fractions"),
        (lambda v, f: lowest(v * 2, f), "Of all votes it must be"),
        (lambda v, f: np.append(lowest(v, f)[:3], 1.0), "With one patch"),
        (lambda v, f: lowest(v.mean(0)[None], f), "You average over the transformations before"),
        (lambda v, f: 3 * lowest(v.mean(0)[None], f), "Multiplying by M does not mend it"),
        (lambda v, f: lowest(np.sort(v, 0), f, sort=False), "axis 0 would mix"),
        (lambda v, f: [np.sort(v)[:, : max(1, int(25 * x))].sum() for x in f], "lowest votes up"),
        (lambda v, f: 1 - lowest(v, f) / 3, "That is the anomaly score"),
        (lambda v, f: 1 - lowest(v, f), "one minus the normality"),
        (lambda v, f: lowest(v, sorted(f)), "in another order"),
        (lambda v, f: np.quantile(v, f, axis=1).sum(1), "the quantile of each row"),
        (lambda v, f: lowest(v, f, counts=lambda c: int(3 * c)), "votes.size counts"),
        (lambda v, f: lowest(v, f, counts=lambda c: int(c * 3 / 25)), "len.votes. is the number"),
    ],
)
def test_mistakes_about_the_lowest_votes(answer, said):
    with pytest.raises(NotRight, match=said):
        checks_05.check_lowest(answer)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda m, k: np.rot90(m, k), "mind the sign"),
        (lambda m, k: m, "comes back as it went in"),
        (lambda m, k: m.T, "You transpose"),
        (lambda m, k: np.rot90(m, -1), "always turn by one quarter"),
        (lambda m, k: m[1:], "must stay 4 x 4"),
        (lambda m, k: m + 1, "not back in its place"),
        (lambda m, k: np.flip(m, 0), "You mirror the map"),
        (lambda m, k: np.fliplr(m), "You mirror the map"),
        (lambda m, k: np.rot90(m, -90 * k), "np.rot90 counts quarter turns"),
        (lambda m, k: np.rot90(m, 2), "You turn by half a turn"),
    ],
)
def test_mistakes_about_turns(answer, said):
    with pytest.raises(NotRight, match=said):
        checks_05.check_turn(answer)


def shifted(over_copy, shift, empty=math.nan, border=0):
    h = len(over_copy)
    shifted = np.full((h, h), empty)
    shifted[:, : h - shift] = over_copy[:, shift:]
    shifted[:, h - shift - border :] = empty
    return shifted


def ends_at_minus_shift(over_copy, shift):
    over_image = np.full(over_copy.shape, np.nan)
    over_image[:, :-shift] = over_copy[:, shift:]
    return over_image


def rolled_from_minus_shift(over_copy, shift):
    over_image = np.roll(over_copy, -shift, axis=1)
    over_image[:, -shift:] = np.nan
    return over_image


def padded(over_copy, shift, mode):
    return np.pad(over_copy[:, shift:], ((0, 0), (0, shift)), mode=mode)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda m, s: np.roll(m, -s, 1), "np.roll"),
        (lambda m, s: shifted(m, s, empty=0.0), "Zeros are votes, too"),
        (lambda m, s: shifted(m.T, s).T, "You move rows"),
        (lambda m, s: shifted(m[:, ::-1], s)[:, ::-1], "so the map goes left"),
        (lambda m, s: shifted(m, s, border=2), "so no half patch comes in"),
        (lambda m, s: np.full((8, 8), np.nan), "whole map is NaN"),
        (lambda m, s: shifted(m, s)[::-1], "not in their places"),
        (lambda m, s: shifted(m, 3) if s else m, "right for shift 3, not for shift 2"),
        (lambda m, s: np.where(s == 0, np.nan, shifted(m, s)), "With shift 0 it goes wrong: -0"),
        (lambda m, s: m + 1 if s == 0 else shifted(m, s), "With shift 0 the map must stay"),
        (ends_at_minus_shift, "-0 is 0, so"),
        (rolled_from_minus_shift, "-0 is 0, so"),
        (lambda m, s: np.roll(m, -s), "np.roll without an axis"),
        (lambda m, s: np.where(np.arange(8) < s, np.nan, m), "still where they were in the copy"),
        (lambda m, s: np.where(np.arange(8) >= 8 - s, np.nan, m), "still where they were"),
        (lambda m, s: padded(m, s, "edge"), "repeating the last column"),
        (lambda m, s: padded(m, s, "symmetric"), "You fill the border with a reflection"),
        (lambda m, s: shifted(m, s, empty=0.5), "The last 3 columns must be NaN"),
        (lambda m, s: m[:, s:], "must stay 8 x 8"),
    ],
)
def test_mistakes_about_shifts(answer, said):
    with pytest.raises(NotRight, match=said):
        checks_05.check_shift(answer)


def test_other_ways_to_write_the_shift_are_right_too(capsys):
    def padded_with_nan(over_copy, shift):
        return np.pad(over_copy[:, shift:], ((0, 0), (0, shift)), constant_values=np.nan)

    checks_05.check_shift(padded_with_nan)
    assert capsys.readouterr().out.startswith("Right")


def overlaps(flagged, mask, structure=True, start=1, share=np.mean):
    regions, count = ndimage.label(mask, np.ones((3, 3)) if structure else None)
    return [share(flagged[regions == r]) for r in range(start, count + 1)]


def unions(flagged, mask):
    regions, count = ndimage.label(mask, np.ones((3, 3)))
    parts = [regions == r for r in range(1, count + 1)]
    return np.mean([(flagged & p).sum() / (flagged | p).sum() for p in parts])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda f, m: f[m].mean(), "share of all defect pixels"),
        (lambda f, m: np.mean(overlaps(f, m, structure=False)), "You have 4 regions"),
        (lambda f, m: sum(overlaps(f, m)), "You sum over the regions"),
        (lambda f, m: np.mean(overlaps(f, m, start=0)), "label 0 as a region"),
        (unions, "do not lower its overlap"),
        (lambda f, m: np.mean(overlaps(f, m, share=np.any)), "which regions are touched"),
        (overlaps, "Return one number"),
        (lambda f, m: 0.123, "For the test mask it must be 0.5278"),
        (lambda f, m: 19 / 36, "If all regions are flagged"),
        (lambda f, m: np.mean(overlaps(f, m)[:-1]), "leaves out the last region"),
        (lambda f, m: np.mean(overlaps(f, m, start=0)[:-1]), "the last one has the number count"),
        (lambda f, m: np.sum(overlaps(f, m, structure=False)), "And divide by the number"),
        (lambda f, m: m[f].mean(), "the precision"),
        (lambda f, m: (f == m).mean(), "the accuracy"),
        (lambda f, m: (f & m).sum() / (f | m).sum(), "intersection over union of the whole"),
        (lambda f, m: np.mean(overlaps(f, m, share=np.sum)), "divide by the region's own size"),
        (lambda f, m: np.mean(overlaps(f, m, share=np.sum)) / m.size, "of the whole image"),
        (lambda f, m: np.mean(overlaps(f, m, share=np.sum)) / m.sum(), "the pixels of all regions"),
        (lambda f, m: np.mean(overlaps(m, f)), "You label the flagged pixels"),
        (lambda f, m: 1 - np.mean(overlaps(f, m)), "the share that is not flagged"),
        (lambda f, m: sum(overlaps(f, m)) / 4, "one more than the number of regions"),
        (lambda f, m: sum(overlaps(f, m, start=0)) / 3, "And it has no part in the sum"),
        (lambda f, m: np.median(overlaps(f, m)), "You take the median of the regions"),
        (lambda f, m: np.max(overlaps(f, m)), "You take the highest share"),
        (lambda f, m: overlaps(f, m)[0], "You look at the first region only"),
        (lambda f, m: np.mean(np.array(overlaps(f, m)) >= 0.5), "at least half is flagged"),
        (lambda f, m: np.nan, "but it is a pair: regions, count"),
        (lambda f, m: sum(overlaps(f, m)) / 3, "right for three regions, but not for two"),
    ],
)
def test_mistakes_about_overlaps(answer, said):
    with pytest.raises(NotRight, match=said):
        checks_05.check_overlap(answer)


def area(x, y):
    return np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2)


def before(fpr, pro):
    inside = fpr < 0.3
    return fpr[inside], pro[inside]


def cut(fpr, pro):
    x, y = before(fpr, pro)
    return np.append(x, 0.3), np.append(y, np.interp(0.3, fpr, pro))


def ending(fpr, pro, height):
    """The AUPRO if the curve had this height at 0.3."""
    x, y = before(fpr, pro)
    return area(np.append(x, 0.3), np.append(y, height)) / 0.3


def left_steps(fpr, pro):
    x, y = cut(fpr, pro)
    return np.sum(np.diff(x) * y[:-1]) / 0.3


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda x, y: area(*cut(x, y)), "divide it by 0.3"),
        (area, "up to a rate of 1: stop at 0.3"),
        (lambda x, y: area(x, y) / 0.3, "You stop nowhere"),
        (lambda x, y: area(*before(x, y)) / 0.3, "the last point before 0.3. The line goes on"),
        (lambda x, y: area(*before(x, y)) / 0.2, "and divide by that"),
        (lambda x, y: area(x[:4], y[:4]) / 0.3, "whole piece from 0.2 to 0.5"),
        (lambda x, y: area(x[:4], y[:4]) / 0.5, "whole piece from 0.2 to 0.5"),
        (lambda x, y: np.interp(np.linspace(0, 0.3, 999), x, y).mean(), "a mean of many heights"),
        (left_steps, "You add up rectangles"),
        (lambda x, y: 0.51, "For the test curve"),
        (lambda x, y: ending(x, y, y[x < 0.3][-1]), "the height of the point before"),
        (lambda x, y: ending(x, y, y[x >= 0.3][0]), "the height of the next point"),
        (lambda x, y: ending(x, y, 1), "you take the height 1"),
        (lambda x, y: ending(x, y, np.interp(0.3, y, x)), "np.interp takes the place first"),
        (lambda x, y: np.interp(0.3, x, y), "the height of the curve at 0.3"),
        (lambda x, y: 1 - area(*cut(x, y)) / 0.3, "one minus the AUPRO"),
        (lambda x, y: 2 * area(*cut(x, y)) / 0.3, "twice the AUPRO"),
        (lambda x, y: (area(*cut(x, y)) - 0.045) / 0.255, "You take chance, 0.15, off"),
        (lambda x, y: area(*cut(x, y)) / 0.3 if len(x) > 2 else 0.5, "must get 0.15"),
    ],
)
def test_mistakes_about_the_aupro(answer, said):
    with pytest.raises(NotRight, match=said):
        checks_05.check_aupro(answer)


def ranked(values, rate, more=1, less=1, up=math.ceil, digits=9, sort=True):
    """The k-th smallest value, with the mistakes as options."""
    ordered = np.sort(values) if sort else values
    k = up(round((len(ordered) + more) * (1 - rate), digits))
    return ordered[min(k, len(ordered)) - less]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda v, r: ranked(v, r, less=0) if len(v) < 21 else 0, "Python counts from 0"),
        (lambda v, r: ranked(v, r, more=0), "with n . 1, not n"),
        (lambda v, r: ranked(v, r, up=int), "with n . 1, not n"),
        (lambda v, r: ranked(v, 1 - r), "one of the lowest scores"),
        (lambda v, r: ranked(v, r, sort=False), "Sort the scores first"),
        (lambda v, r: np.sort(v)[np.ceil((len(v) + 1) * (1 - r)) - 1], r"int\(np\.ceil"),
        (lambda v, r: sorted(v)[np.ceil((len(v) + 1) * (1 - r)) - 1], r"int\(np\.ceil"),
        (lambda v, r: np.quantile(v, 1 - r), "np.quantile interpolates"),
        (lambda v, r: np.sort(v)[math.ceil(round((len(v) + 1) * (1 - r), 9)) - 1], "With 5 scores"),
        (lambda v, r: ranked(v, r, digits=18), "Round to 9 digits"),
        (lambda v, r: ranked(v, min(r, 0.2)), "For 9 scores and rate 0.3"),
        (lambda v, r: 7.5, "it must be 361, not 7.5"),
        (lambda v, r: np.quantile(v, 1 - r, method="higher"), "goes by n - 1, whatever its method"),
        (lambda v, r: math.ceil(round((len(v) + 1) * (1 - r), 9)), "That is k itself"),
        (lambda v, r: np.argsort(v)[18], "That is a place among the scores"),
        (lambda v, r: v.mean() + 2 * v.std(), "two standard deviations"),
        (lambda v, r: np.median(v), "That is the median"),
        (lambda v, r: np.percentile(v, 1 - r), "np.percentile takes per cent"),
        (lambda v, r: v.max(), "That is the 20th smallest"),
    ],
)
def test_mistakes_about_thresholds(answer, said):
    with pytest.raises(NotRight, match=said):
        checks_05.check_quantile(answer)


RIGHT = {
    "mean vote": "falls",
    "AUROC": "falls",
    "false alarm rate": "stays",
    "detected": "falls",
    "why": "b",
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mean vote": "stays"}, "from 0.48 on the wall to 0.26"),
        ({"mean vote": "rises"}, "cannot do better than a guess among four, 0.25"),
        ({"why": "a"}, "Small stones leave much to see"),
        ({"why": "c"}, "no training can find in a patch"),
        ({"why": "d"}, "The same functions draw the defects on both"),
        ({"AUROC": "stays"}, "The AUROC falls, from 0.89 to 0.75"),
        ({"false alarm rate": "rises"}, "10% on the wall and 10% on gravel"),
        ({"false alarm rate": "falls"}, "its promise holds for ANY score"),
        ({"detected": "stays"}, "from 72% to 47%"),
        ({"detected": "falling"}, "'detected' must be one of 'rises', 'stays', 'falls'"),
        ({"why": "because"}, "must be one of 'a', 'b', 'c', 'd', but yours is 'because'"),
    ],
)
def test_mistakes_about_gravel(change, said):
    with pytest.raises(NotRight, match=said):
        checks_05.check_prediction(lambda: {**RIGHT, **change})


def test_a_prediction_is_a_dictionary_with_all_entries():
    with pytest.raises(NotRight, match="Return a dictionary"):
        checks_05.check_prediction(lambda: "falls")
    with pytest.raises(NotRight, match=r"'AUROC' must be one of .* but yours is None"):
        checks_05.check_prediction(lambda: {"mean vote": "falls"})


def test_what_is_held_against_the_prediction_is_measured():
    wall, gravel = checks_05.outcome("brick"), checks_05.outcome("gravel")
    detector, sample = frozen("gravel"), texture_set("gravel")
    labels = np.array(sample.labels)
    scores = detector.anomaly_score(sample.test, 0.02)
    assert gravel.auroc == pytest.approx(roc_auc_score(labels, scores))
    detector.calibrate(texture_set("gravel", 1, 60, 0).test[20:], 0.1, 0.02)
    flagged = detector.predict(sample.test) == -1
    assert gravel.false_alarms == flagged[labels == 0].mean()
    assert gravel.detected == flagged[labels == 1].mean()
    assert gravel.mean_vote == pytest.approx(0.26, abs=0.005)
    assert wall.mean_vote == pytest.approx(0.48, abs=0.005)


@pytest.fixture(scope="module")
def walls():
    """Images, masks, kinds and maps of two images, the second with a defect of 6 pixels."""
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 255, (2, 20, 20), dtype=np.uint8))
    mask = np.zeros((20, 20), bool)
    mask[4:6, 7:10] = True
    return images, [None, mask], ["good", "hole"], list(rng.uniform(0, 1, (2, 20, 20)))


def shown(ax):
    return np.asarray(ax.images[0].get_array())


def test_draw_defects_tells_the_size_of_each(walls):
    images, masks, kinds, _ = walls
    axes = np.array(draw_05.draw_defects(images, masks, kinds).axes).reshape(2, 2)
    np.testing.assert_array_equal(shown(axes[0, 1]), images[1])
    np.testing.assert_array_equal(shown(axes[1, 1]), masks[1] * 255)
    assert [ax.get_title() for ax in axes[1]] == ["no pixel", "6 px, 1.5 %"]


def test_draw_fractions_draws_per_cent_over_aurocs():
    curves = {"hole": [0.9, 0.6], "all kinds": [0.8, 0.7]}
    left, right = draw_05.draw_fractions([0.02, 1.0], curves, {1: 75.1, 100: 63.9}).axes
    np.testing.assert_allclose(left.lines[0].get_xydata(), [[2, 0.9], [100, 0.6]])
    np.testing.assert_allclose(left.lines[1].get_xydata(), [[2, 0.8], [100, 0.7]])
    np.testing.assert_allclose(right.lines[0].get_xydata(), [[1, 0.751], [100, 0.639]])


def test_the_axes_of_the_fractions_hold_every_point():
    curves = {"hole": [0.9, 0.41], "all kinds": [0.8, 0.7]}  # an AUROC below that of guessing
    left, right = draw_05.draw_fractions([0.005, 1.0], curves, {1: 75.1, 100: 63.9}).axes
    for ax in (left, right):
        low, high = ax.get_ylim()
        assert low < 0.41
        assert high > 1
        assert ax.get_xlim()[0] < 0.5
        assert ax.get_xlim()[1] > 100
    assert left.get_ylim() == right.get_ylim()
    assert [tick.get_text() for tick in left.get_xticklabels()][:2] == ["0.5", "1"]


def assert_centres_line_up(ax, side):
    """Patch (0, 0) of a map lies at the pixel (5, 5) of axes that are those of the image."""
    assert tuple(ax.images[0].get_extent()) == (4.5, side - 5.5, side - 5.5, 4.5)
    assert ax.get_xlim() == (-0.5, side - 0.5)
    assert ax.get_ylim() == (side - 0.5, -0.5)


def test_draw_undo_hatches_what_is_missing_and_frames_who_votes():
    image = np.arange(400.0).reshape(20, 20)
    defined = np.ones((20, 20), bool)
    defined[:, 17:] = False
    votes = np.ones((10, 10), bool)
    votes[:, 7:] = False
    axes = draw_05.draw_undo(image, np.rot90(image), image, defined, votes).axes
    np.testing.assert_array_equal(shown(axes[1]), np.rot90(image))
    missing, centres = axes[2].patches[0], axes[3].patches[0]
    assert (missing.get_x(), missing.get_y()) == (16.5, -0.5)
    assert (missing.get_width(), missing.get_height()) == (3, 20)
    assert (centres.get_x(), centres.get_y()) == (4.5, 4.5)
    assert (centres.get_width(), centres.get_height()) == (7, 10)


def test_draw_turns_shows_maps_and_their_mean():
    located = np.random.default_rng(1).uniform(0, 1, (4, 6, 6))
    maps = np.stack([np.rot90(located[k], k) for k in range(4)])
    axes = draw_05.draw_turns(np.zeros((16, 16, 3), np.uint8), maps, located).axes
    np.testing.assert_array_equal(shown(axes[1]), maps[1])
    np.testing.assert_array_equal(shown(axes[6]), located[1])
    np.testing.assert_allclose(shown(axes[9]), located.mean(0))
    for k in (0, 5, 9):
        assert_centres_line_up(axes[k], 16)


def test_draw_spread_and_scales_use_one_colour_scale(walls):
    images, masks, _, maps = walls
    axes = draw_05.draw_spread({20: maps[0], 10: maps[1] / 2}).axes
    assert {ax.images[0].get_clim() for ax in axes[:2]} == {(0, maps[0].max())}
    axes = draw_05.draw_scales(images[1], masks[1], {20: maps[0], 25: maps[1]}, maps[0]).axes
    assert len({ax.images[0].get_clim() for ax in axes[1:4]}) == 1
    np.testing.assert_array_equal(shown(axes[2]), maps[1])
    assert [ax.get_title() for ax in axes[1:4]] == ["20 px", "25 px", "anomaly map"]


def test_draw_regions_names_its_maps(walls):
    _, masks, _, maps = walls
    axes = draw_05.draw_regions(masks[1], {"a": maps[0], "b": maps[1]}, ["0.1", "0.2"]).axes
    np.testing.assert_array_equal(shown(axes[0]), masks[1] * 255)
    np.testing.assert_array_equal(shown(axes[2]), maps[1])
    assert [ax.get_title() for ax in axes[1:]] == ["a\n0.1", "b\n0.2"]


def test_draw_pixel_curves_draws_both_heights_over_the_rate():
    curve = (np.array([0.0, 0.5, 1]), np.array([0.0, 0.8, 1]), np.array([0.0, 0.6, 1]))
    left, right = draw_05.draw_pixel_curves({"hole": curve}, points=5).axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), [0, 0.4, 0.8, 0.9, 1])
    np.testing.assert_allclose(right.lines[0].get_ydata(), [0, 0.3, 0.6, 0.8, 1])


def test_draw_thresholds_draws_every_score_and_threshold():
    groups = {"good": np.array([0.1, 0.2]), "test, defects": np.array([0.5, 0.6, 0.7])}
    figure = draw_05.draw_thresholds(groups, {"a": 0.25, "b": 0.65})
    lines = figure.axes[0].lines
    for line, scores in zip(lines, groups.values(), strict=False):
        np.testing.assert_array_equal(line.get_xdata(), scores)
    assert [line.get_xdata()[0] for line in lines[2:]] == [0.25, 0.65]
    assert lines[0].get_color() != lines[1].get_color()


def test_draw_overlays_counts_what_is_flagged(walls):
    images, masks, kinds, maps = walls
    axes = draw_05.draw_overlays(images, maps, masks, kinds, 0.9).axes
    assert axes[1].get_title() == f"hole: {(maps[1] > 0.9).sum()} px flagged"
    assert shown(axes[0]).shape == (20, 20, 3)


def test_counted_counts_turns():
    located = np.ones((2, 5, 5))
    located[0, 0, 0] = located[1, 0, 0] = 0.1
    located[0, 2, 3] = located[1, 4, 4] = 0.2
    counts = draw_05.counted(located, 0.08)  # 2 of 25
    assert counts.sum() == 4
    assert (counts[0, 0], counts[2, 3], counts[4, 4]) == (2, 1, 1)
    assert draw_05.counted(located, 0.001).sum() == 2
    assert (draw_05.counted(located, 1.0) == 2).all()


def test_draw_play_marks_the_image_and_its_point_of_the_curve(walls):
    images, masks, kinds, _ = walls
    images, masks, kinds = images * 2, masks * 2, kinds * 2  # good, hole, good, hole
    located = np.random.default_rng(4).uniform(0, 1, (4, 3, 5, 5))
    scores = {0.2: np.array([0.1, 0.4, 0.3, 0.2]), 1.0: np.array([0.1, 0.2, 0.3, 0.4])}
    axes = draw_05.draw_play(images, masks, kinds, located, scores, 0.2, 3).axes
    assert axes[0].get_title() == "image 3: hole"
    np.testing.assert_array_equal(shown(axes[1]), draw_05.counted(located[3], 0.2))
    assert_centres_line_up(axes[1], 15)
    assert "5 of 25 patches" in axes[1].get_title()
    assert axes[2].get_title().endswith("0.200")
    np.testing.assert_allclose(axes[3].lines[-1].get_xydata(), [[0.5, 1.0]])
    assert axes[3].get_title() == "20 %: AUROC 0.75"
    axes = draw_05.draw_play(images, masks, kinds, located, scores, 1.0, 3).axes
    np.testing.assert_allclose(axes[3].lines[-1].get_xydata(), [[0.0, 0.5]])


def test_the_answers_agree_with_the_library(solution, walls):
    """A whole AUPRO from the student's overlap and integral is that of the library."""
    mask = np.zeros((30, 30), bool)
    mask[2:12, 3:9] = mask[20:23, 20:22] = mask[23, 22] = True
    anomaly_map = np.random.default_rng(8).permutation(900).reshape(30, 30) / 900
    anomaly_map = np.clip(anomaly_map + 0.2007 * mask, 0, 1)
    cuts = [2, *np.unique(anomaly_map)[::-1]]
    fpr = np.array([(anomaly_map >= t)[~mask].mean() for t in cuts])
    pro = np.array([solution["region_overlap"](anomaly_map >= t, mask) for t in cuts])
    wanted = pixel_metrics([anomaly_map], [mask])["aupro"]
    assert solution["my_aupro"](fpr, pro) == pytest.approx(wanted, abs=1e-6)
    assert solution["my_threshold"](anomaly_map.ravel(), 0.1) == upper_quantile(
        anomaly_map.ravel(), 0.1
    )
