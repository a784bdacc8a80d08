"""``htdg course``."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from htdg.course.files import notebook_files
from htdg.errors import UserError
from htdg.io.files import check_writable, write_bytes, write_text

#: Says that a folder was made here, so that it may be filled up later.
MARK = ".htdg-course"


class CourseError(UserError):
    """The course cannot be laid out there; the message says why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to copy the course into")


def execute(options: argparse.Namespace) -> None:
    """Carry the command out."""
    written, kept = lay_out(options.folder)
    print(f"files written to {options.folder}: {written}")
    if kept:
        print("kept as they are, since they differ from the course's:")
        for path in kept:
            print(f"  {path}")
        print("Rename or remove one and run this again to get it as it was.")
    first = shlex.quote(str(options.folder / "00_quickstart.ipynb"))
    print(f"open it with: jupyter lab {first}")


def lay_out(folder: Path) -> tuple[int, list[Path]]:
    """Copy the course into a folder: notebooks without outputs, solutions, runs and figures.

    A file that is there already stays as it is. Each other one is written under a temporary name
    and renamed, so that an interrupted copy leaves no half file and can be made again.

    Returns:
        How many files were written, and the paths of those that were there with other content.

    Raises:
        CourseError: there is something at ``folder`` that was not made here.
        OutputError: the folder cannot be written to.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).is_file():
        raise CourseError(f"{folder} is not empty and holds no course: choose another folder.")
    check_writable(folder / "00_quickstart.ipynb")
    write_text(folder / MARK, "Made by htdg course.\n")
    written, kept = 0, []
    for name, content in notebook_files():
        path = folder / name
        if not path.exists():
            write_bytes(path, content)
            written += 1
        elif path.read_bytes() != content:
            kept.append(path)
    return written, kept
