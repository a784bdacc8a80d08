"""Patches described by their histograms of oriented gradients. Ours, not the paper's.

What counts is which edges there are and about where, not how light the surfaces beside them are.
After Dalal and Triggs (2005), with the square root of Arandjelovic and Zisserman (2012).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

#: Directions that gradients are sorted by, all the way round.
DIRECTIONS = 8
#: Added to the length of a histogram by which it is divided, so that noise is not blown up.
CONSTANT = 0.3
#: Gradients shorter than this have no direction.
LEAST_GRADIENT = 1e-6


def directed_gradients(images: torch.Tensor) -> torch.Tensor:
    """How strongly (B, C, H, W) rises at each pixel in each direction: (B, 8, H, W), at least 0.

    Of the channels the one with the greatest gradient counts. A gradient counts whole in its own
    direction, a quarter 45 degrees beside it, not at all across or against it.
    """
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    across = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]  # (B, C, H, W)
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    lengths = across.square() + down.square()
    x, y, longest = (values[:, :1] for values in (across, down, lengths))  # (B, 1, H, W)
    for channel in range(1, images.shape[1]):  # of so few much faster than argmax
        length = lengths[:, channel, None]
        stronger = length > longest
        x = torch.where(stronger, across[:, channel, None], x)
        y = torch.where(stronger, down[:, channel, None], y)
        longest = longest.maximum(length)
    length = longest.sqrt()
    angles = torch.arange(DIRECTIONS, device=images.device) * (2 * math.pi / DIRECTIONS)
    angles = angles.view(1, -1, 1, 1)
    cosines = (x * angles.cos() + y * angles.sin()).clamp(min=0) / (length + LEAST_GRADIENT)
    return length * cosines.square().square()  # much faster than a power


def blurred(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """(B, C, H, H) blurred by a Gaussian of this standard deviation, in pixels.

    At the border it is the weighted mean of what is inside.
    """
    places = torch.arange(images.shape[-1], device=images.device)
    weights = torch.exp(-0.5 * ((places[:, None] - places) / sigma).square())  # (H, H)
    mean = weights / weights.sum(1, keepdim=True)
    return mean @ images @ mean.T


@dataclass(frozen=True)
class GradientPatches:
    """Patches described by the histograms of their four quarters, of mean gradients: D = 32.

    All four together are divided by their length, plus a constant; then comes the square root, so
    that strong edges do not outweigh all others.

    Attributes:
        cell: side of a quarter, pixels.
        high_pass: of the blur that is taken off the image first, the standard deviation in pixels;
            0 takes none off.
    """

    cell: int
    high_pass: float = 0.0

    @property
    def side(self) -> int:
        """Of a patch, pixels."""
        return 2 * self.cell

    @property
    def name(self) -> str:
        """See ``htdg.patches.Description``."""
        return f"gradients {self.cell} {self.high_pass}"

    def averages(self, starts: torch.Tensor, side: int) -> torch.Tensor:
        """Times a line of pixels (side,), the means of the cells that start there: (n, side)."""
        away = torch.arange(side, device=starts.device) - starts[:, None]
        return ((away >= 0) & (away < self.cell)) / self.cell

    def __call__(self, images: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """See ``htdg.patches.Description``."""
        if self.high_pass:
            images = images - blurred(images, self.high_pass)
        # Mean gradients of cells at these rows and columns, as two products: (B, 8, 2 G, 2 G).
        mean = self.averages(torch.cat([starts, starts + self.cell]), images.shape[-1])
        cells = mean @ (directed_gradients(images) @ mean.T)
        upper, lower = cells.chunk(2, 2)
        quarters = [*upper.chunk(2, 3), *lower.chunk(2, 3)]
        histograms = torch.cat(quarters, 1).flatten(2).transpose(1, 2)  # (B, G * G, 32)
        return (histograms / (histograms.norm(dim=-1, keepdim=True) + CONSTANT)).sqrt()
