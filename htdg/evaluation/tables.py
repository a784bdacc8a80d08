"""Scores as a CSV table: one row an image, one column a scale."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from numbers import Integral
from types import MappingProxyType

import numpy as np

_NO_COLUMNS: Mapping[str, Sequence[float]] = MappingProxyType({})


def score_table(
    names: Sequence[str],
    labels: Sequence[int] | None,
    normality: np.ndarray,
    n_transformations: int,
    others: Mapping[str, Sequence[float] | Sequence[str] | np.ndarray] = _NO_COLUMNS,
    anomaly_scores: np.ndarray | None = None,
) -> str:
    """The CSV text ``image,label,anomaly_score,scale_0,...``, one row an image.

    Args:
        names: of the images.
        labels: 0 normal, 1 anomalous; None leaves the column out.
        normality: (B, N + 1) of each scale, in [0, M].
        n_transformations: M.
        others: further columns by name, each (B,); integers are written without decimals, text
            as it is.
        anomaly_scores: (B,) in [0, 1]; None takes the mean of those of the scales.
    """
    per_scale = 1 - normality / n_transformations  # anomaly scores in [0, 1]
    means = per_scale.mean(-1) if anomaly_scores is None else anomaly_scores
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    label_column = [] if labels is None else ["label"]
    scales = [f"scale_{n}" for n in range(normality.shape[1])]
    writer.writerow(["image", *label_column, "anomaly_score", *scales, *others])
    for i, name in enumerate(names):
        label = [] if labels is None else [labels[i]]
        scores = [f"{score:.8f}" for score in (means[i], *per_scale[i])]
        further = [_formatted(column[i]) for column in others.values()]
        writer.writerow([name, *label, *scores, *further])
    return text.getvalue()


def unscored_row(name: str, columns: Sequence[str], last: str) -> str:
    """A row of an image that has no scores: its name, and what stands in the last column."""
    text = io.StringIO()
    empty = [""] * (len(columns) - 2)
    csv.writer(text, lineterminator="\n").writerow([name, *empty, last])
    return text.getvalue()


def _formatted(value: float | str) -> str:
    return str(value) if isinstance(value, (Integral, str)) else f"{value:.8f}"
