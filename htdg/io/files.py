"""Writing files whole or not at all."""

from __future__ import annotations

import os
import re
import stat
from collections import defaultdict
from contextlib import suppress
from functools import cache
from pathlib import Path

from htdg.errors import UserError
from htdg.io.folders import beside, is_running


class OutputError(UserError):
    """A place that cannot be written to; the message names it."""


def check_writable(path: Path) -> None:
    """Check, before any work is done, that a file or folder ``path`` can be made.

    Nothing is made yet. A device or a named pipe is refused: writing would put a file in its place.
    Missing folders above ``path`` do no harm: they can be made where the nearest folder that exists
    can be written to.

    Raises:
        OutputError: it cannot be made.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OutputError(f"{path} cannot be written: it is no regular file. Name another.")
    nearest = next(p for p in path.absolute().parents if os.path.lexists(p))
    if not nearest.is_dir():
        raise OutputError(f"{path} cannot be written: {nearest} is no folder.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputError(f"{path} cannot be written: no permission for {nearest}.")


def check_regular(path: Path, most: int | None = None) -> None:
    """Check before reading that a file is one, and no larger than ``most`` bytes.

    A named pipe or a device would be read for ever.

    Raises:
        OSError: it is something else (FileNotFoundError if it is not there), or larger.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise OSError("it is no regular file")
    if most is not None and state.st_size > most:
        raise OSError(f"it has {state.st_size:,} bytes, more than {most:,}")


def printable(text: str) -> str:
    """Text that can be written as UTF-8: names of files that are not have ``\\xff`` for a byte.

    Half of a pair of surrogates, which JSON can hold, becomes ``\\ud800`` and the like.
    """
    whole = re.sub("[\ud800-\udc7f\udd00-\udfff]", lambda half: rf"\u{ord(half[0]):04x}", text)
    return whole.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def one_line(text: str, most: int = 300) -> str:
    """Text from a stranger's file as it may be shown: one line, no longer than ``most``.

    Characters that a terminal would obey are written as escapes, as ``\\x1b``.
    """
    text = text if len(text) <= most else f"{text[:most]}..."
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, as ``write_bytes`` does."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it into place.

    Missing folders above it are made.

    Raises:
        OutputError: it cannot be written.
    """
    check_writable(path)
    temporary = beside(path, "tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in _left_in(path.parent.resolve()).pop(path.name, ()):
            left.unlink(missing_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@cache
def _left_in(folder: Path) -> dict[str, list[Path]]:
    """What killed programs were writing in a folder, by the name it was to get.

    This is looked up once, since a folder may hold thousands of files that are written in turn.
    """
    left = defaultdict(list)
    for path in folder.glob(".*.tmp"):
        match = re.fullmatch(r"\.(.+)\.(\d+)\.tmp", path.name, re.DOTALL)
        if match and path.is_file() and not is_running(int(match[2])):
            left[match[1]].append(path)
    return left
