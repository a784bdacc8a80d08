"""The detector: fit on one to a few normal images, then score any others.

The one class that most people need: a scikit-learn estimator around a ``ModelState``, which
``htdg.fitting`` trains, ``htdg.scorer`` scores with and ``htdg.sampler`` draws from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import sklearn.exceptions
import torch
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import Tags

from htdg.config import ConfigError, HTDGConfig
from htdg.evidence import Evidence
from htdg.fast.ranks import Ranks
from htdg.fast.sharing import check_shareable
from htdg.fitting import fit_model
from htdg.io.checkpoint import remove_checkpoint
from htdg.io.images import ImageLike, Images, image_name, is_file, load_image, load_images
from htdg.io.model_directory import ModelError, change_threshold, save_model
from htdg.io.problems import ImageError
from htdg.models import (
    choose_backend,
    device_of,
    saved_model,
    scorer_of,
    threshold_by_hand,
)
from htdg.pyramid import Size
from htdg.runtime.device import one_thread_if_forked, resolve_device
from htdg.runtime.progress import ProgressBar, TrainingCallback, training_bar
from htdg.sampler import Sampler
from htdg.sampling import Scale
from htdg.scorer import Prediction, Scorer
from htdg.state import ModelState
from htdg.thresholds import GENERATED, HELD_OUT, Threshold, check_rate, upper_quantile
from htdg.tiles import training_squares
from htdg.transformations import Transformation
from htdg.votes import Fractions, are_several, as_fractions

#: Rounding may not turn the image that set the threshold into an anomalous one.
ROUNDING = 1e-12


class NotFittedError(sklearn.exceptions.NotFittedError, RuntimeError):
    """The detector was asked for something that needs a trained model, or a threshold."""


def fit_or_go_on(
    config: HTDGConfig, images: Images, checkpoint: Path, replace_other: bool, **options: Any
) -> HTDGDetector:
    """A detector trained on images, from where an earlier training to ``checkpoint`` stopped.

    Args:
        config: the options.
        images: K normal ones.
        checkpoint: where the state of the training is kept.
        replace_other: delete a checkpoint of another training, or a damaged one.
        options: of ``fit``.

    Raises:
        ModelError: the checkpoint is one of these, and not to be replaced; besides those of
            ``fit``.
    """
    try:
        return HTDGDetector(config).fit(images, checkpoint=checkpoint, **options)
    except ModelError:
        if not replace_other:
            raise
        remove_checkpoint(checkpoint)
        return HTDGDetector(config).fit(images, checkpoint=checkpoint, **options)


class HTDGDetector(OutlierMixin, BaseEstimator):
    """Few-shot anomaly detector (HTDG, arXiv 2104.14535), a scikit-learn estimator.

    ``HTDGDetector("tutorial", niter=15)`` takes the preset with some options changed. Images come
    as paths, PIL images, NumPy arrays or tensors: see ``htdg.images.load_image``.

    Args:
        config: name of a preset, or an ``HTDGConfig``.

    All other arguments are the options of ``HTDGConfig``, where their documentation is; None leaves
    an option as ``config`` has it.

    Attributes:
        model_: the trained ``ModelState``, after ``fit`` or ``load``.
        device_: where it is.
        evidence_: what normal patches have, from the training images: measured when a model first
            scores, until then and with votes alone None.
        config_, sides_, scales_, transformations_, images_, image_names_: parts of ``model_``.
        history_, threshold_, images_at_once_, trained_with_, training_seconds_, has_generator_:
            other parts of it.
        offset_: ``decision_function`` is ``score_samples - offset_``; known after ``calibrate``.
    """

    def __init__(
        self,
        config: HTDGConfig | str = "tutorial",
        *,
        image_size: int | None = None,
        min_size: int | None = None,
        max_size: int | None = None,
        scale_factor: float | None = None,
        transformations: str | Sequence[Sequence[int]] | None = None,
        translation: str | None = None,
        channels: int | None = None,
        layers: int | None = None,
        niter: int | None = None,
        d_steps: int | None = None,
        g_steps: int | None = None,
        lr_d: float | None = None,
        lr_g: float | None = None,
        beta1: float | None = None,
        beta2: float | None = None,
        milestone_d: int | None = None,
        milestone_g: int | None = None,
        gamma: float | None = None,
        alpha: float | None = None,
        noise_amplitude: float | None = None,
        seed: int | None = None,
        device: str | None = None,
        precision: str | None = None,
        method: str | None = None,
        images_at_once: int | None = None,
        evidence: str | None = None,
        distance_min_size: int | None = None,
        distance_max_size: int | None = None,
        patch_side: int | None = None,
        patch_constant: float | None = None,
        high_pass: float | None = None,
        search_radius: float | None = None,
        geom_samples: int | None = None,
        geom_epochs: int | None = None,
        tiles: bool | None = None,
        white_level: int | None = None,
        fast: bool | None = None,
    ) -> None:
        """Keep the options as they are given; ``fit`` checks them."""
        self.config = config
        self.image_size = image_size
        self.min_size = min_size
        self.max_size = max_size
        self.scale_factor = scale_factor
        self.transformations = transformations
        self.translation = translation
        self.channels = channels
        self.layers = layers
        self.niter = niter
        self.d_steps = d_steps
        self.g_steps = g_steps
        self.lr_d = lr_d
        self.lr_g = lr_g
        self.beta1 = beta1
        self.beta2 = beta2
        self.milestone_d = milestone_d
        self.milestone_g = milestone_g
        self.gamma = gamma
        self.alpha = alpha
        self.noise_amplitude = noise_amplitude
        self.seed = seed
        self.device = device
        self.precision = precision
        self.method = method
        self.images_at_once = images_at_once
        self.evidence = evidence
        self.distance_min_size = distance_min_size
        self.distance_max_size = distance_max_size
        self.patch_side = patch_side
        self.patch_constant = patch_constant
        self.high_pass = high_pass
        self.search_radius = search_radius
        self.geom_samples = geom_samples
        self.geom_epochs = geom_epochs
        self.tiles = tiles
        self.white_level = white_level
        self.fast = fast

    def __sklearn_tags__(self) -> Tags:
        """Images are no table of numbers, and need no labels."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.non_deterministic = False
        return tags

    def resolved_config(self) -> HTDGConfig:
        """The options that ``fit`` trains with: the preset's or config's, and those given.

        Raises:
            ConfigError: one of them is not allowed.
        """
        start = HTDGConfig.preset(self.config) if isinstance(self.config, str) else self.config
        if not isinstance(start, HTDGConfig):
            raise ConfigError(
                f"config is {start!r}, but it must be the name of a preset or an HTDGConfig."
            )
        options = {field.name: getattr(self, field.name) for field in fields(HTDGConfig)}
        return start.with_options(**{k: v for k, v in options.items() if v is not None})

    # --- Training -----------------------------------------------------------------------------

    def fit(
        self,
        X: Images,
        y: object = None,
        *,
        progress: bool | ProgressBar = True,
        callback: TrainingCallback | None = None,
        checkpoint: str | Path | None = None,
        checkpoint_seconds: float = 60.0,
        names: Sequence[str] | None = None,
        ranks: Ranks | None = None,
    ) -> HTDGDetector:
        """Train on K normal images, K >= 1.

        Args:
            X: one image or a list of them.
            y: not used; it is here because scikit-learn gives it.
            progress: show a progress bar on standard error (or the one given).
            callback: called after every iteration with a ``TrainingProgress``.
            checkpoint: directory that keeps the state of the training. If it is there already, the
                training goes on from it, to the same weights as without the interruption. It is
                the caller's to delete (``htdg.io.checkpoint.remove_checkpoint``).
            checkpoint_seconds: how often it is written within a scale, and after every scale.
            names: what to call the images, by default their paths or numbers.
            ranks: the processes that train this model together, all of which call this with the
                same (``htdg.fast.ranks.connected``).

        Returns:
            The detector itself.

        Raises:
            ImageError: an image cannot be read or holds nothing to learn from.
            ModelError: the checkpoint belongs to other options or images.
            ConfigError: an option is not allowed, this machine has no such device, or the
                training diverged.
            RanksError: several processes cannot train it, or one of them has ended.
        """
        config = self.resolved_config()
        device = resolve_device(config.device) if ranks is None else ranks.device
        if ranks is not None:
            check_shareable(config)
        one_thread_if_forked()
        loaded = load_images(X, config.white_level)
        labels = [str(name) for name in (_names(X, len(loaded)) if names is None else names)]
        if len(labels) != len(loaded):
            raise ImageError(
                f"There are {len(loaded)} images but {len(labels)} names: give as many (a tensor "
                "(3, H, W) is one RGB image; three grey ones are (3, 1, H, W))."
            )
        for image, name in zip(loaded, labels, strict=True):
            _check_trainable(image, name)
        square, labels = training_squares(loaded, labels, config.image_size, config.tiles)
        for name in (
            "model_",
            "device_",
            "offset_",
            "evidence_",
        ):  # a training that breaks off leaves none
            self.__dict__.pop(name, None)
        model = fit_model(
            config,
            square,  # (K, 3, s, s), each tile an image
            labels,
            device,
            partial(choose_backend, ranks=ranks),
            training_bar(progress),
            callback,
            None if checkpoint is None else Path(checkpoint),
            checkpoint_seconds,
            ranks,
        )
        return self._with(model, device)

    def _with(self, model: ModelState, device: torch.device) -> HTDGDetector:
        earlier = self.__dict__.get("model_")
        self.model_, self.device_ = model, device
        if earlier is None or earlier.scales is not model.scales:  # not just another threshold
            self.evidence_: Evidence | None = None
        if model.threshold is not None:
            most = len(model.transformations) if model.config.evidence == "votes" else 1
            self.offset_ = most * (1 - model.threshold.score) - ROUNDING
        return self

    @classmethod
    def from_model(cls, model: ModelState) -> HTDGDetector:
        """A detector around a trained model; it computes where the model's scales are."""
        return cls(model.config)._with(model, device_of(model))

    def fit_predict(
        self,
        X: Images,
        y: object = None,
        *,
        held_out: Images | None = None,
        false_positive_rate: float = 0.05,
        defect_fraction: float | None = None,
        **options: Any,
    ) -> np.ndarray:
        """``fit`` on the images, ``calibrate`` with others, and ``predict`` the first: (B,).

        Args:
            X: normal images to train on.
            y: not used.
            held_out: normal images that do not train, for the threshold.
            false_positive_rate, defect_fraction: as of ``calibrate``.
            options: those of ``fit``.

        Raises:
            NotFittedError: there are no ``held_out`` images; besides those of ``fit``.
        """
        if held_out is None:
            raise NotFittedError(
                "fit_predict needs normal images that do not train for its threshold: give them "
                "as held_out, or call fit, calibrate and predict."
            )
        if isinstance(X, Iterator) and not is_file(X):  # they are gone through twice
            X = list(cast(Iterator[ImageLike], X))
        self.fit(X, y, **options)
        self.calibrate(held_out, false_positive_rate, defect_fraction)
        return self.predict(X)

    # --- Scoring ------------------------------------------------------------------------------

    def predictions(
        self,
        images: Images,
        defect_fractions: Fractions = None,
        maps: bool = False,
        batch_size: int | None = None,
        progress: bool = False,
        map_size: int | None = None,
    ) -> Iterator[Prediction]:
        """Scores and anomaly maps in one pass, one image after another: ``Scorer.predictions``."""
        scorer = self._scorer()
        return scorer.predictions(images, defect_fractions, maps, batch_size, progress, map_size)

    def score_scales(
        self,
        images: Images,
        defect_fraction: Fractions = None,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> np.ndarray:
        """Normality of each image at each scale by the votes: (B, N + 1), values in [0, M].

        Of several fractions (F, B, N + 1). The arguments are those of ``predictions``. ConfigError
        if the model has patch distances alone.
        """
        self._check_votes()
        scored = self.predictions(images, defect_fraction, False, batch_size, progress)
        rows = np.stack([prediction.normality for prediction in scored], 1)  # (F, B, N + 1)
        return rows if are_several(defect_fraction) else rows[0]

    def score_samples(
        self, X: Images, defect_fraction: float | None = None, **options: Any
    ) -> np.ndarray:
        """Normality of each image, (B,), in [0, M], higher is more normal, as in scikit-learn.

        The mean over scales of the sum over transformations of the mean vote (paper section 3.2).
        With evidence other than the votes 1 - the anomaly score, in [0, 1]. ``options`` are those
        of ``score_scales``.
        """
        if self.config_.evidence != "votes":
            return 1 - self.anomaly_score(X, defect_fraction, **options)
        return self.score_scales(X, defect_fraction, **options).mean(-1)

    def anomaly_score(
        self, images: Images, defect_fraction: float | None = None, **options: Any
    ) -> np.ndarray:
        """Anomaly score of each image, (B,), in [0, 1], higher is more anomalous.

        1 - normality / M, or from patch distances, too (``htdg.evidence``). Of several fractions
        (F, B). ``options`` are those of ``score_scales``.
        """
        scored = self.predictions(images, defect_fraction, **options)
        scores = np.stack([prediction.scores for prediction in scored], 1)  # (F, B)
        return scores if are_several(defect_fraction) else scores[0]

    def anomaly_map(self, images: Images, **options: Any) -> np.ndarray:
        """Where each image is anomalous: (B, H, W) float32 in [0, 1], higher is more anomalous.

        At the images' own resolution, or with ``map_size`` reduced to it; it must be the same for
        all, which ``predictions`` does not mind. ``options`` are its ``batch_size``, ``progress``
        and ``map_size``.
        """
        maps = [p.anomaly_map for p in self.predictions(images, maps=True, **options)]
        sizes = sorted({of_image.shape for of_image in maps if of_image is not None})
        if len(sizes) > 1:
            several = " and ".join(f"{width} x {height}" for height, width in sizes[:2])
            raise ImageError(
                f"The images differ in size ({several} pixels), so their maps make no one array: "
                "give one image at a time, or use predictions."
            )
        return np.stack([of_image for of_image in maps if of_image is not None])

    def votes(self, image: ImageLike) -> list[np.ndarray]:
        """The votes of every patch of one image: for each scale (M, H - 10, H - 10) in [0, 1].

        Entry (m, i, j) is the vote of the patch of T_m(image) whose top left pixel is (i, j) of the
        transformed copy; ``Transformation.undo`` brings it back to the image. ConfigError if the
        model has patch distances alone.
        """
        self._check_votes()
        scorer, loaded = self._scorer(), load_image(image, None, self.config_.white_level)
        return [of_scale.numpy() for of_scale in scorer.votes(loaded)]

    # --- Deciding -----------------------------------------------------------------------------

    def calibrate(
        self,
        images: Images | None = None,
        false_positive_rate: float = 0.05,
        defect_fraction: float | None = None,
        n_generated: int = 200,
        seed: int = 0,
        progress: bool = False,
    ) -> Threshold:
        """Choose the thresholds above which ``predict`` calls an image, or a pixel, anomalous.

        Args:
            images: normal images that did not train. The word ``"generated"`` instead takes
                ``n_generated`` images that the model's own generator draws; these are less like
                real ones than one would wish, and the true false positive rate can be far from the
                one asked for (measured: docs/thresholds.md).
            false_positive_rate: the share of normal images that may be flagged, in (0, 1).
            defect_fraction: what to score with; ``predict`` then does the same.
            n_generated: images to generate.
            seed: of their noise.
            progress: show a progress bar.

        Returns:
            The threshold, also kept in ``threshold_`` and saved with the model.

        Raises:
            ConfigError: there are no images, the rate is not in (0, 1), or there is nothing to
                generate with.
            ImageError: an image cannot be read, or the list is empty.
        """
        scorer = self._scorer()
        try:
            check_rate(false_positive_rate)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        fractions = as_fractions(defect_fraction)
        if len(fractions) > 1:
            raise ConfigError(
                f"defect_fraction is {defect_fraction!r}, but a threshold is for one: give one."
            )
        fraction, source = fractions[0], HELD_OUT
        if images is None:
            raise ConfigError(
                "calibrate needs normal images that did not train: give some. "
                'calibrate("generated") takes images that the model draws itself, from which the '
                "share of real images that is flagged can be far from the one asked for."
            )
        if isinstance(images, str) and images == "generated":
            source = GENERATED
            images = list((self.sample(n_generated, seed).clamp(-1, 1) + 1) / 2)
        scores: list[float] = []
        highest: list[float] = []
        votes: list[float] = []
        both = (fraction,) if fraction is None else (fraction, None)  # None: all patches
        for prediction in scorer.predictions(images, both, True, None, progress):
            assert prediction.anomaly_map is not None
            scores.append(float(prediction.scores[0]))
            highest.append(float(prediction.anomaly_map.max()))
            votes += list(prediction.normality[-1])  # of each scale
        score, pixel = (upper_quantile(values, false_positive_rate) for values in (scores, highest))
        threshold = Threshold(
            score,
            pixel,
            float(false_positive_rate),
            len(scores),
            source,
            fraction,
            min(scores),
            float(np.median(scores)),
            max(scores),
            limit=_names(images, len(scores))[scores.index(score)],
            mean_vote=float(np.mean(votes)) / len(self.transformations_) if votes else None,
        )
        self._with(replace(self.model_, threshold=threshold), self.device_)
        return threshold

    def set_threshold(
        self, score: float, pixel: float | None = None, defect_fraction: float | None = None
    ) -> Threshold:
        """Set by hand what ``calibrate`` would choose, and return it.

        Args:
            score: anomaly score in [0, 1] above which an image is called anomalous.
            pixel: value of the map above which a pixel is; by default the same.
            defect_fraction: as of ``calibrate``.

        Raises:
            ConfigError: one of them is out of range.
        """
        threshold = threshold_by_hand(score, pixel, defect_fraction)
        self._with(replace(self._model(), threshold=threshold), self.device_)
        return threshold

    def decision_function(self, X: Images, **options: Any) -> np.ndarray:
        """``score_samples - offset_``, (B,): negative for images that are called anomalous.

        ``options`` are the ``batch_size`` and ``progress`` of ``predictions``.

        Raises:
            NotFittedError: there is no threshold yet.
        """
        threshold = self._model().threshold
        if threshold is None:
            raise NotFittedError(
                "This detector has no threshold: call calibrate(images) with normal images that "
                "did not train."
            )
        return self.score_samples(X, threshold.defect_fraction, **options) - self.offset_

    def predict(self, X: Images, **options: Any) -> np.ndarray:
        """+1 for images called normal, -1 for anomalous ones, (B,), as in scikit-learn.

        ``options`` and errors are those of ``decision_function``.
        """
        return np.where(self.decision_function(X, **options) < 0, -1, 1)

    # --- Images from the model ----------------------------------------------------------------

    def sample(
        self, n: int = 1, seed: int = 0, size: Size | None = None, from_scale: int = 0
    ) -> torch.Tensor:
        """``n`` random images (n, 3, H, W), about in [-1, 1], on the CPU: ``Sampler.sample``."""
        return Sampler(self._model(), self.device_).sample(n, seed, size, from_scale)

    def reconstruct(self) -> torch.Tensor:
        """The training images rebuilt from the fixed noise z*: (K, 3, H, H), on the CPU."""
        return Sampler(self._model(), self.device_).reconstruct()

    # --- On disk ------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write the model directory ``folder`` in one step; ModelError if that cannot be done."""
        save_model(self._model(), Path(folder))

    def save_threshold(self, folder: str | Path) -> None:
        """Keep the threshold in the model directory, which stays as it is otherwise."""
        change_threshold(Path(folder), self._model().threshold)

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto") -> HTDGDetector:
        """Read a model directory onto ``device``, wherever it was trained.

        Raises:
            ModelError: it is missing, of a newer format, damaged or altered.
        """
        return cls.from_model(saved_model(Path(folder), device))

    # --- What a trained model is --------------------------------------------------------------

    def _model(self) -> ModelState:
        if not hasattr(self, "model_"):
            raise NotFittedError("This detector is not trained: call fit(images) or load(folder).")
        return self.model_

    def _check_votes(self) -> None:
        """Raise ConfigError if nothing votes."""
        if self.config_.evidence == "distance":
            raise ConfigError(
                "This model has evidence 'distance', so nothing votes at its scales: ask for "
                "anomaly_score, or train with evidence 'votes' or 'both'."
            )

    def _scorer(self) -> Scorer:
        scorer = scorer_of(self._model(), self.device_, self.evidence_)
        self.evidence_ = scorer.evidence  # measured for the first one
        return scorer

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled; what normal patches have is large, and measured again."""
        state = dict(super().__getstate__())
        return state | {"evidence_": None} if "evidence_" in state else state

    @property
    def config_(self) -> HTDGConfig:
        """The options that it was trained with."""
        return self._model().config

    @property
    def sides_(self) -> tuple[int, ...]:
        """Sides of the scales in pixels, coarsest first."""
        return self._model().sides

    @property
    def scales_(self) -> tuple[Scale, ...]:
        """The trained scales, coarsest first."""
        return self._model().scales

    @property
    def transformations_(self) -> tuple[Transformation, ...]:
        """T_1 .. T_M."""
        return self._model().transformations

    @property
    def images_(self) -> torch.Tensor:
        """The training images (K, 3, s, s) in [-1, 1], on the CPU."""
        return self._model().images

    @property
    def image_names_(self) -> list[str]:
        """What the training images were called."""
        return list(self._model().image_names)

    @property
    def history_(self) -> list[dict[str, Any]]:
        """What was recorded in training: see ``ModelState``."""
        return [dict(scale) for scale in self._model().history]

    @property
    def threshold_(self) -> Threshold | None:
        """What ``calibrate`` chose, or None."""
        return self._model().threshold

    @property
    def images_at_once_(self) -> int:
        """Training images that went through the networks together."""
        return self._model().images_at_once

    @property
    def trained_with_(self) -> dict[str, str]:
        """Versions, and the kind of device."""
        return dict(self._model().trained_with)

    @property
    def training_seconds_(self) -> float:
        """What the training took."""
        return self._model().training_seconds

    @property
    def has_generator_(self) -> bool:
        """Whether the model can make images."""
        return self._model().has_generator


def _names(images: Images, count: int) -> Sequence[str]:
    """What to call the training images: their paths where they have one, else a number."""
    if isinstance(images, (str, Path)) or is_file(images):
        images = [images]
    several = images if isinstance(images, (list, tuple)) else [None] * count
    return [image_name(image, number) for number, image in enumerate(several, start=1)]


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
