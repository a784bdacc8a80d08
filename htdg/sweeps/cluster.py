"""Where a sweep computes: processes of this machine, a running Dask cluster, or jobs of Slurm.

Dask's library ``distributed`` does the work: it hands tasks to workers, notices workers that die,
and gives their tasks to others.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from htdg.errors import UserError
from htdg.io.files import one_line

#: How often a task may take a worker with it before it counts as failed.
DEATHS = 3


#: Of a worker's environment: whether Dask profiles it.
NO_PROFILER = "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED"


class ClusterError(UserError):
    """A cluster that cannot be had; the message says what to do."""


class Places(NamedTuple):
    """How a machine is divided: a process computes one run at a time.

    Attributes:
        gpus: the GPU of each process, or None where it computes on the CPU.
        threads: that each process may use.
    """

    gpus: Sequence[int | None]
    threads: int


def divide(n_runs: int, cores: int, gpus: int, workers: int | None, threads: int | None) -> Places:
    """Divide a machine: one process a GPU, or as many as there are cores or runs.

    Args:
        n_runs: how many there are to do.
        cores: of this machine.
        gpus: of this machine.
        workers: so many processes, if given; with GPUs they take turns on these.
        threads: of each process, if given; by default the cores are shared out.
    """
    count = workers or max(1, min(gpus or (cores // (threads or 1)), n_runs))
    chosen = [i % gpus if gpus else None for i in range(count)]
    return Places(chosen, threads or max(1, cores // count))


def cores_here() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def local_cluster(places: Places) -> Iterator[Any]:
    """A client of processes of this machine, which end with it."""
    distributed = _distributed()
    workers = {
        i: {
            "cls": distributed.Nanny,
            "options": {
                "nthreads": 1,
                "env": environment(gpu, places.threads),
                "death_timeout": 60,
            },
        }
        for i, gpu in enumerate(places.gpus)
    }
    scheduler = {"cls": distributed.Scheduler, "options": {"port": 0, "host": "127.0.0.1"}}
    with warnings.catch_warnings():
        # Another sweep here has it; the dashboard's address is said where there is one.
        warnings.filterwarnings("ignore", r"Port \d+ is already in use")
        cluster = distributed.SpecCluster(workers, scheduler, name="htdg", silence_logs=50)
    with (
        cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def environment(gpu: int | None, threads: int) -> dict[str, str]:
    """The environment of a process: how many threads it has, and which GPU it sees."""
    variables = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return variables if gpu is None else {**variables, "CUDA_VISIBLE_DEVICES": str(gpu)}


@contextlib.contextmanager
def running_cluster(address: str) -> Iterator[Any]:
    """A client of a cluster that runs already, by its scheduler's address.

    Raises:
        ClusterError: nobody answers there.
    """
    distributed = _distributed()
    try:
        client = distributed.Client(address, timeout=20)
    except (OSError, ValueError, TypeError) as error:
        raise ClusterError(
            f"No Dask scheduler answers at {address} ({error}): start one with "
            "dask scheduler, or check the address."
        ) from None
    with client:
        yield client


@contextlib.contextmanager
def slurm_cluster(jobs: int, options: Mapping[str, str | int]) -> Iterator[Any]:
    """A client of jobs that are handed to Slurm.

    Args:
        jobs: how many.
        options: of ``dask_jobqueue.SLURMCluster``, such as ``queue``, ``walltime`` and ``memory``.

    Raises:
        ClusterError: there is no Slurm here, or an option is wrong.
    """
    distributed = _distributed()
    try:
        cluster = slurm_jobs(options)
        cluster.scale(jobs=jobs)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise ClusterError(f"Slurm does not take the jobs: {one_line(str(error))}.") from None
    with cluster, distributed.Client(cluster) as client:
        yield client


def slurm_jobs(options: Mapping[str, str | int]) -> Any:  # noqa: ANN401 - a library without types
    """Dask's description of a job that computes one run at a time."""
    try:
        import dask_jobqueue
    except ImportError as error:
        raise ClusterError(_missing(error)) from None
    defaults: dict[str, Any] = {"cores": 1, "memory": "4GB"}
    one_at_a_time = {"processes": 1, "worker_extra_args": ["--nthreads", "1"]}
    return dask_jobqueue.SLURMCluster(**{**defaults, **options, **one_at_a_time})


def _distributed() -> Any:  # noqa: ANN401 - a library without types
    """Dask's library, which is to be quiet: ``htdg sweep`` says what happens."""
    try:
        import dask

        dask.config.set(
            {
                "logging.distributed": "error",
                "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "error",
                # Dask's profiler keeps what it sees: a MiB a run (benchmarks.soak).
                "distributed.worker.profile.enabled": False,
                f"distributed.nanny.pre-spawn-environ.{NO_PROFILER}": "False",
                "distributed.scheduler.allowed-failures": DEATHS,
            }
        )
        import distributed
    except ImportError as error:
        raise ClusterError(_missing(error)) from None
    return distributed


def _missing(error: ImportError) -> str:
    return f"{error.name} is missing: pip install 'htdg[sweep]'."
