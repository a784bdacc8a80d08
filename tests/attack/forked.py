"""Commands in forks of a process that has imported everything: starting one takes milliseconds.

The process that forks must not compute itself, since threads do not survive a fork.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[2]


class Ended(NamedTuple):
    """How a fork ended.

    Attributes:
        code: its exit code, negative for the number of a signal.
        answer: what its work returned besides, in words; empty if it was killed.
        seconds: how long it took.
        megabytes: the most memory that it had, with what it shares with the process before it.
    """

    code: int
    answer: str
    seconds: float
    megabytes: float


def in_fork(work: Callable[[], tuple[int, str]], log: Path, limit: int = 600) -> Ended:
    """Do some work in a fork of this process.

    Args:
        work: returns the exit code and an answer.
        log: where standard error goes; standard output goes beside it (``output_beside``).
        limit: seconds, after which the fork is killed (by SIGALRM).
    """
    sys.stdout.flush()
    reading, writing = os.pipe()
    started, child = time.monotonic(), os.fork()
    if child == 0:
        _work_and_end(work, log, limit, writing)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    _, status, usage = os.wait4(child, 0)
    seconds, megabytes = time.monotonic() - started, usage.ru_maxrss / 1024
    return Ended(os.waitstatus_to_exitcode(status), answer, seconds, megabytes)


def output_beside(log: Path) -> Path:
    """Where standard output goes."""
    return log.with_name(f"{log.name}.out")


def _work_and_end(work: Callable[[], tuple[int, str]], log: Path, limit: int, writing: int) -> None:
    code = 70  # as for a fault in a program: see sysexits.h
    try:
        signal.alarm(limit)
        for number, path in ((1, output_beside(log)), (2, log)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        code, answer = work()
        with os.fdopen(writing, "w") as pipe:
            pipe.write(answer)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def answers(words: Sequence[str], environment: dict[str, str]) -> Iterator[list]:
    """The lists that another process, which forks, prints as lines of JSON, as they come."""
    with subprocess.Popen(
        words, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        yield from map(json.loads, child.stdout)
    assert child.returncode == 0
