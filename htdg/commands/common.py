"""What several commands share: their options of the method, and the images that they are given."""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from htdg.ablations.variants import ignored_options
from htdg.config import PRESETS, HTDGConfig
from htdg.errors import UserError
from htdg.evaluation.colours import TINTS
from htdg.io.damaged import is_called_an_image
from htdg.io.files import printable
from htdg.io.images import list_images
from htdg.models import saved_model
from htdg.numbers import digits
from htdg.runtime.progress import name_skipped, say
from htdg.state import ModelState
from htdg.thresholds import Threshold

#: A mean vote of normal images up to this many times 1 / M is no better than chance.
CHANCE = 1.1
#: What is called so beside overlays says what their colours mean.
BAR = "overlay_colours.png"
#: How the names of maps and overlays end.
MAP_ENDING, OVERLAY_ENDING = "_map.png", "_overlay.png"
#: Bytes of a name, where systems allow 255 with its ending and that of a temporary file.
LONGEST_NAME = 200


class UsageError(UserError):
    """The command cannot be carried out as given; the message says what to change."""


def add_config_options(parser: argparse.ArgumentParser, preset: str = "tutorial") -> None:
    """The preset, by default ``preset``, and every option of the method."""
    parser.add_argument("--preset", default=preset, choices=PRESETS, help=f"default: {preset}")
    group = parser.add_argument_group("options of the method, in place of the preset's")
    for field in fields(HTDGConfig):
        if field.type == "bool":
            flag = f"--{field.name.replace('_', '-')}"
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None)
            continue
        kind = {"int": int, "float": float, "str": str}.get(str(field.type), name_or_list)
        group.add_argument(
            f"--{field.name.replace('_', '-')}", type=kind, metavar=kind.__name__.upper()
        )


def name_or_list(text: str) -> object:
    """A list written as JSON, or else the text itself."""
    try:
        return json.loads(text) if text.startswith("[") else text
    except (ValueError, RecursionError):
        return text


def config_from(options: argparse.Namespace) -> HTDGConfig:
    """The preset with the options that were given. ConfigError if one is not allowed."""
    return HTDGConfig.preset(options.preset, **given_options(options))


def given_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options of the method that were given in place of the preset's."""
    values = {f.name: getattr(options, f.name) for f in fields(HTDGConfig)}
    return {name: value for name, value in values.items() if value is not None}


def add_white_level(parser: argparse.ArgumentParser) -> None:
    """The option of commands that load a model, which remembers what it was trained with."""
    parser.add_argument(
        "--white-level",
        type=int,
        metavar="V",
        help="the value that is white in images of more than 8 bits, such as 4095 for a camera of "
        "12 (default: what the model was trained with)",
    )


def add_tint(parser: argparse.ArgumentParser) -> None:
    """The option for the colour of overlays."""
    parser.add_argument(
        "--tint",
        choices=("auto", *TINTS),
        default="auto",
        help="of overlays (default: auto, the one that differs most from the training images)",
    )


def load_trained(options: argparse.Namespace) -> ModelState:
    """The model of ``options.model`` on its device, with another white level if one is given."""
    model = saved_model(options.model, options.device)
    if options.white_level is None:
        return model
    return replace(model, config=model.config.with_options(white_level=options.white_level))


def refuse_ignored(config: HTDGConfig, options: argparse.Namespace) -> None:
    """UsageError if a given option makes no difference to the method of ``config``.

    Somebody who sets such an option believes that it does something.
    """
    for name in given_options(options):
        if name in ignored_options(config):
            raise UsageError(
                f"--{name.replace('_', '-')} makes no difference to method {config.method}: leave "
                "it out."
            )


def check_folder(option: str, folder: Path) -> None:
    """Make the folder of an option; UsageError if that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{option} {folder} cannot be a folder: {error.strerror}.") from None


def collect_images(
    places: Sequence[Path], strict: bool = False, leave_out: Path | None = None
) -> dict[Path, Path]:
    """The image files among ``places`` and below the folders in it, in order.

    Those below ``leave_out``, where results are written, are no input, and nor are maps and
    overlays that ``htdg score`` wrote somewhere else.

    Other files in folders are named on standard error and passed over, or refused if ``strict``.
    UsageError if nothing is left.

    Returns:
        Of each file its path below the folder that was named, or its name.
    """
    paths: dict[Path, Path] = {}
    for place in places:
        if not os.path.isdir(place):  # noqa: PTH112 - pathlib fails at names that are too long
            if not os.path.exists(place):  # noqa: PTH110
                raise UsageError(f"{place} is not there: check the path.")
            paths[place] = Path(place.name)
            continue
        inside = image_files(place, strict)
        if leave_out is not None:
            results = leave_out.resolve()
            inside = [p for p in inside if not p.resolve().is_relative_to(results)]
        ours = {path for path in inside if is_our_picture(path)}
        if ours:
            say([f"{len(ours)} maps and overlays in {place}, which htdg wrote, are left out."])
        if len(ours) == len(inside):
            raise UsageError(f"{place} holds no image: name a folder with images in it.")
        paths |= {path: path.relative_to(place) for path in inside if path not in ours}
    return paths


def image_files(folder: Path, strict: bool = False) -> list[Path]:
    """The image files below a folder, also damaged ones, in order.

    Other files are named on standard error and passed over, or refused if ``strict``. A file that
    no library can read is nevertheless an image if its name ends like one. UsageError if nothing
    is left.
    """
    images, others = list_images(folder, strict)
    damaged = [path for path in others if path.is_file() and is_called_an_image(path)]
    name_skipped(path for path in others if path not in damaged)
    if not images and not damaged:
        raise UsageError(f"{folder} holds no image: name a folder with images in it.")
    return sorted(images + damaged)


def is_our_picture(path: Path) -> bool:
    """Whether ``htdg score --maps`` wrote this file: a map and its overlay lie side by side."""
    if path.name == BAR:
        return True
    endings = (MAP_ENDING, OVERLAY_ENDING)
    for ending, other in (endings, endings[::-1]):
        if path.name.endswith(ending):
            return path.with_name(path.name.removesuffix(ending) + other).is_file()
    return False


def map_names(paths: Sequence[Path]) -> list[str]:
    """What to call the maps of images, by their paths below the folders that were named.

    Like the image, in folders like its own; with its ending if another one differs in that alone,
    and with a number if a file of another folder has the very same path. What is too long for the
    endings of maps is cut.
    """
    count = Counter(path.with_suffix("") for path in paths)
    names: dict[str, None] = {}
    for path in paths:
        plain = path.with_suffix("") if count[path.with_suffix("")] == 1 else path
        names[free_name(plain, names)] = None
    return list(names)


def free_name(wanted: Path, taken: Container[str]) -> str:
    """``wanted``, cut if it is too long, and with a number if it is taken."""
    if len(os.fsencode(wanted.name)) > LONGEST_NAME:
        cut = os.fsencode(wanted.name)[:LONGEST_NAME]
        wanted = wanted.with_name(cut.decode("utf-8", "ignore"))
    candidates = (f"{wanted.as_posix()}{f'_{n}' if n > 1 else ''}" for n in itertools.count(1))
    return next(name for name in candidates if name not in taken)


def at_chance(mean_vote: float | None, n_transformations: int) -> str:
    """A sentence on a model whose votes know nothing of normal images, or "".

    Args:
        mean_vote: of normal images for the true transformation, in [0, 1], or None.
        n_transformations: M; who guesses is right once in M.
    """
    if mean_vote is None or mean_vote > CHANCE / n_transformations:
        return ""
    return (
        f"The votes are no better than guessing: {mean_vote:.3f} on average for the true one of "
        f"{n_transformations} transformations of normal images, where guessing has "
        f"{1 / n_transformations:.3f}. Train longer (niter), or rely on distances (evidence)."
    )


def spread(threshold: Threshold) -> str:
    """How the images scored that a threshold comes from, in a sentence; "" where nobody knows."""
    if threshold.least is None or threshold.median is None or threshold.greatest is None:
        return ""
    values = (threshold.least, threshold.median, threshold.greatest)
    least, median, greatest = map(digits, values)
    sentence = f"The images it comes from score {least} to {greatest}, {median} in the middle"
    return sentence + (f"; {threshold.limit} sets the threshold." if threshold.limit else ".")


def say_at_chance(model: ModelState, mean_vote: float | None) -> None:
    """Say on standard error if the votes for normal images are no better than guessing."""
    sentence = at_chance(mean_vote, len(model.transformations))
    say([sentence] if sentence else [])


def say_unreadable(problems: Iterable[str]) -> None:
    """Name on standard error what cannot be read, and why."""
    say(printable(problem) for problem in problems)
