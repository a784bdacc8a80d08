"""The models that the notebooks analyse score the same everywhere, and are small."""

import copy
import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import nbformat
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from htdg.config import HTDGConfig
from htdg.course import few_shots, seeds, trainings
from htdg.course.frozen import FRACTION, MODELS, frozen, model_folder, scores_of
from htdg.course.seeds import SEEDS, figures_of, measured
from htdg.datasets.samples import face_set, texture_set
from htdg.detector import HTDGDetector
from htdg.sampling import generate, random_noise
from tests.course import NOTEBOOKS

RECORDED = json.loads((model_folder() / "scores.json").read_text(encoding="utf-8"))
SCORES = {name: np.array(scores) for name, scores in RECORDED["scores"].items()}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_scores_what_is_recorded(name):
    texture, config = MODELS[name]
    detector = frozen(name)
    np.testing.assert_allclose(scores_of(detector, texture), SCORES[name], rtol=0, atol=1e-4)
    saved = detector.config_
    assert (saved.niter, saved.seed, saved.sides) == (config.niter, config.seed, config.sides)
    assert saved.device == "cpu"
    assert detector.device_.type == "cpu"
    assert RECORDED["defect_fraction"] == FRACTION


def test_it_does_so_with_more_threads_and_without_the_compiled_helpers():
    code = (
        "import json, torch; torch.set_num_threads(3)\n"
        "from htdg.course.frozen import MODELS, frozen, scores_of\n"
        "print(json.dumps({n: scores_of(frozen(n), t) for n, (t, _) in MODELS.items()}))"
    )
    environment = os.environ | {"HTDG_KERNELS": "0", "OMP_NUM_THREADS": "3"}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    for name, scores in json.loads(done.stdout).items():
        np.testing.assert_allclose(scores, SCORES[name], rtol=0, atol=1e-4)


def test_the_models_differ_and_are_small():
    labels = np.array(texture_set("brick").labels)
    assert roc_auc_score(labels, SCORES["brick"]) > 0.85
    assert measured("brick")["mean_vote"].min() > 0.4
    assert np.abs(measured("gravel")["mean_vote"] - 0.25).max() < 0.02
    files = [path for path in model_folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3e6
    assert "MIT" in RECORDED["note"]


def test_a_model_that_there_is_not_is_named():
    with pytest.raises(ValueError, match="no frozen model 'wood': choose from brick, gravel"):
        frozen("wood")
    with pytest.raises(ValueError, match="no frozen model 'wood'"):
        measured("wood")


@pytest.mark.parametrize("name", MODELS)
def test_other_seeds_are_measured_like_the_model(name):
    of_seeds, of_model = measured(name), figures_of(frozen(name), MODELS[name][0])
    assert list(of_seeds) == list(of_model)
    assert {len(values) for values in of_seeds.values()} == {len(SEEDS)}
    labels = texture_set(name).labels
    assert of_model["auroc"] == pytest.approx(roc_auc_score(labels, SCORES[name]), abs=2e-3)
    assert of_seeds["scale_aurocs"].shape == (len(SEEDS), 4)
    assert not np.allclose(of_seeds["auroc"], of_seeds["auroc"][0])


@pytest.mark.parametrize("name", trainings.TRAININGS)
def test_the_trainings_of_the_notebooks_are_measured_over_five_seeds(name):
    of_seeds = measured(name)
    assert {len(values) for values in of_seeds.values()} == {len(SEEDS)}
    assert all(np.isfinite(values).all() for values in of_seeds.values())
    shares = [n for n in of_seeds if n.startswith(("auroc", "right", "other", "batch", "called"))]
    assert shares
    assert all(0 <= of_seeds[n].min() <= of_seeds[n].max() <= 1 for n in shares)


def test_the_trainings_are_measured_as_recorded(monkeypatch):
    """The same figures of the same shapes, from a training of a few iterations."""
    for name in ("COINS", "TEXTURE"):
        monkeypatch.setattr(trainings, name, replace(getattr(trainings, name), niter=10))
    monkeypatch.setattr(trainings, "LENGTHS", (1, 1, 1, 1))
    for name, measure in trainings.TRAININGS.items():
        figures, recorded = measure(1), measured(name)
        assert {key: np.shape(value) for key, value in figures.items()} == {
            key: values.shape[1:] for key, values in recorded.items()
        }
        if name == "coins":
            assert figures["sigmas"][0] == 1
            assert figures["moves"] == [0, 0, 0, 0]  # from the tenth iteration to the tenth
            assert figures["d_first"][0] == pytest.approx(recorded["d_first"][0, 0], abs=0.05)


def test_the_figures_of_a_first_scale_by_another_way(monkeypatch):
    kept = []
    monkeypatch.setattr(trainings, "COINS", replace(trainings.COINS, niter=10))
    start = trainings.start_scale
    monkeypatch.setattr(trainings, "start_scale", lambda *a: kept.append(start(*a)) or kept[-1])
    figures = trainings._first_scale(1)
    d = copy.deepcopy(kept[0].scale.discriminator).train()
    real = trainings._at_scale(trainings._photographs()["training"], 0)
    turned = torch.cat([torch.rot90(real, k, (-2, -1)) for k in range(4)])
    with torch.no_grad():
        p = d(turned).softmax(1)
    named = torch.stack([p[k, k] for k in range(4)])
    assert figures["apart"] == pytest.approx(-named.log().mean().item(), abs=2e-4)
    # Generated images in the batch change its statistics.
    assert figures["together"] > figures["apart"] + 0.01
    history = kept[0].history
    assert figures["d_last"] == [
        pytest.approx(history[name][-1].item(), abs=1e-4) for name in ("d_real", "d_fake")
    ]
    row, column = trainings.CORNER
    assert figures["patch"][0] == pytest.approx(p[0, 0, row, column].item(), abs=2e-4)


def test_the_figures_of_a_pyramid_by_another_way(monkeypatch):
    kept = []

    class Kept(HTDGDetector):
        def fit(self, *images, **options):
            kept.append(self)
            return super().fit(*images, **options)

    monkeypatch.setattr(trainings, "COINS", replace(trainings.COINS, niter=10))
    monkeypatch.setattr(trainings, "HTDGDetector", Kept)
    figures = trainings._pyramid(1)
    (detector,) = kept
    scales, index = detector.scales_, torch.tensor([0])
    real = trainings._at_scale(trainings._photographs()["training"], 3)
    noise = random_noise(index, torch.Generator().manual_seed(0))
    sample = generate(scales, noise, index)[-1].clamp(-1, 1)
    shares = {}
    for kind, image in (("real", real), ("generated", sample)):
        turned = torch.cat([torch.rot90(image, k, (-2, -1)) for k in range(4)])
        for mode in ("running", "batch"):
            d = copy.deepcopy(scales[-1].discriminator).train(mode == "batch")
            with torch.no_grad():
                shares[kind, mode] = d(turned).numpy()
    called = {key: logits.argmax(1) for key, logits in shares.items()}
    assert figures["called_generated"] == pytest.approx(
        (called["real", "running"] == 4).mean(), abs=1e-4
    )
    assert figures["generated_right"] == pytest.approx(
        (called["generated", "running"] == 4).mean(), abs=1e-4
    )
    right = np.mean([(called["real", "batch"][k] == k).mean() for k in range(4)])
    generated = (called["generated", "batch"] == 4).mean()
    assert figures["batch_right"] == pytest.approx([right, generated], abs=1e-4)
    among_turns = shares["real", "running"][:, :4].argmax(1)
    right = np.mean([(among_turns[k] == k).mean() for k in range(4)])
    assert figures["right_training"][3] == pytest.approx(right, abs=1e-4)


@pytest.mark.parametrize(
    ("notebook", "settings"),
    [
        ("02_transformations", trainings.TEXTURE),
        ("03_discriminator_training", trainings.COINS),
    ],
)
def test_the_trainings_have_the_settings_of_their_notebooks(notebook, settings):
    cells = nbformat.read(NOTEBOOKS / "solutions" / f"{notebook}.ipynb", as_version=4)["cells"]
    code = "\n".join(cell["source"] for cell in cells if cell["cell_type"] == "code")
    (call,) = re.findall(r"^config = (HTDGConfig\.preset\(.*?\))$", code, re.M | re.S)
    assert replace(eval(call), fast=True) == replace(settings, fast=True)


def test_one_section_can_be_measured_again(tmp_path, monkeypatch):
    out = tmp_path / "seeds.json"
    out.write_text((model_folder() / "seeds.json").read_text(encoding="utf-8"), encoding="utf-8")
    before = json.loads(out.read_text(encoding="utf-8"))
    monkeypatch.setitem(trainings.TRAININGS, "coins", lambda seed: {"seed": seed})
    assert seeds.main(["--only", "coins", "--out", str(out)]) == 0
    after = json.loads(out.read_text(encoding="utf-8"))
    assert after["trainings"].pop("coins") == [{"seed": seed} for seed in SEEDS]
    del before["trainings"]["coins"]
    assert after == before


def test_the_scores_of_notebook_06_are_those_of_its_settings():
    recorded = few_shots.recorded()
    assert list(recorded) == list(few_shots.SETTINGS)
    assert {scores.shape for scores in recorded.values()} == {(few_shots.DRAWS, 80)}
    test = face_set(train=60).test[:80]
    # Variant f trains nothing, so that its scores are the same on every machine.
    scores = few_shots.trained(3, *few_shots.SETTINGS["f"]).anomaly_score(test)
    np.testing.assert_allclose(scores, recorded["f"][3], atol=1e-5)
    labels = face_set(train=60).labels[:80]
    assert roc_auc_score(labels, recorded["10-shot"].mean(0)) > 0.9


def test_the_options_of_notebook_06_are_those_of_the_recorded_scores():
    page = model_folder().parent / "solutions" / "06_few_shots_and_ablations.ipynb"
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    (code,) = ["".join(c["source"]) for c in cells if c["id"] == "batch"]
    call = re.search(r"^config = (HTDGConfig\(.*?^\))", code, re.M | re.S)
    options = eval(call[1], {"HTDGConfig": HTDGConfig})
    assert options.with_options(device="cpu") == few_shots.CONFIG
