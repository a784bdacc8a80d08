"""The accelerated backend: what ``htdg.backend.PlainBackend`` does, sooner.

- Copies are kept as windows of shared canvases (``canvases``, ``losses``, ``batch_norm``).
- Frozen networks have their batch normalisation folded into the convolutions (``folding``).
- On a CPU compiled helpers do the passes over memory and the convolutions (``native``,
  ``convolution``); on a GPU whole steps are recorded and played back (``cuda_graphs``).

The numbers are the plain ones but for rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from htdg.backend import Losses, Step, autocast
from htdg.config import HTDGConfig
from htdg.fast import losses, native
from htdg.fast.adam import Adam
from htdg.fast.batch_norm import TrainingGenerator
from htdg.fast.canvases import CanvasPlan, canvas_plan
from htdg.fast.cuda_graphs import Recordings, recordable
from htdg.fast.folding import FoldedGenerator
from htdg.fast.voter import CanvasVoter
from htdg.networks import Discriminator, Generator
from htdg.sampling import Scale
from htdg.transformations import Transformation


@dataclass(frozen=True)
class CanvasCopies:
    """All transformed copies of some images, as windows of canvases.

    Attributes:
        plan: where the copies lie.
        sheets: the canvases, (B * G, 3, h, w) for each shape.
    """

    plan: CanvasPlan
    sheets: list[torch.Tensor]


class FastBackend:
    """See ``htdg.backend.Backend`` for what each method is to do."""

    #: Floats that training keeps for each pixel of a canvas, times the widest layer (one layer's
    #: output is 1): measured with ``python -m benchmarks.growth``.
    KEPT_LAYERS = 16
    #: Steps at a time that memory holds where they are recorded: the recordings', and one beside.
    HELD_STEPS = 2

    def __init__(
        self, config: HTDGConfig, transformations: Sequence[Transformation], device: torch.device
    ) -> None:
        """For a model with these options; ``config.precision`` is no longer ``"auto"``."""
        self.config, self.device = config, device
        self.transformations = tuple(transformations)
        self.recordings: Recordings | None = None
        self.images_together = 0  # of the scale in training
        self.networks: list[torch.nn.Module] = []
        self.optimisers: list[torch.optim.Adam] = []

    def copies(self, images: torch.Tensor) -> CanvasCopies:
        """The canvases that hold all copies of images (B, 3, H, H)."""
        # A scale has one plan, also where its last chunk of images is shorter.
        plan = self.plan(images.shape[-1], self.images_together or len(images))
        # In full precision: D could tell real and generated copies apart by their rounding.
        with torch.autocast(self.device.type, enabled=False):
            return CanvasCopies(plan, plan.draw(images))

    def plan(self, side: int, images: int) -> CanvasPlan:
        """The canvases for so many images of this side."""
        shapes = (side, self.config.translation, self.config.layers, self.device)
        return canvas_plan(self.transformations, *shapes, images)

    def real_loss(self, discriminator: Discriminator, copies: CanvasCopies) -> torch.Tensor:
        """``htdg.losses.real_loss`` through the windows."""
        return losses.real_loss(discriminator, copies.sheets, copies.plan)

    def generated_loss(self, discriminator: Discriminator, copies: CanvasCopies) -> torch.Tensor:
        """``htdg.losses.generated_loss`` through the windows."""
        return losses.generated_loss(discriminator, copies.sheets, copies.plan)

    def begin_scale(self, scale: Scale, images: int) -> None:
        """Lay the weights out as convolutions want them; recordings of another scale are freed."""
        self.images_together = images
        self.networks, self.optimisers = [scale.discriminator, scale.generator], []
        for network in self.networks:
            network.to(memory_format=torch.channels_last)
        self.recordings = Recordings(self.device) if recordable(self.device) else None

    def generator(self, generator: Generator) -> Generator:
        """Frozen: normalisation folded in. In training on a CPU: normalised by the helpers."""
        if not generator.training:
            return FoldedGenerator(generator)
        return TrainingGenerator(generator) if self.device.type == "cpu" else generator

    def optimiser(self, parameters: Iterable[torch.nn.Parameter], lr: float) -> torch.optim.Adam:
        """PyTorch's Adam, all weights in one call where PyTorch has that."""
        adam = Adam(
            parameters,
            lr,
            (self.config.beta1, self.config.beta2),
            fused=self.device.type in ("cpu", "cuda"),
            capturable=self.recordings is not None,
        )
        self.optimisers.append(adam)
        return adam

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """See ``htdg.backend.autocast``."""
        return autocast(self.device, self.config.precision)

    def run(self, step: Step, noise: torch.Tensor, previous: torch.Tensor | None) -> Losses:
        """The step, on a GPU from its recording."""
        if self.recordings is None:
            return step(noise, previous)
        rates = [adam.param_groups[0]["lr"] for adam in self.optimisers]
        kind = step.__name__
        return self.recordings.run(kind, step, noise, previous, self._changing, rates)

    def _changing(self) -> list[list[torch.Tensor]]:
        """What steps change: weights, running statistics, the optimisers' moments.

        In groups of what changes by amounts of one kind.
        """
        named = [pair for network in self.networks for pair in network.named_buffers()]
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        moments = [state for adam in self.optimisers for state in adam.state.values()]
        return [
            [p for adam in self.optimisers for p in adam.param_groups[0]["params"]],
            *([buffer for name, buffer in named if name.endswith(kind)] for kind in statistics),
            *([state[key] for state in moments] for key in ("exp_avg", "exp_avg_sq", "step")),
        ]

    def voter(self, scale: Scale) -> CanvasVoter:
        """Runs the folded D over canvases."""
        return CanvasVoter(scale, self.transformations, self.config)

    def training_bytes(self, scale: int, side: int) -> int:
        """What the layers' outputs over the canvases of an image take, as measured."""
        widest = max(self.config.width(scale), len(self.transformations) + 1)
        shapes = (side, self.config.translation, self.config.layers, torch.device("cpu"))
        pixels = canvas_plan(self.transformations, *shapes).pixels
        held = self.HELD_STEPS if recordable(self.device) else 1
        return 4 * self.KEPT_LAYERS * pixels * widest * held

    def notice(self) -> None:
        """Say why the compiled helpers are missing, where they are."""
        if self.device.type == "cpu":
            native.warn_if_missing()
