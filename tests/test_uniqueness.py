"""How much a patch stands alone in its own image: by hand, and against a slow search."""

import numpy as np
import pytest
import torch

from htdg import nearest
from htdg.distances import PatchComparison, UniqueDistances
from htdg.nearest import quantile
from htdg.patches import PixelPatches, patch_places
from htdg.uniqueness import Uniqueness
from tests.test_distances import flat, noise, ratios, slow_patches, stripes


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


class OfImages:
    """Uniqueness of the patches of images that start at some rows and columns, or at all."""

    def __init__(self, images, side, starts=None):
        starts = torch.arange(images.shape[-1] - side + 1) if starts is None else starts
        self.cut = lambda image: PixelPatches(side)(image[None], starts)[0]
        patches = [self.cut(image) for image in images]
        self.measure = Uniqueness(patches, patch_places(starts), side)
        self.usual = self.measure.usual

    def distances(self, image):
        return self.measure.distances(self.cut(image))

    def __call__(self, image):
        return self.measure(self.cut(image))


def slow_uniqueness(image, side, starts):
    """The distance of each patch at ``starts`` to the nearest of the others that is no neighbour.

    Of (3, H, H), row by row; 0 where there is none.
    """
    patches = slow_patches(image.numpy(), side, 0)
    found = []
    for i in starts:
        for j in starts:
            apart = [
                np.sqrt(((patches[i, j] - patches[y, x]) ** 2).mean())
                for y in starts
                for x in starts
                if max(abs(y - i), abs(x - j)) >= side
            ]
            found.append(min(apart, default=0))
    return np.array(found)


# --- The parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "expected"), [(0, 1), (0.5, 3), (0.75, 4), (0.9, 7), (1, 9)])
def test_a_quantile_by_hand(share, expected):
    # In order 1, 2, 3, 4, 9; nine tenths of the way are 3.6 steps: 4 + 0.6 * 5 = 7.
    assert float(quantile(torch.tensor([4.0, 1, 9, 2, 3]), share)) == pytest.approx(expected)


def test_quantiles_are_numpy_s():
    values = torch.from_numpy(np.random.default_rng(0).normal(size=101))
    for share in (0.1, 0.333, 0.9):
        assert float(quantile(values, share)) == pytest.approx(np.quantile(values, share))
    assert float(quantile(torch.tensor([5.0]), 0.9)) == 5


# --- Distances within an image --------------------------------------------------------------------


def row_of(*values):
    """A grey image whose rows all have these values: (3, H, H)."""
    return torch.tensor(values).expand(3, len(values), len(values)).clone()


def test_distances_by_hand():
    # Pixels as patches. Each column has its like in the same column; one pixel is changed.
    image = row_of(0.0, 0.2, 0.6)
    image[:, 1, 2] = 0.9
    measure = OfImages(image[None], 1)
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
    found = OfImages(image[None], 2).distances(image).view(3, 3)
    # The upper left patch, columns 0 and 1, has upper right as its only neighbour nearby: columns
    # 2 and 3 differ by 0 and 0.6, in both rows: sqrt(0.36 / 2).
    assert float(found[0, 0]) == pytest.approx(np.sqrt(0.36 / 2), rel=1e-5)
    # In the middle there is no room for a patch apart from it.
    assert float(found[1, 1]) == 0


@pytest.mark.parametrize("side", [2, 3, 4])
def test_distances_equal_a_slow_search(side):
    images, h = noise(2, 9), 9 - side + 1
    measure = OfImages(images, side)
    expected = [slow_uniqueness(image, side, range(h)) for image in images]
    for image, slow in zip(images, expected, strict=True):
        np.testing.assert_allclose(measure.distances(image), slow, rtol=1e-4, atol=1e-5)
    usual = np.quantile(np.concatenate(expected), 0.9)
    assert measure.usual == pytest.approx(usual, rel=1e-4)
    test = noise(1, 9, seed=1)[0] * 2
    slow = np.maximum(slow_uniqueness(test, side, range(h)) / usual, 1)
    assert slow.max() > 1.2
    np.testing.assert_allclose(measure(test), slow, rtol=1e-4)


def test_patches_are_compared_with_those_that_are_there():
    image, starts = noise(1, 10)[0], torch.tensor([0, 2, 4, 6, 7])
    found = OfImages(image[None], 3, starts).distances(image)
    np.testing.assert_allclose(found, slow_uniqueness(image, 3, starts.tolist()), rtol=1e-4)


def test_what_is_usual_is_never_nothing():
    measure = OfImages(flat(0.3)[None], 3)
    assert measure.usual == nearest.LEAST_DISTANCE
    assert measure(flat(0.5)).max() == 1


# --- What it does to the evidence -----------------------------------------------------------------


def test_a_defect_that_is_repeated_counts_less_than_one_that_stands_alone():
    image, mark = stripes(30), noise(1, 6, seed=2)[0]
    alone, repeated = stripes(30, seed=1), stripes(30, seed=1)
    alone[:, 4:10, 4:10] = repeated[:, 4:10, 4:10] = repeated[:, 18:24, 18:24] = mark
    of_image = UniqueDistances(image[None], PixelPatches(5), True)
    found, again = of_image(torch.stack([alone, repeated]))
    assert found[7, 7] > 2 * again[7, 7] > 2
    assert again[7, 7] == pytest.approx(float(again[21, 21]), rel=0.1)


def test_another_light_counts_little_where_the_image_has_its_like():
    image, lit = stripes(30), stripes(30, seed=1)
    lit[:, :, :15] += 0.5  # half of it, brighter than any part of the training image
    raw = ratios(PatchComparison(image[None], PixelPatches(5)), lit).view(26, 26)
    found = UniqueDistances(image[None], PixelPatches(5), True).ratios(lit).view(26, 26)
    assert raw[:, :8].min() > 5
    assert found[:, :8].max() < 2


@pytest.mark.parametrize(
    ("limited", "expected"),
    # min(9, 4) * 4, min(3, 4) * 4, min(2, 1) * 1, min(0, 1) * 1; or the ratios as they are.
    [(True, [16, 12, 1, 0]), (False, [36, 12, 2, 0])],
)
def test_the_evidence_of_a_patch_by_hand(limited, expected, monkeypatch):
    of_image = UniqueDistances(noise(1, 10), PixelPatches(5), limited)
    monkeypatch.setattr(of_image.compared, "ratios", lambda _: torch.tensor([9.0, 3, 2, 0]))
    monkeypatch.setattr(of_image, "unique", lambda _: torch.tensor([4.0, 4, 1, 1]))
    assert of_image.ratios(flat(0)).tolist() == expected
