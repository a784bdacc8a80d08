"""The course's answers, for a notebook whose cells build on each other's functions.

    answers = Answers("08_htdg_from_scratch", globals())
    answers.fill_in()             # functions that are still empty become the course's
    answers.reveal("my_sides")    # prints the course's function

They are read from ``notebooks/solutions``, the one place that has them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import nbformat

from htdg.course.exercises import answer_of, tags
from htdg.course.files import notebook_folder
from htdg.errors import UserError

#: What the line in an empty exercise says (``htdg.course.check.STUB``).
_EMPTY = "your code here"


class Answers:
    """The functions of one notebook: the reader's where there is one, else the course's."""

    def __init__(self, notebook: str, namespace: dict[str, Any]) -> None:
        """For the notebook of this name, whose variables are ``namespace``."""
        self.notebook, self.namespace = notebook, namespace
        self._filled_in: dict[str, Callable[..., Any]] = {}

    def sources(self) -> dict[str, str]:
        """The code of the course's functions by their names, in the order of the notebook.

        Raises:
            UserError: the notebook with the answers is not there.
        """
        path = notebook_folder() / "solutions" / f"{self.notebook}.ipynb"
        if not path.is_file():
            raise UserError(f"The answers are not there ({path}): write all functions yourself.")
        cells = nbformat.read(path, as_version=4)["cells"]
        codes = [answer_of(cell["source"]) for cell in cells if "exercise" in tags(cell)]
        # A cell can define helpers before its function.
        names = [re.findall(r"^def (\w+)", code, re.M)[-1] for code in codes]
        return dict(zip(names, codes, strict=True))

    def fill_in(self) -> None:
        """Replace the functions that are still empty, and say whose each is."""
        if any(map(is_empty, self.namespace.values())):
            for name, code in self.sources().items():
                if is_empty(self.namespace.get(name)):
                    exec(compile(code, f"the course's {name}", "exec"), self.namespace)
                    self._filled_in[name] = self.namespace[name]
        filled = [n for n, f in self._filled_in.items() if self.namespace.get(n) is f]
        print("the course's functions:", ", ".join(filled) or "none, all are yours")

    def reveal(self, name: str) -> None:
        """Print the course's function of this name. UserError if there is none."""
        sources = self.sources()
        if name not in sources:
            raise UserError(f"There is no function {name!r}: choose from {', '.join(sources)}.")
        print(sources[name])


def is_empty(value: object) -> bool:
    """Whether it is the function of an exercise that nobody has done yet."""
    function = inspect.unwrap(value) if callable(value) else None  # without its decorators
    return _EMPTY in getattr(getattr(function, "__code__", None), "co_consts", ())
