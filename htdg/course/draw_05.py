"""Figures of notebook 05, defect detection (paper sections 3.2 and 3.3), made of plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from sklearn.metrics import roc_auc_score, roc_curve

from htdg.course.vote_maps import show_patches
from htdg.evaluation.overlays import ColourScale, overlay
from htdg.evaluation.pixel_metrics import FPR_LIMIT
from htdg.evaluation.plots import ANOMALOUS, GREY, NORMAL, OTHERS, outline, show_image

#: Colour, line and marker of the kinds of defects.
STYLES = {
    "scratch": (NORMAL, "-", "o"),
    "hole": (ANOMALOUS, "--", "s"),
    "stain": (OTHERS[0], "-.", "^"),
    "patch": (OTHERS[1], ":", "D"),
    "all kinds": ("black", "-", "*"),
}
#: Half a patch: the centre of patch (i, j) is the pixel (i + 5, j + 5).
RADIUS = 5


def draw_defects(
    images: Sequence[np.ndarray], masks: Sequence[np.ndarray | None], kinds: Sequence[str]
) -> Figure:
    """Images (H, W) with their defects outlined, above their masks with the number of pixels."""
    figure = Figure(figsize=(1.35 * len(images), 3.1), layout="constrained")
    axes = figure.subplots(2, len(images), squeeze=False)
    for above, below, image, mask, kind in zip(*axes, images, masks, kinds, strict=True):
        show_image(above, image, kind)
        marked = np.zeros(image.shape, bool) if mask is None else mask
        if marked.any():
            outline(above, marked)
        share = f"{marked.sum()} px, {100 * marked.mean():.1f} %"
        show_image(below, marked * np.uint8(255), share if marked.any() else "no pixel")
    return figure


def draw_fractions(
    fractions: Sequence[float], curves: Mapping[str, Sequence[float]], paper: Mapping[float, float]
) -> Figure:
    """AUROC over the share of the votes that counts: of every kind, and from the paper's Table 7.

    Args:
        fractions: in (0, 1], rising.
        curves: kind of defect -> the AUROCs, in [0, 1], at these fractions.
        paper: per cent of the votes -> AUROC in per cent.
    """
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    per_cent = 100 * np.asarray(fractions)
    # Both have the same axes, which hold every point: an AUROC may be worse than guessing.
    shares = [*per_cent, *paper]
    lowest = min(0.5, *(min(values) for values in curves.values()), min(paper.values()) / 100)
    ticks = [share for share in (0.5, 1, 2, 5, 10, 20, 50, 100) if share <= max(shares)]
    for name, values in curves.items():
        colour, line, marker = STYLES[name]
        width = 2.4 if name == "all kinds" else 1.3
        style = {"color": colour, "marker": marker, "markersize": 4, "linewidth": width}
        left.plot(per_cent, values, line, label=name, **style)
    left.set(ylabel="image AUROC", title="this wall, by kind of defect")
    left.legend(frameon=False, fontsize=8, loc="lower left")
    right.plot(list(paper), np.array(list(paper.values())) / 100, "o-", color="black")
    right.set(ylabel="mean image AUROC", title="paper, Table 7, one image")
    for ax in (left, right):
        ax.title.set_size(9)
        ax.axhline(0.5, color=GREY, linestyle=":", linewidth=1)
        ax.set(xscale="log", xlabel="share of the votes that counts (%, log scale)")
        ax.set(xlim=(0.9 * min(shares), 1.1 * max(shares)), ylim=(lowest - 0.03, 1.03))
        ax.set_xticks(ticks, [f"{share:g}" for share in ticks])
        ax.minorticks_off()
    return figure


def draw_undo(
    image: np.ndarray, copy: np.ndarray, undone: np.ndarray, defined: np.ndarray, votes: np.ndarray
) -> Figure:
    """An image, its copy, the copy brought back, and the patches that have a vote.

    Args:
        image: (H, H); grey values of any range, as in all the other arrays.
        copy: (H, H).
        undone: (H, H), the copy brought back.
        defined: (H, H) bool, where ``undone`` shows the image; the rest is hatched.
        votes: (h, h) bool, the patches that have a vote. They form a rectangle, which is drawn
            around their centres.
    """
    figure = Figure(figsize=(8.6, 2.75), layout="constrained")
    axes = figure.subplots(1, 4)
    low, high = image.min(), image.max()
    names = ("the image", "the copy", "brought back", "where voting patches\nhave their centres")
    for ax, shown, name in zip(axes, (image, copy, undone, image), names, strict=True):
        ax.imshow(shown, cmap="gray", vmin=low, vmax=high)
        ax.set_title(name, fontsize=9)
        ax.set(xticks=[], yticks=[])
    hatch(axes[2], ~defined)
    ys, xs = np.nonzero(votes)
    corner = (xs.min() + RADIUS - 0.5, ys.min() + RADIUS - 0.5)
    size = int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1
    style: dict[str, Any] = {"edgecolor": OTHERS[0], "linewidth": 2}
    axes[3].add_patch(Rectangle(corner, *size, facecolor=(*to_rgb(OTHERS[0]), 0.4), **style))
    return figure


def hatch(ax: Axes, where: np.ndarray) -> None:
    """Draw the smallest rectangle around the True pixels, white and hatched, if there are any."""
    if where.any():
        ys, xs = np.nonzero(where)
        size = int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1
        corner = (xs.min() - 0.5, ys.min() - 0.5)
        style: dict[str, Any] = {"facecolor": "white", "edgecolor": GREY, "hatch": "////"}
        ax.add_patch(Rectangle(corner, *size, **style))


def draw_turns(image: np.ndarray, maps: np.ndarray, located: np.ndarray) -> Figure:
    """Votes of turned copies (above), the same in the coordinates of the image (below), their mean.

    Votes lie where their patches have their centres, so that places line up with the image. The
    colours of the votes run from 0 to 1, those of the mean from its minimum to its maximum.

    Args:
        image: (H, H, 3) uint8.
        maps: (M, h, h) in the coordinates of the copies.
        located: (M, h, h) in those of the image.
    """
    count = len(maps)
    figure = Figure(figsize=(1.45 * (count + 1) + 0.8, 3.3), layout="constrained")
    axes = figure.subplots(2, count + 1)
    for k in range(count):
        for ax, votes, name in ((axes[0, k], maps[k], "copy"), (axes[1, k], located[k], "undone")):
            shown = show_patches(ax, votes, len(image), cmap="viridis", vmin=0, vmax=1)
            ax.set_title(f"turn {90 * k}°, {name}", fontsize=8)
    show_image(axes[0, count], image, "the image")
    mean = located.mean(0)
    show_patches(axes[1, count], mean, len(image), cmap="viridis")
    axes[1, count].set_title(f"mean, {mean.min():.2f} to {mean.max():.2f}", fontsize=8)
    figure.colorbar(shown, ax=axes, label="vote", fraction=0.04)
    return figure


def draw_spread(weights: Mapping[int, np.ndarray]) -> Figure:
    """The weights of one patch's vote in the pixels of the map: side of the scale -> (side, side).

    Scales are drawn equally large, since they show the same image.
    """
    figure = Figure(figsize=(2.6 * len(weights) + 0.9, 2.7), layout="constrained")
    axes = figure.subplots(1, len(weights), squeeze=False)[0]
    highest = max(w.max() for w in weights.values())
    for ax, (side, kernel) in zip(axes, weights.items(), strict=True):
        shown = ax.imshow(kernel, cmap="viridis", vmin=0, vmax=highest)
        ax.set_title(f"scale of {side} px", fontsize=9)
        ax.set(xlabel="column (px)", ylabel="row (px)")
    figure.colorbar(shown, ax=axes, label="weight of the vote", fraction=0.05)
    return figure


def draw_scales(
    image: np.ndarray, mask: np.ndarray, per_scale: Mapping[int, np.ndarray], whole: np.ndarray
) -> Figure:
    """An image with its defect outlined, 1 - votes at each scale (by its side), and their mean."""
    count = len(per_scale) + 2
    figure = Figure(figsize=(1.25 * count + 0.8, 1.7), layout="constrained")
    axes = figure.subplots(1, count)
    show_image(axes[0], image, "image, true defect")
    outline(axes[0], mask)
    maps = {**{f"{side} px": votes for side, votes in per_scale.items()}, "anomaly map": whole}
    low, high = min(m.min() for m in maps.values()), max(m.max() for m in maps.values())
    for ax, (name, votes) in zip(axes[1:], maps.items(), strict=True):
        shown = ax.imshow(votes, cmap="viridis", vmin=low, vmax=high)
        ax.set_title(name, fontsize=8)
        ax.set(xticks=[], yticks=[])
    figure.colorbar(shown, ax=axes[1:], label="1 - mean vote", fraction=0.05)
    return figure


def draw_regions(
    mask: np.ndarray, maps: Mapping[str, np.ndarray], figures: Sequence[str]
) -> Figure:
    """A mask and made-up anomaly maps for it, with their names and a line of ``figures`` above."""
    figure = Figure(figsize=(2.5 * (len(maps) + 1), 3.1), layout="constrained")
    axes = figure.subplots(1, len(maps) + 1)
    show_image(axes[0], mask * np.uint8(255), "the mask:\none large region, five small ones")
    for ax, (name, anomaly_map), line in zip(axes[1:], maps.items(), figures, strict=True):
        ax.imshow(anomaly_map, cmap="viridis", vmin=0, vmax=1)
        outline(ax, mask)
        ax.set_title(f"{name}\n{line}", fontsize=8)
        ax.set(xticks=[], yticks=[])
    return figure


def draw_pixel_curves(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], points: int = 400
) -> Figure:
    """True positive rate and mean region overlap over the false positive rate, for every kind.

    Args:
        curves: kind of defect -> false positive rate, true positive rate, overlap, all rising.
        points: number of points that are drawn of a curve.
    """
    figure = Figure(figsize=(7.4, 3.0), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    grid = np.linspace(0, 1, points)
    for name, (fpr, *both) in curves.items():
        colour, line, _ = STYLES[name]
        for ax, heights in zip(axes, both, strict=True):
            ax.plot(grid, np.interp(grid, fpr, heights), line, color=colour, label=name)
    axes[1].axvspan(FPR_LIMIT, 1, color="0.9")
    axes[1].text(0.7, 0.15, "not looked at", ha="center", color=GREY)
    axes[0].set_ylabel("share of all defect pixels flagged")
    axes[1].set_ylabel("share of a region flagged,\nmean over regions")
    axes[0].legend(frameon=False, fontsize=8, loc="lower right")
    for ax, name in zip(axes, ("pixel ROC", "per-region overlap"), strict=True):
        ax.plot([0, 1], [0, 1], ":", color=GREY, linewidth=1)
        ax.set_xlabel("false positive rate (normal pixels flagged)")
        ax.set_title(name, fontsize=9)
    return figure


def draw_thresholds(groups: Mapping[str, np.ndarray], thresholds: Mapping[str, float]) -> Figure:
    """Scores of groups of images as rows of dots, and thresholds as vertical lines with names."""
    figure = Figure(figsize=(8.2, 0.62 * len(groups) + 1.5), layout="constrained")
    ax = figure.subplots()
    rng = np.random.default_rng(0)
    for row, (name, scores) in enumerate(groups.items()):
        colour, marker = (ANOMALOUS, "x") if "defect" in name else (NORMAL, "o")
        heights = row + rng.uniform(-0.22, 0.22, len(scores))
        ax.plot(scores, heights, marker, color=colour, markersize=4, alpha=0.7)
    for (name, value), line in zip(thresholds.items(), ("-", "--", ":"), strict=False):
        ax.axvline(
            value, color="black", linestyle=line, linewidth=1.3, label=f"{name}: {value:.3f}"
        )
    ax.set_yticks(range(len(groups)), [f"{name} ({len(s)})" for name, s in groups.items()])
    ax.set(xlabel="anomaly score (0 normal, 1 anomalous)", ylim=(len(groups) - 0.5, -0.5))
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, title="thresholds learnt from")
    return figure


def draw_overlays(
    images: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    kinds: Sequence[str],
    threshold: float,
) -> Figure:
    """Grey images (H, W) with maps and thresholds laid over, true defects outlined in blue."""
    figure = Figure(figsize=(1.75 * len(images), 2.1), layout="constrained")
    axes = figure.subplots(1, len(images), squeeze=False)[0]
    scale = ColourScale.of_threshold(threshold)
    for ax, image, anomaly_map, mask, kind in zip(axes, images, maps, masks, kinds, strict=True):
        overlaid = overlay(np.stack([image] * 3, -1), anomaly_map, scale)
        show_image(ax, overlaid, f"{kind}: {(anomaly_map > threshold).sum()} px flagged")
        if mask is not None:
            outline(ax, mask, NORMAL)  # red would be lost on a vermillion overlay
    return figure


def counted(located: np.ndarray, fraction: float) -> np.ndarray:
    """The number of maps (M, h, h) in which a patch is among the lowest votes: (h, h)."""
    flat = located.reshape(len(located), -1)
    count = max(1, int(flat.shape[1] * fraction))
    lowest = np.argpartition(flat, count - 1, axis=1)[:, :count]
    return np.bincount(lowest.ravel(), minlength=flat.shape[1]).reshape(located.shape[1:])


def draw_play(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    kinds: Sequence[str],
    located: np.ndarray,
    scores: Mapping[float, np.ndarray],
    fraction: float,
    number: int,
) -> Figure:
    """One image, the patches whose votes count, all scores, and the ROC curve of a fraction.

    Args:
        images: all test images, (H, W) uint8.
        masks: their masks, (H, W) bool or None.
        kinds: ``"good"``, or the kind of defect.
        located: (B, M, h, h) votes of the finest scale, in image coordinates.
        scores: fraction -> the anomaly scores of the images.
        fraction: of the votes that count.
        number: of the image.
    """
    labels = np.array([int(kind != "good") for kind in kinds])
    values = scores[fraction]
    figure = Figure(figsize=(9.3, 2.7), layout="constrained")
    axes = figure.subplots(1, 4, width_ratios=(1, 1.15, 1.2, 1))
    show_image(axes[0], images[number], f"image {number}: {kinds[number]}")
    mask = masks[number]
    if mask is not None:
        outline(axes[0], mask)
    m, h = located.shape[1:3]
    patches = max(1, int(h * h * fraction))
    counts = counted(located[number], fraction)
    shown = show_patches(axes[1], counts, h + 2 * RADIUS, cmap="viridis", vmin=0, vmax=m)
    axes[1].set_title(
        f"{patches} of {h * h} patches count\nin each turn (finest scale)", fontsize=8
    )
    figure.colorbar(shown, ax=axes[1], label="turns in which it counts", ticks=range(m + 1))
    rng = np.random.default_rng(0)
    heights = labels + rng.uniform(-0.25, 0.25, len(labels))
    for label, colour, marker in ((0, NORMAL, "o"), (1, ANOMALOUS, "x")):
        members = labels == label
        axes[2].plot(
            values[members], heights[members], marker, color=colour, markersize=4, alpha=0.6
        )
    ring = {"markersize": 11, "markerfacecolor": "none", "markeredgecolor": "black"}
    axes[2].plot(values[number], heights[number], "o", **ring)
    axes[2].set_yticks([0, 1], ["normal", "defect"])
    axes[2].set(xlabel="anomaly score", ylim=(1.5, -0.5))
    axes[2].set_title(f"its score (ring): {values[number]:.3f}", fontsize=8)
    fpr, tpr, _ = roc_curve(labels, values)
    axes[3].plot([0, 1], [0, 1], ":", color=GREY)
    axes[3].plot(fpr, tpr, color=NORMAL)
    flagged = values >= values[number]
    axes[3].plot(flagged[labels == 0].mean(), flagged[labels == 1].mean(), "o", **ring)
    axes[3].set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    axes[3].set_title(
        f"{100 * fraction:g} %: AUROC {roc_auc_score(labels, values):.2f}", fontsize=8
    )
    return figure
