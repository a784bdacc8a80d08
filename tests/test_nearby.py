"""Distances to the nearest patch nearby: by hand, against a slow version, and what they see."""

import numpy as np
import pytest
import torch

from htdg import nearby
from htdg.gradients import GradientPatches
from htdg.nearby import NearbyDistances, moved
from htdg.patches import PixelPatches
from tests.test_distances import flat, noise, slow_distance, slow_map, slow_patches, stripes
from tests.test_gradients import slow_directed, slow_patch


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def of_pixels(images, radius=0.0):
    """Pixels compared with those at most a share of the side away."""
    return NearbyDistances(images, PixelPatches(1), radius)


# --- A slow version -------------------------------------------------------------------------------


def slow_pixels(image, side, constant):
    return {place: patch.ravel() for place, patch in slow_patches(image, side, constant).items()}


def slow_gradients(image, cell):
    directed, h = slow_directed(image), image.shape[-1] - 2 * cell + 1
    return {(y, x): slow_patch(directed, y, x, cell) for y in range(h) for x in range(h)}


def slow_ratios(images, test, describe, radius):
    """Of every patch of (3, H, H), row by row, in units of normal ones."""
    mirrored = [[x, x[:, :, ::-1]] for x in images]
    upright = [[describe(copy) for copy in copies] for copies in mirrored]
    turned = [
        [describe(np.rot90(copy, turns, (1, 2))) for copy in copies for turns in (1, 2, 3)]
        for copies in mirrored
    ]

    def nearest(place, patch, banks, left_out):
        nearby = [
            bank[i, j]
            for n, of_image in enumerate(banks)
            for bank in of_image
            for i, j in bank
            if n != left_out and abs(i - place[0]) <= radius and abs(j - place[1]) <= radius
        ]
        return slow_distance(patch, nearby)

    def of_image(image, left_out=None):
        return np.array(
            [
                nearest(place, patch, upright, left_out)
                / max(nearest(place, patch, turned, left_out), 0.01) ** 0.25
                for place, patch in describe(image).items()
            ]
        )

    if len(images) > 1:
        normal = [of_image(image, left_out=n) for n, image in enumerate(images)]
    else:
        far, (h, w) = radius + 1, images.shape[-2:]
        wide = np.pad(images[0], ((0, 0), (far, far), (far, far)), mode="edge")
        corners = (0, far), (2 * far, far), (far, 0), (far, 2 * far)
        normal = [of_image(wide[:, y : y + h, x : x + w]) for y, x in corners]
    return of_image(test) / np.concatenate(normal).mean()


@pytest.mark.parametrize("shots", [1, 3])
@pytest.mark.parametrize("constant", [0.05, 0.3])
def test_maps_of_pixels_equal_a_slow_version(shots, constant):
    images, test = noise(shots, 10), noise(1, 10, seed=1)
    test[0, :, 2:8, 2:8] = images[0, :, 3:9, 2:8]  # something to be known again, a pixel away
    found = NearbyDistances(images, PixelPatches(3, constant), 0.15)(test)
    ratios = slow_ratios(
        images.double().numpy(),
        test[0].double().numpy(),
        lambda image: slow_pixels(image, 3, constant),
        2,  # 0.15 * 10, rounded
    )
    assert ratios.min() < 0.01 < 0.5 < ratios.max()
    np.testing.assert_allclose(found[0], slow_map(ratios, 10, 3), atol=0.01)


@pytest.mark.parametrize("shots", [1, 3])
def test_maps_of_gradients_equal_a_slow_version(shots):
    images, test = noise(shots, 11), noise(1, 11, seed=1)
    test[0, :, 1:9, 1:9] = images[0, :, 2:10, 1:9]
    found = NearbyDistances(images, GradientPatches(2), 0.1)(test)
    ratios = slow_ratios(
        images.double().numpy(),
        test[0].double().numpy(),
        lambda image: slow_gradients(image, 2),
        1,
    )
    assert ratios.min() < 0.1 < 0.5 < ratios.max()
    np.testing.assert_allclose(found[0], slow_map(ratios, 11, 4), atol=0.01)


# --- By hand --------------------------------------------------------------------------------------


def test_the_banks_have_each_image_its_mirror_image_and_what_is_turned():
    images = noise(2, 6)
    compared = of_pixels(images)
    both = [*images, *images.flip(-1)]
    turned = [copy.rot90(turns, (1, 2)) for turns in (1, 2, 3) for copy in both]
    for bank, copies in ((compared.upright, both), (compared.turned, turned)):
        assert bank.patches.shape == (len(copies), 36, 3)
        for of_copy, copy in zip(bank.patches, copies, strict=True):
            assert torch.equal(of_copy, copy.flatten(1).T)


def test_of_large_turned_images_every_second_patch_is_kept():
    compared = of_pixels(noise(1, 20))
    assert compared.starts.tolist() == [*range(0, 20, 2), 19]
    assert compared.upright.patches.shape[1] == 400
    quarter = noise(1, 20)[0].rot90(1, (1, 2))[:, compared.starts][..., compared.starts]
    assert torch.equal(compared.turned.patches[0], quarter.flatten(1).T)


def test_moved_copies_by_hand():
    image = torch.tensor([[1.0, 2], [3, 4]]).view(1, 1, 2, 2)
    down, up, right, left = moved(image, 1)[:, 0].tolist()
    assert (down, up) == ([[1, 2], [1, 2]], [[3, 4], [3, 4]])
    assert (right, left) == ([[1, 1], [3, 3]], [[2, 2], [4, 4]])


def test_upright_and_turned_by_hand():
    # Pixels as patches, 0.2, 0.4 above 0.6, 0.8. In place (radius 0), upright or mirrored, the
    # upper row has 0.2 and 0.4, the lower 0.6 and 0.8.
    image = torch.tensor([[0.2, 0.4], [0.6, 0.8]]).expand(1, 3, 2, 2)
    compared = of_pixels(image)
    test = torch.tensor([[0.65, 0.25], [0.5, 1.0]]).expand(3, 2, 2)
    # Upright: 0.65 - 0.4, 0.25 - 0.2, 0.6 - 0.5, 1 - 0.8. Turned: half a turn has 0.6 and 0.8
    # above, 0.2 and 0.4 below; a quarter has 0.2 and 0.6, or 0.4 and 0.8, in any order, so that
    # all four values are everywhere.
    upright, turned = [0.25, 0.05, 0.1, 0.2], [0.05, 0.05, 0.1, 0.2]
    expected = np.array(upright) / np.array(turned) ** 0.25
    np.testing.assert_allclose(compared.relations(test), expected, rtol=1e-3)


def test_nothing_is_divided_by_less_than_a_hundredth():
    # Upright and turned images are the same: 0.005 away, and nothing.
    compared = of_pixels(flat(0)[None])
    assert compared.relations(flat(0.005)).numpy() == pytest.approx(0.005 / 0.01**0.25, rel=1e-3)
    assert compared.relations(flat(0)).max() == 0


def test_what_is_normal_with_a_single_image_by_hand():
    # The image of the last test but one. Moved by one pixel to the side nothing is new to the bank
    # of upright images; moved down the lower row is 0.2, 0.4, which are 0.4 and 0.2 from 0.6; moved
    # up the upper row is 0.6, 0.8, which are 0.2 and 0.4 from 0.4. Turned images have all of these
    # values everywhere, so the distance to them counts as 0.01. Of 16 pixels the mean is
    # 1.2 / 0.01 ** 0.25 / 16 = 0.237.
    image = torch.tensor([[0.2, 0.4], [0.6, 0.8]]).expand(1, 3, 2, 2)
    assert of_pixels(image).mean == pytest.approx(1.2 / 0.01**0.25 / 16, rel=1e-3)


def test_what_is_normal_with_several_images_by_hand():
    # Each pixel is as far from the other images as from the nearest of them, turned or not.
    images = torch.stack([flat(0), flat(-0.5), flat(0.2)])
    expected = (0.2**0.75 + 0.5**0.75 + 0.2**0.75) / 3
    assert of_pixels(images).mean == pytest.approx(expected, rel=1e-5)
    # Two copies of one image say that nothing differs: no smaller unit than this counts.
    assert of_pixels(torch.stack([flat(0.3), flat(0.3)])).mean == pytest.approx(0.001)


def test_no_floor_is_taken_off():
    # The image as a whole is normal or not: all of it is 0.75 away, and 0.5 is normal.
    of_images = of_pixels(torch.stack([flat(0), flat(-0.5)]), 0.1)
    np.testing.assert_allclose(of_images(flat(0.75)[None]), (0.75 / 0.5) ** 0.75, rtol=1e-5)


# --- What is seen, and what makes no difference ---------------------------------------------------


KINDS = {
    "pixels": lambda images: NearbyDistances(images, PixelPatches(5, 0.05), 0.1),
    "gradients": lambda images: NearbyDistances(images, GradientPatches(3), 0.1),
}


@pytest.fixture(params=KINDS)
def compared(request):
    return KINDS[request.param]


@pytest.mark.parametrize("shots", [1, 3])
def test_a_training_image_is_at_no_distance_and_on_its_side_it_is(shots, compared):
    images = noise(shots, 16)
    of_images = compared(images)
    rounding = 1e-3 / of_images.mean
    assert of_images(images).max() < rounding
    assert of_images(images.flip(-1)).max() < rounding
    # Its upright patches are no nearer than those of an image that has nothing to do with it, and
    # it has the turned ones.
    unlike = of_images(noise(shots, 16, seed=9)).mean()
    for turns in (1, 2, 3):
        assert of_images(images.rot90(turns, (-2, -1))).mean() > 1.4 * unlike


def test_mirroring_an_image_mirrors_its_map(compared):
    of_images, test = compared(noise(2, 14)), noise(1, 14, seed=9)
    expected = of_images(test).flip(-1)
    assert expected.std() > 0.01
    np.testing.assert_allclose(of_images(test.flip(-1)), expected, atol=1e-3)


def test_brightness_does_not_count(compared):
    images, test = noise(2, 14) / 2, noise(1, 14, seed=1) / 2
    of_images = compared(images)
    np.testing.assert_allclose(of_images(test + 0.4), of_images(test), rtol=3e-3)


def test_an_image_has_the_same_map_in_any_company(compared):
    of_images, tests = compared(noise(2, 14)), noise(3, 14, seed=1)
    together = of_images(tests)
    for image, of_image in zip(tests, together, strict=True):
        assert torch.equal(of_images(image[None])[0], of_image)


def test_of_a_large_image_every_second_patch_is_compared(compared):
    images = torch.stack([stripes(32), stripes(32, seed=1)])
    clean, planted = stripes(32, seed=2), stripes(32, seed=2)
    planted[:, 15:22, 6:13] = noise(1, 7)[0]
    of_images = compared(images)
    h = 32 - of_images.describe.side + 1
    assert of_images.starts.tolist() == sorted({*range(0, h, 2), h - 1})
    normal, found = of_images(torch.stack([clean, planted]))
    row, column = divmod(int(found.argmax()), 32)
    assert 15 <= row < 22
    assert 6 <= column < 13
    assert found[15:22, 6:13].mean() > 1.5 * normal[15:22, 6:13].mean()
    assert torch.equal(found[:, 26:], normal[:, 26:])  # far from the square


@pytest.mark.parametrize(
    ("top", "left", "known"),
    [
        pytest.param(3, 3, True, id="in its place"),
        pytest.param(5, 4, True, id="two pixels away"),
        pytest.param(6, 3, False, id="three rows away"),
        pytest.param(3, 6, False, id="three columns away"),
        pytest.param(3, 16, True, id="in the mirror image"),
        pytest.param(16, 3, False, id="far below"),
        pytest.param(16, 16, False, id="in the other corner"),
    ],
)
def test_a_patch_that_only_occurs_far_away_is_unknown(top, left, known, monkeypatch):
    monkeypatch.setattr(nearby, "ALL_ROWS", 20)
    mark = noise(1, 5, seed=4)[0]
    image = stripes(24)
    image[:, 3:8, 3:8] = mark
    other = stripes(24, seed=1)
    other[:, 3:8, 3:8] = mark
    test = stripes(24, seed=2)
    # Beside the middle line the mirror image has it, mirrored.
    test[:, top : top + 5, left : left + 5] = mark.flip(-1) if left == 16 else mark
    of_images = NearbyDistances(torch.stack([image, other]), PixelPatches(5, 0.05), 2 / 24)
    found = of_images.relations(test).view(20, 20)[top, left]
    assert found < 0.1 * of_images.mean if known else found > 2 * of_images.mean
