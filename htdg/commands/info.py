"""``htdg info``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from htdg.commands.common import at_chance, spread
from htdg.fast.choice import describe_choices
from htdg.io.files import one_line
from htdg.models import saved_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="model directory")


def execute(options: argparse.Namespace) -> None:
    """Carry the command out."""
    model = saved_model(options.model, device="cpu")
    config = model.config
    described = json.loads((options.model / "config.json").read_text(encoding="utf-8"))
    seconds = sum(scale["seconds"] for scale in model.history)
    trained_with = [described[name] for name in ("htdg", "torch", "trained_on")]
    version, torch, place = map(_shown, trained_with)
    print(f"model            {options.model} (format {described['format']})")
    print(f"trained on       {', '.join(map(_shown, dict.fromkeys(model.image_names)))}")
    print(f"                 with htdg {version}, torch {torch}, on {place} in {seconds:.0f} s")
    if "machine" in described:
        print(f"                 {_shown(described['machine'])}")
    print(f"scales           {' '.join(str(s) for s in model.sides)} pixels")
    print(f"transformations  {len(model.transformations)}, translation {config.translation}")
    print(f"computing here   {describe_choices()}")
    threshold = model.threshold
    print(f"threshold        {threshold or 'none: htdg calibrate makes one'}")
    if threshold is not None:
        chance = at_chance(threshold.mean_vote, len(model.transformations))
        for sentence in filter(None, (spread(threshold), chance)):
            print(f"                 {_shown(sentence)}")
    for name, value in described["config"].items():
        if name not in ("transformations", "translation"):
            print(f"{name:<16} {value}")


def _shown(value: object) -> str:
    """What a stranger may have written into a model, as a terminal may have it."""
    return one_line(str(value), most=1000)
