"""Executing notebooks in place: ``python -m htdg.course.execute NOTEBOOK ...``.

What the text claims is evaluated on the way (``htdg.course.marks``), and what is false is said.
Cells with the tag ``widget`` are saved with a picture of the controls' figure, since without its
kernel a widget shows an error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from htdg.course.exercises import tags
from htdg.course.marks import false_claims, with_probes, without_probes
from htdg.io.files import write_text

#: Seconds that a cell may take.
TIMEOUT = 600
#: The form in which a widget is displayed, which means nothing once its kernel has ended.
WIDGET = "application/vnd.jupyter.widget-view+json"


def executed(path: Path) -> NotebookNode:
    """The notebook with fresh outputs; CellExecutionError if a cell fails."""
    notebook = with_probes(nbformat.read(path, as_version=4))
    resources = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(
        notebook, timeout=TIMEOUT, kernel_name="python3", resources=resources, record_timing=False
    )
    client.store_widget_state = False
    client.execute()
    return cleaned(without_probes(notebook))


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """The notebook, changed in place, without timing, widgets and their state.

    These belong to a single run. A widget leaves the picture that stands for it.
    """
    notebook["metadata"].pop("widgets", None)
    for cell in notebook["cells"]:
        cell["metadata"].pop("execution", None)
        if "widget" in tags(cell):
            (output,) = cell["outputs"]
            kept = {kind: data for kind, data in output["data"].items() if kind != WIDGET}
            cell["outputs"] = [
                nbformat.v4.new_output("display_data", kept, metadata=output["metadata"])
            ]
    return notebook


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute and save each notebook; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m htdg.course.execute", description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    code = 0
    for path in parser.parse_args(arguments).notebooks:
        try:
            notebook = executed(path)
        except CellExecutionError as error:
            print(f"htdg: {path} was not saved, a cell fails: {error}", file=sys.stderr)
            return 1
        write_text(path, nbformat.writes(notebook) + "\n")
        print(path)
        for complaint in false_claims(notebook):
            print(f"htdg: {path}, in the text before {complaint}", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
