"""``htdg sweep``."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from htdg.commands.common import UsageError
from htdg.io.locks import only_one
from htdg.runtime.progress import say
from htdg.sweeps import cluster
from htdg.sweeps.estimate import estimated_seconds, in_words, measured
from htdg.sweeps.grid import Run, read_grid
from htdg.sweeps.running import check_runs
from htdg.sweeps.sweep import Sweep, SweepError, do_sweep, record, threads_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("grid", type=Path, metavar="GRID", help="YAML file with the runs")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say how many runs there are and about how long they take, and run none",
    )
    parser.add_argument("--retries", type=int, default=1, help="of runs that fail (default: 1)")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes (default: by cores, GPUs and runs)"
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="of each process (default: cores shared out)"
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster that runs already")
    place.add_argument(
        "--slurm",
        nargs="*",
        metavar="NAME=VALUE",
        help="hand --workers jobs to Slurm, with these options of dask_jobqueue.SLURMCluster, such "
        "as queue=gpu walltime=02:00:00 memory=8GB",
    )


def execute(options: argparse.Namespace) -> None:
    """Carry the command out."""
    for name in ("retries", "workers", "threads"):
        value, least = getattr(options, name), 0 if name == "retries" else 1
        if value is not None and value < least:
            raise UsageError(f"--{name} is {value}, but it must be at least {least}.")
    runs = read_grid(options.grid)
    n_tested = check_runs(runs)
    with only_one(options.out):
        cores, gpus = cluster.cores_here(), torch.cuda.device_count()
        threads = options.threads or threads_of(options.out)
        places = cluster.divide(len(runs), cores, gpus, options.workers, threads)
        sweep = Sweep(options.out, runs, places.threads)
        to_do = sweep.to_do
        n_done = len(runs) - len(to_do)
        say([f"{len(runs)} runs, of which {n_done} are done; {sweep.threads} threads each"])
        if options.dry_run:
            counts = dict(zip((run.name for run in runs), n_tested, strict=True))
            print(_estimate(to_do, counts, len(places.gpus)))
            return
        if to_do:
            record(sweep)
            with _client(options, places) as client:
                if find_spec("bokeh") is not None:  # which draws it
                    say([f"dashboard: {client.dashboard_link}"])
                failed = do_sweep(sweep, client, options.retries)
            if failed:
                raise SweepError(
                    f"{len(failed)} of {len(runs)} runs failed; error.txt in the folder of each "
                    f"below {options.out / 'runs'} says why. Give the command again to try them "
                    "again."
                )
    print(f"{len(runs)} runs are done: htdg tables {options.out}")


def _client(options: argparse.Namespace, places: cluster.Places) -> AbstractContextManager[Any]:
    """Whatever ``--scheduler`` or ``--slurm`` asks for, or processes of this machine."""
    if options.scheduler is not None:
        return cluster.running_cluster(options.scheduler)
    if options.slurm is not None:
        given = [word.partition("=") for word in options.slurm]
        wrong = next((name for name, equals, _ in given if not (name and equals)), None)
        if wrong is not None:
            raise UsageError(f"--slurm has {wrong!r}, but takes NAME=VALUE.")
        values = {n: int(value) if value.isdecimal() else value for n, _, value in given}
        return cluster.slurm_cluster(options.workers or 1, values)
    return cluster.local_cluster(places)


def _estimate(to_do: list[Run], counts: dict[str, int], workers: int) -> str:
    """How long the runs take, in a sentence."""
    if not to_do:
        return "Nothing is to be done."
    seconds = estimated_seconds(to_do, [counts[run.name] for run in to_do], measured)
    longest = max(sum(seconds) / workers, max(seconds))
    return (
        f"{len(to_do)} runs take about {in_words(sum(seconds))} of one process, "
        f"{in_words(longest)} with {workers} of them."
    )
