"""Training beside other work: ``python -m benchmarks.busy``.

PyTorch's threads meet after every operation, and those that are there first spin for a while before
they sleep. On an idle machine that is the quickest; where one of two cores is taken by something
else, whole time slices pass in spinning. This measures training iterations (colour, 54
transformations, ``pixel``, one image) with several settings of how long threads spin, on the
machine as it is and beside a process that keeps a core busy, and two trainings side by side. The
settings alternate, so that what else the machine does falls on all alike. One of them is what the
command line sets. Writes its part of ``benchmarks/README.md``; ``--print`` prints it only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import torch

from benchmarks.measure import iteration_seconds
from benchmarks.report import write_part
from htdg import HTDGConfig
from htdg.commands.cli import SPINS
from htdg.runtime.device import machine

CPU = torch.device("cpu")
#: By name, what is set in the environment of a training.
SETTINGS: dict[str, dict[str, str]] = {
    "as PyTorch has it": {},
    "`GOMP_SPINCOUNT=30000`": {"GOMP_SPINCOUNT": "30000"},
    "`GOMP_SPINCOUNT=10000`": {"GOMP_SPINCOUNT": "10000"},
    f"`GOMP_SPINCOUNT={SPINS}`, as `htdg` has it": {"GOMP_SPINCOUNT": SPINS},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
#: Iterations that are timed at each scale.
REPEATS = 3


def start(setting: dict[str, str]) -> subprocess.Popen[bytes]:
    """A process that prints the seconds of an iteration at each scale, as JSON."""
    unset = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {k: v for k, v in os.environ.items() if k not in unset} | setting
    command = [sys.executable, "-m", "benchmarks.busy", "--child"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)


def result(process: subprocess.Popen[bytes]) -> float:
    """The seconds of an iteration, summed over the scales."""
    out, _ = process.communicate()
    return sum(json.loads(out))


def beside_others(setting: dict[str, str]) -> float:
    """``result`` while another process keeps a core busy."""
    with ExitStack() as stack:
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        stack.callback(other.wait)
        stack.callback(other.kill)
        return result(start(setting))


def two_at_once(setting: dict[str, str]) -> float:
    """The slower one of two trainings at a time."""
    return max(map(result, [start(setting), start(setting)]))


def table(rounds: int) -> str:
    """What is measured, as Markdown; medians over so many rounds."""
    ways = {"alone": lambda s: result(start(s)), "busy": beside_others, "two": two_at_once}
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for name, setting in SETTINGS.items():
            for way, measure in ways.items():
                seconds.setdefault((name, way), []).append(measure(setting))
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    usual = medians["as PyTorch has it", "alone"]
    lines = [
        f"{machine(CPU)}. An iteration at every scale of `image_size` 128, seconds in all, the",
        f"median of {rounds} rounds; in brackets, times that of PyTorch's own setting alone.",
        "",
        "| threads | alone | one core busy | two trainings at once |",
        "| --- | --- | --- | --- |",
    ]
    for name in SETTINGS:
        cells = [f"{(t := medians[name, way]):.2f} ({t / usual:.2f})" for way in ways]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--print", action="store_true", help="write nothing")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        config = HTDGConfig.preset("paper_rgb", translation="pixel", precision="float32")
        json.dump(iteration_seconds(config, CPU, REPEATS), sys.stdout)
        return
    text = table(options.rounds)
    if options.print:
        print(text)
    else:
        write_part(Path(__file__).with_name("README.md"), "Beside other work", text)


if __name__ == "__main__":
    main()
