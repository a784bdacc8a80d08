"""The paper's own settings beside its figures: ``python -m benchmarks.paper_settings``.

Votes alone, one-shot, with the presets ``paper_rgb`` (1,000 iterations a scale) and ``paper_grey``
(500): defects of MVTec AD's bottle and grid with the four rotations and with all 54
transformations, two classes of FashionMNIST and two of CIFAR10. Hours on a CPU: every run is kept
in ``paper_settings.json`` as soon as it is done and is not repeated, and a training that was
stopped goes on from its checkpoint. Writes its part of ``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.kept import do_missing, read_kept
from benchmarks.quality import commit
from benchmarks.report import write_part
from benchmarks.studies import spread, table
from htdg import HTDGConfig, Task, evaluate
from htdg.evaluation.run import default_equalise
from htdg.runtime.device import machine, resolve_device
from htdg.runtime.progress import TrainingCallback

HERE = Path(__file__).parent
FILE = HERE / "paper_settings.json"
TITLE = "The paper's own settings"
#: Unfinished trainings; git ignores ``runs``.
CACHE = Path("runs/paper_settings")
#: Shares of the votes, the lowest, that make a score (Table 7).
FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0)


class Published(NamedTuple):
    """A figure of the paper in per cent: mean and standard deviation over training images."""

    table: int
    auroc: float
    deviation: float


@dataclass(frozen=True)
class Experiment:
    """One of the paper's one-shot experiments.

    Attributes:
        title: what the tables call it.
        task: data set, normal class, and which test images.
        preset: the paper's settings.
        transformations: those of the preset, or ``rotations``.
        fraction: the share of the votes that the paper's main figure has.
        paper: its figures by the share of the votes.
    """

    title: str
    task: dict[str, Any]
    preset: str
    transformations: str
    fraction: float
    paper: dict[float, Published]


def _defects(name: str, transformations: str, paper: dict[float, Published]) -> Experiment:
    task = {"dataset": "mvtec", "normal_class": name}
    return Experiment(name, task, "paper_rgb", transformations, 0.05, paper)


def _fashion(name: str, paper: Published) -> Experiment:
    task = {"dataset": "fashionmnist", "normal_class": name, "limit": 1000}
    return Experiment(f"FashionMNIST {name}", task, "paper_grey", "grey42", 1.0, {1.0: paper})


def _cifar(name: str, paper: Published) -> Experiment:
    task = {"dataset": "cifar10", "normal_class": name, "limit_per_kind": 100}
    return Experiment(f"CIFAR10 {name} (subset)", task, "paper_rgb", "rgb54", 1.0, {1.0: paper})


def _table_7(*figures: tuple[float, float]) -> dict[float, Published]:
    return {f: Published(7, *figure) for f, figure in zip(FRACTIONS, figures, strict=True)}


EXPERIMENTS = {
    "grid-rotations": _defects(
        "grid",
        "rotations",
        _table_7((91.3, 4.8), (87.1, 5.0), (83.3, 7.1), (82.6, 5.2), (71.7, 7.9), (58.7, 8.4)),
    ),
    "bottle-rotations": _defects(
        "bottle",
        "rotations",
        _table_7((75.4, 12.6), (85.0, 3.7), (76.5, 9.0), (82.5, 9.0), (81.6, 6.3), (67.0, 9.4)),
    ),
    "sneaker": _fashion("Sneaker", Published(1, 97.9, 0.7)),
    "bag": _fashion("Bag", Published(1, 77.2, 15.4)),
    "car": _cifar("car", Published(1, 65.6, 5.9)),
    "plane": _cifar("plane", Published(1, 67.2, 5.8)),
    "bottle-54": _defects("bottle", "rgb54", {0.05: Published(5, 76.3, 6.9)}),
    "grid-54": _defects("grid", "rgb54", {0.05: Published(5, 73.2, 9.8)}),
}
#: Experiment and draw; every experiment once before what takes longest, all 54 on defects.
ORDER = (
    ("grid-rotations", 0),
    ("bottle-rotations", 0),
    ("sneaker", 0),
    ("bag", 0),
    ("bottle-rotations", 1),
    ("grid-rotations", 1),
    ("bottle-rotations", 2),
    ("grid-rotations", 2),
    ("car", 0),
    ("plane", 0),
    ("bottle-54", 0),
    ("grid-54", 0),
    ("sneaker", 1),
    ("bag", 1),
    ("sneaker", 2),
    ("bag", 2),
)
Result = dict[str, Any]


def perform(
    name: str,
    draw: int,
    data_root: Path,
    out: Path,
    callback: TrainingCallback | None = None,
    changed: Mapping[str, Any] | None = None,
    **options: Any,
) -> Result:
    """Train or go on training, score, and keep what the tables show.

    Args:
        name: of the experiment.
        draw: seed that the training image is drawn with, and of everything else that is random.
        data_root: folder that holds the data sets.
        out: folder for the checkpoint; it is removed when all is done.
        callback: called after every iteration of training.
        changed: attributes of the task that are to differ.
        options: of the config, to be changed.
    """
    experiment = EXPERIMENTS[name]
    chosen: dict[str, Any] = {"transformations": experiment.transformations, "seed": draw}
    chosen |= {"translation": "pixel", "precision": "float32", **options}
    config = HTDGConfig.preset(experiment.preset, **chosen)
    first = experiment.fraction
    attributes = {
        **experiment.task,
        "draw": draw,
        "data_root": data_root,
        "equalise": default_equalise(experiment.preset, config),
        "defect_fraction": (first, *(f for f in FRACTIONS if f != first)),
    }
    task = Task(**attributes | dict(changed or {}))
    metrics = evaluate(task, out, config, overwrite=True, progress=False, callback=callback)
    shutil.rmtree(out)
    names = ("pixel_auroc", "aupro", "test_images", "equalise")
    return {
        "experiment": name,
        "draw": draw,
        "image_auroc": metrics["image_auroc_per_fraction"],
        **{key: metrics[key] for key in names if key in metrics},
        "minutes": metrics["training_seconds"] / 60,
        "commit": commit(),
    }


def run_missing(
    kept: dict[str, Any], file: Path, names: list[str], data_root: Path, cache: Path
) -> bool:
    """Do what is not in ``kept`` yet and write ``file`` after each; False if one cannot be done."""
    runs = [(f"{name} {draw}", name, draw) for name, draw in ORDER if name in names]
    return do_missing(
        kept,
        file,
        (
            (key, partial(perform, name, draw, data_root, cache / key.replace(" ", "-")))
            for key, name, draw in runs
        ),
    )


# --- The page -----------------------------------------------------------------------------------


INTRODUCTION = """\
Votes alone, one-shot, `paper_rgb` with 1,000 iterations a scale and `paper_grey` with 500, float32,
shifts by whole pixels, `image_size` 128, five scales. Every draw is another training image and
another seed. The training image is equalised as in the official code: with 54 transformations, not
with rotations or grey images. FashionMNIST: the first 1,000 test images; CIFAR10: 100 images a
class of a subset decoded from JPEG; MVTec AD: from images reduced to 256 pixels, and grid's normal
test images are 21 of its training images that did not train. "Within" is at most one deviation of
the paper's from its mean."""


def verdict(ours: float, paper: Published) -> str:
    """Whether a mean AUROC, in [0, 1], is within one deviation of the paper's, and how far off."""
    deviations = (100 * ours - paper.auroc) / paper.deviation
    if abs(deviations) <= 1:
        return f"within ({deviations:+.1f})"
    return f"{'above' if deviations > 0 else 'below'} ({deviations:+.1f})"


def aurocs(kept: dict[str, Result]) -> dict[str, dict[float, list[float]]]:
    """Of each experiment that was run, by the share of the votes: the AUROC of each draw."""
    values: dict[str, dict[float, list[float]]] = {}
    for name in EXPERIMENTS:
        of_name: dict[float, list[float]] = defaultdict(list)
        for result in kept.values():
            if result["experiment"] == name:
                for fraction, auroc in result["image_auroc"].items():
                    of_name[float(fraction)].append(auroc)
        if of_name:
            values[name] = of_name
    return values


def paper_table(kept: dict[str, Result]) -> list[str]:
    """Every figure that the paper has, too, with the verdict."""
    rows = []
    for name, of_name in aurocs(kept).items():
        experiment = EXPERIMENTS[name]
        for fraction, paper in experiment.paper.items():
            ours = of_name[fraction]
            published = f"{paper.auroc / 100:.3f} ± {paper.deviation / 100:.3f}"
            cells = [experiment.title, experiment.transformations, f"{fraction:.0%}"]
            cells += [str(len(ours)), spread(ours), f"{published} (Table {paper.table})"]
            rows.append([*cells, verdict(statistics.mean(ours), paper)])
    head = ["normal class", "transformations", "lowest votes", "draws", "image AUROC", "paper"]
    return table([*head, "within one deviation?"], rows)


def fraction_table(kept: dict[str, Result]) -> list[str]:
    """All six shares of the votes side by side, and how long training took."""
    rows = []
    for name, of_name in aurocs(kept).items():
        results = [r for r in kept.values() if r["experiment"] == name]
        minutes = statistics.mean(r["minutes"] for r in results)
        cells = [EXPERIMENTS[name].title, EXPERIMENTS[name].transformations]
        cells += [f"{statistics.mean(of_name[f]):.3f}" for f in FRACTIONS]
        for metric in ("pixel_auroc", "aupro"):
            cells.append(spread([r[metric] for r in results if metric in r]))
        rows.append([*cells, f"{minutes:.0f}"])
    head = ["normal class", "transformations", *(f"{f:.0%}" for f in FRACTIONS)]
    return table([*head, "pixel AUROC", "AUPRO", "minutes of training"], rows)


def page(kept: dict[str, Result], where: str) -> str:
    """What was run, beside the paper."""
    commits = ", ".join(dict.fromkeys(r["commit"] for r in kept.values()))
    lines = [f"Machine: {where}, other work beside it. Commits: {commits}.", ""]
    lines += [INTRODUCTION, "", *paper_table(kept), ""]
    lines += ["Mean image AUROC by the share of the votes that counts, and the maps:", ""]
    return "\n".join([*lines, *fraction_table(kept), ""])


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description="The paper's own settings beside its figures.")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--only", default=",".join(EXPERIMENTS), help="experiments, with commas")
    parser.add_argument("--report-only", action="store_true", help="only write the page again")
    options = parser.parse_args()
    names = options.only.split(",")
    for name in names:
        if name not in EXPERIMENTS:
            parser.error(f"--only: no experiment {name!r}; choose from {', '.join(EXPERIMENTS)}")
    commit()  # as it is now, whatever is edited meanwhile
    kept = read_kept(FILE, machine(resolve_device("cpu")))
    complete = options.report_only or run_missing(kept, FILE, names, options.data_root, CACHE)
    write_part(HERE / "README.md", TITLE, page(kept["runs"], kept["machine"]))
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
