"""Maps, thresholds and samples from the command line, and what an evaluation says about defects."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from htdg import HTDGConfig, HTDGDetector, Task, evaluate
from htdg.commands.cli import main
from htdg.commands.maps import known_scale
from htdg.datasets import load_dataset
from htdg.evaluation.overlays import ColourScale, overlay
from htdg.evaluation.pixel_metrics import PixelMetrics
from htdg.evaluation.plots import plot_maps, plot_sample_grid
from htdg.io.images import load_image, to_uint8
from htdg.io.model_directory import description_text

TINY = HTDGConfig.preset("tiny", niter=1)


@pytest.fixture
def place(tiny, brick, tmp_path):
    """A model and two photos of different size."""
    tiny.save(tmp_path / "model")
    (tmp_path / "photos" / "more").mkdir(parents=True)
    Image.fromarray(brick[1][0]).save(tmp_path / "photos" / "a.png")
    Image.fromarray(brick[1][1][:50, :80]).save(tmp_path / "photos" / "more" / "a.png")
    Image.fromarray(brick[1][2]).save(tmp_path / "photos" / "b.png")
    return tmp_path


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


# --- score --maps -------------------------------------------------------------------------------


def test_maps_are_16_bit_pngs_at_the_image_s_size(place, tiny, capsys):
    assert (
        main(["score", str(place / "model"), str(place / "photos"), "--maps", str(place / "m")])
        == 0
    )
    assert "no threshold, so nothing is called anomalous: htdg calibrate" in capsys.readouterr().err
    written = sorted(p.relative_to(place / "m").as_posix() for p in (place / "m").rglob("*.png"))
    stems = ["a", "more/a", "b"]  # in folders like the images'
    expected = [f"{s}_{kind}.png" for s in stems for kind in ("map", "overlay")]
    assert written == sorted([*expected, "overlay_colours.png"])
    for stem, path in zip(stems, ("a.png", "more/a.png", "b.png"), strict=True):
        shown = Image.open(place / "m" / f"{stem}_map.png")
        assert shown.mode == "I;16"
        expected = tiny.anomaly_map(place / "photos" / path)[0]
        np.testing.assert_allclose(np.asarray(shown) / 65535, expected, atol=1e-5)
        laid = np.asarray(Image.open(place / "m" / f"{stem}_overlay.png"))
        assert laid.shape == (*expected.shape, 3)


def test_maps_change_no_score(place, capsys):
    words = ["score", str(place / "model"), str(place / "photos")]
    assert main(words) == 0
    plain = rows_of(capsys.readouterr().out)
    assert main([*words, "--maps", str(place / "m")]) == 0
    rows = rows_of(capsys.readouterr().out)
    for row in rows:  # and the table says where they are
        name = Path(row["image"]).relative_to(place / "photos").with_suffix("")
        assert Path(row.pop("map")) == place / "m" / f"{name}_map.png"
        assert Path(row.pop("overlay")) == place / "m" / f"{name}_overlay.png"
    assert rows == plain


def test_maps_never_take_each_other_s_or_an_image_s_place(place, brick, capsys):
    names = ["x/a.png", "y/a.png", "z/a_0001.png"]
    for name in names:
        (place / name).parent.mkdir(exist_ok=True)
        Image.fromarray(brick[1][0]).save(place / name)
    paths = [str(place / name) for name in names]
    assert main(["score", str(place / "model"), *paths, "--maps", str(place / "m")]) == 0
    assert len(list((place / "m").glob("*_map.png"))) == 3
    # Maps below the folder that is scored are not scored the next time.
    words = ["score", str(place / "model"), str(place / "photos")]
    words += ["--maps", str(place / "photos" / "maps")]
    capsys.readouterr()
    for _ in range(2):
        assert main(words) == 0
        assert len(rows_of(capsys.readouterr().out)) == 3
    assert main(["score", str(place / "model"), str(place / "x"), "--maps", str(place / "x")]) == 2
    assert "holds images to score: choose another folder" in capsys.readouterr().err


def test_maps_cannot_go_into_a_file(place, capsys):
    (place / "m").write_text("here")
    words = ["score", str(place / "model"), str(place / "photos"), "--maps", str(place / "m")]
    assert main(words) == 2
    assert f"--maps {place / 'm'} cannot be a folder" in capsys.readouterr().err


def score_in_vermillion(place, photos, folder):
    """Score these photos with the model; maps go into a folder."""
    words = ["score", str(place / "model"), *map(str, photos), "--maps", str(folder)]
    assert main([*words, "--tint", "vermillion"]) == 0


def test_overlays_share_one_scale_and_have_the_contour_at_the_threshold(place):
    folder, photos = place / "maps", [place / "photos" / "a.png", place / "photos" / "b.png"]
    detector = HTDGDetector.load(place / "model")
    detector.calibrate(photos[:1], 0.5)
    detector.save_threshold(place / "model")
    score_in_vermillion(place, photos, folder)
    for path in photos:
        (prediction,) = detector.predictions([path], maps=True)
        image = to_uint8(load_image(path)[None])[0]
        drawn = np.asarray(Image.open(folder / f"{path.stem}_overlay.png"))
        scale = ColourScale.of_threshold(detector.threshold_)
        np.testing.assert_array_equal(drawn, overlay(image, prediction.anomaly_map, scale))


def test_overlays_of_votes_without_a_threshold_share_the_scale_of_all_maps(place, tiny):
    folder, photos = place / "m", [place / "photos" / "a.png", place / "photos" / "b.png"]
    score_in_vermillion(place, photos, folder)
    maps = [tiny.anomaly_map(path)[0] for path in photos]
    low = (np.median(maps[0]) + np.median(maps[1])) / 2
    strength = [0.55 * np.clip((m - low) / (max(map(np.max, maps)) - low), 0, 1) for m in maps]
    assert max(map(np.max, strength)) == pytest.approx(0.55)
    for path, tint in zip(photos, strength, strict=True):
        image = to_uint8(load_image(path)[None])[0]
        drawn = np.asarray(Image.open(folder / f"{path.stem}_overlay.png"))
        expected = image + tint[..., None] * (np.array([213, 94, 0]) - image)  # vermillion
        np.testing.assert_allclose(drawn, expected, atol=1)


def test_overlays_wait_only_for_maps_that_do_not_say_what_is_normal(tiny, place):
    assert known_scale(tiny.model_) is None
    small = {"distance_min_size": 13, "distance_max_size": 18}
    config = HTDGConfig.preset("tiny", evidence="distance", **small)
    distances = HTDGDetector(config).fit(place / "photos" / "a.png", progress=False)
    assert known_scale(distances.model_) == ColourScale(0.5, 1.0, None)


# --- calibrate ----------------------------------------------------------------------------------


def test_calibrated_with_images_then_flagged(place, capsys):
    model, photos = place / "model", place / "photos"
    words = ["calibrate", str(model), str(photos), "--false-positive-rate", "0.5"]
    assert main([*words, "--defect-fraction", "0.2"]) == 0
    out = capsys.readouterr().out
    assert "for 50.0% of normal images flagged, from 3 held-out images" in out
    threshold = HTDGDetector.load(model, device="cpu").threshold_
    assert f"threshold {threshold}" in out
    assert main(["score", str(model), str(photos), "--maps", str(place / "m")]) == 0
    out, err = capsys.readouterr()
    assert f"threshold {threshold}" in err
    rows = rows_of(out)
    for row in rows:  # one of them is the threshold itself, and is written rounded to 1e-8
        assert int(row["anomalous"]) == (float(row["anomaly_score"]) > threshold.score + 1e-8)
    # As the detector predicts in Python.
    predictions = HTDGDetector.load(model, device="cpu").predict([row["image"] for row in rows])
    assert [int(row["anomalous"]) for row in rows] == (predictions == -1).astype(int).tolist()
    # By default scored as it was calibrated; scored otherwise, nothing is called anomalous.
    assert main(["score", str(model), str(photos), "--defect-fraction", "0.9"]) == 0
    out, err = capsys.readouterr()
    assert "anomalous" not in rows_of(out)[0]
    assert "scores of the most anomalous 90 %; the threshold is for --defect-fraction 0.2" in err
    assert main(["info", str(model)]) == 0
    assert f"threshold        {threshold}" in capsys.readouterr().out


def test_calibrating_changes_nothing_else_in_the_directory(place):
    model = place / "model"
    (model / "notes.txt").write_text("mine")
    before = json.loads((model / "config.json").read_text())
    assert main(["calibrate", str(model), str(place / "photos"), "--device", "cpu"]) == 0
    after = json.loads((model / "config.json").read_text())
    assert after.pop("threshold") is not None
    assert before.pop("threshold") is None
    assert after.pop("digest") != before.pop("digest")  # it is over the threshold, too
    assert after == before
    assert (model / "notes.txt").read_text() == "mine"


def test_calibrated_for_all_votes_is_calibrated_for_fraction_1(place, capsys):
    model, photos = str(place / "model"), str(place / "photos")
    assert main(["calibrate", model, photos]) == 0
    capsys.readouterr()
    assert main(["score", model, photos, "--defect-fraction", "1"]) == 0
    assert "anomalous" in rows_of(capsys.readouterr().out)[0]


@pytest.mark.parametrize("damage", [{"score": None}, {"score": float("nan")}, {"count": -1}])
def test_a_damaged_threshold_is_refused(place, capsys, damage):
    path = place / "model" / "config.json"
    described = json.loads(path.read_text())
    del described["digest"]
    good = {"score": 0.5, "pixel": 0.5, "false_positive_rate": 0.1, "count": 3}
    good |= {"source": "held-out images", "defect_fraction": None}
    path.write_text(description_text(described | {"threshold": good | damage}))
    assert main(["info", str(place / "model")]) == 2
    assert "no complete htdg model: its threshold" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "count"), [(["--generated", "5"], 5), (["--generated"], 200)])
def test_calibrated_with_generated_images_says_so(place, capsys, words, count):
    before = HTDGDetector.load(place / "model", device="cpu")
    assert main(["calibrate", str(place / "model"), *words, "--seed", "3"]) == 0
    assert f"from {count} generated images" in capsys.readouterr().out
    after = HTDGDetector.load(place / "model", device="cpu")
    assert after.trained_with_ == before.trained_with_
    assert torch.equal(after.sample(1), before.sample(1))
    assert before.calibrate("generated", n_generated=count, seed=3) == after.threshold_


NEEDS_IMAGES = (
    "htdg: A threshold needs normal images that did not train: name some, or a folder of them. "
    "--generated takes images that the model generates instead, far less reliable; and --threshold "
    "takes a score.\n"
)
EITHER = "htdg: Images are named, and --generated is given: leave out one of them.\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], NEEDS_IMAGES),
        (["--false-positive-rate", "0.01"], NEEDS_IMAGES),
        (["photos", "--generated", "5"], EITHER),
        (["photos", "--generated"], EITHER),
        (["--generated", "0"], "The number of samples is 0"),
        (["--generated", "-3"], "The number of samples is -3"),
        (["photos", "--false-positive-rate", "1"], "rate is 1.0, but it must be between 0 and 1"),
        (["--generated", "--false-positive-rate", "5"], "must be between 0 and 1 (0.05 is 5 %)"),
        (["photos", "--defect-fraction", "0"], "defect_fraction is 0.0, but it must be above 0"),
        (["nowhere.png"], "nowhere.png is not there"),
    ],
    ids=str,
)
def test_calibrating_with_wrong_input(place, capsys, monkeypatch, words, sentence):
    monkeypatch.chdir(place)
    before = (place / "model" / "config.json").read_text()
    assert main(["calibrate", "model", *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert sentence in shown.err
    assert (place / "model" / "config.json").read_text() == before


# --- sample -------------------------------------------------------------------------------------


def test_samples_of_any_size_and_from_any_scale_on(place, tiny, capsys):
    words = ["sample", str(place / "model"), "-n", "2", "--out", str(place / "s")]
    assert main([*words, "--size", "24", "60", "--from-scale", "2", "--grid"]) == 0
    raw = tiny.sample(2, size=(24, 60), from_scale=2)
    assert raw.shape == (2, 3, 24, 60)
    for i in range(2):
        written = np.asarray(Image.open(place / "s" / f"sample_{i:03d}.png"))
        expected = ((raw[i].clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0)
        np.testing.assert_allclose(written, expected, atol=1)
    grid = Image.open(place / "s" / "grid.png")
    assert grid.width > grid.height / 2
    drawn = [raw, *(tiny.sample(2, size=(24, 60), from_scale=n) for n in range(4))]
    beyond = float((torch.cat(drawn).abs() > 1).double().mean())
    sentence = f"{beyond:.2%} of the values lay beyond black or white and were cut"
    assert (sentence in capsys.readouterr().err) == (beyond > 0)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--size", "3"], "The size of a sample is 3 x 3 pixels, but each must be from 16 to 2048"),
        (["--size", "30", "4000"], "30 x 4000 pixels, but each must be from 16 to 2048"),
        (["--size", "1", "2", "3"], "--size has 3 numbers"),
        (["--from-scale", "4"], "from_scale is 4, but it must be a whole number, from 0 to 3."),
        (["--from-scale", "-1"], "from_scale is -1, but it must be a whole number, from 0 to 3."),
    ],
)
def test_samples_with_wrong_input(place, capsys, words, sentence):
    assert main(["sample", str(place / "model"), "--out", str(place / "s"), *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not (place / "s").exists()


# --- evaluate -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Brick with several fractions, evaluated with the smallest model."""
    out = tmp_path_factory.mktemp("evaluated") / "out"
    task = Task("textures", "brick", limit_per_kind=2, defect_fraction=[0.1, 0.5, 1.0])
    return evaluate(task, out, TINY, progress=False), out


def test_several_fractions_in_one_run(evaluated):
    metrics, out = evaluated
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert metrics["defect_fraction"] == 0.1
    for fraction, auroc in metrics["image_auroc_per_fraction"].items():
        task = Task("textures", "brick", limit_per_kind=2, defect_fraction=float(fraction))
        alone = evaluate(task, out.parent / fraction, TINY, model=out / "model", progress=False)
        assert alone["image_auroc"] == auroc
        assert "image_auroc_per_fraction" not in alone
    assert metrics["image_auroc"] == metrics["image_auroc_per_fraction"]["0.1"]
    rows = rows_of((out / "scores.csv").read_text())
    alone = rows_of((out.parent / "0.5" / "scores.csv").read_text())
    for row, other in zip(rows, alone, strict=True):
        assert float(row["anomaly_score_0.5"]) == pytest.approx(
            float(other["anomaly_score"]), abs=1e-6
        )


def test_pixel_metrics_are_those_of_the_detector_s_maps(evaluated):
    metrics, out = evaluated
    detector = HTDGDetector.load(out / "model", device="cpu")
    test = load_dataset("textures").test_set("brick", detector.image_names_, limit_per_kind=2)
    pixels = PixelMetrics()
    for sample in test:
        pixels.add(detector.anomaly_map(sample.image)[0], sample.mask)
    for name, value in pixels.result().items():
        if isinstance(value, float):
            assert metrics[name] == pytest.approx(value, abs=1e-4)
        else:
            assert metrics[name] == value
    assert metrics["pixel_images"] == 10
    assert metrics["defect_regions"] >= 8
    assert (out / "maps.png").is_file()


def test_sets_without_masks_have_no_pixel_metrics(tmp_path):
    metrics = evaluate("digits", tmp_path / "out", TINY, normal_class=3, limit=20, progress=False)
    assert not {"pixel_auroc", "aupro", "pixel_images"} & metrics.keys()
    assert not (tmp_path / "out" / "maps.png").exists()


def test_defects_that_nobody_marked_do_not_count(tmp_path):
    """Of two defective images one has a mask: the other says nothing about where defects are."""
    rng = np.random.default_rng(0)
    for place in ("train/0", "test/good/0", "test/cut/0", "test/cut/1"):
        path = tmp_path / "data" / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (30, 30), dtype=np.uint8)).save(path)
    mask = np.zeros((30, 30), np.uint8)
    mask[5:9, 5:9] = 255
    (tmp_path / "data" / "ground_truth" / "cut").mkdir(parents=True)
    Image.fromarray(mask).save(tmp_path / "data" / "ground_truth" / "cut" / "1.png")
    task = Task("folder", data_root=tmp_path / "data")
    metrics = evaluate(task, tmp_path / "out", TINY, progress=False)
    assert (metrics["pixel_images"], metrics["defect_regions"]) == (2, 1)
    assert metrics["test_images_anomalous"] == 2


def test_the_table_7_row_is_printed(tmp_path, capsys):
    words = ["evaluate", "--dataset", "textures", "--category", "brick", "--limit-per-kind", "1"]
    words += ["--preset", "tiny", "--niter", "1", "--out", str(tmp_path / "out")]
    assert main([*words, "--defect-fraction", "0.01", "0.05", "0.1", "0.2", "0.5", "1.0"]) == 0
    out = capsys.readouterr().out
    for share in ("1%", "5%", "10%", "20%", "50%", "100%"):
        assert f"image_auroc, most anomalous {share}  0." in out
    for name in ("pixel_auroc", "aupro"):
        assert f"\n{name} " in out


# --- figures ------------------------------------------------------------------------------------


def test_the_maps_figure_outlines_what_is_marked_and_shares_one_scale():
    images = [np.zeros((10, 10, 3), np.uint8)] * 2
    maps = [np.full((10, 10), 0.2), np.full((10, 10), 0.9)]
    mask = np.zeros((10, 10), bool)
    mask[0:3, 4:8] = True  # at the edge, too
    figure = plot_maps(images, maps, [None, mask], ["good", "hole"])
    above, below = figure.axes[:2], figure.axes[2:4]
    assert [ax.get_title() for ax in above] == ["good", "hole"]
    assert [len(ax.collections) for ax in above] == [0, 1]
    assert {ax.images[0].get_clim() for ax in below} == {(0.2, 0.9)}
    outline = above[1].collections[0].get_paths()[0].vertices
    # Halfway between the last marked pixel and the next: x 3.5 to 7.5, y -0.5 to 2.5.
    np.testing.assert_allclose(outline.min(0), [3.5, -0.5])
    np.testing.assert_allclose(outline.max(0), [7.5, 2.5])


def test_a_grid_has_a_row_for_each_scale():
    rows = {f"scale {n}": np.zeros((3, 8, 12, 3), np.uint8) for n in range(4)}
    figure = plot_sample_grid(rows)
    assert [ax.get_ylabel() for ax in figure.axes[::3]] == list(rows)


@pytest.mark.parametrize("kind", ["distance", "both"])
def test_score_writes_the_fused_scores_and_what_each_kind_contributed(kind, brick, tmp_path):
    config = TINY.with_options(evidence=kind, distance_min_size=14, distance_max_size=20)
    detector = HTDGDetector(config).fit(brick[0][0], progress=False)
    detector.calibrate(brick[1][:2], defect_fraction=0.1)
    detector.save(tmp_path / "model")
    for i, image in enumerate(brick[1][:3]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    out = tmp_path / "scores.csv"
    assert main(["score", str(tmp_path / "model"), *paths, "--csv", str(out)]) == 0
    rows = rows_of(out.read_text())
    expected = list(detector.predictions(paths, [0.1]))
    for row, prediction in zip(rows, expected, strict=True):
        assert float(row["anomaly_score"]) == pytest.approx(prediction.scores[0], abs=1e-6)
        for name, ratios in prediction.evidence.items():
            assert float(row[name]) == pytest.approx(ratios[0], rel=1e-5)
        above = prediction.scores[0] > detector.threshold_.score
        assert row["anomalous"] == str(int(above))
    assert ("votes" in rows[0]) == ("scale_0" in rows[0]) == (kind == "both")
