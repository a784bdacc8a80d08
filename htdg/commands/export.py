"""``htdg export``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from htdg.commands.common import UsageError
from htdg.detector import HTDGDetector
from htdg.export.onnx_file import (
    TOLERANCE,
    ExportError,
    check_exportable,
    check_packages,
    compared,
    exported,
    metadata,
)
from htdg.io.files import check_writable, write_bytes
from htdg.votes import as_fractions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="model directory")
    parser.add_argument(
        "--onnx", type=Path, required=True, metavar="FILE", help="the file to write, FILE.onnx"
    )
    parser.add_argument(
        "--defect-fraction",
        type=float,
        metavar="F",
        help="average only this share of the votes, and of the pixels of distances, the most "
        "anomalous; it is fixed in the file (default: what the model was calibrated with, or all)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a file that is there under this name"
    )


def execute(options: argparse.Namespace) -> None:
    """Carry the command out."""
    path = options.onnx
    if path.suffix.lower() != ".onnx":
        raise UsageError(f"--onnx {path} does not end in .onnx: name the file so.")
    if path.is_dir():
        raise UsageError(f"--onnx {path} is a folder: name a file.")
    if path.exists() and not options.overwrite:
        raise UsageError(f"{path} is there already: choose another --onnx or --overwrite it.")
    check_writable(path)
    as_fractions(options.defect_fraction)
    check_packages()
    model = HTDGDetector.load(options.model, device="cpu").model_
    check_exportable(model.config)
    fraction = options.defect_fraction
    if fraction is None and model.threshold is not None:
        fraction = model.threshold.defect_fraction
    print("htdg: exporting takes up to a minute.", file=sys.stderr)
    file = exported(model, fraction)
    result = compared(file, model, fraction)
    if not result.agrees:
        raise ExportError(
            f"{path} was not written: its scores would differ from the model's by up to "
            f"{result.scores:.1e} and its maps by {result.maps:.1e}, more than {TOLERANCE:g}; try "
            "other versions of torch, onnxscript and onnxruntime."
        )
    write_bytes(path, file)
    known = metadata(model, fraction)
    for key, value in known.items():
        print(f"{key:<20} {value}")
    print(f"{'differs by':<20} {result.scores:.1e} in scores, {result.maps:.1e} in maps")
    print(
        f"{'time an image':<20} {result.milliseconds:.1f} ms in ONNX Runtime, "
        f"{result.milliseconds_here:.1f} ms in htdg"
    )
    print(f"{'written':<20} {path} ({len(file) / 2**20:.1f} MiB)")
    if model.threshold is not None and "threshold" not in known:
        option = f"--defect-fraction {model.threshold.defect_fraction or 1.0:g}"
        print(f"htdg: the threshold is for {option}, so the file has none.", file=sys.stderr)
