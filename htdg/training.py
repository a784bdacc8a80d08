"""Training one scale: generator and discriminator against each other on one pyramid level.

Paper section 3.2 and supplementary material. The discriminator learns to say of every patch
through which transformation it went, or that it is generated; the generator learns patches that
pass for real ones under every transformation, and to give the training image back for z*.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch.nn import functional as F

from htdg.adam import Adam
from htdg.config import HTDGConfig
from htdg.fast import losses as coverage
from htdg.fast.batch_norm import run_normalised
from htdg.fast.canvases import canvas_plan
from htdg.fast.cuda_graphs import Recordings, recordable
from htdg.fast.folding import folded_generator
from htdg.networks import Discriminator, Generator, initialise
from htdg.sampling import Scale, generate, random_noise, reconstruction_noise, upsampled
from htdg.transformations import Transformation, transform_all

#: (M, B, 3, H, H), or the canvases that hold the copies: (B * G, 3, h, w) for each shape.
Copies = torch.Tensor | Sequence[torch.Tensor]
#: What a scale's history records at every iteration (the last of its D and G steps).
LOSSES = ("d_real", "d_fake", "g_adversarial", "g_reconstruction")


# --- The losses ---------------------------------------------------------------------------------


def real_loss(discriminator: Discriminator, copies: torch.Tensor) -> torch.Tensor:
    """-log p(m | patch of T_m(x)), averaged over m, images and patches.

    Args:
        discriminator: D.
        copies: (M, B, 3, H, W), row m holding the images under T_m. D learns from real images
            with it, and G from generated ones: it wants them named as if they were real.

    A D with a single class for everything real is asked for that one.
    """
    logits = discriminator(copies.flatten(0, 1))  # (M * B, M + 1, h, w)
    true = torch.arange(len(copies), device=copies.device).repeat_interleave(copies.shape[1])
    true = true % (logits.shape[1] - 1)
    return F.cross_entropy(logits, true.view(-1, 1, 1).expand(-1, *logits.shape[-2:]))


def generated_loss(discriminator: Discriminator, copies: torch.Tensor) -> torch.Tensor:
    """-log p(generated | patch of T_m(G(z))), averaged likewise; ``copies`` (M, B, 3, H, W)."""
    logits = discriminator(copies.flatten(0, 1))  # (M * B, M + 1, h, w)
    last = logits.shape[1] - 1
    true = logits.new_full((len(logits), *logits.shape[-2:]), last, dtype=torch.long)
    return F.cross_entropy(logits, true)


# --- One scale in training ----------------------------------------------------------------------


@dataclass
class ScaleTraining:
    """Everything that training scale n needs, and its two kinds of steps.

    With ``config.fast`` D sees the copies as windows of shared canvases (``htdg.fast.canvases``) and the
    frozen generators have their normalisation folded in (``htdg.fast.folding``): the same numbers but
    for rounding.

    With ``config.images_at_once`` fewer than the training images, these go through the networks in
    chunks, whose losses, weighted by their share of the images, add up to the step's. What differs
    from all at once is batch normalisation, which takes the statistics of each chunk by itself, as
    it does on each device in the official code's data parallelism.

    Attributes:
        config: the options.
        transformations: T_1 .. T_M.
        coarser: the trained scales below, frozen, in evaluation mode.
        scale: the scale in training.
        real: (K, 3, H, H) the training images at this scale [x^n].
        rng: the only source of noise.
    """

    config: HTDGConfig
    transformations: Sequence[Transformation]
    coarser: Sequence[Scale]
    scale: Scale
    real: torch.Tensor
    rng: torch.Generator
    iteration: int = 0
    history: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Create optimisers and everything that stays constant during the scale."""
        config, scale = self.config, self.scale
        betas = (config.beta1, config.beta2)
        how = {"fused": config.fast and self.real.device.type in ("cpu", "cuda")}
        self.recordings = None
        if config.fast and recordable(self.real.device):
            self.recordings = Recordings(self.real.device)
            how["capturable"] = True
        self.adam_d = Adam(scale.discriminator.parameters(), config.lr_d, betas, **how)
        self.adam_g = Adam(scale.generator.parameters(), config.lr_g, betas, **how)
        self.index = torch.arange(len(self.real), device=self.real.device)  # (K,)
        self.chunks = chunks_of(len(self.real), config.images_at_once)
        self.plan, self.chain = None, self.coarser
        if config.fast:
            shapes = (scale.side, config.translation, config.layers, self.real.device)
            together = max(chunk.stop - chunk.start for chunk in self.chunks)
            self.plan = canvas_plan(tuple(self.transformations), *shapes, together)
            self.chain = [folded_generator(frozen) for frozen in self.coarser]
            for network in (scale.discriminator, scale.generator):
                network.to(memory_format=torch.channels_last)
        self.real_copies = self.transformed(self.real)  # (M, K, 3, H, H), or canvases of them
        with torch.no_grad():
            rebuilt = generate(self.chain, reconstruction_noise(self.chain), self.index)
        self.rec_previous = upsampled(rebuilt, scale.side, self.real)  # (K, 3, H, H)
        self.rec_noise = self.amplified(scale.z_star.expand(-1, 3, -1, -1))
        if not self.history:
            # On the device, so that no iteration waits to hand its losses over.
            blank = torch.zeros(config.niter, device=self.real.device)
            names = LOSSES if config.method != "no_generator" else LOSSES[:1]
            self.history = {name: blank.clone() for name in names}

    def transformed(self, images: torch.Tensor) -> Copies:
        """All copies of images (B, 3, H, H): (M, B, 3, H, H), or the canvases that hold them."""
        # Not under autocast: D could tell real and generated copies apart by their rounding.
        with torch.autocast(images.device.type, enabled=False):
            return self._transformed(images)

    def _transformed(self, images: torch.Tensor) -> Copies:
        if self.plan is not None:
            return self.plan.draw(images)
        return transform_all(images, self.transformations, self.config.translation)

    def real_loss(self, copies: Copies) -> torch.Tensor:
        """How badly D names the transformations of ``copies``: see the function of this name."""
        if self.plan is not None:
            return coverage.real_loss(self.scale.discriminator, copies, self.plan)
        return real_loss(self.scale.discriminator, copies)

    def generated_loss(self, copies: Copies) -> torch.Tensor:
        """How badly D tells that ``copies`` are generated: see the function of this name."""
        if self.plan is not None:
            return coverage.generated_loss(self.scale.discriminator, copies, self.plan)
        return generated_loss(self.scale.discriminator, copies)

    def real_copies_of(self, chunk: slice) -> Copies:
        """The part of ``real_copies`` that belongs to a chunk of the training images."""
        if isinstance(self.real_copies, torch.Tensor):
            return self.real_copies[:, chunk]
        each = [len(sheet) // len(self.real) for sheet in self.real_copies]  # canvases an image
        return [
            sheet[chunk.start * n : chunk.stop * n]
            for sheet, n in zip(self.real_copies, each, strict=True)
        ]

    def share(self, chunk: slice) -> float:
        """Which part of the training images a chunk is."""
        return (chunk.stop - chunk.start) / len(self.real)

    def amplified(self, noise: torch.Tensor) -> torch.Tensor:
        """sigma_n * z for each training image: (K or 1, 3, H, H) -> (K, 3, H, H)."""
        return self.scale.sigma.view(-1, 1, 1, 1) * noise

    def draw_noise(self) -> torch.Tensor:
        """sigma_n * z with fresh z, (K, 3, H, H)."""
        z = random_noise(self.index, self.rng)(len(self.coarser), self.scale.side)
        return self.amplified(z)

    @torch.no_grad()
    def draw_previous(self, count: int) -> torch.Tensor:
        """Fresh random images through the frozen scales, upsampled to this one.

        (count, K, 3, H, H), all drawn in one batch: frozen generators treat each image by itself.
        """
        index = self.index.repeat(count)
        images = generate(self.chain, random_noise(index, self.rng), index)
        like = self.real.expand(count, *self.real.shape).flatten(0, 1)
        return upsampled(images, self.scale.side, like).unflatten(0, (count, -1))

    def generated(
        self, noise: torch.Tensor, previous: torch.Tensor, index: torch.Tensor
    ) -> torch.Tensor:
        """What G in training makes of them: (B, 3, H, H)."""
        g, body = self.scale.generator, None
        if self.config.fast and noise.device.type == "cpu":
            body = partial(run_normalised, g)
        return g(noise, previous, index, body)

    def d_step(self, noise: torch.Tensor, previous: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """One step of D: name the transformation of real patches, and the generated ones.

        ``previous`` None leaves the generated ones out (the ablation without a generator).
        """
        self.adam_d.zero_grad()
        losses: list[dict[str, torch.Tensor]] = []
        for chunk in self.chunks:
            # The sum of both losses is minimised. Each has a forward pass of its own, so that
            # BatchNorm sees generated patches apart from real ones, and gradients add up.
            with self.autocast():
                on_real = self.real_loss(self.real_copies_of(chunk)) * self.share(chunk)
            on_real.backward()
            losses.append({"d_real": on_real.detach()})
            if previous is None:
                continue
            with torch.no_grad(), self.autocast():
                fake = self.generated(noise[chunk], previous[chunk], self.index[chunk])
            with self.autocast():
                on_fake = self.generated_loss(self.transformed(fake)) * self.share(chunk)
            on_fake.backward()
            losses[-1]["d_fake"] = on_fake.detach()
        self.adam_d.step()
        return _summed(losses)

    def g_step(self, noise: torch.Tensor, previous: torch.Tensor) -> dict[str, torch.Tensor]:
        """One step of G: pass for real under every T_m, and rebuild the training images from z*.

        D stays in training mode (batch statistics, as when it learnt) but its weights are fixed.
        """
        d = self.scale.discriminator
        d.requires_grad_(False)
        try:
            return self._g_step(noise, previous)
        finally:
            d.requires_grad_(True)

    def _g_step(self, noise: torch.Tensor, previous: torch.Tensor) -> dict[str, torch.Tensor]:
        self.adam_g.zero_grad()
        losses: list[dict[str, torch.Tensor]] = []
        for chunk in self.chunks:
            index, share = self.index[chunk], self.share(chunk)
            with self.autocast():
                fake = self.generated(noise[chunk], previous[chunk], index)  # (k, 3, H, H)
                adversarial = self.real_loss(self.transformed(fake)) * share
                rebuilt = self.generated(self.rec_noise[chunk], self.rec_previous[chunk], index)
                reconstruction = F.mse_loss(rebuilt, self.real[chunk]) * share
            (adversarial + self.config.alpha * reconstruction).backward()
            losses.append(
                {
                    "g_adversarial": adversarial.detach(),
                    "g_reconstruction": reconstruction.detach(),
                }
            )
        self.adam_g.step()
        return _summed(losses)

    def step(self) -> None:
        """One iteration: the D steps, then the G steps, which reuse the last ``previous``."""
        lr_d, lr_g = learning_rates(self.config, self.iteration)
        self.adam_d.param_groups[0]["lr"] = lr_d
        self.adam_g.param_groups[0]["lr"] = lr_g
        losses: dict[str, torch.Tensor] = {}
        noise = self.draw_noise()  # once for all the steps
        if self.config.method == "no_generator":
            for _ in range(self.config.d_steps):
                losses |= self._run("d", noise, None)
        else:
            previous = self.draw_previous(self.config.d_steps)  # (d_steps, K, 3, H, H)
            for step in range(self.config.d_steps):
                losses |= self._run("d", noise, previous[step])
            for _ in range(self.config.g_steps):
                losses |= self._run("g", noise, previous[-1])
        for name, value in losses.items():
            self.history[name][self.iteration] = value
        self.iteration += 1

    def _run(
        self, kind: str, noise: torch.Tensor, previous: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """A step of D ("d") or G ("g"), on a GPU from its recording."""
        step, adam = {"d": (self.d_step, self.adam_d), "g": (self.g_step, self.adam_g)}[kind]
        if self.recordings is None:
            return step(noise, previous)
        rate = adam.param_groups[0]["lr"]
        return self.recordings.run(kind, step, noise, previous, partial(self._changing, adam), rate)

    def _changing(self, adam: Adam) -> list[list[torch.Tensor]]:
        """What a step changes: an optimiser's weights and moments, and running statistics.

        In groups of what changes by amounts of one kind.
        """
        networks = (self.scale.discriminator, self.scale.generator)
        named = [pair for network in networks for pair in network.named_buffers()]
        kinds = ("running_mean", "running_var", "num_batches_tracked")
        moments = adam.state.values()
        return [
            adam.param_groups[0]["params"],
            *([buffer for name, buffer in named if name.endswith(kind)] for kind in kinds),
            *([state[key] for state in moments] for key in ("exp_avg", "exp_avg_sq", "step")),
        ]

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision of a forward pass. Entered anew after each step: it caches weights."""
        return autocast(self.real.device, self.config.precision)


def chunks_of(count: int, at_once: int) -> list[slice]:
    """0 .. count - 1 in as few parts of at most ``at_once`` as possible, all about as long.

    ``at_once`` 0 is all in one.
    """
    parts = 1 if at_once == 0 else -(-count // at_once)
    ends = [count * i // parts for i in range(parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(ends)]


def _summed(losses: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The chunks' shares of each loss, added."""
    return {name: sum(chunk[name] for chunk in losses) for name in losses[0]}


def learning_rates(config: HTDGConfig, iteration: int) -> tuple[float, float]:
    """Learning rates of D and G at an iteration, counted from 0: gamma times as large later on."""
    lr_d = config.lr_d if iteration < config.milestone_d else config.lr_d * config.gamma
    lr_g = config.lr_g if iteration < config.milestone_g else config.lr_g * config.gamma
    return lr_d, lr_g


def real_classes(config: HTDGConfig, transformations: Sequence[Transformation]) -> int:
    """How many classes D has for real patches: M, or one if it only names what is generated."""
    return 1 if config.method == "real_or_generated" else len(transformations)


def start_scale(
    config: HTDGConfig,
    transformations: Sequence[Transformation],
    coarser: Sequence[Scale],
    real: torch.Tensor,
) -> ScaleTraining:
    """Set up the training of the next scale on the images (K, 3, H, H) [x^n].

    Weights start from the coarser scale's where the widths agree, else afresh. Every scale has a
    random stream of its own, so that it can be trained again without those below.
    """
    n, side = len(coarser), real.shape[-1]
    seeds = torch.Generator().manual_seed(config.seed * 1_000 + n)
    generator = Generator(config.width(n), config.layers)
    classes = real_classes(config, transformations)
    discriminator = Discriminator(config.width(n), classes, config.layers)
    initialise(generator, seeds)
    initialise(discriminator, seeds)
    if coarser and config.width(n) == config.width(n - 1):
        generator.load_state_dict(coarser[-1].generator.state_dict())
        discriminator.load_state_dict(coarser[-1].discriminator.state_dict())
    z_star = torch.randn(1, 1, side, side, generator=seeds)
    scale = Scale(
        side=side,
        generator=generator.to(real.device).train(),
        discriminator=discriminator.to(real.device).train(),
        z_star=z_star.to(real.device),
        sigma=noise_amplitudes(config, coarser, real),
    )
    rng = torch.Generator(real.device).manual_seed(int(torch.randint(2**62, (), generator=seeds)))
    return ScaleTraining(config, transformations, coarser, scale, real, rng)


def noise_amplitudes(
    config: HTDGConfig, coarser: Sequence[Scale], real: torch.Tensor
) -> torch.Tensor:
    """sigma_n (K,): 1 at scale 0, above it relative to what the reconstruction still misses.

    Also 1 where nothing is generated.
    """
    if not coarser or config.method == "no_generator":
        return real.new_ones(len(real))
    index = torch.arange(len(real), device=real.device)
    with torch.no_grad():
        rebuilt = generate(coarser, reconstruction_noise(coarser), index)
        missing = (real - upsampled(rebuilt, real.shape[-1], real)).abs().mean((1, 2, 3))
    return config.noise_amplitude * missing


def freeze(scale: Scale) -> Scale:
    """The scale in evaluation mode with fixed weights, ready for the finer ones."""
    for network in (scale.generator, scale.discriminator):
        network.eval().requires_grad_(False)
    return scale


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 for the convolutions where ``precision`` asks for it; weights stay float32."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


# --- All scales ---------------------------------------------------------------------------------


@dataclass
class TrainingProgress:
    """Handed to the callback after every iteration.

    Attributes:
        scale: number of the scale in training, 0 is the coarsest.
        n_scales: how many there are.
        side: its side in pixels.
        iteration: how many iterations of it are done, 1 .. niter.
        niter: how many it will have.
        training: the scale in training, for those who want to look inside (samples, weights).
        seconds: spent on this scale so far.
        seconds_left: estimate for the whole rest, from the patches still to be seen.
    """

    scale: int
    n_scales: int
    side: int
    iteration: int
    niter: int
    training: ScaleTraining
    seconds: float
    seconds_left: float

    def losses(self) -> dict[str, float]:
        """The losses (``LOSSES``) of the iteration just done; reading them waits for the device."""
        return {k: float(v[self.iteration - 1]) for k, v in self.training.history.items()}


TrainingCallback = Callable[[TrainingProgress], None]


def train_scale(
    training: ScaleTraining, sides: Sequence[int], callback: TrainingCallback | None
) -> float:
    """Run the remaining iterations of a scale; returns the seconds they took."""
    config, n = training.config, len(training.coarser)
    started, done_before = time.perf_counter(), training.iteration
    cost = [side**2 * config.width(i) ** 2 for i, side in enumerate(sides)]
    while training.iteration < config.niter:
        training.step()
        if callback is None:
            continue
        seconds = time.perf_counter() - started
        each = seconds / (training.iteration - done_before)
        to_do = config.niter - training.iteration + config.niter * sum(cost[n + 1 :]) / cost[n]
        callback(
            TrainingProgress(
                scale=n,
                n_scales=len(sides),
                side=sides[n],
                iteration=training.iteration,
                niter=config.niter,
                training=training,
                seconds=seconds,
                seconds_left=each * to_do,
            )
        )
    training.recordings = None  # their memory is for the next scale
    return time.perf_counter() - started
