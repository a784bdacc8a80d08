"""Arrays of our own runs, small enough to ship: they notice when a change alters the numbers.

    python -m tests.recorded

writes ``tests/data/recorded.npz`` again. Do that only after ``python -m tests.golden FOLDER`` found
everything within tolerance, which is how the shipped file was made: the code that passed there is
the code that these arrays hold still.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from htdg import HTDGConfig
from htdg.datasets.samples import texture_set
from htdg.models import choose_backend
from htdg.training import freeze, start_scale
from htdg.transformations import CATALOGUE, transform_all
from htdg.votes import aggregate_votes

FILE = Path(__file__).parent / "data" / "recorded.npz"
SIDES = (16, 20)


def images(side: int) -> torch.Tensor:
    """A corner of a training crop at its own resolution, in three different channels."""
    crop = texture_set("brick", train=1, good=0, per_defect=0).train[0]
    grey = torch.from_numpy(crop[:side, :side].copy()).float() / 127.5 - 1
    return torch.stack([grey, grey * 0.8, grey.flip(0) * 0.6])[None]  # (1, 3, side, side)


def compute(translation: str, fast: bool = False) -> dict[str, np.ndarray]:
    """The first iterations of two scales with all 54 transformations, and scores after them.

    ``fast`` chooses the backend that trains and votes.
    """
    config = HTDGConfig.preset(
        "tiny", transformations="rgb54", translation=translation, niter=2, seed=5, fast=fast
    )
    backend = choose_backend(config, CATALOGUE, torch.device("cpu"))
    arrays: dict[str, np.ndarray] = {}
    scales = []
    for n, side in enumerate(SIDES):
        real = images(side)
        training = start_scale(config, CATALOGUE, scales, real, backend)
        while training.iteration < config.niter:
            training.step()
        for name, values in training.history.items():
            arrays[f"{translation}/scale{n}/{name}"] = values.numpy().copy()
        arrays[f"{translation}/scale{n}/sigma"] = training.scale.sigma.numpy()
        scales.append(freeze(training.scale))
        # Fresh weights, so that rounding in training does not enter.
        untrained = freeze(start_scale(config, CATALOGUE, [], real, backend).scale)
        with torch.inference_mode():
            copies = transform_all(real, CATALOGUE, translation)
            logits = untrained.discriminator(copies.flatten(0, 1)).unflatten(0, (54, 1))
            votes = backend.voter(untrained)(real)
        arrays[f"{translation}/scale{n}/copies"] = copies[:, 0, :, ::3, ::3].numpy()
        arrays[f"{translation}/scale{n}/logits"] = logits[::9, 0, :, ::3, ::3].numpy()
        arrays[f"{translation}/scale{n}/score"] = aggregate_votes(votes).numpy()
        arrays[f"{translation}/scale{n}/score_tenth"] = aggregate_votes(votes, 0.1).numpy()
    return arrays


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FILE, **compute("pixel"), **compute("resampled"))
    print(f"{FILE}: {FILE.stat().st_size} bytes")
