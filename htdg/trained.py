"""A trained model, and all that can be asked of it: scores, maps, votes, images.

``htdg.detector`` adds how it is trained, calibrated, saved and loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from htdg.ablations.geom import WideResNet
from htdg.ablations.nearest_image import GeomVoter, NearestVoter
from htdg.config import LARGEST, ConfigError, HTDGConfig
from htdg.fast.voter import Voter, voter
from htdg.io.images import ImageError, read_ahead
from htdg.prediction import Verdict, batch_verdicts
from htdg.pyramid import build_pyramid, resize
from htdg.runtime.device import keep_freed_memory, resolve_device, resolve_precision
from htdg.runtime.progress import ProgressBar
from htdg.sampling import (
    Scale,
    generate,
    random_noise,
    reconstruction_noise,
    sample_sizes,
)
from htdg.transformations import Transformation
from htdg.votes import as_fractions

#: Images that are generated together. Another number would give other samples.
SAMPLES_AT_ONCE = 64
#: Bytes that the activations of one scoring batch may take.
SCORING_BYTES = 2**29


class NotFittedError(RuntimeError):
    """The detector was asked for something that needs a trained model."""


class TrainedModel:
    """The scales of a pyramid with their networks, and what follows from them.

    Images come as paths, PIL images, NumPy arrays or tensors: see ``htdg.io.images.load_image``.
    """

    def __init__(self, config: HTDGConfig | str = "tutorial") -> None:
        """An untrained model with these options, or those of a preset by name."""
        self.config = HTDGConfig.preset(config) if isinstance(config, str) else config
        self.device = resolve_device(self.config.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.scales: list[Scale] = []
        self.transformations: tuple[Transformation, ...] = ()
        self.images = torch.empty(0)
        self.image_names: list[str] = []
        self.sides: tuple[int, ...] = config_sides(self.config)
        self.geom: WideResNet | None = None
        self._fitted = False

    def _resolved(self) -> HTDGConfig:
        """The options with ``precision`` decided for this device."""
        precision = resolve_precision(self.config.precision, self.device)
        return self.config.with_options(precision=precision)

    # --- Scoring ------------------------------------------------------------------------------

    def judge(
        self,
        images: Any,  # noqa: ANN401
        defect_fractions: float | Sequence[float | None] | None = None,
        maps: bool = False,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> Iterator[Verdict]:
        """Scores and anomaly maps of any number of images in one pass, one image after another.

        Args:
            images: one image or any number of them; paths are read batch by batch.
            defect_fractions: average only the lowest share of the votes (see ``aggregate_votes``);
                several come from the same votes.
            maps: make anomaly maps, too.
            batch_size: images at a time; by default as many as fit a modest amount of memory.
                The results do not depend on it.
            progress: show a progress bar.
        """
        self._check_fitted()
        fractions = as_fractions(defect_fractions)
        if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
            raise ConfigError(f"batch_size is {batch_size!r}, but it must be a whole number >= 1.")
        return self._judged(images, fractions, maps, batch_size, progress)

    def _judged(
        self,
        images: Any,  # noqa: ANN401
        defect_fractions: Sequence[float | None],
        maps: bool,
        batch_size: int | None,
        progress: bool,
    ) -> Iterator[Verdict]:
        counted = isinstance(images, Sequence) and not isinstance(images, str)
        bar = ProgressBar.for_scoring(progress, len(images) if counted else None)
        with bar:
            voters = self._voters()
            if batch_size is None:
                batch_size = max(1, SCORING_BYTES // max(v.bytes_per_image() for v in voters))
            for batch, sizes in self._batches(images, batch_size):
                # Entered for each batch: between them the caller's own code runs.
                with reproducible(), torch.inference_mode():
                    found = batch_verdicts(
                        self._votes_of(batch, voters),
                        self.transformations,
                        self._voting_sides(),
                        self.config.translation,
                        defect_fractions,
                        sizes if maps else None,
                    )
                for verdict in found:
                    bar.advance(1)
                    yield verdict

    def score_scales(
        self,
        images: Any,  # noqa: ANN401
        defect_fraction: float | Sequence[float | None] | None = None,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> np.ndarray:
        """Normality of each image at each scale: (B, N + 1), values in [0, M].

        Of several fractions (F, B, N + 1). The arguments are those of ``judge``.
        """
        found = self.judge(images, defect_fraction, False, batch_size, progress)
        rows = np.stack([verdict.normality for verdict in found], 1)  # (F, B, N + 1)
        return rows if isinstance(defect_fraction, Sequence) else rows[0]

    def _voters(self) -> list[Voter]:
        """One for each scale, made anew so that they fit the weights of now."""
        if self.config.method == "mse":
            return [NearestVoter(self.images.to(self.device))]
        if self.config.method == "geom":
            how = (self.transformations, self.config.translation, self.config.image_size)
            return [GeomVoter(self.geom, *how)]
        return [voter(scale, self.transformations, self._resolved()) for scale in self.scales]

    def _voting_sides(self) -> tuple[int, ...]:
        """Sides of the scales that vote: baselines look at the whole image only."""
        whole = self.config.method in ("mse", "geom")
        return (self.config.image_size,) if whole else self.sides

    def _votes_of(self, batch: torch.Tensor, voters: Sequence[Voter]) -> Iterator[torch.Tensor]:
        """The votes of (B, 3, s, s) at every scale, (M, B, H - 10, H - 10), one after another."""
        for vote, images in zip(voters, build_pyramid(batch, self._voting_sides()), strict=True):
            yield vote(images)

    def score_samples(
        self,
        images: Any,  # noqa: ANN401
        defect_fraction: float | None = None,
        **options: Any,  # noqa: ANN401
    ) -> np.ndarray:
        """Normality of each image, (B,), in [0, M], higher is more normal, as in scikit-learn.

        The mean over scales of the sum over transformations of the mean vote (paper section 3.2).
        ``options`` are those of ``score_scales``.
        """
        return self.score_scales(images, defect_fraction, **options).mean(-1)

    def anomaly_score(
        self,
        images: Any,  # noqa: ANN401
        defect_fraction: float | None = None,
        **options: Any,  # noqa: ANN401
    ) -> np.ndarray:
        """Anomaly score of each image, (B,), in [0, 1], higher is more anomalous.

        1 - normality / M. ``options`` are those of ``score_scales``.
        """
        normality = self.score_samples(images, defect_fraction, **options)
        return 1 - normality / len(self.transformations)

    def anomaly_map(self, images: Any, **options: Any) -> np.ndarray:  # noqa: ANN401
        """Where each image is odd: (B, H, W) float32 in [0, 1], higher is more anomalous.

        At the images' own resolution, which must be the same for all; ``judge`` does not mind.
        ``options`` are its ``batch_size`` and ``progress``.
        """
        found = [verdict.anomaly_map for verdict in self.judge(images, maps=True, **options)]
        sizes = sorted({of_image.shape for of_image in found})
        if len(sizes) > 1:
            told = " and ".join(f"{width} x {height}" for height, width in sizes[:2])
            raise ImageError(
                f"The images differ in size ({told} pixels), so their maps make no one array: "
                "give one image at a time, or use judge."
            )
        return np.stack(found)

    def votes(self, image: Any) -> list[np.ndarray]:  # noqa: ANN401
        """The votes of every patch of one image: for each scale (M, H - 10, H - 10) in [0, 1].

        Entry (m, i, j) is the vote of the patch of T_m(image) whose top left pixel is (i, j) of the
        transformed copy; ``Transformation.undo`` brings it back to the image.
        """
        self._check_fitted()
        ((batch, _),) = self._batches([image], batch_size=1)
        with reproducible(), torch.inference_mode():
            votes = self._votes_of(batch, self._voters())
            return [of_scale[:, 0].cpu().numpy() for of_scale in votes]

    def _batches(
        self,
        images: Any,  # noqa: ANN401
        batch_size: int,
    ) -> Iterator[tuple[torch.Tensor, list[tuple[int, int]]]]:
        """Images resized to (B, 3, s, s) on the device, at most ``batch_size`` at a time.

        With the height and width that each had.
        """

        def prepared(image: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
            return resize(image[None], self.config.image_size), tuple(image.shape[-2:])

        batch: list[tuple[torch.Tensor, tuple[int, int]]] = []
        for image in read_ahead(images, prepared):
            batch.append(image)
            if len(batch) == batch_size:
                yield self._stacked(batch)
                batch = []
        if batch:
            yield self._stacked(batch)

    def _stacked(
        self, batch: list[tuple[torch.Tensor, tuple[int, int]]]
    ) -> tuple[torch.Tensor, list[tuple[int, int]]]:
        return torch.cat([x for x, _ in batch]).to(self.device), [size for _, size in batch]

    # --- Images from the model ----------------------------------------------------------------

    def sample(
        self,
        n: int = 1,
        seed: int = 0,
        size: int | tuple[int, int] | None = None,
        from_scale: int = 0,
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
            ConfigError: one of these is out of range, or the model has no generator.
        """
        self._check_fitted()
        if type(n) is not int or n < 1:
            raise ConfigError(f"The number of samples is {n!r}, but it must be at least 1.")
        if type(seed) is not int or not 0 <= seed <= LARGEST:
            raise ConfigError(f"The seed is {seed!r}, but it must be from 0 to {LARGEST}.")
        self._check_generator()
        if type(from_scale) is not int or not 0 <= from_scale < len(self.scales):
            last = len(self.scales) - 1
            raise ConfigError(f"from_scale is {from_scale!r}, but it must be from 0 to {last}.")
        return self._sample(n, seed, sample_sizes(self.config, self.sides, size), from_scale)

    def _sample(
        self, n: int, seed: int, sizes: Sequence[tuple[int, int]], from_scale: int = 0
    ) -> torch.Tensor:
        rng = torch.Generator(self.device).manual_seed(seed)
        numbers = torch.arange(n, device=self.device) % len(self.images)
        height, width = sizes[-1]
        each = 4 * 3 * self.scales[-1].generator.tail.in_channels * height * width
        at_once = max(1, SCORING_BYTES // each)
        found = []
        with reproducible(), torch.inference_mode():
            # Noise is drawn for so many together whatever their size, so that seeds keep meaning
            # the same images; the networks see as many as memory allows.
            for block in numbers.split(SAMPLES_AT_ONCE):
                draw = random_noise(block, rng)
                noise = {k: draw(k, sizes[k]) for k in range(from_scale, len(sizes))}
                for part in torch.arange(len(block)).split(at_once):
                    found.append(self._drawn(block[part], part, noise, sizes, from_scale))
        return torch.cat(found)  # (n, 3, H, W)

    def _drawn(
        self,
        index: torch.Tensor,
        part: torch.Tensor,
        noise: dict[int, torch.Tensor],
        sizes: Sequence[tuple[int, int]],
        from_scale: int,
    ) -> torch.Tensor:
        """The samples of some rows ``part`` of the noise, on the CPU."""
        rebuilt = self._rebuilt(index)[:from_scale]
        start = rebuilt[-1] if rebuilt else None
        images = generate(
            self.scales, lambda k, size: noise[k][part], index, start, from_scale, sizes
        )
        return images[-1].cpu()

    def _rebuilt(self, index: torch.Tensor) -> list[torch.Tensor]:
        """The training images ``index`` (B,) rebuilt from z*, at every scale."""
        return generate(self.scales, reconstruction_noise(self.scales), index)

    def reconstruct(self) -> torch.Tensor:
        """The training images rebuilt from the fixed noise z*: (K, 3, H, H), on the CPU."""
        self._check_fitted()
        self._check_generator()
        index = torch.arange(len(self.images), device=self.device)
        with reproducible(), torch.inference_mode():
            return self._rebuilt(index)[-1].cpu()

    def _check_generator(self) -> None:
        if not self.has_generator:
            raise ConfigError(
                f"This model was made by the method {self.config.method}, which trains no "
                "generator: it can score images but not make any."
            )

    @property
    def has_generator(self) -> bool:
        """Whether the model can make images; two of the ablations cannot."""
        return self.config.method not in ("mse", "no_generator")

    def _check_fitted(self) -> None:
        if not self._fitted:  # also when a training broke off
            raise NotFittedError("This detector is not trained: call fit(images) or load(folder).")


def config_sides(config: HTDGConfig) -> tuple[int, ...]:
    """The sides of the scales to train: none for the ablation that trains nothing."""
    return () if config.method == "mse" else config.sides


def reproducible() -> Any:  # noqa: ANN401
    """cuDNN without algorithms that give another result each time."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
