"""``htdg score``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from htdg.commands.common import (
    UsageError,
    add_tint,
    add_white_level,
    check_folder,
    collect_images,
    load_trained,
    map_names,
    say_unreadable,
)
from htdg.commands.score_table import Rows, Table
from htdg.errors import UnreadableImages
from htdg.io.damaged import ImagesOrGrey
from htdg.io.files import check_writable, printable
from htdg.models import device_of, scorer_of, threshold_by_hand
from htdg.thresholds import Threshold


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="model directory")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE_OR_FOLDER")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write there, not to the screen")
    parser.add_argument(
        "--defect-fraction",
        type=float,
        metavar="F",
        help="average only this share of the votes, and of the pixels of distances, the most "
        "anomalous, for small defects (0.05 is the paper's; default: what the model was calibrated "
        "with, or all)",
    )
    parser.add_argument(
        "--threshold", type=float, metavar="T", help="instead of the model's, a score from 0 to 1"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="images at a time")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--strict", action="store_true", help="refuse files that cannot be read")
    parser.add_argument(
        "--maps",
        type=Path,
        metavar="DIR",
        help="write anomaly maps there: for each image a 16-bit PNG, and an overlay, all in "
        "one scale of colours, with the contour at the threshold",
    )
    parser.add_argument(
        "--map-size",
        type=int,
        metavar="N",
        help="longer side of maps and overlays, pixels (default: that of the image); faster for "
        "large images",
    )
    add_tint(parser)
    add_white_level(parser)


def execute(options: argparse.Namespace) -> None:
    """Carry the command out."""
    if options.csv is not None:
        if options.csv.is_dir():
            raise UsageError(f"--csv {options.csv} is a folder: name a file.")
        check_writable(options.csv)
    if options.maps is not None:
        _check_apart(options.maps, options.images)
        check_folder("--maps", options.maps)
    model = load_trained(options)
    collected = collect_images(options.images, options.strict, leave_out=options.maps)
    threshold, fraction = model.threshold, options.defect_fraction
    if fraction is None and threshold is not None:
        fraction = threshold.defect_fraction
    if options.threshold is not None:
        threshold = threshold_by_hand(options.threshold, None, fraction)
        model = replace(model, threshold=threshold)
    white = model.config.white_level
    images = ImagesOrGrey(list(collected), options.strict, white)
    predictions = scorer_of(model, device_of(model)).predictions(
        images,
        (fraction,),
        options.maps is not None,
        options.batch_size,
        progress=True,
        map_size=options.map_size,
    )
    maps = None
    if options.maps is not None:
        # Imported here: Matplotlib takes half a second, and only who wants maps waits for it.
        from htdg.commands.maps import map_writer

        maps = map_writer(options.maps, model, options.tint)
    names = map_names(list(collected.values()))
    applies = threshold is not None and _same(threshold.defect_fraction, fraction)
    limit = threshold.score if threshold is not None and applies else None
    with Table(options.csv, Rows(len(model.transformations), limit)) as table:
        for i, (path, prediction) in enumerate(zip(collected, predictions, strict=True)):
            problem = images.problems.get(i, "")
            pictures = {}
            if maps is not None:
                pictures = maps.paths(names[i])
                if not problem:
                    assert prediction.anomaly_map is not None  # since maps were asked for
                    problem = maps.write(names[i], path, prediction.anomaly_map)
            table.add(path, prediction, pictures, problem)
        if len(table.problems) == len(collected):
            raise UsageError(table.problems[0])
    if maps is not None:
        maps.finish()
    if options.csv is not None:
        print(printable(str(options.csv)))
    _explain_threshold(options, fraction, threshold)
    if table.problems:
        say_unreadable(table.problems)
        raise UnreadableImages(
            f"{len(table.problems)} of {len(collected)} images cannot be read: the column problem "
            "says why."
        )


def _same(fraction: float | None, other: float | None) -> bool:
    """Whether two defect fractions stand for the same votes: None is all of them, as 1 is."""
    return (fraction or 1.0) == (other or 1.0)


def _explain_threshold(
    options: argparse.Namespace, fraction: float | None, threshold: Threshold | None
) -> None:
    """Say on standard error what was called anomalous, or why nothing was."""
    share = f"the most anomalous {100 * fraction:g} %" if fraction else "the whole image"
    if threshold is None:
        sentence = f"no threshold, so nothing is called anomalous: htdg calibrate {options.model}"
    elif not _same(threshold.defect_fraction, fraction):
        option = f"--defect-fraction {threshold.defect_fraction or 1.0:g}"
        sentence = f"the threshold is for {option}, so nothing is called anomalous: calibrate again"
    else:
        sentence = f"threshold {threshold}"
    print(f"htdg: scores of {share}; {sentence}", file=sys.stderr)


def _check_apart(maps: Path, images: Sequence[Path]) -> None:
    """Refuse to write maps among the images that are to be scored."""
    for place in images:
        if place.resolve() == maps.resolve() or (
            not place.is_dir() and place.resolve().is_relative_to(maps.resolve())
        ):
            raise UsageError(f"--maps {maps} holds images to score: choose another folder.")
