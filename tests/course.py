"""What the tests of the course share: the answers of a solution notebook, executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat

from htdg.course.exercises import answer_of, tags

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def answers(name: str) -> dict[str, Any]:
    """Everything that the import cells and the exercise cells of a solution define."""
    notebook = nbformat.read(NOTEBOOKS / "solutions" / f"{name}.ipynb", as_version=4)
    defined: dict[str, Any] = {}
    for cell in notebook["cells"]:
        source = cell["source"]
        first = source.lstrip().startswith(("import ", "from ", "%matplotlib"))
        if cell["cell_type"] == "code" and (first or "exercise" in tags(cell)):
            lines = [line for line in answer_of(source).split("\n") if not line.startswith("%")]
            exec("\n".join(lines), defined)
    return defined
