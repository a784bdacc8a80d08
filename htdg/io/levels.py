"""From the values that an image is stored in to [0, 1].

What is black is always 0. What is white follows from the type, 255 or 65535, but cameras of 10, 12
or 14 bits keep their values in 16: then nothing in the image says what is white, and it is asked
for.
"""

from __future__ import annotations

import warnings

import numpy as np

from htdg.io.problems import ImageError, ImageWarning

#: What is white in files and cameras of 8, 10, 12 and 14 bits.
WHITE = (255, 1023, 4095, 16383)
#: By this much, rounding may carry floats out of [0, 1].
ROUNDING = 1e-6


def in_unit_range(array: np.ndarray, name: str, white_level: int = 0) -> np.ndarray:
    """Any supported type as float32 in [0, 1], in an array of its own.

    Args:
        array: of any shape; bool, integers, or floats in [0, 1].
        name: of the image, for messages.
        white_level: the integer that is white if the type has more than 8 bits; larger ones are
            white, too. 0 takes that of the type: 65535, and of 32 and more bits what ``_of_type``
            says.

    Raises:
        ImageError: the type or the range is none of these.
    """
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.bool_:
        return array.astype(np.float32)
    if array.dtype == np.uint8:
        return _divided(array, 255)
    if np.issubdtype(array.dtype, np.floating):
        return _checked(array, name)
    if not np.issubdtype(array.dtype, np.integer):
        raise ImageError(f"{name} has type {array.dtype}, but must be integers, bool or float.")
    least, most = int(array.min()), int(array.max())
    if least < 0 or (most > 65535 and not white_level):
        raise ImageError(
            f"{name} has values from {least} to {most}, but integers must lie in 0 to 65535: "
            "convert it to 8 or 16 bits."
        )
    white = white_level or _of_type(array.dtype, most)
    if most > white:
        warnings.warn(
            f"Some values are above the white level, {white}, and are taken for white: if many "
            "are, it is another one.",
            ImageWarning,
            stacklevel=2,
        )
    return _divided(array, white)


def _divided(array: np.ndarray, white: int) -> np.ndarray:
    """Integers as float32, 1 where they are white or more."""
    unit = array.astype(np.float32)
    unit /= white
    return np.minimum(unit, 1, out=unit)


def _checked(array: np.ndarray, name: str) -> np.ndarray:
    """Floats as float32, if they are in [0, 1]."""
    if not np.isfinite(array).all():
        raise ImageError(f"{name} holds values that are not finite: replace them first.")
    if array.min() < -ROUNDING or array.max() > 1 + ROUNDING:
        raise ImageError(
            f"{name} has float values from {array.min():g} to {array.max():g}, but floats must "
            "lie in [0, 1]: divide by the largest possible value."
        )
    return array.clip(0, 1).astype(np.float32, copy=False)


def _of_type(kind: np.dtype, most: int) -> int:
    """What is white in integers of more than 8 bits; warns where that is a guess.

    Types of 32 and more bits are a container only: with no value above 255 they are read as 8
    bits, else as 16. The warnings name no image, so that they come once and not for each.

    Args:
        kind: of the integers.
        most: the highest of them, at most 65535.
    """
    if kind != np.uint16 and most <= 255:
        warnings.warn(
            f"Images of type {kind} are read as 8 bits if no value is above 255, as this one, and "
            "else as 16: give white_level if that is not so.",
            ImageWarning,
            stacklevel=3,
        )
        return 255
    if 0 < most <= WHITE[-1]:
        level = next(level for level in WHITE if most <= level)
        warnings.warn(
            f"An image of 16 bits has no value above {level}, as of a camera of "
            f"{level.bit_length()} bits, and is read as a dark one: if {level} is white, give "
            f"white_level={level} (--white-level {level}).",
            ImageWarning,
            stacklevel=3,
        )
    return 65535


def warn_of_dark_colours(array: np.ndarray) -> None:
    """Warn if a colour image of 16 bits, here its upper 8, looks as if it were of fewer bits.

    Args:
        array: (H, W, 3) or (H, W, 4) uint8.
    """
    most = int(array[..., :3].max()) if array.size else 0
    if most <= WHITE[-1] >> 8:
        warnings.warn(
            "A colour image of 16 bits uses no more than 14 of them, and is read as a dark one: if "
            "its camera has fewer bits, convert its images to 8 bits, with white as 255.",
            ImageWarning,
            stacklevel=3,
        )
