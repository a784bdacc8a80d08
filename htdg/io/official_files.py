"""The folder of a model of the official code: where its files lie, and how they are read.

    TrainedModels/<name>/
        transformations.npy
        scale_factor=0.750000,alpha=100/
            0/netG.pth, 0/netD.pth, 0/z_opt.pth, 1/...
            Zs.pth, NoiseAmp.pth, reals.pth     a dict: number of the training image -> a list
                                                with an entry for each scale
            Gs.pth                              whole pickled networks: never opened

Nothing is read in a way that could run code from a file: PyTorch's files are loaded with
``weights_only=True`` and NumPy's with ``allow_pickle=False``, and what needs more is refused.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from htdg.io.files import one_line
from htdg.io.model_directory import ModelError

#: How the name of a folder with one training begins.
TRAINING = "scale_factor="
#: What the list of the transformations may be called.
TRANSFORMATION_LISTS = ("transformations.pth", "transformations.json", "transformations.npy")


@dataclass(frozen=True)
class Entry:
    """A value that the official code saved for one scale.

    Attributes:
        value: what was saved.
        place: where it stands, for messages.
        image: number of the training image that it belongs to; None if it belongs to all.
    """

    value: object
    place: str
    image: int | None = None


# --- Where files lie ----------------------------------------------------------------------------


def scales_folder(folder: Path) -> Path:
    """Where the folders 0, 1, ... are: ``folder`` itself, or its only ``scale_factor=...``.

    Raises:
        ModelError: there is no such folder, or several trainings are in it.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is no folder: name the one that the official code wrote.")
    if _scale_numbers(folder):
        return folder.resolve()  # the list of transformations may lie in the folder above
    trainings = [p for p in folder.iterdir() if p.is_dir() and p.name.startswith(TRAINING)]
    if len(trainings) > 1:
        names = " and ".join(sorted(training.name for training in trainings))
        raise ModelError(f"{folder} holds several trainings, {names}: name one of these folders.")
    return trainings[0] if trainings else folder


def count_scales(folder: Path) -> int:
    """How many folders 0, 1, ... there are; ModelError if there are none, or one is missing."""
    numbers = _scale_numbers(folder)
    if not numbers:
        raise ModelError(
            f"{folder} has no folders 0, 1, ... with the networks of each scale: name the folder "
            "of one trained model."
        )
    gaps = [n for n in range(len(numbers)) if n not in numbers]
    if gaps:
        raise ModelError(
            f"{folder} has a folder {numbers[-1]} but no folder {gaps[0]}: copy all scales."
        )
    return len(numbers)


def _scale_numbers(folder: Path) -> list[int]:
    names = [path.name for path in folder.iterdir() if path.is_dir()]
    return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]*", name))


def transformation_list(folder: Path) -> Path:
    """The list of the transformations: beside the scales, or in the folder above a training.

    Raises:
        ModelError: there is none, or more than one.
    """
    places, described_places = [folder], str(folder)
    if folder.absolute().name.startswith(TRAINING):
        places.append(folder.absolute().parent if folder.name == "" else folder.parent)
        described_places = f"{folder}, like the folder above it,"
    paths = [place / name for place in places for name in TRANSFORMATION_LISTS]
    lists = [path for path in paths if path.is_file()]
    if not lists:
        raise ModelError(
            f"{described_places} has no {', '.join(TRANSFORMATION_LISTS[:-1])} or "
            f"{TRANSFORMATION_LISTS[-1]}, and the order of the transformations is another in every "
            "official model: give the list of this training (--transformations)."
        )
    if len(lists) > 1:
        raise ModelError(
            f"{lists[0]} and {lists[1]} are both there: say which one it is (--transformations)."
        )
    return lists[0]


# --- What a file holds --------------------------------------------------------------------------


def read_file(path: Path) -> object:
    """What a file holds, on the CPU, read without running code from it; ModelError if it cannot."""
    if not path.is_file():
        raise ModelError(f"{path} is not there: copy it too, or check the path.")
    if zipfile.is_zipfile(path):
        _check_unpacked_size(path)
    try:
        if path.suffix == ".json":
            return json.loads(path.read_text())
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        if str(error).startswith("Object arrays"):  # NumPy's words for an array of dtype object
            raise ModelError(
                f"{path} holds Python objects, which only running code from it would restore: "
                "save it again as an array of whole numbers."
            ) from error
        raise ModelError(
            f"{path} is damaged, or holds objects that only running its code would restore, which "
            "is refused: save it again as tensors, numbers, lists and dictionaries only."
        ) from error
    _check_tensors(path, content)
    return content


def _check_tensors(path: Path, content: object) -> None:
    """ModelError unless all tensors in a file's content are plain ones that lie in the file.

    A tensor may be stored as one value that is repeated a million times a million times.
    """
    most, waiting, seen = 16 * path.stat().st_size + 2**20, [content], set[int]()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:  # as of a list that lies in itself
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += value
        elif isinstance(value, torch.Tensor):
            plain = value.layout == torch.strided and value.device.type == "cpu"
            if not plain or value.is_quantized or value.is_complex():
                raise ModelError(
                    f"{path} has a tensor of a kind that the official code does not write: save it "
                    "again as dense real numbers."
                )
            if value.numel() * value.element_size() > most:
                raise ModelError(
                    f"{path} has a tensor of shape {tuple(value.shape)}, far larger than the file: "
                    "get it from its publisher."
                )


def _check_unpacked_size(path: Path) -> None:
    """ModelError if the content of a PyTorch file, which is a ZIP archive, is far larger than it.

    PyTorch packs nothing.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(info.file_size for info in packed.infolist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return  # whoever reads it says so
    if size > 2 * path.stat().st_size + 2**20:
        raise ModelError(
            f"{path} would have {size / 2**20:,.0f} MiB when unpacked, far more than a file of "
            "PyTorch's: get it from its publisher."
        )


def entries_by_scale(folder: Path, count: int, whole: str, single: str) -> list[list[Entry]]:
    """For each of ``count`` scales, its entries: one for each training image, or one for all.

    Args:
        folder: where the scales are.
        count: how many there are.
        whole: file with all scales: a list for each training image, or one list.
        single: file in each scale's folder, read if ``whole`` is not there.

    Raises:
        ModelError: neither is there, or one holds something else.
    """
    path = folder / whole
    parts = [folder / str(n) / single for n in range(count)]
    if not path.is_file() and not parts[0].is_file():
        raise ModelError(f"{folder} has no {whole} and no 0/{single}: copy one of them too.")
    if not path.is_file():
        return [[Entry(read_file(part), str(part))] for part in parts]
    scales: list[list[Entry]] = [[] for _ in range(count)]
    for image, values in lists_by_image(read_file(path), path).items():
        of_image = "" if image is None else f" for training image {image}"
        if not isinstance(values, (list, tuple)) or len(values) != count:
            raise ModelError(
                f"{path} holds {described(values)}{of_image}, but must be a list with an entry for "
                f"each of the {count} scales: copy files and folders of the same training."
            )
        for n, value in enumerate(values):
            scales[n].append(Entry(value, f"Entry {n}{of_image} in {path}", image))
    return scales


def lists_by_image(content: object, path: Path) -> dict[int | None, object]:
    """The list of each training image, in the order of their numbers.

    A file with one list for all images gives that one under None.

    Raises:
        ModelError: the keys are no consecutive numbers, which tell the order of the images.
    """
    if not isinstance(content, Mapping):
        return {None: content}
    numbers = sorted(key for key in content if type(key) is int)
    consecutive = numbers and numbers == list(range(numbers[0], numbers[0] + len(content)))
    if not consecutive:
        keys = ", ".join(repr(key) for key in content) or "none"
        raise ModelError(
            f"{path} is a dictionary with the keys {one_line(keys)}, but these must be the numbers "
            "of the training images, 0, 1, ...: copy the official code's file again."
        )
    return {number: content[number] for number in numbers}


def described(value: object) -> str:
    """What a value is, for messages."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        kind = "a tensor" if isinstance(value, torch.Tensor) else "an array"
        return f"{kind} of shape {tuple(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    return f"a value of type {type(value).__name__}"
