"""Figures of notebook 04, from votes to a score (paper section 3.2), made of plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from sklearn.metrics import roc_auc_score

from htdg.course.vote_maps import show_patches
from htdg.evaluation.plots import ANOMALOUS, GREY, NORMAL, outline, show_image

#: Side of a patch in pixels: the receptive field of the discriminator.
FIELD = 11
#: Labels of the votes under the four turns.
TURNS = ("0°", "90°", "180°", "270°")
#: Colours of the map of a wall with a placed defect, and the axis of its score.
MAP_RANGE, SCORE_RANGE = (0.3, 0.9), (0.77, 1.01)


def patch_at(down: float, across: float, h: int) -> tuple[int, int]:
    """Row and column of a patch: ``down`` and ``across`` run from 0 (top, left) to 1."""
    return round(down * (h - 1)), round(across * (h - 1))


def frame_patch(ax: Axes, row: float, column: float, colour: str = ANOMALOUS) -> None:
    """Draw the border of the patch with this upper left pixel."""
    corner = (column - 0.5, row - 0.5)  # imshow puts the centre of the first pixel at 0
    for line, shade in ((3.2, "white"), (1.6, colour)):
        ax.add_patch(Rectangle(corner, FIELD, FIELD, fill=False, edgecolor=shade, linewidth=line))


def write_numbers(ax: Axes, table: np.ndarray, decimals: int, shown: AxesImage) -> None:
    """Write its value into every cell of a heat map, white on dark colours."""
    for (row, column), value in np.ndenumerate(table):
        red, green, blue, _ = shown.cmap(shown.norm(value))
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        ax.text(
            column,
            row,
            f"{value:.{decimals}f}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if dark else "black",
        )


def frame_cells(ax: Axes, cells: Sequence[tuple[int, int]], colour: str = ANOMALOUS) -> None:
    """Draw the borders of some cells (row, column) of a heat map."""
    for row, column in cells:
        corner = (column - 0.5, row - 0.5)
        ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=colour, linewidth=2.4))


def name_axes(ax: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Name the rows and columns of a heat map."""
    ax.set_xticks(range(len(columns)), columns, fontsize=8)
    ax.set_yticks(range(len(rows)), rows, fontsize=8)
    ax.tick_params(length=0)


def draw_logits(
    image: np.ndarray,
    row: int,
    column: int,
    patches: np.ndarray,
    logits: np.ndarray,
    probabilities: np.ndarray,
) -> Figure:
    """One patch, its turned copies, their logits, and the softmax over the first M classes.

    Args:
        image: (H, W, 3) uint8, with the patch at ``row`` and ``column``.
        row: of its upper left pixel.
        column: of its upper left pixel.
        patches: (M, 11, 11, 3) uint8, the turned copies.
        logits: (M, M + 1), one row a copy; the last column is the class "generated".
        probabilities: (M, M); the votes are on the diagonal and framed.
    """
    m = len(patches)
    figure = Figure(figsize=(8.8, 2.8), layout="constrained")
    grid = figure.add_gridspec(m, 4, width_ratios=(3, 0.8, 3.4, 2.6))
    ax = figure.add_subplot(grid[:, 0])
    show_image(ax, image, "a normal image and one patch")
    frame_patch(ax, row, column)
    for k in range(m):
        ax = figure.add_subplot(grid[k, 1])
        show_image(ax, patches[k], "turned by" if k == 0 else "")
        ax.set_ylabel(TURNS[k], rotation=0, ha="right", va="center", fontsize=8)
    ax = figure.add_subplot(grid[:, 2])
    limit = np.abs(logits).max()
    shown = ax.imshow(logits, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto")
    write_numbers(ax, logits, 1, shown)
    name_axes(ax, TURNS[:m], (*TURNS[:m], "generated"))
    ax.set_title("logits", fontsize=9)
    ax.set_xlabel("class", fontsize=8)
    ax = figure.add_subplot(grid[:, 3])
    shown = ax.imshow(probabilities, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    write_numbers(ax, probabilities, 2, shown)
    name_axes(ax, TURNS[:m], TURNS[:m])
    frame_cells(ax, [(k, k) for k in range(m)])
    ax.set_title("softmax over the first four", fontsize=9)
    ax.set_xlabel("class", fontsize=8)
    return figure


def draw_confusions(tables: Mapping[str, np.ndarray]) -> Figure:
    """Mean probabilities (M, M) by name: rows are the true turns, columns the classes."""
    figure = Figure(figsize=(2.8 * len(tables) + 0.8, 2.9), layout="constrained")
    axes = figure.subplots(1, len(tables), squeeze=False)[0]
    for ax, (name, table) in zip(axes, tables.items(), strict=True):
        shown = ax.imshow(table, cmap="viridis", vmin=0, vmax=1)
        write_numbers(ax, table, 2, shown)
        name_axes(ax, TURNS[: len(table)], TURNS[: len(table)])
        frame_cells(ax, [(k, k) for k in range(len(table))])
        ax.set_title(name, fontsize=9)
        ax.set_xlabel("class", fontsize=8)
    axes[0].set_ylabel("turned by", fontsize=8)
    figure.colorbar(shown, ax=axes, label="mean probability", fraction=0.04)
    return figure


def draw_vote_maps(
    image: np.ndarray,
    copies: np.ndarray,
    maps: np.ndarray,
    located: np.ndarray,
) -> Figure:
    """Turned copies, their votes, the votes turned back, and the mean of these beside the image.

    Votes lie where their patches have their centres, so that places line up with the images above.

    Args:
        image: (H, H, 3) uint8.
        copies: (M, H, H, 3) uint8.
        maps: (M, h, h) the votes in the coordinates of the copies.
        located: (M, h, h) the same in image coordinates.
    """
    m, side, h = len(copies), len(image), maps.shape[-1]
    border = (side - h) / 2
    colours: dict[str, Any] = {"cmap": "viridis", "vmin": 0, "vmax": 1}
    figure = Figure(figsize=(1.55 * (m + 1) + 0.9, 4.7), layout="constrained")
    axes = figure.subplots(3, m + 1)
    for k in range(m):
        show_image(axes[0, k], copies[k], f"copy, turned by {TURNS[k]}")
        show_patches(axes[1, k], maps[k], side, **colours)
        axes[1, k].set_title(f"votes, mean {maps[k].mean():.2f}", fontsize=8)
        show_patches(axes[2, k], located[k], side, **colours)
        axes[2, k].set_title("votes, turned back", fontsize=8)
    show_image(axes[0, m], image, "the image")
    corner = (border - 0.5, border - 0.5)
    frame = Rectangle(corner, h, h, fill=False, edgecolor=NORMAL, linewidth=1.6)
    axes[0, m].add_patch(frame)
    axes[1, m].set_axis_off()
    shown = show_patches(axes[2, m], located.mean(0), side, **colours)
    axes[2, m].set_title("their mean", fontsize=8)
    figure.colorbar(shown, ax=axes, label="vote (0 to 1)", fraction=0.03)
    return figure


def draw_patch(
    images: Sequence[np.ndarray],
    votes: Sequence[np.ndarray],
    scale: int,
    down: float,
    across: float,
) -> Figure:
    """One patch framed in its image, enlarged, and its M votes as bars.

    Args:
        images: (H, H, 3) uint8 for every scale.
        votes: (M, h, h) for every scale, in image coordinates.
        scale: number of the scale, 0 is the coarsest.
        down: vertical position of the patch, from 0 (top) to 1.
        across: horizontal position of the patch, from 0 (left) to 1.
    """
    image, of_scale = images[scale], votes[scale]
    m, h = of_scale.shape[:2]
    row, column = patch_at(down, across, h)
    patch_votes = of_scale[:, row, column]
    figure = Figure(figsize=(8.2, 3.1), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.35))
    show_image(left, image, f"scale {scale}: {len(image)} x {len(image)} px")
    frame_patch(left, row, column)
    last = len(image) - 1
    left.set(xticks=(0, last // 2, last), yticks=(0, last // 2, last))
    show_image(middle, image, f"the patch at row {row}, column {column}", ANOMALOUS)
    rows, columns = (row, row + FIELD - 1), (column, column + FIELD - 1)  # first and last pixel
    middle.set(xlim=(columns[0] - 0.5, columns[1] + 0.5), ylim=(rows[1] + 0.5, rows[0] - 0.5))
    middle.set(xticks=columns, yticks=rows)
    for ax in (left, middle):
        ax.set_xlabel("column (px)", fontsize=8)
        ax.set_ylabel("row (px)", fontsize=8)
        ax.tick_params(labelsize=8)
    right.bar(range(m), patch_votes, color=NORMAL, width=0.65)
    for k, vote in enumerate(patch_votes):
        # In the bar where there is no room above it; on white, to be read where lines cross it.
        height, align = (vote + 0.02, "bottom") if vote < 0.9 else (vote - 0.03, "top")
        style: dict[str, Any] = {"ha": "center", "va": align, "fontsize": 8}
        right.text(k, height, f"{vote:.2f}", bbox={"color": "white", "pad": 0.5}, **style)
    mean = patch_votes.mean()
    right.axhline(1 / m, color=GREY, linestyle=":", label=f"no information (1/{m})")
    right.axhline(mean, color=ANOMALOUS, linestyle="--", label=f"mean vote {mean:.2f}")
    right.set_xticks(range(m), TURNS[:m])
    right.set(ylim=(0, 1), yticks=np.arange(0, 1.01, 0.25), xlabel="copy turned by")
    right.set_ylabel("vote (0 to 1)")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def draw_lowest(
    means: np.ndarray, labels: np.ndarray, fractions: Sequence[float], aurocs: Sequence[float]
) -> Figure:
    """Means of the lowest votes, and the AUROC, over the share of the votes that counts.

    Args:
        means: (F, B), the mean of the lowest votes for every fraction and image, in [0, 1].
        labels: (B,) 0 normal, 1 anomalous.
        fractions: F of them, in (0, 1].
        aurocs: (F,), of the fractions.
    """
    labels, per_cent = np.asarray(labels), 100 * np.asarray(fractions)
    figure = Figure(figsize=(8.4, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    for label, name, colour, style, hatch in (
        (0, "normal images", NORMAL, "o-", None),
        (1, "anomalous images", ANOMALOUS, "s--", "///"),
    ):
        members = means[:, labels == label]
        low, middle, high = np.quantile(members, (0.25, 0.5, 0.75), axis=1)
        left.fill_between(per_cent, low, high, color=colour, alpha=0.2, hatch=hatch, linewidth=0)
        left.plot(per_cent, middle, style, color=colour, markersize=4, label=name)
    left.set_ylabel("mean of the lowest votes")
    left.legend(frameon=False, fontsize=8, loc="upper left")
    right.plot(per_cent, aurocs, "o-", color="black", markersize=4)
    right.axhline(0.5, color=GREY, linestyle=":", label="guessing")
    right.set(ylabel="AUROC", ylim=(0.4, 1))
    right.legend(frameon=False, fontsize=8, loc="lower left")
    for ax in (left, right):
        ax.set_xscale("log")
        ax.set_xticks(per_cent, [f"{p:g}" for p in per_cent])
        ax.minorticks_off()
        ax.set_xlabel("share of the votes that count (%)")
    return figure


def rates(labels: np.ndarray, scores: np.ndarray, threshold: float) -> tuple[float, float]:
    """False and true positive rate if images that score at least ``threshold`` are flagged."""
    labels, flagged = np.asarray(labels), np.asarray(scores) >= threshold
    return float(flagged[labels == 0].mean()), float(flagged[labels == 1].mean())


def draw_threshold(labels: np.ndarray, scores: np.ndarray, threshold: float) -> Figure:
    """All scores with a threshold, and the point of the ROC curve that belongs to it."""
    labels, scores = np.asarray(labels), np.asarray(scores)
    figure = Figure(figsize=(8.2, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    rng = np.random.default_rng(0)
    left.axvspan(threshold, 2, color=GREY, alpha=0.15, linewidth=0)
    left.axvline(threshold, color="black", linewidth=1)
    rows = ((0, "normal", NORMAL, "o"), (1, "anomalous", ANOMALOUS, "^"))
    tick_labels = []
    for label, name, colour, marker in rows:
        members = scores[labels == label]
        heights = label + rng.uniform(-0.22, 0.22, len(members))
        left.plot(members, heights, marker, color=colour, markersize=5, alpha=0.8)
        flagged = int((members >= threshold).sum())
        tick_labels.append(f"{name}:\n{flagged} of {len(members)}\nflagged")
    margin = 0.06 * (scores.max() - scores.min())
    left.set(xlim=(scores.min() - margin, scores.max() + margin), ylim=(-0.45, 1.45))
    left.set_yticks((0, 1), tick_labels, fontsize=9)
    left.tick_params(axis="y", length=0)
    left.set_xlabel("anomaly score (grey: flagged)")
    limits = [np.inf, *np.unique(scores)[::-1]]
    curve = np.array([rates(labels, scores, limit) for limit in limits])
    x, y = rates(labels, scores, threshold)
    right.plot((0, 1), (0, 1), ":", color=GREY, label="guessing")
    right.plot(*curve.T, color=NORMAL, label="all thresholds")
    right.plot(x, y, "D", color="black", markersize=7, label="this threshold")
    right.set_aspect("equal")
    right.set_xlabel(f"false positive rate, here {x:.2f}")
    right.set_ylabel(f"true positive rate, here {y:.2f}")
    right.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def outcomes(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Every anomalous image (a row, highest score first) against every normal one (a column).

    1 where the anomalous image scores higher, 1/2 for a tie, 0 where it scores lower.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    anomalous, normal = (np.sort(scores[labels == label])[::-1] for label in (1, 0))
    difference = anomalous[:, None] - normal[None, :]
    return np.where(difference == 0, 0.5, difference > 0)


def draw_pairs(labels: np.ndarray, scores: np.ndarray) -> Figure:
    """All pairs of an anomalous and a normal image, blue where the anomalous one scores higher."""
    won = outcomes(labels, scores)
    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    ax = figure.subplots()
    colours = ListedColormap([ANOMALOUS, "white", NORMAL])
    ax.pcolormesh(won, cmap=colours, vmin=0, vmax=1, edgecolor="white", linewidth=0.3, alpha=0.8)
    lost = np.argwhere(won == 0)
    ax.plot(lost[:, 1] + 0.5, lost[:, 0] + 0.5, "x", color="white", markersize=4)
    ax.set_xlabel(f"{won.shape[1]} normal images, highest score first")
    ax.set_ylabel(f"{won.shape[0]} anomalous images, highest score at the bottom")
    ax.set(xticks=[], yticks=[])
    share = won.mean()
    ax.set_title(f"{won.size} pairs, {100 * share:.1f} % of the area is blue", fontsize=9)
    return figure


def draw_aurocs(
    tables: Mapping[str, tuple[np.ndarray, Sequence[str], Sequence[str], str]],
) -> Figure:
    """Heat maps of AUROCs by title, with names of rows and columns and a label of the columns.

    The last row and the last column are about all together, and set apart by a line.
    """
    figure = Figure(figsize=(4.1 * len(tables) + 0.6, 2.9), layout="constrained")
    axes = figure.subplots(1, len(tables), squeeze=False)[0]
    for ax, (title, (table, rows, columns, label)) in zip(axes, tables.items(), strict=True):
        shown = ax.imshow(table, cmap="PuOr", vmin=0, vmax=1, aspect="auto")
        write_numbers(ax, table, 2, shown)
        name_axes(ax, rows, columns)
        ax.axhline(len(rows) - 1.5, color="black", linewidth=1.5)
        ax.axvline(len(columns) - 1.5, color="black", linewidth=1.5)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel(label, fontsize=8)
    figure.colorbar(shown, ax=axes, label="AUROC (0.5: guessing)", fraction=0.04)
    return figure


def auroc_against_good(scores: np.ndarray, kinds: Sequence[str], kind: str) -> float:
    """The AUROC of one kind of anomaly against the good images only."""
    chosen = np.array([k in ("good", kind) for k in kinds])
    labels = np.array([k == kind for k in kinds])
    return float(roc_auc_score(labels[chosen], np.asarray(scores)[chosen]))


class PlacedFigure:
    """A wall with a defect, its anomaly map, and its score among those of normal walls.

    The axes are made once, and only what they show is changed: that takes half the time, and a
    slider waits for it. Colours and axes never change, so that what moves is the defect's doing.
    """

    def __init__(self, normal: np.ndarray, side: int) -> None:
        """For walls of ``side`` pixels; ``normal`` are the anomaly scores (B,) of normal ones."""
        self._normal = np.asarray(normal)
        self._figure = figure = Figure(figsize=(8.4, 2.9))
        bottom, height = 0.17, 0.7  # a computed layout would take as long as all the rest
        left, self._middle, self._right = (
            figure.add_axes((x, bottom, 0.24, height)) for x in (0.06, 0.35, 0.74)
        )
        empty = np.zeros((side, side))
        self._wall = left.imshow(empty, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        low, high = MAP_RANGE
        self._map = self._middle.imshow(empty, cmap="viridis", vmin=low, vmax=high)
        (self._highest,) = self._middle.plot([], [], "x", color="black", clip_on=False)
        for ax, title in ((left, "the wall"), (self._middle, "anomaly map, x: highest")):
            ax.set_title(title, fontsize=9)
            ax.set(xticks=(0, side // 2, side - 1), xlabel="across (px)")
            ax.set_yticks((0, side // 2, side - 1))
            ax.set_autoscale_on(False)  # an outline at the edge would widen the axes
        left.set_ylabel("down (px)")
        place = figure.add_axes((0.605, bottom, 0.014, height))
        bar = figure.colorbar(self._map, cax=place, ticks=MAP_RANGE, extend="both")
        bar.set_label("anomaly (0 to 1)", fontsize=8, labelpad=-8)
        heights = np.random.default_rng(0).uniform(-0.3, 0.3, len(self._normal))
        self._right.plot(self._normal, heights, "o", color=NORMAL, markersize=4, alpha=0.7)
        (self._score,) = self._right.plot([], [], "^", color=ANOMALOUS, markersize=9)
        self._line = self._right.axvline(0, color=ANOMALOUS, linewidth=1)
        self._right.set(ylim=(-0.6, 1.5), xlim=SCORE_RANGE, xlabel="anomaly score")
        self._right.set_xticks((0.8, 0.9, 1))
        self._right.set_yticks((0, 1), ("normal\nwalls", "this\nwall"), fontsize=8)
        self._outline: ContourSet | None = None

    def draw(
        self, image: np.ndarray, mask: np.ndarray, anomaly_map: np.ndarray, score: float
    ) -> Figure:
        """The figure of one wall; the next call changes it.

        Args:
            image: (H, H) uint8.
            mask: (H, H) bool, outlined in the map.
            anomaly_map: (H, H) in [0, 1].
            score: the anomaly score of the image, in [0, 1].
        """
        self._wall.set_data(image)
        self._map.set_data(anomaly_map)
        if self._outline is not None:
            self._outline.remove()
        self._outline = outline(self._middle, mask) if mask.any() else None
        row, column = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
        self._highest.set_data([column], [row])
        self._score.set_data([score], [1])
        self._line.set_xdata([score, score])
        above = int((score > self._normal).sum())
        title = f"score {score:.3f}: above {above} of {len(self._normal)}"
        self._right.set_title(title, fontsize=9)
        return self._figure
