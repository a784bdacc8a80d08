"""Writing a trained model as an ONNX file, and holding the file against the model."""

from __future__ import annotations

import importlib.util
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from htdg.config import HTDGConfig
from htdg.detector import HTDGDetector
from htdg.errors import UserError
from htdg.export.graph import ScoringGraph
from htdg.models import choose_backend
from htdg.state import ModelState
from htdg.version import __version__
from htdg.votes import as_fractions

#: What the extra ``export`` installs.
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
#: Of the operators, so that runtimes since 2023 know them all.
OPSET = 18
#: Scores and maps of the file are at most so far from the model's.
TOLERANCE = 1e-4
#: Runs that are timed; the quickest counts.
RUNS = 5


class ExportError(UserError):
    """A model cannot be exported; the message says why."""


def check_packages() -> None:
    """Raise ExportError unless the packages of the extra ``export`` are there."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"Exporting needs {', '.join(missing)}: pip install 'htdg[export]', or "
            "pip install -e '.[export]' in a clone."
        )


def check_exportable(config: HTDGConfig) -> None:
    """Raise ExportError if a model with these options has no graph."""
    if config.method in ("mse", "geom"):
        raise ExportError(
            f"This model has method {config.method}, a baseline without discriminators, which is "
            "not exported: train with another method."
        )


def exact_model(model: ModelState) -> ModelState:
    """The model as it is exported: on the CPU, and in float32 throughout."""
    return replace(model, config=model.config.with_options(device="cpu", precision="float32"))


def exported(model: ModelState, defect_fraction: float | None) -> bytes:
    """The ONNX file of a model, its scales on the CPU: see docs/export.md for what is in it.

    Raises:
        ExportError: its method is not exported, or a package is missing.
        ConfigError: the fraction is not in (0, 1].
    """
    check_packages()
    check_exportable(model.config)
    (fraction,) = as_fractions(defect_fraction)
    model = exact_model(model)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        backend = choose_backend(model.config, model.transformations, torch.device("cpu"))
        graph = ScoringGraph(model, backend, fraction).eval()
        program = torch.onnx.export(
            graph,
            (torch.zeros(2, 3, graph.image_size, graph.image_size),),
            input_names=["images"],
            output_names=["score", "map"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    for key, value in metadata(model, fraction).items():
        proto.metadata_props.add(key=key, value=value)
    return proto.SerializeToString()


def metadata(model: ModelState, fraction: float | None) -> dict[str, str]:
    """What a program that uses the file has to know, as it is written into it."""
    size, threshold = model.config.image_size, model.threshold
    known = {
        "htdg": __version__,
        "image_size": str(size),
        "input": f"float32 (batch, 3, {size}, {size}), RGB, from 0 for black to 1 for white",
        "evidence": model.config.evidence,
        "tiles": str(model.config.tiles).lower(),
        "defect_fraction": f"{fraction or 1.0:g}",
    }
    # A threshold holds for scores of the fraction that it was calibrated with.
    if threshold is not None and (threshold.defect_fraction or 1.0) == (fraction or 1.0):
        known["threshold"] = repr(threshold.score)
        known["pixel_threshold"] = repr(threshold.pixel)
        if threshold.false_positive_rate is not None:
            known["false_positive_rate"] = f"{threshold.false_positive_rate:g}"
    return known


@dataclass(frozen=True)
class Comparison:
    """A file against the model that it was made of.

    Attributes:
        scores, maps: the greatest differences.
        milliseconds: what an image takes in ONNX Runtime, with as many threads as PyTorch has.
        milliseconds_here: what it takes in ``htdg``.
    """

    scores: float
    maps: float
    milliseconds: float
    milliseconds_here: float

    @property
    def agrees(self) -> bool:
        """Whether the differences are within ``TOLERANCE``."""
        return max(self.scores, self.maps) <= TOLERANCE  # False for NaN, too


def compared(file: bytes, model: ModelState, defect_fraction: float | None) -> Comparison:
    """Run a file in ONNX Runtime, and the model here, on the same images."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    detector = HTDGDetector.from_model(exact_model(model))
    images = trial_images(model)

    def here(batch: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        results = list(detector.predictions(batch, (defect_fraction,), maps=True))
        maps = [r.anomaly_map for r in results if r.anomaly_map is not None]  # all
        return np.array([r.scores[0] for r in results]), np.stack(maps)

    def there(batch: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        return session.run(["score", "map"], {"images": batch.numpy()})

    (scores, maps), (other_scores, other_maps) = here(images), there(images)
    return Comparison(
        float(np.abs(scores - other_scores).max()),
        float(np.abs(maps - other_maps).max()),
        _milliseconds(lambda: there(images[:1])),
        _milliseconds(lambda: here(images[:1])),
    )


def trial_images(model: ModelState) -> torch.Tensor:
    """Four images in [0, 1] to compare with: a training image with ever more noise.

    Not a training image itself: the distances of its patches are 0 but for rounding, of which the
    root is taken.
    """
    normal = (model.images[:1] + 1) / 2  # (1, 3, s, s)
    noise = torch.rand(normal.shape, generator=torch.Generator().manual_seed(0))
    return torch.cat([torch.lerp(normal, noise, share) for share in (0.1, 0.3, 0.5, 1.0)])


def _milliseconds(run: Callable[[], object]) -> float:
    """The quickest of some runs, after one that is not timed."""
    run()
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return 1000 * min(seconds)
