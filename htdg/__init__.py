"""HTDG: few-shot anomaly detection from one to ten normal images (arXiv 2104.14535)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from htdg.version import __version__

if TYPE_CHECKING:
    from htdg.config import PRESETS, ConfigError, HTDGConfig
    from htdg.datasets import DatasetError
    from htdg.detector import HTDGDetector, NotFittedError
    from htdg.evaluation.run import EvaluationError, Task, evaluate
    from htdg.io.model_directory import ModelError
    from htdg.io.problems import ImageError, ImageWarning

#: Where each name is; its module, and PyTorch with it, is imported when it is first asked for.
_HOME = {
    "PRESETS": "config",
    "ConfigError": "config",
    "DatasetError": "datasets",
    "EvaluationError": "evaluation.run",
    "HTDGConfig": "config",
    "HTDGDetector": "detector",
    "ImageError": "io.problems",
    "ImageWarning": "io.problems",
    "ModelError": "io.model_directory",
    "NotFittedError": "detector",
    "Task": "evaluation.run",
    "evaluate": "evaluation.run",
}

__all__ = [
    "PRESETS",
    "ConfigError",
    "DatasetError",
    "EvaluationError",
    "HTDGConfig",
    "HTDGDetector",
    "ImageError",
    "ImageWarning",
    "ModelError",
    "NotFittedError",
    "Task",
    "__version__",
    "evaluate",
]


def __getattr__(name: str) -> object:
    """The public names, imported when asked for."""
    if name not in _HOME:
        raise AttributeError(f"module 'htdg' has no attribute {name!r}")
    return getattr(importlib.import_module(f"htdg.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """What tab completion shows."""
    return sorted([*globals(), *_HOME])
