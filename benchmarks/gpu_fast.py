"""How fast a GPU is: the parts ``iterations``, ``scoring``, ``profile`` and ``side_by_side``.

Ours computes as in a training, without cuDNN's algorithms that give another result each time. The
straightforward version may take them, as PyTorch has it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_modes import (
    ARITHMETICS,
    computing,
    failures,
    precision,
    recording,
    told_failures,
)
from benchmarks.gpu_report import Run
from benchmarks.growth import start
from benchmarks.measure import (
    convolution_rate,
    iteration_seconds,
    median_seconds,
    scoring_ms,
    started_scales,
    wait,
)
from benchmarks.speed import shares
from benchmarks.straightforward import score, start_straightforward
from htdg import HTDGConfig
from htdg.fast.cuda_graphs import recordable
from htdg.runtime.device import reproducible
from htdg.training import ScaleTraining

#: Preset and translation, the most important first.
CASES = (
    ("paper_rgb", "pixel"),
    ("paper_rgb", "stretched"),
    ("paper_rgb", "resampled"),
    ("paper_grey", "pixel"),
    ("paper_grey", "stretched"),
    ("paper_grey", "resampled"),
)
#: Launch by launch, one copy after another; the canvases likewise; the canvases recorded.
VERSIONS = ("straightforward", "recorded", "canvases")
#: Iterations that are timed at each scale; fewer of the straightforward version, which takes long.
REPEATS, REPEATS_STRAIGHTFORWARD = 5, 3
#: Images of 71 x 71 pixels that fill a GPU with a convolution.
CONVOLVED = 1024
#: Models that train beside each other.
TOGETHER = (1, 2, 4)


def sized(preset: str, quick: bool, **options: Any) -> HTDGConfig:
    """The paper's settings, or two tiny scales with four transformations."""
    if quick:
        options |= {"image_size": 15, "min_size": 14, "max_size": 15, "channels": 4, "niter": 8}
        options["transformations"] = "rotations"
    return HTDGConfig.preset(preset, **options)


def version(name: str) -> AbstractContextManager[object]:
    """What holds while a version runs."""
    stack = ExitStack()
    stack.enter_context(recording(name == "recorded"))
    stack.enter_context(nullcontext() if name == "straightforward" else reproducible())
    return stack


def starting(name: str) -> Callable[..., ScaleTraining] | None:
    """What sets a scale of a version up, as ``iteration_seconds`` takes it."""
    return start_straightforward if name == "straightforward" else None


# --- Iterations -----------------------------------------------------------------------------------


def iterations(run: Run) -> None:
    """Seconds of an iteration at each side: every preset, translation, arithmetic and version."""
    cases = CASES[:1] if run.quick else CASES
    arithmetics = ARITHMETICS[:1] if run.quick else ARITHMETICS
    rates = rates_of(run, arithmetics)
    for preset, translation in cases:
        for arithmetic in arithmetics:
            for name in VERSIONS:
                key = f"{preset} {translation} {arithmetic} {name}"
                if run.has_time(key):
                    options = {"translation": translation, "precision": precision(arithmetic)}
                    config = sized(preset, run.quick, **options)
                    row = timed(run, config, arithmetic, name, rates)
                    run.keep(key, row, told(row))


def rates_of(run: Run, arithmetics: Sequence[str]) -> dict[str, float]:
    """Operations a second of a large convolution, by width and arithmetic."""
    rates = {}
    images = CONVOLVED if run.device.type == "cuda" else 16
    for arithmetic in arithmetics:
        with computing(arithmetic):
            for width in (4, 8) if run.quick else (32, 64):
                rate = convolution_rate(width, precision(arithmetic), run.device, images)
                rates[f"{width} {arithmetic}"] = rate
    lines = ", ".join(f"{rate / 1e12:.3g} TFLOP/s ({name})" for name, rate in rates.items())
    run.keep("convolution_rate", rates, lines)
    return rates


def timed(
    run: Run, config: HTDGConfig, arithmetic: str, name: str, rates: dict[str, float]
) -> dict[str, Any]:
    """Seconds an iteration of a version, and what share of the device's rate it convolves at."""
    with computing(arithmetic), version(name):
        repeats = REPEATS_STRAIGHTFORWARD if name == "straightforward" else REPEATS
        repeats = 1 if run.quick else repeats
        seconds = iteration_seconds(config, run.device, repeats, starting(name))
        recorded = name == "recorded" and recordable(run.device)
    row = {"sides": list(config.sides), "iteration_s": seconds, "recorded": recorded}
    if name == "straightforward":
        return row
    known = {k.replace(arithmetic, config.precision): v for k, v in rates.items()}
    row["share"] = shares(config, seconds, known)
    return row | {"failures": failures()}


def told(row: dict[str, Any]) -> str:
    """A row in a line."""
    pairs = zip(row["sides"], row["iteration_s"], strict=True)
    line = ", ".join(f"{side} px {1000 * seconds:.2f} ms" for side, seconds in pairs)
    line += f"; sum {1000 * sum(row['iteration_s']):.1f} ms"
    if "share" in row:
        line += "; share of the rate " + ", ".join(f"{share:.1%}" for share in row["share"])
    line += f"; {'recorded' if row['recorded'] else 'not recorded'}"
    return line + told_failures(row.get("failures", []))


# --- Scoring --------------------------------------------------------------------------------------


def scoring(run: Run) -> None:
    """Milliseconds an image: 1, 64 and 1,000 together, and one by one the straightforward way.

    The straightforward version computes in float32 or TF32, never in bf16.
    """
    for arithmetic in ("float32",) if run.quick else ("bf16", "TF32", "float32"):
        options = {"translation": "pixel", "precision": precision(arithmetic)}
        config = sized("paper_rgb", run.quick, **options)
        for images in (1, 4) if run.quick else (1, 64, 1000):
            key = f"{arithmetic} {images}"
            if run.has_time(key):
                with computing(arithmetic):
                    value = scoring_ms(config, run.device, images)
                run.keep(key, value, f"{value:.3f} ms an image")
        key = f"{arithmetic} straightforward"
        if arithmetic != "bf16" and run.has_time(key):
            with computing(arithmetic):
                value = scoring_ms(config, run.device, 1 if run.quick else 3, straightforward=score)
            run.keep(key, value, f"{value:.3f} ms an image")


# --- Where the time goes --------------------------------------------------------------------------


def profiles(run: Run) -> None:
    """The longest kernels of an iteration and how long the device is busy, at two sides."""
    config = sized("paper_rgb", run.quick, translation="pixel", precision="bf16")
    chosen = (1,) if run.quick else (2, 4)  # 40 and 64 pixels
    for name in ("recorded", "canvases", "straightforward"):
        with computing("bf16"), version(name):
            for n, training in enumerate(started_scales(config, run.device, starting(name))):
                if n in chosen and run.has_time(key := f"{name} {config.sides[n]} px"):
                    training.step()
                    training.step()  # which records it
                    row = profiled(training.step, run.device) | {"failures": failures()}
                    run.keep(key, row, told_profile(row))


def profiled(step: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """One call under the profiler; how long it takes is measured without."""
    seconds = median_seconds(step, 3, device)
    gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as seen:
        step()
        wait(device)
    kind = DeviceType.CUDA if gpu else DeviceType.CPU
    events = [event for event in seen.key_averages() if event.device_type == kind]
    times = {
        e.key: (e.self_device_time_total if gpu else e.self_cpu_time_total) / 1e6 for e in events
    }
    counts = {e.key: e.count for e in events}
    longest = sorted(times, key=lambda key: times[key], reverse=True)[:12]
    return {
        "iteration_s": seconds,
        "busy_s": sum(times.values()),
        "kernels": sum(counts.values()),
        "longest": [[key, times[key], counts[key]] for key in longest],
    }


def told_profile(row: dict[str, Any]) -> str:
    """A profile in some lines."""
    busy = row["busy_s"] / row["iteration_s"]
    head = f"{1000 * row['iteration_s']:.2f} ms, {row['kernels']} kernels, device busy {busy:.0%}"
    if not row["kernels"]:
        head += " (the profiler saw no kernels)"
    head += told_failures(row["failures"])
    lines = [f"  {1000 * s:8.3f} ms {n:5d} x {key[:90]}" for key, s, n in row["longest"]]
    return "\n".join([head, *lines])


# --- Several models beside each other -------------------------------------------------------------


def side_by_side(run: Run) -> None:
    """Iterations a second of several models in one process, each on a stream of its own."""
    side = 14 if run.quick else 40
    config = sized("paper_rgb", run.quick, translation="pixel", precision="bf16")
    for count in TOGETHER:
        if run.has_time(f"{count} models"):
            with computing("bf16"), recording(True), reproducible():
                rate, failed = together(config, side, count, run), failures()
            row = {"rate": rate, "failures": failed}
            line = f"{rate:.1f} iterations a second in all{told_failures(failed)}"
            run.keep(f"{count} models", row, line)


def together(config: HTDGConfig, side: int, count: int, run: Run) -> float:
    """Iterations a second of so many models in all, at one scale."""
    on_device = {"device": run.device}
    trainings = [
        start(config, torch.rand(1, 3, side, side, **on_device) * 2 - 1) for _ in range(count)
    ]
    for training in trainings:  # steps are recorded one after another
        training.step()
        training.step()
    wait(run.device)
    streams = list(islice(own_streams(run.device), count))
    rounds = 2 if run.quick else 30
    started = time.perf_counter()
    for _ in range(rounds):
        for training, stream in zip(trainings, streams, strict=True):
            with stream():
                training.step()
    wait(run.device)
    return count * rounds / (time.perf_counter() - started)


def own_streams(device: torch.device) -> Iterator[Callable[[], AbstractContextManager[Any]]]:
    """Contexts of one stream after another; nothing where a device has none."""
    while True:
        if device.type == "cuda":
            yield partial(torch.cuda.stream, torch.cuda.Stream(device))
        else:
            yield nullcontext
