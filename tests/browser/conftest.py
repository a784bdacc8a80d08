"""Which notebooks are opened, and the server and the browser that they share."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.lab import ROOT, Lab, jupyterlab

if TYPE_CHECKING:
    from tests.browser.page import NotebookPage

DEFAULT = ("00_quickstart", "02_transformations")
#: Screenshots and logs of the last run.
RESULTS = ROOT / "runs" / "browser"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the notebooks be chosen."""
    parser.addoption(
        "--notebooks",
        default=" ".join(DEFAULT),
        help="which notebooks to open: their names without .ipynb, or 'all' of notebooks/",
    )


def chosen(option: str) -> list[str]:
    """The names of the notebooks that an option asks for."""
    if option.strip() == "all":
        return sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    return option.split()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what takes a notebook with each that was chosen."""
    if "notebook" in metafunc.fixturenames:
        metafunc.parametrize("notebook", chosen(metafunc.config.getoption("--notebooks")))


def missing() -> str:
    """One sentence that says what this test needs and does not find; empty if nothing."""
    programs = {"chromium": "chromium", "chromedriver": "chromium-driver"}
    lacking = [f"Debian's package {p}" for name, p in programs.items() if not shutil.which(name)]
    if importlib.util.find_spec("selenium") is None:
        lacking.append("the Python package selenium (make test-browser installs it)")
    return f"The browser test needs {' and '.join(lacking)}." if lacking else ""


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A JupyterLab on a copy of the notebooks, for all tests."""
    if sentence := missing():
        pytest.skip(sentence)
    RESULTS.mkdir(parents=True, exist_ok=True)
    with jupyterlab(tmp_path_factory.mktemp("lab"), RESULTS / "jupyterlab.log") as running:
        yield running


@pytest.fixture
def opened(
    lab: Lab, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], NotebookPage]]:
    """Opens a notebook of the copy in a browser; at the end, keeps what it last saw and said."""
    from tests.browser.page import NotebookPage, chromium

    pages: list[NotebookPage] = []
    with chromium(tmp_path / "profile", RESULTS / "chromedriver.log") as driver:

        def open_notebook(name: str) -> NotebookPage:
            path = f"notebooks/{name}.ipynb"
            count = len(json.loads((lab.folder / path).read_text())["cells"])
            page = NotebookPage(driver, lab.page(path), count, RESULTS / name)
            pages.append(page)
            return page

        yield open_notebook
        for page in pages:
            page.picture("last")
            (page.pictures / "console.log").write_text(page.messages())
    lab.stop_kernels()
