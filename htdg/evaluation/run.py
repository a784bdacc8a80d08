"""Train on a data set's normal images, score its test images, and report how well that works.

The experiments of paper section 4, one at a time: a data set, its normal class, and K images of it.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex, overload

import numpy as np
import torch

from htdg.ablations.variants import as_variant, variant_named
from htdg.config import ConfigError, HTDGConfig
from htdg.datasets import Dataset, DatasetError, SampleSequence, equalise, load_dataset
from htdg.detector import HTDGDetector, fit_or_go_on
from htdg.errors import UserError
from htdg.evaluation import plots
from htdg.evaluation.metrics import image_metrics
from htdg.evaluation.pixel_metrics import PixelMetrics
from htdg.evaluation.tables import score_table
from htdg.evidence import DEFECT_FRACTION
from htdg.io.checkpoint import remove_checkpoint
from htdg.io.damaged import grey_square
from htdg.io.files import check_writable, printable, write_text
from htdg.io.folders import recover, remove
from htdg.io.images import load_images, load_uint8, to_uint8
from htdg.io.locks import only_one
from htdg.io.model_directory import ModelError
from htdg.runtime.progress import TrainingCallback, name_skipped, say
from htdg.tiles import training_squares
from htdg.version import __version__
from htdg.votes import Fractions, as_fractions

EQUALISE = ("train", "both", "none")
#: Options of single data sets that an evaluation can be given.
DATASET_OPTIONS = ("train", "test", "masks", "good", "strict", "archive")
#: What an evaluation leaves in its folder besides the model.
RESULTS = (
    "metrics.json",
    "scores.csv",
    "config.json",
    "losses.png",
    "histogram.png",
    "roc.png",
    "gallery.png",
    "maps.png",
)


class EvaluationError(UserError):
    """An evaluation that cannot be done as asked; the message says what to change."""


@dataclass(frozen=True)
class Task:
    """An experiment: the images to train on, and those to test.

    Attributes:
        dataset: name of the data set.
        normal_class: name or number of its normal class; None if it has only one.
        shots: number of training images, K.
        index: which block of K images in file order, counted from 1; by default the first.
        draw: instead of ``index``, the seed to draw the K images with.
        limit: test only so many images, the first of the set.
        limit_per_kind: test only so many images of each class or defect, the first of the set.
        data_root: folder that holds the data sets.
        options: of the data set, such as ``train`` and ``test`` of ``folder``.
        equalise: contrast equalisation (CLAHE) of colour images: of the ``train`` images as in the
            official code, of ``both`` training and test images, or ``none``.
        defect_fraction: average only this share of the votes, the lowest (``aggregate_votes``),
            and of the pixels of distances, the highest. Of several, the first makes the scores and
            metrics; the others, which come from the same pass, are reported beside it.
        variant: an ablation of the paper's Table 6, by letter or name; None is the whole method.
    """

    dataset: str
    normal_class: str | int | None = None
    shots: int = 1
    index: int | None = None
    draw: int | None = None
    limit: int | None = None
    limit_per_kind: int | None = None
    data_root: str | Path = "data"
    options: Mapping[str, object] | None = None
    equalise: str = "none"
    defect_fraction: Fractions = None
    variant: str | None = None

    def __post_init__(self) -> None:
        """Check the attributes that the data set does not check."""
        if self.equalise not in EQUALISE:
            raise EvaluationError(
                f"equalise is {self.equalise!r}, but it must be one of {', '.join(EQUALISE)}."
            )
        if self.variant is not None:
            variant_named(self.variant)
        try:
            as_fractions(self.defect_fraction)
        except ConfigError as error:
            raise EvaluationError(str(error)) from None

    @property
    def fractions(self) -> tuple[float | None, ...]:
        """The defect fractions, (None,) for the mean over all votes."""
        return as_fractions(self.defect_fraction)


def default_equalise(preset: str, config: HTDGConfig) -> str:
    """The ``equalise`` of the official code for the preset ``paper_rgb``; ``none`` for others.

    The official code equalises the training images, but not with the four rotations.
    """
    equalises = preset == "paper_rgb" and config.transformations != "rotations"
    return "train" if equalises else "none"


def default_fraction(preset: str) -> float | None:
    """The ``defect_fraction`` of the preset ``inspect``; others look at all."""
    return DEFECT_FRACTION if preset == "inspect" else None


def evaluate(
    task: Task | str,
    out: str | Path,
    config: HTDGConfig | str = "tutorial",
    model: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
    callback: TrainingCallback | None = None,
    **options: object,
) -> dict[str, Any]:
    """Train, score a data set's test images, and write all results into a folder.

    A run that was stopped goes on where it was when it is started again with the same arguments.

    Args:
        task: what to evaluate, or the name of a data set, with the other attributes of ``Task``
            as ``options``; ``equalise`` and ``defect_fraction`` are then by default those of
            ``default_equalise`` and ``default_fraction``.
        out: folder for ``model/``, ``scores.csv``, ``config.json``, figures, and, when all is
            done, ``metrics.json``.
        config: options of the method, or the name of a preset.
        model: a trained model to use instead of training one.
        overwrite: replace the results of an earlier run.
        progress: show progress bars.
        callback: called after every iteration of training, as by ``HTDGDetector.fit``.

    Returns:
        What ``metrics.json`` holds; ``docs/data_sets.md`` explains its keys.

    Raises:
        EvaluationError, DatasetError, ConfigError, ImageError, ModelError: one sentence each.
    """
    preset = config if isinstance(config, str) else ""
    config = HTDGConfig.preset(config) if isinstance(config, str) else config
    if isinstance(task, str):
        make_task: Callable[..., Task] = Task
        defaults = {
            "equalise": default_equalise(preset, config),
            "defect_fraction": default_fraction(preset),
        }
        task = make_task(task, **{**defaults, **options})
    if task.variant is not None:
        if model is not None:
            raise EvaluationError(
                "A trained model cannot become a variant: leave out either it or variant."
            )
        config = as_variant(config, task.variant)
    with only_one(Path(out)):
        return _evaluated(task, Path(out), config, model, overwrite, progress, callback)


def _evaluated(
    task: Task,
    out: Path,
    config: HTDGConfig,
    model: str | Path | None,
    overwrite: bool,
    progress: bool,
    callback: TrainingCallback | None,
) -> dict[str, Any]:
    """``evaluate``, while nobody else writes to ``out``."""
    has_results = _check_output(out, overwrite)
    dataset = load_dataset(task.dataset, task.data_root, **(task.options or {}))
    if model is None:
        images, names = dataset.training_images(
            task.normal_class, task.shots, task.index, task.draw
        )
    else:
        detector = HTDGDetector.load(model, device=config.device)
        names = detector.image_names_
    # Before the training, so that a mistake in the test set shows at once.
    samples = dataset.test_set(task.normal_class, names, task.limit, task.limit_per_kind)
    if progress:
        name_skipped(dataset.skipped)
        say(dataset.notes)
        _warn_of_undefined_metrics(samples)
    n_notes = len(dataset.notes)
    if model is None:
        if task.equalise != "none" and dataset.colour:
            size = None if dataset.equalise_full_size else config.image_size
            images = [equalise(image, size, config.white_level) for image in images]
        # That of a complete run is as old as its results: it is replaced with them.
        taken = None if has_results else out / "model"
        shown = {"progress": progress, "callback": callback}
        detector = _trained_detector(images, names, config, out, taken, overwrite, **shown)
    started = time.perf_counter()
    equalised = task.equalise == "both" and dataset.colour
    test_images = TestImages(samples, equalised, detector.config_.white_level)
    scored, localisation = _scored(detector, test_images, task.fractions, progress)
    seconds = time.perf_counter() - started
    if progress:
        say(dataset.notes[n_notes:])  # of masks, which were read with the images
        say(printable(problem) for problem in test_images.problems.values())
    n_read, unreadable = len(samples), test_images.unreadable
    if unreadable:
        test_images, scored = test_images.without_problems(), scored.of(test_images.readable)
        samples = test_images.samples
    metrics = {
        **_description(dataset, task, detector),
        "unreadable": unreadable,
        **_detection_metrics(samples, scored, task.fractions, len(detector.transformations_)),
        **localisation,
        "training_seconds": round(detector.training_seconds_, 2),
        "scoring_ms_per_image": round(1000 * seconds / n_read, 3),
        "peak_memory_mib": peak_memory(detector.device_),
    }
    _clear(out)
    if model is not None:
        remove(out / "model")  # of an earlier run
    _write_results(out, metrics, test_images, scored, task.fractions, detector)
    return metrics


class Scored(NamedTuple):
    """What a detector says of B test images, for F defect fractions.

    Attributes:
        scores: (F, B) anomaly scores in [0, 1].
        normality: (F, B, N + 1) of each scale; (F, B, 0) where nothing votes.
        evidence: (F, B) of each kind, relative to normal patches; none with votes alone.
    """

    scores: np.ndarray
    normality: np.ndarray
    evidence: Mapping[str, np.ndarray]

    def of(self, images: Sequence[int]) -> Scored:
        """That of some of the images, by their numbers."""
        evidence = {kind: values[:, images] for kind, values in self.evidence.items()}
        return Scored(self.scores[:, images], self.normality[:, images], evidence)


def _scored(
    detector: HTDGDetector,
    test_images: TestImages,
    fractions: Sequence[float | None],
    progress: bool,
) -> tuple[Scored, dict[str, Any]]:
    """The scores of the test images, and the metrics of their anomaly maps.

    Maps are made if any defect is marked. Images without a label, and anomalous ones without a
    mask, are left out of these metrics: they do not say where a defect is.
    """
    samples = test_images.samples
    pixels = PixelMetrics()
    entries = samples.entries
    marked = any(samples.mask(i) is not None for i, e in enumerate(entries) if e.label == 1)
    predictions = detector.predictions(test_images, fractions, maps=marked, progress=progress)
    scores, normality, evidence, n_mapped = [], [], [], 0
    for i, prediction in enumerate(predictions):
        scores.append(prediction.scores)
        normality.append(prediction.normality)
        evidence.append(prediction.evidence)
        mask = test_images.masks.pop(i, None)  # was read with the image
        if prediction.anomaly_map is None or entries[i].label is None:
            continue
        if i in test_images.problems:
            continue
        if entries[i].label == 0 or mask is not None:
            pixels.add(prediction.anomaly_map, mask if entries[i].label == 1 else None)
            n_mapped += 1
    localisation = {**pixels.result(), "pixel_images": n_mapped} if marked else {}
    kinds = {kind: np.stack([of_image[kind] for of_image in evidence], 1) for kind in evidence[0]}
    return Scored(np.stack(scores, 1), np.stack(normality, 1), kinds), localisation


class TestImages(Sequence[np.ndarray]):
    """The images of a test set, read one by one, and equalised if asked for.

    Attributes:
        samples: the test set.
        equalised: whether the images are equalised.
        white_level: that of ``load_image``, which matters where they are.
        masks: by the number of the image, those of the images that were read.
        problems: what is wrong with images that cannot be read, by their number: a grey square
            stands for them. Complete once all have had their turn.
    """

    __test__ = False  # pytest takes it for a test because of its name

    def __init__(self, samples: SampleSequence, equalised: bool, white_level: int = 0) -> None:
        """The images of ``samples``, equalised or as they are."""
        self.samples, self.equalised, self.white_level = samples, equalised, white_level
        self.masks: dict[int, np.ndarray | None] = {}
        self.problems: dict[int, str] = {}

    @property
    def readable(self) -> list[int]:
        """The numbers of the images that could be read."""
        return [i for i in range(len(self)) if i not in self.problems]

    @property
    def unreadable(self) -> dict[str, str]:
        """The names of the images that could not be read, and why."""
        entries = self.samples.entries
        return {printable(entries[i].name): printable(why) for i, why in self.problems.items()}

    def without_problems(self) -> TestImages:
        """Those that could be read. EvaluationError if there are none."""
        if not self.readable:
            raise EvaluationError("None of the test images can be read: get them again.")
        return TestImages(self.samples.subset(self.readable), self.equalised, self.white_level)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.samples)

    @overload
    def __getitem__(self, i: SupportsIndex) -> np.ndarray: ...

    @overload
    def __getitem__(self, i: slice) -> list[np.ndarray]: ...

    def __getitem__(self, i: SupportsIndex | slice) -> np.ndarray | list[np.ndarray]:
        """Read image i, an array as ``Sample.image``; of a slice, a list of images."""
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        try:
            sample = self.samples[i]
        except DatasetError as error:
            self.problems[index(i)] = str(error)
            return grey_square().permute(1, 2, 0).numpy()
        self.masks[index(i)] = sample.mask
        if not self.equalised:
            return sample.image
        return equalise(sample.image, None, self.white_level)

    def __iter__(self) -> Iterator[np.ndarray]:
        """All images, in order."""
        return (self[i] for i in range(len(self)))


def _check_output(out: Path, overwrite: bool) -> bool:
    """Whether the folder holds results, which may be replaced.

    Raises:
        EvaluationError: they may not be, or it is no folder.
        OutputError: it cannot be written to.
    """
    if out.exists() and not out.is_dir():
        raise EvaluationError(f"{out} is a file: choose another output folder.")
    check_writable(out / "metrics.json")
    has_results = (out / "metrics.json").exists()
    if has_results and not overwrite:
        raise EvaluationError(
            f"{out} holds the results of an earlier run: choose another folder or overwrite it."
        )
    return has_results


def _clear(out: Path) -> None:
    """Remove the results of an earlier run but its model, ``metrics.json`` first."""
    for name in RESULTS:
        (out / name).unlink(missing_ok=True)


def _warn_of_undefined_metrics(samples: SampleSequence) -> None:
    """Say on standard error, before a long training, that its metrics will be undefined."""
    labels = {entry.label for entry in samples.entries}
    if labels in ({0}, {1}):
        kind = "anomalous" if labels == {1} else "normal"
        print(
            f"htdg: all {len(samples)} test images are {kind}, so there will be no metrics: "
            "set limit_per_kind, or no limit.",
            file=sys.stderr,
        )


def _trained_detector(
    images: list[np.ndarray],
    names: list[str],
    config: HTDGConfig,
    out: Path,
    taken: Path | None,
    overwrite: bool,
    **options: Any,
) -> HTDGDetector:
    """A detector trained on these images, now or in an earlier run that was stopped: ``taken``.

    ``options`` are those of ``HTDGDetector.fit``.
    """
    checkpoint = out / "model.unfinished"
    recover((out / "model").resolve())
    if taken is not None and taken.is_dir():
        try:
            detector = HTDGDetector.load(taken, device=config.device)
        except ModelError:
            if not overwrite:
                raise
        else:
            if _is_trained_so(detector, images, names, config):
                remove_checkpoint(checkpoint)  # if it was stopped while it did
                return detector
        if not overwrite:
            raise EvaluationError(
                f"{taken} is a model of another run: choose another output folder or overwrite it."
            )
    out.mkdir(parents=True, exist_ok=True)
    detector = fit_or_go_on(config, images, checkpoint, overwrite, names=names, **options)
    _clear(out)  # the results of another run hold until now
    detector.save(out / "model")
    remove_checkpoint(checkpoint)
    return detector


def _is_trained_so(
    detector: HTDGDetector, images: list[np.ndarray], names: list[str], config: HTDGConfig
) -> bool:
    """Whether a detector was trained on these images with these options."""
    loaded = load_images(images, config.white_level)
    square, labels = training_squares(loaded, names, config.image_size, config.tiles)
    same_images = detector.image_names_ == labels and torch.equal(detector.images_, square)
    return detector.config_ == config and same_images


def _description(dataset: Dataset, task: Task, detector: HTDGDetector) -> dict[str, Any]:
    """What was trained and tested, and on what."""
    return {
        "dataset": task.dataset,
        "data": dataset.description,
        "normal_class": dataset.resolve_class(task.normal_class),
        "shots": len(dict.fromkeys(detector.image_names_)),
        "training_images": list(dict.fromkeys(detector.image_names_)),
        "defect_fraction": task.fractions[0],
        "variant": None if task.variant is None else variant_named(task.variant).name,
        "method": detector.config_.method,
        "images_at_once": detector.images_at_once_,
        "equalise": task.equalise if dataset.colour else "none",
        "seed": detector.config_.seed,
        "device": _device_name(detector.device_),
        "versions": {
            "htdg": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def _detection_metrics(
    samples: SampleSequence,
    scored: Scored,
    fractions: Sequence[float | None],
    n_transformations: int,
) -> dict[str, Any]:
    """The metrics of the test images that have a label, from the first defect fraction.

    With several fractions, also the AUROC of each. Where nothing votes, there are no scales.
    """
    counts = {
        "test_images": len(samples),
        "test_images_anomalous": sum(entry.label == 1 for entry in samples.entries),
    }
    labels = {i: entry.label for i, entry in enumerate(samples.entries) if entry.label is not None}
    if not labels:
        return {**counts, "image_auroc": None, "undefined_because": "No image has a label."}
    scores, normality = scored.scores[:, list(labels)], scored.normality[0, list(labels)]
    per_scale = 1 - normality / n_transformations if normality.size else None  # (B, N + 1)
    truth = list(labels.values())
    metrics = {**counts, **image_metrics(truth, scores[0], per_scale)}
    if len(fractions) > 1:
        metrics["image_auroc_per_fraction"] = {
            str(fraction): image_metrics(truth, of_fraction)["image_auroc"]
            for fraction, of_fraction in zip(fractions, scores, strict=True)
        }
    return metrics


def peak_memory(device: torch.device) -> dict[str, float]:
    """The most memory, in MiB, that this process has used so far.

    Returns:
        ``ram`` (not on Windows), and ``gpu`` if the device is a CUDA one.
    """
    memory = {}
    try:
        import resource
    except ImportError:  # Windows does not have it
        pass
    else:
        unit = 2**20 if sys.platform == "darwin" else 2**10
        memory["ram"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
    if device.type == "cuda":
        memory["gpu"] = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return memory


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)"


def _write_results(
    out: Path,
    metrics: dict[str, Any],
    test_images: TestImages,
    scored: Scored,
    fractions: Sequence[float | None],
    detector: HTDGDetector,
) -> None:
    """Write all but the model; ``metrics.json`` last, so that it marks a finished run."""
    m, samples = len(detector.transformations_), test_images.samples
    scores = scored.scores[0]  # (B,)
    names = [entry.name for entry in samples.entries]
    labelled = [i for i, entry in enumerate(samples.entries) if entry.label is not None]
    labels = [entry.label for entry in samples.entries if entry.label is not None]
    all_labelled = len(labels) == len(names)
    others = {kind: values[0] for kind, values in scored.evidence.items()} | {
        f"anomaly_score_{fraction}": of_fraction
        for fraction, of_fraction in zip(fractions[1:], scored.scores[1:], strict=True)
    }
    label_column = labels if all_labelled else None
    table = score_table(names, label_column, scored.normality[0], m, others, scores)
    write_text(out / "scores.csv", table)
    write_text(out / "config.json", json.dumps(detector.config_.as_dict(), indent=1) + "\n")
    if detector.history_:
        plots.save_figure(plots.plot_losses(detector.history_), out / "losses.png")
    if all_labelled:
        plots.save_figure(plots.plot_histogram(labels, scores), out / "histogram.png")
    if metrics["image_auroc"] is not None:
        plots.save_figure(plots.plot_roc(labels, scores[labelled]), out / "roc.png")
        figure = gallery(detector, samples, scores, metrics["f1_max_threshold"])
        plots.save_figure(figure, out / "gallery.png")
    if "pixel_auroc" in metrics:
        plots.save_figure(maps_figure(detector, test_images), out / "maps.png")
    write_text(out / "metrics.json", json.dumps(metrics, indent=1) + "\n")


def gallery(
    detector: HTDGDetector,
    samples: SampleSequence,
    scores: np.ndarray,
    threshold: float,
    count: int = 6,
) -> plots.Figure:
    """Training images, random samples, and test images that were called right and wrong.

    Args:
        detector: a trained one.
        samples: the test set.
        scores: (B,) anomaly scores of the test set.
        threshold: images that score at least this count as flagged.
        count: the most images in a group; of the test images those furthest from the threshold.
    """
    flagged = scores >= threshold
    anomalous = np.array([entry.label == 1 for entry in samples.entries])
    normal = np.array([entry.label == 0 for entry in samples.entries])
    groups = {
        "true positives (anomalous, flagged)": flagged & anomalous,
        "true negatives (normal, not flagged)": ~flagged & normal,
        "false positives (normal, flagged)": flagged & normal,
        "false negatives (anomalous, not flagged)": ~flagged & anomalous,
    }
    rows: dict[str, list[tuple[np.ndarray, str]]] = {
        "training images": [(image, "") for image in to_uint8(detector.images_[:count])],
    }
    white = detector.config_.white_level
    if detector.has_generator_:
        rows["random samples"] = [(image, "") for image in to_uint8(detector.sample(count))]
    for name, members in groups.items():
        chosen = np.flatnonzero(members)
        chosen = chosen[np.argsort(-np.abs(scores[chosen] - threshold), kind="stable")][:count]
        rows[f"{name}: {members.sum()}"] = [
            (load_uint8(samples[i].image, white), f"{samples.entries[i].kind}\n{scores[i]:.3f}")
            for i in chosen
        ]
    return plots.plot_gallery(rows, count)


def maps_figure(detector: HTDGDetector, test_images: TestImages, count: int = 8) -> plots.Figure:
    """Test images with their defects outlined, and their anomaly maps below.

    At most ``count``: the first image of each class or defect, then the second, and so on.
    """
    entries = test_images.samples.entries
    seen: Counter[str] = Counter()
    order = []
    for i, entry in enumerate(entries):
        order.append((seen[entry.kind], i))
        seen[entry.kind] += 1
    chosen = sorted(i for _, i in sorted(order)[:count])
    images = [test_images[i] for i in chosen]
    predictions = detector.predictions(images, maps=True)
    return plots.plot_maps(
        [load_uint8(image, detector.config_.white_level) for image in images],
        [p.anomaly_map for p in predictions if p.anomaly_map is not None],
        [test_images.samples.mask(i) for i in chosen],
        [entries[i].kind for i in chosen],
    )
