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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import htdg
from htdg.baselines import GeomVoter, NearestVoter
from htdg.checkpoint import Checkpoint, geom_checkpoint, load_scale, scale_tensors
from htdg.config import LARGEST, ConfigError, HTDGConfig
from htdg.device import keep_freed_memory, resolve_device, resolve_precision
from htdg.geom import WideResNet, load_geom, train_geom
from htdg.images import ImageError, load_images, read_ahead
from htdg.memory import images_at_once, tell_plan
from htdg.networks import Discriminator, Generator
from htdg.progress import ProgressBar, training_bar
from htdg.pyramid import build_pyramid, resize
from htdg.sampling import (
    Scale,
    generate,
    random_noise,
    reconstruction_noise,
    sample_sizes,
)
from htdg.scoring import Voter, voter
from htdg.storage import ModelError, digest, read_directory, write_directory
from htdg.thresholds import GENERATED, HELD_OUT, Threshold, upper_quantile
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
from htdg.verdicts import Verdict, batch_verdicts
from htdg.votes import check_fraction

#: Images that are generated together. Another number would give other samples.
SAMPLES_AT_ONCE = 64
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
        self.config = HTDGConfig.preset(config) if isinstance(config, str) else config
        self.device = resolve_device(self.config.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.scales: list[Scale] = []
        self.transformations: tuple[Transformation, ...] = ()
        self.images = torch.empty(0)
        self.image_names: list[str] = []
        self.history: list[dict[str, Any]] = []
        self.sides: tuple[int, ...] = config_sides(self.config)
        self.trained_with: dict[str, str] = {}
        self.images_at_once = 0
        self.geom: WideResNet | None = None
        self.threshold: Threshold | None = None
        self._fitted = False

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
            "htdg": htdg.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "trained_on": self.device.type,
        }
        saved = Checkpoint(Path(checkpoint), self._fingerprint()) if checkpoint else None
        self.images_at_once = saved.images_at_once if saved else 0
        if not self.images_at_once:
            plan = (self.transformations, self.sides, len(square), self.device)
            self.images_at_once = images_at_once(self._resolved(), *plan)
        if saved:
            saved.images_at_once = self.images_at_once
        if progress and self.images_at_once < len(square):
            tell_plan(len(square), self.images_at_once)
        bar = training_bar(progress)
        with _reproducible(), bar:
            for real in build_pyramid(square.to(self.device), self.sides):
                self._fit_scale(real, saved, checkpoint_seconds, [bar.show, callback])
            if config.method == "geom":
                self._fit_geom(bar, checkpoint)
        self._fitted = True
        return self

    def _fit_geom(self, bar: ProgressBar, checkpoint: str | Path | None) -> None:
        """Train the classifier of the ablation "geom" on images that the model generates."""
        config = self.config
        sizes = sample_sizes(config, self.sides, None)
        samples = self._sample(config.geom_samples, config.seed, sizes).clamp(-1, 1)
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

    def _resolved(self) -> HTDGConfig:
        """The options with ``precision`` decided for this device."""
        precision = resolve_precision(self.config.precision, self.device)
        return self.config.with_options(precision=precision)

    def _fingerprint(self) -> str:
        """Identifies what the training depends on: options, device kind, images."""
        parts = [self.config.as_dict(), self.device.type, digest(self.images)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    # --- Scoring ------------------------------------------------------------------------------

    def judge(
        self,
        images: Any,  # noqa: ANN401
        defect_fractions: Sequence[float | None] = (None,),
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
        for fraction in defect_fractions:
            if fraction is not None:
                check_fraction(fraction)
        if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
            raise ConfigError(f"batch_size is {batch_size!r}, but it must be a whole number >= 1.")
        return self._judged(images, defect_fractions, maps, batch_size, progress)

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
                with _reproducible(), torch.inference_mode():
                    found = batch_verdicts(
                        self._votes_of(batch, voters),
                        self.transformations,
                        self._voting_sides(),
                        self.config.translation,
                        defect_fractions,
                        sizes if maps else None,
                    )
                bar.advance(len(batch))
                yield from found

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
        several = isinstance(defect_fraction, Sequence)
        fractions = defect_fraction if several else (defect_fraction,)
        found = self.judge(images, fractions, False, batch_size, progress)
        rows = np.stack([verdict.normality for verdict in found], 1)  # (F, B, N + 1)
        return rows if several else rows[0]

    def _voters(self) -> list[Voter]:
        """One for each scale, made anew so that they fit the weights of now."""
        if self.config.method == "mse":
            return [NearestVoter(self.images.to(self.device))]
        if self.config.method == "geom":
            return [GeomVoter(self.geom, self.transformations, self.config.translation)]
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
        with _reproducible(), torch.inference_mode():
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
        """
        self._check_fitted()
        source = HELD_OUT if images is not None else GENERATED
        if images is None:
            images = list((self.sample(n_generated, seed).clamp(-1, 1) + 1) / 2)
        found = list(self.judge(images, (defect_fraction,), maps=True, progress=progress))
        scores = [1 - v.normality[0].mean() / len(self.transformations) for v in found]
        highest = [float(v.anomaly_map.max()) for v in found]
        try:
            limits = [upper_quantile(values, false_positive_rate) for values in (scores, highest)]
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self.threshold = Threshold(
            *limits, float(false_positive_rate), len(found), source, defect_fraction
        )
        return self.threshold

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
        found = []
        with _reproducible(), torch.inference_mode():
            for index in numbers.split(SAMPLES_AT_ONCE):
                rebuilt = self._rebuilt(index)[:from_scale]
                start = rebuilt[-1] if rebuilt else None
                draw = random_noise(index, rng)
                images = generate(self.scales, draw, index, start, from_scale, sizes)
                found.append(images[-1].cpu())
        return torch.cat(found)  # (n, 3, H, W)

    def _rebuilt(self, index: torch.Tensor) -> list[torch.Tensor]:
        """The training images ``index`` (B,) rebuilt from z*, at every scale."""
        return generate(self.scales, reconstruction_noise(self.scales), index)

    def reconstruct(self) -> torch.Tensor:
        """The training images rebuilt from the fixed noise z*: (K, 3, H, H), on the CPU."""
        self._check_fitted()
        self._check_generator()
        index = torch.arange(len(self.images), device=self.device)
        with _reproducible(), torch.inference_mode():
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
            if described.get("threshold") is not None:
                detector.threshold = Threshold(**described["threshold"])
            detector.images_at_once = described.get("images_at_once", 0)
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

    def _check_fitted(self) -> None:
        if not self._fitted:  # also when a training broke off
            raise NotFittedError("This detector is not trained: call fit(images) or load(folder).")


def config_sides(config: HTDGConfig) -> tuple[int, ...]:
    """The sides of the scales to train: none for the ablation that trains nothing."""
    return () if config.method == "mse" else config.sides


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


def _reproducible() -> Any:  # noqa: ANN401
    """cuDNN without algorithms that give another result each time."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
