"""HTDG: few-shot anomaly detection from one to ten normal images (arXiv 2104.14535)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from htdg.config import PRESETS, ConfigError, HTDGConfig
    from htdg.datasets import DatasetError
    from htdg.detector import HTDGDetector
    from htdg.evaluation import EvaluationError, Task, evaluate
    from htdg.images import ImageError
    from htdg.storage import ModelError
    from htdg.trained import NotFittedError

#: Where each name is; its module, and PyTorch with it, is imported when it is first asked for.
_HOME = {
    "PRESETS": "config",
    "ConfigError": "config",
    "DatasetError": "datasets",
    "EvaluationError": "evaluation",
    "HTDGConfig": "config",
    "HTDGDetector": "detector",
    "ImageError": "images",
    "ModelError": "storage",
    "NotFittedError": "trained",
    "Task": "evaluation",
    "evaluate": "evaluation",
}

__all__ = [
    "PRESETS",
    "ConfigError",
    "DatasetError",
    "EvaluationError",
    "HTDGConfig",
    "HTDGDetector",
    "ImageError",
    "ModelError",
    "NotFittedError",
    "Task",
    "evaluate",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """The public names, imported when asked for."""
    if name not in _HOME:
        raise AttributeError(f"module 'htdg' has no attribute {name!r}")
    return getattr(importlib.import_module(f"htdg.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """What tab completion shows."""
    return sorted([*globals(), *_HOME])
