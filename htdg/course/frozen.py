"""The models that the notebooks analyse: ``python -m htdg.course.frozen`` trains and writes them.

A training gives other weights on another processor, since sums are rounded differently there. So a
notebook trains a detector for the experience, and then loads one that is the same everywhere:

    detector = frozen("brick")

``notebooks/models/NAME`` is a model directory like any other. ``notebooks/models/scores.json``
has what the models scored when they were made; ``tests/test_frozen.py`` compares.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from htdg.config import HTDGConfig
from htdg.course.files import notebook_folder
from htdg.datasets.samples import texture_set
from htdg.detector import HTDGDetector
from htdg.io.files import write_text

#: The models: a name, the texture whose first training crop trains it, and the options.
MODELS = {
    name: (name, HTDGConfig.preset("tutorial", transformations="rotations", niter=10, seed=0))
    for name in ("brick", "gravel")
}
#: The share of the lowest votes that the recorded scores are made of.
FRACTION = 0.02
#: What ``scores.json`` says of the models beside their scores.
NOTE = (
    "Trained by python -m htdg.course.frozen from crops of scikit-image's photographs, which are "
    "under CC0; the weights are under htdg's own licence, MIT. Each config.json has the seed."
)


def model_folder(name: str = "") -> Path:
    """The folder of a model, or that of all.

    Raises:
        ValueError: there is no such model.
    """
    if name and name not in MODELS:
        raise ValueError(f"There is no frozen model {name!r}: choose from {', '.join(MODELS)}.")
    return notebook_folder() / "models" / name


def frozen(name: str) -> HTDGDetector:
    """The model that a notebook's text is about, on the CPU, where scores are the same everywhere.

    Raises:
        ValueError: there is no such model.
        ModelError: its directory is missing, damaged or altered.
    """
    return HTDGDetector.load(model_folder(name), device="cpu")


def trained(texture: str, config: HTDGConfig) -> HTDGDetector:
    """A detector trained on the first training crop of a texture, on one thread of the CPU."""
    torch.set_num_threads(1)
    detector = HTDGDetector(replace(config, device="cpu"))
    return detector.fit(texture_set(texture).train[:1], progress=False)


def scores_of(detector: HTDGDetector, texture: str) -> list[float]:
    """The anomaly score of each test crop, from the lowest votes; rounded to 7 digits."""
    scores = detector.anomaly_score(texture_set(texture).test, FRACTION)
    return [round(float(score), 7) for score in np.asarray(scores)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and write the models and their scores; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m htdg.course.frozen", description=__doc__)
    parser.add_argument("--folder", type=Path, default=model_folder(), help="default: %(default)s")
    folder = parser.parse_args(arguments).folder
    scores = {}
    for name, (texture, config) in MODELS.items():
        trained(texture, config).save(folder / name)
        # Of what was saved: the one in memory may differ from it in the last digit.
        scores[name] = scores_of(HTDGDetector.load(folder / name, device="cpu"), texture)
        print(folder / name)
    content = {"note": NOTE, "defect_fraction": FRACTION, "scores": scores}
    write_text(folder / "scores.json", json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
