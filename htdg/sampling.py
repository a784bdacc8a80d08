"""Sampling: noise through the generators, coarsest scale first.

Paper section 3.1: the coarsest generator turns noise into a rough image, and every finer one adds
the detail of its own scale to the upsampled image of the one before. With fresh noise the result
is a new arrangement of the training image's patches; with the fixed noise z* it is the training
image itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from htdg.config import HTDGConfig
from htdg.networks import Discriminator, Generator
from htdg.pyramid import Size, height_and_width, resize


@dataclass
class Scale:
    """What a trained scale n consists of.

    Attributes:
        side: side of its images in pixels.
        generator: G^n.
        discriminator: D^n.
        z_star: (1, 1, side, side), the fixed noise of the reconstruction [z*].
        sigma: (K,), the amplitude of the noise for each training image [sigma_n].
    """

    side: int
    generator: Generator
    discriminator: Discriminator
    z_star: torch.Tensor
    sigma: torch.Tensor

    def to(self, device: torch.device) -> Scale:
        """The same scale on another device (its networks are moved, not copied)."""
        networks = self.generator.to(device), self.discriminator.to(device)
        return Scale(self.side, *networks, self.z_star.to(device), self.sigma.to(device))


def empty_scale(config: HTDGConfig, n: int, side: int, n_transformations: int, shots: int) -> Scale:
    """Scale n of a model with these options, on the CPU: its weights and noise are to be filled.

    D has a class for each transformation and one for "generated", or, in the ablation that does
    not discriminate transformations, one for everything real.
    """
    classes = 1 if config.method == "real_or_generated" else n_transformations
    with torch.random.fork_rng(devices=[]):  # PyTorch fills new layers at random
        generator = Generator(config.width(n), config.layers)
        discriminator = Discriminator(config.width(n), classes, config.layers)
    z_star, sigma = torch.zeros(1, 1, side, side), torch.zeros(shots)
    return Scale(side, generator, discriminator, z_star, sigma)


def freeze(scale: Scale) -> Scale:
    """The scale in evaluation mode with fixed weights, ready for the finer ones."""
    for network in (scale.generator, scale.discriminator):
        network.eval().requires_grad_(False)
    return scale


#: Draws standard normal noise: (scale number, size) -> (B, 3, H, W).
DrawNoise = Callable[[int, Size], torch.Tensor]


def random_noise(index: torch.Tensor, rng: torch.Generator) -> DrawNoise:
    """Draws fresh noise z for the images ``index`` (B,).

    At scale 0 one channel, repeated for the three colours: there the noise takes the place of an
    image, and colourless noise lets G choose the colours. At finer scales, where it only varies
    what is already there, three independent channels. ``rng`` may be on another device than the
    images, so that two devices can be given the same noise.
    """

    def draw(scale: int, size: Size) -> torch.Tensor:
        shape = (len(index), 1 if scale == 0 else 3, *height_and_width(size))
        noise = torch.randn(shape, generator=rng, device=rng.device).to(index.device)
        return noise.expand(-1, 3, -1, -1)  # (B, 3, H, W)

    return draw


def reconstruction_noise(scales: Sequence[Scale]) -> DrawNoise:
    """The fixed noise z* of every scale, the same for all colours and all training images.

    SinGAN has z* = 0 above the coarsest scale; here it is drawn at every one (official).
    """
    return lambda scale, size: scales[scale].z_star.expand(-1, 3, -1, -1)


def generate(
    scales: Sequence[Scale],
    draw: DrawNoise,
    index: torch.Tensor,
    start: torch.Tensor | None = None,
    first: int = 0,
    sizes: Sequence[Size] | None = None,
) -> list[torch.Tensor]:
    """Run the generators of ``scales`` one after another.

    Args:
        scales: the scales from the coarsest on.
        draw: gives the noise of a scale.
        index: (B,) number of the training image that each output is made from.
        start: (B, 3, h, h) to start from instead of zeros (for ``first`` > 0).
        first: number of the scale to start at; the coarser ones are left out.
        sizes: of the images of every scale, if not squares of its side.

    Returns:
        The image (B, 3, H, W) of every scale from ``first`` on, coarsest first.
    """
    images = []
    previous = start
    for n, scale in enumerate(scales[first:], start=first):
        size = scale.side if sizes is None else sizes[n]
        if previous is None:
            previous = scale.z_star.new_zeros(len(index), 3, *height_and_width(size))
        previous = resize(previous, size)  # (B, 3, H, W)
        noise = scale.sigma[index].view(-1, 1, 1, 1) * draw(n, size)
        previous = scale.generator(noise, previous, index)
        images.append(previous)
    return images


def upsampled(images: list[torch.Tensor], side: int, like: torch.Tensor) -> torch.Tensor:
    """The last of ``images`` at ``side``, or zeros in the shape of ``like`` if there is none."""
    return resize(images[-1], side) if images else torch.zeros_like(like)


def noise_amplitudes(
    config: HTDGConfig, coarser: Sequence[Scale], real: torch.Tensor
) -> torch.Tensor:
    """sigma_n (K,): for each training image 0.1 * mean abs(x^n - reconstruction of scale n - 1).

    The reconstruction is upsampled to scale n; 0.1 is ``config.noise_amplitude``. At scale 0, and
    where nothing is generated, sigma is 1. ``real`` are the training images (K, 3, H, H) of scale
    n. (SinGAN takes the root of the mean square; the mean absolute difference is official.)
    """
    if not coarser or config.method == "no_generator":
        return real.new_ones(len(real))
    index = torch.arange(len(real), device=real.device)
    with torch.no_grad():
        rebuilt = generate(coarser, reconstruction_noise(coarser), index)
        missing = (real - upsampled(rebuilt, real.shape[-1], real)).abs().mean((1, 2, 3))
    return config.noise_amplitude * missing
