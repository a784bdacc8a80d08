"""HTDG: few-shot anomaly detection from one to ten normal images (arXiv 2104.14535)."""

__version__ = "0.1.0"

from htdg.config import PRESETS, ConfigError, HTDGConfig
from htdg.detector import HTDGDetector, NotFittedError
from htdg.images import ImageError
from htdg.storage import ModelError

__all__ = [
    "PRESETS",
    "ConfigError",
    "HTDGConfig",
    "HTDGDetector",
    "ImageError",
    "ModelError",
    "NotFittedError",
]
