"""Values of options, and notebooks that are none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from htdg.config import HTDGConfig
from tests.attack.cases import EITHER, NO_FILES, Case
from tests.attack.kills import SMALL

#: Large values of these are allowed: a training is long, or fails in its course.
TAKE_THEIR_TIME = ("niter", "d_steps", "g_steps", "geom_epochs", "lr_d", "lr_g")
OF_SCORE = ("--defect-fraction", "--threshold", "--batch-size", "--map-size", "--white-level")


def option_cases(model: Path, given: Path, work: Path) -> Iterator[Case]:
    """Values of options."""
    image = str(given / "good" / "1.png")
    values = ("", "x", "-1", "0", "nan", "inf", "1e400", "9" * 5000, "20000", "0.999999999999", "[")
    values += ("[[0,0,0,0,0]]", "[" * 5000, "\ud800", "\x1b[31m", "2147483648", "²")
    for i, field in enumerate(fields(HTDGConfig)):
        if field.type == "bool" or field.name == "device":
            continue
        for value in values:
            if field.name in TAKE_THEIR_TIME and value in ("20000", "2147483648"):
                continue
            words = ["train", image, "--out", f"{work}/out/o{i}", *SMALL, "--overwrite"]
            words += [f"--{field.name.replace('_', '-')}={value}"]
            yield Case(f"option {field.name} = {value[:20]!r}", words, EITHER)
    for option in OF_SCORE:
        for value in values:
            words = ["score", str(model), image, "--device", "cpu", f"{option}={value}"]
            if option == "--map-size":
                words += ["--maps", f"{work}/out/maps"]
            yield Case(f"score {option} = {value[:20]!r}", words, EITHER)


def notebook_cases(work: Path) -> Iterator[Case]:
    """Notebooks that are none: refused before a kernel is started."""
    place = work / "notebooks"
    place.mkdir()
    whole = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    contents: dict[str, object] = {
        "empty": b"",
        "text": b"hello",
        "zeros": bytes(100),
        "deep": b"[" * 100_000,
        "a list": [],
        "null": None,
        "no cells": {},
        "of format 99": {**whole, "nbformat": 99},
        "of format x": {**whole, "nbformat": "x"},
        "of a list of formats": {**whole, "nbformat": [4]},
        "cells no list": {**whole, "cells": 1},
        "a cell no dictionary": {**whole, "cells": [1]},
        "a cell without source": {**whole, "cells": [{"cell_type": "code"}]},
    }
    for i, (name, content) in enumerate(contents.items()):
        path = place / f"{i}.ipynb"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        for more in ([], ["-p", "a", "1"]):
            words = ["run", str(path), "--out", f"{work}/out/nb{i}", *more]
            yield Case(f"notebook: {name} {' '.join(more)}", words)
    for i, (kind, make) in enumerate(NO_FILES.items()):
        path = place / f"none{i}.ipynb"
        make(path)
        yield Case(f"notebook: {kind}", ["run", str(path), "--out", f"{work}/out/nb_{i}"])
