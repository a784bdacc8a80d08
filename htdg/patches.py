"""Cutting images into patches, and laying what is found over the image. Ours, not the paper's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from htdg.localisation import spread_matrix

#: Training images of which each is compared with the others, to see what is normal.
NORMAL_IMAGES = 10


class Description(Protocol):
    """A way to describe patches by numbers, so that like patches are near to each other."""

    @property
    def side(self) -> int:
        """Of a patch, pixels."""

    @property
    def name(self) -> str:
        """With all that the numbers hang on; saved models have it."""

    def __call__(self, images: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """Of (B, C, H, H) the patches that start at these rows and columns (G,): (B, G * G, D)."""


@dataclass(frozen=True)
class PixelPatches:
    """Patches described by their pixels, all channels: D = C * side ** 2.

    With a ``constant`` each is normalised: its mean is taken off, and it is divided by its standard
    deviation plus the constant, so that the noise of flat patches is not blown up. 0 leaves patches
    as they are.
    """

    side: int
    constant: float = 0.0

    @property
    def name(self) -> str:
        """See ``Description``."""
        return f"pixels {self.side} {self.constant}"

    def __call__(self, images: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """See ``Description``."""
        rows = images.unfold(2, self.side, 1)[:, :, starts]  # (B, C, G, H, side)
        patches = rows.unfold(3, self.side, 1)[:, :, :, starts]  # (B, C, G, G, side, side)
        patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)  # (B, G * G, D)
        if not self.constant:
            return patches
        patches = patches - patches.mean(-1, keepdim=True)
        return patches / (patches.square().mean(-1, keepdim=True).sqrt() + self.constant)


def patch_starts(h: int, at_most: int) -> torch.Tensor:
    """The first rows, and columns, of the patches that are compared, of h: (G,).

    Neighbouring patches overlap by far the most: of more than ``at_most`` every second one is
    enough, or every third ..., and the last.
    """
    return torch.unique(torch.tensor([*range(0, h, -(-h // at_most)), h - 1]))


def patch_places(starts: torch.Tensor) -> torch.Tensor:
    """Row and column of each patch that starts at these rows and columns (G,): (G * G, 2)."""
    return torch.cartesian_prod(starts, starts).view(-1, 2)


def apart(places: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """How far places (Q, 2) are from others (N, 2), the greater of rows and columns: (Q, N)."""
    places, others = places.short(), others.short()  # small: these are large tables
    rows = (places[:, :1] - others[:, 0]).abs()
    return rows.maximum((places[:, 1:] - others[:, 1]).abs())


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
    spread = laying_matrix(starts, patch_side, side).to(grid)
    return spread @ grid @ spread.T


def laying_matrix(starts: torch.Tensor, patch_side: int, side: int) -> torch.Tensor:
    """(side, G): how much a pixel of an axis takes from each patch; arguments of ``laid_over``."""
    spread = spread_matrix(side - patch_side + 1, side)[:, starts]
    return spread / spread.sum(1, keepdim=True)
