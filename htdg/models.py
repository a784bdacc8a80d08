"""A trained model and what it needs to score, without the estimator around it.

``HTDGDetector`` is made of this. The command line scores with it directly, since scikit-learn,
whose estimator the detector is, takes nearly a second to import.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from htdg.ablations.geom import load_geom
from htdg.backend import Backend, PlainBackend
from htdg.config import ConfigError, HTDGConfig
from htdg.evidence import Evidence
from htdg.fast.backend import FastBackend
from htdg.fast.ranks import Ranks
from htdg.fast.sharing import SharingBackend
from htdg.io.model_directory import load_model
from htdg.runtime.device import one_thread_if_forked, resolve_device, resolve_precision
from htdg.scorer import Scorer
from htdg.state import ModelState
from htdg.thresholds import BY_HAND, Threshold
from htdg.transformations import Transformation
from htdg.votes import as_fractions


def choose_backend(
    config: HTDGConfig,
    transformations: Sequence[Transformation],
    device: torch.device,
    ranks: Ranks | None = None,
) -> Backend:
    """The backend of a model; this is the one place that asks whether it is to be fast.

    ``ranks`` are the processes that train it together, if there are several.
    """
    config = config.with_options(precision=resolve_precision(config.precision, device))
    if ranks is not None:
        return SharingBackend(config, transformations, device, ranks)
    kind = FastBackend if config.fast else PlainBackend
    return kind(config, transformations, device)


def saved_model(folder: Path, device: str = "auto") -> ModelState:
    """Read a model directory onto ``device``, wherever it was trained, an ablation's, too.

    Raises:
        ModelError: it is missing, of a newer format, damaged or altered.
        ConfigError: this machine has no such device.
    """
    return load_model(folder, device, load_geom)


def device_of(model: ModelState) -> torch.device:
    """Where the scales of a model are, and so where it computes."""
    return model.scales[0].z_star.device if model.scales else resolve_device(model.config.device)


def scorer_of(model: ModelState, device: torch.device, evidence: Evidence | None = None) -> Scorer:
    """What scores with a model on its device.

    ``evidence`` is what normal patches have, as an earlier scorer of the model measured it.
    """
    one_thread_if_forked()
    backend = choose_backend(model.config, model.transformations, device)
    return Scorer(model, backend, device, evidence)


def threshold_by_hand(
    score: float, pixel: float | None = None, defect_fraction: float | None = None
) -> Threshold:
    """A threshold that somebody sets: see ``HTDGDetector.set_threshold``.

    Raises:
        ConfigError: one of the values is out of range.
    """
    fraction, *more = as_fractions(defect_fraction)
    try:
        if more:
            raise ValueError("a threshold is for one defect_fraction")
        values = (float(score), float(score if pixel is None else pixel))
        return Threshold(*values, None, 0, BY_HAND, fraction)
    except (TypeError, ValueError):
        raise ConfigError(
            f"The threshold is {score!r} (pixels {pixel!r}), but must be a number from 0 to 1, "
            "for a single defect_fraction."
        ) from None
