"""Grids, how a machine is divided, how long a sweep takes, and sweeps that are killed."""

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from htdg.commands.cli import main
from htdg.config import HTDGConfig
from htdg.sweeps import cluster
from htdg.sweeps.estimate import estimated_seconds, in_words, measured
from htdg.sweeps.grid import GridError, Run, read_grid
from htdg.sweeps.running import ERROR, check_runs, do_run, resolved
from htdg.sweeps.sweep import Sweep, record, threads_of

posix = pytest.mark.skipif(os.name != "posix", reason="sessions and signals differ")
GRIDS = Path(__file__).parents[1] / "notebooks" / "runs" / "grids"
ONE = {"dataset": "digits", "normal_class": 0, "preset": "tiny", "niter": 1, "limit_per_kind": 2}


def grid(path, text):
    path.write_text(text)
    return path


# --- Grids ---------------------------------------------------------------------------------------


def test_lists_are_combined_and_what_stands_beside_runs_holds_for_all(tmp_path):
    runs = read_grid(
        grid(
            tmp_path / "g.yaml",
            """
            preset: tiny
            runs:
              - dataset: textures
                normal_class: [brick, grass]
                draw: [0, 1]
              - dataset: digits
                normal_class: all
                niter: 7
              - dataset: textures
                normal_class: brick
                draw: 1
            """,
        )
    )
    chosen = [
        (r.parameters["dataset"], r.parameters["normal_class"], r.parameters.get("draw"))
        for r in runs
    ]
    assert chosen == [
        *[("textures", name, draw) for name in ("brick", "grass") for draw in (0, 1)],
        *[("digits", str(digit), None) for digit in range(10)],  # the last one is there already
    ]
    assert {r.config().niter for r in runs} == {HTDGConfig.preset("tiny").niter, 7}
    assert runs[1].task().draw == 1
    assert len({run.name for run in runs}) == len(runs)


def test_a_list_of_lists_gives_a_list(tmp_path):
    text = "runs: [{dataset: digits, normal_class: 1, defect_fraction: [[0.1, 1.0]]}]"
    (run,) = read_grid(grid(tmp_path / "g.yaml", text))
    assert run.task().fractions == (0.1, 1.0)


def test_defaults_are_those_of_the_command():
    run = Run({"dataset": "mvtec", "normal_class": "bottle", "preset": "inspect"})
    assert run.task().defect_fraction == 0.02
    assert Run({**run.parameters, "preset": "paper_rgb"}).task().equalise == "train"


def test_a_run_has_the_same_name_wherever_it_stands():
    run = Run(ONE)
    assert run.name == Run(dict(reversed(ONE.items()))).name
    assert run.name != Run({**ONE, "niter": 2}).name
    assert run.name.startswith("digits-0-")
    assert "/" not in Run({"dataset": "fashionmnist", "normal_class": "T-shirt/top"}).name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no list of runs"),
        ("runs: 3", "has no list of runs"),
        ("runs: []", "has no runs"),
        ("runs: [3]", "Entry 1 of runs in .* is 3, but must have parameters"),
        ("runs: [{preset: tiny}]", "has no dataset"),
        ("runs: [{dataset: digits, colour: 1}]", "has the parameter 'colour', which there is not"),
        ("runs: [{dataset: digits, niter: 0}]", "Option niter is 0"),
        ("runs: [{dataset: digits, preset: huge}]", "Option preset is 'huge'"),
        ("runs: [{dataset: digits, equalise: maybe}]", "equalise is 'maybe'"),
        ("runs: [{dataset: nothing, normal_class: all}]", "all classes of an unknown data set"),
        ("runs: [{dataset: digits, draw: 2026-01-01}]", "a date or another value"),
        ("runs: [{dataset: digits, draw: !!python/object:os.system x}]", "is no YAML file"),
        ("a: &a [x, x]\nruns: [{dataset: *a}]", "references"),
        (
            "runs: [{dataset: digits, seed: [" + "1," * 400 + "], draw: [" + "1," * 400 + "]}]",
            "runs",
        ),
        ("\x00", "is no YAML file"),
        ("[" * 3000, "nested too deeply|is no YAML file"),
    ],
)
def test_a_wrong_grid_is_refused_in_a_sentence(tmp_path, text, words):
    with pytest.raises(GridError, match=words) as caught:
        read_grid(grid(tmp_path / "g.yaml", text))
    assert "\n" not in str(caught.value)


def test_too_many_runs_are_refused_before_they_are_counted_out(tmp_path):
    numbers = ",".join(map(str, range(400)))
    text = f"runs: [{{dataset: digits, seed: [{numbers}], draw: [{numbers}]}}]"
    with pytest.raises(GridError, match="more than 100,000 runs"):
        read_grid(grid(tmp_path / "g.yaml", text))


@pytest.mark.parametrize("path", sorted(GRIDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_grids_of_the_course_can_be_read(path):
    runs = read_grid(path)
    counts = {
        **{"table1": 3 * 41, "table2": 3 * 41, "table3": 3 * 41, "table4": 60, "table5": 270},
        **{"table6": 480, "table7": 135, "smoke": 8, "both": 3 * 2 * 45, "laptop": 72},
    }
    assert len(runs) == counts[path.stem]


def test_a_run_that_cannot_be_done_is_named_before_any_begins():
    assert check_runs([Run(ONE)]) == [20]
    with pytest.raises(GridError, match=r"cannot be done: .* has no class 'x'"):
        check_runs([Run(ONE), Run({**ONE, "normal_class": "x"})])
    with pytest.raises(GridError, match="but 999 are asked for"):
        check_runs([Run({**ONE, "shots": 999})])


def test_paths_are_seen_from_where_the_sweep_was_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = resolved(Run({**ONE, "train": "good"}))
    assert run.parameters["train"] == str(tmp_path / "good")
    assert run.parameters["data_root"] == str(tmp_path / "data")


# --- Machines ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_runs", "cores", "gpus", "workers", "threads", "places"),
    [
        (9, 2, 0, None, None, ([None, None], 1)),
        (1, 2, 0, None, None, ([None], 2)),  # one run has the whole machine
        (3, 16, 0, None, None, ([None] * 3, 5)),
        (99, 16, 0, None, 4, ([None] * 4, 4)),
        (99, 16, 0, 2, None, ([None] * 2, 8)),
        (99, 16, 4, None, None, ([0, 1, 2, 3], 4)),  # one process a GPU
        (2, 16, 4, None, None, ([0, 1], 8)),
        (99, 16, 2, 4, None, ([0, 1, 0, 1], 4)),  # they take turns
        (1, 1, 0, None, 8, ([None], 8)),
    ],
)
def test_how_a_machine_is_divided(n_runs, cores, gpus, workers, threads, places):
    assert cluster.divide(n_runs, cores, gpus, workers, threads) == places


def test_a_process_sees_its_gpu_alone():
    assert cluster.environment(3, 2)["CUDA_VISIBLE_DEVICES"] == "3"
    assert cluster.environment(None, 2) == {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}


def test_jobs_of_slurm_have_the_options_that_were_given():
    pytest.importorskip("dask_jobqueue")
    options = {"queue": "gpu", "walltime": "02:00:00", "memory": "8GB", "cores": 4}
    with cluster.slurm_jobs(options) as jobs:
        script = jobs.job_script()
    for words in ("-p gpu", "-t 02:00:00", "--cpus-per-task=4", "--mem=8G"):
        assert words in script
    assert script.rstrip().endswith("--nthreads 1")  # one run at a time, with four cores


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scheduler", "tcp://127.0.0.1:9"], "No Dask scheduler answers at tcp://127.0.0.1:9"),
        (["--slurm", "queue"], "--slurm has 'queue', but takes NAME=VALUE"),
        (["--slurm", "colour=red"], "Slurm does not take the jobs: "),
        (["--workers", "0"], "--workers is 0, but it must be at least 1"),
        (["--retries", "-1"], "--retries is -1, but it must be at least 0"),
    ],
)
def test_what_is_refused_of_clusters(tmp_path, words, message, capsys, monkeypatch):
    distributed = pytest.importorskip("distributed")
    connect = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda at, timeout: connect(at, timeout=1))
    path = grid(tmp_path / "g.yaml", f"runs: [{json.dumps(ONE)}]")
    assert main(["sweep", str(path), "--out", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err


# --- How long it takes ---------------------------------------------------------------------------


def test_the_time_of_runs_that_are_alike_is_measured_once():
    calls = []

    def measure(config, shots):
        calls.append((config.niter, shots))
        return 2.0 * shots, 0.5

    runs = [Run(ONE), Run({**ONE, "seed": 1, "niter": 10}), Run({**ONE, "shots": 3})]
    assert estimated_seconds(runs, [20, 20, 4], measure) == [2 + 10, 20 + 10, 6 + 2]
    assert calls == [(1, 1), (1, 3)]


def test_times_are_measured():
    iteration, image = measured(HTDGConfig.preset("tiny"), 1)
    assert 0 < image < 10
    assert 0 <= iteration < 30


def test_times_in_words():
    assert [in_words(s) for s in (0.2, 61, 120, 7199, 7200)] == [
        *("1 seconds", "61 seconds", "2.0 minutes", "120.0 minutes", "2.0 hours")
    ]


# --- A run ---------------------------------------------------------------------------------------


def test_a_run_that_fails_keeps_its_traceback_and_raises_nothing(tmp_path):
    outcome = do_run("x", {**ONE, "normal_class": "x"}, str(tmp_path / "x"), 1)
    assert outcome.name == "x"
    assert "no class 'x'" in outcome.error
    assert "Traceback" in (tmp_path / "x" / ERROR).read_text()
    assert do_run("x", ONE, str(tmp_path / "x"), 1).error == ""
    assert not (tmp_path / "x" / ERROR).exists()
    written = (tmp_path / "x" / "metrics.json").stat().st_mtime_ns
    assert do_run("x", ONE, str(tmp_path / "x"), 1).error == ""
    assert (tmp_path / "x" / "metrics.json").stat().st_mtime_ns == written  # not done again


def test_a_sweep_goes_on_with_the_threads_that_it_was_begun_with(tmp_path):
    assert threads_of(tmp_path) is None
    record(Sweep(tmp_path, [Run(ONE)], 5))
    assert threads_of(tmp_path) == 5
    (tmp_path / "sweep.json").write_text("{}")
    assert threads_of(tmp_path) is None


# --- Whole sweeps --------------------------------------------------------------------------------

SLOW = """
preset: tiny
niter: 10
limit_per_kind: 2
runs:
  - {dataset: digits, normal_class: 0, draw: [0, 1, 2], evidence: both, distance_min_size: 18,
     distance_max_size: 20}
"""


def htdg(*words, cwd):
    return subprocess.Popen(
        [sys.executable, "-m", "htdg", *words],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def table(out):
    """What ``htdg tables`` says of a sweep, in all digits."""
    path = out.with_suffix(".csv")
    assert main(["tables", str(out), "--csv", str(path)]) == 0
    return path.read_text()


def scores(out):
    """The scores of every run, by its name."""
    return {p.parent.name: p.read_text() for p in sorted(out.glob("runs/*/scores.csv"))}


def processes_below(session):
    """The processes of a session that run."""
    import psutil

    living = []
    for process in psutil.process_iter(["pid", "status"]):
        try:
            same = os.getsid(process.pid) == session
        except ProcessLookupError:
            continue
        if same and process.info["status"] != psutil.STATUS_ZOMBIE:
            living.append(process.pid)
    return living


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The scores of a sweep, run by run in this process, and a grid."""
    place = tmp_path_factory.mktemp("sweep")
    path = grid(place / "g.yaml", SLOW)
    sweep = Sweep(place / "whole", read_grid(path), 1)
    for run in sweep.runs:
        assert do_run(run.name, resolved(run).parameters, str(sweep.folder(run)), 1).error == ""
    record(sweep)
    return path, scores(sweep.out), table(sweep.out)


def until(what, seconds=120):
    """Wait for something to be true."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def last_written(out):
    """When a training of a sweep that is not done last kept its state, or 0."""
    return max((p.stat().st_mtime_ns for p in out.glob("runs/*/model.unfinished/*")), default=0)


def busiest(session):
    """The worker of a session that has computed most."""
    import psutil

    times = {}
    for pid in processes_below(session):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if "spawn_main" in " ".join(process.cmdline()):
                times[pid] = sum(process.cpu_times()[:2])
    return max(times, key=times.get)


@posix
def test_a_sweep_whose_client_and_worker_are_killed_ends_the_same(whole, tmp_path):
    path, expected, expected_table = whole
    words = ("sweep", str(path), "--out", "out", "--workers", "2", "--threads", "1")
    # The client, and with it its scheduler.
    child = htdg(*words, cwd=tmp_path)
    until(lambda: list(tmp_path.glob("out/runs/*/model.unfinished")) or child.poll() is not None)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    until(lambda: processes_below(child.pid) == [])  # its workers end, too
    assert len(scores(tmp_path / "out")) < len(expected)
    # A worker in the middle of its work.
    before = last_written(tmp_path / "out")
    child = htdg(*words, cwd=tmp_path)
    until(lambda: last_written(tmp_path / "out") > before or child.poll() is not None)
    os.kill(busiest(child.pid), signal.SIGKILL)
    said, _ = child.communicate(timeout=300)
    assert child.returncode == 0, said
    assert "Traceback" not in said
    assert scores(tmp_path / "out") == expected
    assert table(tmp_path / "out") == expected_table
    until(lambda: processes_below(child.pid) == [])  # nothing of it stays


@posix
def test_a_sweep_on_a_running_cluster_survives_its_scheduler(whole, tmp_path):
    pytest.importorskip("distributed")
    path, expected, expected_table = whole
    started = []

    def start(program, *more):
        words = [sys.executable, "-m", f"distributed.cli.dask_{program}", *more]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started.append(subprocess.Popen(words, cwd=tmp_path, **quiet))
        return started[-1]

    def cluster_at(file):
        scheduler = start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", file
        )
        until((tmp_path / file).exists)
        start("worker", "--scheduler-file", file, "--nthreads", "2", "--death-timeout", "20")
        return scheduler, json.loads((tmp_path / file).read_text())["address"]

    words = ("sweep", str(path), "--out", "out", "--threads", "1", "--scheduler")
    try:
        scheduler, address = cluster_at("first.json")
        child = htdg(*words, address, cwd=tmp_path)
        until(
            lambda: list(tmp_path.glob("out/runs/*/model.unfinished")) or child.poll() is not None
        )
        scheduler.kill()
        said, _ = child.communicate(timeout=120)
        assert child.returncode == 2, said
        assert said.splitlines()[-1].startswith("htdg: The scheduler is gone. Start it again"), said
        assert len(scores(tmp_path / "out")) < len(expected)
        _, address = cluster_at("second.json")
        child = htdg(*words, address, cwd=tmp_path)
        said, _ = child.communicate(timeout=300)
        assert child.returncode == 0, said
        assert scores(tmp_path / "out") == expected
        assert table(tmp_path / "out") == expected_table
    finally:
        for process in started:
            process.kill()
            process.wait()


@posix
def test_a_second_sweep_into_the_same_folder_is_refused(whole, tmp_path, capsys):
    from htdg.io.locks import only_one

    with only_one(tmp_path / "out"):
        ended = subprocess.run(
            [sys.executable, "-m", "htdg", "sweep", str(whole[0]), "--out", str(tmp_path / "out")],
            capture_output=True,
            text=True,
            check=False,
        )
    assert ended.returncode == 2
    assert f"out is being written by process {os.getpid()}: wait" in ended.stderr


def test_the_smoke_grid_and_its_tables(tmp_path):
    """As the documentation has it: on a local cluster of two processes."""
    words = ("sweep", str(GRIDS / "smoke.yaml"), "--out", "smoke", "--workers", "2")
    child = htdg(*words, cwd=tmp_path)
    said, _ = child.communicate(timeout=300)
    assert child.returncode == 0, said
    assert "8 runs are done: htdg tables smoke\n" in said
    assert "distributed" not in said  # Dask says nothing of its own
    text = table(tmp_path / "smoke")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(r["dataset"], r["class"], r["shots"], r["runs"]) for r in rows] == [
        *[("digits", "0", "1", "2"), ("digits", "0", "5", "2")],
        *[("textures", "brick", "1", "2"), ("textures", "grass", "1", "2")],
    ]
    assert all(0 <= float(row["image_auroc"]) <= 1 for row in rows)
    assert all(row["distance"] for row in rows[2:])
    child = htdg(*words, "--dry-run", cwd=tmp_path)
    said, _ = child.communicate(timeout=100)
    assert said.endswith("8 runs, of which 8 are done; 1 threads each\nNothing is to be done.\n")
