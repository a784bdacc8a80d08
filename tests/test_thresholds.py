"""Thresholds: the quantile by hand, its guarantee by simulation, and the detector's use of it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from htdg import ConfigError, HTDGDetector, ImageError, NotFittedError
from htdg.commands.cli import main
from htdg.commands.common import at_chance
from htdg.numbers import digits
from htdg.thresholds import (
    BY_HAND,
    GENERATED,
    HELD_OUT,
    Threshold,
    upper_quantile,
)
from tests.models import QUIET


def test_the_quantile_by_hand():
    values = [0.3, 0.1, 0.2, 0.5, 0.4, 0.9, 0.7, 0.6, 0.8]  # nine of them
    assert upper_quantile(values, 0.1) == 0.9  # the 9th of 9: ceil(10 * 0.9)
    assert upper_quantile(values, 0.2) == 0.8
    assert upper_quantile(values, 0.5) == 0.5
    assert upper_quantile(values, 0.01) == 0.9  # would be the 10th: the largest
    assert upper_quantile(range(1, 100), 0.05) == 95
    assert upper_quantile(range(1, 25), 0.44) == 14  # 25 * (1 - 0.44) is 14.000000000000002


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3])
def test_a_further_value_exceeds_it_at_that_rate_at_most(rate):
    rng = np.random.default_rng(0)
    draws = rng.exponential(size=(20_000, 40))
    exceeded = [row[-1] > upper_quantile(row[:-1], rate) for row in draws]
    # 39 values: the k-th smallest of them with k = 40 (1 - rate), so exactly the rate.
    assert np.mean(exceeded) == pytest.approx(rate, abs=0.008)


@pytest.mark.parametrize("rate", [0, 1, -0.1, float("nan")])
def test_rates_outside_0_to_1_are_refused(rate):
    with pytest.raises(ValueError, match=r"false positive rate is .* between 0 and 1"):
        upper_quantile([0.1], rate)


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="no scores to learn a threshold from"):
        upper_quantile([], 0.1)


def test_what_it_says_of_itself():
    threshold = Threshold(0.41234, 0.6, 0.05, 12, GENERATED, None)
    assert str(threshold) == (
        "0.4123, for 5.0% of normal images flagged, from 12 generated images (so few that 7.7% is "
        "the least that can be expected); of real images any share may be flagged, so use held-out "
        "ones if you can"
    )
    assert str(Threshold(0.5, 0.6, 0.05, 50, HELD_OUT, None)).endswith("from 50 held-out images")


@pytest.fixture
def model(tiny, tmp_path):
    tiny.save(tmp_path / "model")
    return HTDGDetector.load(tmp_path / "model", device="cpu")


def test_calibrating_with_held_out_images(model, brick, tmp_path):
    held_out, odd = brick[1][:2], np.zeros((40, 40), np.uint8)
    odd[::2] = 255
    threshold = model.calibrate(held_out, 0.5, defect_fraction=0.2)
    scores = model.anomaly_score(held_out, 0.2)
    assert threshold.score == pytest.approx(scores.max(), abs=1e-9)  # the 2nd of 2: ceil(3 * 0.5)
    highest = max(model.anomaly_map(image).max() for image in held_out)
    assert threshold.pixel == pytest.approx(highest, abs=1e-6)
    assert (threshold.count, threshold.source) == (2, HELD_OUT)
    assert threshold.defect_fraction == 0.2
    assert model.threshold_ == threshold
    images = [*held_out, odd]
    expected = np.where(model.anomaly_score(images, 0.2) > threshold.score, -1, 1)
    assert model.predict(images).tolist() == expected.tolist()
    assert model.predict(held_out).tolist() == [1, 1]  # not even those that set it
    model.save(tmp_path / "again")
    again = HTDGDetector.load(tmp_path / "again", device="cpu")
    assert again.threshold_ == threshold
    assert again.offset_ == model.offset_
    assert again.predict(images).tolist() == expected.tolist()


def test_calibrating_with_generated_images_is_asked_for_by_name(model):
    options = {"n_generated": 19, "false_positive_rate": 0.1}
    threshold = model.calibrate("generated", **options)
    images = list((model.sample(19).clamp(-1, 1) + 1) / 2)
    assert threshold.score == np.sort(model.anomaly_score(images))[17]  # the 18th of 19
    assert (threshold.count, threshold.source) == (19, GENERATED)
    assert model.calibrate("generated", **options) == threshold  # seeded
    assert model.calibrate("generated", **options, seed=1) != threshold


def test_calibrating_without_images_is_refused(model):
    for call in (model.calibrate, lambda: model.calibrate(None), lambda: model.calibrate(seed=1)):
        with pytest.raises(ConfigError) as refused:
            call()
        assert str(refused.value) == (
            "calibrate needs normal images that did not train: give some. "
            'calibrate("generated") takes images that the model draws itself, from which the share '
            "of real images that is flagged can be far from the one asked for."
        )
    with pytest.raises(ImageError, match="The list of images is empty"):
        model.calibrate([])
    assert model.threshold_ is None


def test_an_image_called_generated_is_given_as_a_path(model, brick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(brick[1][0]).save("generated", format="png")
    threshold = model.calibrate(Path("generated"))
    assert (threshold.count, threshold.source) == (1, HELD_OUT)
    assert model.calibrate(["generated"]) == threshold


def test_without_a_threshold_nothing_is_predicted(tiny, brick):
    for ask in (tiny.predict, tiny.decision_function):
        with pytest.raises(
            NotFittedError, match=r"has no threshold: call calibrate\(images\) with"
        ):
            ask(brick[1][:1])
    assert not hasattr(tiny, "offset_")


def test_fitting_again_forgets_the_threshold(model, brick):
    model.calibrate("generated", n_generated=2)
    assert model.threshold_ is not None
    model.fit(brick[0][0], **QUIET)
    assert model.threshold_ is None
    assert not hasattr(model, "offset_")


@pytest.mark.parametrize("rate", [0, 1.5, float("nan"), True, "0.1", None])
def test_impossible_rates_are_refused_in_one_sentence(model, brick, rate):
    with pytest.raises(ConfigError, match="false positive rate"):
        model.calibrate(brick[1][:1], rate)
    assert model.threshold_ is None


@pytest.mark.parametrize("fractions", [[0.1, 0.2], np.array([0.1, 0.2])], ids=["list", "array"])
def test_a_threshold_is_for_one_fraction(model, brick, fractions):
    with pytest.raises(ConfigError, match=r"defect_fraction is .*, but a threshold is for one"):
        model.calibrate(brick[1][:1], defect_fraction=fractions)
    assert model.threshold_ is None


def test_numpy_s_numbers_are_as_good_as_python_s(model, brick, tmp_path):
    expected = model.calibrate(brick[1][:2], 0.25, 0.5)
    for kind in (np.float64, np.float32):
        threshold = model.calibrate(brick[1][:2], kind(0.25), kind(0.5))
        assert threshold == expected
        assert type(threshold.false_positive_rate) is float
        assert type(threshold.defect_fraction) is float
    drawn = model.calibrate("generated", n_generated=np.int64(3), seed=np.uint8(1))
    assert drawn == model.calibrate("generated", n_generated=3, seed=1)
    model.save(tmp_path / "saved")  # what is kept is what JSON knows


# --- By hand, at chance, and in enough digits ---------------------------------------------------


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (0.5, "0.5000"),
        (0.41238, "0.4124"),
        (0.9912, "0.99120"),
        (0.99991234, "0.9999123"),
        (0.9999999123, "0.9999999123"),
        (1.0, "1.0000"),
        (0.0, "0.0000"),
    ],
)
def test_a_score_close_to_1_has_more_digits(score, expected):
    assert digits(score) == expected


def test_a_threshold_by_hand_decides_and_stays_with_the_model(model, brick, tmp_path):
    scores = np.sort(model.anomaly_score(brick[1], 0.05))
    between = float(scores[3:5].mean())
    threshold = model.set_threshold(between, defect_fraction=0.05)
    assert (threshold.score, threshold.pixel, threshold.source) == (between, between, BY_HAND)
    assert str(threshold) == f"{digits(between)}, set by hand"
    assert (model.predict(brick[1]) == -1).sum() == len(scores) - 4
    model.save_threshold(tmp_path / "model")
    assert HTDGDetector.load(tmp_path / "model").threshold_ == threshold
    for wrong in (-0.1, 1.5, float("nan"), "high", None):
        with pytest.raises(ConfigError, match="must be a number from 0 to 1"):
            model.set_threshold(wrong)
    assert model.threshold_ == threshold


def test_a_threshold_by_hand_on_the_command_line(model, brick, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for n in range(4):
        Image.fromarray(brick[1][n]).save(f"{n}.png")
    images = [f"{n}.png" for n in range(4)]
    middle = float(np.median(model.anomaly_score(images)))
    assert main(["score", "model", *images, "--threshold", str(middle)]) == 0
    shown = capsys.readouterr()
    assert sum(line.split(",")[-2] == "1" for line in shown.out.splitlines()[1:]) == 2
    assert shown.err.endswith(f"threshold {digits(middle)}, set by hand\n")
    assert HTDGDetector.load("model").threshold_ is None  # for this once
    assert main(["calibrate", "model", "--threshold", "0.625"]) == 0
    assert capsys.readouterr().out == "threshold 0.6250, set by hand\n"
    assert HTDGDetector.load("model").threshold_.score == 0.625
    for words in (["--threshold", "2"], ["0.png", "--threshold", "0.5"]):
        assert main(["calibrate", "model", *words]) == 2


def test_how_the_held_out_images_scored_is_said(model, brick, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for n in range(4):
        Image.fromarray(brick[1][n]).save(f"{n}.png")
    scores = model.anomaly_score([f"{n}.png" for n in range(4)])
    assert main(["calibrate", "model", "0.png", "1.png", "2.png", "3.png"]) == 0
    least, middle, greatest = (digits(f(scores)) for f in (np.min, np.median, np.max))
    sentence = f"The images it comes from score {least} to {greatest}, {middle} in the middle; "
    sentence += f"{int(scores.argmax())}.png sets the threshold."
    assert sentence in capsys.readouterr().out
    assert main(["info", "model"]) == 0
    assert sentence in capsys.readouterr().out


def test_a_model_at_chance_is_told():
    assert at_chance(0.24, 4) == (
        "The votes are no better than guessing: 0.240 on average for the true one of 4 "
        "transformations of normal images, where guessing has 0.250. Train longer (niter), or rely "
        "on distances (evidence)."
    )
    assert at_chance(0.274, 4) != ""
    assert at_chance(0.3, 4) == ""
    assert at_chance(0.03, 54) == ""
    assert at_chance(None, 4) == ""


def test_training_calibrating_and_info_tell_of_a_model_at_chance(
    brick, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "noise").mkdir()
    for n in range(4):  # turned noise is noise: nobody can tell
        noise = rng.integers(0, 255, (40, 40, 3)).astype(np.uint8)
        Image.fromarray(noise).save(f"noise/{n}.png")
    words = ["train", "noise/0.png", "--out", "m", "--preset", "tiny", "--niter", "1"]
    assert main(words) == 0
    assert "The votes are no better than guessing" in capsys.readouterr().err
    assert main(["calibrate", "m", "noise"]) == 0
    threshold = HTDGDetector.load("m").threshold_
    assert threshold.count == 3  # the first one trained
    assert threshold.mean_vote == pytest.approx(0.25, abs=0.025)
    assert "The votes are no better than guessing" in capsys.readouterr().err
    assert main(["info", "m"]) == 0
    assert "The votes are no better than guessing" in capsys.readouterr().out
    for n in range(4):
        Image.fromarray(brick[1][n]).save(f"{n}.png")
    options = ["--preset", "tiny", "--niter", "40", "--min-size", "18"]
    assert main(["train", "0.png", "--out", "b", *options]) == 0
    assert "no better than guessing" not in capsys.readouterr().err
