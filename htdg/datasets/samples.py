"""Sample sets of real images that scikit-image and scikit-learn ship: no download is needed.

- ``textures``: scikit-image's photographs of brick, grass and gravel. Crops are the normal images;
  the defective ones carry defects drawn by ``htdg.datasets.defects``.
- ``digits``: scikit-learn's handwritten digits, 8 x 8 pixels.
- ``faces``: scikit-image's face and non-face patches, 25 x 25 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
from PIL import Image

from htdg.datasets.base import DatasetError
from htdg.datasets.defects import DEFECTS, foreign_patch

TEXTURES = ("brick", "grass", "gravel")
KINDS = (*DEFECTS, "patch")
#: Side of a photograph, pixels. A crop covers the second many of it and is resized to the third.
PHOTO, CROP, SIDE = 512, 240, 96
#: Training crops start at this row of the photograph, test crops end above it.
TRAIN_ROW = PHOTO - CROP
TRAIN_COLUMNS = (96, 176)


@dataclass
class SampleSet:
    """Images for training and testing, grey (H, W) uint8.

    Attributes:
        train: normal images to train on.
        train_names: their names.
        test: images to score.
        labels: of the test images, 0 normal, 1 anomalous.
        masks: of the test images, (H, W) bool, True on the defect; None where nothing is marked.
        names: of the test images.
        kinds: of the test images: ``"good"``, or what is wrong.
    """

    train: list[np.ndarray] = field(default_factory=list)
    train_names: list[str] = field(default_factory=list)
    test: list[np.ndarray] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    masks: list[np.ndarray | None] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    def add_test(self, image: np.ndarray, kind: str, name: str, mask: np.ndarray | None) -> None:
        """Append a test image; every kind but ``good`` is anomalous."""
        self.test.append(image)
        self.labels.append(int(kind != "good"))
        self.masks.append(mask)
        self.names.append(name)
        self.kinds.append(kind)


def texture_set(
    texture: str, train: int = 10, good: int = 20, per_defect: int = 8, seed: int = 0
) -> SampleSet:
    """Crops of one photograph, 96 x 96 pixels, normal and with drawn defects.

    Training crops come from the lower part of the photograph, near its middle, and test crops from
    anywhere in the upper part, so that training and test images share no pixel. Crops of one part
    overlap each other. Every image has a random stream of its own: with more images, the first ones
    stay the same.

    Args:
        texture: ``brick``, ``grass`` or ``gravel``.
        train: number of training crops.
        good: number of normal test crops.
        per_defect: number of test crops with each of scratch, hole, stain and patch.
        seed: of places and defects.

    Raises:
        DatasetError: there is no such texture.
    """
    photo = texture_photo(texture)
    others = [_shrunk(texture_photo(name)) for name in TEXTURES if name != texture]
    return _crops(photo, others, train, good, per_defect, (seed, TEXTURES.index(texture)))


def photo_set(
    photo: np.ndarray, train: int = 10, good: int = 20, per_defect: int = 8, seed: int = 0
) -> SampleSet:
    """As ``texture_set``, of any photograph (512, 512) uint8; patches show the textures."""
    others = [_shrunk(texture_photo(name)) for name in TEXTURES]
    return _crops(photo, others, train, good, per_defect, (seed, len(TEXTURES)))


def _crops(
    photo: np.ndarray,
    others: list[np.ndarray],
    train: int,
    good: int,
    per_defect: int,
    stream: tuple[int, int],
) -> SampleSet:
    """The crops of a photograph; ``others`` are photographs that foreign patches show."""
    sample = SampleSet()
    for i in range(train):
        rng = np.random.default_rng([*stream, 0, i])
        sample.train.append(_crop(photo, (TRAIN_ROW, TRAIN_ROW), TRAIN_COLUMNS, rng))
        sample.train_names.append(f"train/good/{i:03d}")
    for number, kind in enumerate(("good", *KINDS), start=1):
        for i in range(good if kind == "good" else per_defect):
            rng = np.random.default_rng([*stream, number, i])
            image, mask = _crop(photo, (0, TRAIN_ROW - CROP), (0, PHOTO - CROP), rng), None
            if kind == "patch":
                image, mask = foreign_patch(image, rng, others[i % len(others)])
            elif kind != "good":
                image, mask = DEFECTS[kind](image, rng)
            sample.add_test(image, kind, f"test/{kind}/{i:03d}", mask)
    return sample


def texture_photo(texture: str) -> np.ndarray:
    """The photograph (512, 512) uint8 called ``brick``, ``grass`` or ``gravel``."""
    if texture not in TEXTURES:
        raise DatasetError(f"There is no texture {texture!r}: choose from {', '.join(TEXTURES)}.")
    return getattr(_photographs(), texture)()


def _photographs() -> ModuleType:
    """scikit-image's collection of sample photographs; DatasetError if it is not installed."""
    try:
        from skimage import data
    except ImportError:
        raise DatasetError(
            "The sample photographs are scikit-image's: pip install 'htdg[datasets]'."
        ) from None
    return data


def _shrunk(photo: np.ndarray) -> np.ndarray:
    """A whole photograph at the resolution of the crops."""
    side = photo.shape[0] * SIDE // CROP
    return np.asarray(Image.fromarray(photo).resize((side, side), Image.Resampling.LANCZOS))


def digit_set(normal_class: int, train: int = 10) -> SampleSet:
    """Handwritten digits, 8 x 8 pixels; the first ``train`` of the normal class are for training.

    All other digits are for testing.

    Raises:
        ValueError: the class is not 0 to 9, or has fewer images.
    """
    from sklearn.datasets import load_digits

    if normal_class not in range(10):
        raise ValueError(f"There is no digit {normal_class!r}: choose from 0 to 9.")
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    normal = [i for i, target in enumerate(digits.target) if target == normal_class]
    sample = SampleSet()
    _take_training(sample, images, normal, train, f"digit {normal_class}")
    training = set(normal[:train])
    for i, target in enumerate(digits.target):
        if i not in training:
            kind = "good" if target == normal_class else f"digit {target}"
            sample.add_test(images[i], kind, f"{i:04d}", None)
    return sample


def face_set(train: int = 10) -> SampleSet:
    """100 faces and 100 other patches, 25 x 25 pixels; the first ``train`` faces are for training.

    Raises:
        ValueError: more training images are asked for than there are.
    """
    faces_then_others = _photographs().lfw_subset()  # (200, 25, 25) in [0, 1], 100 of each
    images = np.round(faces_then_others * 255).astype(np.uint8)
    sample = SampleSet()
    _take_training(sample, images, list(range(100)), train, "face")
    for i in range(train, 200):
        sample.add_test(images[i], "good" if i < 100 else "no face", f"{i:03d}", None)
    return sample


def _take_training(
    sample: SampleSet, images: np.ndarray, normal: list[int], train: int, class_name: str
) -> None:
    if not 1 <= train < len(normal):
        raise ValueError(
            f"{train} training images of class {class_name} are asked for, but it must be 1 to "
            f"{len(normal) - 1}, so that one is left to test."
        )
    sample.train = [images[i] for i in normal[:train]]
    sample.train_names = [f"{i:04d}" for i in normal[:train]]


def _crop(
    photo: np.ndarray, rows: tuple[int, int], columns: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """A crop whose upper left corner lies in these ranges, ends included, resized to 96 x 96."""
    top, left = (int(rng.integers(first, last + 1)) for first, last in (rows, columns))
    crop = Image.fromarray(photo[top : top + CROP, left : left + CROP])
    return np.asarray(crop.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
