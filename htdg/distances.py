"""Patch distances: how far a patch is from the nearest patch of the training images.

Ours, not the paper's. A memory bank keeps patches of the training images and of their turned and
mirrored copies. The distance of a patch of a test image is the one to its nearest neighbour in the
bank, relative to what normal patches have: 1 is as far as a normal patch is on average. How much a
patch stands alone in its own image (``htdg.uniqueness``) multiplies it. Nothing is trained.

What is compared is a ``Description`` of the patches: their pixels, or their gradients
(``htdg.gradients``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from htdg.nearest import LEAST_DISTANCE, CellSearch, coreset, nearest_distances
from htdg.patches import (
    NORMAL_IMAGES,
    Description,
    apart,
    laid_over,
    patch_places,
    patch_starts,
)
from htdg.uniqueness import Uniqueness

#: Patches that a bank keeps at most, and the number, drawn at random, from which they are chosen:
#: docs/evidence.md has the loss.
BANK_SIZE, CANDIDATES = 4096, 16384
#: A bank of at most this many patches is searched exactly, a larger one cell by cell.
EXACT_SIZE = 2048
#: Rows and columns of patches up to which all are compared.
ALL_ROWS = 32
#: Altered copies of a single training image, which stand in for other normal images: brightness is
#: multiplied by the first number and raised by the second (of a range of 1).
BRIGHTNESS = ((0.9, 0.0), (1.1, 0.0), (1.0, -0.05), (1.0, 0.05))


def turned_copies(images: torch.Tensor) -> torch.Tensor:
    """The four turns of (K, C, H, H) and of its mirror image: (8 K, C, H, H).

    They are the T_m(x) that differ in content; shifts add no patch.
    """
    both = (images, images.flip(-1))
    return torch.cat([x.rot90(k, (-2, -1)) for x in both for k in range(4)])


@dataclass(frozen=True)
class MemoryBank:
    """The patches of the training images.

    Attributes:
        patches: (N, D).
        places: (N, 2) row and column of the top left pixel in the upright image.
        origins: (N,) the number of the training image.
        chosen: (N,) which of the patches drawn at random these are, ascending, on the CPU.
    """

    patches: torch.Tensor
    places: torch.Tensor
    origins: torch.Tensor
    chosen: torch.Tensor


def patches_drawn(count: int, side: int, describe: Description) -> int:
    """How many patches are drawn, to choose a bank from: of ``count`` images (C, side, side)."""
    return min(8 * count * (side - describe.side + 1) ** 2, max(BANK_SIZE, CANDIDATES))


def memory_bank(
    images: torch.Tensor, describe: Description, chosen: torch.Tensor | None = None
) -> MemoryBank:
    """The bank of (K, C, H, H): at most ``BANK_SIZE`` patches, a coreset of random ones.

    ``chosen`` (N,) is that of an earlier bank of the same images: the numbers, ascending, of those
    patches among the random ones. Without it they are chosen, which takes a second.
    """
    count, h = len(images), images.shape[-1] - describe.side + 1
    every = torch.arange(h, device=images.device)
    grid = patch_places(every).T.reshape(1, 2, h, h)
    copies, places = turned_copies(images), turned_copies(grid)
    drawn = torch.randperm(8 * count * h * h, generator=torch.Generator().manual_seed(0))
    drawn = drawn[: patches_drawn(count, images.shape[-1], describe)]
    drawn = (drawn if chosen is None else drawn[chosen]).to(images.device)
    copy, place = drawn // (h * h), drawn % (h * h)
    # Copy by copy: all patches of many images would not fit into memory.
    order = copy.argsort(stable=True)
    numbers = place[order].split(torch.bincount(copy, minlength=len(copies)).tolist())
    rows = [describe(x[None], every)[0, kept] for x, kept in zip(copies, numbers, strict=True)]
    patches = torch.cat(rows)[order.argsort()]  # in random order again
    places, origins = places.flatten(2)[copy // count, :, place], copy % count
    if chosen is None:
        all_of_them = torch.arange(len(patches), device=images.device)
        chosen = all_of_them if len(patches) <= BANK_SIZE else coreset(patches, BANK_SIZE)
        patches, places, origins = patches[chosen], places[chosen], origins[chosen]
    return MemoryBank(patches, places, origins, chosen.cpu())


def brightened(image: torch.Tensor) -> torch.Tensor:
    """Copies of (1, C, H, W) in [-1, 1] that are a little brighter or darker: (4, C, H, W)."""
    copies = [((image + 1) / 2 * gain + shift).clamp(0, 1) * 2 - 1 for gain, shift in BRIGHTNESS]
    return torch.cat(copies)


class PatchComparison:
    """Compares the patches of an image with a memory bank."""

    def __init__(
        self, images: torch.Tensor, describe: Description, chosen: torch.Tensor | None = None
    ) -> None:
        """Keep the patches of (K, C, H, H) in [-1, 1], and measure what normal ones have.

        Args:
            images: the training images.
            describe: the patches.
            chosen: as of ``memory_bank``.
        """
        self.describe = describe
        self.bank = memory_bank(images, describe, chosen)
        bank = self.bank.patches
        self.cells = None if len(bank) <= EXACT_SIZE else CellSearch(bank)
        starts = patch_starts(images.shape[-1] - describe.side + 1, ALL_ROWS)
        self.starts = starts.to(images.device)  # (G,)
        self.places = patch_places(self.starts)  # (G * G, 2)
        self.mean = max(float(self.normal_distances(images).mean()), LEAST_DISTANCE)

    def patches(self, image: torch.Tensor) -> torch.Tensor:
        """The patches of (C, H, H) that are compared: (G * G, D)."""
        return self.describe(image[None], self.starts)[0]

    def distances(self, patches: torch.Tensor, allowed: torch.Tensor | None = None) -> torch.Tensor:
        """The distances of patches (G * G, D) to the bank: (G * G,).

        Of a large bank the nearest cells are searched; with limits to what counts, ``allowed``
        (G * G, N), all of them: those nearby may have nothing that does.
        """
        if self.cells is None:
            return nearest_distances(patches, self.bank.patches, allowed)
        return self.cells(patches) if allowed is None else self.cells.exact(patches, allowed)

    def normal_distances(self, images: torch.Tensor) -> torch.Tensor:
        """The distances that patches of normal images have, from the training images alone: (n,).

        Of several images, those of each to the others. Of a single one, those of slightly brighter
        and darker copies to patches elsewhere in it, which share no pixel.
        """
        if len(images) > 1:
            copies = images[:NORMAL_IMAGES]
            shape = (len(self.places), -1)
            others = [(self.bank.origins != n).expand(shape) for n in range(len(copies))]
        else:
            copies = brightened(images)
            others = [apart(self.places, self.bank.places) >= self.describe.side] * len(copies)
        rows = [self.patches(image) for image in copies]
        finite = torch.cat([self.distances(*pair) for pair in zip(rows, others, strict=True)])
        finite = finite[finite.isfinite()]
        # An image with no room for patches that share no pixel: then those of the copies as such.
        return finite if len(finite) else torch.cat([self.distances(patches) for patches in rows])

    def ratios(self, patches: torch.Tensor) -> torch.Tensor:
        """The distances of patches (G * G, D) relative to normal ones: (G * G,)."""
        return self.distances(patches) / self.mean


class UniqueDistances:
    """The distances of one kind of patches, times their uniqueness, laid over the image.

    ``ratio * unique``; or, ``limited``, ``min(ratio, unique) * unique``: a patch whose pixels are
    far from the training images, and which has its like in the same image, is in another light. It
    counts no more than it is unique.
    """

    def __init__(
        self,
        images: torch.Tensor,
        describe: Description,
        limited: bool,
        chosen: torch.Tensor | None = None,
    ) -> None:
        """Keep the patches of the training images (K, C, H, H), as ``PatchComparison`` does."""
        self.side, self.limited = images.shape[-1], limited
        self.compared = PatchComparison(images, describe, chosen)
        normal = [self.compared.patches(image) for image in images[:NORMAL_IMAGES]]
        self.unique = Uniqueness(normal, self.compared.places, describe.side)

    def ratios(self, image: torch.Tensor) -> torch.Tensor:
        """The evidence of the compared patches of (C, H, H): (G * G,), at least 0."""
        patches = self.compared.patches(image)
        ratios, unique = self.compared.ratios(patches), self.unique(patches)
        return (ratios.minimum(unique) if self.limited else ratios) * unique

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The evidence at each pixel of (B, C, H, H): (B, H, H), at least 0; 1 is normal."""
        applied = (self.compared.starts, self.compared.describe.side, self.side)
        return torch.stack([laid_over(self.ratios(image), *applied) for image in images])
