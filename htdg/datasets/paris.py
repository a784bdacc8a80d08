"""Paris Buildings: tourists' photographs of 11 landmarks (Philbin et al.), as the paper uses them.

Lists, ``lab/<landmark>_1_ok.txt`` to ``_5_ok.txt``, say which photographs show a landmark well:
these are its normal images. The model trains on the first of them and is tested on all other
photographs of the set, in which those on the landmark's lists are normal and the rest anomalous. 20
photographs that are known to be corrupt are left out, and so are those called "general" that are on
no list.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from htdg.datasets.base import Dataset, DatasetError, Entry, register
from htdg.io.files import check_regular
from htdg.io.images import load_uint8, read_image

#: Photographs are made to fit a square of this side, pixels, keeping their shape.
THUMBNAIL = 450
LISTS = 5
#: Known to be corrupt, by landmark.
CORRUPT = {
    "louvre": (136, 146),
    "moulinrouge": (422,),
    "museedorsay": (1059,),
    "notredame": (188,),
    "pantheon": (284, 960, 974),
    "pompidou": (195, 196, 201, 467, 640),
    "sacrecoeur": (299, 330, 353),
    "triomphe": (662, 833, 863, 867),
}
_CORRUPT_NAMES = {
    f"paris_{landmark}_{number:06d}" for landmark, numbers in CORRUPT.items() for number in numbers
}


@register("paris")
class Paris(Dataset):
    """Paris Buildings from ``<root>/paris``, or ``root`` itself, holding ``jpg/`` and ``lab/``.

    Small copies of the photographs are kept in ``cache`` as they are made; the originals are never
    written to. A copy is made again when its original changes.

    Options:
        cache: folder for the copies, by default ``paris_450`` beside the originals; where it cannot
            be written, copies are made anew each time.

    Raises:
        DatasetError: photographs or lists are missing.
    """

    classes = (
        "defense",
        "eiffel",
        "invalides",
        "louvre",
        "moulinrouge",
        "museedorsay",
        "notredame",
        "pantheon",
        "pompidou",
        "sacrecoeur",
        "triomphe",
    )
    equalise_full_size = True
    home: ClassVar[str] = "https://www.robots.ox.ac.uk/~vgg/data/parisbuildings/"

    def __init__(self, root: Path, cache: str | Path | None = None) -> None:
        """Find the photographs and read the lists."""
        base = root if (root / "lab").is_dir() else root / "paris"
        self.cache = Path(cache) if cache else base / f"paris_{THUMBNAIL}"
        for folder in ("jpg", "lab"):
            if not (base / folder).is_dir():
                raise DatasetError(
                    f"Paris Buildings is not in {base}, which must hold the photographs in jpg/ "
                    f"and the lists in lab/: get both from {self.home}."
                )
        files = {path.stem: path for path in sorted((base / "jpg").rglob("paris_*_*.jpg"))}
        lists = {name: _read_lists(base / "lab", name) for name in self.classes}
        listed_names = {name for names in lists.values() for name in names}
        self.files = {
            name: path
            for name, path in sorted(files.items())
            if name not in _CORRUPT_NAMES and ("general" not in name or name in listed_names)
        }
        self.normal = {
            landmark: [name for name in names if name in self.files]
            for landmark, names in lists.items()
        }
        self.description = f"Paris Buildings in {base}, {len(self.files)} photographs"

    def training_pool(self, normal_class: str) -> Sequence[str]:
        """The landmark's five lists, one after the other, each photograph once."""
        return self.normal[normal_class]

    def test_entries(self, normal_class: str) -> list[Entry]:
        """Every photograph of the set; ``test_set`` leaves out those that train."""
        normal = set(self.normal[normal_class])
        entries = []
        for name in self.files:
            kind = name.split("_")[1]
            if name in normal:
                entries.append(Entry(name, normal_class, 0))
            else:
                is_unlisted = kind == normal_class
                entries.append(Entry(name, f"{kind} (unlisted)" if is_unlisted else kind, 1))
        return entries

    def without_training(
        self, entries: Sequence[Entry], training_names: Collection[str]
    ) -> Sequence[Entry]:
        """The entries that are none of the training images, whose names may be paths."""
        stems = {Path(name).stem for name in training_names}
        return super().without_training(entries, stems)

    def read(self, name: str) -> np.ndarray:
        """The small copy, (H, W, 3) uint8, at most 450 pixels high and wide."""
        original, copy = self.files[name], self.cache / f"{name}.jpg"
        try:
            changed = original.stat().st_mtime_ns
        except OSError as error:
            raise DatasetError(
                f"{original} cannot be read ({error.strerror}): get it again."
            ) from None
        if copy.is_file() and copy.stat().st_mtime_ns == changed:
            return read_image(copy)
        content = _thumbnail(original)
        temporary = copy.with_name(f".{name}.{os.getpid()}.tmp")
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content)
            os.utime(temporary, ns=(changed, changed))
            temporary.replace(copy)
        except OSError:  # the cache only saves time
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        return np.asarray(Image.open(io.BytesIO(content)))


def _thumbnail(original: Path) -> bytes:
    """A small JPEG file; used also where nothing is cached, so that the image is the same."""
    image = Image.fromarray(load_uint8(original))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    packed = io.BytesIO()
    image.save(packed, "JPEG", quality=95, subsampling=0)
    return packed.getvalue()


def _read_lists(folder: Path, landmark: str) -> list[str]:
    names: dict[str, None] = {}  # a dictionary keeps the order and each name once
    for number in range(1, LISTS + 1):
        path = folder / f"{landmark}_{number}_ok.txt"
        try:
            check_regular(path)
            lines = path.read_text().split()
        except (OSError, ValueError):
            raise DatasetError(
                f"{path} is missing or cannot be read: get the lists from {Paris.home}."
            ) from None
        names |= dict.fromkeys(line.removesuffix(".jpg") for line in lines)
    return list(names)
