"""How much a patch stands alone in its own image: by hand, and against a slow search."""

import numpy as np
import pytest
import torch

from htdg import nearest, uniqueness
from htdg.distances import PatchComparison, ScaleDistances
from htdg.nearest import quantile
from htdg.patches import cut, is_grey, patch_pixels, patch_places
from htdg.uniqueness import Uniqueness
from tests.test_distances import flat, noise, slow_patches, stripes


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def every(h):
    """All rows, or columns, of h patches."""
    return torch.arange(h)


def slow_uniqueness(image, side, starts, others):
    """The distance of each patch at ``starts`` to the nearest of ``others`` that is no neighbour.

    Of (3, H, H), row by row; 0 where there is none.
    """
    patches = slow_patches(image.numpy(), side, None)
    found = []
    for i in starts:
        for j in starts:
            apart = [
                np.sqrt(((patches[i, j] - patches[y, x]) ** 2).mean())
                for y in others
                for x in others
                if max(abs(y - i), abs(x - j)) >= side
            ]
            found.append(min(apart, default=0))
    return np.array(found)


# --- The parts ------------------------------------------------------------------------------------


def test_places_go_row_by_row():
    assert patch_places(2, torch.device("cpu")).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_a_patch_is_cut_by_its_pixels():
    images = torch.arange(18.0).view(1, 2, 3, 3)
    pixels = patch_pixels(images, 2)
    assert pixels.tolist() == [
        [0, 1, 3, 4, 9, 10, 12, 13],
        [1, 2, 4, 5, 10, 11, 13, 14],
        [3, 4, 6, 7, 12, 13, 15, 16],
        [4, 5, 7, 8, 13, 14, 16, 17],
    ]
    patches = cut(images[0] * 10, pixels[[2, 0], 1:3])
    assert patches.tolist() == [[40, 60], [10, 30]]


@pytest.mark.parametrize(("share", "expected"), [(0, 1), (0.5, 3), (0.75, 4), (0.9, 7), (1, 9)])
def test_a_quantile_by_hand(share, expected):
    # In order 1, 2, 3, 4, 9; nine tenths of the way are 3.6 steps: 4 + 0.6 * 5 = 7.
    assert float(quantile(torch.tensor([4.0, 1, 9, 2, 3]), share)) == pytest.approx(expected)


def test_quantiles_are_numpy_s():
    values = torch.from_numpy(np.random.default_rng(0).normal(size=101))
    for share in (0.1, 0.333, 0.9):
        assert float(quantile(values, share)) == pytest.approx(np.quantile(values, share))
    assert float(quantile(torch.tensor([5.0]), 0.9)) == 5


@pytest.mark.parametrize(("channel", "grey"), [(None, True), (0, False), (1, False), (2, False)])
def test_grey_is_three_channels_alike(channel, grey):
    images = noise(2, 5)[:, :1].repeat(1, 3, 1, 1)
    if channel is not None:
        images[1, channel, 3, 4] += 0.1
    assert is_grey(images) == grey


# --- Distances within an image --------------------------------------------------------------------


def row_of(*values):
    """A grey image whose rows all have these values: (3, H, H)."""
    return torch.tensor(values).expand(3, len(values), len(values)).clone()


def test_distances_by_hand():
    # Pixels as patches. Each column has its like in the same column; one pixel is changed.
    image = row_of(0.0, 0.2, 0.6)
    image[:, 1, 2] = 0.9
    measure = Uniqueness(image[None], 1, every(3))
    expected = [0, 0, 0, 0, 0, 0.3, 0, 0, 0]
    np.testing.assert_allclose(measure.distances(image), expected, atol=1e-6)
    # A tenth of nine is 0.9: the highest but 0.8 steps, 0.2 * 0.3 from the way of 0 to 0.3.
    assert measure.usual == pytest.approx(0.2 * 0.3, rel=1e-5)
    expected = [1, 1, 1, 1, 1, 5, 1, 1, 1]
    np.testing.assert_allclose(measure(image), expected, rtol=1e-5)


def test_patches_that_share_a_pixel_do_not_count():
    # Four columns of two pixels: those at 0 and 2 share none, those at 0 and 1 do.
    image = torch.tensor([0.0, 0.4, 0.0, 1.0]).expand(3, 4, 4).clone()
    image[:, 2:] += 3  # the rows below are far away
    found = Uniqueness(image[None], 2, every(3)).distances(image).view(3, 3)
    # The upper left patch, columns 0 and 1, has upper right as its only neighbour nearby: columns
    # 2 and 3 differ by 0 and 0.6, in both rows: sqrt(0.36 / 2).
    assert float(found[0, 0]) == pytest.approx(np.sqrt(0.36 / 2), rel=1e-5)
    # In the middle there is no room for a patch apart from it.
    assert float(found[1, 1]) == 0


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("side", [2, 3, 4])
def test_distances_equal_a_slow_search(side, grey):
    images = noise(2, 9)
    if grey:
        images = images[:, :1].repeat(1, 3, 1, 1)
    h = 9 - side + 1
    measure = Uniqueness(images, side, every(h))
    expected = [slow_uniqueness(image, side, range(h), range(h)) for image in images]
    for image, slow in zip(images, expected, strict=True):
        np.testing.assert_allclose(measure.distances(image), slow, rtol=1e-4, atol=1e-5)
    usual = np.quantile(np.concatenate(expected), 0.9)
    assert measure.usual == pytest.approx(usual, rel=1e-4)
    test = noise(1, 9, seed=1)[0] * 2
    slow = np.maximum(slow_uniqueness(test, side, range(h), range(h)) / usual, 1)
    assert slow.max() > 1.2
    np.testing.assert_allclose(measure(test), slow, rtol=1e-4)


def test_of_a_large_image_every_second_patch_is_compared_with_every_second(monkeypatch):
    image, starts = noise(1, 10)[0], torch.tensor([0, 2, 4, 6, 7])
    few = Uniqueness(image[None], 3, starts).distances(image)
    slow = slow_uniqueness(image, 3, starts.tolist(), range(8))
    np.testing.assert_allclose(few, slow, rtol=1e-4)
    monkeypatch.setattr(uniqueness, "ALL_PATCHES", 63)  # of 64
    fewer = Uniqueness(image[None], 3, starts).distances(image)
    slow = slow_uniqueness(image, 3, starts.tolist(), starts.tolist())
    np.testing.assert_allclose(fewer, slow, rtol=1e-4)
    assert (fewer > few + 1e-3).any()


def test_what_is_usual_is_never_nothing():
    measure = Uniqueness(flat(0.3)[None], 3, every(8))
    assert measure.usual == nearest.LEAST_DISTANCE
    assert measure(flat(0.5)).max() == 1


# --- What it does to the evidence -----------------------------------------------------------------


def test_a_defect_that_is_repeated_counts_less_than_one_that_stands_alone():
    image, mark = stripes(30), noise(1, 6, seed=2)[0]
    alone, repeated = stripes(30, seed=1), stripes(30, seed=1)
    alone[:, 4:10, 4:10] = repeated[:, 4:10, 4:10] = repeated[:, 18:24, 18:24] = mark
    found, again = ScaleDistances(image[None], 5, 0.05)(torch.stack([alone, repeated]))
    assert found[7, 7] > 2 * again[7, 7] > 2
    assert again[7, 7] == pytest.approx(float(again[21, 21]), rel=0.1)


def test_another_light_counts_little_where_the_image_has_its_like():
    image, lit = stripes(30), stripes(30, seed=1)
    lit[:, :, :15] += 0.5  # half of it, brighter than any part of the training image
    of_scale = ScaleDistances(image[None], 5, 0.05)
    raw = PatchComparison(image[None], 5, None).ratios(lit).view(26, 26)
    found = of_scale.ratios(lit).view(26, 26)
    assert raw[:, :8].min() > 5
    assert found[:, :8].max() < 2


def test_the_evidence_of_a_patch_by_hand(monkeypatch):
    of_scale = ScaleDistances(noise(1, 10), 5, 0.05)
    raw, normalised = torch.tensor([9.0, 3, 1, 0]), torch.tensor([2.0, 2, 2, 0.5])
    unique = torch.tensor([4.0, 4, 1, 1])
    monkeypatch.setattr(of_scale, "unique", lambda _: unique)
    monkeypatch.setattr(of_scale.raw, "ratios", lambda _: raw)
    monkeypatch.setattr(of_scale.normalised, "ratios", lambda _: normalised)
    # max(min(9, 4), 2) * 4, max(3, 2) * 4, max(1, 2) * 1, max(0, 0.5) * 1
    assert of_scale.ratios(flat(0)).tolist() == [16, 12, 2, 0.5]
