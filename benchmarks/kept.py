"""The results of a benchmark in a file, run by run, so that a stopped one goes on where it was."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from htdg.errors import UserError
from htdg.io.files import write_text


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


def kept_options(description: str) -> argparse.Namespace:
    """The command line of a benchmark whose runs are kept: ``data_root`` and ``report_only``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--report-only", action="store_true", help="only write the page again")
    return parser.parse_args()
