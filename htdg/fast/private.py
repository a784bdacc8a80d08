"""Whether anybody else could have put something into the cache folder: what lies there is run.

For systems with users as POSIX has them.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


def make_private(folder: Path) -> None:
    """Make a folder, if it is missing, and those above it, for this user alone."""
    for place in (*reversed(folder.parents), folder):
        if not place.exists():
            place.mkdir(mode=0o700, exist_ok=True)  # another program may make it meanwhile


def check_private(folder: Path) -> None:
    """Check that nobody but this user and root can change what is in a folder, or put it elsewhere.

    Raises:
        OSError: somebody can.
    """
    if folder.stat().st_uid != os.getuid():
        raise OSError(f"{folder} is another user's")
    for place in (folder.resolve(), *folder.resolve().parents):
        if _others_may_write(place):
            raise OSError(f"others may write into {place} (chmod go-w {place} forbids it)")


def is_ours(file: Path) -> bool:
    """Whether this is a file that this user, or root, has made, and that nobody else can change.

    Of a link the answer is no.
    """
    try:
        status = file.lstat()
    except FileNotFoundError:
        return False
    made_by_us = status.st_uid in (0, os.getuid()) and not status.st_mode & 0o022
    return stat.S_ISREG(status.st_mode) and made_by_us


def _others_may_write(folder: Path) -> bool:
    """Whether a user but this one and root can replace what is in a folder."""
    status = folder.stat()
    if status.st_uid not in (0, os.getuid()):
        return True
    if status.st_mode & stat.S_ISVTX:  # as in /tmp, where nobody can replace what is another's
        return False
    by_group = status.st_mode & stat.S_IWGRP and not _is_our_own(status.st_gid)
    return bool(status.st_mode & stat.S_IWOTH or by_group)


def _is_our_own(group: int) -> bool:
    """Whether this is the group that some systems make for a user alone, called like the user."""
    import grp
    import pwd

    try:
        return grp.getgrgid(group).gr_name == pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return False
