"""The patches that memory banks keep are chosen once, and saved with the model."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from htdg import HTDGDetector, ModelError, distances
from htdg.evidence import described
from htdg.io.model_directory import description_text, digest
from tests.models import QUIET

#: A bank keeps so many here, of 8 times 20 x 20 patches of pixels and 13 x 13 of gradients.
KEPT, SIDE = 500, 24
OPTIONS = {"evidence": "distance", "image_size": SIDE, "min_size": 14, "max_size": SIDE}
OPTIONS |= {"layers": 3, "distance_min_size": SIDE, "distance_max_size": SIDE, "patch_side": 5}


@pytest.fixture(scope="module", autouse=True)
def small_banks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "BANK_SIZE", KEPT)
        yield


@pytest.fixture(scope="module")
def compared(brick, small_banks):
    """A model of distances whose banks keep a part of the patches."""
    return HTDGDetector("tiny", **OPTIONS).fit(brick[0][0], **QUIET)


@pytest.fixture
def saved(compared, tmp_path):
    compared.save(tmp_path / "model")
    return tmp_path / "model"


def change_banks(folder, change):
    """Change tensors of a model, signed as if it had been saved like that."""
    tensors = safetensors.torch.load_file(folder / "weights.safetensors")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors)
    safetensors.torch.save_file(tensors, folder / "weights.safetensors")
    edit(folder, tensors={name: digest(tensor) for name, tensor in tensors.items()})


def edit(folder, **changes):
    described = json.loads((folder / "config.json").read_text()) | changes
    del described["digest"]
    (folder / "config.json").write_text(description_text(described))


def not_again(*_):
    raise AssertionError("the patches were chosen a second time")


def test_what_is_kept_is_the_coreset_of_what_is_drawn(compared):
    """Chosen here by the definition: the next is the one furthest from those chosen so far."""
    images, describe = described(compared.images_, compared.config_)[0]
    every = torch.arange(SIDE - describe.side + 1)
    copies = distances.turned_copies(images)
    patches = torch.cat([describe(copy[None], every)[0] for copy in copies])  # in order
    generator = torch.Generator().manual_seed(0)
    drawn = patches[torch.randperm(len(patches), generator=generator)].double()
    kept = compared.model_.banks[0]
    assert len(kept) == KEPT < len(drawn) == 3200
    nearest = (drawn - drawn[0]).square().sum(1)
    first = {0}
    for _ in range(100):
        first.add(int(nearest.argmax()))
        nearest = nearest.minimum((drawn - drawn[int(nearest.argmax())]).square().sum(1))
    assert first <= set(kept.tolist())


def test_a_loaded_model_chooses_nothing_and_scores_the_same(compared, saved, brick, monkeypatch):
    expected = compared.score_samples(brick[1])
    monkeypatch.setattr(distances, "coreset", not_again)
    loaded = HTDGDetector.load(saved)
    np.testing.assert_array_equal(loaded.score_samples(brick[1]), expected)
    with pytest.raises(AssertionError, match="a second time"):
        HTDGDetector("tiny", **OPTIONS).fit(brick[0][0], **QUIET)


def test_the_choice_that_was_saved_counts(saved, brick):
    """So another processor, whose last digits would choose others, gives the same scores."""
    scores = HTDGDetector.load(saved).score_samples(brick[1])
    change_banks(saved, lambda tensors: tensors.update(bank0=torch.arange(KEPT)))
    others = HTDGDetector.load(saved).score_samples(brick[1])
    assert (np.abs(others - scores) > 1e-4).all()


def test_a_model_that_was_changed_to_votes_alone_is_saved_without_them(brick, tmp_path):
    both = HTDGDetector("tiny", **{**OPTIONS, "evidence": "both", "niter": 1})
    model = both.fit(brick[0][0], **QUIET).model_
    assert len(model.banks) == 2
    votes = replace(model, config=model.config.with_options(evidence="votes"))
    HTDGDetector.from_model(votes).save(tmp_path / "model")
    loaded = HTDGDetector.load(tmp_path / "model")
    assert loaded.model_.banks == ()
    assert 0 <= loaded.anomaly_score(brick[1][0])[0] <= 1


def test_an_earlier_model_without_them_scores_the_same(compared, saved, brick):
    change_banks(saved, lambda tensors: [tensors.pop(name) for name in ("bank0", "bank1")])
    edit(saved, format=4)
    loaded = HTDGDetector.load(saved)
    assert loaded.model_.banks == ()
    np.testing.assert_array_equal(loaded.score_samples(brick[1]), compared.score_samples(brick[1]))


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
    sizes = [len(kept) for kept in model.model_.banks if kept is not None]
    assert sizes == [KEPT] * banks
    model.save(tmp_path / "model")
    again = HTDGDetector.load(tmp_path / "model").model_.banks
    assert len(again) == (len(model.model_.banks) if banks else 0)
    for loaded, kept in zip(again, model.model_.banks, strict=bool(banks)):
        assert (loaded is None) == (kept is None)
        assert kept is None or torch.equal(loaded, kept)


@pytest.mark.parametrize(
    ("bank", "sentence"),
    [
        (torch.arange(KEPT).float(), "are no lists of patches"),
        (torch.arange(KEPT)[None], "are no lists of patches"),
        (torch.arange(0), "are no lists of patches"),
        (torch.arange(KEPT) - 1, "patches that there are not, or one twice"),
        (torch.arange(KEPT) + 3200 - KEPT + 1, "patches that there are not, or one twice"),
        (torch.arange(KEPT) // 2, "patches that there are not, or one twice"),
        (torch.arange(KEPT).flip(0), "patches that there are not, or one twice"),
    ],
)
def test_banks_that_cannot_be_are_refused(bank, sentence, saved):
    change_banks(saved, lambda tensors: tensors.update(bank0=bank.contiguous()))
    with pytest.raises(ModelError, match=re.escape(sentence)) as refused:
        HTDGDetector.load(saved)
    assert str(refused.value).startswith(f"{saved} is no complete htdg model: ")
