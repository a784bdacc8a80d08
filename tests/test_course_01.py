"""Notebook 01: the answers pass their checks, typical mistakes are told, figures hold the data."""

import math

import numpy as np
import pytest
import torch
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from torch.nn import functional as F

from htdg.course import checks_01, draw_01
from htdg.course.check import NotRight
from htdg.io.images import to_uint8
from htdg.pyramid import build_pyramid, pyramid_sides, resize
from tests.course import answers


@pytest.fixture(scope="module")
def solution():
    return answers("01_pyramid")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda k: sum(i - 1 for i in k), "the pixel you start from counts"),
        (sum, "neighbouring kernels overlap"),
        (math.prod, "not by a product"),
        (lambda k: 1 + 2 * len(k), r"A 1 x 1 kernel sees one pixel, but you get 3"),
        (lambda k: k[0] + 2 * (len(k) - 1), r"for \[5, 3\]|fails with IndexError"),
        (lambda k: 13, "must be 11, but you get 13"),
    ],
)
def test_mistakes_about_the_receptive_field(answer, said):
    with pytest.raises(NotRight, match=said):
        checks_01.check_receptive_field(answer)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda s, f: (s - f) ** 2, "Return two values"),
        (lambda s, f: ((s - f) ** 2, (f / s) ** 2), "Add 1"),
        (lambda s, f: (s - f + 1, (f / s) ** 2), "the number in one row"),
        (lambda s, f: ((s // f) ** 2, (f / s) ** 2), "Patches overlap"),
        (lambda s, f: ((s - f + 1) ** 2, f / s), "the share of one side"),
        (lambda s, f: ((s - f + 1) ** 2, (s / f) ** 2), "upside down"),
        (lambda s, f: ((s - f + 1) ** 2, 100 * (f / s) ** 2), "not in per cent"),
        (lambda s, f: ((s - 10) ** 2, (f / s) ** 2), "not for side 30 and field 7"),
    ],
)
def test_mistakes_about_patches(answer, said):
    with pytest.raises(NotRight, match=said):
        checks_01.check_patches(answer)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda r, c, h, s, f: (r * s / h, c * s / h, f * s / h), "swapped"),
        (lambda r, c, h, s, f: (c * s / h, r * s / h, f), "The width is still"),
        (lambda r, c, h, s, f: (c * h / s, r * h / s, f * h / s), "the larger one"),
        (lambda r, c, h, s, f: ((c + f / 2) * s / h, (r + f / 2) * s / h, f * s / h), "centre"),
        (lambda r, c, h, s, f: ((c - f // 2) * s / h, (r - 5) * s / h, f * s / h), "half a patch"),
        (lambda r, c, h, s, f: (c * (s // h), r * (s // h), f * (s // h)), "do not round"),
        (lambda r, c, h, s, f: (c * s / h, f * s / h), "Return three values"),
        (lambda r, c, h, s, f: (c * s / h, r * s / h, (f - 1) * s / h), "one pixel too narrow"),
        (lambda r, c, h, s, f: (c * s / h, r * s / h, (c + f) * s / h), "ends on the right"),
        (lambda r, c, h, s, f: (c * s / h, r * s / h, s / h), "the width of a single pixel"),
        (lambda r, c, h, s, f: (c * s / h, r * s / h, (f * s / h) ** 2), "the area of the patch"),
        (lambda r, c, h, s, f: (c / h, r / h, f / h), "a share of the image"),
        (lambda r, c, h, s, f: (c, r, f * s / h), "^The corner is still in pixels of the scale"),
        (lambda r, c, h, s, f: (r, c, f * s / h), "^Row and column are swapped.* still in pixels"),
        (lambda r, c, h, s, f: ((c + 0.5) * s / h, (r + 0.5) * s / h, f * s / h), "at i . 0.5"),
        (lambda r, c, h, s, f: ((c + 1) * s / h, (r + 1) * s / h, f * s / h), "columns from 1"),
        (lambda r, c, h, s, f: (c * f * s / h, r * f * s / h, f * s / h), "patches overlap"),
        (
            lambda r, c, h, s, f: (c * s / (h - f + 1), r * s / (h - f + 1), f * s / h),
            "the number of patches in a row",
        ),
        (lambda r, c, h, s, f: (4 * c, 4 * r, 4 * f), "is still 4 px wide"),
        (lambda r, c, h, s, f: (c * s / h, r * s / h, 11 * s / h), "use field"),
        (lambda r, c, h, s, f: (c * 128 / h, r * 128 / h, f * 128 / h), "use image_size"),
        (lambda r, c, h, s, f: (c * 128 / h, r * 128 / h, 11 * 128 / h), "use field"),
        (
            lambda r, c, h, s, f: (c * s / h + (f == 7), r * s / h, f * s / h),
            "left must be 5, top 10 and width 35, but you get 6.0",
        ),
    ],
)
def test_mistakes_about_windows(answer, said):
    with pytest.raises(NotRight, match=said):
        checks_01.check_window(answer)


def from_s(_t_max, s):
    """The finest side, if max_size is forgotten."""
    return s


def sides(
    s,
    m,
    t_max,
    r0,
    *,
    up=math.ceil,
    digits=9,
    in_levels=9,
    in_cut=9,
    level_up=math.ceil,
    cut_up=math.ceil,
    extra=0,
    count=1,
    own_r=True,
    t_of=min,
    one=False,
):
    """The computation, with its mistakes as options; ``one``: what m is compared with."""
    t = t_of(t_max, s)
    if one and m == one(t_max, t):
        return (m,)
    levels = level_up(round(math.log(m / s) / math.log(r0), in_levels)) + 1
    cut = cut_up(round(math.log(t / s) / math.log(r0), in_cut)) if t_of is not from_s else 3
    steps = levels - cut + extra
    r = (m / t) ** (1 / steps) if own_r else r0
    return tuple(up(round(t * r ** (steps - n), digits)) for n in range(steps + count))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"digits": 16}, "25.000000000000007"),
        ({"count": 0}, "so there are N . 1 scales"),
        ({"up": math.floor}, "You round down"),
        ({"up": float}, "whole numbers"),
        ({"own_r": False}, "the wanted factor r0"),
        ({"t_of": from_s}, "must not exceed max_size"),
        ({"extra": 3}, "N = levels - cut"),
        ({"extra": 1}, "N is 5, one too many"),
        ({"extra": 2}, "must be 5 scales, but you have 7"),
        ({"level_up": math.floor}, "levels is the logarithm rounded up"),
        ({"cut_up": math.floor}, "cut is rounded up, too"),
        ({"level_up": math.floor, "cut_up": math.floor}, "For image_size 28 there are 2 sides"),
        ({"t_of": lambda t_max, s: t_max}, "For image_size 28 the finest side is 64"),
        ({"in_levels": 17}, "6 sides instead of 5"),
        ({"in_cut": 17}, "the ceil of cut, too"),
        ({"in_levels": 3, "in_cut": 3, "digits": 3}, "6.00014"),
        ({"in_levels": 3}, "6.00014"),
        ({"digits": 2}, "30.004"),
        ({}, "With image_size 128 and max_size 25 .* the same side twice"),
        ({"one": lambda t_max, t: t_max}, "With image_size 25 and max_size 64 .* when m = t"),
    ],
)
def test_mistakes_about_sides(options, said):
    with pytest.raises(NotRight, match=said):
        checks_01.check_sides(lambda *arguments: sides(*arguments, **options))


def test_more_mistakes_about_sides():
    with pytest.raises(NotRight, match="the wrong way round"):
        checks_01.check_sides(lambda *arguments: pyramid_sides(*arguments)[::-1])
    with pytest.raises(NotRight, match="all the sides"):
        checks_01.check_sides(lambda *arguments: 25)
    with pytest.raises(NotRight, match=r"there is one scale, \(25,\), not \(\)"):
        checks_01.check_sides(lambda s, m, t, r: () if m == t else pyramid_sides(s, m, t, r))
    with pytest.raises(NotRight, match="For image_size 28"):
        checks_01.check_sides(lambda s, m, t, r: pyramid_sides(128 if s == 28 else s, m, t, r))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda x, f: x[..., ::f, ::f], "the first pixel of every block"),
        (lambda x, f: F.avg_pool2d(x, f) * f * f, "divide by their number"),
        (lambda x, f: F.avg_pool2d(x, f) * f, "not 4"),
        (lambda x, f: F.avg_pool2d(x, (1, f)), "one direction only"),
        (lambda x, f: F.avg_pool2d(x, 2), r"the shape must be \(2, 3, 2, 3\)"),
        (lambda x, f: x.reshape(2, 3, f, 2, f, 3).mean((2, 4)), "pixels that lie apart"),
        (lambda x, f: F.max_pool2d(x, f), "not the means"),
        (lambda x, f: F.avg_pool2d(x, f).numpy(), "Return a tensor, not an ndarray"),
        (
            lambda x, f: x.reshape(-1, 3, x.shape[2] // f, f, x.shape[3] // f, f).mean((3, 5)),
            "take all sizes from images.shape",
        ),
        (lambda x, f: F.avg_pool2d(x, f) * (1 if f == 4 else 2), "but for factor 2"),
        (lambda x, f: x.reshape(2, 3, f, 5), "fails with RuntimeError"),
        (lambda x, f: F.avg_pool2d(x, f), "avg_pool2d is what you are to write yourself"),
    ],
)
def test_mistakes_about_shrinking(answer, said):
    with pytest.raises(NotRight, match=said):
        checks_01.check_shrink(answer)


def levels(images, sides, clamp=True, **options):
    settings = {"mode": "bicubic", "antialias": True, "align_corners": False} | options
    resized = [F.interpolate(images, size=(side, side), **settings) for side in sides]
    return [level.clamp(-1, 1) for level in resized] if clamp else resized


def overwritten(images, sides, clamp=True):
    results = []
    for side in sides:
        images = levels(images, (side,), clamp)[0]
        results.append(images.clamp(-1, 1))
    return results


def chained(images, sides):
    results = [images]
    for side in reversed(sides):
        results.append(resize(results[-1], side))
    return results[:0:-1]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda x, s: levels(x, s, clamp=False), "so clamp"),
        (lambda x, s: levels(x, s, antialias=False), "antialias=True.$"),
        (lambda x, s: levels(x, s, False, antialias=False), "antialias=True. And clamp"),
        (lambda x, s: levels(x, s, align_corners=True), "align_corners=True moves"),
        (lambda x, s: levels(x, s, mode="bilinear"), "mode='bilinear'"),
        (lambda x, s: levels(x, s)[::-1], "the wrong way round"),
        (lambda x, s: levels(x, s)[:2], "but you return 2"),
        (lambda x, s: levels(x, (s[0], s[1], 40)), "The shapes must be"),
        (lambda x, s: [level * 0.5 for level in levels(x, s)], "the values are not"),
        (lambda x, s: levels(x, s)[0], "Return a list"),
        (chained, "from the one above"),
        (overwritten, "You overwrite `images`"),
        (lambda x, s: overwritten(x, s, clamp=False), "You overwrite `images`"),
        (
            lambda x, s: levels(x, s, mode="nearest", antialias=False, align_corners=None),
            "takes 'nearest'",
        ),
        (lambda x, s: [level.clamp(0, 1) for level in levels(x, s)], "What lies below 0"),
        (lambda x, s: [level.numpy() for level in levels(x, s)], "a tensor, not an ndarray"),
        (lambda x, s: [resize(x, side) for side in s], "resize is what you are to write yourself"),
        (lambda x, s: build_pyramid(x, s), "build_pyramid is what you are to write yourself"),
    ],
)
def test_mistakes_about_pyramids(answer, said):
    with pytest.raises(NotRight, match=said):
        checks_01.check_pyramid(answer)


def test_a_pyramid_that_changes_its_input_is_still_judged_by_its_values(solution):
    def spoils(images, sides):
        levels = solution["my_pyramid"](images, sides)
        images.zero_()
        return levels

    checks_01.check_pyramid(spoils)


def test_arrays_and_double_precision_are_right_as_well(solution, capsys):
    checks_01.check_patches(lambda *arguments: np.array(solution["patches_of"](*arguments)))
    checks_01.check_window(lambda *arguments: np.array(solution["window"](*arguments)))
    checks_01.check_sides(lambda *arguments: np.array(pyramid_sides(*arguments)))
    checks_01.check_shrink(lambda x, f: solution["shrink"](x.double(), f))
    checks_01.check_pyramid(lambda x, s: solution["my_pyramid"](x.double(), s))
    assert capsys.readouterr().out.count("Right: ") == 5


@pytest.fixture(scope="module")
def picture():
    """An image without symmetry (1, 3, 40, 40)."""
    generator = torch.Generator().manual_seed(5)
    return torch.rand(1, 3, 40, 40, generator=generator) * 2 - 1


def shown(ax):
    return np.asarray(ax.images[0].get_array())


def frames(ax):
    """Left, top and width of the squares drawn in an image."""
    return {(p.get_x(), p.get_y(), p.get_width()) for p in ax.patches}


def test_logit_at():
    assert draw_01.logit_at(0.5, 0.5, 25) == (7, 7)
    assert draw_01.logit_at(0, 1, 25) == (0, 14)  # as far as the patch goes
    assert draw_01.logit_at(0.25, 0.75, 40) == (4, 24)  # its middle at 9.5 and 29.5 px
    assert draw_01.logit_at(0.3, 0.8, 11) == (0, 0)


def test_draw_scales_shows_every_scale_and_its_patch(picture):
    figure = draw_01.draw_scales(picture, (14, 20, 40), down=0.3, across=0.8)
    upper, lower = np.array(figure.axes).reshape(2, 3)
    for side, above, below in zip((14, 20, 40), upper, lower, strict=True):
        small = to_uint8(resize(picture, side))[0]
        row, column = draw_01.logit_at(0.3, 0.8, side)
        np.testing.assert_array_equal(shown(above), small)
        np.testing.assert_array_equal(shown(below), small[row : row + 11, column : column + 11])
        assert frames(above) == {(column - 0.5, row - 0.5, 11)}
    assert [ax.get_title() for ax in upper][1] == "scale 1: 20 x 20 px"


def test_draw_patch_shows_one_patch_three_times(picture):
    figure = draw_01.draw_patch(picture, (16, 20), scale=1, down=0.4, across=0.6)
    full, scale, patch = figure.axes
    row, column = draw_01.logit_at(0.4, 0.6, 20)  # 8 - 5.5 and 12 - 5.5, rounded to even
    assert (row, column) == (2, 6)
    np.testing.assert_array_equal(shown(full), to_uint8(picture)[0])
    assert frames(full) == {(2 * column - 0.5, 2 * row - 0.5, 22)}
    assert frames(scale) == {(column - 0.5, row - 0.5, 11)}
    np.testing.assert_array_equal(shown(patch), to_uint8(resize(picture, 20))[0][2:13, 6:17])
    assert "22.0 x 22.0 px, 30." in full.get_title()  # 30.25 %
    assert "(row 2, column 6)" in scale.get_title()


def test_draw_windows_draws_a_square_for_each_scale(picture):
    figure = draw_01.draw_windows(picture, (20, 40), down=0.3, across=0.8)
    assert frames(figure.axes[0]) == {(17.5, -0.5, 22), (25.5, 5.5, 11)}  # as draw_scales has them
    texts = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert texts == ["scale 0, 20 px: 30.3 %", "scale 1, 40 px: 7.6 %"]


def test_draw_changes_draws_both_curves_beside_the_image(picture):
    curve = np.array([[0.1, 0.4], [0.2, 0.3]])
    left, right = draw_01.draw_changes({"a": picture}, (14, 20), {"a": curve}).axes
    np.testing.assert_array_equal(shown(left), to_uint8(picture)[0])
    for number, line in enumerate(right.lines):
        np.testing.assert_array_equal(line.get_xydata(), np.c_[(14, 20), curve[:, number]])


def test_draw_gradients_masks_zeros_and_frames_the_patch():
    gradient = np.zeros((25, 25))
    gradient[7:18, 3:14] = 2.0
    gradient[8, 4] = 4.0
    ax = draw_01.draw_gradients({"a": gradient, "b": gradient + 1}, 7, 3).axes[0]
    values = ax.images[0].get_array()
    assert values.mask.sum() == 25 * 25 - 121
    assert (values.max(), values.min()) == (1, 0.5)
    assert frames(ax) == {(2.5, 6.5, 11)}


def test_draw_field_draws_per_cent_of_each_column():
    even = np.full((11, 11), 1 / 121)
    point = np.zeros((11, 11))
    point[2, 5] = 1
    profile = draw_01.draw_field(point, even, even).axes[2]
    one, mean, expected = (line.get_ydata() for line in profile.lines)
    np.testing.assert_allclose(one, 100 * np.eye(11)[5])
    np.testing.assert_allclose(mean, 100 / 11)
    np.testing.assert_allclose(expected, 100 / 11)


def test_draw_sides_draws_those_of_the_library():
    left, right = draw_01.draw_sides((0.5, 0.75), (28, 128, 256)).axes
    assert tuple(left.lines[1].get_ydata()) == pyramid_sides(128)
    assert list(right.lines[0].get_ydata()) == [3, 5, 6]


def test_draw_wave_lays_the_slow_wave_through_the_samples():
    ax = draw_01.draw_wave(56, 512, 8).axes[0]
    fast, slow, samples = ax.lines
    assert "8 periods" in slow.get_label()
    x, y = samples.get_data()
    assert len(x) == 64
    for line in (fast, slow):
        np.testing.assert_allclose(np.interp(x, *line.get_data()), y, atol=0.02)
    assert "4 periods" in draw_01.draw_wave(60, 512, 8).axes[0].lines[1].get_label()
    assert "20 periods" in draw_01.draw_wave(20, 512, 8).axes[0].lines[1].get_label()


def test_draw_ways_shows_images_and_their_corner(picture):
    small = resize(picture, 16)
    axes = np.array(draw_01.draw_ways({"a": picture, "b": small}).axes).reshape(2, 2)
    np.testing.assert_array_equal(shown(axes[1, 0]), to_uint8(picture)[0][:15, :15])
    np.testing.assert_array_equal(shown(axes[1, 1]), to_uint8(small)[0][:6, :6])
    assert axes[0, 0].images[0].get_interpolation() == "nearest"
    large = draw_01.draw_ways({"a": resize(picture, 256), "b": small})
    assert large.axes[0].images[0].get_interpolation() in ("auto", "antialiased")


def test_draw_spectra_leaves_the_mean_out():
    power = np.array([9.0, 4.0, 2.0, 1.0])
    ax = draw_01.draw_spectra({"a": power}, limit=2).axes[0]
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[1, 4], [2, 2], [3, 1]])
    assert ax.get_xlim() == (0, 4)


def test_draw_kernel_cuts_off_what_overshoots():
    offsets = np.array([-1.0, 0, 1])
    kernels = {"a": np.array([0.0, 1, 0]), "b": np.array([0.5, 1, 0.5])}
    left, right = draw_01.draw_kernel(
        offsets, kernels, np.array([-1.0, -1, 1, 1]), np.array([-1.2, 0.9])
    ).axes
    np.testing.assert_array_equal(left.lines[1].get_ydata(), kernels["b"])
    np.testing.assert_array_equal(right.lines[-2].get_ydata(), [-1.2, 0.9])
    np.testing.assert_array_equal(right.lines[-1].get_ydata(), [-1, 0.9])
    np.testing.assert_array_equal(right.lines[-1].get_xdata(), [0.25, 0.75])


def test_draw_chain_shows_the_difference(picture):
    other = picture * 0.5
    kept = {"a": [1.0, 0.5], "b": [0.9, 0.4]}
    figure = draw_01.draw_chain({"a": picture, "b": other}, (1, 2), kept)
    difference, curves = figure.axes[2:4]
    np.testing.assert_allclose(shown(difference), (picture - other)[0].mean(0), atol=1e-6)
    np.testing.assert_allclose(curves.lines[1].get_ydata(), [90, 40])
    assert isinstance(figure, Figure)


def test_frames_are_white_below_their_colour(picture):
    ax = draw_01.draw_windows(picture, (20,), 0.5, 0.5).axes[0]
    wide, narrow = ax.patches
    assert same_color(wide.get_edgecolor(), "white")
    assert wide.get_linewidth() > narrow.get_linewidth()
