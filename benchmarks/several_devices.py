"""One model trained by one process and by two: ``python -m benchmarks.several_devices``.

The same training (colour, 54 transformations, ``pixel``, ten iterations a scale, of one image and
of three) by one process with one thread, by one with two, and by two with one thread each. Writes
its part of ``benchmarks/README.md``; ``--print`` prints it only.
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
OPTIONS = "--preset paper_rgb --translation pixel --niter 10 --precision float32 --device cpu"


def seconds(threads: int, starter: list[str], images: list[Path]) -> float:
    """What a training takes, without starting the processes."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model"
        words = ["-m", "htdg", "train", *map(str, images), *OPTIONS.split(), "--out", str(out)]
        command = [sys.executable, *starter, *words]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return sum(scale["seconds"] for scale in saved_model(out).history)


def table(rounds: int) -> str:
    """The medians of so many rounds, as Markdown."""
    images = sorted((texture_folder("brick") / "train" / "good").iterdir())
    lines = [
        f"{machine(torch.device('cpu'))}. Seconds of a training of ten iterations a scale, the",
        f"median of {rounds} rounds; in brackets, times one process with two threads.",
        "",
        "| | one image | three images |",
        "| --- | --- | --- |",
    ]
    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for name, (threads, starter) in WAYS.items():
            for count in (1, 3):
                took = seconds(threads, starter, images[:count])
                times.setdefault((name, count), []).append(took)
    medians = {key: statistics.median(values) for key, values in times.items()}
    for name in WAYS:
        cells = []
        for count in (1, 3):
            usual = medians["one process, two threads", count]
            cells.append(f"{medians[name, count]:.1f} ({medians[name, count] / usual:.2f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
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
