"""One model trained by several processes: each takes some of the canvases.

The M copies of an image are dealt out, whole canvases at a time; every process has all images and
both networks. What makes the result that of a single process, but for rounding:

- D's batch normalisation takes the statistics of the copies of all processes
  (``htdg.fast.batch_norm``).
- Each process has the loss of its copies, weighted so that the mean over the processes is the loss
  of all copies. Hence the mean of the gradients is the gradient, as in PyTorch's
  ``DistributedDataParallel``. That itself does not fit: the losses run D's layers over canvases and
  never call D, so its hooks leave every gradient as it is, without a word (tests/test_sharing.py
  shows it); and around the loss it would average twice in a D step, which has two backward passes.
  So gradients are averaged here, once, right before Adam uses them.
- G makes the same images everywhere, since weights and random streams are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from htdg.backend import Losses, Step
from htdg.config import HTDGConfig
from htdg.fast import losses
from htdg.fast.backend import CanvasCopies, FastBackend
from htdg.fast.canvases import CanvasPlan, canvas_plan
from htdg.fast.ranks import Ranks, RanksError
from htdg.networks import Discriminator
from htdg.sampling import Scale
from htdg.transformations import Transformation


def check_shareable(config: HTDGConfig) -> None:
    """Refuse options with which several processes cannot train a model: RanksError."""
    if not config.fast:
        raise RanksError("Several processes share canvases out: leave --no-fast out.")
    if config.evidence == "distance":
        raise RanksError("With evidence 'distance' nothing is trained: leave torchrun out.")
    if config.method in ("mse", "geom"):
        raise RanksError(f"Several processes do not train method '{config.method}' together.")


class SharingBackend(FastBackend):
    """``FastBackend`` for one of several processes."""

    def __init__(
        self,
        config: HTDGConfig,
        transformations: Sequence[Transformation],
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        """For a model with these options, and the processes that train it.

        Raises:
            RanksError: there are fewer canvases than processes.
        """
        super().__init__(config, transformations, device)
        self.ranks = ranks
        canvases = super().plan(config.sides[0], 1).canvases
        if canvases < ranks.size:
            raise RanksError(
                f"{ranks.size} processes cannot share {canvases} groups of copies: give torchrun "
                f"--nproc-per-node={canvases} or less, or take more transformations."
            )

    def plan(self, side: int, images: int) -> CanvasPlan:
        """This process's canvases."""
        shapes = (side, self.config.translation, self.config.layers, self.device)
        part = (self.ranks.rank, self.ranks.size)
        return canvas_plan(self.transformations, *shapes, images, part)

    def real_loss(self, discriminator: Discriminator, copies: CanvasCopies) -> torch.Tensor:
        """This process's part of ``htdg.losses.real_loss``, which is the mean of all parts."""
        loss = losses.real_loss(discriminator, copies.sheets, copies.plan, self.ranks.sum)
        return loss * self._share(copies.plan)

    def generated_loss(self, discriminator: Discriminator, copies: CanvasCopies) -> torch.Tensor:
        """This process's part of ``htdg.losses.generated_loss``, likewise."""
        loss = losses.generated_loss(discriminator, copies.sheets, copies.plan, self.ranks.sum)
        return loss * self._share(copies.plan)

    def _share(self, plan: CanvasPlan) -> float:
        """What the mean over this process's copies counts in the mean over the processes."""
        return self.ranks.size * plan.copies / len(self.transformations)

    def begin_scale(self, scale: Scale, images: int) -> None:
        """As of one process; steps that wait for others are not recorded."""
        super().begin_scale(scale, images)
        self.recordings = None

    def optimiser(self, parameters: Iterable[torch.nn.Parameter], lr: float) -> torch.optim.Adam:
        """Adam that takes the mean gradients of all processes."""
        adam = super().optimiser(parameters, lr)
        weights: list[torch.nn.Parameter] = adam.param_groups[0]["params"]

        def average(*_: Any) -> None:
            self.ranks.mean([p.grad for p in weights if p.grad is not None])

        adam.register_step_pre_hook(average)
        return adam

    def run(self, step: Step, noise: torch.Tensor, previous: torch.Tensor | None) -> Losses:
        """The step; its losses are those of all copies."""
        named = super().run(step, noise, previous)
        self.ranks.mean(list(named.values()))
        return named
