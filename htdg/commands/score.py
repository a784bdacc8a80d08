"""``htdg score``."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from htdg.commands.common import (
    BAR,
    MAP_ENDING,
    OVERLAY_ENDING,
    UsageError,
    add_white_level,
    check_folder,
    collect_images,
    load_detector,
    say_unreadable,
)
from htdg.detector import HTDGDetector
from htdg.errors import UnreadableImages, UserError
from htdg.evaluation.overlays import (
    TINTS,
    ColourScale,
    clearest_tint,
    colour_bar,
    overlay,
    resized_picture,
)
from htdg.evaluation.plots import ANOMALOUS, png_bytes
from htdg.evaluation.tables import score_table, unscored_row
from htdg.io.damaged import ImagesOrGrey
from htdg.io.files import check_writable, printable, write_bytes
from htdg.io.images import load_uint8, read_image
from htdg.io.problems import ImageError
from htdg.scorer import Prediction
from htdg.thresholds import Threshold

#: Bytes of a name, where systems allow 255 with its ending and that of a temporary file.
LONGEST_NAME = 200


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
    detector = load_detector(options)
    collected = collect_images(options.images, options.strict, leave_out=options.maps)
    threshold, fraction = detector.threshold_, options.defect_fraction
    if fraction is None and threshold is not None:
        fraction = threshold.defect_fraction
    if options.threshold is not None:
        threshold = detector.set_threshold(options.threshold, None, fraction)
    white = detector.config_.white_level
    images = ImagesOrGrey(list(collected), options.strict, white)
    predictions = detector.predictions(
        images,
        (fraction,),
        options.maps is not None,
        options.batch_size,
        progress=True,
        map_size=options.map_size,
    )
    maps = None
    if options.maps is not None:
        tint = tint_of(options.tint, detector)
        maps = MapWriter(options.maps, known_scale(detector, tint), tint, white)
    names = map_names(list(collected.values()))
    applies = threshold is not None and _same(threshold.defect_fraction, fraction)
    limit = threshold.score if threshold is not None and applies else None
    m = len(detector.transformations_)
    with Table(options.csv) as table:
        for i, (path, prediction) in enumerate(zip(collected, predictions, strict=True)):
            problem = images.problems.get(i, "")
            pictures = {}
            if maps is not None:
                pictures = maps.paths(names[i])
                if not problem:
                    assert prediction.anomaly_map is not None  # since maps were asked for
                    problem = maps.write(names[i], path, prediction.anomaly_map)
            table.add(path, prediction, m, limit, pictures, problem)
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


class Table:
    """The table of scores, a row at a time, on the screen or in a file.

    A file has its name only once it is complete; until then, and if the run is stopped, it is
    called ``<name>.partial``. A run that is refused leaves none.

    Attributes:
        problems: what is wrong with the images that could not be read.
    """

    def __init__(self, path: Path | None) -> None:
        """Write to ``path``, or to standard output."""
        self.path, self.problems = path, list[str]()
        self.waiting: list[str] | None = []
        self.partial = None if path is None else path.with_name(f"{path.name}.partial")
        self.file: TextIO | None = None

    def __enter__(self) -> Table:
        """Begin the file."""
        if self.partial is not None:
            self.partial.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.partial.open("w", encoding="utf-8", newline="")
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        """Give the file its name, unless something went wrong."""
        if self.file is None or self.partial is None or self.path is None:
            return
        self.file.close()
        if kind is None:
            self.partial.replace(self.path)
        elif issubclass(kind, UserError):
            self.partial.unlink()

    def add(
        self,
        path: Path,
        prediction: Prediction,
        n_transformations: int,
        limit: float | None,
        pictures: Mapping[str, str],
        problem: str,
    ) -> None:
        """A row: scores, or a problem; with ``limit`` whether the score is above it."""
        others: dict[str, Any] = {kind: values[:1] for kind, values in prediction.evidence.items()}
        if limit is not None:
            others["anomalous"] = [int(prediction.scores[0] > limit)]
        others |= {name: [printable(picture)] for name, picture in pictures.items()}
        others["problem"] = [""]
        name = printable(str(path))
        table = score_table(
            [name], None, prediction.normality[:1], n_transformations, others, prediction.scores
        )
        header, row = table.split("\n", 1)
        if problem:
            self.problems.append(problem)
            row = unscored_row(name, header.split(","), printable(problem))
        if self.waiting is not None:  # nothing is written before there are any scores
            self.waiting.append(row)
            if problem:
                return
            row, self.waiting = "".join([f"{header}\n", *self.waiting]), None
        print(row, end="", file=self.file, flush=True)


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


def add_tint(parser: argparse.ArgumentParser) -> None:
    """The option for the colour of overlays."""
    parser.add_argument(
        "--tint",
        choices=("auto", *TINTS),
        default="auto",
        help="of overlays (default: auto, the one that differs most from the training images)",
    )


def tint_of(name: str, detector: HTDGDetector) -> str:
    """The colour that ``--tint`` asks for."""
    return TINTS[clearest_tint(detector.images_) if name == "auto" else name]


def map_names(paths: Sequence[Path]) -> list[str]:
    """What to call the maps of images, by their paths below the folders that were named.

    Like the image, in folders like its own; with its ending if another one differs in that alone,
    and with a number if a file of another folder has the very same path. What is too long for the
    endings of maps is cut.
    """
    count = Counter(path.with_suffix("") for path in paths)
    names: dict[str, None] = {}
    for path in paths:
        plain = path.with_suffix("") if count[path.with_suffix("")] == 1 else path
        if len(os.fsencode(plain.name)) > LONGEST_NAME:
            cut = os.fsencode(plain.name)[:LONGEST_NAME]
            plain = plain.with_name(cut.decode("utf-8", "ignore"))
        candidates = (f"{plain.as_posix()}{f'_{n}' if n > 1 else ''}" for n in itertools.count(1))
        names[next(name for name in candidates if name not in names)] = None
    return list(names)


def known_scale(detector: HTDGDetector, tint: str = ANOMALOUS) -> ColourScale | None:
    """The scale of colours that follows from a model, or None if all its maps must be seen first.

    A threshold says what is normal, and so do distances. What votes have there differs from model
    to model.
    """
    if detector.threshold_ is None and detector.config_.evidence == "votes":
        return None
    return ColourScale.of_threshold(detector.threshold_, tint)


class MapWriter:
    """Writes anomaly maps into a folder, and overlays that all have the same scale of colours.

    Attributes:
        folder: where to.
        scale: that of the overlays; None takes it from the maps, so that overlays wait for the
            last of them.
        white_level: that of ``load_image``.
        waiting: name and path of the images whose overlays wait.
        medians, highest: the median and the highest value of the maps of these images.
    """

    def __init__(
        self,
        folder: Path,
        scale: ColourScale | None,
        tint: str = ANOMALOUS,
        white_level: int = 0,
    ) -> None:
        """Write into ``folder``, which exists; ``tint`` is that of a scale from the maps."""
        self.folder, self.scale, self.tint = folder, scale, tint
        self.white_level = white_level
        self.waiting: list[tuple[str, Path]] = []
        self.medians: list[float] = []
        self.highest: list[float] = []

    def paths(self, name: str) -> dict[str, str]:
        """Where the map and the overlay of a name are, by the columns of the table."""
        return {"map": str(self._map(name)), "overlay": str(self._overlay(name))}

    def write(self, name: str, path: Path, anomaly_map: np.ndarray) -> str:
        """Write ``<name>_map.png``, 0 to 65535 for 0 to 1, and the overlay if it need not wait.

        Args:
            name: of the files, with folders.
            path: of the image.
            anomaly_map: (H, W) in [0, 1], in the proportions of the image.

        Returns:
            What is wrong with the image, if it cannot be read again; else "".
        """
        levels = np.round(anomaly_map * 65535).astype(np.uint16)
        try:
            if self.scale is not None:
                self._write_overlay(name, path, anomaly_map, self.scale)
            write_bytes(self._map(name), png_bytes(levels))
        except ImageError as error:  # it is gone by now
            return str(error)
        if self.scale is None:
            self.waiting.append((name, path))
            self.medians.append(float(np.median(anomaly_map)))
            self.highest.append(float(anomaly_map.max()))
        return ""

    def finish(self) -> None:
        """Write what the colours mean, and the overlays that wait.

        The maps of these are read again, since all may be too many.
        """
        scale = self.scale
        if scale is None:
            if not self.waiting:
                return
            scale = ColourScale.of_maps(self.medians, self.highest, self.tint)
        write_bytes(self.folder / BAR, colour_bar(scale))
        for name, path in self.waiting:
            try:
                self._write_overlay(name, path, read_image(self._map(name)) / 65535, scale)
            except ImageError as error:  # it is gone by now
                say_unreadable([str(error)])

    def _map(self, name: str) -> Path:
        return self.folder / f"{name}{MAP_ENDING}"

    def _overlay(self, name: str) -> Path:
        return self.folder / f"{name}{OVERLAY_ENDING}"

    def _write_overlay(
        self, name: str, path: Path, anomaly_map: np.ndarray, scale: ColourScale
    ) -> None:
        """``<name>_overlay.png``."""
        image = load_uint8(path, self.white_level)
        drawn = overlay(resized_picture(image, anomaly_map.shape), anomaly_map, scale)
        write_bytes(self._overlay(name), png_bytes(drawn))
