"""Images in and out, under the name that users import; the code is in ``htdg.io.images``."""

from htdg.io.images import (
    ImageError,
    ImageLike,
    Images,
    iterate_images,
    list_images,
    load_image,
    load_images,
    read_image,
    to_uint8,
)

__all__ = [
    "ImageError",
    "ImageLike",
    "Images",
    "iterate_images",
    "list_images",
    "load_image",
    "load_images",
    "read_image",
    "to_uint8",
]
