"""What a data set is: which images may train, which are tested, and how one is read.

Section 4 of the paper trains on K images of one normal class and tests on everything else; every
data set says in its own way which images these are. A new one needs a class with three methods, and
a name:

    @register("squares")
    class Squares(Dataset):
        classes = ("dark", "bright")

        def __init__(self, root): ...
        def training_pool(self, normal_class): ...  # names of the images that may train
        def test_entries(self, normal_class): ...   # an Entry for each image that may be tested
        def read(self, name): ...                   # the image of that name, an array

Then ``load_dataset("squares")`` makes one.
"""

from __future__ import annotations

import contextlib
import inspect
import operator
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, SupportsIndex, overload

import numpy as np

from htdg.errors import UserError
from htdg.io.problems import ImageError


class DatasetError(UserError):
    """A data set that cannot be used as asked; the message says what is wrong, in one sentence."""


@dataclass(frozen=True)
class Entry:
    """An image of a test set that has not been read yet.

    Attributes:
        name: identifies it within the data set.
        kind: its class, ``"good"``, or what is wrong with it.
        label: 0 normal, 1 anomalous, None unknown.
    """

    name: str
    kind: str
    label: int | None


@dataclass(frozen=True)
class Sample:
    """An image of a test set.

    Attributes:
        image: (H, W), (H, W, 3) or (H, W, 4), uint8, uint16 or float in [0, 1], as
            ``htdg.io.images.load_image`` takes it.
        label: 0 normal, 1 anomalous, None unknown.
        mask: (H, W) bool, True where the image is anomalous, or None if nothing is marked.
        name: identifies it within the data set.
        kind: its class, ``"good"``, or what is wrong with it.
    """

    image: np.ndarray
    label: int | None
    mask: np.ndarray | None
    name: str
    kind: str


class Dataset(ABC):
    """A data set. The docstring of this module says how to write one.

    Attributes:
        name: the name it is registered under.
        classes: the possible values of ``normal_class``.
        aliases: other names of classes.
        description: the data set and where it lies, in one line.
        colour: False if all images are grey; the paper equalises colour images only.
        equalise_full_size: whether the paper equalises before it resizes (see ``equalise``).
        skipped: files that were passed over because they are no images.
        notes: lines that say how the data were understood, where that was not certain.
    """

    name: ClassVar[str] = ""
    classes: Sequence[str] = ()
    aliases: Mapping[str, str] = {}
    description: str = ""
    colour: bool = True
    equalise_full_size: bool = False
    skipped: Sequence[Path] = ()
    notes: Sequence[str] = ()

    @abstractmethod
    def __init__(self, root: Path) -> None:
        """Find the data below ``root``; further arguments are the data set's options."""

    @abstractmethod
    def training_pool(self, normal_class: str) -> Sequence[str]:
        """The names of the images of a class that may train, in file order."""

    @abstractmethod
    def test_entries(self, normal_class: str) -> Sequence[Entry]:
        """The images that may be tested, in file order, when this class is the normal one."""

    @abstractmethod
    def read(self, name: str) -> np.ndarray:
        """The image of that name, as in ``Sample``. Several threads may call it at a time."""

    def read_mask(self, name: str) -> np.ndarray | None:
        """The mask of a test image, as in ``Sample``."""
        return None

    def without_training(
        self, entries: Sequence[Entry], training_names: Collection[str]
    ) -> Sequence[Entry]:
        """The entries that are none of the training images."""
        return [entry for entry in entries if entry.name not in training_names]

    def resolve_class(self, normal_class: str | SupportsIndex | None) -> str:
        """The name of the class of that name or number.

        Numbers are whole ones of any type (Python's, NumPy's) and start at 0. Capitals, spaces and
        punctuation in names do not matter. None stands for the only class where there is one.

        Raises:
            DatasetError: there is no such class.
        """
        if normal_class is None and len(self.classes) == 1:
            return self.classes[0]
        number: int | None = None
        if isinstance(normal_class, str):
            if normal_class in self.classes:
                return str(normal_class)
            names = {_plain(name): name for name in self.classes}
            names |= {_plain(alias): name for alias, name in self.aliases.items()}
            try:
                number = int(normal_class)
            except ValueError:  # a name, not a number
                if _plain(normal_class) in names:
                    return names[_plain(normal_class)]
        elif normal_class is not None and not isinstance(normal_class, bool):
            with contextlib.suppress(TypeError):
                number = operator.index(normal_class)
        if number is not None and 0 <= number < len(self.classes):
            return self.classes[number]
        raise DatasetError(
            f"{self.name} has no class {normal_class!r}: choose from {', '.join(self.classes)}, "
            f"or a number from 0 to {len(self.classes) - 1}."
        )

    def training_images(
        self,
        normal_class: str | SupportsIndex | None,
        shots: SupportsIndex,
        index: SupportsIndex | None = None,
        seed: SupportsIndex | None = None,
    ) -> tuple[list[np.ndarray], list[str]]:
        """K normal images to train on, and their names.

        Args:
            normal_class: name or number of the class that is normal.
            shots: number of images, K.
            index: which block of K images in file order, counted from 1; by default the first.
            seed: instead of ``index``: draws them at random, as ``choose`` does.

        Returns:
            K arrays as in ``Sample.image``, and K names.

        Raises:
            DatasetError: there is no such class, there are not that many images, or one of them
                cannot be read.
        """
        class_name = self.resolve_class(normal_class)
        pool = self.training_pool(class_name)
        names = choose(pool, shots, index, seed, f"Class {class_name} of {self.name}")
        return [self.checked_read(name) for name in names], names

    def test_set(
        self,
        normal_class: str | SupportsIndex | None,
        training_names: Collection[str] = (),
        limit: SupportsIndex | None = None,
        limit_per_kind: SupportsIndex | None = None,
    ) -> SampleSequence:
        """The test images, each read only when its turn comes.

        Args:
            normal_class: name or number of the class that is normal.
            training_names: names of the images that the model was trained on; they are left out.
            limit: keep only so many images, the first in file order.
            limit_per_kind: keep only so many of each class or defect, the first in file order.

        Raises:
            DatasetError: there is no such class, or no image is left.
        """
        class_name = self.resolve_class(normal_class)
        entries = self.without_training(self.test_entries(class_name), frozenset(training_names))
        if limit_per_kind is not None:
            entries = _first_of_each_kind(entries, _count("limit_per_kind", limit_per_kind))
        if limit is not None:
            entries = entries[: _count("limit", limit)]
        if not entries:
            raise DatasetError(f"Class {class_name} of {self.name} has no images left to test on.")
        return SampleSequence(self, entries)

    def checked_read(self, name: str) -> np.ndarray:
        """``read``, with a DatasetError for an image that cannot be read."""
        try:
            return self.read(name)
        except ImageError as error:
            raise DatasetError(str(error)) from None


class SampleSequence(Sequence[Sample]):
    """The images of a test set, read one at a time and not kept.

    Attributes:
        entries: name, kind and label of each image, which need no reading.
    """

    def __init__(self, dataset: Dataset, entries: Sequence[Entry]) -> None:
        """The images ``entries`` of a data set."""
        self._dataset = dataset
        self.entries = list(entries)

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.entries)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> SampleSequence: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Sample | SampleSequence:
        """Read the image at that place (a ``Sample``); of a slice, the shorter sequence."""
        if isinstance(index, slice):
            return SampleSequence(self._dataset, self.entries[index])
        entry = self.entries[index]
        image = self._dataset.checked_read(entry.name)
        mask = self.mask(index)
        if mask is not None and mask.shape != image.shape[:2]:
            raise DatasetError(
                f"The mask of {entry.name} has {_size(mask)} pixels but its image {_size(image)}: "
                "make them the same size."
            )
        return Sample(image, entry.label, mask, entry.name, entry.kind)

    def subset(self, numbers: Sequence[int]) -> SampleSequence:
        """The images at these places."""
        return SampleSequence(self._dataset, [self.entries[i] for i in numbers])

    def mask(self, index: SupportsIndex) -> np.ndarray | None:
        """The mask alone, (H, W) bool, of the image at that place; None if nothing is marked."""
        try:
            return self._dataset.read_mask(self.entries[index].name)
        except ImageError as error:
            raise DatasetError(str(error)) from None


def choose(
    pool: Sequence[str],
    shots: SupportsIndex,
    index: SupportsIndex | None = None,
    seed: SupportsIndex | None = None,
    subject: str = "This data set",
) -> list[str]:
    """Choose K training images among all that may train.

    With ``index`` (1 by default): the index-th block of K in the order of ``pool``, so that
    ``index=2, shots=3`` is the 4th, 5th and 6th. With ``seed``: the first K of
    ``numpy.random.default_rng(seed).permutation(len(pool))``, so that with one seed more shots add
    to what fewer shots choose.

    Messages begin with ``subject``.

    Raises:
        DatasetError: there are not that many, or both ``index`` and ``seed`` are set.
    """
    count = _count("shots", shots)
    if not pool:
        raise DatasetError(f"{subject} has no images to train on.")
    if count > len(pool):
        raise DatasetError(
            f"{subject} has {len(pool)} images to train on, but {count} are asked for: choose from "
            f"1 to {len(pool)} shots."
        )
    if seed is not None:
        if index is not None:
            raise DatasetError("Training images are chosen by index or by seed: give one of them.")
        order = np.random.default_rng(_count("seed", seed, least=0)).permutation(len(pool))
        return [pool[i] for i in order[:count]]
    block = _count("index", 1 if index is None else index)
    blocks = len(pool) // count
    if block > blocks:
        raise DatasetError(
            f"{subject} has {len(pool)} images to train on, so there is no block {block} of "
            f"{count}: choose an index from 1 to {blocks}."
        )
    return list(pool[(block - 1) * count : block * count])


# --- the registry -------------------------------------------------------------------------------

_REGISTRY: dict[str, type[Dataset]] = {}


def register(name: str) -> Callable[[type[Dataset]], type[Dataset]]:
    """Class decorator by which ``load_dataset`` makes the data set ``name``."""

    def register_class(dataset: type[Dataset]) -> type[Dataset]:
        dataset.name = name
        _REGISTRY[name] = dataset
        return dataset

    return register_class


def dataset_names() -> list[str]:
    """The names of all data sets, sorted."""
    return sorted(_REGISTRY)


def dataset_classes(name: str) -> Sequence[str]:
    """The classes of the data set of that name; none if there is no such data set."""
    return _REGISTRY[name].classes if name in _REGISTRY else ()


def load_dataset(name: str, root: str | Path = "data", **options: object) -> Dataset:
    """The data set of that name, which lies below ``root`` or is downloaded there.

    Args:
        name: one of ``dataset_names()``.
        root: the folder that holds all data sets.
        options: of this data set; its class names them.

    Raises:
        DatasetError: there is no such data set or option, or its files are missing or damaged.
    """
    if name not in _REGISTRY:
        raise DatasetError(
            f"There is no data set {name!r}: choose from {', '.join(dataset_names())}."
        )
    dataset_class: Callable[..., Dataset] = _REGISTRY[name]
    accepted = list(inspect.signature(dataset_class).parameters)[1:]
    for option in options:
        if option not in accepted:
            rule = f"its options are {', '.join(accepted)}" if accepted else "it has none"
            raise DatasetError(f"Data set {name} has no option {option!r}: {rule}.")
    return dataset_class(Path(root), **options)


# --- small helpers ------------------------------------------------------------------------------


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _count(name: str, value: SupportsIndex, least: int = 1) -> int:
    """A whole number of any type as Python's; DatasetError if it is less than ``least``."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise DatasetError(f"{name} is {value!r}, but it must be a whole number, at least {least}.")
    return number


def _first_of_each_kind(entries: Sequence[Entry], n: int) -> list[Entry]:
    kept: list[Entry] = []
    counts: Counter[str] = Counter()
    for entry in entries:
        counts[entry.kind] += 1
        if counts[entry.kind] <= n:
            kept.append(entry)
    return kept


def _size(array: np.ndarray) -> str:
    """Width and height, for messages."""
    return f"{array.shape[1]} x {array.shape[0]}"
