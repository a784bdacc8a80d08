"""Doing the runs of a grid: those that are not done yet, on a cluster, with a bar over them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from htdg.errors import UserError
from htdg.io.files import write_text
from htdg.runtime.progress import ProgressBar, say, suitable_look
from htdg.sweeps.grid import Run
from htdg.sweeps.running import Outcome, do_run, is_done, resolved

#: What a sweep writes about itself.
RECORD = "sweep.json"


class SweepError(UserError):
    """A sweep that cannot go on; the message says what to do."""


class Sweep(NamedTuple):
    """A sweep in its folder.

    Attributes:
        out: the folder; each run has one of its own below ``runs``.
        runs: all of them.
        threads: that a run may use, as when the sweep was begun: results depend on it.
    """

    out: Path
    runs: Sequence[Run]
    threads: int

    def folder(self, run: Run) -> Path:
        """Where the results of a run are."""
        return self.out / "runs" / run.name

    @property
    def to_do(self) -> list[Run]:
        """The runs that are not done."""
        return [run for run in self.runs if not is_done(self.folder(run))]


def threads_of(out: Path) -> int | None:
    """The threads that the sweep in a folder was begun with; None if there is none yet."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return max(1, int(json.loads((out / RECORD).read_text(encoding="utf-8"))["threads"]))
    return None


def record(sweep: Sweep) -> None:
    """Write down what a sweep is, for whoever looks into its folder, and for the next start."""
    runs = {run.name: dict(run.parameters) for run in sweep.runs}
    text = json.dumps({"threads": sweep.threads, "runs": runs}, indent=1)
    write_text(sweep.out / RECORD, text + "\n")


def do_sweep(sweep: Sweep, client: Any, retries: int) -> dict[str, str]:  # noqa: ANN401
    """Do what is to be done of a sweep.

    Args:
        sweep: what is to be done.
        client: of ``distributed``.
        retries: how often a run that fails is tried again.

    Returns:
        What went wrong, by the name of the run.

    Raises:
        SweepError: the cluster is gone.
    """
    to_do = sweep.to_do
    bar = ProgressBar(suitable_look(), "runs", len(to_do))
    left, failed = {run.name: run for run in to_do}, dict[str, str]()
    with bar:
        for attempt in range(retries + 1):
            failed = {}
            for outcome in _outcomes(sweep, list(left.values()), client):
                if not outcome.error:
                    del left[outcome.name]
                    bar.advance(1)
                    continue
                failed[outcome.name] = outcome.error
                more = "" if attempt == retries else ", and is tried again"
                say([f"run {outcome.name} failed{more}: {outcome.error}"])
            if not failed:
                break
    return failed


def _outcomes(sweep: Sweep, runs: Sequence[Run], client: Any) -> Iterator[Outcome]:  # noqa: ANN401
    """The outcomes of runs, as they end."""
    from distributed import as_completed

    futures = {
        # A key of its own for every try, so that Dask does not answer with what it knows.
        client.submit(do_run, *_arguments(sweep, run), key=f"{run.name}-{uuid4().hex}"): run
        for run in runs
    }
    for future in as_completed(futures):
        run = futures[future]
        if future.status == "finished":
            yield future.result()
        elif future.status == "cancelled" or client.status != "running":
            raise SweepError(
                "The scheduler is gone. Start it again, and then the sweep: what is done is kept."
            )
        else:
            yield Outcome(run.name, f"its process died ({future.exception()})")
        future.release()


def _arguments(sweep: Sweep, run: Run) -> tuple[str, Mapping[str, Any], str, int]:
    folder = sweep.folder(run).resolve()
    return run.name, dict(resolved(run).parameters), str(folder), sweep.threads
