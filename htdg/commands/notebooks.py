"""Run a notebook from start to end with parameters, through papermill.

``htdg run`` and ``make quickstart`` come here. Papermill only warns about a parameter that the
notebook does not have and passes '5' for 5; here both are refused before anything runs.
"""

from __future__ import annotations

import ast
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from htdg.course.files import notebook_folder
from htdg.errors import UserError
from htdg.io.files import check_writable, one_line, write_text

#: What ``ast.literal_eval`` raises at a text that is no literal, or one that is nested too deeply.
_NO_LITERAL = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)


#: Parameters that are paths.
PLACES = {"data_root", "grid", "sweep"}


class NotebookError(UserError):
    """A notebook run that cannot start or did not finish; the message says why."""


def run_notebook(
    notebook: str | Path, out: Path, parameters: Mapping[str, str] | None = None
) -> dict[str, object]:
    """Execute a notebook and leave its results in a folder.

    Args:
        notebook: a path, or the name of one of the course's notebooks (``00_quickstart``).
        out: the folder; given to the notebook as its parameter ``out``. It gets ``<name>.ipynb``
            (``<name>.unfinished.ipynb`` until the last cell has run) and ``<name>.html``, and what
            the notebook writes, with ``result.json`` last.
        parameters: other parameters as text; each is read as the type of its default.

    Returns:
        What the notebook wrote to ``result.json``, with ``total_seconds`` added.

    Raises:
        NotebookError: a package is missing, there is no such notebook or parameter, it is damaged,
            a value has the wrong type, a cell failed, or the kernel was killed.
        OutputError: the folder cannot be written to.
    """
    started = time.monotonic()
    try:
        import papermill
        from nbclient.exceptions import DeadKernelError
        from nbconvert import HTMLExporter
    except ImportError as error:
        raise NotebookError(f"{error.name} is missing: pip install 'htdg[notebooks]'.") from None
    path = find_notebook(notebook)
    values = check_parameters(path, parameters or {})
    _check_text("--out", str(out))
    for name in PLACES & values.keys():  # as out is: seen from here, not from the notebook
        place = Path(str(values[name])).resolve()
        if name == "data_root" or place.exists():  # grids and sweeps have names as well
            values[name] = str(place)
    check_writable(out / "result.json")
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    result = out / "result.json"
    result.unlink(missing_ok=True)  # a run is finished when it is there
    executed, unfinished = out / f"{path.stem}.ipynb", out / f"{path.stem}.unfinished.ipynb"
    print(f"running {path.name}; outputs so far are in {unfinished}", file=sys.stderr, flush=True)
    try:
        papermill.execute_notebook(
            path,
            unfinished,
            parameters={**values, "out": str(out)},
            kernel_name="python3",
            cwd=path.parent,
            progress_bar={"disable": None},  # only in a terminal: a log gets no redrawn lines
            extra_arguments=["--log-level=ERROR"],  # a kernel's warnings would break up the bar
            shutdown_kernel="immediate",  # the last cell has written everything
        )
    except papermill.PapermillExecutionError as error:
        raise NotebookError(
            f"{path.name} failed in cell [{error.exec_count}]: {error.ename}: {error.evalue} "
            f"(see {unfinished})."
        ) from None
    except DeadKernelError:
        raise NotebookError(
            f"{path.name} was ended from outside, perhaps for lack of memory: close other programs "
            "and try again."
        ) from None
    except Exception as error:  # a damaged notebook can raise nearly anything
        raise NotebookError(_damaged(path, error)) from error
    unfinished.replace(executed)
    try:
        page, _ = HTMLExporter(embed_images=True).from_filename(str(executed))
    except Exception as error:  # what runs need not be shown
        raise NotebookError(_damaged(path, error)) from error
    write_text(executed.with_suffix(".html"), page)
    if not result.is_file():
        raise NotebookError(f"{path.name} ran but wrote no result.json into {out}.")
    try:
        content = json.loads(result.read_text())
    except (ValueError, OSError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise NotebookError(f"{path.name} ran but {result} holds no dictionary in JSON.")
    return {**content, "total_seconds": time.monotonic() - started}


def find_notebook(notebook: str | Path) -> Path:
    """The path of a notebook given by path or by name; NotebookError if there is none.

    Names are seen from the folder of notebooks; those of the folder ``runs`` need not say so.
    """
    folder = notebook_folder()
    name = f"{notebook}.ipynb"
    for candidate in (Path(notebook), folder / name, folder / "runs" / name):
        # pathlib fails at names that are too long.
        if candidate.suffix == ".ipynb" and os.path.isfile(candidate):  # noqa: PTH113
            return candidate.resolve()
    paths = [p.relative_to(folder).with_suffix("") for p in sorted(folder.rglob("*.ipynb"))]
    names = ", ".join(p.as_posix() for p in paths if ".ipynb_checkpoints" not in p.parts)
    raise NotebookError(f"There is no notebook {notebook}: choose from {names}.")


def check_parameters(path: Path, parameters: Mapping[str, str]) -> dict[str, object]:
    """The values of parameters given as text, in the types of the notebook's defaults.

    Raises:
        NotebookError: the notebook is damaged, or has no such parameter, or the value is not of its
            type.
    """
    import papermill

    try:
        defaults = papermill.inspect_notebook(str(path))
    except Exception as error:  # a damaged notebook can raise nearly anything
        raise NotebookError(_damaged(path, error)) from error
    values: dict[str, object] = {}
    for name, text in parameters.items():
        if name not in defaults or name == "out":
            names = ", ".join(n for n in defaults if n != "out") or "none"
            raise NotebookError(f"{path.name} has no parameter {name!r}: choose from {names}.")
        _check_text(f"Parameter {name}", text)
        try:
            default = ast.literal_eval(defaults[name]["default"])
        except _NO_LITERAL:
            raise NotebookError(
                f"{path.name} computes the default of {name}, so its type is unknown: set it in "
                "the notebook."
            ) from None
        values[name] = _as_type_of(default, text, name)
        _check_text(f"Parameter {name}", str(values[name]))
    return values


def _check_text(what: str, text: str) -> None:
    """NotebookError unless a text can be written into a notebook, as not all names of files can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotebookError(
            f"{what} is {text!r}, which is no valid text: give it another name."
        ) from None


def _damaged(path: Path, error: Exception) -> str:
    reason = one_line(str(error).strip()) or type(error).__name__
    return f"{path.name} is no notebook that can be used ({reason})."


def _as_type_of(default: object, text: str, name: str) -> object:
    """``text`` as the type of ``default`` (whole numbers also where the default is a float)."""
    if isinstance(default, str):
        return text
    try:
        value = ast.literal_eval(text)
    except _NO_LITERAL:
        value = text
    required = type(default)
    if required is float and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    if default is not None and type(value) is not required:
        raise NotebookError(
            f"Parameter {name} is {text!r}, but must be of type {required.__name__}, as its "
            f"default {default!r} is."
        )
    return value
