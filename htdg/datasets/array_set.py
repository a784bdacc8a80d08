"""Data sets that come as arrays: a training and a test split, each with labels.

The paper's rule for these (section 4): one class is normal, and the model trains on images of this
class in the training split; it is tested on the whole test split, where all other classes are
anomalous.
"""

from __future__ import annotations

import numpy as np

from htdg.datasets.base import Dataset, DatasetError, Entry

#: Images (n, H, W) or (n, H, W, 3) uint8, and class numbers (n,).
Split = tuple[np.ndarray, np.ndarray]


class ArraySet(Dataset):
    """Base of MNIST, FashionMNIST and CIFAR10. Images are called ``train/00042``, ``test/00007``.

    The number is the image's place in its split, counted from 0.
    """

    def load_split(self, part: str) -> Split:
        """Read the split ``"train"`` or ``"test"``. DatasetError if it is damaged."""
        raise NotImplementedError

    def split(self, part: str) -> Split:
        """``load_split``, checked, read once and kept: a split takes at most some 150 MB."""
        self._splits: dict[str, Split] = getattr(self, "_splits", {})
        if part not in self._splits:
            images, labels = self.load_split(part)
            if len(images) != len(labels) or not np.isin(labels, range(len(self.classes))).all():
                raise DatasetError(
                    f"The {part} images of {self.name} do not fit their labels: get them again."
                )
            self._splits[part] = images, labels
        return self._splits[part]

    def training_pool(self, normal_class: str) -> list[str]:
        """The images of this class in the training split."""
        _, labels = self.split("train")
        return [f"train/{i:05d}" for i in np.flatnonzero(labels == self._number(normal_class))]

    def test_entries(self, normal_class: str) -> list[Entry]:
        """The whole test split."""
        normal = self._number(normal_class)
        _, labels = self.split("test")
        return [
            Entry(f"test/{i:05d}", self.classes[label], int(label != normal))
            for i, label in enumerate(labels)
        ]

    def read(self, name: str) -> np.ndarray:
        """The image, (H, W) or (H, W, 3) uint8."""
        part, number = name.split("/")
        return self.split(part)[0][int(number)]

    def _number(self, normal_class: str) -> int:
        return list(self.classes).index(normal_class)
