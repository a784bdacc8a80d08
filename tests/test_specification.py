"""docs/specification.md: its numbers are the code's, and it agrees with the architecture."""

import ast
import inspect
import itertools
import re

import pytest
import torch
from torch import nn

from htdg import HTDGConfig
from htdg.localisation import SPREAD
from htdg.networks import SLOPE, Discriminator, initialise
from htdg.presets import OPTIONS
from htdg.pyramid import pyramid_sides
from htdg.transformations import LUMA, SHIFT, as_rows, transformations_named
from htdg.votes import aggregate_votes
from tests.course import NOTEBOOKS
from tests.test_docs import ROOT, SYMBOLS, TEXTS, table_rows, text_of_notebook

PAGE = TEXTS[ROOT / "docs" / "specification.md"]
PRESETS = ("paper_rgb", "paper_grey")


def table(*head):
    """The rows of all tables with this head."""
    rows, chosen = [], False
    for line in PAGE.splitlines():
        cells = table_rows(line)
        if not cells:
            chosen = False
        elif tuple(cells[0]) == head:
            chosen = True
        elif chosen and not set("".join(cells[0])) <= set("-"):
            rows.append(cells[0])
    assert rows, head
    return rows


RULES = {row[0]: row[1:] for row in table("rule", "what it says", "whose", "row")}


# --- Numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", table("option", *PRESETS, "meaning"), ids=lambda row: row[0])
def test_options_have_the_values_of_the_presets(row):
    name = row[0].strip("`")
    for preset, stated in zip(PRESETS, row[1:3], strict=True):
        value = getattr(HTDGConfig.preset(preset), name)
        assert type(value)(stated) == value, preset


def test_every_option_in_which_the_papers_presets_differ_is_there():
    stated = {row[0].strip("`") for row in table("option", *PRESETS, "meaning")}
    assert OPTIONS["paper_rgb"] == {}
    assert OPTIONS["paper_grey"].keys() <= stated


def test_every_option_of_the_votes_is_there():
    """All others choose evidence, an ablation, a machine, or how images are cut and read."""
    stated = {row[0].strip("`") for row in table("option", *PRESETS, "meaning")}
    elsewhere = {"device", "precision", "method", "images_at_once", "fast", "tiles", "white_level"}
    elsewhere |= {"evidence", "distance_min_size", "distance_max_size", "patch_side"}
    elsewhere |= {"patch_constant", "high_pass", "search_radius", "geom_samples", "geom_epochs"}
    assert stated == set(HTDGConfig().as_dict()) - elsewhere


def fresh_weights():
    """Many fresh weights: of convolutions and of BatchNorm."""
    network = Discriminator(width=128, n_transformations=9)
    initialise(network, torch.Generator().manual_seed(0))
    convolutions = network.blocks[1].conv.weight.flatten()
    return convolutions, torch.cat([block.norm.weight for block in network.blocks])


def constants():
    """The numbers that are no options, as the code has them: (value, tolerance)."""
    network = Discriminator(width=32, n_transformations=4)
    convolutions, norms = fresh_weights()
    adam = inspect.signature(torch.optim.Adam).parameters
    width = HTDGConfig(image_size=512).width
    return {
        "kernel of every convolution, pixels": (network.tail.kernel_size[0], 0),
        "slope of LeakyReLU for negative values": (SLOPE, 0),
        "shift, as a share of the side": (SHIFT, 0),
        "luma of red": (LUMA[0], 0),
        "luma of green": (LUMA[1], 0),
        "luma of blue": (LUMA[2], 0),
        "mean of fresh convolution weights": (convolutions.mean().item(), 2e-4),
        "standard deviation of fresh convolution weights": (convolutions.std().item(), 2e-4),
        "mean of fresh BatchNorm weights": (norms.mean().item(), 3e-3),
        "standard deviation of fresh BatchNorm weights": (norms.std().item(), 2e-3),
        "momentum of running statistics": (network.blocks[0].norm.momentum, 0),
        "epsilon of BatchNorm": (network.blocks[0].norm.eps, 0),
        "epsilon of Adam": (adam["eps"].default, 0),
        "scales after which the width doubles": (
            next(n for n in itertools.count() if width(n) == 2 * width(0)),
            0,
        ),
        "standard deviation of the spread of a vote, as a share of the patch's side": (SPREAD, 0),
    }


def test_constants_are_those_of_the_code():
    stated = {name: float(value) for name, value, _ in table("constant", "value", "rule")}
    values = constants()
    assert stated.keys() == values.keys()
    for name, (value, tolerance) in values.items():
        assert stated[name] == pytest.approx(value, abs=tolerance, rel=0), name


def test_every_constant_names_its_rule():
    for name, value, rule in table("constant", "value", "rule"):
        assert rule in RULES, name
        # In words as in the table, unless the rule says it without digits.
        numbers = re.findall(r"\d+(?:\.\d+)?(?:e-\d+)?", RULES[rule][0])
        stated = [float(number) for number in numbers]
        assert float(value) in stated or rule == "N6", name


@pytest.mark.parametrize("row", table("`image_size`", "N", "sides"), ids=lambda row: row[0])
def test_the_examples_of_sides(row):
    image_size, steps, *sides = map(int, " ".join(row).split())
    assert pyramid_sides(image_size) == tuple(sides)
    assert steps == len(sides) - 1


def test_the_catalogue_is_that_of_the_table():
    rows = []
    for numbers, *columns in table("numbers", "grey", "flip", "tx", "ty", "k"):
        first, last = map(int, re.findall(r"T_(\d+)", numbers))
        values = [[int(value) for value in column.split(",")] for column in columns]
        assert first == len(rows) + 1
        rows += [list(row) for row in itertools.product(*values)]
        assert last == len(rows)
    for name in ("rgb54", "grey42", "rotations"):
        catalogue = transformations_named(name)
        assert as_rows(catalogue) == rows[: len(catalogue)]
        assert re.search(rf"`{name}`[^;.]*\b(all|{len(catalogue)})\b", RULES["T8"][0])


def test_the_examples_of_the_catalogue():
    for number, row in re.findall(r"T_(\d+) is (\([\d, -]+\))", PAGE):
        assert tuple(as_rows(transformations_named("rgb54"))[int(number) - 1]) == (
            ast.literal_eval(row)
        )


def test_the_width_rule():
    for image_size in (20, 28, 128, 450):
        config = HTDGConfig(image_size=image_size, min_size=14)
        for n in range(12):
            assert config.width(n) == min(config.channels * 2 ** (n // 4), image_size)


def test_biases_are_drawn_as_stated():
    network = Discriminator(width=128, n_transformations=9)
    initialise(network, torch.Generator().manual_seed(0))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert not module.bias.any()
        elif isinstance(module, nn.Conv2d):
            bound = (9 * module.in_channels) ** -0.5
            assert module.bias.abs().max() <= bound
    assert network.blocks[1].conv.bias.abs().max() > 0.9 * (9 * 128) ** -0.5


def test_at_least_one_vote_counts_and_fractions_are_rounded_down():
    votes = torch.linspace(0, 1, 25).view(1, 1, 5, 5)
    assert aggregate_votes(votes, 0.001).item() == 0
    assert aggregate_votes(votes, 0.1).item() == pytest.approx(1 / 48)  # int(2.5) = 2 of 25


# --- Whose, and where ----------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_whose_the_architecture_says_it_is(rule):
    says, whose, row = RULES[rule]
    assert says.endswith((".", ")"))
    assert whose in ("paper", "official", "ours")
    if row:
        assert whose == SYMBOLS[row][1]


def test_the_rules_that_the_page_and_the_course_name_exist():
    texts = [PAGE, *(text_of_notebook(path) for path in NOTEBOOKS.glob("solutions/08_*.ipynb"))]
    for text in texts:
        for rule in re.findall(r"\b(?:rules?|\() ?([PTNSLIVMH]\d+)\b", text):
            assert rule in RULES
    named = set(re.findall(r"\b([PTNSLIVMH]\d{1,2})\b", texts[-1]))
    assert named & set(RULES)
