"""How time and memory grow: ``python -m benchmarks.growth``.

One iteration of one scale (RGB, 54 transformations, ``stretched``, width 32, float32, one image of
64 pixels) with one thing varied at a time, each point in a process of its own: seconds, and the
most main memory above that of the interpreter and the libraries. Writes ``growth.json`` and its
part of ``benchmarks/README.md``. A point that is in ``growth.json`` is not measured again: remove
that file to begin anew.
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

from benchmarks.measure import iteration_seconds, median_seconds, untrained
from benchmarks.report import write_part
from htdg import HTDGConfig
from htdg.evaluation.run import peak_memory
from htdg.io.files import write_text
from htdg.models import choose_backend
from htdg.runtime import memory
from htdg.runtime.device import keep_freed_memory, machine
from htdg.training import ScaleTraining, start_scale

HERE = Path(__file__).parent
CPU = torch.device("cpu")
VARIED: dict[str, list[dict[str, Any]]] = {
    "side": [{"side": side} for side in (32, 64, 128, 256)],
    "transformations": [{"transformations": t} for t in ("rotations", "grey42", "rgb54")],
    "shots": [{"side": 32, "shots": shots} for shots in (1, 5, 10, 20, 40, 80)],
    "shots at 64 pixels, width 64, in chunks planned for 8 GiB (a D and a G step)": [
        {"translation": t, "planned_gib": 8, "shots": 10} for t in ("pixel", "resampled")
    ],
    "the same, planned for 20 GiB": [
        {"translation": t, "planned_gib": 20, "shots": 80} for t in ("pixel", "resampled")
    ],
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
    planned_gib: float = 0.0,
) -> dict[str, float]:
    """Seconds and MiB of one point, in this process.

    With ``planned_gib`` a D and a G step of the paper's finest scale, in chunks as planned for a
    machine that has so much memory.
    """
    keep_freed_memory()
    options = {"transformations": transformations, "translation": translation}
    config = HTDGConfig(image_size=side, **options, precision="float32", device="cpu")
    before = peak_memory(CPU)["ram"]
    if planned_gib:
        return planned_point(config.with_options(channels=64, image_size=64), shots, planned_gib)
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
        training = start(config, real)
        seconds = median_seconds(training.step, 1, CPU)
    return {"seconds": seconds, "mib": peak_memory(CPU)["ram"] - before}


def start(config: HTDGConfig, real: torch.Tensor) -> ScaleTraining:
    """The training of one scale, with the backend that a detector would choose."""
    transformations = config.resolve_transformations(True)
    backend = choose_backend(config, transformations, real.device)
    return start_scale(config, transformations, [], real, backend)


def planned_point(config: HTDGConfig, shots: int, gib: float) -> dict[str, float]:
    """What several shots take when they go through in chunks; ``images_at_once`` is the plan's."""
    memory.total_memory = lambda device: int(gib * 2**30)
    transformations = config.resolve_transformations(True)
    backend = choose_backend(config, transformations, CPU)
    at_once = memory.images_at_once(backend, (64,), shots, 0, CPU)
    before = peak_memory(CPU)["ram"]
    config = config.with_options(images_at_once=at_once)
    real = torch.rand(shots, 3, 64, 64) * 2 - 1
    training = start(config, real)
    noise, previous = training.draw_noise(), training.draw_previous(1)[0]
    started = time.perf_counter()
    training.d_step(noise, previous)
    training.g_step(noise, previous)
    seconds = time.perf_counter() - started
    used = peak_memory(CPU)["ram"] - before
    return {"seconds": seconds, "mib": used, "images_at_once": at_once}


def page(results: dict[str, Any]) -> str:
    """The figures as a table."""
    lines = [
        f"Machine: {results['machine']}. One iteration of one scale (RGB, 54 transformations, "
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
            value = results["points"][json.dumps(options)]
            what = options.get("translation", list(options.values())[-1])
            if "images_at_once" in value:
                what = f"{options['shots']} shots, {what}, {value['images_at_once']} at once"
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
    file = HERE / "growth.json"
    results = json.loads(file.read_text()) if file.is_file() else {"points": {}}
    results["machine"] = machine(CPU)
    for points in VARIED.values():
        for chosen in points:
            if json.dumps(chosen) in results["points"]:
                continue
            words = [sys.executable, "-m", "benchmarks.growth", "--point", json.dumps(chosen)]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            results["points"][json.dumps(chosen)] = json.loads(done.stdout)
            write_text(file, json.dumps(results, indent=1) + "\n")
            print(chosen, done.stdout.strip(), flush=True)
    write_part(HERE / "README.md", "Growth", page(results))


if __name__ == "__main__":
    main()
