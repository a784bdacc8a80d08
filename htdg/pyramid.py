"""The pyramid: how many scales, how large each is, and an image at all of them.

Paper section 3.1: a generator and a discriminator at each scale see the same 11 x 11 pixels, so
the coarsest scale sees the whole object in a few patches and the finest sees its texture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F


def pyramid_sides(
    image_size: int, min_size: int = 25, max_size: int = 64, scale_factor: float = 0.75
) -> tuple[int, ...]:
    """Sides of the scales n = 0 .. N in pixels, coarsest first.

    The number of scales follows from the wanted ratio ``scale_factor`` between neighbours; the
    ratio r actually used is then chosen so that the coarsest side is ``min_size`` and the finest
    ``min(max_size, image_size)``. Sides rise strictly: where rounding would give two scales of the
    same side, there is one.

    >>> pyramid_sides(28)
    (25, 27, 28)
    """
    top = min(max_size, image_size)
    if top == min_size:
        return (top,)
    # Rounding before every ceil: in floating point log(27 / 64) / log(0.75) is a little above 3,
    # and 64 * (25 / 64) a little above 25.
    levels = math.ceil(round(math.log(min_size / image_size) / math.log(scale_factor), 9)) + 1
    cut = math.ceil(round(math.log(top / image_size) / math.log(scale_factor), 9))
    # As in SinGAN, scales are counted from image_size down to min_size, and those above max_size
    # dropped; so N depends on image_size even where the finest side does not. The bound keeps N
    # finite for a scale_factor near 1: beyond it neighbours would be less than a pixel apart.
    steps = min(levels - cut, math.ceil(top * math.log(top / min_size)))
    r = (min_size / top) ** (1 / steps)
    sides = [math.ceil(round(top * r ** (steps - n), 9)) for n in range(steps + 1)]
    return tuple(sorted(set(sides)))  # two scales of one side would be the same scale twice


#: A side, or height and width, in pixels.
Size = int | tuple[int, int]


def resize(images: torch.Tensor, size: Size) -> torch.Tensor:
    """Images (B, C, H, W) resized to ``size``, in [-1, 1]; those of that size are left as they are.

    Bicubic with antialiasing: when shrinking, the kernel widens so that detail finer than the new
    pixels is averaged away instead of turning up as false patterns. A bicubic kernel has negative
    lobes and overshoots at edges; what leaves [-1, 1] is cut off.
    """
    size = height_and_width(size)
    if images.shape[-2:] == size:
        return images
    # Not every version has this kernel on Apple's devices.
    source = images.cpu() if images.device.type == "mps" else images
    resized = F.interpolate(source, size=size, mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(-1, 1).to(images.device)


def height_and_width(size: Size) -> tuple[int, int]:
    """(height, width); a single number means a square."""
    height, width = size if isinstance(size, Sequence) else (size, size)
    return height, width


def build_pyramid(images: torch.Tensor, sides: Sequence[int]) -> list[torch.Tensor]:
    """The images (B, 3, H, W) at every scale [x^0 .. x^N]: each (B, 3, side, side).

    Each scale is made from the full image, not from the scale above it, so that no scale inherits
    another's blur.
    """
    return [resize(images, side) for side in sides]
