"""The picture of notebook 00 whose patches show their votes: pointed at, held, and moved by keys.

In JupyterLab after running, in the page that nbconvert makes of the saved notebook, and in the
site, if ``make site`` has built it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tests.browser.conftest import RESULTS, missing
from tests.browser.lab import ROOT, Lab

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

    from tests.browser.page import NotebookPage

SITE = ROOT / "build" / "site" / "notebooks" / "00_quickstart.html"
#: Widths and heights of the window: a desktop's and a telephone's.
SIZES = ((1280, 900), (390, 800))
#: Places in the image, as shares of its width and height.
PLACES = ((0.2, 0.3), (0.75, 0.5), (0.5, 0.95))
CODE = """
from htdg.course.frozen import frozen
from htdg.course.patch_votes import PatchVotes
from htdg.datasets.samples import texture_set
images = texture_set("brick", train=1)
PatchVotes(frozen("brick"), images.test[-1], images.masks[-1])
"""
#: What the picture shows: of each scale its bars, mean and frames.
SHOWN = """
const [root] = document.querySelectorAll('.htdg-patch-votes[data-ready]');
if (!root || !root.querySelector('.said')?.textContent) return null;
const share = (part, whole) => part.getBoundingClientRect().height
  / whole.getBoundingClientRect().height;
const area = root.querySelector('.picture[tabindex]');
const left = area.getBoundingClientRect();
return {
  fallback: root.querySelector('img').getBoundingClientRect().height,
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  wide: root.scrollWidth - root.clientWidth,
  said: root.querySelector('.said').textContent,
  frames: [...area.querySelectorAll('.frame')].map(f => {
    const at = f.getBoundingClientRect();
    return [(at.top - left.top) / left.height, (at.left - left.left) / left.width];
  }),
  scales: [...root.querySelectorAll('.scale')].map(s => ({
    bars: [...s.querySelectorAll('.bar')].map(b => share(b, s.querySelector('.bars'))),
    votes: [...s.querySelectorAll('.bar')].map(b => Number(b.dataset.vote)),
    mean: s.querySelector('.mean').textContent,
    distance: s.querySelector('.distance').textContent,
  })),
};
"""
DATA = "return document.querySelector('.htdg-patch-votes script[type$=json]').textContent"
MOVE = """
const area = document.querySelector('.htdg-patch-votes .picture[tabindex]');
area.scrollIntoView({block: 'center'});
const at = area.getBoundingClientRect();
return [at.left + arguments[0] * at.width, at.top + arguments[1] * at.height].map(Math.round);
"""


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Chrome]:
    """A browser without a notebook."""
    if sentence := missing():
        pytest.skip(sentence)
    from tests.browser.page import chromium

    RESULTS.mkdir(parents=True, exist_ok=True)
    with chromium(tmp_path / "profile", RESULTS / "chromedriver.log") as running:
        yield running


def first(scale: dict[str, Any], share: float) -> int:
    """The first row, or column, of the patch that is nearest to a place."""
    place = int(share * scale["side"] - scale["patch"] / 2 + 0.5)
    return min(max(place, 0), scale["side"] - scale["patch"])


def expected(data: dict[str, Any], x: float, y: float) -> list[list[int]]:
    """For each scale the votes, in thousandths, of the patch around a place."""
    numbers = [first(s, y) * (s["side"] - s["patch"] + 1) + first(s, x) for s in data["scales"]]
    pairs = zip(data["scales"], numbers, strict=True)
    return [[of_copy[number] for of_copy in scale["votes"]] for scale, number in pairs]


def mouse(driver: Chrome, kind: str, x: float, y: float) -> tuple[float, float]:
    """Move the mouse to a share of the image, or click there; returns where it is, as shares."""
    left, top = driver.execute_script(MOVE, x, y)
    event = {"x": left, "y": top, "button": "left", "clickCount": 1}
    for name in ("mouseMoved",) if kind == "move" else ("mousePressed", "mouseReleased"):
        driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": name, **event})
    box = (
        "const a = document.querySelector('.htdg-patch-votes .picture[tabindex]')"
        ".getBoundingClientRect(); return [a.left, a.top, a.width, a.height]"
    )
    a_left, a_top, width, height = driver.execute_script(box)
    return (left - a_left) / width, (top - a_top) / height


def shown_votes(driver: Chrome) -> list[list[int]]:
    """The votes that the bars stand for; their heights must be these."""
    shown = driver.execute_script(SHOWN)
    for scale in shown["scales"]:
        assert scale["bars"] == pytest.approx([v / 1000 for v in scale["votes"]], abs=0.02)
        mean = sum(scale["votes"]) / len(scale["votes"]) / 1000
        assert float(scale["mean"].removeprefix("mean ")) == pytest.approx(mean, abs=0.0051)
    return [scale["votes"] for scale in shown["scales"]]


def play(driver: Chrome, name: str) -> None:
    """Point, hold, and use the keys; every bar must be the vote of the patch that is framed."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    from tests.browser.page import wait_until

    wait_until(lambda: driver.execute_script(SHOWN), 60, "the picture is there")
    data = json.loads(driver.execute_script(DATA))
    at_start = driver.execute_script(SHOWN)
    assert at_start["fallback"] == 0
    assert max(at_start["overflow"], at_start["wide"]) <= 0
    assert shown_votes(driver) == expected(data, data["start"][1], data["start"][0])
    for place in PLACES:
        x, y = mouse(driver, "move", *place)
        assert shown_votes(driver) == expected(data, x, y)
        frames = driver.execute_script(SHOWN)["frames"]
        for (top, left), scale in zip(frames, data["scales"], strict=True):
            assert top * scale["side"] == pytest.approx(first(scale, y), abs=0.1)
            assert left * scale["side"] == pytest.approx(first(scale, x), abs=0.1)
    driver.save_screenshot(str(RESULTS / f"patch_votes_{name}.png"))

    x, y = mouse(driver, "click", 0.4, 0.4)
    held = expected(data, x, y)
    mouse(driver, "move", *PLACES[0])
    assert shown_votes(driver) == held
    finest = data["scales"][-1]
    row, column = first(finest, y), first(finest, x)
    area = driver.find_element(By.CSS_SELECTOR, ".htdg-patch-votes .picture[tabindex]")
    for key, down, right in (
        (Keys.ARROW_RIGHT, 0, 1),
        (Keys.ARROW_DOWN, 1, 0),
        (Keys.ARROW_LEFT, 0, -1),
        (Keys.ARROW_UP, -1, 0),
        (Keys.ARROW_UP, -1, 0),
    ):
        area.send_keys(key)
        row, column = row + down, column + right
        y, x = ((i + finest["patch"] / 2) / finest["side"] for i in (row, column))
        assert shown_votes(driver) == expected(data, x, y)
    mouse(driver, "click", *PLACES[1])  # which lets go
    x, y = mouse(driver, "move", *PLACES[0])
    assert shown_votes(driver) == expected(data, x, y)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: str(size[0]))
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["nbconvert", "site"])
def test_a_page_without_a_kernel(
    kind: str, scheme: str, size: tuple[int, int], driver: Chrome, tmp_path: Path
) -> None:
    path = SITE
    if kind == "nbconvert":
        from nbconvert import HTMLExporter

        saved = str(ROOT / "notebooks" / "00_quickstart.ipynb")
        page, _ = HTMLExporter(embed_images=True).from_filename(saved)
        path = tmp_path / "page.html"
        path.write_text(page, encoding="utf-8")
    elif not path.is_file():
        pytest.skip("the site is not built: make site")
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    wanted = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wanted})
    driver.get(path.as_uri())
    play(driver, f"{kind}_{scheme}_{size[0]}")


def test_jupyterlab(lab: Lab, opened: Callable[[str], NotebookPage]) -> None:
    """Saved by somebody else the picture is a figure; after running it can be played with."""
    from tests.browser.page import wait_until

    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    saved = json.loads((ROOT / "notebooks" / "00_quickstart.ipynb").read_text())["cells"]
    (outputs,) = [cell["outputs"] for cell in saved if "PatchVotes(" in "".join(cell["source"])]
    cell = new_code_cell(CODE, outputs=[nbformat.from_dict(output) for output in outputs])
    path = lab.folder / "notebooks" / "votes.ipynb"
    nbformat.write(new_notebook(cells=[cell], metadata=metadata), path)
    page = opened("votes")
    wait_until(
        lambda: [image["width"] for image in page.cells()[0]["images"]] == [756],
        60,
        "the figure is shown",
    )
    assert page.driver.execute_script(SHOWN) is None
    page.picture("untrusted")
    (shown,) = page.run_all()
    assert not shown["errors"]
    play(page.driver, "jupyterlab")
    path.unlink()
