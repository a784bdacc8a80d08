"""The machinery of the course: exercises made from solutions, self-checks, figures, clean pages."""

import base64
import json
import math
import re

import nbformat
import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from htdg.course import exercises, show
from htdg.course.check import STUB, NotRight, check, expect
from htdg.course.execute import WIDGET, cleaned
from tests.course import NOTEBOOKS, answers, auroc, self_checks

SOLUTIONS = sorted((NOTEBOOKS / "solutions").glob("*.ipynb"))
ANSWER = '''def double(x):
    """Twice x."""
    ### BEGIN SOLUTION
    two = 2
    return two * x
    ### END SOLUTION
'''


def notebook_of(*cells):
    """A notebook of code cells: (source, tags)."""
    book = nbformat.v4.new_notebook()
    for number, (source, tags) in enumerate(cells):
        cell = nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)}, id=f"c{number}")
        cell["execution_count"] = 7
        cell["outputs"] = [nbformat.v4.new_output("stream", text="4")]
        book["cells"].append(cell)
    return book


def test_the_exercise_version_has_no_answers():
    book = notebook_of(("import math", []), (ANSWER, ["exercise"]), ("x = 1", ["solution"]))
    exercise_book = exercises.without_answers(book)
    assert [c["source"] for c in exercise_book["cells"]] == [
        "import math",
        'def double(x):\n    """Twice x."""\n    raise NotImplementedError("your code here")\n',
    ]
    assert all(c["outputs"] == [] and c["execution_count"] is None for c in exercise_book["cells"])
    assert book["cells"][1]["source"] == ANSWER  # the solution stays as it was


def test_links_out_of_the_solutions_are_one_step_shorter_in_the_exercises():
    book = notebook_of((ANSWER, ["exercise"]))
    text = "[a](../../docs/glossary.md) [b](../README.md) [c](08_x.ipynb)"
    book["cells"].append(nbformat.v4.new_markdown_cell(text))
    made = exercises.without_answers(book)["cells"][-1]["source"]
    assert made == "[a](../docs/glossary.md) [b](README.md) [c](08_x.ipynb)"


@pytest.mark.parametrize("name", [f"{number:02}_" for number in range(10)])
def test_links_of_notebooks_lead_somewhere(name):
    for path in NOTEBOOKS.rglob(f"{name}*.ipynb"):
        for cell in nbformat.read(path, as_version=4)["cells"]:
            targets = re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", cell["source"])
            missing = [target for target in targets if not (path.parent / target).exists()]
            assert cell["cell_type"] == "code" or missing == [], path


def test_the_answer_is_the_cell_without_marks():
    defined = {}
    exec(exercises.answer_of(ANSWER), defined)
    assert defined["double"](4) == 8
    assert "###" not in exercises.answer_of(ANSWER)


@pytest.mark.parametrize("cell", [(ANSWER, []), ("x = 1", ["exercise"])])
def test_answers_and_tags_go_together(cell):
    with pytest.raises(ValueError, match=r"Cell 0 has [01] answers .* an exercise has both"):
        exercises.without_answers(notebook_of(cell))


def test_the_command_writes_and_notices_what_is_out_of_date(tmp_path, capsys):
    (tmp_path / "solutions").mkdir()
    solution = tmp_path / "solutions" / "09_x.ipynb"
    nbformat.write(notebook_of((ANSWER, ["exercise"])), solution)
    words = ["--folder", str(tmp_path)]
    assert exercises.main([*words, "--check"]) == 1
    assert "09_x.ipynb: out of date" in capsys.readouterr().err
    assert not (tmp_path / "09_x.ipynb").exists()
    assert exercises.main(words) == 0
    assert exercises.main([*words, "--check"]) == 0
    # Executing changes no source; the exercise version stays in step.
    book = nbformat.read(tmp_path / "09_x.ipynb", as_version=4)
    book["cells"][0]["execution_count"] = 1
    nbformat.write(book, tmp_path / "09_x.ipynb")
    assert exercises.main([*words, "--check"]) == 0
    nbformat.write(notebook_of((ANSWER.replace("x.", "x!"), ["exercise"])), solution)
    assert exercises.main([*words, "--check"]) == 1


def test_the_course_s_exercises_are_in_step_with_its_solutions():
    assert exercises.main(["--folder", str(NOTEBOOKS), "--check"]) == 0


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.stem)
def test_every_exercise_has_a_heading_a_hint_and_a_check(path):
    cells = nbformat.read(path, as_version=4)["cells"]
    places = [i for i, cell in enumerate(cells) if "exercise" in exercises.tags(cell)]
    assert len(places) >= 4
    for i in places:
        before = "\n".join(c["source"] for c in cells[max(0, i - 2) : i])
        after = "\n".join(c["source"] for c in cells[i + 1 : i + 3])
        assert "### Exercise" in before
        assert "minute" in before
        assert "<summary>Hint" in before + after
        assert "check_" in after
    last = cells[-1]["source"]
    assert last.count("<details>") == 3


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.stem)
def test_the_answers_can_be_had_without_running_the_notebook(path):
    assert any(callable(value) for value in answers(path.stem).values())


CHECKS = self_checks()
EACH = pytest.mark.parametrize(("notebook", "name", "check"), CHECKS, ids=[c[1] for c in CHECKS])


@pytest.fixture(scope="module")
def solved():
    """The answers of every solution, each executed once."""
    return {path.stem: answers(path.stem) for path in SOLUTIONS}


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.stem)
def test_every_exercise_has_a_self_check(path):
    cells = nbformat.read(path, as_version=4)["cells"]
    exercises_here = sum("exercise" in exercises.tags(cell) for cell in cells)
    assert sum(notebook == path.stem for notebook, _, _ in CHECKS) == exercises_here


@EACH
def test_the_answer_is_right(solved, notebook, name, check, capsys):
    check(solved[notebook][name])
    assert capsys.readouterr().out.startswith("Right: ")


@EACH
def test_an_empty_exercise_is_not_done_yet(notebook, name, check, capsys):
    defined = {}
    exec(f"def empty(*options):\n    {STUB}", defined)
    check(defined["empty"])
    assert capsys.readouterr().out.startswith("Not done yet")


@EACH
def test_a_forgotten_return_is_told(notebook, name, check):
    # An iteration is judged by what it does, not by what it returns.
    said = "Nothing is trained" if name == "iteration" else "returns nothing"
    with pytest.raises(NotRight, match=said):
        check(lambda *options: None)


@check
def check_double(answer):
    expect(answer(0) == 0, "Twice nothing is nothing.")
    expect(answer(3) == 6, f"Twice 3 is not {answer(3)}.")
    return "it doubles"


def test_a_right_answer_is_praised(capsys):
    check_double(lambda x: 2 * x)
    assert capsys.readouterr().out == "Right: it doubles.\n"


def test_a_wrong_one_is_told_what_is_wrong_in_one_sentence():
    with pytest.raises(NotRight, match="Twice 3 is not 9") as wrong:
        check_double(lambda x: x * x)
    assert wrong.value._render_traceback_() == ["Not right yet: Twice 3 is not 9."]


def test_one_that_fails_is_told_how():
    with pytest.raises(NotRight, match="It fails with TypeError: "):
        check_double(lambda: 0)


def test_an_empty_one_is_not_done_yet(capsys):
    defined = {}
    exercise_book = exercises.without_answers(notebook_of((ANSWER, ["exercise"])))
    exec(exercise_book["cells"][0]["source"], defined)
    check_double(defined["double"])
    assert capsys.readouterr().out.startswith("Not done yet")


def test_saved_pages_keep_neither_widgets_nor_timing():
    book = notebook_of(("play()", ["widget"]), ("1", []))
    book["metadata"]["widgets"] = {"state": {}}
    book["cells"][1]["metadata"]["execution"] = {"started": "now"}
    data, metadata = {"image/png": "aaaa", "text/plain": "a curve"}, {"image/png": {"alt": "a"}}
    shown = nbformat.v4.new_output("execute_result", {WIDGET: {}, **data}, metadata=metadata)
    book["cells"][0]["outputs"] = [shown]
    clean = cleaned(book)
    assert clean["cells"][0]["outputs"] == [
        {"output_type": "display_data", "data": data, "metadata": metadata}
    ]
    assert len(clean["cells"][1]["outputs"]) == 1
    assert "widgets" not in clean["metadata"]
    assert "execution" not in clean["cells"][1]["metadata"]


def test_figures_are_pngs():
    figure = Figure(figsize=(1, 1))
    figure.subplots()
    data = base64.b64decode(show.png(figure))
    assert data.startswith(b"\x89PNG")
    assert int.from_bytes(data[16:20], "big") == show.DPI  # an inch wide


def test_a_widget_redraws_what_its_controls_say():
    from ipywidgets import IntSlider

    drawn = []

    def draw(n):
        drawn.append(n)
        figure = Figure(figsize=(1, 1))
        figure.subplots().plot([0, n])
        return figure

    controls = show.play(draw, "a line", n=IntSlider(1, 0, 5))
    slider, page = controls.box.children
    before = page.value
    assert drawn == [1]  # the page and the picture that is kept share a figure
    slider.value = 4
    assert drawn == [1, 4]
    assert page.value != before
    assert "data:image/png;base64," in page.value


def test_controls_have_a_picture_for_where_no_kernel_runs():
    from ipywidgets import IntSlider

    def draw(n):
        figure = Figure(figsize=(n, 1))
        figure.subplots()
        return figure

    data, metadata = show.play(draw, "empty axes", n=IntSlider(2, 0, 5))._repr_mimebundle_()
    assert set(data) == {WIDGET, "image/png", "text/plain"}
    assert base64.b64decode(data["image/png"])[16:20] == (2 * show.DPI).to_bytes(4, "big")
    assert data["text/plain"] == metadata["image/png"]["alt"] == "empty axes"


def test_no_notebook_is_half_done():
    """Each solution has its exercise version, and neither says that something is to be written."""
    for path in SOLUTIONS:
        assert (NOTEBOOKS / path.name).is_file()
        text = json.dumps(json.loads(path.read_text()))
        assert "TODO" not in text


@pytest.mark.parametrize("seed", range(5))
def test_aurocs_of_made_up_answers_are_those_of_scikit_learn(seed):
    """With ties; NaN where there is one kind of images only."""
    rng = np.random.default_rng(seed)
    labels = np.append([0, 1], rng.integers(0, 2, 28))
    scores = rng.integers(0, 9, 30) / 4
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert math.isnan(auroc(labels[labels == 1], scores[labels == 1]))
