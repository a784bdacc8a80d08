"""Numbers that a user gives as options: whole or real, in a range, or refused in one sentence."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import NoReturn

from htdg.errors import UserError

#: No option needs a larger number, and random seeds made from it still fit 64 bits.
LARGEST = 2**32 - 1
#: Scales at most, and channels of one at most: the networks of a scale then have up to 150 MB of
#: weights, so that a model of a stranger fits into memory until it is refused.
MOST_SCALES, WIDEST = 32, 512
#: With less the blur of an image is the image itself, and nothing is left of it: ``high_pass``.
LEAST_BLUR = 0.5

#: The whole numbers among the options: least, and most where that is not ``LARGEST``. Training
#: images are kept at image_size, 50 MB each at the most; the finest scale is far smaller.
INTEGERS = {
    "image_size": (1, 2048),
    "min_size": (1,),
    "max_size": (1,),
    "channels": (1, WIDEST),
    "layers": (1, 10),
    "niter": (1,),
    "d_steps": (1,),
    "g_steps": (1,),
    "milestone_d": (1,),
    "milestone_g": (1,),
    "seed": (0,),
    "images_at_once": (0,),
    "distance_min_size": (1,),
    "distance_max_size": (1,),
    "patch_side": (1,),
    "geom_samples": (1, 1_000_000),
    "geom_epochs": (1,),
    "white_level": (0,),
}
#: The others: (low, high, low excluded, high excluded).
REALS = {
    "scale_factor": (0.0, 1.0, True, True),
    "lr_d": (0.0, math.inf, True, True),
    "lr_g": (0.0, math.inf, True, True),
    "beta1": (0.0, 1.0, False, True),
    "beta2": (0.0, 1.0, False, True),
    "gamma": (0.0, 1.0, True, False),
    "alpha": (0.0, math.inf, False, True),
    "noise_amplitude": (0.0, math.inf, False, True),
    "patch_constant": (0.0, math.inf, False, True),
    "high_pass": (0.0, 100.0, False, False),
    "search_radius": (0.0, 1.0, False, False),
}


class ConfigError(UserError):
    """An option has a value that is not allowed; the message names option, value and rule."""


def refuse(name: str, value: object, rule: str) -> NoReturn:
    """Raise ConfigError: the option must be as ``rule`` says."""
    raise ConfigError(f"Option {name} is {value!r}, but it must be {rule}.")


def whole_number(name: str, value: object, low: int, high: int = LARGEST) -> int:
    """``value`` as an int; ConfigError, with ``name``, unless it is a whole number in range.

    NumPy's integers are as good as Python's.
    """
    if isinstance(value, Integral) and not isinstance(value, bool) and low <= int(value) <= high:
        return int(value)
    limits = f"from {low} to {high}" if high < LARGEST else f"at least {low}"
    if high == LARGEST and isinstance(value, Integral) and int(value) > high:
        limits = f"no larger than {high}"
    raise ConfigError(f"{name} is {value!r}, but it must be a whole number, {limits}.")


def real_number(
    name: str, value: object, low: float, high: float, low_open: bool, high_open: bool
) -> float:
    """``value`` as a number; ConfigError, with the option's ``name``, unless it is in range."""
    rule = f"a number, {'above' if low_open else 'at least'} {low:g}"
    rule += "" if high == math.inf else f" and {'below' if high_open else 'at most'} {high:g}"
    if isinstance(value, bool) or not isinstance(value, Real):
        refuse(name, value, rule)
    number = value if isinstance(value, int) else float(value)
    if not -LARGEST <= number <= LARGEST:  # also NaN
        refuse(name, value, f"{rule}, and no larger than {LARGEST}")
    too_low = number <= low if low_open else number < low
    too_high = number >= high if high_open else number > high
    if too_low or too_high:
        refuse(name, value, rule)
    return number


def as_int(value: object) -> int:
    """A whole number as Python's; TypeError if it is not one."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError
    return int(value)


def digits(score: float) -> str:
    """A score in [0, 1] with at least four decimals, and more where it is close to 1: 0.999938."""
    away = 1 - score
    decimals = 4 if away <= 0 else max(4, 2 - math.floor(math.log10(away)))
    return f"{score:.{min(decimals, 12)}f}"
