"""Running notebooks: parameters are checked first, results are complete or absent."""

import gc
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from htdg.commands import cli
from htdg.commands.cli import main
from htdg.commands.notebooks import NotebookError, check_parameters, find_notebook, run_notebook
from htdg.commands.run import summary
from htdg.course.files import notebook_folder
from htdg.io.files import OutputError
from tests.test_tables import write as write_result

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
import json, os, pathlib
values = {"word": word, "count": count, "share": share, "flag": flag}
pathlib.Path(out, "result.json").write_text(json.dumps(values))
"""


def test_a_run_gets_its_parameters_and_leaves_notebook_page_and_result(notebook, tmp_path):
    out = tmp_path / "out"
    parameters = {"count": "7", "share": "1", "flag": "True", "word": "5"}
    result = run_notebook(notebook(WRITE_RESULT + "print('page', 6 * 7)"), out, parameters)
    seconds = result.pop("total_seconds")
    assert result == {"word": "5", "count": 7, "share": 1.0, "flag": True}
    assert 0 < seconds < 60
    assert sorted(p.name for p in out.iterdir()) == ["result.json", "small.html", "small.ipynb"]
    assert "page 42" in (out / "small.html").read_text()
    executed = nbformat.read(out / "small.ipynb", 4)
    assert executed.metadata.kernelspec.name == "python3"
    assert executed.cells[-1].outputs[0].text == "page 42\n"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"cuont": "3"}, r"no parameter 'cuont': choose from word, count, share, flag\."),
        ({"out": "x"}, "no parameter 'out'"),
        ({"count": "3.5"}, "count is '3.5', but must be of type int, as its default 2 is"),
        ({"count": "many"}, "must be of type int"),
        ({"flag": "1"}, "must be of type bool"),
        ({"share": "half"}, "must be of type float"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(notebook, tmp_path, parameters, message):
    code = f"open({str(tmp_path / 'ran')!r}, 'w')"
    with pytest.raises(NotebookError, match=message):
        run_notebook(notebook(code), tmp_path / "out", parameters)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("package", ["papermill", "nbconvert"])
def test_a_missing_package_is_named(package, notebook, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(NotebookError, match=rf"{package} is missing: pip install 'htdg\[notebook"):
        run_notebook(notebook("pass"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failing_cell_is_named_and_leaves_no_result(notebook, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "result.json").write_text("{}")  # of an earlier run
    with pytest.raises(
        NotebookError, match=r"failed in cell \[3\]: ZeroDivisionError: .* \(see .*/out"
    ):
        run_notebook(notebook("1 / 0"), out)
    assert [p.name for p in out.iterdir()] == ["small.unfinished.ipynb"]


def test_a_notebook_without_a_result_says_so(notebook, tmp_path):
    with pytest.raises(
        NotebookError, match=r"small\.ipynb ran but wrote no result\.json into .*out"
    ):
        run_notebook(notebook("pass"), tmp_path / "out")


def test_a_notebook_that_is_ended_from_outside_says_so(notebook, tmp_path):
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(NotebookError, match=r"small\.ipynb was ended from outside"):
        run_notebook(notebook(code), tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["small.unfinished.ipynb"]


def test_a_run_keeps_out_of_the_users_history_and_ends_its_kernel(notebook, tmp_path):
    code = """
import json, os, pathlib
values = {"pid": os.getpid(), "history": str(get_ipython().history_manager.hist_file)}
pathlib.Path(out, "result.json").write_text(json.dumps(values))
"""
    result = run_notebook(notebook(code), tmp_path / "out")
    assert result["history"] == ":memory:"
    assert not psutil.pid_exists(result["pid"])


def test_a_run_leaves_this_process_as_it_was(notebook, tmp_path):
    path, process = notebook(WRITE_RESULT), psutil.Process()

    def state():
        missing = [name for name, module in sys.modules.items() if module is None]
        settings = (gc.get_threshold(), Path.cwd(), dict(os.environ), missing)
        return (*settings, process.children(), threading.active_count(), process.num_fds())

    before = state()
    run_notebook(path, tmp_path / "out")  # imports, which open files
    first = state()
    run_notebook(path, tmp_path / "out")
    assert state() == first
    assert first[:5] == before[:5]


def start(words, **options):
    """``htdg`` in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "htdg", *map(str, words)], **options)


def test_in_a_pipe_a_run_says_what_it_does_in_one_line(notebook, tmp_path):
    words = ["run", notebook(WRITE_RESULT), "--out", tmp_path / "out"]
    process = start(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    printed, said = process.communicate()
    unfinished = tmp_path / "out" / "small.unfinished.ipynb"
    assert said == f"running small.ipynb; outputs so far are in {unfinished}\n"
    assert printed.splitlines()[:2] == ["word: a", "count: 2"]
    assert printed.splitlines()[-1] == f"look at: {tmp_path / 'out' / 'small.html'}"
    assert process.returncode == 0


def test_in_a_terminal_a_bar_counts_the_cells(notebook, tmp_path):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    words = ["run", notebook(WRITE_RESULT), "--out", tmp_path / "out"]
    assert start(words, stdout=subprocess.PIPE, stderr=theirs).wait() == 0
    lines = os.read(ours, 10_000).decode().splitlines()
    assert "Executing: 100%" in lines[-1]
    assert "3/3" in lines[-1]
    assert max(map(len, lines[1:])) <= 80


def test_ctrl_c_ends_a_run_and_its_kernel(notebook, tmp_path):
    code = """
import os, pathlib, time
pathlib.Path(out, "pid").write_text(str(os.getpid()))
time.sleep(100)
"""
    out, pid = tmp_path / "out", tmp_path / "out" / "pid"
    process = start(["run", notebook(code), "--out", out], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: pid.exists() and pid.read_text(), 60)
    kernel = int(pid.read_text())
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said.endswith("\nhtdg: stopped; a training or a watch goes on when started again.\n")
    assert "Traceback" not in said
    wait_until(lambda: not psutil.pid_exists(kernel), 5)
    assert sorted(p.name for p in out.iterdir()) == ["pid", "small.unfinished.ipynb"]


def wait_until(happened, seconds):
    """Fail unless this becomes true in time."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2147483647"}
MALLOC["MALLOC_TOP_PAD_"] = "268435456"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's settings")
def test_the_command_tells_the_kernel_how_to_allocate_and_leaves_what_the_user_set(
    notebook, tmp_path, monkeypatch
):
    code = f"""
import json, os, pathlib
values = {{name: os.environ.get(name) for name in {list(MALLOC)}}}
pathlib.Path(out, "result.json").write_text(json.dumps(values))
"""
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1024")
    words = ["run", str(notebook(code)), "--out", str(tmp_path / "out")]
    assert start(words, stdout=subprocess.DEVNULL).wait() == 0
    values = json.loads((tmp_path / "out" / "result.json").read_text())
    assert values == {**MALLOC, "MALLOC_TOP_PAD_": "1024"}
    # Called from another program, the command line changes nothing.
    assert main(words) == 0
    values = json.loads((tmp_path / "out" / "result.json").read_text())
    assert values == {**dict.fromkeys(MALLOC), "MALLOC_TOP_PAD_": "1024"}


@pytest.mark.parametrize("command", [command.name for command in cli.COMMANDS])
def test_only_commands_that_compute_set_their_own_allocator(command, monkeypatch):
    calls = []
    monkeypatch.setattr("htdg.runtime.device.keep_freed_memory", lambda: calls.append(command))
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(cli.sys, "platform", "linux")
    cli.set_allocator(command)
    starts_others = command in ("run", "sweep")
    assert os.environ == (cli.KEEP_FREED_MEMORY if starts_others else {})
    computing = ("inspect", "train", "score", "calibrate", "sample", "export", "evaluate")
    computes = command in computing
    assert calls == [command] * computes


def test_the_list_of_commands_comes_without_pytorch():
    code = "import sys; from htdg.commands.cli import build_parser; build_parser([]).format_help()"
    code += "; print('torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert printed == "False\n"


def test_notebooks_are_found_by_name_or_path(notebook):
    path = notebook("pass")
    assert find_notebook(path) == path
    assert find_notebook("00_quickstart").name == "00_quickstart.ipynb"
    with pytest.raises(NotebookError, match=r"no notebook 99_x: choose from 00_quickstart"):
        find_notebook("99_x")


RUNS = ("anomaly_detection", "defect_detection")


@pytest.mark.parametrize("name", RUNS)
def test_runs_are_found_with_and_without_their_folder(name):
    assert (
        find_notebook(name)
        == find_notebook(f"runs/{name}")
        == notebook_folder() / f"runs/{name}.ipynb"
    )


@pytest.mark.parametrize("name", RUNS)
def test_runs_have_typed_parameters(name):
    path = find_notebook(name)
    parameters = {
        "niter": "5",
        "normal_class": "3",
        "overwrite": "True",
        "defect_fraction": "0.05 0.1",
    }
    assert check_parameters(path, parameters) == {
        "niter": 5,
        "normal_class": "3",
        "overwrite": True,
        "defect_fraction": "0.05 0.1",
    }
    names = ("dataset", "shots", "index", "limit_per_kind", "preset", "image_size", "precision")
    names += ("transformations", "translation", "device", "seed", "data_root", "equalise")
    texts = ("dataset", "preset", "precision", "device", "data_root", "equalise", "variant")
    texts += ("transformations", "translation")
    numbers = {name: "7" for name in names if name not in texts}
    assert set(check_parameters(path, numbers).values()) == {7}
    words = {name: "word" for name in texts}
    assert check_parameters(path, words) == words
    with pytest.raises(NotebookError, match="must be of type int"):
        check_parameters(path, {"shots": "one"})
    with pytest.raises(NotebookError, match="no parameter 'shot'"):
        check_parameters(path, {"shot": "1"})


def test_places_are_seen_from_here_not_from_the_notebook(tmp_path, monkeypatch):
    given = {}

    def stop(*_, parameters, **__):
        given.update(parameters)
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("papermill.execute_notebook", stop)
    with pytest.raises(KeyboardInterrupt):
        run_notebook("anomaly_detection", Path("out"), {"data_root": "mydata"})
    assert given == {"data_root": str(tmp_path / "mydata"), "out": str(tmp_path / "out")}


TINY = {"preset": "tiny", "image_size": "0", "niter": "2", "limit_per_kind": "2"}


def test_an_anomaly_run_reports_and_goes_on_where_it_was(tmp_path):
    out = tmp_path / "out"
    parameters = {
        **TINY,
        "dataset": "digits",
        "normal_class": "3",
        "transformations": "[[0,0,0,0,0]]",
    }
    result = run_notebook("anomaly_detection", out, parameters)
    assert result["normal_class"] == "3"
    assert result["transformations"] == 1
    assert (result["niter"], result["image_size"]) == (2, 20)
    assert 0 <= result["image_auroc"] <= 1
    assert json.loads((out / "metrics.json").read_text())["test_images"] == 20
    # The same again draws the report only; another run may not take its place unasked.
    trained = (out / "model" / "history.json").stat().st_mtime_ns
    again = run_notebook("runs/anomaly_detection", out, parameters)
    assert {**again, "total_seconds": 0} == {**result, "total_seconds": 0}
    assert (out / "model" / "history.json").stat().st_mtime_ns == trained
    with pytest.raises(NotebookError, match=r"EvaluationError: .* earlier run: choose another"):
        run_notebook("anomaly_detection", out, {**parameters, "seed": "1"})


def test_a_defect_run_reports_maps_and_fractions(tmp_path):
    out = tmp_path / "out"
    parameters = {**TINY, "normal_class": "grass", "defect_fraction": "0.1, 0.5"}
    result = run_notebook("runs/defect_detection", out, parameters)
    assert (result["dataset"], result["normal_class"]) == ("textures", "grass")
    assert result["defect_fraction"] == 0.1
    assert {"image_auroc", "pixel_auroc", "aupro", "training_seconds"} <= set(result)
    page = (out / "defect_detection.html").read_text()
    assert "lowest share of the votes" in page
    assert "anomaly maps" in page


def test_tables_of_a_sweep_that_is_done(tmp_path, monkeypatch):
    """Seen from here; what the notebook shows and keeps is what ``htdg tables`` does."""
    for draw, auroc in enumerate((0.96, 0.98)):
        write_result(tmp_path / "sweep", auroc, draw)
    monkeypatch.chdir(tmp_path)
    result = run_notebook("runs/tables", Path("out"), {"sweep": "sweep"})
    assert {k: v for k, v in result.items() if k != "total_seconds"} == {
        "rows": 1,
        "runs": 2,
        "short_of_runs": 0,
        "within_one_sd": 0,
        "compared_with_the_paper": 1,
    }
    assert main(["tables", "sweep", "--csv", "t.csv", "--markdown", "t.md"]) == 0
    assert Path("out/tables.csv").read_text() == Path("t.csv").read_text()
    assert Path("out/tables.md").read_text() == Path("t.md").read_text()
    assert "0.970 ± 0.014" in Path("out/tables.html").read_text()


def test_a_grid_that_cannot_be_run_stops_the_notebook(tmp_path):
    with pytest.raises(NotebookError, match=r"tables.ipynb failed .* The sweep did not end well"):
        run_notebook("tables", tmp_path / "out", {"grid": "nowhere.yaml"})


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


@pytest.mark.parametrize("place", ["root", "elsewhere"])
def test_papermill_runs_the_quickstart_from_any_folder(place, tmp_path):
    notebook, result = notebook_folder() / "00_quickstart.ipynb", tmp_path / "o.ipynb"
    words = [sys.executable, "-m", "papermill", str(notebook), str(result), "-p", "niter", "1"]
    where = notebook_folder().parent if place == "root" else tmp_path
    subprocess.run(words, cwd=where, check=True, capture_output=True, timeout=240)
    assert "image AUROC" in result.read_text()
