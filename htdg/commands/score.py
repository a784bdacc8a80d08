"""``htdg score``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
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
from htdg.commands.scoring import Scoring
from htdg.commands.watch import check_interval, model_digest, watch
from htdg.errors import UnreadableImages
from htdg.io.damaged import ImagesOrGrey
from htdg.io.files import check_writable, printable
from htdg.models import device_of, scorer_of, threshold_by_hand
from htdg.state import ModelState


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
    watching = parser.add_argument_group("scoring images as they come")
    watching.add_argument(
        "--watch",
        action="store_true",
        help="score what is in a folder, and then what comes into it, until Ctrl-C; the same "
        "command goes on with it",
    )
    watching.add_argument(
        "--out", type=Path, metavar="DIR", help="with --watch: the folder for scores.csv"
    )
    watching.add_argument(
        "--interval",
        type=float,
        metavar="SECONDS",
        help="with --watch: between two looks at the folder (default: 1); a file is scored once it "
        "has not changed from one to the next",
    )


def execute(options: argparse.Namespace) -> None:
    """Carry the command out."""
    _check_places(options)
    if options.watch:
        interval = _checked_watch(options)
        scoring = _scoring(options, load_trained(options))
        _explain_threshold(options, scoring)
        watch(options.images[0], options.out, scoring, interval, _identity(options, scoring))
    model = load_trained(options)
    collected = collect_images(options.images, options.strict, leave_out=options.maps)
    _score(options, _scoring(options, model), collected)


def _scoring(options: argparse.Namespace, model: ModelState) -> Scoring:
    """How to score with a model."""
    threshold, fraction = model.threshold, options.defect_fraction
    if fraction is None and threshold is not None:
        fraction = threshold.defect_fraction
    if options.threshold is not None:
        threshold = threshold_by_hand(options.threshold, None, fraction)
        model = replace(model, threshold=threshold)
    applies = threshold is not None and _same(threshold.defect_fraction, fraction)
    limit = threshold.score if threshold is not None and applies else None
    maps = None
    if options.maps is not None:
        # Imported here: Matplotlib takes half a second, and only who wants maps waits for it.
        from htdg.commands.maps import map_writer

        maps = map_writer(options.maps, model, options.tint)
    return Scoring(
        scorer_of(model, device_of(model)),
        fraction,
        threshold,
        Rows(len(model.transformations), limit),
        maps,
        options.batch_size,
        options.map_size,
    )


def _score(options: argparse.Namespace, scoring: Scoring, collected: Mapping[Path, Path]) -> None:
    """Score images, each with its path below the folder that was named."""
    images = ImagesOrGrey(list(collected), options.strict, scoring.white_level)
    predictions = scoring.predictions(images, progress=True)
    names = map_names(list(collected.values()))
    with Table(options.csv, scoring.rows) as table:
        for i, (path, prediction) in enumerate(zip(collected, predictions, strict=True)):
            problem = images.problems.get(i, "")
            pictures, problem = scoring.pictures(names[i], path, prediction, problem)
            table.add(path, prediction, pictures, problem)
        if len(table.problems) == len(collected):
            raise UsageError(table.problems[0])
    if scoring.maps is not None:
        scoring.maps.finish()
    if options.csv is not None:
        print(printable(str(options.csv)))
    _explain_threshold(options, scoring)
    if table.problems:
        say_unreadable(table.problems)
        raise UnreadableImages(
            f"{len(table.problems)} of {len(collected)} images cannot be read: the column problem "
            "says why."
        )


def _identity(options: argparse.Namespace, scoring: Scoring) -> list[object]:
    """What the rows of a watch depend on, as plain JSON values."""
    return [
        model_digest(options.model),
        None if scoring.threshold is None else asdict(scoring.threshold),
        scoring.fraction,
        scoring.white_level,
        None if options.maps is None else str(options.maps.resolve()),
        options.map_size,
        options.tint,
    ]


def _same(fraction: float | None, other: float | None) -> bool:
    """Whether two defect fractions stand for the same votes: None is all of them, as 1 is."""
    return (fraction or 1.0) == (other or 1.0)


def _explain_threshold(options: argparse.Namespace, scoring: Scoring) -> None:
    """Say on standard error what was called anomalous, or why nothing was."""
    fraction, threshold = scoring.fraction, scoring.threshold
    share = f"the most anomalous {100 * fraction:g} %" if fraction else "the whole image"
    if threshold is None:
        sentence = f"no threshold, so nothing is called anomalous: htdg calibrate {options.model}"
    elif not _same(threshold.defect_fraction, fraction):
        option = f"--defect-fraction {threshold.defect_fraction or 1.0:g}"
        sentence = f"the threshold is for {option}, so nothing is called anomalous: calibrate again"
    else:
        sentence = f"threshold {threshold}"
    print(f"htdg: scores of {share}; {sentence}", file=sys.stderr)


def _check_places(options: argparse.Namespace) -> None:
    """Refuse places that results cannot be written to, before any work is done."""
    if options.csv is not None:
        if options.csv.is_dir():
            raise UsageError(f"--csv {options.csv} is a folder: name a file.")
        check_writable(options.csv)
    if options.maps is not None:
        _check_apart("--maps", options.maps, options.images)
        check_folder("--maps", options.maps)
    if not options.watch and (options.out is not None or options.interval is not None):
        raise UsageError("--out and --interval are for --watch: leave them out, or add --watch.")


def _checked_watch(options: argparse.Namespace) -> float:
    """The seconds between two looks; UsageError if --watch cannot be done with these options."""
    (folder, *others), out = options.images, options.out
    if others or not folder.is_dir():
        raise UsageError(f"--watch looks at one folder, but {(others or [folder])[0]} is given.")
    if out is None or options.csv is not None:
        raise UsageError("--watch writes DIR/scores.csv: name DIR with --out, and no --csv.")
    if options.strict:
        raise UsageError("--watch goes on after files that cannot be read: leave out --strict.")
    _check_apart("--out", out, options.images)
    for place in filter(None, (out, options.maps)):
        if folder.resolve().is_relative_to(place.resolve()):
            raise UsageError(f"{folder} lies in {place}, where results go: choose another folder.")
    interval = check_interval(options.interval)
    check_folder("--out", out)
    return interval


def _check_apart(option: str, results: Path, images: Sequence[Path]) -> None:
    """Refuse to write results among the images that are to be scored."""
    for place in images:
        if place.resolve() == results.resolve() or (
            not place.is_dir() and place.resolve().is_relative_to(results.resolve())
        ):
            raise UsageError(f"{option} {results} holds images to score: choose another folder.")
