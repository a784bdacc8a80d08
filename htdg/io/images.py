"""Images in, whatever form they come in; images out as 8-bit arrays.

Inside the package an image is a float32 tensor (3, H, W) in [-1, 1]. The same picture given as a
file, a PIL image, an array or a tensor becomes the same tensor.

``ImageLike`` and ``Images`` are the types of everything that a user may call an image or images.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from htdg.errors import UserError
from htdg.runtime.parallel import run_ahead

T = TypeVar("T")
#: One image: see ``load_image``.
ImageLike: TypeAlias = str | Path | Image.Image | np.ndarray | torch.Tensor
#: One image, a batch of them in one array or tensor, or any iterable of images: ``load_images``.
Images: TypeAlias = ImageLike | Iterable[ImageLike]
#: Larger images are refused: they would be shrunk to a few dozen pixels anyway.
MAX_PIXELS = 100_000_000
#: By this much, rounding may carry floats out of [0, 1].
ROUNDING = 1e-6
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_IMAGE_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


class ImageError(UserError):
    """An image that cannot be used; the message names it and says what is wrong."""


def load_image(image: ImageLike, name: str | None = None) -> torch.Tensor:
    """One image as float32 (3, H, W) in [-1, 1].

    Args:
        image: a path; a PIL image of any mode; a NumPy array (H, W), (H, W, 1), (H, W, 3) or
            (H, W, 4); or a tensor (H, W), (1, H, W), (3, H, W) or (4, H, W). Integers are uint8
            (0 to 255) or uint16 (0 to 65535); floats lie in [0, 1].
        name: what to call it in error messages; by default its path.

    Grey becomes three equal channels; transparency is laid over white; the orientation that a
    camera notes in the file is applied.

    Raises:
        ImageError: it cannot be read, or its shape, type or range is none of the above.
    """
    if isinstance(image, (str, Path)):
        name = name or str(image)
        return _from_array(read_image(image, name), name)
    name = name or "the image"
    if isinstance(image, Image.Image):
        try:
            return _from_array(_pil_array(image, name), name)
        except ImageError:
            raise
        except _IMAGE_ERRORS as error:  # PIL reads a file's pixels only now
            raise ImageError(_damaged(name, error)) from None
    if isinstance(image, torch.Tensor):
        array = image.detach().cpu()
        array = array.float() if array.dtype in (torch.bfloat16, torch.float16) else array
        if array.ndim == 3:
            if array.shape[0] not in (1, 3, 4):
                raise ImageError(
                    f"{name} is a tensor of shape {tuple(image.shape)}, but one image is (H, W), "
                    "(1, H, W), (3, H, W) or (4, H, W), and a batch of grey images (B, 1, H, W)."
                )
            array = array.permute(1, 2, 0)
        return _from_array(array.numpy(), name)
    if isinstance(image, np.ndarray):
        return _from_array(image, name)
    raise ImageError(
        f"{name} is a {type(image).__name__}, but must be a path, PIL image, array or tensor."
    )


def read_image(path: str | Path, name: str | None = None) -> np.ndarray:
    """The pixels of an image file as they are stored, in an array that ``load_image`` takes.

    Args:
        path: of the file.
        name: what to call it in error messages; by default its path.

    Returns:
        (H, W), (H, W, 3) or (H, W, 4); uint8, uint16 or float in [0, 1]; turned upright. Colour
        files of 16 bits are read at 8.

    Raises:
        ImageError: as in ``load_image``.
    """
    path, name = Path(path), name or str(path)
    try:
        with Image.open(path) as image:
            return _pil_array(image, name)
    except FileNotFoundError:
        raise ImageError(f"{name} is not there: check the path.") from None
    except IsADirectoryError:
        raise ImageError(f"{name} is a folder: name an image file.") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name} is no image that can be read: give a PNG or JPEG file.") from None
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(_too_large(name)) from None
    except _IMAGE_ERRORS as error:
        raise ImageError(_damaged(name, error)) from None


def load_images(images: Images) -> list[torch.Tensor]:
    """A single image, a batch or any iterable of images as a list of float32 (3, H, W) in [-1, 1].

    A batch is an array (B, H, W, C) or a tensor (B, C, H, W), with 1, 3 or 4 channels C. A tensor
    (3, H, W) is *one* RGB image, also where three grey images were meant: a batch of three grey
    images is a tensor (3, 1, H, W), made by ``images[:, None]``. In the same way an array (H, W, 3)
    is one RGB image, and three grey ones are an array (3, H, W, 1).

    Raises:
        ImageError: as in ``load_image``, the images numbered from 1; also for an empty list.
    """
    return list(iterate_images(images))


def iterate_images(images: Images) -> Iterator[torch.Tensor]:
    """The images of ``load_images`` one by one, each read when its turn comes."""
    return (load() for load in _loaders(images))


def read_ahead(
    images: Images,
    prepare: Callable[[torch.Tensor], T],
    workers: int = 2,
    ahead: int = 16,
) -> Iterator[T]:
    """The images one by one, in order, after ``prepare``; the next ones are read meanwhile.

    Args:
        images: as in ``load_images``. A sequence is indexed by the threads, several items at a
            time, so that whatever an item costs is paid there; any other iterable is iterated over
            by the caller's thread.
        prepare: called by the threads on each image, float32 (3, H, W) in [-1, 1].
        workers: threads that read.
        ahead: images that are ready or being read at a time.

    Raises:
        ImageError: as in ``load_images``, when the image's turn comes.
    """

    def prepared(load: Callable[[], torch.Tensor]) -> T:
        return prepare(load())

    return run_ahead((partial(prepared, load) for load in _loaders(images)), workers, ahead)


def _loaders(images: Images) -> Iterator[Callable[[], torch.Tensor]]:
    """A function that loads it, for each of the images in turn."""
    if isinstance(images, (str, Path, Image.Image)):
        yield partial(load_image, images)
        return
    if isinstance(images, (np.ndarray, torch.Tensor)):
        if _is_one_image(images):
            yield partial(load_image, images)
            return
        if images.ndim != 4:
            raise ImageError(_no_batch(images))
    if not isinstance(images, Iterable):
        raise ImageError(
            f"The images are of type {type(images).__name__}, but must be one image or a list of "
            "them."
        )
    number = 0
    if isinstance(images, Sequence):
        for number in range(1, len(images) + 1):
            yield partial(_load_item, images, number)
    else:
        for number, image in enumerate(images, start=1):
            yield partial(_load_numbered, image, number)
    if number == 0:
        raise ImageError("The list of images is empty: give at least one.")


def _is_one_image(image: np.ndarray | torch.Tensor) -> bool:
    if image.ndim != 3:
        return image.ndim == 2
    channels = image.shape[-1] if isinstance(image, np.ndarray) else image.shape[0]
    return channels in (1, 3, 4)


def _no_batch(images: np.ndarray | torch.Tensor) -> str:
    """What is wrong with an array or tensor that is neither one image nor a batch."""
    shape = tuple(images.shape)
    problem = (
        f"The images have shape {shape}, but must be one image, a list of images or a batch with "
        "four axes"
    )
    if len(shape) != 3:
        return f"{problem}."
    if isinstance(images, np.ndarray):
        batch, expression = (*shape, 1), "images[..., None]"
    else:
        batch, expression = (shape[0], 1, *shape[1:]), "images[:, None]"
    return f"{problem}: give {shape[0]} grey images as {batch}, by {expression}."


#: PIL images are decoded when they are first used, which two threads must not do at a time.
_DECODING = Lock()


def _load_item(images: Sequence[ImageLike], number: int) -> torch.Tensor:
    """Item ``number`` of a sequence, counted from 1."""
    return _load_numbered(images[number - 1], number)


def _load_numbered(image: ImageLike, number: int) -> torch.Tensor:
    if isinstance(image, Image.Image):
        with _DECODING:
            return load_image(image, f"image {number}")
    return load_image(image, None if isinstance(image, (str, Path)) else f"image {number}")


def list_images(folder: str | Path, strict: bool = False) -> tuple[list[Path], list[Path]]:
    """The image files below a folder, and the other files, which are passed over.

    Whether a file is an image is decided by its content, not its name. Hidden files count as
    neither. Links to folders are followed, but for those to a folder that they lie in, which are
    among what is passed over.

    Returns:
        The images and the other files, both sorted by path.

    Raises:
        ImageError: the folder is not there, or, if ``strict``, a file in it is no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageError(f"{folder} is no folder: give one that holds images.")
    images: list[Path] = []
    others: list[Path] = []
    paths, circles = _files_below(folder)
    for path in paths:
        try:
            with Image.open(path):
                images.append(path)
        except _IMAGE_ERRORS:
            if strict:
                raise ImageError(f"{path} is no image: remove it, or do not be strict.") from None
            others.append(path)
    return images, sorted([*others, *circles])


def _files_below(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files below a folder, hidden ones left out, sorted, and links that lead in a circle."""
    files, circles = [], []
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place)
        inside = [here / name for name in folders if not name.startswith(".")]
        if links := [path for path in inside if path.is_symlink()]:
            around = {parent.resolve() for parent in (here, *here.parents)}
            circles += [path for path in links if path.resolve() in around]
        folders[:] = [path.name for path in inside if path not in circles]
        files += [here / name for name in names if not name.startswith(".")]
    return sorted(path for path in files if path.is_file()), circles


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """Images (B, 3, H, W) in [-1, 1] as uint8 (B, H, W, 3); values outside are clipped."""
    scaled = ((images.detach().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).numpy()


def _pil_array(image: Image.Image, name: str) -> np.ndarray:
    """Pixels of a PIL image: see ``read_image``."""
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(_too_large(name))
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return np.asarray(image, dtype=np.uint16)
    if image.mode == "I":  # 32 bits, in which PIL reads some 16-bit files
        array = np.asarray(image)
        if array.min() < 0 or array.max() > 65535:
            raise ImageError(f"{name} has values beyond 16 bits: convert it to 8 or 16 bits.")
        return array.astype(np.uint16)
    if image.mode == "F":
        return np.asarray(image)
    if image.mode == "L" and "transparency" not in image.info:
        return np.asarray(image)
    transparent = image.mode in _WITH_ALPHA or "transparency" in image.info
    return np.asarray(image.convert("RGBA" if transparent else "RGB"))


def _from_array(array: np.ndarray, name: str) -> torch.Tensor:
    """(H, W) or (H, W, C) -> float32 (3, H, W) in [-1, 1]."""
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4):
        raise ImageError(
            f"{name} has shape {array.shape}, but must be (H, W) or (H, W, C) with 1, 3 or 4 "
            "channels."
        )
    if array.size == 0:
        raise ImageError(f"{name} has no pixels (shape {array.shape}): give another image.")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise ImageError(_too_large(name))
    unit = torch.from_numpy(_in_unit_range(array, name)).permute(2, 0, 1)  # (C, H, W) in [0, 1]
    if len(unit) == 4:
        colour, alpha = unit[:3], unit[3:]
        unit = colour * alpha + (1 - alpha)  # over white
    return (unit * 2 - 1).expand(3, -1, -1).contiguous()


def _in_unit_range(array: np.ndarray, name: str) -> np.ndarray:
    """Any supported type as float32 in [0, 1]."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.bool_:
        return array.astype(np.float32)
    if array.dtype == np.uint8:
        return array.astype(np.float32) / 255
    if array.dtype == np.uint16:
        return array.astype(np.float32) / 65535
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise ImageError(f"{name} holds values that are not finite: replace them first.")
        if array.min() < -ROUNDING or array.max() > 1 + ROUNDING:
            raise ImageError(
                f"{name} has float values from {array.min():g} to {array.max():g}, but floats must "
                "lie in [0, 1]: divide by the largest possible value."
            )
        return array.clip(0, 1).astype(np.float32)
    raise ImageError(f"{name} has type {array.dtype}, but must be uint8, uint16, bool or float.")


def _damaged(name: str, error: Exception) -> str:
    reason = str(error).strip().rstrip(".") or type(error).__name__
    return f"{name} is damaged or cannot be read ({reason}): get it again."


def _too_large(name: str) -> str:
    return f"{name} has more than {MAX_PIXELS // 10**6} million pixels: make it smaller first."
