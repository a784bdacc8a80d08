"""How much trainings differ: ``python -m htdg.course.seeds`` measures it over five seeds.

The results are in ``notebooks/models/seeds.json``, and notebooks read them with ``measured``, so
that what they say of "other trainings" was measured by this command and not on one lucky run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from htdg.course.frozen import FRACTION, MODELS, model_folder, trained
from htdg.course.trainings import TRAININGS
from htdg.datasets.samples import texture_set
from htdg.detector import HTDGDetector
from htdg.evaluation.pixel_metrics import pixel_metrics
from htdg.io.files import write_text

#: None of them is the seed of a frozen model.
SEEDS = (1, 2, 3, 4, 5)
#: The wanted false positive rate of the thresholds.
RATE = 0.05


def measured(model: str) -> dict[str, np.ndarray]:
    """What trainings gave with other seeds: those like a frozen model's, or one of ``TRAININGS``.

    The figures are those of ``figures_of``, or of ``htdg.course.trainings``, each with a first axis
    of five seeds.

    Raises:
        ValueError: there is no such model.
    """
    section = "trainings" if model in TRAININGS else "models"
    if section == "models":
        model_folder(model)  # which knows the models
    text = (model_folder() / "seeds.json").read_text(encoding="utf-8")
    rows = json.loads(text)[section][model]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def figures_of(detector: HTDGDetector, texture: str) -> dict[str, Any]:
    """Figures of a detector on the test crops of notebooks 04, 05 and 07.

    ``auroc`` from the lowest 2 % of the votes and ``auroc_all`` from all, ``scale_aurocs`` (of each
    scale, lowest 2 %), ``pixel_auroc`` and ``aupro``, ``mean_vote`` of the good crops, and, with
    thresholds from ``held_out`` (40), ``few`` (5), ``same_place`` (9) and ``generated`` (200)
    images, the shares ``flagged_...`` of 20 normal and ``detected_...`` of 32 damaged crops.
    """
    sample = texture_set(texture, train=10, good=60)
    new, labels = sample.test[40:], sample.labels[40:]
    good, damaged = np.array(labels) == 0, np.array(labels) == 1
    # The normal test crops of notebooks 04 and 05 are the first 20, those of 07 the last 20.
    tests, masks = sample.test[:20] + sample.test[60:], sample.masks[:20] + sample.masks[60:]
    predictions = list(detector.predictions(tests, (FRACTION, None), maps=True))
    rows = np.stack([prediction.normality for prediction in predictions], 1)  # (2, 52, scales)
    maps = [p.anomaly_map for p in predictions if p.anomaly_map is not None]
    pixel = pixel_metrics(maps, masks)
    figures: dict[str, Any] = {
        "auroc": roc_auc_score(labels, -rows[0].mean(1)),
        "auroc_all": roc_auc_score(labels, -rows[1].mean(1)),
        "scale_aurocs": [roc_auc_score(labels, -column) for column in rows[0].T],
        "pixel_auroc": pixel["pixel_auroc"],
        "aupro": pixel["aupro"],
        "mean_vote": rows[1, :20].mean() / len(detector.transformations_),
    }
    scores = detector.anomaly_score(new, FRACTION)
    sources: dict[str, Any] = {
        "held_out": sample.test[:40],
        "few": sample.test[:5],
        "same_place": sample.train[1:],
        "generated": "generated",
    }
    for name, images in sources.items():
        above = scores > detector.calibrate(images, RATE, FRACTION).score
        figures[f"flagged_{name}"] = above[good].mean()
        figures[f"detected_{name}"] = above[damaged].mean()
    return {name: np.round(value, 4).tolist() for name, value in figures.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, measure and write; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m htdg.course.seeds", description=__doc__)
    default = model_folder() / "seeds.json"
    parser.add_argument("--out", type=Path, default=default, help="default: %(default)s")
    names = [*MODELS, *TRAININGS]
    parser.add_argument(
        "--only", choices=names, metavar="NAME", help=f"measure one of {', '.join(names)}"
    )
    options = parser.parse_args(arguments)
    content: dict[str, Any] = {"seeds": SEEDS, "models": {}, "trainings": {}}
    if options.only and options.out.exists():  # the others stay as they are
        content = json.loads(options.out.read_text(encoding="utf-8"))
    for name in [options.only] if options.only else names:
        rows = []
        for seed in SEEDS:
            rows.append(_measure(name, seed))
            print(name, seed, rows[-1], flush=True)
        content["trainings" if name in TRAININGS else "models"][name] = rows
    write_text(options.out, json.dumps(content, indent=1) + "\n")
    return 0


def _measure(name: str, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    if name in TRAININGS:
        return TRAININGS[name](seed)
    texture, config = MODELS[name]
    return figures_of(trained(texture, replace(config, seed=seed)), texture)


if __name__ == "__main__":
    sys.exit(main())
