"""Whether a GPU computes what a CPU does: the parts ``tests``, ``training``, ``votes``, ``memory``.

The CPU's float32 is the reference. Every scale starts on both from the same coarser scales, with
the same weights and the same noise, which the CPU draws.
"""

from __future__ import annotations

import copy
import gc
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image

from benchmarks.gpu_modes import (
    ARITHMETICS,
    computing,
    failures,
    precision,
    recording,
    told_failures,
)
from benchmarks.gpu_report import OutOfTime, Run
from benchmarks.measure import started_scales, wait
from htdg import HTDGConfig, HTDGDetector
from htdg.course.files import texture_folder
from htdg.fast.canvases import canvas_plan
from htdg.fast.cuda_graphs import relative_difference
from htdg.models import choose_backend
from htdg.pyramid import build_pyramid
from htdg.runtime.device import reproducible
from htdg.sampling import Scale
from htdg.state import ModelState
from htdg.training import ScaleTraining, freeze, start_scale
from htdg.transformations import TRANSLATIONS

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
#: The tests that are skipped where there is no GPU.
TESTS = (
    "tests/test_recording.py::test_on_a_gpu_played_steps_do_what_the_steps_do",
    "tests/test_recording.py::test_on_a_gpu_a_recording_that_is_wrong_is_not_used",
    "tests/test_recording.py::test_on_a_gpu_an_iteration_does_not_wait_for_it",
)
#: Grey, flip, shift along x and y, quarter turns: for tiny sizes, some of each kind.
FEW = ((0, 0, 0, 0, 0), (0, 0, 1, 0, 0), (0, 1, -1, 1, 1), (1, 0, 0, 1, 2))
#: After so many the weights are compared: three warm a recording up, the others are played.
ITERATIONS = 3
#: How far a GPU may be from the CPU's float32, by how it computes. ``losses`` of the first
#: iteration, in parts of the loss where that is above 1; ``weights`` as a part of what three
#: iterations change (Adam turns rounding into whole steps of weights that have no gradient);
#: ``votes`` of one trained model, in [0, 1]. On a CPU the plain backend is 3e-5 and 0.05 from the
#: fast one, and bf16 1e-3 and 0.13 from float32.
TOLERANCES: dict[str, dict[str, float]] = {
    "float32": {"losses": 1e-4, "weights": 0.2, "votes": 1e-3},
    "TF32": {"losses": 2e-3, "weights": 0.3, "votes": 1e-2},
    "bf16": {"losses": 1e-2, "weights": 0.5, "votes": 5e-2},
}
#: When models were trained once already and are again, tensors may hold so many MiB more ..
GROWTH_MIB = 1.0
#: .. and PyTorch may keep so many more from the device, in segments of 2 to 20 MiB. A recording
#: that is not freed keeps its memory so, though no tensor is in it.
RESERVED_GROWTH_MIB = 32.0
#: What canvas plans, kept for the next model of the same kind, may hold of it.
PLANS_MIB = 64.0


def checked(differences: Mapping[str, float], arithmetic: str) -> dict[str, Any]:
    """Differences, whether each is within its tolerance, and whether all are."""
    limits = {name: TOLERANCES[arithmetic][name] for name in differences}
    within = {name: differences[name] <= limits[name] for name in differences}
    return {"differences": dict(differences), "tolerances": limits, "passed": all(within.values())}


def told(check: Mapping[str, Any]) -> str:
    """A check in a line."""
    parts = [
        f"{name} {value:.1e} (at most {check['tolerances'][name]:.0e})"
        for name, value in check["differences"].items()
    ]
    return f"{'passed' if check['passed'] else 'FAILED'}: {', '.join(parts)}"


# --- Tests ----------------------------------------------------------------------------------------


def tests(run: Run) -> None:
    """The tests that need a GPU, each with its outcome, and the end of what pytest printed.

    Raises:
        OutOfTime: pytest was stopped; the outcomes so far are kept.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "outcomes.xml"
        words = ["-m", "pytest", "-v", "-p", "no:cacheprovider", f"--junitxml={log}", *TESTS]
        # No plugin is needed; what is printed is to be there when time is up.
        more = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONUNBUFFERED": "1"}
        printed, ended = printed_by([sys.executable, *words], os.environ | more, run.left())
        outcomes = read_outcomes(log.read_text()) if log.is_file() else printed_outcomes(printed)
    tail = printed.splitlines()[-40:]
    run.keep("tail", tail, "\n  ".join(["the end of what pytest printed", *tail]))
    for name, outcome in outcomes.items():
        run.keep(name, outcome, outcome)
    passed = bool(outcomes) and set(outcomes.values()) == {"passed"}
    if ended or (outcomes and not passed):  # of those that passed until then nothing follows
        run.keep("passed", passed, str(passed))
    if not ended:
        raise OutOfTime(f"pytest was out of time after {len(outcomes)} tests")


def printed_by(
    command: Sequence[str], environment: Mapping[str, str], seconds: float
) -> tuple[str, bool]:
    """What a command printed, and whether it ended within so many seconds."""
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").decode(errors="replace"), False
    return done.stdout.decode(errors="replace"), True


def printed_outcomes(printed: str) -> dict[str, str]:
    """The same as ``read_outcomes`` of what ``pytest -v`` printed, where it wrote no file."""
    line = re.compile(r"^(\S+\.py)::(.+) (PASSED|SKIPPED|FAILED|ERROR)\b", re.MULTILINE)
    kinds = {"PASSED": "passed", "SKIPPED": "skipped", "FAILED": "failure", "ERROR": "error"}
    return {
        f"{file.removesuffix('.py').replace('/', '.')}::{name}": kinds[kind]
        for file, name, kind in line.findall(printed)
    }


def read_outcomes(xml: str) -> dict[str, str]:
    """The outcome of each test of pytest's JUnit file: passed, skipped, failure or error."""
    cases = ElementTree.fromstring(xml).iter("testcase")
    kinds = ("failure", "error", "skipped")
    return {
        f"{case.get('classname')}::{case.get('name')}": next(
            (kind for kind in kinds if case.find(kind) is not None), "passed"
        )
        for case in cases
    }


# --- Training -------------------------------------------------------------------------------------


@dataclass
class Trained:
    """A scale after ``ITERATIONS``.

    Attributes:
        losses: of the first iteration, by name.
        before, after: the weights, and what else training changes of the networks, on the CPU.
        recorded: whether steps were played from a recording.
        scale: itself, frozen.
    """

    losses: dict[str, float]
    before: list[torch.Tensor]
    after: list[torch.Tensor]
    recorded: bool
    scale: Scale


def example() -> np.ndarray:
    """A coloured image (96, 96, 3): three parts of the brick photograph as its channels."""
    crops = sorted((texture_folder("brick") / "train" / "good").iterdir())[:3]
    return np.stack([np.asarray(Image.open(crop).convert("L")) for crop in crops], -1)


def train_scale_on(
    config: HTDGConfig, device: torch.device, coarser: Sequence[Scale], real: torch.Tensor
) -> Trained:
    """Train a scale for ``ITERATIONS`` on a device, on top of coarser ones that stay as they are.

    ``real`` is the training image (1, 3, H, H); its noise comes from the CPU.
    """
    transformations = config.resolve_transformations(coloured=True)
    below = [copy.deepcopy(scale).to(device) for scale in coarser]
    backend = choose_backend(config, transformations, device)
    training = start_scale(config, transformations, below, real.to(device), backend)
    training.rng = torch.Generator().manual_seed(len(coarser))
    before = weights(training)
    for _ in range(ITERATIONS):
        training.step()
    losses = {name: float(of[0]) for name, of in training.history.items()}
    recordings = getattr(backend, "recordings", None)
    recorded = recordings is not None and not recordings.failed
    return Trained(losses, before, weights(training), recorded, freeze(training.scale))


def weights(training: ScaleTraining) -> list[torch.Tensor]:
    """Copies, on the CPU, of the weights of both networks."""
    networks = (training.scale.discriminator, training.scale.generator)
    return [p.detach().clone().to(CPU) for network in networks for p in network.parameters()]


def reference(config: HTDGConfig, images: torch.Tensor) -> list[Trained]:
    """Every scale as the CPU trains it in float32 on images (1, 3, s, s)."""
    trained: list[Trained] = []
    for real in build_pyramid(images, config.sides):
        trained.append(train_scale_on(config, CPU, [of.scale for of in trained], real))
    return trained


def compare(ours: Trained, expected: Trained) -> dict[str, float]:
    """How far the losses and weights of a scale are from what they are to be."""
    losses = [
        abs(value - expected.losses[name]) / max(1.0, abs(expected.losses[name]))
        for name, value in ours.losses.items()
    ]
    moved = relative_difference(ours.after, expected.after, expected.before)
    # NaN would pass for the smallest of all.
    worst = max(losses) if all(np.isfinite(losses)) else float("inf")
    return {"losses": worst, "weights": moved if np.isfinite(moved) else float("inf")}


def small_config(quick: bool, **options: object) -> HTDGConfig:
    """All 54 transformations at 25 and 41 pixels, or four at two tiny sides."""
    chosen: dict[str, Any] = {"transformations": "rgb54", "precision": "float32", **options}
    if not quick:
        return HTDGConfig.preset("tutorial", scale_factor=0.3, **chosen)
    tiny = {"transformations": FEW, "image_size": 15, "max_size": 15, "niter": 4}
    return HTDGConfig.preset("tiny", **chosen | tiny)


def training(run: Run) -> None:
    """Three iterations of every scale, in each mode of translation and kind of arithmetic."""
    square = torch.from_numpy(example()).permute(2, 0, 1)[None] / 127.5 - 1
    for translation in TRANSLATIONS:
        config = small_config(run.quick, translation=translation)
        expected = reference(config, square)
        for arithmetic in ARITHMETICS:
            for recorded in (True, False):
                key = f"{translation} {arithmetic} {'recorded' if recorded else 'not recorded'}"
                if run.has_time(key):
                    chosen = config.with_options(precision=precision(arithmetic))
                    with recording(recorded), computing(arithmetic), reproducible():
                        check = trained_alike(chosen, run.device, square, expected, arithmetic)
                    if recorded and run.device.type == "cuda" and not check["recorded"]:
                        check["passed"] = False
                    run.keep(key, check, told(check) + as_recorded(check))


def as_recorded(check: Mapping[str, Any]) -> str:
    """Whether a check's steps were recorded, for its line."""
    return "; recorded" if check["recorded"] else f"; not recorded {check['failures'] or ''}"


def trained_alike(
    config: HTDGConfig,
    device: torch.device,
    square: torch.Tensor,
    expected: Sequence[Trained],
    arithmetic: str,
) -> dict[str, Any]:
    """The largest differences of any scale, checked, and whether steps were recorded."""
    worst, recorded = {"losses": 0.0, "weights": 0.0}, []
    for n, real in enumerate(build_pyramid(square, config.sides)):
        ours = train_scale_on(config, device, [of.scale for of in expected[:n]], real)
        recorded.append(ours.recorded)
        of_scale = compare(ours, expected[n])
        worst = {name: max(worst[name], of_scale[name]) for name in worst}
    more = {"recorded": all(recorded), "failures": failures()}
    return {**checked(worst, arithmetic), **more}


# --- Votes ----------------------------------------------------------------------------------------


def votes(run: Run) -> None:
    """The votes of one model, trained on the device, by the device and by the CPU."""
    image = example()
    config = small_config(run.quick, translation="pixel", device=str(run.device))
    with recording(True):
        model = HTDGDetector(config).fit(image, progress=False).model_
    for translation in TRANSLATIONS:
        options = {"translation": translation, "precision": "float32"}
        expected = votes_on(model, CPU, image, **options)
        for arithmetic in ARITHMETICS:
            key = f"{translation} {arithmetic}"
            if run.has_time(key):
                chosen = options | {"precision": precision(arithmetic)}
                with computing(arithmetic):
                    ours = votes_on(model, run.device, image, **chosen)
                check = checked({"votes": largest_difference(ours, expected)}, arithmetic)
                check["largest_vote"] = max(float(of_scale.max()) for of_scale in expected)
                run.keep(key, check, f"{told(check)}; votes up to {check['largest_vote']:.2f}")


def votes_on(
    model: ModelState, device: torch.device, image: np.ndarray, **options: object
) -> list[torch.Tensor]:
    """A model's votes for the image and for the image upside down, at every scale."""
    scales = tuple(copy.deepcopy(scale).to(device) for scale in model.scales)
    changed = replace(model, config=model.config.with_options(**options), scales=scales)
    detector = HTDGDetector.from_model(changed)
    both = [detector.votes(of) for of in (image, np.ascontiguousarray(image[::-1]))]
    return [torch.stack([torch.as_tensor(v) for v in of]) for of in zip(*both, strict=True)]


def largest_difference(ours: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    """The largest of all, infinite where something is no number."""
    largest = max(float((a - b).abs().max()) for a, b in zip(ours, expected, strict=True))
    return largest if np.isfinite(largest) else float("inf")


# --- Memory ---------------------------------------------------------------------------------------


def memory(run: Run) -> None:
    """Many models trained with recorded steps, one after another, and what is left of them."""
    configs = [
        small_config(run.quick, transformations=names, translation=translation)
        for translation in (TRANSLATIONS[:1] if run.quick else TRANSLATIONS)
        for names in (("rotations",) if run.quick else ("rotations", "rgb54"))
    ]
    after_round: list[tuple[float, float]] = []
    failed: list[str] = []
    for number in range(3):
        if not run.has_time(f"after round {number + 1}"):
            return
        for config in configs:
            with recording(True), reproducible():
                train_and_forget(config, run.device)
                failed += failures()
        after_round.append((held_mib(run.device), reserved_mib(run.device)))
        tensors, reserved = after_round[-1]
        values = {"tensors_mib": tensors, "reserved_mib": reserved}
        line = f"tensors hold {tensors:.2f} MiB, {reserved:.0f} MiB are reserved"
        run.keep(f"after round {number + 1}", values, line)
    (first, first_reserved), (last, last_reserved) = after_round[0], after_round[-1]
    growth, reserved_growth = last - first, last_reserved - first_reserved
    canvas_plan.cache_clear()
    plans = last - held_mib(run.device)
    within = growth <= GROWTH_MIB and reserved_growth <= RESERVED_GROWTH_MIB
    check = {
        "models": 3 * len(configs),
        "growth_mib": growth,
        "reserved_growth_mib": reserved_growth,
        "plans_mib": plans,
        "failures": failed,
        "passed": within and plans <= PLANS_MIB and not failed,
    }
    line = f"tensors grew by {growth:.2f} MiB (at most {GROWTH_MIB:g}) over two rounds more, what "
    line += f"is reserved by {reserved_growth:.0f} MiB (at most {RESERVED_GROWTH_MIB:g}); kept "
    line += f"canvas plans held {plans:.2f} MiB (at most {PLANS_MIB:g})"
    line += told_failures(failed)
    run.keep("memory", check, f"{'passed' if check['passed'] else 'FAILED'}: {line}")


def train_and_forget(config: HTDGConfig, device: torch.device) -> None:
    """Two iterations of every scale: steps are recorded and played."""
    for training in started_scales(config, device):
        training.step()
        training.step()


def held_mib(device: torch.device) -> float:
    """Memory that tensors hold, in MiB."""
    gc.collect()
    if device.type == "cuda":
        wait(device)
        return torch.cuda.memory_allocated(device) / 2**20
    # By their type: ``isinstance`` wakes modules that warn when they are looked at. Other things in
    # this process may have tensors of other layouts, sparse ones say, which have no storage.
    tensors = [o for o in gc.get_objects() if type(o) in (torch.Tensor, torch.nn.Parameter)]
    tensors = [t for t in tensors if t.layout == torch.strided]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values()) / 2**20


def reserved_mib(device: torch.device) -> float:
    """Memory, in MiB, that PyTorch does not give back to a GPU; 0 on a CPU."""
    if device.type != "cuda":
        return 0.0
    gc.collect()
    wait(device)
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved(device) / 2**20
