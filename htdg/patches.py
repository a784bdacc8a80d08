"""Cutting images into patches, and laying what is found over the image. Ours, not the paper's."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from htdg.localisation import spread_matrix

#: Training images of which each is compared with the others, to see what is normal.
NORMAL_IMAGES = 10


def cut_patches(
    images: torch.Tensor, patch_side: int, constant: float | None = None
) -> torch.Tensor:
    """All patches of (B, C, H, W), row by row: (B, P, D), D = C * patch_side ** 2.

    With a ``constant`` each is normalised: its mean is taken off, and it is divided by its standard
    deviation plus the constant, so that the noise of flat patches is not blown up.
    """
    return normalised(F.unfold(images, patch_side).transpose(1, 2), constant)


def normalised(patches: torch.Tensor, constant: float | None) -> torch.Tensor:
    """Patches (..., D) normalised with a ``constant``, as they are without."""
    if constant is None:
        return patches
    patches = patches - patches.mean(-1, keepdim=True)
    return patches / (patches.square().mean(-1, keepdim=True).sqrt() + constant)


def patch_places(h: int, device: torch.device) -> torch.Tensor:
    """Row and column of each of the h * h patches, row by row: (h * h, 2)."""
    index = torch.arange(h, device=device)
    return torch.cartesian_prod(index, index)


def patch_starts(h: int, at_most: int) -> torch.Tensor:
    """The first rows, and columns, of the patches that are compared, of h: (G,).

    Neighbouring patches overlap by far the most: of more than ``at_most`` every second one is
    enough, and the last.
    """
    return torch.unique(torch.tensor([*range(0, h, 2 if h > at_most else 1), h - 1]))


def patch_numbers(starts: torch.Tensor, h: int) -> torch.Tensor:
    """Which of h * h patches start at these rows and columns (G,), row by row: (G * G,)."""
    return (starts[:, None] * h + starts).flatten()


def patch_pixels(images: torch.Tensor, patch_side: int) -> torch.Tensor:
    """Which of the C * H * H values of each of (K, C, H, H) make up which patch: (P, D)."""
    numbers = torch.arange(images[0].numel(), device=images.device).float()  # exact up to 2 ** 24
    return cut_patches(numbers.view(1, *images.shape[1:]), patch_side)[0].long()


def cut(image: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """The values of (C, H, H) at ``pixels`` (Q, D), of ``patch_pixels``: (Q, D)."""
    return image.flatten().index_select(0, pixels.flatten()).view(pixels.shape)


def is_grey(images: torch.Tensor) -> bool:
    """Whether the three channels of (K, 3, H, H) are the same."""
    return torch.equal(images[:, :-1], images[:, 1:])


def laid_over(
    values: torch.Tensor, starts: torch.Tensor, patch_side: int, side: int
) -> torch.Tensor:
    """Values of an image's patches (G * G,) laid over it: (side, side).

    A pixel's value is the weighted mean of the patches that cover it. One image at a time: products
    of many matrices at once are not always those of each by itself, to the last digit.

    Args:
        values: of each patch, row by row.
        starts: (G,) the first rows, and columns, of the patches; every pixel is in one of them.
        patch_side: pixels.
        side: of the image, pixels.
    """
    grid = values.unflatten(0, (len(starts), len(starts)))  # (G, G)
    spread = spread_matrix(side - patch_side + 1, side)[:, starts]
    spread = (spread / spread.sum(1, keepdim=True)).to(grid)  # (side, G)
    return spread @ grid @ spread.T
