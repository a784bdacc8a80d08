"""How long a training iteration and scoring take: ``python -m benchmarks.speed`` or ``make bench``.

Times one iteration (3 steps of D, 3 of G) at every scale of the paper's settings, image_size 128,
and scoring, on random images of the right shape, and writes ``benchmarks/speed.json`` and the table
in ``benchmarks/README.md``. Beside them stand the official code's times, which were measured on
another day on two CPU cores: ratios to them compare two runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import torch

from htdg import HTDGConfig, HTDGDetector
from htdg.device import keep_freed_memory, resolve_device
from htdg.sampling import Scale
from htdg.storage import write_text
from htdg.training import freeze, start_scale

HERE = Path(__file__).parent
#: Seconds an iteration of the official code, one image, two CPU cores, float32, image_size 128.
OFFICIAL = {
    "paper_rgb": (0.45, 0.63, 1.0, 1.6, 14.0),
    "paper_grey": (0.41, 0.52, 0.80, 1.2, 7.3),
}
OFFICIAL_SCORING_MS = {"paper_rgb": 490, "paper_grey": 340}


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def iteration_seconds(config: HTDGConfig, device: torch.device, repeats: int) -> list[float]:
    """The median seconds of an iteration at every scale."""
    transformations = config.resolve_transformations(coloured=True)
    found, scales = [], []
    for side in config.sides:
        real = torch.rand(1, 3, side, side, device=device) * 2 - 1
        training = start_scale(config, transformations, scales, real)
        times = []
        for _ in range(repeats + 1):  # the first one warms up
            wait(device)
            started = time.perf_counter()
            training.step()
            wait(device)
            times.append(time.perf_counter() - started)
        found.append(statistics.median(times[1:]))
        scales.append(freeze(training.scale))
    return found


def scoring_ms(config: HTDGConfig, device: torch.device, images: int) -> float:
    """Milliseconds an image, resizing included, with networks that are not trained."""
    detector = HTDGDetector(config.with_options(device=str(device)))
    detector.images = torch.zeros(1, 3, config.image_size, config.image_size)
    detector.transformations = config.resolve_transformations(coloured=True)
    detector.scales = [untrained(config, device, n) for n in range(len(config.sides))]
    batch = torch.rand(images, 3, config.image_size, config.image_size)
    detector.score_samples(batch[:1])
    started = time.perf_counter()
    detector.score_samples(batch)
    return 1000 * (time.perf_counter() - started) / images


def untrained(config: HTDGConfig, device: torch.device, n: int) -> Scale:
    """Scale n with fresh weights."""
    side = config.sides[n]
    real = torch.rand(1, 3, side, side, device=device) * 2 - 1
    wide = config.with_options(channels=config.width(n))
    return freeze(start_scale(wide, config.resolve_transformations(True), [], real).scale)


def measure(device: torch.device, repeats: int, images: int) -> dict[str, object]:
    """All figures of this machine."""
    threads = torch.get_num_threads()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    found: dict[str, object] = {
        "machine": f"{name}, {os.cpu_count()} cores, {threads} threads",
        "torch": torch.__version__,
        "repeats": repeats,
    }
    for preset in OFFICIAL:
        config = HTDGConfig.preset(preset)
        for precision in ("float32", "bf16"):
            chosen = config.with_options(precision=precision)
            found[f"{preset} {precision}"] = {
                "iteration_s": iteration_seconds(chosen, device, repeats),
                "scoring_ms": scoring_ms(chosen, device, images),
            }
            print(preset, precision, found[f"{preset} {precision}"], flush=True)
    return found


def cpu_name() -> str:
    """The processor's own name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def table(found: dict[str, object]) -> str:
    """The figures as a page."""
    lines = [
        "# Benchmarks",
        "",
        "Made by `make bench`. Medians over repeats; one training image; random pixels.",
        "",
        f"Machine: {found['machine']}; torch {found['torch']}.",
        "",
        "Seconds an iteration (3 D steps, 3 G steps) at the scales of image_size 128, and "
        "milliseconds to score an image. The official code's figures come from another run on two "
        "cores, at sides 26, 32, 41, 51, 64; the last column is the ratio of the sums.",
        "",
        "| preset | 25 px | 32 px | 40 px | 51 px | 64 px | sum | scoring, ms | official / ours |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for preset, official in OFFICIAL.items():
        row(lines, f"{preset}, official code", official, OFFICIAL_SCORING_MS[preset], None)
        for precision in ("float32", "bf16"):
            mine = found[f"{preset} {precision}"]
            times = mine["iteration_s"]
            row(lines, f"{preset}, {precision}", times, mine["scoring_ms"], sum(official))
    hours = []
    for preset in OFFICIAL:
        for precision in ("float32", "bf16"):
            seconds = sum(found[f"{preset} {precision}"]["iteration_s"])
            hours.append(f"{preset} {precision} {seconds * niter(preset) / 3600:.1f} h")
    lines += ["", f"A whole model, extrapolated from these iterations: {', '.join(hours)}.", ""]
    return "\n".join(lines)


def niter(preset: str) -> int:
    """Iterations at each scale."""
    return HTDGConfig.preset(preset).niter


def row(lines: list[str], name: str, times: object, scoring: float, official: float | None) -> None:
    """Append one row."""
    cells = [f"{t:.2f}" for t in times] + [f"{sum(times):.2f}", f"{scoring:.0f}"]
    ratio = "" if official is None else f"{official / sum(times):.2f}"
    lines.append(f"| {name} | {' | '.join(cells)} | {ratio} |")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="Measure training iterations and scoring.")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--images", type=int, default=16, help="images to score")
    options = parser.parse_args()
    device = resolve_device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
    found = measure(device, options.repeats, options.images)
    write_text(HERE / "speed.json", json.dumps(found, indent=1) + "\n")
    write_text(HERE / "README.md", table(found))
    print(table(found))


if __name__ == "__main__":
    main()
