"""Figures of notebook 02, the transformations (paper section 3.2), made of plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from htdg.evaluation.plots import GREY, NORMAL, OTHERS, show_image
from htdg.io.images import load_image, to_uint8
from htdg.pyramid import resize
from htdg.transformations import CATALOGUE, Transformation, shift_pixels

#: The rows of ``draw_catalogue``: name, first and last number.
ROWS = (
    ("all rotations", 1, 8),
    ("shifted right,\nall rotations", 9, 16),
    ("flipped,\nall rotations", 17, 24),
    ("flipped, shifted\nright, all rotations", 25, 32),
    ("shifted up", 33, 38),
    ("shifted left", 39, 42),
    ("grey, flipped,\nall rotations", 43, 50),
    ("grey, shifted", 51, 54),
)
#: Side of the patches that the networks see, pixels.
PATCH = 11
#: Names of the quarters of the ring, beginning with gradients that point right.
DIRECTIONS = ("right", "up", "left", "down")


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def example_image(side: int = 64) -> torch.Tensor:
    """A part of scikit-image's photograph of an astronaut (1, 3, side, side) in [-1, 1].

    NASA's portrait of Eileen Collins, in the public domain.
    """
    from skimage import data

    part = np.ascontiguousarray(data.astronaut()[0:400, 60:460])
    return resize(load_image(part)[None], side)


def number_of(t: Transformation) -> int | None:
    """The m with T_m = t, or None if t is not among the 54."""
    return CATALOGUE.index(t) + 1 if t in CATALOGUE else None


def picture(image: torch.Tensor) -> np.ndarray:
    """An image (1, 3, H, W) in [-1, 1] as (H, W, 3) uint8."""
    return to_uint8(image)[0]


def frame(
    ax: Axes, top: int, left: int, colour: str, height: int = PATCH, width: int = PATCH
) -> None:
    """Draw a box around the pixels from (top, left) on."""
    box = (left - 0.5, top - 0.5)
    ax.add_patch(Rectangle(box, width, height, fill=False, edgecolor=colour, linewidth=1.8))


def hatch_strip(ax: Axes, top: float, left: float, height: float, width: float) -> None:
    """Hatch pixels in a way that shows on dark and on bright ones."""
    corner = (left - 0.5, top - 0.5)
    style: dict[str, Any] = {"facecolor": (1, 1, 1, 0.35), "edgecolor": "black", "hatch": "////"}
    ax.add_patch(Rectangle(corner, width, height, **style))


def draw_row(images: Mapping[str, torch.Tensor], size: float = 1.6) -> Figure:
    """Images (1, 3, H, W) side by side, with their names above."""
    figure = Figure(figsize=(size * len(images), size + 0.08), layout="constrained")
    for ax, (name, image) in zip(
        figure.subplots(1, len(images), squeeze=False)[0], images.items(), strict=True
    ):
        show_image(ax, picture(image), name)
    return figure


def draw_shift(image: torch.Tensor, copy: torch.Tensor, rows: int = 12) -> Figure:
    """A copy shifted right, a line at the image's own left edge, and that edge enlarged.

    Args:
        image: (1, 3, n, n).
        copy: (1, 3, n, n), the image with its content moved right by s = ``shift_pixels(n)``.
        rows: number of rows of pixels that are enlarged, from the middle on.
    """
    n, s = image.shape[-1], shift_pixels(image.shape[-1])
    top = n // 2 - rows // 2
    figure = Figure(figsize=(7.4, 2.5), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.45))
    show_image(axes[0], picture(image), "image")
    show_image(axes[1], picture(copy), f"shifted right by s = {s} pixels")
    axes[1].axvline(s - 0.5, color="white", linewidth=1.5, linestyle="--")
    frame(axes[1], top, 0, OTHERS[0], rows, 2 * s)
    show_image(axes[2], picture(copy)[top : top + rows, : 2 * s], "the framed part, larger")
    axes[2].axvline(s - 0.5, color="white", linewidth=2, linestyle="--")
    for column in range(2 * s):
        source = column - s if column >= s else s - 1 - column
        axes[2].text(column, rows - 0.2, str(source), ha="center", va="top", fontsize=7)
    axes[2].set_xlabel("column of the image that is shown there", fontsize=8, labelpad=12)
    for spine in axes[2].spines.values():
        spine.set(color=OTHERS[0], linewidth=2)
    return figure


def draw_orders(paths: Mapping[str, Sequence[tuple[str, torch.Tensor]]]) -> Figure:
    """The results of the same steps in different orders, one row an order.

    Args:
        paths: name of the order -> its steps: name, and the image (1, 3, n, n) after the step.
    """
    steps = max(len(path) for path in paths.values())
    figure = Figure(figsize=(1.65 * steps + 1.2, 1.65 * len(paths)), layout="constrained")
    axes = figure.subplots(len(paths), steps, squeeze=False)
    for line, (name, path) in zip(axes, paths.items(), strict=True):
        for number, (ax, (done, image)) in enumerate(zip(line, path, strict=True)):
            show_image(ax, picture(image), done)
            if number:
                arrow = {"arrowstyle": "->", "color": GREY, "lw": 1.5}
                ends = {"xycoords": "axes fraction", "textcoords": "axes fraction"}
                ax.annotate("", (-0.02, 0.5), (-0.2, 0.5), arrowprops=arrow, **ends)
        line[0].set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center", labelpad=8)
    return figure


def draw_catalogue(copies: Sequence[torch.Tensor]) -> Figure:
    """All 54 copies (1, 3, n, n) with their numbers, in the rows of ``ROWS``."""
    figure = Figure(figsize=(7.2, 7.6), layout="constrained")
    axes = figure.subplots(len(ROWS), 8)
    for line, (what, first, last) in zip(axes, ROWS, strict=True):
        for i, ax in enumerate(line):
            m = first + i
            if m > last:
                ax.axis("off")
                continue
            show_image(ax, picture(copies[m - 1]))
            ax.set_title(f"$T_{{{m}}}$", fontsize=9, pad=3)
        line[0].set_ylabel(what, fontsize=8, rotation=0, ha="right", va="center")
    return figure


def draw_undone(image: torch.Tensor, t: Transformation, translation: str = "pixel") -> Figure:
    """An image (1, 3, n, n), its copy under t, and what undoing t gives back.

    Hatched are, in the copy, the reflected border; after undoing, the places without values.
    """
    n, s = image.shape[-1], shift_pixels(image.shape[-1])
    copy = t.apply(image, translation)
    undone, defined = t.undo(copy, n, translation)
    figure = Figure(figsize=(6.6, 2.3), layout="constrained")
    axes = figure.subplots(1, 3)
    show_image(axes[0], picture(image), "image")
    show_image(axes[1], picture(copy), f"copy: {t}")
    show_image(axes[2], picture(undone), f"undone: {100 * float(defined.float().mean()):.0f} %")
    came_in = torch.zeros(n, n, dtype=torch.bool)
    if t.tx:
        came_in[:, slice(0, s) if t.tx > 0 else slice(n - s, n)] = True
    if t.ty:
        came_in[slice(0, s) if t.ty > 0 else slice(n - s, n)] = True
    for ax, mask in ((axes[1], torch.rot90(came_in, t.k)), (axes[2], ~defined)):
        _hatch(ax, mask.numpy())
    return figure


def _hatch(ax: Axes, mask: np.ndarray) -> None:
    """Hatch the rows and columns of a mask that consists of whole strips."""
    n = len(mask)
    rows, columns = np.asarray(mask.all(1)), np.asarray(mask.all(0))
    for first, last in _runs(rows):
        hatch_strip(ax, first, 0, last - first, n)
    for first, last in _runs(columns):
        for top, bottom in _runs(~rows):
            hatch_strip(ax, top, first, bottom - top, last - first)


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Start and end (exclusive) of every run of True."""
    steps = np.diff(np.concatenate([[0], flags.astype(int), [0]]))
    return list(zip(np.flatnonzero(steps == 1), np.flatnonzero(steps == -1), strict=True))


def draw_differences(maps: Mapping[str, np.ndarray]) -> Figure:
    """The distances between the logits of a copy and of the image, patch by patch, for every mode.

    Args:
        maps: translation mode -> distances (h, w), NaN where the patch saw the reflected border.
    """
    figure = Figure(figsize=(2.5 * len(maps) + 1, 2.7), layout="constrained")
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    # The same scale for all; a few patches at the edge of ``stretched`` copies are beyond it.
    high = max(float(np.nanquantile(distances, 0.95)) for distances in maps.values())
    for ax, (mode, distances) in zip(axes, maps.items(), strict=True):
        shown = ax.imshow(distances, cmap="viridis", vmin=0, vmax=high or 1)
        for first, last in _runs(np.isnan(distances).all(0)):
            hatch_strip(ax, 0, first, len(distances), last - first)
        ax.set_title(f"{mode}: mean {np.nanmean(distances):.3f}", fontsize=9)
        ax.set_xlabel("column of patches", fontsize=8)
        ax.tick_params(labelsize=7)
    axes[0].set_ylabel("row of patches", fontsize=8)
    bar = figure.colorbar(shown, ax=axes, extend="max", fraction=0.03)
    bar.set_label("difference of the logits\n(in their standard deviations)", fontsize=8)
    return figure


def draw_search(
    image: torch.Tensor,
    copies: Mapping[str, torch.Tensor],
    place: tuple[int, int],
    errors: Mapping[str, np.ndarray],
) -> Figure:
    """A search for a patch of a copy in the image: one row a copy.

    Args:
        image: (1, 3, n, n).
        copies: name -> (1, 3, n, n), the copy that the patch is taken from.
        place: top and left pixel of the patch in the copy.
        errors: name -> (h, h), the distance of every patch of the image from that patch.
    """
    figure = Figure(figsize=(7.2, 2.45 * len(copies)), layout="constrained")
    axes = figure.subplots(len(copies), 3, squeeze=False)
    high = max(float(distances.max()) for distances in errors.values())
    for line, (name, copy) in zip(axes, copies.items(), strict=True):
        distances = errors[name]
        top, left = np.unravel_index(distances.argmin(), distances.shape)
        show_image(line[0], picture(copy), f"copy ({name}), patch at {place}")
        frame(line[0], *place, OTHERS[0])
        shown = line[1].imshow(distances, cmap="viridis", vmin=0, vmax=high)
        line[1].plot(left, top, "o", markersize=11, markerfacecolor="none", color="white")
        line[1].set_title(f"least {distances.min():.3f} at ({top}, {left})", fontsize=8)
        line[1].set_xticks([])
        line[1].set_yticks([])
        show_image(line[2], picture(image), "image, the nearest patch")
        frame(line[2], int(top), int(left), OTHERS[0])
    bar = figure.colorbar(shown, ax=axes, fraction=0.03, shrink=0.7)
    bar.set_label("middle: difference (root mean square)", fontsize=8)
    return figure


def draw_spectrum(
    frequencies: np.ndarray, measured: Mapping[str, np.ndarray], expected: np.ndarray
) -> Figure:
    """The share of power that copies keep, over the frequency along x (cycles a pixel)."""
    figure = Figure(figsize=(5.4, 2.9), layout="constrained")
    ax = figure.subplots()
    for (name, kept), colour, marker in zip(measured.items(), OTHERS, "os", strict=False):
        label = f"{name} copy, measured"
        ax.plot(frequencies, kept, marker, color=colour, markersize=4, label=label)
    ax.plot(frequencies, expected, color=GREY, linewidth=1.2, label="formula")
    ax.set_xlabel("frequency along x (cycles a pixel)")
    ax.set_ylabel("share of the power kept")
    ax.set_ylim(0, 1.1)
    ax.legend(frameon=False, loc="lower left")
    return figure


def draw_directions(
    crops: Mapping[str, torch.Tensor], shares: Mapping[str, Sequence[np.ndarray]]
) -> Figure:
    """Histograms of the directions of gradients, before and after a quarter turn.

    Args:
        crops: texture -> an image of it (1, 3, n, n), drawn above.
        shares: texture -> (bins,) shares before and after, which each sum to 1; the first bin
            begins at 0 degrees, directions to the right, and angles grow counter-clockwise.
    """
    figure = Figure(figsize=(2.5 * len(shares) + 0.4, 4.2), layout="constrained")
    above, below = figure.subplots(2, len(shares), sharey="row", height_ratios=(1, 1.2))
    for top, ax, (name, (before, after)) in zip(above, below, shares.items(), strict=True):
        show_image(top, picture(crops[name]), name)
        edges = np.linspace(0, 360, len(before) + 1)
        for share, colour, style, label in (
            (before, NORMAL, "-", "as photographed"),
            (after, OTHERS[0], "--", "after a quarter turn"),
        ):
            ax.stairs(100 * share, edges, color=colour, linestyle=style, linewidth=1.6, label=label)
        ax.set_xlim(0, 360)
        ax.set_xticks(range(0, 360, 90), [f"{90 * i}°\n{d}" for i, d in enumerate(DIRECTIONS)])
        ax.tick_params(labelsize=8)
        ax.set_ylim(bottom=0)
    below[0].set_ylabel("share of the\ngradients (%)")
    figure.supxlabel("direction in which it gets brighter", fontsize=9)
    handles, labels = below[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return figure


def draw_votes(votes: Mapping[str, Mapping[str, float]], chance: float) -> Figure:
    """Mean votes of several kinds of images, for several textures, as points.

    Args:
        votes: texture -> kind of image -> mean vote, in [0, 1].
        chance: the mean vote of guessing.
    """
    figure = Figure(figsize=(6.2, 2.6), layout="constrained")
    ax = figure.subplots()
    # The first is a larger hollow square, so that a point at the same place is seen, too.
    looks = (("s", OTHERS[1], 13), ("^", GREY, 8), ("o", NORMAL, 8))
    for row, values in enumerate(votes.values()):
        for (name, value), (marker, colour, size) in zip(values.items(), looks, strict=False):
            label, fill = name if row == 0 else None, "none" if marker == "s" else colour
            look: dict[str, Any] = {"color": colour, "markersize": size, "markerfacecolor": fill}
            ax.plot(value, row, marker, label=label, markeredgewidth=2, **look)
    ax.axvline(chance, color=GREY, linestyle=":", label=f"guessing ({chance:.2f})")
    ax.set_yticks(range(len(votes)), list(votes))
    ax.invert_yaxis()
    ax.set_ylim(len(votes) - 0.5, -0.5)
    ax.set_xlim(0, 1)
    ax.set_xlabel("mean vote for the true rotation")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def describe(t: Transformation) -> str:
    """One line on a transformation: its number in the catalogue, or that it has none."""
    number = number_of(t)
    if number:
        return f"$T_{{{number}}}$: {t}"
    colour = number_of(Transformation(0, t.flip, t.tx, t.ty, t.k)) if t.grey else None
    hint = f" (without grey it is $T_{{{colour}}}$)" if colour else ""
    return f"not among the 54{hint}: {t}"


def draw_builder(
    flip: bool, tx: int, ty: int, k: int, grey: bool, translation: str = "pixel"
) -> Figure:
    """The example image, its copy under the transformation that is asked for, and its number."""
    t = Transformation(int(grey), int(flip), tx, ty, k)
    image = example_image()
    figure = Figure(figsize=(5.2, 3.1), layout="constrained")
    axes = figure.subplots(1, 2)
    in_catalogue = number_of(t) is not None
    show_image(axes[0], picture(image), "image")
    show_image(
        axes[1], picture(t.apply(image, translation)), "copy", NORMAL if in_catalogue else GREY
    )
    figure.suptitle(describe(t).replace(": ", "\n"), fontsize=10)
    return figure


def draw_sounds(
    spectrograms: Mapping[str, torch.Tensor], seconds: float, kilohertz: tuple[float, float]
) -> Figure:
    """Spectrograms side by side, time to the right and frequency upwards, one patch framed in each.

    Args:
        spectrograms: name -> (1, 3, n, n) in [-1, 1]; the highest frequency in the first row.
        seconds: how long they last.
        kilohertz: the lowest and the highest frequency.
    """
    low, high = kilohertz
    figure = Figure(figsize=(2.4 * len(spectrograms) + 0.9, 2.6), layout="constrained")
    axes = figure.subplots(1, len(spectrograms), sharey=True, squeeze=False)[0]
    for ax, (name, image) in zip(axes, spectrograms.items(), strict=True):
        n = image.shape[-1]
        ax.imshow(picture(image), extent=(0, seconds, *kilohertz), aspect="auto")
        ax.set_box_aspect(1)
        corner = (seconds / 2, (low + high) / 2)
        look: dict[str, Any] = {"fill": False, "edgecolor": OTHERS[0], "linewidth": 1.8}
        ax.add_patch(Rectangle(corner, seconds * PATCH / n, (high - low) * PATCH / n, **look))
        ax.set_title(name, fontsize=9)
        ax.set_xlabel("time (s)")
    axes[0].set_ylabel("frequency (kHz)")
    return figure
