"""Models that were altered: descriptions, weights, histories, and files that are none."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from htdg.io.model_directory import description_text, write_directory
from tests.attack.cases import EITHER, HOSTILE, NO_FILES, PICKLE, Case


def described(model: Path) -> dict[str, Any]:
    return json.loads((model / "config.json").read_text())


def altered(model: Path, folder: Path, **files: bytes | None) -> Path:
    """A copy of a model with other files; ``None`` for one that is missing."""
    shutil.copytree(model, folder)
    names = {"config": "config.json", "weights": "weights.safetensors", "history": "history.json"}
    for name, content in files.items():
        path = folder / names[name]
        path.unlink()
        if content is not None:
            path.write_bytes(content)
    return folder


def signed(description: dict[str, Any]) -> bytes:
    """A description with a digest that fits: nothing shows that it was altered."""
    return description_text(description).encode("utf-8", "surrogatepass")


def descriptions(model: Path) -> Iterator[tuple[str, bytes, tuple[int, ...]]]:
    """Altered ``config.json``: what was altered, the file, and the exit codes that are right."""
    whole = described(model)
    places: list[tuple[str, ...]] = [(key,) for key in whole]
    places += [("config", key) for key in whole["config"]]
    places += [("threshold", key) for key in whole["threshold"]]
    for place in places:
        for value in HOSTILE:
            changed = copy.deepcopy(whole)
            inside = changed
            for key in place[:-1]:
                inside = inside[key]
            if inside[place[-1]] == value and type(inside[place[-1]]) is type(value):
                continue
            inside[place[-1]] = value
            name = f"{'.'.join(place)} = {str(value)[:20]!r}"
            unsigned = json.dumps(changed).encode()
            yield f"{name}, not signed", unsigned, (2,)
            if place != ("digest",):
                yield f"{name}, signed", signed(changed), EITHER
        without = copy.deepcopy(whole)
        inside = without
        for key in place[:-1]:
            inside = inside[key]
        del inside[place[-1]]
        yield f"without {'.'.join(place)}", signed(without), EITHER
    for depth in (1_000, 100_000):
        yield f"nested {depth} deep", b"[" * depth + b"]" * depth, (2,)
        yield f"nested {depth} deep in a dict", b'{"a":' * depth + b"1" + b"}" * depth, (2,)
    text = signed(whole)
    for name, content in (
        ("empty", b""),
        ("a list", b"[]"),
        ("null", b"null"),
        ("a number", b"1"),
        ("a huge number", b"1" * 10**6),
        ("zeros", bytes(1000)),
        ("bytes", bytes(range(256))),
        ("UTF-16", text.decode().encode("utf-16")),
        ("cut short", text[: len(text) // 2]),
        ("twice", text * 2),
        (
            "reversed transformations",
            json.dumps({**whole, "transformations": whole["transformations"][::-1]}).encode(),
        ),
    ):
        yield f"config.json: {name}", content, (2,)


def weights(model: Path) -> Iterator[tuple[str, bytes]]:
    """Altered ``weights.safetensors``."""
    whole = (model / "weights.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header, data = whole[8 : 8 + length], whole[8 + length :]
    entries = json.loads(header)

    def built(changed: dict[str, Any], content: bytes = data) -> bytes:
        text = json.dumps(changed).encode()
        return struct.pack("<Q", len(text)) + text + content

    for cut in (0, 1, 7, 8, 9, 100, 8 + length, 8 + length + 1, len(whole) // 2, len(whole) - 1):
        yield f"cut to {cut} bytes", whole[:cut]
    for size in (0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1):
        yield f"header of {size} bytes", struct.pack("<Q", size) + whole[8:]
    yield "one byte more", whole + b"\0"
    yield "a flipped byte of data", whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:]
    yield "no tensors", built({}, b"")
    yield "a pickle", PICKLE
    name = next(key for key in entries if key.endswith("conv.weight"))
    for kind in ("F64", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "I8", "U8", "BOOL", "X"):
        yield f"{name} of type {kind}", built({**entries, name: {**entries[name], "dtype": kind}})
    for shape in ([], [0], [-1], [2**62, 4], [1] * 100, [2**31], "x", None, [1.5]):
        yield (
            f"{name} of shape {shape!r:.20}",
            built({**entries, name: {**entries[name], "shape": shape}}),
        )
    for offsets in ([0, 0], [0, 2**63], [-1, 5], [5, 1], [], None):
        changed = {**entries, name: {**entries[name], "data_offsets": offsets}}
        yield f"{name} at {offsets!r}", built(changed)
    yield "nested header", struct.pack("<Q", 200_000) + b"[" * 100_000 + b"]" * 100_000


def tensors(model: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Altered tensors, in a model whose every digest fits."""
    whole = safetensors.torch.load_file(model / "weights.safetensors")
    for ending in ("conv.weight", "running_var", "running_mean", "z_star", "sigma", "images"):
        name = next(key for key in whole if key.endswith(ending))
        value = whole[name]
        for what, changed in (
            ("NaN", torch.full_like(value, float("nan"))),
            ("infinite", torch.full_like(value, float("inf"))),
            ("negative", -torch.ones_like(value)),
            ("huge", torch.full_like(value, 3e38)),
            ("whole numbers", value.long()),
            ("float64", value.double()),
            ("bfloat16", value.bfloat16()),
            ("float8", value.to(torch.float8_e4m3fn)),
            ("complex", value.to(torch.complex64)),
            ("without elements", value[:0]),
            ("one axis more", value[None]),
            ("flat", value.flatten()),
        ):
            if changed.dtype != value.dtype or not torch.equal(changed, value):
                yield f"{name} {what}", {**whole, name: changed.contiguous()}
        yield f"without {name}", {key: v for key, v in whole.items() if key != name}
    yield "a tensor too many", {**whole, "extra": whole["images"].clone()}
    yield "a scale too many", {**whole, "scale9.z_star": whole["images"].clone()}


def model_cases(model: Path, given: Path, work: Path) -> Iterator[Case]:
    """Cases of altered models: scored with, and those with other descriptions looked at."""
    image, count = str(given / "new" / "1.png"), 0

    def place() -> Path:
        nonlocal count
        count += 1
        return work / f"model{count}"

    def score(name: str, folder: Path, expected: tuple[int, ...] = (2,)) -> Case:
        return Case(f"model: {name}", ["score", str(folder), image, "--device", "cpu"], expected)

    def with_history(content: object) -> Path:
        text = json.dumps(content).encode()
        description = signed({**whole, "history": hashlib.sha256(text).hexdigest()})
        return altered(model, place(), config=description, history=text)

    whole, history = described(model), json.loads((model / "history.json").read_text())
    for name, content, expected in descriptions(model):
        folder = altered(model, place(), config=content)
        yield score(name, folder, expected)
        if "config." not in name:
            yield Case(f"info: {name}", ["info", str(folder)], expected)
    for name, content in weights(model):
        yield score(f"weights: {name}", altered(model, place(), weights=content))
    for name, changed in tensors(model):
        folder = place()
        write_directory(folder, changed, whole, history)
        right = EITHER if "huge" in name or "negative" in name or "whole" in name else (2,)
        yield score(f"signed: {name}", folder, right)
    for value in HOSTILE:
        folder = with_history(value)
        right = EITHER if value == [] else (2,)
        yield Case(f"info: history {str(value)[:20]!r}", ["info", str(folder)], right)
        folder = with_history([{**scale, "seconds": value} for scale in history])
        yield Case(f"info: seconds {str(value)[:20]!r}", ["info", str(folder)], EITHER)
    for file in ("config", "weights", "history"):
        right = EITHER if file == "history" else (2,)  # nothing depends on it
        yield score(f"without {file}", altered(model, place(), **{file: None}), right)
        for kind, make in NO_FILES.items():
            folder = altered(model, place(), **{file: None})
            names = {"config": "config.json", "weights": "weights.safetensors"}
            make(folder / names.get(file, "history.json"))
            yield score(f"{file} is {kind}", folder, right)
    for kind, make in NO_FILES.items():
        make(folder := place())
        yield score(f"is {kind}", folder)
