"""One program at a time writes a result."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from htdg.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class BusyError(UserError):
    """Another program is writing the same result; the message says which."""


@contextlib.contextmanager
def only_one(place: Path) -> Iterator[None]:
    """Have no other program do the same for ``place``, a file or folder, meanwhile.

    The system takes the lock from a program that ends, however it does. Where there are no such
    locks (Windows), nothing is locked.

    Raises:
        BusyError: another program does.
    """
    path = place.absolute().with_name(f".{place.absolute().name}.lock")
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _locked(path)
    except OSError:  # whoever writes there says what is wrong
        file = None
    try:
        yield
    finally:
        if file is not None:
            path.unlink(missing_ok=True)
            file.close()
            with contextlib.suppress(OSError):
                for folder in made:  # what nothing was written to is not left behind
                    folder.rmdir()


def _locked(path: Path) -> TextIO | None:
    """The file, open, locked and with the number of this process in it."""
    if fcntl is None:
        return None
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            number = file.read().strip()
            file.close()
            name = path.name.removeprefix(".").removesuffix(".lock")
            raise BusyError(
                f"{path.with_name(name)} is being written by process {number or 'unknown'}: wait "
                "until it is done, or choose another place."
            ) from None
        if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            break
        file.close()  # its owner has just deleted it
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file
