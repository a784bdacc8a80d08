"""HTDG without any of our means of speed, to measure them against.

As the official implementation is built: the copies are made one by one in a Python loop, real ones
again in every step, and stacked; D runs over the stack in contiguous float32; one image after
another is scored. It computes the same losses and scores as ours (``tests/test_benchmarks.py``).

What a user would try first to make it faster can be added: networks whose channels come last,
``torch.compile``, and our setting of the memory allocator.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial

import torch
from torch.nn import functional as F

from htdg import HTDGConfig
from htdg.backend import Losses, PlainBackend
from htdg.networks import Discriminator
from htdg.runtime.device import keep_freed_memory, resolve_device
from htdg.sampling import Scale, generate, random_noise, upsampled
from htdg.training import ScaleTraining, start_scale
from htdg.transformations import Transformation


class StraightforwardBackend(PlainBackend):
    """The copies one after another, in a list that is stacked for the networks."""

    channels_last = False
    compiled = False

    def begin_scale(self, scale: Scale, images: int) -> None:
        """Prepare the networks of a scale as the options say."""
        if self.compiled:
            torch.compiler.reset()  # what was compiled for the scale before is needed no longer
        for network in (scale.discriminator, scale.generator):
            if self.channels_last:
                network.to(memory_format=torch.channels_last)
            if self.compiled:
                network.compile()

    def copies(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The M copies, one after another."""
        copies = []
        for transformation in self.transformations:
            copies.append(transformation.apply(images, self.config.translation))
        return copies

    def real_loss(self, discriminator: Discriminator, copies: list[torch.Tensor]) -> torch.Tensor:
        """D's loss for naming the transformations of a stack of copies."""
        logits = discriminator(torch.cat(copies))
        classes = torch.arange(len(copies), device=logits.device)
        labels = classes.repeat_interleave(len(copies[0])).view(-1, 1, 1)
        return F.cross_entropy(logits, labels.expand(-1, *logits.shape[-2:]))

    def generated_loss(
        self, discriminator: Discriminator, copies: list[torch.Tensor]
    ) -> torch.Tensor:
        """D's loss for calling a stack of copies generated."""
        logits = discriminator(torch.cat(copies))
        labels = torch.full_like(logits[:, 0], len(copies), dtype=torch.long)
        return F.cross_entropy(logits, labels)


class StraightforwardTraining(ScaleTraining):
    """Training of one scale the straightforward way, with a ``StraightforwardBackend``."""

    def draw_previous(self, count: int) -> torch.Tensor:
        """Random images through the frozen scales, one after another: (count, K, 3, H, H)."""
        drawn = []
        with torch.no_grad():
            for _ in range(count):
                images = generate(self.coarser, random_noise(self.index, self.rng), self.index)
                drawn.append(upsampled(images, self.scale.side, self.real))
        return torch.stack(drawn)

    def d_step(self, noise: torch.Tensor, previous: torch.Tensor | None) -> Losses:
        """A step of D, transforming the real images anew."""
        self.real_copies = [self.backend.copies(self.real)]
        return super().d_step(noise, previous)


def start_straightforward(
    config: HTDGConfig,
    transformations: Sequence[Transformation],
    coarser: Sequence[Scale],
    real: torch.Tensor,
    channels_last: bool = False,
    compiled: bool = False,
) -> StraightforwardTraining:
    """``htdg.training.start_scale``, the straightforward way."""
    backend = StraightforwardBackend(config, transformations, real.device)
    backend.channels_last, backend.compiled = channels_last, compiled
    started = start_scale(config, transformations, coarser, real, backend)
    return StraightforwardTraining(config, backend, coarser, started.scale, real, started.rng)


def score(scale: Scale, transformations: list, translation: str, image: torch.Tensor) -> float:
    """The normality in [0, M] of one image (1, 3, H, H) at one scale."""
    copies = [t.apply(image, translation) for t in transformations]
    logits = scale.discriminator(torch.cat(copies))  # (M, M + 1, h, w)
    total = 0.0
    for m in range(len(transformations)):
        total += float(logits[m, :-1].softmax(0)[m].mean())
    return total


def main() -> None:
    """Time it in a process of its own, with the memory allocator as it is by default."""
    from benchmarks.measure import iteration_seconds, scoring_ms

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("preset")
    parser.add_argument("translation")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--images", type=int, default=3, help="to score; none with 0")
    parser.add_argument("--memory-kept", action="store_true", help="with our allocator's setting")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compiled", action="store_true", help="with torch.compile")
    options = parser.parse_args()
    if options.memory_kept:
        keep_freed_memory()
    config = HTDGConfig.preset(
        options.preset, translation=options.translation, fast=False, precision="float32"
    )
    device = resolve_device("cpu")
    start = partial(
        start_straightforward, channels_last=options.channels_last, compiled=options.compiled
    )
    times = {"iteration_s": iteration_seconds(config, device, options.repeats, start)}
    if options.images:
        times["scoring_ms"] = scoring_ms(config, device, options.images, straightforward=score)
    print(json.dumps(times))


if __name__ == "__main__":
    main()
