"""``htdg inspect``: learns from a folder of good parts, and gives a verdict on each new one."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from htdg.commands.common import (
    UsageError,
    add_config_options,
    add_tint,
    check_folder,
    config_from,
    image_files,
    map_names,
    refuse_ignored,
    say_at_chance,
    say_unreadable,
    spread,
)
from htdg.commands.good_images import (
    CANDIDATES,
    ENOUGH,
    SHOTS,
    Division,
    divide,
    number_that_train,
    readable,
    sentence_on_division,
)
from htdg.commands.held_out import SAME_IMAGES, without_copies
from htdg.commands.kept import file_state, hash_of, json_lines
from htdg.commands.maps import tint_of
from htdg.config import HTDGConfig
from htdg.detector import HTDGDetector, fit_or_go_on
from htdg.errors import UnreadableImages
from htdg.evaluation.inspection_page import (
    ANOMALOUS,
    LARGEST_OVERLAY,
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
from htdg.io.folders import recover, remove
from htdg.io.images import load_image, load_uint8
from htdg.io.locks import only_one
from htdg.io.model_directory import ModelError, check_replaceable, digest
from htdg.io.problems import ImageError
from htdg.runtime.device import resolve_device
from htdg.runtime.progress import say
from htdg.scorer import Prediction
from htdg.thresholds import Threshold, check_rate
from htdg.tiles import squares

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
        help="train on N of the good images, drawn with the seed, a single one for being the most "
        f"typical of up to {CANDIDATES}; others are held out for the threshold (default: half of "
        f"them, at most {SHOTS}; all of fewer than {ENOUGH})",
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
    good = readable(without_copies(good), config.white_level)
    if not good:
        raise UsageError(f"None of the images in {options.good} can be read: give others.")
    count = number_that_train(len(good), options.shots)
    check_folder("--out", options.out)
    with only_one(options.out), only_one(place):
        _inspect(options, config, good, new, count, place)


def _inspect(
    options: argparse.Namespace,
    config: HTDGConfig,
    good: Sequence[Path],
    new: Sequence[Path],
    count: int,
    place: Path,
) -> None:
    """Train on ``count`` of the good images, unless the model is in ``place``, and inspect."""
    division = divide(good, count, config, place, options.good)
    train, held_out = division.train, division.held_out
    say([sentence_on_division(len(good), len(train), len(held_out))])
    say([division.why] if division.why else [])
    detector = trained(config, train, place, options.retrain)
    division.keep(place)
    threshold = None
    if options.threshold is not None:
        threshold = detector.set_threshold(options.threshold, None, DEFECT_FRACTION)
    elif held_out:
        threshold = calibrated(detector, place, held_out, options.false_positive_rate)
        say_at_chance(detector.model_, threshold.mean_vote)
    names = map_names([path.relative_to(options.new) for path in new])
    files = dict(zip(new, names, strict=True))
    scale = ColourScale.of_threshold(threshold, tint_of(options.tint, detector.model_))
    results = Results(options.out, _identity(detector, threshold, scale, new))
    unreadable = inspect_images(detector, scale, files, results)
    report = Report(
        options.good, options.new, len(good), division, threshold, scale, files, unreadable
    )
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


# --- The model ----------------------------------------------------------------------------------


def trained(config: HTDGConfig, train: Sequence[Path], place: Path, retrain: bool) -> HTDGDetector:
    """The model in ``place``, or one trained now and saved there.

    Raises:
        UsageError: the model there was made of other images or options, and not to ``retrain``.
        UserError: it is damaged, or images cannot be trained on.
    """
    unfinished = place.resolve().with_name(f"{place.resolve().name}.unfinished")
    recover(place.resolve())
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
            remove_checkpoint(unfinished)  # if it was stopped while it did
            return detector
        if not retrain:
            raise UsageError(
                f"{place} was made of other {difference}: add --retrain to replace it, or choose "
                "another folder."
            )
    if unfinished.exists():
        print(f"htdg: going on with {unfinished}", file=sys.stderr)
    paths = list(train)
    detector = fit_or_go_on(config, paths, unfinished, retrain)
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
    loaded = (load_image(path, None, config.white_level) for path in train)
    images = torch.cat([squares(image, side, config.tiles) for image in loaded])
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
    basis = hash_of([[file_state(path) for path in held_out], rate, DEFECT_FRACTION])
    path, kept = place / "calibration.json", detector.threshold_
    if kept is not None and path.is_file():
        note = {"basis": basis, "threshold": asdict(kept)}
        if note in json_lines(path):
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
    files = [file_state(path) for path in new]
    return hash_of([options, digest(detector.images_), limits, scale.tint, files, DEFECT_FRACTION])


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
        first, kept = {"identity": identity}, list(json_lines(self.path))
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
            remove(old)
            if place.exists():
                place.rename(old)
            new.rename(place)
        except OSError as error:
            raise OutputError(f"{place} cannot be replaced: {error.strerror}.") from None

    def remove(self) -> None:
        """Delete the folder, once everything in it is elsewhere or of no use."""
        recover(self.folder)
        remove(self.folder)


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
    white = detector.config_.white_level
    to_do = [path for path, name in files.items() if name not in results.rows]
    images, unreadable = ImagesOrGrey(to_do, white_level=white), dict[Path, str]()
    predictions: Iterable[Prediction] = ()
    if to_do:
        predictions = detector.predictions(
            images, DEFECT_FRACTION, True, progress=True, map_size=LARGEST_OVERLAY
        )
    for i, (path, prediction) in enumerate(zip(to_do, predictions, strict=True)):
        if i in images.problems:
            unreadable[path] = images.problems[i]
            continue
        try:
            small, overlay = pictures(path, prediction, scale, white)
            write_bytes(results.thumbnail(files[path]), small)
            write_bytes(results.overlay(files[path]), overlay)
            results.add(_row(files[path], prediction, scale.line))
        except ImageError as error:  # it is gone by now
            unreadable[path] = str(error)
    say_unreadable(unreadable.values())
    return unreadable


def pictures(
    path: Path, prediction: Prediction, scale: ColourScale, white_level: int
) -> tuple[bytes, bytes]:
    """The thumbnail of an image, a JPEG file, and its overlay, a PNG file."""
    image, anomaly_map = load_uint8(path, white_level), prediction.anomaly_map
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
        n_good: how many good images there are.
        division: which of them train, and which are held out.
        threshold: of scores and pixels, or None.
        scale: the colours of the pictures.
        files: the inspected image files, and what their pictures are called.
        unreadable: those that cannot be read, and why.
    """

    good: Path
    new: Path
    n_good: int
    division: Division
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
    n_train, n_held_out = len(report.division.train), len(report.division.held_out)
    share = f"{n_train} of the {report.n_good}" if n_held_out else f"all {report.n_good}"
    trained_on = printable(f"The model was made of {share} good images in {report.good}")
    if report.threshold is None:
        return [
            "No threshold: none of the good images was held out for one, so nothing is called "
            f"anomalous. Give at least {ENOUGH} good images.",
            f"{trained_on}.",
        ]
    facts = [
        f"Threshold {report.threshold}.",
        f"{trained_on}, the threshold of {n_held_out} others."
        if report.threshold.count
        else f"{trained_on}.",
    ]
    if report.division.why:
        facts.append(report.division.why)
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
