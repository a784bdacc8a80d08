"""CIFAR10: colour images of 32 x 32 pixels, 50,000 to train and 10,000 to test (Krizhevsky)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from htdg.datasets.archive import unpack
from htdg.datasets.array_set import ArraySet, Split
from htdg.datasets.base import DatasetError, register
from htdg.datasets.download import download
from htdg.io.files import check_regular, one_line

ARCHIVE = "cifar-10-binary.tar.gz"
#: Bytes that a file with a part of the set may have when it is unpacked; the whole set has 184 MB.
LARGEST_SUBSET = 2**28
_FILES = {
    "train": [f"data_batch_{i}.bin" for i in range(1, 6)],
    "test": ["test_batch.bin"],
}


@register("cifar10")
class Cifar10(ArraySet):
    """CIFAR10, in the first of these forms that is there below ``root``.

    1. ``cifar-10-batches-bin/``, the publisher's binary version;
    2. ``cifar-10-batches-py/``, torchvision's layout. These files are pickled, so they are read
       only after torchvision has checked them against the published checksums;
    3. ``cifar10_subset.npz``, a part of the set for development: arrays ``train_x`` and ``test_x``
       (n, 32, 32, 3) uint8, ``train_y`` and ``test_y`` (n,), ``classes`` (10,);
    4. ``cifar-10-binary.tar.gz``, which is unpacked. If that is missing too, it is downloaded (170
       MB).

    Raises:
        DatasetError: nothing is there and downloading failed.
    """

    classes = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    aliases: Mapping[str, str] = {"airplane": "plane", "automobile": "car"}
    urls: ClassVar[tuple[str, ...]] = (f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}",)
    sha256: ClassVar[str] = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"

    def __init__(self, root: Path) -> None:
        """Find the files below ``root``, or download them."""
        self.root = root
        self.binary = root / "cifar-10-batches-bin"
        self.subset = root / "cifar10_subset.npz"
        if self.binary.is_dir():
            self.form = "binary"
        elif (root / "cifar-10-batches-py").is_dir():
            self.form = "python"
        elif self.subset.is_file():
            self.form = "subset"
            self.description = f"a part of CIFAR10, for development only, in {self.subset}"
            return
        else:
            self.form = "binary"
            if not (root / ARCHIVE).is_file():
                download(self.urls, root / ARCHIVE, self.sha256)
            unpack(root / ARCHIVE, root)
        self.description = f"CIFAR10 in {root}"

    def load_split(self, part: str) -> Split:
        """Images (n, 32, 32, 3) uint8 and labels (n,)."""
        if self.form == "subset":
            return self._from_subset(part)
        if self.form == "python":
            return self._from_torchvision(part)
        batches = [read_binary(self.binary / name) for name in _FILES[part]]
        images, labels = zip(*batches, strict=True)
        return np.concatenate(images), np.concatenate(labels)

    def _from_torchvision(self, part: str) -> Split:
        try:
            from torchvision.datasets import CIFAR10
        except ImportError:
            raise DatasetError(
                "CIFAR10 in torchvision's layout is read by torchvision: pip install "
                "'htdg[datasets]', or get the publisher's binary version."
            ) from None

        try:
            dataset = CIFAR10(self.root, train=part == "train", download=False)
        except (RuntimeError, OSError):
            raise DatasetError(
                f"{self.root / 'cifar-10-batches-py'} is incomplete or not the publisher's: delete "
                f"it, or put {ARCHIVE} into {self.root} and unpack it."
            ) from None
        return dataset.data, np.array(dataset.targets)

    def _from_subset(self, part: str) -> Split:
        try:
            with np.load(self.subset, allow_pickle=False) as arrays:
                if sum(info.file_size for info in arrays.zip.infolist()) > LARGEST_SUBSET:
                    raise ValueError("it is far too large when unpacked")
                images, labels = arrays[f"{part}_x"], arrays[f"{part}_y"]
                classes = [self.resolve_class(str(name)) for name in arrays["classes"].ravel()]
        except Exception as error:  # a damaged file can raise nearly anything
            reason = one_line(str(error)) or type(error).__name__
            raise DatasetError(f"{self.subset} cannot be read ({reason}): get it again.") from None
        fits = images.shape[1:] == (32, 32, 3) and images.dtype == np.uint8
        fits = fits and labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
        if not fits or classes != list(self.classes):
            raise DatasetError(f"{self.subset} is not laid out as a part of CIFAR10: get it again.")
        return images, labels


def read_binary(path: Path) -> Split:
    """Read a file of CIFAR10's binary version: a byte for the class, then 3 x 32 x 32 for pixels.

    Raises:
        DatasetError: the file is missing, cut short or damaged.
    """
    try:
        check_regular(path)
        content = np.fromfile(path, np.uint8)
    except OSError:
        raise DatasetError(
            f"{path} is not there: delete its folder and unpack {ARCHIVE} again."
        ) from None
    if len(content) == 0 or len(content) % 3073:
        raise DatasetError(f"{path} is damaged: delete its folder and unpack {ARCHIVE} again.")
    records = content.reshape(-1, 3073)
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]
