"""What a GPU does, in two calls of less than 8 minutes each.

    python -m benchmarks.gpu --data-root data --out DIR --only right,fast
    python -m benchmarks.gpu --data-root data --out DIR --only whole

Whether it computes what a CPU does (``right``), how fast it is (``fast``), and the paper's own
settings on it (``whole``). Parts run one after another, the most important first, each in a process
of its own and with a limit of time, so that one that fails or hangs costs no other. Every figure is
in ``DIR/gpu.json`` and ``DIR/gpu.txt`` as soon as it is there; a summary of the targets comes last.
``--only`` chooses parts; a second call with the same ``--out`` adds to the first. All groups in one
call would leave little time for the last, and none where the others take what they may.

``--quick --device cpu`` shows in a few minutes that all of it works, at tiny sizes, with images
that the package brings along. ``--page DIR/gpu.json`` writes the part of ``benchmarks/README.md``;
it takes only what was measured on a GPU.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks import gpu_fast, gpu_right, gpu_whole
from benchmarks.gpu_page import TITLE, WHOLE, merged, page, summary
from benchmarks.gpu_report import OutOfTime, Report, Run, described, read_results
from benchmarks.quality import commit
from benchmarks.report import write_part
from htdg.datasets import load_dataset
from htdg.errors import UserError
from htdg.runtime.device import resolve_device

HERE = Path(__file__).resolve().parent
#: A part that does not end by itself when its time is up is killed after so many more seconds.
GRACE = 40.0
#: Seconds below which no part is begun.
LEAST = 5.0


class Part(NamedTuple):
    """A part of the run: its group, what does it, and the seconds that it may take."""

    group: str
    perform: Callable[[Run], None]
    seconds: float


PARTS: dict[str, Part] = {
    "tests": Part("right", gpu_right.tests, 60),
    "training": Part("right", gpu_right.training, 75),
    "votes": Part("right", gpu_right.votes, 40),
    "memory": Part("right", gpu_right.memory, 40),
    "iterations": Part("fast", gpu_fast.iterations, 80),
    "scoring": Part("fast", gpu_fast.scoring, 30),
    "profile": Part("fast", gpu_fast.profiles, 30),
    **{name: Part("whole", partial(gpu_whole.experiment, name), 200) for name in WHOLE},
    "ten_shots": Part("whole", gpu_whole.ten_shots, 30),
    "side_by_side": Part("whole", gpu_fast.side_by_side, 30),
}
GROUPS = tuple(dict.fromkeys(part.group for part in PARTS.values()))
#: Starts a part with so many seconds; returns its exit code, None if it had to be killed.
Start = Callable[[str, float], int | None]


def chosen_parts(only: str) -> list[str]:
    """The parts that ``--only`` names, by themselves or by their group, in the order of the run."""
    words = [word.strip() for word in only.split(",")]
    for word in words:
        if word not in GROUPS and word not in PARTS:
            raise UserError(
                f"--only: there is no part {word!r}; choose from {', '.join((*GROUPS, *PARTS))}."
            )
    return [name for name, part in PARTS.items() if name in words or part.group in words]


# --- All parts ------------------------------------------------------------------------------------


def run_parts(names: Sequence[str], report: Report, seconds: float, start: Start) -> None:
    """One part after another, until the time is up; what became of each is kept."""
    began = time.monotonic()
    for name in names:
        left = seconds - (time.monotonic() - began)
        if left < LEAST:
            skip(report, name, "no time left")
            continue
        limit = min(PARTS[name].seconds, left)
        report.restart(name, limit)
        report.say(f"== {name} (at most {limit:.0f} s)")
        started = time.monotonic()
        code = start(name, limit)
        conclude(report, name, code, time.monotonic() - started)


def skip(report: Report, name: str, why: str) -> None:
    """Say why a part is not run; what an earlier call found of it stays."""
    if name not in report.results()["parts"]:
        report.set_state(name, "skipped", why=why)
    report.say(f"== {name}: skipped: {why}")


def conclude(report: Report, name: str, code: int | None, seconds: float) -> None:
    """Keep what became of a part that has ended, and say it."""
    part = report.results()["parts"][name]
    state, why = part["state"], part.get("why", "")
    if code is None:
        state, why = "stopped", f"killed {GRACE:g} s after its time was up"
    elif state == "running":  # it did not come to say what became of it
        ended = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        state, why = "failed", ended
    elif state == "done" and part["left_out"]:
        state = "incomplete"
    report.set_state(name, state, why=why, seconds=seconds)
    last = f": {why.splitlines()[-1]}" if why else ""
    report.say(f"== {name} {state} after {seconds:.1f} s{last}")


def in_a_process(options: argparse.Namespace, name: str, seconds: float) -> int | None:
    """A part in a process of its own: an error of a GPU spoils the process that it happens in."""
    words = ["--child", name, "--seconds", str(seconds), "--device", options.device]
    words += ["--out", str(options.out), "--data-root", str(options.data_root)]
    command = [sys.executable, "-m", "benchmarks.gpu", *words, *["--quick"] * options.quick]
    # The profiler's own log is of no use to anybody. Tiny sizes are no work for several threads.
    environment = {"KINETO_LOG_LEVEL": "99", **({"OMP_NUM_THREADS": "1"} if options.quick else {})}
    with ending_on_request():
        # Of its own session, so that what it has started ends with it.
        process = subprocess.Popen(
            command, cwd=HERE.parent, env=environment | dict(os.environ), start_new_session=True
        )
        try:
            return process.wait(timeout=seconds + GRACE)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextmanager
def ending_on_request() -> Iterator[None]:
    """A request to end (SIGTERM) ends this process as an exception does: what it runs ends, too."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def perform(run: Run) -> None:
    """Do a part in this process, and keep what became of it."""
    try:
        PARTS[run.part].perform(run)
    except OutOfTime as error:
        run.report.set_state(run.part, "stopped", why=str(error))
    except subprocess.TimeoutExpired:
        run.report.set_state(run.part, "stopped", why="the program it started was out of time")
    except UserError as error:  # a data set that is not there, say
        run.report.set_state(run.part, "failed", why=str(error))
    except Exception:  # whatever it is, the other parts go on
        run.report.set_state(run.part, "failed", why=traceback.format_exc(limit=-8).strip())
        traceback.print_exc()
    else:
        run.report.set_state(run.part, "done")


# --- The command line -----------------------------------------------------------------------------


def without_data(names: Sequence[str], data_root: Path) -> dict[str, str]:
    """The parts whose data sets are not there, and a sentence on each.

    It is known before any time is spent; those that can be downloaded are.
    """
    missing = {}
    for name in names:
        if name in WHOLE:
            task = gpu_whole.EXPERIMENTS[name].task
            if not data_root.is_dir():
                missing[name] = f"--data-root: {data_root} is no folder; {name} needs data sets."
                continue
            try:
                load_dataset(task["dataset"], data_root).training_pool(task["normal_class"])
            except UserError as error:
                missing[name] = str(error)
            except ModuleNotFoundError as error:
                missing[name] = (
                    f"{name} needs {task['dataset']}, which is not in {data_root} and cannot be "
                    f"downloaded without {error.name}."
                )
    return missing


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of results")
    arguments.add_argument("--data-root", type=Path, default=Path("data"))
    arguments.add_argument("--only", default=",".join(GROUPS), help="groups or parts, with commas")
    arguments.add_argument("--minutes", type=float, default=7.0, help="of the run (default: 7)")
    arguments.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    arguments.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    arguments.add_argument("--commit", help="what runs, where git cannot say")
    arguments.add_argument("--page", type=Path, nargs="+", metavar="FILE", help="write the page")
    arguments.add_argument("--child", help=argparse.SUPPRESS)  # do this part, for another process
    arguments.add_argument("--seconds", type=float, default=60.0, help=argparse.SUPPRESS)
    return arguments


def main(words: Sequence[str] | None = None) -> int:
    """Run what is asked for.

    The exit code is 1 if a part failed or lacked its data, 2 if it cannot be asked for.
    """
    options = parser().parse_args(words)
    options.out, options.data_root = options.out.resolve(), options.data_root.resolve()
    try:
        if options.page:
            results = merged([read_results(file) for file in options.page])
            write_part(HERE / "README.md", TITLE, page(results))
            return 0
        return run_child(options) if options.child else run_all(options)
    except UserError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 2


def run_child(options: argparse.Namespace) -> int:
    """Do one part."""
    device, report = resolve_device(options.device), Report(options.out)
    where = (device, options.quick, options.data_root, report)
    perform(Run(options.child, *where, options.seconds))
    return 0


def run_all(options: argparse.Namespace) -> int:
    """Run the parts that are asked for, and sum up."""
    names = chosen_parts(options.only)
    if options.minutes <= 0:
        raise UserError(f"--minutes is {options.minutes:g}, but it must be above 0.")
    device, report = resolve_device(options.device), Report(options.out)
    missing = {} if options.quick else without_data(names, options.data_root)
    if names and len(missing) == len(names):
        raise UserError(missing[names[0]])
    report.begin(described(device, options.quick, options.commit or commit()))
    for name, why in missing.items():
        skip(report, name, why)
    there = [name for name in names if name not in missing]
    run_parts(there, report, 60 * options.minutes, partial(in_a_process, options))
    results = report.results()
    report.say(f"\n{summary(results)}")
    failed = [name for name in names if results["parts"][name]["state"] == "failed"]
    return 1 if failed or missing else 0


if __name__ == "__main__":
    sys.exit(main())
