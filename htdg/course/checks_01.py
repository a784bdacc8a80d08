"""Self-checks of notebook 01, the pyramid (paper section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, SupportsFloat

import torch
from torch.nn import functional as F

from htdg.course.check import NOTHING, NotRight, check, expect, expect_own, kind_of, like
from htdg.pyramid import build_pyramid, pyramid_sides


def _close(result: SupportsFloat, expected: float) -> bool:
    """Whether the result is a number, and near the expected one."""
    try:
        return math.isclose(float(result), expected, rel_tol=1e-6)
    except (TypeError, ValueError):
        return False


def _values(result: object, count: int, message: str) -> tuple[Any, ...]:
    """The values of a tuple, list or array; ``message`` if there are not ``count`` of them."""
    try:
        values = tuple(result) if isinstance(result, Iterable) else ()
    except TypeError:  # an array without axes
        values = ()
    expect(len(values) == count, message)
    return values


@check
def check_receptive_field(answer: Callable[[Sequence[int]], int]) -> str:
    """The receptive field of a list of kernel sizes, stride 1."""
    result = answer([3, 3, 3, 3, 3])
    expect(result is not None, NOTHING)
    expect(result != 10, "10 is what five layers add: the pixel you start from counts, too.")
    expect(result != 15, "15 = 3 + 3 + 3 + 3 + 3: neighbouring kernels overlap, so each adds less.")
    expect(result != 243, "243 = 3 * 3 * 3 * 3 * 3: fields grow by a sum, not by a product.")
    expect(result == 11, f"For five layers of 3 x 3 it must be 11, but you get {result}.")
    expect(answer([1]) == 1, f"A 1 x 1 kernel sees one pixel, but you get {answer([1])} for [1].")
    expect(
        answer([5, 3]) == 7,
        f"Kernels need not be 3 wide: for [5, 3] it must be 7, but you get {answer([5, 3])}.",
    )
    expect(answer([]) == 1, f"No layer at all sees one pixel, but you get {answer([])} for [].")
    return "five layers of 3 x 3 see 11 x 11 pixels"


@check
def check_patches(answer: Callable[[int, int], tuple[int, float]]) -> str:
    """The number of patches, and the share of the image that one covers."""
    result = answer(25, 11)
    expect(result is not None, NOTHING)
    two = "Return two values: return count, share."
    count, share = _values(result, 2, two)
    expect(
        count != 14**2,
        "14 x 14 is one too few in a row: with 11 px there is 1 patch, not 0. Add 1.",
    )
    expect(count not in (15, 14), f"{count} is the number in one row; there are as many rows.")
    expect(
        count not in ((25 / 11) ** 2, (25 // 11) ** 2),
        "Patches overlap: there is one at every pixel where a whole patch fits.",
    )
    expect(count == 225, f"25 px hold 15 x 15 = 225 patches of 11 x 11, but you get {count}.")
    expect(
        not _close(share, 11 / 25),
        "11 / 25 is the share of one side; the share of the area is its square.",
    )
    expect(not _close(share, (25 / 11) ** 2), "The share is upside down: patch over image.")
    expect(not _close(share, 19.36), "The share must lie between 0 and 1, not in per cent.")
    expect(_close(share, 0.1936), f"A patch covers 121 of 625 px, 0.1936, but you get {share}.")
    for side, field in ((64, 11), (30, 7)):
        count, share = _values(answer(side, field), 2, two)
        right = count == (side - field + 1) ** 2 and _close(share, (field / side) ** 2)
        expect(right, f"It is right for 25 and 11, but not for side {side} and field {field}.")
    return "from 225 patches of 19 % each at 25 px to 2916 of 3 % at 64 px"


#: Wrong widths of the patch of ``check_window``, 11 of 32 px on an image of 128, and why.
_WIDTHS = {
    11: "The width is still in pixels of the scale: it must grow, too.",
    11 * 32 / 128: "You multiply by side / image_size, but the full image is the larger one.",
    40: "It is one pixel too narrow: from the left edge of the first of 11 pixels to the right "
    "edge of the last there are 11 widths of a pixel, not 10.",
    84: "That is where the patch ends on the right; return how wide it is.",
    56: "That is where the patch ends below; return how wide it is.",
    4: "That is the width of a single pixel; the patch is as wide as field pixels.",
    11 / 32: "That is a share of the image, between 0 and 1: multiply it by image_size.",
    44**2: "That is the area of the patch; return the width of one side.",
}
#: Wrong corners (left, top) of the patch of logit (3, 10), and why.
_CORNERS = {
    (62, 34): "That is the centre of the patch; its upper left corner is asked for.",
    (60, 32): "That is the centre of the patch; its upper left corner is asked for.",
    (
        20,
        -8,
    ): "You subtract half a patch, but logit (0, 0) already stands for the patch that starts "
    "at pixel (0, 0).",
    (
        18,
        -10,
    ): "You subtract half a patch, but logit (0, 0) already stands for the patch that starts "
    "at pixel (0, 0).",
    (10, 3): "The corner is still in pixels of the scale: it must be multiplied like the width.",
    (2.5, 0.75): "You divide the corner by the width of a pixel: multiply it.",
    (42, 14): "That is the centre of the first pixel; pixel i begins at i, not at i + 0.5.",
    (44, 16): "You count rows and columns from 1, but logit (0, 0) is the first.",
    (36, 8): "You count rows and columns from 1, but logit (0, 0) is the first.",
    (440, 132): "Neighbouring patches overlap: they lie one pixel of the scale apart, not a whole "
    "patch.",
    (10 * 128 / 22, 3 * 128 / 22): "You divide by the number of patches in a row; the image is as "
    "wide as side pixels, so a pixel is image_size / side wide.",
    (10 / 32, 3 / 32): "The corner is a share of the image, between 0 and 1: multiply it by "
    "image_size.",
}


@check
def check_window(answer: Callable[[int, int, int, int, int], tuple[float, float, float]]) -> str:
    """The place of a logit's patch on the full image."""
    result = answer(3, 10, 32, 128, 11)
    expect(result is not None, NOTHING)
    three = "Return three values: return left, top, width."
    left, top, width = _values(result, 3, three)
    for wrong, message in _WIDTHS.items():
        expect(not _close(width, wrong), message)
    expect(_close(width, 44), f"11 px of 32 are 44 px of 128, but your width is {width}.")
    for (wrong_left, wrong_top), message in _CORNERS.items():
        expect(not (_close(left, wrong_left) and _close(top, wrong_top)), message)
        swapped = _close(left, wrong_top) and _close(top, wrong_left)
        expect(not swapped, f"Row and column are swapped: left follows from the column. {message}")
    swapped = _close(left, 12) and _close(top, 40)
    expect(not swapped, "Row and column are swapped: left follows from the column.")
    good = _close(left, 40) and _close(top, 12)
    expect(good, f"Left must be 40 and top 12, but you get {left} and {top}.")
    left, top, width = _values(answer(2, 1, 25, 128, 11), 3, three)
    expect(
        not (_close(left, 4) and _close(width, 44)),
        "For side 25 a pixel is still 4 px wide, as for side 32: divide image_size by side.",
    )
    good = _close(left, 5.12) and _close(top, 10.24) and _close(width, 56.32)
    expect(good, "For side 25 the corner lies between pixels: do not round, and divide with /.")
    left, top, width = _values(answer(2, 1, 20, 100, 7), 3, three)
    expect(
        not _close(width, 55) and not _close(width, 70.4),
        "With a field of 7 pixels the width is still that of 11: use field.",
    )
    expect(
        not _close(left, 6.4) and not _close(top, 12.8),
        "With a full image of 100 pixels the result is still that for 128: use image_size.",
    )
    good = _close(left, 5) and _close(top, 10) and _close(width, 35)
    expect(
        good,
        "For row 2 and column 1 at side 20, image_size 100 and field 7, left must be 5, top 10 and "
        f"width 35, but you get {left}, {top} and {width}.",
    )
    return "the last column of every scale ends at the right border of the image"


#: Options of a pyramid, the sides that a wrong rounding gives, and the message about it.
_ROUNDING = (
    (
        (100, 25, 64, 0.8),
        (25, 31, 37, 44, 54, 64),
        "log(64 / 100) / log(0.8) is a little above 2 in floating point: round before the ceil of "
        "cut, too.",
    ),
    (
        (103, 27, 64, 0.8),
        (27, 34, 42, 52, 64),
        "log(27 / 103) / log(0.8) is 6.00014, which really is above 6: round to nine decimals, not "
        "to three or fewer.",
    ),
    (
        (37, 16, 64, 0.75),
        (16, 20, 25, 30, 37),
        "From 37 to 16 px one side is 30.004 before it is rounded up, which really is above 30: "
        "round to nine decimals, not to two or fewer.",
    ),
)


@check
def check_sides(answer: Callable[..., Sequence[int]]) -> str:
    """The sides of a pyramid."""
    result = answer(128, 25, 64, 0.75)
    expect(result is not None, NOTHING)
    try:
        result = tuple(result)
    except TypeError:
        expect(False, f"Return all the sides, a tuple or a list, not {result!r}.")
    expected = pyramid_sides(128)
    official = (26, 32, 41, 51, 64)
    text = f"For image_size 128 the sides must be {expected}, but you get {result}."
    expect(
        result[::-1] not in (expected, official),
        "Coarsest first: your list is the wrong way round.",
    )
    expect(
        result[-1:] != (128,),
        "The finest side is 128, but it must not exceed max_size: start from t, not from s.",
    )
    expect(
        len(result) != 4 or result[0] not in (25, 26) or result[-1] == 64,
        "There are 4 scales: N counts the steps, so there are N + 1 scales.",
    )
    expect(
        len(result) != 4 or result[0] not in (25, 26) or result[1] != 35,
        "N is 3, one too few: levels is the logarithm rounded up (math.ceil), plus 1.",
    )
    expect(
        len(result) != 6 or result[:2] not in ((25, 31), (26, 31)),
        "N is 5, one too many: N = levels - cut, and cut is rounded up, too (math.ceil).",
    )
    expect(
        len(result) != 8, "There are 8 scales: the larger ones are left out, so N = levels - cut."
    )
    expect(
        not {48, 36} & {round(side) for side in result},
        "You shrink by the wanted factor r0; the sides use r, which ends at min_size exactly.",
    )
    expect(
        result != official,
        "26 and 41 come from 25.000000000000007 and 40.00000000000001: round(..., 9) before ceil.",
    )
    expect(result != (25, 31, 40, 50, 64), "You round down; the formula rounds up (math.ceil).")
    whole = all(int(side) == side for side in result)
    expect(whole, f"Sides are whole numbers of pixels, but you get {result}.")
    expect(len(result) == 5, f"There must be 5 scales, but you have {len(result)}: {result}.")
    expect(result == expected, text)
    for size in (28, 64, 100, 256, 450):
        sides, expected = tuple(answer(size, 25, 64, 0.75)), pyramid_sides(size)
        expect(
            sides[-1:] != (64,) or size >= 64,
            f"For image_size {size} the finest side is 64, larger than the image: t is the smaller "
            "one of max_size and image_size.",
        )
        expect(
            size != 28 or sides != (25, 28),
            "For image_size 28 there are 2 sides instead of 3: round both logarithms up "
            "(math.ceil), not down and not to the nearest whole number.",
        )
        expect(
            sides == expected, f"For image_size {size} it must be {expected}, but you get {sides}."
        )
    sides = tuple(answer(64, 27, 64, 0.75))
    expect(
        len(sides) != 6,
        "From 64 to 27 px there are 6 sides instead of 5: log(27 / 64) / log(0.75) is a little "
        "above 3 in floating point. Round before this ceil, too.",
    )
    expected = pyramid_sides(64, 27, 64)
    expect(sides == expected, f"From 64 to 27 px it must be {expected}, but you get {sides}.")
    for options, wrong, message in _ROUNDING:
        sides, expected = tuple(answer(*options)), pyramid_sides(*options)
        expect(sides != wrong, message)
        expect(
            sides == expected,
            f"With image_size, min_size, max_size, scale_factor = {options} it must be {expected}, "
            f"but you get {sides}.",
        )
    for size, largest in ((128, 25), (25, 64)):
        one = tuple(answer(size, 25, largest, 0.75))
        expect(
            one != (25, 25),
            f"With image_size {size} and max_size {largest} you get (25, 25), the same side twice: "
            "when m = t (the finest side is already min_size) return one side.",
        )
        expect(
            one == (25,),
            f"With image_size {size} and max_size {largest} there is one scale, (25,), not {one}.",
        )
    return "your sides are those of the library, the awkward cases included"


@check
def check_shrink(answer: Callable[[torch.Tensor, int], torch.Tensor]) -> str:
    """Shrinking by averaging square blocks."""
    images = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    result = answer(images.clone(), 4)
    expect(result is not None, NOTHING)
    expect(isinstance(result, torch.Tensor), f"Return a tensor, not {kind_of(result)}.")
    result, shape = like(result, images), tuple(result.shape)
    expect(shape not in ((2, 3, 8, 3), (2, 3, 2, 12)), "You shrink one direction only: do both.")
    expect(
        shape == (2, 3, 2, 3),
        f"From (2, 3, 8, 12) and factor 4 the shape must be (2, 3, 2, 3), but yours is {shape}.",
    )
    expected = F.avg_pool2d(images, 4)
    expect(
        not torch.allclose(result, images[..., ::4, ::4]),
        "You keep the first pixel of every block; the mean of all its pixels is asked for.",
    )
    expect(
        not torch.allclose(result, 16 * expected, atol=1e-5),
        "You add the pixels of a block up: divide by their number.",
    )
    expect(
        not torch.allclose(result, 4 * expected, atol=1e-5),
        "Your values are 4 times too large: a block has 4 * 4 pixels, not 4.",
    )
    mixed = images.reshape(2, 3, 4, 2, 4, 3).mean((2, 4))
    expect(
        not torch.allclose(result, mixed, atol=1e-5),
        "You average pixels that lie apart: in reshape, the number of blocks comes before the "
        "pixels of a block, (H // factor, factor).",
    )
    expect(
        torch.allclose(result, expected, atol=1e-5),
        "The shape is right, but the values are not the means of the 4 x 4 blocks.",
    )
    wrong_sizes = (
        "It is right for 3 channels and factor 4, but not for 1 channel and factor 2: take all "
        "sizes from images.shape and factor."
    )
    try:
        result = answer(images[:, :1].clone(), 2)
    except (RuntimeError, ValueError):
        raise NotRight(wrong_sizes) from None
    expect(isinstance(result, torch.Tensor) and result.shape == (2, 1, 4, 6), wrong_sizes)
    expect(
        torch.allclose(like(result, images), F.avg_pool2d(images[:, :1], 2), atol=1e-5),
        "It is right for factor 4, but for factor 2 the values are not the means of the blocks.",
    )
    expect_own(
        answer,
        {"avg_pool2d", "AvgPool2d", "adaptive_avg_pool2d", "AdaptiveAvgPool2d", "interpolate"},
        "make blocks with reshape, and take their mean.",
    )
    return "every pixel is the mean of its block"


@check
def check_pyramid(answer: Callable[[torch.Tensor, Sequence[int]], list[torch.Tensor]]) -> str:
    """Images at all scales: from the full image, antialiased, cut off, coarsest first."""
    images, sides = _edges_and_noise(), (14, 20, 32)
    result = answer(images.clone(), sides)
    expect(result is not None, NOTHING)
    expect(isinstance(result, (list, tuple)), "Return a list with one tensor for each scale.")
    expect(len(result) == 3, f"Three sides make three scales, but you return {len(result)}.")
    for level in result:
        expect(
            isinstance(level, torch.Tensor), f"Each scale must be a tensor, not {kind_of(level)}."
        )
    result = [like(level, images) for level in result]
    shapes = [tuple(level.shape) for level in result]
    expected_shapes = [(2, 3, side, side) for side in sides]
    expect(shapes != expected_shapes[::-1], "Coarsest first: your list is the wrong way round.")
    expect(shapes == expected_shapes, f"The shapes must be {expected_shapes}, but are {shapes}.")
    for message, wrong in _wrong_pyramids(images, sides):
        expect(not _same(result, wrong), message)
    expect(
        max(level.abs().max().item() for level in result) <= 1 + 1e-6,
        "Some values leave [-1, 1]: the bicubic kernel overshoots at edges, so clamp.",
    )
    expected = build_pyramid(images, sides)
    expect(_same(result, expected), "The shapes are right, but the values are not the library's.")
    expect_own(
        answer,
        {"resize", "build_pyramid", "resize_images"},
        "call F.interpolate for each side.",
    )
    return "your pyramid is the library's"


def _same(result: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    pairs = zip(result, other, strict=True)
    return all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)


def _edges_and_noise() -> torch.Tensor:
    """Two images (2, 3, 40, 40) in [-1, 1]: noise, and an edge that makes kernels overshoot."""
    images = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1
    images[1] = -1
    images[1, ..., 19:] = 1
    return images


def _wrong_pyramids(
    images: torch.Tensor, sides: Sequence[int]
) -> list[tuple[str, list[torch.Tensor]]]:
    """The results of typical mistakes, with the message about each."""

    def resized(
        clamp: bool = True,
        full: torch.Tensor = images,
        to: Sequence[int] = sides,
        mode: str = "bicubic",
        align_corners: bool | None = False,
        antialias: bool = True,
    ) -> list[torch.Tensor]:
        levels = [
            F.interpolate(
                full, (side, side), mode=mode, align_corners=align_corners, antialias=antialias
            )
            for side in to
        ]
        return [level.clamp(-1, 1) for level in levels] if clamp else levels

    def chained() -> list[torch.Tensor]:
        levels = [images]
        for side in reversed(sides):
            levels += build_pyramid(levels[-1], (side,))
        return levels[:0:-1]

    def overwritten(clamp: bool) -> list[torch.Tensor]:
        levels, small = [], images
        for side in sides:
            small = resized(clamp, full=small, to=(side,))[0]
            levels.append(small.clamp(-1, 1))
        return levels

    clamped = "Some values leave [-1, 1]: the bicubic kernel overshoots at edges, so clamp."
    overwrites = "You overwrite `images`: each scale must come from the full image."
    aliased = "Fine detail turns into false patterns: set antialias=True."
    corners = "align_corners=True moves the pixels: a pixel is a little square, leave it False."
    linear = "These are the values of mode='bilinear'; the library's mode is 'bicubic'."
    nearest = (
        "These are single pixels of the image: without a mode, F.interpolate takes 'nearest'; set "
        "mode='bicubic' and antialias=True."
    )
    half = "What lies below 0 is cut off: values go from -1 to 1 here, so clamp(-1, 1)."
    return [
        (clamped, resized(False)),
        ("Each scale is made from the one above it: make each from the full image.", chained()),
        (overwrites, overwritten(True)),
        (overwrites, overwritten(False)),
        (aliased, resized(antialias=False)),
        (f"{aliased} And clamp to [-1, 1].", resized(False, antialias=False)),
        (corners, resized(align_corners=True)),
        (linear, resized(mode="bilinear")),
        (f"{linear} Also: {aliased}", resized(mode="bilinear", antialias=False)),
        (nearest, resized(mode="nearest", antialias=False, align_corners=None)),
        (half, [level.clamp(0, 1) for level in resized()]),
    ]
