"""How the arithmetic is done: the interface that training and scoring speak, and its plain form.

``PlainBackend`` makes the M copies of an image one after another and runs the networks over all of
them, as the paper describes it. ``htdg.fast.backend`` gives the same numbers up to rounding, but
faster, and is what a detector uses unless ``fast`` is False. Training and scoring are handed one of
the two and never ask which.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch

from htdg import losses
from htdg.config import HTDGConfig
from htdg.networks import Discriminator, Generator
from htdg.sampling import Scale
from htdg.transformations import Transformation, transform_all
from htdg.votes import binary_votes, votes_from_logits

#: All T_m(x) of some images, in whatever form a backend keeps them.
Copies = Any
#: The named losses of a step, each a scalar.
Losses = dict[str, torch.Tensor]
#: A step of training: takes tensors, changes weights, returns its losses.
Step = Callable[..., Losses]


class Voter(Protocol):
    """The votes of images at one scale, and the memory that scoring takes."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The votes (M, B, h, h) in [0, 1] of images (B, 3, H, H)."""

    def bytes_per_image(self) -> int:
        """The memory that an image takes while it is scored."""


class Backend(Protocol):
    """What training and scoring ask for; ``PlainBackend`` says in code what each answer is."""

    def copies(self, images: torch.Tensor) -> Copies:
        """All transformed copies of images (B, 3, H, H)."""

    def real_loss(self, discriminator: Discriminator, copies: Copies) -> torch.Tensor:
        """D's loss in naming the transformations of the copies (``htdg.losses.real_loss``)."""

    def generated_loss(self, discriminator: Discriminator, copies: Copies) -> torch.Tensor:
        """D's loss in seeing that the copies are generated (``htdg.losses.generated_loss``)."""

    def begin_scale(self, scale: Scale, images: int) -> None:
        """Called once before a scale is trained.

        ``scale`` has its networks as they start, ``images`` is how many training images go through
        them together at most.
        """

    def generator(self, generator: Generator) -> Generator:
        """The generator as this backend runs it, in training or frozen."""

    def optimiser(self, parameters: Iterable[torch.nn.Parameter], lr: float) -> torch.optim.Adam:
        """Adam on these parameters."""

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """The precision of a forward pass; entered anew for each, since it caches weights."""

    def run(self, step: Step, noise: torch.Tensor, previous: torch.Tensor | None) -> Losses:
        """Carry out ``step(noise, previous)``, or replay a recording of it; returns its losses."""

    def voter(self, scale: Scale) -> Voter:
        """What scores images at a trained scale."""

    def training_bytes(self, scale: int, side: int) -> int:
        """About what training a scale keeps in memory for each training image."""

    def notice(self) -> None:
        """Say on standard error, once, what a user should know of how this runs here."""


class PlainBackend:
    """The straightforward way."""

    #: Floats that training keeps for each pixel of a copy, times the widest layer (one layer's
    #: output is 1): measured with ``python -m benchmarks.growth``.
    KEPT_LAYERS = 20

    def __init__(
        self, config: HTDGConfig, transformations: Sequence[Transformation], device: torch.device
    ) -> None:
        """For a model with these options; ``config.precision`` is no longer ``"auto"``."""
        self.config, self.device = config, device
        self.transformations = tuple(transformations)

    def copies(self, images: torch.Tensor) -> torch.Tensor:
        """All transformed copies: (B, 3, H, H) -> (M, B, 3, H, H)."""
        # In full precision: D could tell real and generated copies apart by their rounding.
        with torch.autocast(self.device.type, enabled=False):
            return transform_all(images, self.transformations, self.config.translation)

    def real_loss(self, discriminator: Discriminator, copies: torch.Tensor) -> torch.Tensor:
        """See ``htdg.losses.real_loss``."""
        return losses.real_loss(discriminator, copies)

    def generated_loss(self, discriminator: Discriminator, copies: torch.Tensor) -> torch.Tensor:
        """See ``htdg.losses.generated_loss``."""
        return losses.generated_loss(discriminator, copies)

    def begin_scale(self, scale: Scale, images: int) -> None:
        """Nothing to prepare."""

    def generator(self, generator: Generator) -> Generator:
        """As it is."""
        return generator

    def optimiser(self, parameters: Iterable[torch.nn.Parameter], lr: float) -> torch.optim.Adam:
        """PyTorch's Adam."""
        return torch.optim.Adam(parameters, lr, (self.config.beta1, self.config.beta2))

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """See the function ``autocast``."""
        return autocast(self.device, self.config.precision)

    def run(self, step: Step, noise: torch.Tensor, previous: torch.Tensor | None) -> Losses:
        """Carry it out."""
        return step(noise, previous)

    def voter(self, scale: Scale) -> PlainVoter:
        """Runs D over the M transformed copies."""
        return PlainVoter(self, scale)

    def training_bytes(self, scale: int, side: int) -> int:
        """What the layers' outputs of all copies of an image take, as measured."""
        m = len(self.transformations)
        widest = max(self.config.width(scale), m + 1)
        return 4 * self.KEPT_LAYERS * m * side**2 * widest

    def notice(self) -> None:
        """Nothing to say."""


class PlainVoter:
    """Votes of one scale: D over all copies, softmax, the true class (paper section 3.2)."""

    def __init__(self, backend: PlainBackend, scale: Scale) -> None:
        """For a trained scale, in evaluation mode."""
        self.backend, self.scale = backend, scale
        self.binary = backend.config.method == "real_or_generated"

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The votes (M, B, H - 10, H - 10) in [0, 1] of images (B, 3, H, H)."""
        copies = self.backend.copies(images)  # (M, B, 3, H, H)
        with self.backend.autocast():
            logits = self.scale.discriminator(copies.flatten(0, 1))  # (M * B, M + 1, h, w)
        logits = logits.float().unflatten(0, copies.shape[:2])  # (M, B, M + 1, h, w)
        return binary_votes(logits) if self.binary else votes_from_logits(logits)

    def bytes_per_image(self) -> int:
        """Three layers' activations of all copies of an image."""
        m = len(self.backend.transformations)
        widest = max(self.scale.discriminator.tail.in_channels, m + 1)
        return 4 * 3 * m * widest * self.scale.side**2


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[None]:
    """bfloat16 for the convolutions where ``precision`` asks for it; weights stay float32."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
