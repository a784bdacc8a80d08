"""A model on disk: a directory with ``config.json``, ``weights.safetensors``, ``history.json``.

Nothing is pickled, so a model from a stranger cannot run code. Directories are written under a
temporary name and renamed: a killed program leaves no half-written model.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from htdg.config import ConfigError, HTDGConfig
from htdg.distances import BANK_SIZE, patches_drawn
from htdg.errors import UserError, is_out_of_memory
from htdg.evidence import bank_choices
from htdg.io.files import check_regular, one_line, write_text
from htdg.io.folders import beside, put, recover
from htdg.runtime.device import resolve_device
from htdg.sampling import Scale, empty_scale, freeze
from htdg.state import ModelState
from htdg.thresholds import Threshold
from htdg.transformations import Transformation, as_rows

#: Raised by one whenever a model written now could not be read by the code before, or when what is
#: checked in older ones is not enough: from 4 on there is a digest of the description, from 5 on
#: which patches memory banks keep.
FORMAT = 5
#: Bytes of a description and of a history at most, many times what they have: in memory JSON takes
#: up to 25 times as much.
LARGEST_DESCRIPTION, LARGEST_HISTORY = 2**24, 2**26
#: What goes wrong where a description or a tensor is not as it should be.
_WRONG = (KeyError, TypeError, AttributeError, ArithmeticError, ValueError, RuntimeError)


#: Builds the classifier of the ablation "geom": (tensors, number of classes M, device).
ClassifierLoader = Callable[[Mapping[str, torch.Tensor], int, torch.device], nn.Module]


class ModelError(UserError):
    """A model directory that cannot be read or written; the message says which and why."""


# --- A model ------------------------------------------------------------------------------------


def save_model(model: ModelState, folder: Path) -> None:
    """Write the model directory ``folder`` in one step; ModelError if that cannot be done."""
    description: dict[str, object] = {
        **model.trained_with,
        "config": model.config.as_dict(),
        "sides": list(model.sides),
        "transformations": as_rows(model.transformations),
        "training_images": list(model.image_names),
        "images_at_once": model.images_at_once,
        "threshold": None if model.threshold is None else asdict(model.threshold),
    }
    scales = () if model.config.evidence == "distance" else model.scales
    tensors = {**scale_tensors(scales), "images": model.images}
    # Banks of other options are left out.
    named = bank_choices(model.config, len(model.images))
    tensors |= {name: chosen for name, chosen in model.banks.items() if name in named}
    if model.classifier is not None:
        description["geom_seconds"] = model.classifier_seconds
        weights = model.classifier.state_dict()
        tensors |= {f"geom.{key}": value for key, value in weights.items()}
    write_directory(folder, tensors, description, list(model.history))


def load_model(
    folder: Path, device: str, load_classifier: ClassifierLoader | None = None
) -> ModelState:
    """Read a model directory, its scales onto ``device`` (``"auto"``, ``"cpu"``, ``"cuda"`` ...).

    Args:
        folder: the model directory.
        device: where the scales go, wherever they were trained.
        load_classifier: builds the classifier of a model of the ablation "geom".

    Raises:
        ModelError: it is missing, of a newer format, damaged or altered.
        ConfigError: this machine has no such device.
    """
    tensors, description, history = read_directory(folder)
    try:
        return _model(tensors, description, history, device, load_classifier)
    except ConfigError as error:
        raise ConfigError(one_line(str(error))) from error
    except _WRONG as error:
        if is_out_of_memory(error):
            raise
        reason = one_line(str(error))
        raise ModelError(f"{folder} is no complete htdg model: {reason}.") from error


def _model(
    tensors: Mapping[str, torch.Tensor],
    description: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    device: str,
    load_classifier: ClassifierLoader | None,
) -> ModelState:
    """The model that these describe; KeyError, TypeError or ValueError if they do not fit."""
    config = HTDGConfig(**description["config"]).with_options(device=device)
    place = resolve_device(device)
    transformations = _checked_transformations(description["transformations"])
    sides = _checked_sides(description["sides"], config)
    trained = () if config.evidence == "distance" else sides
    count = len(tensors["images"])
    banks = bank_choices(config, count)
    whole, parts = {"images", *banks}, {"geom", *(f"scale{n}" for n in range(len(trained)))}
    others = tensors.keys() - whole
    strange = sorted(name for name in others if name.partition(".")[0] not in parts)
    if strange:
        raise ValueError(f"tensor {strange[0]} does not follow from its options")
    check_values(tensors)
    drawn = {name: patches_drawn(count, *part) for name, part in banks.items()}
    images, scales = checked_images(tensors["images"], config.image_size), []
    for n, side in enumerate(trained):
        scale = empty_scale(config, n, side, len(transformations), len(images))
        load_scale(scale, n, tensors)
        scales.append(freeze(scale.to(place)))
    classifier = None
    if config.method == "geom":
        if load_classifier is None:
            raise ValueError("its classifier cannot be read without load_classifier")
        classifier = load_classifier(tensors, len(transformations), place)
    return ModelState(
        config=config,
        sides=sides,
        transformations=transformations,
        scales=tuple(scales),
        images=images,
        image_names=_checked_names(description["training_images"]),
        threshold=_checked_threshold(description.get("threshold")),
        images_at_once=int(description.get("images_at_once", 0)),
        history=checked_history(history),
        trained_with={
            **{key: str(description[key]) for key in ("htdg", "torch", "python", "trained_on")},
            **{key: str(description[key]) for key in ("machine",) if key in description},
        },
        banks=_checked_banks(tensors, drawn),
        classifier=classifier,
        classifier_seconds=float(description.get("geom_seconds", 0.0)),
    )


def check_values(tensors: Mapping[str, torch.Tensor]) -> None:
    """ValueError if a weight is no finite float, or a variance is negative.

    What is counted (of batch normalisation) is in 64-bit integers.
    """
    for name, tensor in tensors.items():
        if tensor.dtype == torch.int64:
            continue
        if tensor.dtype != torch.float32:
            raise ValueError(f"tensor {name} has type {tensor.dtype} instead of float32")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"tensor {name} holds values that are not finite")
        if name.endswith("running_var") and (tensor < 0).any():
            raise ValueError(f"tensor {name} holds negative variances")


def checked_images(images: torch.Tensor, side: int) -> torch.Tensor:
    """Training images (K, 3, s, s) in [-1, 1]; ValueError if they are not."""
    if images.ndim != 4 or len(images) < 1 or images.shape[1:] != (3, side, side):
        raise ValueError(f"its training images have shape {tuple(images.shape)}")
    if images.dtype != torch.float32 or images.abs().max() > 1.001:
        raise ValueError("its training images are no floats in [-1, 1]")
    return images


def _checked_banks(
    tensors: Mapping[str, torch.Tensor], drawn: Mapping[str, int]
) -> dict[str, torch.Tensor]:
    """Which patches the memory banks keep, of so many each; ValueError if they cannot be that."""
    banks = {name: tensors[name] for name in drawn if name in tensors}
    for name, chosen in banks.items():
        if chosen.dtype != torch.int64 or chosen.shape != (BANK_SIZE,):
            raise ValueError(f"tensor {name} is no list of {BANK_SIZE} patches")
        out_of_range = chosen.min() < 0 or chosen.max() >= drawn[name]
        if out_of_range or (chosen.diff() < 1).any():
            raise ValueError(f"tensor {name} has patches out of range, or not in ascending order")
    return banks


def _checked_sides(sides: object, config: HTDGConfig) -> tuple[int, ...]:
    """The pyramid plan that a model was stored with; ValueError if it cannot be one."""
    if not isinstance(sides, list) or any(type(side) is not int for side in sides):
        raise ValueError(f"its pyramid plan is {sides!r}")
    too_small = any(side <= config.receptive_field for side in sides)
    if too_small or sides != sorted(set(sides)) or (not sides and config.method != "mse"):
        raise ValueError(f"its pyramid plan is {sides!r}")
    return tuple(sides)


def _checked_transformations(rows: Any) -> tuple[Transformation, ...]:  # noqa: ANN401
    """T_1 .. T_M from rows of whole numbers; ValueError or TypeError if they are none."""
    if any(type(value) is not int for row in rows for value in row):  # 2.0 and True equal one
        raise ValueError("its transformations are no whole numbers")
    transformations = tuple(Transformation(*row) for row in rows)
    if not transformations or len(set(transformations)) < len(transformations):
        raise ValueError("its list of transformations is empty, or has one of them twice")
    return transformations


def _checked_names(names: object) -> tuple[str, ...]:
    """What the training images were called; ValueError if it is no list of texts."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("the names of its training images are no list of texts")
    return tuple(names)


def _checked_threshold(stored: Any) -> Threshold | None:  # noqa: ANN401 - whatever the file has
    """The threshold, if there is one; ValueError if something about it is no number in [0, 1]."""
    if stored is None:
        return None
    threshold = Threshold(**stored)
    for name in ("false_positive_rate", "least", "median", "greatest", "mean_vote"):
        value = getattr(threshold, name)
        if value is not None and (not isinstance(value, (int, float)) or not 0 <= value <= 1):
            raise ValueError(f"its threshold has {name} {value!r}, which is not in [0, 1]")
    if not isinstance(threshold.limit, str) or isinstance(threshold.defect_fraction, list):
        raise ValueError("its threshold has no name of an image, or several defect fractions")
    return threshold


def checked_history(history: Sequence[Any]) -> tuple[Mapping[str, Any], ...]:
    """The history of a training, of each scale a dict with its seconds; ValueError if it is not."""
    for scale in history:
        seconds = scale.get("seconds") if isinstance(scale, dict) else None
        if not isinstance(seconds, (int, float)) or not math.isfinite(seconds):
            raise ValueError("its history has no seconds for a scale")
    return tuple(history)


def scale_tensors(scales: Sequence[Scale]) -> dict[str, torch.Tensor]:
    """Everything trained, by name: ``scale0.generator.blocks.0.conv.weight`` and so on."""
    return {
        f"scale{n}.{key}": value
        for n, scale in enumerate(scales)
        for key, value in _state(scale).items()
    }


def load_scale(scale: Scale, n: int, tensors: Mapping[str, torch.Tensor]) -> None:
    """Fill a scale from ``tensors``; ValueError if one is missing, too many or of another shape."""
    prefix = f"scale{n}."
    stored = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    wanted = _state(scale)
    for key in sorted(wanted.keys() | stored.keys()):
        if key not in wanted or key not in stored or wanted[key].shape != stored[key].shape:
            raise ValueError(f"tensor {prefix}{key} does not follow from its options")
    for key, value in wanted.items():
        value.copy_(stored[key])


def _state(scale: Scale) -> dict[str, torch.Tensor]:
    """The tensors of one scale, themselves and not copies, by name."""
    state = {"z_star": scale.z_star, "sigma": scale.sigma}
    for kind in ("generator", "discriminator"):
        network = getattr(scale, kind).state_dict()
        state |= {f"{kind}.{key}": value for key, value in network.items()}
    return state


# --- Its directory ------------------------------------------------------------------------------


def check_replaceable(folder: Path) -> None:
    """Raise ModelError unless ``folder`` is a model, empty, or not there."""
    if not os.path.lexists(folder):
        return
    is_model = all((folder / name).is_file() for name in ("config.json", "weights.safetensors"))
    is_empty = folder.is_dir() and os.access(folder, os.R_OK) and not any(folder.iterdir())
    if not (is_model or is_empty):
        raise ModelError(f"{folder} is there and is no htdg model: choose another name.")


def write_directory(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    description: Mapping[str, Any],
    history: object,
) -> None:
    """Write a model directory in one step, replacing a model that is there.

    Args:
        folder: the directory to write.
        tensors: what goes into ``weights.safetensors``.
        description: what goes into ``config.json``; format number and digests are added.
        history: what goes into ``history.json``.

    Raises:
        ModelError: something that is no model stands there, or the place cannot be written.
    """
    check_replaceable(folder)
    folder = folder.resolve()
    temporary = beside(folder, "tmp")
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    digests = {name: digest(t) for name, t in sorted(plain.items())}
    history_text = json.dumps(history) + "\n"
    described = {
        "format": FORMAT,
        **description,
        "tensors": digests,
        "history": hashlib.sha256(history_text.encode()).hexdigest(),
    }
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        recover(folder)
        temporary.mkdir()
        safetensors.torch.save_file(plain, temporary / "weights.safetensors")
        (temporary / "history.json").write_text(history_text)
        (temporary / "config.json").write_text(description_text(described))
        # safetensors lets nobody else read its file, whatever the umask.
        shutil.copymode(temporary / "config.json", temporary / "weights.safetensors")
        put(temporary, folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"{folder} cannot be written: {reason}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def change_threshold(folder: Path, threshold: Threshold | None) -> None:
    """Change the threshold in a model's ``config.json``, and nothing else in its directory."""
    path = folder / "config.json"
    changed = {"threshold": None if threshold is None else asdict(threshold)}
    write_text(path, description_text(_read_json(path, folder) | changed))


def description_text(described: Mapping[str, Any]) -> str:
    """The text of ``config.json``: the description, with a digest of all of it."""
    return json.dumps({**described, "digest": _digest_of(described)}, indent=1) + "\n"


def _digest_of(described: Mapping[str, Any]) -> str:
    """SHA-256 over a description, in which those of weights and history are."""
    text = json.dumps(
        {name: v for name, v in described.items() if name != "digest"}, sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()


def read_directory(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any], Any]:
    """Read a model directory: (tensors on the CPU, description, history).

    Raises:
        ModelError: missing, of a newer format, damaged, or with a missing or altered tensor.
    """
    if not os.path.exists(folder):  # noqa: PTH110 - pathlib fails at names that are too long
        recover(folder)
    described = _read_json(folder / "config.json", folder)
    number = described.get("format") if isinstance(described, dict) else None
    if type(number) is not int or number < 1:
        raise ModelError(f"{folder}/config.json has no format number: it is no htdg model.")
    if number > FORMAT:
        raise ModelError(
            f"{folder} has model format {number}, but this htdg reads up to {FORMAT}: update htdg."
        )
    signed = number > 3 or "digest" in described
    if signed and described.get("digest") != _digest_of(described):
        raise ModelError(
            f"{folder}/config.json is not the one that was saved: copy the model again "
            "(thresholds are changed by htdg calibrate)."
        )
    try:
        check_regular(folder / "weights.safetensors")
        tensors = safetensors.torch.load_file(folder / "weights.safetensors")
    except FileNotFoundError:
        raise ModelError(f"{folder} has no weights.safetensors: copy the model again.") from None
    except PermissionError:
        raise ModelError(_no_permission(folder / "weights.safetensors")) from None
    except (SafetensorError, OSError) as error:
        if is_out_of_memory(error):
            raise MemoryError from error
        reason = one_line(str(error))
        raise ModelError(f"{folder}/weights.safetensors is damaged ({reason}).") from error
    digests = described.get("tensors", {})
    if not isinstance(digests, dict):
        raise ModelError(f"{folder}/config.json has no list of tensors: it is no htdg model.")
    for name in sorted(digests.keys() | tensors.keys()):
        if not name.isprintable() or len(name) > 300:
            raise ModelError(f"{folder} has a tensor called {one_line(name)}: it is no htdg model.")
        if name not in tensors:
            raise ModelError(f"{folder}/weights.safetensors has no tensor {name}: copy it again.")
        if digests.get(name) != digest(tensors[name]):
            raise ModelError(
                f"Tensor {name} in {folder}/weights.safetensors is not the one that was saved: "
                "copy the model again."
            )
    return tensors, described, _read_history(folder, described)


def _read_history(folder: Path, described: Mapping[str, Any]) -> list[Any]:
    """The training history; empty if its file was removed, since nothing depends on it."""
    path = folder / "history.json"
    if not path.is_file():
        return []
    history = _read_json(path, folder, LARGEST_HISTORY)
    if described.get("history") != hashlib.sha256(path.read_bytes()).hexdigest():
        raise ModelError(f"{path} is not the one that was saved: copy the model again.")
    if not isinstance(history, list):
        raise ModelError(f"{path} holds no list: copy the model again.")
    return history


def digest(tensor: torch.Tensor) -> str:
    """SHA-256 over type, shape and bytes of a tensor."""
    header = f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
    content = tensor.cpu().contiguous().flatten().view(torch.uint8)  # of types without NumPy's, too
    return hashlib.sha256(header + content.numpy().tobytes()).hexdigest()


def _read_json(path: Path, folder: Path, most: int = LARGEST_DESCRIPTION) -> dict[str, Any]:
    try:
        check_regular(path, most)
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} has no {path.name}: it is no htdg model directory.") from None
    except NotADirectoryError:
        raise ModelError(f"{folder} is a file, but a model is a directory.") from None
    except PermissionError:
        raise ModelError(_no_permission(path)) from None
    except RecursionError:
        raise ModelError(f"{path} is nested too deeply: it is no htdg model.") from None
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} cannot be read ({error}).") from error


def _no_permission(path: Path) -> str:
    return f"You have no permission to read {path}: ask its owner for it (chmod)."
