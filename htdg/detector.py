"""The detector: fit on one to a few normal images, then score any others.

The one class that most people need. It puts the pieces together and does nothing of its own:
pyramid -> training of each scale -> votes -> scores (``htdg.trained``).
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from htdg.ablations.geom import load_geom, train_geom
from htdg.config import ConfigError, HTDGConfig
from htdg.fast import native as kernels
from htdg.io.checkpoint import Checkpoint, geom_checkpoint, load_scale, scale_tensors
from htdg.io.images import ImageError, load_images
from htdg.io.model_directory import (
    ModelError,
    change_description,
    digest,
    read_directory,
    write_directory,
)
from htdg.networks import Discriminator, Generator
from htdg.pyramid import build_pyramid, resize
from htdg.runtime.memory import images_at_once, tell_plan
from htdg.runtime.progress import ProgressBar, training_bar
from htdg.sampling import (
    Scale,
    sample_sizes,
)
from htdg.thresholds import GENERATED, HELD_OUT, Threshold, check_rate, upper_quantile
from htdg.trained import NotFittedError, TrainedModel, config_sides, reproducible
from htdg.training import (
    ScaleTraining,
    TrainingCallback,
    TrainingProgress,
    freeze,
    learning_rates,
    real_classes,
    start_scale,
    train_scale,
)
from htdg.transformations import Transformation, as_rows
from htdg.version import __version__
from htdg.votes import as_fractions


class HTDGDetector(TrainedModel):
    """Few-shot anomaly detector (HTDG, arXiv 2104.14535).

    Images come as paths, PIL images, NumPy arrays or tensors: see ``htdg.io.images.load_image``.

    Attributes:
        config: the options.
        scales: the trained scales, coarsest first; empty before ``fit``.
        transformations: T_1 .. T_M, known after ``fit``.
        images: (K, 3, s, s) the training images in [-1, 1], on the CPU.
        image_names: what they were called.
        sides: of the scales in pixels, coarsest first: the pyramid plan, stored with the model.
        threshold: what ``calibrate`` chose, or None.
        trained_with: versions of htdg, torch and python, and the device (``trained_on``).
        images_at_once: training images that went through the networks together.
        history: for each scale a dict with ``side``, ``seconds``, ``lr_d``, ``lr_g`` (a value an
            iteration) and the losses ``d_real``, ``d_fake``, ``g_adversarial``,
            ``g_reconstruction`` (the last step's of each iteration; the last one is the plain mean
            squared error, before the factor alpha).
    """

    def __init__(self, config: HTDGConfig | str = "tutorial") -> None:
        """Make a detector with these options, or those of a preset by name."""
        super().__init__(config)
        self.history: list[dict[str, Any]] = []
        self.trained_with: dict[str, str] = {}
        self.images_at_once = 0
        self.geom_seconds = 0.0
        self.threshold: Threshold | None = None

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
                the caller's to delete (``checkpoint.remove_checkpoint``).
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
        if config.method == "mse":
            self.transformations = (Transformation(0, 0, 0, 0, 0),)
        self.scales, self.history, self.sides = [], [], config_sides(config)
        self.threshold, self._fitted = None, False
        self.trained_with = {
            "htdg": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "trained_on": self.device.type,
        }
        saved = Checkpoint(Path(checkpoint), self._fingerprint()) if checkpoint else None
        begun = saved.images_at_once if saved else 0
        plan = (self.transformations, self.sides, len(square), self.device)
        self.images_at_once = begun or images_at_once(self._resolved(), *plan)
        if saved:
            saved.images_at_once = self.images_at_once
        if progress and self.images_at_once < len(square):
            why = "as this training was begun" if begun else "as asked for"
            given = begun or config.images_at_once
            tell_plan(len(square), self.images_at_once, why if given else "so that memory suffices")
        if progress and config.fast and self.device.type == "cpu":
            kernels.tell_missing()
        bar = training_bar(progress)
        with reproducible(), bar:
            for real in build_pyramid(square.to(self.device), self.sides):
                self._fit_scale(real, saved, checkpoint_seconds, [bar.show, callback])
            if config.method == "geom":
                self._fit_geom(bar, checkpoint)
        self._fitted = True
        return self

    def _fit_geom(self, bar: ProgressBar, checkpoint: str | Path | None) -> None:
        """Train the classifier of the ablation "geom" on images that the model generates."""
        config = self.config
        started = time.perf_counter()
        # A stream of their own: ``sample`` and ``calibrate`` must not draw the same images again.
        stream = int(np.random.SeedSequence([config.seed, 1]).generate_state(1)[0])
        sizes = sample_sizes(config, self.sides, None)
        samples = self._sample(config.geom_samples, stream, sizes).clamp(-1, 1)
        samples = resize(samples, config.image_size).to(self.device)
        self.geom = train_geom(
            samples,
            self.transformations,
            config.translation,
            config.seed,
            config.geom_epochs,
            callback=lambda done, total: bar.say(f"GEOM  {done}/{total} batches"),
            checkpoint=geom_checkpoint(Path(checkpoint)) if checkpoint else None,
        )
        self.geom_seconds = time.perf_counter() - started

    @property
    def training_seconds(self) -> float:
        """What the training took: all scales, and GEOM's classifier since its last interruption."""
        return sum(scale["seconds"] for scale in self.history) + self.geom_seconds

    def _fit_scale(
        self,
        real: torch.Tensor,
        saved: Checkpoint | None,
        checkpoint_seconds: float,
        callbacks: Sequence[TrainingCallback | None],
    ) -> None:
        """Train the next scale, or take it from the checkpoint."""
        config = self._resolved().with_options(images_at_once=self.images_at_once)
        training = start_scale(config, self.transformations, self.scales, real)
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

        seconds = train_scale(training, self.sides, after_iteration)
        _check_finite(training.scale)
        self.history.append(_scale_history(training, seconds_before + seconds))
        self.scales.append(freeze(training.scale))
        if saved is not None:
            saved.write(self.scales, self.history)

    def _fingerprint(self) -> str:
        """Identifies what the training depends on: options, device kind, images."""
        parts = [self.config.as_dict(), self.device.type, digest(self.images)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    # --- Deciding -----------------------------------------------------------------------------

    def calibrate(
        self,
        images: Any = None,  # noqa: ANN401
        false_positive_rate: float = 0.05,
        defect_fraction: float | None = None,
        n_generated: int = 200,
        seed: int = 0,
        progress: bool = False,
    ) -> Threshold:
        """Choose the thresholds above which ``predict`` calls an image, or a pixel, anomalous.

        Args:
            images: normal images that did not train: the best there is. None takes
                ``n_generated`` images that the model's own generator draws, so that one training
                image is enough; they are more, or less, like it than real ones are, and the true
                false positive rate differs from the one asked for (measured: README).
            false_positive_rate: the share of normal images that may be flagged, in (0, 1).
            defect_fraction: what to score with; ``predict`` then does the same.
            n_generated: images to generate.
            seed: of their noise.
            progress: show a progress bar.

        Returns:
            The threshold, which is also kept in ``self.threshold`` and saved with the model.

        Raises:
            ConfigError: the rate is not in (0, 1), or there is nothing to generate with.
            ImageError: an image cannot be read, or there is none.
        """
        self._check_fitted()
        try:
            check_rate(false_positive_rate)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        (fraction,) = as_fractions(defect_fraction)
        source = HELD_OUT if images is not None else GENERATED
        if images is None:
            if not self.has_generator:
                raise ConfigError(
                    f"The method {self.config.method} trains no generator, so there is nothing to "
                    "calibrate with: give normal images."
                )
            images = list((self.sample(n_generated, seed).clamp(-1, 1) + 1) / 2)
        scores, highest = [], []
        for verdict in self.judge(images, (fraction,), maps=True, progress=progress):
            scores.append(1 - verdict.normality[0].mean() / len(self.transformations))
            highest.append(float(verdict.anomaly_map.max()))
        limits = [upper_quantile(values, false_positive_rate) for values in (scores, highest)]
        self.threshold = Threshold(
            *limits, float(false_positive_rate), len(scores), source, fraction
        )
        return self.threshold

    def save_threshold(self, folder: str | Path) -> None:
        """Keep the threshold in the model directory, which stays as it is otherwise."""
        change_description(Path(folder), threshold=asdict(self.threshold))

    def predict(self, images: Any, **options: Any) -> np.ndarray:  # noqa: ANN401
        """+1 for images called normal, -1 for anomalous ones, (B,), as in scikit-learn.

        ``options`` are the ``batch_size`` and ``progress`` of ``judge``.

        Raises:
            NotFittedError: there is no threshold yet.
        """
        self._check_fitted()
        if self.threshold is None:
            raise NotFittedError(
                "This detector has no threshold: call calibrate(normal_images), or calibrate() to "
                "learn one from generated images."
            )
        scores = self.anomaly_score(images, self.threshold.defect_fraction, **options)
        return np.where(scores > self.threshold.score, -1, 1)

    # --- On disk ------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write the model directory ``folder`` in one step; ModelError if that cannot be done."""
        self._check_fitted()
        described = {
            **self.trained_with,
            "config": self.config.as_dict(),
            "sides": list(self.sides),
            "transformations": as_rows(self.transformations),
            "training_images": self.image_names,
            "images_at_once": self.images_at_once,
            "threshold": None if self.threshold is None else asdict(self.threshold),
        }
        tensors = {**scale_tensors(self.scales), "images": self.images}
        if self.geom is not None:
            described["geom_seconds"] = self.geom_seconds
            tensors |= {f"geom.{key}": value for key, value in self.geom.state_dict().items()}
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
            detector.sides = _checked_sides(described["sides"], config)
            detector.images = tensors["images"]
            detector.image_names = list(described["training_images"])
            detector.history = history
            told = ("htdg", "torch", "python", "trained_on")
            detector.trained_with = {key: str(described[key]) for key in told}
            if any(name.startswith(f"scale{len(detector.sides)}.") for name in tensors):
                raise ValueError("it has more scales than its pyramid plan has sides")
            for n, side in enumerate(detector.sides):
                detector.scales.append(detector._empty_scale(n, side))
                load_scale(detector.scales[n], n, tensors)
            if config.method == "geom":
                detector.geom = load_geom(tensors, len(detector.transformations), detector.device)
            detector.geom_seconds = float(described.get("geom_seconds", 0.0))
            if described.get("threshold") is not None:
                detector.threshold = Threshold(**described["threshold"])
            detector.images_at_once = int(described.get("images_at_once", 0))
            detector._fitted = True
        except ConfigError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelError(f"{folder} is no complete htdg model: {error}.") from error
        return detector

    def _empty_scale(self, n: int, side: int) -> Scale:
        config = self.config
        width = config.width(n)
        classes = real_classes(config, self.transformations)
        discriminator = Discriminator(width, classes, config.layers)
        scale = Scale(
            side=side,
            generator=Generator(width, config.layers).to(self.device),
            discriminator=discriminator.to(self.device),
            z_star=torch.zeros(1, 1, side, side, device=self.device),
            sigma=torch.zeros(len(self.images), device=self.device),
        )
        return freeze(scale)


def _checked_sides(sides: Any, config: HTDGConfig) -> tuple[int, ...]:  # noqa: ANN401
    """The pyramid plan that a model was stored with; ValueError if it cannot be one."""
    whole = isinstance(sides, list) and all(type(side) is int for side in sides)
    if not whole or any(side <= config.receptive_field for side in sides):
        raise ValueError(f"its pyramid plan is {sides!r}")
    if sides != sorted(set(sides)) or (not sides and config.method != "mse"):
        raise ValueError(f"its pyramid plan is {sides!r}")
    return tuple(sides)


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
