"""One score from votes and patch distances: by hand, and what detectors of each kind do."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import sklearn.base
import torch

from htdg import ConfigError, HTDGConfig, HTDGDetector, evidence, scorer
from htdg.distances import UniqueDistances, brightened
from htdg.evidence import Evidence, as_score, combined, highest_mean, odds
from htdg.gradients import GradientPatches
from htdg.nearby import NearbyDistances
from htdg.patches import PixelPatches
from htdg.pyramid import build_pyramid, pyramid_sides
from htdg.state import ModelState
from htdg.thresholds import HELD_OUT
from tests.models import QUIET, Stop, same_weights, stop_at

FRACTIONS = (None, 0.02, 0.2)
KINDS = ("votes", "distance", "both")
#: Distances at other scales than the votes.
SIZES = {"distance_min_size": 13, "distance_max_size": 18}


def small_detector(kind, **options):
    """An untrained one of this kind."""
    return HTDGDetector("tiny", evidence=kind, **SIZES, **options)


@pytest.fixture(scope="module")
def detectors(brick, tiny):
    """One of each kind, trained on the same image; not to be changed by a test."""
    image = brick[0][0]
    others = {kind: small_detector(kind).fit(image, **QUIET) for kind in KINDS[1:]}
    return {"votes": tiny, **others}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def detector(kind, detectors):
    """A fresh view of the model of one kind, which a test may calibrate."""
    return HTDGDetector.from_model(detectors[kind].model_)


def as_kind(detector, kind):
    """The same model, scored with another kind of evidence."""
    config = detector.config_.with_options(evidence=kind, **SIZES)
    return HTDGDetector.from_model(replace(detector.model_, config=config))


def small(seed=0):
    """A random image as large as the model's, 20 pixels, (20, 20, 3) in [0, 1]."""
    return np.random.default_rng(seed).random((20, 20, 3), dtype=np.float32)


def as_batch(image):
    """An image (20, 20, 3) in [0, 1] as the model sees it: (1, 3, 20, 20) in [-1, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1)[None] * 2 - 1


def refuse_to_measure(*_):
    raise AssertionError("Evidence was measured.")


# --- By hand --------------------------------------------------------------------------------------


def test_odds_by_hand():
    found = odds(torch.tensor([0.5, 0.2, 0.8, 0.0, 1.0]))
    # No vote counts as nearer to 0 or 1 than 0.001.
    np.testing.assert_allclose(found, [1, 4, 0.25, 999, 1 / 999], rtol=1e-4)


def test_both_kinds_multiply_and_the_votes_count_little():
    distance, votes = torch.tensor([3.0, 3, 0]), torch.tensor([1024.0, 1 / 1024, 1024])
    # 1024 ** 0.1 = 2
    np.testing.assert_allclose(combined(distance, votes), [6, 1.5, 0], rtol=1e-5)
    assert torch.equal(combined(distance, None), distance)


def test_scores_grow_with_the_evidence_and_stay_below_1():
    found = as_score(torch.tensor([0.0, 1 / 3, 1, 3, 9]))
    np.testing.assert_allclose(found, [0, 0.25, 0.5, 0.75, 0.9], rtol=1e-6)
    # Up to the greatest evidence: range of distances 2 of at least 0.001, and odds of 999 ** 2.
    greatest = as_score(torch.logspace(-4, np.log10(2000 * 999**0.4), 1000))
    assert (greatest.diff() > 0).all()
    assert 0 < greatest[0] < greatest[-1] < 1


def test_the_mean_of_the_highest_pixels_by_hand():
    first = torch.tensor([1.0, 7, 3, 2, 9, 4, 0, 5, 6, 8]).view(2, 5)
    maps = torch.stack([first, 2 * first + 1])
    for fraction, expected in [
        (None, 4.5),  # all ten
        (1.0, 4.5),
        (0.2, 8.5),  # 9 and 8
        (0.39, 8),  # 9, 8 and 7
        (0.01, 9),  # at least one
    ]:
        found = highest_mean(maps, fraction)
        np.testing.assert_allclose(found, [expected, 2 * expected + 1], rtol=1e-6)


class FixedVoter:
    """Answers one batch after another with fixed votes, and keeps what it was shown."""

    def __init__(self, *votes):
        self.votes, self.shown = list(votes), []

    def __call__(self, images):
        self.shown.append(images)
        side = images.shape[-1] - 10
        around = torch.linspace(-0.1, 0.1, 4 * side * side).view(4, 1, side, side)
        return self.votes[len(self.shown) - 1] + around  # not all the same


@pytest.fixture
def measured():
    """Evidence of a model with two scales and two images, whose voters are fixed, and those."""
    config = HTDGConfig.preset("tiny", evidence="both", **SIZES)
    images = torch.cat([as_batch(small(seed)) for seed in (5, 6)])
    model = ModelState(config, (14, 20), (), (), images, ("a", "b"))
    coarse = FixedVoter(*[0.1, 0.5, 0.2, 0.4] * 2)  # 0.3 on average
    fine = FixedVoter(*[0.1] * 8)  # of both scales 0.2: odds 4
    return Evidence(model, [coarse, fine], torch.device("cpu")), (coarse, fine)


def test_normal_votes_are_those_for_brighter_and_darker_copies(measured):
    measured, voters = measured
    assert measured.normal_odds == pytest.approx(4, rel=1e-4)
    copies = torch.cat([brightened(as_batch(small(seed))) for seed in (5, 6)])
    pyramid = build_pyramid(copies, (14, 20))
    assert len(copies) == 8
    for voter, expected in zip(voters, pyramid, strict=True):
        torch.testing.assert_close(torch.cat(voter.shown), expected)


def test_the_votes_ratio_has_the_odds_of_the_mean_over_the_scales(measured):
    measured, _ = measured
    coarse, fine = torch.tensor([0.3, 0.5, 0.1, 0.9]), torch.tensor([0.1, 0.3, 0.1, 0.7])
    # Means 0.2, 0.4, 0.1, 0.8, odds 4, 1.5, 9, 0.25; 4 is normal.
    expected = [1, 1.5 / 4, 9 / 4, 1 / 16]
    np.testing.assert_allclose(measured.votes_ratio([coarse, fine]), expected, rtol=1e-4)


def test_the_distance_map_is_the_geometric_mean_of_pixels_and_gradients(measured):
    measured, _ = measured
    assert measured.sides == pyramid_sides(20, 13, 18) != (14, 20)
    image = as_batch(small(1))
    measured.sides = (14, 20)
    measured.pixels = [lambda x: x[:, 0, :14, :14] ** 0 * 5, lambda x: x[:, 1] + 1]
    measured.gradients = lambda x: 3 + x[:, 2]
    found = measured.distance_map(image)
    expected = ((6 + image[:, 1]) / 2 * (3 + image[:, 2])).sqrt()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# --- Predictions ----------------------------------------------------------------------------------


def test_votes_alone_are_the_paper_s(detectors, brick, monkeypatch):
    monkeypatch.setattr(scorer, "Evidence", refuse_to_measure)
    fitted = HTDGDetector("tiny").fit(brick[0][0], **QUIET)
    for prediction in fitted.predictions(brick[1][:3], FRACTIONS):
        assert prediction.evidence == {}
        assert prediction.normality.shape == (3, 4)
        expected = 1 - prediction.normality.mean(-1) / 4
        np.testing.assert_array_equal(prediction.scores, expected)
    np.testing.assert_array_equal(
        fitted.anomaly_score(brick[1][:3]), detectors["votes"].anomaly_score(brick[1][:3])
    )
    scores = fitted.score_samples(brick[1][:3])
    np.testing.assert_array_equal(scores, fitted.score_scales(brick[1][:3]).mean(-1))
    assert scores.max() > 1  # in [0, M]


def slow_distance_map(detector, image):
    """The relative distance at each pixel (20, 20): of pixels and of gradients, their mean."""
    options = detector.config_
    pixels, radius = PixelPatches(options.patch_side, options.patch_constant), options.search_radius

    def measured(side, describe, limited):
        (trained,) = build_pyramid(detector.images_, (side,))
        (tested,) = build_pyramid(as_batch(image), (side,))
        measure = (
            NearbyDistances(trained, describe, radius)
            if radius
            else UniqueDistances(trained, describe, limited)
        )
        return torch.nn.functional.interpolate(measure(tested)[None], (20, 20), mode="bilinear")[
            0, 0
        ]

    of_pixels = [measured(side, pixels, True) for side in pyramid_sides(20, 13, 18)]
    gradients = GradientPatches(6, options.high_pass)
    return np.sqrt(np.mean(of_pixels, 0) * measured(20, gradients, False).numpy())


def slow_highest(values, fraction):
    """The mean of the highest share of an array."""
    count = values.size if fraction is None else max(1, int(values.size * fraction))
    return np.sort(values, axis=None)[-count:].mean()


def slow_normal_odds(votes_detector):
    """The odds for brightened copies of the one training image."""
    copies = (brightened(votes_detector.images_) + 1) / 2
    mean = votes_detector.score_samples(list(copies)).mean() / 4
    return (1 - mean) / mean


@pytest.mark.parametrize(
    "options", [{}, {"patch_side": 7, "patch_constant": 0.3}, {"high_pass": 2.0}]
)
@pytest.mark.parametrize("search_radius", [0.0, 0.2])
def test_distances_alone_make_the_score_and_the_map(options, search_radius, brick):
    detector = small_detector("distance", search_radius=search_radius, **options).fit(
        brick[0][0], **QUIET
    )
    image = small(1)
    (prediction,) = detector.predictions(image, FRACTIONS, maps=True)
    expected = slow_distance_map(detector, image)
    assert prediction.normality.shape == (3, 0)
    assert set(prediction.evidence) == {"distance"}
    highest = [slow_highest(expected, fraction) for fraction in FRACTIONS]
    np.testing.assert_allclose(prediction.evidence["distance"], highest, rtol=1e-4)
    np.testing.assert_allclose(prediction.scores, highest / (1 + np.array(highest)), rtol=1e-4)
    assert prediction.anomaly_map.dtype == np.float32
    np.testing.assert_allclose(prediction.anomaly_map, expected / (1 + expected), rtol=1e-4)


def test_both_make_the_score_and_the_map(detectors):
    detector, of_votes, of_distances = (detectors[kind] for kind in ("both", "votes", "distance"))
    image = small(1)
    (prediction,) = detector.predictions(image, FRACTIONS, maps=True)
    (voted,), (compared,) = (d.predictions(image, FRACTIONS) for d in (of_votes, of_distances))
    assert list(prediction.evidence) == ["votes", "distance"]
    np.testing.assert_array_equal(prediction.normality, voted.normality)
    distance, votes = prediction.evidence["distance"], prediction.evidence["votes"]
    np.testing.assert_array_equal(distance, compared.evidence["distance"])
    normal_odds = slow_normal_odds(of_votes)
    means = voted.normality.mean(-1) / 4  # (F,)
    np.testing.assert_allclose(votes, (1 - means) / means / normal_odds, rtol=1e-3)
    evidence_of_both = distance * votes**0.1
    np.testing.assert_allclose(prediction.scores, evidence_of_both / (1 + evidence_of_both))
    assert np.abs(prediction.scores - compared.scores).max() > 0.002
    # Where, the distances alone say.
    of_pixels = slow_distance_map(detector, image)
    np.testing.assert_allclose(prediction.anomaly_map, of_pixels / (1 + of_pixels), rtol=1e-3)


def test_a_model_of_both_scored_with_one_kind_is_that_kind_s_model(detectors, brick, tmp_path):
    for kind in ("votes", "distance"):
        changed, expected = as_kind(detectors["both"], kind), detectors[kind]
        for one, two in zip(
            changed.predictions(brick[1][:3], FRACTIONS, maps=True),
            expected.predictions(brick[1][:3], FRACTIONS, maps=True),
            strict=True,
        ):
            np.testing.assert_array_equal(one.scores, two.scores)
            np.testing.assert_array_equal(one.normality, two.normality)
            np.testing.assert_array_equal(one.anomaly_map, two.anomaly_map)
            assert one.evidence.keys() == two.evidence.keys()
        changed.save(tmp_path / kind)
        again = HTDGDetector.load(tmp_path / kind)
        assert same_weights(again, expected)
    assert same_weights(detectors["both"], detectors["votes"])
    np.testing.assert_array_equal(
        as_kind(detectors["votes"], "both").anomaly_score(brick[1]),
        detectors["both"].anomaly_score(brick[1]),
    )


def test_maps_have_the_images_own_size_and_one_scale(detector, brick):
    wide = brick[1][1][:40, :90]
    first, second = detector.predictions([brick[1][0], wide], maps=True)
    assert (first.anomaly_map.shape, second.anomaly_map.shape) == ((96, 96), (40, 90))
    for prediction in (first, second):
        assert prediction.anomaly_map.dtype == np.float32
        assert prediction.anomaly_map.min() >= 0
        assert prediction.anomaly_map.max() <= 1
        assert np.ptp(prediction.anomaly_map) > 0.01
    (alone,) = detector.predictions(wide, maps=True)
    np.testing.assert_allclose(second.anomaly_map, alone.anomaly_map, atol=1e-6)
    assert [p.anomaly_map for p in detector.predictions(wide)] == [None]


def test_scores_depend_neither_on_the_batch_nor_on_the_fractions_asked_for(detector, brick):
    images = brick[1][:4]
    expected = detector.anomaly_score(images, FRACTIONS)
    assert expected.shape == (3, 4)
    assert ((expected >= 0) & (expected < 1)).all()
    assert np.ptp(expected) > 0.01
    contributed = [prediction.evidence for prediction in detector.predictions(images, FRACTIONS)]
    for batch_size in (1, 3):
        found = detector.anomaly_score(images, FRACTIONS, batch_size=batch_size)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    for image, of_image in zip(images, contributed, strict=True):
        (alone,) = detector.predictions(image, FRACTIONS)
        assert alone.evidence.keys() == of_image.keys()
        for kind, ratio in of_image.items():
            np.testing.assert_allclose(alone.evidence[kind], ratio, rtol=1e-4)
    for fraction, row in zip(FRACTIONS, expected, strict=True):
        np.testing.assert_allclose(detector.anomaly_score(images, fraction), row, atol=1e-6)
    assert (expected[1] > expected[2]).all()  # fewer and more anomalous pixels
    assert (expected[2] > expected[0]).all()


def test_normality_is_what_the_anomaly_score_leaves(kind, detector, brick):
    scores = detector.anomaly_score(brick[1][:3], 0.1)
    most = 4 if kind == "votes" else 1
    normality = detector.score_samples(brick[1][:3], 0.1)
    np.testing.assert_allclose(normality, most * (1 - scores), rtol=1e-6)


@pytest.mark.parametrize("of_kind", ["distance", "both"])
def test_the_training_image_is_normal_and_a_defect_is_not(of_kind, detectors, brick):
    detector = detectors[of_kind]
    image = (detector.images_[0].permute(1, 2, 0).numpy() + 1) / 2
    defective = image.copy()
    defective[5:11, 8:14] = small(2)[:6, :6]
    clean, planted = detector.predictions([image, defective], 0.02, maps=True)
    assert clean.scores[0] < 0.1 < 0.6 < planted.scores[0]
    y, x = np.unravel_index(planted.anomaly_map.argmax(), (20, 20))
    assert 5 <= y < 11
    assert 8 <= x < 14


# --- Trained, calibrated, saved -------------------------------------------------------------------


def test_for_distances_alone_nothing_is_trained(detectors, brick):
    detector = detectors["distance"]
    assert (detector.scales_, detector.history_, detector.training_seconds_) == ((), [], 0)
    assert detector.sides_ == detectors["votes"].sides_
    assert not detector.has_generator_
    for ask in (detector.sample, detector.reconstruct, lambda: detector.calibrate("generated")):
        with pytest.raises(ConfigError, match="has evidence distance, which trains no gener"):
            ask()
    called = []
    small_detector("distance").fit(brick[0][0], callback=called.append, **QUIET)
    assert called == []


def test_nothing_votes_in_a_model_of_distances(detectors, brick):
    for fraction in (None, 0.1, [0.1, 0.2]):
        with pytest.raises(ConfigError, match=r"^This model has evidence 'distance', so [^.]+\.$"):
            detectors["distance"].score_scales(brick[1], fraction)
    with pytest.raises(ConfigError, match=r"^This model has evidence 'distance', so [^.]+\.$"):
        detectors["distance"].votes(brick[1][0])
    assert detectors["both"].score_scales(brick[1][:2], [0.1, 0.2]).shape == (2, 2, 4)


def test_calibrating_predicting_and_deciding_agree(kind, detector, brick):
    normal, unseen = brick[1][:2], brick[1][2:]
    threshold = detector.calibrate(normal, 0.3, defect_fraction=0.1)
    (scores,) = detector.anomaly_score(normal, [0.1])
    # Of two images the larger value is below a new one's at a rate of 1 / 3 at least.
    assert threshold.score == scores.max()
    assert threshold.pixel == detector.anomaly_map(normal).max()
    assert (threshold.count, threshold.source) == (2, HELD_OUT)
    everything = [*normal, *unseen, 1 - unseen[0] / 255]
    scores, decisions = (
        detector.anomaly_score(everything, 0.1),
        detector.decision_function(everything),
    )
    most = 4 if kind == "votes" else 1
    np.testing.assert_allclose(decisions, most * (threshold.score - scores), atol=1e-9)
    expected = np.where(scores > threshold.score, -1, 1)
    assert expected[:2].tolist() == [1, 1]
    assert set(expected) == {-1, 1}
    np.testing.assert_array_equal(detector.predict(everything), expected)
    np.testing.assert_allclose(
        detector.offset_, detector.score_samples(everything, 0.1) - decisions, atol=1e-9
    )


def test_what_is_saved_loads_and_scores_the_same(kind, detector, brick, tmp_path):
    images = brick[1][:4]
    detector.calibrate(images[:2], defect_fraction=0.05)
    detector.save(tmp_path / "model")
    loaded = HTDGDetector.load(tmp_path / "model", device="cpu")
    assert loaded.config_ == detector.config_.with_options(device="cpu")
    assert loaded.config_.evidence == kind
    assert same_weights(loaded, detector)
    assert (loaded.threshold_, loaded.offset_) == (detector.threshold_, detector.offset_)
    np.testing.assert_array_equal(loaded.anomaly_score(images), detector.anomaly_score(images))
    np.testing.assert_array_equal(loaded.anomaly_map(images), detector.anomaly_map(images))
    np.testing.assert_array_equal(loaded.predict(images), detector.predict(images))
    tensors = safetensors.torch.load_file(tmp_path / "model" / "weights.safetensors")
    assert (tensors.keys() == {"images"}) == (kind == "distance")


def test_the_same_seed_gives_the_same_scores(kind, detector, brick):
    torch.manual_seed(5)
    image = brick[0][0]
    again = small_detector(kind).fit(image, **QUIET)
    np.testing.assert_array_equal(again.anomaly_map(brick[1]), detector.anomaly_map(brick[1]))
    other = small_detector(kind, seed=1).fit(image, **QUIET)
    same = np.array_equal(other.anomaly_score(brick[1]), detector.anomaly_score(brick[1]))
    assert same == (kind == "distance")  # in which nothing is drawn


def test_several_training_images(brick):
    one, both = (
        small_detector("distance").fit(images, **QUIET) for images in (brick[0][:1], brick[0])
    )
    assert both.anomaly_score(brick[0], 0.02).max() < 0.1
    assert one.anomaly_score(brick[0][1], 0.02) > 0.3


# --- What is measured once ------------------------------------------------------------------------


@pytest.fixture
def measurements(monkeypatch):
    """A list with an entry for each time that evidence is measured."""
    made = []

    class Counted(Evidence):
        def __init__(self, *args):
            made.append(1)
            super().__init__(*args)

    monkeypatch.setattr(scorer, "Evidence", Counted)
    return made


def test_normal_patches_are_measured_once(kind, detectors, brick, measurements):
    detector = HTDGDetector.from_model(detectors[kind].model_)
    first = detector.anomaly_score(brick[1][:2])
    detector.anomaly_map(brick[1][:2])
    detector.calibrate(brick[1][:2])
    detector.predict(brick[1][:2])
    np.testing.assert_array_equal(detector.anomaly_score(brick[1][:2]), first)
    assert len(measurements) == (0 if kind == "votes" else 1)


def test_fitted_again_it_is_measured_again(brick, measurements):
    detector = small_detector("distance").fit(brick[0][0], **QUIET)
    before = detector.anomaly_score(brick[1][:2])
    detector.fit(brick[0][1], **QUIET)
    after = detector.anomaly_score(brick[1][:2])
    assert len(measurements) == 2
    assert not np.allclose(before, after)
    fresh = small_detector("distance").fit(brick[0][1], **QUIET)
    np.testing.assert_array_equal(after, fresh.anomaly_score(brick[1][:2]))


def test_a_training_that_was_broken_off_leaves_no_measurement(brick):
    detector = small_detector("both", niter=1).fit(brick[0][0], **QUIET)
    detector.anomaly_score(brick[1][0])
    assert detector.evidence_ is not None
    with pytest.raises(Stop):
        detector.fit(brick[0][1], callback=stop_at(0, 1), **QUIET)
    assert not hasattr(detector, "evidence_")


def test_the_options_of_distances_count_whatever_the_model_was_trained_with(detectors, brick):
    images = brick[1][:2]
    before = [detectors[kind].anomaly_score(images) for kind in ("both", "distance")]
    alternatives = {"patch_side": 7, "patch_constant": 0.5, "high_pass": 1.0, "search_radius": 0.1}
    for name, value in alternatives.items():
        changed = []
        for kind in ("both", "distance"):
            model = detectors["both"].model_
            config = model.config.with_options(evidence=kind, **{name: value})
            detector = HTDGDetector.from_model(replace(model, config=config))
            changed.append(detector.anomaly_score(images))
        fitted = HTDGDetector(config).fit(brick[0][0], **QUIET).anomaly_score(images)
        np.testing.assert_array_equal(changed[1], fitted)
        for one, two in zip(changed, before, strict=True):
            assert not np.allclose(one, two, atol=1e-4)


@pytest.mark.parametrize(
    "copied",
    [
        pytest.param(lambda x: pickle.loads(pickle.dumps(x)), id="pickled"),
        pytest.param(copy.copy, id="copied"),
        pytest.param(copy.deepcopy, id="deeply copied"),
    ],
)
def test_a_detector_that_has_scored_is_copied(copied, detector, brick):
    size = len(pickle.dumps(detector))
    detector.calibrate(brick[1][:2])
    expected = detector.anomaly_score(brick[1])
    assert len(pickle.dumps(detector)) < size + 1000  # scoring adds nothing but the threshold
    twin = copied(detector)
    np.testing.assert_array_equal(twin.anomaly_score(brick[1]), expected)
    np.testing.assert_array_equal(twin.predict(brick[1]), detector.predict(brick[1]))
    np.testing.assert_array_equal(detector.anomaly_score(brick[1]), expected)


def test_a_clone_has_the_options(kind):
    options = {"evidence": kind, "patch_side": 7, "patch_constant": 0.2, "search_radius": 0.1}
    options |= SIZES
    clone = sklearn.base.clone(HTDGDetector("tiny", **options))
    assert clone.resolved_config() == HTDGConfig.preset("tiny", **options)


# --- Options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"evidence": "vote"}, "evidence is 'vote', but it must be one of votes, distance, both."),
        ({"evidence": 1}, "evidence is 1, but it must be one of votes, distance, both."),
        (
            {"evidence": "both", "method": "mse"},
            "evidence is 'both', but it must be 'votes' with method mse.",
        ),
        (
            {"evidence": "distance", "method": "no_generator"},
            "evidence is 'distance', but it must be 'votes' with method no_generator.",
        ),
        ({"patch_side": 0}, "patch_side is 0, but it must be a whole number, at least 1."),
        ({"patch_side": 2.5}, "patch_side is 2.5, but it must be a whole number, at least 1."),
        (
            {"evidence": "distance", "patch_side": 13},
            "patch_side is 13, but it must be below distance_min_size, which is 13.",
        ),
        (
            {"evidence": "both", "distance_max_size": 12},
            "distance_max_size is 12, but it must be at least distance_min_size, which is 13.",
        ),
        (
            {"evidence": "both", "distance_min_size": 21, "distance_max_size": 22},
            "distance_min_size is 21, but it must be at most image_size, which is 20.",
        ),
        (
            {"patch_constant": -0.1},
            "patch_constant is -0.1, but it must be a number, at least 0.",
        ),
        (
            {"patch_constant": "x"},
            "patch_constant is 'x', but it must be a number, at least 0.",
        ),
        (
            {"high_pass": 200},
            "high_pass is 200, but it must be a number, at least 0 and at most 100.",
        ),
        (
            {"high_pass": 0.1},  # whose blur is the image itself
            "high_pass is 0.1, but it must be 0, or at least 0.5.",
        ),
        (
            {"search_radius": -0.1},
            "search_radius is -0.1, but it must be a number, at least 0 and at most 1.",
        ),
        (
            {"search_radius": 1.5},
            "search_radius is 1.5, but it must be a number, at least 0 and at most 1.",
        ),
        (
            {"search_radius": float("nan")},
            "search_radius is nan, but it must be a number, at least 0 and at most 1, "
            "and no larger than 4294967295.",
        ),
    ],
    ids=str,
)
def test_wrong_options_are_refused_in_one_sentence(options, sentence, brick):
    detector = HTDGDetector("tiny", **{**SIZES, **options})
    with pytest.raises(ConfigError) as refused:
        detector.fit(brick[0][0], **QUIET)
    assert str(refused.value) == f"Option {sentence}"


@pytest.mark.parametrize("of_kind", ["distance", "both"])
@pytest.mark.parametrize("fraction", [0, 1.5, "0.1", ()])
def test_wrong_fractions_are_refused_before_anything_is_scored(of_kind, fraction, detectors):
    with pytest.raises(ConfigError, match="defect_fraction is"):
        detectors[of_kind].predictions(None, fraction)


@pytest.mark.parametrize("name", ["inspect", "novelty", "novelty_rgb"])
def test_the_presets_for_defects_and_for_other_classes_use_both(name):
    config = HTDGConfig.preset(name)
    assert config.evidence == "both"
    assert (config.search_radius > 0) == (name != "inspect")
    assert (config.high_pass > 0) == (name == "novelty_rgb")
    assert 0 < evidence.DEFECT_FRACTION < 0.05


def test_the_largest_patch_fits_the_coarsest_scale(brick):
    detector = small_detector("distance", patch_side=12).fit(brick[0][0], **QUIET)
    scores = detector.anomaly_score([brick[0][0], small(3)])
    assert np.isfinite(scores).all()
    assert scores[0] < 0.1 < scores[1]


def test_votes_alone_do_not_mind_what_distances_could_not_do_with():
    options = {"patch_side": 14, "distance_min_size": 50, "distance_max_size": 10}
    assert HTDGConfig.preset("tiny", **options).evidence == "votes"
