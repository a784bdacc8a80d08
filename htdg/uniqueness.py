"""How much a patch stands alone in its own image: its uniqueness.

Ours, not the paper's. A patch of a brick wall or a grid has its like elsewhere in the same image,
in the same light, and a crack has not. Things with parts, such as a bottle, have unique patches
when all is well, too. How unique normal patches get is seen in the training images: only what is
more unique than nearly all of theirs counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from htdg.nearest import LEAST_DISTANCE, quantile
from htdg.patches import apart

#: The share of the patches of the training images that are less unique than what counts.
USUAL = 0.9


class Uniqueness:
    """Compares the patches of an image with the others of the same image."""

    def __init__(
        self, normal: Sequence[torch.Tensor], places: torch.Tensor, patch_side: int
    ) -> None:
        """Measure how unique the patches of normal images are.

        Args:
            normal: the patches (Q, D) of each training image, described.
            places: (Q, 2) their rows and columns.
            patch_side: pixels.
        """
        # Only patches that share no pixel count; this is added to what the nearest has least of.
        near = apart(places, places) < patch_side  # (Q, Q)
        self.excluded = torch.where(near, torch.inf, 0.0)
        self.alone = near.all(1)  # no room for another one beside it
        distances = torch.cat([self.distances(patches) for patches in normal])
        self.usual = max(float(quantile(distances, USUAL)), LEAST_DISTANCE)

    def distances(self, patches: torch.Tensor) -> torch.Tensor:
        """The distance of each patch (Q, D) of an image to the nearest other one: (Q,).

        Root mean squared difference; 0 where there is no room for another.
        """
        # |p - o|^2 = |p|^2 - 2 p.o + |o|^2; the last term comes in as one number more of each.
        squares = patches.square().sum(1, keepdim=True)  # (Q, 1)
        left, right = F.pad(-2 * patches, (0, 1), value=1.0), torch.cat([patches, squares], 1)
        nearest = torch.addmm(self.excluded, left, right.T).amin(1) + squares[:, 0]
        return torch.where(self.alone, 0.0, (nearest.clamp(min=0) / patches.shape[1]).sqrt())

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """How unique each patch (Q, D) of an image is: (Q,), at least 1.

        1 is as nine tenths of the patches of normal images, 2 twice as far from its like.
        """
        return (self.distances(patches) / self.usual).clamp(min=1)
