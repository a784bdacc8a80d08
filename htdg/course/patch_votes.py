"""A picture of one image whose patches show their votes: point at one, and read it, anywhere.

For every patch of every scale its votes are computed beforehand, and which patch of the training
image is nearest to it. ``patch_votes.html`` holds them, ``patch_votes.js`` shows those of the patch
that the reader points at: a page needs neither a kernel nor the network for it. Where scripts do
not run there is a figure of one patch.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.ndimage import binary_erosion, binary_fill_holes

from htdg.course.show import png
from htdg.detector import HTDGDetector
from htdg.evaluation.plots import (
    ANOMALOUS,
    GREY,
    NORMAL,
    OTHERS,
    PAGE,
    outline,
    png_bytes,
    show_image,
)
from htdg.io.images import ImageLike, load_image, load_uint8, to_uint8
from htdg.nearest import nearest_centres
from htdg.patches import PixelPatches
from htdg.pyramid import build_pyramid, resize
from htdg.transformations import Transformation

#: Colours of the scales, coarsest first; more than these begin again.
COLOURS = (NORMAL, ANOMALOUS, *OTHERS)
#: The image with the outline of its defect is this many times larger than the image.
ENLARGED = 4


@dataclass(frozen=True)
class ScaleVotes:
    """What is known of an image's patches at one scale of ``side`` pixels.

    Attributes:
        votes: (M, h, h) of the patch whose top left pixel is (i, j) of the image, under every
            transformation; NaN where a copy does not show the patch whole.
        nearest: (h, h, 2) top left pixel of the nearest patch of the training image.
        distances: (h, h) to it: root mean squared difference, of values in [-1, 1].
        image, training: (side, side, 3) uint8, as the discriminator sees them.
    """

    votes: np.ndarray
    nearest: np.ndarray
    distances: np.ndarray
    image: np.ndarray
    training: np.ndarray

    @property
    def side(self) -> int:
        """Of the image at this scale, pixels."""
        return len(self.image)

    @property
    def patch(self) -> int:
        """Side of a patch, pixels."""
        return self.side - len(self.distances) + 1

    @property
    def means(self) -> np.ndarray:
        """(h, h) the mean vote of each patch."""
        return np.nanmean(self.votes, 0)

    def place(self, y: float, x: float) -> tuple[int, int]:
        """The patch that is nearest to a place, given as shares of the image's height and width."""
        row, column = (int(share * self.side - self.patch / 2 + 0.5) for share in (y, x))
        last = len(self.distances) - 1
        return min(max(row, 0), last), min(max(column, 0), last)


def votes_of_patches(detector: HTDGDetector, image: ImageLike) -> list[ScaleVotes]:
    """The votes of all patches of an image, and their nearest training patches, scale by scale.

    Only upright patches of the (first) training image count, compared by their pixels.

    Raises:
        ConfigError: the model has patch distances alone.
    """
    config = detector.config_
    x = resize(load_image(image, None, config.white_level)[None], config.image_size)
    pyramids = [build_pyramid(images, detector.sides_) for images in (x, detector.images_[:1])]
    describe = PixelPatches(config.receptive_field)
    scales = []
    for votes, seen, training in zip(detector.votes(image), *pyramids, strict=True):
        h = votes.shape[-1]
        patches, bank = (describe(images, torch.arange(h))[0] for images in (seen, training))
        nearest = nearest_centres(patches, bank, 1)[:, 0]
        distances = (patches - bank[nearest]).square().mean(-1).sqrt()
        upright = []
        for of_copy, t in zip(votes, detector.transformations_, strict=True):
            undone, defined = t.undo(torch.from_numpy(of_copy), seen.shape[-1], config.translation)
            upright.append(np.where(defined, undone, np.nan))
        scales.append(
            ScaleVotes(
                np.stack(upright),
                np.stack(np.unravel_index(nearest.numpy(), (h, h)), -1).reshape(h, h, 2),
                distances.numpy().reshape(h, h),
                to_uint8(seen)[0],
                to_uint8(training)[0],
            )
        )
    return scales


class PatchVotes:
    """The picture. Displayed in a notebook, it is a page; a figure where scripts do not run.

    Attributes:
        scales: the votes that it shows.
        start: height and width, as shares of the image, of the place that it shows first.
        alt: describes the figure.
    """

    def __init__(
        self, detector: HTDGDetector, image: ImageLike, mask: np.ndarray | None = None
    ) -> None:
        """Compute all that the picture shows.

        Args:
            detector: trained, with votes.
            image: the image whose patches are shown.
            mask: (H, W) bool, where it is damaged. The picture begins in its middle; without a
                mask at the patch of the finest scale with the lowest votes.

        Raises:
            ConfigError: the model has patch distances alone.
            ValueError: the mask is not as large as the image.
        """
        self.picture, self.mask = load_uint8(image), mask
        if mask is not None and mask.shape != self.picture.shape[:2]:
            raise ValueError(
                f"The mask has {mask.shape} pixels and the image {self.picture.shape[:2]}: give a "
                "mask of the image's own height and width."
            )
        self.scales = votes_of_patches(detector, image)
        self.training = to_uint8(detector.images_[:1])[0]
        self.names = [short_name(t, m) for m, t in enumerate(detector.transformations_, start=1)]
        self.start = self._first_place()
        down, across = (round(100 * share) for share in self.start)
        means = ", ".join(f"{scale.means[scale.place(*self.start)]:.2f}" for scale in self.scales)
        sides = ", ".join(str(scale.side) for scale in self.scales)
        self.alt = (
            f"A test image and the training image. One patch of the test image, {down} % down and "
            f"{across} % across, is framed at every scale, and so is the nearest patch of the "
            f"training image. Bars show its votes: their means are {means} at scales of {sides} "
            f"pixels. Guessing gives {1 / len(self.names):.2f}."
        )

    def _first_place(self) -> tuple[float, float]:
        if self.mask is not None and self.mask.any():
            y, x = (
                float(places.mean() + 0.5) / side
                for places, side in zip(np.nonzero(self.mask), self.mask.shape, strict=True)
            )
            return y, x
        finest = self.scales[-1]
        lowest = np.unravel_index(np.nanargmin(finest.means), finest.means.shape)
        row, column = ((int(i) + finest.patch / 2) / finest.side for i in lowest)
        return row, column

    def figure(self) -> Figure:
        """One patch, its nearest training patches and its votes, for where scripts do not run."""
        figure = Figure(figsize=(PAGE, 2.3), layout="constrained")
        widths = [2, 2, *[1.1] * len(self.scales)]
        axes = figure.subplots(1, len(widths), width_ratios=widths)
        show_image(axes[0], self.picture, "test image")
        if self.mask is not None and self.mask.any():
            outline(axes[0], self.mask)
        show_image(axes[1], self.training, "training image")
        for n, (ax, scale) in enumerate(zip(axes[2:], self.scales, strict=True)):
            place, colour = scale.place(*self.start), COLOURS[n % len(COLOURS)]
            _frame(axes[0], self.picture, scale, place, colour)
            _frame(axes[1], self.training, scale, scale.nearest[place], colour)
            self._bars(ax, scale, place, colour)
        axes[2].set_ylabel("vote (dashed: guessing)", fontsize=7)
        return figure

    def _bars(self, ax: Axes, scale: ScaleVotes, place: tuple[int, int], colour: str) -> None:
        ax.bar(range(len(self.names)), np.nan_to_num(scale.votes[:, *place]), color=colour)
        ax.axhline(1 / len(self.names), color=GREY, linestyle="--", linewidth=1)
        ax.set(ylim=(0, 1), xticks=range(len(self.names)))
        ax.set_xticklabels(self.names, fontsize=6)
        ax.tick_params(axis="y", labelsize=6, labelleft=scale is self.scales[0])
        ax.set_title(f"{scale.side} px\nmean {scale.means[place]:.2f}", fontsize=8)

    def data(self) -> dict[str, Any]:
        """What the script is given, ready for JSON: votes and distances in thousandths."""
        return {
            "style": _part("css"),
            "names": self.names,
            "start": self.start,
            "picture": _encoded(self._with_outline()),
            "training": _encoded(self.training),
            "scales": [
                {
                    "side": scale.side,
                    "patch": scale.patch,
                    "colour": COLOURS[n % len(COLOURS)],
                    "votes": [_thousandths(of_copy) for of_copy in scale.votes],
                    "nearest": scale.nearest.reshape(-1).tolist(),
                    "distances": _thousandths(scale.distances),
                    "image": _encoded(scale.image),
                    "training": _encoded(scale.training),
                }
                for n, scale in enumerate(self.scales)
            ],
        }

    def page(self) -> str:
        """The picture as a piece of HTML, which has its data and its script in itself.

        The elements have no id, so that several of them can be on one page.
        """
        content = json.dumps(self.data(), separators=(",", ":")).replace("</", "<\\/")
        return (
            _part("html")
            .replace("@FIGURE@", png(self.figure()))
            .replace("@ALT@", html.escape(self.alt))
            .replace("@SCRIPT@", _part("js"))
            .replace("@DATA@", content)
        )

    def _repr_mimebundle_(self, **_kwargs: object) -> dict[str, str]:
        return {"text/html": self.page(), "text/plain": self.alt}

    def _with_outline(self) -> np.ndarray:
        """The image; with a mask it is enlarged, and the border of the mask is drawn in red."""
        if self.mask is None or not self.mask.any():
            return self.picture
        large = np.kron(self.picture, np.ones((ENLARGED, ENLARGED, 1), np.uint8))
        inside = np.kron(binary_fill_holes(self.mask), np.ones((ENLARGED, ENLARGED), bool))
        large[inside & ~binary_erosion(inside, iterations=2)] = (255, 0, 0)
        return large


def short_name(t: Transformation, number: int) -> str:
    """What stands below a bar: the angle of a mere rotation, or else the number in the paper."""
    mere = not (t.flip or t.translated or t.grey)
    return f"{90 * t.k}°" if mere else str(number)


def _frame(
    ax: Axes,
    picture: np.ndarray,
    scale: ScaleVotes,
    place: Sequence[int] | np.ndarray,
    colour: str,
) -> None:
    """Frame a patch of a scale in the whole picture, which the scale sees as a square."""
    down, across = (pixels / scale.side for pixels in picture.shape[:2])
    corner = (place[1] * across - 0.5, place[0] * down - 0.5)
    width, height = scale.patch * across, scale.patch * down
    ax.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=1.5))


def _encoded(image: np.ndarray) -> str:
    """A PNG file in base64, grey if the image (H, W, 3) uint8 is."""
    grey = (image == image[..., :1]).all()
    return base64.b64encode(png_bytes(image[..., 0] if grey else image)).decode("ascii")


def _thousandths(values: np.ndarray) -> list[int | None]:
    """Values as whole numbers, row by row; None for NaN."""
    flat = values.reshape(-1).tolist()
    return [None if value != value else round(1000 * value) for value in flat]


def _part(ending: str) -> str:
    """The file beside this one with this ending."""
    return Path(__file__).with_suffix(f".{ending}").read_text(encoding="utf-8")
