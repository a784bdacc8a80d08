"""Run a notebook from start to end with parameters, through papermill.

``htdg run`` and ``make quickstart`` come here. Papermill only warns about a parameter that the
notebook does not have and passes '5' for 5; here both are refused before anything runs.
"""

from __future__ import annotations

import ast
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

from htdg.errors import UserError
from htdg.io.files import check_writable
from htdg.runtime.progress import PROGRESS_MARK, ProgressBar, suitable_look

#: Where the course's notebooks are when the package is installed from its repository.
NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
MISSING = "papermill is missing: pip install 'htdg[notebooks]'."
#: How kernels are started.
KERNEL_OPTIONS = [
    "--log-level=ERROR",  # the kernel's own warnings would break up the progress line
    "--HistoryManager.hist_file=:memory:",  # what a run executes is not the user's history
    "--IPKernelApp.exec_lines=__import__('htdg.collector').collector.seldom()",  # names nothing
]


class NotebookError(UserError):
    """A notebook run that cannot start or did not finish; the message says why."""


def run_notebook(
    notebook: str | Path, out: Path, parameters: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Execute a notebook and leave its results in a folder.

    Args:
        notebook: a path, or the name of one of the course's notebooks (``00_quickstart``).
        out: the folder; given to the notebook as its parameter ``out``. It gets ``<name>.ipynb``
            and ``<name>.html``, and what the notebook writes, with ``result.json`` last.
        parameters: other parameters as text; each is read as the type of its default.

    Returns:
        What the notebook wrote to ``result.json``, with ``total_seconds`` added.

    Raises:
        NotebookError: papermill is missing, there is no such notebook or parameter, a value has
            the wrong type, or a cell failed.
        OutputError: the folder cannot be written to.
    """
    started = time.monotonic()
    path = find_notebook(notebook)
    with _kernel_in(path.parent) as kernel:
        result = _run_in(kernel, path, out, parameters or {})
    return {**result, "total_seconds": time.monotonic() - started}


@contextmanager
def _kernel_in(folder: Path) -> Iterator[Any]:
    """A Jupyter kernel; it starts in its own process while this one goes on."""
    _skip_slow_import()
    try:
        from jupyter_client import AsyncKernelManager
        from jupyter_core.utils import run_sync
    except ImportError:
        raise NotebookError(MISSING) from None
    manager = AsyncKernelManager(kernel_name="python3")
    run_sync(manager.start_kernel)(extra_arguments=KERNEL_OPTIONS, cwd=str(folder))
    try:
        yield manager
    finally:
        run_sync(manager.shutdown_kernel)(now=True)  # the last cell has written everything


def _run_in(
    kernel: Any,  # noqa: ANN401
    path: Path,
    out: Path,
    parameters: Mapping[str, str],
) -> dict[str, Any]:
    """Execute the notebook, write its page, and read its ``result.json``."""
    try:
        import papermill
    except ImportError:
        raise NotebookError(MISSING) from None
    from nbclient.exceptions import DeadKernelError

    given = check_parameters(path, parameters)
    check_writable(out / "result.json")
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    result = out / "result.json"
    result.unlink(missing_ok=True)  # a run is finished when it is there
    executed, unfinished = out / f"{path.stem}.ipynb", out / f"{path.stem}.unfinished.ipynb"
    _register_engine(kernel)
    # What the page will need, while the notebook runs in another process.
    Thread(target=import_module, args=("nbconvert",), daemon=True).start()
    try:
        papermill.execute_notebook(
            str(path),
            str(unfinished),
            parameters={**given, "out": str(out)},
            engine_name="htdg",
            kernel_name="python3",
            cwd=str(path.parent),
            progress_bar=False,
        )
    except papermill.PapermillExecutionError as error:
        raise NotebookError(
            f"{path.name} failed in cell {error.cell_index}: {error.ename}: {error.evalue} "
            f"(see {unfinished})."
        ) from None
    except DeadKernelError:
        raise NotebookError(
            f"{path.name} was ended from outside, perhaps for lack of memory: close other programs "
            "and try again."
        ) from None
    unfinished.replace(executed)
    _write_html(executed)
    if not result.is_file():
        raise NotebookError(f"{path.name} ran but wrote no result.json into {out}.")
    return json.loads(result.read_text())


def _skip_slow_import() -> None:
    """Leave out a check of notebooks' addresses that takes a second to import.

    jsonschema, which papermill imports to validate notebooks, can check international addresses
    with this package, whose grammar is compiled at every start; notebooks have none to check.
    """
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]


def find_notebook(notebook: str | Path) -> Path:
    """The path of a notebook given by path or by name; NotebookError if there is none.

    Names are seen from the folder of notebooks; those of the folder ``runs`` need not say so.
    """
    named = f"{notebook}.ipynb"
    for candidate in (Path(notebook), NOTEBOOKS / named, NOTEBOOKS / "runs" / named):
        if candidate.suffix == ".ipynb" and candidate.is_file():
            return candidate.resolve()
    names = [
        str(p.relative_to(NOTEBOOKS).with_suffix("")) for p in sorted(NOTEBOOKS.rglob("*.ipynb"))
    ]
    names = [n for n in names if ".ipynb_checkpoints" not in n]
    raise NotebookError(f"There is no notebook {notebook}: choose from {', '.join(names)}.")


def check_parameters(path: Path, given: Mapping[str, str]) -> dict[str, Any]:
    """The values of ``given`` in the types of the notebook's defaults.

    Raises:
        NotebookError: the notebook has no such parameter, or the value is not of its type.
    """
    import papermill

    known = papermill.inspect_notebook(str(path))
    values: dict[str, Any] = {}
    for name, text in given.items():
        if name not in known or name == "out":
            names = ", ".join(n for n in known if n != "out")
            raise NotebookError(f"{path.name} has no parameter {name!r}: choose from {names}.")
        default = ast.literal_eval(known[name]["default"])
        values[name] = _as_type_of(default, text, name)
    return values


def _as_type_of(default: object, text: str, name: str) -> object:
    """``text`` as the type of ``default`` (whole numbers also where the default is a float)."""
    if isinstance(default, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    wanted = type(default)
    if wanted is float and type(value) is int:
        return float(value)
    if default is not None and type(value) is not wanted:
        raise NotebookError(
            f"Parameter {name} is {text!r}, but must be of type {wanted.__name__}, as its default "
            f"{default!r} is."
        )
    return value


def _register_engine(kernel: Any) -> None:  # noqa: ANN401
    """Teach papermill an engine: this kernel, and progress lines shown in the terminal."""
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines

    bar = ProgressBar("lines" if suitable_look() == "notebook" else suitable_look())

    class Client(PapermillNotebookClient):
        """Hands on the outputs that are marked as progress."""

        def process_message(self, msg: dict, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            """Show a progress line, then do as usual."""
            content = msg.get("content", {})
            if PROGRESS_MARK in content.get("metadata", {}):
                bar.say(content["data"]["text/plain"])
            return super().process_message(msg, *args, **kwargs)

    class Engine(NBClientEngine):
        """Executes with the client above."""

        @classmethod
        def execute_managed_notebook(
            cls,
            nb_man: Any,  # noqa: ANN401
            kernel_name: str,
            **kwargs: Any,  # noqa: ANN401
        ) -> Any:  # noqa: ANN401
            """Run all cells, without a time limit."""
            with bar:
                client = Client(nb_man, km=kernel, kernel_name=kernel_name, timeout=None)
                try:
                    return client.execute()
                finally:
                    if client.kc is not None:  # left open by a client that was given its kernel
                        client.kc.stop_channels()

    papermill_engines.register("htdg", Engine)


def _write_html(executed: Path) -> None:
    from nbconvert import HTMLExporter

    page, _ = HTMLExporter(embed_images=True).from_filename(str(executed))
    temporary = executed.with_suffix(".html.tmp")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(executed.with_suffix(".html"))


def summary(result: Mapping[str, Any], out: Path) -> str:
    """A few lines that tell how a run went and where to look."""
    lines = [f"{key.replace('_', ' ')}: {_short(value)}" for key, value in result.items()]
    pages = sorted(out.glob("*.html"))
    return "\n".join([*lines, f"look at: {pages[0] if pages else out}"])


def _short(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
