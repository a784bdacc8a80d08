"""The pyramid: its sides by hand and for every config, and an image at all of them."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st
from PIL import Image

from htdg.config import ConfigError, HTDGConfig
from htdg.pyramid import build_pyramid, pyramid_sides, resize

FINE = (25, 31, 37, 44, 54, 64)  # N = 5, r = (25/64) ** (1/5) = 0.8286
COARSE = (25, 32, 40, 51, 64)  # N = 4, r = (25/64) ** (1/4) = 0.7906


@pytest.mark.parametrize(
    ("image_size", "sides"),
    [
        # levels = ceil(ln(25/28) / ln 0.75) + 1 = ceil(0.39) + 1 = 2, cut = 0, so N = 2;
        # r = sqrt(25/28) = 0.9449, 28 r = 26.46 -> 27
        (28, (25, 27, 28)),
        # ceil(0.86) + 1 = 2, cut = 0, N = 2; r = 0.8839, 32 r = 28.28 -> 29
        (32, (25, 29, 32)),
        # ceil(3.27) + 1 = 5, cut = 0, N = 5; 64 r = 53.03, 43.94, 36.41, 30.17, 25
        (64, FINE),
        # ceil(4.82) + 1 = 6, cut = ceil(ln(64/100) / ln 0.75) = ceil(1.55) = 2, N = 4;
        # 64 r = 50.60, 64 r^2 = 64 * 5/8 = 40 exactly, 31.62, 25
        (100, COARSE),
        # ceil(5.68) + 1 = 7, cut = ceil(2.41) = 3, N = 4. The official code's rounding error
        # turns the whole numbers 25 and 40 into 26 and 41.
        (128, COARSE),
        (256, FINE),  # ceil(8.09) + 1 = 10, cut = ceil(4.82) = 5, N = 5
        (450, FINE),  # ceil(10.05) + 1 = 12, cut = ceil(6.78) = 7, N = 5
    ],
)
def test_sides_worked_by_hand(image_size, sides):
    assert pyramid_sides(image_size) == sides
    assert HTDGConfig(image_size=image_size).sides == sides


def test_sides_with_other_options():
    # ceil(ln(14/20) / ln 0.75) + 1 = ceil(1.24) + 1 = 3, N = 3; r = 0.7 ** (1/3) = 0.8879:
    # 20 r = 17.76, 15.77, 14
    assert pyramid_sides(20, 14, 20) == (14, 16, 18, 20)
    # ceil(ln(16/64) / ln 0.5) + 1 = 3, cut = ceil(ln(32/64) / ln 0.5) = 1, N = 2; r = 0.7071
    assert pyramid_sides(64, 16, 32, 0.5) == (16, 23, 32)


@pytest.mark.parametrize("image_size", [25, 64, 128])
def test_one_scale_when_smallest_and_largest_are_the_same(image_size):
    assert pyramid_sides(image_size, 25, 25) == (25,)


def test_one_scale_when_the_image_is_of_the_smallest_side():
    assert pyramid_sides(25) == (25,)


def test_the_ends_are_the_sizes_asked_for():
    for image_size in range(26, 300):
        sides = pyramid_sides(image_size)
        assert (sides[0], sides[-1]) == (25, min(image_size, 64)), image_size
        assert list(sides) == sorted(sides), image_size


LARGEST_SIZE = 2048


@st.composite
def configs(draw):
    """Any sizes that go together, any ratio of not too many scales, any number of layers."""
    layers = draw(st.integers(1, 10))
    min_size = draw(st.integers(2 * layers + 2, LARGEST_SIZE - 100))
    near = st.integers(min_size, min_size + 12)  # where few whole numbers lie between
    sizes = near | st.integers(min_size, LARGEST_SIZE)
    ratio = st.floats(0, 1, exclude_min=True, exclude_max=True) | st.floats(0.5, 0.95)
    options = {
        "image_size": draw(sizes),
        "min_size": min_size,
        "max_size": draw(sizes),
        "scale_factor": draw(ratio),
        "layers": layers,
        "channels": 1,
    }
    try:
        return HTDGConfig(**options)
    except ConfigError:  # too many scales: tests/test_config.py
        reject()


@settings(max_examples=300, deadline=None, derandomize=True)
@example(HTDGConfig(image_size=26))  # would be 25, 26, 26
@example(HTDGConfig(image_size=50, scale_factor=math.nextafter(1, 0)))  # as many as there are
@example(HTDGConfig(image_size=64, scale_factor=5e-324))
@given(configs())
def test_sides_rise_strictly_whatever_the_config(config):
    sides = config.sides
    finest = min(config.max_size, config.image_size)
    assert (sides[0], sides[-1]) == (config.min_size, finest)
    assert all(type(side) is int for side in sides)
    assert all(below < above for below, above in pairwise(sides))
    assert sides[0] > config.receptive_field  # there is a patch at every scale


@pytest.mark.parametrize("ratio", [0.99, 0.9999, 1 - 1e-12])
def test_no_more_scales_than_whole_numbers(ratio):
    assert pyramid_sides(31, 25, 31, ratio) == (25, 26, 27, 28, 29, 30, 31)


def random_images(side, seed=0, amplitude=0.7):
    generator = torch.Generator().manual_seed(seed)
    return amplitude * (2 * torch.rand(2, 3, side, side, generator=generator) - 1)


def pil_resize(images, side):
    """The same through Pillow, whose bicubic filter widens when shrinking, too."""
    planes = [
        [np.asarray(Image.fromarray(c).resize((side, side), Image.Resampling.BICUBIC)) for c in x]
        for x in images.numpy()
    ]
    return torch.tensor(np.array(planes))


@pytest.mark.parametrize(("source", "side"), [(40, 25), (64, 31), (31, 14), (14, 20), (25, 32)])
def test_resize_agrees_with_pillow(source, side):
    images = random_images(source, amplitude=0.5)  # small enough never to leave [-1, 1]
    resized = resize(images, side)
    assert resized.shape == (2, 3, side, side)
    torch.testing.assert_close(resized, pil_resize(images, side), atol=2e-6, rtol=0)


@pytest.mark.parametrize("value", [-1.0, -0.3, 0.0, 1.0])
@pytest.mark.parametrize("side", [9, 20, 33])
def test_a_constant_stays(value, side):
    resized = resize(torch.full((1, 3, 20, 20), value), side)
    torch.testing.assert_close(resized, torch.full((1, 3, side, side), value), atol=1e-6, rtol=0)


def test_the_same_side_returns_the_same_values():
    images = random_images(17)
    assert torch.equal(resize(images, 17), images)


def test_overshoot_at_edges_is_cut_off():
    step = -torch.ones(1, 3, 20, 20)
    step[..., 10:] = 1
    assert pil_resize(step, 33).abs().max() > 1.02  # so there is something to cut
    resized = resize(step, 33)
    assert resized.min() == -1
    assert resized.max() == 1


def test_a_fine_checkerboard_shrinks_to_its_mean():
    # Without antialiasing, every third pixel of it would be another checkerboard.
    rows, cols = torch.meshgrid(torch.arange(60), torch.arange(60), indexing="ij")
    board = torch.where((rows + cols) % 2 == 0, 0.9, -0.5).expand(1, 3, -1, -1)
    assert (resize(board, 20) - 0.2).abs().max() < 0.01  # mean of 0.9 and -0.5


def test_an_oblong_image_becomes_square():
    wide = torch.zeros(1, 3, 10, 30)
    wide[..., 15:] = 0.8  # right half
    resized = resize(wide, 20)
    assert resized.shape == (1, 3, 20, 20)
    torch.testing.assert_close(resized[..., 14:], torch.full((1, 3, 20, 6), 0.8), atol=1e-5, rtol=0)
    torch.testing.assert_close(resized[..., :6], torch.zeros(1, 3, 20, 6), atol=1e-5, rtol=0)


def test_build_pyramid_resizes_the_full_image_at_every_scale():
    images = random_images(40, amplitude=0.5)
    sides = (14, 25, 40)
    levels = build_pyramid(images, sides)
    assert [level.shape for level in levels] == [(2, 3, side, side) for side in sides]
    assert torch.equal(levels[2], images)
    # From the image itself, not from the finer scale.
    torch.testing.assert_close(levels[0], pil_resize(images, 14), atol=2e-6, rtol=0)


def test_rounding_in_the_logarithms_adds_no_scale():
    # 27 / 64 is 0.75 ** 3 exactly: N = 4, and 64, 51.58, 41.57, 33.50, 27.
    assert pyramid_sides(64, 27, 64) == (27, 34, 42, 52, 64)
