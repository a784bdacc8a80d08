"""MNIST and FashionMNIST: grey images of 28 x 28 pixels, 60,000 to train and 10,000 to test."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from htdg.datasets.array_set import ArraySet, Split
from htdg.datasets.base import DatasetError, register
from htdg.datasets.download import download
from htdg.io.files import check_regular

#: Bytes of a file at most when it is unpacked: the largest has 47 million.
LARGEST = 2**26
_PREFIX = {"train": "train", "test": "t10k"}
_FILES = {
    "train-images": "train-images-idx3-ubyte",
    "train-labels": "train-labels-idx1-ubyte",
    "t10k-images": "t10k-images-idx3-ubyte",
    "t10k-labels": "t10k-labels-idx1-ubyte",
}


@register("mnist")
class Mnist(ArraySet):
    """Handwritten digits (LeCun et al.), in torchvision's layout: ``<root>/MNIST/raw``.

    Files may be packed (``.gz``) or not; missing ones are downloaded. Nothing else is written.

    Raises:
        DatasetError: a file is missing and cannot be downloaded.
    """

    classes = tuple("0123456789")
    colour = False
    folder: ClassVar[str] = "MNIST"
    mirrors: ClassVar[tuple[str, ...]] = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    )
    #: SHA-256 of the packed files.
    checksums: ClassVar[dict[str, str]] = {
        "train-images": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    }

    def __init__(self, root: Path) -> None:
        """Find the files below ``root``, or download them."""
        self.raw = root / self.folder / "raw"
        self.files = {short: self._file(short, name) for short, name in _FILES.items()}
        self.description = f"{self.folder} in {self.raw}"

    def _file(self, short: str, name: str) -> Path:
        plain, packed = self.raw / name, self.raw / f"{name}.gz"
        if plain.is_file():
            return plain
        if not packed.is_file():
            urls = [f"{mirror}{packed.name}" for mirror in self.mirrors]
            all_files = [f"{file}.gz" for file in _FILES.values()]
            download(urls, packed, self.checksums[short], needed=all_files)
        return packed

    def load_split(self, part: str) -> Split:
        """Images (n, 28, 28) uint8 and labels (n,)."""
        prefix = _PREFIX[part]
        images = read_idx(self.files[f"{prefix}-images"])
        labels = read_idx(self.files[f"{prefix}-labels"])
        if images.ndim != 3 or labels.ndim != 1:
            raise DatasetError(f"The {part} files in {self.raw} are mixed up: get them again.")
        return images, labels


@register("fashionmnist")
class FashionMnist(Mnist):
    """Clothes (Xiao et al.), in torchvision's layout: ``<root>/FashionMNIST/raw``. As ``Mnist``."""

    classes = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    aliases: Mapping[str, str] = {"T-shirt": "T-shirt/top"}
    folder = "FashionMNIST"
    mirrors = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
    checksums: ClassVar = {
        "train-images": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    }


def read_idx(path: Path) -> np.ndarray:
    """Read a file of unsigned bytes in the IDX format of MNIST, packed or not.

    The format: two zero bytes, 8 for unsigned bytes, the number of axes, their lengths as
    big-endian 32-bit integers, then the values.

    Raises:
        DatasetError: the file is cut short, damaged, or of another format.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        check_regular(path)
        with opener(path, "rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} cannot be read ({error}): delete it and try again.") from None
    start = 4 + 4 * content[3] if len(content) > 3 else 4
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    fits = content[:3] == b"\0\0\x08" and len(content) == start + math.prod(shape) <= LARGEST
    if not fits or len(shape) > 3 or 0 in shape:
        raise DatasetError(f"{path} is damaged or of another format: delete it and try again.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
