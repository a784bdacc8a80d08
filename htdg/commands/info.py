"""``htdg info``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from htdg.detector import HTDGDetector


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="model directory")


def execute(options: argparse.Namespace) -> None:
    """Carry the command out."""
    detector = HTDGDetector.load(options.model, device="cpu")
    config = detector.config
    described = json.loads((options.model / "config.json").read_text())
    seconds = sum(scale["seconds"] for scale in detector.history)
    print(f"model            {options.model} (format {described['format']})")
    print(f"trained on       {', '.join(detector.image_names)}")
    print(
        f"                 with htdg {described['htdg']}, torch {described['torch']}, on "
        f"{described['trained_on']} in {seconds:.0f} s"
    )
    print(f"scales           {' '.join(str(s) for s in detector.sides)} pixels")
    print(f"transformations  {len(detector.transformations)}, translation {config.translation}")
    print(f"threshold        {detector.threshold or 'none: htdg calibrate makes one'}")
    for name, value in described["config"].items():
        if name not in ("transformations", "translation"):
            print(f"{name:<16} {value}")
