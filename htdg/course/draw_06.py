"""Figures of notebook 06, few shots and ablations (paper section 4), and their statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from htdg.evaluation.plots import ANOMALOUS, GREY, NORMAL, OTHERS, plot_gallery, show_image

#: Colours and markers of the draws, or of the paper's data sets.
LOOKS = (
    *((NORMAL, "o"), (ANOMALOUS, "s"), (OTHERS[0], "^"), (OTHERS[1], "D"), ("black", "v")),
    *(("#E69F00", "P"), ("#56B4E9", "X"), (GREY, "*")),
)


# --- Statistics ---------------------------------------------------------------------------------


def bootstrap_aurocs(
    labels: Sequence[int] | np.ndarray,
    scores: Sequence[float] | np.ndarray,
    repeats: int = 2000,
    seed: int = 0,
) -> np.ndarray:
    """AUROCs of test sets drawn with replacement from the real one (bootstrap): (repeats,).

    A drawn test set has as many normal and as many anomalous images as the real one.

    Args:
        labels: (B,) 0 normal, 1 anomalous; there must be both.
        scores: (B,) anomaly scores.
        repeats: number of test sets to draw.
        seed: of the draws.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    good, odd = scores[labels == 0], scores[labels == 1]
    above, ties = odd[None] > good[:, None], odd[None] == good[:, None]
    wins = above + 0.5 * ties  # (normal, anomalous): the pairs that the AUROC counts
    rng = np.random.default_rng(seed)
    # How often an image is drawn; a pair counts the product of both numbers.
    times = [rng.multinomial(n, np.full(n, 1 / n), repeats) for n in wins.shape]
    return np.sum((times[0] @ wins) * times[1], 1) / wins.size


def draws_needed(difference: float, deviation: float) -> int:
    """The least number of draws, 2 or more, whose two standard errors do not exceed the difference.

    Args:
        difference: mean of the paired differences, not 0; its sign does not matter.
        deviation: their standard deviation, at least 0.

    Raises:
        ValueError: the difference is 0.
    """
    if difference == 0:
        raise ValueError("difference is 0, but it must not be.")
    return max(2, math.ceil(round((2 * deviation / difference) ** 2, 9)))


def mean_and_error(values: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error over the last axis, of at least two values."""
    values = np.asarray(values, dtype=float)
    n = values.shape[-1]
    return values.mean(-1), values.std(-1, ddof=1) / math.sqrt(n)


# --- Shots --------------------------------------------------------------------------------------


def draw_inputs(inputs: np.ndarray) -> Figure:
    """The generator's input for every training image: (K, 4, H, W), red to blue in [-1, 1]."""
    names = ("red", "green", "blue", "number of the image")
    figure = Figure(figsize=(6.0, 1.5 * len(inputs)), layout="constrained")
    axes = figure.subplots(len(inputs), 4, squeeze=False)
    highest = max(1, len(inputs) - 1)
    for k, (row, one) in enumerate(zip(axes, inputs, strict=True)):
        for ax, channel, name in zip(row, one, names, strict=True):
            low, high = (0, highest) if name == names[3] else (-1, 1)
            ax.imshow(channel, cmap="gray", vmin=low, vmax=high)
            ax.set(xticks=[], yticks=[])
            ax.set_title(name if name != names[3] else f"{name}: {channel[0, 0]:g}", fontsize=8)
        row[0].set_ylabel(f"image {k}", fontsize=8)
    return figure


def draw_numbers(
    training: np.ndarray, own_number: np.ndarray, number_zero: np.ndarray, errors: np.ndarray
) -> Figure:
    """Training images, rebuilt with their own number, and all with number 0: (K, H, W, 3) uint8.

    ``errors`` (2, K) are the mean squared errors of the second and the third row.
    """
    count = len(training)
    figure = Figure(figsize=(1.5 * count + 1.4, 4.6), layout="constrained")
    axes = figure.subplots(3, count, squeeze=False)
    for row, images in zip(axes, (training, own_number, number_zero), strict=True):
        for ax, image in zip(row, images, strict=True):
            show_image(ax, image)
    for row, row_errors in zip(axes[1:], errors, strict=True):
        for ax, error in zip(row, row_errors, strict=True):
            ax.set_title(f"error {error:.3f}", fontsize=8)
    for ax, name in zip(axes[:, 0], ("training image", "its own number", "number 0"), strict=True):
        ax.set_ylabel(name, fontsize=8)
    return figure


def draw_shots(
    shots: Sequence[int],
    aurocs: np.ndarray,
    paper: Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> Figure:
    """AUROC over the number of training images: every draw here, and the paper's averages.

    The bars of both panels are standard deviations over draws.

    Args:
        shots: the numbers K of training images.
        aurocs: (draws, len(shots)), in [0, 1]; a row is one draw, joined by a line.
        paper: data set -> mean AUROCs and standard deviations for these K, in per cent.
    """
    figure = Figure(figsize=(9.6, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(shots))
    for number, row in enumerate(aurocs):
        colour, marker = LOOKS[number % len(LOOKS)]
        style = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 0.9}
        left.plot(places, row, "-", alpha=0.75, label=f"draw {number}", **style)
    mean, spread = aurocs.mean(0), aurocs.std(0, ddof=1)
    style = {"color": "black", "linewidth": 2.2, "capsize": 5, "label": "mean of the draws"}
    left.errorbar(places, mean, spread, **style)
    looks = zip(paper.items(), LOOKS, strict=False)
    for number, ((name, (means, deviations)), (colour, marker)) in enumerate(looks):
        beside = places + 0.05 * (number - (len(paper) - 1) / 2)  # so that no bar hides another
        high, spread = np.divide(means, 100), np.divide(deviations, 100)
        style = {"color": colour, "marker": marker, "markersize": 5, "capsize": 3}
        right.errorbar(beside, high, spread, label=name, linewidth=1.2, **style)
    left.set(ylabel="image AUROC", title="faces, this notebook")
    right.set(title="paper, means over classes")
    for ax in (left, right):
        ax.title.set_size(9)
        ax.set_xticks(places, [str(k) for k in shots])
        ax.set_xlabel("training images K")
        ax.set_xlim(-0.3, len(shots) - 0.7)
    left.legend(frameon=False, fontsize=7, loc="lower right")
    figure.legend(*right.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


# --- Chance -------------------------------------------------------------------------------------


def draw_bootstrap(drawn: Mapping[str, np.ndarray], aurocs: Mapping[str, float]) -> Figure:
    """Histograms of the AUROCs of drawn test sets, with their 95 % interval, one panel a name."""
    figure = Figure(figsize=(3.6 * len(drawn) + 0.4, 2.7), layout="constrained")
    axes = figure.subplots(1, len(drawn), sharex=True, sharey=True, squeeze=False)[0]
    edges = np.linspace(min(v.min() for v in drawn.values()), 1, 31)
    for ax, (name, values) in zip(axes, drawn.items(), strict=True):
        low, high = draw_interval(ax, values, edges)
        ax.axvline(aurocs[name], color="black", linewidth=1.6)
        ax.set_title(f"{name}: {aurocs[name]:.2f}, interval {low:.2f} to {high:.2f}", fontsize=9)
        ax.set_xlabel("image AUROC of a drawn test set")
    axes[0].set_ylabel("test sets")
    return figure


def draw_interval(ax: Axes, values: np.ndarray, edges: np.ndarray) -> tuple[float, float]:
    """A histogram, and in it the ends of the interval with 95 % of the values, which it returns."""
    low, high = (float(end) for end in np.quantile(values, (0.025, 0.975)))
    ax.hist(values, edges.tolist(), color=NORMAL, alpha=0.55)
    for end in (low, high):
        ax.axvline(end, color=ANOMALOUS, linestyle="--", linewidth=1.4)
    return low, high


# --- Ablations ----------------------------------------------------------------------------------


def draw_ablations(
    names: Sequence[str], aurocs: np.ndarray, paper: Sequence[tuple[float, float]]
) -> Figure:
    """AUROC of the variants: every draw, and their mean; beside it the paper's averages.

    The bars of both panels are standard deviations over draws.

    Args:
        names: of the V variants, the whole method first.
        aurocs: (V, draws), in [0, 1].
        paper: mean and standard deviation of every variant, in per cent.
    """
    figure = Figure(figsize=(8.8, 0.36 * len(names) + 1.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.3, 1))
    rows = np.arange(len(names))
    _dots(left, aurocs)
    _means(left, aurocs, aurocs.std(-1, ddof=1))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(LOOKS))
    left.set(xlabel="image AUROC", title="faces, this notebook, one shot")
    mean, deviation = np.array(paper).T / 100
    right.errorbar(mean, rows, xerr=deviation, fmt="D", color="black", markersize=5, capsize=3)
    right.set(xlabel="image AUROC", title="paper, Table 6, CIFAR10, one shot")
    for ax, whole in ((left, aurocs[0].mean()), (right, mean[0])):
        ax.title.set_size(9)
        ax.axvline(0.5, color=GREY, linestyle=":", linewidth=1)
        ax.axvline(whole, color=NORMAL, linestyle="--", linewidth=1)
    left.set_yticks(rows, names)
    left.set_ylim(len(names) - 0.5, -0.5)
    return figure


def draw_differences(names: Sequence[str], differences: np.ndarray) -> Figure:
    """Differences of variant and whole method (V, draws), with means and their 95 % intervals.

    The intervals are those of Student's t: where one crosses zero, the difference may be chance.
    """
    figure = Figure(figsize=(7.2, 0.36 * len(names) + 1.1), layout="constrained")
    ax = figure.subplots()
    _dots(ax, differences)
    _, error = mean_and_error(differences)
    _means(ax, differences, stats.t.ppf(0.975, differences.shape[1] - 1) * error)
    ax.axvline(0, color=NORMAL, linestyle="--", linewidth=1.2)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlabel("AUROC of the variant minus that of the whole method")
    return figure


def _dots(ax: Axes, values: np.ndarray) -> None:
    """The values (V, draws), row by row; a draw has the same colour and marker in every row."""
    rows = np.arange(len(values)) - 0.14
    for number, column in enumerate(values.T):
        colour, marker = LOOKS[number % len(LOOKS)]
        ax.plot(
            *(column, rows, marker), color=colour, markersize=4, alpha=0.75, label=f"draw {number}"
        )


def _means(ax: Axes, values: np.ndarray, bars: np.ndarray) -> None:
    """The means of the rows of (V, draws), with bars of these lengths (V,) to either side."""
    rows = np.arange(len(values)) + 0.2
    style: dict[str, Any] = {"color": "black", "markersize": 9, "linewidth": 1.6}
    ax.errorbar(values.mean(-1), rows, xerr=bars, fmt="|", **style)


def draw_samples(rows: Mapping[str, np.ndarray]) -> Figure:
    """Rows of images (n, H, W, 3) uint8, the reconstruction first, with a title for each image."""
    named = {
        name: [
            (image, "rebuilt from z*" if i == 0 else f"sample {i}") for i, image in enumerate(of)
        ]
        for name, of in rows.items()
    }
    return plot_gallery(named, max(map(len, rows.values())))


# --- Play ---------------------------------------------------------------------------------------


def draw_play(
    labels: np.ndarray, scores: Mapping[str, Sequence[np.ndarray]], name: str, number: int
) -> Figure:
    """Scores and ROC curve of one trained model, and its AUROC beside those of the other draws.

    Args:
        labels: (B,) 0 normal, 1 anomalous.
        scores: name of a variant -> anomaly scores (B,) of every draw.
        name: of the variant.
        number: of the draw.
    """
    values = np.asarray(scores[name][number])
    auroc = roc_auc_score(labels, values)
    low, high = np.quantile(bootstrap_aurocs(labels, values), (0.025, 0.975))
    figure = Figure(figsize=(9.6, 2.9), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.3, 1, 1.1))
    edges = np.linspace(values.min(), values.max(), 17)
    for label, kind, colour, hatch in (
        (0, "normal", NORMAL, None),
        (1, "anomalous", ANOMALOUS, "///"),
    ):
        mine = values[labels == label]
        left.hist(mine, edges, color=colour, alpha=0.55, hatch=hatch, label=kind)
    left.set(xlabel="anomaly score", ylabel="images")
    left.yaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_title(f"{name}, draw {number}", fontsize=9)
    left.legend(frameon=False, fontsize=7, loc="upper right")
    fpr, tpr, _ = roc_curve(labels, values)
    middle.plot([0, 1], [0, 1], ":", color=GREY)
    middle.plot(fpr, tpr, color=NORMAL)
    middle.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    middle.set_title(f"AUROC {auroc:.2f} ({low:.2f} to {high:.2f})", fontsize=9)
    all_draws = [roc_auc_score(labels, one) for one in scores[name]]
    places = np.arange(len(all_draws))
    right.plot(all_draws, places, "o", color=GREY, markersize=5)
    right.errorbar(
        *(auroc, number),
        xerr=[[max(auroc - low, 0)], [max(high - auroc, 0)]],
        fmt="o",
        color="black",
        capsize=4,
    )
    right.set_yticks(places)
    right.set(xlabel="image AUROC", ylabel="draw", ylim=(len(all_draws) - 0.5, -0.5))
    right.set_title("all draws, 95 % interval of this one", fontsize=9)
    return figure


def draw_needed(difference: float, deviation: float, most: int = 60) -> Figure:
    """Two standard errors over the number of draws, and where they fall below the difference.

    Args:
        difference: mean paired difference, not 0.
        deviation: standard deviation of the paired differences.
        most: draws at the right end.
    """
    needed = draws_needed(difference, deviation)
    draws = np.arange(2, most + 1)
    figure = Figure(figsize=(6.4, 2.9), layout="constrained")
    ax = figure.subplots()
    ax.plot(draws, 2 * deviation / np.sqrt(draws), color=NORMAL, label="two standard errors")
    ax.axhline(abs(difference), color=ANOMALOUS, linestyle="--", label="the difference")
    if needed <= most:
        ax.plot(needed, 2 * deviation / math.sqrt(needed), "o", color="black")
    ax.set(xlabel="draws n", ylabel="difference of AUROCs", ylim=(0, None), xlim=(0, most + 1))
    explanation = (
        f"{needed} draws are enough" if needed <= most else f"{needed} draws: off the figure"
    )
    ax.set_title(
        f"difference {abs(difference):.3f}, standard deviation {deviation:.3f}: {explanation}",
        fontsize=9,
    )
    ax.legend(frameon=False, fontsize=8, loc="upper right")
    return figure
