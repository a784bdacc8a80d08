"""One anomaly score from two kinds of evidence: the votes, and the patch distances.

Ours, not the paper's. Both kinds are ratios to what normal patches have, so that 1 is normal:

- distance: the geometric mean of two, of pixels and of gradients (``htdg.gradients``): each that of
  a patch to the nearest patch of the training images, divided by the mean distance of normal
  patches and multiplied by how unique the patch is in its own image (``htdg.distances``). Where
  things have their places, those to the nearest patch nearby, related to those to the nearest
  turned one (``htdg.nearby``);
- votes: the odds (1 - v) / v against the true transformation, v the mean vote over the scales,
  divided by the odds that slightly brighter and darker copies of the training images have.

They are multiplied, the votes with a small power, since their odds range over orders of magnitude:

    e = distance * votes ** 0.1,    anomaly score = e / (1 + e)

which grows with either kind and lies in [0, 1); 0.5 is as normal patches are on average. Votes say
whether an image is anomalous, and hardly where: anomaly maps have the distances alone,
distance / (1 + distance).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional as F

from htdg.backend import Voter
from htdg.config import HTDGConfig
from htdg.distances import BANK_SIZE, UniqueDistances, brightened, memory_bank, patches_drawn
from htdg.gradients import GradientPatches
from htdg.nearby import NearbyDistances
from htdg.numbers import refuse
from htdg.patches import Description, PixelPatches
from htdg.pyramid import Size, build_pyramid, resize
from htdg.state import ModelState

#: The power of the votes' odds beside the distance.
VOTES_POWER = 0.1
#: The share of the most anomalous pixels and votes that makes the score where defects are looked
#: for; the paper has 0.05 of the votes.
DEFECT_FRACTION = 0.02
#: Side of the four quarters of a patch whose gradients are compared, in pixels of the whole image.
GRADIENT_CELL = 6
#: Mean votes this near to 0 or 1 mean no more than that.
LEAST_VOTE = 1e-3


class Evidence:
    """What the patches of normal images have, and the evidence of other images relative to it."""

    def __init__(self, model: ModelState, voters: Sequence[Voter], device: torch.device) -> None:
        """Measure it from the training images of ``model``.

        Args:
            model: its options say which kinds of evidence count.
            voters: of each scale; none are needed for distances alone.
            device: where to compute.
        """
        config = model.config
        self.image_size, self.sides = config.image_size, config.distance_sides
        images = model.images.to(device)
        *self.pixels, self.gradients = [
            distances(resize(images, side), describe, config, model.banks)
            for side, describe in described(config)
        ]
        self.normal_odds = 1.0
        if config.evidence == "both":
            copies = torch.cat([brightened(image[None]) for image in images])
            votes = [
                voter(image[None]).mean()
                for voter, of_scale in zip(voters, build_pyramid(copies, model.sides), strict=True)
                for image in of_scale
            ]
            self.normal_odds = float(odds(torch.stack(votes).mean()))

    def distance_map(self, images: torch.Tensor) -> torch.Tensor:
        """The relative distance at each pixel of (B, 3, s, s), s = image_size: (B, s, s).

        The geometric mean of that of pixels, itself the mean over their scales, and that of
        gradients; at least 0, 1 is as normal patches.
        """
        pyramid = build_pyramid(images, self.sides)
        maps = [
            resized(of_scale(images), self.image_size)
            for of_scale, images in zip(self.pixels, pyramid, strict=True)
        ]
        return (torch.stack(maps).mean(0) * self.gradients(images)).sqrt()

    def votes_ratio(self, mean_votes: Sequence[torch.Tensor]) -> torch.Tensor:
        """The odds against the mean over the scales of votes in [0, 1], relative to normal ones.

        ``mean_votes`` has those of every scale, of any shape, the same at each.
        """
        return odds(torch.stack(list(mean_votes)).mean(0)) / self.normal_odds


def described(config: HTDGConfig) -> list[tuple[int, Description]]:
    """What is compared: at which side, and how patches are described there.

    The pixels of every scale, and last the gradients of the whole image. ConfigError if that is
    smaller than their patches.
    """
    pixels = PixelPatches(config.patch_side, config.patch_constant)
    gradients = GradientPatches(GRADIENT_CELL, config.high_pass)
    if config.image_size < gradients.side:
        refuse("image_size", config.image_size, f"at least {gradients.side} for patch distances")
    return [*((side, pixels) for side in config.distance_sides), (config.image_size, gradients)]


def distances(
    images: torch.Tensor,
    describe: Description,
    config: HTDGConfig,
    banks: Mapping[str, torch.Tensor],
) -> UniqueDistances | NearbyDistances:
    """What measures the distances to patches of (K, C, H, H): anywhere or, with a radius, nearby.

    ``banks`` are those of a ``ModelState``.
    """
    if config.search_radius:
        return NearbyDistances(images, describe, config.search_radius)
    limited = isinstance(describe, PixelPatches)
    chosen = banks.get(bank_name(images.shape[-1], describe))
    return UniqueDistances(images, describe, limited, chosen)


def bank_name(side: int, describe: Description) -> str:
    """What a memory bank is called: banks of other options have other names."""
    return f"bank {side} {describe.name}"


def bank_choices(config: HTDGConfig, count: int) -> dict[str, tuple[int, Description]]:
    """By name, the parts of ``described`` whose memory banks cannot keep all patches.

    ``count`` is the number of training images. There are none with votes alone, or where only
    patches nearby are compared.
    """
    if config.evidence == "votes" or config.search_radius:
        return {}
    parts = [part for part in described(config) if patches_drawn(count, *part) > BANK_SIZE]
    return {bank_name(*part): part for part in parts}


def chosen_patches(images: torch.Tensor, config: HTDGConfig) -> dict[str, torch.Tensor]:
    """Which patches of the training images (K, 3, s, s) each of ``bank_choices`` keeps: (N,).

    See ``MemoryBank``.
    """
    return {
        name: memory_bank(resize(images, side), describe).chosen
        for name, (side, describe) in bank_choices(config, len(images)).items()
    }


def odds(votes: torch.Tensor) -> torch.Tensor:
    """(1 - v) / v of mean votes v in [0, 1]."""
    votes = votes.clamp(LEAST_VOTE, 1 - LEAST_VOTE)
    return (1 - votes) / votes


def combined(distance: torch.Tensor, votes: torch.Tensor | None) -> torch.Tensor:
    """The evidence of both kinds, or of distances alone, of any shape."""
    return distance if votes is None else distance * votes**VOTES_POWER


def as_score(evidence: torch.Tensor) -> torch.Tensor:
    """Evidence in [0, infinity) as an anomaly score e / (1 + e) in [0, 1)."""
    return evidence / (1 + evidence)


def highest_mean(maps: torch.Tensor, fraction: float | None) -> torch.Tensor:
    """The mean of the highest share of the pixels of (B, s, s), of all with None: (B,)."""
    pixels = maps.flatten(1)
    count = pixels.shape[1] if fraction is None else max(1, int(pixels.shape[1] * fraction))
    highest = pixels if count == pixels.shape[1] else pixels.topk(count).values  # all: unsorted
    return highest.mean(1)


def resized(maps: torch.Tensor, size: Size) -> torch.Tensor:
    """Maps (B, H, H) at another size, a side or (height, width)."""
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
