"""Recorded steps: with a stand-in for CUDA graphs, and on a GPU where there is one."""

from functools import cache

import pytest
import torch

from htdg import HTDGConfig
from htdg.fast import backend as fast_backend
from htdg.fast import cuda_graphs
from htdg.fast.backend import FastBackend
from htdg.runtime import memory
from htdg.sampling import freeze
from htdg.training import start_scale

CONFIG = HTDGConfig.preset("tiny", niter=4, milestone_d=2, milestone_g=3, precision="float32")


@pytest.fixture(autouse=True)
def no_failures(monkeypatch):
    monkeypatch.setattr(cuda_graphs, "_failures", [])
    monkeypatch.delenv("HTDG_GRAPHS", raising=False)


def trained(config=CONFIG, device="cpu", sides=(14, 16)):
    """Scales after all their iterations; of the last one the training."""
    rng = torch.Generator().manual_seed(0)
    transformations, scales = config.resolve_transformations(True), []
    backend = FastBackend(config, transformations, torch.device(device))
    for side in sides:
        real = (torch.rand(2, 3, side, side, generator=rng) * 2 - 1).to(device)
        training = start_scale(config, transformations, scales, real, backend)
        for _ in range(config.niter):
            training.step()
        scales.append(freeze(training.scale))
    return training


@cache
def without(config=CONFIG, sides=(14, 16)):
    """The same without recordings."""
    assert fast_backend.recordable is cuda_graphs.recordable
    return trained(config, sides=sides)


def everything(training):
    """What training changed."""
    networks = (training.scale.discriminator, training.scale.generator)
    tensors = [tensor for network in networks for tensor in network.state_dict().values()]
    return [*tensors, *training.history.values()]


def assert_same(one, other):
    for a, b in zip(everything(one), everything(other), strict=True):
        assert torch.equal(a, b)


def state(training):
    """All that a step may change, as groups."""
    return training.backend._changing()


class Graph:
    """Stands in for a CUDA graph: runs the step while recording, but leaves everything as it was.

    Played, it does the step with what lies there then. ``play`` does it another way.
    """

    def __init__(self, monkeypatch, play=lambda step, noise, previous: step(noise, previous)):
        self.recorded, self.now = [], False
        self.play = play
        monkeypatch.setattr(cuda_graphs, "record", self.record)
        monkeypatch.setattr(fast_backend, "recordable", lambda device: not cuda_graphs._failures)

    def record(self, step, noise, previous, device, pool):
        self.recorded.append(step.__name__)
        groups = state(step.__self__)
        before = cuda_graphs._copies(groups)
        self.now = True
        try:
            step(noise, previous)
        finally:
            self.now = False
            cuda_graphs._restore(groups, before)
        lay = noise.clone(), None if previous is None else previous.clone()
        losses = {}

        def replay():
            if self.play is stale:
                losses.update(step(*lay))
            elif self.play is stale_previous:
                losses.update(step(noise, lay[1]))
            else:
                losses.update(self.play(step, noise, previous))

        return replay, losses


@pytest.mark.parametrize("options", [{}, {"method": "no_generator"}, {"layers": 1}], ids=str)
def test_played_steps_are_those_steps(options, monkeypatch):
    config = CONFIG.with_options(**options)
    expected = without(config)
    graph = Graph(monkeypatch)
    played = trained(config)
    assert played.backend.recordings.failed == ""
    assert_same(played, expected)
    # Of each of two scales the 4th of 12 steps, and where a learning rate falls: D's after 2
    # iterations, G's after 3.
    both = ["d_step"] * 6 + ([] if "method" in options else ["g_step"] * 6)
    assert sorted(graph.recorded) == both


def test_most_steps_are_played(monkeypatch):
    played = []
    Graph(monkeypatch, lambda step, *inputs: played.append(step.__name__) or step(*inputs))
    trained(sides=(14,))
    # Of 12 steps of each kind 3 warm up; those that record are played, too, and then undone.
    assert [played.count(kind) for kind in ("d_step", "g_step")] == [9, 9]


def stale(step, noise, previous):
    """Plays with what lay there when it was recorded: see ``Graph``."""


def stale_previous(step, noise, previous):
    """The same of the images of the scale below only."""


def nothing(step, noise, previous):
    """Finds the right losses, but changes nothing."""
    groups = state(step.__self__)
    before = cuda_graphs._copies(groups)
    losses = step(noise, previous)
    cuda_graphs._restore(groups, before)
    return losses


def spoilt(kind):
    """Does the step, and then something to the tensors of a kind."""

    def play(step, noise, previous):
        losses = step(noise, previous)
        training = step.__self__
        adam = training.adam_d if step.__name__ == "d_step" else training.adam_g
        with torch.no_grad():
            if kind == "losses":
                return {name: loss * 1.02 for name, loss in losses.items()}
            if kind == "not a number":
                return {name: loss * torch.nan for name, loss in losses.items()}
            if kind == "a loss less":
                return dict(list(losses.items())[1:])
            if kind == "weights":
                adam.param_groups[0]["params"][0].add_(0.01)
            else:
                for name, buffer in training.scale.discriminator.named_buffers():
                    if name.endswith(kind):
                        buffer.mul_(1.001).add_(1e-3)
        return losses

    return play


def broken(step, noise, previous):
    raise RuntimeError("operation not permitted when stream is capturing\nand more lines")


def unexpected(step, noise, previous):
    raise ValueError


@pytest.mark.parametrize(
    ("play", "why"),
    [
        (stale, "something else than the step"),
        (stale_previous, "something else than the step"),
        (nothing, "something else than the step"),
        (spoilt("weights"), "something else than the step"),
        (spoilt("running_mean"), "something else than the step"),
        (spoilt("running_var"), "something else than the step"),
        (spoilt("losses"), "other losses"),
        (spoilt("not a number"), "other losses"),
        (spoilt("a loss less"), "other losses"),
        (broken, r"\(operation not permitted when stream is capturing\)"),
        (unexpected, r"\(ValueError\)"),
    ],
)
def test_a_recording_that_is_wrong_is_not_used(play, why, monkeypatch):
    config = CONFIG.with_options(niter=17, milestone_d=20, milestone_g=20)
    # A scale below, where there is to be something in ``previous``; statistics that have settled.
    sides = (14, 16) if play is stale_previous else (14,)
    expected = without(config, sides)
    Graph(monkeypatch, play)
    monkeypatch.setattr(cuda_graphs, "WARM_UP", 45)
    with pytest.warns(UserWarning, match=f"could not be recorded as a CUDA graph.*{why}") as warned:
        after = trained(config, sides=sides)
    assert len([w for w in warned if "CUDA graph" in str(w.message)]) == 1
    assert_same(after, expected)


def test_a_step_that_fails_while_it_is_recorded_leaves_no_trace(monkeypatch):
    config = CONFIG.with_options(g_steps=1, niter=6)
    expected = without(config)
    graph = Graph(monkeypatch)
    whole = FastBackend.copies

    def copies(self, images):
        if graph.now and images.requires_grad:  # a G step
            raise RuntimeError("refused")
        return whole(self, images)

    monkeypatch.setattr(FastBackend, "copies", copies)
    with pytest.warns(UserWarning, match=r"\(refused\)"):
        after = trained(config)
    assert graph.recorded[-1] == "g_step"
    assert_same(after, expected)


def test_a_step_beside_the_recordings_that_finds_no_memory_is_done_without_them(monkeypatch):
    expected = without()
    Graph(monkeypatch)
    whole, calls = cuda_graphs.on_side_stream, []

    def short(device, step, noise, previous):
        losses = whole(device, step, noise, previous)
        calls.append(step.__name__)
        if calls.count("d_step") == cuda_graphs.WARM_UP + 1:  # the one that would be recorded
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return losses

    monkeypatch.setattr(cuda_graphs, "on_side_stream", short)
    with pytest.warns(UserWarning, match=r"\(CUDA out of memory\.\)"):
        after = trained()
    assert_same(after, expected)


def test_steps_are_recorded_on_gpus_only_and_not_where_it_is_turned_off(monkeypatch):
    assert [cuda_graphs.recordable(torch.device(d)) for d in ("cpu", "mps")] == [False, False]
    assert cuda_graphs.recordable(torch.device("cuda"))
    monkeypatch.setenv("HTDG_GRAPHS", "0")
    assert not cuda_graphs.recordable(torch.device("cuda"))
    monkeypatch.delenv("HTDG_GRAPHS")
    cuda_graphs._failures.append("once")
    assert not cuda_graphs.recordable(torch.device("cuda"))


def test_recordings_are_counted_in_the_plan_for_memory(monkeypatch):
    monkeypatch.setattr(memory, "total_memory", lambda device: 2**26)
    cuda = torch.device("cuda")
    backend = FastBackend(CONFIG, CONFIG.resolve_transformations(True), cuda)
    plan = (backend, (41,), 80, 0, cuda)
    recorded = memory.images_at_once(*plan)
    monkeypatch.setenv("HTDG_GRAPHS", "0")
    assert 1 < recorded < memory.images_at_once(*plan) <= 2 * recorded + 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_on_a_gpu_played_steps_do_what_the_steps_do(precision, monkeypatch):
    config = CONFIG.with_options(precision=precision, niter=6)
    plays = []
    whole = cuda_graphs.record

    def counted(*inputs):
        play, losses = whole(*inputs)
        return lambda: plays.append(1) or play(), losses

    monkeypatch.setattr(cuda_graphs, "record", counted)
    recorded = trained(config, "cuda")
    assert recorded.backend.recordings.failed == ""
    assert len(plays) == 2 * 2 * (18 - cuda_graphs.WARM_UP)  # of two scales and two kinds
    monkeypatch.setenv("HTDG_GRAPHS", "0")
    expected = trained(config, "cuda")
    for name, losses in recorded.history.items():
        torch.testing.assert_close(losses, expected.history[name], rtol=0.02, atol=0.02)


def wrongly_played(monkeypatch, wrong):
    """Real recordings that do something else: see the test below. What is played is returned."""
    whole, plays = cuda_graphs.record, []

    def record(step, noise, previous, device, pool):
        lay = (noise.clone(), None if previous is None else previous.clone())
        play, losses = whole(step, *(lay if wrong == "stale" else (noise, previous)), device, pool)
        weight = step.__self__.adam_d.param_groups[0]["params"][0]

        def spoilt():
            plays.append(step.__name__)
            play()
            with torch.no_grad():
                if wrong == "weights":
                    weight.add_(0.01)
                elif wrong == "losses":
                    for loss in losses.values():
                        loss.mul_(1.02)

        return spoilt, losses

    monkeypatch.setattr(cuda_graphs, "record", record)
    return plays


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("stale", "something else than the step"),
        ("weights", "something else than the step"),
        ("losses", "other losses than the step"),
    ],
)
@pytest.mark.parametrize(
    "device",
    [
        "cpu",  # shows that the test itself works
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
        ),
    ],
)
def test_on_a_gpu_a_recording_that_is_wrong_is_not_used(device, wrong, why, monkeypatch):
    # Few iterations: rounding, which training amplifies, is to stay far below the limit.
    config = CONFIG.with_options(niter=6, milestone_d=20, milestone_g=20)
    monkeypatch.setenv("HTDG_GRAPHS", "0")
    expected = trained(config, device, (14,))
    monkeypatch.delenv("HTDG_GRAPHS")
    if device == "cpu":
        Graph(monkeypatch)
    monkeypatch.setattr(cuda_graphs, "WARM_UP", 15)  # of 18 steps of each kind
    plays = wrongly_played(monkeypatch, wrong)
    with pytest.warns(UserWarning, match=f"could not be recorded as a CUDA graph.*{why}"):
        after = trained(config, device, (14,))
    assert plays == ["d_step"]  # it was reached, and was the last
    assert why in after.backend.recordings.failed
    for name, losses in after.history.items():
        torch.testing.assert_close(losses, expected.history[name], rtol=0.02, atol=0.02)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_an_iteration_does_not_wait_for_it(monkeypatch):
    monkeypatch.setenv("HTDG_GRAPHS", "0")
    training = trained(CONFIG.with_options(niter=2), "cuda")
    training.iteration = 0
    torch.cuda.set_sync_debug_mode("error")
    try:
        training.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
