"""What can be wrong with an image."""

from htdg.errors import UserError


class ImageError(UserError):
    """An image that cannot be used; the message names it and says what is wrong."""


class ImageWarning(UserWarning):
    """An image is used, but perhaps not as it was meant."""
