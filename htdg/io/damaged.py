"""Images of which some may be damaged: the others are not to suffer for it."""

from __future__ import annotations

import mimetypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from htdg.io.images import load_image, read_image
from htdg.io.problems import ImageError

#: Side of the grey square that stands for an image that cannot be read, pixels.
GREY_SIDE = 32


def grey_square() -> torch.Tensor:
    """What stands for an image that cannot be read: (3, 32, 32) in [0, 1]."""
    return torch.full((3, GREY_SIDE, GREY_SIDE), 0.5)


class ImagesOrGrey(Sequence[np.ndarray | torch.Tensor]):
    """Image files, read when their turn comes; a grey square stands for one that cannot be read.

    Attributes:
        problems: what is wrong with a file, by its number; complete once all have had their turn.
    """

    def __init__(self, paths: Sequence[Path], strict: bool = False, white_level: int = 0) -> None:
        """The images of these files; ``strict`` refuses what cannot be read."""
        self.paths, self.strict, self.problems = paths, strict, dict[int, str]()
        self.white_level = white_level

    def __len__(self) -> int:
        """How many files there are."""
        return len(self.paths)

    def __getitem__(self, i: Any) -> Any:  # noqa: ANN401 - a slice is never asked for
        """Image i, as ``load_image`` takes it. ImageError if it cannot be read, and ``strict``."""
        path = self.paths[i]
        try:
            array = read_image(path)
            if array.dtype == np.uint8:  # which cannot be wrong, and is small
                return array
            return (load_image(array, str(path), self.white_level) + 1) / 2
        except ImageError as error:
            if self.strict:
                raise
            self.problems[i] = str(error)
            return grey_square()


def is_called_an_image(path: Path) -> bool:
    """Whether the file's name ends like that of an image, whatever is in it."""
    kind, _ = mimetypes.guess_type(path.name, strict=False)
    return kind is not None and kind.startswith("image/")
