"""Files written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from htdg.errors import UserError


class OutputError(UserError):
    """A place that cannot be written to; the message names it."""


def check_writable(path: Path) -> None:
    """Raise OutputError unless a file or folder ``path`` can be made, before any work is done.

    Nothing is made yet; folders above it that are missing can be made where the first one is that
    is there.
    """
    above = next(p for p in path.absolute().parents if os.path.lexists(p))
    if not above.is_dir():
        raise OutputError(f"{path} cannot be written: {above} is no folder.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise OutputError(f"{path} cannot be written: no permission for {above}.")


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8: see ``write_bytes``."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it into place; OutputError if not."""
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
