"""The nearest training image instead of a trained model: row f of the paper's ablations (Table 6).

It looks at one scale and has neither a discriminator nor transformations. Its votes are aggregated
like any others (see ``htdg.votes``).
"""

from __future__ import annotations

import torch


class NearestVoter:
    """Every pixel votes by how close it is to the same pixel of the nearest training image."""

    def __init__(self, images: torch.Tensor) -> None:
        """For the training images (K, 3, s, s) in [-1, 1], on the device that scores."""
        self.images = images

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The votes (1, B, s, s), in [0, 1], of images (B, 3, s, s) in [-1, 1].

        The nearest training image is the one with the least mean squared error over all pixels. A
        vote is 1 - d / 4, where d is the squared difference from it, averaged over the channels.
        """
        # One training image at a time, so that K of them take no more memory than one.
        errors = [(images - image).square().mean((1, 2, 3)) for image in self.images]  # K of (B,)
        nearest = self.images[torch.stack(errors).argmin(0)]  # (B, 3, s, s)
        # Two values in [-1, 1] differ by 2 at most.
        return 1 - (images - nearest).square().mean(1)[None] / 4  # (1, B, s, s)

    def bytes_per_image(self) -> int:
        """The memory that an image takes: its nearest neighbour, the difference and its square."""
        return 4 * 3 * self.images[0].numel()
