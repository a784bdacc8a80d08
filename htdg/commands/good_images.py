"""Which of the good images train an inspection, and which are held out for its threshold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from htdg.commands.common import UsageError, say_unreadable
from htdg.commands.kept import file_state, hash_of, json_lines
from htdg.config import HTDGConfig
from htdg.evidence import DEFECT_FRACTION
from htdg.io.files import printable, write_text
from htdg.io.images import load_image
from htdg.io.problems import ImageError
from htdg.numbers import digits
from htdg.runtime.parallel import run_ahead
from htdg.typical import scores_by_others

#: Good images that train at most, unless asked for otherwise; no more than half of them.
SHOTS = 10
#: Fewer good images all train, and none is left for a threshold.
ENOUGH = 8
#: A single one that trains is the most typical of so many, or of a third of the good images if that
#: is less. Where several train, chance picks as good ones (docs/few_shots.md).
CANDIDATES = 12
#: Where what was chosen is kept, beside the model.
FILE = "training_images.json"


@dataclass(frozen=True)
class Division:
    """The good images.

    Attributes:
        train: those that train.
        held_out: those that the threshold comes from.
        why: why this one trains, a sentence, or "" if chance chose or all do.
        note: of the choice, to be kept; empty if there was none.
    """

    train: Sequence[Path]
    held_out: Sequence[Path]
    why: str
    note: Mapping[str, object]

    def keep(self, place: Path) -> None:
        """Note beside the model in ``place`` what was chosen, so that the next time is quick."""
        if self.note:
            write_text(place / FILE, json.dumps(self.note) + "\n")


def divide(
    good: Sequence[Path], count: int, config: HTDGConfig, place: Path, root: Path
) -> Division:
    """Divide the good images; a single one that trains is chosen for being the most typical.

    Only candidates are compared, and none that is held out: a threshold from images that the
    training image was chosen for would be too low. With votes alone chance chooses.

    Args:
        good: all good images; they can be read.
        count: how many train.
        config: of the model; its seed draws.
        place: where an earlier choice may be kept.
        root: the folder of the good images, to name them.
    """
    pool = count
    if count == 1 and config.evidence != "votes":
        pool = max(1, min(CANDIDATES, len(good) // 3))
    candidates, held_out = split(good, pool, config.seed)
    if pool == count:
        return Division(candidates, held_out, "", {})
    options = config.with_options(device="auto").as_dict()
    basis = hash_of([options, [file_state(path) for path in candidates]])
    kept = next(json_lines(place / FILE), {})
    if kept.get("basis") == basis:
        scores = np.array(kept["scores"])
    else:
        scores = scores_by_others(candidates, config, DEFECT_FRACTION, progress=True)
    best = candidates[int(scores.argmin())]
    why = (
        f"{printable(best.relative_to(root).as_posix())} was chosen from {len(scores)} good images "
        f"for being the most typical: it scores {digits(float(scores.min()))} with models of the "
        f"others, the least typical one {digits(float(scores.max()))}."
    )
    return Division([best], held_out, why, {"basis": basis, "scores": scores.tolist()})


def number_that_train(count: int, shots: int | None) -> int:
    """How many of so many good images train.

    Args:
        count: good images.
        shots: as asked for; by default half, at most ``SHOTS``, or all of fewer than ``ENOUGH``.

    Raises:
        UsageError: there are not as many.
    """
    if shots is None:
        return count if count < ENOUGH else min(SHOTS, count // 2)
    if shots > count:
        raise UsageError(f"--shots is {shots}, but there are {count} good images.")
    return shots


def split(good: Sequence[Path], count: int, seed: int) -> tuple[list[Path], list[Path]]:
    """So many of the good images, drawn with the seed, and the others, each in order."""
    order = np.random.default_rng(seed).permutation(len(good))
    first, others = sorted(order[:count]), sorted(order[count:])
    return [good[i] for i in first], [good[i] for i in others]


def sentence_on_division(n_good: int, n_train: int, n_held_out: int) -> str:
    """How many of the good images train, and how many are held out, in a sentence."""
    if n_held_out:
        return (
            f"{n_train} of the {n_good} good images train, {n_held_out} are held out for the "
            "threshold."
        )
    return (
        f"all good images, {n_good}, train and none is held out, so there is no threshold and "
        f"nothing is called anomalous: give at least {ENOUGH} good images."
    )


def readable(paths: Sequence[Path], white_level: int) -> list[Path]:
    """Those that can be read to their end; the others are named on standard error."""
    checks = list(run_ahead(partial(_problem, path, white_level) for path in paths))
    say_unreadable(problem for problem in checks if problem is not None)
    return [path for path, problem in zip(paths, checks, strict=True) if problem is None]


def _problem(path: Path, white_level: int) -> str | None:
    try:
        load_image(path, None, white_level)
    except ImageError as error:
        return str(error)
    return None
