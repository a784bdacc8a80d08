"""Photographs of one's own, cut into squares, for the task of notebook 07; or shipped ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from htdg.course.photo import CourseImagesError, typed_path
from htdg.datasets.samples import texture_set
from htdg.errors import UserError
from htdg.io.images import list_images, load_uint8

#: Photographs that are used at most: the first trains, the others are held out.
MOST = 3
#: A square must have this many pixels along a side, as many as the coarsest scale.
LEAST_SIDE = 25


@dataclass(frozen=True)
class Squares:
    """Squares cut from photographs.

    Attributes:
        train: (H, H) or (H, H, 3) uint8, from the middle of the first photograph.
        held_out: all squares of the others.
        source: where they are from, in a sentence, and why if the photographs could not be used.
    """

    train: np.ndarray
    held_out: list[np.ndarray]
    source: str


def squares_of(folder: str | Path, cuts: int, texture: str = "brick") -> Squares:
    """The squares of two or three photographs, each cut into ``cuts`` x ``cuts``.

    The shipped crops of a texture take their place if there is no folder, or if it is missing or
    holds too few images, or one that cannot be read or is too small.

    Args:
        folder: of the photographs, all of the same thing; empty if there is none.
        cuts: 1 to 5.
        texture: ``brick``, ``grass`` or ``gravel``.

    Raises:
        CourseImagesError: ``cuts`` is another number, or there is no such texture.
    """
    if not isinstance(cuts, int) or cuts not in range(1, 6):
        raise CourseImagesError(f"cuts is {cuts!r}, but it must be a whole number from 1 to 5.")
    count = (MOST - 1) * cuts**2
    try:
        crops = texture_set(texture, train=1, good=count)
    except UserError as error:
        raise CourseImagesError(str(error)) from None
    shipped = Squares(crops.train[0], crops.test[:count], f"{1 + count} shipped crops of {texture}")
    if not str(folder).strip():
        return shipped
    try:
        return _own_squares(typed_path(folder), cuts)
    except UserError as error:
        return Squares(shipped.train, shipped.held_out, f"{error} Instead: {shipped.source}")


def _own_squares(folder: Path, cuts: int) -> Squares:
    """The squares of the first photographs in a folder; UserError if they cannot be used."""
    paths = list_images(folder)[0][:MOST]
    if len(paths) < 2:
        held = "only one image" if paths else "no image"
        raise UserError(
            f"{folder} holds {held} that can be read: put two or three photographs into it."
        )
    photographs = [_cut(path, cuts) for path in paths]
    held_out = [square for photograph in photographs[1:] for square in photograph]
    names = ", ".join(path.name for path in paths)
    return Squares(photographs[0][cuts**2 // 2], held_out, f"your photographs {names}")


def _cut(path: Path, cuts: int) -> list[np.ndarray]:
    """The squares of the middle of a photograph, row by row; UserError if it is too small."""
    photograph = load_uint8(path)
    height, width = photograph.shape[:2]
    side = min(height, width) // cuts
    if side < LEAST_SIDE:
        raise UserError(
            f"{path} has {width} x {height} pixels, too few for {cuts} x {cuts} squares of "
            f"{LEAST_SIDE} or more: take a larger photograph, or fewer cuts."
        )
    top, left = (height - side * cuts) // 2, (width - side * cuts) // 2
    rows = range(top, top + side * cuts, side)
    columns = range(left, left + side * cuts, side)
    return [photograph[y : y + side, x : x + side] for y in rows for x in columns]
