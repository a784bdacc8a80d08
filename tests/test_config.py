import json
import math
from dataclasses import FrozenInstanceError, fields

import pytest

from htdg.config import PRESETS, ConfigError, HTDGConfig
from htdg.transformations import CATALOGUE

NAN, INF = math.nan, math.inf

# option: (values that are refused, words of the rule that the message must hold)
NUMBERS = {
    "image_size": ([0, -1, 2049, 64.0, "64", None, True, NAN], ["from 1 to 2048"]),
    "min_size": ([0, -3, 25.0, "25", None, True], ["a whole number, at least 1"]),
    "max_size": ([0, 24, 64.0, "64", True, INF], ["at least"]),
    "channels": ([0, -1, 513, 32.0, "32", True], ["a whole number, from 1 to 512"]),
    "layers": ([0, -1, 11, 5.0, "5", True], ["a whole number, from 1 to 10"]),
    "niter": ([0, -1, 2.5, "9", True], ["a whole number, at least 1"]),
    "d_steps": ([0, -1, 3.0, True], ["a whole number, at least 1"]),
    "g_steps": ([0, -1, 3.0, True], ["a whole number, at least 1"]),
    "milestone_d": ([0, 1.0, False], ["a whole number, at least 1"]),
    "milestone_g": ([0, 1.0, False], ["a whole number, at least 1"]),
    "seed": ([-1, 0.0, "0", None, False, NAN], ["a whole number, at least 0"]),
    "images_at_once": ([-1, 1.0, "0", None, True], ["a whole number, at least 0"]),
    "distance_min_size": ([0, 25.0, "25", None, True], ["a whole number, at least 1"]),
    "distance_max_size": ([0, 25.0, "25", None, True], ["a whole number, at least 1"]),
    "patch_side": ([0, 7.0, "7", True], ["a whole number, at least 1"]),
    "patch_constant": ([-0.1, NAN, INF, True], ["a number, at least 0"]),
    "high_pass": ([-0.1, 101, NAN, "2", True], ["a number, at least 0 and at most 100"]),
    "search_radius": ([-0.1, 1.1, NAN, "0", True], ["a number, at least 0 and at most 1"]),
    "geom_samples": ([0, 1_000_001, 1.0, "9", True], ["a whole number, from 1 to 1000000"]),
    "geom_epochs": ([0, 1.0, "9", True], ["a whole number, at least 1"]),
    "white_level": ([-1, 4095.0, "4095", None, True], ["a whole number, at least 0"]),
    "scale_factor": ([0, 1, 0.0, 1.0, -0.5, 2.0, NAN, INF, "0.7", True], ["above 0 and below 1"]),
    "lr_d": ([0, 0.0, -1e-4, NAN, INF, "1", None, True], ["a number, above 0"]),
    "lr_g": ([0, 0.0, -1e-4, NAN, INF, "1", None, True], ["a number, above 0"]),
    "beta1": ([-0.1, 1, 1.0, NAN, "0", False], ["a number, at least 0 and below 1"]),
    "beta2": ([-0.1, 1, 1.0, NAN, "0", False], ["a number, at least 0 and below 1"]),
    "gamma": ([0, 0.0, 1.1, NAN, True], ["a number, above 0 and at most 1"]),
    "alpha": ([-1, -1e-9, NAN, INF, None, True], ["a number, at least 0"]),
    "noise_amplitude": ([-1, NAN, INF, True], ["a number, at least 0"]),
}
WORDS = {
    "method": (
        ["", "HTDG", "a", None, 1],
        ["one of htdg, no_generator, real_or_generated, mse, geom"],
    ),
    "translation": (
        ["", "Pixel", "bilinear", None, 1],
        ["one of pixel, resampled, stretched"],
    ),
    "evidence": (["", "Votes", "all", None, 1], ["one of votes, distance, both"]),
    "tiles": ([0, 1, None, "yes"], ["True or False"]),
    "fast": ([0, 1, None, "yes"], ["True or False"]),
    "precision": (["", "fp16", "bfloat16", None, 32], ["'float32'", "'bf16'", "'auto'"]),
    "device": (
        ["", "gpu", "cuda:x", "cuda:-1", "CPU", None, 0, "auto:1", "cuda:", "mps:", "cuda:²"],
        ["'auto'", "'cpu'", "'cuda'", "'cuda:<number>'", "'mps'"],
    ),
    "transformations": (["", "all", "RGB54"], ["auto", "rgb54", "grey42", "rotations", "a list"]),
}
CASES = [
    pytest.param(option, value, rule, id=f"{option}={value!r}")
    for option, (values, rule) in (NUMBERS | WORDS).items()
    for value in values
]


def refusal(**options):
    with pytest.raises(ConfigError) as caught:
        HTDGConfig(**options)
    return str(caught.value)


def assert_one_sentence(message, option, value):
    start = f"Option {option} is {value!r}, but it must be "
    assert message.startswith(start)
    rule = message.removeprefix(start)
    assert rule.endswith(".")
    assert "\n" not in rule
    assert ". " not in rule


@pytest.mark.parametrize(("option", "value", "rule"), CASES)
def test_a_wrong_value_is_refused_in_one_sentence(option, value, rule):
    message = refusal(**{option: value})
    assert_one_sentence(message, option, value)
    for words in rule:
        assert words in message.split("but it must be")[1]


def test_every_option_has_a_rule():
    assert {field.name for field in fields(HTDGConfig)} == NUMBERS.keys() | WORDS.keys()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("min_size", 12),
        ("max_size", 25),
        ("image_size", 25),
        ("seed", 0),
        ("beta1", 0),
        ("gamma", 1),
        ("alpha", 0),
        ("noise_amplitude", 0.0),
        ("scale_factor", 0.01),
        ("device", "cuda:1"),
        ("device", "mps"),
        ("precision", "auto"),
        ("translation", "pixel"),
    ],
)
def test_values_at_the_bounds_are_allowed(option, value):
    assert getattr(HTDGConfig(**{option: value}), option) == value


@pytest.mark.parametrize(
    ("options", "option", "rule"),
    [
        ({"min_size": 11, "max_size": 64}, "min_size", "receptive field of 5 layers, 11"),
        ({"min_size": 15, "layers": 7}, "min_size", "receptive field of 7 layers, 15"),
        ({"min_size": 25, "max_size": 24}, "max_size", "at least min_size, which is 25"),
        ({"image_size": 29, "min_size": 30}, "image_size", "at least min_size, which is 30"),
        ({"scale_factor": 0.999999999999}, "scale_factor", "low enough for 32 scales"),
        ({"image_size": 2048, "channels": 512}, "channels", "no scale has more than 512"),
    ],
)
def test_sizes_that_do_not_go_together(options, option, rule):
    message = refusal(**options)
    assert_one_sentence(message, option, options[option])
    assert rule in message


def test_min_size_may_be_just_above_the_receptive_field():
    assert HTDGConfig(min_size=16, layers=7).receptive_field == 15


@pytest.mark.parametrize(
    "rows",
    [
        [],  # empty
        [(0, 0, 0, 0, 0), (0, 0, 0, 0, 0)],  # twice the same
        [(2, 0, 0, 0, 0)],  # each member out of range
        [(0, -1, 0, 0, 0)],
        [(0, 0, 2, 0, 0)],
        [(0, 0, 0, -2, 0)],
        [(0, 0, 0, 0, 4)],
        [(0, 0, 0, 0, -1)],
        [(0, 0, 0, 0)],  # too short
        [(0, 0, 0, 0, 0, 0)],  # too long
        [0, 0, 0, 0, 0],  # no rows
        [("a", 0, 0, 0, 0)],
        [(None, 0, 0, 0, 0)],
        [(NAN, 0, 0, 0, 0)],
        None,
        42,
    ],
)
def test_transformations_of_ones_own_are_checked(rows):
    message = refusal(transformations=rows)
    assert_one_sentence(message, "transformations", rows)
    assert "distinct (grey, flip, tx, ty, k)" in message


def test_transformations_of_ones_own_are_kept_in_order_as_tuples():
    config = HTDGConfig(transformations=[[1, 0, -1, 0, 3], [0, 1, 0, 1, 0]])
    assert config.transformations == ((1, 0, -1, 0, 3), (0, 1, 0, 1, 0))
    first, second = config.resolve_transformations(coloured=False)
    assert (first.grey, first.flip, first.tx, first.ty, first.k) == (1, 0, -1, 0, 3)
    assert (second.grey, second.flip, second.tx, second.ty, second.k) == (0, 1, 0, 1, 0)


@pytest.mark.parametrize(
    ("name", "coloured", "count"),
    [
        ("auto", True, 54),
        ("auto", False, 42),
        ("rgb54", False, 54),
        ("grey42", True, 42),
        ("rotations", True, 4),
    ],
)
def test_resolve_transformations(name, coloured, count):
    config = HTDGConfig(transformations=name)
    assert config.resolve_transformations(coloured) == CATALOGUE[:count]


@pytest.mark.parametrize(
    ("option", "rgb", "grey"),
    [
        ("image_size", 128, 128),
        ("min_size", 25, 25),
        ("max_size", 64, 64),
        ("scale_factor", 0.75, 0.75),
        ("transformations", "rgb54", "grey42"),
        ("translation", "resampled", "resampled"),
        ("channels", 32, 32),
        ("layers", 5, 5),
        ("niter", 1000, 500),
        ("d_steps", 3, 3),
        ("g_steps", 3, 3),
        ("lr_d", 0.0005, 0.0005),
        ("lr_g", 0.0005, 0.0005),
        ("beta1", 0.5, 0.5),
        ("beta2", 0.999, 0.999),
        ("milestone_d", 500, 500),
        ("milestone_g", 1000, 1000),
        ("gamma", 0.1, 0.1),
        ("alpha", 100, 100),
        ("noise_amplitude", 0.1, 0.1),
        ("precision", "auto", "auto"),
    ],
)
def test_the_paper_presets_hold_the_papers_values(option, rgb, grey):
    assert getattr(PRESETS["paper_rgb"], option) == rgb
    assert getattr(PRESETS["paper_grey"], option) == grey


def test_the_presets_are_there():
    novelty = {"novelty", "novelty_rgb"}
    assert set(PRESETS) == {"paper_rgb", "paper_grey", "tutorial", "inspect", "tiny"} | novelty
    # What their names promise: less work than the paper's.
    assert PRESETS["tiny"].niter < PRESETS["tutorial"].niter < PRESETS["paper_grey"].niter
    assert PRESETS["tiny"].sides[-1] < PRESETS["tutorial"].sides[-1] < 64


def test_a_preset_can_be_changed_and_is_validated_again():
    config = HTDGConfig.preset("tiny", niter=7)
    assert config.niter == 7
    assert config.image_size == PRESETS["tiny"].image_size
    assert PRESETS["tiny"].niter != 7
    with pytest.raises(ConfigError, match="Option niter is 0"):
        HTDGConfig.preset("tiny", niter=0)


def test_an_unknown_preset_or_option_is_refused():
    with pytest.raises(ConfigError) as caught:
        HTDGConfig.preset("huge")
    assert_one_sentence(str(caught.value), "preset", "huge")
    for name in PRESETS:
        assert name in str(caught.value)
    with pytest.raises(ConfigError, match=r"no option 'iterations': choose from .*niter"):
        HTDGConfig.preset("tiny", iterations=3)


@pytest.mark.parametrize(
    "config",
    [*PRESETS.values(), HTDGConfig(transformations=((0, 1, -1, 1, 2), (1, 0, 0, 0, 0)), seed=9)],
)
def test_as_dict_survives_json(config):
    values = json.loads(json.dumps(config.as_dict()))
    assert set(values) == {field.name for field in fields(HTDGConfig)}
    assert HTDGConfig(**values) == config


def test_it_is_frozen():
    with pytest.raises(FrozenInstanceError):
        HTDGConfig().niter = 3


@pytest.mark.parametrize(
    ("image_size", "widths"),
    [
        (64, [32, 32, 32, 32, 64, 64]),  # doubled at scale 4: 32 * 2 ** (4 // 4)
        (28, [28, 28, 28]),  # min(32, image_size)
        (450, [32, 32, 32, 32, 64, 64]),
    ],
)
def test_width(image_size, widths):
    config = HTDGConfig(image_size=image_size)
    assert [config.width(n) for n in range(len(config.sides))] == widths


def test_width_goes_on_doubling_up_to_the_image_size():
    config = HTDGConfig(image_size=100)
    assert [config.width(n) for n in (3, 4, 7, 8, 12)] == [32, 64, 64, 100, 100]


def test_receptive_field():
    assert HTDGConfig().receptive_field == 11
    assert HTDGConfig(layers=3).receptive_field == 7
