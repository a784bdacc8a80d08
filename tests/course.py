"""What the tests of the course share: the answers of a solution notebook, executed."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
from scipy.stats import rankdata

from htdg.course.exercises import answer_of, tags

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
_CHECKED = re.compile(r"^checks(?:_\d\d)?\.(check_\w+)\((\w+)\)$")


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


def self_checks() -> list[tuple[str, str, Callable[..., None]]]:
    """Every self-check of the course: its notebook, the answer it examines, and the check."""
    checks_called = []
    for path in sorted((NOTEBOOKS / "solutions").glob("*.ipynb")):
        checks = importlib.import_module(f"htdg.course.checks_{path.stem[:2]}")
        for cell in nbformat.read(path, as_version=4)["cells"]:
            called = _CHECKED.match(cell["source"])
            if called:
                checks_called.append((path.stem, called[2], getattr(checks, called[1])))
    return checks_called


def auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    """As scikit-learn's ``roc_auc_score``, which takes many times as long; NaN of one kind alone.

    The learners' functions that the tests make up call it a thousand times each.
    """
    anomalous = labels == 1
    n, m = anomalous.sum(), (~anomalous).sum()
    if n == 0 or m == 0:
        return float("nan")
    ranks = rankdata(scores)  # the mean rank of equal scores
    return float((ranks[anomalous].sum() - n * (n + 1) / 2) / (n * m))
