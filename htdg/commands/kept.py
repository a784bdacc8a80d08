"""What a command keeps beside its results, to know the next time whether they still hold."""

from __future__ import annotations

import hashlib
import json
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
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            yield json.loads(line)
        except ValueError:
            return
