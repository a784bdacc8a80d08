"""``htdg tables``."""

from __future__ import annotations

import argparse
from pathlib import Path

from htdg.evaluation.plots import save_figure
from htdg.io.files import check_writable, write_text
from htdg.sweeps.results import gather
from htdg.sweeps.tables import csv_table, figure, markdown_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="of sweeps or evaluations"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write all columns there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the AUROCs there (PNG)")


def execute(options: argparse.Namespace) -> None:
    """Carry the command out."""
    for path in filter(None, (options.csv, options.markdown, options.figure)):
        check_writable(path)
    rows = gather(options.folders)
    text = markdown_table(rows)
    if options.csv is not None:
        write_text(options.csv, csv_table(rows))
    if options.markdown is not None:
        write_text(options.markdown, text)
    if options.figure is not None:
        save_figure(figure(rows), options.figure)
    print(text, end="")
