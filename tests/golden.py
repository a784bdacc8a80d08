"""Compare this implementation with arrays recorded from the official one.

    python -m tests.golden FOLDER

FOLDER holds ``mnist_digit1_28.npz`` and ``cifar10_car_128.npz``. Prints one line a comparison with
the largest difference and the tolerance, and exits with 1 if any is exceeded. Between them it
says by how much the anomaly scores of raw images differ that an imported model gives: our resizing
is not the official one. The folder is not part of the project and ``make test`` does not need it:
``tests/test_recorded.py`` checks the same computations against small arrays of our own runs,
recorded when this comparison passed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from htdg.config import HTDGConfig
from htdg.detector import HTDGDetector
from htdg.fast.backend import FastBackend
from htdg.io.official import from_official_state, import_official
from htdg.networks import Discriminator, Generator
from htdg.sampling import Scale
from htdg.state import ModelState
from htdg.training import ScaleTraining
from htdg.transformations import Transformation, transform_all
from htdg.votes import aggregate_votes, votes_from_logits

Arrays = Mapping[str, np.ndarray]


class Report:
    """Collects the comparisons and prints a line for each."""

    def __init__(self) -> None:
        self.failed = 0
        self.count = 0

    def check(
        self, what: str, ours: object, theirs: object, tolerance: float, relative: bool
    ) -> None:
        ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        if ours.shape != theirs.shape:
            raise ValueError(f"{what}: shapes {ours.shape} and {theirs.shape} differ")
        difference = np.abs(ours - theirs)
        worst = float((difference / np.abs(theirs) if relative else difference).max())
        within = worst <= tolerance
        self.failed += not within
        self.count += 1
        kind = "relative" if relative else "absolute"
        outcome = "ok" if within else "TOO LARGE"
        print(f"{what:<58} {worst:9.2e} {kind}, at most {tolerance:.0e}  {outcome}")


def tensors(arrays: Arrays, prefix: str) -> dict[str, torch.Tensor]:
    """The arrays below a prefix as tensors, prefix removed."""
    below = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
    return {k: torch.from_numpy(np.asarray(v)) for k, v in below.items()}


def discriminator(arrays: Arrays, prefix: str) -> Discriminator:
    """A discriminator with the official weights below ``prefix``."""
    state = from_official_state(tensors(arrays, prefix))
    net = Discriminator(len(state["blocks.0.conv.weight"]), len(state["tail.bias"]) - 1)
    net.load_state_dict(state)
    return net


def generator(arrays: Arrays, prefix: str) -> Generator:
    """A generator with the official weights below ``prefix``."""
    state = from_official_state(tensors(arrays, prefix))
    net = Generator(len(state["blocks.0.conv.weight"]))
    net.load_state_dict(state)
    return net


def transformations(arrays: Arrays) -> list[Transformation]:
    """The recorded order of the transformations."""
    return [Transformation(*(int(v) for v in row)) for row in arrays["transformations"]]


def unpadded(z_opt: np.ndarray) -> torch.Tensor:
    """The recorded fixed noise (1, 3, H + 10, W + 10) as ours, (1, 1, H, W)."""
    return torch.from_numpy(z_opt[:, :1, 5:-5, 5:-5].copy())


def start_of_scale(arrays: Arrays, n: int) -> ScaleTraining:
    """Our training of scale n in the state the official one recorded at its start."""
    real = torch.from_numpy(arrays[f"s{n}/real"])
    scale = Scale(
        side=real.shape[-1],
        generator=generator(arrays, f"s{n}/init/G/").train(),
        discriminator=discriminator(arrays, f"s{n}/init/D/").train(),
        z_star=unpadded(arrays[f"s{n}/z_opt"]),
        sigma=torch.from_numpy(arrays[f"s{n}/noise_amp"]).flatten(),
    )
    config = HTDGConfig(precision="float32")
    backend = FastBackend(config, transformations(arrays), real.device)
    rng = torch.Generator().manual_seed(0)
    training = ScaleTraining(config, backend, [], scale, real, rng)
    if n > 0:  # the recorded chain instead of ours, which resizes differently
        training.rec_previous = torch.from_numpy(arrays[f"s{n}/iter1/draw01_rec"])
    return training


def first_iteration(arrays: Arrays, n: int, report: Report, name: str) -> None:
    """Replay a scale's first iteration with the recorded noise and draws."""
    training = start_of_scale(arrays, n)
    drawn = tensors(arrays, f"s{n}/iter1/")
    noise = training.amplified(drawn["noise00"].expand(-1, 3, -1, -1))
    # At scale 0 every draw is zero; above it, the reconstruction is drawn after the first.
    draws = ["draw00_rand", "draw02_rand", "draw03_rand"] if n else ["draw00_rand"] * 3
    steps = [training.d_step(noise, drawn[draw]) for draw in draws]
    steps += [training.g_step(noise, drawn[draws[-1]]) for _ in range(3)]
    for key, recorded in (
        ("d_real", "lossD_real"),
        ("d_fake", "lossD_fake"),
        ("g_adversarial", "lossG_adv"),
        ("g_reconstruction", "mse_rec"),
    ):
        ours = [float(step[key]) for step in steps if key in step]
        theirs = arrays[f"s{n}/iter1/{recorded}"]
        first = key.startswith("d_")
        label = f"{name}: scale {n}, first iteration, {recorded}"
        if first:
            report.check(f"{label}, step 1", ours[:1], theirs[:1], 1e-5, relative=True)
        rest = slice(1, None) if first else slice(None)
        report.check(f"{label}, the rest", ours[rest], theirs[rest], 2e-3, relative=True)


def scoring(arrays: Arrays, report: Report, name: str) -> None:
    """Transformed copies, logits and scores of the recorded test images."""
    ts = transformations(arrays)
    for n in range(int(arrays["n_scales"])):
        d = discriminator(arrays, f"s{n}/netD/").eval()
        recorded = np.asarray(arrays["test_scores_per_scale"])[:, n]
        with torch.inference_mode():
            if f"test0/transformed/s{n}" in arrays:
                copies = torch.from_numpy(arrays[f"test0/transformed/s{n}"])
                image = torch.from_numpy(arrays[f"test0/pyramid/s{n}"])
                ours = transform_all(image, ts, "resampled")[:, 0]
                report.check(f"{name}: scale {n}, copies", ours, copies, 1e-5, relative=False)
                rows = arrays.get(f"test0/logits/s{n}_index", np.arange(len(ts)))
                theirs = torch.from_numpy(arrays[f"test0/logits/s{n}"])
                logits = d(copies)
                report.check(f"{name}: scale {n}, logits", logits[rows], theirs, 1e-4, False)
                if len(rows) == len(ts):
                    score = aggregate_votes(votes_from_logits(theirs[:, None]))
                    what = f"{name}: scale {n}, score from logits"
                    report.check(what, score, recorded[:1], 1e-5, False)
            pyramids = [arrays[k] for k in _pyramid_keys(arrays, n)]
            batch = torch.from_numpy(np.concatenate(pyramids))
            copies = transform_all(batch, ts, "resampled")
            votes = votes_from_logits(torch.stack([d(c) for c in copies]))
            what = f"{name}: scale {n}, scores of {len(batch)} images"
            report.check(what, aggregate_votes(votes), recorded[: len(batch)], 1e-4, False)
            fraction = float(arrays["defect_fraction"])
            theirs = np.asarray(arrays["defect_scores_per_scale"])[: len(batch), n]
            score = aggregate_votes(votes, fraction)
            # The official defect run reads its test images in another way, and those pyramids
            # are not recorded: one patch more or less would differ by ten times the tolerance.
            report.check(f"{what}, lowest {fraction:.0%}", score, theirs, 3e-3, False)


def _pyramid_keys(arrays: Arrays, n: int) -> list[str]:
    keys = [f"test{k}/pyramid/s{n}" for k in range(len(arrays["test_class"]))]
    return [key for key in keys if key in arrays]


# --- Import of a whole model --------------------------------------------------------------------


def write_official(folder: Path, arrays: Arrays) -> None:
    """The recorded model, which has one training image, as the official code lays its files out."""
    count = int(arrays["n_scales"])
    scales = folder / f"scale_factor={float(arrays['scale_factor']):f},alpha=100"
    for n in range(count):
        (scales / str(n)).mkdir(parents=True)
        for kind in ("netG", "netD"):
            torch.save(tensors(arrays, f"s{n}/{kind}/"), scales / str(n) / f"{kind}.pth")
        torch.save(torch.from_numpy(arrays[f"s{n}/z_opt"]), scales / str(n) / "z_opt.pth")
    for name, key in (("Zs", "z_opt"), ("NoiseAmp", "noise_amp"), ("reals", "real")):
        values = [torch.from_numpy(arrays[f"s{n}/{key}"]) for n in range(count)]
        torch.save({0: values}, scales / f"{name}.pth")
    np.save(folder / "transformations.npy", arrays["transformations"])


def imported(arrays: Arrays) -> ModelState:
    """The recorded model, by way of such a folder."""
    with tempfile.TemporaryDirectory() as folder:
        write_official(Path(folder), arrays)
        return import_official(folder, image_size=int(arrays["train_image"].shape[0]))


def enlarged(images: torch.Tensor, side: int, factor: float) -> torch.Tensor:
    """Between generators, the official resizing: cut to 8 bits, enlarged by ``factor``, cropped.

    The sides are rounded, so the ratio of two is not the factor, and ours stretches to fit.
    """
    n = images.shape[-1]
    source = (torch.arange(side, dtype=torch.float64) + 0.5) / factor - 0.5
    taps = torch.arange(n + 2)  # those beyond the right border show the mirrored image
    x = (source[:, None] - taps).abs()
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    cubic = torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))
    weights = cubic[:, :n].clone()
    weights[:, -2:] += cubic[:, n:].flip(1)
    weights = (weights / weights.sum(1, keepdim=True)).float()  # (side, n)
    levels = ((images.clamp(-1, 1) + 1) * 127.5).floor() / 127.5 - 1
    return (weights @ levels @ weights.T).clamp(-1, 1)


@torch.no_grad()
def rebuilding(arrays: Arrays, model: ModelState, report: Report, name: str) -> None:
    """z*, amplitudes and generators: the images rebuilt up to each scale, enlarged officially."""
    previous = torch.zeros(1, 3, model.sides[0], model.sides[0])
    for n, scale in enumerate(model.scales[:-1]):
        noise = scale.sigma.view(-1, 1, 1, 1) * scale.z_star.expand(-1, 3, -1, -1)
        image = scale.generator(noise, previous, torch.zeros(1))
        previous = enlarged(image, model.sides[n + 1], 1 / float(arrays["scale_factor"]))
        key = f"s{n + 1}/iter1/draw01_rec"
        if key in arrays:
            what = f"{name}: scale {n}, imported, rebuilt image"
            report.check(what, previous, arrays[key], 1e-5, False)


def importing(arrays: Arrays, report: Report, name: str) -> None:
    """Logits of the imported model, and how its scores of the raw test images differ."""
    model = imported(arrays)
    rebuilding(arrays, model, report, name)
    for n, scale in enumerate(model.scales):
        if f"test0/logits/s{n}" in arrays:
            copies = torch.from_numpy(arrays[f"test0/transformed/s{n}"])
            rows = arrays.get(f"test0/logits/s{n}_index", np.arange(len(copies)))
            with torch.inference_mode():
                logits = scale.discriminator(copies)[rows]
            theirs = arrays[f"test0/logits/s{n}"]
            report.check(f"{name}: scale {n}, imported, logits", logits, theirs, 1e-4, False)
    m = len(model.transformations)
    ours = HTDGDetector.from_model(model).score_scales(list(arrays["test_images"])) / m
    theirs = np.asarray(arrays["test_scores_per_scale"]) / m
    print(f"{name}: imported, anomaly scores of {len(ours)} raw images, resized by us and by them")
    for n, side in enumerate(model.sides):
        _print_difference(f"  scale {n}, {side} pixels", ours[:, n], theirs[:, n])
    _print_difference("  all scales", ours.mean(1), theirs.mean(1))


def _print_difference(what: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    """How normalities in [0, 1] differ, and so do anomaly scores; nothing to pass or fail."""
    difference = np.abs(ours - theirs)
    ranks = [values.argsort().argsort() for values in (ours, theirs)]
    print(
        f"{what:<22} differ by {difference.max():.1e} at most, {difference.mean():.1e} on average; "
        f"theirs are from {1 - theirs.max():.4f} to {1 - theirs.min():.4f}; "
        f"rank correlation {np.corrcoef(*ranks)[0, 1]:.3f}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run all comparisons; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    report = Report()
    for name in ("mnist_digit1_28", "cifar10_car_128"):
        with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        scoring(arrays, report, name)
        importing(arrays, report, name)
        for n in (0, 1, 2):
            if f"s{n}/iter1/lossD_real" in arrays:
                first_iteration(arrays, n, report, name)
    print(f"{report.count - report.failed} comparisons within tolerance, {report.failed} not")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
