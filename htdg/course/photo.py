"""The images of notebook 00: crops of a shipped texture, or of a photograph of the reader's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from htdg.datasets.samples import PHOTO, SampleSet, photo_set, texture_set
from htdg.errors import UserError
from htdg.io.images import load_uint8

#: A photograph must have this many pixels along its shorter side: enlarged further, it is a blur.
LEAST_SIDE = PHOTO // 2


class CourseImagesError(UserError):
    """Images that a notebook cannot use; the message names them and says what is wrong."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it: the sentence, without the traceback."""
        return [str(self)]


def course_images(texture: str, photo: str | Path = "", train: int = 1) -> SampleSet:
    """Normal crops of one photograph to train on, and normal and damaged ones to test.

    Args:
        texture: ``brick``, ``grass`` or ``gravel``, where there is no photograph.
        photo: the path of an image file; empty takes the texture.
        train: number of training crops.

    Raises:
        CourseImagesError: there is no such texture, or the photograph cannot be read, is too
            small, or is of one colour.
    """
    try:
        if not str(photo).strip():
            return texture_set(texture, train)
        return photo_set(grey_square(typed_path(photo)), train)
    except UserError as error:
        raise CourseImagesError(str(error)) from None


def typed_path(text: str | Path) -> Path:
    """A path as somebody types it, perhaps with spaces around it, or ``~`` for the home folder.

    The ``~`` of a user who is not known stays, and nothing is there.
    """
    path = Path(str(text).strip())
    try:
        return path.expanduser()
    except RuntimeError:  # no such user
        return path


def grey_square(path: Path) -> np.ndarray:
    """The middle of a photograph as a grey square of the textures' size: (512, 512) uint8.

    Raises:
        UserError: it cannot be read, is too small, or is of one colour.
    """
    image = Image.fromarray(load_uint8(path)).convert("L")
    width, height = image.size
    side = min(width, height)
    if side < LEAST_SIDE:
        raise UserError(
            f"{path} is {width} x {height} pixels: give a photograph of at least {LEAST_SIDE} "
            "pixels a side."
        )
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    square = np.asarray(image.resize((PHOTO, PHOTO), Image.Resampling.LANCZOS, box))
    if square.min() == square.max():
        raise UserError(f"{path} is of one colour, so there is nothing to learn: give another.")
    return square
