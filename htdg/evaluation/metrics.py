"""How well anomaly scores separate normal from anomalous images: AUROC, average precision, F1.

The paper's tables (section 4) report the AUROC. Higher scores are more anomalous.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score


def image_metrics(
    labels: Sequence[int] | np.ndarray,
    anomaly_scores: Sequence[float] | np.ndarray,
    scale_scores: Sequence[Sequence[float]] | np.ndarray | None = None,
) -> dict[str, Any]:
    """The AUROC of the paper's tables, and other metrics that few-shot work reports.

    Args:
        labels: (B,) 0 normal, 1 anomalous.
        anomaly_scores: (B,) of any range, higher is more anomalous.
        scale_scores: (B, N + 1) the same for each scale, coarsest first; None leaves out the
            metrics that need them.

    Returns:
        Plain JSON values:

        - ``image_auroc``: area under the ROC curve; a tie counts one half.
        - ``average_precision``: mean precision over the anomalous images, in order of score.
        - ``f1_max``: the best F1 of any threshold, anomalous being the positive class, and
          ``f1_max_threshold``: images that score at least this are flagged. Among equally good
          thresholds the highest, which flags fewest.
        - ``auroc_per_scale``: a list, coarsest first.
        - ``image_auroc_scale_normalised``: AUROC of the mean over scales after the scores of every
          scale were mapped linearly onto [0, 1], their minimum over *all these images* to 0 and
          their maximum to 1, as the official code does. It depends on the whole test set and does
          not exist for a single image: report it beside the plain figure, never instead. A scale
          that scores all images alike counts 0.
        - ``undefined_because``: None, or one sentence if all metrics are None because the labels
          are all normal or all anomalous.

    Raises:
        ValueError: lengths differ, there are no images, labels are not 0 or 1, or scores are not
            finite.
    """
    labels = np.asarray(labels)
    scores = _finite("anomaly_scores", anomaly_scores, labels, axes=1)
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be 0 (normal) or 1 (anomalous).")
    scales = None
    if scale_scores is not None:
        scales = _finite("scale_scores", scale_scores, labels, axes=2)

    metrics: dict[str, Any] = {
        "image_auroc": None,
        "average_precision": None,
        "f1_max": None,
        "f1_max_threshold": None,
        "auroc_per_scale": None,
        "image_auroc_scale_normalised": None,
        "undefined_because": None,
    }
    if labels.min() == labels.max():
        kind = "anomalous" if labels.min() else "normal"
        metrics["undefined_because"] = (
            f"All {len(labels)} images are {kind}, but the metrics need both kinds."
        )
        return metrics

    metrics["image_auroc"] = float(roc_auc_score(labels, scores))
    metrics["average_precision"] = float(average_precision_score(labels, scores))
    metrics["f1_max"], metrics["f1_max_threshold"] = best_f1(labels, scores)
    if scales is not None:
        metrics["auroc_per_scale"] = [float(roc_auc_score(labels, column)) for column in scales.T]
        normalised = normalise_per_scale(scales).mean(1)
        metrics["image_auroc_scale_normalised"] = float(roc_auc_score(labels, normalised))
    return metrics


def best_f1(labels: np.ndarray, anomaly_scores: np.ndarray) -> tuple[float, float]:
    """The best F1 of any threshold, and the highest threshold that reaches it.

    Both are explained in ``image_metrics``.
    """
    precision, recall, thresholds = precision_recall_curve(labels, anomaly_scores)
    precision, recall = precision[:-1], recall[:-1]  # the last point has no threshold
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    best = np.flatnonzero(np.isclose(f1, f1.max(), rtol=1e-12, atol=0))[-1]
    return float(f1[best]), float(thresholds[best])


def normalise_per_scale(scale_scores: np.ndarray) -> np.ndarray:
    """Map every column of (B, N + 1) linearly onto [0, 1]; a constant column becomes 0."""
    low, high = scale_scores.min(0), scale_scores.max(0)
    span = np.where(high > low, high - low, 1.0)
    return (scale_scores - low) / span


def _finite(name: str, values: object, labels: np.ndarray, axes: int) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if labels.ndim != 1 or array.ndim != axes or len(array) != len(labels) or array.size == 0:
        raise ValueError(
            f"{name} has shape {array.shape} and labels {labels.shape}, but they must have one row "
            "for each image, and at least one."
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are not finite.")
    return array
