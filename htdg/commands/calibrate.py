"""``htdg calibrate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from htdg.commands.common import (
    UsageError,
    add_white_level,
    collect_images,
    load_trained,
    say_at_chance,
    spread,
)
from htdg.commands.held_out import held_out
from htdg.detector import HTDGDetector
from htdg.errors import UnreadableImages
from htdg.io.files import check_writable, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="model directory")
    parser.add_argument(
        "images",
        nargs="*",
        type=Path,
        metavar="IMAGE_OR_FOLDER",
        help="normal images that did not train",
    )
    parser.add_argument(
        "--false-positive-rate",
        type=float,
        default=0.05,
        metavar="P",
        help="share of normal images that may be called anomalous (default: 0.05)",
    )
    parser.add_argument(
        "--defect-fraction", type=float, metavar="F", help="as it will be given to score"
    )
    parser.add_argument(
        "--generated",
        type=int,
        nargs="?",
        const=200,
        metavar="N",
        help="instead of images, N that the model generates (default: 200): far less reliable",
    )
    parser.add_argument(
        "--threshold", type=float, metavar="T", help="instead of images, a score from 0 to 1"
    )
    parser.add_argument("--seed", type=int, default=0, help="of their noise (default: 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--strict", action="store_true", help="refuse files that are no images")
    add_white_level(parser)


def execute(options: argparse.Namespace) -> None:
    """Carry the command out."""
    check_writable(options.model / "config.json")
    if options.images and options.generated is not None:
        raise UsageError("Images are named, and --generated is given: leave out one of them.")
    if options.threshold is not None:
        if options.images or options.generated is not None:
            raise UsageError("--threshold takes no images: leave them out, or --threshold.")
        detector = HTDGDetector.load(options.model, device="cpu")
        by_hand = detector.set_threshold(options.threshold, None, options.defect_fraction)
        print(f"threshold {by_hand}")
        detector.save_threshold(options.model)
        return
    if not options.images and options.generated is None:
        raise UsageError(
            "A threshold needs normal images that did not train: name some, or a folder of them. "
            "--generated takes images that the model generates instead, far less reliable; and "
            "--threshold takes a score."
        )
    detector = HTDGDetector.from_model(load_trained(options))
    problems: list[str] = []
    images: list[Path] | str = "generated"
    if options.images:
        images, problems = held_out(detector, list(collect_images(options.images, options.strict)))
    threshold = detector.calibrate(
        images,
        options.false_positive_rate,
        options.defect_fraction,
        200 if options.generated is None else options.generated,
        options.seed,
        progress=True,
    )
    detector.save_threshold(options.model)
    print(f"threshold {threshold}")
    if spread(threshold):
        print(printable(spread(threshold)))
    say_at_chance(detector.model_, threshold.mean_vote)
    if problems:
        raise UnreadableImages(f"{len(problems)} images cannot be read and did not count.")
