"""A progress bar that reads well wherever it is shown.

In a terminal it is one line that is redrawn; in a notebook one output that is replaced, so that a
saved notebook keeps only the last; in a pipe or a log file a new line now and then, without
carriage returns.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, TypeAlias, cast

from htdg.training import ScaleTraining

#: Where a bar is shown: a terminal, a notebook, a file or pipe ("lines"), or nowhere.
Look: TypeAlias = Literal["terminal", "notebook", "lines", "silent"]
_SECONDS_BETWEEN: dict[Look, float] = {"terminal": 0.1, "notebook": 0.3, "lines": 10.0}


class _DisplayHandle(Protocol):
    """IPython's handle of an output that can be replaced."""

    def update(self, content: object, **options: object) -> None: ...


class ProgressBar:
    """One line of text that is redrawn. Use it as a context manager, so that its last state stays.

    Attributes:
        look: where it is shown; see ``Look``.
        label: what is in progress.
        total: number of steps; None if it is unknown.
        done: number of steps done so far.
    """

    def __init__(self, look: Look, label: str = "", total: int | None = None) -> None:
        """A bar of ``total`` steps (None if unknown) called ``label``."""
        self.look, self.label, self.total = look, label, total
        self.done = 0
        self._started = time.monotonic()
        self._last_shown = self._started if look == "lines" else 0.0
        self._text = ""
        self._width = 0
        self._handle: _DisplayHandle | None = None

    @classmethod
    def for_scoring(cls, progress: bool, total: int | None) -> ProgressBar:
        """A bar for scoring ``total`` images (None if unknown); silent without ``progress``."""
        return cls(suitable_look() if progress else "silent", "scoring", total)

    def __enter__(self) -> ProgressBar:
        """Start the clock."""
        self._started = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Show the last state, finished or not, and end the line."""
        if self._text:
            self._emit(self._text)
            if self.look == "terminal":
                sys.stderr.write("\n")

    def advance(self, steps: int) -> None:
        """Count ``steps`` more steps, 1 or more, as done."""
        self.done += steps
        seconds = time.monotonic() - self._started
        if self.total is None:
            text = f"{self.label}  {self.done} images  {clock(seconds)}"
            self._update(text, last=False)
            return
        left = seconds / self.done * (self.total - self.done)
        last = self.done >= self.total
        tail = clock(seconds) if last else f"{clock(left)} left"
        bar = draw_bar(self.done, self.total)
        self._update(f"{self.label}  {bar} {self.done}/{self.total}  {tail}", last)

    def say(self, text: str) -> None:
        """Show ``text`` instead of a bar."""
        self._update(text, last=False)

    def show(self, state: TrainingProgress) -> None:
        """Show the progress of a training: scale, iteration, time left."""
        bar = draw_bar(state.iteration, state.niter)
        last = state.iteration == state.niter
        text = (
            f"scale {state.scale + 1}/{state.n_scales} ({state.side} px)  {bar} "
            f"{state.iteration}/{state.niter}  {clock(state.seconds_left)} left"
        )
        if last and state.scale + 1 == state.n_scales:
            total = time.monotonic() - self._started
            text = f"{state.n_scales} scales of {state.niter} iterations trained in {clock(total)}"
        self._update(text, last)

    def _update(self, text: str, last: bool) -> None:
        if self.look == "silent":
            return
        now = time.monotonic()
        self._text = text
        if last or now - self._last_shown >= _SECONDS_BETWEEN[self.look]:
            self._emit(text)
            self._last_shown = now
            self._text = "" if self.look == "lines" else text

    def _emit(self, text: str) -> None:
        if self.look == "terminal":
            sys.stderr.write("\r" + text.ljust(self._width))
            self._width = len(text)
            sys.stderr.flush()
        elif self.look == "lines":
            print(text, file=sys.stderr, flush=True)
        elif self.look == "notebook":
            self._show_in_notebook(text)

    def _show_in_notebook(self, text: str) -> None:
        from IPython.display import display

        content = {"text/plain": text}
        if self._handle is None:
            handle = display(content, raw=True, display_id=True)
            self._handle = cast(_DisplayHandle, handle)
        else:
            self._handle.update(content, raw=True)


@dataclass
class TrainingProgress:
    """Where a training stands: handed to the callback of ``fit`` after every iteration.

    Attributes:
        scale: number of the scale in training, 0 is the coarsest.
        n_scales: how many there are.
        side: its side in pixels.
        iteration: how many iterations of it are done, 1 .. niter.
        niter: how many it will have.
        training: the scale in training, for those who want to look inside (samples, weights).
        seconds: spent on this scale so far.
        seconds_left: estimated time for everything still to do.
    """

    scale: int
    n_scales: int
    side: int
    iteration: int
    niter: int
    training: ScaleTraining
    seconds: float
    seconds_left: float

    def losses(self) -> dict[str, float]:
        """The losses of the iteration just done; reading them waits for the device."""
        return {k: float(v[self.iteration - 1]) for k, v in self.training.history.items()}


TrainingCallback = Callable[[TrainingProgress], None]


class TrainingClock:
    """Times the training of a scale and estimates what is left.

    The estimate takes the cost of an iteration to grow with side^2 * width^2.
    """

    def __init__(self, training: ScaleTraining, sides: Sequence[int]) -> None:
        """Start the clock; ``sides`` are those of all scales, pixels."""
        self.training, self.sides = training, sides
        self._started, self._iterations_before = time.perf_counter(), training.iteration

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self._started

    def progress(self) -> TrainingProgress:
        """Where the training stands after an iteration."""
        training, n = self.training, len(self.training.coarser)
        config, seconds = training.config, self.seconds
        cost = [side**2 * config.width(i) ** 2 for i, side in enumerate(self.sides)]
        to_do = config.niter - training.iteration + config.niter * sum(cost[n + 1 :]) / cost[n]
        left = seconds / (training.iteration - self._iterations_before) * to_do
        where = (n, len(self.sides), self.sides[n], training.iteration, config.niter)
        return TrainingProgress(*where, training, seconds, left)


def say(lines: Iterable[str]) -> None:
    """Say something on standard error, line by line."""
    for line in lines:
        print(f"htdg: {line}", file=sys.stderr)


def name_skipped(paths: Iterable[Path]) -> None:
    """Name on standard error the files that were passed over because they are no images."""
    say(f"{path} is no image: skipped." for path in paths)


def training_bar(progress: bool | ProgressBar) -> ProgressBar:
    """A bar for a training: by True or False a suitable or a silent one, or ``progress`` itself."""
    if isinstance(progress, ProgressBar):
        return progress
    return ProgressBar(suitable_look() if progress else "silent")


def suitable_look() -> Look:
    """``notebook`` in a Jupyter kernel, ``terminal`` on a terminal, else ``lines``."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None and hasattr(shell, "kernel"):
        return "notebook"
    return "terminal" if sys.stderr.isatty() else "lines"


def draw_bar(done: int, total: int, width: int = 20) -> str:
    """``[########............]``, in plain characters, which every terminal and log can show."""
    filled = width * done // max(total, 1)
    return "[" + "#" * filled + "." * (width - filled) + "]"


def clock(seconds: float) -> str:
    """Seconds as ``0:07``, ``12:34`` or ``1:02:03``."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    tail = f"{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
    return f"{hours}:{tail}" if hours else tail
