"""Images in and out, under the name that users import; the code is in ``htdg.io``."""

from htdg.io.images import (
    ImageLike,
    Images,
    iterate_images,
    list_images,
    load_image,
    load_images,
    read_image,
    to_uint8,
)
from htdg.io.problems import ImageError, ImageWarning

__all__ = [
    "ImageError",
    "ImageLike",
    "ImageWarning",
    "Images",
    "iterate_images",
    "list_images",
    "load_image",
    "load_images",
    "read_image",
    "to_uint8",
]
