"""The browser test must be able to fail: it finds all that is wrong with a broken notebook."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from tests.browser.checks import faults, move_all
from tests.browser.lab import Lab

if TYPE_CHECKING:
    from tests.browser.page import NotebookPage

#: Whatever the slider says, the figure is the same.
FROZEN = """
from ipywidgets import IntSlider
from matplotlib.figure import Figure
from htdg.course.show import play
play(lambda n: Figure(figsize=(3, 1)), n=IntSlider(description="n"))
"""
#: The picture must be as large as the saved one.
SMALL = """
from matplotlib.figure import Figure
from htdg.course.show import show
show(Figure(figsize=(1, 1)), "a white square of 90 pixels")
"""
#: A figure that is wider than the page and does not shrink.
WIDE = """
from IPython.display import display
from matplotlib.figure import Figure
from htdg.course.show import png
source = f"data:image/png;base64,{png(Figure(figsize=(20, 1)))}"
display({"text/html": f'<img src="{source}" style="max-width:none">'}, raw=True)
"""


def with_figure(width: int, height: int) -> list[Any]:
    """The outputs of a saved cell that drew a figure."""
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, "PNG")
    data = {"image/png": base64.b64encode(file.getvalue()).decode("ascii")}
    return [new_output("display_data", data=data)]


def test_everything_that_is_wrong_is_found(
    lab: Lab, opened: Callable[[str], NotebookPage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.browser.page.REACTING", 10)
    saved = [
        new_markdown_cell("Half of $x$ is in `half`."),
        new_code_cell(FROZEN, metadata={"tags": ["widget"]}),
        new_code_cell(SMALL, outputs=with_figure(120, 120)),
        new_code_cell("print('no figure')", outputs=with_figure(120, 120)),
        new_code_cell(WIDE, outputs=with_figure(1800, 90)),
        new_code_cell("1 / 0"),
        new_code_cell("print('never reached')"),
    ]
    broken = [nbformat.from_dict(cell) for cell in saved]
    broken[0] = new_markdown_cell("<div>**half** of it</div>")
    for cell in broken[1:]:
        cell["outputs"] = []
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = new_notebook(cells=broken, metadata=metadata)
    path = lab.folder / "notebooks" / "broken.ipynb"
    nbformat.write(notebook, path)

    page = opened("broken")
    assert faults(page.run_all(), saved) == [
        "cell 0: unrendered: '**'",
        "cell 0: 0 formulas instead of 1",
        "cell 2: a figure of 90 x 90 pixels instead of 120 x 120",
        "cell 3: 0 figures instead of 1",
        "cell 4: 1 figures are wider than the page and cut off",
        "cell 5: an error: ZeroDivisionError: division by zero",
        "cell 6: the execution number is [ ]:, not [6]:",
    ]
    assert move_all(page, 1) == ["the figure stays as it is when the slider n moves"]
    path.unlink()
