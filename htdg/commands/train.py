"""``htdg train``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from htdg.commands.common import (
    UsageError,
    add_config_options,
    config_from,
    refuse_ignored,
)
from htdg.detector import HTDGDetector
from htdg.io.checkpoint import remove_checkpoint
from htdg.io.files import check_writable
from htdg.io.model_directory import check_replaceable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="normal images")
    parser.add_argument("--out", required=True, type=Path, help="model directory to write")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a model that is there under this name"
    )
    add_config_options(parser)


def execute(options: argparse.Namespace) -> None:
    """Carry the command out."""
    config = config_from(options)
    refuse_ignored(config, options)
    if options.out.exists() and not options.overwrite:
        raise UsageError(f"{options.out} is there already: choose another --out or --overwrite it.")
    check_writable(options.out)
    check_replaceable(options.out)
    for path in options.images:
        if path.is_dir():
            raise UsageError(f"{path} is a folder: name the image files to train on.")
    out = options.out if options.out.name else options.out.resolve()
    unfinished = out.with_name(f"{out.name}.unfinished")
    if unfinished.exists():
        print(f"going on with {unfinished}", file=sys.stderr)
    detector = HTDGDetector(config).fit(options.images, checkpoint=unfinished)
    detector.save(options.out)
    remove_checkpoint(unfinished)
    print(options.out)
