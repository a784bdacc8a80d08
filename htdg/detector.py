"""The detector: fit on one to a few normal images, then score any others.

The one class that most people need. It puts the pieces together and does nothing of its own:
pyramid -> training of each scale -> votes -> scores.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import htdg
from htdg.checkpoint import Checkpoint, load_scale, scale_tensors
from htdg.config import LARGEST, ConfigError, HTDGConfig
from htdg.device import keep_freed_memory, resolve_device, resolve_precision
from htdg.images import ImageError, load_images, read_ahead
from htdg.networks import Discriminator, Generator
from htdg.progress import ProgressBar, training_bar
from htdg.pyramid import build_pyramid, resize
from htdg.sampling import Scale, generate, random_noise, reconstruction_noise
from htdg.scoring import PlainVoter, voter
from htdg.storage import ModelError, digest, read_directory, write_directory
from htdg.training import (
    ScaleTraining,
    TrainingCallback,
    TrainingProgress,
    freeze,
    learning_rates,
    start_scale,
    train_scale,
)
from htdg.transformations import Transformation, as_rows
from htdg.votes import aggregate_votes, check_fraction

#: Bytes that the activations of one scoring batch may take.
SCORING_BYTES = 2**28


class NotFittedError(RuntimeError):
    """The detector was asked for something that needs a trained model."""


class HTDGDetector:
    """Few-shot anomaly detector (HTDG, arXiv 2104.14535).

    Images come as paths, PIL images, NumPy arrays or tensors: see ``htdg.images.load_image``.

    Attributes:
        config: the options.
        scales: the trained scales, coarsest first; empty before ``fit``.
        transformations: T_1 .. T_M, known after ``fit``.
        images: (K, 3, s, s) the training images in [-1, 1], on the CPU.
        image_names: what they were called.
        history: for each scale a dict with ``side``, ``seconds``, ``lr_d``, ``lr_g`` (a value an
            iteration) and the losses ``d_real``, ``d_fake``, ``g_adversarial``,
            ``g_reconstruction`` (the last step's of each iteration; the last one is the plain mean
            squared error, before the factor alpha).
    """

    def __init__(self, config: HTDGConfig | str = "tutorial") -> None:
        """Make a detector with these options, or those of a preset by name."""
        self.config = HTDGConfig.preset(config) if isinstance(config, str) else config
        self.device = resolve_device(self.config.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.scales: list[Scale] = []
        self.transformations: tuple[Transformation, ...] = ()
        self.images = torch.empty(0)
        self.image_names: list[str] = []
        self.history: list[dict[str, Any]] = []

    # --- Training -----------------------------------------------------------------------------

    def fit(
        self,
        images: Any,  # noqa: ANN401
        progress: bool | ProgressBar = True,
        callback: TrainingCallback | None = None,
        checkpoint: str | Path | None = None,
        checkpoint_seconds: float = 60.0,
        names: Sequence[str] | None = None,
    ) -> HTDGDetector:
        """Train on K normal images, K >= 1.

        Args:
            images: one image or a list of them.
            progress: show a progress bar on standard error (or the one given).
            callback: called after every iteration with a ``TrainingProgress``.
            checkpoint: directory that keeps the state of the training. If it is there already, the
                training goes on from it, to the same weights as without the interruption. It is
                the caller's to delete.
            checkpoint_seconds: how often it is written within a scale, and after every scale.
            names: what to call the images, by default their paths or numbers.

        Returns:
            The detector itself.

        Raises:
            ImageError: an image cannot be read or holds nothing to learn from.
            ModelError: the checkpoint belongs to other options or images.
            ConfigError: the learning rates are so large that the training diverged.
        """
        loaded = load_images(images)
        names = [str(n) for n in (_names(images, len(loaded)) if names is None else names)]
        if len(names) != len(loaded):
            raise ImageError(
                f"There are {len(loaded)} images but {len(names)} names: give as many."
            )
        for image, name in zip(loaded, names, strict=True):
            _check_trainable(image, name)
        config = self.config
        square = torch.cat([resize(i[None], config.image_size) for i in loaded])  # (K, 3, s, s)
        self.images, self.image_names = square, names
        self.transformations = config.resolve_transformations(coloured=_is_coloured(square))
        self.scales, self.history = [], []
        saved = Checkpoint(Path(checkpoint), self._fingerprint()) if checkpoint else None
        bar = training_bar(progress)
        with _reproducible(), bar:
            for real in build_pyramid(square.to(self.device), config.sides):
                self._fit_scale(real, saved, checkpoint_seconds, [bar.show, callback])
        return self

    def _fit_scale(
        self,
        real: torch.Tensor,
        saved: Checkpoint | None,
        checkpoint_seconds: float,
        callbacks: Sequence[TrainingCallback | None],
    ) -> None:
        """Train the next scale, or take it from the checkpoint."""
        training = start_scale(self._resolved(), self.transformations, self.scales, real)
        n = len(self.scales)
        if saved is not None and saved.restore_done(training.scale, n):
            self.scales.append(freeze(training.scale))
            self.history.append(saved.history[n])
            return
        seconds_before = 0.0
        if saved is not None:
            seconds_before = saved.restore_training(training)
        last_saved = time.monotonic()

        def after_iteration(state: TrainingProgress) -> None:
            nonlocal last_saved
            for callback in callbacks:
                if callback is not None:
                    callback(state)
            if saved is not None and time.monotonic() - last_saved >= checkpoint_seconds:
                saved.write(self.scales, self.history, training, seconds_before + state.seconds)
                last_saved = time.monotonic()

        seconds = train_scale(training, self.config.sides, after_iteration)
        _check_finite(training.scale)
        self.history.append(_scale_history(training, seconds_before + seconds))
        self.scales.append(freeze(training.scale))
        if saved is not None:
            saved.write(self.scales, self.history)

    def _resolved(self) -> HTDGConfig:
        """The options with ``precision`` decided for this device."""
        precision = resolve_precision(self.config.precision, self.device)
        return self.config.with_options(precision=precision)

    def _fingerprint(self) -> str:
        """Identifies what the training depends on: options, device kind, images."""
        parts = [self.config.as_dict(), self.device.type, digest(self.images)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    # --- Scoring ------------------------------------------------------------------------------

    def score_scales(
        self,
        images: Any,  # noqa: ANN401
        defect_fraction: float | None = None,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> np.ndarray:
        """Normality of each image at each scale: (B, N + 1), values in [0, M].

        Args:
            images: one image or any number of them; paths are read batch by batch.
            defect_fraction: average only the lowest share of the votes (see ``aggregate_votes``).
            batch_size: images at a time; by default as many as fit a modest amount of memory.
                The scores do not depend on it.
            progress: show a progress bar.
        """
        self._check_fitted()
        if defect_fraction is not None:
            check_fraction(defect_fraction)
        if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
            raise ConfigError(f"batch_size is {batch_size!r}, but it must be a whole number >= 1.")
        counted = isinstance(images, Sequence) and not isinstance(images, str)
        total = len(images) if counted else None
        bar = ProgressBar.for_scoring(progress, total)
        rows = []
        with _reproducible(), torch.inference_mode(), bar:
            voters = self._voters()
            if batch_size is None:
                batch_size = max(1, SCORING_BYTES // max(v.bytes_per_image() for v in voters))
            for batch in self._batches(images, batch_size):
                per_scale = [
                    aggregate_votes(votes, defect_fraction)
                    for votes in self._votes_of(batch, voters)
                ]
                rows.append(torch.stack(per_scale, dim=1).cpu())  # (B, N + 1)
                bar.advance(len(batch))
        return torch.cat(rows).double().numpy()

    def _voters(self) -> list[PlainVoter]:
        """One for each scale, made anew so that they fit the weights of now."""
        return [voter(scale, self.transformations, self._resolved()) for scale in self.scales]

    def _votes_of(
        self, batch: torch.Tensor, voters: Sequence[PlainVoter]
    ) -> Iterator[torch.Tensor]:
        """The votes of (B, 3, s, s) at every scale, (M, B, H - 10, H - 10), one after another."""
        for vote, images in zip(voters, build_pyramid(batch, self.config.sides), strict=True):
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
        return self.score_scales(images, defect_fraction, **options).mean(1)

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

    def votes(self, image: Any) -> list[np.ndarray]:  # noqa: ANN401
        """The votes of every patch of one image: for each scale (M, H - 10, H - 10) in [0, 1].

        Entry (m, i, j) is the vote of the patch of T_m(image) whose top left pixel is (i, j) of the
        transformed copy; ``Transformation.undo`` brings it back to the image.
        """
        self._check_fitted()
        (batch,) = self._batches([image], batch_size=1)
        with _reproducible(), torch.inference_mode():
            votes = self._votes_of(batch, self._voters())
            return [of_scale[:, 0].cpu().numpy() for of_scale in votes]

    def _batches(self, images: Any, batch_size: int) -> Iterator[torch.Tensor]:  # noqa: ANN401
        """Images resized to (B, 3, s, s) on the device, at most ``batch_size`` at a time."""

        def prepared(image: torch.Tensor) -> torch.Tensor:
            return resize(image[None], self.config.image_size)

        batch: list[torch.Tensor] = []
        for image in read_ahead(images, prepared):
            batch.append(image)
            if len(batch) == batch_size:
                yield torch.cat(batch).to(self.device)
                batch = []
        if batch:
            yield torch.cat(batch).to(self.device)

    # --- Images from the model ----------------------------------------------------------------

    def sample(self, n: int = 1, seed: int = 0) -> torch.Tensor:
        """``n`` random images (n, 3, H, H) of the finest scale, about in [-1, 1], on the CPU.

        Sample i is made from training image i modulo K. The sum over scales can leave [-1, 1] a
        little; values are given as they are.
        """
        self._check_fitted()
        if not isinstance(n, int) or n < 1:
            raise ConfigError(f"The number of samples is {n!r}, but it must be at least 1.")
        if not isinstance(seed, int) or not 0 <= seed <= LARGEST:
            raise ConfigError(f"The seed is {seed!r}, but it must be from 0 to {LARGEST}.")
        index = torch.arange(n, device=self.device) % len(self.images)
        rng = torch.Generator(self.device).manual_seed(seed)
        with _reproducible(), torch.inference_mode():
            return generate(self.scales, random_noise(index, rng), index)[-1].cpu()

    def reconstruct(self) -> torch.Tensor:
        """The training images rebuilt from the fixed noise z*: (K, 3, H, H), on the CPU."""
        self._check_fitted()
        index = torch.arange(len(self.images), device=self.device)
        with _reproducible(), torch.inference_mode():
            return generate(self.scales, reconstruction_noise(self.scales), index)[-1].cpu()

    # --- On disk ------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write the model directory ``folder`` in one step; ModelError if that cannot be done."""
        self._check_fitted()
        described = {
            "htdg": htdg.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "trained_on": self.device.type,
            "config": self.config.as_dict(),
            "sides": list(self.config.sides),
            "transformations": as_rows(self.transformations),
            "training_images": self.image_names,
        }
        tensors = {**scale_tensors(self.scales), "images": self.images}
        write_directory(Path(folder), tensors, described, self.history)

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto") -> HTDGDetector:
        """Read a model directory onto ``device``, wherever it was trained.

        Raises:
            ModelError: it is missing, of a newer format, damaged or altered.
        """
        folder = Path(folder)
        tensors, described, history = read_directory(folder)
        try:
            config = HTDGConfig(**described["config"]).with_options(device=device)
            detector = cls(config)
            detector.transformations = tuple(
                Transformation(*row) for row in described["transformations"]
            )
            if list(config.sides) != described["sides"]:
                raise ValueError("its pyramid plan does not follow from its options")
            detector.images = tensors["images"]
            detector.image_names = list(described["training_images"])
            detector.history = history
            for n, side in enumerate(config.sides):
                detector.scales.append(detector._empty_scale(n, side))
                load_scale(detector.scales[n], n, tensors)
        except ConfigError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelError(f"{folder} is no complete htdg model: {error}.") from error
        return detector

    def _empty_scale(self, n: int, side: int) -> Scale:
        config = self.config
        width = config.width(n)
        discriminator = Discriminator(width, len(self.transformations), config.layers)
        scale = Scale(
            side=side,
            generator=Generator(width, config.layers).to(self.device),
            discriminator=discriminator.to(self.device),
            z_star=torch.zeros(1, 1, side, side, device=self.device),
            sigma=torch.zeros(len(self.images), device=self.device),
        )
        return freeze(scale)

    def _check_fitted(self) -> None:
        if len(self.scales) < len(self.config.sides):  # also when a training broke off
            raise NotFittedError("This detector is not trained: call fit(images) or load(folder).")


def _names(images: Any, count: int) -> Sequence[object]:  # noqa: ANN401
    """What to call the training images: their paths where they have one, else a number."""
    if isinstance(images, (str, Path)):
        return [images]
    if isinstance(images, (list, tuple)):
        return [
            i if isinstance(i, (str, Path)) else f"image {n}" for n, i in enumerate(images, start=1)
        ]
    return [f"image {n}" for n in range(1, count + 1)]


def _check_trainable(image: torch.Tensor, name: str) -> None:
    """Refuse an image (3, H, W) that holds no patches to learn."""
    height, width = image.shape[-2:]
    if min(height, width) < 4:
        raise ImageError(
            f"{name} is {width} x {height} pixels, too small to learn patches from: "
            "give an image of at least 4 x 4."
        )
    if (image.amax((1, 2)) - image.amin((1, 2))).max() < 1e-6:
        raise ImageError(f"{name} is one flat colour, nothing to learn from: give another image.")


def _check_finite(scale: Scale) -> None:
    """Refuse a scale whose training diverged."""
    if not all(tensor.isfinite().all() for tensor in scale_tensors([scale]).values()):
        raise ConfigError(
            f"The training diverged at {scale.side} pixels, its weights are no longer finite: "
            "choose a smaller lr_d or lr_g."
        )


def _is_coloured(images: torch.Tensor) -> bool:
    """Whether the channels of (K, 3, H, W) in [-1, 1] differ by more than a grey level or two."""
    levels = (images.amax(1) - images.amin(1)).max() * 255 / 2
    return bool(levels > 2.5)


def _scale_history(training: ScaleTraining, seconds: float) -> dict[str, Any]:
    """A finished scale's history as plain JSON values."""
    config = training.config
    lr_d, lr_g = zip(*(learning_rates(config, i) for i in range(config.niter)), strict=True)
    return {
        "side": training.scale.side,
        "seconds": seconds,
        "lr_d": list(lr_d),
        "lr_g": list(lr_g),
        **{name: values.cpu().tolist() for name, values in training.history.items()},
    }


def _reproducible() -> Any:  # noqa: ANN401
    """cuDNN without algorithms that give another result each time."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
