"""The scores that notebook 06 compares: ``python -m htdg.course.few_shots`` trains and records.

A hundred small detectors of faces: the whole method with one, five and ten shots, and the seven
variants of the paper's Table 6, ten draws each. What they scored is in
``notebooks/models/few_shots.json``, so that the notebook's statistics are the same on every
machine; with scores of one's own, a difference may be "more than chance" here and not there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from htdg.ablations.variants import VARIANTS, as_variant
from htdg.config import HTDGConfig
from htdg.course.frozen import model_folder
from htdg.datasets.samples import face_set
from htdg.detector import HTDGDetector
from htdg.io.files import write_text

#: The notebook's options.
CONFIG = HTDGConfig(
    image_size=25,
    min_size=20,
    max_size=24,
    scale_factor=0.8,
    channels=16,
    niter=6,
    transformations="rotations",
    translation="pixel",
    geom_samples=16,
    geom_epochs=2,
    device="cpu",
)
#: A draw fixes the training images, the first weights and the noise.
DRAWS = 10
#: Number of shots and variant of every setting.
SETTINGS: dict[str, tuple[int, str | None]] = {
    **{f"{shots}-shot": (shots, None) for shots in (1, 5, 10)},
    **{variant.letter: (1, variant.letter) for variant in VARIANTS},
}


def recorded() -> dict[str, np.ndarray]:
    """The anomaly scores of every setting: (10 draws, 80 test images)."""
    text = (model_folder() / "few_shots.json").read_text(encoding="utf-8")
    return {name: np.array(draws) for name, draws in json.loads(text).items()}


def trained(draw: int, shots: int, variant: str | None) -> HTDGDetector:
    """A detector of one draw, as the notebook trains it, on one thread."""
    torch.set_num_threads(1)
    pool = face_set(train=60).train
    order = np.random.default_rng(draw).permutation(len(pool))
    options = CONFIG.with_options(seed=draw)
    options = as_variant(options, variant) if variant else options
    return HTDGDetector(options).fit([pool[i] for i in order[:shots]], progress=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, score and write; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m htdg.course.few_shots", description=__doc__)
    default = model_folder() / "few_shots.json"
    parser.add_argument("--out", type=Path, default=default, help="default: %(default)s")
    out = parser.parse_args(arguments).out
    test = face_set(train=60).test[:80]
    scores: dict[str, list[list[float]]] = {}
    for name, (shots, variant) in SETTINGS.items():
        detectors = [trained(draw, shots, variant) for draw in range(DRAWS)]
        scores[name] = [np.round(d.anomaly_score(test), 6).tolist() for d in detectors]
        print(name, flush=True)
    write_text(out, json.dumps(scores).replace("]], ", "]],\n").replace("], ", "],\n ") + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
