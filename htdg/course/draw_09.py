"""Figures of notebook 09, is training worth it, and their statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from htdg.course.draw_06 import LOOKS, bootstrap_aurocs, draw_interval
from htdg.evaluation.plots import ANOMALOUS, GREY, NORMAL, OTHERS, outline, show_image

#: Colour and marker of the kinds of evidence, and of defects.
EVIDENCE = {"votes": (NORMAL, "o"), "distance": (ANOMALOUS, "s"), "both": ("black", "D")}
DEFECTS = {
    "scratch": (NORMAL, "o"),
    "hole": (ANOMALOUS, "s"),
    "stain": (OTHERS[0], "^"),
    "patch": (OTHERS[1], "D"),
}


# --- Statistics ---------------------------------------------------------------------------------


def shares_right(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """For each image the share of the images of the other kind that it is in right order with.

    Of an anomalous image the share of the normal images that score lower, of a normal one the share
    of the anomalous images that score higher; ties count one half. The mean over the images of
    either kind is the AUROC.

    Args:
        labels: (B,) 0 normal, 1 anomalous; there must be both.
        scores: (B,) anomaly scores.

    Returns:
        (B,) in [0, 1].
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    good, odd = scores[labels == 0], scores[labels == 1]
    right = (odd[None] > good[:, None]) + 0.5 * (odd[None] == good[:, None])  # (normal, anomalous)
    shares = np.empty(len(labels))
    shares[labels == 0], shares[labels == 1] = right.mean(1), right.mean(0)
    return shares


def paired_interval(
    one: Sequence[float] | np.ndarray, other: Sequence[float] | np.ndarray
) -> tuple[float, float, float]:
    """Mean of ``one`` less ``other`` over draws, and the ends of its 95 % interval (Student's t).

    Args:
        one: (n,) figures of the draws, n at least 2.
        other: (n,) those of the other method on the same draws.
    """
    gap = np.asarray(one, dtype=float) - np.asarray(other, dtype=float)
    half = stats.t.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / math.sqrt(len(gap))
    return float(gap.mean()), float(gap.mean() - half), float(gap.mean() + half)


def verdict(low: float, high: float, first: str, second: str) -> str:
    """What the interval of ``first`` less ``second`` says: which is better, or neither."""
    if low > 0:
        return f"{first} better than {second}"
    if high < 0:
        return f"{second} better than {first}"
    return "may be chance"


def bootstrap_differences(
    labels: np.ndarray, one: np.ndarray, other: np.ndarray, repeats: int = 2000, seed: int = 0
) -> np.ndarray:
    """AUROC of ``one`` less that of ``other`` on test sets drawn with replacement: (repeats,).

    Both are judged by the same drawn images. A drawn test set has as many normal and as many
    anomalous images as the real one.

    Args:
        labels: (B,) 0 normal, 1 anomalous.
        one: (B,) anomaly scores.
        other: (B,) anomaly scores of the same images.
        repeats: number of test sets to draw.
        seed: of the draws.
    """
    # Which images are drawn depends on the seed and their numbers alone.
    first, second = (bootstrap_aurocs(labels, scores, repeats, seed) for scores in (one, other))
    return first - second


# --- The nearest patch --------------------------------------------------------------------------


def draw_stages(image: np.ndarray, mask: np.ndarray, stages: Mapping[str, np.ndarray]) -> Figure:
    """An image (H, W) uint8 with its defect outlined, and maps, each with colours of its own."""
    count = len(stages) + 1
    figure = Figure(figsize=(1.95 * count, 2.3), layout="constrained")
    axes = figure.subplots(1, count)
    show_image(axes[0], image, "the image")
    outline(axes[0], mask)
    for ax, (name, values) in zip(axes[1:], stages.items(), strict=True):
        shown = ax.imshow(values, cmap="viridis")
        ax.set(xticks=[], yticks=[])
        ax.set_title(name, fontsize=8)
        figure.colorbar(shown, ax=ax, location="bottom", fraction=0.06).ax.tick_params(labelsize=7)
    return figure


# --- Which images -------------------------------------------------------------------------------


def draw_shares(
    votes: Mapping[str, np.ndarray],
    distance: Mapping[str, np.ndarray],
    kinds: Mapping[str, Sequence[str]],
) -> Figure:
    """The shares of the anomalous images by votes over those by distances, a panel for each set.

    Args:
        votes: set -> (A,) in [0, 1], by votes.
        distance: set -> (A,), by distances.
        kinds: set -> the kind of each of these images, of ``DEFECTS``.
    """
    figure = Figure(figsize=(3.0 * len(votes) + 1.1, 3.1), layout="constrained")
    axes = figure.subplots(1, len(votes), sharex=True, sharey=True, squeeze=False)[0]
    for ax, name in zip(axes, votes, strict=True):
        ax.plot([0, 1], [0, 1], ":", color=GREY)
        for kind, (colour, marker) in DEFECTS.items():
            mine = np.array(kinds[name]) == kind
            place = distance[name][mine], votes[name][mine]
            ax.plot(*place, marker, color=colour, alpha=0.7, markersize=5, label=kind)
        ax.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), aspect="equal", xlabel="by distances")
        ax.set_title(name, fontsize=9)
    axes[0].set_ylabel("by votes")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def draw_wins(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    captions: Sequence[str],
    votes_maps: Sequence[np.ndarray],
    distance_maps: Sequence[np.ndarray],
) -> Figure:
    """Images (H, W) uint8 above their maps of votes and of distances, defects outlined in all.

    Each map has colours of its own, from its lowest value to its highest.
    """
    count = len(images)
    figure = Figure(figsize=(1.4 * count + 0.4, 4.9), layout="constrained")
    rows = figure.subplots(3, count, squeeze=False)
    for column, image, mask, caption, *maps in zip(
        rows.T, images, masks, captions, votes_maps, distance_maps, strict=True
    ):
        show_image(column[0], image, caption)
        for ax, values in zip(column[1:], maps, strict=True):
            ax.imshow(values, cmap="viridis")
            ax.set(xticks=[], yticks=[])
        if mask is not None:
            for ax, colour in zip(column, ("red", "white", "white"), strict=True):
                outline(ax, mask, colour)
    for ax, name in zip(rows[:, 0], ("image", "votes", "distances"), strict=True):
        ax.set_ylabel(name, fontsize=9)
    return figure


def draw_changes(changes: Sequence[str], aurocs: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """How well each kind of evidence tells changed images from unchanged ones, set by set.

    Args:
        changes: names of the C changes.
        aurocs: set -> kind of evidence -> (C,) AUROCs.
    """
    figure = Figure(figsize=(3.4 * len(aurocs) + 1.2, 0.34 * len(changes) + 1.2))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(1, len(aurocs), sharex=True, sharey=True, squeeze=False)[0]
    rows = np.arange(len(changes))
    for ax, (name, of_set) in zip(axes, aurocs.items(), strict=True):
        ax.axvline(0.5, color=GREY, linestyle=":")
        for (kind, values), shift in zip(of_set.items(), (-0.12, 0.12), strict=True):
            colour, marker = EVIDENCE[kind]
            ax.plot(values, rows + shift, marker, color=colour, markersize=6, label=kind)
        ax.set(xlim=(-0.03, 1.03), ylim=(len(changes) - 0.5, -0.5), xlabel="AUROC, changed or not")
        ax.set_title(name, fontsize=9)
    axes[0].set_yticks(rows, changes)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


# --- Honest figures -----------------------------------------------------------------------------


def draw_intervals(differences: Mapping[str, np.ndarray]) -> Figure:
    """Differences of every draw (n,), by name, with their mean and its 95 % interval."""
    figure = Figure(figsize=(7.4, 0.36 * len(differences) + 1.1), layout="constrained")
    ax = figure.subplots()
    for row, values in enumerate(differences.values()):
        mean, low, high = paired_interval(values, np.zeros(len(values)))
        for value, (colour, marker) in zip(values, _looks(len(values)), strict=True):
            ax.plot(value, row - 0.15, marker, color=colour, markersize=4, alpha=0.75)
        style: dict[str, Any] = {"color": "black", "markersize": 9, "linewidth": 1.6, "capsize": 3}
        ax.errorbar(mean, row + 0.2, xerr=[[mean - low], [high - mean]], fmt="|", **style)
    ax.axvline(0, color=GREY, linestyle="--")
    ax.set_yticks(range(len(differences)), list(differences))
    ax.set(ylim=(len(differences) - 0.5, -0.5), xlabel="difference of image AUROCs, and 95 %")
    return figure


def _looks(count: int) -> list[tuple[str, str]]:
    """Colours and markers of so many draws."""
    return [LOOKS[n % len(LOOKS)] for n in range(count)]


def draw_pairing(paired: np.ndarray, apart: np.ndarray) -> Figure:
    """Differences of AUROCs on drawn test sets: the same for both methods, or one for each."""
    figure = Figure(figsize=(7.6, 2.6), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    edges = np.linspace(min(paired.min(), apart.min()), max(paired.max(), apart.max()), 41)
    for ax, values, name in zip(axes, (paired, apart), ("in pairs", "apart"), strict=True):
        low, high = draw_interval(ax, values, edges)
        ax.axvline(0, color=GREY, linestyle=":")
        ax.set_title(f"{name}: {low:+.3f} to {high:+.3f}", fontsize=9)
        ax.set_xlabel("difference of AUROCs")
    axes[0].set_ylabel("drawn test sets")
    return figure


def draw_luck(tried: Sequence[int], chosen: np.ndarray, fresh: np.ndarray) -> Figure:
    """AUROC of the best of several detectors: where it was chosen, and on fresh images.

    Args:
        tried: numbers of detectors, rising.
        chosen: (len(tried), R) AUROCs of the best on the images that chose it, R repeats.
        fresh: (len(tried), R) those of the same detector on other images.
    """
    figure = Figure(figsize=(5.6, 2.9), layout="constrained")
    ax = figure.subplots()
    for values, name, colour, line in (
        (chosen, "on the images that chose it", ANOMALOUS, "s-"),
        (fresh, "on fresh images", NORMAL, "o--"),
    ):
        low, high = np.quantile(values, (0.025, 0.975), axis=1)
        ax.plot(tried, values.mean(1), line, color=colour, label=name)
        ax.fill_between(tried, low, high, color=colour, alpha=0.15)
    ax.axhline(0.5, color=GREY, linestyle=":")
    ax.set(xscale="log", xlabel="detectors tried (log scale)", ylabel="image AUROC of the best")
    ax.set_xticks(list(tried), [str(n) for n in tried])
    ax.minorticks_off()
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


# --- Features -----------------------------------------------------------------------------------


def draw_published(figures: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Published figures: method -> (mean, deviation) of image AUROC, pixel AUROC and AUPRO."""
    figure = Figure(figsize=(8.6, 0.36 * len(figures) + 1.2), layout="constrained")
    axes = figure.subplots(1, 3, sharex=True, sharey=True)
    names = ("image AUROC", "pixel AUROC", "AUPRO")
    for ax, name, values in zip(axes, names, zip(*figures.values(), strict=True), strict=True):
        _means(ax, values)
        ax.set_xlabel(name)
        ax.margins(x=0.12)  # room for the words
    axes[0].set_yticks(range(len(figures)), list(figures))
    axes[0].set_ylim(len(figures) - 0.5, -0.5)
    return figure


def _means(ax: Axes, values: Sequence[tuple[float, float]]) -> None:
    """Means and standard deviations, one row each, with the mean in words."""
    for row, (mean, deviation) in enumerate(values):
        ax.errorbar(mean, row, xerr=deviation, fmt="D", color="black", markersize=5, capsize=3)
        ax.annotate(f"{mean:.3f}", (mean, row - 0.18), ha="center", va="bottom", fontsize=7)
