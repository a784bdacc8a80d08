"""The ablations of the paper's Table 6, which show what every part of the method contributes.

They are configurations of the same code. Every one has its letter in the table, and a name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from htdg.config import ConfigError, HTDGConfig

_IDENTITY = ((0, 0, 0, 0, 0),)


@dataclass(frozen=True)
class Variant:
    """One ablation.

    Attributes:
        letter: ``a`` to ``g``, as in Table 6.
        name: a few words.
        difference: from the whole method, in words.
        options: of ``HTDGConfig``, with the values that make the ablation.
    """

    letter: str
    name: str
    difference: str
    options: Mapping[str, object]


def _single_scale(side: int) -> dict[str, object]:
    return {"image_size": side, "min_size": side, "max_size": side}


#: Table 6, a to g.
VARIANTS = (
    Variant(
        "a",
        "no generator",
        "D learns to name the transformations of real patches only",
        {"method": "no_generator"},
    ),
    Variant(
        "b",
        "real or generated",
        "D tells real patches from generated ones, and nothing is transformed",
        {"method": "real_or_generated", "transformations": _IDENTITY},
    ),
    Variant(
        "c",
        "real or generated, augmented",
        "as b, but D sees all transformed copies, in training and at test time",
        {"method": "real_or_generated"},
    ),
    Variant(
        "d",
        "single scale, small patches",
        "one scale of 100 pixels, of which a patch of 11 is a small part",
        _single_scale(100),
    ),
    Variant(
        "e",
        "single scale, large patches",
        "one scale of 20 pixels, of which a patch of 11 is more than half",
        _single_scale(20),
    ),
    Variant(
        "f",
        "mean squared error",
        "the squared difference from the nearest training image; nothing is trained",
        {"method": "mse"},
    ),
    Variant(
        "g",
        "GEOM on samples",
        "a classifier of whole images (GEOM), trained on images that HTDG generates",
        {"method": "geom"},
    ),
)


def variant_named(name: str) -> Variant:
    """The variant of that letter, or of that name (capitals and punctuation do not matter).

    Raises:
        ConfigError: there is none.
    """
    plain_name = _plain(str(name))
    for variant in VARIANTS:
        if plain_name in (variant.letter, _plain(variant.name)):
            return variant
    choices = ", ".join(f"{v.letter} ({v.name})" for v in VARIANTS)
    raise ConfigError(f"There is no variant {name!r}: choose from {choices}.")


def as_variant(config: HTDGConfig, name: str) -> HTDGConfig:
    """The configuration with the options of that variant; ConfigError if there is no such one."""
    return config.with_options(**variant_named(name).options)


def ignored_options(config: HTDGConfig) -> tuple[str, ...]:
    """The options of ``HTDGConfig`` that make no difference under its ``method``."""
    if config.method == "mse":
        # The sizes of the pyramid are not used, but must fit image_size all the same.
        used = ("image_size", "device", "method", "min_size", "max_size", "layers")
        return tuple(field.name for field in fields(config) if field.name not in used)
    of_generator = ("g_steps", "lr_g", "milestone_g", "alpha", "noise_amplitude")
    ignored = of_generator if config.method == "no_generator" else ()
    return ignored if config.method == "geom" else (*ignored, "geom_samples", "geom_epochs")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())
