"""What a hostile input is, and some that stand where a file or a value should be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Case(NamedTuple):
    """A hostile input.

    Attributes:
        name: what is wrong with it.
        words: the command that reads it.
        expected: the exit codes that are right.
    """

    name: str
    words: list[str]
    expected: tuple[int, ...] = (2,)


EITHER = (0, 2)
#: What a file does that gets its code run: it makes a file, beside the input.
HARM = 'touch "$HTDG_HARM"'
PICKLE = f"cposix\nsystem\n(S'{HARM}'\ntR.".encode()
#: Values that no description holds, or few.
HOSTILE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "x", "\ud800", "\x1b[31m", "../../../etc/passwd", "9" * 5000, [], {}, [[]], [None]),
    *({"a": {"b": 1}}, [0] * 1000),
)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def huge(path: Path) -> None:
    """A file of a terabyte that takes no room on the disk."""
    with path.open("wb") as file:
        file.truncate(2**40)


#: What stands where a file should be.
NO_FILES: dict[str, Callable[[Path], None]] = {
    "a pipe": pipe,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a terminal": lambda path: path.symlink_to("/dev/tty"),
    "a folder": lambda path: path.mkdir(),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "another text": lambda path: path.symlink_to("/etc/passwd"),
    "a terabyte": huge,
}
