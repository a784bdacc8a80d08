"""How much a patch stands alone in its own image: its uniqueness.

Ours, not the paper's. A patch of a brick wall or a grid has its like elsewhere in the same image,
in the same light, and a crack has not. Things with parts, such as a bottle, have unique patches
when all is well, too. How unique normal patches get is seen in the training images: only what is
more unique than nearly all of theirs counts.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from htdg.nearest import LEAST_DISTANCE, quantile
from htdg.patches import cut, is_grey, patch_numbers, patch_pixels, patch_places

#: The share of the patches of the training images that are less unique than what counts.
USUAL = 0.9
#: An image of at most this many patches is searched whole; of more, each second row and column.
ALL_PATCHES = 1500


class Uniqueness:
    """Compares the patches of an image, as they are, with the others of the same image."""

    def __init__(self, images: torch.Tensor, patch_side: int, starts: torch.Tensor) -> None:
        """Measure how unique the patches of the training images (K, C, H, H) are.

        Args:
            images: in [-1, 1].
            patch_side: pixels.
            starts: (G,) the rows, and the columns, of the patches that are looked at.
        """
        h = images.shape[-1] - patch_side + 1
        self.patch_side = patch_side
        pixels, places = patch_pixels(images, patch_side), patch_places(h, images.device)
        compared = patch_numbers(starts, h).to(images.device)  # (G * G,)
        others = compared if h * h > ALL_PATCHES else torch.arange(h * h, device=images.device)
        self.pixels, self.of_others = pixels[compared], pixels[others]  # (G * G, D), (N, D)
        away = (places[compared][:, None] - places[others]).abs().amax(-1)  # (G * G, N)
        # Only patches that share no pixel count; this is added to what the nearest has least of.
        self.excluded = torch.where(away < patch_side, torch.inf, 0.0)
        self.alone = self.excluded.isinf().all(1)  # no room for another one beside it
        distances = torch.cat([self.distances(image) for image in images])
        self.usual = max(float(quantile(distances, USUAL)), LEAST_DISTANCE)

    def distances(self, image: torch.Tensor) -> torch.Tensor:
        """The distance of each patch of (C, H, H) to the nearest other one: (G * G,).

        Root mean squared difference; 0 where there is no room for another.
        """
        size = self.patch_side**2 if is_grey(image[None]) else self.pixels.shape[1]
        patches, others = (cut(image, at[:, :size]) for at in (self.pixels, self.of_others))
        # |p - o|^2 = |p|^2 - 2 p.o + |o|^2; the last term comes in as one number more of each.
        squares = others.square().sum(1, keepdim=True)  # (N, 1)
        left, right = F.pad(-2 * patches, (0, 1), value=1.0), torch.cat([others, squares], 1)
        nearest = torch.addmm(self.excluded, left, right.T).amin(1) + patches.square().sum(1)
        return torch.where(self.alone, 0.0, (nearest.clamp(min=0) / size).sqrt())

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """How unique each patch of (C, H, H) is: (G * G,), at least 1.

        1 is as nine tenths of the patches of normal images, 2 twice as far from its like.
        """
        return (self.distances(image) / self.usual).clamp(min=1)
