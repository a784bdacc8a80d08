"""The votes of one scale from shared canvases, with batch normalisation folded in."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from htdg.config import HTDGConfig
from htdg.fast.canvases import canvas_plan
from htdg.fast.folding import folded_convolutions, voting_convolutions
from htdg.fast.losses import canvas_votes
from htdg.sampling import Scale
from htdg.transformations import Transformation

#: So many images are scored at a time, or more: the canvases stay as small as they can be.
IMAGES = 4


class CanvasVoter:
    """Runs D over the canvases that the copies are windows of: see ``htdg.backend.Voter``."""

    def __init__(
        self, scale: Scale, transformations: Sequence[Transformation], config: HTDGConfig
    ) -> None:
        """For the images of one trained scale; ``config.precision`` is no longer ``"auto"``."""
        self.dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        self.binary = config.method == "real_or_generated"
        fold = folded_convolutions if self.binary else voting_convolutions
        self.convolutions = [c.to(self.dtype) for c in fold(scale.discriminator)]
        shapes = (scale.side, config.translation, config.layers, scale.z_star.device)
        self.plan = canvas_plan(tuple(transformations), *shapes, IMAGES)
        self.width = scale.discriminator.tail.in_channels

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The votes (M, B, H - 10, H - 10), in [0, 1], of images (B, 3, H, H)."""
        sheets = [sheet.to(self.dtype) for sheet in self.plan.draw(images)]
        return canvas_votes(self.convolutions, sheets, self.plan, self.binary)

    def bytes_per_image(self) -> int:
        """The canvases, two layers' activations of the largest sheet, and the votes."""
        m = len(self.plan.transformations)
        activations = 2 * self.dtype.itemsize * max(self.width, m) * self.plan.most_pixels
        return activations + 4 * 2 * 3 * self.plan.pixels + 4 * 4 * m * self.plan.side**2
