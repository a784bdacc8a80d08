"""What can be wrong with a notebook on the screen, compared with the committed file."""

from __future__ import annotations

import base64
import io
import re
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from tests.browser.page import NotebookPage

#: What a widget says that has lost its model, or never had one.
LOST = ("model not found", "Error displaying widget", "Loading widget", "Error creating widget")
#: Markdown that was not rendered: bold, links, code, headings, formulas.
RAW = re.compile(r"\*\*|\]\(|`|^#+ |\$", re.M)


def saved_images(cell: dict[str, Any]) -> list[tuple[int, int]]:
    """Width and height of every figure that a saved code cell has, as a PNG or within HTML."""
    pictures = []
    for output in cell["outputs"]:
        data = output.get("data", {})
        within = re.findall(r"data:image/png;base64,([^\"']+)", "".join(data.get("text/html", "")))
        pictures += within or (["".join(data["image/png"])] if "image/png" in data else [])
    return [Image.open(io.BytesIO(base64.b64decode(picture))).size for picture in pictures]


def faults(shown: list[dict[str, Any]], saved: list[dict[str, Any]]) -> list[str]:
    """What is wrong with the cells that the browser shows, compared with the committed ones."""
    if len(shown) != len(saved):
        return [f"{len(shown)} cells are shown, {len(saved)} are in the notebook"]
    sentences, runs = [], 0
    for i, (cell, committed) in enumerate(zip(shown, saved, strict=True)):
        if cell["kind"] != committed["cell_type"]:
            sentences.append(f"cell {i} is shown as {cell['kind']}")
        if committed["cell_type"] == "code":
            runs += 1
            wrong = code_faults(cell, committed, runs)
        else:
            wrong = prose_faults(cell, "".join(committed["source"]))
        sentences += [f"cell {i}: {fault}" for fault in wrong]
    return sentences


def code_faults(cell: dict[str, Any], committed: dict[str, Any], number: int) -> list[str]:
    """What is wrong with a code cell that should have run as the ``number``-th."""
    sentences = []
    if cell["prompt"] != f"[{number}]:":
        sentences.append(f"the execution number is {cell['prompt']}, not [{number}]:")
    sentences += [f"an error: {error.strip().splitlines()[-1]}" for error in cell["errors"]]
    expected = saved_images(committed)
    if len(cell["images"]) != len(expected):
        sentences.append(f"{len(cell['images'])} figures instead of {len(expected)}")
    for image, (width, height) in zip(cell["images"], expected, strict=False):
        sizes = ((image["width"], width), (image["height"], height))
        if any(abs(is_ - was) > 0.05 * was for is_, was in sizes):
            size = f"{image['width']} x {image['height']}"
            sentences.append(f"a figure of {size} pixels instead of {width} x {height}")
    if cell["cut"]:
        sentences.append(f"{cell['cut']} figures are wider than the page and cut off")
    widgets = int("widget" in committed["metadata"].get("tags", []))
    if cell["widgets"] != widgets:
        sentences.append(f"{cell['widgets']} widgets instead of {widgets}")
    sentences += [f"a widget says {words!r}" for words in LOST if words in cell["output"]]
    return sentences


def prose_faults(cell: dict[str, Any], source: str) -> list[str]:
    """What is wrong with a text cell of this source."""
    sentences = [f"unrendered: {raw!r}" for raw in set(RAW.findall(cell["prose"]))]
    if cell["broken_formulas"]:
        sentences.append(f"{cell['broken_formulas']} formulas are broken")
    text = re.sub(r"`[^`]*`", "", source)
    formulas = len(re.findall(r"\$\$.+?\$\$|\$.+?\$", text, re.S))
    if cell["formulas"] != formulas:
        sentences.append(f"{cell['formulas']} formulas instead of {formulas}")
    return sentences


def move_all(page: NotebookPage, number: int) -> list[str]:
    """Move every control of a cell's widget, then all of them back; what is wrong with that."""
    sentences = []
    start = before = page.widget_images(number)
    page.picture(f"widget_{number:02}_before", number)
    controls = page.controls(number)
    if not controls:
        return ["there is nothing to move"]
    for i, control in enumerate(controls, start=1):
        control.move()
        after = page.reaction(number, before)
        page.picture(f"widget_{number:02}_move_{i}", number)
        if after == before:
            sentences.append(
                f"the figure stays as it is when the {control.kind} {control.name} moves"
            )
        before = after
    if all(control.kind == "button" for control in controls):
        return sentences
    for control in reversed(controls):
        control.move(back=True)
        page.wait_until_idle()
    if page.widget_images(number) != start and page.reaction(number, before) != start:
        sentences.append("the figure is another one when all controls are back where they were")
    return sentences
