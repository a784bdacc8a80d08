"""HTDG: few-shot anomaly detection from one to ten normal images (arXiv 2104.14535)."""

__version__ = "0.1.0"

from htdg.config import PRESETS, ConfigError, HTDGConfig
from htdg.datasets import DatasetError
from htdg.detector import HTDGDetector
from htdg.evaluation import EvaluationError, Task, evaluate
from htdg.images import ImageError
from htdg.storage import ModelError
from htdg.trained import NotFittedError

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
