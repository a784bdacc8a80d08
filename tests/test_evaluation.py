"""``evaluate`` on every data set, what it writes, and what it refuses."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from htdg import (
    DatasetError,
    EvaluationError,
    HTDGConfig,
    HTDGDetector,
    ModelError,
    Task,
    evaluate,
)
from htdg.commands.cli import main
from htdg.datasets import dataset_names, load_dataset
from htdg.datasets.folder import Folder
from htdg.datasets.samples import texture_set
from htdg.evaluation.pixel_metrics import PixelMetrics
from htdg.evaluation.run import TestImages, default_equalise, default_fraction
from tests import small_sets

TINY = HTDGConfig.preset("tiny", niter=1)


@pytest.fixture
def run(tmp_path):
    """Evaluates with the smallest model; returns the metrics and the output folder."""

    def evaluate_tiny(dataset, normal_class=None, **task):
        out = tmp_path / "out"
        task.setdefault("data_root", tmp_path / "data")
        chosen = Task(dataset, normal_class, **task)
        return evaluate(chosen, out, TINY, progress=False), out

    return evaluate_tiny


def make(name, root):
    """A small set called ``name`` below ``root``; returns a normal class of it."""
    root.mkdir(parents=True, exist_ok=True)
    return MAKERS[name](root)


def make_mnist(root, folder="MNIST"):
    files = small_sets.mnist_files([0, 1, 1, 2, 1, 0], [1, 0, 1, 2, 1, 7])
    (root / folder / "raw").mkdir(parents=True)
    for name, content in files.items():
        (root / folder / "raw" / name).write_bytes(content)
    return 1


def make_folder(root):
    for i in range(3):
        small_sets.save(root / "train" / f"{i}.png", i)
        small_sets.save(root / "test" / "good" / f"{i}.png", 10 + i)
        small_sets.save(root / "test" / "broken" / f"{i}.png", 20 + i)
    return None


def named(make_set, normal):
    """A maker that calls ``make_set`` and names the normal class."""
    return lambda root: (make_set(root), normal)[1]


MAKERS = {
    "mnist": make_mnist,
    "fashionmnist": named(lambda root: make_mnist(root, "FashionMNIST"), "Trouser"),
    "cifar10": named(small_sets.make_cifar10, "car"),
    "paris": named(small_sets.make_paris, "louvre"),
    "mvtec": named(lambda root: small_sets.make_category(root / "mvtec"), "bottle"),
    "folder": make_folder,
    "digits": named(lambda root: None, 3),
    "faces": named(lambda root: None, None),
    "textures": named(lambda root: None, "brick"),
}


def test_every_data_set_is_tried_here():
    assert sorted(MAKERS) == sorted(dataset_names())


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_evaluate_runs_on_every_data_set_and_never_tests_what_trains(name, run, tmp_path):
    normal = make(name, tmp_path / "data")
    metrics, out = run(name, normal, limit_per_kind=2)
    with (out / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == metrics["test_images"]
    assert {row["label"] for row in rows} == {"0", "1"}
    assert not {row["image"] for row in rows} & set(metrics["training_images"])
    assert metrics["training_images"] == HTDGDetector.load(out / "model").image_names_
    scores = [float(row["anomaly_score"]) for row in rows]
    labels = [int(row["label"]) for row in rows]
    assert metrics["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)
    for n, auroc in enumerate(metrics["auroc_per_scale"]):
        column = [float(row[f"scale_{n}"]) for row in rows]
        assert auroc == pytest.approx(roc_auc_score(labels, column), abs=1e-6)
    for figure in ("gallery", "roc", "histogram", "losses"):
        assert Image.open(out / f"{figure}.png").size > (100, 100)
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert HTDGConfig(**json.loads((out / "config.json").read_text())) == TINY
    assert not (out / "model.unfinished").exists()


def test_the_scores_are_those_of_the_saved_model(run):
    metrics, out = run("textures", "brick", limit=6, defect_fraction=0.1)
    sample = texture_set("brick")
    scores = HTDGDetector.load(out / "model").anomaly_score(sample.test[:6], 0.1)
    with (out / "scores.csv").open() as file:
        written = [float(row["anomaly_score"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(written, scores, atol=1e-6)
    assert metrics["defect_fraction"] == 0.1


def test_one_class_of_labels_gives_no_metrics_but_says_why(run):
    metrics, out = run("textures", "brick", limit=3)
    assert metrics["image_auroc"] is None
    assert metrics["undefined_because"].startswith("All 3 images are normal")
    assert not (out / "roc.png").exists()


def test_images_without_labels_are_scored(run, tmp_path):
    root = tmp_path / "data"
    small_sets.save(root / "train" / "a.png", 0)
    for i in range(3):
        small_sets.save(root / "test" / f"{i}.png", 1 + i)
    metrics, out = run("folder")
    assert metrics["image_auroc"] is None
    assert metrics["undefined_because"] == "No image has a label."
    assert (out / "scores.csv").read_text().startswith("image,anomaly_score,scale_0")


def test_images_without_labels_among_others_are_left_out_of_the_metrics(run, tmp_path, monkeypatch):
    make_folder(tmp_path / "data")
    labelled = Folder.test_entries

    def some_unlabelled(self, normal_class):
        entries = labelled(self, normal_class)
        return [replace(e, label=None) if e.name.endswith("0.png") else e for e in entries]

    monkeypatch.setattr(Folder, "test_entries", some_unlabelled)
    metrics, out = run("folder")
    with (out / "scores.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if not row["image"].endswith("0.png")]
    labels = ["good" not in row["image"] for row in rows]
    scores = [float(row["anomaly_score"]) for row in rows]
    assert len(rows) == 4
    assert metrics["test_images"] == 6
    assert metrics["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)
    assert (out / "roc.png").exists()
    assert not (out / "histogram.png").exists()


def test_images_of_a_test_set_by_number_and_slice():
    samples = load_dataset("textures").test_set("brick", limit=4)
    images = TestImages(samples, equalised=False)
    assert len(images) == 4
    for part, numbers in ((images[1:3], (1, 2)), (images[::-2], (3, 1)), (list(images), range(4))):
        for image, number in zip(part, numbers, strict=True):
            assert np.array_equal(image, samples[number].image)


def test_a_trained_model_can_be_used_and_its_images_do_not_test(run, tmp_path):
    first, out = run("faces", limit=110)
    again = evaluate(
        Task("faces", limit=110),
        tmp_path / "again",
        model=out / "model",
        progress=False,
    )
    for key in ("image_auroc", "training_images", "test_images"):
        assert again[key] == first[key]
    assert not (tmp_path / "again" / "model").exists()


def test_results_are_not_overwritten_unasked(run, tmp_path):
    _, out = run("textures", "brick", limit=3)
    with pytest.raises(EvaluationError, match=r"out holds the results of an earlier run"):
        run("textures", "brick", limit=3)
    evaluate(Task("textures", "grass", limit=3), out, TINY, overwrite=True, progress=False)
    assert json.loads((out / "metrics.json").read_text())["normal_class"] == "grass"


def test_a_run_that_failed_half_way_has_no_metrics_and_goes_on(run, monkeypatch):
    scoring = HTDGDetector.predictions

    def fail(*args, **kwargs):
        raise RuntimeError("power cut")

    monkeypatch.setattr(HTDGDetector, "predictions", fail)
    with pytest.raises(RuntimeError, match="power cut"):
        run("textures", "brick", limit=3)
    monkeypatch.setattr(HTDGDetector, "predictions", scoring)
    monkeypatch.setattr(HTDGDetector, "fit", fail)  # the trained model is there already
    metrics, out = run("textures", "brick", limit=3)
    assert metrics["test_images"] == 3
    assert (out / "metrics.json").exists()


def test_a_model_of_another_run_in_the_folder_is_refused(run):
    _, out = run("textures", "brick", limit=3)
    (out / "metrics.json").unlink()
    with pytest.raises(EvaluationError, match="model of another run"):
        run("textures", "grass", limit=3)
    evaluate(Task("textures", "grass", limit=3), out, TINY, overwrite=True, progress=False)
    assert HTDGDetector.load(out / "model").image_names_ == ["grass/train/good/000"]


def test_a_model_of_images_equalised_otherwise_is_not_gone_on_with(run, tmp_path):
    small_sets.make_cifar10(tmp_path / "data")
    _, out = run("cifar10", "car", limit=3)
    (out / "metrics.json").unlink()
    with pytest.raises(EvaluationError, match="model of another run"):
        run("cifar10", "car", limit=3, equalise="train")


def test_a_mistake_leaves_the_results_that_were_to_be_overwritten(run):
    _, out = run("textures", "brick", limit_per_kind=1)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    with pytest.raises(DatasetError, match="no class 'wood'"):
        evaluate(Task("textures", "wood"), out, TINY, overwrite=True, progress=False)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    # Figures that the new run does not draw are not left over from the old one.
    evaluate(Task("textures", "brick", limit=2), out, TINY, overwrite=True, progress=False)
    assert not (out / "roc.png").exists()


def test_what_is_passed_over_or_cannot_be_measured_is_said_before_the_training(tmp_path, capsys):
    make_folder(tmp_path / "data")
    note = tmp_path / "data" / "test" / "good" / "notes.txt"
    note.write_text("no image")
    task = Task("folder", data_root=tmp_path / "data", limit=2)
    evaluate(task, tmp_path / "out", TINY)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"htdg: {note} is no image: skipped."
    assert said[1].startswith("htdg: 3 good images to train on in ")
    assert said[1].endswith("3 good ones and 3 others (broken 3).")
    assert said[2].startswith("htdg: 0 of 3 anomalous images have a mask as there is no ")
    assert said[3].startswith("htdg: all 2 test images are anomalous, so there will be no metrics")


def test_a_model_without_its_history_can_be_evaluated(tiny, tmp_path):
    tiny.save(tmp_path / "model")
    (tmp_path / "model" / "history.json").unlink()
    task, out = Task("textures", "brick", limit=3), tmp_path / "out"
    metrics = evaluate(task, out, model=tmp_path / "model", progress=False)
    assert metrics["training_seconds"] == 0
    assert not (out / "losses.png").exists()


def test_equalising(tmp_path):
    small_sets.make_cifar10(tmp_path)
    dataset = load_dataset("cifar10", tmp_path)
    seen = {}
    for mode in ("none", "train", "both"):
        task = Task("cifar10", "car", limit_per_kind=1, data_root=tmp_path, equalise=mode)
        evaluate(task, tmp_path / mode, TINY, progress=False)
        model = HTDGDetector.load(tmp_path / mode / "model")
        rows = (tmp_path / mode / "scores.csv").read_text().splitlines()[1:]
        seen[mode] = model.images_, [float(row.split(",")[2]) for row in rows], model
    assert not np.array_equal(seen["none"][0], seen["train"][0])
    assert np.array_equal(seen["train"][0], seen["both"][0])
    # One model, so that only the equalisation of the test images differs between these two.
    assert seen["train"][1] != seen["both"][1]
    first = dataset.test_set("car", seen["train"][2].image_names_)[0].image
    assert seen["train"][2].anomaly_score(first)[0] == pytest.approx(seen["train"][1][0], abs=1e-6)


def test_grey_sets_are_not_equalised(run):
    metrics, _ = run("textures", "brick", limit=3, equalise="both")
    assert metrics["equalise"] == "none"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dataset", "svhn"], "no data set 'svhn': choose from"),
        (["--dataset", "textures", "--normal-class", "wood"], "no class 'wood': choose from brick"),
        (["--dataset", "textures", "--normal-class", "brick", "--shots", "11"], "10 images"),
        (["--dataset", "textures", "--normal-class", "brick", "--shots", "0"], "shots is 0"),
        (["--dataset", "textures", "--normal-class", "brick", "--index", "11"], "no block 11"),
        (["--dataset", "textures", "--normal-class", "0", "--index", "1", "--draw", "1"], "one of"),
        (["--dataset", "textures", "--normal-class", "brick", "--limit", "0"], "limit is 0"),
        (["--dataset", "faces", "--defect-fraction", "2"], "defect_fraction is 2.0"),
        (["--dataset", "faces", "--train", "x"], "has no option 'train'"),
        (["--dataset", "folder", "--train", "nowhere"], "nowhere is no folder"),
        (["--dataset", "mvtec", "--category", "bottle"], "CC BY-NC-SA 4.0"),
        (["--dataset", "paris", "--normal-class", "louvre"], "paris"),
        (["--dataset", "faces", "--model", "nowhere"], "nowhere has no config.json"),
        (["--dataset", "faces", "--niter", "0"], "Option niter is 0"),
        (["--dataset", "faces", "--model", "m", "--lr-d", "1"], "--lr-d changes nothing about a"),
        (["--dataset", "faces", "--model", "m", "--shots", "1"], "--shots changes nothing about a"),
        (["--dataset", "faces", "--model", "m", "--draw", "0"], "--draw changes nothing about a"),
        (["--dataset", "faces", "--geom-epochs", "2"], "--geom-epochs makes no difference to meth"),
        (["--dataset", "faces", "--variant", "f", "--seed", "1"], "no difference to method mse"),
        (["--dataset", "faces", "--variant", "a", "--alpha", "1"], "difference to method no_gener"),
    ],
)
def test_mistakes_get_one_sentence_and_exit_code_2(arguments, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = main(["evaluate", "--preset", "tiny", "--out", str(tmp_path / "out"), *arguments])
    message = capsys.readouterr().err.strip()
    assert code == 2
    assert said in message
    assert message.startswith("htdg: ")
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_when_no_test_image_can_be_read_there_are_no_results(run, tmp_path):
    make_folder(tmp_path / "data")
    for path in (tmp_path / "data" / "test").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(EvaluationError, match="None of the test images can be read"):
        run("folder")
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_wrong_task_options_are_refused(tmp_path):
    with pytest.raises(EvaluationError, match="equalise is 'all', but it must be one of train"):
        Task("faces", equalise="all")
    for fraction in (0, 1.1, "0.1", True, float("nan")):
        with pytest.raises(EvaluationError, match="must be above 0 and at most 1"):
            Task("faces", defect_fraction=fraction)
    with pytest.raises(ModelError, match="nowhere"):
        evaluate("faces", tmp_path / "out", model="nowhere", progress=False)


def test_only_the_papers_colour_preset_equalises_by_itself():
    paper = HTDGConfig.preset("paper_rgb")
    assert default_equalise("paper_rgb", paper) == "train"
    assert default_equalise("paper_rgb", paper.with_options(transformations="rotations")) == "none"
    assert default_equalise("tutorial", HTDGConfig.preset("tutorial")) == "none"


SMALL = {"distance_min_size": 13, "distance_max_size": 18}


@pytest.mark.parametrize("kind", ["votes", "distance", "both"])
def test_every_kind_of_evidence_is_evaluated_as_the_detector_scores_it(kind, tmp_path):
    config = HTDGConfig.preset("tiny", evidence=kind, **SMALL)
    fractions = (0.1, None)
    metrics = evaluate(
        "textures",
        tmp_path,
        config,
        normal_class="brick",
        limit_per_kind=3,
        defect_fraction=fractions,
        progress=False,
    )
    detector = HTDGDetector.load(tmp_path / "model")
    assert detector.config_ == config
    samples = load_dataset("textures").test_set("brick", detector.image_names_, None, 3)
    images = [sample.image for sample in samples]
    labels = [entry.label for entry in samples.entries]
    predictions = list(detector.predictions(images, fractions, maps=True))
    scores = np.array([prediction.scores for prediction in predictions])  # (B, F)
    expected = [roc_auc_score(labels, of_fraction) for of_fraction in scores.T]
    assert metrics["image_auroc"] == pytest.approx(expected[0])
    assert list(metrics["image_auroc_per_fraction"].values()) == pytest.approx(expected)
    pixels = PixelMetrics()
    for prediction, sample in zip(predictions, samples, strict=True):
        pixels.add(prediction.anomaly_map, sample.mask)
    assert metrics["pixel_auroc"] == pytest.approx(pixels.result()["pixel_auroc"])
    assert metrics["aupro"] == pytest.approx(pixels.result()["aupro"])
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    columns = {"votes": [], "distance": ["distance"], "both": ["votes", "distance"]}[kind]
    scales = [] if kind == "distance" else [f"scale_{n}" for n in range(4)]
    other = "anomaly_score_None"
    assert list(rows[0]) == ["image", "label", "anomaly_score", *scales, *columns, other]
    for row, prediction in zip(rows, predictions, strict=True):
        assert float(row["anomaly_score"]) == pytest.approx(prediction.scores[0], abs=1e-6)
        assert float(row[other]) == pytest.approx(prediction.scores[1], abs=1e-6)
        for name in columns:
            assert float(row[name]) == pytest.approx(prediction.evidence[name][0], rel=1e-4)
    if kind == "distance":
        assert metrics["auroc_per_scale"] is None
    else:
        per_scale = detector.score_scales(images, 0.1)  # (B, N + 1), high is normal
        slow = [roc_auc_score(labels, -of_scale) for of_scale in per_scale.T]
        assert metrics["auroc_per_scale"] == pytest.approx(slow)
    assert (tmp_path / "losses.png").exists() == (kind != "distance")
    for name in ("histogram.png", "roc.png", "gallery.png", "maps.png"):
        assert (tmp_path / name).exists()


def test_inspect_alone_looks_at_a_share_by_itself(tmp_path):
    assert default_fraction("inspect") == 0.02
    assert default_fraction("paper_rgb") is default_fraction("novelty") is None
    # By its name, a preset's share is taken; as options of the method, the task's.
    config = HTDGConfig.preset("inspect", evidence="distance")
    task = {"normal_class": "brick", "limit_per_kind": 2, "progress": False}
    assert evaluate("textures", tmp_path / "a", config, **task)["defect_fraction"] is None
    given = evaluate("textures", tmp_path / "b", "tiny", **task)
    assert given["defect_fraction"] is None
    arguments = ["--dataset", "textures", "--normal-class", "brick", "--limit-per-kind", "2"]
    arguments += ["--preset", "inspect", "--evidence", "distance", "--out", str(tmp_path / "c")]
    assert main(["evaluate", *arguments]) == 0
    assert json.loads((tmp_path / "c" / "metrics.json").read_text())["defect_fraction"] == 0.02
