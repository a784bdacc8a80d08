"""Models of the official implementation, read from the folder that it wrote.

Where its files lie stands in ``htdg.io.official_files``; how its networks name their weights, in
``htdg.io.official_networks``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from htdg.config import HTDGConfig
from htdg.io.files import one_line
from htdg.io.model_directory import ModelError
from htdg.io.official_files import (
    Entry,
    count_scales,
    described,
    entries_by_scale,
    lists_by_image,
    read_file,
    scales_folder,
    transformation_list,
)
from htdg.io.official_networks import OfficialNetwork
from htdg.io.official_networks import from_official_state as from_official_state
from htdg.pyramid import resize
from htdg.runtime.device import resolve_device
from htdg.sampling import Scale, empty_scale, freeze, generate, reconstruction_noise
from htdg.state import ModelState
from htdg.transformations import Transformation
from htdg.version import __version__

#: The official z* is stored with this many zeros on each side.
PADDING = 5
#: A transformation as (grey, flip, tx, ty, k).
Row = tuple[int, int, int, int, int]
#: Grey or not, mirrored or not, 3 x 3 translations, 4 turns.
MOST_TRANSFORMATIONS = 2 * 2 * 3 * 3 * 4


def import_official(
    folder: str | Path,
    image_size: int = 128,
    transformations: str | Path | None = None,
    device: str = "cpu",
) -> ModelState:
    """A model that was trained with the official code.

    ``folder`` is ``TrainedModels/<name>`` or the folder ``scale_factor=...`` below it. Read from
    the latter, scale 0 being the coarsest and K the number of training images:

    - ``<n>/netG.pth`` and ``<n>/netD.pth``: the state dicts of scale n, with or without the prefix
      ``module.``
    - ``Zs.pth``, the fixed noise z* of every scale, (1, 3, H + 10, H + 10), or ``<n>/z_opt.pth``
    - ``NoiseAmp.pth``, the amplitude of every scale, one number, or ``<n>/noise_amp.pth``
    - ``reals.pth``, if there: the training image at every scale, (1, 3, H, H) in [-1, 1]. Without
      it, or if its images do not fit, the training images are rebuilt from z*.
    - ``transformations.npy``, ``.pth`` or ``.json``, here or in ``TrainedModels/<name>``: rows
      (grey, flip, tx, ty, k) in the order of D's classes, since the official code shuffles them

    ``Zs``, ``NoiseAmp`` and ``reals`` are dicts from the number of the training image to a list
    with an entry for each scale. One list for all images, of amplitudes (K,) and images
    (K, 3, H, H), is understood too. The importer was tried on folders made after this description,
    from recorded arrays of the official code, not on a folder that an official run wrote.

    The logits are those of the official networks. The official resizing is not reproduced, so
    scores of the same image differ a little, and generated images more: the official code enlarges
    them by one factor between all scales and crops, ours from side to side. The sides are those of
    z*. Options that the folder does not hold, as ``niter``, are the paper's; there is no history.

    Args:
        folder: what the official code wrote.
        image_size: the side that the training had all images resized to.
        transformations: file with the list, if it is not in the folder.
        device: where the scales go.

    Raises:
        ModelError: a file is missing, damaged, would run code, or does not fit the others.
        ConfigError: no such image size or device.
    """
    folder = scales_folder(Path(folder))
    count = count_scales(folder)
    generators = [OfficialNetwork.read(folder / str(n) / "netG.pth") for n in range(count)]
    discriminators = [OfficialNetwork.read(folder / str(n) / "netD.pth") for n in range(count)]
    rows = _read_transformations(
        transformation_list(folder) if transformations is None else Path(transformations)
    )
    for network in discriminators:
        network.check_classes(len(rows))
    noise, amplitudes = _read_noise(folder, count)
    sides, shots = tuple(z.shape[-1] for z in noise), len(amplitudes[0])
    config = HTDGConfig(
        image_size=image_size,
        min_size=sides[0],
        max_size=sides[-1],
        transformations=rows,
        translation="resampled",
        precision="float32",  # as the official code computes
        device=device,
    )
    _check_image_size(folder, [d.width for d in discriminators], sides, image_size)

    place, scales = resolve_device(device), []
    for n, side in enumerate(sides):
        scale = empty_scale(config, n, side, len(rows), shots)
        generators[n].copy_into(scale.generator)
        discriminators[n].copy_into(scale.discriminator)
        scale.z_star, scale.sigma = noise[n], amplitudes[n]
        scales.append(freeze(scale.to(place)))
    real = _read_training_images(folder, shots, sides[-1])
    if real is None:
        real = _rebuilt(scales)
    return ModelState(
        config=config,
        sides=sides,
        transformations=tuple(Transformation(*row) for row in rows),
        scales=tuple(scales),
        images=resize(real, image_size),
        image_names=tuple(f"official image {k}" for k in range(1, shots + 1)),
        trained_with={
            "htdg": f"{__version__} (imported from the official code)",
            **dict.fromkeys(("torch", "python", "trained_on"), "unknown"),
        },
    )


@torch.no_grad()
def _rebuilt(scales: Sequence[Scale]) -> torch.Tensor:
    """The training images (K, 3, H, H) as the generators rebuild them from z*, on the CPU."""
    index = torch.arange(len(scales[0].sigma), device=scales[0].sigma.device)
    return generate(scales, reconstruction_noise(scales), index)[-1].clamp(-1, 1).cpu()


def _check_image_size(
    folder: Path, widths: list[int], sides: Sequence[int], image_size: int
) -> None:
    """ModelError unless the widths and sides are those of ``image_size``."""
    uncapped = [HTDGConfig.channels * 2 ** (n // 4) for n in range(len(widths))]
    cap = max(widths)  # image_size limits the width
    capped = cap < uncapped[-1]
    listed = " ".join(map(str, widths))
    if widths != [min(width, cap) for width in uncapped] or (capped and cap < sides[-1]):
        raise ModelError(
            f"The discriminators in {folder} are {listed} channels wide, which no image_size gives "
            f"with scales of {' '.join(map(str, sides))} pixels: it is no model of the official "
            "code."
        )
    if capped and image_size != cap:
        raise ModelError(
            f"The discriminators in {folder} are {listed} channels wide, but an image_size of "
            f"{image_size} would give other widths: give image_size {cap}."
        )
    if image_size < max(cap, sides[-1]):
        raise ModelError(
            f"The discriminators in {folder} are {listed} channels wide and its largest scale has "
            f"{sides[-1]} pixels, too much for an image_size of {image_size}: give the training's "
            f"image_size, at least {max(cap, sides[-1])}."
        )


# --- Noise --------------------------------------------------------------------------------------


def _read_noise(folder: Path, count: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """For every scale z* (1, 1, side, side) and sigma (K,)."""
    noise = entries_by_scale(folder, count, "Zs.pth", "z_opt.pth")
    amplitudes = entries_by_scale(folder, count, "NoiseAmp.pth", "noise_amp.pth")
    z_stars = [_shared_noise(entries) for entries in noise]
    sides = [z.shape[-1] for z in z_stars]
    smallest = HTDGConfig().receptive_field
    if sides != sorted(set(sides)) or sides[0] <= smallest:
        raise ModelError(
            f"The fixed noise in {folder} has {' '.join(map(str, sides))} pixels, but every scale "
            f"must be larger than the one before and than {smallest}: copy the right files."
        )
    sigmas = [torch.cat([_amplitude(entry) for entry in entries]) for entries in amplitudes]
    shots = max(len(sigma) for sigma in sigmas)
    other = [len(sigma) for sigma in sigmas if len(sigma) not in (1, shots)]
    if other:
        raise ModelError(
            f"The noise amplitudes in {folder} are for {other[0]} training images at one scale and "
            f"for {shots} at another: copy files of the same training."
        )
    if noise[0][0].image is not None and len(noise[0]) != shots:
        raise ModelError(
            f"The fixed noise and the noise amplitudes in {folder} are for different numbers of "
            f"training images, {len(noise[0])} and {shots}: copy files of the same training."
        )
    return z_stars, [sigma.expand(shots).clone() for sigma in sigmas]  # one number is for all


def _shared_noise(entries: Sequence[Entry]) -> torch.Tensor:
    """z* (1, 1, side, side) of a scale, which all training images share."""
    z, *others = [_unpadded(entry) for entry in entries]
    if not all(torch.equal(z, other) for other in others):
        raise ModelError(
            f"{entries[0].place} is other noise than that of the other training images, but all "
            "images share it: copy the files of one training."
        )
    return z


def _unpadded(entry: Entry) -> torch.Tensor:
    """Of noise (B, C, side + 10, side + 10), the same B * C times, one without its border."""
    padded = entry.value
    if (
        isinstance(padded, torch.Tensor)
        and padded.ndim == 4
        and padded.numel() > 0
        and padded.shape[-1] == padded.shape[-2] > 2 * PADDING
    ):
        padded = padded.detach().float()
        z = padded[:1, :1, PADDING:-PADDING, PADDING:-PADDING].clone()
        if torch.equal(F.pad(z, [PADDING] * 4).expand_as(padded), padded) and z.isfinite().all():
            return z
    raise ModelError(
        f"{entry.place} is {described(entry.value)}, but must be noise (1, 3, side + 10, "
        "side + 10), the same in every channel, with 5 zeros around: copy the official code's file "
        "again."
    )


def _amplitude(entry: Entry) -> torch.Tensor:
    """sigma of one training image, (1,), or of all, (1,) or (K,)."""
    try:
        sigma = torch.as_tensor(entry.value).detach().float()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        sigma = torch.empty(0)
    in_a_row = sigma.numel() == max(sigma.shape, default=1) > 0
    if (
        not in_a_row
        or not sigma.isfinite().all()
        or (entry.image is not None and sigma.numel() > 1)
    ):
        images = "each training image" if entry.image is None else f"training image {entry.image}"
        raise ModelError(
            f"{entry.place} is {described(entry.value)}, but must be a finite amplitude of the "
            f"noise for {images}: copy the right file."
        )
    return sigma.flatten()


# --- Transformations ----------------------------------------------------------------------------


def _read_transformations(path: Path) -> tuple[Row, ...]:
    """The rows (grey, flip, tx, ty, k) in the order of D's classes."""
    content = read_file(path)
    if isinstance(content, (torch.Tensor, np.ndarray)) and content.ndim:
        _check_number_of_rows(path, len(content))
    listed = content.tolist() if isinstance(content, (torch.Tensor, np.ndarray)) else content
    if not isinstance(listed, (list, tuple)) or not listed:
        raise ModelError(
            f"{path} holds {described(content)}, but must be a list of rows "
            "(grey, flip, tx, ty, k)."
        )
    _check_number_of_rows(path, len(listed))
    rows = tuple(_row(path, i, row) for i, row in enumerate(listed, start=1))
    row, times = Counter(rows).most_common(1)[0]
    if times > 1:
        raise ModelError(
            f"{path} has the transformation {list(row)} {times} times, but all must be different: "
            "give the list of this training."
        )
    return rows


def _check_number_of_rows(path: Path, count: int) -> None:
    if count > MOST_TRANSFORMATIONS:
        raise ModelError(
            f"{path} has {count} rows, but there are only {MOST_TRANSFORMATIONS} different "
            "transformations: give the list of this training."
        )


def _row(path: Path, number: int, row: object) -> Row:
    try:
        if not isinstance(row, Iterable):
            raise TypeError
        values = list(row)
        grey, flip, tx, ty, k = (int(value) for value in values)
        if [grey, flip, tx, ty, k] != values:
            raise ValueError
        Transformation(grey, flip, tx, ty, k)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ModelError(
            f"{path} has {one_line(repr(row))} as transformation {number}, but must have (grey, "
            "flip, tx, ty, k), grey and flip 0 or 1, tx and ty -1, 0 or 1, k 0 to 3."
        ) from None
    return grey, flip, tx, ty, k


# --- Training images ----------------------------------------------------------------------------


def _read_training_images(folder: Path, shots: int, side: int) -> torch.Tensor | None:
    """The training images (K, 3, side, side) of the finest scale; None if there are none."""
    path = folder / "reals.pth"
    if not path.is_file():
        return None
    finest = []
    for images in lists_by_image(read_file(path), path).values():
        if not isinstance(images, (list, tuple)) or not images:
            return None
        if not isinstance(images[-1], torch.Tensor) or images[-1].shape[1:] != (3, side, side):
            return None
        finest.append(images[-1].detach().float())
    real = torch.cat(finest)
    if len(real) != shots or not real.abs().max() <= 1.001:  # which is also false of NaN
        return None
    return real.clamp(-1, 1)
