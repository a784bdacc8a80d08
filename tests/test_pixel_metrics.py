"""Pixel metrics against a slow second implementation, and against numbers worked out by hand."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from htdg.evaluation.pixel_metrics import FPR_LIMIT, LEVELS, PixelMetrics, pixel_metrics

LIMIT = Fraction(3, 10)


def regions_of(mask):
    """Flood fill: a list of sets of pixels that hang together, corners included."""
    left = {tuple(map(int, p)) for p in np.argwhere(mask)}
    regions = []
    while left:
        todo, region = [left.pop()], set()
        while todo:
            row, column = todo.pop()
            region.add((row, column))
            near = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            todo += near
        regions.append(region)
    return regions


def area_under(points, limit):
    """Exact area of the polygon line from x = 0 to limit, segment by segment."""
    area = Fraction(0)
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= limit or x0 == x1:
            continue
        if x1 > limit:
            y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            x1 = limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area


def by_brute_force(maps, masks):
    """Every distinct value is a threshold; rates are exact fractions of pixels counted one by one.

    Returns the pixel AUROC, the AUPRO and the number of regions; None for what is not defined.
    """
    normal, anomalous, regions = [], [], []
    for values, mask in zip(maps, masks, strict=True):
        mask = np.zeros(values.shape, bool) if mask is None else mask
        normal += values[~mask].tolist()
        anomalous += values[mask].tolist()
        regions += [[values[p] for p in region] for region in regions_of(mask)]
    if not normal or not anomalous:
        return None, None, len(regions)

    def part(values, threshold):
        return Fraction(sum(v >= threshold for v in values), len(values))

    roc, pro = [(Fraction(0), Fraction(0))], [(Fraction(0), Fraction(0))]
    for threshold in sorted({*normal, *anomalous}, reverse=True):
        false_positive_rate = part(normal, threshold)
        overlap = sum(part(values, threshold) for values in regions) / len(regions)
        roc.append((false_positive_rate, part(anomalous, threshold)))
        pro.append((false_positive_rate, overlap))
    auroc, aupro = area_under(roc, Fraction(1)), area_under(pro, LIMIT) / LIMIT
    return float(auroc), float(aupro), len(regions)


def random_case(rng):
    """One to four images of different sizes, few levels for many ties, masks of any density."""
    maps, masks = [], []
    for _ in range(rng.integers(1, 5)):
        shape = tuple(rng.integers(1, 9, 2))
        steps = rng.choice([1, 2, 5, 1000])
        mask = rng.random(shape) < rng.choice([0, 0.1, 0.3, 0.6, 1], p=[0.15, 0.3, 0.3, 0.2, 0.05])
        values = rng.integers(0, steps + 1, shape) / steps
        if rng.random() < 0.5:  # a map that knows something
            values = np.where(mask, (values + 1) / 2, values)
        maps.append(values)
        masks.append(None if not mask.any() and rng.random() < 0.5 else mask)
    return maps, masks


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_agrees_with_brute_force(seed):
    maps, masks = random_case(np.random.default_rng(seed))
    metrics = pixel_metrics(maps, masks)
    auroc, aupro, regions = by_brute_force(maps, masks)
    assert metrics["defect_regions"] == regions
    if auroc is None:
        assert metrics["pixel_auroc"] is None
        assert metrics["aupro"] is None
        assert metrics["pixel_undefined_because"]
    else:
        assert metrics["pixel_auroc"] == pytest.approx(auroc, abs=1e-9)
        assert metrics["aupro"] == pytest.approx(aupro, abs=1e-9)
        assert 0 <= metrics["pixel_auroc"] <= 1
        assert 0 <= metrics["aupro"] <= 1
        assert metrics["pixel_undefined_because"] is None


def test_auroc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    masks = [rng.random(shape) < 0.2 for shape in [(40, 30), (7, 90), (25, 25)]]
    maps = [np.rint((rng.random(m.shape) + 0.3 * m) / 1.3 * 200) / 200 for m in masks]
    expected = roc_auc_score(
        np.concatenate([m.ravel() for m in masks]), np.concatenate([m.ravel() for m in maps])
    )
    assert 0.6 < expected < 0.9
    assert pixel_metrics(maps, masks)["pixel_auroc"] == pytest.approx(expected, abs=1e-12)


def test_worked_example():
    # Two regions: A is one pixel of 0.9, B the four pixels 0.8, 0.6, 0.4, 0.2 of the second image.
    # Ten normal pixels: 0.8, 0.6, 0.5, 0.5, and six of 0.1.
    first = np.array([[0.9, 0.1, 0.8, 0.6, 0.5, 0.5, 0.1]])
    second = np.array([[0.8, 0.6, 0.1, 0.1], [0.4, 0.2, 0.1, 0.1]])
    masks = [first == 0.9, np.array([[True, True, False, False]] * 2)]
    # threshold  false positives  true positives  mean overlap of A and B
    # 0.9         0 of 10         1 of 5          (1 + 0) / 2     = 0.5
    # 0.8         1               2               (1 + 0.25) / 2  = 0.625
    # 0.6         2               3               (1 + 0.5) / 2   = 0.75
    # 0.5         4               3                                 0.75
    # 0.4         4               4               (1 + 0.75) / 2  = 0.875
    # 0.2         4               5               (1 + 1) / 2     = 1
    # 0.1        10               5                                 1
    # AUROC: 0.1 * 0.3 + 0.1 * 0.5 + 0.2 * 0.6 + 0.6 * 1 = 0.8.
    # AUPRO: 0.1 * 0.5625 + 0.1 * 0.6875 + 0.1 * 0.75 = 0.2, over 0.3: the limit lies half way along
    # the step from 0.2 to 0.4.
    metrics = pixel_metrics([first, second], masks)
    assert metrics["pixel_auroc"] == pytest.approx(0.8, abs=1e-12)
    assert metrics["aupro"] == pytest.approx(2 / 3, abs=1e-12)
    assert metrics["defect_regions"] == 2


def test_slanted_segment_is_cut_at_the_limit():
    # 1 of 2 anomalous pixels (one region) is above all; the other ties with all 4 normal pixels.
    # Overlap goes from 0.5 at 0 straight to 1 at 1, so it is 0.65 at 0.3: mean height 0.575.
    values = np.array([[1, 0, 0, 0, 0, 0]], dtype=float)
    mask = np.array([[True, True, False, False, False, False]])
    metrics = pixel_metrics([values], [mask])
    assert metrics["aupro"] == pytest.approx(0.575, abs=1e-12)
    assert metrics["pixel_auroc"] == pytest.approx(0.75, abs=1e-12)


@pytest.mark.parametrize("defect", [0.3, 0.5, 0.7])
def test_what_rises_at_the_limit_itself_comes_too_late(defect):
    # 3 of 10 normal pixels lie above the whole defect: overlap jumps from 0 to 1 at exactly 0.3.
    values = np.array([[0.9, 0.8, 0.75] + [0.1] * 7 + [defect]])
    metrics = pixel_metrics([values], [values == defect])
    assert metrics["aupro"] == pytest.approx(0, abs=1e-12)
    assert metrics["pixel_auroc"] == pytest.approx(0.7, abs=1e-12)


def spotted():
    """Three images with defects and a normal one."""
    rng = np.random.default_rng(3)
    return [rng.random((60, 50)) < 0.1, rng.random((33, 71)) < 0.02, np.eye(64, dtype=bool), None]


def test_perfect_map_gets_exactly_one_and_an_inverted_one_zero():
    rng = np.random.default_rng(4)
    masks = spotted()
    maps = [0.499 * rng.random((20, 20) if m is None else m.shape) for m in masks]
    maps = [v if m is None else v + 0.501 * m for v, m in zip(maps, masks, strict=True)]
    metrics = pixel_metrics(maps, masks)
    assert (metrics["pixel_auroc"], metrics["aupro"]) == (1, 1)
    metrics = pixel_metrics([1 - v for v in maps], masks)
    assert (metrics["pixel_auroc"], metrics["aupro"]) == (0, 0)


@pytest.mark.parametrize("value", [0, 0.3, 1])
def test_constant_map_is_chance(value):
    masks = spotted()
    maps = [np.full((9, 9) if m is None else m.shape, value) for m in masks]
    metrics = pixel_metrics(maps, masks)
    assert metrics["pixel_auroc"] == pytest.approx(0.5, abs=1e-12)
    assert metrics["aupro"] == pytest.approx(FPR_LIMIT / 2, abs=1e-12)


def test_random_map_is_chance():
    rng = np.random.default_rng(5)
    mask = np.zeros((400, 400), bool)
    mask[::8, ::4] = mask[::8, 1::4] = True  # 5000 regions of two pixels
    metrics = pixel_metrics([rng.random(mask.shape)], [mask])
    assert metrics["defect_regions"] == 5000
    assert metrics["pixel_auroc"] == pytest.approx(0.5, abs=0.01)
    assert metrics["aupro"] == pytest.approx(0.15, abs=0.01)


@pytest.mark.parametrize(
    ("found_region", "auroc", "aupro"), [("large", 0.99, 0.5), ("small", 0.01, 0.5)]
)
def test_every_region_counts_alike(found_region, auroc, aupro):
    # 99 pixels hang together and one lies alone. The one found is above, the other below all else:
    # to the AUROC that is 99 or 1 of 100 pixels, to the AUPRO 1 of 2 regions.
    large, small = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    large[:9, :11] = True
    small[15, 15] = True
    values = np.full((20, 20), 0.5)
    values[large], values[small] = (1, 0) if found_region == "large" else (0, 1)
    metrics = pixel_metrics([values], [large | small])
    assert metrics["defect_regions"] == 2
    assert metrics["pixel_auroc"] == pytest.approx(auroc, abs=1e-12)
    assert metrics["aupro"] == pytest.approx(aupro, abs=1e-12)


def test_pixels_that_touch_at_a_corner_are_one_region():
    # The diagonal has four pixels, one of them found; the pixel apart is found too.
    values = np.zeros((6, 6))
    values[0, 0] = values[5, 0] = 1
    mask = np.zeros((6, 6), bool)
    mask[range(4), range(4)] = mask[5, 0] = True
    metrics = pixel_metrics([values], [mask])
    assert metrics["defect_regions"] == 2
    # Overlap (1/4 + 1) / 2 = 0.625 at 0, from there straight to 1 at 1: 0.625 + 0.375 * 0.15.
    assert metrics["aupro"] == pytest.approx(0.68125, abs=1e-12)


def test_regions_of_two_images_are_two():
    mask = np.array([[False, True], [False, True]])
    metrics = pixel_metrics([mask * 1.0, 1.0 - mask], [mask, mask])
    assert metrics["defect_regions"] == 2
    # One found, one not; half the normal pixels flagged with it. (0, 0), (0.5, 0.5), (1, 1).
    assert metrics["aupro"] == pytest.approx(0.15, abs=1e-12)


def test_normal_images_count_as_normal_pixels():
    # On the first image alone the defect is above all; the normal image has 2 of 4 pixels above it.
    values, mask = np.array([[0.5, 0.1]]), np.array([[True, False]])
    normal = np.array([[0.9, 0.9], [0.1, 0.1]])
    assert pixel_metrics([values], [mask])["pixel_auroc"] == 1
    for no_defect in (None, np.zeros((2, 2), bool)):
        metrics = pixel_metrics([values, normal], [mask, no_defect])
        assert metrics["pixel_auroc"] == pytest.approx(0.6, abs=1e-12)  # above 3 of 5
        assert metrics["aupro"] == 0  # 2 of 5 are flagged before it: past the limit
        assert metrics["defect_regions"] == 1


def test_order_does_not_matter_and_results_may_be_taken_between():
    rng = np.random.default_rng(6)
    masks = spotted()
    maps = [rng.random((30, 30) if m is None else m.shape) for m in masks]
    forth, back = PixelMetrics(), PixelMetrics()
    for values, mask in zip(maps, masks, strict=True):
        forth.add(values, mask)
        assert forth.result() == forth.result()
    for values, mask in zip(maps[::-1], masks[::-1], strict=True):
        back.add(values, mask)
    assert forth.result() == pytest.approx(back.result(), abs=1e-12)
    assert forth.result() == pytest.approx(pixel_metrics(maps, masks), abs=1e-12)
    assert forth.result() != pytest.approx(pixel_metrics(maps[:3], masks[:3]), abs=1e-5)


def test_adding_changes_neither_map_nor_mask():
    values, mask = np.array([[0.25, 0.5]]), np.array([[True, False]])
    PixelMetrics().add(values, mask)
    assert values.tolist() == [[0.25, 0.5]]
    assert mask.tolist() == [[True, False]]


def test_values_of_one_level_tie_and_of_neighbouring_levels_do_not():
    level = 1 / (LEVELS - 1)
    mask = np.array([[True, False]])
    for apart, auroc in [(0, 0.5), (0.4, 0.5), (1, 1.0), (-0.4, 0.5), (-1, 0.0)]:
        values = np.array([[0.5 * (LEVELS - 2) + apart, 0.5 * (LEVELS - 2)]]) * level
        assert pixel_metrics([values], [mask])["pixel_auroc"] == auroc, apart


@pytest.mark.parametrize("base", [0, 0.1, 0.3333333, 0.5, 0.998])
def test_two_millionths_are_told_apart(base):
    metrics = pixel_metrics([np.array([[base + 2e-6, base]])], [np.array([[True, False]])])
    assert metrics["pixel_auroc"] == 1


def test_half_precision_maps_do_not_overflow():
    # Every float16 of the upper part of [0, 1], a normal and an anomalous pixel each.
    steps = np.arange(0.5, 1, 2**-11)
    values = np.array([steps + 2**-11, steps], dtype=np.float16)
    mask = np.array([[True] * len(steps), [False] * len(steps)])
    expected = roc_auc_score(mask.ravel(), values.ravel())
    assert expected > 0.5
    assert pixel_metrics([values], [mask])["pixel_auroc"] == pytest.approx(expected, abs=1e-12)


def test_both_ends_of_the_range_are_levels():
    # 0 and 1 are the lowest and the highest level, and float32 keeps neighbours near 1 apart.
    mask = np.array([[True, False]])
    near_one = np.float32(1 - 1 / (LEVELS - 1))
    assert pixel_metrics([np.float32([[1, near_one]])], [mask])["pixel_auroc"] == 1
    assert pixel_metrics([np.float32([[0, 1 / (LEVELS - 1)]])], [mask])["pixel_auroc"] == 0


def test_undefined_cases():
    some = np.array([[0.5, 0.2]])
    nothing = PixelMetrics().result()
    normal = pixel_metrics([some, some], [None, np.zeros((1, 2), bool)])
    anomalous = pixel_metrics([some], [np.ones((1, 2), bool)])
    because = [f.pop("pixel_undefined_because") for f in (nothing, normal, anomalous)]
    assert because == [
        "There are no images, but the pixel metrics need normal and anomalous pixels.",
        "No pixel is anomalous, but the pixel metrics need both kinds.",
        "No pixel is normal, but the pixel metrics need both kinds.",
    ]
    assert nothing == normal == {"pixel_auroc": None, "aupro": None, "defect_regions": 0}
    assert anomalous == {"pixel_auroc": None, "aupro": None, "defect_regions": 1}


def test_results_are_plain_json():
    metrics = pixel_metrics([np.float32([[0.5, 0.2, 0.7]])], [np.array([[True, False, False]])])
    assert json.loads(json.dumps(metrics)) == metrics
    assert [type(v) for v in metrics.values()] == [float, float, int, type(None)]


GOOD = np.array([[0.5, 0.2]])


@pytest.mark.parametrize(
    ("values", "mask", "message"),
    [
        (np.zeros((2, 2, 1)), None, r"anomaly_map has shape \(2, 2, 1\).*one at a time"),
        (np.zeros(4), None, r"anomaly_map has shape \(4,\)"),
        (np.zeros((0, 4)), None, r"anomaly_map has shape \(0, 4\).*at least one pixel"),
        (np.array([[0.5, np.nan]]), None, "anomaly_map holds values that are not finite"),
        (np.array([[0.5, np.inf]]), None, "anomaly_map holds values that are not finite"),
        (np.array([[0.5, 1.5]]), None, r"anomaly_map goes from 0.5 to 1.5.*\[0, 1\]: scale"),
        (np.array([[-0.1, 0.5]]), None, r"anomaly_map goes from -0.1 to 0.5.*\[0, 1\]: scale"),
        (GOOD, np.array([[1, 0]]), "mask has values of type int64.*give mask > 0"),
        (GOOD, np.array([[255, 0]], np.uint8), "mask has values of type uint8.*give mask > 0"),
        (GOOD, np.array([True, False]), r"mask has shape \(2,\) and anomaly_map \(1, 2\)"),
        (GOOD, np.array([[True], [False]]), r"mask has shape \(2, 1\) and anomaly_map \(1, 2\)"),
    ],
)
def test_wrong_input_is_refused_and_not_counted(values, mask, message):
    metrics = PixelMetrics()
    metrics.add(GOOD, np.array([[True, False]]))
    before = metrics.result()
    with pytest.raises(ValueError, match=message):
        metrics.add(values, mask)
    assert metrics.result() == before


@pytest.mark.parametrize("masks", [[None], [None] * 3])
def test_maps_and_masks_must_be_as_many(masks):
    with pytest.raises(ValueError, match="zip"):
        pixel_metrics([GOOD, GOOD], masks)


def test_maps_are_taken_up_one_at_a_time():
    alive = []

    def maps():
        for _ in range(3):
            alive.append(len(alive))
            yield GOOD

    def masks():
        for i in range(3):
            assert alive[-1] == i  # the map just before it, not all of them
            yield np.array([[True, False]])

    assert pixel_metrics(maps(), masks())["defect_regions"] == 3
