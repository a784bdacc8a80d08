"""The two cross-entropies that the losses of D and G are made of, over the stack of copies.

Paper section 3.2. Both are cross-entropies of the discriminator's M + 1 classes, one for each
transformation T_1 .. T_M and one for "generated", averaged over every patch of every copy:

- D minimises ``real_loss`` of the training images plus ``generated_loss`` of generated ones;
- G minimises ``real_loss`` of generated images: it wants their patches named as real ones are.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from htdg.networks import Discriminator


def real_loss(discriminator: Discriminator, copies: torch.Tensor) -> torch.Tensor:
    """-log p(m | patch of T_m(x)), averaged over m, images and patches.

    Args:
        discriminator: D.
        copies: (M, B, 3, H, W); row m holds the images, real or generated, under T_m.

    Returns:
        A scalar, at least 0. A discriminator that has one class for everything real (the ablation
        without discrimination of transformations) is asked for that one.
    """
    logits = discriminator(copies.flatten(0, 1))  # (M * B, M + 1, h, w)
    labels = torch.arange(len(copies), device=copies.device).repeat_interleave(copies.shape[1])
    labels = labels.clamp(max=logits.shape[1] - 2)  # (M * B,); all 0 with one class for real
    return F.cross_entropy(logits, labels.view(-1, 1, 1).expand(-1, *logits.shape[-2:]))


def generated_loss(discriminator: Discriminator, copies: torch.Tensor) -> torch.Tensor:
    """-log p(generated | patch of T_m(G(z))), averaged likewise; ``copies`` (M, B, 3, H, W)."""
    logits = discriminator(copies.flatten(0, 1))  # (M * B, M + 1, h, w)
    generated = logits.shape[1] - 1  # the last class
    labels = logits.new_full((len(logits), *logits.shape[-2:]), generated, dtype=torch.long)
    return F.cross_entropy(logits, labels)
