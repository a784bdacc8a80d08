"""Steps of training that a GPU plays back from a recording.

A step is a thousand small operations, and a GPU may be done with each sooner than it is asked for
the next. A CUDA graph holds them all and one call starts them. It repeats what was recorded, at the
same addresses, so what changes from step to step lies in tensors that stay where they are, and for
anything else that changes the step is recorded anew.

A recording is trusted only after it has done a step as the step itself does it; where one cannot be
made, or does something else, steps run one operation after another for the rest of the process.
``HTDG_GRAPHS=0`` turns recordings off.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch.cuda import _POOL_HANDLE  # what names the memory of a graph

Losses = dict[str, torch.Tensor]
#: (noise, previous or None) -> losses.
Step = Callable[[torch.Tensor, torch.Tensor | None], Losses]
Groups = Sequence[Sequence[torch.Tensor]]
#: Steps before the recording: libraries set themselves up, and the optimiser makes its moments.
WARM_UP = 3
#: How far what a recording does may differ from the step, as a part of what the step changes: the
#: order of sums may vary.
TOLERANCE = 0.01
#: The same for weights: Adam turns rounding into whole steps of those that have no gradient.
TOLERANCE_OF_WEIGHTS = 0.25
#: Why a recording failed in this process; then no other is tried.
_failures: list[str] = []


def recordable(device: torch.device) -> bool:
    """Whether steps on this device can be recorded."""
    return device.type == "cuda" and os.environ.get("HTDG_GRAPHS") != "0" and not _failures


@dataclass
class Recorded:
    """One kind of step: how it is played, with what, and where its losses lie afterwards."""

    fixed: object
    noise: torch.Tensor
    previous: torch.Tensor | None
    play: Callable[[], None] = lambda: None
    losses: Losses = field(default_factory=dict)

    def set_inputs(self, noise: torch.Tensor, previous: torch.Tensor | None) -> None:
        """Copy what it is to be played with to where it looks for it."""
        self.noise.copy_(noise)
        if previous is not None and self.previous is not None:
            self.previous.copy_(previous)


class Recordings:
    """All kinds of steps of a scale: as they are at first, then played back.

    Attributes:
        failed: why nothing is recorded any more; empty otherwise.
    """

    def __init__(self, device: torch.device) -> None:
        """Nothing is recorded yet."""
        self.device, self.failed = device, ""
        self._calls: dict[str, int] = {}
        self._recorded: dict[str, Recorded] = {}
        self._pool: _POOL_HANDLE | None = None

    def run(
        self,
        kind: str,
        step: Step,
        noise: torch.Tensor,
        previous: torch.Tensor | None,
        changing: Callable[[], Groups],
        fixed: object,
    ) -> Losses:
        """What ``step(noise, previous)`` does and returns.

        Args:
            kind: what kind of step this is; ``step`` is always the same for it.
            step: changes tensors in place and needs no number from the device.
            noise, previous: the inputs of the step.
            changing: the groups of tensors that it changes, once ``WARM_UP`` steps are done: first
                the weights.
            fixed: whatever else it depends on (learning rates): another one is recorded anew.

        Returns:
            The losses; the next call for the same kind may overwrite them.
        """
        calls = self._calls[kind] = self._calls.get(kind, 0) + 1
        if self.failed:
            return step(noise, previous)
        if calls <= WARM_UP:
            return on_side_stream(self.device, step, noise, previous)
        recorded = self._recorded.get(kind)
        if recorded is None or recorded.fixed != fixed:
            self._recorded.pop(kind, None)  # its memory goes to the new one
            return self._record(kind, step, noise, previous, changing(), fixed)
        recorded.set_inputs(noise, previous)
        recorded.play()
        return recorded.losses

    def _record(
        self,
        kind: str,
        step: Step,
        noise: torch.Tensor,
        previous: torch.Tensor | None,
        groups: Groups,
        fixed: object,
    ) -> Losses:
        """Do the step, record it, and see whether the recording does the same."""
        before = _copies(groups)
        try:
            losses = on_side_stream(self.device, step, noise, previous)
        except torch.OutOfMemoryError as error:  # with what the recordings hold
            _restore(groups, before)
            self._give_up(error)
            return step(noise, previous)
        after = _copies(groups)
        _restore(groups, before)
        # Recorded with others than it is then played with: nothing of them may be left in it.
        place = None if previous is None else torch.zeros_like(previous)
        recorded = Recorded(fixed, torch.zeros_like(noise), place)
        if not self._recorded and self.device.type == "cuda":
            # Memory that all recordings share: one is played at a time, and leaves only losses.
            self._pool = torch.cuda.graph_pool_handle()
        try:
            where = (self.device, self._pool)
            recorded.play, recorded.losses = record(step, recorded.noise, recorded.previous, *where)
            recorded.set_inputs(noise, previous)
            recorded.play()
            _check(groups, recorded.losses, before, after, losses)
            self._recorded[kind] = recorded
        except Exception as error:  # whatever it is, the step can do without a recording
            self._give_up(error)
        finally:
            _restore(groups, after)
        return losses

    def _give_up(self, error: Exception) -> None:
        reason = error.__context__ or error  # ending a broken recording is an error of its own
        self.failed = (str(reason).splitlines() or [type(reason).__name__])[0]
        self._recorded.clear()
        _failures.append(self.failed)
        warnings.warn(
            f"A training step could not be recorded as a CUDA graph ({self.failed}), so operations "
            "run one by one: more slowly, and with results that may differ by rounding, which "
            "training amplifies. HTDG_GRAPHS=0 does not try.",
            stacklevel=2,
        )


def on_side_stream(
    device: torch.device, step: Step, noise: torch.Tensor, previous: torch.Tensor | None
) -> Losses:
    """Do the step on the stream that is recorded.

    Gradients are added up on the stream on which they were added up first.
    """
    if device.type != "cuda":
        return step(noise, previous)
    now, stream = torch.cuda.current_stream(device), _side_stream(device)
    stream.wait_stream(now)
    with torch.cuda.stream(stream):
        losses = step(noise, previous)
    now.wait_stream(stream)
    return losses


def record(
    step: Step,
    noise: torch.Tensor,
    previous: torch.Tensor | None,
    device: torch.device,
    pool: _POOL_HANDLE | None,
) -> tuple[Callable[[], None], Losses]:
    """Record a step: what plays it back, and where the losses lie then. Nothing is computed yet."""
    graph, stream = torch.cuda.CUDAGraph(), _side_stream(device)
    # The outer context gives the stream back where the inner one cannot end its recording.
    with torch.cuda.stream(stream), torch.cuda.graph(graph, pool=pool, stream=stream):
        losses = step(noise, previous)
    return graph.replay, losses


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


# --- Whether a recording does what the step does -------------------------------------------------


def _check(groups: Groups, losses: Losses, before: Groups, after: Groups, expected: Losses) -> None:
    """RuntimeError if the recording, just played, did something else than the step.

    Args:
        groups: what changed, as the recording left it; first the weights.
        losses: of the recording.
        before, after: the groups before the step, and as the step left them.
        expected: the losses of the step.
    """
    limits = [TOLERANCE_OF_WEIGHTS, *[TOLERANCE] * (len(groups) - 1)]
    for limit, played, start, end in zip(limits, groups, before, after, strict=True):
        if not relative_difference(played, end, start) <= limit:
            raise RuntimeError("the recording does something else than the step")
    zero = [torch.zeros_like(loss) for loss in expected.values()]
    same = losses.keys() == expected.keys()
    if (
        not same
        or not relative_difference([*losses.values()], [*expected.values()], zero) <= TOLERANCE
    ):
        raise RuntimeError("the recording finds other losses than the step")


def relative_difference(
    played: Sequence[torch.Tensor], after: Sequence[torch.Tensor], before: Sequence[torch.Tensor]
) -> float:
    """How far two ways of changing a group of tensors differ, as a part of how far they came."""
    if not after:
        return 0.0
    one, other, start = (
        torch.cat([tensor.detach().double().flatten() for tensor in group])
        for group in (played, after, before)
    )
    difference, change = float((one - other).norm()), float((other - start).norm())
    if change == 0:
        return math.inf if difference else 0.0
    return difference / change


def _copies(groups: Groups) -> list[list[torch.Tensor]]:
    return [[tensor.detach().clone() for tensor in group] for group in groups]


@torch.no_grad()
def _restore(groups: Groups, kept: Groups) -> None:
    for group, values in zip(groups, kept, strict=True):
        for tensor, value in zip(group, values, strict=True):
            tensor.copy_(value)
