"""The plan for several training images: how many at a time, and what chunks compute."""

import pytest
import torch

from htdg import HTDGConfig, HTDGDetector
from htdg.backend import PlainBackend
from htdg.fast.backend import FastBackend
from htdg.fast.canvases import canvas_plan
from htdg.runtime import memory
from htdg.runtime.memory import images_at_once
from htdg.training import LOSSES, chunks_of, start_scale
from htdg.transformations import CATALOGUE
from tests.models import Stop, stop_at

CPU = torch.device("cpu")
GIB = 2**30
BOTH = pytest.mark.parametrize("kind", [PlainBackend, FastBackend])


@pytest.mark.parametrize(
    ("count", "at_once", "sizes"),
    [(1, 0, [1]), (7, 0, [7]), (10, 4, [3, 3, 4]), (8, 4, [4, 4]), (3, 5, [3]), (5, 1, [1] * 5)],
)
def test_chunks_are_few_and_alike(count, at_once, sizes):
    chunks = chunks_of(count, at_once)
    assert [c.stop - c.start for c in chunks] == sizes
    assert [i for c in chunks for i in range(c.start, c.stop)] == list(range(count))


@BOTH
@pytest.mark.parametrize("translation", ["pixel", "stretched", "resampled"])
@pytest.mark.parametrize(("shots", "gib"), [(1, 2), (10, 8), (50, 20), (80, 20), (80, 1)])
def test_the_plan_keeps_within_its_share_of_the_memory(monkeypatch, kind, translation, shots, gib):
    monkeypatch.setattr(memory, "total_memory", lambda device: gib * GIB)
    config = HTDGConfig(translation=translation)
    backend = kind(config, CATALOGUE, CPU)
    at_once = images_at_once(backend, config.sides, shots, 0, CPU)
    image_bytes = backend.training_bytes(4, 64)
    assert 1 <= at_once <= shots
    assert at_once == 1 or at_once * image_bytes <= memory.SHARE["cpu"] * gib * GIB
    largest = max(c.stop - c.start for c in chunks_of(shots, at_once))
    fewer = len(chunks_of(shots, at_once)) - 1
    # One part less would not fit.
    assert fewer == 0 or -(-shots // fewer) * image_bytes > memory.SHARE["cpu"] * gib * GIB
    assert largest <= at_once


def test_what_is_asked_for_goes(monkeypatch):
    monkeypatch.setattr(memory, "total_memory", lambda device: GIB)
    config = HTDGConfig(images_at_once=3)
    backend = FastBackend(config, CATALOGUE, CPU)
    assert images_at_once(backend, config.sides, 80, 3, CPU) == 3
    assert images_at_once(backend, config.sides, 2, 3, CPU) == 2


def test_a_plan_without_scales_takes_all(monkeypatch):
    """The ablation mse trains none."""
    monkeypatch.setattr(memory, "total_memory", lambda device: 100)
    assert images_at_once(PlainBackend(HTDGConfig(), CATALOGUE, CPU), (), 7, 0, CPU) == 7


def test_the_memory_of_this_machine_is_known():
    assert 2**28 < memory.total_memory(CPU) < 2**50


def images(count, side=14, dtype=torch.float64):
    rng = torch.Generator().manual_seed(1)
    values = torch.rand(count, 3, side, side, generator=rng, dtype=torch.float64)
    return (values * 2 - 1).to(dtype)


def double(training):
    """The same in float64, so that only a mistake makes a difference."""
    training.scale.generator.double()
    training.scale.discriminator.double()
    return training


@BOTH
@pytest.mark.parametrize(
    ("at_once", "sizes"), [(2, [2, 2]), (2, [1, 2]), (3, [2, 3]), (3, [2, 3, 3]), (2, [2])], ids=str
)
def test_chunks_add_up_to_what_they_are_by_themselves(kind, at_once, sizes):
    """A step's losses and gradients are the means over images of the chunks', to 1e-9."""
    config = HTDGConfig.preset("tiny", images_at_once=at_once, precision="float32")
    transformations = config.resolve_transformations(True)
    count = sum(sizes)
    real = images(count)
    noise, previous = torch.rand_like(real), torch.rand_like(real)

    def begin(x, index):
        backend = kind(config, transformations, CPU)
        training = double(start_scale(config, transformations, [], x, backend))
        training.index = index
        training.rec_noise = noise[index] * 0.5
        return training

    whole = begin(real, torch.arange(count))
    assert [c.stop - c.start for c in whole.chunks] == sizes
    assert sum(whole.shares) == pytest.approx(1, abs=1e-12)
    assert whole.shares == pytest.approx([size / count for size in sizes], abs=1e-12)
    parts = [begin(real[i], i) for i in torch.arange(count).split(sizes)]
    assert all(len(part.chunks) == 1 and part.shares == [1] for part in parts)

    def mean(values):
        return sum(v * size / count for v, size in zip(values, sizes, strict=True))

    for step, network in (("d_step", "discriminator"), ("g_step", "generator")):
        together = getattr(whole, step)(noise, previous)
        alone = [getattr(p, step)(noise[p.index], previous[p.index]) for p in parts]
        for name, value in together.items():
            expected = mean([float(losses[name]) for losses in alone])
            assert float(value) == pytest.approx(expected, rel=1e-9)
        parameters = list(getattr(whole.scale, network).parameters())
        of_parts = [list(getattr(p.scale, network).parameters()) for p in parts]
        for i, parameter in enumerate(parameters):
            expected = mean([of_part[i].grad for of_part in of_parts])
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-7, atol=1e-9)
        for part in parts:  # go on from the same weights
            for name in ("discriminator", "generator"):
                state = getattr(whole.scale, name).state_dict()
                getattr(part.scale, name).load_state_dict(state)


@pytest.mark.parametrize(
    ("translation", "shots", "at_once", "side", "layout", "recorded"),
    [
        # A chunk of 1 by itself would have all 8 canvases at 26 x 26.
        pytest.param(
            *("pixel", 3, 2, 20, [(2, 26), (6, 23)]),
            (3.767899, 3.740587, 3.772557, 0.3389667),
            id="3 grey images by 2",
        ),
        # A chunk of 2 by itself would have 9 canvases at 22 x 22.
        pytest.param(
            *("stretched", 5, 3, 18, [(3, 22), (6, 20), (16, 18)]),
            (4.009495, 4.023097, 4.015508, 0.3413802),
            id="5 colour images by 3",
        ),
    ],
)
def test_the_canvases_of_all_chunks_are_laid_out_for_the_largest(
    monkeypatch, translation, shots, at_once, side, layout, recorded
):
    """And the first iteration has the losses that were recorded before there were backends."""
    transformations = CATALOGUE[: 42 if translation == "pixel" else 54]
    config = HTDGConfig.preset(
        "tiny", translation=translation, images_at_once=at_once, precision="float32", seed=3
    )
    drawn, copies = [], FastBackend.copies

    def recording(backend, x):
        drawn.append((len(x), copies(backend, x)))
        return drawn[-1][1]

    monkeypatch.setattr(FastBackend, "copies", recording)
    backend = FastBackend(config, transformations, CPU)
    real = images(shots, side, torch.float32)
    training = start_scale(config, transformations, [], real, backend)
    training.step()
    smaller, larger = shots - at_once, at_once
    # Once the real copies of both chunks, then generated ones at each D and G step.
    steps = config.d_steps + config.g_steps
    assert [count for count, _ in drawn] == [smaller, larger] * (1 + steps)
    for count, of_chunk in drawn:
        assert [sheet.shape for sheet in of_chunk.sheets] == [
            (count * canvases, 3, length, length) for canvases, length in layout
        ]
        plan = (transformations, side, translation, config.layers, CPU, larger)
        assert of_chunk.plan is canvas_plan(*plan)
    losses = [float(training.history[name][0]) for name in LOSSES]
    assert losses == pytest.approx(recorded, rel=1e-5)


def test_every_chunk_has_batch_statistics_of_its_own():
    """What differs from all at once: with chunks the losses are others, and close."""
    losses = {}
    for at_once in (0, 2):
        config = HTDGConfig.preset("tiny", images_at_once=at_once, precision="float32")
        transformations = config.resolve_transformations(True)
        training = double(start_scale(config, transformations, [], images(4)))
        noise = torch.rand_like(training.real)
        losses[at_once] = float(training.d_step(noise, noise)["d_real"])
    assert losses[0] != pytest.approx(losses[2], rel=1e-7)
    assert losses[0] == pytest.approx(losses[2], rel=0.05)


def test_the_plan_is_said_kept_and_followed_when_going_on(brick, tmp_path, monkeypatch, capsys):
    config = HTDGConfig.preset("tiny", niter=2)
    backend = FastBackend(config, config.resolve_transformations(True), CPU)
    image_bytes = backend.training_bytes(3, 20)
    monkeypatch.setattr(memory, "total_memory", lambda device: int(image_bytes / 0.5 * 1.5))
    two = brick[0][:2]
    straight = HTDGDetector(config).fit(two)
    sentence = (
        "of 2 training images at most 1 at a time go through the networks, to fit into memory"
    )
    assert sentence in capsys.readouterr().err
    assert straight.images_at_once_ == 1
    straight.save(tmp_path / "model")
    assert HTDGDetector.load(tmp_path / "model", device="cpu").images_at_once_ == 1

    place = {"checkpoint": tmp_path / "begun", "checkpoint_seconds": 0.0}
    with pytest.raises(Stop):
        HTDGDetector(config).fit(two, callback=stop_at(2, 1), progress=False, **place)
    # Going on where there is more memory must not change the result.
    monkeypatch.setattr(memory, "total_memory", lambda device: 64 * GIB)
    capsys.readouterr()
    resumed = HTDGDetector(config).fit(two, **place)
    assert "as this training was begun" in capsys.readouterr().err
    assert resumed.images_at_once_ == 1
    assert torch.equal(resumed.sample(2), straight.sample(2))
    at_once = HTDGDetector(config).fit(two, progress=False)
    assert at_once.images_at_once_ == 2
    assert not torch.equal(at_once.sample(2), straight.sample(2))


def test_a_number_that_was_asked_for_is_said_and_kept(brick, capsys):
    detector = HTDGDetector("tiny", niter=1, images_at_once=1, device="cpu").fit(brick[0][:2])
    assert "at most 1 at a time go through the networks, as asked for" in capsys.readouterr().err
    assert detector.images_at_once_ == 1
