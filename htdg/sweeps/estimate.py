"""How long a sweep takes, from a few iterations and a few scores that are measured now."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch

from htdg.config import HTDGConfig
from htdg.detector import HTDGDetector
from htdg.sweeps.grid import Run

#: Iterations that are measured, besides a first one, which prepares what all use.
MEASURED = 2
#: Images that are scored.
SCORED = 4


def estimated_seconds(
    runs: Sequence[Run], n_tested: Sequence[int], measure: Callable[..., tuple[float, float]]
) -> list[float]:
    """About how long each run takes, one at a time.

    Args:
        runs: what is to be done.
        n_tested: how many images each tests.
        measure: ``measured``, which is called once for runs that take equally long.
    """
    known: dict[tuple[HTDGConfig, int], tuple[float, float]] = {}
    seconds = []
    for run, count in zip(runs, n_tested, strict=True):
        config, shots = run.config().with_options(seed=0, niter=1), run.task().shots
        if (config, shots) not in known:
            known[config, shots] = measure(config, shots)
        iteration, image = known[config, shots]
        seconds.append(iteration * run.config().niter + image * count)
    return seconds


def measured(config: HTDGConfig, shots: int) -> tuple[float, float]:
    """Seconds for an iteration at all scales together, and for the score of an image."""
    side = config.image_size
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(shots + SCORED, 3, side, side, generator=rng)
    times = []
    for niter in (1, 1 + MEASURED):
        started = time.perf_counter()
        detector = HTDGDetector(config.with_options(niter=niter))
        detector.fit(images[:shots], progress=False)
        times.append(time.perf_counter() - started)
    detector.score_samples(images[:1])  # the first one prepares
    started = time.perf_counter()
    detector.score_samples(images[shots:])
    scoring = (time.perf_counter() - started) / SCORED
    return max(0.0, times[1] - times[0]) / MEASURED, scoring


def in_words(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{math.ceil(seconds)} seconds"
