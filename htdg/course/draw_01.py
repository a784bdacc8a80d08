"""Figures of notebook 01, the pyramid (paper section 3.1), made of plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from htdg.evaluation.plots import ANOMALOUS, GREY, NORMAL, OTHERS, show_image
from htdg.io.images import to_uint8
from htdg.pyramid import pyramid_sides, resize

#: Side of a patch in pixels: the receptive field of five 3 x 3 convolutions.
FIELD = 11


def logit_at(down: float, across: float, side: int, field: int = FIELD) -> tuple[int, int]:
    """Row and column of the logit whose patch has its middle at these shares of the image.

    0 is the upper and left border, 1 the lower and right one. A patch cannot leave the image, so
    near a border it is the outermost one.
    """
    row, column = (round(share * side - field / 2) for share in (down, across))
    return min(max(row, 0), side - field), min(max(column, 0), side - field)


def frame(ax: Axes, left: float, top: float, width: float, colour: str = "black") -> None:
    """Draw a square that begins at the edge of pixel (left, top), not at its centre."""
    corner = (left - 0.5, top - 0.5)  # imshow puts the centre of the first pixel at 0
    for line, shade in ((3.2, "white"), (1.6, colour)):
        ax.add_patch(Rectangle(corner, width, width, fill=False, edgecolor=shade, linewidth=line))


def draw_scales(
    image: torch.Tensor, sides: Sequence[int], down: float, across: float, field: int = FIELD
) -> Figure:
    """An image (1, 3, s, s) at all scales with one patch framed, above the enlarged patches."""
    figure = Figure(figsize=(1.65 * len(sides), 3.9), layout="constrained")
    axes = figure.subplots(2, len(sides), squeeze=False)
    for n, side in enumerate(sides):
        small = to_uint8(resize(image, side))[0]
        row, column = logit_at(down, across, side, field)
        show_image(axes[0, n], small, f"scale {n}: {side} x {side} px")
        frame(axes[0, n], column, row, field)
        patch = small[row : row + field, column : column + field]
        show_image(axes[1, n], patch, f"its {field} x {field} patch", "black")
    return figure


def draw_patch(
    image: torch.Tensor,
    sides: Sequence[int],
    scale: int,
    down: float,
    across: float,
    field: int = FIELD,
) -> Figure:
    """One patch three times: on the full image, on its scale, and enlarged.

    Args:
        image: (1, 3, s, s) in [-1, 1].
        sides: of the pyramid, coarsest first.
        scale: number of the scale.
        down: vertical position of the patch, from 0 (top) to 1.
        across: horizontal position of the patch, from 0 (left) to 1.
        field: side of the patch in pixels.
    """
    side, full = sides[scale], image.shape[-1]
    row, column = logit_at(down, across, side, field)
    small = to_uint8(resize(image, side))[0]
    figure = Figure(figsize=(7, 2.7), layout="constrained")
    axes = figure.subplots(1, 3)
    share = 100 * (field / side) ** 2
    pixels = field * full / side
    title = f"the image, {full} px: the patch covers\n{pixels:.1f} x {pixels:.1f} px, {share:.1f} %"
    show_image(axes[0], to_uint8(image)[0], title)
    frame(axes[0], column * full / side, row * full / side, pixels)
    title = f"scale {scale}, {side} px: what logit\n(row {row}, column {column}) sees"
    show_image(axes[1], small, title)
    frame(axes[1], column, row, field)
    patch = small[row : row + field, column : column + field]
    show_image(axes[2], patch, f"its {field} x {field} pixels,\nenlarged", "black")
    return figure


def draw_changes(
    images: Mapping[str, torch.Tensor], sides: Sequence[int], curves: Mapping[str, np.ndarray]
) -> Figure:
    """Changed images, and the distances of their patches from those of the original.

    Args:
        images: name -> (1, 3, s, s).
        sides: of the scales.
        curves: the same names -> (scales, 2), mean and largest distance over the patches.
    """
    figure = Figure(figsize=(6.4, 2.3 * len(images)), layout="constrained")
    axes = figure.subplots(len(images), 2, squeeze=False, width_ratios=(1, 1.4))
    for (name, image), (left, right) in zip(images.items(), axes, strict=True):
        show_image(left, to_uint8(image)[0], name)
        right.plot(sides, curves[name][:, 0], "o-", color=NORMAL, label="mean over patches")
        right.plot(sides, curves[name][:, 1], "s--", color=ANOMALOUS, label="largest")
        right.set(xticks=list(sides), xlabel="side of the scale (px)")
        right.set_ylabel("distance d (of values\nfrom -1 to 1)")
        right.set_ylim(0, 1.3 * curves[name].max())
        right.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
    return figure


def draw_gradients(gradients: Mapping[str, np.ndarray], row: int, column: int) -> Figure:
    """Absolute gradients (H, W) of a logit with respect to the input, relative to their maximum.

    On a logarithmic scale.

    The frame is the patch of the logit at ``row`` and ``column``; white is exactly 0.
    """
    figure = Figure(figsize=(7.4, 3.4), layout="constrained")
    axes = figure.subplots(1, len(gradients))
    for ax, (name, gradient) in zip(axes, gradients.items(), strict=True):
        relative = np.ma.masked_equal(gradient / gradient.max(), 0)
        shown = ax.imshow(relative, norm=LogNorm(1e-4, 1), cmap="viridis")
        frame(ax, column, row, FIELD)
        ax.set_title(name, fontsize=9)
        ax.set(
            xlabel="column (px)", ylabel="row (px)", xticks=range(0, 25, 6), yticks=range(0, 25, 6)
        )
    figure.colorbar(shown, ax=axes, label="|gradient|, largest = 1", fraction=0.05)
    return figure


def draw_field(one: np.ndarray, mean: np.ndarray, expected: np.ndarray) -> Figure:
    """Squared gradients over the patch: of one network, on average, and expected; all sum to 1."""
    figure = Figure(figsize=(8.4, 2.9), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.5))
    limits = {"vmin": 0, "vmax": max(one.max(), mean.max()), "cmap": "viridis"}
    for ax, values, name in ((axes[0], one, "one network"), (axes[1], mean, "mean of 200")):
        shown = ax.imshow(100 * values, **(limits | {"vmax": 100 * limits["vmax"]}))
        ax.set_title(name, fontsize=9)
        ax.set(xlabel="column (px)", xticks=range(0, FIELD, 5), yticks=range(0, FIELD, 5))
    axes[0].set_ylabel("row (px)")
    figure.colorbar(shown, ax=axes[:2], label="% of the squared gradient", fraction=0.05)
    positions = np.arange(FIELD) - FIELD // 2
    axes[2].plot(positions, 100 * one.sum(0), ":", color=OTHERS[1], label="one network")
    axes[2].plot(positions, 100 * mean.sum(0), "o", color=NORMAL, label="mean of 200")
    axes[2].plot(positions, 100 * expected.sum(0), color=ANOMALOUS, label="number of paths")
    axes[2].set(xlabel="columns from the middle (px)", ylabel="% in the column", ylim=(0, None))
    axes[2].legend(frameon=False, fontsize=8, loc="upper left")
    axes[2].set_ylim(0, 1.3 * axes[2].get_ylim()[1])
    return figure


def draw_windows(
    image: torch.Tensor, sides: Sequence[int], down: float, across: float, field: int = FIELD
) -> Figure:
    """The full image (1, 3, s, s) with the areas that the patches of ``draw_scales`` cover."""
    full = image.shape[-1]
    colours = (ANOMALOUS, OTHERS[1], OTHERS[0], NORMAL, "black", GREY)
    figure = Figure(figsize=(5.4, 2.3), layout="constrained")
    ax, names = figure.subplots(1, 2, width_ratios=(1, 1))
    show_image(ax, to_uint8(image)[0])
    names.axis("off")
    for n, side in enumerate(sides):
        row, column = logit_at(down, across, side, field)
        pixel = full / side
        colour = colours[n % len(colours)]
        frame(ax, column * pixel, row * pixel, field * pixel, colour)
        text = f"scale {n}, {side} px: {100 * (field / side) ** 2:.1f} %"
        names.plot([], [], color=colour, linewidth=2, label=text)
    title = "share of the image in a patch\n(from the outermost square inwards)"
    names.legend(loc="center left", frameon=False, fontsize=9, title=title, title_fontsize=9)
    return figure


def draw_sides(factors: Sequence[float], sizes: Sequence[int]) -> Figure:
    """Left: the sides for several scale factors; right: the number of scales of image sizes."""
    figure = Figure(figsize=(8.2, 3.1), layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = (("s--", OTHERS[0]), ("o-", NORMAL), ("^:", ANOMALOUS))
    for factor, (style, colour) in zip(factors, styles, strict=False):
        sides = pyramid_sides(128, scale_factor=factor)
        name = f"r0 = {factor}, {len(sides)} scales"
        left.plot(range(len(sides)), sides, style, color=colour, label=name)
    left.set(xlabel="scale n (0 is the coarsest)", ylabel="side (px)", ylim=(0, 70))
    left.set_title("image_size 128", fontsize=9)
    left.legend(frameon=False, fontsize=8, loc="lower right")
    right.step(sizes, [len(pyramid_sides(s)) for s in sizes], where="mid", color=NORMAL)
    right.set(xlabel="image_size (px)", ylabel="number of scales, N + 1", ylim=(0, 7))
    right.set_title("r0 = 0.75, from 25 px to at most 64 px", fontsize=9)
    return figure


def draw_wave(cycles: int, pixels: int, step: int, shown: float = 1 / 4) -> Figure:
    """A wave along ``pixels``, every ``step``-th of them, and the slow wave through those."""
    samples = pixels // step
    slow = abs(cycles - samples * round(cycles / samples))
    x = np.linspace(0, pixels, 40 * samples)
    taken = np.arange(0, pixels, step)
    figure = Figure(figsize=(8.2, 2.5), layout="constrained")
    ax = figure.subplots()
    label = f"the image: {cycles} periods in {pixels} px"
    ax.plot(x, np.cos(2 * np.pi * cycles * x / pixels), color=GREY, linewidth=0.8, label=label)
    label = f"through the samples: {slow} periods"
    ax.plot(x, np.cos(2 * np.pi * slow * x / pixels), color=ANOMALOUS, label=label)
    label = f"every {step}th pixel"
    ax.plot(taken, np.cos(2 * np.pi * cycles * taken / pixels), "o", color=NORMAL, label=label)
    ax.set(xlim=(-0.6, pixels * shown + 0.6), ylim=(-1.2, 1.75))
    ax.set(xlabel="position (px)", ylabel="value")
    ax.set_yticks([-1, 0, 1])
    ax.legend(frameon=False, ncols=3, loc="upper center", fontsize=8)
    return figure


def draw_ways(images: Mapping[str, torch.Tensor], zoom: float = 0.375) -> Figure:
    """Images (1, 3, H, W) of any sizes, above their upper left corners (``zoom`` of the width)."""
    figure = Figure(figsize=(1.75 * len(images), 4.0), layout="constrained")
    axes = figure.subplots(2, len(images))
    for number, (name, image) in enumerate(images.items()):
        pixels = to_uint8(image)[0]
        part = round(zoom * len(pixels))
        show_image(axes[0, number], pixels, name)
        frame(axes[0, number], 0, 0, part)
        show_image(axes[1, number], pixels[:part, :part], "", "black")
        if len(pixels) > 200:  # more than the figure has: it must not alias either
            for ax in axes[:, number]:
                # Matplotlib's own choice, which 3.9 calls "antialiased" and later ones "auto".
                ax.images[0].set_interpolation(None)
    return figure


def draw_spectra(spectra: Mapping[str, np.ndarray], limit: int) -> Figure:
    """Power over frequency, in periods per image width, from 1 to ``limit`` and beyond."""
    figure = Figure(figsize=(7.2, 3.1), layout="constrained")
    ax = figure.subplots()
    styles = ((GREY, "-"), (ANOMALOUS, "--"), (OTHERS[0], ":"), (NORMAL, "-"))
    for (name, power), (colour, style) in zip(spectra.items(), styles, strict=False):
        ax.semilogy(np.arange(1, len(power)), power[1:], style, color=colour, label=name)
    ax.axvline(limit, color="black", linewidth=0.8)
    label = f" {limit}: the fastest that\n {2 * limit} px can hold"
    ax.text(limit, 0.97, label, transform=ax.get_xaxis_transform(), fontsize=8, va="top")
    ax.set(xlabel="frequency across (periods per image width)", ylabel="power", xlim=(0, 2 * limit))
    ax.legend(frameon=False, fontsize=8, loc="lower left")
    return figure


def draw_kernel(
    offsets: np.ndarray,
    kernels: Mapping[str, np.ndarray],
    edge: np.ndarray,
    resized: np.ndarray,
) -> Figure:
    """Left: kernels over their offset in pixels of the image; right: an edge and it resized."""
    figure = Figure(figsize=(8.2, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = ((ANOMALOUS, "--"), (NORMAL, "-"))
    for (name, values), (colour, style) in zip(kernels.items(), styles, strict=True):
        left.plot(offsets, values, style, color=colour, label=name)
    left.axhline(0, color="black", linewidth=0.6)
    left.set(xlabel="distance (px of the image)", ylabel="weight, before normalising")
    left.legend(frameon=False, fontsize=8)
    left.set_ylim(-0.15, 1.45)
    right.axhspan(1, 1.25, color=GREY, alpha=0.25, linewidth=0)
    right.axhspan(-1.25, -1, color=GREY, alpha=0.25, linewidth=0)
    wide = (np.arange(len(edge)) + 0.5) / len(edge)
    small = (np.arange(len(resized)) + 0.5) / len(resized)
    right.step(wide, edge, where="mid", color=GREY, label=f"an edge, {len(edge)} px")
    right.plot(small, resized, "o-", color=ANOMALOUS, label=f"resized to {len(resized)} px")
    right.plot(small, resized.clip(-1, 1), "x", color=NORMAL, label="cut off")
    right.set(xlabel="position (share of the width)", ylabel="value", ylim=(-1.25, 1.25))
    right.set_xlim(0.3, 0.8)
    right.legend(frameon=False, fontsize=8, loc="center right")
    return figure


def draw_chain(
    images: Mapping[str, torch.Tensor], periods: Sequence[int], kept: Mapping[str, Sequence[float]]
) -> Figure:
    """Two images (1, 3, H, W) of one size, their difference, and how much of waves they keep."""
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    axes = figure.subplots(1, len(images) + 2, width_ratios=[1] * (len(images) + 1) + [1.5])
    for ax, (name, image) in zip(axes, images.items(), strict=False):
        show_image(ax, to_uint8(image)[0], name)
    first, second = images.values()
    difference = (first - second)[0].mean(0).numpy()
    shown = axes[-2].imshow(difference, cmap="RdBu", vmin=-0.25, vmax=0.25)
    axes[-2].set(xticks=[], yticks=[])
    axes[-2].set_title("first minus second", fontsize=8)
    bar = axes[-2].inset_axes((1.05, 0, 0.06, 1))  # takes nothing of the image's room
    figure.colorbar(shown, cax=bar, ticks=(-0.2, 0, 0.2))
    styles = (("o-", NORMAL), ("s--", ANOMALOUS))
    for (name, shares), (style, colour) in zip(kept.items(), styles, strict=True):
        axes[-1].plot(periods, 100 * np.asarray(shares), style, color=colour, label=name)
    axes[-1].set(xlabel="periods of the wave", ylabel="amplitude left (%)", ylim=(0, 119))
    axes[-1].set_xticks(range(2, max(periods) + 1, 2))
    axes[-1].legend(frameon=False, fontsize=8, loc="lower left")
    return figure
