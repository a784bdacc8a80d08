"""Scores as a table: one row an image, one column a scale."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np


def score_table(
    names: Sequence[str],
    labels: Sequence[int] | None,
    rows: np.ndarray,
    n_transformations: int,
    others: Mapping[str, Sequence[float] | np.ndarray] = MappingProxyType({}),
) -> str:
    """The CSV text ``image,label,anomaly_score,scale_0,...``, one row an image.

    Args:
        names: of the images.
        labels: 0 normal, 1 anomalous; None leaves the column out.
        rows: (B, N + 1) normality of each scale in [0, M].
        n_transformations: M.
        others: further columns by name, a number an image; whole ones are written without decimals.
    """
    per_scale = 1 - rows / n_transformations  # anomaly scores in [0, 1]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    label_column = [] if labels is None else ["label"]
    scales = [f"scale_{n}" for n in range(rows.shape[1])]
    writer.writerow(["image", *label_column, "anomaly_score", *scales, *others])
    for i, name in enumerate(names):
        label = [] if labels is None else [labels[i]]
        own = [f"{v:.8f}" for v in (per_scale[i].mean(), *per_scale[i])]
        writer.writerow([name, *label, *own, *(_written(column[i]) for column in others.values())])
    return text.getvalue()


def _written(value: float) -> str:
    return str(value) if isinstance(value, (int, np.integer)) else f"{value:.8f}"
