"""``htdg train``."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from htdg.commands.common import (
    UsageError,
    add_config_options,
    collect_images,
    config_from,
    refuse_ignored,
    say_at_chance,
)
from htdg.config import HTDGConfig
from htdg.detector import fit_or_go_on
from htdg.fast.ranks import Ranks, RanksError, connected, rank_here
from htdg.io.checkpoint import is_finished, recover_checkpoint, remove_checkpoint
from htdg.io.files import check_writable
from htdg.io.folders import recover
from htdg.io.locks import only_one
from htdg.io.model_directory import check_replaceable
from htdg.io.tensorboard import TensorBoard
from htdg.runtime.device import resolve_device
from htdg.runtime.progress import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE_OR_FOLDER", help="normal")
    parser.add_argument("--out", required=True, type=Path, help="model directory to write")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a model that is there under this name"
    )
    parser.add_argument(
        "--tensorboard",
        type=Path,
        metavar="DIR",
        help="write losses, generated images and the maps of the training images for TensorBoard",
    )
    add_config_options(parser)


def execute(options: argparse.Namespace) -> None:
    """Carry the command out."""
    config = config_from(options)
    refuse_ignored(config, options)
    out = options.out if options.out.name else options.out.resolve()
    unfinished = out.with_name(f"{out.name}.unfinished")
    if rank_here() > 0:  # the first process checks, and writes
        _help(options, config, unfinished)
        return
    with only_one(out):
        if options.out.exists() and not options.overwrite:
            _clean(options.out, unfinished)
            raise UsageError(
                f"{options.out} is there already: choose another --out or --overwrite it."
            )
        check_writable(options.out)
        check_replaceable(options.out)
        _train(options, config, unfinished)


def _clean(out: Path, unfinished: Path) -> None:
    """Delete what is left of the training of a model, if that was stopped once it was done."""
    recover(out.resolve())
    recover_checkpoint(unfinished)
    if unfinished.exists() and is_finished(unfinished, out):
        remove_checkpoint(unfinished)
        say([f"{out} is complete; what was left of its training is deleted."])


def _help(options: argparse.Namespace, config: HTDGConfig, unfinished: Path) -> None:
    """Train along with the first of several processes (``torchrun``)."""
    images = list(collect_images(options.images))
    with connected(resolve_device(config.device)) as ranks:
        fit_or_go_on(config, images, unfinished, False, ranks=ranks, progress=False)
        _wait_for_the_model(ranks)


def _wait_for_the_model(ranks: Ranks | None) -> None:
    """Let no process end before the model is saved: torchrun stops all once one ends badly."""
    if ranks:
        ranks.wait()


def _train(options: argparse.Namespace, config: HTDGConfig, unfinished: Path) -> None:
    """Train while nobody else writes there."""
    collected = collect_images(options.images)
    images = list(collected)
    if any(path.is_dir() for path in options.images):
        say([f"{len(images)} images train; the time grows with their number."])
    if unfinished.exists():
        print(f"going on with {unfinished}", file=sys.stderr)
    with contextlib.ExitStack() as stack:
        board = (
            stack.enter_context(TensorBoard(options.tensorboard)) if options.tensorboard else None
        )
        ranks = stack.enter_context(connected(resolve_device(config.device)))
        detector = fit_or_go_on(
            config,
            images,
            unfinished,
            options.overwrite,
            ranks=ranks,
            callback=board.show if board else None,
        )
        if board:
            maps = [p.anomaly_map for p in detector.predictions(images, maps=True)]
            names = [path.as_posix() for path in collected.values()]  # below the folders named
            board.maps(names, maps, config.niter * len(detector.scales_))
        detector.save(options.out)
        remove_checkpoint(unfinished)
        with contextlib.suppress(RanksError):  # one has ended by now: the model is there
            _wait_for_the_model(ranks)
    if detector.config_.evidence != "distance" and detector.config_.method == "htdg":
        votes = detector.score_scales(images).mean() / len(detector.transformations_)
        say_at_chance(detector.model_, float(votes))
    print(options.out)
