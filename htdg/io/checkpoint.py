"""Where a training stands, written now and then, so that a killed one goes on where it was.

A checkpoint is a model directory (see ``htdg.io.model_directory``) holding the finished scales,
and, for the one in training, its networks, the optimisers' moments, the random stream and the
losses so far. Going on from it gives the same weights, bit for bit, as never having stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from htdg.io.folders import recover, remove
from htdg.io.model_directory import (
    ModelError,
    load_scale,
    read_directory,
    scale_tensors,
    write_directory,
)
from htdg.sampling import Scale
from htdg.training import ScaleTraining


def remove_checkpoint(folder: Path) -> None:
    """Delete a checkpoint that is no longer needed, and the one of GEOM's classifier beside it."""
    recover_checkpoint(folder)
    for path in (folder, geom_checkpoint(folder)):
        remove(path)


def recover_checkpoint(folder: Path) -> None:
    """Put right what killed programs left beside a checkpoint (``htdg.io.folders.recover``)."""
    for path in (folder, geom_checkpoint(folder)):
        recover(path)


def geom_checkpoint(folder: Path) -> Path:
    """Where the classifier of the ablation "geom" keeps its own checkpoint."""
    return folder.with_name(f"{folder.name}.geom")


def is_finished(checkpoint: Path, model: Path) -> bool:
    """Whether a model is what the training of a checkpoint ended with: it has its scales."""
    try:
        of_each = [read_directory(folder)[1]["tensors"] for folder in (checkpoint, model)]
    except ModelError:
        return False
    begun, whole = (
        {name: d for name, d in digests.items() if name.startswith("scale")} for digests in of_each
    )
    return begun == whole


class Checkpoint:
    """One training's checkpoint directory."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """Use ``folder``; ``fingerprint`` identifies options and training images."""
        self.folder = folder
        self.fingerprint = fingerprint
        self.tensors: dict[str, torch.Tensor] = {}
        self.n_done, self.iteration, self.seconds = 0, 0, 0.0
        self.images_at_once = 0  # what the training was begun with, wherever it goes on
        self.history: list[dict[str, object]] = []
        recover(folder)
        if folder.exists():
            self._read()

    def _read(self) -> None:
        self.tensors, described, self.history = read_directory(self.folder)
        if described.get("fingerprint") != self.fingerprint:
            raise ModelError(
                f"{self.folder} is an unfinished training with other options or images: train with "
                "those to finish it, or delete it."
            )
        self.n_done, self.iteration = described["n_done"], described["iteration"]
        self.seconds = described["seconds"]
        self.images_at_once = described["images_at_once"]

    def write(
        self,
        done: Sequence[Scale],
        history: list[dict[str, object]],
        training: ScaleTraining | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Save the finished scales and, when given, the one in training since ``seconds``."""
        tensors = scale_tensors(done)
        iteration = 0
        if training is not None:
            tensors |= scale_tensors([*done, training.scale])
            tensors |= adam_tensors("adam_d", training.adam_d)
            tensors |= adam_tensors("adam_g", training.adam_g)
            tensors |= {f"history.{k}": v for k, v in training.history.items()}
            tensors["rng"] = training.rng.get_state()
            iteration = training.iteration
        described = {
            "fingerprint": self.fingerprint,
            "n_done": len(done),
            "iteration": iteration,
            "seconds": seconds,
            "images_at_once": self.images_at_once,
        }
        write_directory(self.folder, tensors, described, history)

    def restore_done(self, scale: Scale, n: int) -> bool:
        """Fill scale n if it was finished; returns whether it was."""
        if n >= self.n_done:
            return False
        load_scale(scale, n, self.tensors)
        return True

    @torch.no_grad()
    def restore_training(self, training: ScaleTraining) -> float:
        """Bring a scale that had been begun to where it stood; returns the seconds it had taken."""
        n = len(training.coarser)
        if n != self.n_done or self.iteration == 0:
            return 0.0
        load_scale(training.scale, n, self.tensors)
        for name, adam in (("adam_d", training.adam_d), ("adam_g", training.adam_g)):
            if f"{name}.0.step" in self.tensors:  # G never steps in the ablation without it
                restore_adam(name, adam, self.tensors)
        training.history = {
            k: self.tensors[f"history.{k}"].to(v) for k, v in training.history.items()
        }
        training.rng.set_state(self.tensors["rng"])
        training.iteration = self.iteration
        return self.seconds


def adam_tensors(name: str, adam: torch.optim.Adam) -> dict[str, torch.Tensor]:
    """The moments of an optimiser by name: ``<name>.0.exp_avg`` and so on."""
    return {
        f"{name}.{i}.{key}": torch.as_tensor(value)
        for i, state in adam.state_dict()["state"].items()
        for key, value in state.items()
    }


@torch.no_grad()
def restore_adam(name: str, adam: torch.optim.Adam, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give an optimiser the moments that ``adam_tensors`` took of it."""
    state = {
        i: {
            "step": tensors[f"{name}.{i}.step"],
            # In the order in memory that the weights have: Adam's fused kernel needs it.
            "exp_avg": torch.empty_like(p).copy_(tensors[f"{name}.{i}.exp_avg"]),
            "exp_avg_sq": torch.empty_like(p).copy_(tensors[f"{name}.{i}.exp_avg_sq"]),
        }
        for i, p in enumerate(adam.param_groups[0]["params"])
    }
    groups = adam.state_dict()["param_groups"]
    adam.load_state_dict({"state": state, "param_groups": groups})
