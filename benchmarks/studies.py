"""What the whole method does: ``python -m benchmarks.studies --data-root data``.

Studies, each kept run by run in ``studies.json``, so that a stopped one goes on where it was:
defects of MVTec AD's bottle (the paper's Tables 5 and 7), localisation on the textures that the
package ships, the ablations (Table 6), and how often thresholds flag normal images. Writes their
tables into ``benchmarks/README.md``. All but the textures need the data sets.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks.kept import read_kept
from benchmarks.report import write_part
from htdg import HTDGConfig, HTDGDetector, Task, evaluate
from htdg.ablations.variants import VARIANTS
from htdg.datasets import load_dataset
from htdg.io.files import write_text
from htdg.runtime.device import machine, resolve_device
from htdg.thresholds import upper_quantile

HERE = Path(__file__).parent
FILE = HERE / "studies.json"
FRACTIONS = (0.05, 0.01, 0.1, 0.2, 0.5, 1.0)  # the first makes the maps' and other metrics' scores
SEEDS = (0, 1, 2)
RATES = (0.01, 0.05, 0.1)
#: Of the paper, in per cent: image AUROC of bottle, one and five shots (Table 5).
PAPER_BOTTLE = {("rgb54", 1): 76.3, ("rotations", 1): 85.0, ("rgb54", 5): 74.1}
PAPER_BOTTLE |= {("rotations", 5): 90.8}
#: Table 6, one shot.
PAPER_ABLATIONS = {
    "plane": {
        "htdg": 67.2,
        "a": 58.9,
        "b": 65.2,
        "c": 65.2,
        "d": 59.9,
        "e": 60.1,
        "f": 27,
        "g": 38.2,
    },
    "car": {
        "htdg": 65.6,
        "a": 61.6,
        "b": 65.5,
        "c": 58.3,
        "d": 55,
        "e": 63.6,
        "f": 59.1,
        "g": 57.6,
    },
}
#: Table 6, f, one shot: the mean over draws and its standard deviation, in per cent.
PAPER_SQUARED_ERROR = {
    "plane": (27.0, 0.4),
    "car": (59.1, 1.4),
    "bird": (44.7, 1.3),
    "cat": (54.9, 1.0),
    "deer": (51.4, 2.8),
    "dog": (50.0, 2.8),
    "frog": (58.0, 2.1),
    "horse": (51.8, 0.5),
    "ship": (33.9, 2.3),
    "truck": (46.5, 3.3),
}
Result = dict[str, Any]
Run = tuple[str, Callable[[Path, Path], Result]]


# --- The runs -----------------------------------------------------------------------------------


def measured(config: HTDGConfig, task: Task, out: Path) -> Result:
    """Evaluate and keep what the tables show."""
    metrics = evaluate(task, out, config, overwrite=True, progress=False)
    names = ("image_auroc", "pixel_auroc", "aupro", "image_auroc_per_fraction", "test_images")
    figures = {name: metrics[name] for name in names if name in metrics}
    return {**figures, "minutes": metrics["training_seconds"] / 60}


def on_bottle(data_root: Path, out: Path, draw: int, shots: int, options: dict[str, Any]) -> Result:
    """Bottle, in bf16, with the draw as the seed, too."""
    config = HTDGConfig(precision="bf16", seed=draw, **options)
    task = Task(
        "mvtec", "bottle", shots=shots, draw=draw, data_root=data_root, defect_fraction=FRACTIONS
    )
    return measured(config, task, out)


def bottle_runs() -> Iterator[Run]:
    """Bottle, one-shot and five-shot, both sets of transformations, three draws."""
    for shots in (1, 5):
        for name, niter in (("rotations", 40), ("rgb54", 15)):
            options = {"transformations": name, "niter": niter, "translation": "pixel"}
            for draw in SEEDS:
                perform = partial(on_bottle, draw=draw, shots=shots, options=options)
                yield f"bottle {name} {shots} {draw}", perform


def texture_runs() -> Iterator[Run]:
    """The textures: the tutorial preset as it is, and what might help, three seeds."""
    settings = {
        "tutorial": {},
        "rotations": {"transformations": "rotations"},
        "rotations, 5 iterations": {"transformations": "rotations", "niter": 5},
        "rotations, 5 iterations, 5 shots": {"transformations": "rotations", "niter": 5},
    }
    for name, options in settings.items():
        for texture in ("brick", "grass", "gravel"):
            for seed in SEEDS:

                def perform(
                    data_root: Path,
                    out: Path,
                    options: dict[str, Any] = options,
                    texture: str = texture,
                    seed: int = seed,
                    shots: int = 5 if "shots" in name else 1,
                ) -> Result:
                    config = HTDGConfig.preset("tutorial", seed=seed, **options)
                    task = Task("textures", texture, shots=shots, defect_fraction=0.05)
                    return measured(config, task, out)

                yield f"textures|{name}|{texture}|{seed}", perform


def ablation_runs() -> Iterator[Run]:
    """The method and its seven ablations on two classes of CIFAR10, two seeds."""
    for seed in SEEDS:
        for letter in ["htdg", *(v.letter for v in VARIANTS)]:
            for name in ("plane", "car"):

                def perform(
                    data_root: Path,
                    out: Path,
                    letter: str = letter,
                    name: str = name,
                    seed: int = seed,
                ) -> Result:
                    config = HTDGConfig(
                        image_size=32,
                        niter=36,
                        translation="stretched",
                        precision="float32",
                        geom_samples=64,
                        seed=seed,
                    )
                    task = Task(
                        "cifar10",
                        name,
                        draw=seed,
                        limit_per_kind=50,
                        data_root=data_root,
                        variant=None if letter == "htdg" else letter,
                    )
                    return measured(config, task, out)

                yield f"ablation|{letter}|{name}|{seed}", perform


def squared_error_runs() -> Iterator[Run]:
    """Why variant f differs from the paper's: ten classes, 30 draws, and two images without any."""
    for name in PAPER_SQUARED_ERROR:

        def perform(data_root: Path, out: Path, name: str = name) -> Result:
            chosen = load_dataset("cifar10", data_root)
            tested = chosen.test_set(name, [])
            labels = [entry.label for entry in tested.entries]
            images = np.stack([tested[i].image for i in range(len(tested))]) / 255  # (N, 32, 32, 3)

            def auroc(other: np.ndarray | float) -> float:
                return float(roc_auc_score(labels, ((images - other) ** 2).mean((1, 2, 3))))

            draws = [chosen.training_images(name, 1, seed=seed)[0][0] / 255 for seed in range(30)]
            return {
                "draws": [auroc(image) for image in draws],
                "black": auroc(0.0),
                "white": auroc(1.0),
            }

        yield f"squared error|{name}", perform


def iteration_runs() -> Iterator[Run]:
    """Whether more iterations bring "real or generated" (b) nearer to the paper's figures."""
    for niter in (36, 120, 360):
        for name in ("plane", "car"):

            def perform(data_root: Path, out: Path, niter: int = niter, name: str = name) -> Result:
                config = HTDGConfig(
                    image_size=32, niter=niter, translation="stretched", precision="float32"
                )
                task = Task(
                    "cifar10", name, draw=0, limit_per_kind=50, data_root=data_root, variant="b"
                )
                figures = measured(config, task, out)
                detector = HTDGDetector.load(out / "model")
                training = load_dataset("cifar10", data_root).training_images(name, 1, seed=0)[0]
                generated = list((detector.sample(50).clamp(-1, 1) + 1) / 2)
                figures["vote of the training image"] = 1 - float(
                    detector.anomaly_score(training)[0]
                )
                figures["vote of generated images"] = 1 - float(
                    detector.anomaly_score(generated).mean()
                )
                return figures

            yield f"iterations|b|{name}|{niter}", perform


def bottle_54_runs() -> Iterator[Run]:
    """What brings all 54 nearer to the paper on bottle: how shifts are made, or iterations."""
    settings = [("resampled", 15, 0), ("stretched", 15, 0)]
    settings += [("pixel", 60, draw) for draw in SEEDS]
    for translation, niter, draw in settings:
        options = {"niter": niter, "translation": translation}
        perform = partial(on_bottle, draw=draw, shots=1, options=options)
        yield f"bottle 54|{translation}|{niter}|{draw}", perform


#: Data set, class, defect fraction, options, and how many held-out images calibrate.
HELD_OUT = {
    "Sneaker": ("fashionmnist", "Sneaker", None, {"image_size": 28, "niter": 12}, 100),
    "plane": ("cifar10", "plane", None, {"image_size": 32, "niter": 36}, 40),
    "bottle": ("mvtec", "bottle", 0.05, {"transformations": "rotations", "niter": 40}, 60),
}


def threshold_runs() -> Iterator[Run]:
    """How many held-out normal images thresholds of either kind flag."""
    for name in HELD_OUT:
        for seed in SEEDS:

            def perform(data_root: Path, out: Path, name: str = name, seed: int = seed) -> Result:
                return flagged(data_root, *HELD_OUT[name], seed)

            yield f"threshold|{name}|{seed}", perform


def flagged(
    data_root: Path,
    dataset: str,
    normal_class: str,
    fraction: float | None,
    options: dict[str, Any],
    count: int,
    seed: int,
) -> Result:
    """The share of normal images, neither trained on nor calibrated with, that is flagged."""
    config = HTDGConfig(
        **{"transformations": "auto", "translation": "pixel", "precision": "float32", **options},
        seed=seed,
    )
    chosen = load_dataset(dataset, data_root)
    images, names = chosen.training_images(normal_class, 1, seed=seed)
    detector = HTDGDetector(config).fit(images, progress=False)
    pool = [name for name in chosen.training_pool(normal_class) if name not in names]
    tested = chosen.test_set(normal_class, names)
    others = [chosen.read(name) for name in pool[: count + 150]]
    normal = [i for i, entry in enumerate(tested.entries) if entry.label == 0]
    others += [tested[i].image for i in normal[:150]]
    generated = list((detector.sample(200).clamp(-1, 1) + 1) / 2)
    scores = detector.anomaly_score(others, fraction)
    # What ``calibrate`` does, for all rates at once.
    calibrating = {
        "held out": scores[:count],
        "generated": detector.anomaly_score(generated, fraction),
    }
    rest = scores[count:]
    figures: Result = {"calibrating": count, "generated": 200, "tested": len(rest)}
    for source, scores_of in calibrating.items():
        for rate in RATES:
            figures[f"{source} {rate}"] = float((rest > upper_quantile(scores_of, rate)).mean())
    return figures


STUDIES = {
    "textures": texture_runs,
    "threshold": threshold_runs,
    "ablation": ablation_runs,
    "squared-error": squared_error_runs,
    "iterations": iteration_runs,
    "bottle": bottle_runs,
    "bottle-54": bottle_54_runs,
}


SQUARED_ERROR = """\
AUROC of the mean squared error between a test image and one training image, of the whole test set
of 2,000 images, mean and standard deviation over 30 draws of the training image."""
ITERATIONS = """\
One draw, 500 test images. A vote is the probability of "real", averaged over patches and scales."""


# --- The page -----------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> str:
    """Mean, least and greatest."""
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def page(kept: dict[str, Result], where: str) -> str:
    """Every study as a table."""
    lines = [f"Machine: {where}, other work beside it. Mean, least and greatest over seeds.", ""]
    lines += ["### Bottle: defects and where they are", "", *bottle_tables(kept), ""]
    lines += ["All 54, one-shot, with other shifts or more iterations:", ""]
    lines += [*bottle_54_table(kept), ""]
    lines += [
        "### Textures, localisation (one-shot unless said otherwise)",
        "",
        *texture_table(kept),
        "",
    ]
    lines += ["### Ablations, CIFAR10, one-shot", "", *ablation_table(kept), ""]
    lines += ["### Squared error (f), and what the paper's figures look like", ""]
    lines += [SQUARED_ERROR, "", *squared_error_table(kept), ""]
    lines += ["### Real or generated (b), with more iterations", ""]
    lines += [ITERATIONS, "", *iteration_table(kept), ""]
    lines += ["### How often thresholds flag normal images", "", *threshold_table(kept), ""]
    return "\n".join(lines)


def bottle_tables(kept: dict[str, Result]) -> list[str]:
    """Tables 5 and 7 of the paper, as far as bottle goes."""
    groups: dict[tuple[str, int], list[Result]] = defaultdict(list)
    for key, result in kept.items():
        study, *words = key.split(" ")
        if study == "bottle" and "|" not in key:
            groups[words[0], int(words[1])].append(result)
    rows, fractions = [], []
    for (transformations, shots), results in groups.items():
        head = [transformations, str(shots), str(len(results))]
        cells = [spread([r[n] for r in results]) for n in ("image_auroc", "pixel_auroc", "aupro")]
        paper = f"{PAPER_BOTTLE[transformations, shots] / 100:.3f}"
        minutes = f"{statistics.mean(r['minutes'] for r in results):.1f}"
        rows.append([*head, cells[0], paper, *cells[1:], minutes])
        per = [
            spread([r["image_auroc_per_fraction"][str(f)] for r in results])
            for f in sorted(FRACTIONS)
        ]
        fractions.append([*head[:2], *per])
    head = ["transformations", "shots", "seeds", "image AUROC, 5 %", "paper"]
    first = table([*head, "pixel AUROC", "AUPRO", "minutes of training"], rows)
    shares = [f"{f:.0%}" for f in sorted(FRACTIONS)]
    return [*first, "", *table(["transformations", "shots", *shares], fractions)]


def bottle_54_table(kept: dict[str, Result]) -> list[str]:
    """Single draws of bottle under other settings."""
    runs = {("pixel", "15", str(d)): kept.get(f"bottle rgb54 1 {d}") for d in SEEDS}
    runs |= {tuple(k.split("|")[1:]): r for k, r in kept.items() if k.startswith("bottle 54|")}
    rows = []
    for setting, result in runs.items():
        if result is not None:
            per = [result["image_auroc_per_fraction"][str(f)] for f in (0.05, 1.0)]
            numbers = [*per, result["pixel_auroc"], result["aupro"]]
            rows.append([*setting, *(f"{n:.3f}" for n in numbers)])
    head = ["shifts", "iterations a scale", "draw", "image AUROC, 5 %", "100 %", "pixel AUROC"]
    return table([*head, "AUPRO"], rows)


def texture_table(kept: dict[str, Result]) -> list[str]:
    """Pixel AUROC and AUPRO of every texture."""
    groups: dict[str, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for key, result in kept.items():
        study, *words = key.split("|")
        if study == "textures":
            groups[words[0]][words[1]].append(result)
    rows = [
        [setting, texture]
        + [spread([r[n] for r in results]) for n in ("image_auroc", "pixel_auroc", "aupro")]
        for setting, textures in groups.items()
        for texture, results in textures.items()
    ]
    return table(["setting", "texture", "image AUROC, 5 %", "pixel AUROC", "AUPRO"], rows)


def ablation_table(kept: dict[str, Result]) -> list[str]:
    """Table 6 of the paper for two classes."""
    words = {"htdg": "the whole method", **{v.letter: v.name for v in VARIANTS}}
    rows = []
    for letter, name in words.items():
        cells = [letter, name]
        for of_class in ("plane", "car"):
            start = f"ablation|{letter}|{of_class}|"
            results = [r["image_auroc"] for key, r in kept.items() if key.startswith(start)]
            cells += [spread(results), f"{PAPER_ABLATIONS[of_class][letter] / 100:.3f}"]
        rows.append(cells)
    return table(["", "variant", "plane", "paper", "car", "paper"], rows)


def squared_error_table(kept: dict[str, Result]) -> list[str]:
    """Variant f of ten classes beside the paper's, and beside the brightness alone."""
    rows, mine = [], defaultdict(list)
    for name, (mean, deviation) in PAPER_SQUARED_ERROR.items():
        if (result := kept.get(f"squared error|{name}")) is not None:
            draws = result["draws"]
            cells = {
                "of a drawn image": statistics.mean(draws),
                "of black": result["black"],
                "1 - of white": 1 - result["white"],
            }
            for column, value in cells.items():
                mine[column].append((value, mean))
            first = f"{cells['of a drawn image']:.3f} ± {statistics.stdev(draws):.3f}"
            others = [f"{cells[column]:.3f}" for column in list(cells)[1:]]
            rows.append([name, f"{mean / 100:.3f} ± {deviation / 100:.3f}", first, *others])
    if len(rows) > 1:
        pairs = [zip(*figures, strict=True) for figures in mine.values()]
        rows.append(["correlation", ""] + [f"{statistics.correlation(*p):.2f}" for p in pairs])
    return table(["class", "paper", "of a drawn image, 30 draws", "of black", "1 - of white"], rows)


def iteration_table(kept: dict[str, Result]) -> list[str]:
    """Variant b after more and more iterations."""
    rows = []
    for key, result in kept.items():
        study, *words = key.split("|")
        if study == "iterations":
            votes = [
                result[f"vote of {whom}"] for whom in ("the training image", "generated images")
            ]
            numbers = [result["image_auroc"], *votes]
            rows.append([words[1], words[2], *(f"{n:.3f}" for n in numbers)])
    head = ["class", "iterations a scale", "image AUROC", "vote of the training image"]
    return table([*head, "of 50 generated images"], rows)


def threshold_table(kept: dict[str, Result]) -> list[str]:
    """The share of normal images above the threshold, beside the share asked for."""
    rows = []
    for name in HELD_OUT:
        results = [r for key, r in kept.items() if key.startswith(f"threshold|{name}|")]
        for source in ("held out", "generated"):
            if results:
                count = results[0]["calibrating" if source == "held out" else "generated"]
                cells = [spread([r[f"{source} {rate}"] for r in results]) for rate in RATES]
                rows.append([name, f"{count} {source}", str(results[0]["tested"]), *cells])
    head = ["set", "calibrated with", "tested on"]
    return table([*head, *(f"asked for {rate:.0%}" for rate in RATES)], rows)


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description="Defects, localisation, ablations, thresholds.")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--only", choices=STUDIES, help="one study (default: all)")
    parser.add_argument("--page-only", action="store_true", help="only write the page again")
    options = parser.parse_args()
    where = machine(resolve_device("cpu"))
    kept = read_kept(FILE, where)
    for study, runs in STUDIES.items():
        if options.page_only or options.only not in (None, study):
            continue
        for key, perform in runs():
            if key in kept["runs"]:
                continue
            out = Path(tempfile.mkdtemp(prefix="htdg-study-"))
            result = perform(options.data_root, out / "run")
            shutil.rmtree(out)
            kept = read_kept(FILE, where)  # another study may have been run beside this one
            kept["runs"][key] = result
            write_text(FILE, json.dumps(kept, indent=1) + "\n")
            print(key, kept["runs"][key], flush=True)
    write_part(HERE / "README.md", "The whole method", page(kept["runs"], kept["machine"]))


if __name__ == "__main__":
    main()
