"""README and docs/: what they name exists, what they show runs, and nothing is left unexplained."""

import ast
import dataclasses
import importlib
import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import htdg
from htdg import HTDGConfig, HTDGDetector
from htdg.backend import Backend
from htdg.commands.cli import COMMANDS, build_parser, main
from htdg.localisation import SPREAD
from htdg.networks import SLOPE, Discriminator, initialise
from htdg.transformations import SHIFT, transformations_named
from tests.test_imports import METHOD, ROOMS

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [
    ROOT / "README.md",
    ROOT / "SECURITY.md",
    *DOCS,
    *(ROOT / folder / "README.md" for folder in ("notebooks", "data", "benchmarks")),
]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
README, OPTIONS = TEXTS[ROOT / "README.md"], TEXTS[ROOT / "docs" / "options.md"]
#: As the command line of the official implementation has them.
OFFICIAL_OPTIONS = (
    *("min_size", "max_size", "niter", "niter_gray", "niter_rgb", "num_images", "size_image"),
    *("fraction_defect", "pos_class", "dataset", "random_images_download", "index_download"),
    *("num_transforms", "device_ids", "scale_factor", "noise_amp", "alpha", "lr_g", "lr_d"),
    *("Gsteps", "Dsteps"),
)

NOTEBOOKS = sorted((ROOT / "notebooks").rglob("[0-9a-z]*.ipynb"))


def text_of_notebook(path):
    """What a reader sees of a notebook: its cells, Markdown and code, and the outputs in words."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        parts.append("".join(cell["source"]))
        for output in cell.get("outputs", []):
            parts.append("".join(output.get("text", [])))
            words = [kind for kind in output.get("data", {}) if kind.startswith("text/")]
            parts += ["".join(output["data"][kind]) for kind in words]
    return "\n\n".join(parts)


TEXTS_OF_NOTEBOOKS = {path: text_of_notebook(path) for path in NOTEBOOKS}
every_notebook = pytest.mark.parametrize(
    "notebook", NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT))
)
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


def code_of(text):
    """What stands between backticks or in blocks of code."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    text = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.M | re.S)
    indented = re.findall(r"^    .*$", text, re.M)
    return [*fenced, *indented, *re.findall(r"`([^`]+)`", text)]


def table_rows(text):
    """The cells of every row of every table, heads included."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line[1:-1])] for line in lines]


@cache
def anchors(page):
    """What GitHub calls the headings of a page."""
    text = re.sub(r"^```\w*\n.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    slugs = []
    for heading in re.findall(r"^#+ (.*)$", text, re.M):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        slugs.append(f"{slug}-{slugs.count(slug)}" if slug in slugs else slug)
    return slugs


def module_and_names(dotted):
    """The module that a dotted name begins with, and the names that follow."""
    words = dotted.split(".")
    for count in range(len(words), 0, -1):
        try:
            return importlib.import_module(".".join(words[:count])), words[count:]
        except ModuleNotFoundError:
            continue
    raise AttributeError(dotted)


def resolve(dotted):
    """What a name such as ``htdg.config.HTDGConfig.preset`` means; AttributeError if nothing."""
    target, names = module_and_names(dotted)
    for name in names:
        target = member(target, name)
    return target


def member(owner, name):
    """An attribute, also one that only instances of a dataclass have."""
    if dataclasses.is_dataclass(owner):
        fields = {field.name: field for field in dataclasses.fields(owner)}
        if name in fields:
            return fields[name]
    return getattr(owner, name)


# --- What the pages name ------------------------------------------------------------------------


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 130


@every_page
def test_links_lead_somewhere(page):
    text = re.sub(r"^```\w*\n.*?^```", "", TEXTS[page], flags=re.M | re.S)
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


def test_the_index_lists_every_page_of_docs():
    index = TEXTS[ROOT / "docs" / "README.md"]
    for page in DOCS:
        if page.name != "README.md":
            assert f"]({page.name})" in index, page
            assert f"](docs/{page.name})" in README, page


def test_the_readme_lists_every_notebook():
    notebooks = ROOT / "notebooks"
    for path in [*notebooks.glob("*.ipynb"), *(notebooks / "runs").glob("*.ipynb")]:
        assert f"]({path.relative_to(ROOT).as_posix()})" in README, path


def files_named_in(text):
    """Paths such as ``htdg/pyramid.py`` in a text."""
    text = re.sub(r"\]\([^)]*\)", "]", text)  # links are relative to their page
    folders, endings = "htdg|docs|tests|benchmarks|notebooks|data", "py|c|npz|npy|json|md|ipynb"
    return re.findall(rf"(?<![\w/.])((?:{folders})/[\w/.-]+\.(?:{endings}))\b", text)


def dotted_names_in(code):
    """Names such as ``htdg.pyramid.resize`` in a text."""
    return re.findall(r"(?<![\w/.-])htdg(?:\.[A-Za-z_]\w*)+(?!\w)", code)


@every_page
def test_files_that_are_named_exist(page):
    for path in files_named_in(TEXTS[page]):
        assert (ROOT / path).is_file(), path


@every_notebook
def test_files_that_notebooks_name_exist(notebook):
    for path in files_named_in(TEXTS_OF_NOTEBOOKS[notebook]):
        assert (ROOT / path).is_file(), path


@every_page
def test_dotted_names_exist(page):
    for code in code_of(TEXTS[page]):
        for dotted in dotted_names_in(code):
            resolve(dotted)


@every_notebook
def test_dotted_names_in_notebooks_exist(notebook):
    for dotted in dotted_names_in(TEXTS_OF_NOTEBOOKS[notebook]):
        resolve(dotted)


@every_notebook
def test_methods_of_the_detector_that_notebooks_name_exist(notebook):
    for name in re.findall(r"\b(?:detector|HTDGDetector)\.(\w+)", TEXTS_OF_NOTEBOOKS[notebook]):
        assert hasattr(HTDGDetector, name) or name in vars(HTDGDetector("tiny")), name


def test_names_that_are_gone_are_named_nowhere():
    for path, text in {**TEXTS, **TEXTS_OF_NOTEBOOKS}.items():
        gone = re.findall(r"[`.](?:judge|Verdict|real_classes|HTDGConfig\.ignored)\b", text)
        assert not gone, (path, gone)


def test_all_of_a_notebook_is_looked_at(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["see `htdg/gone_1.py`"]},
        {
            "cell_type": "code",
            "source": ["import htdg.gone_2\n", "htdg.gone_3"],
            "outputs": [
                {"output_type": "stream", "text": ["htdg.gone_4\n", "htdg.gone_5"]},
                {"data": {"text/html": ["<b>htdg/gone_6.c</b>"], "image/png": "htdg.gone_7"}},
            ],
        },
    ]
    path = tmp_path / "notebook.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    text = text_of_notebook(path)
    assert files_named_in(text) == ["htdg/gone_1.py", "htdg/gone_6.c"]
    assert dotted_names_in(text) == [f"htdg.gone_{i}" for i in (2, 3, 4, 5)]


@every_page
def test_imports_that_are_shown_work(page):
    for code in code_of(TEXTS[page]):
        for module, names in re.findall(r"^from (htdg[\w.]*) import ([\w, ]+)$", code, re.M):
            for name in names.split(","):
                resolve(f"{module}.{name.strip()}")


@every_page
def test_commands_and_their_options_exist(page):
    commands = build_parser()._subparsers._group_actions[0].choices
    for line in re.findall(r"^    (?:\.venv/bin/)?htdg (.*(?:\\\n.*)*)", TEXTS[page], re.M):
        words = line.replace("\\\n", " ").partition("#")[0].split()
        assert words[0] in commands, line
        options = commands[words[0]]._option_string_actions
        for word in words[1:]:
            if re.match(r"--?[a-z]", word):
                assert word in options, f"htdg {words[0]} has no {word}"


@every_page
def test_make_targets_exist(page):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    for code in code_of(TEXTS[page]):
        for target in re.findall(r"^ *make ([a-z-]+)", code, re.M):
            assert target in targets, target


def test_every_command_is_named():
    pages = "".join(TEXTS.values())
    for command in COMMANDS:
        assert re.search(rf"\bhtdg {command.name}\b", pages), command.name


@every_page
def test_no_page_has_a_gap_to_be_filled(page):
    assert not re.search(r"PLACEHOLDER|TODO|TBD", TEXTS[page])


# --- Nothing is left unexplained ----------------------------------------------------------------


def explained_options():
    """The rows of the table of all options, by the options that they explain."""
    rows = [row for row in table_rows(OPTIONS) if len(row) == 4]
    return {name: row for row in rows for name in re.findall(r"`(\w+)`", row[0])}


def test_every_option_is_explained_with_its_default():
    rows, defaults = explained_options(), HTDGConfig()
    assert rows.keys() == {field.name for field in dataclasses.fields(HTDGConfig)}
    for name, row in rows.items():
        shared = re.findall(r"`(\w+)`", row[0])
        stated = row[1].split(", ")[shared.index(name)].strip("`")
        default = getattr(defaults, name)
        if isinstance(default, bool):
            assert stated == ("on" if default else "off"), name
        else:
            assert type(default)(stated) == default, name


@pytest.mark.parametrize("option", OFFICIAL_OPTIONS)
def test_every_official_option_has_its_counterpart(option):
    of_the_method = [row for row in explained_options().values() if f"`{option}`" in row[3]]
    others = [row for row in table_rows(OPTIONS) if len(row) == 2 and row[0] == f"`{option}`"]
    assert of_the_method or others
    assert all("--" in row[1] for row in others)


def test_every_preset_is_explained():
    rows = [row[0].strip("`") for row in table_rows(OPTIONS) if len(row) == 2]
    assert set(htdg.PRESETS) <= set(rows)


def test_every_environment_variable_is_explained():
    sources = [*(ROOT / "htdg").rglob("*.py"), *(ROOT / "htdg").rglob("*.c")]
    used = {
        name for path in sources for name in re.findall(r"\bHTDG_[A-Z]+\b", path.read_text("utf-8"))
    }
    rows = [row[0] for row in table_rows(OPTIONS) if len(row) == 2]
    assert used == {name for row in rows for name in re.findall(r"\bHTDG_[A-Z]+\b", row)}


def test_every_key_of_metrics_json_is_explained(tmp_path):
    options = {"limit_per_kind": 2, "defect_fraction": (0.1, None), "progress": False}
    options |= {"data_root": ROOT / "data", "normal_class": "brick", "overwrite": True}
    config = HTDGConfig.preset("tiny", niter=1)
    metrics = htdg.evaluate("textures", tmp_path / "run", config, **options)
    text = TEXTS[ROOT / "docs" / "data_sets.md"]
    explained = {
        name
        for row in table_rows(text.partition("## metrics.json")[2].partition("\n## ")[0])
        for name in re.findall(r"`(\w+)`", row[0])
    }
    assert explained == metrics.keys()


# --- The architecture: where everything is -------------------------------------------------------

ARCHITECTURE = TEXTS[ROOT / "docs" / "architecture.md"]


def section(title):
    """A section of the page on the architecture."""
    _, heading, text = ARCHITECTURE.partition(f"\n## {title}\n")
    assert heading, title
    return text.partition("\n## ")[0]


def symbol_rows():
    """The rows on symbols and rules: name -> (meaning, whose, dotted names below ``htdg``)."""
    rows = {}
    for row in table_rows(section("Where each symbol and rule is")):
        if row[0] != "symbol or rule" and set(row[0]) != {"-"}:
            name, meaning, whose, where = row
            assert name not in rows, name
            rows[name] = (meaning, whose, re.findall(r"`([\w.]+)`", where))
    return rows


SYMBOLS = symbol_rows()
#: What a reader looks for, and a name that its row must have.
WHERE = {
    "s": "config.HTDGConfig.image_size",
    "n = 0 .. N": "pyramid.pyramid_sides",
    "r": "config.HTDGConfig.scale_factor",
    "strictly rising sides": "pyramid.pyramid_sides",
    "x^n": "pyramid.build_pyramid",
    "resizing": "pyramid.resize",
    "T_1 .. T_M": "transformations.CATALOGUE",
    "T_m(x)": "transformations.Transformation.apply",
    "order within T_m": "transformations.Transformation.apply",
    "translation `resampled`": "transformations.TRANSLATIONS",
    "translation `pixel`, `stretched`": "transformations.TRANSLATIONS",
    "G^n": "networks.Generator",
    "D^n": "networks.Discriminator",
    "11 x 11": "networks.PatchNetwork",
    "width": "config.HTDGConfig.width",
    "largest width": "config.HTDGConfig.width",
    "extra input channel": "networks.Generator.forward",
    "initialisation": "networks.initialise",
    "z": "sampling.random_noise",
    "z*": "sampling.reconstruction_noise",
    "sigma_n": "sampling.noise_amplitudes",
    "G^0 .. G^N": "sampling.generate",
    "samples of other sizes": "sampler.sample_sizes",
    "K; x_1 .. x_K": "training.ScaleTraining.real",
    "loop over the scales": "training.train_pyramid",
    "freezing": "sampling.freeze",
    "carrying weights over": "training.start_scale",
    "what a scale is made of": "sampling.empty_scale",
    "niter": "training.train_scale",
    "iteration": "training.ScaleTraining.step",
    "noise of an iteration": "training.ScaleTraining.draw_previous",
    "real loss": "losses.real_loss",
    "generated loss": "losses.generated_loss",
    "D step": "training.ScaleTraining.d_step",
    "G step": "training.ScaleTraining.g_step",
    "alpha": "config.HTDGConfig.alpha",
    "batch statistics": "training.ScaleTraining",
    "running statistics": "sampling.freeze",
    "optimiser": "backend.PlainBackend.optimiser",
    "learning rates": "config.HTDGConfig.lr_d",
    "milestones": "training.learning_rates",
    r"p(m \| patch)": "votes.votes_from_logits",
    'softmax without "generated"': "votes.votes_from_logits",
    "score at scale n": "votes.aggregate_votes",
    "defect fraction": "votes.aggregate_votes",
    "score of an image": "detector.HTDGDetector.score_samples",
    "anomaly score": "votes.anomaly_scores",
    "T_m^-1": "transformations.Transformation.undo",
    "average": "localisation.patch_votes",
    "spread": "localisation.SPREAD",
    "anomaly map": "localisation.anomaly_map",
    "threshold": "thresholds.upper_quantile",
    "Table 6, a to g": "ablations.variants.VARIANTS",
    "options without effect": "ablations.variants.ignored_options",
}
PAPER = HTDGConfig.preset("paper_rgb")
#: Numbers that the rows state, as the code has them.
NUMBERS = {
    "s": (PAPER.image_size,),
    "n = 0 .. N": (PAPER.min_size, PAPER.max_size),
    "r": (PAPER.min_size, PAPER.scale_factor),
    "T_1 .. T_M": [len(transformations_named(n)) for n in ("rgb54", "grey42", "rotations")],
    "translation": (SHIFT,),
    "11 x 11": (PAPER.layers,),
    "layer": (SLOPE,),
    "width": (PAPER.channels,),
    "sigma_n": (PAPER.noise_amplitude,),
    "niter": (PAPER.niter, HTDGConfig.preset("paper_grey").niter),
    "iteration": (PAPER.d_steps, PAPER.g_steps),
    "alpha": (PAPER.alpha,),
    "optimiser": (PAPER.beta1, PAPER.beta2),
    "learning rates": (PAPER.lr_d, PAPER.lr_g),
    "milestones": (PAPER.gamma, PAPER.milestone_d, PAPER.milestone_g),
    "spread": (SPREAD,),
}


@pytest.mark.parametrize("symbol", WHERE)
def test_every_symbol_and_rule_has_a_row(symbol):
    assert WHERE[symbol] in SYMBOLS[symbol][2]


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_every_symbol_and_rule_is_where_the_architecture_says(symbol):
    meaning, whose, names = SYMBOLS[symbol]
    assert meaning
    assert whose in ("paper", "official", "ours")
    assert names
    for name in names:
        resolve(f"htdg.{name}")
        # In that file, not merely imported there.
        module, (outermost, *_) = module_and_names(f"htdg.{name}")
        source = Path(module.__file__).read_text(encoding="utf-8")
        assert re.search(rf"^(?:class |def )?{outermost}\b", source, re.M), name


@pytest.mark.parametrize("symbol", NUMBERS)
def test_numbers_of_the_architecture_are_those_of_the_code(symbol):
    stated = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", SYMBOLS[symbol][0])]
    for number in NUMBERS[symbol]:
        assert number in stated


def test_initialisation_is_as_stated():
    mean_and_deviation = re.findall(r"N\((\d), ([\d.]+)\)", SYMBOLS["initialisation"][0])
    network = Discriminator(width=100, n_transformations=9)
    initialise(network, torch.Generator().manual_seed(0))
    weights = [network.blocks[1].conv.weight, torch.cat([b.norm.weight for b in network.blocks])]
    for values, (mean, deviation) in zip(weights, mean_and_deviation, strict=True):
        assert values.mean().item() == pytest.approx(float(mean), abs=0.004)
        assert values.std().item() == pytest.approx(float(deviation), rel=0.1)


def test_the_method_is_listed_whole():
    place = table_rows(section("Rooms"))[2][0]
    assert sorted(re.findall(r"`(\w+)`", place)) == sorted(METHOD)


def test_the_reading_order_names_every_file_once():
    files = re.findall(r"`htdg/(\w+)\.py`", section("Reading order"))
    estimator = ROOMS["detector"][0]
    assert sorted(files) == sorted({*METHOD, *estimator} - {"errors", "version"})
    numbers = re.findall(r"^(\d+)\. ", section("Reading order"), re.M)
    assert numbers == [str(n) for n in range(1, len(numbers) + 1)]


def test_the_sides_that_the_page_on_faithfulness_states_are_ours():
    text = " ".join(TEXTS[ROOT / "docs" / "faithfulness.md"].split())
    image_size, stated = re.search(r"`image_size` (\d+) ours are ([\d, ]+\d) and", text).groups()
    assert HTDGConfig(image_size=int(image_size)).sides == tuple(map(int, stated.split(", ")))


def test_every_method_of_a_backend_is_explained():
    rows = table_rows(section("The Backend interface"))[2:]
    explained = {row[0].strip("`").partition("(")[0] for row in rows}
    methods = {name for name in vars(Backend) if not name.startswith("_")}
    assert explained == methods


# --- What the pages show ------------------------------------------------------------------------


def write_image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """The image files that the examples name, in the working folder."""
    monkeypatch.chdir(tmp_path)
    names = ("good.png", "a.png", "b.png", "held_out/1.png", "held_out/2.png", "photos/1.png")
    for seed, name in enumerate(names):
        write_image(tmp_path / name, seed)
    return tmp_path


def python_blocks(page):
    """The Python of a page, with the preset that trains in seconds."""
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    return [block.replace('"tutorial"', '"tiny"') for block in blocks]


def check_comment(value, comment):
    """Hold a value against a comment such as ``(1, H, W) in [0, 1]``; returns the value."""
    if shape := re.match(r"\(([\w +]+(?:, [\w +]+)*),?\)", comment):
        sizes = shape[1].split(", ")
        assert len(np.shape(value)) == len(sizes), comment
        for size, stated in zip(np.shape(value), sizes, strict=True):
            assert not stated.isdigit() or size == int(stated), comment
    if limits := re.search(r"in \[0, (\w+)\]", comment):
        assert np.min(value) >= 0, comment
        assert not limits[1].isdigit() or np.max(value) <= int(limits[1]), comment
    if "+1 normal" in comment:
        assert set(np.ravel(value)) <= {1, -1}, comment
    return value


class CheckComments(ast.NodeTransformer):
    """Has every value that stands beside a comment held against it."""

    def __init__(self, source):
        self.lines = source.splitlines()

    def checked(self, node):
        _, marked, comment = self.lines[node.end_lineno - 1].partition("  # ")
        if marked:
            call = ast.parse("check_comment(0, 0)", mode="eval").body
            call.args = [node.value, ast.Constant(comment)]
            node.value = call
        return node

    visit_Expr = visit_Assign = checked


def run_block(source, name, names):
    """Execute a block of Python whose variables are ``names``; comments must be true."""
    tree = ast.fix_missing_locations(CheckComments(source).visit(ast.parse(source)))
    names["check_comment"] = check_comment
    exec(compile(tree, name, "exec"), names)


def test_the_python_of_the_readme_runs(photographs):
    (block,) = python_blocks(README)
    names = {}
    run_block(block, "README.md", names)
    assert names["scores"].shape == (2,)
    assert names["maps"].shape == (1, 24, 24)


def test_the_python_of_the_api_page_runs(photographs):
    names = {}
    for number, block in enumerate(python_blocks(TEXTS[ROOT / "docs" / "python_api.md"]), start=1):
        run_block(block, f"python_api.md, block {number}", names)
    assert len(names["search"].cv_results_["mean_test_score"]) == 2


def test_a_wrong_comment_is_noticed():
    for comment in ("(3,)", "(2, N + 1)", "(2,), in [0, 1]", "(2,): +1 normal, -1 anomalous"):
        with pytest.raises(AssertionError):
            run_block(f"[5, 1.0]  # {comment}", "a block", {})
    run_block("[0, 1]  # (2,), in [0, 1]: higher is more", "a block", {})


def test_the_commands_of_the_readme_run(photographs, capsys):
    part = README.partition("## On your own images")[2].partition("```")[0]
    lines = re.findall(r"^    htdg (.*)$", part, re.M)
    assert [line.split()[0] for line in lines] == ["train", "calibrate", "score", "sample", "info"]
    for line in lines:
        words = line.split()
        assert main(words + ["--preset", "tiny"] * (words[0] == "train")) == 0, line
    assert (photographs / "scores.csv").read_text().count("\n") == 2
    assert "held-out images" in capsys.readouterr().out


def test_the_data_set_of_the_data_sets_page_can_be_registered():
    from htdg.datasets import base

    blocks = python_blocks(TEXTS[ROOT / "docs" / "data_sets.md"])
    names, before = {}, dict(base._REGISTRY)
    try:
        exec(compile(blocks[-1], "data_sets.md", "exec"), names)
        assert "squares" in htdg.datasets.dataset_names()
        htdg.datasets.load_dataset("squares")
    finally:
        base._REGISTRY.clear()
        base._REGISTRY.update(before)
