"""Training: generator and discriminator against each other, one scale of the pyramid after another.

Paper section 3.2 and supplementary material. At scale n, with T_m the transformations, x the
training images and G(z) generated ones::

    D step: minimise  CE(D(T_m x), m) + CE(D(T_m G(z)), "generated")
    G step: minimise  CE(D(T_m G(z)), m) + alpha * |G(z*) - x|^2

D learns to say of every patch through which transformation it went, or that it is generated. G
learns patches that pass for real ones under every transformation, and to give the training images
back for the fixed noise z*. An iteration is three steps of each; ``niter`` of them train a scale,
which is then frozen, and the next finer one starts from its weights (``train_pyramid``).

How copies, losses and optimisers are computed is up to the backend (``htdg.backend``). Rules that
are the official implementation's, not the paper's, are marked "official".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch.nn import functional as F

from htdg.backend import Backend, Losses, PlainBackend
from htdg.config import HTDGConfig
from htdg.losses import generated_loss as generated_loss  # notebooks take them from here
from htdg.losses import real_loss as real_loss
from htdg.networks import initialise
from htdg.pyramid import build_pyramid
from htdg.sampling import (
    Scale,
    empty_scale,
    freeze,
    generate,
    noise_amplitudes,
    random_noise,
    reconstruction_noise,
    upsampled,
)
from htdg.transformations import Transformation

#: What a scale's history records at every iteration (the last of its D and G steps).
LOSSES = ("d_real", "d_fake", "g_adversarial", "g_reconstruction")


@dataclass
class ScaleTraining:
    """Scale n in training: its networks, what stays fixed meanwhile, and its two kinds of steps.

    Batch normalisation: D and G train with the statistics of each batch. Their running statistics,
    which alone count once a scale is frozen, are updated by *every* pass (official): D's by real
    and generated batches in D steps and by generated ones in G steps, G's also where its output
    only feeds D. So a frozen G rebuilds the training images a little differently from how it did
    in training.

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
    history: dict[str, torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        """Create the optimisers and everything that stays constant during the scale."""
        config, backend, scale = self.config, self.backend, self.scale
        self.chunks = chunks_of(len(self.real), config.images_at_once)
        backend.begin_scale(scale, max(c.stop - c.start for c in self.chunks))
        self.adam_d = backend.optimiser(scale.discriminator.parameters(), config.lr_d)
        self.adam_g = backend.optimiser(scale.generator.parameters(), config.lr_g)
        self.index = torch.arange(len(self.real), device=self.real.device)  # (K,)
        self.shares = [(c.stop - c.start) / len(self.real) for c in self.chunks]  # of the images
        self.real_copies = [backend.copies(self.real[chunk]) for chunk in self.chunks]
        self.chain = [replace(s, generator=backend.generator(s.generator)) for s in self.coarser]
        self.generator = backend.generator(scale.generator)
        with torch.no_grad():
            rebuilt = generate(self.chain, reconstruction_noise(self.chain), self.index)
        self.rec_previous = upsampled(rebuilt, scale.side, self.real)  # (K, 3, H, H)
        self.rec_noise = self.amplified(scale.z_star.expand(-1, 3, -1, -1))
        names = LOSSES if config.method != "no_generator" else LOSSES[:1]
        # Kept on the device, so that no iteration has to wait for it.
        blank = torch.zeros(config.niter, device=self.real.device)
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
        for chunk, share, copies in zip(self.chunks, self.shares, self.real_copies, strict=True):
            # The sum of both losses is minimised. Each has a forward pass of its own, so that
            # BatchNorm sees generated patches apart from real ones, and gradients add up.
            with self.backend.autocast():
                on_real = self.backend.real_loss(d, copies) * share
            on_real.backward()
            losses.append({"d_real": on_real.detach()})
            if previous is None:
                continue
            with torch.no_grad(), self.backend.autocast():
                fake = self.generator(noise[chunk], previous[chunk], self.index[chunk])
            with self.backend.autocast():
                fake_copies = self.backend.copies(fake)
                on_fake = self.backend.generated_loss(d, fake_copies) * share
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
        for chunk, share in zip(self.chunks, self.shares, strict=True):
            index = self.index[chunk]
            with self.backend.autocast():
                fake = self.generator(noise[chunk], previous[chunk], index)  # (k, 3, H, H)
                fake_copies = self.backend.copies(fake)
                adversarial = self.backend.real_loss(d, fake_copies) * share
                rebuilt = self.generator(self.rec_noise[chunk], self.rec_previous[chunk], index)
                reconstruction = F.mse_loss(rebuilt, self.real[chunk]) * share
            (adversarial + self.config.alpha * reconstruction).backward()
            named = {"g_adversarial": adversarial, "g_reconstruction": reconstruction}
            losses.append({name: loss.detach() for name, loss in named.items()})
        self.adam_g.step()
        d.requires_grad_(True)
        return summed(losses)

    # --- An iteration -----------------------------------------------------------------------------

    def step(self) -> None:
        """One iteration: the D steps, then the G steps.

        Noise is drawn once for all steps, ``previous`` anew for every D step; the G steps reuse the
        last one (official).
        """
        lr_d, lr_g = learning_rates(self.config, self.iteration)
        self.adam_d.param_groups[0]["lr"] = lr_d
        self.adam_g.param_groups[0]["lr"] = lr_g
        losses: Losses = {}
        noise = self.draw_noise()
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
    """0 .. count - 1 in as few parts of at most ``at_once`` as possible, of nearly equal length.

    0 is all at once; ``htdg.fitting`` replaces it by what fits into memory.
    """
    parts = 1 if at_once == 0 else -(-count // at_once)
    ends = [count * i // parts for i in range(parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(ends)]


def learning_rates(config: HTDGConfig, iteration: int) -> tuple[float, float]:
    """Learning rates of D and G at an iteration, counted from 0.

    From its milestone on, each is multiplied by gamma. With the paper's ``niter`` only D's for RGB
    data ever is (official).
    """
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

    Weights start from the coarser scale's where the widths agree; otherwise they are freshly
    initialised. Every scale has a random stream of its own, so that it can be trained again without
    the coarser ones. Without a ``backend`` the plain one does the arithmetic.
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


def train_scale(
    training: ScaleTraining, after_iteration: Callable[[], object] | None = None
) -> None:
    """Run the remaining iterations of a scale."""
    while training.iteration < training.config.niter:
        training.step()
        if after_iteration is not None:
            after_iteration()


def train_pyramid(
    config: HTDGConfig,
    transformations: Sequence[Transformation],
    images: torch.Tensor,
    sides: Sequence[int],
    backend: Backend,
    train: Callable[[ScaleTraining], object] = train_scale,
) -> list[Scale]:
    """All scales, coarsest first; each is frozen before the next one starts (paper section 3.2).

    Args:
        config: the options.
        transformations: T_1 .. T_M.
        images: (K, 3, s, s) the training images in [-1, 1], on the device that trains.
        sides: of the scales, pixels.
        backend: does the arithmetic.
        train: trains one scale, by default from its start to its end.
    """
    scales: list[Scale] = []
    for real in build_pyramid(images, sides):  # x^0 .. x^N
        training = start_scale(config, transformations, tuple(scales), real, backend)
        train(training)
        scales.append(freeze(training.scale))
    return scales
