"""Figures of training, scores, maps and samples, in one style.

Every function returns a new figure and displays nothing by itself. Blue is normal, vermillion
anomalous, from Okabe and Ito's palette, which colour-blind readers can read too; shape or position
always says the same as the colour.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure as MatplotlibFigure
from PIL import Image
from scipy.ndimage import binary_fill_holes

from htdg.evaluation.colours import ANOMALOUS, GREY, NORMAL, OTHERS
from htdg.io.files import write_bytes

#: Width of a notebook's page in inches: a wider figure is shrunk, and its text with it.
PAGE = 8.4
#: Pixels an inch: of PNG files, and of a figure as a notebook shows it.
DPI, SHOWN_DPI = 120, 100


class Figure(MatplotlibFigure):
    """A figure that shows itself in notebooks, and is drawn once for showing and saving.

    Attributes:
        alt: its alternative text, for those who cannot see it.
    """

    alt = ""
    _drawn = b""

    def png(self) -> bytes:
        """The figure as a PNG file, drawn again only after a change that Matplotlib notices.

        It does not notice a change to the text object of an axis label or of the figure's legend
        (it does notice ``ax.set_xlabel``): after such a change set ``figure.stale = True``.
        """
        if self.stale or not self._drawn:
            self._drawn = figure_png(self, DPI)
            self.stale = False  # saving leaves it True
        return self._drawn

    def __repr__(self) -> str:
        """What is shown where pictures are not."""
        return self.alt or super().__repr__()

    def _repr_png_(self) -> tuple[bytes, dict[str, int | str]]:
        described = {"alt": self.alt} if self.alt else {}
        return self.png(), {"width": round(self.get_figwidth() * SHOWN_DPI), **described}


def show_image(ax: Axes, image: np.ndarray, title: str = "", colour: str | None = None) -> None:
    """Draw an image (H, W) or (H, W, 3), uint8, without smoothing, framed in ``colour``."""
    ax.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(title, fontsize=8)
    for spine in ax.spines.values():
        spine.set(color=colour or GREY, linewidth=2.5 if colour else 0.5)


def plot_samples(
    training: np.ndarray, reconstruction: np.ndarray, samples: Sequence[np.ndarray]
) -> Figure:
    """A training image, its reconstruction, and random samples, all uint8 (H, W, 3)."""
    count = 2 + len(samples)
    figure = Figure(figsize=(PAGE / 7 * count, 1.7), layout="constrained")
    axes = figure.subplots(1, count)
    show_image(axes[0], training, "training image")
    show_image(axes[1], reconstruction, "rebuilt from z*")
    for number, (ax, sample) in enumerate(zip(axes[2:], samples, strict=True), start=1):
        show_image(ax, sample, f"random sample {number}")
    return figure


def plot_losses(history: Sequence[Mapping[str, Any]]) -> Figure:
    """The losses of every scale over the iterations, from ``HTDGDetector.history_``."""
    figure = Figure(figsize=(min(2.1 * len(history) + 1, PAGE), 2.6), layout="constrained")
    axes = figure.subplots(1, len(history), sharey=True, squeeze=False)[0]
    lines = (
        ("d_real", "D, real patches", NORMAL, "-"),
        ("d_fake", "D, generated patches", ANOMALOUS, "--"),
        ("g_adversarial", "G, adversarial", OTHERS[0], ":"),
    )
    for n, (ax, scale) in enumerate(zip(axes, history, strict=True)):
        for key, label, colour, style in lines:
            if key not in scale:  # an ablation without a generator
                continue
            iterations = np.arange(1, len(scale[key]) + 1)
            ax.plot(iterations, scale[key], style, color=colour, label=label, linewidth=1.2)
        ax.set_title(f"scale {n}, {scale['side']} px", fontsize=9)
        ax.set_xlabel("iteration")
    axes[0].set_ylabel("cross-entropy (nats)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def plot_histogram(
    labels: Sequence[int] | np.ndarray, scores: Sequence[float] | np.ndarray
) -> Figure:
    """Histograms of the anomaly scores of normal (label 0) and anomalous (label 1) images."""
    labels, scores = np.asarray(labels), np.asarray(scores)
    figure = Figure(figsize=(5.5, 2.8), layout="constrained")
    ax = figure.subplots()
    edges = np.linspace(scores.min(), scores.max(), 25)
    for label, name, colour, hatch in (
        (0, "normal", NORMAL, None),
        (1, "anomalous", ANOMALOUS, "///"),
    ):
        members = scores[labels == label]
        legend = f"{name} ({len(members)} images)"
        ax.hist(members, list(edges), color=colour, alpha=0.55, hatch=hatch, label=legend)
    ax.set_xlabel("anomaly score (0 normal, 1 anomalous)")
    ax.set_ylabel("images")
    ax.set_ylim(0, 1.3 * ax.get_ylim()[1])  # room for the legend above the bars
    ax.legend(frameon=False, loc="upper right")  # loc="best" takes long to compute
    return figure


def plot_roc(labels: Sequence[int] | np.ndarray, scores: Sequence[float] | np.ndarray) -> Figure:
    """The ROC curve: the share of anomalous images detected, over that of false alarms."""
    # Imported here: it takes nearly a second, which whoever draws maps need not wait for.
    from sklearn.metrics import roc_auc_score, roc_curve

    false_positives, true_positives, _ = roc_curve(labels, scores)
    auroc = roc_auc_score(labels, scores)
    figure = Figure(figsize=(4.2, 3.8), layout="constrained")
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1], ":", color=GREY, label="guessing (0.50)")
    label = f"this detector (AUROC {auroc:.3f})"
    ax.plot(false_positives, true_positives, color=NORMAL, label=label)
    ax.set_xlabel("false positive rate (normal images flagged)")
    ax.set_ylabel("true positive rate\n(anomalous images found)")
    ax.set_aspect("equal")
    ax.legend(frameon=False, loc="lower right")
    return figure


def plot_ranking(
    images: Sequence[np.ndarray],
    kinds: Sequence[str],
    labels: Sequence[int] | np.ndarray,
    scores: Sequence[float] | np.ndarray,
    count: int = 8,
) -> Figure:
    """The ``count`` most anomalous images above, the least anomalous below, with their scores.

    Frames show the labels: vermillion and "!" for anomalous images, blue for normal ones. So a blue
    frame in the upper row is a false alarm, and a vermillion one in the lower row a miss.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    rows = (("most anomalous", order[:count]), ("least anomalous", order[::-1][:count]))
    figure = Figure(figsize=(PAGE, 2 * PAGE / count + 0.9), layout="constrained")
    bands = figure.subfigures(2, 1, squeeze=False)[:, 0]
    for (name, chosen), band in zip(rows, bands, strict=True):
        band.suptitle(name, fontsize=9, x=0.01, ha="left")
        for ax, i in zip(band.subplots(1, count, squeeze=False)[0], chosen, strict=False):
            anomalous = labels[i] == 1
            title = f"{'! ' if anomalous else ''}{kinds[i]}\n{scores[i]:.3f}"
            show_image(ax, images[i], title, ANOMALOUS if anomalous else NORMAL)
    return figure


def plot_gallery(groups: Mapping[str, Sequence[tuple[np.ndarray, str]]], count: int) -> Figure:
    """Groups of up to ``count`` images (uint8) with captions: one row a group, its name above."""
    width = min(1.3 * count, PAGE)
    figure = Figure(figsize=(width, 1.6 * len(groups)), layout="constrained")
    bands = figure.subfigures(len(groups), 1, squeeze=False)[:, 0]
    for (name, images), band in zip(groups.items(), bands, strict=True):
        band.suptitle(name, fontsize=9, x=0.01, ha="left")
        for i, ax in enumerate(band.subplots(1, count, squeeze=False)[0]):
            if i < len(images):
                show_image(ax, *images[i])
            else:
                ax.axis("off")
    return figure


def plot_maps(
    images: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    kinds: Sequence[str],
) -> Figure:
    """Images (uint8) above their anomaly maps (H, W) in [0, 1]; masks are outlined in red.

    All maps share one colour scale, from the lowest to the highest value in any of them.
    """
    count = len(images)
    side = min(1.4, (PAGE - 0.9) / count)
    figure = Figure(figsize=(side * count + 0.9, 2 * side + 0.6), layout="constrained")
    axes = figure.subplots(2, count, squeeze=False)
    low, high = min(m.min() for m in maps), max(m.max() for m in maps)
    for i in range(count):
        show_image(axes[0, i], images[i], kinds[i])
        mask = masks[i]
        if mask is not None:
            outline(axes[0, i], mask)
        drawn = axes[1, i].imshow(maps[i], cmap="viridis", vmin=low, vmax=high)
        axes[1, i].set_axis_off()
        axes[1, i].set_title(f"highest {maps[i].max():.2f}", fontsize=8)
    figure.colorbar(drawn, ax=axes[1], label="anomaly (0 to 1)", fraction=0.05)
    return figure


def outline(ax: Axes, mask: np.ndarray, colour: str = "red") -> ContourSet:
    """Draw the outer border of the regions of a mask (H, W) bool; holes in them are left out."""
    # Padded, so that regions at the edge are closed.
    framed = np.pad(binary_fill_holes(mask).astype(float), 1)
    y, x = (np.arange(n) - 1 for n in framed.shape)
    return ax.contour(x, y, framed, [0.5], colors=colour, linewidths=1.2)


def plot_sample_grid(rows: Mapping[str, np.ndarray]) -> Figure:
    """Rows of images (n, H, W, 3) uint8, with the name of the row on the left."""
    count = max(len(images) for images in rows.values())
    height, width = next(iter(rows.values())).shape[1:3]
    figure = Figure(
        figsize=(1.3 * count + 1.6, 1.4 * len(rows) * height / width), layout="constrained"
    )
    axes = figure.subplots(len(rows), count, squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for i, ax in enumerate(line):
            if i < len(images):
                show_image(ax, images[i])
            else:
                ax.axis("off")
        line[0].set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center")
    return figure


def png_bytes(array: np.ndarray) -> bytes:
    """A PNG file of (H, W) or (H, W, 3) uint8, or of (H, W) uint16 with 16 bits."""
    content = io.BytesIO()
    Image.fromarray(array).save(content, format="PNG")
    return content.getvalue()


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file, as ``htdg.io.files.write_bytes`` does."""
    write_bytes(path, figure.png())


def figure_png(figure: MatplotlibFigure, dpi: int) -> bytes:
    """A figure as a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    return content.getvalue()
