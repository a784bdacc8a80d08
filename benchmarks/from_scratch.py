"""How good the code of notebook 08 is: ``python -m benchmarks.from_scratch`` (some minutes).

Trains the course's functions on one crop of brick as the notebook does, with eight seeds and with
each of the first three crops, scores the 52 test crops, and lets the library do the same. Writes
its part of ``benchmarks/README.md`` and prints it.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F

from benchmarks.report import write_part
from htdg import HTDGConfig, HTDGDetector
from htdg.course.answers import Answers
from htdg.course.checks_08 import as_options
from htdg.datasets.samples import texture_set
from htdg.images import load_images
from htdg.runtime.device import machine, resolve_device

TITLE = "From scratch"
NOTEBOOK, FRACTION, SEEDS = "08_htdg_from_scratch", 0.02, range(8)
SMALL = {"transformations": "rotations", "niter": 15}
#: Image AUROCs, by the seed or the crop.
Rows = dict[int, float]


def course_functions() -> SimpleNamespace:
    """The functions of the notebook with answers."""
    names: dict[str, Any] = {"math": math, "torch": torch, "nn": nn, "F": F}
    names["SimpleNamespace"] = SimpleNamespace
    for code in Answers(NOTEBOOK, {}).sources().values():
        exec(code, names)
    return SimpleNamespace(**names)


def aurocs(seed: int, crop: int) -> tuple[float, float]:
    """Of the notebook's code and of the library, trained on this crop with this seed."""
    sample, course = texture_set("brick"), course_functions()
    config = HTDGConfig.preset("tutorial", seed=seed, **SMALL)
    detector = HTDGDetector(config).fit(sample.train[crop], progress=False)
    library = roc_auc_score(sample.labels, detector.anomaly_score(sample.test, FRACTION))
    o = as_options(config)
    square = [
        course.resize(x[None], o.image_size) for x in load_images(sample.train[crop : crop + 1])
    ]
    tests = torch.cat([course.resize(x[None], o.image_size) for x in load_images(sample.test)])
    normality = [
        course.normality(course.my_votes(s, course.resize(tests, s.side), o), FRACTION)
        for s in course.train(o, square[0])
    ]
    score = -torch.stack(normality).mean(0).numpy()
    return float(roc_auc_score(sample.labels, score)), float(library)


def row(name: str, values: list[float]) -> str:
    """A line of the table."""
    listed = ", ".join(f"{value:.3f}" for value in values)
    return f"| {name} | {listed} | {np.mean(values):.3f} | {np.std(values, ddof=1):.3f} |"


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    by_seed = [aurocs(seed, 0) for seed in SEEDS]
    by_crop = [aurocs(0, crop) for crop in (1, 2)]
    lines = [
        f"Machine: {machine(resolve_device('cpu'))}. The code of notebook 08 with its answers and "
        "the library with the same options (preset `tutorial`, rotations, 15 iterations), trained "
        "on the first crop of brick: image AUROC on its 52 test crops, of the lowest 2 % of the "
        "votes. The two draw the same random numbers, and differ by what training makes of "
        "rounding errors.",
        "",
        f"| | seeds {SEEDS[0]} to {SEEDS[-1]} | mean | standard deviation |",
        "| --- | --- | --- | --- |",
        row("notebook 08", [mine for mine, _ in by_seed]),
        row("the library", [library for _, library in by_seed]),
        "",
        "Trained on the second and the third crop instead, with seed 0: notebook 08 "
        + " and ".join(f"{mine:.3f}" for mine, _ in by_crop)
        + ", the library "
        + " and ".join(f"{library:.3f}" for _, library in by_crop)
        + ".",
    ]
    write_part(Path(__file__).parent / "README.md", TITLE, "\n".join(lines))


if __name__ == "__main__":
    main()
