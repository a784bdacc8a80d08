"""Images that are not square, cut into overlapping squares: where they lie, and their scores."""

import numpy as np
import pytest
import torch

from htdg import HTDGDetector
from htdg.images import ImageError
from htdg.tiles import MOST_TILES, OVERLAP, Tiles, squares
from tests.models import QUIET

FRACTIONS = (None, 0.05)


def strip(height, width, seed=0):
    """A random image (3, H, W) in [0, 1]."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.uniform(0, 1, (3, height, width))).float()


@pytest.mark.parametrize(
    ("height", "width", "starts"),
    [
        (50, 50, (0,)),
        (40, 50, (0, 10)),
        (50, 40, (0, 10)),
        (40, 70, (0, 30)),  # a quarter in common, just so
        (40, 71, (0, 16, 31)),
        (256, 640, (0, 192, 384)),
        (640, 256, (0, 192, 384)),
    ],
)
def test_where_tiles_lie(height, width, starts):
    tiles = Tiles.of_size(height, width)
    assert tiles.starts == starts
    assert tiles.side == min(height, width)


def test_tiles_reach_from_end_to_end_and_overlap():
    for length in range(32, 400, 7):
        tiles = Tiles.of_size(32, length)
        assert tiles.starts[0] == 0
        assert tiles.starts[-1] == length - 32
        steps = np.diff(tiles.starts)
        assert (steps > 0).all()
        assert (steps <= (1 - OVERLAP) * 32 + 0.5).all()  # rounded
        if len(steps) > 1:  # one tile fewer would not do
            assert (length - 32) / (len(steps) - 1) > (1 - OVERLAP) * 32


def test_an_image_too_narrow_is_refused_in_a_sentence():
    assert len(Tiles.of_size(4, 4 + 3 * (MOST_TILES - 1)).starts) == MOST_TILES
    with pytest.raises(ImageError) as refused:
        Tiles.of_size(4, 4 + 3 * (MOST_TILES - 1) + 1)
    assert str(refused.value) == (
        "An image of 194 x 4 pixels would be 65 tiles, but 64 are the most: cut it into shorter "
        "parts, or do without tiles."
    )


def test_tiles_are_cut_where_they_lie():
    wide = strip(6, 15)
    for cut, start in zip(Tiles.of_size(6, 15).cut(wide), (0, 4, 9), strict=True):
        assert torch.equal(cut, wide[:, :, start : start + 6])
    for cut, start in zip(Tiles.of_size(15, 6).cut(wide.mT), (0, 4, 9), strict=True):
        assert torch.equal(cut, wide.mT[:, start : start + 6])


def test_an_image_is_one_squeezed_square_or_its_tiles():
    wide = strip(20, 50)
    assert squares(wide, 16, False).shape == (1, 3, 16, 16)
    tiles = squares(wide, 20, True)
    assert tiles.shape == (3, 3, 20, 20)
    assert torch.equal(tiles[0], wide[:, :, :20])  # of their own size they stay as they are
    assert torch.equal(tiles[2], wide[:, :, 30:])


def test_joined_maps_by_hand():
    tiles = Tiles(2, 3, (0, 1))
    first, second = np.full((2, 2), 1.0), np.full((2, 2), 4.0)
    # In the middle column the first ends and the second begins, each with weight 1.
    expected = [[1, 2.5, 4], [1, 2.5, 4]]
    np.testing.assert_allclose(tiles.joined([first, second]), expected)
    assert tiles.joined([first, second]).dtype == np.float32
    upright = Tiles(3, 2, (0, 1)).joined([first, second])
    np.testing.assert_allclose(upright, np.transpose(expected))


def test_joined_maps_have_no_seam():
    tiles = Tiles.of_size(32, 80)
    maps = [np.full((32, 32), value) for value in (0.0, 1.0, 0.0)]
    row = tiles.joined(maps)[0]
    assert row.max() == 1
    assert np.abs(np.diff(row)).max() < 0.15
    # A map that was whole before it was cut is whole again.
    whole = strip(32, 80)[0].numpy()
    cut = [whole[:, start : start + 32] for start in tiles.starts]
    np.testing.assert_allclose(tiles.joined(cut), whole, atol=1e-6)
    np.testing.assert_allclose(Tiles.of_size(80, 32).joined([x.T for x in cut]), whole.T, atol=1e-6)


# --- In the detector ------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["votes", "distance", "both"])
def detector(request):
    options = {"evidence": request.param, "distance_min_size": 14, "distance_max_size": 14}
    return HTDGDetector("tiny", tiles=True, **options).fit(strip(30, 60), **QUIET)


def test_each_tile_of_a_training_image_trains(detector):
    assert len(detector.images_) == 3
    assert detector.image_names_ == ["image 1"] * 3
    expected = squares(strip(30, 60) * 2 - 1, 20, True)
    torch.testing.assert_close(detector.images_, expected, atol=1e-5, rtol=0)


def test_an_image_is_as_anomalous_as_its_worst_tile(detector):
    image = strip(30, 72, seed=1)
    (whole,) = detector.predictions(image, FRACTIONS, maps=True)
    tiles = Tiles.of_size(30, 72)
    parts = list(detector.predictions(tiles.cut(image), FRACTIONS, maps=True))
    scores = np.array([part.scores for part in parts])
    np.testing.assert_array_equal(whole.scores, scores.max(0))
    for f, worst in enumerate(scores.argmax(0)):
        np.testing.assert_array_equal(whole.normality[f], parts[worst].normality[f])
        for kind, values in whole.evidence.items():
            assert values[f] == parts[worst].evidence[kind][f]
    assert whole.anomaly_map.shape == (30, 72)
    np.testing.assert_array_equal(
        whole.anomaly_map, tiles.joined([part.anomaly_map for part in parts])
    )


def test_a_square_is_scored_as_without_tiles(detector):
    config = detector.config_.with_options(tiles=False)
    squeezed = HTDGDetector.from_model(
        type(detector.model_)(**{**vars(detector.model_), "config": config})
    )
    square, wide = strip(30, 30, seed=2), strip(30, 60, seed=3)
    assert detector.anomaly_score(square) == squeezed.anomaly_score(square)
    np.testing.assert_array_equal(detector.anomaly_map(square), squeezed.anomaly_map(square))
    assert detector.anomaly_score(wide) != squeezed.anomaly_score(wide)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_scores_do_not_depend_on_the_batch(batch_size, detector):
    images = [strip(30, width, seed=width) for width in (30, 90, 45, 60)]
    expected = list(detector.predictions(images, FRACTIONS, maps=True))
    found = list(detector.predictions(images, FRACTIONS, True, batch_size))
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.scores, two.scores)
        np.testing.assert_array_equal(one.anomaly_map, two.anomaly_map)


def test_a_threshold_of_tiles_is_that_of_whole_images(detector):
    images = [strip(30, 75, seed=n) for n in range(4, 9)]
    threshold = detector.calibrate(images, 0.2)
    scores = detector.anomaly_score(images)
    assert (scores > threshold.score).sum() <= 1
    flagged = detector.predict(images) == -1
    np.testing.assert_array_equal(flagged, scores > threshold.score)


def test_a_model_remembers_its_tiles(detector, tmp_path):
    detector.save(tmp_path / "model")
    again = HTDGDetector.load(tmp_path / "model")
    image = strip(30, 72, seed=1)
    assert again.config_.tiles
    assert again.anomaly_score(image) == detector.anomaly_score(image)


def test_a_defect_is_found_in_the_tile_that_it_is_in():
    rows = torch.arange(32)[:, None] * torch.pi / 4
    walls = [0.5 + 0.3 * rows.sin() + 0.1 * strip(32, 320, seed=n) for n in range(5, 9)]
    broken = walls[3].clone()
    broken[:, 14:18, 200:204] = 0.2
    options = {"image_size": 32, "distance_min_size": 32, "distance_max_size": 32}
    fitted = HTDGDetector("tiny", tiles=True, evidence="distance", **options)
    fitted.fit(walls[0], **QUIET)
    (prediction,) = fitted.predictions(broken, 0.02, maps=True)
    assert prediction.scores[0] > fitted.anomaly_score(walls[1:], 0.02).max()
    row, column = np.unravel_index(prediction.anomaly_map.argmax(), (32, 320))
    assert 12 <= row < 20
    assert 198 <= column < 206
