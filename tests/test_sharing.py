"""One model trained by several processes: two of them against one, and what happens to them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from htdg import HTDGDetector
from htdg.backend import PlainBackend
from htdg.fast.backend import FastBackend
from htdg.fast.canvases import CanvasPlan, canvases_of, dealt_out
from htdg.fast.ranks import Ranks, RanksError, device_of_rank
from htdg.fast.sharing import SharingBackend
from htdg.transformations import CATALOGUE
from tests.ranks_worker import TINY, TRAININGS, trained

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
posix = pytest.mark.skipif(os.name != "posix", reason="signals differ")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def start(*words, options=()):
    """Two processes with a thread each, in a session of their own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*TORCHRUN, *options, "-m", *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process, seconds=180):
    """What it printed and its exit code; nothing of it is left."""
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out, err


# --- What two processes find ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """What tests/ranks_worker.py writes."""
    out = tmp_path_factory.mktemp("ranks")
    code, _, err = finish(start("tests.ranks_worker", str(out)), 300)
    assert code == 0, err
    return torch.load(out / "values.pt", weights_only=True)


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_what_one_does(shared, name):
    """All weights, running statistics and losses, after two scales."""
    expected = trained(*TRAININGS[name], FastBackend)
    assert expected.keys() == shared[name].keys()
    for key, value in expected.items():
        torch.testing.assert_close(shared[name][key].double(), value.double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["pixel", "in chunks"])
def test_two_processes_train_what_the_plain_way_does(shared, name):
    """The same, against the M copies one by one."""
    for key, value in trained(*TRAININGS[name], PlainBackend).items():
        torch.testing.assert_close(shared[name][key].double(), value.double(), atol=1e-5, rtol=0)


def test_statistics_of_each_process_alone_would_train_something_else(shared):
    """Hence the ones above are synchronised; docs/several_devices.md has the figures."""
    apart, together = shared["apart"]["0.d_fake"], shared["pixel"]["0.d_fake"]
    assert (apart - together).abs().max() > 0.05


def test_ddp_does_not_reduce_gradients_written_by_hand(shared):
    """Its hooks wait for a forward pass through it, which the losses on canvases never make."""
    own, ddp, mean = (shared["ddp"][key] for key in ("own", "ddp", "mean"))
    assert ddp.equal(own)
    assert (ddp - mean).abs().max() > 0.1 * own.abs().max()


# --- How canvases and devices are dealt out ------------------------------------------------------


@pytest.mark.parametrize("translation", ["pixel", "stretched", "resampled"])
@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_canvases_are_dealt_out_evenly_each_to_one(translation, parts):
    canvases = canvases_of(CATALOGUE, 41, translation)
    hands = [dealt_out(canvases, (i, parts)) for i in range(parts)]
    assert sorted(repr(c) for hand in hands for c in hand) == sorted(map(repr, canvases))
    pixels = [sum(c.height * c.width for c in hand) for hand in hands]
    assert max(pixels) - min(pixels) <= max(c.height * c.width for c in canvases)
    plans = [CanvasPlan(CATALOGUE, 41, translation, 5, CPU, 1, (i, parts)) for i in range(parts)]
    numbers = torch.cat([w[:, 0] for plan in plans for w in plan.windows])
    assert sorted(numbers.tolist()) == list(range(54))


@pytest.mark.parametrize(
    ("device", "local_rank", "expected"),
    [("cpu", 3, "cpu"), ("cuda", 0, "cuda:0"), ("cuda", 1, "cuda:1")],
)
def test_each_process_has_its_own_gpu(monkeypatch, device, local_rank, expected):
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    assert device_of_rank(torch.device(device), lambda: 2) == torch.device(expected)


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("cuda", "more processes than GPUs here, 2: give torchrun --nproc-per-node=2"),
        ("cuda:1", "Option device is 'cuda:1'"),
        ("mps", "Option device is 'mps'"),
    ],
)
def test_devices_that_do_not_do_are_refused(monkeypatch, device, words):
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(RanksError, match=words):
        device_of_rank(torch.device(device), lambda: 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fast": False}, "leave --no-fast out"),
        (
            {"evidence": "distance", "distance_min_size": 18, "distance_max_size": 20},
            "nothing is trained",
        ),
        ({"method": "mse"}, "'mse'"),
        ({"method": "geom"}, "'geom'"),
        ({"transformations": "rotations"}, "5 processes cannot share 4 groups of copies"),
    ],
)
def test_what_several_processes_cannot_train_is_refused(brick, options, words):
    detector = HTDGDetector("tiny", **options)
    with pytest.raises(RanksError, match=words):
        detector.fit(brick[0][0], progress=False, ranks=_Alone(0, 5, CPU))


class _Alone(Ranks):
    """One of several processes, whose others do not exist."""

    def sum(self, values):
        return values

    def check_same(self, number, what):
        pass


def test_memory_is_that_of_one_process():
    """So that as many images go through at once, wherever a model is trained."""
    ours = SharingBackend(TINY, CATALOGUE, CPU, _Alone(1, 2, CPU)).training_bytes(0, 18)
    assert ours == FastBackend(TINY, CATALOGUE, CPU).training_bytes(0, 18)


# --- The command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def normal(tmp_path_factory):
    """The words of a training on two images that takes a few seconds, without --out."""
    images = sorted((ROOT / "data" / "textures" / "brick" / "train" / "good").iterdir())[:2]
    options = "--preset tiny --niter 4 --transformations grey42 --translation pixel --device cpu"
    return ["htdg", "train", *map(str, images), *options.split()]


@pytest.fixture(scope="module")
def undisturbed(normal, tmp_path_factory):
    """The model that two processes make of it, and what they printed."""
    out = tmp_path_factory.mktemp("undisturbed") / "model"
    code, printed, err = finish(start(*normal, "--out", str(out)))
    assert code == 0, err
    return out, printed, err


def test_torchrun_trains_a_model(undisturbed, normal, tmp_path):
    """That says so, with what one process records at first; only one of them writes and speaks."""
    out, printed, err = undisturbed
    assert printed == f"{out}\n"
    assert err.count("scales of 4 iterations trained") == 1
    assert [path.name for path in out.parent.iterdir()] == ["model"]
    model = HTDGDetector.load(out)
    machine = model.trained_with_["machine"]
    assert ", 1 threads, with compiled helpers, " in machine
    assert machine.endswith(", 2 processes")
    one = HTDGDetector("tiny", niter=1, transformations="grey42", translation="pixel", device="cpu")
    one.fit(normal[2:4], progress=False)
    for name in ("d_real", "d_fake", "g_adversarial", "g_reconstruction"):
        first = model.history_[0][name][0]
        assert first == pytest.approx(one.history_[0][name][0], abs=2e-4)


@posix
def test_a_training_whose_processes_are_killed_goes_on(undisturbed, normal, tmp_path):
    """To the same weights, bit for bit: when it is started again, and where torchrun does that."""
    out, unfinished = tmp_path / "model", tmp_path / "model.unfinished"
    description = unfinished / "config.json"

    def written():
        return description.stat().st_mtime_ns if description.exists() else 0

    def killed(rank, *more):
        """What a training said and its exit code, of which a process is killed on its way."""
        before = written()
        process = start(*normal, "--out", str(out), options=more)
        until = time.monotonic() + 120
        while written() == before and time.monotonic() < until:
            time.sleep(0.05)
        ranks = psutil.Process(process.pid).children(recursive=True)
        (one,) = [child for child in ranks if child.environ().get("RANK") == str(rank)]
        one.kill()
        return finish(process)

    code, printed, _ = killed(1)
    assert code != 0
    assert printed == ""
    assert unfinished.exists()
    assert not out.exists()

    code, printed, err = killed(0, "--max-restarts=1")
    assert code == 0, err
    assert printed == f"{out}\n"
    assert err.count(f"going on with {unfinished}") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    ours, theirs = HTDGDetector.load(out), HTDGDetector.load(undisturbed[0])
    for a, b in zip(ours.scales_, theirs.scales_, strict=True):
        for kind in ("generator", "discriminator"):
            states = getattr(b, kind).state_dict()
            assert all(v.equal(states[k]) for k, v in getattr(a, kind).state_dict().items())


@posix
def test_a_process_that_crashes_at_its_end_does_not_cost_the_model(normal, tmp_path):
    """Although torchrun stops the first process as soon as another has crashed."""
    out = tmp_path / "model"
    words = [*normal[2:4], "--preset", "tiny", "--niter", "1", "--device", "cpu", "--out", str(out)]
    code, _, err = finish(start("tests.ends_badly", "train", *words))
    assert code != 0
    assert "Signal 6 (SIGABRT)" in err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert len(HTDGDetector.load(out).scales_) == 4


def test_what_the_first_process_refuses_ends_the_others(undisturbed, normal):
    """They do not wait for it for ever, and say nothing."""
    code, printed, err = finish(start(*normal, "--out", str(undisturbed[0])), 60)
    assert (code, printed) == (1, "")
    assert err.count(f"htdg: {undisturbed[0]} is there already: choose another --out") == 1
