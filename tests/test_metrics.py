"""Metrics against numbers worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from htdg.evaluation.metrics import best_f1, image_metrics, normalise_per_scale


def test_worked_example():
    # Order by score: 1 (0.9), 0 (0.8), 1 (0.7), 0 (0.2).
    # Pairs of anomalous and normal that stand right: 0.9 > 0.8, 0.9 > 0.2, 0.7 > 0.2: 3 of 4.
    # Precision at the anomalous ones: 1/1 and 2/3.
    # F1: 2/3 at 0.9, 1/2 at 0.8, 4/5 at 0.7, 2/3 at 0.2.
    metrics = image_metrics([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.2])
    assert metrics["image_auroc"] == pytest.approx(0.75)
    assert metrics["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics["f1_max"] == pytest.approx(0.8)
    assert metrics["f1_max_threshold"] == 0.7
    assert metrics["auroc_per_scale"] is None
    assert metrics["image_auroc_scale_normalised"] is None
    assert metrics["undefined_because"] is None


def test_ties_count_half():
    # Pairs: 0.5 = 0.5 (half), 0.5 > 0.1, 0.9 > 0.5, 0.9 > 0.1: 3.5 of 4.
    metrics = image_metrics([0, 1, 0, 1], [0.5, 0.5, 0.1, 0.9])
    assert metrics["image_auroc"] == pytest.approx(3.5 / 4)
    # At 0.9: precision 1, recall 1/2; at 0.5: precision 2/3, recall 1.
    assert metrics["average_precision"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert metrics["f1_max"] == pytest.approx(0.8)
    assert metrics["f1_max_threshold"] == 0.5


def test_all_scores_equal_is_chance():
    metrics = image_metrics([0, 1, 1, 0], [2.0] * 4)
    assert metrics["image_auroc"] == 0.5
    assert metrics["average_precision"] == 0.5
    assert metrics["f1_max"] == pytest.approx(2 / 3)
    assert metrics["f1_max_threshold"] == 2.0


def test_perfect_and_reversed():
    assert image_metrics([0, 0, 1], [1, 2, 3])["image_auroc"] == 1
    assert image_metrics([1, 0, 0], [1, 2, 3])["image_auroc"] == 0


def test_of_equally_good_thresholds_the_highest_flags_fewest():
    # 1 at 0.9: precision 1, recall 1/2: 2/3. All of 0.9, 0.5, 0.4, 0.3: precision 1/2, recall 1.
    labels, scores = np.array([1, 0, 0, 1]), np.array([0.9, 0.5, 0.4, 0.3])
    f1, threshold = best_f1(labels, scores)
    assert f1 == pytest.approx(2 / 3)
    assert threshold == 0.9
    assert (scores >= threshold).tolist() == [True, False, False, False]


def test_scales_are_normalised_over_the_test_set():
    # Scale 0 tells the two kinds apart within 0.1, scale 1 gets them wrong within 0.2.
    scales = np.array([[0.0, 0.2], [0.1, 0.1], [0.04, 0.0]])
    assert normalise_per_scale(scales) == pytest.approx(np.array([[0, 1], [1, 0.5], [0.4, 0]]))
    # Means 0.5, 0.75, 0.2 with labels 0, 1, 0; the plain means 0.1, 0.1, 0.02 tie once.
    metrics = image_metrics([0, 1, 0], scales.mean(1), scales)
    assert metrics["auroc_per_scale"] == [1.0, 0.5]
    assert metrics["image_auroc_scale_normalised"] == 1.0
    assert metrics["image_auroc"] == 0.75


def test_a_constant_scale_counts_nothing():
    scales = np.array([[0.3, 0.9], [0.3, 0.1], [0.3, 0.5]])
    assert normalise_per_scale(scales)[:, 0].tolist() == [0, 0, 0]
    metrics = image_metrics([1, 0, 0], scales.mean(1), scales)
    assert metrics["auroc_per_scale"] == [0.5, 1.0]
    assert metrics["image_auroc_scale_normalised"] == 1.0


@pytest.mark.parametrize(("labels", "kind"), [([0, 0], "normal"), ([1, 1], "anomalous")])
def test_one_kind_alone_gives_none_and_the_reason(labels, kind):
    metrics = image_metrics(labels, [0.1, 0.2], [[0.1], [0.2]])
    assert metrics.pop("undefined_because") == (
        f"All 2 images are {kind}, but the metrics need both kinds."
    )
    assert len(metrics) == 6
    assert set(metrics.values()) == {None}


def test_results_are_plain_json():
    metrics = image_metrics(np.array([0, 1, 1]), np.float32([0.1, 0.7, 0.3]), np.eye(3))
    assert json.loads(json.dumps(metrics)) == metrics


@pytest.mark.parametrize(
    ("labels", "scores", "scales"),
    [
        ([], [], None),
        ([0, 1], [0.5], None),
        ([0, 2], [0.5, 0.6], None),
        ([0, 1], [0.5, float("nan")], None),
        ([0, 1], [0.5, 0.6], [[0.1], [float("inf")]]),
        ([0, 1], [0.5, 0.6], [[0.1]]),
        ([0, 1], [0.5, 0.6], [0.1, 0.2]),
        ([0, None], [0.5, 0.6], None),
    ],
)
def test_wrong_input_is_refused(labels, scores, scales):
    with pytest.raises(ValueError, match=r"labels|scores"):
        image_metrics(labels, scores, scales)
