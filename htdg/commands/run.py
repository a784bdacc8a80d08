"""``htdg run``."""

from __future__ import annotations

import argparse
from pathlib import Path

from htdg.commands.notebooks import run_notebook, summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("notebook", metavar="NOTEBOOK", help="its name, or a path")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter of the notebook, in the type of its default",
    )


def execute(options: argparse.Namespace) -> None:
    """Carry the command out."""
    result = run_notebook(options.notebook, options.out, dict(options.p))
    print(summary(result, options.out))
