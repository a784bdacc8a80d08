"""``htdg export``: what the ONNX file computes against the detector, what it says, what is refused.

Files run in ONNX Runtime, as on a line where Python is not.
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from htdg import HTDGConfig, HTDGDetector
from htdg.commands import export as command
from htdg.commands.cli import main
from htdg.export import onnx_file
from htdg.export.onnx_file import Comparison, compared, exported
from htdg.fast import canvases
from htdg.io.images import load_images
from htdg.io.model_directory import save_model
from htdg.localisation import spread_matrix
from htdg.pyramid import resize
from htdg.thresholds import Threshold
from htdg.tiles import squares
from htdg.transformations import Transformation
from tests.models import QUIET

#: Every part of a transformation, and all of them together.
MIXED = ((0, 0, 0, 0, 0), (0, 1, 0, 0, 0), (0, 0, 1, 0, 0), (0, 0, 0, -1, 3), (1, 1, -1, 1, 1))
#: Distances small enough for a test.
SMALL = {"evidence": "both", "distance_min_size": 14, "distance_max_size": 20}
#: Of each kind what is trained, with how many images, and the defect fraction.
KINDS = {
    "votes": ({"transformations": MIXED, "max_size": 16}, 1, 0.05),
    "votes of blurred copies": ({"transformations": MIXED, "translation": "stretched"}, 1, None),
    "votes of whole pixels": ({"transformations": MIXED, "translation": "pixel"}, 2, 0.2),
    "votes real or generated": (
        {"method": "real_or_generated", "fast": False, "max_size": 16},
        1,
        0.05,
    ),
    "votes without generator": ({"method": "no_generator", "max_size": 16}, 1, None),
    "both, at several scales": (SMALL | {"max_size": 16, "distance_min_size": 18}, 1, 0.02),
    "both, nearby": (
        SMALL | {"search_radius": 0.2, "patch_constant": 0.1, "high_pass": 1.5},
        2,
        None,
    ),
    "distance, of a large bank": (
        {"evidence": "distance", "image_size": 48, "distance_min_size": 40}
        | {"distance_max_size": 40},
        2,
        0.1,
    ),
}


def trained(options, images):
    """A detector whose votes differ from image to image, of one scale unless more are asked for."""
    config = HTDGConfig.preset("tiny", **{"niter": 10, "lr_d": 5e-3, "max_size": 14, **options})
    return HTDGDetector(config).fit(images, **QUIET)


@pytest.fixture(scope="module")
def small(brick):
    return trained({}, brick[0][:1])


def session_of(file):
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def run(session, images):
    """Scores (B,) and maps (B, s, s) of images (B, 3, s, s) in [0, 1]."""
    return session.run(["score", "map"], {"images": images.numpy()})


def photographs(crops, side):
    """Four images (4, 3, side, side) in [0, 1]: three crops of brick, the second one with a red
    square, and noise."""
    grey = torch.from_numpy(np.stack(crops[:3])).float() / 255
    images = resize(2 * grey[:, None].expand(-1, 3, -1, -1) - 1, side) / 2 + 0.5
    images[1, 0, 3:9, 5:11] = 1.0
    noise = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    return torch.cat([images, noise])


def forget():
    """Empty what is kept for later calls, as it is when a process has only just loaded a model."""
    for function in (spread_matrix, canvases.canvas_plan, canvases.sampling_matrix):
        function.cache_clear()


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_gives_the_scores_and_maps_of_the_detector(kind, brick):
    options, count, fraction = KINDS[kind]
    detector = trained(options, brick[0][:count])
    forget()
    session = session_of(exported(detector.model_, fraction))
    images = photographs(brick[1], detector.config_.image_size)
    predictions = list(detector.predictions(images, (fraction,), maps=True))
    scores = np.array([p.scores[0] for p in predictions])
    maps = np.stack([p.anomaly_map for p in predictions])
    assert np.ptp(scores) > 0.05
    for batch in (slice(0, 1), slice(1, 4)):
        of_batch, maps_of_batch = run(session, images[batch])
        np.testing.assert_allclose(of_batch, scores[batch], rtol=0, atol=1e-4)
        np.testing.assert_allclose(maps_of_batch, maps[batch], rtol=0, atol=1e-4)


def test_large_and_small_banks_are_both_tested(brick):
    """Cell by cell, and exactly."""
    counts = {}
    for kind in ("both, at several scales", "distance, of a large bank"):
        options, count, _ = KINDS[kind]
        detector = trained(options, brick[0][:count])
        list(detector.predictions(brick[1][:1]))
        counts[kind] = [of.compared.cells is None for of in detector.evidence_.pixels]
    assert counts == {
        "both, at several scales": [True] * 3,
        "distance, of a large bank": [False],
    }


def test_every_transformation_is_undone_by_its_matrices():
    from htdg.export.graph import undo_matrices

    maps = torch.rand(3, 14, 14, generator=torch.Generator().manual_seed(0))
    for translation in ("pixel", "resampled", "stretched"):
        for row in MIXED:
            t = Transformation(*row)
            rows, columns, defined = undo_matrices(t, 14, 24, translation)
            expected, where = t.undo(maps, 24, translation)
            applied = maps.mT if t.k % 2 else maps
            torch.testing.assert_close(rows @ applied @ columns.T, expected)
            assert torch.equal(defined, where)


def test_tiles_are_scored_one_by_one(brick):
    detector = trained({"tiles": True}, brick[0][:1])
    long = (
        torch.from_numpy(brick[1][0].copy()).float().expand(3, -1, -1)[:, :40] / 255
    )  # (3, 40, 96)
    tiles = squares(2 * long - 1, detector.config_.image_size, True) / 2 + 0.5
    scores, _ = run(session_of(exported(detector.model_, 0.05)), tiles)
    assert len(scores) == 3
    assert scores.max() == pytest.approx(detector.anomaly_score(long, 0.05)[0], abs=1e-4)


def test_a_model_in_bfloat16_is_exported_in_float32(brick):
    exact = trained({}, brick[0][:1])
    coarse = replace(exact.model_, config=exact.config_.with_options(precision="bf16"))
    images = photographs(brick[1], 20)
    scores, _ = run(session_of(exported(coarse, None)), images)
    np.testing.assert_allclose(scores, exact.anomaly_score(images), rtol=0, atol=1e-5)
    rounded = HTDGDetector.from_model(coarse).anomaly_score(images)
    assert np.abs(scores - rounded).max() > 1e-4


def test_the_comparison_sees_another_model(small, brick):
    file, two = exported(small.model_, None), trained({}, brick[0][:2])
    same, other = compared(file, small.model_, None), compared(file, two.model_, None)
    assert same.agrees
    assert min(same.milliseconds, same.milliseconds_here) > 0
    assert not other.agrees
    assert min(other.scores, other.maps) > 1e-4
    assert not Comparison(float("nan"), 0.0, 1.0, 1.0).agrees


# --- The command --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(small, tmp_path_factory):
    """A folder with a model, and with a calibrated one."""
    root = tmp_path_factory.mktemp("models")
    small.save(root / "model")
    threshold = Threshold(0.625, 0.75, 0.05, 20, "held-out images", 0.1)
    save_model(replace(small.model_, threshold=threshold), root / "calibrated")
    return root


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def metadata_of(path):
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_the_file_has_the_threshold_and_its_fraction(models, here, small, brick, capsys):
    assert main(["export", str(models / "calibrated"), "--onnx", "new/m.onnx"]) == 0
    known = metadata_of("new/m.onnx")
    assert known == {
        "htdg": HTDGDetector.load(models / "calibrated").trained_with_["htdg"],
        "image_size": "20",
        "input": "float32 (batch, 3, 20, 20), RGB, from 0 for black to 1 for white",
        "evidence": "votes",
        "tiles": "false",
        "defect_fraction": "0.1",
        "threshold": "0.625",
        "pixel_threshold": "0.75",
        "false_positive_rate": "0.05",
    }
    shown = capsys.readouterr().out
    for key, value in known.items():
        assert re.search(rf"^{key} +{re.escape(value)}$", shown, re.M), key
    assert re.search(r"^differs by +\S+e-0[5-9] in scores, \S+e-0[5-9] in maps$", shown, re.M)
    assert re.search(r"^time an image +[\d.]+ ms in ONNX Runtime, [\d.]+ ms in htdg$", shown, re.M)
    images = photographs(brick[1], 20)
    scores, _ = run(session_of("new/m.onnx"), images)
    np.testing.assert_allclose(scores, small.anomaly_score(images, 0.1), rtol=0, atol=1e-4)
    assert [p.name for p in (here / "new").iterdir()] == ["m.onnx"]


def test_another_fraction_leaves_the_threshold_out(models, here, small, brick, capsys):
    words = ["export", str(models / "calibrated"), "--onnx", "m.onnx", "--defect-fraction", "0.5"]
    assert main(words) == 0
    assert "the threshold is for --defect-fraction 0.1, so the file has" in capsys.readouterr().err
    known = metadata_of("m.onnx")
    assert known["defect_fraction"] == "0.5"
    assert "threshold" not in known
    images = photographs(brick[1], 20)
    scores, _ = run(session_of("m.onnx"), images)
    np.testing.assert_allclose(scores, small.anomaly_score(images, 0.5), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("missing --onnx m.onnx", "missing has no config.json: it is no htdg model directory."),
        ("{0}/model --onnx m.pt", "--onnx m.pt does not end in .onnx: name the file so."),
        ("{0}/model --onnx folder.onnx", "--onnx folder.onnx is a folder: name a file."),
        (
            "{0}/model --onnx old.onnx",
            "old.onnx is there already: choose another --onnx or --overwrite it.",
        ),
        ("{0}/model --onnx old.onnx/m.onnx", "old.onnx is no folder."),
        ("{0}/model --onnx m.onnx --defect-fraction 2", "defect_fraction is 2.0, but it must be"),
        ("mse --onnx m.onnx", "This model has method mse"),
        ("geom --onnx m.onnx", "This model has method geom"),
    ],
)
def test_mistakes_get_a_sentence_and_write_nothing(words, sentence, models, brick, here, capsys):
    (here / "folder.onnx").mkdir()
    (here / "old.onnx").write_text("earlier")
    method = words.split()[0]
    if method in ("mse", "geom"):
        sizes = {"geom_samples": 8, "geom_epochs": 1} if method == "geom" else {}
        trained({"method": method, **sizes}, brick[0][:1]).save(method)
    before = sorted(here.rglob("*"))
    assert main(["export", *words.format(models).split()]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert sentence in shown.err
    assert re.fullmatch(r"htdg: .+\.\n", shown.err)
    assert sorted(here.rglob("*")) == before
    assert (here / "old.onnx").read_text() == "earlier"


def test_without_its_packages_the_extra_is_named(models, here, capsys, monkeypatch):
    there = onnx_file.importlib.util.find_spec
    monkeypatch.setattr(
        onnx_file.importlib.util, "find_spec", lambda n: None if n == "onnxscript" else there(n)
    )
    assert main(["export", str(models / "model"), "--onnx", "m.onnx"]) == 2
    assert "Exporting needs onnxscript: pip install 'htdg[export]'" in capsys.readouterr().err
    assert list(here.iterdir()) == []


def test_a_file_that_differs_from_the_model_is_not_written(models, here, capsys, monkeypatch):
    (here / "m.onnx").write_text("earlier")
    monkeypatch.setattr(command, "compared", lambda *_: Comparison(0.0, 2e-4, 1.0, 1.0))
    assert main(["export", str(models / "model"), "--onnx", "m.onnx", "--overwrite"]) == 2
    assert "m.onnx was not written: its scores would differ" in capsys.readouterr().err
    assert [(p.name, p.read_text()) for p in here.iterdir()] == [("m.onnx", "earlier")]


def test_overwriting_replaces_the_file(models, here):
    (here / "m.onnx").write_text("earlier")
    assert main(["export", str(models / "model"), "--onnx", "m.onnx", "--overwrite"]) == 0
    assert metadata_of("m.onnx")["defect_fraction"] == "1"


def test_the_python_of_the_page_needs_no_htdg(models, here, small, brick, capsys):
    page = (Path(__file__).resolve().parents[1] / "docs" / "export.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    assert "htdg" not in block
    assert main(["export", str(models / "calibrated"), "--onnx", "model.onnx"]) == 0
    Image.fromarray(brick[1][0]).save("a.png")
    names = {}
    exec(compile(block, "export.md", "exec"), names)
    # Pillow rounds the reduced image to 8 bits; what that does to the score hangs on the model.
    (whole,) = load_images("a.png")
    np.testing.assert_allclose(names["images"], resize(whole[None], 20) / 2 + 0.5, atol=1 / 255)
    reduced = np.asarray(names["image"])
    assert names["score"][0] == pytest.approx(small.anomaly_score(reduced, 0.1)[0], abs=1e-4)
    assert names["anomaly_map"].shape == (1, 20, 20)
    assert names["anomalous"] == (names["score"][0] > 0.625)
