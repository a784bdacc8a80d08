"""The detector from fit to disk: scores against loops, repeatability, resuming, damaged models."""

import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from htdg import (
    ConfigError,
    HTDGConfig,
    HTDGDetector,
    ImageError,
    ModelError,
    NotFittedError,
    trained,
)
from htdg.fast.voter import voter
from htdg.io import images
from htdg.io import model_directory as storage
from htdg.io.checkpoint import scale_tensors
from htdg.pyramid import resize
from htdg.runtime.device import resolve_device, resolve_precision
from htdg.training import freeze, start_scale
from htdg.transformations import CATALOGUE


class Stop(Exception):
    pass


@pytest.fixture
def saved(tiny, tmp_path):
    tiny.save(tmp_path / "model")
    return tmp_path / "model"


def same_weights(first, second):
    one, two = scale_tensors(first.scales), scale_tensors(second.scales)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


# --- scores -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [None, 0.1])
def test_scores_equal_a_slow_version(tiny, brick, fraction):
    image = brick[1][0].copy()
    per_scale = []
    tensor = torch.from_numpy(image).float()[None, None].expand(1, 3, -1, -1) / 127.5 - 1
    for scale in tiny.scales:
        x = resize(resize(tensor, 20), scale.side)
        total = 0.0
        for k in range(4):  # the preset's transformations are the four rotations
            copy = torch.from_numpy(np.rot90(x[0].numpy(), k, (1, 2)).copy())[None]
            logits = scale.discriminator(copy)[0, :4].detach().double().numpy()
            e = np.exp(logits)
            votes = np.sort((e[k] / e.sum(0)).ravel())
            count = len(votes) if fraction is None else max(1, int(len(votes) * fraction))
            total += votes[:count].mean()
        per_scale.append(total)
    np.testing.assert_allclose(tiny.score_scales(image, fraction)[0], per_scale, atol=1e-5)
    assert tiny.score_samples(image, fraction)[0] == pytest.approx(np.mean(per_scale), abs=1e-5)
    score = 1 - np.mean(per_scale) / 4
    assert tiny.anomaly_score(image, fraction)[0] == pytest.approx(score, abs=1e-5)


def test_one_image_scores_the_same_in_every_form(tiny, brick, tmp_path):
    grey = brick[1][1].copy()
    colour = np.stack([grey] * 3, axis=-1)
    opaque = np.concatenate([colour, np.full_like(grey, 255)[..., None]], axis=-1)
    Image.fromarray(grey).save(tmp_path / "a.png")
    forms = [
        grey,
        grey[..., None],
        colour,
        opaque,
        grey / 255,
        colour.astype(np.float32) / 255,
        grey.astype(np.uint16) * 257,
        torch.from_numpy(grey),
        torch.from_numpy(colour).permute(2, 0, 1),
        torch.from_numpy(grey / 255)[None],
        Image.fromarray(grey),
        Image.fromarray(colour),
        Image.fromarray(opaque),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
    ]
    scores = tiny.anomaly_score(forms)
    np.testing.assert_allclose(scores, scores[0], atol=1e-9)
    alone = [tiny.anomaly_score(form)[0] for form in forms]
    np.testing.assert_allclose(alone, scores, atol=1e-6)


def test_scores_do_not_depend_on_the_batch(tiny, brick):
    together = tiny.score_scales(brick[1])
    for size in (1, 2, 5):
        split = tiny.score_scales(iter(brick[1]), batch_size=size)
        np.testing.assert_allclose(split, together, atol=1e-6)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        tiny.score_scales(brick[1], batch_size=0)


def test_votes_are_what_is_scored(tiny, brick):
    votes = tiny.votes(brick[1][0])
    assert [v.shape for v in votes] == [(4, s - 10, s - 10) for s in tiny.config.sides]
    sums = [v.reshape(4, -1).mean(1).sum() for v in votes]
    np.testing.assert_allclose(sums, tiny.score_scales(brick[1][0])[0], atol=1e-6)


def test_samples_and_reconstruction(tiny, brick):
    assert tiny.sample(3).shape == (3, 3, 20, 20)
    assert torch.equal(tiny.sample(2, seed=1), tiny.sample(2, seed=1))
    assert not torch.equal(tiny.sample(2, seed=1), tiny.sample(2, seed=2))
    image = torch.from_numpy(brick[0][0].copy()).float()[None, None].expand(1, 3, -1, -1)
    image = image / 127.5 - 1
    error = (tiny.reconstruct() - resize(image, 20)).abs().mean()
    assert error < (resize(image, 20).mean() - resize(image, 20)).abs().mean()
    with pytest.raises(ValueError, match="number of samples is 0"):
        tiny.sample(0)


def test_two_training_images(brick):
    model = HTDGDetector("tiny").fit(brick[0], progress=False)
    assert model.reconstruct().shape == (2, 3, 20, 20)
    assert model.scales[1].sigma.shape == (2,)
    assert model.scales[1].sigma[0] != model.scales[1].sigma[1]
    assert model.image_names == ["image 1", "image 2"]


def test_automatic_transformations_follow_the_training_image(brick, tiny_config):
    config = tiny_config.with_options(transformations="auto", niter=1)
    grey = HTDGDetector(config).fit(brick[0][0], progress=False)
    tinted = np.stack([brick[0][0], brick[0][0] // 2, brick[0][0]], axis=-1)
    colour = HTDGDetector(config).fit(tinted, progress=False)
    assert (len(grey.transformations), len(colour.transformations)) == (42, 54)


# --- training -----------------------------------------------------------------------------------


def test_one_seed_trains_one_model(tiny, brick, tiny_config):
    assert same_weights(tiny, HTDGDetector("tiny").fit(brick[0][0], progress=False))
    other = HTDGDetector(tiny_config.with_options(seed=1)).fit(brick[0][0], progress=False)
    assert not same_weights(tiny, other)


def test_the_callback_sees_every_iteration(brick, tiny_config):
    seen = []
    model = HTDGDetector("tiny").fit(
        brick[0][0],
        progress=False,
        callback=lambda s: seen.append((s.scale, s.iteration, s.side, s.losses())),
    )
    sides = tiny_config.sides
    assert [s[:3] for s in seen] == [
        (n, i, side) for n, side in enumerate(sides) for i in (1, 2, 3)
    ]
    for n, i, _, losses in seen:
        for name, value in losses.items():
            assert value == pytest.approx(model.history[n][name][i - 1])
            assert value > 0


def test_the_history_can_be_read_as_json(tiny, tiny_config):
    history = json.loads(json.dumps(tiny.history))
    for scale, side in zip(history, tiny_config.sides, strict=True):
        assert scale["side"] == side
        assert scale["lr_d"] == [5e-4] * 3
        assert scale["seconds"] > 0
        assert len(scale["d_real"]) == 3


@pytest.mark.parametrize(("scale", "iteration"), [(0, 1), (0, 3), (2, 2), (3, 2)])
def test_a_stopped_training_goes_on_to_the_same_model(tiny, brick, tmp_path, scale, iteration):
    def stop(state):
        if (state.scale, state.iteration) == (scale, iteration):
            raise Stop

    place = {"checkpoint": tmp_path / "unfinished", "checkpoint_seconds": 0, "progress": False}
    with pytest.raises(Stop):
        HTDGDetector("tiny").fit(brick[0][0], callback=stop, **place)
    done = []
    model = HTDGDetector("tiny").fit(
        brick[0][0], callback=lambda s: done.append((s.scale, s.iteration)), **place
    )
    assert same_weights(tiny, model)
    for one, two in zip(tiny.history, model.history, strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}
    # It went on and did not start again: the iteration that failed to be saved is the first.
    expected = (scale, iteration)
    assert done[0] == expected


def test_a_checkpoint_of_another_training_is_refused(brick, tmp_path):
    def stop(state):
        raise Stop

    place = {"checkpoint": tmp_path / "unfinished", "checkpoint_seconds": 0, "progress": False}
    with pytest.raises(Stop):
        HTDGDetector("tiny").fit(
            brick[0][0], callback=lambda s: s.iteration == 2 and stop(s), **place
        )
    for config, image in (
        (HTDGConfig.preset("tiny", seed=1), brick[0][0]),
        (HTDGConfig.preset("tiny"), brick[0][1]),
    ):
        with pytest.raises(ModelError, match="unfinished training with other options or images"):
            HTDGDetector(config).fit(image, **place)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.full((30, 30), 7, np.uint8), "image 1 is one flat colour"),
        (np.zeros((1, 1), np.uint8), "image 1 is 1 x 1 pixels, too small"),
        (np.full((30, 30), np.nan), "image 1 holds values that are not finite"),
        ([], "The list of images is empty"),
    ],
)
def test_images_with_nothing_to_learn_are_refused(image, said):
    with pytest.raises(ImageError, match=said):
        HTDGDetector("tiny").fit([image] if len(image) else image, progress=False)


def test_a_huge_image_is_refused(monkeypatch, brick):
    monkeypatch.setattr(images, "MAX_PIXELS", 96 * 95)
    with pytest.raises(ImageError, match=r"image 1 has more than .* pixels: make it smaller"):
        HTDGDetector("tiny").fit([brick[0][0]], progress=False)


def test_a_text_file_called_png_is_refused(tmp_path):
    path = tmp_path / "note.png"
    path.write_text("not an image")
    with pytest.raises(ImageError, match=r"note\.png is no image that can be read"):
        HTDGDetector("tiny").fit(path, progress=False)


def test_nothing_works_before_fit():
    for call in ("sample", "reconstruct"):
        with pytest.raises(NotFittedError, match="call fit"):
            getattr(HTDGDetector("tiny"), call)()
    with pytest.raises(NotFittedError):
        HTDGDetector("tiny").anomaly_score(np.zeros((30, 30), np.uint8))


# --- devices ------------------------------------------------------------------------------------


def test_missing_devices_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    for name in ("cuda", "cuda:1", "mps"):
        with pytest.raises(ConfigError, match=f"Option device is '{name}', but PyTorch finds no"):
            resolve_device(name)


def test_the_best_device_is_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("auto").type == "cuda"
    assert resolve_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ConfigError, match="cuda:1"):
        resolve_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto").type == "mps"


def test_precision_follows_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    cpu, cuda, mps = (torch.device(d) for d in ("cpu", "cuda", "mps"))
    assert [resolve_precision("auto", d) for d in (cpu, cuda, mps)] == [
        "float32",
        "bf16",
        "float32",
    ]
    assert resolve_precision("bf16", mps) == "float32"
    assert resolve_precision("bf16", cpu) == "bf16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert resolve_precision("auto", cuda) == "float32"


# --- on disk ------------------------------------------------------------------------------------


def test_a_loaded_model_is_the_saved_one(tiny, saved, brick):
    loaded = HTDGDetector.load(saved, device="cpu")
    assert same_weights(tiny, loaded)
    np.testing.assert_array_equal(loaded.anomaly_score(brick[1]), tiny.anomaly_score(brick[1]))
    assert torch.equal(loaded.sample(2), tiny.sample(2))
    assert loaded.history == json.loads(json.dumps(tiny.history))
    described = json.loads((saved / "config.json").read_text())
    assert described["format"] == 2
    assert described["sides"] == [14, 16, 18, 20]
    assert described["transformations"] == [[0, 0, 0, 0, k] for k in range(4)]
    assert described["config"]["seed"] == 0
    assert described["torch"] == torch.__version__


def edit(saved, **changes):
    path = saved / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def alter_a_tensor(saved):
    tensors = safetensors.torch.load_file(saved / "weights.safetensors")
    tensors["scale1.discriminator.tail.bias"][0] += 1e-6
    safetensors.torch.save_file(tensors, saved / "weights.safetensors")


def drop_a_tensor(saved):
    tensors = safetensors.torch.load_file(saved / "weights.safetensors")
    del tensors["scale0.z_star"]
    safetensors.torch.save_file(tensors, saved / "weights.safetensors")


def cut(saved):
    path = saved / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def change_option(saved, **options):
    config = json.loads((saved / "config.json").read_text())["config"]
    edit(saved, config=config | options)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda m: edit(m, format=3), "has model format 3, but this htdg reads up to 2: update"),
        (lambda m: edit(m, format=None), "has no format number"),
        (lambda m: edit(m, sides=[20, 14, 16, 18]), r"its pyramid plan is \[20, 14, 16, 18\]"),
        (lambda m: edit(m, sides=[9, 16, 18, 20]), r"its pyramid plan is \[9, 16, 18, 20\]"),
        (lambda m: edit(m, sides=[14, 16, 18]), "more scales than its pyramid plan has sides"),
        (lambda m: edit(m, sides=[14, 16, 18, 24]), "tensor scale3.z_star does not follow"),
        (lambda m: edit(m, transformations=[[0, 0, 0, 0, 9]]), "Transformation k is 9"),
        (alter_a_tensor, r"Tensor scale1\.discriminator\.tail\.bias .* is not the one"),
        (drop_a_tensor, r"has no tensor scale0\.z_star"),
        (cut, r"weights\.safetensors is damaged"),
        (lambda m: (m / "weights.safetensors").unlink(), r"has no weights\.safetensors"),
        (lambda m: (m / "config.json").unlink(), r"has no config\.json"),
        (lambda m: (m / "config.json").write_text("{"), r"config\.json cannot be read"),
        (shutil.rmtree, r"has no config\.json"),
        (lambda m: change_option(m, niter=0), "Option niter is 0"),
        (lambda m: change_option(m, speed=9), "unexpected keyword argument 'speed'"),
    ],
)
def test_damaged_models_are_refused_in_one_sentence(saved, damage, said):
    damage(saved)
    with pytest.raises((ModelError, ConfigError), match=said) as refused:
        HTDGDetector.load(saved)
    assert "\n" not in str(refused.value)


def test_saving_replaces_a_model_but_nothing_else(tiny, saved, tmp_path):
    tiny.save(saved)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "cat.txt").write_text("meow")
    with pytest.raises(ModelError, match="photos is there and is no htdg model"):
        tiny.save(foreign)
    assert (foreign / "cat.txt").read_text() == "meow"


def test_a_failing_save_leaves_the_old_model_and_no_debris(tiny, saved, tmp_path, monkeypatch):
    before = (saved / "config.json").read_text()

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.safetensors.torch, "save_file", fail)
    with pytest.raises(ModelError, match="cannot be written: No space left on device"):
        tiny.save(saved)
    assert (saved / "config.json").read_text() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_scoring_batches_fit_into_memory(tiny):
    config = HTDGConfig.preset("paper_rgb", translation="pixel")
    wide = config.with_options(channels=64)
    scale = freeze(start_scale(wide, CATALOGUE, [], torch.zeros(1, 3, 64, 64)).scale)
    # 54 copies x 64 channels x 64 x 64 pixels x 4 bytes x 3 layers: 170 MB an image.
    plain = voter(scale, CATALOGUE, config.with_options(fast=False))
    assert plain.bytes_per_image() == 54 * 64 * 64 * 64 * 4 * 3
    # 16 canvases: 3 of 82 x 82, 6 of 73 x 73, 7 of 64 x 64.
    canvases, votes = 80_818 * 3 * 4 * 2, 54 * 64 * 64 * 4 * 4
    expected = 6 * 73 * 73 * 64 * 4 * 2 + canvases + votes  # the largest sheet has 6 canvases
    assert voter(scale, CATALOGUE, config).bytes_per_image() == expected
    assert all(8 * v.bytes_per_image() < trained.SCORING_BYTES for v in tiny._voters())
