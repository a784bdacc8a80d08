"""The patches that memory banks keep are chosen in training, and saved with the model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from htdg import ConfigError, HTDGDetector, ModelError, distances, evidence
from htdg.distances import memory_bank
from htdg.io import model_directory
from htdg.patches import PixelPatches
from tests.models import QUIET
from tests.test_storage import edit, set_tensors

#: A bank keeps so many here, of 8 times 20 x 20 patches of pixels and 13 x 13 of gradients.
KEPT, SIDE = 500, 24
OPTIONS = {"evidence": "distance", "image_size": SIDE, "min_size": 14, "max_size": SIDE}
OPTIONS |= {
    "niter": 1,
    "layers": 3,
    "distance_min_size": SIDE,
    "distance_max_size": SIDE,
    "patch_side": 5,
}
#: What their banks are called.
PIXELS, GRADIENTS = f"bank {SIDE} pixels 5 0.0", f"bank {SIDE} gradients 6 0.0"


@pytest.fixture(scope="module", autouse=True)
def small_banks():
    with pytest.MonkeyPatch.context() as patch:
        for module in (distances, evidence, model_directory):
            patch.setattr(module, "BANK_SIZE", KEPT)
        yield


@pytest.fixture(scope="module")
def compared(brick, small_banks):
    """A model of distances, of two images, whose banks keep a part of the patches."""
    return HTDGDetector("tiny", **OPTIONS).fit(brick[0][:2], **QUIET)


@pytest.fixture
def saved(compared, tmp_path):
    compared.save(tmp_path / "model")
    return tmp_path / "model"


def not_again(*_):
    raise AssertionError("the patches were chosen a second time")


@pytest.mark.parametrize("candidates", [1000, 10**6])
def test_what_is_kept_is_the_coreset_of_what_is_drawn(candidates, brick, monkeypatch):
    """Chosen here by the definition: the next is the one furthest from those chosen so far."""
    monkeypatch.setattr(distances, "CANDIDATES", candidates)
    model = HTDGDetector("tiny", **OPTIONS).fit(brick[0][:2], **QUIET).model_
    describe, every = PixelPatches(5), torch.arange(SIDE - 4)
    copies = distances.turned_copies(model.images)
    patches = torch.cat([describe(copy[None], every)[0] for copy in copies])  # in order
    generator = torch.Generator().manual_seed(0)
    drawn = patches[torch.randperm(len(patches), generator=generator)[:candidates]].double()
    assert len(drawn) == min(candidates, 2 * 8 * 20 * 20)
    kept = model.banks[PIXELS]
    assert len(kept) == KEPT
    nearest, first = (drawn - drawn[0]).square().sum(1), {0}
    for _ in range(100):
        first.add(int(nearest.argmax()))
        nearest = nearest.minimum((drawn - drawn[int(nearest.argmax())]).square().sum(1))
    assert first <= set(kept.tolist())
    origins = memory_bank(model.images, describe, kept).origins
    assert set(origins.tolist()) == {0, 1}


def test_a_loaded_model_chooses_nothing_and_scores_the_same(compared, saved, brick, monkeypatch):
    expected = compared.score_samples(brick[1])
    monkeypatch.setattr(distances, "coreset", not_again)
    loaded = HTDGDetector.load(saved)
    np.testing.assert_array_equal(loaded.score_samples(brick[1]), expected)
    with pytest.raises(AssertionError, match="a second time"):
        HTDGDetector("tiny", **OPTIONS).fit(brick[0][:2], **QUIET)


def test_the_choice_that_was_saved_counts(saved, brick):
    """So another processor, whose last digits would choose others, gives the same scores."""
    scores = HTDGDetector.load(saved).score_samples(brick[1])
    set_tensors(lambda tensors: tensors.update({PIXELS: torch.arange(KEPT)}))(saved)
    others = HTDGDetector.load(saved).score_samples(brick[1])
    assert (np.abs(others - scores) > 1e-5).all()


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"evidence": "votes"}, set()),
        ({"search_radius": 0.2}, set()),
        ({"patch_side": 7}, {GRADIENTS}),
        ({"patch_constant": 0.1}, {GRADIENTS}),
        ({"high_pass": 1.0}, {PIXELS}),
        ({"distance_min_size": 20}, {PIXELS, GRADIENTS}),
    ],
)
def test_banks_of_other_options_do_not_count(change, kept, brick, tmp_path):
    both = HTDGDetector("tiny", **{**OPTIONS, "evidence": "both"}).fit(brick[0][:2], **QUIET)
    assert both.model_.banks.keys() == {PIXELS, GRADIENTS}
    config = both.config_.with_options(**change)
    changed = HTDGDetector.from_model(replace(both.model_, config=config))
    anew = HTDGDetector.from_model(replace(both.model_, config=config, banks={}))
    scores = changed.score_samples(brick[1])
    np.testing.assert_array_equal(scores, anew.score_samples(brick[1]))
    changed.save(tmp_path / "model")
    loaded = HTDGDetector.load(tmp_path / "model")
    assert loaded.model_.banks.keys() == kept
    np.testing.assert_array_equal(loaded.score_samples(brick[1]), scores)


@pytest.mark.parametrize("number", [3, 4])
def test_an_earlier_model_without_them_scores_the_same(number, compared, saved, brick):
    set_tensors(lambda tensors: [tensors.pop(name) for name in (PIXELS, GRADIENTS)])(saved)
    edit(format=number)(saved)
    loaded = HTDGDetector.load(saved)
    assert loaded.model_.banks == {}
    np.testing.assert_array_equal(loaded.score_samples(brick[1]), compared.score_samples(brick[1]))


@pytest.mark.parametrize("side", [14, 52, 100])
def test_votes_alone_at_any_image_size_are_saved_and_loaded(side, brick, tmp_path):
    """Also at sizes where no patch could be compared."""
    model = HTDGDetector("tiny", niter=1, image_size=side, max_size=14).fit(brick[0][0], **QUIET)
    assert model.model_.banks == {}
    model.save(tmp_path / "model")
    loaded = HTDGDetector.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.score_samples(brick[1]), model.score_samples(brick[1]))


@pytest.mark.parametrize(
    ("options", "banks"),
    [
        ({"evidence": "votes", "niter": 1}, 0),
        ({"search_radius": 0.1}, 0),
        # Fewer patches than a bank keeps: 8 times 7 x 7 of 12 x 12 and 7 x 7 of gradients.
        ({"image_size": 18, "patch_side": 12, "max_size": 18}, 0),
        # 8 times 14 x 14 patches of 5 x 5 pixels, and 7 x 7 of gradients.
        ({"image_size": 18, "max_size": 18}, 1),
        ({"distance_min_size": 20}, 4),  # 20, 22 and 24 pixels
    ],
)
def test_which_models_have_some(options, banks, brick, tmp_path):
    options = {**OPTIONS, **options}
    for limit in ("distance_min_size", "distance_max_size"):
        options[limit] = min(options[limit], options["image_size"])
    model = HTDGDetector("tiny", **options).fit(brick[0][0], **QUIET)
    assert [len(kept) for kept in model.model_.banks.values()] == [KEPT] * banks
    model.save(tmp_path / "model")
    again = HTDGDetector.load(tmp_path / "model").model_.banks
    assert again.keys() == model.model_.banks.keys()
    assert all(torch.equal(kept, again[name]) for name, kept in model.model_.banks.items())


@pytest.mark.parametrize(
    ("bank", "reason"),
    [
        (torch.arange(KEPT).float(), "is no list of 500 patches"),
        (torch.arange(KEPT)[None], "is no list of 500 patches"),
        (torch.arange(0), "is no list of 500 patches"),
        (torch.arange(KEPT + 1), "is no list of 500 patches"),
        (torch.arange(KEPT) - 1, "has patches out of range"),
        (torch.arange(KEPT) + 6400 - KEPT + 1, "has patches out of range"),
        (torch.arange(KEPT) // 2, "or not in ascending order"),
        (torch.arange(KEPT).flip(0), "or not in ascending order"),
        # Whose differences are positive again, from 2 ** 63 on.
        (torch.arange(KEPT) + torch.tensor([0] + [2**63 - 1] + [-(2**63)] * 498), "out of range"),
    ],
)
def test_banks_that_cannot_be_are_refused(bank, reason, saved):
    set_tensors(lambda tensors: tensors.update({PIXELS: bank.contiguous()}))(saved)
    with pytest.raises(ModelError) as refused:
        HTDGDetector.load(saved)
    text = str(refused.value)
    assert text.startswith(f"{saved} is no complete htdg model: tensor {PIXELS} ")
    assert reason in text


@pytest.mark.parametrize("name", ["bank 30 pixels 5 0.0", PIXELS + ".x", "bank", "images.x"])
def test_a_tensor_of_another_name_is_refused(name, saved):
    set_tensors(lambda tensors: tensors.update({name: torch.arange(KEPT)}))(saved)
    with pytest.raises(ModelError, match="does not follow from its options"):
        HTDGDetector.load(saved)


def test_images_too_small_to_compare_are_refused_before_training(brick):
    options = {**OPTIONS, "layers": 1, "image_size": 11, "min_size": 8, "max_size": 11}
    options |= {"distance_min_size": 8, "distance_max_size": 11}
    with pytest.raises(ConfigError, match=r"image_size is 11, but it must be at least 12 for pat"):
        HTDGDetector("tiny", **options).fit(brick[0][0], **QUIET)
    small = HTDGDetector("tiny", **{**options, "image_size": 12}).fit(brick[0][0], **QUIET)
    assert 0 < small.anomaly_score(brick[1][0])[0] < 1
