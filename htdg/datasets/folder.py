"""A user's own images in a folder: good ones to train on, and others to test.

    train/*.png  or  train/good/*.png
    test/good/*.png, test/<defect>/*.png  or, where the labels are unknown,  test/*.png
    ground_truth/<defect>/<name>_mask.png  or  <name>.png, if there are masks

The layout is that of MVTec AD. Subfolders may go deeper, and images may have any format, size and
bit depth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from htdg.datasets.base import Dataset, DatasetError, Entry, register
from htdg.io.images import ImageError, list_images, load_image, read_image

GOOD = "good"
UNKNOWN = "unknown"


@register("folder")
class Folder(Dataset):
    """Images in folders laid out as this module's docstring shows; their names are their paths.

    A test image that is one of the training images, or a copy of one, is left out of the test.

    Options:
        train: folder of good images, by default ``<root>/train``. If it has a subfolder ``good``,
            only that counts.
        test: folder of images to test, by default ``<root>/test``.
        masks: folder of masks, by default ``ground_truth`` beside the test folder, if it exists. A
            mask has the size of its image; it marks a defect where it is brighter than half its
            brightest pixel.
        strict: refuse files that are no images, instead of passing them over (see ``skipped``).

    Raises:
        DatasetError: a folder is missing, or holds no images.
    """

    classes = (GOOD,)

    def __init__(
        self,
        root: Path,
        train: str | Path | None = None,
        test: str | Path | None = None,
        masks: str | Path | None = None,
        strict: bool = False,
    ) -> None:
        """List the training folder; the test folder is read when it is asked for."""
        self.train = Path(train) if train else root / "train"
        self.test = Path(test) if test else root / "test"
        self.masks = Path(masks) if masks else self.test.parent / "ground_truth"
        self.strict = strict
        if masks and not self.masks.is_dir():
            raise DatasetError(f"{self.masks} is no folder: give one that holds masks, or none.")
        if (self.train / GOOD).is_dir():
            self.train = self.train / GOOD
        self._pool = [str(path) for path in self._list(self.train)]
        self._masks: dict[tuple[Path, str], Path] | None = None
        self.description = f"{len(self._pool)} good images in {self.train}"

    def training_pool(self, normal_class: str) -> Sequence[str]:
        """All images of the training folder, sorted."""
        return self._pool

    def test_entries(self, normal_class: str) -> list[Entry]:
        """All images of the test folder, sorted; their subfolder says what they are."""
        paths = [p for p in self._list(self.test) if not p.is_relative_to(self.masks)]
        loose = [path for path in paths if path.parent == self.test]
        if loose and len(loose) < len(paths):
            raise DatasetError(
                f"{self.test} holds both subfolders and images such as {loose[0].name}, so that "
                f"nobody knows what these are: move them into {self.test / GOOD} or another one."
            )
        if loose:
            return [Entry(str(path), UNKNOWN, None) for path in loose]
        entries = []
        for path in paths:
            inside_train = path.resolve().is_relative_to(self.train.resolve())
            kind = GOOD if inside_train else path.relative_to(self.test).parts[0]
            entries.append(Entry(str(path), kind, int(kind.lower() != GOOD)))
        return entries

    def without_training(
        self, entries: Sequence[Entry], training_names: Collection[str]
    ) -> list[Entry]:
        """The entries whose files are none of the training images, nor copies of them."""
        training_files = [path for path in map(Path, training_names) if path.is_file()]
        sizes = {path.stat().st_size for path in training_files}
        digests = {_digest(path) for path in training_files}
        kept = []
        for entry in entries:
            path = Path(entry.name)
            is_copy = path.stat().st_size in sizes and _digest(path) in digests
            if not is_copy and entry.name not in training_names:
                kept.append(entry)
        return kept

    def read(self, name: str) -> np.ndarray:
        """The image as its file has it."""
        return read_image(name)

    def read_mask(self, name: str) -> np.ndarray | None:
        """The image's mask, if there is one."""
        path = Path(name)
        if not path.is_relative_to(self.test):
            return None
        if self._masks is None:
            masks = list_images(self.masks)[0] if self.masks.is_dir() else []
            self._masks = {(p.parent.relative_to(self.masks), p.stem): p for p in masks}
        subfolder = path.parent.relative_to(self.test)
        for stem in (f"{path.stem}_mask", path.stem):
            if (subfolder, stem) in self._masks:
                return as_mask(self._masks[subfolder, stem])
        return None

    def _list(self, folder: Path) -> list[Path]:
        try:
            images, skipped = list_images(folder, self.strict)
        except ImageError as error:
            raise DatasetError(str(error)) from None
        self.skipped = [*self.skipped, *(path for path in skipped if path not in self.skipped)]
        if not images:
            raise DatasetError(f"{folder} holds no images: put some there, or name another folder.")
        return images


def as_mask(path: Path) -> np.ndarray:
    """A mask file as (H, W) bool. ImageError if it cannot be read."""
    grey = load_image(path).amax(0).numpy() + 1  # (H, W) in [0, 2]
    return (grey > grey.max() / 2) & (grey > 0)


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
