"""Training one scale: generator and discriminator against each other on one pyramid level.

Paper section 3.2 and supplementary material. The discriminator learns to say of every patch
through which transformation it went, or that it is generated (a D step); the generator learns
patches that pass for real ones under every transformation, and to give the training images back
for the fixed noise z* (a G step). An iteration is three steps of each; ``niter`` of them train a
scale, and the next finer scale starts from its weights.

How copies, losses and optimisers are computed is the backend's affair (``htdg.backend``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch.nn import functional as F

from htdg.backend import Backend, Losses, PlainBackend
from htdg.config import HTDGConfig
from htdg.losses import generated_loss as generated_loss
from htdg.losses import real_loss as real_loss
from htdg.networks import initialise
from htdg.sampling import (
    Scale,
    empty_scale,
    generate,
    noise_amplitudes,
    random_noise,
    reconstruction_noise,
    upsampled,
)
from htdg.sampling import freeze as freeze
from htdg.transformations import Transformation

#: What a scale's history records at every iteration (the last of its D and G steps).
LOSSES = ("d_real", "d_fake", "g_adversarial", "g_reconstruction")


@dataclass
class ScaleTraining:
    """Scale n in training: its networks, what stays fixed meanwhile, and its two kinds of steps.

    With ``config.images_at_once`` fewer than the training images, these go through the networks in
    chunks, whose losses, weighted by their share of the images, add up to the step's. What differs
    from all at once is batch normalisation, which takes the statistics of each chunk by itself, as
    it does on each device in the official code's data parallelism.

    Attributes:
        config: the options.
        backend: does the arithmetic.
        coarser: the trained scales below, frozen.
        scale: the scale in training: G^n, D^n, z*, sigma_n.
        real: (K, 3, H, H) the training images at this scale [x^n].
        rng: the only source of noise.
        iteration: how many iterations are done.
        history: the losses of each iteration by name (``LOSSES``), (niter,) on the device.
    """

    config: HTDGConfig
    backend: Backend
    coarser: Sequence[Scale]
    scale: Scale
    real: torch.Tensor
    rng: torch.Generator
    iteration: int = 0
    history: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Create the optimisers and everything that stays constant during the scale."""
        config, backend, scale = self.config, self.backend, self.scale
        backend.begin_scale(scale)
        self.adam_d = backend.optimiser(scale.discriminator.parameters(), config.lr_d)
        self.adam_g = backend.optimiser(scale.generator.parameters(), config.lr_g)
        self.index = torch.arange(len(self.real), device=self.real.device)  # (K,)
        self.chunks = chunks_of(len(self.real), config.images_at_once)
        self.real_copies = [backend.copies(self.real[chunk]) for chunk in self.chunks]
        self.chain = [replace(s, generator=backend.generator(s.generator)) for s in self.coarser]
        self.generator = backend.generator(scale.generator)
        with torch.no_grad():
            rebuilt = generate(self.chain, reconstruction_noise(self.chain), self.index)
        self.rec_previous = upsampled(rebuilt, scale.side, self.real)  # (K, 3, H, H)
        self.rec_noise = self.amplified(scale.z_star.expand(-1, 3, -1, -1))
        if not self.history:
            # On the device, so that no iteration waits to hand its losses over.
            blank = torch.zeros(config.niter, device=self.real.device)
            names = LOSSES if config.method != "no_generator" else LOSSES[:1]
            self.history = {name: blank.clone() for name in names}

    # --- Noise and the coarser scales' images -----------------------------------------------------

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

    # --- Steps ------------------------------------------------------------------------------------

    def d_step(self, noise: torch.Tensor, previous: torch.Tensor | None) -> Losses:
        """One step of D: name the transformations of real patches, and recognise generated ones.

        Args:
            noise: (K, 3, H, H), sigma_n * z.
            previous: (K, 3, H, H), the coarser scales' image; None leaves the generated patches out
                (the ablation without a generator).
        """
        d = self.scale.discriminator.requires_grad_(True)
        self.adam_d.zero_grad()
        losses = []
        for chunk, copies in zip(self.chunks, self.real_copies, strict=True):
            # The sum of both losses is minimised. Each has a forward pass of its own, so that
            # BatchNorm sees generated patches apart from real ones, and gradients add up.
            with self.backend.autocast():
                on_real = self.backend.real_loss(d, copies) * self.share(chunk)
            on_real.backward()
            losses.append({"d_real": on_real.detach()})
            if previous is None:
                continue
            with torch.no_grad(), self.backend.autocast():
                fake = self.generator(noise[chunk], previous[chunk], self.index[chunk])
            with self.backend.autocast():
                fake_copies = self.backend.copies(fake)
                on_fake = self.backend.generated_loss(d, fake_copies) * self.share(chunk)
            on_fake.backward()
            losses[-1]["d_fake"] = on_fake.detach()
        self.adam_d.step()
        return summed(losses)

    def g_step(self, noise: torch.Tensor, previous: torch.Tensor) -> Losses:
        """One step of G: pass for real under every T_m, and rebuild the training images from z*.

        D stays in training mode (batch statistics, as when it learnt) but its weights are fixed.
        """
        d = self.scale.discriminator.requires_grad_(False)
        self.adam_g.zero_grad()
        losses = []
        for chunk in self.chunks:
            index = self.index[chunk]
            with self.backend.autocast():
                fake = self.generator(noise[chunk], previous[chunk], index)  # (k, 3, H, H)
                fake_copies = self.backend.copies(fake)
                adversarial = self.backend.real_loss(d, fake_copies) * self.share(chunk)
                rebuilt = self.generator(self.rec_noise[chunk], self.rec_previous[chunk], index)
                reconstruction = F.mse_loss(rebuilt, self.real[chunk]) * self.share(chunk)
            (adversarial + self.config.alpha * reconstruction).backward()
            named = {"g_adversarial": adversarial, "g_reconstruction": reconstruction}
            losses.append({name: loss.detach() for name, loss in named.items()})
        self.adam_g.step()
        d.requires_grad_(True)
        return summed(losses)

    def share(self, chunk: slice) -> float:
        """Which part of the training images a chunk is."""
        return (chunk.stop - chunk.start) / len(self.real)

    # --- An iteration -----------------------------------------------------------------------------

    def step(self) -> None:
        """One iteration: the D steps, then the G steps, which reuse the last ``previous``."""
        lr_d, lr_g = learning_rates(self.config, self.iteration)
        self.adam_d.param_groups[0]["lr"] = lr_d
        self.adam_g.param_groups[0]["lr"] = lr_g
        losses: Losses = {}
        noise = self.draw_noise()  # once for all the steps
        if self.config.method == "no_generator":
            for _ in range(self.config.d_steps):
                losses |= self.backend.run(self.d_step, noise, None)
        else:
            previous = self.draw_previous(self.config.d_steps)  # (d_steps, K, 3, H, H)
            for i in range(self.config.d_steps):
                losses |= self.backend.run(self.d_step, noise, previous[i])
            for _ in range(self.config.g_steps):
                losses |= self.backend.run(self.g_step, noise, previous[-1])
        for name, value in losses.items():
            self.history[name][self.iteration] = value
        self.iteration += 1


def summed(losses: Sequence[Losses]) -> Losses:
    """The chunks' shares of each loss, added."""
    return {name: torch.stack([chunk[name] for chunk in losses]).sum() for name in losses[0]}


def chunks_of(count: int, at_once: int) -> list[slice]:
    """0 .. count - 1 in as few parts of at most ``at_once`` as possible, all about as long.

    ``at_once`` 0 is all in one.
    """
    parts = 1 if at_once == 0 else -(-count // at_once)
    ends = [count * i // parts for i in range(parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(ends)]


def learning_rates(config: HTDGConfig, iteration: int) -> tuple[float, float]:
    """Learning rates of D and G at an iteration, counted from 0: gamma times as large later on."""
    lr_d = config.lr_d if iteration < config.milestone_d else config.lr_d * config.gamma
    lr_g = config.lr_g if iteration < config.milestone_g else config.lr_g * config.gamma
    return lr_d, lr_g


# --- A scale from its start to its end --------------------------------------------------------


def start_scale(
    config: HTDGConfig,
    transformations: Sequence[Transformation],
    coarser: Sequence[Scale],
    real: torch.Tensor,
    backend: Backend | None = None,
) -> ScaleTraining:
    """Set up the training of the next scale on the images (K, 3, H, H) [x^n].

    Weights start from the coarser scale's where the widths agree, else afresh. Every scale has a
    random stream of its own, so that it can be trained again without those below. Without a
    ``backend`` the plain one does the arithmetic.
    """
    n, side = len(coarser), real.shape[-1]
    seeds = torch.Generator().manual_seed(config.seed * 1_000 + n)
    scale = empty_scale(config, n, side, len(transformations), len(real))
    initialise(scale.generator, seeds)
    initialise(scale.discriminator, seeds)
    if coarser and config.width(n) == config.width(n - 1):
        scale.generator.load_state_dict(coarser[-1].generator.state_dict())
        scale.discriminator.load_state_dict(coarser[-1].discriminator.state_dict())
    scale.z_star = torch.randn(1, 1, side, side, generator=seeds)
    scale.sigma = noise_amplitudes(config, coarser, real)
    scale = scale.to(real.device)
    rng = torch.Generator(real.device).manual_seed(int(torch.randint(2**62, (), generator=seeds)))
    backend = backend or PlainBackend(config, transformations, real.device)
    return ScaleTraining(config, backend, coarser, scale, real, rng)


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
        per_iteration = seconds / (training.iteration - done_before)
        to_do = config.niter - training.iteration + config.niter * sum(cost[n + 1 :]) / cost[n]
        where = (n, len(sides), sides[n], training.iteration, config.niter)
        callback(TrainingProgress(*where, training, seconds, per_iteration * to_do))
    return time.perf_counter() - started
