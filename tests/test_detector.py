"""The detector from training to scores: with all 54 transformations on two colour images.

``test_estimator`` has what it is to scikit-learn, ``test_scorer`` maps and defect fractions,
``test_sampler`` its images, ``test_storage`` its directory, ``test_device`` devices.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from htdg import (
    ConfigError,
    HTDGConfig,
    HTDGDetector,
    ImageError,
    ModelError,
    NotFittedError,
)
from htdg.fast import native
from htdg.io import images
from htdg.io.images import load_image
from htdg.pyramid import resize
from tests.models import QUIET, Stop, same_weights, stop_at

#: The learning rate of D falls after two iterations, that of G after three.
CONFIG = HTDGConfig.preset(
    "tiny", transformations="auto", niter=4, milestone_d=2, milestone_g=3, channels=4
)


def in_colour(crop):
    return np.stack([crop, 255 - crop, crop.T], axis=-1)  # (H, W, 3), channels far apart


@pytest.fixture(scope="module")
def normal(brick):
    """The two training images (96, 96, 3) uint8."""
    return [in_colour(crop) for crop in brick[0]]


@pytest.fixture(scope="module")
def unseen(brick):
    """Colour images to score."""
    return [in_colour(crop) for crop in brick[1]]


@pytest.fixture(scope="module")
def events():
    """What the callback saw while ``model`` was trained."""
    return []


@pytest.fixture(scope="module")
def model(normal, events):
    def note(state):
        events.append((state, state.losses()))

    return HTDGDetector(CONFIG).fit(normal, callback=note, **QUIET)


def without_seconds(history):
    return [{k: v for k, v in scale.items() if k != "seconds"} for scale in history]


# --- training -----------------------------------------------------------------------------------


def test_what_a_trained_detector_knows(model, normal):
    assert len(model.transformations_) == 54
    assert model.sides_ == (14, 16, 18, 20)
    assert [scale.side for scale in model.scales_] == [14, 16, 18, 20]
    assert model.image_names_ == ["image 1", "image 2"]
    expected = torch.stack([resize(load_image(i)[None], 20)[0] for i in normal])
    assert torch.equal(model.images_, expected)
    for n, scale in enumerate(model.scales_):
        assert not scale.discriminator.training
        assert scale.sigma.shape == (2,)
        assert (scale.sigma[0] == scale.sigma[1]) == (n == 0)  # above 0 by what is missing
    assert model.config_ == CONFIG
    assert model.images_at_once_ == 2
    assert model.has_generator_
    assert model.threshold_ is None
    assert model.trained_with_["torch"] == torch.__version__


def test_history(model):
    assert [scale["side"] for scale in model.history_] == [14, 16, 18, 20]
    for scale in model.history_:
        assert scale["lr_d"] == pytest.approx([5e-4, 5e-4, 5e-5, 5e-5])
        assert scale["lr_g"] == pytest.approx([5e-4, 5e-4, 5e-4, 5e-5])
        assert scale["seconds"] > 0
        for loss in ("d_real", "d_fake", "g_adversarial", "g_reconstruction"):
            assert len(scale[loss]) == 4
            assert np.isfinite(scale[loss]).all()
    assert set(model.history_[0]) == {
        *("side", "seconds", "lr_d", "lr_g"),
        *("d_real", "d_fake", "g_adversarial", "g_reconstruction"),
    }
    assert json.loads(json.dumps(model.history_)) == model.history_
    assert model.training_seconds_ == pytest.approx(sum(s["seconds"] for s in model.history_))


def test_the_callback_hears_all_in_order(model, events):
    places = [(s.scale, s.iteration) for s, _ in events]
    assert places == [(n, i) for n in range(4) for i in (1, 2, 3, 4)]
    assert {(s.n_scales, s.niter) for s, _ in events} == {(4, 4)}
    assert [s.side for s, _ in events] == [side for side in (14, 16, 18, 20) for _ in range(4)]
    for state, losses in events:
        recorded = model.history_[state.scale]
        for name, value in losses.items():
            assert value == pytest.approx(recorded[name][state.iteration - 1])
            assert value > 0
    left = [s.seconds_left for s, _ in events]
    assert left[-1] == 0
    assert min(left[:-1]) > 0


def test_one_seed_gives_one_model_in_whatever_form_the_images_come(model, normal, tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, image in zip(paths, normal, strict=True):
        Image.fromarray(image).save(path)
    again = HTDGDetector(CONFIG).fit(paths, **QUIET)
    assert same_weights(model, again)
    assert again.image_names_ == [str(p) for p in paths]
    assert without_seconds(again.history_) == without_seconds(model.history_)
    batch = torch.from_numpy(np.stack(normal)).permute(0, 3, 1, 2)
    names = ["left", "right"]
    named = HTDGDetector(CONFIG).fit((image for image in batch), names=names, **QUIET)
    assert same_weights(model, named)
    assert named.image_names_ == names


def test_another_seed_gives_another_model(tiny, brick):
    other = HTDGDetector("tiny", seed=1).fit(brick[0][0], **QUIET)
    assert not same_weights(tiny, other)
    assert not torch.equal(tiny.scales_[0].z_star, other.scales_[0].z_star)


def test_fitting_again_starts_afresh(brick):
    config = CONFIG.with_options(niter=1, transformations="rotations")
    once = HTDGDetector(config).fit(brick[0][0], **QUIET)
    twice = HTDGDetector(config).fit(brick[0], **QUIET).fit(brick[0][0], **QUIET)
    assert same_weights(once, twice)
    assert len(twice.history_) == 4


def test_training_writes_nothing_of_its_own_accord(brick, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    HTDGDetector("tiny").fit(brick[0][0], **QUIET).anomaly_score(brick[1])
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


# --- interrupted and resumed --------------------------------------------------------------------


def test_a_training_stopped_three_times_ends_as_if_never_stopped(model, normal, tmp_path):
    place = {"checkpoint": tmp_path / "c", "checkpoint_seconds": 0, **QUIET}
    for where in ((0, 3), (1, 1), (3, 4)):  # also past the first milestone, and at the very end
        with pytest.raises(Stop):
            HTDGDetector(CONFIG).fit(normal, callback=stop_at(*where), **place)
    seen = []
    resumed = HTDGDetector(CONFIG).fit(normal, callback=seen.append, **place)
    assert (seen[0].scale, seen[0].iteration) == (3, 4)  # stopped before that could be written
    assert same_weights(model, resumed)
    assert without_seconds(resumed.history_) == without_seconds(model.history_)
    assert all(scale["seconds"] > 0 for scale in resumed.history_)
    # A finished training has nothing left to do.
    done = HTDGDetector(CONFIG).fit(normal, callback=stop_at(3, 4), **place)
    assert same_weights(model, done)


def test_checkpoints_are_written_after_every_scale_and_as_often_as_asked(brick, tmp_path):
    config = HTDGConfig.preset("tiny")

    def continues_at(seconds, folder):
        place = {"checkpoint": tmp_path / folder, "checkpoint_seconds": seconds, **QUIET}
        with pytest.raises(Stop):
            HTDGDetector(config).fit(brick[0][0], callback=stop_at(2, 3), **place)
        seen = []
        HTDGDetector(config).fit(brick[0][0], callback=seen.append, **place)
        return seen[0].scale, seen[0].iteration

    assert continues_at(0, "often") == (2, 3)  # done twice: stopped before it could be written
    assert continues_at(1000, "rarely") == (2, 1)


@pytest.mark.parametrize(
    ("options", "image"),
    [({"niter": 2}, 0), ({"seed": 1}, 0), ({"translation": "pixel"}, 0), ({}, 1)],
)
def test_a_checkpoint_of_another_training_is_refused_and_kept(options, image, brick, tmp_path):
    folder = tmp_path / "c"
    HTDGDetector("tiny").fit(brick[0][0], checkpoint=folder, **QUIET)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    other = HTDGDetector(HTDGConfig.preset("tiny", **options))
    with pytest.raises(ModelError, match="is an unfinished training with other options or images"):
        other.fit(brick[0][image], checkpoint=folder, **QUIET)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


@pytest.mark.parametrize("stands", ["file", "folder"])
def test_a_checkpoint_in_the_place_of_something_else_is_refused(stands, brick, tmp_path):
    place = tmp_path / "c"
    if stands == "file":
        place.write_text("mine")
    else:
        place.mkdir()
        (place / "mine.txt").write_text("mine")
    with pytest.raises(ModelError, match=f"{place.name} "):
        HTDGDetector("tiny").fit(brick[0][0], checkpoint=place, **QUIET)
    assert (place if stands == "file" else place / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("use", ["save", "sample", "score_samples"])
def test_a_training_that_was_broken_off_is_no_model(use, brick, tmp_path):
    broken = HTDGDetector("tiny")
    with pytest.raises(Stop):
        broken.fit(brick[0][0], callback=stop_at(2, 1), **QUIET)
    argument = {"save": tmp_path / "m", "sample": 1, "score_samples": brick[1]}[use]
    with pytest.raises(NotFittedError):
        getattr(broken, use)(argument)


# --- scores -------------------------------------------------------------------------------------


def slow_normality(model, image, fraction):
    """Votes patch by patch, as the paper's section 3.2 has it: one value for each scale."""
    square = resize(load_image(image)[None], 20)
    normality = []
    for scale in model.scales_:
        x = resize(square, scale.side)
        total = 0.0
        for m, transformation in enumerate(model.transformations_):
            with torch.no_grad():
                logits = scale.discriminator(transformation.apply(x, "resampled"))[0]
            logits = logits.double().numpy()  # (55, h, w)
            votes = []
            for i in range(logits.shape[1]):
                for j in range(logits.shape[2]):
                    e = np.exp(logits[:54, i, j])  # class 54 is "generated"
                    votes.append(e[m] / e.sum())
            votes = sorted(votes)
            if fraction is not None:
                votes = votes[: max(1, int(fraction * len(votes)))]
            total += sum(votes) / len(votes)
        normality.append(total)
    return normality


@pytest.mark.parametrize("fraction", [None, 0.25, 0.001])
def test_scores_equal_a_slow_version(model, unseen, fraction):
    per_scale = model.score_scales(unseen[:2], fraction)
    assert per_scale.shape == (2, 4)
    for row, image in zip(per_scale, unseen, strict=False):
        np.testing.assert_allclose(row, slow_normality(model, image, fraction), rtol=1e-5)


@pytest.mark.parametrize("fraction", [None, 0.1])
def test_anomaly_scores_turn_normality_around(model, unseen, fraction):
    normality = model.score_samples(unseen, fraction)
    assert normality.shape == (len(unseen),)
    np.testing.assert_allclose(normality, model.score_scales(unseen, fraction).mean(1), rtol=1e-12)
    anomaly = model.anomaly_score(unseen, fraction)
    np.testing.assert_allclose(anomaly, 1 - normality / 54, rtol=1e-12)
    assert ((anomaly >= 0) & (anomaly <= 1)).all()
    assert anomaly.dtype == np.float64


def test_votes_are_what_the_scores_are_made_of(model, unseen):
    votes = model.votes(unseen[0])
    assert [v.shape for v in votes] == [(54, s - 10, s - 10) for s in (14, 16, 18, 20)]
    assert all(((v >= 0) & (v <= 1)).all() for v in votes)
    for fraction in (None, 0.2, 1.0):
        expected = []
        for v in votes:
            lowest = np.sort(v.reshape(54, -1), axis=1)
            count = lowest.shape[1] if fraction is None else int(lowest.shape[1] * fraction)
            expected.append(lowest[:, : max(1, count)].mean(1).sum())
        scores = model.score_scales(unseen[0], fraction)[0]
        np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_the_smaller_the_fraction_the_more_anomalous(model, unseen):
    everything = model.anomaly_score(unseen)
    np.testing.assert_allclose(model.anomaly_score(unseen, 1.0), everything, rtol=1e-6)
    half, tenth = (model.anomaly_score(unseen, f) for f in (0.5, 0.1))
    assert (tenth > half).all()
    assert (half > everything).all()


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan")])
def test_a_wrong_fraction_is_refused_before_any_image_is_read(model, fraction):
    with pytest.raises(ValueError, match=r"defect_fraction is .*, but it must be above 0"):
        model.anomaly_score(["missing.png"], fraction)


def test_colour_images_score_the_same_in_every_form(model, unseen, tmp_path):
    image = unseen[0]
    opaque = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    Image.fromarray(image).save(tmp_path / "a.png")
    forms = {
        "path": tmp_path / "a.png",
        "string": str(tmp_path / "a.png"),
        "pil": Image.fromarray(image),
        "rgba pil": Image.fromarray(opaque),
        "rgba": opaque,
        "float": image / 255,
        "16 bits": image.astype(np.uint16) * 257,
        "tensor": torch.from_numpy(image).permute(2, 0, 1),
        "float tensor": torch.from_numpy(image / 255).permute(2, 0, 1),
    }
    expected = model.score_scales(image)
    for form, same in forms.items():
        np.testing.assert_allclose(model.score_scales(same), expected, atol=1e-9, err_msg=form)


def test_grey_images_score_the_same_in_every_form(tiny, brick, tmp_path):
    grey = brick[1][1].copy()
    colour = np.stack([grey] * 3, axis=-1)
    Image.fromarray(grey).save(tmp_path / "a.png")
    forms = [
        grey,
        grey[..., None],
        colour,
        np.dstack([colour, np.full_like(grey, 255)]),
        grey / 255,
        colour.astype(np.float32) / 255,
        grey.astype(np.uint16) * 257,
        torch.from_numpy(grey),
        torch.from_numpy(colour).permute(2, 0, 1),
        torch.from_numpy(grey / 255)[None],
        Image.fromarray(grey),
        Image.fromarray(colour),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
    ]
    scores = tiny.anomaly_score(forms)  # all of them in one list
    np.testing.assert_allclose(scores, scores[0], atol=1e-9)
    alone = [tiny.anomaly_score(form)[0] for form in forms]
    np.testing.assert_allclose(alone, scores, atol=1e-6)


def test_scores_depend_neither_on_the_batch_nor_on_the_company(model, unseen):
    alone = np.concatenate([model.score_samples(image) for image in unseen])
    for size in (1, 2, 5, None):
        together = model.score_samples(unseen, batch_size=size)
        np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(model.score_samples(np.stack(unseen)), alone, atol=1e-6)
    np.testing.assert_allclose(model.score_samples(iter(unseen[::-1])), alone[::-1], atol=1e-6)


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "2"])
def test_a_wrong_batch_size_is_refused_before_any_image_is_read(model, size):
    with pytest.raises(ConfigError, match=f"batch_size is {size!r}, but it must be a whole number"):
        model.score_scales(["missing.png"], batch_size=size)


def test_one_bad_image_among_many_is_numbered(model, unseen, tmp_path):
    wrong = unseen[1].astype(float)
    with pytest.raises(ImageError, match="image 2 has float values"):
        model.anomaly_score([unseen[0], wrong])
    with pytest.raises(ImageError, match=r"gone\.png is not there"):
        model.anomaly_score([unseen[0], tmp_path / "gone.png"])
    with pytest.raises(ImageError, match="The list of images is empty"):
        model.anomaly_score([])


# --- mistakes -----------------------------------------------------------------------------------


NOISE = np.random.default_rng(0).integers(0, 256, (30, 30), dtype=np.uint8)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ([NOISE, np.full((30, 30), 7, np.uint8)], "image 2 is one flat colour"),
        ([NOISE, np.full((30, 30, 3), (9, 80, 200), np.uint8)], "image 2 is one flat colour"),
        (np.zeros((1, 1), np.uint8), "image 1 is 1 x 1 pixels, too small"),
        (NOISE[:3], "image 1 is 30 x 3 pixels, too small"),
        ([NOISE / 255, np.where(NOISE, np.nan, 0.5)], "image 2 holds values that are not finite"),
        ([], "The list of images is empty"),
        ("text.png", r"text\.png is no image that can be read"),
        ("missing.png", r"missing\.png is not there"),
        (".", "is a folder: name an image file"),
        (None, "must be one image or a list of them"),
        ([None], "image 1 is"),
    ],
)
def test_what_nothing_can_be_learnt_from(wrong, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("not an image")
    fresh = HTDGDetector("tiny")
    with pytest.raises(ImageError, match=sentence) as refused:
        fresh.fit(wrong, **QUIET)
    assert "\n" not in str(refused.value)
    with pytest.raises(NotFittedError):
        fresh.sample(1)


def test_a_huge_image_is_refused_in_training_and_in_scoring(model, unseen, monkeypatch):
    monkeypatch.setattr(images, "MEGAPIXELS", (96 * 96 - 1) / 1e6)
    with pytest.raises(ImageError, match="million pixels: make it smaller"):
        HTDGDetector("tiny").fit(unseen[0], **QUIET)
    with pytest.raises(ImageError, match="million pixels: make it smaller"):
        model.anomaly_score(unseen[0])


def test_a_refused_image_leaves_a_trained_detector_as_it_was(brick):
    detector = HTDGDetector("tiny", niter=1).fit(brick[0][0], **QUIET)
    before = detector.score_samples(brick[1])
    with pytest.raises(ImageError):
        detector.fit(np.zeros((9, 9), np.uint8), **QUIET)
    with pytest.raises(ConfigError):
        detector.set_params(niter=0).fit(brick[0][0], **QUIET)
    np.testing.assert_array_equal(detector.score_samples(brick[1]), before)


@pytest.mark.parametrize(
    "use",
    [
        lambda d, path: d.score_samples(NOISE),
        lambda d, path: d.score_scales(NOISE),
        lambda d, path: d.anomaly_score(NOISE),
        lambda d, path: d.votes(NOISE),
        lambda d, path: d.anomaly_map(NOISE),
        lambda d, path: d.predictions(NOISE),
        lambda d, path: d.calibrate(NOISE),
        lambda d, path: d.predict(NOISE),
        lambda d, path: d.decision_function(NOISE),
        lambda d, path: d.sample(),
        lambda d, path: d.reconstruct(),
        lambda d, path: d.save(path),
        lambda d, path: d.save_threshold(path),
        lambda d, path: d.sides_,
        lambda d, path: d.history_,
    ],
)
def test_an_untrained_detector_says_so(use, tmp_path):
    with pytest.raises(NotFittedError, match=r"is not trained: call fit\(images\) or load"):
        use(HTDGDetector("tiny"), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_names_must_be_as_many_as_images():
    with pytest.raises(ImageError, match="names"):
        HTDGDetector("tiny").fit([NOISE, NOISE.T], names=["only one"], **QUIET)


@pytest.mark.parametrize("tint", [0, 1, 2, 3, 20])
def test_automatic_transformations_need_visible_colour(tint, brick):
    """A grey level or two, as JPEG leaves them, are not colour yet."""
    crop = np.minimum(brick[0][0], 255 - 20)
    image = np.stack([crop, crop, crop + np.uint8(tint)], axis=-1)
    options = {"transformations": "auto", "niter": 1, "max_size": 14, "image_size": 14}
    model = HTDGDetector("tiny", **options).fit(image, **QUIET)
    assert len(model.transformations_) == (54 if tint > 2 else 42)


@pytest.mark.parametrize("progress", [True, False])
def test_missing_helpers_are_told_of_where_progress_is_shown(progress, brick, monkeypatch, capsys):
    monkeypatch.setattr(native, "missing", lambda: "there is no C compiler")
    monkeypatch.setattr(native, "warn_if_missing", native.warn_if_missing.__wrapped__)
    HTDGDetector("tiny", niter=1, device="cpu").fit(brick[0][0], progress=progress)
    HTDGDetector("tiny", niter=1, device="cpu", fast=False).fit(brick[0][0], progress=progress)
    assert capsys.readouterr().err.count("there is no C compiler") == int(progress)
