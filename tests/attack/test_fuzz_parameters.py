"""Options, parameters of notebooks, and notebooks that are broken: accepted, or one sentence."""

import ast
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import fields
from pathlib import Path

import nbformat
import papermill
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from htdg import HTDGConfig
from htdg.commands.cli import build_parser, main
from htdg.commands.common import config_from, given_options, name_or_list
from htdg.commands.notebooks import check_parameters, find_notebook, run_notebook
from htdg.course.files import notebook_folder
from htdg.datasets import load_dataset
from htdg.datasets.base import choose
from tests.attack.profile import (
    EDITS,
    HOSTILE,
    accepted_or_refused,
    edited,
    places,
    replace_at,
    tries,
)

pytestmark = pytest.mark.filterwarnings("ignore")
OPTIONS = [field.name for field in fields(HTDGConfig)]
#: What a shell can hand over, and what is hard to read as a number, a list or a literal.
WORDS = (
    st.text(st.characters(exclude_characters="\0"), max_size=12)
    | HOSTILE.filter(lambda value: value != 10**400).map(str)
    | HOSTILE.map(json.dumps)
    | st.sampled_from(
        [
            "[" * 10_000,
            "(" * 10_000,
            "-" * 10_000 + "1",
            "[" * 200 + "]" * 200,
            "{[]: 1}",
            "{{}}",
            "1" * 5000,
            "1e999",
            "-1e999",
            "nan",
            "1_000",
            "0x10",
            "٣",
            "[[0, 0, 0, 0, 0]]",
            "[[0, 0, 0, 0, 1e0]]",
            "[[0, 0, 0, 0, NaN]]",
            "[null]",
            '["\\ud800"]',
            "\udcff",
            "1 if",
            "__import__('os')",
            "x" * 300,
            "../" * 2000,
            "True",
            "None",
            "b'1'",
            "1j",
            "'" * 3,
            "\\",
        ]
    )
).map(lambda text: text.replace("\0", ""))


@contextmanager
def temporary() -> Iterator[Path]:
    """A folder with nothing in it."""
    with tempfile.TemporaryDirectory(prefix="htdg-attack-") as name:
        yield Path(name)


@contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Nothing is written to the screen; gives what would have been, for people to read."""
    errors = io.StringIO()
    with redirect_stderr(errors), redirect_stdout(io.StringIO()):
        yield errors


# --- Options ------------------------------------------------------------------------------------


@tries(300)
@given(values=st.lists(st.tuples(st.sampled_from(OPTIONS), WORDS), min_size=1, max_size=3))
def test_options_on_the_command_line_are_read_or_refused(values):
    words = ["train", "image.png", "--out", "model"]
    words += [f"--{name.replace('_', '-')}={text}" for name, text in values]
    options, code = None, 0
    with quiet() as errors:
        try:
            options = build_parser(["train"]).parse_args(words)
        except SystemExit as end:
            code = end.code
    if options is None:
        assert code == 2
        assert "error: argument --" in errors.getvalue()
        return
    with accepted_or_refused(repeats=True) as refusals:
        given_options(options)
        config = config_from(options)
    if not refusals:
        assert HTDGConfig(**json.loads(json.dumps(config.as_dict()))) == config


@tries(300)
@given(name=st.sampled_from(OPTIONS), value=HOSTILE)
def test_options_of_any_type_are_read_or_refused(name, value):
    with accepted_or_refused(repeats=True) as refusals:
        config = HTDGConfig(**{name: value})
    if not refusals:
        assert HTDGConfig(**json.loads(json.dumps(config.as_dict()))) == config


@tries(100)
@given(text=WORDS)
def test_a_name_or_a_list_is_always_something(text):
    value = name_or_list(text)
    assert value == text or isinstance(value, list)


@tries(150)
@given(
    normal_class=WORDS | st.integers() | st.none(),
    shots=st.integers() | HOSTILE,
    index=st.none() | st.integers() | HOSTILE,
    seed=st.none() | st.integers() | HOSTILE,
)
def test_images_are_chosen_or_refused(normal_class, shots, index, seed):
    with accepted_or_refused(repeats=True):
        assert load_dataset("digits").resolve_class(normal_class) in "0123456789"
    with accepted_or_refused(repeats=True):
        chosen = choose([str(n) for n in range(20)], shots, index, seed)
        assert len(chosen) == shots


@pytest.mark.parametrize("name", ["x" * 300, "a\nb", "\udcff", "-", "/dev/null", "/dev/null/x"])
@pytest.mark.parametrize("command", ["info", "run", "train", "calibrate"])
def test_odd_names_of_inputs_are_refused(command, name, tmp_path):
    words = {
        "info": ["info", name],
        "run": ["run", name, "--out", str(tmp_path / "out")],
        "train": ["train", name, "--out", str(tmp_path / "out"), "--preset", "tiny"],
        "calibrate": ["calibrate", str(tmp_path), name],
    }
    with quiet() as errors:
        try:
            code = main(words[command])
        except SystemExit as end:
            code = end.code
    assert code == 2
    assert errors.getvalue().startswith(("htdg: ", "usage: "))


# --- Parameters of notebooks --------------------------------------------------------------------

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
DEFAULTS = {"word": "a", "count": 2, "share": 0.5, "flag": False, "nothing": None, "many": [1]}


def parameter_cell(source: str):
    cell = new_code_cell(source)
    cell.metadata["tags"] = ["parameters"]
    return cell


def written(folder: Path, source: str) -> Path:
    """A notebook whose parameters are set by this source."""
    cells = [new_markdown_cell("# A page"), parameter_cell(source), new_code_cell("1 / 0")]
    path = folder / "small.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata=KERNEL), path)
    return path


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    lines = [f"{name} = {value!r}" for name, value in DEFAULTS.items()]
    return written(tmp_path_factory.mktemp("notebook"), "\n".join([*lines, 'out = ""']))


@tries(100)
@given(
    parameters=st.dictionaries(st.sampled_from(sorted(DEFAULTS)), WORDS, max_size=3),
    others=st.dictionaries(WORDS, WORDS, max_size=1) | st.just({}),
)
def test_parameters_are_read_or_refused(notebook, parameters, others):
    parameters = parameters | others
    with accepted_or_refused(repeats=True) as refusals:
        values = check_parameters(notebook, parameters)
    if not refusals:
        assert values.keys() == parameters.keys()
        for name, value in values.items():
            assert DEFAULTS[name] is None or type(value) is type(DEFAULTS[name])
            json.dumps(value) if DEFAULTS[name] is not None else repr(value)
            str(value).encode()


SOURCES = st.sampled_from(
    [
        "x = 1",
        "x: int = 1  # how many",
        "x = Path('a')",
        "x = [",
        "x = " + "[" * 500 + "]" * 500,
        "x = {[]: 1}",
        "x = 1 +",
        "x = 1j",
        "x = '\\ud800'",
        "x =",
        "= 1",
        "x = y = 1",
        "x, y = 1, 2",
        "x = '''a\nb'''",
        "x = 1e999",
        "x = " + "1" * 5000,
        "x = -" * 3000 + "1",
        "\0",
        "%matplotlib inline",
        "import os; x = os.getcwd()",
    ]
) | st.text(max_size=20).map("x = {}".format)


@tries(60)
@given(source=SOURCES, text=WORDS)
def test_defaults_of_any_kind_are_read_or_refused(source, text):
    with temporary() as folder:
        try:
            path = written(folder, source)
        except UnicodeEncodeError:  # no file holds it
            return
        with accepted_or_refused(repeats=True):
            check_parameters(path, {"x": text})


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("nothing", '"\\ud800"', "Parameter nothing is '\\ud800', which is no valid text"),
        ("word", "\udcff", "Parameter word is '\\udcff', which is no valid text"),
        ("share", "1" + "0" * 400, "must be of type float"),
        ("count", "{[]: 1}", "must be of type int"),
        ("count", "(" * 10_000, "must be of type int"),
        ("\udcff", "1", "has no parameter '\\udcff'"),
    ],
)
def test_odd_parameters_are_refused(notebook, name, text, sentence):
    with accepted_or_refused(repeats=True) as refusals:
        check_parameters(notebook, {name: text})
    assert sentence in str(refusals[0])


def test_what_a_notebook_leaves_must_be_a_result(tmp_path, monkeypatch):
    path = written(tmp_path, 'out = ""')

    def execute(path, executed, parameters, **_):
        executed.write_bytes(path.read_bytes())
        Path(parameters["out"], "result.json").write_text("[1]")

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    with accepted_or_refused(20) as refusals:
        run_notebook(path, tmp_path / "out")
    assert "holds no dictionary in JSON." in str(refusals[0])


# --- Notebooks ----------------------------------------------------------------------------------


@contextmanager
def nothing_is_executed() -> Iterator[None]:
    """Papermill writes its copy of a notebook with the parameters, and starts no kernel."""
    execute = papermill.execute_notebook
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            papermill, "execute_notebook", lambda *a, **k: execute(*a, **k, prepare_only=True)
        )
        yield


def check_notebook(path: Path, parameters: dict[str, str]) -> None:
    """It runs, as far as nothing is executed, or is refused."""
    out = path.parent / "out"
    with quiet(), nothing_is_executed(), accepted_or_refused(20, repeats=True) as refusals:
        run_notebook(path, out, parameters)
    assert refusals, "it wrote no result"
    text = str(refusals[0])
    event("runs" if "ran but wrote" in text else "refused")
    assert "ran but wrote no result.json" in text or not (out / "result.json").exists()


@tries(8)
@given(word=WORDS, nothing=WORDS)
def test_parameters_arrive_in_the_notebook(notebook, word, nothing):
    with temporary() as folder:
        path = folder / notebook.name
        path.write_bytes(notebook.read_bytes())
        check_notebook(path, {"word": word, "nothing": nothing})
        copy = folder / "out" / notebook.name
        if not copy.exists():
            return
        cells = nbformat.read(copy, as_version=4).cells
        lines = next(c for c in cells if "injected-parameters" in c.metadata.get("tags", ())).source
        namespace: dict[str, object] = {}
        exec(compile(ast.parse(lines), "parameters", "exec"), namespace)
        assert namespace["word"] == word


@tries(60)
@given(edits=EDITS, parameters=st.sampled_from([{}, {"count": "3"}]))
def test_bytes_of_a_notebook_are_changed(notebook, edits, parameters):
    with temporary() as folder:
        path = folder / "small.ipynb"
        path.write_bytes(edited(notebook.read_bytes(), edits))
        check_notebook(path, parameters)


@tries(60)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1), HOSTILE | st.just(...)), min_size=1, max_size=2),
    parameters=st.sampled_from([{}, {"count": "3"}]),
)
def test_values_of_a_notebook_are_changed(notebook, changes, parameters):
    with temporary() as folder:
        document = json.loads(notebook.read_text())
        for share, value in changes:
            paths = list(places(document))
            if paths:
                replace_at(document, paths[min(int(share * len(paths)), len(paths) - 1)], value)
        path = folder / "small.ipynb"
        path.write_text(json.dumps(document))
        check_notebook(path, parameters)


@tries(60)
@given(name=WORDS)
def test_a_notebook_is_looked_for_by_any_name(name):
    with accepted_or_refused(repeats=True):
        path = find_notebook(name)
        assert path.is_relative_to(notebook_folder())
