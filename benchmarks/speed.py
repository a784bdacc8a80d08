"""How fast training and scoring are: ``python -m benchmarks.speed [--full]`` or ``make bench``.

Everything is timed in one run at the paper's sizes (image_size 128, sides 25 to 64) on random
pixels: the straightforward version (``benchmarks.straightforward``), ours the plain way, and ours
the fast way, and set in ratio to each other. Writes ``speed_<vectors>_short.json``, such as
``speed_avx2_short.json`` (on a GPU ``speed_<gpu>_short.json``), without ``_short`` if it is
``--full``, and its part of ``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import (
    canvas_pixels,
    convolution_rate,
    iteration_operations,
    iteration_seconds,
    scoring_ms,
    wait,
)
from benchmarks.report import write_part
from htdg import HTDGConfig, HTDGDetector
from htdg.fast.cuda_graphs import recordable
from htdg.io.files import write_text
from htdg.runtime.device import keep_freed_memory, machine, resolve_device

HERE = Path(__file__).parent
PRESETS = ("paper_rgb", "paper_grey")  # the second with --full
#: Seconds an iteration of the official code and milliseconds to score an image: another run, on
#: another machine with two cores (float32, image_size 128, sides 26, 32, 41, 51, 64).
OFFICIAL = {
    "paper_rgb": {"iteration_s": [0.45, 0.63, 1.0, 1.6, 14.0], "scoring_ms": 490},
    "paper_grey": {"iteration_s": [0.41, 0.52, 0.80, 1.2, 7.3], "scoring_ms": 340},
}


#: By name, what is added to the straightforward version: what a user would try first.
ADDED = {
    "memory kept": ["--memory-kept"],
    "memory kept, channels last": ["--memory-kept", "--channels-last"],
    "memory kept, compiled": ["--memory-kept", "--compiled"],
    "memory kept, channels last, compiled": ["--memory-kept", "--channels-last", "--compiled"],
}


def straightforward(preset: str, translation: str, *words: str) -> dict[str, Any]:
    """The straightforward version in a process of its own, as a user would run it."""
    command = [sys.executable, "-m", "benchmarks.straightforward", preset, translation, *words]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(device: torch.device, full: bool) -> dict[str, Any]:
    """All figures of this machine; prints each as it comes."""
    repeats, results = 5, {"machine": machine(device), "torch": torch.__version__}
    rates = {
        f"{width} {precision}": convolution_rate(width, precision, device)
        for width in (32, 64)
        for precision in ("float32", "bf16")
    }
    results["convolution_rate"] = rates
    print(results, flush=True)
    rows = results["rows"] = {}
    # Without instructions for bf16 it takes over ten times as long: nobody would choose it.
    worth_it = rates["64 bf16"] > rates["64 float32"] / 2
    precisions = ("float32", "bf16") if worth_it else ("float32",)

    def keep(name: str, row: dict[str, Any]) -> None:
        rows[name] = row
        print(name, row, flush=True)

    for preset in PRESETS if full else PRESETS[:1]:
        for translation in ("pixel", "stretched", "resampled") if full else ("pixel", "stretched"):
            if device.type == "cpu":
                row = straightforward(preset, translation, "--repeats", "3")
                keep(f"{preset} {translation} straightforward", row)
        for name, words in ADDED.items() if device.type == "cpu" else ():
            row = straightforward(preset, "pixel", "--images", "0", *words)
            keep(f"{preset} pixel straightforward, {name}", row)
        for translation in ("pixel", "stretched", "resampled") if full else ("pixel", "stretched"):
            config = HTDGConfig.preset(preset, translation=translation)
            if translation == "pixel":
                slow = config.with_options(fast=False, precision="float32")
                row = {"iteration_s": iteration_seconds(slow, device, 1)}
                keep(f"{preset} {translation} plain", row)
            for precision in precisions:
                chosen = config.with_options(precision=precision)
                times = iteration_seconds(chosen, device, repeats)
                row = {"iteration_s": times, "share": shares(chosen, times, rates)}
                row["pixels"] = [canvas_pixels(config, n) for n in range(len(config.sides))]
                counts = (1, 10, 100, 1000) if full and translation == "pixel" else (1, 10, 100)
                if preset == "paper_rgb":
                    row["scoring_ms"] = {n: scoring_ms(chosen, device, n) for n in counts}
                keep(f"{preset} {translation} {precision}", row)
                if recordable(device):
                    os.environ["HTDG_GRAPHS"] = "0"
                    row = {"iteration_s": iteration_seconds(chosen, device, repeats)}
                    del os.environ["HTDG_GRAPHS"]
                    keep(f"{preset} {translation} {precision}, not recorded", row)
    results["tutorial_minutes"] = {p: tutorial_minutes(p, device) for p in precisions}
    print(results["tutorial_minutes"], flush=True)
    return results


def tutorial_minutes(precision: str, device: torch.device) -> float:
    """Minutes that training a whole model of the preset ``tutorial`` takes."""
    config = HTDGConfig.preset("tutorial", precision=precision, device=str(device))
    image = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8).numpy()
    started = time.perf_counter()
    HTDGDetector(config).fit([image], progress=False)
    wait(device)
    return (time.perf_counter() - started) / 60


def shares(config: HTDGConfig, times: list[float], rates: dict[str, float]) -> list[float]:
    """At each scale the convolutions' operations over time, as a share of the machine's rate."""
    return [
        iteration_operations(config, n) / seconds / rates[f"{config.width(n)} {config.precision}"]
        for n, seconds in enumerate(times)
    ]


# --- The page -----------------------------------------------------------------------------------


def page(results: dict[str, Any]) -> str:
    """The figures as tables."""
    rows, rates = results["rows"], results["convolution_rate"]
    sides = HTDGConfig.preset("paper_rgb").sides
    lines = [
        f"Machine: {results['machine']}; torch {results['torch']}. One 3 x 3 convolution, forward "
        "and backward, runs at "
        + ", ".join(f"{v / 1e9:.0f} GFLOP/s ({k})" for k, v in rates.items())
        + ".",
        "",
        "Seconds an iteration (3 D steps, 3 G steps) at each side; *ratio* is the sum of the "
        "straightforward version over this one's, *least* the smallest ratio of a single side. "
        "*share* is D's convolutions over the smallest canvases, in operations a second, as a "
        "share of the machine's rate, at the coarsest and at the finest side; they are counted as "
        "direct sums, of which the compiled convolutions make 36 in 144 (bf16: 16 in 36), so it "
        "can pass 100 %. "
        '"memory kept" is '
        "the straightforward version with our setting of the memory allocator, which all rows "
        "below it have too. The official code's times come from another run on another machine.",
        "",
    ]
    for preset in PRESETS:
        if not any(name.startswith(preset) for name in rows):
            continue
        heads = [preset, *(f"{side} px" for side in sides), "sum", "ratio", "least", "share"]
        lines += ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
        base = rows.get(f"{preset} pixel straightforward") or rows[f"{preset} pixel plain"]
        for name, row in rows.items():
            if name.startswith(preset):
                translation = name.split()[1]
                baseline = rows.get(f"{preset} {translation} straightforward", base)
                lines.append(_row(name.removeprefix(f"{preset} "), row, baseline))
        lines += [_row("official code (another run)", OFFICIAL[preset], base), ""]
    lines += _scoring(rows)
    lines += _whole_models(rows, results["tutorial_minutes"])
    return "\n".join(lines)


def _row(name: str, row: dict[str, Any], base: dict[str, Any]) -> str:
    times, other = row["iteration_s"], base["iteration_s"]
    least = min(b / t for b, t in zip(other, times, strict=True))
    cells = [name, *(f"{t:.3f}" for t in times), f"{sum(times):.2f}"]
    cells += [f"{sum(other) / sum(times):.2f}", f"{least:.2f}"]
    cells.append(f"{row['share'][0]:.0%}, {row['share'][-1]:.0%}" if "share" in row else "")
    return "| " + " | ".join(cells) + " |"


def _scoring(rows: dict[str, Any]) -> list[str]:
    counts = sorted({int(n) for row in rows.values() for n in _counted(row)})
    heads = ["milliseconds an image", *(f"{n} images" for n in counts), "ratio"]
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for name, row in rows.items():
        preset = name.split()[0]
        base = rows.get(f"{preset} pixel straightforward", {}).get("scoring_ms")
        if name.endswith("straightforward"):
            cells = [f"{row['scoring_ms']:.0f}"] * len(counts)
            lines.append("| " + " | ".join([f"{name} (one by one)", *cells, "1"]) + " |")
        elif _counted(row):
            values = [_counted(row).get(n) for n in counts]
            ratio = f"{base / min(v for v in values if v):.2f}" if base else ""
            cells = ["" if v is None else f"{v:.0f}" for v in values]
            lines.append("| " + " | ".join([name, *cells, ratio]) + " |")
    return [*lines, ""]


def _counted(row: dict[str, Any]) -> dict[int, float]:
    timed = row.get("scoring_ms", {})
    return {int(n): v for n, v in timed.items()} if isinstance(timed, dict) else {}


def _whole_models(rows: dict[str, Any], tutorial: dict[str, float]) -> list[str]:
    lines = [
        "Whole models: "
        + ", ".join(f"`tutorial` takes {m:.2f} minutes ({p})" for p, m in tutorial.items())
        + ", measured; the paper's are extrapolated from these iterations (not run to their end):",
        "",
    ]
    for name, row in rows.items():
        preset = HTDGConfig.preset(name.split()[0])
        hours = sum(row["iteration_s"]) * preset.niter / 3600
        lines.append(f"- {name}: {hours:.1f} h for {preset.niter} iterations a scale")
    return [*lines, ""]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="Measure training iterations and scoring.")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--full", action="store_true", help="also grey, resampled, 1,000 images")
    parser.add_argument("--page-only", action="store_true", help="write the page again")
    options = parser.parse_args()
    device = resolve_device(options.device)
    vectors = torch.backends.cpu.get_cpu_capability()
    suffix = vectors if device.type == "cpu" else torch.cuda.get_device_name(device)
    suffix += "" if options.full else "_short"
    file = HERE / f"speed_{suffix.replace(' ', '_').lower()}.json"
    if not options.page_only:
        if device.type == "cpu":
            keep_freed_memory()
        write_text(file, json.dumps(measure(device, options.full), indent=1) + "\n")
    results = json.loads(file.read_text())
    title = f"Speed: {results['machine']}" + ("" if options.full else ", short run")
    write_part(HERE / "README.md", title, page(results))


if __name__ == "__main__":
    main()
