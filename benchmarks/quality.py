"""How good a detector gets in how many minutes: ``python -m benchmarks.quality --data-root data``.

Runs ``htdg.evaluate`` over studies of one thing each and keeps every result in ``quality.json``; a
run that is there is not repeated, so a stopped benchmark goes on where it was. Needs FashionMNIST
and CIFAR10 (or its subset), and MVTec AD's bottle for the study of equalisation. Then writes the
tables into ``benchmarks/README.md`` and the plot ``quality.png``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.kept import read_kept
from benchmarks.measure import iteration_seconds
from benchmarks.report import write_part
from htdg import HTDGConfig, Task, evaluate
from htdg.evaluation.plots import Figure, save_figure
from htdg.io.files import write_text
from htdg.runtime.device import keep_freed_memory, machine, resolve_device

HERE = Path(__file__).parent
FILE = HERE / "quality.json"
#: What is normal, and how 1,000 test images are chosen.
CLASSES = {
    "Sneaker": {"dataset": "fashionmnist", "normal_class": "Sneaker", "limit": 1000},
    "Bag": {"dataset": "fashionmnist", "normal_class": "Bag", "limit": 1000},
    "Trouser": {"dataset": "fashionmnist", "normal_class": "Trouser", "limit": 1000},
    "plane": {"dataset": "cifar10", "normal_class": "plane", "limit_per_kind": 100},
    "car": {"dataset": "cifar10", "normal_class": "car", "limit_per_kind": 100},
    "bottle": {"dataset": "mvtec", "normal_class": "bottle", "defect_fraction": 0.05},
}
SMALL = {"transformations": "auto", "niter": 30}
#: Seeds, sides and iterations a scale of the study of time, the cheap ones first.
TIMED = (
    ((0,), (28, 32), (4, 12, 36, 108)),
    ((0,), (128, 64), (4, 12, 36)),
    ((0,), (128, 64), (108,)),
    ((1, 2), (28, 32), (4, 12, 36, 108)),
)
Run = tuple[str, str, dict[str, Any], dict[str, Any]]


def own_size(name: str) -> int:
    """The side that the images of a class come in."""
    return 28 if CLASSES[name]["dataset"] == "fashionmnist" else 32


def runs() -> Iterator[Run]:
    """(study, class, options of the config, options of the task), the cheap ones first."""
    for seed in (0, 1):
        for equalise in ("none", "train", "both"):
            for name in ("plane", "car"):
                options = {**SMALL, "image_size": 32, "seed": seed, "translation": "stretched"}
                yield "equalise", name, options, {"equalise": equalise}
            options = {**SMALL, "image_size": 64, "max_size": 41, "seed": seed}
            options |= {"translation": "stretched"}
            yield "equalise", "bottle", options, {"equalise": equalise}
    for transformations, niter in (("rotations", 30), ("rgb54", 10)):
        options = {"image_size": 128, "niter": niter, "transformations": transformations}
        yield "bottle", "bottle", options | {"translation": "stretched"}, {}
    for seed in (0, 1, 2):
        for name in ("Sneaker", "plane", "Bag"):
            size = {"image_size": own_size(name), "seed": seed}
            for translation in ("pixel", "stretched", "resampled"):
                yield "translation", name, {**SMALL, **size, "translation": translation}, {}
            if name != "Bag":
                bf16 = {"translation": "stretched", "precision": "bf16"}
                yield "precision", name, {**SMALL, **size, **bf16}, {}
    for seeds, sizes, iterations in TIMED:
        for seed, niter, size in itertools.product(seeds, iterations, sizes):
            options = {"image_size": size, "niter": niter, "translation": "pixel"}
            if seed:
                options["seed"] = seed
            for name in ("Sneaker", "Bag", "plane"):
                yield "time", name, options, {}


def pace() -> dict[str, dict[str, float]]:
    """Seconds that an iteration of all scales takes now: by ``image_size``, then catalogue."""
    records: dict[str, dict[str, float]] = {}
    for size in sorted({size for _, sizes, _ in TIMED for size in sizes}):
        for catalogue in ("grey42", "rgb54"):
            config = HTDGConfig(image_size=size, translation="pixel", transformations=catalogue)
            config = config.with_options(precision="float32", device="cpu")
            seconds = sum(iteration_seconds(config, resolve_device("cpu"), 3))
            records.setdefault(str(size), {})[catalogue] = seconds
            print(size, catalogue, seconds, flush=True)
    return records


def timed(
    records: list[dict[str, Any]], paces: dict[str, dict[str, float]]
) -> list[dict[str, Any]]:
    """The results with the minutes of training at this pace, whatever ran beside them."""
    results = []
    for result in records:
        options = result["options"]
        if result["study"] == "time":
            grey = CLASSES[result["class"]]["dataset"] == "fashionmnist"
            pace = paces[str(options["image_size"])]["grey42" if grey else "rgb54"]
            result = {**result, "minutes": pace * options["niter"] / 60}
        results.append(result)
    return results


def key_of(run: Run) -> str:
    """A name for a run by which it is found again."""
    study, name, options, task = run
    words = [f"{k}={v}" for k, v in {**options, **task}.items()]
    return " ".join([study, name, *words])


def perform(run: Run, data_root: Path, out: Path) -> dict[str, Any]:
    """Train, score, and keep what matters."""
    study, name, options, more = run
    config = HTDGConfig(**{"transformations": "auto", "precision": "float32", **options})
    task = Task(**CLASSES[name], data_root=data_root, **more)
    metrics = evaluate(task, out, config, overwrite=True, progress=False)
    shutil.rmtree(out)
    return {
        "study": study,
        "class": name,
        "options": {**options, **more},
        "image_auroc": metrics["image_auroc"],
        "minutes": metrics["training_seconds"] / 60,
        "scoring_ms": metrics["scoring_ms_per_image"],
        "test_images": metrics["test_images"],
        "commit": commit(),
    }


@cache
def commit() -> str:
    """What was checked out when this was first asked, and whether files differed from it."""
    words = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


# --- The page -----------------------------------------------------------------------------------


def page(records: list[dict[str, Any]], where: str) -> str:
    """Every study as a table."""
    lines = [f"Machine: {where}. One-shot, 1,000 test images a class (bottle: all 83), float32", ""]
    lines[0] += " unless said otherwise, CIFAR10 from a subset decoded from JPEG. Convolutions by "
    lines[0] += "tiles came during these measurements: each study says what it was measured with. "
    lines[0] += "Minutes in the last one are iterations times what one takes on the idle machine."
    for study, option in (
        ("translation", "translation"),
        ("precision", "precision"),
        ("equalise", "equalise"),
    ):
        said = ["", measured_with(records, study), ""]
        lines += [f"### {study.capitalize()}", *said, *_comparison(records, study, option), ""]
    said = ["", measured_with(records, "bottle"), ""]
    lines += ["### Bottle, the lowest 5 % of the votes", *said, *_bottle(records), ""]
    said = ["", measured_with(records, "time"), ""]
    lines += ["### AUROC against minutes of training", *said, *_times(records), ""]
    lines += ["![AUROC against minutes of training, a panel a class](quality.png)", ""]
    return "\n".join(lines)


def measured_with(records: list[dict[str, Any]], study: str) -> str:
    """The commits that a study's runs were made with, and how many with each."""
    runs = Counter(r.get("commit", "an earlier one") for r in records if r["study"] == study)
    return "Commits: " + ", ".join(f"{name} ({count} runs)" for name, count in runs.items()) + "."


def _comparison(records: list[dict[str, Any]], study: str, option: str) -> list[str]:
    groups: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for result in records:
        options = result["options"]
        same = result["study"] == study
        if study == "precision":  # float32 stands in the study of translation
            same |= result["study"] == "translation" and options["translation"] == "stretched"
            same &= result["class"] != "Bag"
        if same:
            value = options.get(option, "float32")
            groups[value, result["class"]][options["seed"]] = result["image_auroc"]
    values, names = ({k[i]: None for k in groups} for i in (0, 1))
    lines = ["| " + " | ".join([option, *names, "mean"]) + " |", "| --- " * (len(names) + 2) + "|"]
    for value in values:
        cells, means = [], []
        for name in names:
            aurocs = list(groups.get((value, name), {}).values())
            if not aurocs:
                cells.append("")
                continue
            means.append(statistics.mean(aurocs))
            spread = f" ({min(aurocs):.3f} to {max(aurocs):.3f}, {len(aurocs)} seeds)"
            cells.append(f"{means[-1]:.3f}{spread if len(aurocs) > 1 else ''}")
        lines.append("| " + " | ".join([value, *cells, f"{statistics.mean(means):.3f}"]) + " |")
    return lines


def _bottle(records: list[dict[str, Any]]) -> list[str]:
    lines = ["| transformations | iterations a scale | image AUROC | minutes |", "| --- " * 4 + "|"]
    for result in records:
        if result["study"] == "bottle":
            options = result["options"]
            cells = [options["transformations"], str(options["niter"])]
            cells += [f"{result['image_auroc']:.3f}", f"{result['minutes']:.2f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _times(records: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| class | image_size | draws | iterations: mean AUROC (minutes) "
        "| first within 0.01 of the longest |",
        "| --- | --- | --- | --- | --- |",
    ]
    for (name, size), points in _curves(records).items():
        first = next(p for p in points if p.mean >= points[-1].mean - 0.01)
        cells = [f"{p.niter}: {p.mean:.3f}{p.spread} ({p.minutes:.2f})" for p in points]
        reached = f"{first.minutes:.2f} minutes, {first.niter} iterations"
        draws = "/".join(dict.fromkeys(str(len(p.aurocs)) for p in points))
        lines.append(f"| {name} | {size} | {draws} | {'; '.join(cells)} | {reached} |")
    return lines


class _Point(NamedTuple):
    """One length of training: its AUROC in each draw of the random numbers."""

    niter: int
    minutes: float
    aurocs: list[float]

    @property
    def mean(self) -> float:
        return statistics.mean(self.aurocs)

    @property
    def spread(self) -> str:
        several = len(self.aurocs) > 1
        return f" [{min(self.aurocs):.3f} to {max(self.aurocs):.3f}]" if several else ""


def _curves(records: list[dict[str, Any]]) -> dict[tuple[str, int], list[_Point]]:
    """Of every class and image size the lengths of training, shortest first."""
    draws: dict[tuple[str, int], dict[int, _Point]] = defaultdict(dict)
    for result in records:
        if result["study"] == "time":
            options, niter = result["options"], result["options"]["niter"]
            points = draws[result["class"], options["image_size"]]
            point = points.setdefault(niter, _Point(niter, result["minutes"], []))
            point.aurocs.append(result["image_auroc"])
    return {key: [points[n] for n in sorted(points)] for key, points in sorted(draws.items())}


def plot(records: list[dict[str, Any]]) -> Figure:
    """AUROC against minutes of training, a panel a class, a line an image size.

    Lines are means over the draws, bands go from the least to the greatest.
    """
    curves = _curves(records)
    names = sorted({name for name, _ in curves})
    figure = Figure(figsize=(3.6 * len(names), 3.2), layout="constrained")
    colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
    sizes = sorted({size for _, size in curves})
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for ax, name in zip(panels, names, strict=True):
        for size, colour, mark in zip(sizes, colours, "osv^", strict=False):
            points = curves.get((name, size), [])
            minutes = [p.minutes for p in points]
            label = f"{size} pixels"
            ax.plot(minutes, [p.mean for p in points], f"{mark}-", color=colour, label=label)
            ends = [[f(p.aurocs) for p in points] for f in (min, max)]
            ax.fill_between(minutes, *ends, color=colour, alpha=0.15, linewidth=0)
        ax.set_xscale("log")
        ax.set_title(name)
        ax.set_xlabel("minutes of training, two CPU cores")
        ax.grid(alpha=0.3)
    panels[0].set_ylabel("image AUROC")
    figure.legend(*_handles(panels), loc="outside lower center", ncols=len(sizes))
    return figure


def _handles(panels: Any) -> tuple[list[Any], list[str]]:
    records = {}
    for ax in panels:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            if len(handle.get_xdata()):
                records[label] = handle
    return list(records.values()), list(records)


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description="AUROC against minutes, and what options matter.")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--page-only", action="store_true", help="only write the page again")
    parser.add_argument("--pace", action="store_true", help="only measure how fast it trains")
    options = parser.parse_args()
    where = machine(resolve_device("cpu"))
    commit()  # as it is now, whatever is edited meanwhile
    kept = read_kept(FILE, where)
    for run in () if options.page_only or options.pace else runs():
        if key_of(run) not in kept["runs"]:
            kept["runs"][key_of(run)] = perform(run, options.data_root, Path("runs/quality"))
            write_text(FILE, json.dumps(kept, indent=1) + "\n")
            print(key_of(run), kept["runs"][key_of(run)], flush=True)
    if options.pace or "pace" not in kept:
        keep_freed_memory()
        kept["pace"] = pace()
        write_text(FILE, json.dumps(kept, indent=1) + "\n")
    records = timed(list(kept["runs"].values()), kept["pace"])
    save_figure(plot(records), HERE / "quality.png")
    write_part(HERE / "README.md", "Time to quality", page(records, kept["machine"]))


if __name__ == "__main__":
    main()
