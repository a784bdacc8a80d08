"""Sphinx' settings for the site: ``make site`` builds it from the repository's own files.

The source is the whole repository, so that links between its files mean the same here as on GitHub.
Nothing in a page comes from the network, which ``site/check.py`` holds the built pages against.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # so that the tests need no Sphinx to read the settings
    from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent

project = "htdg"
author = "The htdg developers"
copyright = "the htdg developers, MIT licence"
html_title = "htdg"
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.githubpages",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",  # MathJax and its fonts, copied into the site
]

# --- Which files --------------------------------------------------------------------------------

root_doc = "README"
#: The solutions are left out: they would spoil the exercises, and double what the search finds.
include_patterns = [
    "*.md",
    "benchmarks/README.md",
    "data/README.md",
    "docs/*.md",
    "notebooks/README.md",
    "notebooks/[0-9]*.ipynb",
    "notebooks/runs/*.ipynb",
    "site/api/*.md",
]
#: Folders that are not even looked through.
exclude_patterns = [".*", "build", "dist", "htdg", "runs", "tests", "**/.ipynb_checkpoints"]

# --- Notebooks and Markdown ---------------------------------------------------------------------

nb_execution_mode = "off"  # the outputs are those that are committed
nb_merge_streams = True
nb_render_markdown_format = "gfm"  # "commonmark" has no tables
highlight_language = "none"  # blocks that name no language are commands and outputs
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 5  # GitHub's names of headings
# MathJax 3 comes with sphinx-mathjax-offline; Sphinx would assume version 4.
mathjax3_config: dict[str, Any] = {"options": {"enableMenu": False}}

# Copied without prompts; outputs have no button.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_selector = "div:not(.output) > div.highlight pre"

# --- The library --------------------------------------------------------------------------------

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autosummary_generate = False
napoleon_numpy_docstring = False
# As a list: the names of many attributes end in an underscore, which the other forms cut off.
napoleon_custom_sections = [("Attributes", "params_style")]
toc_object_entries_show_parents = "hide"

# --- How it looks -------------------------------------------------------------------------------

html_theme = "sphinx_book_theme"
html_static_path = ["static"]
html_css_files = ["site.css"]
#: Where the repository is published, if it is: ``make site REPOSITORY=https://github.com/...``.
REPOSITORY = os.environ.get("REPOSITORY", "").rstrip("/")
html_theme_options: dict[str, Any] = {
    "navbar_persistent": [],  # there is a field for searching in the sidebar
    "path_to_docs": "",
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_fullscreen_button": False,
}
if REPOSITORY:
    html_theme_options |= {
        "repository_url": REPOSITORY,
        "repository_branch": os.environ.get("BRANCH") or "main",
        "use_repository_button": True,
        "launch_buttons": {
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
            "notebook_interface": "jupyterlab",
        },
    }


def with_contents(_app: Sphinx, name: str, source: list[str]) -> None:
    """Give the front page, which is the README, the table of contents of the site."""
    if name == root_doc:
        source[0] += "\n\n" + (HERE / "contents.md").read_text(encoding="utf-8")


def with_alternative_texts(app: Sphinx, name: str, source: list[str]) -> None:
    """Tell MyST-NB each figure's alternative text, for which it does not look in the output."""
    if app.env.doc2path(name).suffix != ".ipynb":
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if alt := output.get("metadata", {}).get("image/png", {}).get("alt"):
                cell["metadata"].setdefault("mystnb", {})["image"] = {"alt": alt}
    source[0] = json.dumps(notebook)


def setup(app: Sphinx) -> None:
    """Connect the above; called by Sphinx."""
    app.connect("source-read", with_contents)
    app.connect("source-read", with_alternative_texts)
