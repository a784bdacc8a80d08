"""The plan for several training images: how many at a time, and what chunks compute."""

import pytest
import torch

from htdg import HTDGConfig, HTDGDetector
from htdg.runtime import memory
from htdg.runtime.memory import bytes_per_image, images_at_once
from htdg.training import chunks_of, start_scale
from htdg.transformations import CATALOGUE

CPU = torch.device("cpu")
GIB = 2**30


@pytest.mark.parametrize(
    ("count", "at_once", "sizes"),
    [(1, 0, [1]), (7, 0, [7]), (10, 4, [3, 3, 4]), (8, 4, [4, 4]), (3, 5, [3]), (5, 1, [1] * 5)],
)
def test_chunks_are_few_and_alike(count, at_once, sizes):
    chunks = chunks_of(count, at_once)
    assert [c.stop - c.start for c in chunks] == sizes
    assert [i for c in chunks for i in range(c.start, c.stop)] == list(range(count))


def test_what_an_image_takes():
    config = HTDGConfig(translation="pixel")
    # 80,818 pixels of canvases, 64 channels, 4 bytes.
    expected = 4 * memory.KEPT_LAYERS * 80_818 * 64
    assert bytes_per_image(config, CATALOGUE, 4, 64) == expected
    plain = bytes_per_image(config.with_options(fast=False), CATALOGUE, 4, 64)
    assert plain == 4 * memory.KEPT_LAYERS_PLAIN * 54 * 64 * 64 * 64


@pytest.mark.parametrize("translation", ["pixel", "stretched", "resampled"])
@pytest.mark.parametrize(("shots", "gib"), [(1, 2), (10, 8), (50, 20), (80, 20), (80, 1)])
def test_the_plan_keeps_within_its_share_of_the_memory(monkeypatch, translation, shots, gib):
    monkeypatch.setattr(memory, "total_memory", lambda device: gib * GIB)
    config = HTDGConfig(translation=translation)
    found = images_at_once(config, CATALOGUE, config.sides, shots, CPU)
    each = bytes_per_image(config, CATALOGUE, 4, 64)
    assert 1 <= found <= shots
    assert found == 1 or found * each <= memory.SHARE["cpu"] * gib * GIB
    largest = max(c.stop - c.start for c in chunks_of(shots, found))
    fewer = len(chunks_of(shots, found)) - 1
    # One part less would not fit.
    assert fewer == 0 or -(-shots // fewer) * each > memory.SHARE["cpu"] * gib * GIB
    assert largest <= found


def test_what_is_asked_for_goes(monkeypatch):
    monkeypatch.setattr(memory, "total_memory", lambda device: GIB)
    config = HTDGConfig(images_at_once=3)
    assert images_at_once(config, CATALOGUE, config.sides, 80, CPU) == 3
    assert images_at_once(config, CATALOGUE, config.sides, 2, CPU) == 2


def test_the_memory_of_this_machine_is_known():
    assert 2**28 < memory.total_memory(CPU) < 2**50


def images(count, side=14):
    rng = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, side, side, generator=rng, dtype=torch.float64) * 2 - 1


def double(training):
    """The same in float64, so that only a mistake makes a difference."""
    training.scale.generator.double()
    training.scale.discriminator.double()
    return training


@pytest.mark.parametrize("fast", [True, False])
def test_chunks_add_up_to_what_they_are_by_themselves(fast):
    """A step over two chunks has the mean of the two chunks' losses and gradients, to 1e-9."""
    config = HTDGConfig.preset("tiny", fast=fast, images_at_once=2)
    transformations = config.resolve_transformations(True)
    real = images(4)
    noise, previous = torch.rand_like(real), torch.rand_like(real)

    def begin(x, index):
        training = double(start_scale(config, transformations, [], x))
        training.index = index
        training.rec_noise = noise[index] * 0.5
        return training

    whole = begin(real, torch.arange(4))
    assert len(whole.chunks) == 2
    parts = [begin(real[i], i) for i in torch.arange(4).split(2)]
    assert all(len(part.chunks) == 1 for part in parts)
    for step, network in (("d_step", "discriminator"), ("g_step", "generator")):
        found = getattr(whole, step)(noise, previous)
        alone = [getattr(p, step)(noise[p.index], previous[p.index]) for p in parts]
        for name, value in found.items():
            expected = sum(float(losses[name]) for losses in alone) / 2
            assert float(value) == pytest.approx(expected, rel=1e-9)
        own = list(getattr(whole.scale, network).parameters())
        theirs = [list(getattr(p.scale, network).parameters()) for p in parts]
        for i, parameter in enumerate(own):
            mean = (theirs[0][i].grad + theirs[1][i].grad) / 2
            torch.testing.assert_close(parameter.grad, mean, rtol=1e-7, atol=1e-9)
        for part in parts:  # go on from the same weights
            for kind in ("discriminator", "generator"):
                state = getattr(whole.scale, kind).state_dict()
                getattr(part.scale, kind).load_state_dict(state)


def test_statistics_are_the_chunks_own():
    """What differs from all at once: with chunks the losses are others, and close."""
    losses = {}
    for at_once in (0, 2):
        config = HTDGConfig.preset("tiny", images_at_once=at_once)
        transformations = config.resolve_transformations(True)
        training = double(start_scale(config, transformations, [], images(4)))
        noise = torch.rand_like(training.real)
        losses[at_once] = float(training.d_step(noise, noise)["d_real"])
    assert losses[0] != pytest.approx(losses[2], rel=1e-7)
    assert losses[0] == pytest.approx(losses[2], rel=0.05)


def test_the_plan_is_said_kept_and_followed_when_going_on(brick, tmp_path, monkeypatch, capsys):
    config = HTDGConfig.preset("tiny", niter=2)
    one = bytes_per_image(config, config.resolve_transformations(True), 3, 20)
    monkeypatch.setattr(memory, "total_memory", lambda device: int(one / 0.5 * 1.5))
    pair = brick[0][:2]
    straight = HTDGDetector(config).fit(pair)
    assert (
        "of 2 training images at most 1 at a time go through the networks, so that memory"
        in capsys.readouterr().err
    )
    assert straight.images_at_once == 1
    straight.save(tmp_path / "model")
    assert HTDGDetector.load(tmp_path / "model", device="cpu").images_at_once == 1

    def stop(state):
        if (state.scale, state.iteration) == (2, 1):
            raise KeyboardInterrupt

    broken = {"checkpoint": tmp_path / "begun", "checkpoint_seconds": 0.0, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        HTDGDetector(config).fit(pair, callback=stop, **broken)
    # Going on where there is more memory must not change the result.
    monkeypatch.setattr(memory, "total_memory", lambda device: 64 * GIB)
    resumed = HTDGDetector(config).fit(pair, **broken)
    assert resumed.images_at_once == 1
    assert torch.equal(resumed.sample(2), straight.sample(2))
    assert not torch.equal(
        HTDGDetector(config).fit(pair, progress=False).sample(2), straight.sample(2)
    )
