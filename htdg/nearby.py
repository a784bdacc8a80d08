"""Distances where things have their places: to the nearest patch nearby.

Ours, not the paper's. In a picture of a shoe, or of a horse, the image as a whole is normal or not,
and its parts are where they are: a patch is compared with what the training images, and their
mirror images, have near the same place. The distance is relative to what normal patches have: 1 is
as far as a normal patch is on average.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from htdg.nearest import LEAST_DISTANCE, nearest_distances
from htdg.patches import (
    NORMAL_IMAGES,
    Description,
    apart,
    laid_over,
    patch_places,
    patch_starts,
)

#: Rows and columns of patches up to which all are compared.
ALL_ROWS = 16


class NearbyDistances:
    """Compares patches with those near the same place, and lays the distances over the image."""

    def __init__(self, images: torch.Tensor, describe: Description, search_radius: float) -> None:
        """Keep the patches of (K, C, H, H) in [-1, 1], and measure what normal ones have.

        Args:
            images: the training images.
            describe: the patches.
            search_radius: how far from its place the nearest patch may be, as a share of the side.
        """
        self.side, self.describe = images.shape[-1], describe
        self.radius = round(search_radius * self.side)
        h = self.side - describe.side + 1
        every = torch.arange(h, device=images.device)
        self.starts = patch_starts(h, ALL_ROWS).to(images.device)  # (G,)
        self.bank = describe(torch.cat([images, images.flip(-1)]), every).flatten(0, 1)
        near = apart(patch_places(self.starts), patch_places(every)) <= self.radius  # (G * G, P)
        self.near = near.repeat(1, 2 * len(images))  # (G * G, 2 * K * P): which of the bank
        self.mean = max(float(self.normal_distances(images).mean()), LEAST_DISTANCE)

    def distances(self, image: torch.Tensor, left_out: torch.Tensor | None = None) -> torch.Tensor:
        """The distances of the compared patches of (C, H, H): (G * G,).

        ``left_out`` (2 * K * P,) says which patches of the bank do not count.
        """
        patches = self.describe(image[None], self.starts)[0]
        allowed = self.near if left_out is None else self.near & ~left_out
        return nearest_distances(patches, self.bank, allowed)

    def normal_distances(self, images: torch.Tensor) -> torch.Tensor:
        """The distances that patches of normal images have, from the training images alone: (n,).

        Of several images, those of each to the others; of a single one, those of copies that are
        moved just too far.
        """
        if len(images) == 1:
            return torch.cat([self.distances(x) for x in moved(images, self.radius + 1)])
        count = len(images)
        origins = torch.arange(2 * count, device=images.device) % count
        origins = origins.repeat_interleave(len(self.bank) // (2 * count))  # (2 * K * P,)
        rows = [self.distances(x, origins == n) for n, x in enumerate(images[:NORMAL_IMAGES])]
        return torch.cat(rows)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The relative distance at each pixel of (B, C, H, H): (B, H, H), at least 0."""
        applied = (self.starts, self.describe.side, self.side)
        maps = [laid_over(self.distances(image) / self.mean, *applied) for image in images]
        return torch.stack(maps)


def moved(image: torch.Tensor, pixels: int) -> torch.Tensor:
    """(1, C, H, W) moved up, down, left and right, its border repeated: (4, C, H, W)."""
    padded = F.pad(image, (pixels,) * 4, mode="replicate")
    h, w = image.shape[-2:]
    starts = ((0, pixels), (2 * pixels, pixels), (pixels, 0), (pixels, 2 * pixels))
    return torch.cat([padded[..., y : y + h, x : x + w] for y, x in starts])
