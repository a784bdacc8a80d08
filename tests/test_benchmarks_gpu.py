"""The script for a GPU, on the CPU at tiny sizes: what it compares, keeps, refuses and tells."""

import argparse
import ast
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_right, gpu_whole
from benchmarks.gpu import PARTS, Part, chosen_parts, main, perform, run_parts
from benchmarks.gpu_modes import ARITHMETICS, computing, recording, told_failures
from benchmarks.gpu_page import merged, page, ratios, summary, targets
from benchmarks.gpu_report import Report, Run, described
from benchmarks.gpu_right import CPU, checked, compare, read_outcomes, reference, small_config
from htdg.errors import UserError
from htdg.fast import cuda_graphs

ROOT = Path(__file__).resolve().parents[1]
#: Packages that htdg or its tests use and a machine with a GPU may lack.
NOT_NEEDED = (
    *("cv2", "dask", "distributed", "ipykernel", "ipywidgets", "nbclient", "nbformat", "onnx"),
    *("onnxruntime", "onnxscript", "papermill", "pooch", "psutil", "requests", "skimage"),
    *("tensorboard", "torchvision", "yaml"),
)


@pytest.fixture
def report(tmp_path):
    report = Report(tmp_path / "out")
    report.begin(described(CPU, True, "abc"))
    return report


def run_of(report, part, seconds=60.0):
    report.restart(part)
    return Run(part, CPU, True, Path("nowhere"), report, seconds)


def found(report, part):
    return report.results()["parts"][part]["results"]


# --- Right ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    image = torch.rand(1, 3, 15, 15, generator=torch.Generator().manual_seed(0)) * 2 - 1
    config = small_config(True, translation="pixel")
    return config, image, reference(config, image)


def test_the_same_device_finds_the_same(trained):
    config, image, expected = trained
    again = reference(config, image)
    assert [compare(a, b) for a, b in zip(again, expected, strict=True)] == [
        {"losses": 0.0, "weights": 0.0}
    ] * 2
    check = gpu_right.trained_alike(config, CPU, image, expected, "float32")
    assert check["passed"]
    assert check["differences"] == {"losses": 0.0, "weights": 0.0}


def test_an_altered_weight_and_an_altered_loss_are_seen(trained):
    config, image, expected = trained
    (ours, _) = reference(config, image)
    moved = torch.cat(
        [(a - b).flatten() for a, b in zip(ours.after, ours.before, strict=True)]
    ).norm()
    ours.after[0][0, 0, 0, 0] += 0.5 * moved
    differences = compare(ours, expected[0])
    assert differences == {"losses": 0.0, "weights": pytest.approx(0.5, abs=1e-4)}
    check = checked(differences, "float32")
    assert not check["passed"]
    assert gpu_right.told(check).startswith(
        "FAILED: losses 0.0e+00 (at most 1e-04), weights 5.0e-0"
    )
    ours.losses["d_real"] += 2e-4 * max(1.0, ours.losses["d_real"])
    assert compare(ours, expected[0])["losses"] == pytest.approx(2e-4, rel=1e-3)
    ours.losses["d_fake"] = float("nan")
    assert compare(ours, expected[0])["losses"] == float("inf")
    ours.after[0][0, 0, 0, 0] = torch.nan
    assert compare(ours, expected[0])["weights"] == float("inf")


def test_an_altered_vote_is_seen():
    votes = [torch.zeros(2, 3), torch.ones(2)]
    altered = [votes[0] + torch.tensor([0.0, 0.002, 0.0]), votes[1]]
    assert gpu_right.largest_difference(votes, votes) == 0
    assert gpu_right.largest_difference(altered, votes) == pytest.approx(0.002)
    assert not checked({"votes": 0.002}, "float32")["passed"]
    assert checked({"votes": 0.002}, "bf16")["passed"]
    assert gpu_right.largest_difference([votes[0] * torch.nan, votes[1]], votes) == float("inf")


def test_votes_of_a_model_moved_to_the_same_device_are_the_same(report):
    gpu_right.votes(run_of(report, "votes"))
    values = found(report, "votes")
    assert len(values) == 9
    for name, check in values.items():
        assert check["passed"], name
        if not name.endswith("bf16"):
            assert check["differences"]["votes"] == 0


def test_every_test_that_needs_a_gpu_is_run():
    needing = []
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        if "cuda.is_available()" in path.read_text():
            needing += [
                f"tests/{path.name}::{node.name}"
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.FunctionDef)
                and any("skipif(not torch.cuda" in ast.unparse(d) for d in node.decorator_list)
            ]
    assert sorted(needing) == sorted(gpu_right.TESTS)


def test_outcomes_of_tests():
    case = '<testcase classname="tests.a" name="{}">{}</testcase>'
    cases = [("t[x]", ""), ("u", "<skipped/>"), ("v", "<failure/>"), ("w", "<error/>")]
    xml = "".join(case.format(*of) for of in cases)
    assert read_outcomes(f"<testsuites><testsuite>{xml}</testsuite></testsuites>") == {
        "tests.a::t[x]": "passed",
        "tests.a::u": "skipped",
        "tests.a::v": "failure",
        "tests.a::w": "error",
    }


PRINTED = """
tests/test_a.py::test_t[x y] PASSED                                       [ 25%]
tests/test_a.py::test_u SKIPPED (no GPU here)                             [ 50%]
tests/test_a.py::test_v[a::b] FAILED                                      [ 75%]
tests/test_a.py::test_w """


def test_outcomes_that_pytest_printed_before_it_was_stopped(report, monkeypatch):
    assert gpu_right.printed_outcomes(PRINTED) == {
        "tests.test_a::test_t[x y]": "passed",
        "tests.test_a::test_u": "skipped",
        "tests.test_a::test_v[a::b]": "failure",
    }
    for printed, passed in [(PRINTED, False), ("\n".join(PRINTED.splitlines()[:2]), None)]:
        monkeypatch.setattr(gpu_right, "printed_by", lambda *_, text=printed: (text, False))
        perform(run_of(report, "tests"))
        part = report.results()["parts"]["tests"]
        assert part["state"] == "stopped"
        assert part["why"].startswith("pytest was out of time after")
        assert part["results"]["tests.test_a::test_t[x y]"] == "passed"
        assert part["results"]["tail"] == printed.splitlines()
        assert part["results"].get("passed") is passed  # what did not run has not passed


def test_what_a_command_printed_is_kept_when_its_time_is_up():
    words = [sys.executable, "-uc", "import time; print('so far'); time.sleep({})"]
    slow, quick = ([*words[:2], words[2].format(seconds)] for seconds in (60, 0))
    assert gpu_right.printed_by(slow, os.environ, 1.0) == ("so far\n", False)
    assert gpu_right.printed_by(quick, os.environ, 60.0) == ("so far\n", True)


def test_memory_of_models_that_are_gone(report):
    gpu_right.memory(run_of(report, "memory"))
    check = found(report, "memory")["memory"]
    assert check["passed"]
    assert (check["models"], check["growth_mib"], check["reserved_growth_mib"]) == (3, 0, 0)
    assert check["plans_mib"] > 0


def test_memory_that_is_held_is_measured_and_refused(report, monkeypatch):
    sparse = torch.eye(2).to_sparse()  # as other tests leave behind: it has no storage
    before = gpu_right.held_mib(CPU)
    kept = torch.zeros(2**20)
    assert gpu_right.held_mib(CPU) - before == kept.nbytes / 2**20 == 4
    assert sparse.is_sparse  # it was there
    monkeypatch.setattr(gpu_right, "train_and_forget", lambda config, device: None)
    # After each round, and without the plans; then what is reserved after each round.
    for held, reserved, found_out in [
        ([10.0, 11.0, 12.5, 12.0], [100.0] * 3, (2.5, 0, 0.5, False)),
        ([10.0, 10.0, 10.0, 9.0], [100.0, 116.0, 132.0], (0, 32, 1, True)),
        ([10.0, 10.0, 10.0, 9.0], [100.0, 120.0, 140.0], (0, 40, 1, False)),
    ]:
        of = {"held_mib": iter(held), "reserved_mib": iter(reserved)}
        for name, values in of.items():
            monkeypatch.setattr(gpu_right, name, lambda device, values=values: next(values))
        gpu_right.memory(run_of(report, "memory"))
        check = found(report, "memory")["memory"]
        keys = ("growth_mib", "reserved_growth_mib", "plans_mib", "passed")
        assert tuple(check[key] for key in keys) == found_out
    monkeypatch.setattr(gpu_right, "held_mib", lambda device: 10.0)
    monkeypatch.setattr(gpu_right, "reserved_mib", lambda device: 10.0)
    monkeypatch.setattr(gpu_right, "failures", lambda: ["refused"])  # then it says nothing of them
    gpu_right.memory(run_of(report, "memory"))
    assert not found(report, "memory")["memory"]["passed"]


# --- Modes ----------------------------------------------------------------------------------------


def test_modes_hold_only_while_they_run(monkeypatch):
    monkeypatch.setenv("HTDG_GRAPHS", "0")
    monkeypatch.setattr(cuda_graphs, "_failures", ["earlier"])
    before = torch.backends.cudnn.allow_tf32
    cuda = torch.device("cuda")
    for arithmetic in ARITHMETICS:
        with computing(arithmetic):
            assert torch.backends.cudnn.allow_tf32 == (arithmetic != "float32")
    assert torch.backends.cudnn.allow_tf32 == before
    with recording(True):
        assert cuda_graphs.recordable(cuda)
    with recording(False):
        assert not cuda_graphs.recordable(cuda)
    assert os.environ["HTDG_GRAPHS"] == "0"


# --- Parts, time and failures ---------------------------------------------------------------------


@pytest.mark.parametrize("part", ["iterations", "scoring", "profile", "ten_shots", "side_by_side"])
def test_parts_run_on_a_cpu_and_say_what_is_skipped(part, report):
    run = run_of(report, part)
    perform(run)
    whole = report.results()["parts"][part]
    assert whole["state"] == "done", whole
    assert whole["left_out"] == []
    assert {key for key in whole["results"] if key != "convolution_rate"}
    perform(run_of(report, part, seconds=0))
    hurried = report.results()["parts"][part]
    skipped = whole["results"].keys() - {"convolution_rate"}
    assert sorted(hurried["left_out"]) == sorted(skipped)
    assert hurried["results"].keys() <= {"convolution_rate"}
    text = report.text.read_text()
    for key in skipped:
        assert f"{key}: skipped, no time left" in text


def test_an_experiment_is_stopped_when_its_time_is_up(report):
    perform(run_of(report, "sneaker", seconds=0))
    part = report.results()["parts"]["sneaker"]
    assert part["state"] == "stopped"
    assert part["why"] == "the training was stopped at scale 1 of 2, iteration 1 of 2"
    assert part["results"].keys() == {"trained_s"}
    assert part["results"]["trained_s"] < 60


def test_an_experiment_says_where_it_ends(report, monkeypatch):
    monkeypatch.setattr(gpu_whole, "can_equalise", lambda: False)
    perform(run_of(report, "bottle-54"))
    part = report.results()["parts"]["bottle-54"]
    assert part["state"] == "done", part
    result = part["results"]["result"]
    assert result["stand_in"]
    assert (result["equalise"], result["test_images"]) == ("none", 10)
    assert result["commit"] == "abc"
    assert {"scale 1", "scale 2", "result"} == part["results"].keys()


def fake(monkeypatch, **parts):
    for name, does in parts.items():
        monkeypatch.setitem(gpu.PARTS, name, Part("right", does, 100))


def started(report):
    """Starts parts in this process."""

    def start(name, seconds):
        perform(Run(name, CPU, True, Path("nowhere"), report, seconds))
        return 0

    return start


def test_a_part_that_fails_costs_no_other(report, monkeypatch):
    def broken(run):
        run.keep("first", 1, "one")
        raise RuntimeError("an illegal memory access was encountered")

    def absent(run):
        raise UserError("There is no such set.")

    fake(monkeypatch, tests=broken, votes=absent, memory=lambda run: run.keep("last", 2, "two"))
    run_parts(["tests", "votes", "memory"], report, 60, started(report))
    parts = report.results()["parts"]
    assert [parts[name]["state"] for name in parts] == ["failed", "failed", "done"]
    assert parts["tests"]["results"] == {"first": 1}
    assert parts["tests"]["why"].endswith("RuntimeError: an illegal memory access was encountered")
    assert parts["votes"]["why"] == "There is no such set."
    assert parts["memory"]["results"] == {"last": 2}
    assert "== tests failed after 0.0 s: RuntimeError: an illegal" in report.text.read_text()


@pytest.mark.parametrize(
    ("code", "state", "why"),
    [
        (None, "stopped", "killed 40 s after its time was up"),
        (-11, "failed", "ended by signal 11"),
        (3, "failed", "ended with exit code 3"),
    ],
)
def test_a_process_that_dies_is_told(code, state, why, report):
    run_parts(["tests"], report, 60, lambda name, seconds: code)
    part = report.results()["parts"]["tests"]
    assert (part["state"], part["why"]) == (state, why)


def test_no_part_begins_when_the_time_is_up(report):
    given = []

    def start(name, seconds):
        given.append((name, round(seconds)))
        report.set_state(name, "done")
        return 0

    run_parts(["tests", "memory"], report, 50, start)
    assert given == [("tests", 50), ("memory", 40)]  # what is left; its own limit
    assert report.results()["parts"]["memory"]["limit"] == 40
    run_parts(["votes"], report, 4, start)
    assert len(given) == 2
    assert report.results()["parts"]["votes"]["state"] == "skipped"
    assert "votes: skipped: no time left" in summary(report.results())


def test_what_is_on_disk_is_whole_when_the_run_is_killed(report, monkeypatch):
    """Killed in its second part, when the first one is done."""

    def slow(run):
        run.keep("half", 2, "two")
        time.sleep(60)

    fake(monkeypatch, tests=lambda run: run.keep("a", 1, "one"), memory=slow)
    words = (["tests", "memory"], report, 100, started(report))
    process = multiprocessing.get_context("fork").Process(target=run_parts, args=words)
    process.start()
    try:
        while "half" not in report.file.read_text() and process.is_alive():
            time.sleep(0.02)
    finally:
        process.kill()
        process.join()
    parts = json.loads(report.file.read_text())["parts"]
    assert (parts["tests"]["state"], parts["tests"]["results"]) == ("done", {"a": 1})
    assert (parts["memory"]["state"], parts["memory"]["results"]) == ("running", {"half": 2})
    assert "memory: broken off" in summary(report.results())


def test_a_second_run_adds_to_the_first_but_not_to_one_of_another_kind(report):
    report.restart("tests")
    report.begin(described(CPU, True, "abc"))
    assert "tests" in report.results()["parts"]
    with pytest.raises(UserError, match="is of another commit, card or PyTorch, or --quick"):
        report.begin(described(CPU, True, "def"))
    assert "tests" in report.results()["parts"]


def test_a_run_of_an_unknown_commit_is_added_to_no_other(tmp_path):
    report = Report(tmp_path / "out")
    report.begin(described(CPU, True, "unknown"))
    with pytest.raises(UserError, match="is of an unknown commit, perhaps another one"):
        report.begin(described(CPU, True, "unknown"))
    unknown = hand_made() | {"commit": "unknown"}
    assert merged([unknown])["commit"] == "unknown"
    with pytest.raises(UserError, match="Nobody knows whether these results are of one commit"):
        merged([unknown, unknown])


def test_what_an_earlier_call_found_stays_where_a_part_is_not_run_again(report):
    report.restart("plane")
    report.keep("plane", "result", 1)
    report.set_state("plane", "done")
    run_parts(["plane", "sneaker"], report, 1, lambda name, seconds: 0)
    parts = report.results()["parts"]
    assert (parts["plane"]["state"], parts["plane"]["results"]) == ("done", {"result": 1})
    assert parts["sneaker"]["state"] == "skipped"


def test_a_data_set_that_is_not_there_costs_no_other_part(tmp_path, monkeypatch, capsys):
    def load(name, data_root):
        if name != "fashionmnist":
            raise UserError(f"{name} is not there.")
        return argparse.Namespace(training_pool=lambda normal_class: None)

    begun = []

    def start(options, name, seconds):
        begun.append(name)
        Report(options.out).set_state(name, "done")
        return 0

    monkeypatch.setattr(gpu, "load_dataset", load)
    monkeypatch.setattr(gpu, "in_a_process", start)
    out = tmp_path / "out"
    words = ["--device", "cpu", "--data-root", str(tmp_path), "--out", str(out)]
    assert main([*words, "--only", "votes,plane,sneaker"]) == 1
    assert begun == ["votes", "sneaker"]
    plane = json.loads((out / "gpu.json").read_text())["parts"]["plane"]
    assert (plane["state"], plane["why"]) == ("skipped", "cifar10 is not there.")
    said = capsys.readouterr().out
    assert "== plane: skipped: cifar10 is not there." in said
    assert "NOT MEASURED: plane, a whole colour model, at most 3 minutes: cifar10" in said
    assert main([*words, "--only", "votes,sneaker"]) == 0
    assert main([*words, "--only", "plane"]) == 2
    assert capsys.readouterr().err == "benchmarks.gpu: cifar10 is not there.\n"


# --- The command line -----------------------------------------------------------------------------


def test_parts_are_chosen_by_group_and_by_name():
    assert chosen_parts("right") == ["tests", "training", "votes", "memory"]
    assert chosen_parts("plane, tests") == ["tests", "plane"]
    assert chosen_parts("right,fast,whole") == list(PARTS)


#: Seconds that a part may take to import what it needs.
IMPORTS = 8


@pytest.mark.parametrize("only", ["right,fast", "whole"])
@pytest.mark.parametrize("hangs", [False, True])
def test_each_of_the_two_calls_takes_less_than_8_minutes(only, hangs, report, monkeypatch):
    now, begun = [0.0], {}
    monkeypatch.setattr(gpu.time, "monotonic", lambda: now[0])

    def start(name, seconds):
        begun[name] = seconds
        now[0] += seconds + (gpu.GRACE if hangs else IMPORTS)
        report.set_state(name, "done")
        return None if hangs else 0

    names, minutes = chosen_parts(only), gpu.parser().parse_args([]).minutes
    run_parts(names, report, 60 * minutes, start)
    assert now[0] + IMPORTS < 8 * 60
    if not hangs:  # at least what comes first has all the time that it may take
        sure = ["bottle-rotations", "bottle-54"] if only == "whole" else names
        assert {name: begun[name] for name in sure} == {name: PARTS[name].seconds for name in sure}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "wrong"], "--only: there is no part 'wrong'; choose from right, fast, whole,"),
        (["--device", "cuda"], "Option device is 'cuda', but PyTorch finds no such device here"),
        (["--device", "cpu", "--data-root", "nowhere", "--only", "plane"], "nowhere is no folder"),
        (["--device", "cpu", "--minutes", "0"], "--minutes is 0, but it must be above 0."),
        (["--page", "nowhere.json"], "nowhere.json cannot be read"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    assert main(["--out", str(tmp_path / "out"), *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("benchmarks.gpu: ")
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_part_in_a_process_of_its_own(report, tmp_path, monkeypatch):
    """Where packages are missing that it does not need."""
    missing = f"import sys\nsys.modules |= dict.fromkeys({NOT_NEEDED!r})\n"
    (tmp_path / "sitecustomize.py").write_text(missing)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    report.restart("sneaker")
    places = {"out": report.file.parent, "data_root": tmp_path}
    options = argparse.Namespace(device="cpu", quick=True, **places)
    assert gpu.in_a_process(options, "sneaker", 0.0) == 0  # its training is stopped at once
    part = report.results()["parts"]["sneaker"]
    assert part["why"].startswith("the training was stopped at scale 1")
    monkeypatch.setattr(gpu, "GRACE", 0.1)
    assert gpu.in_a_process(options, "sneaker", 0.0) is None


def test_who_ends_the_run_ends_its_part(tmp_path):
    """The run is asked to end while a part, a process of its own, is at work."""
    program = f"""
import os, subprocess, sys, time
from pathlib import Path
from benchmarks import gpu

whole = subprocess.Popen

def popen(command, **more):
    part = whole([sys.executable, "-c", "import time; time.sleep(60)"], **more)
    (Path({str(tmp_path)!r}) / "new").write_text(str(part.pid))
    os.replace({str(tmp_path / "new")!r}, {str(tmp_path / "pid")!r})
    return part

gpu.subprocess.Popen = popen
gpu.in_a_process(gpu.parser().parse_args([]), "tests", 50.0)
"""
    run = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    try:
        while not (tmp_path / "pid").exists() and run.poll() is None:
            time.sleep(0.02)
        run.send_signal(signal.SIGTERM)
        assert run.wait(timeout=30) == 128 + signal.SIGTERM
    finally:
        run.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


# --- The page -------------------------------------------------------------------------------------


def part_of(results, state="done", **more):
    return {"state": state, "results": results, "left_out": [], **more}


def row(*milliseconds, recorded=False, **more):
    seconds = [ms / 1000 for ms in milliseconds]
    return {"sides": [25, 40, 64], "iteration_s": seconds, "recorded": recorded, **more}


def hand_made():
    iterations = {
        "convolution_rate": {"32 bf16": 2e13},
        "paper_rgb pixel bf16 straightforward": row(60, 80, 100),
        "paper_rgb pixel bf16 recorded": row(10, 20, 20, recorded=True, share=[0.1, 0.2, 0.3]),
        "paper_rgb stretched bf16 straightforward": row(60, 80, 100),
        "paper_rgb stretched bf16 recorded": row(10, 10, 50, recorded=False, share=[0, 0, 0]),
    }
    check = {"tolerances": {"losses": 1e-4, "weights": 0.2}, "recorded": True}
    training = {
        f"pixel float32 {name}": {"differences": {"losses": off, "weights": 0.1}, **check}
        for name, off in (("recorded", 2e-5), ("not recorded", 1.5e-4))
    }
    bottle = {"image_auroc": {"0.05": 0.797}, "minutes": 2.5, "equalise": "train"}
    parts = {
        "tests": part_of({"a::b": "passed", "a::c": "passed", "passed": True}),
        "training": part_of(training),
        "iterations": part_of(iterations, "incomplete", left_out=["paper_grey pixel float32"]),
        "bottle-54": part_of({"result": {**bottle, "stand_in": False}}),
        "plane": part_of(
            {"trained_s": 185.0}, "stopped", why="the training was stopped at scale 5 of 5"
        ),
    }
    machine = {"card": "A Card", "driver": "1.2", "torch": "2.11", "python": "3.12"}
    return {"device": "cuda", "quick": False, "commit": "abc", **machine, "parts": parts}


def test_ratios_and_targets_by_hand():
    results = hand_made()
    assert ratios(results) == {"paper_rgb pixel bf16": {25: 6.0, 40: 4.0, 64: 5.0}}
    outcomes = dict(targets(results))
    pixel = "paper_rgb pixel bf16, recorded, at least"
    assert outcomes[f"{pixel} 5 times as fast: 25 px 6.0, 40 px 4.0"] == "missed"
    assert outcomes[f"{pixel} 3 times as fast: 64 px 5.0"] == "met"
    losses = "losses as on a CPU, float32: 1.5e-04 apart, at most 1e-04, 2 comparisons"
    assert outcomes[losses] == "missed"
    assert outcomes["tests on a GPU: 2 of 2 passed"] == "met"
    assert outcomes["votes as on a CPU, float32"] == "not measured"
    assert outcomes["bottle-54, a whole colour model, at most 3 minutes: 2.50"] == "met"
    stopped = "at most 3 minutes: the training was stopped at scale 5 of 5"
    assert outcomes[f"plane, a whole colour model, {stopped}"] == "missed"
    results["parts"]["plane"]["results"]["trained_s"] = 175.0  # and 20 s of loading, say
    assert dict(targets(results))[f"plane, a whole colour model, {stopped}"] == "not measured"


def test_the_page_by_hand():
    text = page(merged([hand_made()]))
    assert text.startswith("Machine: A Card, driver 1.2; torch 2.11, Python 3.12; commit abc.")
    # 240 / 50 = 4.8
    assert (
        "| paper_rgb pixel bf16 recorded | 10.00 | 20.00 | 20.00 | 50.0 | 4.80 | 4.00 "
        "| 10.0%, 30.0% |" in text
    )
    assert "20.0 TFLOP/s (32 bf16)" in text
    # 79.7 is 3.4 above 76.3, with a deviation of 6.9.
    assert (
        "| bottle | rgb54 | 2.50 | 0.797 | 0.763 ± 0.069 (Table 5) | within (+0.5) | train |"
        in text
    )
    assert "`iterations` incomplete; no time for paper_grey pixel float32" in text


def test_a_recording_that_failed_is_on_the_page():
    assert told_failures([]) == ""
    failed = {"failures": ["refused"]}
    results = hand_made()
    results["parts"]["profile"] = part_of(
        {
            "recorded 40 px": {"iteration_s": 0.01, "busy_s": 0.005, "kernels": 2, "longest": []}
            | failed
        }
    )
    results["parts"]["side_by_side"] = part_of(
        {"1 models": {"rate": 10.0, "failures": []}, "2 models": {"rate": 15.0, **failed}}
    )
    shots = {"shots": 10, "seconds": 1.0, "mib": 5.0, "reserved_mib": 7.0, "planned_mib": 6.0}
    results["parts"]["ten_shots"] = part_of({"recorded": {**shots, "images_at_once": 2, **failed}})
    text = page(results)
    assert "| recorded 40 px; recording failed: refused | 10.00 | 50% | 2 |" in text
    assert "| 1 models | 10.0 | 1.00 |" in text
    assert "| 2 models; recording failed: refused | 15.0 | 1.50 |" in text
    assert "| recorded; recording failed: refused | 10 | 1.000 | 5 | 7 | 6 | 2 |" in text


def test_a_page_is_of_a_gpu_and_of_one_run(tmp_path, capsys):
    other = hand_made() | {"parts": {"tests": part_of({}, "failed")}}
    assert merged([hand_made(), other])["parts"]["tests"]["state"] == "failed"
    assert merged([hand_made(), other])["parts"].keys() == hand_made()["parts"].keys()
    for changed, message in [
        ({"device": "cpu"}, "These results were made on a cpu"),
        ({"quick": True}, "These results were made with --quick"),
    ]:
        file = tmp_path / "gpu.json"
        file.write_text(json.dumps(hand_made() | changed))
        assert main(["--page", str(file)]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(UserError, match=r"differ in card \(A Card, Another\)"):
        merged([hand_made(), hand_made() | {"card": "Another"}])


def test_nothing_is_claimed_of_a_gpu_that_was_not_there(report):
    report.restart("plane")
    result = {"image_auroc": {"1.0": 0.9}, "minutes": 0.1, "equalise": "none", "stand_in": True}
    report.keep("plane", "result", result)
    text = summary(report.results())
    assert "NOT A MEASUREMENT OF A GPU" in text
    assert "NOT MEASURED: plane, a whole colour model" in text
