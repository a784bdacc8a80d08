"""Distances where things have their places: to the nearest patch nearby.

Ours, not the paper's. In a picture of a shoe, or of a horse, the image as a whole is normal or not,
and its parts are where they are: a patch is compared with what the training images, and their
mirror images, have near the same place. How near it comes to them says little if it comes as near
to their turned copies, as a bare patch does. So its distance to the upright images is divided by
the fourth root of that to the turned ones, relative to what normal patches have: 1 is as for a
normal patch on average. Which way up a patch is, is what the votes of the rotations tell, too.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from htdg.nearest import LEAST_DISTANCE, as_distances
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
#: The power of the distance to turned copies. With 0.5 clothes and photographs gain more, and some
#: digits, which look like themselves or like others when turned, lose (docs/evidence.md).
TURNED_POWER = 0.25
#: Distances to turned copies below this are no smaller: nothing is divided by 0.
LEAST_TURNED = 0.01


class NearbyBank:
    """Patches of upright or turned images, each to be compared with those near the same place."""

    def __init__(self, patches: torch.Tensor, near: torch.Tensor) -> None:
        """Keep them.

        Args:
            patches: (N, P, D) those of each image.
            near: (Q, P) boolean, which of the places are near each of those that are compared.
        """
        self.patches, self.near = patches, near
        self.halves = -0.5 * patches.square().sum(-1)  # (N, P)

    def distances(self, patches: torch.Tensor, left_out: torch.Tensor | None) -> torch.Tensor:
        """The distances of patches (Q, D) to the nearest of each nearby: (Q,).

        ``left_out`` (K,) says which training images do not count. Image n of the bank is a copy of
        training image n % K.
        """
        # As in nearest_distances, image by image, since what is near is the same in all of them.
        greatest = torch.full(self.near.shape, -torch.inf, device=patches.device)
        for n, (bank, halves) in enumerate(zip(self.patches, self.halves, strict=True)):
            if left_out is None or not left_out[n % len(left_out)]:
                greatest = greatest.maximum(torch.addmm(halves, patches, bank.T))
        return as_distances(patches, greatest.masked_fill(~self.near, -torch.inf).amax(1))


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
        radius = round(search_radius * self.side)
        every = torch.arange(self.side - describe.side + 1, device=images.device)
        self.starts = patch_starts(len(every), ALL_ROWS).to(images.device)  # (G,)
        both = torch.cat([images, images.flip(-1)])  # (2 K, C, H, H)
        turned = torch.cat([both.rot90(k, (-2, -1)) for k in (1, 2, 3)])  # (6 K, C, H, H)
        # Of turned images, those that would be compared are enough.
        self.upright, self.turned = (
            NearbyBank(
                describe(of_bank, kept),
                apart(patch_places(self.starts), patch_places(kept)) <= radius,
            )
            for of_bank, kept in ((both, every), (turned, self.starts))
        )
        normal = self.normal_relations(images, radius)
        self.mean = max(float(normal.mean()), LEAST_DISTANCE)

    def relations(self, image: torch.Tensor, left_out: torch.Tensor | None = None) -> torch.Tensor:
        """Of the patches of (C, H, H), how far upright ones are, related to turned ones: (G * G,).

        ``left_out`` (K,) says which training images do not count.
        """
        patches = self.describe(image[None], self.starts)[0]
        banks = (self.upright, self.turned)
        return related(*(bank.distances(patches, left_out) for bank in banks))

    def normal_relations(self, images: torch.Tensor, radius: int) -> torch.Tensor:
        """What patches of normal images have, from the training images alone: (n,).

        Of several images, what each has to the others; of a single one, what copies have that are
        moved just too far.
        """
        if len(images) == 1:
            return torch.cat([self.relations(x) for x in moved(images, radius + 1)])
        numbers = torch.arange(len(images), device=images.device)
        rows = [self.relations(x, numbers == n) for n, x in enumerate(images[:NORMAL_IMAGES])]
        return torch.cat(rows)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The evidence at each pixel of (B, C, H, H): (B, H, H), at least 0; 1 is normal."""
        applied = (self.starts, self.describe.side, self.side)
        maps = [laid_over(self.relations(image) / self.mean, *applied) for image in images]
        return torch.stack(maps)


def related(upright: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
    """Distances to upright patches, divided by a power of those to turned ones; of any shape."""
    return upright / turned.clamp(min=LEAST_TURNED) ** TURNED_POWER


def moved(image: torch.Tensor, pixels: int) -> torch.Tensor:
    """(1, C, H, W) moved up, down, left and right, its border repeated: (4, C, H, W)."""
    padded = F.pad(image, (pixels,) * 4, mode="replicate")
    h, w = image.shape[-2:]
    starts = ((0, pixels), (2 * pixels, pixels), (pixels, 0), (pixels, 2 * pixels))
    return torch.cat([padded[..., y : y + h, x : x + w] for y, x in starts])
