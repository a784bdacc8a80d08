"""A trained model as plain data: the result of training, and what is scored, sampled and saved.

Everything in it is fixed once it is made; ``dataclasses.replace`` gives a changed copy (with a
threshold, say).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from htdg.config import HTDGConfig
from htdg.sampling import Scale
from htdg.thresholds import Threshold
from htdg.transformations import Transformation


@dataclass(frozen=True)
class ModelState:
    """What is trained, saved, loaded, imported and scored.

    Attributes:
        config: the options that it was trained with.
        sides: of the scales in pixels, coarsest first: the pyramid plan.
        transformations: T_1 .. T_M.
        scales: the trained scales, coarsest first, in evaluation mode; none with patch distances
            alone, for which nothing is trained.
        images: (K, 3, s, s) the training images in [-1, 1], on the CPU.
        image_names: what they were called.
        threshold: what calibration chose, or None.
        images_at_once: training images that went through the networks together.
        history: for each scale a dict with ``side``, ``seconds``, ``lr_d``, ``lr_g`` (a value an
            iteration) and the losses ``d_real``, ``d_fake``, ``g_adversarial``,
            ``g_reconstruction`` (the last step's of each iteration; the last one is the plain mean
            squared error, before the factor alpha).
        trained_with: versions of ``htdg``, ``torch`` and ``python``, the kind of device
            (``trained_on``), and what else the last digits hang on: processor, threads and compiled
            helpers (``machine``; not in models of earlier versions).
        banks: which patches of the training images the memory banks keep, as
            ``htdg.evidence.chosen_patches`` says. One that is not there, as in models of earlier
            versions, or after a change of the options, is chosen when the model first scores.
        classifier: of whole images, for the ablation "geom" alone.
        classifier_seconds: how long its training took.
    """

    config: HTDGConfig
    sides: tuple[int, ...]
    transformations: tuple[Transformation, ...]
    scales: tuple[Scale, ...]
    images: torch.Tensor
    image_names: tuple[str, ...]
    threshold: Threshold | None = None
    images_at_once: int = 0
    history: tuple[Mapping[str, Any], ...] = ()
    trained_with: Mapping[str, str] = field(default_factory=dict)
    banks: Mapping[str, torch.Tensor] = field(default_factory=dict)
    classifier: torch.nn.Module | None = None
    classifier_seconds: float = 0.0

    @property
    def training_seconds(self) -> float:
        """How long the training took, interruptions left out."""
        return sum(scale["seconds"] for scale in self.history) + self.classifier_seconds

    @property
    def has_generator(self) -> bool:
        """Whether the model can make images; two of the ablations and distances alone cannot."""
        trained = self.config.evidence != "distance"
        return trained and self.config.method not in ("mse", "no_generator")
