"""Figures of notebook 03, training (paper section 3.2), made of plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from htdg.course.live import LINES, Moment
from htdg.evaluation.plots import ANOMALOUS, GREY, NORMAL, show_image

#: Side of the patch that one logit sees.
PATCH = 11


def turned_corner(corner: tuple[int, int], k: int, patches: int) -> tuple[int, int]:
    """The corner of the patch at ``corner`` after k quarter turns of the image, counter-clockwise.

    ``corner`` is (row, column) of its upper left pixel, and also its place in a map of patches x
    patches logits, which turns with the image.
    """
    row, column = corner
    for _ in range(k):
        row, column = patches - 1 - column, row
    return row, column


def questions_figure(
    copies: np.ndarray,
    corners: Sequence[tuple[int, int]],
    probabilities: np.ndarray,
    names: Sequence[str],
) -> Figure:
    """Transformed copies with one patch framed, above D's probabilities for that patch.

    Args:
        copies: (M, H, W, 3) uint8, the image under T_1 .. T_M.
        corners: upper left corner (row, column) of the patch in every copy.
        probabilities: (M, M + 1), of the classes for that patch, from D.
        names: of the M + 1 classes.
    """
    count = len(copies)
    figure = Figure(figsize=(1.75 * count + 0.6, 3.6), layout="constrained")
    axes = figure.subplots(2, count, squeeze=False, height_ratios=(1.2, 1), sharey="row")
    for m in range(count):
        show_image(axes[0, m], copies[m], f"copy {m + 1}: {names[m]}")
        top, left = corners[m]
        frame = Rectangle((left - 0.5, top - 0.5), PATCH, PATCH, fill=False)
        frame.set(edgecolor=ANOMALOUS, linewidth=2)
        axes[0, m].add_patch(frame)
        colours = [NORMAL if c == m else GREY for c in range(count + 1)]
        hatches = ["///" if c == m else "" for c in range(count + 1)]
        axes[1, m].bar(names, probabilities[m], color=colours, hatch=hatches, edgecolor="white")
        axes[1, m].tick_params(axis="x", labelsize=7, rotation=60)
        axes[1, m].tick_params(axis="y", labelsize=8)
    axes[1, 0].set_ylim(0, 1)
    axes[1, 0].set_ylabel("probability")
    return figure


def losses_figure(history: Mapping[str, np.ndarray], n_transformations: int) -> Figure:
    """The losses of one scale: cross-entropies on the left, reconstruction on the right."""
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
    iterations = np.arange(1, len(history["d_real"]) + 1)
    for key, label, colour, style in LINES:
        left.plot(iterations, history[key], style, color=colour, label=label)
    clueless = np.log(n_transformations + 1)
    left.axhline(clueless, color=GREY, linewidth=0.8)
    left.text(iterations[-1], clueless, f"log {n_transformations + 1}", ha="right", va="bottom")
    left.set_xlabel("iteration")
    left.set_ylabel("cross-entropy (nats)")
    left.set_ylim(bottom=0)
    left.legend(frameon=False, fontsize=8)
    right.semilogy(iterations, history["g_reconstruction"], color=GREY)
    right.set_xlabel("iteration")
    right.set_ylabel("reconstruction, mean\nsquared error (logarithmic)")
    return figure


def row_figure(images: Sequence[np.ndarray], titles: Sequence[str]) -> Figure:
    """Images (uint8) side by side, with their titles."""
    figure = Figure(figsize=(1.55 * len(images), 1.8), layout="constrained")
    axes = figure.subplots(1, len(images), squeeze=False)[0]
    for ax, image, title in zip(axes, images, titles, strict=True):
        show_image(ax, image, title)
    return figure


def missing_figure(
    real: np.ndarray, rebuilt: np.ndarray, missing: np.ndarray, sigma: float
) -> Figure:
    """The difference between a scale's image and the reconstruction from the coarser scales.

    Args:
        real: (H, W, 3) uint8, the training image at the scale.
        rebuilt: the same of the reconstruction upsampled to it.
        missing: (H, W) the absolute difference, mean over colours, of values in [-1, 1].
        sigma: the amplitude of the noise that follows.
    """
    figure = Figure(figsize=(6.8, 2.3), layout="constrained")
    axes = figure.subplots(1, 3)
    show_image(axes[0], real, "training image")
    show_image(axes[1], rebuilt, "reconstruction, upsampled")
    shown = axes[2].imshow(missing, cmap="viridis", vmin=0, interpolation="nearest")
    axes[2].set_title(f"mean {missing.mean():.3f}, so sigma = {sigma:.4f}", fontsize=8)
    axes[2].set_xticks([])
    axes[2].set_yticks([])
    bar = figure.colorbar(shown, ax=axes[2], label="absolute difference", shrink=0.9)
    bar.ax.tick_params(labelsize=8)
    return figure


def growth_figure(moments: Sequence[Moment]) -> Figure:
    """The sample of the scale in training at every moment: a row for each scale."""
    rows: dict[int, list[Moment]] = {}
    for moment in moments:
        rows.setdefault(moment.scale, []).append(moment)
    count = max(len(row) for row in rows.values())
    figure = Figure(figsize=(1.2 * count + 0.7, 1.45 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), count, squeeze=False)
    for line, (scale, row) in zip(axes, rows.items(), strict=True):
        for ax in line[len(row) :]:
            ax.axis("off")
        for ax, moment in zip(line, row, strict=False):
            show_image(ax, moment.samples[-1], f"iteration {moment.iteration}")
        line[0].set_ylabel(f"scale {scale}", fontsize=8)
    return figure


def confusion_matrix(named: np.ndarray, true: np.ndarray, classes: int) -> np.ndarray:
    """The confusion matrix: row t holds the shares of the patches of class t that D names so.

    Args:
        named: the class that D gives to every patch, any shape.
        true: the true class of the patch, the same shape.
        classes: number of classes; one without patches has a row of zeros.

    Returns:
        (classes, classes), in [0, 1].
    """
    counts = np.zeros((classes, classes))
    np.add.at(counts, (true.ravel(), named.ravel()), 1)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def confusion_figure(matrices: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Confusion matrices side by side, with their titles; rows are the true classes.

    A matrix with fewer classes than names is about the first ones.
    """
    figure = Figure(figsize=(2.5 * len(matrices) + 0.9, 3.4), layout="constrained")
    axes = figure.subplots(1, len(matrices), squeeze=False)[0]
    for ax, (title, matrix) in zip(axes, matrices.items(), strict=True):
        _draw_matrix(ax, matrix, names)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("D says")
    axes[0].set_ylabel("truly")
    figure.align_xlabels(axes)
    return figure


def _draw_matrix(ax: Axes, matrix: np.ndarray, names: Sequence[str]) -> None:
    rows, columns = matrix.shape
    ax.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
    ax.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5))  # boxes of one size
    ax.spines[:].set_visible(False)
    ax.set_yticks(range(rows), names[:rows], fontsize=8)
    # The labels of a smaller matrix belong below its last row, not below the empty place.
    ax.spines.bottom.set_position(("data", rows - 0.5))
    ax.set_xticks(range(columns), names[:columns], fontsize=8, rotation=60)
    for i in range(rows):
        for j in range(columns):
            colour = "white" if matrix[i, j] > 0.5 else "black"
            ax.text(j, i, f"{100 * matrix[i, j]:.0f}", ha="center", va="center", color=colour)
            ax.texts[-1].set_fontsize(8)
