"""The detector with all 54 transformations on two colour images: training, scores, mistakes.

``test_models`` has the same detector in small: one grey image and the four rotations.
"""

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
from htdg.io import images
from htdg.io.checkpoint import scale_tensors
from htdg.io.images import load_image
from htdg.pyramid import resize

#: The learning rate of D falls after two iterations, that of G after three.
CONFIG = HTDGConfig.preset(
    "tiny", transformations="auto", niter=4, milestone_d=2, milestone_g=3, channels=4
)
QUIET = {"progress": False}


class Stop(Exception):
    pass


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


def same_weights(first, second):
    one, two = scale_tensors(first.scales), scale_tensors(second.scales)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def without_seconds(history):
    return [{k: v for k, v in scale.items() if k != "seconds"} for scale in history]


# --- training -----------------------------------------------------------------------------------


def test_what_a_trained_detector_knows(model, normal):
    assert len(model.transformations) == 54
    assert [scale.side for scale in model.scales] == [14, 16, 18, 20]
    assert model.image_names == ["image 1", "image 2"]
    expected = torch.stack([resize(load_image(i)[None], 20)[0] for i in normal])
    assert torch.equal(model.images, expected)
    for scale in model.scales:
        assert not scale.discriminator.training
        assert scale.sigma.shape == (2,)


def test_history(model):
    assert [scale["side"] for scale in model.history] == [14, 16, 18, 20]
    for scale in model.history:
        assert scale["lr_d"] == pytest.approx([5e-4, 5e-4, 5e-5, 5e-5])
        assert scale["lr_g"] == pytest.approx([5e-4, 5e-4, 5e-4, 5e-5])
        assert scale["seconds"] > 0
        for loss in ("d_real", "d_fake", "g_adversarial", "g_reconstruction"):
            assert len(scale[loss]) == 4
            assert np.isfinite(scale[loss]).all()
    assert set(model.history[0]) == {
        *("side", "seconds", "lr_d", "lr_g"),
        *("d_real", "d_fake", "g_adversarial", "g_reconstruction"),
    }


def test_the_callback_hears_all_in_order(model, events):
    places = [(s.scale, s.iteration) for s, _ in events]
    assert places == [(n, i) for n in range(4) for i in (1, 2, 3, 4)]
    assert {(s.n_scales, s.niter) for s, _ in events} == {(4, 4)}
    assert [s.side for s, _ in events] == [side for side in (14, 16, 18, 20) for _ in range(4)]
    for state, losses in events:
        recorded = model.history[state.scale]
        for name, value in losses.items():
            assert value == pytest.approx(recorded[name][state.iteration - 1])
    left = [s.seconds_left for s, _ in events]
    assert left[-1] == 0
    assert min(left[:-1]) > 0


def test_one_seed_gives_one_model_in_whatever_form_the_images_come(model, normal, tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, image in zip(paths, normal, strict=True):
        Image.fromarray(image).save(path)
    again = HTDGDetector(CONFIG).fit(paths, **QUIET)
    assert same_weights(model, again)
    assert again.image_names == [str(p) for p in paths]
    assert without_seconds(again.history) == without_seconds(model.history)
    batch = torch.from_numpy(np.stack(normal)).permute(0, 3, 1, 2)
    names = ["left", "right"]
    named = HTDGDetector(CONFIG).fit((image for image in batch), names=names, **QUIET)
    assert same_weights(model, named)
    assert named.image_names == names


def test_fitting_again_starts_afresh(brick):
    config = CONFIG.with_options(niter=1, transformations="rotations")
    once = HTDGDetector(config).fit(brick[0][0], **QUIET)
    twice = HTDGDetector(config).fit(brick[0], **QUIET).fit(brick[0][0], **QUIET)
    assert same_weights(once, twice)
    assert len(twice.history) == 4


def test_training_writes_nothing_of_its_own_accord(brick, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    HTDGDetector("tiny").fit(brick[0][0], **QUIET).anomaly_score(brick[1])
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


# --- interrupted and resumed --------------------------------------------------------------------


def stop_at(scale, iteration):
    def callback(state):
        if (state.scale, state.iteration) == (scale, iteration):
            raise Stop

    return callback


def test_a_training_stopped_three_times_ends_as_if_never_stopped(model, normal, tmp_path):
    place = {"checkpoint": tmp_path / "c", "checkpoint_seconds": 0, **QUIET}
    for where in ((0, 3), (1, 1), (3, 4)):  # also past the first milestone, and at the very end
        with pytest.raises(Stop):
            HTDGDetector(CONFIG).fit(normal, callback=stop_at(*where), **place)
    resumed = HTDGDetector(CONFIG).fit(normal, **place)
    assert same_weights(model, resumed)
    assert without_seconds(resumed.history) == without_seconds(model.history)
    assert all(scale["seconds"] > 0 for scale in resumed.history)
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
    assert continues_at(1000, "seldom") == (2, 1)


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
    given = {"save": tmp_path / "m", "sample": 1, "score_samples": brick[1]}[use]
    with pytest.raises(NotFittedError):
        getattr(broken, use)(given)


# --- scores -------------------------------------------------------------------------------------


def slow_normality(model, image, fraction):
    """Votes patch by patch, as the paper's section 3.2 has it: one value for each scale."""
    square = resize(load_image(image)[None], 20)
    normality = []
    for scale in model.scales:
        x = resize(square, scale.side)
        total = 0.0
        for m, transformation in enumerate(model.transformations):
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


def test_anomaly_scores_turn_normality_around(model, unseen):
    normality = model.score_samples(unseen)
    assert normality.shape == (len(unseen),)
    np.testing.assert_allclose(normality, model.score_scales(unseen).mean(1), rtol=1e-12)
    anomaly = model.anomaly_score(unseen)
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
    for form, given in forms.items():
        np.testing.assert_allclose(model.score_scales(given), expected, atol=1e-9, err_msg=form)


def test_scores_depend_neither_on_the_batch_nor_on_the_company(model, unseen):
    alone = np.concatenate([model.score_samples(image) for image in unseen])
    for size in (1, 2, 5, None):
        together = model.score_samples(unseen, batch_size=size)
        np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(model.score_samples(np.stack(unseen)), alone, atol=1e-6)
    np.testing.assert_allclose(model.score_samples(iter(unseen[::-1])), alone[::-1], atol=1e-6)


def test_one_bad_image_among_many_is_numbered(model, unseen, tmp_path):
    wrong = unseen[1].astype(float)
    with pytest.raises(ImageError, match="image 2 has float values"):
        model.anomaly_score([unseen[0], wrong])
    with pytest.raises(ImageError, match=r"gone\.png is not there"):
        model.anomaly_score([unseen[0], tmp_path / "gone.png"])
    with pytest.raises(ImageError, match="The list of images is empty"):
        model.anomaly_score([])


# --- images from the model ----------------------------------------------------------------------


def test_samples_take_the_training_images_in_turn(model):
    """Each sample again by itself, through the generators one by one."""
    samples = model.sample(3, seed=5)
    assert samples.shape == (3, 3, 20, 20)
    rng = torch.Generator().manual_seed(5)
    noises = [
        torch.randn(3, 3 if n else 1, s.side, s.side, generator=rng)
        for n, s in enumerate(model.scales)
    ]
    for i, k in enumerate((0, 1, 0)):
        x = torch.zeros(1, 3, 14, 14)
        for scale, noise in zip(model.scales, noises, strict=True):
            with torch.no_grad():
                amplified = scale.sigma[k] * noise[i : i + 1].expand(-1, 3, -1, -1)
                x = scale.generator(amplified, resize(x, scale.side), torch.tensor([k]))
        torch.testing.assert_close(samples[i], x[0], atol=1e-5, rtol=0)


def test_samples_follow_their_seed_alone(model):
    torch.manual_seed(1)
    first = model.sample(2, seed=3)
    torch.manual_seed(2)
    assert torch.equal(model.sample(2, seed=3), first)
    assert not torch.equal(model.sample(2, seed=4), first)
    assert torch.isfinite(first).all()


def test_every_training_image_is_rebuilt(model):
    rebuilt = model.reconstruct()
    assert rebuilt.shape == (2, 3, 20, 20)
    assert not torch.equal(rebuilt[0], rebuilt[1])
    assert torch.equal(model.reconstruct(), rebuilt)


@pytest.mark.parametrize("n", [0, -1])
def test_a_wrong_number_of_samples(model, n):
    with pytest.raises(ValueError, match=f"number of samples is {n}, but it must be at least 1"):
        model.sample(n)


# --- mistakes -----------------------------------------------------------------------------------


NOISE = np.random.default_rng(0).integers(0, 256, (30, 30), dtype=np.uint8)


@pytest.mark.parametrize(
    ("given", "said"),
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
def test_what_nothing_can_be_learnt_from(given, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("not an image")
    fresh = HTDGDetector("tiny")
    with pytest.raises(ImageError, match=said) as refused:
        fresh.fit(given, **QUIET)
    assert "\n" not in str(refused.value)
    with pytest.raises(NotFittedError):
        fresh.sample(1)


def test_a_huge_image_is_refused_in_training_and_in_scoring(model, unseen, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 96 * 96 - 1)
    with pytest.raises(ImageError, match="million pixels: make it smaller"):
        HTDGDetector("tiny").fit(unseen[0], **QUIET)
    with pytest.raises(ImageError, match="million pixels: make it smaller"):
        model.anomaly_score(unseen[0])


def test_a_refused_image_leaves_a_trained_detector_as_it_was(brick):
    detector = HTDGDetector("tiny").fit(brick[0][0], **QUIET)
    before = detector.score_samples(brick[1])
    with pytest.raises(ImageError):
        detector.fit(np.zeros((9, 9), np.uint8), **QUIET)
    np.testing.assert_array_equal(detector.score_samples(brick[1]), before)


@pytest.mark.parametrize(
    "use",
    [
        lambda d, path: d.score_samples(NOISE),
        lambda d, path: d.score_scales(NOISE),
        lambda d, path: d.anomaly_score(NOISE),
        lambda d, path: d.votes(NOISE),
        lambda d, path: d.sample(),
        lambda d, path: d.reconstruct(),
        lambda d, path: d.save(path),
    ],
    ids=["samples", "scales", "anomaly", "votes", "sample", "reconstruct", "save"],
)
def test_an_untrained_detector_says_so(use, tmp_path):
    with pytest.raises(NotFittedError, match=r"is not trained: call fit\(images\) or load"):
        use(HTDGDetector("tiny"), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_names_must_be_as_many_as_images():
    with pytest.raises(ImageError, match="names"):
        HTDGDetector("tiny").fit([NOISE, NOISE.T], names=["only one"], **QUIET)


@pytest.mark.parametrize("device", ["cuda", "cuda:3", "mps"])
def test_a_device_that_is_not_there_is_refused_at_once(device, monkeypatch, model, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    said = f"Option device is '{device}', but PyTorch finds no such device here"
    with pytest.raises(ConfigError, match=said):
        HTDGDetector(CONFIG.with_options(device=device))
    model.save(tmp_path / "model")
    with pytest.raises(ConfigError, match=said):
        HTDGDetector.load(tmp_path / "model", device=device)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    ("device", "has_bf16", "asked", "expected"),
    [
        ("cuda", True, "auto", torch.bfloat16),
        ("cuda", False, "auto", torch.float32),
        ("cuda", True, "float32", torch.float32),
        ("cpu", True, "auto", torch.float32),
        ("cpu", True, "bf16", torch.bfloat16),
        ("mps", True, "bf16", torch.float32),
    ],
)
def test_the_precision_that_votes_are_computed_in(
    device, has_bf16, asked, expected, fast, brick, monkeypatch
):
    """Runs on the CPU and only believes that it were another device."""
    detector = HTDGDetector(HTDGConfig.preset("tiny", niter=1)).fit(brick[0][0], **QUIET)
    seen = []
    forward = torch.nn.Conv2d.forward

    def watched(self, x):
        seen.append(forward(self, x))
        return seen[-1]

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watched)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16)
    detector.config = detector.config.with_options(precision=asked, fast=fast)
    believed = torch.device(device)
    real_autocast = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda kind, **how: real_autocast("cpu", **how))
    monkeypatch.setattr(detector, "device", believed)
    x = resize(load_image(brick[1][0])[None], 14)
    with torch.inference_mode():
        votes = detector._voters()[0](x)
    assert [y.dtype for y in seen] == [expected] * 5
    assert votes.dtype == torch.float32  # softmax is never taken in bf16


def test_an_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match="Option preset is 'fast', but it must be one of paper_"):
        HTDGDetector("fast")


@pytest.mark.parametrize("tint", [0, 1, 2, 3, 20])
def test_automatic_transformations_need_visible_colour(tint, brick):
    """A grey level or two, as JPEG leaves them, are not colour yet."""
    crop = np.minimum(brick[0][0], 255 - 20)
    image = np.stack([crop, crop, crop + np.uint8(tint)], axis=-1)
    config = HTDGConfig.preset("tiny", transformations="auto", niter=1, max_size=14, image_size=14)
    model = HTDGDetector(config).fit(image, **QUIET)
    assert len(model.transformations) == (54 if tint > 2 else 42)
