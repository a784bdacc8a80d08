"""A folder of one's own: good images to train on, and others to test.

    train/*.png  or  train/good/*.png
    test/good/*.png, test/<defect>/*.png  or, when nobody knows what they are,  test/*.png
    ground_truth/<defect>/<name>_mask.png  or  <name>.png, if there are masks

Subfolders may go deeper, and images may be of any format, size and depth.
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
    """Images in folders; see the module's text. They are called by their paths.

    A test image that is one of the training images, or a copy of one, is left out of the test.

    Options:
        train: folder of good images, by default ``<root>/train``. If it has a subfolder ``good``,
            only that counts.
        test: folder of images to test, by default ``<root>/test``.
        masks: folder of masks, by default ``ground_truth`` beside the test folder, if there. A mask
            has the size of its image; more than half its brightest value marks a defect.
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
        """Look into the training folder."""
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
        trained = [path for path in map(Path, training_names) if path.is_file()]
        sizes = {path.stat().st_size for path in trained}
        digests = {_digest(path) for path in trained}
        kept = []
        for entry in entries:
            path = Path(entry.name)
            same = path.stat().st_size in sizes and _digest(path) in digests
            if not same and entry.name not in training_names:
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
            found = list_images(self.masks)[0] if self.masks.is_dir() else []
            self._masks = {(p.parent.relative_to(self.masks), p.stem): p for p in found}
        place = path.parent.relative_to(self.test)
        mask = self._masks.get((place, f"{path.stem}_mask")) or self._masks.get((place, path.stem))
        return None if mask is None else as_mask(mask)

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
