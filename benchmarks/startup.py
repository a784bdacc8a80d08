"""How long commands take to start: ``python -m benchmarks.startup``.

Each command in a process of its own, as a shell starts it, in turn with ``import torch`` alone,
which is what no command that computes can do without: the ratios of one run compare well, whatever
else the machine does. Processor time (user and system) does not count the waiting for a core that
other work has. Writes its part of ``benchmarks/README.md``.

``--package DIR`` measures the package in another checkout, and prints the table without writing it.
It must be able to read the models of this one. An earlier one that cannot runs this file itself.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from benchmarks.measure import untrained
from benchmarks.report import write_part
from htdg import HTDGConfig
from htdg.evidence import chosen_patches
from htdg.io.images import to_uint8
from htdg.io.model_directory import save_model
from htdg.runtime.device import machine

HERE = Path(__file__).parent
CPU = torch.device("cpu")
#: What a model says of its training; these models had none.
NOBODY = dict.fromkeys(("htdg", "torch", "python", "trained_on"), "untrained")
#: What is measured, as words after ``python``.
TORCH = ("-c", "import torch")
COMMANDS: dict[str, tuple[str, ...]] = {
    "`import torch`": TORCH,
    "`htdg --version`": ("-m", "htdg", "--version"),
    "`htdg --help`": ("-m", "htdg", "--help"),
    "`htdg info MODEL`": ("-m", "htdg", "info", "votes"),
    "`htdg score nowhere x`, an error": ("-m", "htdg", "score", "nowhere", "x"),
    "`htdg score MODEL IMAGE`": ("-m", "htdg", "score", "votes", "image.png"),
    "the same with `--maps`": ("-m", "htdg", "score", "votes", "image.png", "--maps", "maps"),
    "the same, a model with votes and patch distances": (
        *("-m", "htdg", "score", "both", "image.png"),
    ),
    "`htdg train IMAGE` with `tiny`, one iteration a scale": (
        *("-m", "htdg", "train", "image.png", "--out", "trained", "--overwrite"),
        *("--preset", "tiny", "--niter", "1", "--device", "cpu"),
    ),
}


def seconds_of(words: Sequence[str], folder: Path, package: Path) -> tuple[float, float]:
    """Seconds on the wall, and of processors, of ``python`` with ``words`` in ``folder``."""
    environment = {**os.environ, "PYTHONPATH": str(package)}
    before, started = os.times(), time.perf_counter()
    ran = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True)
    wall, after = time.perf_counter() - started, os.times()
    used = (after.children_user + after.children_system) - (
        before.children_user + before.children_system
    )
    if ran.returncode != (2 if "nowhere" in words else 0):
        raise SystemExit(f"{' '.join(words)} failed: {ran.stderr.decode()}")
    return wall, used


def measured(package: Path, repeats: int) -> dict[str, tuple[float, float]]:
    """The median seconds on the wall and of processors of every command."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as name:
        folder, side = Path(name), HTDGConfig.preset("tutorial").image_size
        pixels = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
        for evidence in ("votes", "both"):
            options = {"transformations": "rotations", "evidence": evidence}
            model = untrained(HTDGConfig.preset("tutorial", **options), CPU).model_
            banks = chosen_patches(pixels, model.config)
            model = replace(model, images=pixels, banks=banks, trained_with=NOBODY)
            save_model(model, folder / evidence)
        Image.fromarray(to_uint8(pixels)[0]).save(folder / "image.png")
        for _ in range(repeats + 1):  # the first warms up
            for name, words in COMMANDS.items():
                times[name].append(seconds_of(words, folder, package))
    return {
        name: (statistics.median(w for w, _ in of[1:]), statistics.median(c for _, c in of[1:]))
        for name, of in times.items()
    }


def table(results: dict[str, tuple[float, float]]) -> str:
    """The figures, each beside its ratio to ``import torch``."""
    lines = [
        "| | wall, s | processor, s | processor / `import torch` |",
        "| --- | --- | --- | --- |",
    ]
    _, torch_alone = results["`import torch`"]
    for name, (wall, used) in results.items():
        lines.append(f"| {name} | {wall:.2f} | {used:.2f} | {used / torch_alone:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="How long commands take to start.")
    parser.add_argument("--package", type=Path, help="a checkout to measure instead of this one")
    parser.add_argument("--repeats", type=int, default=7, help="default: 7")
    options = parser.parse_args()
    here = HERE.parent
    text = table(measured((options.package or here).resolve(), options.repeats))
    if options.package is not None:
        print(text)
        return
    about = (
        f"Machine: {machine(CPU)}, other work beside it. Medians of {options.repeats} in turn, "
        "each a process of its own; `import torch` is `python -c 'import torch'`, which also ends "
        "as Python usually does. docs/speed.md has what it was before."
    )
    write_part(HERE / "README.md", "Start-up", f"{about}\n\n{text}")


if __name__ == "__main__":
    main()
