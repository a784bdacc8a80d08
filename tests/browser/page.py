"""A notebook in JupyterLab in headless Chromium: what a reader sees, and does."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select

#: Width and height of the window in pixels.
WINDOW = (1280, 1000)
#: Seconds that the page, a whole notebook and the answer to a moved control may take.
LOADING, RUNNING, REACTING = 180, 1200, 60
#: How often an arrow key is pressed to move a slider: one step may be less than a pixel.
STEPS = 2
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--no-proxy-server", "--hide-scrollbars"),
)
PANEL = ".jp-NotebookPanel:not(.lm-mod-hidden)"
STATUS = "return document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status"
#: What the browser shows of every cell of the notebook, in order. Tracebacks and warnings have the
#: same type.
CELLS = """
const texts = (cell, selector) => [...cell.querySelectorAll(selector)].map(e => e.innerText);
const prose = cell => {
  const shown = cell.querySelector('.jp-MarkdownOutput')?.cloneNode(true);
  shown?.querySelectorAll('code, pre, mjx-container').forEach(e => e.remove());
  return shown?.textContent ?? '';
};
return [...document.querySelectorAll(arguments[0] + ' .jp-Notebook .jp-Cell')].map(cell => ({
  kind: cell.classList.contains('jp-CodeCell') ? 'code' : 'markdown',
  prompt: cell.querySelector('.jp-InputPrompt')?.innerText.trim() ?? '',
  errors: texts(cell, '[data-mime-type="application/vnd.jupyter.stderr"]'),
  images: [...cell.querySelectorAll('.jp-OutputArea-output img')]
    .filter(i => !i.closest('.jupyter-widgets'))
    .map(i => ({width: i.naturalWidth, height: i.naturalHeight})),
  cut: [...cell.querySelectorAll('.jp-OutputArea-output img')].filter(i =>
    i.getBoundingClientRect().right
      > i.closest('.jp-OutputArea-output').getBoundingClientRect().right + 1).length,
  widgets: cell.querySelectorAll('.jp-OutputArea-output > .jupyter-widgets').length,
  output: cell.querySelector('.jp-OutputArea')?.innerText ?? '',
  formulas: cell.querySelectorAll('mjx-container').length,
  broken_formulas: cell.querySelectorAll('mjx-merror, [data-mjx-error]').length,
  prose: prose(cell),
  hints: [...cell.querySelectorAll('details')].map(d => ({
    open: d.open, folded: d.querySelector('summary').offsetHeight, height: d.offsetHeight})),
}));
"""


@contextmanager
def chromium(folder: Path, log: Path) -> Iterator[webdriver.Chrome]:
    """A headless Chromium with an empty profile in ``folder``; ended, whatever happens."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for flag in (*FLAGS, f"--user-data-dir={folder}", f"--window-size={WINDOW[0]},{WINDOW[1]}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"), log_output=str(log))
    driver = webdriver.Chrome(options, service)
    try:
        driver.set_page_load_timeout(LOADING)
        driver.set_script_timeout(LOADING)
        yield driver
    finally:
        driver.quit()


def wait_until(true: Callable[[], Any], seconds: float, what: str) -> Any:
    """What ``true`` returns once that is true.

    Raises:
        TimeoutError: it is not true so long; the message says ``what`` was waited for.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if result := true():
            return result
        time.sleep(0.3)
    raise TimeoutError(f"waited {seconds} seconds in vain until {what}")


@dataclass
class Control:
    """A part of a widget that can be moved.

    Attributes:
        kind: "slider", "checkbox", "select" or "button".
        name: what is written beside it.
        element: where it is in the page.
    """

    kind: str
    name: str
    element: WebElement

    def __post_init__(self) -> None:
        """See where a slider is: in the right half it is moved to the left, where there is room."""
        self.at_end = False
        if self.kind == "slider":
            # noUiSlider tells assistive technology where it is, as a share of its length.
            low, now, high = (
                float(self.element.get_attribute(f"aria-value{which}") or 0)
                for which in ("min", "now", "max")
            )
            self.at_end = now - low > 0.5 * (high - low)

    def move(self, back: bool = False) -> None:
        """Move it a little, with keyboard or mouse, or exactly as far back."""
        if self.kind == "slider":
            key = Keys.ARROW_LEFT if self.at_end != back else Keys.ARROW_RIGHT
            for _ in range(STEPS):
                self.element.send_keys(key)
        elif self.kind == "select":
            select = Select(self.element)
            chosen = select.options.index(select.first_selected_option)
            count = len(select.options)
            select.select_by_index((chosen + (-1 if back else 1)) % count)
        elif self.kind == "checkbox" or not back:
            self.element.click()


class NotebookPage:
    """One notebook, open in JupyterLab."""

    def __init__(self, driver: webdriver.Chrome, url: str, count: int, pictures: Path) -> None:
        """Open it and wait for its ``count`` cells; screenshots go to the folder ``pictures``."""
        self.driver, self.pictures = driver, pictures
        shutil.rmtree(pictures, ignore_errors=True)
        pictures.mkdir(parents=True)
        driver.get(url)
        wait_until(
            lambda: len(self.cells()) == count, LOADING, f"the notebook's {count} cells are shown"
        )
        wait_until(lambda: driver.execute_script(STATUS) == "idle", LOADING, "the kernel is ready")

    def cells(self) -> list[dict[str, Any]]:
        """What the browser shows of every cell."""
        return self.driver.execute_script(CELLS, PANEL)

    def find(self, selector: str) -> WebElement:
        """The first element of the page that a CSS selector describes."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def menu(self, name: str, command: str) -> None:
        """Choose a command from the menu of this name."""
        bar = self.driver.find_elements(By.CSS_SELECTOR, ".lm-MenuBar-item")
        (item,) = [item for item in bar if item.text.strip() == name]
        item.click()
        selector = f'.lm-Menu-item[data-command="{command}"]'
        entries = wait_until(
            lambda: self.driver.find_elements(By.CSS_SELECTOR, selector), LOADING, f"{name} opens"
        )
        entries[0].click()

    def run_all(self) -> list[dict[str, Any]]:
        """Choose Run > Run All Cells, wait until the kernel has nothing to do, and look."""
        self.menu("Run", "runmenu:run-all")
        fresh = ("", "[ ]:")
        wait_until(
            lambda: any(cell["prompt"] not in fresh for cell in self.cells()),
            LOADING,
            "a cell runs",
        )
        self.wait_until_idle(RUNNING)
        return self.cells()

    def wait_until_idle(self, seconds: float = REACTING) -> None:
        """Wait until the kernel has nothing to do and no cell waits for it."""

        def idle() -> bool:
            if self.driver.execute_script(STATUS) != "idle":
                return False
            return not any("*" in cell["prompt"] for cell in self.cells())

        wait_until(lambda: idle() and (time.sleep(0.5) or idle()), seconds, "the kernel is idle")

    def cell(self, number: int) -> WebElement:
        """The cell with this number, from 0."""
        cells = self.driver.find_elements(By.CSS_SELECTOR, f"{PANEL} .jp-Notebook .jp-Cell")
        return cells[number]

    def unfold(self) -> None:
        """Click on everything that is folded."""
        for summary in self.driver.find_elements(By.CSS_SELECTOR, f"{PANEL} details > summary"):
            self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", summary)
            summary.click()

    def controls(self, number: int) -> list[Control]:
        """What can be moved in the widgets of a cell, in the order of the page."""
        kinds = {
            "slider": ".noUi-handle",
            "checkbox": "input[type=checkbox]",
            "select": "select",
            "button": "button",
        }
        controls = []
        anywhere = ", ".join(f".jupyter-widgets {selector}" for selector in kinds.values())
        for element in self.cell(number).find_elements(By.CSS_SELECTOR, anywhere):
            matches = "return arguments[1].filter(selector => arguments[0].matches(selector))"
            (match,) = self.driver.execute_script(matches, element, list(kinds.values()))
            kind = next(kind for kind, selector in kinds.items() if selector == match)
            text = self.driver.execute_script(
                "return arguments[0].closest('.jupyter-widgets:has(.widget-label)')?.innerText"
                " ?? arguments[0].innerText",
                element,
            )
            # A checkbox has an empty label before its text, of a space without width.
            lines = [line for line in text.replace("\u200b", "").splitlines() if line.strip()]
            controls.append(Control(kind, lines[0].strip() if lines else "", element))
        return controls

    def widget_images(self, number: int) -> str:
        """A fingerprint of the pictures in a cell's widgets; empty if there are none.

        Pictures that are not loaded, or broken, do not count.
        """
        sources = self.driver.execute_script(
            "return [...arguments[0].querySelectorAll('.jupyter-widgets img')]"
            ".filter(i => i.complete && i.naturalWidth > 0).map(i => i.src)",
            self.cell(number),
        )
        return hashlib.sha256("\n".join(sources).encode()).hexdigest() if sources else ""

    def reaction(self, number: int, before: str) -> str:
        """The fingerprint of a cell's widgets once it is another than before and stays so.

        It is ``before`` if nothing changes as long as one may wait.
        """
        until = time.monotonic() + REACTING
        while time.monotonic() < until:
            now = self.widget_images(number)
            if now and now != before:
                self.wait_until_idle()
                return self.widget_images(number)
            time.sleep(0.3)
        return before

    def picture(self, name: str, cell: int | None = None) -> None:
        """Save what the window shows as ``name``.png, scrolled to a cell if one is given."""
        if cell is not None:
            self.driver.execute_script(
                "arguments[0].scrollIntoView({block: 'start'})", self.cell(cell)
            )
            time.sleep(0.3)
        self.driver.save_screenshot(str(self.pictures / f"{name}.png"))

    def pieces(self) -> int:
        """Save the whole notebook, a window's height at a time; returns how many pieces."""
        panel = self.find(f"{PANEL} .jp-WindowedPanel-outer")
        length = (
            "const all = arguments[0].querySelectorAll('.jp-Cell');"
            "const end = all[all.length - 1].getBoundingClientRect().bottom;"
            "const top = arguments[0].getBoundingClientRect().top;"
            "return [end - top + arguments[0].scrollTop, arguments[0].clientHeight]"
        )
        height, step = self.driver.execute_script(length, panel)
        tops = range(0, int(height), int(step))
        for i, top in enumerate(tops):
            self.driver.execute_script("arguments[0].scrollTop = arguments[1]", panel, top)
            time.sleep(0.3)
            self.picture(f"piece_{i:02}")
        return len(tops)

    def save(self) -> None:
        """Choose File > Save Notebook and wait until nothing is unsaved."""
        self.menu("File", "docmanager:save")
        wait_until(
            lambda: not self.driver.find_elements(By.CSS_SELECTOR, ".lm-TabBar-tab.jp-mod-dirty"),
            LOADING,
            "the notebook is saved",
        )

    def messages(self) -> str:
        """What the page told the browser's console."""
        return "\n".join(entry["message"] for entry in self.driver.get_log("browser"))
