"""What notebook 07 shows: reports on a folder of images, as numbers, pictures and a page."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from htdg.detector import HTDGDetector
from htdg.errors import UserError
from htdg.evaluation.plots import (
    ANOMALOUS,
    NORMAL,
    OTHERS,
    PAGE,
    overlay,
    plot_gallery,
    png_bytes,
    show_image,
)
from htdg.io.images import list_images, load_image, to_uint8

#: A page shows so many images at most, the oddest first.
SHOWN = 12


@dataclass(frozen=True)
class Finding:
    """What the detector says about one image.

    Attributes:
        name: the image's path, seen from its folder.
        score: anomaly score in [0, 1].
        anomalous: whether that is above the threshold.
        picture: (H, W, 3) uint8, the image with its map laid over it and the contour.
        rows: (N + 1,) normality at each scale.
    """

    name: str
    score: float
    anomalous: bool
    picture: np.ndarray
    rows: np.ndarray


def findings(detector: HTDGDetector, folder: str | Path) -> list[Finding]:
    """What a calibrated detector says about every image below a folder, the oddest first.

    Raises:
        UserError: the folder is missing or holds no image, or an image cannot be read.
    """
    threshold = detector.threshold
    if threshold is None:
        raise UserError("This detector has no threshold: calibrate it first.")
    paths, _ = list_images(folder)
    if not paths:
        raise UserError(f"{folder} holds no image: name a folder with images in it.")
    found = []
    verdicts = detector.judge(paths, (threshold.defect_fraction,), maps=True)
    for path, verdict in zip(paths, verdicts, strict=True):
        rows = verdict.normality[0]
        score = float(1 - rows.mean() / len(detector.transformations))
        image = to_uint8(load_image(path)[None])[0]
        picture = overlay(image, verdict.anomaly_map, threshold.pixel)
        name = path.relative_to(folder).as_posix()
        found.append(Finding(name, score, score > threshold.score, picture, rows))
    return sorted(found, key=lambda finding: -finding.score)


def folder_page(detector: HTDGDetector, folder: str | Path) -> str:
    """The findings on a folder as a piece of HTML; what is wrong with the folder, if something is.

    Args:
        detector: trained and calibrated.
        folder: where the images are.
    """
    try:
        if not str(folder).strip():
            raise UserError("Give the path of a folder that holds images.")
        found = findings(detector, Path(folder).expanduser())
    except UserError as error:
        return f"<p>{html.escape(str(error))}</p>"
    flagged = sum(finding.anomalous for finding in found)
    limit = f"{detector.threshold.score:.3f}"
    parts = [f"<p>{flagged} of {len(found)} images score above the threshold of {limit}.</p>"]
    if len(found) > SHOWN:
        parts.append(f"<p>The {SHOWN} oddest are shown.</p>")
    for finding in found[:SHOWN]:
        verdict = "anomalous" if finding.anomalous else "normal"
        name = html.escape(finding.name)
        data = base64.b64encode(png_bytes(finding.picture)).decode("ascii")
        parts.append(
            '<figure style="display:inline-block;margin:4px;font-size:small">'
            f'<img width="120" src="data:image/png;base64,{data}" alt="{name}, {verdict}">'
            f"<figcaption>{name}<br>{finding.score:.3f} {verdict}</figcaption></figure>"
        )
    return "\n".join(parts)


def folder_box(detector: HTDGDetector, folder: str = "") -> Any:  # noqa: ANN401
    """A text field for the path of a folder, and a button that shows the findings below."""
    from ipywidgets import HTML, Button, HBox, Layout, Text, VBox

    place = Text(
        value=folder,
        description="folder",
        placeholder="path of a folder of images",
        layout=Layout(width="60%"),
    )
    button, page = Button(description="score it"), HTML()

    def score(_clicked: object = None) -> None:
        page.value = "<p>scoring ...</p>"
        page.value = folder_page(detector, place.value)

    button.on_click(score)
    return VBox([HBox([place, button]), page])


def draw_images(rows: Mapping[str, Sequence[np.ndarray]]) -> Figure:
    """Rows of grey or colour images (uint8), each with its name above."""
    count = max(len(images) for images in rows.values())
    bare = {name: [(image, "") for image in images] for name, images in rows.items()}
    return plot_gallery(bare, count)


def draw_turned(images: Mapping[str, np.ndarray]) -> Figure:
    """Each image beside itself after a quarter turn, counter-clockwise; one pair a column."""
    figure = Figure(figsize=(min(3.4 * len(images), PAGE), 1.8), layout="constrained")
    axes = figure.subplots(1, 2 * len(images))
    for i, (name, image) in enumerate(images.items()):
        show_image(axes[2 * i], image, name)
        show_image(axes[2 * i + 1], np.rot90(image), f"{name}, a quarter turn")
    return figure


def draw_findings(found: Sequence[Finding], columns: int = 8) -> Figure:
    """The pictures of findings, framed in vermillion and marked "!" where called anomalous."""
    lines = -(-len(found) // columns)
    figure = Figure(figsize=(min(1.3 * columns, PAGE), 1.6 * lines), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for ax, finding in zip(axes, found, strict=False):
        colour = ANOMALOUS if finding.anomalous else NORMAL
        mark = "! " if finding.anomalous else ""
        title = f"{Path(finding.name).stem}\n{mark}{finding.score:.3f}"
        show_image(ax, finding.picture, title, colour)
    for ax in axes[len(found) :]:
        ax.axis("off")
    return figure


def draw_thresholds(
    groups: Mapping[str, Sequence[float]], thresholds: Mapping[str, float]
) -> Figure:
    """A row of dots for each group of scores, and a line for each threshold.

    Args:
        groups: the anomaly scores of a group by its name; the first two are normal images, the
            others anomalous.
        thresholds: anomaly scores by name.
    """
    figure = Figure(figsize=(7.5, 0.7 * len(groups) + 1.5), layout="constrained")
    ax = figure.subplots()
    for row, scores in enumerate(groups.values()):
        normal = row < 2
        jitter = np.linspace(-0.22, 0.22, 7)[np.arange(len(scores)) % 7]
        colour, marker = (NORMAL, "o") if normal else (ANOMALOUS, "x")
        ax.plot(scores, row + jitter, marker, color=colour, markersize=4, alpha=0.8)
    styles = ("-", "--", ":", "-.")
    colours = ("black", OTHERS[0], OTHERS[1], "black")
    for (name, value), style, colour in zip(thresholds.items(), styles, colours, strict=False):
        ax.axvline(value, linestyle=style, color=colour, linewidth=1.5, label=name)
    ax.set_yticks(range(len(groups)), [f"{n} ({len(s)})" for n, s in groups.items()])
    ax.set_ylim(len(groups) - 0.5, -0.5)
    ax.set_xlabel("anomaly score (0 normal, 1 anomalous)")
    figure.legend(loc="outside upper center", ncols=2, fontsize=8, title="threshold from")
    return figure
