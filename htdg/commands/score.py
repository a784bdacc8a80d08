"""``htdg score``."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from htdg.commands.common import (
    UsageError,
    check_folder,
    collect_images,
)
from htdg.detector import HTDGDetector
from htdg.evaluation.overlays import ColourScale, overlay
from htdg.evaluation.plots import png_bytes
from htdg.evaluation.tables import score_table
from htdg.io.files import check_writable, write_bytes, write_text
from htdg.io.images import load_image, read_image, to_uint8
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
    parser.add_argument("--batch-size", type=int, metavar="N", help="images at a time")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--strict", action="store_true", help="refuse files that are no images")
    parser.add_argument(
        "--maps",
        type=Path,
        metavar="DIR",
        help="write anomaly maps there: for each image a 16-bit PNG, and an overlay, all in "
        "one scale of colours, with the contour at the threshold",
    )


def execute(options: argparse.Namespace) -> None:
    """Carry the command out."""
    if options.csv is not None:
        if options.csv.is_dir():
            raise UsageError(f"--csv {options.csv} is a folder: name a file.")
        check_writable(options.csv)
    if options.maps is not None:
        _check_apart(options.maps, options.images)
        check_folder("--maps", options.maps)
    detector = HTDGDetector.load(options.model, device=options.device)
    paths = collect_images(options.images, options.strict, leave_out=options.maps)
    threshold = detector.threshold_
    fraction = options.defect_fraction
    if fraction is None and threshold is not None:
        fraction = threshold.defect_fraction
    predictions = detector.predictions(
        paths, (fraction,), options.maps is not None, options.batch_size, progress=True
    )
    maps = None if options.maps is None else MapWriter(options.maps, known_scale(detector))
    per_scale, scores, contributed = [], [], []
    for path, name, prediction in zip(paths, map_names(paths), predictions, strict=True):
        per_scale.append(prediction.normality[0])
        scores.append(prediction.scores[0])
        contributed.append(prediction.evidence)
        if maps is not None:
            assert prediction.anomaly_map is not None  # since maps were asked for
            maps.write(name, path, prediction.anomaly_map)
    if maps is not None:
        maps.finish()
    rows, anomaly_scores = np.stack(per_scale), np.array(scores)  # (B, N + 1), (B,)
    others = {kind: np.array([e[kind][0] for e in contributed]) for kind in contributed[0]}
    if threshold is not None and _same(threshold.defect_fraction, fraction):
        others["anomalous"] = (anomaly_scores > threshold.score).astype(int)
    m = len(detector.transformations_)
    table = score_table([str(p) for p in paths], None, rows, m, others, anomaly_scores)
    if options.csv is None:
        print(table, end="")
    else:
        write_text(options.csv, table)
        print(options.csv)
    _explain_threshold(options, fraction, threshold)


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


def map_names(paths: Sequence[Path]) -> list[str]:
    """What to call the maps of each image: like the image, with its number if others are, too."""
    count = Counter(path.stem for path in paths)
    names: list[str] = []
    for i, path in enumerate(paths):
        name = path.stem if count[path.stem] == 1 else f"{path.stem}_{i:04d}"
        while name in names or (name != path.stem and name in count):
            name += "_"
        names.append(name)
    return names


def known_scale(detector: HTDGDetector) -> ColourScale | None:
    """The scale of colours that follows from a model, or None if all its maps must be seen first.

    A threshold says what is normal, and so do distances. What votes have there differs from model
    to model.
    """
    if detector.threshold_ is None and detector.config_.evidence == "votes":
        return None
    return ColourScale.of_threshold(detector.threshold_)


class MapWriter:
    """Writes anomaly maps into a folder, and overlays that all have the same scale of colours.

    Attributes:
        folder: where to.
        scale: that of the overlays; None takes it from the maps, so that overlays wait for the
            last of them.
        waiting: name and path of the images whose overlays wait.
        medians, highest: the median and the highest value of the maps of these images.
    """

    def __init__(self, folder: Path, scale: ColourScale | None) -> None:
        """Write into ``folder``, which exists."""
        self.folder, self.scale = folder, scale
        self.waiting: list[tuple[str, Path]] = []
        self.medians: list[float] = []
        self.highest: list[float] = []

    def write(self, name: str, path: Path, anomaly_map: np.ndarray) -> None:
        """Write ``<name>_map.png``, 0 to 65535 for 0 to 1, and the overlay if it need not wait.

        Args:
            name: of the files.
            path: of the image.
            anomaly_map: (H, W) in [0, 1], at the size of the image.
        """
        levels = np.round(anomaly_map * 65535).astype(np.uint16)
        write_bytes(self._map(name), png_bytes(levels))
        if self.scale is not None:
            self._write_overlay(name, path, anomaly_map, self.scale)
            return
        self.waiting.append((name, path))
        self.medians.append(float(np.median(anomaly_map)))
        self.highest.append(float(anomaly_map.max()))

    def finish(self) -> None:
        """Write the overlays that wait; their maps are read again, since all may be too many."""
        if not self.waiting:
            return
        scale = ColourScale.of_maps(self.medians, self.highest)
        for name, path in self.waiting:
            self._write_overlay(name, path, read_image(self._map(name)) / 65535, scale)

    def _map(self, name: str) -> Path:
        return self.folder / f"{name}_map.png"

    def _write_overlay(
        self, name: str, path: Path, anomaly_map: np.ndarray, scale: ColourScale
    ) -> None:
        """``<name>_overlay.png``."""
        image = to_uint8(load_image(path)[None])[0]
        drawn = overlay(image, anomaly_map, scale)
        write_bytes(self.folder / f"{name}_overlay.png", png_bytes(drawn))
