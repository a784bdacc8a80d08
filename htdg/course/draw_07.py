"""Reports of notebook 07 on a folder of images: scores, pictures, figures and an HTML page."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from htdg.course.photo import typed_path
from htdg.course.show import Controls
from htdg.detector import HTDGDetector
from htdg.errors import UserError
from htdg.evaluation.overlays import ColourScale, overlay
from htdg.evaluation.plots import (
    ANOMALOUS,
    NORMAL,
    OTHERS,
    PAGE,
    plot_gallery,
    png_bytes,
    show_image,
)
from htdg.io.images import list_images, load_uint8

if TYPE_CHECKING:
    from IPython.display import HTML as Page

#: The most images on a page.
MAX_SHOWN = 12


@dataclass(frozen=True)
class Finding:
    """The result for one image of a folder.

    Attributes:
        name: the image's path relative to the folder.
        score: anomaly score in [0, 1].
        anomalous: whether the score is above the threshold.
        picture: (H, W, 3) uint8, the image overlaid with its map, and the contour.
        rows: (N + 1,) normality at every scale, in [0, M]; (0,) where nothing votes.
    """

    name: str
    score: float
    anomalous: bool
    picture: np.ndarray
    rows: np.ndarray


def findings(detector: HTDGDetector, folder: str | Path) -> list[Finding]:
    """The results of a calibrated detector for every image below a folder, most anomalous first.

    Raises:
        UserError: the folder is missing or holds no image, or an image cannot be read.
    """
    threshold = detector.threshold_
    if threshold is None:
        raise UserError("This detector has no threshold: calibrate it first.")
    paths, _ = list_images(folder)
    if not paths:
        raise UserError(f"{folder} holds no image: name a folder with images in it.")
    report, scale = [], ColourScale.of_threshold(threshold)
    predictions = detector.predictions(paths, (threshold.defect_fraction,), maps=True)
    for path, prediction in zip(paths, predictions, strict=True):
        rows, anomaly_map = prediction.normality[0], prediction.anomaly_map
        assert anomaly_map is not None  # since maps were asked for
        score = float(prediction.scores[0])
        image = load_uint8(path)
        picture = overlay(image, anomaly_map, scale)
        name = path.relative_to(folder).as_posix()
        report.append(Finding(name, score, score > threshold.score, picture, rows))
    return sorted(report, key=lambda finding: -finding.score)


def folder_page(detector: HTDGDetector, folder: str | Path) -> str:
    """The findings on a folder as a piece of HTML, or an error message as one.

    Args:
        detector: trained and calibrated.
        folder: where the images are.
    """
    try:
        report = _findings_in(detector, folder)
    except UserError as error:
        return f"<p>{html.escape(str(error))}</p>"
    parts = [f"<p>{sentence}</p>" for sentence in _summary(detector, report)]
    for finding in report[:MAX_SHOWN]:
        label = "anomalous" if finding.anomalous else "normal"
        name = html.escape(finding.name)
        data = base64.b64encode(png_bytes(finding.picture)).decode("ascii")
        parts.append(
            '<figure style="display:inline-block;margin:4px;font-size:small">'
            f'<img width="120" src="data:image/png;base64,{data}" alt="{name}, {label}">'
            f"<figcaption>{name}<br>{finding.score:.3f} {label}</figcaption></figure>"
        )
    return "\n".join(parts)


def folder_figure(detector: HTDGDetector, folder: str | Path) -> tuple[Figure, str]:
    """What ``folder_page`` says, as a figure and an alternative text, for where no kernel runs."""
    try:
        report = _findings_in(detector, folder)
    except UserError as error:
        figure = Figure(figsize=(PAGE, 0.5), layout="constrained")
        figure.suptitle(str(error), fontsize=9, x=0.01, ha="left", wrap=True)
        return figure, f"A message in the place of findings: {error}"
    figure = draw_findings(report[:MAX_SHOWN], columns=6)
    summary = " ".join(_summary(detector, report))
    figure.suptitle(summary, fontsize=9, x=0.01, ha="left")
    return figure, f"{summary} Each image has its anomaly map laid over it, and its score above."


def _findings_in(detector: HTDGDetector, folder: str | Path) -> list[Finding]:
    """The findings on a folder as somebody types it; UserError as ``findings``."""
    if not str(folder).strip():
        raise UserError("Give the path of a folder that holds images.")
    return findings(detector, typed_path(folder))


def _summary(detector: HTDGDetector, report: Sequence[Finding]) -> list[str]:
    """How many images are above the threshold, and how many are shown: one or two sentences."""
    assert detector.threshold_ is not None  # or ``findings`` had raised an error
    flagged = sum(finding.anomalous for finding in report)
    limit = f"{detector.threshold_.score:.3f}"
    sentences = [f"{flagged} of {len(report)} images score above the threshold of {limit}."]
    if len(report) > MAX_SHOWN:
        sentences.append(f"The {MAX_SHOWN} most anomalous are shown.")
    return sentences


def folder_box(detector: HTDGDetector, folder: str = "") -> Controls | Page:
    """A text field for the path of a folder, and a button that shows the findings below.

    A saved notebook keeps a figure of the findings in ``folder``. Without ipywidgets these
    findings as a page, and what to install, since nothing else in the notebook needs them.
    """
    try:
        from ipywidgets import HTML, Button, HBox, Layout, Text, VBox
    except ModuleNotFoundError:
        from IPython.display import HTML as Page

        advice = "<p>To name a folder here, install ipywidgets: pip install ipywidgets</p>"
        return Page((folder_page(detector, folder) if folder else "") + advice)

    path = Text(
        value=folder,
        description="folder",
        placeholder="path of a folder of images",
        layout=Layout(width="60%"),
    )
    button, page = Button(description="score it"), HTML()

    def score(_clicked: object = None) -> None:
        page.value = "<p>scoring ...</p>"
        page.value = folder_page(detector, path.value)

    button.on_click(score)
    return Controls(VBox([HBox([path, button]), page]), *folder_figure(detector, folder))


def draw_images(rows: Mapping[str, Sequence[np.ndarray]]) -> Figure:
    """Rows of grey or colour images (uint8), with their names above."""
    count = max(len(images) for images in rows.values())
    captioned = {name: [(image, "") for image in images] for name, images in rows.items()}
    return plot_gallery(captioned, count)


def draw_turned(images: Mapping[str, np.ndarray]) -> Figure:
    """Images beside their copies after a quarter turn, counter-clockwise."""
    figure = Figure(figsize=(min(3.4 * len(images), PAGE), 1.8), layout="constrained")
    axes = figure.subplots(1, 2 * len(images))
    for i, (name, image) in enumerate(images.items()):
        show_image(axes[2 * i], image, name)
        show_image(axes[2 * i + 1], np.rot90(image), f"{name}, a quarter turn")
    return figure


def draw_findings(report: Sequence[Finding], columns: int = 8) -> Figure:
    """The pictures of findings; anomalous ones are framed in vermillion and marked "!"."""
    lines = -(-len(report) // columns)
    figure = Figure(figsize=(min(1.3 * columns, PAGE), 1.6 * lines), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for ax, finding in zip(axes, report, strict=False):
        colour = ANOMALOUS if finding.anomalous else NORMAL
        mark = "! " if finding.anomalous else ""
        title = f"{Path(finding.name).stem}\n{mark}{finding.score:.3f}"
        show_image(ax, finding.picture, title, colour)
    for ax in axes[len(report) :]:
        ax.axis("off")
    return figure


def draw_thresholds(
    groups: Mapping[str, Sequence[float]], thresholds: Mapping[str, float]
) -> Figure:
    """The scores of groups as rows of dots, and thresholds as lines.

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
