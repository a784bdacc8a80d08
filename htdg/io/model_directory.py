"""A model on disk: a directory with ``config.json``, ``weights.safetensors``, ``history.json``.

Nothing is pickled, so a model from a stranger cannot run code. Directories are written under a
temporary name and renamed: a killed program leaves no half-written model.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from htdg.errors import UserError
from htdg.io.files import write_text

#: Raised by one whenever a model written now could not be read by the code before.
FORMAT = 2


class ModelError(UserError):
    """A model directory that cannot be read or written; the message says which and why."""


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
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
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
        for path in folder.parent.iterdir():
            if re.fullmatch(rf"\.{re.escape(folder.name)}\.\d+\.tmp", path.name):
                shutil.rmtree(path, ignore_errors=True)  # left behind by a killed program
        temporary.mkdir()
        safetensors.torch.save_file(plain, temporary / "weights.safetensors")
        (temporary / "history.json").write_text(history_text)
        (temporary / "config.json").write_text(json.dumps(described, indent=1) + "\n")
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
    except (OSError, SafetensorError) as error:
        if old.exists() and not folder.exists():
            old.rename(folder)
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"{folder} cannot be written: {reason}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def change_description(folder: Path, **changes: Any) -> None:  # noqa: ANN401
    """Change what a model's ``config.json`` says, and nothing else in its directory."""
    path = folder / "config.json"
    write_text(path, json.dumps(_read_json(path, folder) | changes, indent=1) + "\n")


def read_directory(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any], Any]:
    """Read a model directory: (tensors on the CPU, description, history).

    Raises:
        ModelError: missing, of a newer format, damaged, or with a missing or altered tensor.
    """
    described = _read_json(folder / "config.json", folder)
    found = described.get("format") if isinstance(described, dict) else None
    if type(found) is not int or found < 1:
        raise ModelError(f"{folder}/config.json has no format number: it is no htdg model.")
    if found > FORMAT:
        raise ModelError(
            f"{folder} has model format {found}, but this htdg reads up to {FORMAT}: update htdg."
        )
    try:
        tensors = safetensors.torch.load_file(folder / "weights.safetensors")
    except FileNotFoundError:
        raise ModelError(f"{folder} has no weights.safetensors: copy the model again.") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{folder}/weights.safetensors is damaged ({error}).") from error
    digests = described.get("tensors", {})
    if not isinstance(digests, dict):
        raise ModelError(f"{folder}/config.json has no list of tensors: it is no htdg model.")
    for name in sorted(digests.keys() | tensors.keys()):
        if name not in tensors:
            raise ModelError(f"{folder}/weights.safetensors has no tensor {name}: copy it again.")
        if digests.get(name) != digest(tensors[name]):
            raise ModelError(
                f"Tensor {name} in {folder}/weights.safetensors is not the one that was saved: "
                "copy the model again."
            )
    return tensors, described, _read_history(folder, described)


def _read_history(folder: Path, described: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """The training history; empty if its file was removed, since nothing depends on it."""
    path = folder / "history.json"
    if not path.is_file():
        return []
    history = _read_json(path, folder)
    if described.get("history") != hashlib.sha256(path.read_bytes()).hexdigest():
        raise ModelError(f"{path} is not the one that was saved: copy the model again.")
    return history


def digest(tensor: torch.Tensor) -> str:
    """SHA-256 over type, shape and bytes of a tensor."""
    header = f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
    return hashlib.sha256(header + tensor.cpu().contiguous().numpy().tobytes()).hexdigest()


def _read_json(path: Path, folder: Path) -> Any:  # noqa: ANN401
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelError(f"{folder} has no {path.name}: it is no htdg model directory.") from None
    except NotADirectoryError:
        raise ModelError(f"{folder} is a file, but a model is a directory.") from None
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} cannot be read ({error}).") from error
