"""The votes of one scale, for any number of images: the plain way and the fast one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from htdg.config import HTDGConfig
from htdg.fast.canvases import canvas_plan
from htdg.fast.folding import folded_convolutions, voting_convolutions
from htdg.fast.losses import canvas_votes
from htdg.sampling import Scale
from htdg.training import autocast
from htdg.transformations import Transformation, transform_all
from htdg.votes import binary_votes, votes_from_logits

#: So many images are scored at a time, or more: the canvases stay as small as they can be.
IMAGES = 4


class Voter(Protocol):
    """What scoring needs of a scale: the votes of its images, and what they take."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The votes (M, B, h, h), in [0, 1], of images (B, 3, H, H)."""

    def bytes_per_image(self) -> int:
        """The memory that an image takes while it is scored."""


class PlainVoter:
    """Runs D over the M transformed copies."""

    def __init__(
        self, scale: Scale, transformations: Sequence[Transformation], config: HTDGConfig
    ) -> None:
        """For the images of one trained scale; ``config.precision`` is decided already."""
        self.scale, self.transformations, self.config = scale, tuple(transformations), config

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The votes (M, B, H - 10, H - 10), in [0, 1], of images (B, 3, H, H)."""
        copies = transform_all(images, self.transformations, self.config.translation)
        with autocast(images.device, self.config.precision):
            logits = self.scale.discriminator(copies.flatten(0, 1))  # (M * B, M + 1, h, w)
        logits = logits.float().unflatten(0, copies.shape[:2])  # (M, B, M + 1, h, w)
        binary = self.config.method == "real_or_generated"
        return binary_votes(logits) if binary else votes_from_logits(logits)

    def bytes_per_image(self) -> int:
        """What scoring an image takes at a time: three layers' activations of all copies."""
        m = len(self.transformations)
        widest = max(self.scale.discriminator.tail.in_channels, m + 1)
        return 4 * 3 * m * widest * self.scale.side**2


class CanvasVoter(PlainVoter):
    """Runs D, its normalisation folded in, over the canvases that the copies are windows of."""

    def __init__(
        self, scale: Scale, transformations: Sequence[Transformation], config: HTDGConfig
    ) -> None:
        """As the plain one."""
        super().__init__(scale, transformations, config)
        self.dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        self.binary = config.method == "real_or_generated"
        fold = folded_convolutions if self.binary else voting_convolutions
        folded = fold(scale.discriminator)
        self.convolutions = [convolution.to(self.dtype) for convolution in folded]
        shapes = (scale.side, config.translation, config.layers, scale.z_star.device)
        self.plan = canvas_plan(self.transformations, *shapes, IMAGES)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The votes (M, B, H - 10, H - 10), in [0, 1], of images (B, 3, H, H)."""
        sheets = [sheet.to(self.dtype) for sheet in self.plan.draw(images)]
        return canvas_votes(self.convolutions, sheets, self.plan, self.binary)

    def bytes_per_image(self) -> int:
        """The canvases, two layers' activations of the largest sheet, and the votes."""
        m = len(self.transformations)
        widest = max(self.scale.discriminator.tail.in_channels, m)
        activations = 2 * self.dtype.itemsize * widest * self.plan.most_pixels
        return activations + 4 * 2 * 3 * self.plan.pixels + 4 * 4 * m * self.scale.side**2


def voter(scale: Scale, transformations: Sequence[Transformation], config: HTDGConfig) -> Voter:
    """The fast one, or with ``config.fast`` False the plain one."""
    return (CanvasVoter if config.fast else PlainVoter)(scale, transformations, config)
