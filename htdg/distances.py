"""Patch distances: how far a patch is from the nearest patch of the training images.

Ours, not the paper's. At every scale of a pyramid of their own a memory bank keeps patches of the
training images and of their turned and mirrored copies. The distance of a patch of a test image is
the one to its nearest neighbour in the bank, relative to what normal patches have: 1 is as far as a
normal patch is on average. Nothing is trained.

Patches are compared as they are, which sees stains, and normalised to mean 0 and standard deviation
1, which sees a wrong structure whatever the light; of both the greater counts. How much a patch
stands alone in its own image (``htdg.uniqueness``) multiplies it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from htdg.nearest import LEAST_DISTANCE, CellSearch, coreset, nearest_distances, quantile
from htdg.patches import (
    NORMAL_IMAGES,
    cut,
    is_grey,
    laid_over,
    normalised,
    patch_numbers,
    patch_pixels,
    patch_places,
    patch_starts,
)
from htdg.uniqueness import Uniqueness

#: Patches that the bank of a scale keeps at most, and the number, drawn at random, from which they
#: are chosen: docs/evidence.md has the loss.
BANK_SIZE, CANDIDATES = 4096, 16384
#: A bank of at most this many patches is searched exactly, a larger one cell by cell.
EXACT_SIZE = 2048
#: Rows and columns of patches up to which all are compared.
ALL_ROWS = 32
#: Altered copies of a single training image, which stand in for other normal images: brightness is
#: multiplied by the first number and raised by the second (of a range of 1).
BRIGHTNESS = ((0.9, 0.0), (1.1, 0.0), (1.0, -0.05), (1.0, 0.05))
#: The share of an image's patches whose distance is its floor.
FLOOR = 0.1


def turned_copies(images: torch.Tensor) -> torch.Tensor:
    """The four turns of (K, C, H, H) and of its mirror image: (8 K, C, H, H).

    They are the T_m(x) that differ in content; shifts add no patch.
    """
    both = (images, images.flip(-1))
    return torch.cat([x.rot90(k, (-2, -1)) for x in both for k in range(4)])


@dataclass(frozen=True)
class MemoryBank:
    """The patches of the training images at one scale.

    Attributes:
        patches: (N, D).
        places: (N, 2) row and column of the top left pixel in the upright image.
        origins: (N,) the number of the training image.
    """

    patches: torch.Tensor
    places: torch.Tensor
    origins: torch.Tensor


def memory_bank(images: torch.Tensor, patch_side: int, constant: float | None) -> MemoryBank:
    """The bank of (K, C, H, H): at most ``BANK_SIZE`` patches, a coreset of random ones."""
    count, h = len(images), images.shape[-1] - patch_side + 1
    grid = patch_places(h, images.device).T.reshape(1, 2, h, h)
    copies, places = turned_copies(images), turned_copies(grid)
    # Only patches that are kept are cut: those of many images would not fit into memory.
    kept = torch.randperm(8 * count * h * h, generator=torch.Generator().manual_seed(0))
    kept = kept[: max(BANK_SIZE, CANDIDATES)].to(images.device)
    copy, place = kept // (h * h), kept % (h * h)
    pixels = patch_pixels(images, patch_side)[place]  # (N, D)
    patches = normalised(copies.flatten(1)[copy[:, None], pixels], constant)
    places, origins = places.flatten(2)[copy // count, :, place], copy % count
    if len(patches) > BANK_SIZE:
        chosen = coreset(patches, BANK_SIZE)
        patches, places, origins = patches[chosen], places[chosen], origins[chosen]
    return MemoryBank(patches, places, origins)


def brightened(image: torch.Tensor) -> torch.Tensor:
    """Copies of (1, C, H, W) in [-1, 1] that are a little brighter or darker: (4, C, H, W)."""
    copies = [((image + 1) / 2 * gain + shift).clamp(0, 1) * 2 - 1 for gain, shift in BRIGHTNESS]
    return torch.cat(copies)


class PatchComparison:
    """Compares patches at one scale in one way, raw or normalised."""

    def __init__(self, images: torch.Tensor, patch_side: int, constant: float | None) -> None:
        """Keep the patches of (K, C, H, H) in [-1, 1], and measure what normal ones have.

        Args:
            images: the training images at this scale.
            patch_side: pixels.
            constant: of ``cut_patches``.
        """
        self.patch_side, self.constant = patch_side, constant
        self.side = images.shape[-1]
        self.grey = is_grey(images)  # then one channel has it all
        channels = images[:, :1] if self.grey else images
        self.bank = memory_bank(channels, patch_side, constant)
        bank = self.bank.patches
        self.cells = None if len(bank) <= EXACT_SIZE else CellSearch(bank)
        h = self.side - patch_side + 1
        self.starts = patch_starts(h, ALL_ROWS)
        self.compared = patch_numbers(self.starts, h).to(images.device)  # (G * G,)
        self.places = patch_places(h, images.device)[self.compared]
        self.pixels = patch_pixels(images, patch_side)[self.compared]  # (G * G, D)
        normal = self.normal_distances(images)
        self.mean = max(float(normal.mean()), LEAST_DISTANCE)
        self.floor = float(quantile(normal, FLOOR))

    def apart(self) -> torch.Tensor:
        """Which patches of the bank share no pixel with the one at each place: (G * G, N)."""
        places, of_bank = self.places.short(), self.bank.places.short()  # small: large tables
        rows = (places[:, :1] - of_bank[:, 0]).abs() >= self.patch_side
        return rows | ((places[:, 1:] - of_bank[:, 1]).abs() >= self.patch_side)

    def distances(self, image: torch.Tensor, allowed: torch.Tensor | None = None) -> torch.Tensor:
        """The distances of the compared patches of (C, H, H): (G * G,)."""
        patches = normalised(self.cut(image), self.constant)
        if not self.grey:
            return self.nearest(patches, allowed)
        # The bank has one channel b: |q - b|^2 of three is 3 |m - b|^2 + |q - m|^2, m their mean.
        channels = patches.unflatten(1, (-1, self.patch_side**2))
        means = channels.mean(1)
        colour = (channels - means[:, None]).square().mean((1, 2))
        return (self.nearest(means, allowed).square() + colour).sqrt()

    def cut(self, image: torch.Tensor) -> torch.Tensor:
        """The compared patches of (C, H, H), of one channel where all are grey: (G * G, D)."""
        grey = self.grey and is_grey(image[None])
        return cut(image, self.pixels[:, : self.patch_side**2] if grey else self.pixels)

    def nearest(self, patches: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
        """The distances of (G * G, D) to the bank, of a large one to the nearest cells: (G * G,).

        With limits to what counts, all cells are searched: those nearby may have nothing that does.
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
            others = [self.apart()] * len(copies)
        finite = torch.cat([self.distances(*pair) for pair in zip(copies, others, strict=True)])
        finite = finite[finite.isfinite()]
        # An image with no room for patches that share no pixel: then those of the copies as such.
        return finite if len(finite) else torch.cat([self.distances(image) for image in copies])

    def ratios(self, image: torch.Tensor) -> torch.Tensor:
        """The distances of (C, H, H) relative to normal ones, less the image's floor: (G * G,).

        The floor is what a tenth of the patches stay below. An image that is further away as a
        whole, in another light or turned another way, has a higher one than normal images, and the
        excess is taken off: a defect covers a part of the image.
        """
        distances = self.distances(image)
        excess = (quantile(distances, FLOOR) - self.floor).clamp(min=0)
        return (distances - excess).clamp(min=0) / self.mean


class ScaleDistances:
    """The evidence of the patches of one scale, laid over the image.

    ``max(min(raw, unique), normalised) * unique``, where ``raw`` and ``normalised`` are the ratios
    of both comparisons and ``unique`` is the patch's uniqueness. A raw patch that is far from the
    training images and has its like in the same image is in another light: it counts no more than
    it is unique.
    """

    def __init__(self, images: torch.Tensor, patch_side: int, constant: float) -> None:
        """Keep the training images (K, C, H, H): arguments as of ``PatchComparison``."""
        self.normalised = PatchComparison(images, patch_side, constant)
        self.raw = PatchComparison(images, patch_side, None)
        self.unique = Uniqueness(images[:NORMAL_IMAGES], patch_side, self.normalised.starts)

    def ratios(self, image: torch.Tensor) -> torch.Tensor:
        """The evidence of the compared patches of (C, H, H): (G * G,), at least 0."""
        unique = self.unique(image)
        raw = self.raw.ratios(image).minimum(unique)
        return raw.maximum(self.normalised.ratios(image)) * unique

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The evidence at each pixel of (B, C, H, H): (B, H, H), at least 0; 1 is normal."""
        of_patches = self.normalised
        applied = (of_patches.starts, of_patches.patch_side, of_patches.side)
        return torch.stack([laid_over(self.ratios(image), *applied) for image in images])
