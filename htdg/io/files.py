"""Writing files whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from htdg.errors import UserError


class OutputError(UserError):
    """A place that cannot be written to; the message names it."""


def check_writable(path: Path) -> None:
    """Check, before any work is done, that a file or folder ``path`` can be made.

    Nothing is made yet. Missing folders above ``path`` do no harm: they can be made where the
    nearest folder that exists can be written to.

    Raises:
        OutputError: it cannot be made.
    """
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
    """Text in which names of files that are no valid UTF-8 have ``\\xff`` for such a byte."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.") from None
    finally:
        temporary.unlink(missing_ok=True)
