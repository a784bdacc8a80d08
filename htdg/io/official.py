"""Models of the official implementation: its key names translated to ours, its folders read.

Nothing is read that would run code: PyTorch's files are loaded with ``weights_only=True``, and
whatever needs more is refused.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from htdg.config import HTDGConfig
from htdg.detector import HTDGDetector
from htdg.io.model_directory import ModelError
from htdg.networks import Discriminator, Generator
from htdg.pyramid import resize
from htdg.sampling import Scale, generate, reconstruction_noise
from htdg.training import freeze
from htdg.transformations import Transformation
from htdg.version import __version__

#: The official z* is stored with this many zeros on each side.
PADDING = 5
#: What the list of the transformations may be called, in the folder of a model.
LISTS = ("transformations.pth", "transformations.json", "transformations.npy")
Row = tuple[int, int, int, int, int]


def from_official_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict for our networks from one of the official ``netD`` or ``netG``.

    ``head.conv.weight`` -> ``blocks.0.conv.weight``, ``body.block2.norm.bias`` ->
    ``blocks.2.norm.bias``, ``tail.weight`` and ``tail.0.weight`` -> ``tail.weight``; the prefix
    ``module.`` that data parallelism adds is dropped.

    Raises:
        ValueError: a key is none of those.
    """
    return {_our_key(key): value for key, value in state.items()}


def _our_key(key: str) -> str:
    parts = key.removeprefix("module.").split(".")
    if parts[0] == "head":
        return ".".join(["blocks", "0", *parts[1:]])
    if parts[0] == "body" and len(parts) > 1 and parts[1].startswith("block"):
        return ".".join(["blocks", parts[1].removeprefix("block"), *parts[2:]])
    if parts[0] == "tail":
        return f"tail.{parts[-1]}"
    raise ValueError(f"{key!r} is no key of an official HTDG network: head, body.block or tail.")


def _official_key(key: str) -> str:
    """How the official code calls our ``key``, for messages."""
    key = key.replace("blocks.0.", "head.")
    return re.sub(r"^blocks\.(\d+)\.", r"body.block\1.", key)


# --- A whole model ------------------------------------------------------------------------------


def import_official(
    folder: str | Path,
    image_size: int = 128,
    transformations: str | Path | None = None,
    device: str = "cpu",
) -> HTDGDetector:
    """A detector from the folder of a model that was trained with the official code.

    What the folder holds, scale 0 being the coarsest:

    - ``<n>/netG.pth`` and ``<n>/netD.pth``: the state dicts of scale n, with or without the prefix
      ``module.``
    - ``Zs.pth``, a list of the fixed noise z* of every scale, or ``<n>/z_opt.pth``
    - ``NoiseAmp.pth``, a list of the amplitudes of every scale, or ``<n>/noise_amp.pth``
    - ``transformations.pth``, ``.json`` or ``.npy``: rows (grey, flip, tx, ty, k) in the order of
      D's classes, since the official code shuffles them
    - ``reals.pth``, if there: a list of the training images (K, 3, H, H) of every scale, in
      [-1, 1]. Without it, or if it is anything else, the training images are rebuilt from z*.

    These are the names in use in code that comes from SinGAN. They were tried on folders made from
    recorded arrays of the official code, not on a folder that an official run wrote.

    The logits are those of the official networks. The official resizing is not reproduced, so
    scores of the same image differ a little, and generated images more: the official code enlarges
    them by one factor between all scales and crops, ours from side to side. The sides are those of
    z*. Options that the folder does not tell, as ``niter``, are the paper's; there is no history.

    Args:
        folder: what the official code wrote.
        image_size: the side that the training had all images resized to.
        transformations: file with the list, if it is not in the folder.
        device: where the detector works.

    Raises:
        ModelError: a file is missing, damaged, would run code, or does not fit the others.
        ConfigError: no such image size or device.
    """
    folder = Path(folder)
    count = _count_scales(folder)
    generators = [_Network.read(folder / str(n) / "netG.pth") for n in range(count)]
    discriminators = [_Network.read(folder / str(n) / "netD.pth") for n in range(count)]
    rows = _read_transformations(folder, transformations)
    noise = _read_noise(folder, count)
    amplitudes = _read_amplitudes(folder, count)
    for network in discriminators:
        network.check_classes(len(rows))
    sides = tuple(z.shape[-1] for z in noise)
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

    detector = HTDGDetector(config)
    detector.transformations = config.resolve_transformations(coloured=True)
    detector.sides = sides
    detector.trained_with = {
        "htdg": f"{__version__} (imported from the official code)",
        **dict.fromkeys(("torch", "python", "trained_on"), "unknown"),
    }
    for n, side in enumerate(sides):
        width = config.width(n)
        generator = generators[n].fill(Generator(width, config.layers))
        discriminator = discriminators[n].fill(Discriminator(width, len(rows), config.layers))
        scale = Scale(
            side=side,
            generator=generator.to(detector.device),
            discriminator=discriminator.to(detector.device),
            z_star=noise[n].to(detector.device),
            sigma=amplitudes[n].to(detector.device),
        )
        detector.scales.append(freeze(scale))
    real = _read_real(folder, len(amplitudes[0]), sides[-1])
    if real is None:
        real = _rebuilt(detector.scales)
    detector.images = resize(real, image_size)
    detector.image_names = [f"official image {k}" for k in range(1, len(real) + 1)]
    detector._fitted = True
    return detector


@torch.no_grad()
def _rebuilt(scales: Sequence[Scale]) -> torch.Tensor:
    """The training images (K, 3, H, H) as the generators rebuild them from z*, on the CPU."""
    index = torch.arange(len(scales[0].sigma), device=scales[0].sigma.device)
    return generate(scales, reconstruction_noise(scales), index)[-1].clamp(-1, 1).cpu()


# --- Files --------------------------------------------------------------------------------------


def _read(path: Path) -> Any:  # noqa: ANN401
    """What a file holds, on the CPU, read without running code from it."""
    if not path.is_file():
        raise ModelError(f"{path} is not there: copy it too, or check the path.")
    try:
        if path.suffix == ".json":
            return json.loads(path.read_text())
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise nearly anything
        raise ModelError(
            f"{path} is damaged, or holds objects that only running its code would restore, which "
            "is refused: save it again as tensors, numbers, lists and dictionaries only."
        ) from error


def _count_scales(folder: Path) -> int:
    """How many folders 0, 1, .. there are."""
    if not folder.is_dir():
        raise ModelError(f"{folder} is no folder: name the one that the official code wrote.")
    names = [p.name for p in folder.iterdir() if p.is_dir()]
    found = sorted(int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]*", name))
    if not found:
        raise ModelError(
            f"{folder} has no folders 0, 1, ... with the networks of each scale: name the folder "
            "of one trained model."
        )
    gaps = [n for n in range(len(found)) if n not in found]
    if gaps:
        raise ModelError(
            f"{folder} has a folder {found[-1]} but no folder {gaps[0]}: copy all scales."
        )
    return len(found)


def _per_scale(folder: Path, count: int, whole: str, single: str) -> list[tuple[str, Any]]:
    """A value for each scale, and where it stands: a list in ``whole``, or ``<n>/<single>``."""
    path = folder / whole
    parts = [folder / str(n) / single for n in range(count)]
    if not path.is_file() and not parts[0].is_file():
        raise ModelError(f"{folder} has no {whole} and no 0/{single}: copy one of them too.")
    if not path.is_file():
        return [(str(part), _read(part)) for part in parts]
    values = _read(path)
    if not isinstance(values, (list, tuple)) or len(values) != count:
        raise ModelError(
            f"{path} holds {_described(values)}, but must be a list with an entry for each of the "
            f"{count} scales: copy files and folders of the same training."
        )
    return [(f"Entry {n} of {path}", value) for n, value in enumerate(values)]


def _described(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    return f"a {type(value).__name__}"


# --- The networks -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Network:
    """A state dict under our key names, and the file that it comes from."""

    path: Path
    state: dict[str, torch.Tensor]

    @classmethod
    def read(cls, path: Path) -> _Network:
        found = _read(path)
        whole = isinstance(found, Mapping) and all(isinstance(key, str) for key in found)
        if not whole or not all(isinstance(value, torch.Tensor) for value in found.values()):
            raise ModelError(f"{path} is no state dict: save the network's state_dict() there.")
        try:
            state = from_official_state(found)
        except ValueError as error:
            raise ModelError(f"{path} cannot be used: {error}") from None
        for key in ("blocks.0.conv.weight", "tail.bias"):
            if key not in state or state[key].ndim == 0:
                raise ModelError(
                    f"{path} lacks {_official_key(key)}: it is no network of the official code."
                )
        return cls(path, state)

    @property
    def width(self) -> int:
        return len(self.state["blocks.0.conv.weight"])

    def check_classes(self, m: int) -> None:
        """ModelError unless the network, a discriminator, has M + 1 classes."""
        classes = len(self.state["tail.bias"])
        if classes != m + 1:
            raise ModelError(
                f"{self.path} tells {classes - 1} transformations apart, but the list has {m}: "
                "give the list of this training (--transformations)."
            )

    def fill(self, network: nn.Module) -> nn.Module:
        """The network, with the weights of the file."""
        wanted = network.state_dict()
        for key in sorted(wanted.keys() | self.state.keys()):
            name = _official_key(key)
            if key not in wanted:
                raise ModelError(f"{self.path} has {name}, which is no part of it: check the file.")
            if key not in self.state:
                raise ModelError(f"{self.path} lacks {name}: save its whole state_dict().")
            found, shape = self.state[key], tuple(wanted[key].shape)
            if tuple(found.shape) != shape:
                raise ModelError(
                    f"{self.path} has {name} of shape {tuple(found.shape)}, but it must be "
                    f"{shape}: check that this is the right network of the right scale."
                )
            if not found.isfinite().all():
                raise ModelError(
                    f"{self.path} has values that are not finite in {name}: that training diverged."
                )
        network.load_state_dict(self.state)
        return network


def _check_image_size(
    folder: Path, widths: list[int], sides: Sequence[int], image_size: int
) -> None:
    """ModelError unless the widths and sides are those of ``image_size``."""
    wide = [HTDGConfig.channels * 2 ** (n // 4) for n in range(len(widths))]
    cap = max(widths)  # image_size limits the width
    capped = cap < wide[-1]
    told = " ".join(map(str, widths))
    if widths != [min(w, cap) for w in wide] or (capped and cap < sides[-1]):
        raise ModelError(
            f"The discriminators in {folder} are {told} channels wide, which no image_size gives "
            f"with scales of {' '.join(map(str, sides))} pixels: it is no model of the official "
            "code."
        )
    if capped and image_size != cap:
        raise ModelError(
            f"The discriminators in {folder} are {told} channels wide, but an image_size of "
            f"{image_size} would give other widths: give image_size {cap}."
        )
    if image_size < max(cap, sides[-1]):
        raise ModelError(
            f"The discriminators in {folder} are {told} channels wide and its largest scale has "
            f"{sides[-1]} pixels, too much for an image_size of {image_size}: give the training's "
            f"image_size, at least {max(cap, sides[-1])}."
        )


# --- Noise, transformations, images -------------------------------------------------------------


def _read_noise(folder: Path, count: int) -> list[torch.Tensor]:
    """z* of every scale, (1, 1, side, side)."""
    noise = [_unpadded(*found) for found in _per_scale(folder, count, "Zs.pth", "z_opt.pth")]
    sides = [z.shape[-1] for z in noise]
    least = HTDGConfig().receptive_field
    if sides != sorted(set(sides)) or sides[0] <= least:
        raise ModelError(
            f"The fixed noise in {folder} has {' '.join(map(str, sides))} pixels, but every scale "
            f"must be larger than the one before and than {least}: copy the right files."
        )
    return noise


def _unpadded(where: str, padded: Any) -> torch.Tensor:  # noqa: ANN401
    """Of noise (B, C, side + 10, side + 10), the same B * C times, one without its border."""
    good = isinstance(padded, torch.Tensor) and padded.ndim == 4 and padded.numel() > 0
    if good and padded.shape[-1] == padded.shape[-2] > 2 * PADDING:
        padded = padded.float()
        z = padded[:1, :1, PADDING:-PADDING, PADDING:-PADDING].clone()
        if torch.equal(F.pad(z, [PADDING] * 4).expand_as(padded), padded) and z.isfinite().all():
            return z
    raise ModelError(
        f"{where} is {_described(padded)}, but must be noise (1, 3, side + 10, side + 10), the "
        "same in every channel, with 5 zeros around: copy the official code's z_opt."
    )


def _read_amplitudes(folder: Path, count: int) -> list[torch.Tensor]:
    """sigma of every scale, (K,). One number stands for all K images."""
    amplitudes = []
    for where, value in _per_scale(folder, count, "NoiseAmp.pth", "noise_amp.pth"):
        try:
            sigma = torch.as_tensor(value).float()
        except (TypeError, ValueError, RuntimeError):
            sigma = torch.empty(0)
        in_a_row = sigma.numel() == max(sigma.shape, default=1) > 0
        if not in_a_row or not sigma.isfinite().all():
            raise ModelError(
                f"{where} is {_described(value)}, but must be a finite amplitude of the noise for "
                "each training image: copy the right file."
            )
        amplitudes.append(sigma.flatten())
    k = max(len(sigma) for sigma in amplitudes)
    wrong = [len(sigma) for sigma in amplitudes if len(sigma) not in (1, k)]
    if wrong:
        raise ModelError(
            f"The noise amplitudes in {folder} are for {wrong[0]} training images at one scale and "
            f"for {k} at another: copy files of the same training."
        )
    return [sigma.expand(k).clone() for sigma in amplitudes]


def _read_transformations(folder: Path, file: str | Path | None) -> tuple[Row, ...]:
    """The rows (grey, flip, tx, ty, k) in the order of D's classes."""
    if file is None:
        there = [folder / name for name in LISTS if (folder / name).is_file()]
        if not there:
            raise ModelError(
                f"{folder} has no {', '.join(LISTS[:-1])} or {LISTS[-1]}, and the order of the "
                "transformations is another in every official model: give the list of this "
                "training (--transformations)."
            )
        if len(there) > 1:
            raise ModelError(
                f"{folder} has {there[0].name} and {there[1].name}: say which one it is "
                "(--transformations)."
            )
        file = there[0]
    path = Path(file)
    found = _read(path)
    found = found.tolist() if isinstance(found, (torch.Tensor, np.ndarray)) else found
    if not isinstance(found, (list, tuple)) or not found:
        raise ModelError(
            f"{path} holds {_described(found)}, but must be a list of rows (grey, flip, tx, ty, k)."
        )
    rows = tuple(_row(path, i, row) for i, row in enumerate(found, start=1))
    row, often = Counter(rows).most_common(1)[0]
    if often > 1:
        raise ModelError(
            f"{path} has the transformation {list(row)} {often} times, but all must be different: "
            "give the list of this training."
        )
    return rows


def _row(path: Path, number: int, row: Any) -> Row:  # noqa: ANN401
    try:
        whole = tuple(int(value) for value in row)
        if len(whole) != 5 or any(a != b for a, b in zip(whole, row, strict=True)):
            raise TypeError
        Transformation(*whole)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ModelError(
            f"{path} has {row!r} as transformation {number}, but must have (grey, flip, tx, ty, "
            "k), grey and flip 0 or 1, tx and ty -1, 0 or 1, k 0 to 3."
        ) from None
    return whole


def _read_real(folder: Path, k: int, side: int) -> torch.Tensor | None:
    """The training images (K, 3, side, side) of the finest scale; None if there are none."""
    path = folder / "reals.pth"
    if not path.is_file():
        return None
    found = _read(path)
    real = found[-1] if isinstance(found, (list, tuple)) and found else None
    if not isinstance(real, torch.Tensor) or tuple(real.shape) != (k, 3, side, side):
        return None
    real = real.float()
    return real.clamp(-1, 1) if real.abs().max() <= 1.001 else None  # also None for NaN
