"""Notebook 08, the method from scratch: its checks, its answers, and that it is the method."""

import re
from types import SimpleNamespace

import nbformat
import pytest
import torch

from htdg import HTDGConfig
from htdg.backend import PlainBackend
from htdg.course import answers as answers_module
from htdg.course import checks_08 as checks
from htdg.course.answers import Answers, is_empty
from htdg.course.check import NotRight
from htdg.course.exercises import without_answers
from htdg.errors import UserError
from htdg.localisation import anomaly_map, pixel_votes
from htdg.training import LOSSES, start_scale
from tests.course import NOTEBOOKS, answers

NAME = "08_htdg_from_scratch"
SOLUTION = nbformat.read(NOTEBOOKS / "solutions" / f"{NAME}.ipynb", as_version=4)


@pytest.fixture(scope="module")
def course():
    """The functions of the solution."""
    return SimpleNamespace(**answers(NAME))


def images(side, count=2):
    rng = torch.Generator().manual_seed(0)
    return checks.resize(torch.rand(count, 3, 7, 7, generator=rng) * 2 - 1, side)


def config_of(**options):
    small = {"image_size": 30, "min_size": 18, "max_size": 24, "seed": 3, "device": "cpu"}
    small |= {"channels": 8}  # float64 is slow
    return HTDGConfig(**small | {"niter": 1, "precision": "float32", "fast": False} | options)


# --- It is the method ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transformations", "translation"),
    [("rgb54", "resampled"), ("grey42", "pixel"), ("rotations", "pixel")],
)
@checks.double_precision()
def test_first_losses_votes_and_maps_are_the_library_s(course, transformations, translation):
    config = config_of(transformations=transformations, translation=translation)
    catalogue = config.resolve_transformations(coloured=True)
    o = checks.as_options(config)
    sides = course.my_sides(o.image_size, o.min_size, o.max_size, o.scale_factor)
    assert tuple(sides) == config.sides
    mine, theirs = [], []
    for side in sides[:2]:
        s = course.start(o, tuple(mine), images(side))
        library = start_scale(config, catalogue, tuple(theirs), images(side))
        losses = course.one_iteration(s, o)
        library.step()
        expected = [library.history[name][0].item() for name in LOSSES]
        assert losses == pytest.approx(expected, abs=1e-4)
        s.g.eval(), s.d.eval()
        mine.append(s)
        theirs.append(checks.as_scale(s, o))

    backend = PlainBackend(config, catalogue, torch.device("cpu"))
    votes = [course.my_votes(s, images(s.side, 3), o) for s in mine]
    located = []
    for scale, of_scale in zip(theirs, votes, strict=True):
        library_votes = backend.voter(scale)(images(scale.side, 3))
        torch.testing.assert_close(of_scale.float(), library_votes, atol=1e-4, rtol=0)
        located.append(pixel_votes(library_votes, catalogue, scale.side, translation))
    maps = course.my_map(votes, sides[:2], (33, 29), o)
    for i in range(3):
        expected = anomaly_map([pixels[i] for pixels in located], (33, 29))
        torch.testing.assert_close(maps[i].float(), expected.float(), atol=1e-4, rtol=0)


@checks.double_precision()
def test_the_first_losses_notice_a_wrong_rule(course):
    """So that the comparison above means something."""
    config = config_of(transformations="rotations")
    o = checks.as_options(config)
    for wrong in ({"d_steps": 2}, {"lr_d": 1e-3}, {"beta1": 0.9}, {"seed": 4}):
        library = start_scale(config, config.resolve_transformations(True), (), images(18))
        library.step()
        o_wrong = SimpleNamespace(**vars(o) | wrong)
        losses = course.one_iteration(course.start(o_wrong, (), images(18)), o_wrong)
        expected = [library.history[name][0].item() for name in LOSSES]
        assert losses != pytest.approx(expected, abs=1e-4), wrong


def test_the_catalogue_and_the_options_of_the_page_are_the_paper_s():
    names = {}
    for cell in SOLUTION["cells"]:
        if cell["id"] in ("catalogue", "options"):
            exec(cell["source"], names)
    config = HTDGConfig.preset("paper_rgb")
    assert names["catalogue"] == checks.as_options(config).transformations
    assert names["paper"] == {name: getattr(config, name) for name in checks.OPTIONS}


def test_the_code_is_as_long_as_the_page_says():
    sources = Answers(NAME, {}).sources().values()
    text = re.sub(r'"""[^"]*"""', "", "\n".join(sources))
    lines = [line for line in text.splitlines() if line.strip() and line.strip()[0] != "#"]
    stated = int(re.search(r"some (\d+) lines", SOLUTION["cells"][0]["source"])[1])
    assert abs(len(lines) - stated) < 10


# --- What the checks say ------------------------------------------------------------------------


def wrong(course, name, old, new):
    """The course's function of this name with a mistake, among the right others."""
    source = Answers(NAME, {}).sources()[name]
    assert source.count(old) >= 1, old
    names = dict(vars(course))
    exec(source.replace(old, new), names)
    return names[name]


@pytest.mark.parametrize(
    ("check", "name", "old", "new", "said"),
    [
        ("sides", "my_sides", "round(top * r ** (steps - n), 9)", "top * r ** (steps - n)", "P5"),
        ("sides", "my_sides", "levels - cut,", "levels - cut + 1,", "you return"),
        ("sides", "my_sides", "levels - cut,", "levels - cut, top - min_size,", "P5 allows"),
        ("shift", "shift", "arange(n) - t", "arange(n) + t", "wrong way"),
        ("shift", "shift", "-1 - p", "-p", "not at the border"),
        ("shift", "shift", "t * distance(n, translation)", "t * int(0.15 * n)", "T4"),
        ("shift", "shift", "images[..., ", "images.mT[..., ", "not those of the library"),
        ("transform", "transform", "rot90(images, k", "rot90(images, -k", "T_2, "),
        ("transform", "transform", "0.299 * red", "0.587 * red", "T_43, "),
        ("network", "network", "isinstance(layer, nn.BatchNorm2d)", "False", r"N\(1, 0.02\)"),
        ("network", "network", "LeakyReLU(0.2)", "LeakyReLU(0.1)", "slope"),
        ("network", "network", "width, 3), nn.B", "width, 3, padding=1), nn.B", "without padding"),
        ("network", "network", "** -0.5", "** -1", "bias of layer 0, Conv2d, .* N5"),
        ("network", "network", "normal_(1, ", "normal_(0, ", "weight of layer 1, BatchNorm2d"),
        ("generate", "generate_image", ")) + previous", "))", "missing from the output"),
        ("generate", "generate_image", "index.to(x.dtype)", "(0 * index).to(x.dtype)", "N8"),
        ("patch_loss", "patch_loss", "-log_p", "log_p", "sign"),
        ("patch_loss", "patch_loss", "if real", "if not real", "exchanged"),
        ("patch_loss", "patch_loss", "repeat_interleave(b)", "repeat(b)", "under T_1 first"),
        ("climb", "climb", "return resize(image, side)", "return image", "shape"),
        ("climb", "climb", "s.sigma[index]", "s.sigma[0 * index]", "sigma"),
        ("start", "start", "s.g.load_state_dict", "str", "coarser scale"),
        ("start", "start", "if coarser else torch.ones(len(real))", "", "s.sigma of scale 0"),
        ("start", "start", "o.lr_d, (o.beta1, o.beta2)", "o.lr_d", "betas"),
        ("start", "start", "2 ** (n // 4)", "3", "s.width of scale 0"),
        ("start", "start", "o.channels * 2 ** (n // 4)", "o.channels", "s.width of scale 4"),
        ("start", "start", ", o.image_size)", ", 999)", "s.width of scale 4"),
        ("start", "start", "coarser[-1].width == s.width", "True", "do not fit scale 4"),
        ("start", "start", "len(o.transformations) + 1", "4", r"other sizes .* M \+ 1 out"),
        ("d_step", "d_step", "with torch.no_grad()", "if True", "gradient has gone to G"),
        ("d_step", "d_step", "on_real.backward()", "pass", "gradients are not"),
        ("d_step", "d_step", "s.adam_d.zero_grad()", "pass", "those of the step before"),
        ("d_step", "d_step", "s.adam_d.step()", "pass", "moved"),
        ("d_step", "d_step", "on_real.item(), on_fake.item()", "on_real, on_fake", "as numbers"),
        ("d_step", "d_step", "noise, previous, s.index", "noise, noise, s.index", "the second is"),
        ("d_step", "d_step", "on_real.item(), on_fake", "on_fake.item(), on_real", "exchanged"),
        ("g_step", "g_step", "s.adam_g.zero_grad()", "pass", "those of the step before"),
        ("g_step", "g_step", "s.d.requires_grad_(True)", "pass", "stays fixed"),
        ("g_step", "g_step", ".square().mean()", ".abs().mean()", "mean squared difference"),
        ("g_step", "g_step", "reconstruction.item()", "o.alpha * reconstruction.item()", "alpha"),
        ("g_step", "g_step", "(adversarial + o.alpha", "(o.alpha", "gradients are not"),
        ("iteration", "one_iteration", "previous[step]", "previous[0]", "losses of scale 1"),
        ("iteration", "one_iteration", "s.iteration += 1", "pass", "s.iteration"),
        ("iteration", "one_iteration", ">= o.milestone_d", "> o.milestone_d", "learning rates"),
        ("iteration", "one_iteration", "repeat(o.d_steps)", "repeat(1)", "other noise"),
        ("train", "train", "net.eval()", "net", "evaluation mode"),
        ("train", "train", ".requires_grad_(False)", "", "not fixed"),
        ("train", "train", "tuple(scales)", "()", "all coarser"),
        ("votes", "my_votes", "logits[:, :, :m]", "logits", '"generated"'),
        (
            "normality",
            "normality",
            "max(1, int(ordered.shape[2] * fraction))",
            "int(2)",
            "you return",
        ),
        ("normality", "normality", "max(1, ", "max(0, ", "V5"),
        ("normality", "normality", ".sum(dim=0)", ".mean(dim=0)", "V3"),
        ("undo", "undo", "rot90(votes, -k", "rot90(votes, k", "T_2, "),
        ("undo", "undo", "masked_fill(~counts, torch.nan)", "clone()", "M2"),
        ("map", "my_map", "return 1 - total / len(sides)", "return total / len(sides)", "1 - the"),
        ("map", "my_map", "nanmean", "mean", "NaN"),
    ],
)
def test_a_typical_mistake_is_named(course, check, name, old, new, said):
    examine = getattr(checks, f"check_{check}")
    answer = wrong(course, name, old, new)
    with pytest.raises(NotRight, match=said) as refused:
        examine(answer)
    assert len(str(refused.value)) > 20


# --- The course's answers ------------------------------------------------------------------------


def empty_notebook():
    """The variables of somebody who has run all exercises without doing any."""
    names = {}
    for cell in without_answers(SOLUTION)["cells"]:
        first = cell["source"].startswith(("import", "from"))
        if cell["cell_type"] == "code" and (
            first or "exercise" in cell["metadata"].get("tags", [])
        ):
            exec(cell["source"], names)
    return names


def test_empty_functions_are_filled_in_and_the_reader_s_stay(capsys):
    names = empty_notebook()
    mine = names["shift"] = lambda images, t, translation: images
    for name in Answers(NAME, {}).sources():
        assert name == "shift" or is_empty(names[name]), name  # with a decorator, too
    assert not is_empty(mine)
    course_answers = Answers(NAME, names)
    course_answers.fill_in()
    assert names["shift"] is mine
    assert names["my_sides"](128, 25, 64, 0.75) == [25, 32, 40, 51, 64]
    said = capsys.readouterr().out
    assert said.startswith("the course's functions: my_sides, transform, network, ")
    assert "shift" not in said
    # Functions that were filled in find each other, and the reader's.
    o = SimpleNamespace(transformations=[(0, 0, 1, 0, 0)], translation="pixel")
    assert torch.equal(names["copies_of"](images(9), o)[0], images(9))

    names["my_sides"] = mine
    course_answers.fill_in()
    assert capsys.readouterr().out.startswith("the course's functions: transform, network, ")


def test_functions_of_later_sections_are_left_alone(capsys):
    names = {"my_sides": empty_notebook()["my_sides"]}
    Answers(NAME, names).fill_in()
    assert "shift" not in names
    assert capsys.readouterr().out == "the course's functions: my_sides\n"


def test_nothing_to_fill_in_needs_no_answers(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(answers_module, "notebook_folder", lambda: tmp_path)
    Answers(NAME, {"my_sides": len}).fill_in()
    assert capsys.readouterr().out == "the course's functions: none, all are yours\n"
    with pytest.raises(UserError, match="write all functions yourself"):
        Answers(NAME, empty_notebook()).fill_in()


def test_an_answer_is_revealed_whole(capsys):
    Answers(NAME, {}).reveal("shift")
    printed = capsys.readouterr().out
    assert "def distance(" in printed
    assert "def shift(" in printed
    assert "###" not in printed
    with pytest.raises(UserError, match="no function 'shfit': choose from my_sides, "):
        Answers(NAME, {}).reveal("shfit")
