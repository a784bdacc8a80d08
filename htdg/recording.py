"""Steps of training that a GPU plays back from a recording.

A step is a thousand small operations, and on a GPU at these sizes it takes longer to ask for each
of them than to compute it. A CUDA graph holds them all and one call starts them. It repeats what
was recorded, at the same addresses, so what changes from step to step lies in tensors that stay
where they are, and for anything else that changes the step is recorded anew.

A recording is believed only after it has done a step as the step itself does it; where it cannot be
made, or does something else, steps run one operation after another as before. ``HTDG_GRAPHS=0``
turns it off.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence

import torch

Losses = dict[str, torch.Tensor]
#: (noise, previous or None) -> losses.
Step = Callable[[torch.Tensor, torch.Tensor | None], Losses]
#: Steps before the recording: libraries set themselves up, and the optimiser makes its moments.
WARM_UP = 3
#: How far what a recording does may differ from the step, as a part of what the step changes: the
#: order of sums may vary.
TOLERANCE = 0.01
#: The same for weights: Adam turns rounding into whole steps of those that have no gradient.
TOLERANCE_OF_WEIGHTS = 0.25


def recordable(device: torch.device) -> bool:
    """Whether steps on this device can be recorded."""
    return device.type == "cuda" and os.environ.get("HTDG_GRAPHS") != "0"


class Recording:
    """One kind of step: as it is at first, then played back.

    Attributes:
        failed: why there is no recording, once that is known; empty otherwise.
    """

    def __init__(self, device: torch.device) -> None:
        """Nothing is recorded yet."""
        self.device, self.failed, self._calls = device, "", 0
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._play: Callable[[], None] | None = None
        self._fixed: object = None

    def run(
        self,
        step: Step,
        noise: torch.Tensor,
        previous: torch.Tensor | None,
        changing: Callable[[], Sequence[Sequence[torch.Tensor]]],
        fixed: object,
    ) -> Losses:
        """What ``step(noise, previous)`` does and returns.

        Args:
            step: changes tensors in place and needs no number from the device.
            noise, previous: what the step is given.
            changing: the groups of tensors that it changes, once ``WARM_UP`` steps are done: first
                the weights.
            fixed: whatever else it depends on (learning rates): another one is recorded anew.

        Returns:
            The losses; a later call may overwrite them.
        """
        self._calls += 1
        if self.failed or self._calls <= WARM_UP:
            return self._as_it_is(step, noise, previous)
        if self._play is None or fixed != self._fixed:
            return self._recorded(step, noise, previous, changing, fixed)
        self._give(noise, previous)
        self._play()
        return self._losses

    def _as_it_is(self, step: Step, noise: torch.Tensor, previous: torch.Tensor | None) -> Losses:
        if self._stream is None or self.failed:
            return step(noise, previous)
        # On the stream that will be recorded: gradients are added up on the one they began on.
        now = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(now)
        with torch.cuda.stream(self._stream):
            losses = step(noise, previous)
        now.wait_stream(self._stream)
        return losses

    def _recorded(
        self,
        step: Step,
        noise: torch.Tensor,
        previous: torch.Tensor | None,
        changing: Callable[[], Sequence[Sequence[torch.Tensor]]],
        fixed: object,
    ) -> Losses:
        """Do the step, record it, and see whether the recording does the same."""
        groups, self._fixed = [list(group) for group in changing()], fixed
        before = _copies(groups)
        losses = self._as_it_is(step, noise, previous)
        after = _copies(groups)
        _restore(groups, before)
        # Recorded with others than it is then played with: nothing of them may be left in it.
        self._noise = torch.zeros_like(noise)
        self._previous = None if previous is None else torch.zeros_like(previous)
        try:
            self._play, self._losses = record(step, self._noise, self._previous, self._stream)
            self._give(noise, previous)
            self._play()
            played = [*_copies(groups), [loss.clone() for loss in self._losses.values()]]
            starts = [*before, [torch.zeros_like(loss) for loss in losses.values()]]
            apart = [*map(_apart, played, [*after, list(losses.values())], starts)]
            limits = [TOLERANCE_OF_WEIGHTS, *[TOLERANCE] * (len(apart) - 1)]
            if not all(a <= limit for a, limit in zip(apart, limits, strict=True)):
                self._give_up("the recording does something else than the step")
        except RuntimeError as error:  # CUDA's own, and being short of memory
            self._give_up(str(error).splitlines()[0])
        _restore(groups, after)
        return losses

    def _give(self, noise: torch.Tensor, previous: torch.Tensor | None) -> None:
        self._noise.copy_(noise)
        if previous is not None:
            self._previous.copy_(previous)

    def _give_up(self, why: str) -> None:
        self.failed, self._play = why, None
        warnings.warn(
            f"A training step could not be recorded as a CUDA graph ({why}), so its operations run "
            "one by one: the same result, later. HTDG_GRAPHS=0 does not try.",
            stacklevel=2,
        )


def record(
    step: Step,
    noise: torch.Tensor,
    previous: torch.Tensor | None,
    stream: torch.cuda.Stream | None,
) -> tuple[Callable[[], None], Losses]:
    """What plays the step back, and where the losses lie then. Nothing is computed yet."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        losses = step(noise, previous)
    return graph.replay, losses


def _copies(groups: Sequence[Sequence[torch.Tensor]]) -> list[list[torch.Tensor]]:
    return [[tensor.detach().clone() for tensor in group] for group in groups]


@torch.no_grad()
def _restore(
    groups: Sequence[Sequence[torch.Tensor]], kept: Sequence[Sequence[torch.Tensor]]
) -> None:
    for group, values in zip(groups, kept, strict=True):
        for tensor, value in zip(group, values, strict=True):
            tensor.copy_(value)


def _apart(
    played: Sequence[torch.Tensor], after: Sequence[torch.Tensor], before: Sequence[torch.Tensor]
) -> float:
    """How far two ways of changing a group of tensors differ, as a part of how far they came."""
    one, other, start = (
        torch.cat([tensor.detach().double().flatten() for tensor in group])
        for group in (played, after, before)
    )
    apart, came = float((one - other).norm()), float((other - start).norm())
    if came == 0:
        return math.inf if apart else 0.0
    return apart / came
