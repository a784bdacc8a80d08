"""Results in the prose of a notebook, marked so that they can be checked.

A number that comes from running the notebook is marked with an HTML comment, which is not seen
where the notebook is displayed, and a sentence that must hold likewise:

    The AUROC is 0.89<!-- = auroc -->. Scale 0 is the worst<!-- if by_scale.argmin() == 0 -->.

What stands behind ``=`` or ``if`` is Python, evaluated in the notebook's kernel where the text
stands. ``htdg.course.execute`` keeps the values in the metadata of the text's cell, under
``values``. The number must be the value as it is rounded there; of ``71 %`` the value is 0.71.
An expression has none of ``*``, backquote and ``$``: not every reader of Markdown leaves them alone
in a comment.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

import nbformat
from nbformat import NotebookNode

#: The tag of a cell that evaluates the marks of the text before it; never saved.
PROBE = "claims"
#: Numbers that are written as words.
WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six"),
    *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)
_MARK = re.compile(r"<!-- (=|if) (.+?) -->", re.S)
_NUMBER = re.compile(
    rf"(?:(?P<digits>[-−+]?\d[\d,]*(?:\.\d+)?)(?P<percent> ?%)?|\b(?P<word>{'|'.join(WORDS)}))$",
    re.I,
)


@dataclass(frozen=True)
class Claim:
    """A marked result.

    Attributes:
        text: the end of the text before the mark, which a complaint quotes.
        expression: Python that evaluates to the value, or to whether the text is true.
        printed: the number in the text, with a percentage divided by 100; None for a sentence.
        tolerance: half a unit of the number's last digit.
    """

    text: str
    expression: str
    printed: float | None
    tolerance: float = 0.0

    def holds(self, value: float) -> bool:
        """Whether the text agrees with the value; a true sentence has the value 1."""
        if self.printed is None:
            return value == 1
        return abs(value - self.printed) <= self.tolerance * (1 + 1e-6)


def claims_in(source: str) -> list[Claim]:
    """The marked results of a text, in order.

    Raises:
        ValueError: a mark with ``=`` does not follow a number, or the expression is no Python, or
            has a character that it may not have.
    """
    claims = []
    for mark in _MARK.finditer(source):
        before, expression = source[: mark.start()], mark[2].strip()
        quoted = _MARK.sub("", before)[-60:].rsplit("\n", 1)[-1]
        if set("*`$") & set(expression):
            raise ValueError(f"The mark {mark[0]!r} after {quoted!r} has a *, ` or $; do without.")
        try:
            ast.parse(expression, mode="eval")
        except SyntaxError:
            raise ValueError(f"The mark {mark[0]!r} after {quoted!r} is no Python.") from None
        if mark[1] == "if":
            claims.append(Claim(quoted, expression, None))
            continue
        number = _NUMBER.search(before)
        if number is None:
            raise ValueError(f"The mark {mark[0]!r} must follow a number, not {quoted!r}.")
        claims.append(Claim(quoted, expression, *_printed(number)))
    return claims


def _printed(number: re.Match[str]) -> tuple[float, float]:
    """The value of a number in the text, and half a unit of its last digit."""
    if number["word"]:
        return float(WORDS.index(number["word"].lower())), 0.0
    digits = number["digits"].replace(",", "").replace("−", "-")
    unit = 10.0 ** -len(digits.partition(".")[2])
    if number["percent"]:
        return float(digits) / 100, unit / 200
    return float(digits), unit / 2


def with_probes(notebook: NotebookNode) -> NotebookNode:
    """Put a cell that evaluates the marks behind each text with marks; changes the notebook."""
    cells = []
    for cell in notebook["cells"]:
        cells.append(cell)
        claims = claims_in(cell["source"]) if cell["cell_type"] == "markdown" else []
        if claims:
            values = "".join(f"    float({claim.expression}),\n" for claim in claims)
            probe = nbformat.v4.new_code_cell(f"[\n{values}]", metadata={"tags": [PROBE]})
            cells.append(probe)
    notebook["cells"] = cells
    return notebook


def without_probes(notebook: NotebookNode) -> NotebookNode:
    """Move what the probes gave into the metadata of their texts; changes the notebook."""
    cells: list[NotebookNode] = []
    count = 0
    for cell in notebook["cells"]:
        if PROBE in cell["metadata"].get("tags", []):
            text = "".join(output["data"]["text/plain"] for output in cell["outputs"])
            values = ast.literal_eval(text)
            cells[-1]["metadata"]["values"] = [round(value, 6) for value in values]
            continue
        if cell["cell_type"] == "code" and cell["execution_count"] is not None:
            count += 1
            cell["execution_count"] = count
            for output in cell["outputs"]:
                if output["output_type"] == "execute_result":
                    output["execution_count"] = count
        elif cell["cell_type"] == "markdown":
            cell["metadata"].pop("values", None)
        cells.append(cell)
    notebook["cells"] = cells
    return notebook


def false_claims(notebook: NotebookNode) -> list[str]:
    """A sentence for every marked result that the saved values do not bear out."""
    complaints = []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "markdown":
            continue
        claims, values = claims_in(cell["source"]), cell["metadata"].get("values", [])
        if len(claims) != len(values):
            complaints.append(
                f"{cell['source'][:40]!r}: {len(claims)} marks but {len(values)} values; execute "
                "the notebook."
            )
            continue
        for claim, value in zip(claims, values, strict=True):
            if not claim.holds(value):
                complaints.append(f"{claim.text!r}: {claim.expression} is {value:g}")
    return complaints


def number_of_claims(notebook: NotebookNode) -> int:
    """How many results are marked."""
    texts = [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    return sum(len(claims_in(cell["source"])) for cell in texts)
