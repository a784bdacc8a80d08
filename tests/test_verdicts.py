"""Scores and maps of detectors: several fractions in one pass, maps against a slow version."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from htdg import ConfigError, HTDGConfig, HTDGDetector, ImageError
from htdg.localisation import SPREAD
from htdg.votes import aggregate_votes

FRACTIONS = (None, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0)


def test_several_fractions_are_what_each_is_alone():
    torch.manual_seed(0)
    votes = torch.rand(4, 3, 9, 9)
    together = aggregate_votes(votes, FRACTIONS)
    assert together.shape == (7, 3)
    for fraction, of_fraction in zip(FRACTIONS, together, strict=True):
        torch.testing.assert_close(of_fraction, aggregate_votes(votes, fraction))


def test_the_lowest_votes_by_hand():
    votes = torch.tensor([0.9, 0.1, 0.5, 0.3]).view(1, 1, 2, 2)
    found = aggregate_votes(votes, (0.25, 0.5, 0.01, None, 0.74))
    assert found[:, 0].tolist() == pytest.approx([0.1, 0.2, 0.1, 0.45, 0.2])


def test_a_detector_judges_all_fractions_in_one_pass(tiny, brick, monkeypatch):
    calls = []
    counted = HTDGDetector._votes_of
    monkeypatch.setattr(
        HTDGDetector, "_votes_of", lambda *args: (calls.append(1), counted(*args))[1]
    )
    rows = tiny.score_scales(brick[1][:3], FRACTIONS)
    assert rows.shape == (7, 3, 4)
    assert len(calls) == 1  # one batch, whose networks ran once
    for fraction, of_fraction in zip(FRACTIONS, rows, strict=True):
        alone = tiny.score_scales(brick[1][:3], fraction)
        np.testing.assert_allclose(of_fraction, alone, atol=1e-6)
    assert (np.diff(rows[1:], axis=0) >= -1e-6).all()  # more of the higher votes, more normal


@pytest.fixture(scope="module")
def shifting(brick):
    """A detector whose copies are shifted, too."""
    rows = ((0, 0, 0, 0, 0), (0, 0, 1, 0, 0), (0, 1, -1, 1, 1), (1, 0, 0, 0, 2))
    config = HTDGConfig.preset("tiny", transformations=rows, translation="pixel")
    return HTDGDetector(config).fit(brick[0][0], progress=False)


def slow_map(detector, image, size):
    """One image's map with loops over votes: each lands on its patch of the image."""
    total = np.zeros(size)
    for votes, side in zip(detector.votes(image), detector.sides, strict=True):
        h, shift = side - 10, int(0.15 * side)
        # Where each pixel of the image goes in a copy: its coordinates, carried along.
        places = np.arange(side * side).reshape(side, side)
        sums, counts = np.zeros((side, side)), np.zeros((side, side))
        for t, of_copy in zip(detector.transformations, votes, strict=True):
            copy = places[:, ::-1] if t.flip else places
            wide = np.full((3 * side, 3 * side), -1)
            top, left = side + t.ty * shift, side + t.tx * shift
            wide[top : top + side, left : left + side] = copy
            copy = np.rot90(wide[side : 2 * side, side : 2 * side], t.k)
            for i in range(h):
                for j in range(h):
                    patch = copy[i : i + 11, j : j + 11]
                    if (patch >= 0).all():  # no reflected border in sight
                        y, x = divmod(int(patch[5, 5]), side)
                        sums[y, x] += of_copy[i, j]
                        counts[y, x] += 1
        found = np.zeros((side, side))
        for y in range(side):
            for x in range(side):
                weight = value = 0.0
                for cy in range(max(0, y - 5), min(side, y + 6)):
                    for cx in range(max(0, x - 5), min(side, x + 6)):
                        if counts[cy, cx]:
                            w = np.exp(-((cy - y) ** 2 + (cx - x) ** 2) / (2 * (SPREAD * 11) ** 2))
                            value += w * sums[cy, cx] / counts[cy, cx]
                            weight += w
                found[y, x] = value / weight
        grown = F.interpolate(torch.from_numpy(found)[None, None], size, mode="bilinear")
        total += grown[0, 0].numpy()
    return 1 - total / len(detector.sides)


def test_maps_equal_a_slow_version(shifting, brick):
    image = brick[1][0]
    found = shifting.anomaly_map(image)
    assert found.shape == (1, 96, 96)
    np.testing.assert_allclose(found[0], slow_map(shifting, image, (96, 96)), atol=1e-5)
    assert found.min() >= 0
    assert found.max() <= 1


def test_maps_have_each_image_s_own_size(shifting, brick):
    wide = brick[1][1][:40, :90]
    verdicts = list(shifting.judge([brick[1][0], wide], maps=True))
    assert [v.anomaly_map.shape for v in verdicts] == [(96, 96), (40, 90)]
    np.testing.assert_allclose(verdicts[1].anomaly_map, shifting.anomaly_map(wide)[0], atol=1e-6)
    assert verdicts[0].anomaly_map.dtype == np.float32
    with pytest.raises(ImageError, match=r"differ in size \(90 x 40 and 96 x 96 pixels\)"):
        shifting.anomaly_map([brick[1][0], wide])


def test_maps_and_scores_do_not_depend_on_the_batch(shifting, brick):
    images = brick[1][:5]
    one = list(shifting.judge(images, (None, 0.1), maps=True, batch_size=1))
    many = list(shifting.judge(images, (None, 0.1), maps=True, batch_size=4))
    for a, b in zip(one, many, strict=True):
        np.testing.assert_allclose(a.anomaly_map, b.anomaly_map, atol=1e-6)
        np.testing.assert_allclose(a.normality, b.normality, atol=1e-5)


@pytest.mark.parametrize("fraction", [(), 0, 1.5, "0.1", True, [0.1, 2]])
def test_impossible_fractions_are_refused_before_anything_is_scored(tiny, fraction):
    with pytest.raises(ConfigError, match="defect_fraction is"):
        tiny.judge(None, fraction)


def test_fractions_may_be_of_any_kind_of_number(tiny, brick):
    plain = tiny.anomaly_score(brick[1][0], 0.25)
    for same in (np.float32(0.25), np.float64(0.25)):
        assert tiny.anomaly_score(brick[1][0], same) == plain
    (verdict,) = tiny.judge(brick[1][0], 0.25)
    assert verdict.normality.shape == (1, 4)


def test_no_maps_unless_asked_for(tiny, brick):
    (verdict,) = tiny.judge(brick[1][0])
    assert verdict.anomaly_map is None


def test_a_planted_patch_is_where_the_map_is_highest(brick):
    """End to end: a rotated piece of the training image itself, put back, stands out."""
    image = brick[0][0].copy()
    config = HTDGConfig.preset("tutorial", transformations="rotations", niter=5, device="cpu")
    detector = HTDGDetector(config).fit(image, progress=False)
    odd = image.copy()
    odd[50:80, 20:50] = np.rot90(image[50:80, 20:50])
    difference = detector.anomaly_map(odd)[0] - detector.anomaly_map(image)[0]
    y, x = divmod(int(difference.argmax()), 96)
    assert 50 <= y < 80
    assert 20 <= x < 50
