"""Histograms of oriented gradients: by hand, against a slow version, and what they see."""

import numpy as np
import pytest
import torch

from htdg import gradients
from htdg.gradients import GradientPatches, blurred, directed_gradients
from tests.test_distances import noise

#: The number of the quarter of a patch, row by row, and the first number of its histogram.
TOP_LEFT, TOP_RIGHT, BOTTOM_LEFT, BOTTOM_RIGHT = 0, 8, 16, 24


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def gradient_patches(images, cell):
    """All patches of (B, C, H, H), row by row: (B, P, 32)."""
    return GradientPatches(cell)(images, torch.arange(images.shape[-1] - 2 * cell + 1))


def slow_directed(image):
    """(8, H, W) of (C, H, W), pixel by pixel."""
    c, h, w = image.shape
    found = np.zeros((8, h, w))
    for y in range(h):
        for x in range(w):
            steps = []
            for channel in range(c):
                right, left = image[channel, y, min(x + 1, w - 1)], image[channel, y, max(x - 1, 0)]
                below, above = (
                    image[channel, min(y + 1, h - 1), x],
                    image[channel, max(y - 1, 0), x],
                )
                steps.append((right - left, below - above))
            across, down = max(steps, key=lambda step: np.hypot(*step))
            length, towards = np.hypot(across, down), np.arctan2(down, across)
            for k in range(8):
                found[k, y, x] = length * max(0, np.cos(towards - k * np.pi / 4)) ** 4
    return found


def slow_patch(directed, top, left, cell):
    """The (32,) of the patch of 2 * cell pixels that begins there."""
    quarters = []
    for y in (top, top + cell):
        for x in (left, left + cell):
            quarters.append(directed[:, y : y + cell, x : x + cell].mean((1, 2)))
    values = np.concatenate(quarters)
    return np.sqrt(values / (np.linalg.norm(values) + 0.3))


def ramp(towards, side=8, slope=0.1):
    """A grey image (1, 3, side, side) that rises by ``slope`` a pixel towards an angle."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    rise = columns * np.cos(towards) + rows * np.sin(towards)
    return (slope * rise).float().expand(1, 3, side, side)


def test_gradients_of_ramps_by_hand():
    for k in range(8):
        inside = directed_gradients(ramp(k * np.pi / 4))[0, :, 3, 3]
        # Two pixels apart: 0.2. At 45 degrees the cosine is sqrt(1 / 2), its fourth power 1 / 4.
        expected = np.zeros(8)
        expected[[k, (k + 1) % 8, (k - 1) % 8]] = 0.2, 0.05, 0.05
        np.testing.assert_allclose(inside, expected, atol=1e-5)
    # At the border the image is repeated: half the step.
    at_border = directed_gradients(ramp(0))[0, 0, 3]
    np.testing.assert_allclose(at_border, [0.1, *[0.2] * 6, 0.1], atol=1e-5)


def test_of_the_channels_the_one_with_the_greatest_gradient_counts():
    # Red rises slowly to the right, green fast downwards, blue not at all.
    image = torch.zeros(1, 3, 6, 6)
    image[0, 0] = 0.1 * torch.arange(6)
    image[0, 1] = 0.3 * torch.arange(6)[:, None]
    found = directed_gradients(image)[0, :, 2, 2]
    np.testing.assert_allclose(found, [0, 0.15, 0.6, 0.15, 0, 0, 0, 0], atol=1e-5)


def test_gradients_equal_a_slow_version():
    images = noise(2, 7)
    found = directed_gradients(images)
    assert found.shape == (2, 8, 7, 7)
    for of_image, image in zip(found, images.double().numpy(), strict=True):
        np.testing.assert_allclose(of_image, slow_directed(image), atol=1e-4)


@pytest.mark.parametrize("cell", [1, 2, 3])
def test_patches_equal_a_slow_version_and_come_row_by_row(cell):
    images = noise(2, 8)
    found = gradient_patches(images, cell)
    h = 8 - 2 * cell + 1
    assert found.shape == (2, h * h, 32)
    for of_image, image in zip(found, images.double().numpy(), strict=True):
        directed = slow_directed(image)
        expected = [slow_patch(directed, y, x, cell) for y in range(h) for x in range(h)]
        np.testing.assert_allclose(of_image, expected, atol=1e-3)


def test_a_patch_by_hand(monkeypatch):
    monkeypatch.setattr(gradients, "CONSTANT", 1.0)
    # An upright edge, 0 to 1, between columns 3 and 4: the gradient of both is 1, to the right.
    image = torch.zeros(1, 3, 8, 8)
    image[..., 4:] = 1
    patches = gradient_patches(image, 2).view(5, 5, 32)
    # Its right quarters lie left of the edge but for one column, half of each cell.
    right = patches[2, 0]
    values = np.array([0.5, 0.125, 0.125])  # the direction, and a quarter beside it
    length = np.sqrt(2 * (values**2).sum())
    expected = np.zeros(32)
    for quarter in (TOP_RIGHT, BOTTOM_RIGHT):
        expected[[quarter, quarter + 1, quarter + 7]] = np.sqrt(values / (length + 1))
    np.testing.assert_allclose(right, expected, atol=1e-3)
    # The edge in the middle: half of every quarter.
    expected = np.zeros(32)
    length = np.sqrt(4 * (values**2).sum())
    for quarter in (TOP_LEFT, TOP_RIGHT, BOTTOM_LEFT, BOTTOM_RIGHT):
        expected[[quarter, quarter + 1, quarter + 7]] = np.sqrt(values / (length + 1))
    np.testing.assert_allclose(patches[2, 2], expected, atol=1e-3)


def test_a_flat_image_has_no_gradients():
    assert gradient_patches(torch.full((1, 3, 8, 8), 0.3), 2).max() == 0


def test_brightness_does_not_count_and_contrast_little():
    image = noise(1, 12) / 4
    patches = gradient_patches(image, 3)
    np.testing.assert_allclose(gradient_patches(image + 0.5, 3), patches, atol=1e-3)
    # Without the constant contrast would not count at all. With it a length l becomes
    # n = l / (l + 0.3), and half of it l / 2 / (l / 2 + 0.3) = n / (2 - n).
    fainter, n = gradient_patches(image / 2, 3), patches.square().norm(dim=-1, keepdim=True)
    assert 0.2 < n.min() < n.max() < 0.8
    np.testing.assert_allclose(fainter, patches / (2 - n).sqrt(), atol=1e-4)


def test_a_mirrored_image_has_mirrored_gradients():
    image = noise(1, 9)
    found = directed_gradients(image.flip(-1))
    # What rose to the right rises to the left: direction k becomes 4 - k.
    expected = directed_gradients(image).flip(-1)[:, [(4 - k) % 8 for k in range(8)]]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_turned_image_has_turned_gradients():
    image = noise(1, 9)
    found = directed_gradients(image.rot90(1, (-2, -1)))
    # Counter-clockwise, as rot90 turns: what rose to the right (0) rises upwards (6).
    expected = directed_gradients(image).rot90(1, (-2, -1))[:, [(k + 2) % 8 for k in range(8)]]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_only_the_patches_that_start_there_are_described():
    images, starts = noise(2, 12), torch.tensor([1, 4, 6])
    numbers = [7 * row + column for row in (1, 4, 6) for column in (1, 4, 6)]
    found = GradientPatches(3)(images, starts)
    np.testing.assert_allclose(found, gradient_patches(images, 3)[:, numbers], atol=1e-6)


# --- Without the blur ----------------------------------------------------------------------------


def slow_blurred(image, sigma):
    """(C, H, H), pixel by pixel."""
    places = np.arange(image.shape[-1])
    found = np.zeros_like(image)
    for y in places:
        for x in places:
            weights = np.exp(-((places[:, None] - y) ** 2 + (places - x) ** 2) / (2 * sigma**2))
            found[:, y, x] = (image * weights).sum((1, 2)) / weights.sum()
    return found


@pytest.mark.parametrize("sigma", [0.5, 2.0, 9.0])
def test_the_blur_is_the_weighted_mean_of_what_is_around(sigma):
    images = noise(2, 9)
    expected = [slow_blurred(image, sigma) for image in images.double().numpy()]
    np.testing.assert_allclose(blurred(images, sigma), expected, atol=1e-6)


def test_the_blur_of_three_pixels_by_hand():
    """Weights 1 and exp(-1/2) = 0.60653 a pixel away, exp(-2) = 0.13534 two pixels away."""
    image = torch.tensor([[0.0, 1.0, 0.0]] * 3).expand(1, 1, 3, 3)
    sides, middle = 0.60653 / (1 + 0.60653 + 0.13534), 1 / (1 + 2 * 0.60653)
    expected = [[sides, middle, sides]] * 3
    np.testing.assert_allclose(blurred(image, 1.0)[0, 0], expected, atol=1e-5)


def test_with_high_pass_the_gradients_are_those_of_the_image_without_its_blur():
    images, starts = noise(2, 12), torch.tensor([1, 4, 6])
    found = GradientPatches(3, high_pass=1.5)(images, starts)
    expected = GradientPatches(3)(images - blurred(images, 1.5), starts)
    np.testing.assert_array_equal(found, expected)
    assert not np.allclose(found, GradientPatches(3)(images, starts), atol=0.01)


def test_light_that_changes_slowly_does_not_count_with_high_pass():
    """In the middle: at the border the blur of a slope is not the slope."""
    image, starts = noise(1, 40) / 4, torch.tensor([14, 17, 20])
    lit = image + ramp(0.3, side=40, slope=0.05)[:, :1]

    def change(high_pass):
        describe = GradientPatches(3, high_pass)
        return (describe(lit, starts) - describe(image, starts)).abs().max()

    assert change(0.0) > 0.05
    assert change(2.0) < 1e-3
