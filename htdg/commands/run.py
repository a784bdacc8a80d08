"""``htdg run``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from htdg.commands.notebooks import run_notebook


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


def summary(result: Mapping[str, object], out: Path) -> str:
    """A few lines that say how a run went and where to look."""
    lines = [f"{key.replace('_', ' ')}: {_short(value)}" for key, value in result.items()]
    pages = sorted(out.glob("*.html"))
    return "\n".join([*lines, f"look at: {pages[0] if pages else out}"])


def _short(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
