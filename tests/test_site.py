"""The site that ``make site`` builds: nothing is forgotten, and nothing comes from the network.

The build itself is not part of the tests; ``make site`` holds what it built against
``site/check.py``.
"""

import json
import re
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import pytest

import htdg

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "site"
CONTENTS = (SITE / "contents.md").read_text(encoding="utf-8")
faults = run_path(str(SITE / "check.py"))["faults"]


@pytest.fixture
def settings(monkeypatch):
    """Sphinx' settings, for a repository that is published nowhere."""
    monkeypatch.delenv("REPOSITORY", raising=False)
    return run_path(str(SITE / "conf.py"))


def listed():
    """The pages in the table of contents, without their endings."""
    lists = re.findall(r"^```\{toctree\}\n(?::.*\n)*\n([^`]*)^```", CONTENTS, re.M)
    lines = [line for entries in lists for line in entries.splitlines()]
    return [re.sub(r".*<(.*)>", r"\1", line) for line in lines]


def there():
    """The pages that the site must have, besides the front page."""
    patterns = ("SECURITY.md", "CHANGELOG.md", "[a-z]*/README.md", "docs/*.md", "site/api/*.md")
    paths = {path for pattern in patterns for path in ROOT.glob(pattern)}
    notebooks = (ROOT / "notebooks").rglob("[0-9a-z]*.ipynb")
    paths |= {path for path in notebooks if path.parent.name != "solutions"}
    return {path.relative_to(ROOT).with_suffix("").as_posix() for path in paths}


def test_the_table_of_contents_lists_every_notebook_and_every_page():
    assert sorted(listed()) == sorted(there())


def test_the_site_is_made_of_the_pages_in_its_table_of_contents(settings):
    patterns = settings["include_patterns"]
    taken = {path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern)}
    assert {path.with_suffix("").as_posix() for path in taken} == {*listed(), "README"}


def test_the_reference_has_every_public_name():
    names = set(re.findall(r"^\.\. auto\w+:: (\w+)$|^\.\. data:: (\w+)$", page("htdg"), re.M))
    assert {name for pair in names for name in pair if name} == set(htdg.__all__)


def test_the_reference_has_every_public_module():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    sentence = text.partition("The public names are")[2].partition("\n\n")[0]
    modules = re.findall(r"`htdg\.([a-z]+)`", sentence)
    pages = {path.stem for path in (SITE / "api").glob("*.md")}
    assert pages == {"htdg", *modules}
    for module in modules:
        assert f".. automodule:: htdg.{module}\n   :members:" in page(module)


def page(name):
    return (SITE / "api" / f"{name}.md").read_text(encoding="utf-8")


def test_the_settings_need_no_network_and_run_nothing(settings):
    for name in ("extensions", *(name for name in settings if name.startswith(("html_", "math")))):
        assert "//" not in str(settings[name]), name
    assert "sphinx-mathjax-offline" in settings["extensions"]
    assert settings["nb_execution_mode"] == "off"
    assert "//" not in (SITE / "static" / "site.css").read_text(encoding="utf-8")


def test_a_published_repository_has_buttons(monkeypatch):
    monkeypatch.setenv("REPOSITORY", "https://github.com/NAME/htdg/")
    options = run_path(str(SITE / "conf.py"))["html_theme_options"]
    assert options["repository_url"] == "https://github.com/NAME/htdg"
    assert {"binderhub_url", "colab_url"} <= options["launch_buttons"].keys()


def test_figures_get_the_alternative_texts_of_their_outputs(settings):
    outputs = [
        {"output_type": "stream", "text": ["a"]},
        {"data": {"image/png": "x"}, "metadata": {"image/png": {"alt": "A wall."}}},
    ]
    cells = [{"metadata": {}, "outputs": outputs}, {"metadata": {}}]
    source = [json.dumps({"cells": cells})]
    app = SimpleNamespace(env=SimpleNamespace(doc2path=lambda name: Path(f"{name}.ipynb")))
    settings["with_alternative_texts"](app, "notebooks/x", source)
    first, second = json.loads(source[0])["cells"]
    assert first["metadata"] == {"mystnb": {"image": {"alt": "A wall."}}}
    assert first["outputs"] == outputs
    assert second["metadata"] == {}


# --- What is checked after a build --------------------------------------------------------------

GOOD = (
    '<link rel="stylesheet" href="a.css"><h1 id="top"></h1><a href="#top">x</a>'
    '<a href="b.html#here">x</a><a href="https://arxiv.org">x</a><img src="p.png" alt="A wall.">'
    "<pre>| a |\n| --- |</pre>"
)


@pytest.fixture
def built(tmp_path):
    """A small site with nothing wrong."""
    (tmp_path / "_static").mkdir()
    (tmp_path / "_static" / "own.css").write_text("a { background: url('data:image/png,x') }")
    for name, text in (("a.css", ""), ("p.png", ""), ("b.html", '<p id="here">'), ("a.html", GOOD)):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_good_site_passes(built):
    assert list(faults(built)) == []


@pytest.mark.parametrize(
    ("added", "sentence"),
    [
        ('<script src="https://cdn.x/m.js">', "fetches https://cdn.x/m.js from the network"),
        ('<link rel="stylesheet" href="//x/f.css">', "fetches //x/f.css from the network"),
        ('<img src="p.png">', "has no alternative text for p.png"),
        ('<img src="p.png" alt="../p.png">', "has no alternative text for p.png"),
        ('<a href="c.html">', "links to c.html, which is not there"),
        ('<a href="b.html#gone">', "links to b.html#gone, which has no such place"),
        ("<p>| a | b |\n| --- | --- |</p>", "shows a table as text: | --- |"),
        ("<p>| a | b |\n| \u2014 | \u2014 |</p>", "shows a table as text: | --- |"),
    ],
)
def test_what_is_wrong_with_a_page_is_said(built, added, sentence):
    (built / "a.html").write_text(GOOD + added)
    assert list(faults(built)) == [f"a.html {sentence}"]


def test_style_sheets_and_empty_folders_are_looked_at(built, tmp_path):
    (built / "_static" / "own.css").write_text("@import url(https://fonts.x/f)")
    assert list(faults(built)) == ["_static/own.css fetches https://fonts.x/f from the network"]
    (tmp_path / "empty").mkdir()
    assert list(faults(tmp_path / "empty")) == ["it has no pages"]
