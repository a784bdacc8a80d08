"""Contrast equalisation, which the paper applies to the colour images that it trains on."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from PIL import Image

from htdg.io.images import load_image, to_uint8


def equalise(image: Any, size: int | None = None) -> np.ndarray:  # noqa: ANN401
    """Even out the contrast of an image (CLAHE: clip limit 2.0, 8 x 8 tiles).

    Works on the value channel of HSV, so that colours keep their hue and saturation.

    Args:
        image: anything that ``htdg.io.images.load_image`` takes.
        size: side in pixels of the square that the image is first resized to (bicubic); the paper
            does so for CIFAR10 and MVTec. None leaves the size as it is.

    Returns:
        (H, W, 3) uint8, RGB; with ``size`` (size, size, 3). Equal, bit for bit, to what the
        official implementation trains on for CIFAR10.
    """
    rgb = to_uint8(load_image(image)[None])[0]  # (H, W, 3)
    if size is not None:
        square = Image.fromarray(rgb).resize((size, size), Image.Resampling.BICUBIC)
        rgb = np.asarray(square)
    # Red and blue change places, as in the official code: the value channel is the same, and the
    # hue comes out mirrored and goes back mirrored, but some values round the other way.
    hue, saturation, value = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_BGR2HSV))
    value = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(value)
    return cv2.cvtColor(cv2.merge([hue, saturation, value]), cv2.COLOR_HSV2BGR)
