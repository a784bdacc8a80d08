"""One run of a sweep: its checks before anything runs, and the run itself, in whatever process."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from htdg.datasets import Dataset, choose, load_dataset
from htdg.errors import UserError
from htdg.evaluation.run import evaluate
from htdg.io.files import one_line, write_text
from htdg.io.locks import BusyError
from htdg.sweeps.grid import GridError, Run

#: PyTorch's threads and other settings are the process's: it does one run at a time, whatever its
#: scheduler thinks.
_ONE_AT_A_TIME = threading.Lock()
#: What a run leaves when it has failed, beside what it has done so far.
ERROR = "error.txt"
#: Seconds between looks at a run that another process is still busy with.
PATIENCE = 1.0
#: Parameters that are paths, which workers see from elsewhere.
_PATHS = ("data_root", "train", "test", "masks", "archive")


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
        name: of the run.
        error: empty if all is well, or what went wrong, in a line.
    """

    name: str
    error: str


def check_runs(runs: Sequence[Run]) -> list[int]:
    """Check that every run has what it needs, before any of them begins.

    Returns:
        How many images each tests.

    Raises:
        GridError: a data set, a class, or that many training images are missing.
    """
    opened: dict[str, Dataset] = {}
    counts = []
    for run in runs:
        task = run.task()
        key = json.dumps([task.dataset, str(task.data_root), task.options], sort_keys=True)
        try:
            if key not in opened:
                opened[key] = load_dataset(task.dataset, task.data_root, **(task.options or {}))
            dataset = opened[key]
            pool = dataset.training_pool(dataset.resolve_class(task.normal_class))
            chosen = choose(pool, task.shots, task.index, task.draw)
            limits = task.limit, task.limit_per_kind
            counts.append(len(dataset.test_set(task.normal_class, chosen, *limits)))
        except UserError as error:
            raise GridError(f"Run {run.name} cannot be done: {error}") from None
    return counts


def is_done(folder: Path) -> bool:
    """Whether a run has all its results: ``metrics.json`` is written last."""
    return (folder / "metrics.json").is_file()


def resolved(run: Run) -> Run:
    """The same run with absolute paths, for processes that stand elsewhere."""
    parameters = dict(run.parameters)
    parameters.setdefault("data_root", "data")
    for name in _PATHS:
        if parameters.get(name) is not None:
            parameters[name] = str(Path(str(parameters[name])).resolve())
    return Run(parameters)


def do_run(name: str, parameters: dict[str, Any], folder: str, threads: int) -> Outcome:
    """Evaluate, unless it is done already; a training that was stopped goes on where it was.

    This is what workers call, so it takes and returns what can be sent to them, and raises nothing
    but what ends a process.

    Args:
        name: of the run.
        parameters: of the run, with absolute paths.
        folder: where its results go.
        threads: that PyTorch may use; results depend on it in their last digits.
    """
    out, run = Path(folder), Run(parameters)
    with _ONE_AT_A_TIME:
        return _done(name, run, out, threads)


def _done(name: str, run: Run, out: Path, threads: int) -> Outcome:
    torch.set_num_threads(threads)
    try:
        (out / ERROR).unlink(missing_ok=True)
        while not is_done(out):
            try:
                evaluate(run.task(), out, run.config(), progress=False)
            except BusyError:  # a process that its scheduler has given up is at it still
                time.sleep(PATIENCE)
        return Outcome(name, "")
    except Exception as error:  # whatever it is, the other runs go on
        with contextlib.suppress(UserError):
            write_text(out / ERROR, traceback.format_exc())
        what = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        return Outcome(name, f"{what}{one_line(str(error))}")
