"""Images that a trained model draws: random samples, and the training images rebuilt from z*.

Paper section 3.1; ``htdg.sampling`` runs the generators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from htdg.config import HTDGConfig
from htdg.numbers import LARGEST, ConfigError, as_int, whole_number
from htdg.pyramid import Size, height_and_width
from htdg.runtime.device import one_thread_if_forked, reproducible
from htdg.sampling import generate, random_noise, reconstruction_noise
from htdg.state import ModelState

#: Images whose noise is drawn together. Another number would give other samples.
SAMPLES_AT_ONCE = 64
#: Bytes that the widest layer's activations of the images drawn together may take.
SAMPLING_BYTES = 2**29
#: No sample is larger: it would not fit into memory.
LARGEST_SAMPLE = 2048


class Sampler:
    """Draws images with the generators of a trained model."""

    def __init__(self, model: ModelState, device: torch.device) -> None:
        """Draw with ``model``, whose scales are on ``device``.

        Raises:
            ConfigError: the model has no generator.
        """
        if not model.has_generator:
            distances = model.config.evidence == "distance"
            method = f"was made by the method {model.config.method}"
            made = "has evidence distance" if distances else method
            raise ConfigError(
                f"This model {made}, which trains no generator: it can score images but not make "
                "any."
            )
        one_thread_if_forked()
        self.model, self.device = model, device

    def sample(
        self, n: int = 1, seed: int = 0, size: Size | None = None, from_scale: int = 0
    ) -> torch.Tensor:
        """``n`` random images (n, 3, H, W) of the finest scale, about in [-1, 1], on the CPU.

        Sample i is made from training image i modulo K. The sum over scales can leave [-1, 1] a
        little; values are given as they are.

        Args:
            n: how many.
            seed: of the noise.
            size: side, or height and width, in pixels; by default the finest scale's side. Patches
                stay as large as they are, so a larger image holds more of them.
            from_scale: the coarser scales rebuild the training image (stretched, if ``size`` has
                another shape), and only those from this one on are random.

        Raises:
            ConfigError: one of these is out of range.
        """
        last = len(self.model.scales) - 1
        n = whole_number("The number of samples", n, 1)
        seed = whole_number("The seed", seed, 0, LARGEST)
        from_scale = whole_number("from_scale", from_scale, 0, last)
        sizes = sample_sizes(self.model.config, self.model.sides, size)
        rng = torch.Generator(self.device).manual_seed(seed)
        numbers = torch.arange(n, device=self.device) % len(self.model.images)
        height, width = sizes[-1]
        image_bytes = 4 * 3 * self.model.scales[-1].generator.tail.in_channels * height * width
        at_once = max(1, SAMPLING_BYTES // image_bytes)
        samples = []
        with reproducible(), torch.inference_mode():
            # Noise is drawn for so many together whatever their size, so that seeds keep meaning
            # the same images; the networks see as many as memory allows.
            for block in numbers.split(SAMPLES_AT_ONCE):
                draw = random_noise(block, rng)
                noise = {k: draw(k, sizes[k]) for k in range(from_scale, len(sizes))}
                for rows in torch.arange(len(block)).split(at_once):
                    part = {k: of_scale[rows] for k, of_scale in noise.items()}
                    samples.append(self._drawn(block[rows], part, sizes, from_scale))
        return torch.cat(samples)  # (n, 3, H, W)

    def _drawn(
        self,
        index: torch.Tensor,
        noise: Mapping[int, torch.Tensor],
        sizes: Sequence[tuple[int, int]],
        from_scale: int,
    ) -> torch.Tensor:
        """The samples (B, 3, H, W) made from training images ``index`` (B,), on the CPU."""
        start = self._rebuilt(index)[from_scale - 1] if from_scale else None

        def draw(scale: int, size: Size) -> torch.Tensor:
            return noise[scale]

        return generate(self.model.scales, draw, index, start, from_scale, sizes)[-1].cpu()

    def _rebuilt(self, index: torch.Tensor) -> list[torch.Tensor]:
        """The training images ``index`` (B,) rebuilt from z*, at every scale."""
        scales = self.model.scales
        return generate(scales, reconstruction_noise(scales), index)

    def reconstruct(self) -> torch.Tensor:
        """The training images rebuilt from the fixed noise z*: (K, 3, H, H), on the CPU."""
        index = torch.arange(len(self.model.images), device=self.device)
        with reproducible(), torch.inference_mode():
            return self._rebuilt(index)[-1].cpu()


def sample_sizes(
    config: HTDGConfig, sides: Sequence[int], size: Size | None
) -> list[tuple[int, int]]:
    """Height and width at every scale of a sample that is ``size`` at the finest.

    The ratios between scales are those of the pyramid, so patches keep their size. None is the
    pyramid itself.

    Raises:
        ConfigError: no such size, or one that is smaller than a patch at the coarsest scale.
    """
    if size is None:
        return [(side, side) for side in sides]
    try:
        height, width = map(as_int, height_and_width(size))
    except (TypeError, ValueError):
        raise ConfigError(
            f"The size of a sample is {size!r}, but it must be a side, or height and width."
        ) from None
    finest = sides[-1]
    sizes = [(round(height * s / finest), round(width * s / finest)) for s in sides]
    if max(height, width) > LARGEST_SAMPLE or min(sizes[0]) < config.receptive_field:
        patch = config.receptive_field
        least = next(n for n in range(1, sides[-1] + 1) if round(n * sides[0] / sides[-1]) >= patch)
        raise ConfigError(
            f"The size of a sample is {height} x {width} pixels, but each must be from {least} to "
            f"{LARGEST_SAMPLE}."
        )
    return sizes
