"""Train on a data set's normal images, score its test images, and report how well that went."""

from __future__ import annotations

import json
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

try:
    import resource
except ImportError:  # on Windows
    resource = None

from htdg.ablations.variants import as_variant, variant_named
from htdg.config import ConfigError, HTDGConfig
from htdg.datasets import Dataset, SampleSequence, equalise, load_dataset
from htdg.detector import HTDGDetector
from htdg.errors import UserError
from htdg.evaluation import plots
from htdg.evaluation.metrics import image_metrics
from htdg.evaluation.pixel_metrics import PixelMetrics
from htdg.evaluation.tables import score_table
from htdg.io.checkpoint import remove_checkpoint
from htdg.io.files import check_writable, write_text
from htdg.io.images import load_image, to_uint8
from htdg.pyramid import resize
from htdg.runtime.progress import name_skipped
from htdg.version import __version__
from htdg.votes import as_fractions

EQUALISE = ("train", "both", "none")
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
    """What is evaluated: which images train, which test.

    Attributes:
        dataset: name of the data set.
        normal_class: name or number of its normal class; None if it has only one.
        shots: training images K.
        index: which block of K in file order, counted from 1 (the first if neither is given).
        draw: instead of that, the seed to draw them with.
        limit: test only on the first images of the set.
        limit_per_kind: test only on the first of each class or defect.
        data_root: folder that the data sets lie in.
        options: of the data set, such as ``train`` and ``test`` of ``folder``.
        equalise: contrast equalisation (CLAHE) of colour images: of the ``train`` images as in the
            official code, of ``both`` training and test images, or ``none``.
        defect_fraction: average only the lowest share of the votes. Of several, which all come
            from one pass, the first makes the scores and metrics, and the others are set beside it.
        variant: an ablation of the paper's Table 6, by letter or name (see ``htdg.ablations.variants``).
    """

    dataset: str
    normal_class: str | int | None = None
    shots: int = 1
    index: int | None = None
    draw: int | None = None
    limit: int | None = None
    limit_per_kind: int | None = None
    data_root: str | Path = "data"
    options: dict[str, Any] | None = None
    equalise: str = "none"
    defect_fraction: float | Sequence[float] | None = None
    variant: str | None = None

    def __post_init__(self) -> None:
        """Check what the data set cannot."""
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
    """What the official code does if ``preset`` is the paper's for colour images, else ``none``.

    It equalises the training images, but not for the four rotations.
    """
    paper = preset == "paper_rgb" and config.transformations != "rotations"
    return "train" if paper else "none"


def evaluate(
    task: Task | str,
    out: str | Path,
    config: HTDGConfig | str = "tutorial",
    model: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
    **options: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """Train, score a data set's test images, and write everything into a folder.

    A run that was stopped goes on where it was when started again with the same arguments.

    Args:
        task: what to evaluate, or the name of a data set, with the other attributes of ``Task``
            as ``options``; ``equalise`` then follows the preset (see ``default_equalise``).
        out: folder for ``model/``, ``scores.csv``, ``config.json``, figures, and, when all is
            done, ``metrics.json``.
        config: options of the method, or the name of a preset.
        model: a trained model to use instead of training one.
        overwrite: replace the results of an earlier run.
        progress: show progress bars.

    Returns:
        What ``metrics.json`` holds; its keys are explained in the README.

    Raises:
        EvaluationError, DatasetError, ConfigError, ImageError, ModelError: one sentence each.
    """
    preset = config if isinstance(config, str) else ""
    config = HTDGConfig.preset(config) if isinstance(config, str) else config
    if isinstance(task, str):
        task = Task(task, **{"equalise": default_equalise(preset, config), **options})
    if task.variant is not None:
        if model is not None:
            raise EvaluationError("A trained model is what it is: leave out either it or variant.")
        config = as_variant(config, task.variant)
    out = Path(out)
    finished = _check_place(out, overwrite)
    dataset = load_dataset(task.dataset, task.data_root, **(task.options or {}))
    detector, images, names = None, [], []
    if model is None:
        chosen = (task.normal_class, task.shots, task.index, task.draw)
        images, names = dataset.training_images(*chosen)
    else:
        detector = HTDGDetector.load(model, device=config.device)
        names = detector.image_names
    # Before the training, so that a mistake in the test set is found at once.
    test = dataset.test_set(task.normal_class, names, task.limit, task.limit_per_kind)
    if progress:
        name_skipped(dataset.skipped)
        _foresee(test)
    if finished:
        _clear(out)
    if detector is None:
        if task.equalise != "none" and dataset.colour:
            size = None if dataset.equalise_full_size else config.image_size
            images = [equalise(image, size) for image in images]
        detector = _trained(images, names, config, out, overwrite, progress)
    started = time.perf_counter()
    shown = TestImages(test, equalised=task.equalise == "both" and dataset.colour)
    rows, located = _judged(detector, test, shown, task.fractions, progress)
    seconds = time.perf_counter() - started
    metrics = {
        **_described(dataset, task, detector),
        **_measured(test, rows, task.fractions, len(detector.transformations)),
        **located,
        "training_seconds": round(detector.training_seconds, 2),
        "scoring_ms_per_image": round(1000 * seconds / len(test), 3),
        "peak_memory_mib": peak_memory(detector.device),
    }
    _write(out, metrics, shown, rows, task.fractions, detector)
    return metrics


def _judged(
    detector: HTDGDetector,
    test: SampleSequence,
    shown: TestImages,
    fractions: Sequence[float | None],
    progress: bool,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Normality (F, B, N + 1) of the test images, and how well their defects were located.

    Maps are made if any defect is marked. Images of unknown kind, and anomalous ones that nobody
    marked, say nothing about where a defect is.
    """
    pixels = PixelMetrics()
    marked = any(test.mask(i) is not None for i, e in enumerate(test.entries) if e.label == 1)
    rows, used = [], 0
    for i, verdict in enumerate(detector.judge(shown, fractions, maps=marked, progress=progress)):
        rows.append(verdict.normality)
        mask = shown.masks.pop(i)  # read with the image
        if not marked or test.entries[i].label is None:
            continue
        mask = mask if test.entries[i].label == 1 else None
        if test.entries[i].label == 0 or mask is not None:
            pixels.add(verdict.anomaly_map, mask)
            used += 1
    located = {**pixels.result(), "pixel_images": used} if marked else {}
    return np.stack(rows, 1), located


class TestImages(Sequence[np.ndarray]):
    """The images of a test set, read one by one, equalised if the training images were too."""

    __test__ = False  # not a test, whatever its name makes pytest think

    def __init__(self, samples: SampleSequence, equalised: bool) -> None:
        """The images of ``samples``; ``masks`` keeps those of the images read, by number."""
        self.samples, self.equalised = samples, equalised
        self.masks: dict[int, np.ndarray | None] = {}

    def __len__(self) -> int:
        """How many there are."""
        return len(self.samples)

    def __getitem__(self, i: Any) -> Any:  # noqa: ANN401
        """Image i."""
        sample = self.samples[i]
        self.masks[i] = sample.mask
        return equalise(sample.image) if self.equalised else sample.image

    def __iter__(self) -> Iterator[np.ndarray]:
        """All, in order."""
        return (self[i] for i in range(len(self)))


def _check_place(out: Path, overwrite: bool) -> bool:
    """Whether a finished run is in the folder; an error if it may not be replaced."""
    if out.exists() and not out.is_dir():
        raise EvaluationError(f"{out} is a file: choose another output folder.")
    check_writable(out / "metrics.json")
    finished = (out / "metrics.json").exists()
    if finished and not overwrite:
        raise EvaluationError(
            f"{out} holds the results of an earlier run: choose another folder or overwrite it."
        )
    return finished


def _clear(out: Path) -> None:
    """Remove the results of an earlier run, ``metrics.json`` first."""
    for name in RESULTS:
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / "model", ignore_errors=True)


def _foresee(test: SampleSequence) -> None:
    """Say before a long training that its metrics will be undefined."""
    labels = {entry.label for entry in test.entries}
    if labels in ({0}, {1}):
        kind = "anomalous" if labels == {1} else "normal"
        print(
            f"htdg: all {len(test)} test images are {kind}, so there will be no metrics: "
            "set limit_per_kind, or no limit.",
            file=sys.stderr,
        )


def _trained(
    images: list[np.ndarray],
    names: list[str],
    config: HTDGConfig,
    out: Path,
    overwrite: bool,
    progress: bool,
) -> HTDGDetector:
    """A detector trained on these images, or by an earlier start of this run."""
    unfinished, folder = out / "model.unfinished", out / "model"
    if folder.is_dir():
        detector = HTDGDetector.load(folder, device=config.device)
        square = torch.cat([resize(load_image(i)[None], config.image_size) for i in images])
        same_images = detector.image_names == names and torch.equal(detector.images, square)
        if detector.config == config and same_images:
            return detector
        if not overwrite:
            raise EvaluationError(
                f"{folder} is a model of another run: choose another output folder or overwrite it."
            )
    out.mkdir(parents=True, exist_ok=True)
    detector = HTDGDetector(config)
    detector.fit(images, names=names, progress=progress, checkpoint=unfinished)
    detector.save(folder)
    remove_checkpoint(unfinished)
    return detector


def _described(dataset: Dataset, task: Task, detector: HTDGDetector) -> dict[str, Any]:
    return {
        "dataset": task.dataset,
        "data": dataset.description,
        "normal_class": dataset.resolve_class(task.normal_class),
        "shots": len(detector.images),
        "training_images": detector.image_names,
        "defect_fraction": task.fractions[0],
        "variant": None if task.variant is None else variant_named(task.variant).name,
        "method": detector.config.method,
        "images_at_once": detector.images_at_once,
        "equalise": task.equalise if dataset.colour else "none",
        "seed": detector.config.seed,
        "device": _device_name(detector.device),
        "versions": {
            "htdg": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def _measured(
    test: SampleSequence,
    rows: np.ndarray,
    fractions: Sequence[float | None],
    n_transformations: int,
) -> dict[str, Any]:
    """The metrics over the test images whose label is known, of the first fraction.

    With several fractions also the AUROC of each.
    """
    known = [i for i, entry in enumerate(test.entries) if entry.label is not None]
    counts = {
        "test_images": len(test),
        "test_images_anomalous": sum(entry.label == 1 for entry in test.entries),
    }
    if not known:
        return {**counts, "image_auroc": None, "undefined_because": "No image has a label."}
    per_scale = 1 - rows[:, known] / n_transformations  # (F, B, N + 1) anomaly scores in [0, 1]
    labels = [test.entries[i].label for i in known]
    found = {**counts, **image_metrics(labels, per_scale[0].mean(1), per_scale[0])}
    if len(fractions) > 1:
        found["image_auroc_per_fraction"] = {
            str(fraction): image_metrics(labels, of_fraction.mean(1))["image_auroc"]
            for fraction, of_fraction in zip(fractions, per_scale, strict=True)
        }
    return found


def peak_memory(device: torch.device) -> dict[str, float]:
    """The most memory this process has had so far, MiB: ``ram``, and ``gpu`` on CUDA.

    Windows does not tell ``ram``.
    """
    unit = 2**20 if sys.platform == "darwin" else 2**10
    found = {}
    if resource is not None:
        found["ram"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
    if device.type == "cuda":
        found["gpu"] = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return found


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)"


def _write(
    out: Path,
    metrics: dict[str, Any],
    shown: TestImages,
    rows: np.ndarray,
    fractions: Sequence[float | None],
    detector: HTDGDetector,
) -> None:
    """Everything but the model; ``metrics.json`` last, so that it stands for a finished run."""
    m, test = len(detector.transformations), shown.samples
    entries = test.entries
    labels = [entry.label for entry in entries]
    known = None if any(label is None for label in labels) else labels
    others = {
        f"anomaly_score_{fraction}": 1 - of_fraction.mean(1) / m
        for fraction, of_fraction in zip(fractions[1:], rows[1:], strict=True)
    }
    names = [entry.name for entry in entries]
    write_text(out / "scores.csv", score_table(names, known, rows[0], m, others))
    write_text(out / "config.json", json.dumps(detector.config.as_dict(), indent=1) + "\n")
    scores = 1 - rows[0].mean(1) / m
    if detector.history:
        plots.save_figure(plots.plot_losses(detector.history), out / "losses.png")
    if known is not None:
        plots.save_figure(plots.plot_histogram(labels, scores), out / "histogram.png")
    if metrics["image_auroc"] is not None:
        plots.save_figure(plots.plot_roc(labels, scores), out / "roc.png")
        figure = gallery(detector, test, scores, metrics["f1_max_threshold"])
        plots.save_figure(figure, out / "gallery.png")
    if "pixel_auroc" in metrics:
        plots.save_figure(maps_figure(detector, shown), out / "maps.png")
    write_text(out / "metrics.json", json.dumps(metrics, indent=1) + "\n")


def gallery(
    detector: HTDGDetector,
    test: SampleSequence,
    scores: np.ndarray,
    threshold: float,
    count: int = 6,
) -> plots.Figure:
    """The training images, random samples, and test images rightly and wrongly judged.

    Images that score at least ``threshold`` count as flagged. Of each group the ``count`` images
    furthest from the threshold are shown.
    """
    flagged = scores >= threshold
    anomalous = np.array([entry.label == 1 for entry in test.entries])
    groups = {
        "true positives (anomalous, flagged)": flagged & anomalous,
        "true negatives (normal, not flagged)": ~flagged & ~anomalous,
        "false positives (normal, flagged)": flagged & ~anomalous,
        "false negatives (anomalous, not flagged)": ~flagged & anomalous,
    }
    shown: dict[str, list[tuple[np.ndarray, str]]] = {
        "training images": [(image, "") for image in to_uint8(detector.images[:count])],
    }
    if detector.has_generator:
        shown["random samples"] = [(image, "") for image in to_uint8(detector.sample(count))]
    for name, members in groups.items():
        chosen = np.flatnonzero(members)
        chosen = chosen[np.argsort(-np.abs(scores[chosen] - threshold), kind="stable")][:count]
        label = f"{name}: {members.sum()}"
        shown[label] = [
            (_displayed(test[i].image), f"{test.entries[i].kind}\n{scores[i]:.3f}") for i in chosen
        ]
    return plots.plot_gallery(shown, count)


def maps_figure(detector: HTDGDetector, shown: TestImages, count: int = 8) -> plots.Figure:
    """Test images with their true defects outlined, their maps below: the first of each kind."""
    entries = shown.samples.entries
    turns: dict[str, int] = {}
    order = []
    for i, entry in enumerate(entries):
        turns[entry.kind] = turns.get(entry.kind, 0) + 1
        order.append((turns[entry.kind], i))
    chosen = sorted(i for _, i in sorted(order)[:count])
    images = [shown[i] for i in chosen]
    maps = [verdict.anomaly_map for verdict in detector.judge(images, maps=True)]
    return plots.plot_maps(
        [_displayed(image) for image in images],
        maps,
        [shown.samples.mask(i) for i in chosen],
        [entries[i].kind for i in chosen],
    )


def _displayed(image: np.ndarray) -> np.ndarray:
    return to_uint8(load_image(image)[None])[0]
