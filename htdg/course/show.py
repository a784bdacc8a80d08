"""Figures with alternative text, and widgets that leave nothing behind in a saved notebook."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from htdg.evaluation.plots import figure_png

if TYPE_CHECKING:
    from ipywidgets import ValueWidget, VBox

#: Dots an inch of figures in notebooks: sharp, and small enough to be kept in them.
DPI = 90
#: Alternative text of a figure with controls.
ALT = "what the controls above are set to; the text before describes it"


def png(figure: Figure) -> str:
    """The figure as a PNG file, in base64."""
    return base64.b64encode(figure_png(figure, DPI)).decode("ascii")


def show(figure: Figure, alt: str) -> None:
    """Display a figure below the cell, with a description for those who cannot see it."""
    from IPython.display import display

    content = {"image/png": png(figure), "text/plain": alt}
    display(content, raw=True, metadata={"image/png": {"alt": alt}})


def play(draw: Callable[..., Figure], **controls: ValueWidget) -> VBox:
    """Controls, such as sliders, above the figure that ``draw`` makes of their values.

    A widget needs the kernel and is not kept in the saved notebook (give its cell the tag
    ``widget``, see ``htdg.course.execute``), so a static figure before it should show the same.

    Args:
        draw: takes the value of every control under the control's name.
        controls: ipywidgets that have a value.
    """
    from ipywidgets import HTML, VBox

    page = HTML()

    def redraw(_change: object = None) -> None:
        values = {name: control.value for name, control in controls.items()}
        # One assignment, so that the old figure stays until the new one is there: no flicker.
        source = f"data:image/png;base64,{png(draw(**values))}"
        page.value = f'<img src="{source}" alt="{ALT}" style="max-width:100%">'

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    return VBox([*controls.values(), page])
