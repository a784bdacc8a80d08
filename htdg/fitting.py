"""Training a whole model: the scales one after another, from the coarsest to the finest.

Paper section 3: each scale is trained on its level of the pyramid with those below it frozen
(``htdg.training``). Here that is put together with checkpoints, so that a training that was killed
goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from htdg.ablations.geom import train_geom
from htdg.backend import Backend
from htdg.config import ConfigError, HTDGConfig
from htdg.evidence import chosen_patches, described
from htdg.fast.choice import describe_training
from htdg.fast.ranks import Ranks
from htdg.io.checkpoint import Checkpoint, geom_checkpoint
from htdg.io.model_directory import digest, scale_tensors
from htdg.pyramid import resize
from htdg.runtime.device import machine, reproducible
from htdg.runtime.memory import images_at_once, say_chunks
from htdg.runtime.progress import ProgressBar, TrainingCallback, TrainingClock
from htdg.sampler import Sampler
from htdg.sampling import Scale
from htdg.state import ModelState
from htdg.training import (
    ScaleTraining,
    learning_rates,
    train_pyramid,
    train_scale,
)
from htdg.transformations import Transformation
from htdg.version import __version__

#: Chooses the backend of a model with these options.
BackendChoice = Callable[[HTDGConfig, Sequence[Transformation], torch.device], Backend]


def fit_model(
    config: HTDGConfig,
    images: torch.Tensor,
    names: Sequence[str],
    device: torch.device,
    choose_backend: BackendChoice,
    bar: ProgressBar,
    callback: TrainingCallback | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    ranks: Ranks | None = None,
) -> ModelState:
    """Train a model on K images.

    Args:
        config: the options.
        images: (K, 3, s, s) in [-1, 1], s = ``config.image_size``, on the CPU.
        names: what to call them.
        device: where to train.
        choose_backend: who does the arithmetic.
        bar: shows where the training stands.
        callback: called after every iteration.
        checkpoint: directory that keeps the state of the training, which goes on from it.
        checkpoint_seconds: how often it is written within a scale, and after every scale.
        ranks: the processes that train this model together, the first of which writes checkpoints.

    Raises:
        ModelError: the checkpoint belongs to other options or images.
        ConfigError: the training diverged.
        RanksError: one of the processes has ended, or they start from different states.
    """
    transformations = config.resolve_transformations(coloured=is_coloured(images))
    if config.method == "mse":  # looks at the image as it is
        transformations = (Transformation(0, 0, 0, 0, 0),)
    if config.evidence != "votes":
        described(config)  # refuses images that are too small to compare
    sides = config.sides if config.method != "mse" else ()  # which looks at whole images
    trained = () if config.evidence == "distance" else sides
    saved, identity = None, fingerprint(config, images, device)
    if ranks is not None:
        ranks.check_same(int(identity[:15], 16), "options or images")
    if checkpoint is not None:
        saved = _checkpoint(checkpoint, identity, ranks)
    backend = choose_backend(config, transformations, device)
    begun = saved.images_at_once if saved else 0
    at_once = begun or images_at_once(backend, trained, len(images), config.images_at_once, device)
    if ranks is not None:
        at_once = ranks.least(at_once)
    if saved:
        saved.images_at_once = at_once
    if bar.look != "silent" and at_once < len(images):
        asked = "as this training was begun" if begun else "as asked for"
        say_chunks(
            len(images), at_once, asked if begun or config.images_at_once else "to fit into memory"
        )
    if bar.look != "silent":
        backend.notice()
    writes = ranks is None or ranks.first
    run = _Run(trained, saved, checkpoint_seconds, [bar.show, callback], writes)
    in_chunks = config.with_options(images_at_once=at_once)
    with reproducible(), bar:
        on_device = images.to(device)
        scales = train_pyramid(in_chunks, transformations, on_device, trained, backend, run.train)
        del backend  # and what it recorded on a GPU
        # As the weights of a loaded model lie: last digits of convolutions can hang on that.
        for network in (n for s in scales for n in (s.generator, s.discriminator)):
            network.to(memory_format=torch.contiguous_format)
        model = ModelState(
            config=config,
            sides=sides,
            transformations=transformations,
            scales=tuple(scales),
            images=images,
            image_names=tuple(names),
            images_at_once=at_once,
            history=tuple(run.history),
            trained_with={
                "htdg": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
                "trained_on": device.type,
                "machine": f"{machine(device)}, {describe_training(device, config)}"
                + ("" if ranks is None else f", {ranks.size} processes"),
            },
            banks=chosen_patches(on_device, config),
        )
        if config.method == "geom":
            model = with_classifier(model, device, bar, checkpoint)
    return model


def _checkpoint(folder: Path, identity: str, ranks: Ranks | None) -> Checkpoint:
    """The checkpoint in a folder; several processes all read the same."""
    if ranks is None:
        return Checkpoint(folder, identity)
    if not ranks.first:
        ranks.wait()
    saved = Checkpoint(folder, identity)  # the first process mends what killed ones left
    if ranks.first:
        ranks.wait()
    ranks.check_same(saved.n_done, "the scales of the unfinished training")
    ranks.check_same(saved.iteration, "the iteration of the unfinished training")
    return saved


class _Run:
    """Trains one scale after another, with checkpoints and callbacks."""

    def __init__(
        self,
        sides: Sequence[int],
        saved: Checkpoint | None,
        checkpoint_seconds: float,
        callbacks: Sequence[TrainingCallback | None],
        writes: bool,
    ) -> None:
        """Keep what ``fit_model`` is given; ``writes`` is False where another process does."""
        self.sides, self.saved, self.checkpoint_seconds = sides, saved, checkpoint_seconds
        self.written = saved if writes else None
        self.callbacks = [callback for callback in callbacks if callback is not None]
        self.history: list[dict[str, Any]] = []

    def train(self, training: ScaleTraining) -> None:
        """Train a scale to its end, or take it from the checkpoint."""
        saved, n = self.saved, len(training.coarser)
        if saved is not None and saved.restore_done(training.scale, n):
            self.history.append(saved.history[n])
            return
        seconds_before = saved.restore_training(training) if saved is not None else 0.0
        clock, last_saved = TrainingClock(training, self.sides), time.monotonic()

        def after_iteration() -> None:
            nonlocal last_saved
            progress = clock.progress()
            for callback in self.callbacks:
                callback(progress)
            if self.written and time.monotonic() - last_saved >= self.checkpoint_seconds:
                seconds = seconds_before + progress.seconds
                self.written.write(training.coarser, self.history, training, seconds)
                last_saved = time.monotonic()

        train_scale(training, after_iteration)
        check_finite(training.scale)
        self.history.append(scale_history(training, seconds_before + clock.seconds))
        if self.written:
            self.written.write([*training.coarser, training.scale], self.history)


def with_classifier(
    model: ModelState, device: torch.device, bar: ProgressBar, checkpoint: Path | None
) -> ModelState:
    """The model with the classifier of the ablation "geom", trained on images that it generates."""
    config, started = model.config, time.perf_counter()
    # A stream of their own: ``sample`` and ``calibrate`` must not draw the same images again.
    stream = int(np.random.SeedSequence([config.seed, 1]).generate_state(1)[0])
    samples = Sampler(model, device).sample(config.geom_samples, stream).clamp(-1, 1)
    classifier = train_geom(
        resize(samples, config.image_size).to(device),
        model.transformations,
        config.translation,
        config.seed,
        config.geom_epochs,
        callback=lambda done, total: bar.say(f"GEOM  {done}/{total} batches"),
        checkpoint=geom_checkpoint(checkpoint) if checkpoint else None,
    )
    seconds = time.perf_counter() - started
    return replace(model, classifier=classifier, classifier_seconds=seconds)


def fingerprint(config: HTDGConfig, images: torch.Tensor, device: torch.device) -> str:
    """Identifies what a training depends on: options, kind of device, images."""
    parts = [config.as_dict(), device.type, digest(images)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def check_finite(scale: Scale) -> None:
    """Refuse a scale whose training diverged: ConfigError."""
    if not all(tensor.isfinite().all() for tensor in scale_tensors([scale]).values()):
        raise ConfigError(
            f"The training diverged at {scale.side} pixels, its weights are no longer finite: "
            "choose a smaller lr_d or lr_g."
        )


def is_coloured(images: torch.Tensor) -> bool:
    """Whether the channels of (K, 3, H, W) in [-1, 1] differ by more than a grey level or two."""
    levels = (images.amax(1) - images.amin(1)).max() * 255 / 2
    return bool(levels > 2.5)


def scale_history(training: ScaleTraining, seconds: float) -> dict[str, Any]:
    """A finished scale's history as plain JSON values."""
    config = training.config
    lr_d, lr_g = zip(*(learning_rates(config, i) for i in range(config.niter)), strict=True)
    return {
        "side": training.scale.side,
        "seconds": seconds,
        "lr_d": list(lr_d),
        "lr_g": list(lr_g),
        **{name: values.cpu().tolist() for name, values in training.history.items()},
    }
