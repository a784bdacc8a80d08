"""Normal images that a threshold is chosen from: none that trained, and none twice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from htdg.commands.common import UsageError, say_unreadable
from htdg.config import HTDGConfig
from htdg.detector import HTDGDetector
from htdg.io.images import load_image
from htdg.io.problems import ImageError
from htdg.runtime.parallel import run_ahead
from htdg.runtime.progress import say
from htdg.tiles import squares

#: By how much images in [-1, 1] may differ that were read and resized on another machine.
SAME_IMAGES = 0.005


def without_copies(paths: Sequence[Path]) -> list[Path]:
    """The files whose content none before them has; how many are left out is said."""
    first: dict[bytes, Path] = {}
    for path in paths:
        try:
            first.setdefault(hashlib.sha256(path.read_bytes()).digest(), path)
        except OSError:  # whoever reads the image says so
            first[bytes(path)] = path
    if len(first) < len(paths):
        say([f"{len(paths) - len(first)} of {len(paths)} images are copies of others: left out."])
    return list(first.values())


def held_out(detector: HTDGDetector, paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The images that can be read, are no copies of others, and did not train.

    How many are left out is said on standard error.

    Returns:
        The images, and what is wrong with those that cannot be read.

    Raises:
        UsageError: none is left.
    """
    different = without_copies(paths)
    checked = run_ahead(partial(_trained, detector.config_, detector.images_, p) for p in different)
    kept, problems = [], []
    for path, found in zip(different, checked, strict=True):
        if isinstance(found, str):
            problems.append(found)
        elif not found:
            kept.append(path)
    trained = len(different) - len(kept) - len(problems)
    if trained:
        say([f"{trained} of {len(paths)} images trained the model, or are copies: left out."])
    say_unreadable(problems)
    if not kept:
        raise UsageError(
            f"None of the {len(paths)} images is left for a threshold: name normal images that did "
            "not train the model."
        )
    if len(kept) < len(paths):
        say([f"{len(kept)} images remain for the threshold."])
    return kept, problems


def _trained(config: HTDGConfig, training: torch.Tensor, path: Path) -> bool | str:
    """Whether an image is among those that trained (K, 3, s, s), or why it cannot be read."""
    try:
        image = load_image(path, None, config.white_level)
        tiles = squares(image, config.image_size, config.tiles)  # (T, 3, s, s)
    except ImageError as error:
        return str(error)
    return bool(((training - tiles[0]).abs().amax((1, 2, 3)) <= SAME_IMAGES).any())
