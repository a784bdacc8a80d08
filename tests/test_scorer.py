"""Predictions: several fractions in one pass, maps against a slow version, images of any size."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from htdg import ConfigError, HTDGDetector, ImageError, scorer
from htdg.localisation import SPREAD
from htdg.scorer import Scorer
from tests.models import QUIET

FRACTIONS = (None, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0)


#: The same two fractions in every form that holds several.
SEVERAL = [
    pytest.param([0.1, 0.5], id="list"),
    pytest.param((0.1, 0.5), id="tuple"),
    pytest.param(np.array([0.1, 0.5]), id="array"),
    pytest.param(np.array([0.1, 0.5], np.float32), id="float32 array"),
    pytest.param([np.float64(0.1), np.float32(0.5)], id="NumPy's numbers"),
]


# --- Defect fractions ---------------------------------------------------------------------------


def test_all_fractions_are_scored_in_one_pass(tiny, brick, monkeypatch):
    calls = []
    counted = Scorer._votes_of
    monkeypatch.setattr(Scorer, "_votes_of", lambda *args: (calls.append(1), counted(*args))[1])
    rows = tiny.score_scales(brick[1][:3], FRACTIONS)
    assert rows.shape == (7, 3, 4)
    assert len(calls) == 1  # one batch, whose networks ran once
    for fraction, of_fraction in zip(FRACTIONS, rows, strict=True):
        alone = tiny.score_scales(brick[1][:3], fraction)
        np.testing.assert_allclose(of_fraction, alone, atol=1e-6)
    assert (np.diff(rows[1:], axis=0) >= -1e-6).all()  # more of the higher votes, more normal


@pytest.mark.parametrize("several", SEVERAL)
def test_several_fractions_in_any_form_give_a_row_each(tiny, brick, several):
    images = brick[1][:3]
    expected = np.stack([tiny.score_scales(images, fraction) for fraction in (0.1, 0.5)])
    assert not np.allclose(*expected)
    rows = tiny.score_scales(images, several)
    assert rows.shape == (2, 3, 4)
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    predictions = list(tiny.predictions(images, several))
    np.testing.assert_allclose([p.normality for p in predictions], rows.swapaxes(0, 1), atol=1e-6)
    np.testing.assert_allclose(tiny.score_samples(images, several), expected.mean(-1), atol=1e-6)
    anomaly = tiny.anomaly_score(images, several)
    np.testing.assert_allclose(anomaly, 1 - expected.mean(-1) / 4, atol=1e-6)


@pytest.mark.parametrize("alone", [0.1, [0.1], (0.1,), np.array([0.1])], ids=str)
def test_a_sequence_of_one_fraction_is_a_sequence(tiny, brick, alone):
    rows = tiny.score_scales(brick[1][:2], alone)
    assert rows.shape == ((2, 4) if alone == 0.1 and np.ndim(alone) == 0 else (1, 2, 4))


@pytest.mark.parametrize("fraction", [np.float32(0.25), np.float64(0.25)])
def test_one_fraction_of_any_kind_of_number(tiny, brick, fraction):
    image = brick[1][0]
    assert tiny.score_scales(image, fraction).shape == (1, 4)
    assert tiny.anomaly_score(image, fraction) == tiny.anomaly_score(image, 0.25)
    (prediction,) = tiny.predictions(image, fraction)
    assert prediction.normality.shape == (1, 4)


@pytest.mark.parametrize(
    "fraction",
    [(), 0, 1.5, "0.1", True, [0.1, 2], np.array([]), np.array([0.1, 2]), np.array([[0.1, 0.2]])],
    ids=str,
)
def test_impossible_fractions_are_refused_before_anything_is_scored(tiny, fraction):
    with pytest.raises(ConfigError, match="defect_fraction is"):
        tiny.predictions(None, fraction)


# --- Maps ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shifting(brick):
    """A detector whose copies are shifted, too."""
    rows = ((0, 0, 0, 0, 0), (0, 0, 1, 0, 0), (0, 1, -1, 1, 1), (1, 0, 0, 0, 2))
    detector = HTDGDetector("tiny", transformations=rows, translation="pixel")
    return detector.fit(brick[0][0], **QUIET)


def slow_map(detector, image, size):
    """One image's map with loops over votes: each lands on its patch of the image."""
    total = np.zeros(size)
    for votes, side in zip(detector.votes(image), detector.sides_, strict=True):
        h, shift = side - 10, int(0.15 * side)
        # Where each pixel of the image goes in a copy: its coordinates, carried along.
        places = np.arange(side * side).reshape(side, side)
        sums, counts = np.zeros((side, side)), np.zeros((side, side))
        for t, of_copy in zip(detector.transformations_, votes, strict=True):
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
        blurred = np.zeros((side, side))
        for y in range(side):
            for x in range(side):
                weight = value = 0.0
                for cy in range(max(0, y - 5), min(side, y + 6)):
                    for cx in range(max(0, x - 5), min(side, x + 6)):
                        if counts[cy, cx]:
                            w = np.exp(-((cy - y) ** 2 + (cx - x) ** 2) / (2 * (SPREAD * 11) ** 2))
                            value += w * sums[cy, cx] / counts[cy, cx]
                            weight += w
                blurred[y, x] = value / weight
        grown = F.interpolate(torch.from_numpy(blurred)[None, None], size, mode="bilinear")
        total += grown[0, 0].numpy()
    return 1 - total / len(detector.sides_)


def test_maps_equal_a_slow_version(shifting, brick):
    image = brick[1][0]
    maps = shifting.anomaly_map(image)
    assert maps.shape == (1, 96, 96)
    np.testing.assert_allclose(maps[0], slow_map(shifting, image, (96, 96)), atol=1e-5)
    assert maps.min() >= 0
    assert maps.max() <= 1


def test_maps_have_each_image_s_own_size(shifting, brick):
    wide = brick[1][1][:40, :90]
    predictions = list(shifting.predictions([brick[1][0], wide], maps=True))
    assert [p.anomaly_map.shape for p in predictions] == [(96, 96), (40, 90)]
    alone = shifting.anomaly_map(wide)[0]
    np.testing.assert_allclose(predictions[1].anomaly_map, alone, atol=1e-6)
    assert predictions[0].anomaly_map.dtype == np.float32
    with pytest.raises(ImageError, match=r"differ in size \(90 x 40 and 96 x 96 pixels\)"):
        shifting.anomaly_map([brick[1][0], wide])


def test_maps_and_scores_do_not_depend_on_the_batch(shifting, brick):
    images = brick[1][:5]
    one = list(shifting.predictions(images, (None, 0.1), maps=True, batch_size=1))
    many = list(shifting.predictions(images, (None, 0.1), maps=True, batch_size=4))
    for a, b in zip(one, many, strict=True):
        np.testing.assert_allclose(a.anomaly_map, b.anomaly_map, atol=1e-6)
        np.testing.assert_allclose(a.normality, b.normality, atol=1e-5)


def test_no_maps_unless_asked_for(tiny, brick):
    (prediction,) = tiny.predictions(brick[1][0])
    assert prediction.anomaly_map is None


def test_a_planted_patch_is_where_the_map_is_highest(brick):
    """End to end: a rotated piece of the training image itself, put back, stands out."""
    image = brick[0][0].copy()
    detector = HTDGDetector("tutorial", transformations="rotations", niter=5, device="cpu")
    detector.fit(image, **QUIET)
    odd = image.copy()
    odd[50:80, 20:50] = np.rot90(image[50:80, 20:50])
    difference = detector.anomaly_map(odd)[0] - detector.anomaly_map(image)[0]
    y, x = divmod(int(difference.argmax()), 96)
    assert 50 <= y < 80
    assert 20 <= x < 50


# --- Images that are hard to use ----------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (1500, 7), (13, 13)])
def test_images_of_any_size_are_scored_and_mapped(tiny, size):
    image = np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)
    assert 0 <= tiny.anomaly_score(image)[0] <= 1
    maps = tiny.anomaly_map(image)
    assert maps.shape == (1, *size)
    assert np.isfinite(maps).all()


def test_a_flat_image_is_scored_though_it_trains_nothing(tiny):
    flat = np.full((30, 30), 128, np.uint8)
    assert 0 <= tiny.anomaly_score(flat)[0] <= 1
    assert tiny.anomaly_map(flat).min() >= 0


def test_a_batch_takes_as_many_images_as_memory_allows(tiny, brick, monkeypatch):
    sizes = []

    class Voter:
        def __init__(self, taken):
            self.taken = taken

        def bytes_per_image(self):
            return self.taken

        def __call__(self, images):
            sizes.append(len(images))
            return torch.zeros(4, len(images), 2, 2)

    monkeypatch.setattr(scorer, "SCORING_BYTES", 1000)
    voters = [Voter(10 + n) for n in range(len(tiny.sides_) - 1)] + [Voter(300)]
    monkeypatch.setattr(Scorer, "voters", lambda self: voters)
    tiny.score_samples(list(brick[1][:5]))  # the largest scale takes 300 bytes an image: 3 of them
    assert sizes == [n for n in (3, 2) for _ in tiny.sides_]
