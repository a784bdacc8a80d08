"""Images in and out, under the name that users import; ``htdg.io.images`` has the code."""

from htdg.io.images import (
    ImageError,
    iterate_images,
    list_images,
    load_image,
    load_images,
    read_image,
    to_uint8,
)

__all__ = [
    "ImageError",
    "iterate_images",
    "list_images",
    "load_image",
    "load_images",
    "read_image",
    "to_uint8",
]
