"""What a command keeps beside its results, to know the next time whether they still hold."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def hash_of(parts: object) -> str:
    """Identifies plain JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def file_state(path: Path) -> tuple[str, int, int]:
    """Where a file is, its size, and when it was changed."""
    state = path.stat()
    return str(path.resolve()), state.st_size, state.st_mtime_ns


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file up to the first broken one: the last of a killed program may be."""
    return (value for _, value in _whole_lines(path))


def cut_broken_end(path: Path) -> None:
    """Cut off what ``json_lines`` does not read, so that lines can be added to the file."""
    whole = max((end for end, _ in _whole_lines(path)), default=0)
    if path.is_file() and path.stat().st_size > whole:
        os.truncate(path, whole)


def _whole_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines of a file up to the first broken one, and the byte that each ends before."""
    end = 0
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for line in lines:
            end += len(line)
            try:
                value = json.loads(line)
            except ValueError:
                return
            if not line.endswith(b"\n"):  # it may go on
                return
            yield end, value
