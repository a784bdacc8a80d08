"""Images in, whatever form they come in; images out as 8-bit arrays.

Inside the package an image is a float32 tensor (3, H, W) in [-1, 1]. The same picture given as a
file, a PIL image, an array or a tensor becomes the same tensor.

``ImageLike`` and ``Images`` are the types of everything that a user may call an image or images.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from io import TextIOBase
from pathlib import Path
from threading import Lock
from typing import BinaryIO, TypeAlias, TypeGuard, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from htdg.io.files import check_regular, one_line
from htdg.io.levels import in_unit_range, warn_of_dark_colours
from htdg.io.problems import ImageError, ImageWarning
from htdg.numbers import ConfigError
from htdg.runtime.parallel import run_ahead

T = TypeVar("T")
#: One image: see ``load_image``.
ImageLike: TypeAlias = str | Path | BinaryIO | Image.Image | np.ndarray | torch.Tensor
#: One image, a batch of them in one array or tensor, or any iterable of images: ``load_images``.
Images: TypeAlias = ImageLike | Iterable[ImageLike]
#: Larger images are refused, in millions of pixels, unless ``HTDG_MAX_MEGAPIXELS`` says otherwise:
#: one takes 40 bytes a pixel while it is read, and a file of 300 kB can hold as many. PIL refuses
#: more than the second number by itself.
MEGAPIXELS, PIL_MEGAPIXELS = 100, 178
#: Kinds of image files that are read, as PIL calls them. MPO is what some cameras write as JPEG.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF", "MPO")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_IMAGE_ERRORS = (Exception,)  # a damaged file can raise nearly anything


def load_image(image: ImageLike, name: str | None = None, white_level: int = 0) -> torch.Tensor:
    """One image as float32 (3, H, W) in [-1, 1].

    Args:
        image: a path; a file open for reading bytes, or ``io.BytesIO``; a PIL image of any mode; a
            NumPy array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); or a tensor (H, W), (1, H, W),
            (3, H, W) or (4, H, W). Integers are 0 to 255 in uint8, 0 to 65535 in uint16, and one
            of these in wider types; floats lie in [0, 1].
        name: what to call it in error messages; by default its path.
        white_level: the integer that is white if the image has more than 8 bits, as 4095 for a
            camera of 12 bits; 0 takes that of its type (``htdg.io.levels``).

    Grey becomes three equal channels; transparency is laid over white; the orientation that a
    camera notes in the file is applied.

    Raises:
        ImageError: it cannot be read, or its shape, type or range is none of the above.

    Warns:
        ImageWarning: it is used, but perhaps not as it was meant: one of several pages, or a guess
            at what is white.
    """
    if isinstance(image, (str, Path)) or is_file(image):
        name = name or _name_of(image, "the image")
        return _from_array(read_image(image, name), name, white_level)
    name = name or "the image"
    if isinstance(image, Image.Image):
        try:
            return _from_array(_pil_array(image, name), name, white_level)
        except (ImageError, ConfigError):
            raise
        except _IMAGE_ERRORS as error:  # PIL reads a file's pixels only now
            raise ImageError(_damaged(name, error)) from None
    if isinstance(image, torch.Tensor):
        try:
            plain = image.detach().cpu()
            plain = plain.float() if plain.dtype in (torch.bfloat16, torch.float16) else plain
            array = plain.numpy()
        except (TypeError, RuntimeError):
            raise ImageError(
                f"{name} is a tensor of type {image.dtype} and layout {image.layout} on "
                f"{image.device}, which NumPy cannot have: give dense integers or floats."
            ) from None
        if array.ndim == 3:
            if array.shape[0] not in (1, 3, 4):
                raise ImageError(
                    f"{name} is a tensor of shape {tuple(image.shape)}, but one image is (H, W), "
                    "(1, H, W), (3, H, W) or (4, H, W), and a batch of grey images (B, 1, H, W)."
                )
            array = array.transpose(1, 2, 0)
        return _from_array(array, name, white_level)
    if isinstance(image, np.ndarray):
        return _from_array(image, name, white_level)
    raise ImageError(
        f"{name} is a {type(image).__name__}, but must be a path, an open file, a PIL image, an "
        "array or a tensor."
    )


def is_file(image: object) -> TypeGuard[BinaryIO]:
    """Whether this is an open file, or ``io.BytesIO``; it is one image, though it has lines."""
    return callable(getattr(image, "read", None))


def _name_of(image: object, otherwise: str) -> str:
    """What to call an image in a file: its path if it has one."""
    path = getattr(image, "name", None) if is_file(image) else image
    return str(path) if isinstance(path, (str, Path)) else otherwise


def read_image(file: str | Path | BinaryIO, name: str | None = None) -> np.ndarray:
    """The pixels of an image file as they are stored, in an array that ``load_image`` takes.

    Args:
        file: its path, or the file, open for reading bytes; it is read from its beginning.
        name: what to call it in error messages; by default its path.

    Returns:
        (H, W), (H, W, 3) or (H, W, 4); uint8, uint16, int32 or float in [0, 1]; turned upright.
        Colour files of 16 bits are read at 8.

    Raises:
        ImageError: as in ``load_image``.

    Warns:
        ImageWarning: as in ``load_image``.
    """
    name = name or _name_of(file, "the image")
    if isinstance(file, TextIOBase):
        raise ImageError(f'{name} is open as text: open it with mode "rb".')
    try:
        if isinstance(file, (str, Path)) and not Path(file).is_dir():
            check_regular(Path(file))
        with open_image(file) as image:
            _warn_of_pages(image, name)
            return _pil_array(image, name)
    except FileNotFoundError:
        raise ImageError(f"{name} is not there: check the path.") from None
    except IsADirectoryError:
        raise ImageError(f"{name} is a folder: name an image file.") from None
    except UnidentifiedImageError:
        raise ImageError(
            f"{name} is no image that can be read: give a file of the kinds {', '.join(FORMATS)}."
        ) from None
    except (ImageError, ConfigError):
        raise
    except Image.DecompressionBombError:
        raise ImageError(_too_large(name, PIL_MEGAPIXELS)) from None
    except MemoryError:
        raise ImageError(f"{name} does not fit into memory: make it smaller first.") from None
    except _IMAGE_ERRORS as error:
        raise ImageError(_damaged(name, error)) from None


def open_image(file: str | Path | BinaryIO) -> Image.Image:
    """An image file whose pixels have not been read, if it is of one of the ``FORMATS``.

    PIL knows more, and starts Ghostscript for PostScript, whatever a file is called.
    """
    Image.init()
    return Image.open(file, formats=[kind for kind in FORMATS if kind in Image.OPEN])


def _warn_of_pages(image: Image.Image, name: str) -> None:
    """Say if a file has more pages than the first. The second in MPO is a preview of cameras."""
    pages = getattr(image, "n_frames", 1) if image.format != "MPO" else 1
    if pages > 1:
        warnings.warn(
            f"{name} has {pages} pages, of which only the first is read: save the others as images "
            "of their own if they are to count.",
            ImageWarning,
            stacklevel=3,
        )


def load_images(images: Images, white_level: int = 0) -> list[torch.Tensor]:
    """A single image, a batch or any iterable of images as a list of float32 (3, H, W) in [-1, 1].

    A batch is an array (B, H, W, C) or a tensor (B, C, H, W), with 1, 3 or 4 channels C. A tensor
    (3, H, W) is *one* RGB image, also where three grey images were meant: a batch of three grey
    images is a tensor (3, 1, H, W), made by ``images[:, None]``. In the same way an array (H, W, 3)
    is one RGB image, and three grey ones are an array (3, H, W, 1).

    ``white_level`` is that of ``load_image``.

    Raises:
        ImageError: as in ``load_image``, the images numbered from 1; also for an empty list.
    """
    return list(iterate_images(images, white_level))


def iterate_images(images: Images, white_level: int = 0) -> Iterator[torch.Tensor]:
    """The images of ``load_images`` one by one, each read when its turn comes."""
    return (load() for load in _loaders(images, white_level))


def read_ahead(
    images: Images,
    prepare: Callable[[torch.Tensor], T],
    workers: int = 2,
    ahead: int = 16,
    white_level: int = 0,
) -> Iterator[T]:
    """The images one by one, in order, after ``prepare``; the next ones are read meanwhile.

    Args:
        images: as in ``load_images``. A sequence is indexed by the threads, several items at a
            time, so that whatever an item costs is paid there; any other iterable is iterated over
            by the caller's thread.
        prepare: called by the threads on each image, float32 (3, H, W) in [-1, 1].
        workers: threads that read.
        ahead: images that are ready or being read at a time.
        white_level: that of ``load_image``.

    Raises:
        ImageError: as in ``load_images``, when the image's turn comes.
    """

    def prepared(load: Callable[[], torch.Tensor]) -> T:
        return prepare(load())

    loaders = _loaders(images, white_level)
    return run_ahead((partial(prepared, load) for load in loaders), workers, ahead)


def _loaders(images: Images, white_level: int) -> Iterator[Callable[[], torch.Tensor]]:
    """A function that loads it, for each of the images in turn."""
    load_one = partial(load_image, white_level=white_level)
    if isinstance(images, (str, Path, Image.Image)) or is_file(images):
        yield partial(load_one, images)
        return
    if isinstance(images, (np.ndarray, torch.Tensor)):
        if _is_one_image(images):
            yield partial(load_one, images)
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
            yield partial(_load_item, images, number, white_level)
    else:
        for number, image in enumerate(images, start=1):
            yield partial(_load_numbered, image, number, white_level)
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


#: PIL images are decoded when they are first used, and open files have one position: two threads
#: must not use them at a time.
_DECODING = Lock()


def _load_item(images: Sequence[ImageLike], number: int, white_level: int) -> torch.Tensor:
    """Item ``number`` of a sequence, counted from 1."""
    return _load_numbered(images[number - 1], number, white_level)


def _load_numbered(image: ImageLike, number: int, white_level: int) -> torch.Tensor:
    name = image_name(image, number)
    if isinstance(image, Image.Image) or is_file(image):
        with _DECODING:
            return load_image(image, name, white_level)
    return load_image(image, name, white_level)


def image_name(image: object, number: int) -> str:
    """What to call an image of several: its path if it has one, or else ``image <number>``."""
    return _name_of(image, f"image {number}")


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
    paths, circles = files_below(folder)
    for path in paths:
        if is_image(path):
            images.append(path)
        elif strict:
            raise ImageError(f"{path} is no image: remove it, or do not be strict.")
        else:
            others.append(path)
    return images, sorted([*others, *circles])


def is_image(path: Path) -> bool:
    """Whether a file is an image by its content, as far as its first bytes say."""
    try:
        with open_image(path):
            return True
    except _IMAGE_ERRORS:
        return False


def files_below(folder: Path) -> tuple[list[Path], list[Path]]:
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
    return sorted(path for path in files if os.path.isfile(path)), circles  # noqa: PTH113 - never fails


def load_uint8(image: ImageLike, white_level: int = 0) -> np.ndarray:
    """One image as uint8 (H, W, 3), to be drawn; arguments and errors are ``load_image``'s."""
    return to_uint8(load_image(image, None, white_level)[None])[0]


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """Images (B, 3, H, W) in [-1, 1] as uint8 (B, H, W, 3); values outside are clipped."""
    scaled = images.detach().cpu().clamp(-1, 1)  # a copy
    return scaled.add_(1).mul_(127.5).round_().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _pil_array(image: Image.Image, name: str) -> np.ndarray:
    """Pixels of a PIL image: see ``read_image``."""
    check_pixels(image.width * image.height, name)
    # The last of the four is how pixels are stored. Older versions of pillow have no name for it.
    sixteen = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return np.asarray(image, dtype=np.uint16)
    if image.mode == "I":  # 32 bits, in which PIL reads some files of 16
        return np.asarray(image).astype(np.uint16) if sixteen else np.asarray(image)
    if image.mode == "F":
        return np.asarray(image)
    if image.mode == "L" and "transparency" not in image.info:
        return np.asarray(image)
    if image.mode == "La":  # which PIL converts to nothing else
        image = image.convert("LA")
    transparent = image.mode in _WITH_ALPHA or "transparency" in image.info
    array = np.asarray(image.convert("RGBA" if transparent else "RGB"))
    if sixteen:  # PIL keeps the upper 8 bits alone
        warn_of_dark_colours(array)
    return array


def _from_array(array: np.ndarray, name: str, white_level: int) -> torch.Tensor:
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
    check_pixels(array.shape[0] * array.shape[1], name)
    # The axes change while values are small, and floats stay in place: of 12 million pixels each
    # copy takes 144 MB.
    planes = np.ascontiguousarray(array.transpose(2, 0, 1))  # (C, H, W)
    unit = torch.from_numpy(in_unit_range(planes, name, white_level))
    if len(unit) == 4:
        colour, alpha = unit[:3], unit[3:]
        unit = colour * alpha + (1 - alpha)  # over white
    return unit.mul_(2).sub_(1).expand(3, -1, -1).contiguous()


def _damaged(name: str, error: Exception) -> str:
    reason = one_line(str(error).strip().rstrip(".")) or type(error).__name__
    return f"{name} is damaged or cannot be read ({reason}): get it again."


def check_pixels(count: int, name: str) -> None:
    """Check the pixels of an image before they are read.

    Raises:
        ImageError: there are too many.
        ConfigError: ``HTDG_MAX_MEGAPIXELS`` is no number.
    """
    text, limit = os.environ.get("HTDG_MAX_MEGAPIXELS", ""), MEGAPIXELS
    if text:
        limit = int(text) if re.fullmatch("[0-9]{1,3}", text) else 0
    if not 0 < limit <= PIL_MEGAPIXELS:
        raise ConfigError(
            f"HTDG_MAX_MEGAPIXELS is {text!r}, but it must be a whole number from 1 to "
            f"{PIL_MEGAPIXELS}."
        )
    if count > limit * 10**6:
        raise ImageError(_too_large(name, limit))


def _too_large(name: str, megapixels: float) -> str:
    return (
        f"{name} has more than {megapixels:g} million pixels: make it smaller first, or set "
        f"HTDG_MAX_MEGAPIXELS, at most {PIL_MEGAPIXELS}."
    )
