"""``htdg sample``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from htdg.commands.common import (
    UsageError,
    check_folder,
)
from htdg.detector import HTDGDetector
from htdg.evaluation.plots import plot_sample_grid, png_bytes, save_figure
from htdg.io.files import write_bytes
from htdg.io.images import to_uint8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="model directory")
    parser.add_argument("-n", type=int, default=8, help="how many (default: 8)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the PNG files")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument(
        "--size",
        type=int,
        nargs="+",
        metavar="PIXELS",
        help="side, or height and width (default: that of the finest scale)",
    )
    parser.add_argument(
        "--from-scale",
        type=int,
        default=0,
        metavar="N",
        help="coarser scales rebuild the training image, only those from this one on are random",
    )
    parser.add_argument(
        "--grid",
        action="store_true",
        help="also grid.png: a row of samples for each scale that randomness can begin at",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")


def execute(options: argparse.Namespace) -> None:
    """Carry the command out."""
    if options.n < 1:
        raise UsageError(f"-n is {options.n}, but it must be at least 1.")
    size = options.size
    if size is not None:
        if len(size) > 2:
            raise UsageError(f"--size has {len(size)} numbers, but it is a side, or two.")
        size = size[0] if len(size) == 1 else tuple(size)
    detector = HTDGDetector.load(options.model, device=options.device)
    samples = detector.sample(options.n, options.seed, size, options.from_scale)  # (n, 3, H, W)
    check_folder("--out", options.out)
    for i, sample in enumerate(to_uint8(samples)):
        path = options.out / f"sample_{i:03d}.png"
        write_bytes(path, png_bytes(sample))
        print(path)
    drawn = [samples]
    if options.grid:
        rows = {}
        for n, side in enumerate(detector.sides_):
            drawn.append(detector.sample(options.n, options.seed, size, n))
            rows[f"random from scale {n}\n({side} px)"] = to_uint8(drawn[-1])
        save_figure(plot_sample_grid(rows), options.out / "grid.png")
        print(options.out / "grid.png")
    beyond = float((torch.cat(drawn).abs() > 1).double().mean())
    if beyond:
        print(
            f"htdg: {beyond:.2%} of the values lay beyond black or white and were cut.",
            file=sys.stderr,
        )
