"""Checks the marked results of notebooks: ``python -m htdg.course.claims [NOTEBOOK ...]``.

``htdg.course.marks`` says what a mark is. Without options the command compares the saved values.
``--execute`` executes the notebooks again, without saving them, with two threads and without the
compiled helpers: a claim that depends on how sums are rounded turns false there.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat

from htdg.course.execute import executed
from htdg.course.files import notebook_folder
from htdg.course.marks import false_claims, number_of_claims


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, or execute and compare; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m htdg.course.claims", description=__doc__)
    parser.add_argument(
        "notebooks",
        nargs="*",
        type=Path,
        metavar="NOTEBOOK",
        help="by default those of the course that have marks",
    )
    parser.add_argument("--execute", action="store_true", help="execute the notebooks anew")
    options = parser.parse_args(arguments)
    if options.execute:
        os.environ |= {"OMP_NUM_THREADS": "2", "HTDG_KERNELS": "0"}  # for the kernels
    failed = False
    for path in options.notebooks or marked_notebooks():
        notebook = executed(path) if options.execute else nbformat.read(path, as_version=4)
        complaints = false_claims(notebook)
        failed |= bool(complaints)
        print(f"{path}: {len(complaints)} of {number_of_claims(notebook)} claims are false")
        for complaint in complaints:
            print(f"  {complaint}", file=sys.stderr)
    return int(failed)


def marked_notebooks() -> list[Path]:
    """The notebooks of the course that have marks, with the answers where there are two."""
    folder = notebook_folder()
    solutions = {path.name: path for path in (folder / "solutions").glob("*.ipynb")}
    paths = [solutions.get(path.name, path) for path in sorted(folder.glob("[0-9]*.ipynb"))]
    return [path for path in paths if number_of_claims(nbformat.read(path, as_version=4))]


if __name__ == "__main__":
    sys.exit(main())
