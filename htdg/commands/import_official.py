"""``htdg import-official``."""

from __future__ import annotations

import argparse
from pathlib import Path

from htdg.commands.common import UsageError
from htdg.io.files import check_writable
from htdg.io.model_directory import check_replaceable, save_model
from htdg.io.official import import_official


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument(
        "folder",
        type=Path,
        metavar="DIR",
        help="TrainedModels/NAME, or the folder scale_factor=... in it; no code in its files is "
        "run",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="model directory to write")
    parser.add_argument(
        "--image-size",
        type=int,
        default=128,
        metavar="S",
        help="side that the training had images resized to (default: 128)",
    )
    parser.add_argument(
        "--transformations",
        type=Path,
        metavar="FILE",
        help="their list in the order of the classes, rows of grey, flip, tx, ty, k, as .pth, "
        ".json or .npy (default: the transformations.npy, .pth or .json in DIR)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a model that is there under this name"
    )


def execute(options: argparse.Namespace) -> None:
    """Carry the command out."""
    model = options.model
    if model.exists() and not options.overwrite:
        raise UsageError(f"{model} is there already: choose another MODEL or --overwrite it.")
    check_writable(model)
    check_replaceable(model)
    save_model(import_official(options.folder, options.image_size, options.transformations), model)
    print(model)
