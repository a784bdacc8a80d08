"""``htdg inspect``: learns from a folder of good parts, and gives a verdict on each new one."""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from htdg.commands.common import (
    UsageError,
    add_config_options,
    check_folder,
    config_from,
    image_files,
    refuse_ignored,
    say_at_chance,
    say_unreadable,
    spread,
)
from htdg.commands.held_out import SAME_IMAGES, without_copies
from htdg.commands.score import add_tint, map_names, tint_of
from htdg.config import HTDGConfig
from htdg.detector import HTDGDetector
from htdg.errors import UnreadableImages
from htdg.evaluation.inspection_page import (
    ANOMALOUS,
    NO_THRESHOLD,
    NORMAL,
    InspectedImage,
    inspection_page,
    overlay_picture,
    place_in_words,
    thumbnail,
)
from htdg.evaluation.overlays import ColourScale
from htdg.evaluation.plots import png_bytes
from htdg.evidence import DEFECT_FRACTION
from htdg.io.checkpoint import remove_checkpoint
from htdg.io.damaged import ImagesOrGrey
from htdg.io.files import OutputError, printable, write_bytes, write_text
from htdg.io.images import ImageError, load_image, to_uint8
from htdg.io.model_directory import ModelError, check_replaceable, digest
from htdg.runtime.device import resolve_device
from htdg.runtime.parallel import run_ahead
from htdg.scorer import Prediction
from htdg.thresholds import Threshold, check_rate
from htdg.tiles import squares

#: Good images that train at most, unless asked for otherwise; no more than half of them.
SHOTS = 10
#: Fewer good images all train, and none is left for a threshold.
ENOUGH = 8
#: The verdict on a file that cannot be read.
UNREADABLE = "unreadable"
#: Kinds of evidence, a column each.
KINDS = ("votes", "distance")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("good", type=Path, metavar="GOOD_FOLDER", help="images of good parts")
    parser.add_argument("new", type=Path, metavar="NEW_FOLDER", help="images to inspect")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the results")
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="where the model is kept (default: OUT/model)"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="T",
        help="a score from 0 to 1, instead of one from held-out images",
    )
    parser.add_argument(
        "--false-positive-rate",
        type=float,
        default=0.05,
        metavar="P",
        help="share of good parts that may be called anomalous (default: 0.05)",
    )
    parser.add_argument(
        "--shots",
        type=int,
        metavar="N",
        help="train on N of the good images, chosen by the seed; the others are held out for the "
        f"threshold (default: half of them, at most {SHOTS}; all of fewer than {ENOUGH})",
    )
    parser.add_argument(
        "--retrain",
        action="store_true",
        help="replace a model that was made of other images or options",
    )
    add_tint(parser)
    add_config_options(parser, "inspect")


def execute(options: argparse.Namespace) -> None:
    """Carry the command out."""
    config = config_from(options)
    refuse_ignored(config, options)
    _check_numbers(options)
    resolve_device(config.device)
    _check_folders(options.good, options.new, options.out)
    good, new = image_files(options.good), image_files(options.new)
    place = options.out / "model" if options.model is None else options.model
    check_replaceable(place)
    good = readable(without_copies(good))
    if not good:
        raise UsageError(f"None of the images in {options.good} can be read: give others.")
    train, held_out = split(good, options.shots, config.seed)
    check_folder("--out", options.out)
    print(f"htdg: {_sentence_on_split(len(train), len(held_out))}", file=sys.stderr)
    detector = trained(config, train, place, options.retrain)
    threshold = None
    if options.threshold is not None:
        threshold = detector.set_threshold(options.threshold, None, DEFECT_FRACTION)
    elif held_out:
        threshold = calibrated(detector, place, held_out, options.false_positive_rate)
        say_at_chance(detector, threshold.mean_vote)
    names = map_names([path.relative_to(options.new) for path in new])
    files = dict(zip(new, names, strict=True))
    scale = ColourScale.of_threshold(threshold, tint_of(options.tint, detector))
    results = Results(options.out, _identity(detector, threshold, scale, new))
    unreadable = inspect_images(detector, scale, files, results)
    counts = (len(train), len(held_out))
    report = Report(options.good, options.new, *counts, threshold, scale, files, unreadable)
    write_report(options.out, report, results)


# --- What goes in -------------------------------------------------------------------------------


def _check_numbers(options: argparse.Namespace) -> None:
    try:
        check_rate(options.false_positive_rate)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if options.shots is not None and options.shots < 1:
        raise UsageError(f"--shots is {options.shots}, but it must be at least 1.")


def _check_folders(good: Path, new: Path, out: Path) -> None:
    """Refuse folders that hold each other's images."""
    for folder in (good, new):
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is a file: name the folder that holds it.")
    if _below(good, new) or _below(new, good):
        raise UsageError(
            f"{good} and {new} lie in each other, so images would count as good and as new: keep "
            "them in two folders side by side."
        )
    for folder in (good, new):
        if _below(out, folder):
            raise UsageError(
                f"--out {out} lies in {folder}, where results would be taken for images: choose "
                "another folder."
            )
        if _below(folder, out / "overlays"):
            raise UsageError(f"{folder} lies in {out / 'overlays'}, which is replaced: move it.")
    results = (out / "scores.csv", out / Results.FOLDER)
    if (out / "overlays").exists() and not any(path.exists() for path in results):
        raise UsageError(
            f"{out / 'overlays'} is there and is no result of htdg: choose another --out."
        )


def _below(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def readable(paths: Sequence[Path]) -> list[Path]:
    """Those that can be read to their end; the others are named on standard error."""
    checks = list(run_ahead(partial(_problem, path) for path in paths))
    say_unreadable(problem for problem in checks if problem is not None)
    return [path for path, problem in zip(paths, checks, strict=True) if problem is None]


def _problem(path: Path) -> str | None:
    try:
        load_image(path)
    except ImageError as error:
        return str(error)
    return None


def split(good: Sequence[Path], shots: int | None, seed: int) -> tuple[list[Path], list[Path]]:
    """The good images that train, and those held out for the threshold, each in order.

    Args:
        good: all good images.
        shots: how many train; by default half, at most ``SHOTS``, or all of less than ``ENOUGH``.
        seed: of the draw.

    Raises:
        UsageError: there are not as many.
    """
    if shots is None:
        shots = len(good) if len(good) < ENOUGH else min(SHOTS, len(good) // 2)
    if shots > len(good):
        raise UsageError(f"--shots is {shots}, but there are {len(good)} good images.")
    order = np.random.default_rng(seed).permutation(len(good))
    train, held_out = sorted(order[:shots]), sorted(order[shots:])
    return [good[i] for i in train], [good[i] for i in held_out]


def _sentence_on_split(n_train: int, n_held_out: int) -> str:
    if n_held_out:
        return (
            f"{n_train} of the {n_train + n_held_out} good images train, {n_held_out} are held out "
            "for the threshold."
        )
    return (
        f"all good images, {n_train}, train and none is held out, so there is no threshold and "
        f"nothing is called anomalous: give at least {ENOUGH} good images."
    )


# --- The model ----------------------------------------------------------------------------------


def trained(config: HTDGConfig, train: Sequence[Path], place: Path, retrain: bool) -> HTDGDetector:
    """The model in ``place``, or one trained now and saved there.

    Raises:
        UsageError: the model there was made of other images or options, and not to ``retrain``.
        UserError: it is damaged, or images cannot be trained on.
    """
    if (place / "config.json").exists():
        try:
            detector = HTDGDetector.load(place, device=config.device)
            difference = _difference(detector, config, train)
        except ModelError as error:
            if not retrain:
                raise
            difference = str(error)
        if not difference:
            print(f"htdg: {place} is taken as it is.", file=sys.stderr)
            return detector
        if not retrain:
            raise UsageError(
                f"{place} was made of other {difference}: add --retrain to replace it, or choose "
                "another folder."
            )
    unfinished = place.resolve().with_name(f"{place.resolve().name}.unfinished")
    if unfinished.exists():
        print(f"htdg: going on with {unfinished}", file=sys.stderr)
    paths = list(train)
    try:
        detector = HTDGDetector(config).fit(paths, checkpoint=unfinished)
    except ModelError:  # a checkpoint of another training
        if not retrain:
            raise
        remove_checkpoint(unfinished)
        detector = HTDGDetector(config).fit(paths, checkpoint=unfinished)
    detector.save(place)
    remove_checkpoint(unfinished)
    return detector


def _difference(detector: HTDGDetector, config: HTDGConfig, train: Sequence[Path]) -> str:
    """In what a model differs from one of these options and images, in words; empty if nowhere."""
    old, new = (c.with_options(device="auto").as_dict() for c in (detector.config_, config))
    names = [name for name, value in new.items() if old[name] != value]
    if names:
        return f"options ({', '.join(names)})"
    side = config.image_size
    images = torch.cat([squares(load_image(path), side, config.tiles) for path in train])
    same = images.shape == detector.images_.shape
    if same and torch.allclose(images, detector.images_, rtol=0, atol=SAME_IMAGES):
        return ""
    return "good images"


def calibrated(
    detector: HTDGDetector, place: Path, held_out: Sequence[Path], rate: float
) -> Threshold:
    """The threshold from these images, which is kept with the model in ``place``.

    What it was chosen from is kept, too, in ``calibration.json``, so that the next inspection with
    the same images and rate need not score them again.
    """
    basis = _hash([[_file_state(path) for path in held_out], rate, DEFECT_FRACTION])
    path, kept = place / "calibration.json", detector.threshold_
    if kept is not None and path.is_file():
        note = {"basis": basis, "threshold": asdict(kept)}
        if note in _json_lines(path):
            return kept
    threshold = detector.calibrate(held_out, rate, DEFECT_FRACTION, progress=True)
    detector.save_threshold(place)
    write_text(path, json.dumps({"basis": basis, "threshold": asdict(threshold)}) + "\n")
    return threshold


def _identity(
    detector: HTDGDetector, threshold: Threshold | None, scale: ColourScale, new: Sequence[Path]
) -> str:
    """Identifies what the results of an inspection depend on."""
    options = detector.config_.with_options(device="auto").as_dict()
    limits = None if threshold is None else asdict(threshold)
    files = [_file_state(path) for path in new]
    return _hash([options, digest(detector.images_), limits, scale.tint, files, DEFECT_FRACTION])


def _hash(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _file_state(path: Path) -> tuple[str, int, int]:
    state = path.stat()
    return str(path.resolve()), state.st_size, state.st_mtime_ns


# --- The results so far -------------------------------------------------------------------------


class Results:
    """The results so far, in a folder of their own, for a killed inspection to go on from.

    A line of ``results.jsonl`` for each image, after its pictures are written; the first line says
    what the inspection is.

    Attributes:
        rows: the result of each image as plain JSON values, by the name of its pictures.
    """

    FOLDER = "inspection.unfinished"

    def __init__(self, out: Path, identity: str) -> None:
        """Read them, or start anew if they are of another inspection than ``identity``."""
        self.out, self.folder = out, out / self.FOLDER
        self.path = self.folder / "results.jsonl"
        self.rows: dict[str, dict[str, Any]] = {}
        first, kept = {"identity": identity}, list(_json_lines(self.path))
        if kept[:1] == [first]:
            self.rows = {r["name"]: r for r in kept[1:] if self.overlay(r["name"]).is_file()}
        else:
            self.remove()
        lines = [json.dumps(line) for line in (first, *self.rows.values())]
        write_text(self.path, "\n".join(lines) + "\n")

    def add(self, row: dict[str, Any]) -> None:
        """Keep the result of an image, whose pictures are written."""
        self.rows[row["name"]] = row
        with self.path.open("a") as lines:
            lines.write(json.dumps(row) + "\n")

    def overlay(self, name: str) -> Path:
        """Where the overlay of an image is until all are finished."""
        return self.folder / "overlays" / f"{name}.png"

    def thumbnail(self, name: str) -> Path:
        """Where the picture of an image is that the page will hold."""
        return self.folder / "thumbnails" / f"{name}.jpg"

    def replace_overlays(self) -> None:
        """Put the finished overlays in the place of an earlier inspection's; OutputError if not."""
        new, place, old = self.folder / "overlays", self.out / "overlays", self.folder / "old"
        try:
            new.mkdir(exist_ok=True)
            shutil.rmtree(old, ignore_errors=True)
            if place.exists():
                place.rename(old)
            new.rename(place)
        except OSError as error:
            raise OutputError(f"{place} cannot be replaced: {error.strerror}.") from None

    def remove(self) -> None:
        """Delete the folder, once everything in it is elsewhere or of no use."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file up to the first broken one: the last of a killed program may be."""
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            yield json.loads(line)
        except ValueError:
            return


# --- Inspecting ---------------------------------------------------------------------------------


def inspect_images(
    detector: HTDGDetector,
    scale: ColourScale,
    files: Mapping[Path, str],
    results: Results,
) -> dict[Path, str]:
    """Score the images that have no result yet.

    Args:
        detector: trained.
        scale: the colours of the pictures.
        files: what to call the pictures of each image file.
        results: where the results are added.

    Returns:
        The files that cannot be read, and why; they are also named on standard error.
    """
    to_do = [path for path, name in files.items() if name not in results.rows]
    images, unreadable = ImagesOrGrey(to_do), dict[Path, str]()
    predictions: Iterable[Prediction] = ()
    if to_do:
        predictions = detector.predictions(images, DEFECT_FRACTION, True, progress=True)
    for i, (path, prediction) in enumerate(zip(to_do, predictions, strict=True)):
        if i in images.problems:
            unreadable[path] = images.problems[i]
            continue
        try:
            small, overlay = pictures(path, prediction, scale)
            write_bytes(results.thumbnail(files[path]), small)
            write_bytes(results.overlay(files[path]), overlay)
            results.add(_row(files[path], prediction, scale.line))
        except ImageError as error:  # it is gone by now
            unreadable[path] = str(error)
    say_unreadable(unreadable.values())
    return unreadable


def pictures(path: Path, prediction: Prediction, scale: ColourScale) -> tuple[bytes, bytes]:
    """The thumbnail of an image, a JPEG file, and its overlay, a PNG file."""
    image, anomaly_map = to_uint8(load_image(path)[None])[0], prediction.anomaly_map
    assert anomaly_map is not None
    overlay = png_bytes(overlay_picture(image, anomaly_map, scale))
    return thumbnail(image, anomaly_map, scale), overlay


def _row(name: str, prediction: Prediction, limit: float | None) -> dict[str, Any]:
    """The result of an image as plain JSON values; ``limit`` is the threshold of pixels."""
    anomaly_map = prediction.anomaly_map
    assert anomaly_map is not None
    return {
        "name": name,
        "score": float(prediction.scores[0]),
        "evidence": {kind: float(value[0]) for kind, value in prediction.evidence.items()},
        "place": place_in_words(anomaly_map),
        "share": None if limit is None else float((anomaly_map > limit).mean()),
    }


# --- What comes out -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What a report is about.

    Attributes:
        good: folder of the good images.
        new: folder of the inspected ones.
        n_train: good images that trained.
        n_held_out: good images that the threshold comes from.
        threshold: of scores and pixels, or None.
        scale: the colours of the pictures.
        files: the inspected image files, and what their pictures are called.
        unreadable: those that cannot be read, and why.
    """

    good: Path
    new: Path
    n_train: int
    n_held_out: int
    threshold: Threshold | None
    scale: ColourScale
    files: Mapping[Path, str]
    unreadable: Mapping[Path, str]

    def shown(self, path: Path) -> str:
        """What to call an image: its path relative to the folder."""
        return printable(path.relative_to(self.new).as_posix())


def write_report(out: Path, report: Report, results: Results) -> None:
    """Put the overlays into place, then write the table and the page, and say how it came out.

    UnreadableImages at the end if an image could not be read.
    """
    images = {path: inspected for path, inspected in _inspected(report, results)}
    summary, facts = _summary(report, images.values()), _facts(report, images.values())
    results.replace_overlays()
    write_text(out / "scores.csv", scores_csv(report, images))
    page = inspection_page(
        f"Inspection of {printable(report.new.resolve().name)}",
        summary,
        facts,
        sorted(images.values(), key=lambda image: -image.score),
        {report.shown(path): printable(why) for path, why in report.unreadable.items()},
        report.scale,
        lambda image: results.thumbnail(
            image.overlay.removeprefix("overlays/").removesuffix(".png")
        ).read_bytes(),
    )
    write_text(out / "index.html", page)
    results.remove()
    print("\n".join([summary, facts[0], printable(str(out / "index.html"))]))
    if report.unreadable:
        raise UnreadableImages(
            f"{len(report.unreadable)} of {len(report.files)} images cannot be read: "
            f"{out / 'scores.csv'} says which."
        )


def _inspected(report: Report, results: Results) -> Iterator[tuple[Path, InspectedImage]]:
    """The images that were scored, in the order of their files."""
    for path, name in report.files.items():
        if path in report.unreadable:
            continue
        row, verdict = results.rows[name], NO_THRESHOLD
        if report.threshold is not None:
            verdict = ANOMALOUS if row["score"] > report.threshold.score else NORMAL
        yield (
            path,
            InspectedImage(
                report.shown(path),
                row["score"],
                row["evidence"],
                verdict,
                f"overlays/{name}.png",
                row["place"],
                row["share"],
            ),
        )


def _summary(report: Report, images: Iterable[InspectedImage]) -> str:
    """How many images have which verdict."""
    verdicts = Counter(image.verdict for image in images)
    verdicts[UNREADABLE] = len(report.unreadable)
    order = (ANOMALOUS, NORMAL, NO_THRESHOLD, UNREADABLE)
    tally = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in order if verdicts[verdict])
    return printable(f"{len(report.files)} images in {report.new}: {tally}.")


def _facts(report: Report, images: Collection[InspectedImage]) -> list[str]:
    """Sentences on where the verdicts come from; the first one on the threshold."""
    total = report.n_train + report.n_held_out
    share = f"all {total}" if not report.n_held_out else f"{report.n_train} of the {total}"
    trained_on = printable(f"The model was made of {share} good images in {report.good}")
    if report.threshold is None:
        return [
            "No threshold: none of the good images was held out for one, so nothing is called "
            f"anomalous. Give at least {ENOUGH} good images.",
            f"{trained_on}.",
        ]
    facts = [
        f"Threshold {report.threshold}.",
        f"{trained_on}, the threshold of the other {report.n_held_out}."
        if report.threshold.count
        else f"{trained_on}.",
    ]
    if spread(report.threshold):
        facts.append(printable(spread(report.threshold)))
    if 2 * sum(image.verdict == ANOMALOUS for image in images) > len(images):
        facts.append(
            "More than half are called anomalous. If they should not be, they were taken otherwise "
            "than the good images (light, sharpness, position): add good images taken as they were."
        )
    return facts


def scores_csv(report: Report, images: Mapping[Path, InspectedImage]) -> str:
    """The CSV text ``file,score,votes,distance,verdict,overlay,problem``, one row a file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "score", *KINDS, "verdict", "overlay", "problem"])
    for path in report.files:
        if path in report.unreadable:
            why = printable(report.unreadable[path])
            writer.writerow([report.shown(path), "", *("" for _ in KINDS), UNREADABLE, "", why])
            continue
        image = images[path]
        kinds = [f"{image.evidence[k]:.8f}" if k in image.evidence else "" for k in KINDS]
        scored = [image.file, f"{image.score:.8f}", *kinds, image.verdict]
        writer.writerow([*scored, printable(image.overlay), ""])
    return text.getvalue()
