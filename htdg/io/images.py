"""Images in, from whatever they come as; images out as 8-bit arrays.

Inside, an image is a float32 tensor (3, H, W) in [-1, 1]. The same picture given as a file, a PIL
image, an array or a tensor becomes the same tensor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from htdg.errors import UserError

T = TypeVar("T")
#: Larger images are refused: they would be shrunk to a few dozen pixels anyway.
MAX_PIXELS = 100_000_000
#: By this much, rounding may carry floats out of [0, 1].
ROUNDING = 1e-6
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_IMAGE_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


class ImageError(UserError):
    """An image that cannot be used; the message names it and says what is wrong."""


def load_image(image: Any, name: str | None = None) -> torch.Tensor:  # noqa: ANN401
    """One image as float32 (3, H, W) in [-1, 1].

    Args:
        image: a path; a PIL image of any mode; a NumPy array (H, W), (H, W, 1), (H, W, 3) or
            (H, W, 4); or a tensor (H, W), (1, H, W), (3, H, W) or (4, H, W). Whole numbers are
            8-bit, or 16-bit in uint16; floats lie in [0, 1].
        name: what to call it in error messages; by default its path.

    Grey becomes three equal channels; transparency is laid over white; the orientation that a
    camera notes in the file is applied.

    Raises:
        ImageError: it cannot be read, or has another shape, type or range than those.
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
                    f"{name} is a tensor of shape {tuple(image.shape)}, but it must be (H, W), "
                    "(1, H, W), (3, H, W) or (4, H, W)."
                )
            array = array.permute(1, 2, 0)
        return _from_array(array.numpy(), name)
    if isinstance(image, np.ndarray):
        return _from_array(image, name)
    raise ImageError(
        f"{name} is a {type(image).__name__}, but must be a path, PIL image, array or tensor."
    )


def read_image(path: str | Path, name: str | None = None) -> np.ndarray:
    """The pixels of an image file as they are, an array that ``load_image`` takes.

    (H, W), (H, W, 3) or (H, W, 4); uint8, uint16 or float in [0, 1]; turned upright. Colour files
    of 16 bits are read at 8. ImageError as in ``load_image``.
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


def iterate_images(images: Any) -> Iterator[torch.Tensor]:  # noqa: ANN401
    """The images one by one, each read when its turn comes: see ``load_images``."""
    return (load() for load in _loaders(images))


def read_ahead(
    images: Any,  # noqa: ANN401
    prepare: Callable[[torch.Tensor], T],
    workers: int = 2,
    ahead: int = 16,
) -> Iterator[T]:
    """The images one by one, in order, after ``prepare``; the next ones are read meanwhile.

    Args:
        images: as in ``load_images``. A sequence is indexed by the workers, several at a time, so
            that what its items cost is paid there; anything else is iterated over by the caller.
        prepare: is called by the workers.
        workers: threads that read.
        ahead: images that are ready or being read at a time.
    """
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="htdg-images") as pool:
        try:
            for load in _loaders(images):
                waiting.append(pool.submit(lambda load=load: prepare(load())))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _loaders(images: Any) -> Iterator[Callable[[], torch.Tensor]]:  # noqa: ANN401
    """For each of the images a function that loads it."""
    if _is_single(images):
        yield partial(load_image, images)
        return
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim != 4:
        raise ImageError(
            f"The images have shape {tuple(images.shape)}, but must be one image, a list of images "
            "or a batch with four axes."
        )
    if not isinstance(images, Iterable):
        raise ImageError(
            f"The images are a {type(images).__name__}, but must be one image or a list of them."
        )
    number = 0
    if isinstance(images, Sequence):
        for number in range(1, len(images) + 1):
            yield lambda n=number: _load_numbered(images[n - 1], n)
    else:
        for number, image in enumerate(images, start=1):
            yield partial(_load_numbered, image, number)
    if number == 0:
        raise ImageError("The list of images is empty: give at least one.")


#: PIL images are decoded when they are first used, which two threads must not do at a time.
_DECODING = Lock()


def _load_numbered(image: Any, number: int) -> torch.Tensor:  # noqa: ANN401
    if isinstance(image, Image.Image):
        with _DECODING:
            return load_image(image, f"image {number}")
    return load_image(image, None if isinstance(image, (str, Path)) else f"image {number}")


def load_images(images: Any) -> list[torch.Tensor]:  # noqa: ANN401
    """A single image, a list of images or a batch as a list of float32 (3, H, W) in [-1, 1].

    A batch is an array (B, H, W, C) or a tensor (B, C, H, W). ImageError as in ``load_image``,
    numbering the images from 1, and for an empty list.
    """
    return list(iterate_images(images))


def list_images(folder: str | Path, strict: bool = False) -> tuple[list[Path], list[Path]]:
    """The image files below a folder, sorted, and the other files, which are passed over.

    Hidden files do not count. Whether a file is an image is seen from its content, not its name.

    Raises:
        ImageError: the folder is not there, or, if ``strict``, a file in it is no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageError(f"{folder} is no folder: give one that holds images.")
    images, others = [], []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or not path.is_file():
            continue
        try:
            with Image.open(path):
                images.append(path)
        except _IMAGE_ERRORS:
            if strict:
                raise ImageError(f"{path} is no image: remove it, or do not be strict.") from None
            others.append(path)
    return images, others


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """Images (B, 3, H, W) in [-1, 1] as uint8 arrays (B, H, W, 3); values outside are cut off."""
    scaled = ((images.detach().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).numpy()


def _is_single(images: Any) -> bool:  # noqa: ANN401
    if isinstance(images, (str, Path, Image.Image)):
        return True
    if isinstance(images, np.ndarray):
        return images.ndim == 2 or (images.ndim == 3 and images.shape[-1] in (1, 3, 4))
    if isinstance(images, torch.Tensor):
        return images.ndim == 2 or (images.ndim == 3 and images.shape[0] in (1, 3, 4))
    return False


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
