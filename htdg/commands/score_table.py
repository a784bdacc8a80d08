"""The table of scores that ``htdg score`` writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from htdg.errors import UserError
from htdg.evaluation.tables import score_table, unscored_row
from htdg.io.files import printable
from htdg.scorer import Prediction


@dataclass(frozen=True)
class Rows:
    """How an image becomes a row.

    Attributes:
        n_transformations: M.
        limit: the anomaly score above which an image is anomalous; None leaves the column out.
    """

    n_transformations: int
    limit: float | None

    def row(
        self, path: Path, prediction: Prediction, pictures: Mapping[str, str], problem: str
    ) -> tuple[str, str]:
        """The line of columns, and that of an image: scores, or a problem; both end with "\\n".

        Args:
            path: of the image.
            prediction: its scores, or with a problem anybody's, for their columns.
            pictures: where its map and its overlay are, by column; none without maps.
            problem: why it cannot be read, or "".
        """
        others: dict[str, Any] = {kind: values[:1] for kind, values in prediction.evidence.items()}
        if self.limit is not None:
            others["anomalous"] = [int(prediction.scores[0] > self.limit)]
        others |= {name: [printable(picture)] for name, picture in pictures.items()}
        others["problem"] = [""]
        name = printable(str(path))
        normality = prediction.normality[:1]
        table = score_table(
            [name], None, normality, self.n_transformations, others, prediction.scores
        )
        header, row = table.split("\n", 1)
        if problem:
            row = unscored_row(name, header.split(","), printable(problem))
        return f"{header}\n", row


class Table:
    """The table of scores, a row at a time, on the screen or in a file.

    A file has its name only once it is complete; until then, and if the run is stopped, it is
    called ``<name>.partial``. A run that is refused leaves none.

    Attributes:
        rows: how an image becomes a row.
        problems: what is wrong with the images that could not be read.
    """

    def __init__(self, path: Path | None, rows: Rows) -> None:
        """Write ``rows`` to ``path``, or to standard output."""
        self.path, self.rows, self.problems = path, rows, list[str]()
        self.waiting: list[str] | None = []
        self.partial = None if path is None else path.with_name(f"{path.name}.partial")
        self.file: TextIO | None = None

    def __enter__(self) -> Table:
        """Begin the file."""
        if self.partial is not None:
            self.partial.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.partial.open("w", encoding="utf-8", newline="")
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        """Give the file its name, unless something went wrong."""
        if self.file is None or self.partial is None or self.path is None:
            return
        self.file.close()
        if kind is None:
            self.partial.replace(self.path)
        elif issubclass(kind, UserError):
            self.partial.unlink()

    def add(
        self, path: Path, prediction: Prediction, pictures: Mapping[str, str], problem: str
    ) -> None:
        """Add a row: see ``Rows.row``."""
        header, row = self.rows.row(path, prediction, pictures, problem)
        if problem:
            self.problems.append(problem)
        if self.waiting is not None:  # nothing is written before there are any scores
            self.waiting.append(row)
            if problem:
                return
            row, self.waiting = "".join([header, *self.waiting]), None
        print(row, end="", file=self.file, flush=True)
