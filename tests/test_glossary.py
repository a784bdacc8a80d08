"""docs/glossary.md: its terms are in the notebooks that it names, which link to it."""

import json
import re

import pytest

from tests.course import NOTEBOOKS
from tests.test_docs import ROOT, TEXTS, table_rows

PAGE = TEXTS[ROOT / "docs" / "glossary.md"]
TERMS, SYMBOLS = (table_rows(part)[2:] for part in PAGE.split("\n## ")[1:])
MAIN = sorted(NOTEBOOKS.glob("0*.ipynb"))


def cells_of(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def words_of(path):
    """The text of a notebook without line breaks and marks."""
    text = " ".join("".join(c["source"]) for c in cells_of(path) if c["cell_type"] == "markdown")
    return " ".join(re.sub(r"[*`]", "", text).replace("_", " ").split()).lower()


WORDS = {path.name: words_of(path) for path in MAIN}


@pytest.mark.parametrize("row", TERMS, ids=lambda row: row[0])
def test_a_notebook_that_explains_a_term_has_it(row):
    term, meaning, place = row
    assert meaning.endswith((".", ")"))
    if place:
        (notebook,) = re.findall(r"/(\w+\.ipynb)\)", place)
        # In the singular or the plural, one word or the other.
        stems = [word.strip().lower() for word in term.split(",")]
        assert any(re.search(rf"\b{re.escape(stem)}", WORDS[notebook]) for stem in stems)


def test_terms_are_sorted_and_distinct():
    names = [row[0].lower() for row in TERMS]
    assert names == sorted(set(names))


def test_symbols_are_in_notebooks_that_exist():
    for _, meaning, place in SYMBOLS:
        (notebook,) = re.findall(r"/(\w+\.ipynb)\)", place)
        assert notebook in WORDS
        assert meaning.endswith((".", ")"))


@pytest.mark.parametrize("path", MAIN, ids=lambda path: path.stem)
def test_every_main_notebook_begins_with_links_to_glossary_and_specification(path):
    first = "".join(cells_of(path)[0]["source"])
    for page in ("glossary", "specification"):
        assert f"](../docs/{page}.md)" in first
    solution = NOTEBOOKS / "solutions" / path.name
    if solution.is_file():
        assert "](../../docs/glossary.md)" in "".join(cells_of(solution)[0]["source"])


def test_links_of_notebooks_to_pages_lead_somewhere():
    for path in NOTEBOOKS.rglob("[0-9]*.ipynb"):
        for cell in cells_of(path):
            for target in re.findall(r"\]\(([./]+docs/[^)#]+)", "".join(cell["source"])):
                assert (path.parent / target).is_file(), (path, target)
