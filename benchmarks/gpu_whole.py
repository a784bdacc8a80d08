"""The paper's own settings on a GPU: minutes and AUROC, and the memory that ten shots take."""

from __future__ import annotations

import gc
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_modes import computing, failures, recording, told_failures
from benchmarks.gpu_report import OutOfTime, Run
from benchmarks.growth import start
from benchmarks.measure import median_seconds
from benchmarks.paper_settings import EXPERIMENTS, perform, verdict
from htdg import HTDGConfig
from htdg.course.files import texture_folder
from htdg.evaluation.run import peak_memory
from htdg.models import choose_backend
from htdg.runtime.device import reproducible
from htdg.runtime.memory import images_at_once
from htdg.runtime.progress import TrainingProgress

#: Instead of data sets that are not there, with ``--quick``: what the package brings along.
STAND_IN: dict[str, Any] = {
    "dataset": "folder",
    "data_root": texture_folder("brick"),
    "normal_class": None,
    "limit": None,
    "limit_per_kind": 2,
}
#: Two scales of 14 and 15 pixels.
TINY: dict[str, Any] = {"image_size": 15, "min_size": 14, "max_size": 15, "channels": 8, "niter": 2}
SHOTS = 10


# --- An experiment --------------------------------------------------------------------------------


def experiment(name: str, run: Run) -> None:
    """One draw of a one-shot experiment of the paper, in bf16 with shifts by whole pixels."""
    changed: dict[str, Any] = dict(STAND_IN) if run.quick else {}
    if not can_equalise():
        changed["equalise"] = "none"
    options = {"device": str(run.device), "precision": "bf16", **(TINY if run.quick else {})}
    data_root = run.data_root
    with tempfile.TemporaryDirectory() as folder, recording(True):
        watch = Watch(run)
        out = Path(folder) / "run"
        result = perform(name, 0, data_root, out, callback=watch, changed=changed, **options)
        failed = failures()
    paper = EXPERIMENTS[name].paper
    fraction = EXPERIMENTS[name].fraction
    auroc = result["image_auroc"][str(fraction)]
    says = verdict(auroc, paper[fraction])
    line = f"{result['minutes']:.2f} minutes of training, image AUROC {auroc:.3f}; the paper "
    line += f"{paper[fraction].auroc / 100:.3f} (Table {paper[fraction].table}): {says}"
    line += f"; training image equalised: {result['equalise']}{told_failures(failed)}"
    # What git says here may be less than what --commit said.
    known = {"commit": run.report.results()["commit"], "failures": failed, "stand_in": run.quick}
    run.keep("result", {**result, **known}, line)


def can_equalise() -> bool:
    """Whether OpenCV is there, without which no contrast is equalised."""
    return find_spec("cv2") is not None


class Watch:
    """Keeps what each scale takes, and stops the training when the time is up.

    How long it trained until then is kept as ``trained_s``: loading images does not count.
    """

    def __init__(self, run: Run) -> None:
        """No scale is done yet."""
        self.run, self.done = run, 0.0

    def __call__(self, state: TrainingProgress) -> None:
        """After an iteration."""
        run, trained = self.run, self.done + state.seconds
        if state.iteration == state.niter:
            self.done = trained
            line = f"{state.side} px {state.seconds:.1f} s"
            run.keep(f"scale {state.scale + 1}", state.seconds, line)
        if run.left() <= 0:
            run.keep("trained_s", trained, f"{trained:.1f} s of training")
            where = f"scale {state.scale + 1} of {state.n_scales}, iteration {state.iteration}"
            raise OutOfTime(f"the training was stopped at {where} of {state.niter}")


# --- Ten shots ------------------------------------------------------------------------------------


def ten_shots(run: Run) -> None:
    """The memory and time of an iteration with ten images at the finest scale."""
    side = 16 if run.quick else 64
    width = 4 if run.quick else 64
    options = {"transformations": "rotations"} if run.quick else {}
    options |= {"translation": "pixel", "precision": "bf16"}
    config = HTDGConfig.preset("paper_rgb", channels=width, **options)
    shots = 2 if run.quick else SHOTS
    for recorded in (False, True):  # the smaller first: the most memory so far is what counts
        key = "recorded" if recorded else "not recorded"
        if run.has_time(key):
            with computing("bf16"), recording(recorded), reproducible():
                row = iteration_of(config, shots, side, run.device)
            line = f"{row['seconds']:.3f} s, {row['reserved_mib']:.0f} MiB reserved at most "
            line += f"({row['planned_mib']:.0f} planned), {row['mib']:.0f} MiB of them by tensors, "
            line += f"{row['images_at_once']} images at once{told_failures(row['failures'])}"
            run.keep(key, row, line)


def iteration_of(config: HTDGConfig, shots: int, side: int, device: torch.device) -> dict[str, Any]:
    """Seconds and the most memory of an iteration with so many images, chunked as in a training.

    Recorded steps are played in memory of their own, which counts as reserved, not as tensors.
    """
    backend = choose_backend(config, config.resolve_transformations(True), device)
    at_once = images_at_once(backend, (side,), shots, 0, device)
    gc.collect()  # what an earlier call left
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    real = torch.rand(shots, 3, side, side, device=device) * 2 - 1
    training = start(config.with_options(images_at_once=at_once), real)
    training.step()
    seconds = median_seconds(training.step, 2, device)
    memory = peak_memory(device)
    most = memory.get("gpu", memory.get("ram", 0.0))
    reserved = torch.cuda.max_memory_reserved(device) / 2**20 if device.type == "cuda" else most
    return {
        "shots": shots,
        "side": side,
        "seconds": seconds,
        "mib": most,
        "reserved_mib": reserved,
        "planned_mib": at_once * backend.training_bytes(0, side) / 2**20,
        "images_at_once": at_once,
        "failures": failures(),
    }
