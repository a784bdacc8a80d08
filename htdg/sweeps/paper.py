"""The paper's figures: Tables 1 to 7 of its supplementary material (arXiv 2104.14535)."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import NamedTuple

#: What the paper calls classes that we call otherwise, without capitals and punctuation.
_CLASSES = {"sandals": "sandal", "tshirt": "tshirttop"}


class Published(NamedTuple):
    """A figure of the paper: AUROC in [0, 1], its deviation over training images, and its table."""

    auroc: float
    deviation: float
    table: int


def published(dataset: str, normal_class: str, shots: int, column: str) -> Published | None:
    """What the paper gives for a class; None if nothing.

    Args:
        dataset: our name of the data set.
        normal_class: our name of the class.
        shots: how many images train.
        column: as ``column_of`` gives it.
    """
    return _cells().get((_plain(dataset), _our_class(normal_class), shots, column))


def column_of(
    dataset: str, transformations: object, variant: str, fraction: float | None, shots: int
) -> str:
    """The column of the paper's tables that an experiment belongs in; empty if there is none.

    Args:
        dataset: our name of the data set.
        transformations: the option of that name.
        variant: the letter of Table 6; empty for the whole method.
        fraction: the defect fraction, None for all votes.
        shots: how many images train.
    """
    if variant:
        return variant
    share = 1.0 if fraction is None else fraction
    if dataset == "mvtec":
        if transformations == "rotations":
            return f"{100 * share:g}"  # of Table 7
        usual = 0.05 if shots == 1 else 0.1
        return "HTDG-54" if transformations in ("rgb54", "auto") and share == usual else ""
    return "HTDG" if share == 1.0 and transformations in ("rgb54", "grey42", "auto") else ""


@cache
def _cells() -> dict[tuple[str, str, int, str], Published]:
    """All figures, by data set, class, shots and column."""
    cells: dict[tuple[str, str, int, str], Published] = {}
    with Path(__file__).with_name("paper_tables.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            key = (
                _plain(row["dataset"]),
                _our_class(row["class"]),
                int(row["shots"]),
                row["column"],
            )
            deviation = float(row["std"] or "nan")
            figure = Published(float(row["auc"]) / 100, deviation / 100, int(row["table"]))
            cells.setdefault(key, figure)
    return cells


def _our_class(name: str) -> str:
    plain = _plain(name)
    return _CLASSES.get(plain, plain)


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())
