"""What several test files do with trained models: compare them, and break a training off."""

from __future__ import annotations

import torch

from htdg import HTDGDetector
from htdg.io.model_directory import scale_tensors
from htdg.runtime.progress import TrainingCallback, TrainingProgress

QUIET = {"progress": False}


class Stop(Exception):
    """Raised by a callback that breaks a training off."""


def stop_at(scale: int, iteration: int) -> TrainingCallback:
    """A callback that breaks off after this iteration (from 1) of this scale."""

    def callback(state: TrainingProgress) -> None:
        if (state.scale, state.iteration) == (scale, iteration):
            raise Stop

    return callback


def same_weights(first: HTDGDetector, second: HTDGDetector) -> bool:
    """Whether two detectors hold the same tensors in the same scales, bit for bit."""
    one, two = scale_tensors(first.scales_), scale_tensors(second.scales_)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
