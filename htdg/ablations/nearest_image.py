"""Two voters that HTDG is measured against: rows f and g of the paper's ablations (Table 6).

Both see the whole image at one scale, and neither has a discriminator of patches. What they vote
is aggregated like any other votes (see ``htdg.votes``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from htdg.ablations.geom import WideResNet
from htdg.transformations import Transformation


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
        errors = [(images - one).square().mean((1, 2, 3)) for one in self.images]  # each (B,)
        nearest = self.images[torch.stack(errors).argmin(0)]  # (B, 3, s, s)
        # Two values in [-1, 1] differ by 2 at most.
        return 1 - (images - nearest).square().mean(1)[None] / 4  # (1, B, s, s)

    def bytes_per_image(self) -> int:
        """The nearest training image, the difference from it and its square."""
        return 4 * 3 * self.images[0].numel()


class GeomVoter:
    """GEOM: a whole image votes under T_m with the probability that its copy is named T_m.

    Golan and El-Yaniv, "Deep Anomaly Detection Using Geometric Transformations" (2018). The mean of
    the votes over m is their simplified score. Their full score weights the log-probabilities of
    all classes by a Dirichlet distribution that is fitted to the training images; that is left out
    here.
    """

    def __init__(
        self,
        classifier: WideResNet,
        transformations: Sequence[Transformation],
        translation: str,
        side: int = 128,
    ) -> None:
        """For a trained classifier in evaluation mode; class m stands for T_m.

        ``side`` of the images in pixels only says how much memory they take: any side can be
        scored.
        """
        self.classifier, self.transformations = classifier, tuple(transformations)
        self.translation, self.side = translation, side

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The votes (M, B, 1, 1), in [0, 1], of images (B, 3, s, s)."""
        votes = []
        for m, t in enumerate(self.transformations):  # one copy at a time, to save memory
            logits = self.classifier(t.apply(images, self.translation))  # (B, M)
            votes.append(logits.softmax(1)[:, m])  # (B,)
        return torch.stack(votes)[..., None, None]  # (M, B, 1, 1)

    def bytes_per_image(self) -> int:
        """What scoring an image takes at a time: four layers' activations of one copy."""
        return 4 * 4 * self.classifier.width * self.side**2
