"""Recorded steps: with a stand-in for CUDA graphs, and on a GPU where there is one."""

import pytest
import torch

from htdg import HTDGConfig, recording, training
from htdg.training import start_scale

CONFIG = HTDGConfig.preset("tiny", niter=4, milestone_d=2, milestone_g=3, precision="float32")


def trained(config=CONFIG, device="cpu"):
    """A scale after all its iterations."""
    rng = torch.Generator().manual_seed(0)
    real = (torch.rand(2, 3, 14, 14, generator=rng) * 2 - 1).to(device)
    found = start_scale(config, config.resolve_transformations(True), [], real)
    for _ in range(config.niter):
        found.step()
    return found


def everything(scale):
    """What training changed, by name."""
    networks = (scale.scale.discriminator, scale.scale.generator)
    tensors = [tensor for network in networks for tensor in network.state_dict().values()]
    return [*tensors, *scale.history.values()]


class Graph:
    """Stands in for a CUDA graph: nothing happens until it is played, with what lies there then."""

    def __init__(self, monkeypatch, play=lambda step, noise, previous: step(noise, previous)):
        self.recorded = []
        self.play = play
        monkeypatch.setattr(recording, "record", self.record)
        monkeypatch.setattr(training, "recordable", lambda device: True)

    def record(self, step, noise, previous, stream):
        losses = {}
        self.recorded.append(step.__name__)
        return lambda: losses.update(self.play(step, noise, previous)), losses


@pytest.mark.parametrize("method", ["htdg", "no_generator"])
def test_played_steps_are_those_steps(method, monkeypatch):
    config = CONFIG.with_options(method=method)
    expected = everything(trained(config))
    graph = Graph(monkeypatch)
    found = trained(config)
    assert not any(r.failed for r in found.recordings.values())
    for one, other in zip(everything(found), expected, strict=True):
        assert torch.equal(one, other)
    # The 4th of 12 steps, and where the learning rate falls: after 2 iterations for D, 3 for G.
    of_g = ["g_step"] * 2 if method == "htdg" else []
    assert sorted(graph.recorded) == ["d_step"] * 2 + of_g


def test_most_steps_are_played(monkeypatch):
    played = []
    Graph(monkeypatch, lambda step, *given: played.append(step.__name__) or step(*given))
    trained()
    # Of 12 steps of each kind 3 warm up; the one that records is played, too, and then undone.
    assert [played.count(kind) for kind in ("d_step", "g_step")] == [9, 9]


def stale():
    """Plays with what lay there when it was recorded."""
    kept = {}

    def play(step, noise, previous):
        key = step.__name__
        if key not in kept:
            kept[key] = torch.zeros_like(noise), torch.zeros_like(previous)
        return step(*kept[key])

    return play


def nothing(step, noise, previous):
    return {"d_real": torch.zeros(()), "d_fake": torch.zeros(())}


def broken(step, noise, previous):
    raise RuntimeError("operation not permitted when stream is capturing\nand more lines")


@pytest.mark.parametrize(
    ("play", "why"),
    [
        (stale(), "does something else than the step"),
        (nothing, "does something else than the step"),
        (broken, r"\(operation not permitted when stream is capturing\)"),
    ],
)
def test_a_recording_that_is_wrong_is_not_used(play, why, monkeypatch):
    expected = everything(trained())
    Graph(monkeypatch, play)
    with pytest.warns(UserWarning, match=f"could not be recorded as a CUDA graph.*{why}"):
        found = trained()
    assert all(r.failed for r in found.recordings.values())
    for one, other in zip(everything(found), expected, strict=True):
        assert torch.equal(one, other)


def test_steps_are_recorded_on_gpus_only_and_not_where_it_is_turned_off(monkeypatch):
    assert [recording.recordable(torch.device(d)) for d in ("cpu", "mps")] == [False, False]
    assert recording.recordable(torch.device("cuda"))
    monkeypatch.setenv("HTDG_GRAPHS", "0")
    assert not recording.recordable(torch.device("cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_on_a_gpu_played_steps_do_what_the_steps_do(precision, monkeypatch):
    config = CONFIG.with_options(precision=precision, niter=6)
    found = trained(config, "cuda")
    assert not any(r.failed for r in found.recordings.values())
    monkeypatch.setenv("HTDG_GRAPHS", "0")
    expected = trained(config, "cuda")
    for name, losses in found.history.items():
        torch.testing.assert_close(losses, expected.history[name], rtol=0.02, atol=0.02)
