"""Running notebooks: parameters are checked first, results are complete or absent."""

import json
import threading

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from htdg.commands.cli import main
from htdg.commands.notebooks import (
    NOTEBOOKS,
    NotebookError,
    check_parameters,
    find_notebook,
    run_notebook,
    summary,
)
from htdg.io.files import OutputError

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


@pytest.fixture
def notebook(tmp_path):
    """Writes a notebook with a parameters cell and the given code."""

    def write(code, name="small"):
        parameters = new_code_cell('word = "a"\ncount = 2\nshare = 0.5\nflag = False\nout = ""')
        parameters.metadata["tags"] = ["parameters"]
        cells = [parameters, new_code_cell(code)]
        path = tmp_path / f"{name}.ipynb"
        nbformat.write(new_notebook(cells=cells, metadata=KERNEL), path)
        return path

    return write


WRITE_RESULT = """
import json, pathlib
values = {"word": word, "count": count, "share": share, "flag": flag}
pathlib.Path(out, "result.json").write_text(json.dumps(values))
"""


def test_a_run_gets_its_parameters_and_leaves_notebook_page_and_result(notebook, tmp_path):
    out = tmp_path / "out"
    given = {"count": "7", "share": "1", "flag": "True", "word": "5"}
    result = run_notebook(notebook(WRITE_RESULT), out, given)
    seconds = result.pop("total_seconds")
    assert result == {"word": "5", "count": 7, "share": 1.0, "flag": True}
    assert 0 < seconds < 60
    assert sorted(p.name for p in out.iterdir()) == ["result.json", "small.html", "small.ipynb"]
    assert "word = &quot;5&quot;" in (out / "small.html").read_text() or "5" in summary(result, out)
    executed = nbformat.read(out / "small.ipynb", 4)
    assert executed.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"cuont": "3"}, r"no parameter 'cuont': choose from word, count, share, flag\."),
        ({"out": "x"}, "no parameter 'out'"),
        ({"count": "3.5"}, "count is '3.5', but must be of type int, as its default 2 is"),
        ({"count": "many"}, "must be of type int"),
        ({"flag": "1"}, "must be of type bool"),
        ({"share": "half"}, "must be of type float"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(notebook, tmp_path, given, said):
    before = psutil.Process().children()
    with pytest.raises(NotebookError, match=said):
        run_notebook(notebook(WRITE_RESULT), tmp_path / "out", given)
    assert not (tmp_path / "out").exists()
    assert psutil.Process().children() == before  # the kernel that had been started is gone


def test_a_failing_cell_is_named_and_leaves_no_result(notebook, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "result.json").write_text("{}")  # of an earlier run
    with pytest.raises(NotebookError, match=r"failed in cell \d: ZeroDivisionError"):
        run_notebook(notebook("1 / 0"), out)
    assert [p.name for p in out.iterdir()] == ["small.unfinished.ipynb"]


def test_a_notebook_that_is_ended_from_outside_says_so(notebook, tmp_path):
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(NotebookError, match=r"small\.ipynb was ended from outside"):
        run_notebook(notebook(code), tmp_path / "out")
    assert not (tmp_path / "out" / "result.json").exists()


def test_the_kernel_looks_for_cycles_seldom_adds_no_names_and_ends_with_the_run(notebook, tmp_path):
    code = """
import gc, json, os, pathlib
found = {"threshold": gc.get_threshold(), "pid": os.getpid(), "named": "htdg" in globals()}
found["history"] = str(get_ipython().history_manager.hist_file)
pathlib.Path(out, "result.json").write_text(json.dumps(found))
"""
    found = run_notebook(notebook(code), tmp_path / "out")
    assert found["threshold"] == [50_000, 20, 20]
    assert found["history"] == ":memory:"
    assert not found["named"]
    assert not psutil.pid_exists(found["pid"])


def test_runs_leave_no_threads_or_files_open(notebook, tmp_path):
    path, process, open_after = notebook(WRITE_RESULT), psutil.Process(), []
    for _ in range(3):
        run_notebook(path, tmp_path / "out")
        open_after.append((threading.active_count(), process.num_fds()))
    assert open_after[1] == open_after[2]


def test_progress_reaches_the_terminal_and_the_notebook_keeps_one_line(notebook, tmp_path, capfd):
    code = """
from htdg.runtime.progress import ProgressBar
with ProgressBar("notebook", "work", 3) as bar:
    for _ in range(3):
        bar.advance(1)
"""
    run_notebook(notebook(code + WRITE_RESULT), tmp_path / "out")
    executed = nbformat.read(tmp_path / "out" / "small.ipynb", 4)
    outputs = [o for cell in executed.cells for o in cell.get("outputs", [])]
    (output,) = [o for o in outputs if o.output_type == "display_data"]
    assert output.data["text/plain"].startswith("work  [####################] 3/3")
    assert "work  [####################] 3/3" in capfd.readouterr().err


def test_notebooks_are_found_by_name_or_path(notebook):
    path = notebook("pass")
    assert find_notebook(path) == path
    assert find_notebook("00_quickstart").name == "00_quickstart.ipynb"
    with pytest.raises(NotebookError, match=r"no notebook 99_x: choose from 00_quickstart"):
        find_notebook("99_x")


RUNS = ("anomaly_detection", "defect_detection")


@pytest.mark.parametrize("name", RUNS)
def test_runs_are_found_with_and_without_their_folder(name):
    assert find_notebook(name) == find_notebook(f"runs/{name}") == NOTEBOOKS / f"runs/{name}.ipynb"


@pytest.mark.parametrize("name", RUNS)
def test_runs_have_typed_parameters(name):
    path = find_notebook(name)
    given = {"niter": "5", "normal_class": "3", "overwrite": "True", "defect_fraction": "0.05 0.1"}
    assert check_parameters(path, given) == {
        "niter": 5,
        "normal_class": "3",
        "overwrite": True,
        "defect_fraction": "0.05 0.1",
    }
    known = ("dataset", "shots", "index", "limit_per_kind", "preset", "image_size", "precision")
    known += ("transformations", "translation", "device", "seed", "data_root", "equalise")
    texts = ("dataset", "preset", "precision", "device", "data_root", "equalise", "variant")
    texts += ("transformations", "translation")
    numbers = {name: "7" for name in known if name not in texts}
    assert set(check_parameters(path, numbers).values()) == {7}
    words = {name: "word" for name in texts}
    assert check_parameters(path, words) == words
    with pytest.raises(NotebookError, match="must be of type int"):
        check_parameters(path, {"shots": "one"})
    with pytest.raises(NotebookError, match="no parameter 'shot'"):
        check_parameters(path, {"shot": "1"})


TINY = {"preset": "tiny", "image_size": "0", "niter": "2", "limit_per_kind": "2"}


def test_an_anomaly_run_reports_and_goes_on_where_it_was(tmp_path):
    out = tmp_path / "out"
    given = {**TINY, "dataset": "digits", "normal_class": "3", "transformations": "[[0,0,0,0,0]]"}
    result = run_notebook("anomaly_detection", out, given)
    assert result["normal_class"] == "3"
    assert result["transformations"] == 1
    assert (result["niter"], result["image_size"]) == (2, 20)
    assert 0 <= result["image_auroc"] <= 1
    assert json.loads((out / "metrics.json").read_text())["test_images"] == 20
    # The same again draws the report only; another run may not take its place unasked.
    trained = (out / "model" / "history.json").stat().st_mtime_ns
    again = run_notebook("runs/anomaly_detection", out, given)
    assert {**again, "total_seconds": 0} == {**result, "total_seconds": 0}
    assert (out / "model" / "history.json").stat().st_mtime_ns == trained
    with pytest.raises(NotebookError, match=r"EvaluationError: .* earlier run: choose another"):
        run_notebook("anomaly_detection", out, {**given, "seed": "1"})


def test_a_defect_run_reports_maps_and_fractions(tmp_path):
    out = tmp_path / "out"
    given = {**TINY, "normal_class": "grass", "defect_fraction": "0.1, 0.5"}
    result = run_notebook("runs/defect_detection", out, given)
    assert (result["dataset"], result["normal_class"]) == ("textures", "grass")
    assert result["defect_fraction"] == 0.1
    assert {"image_auroc", "pixel_auroc", "aupro", "training_seconds"} <= set(result)
    page = (out / "defect_detection.html").read_text()
    assert "lowest share of the votes" in page
    assert "anomaly maps" in page


def test_the_quickstart_has_typed_parameters():
    path = find_notebook("00_quickstart")
    assert check_parameters(path, {"niter": "5", "texture": "grass"}) == {
        "niter": 5,
        "texture": "grass",
    }


def test_the_command_reports_mistakes_in_one_sentence(tmp_path, capsys):
    code = main(["run", "00_quickstart", "--out", str(tmp_path / "x"), "-p", "sede", "1"])
    assert code == 2
    assert capsys.readouterr().err.startswith("htdg: 00_quickstart.ipynb has no parameter 'sede'")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("place", ["file", "file/out"])
def test_a_place_that_cannot_be_written_to_is_refused_first(place, notebook, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="cannot be written"):
        run_notebook(notebook("pass"), tmp_path / place)


def test_the_summary_says_where_to_look(tmp_path):
    (tmp_path / "page.html").write_text("")
    text = summary({"image_auroc": 0.91234, "texture": "brick"}, tmp_path)
    assert text.splitlines() == [
        "image auroc: 0.912",
        "texture: brick",
        f"look at: {tmp_path / 'page.html'}",
    ]
