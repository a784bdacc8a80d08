"""One model trained by one process and by two: ``python -m benchmarks.several_devices``.

The same training (colour, 54 transformations, ``pixel``, five iterations a scale, one image) by one
process with one thread, by one with two, and by two with one thread each. Writes its part of
``benchmarks/README.md``; ``--print`` prints it only.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.report import write_part
from htdg.course.files import texture_folder
from htdg.models import saved_model
from htdg.runtime.device import machine

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
#: By name, the threads of a process and what starts it.
WAYS: dict[str, tuple[int, list[str]]] = {
    "one process, one thread": (1, []),
    "one process, two threads": (2, []),
    "two processes, one thread each": (1, TORCHRUN),
}
OPTIONS = "--preset paper_rgb --translation pixel --niter 5 --precision float32 --device cpu"


def seconds(threads: int, starter: list[str], image: Path) -> float:
    """What a training takes, without starting the processes."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model"
        words = ["-m", "htdg", "train", str(image), *OPTIONS.split(), "--out", str(out)]
        command = [sys.executable, *starter, *words]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return sum(scale["seconds"] for scale in saved_model(out).history)


def table(rounds: int) -> str:
    """The medians of so many rounds, as Markdown."""
    image = min((texture_folder("brick") / "train" / "good").iterdir())
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, (threads, starter) in WAYS.items():
            times[name].append(seconds(threads, starter, image))
    medians = {name: statistics.median(of) for name, of in times.items()}
    usual = medians["one process, two threads"]
    lines = [
        f"{machine(torch.device('cpu'))}. A training of five iterations a scale, colour, 54",
        f"transformations, one image; the median of {rounds} rounds.",
        "",
        "| | seconds | times one process with two threads |",
        "| --- | --- | --- |",
        *(f"| {name} | {of:.1f} | {of / usual:.2f} |" for name, of in medians.items()),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--print", action="store_true", help="write nothing")
    options = parser.parse_args()
    text = table(options.rounds)
    if options.print:
        print(text)
    else:
        page = Path(__file__).with_name("README.md")
        write_part(page, "One model, several processes", text)


if __name__ == "__main__":
    main()
