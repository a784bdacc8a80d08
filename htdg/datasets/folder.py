"""A user's own images in a folder: good ones to train on, and others to test.

    train/*.png  or  train/good/*.png
    test/good/*.png, test/<defect>/*.png  or, where the labels are unknown,  test/*.png
    ground_truth/<defect>/<name>_mask.png  or  _gt, _label or nothing instead of _mask, if there are

The layout is that of MVTec AD. Subfolders may go deeper, links are followed, and images may have
any format, size and bit depth. What was understood is said in ``notes``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from htdg.datasets.base import Dataset, DatasetError, Entry, register
from htdg.datasets.masks import ENDINGS, read_mask
from htdg.io.images import list_images, read_image
from htdg.io.problems import ImageError

GOOD = "good"
UNKNOWN = "unknown"


@register("folder")
class Folder(Dataset):
    """Images in folders laid out as this module's docstring shows; their names are their paths.

    A test image that is one of the training images, or a copy of one, is left out of the test.

    Options:
        train: folder of good images, by default ``<root>/train``. If it has a subfolder of good
            ones, only that counts.
        test: folder of images to test, by default ``<root>/test``.
        masks: folder of masks, by default ``ground_truth`` beside the test folder, if it exists. A
            mask has the size of its image (see ``htdg.datasets.masks``). One that cannot be read is
            named in ``notes``, and its image counts as one without.
        good: names of subfolders that hold good images, in capitals or not; by default ``good``.
        strict: refuse files that are no images, instead of passing them over (see ``skipped``), and
            masks that cannot be read.

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
        good: Sequence[str] = (GOOD,),
    ) -> None:
        """List the training folder; the test folder is read when it is asked for."""
        self.train = Path(train) if train else root / "train"
        self.test = Path(test) if test else root / "test"
        self.masks = Path(masks) if masks else self.test.parent / "ground_truth"
        self.strict, self.notes = strict, []
        self.good = {name.lower() for name in ([good] if isinstance(good, str) else good)}
        if masks and not self.masks.is_dir():
            raise DatasetError(f"{self.masks} is no folder: give one that holds masks, or none.")
        if self.train.is_dir():
            inside = [path for path in sorted(self.train.iterdir()) if path.is_dir()]
            of_good = [path for path in inside if path.name.lower() in self.good]
            self.train = of_good[0] if of_good else self.train
        self._pool = [str(path) for path in self._list(self.train)]
        self._masks: dict[str, Path] = {}
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
            self.notes = [
                *self.notes,
                f"what the {len(loose)} images in {self.test} are is unknown.",
            ]
            return [Entry(str(path), UNKNOWN, None) for path in loose]
        entries = []
        for path in paths:
            inside_train = path.resolve().is_relative_to(self.train.resolve())
            kind = GOOD if inside_train else path.relative_to(self.test).parts[0]
            kind = GOOD if kind.lower() in self.good else kind
            entries.append(Entry(str(path), kind, int(kind != GOOD)))
        self._masks = self._find_masks(entries)
        self.notes = [*self.notes, self._layout(entries), *self._missing_masks(entries)]
        return entries

    def _layout(self, entries: Sequence[Entry]) -> str:
        """What was understood of the folders, in a line."""
        kinds = Counter(entry.kind for entry in entries)
        n_good = kinds.pop(GOOD, 0)
        others = ", ".join(f"{name} {count}" for name, count in sorted(kinds.items()))
        line = (
            f"{len(self._pool)} good images to train on in {self.train}; in {self.test} {n_good} "
        )
        line += f"good ones and {sum(kinds.values())} others" + (f" ({others})." if others else ".")
        if not n_good:
            line += " None of its folders is called " + " or ".join(sorted(self.good)) + ": name "
            line += "those with good images (--good NAME)."
        return line

    def _missing_masks(self, entries: Sequence[Entry]) -> list[str]:
        """How many defects have a mask, in a line, unless all have."""
        defects = [entry.name for entry in entries if entry.label == 1]
        marked = sum(name in self._masks for name in defects)
        if marked == len(defects):
            return []
        where = f"in {self.masks}" if self.masks.is_dir() else f"as there is no {self.masks}"
        line = f"{marked} of {len(defects)} anomalous images have a mask {where}"
        return [f"{line}." if marked else f"{line}, so there are no pixel metrics."]

    def _find_masks(self, entries: Sequence[Entry]) -> dict[str, Path]:
        """The mask of each image that has one, by the image's name."""
        files = list_images(self.masks)[0] if self.masks.is_dir() else []
        by_name = {(path.parent.relative_to(self.masks), path.stem): path for path in files}
        found = {}
        for entry in entries:
            path = Path(entry.name)
            if path.is_relative_to(self.test):
                folder = path.parent.relative_to(self.test)
                names = ((folder, path.stem + ending) for ending in ENDINGS)
                best = next((name for name in names if name in by_name), None)
                if best is not None:
                    found[entry.name] = by_name[best]
        return found

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
        """The image's mask, if there is one that can be read."""
        if name not in self._masks:
            return None
        try:
            mask, note = read_mask(self._masks[name])
        except ImageError as error:
            if self.strict:
                raise
            mask, note = None, f"{error} Its image counts as one without a mask."
        if note and note not in self.notes:
            self.notes = [*self.notes, note]
        return mask

    def _list(self, folder: Path) -> list[Path]:
        try:
            images, skipped = list_images(folder, self.strict)
        except ImageError as error:
            raise DatasetError(str(error)) from None
        self.skipped = [*self.skipped, *(path for path in skipped if path not in self.skipped)]
        if not images:
            raise DatasetError(f"{folder} holds no images: put some there, or name another folder.")
        return images


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
