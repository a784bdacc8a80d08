"""MVTec AD: 15 categories of objects and textures, whose defects are marked pixel by pixel."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from htdg.datasets.archive import SUFFIXES, clean_up, unpack
from htdg.datasets.base import Dataset, DatasetError, Entry, register
from htdg.datasets.folder import Folder
from htdg.io.images import read_image

_WHOLE = "mvtec_anomaly_detection"


@register("mvtec")
class Mvtec(Dataset):
    """MVTec AD (Bergmann et al. 2019) from ``<root>/mvtec`` or ``root``: one folder a category.

    A category has ``train/good``, ``test/good``, ``test/<defect>`` and ``ground_truth/<defect>``.
    Images and masks are cropped to their central square (nearly all are square already) and keep
    their resolution; the detector resizes them to its ``image_size``.

    If a category is missing but an archive with it is there (``<category>.tar.xz``,
    ``mvtec_anomaly_detection.tar.xz``; also .tar.gz, .tar, .zip), the archive is unpacked. Nothing
    is downloaded, because the licence, CC BY-NC-SA 4.0, must be agreed to.

    Options:
        archive: path of an archive to unpack if the category is missing.

    Raises:
        DatasetError: on use, when a category is not there.
    """

    classes = (
        "bottle",
        "cable",
        "capsule",
        "carpet",
        "grid",
        "hazelnut",
        "leather",
        "metal_nut",
        "pill",
        "screw",
        "tile",
        "toothbrush",
        "transistor",
        "wood",
        "zipper",
    )
    home: ClassVar[str] = "https://www.mvtec.com/company/research/datasets/mvtec-ad"

    def __init__(self, root: Path, archive: str | Path | None = None) -> None:
        """Nothing is read yet: a category is read when it is asked for."""
        self.root = root
        self.archive = Path(archive) if archive else None
        self.description = f"MVTec AD below {root} (licence CC BY-NC-SA 4.0)"
        self._folders: dict[str, tuple[Path, Folder]] = {}

    def training_pool(self, normal_class: str) -> list[str]:
        """The images of ``train/good``."""
        place, folder = self._category(normal_class)
        return [_name(path, place) for path in folder.training_pool(normal_class)]

    def test_entries(self, normal_class: str) -> list[Entry]:
        """The images of ``test``."""
        place, folder = self._category(normal_class)
        return [
            Entry(_name(entry.name, place), entry.kind, entry.label)
            for entry in folder.test_entries(normal_class)
        ]

    def read(self, name: str) -> np.ndarray:
        """The image's central square."""
        return central_square(read_image(self._path(name)))

    def read_mask(self, name: str) -> np.ndarray | None:
        """The mask's central square; None for good images."""
        _, folder = self._category(name.split("/")[0])
        mask = folder.read_mask(str(self._path(name)))
        return None if mask is None else central_square(mask)

    @property
    def skipped(self) -> list[Path]:  # type: ignore[override]
        """Files that were passed over because they are no images."""
        return [path for _, folder in self._folders.values() for path in folder.skipped]

    @property
    def notes(self) -> list[str]:  # type: ignore[override]
        """How the folders were understood."""
        return [note for _, folder in self._folders.values() for note in folder.notes]

    def _path(self, name: str) -> Path:
        return self._category(name.split("/")[0])[0].parent / name

    def _category(self, category: str) -> tuple[Path, Folder]:
        """The folder of a category, and the data set in it."""
        if category not in self._folders:
            place = self._find(category)
            archive = self.archive or self._find_archive(category)
            if archive is not None:
                clean_up(self.root / "mvtec")
            if place is None and archive is not None:
                unpack(archive, self.root / "mvtec")
                place = self._find(category)
            if place is None:
                raise DatasetError(
                    f"MVTec AD's {category} is not in {self.root / 'mvtec'}: get it from "
                    f"{self.home} under the licence CC BY-NC-SA 4.0 (no commercial use) and put "
                    "the archive or its folder there."
                )
            self._folders[category] = place, Folder(place)
        return self._folders[category]

    def _places(self) -> list[Path]:
        base = self.root / "mvtec"
        return [base, self.root, base / _WHOLE, self.root / _WHOLE]

    def _find(self, category: str) -> Path | None:
        places = [place / category for place in self._places()]
        return next((place for place in places if (place / "train").is_dir()), None)

    def _find_archive(self, category: str) -> Path | None:
        names = [f"{stem}{suffix}" for stem in (category, _WHOLE) for suffix in SUFFIXES]
        paths = [place / name for name in names for place in self._places()]
        return next((path for path in paths if path.is_file()), None)


def central_square(array: np.ndarray) -> np.ndarray:
    """Crop (H, W) or (H, W, C) to the square of side min(H, W) in its middle."""
    height, width = array.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return array[top : top + side, left : left + side]


def _name(path: str, place: Path) -> str:
    return Path(path).relative_to(place.parent).as_posix()
