"""Figures with alternative text, and controls that leave a picture behind in a saved notebook."""

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


class Controls:
    """Controls that need a kernel, and the picture that stands for them where none runs.

    Where a kernel runs the cell, the controls are displayed. A saved notebook keeps the picture
    (give the cell the tag ``widget``, see ``htdg.course.execute``), and so has a page made from it.
    """

    def __init__(self, box: VBox, figure: Figure, alt: str) -> None:
        """The controls in ``box``, and ``figure`` in their place, described by ``alt``."""
        self.box = box
        self._png = png(figure)
        self._alt = alt

    def _repr_mimebundle_(self, **_kwargs: object) -> tuple[dict[str, object], dict[str, object]]:
        """What IPython displays: of these, a page takes the first that it can show."""
        content = {**self.box._repr_mimebundle_(), "image/png": self._png, "text/plain": self._alt}
        return content, {"image/png": {"alt": self._alt}}


def play(draw: Callable[..., Figure], alt: str, **controls: ValueWidget) -> Controls:
    """Controls, such as sliders, above the figure that ``draw`` makes of their values.

    Args:
        draw: takes the value of every control under the control's name.
        alt: describes the figure at the first values, which stands in the place of the controls
            where no kernel runs.
        controls: ipywidgets that have a value.
    """
    from ipywidgets import HTML, VBox

    page = HTML()

    def figure() -> Figure:
        return draw(**{name: control.value for name, control in controls.items()})

    def show_in_page(drawn: Figure) -> None:
        # One assignment, so that the old figure stays until the new one is there: no flicker.
        source = f"data:image/png;base64,{png(drawn)}"
        page.value = f'<img src="{source}" alt="{ALT}" style="max-width:100%">'

    for control in controls.values():
        control.observe(lambda _change: show_in_page(figure()), names="value")
    first = figure()
    show_in_page(first)
    return Controls(VBox([*controls.values(), page]), first, alt)
