"""The sample sets of ``htdg.datasets.samples`` as data sets: textures, digits, faces."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from htdg.datasets.base import Dataset, DatasetError, Entry, register
from htdg.datasets.samples import TEXTURES, SampleSet, digit_set, face_set, texture_set


@register("textures")
class Textures(Dataset):
    """Crops of photographs of brick, grass or gravel, and others with drawn defects.

    Options:
        train, good, per_defect, seed: as in ``htdg.datasets.samples.texture_set``. Their defaults
            give the images that the repository ships in ``data/textures``.
    """

    classes = TEXTURES
    colour = False
    description = "crops of scikit-image's photographs of textures, some with drawn defects"

    def __init__(
        self, root: Path, train: int = 10, good: int = 20, per_defect: int = 8, seed: int = 0
    ) -> None:
        """Nothing is read from ``root``."""
        self._make = partial(texture_set, train=train, good=good, per_defect=per_defect, seed=seed)
        self._sets: dict[str, SampleSet] = {}

    def training_pool(self, normal_class: str) -> list[str]:
        """Crops of the lower part of the photograph."""
        return [f"{normal_class}/{name}" for name in self._set(normal_class).train_names]

    def test_entries(self, normal_class: str) -> list[Entry]:
        """Crops of its upper part, and those with defects."""
        sample = self._set(normal_class)
        rows = zip(sample.names, sample.kinds, sample.labels, strict=True)
        return [Entry(f"{normal_class}/{name}", kind, label) for name, kind, label in rows]

    def read(self, name: str) -> np.ndarray:
        """The crop, (H, W) uint8."""
        texture, _, rest = name.partition("/")
        sample = self._set(texture)
        return (sample.train + sample.test)[(sample.train_names + sample.names).index(rest)]

    def read_mask(self, name: str) -> np.ndarray | None:
        """The mask, (H, W) bool, of a crop with a defect."""
        texture, _, rest = name.partition("/")
        sample = self._set(texture)
        return sample.masks[sample.names.index(rest)]

    def _set(self, texture: str) -> SampleSet:
        if texture not in self._sets:
            try:
                self._sets[texture] = self._make(texture)
            except (ValueError, TypeError) as error:
                raise DatasetError(f"The textures cannot be made so: {error}") from None
        return self._sets[texture]


class _OnePool(Dataset):
    """Images of which some train and all others are tested. Their names are numbers, ``0042``."""

    colour = False

    def __init__(self, root: Path) -> None:
        """Nothing is read from ``root``."""
        self._images: dict[str, np.ndarray] = {}

    def make(self, normal_class: str) -> SampleSet:
        """All images as a sample set with a single training image."""
        raise NotImplementedError

    def training_pool(self, normal_class: str) -> list[str]:
        """Every image of the normal class."""
        return [entry.name for entry in self.test_entries(normal_class) if entry.label == 0]

    def test_entries(self, normal_class: str) -> list[Entry]:
        """Every image; ``test_set`` leaves out those that train."""
        sample = self.make(normal_class)
        names = [f"{int(name):04d}" for name in sample.train_names + sample.names]
        self._images = dict(zip(names, sample.train + sample.test, strict=True))
        kinds, labels = ["good", *sample.kinds], [0, *sample.labels]
        entries = map(Entry, names, kinds, labels)
        return sorted(entries, key=lambda entry: entry.name)

    def read(self, name: str) -> np.ndarray:
        """The image, (H, W) uint8."""
        if not self._images:
            self.test_entries(self.classes[0])
        return self._images[name]


@register("digits")
class Digits(_OnePool):
    """scikit-learn's handwritten digits, 8 x 8 pixels; all that do not train are tested."""

    classes = tuple("0123456789")
    description = "scikit-learn's handwritten digits, 8 x 8 pixels"

    def make(self, normal_class: str) -> SampleSet:
        """All digits."""
        return digit_set(int(normal_class), train=1)


@register("faces")
class Faces(_OnePool):
    """scikit-image's 100 faces and 100 other patches, 25 x 25 pixels; all others are tested."""

    classes = ("face",)
    description = "scikit-image's faces and other patches, 25 x 25 pixels"

    def make(self, normal_class: str) -> SampleSet:
        """All patches."""
        return face_set(train=1)
