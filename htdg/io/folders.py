"""Folders that are replaced or deleted in one step, whenever the program is killed.

A folder is written under another name beside its place and put there by an exchange of the two,
which Linux does in one step. Elsewhere it takes two, between which the place is empty: whoever
comes next finishes them (``recover``). A folder is renamed before it is deleted, so that half of it
never stands in its place.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

#: Of Linux's renameat2: paths are seen from here, and change places.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def beside(place: Path, kind: str) -> Path:
    """A hidden name of this process beside ``place``.

    ``kind`` is ``tmp`` for what is being written, ``old`` for what makes room for it and comes back
    if it is not, and ``gone`` for what is being deleted.
    """
    return place.with_name(f".{place.name}.{os.getpid()}.{kind}")


def put(new: Path, place: Path) -> None:
    """Move the folder ``new`` to ``place``, on the same disk, in place of a folder that is there.

    Raises:
        OSError: it cannot be; ``place`` is then as it was.
    """
    if not place.exists():
        new.rename(place)
        return
    if exchange(new, place):
        shutil.rmtree(new, ignore_errors=True)
        return
    old = beside(place, "old")
    place.rename(old)
    try:
        new.rename(place)
    except OSError:
        old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Have two files or folders change places in one step; whether the system could."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # an old C library
        return False
    names = os.fsencode(one), os.fsencode(other)
    return renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0


def remove(place: Path) -> None:
    """Delete a folder, if it is there; it is gone from its place at once."""
    aside = beside(place, "gone")
    try:
        place.rename(aside)
    except FileNotFoundError:
        return
    except OSError:
        aside = place
    shutil.rmtree(aside, ignore_errors=True)


def recover(place: Path) -> None:
    """Finish what a killed program left undone at ``place``, and delete what it left beside it.

    Nothing of a program that still runs is touched.
    """
    for path in leftovers(place):
        if path.suffix == ".old" and not os.path.lexists(place):
            path.rename(place)
        else:
            shutil.rmtree(path, ignore_errors=True)


def leftovers(place: Path) -> Iterator[Path]:
    """What killed programs left beside ``place``, those that were in its place first."""
    name = re.compile(rf"\.{re.escape(place.name)}\.(\d+)\.(tmp|old|gone)")
    if not place.parent.is_dir():
        return
    for path in sorted(place.parent.iterdir(), key=lambda path: path.suffix):
        match = name.fullmatch(path.name)
        if match and not is_running(int(match[1])):
            yield path


def is_running(number: int) -> bool:
    """Whether another process of this number runs. Where that cannot be asked, no."""
    if number == os.getpid() or os.name != "posix":
        return False
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is not ours
        return True
    return True
