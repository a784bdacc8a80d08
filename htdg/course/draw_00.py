"""Figures of notebook 00: the kinds of test images, and where maps say that they are damaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from htdg.datasets.samples import SampleSet
from htdg.evaluation.plots import ANOMALOUS, NORMAL, PAGE, Figure, outline, show_image


def first_of_each_kind(images: SampleSet) -> list[int]:
    """The numbers of the test images that come first of their kind, in the order of the set."""
    return [images.kinds.index(kind) for kind in dict.fromkeys(images.kinds)]


def draw_kinds(images: SampleSet) -> Figure:
    """The training image, and one test image of each kind, framed by its label."""
    chosen = first_of_each_kind(images)
    figure = Figure(figsize=(PAGE, 1.8), layout="constrained")
    axes = figure.subplots(1, len(chosen) + 1)
    show_image(axes[0], images.train[0], "the training image")
    for ax, i in zip(axes[1:], chosen, strict=True):
        colour = ANOMALOUS if images.labels[i] else NORMAL
        show_image(ax, images.test[i], f"test: {images.kinds[i]}", colour)
    figure.alt = "The training image, a normal test image, and one of each kind of damage."
    return figure


def draw_where(
    images: SampleSet, chosen: Sequence[int], maps: Mapping[str, Sequence[np.ndarray]]
) -> Figure:
    """Test images, their damage outlined in red, above their anomaly maps: one row for each kind.

    Every row of maps has a colour scale of its own. A cross marks the highest value of each map.

    Args:
        images: what the test images are of.
        chosen: their numbers.
        maps: name -> the maps (H, W) of the chosen images, in [0, 1].
    """
    figure = Figure(figsize=(PAGE, 1.6 * (1 + len(maps))), layout="constrained")
    rows = figure.subplots(1 + len(maps), len(chosen), squeeze=False)
    for ax, i in zip(rows[0], chosen, strict=True):
        show_image(ax, images.test[i], images.kinds[i])
        if (mask := images.masks[i]) is not None:
            outline(ax, mask)
    for axes, (name, of_images) in zip(rows[1:], maps.items(), strict=True):
        low, high = min(m.min() for m in of_images), max(m.max() for m in of_images)
        for ax, anomaly_map in zip(axes, of_images, strict=True):
            drawn = ax.imshow(anomaly_map, cmap="viridis", vmin=low, vmax=high)
            row, column = highest_place(anomaly_map)
            for colour, width in (("black", 3.5), ("white", 1.8)):  # seen on any colour
                style = {"color": colour, "markeredgewidth": width, "markersize": 7}
                ax.plot(column, row, "x", clip_on=False, zorder=10, **style)
            ax.set(xticks=[], yticks=[])
        axes[0].set_ylabel(name, fontsize=8)
        figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.01).ax.tick_params(labelsize=7)
    masks = [images.masks[i] for i in chosen]
    hits = [
        f"{sum(_hit(mask, m) for mask, m in zip(masks, of_images, strict=True))} by {name}"
        for name, of_images in maps.items()
    ]
    figure.alt = (
        "One test image of each kind, its damage outlined, above its anomaly maps. The highest "
        f"value of a map lies within the outline in {' and in '.join(hits)}, of "
        f"{sum(mask is not None for mask in masks)} damaged images."
    )
    return figure


def highest_place(anomaly_map: np.ndarray) -> tuple[int, int]:
    """Row and column of the highest value of a map (H, W); the first of several."""
    row, column = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
    return int(row), int(column)


def _hit(mask: np.ndarray | None, anomaly_map: np.ndarray) -> bool:
    """Whether the highest value of a map lies on the damage, if there is any."""
    return mask is not None and bool(mask[highest_place(anomaly_map)])
