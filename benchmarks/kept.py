"""The results of a benchmark in a file, run by run, so that a stopped one goes on where it was."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.report import write_part
from htdg.errors import UserError
from htdg.io.files import write_text
from htdg.runtime.device import machine, resolve_device


def read_kept(file: Path, where: str) -> dict[str, Any]:
    """What the file holds, or the beginning of one on the machine ``where``."""
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    return {"machine": where, "runs": {}}


def do_missing(
    kept: dict[str, Any], file: Path, runs: Iterable[tuple[str, Callable[[], dict[str, Any]]]]
) -> bool:
    """Do the runs that are not in ``kept`` and write ``file`` after each.

    What another process has written into the file since is kept.

    Args:
        kept: machine and runs; the new results go in.
        file: where it is kept.
        runs: the name of each run, and what does it.

    Returns:
        False if one cannot be done, which is said on standard error and costs no other.
    """
    complete = True
    for key, perform in runs:
        if key in kept["runs"]:
            continue
        try:
            result = perform()
        except UserError as error:  # its data set is not there, say: the others may be
            print(f"{key}: {error}", file=sys.stderr, flush=True)
            complete = False
            continue
        written = read_kept(file, kept["machine"])["runs"]  # by another run meanwhile, too
        kept["runs"] |= written | {key: result}
        write_text(file, json.dumps(kept, indent=1) + "\n")
        print(key, json.dumps(kept["runs"][key]), flush=True)
    return complete


def keep_and_report(
    description: str,
    file: Path,
    title: str,
    runs: Callable[[Path], Iterable[tuple[str, Callable[[], dict[str, Any]]]]],
    page: Callable[[dict[str, Any]], str],
) -> None:
    """A benchmark's command line: do the runs that are missing, then write the part of the README.

    Ends the process with 1 if a run cannot be done.

    Args:
        description: what ``--help`` says.
        file: where the runs are kept, beside the README.
        title: of the part.
        runs: given the folder of the data sets, the runs as ``do_missing`` takes them.
        page: the part, from what is kept.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--report-only", action="store_true", help="only write the page again")
    options = parser.parse_args()
    kept = read_kept(file, machine(resolve_device("cpu")))
    complete = options.report_only or do_missing(kept, file, runs(options.data_root))
    write_part(file.with_name("README.md"), title, page(kept))
    if not complete:
        sys.exit(1)
