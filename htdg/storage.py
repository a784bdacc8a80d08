"""A model on disk: a directory with ``config.json``, ``weights.safetensors``, ``history.json``.

Nothing is pickled, so a model from a stranger cannot run code. Directories are written under a
temporary name and renamed: a killed program leaves no half-written model.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

#: Raised by one whenever a model written now could not be read by the code before.
FORMAT = 1


class ModelError(ValueError):
    """A model directory that cannot be read or written; the message says which and why."""


class OutputError(ValueError):
    """A place that cannot be written to; the message names it."""


def check_writable(path: Path) -> None:
    """Raise OutputError unless a file or folder ``path`` can be made, before any work is done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.") from None
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path} cannot be written: no permission for {path.parent}.")


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
    is_model = (folder / "config.json").is_file()
    if folder.exists() and not is_model and (folder.is_file() or any(folder.iterdir())):
        raise ModelError(f"{folder} is there and is no htdg model: choose another name.")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    digests = {name: digest(t) for name, t in sorted(plain.items())}
    described = {"format": FORMAT, **description, "tensors": digests}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left_behind in folder.parent.glob(f".{folder.name}.*.tmp"):  # by a killed program
            shutil.rmtree(left_behind, ignore_errors=True)
        temporary.mkdir()
        safetensors.torch.save_file(plain, temporary / "weights.safetensors")
        (temporary / "history.json").write_text(json.dumps(history) + "\n")
        (temporary / "config.json").write_text(json.dumps(described, indent=1) + "\n")
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
    except OSError as error:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise ModelError(f"{folder} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def read_directory(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any], Any]:
    """Read a model directory: (tensors on the CPU, description, history).

    Raises:
        ModelError: missing, of a newer format, damaged, or with a missing or altered tensor.
    """
    described = _read_json(folder / "config.json", folder)
    found = described.get("format") if isinstance(described, dict) else None
    if not isinstance(found, int):
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
    for name in sorted(digests.keys() | tensors.keys()):
        if name not in tensors:
            raise ModelError(f"{folder}/weights.safetensors has no tensor {name}: copy it again.")
        if digests.get(name) != digest(tensors[name]):
            raise ModelError(
                f"Tensor {name} in {folder}/weights.safetensors is not the one that was saved: "
                "copy the model again."
            )
    history_file = folder / "history.json"
    history = _read_json(history_file, folder) if history_file.is_file() else []
    return tensors, described, history


def digest(tensor: torch.Tensor) -> str:
    """SHA-256 over type, shape and bytes of a tensor."""
    header = f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
    return hashlib.sha256(header + tensor.cpu().contiguous().numpy().tobytes()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it into place; OutputError if not."""
    check_writable(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.") from None
    finally:
        temporary.unlink(missing_ok=True)


def _read_json(path: Path, folder: Path) -> Any:  # noqa: ANN401
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelError(f"{folder} has no {path.name}: it is no htdg model directory.") from None
    except NotADirectoryError:
        raise ModelError(f"{folder} is a file, but a model is a directory.") from None
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} cannot be read ({error}).") from error
