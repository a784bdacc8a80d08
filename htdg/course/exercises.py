"""Exercise notebooks, made from those with the answers: ``python -m htdg.course.exercises``.

The answers are kept in one place, ``notebooks/solutions``. In a cell with the tag ``exercise`` the
lines between

    ### BEGIN SOLUTION
    ### END SOLUTION

are replaced by a line that raises NotImplementedError. Cells with the tag ``solution`` are left
out, and links that lead out of the folder of solutions are shortened by one ``../``. ``--check``
changes nothing and fails if a notebook is not up to date.
"""

from __future__ import annotations

import argparse
import copy
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from htdg.course.check import STUB
from htdg.io.files import write_text

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
_ANSWER = re.compile(rf"^([ ]*){re.escape(BEGIN)}\n.*?^[ ]*{re.escape(END)}$", re.M | re.S)
_MARKS = re.compile(rf"^[ ]*({re.escape(BEGIN)}|{re.escape(END)})\n?", re.M)


def tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    return cell["metadata"].get("tags", [])


def without_answers(notebook: NotebookNode) -> NotebookNode:
    """The exercise version of a notebook, without outputs.

    Raises:
        ValueError: a cell with the tag ``exercise`` has no marked answer, or one without has.
    """
    exercises = copy.deepcopy(notebook)
    exercises["cells"] = [cell for cell in exercises["cells"] if "solution" not in tags(cell)]
    for number, cell in enumerate(exercises["cells"]):
        if cell["cell_type"] != "code":
            cell["source"] = cell["source"].replace("](../", "](")
            cell["metadata"].pop("values", None)  # like outputs: of ``htdg.course.marks``
            continue
        cell["outputs"], cell["execution_count"] = [], None
        source, count = _ANSWER.subn(rf"\1{STUB}", cell["source"])
        if (count > 0) != ("exercise" in tags(cell)):
            raise ValueError(
                f"Cell {number} has {count} answers between {BEGIN!r} and {END!r}, and tags "
                f"{tags(cell)}: an exercise has both, any other cell neither."
            )
        cell["source"] = source
    return exercises


def answer_of(source: str) -> str:
    """The code of an exercise cell with its answer, without the marks."""
    return _MARKS.sub("", source)


def same_code(one: NotebookNode, other: NotebookNode) -> bool:
    """Whether two notebooks have the same cells, outputs aside."""
    parts = ("cell_type", "source", "id")
    rows = [
        [(*(cell.get(part) for part in parts), tuple(tags(cell))) for cell in book["cells"]]
        for book in (one, other)
    ]
    return rows[0] == rows[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write, or check, the exercise version of every solution; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m htdg.course.exercises", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("notebooks"))
    parser.add_argument("--check", action="store_true", help="only say what is out of date")
    options = parser.parse_args(arguments)
    stale = []
    for path in sorted((options.folder / "solutions").glob("*.ipynb")):
        exercises = without_answers(nbformat.read(path, as_version=4))
        target = options.folder / path.name
        if target.is_file() and same_code(exercises, nbformat.read(target, as_version=4)):
            continue
        stale.append(target)
        if not options.check:
            write_text(target, nbformat.writes(exercises) + "\n")
            print(target)
    if options.check and stale:
        names = ", ".join(map(str, stale))
        print(f"{names}: out of date, run python -m htdg.course.exercises", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
