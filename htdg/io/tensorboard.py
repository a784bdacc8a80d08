"""A training in TensorBoard: losses as they come, generated images scale by scale, maps at the end.

Needs the package of that name, the extra ``tracking``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from htdg.errors import UserError
from htdg.runtime.progress import TrainingProgress
from htdg.sampling import freeze, generate, random_noise, reconstruction_noise
from htdg.training import learning_rates

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

#: How many random images are shown of each scale.
SAMPLES = 4


class TensorBoardError(UserError):
    """TensorBoard is not there, or its folder cannot be written."""


class TensorBoard:
    """Writes what happens in a training; a context manager.

    The steps are iterations, counted over all scales. A training that goes on adds to what is
    there.
    """

    def __init__(self, folder: Path) -> None:
        """Write below ``folder``; TensorBoardError if that cannot be."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise TensorBoardError(
                "--tensorboard needs TensorBoard: pip install 'htdg[tracking]'."
            ) from None
        try:
            self._writer: SummaryWriter = SummaryWriter(str(folder))
        except OSError as error:
            raise TensorBoardError(
                f"--tensorboard {folder} cannot be written: {error.strerror}."
            ) from None

    def __enter__(self) -> TensorBoard:
        """Nothing to prepare."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write what is still to be written."""
        self._writer.close()

    def show(self, progress: TrainingProgress) -> None:
        """Losses and learning rates of an iteration, and images after a scale's last one."""
        training = progress.training
        step = progress.scale * progress.niter + progress.iteration
        where = f"scale {progress.scale + 1} ({progress.side} px)"
        for name, value in progress.losses().items():
            self._writer.add_scalar(f"{where}/{name}", value, step)
        lr_d, lr_g = learning_rates(training.config, progress.iteration - 1)
        self._writer.add_scalar(f"{where}/lr_d", lr_d, step)
        self._writer.add_scalar(f"{where}/lr_g", lr_g, step)
        if progress.iteration == progress.niter and training.config.method != "no_generator":
            scales = [*training.coarser, freeze(copy.deepcopy(training.scale))]
            index = torch.arange(SAMPLES, device=training.real.device) % len(training.real)
            # A stream of its own: what is shown changes nothing about the training.
            rng = torch.Generator(training.real.device).manual_seed(training.config.seed)
            with torch.no_grad():
                random = generate(scales, random_noise(index, rng), index)[-1]
                rebuilt = generate(scales, reconstruction_noise(scales), training.index)[-1]
            self._images(f"{where}/random", random, step)
            self._images(f"{where}/rebuilt", rebuilt, step)
            self._images(f"{where}/training", training.real, step)

    def maps(self, names: Sequence[str], maps: Sequence[np.ndarray | None], step: int) -> None:
        """The anomaly maps (H, W) in [0, 1] of images, by what these are called."""
        for name, anomaly_map in zip(names, maps, strict=True):
            self._writer.add_image(f"anomaly map/{name}", anomaly_map, step, dataformats="HW")

    def _images(self, name: str, images: torch.Tensor, step: int) -> None:
        """Images (B, 3, H, W), about in [-1, 1], side by side."""
        row = torch.cat(list(images.detach().cpu().clamp(-1, 1)), -1)  # (3, H, B * W)
        self._writer.add_image(name, (row + 1) / 2, step)
