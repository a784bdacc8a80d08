"""Patches described by their histograms of oriented gradients. Ours, not the paper's.

What counts is which edges there are and about where, not how light the surfaces beside them are.
After Dalal and Triggs (2005), with the square root of Arandjelovic and Zisserman (2012).
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

#: Directions that gradients are sorted by, all the way round.
DIRECTIONS = 8
#: Added to the length of a histogram by which it is divided, so that noise is not blown up.
CONSTANT = 0.5
#: Gradients shorter than this have no direction.
LEAST_GRADIENT = 1e-6


def directed_gradients(images: torch.Tensor) -> torch.Tensor:
    """How strongly (B, C, H, W) rises at each pixel in each direction: (B, 8, H, W), at least 0.

    Of the channels the one with the greatest gradient counts. A gradient counts whole in its own
    direction, a quarter 45 degrees beside it, not at all across or against it.
    """
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    x = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]  # (B, C, H, W)
    y = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    strongest = (x.square() + y.square()).argmax(1, keepdim=True)
    x, y = x.gather(1, strongest), y.gather(1, strongest)  # (B, 1, H, W)
    length = (x.square() + y.square()).sqrt()
    angles = torch.arange(DIRECTIONS, device=images.device) * (2 * math.pi / DIRECTIONS)
    angles = angles.view(1, -1, 1, 1)
    cosines = (x * angles.cos() + y * angles.sin()).clamp(min=0) / (length + LEAST_GRADIENT)
    return length * cosines**4


def gradient_patches(images: torch.Tensor, cell: int) -> torch.Tensor:
    """All patches of (B, C, H, W), 2 * ``cell`` pixels long, row by row: (B, P, 32).

    Each is the histograms of its four quarters, of mean gradients. All four together are divided by
    their length, plus a constant; then comes the square root, so that strong edges do not outweigh
    all others.
    """
    cells = F.avg_pool2d(directed_gradients(images), cell, 1)  # (B, 8, H - cell + 1, ...)
    upper, lower = cells[..., :-cell, :], cells[..., cell:, :]
    quarters = [
        half[..., at] for half in (upper, lower) for at in (slice(-cell), slice(cell, None))
    ]
    histograms = torch.cat(quarters, 1).flatten(2).transpose(1, 2)  # (B, P, 32)
    return (histograms / (histograms.norm(dim=-1, keepdim=True) + CONSTANT)).sqrt()
