"""Each notebook is run by its menu, looked at from top to bottom, and its widgets are moved."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.browser.checks import faults, move_all, saved_images
from tests.browser.lab import ROOT, Lab

if TYPE_CHECKING:
    from tests.browser.page import NotebookPage


def test_a_notebook_runs_and_its_widgets_react(
    notebook: str, lab: Lab, opened: Callable[[str], NotebookPage]
) -> None:
    saved = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
    page = opened(notebook)
    shown = page.run_all()
    page.unfold()
    page.pieces()
    wrong = faults(shown, saved)
    assert not wrong, "\n".join(wrong)

    hints = [hint for cell in page.cells() for hint in cell["hints"]]
    assert len(hints) == sum("".join(cell["source"]).count("<details>") for cell in saved)
    assert all(hint["open"] and hint["height"] > hint["folded"] + 10 for hint in hints)

    widgets = [i for i, cell in enumerate(shown) if cell["widgets"]]
    wrong = [f"cell {i}: {fault}" for i in widgets for fault in move_all(page, i)]
    assert not wrong, "\n".join(wrong)
    assert not [cell["errors"] for cell in page.cells() if cell["errors"]]

    page.save()
    kept = json.loads((lab.folder / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
    assert [len(saved_images(c)) for c in kept if c["cell_type"] == "code"] == [
        len(saved_images(c)) for c in saved if c["cell_type"] == "code"
    ]
