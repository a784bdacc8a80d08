"""Contrast equalisation, which the paper (section 4) applies to colour images."""

from __future__ import annotations

import numpy as np
from PIL import Image

from htdg.datasets.base import DatasetError
from htdg.io.images import ImageLike, load_uint8


def equalise(image: ImageLike, size: int | None = None, white_level: int = 0) -> np.ndarray:
    """Even out the contrast of an image (CLAHE: clip limit 2.0, 8 x 8 tiles).

    It works on the value channel of HSV, so that colours keep their hue and saturation.

    Args:
        image: one image, as ``htdg.io.images.load_image`` takes it.
        size: side in pixels of the square that the image is first resized to (bicubic); the paper
            does so for CIFAR10 and MVTec. None leaves the size as it is.
        white_level: that of ``load_image``.

    Returns:
        (H, W, 3) uint8, RGB; with ``size`` (size, size, 3). For CIFAR10 it is equal, bit for bit,
        to what the official implementation trains on.

    Raises:
        ImageError: the image cannot be read.
        DatasetError: OpenCV is not installed.
    """
    try:
        import cv2  # an extra: nothing else needs it
    except ImportError:
        raise DatasetError(
            "Contrast equalisation needs OpenCV: pip install 'htdg[datasets]', or equalise none."
        ) from None
    rgb = load_uint8(image, white_level)  # (H, W, 3)
    if size is not None:
        square = Image.fromarray(rgb).resize((size, size), Image.Resampling.BICUBIC)
        rgb = np.asarray(square)
    # Red and blue change places, as in the official code. The value channel stays the same, and the
    # hue is mirrored on the way there and back, but some values are rounded the other way.
    hue, saturation, value = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_BGR2HSV))
    value = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(value)
    return cv2.cvtColor(cv2.merge([hue, saturation, value]), cv2.COLOR_HSV2BGR)
