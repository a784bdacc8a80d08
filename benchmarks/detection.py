"""How well defects are found and placed: ``python -m benchmarks.detection --data-root data``.

Every set with votes, patch distances and both, one-shot and five-shot, three draws; the mean
squared error from the nearest training image beside them, on the same test images; and how often a
threshold from 20 held-out normal images raises a false alarm. One trained model yields all kinds of
evidence. Every run is kept in ``detection.json`` as soon as it is done and is not repeated, so a
stopped benchmark goes on where it was. Writes its part of ``benchmarks/README.md``, with the
targets that are met and missed, and prints it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.detection_page import FALSE_ALARMS_ASKED, KINDS, TITLE, page
from benchmarks.kept import do_missing, read_kept
from benchmarks.quality import commit
from benchmarks.report import write_part
from htdg import HTDGDetector
from htdg.datasets import Dataset, SampleSequence, load_dataset
from htdg.datasets.cifar10 import Cifar10
from htdg.datasets.mnist import FashionMnist
from htdg.evaluation.metrics import image_metrics
from htdg.evaluation.pixel_metrics import PixelMetrics
from htdg.evaluation.run import TestImages
from htdg.evidence import DEFECT_FRACTION
from htdg.runtime.device import machine, resolve_device
from htdg.state import ModelState

HERE = Path(__file__).parent
#: Where ``--quick`` keeps its results; git ignores ``runs``.
QUICK = Path("runs/detection_quick")
#: Normal images, which do not train, that a threshold is chosen with.
HELD_OUT = 20
#: Test images of FashionMNIST and CIFAR10, chosen at random, always the same.
NOVELTY_IMAGES = 1000
Result = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A normal class of a data set, and how it is detected.

    Attributes:
        group: what the tables call its set, of which there can be several classes.
        dataset: name of the data set.
        normal_class: that of the data set.
        preset: ``inspect`` for defects; ``novelty`` and, in colour, ``novelty_rgb`` where whole
            images are normal or not.
        folder: of the data set below the data root.
        held_out: whether the false alarms of a threshold are counted.
    """

    group: str
    dataset: str
    normal_class: str
    preset: str = "inspect"
    folder: str = "."
    held_out: bool = False

    @property
    def finds_defects(self) -> bool:
        """Whether parts of images are anomalous, not whole images."""
        return self.preset == "inspect"

    @property
    def name(self) -> str:
        """Group and class, where the group has several."""
        return self.group if self.finds_defects else f"{self.group} {self.normal_class}"

    @property
    def fraction(self) -> float | None:
        """The share of votes and pixels that makes the score."""
        return DEFECT_FRACTION if self.finds_defects else None


CASES = (
    Case("bottle", "mvtec", "bottle", held_out=True),
    Case("brick", "textures", "brick"),
    Case("grid", "mvtec", "grid", held_out=True),
    Case("magnetic_tile", "folder", "good", folder="magnetic_tile", held_out=True),
    Case("grass", "textures", "grass"),
    Case("gravel", "textures", "gravel"),
    *(
        Case("fashionmnist", "fashionmnist", c, "novelty", held_out=c == "Sneaker")
        for c in FashionMnist.classes
    ),
    *(Case("cifar10", "cifar10", c, "novelty_rgb") for c in Cifar10.classes),
)
GROUPS = tuple(dict.fromkeys(case.group for case in CASES))


# --- A run --------------------------------------------------------------------------------------


def test_samples(case: Case, dataset: Dataset, names: Sequence[str], most: int) -> SampleSequence:
    """All test images, or so many chosen at random with a fixed seed, in file order."""
    samples = dataset.test_set(case.normal_class, names)
    if len(samples) <= most:
        return samples
    chosen = np.random.default_rng(0).permutation(len(samples))[:most]
    return SampleSequence(dataset, [samples.entries[i] for i in sorted(chosen)])


test_samples.__test__ = False  # type: ignore[attr-defined]  # pytest takes it for a test


def perform(
    case: Case,
    shots: int,
    draw: int,
    data_root: Path,
    most: int | None = None,
    **options: Any,
) -> Result:
    """Train once, and score the test images with each kind of evidence.

    Args:
        case: what is normal.
        shots: training images.
        draw: seed of everything random, and of which images train.
        data_root: folder that holds the data sets.
        most: test images at most, chosen at random; all by default, 1,000 where whole images
            are normal or not.
        options: of the config, to be changed.
    """
    dataset = load_dataset(case.dataset, data_root / case.folder)
    spare = len(dataset.training_pool(case.normal_class)) - shots
    more = max(0, min(HELD_OUT, spare)) if case.held_out else 0
    images, names = dataset.training_images(case.normal_class, shots + more, seed=draw)
    images, held_out = images[:shots], images[shots:]
    if most is None:
        most = sys.maxsize if case.finds_defects else NOVELTY_IMAGES
    samples = test_samples(case, dataset, names, most)
    detector = HTDGDetector(case.preset, seed=draw, **{**options, "evidence": "votes"})
    started = time.process_time()
    trained = detector.fit(images, names=names[:shots], progress=False).model_
    fitting = time.process_time() - started
    kinds, alarms = {}, None
    for kind in KINDS:
        started = time.process_time()
        detector = of_kind(kind, trained, images)
        detector.anomaly_score(images[:1])  # the first time it measures what is normal
        made = time.process_time() - started
        kinds[kind], scores = figures(detector, samples, case.fraction)
        kinds[kind]["seconds"] = made + (fitting if kind in ("votes", "both") else 0)
        if kind == "both" and held_out:
            normal = scores[[entry.label == 0 for entry in samples.entries]]
            alarms = false_alarms(detector, held_out, normal, case.fraction)
    result = {"set": case.group, "class": case.normal_class, "shots": shots, "draw": draw}
    result |= {"kinds": kinds, "false_alarms": alarms}
    return {**result, "test_images": len(samples), "commit": commit()}


def of_kind(kind: str, model: ModelState, images: list[np.ndarray]) -> HTDGDetector:
    """A detector with one kind of evidence around the model that was trained for the votes.

    Training is the same for all kinds. The mean squared error has a model of its own.
    """
    if kind != "mse":
        return HTDGDetector.from_model(
            replace(model, config=model.config.with_options(evidence=kind))
        )
    config = model.config.with_options(method="mse", evidence="votes")
    return HTDGDetector(config).fit(images, progress=False)


def figures(
    detector: HTDGDetector, samples: SampleSequence, fraction: float | None
) -> tuple[Result, np.ndarray]:
    """Metrics and milliseconds an image, reading it and its map included; scores (B,).

    Times are the processor's, whatever runs beside it.
    """
    labels = np.array([entry.label for entry in samples.entries])
    marked = any(samples.mask(i) is not None for i, label in enumerate(labels) if label == 1)
    test_images = TestImages(samples, equalised=False)
    started = time.process_time()
    predictions = list(detector.predictions(test_images, (fraction,), maps=marked))
    seconds = time.process_time() - started
    scores = np.array([prediction.scores[0] for prediction in predictions])
    metrics = image_metrics(labels, scores)
    result = {name: metrics[name] for name in ("image_auroc", "average_precision")}
    if marked:
        pixels = PixelMetrics()
        for i, prediction in enumerate(predictions):
            assert prediction.anomaly_map is not None
            mask = test_images.masks[i]
            if labels[i] == 0 or mask is not None:
                pixels.add(prediction.anomaly_map, mask)
        located = pixels.result()
        result |= {name: located[name] for name in ("pixel_auroc", "aupro")}
    return {**result, "ms": 1000 * seconds / len(samples)}, scores


def false_alarms(
    detector: HTDGDetector, held_out: list[np.ndarray], normal: np.ndarray, fraction: float | None
) -> Result:
    """How many normal test images, with scores (B,), a threshold from held-out ones flags."""
    threshold = detector.calibrate(held_out, FALSE_ALARMS_ASKED, fraction)
    flagged = int((normal > threshold.score).sum())
    return {"held_out": len(held_out), "normal": len(normal), "flagged": flagged}


# --- All runs -----------------------------------------------------------------------------------


def plan(
    groups: Sequence[str], shots: Sequence[int], draws: Sequence[int]
) -> Iterator[tuple[str, Case, int, int]]:
    """(key, case, shots, draw), one draw of all defects first, novelty after all their draws."""
    for k in shots:
        for defects in (True, False):
            for draw in draws:
                for case in CASES:
                    if case.finds_defects == defects and case.group in groups:
                        yield f"{case.name} {k} {draw}", case, k, draw


def run_missing(
    kept: dict[str, Any],
    file: Path,
    runs: Iterator[tuple[str, Case, int, int]],
    data_root: Path,
    **options: Any,
) -> bool:
    """Do what is not in ``kept`` yet and write ``file`` after each; False if one cannot be done.

    ``options`` are those of ``perform``.
    """
    return do_missing(
        kept,
        file,
        (
            (key, partial(perform, case, shots, draw, data_root, **options))
            for key, case, shots, draw in runs
        ),
    )


def numbers(text: str) -> list[int]:
    """Whole numbers with commas between them, as an argument."""
    return [int(word) for word in text.split(",")]


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description="How well defects are found and placed.")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--quick", action="store_true", help=f"the textures alone, into {QUICK}")
    parser.add_argument("--sets", default=",".join(GROUPS), help="with commas between them")
    parser.add_argument("--shots", type=numbers, default=[1, 5], help="default: 1,5")
    parser.add_argument("--draws", type=numbers, default=[0, 1, 2], help="default: 0,1,2")
    parser.add_argument("--threads", type=int, help="of PyTorch")
    parser.add_argument("--report-only", action="store_true", help="only write the page again")
    options = parser.parse_args()
    groups = options.sets.split(",")
    for name in groups:
        if name not in GROUPS:
            parser.error(f"--sets: no set {name!r}; choose from {', '.join(GROUPS)}")
    if options.threads:
        torch.set_num_threads(options.threads)
    sys.exit(0 if benchmark(options, groups) else 1)


def benchmark(options: argparse.Namespace, groups: Sequence[str]) -> bool:
    """Run what is missing and write the page; False if something cannot be done."""
    place, runs, more, note = HERE, plan(groups, options.shots, options.draws), {}, ""
    if options.quick:
        place, runs = QUICK, plan(("brick", "grass", "gravel"), [1], [0])
        more = {"most": 20, "niter": 4}
        note = "Quick: 20 test images of each set, 4 iterations a scale. "
        place.mkdir(parents=True, exist_ok=True)
    commit()  # as it is now, whatever is edited meanwhile
    file = place / "detection.json"
    kept = read_kept(file, machine(resolve_device("cpu")))
    complete = options.report_only or run_missing(kept, file, runs, options.data_root, **more)
    write_part(place / "README.md", TITLE, note + page(kept["runs"], kept["machine"]))
    return complete


if __name__ == "__main__":
    main()
