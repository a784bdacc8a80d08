"""The ablations of Table 6: each is what it says, from Python and from the command line."""

import json

import numpy as np
import pytest
import torch

from htdg import ConfigError, EvaluationError, HTDGConfig, HTDGDetector, Task, evaluate
from htdg.ablations.geom import WideResNet
from htdg.ablations.variants import VARIANTS, as_variant, ignored_options, variant_named
from htdg.backend import PlainBackend
from htdg.commands.cli import main
from htdg.fast.backend import FastBackend
from htdg.models import choose_backend
from htdg.pyramid import resize
from htdg.sampler import Sampler
from htdg.training import ScaleTraining, start_scale
from htdg.votes import binary_votes

TINY = HTDGConfig.preset("tiny", niter=2, geom_samples=3, geom_epochs=1)
SAMPLES = {"good": 2, "per_defect": 1}


def fitted(letter, images, **options):
    return HTDGDetector(as_variant(TINY.with_options(**options), letter)).fit(
        images, progress=False
    )


def test_every_letter_and_every_name_is_known():
    assert [v.letter for v in VARIANTS] == list("abcdefg")
    for variant in VARIANTS:
        assert variant_named(variant.letter) is variant
        assert variant_named(variant.name.upper().replace(" ", "-")) is variant
    with pytest.raises(ConfigError, match=r"no variant 'h': choose from a \(no generator\), b"):
        variant_named("h")


def test_what_each_changes_in_the_options():
    changed = {}
    for variant in VARIANTS:
        before, after = TINY.as_dict(), as_variant(TINY, variant.letter).as_dict()
        changed[variant.letter] = {k: v for k, v in after.items() if v != before[k]}
    assert changed["a"] == {"method": "no_generator"}
    assert changed["b"] == {"method": "real_or_generated", "transformations": ((0, 0, 0, 0, 0),)}
    assert changed["c"] == {"method": "real_or_generated"}
    assert changed["d"] == {"image_size": 100, "min_size": 100, "max_size": 100}
    assert changed["e"] == {"min_size": 20}  # the others are 20 in this preset
    assert changed["f"] == {"method": "mse"}
    assert changed["g"] == {"method": "geom"}
    assert as_variant(TINY, "d").sides == (100,)
    assert as_variant(TINY, "e").sides == (20,)


OTHER = {"g_steps": 1, "lr_g": 0.1, "milestone_g": 1, "alpha": 1.0, "noise_amplitude": 1.0}
OTHER |= {"geom_samples": 7, "geom_epochs": 2, "niter": 1, "channels": 4, "seed": 5}


@pytest.mark.parametrize("letter", [None, *"abcfg"])
def test_ignored_options_make_no_difference_and_the_others_do(letter, brick):
    config = TINY if letter is None else as_variant(TINY, letter)
    before = scores_of(config, brick)
    ignored = {name: value for name, value in OTHER.items() if name in ignored_options(config)}
    np.testing.assert_array_equal(scores_of(config.with_options(**ignored), brick), before)
    for name in ("g_steps", "alpha", "geom_samples", "seed"):
        if name not in ignored:
            changed = scores_of(config.with_options(**{name: OTHER[name]}), brick)
            assert not np.array_equal(changed, before), name


def scores_of(config, brick):
    detector = HTDGDetector(config).fit(brick[0][0], progress=False)
    return detector.score_samples(brick[1][:2])


def test_a_trains_no_generator_and_calls_nothing_generated(brick, monkeypatch):
    def fail(*args):
        raise AssertionError("a generated image was asked for")

    for name in ("g_step", "draw_previous"):
        monkeypatch.setattr(ScaleTraining, name, fail)
    for backend in (PlainBackend, FastBackend):
        monkeypatch.setattr(backend, "generated_loss", fail)
    detector = fitted("a", brick[0][0])
    assert set(detector.history_[0]) == {"side", "seconds", "lr_d", "lr_g", "d_real"}
    assert all(value > 0 for scale in detector.history_ for value in scale["d_real"])
    assert 0 < detector.anomaly_score(brick[1][0])[0] < 1
    for draw in (detector.sample, detector.reconstruct, lambda: detector.calibrate("generated")):
        with pytest.raises(ConfigError, match="method no_generator, which trains no generator"):
            draw()
    detector.calibrate(brick[1][:2])  # held-out images do


def test_binary_votes_are_the_probability_of_being_real():
    logits = torch.zeros(3, 2, 2, 4, 4)
    logits[:, :, 0] = np.log(3)
    torch.testing.assert_close(binary_votes(logits), torch.full((3, 2, 4, 4), 0.75))


@pytest.mark.parametrize("letter", ["b", "c"])
@pytest.mark.parametrize("fast", [True, False])
def test_b_and_c_vote_with_the_probability_of_being_real(brick, letter, fast):
    detector = fitted(letter, brick[0][0], fast=fast, transformations="rotations")
    m = 1 if letter == "b" else 4
    assert len(detector.transformations_) == m
    image = torch.from_numpy(brick[1][0].copy()).float()[None, None].expand(1, 3, -1, -1)
    square = resize(image / 127.5 - 1, 20)
    for scale, votes in zip(detector.scales_, detector.votes(brick[1][0]), strict=True):
        assert scale.discriminator.tail.out_channels == 2
        x = resize(square, scale.side)
        for k in range(m):
            e = scale.discriminator(torch.rot90(x, k, (2, 3)))[0].exp()
            np.testing.assert_allclose(votes[k], (e[0] / e.sum(0)).numpy(), atol=1e-5)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_their_real_loss_asks_for_the_one_real_class(fast, m):
    rows = tuple((0, 0, 0, 0, k) for k in range(m))
    config = TINY.with_options(method="real_or_generated", fast=fast, transformations=rows)
    transformations = config.resolve_transformations(True)
    torch.manual_seed(0)
    real = torch.rand(1, 3, 16, 16) * 2 - 1
    backend = choose_backend(config, transformations, real.device)
    training = start_scale(config, transformations, [], real, backend)
    d = training.scale.discriminator
    on_real = float(backend.real_loss(d, training.real_copies[0]).detach())
    copies = torch.cat([t.apply(real, config.translation) for t in transformations])
    log_p = d(copies).log_softmax(1)  # (4, 2, 6, 6)
    total = float(-log_p[:, 0].mean().detach())
    assert on_real == pytest.approx(total, rel=1e-5)
    on_fake = float(backend.generated_loss(d, backend.copies(real)).detach())
    assert on_fake == pytest.approx(float(-log_p[:, 1].mean().detach()), rel=1e-5)


def test_f_is_the_mean_squared_error_to_the_nearest_training_image(brick):
    detector = fitted("f", brick[0][:2])
    assert detector.scales_ == ()
    square = [
        resize(torch.from_numpy(i.copy()).float()[None, None] / 127.5 - 1, 20)[0, 0].numpy()
        for i in (*brick[0][:2], brick[1][1])
    ]
    errors = [((trained - square[2]) ** 2).mean() for trained in square[:2]]
    assert detector.anomaly_score(brick[1][1])[0] == pytest.approx(min(errors) / 4, abs=1e-6)
    # The pixels that differ most are what the map shows.
    nearest = square[int(np.argmin(errors))]
    x = resize(torch.from_numpy(square[2])[None, None], 20)
    image = ((x[0, 0].numpy() + 1) / 2).clip(0, 1)
    anomaly_map = detector.anomaly_map(image)[0]
    np.testing.assert_allclose(anomaly_map, (nearest - square[2]) ** 2 / 4, atol=1e-5)
    assert detector.anomaly_score(brick[0][1])[0] == pytest.approx(0, abs=1e-9)


def test_g_trains_a_classifier_on_samples(brick, tmp_path):
    detector = fitted("g", brick[0][0])
    assert isinstance(detector.model_.classifier, WideResNet)
    assert len(detector.scales_) == 4  # HTDG itself, which made the samples
    image = brick[1][0]
    x = torch.from_numpy(image.copy()).float()[None, None].expand(1, 3, -1, -1) / 127.5 - 1
    x = resize(x, 20)
    with torch.no_grad():
        p = [
            detector.model_.classifier(torch.rot90(x, k, (2, 3))).softmax(1)[0, k] for k in range(4)
        ]
    assert detector.anomaly_score(image)[0] == pytest.approx(1 - float(sum(p)) / 4, abs=1e-5)
    detector.save(tmp_path / "model")
    again = HTDGDetector.load(tmp_path / "model", device="cpu")
    assert again.anomaly_score(image)[0] == detector.anomaly_score(image)[0]
    assert torch.equal(again.sample(2), detector.sample(2))


@pytest.mark.parametrize("letter", "abcdefg")
def test_each_is_saved_and_loaded(brick, tmp_path, letter):
    options = {"niter": 1, "channels": 4}
    detector = fitted(letter, brick[0][0], **options)
    detector.save(tmp_path / "model")
    again = HTDGDetector.load(tmp_path / "model", device="cpu")
    assert again.sides_ == detector.sides_
    images = brick[1][:2]
    np.testing.assert_array_equal(again.anomaly_score(images), detector.anomaly_score(images))
    maps = again.anomaly_map(images)
    np.testing.assert_array_equal(maps, detector.anomaly_map(images))
    assert 0 <= maps.min() <= maps.max() <= 1


@pytest.mark.parametrize("letter", "abcdefg")
def test_each_runs_from_the_command_line(tmp_path, letter, capsys):
    out = tmp_path / "out"
    words = ["evaluate", "--dataset", "textures", "--category", "brick", "--limit-per-kind", "1"]
    words += ["--preset", "tiny", "--variant", letter, "--out", str(out)]
    words += ["--niter", "1", "--channels", "4"] if letter != "f" else []
    words += ["--geom-samples", "2", "--geom-epochs", "1"] if letter == "g" else []
    assert main(words) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["variant"] == variant_named(letter).name
    assert 0 <= metrics["image_auroc"] <= 1
    assert 0 <= metrics["aupro"] <= 1
    assert (out / "maps.png").is_file()
    assert not list(out.glob("*unfinished*"))


@pytest.mark.parametrize("letter", "acg")
def test_a_stopped_one_goes_on_to_the_same_result(brick, tmp_path, letter):
    config = as_variant(TINY, letter)
    straight = HTDGDetector(config).fit(brick[0][0], progress=False)

    def stop(state):
        if (state.scale, state.iteration) == (2, 1):
            raise KeyboardInterrupt

    options = {"progress": False, "checkpoint": tmp_path / "begun", "checkpoint_seconds": 0.0}
    with pytest.raises(KeyboardInterrupt):
        HTDGDetector(config).fit(brick[0][0], callback=stop, **options)
    resumed = HTDGDetector(config).fit(brick[0][0], **options)
    assert resumed.anomaly_score(brick[1][0])[0] == straight.anomaly_score(brick[1][0])[0]


def test_thresholds_of_g_are_not_from_what_it_was_trained_on(brick, monkeypatch):
    drawn = []
    draw = Sampler.sample
    monkeypatch.setattr(Sampler, "sample", lambda *args: drawn.append(draw(*args)) or drawn[-1])
    fitted("g", brick[0][0]).calibrate("generated", n_generated=3)
    trained, calibrating = drawn
    assert (trained[:, None] - calibrating[None]).abs().amax((2, 3, 4)).min() > 1e-3


def test_a_variant_s_own_options_cannot_be_set_beside_it(tmp_path, capsys):
    words = [
        "evaluate",
        "--dataset",
        "textures",
        "--category",
        "brick",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main([*words, "--variant", "e", "--image-size", "64"]) == 2
    assert (
        "Variant e (single scale, large patches) sets image_size itself" in capsys.readouterr().err
    )
    assert main([*words, "--variant", "z"]) == 2
    assert "There is no variant 'z'" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_trained_model_is_no_variant(tiny, tmp_path):
    tiny.save(tmp_path / "model")
    with pytest.raises(EvaluationError, match="leave out either it or variant"):
        evaluate(Task("textures", "brick", variant="a"), tmp_path / "out", model=tmp_path / "model")
