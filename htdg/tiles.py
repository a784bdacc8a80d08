"""Images that are not square, as overlapping squares of their shorter side. Ours, not the paper's.

The paper reduces every image to a square. Of a part that is 256 pixels wide and 640 long this makes
something else, and of a fine crack nothing. As tiles it keeps its shape: the squares are trained
on, and scored, one by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from htdg.io.problems import ImageError
from htdg.pyramid import resize

#: The share of a tile that it has in common with the next one, at least.
OVERLAP = 0.25
#: Tiles of an image at most: its longer side may be about 48 times the shorter one.
MOST_TILES = 64


@dataclass(frozen=True)
class Tiles:
    """Where the tiles of an image lie: side by side along its longer side.

    Attributes:
        height, width: of the image, pixels; the shorter one is the side of the tiles.
        starts: where the tiles start along the longer side, evenly spread from end to end.
    """

    height: int
    width: int
    starts: tuple[int, ...]

    @classmethod
    def of_size(cls, height: int, width: int) -> Tiles:
        """As many as overlap by ``OVERLAP``; a square has one. ImageError if they are too many."""
        side, length = min(height, width), max(height, width)
        count = 1 + math.ceil((length - side) / ((1 - OVERLAP) * side))
        if count > MOST_TILES:
            raise ImageError(
                f"An image of {width} x {height} pixels would be {count} tiles, but {MOST_TILES} "
                "are the most: cut it into shorter parts, or do without tiles."
            )
        return cls.spread(height, width, count)

    @classmethod
    def spread(cls, height: int, width: int, count: int) -> Tiles:
        """So many, evenly from end to end; a single one starts at 0."""
        spare, steps = abs(height - width), max(count - 1, 1)
        return cls(height, width, tuple(round(i * spare / steps) for i in range(count)))

    @property
    def side(self) -> int:
        """Of each tile, pixels."""
        return min(self.height, self.width)

    def cut(self, image: torch.Tensor) -> list[torch.Tensor]:
        """The tiles (C, side, side) of (C, height, width), from left to right or downwards."""
        along = 2 if self.width > self.height else 1
        return [image.narrow(along, start, self.side) for start in self.starts]

    def joined(self, maps: Sequence[np.ndarray]) -> np.ndarray:
        """The maps (side, side) of the tiles as one (height, width), float32.

        Where tiles overlap their mean counts, each the less the nearer its end: no seam is seen.
        """
        ramp = np.minimum(np.arange(1, self.side + 1), np.arange(self.side, 0, -1))
        total = np.zeros((self.side, max(self.height, self.width)))
        weights = np.zeros(total.shape[1])
        for of_tile, start in zip(maps, self.starts, strict=True):
            across = of_tile if self.width > self.height else of_tile.T
            total[:, start : start + self.side] += ramp * across
            weights[start : start + self.side] += ramp
        whole = (total / weights).astype(np.float32)
        return whole if self.width > self.height else whole.T


def squares(image: torch.Tensor, size: int, tiles: bool) -> torch.Tensor:
    """An image (3, H, W) squeezed into one square, or its tiles: (T, 3, size, size)."""
    parts = Tiles.of_size(*image.shape[-2:]).cut(image) if tiles else [image]
    return torch.cat([resize(part[None], size) for part in parts])


def training_squares(
    images: Sequence[torch.Tensor], names: Sequence[str], size: int, tiles: bool
) -> tuple[torch.Tensor, list[str]]:
    """The ``squares`` of several images, (K, 3, size, size), and of each its image's name."""
    parts = [squares(image, size, tiles) for image in images]
    labels = [name for name, of_image in zip(names, parts, strict=True) for _ in of_image]
    return torch.cat(parts), labels
