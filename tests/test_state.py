"""The trained model as plain data: whatever trains and saves loads and scores the same."""

import dataclasses
import tempfile
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from htdg import HTDGConfig, HTDGDetector
from htdg.config import METHODS
from htdg.io.checkpoint import remove_checkpoint
from htdg.state import ModelState
from htdg.thresholds import HELD_OUT, Threshold
from htdg.transformations import CATALOGUE, TRANSLATIONS, as_rows
from tests.models import QUIET, same_weights

IMAGES = [np.random.default_rng(i).integers(0, 256, (33, 29, 3), dtype=np.uint8) for i in range(4)]
#: As little work as can be.
SMALL = {"channels": 2, "niter": 1, "d_steps": 1, "g_steps": 1}
SMALL |= {"geom_samples": 2, "geom_epochs": 1, "device": "cpu"}


@st.composite
def configs(draw):
    """Models of any shape that train in a moment."""
    layers = draw(st.integers(1, 5))
    min_size = draw(st.integers(2 * layers + 2, 2 * layers + 6))
    sizes = st.integers(min_size, min_size + 8)
    rows = draw(st.lists(st.sampled_from(CATALOGUE), min_size=1, max_size=5, unique=True))
    return HTDGConfig(
        layers=layers,
        min_size=min_size,
        image_size=draw(sizes),
        max_size=draw(sizes),
        scale_factor=draw(st.sampled_from([0.3, 0.75, 0.9])),
        transformations=as_rows(rows),
        translation=draw(st.sampled_from(TRANSLATIONS)),
        method=draw(st.sampled_from(METHODS)),
        precision=draw(st.sampled_from(["float32", "bf16"])),
        fast=draw(st.booleans()),
        **SMALL,
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(configs(), st.integers(1, 2))
@example(HTDGConfig(image_size=26, min_size=25, transformations="rotations", **SMALL), 1)
@example(HTDGConfig(image_size=26, min_size=25, method="mse", **SMALL), 2)
def test_what_trains_and_saves_loads_and_scores_the_same(config, shots):
    with tempfile.TemporaryDirectory() as place:
        checkpoint, folder = Path(place) / "begun", Path(place) / "model"
        detector = HTDGDetector(config).fit(IMAGES[:shots], checkpoint=checkpoint, **QUIET)
        detector.calibrate(IMAGES[2:])
        detector.save(folder)
        remove_checkpoint(checkpoint)
        loaded = HTDGDetector.load(folder, device="cpu")
    assert same_weights(loaded, detector)
    assert loaded.sides_ == detector.sides_ == (() if config.method == "mse" else config.sides)
    np.testing.assert_array_equal(loaded.score_scales(IMAGES), detector.score_scales(IMAGES))
    np.testing.assert_array_equal(loaded.anomaly_map(IMAGES), detector.anomaly_map(IMAGES))
    np.testing.assert_array_equal(loaded.predict(IMAGES), detector.predict(IMAGES))
    assert np.isfinite(loaded.score_scales(IMAGES)).all()
    assert loaded.config_ == config
    assert loaded.threshold_ == detector.threshold_
    if loaded.has_generator_:
        assert torch.equal(loaded.sample(2), detector.sample(2))


def test_a_state_is_frozen_and_a_changed_copy_shares_the_rest(tiny):
    state = tiny.model_
    threshold = Threshold(0.5, 0.6, 0.05, 3, HELD_OUT, None)
    changed = dataclasses.replace(state, threshold=threshold)
    with pytest.raises(FrozenInstanceError):
        state.threshold = threshold
    assert state.threshold is None
    for field in dataclasses.fields(ModelState):
        if field.name != "threshold":
            assert getattr(changed, field.name) is getattr(state, field.name)


def test_a_detector_is_a_view_of_its_state(tiny, brick):
    detector = HTDGDetector.from_model(tiny.model_)
    assert detector.model_ is tiny.model_
    np.testing.assert_array_equal(detector.score_samples(brick[1]), tiny.score_samples(brick[1]))
    assert detector.threshold_ is None
    # Calibrating one leaves the other as it is.
    detector.calibrate(brick[1][:2])
    assert tiny.threshold_ is None
    again = HTDGDetector.from_model(detector.model_)
    assert again.offset_ == detector.offset_
    np.testing.assert_array_equal(again.predict(brick[1]), detector.predict(brick[1]))


def test_what_it_says_of_its_generator_and_its_time(tiny, two, brick):
    assert tiny.model_.has_generator
    assert tiny.model_.training_seconds == sum(s["seconds"] for s in tiny.model_.history) > 0
    mse = HTDGDetector("tiny", method="mse").fit(brick[0], **QUIET).model_
    assert not mse.has_generator
    assert (mse.scales, mse.sides, mse.history) == ((), (), ())
    assert mse.training_seconds == 0
    assert torch.equal(mse.images, two.images_)
