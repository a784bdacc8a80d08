"""How time and memory grow: ``python -m benchmarks.growth``.

One iteration of one scale (RGB, 54 transformations, ``stretched``, width 32, float32, one image of
64 pixels) with one thing varied at a time, each point in a process of its own: seconds, and the
most main memory above that of the interpreter and the libraries. Writes ``growth.json`` and its
part of ``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import iteration_seconds, machine, median_seconds, untrained
from benchmarks.report import write_part
from htdg import HTDGConfig
from htdg.device import keep_freed_memory
from htdg.evaluation import peak_memory
from htdg.storage import write_text
from htdg.training import start_scale

HERE = Path(__file__).parent
CPU = torch.device("cpu")
VARIED: dict[str, list[dict[str, Any]]] = {
    "side": [{"side": side} for side in (32, 64, 128, 256)],
    "transformations": [{"transformations": t} for t in ("rotations", "grey42", "rgb54")],
    "shots": [{"side": 32, "shots": shots} for shots in (1, 5, 10, 20, 40, 80)],
    "images scored": [{"scored": count} for count in (1, 10, 100, 1000)],
    "all scales of image_size 128": [
        {"paper": "paper_rgb", "translation": t} for t in ("pixel", "stretched", "resampled")
    ],
}


def point(
    side: int = 64,
    shots: int = 1,
    transformations: str = "rgb54",
    translation: str = "stretched",
    scored: int = 0,
    paper: str = "",
) -> dict[str, float]:
    """Seconds and MiB of one point, in this process."""
    keep_freed_memory()
    options = {"transformations": transformations, "translation": translation}
    config = HTDGConfig(image_size=side, **options, precision="float32", device="cpu")
    before = peak_memory(CPU)["ram"]
    if paper:
        config = HTDGConfig.preset(paper, translation=translation, precision="float32")
        seconds = sum(iteration_seconds(config, CPU, 1))
    elif scored:
        detector = untrained(config.with_options(max_size=32, image_size=32), CPU)
        images = torch.randint(0, 256, (scored, 32, 32, 3), dtype=torch.uint8).numpy()
        before = peak_memory(CPU)["ram"]
        started = time.perf_counter()
        detector.score_samples(images)
        seconds = time.perf_counter() - started
    else:
        real = torch.rand(shots, 3, side, side) * 2 - 1
        training = start_scale(config, config.resolve_transformations(True), [], real)
        seconds = median_seconds(training.step, 1, CPU)
    return {"seconds": seconds, "mib": peak_memory(CPU)["ram"] - before}


def page(found: dict[str, Any]) -> str:
    """The figures as a table."""
    lines = [
        f"Machine: {found['machine']}. One iteration of one scale (RGB, 54 transformations, "
        "`stretched`, width 32, float32, one image of 64 pixels; of 32 pixels where shots vary) "
        "with one thing varied, each in a process of its own. Memory is the most above that of the "
        "interpreter and libraries. Scoring: models of image_size 32.",
        "",
        "| varied | seconds (MiB) |",
        "| --- | --- |",
    ]
    for name, points in VARIED.items():
        cells = []
        for options in points:
            value = found["points"][json.dumps(options)]
            what = list(options.values())[-1]
            cells.append(f"{what}: {value['seconds']:.2f} ({value['mib']:.0f})")
        lines.append(f"| {name} | {'; '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="How time and memory grow.")
    parser.add_argument("--point", type=json.loads, help="measure this one only, and print it")
    options = parser.parse_args()
    if options.point is not None:
        print(json.dumps(point(**options.point)))
        return
    found: dict[str, Any] = {"machine": machine(CPU), "points": {}}
    for points in VARIED.values():
        for chosen in points:
            words = [sys.executable, "-m", "benchmarks.growth", "--point", json.dumps(chosen)]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            found["points"][json.dumps(chosen)] = json.loads(done.stdout)
            print(chosen, done.stdout.strip(), flush=True)
    write_text(HERE / "growth.json", json.dumps(found, indent=1) + "\n")
    write_part(HERE / "README.md", "Growth", page(found))


if __name__ == "__main__":
    main()
