"""The sample sets and the shipped folder of textures."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from htdg.datasets import samples
from htdg.datasets.defects import DEFECTS, LEAST_CHANGE, foreign_patch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def make_textures():
    spec = importlib.util.spec_from_file_location("make_textures", ROOT / "data/make_textures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_shipped_folder_is_what_the_script_makes(make_textures):
    assert make_textures.differences(ROOT / "data/textures") == []


def test_the_check_finds_one_altered_pixel_and_missing_and_foreign_files(
    make_textures, tmp_path, capsys
):
    folder = tmp_path / "textures"
    shutil.copytree(ROOT / "data/textures", folder)
    altered = folder / "grass/test/hole/003.png"
    pixels = np.array(Image.open(altered))
    pixels[5, 7] ^= 1
    Image.fromarray(pixels).save(altered, compress_level=6)
    (folder / "brick/train/good/000.png").unlink()
    (folder / "brick/extra.png").write_bytes(b"x")
    assert make_textures.main(["--check", "--out", str(folder)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.split("textures/")[1] for line in said] == [
        "brick/train/good/000.png is missing",
        "brick/extra.png is not one of them",
        "grass/test/hole/003.png differs from what this script makes",
    ]


def test_the_layout_is_that_of_mvtec():
    brick = ROOT / "data/textures/brick"
    assert len(list((brick / "train/good").glob("*.png"))) == 10
    assert len(list((brick / "test/good").glob("*.png"))) == 20
    for kind in samples.KINDS:
        for image in (brick / "test" / kind).glob("*.png"):
            mask = np.array(Image.open(brick / "ground_truth" / kind / f"{image.stem}_mask.png"))
            assert set(np.unique(mask)) == {0, 255}
            assert mask.shape == np.array(Image.open(image)).shape


@pytest.mark.parametrize("kind", [*DEFECTS, "patch"])
def test_a_mask_marks_exactly_what_changed(kind):
    crop = samples.texture_set("gravel", train=1, good=0, per_defect=0).train[0]
    other = samples.texture_photo("grass")
    sizes = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        image, mask = (
            foreign_patch(crop, rng, other) if kind == "patch" else DEFECTS[kind](crop, rng)
        )
        changed = image != crop
        assert np.array_equal(changed, mask)
        assert np.abs(image.astype(int) - crop)[mask].min() >= LEAST_CHANGE
        sizes.append(mask.sum())
    # They vary in size, none is a speck and none covers a quarter of the image.
    assert max(sizes) > 2 * min(sizes)
    assert min(sizes) >= 10
    assert max(sizes) < crop.size / 4


def test_training_rows_never_test(monkeypatch):
    taken = {"train": set(), "test": set()}

    def crop(photo, rows, columns, rng):
        part = "train" if columns == samples.TRAIN_COLUMNS else "test"
        taken[part] |= set(range(rows[0], rows[1] + samples.CROP))  # every row it could show
        return np.full((samples.SIDE, samples.SIDE), 100, np.uint8)

    monkeypatch.setattr(samples, "_crop", crop)
    sample = samples.texture_set("brick")
    assert len(sample.train) == 10
    assert taken["train"] == set(range(samples.TRAIN_ROW, 512))
    assert taken["test"] == set(range(samples.TRAIN_ROW))


def test_a_crop_is_taken_from_its_place():
    photo = samples.texture_photo("grass")
    place = ((16, 16), (30, 30))
    crop = samples._crop(photo, *place, np.random.default_rng(0))
    part = Image.fromarray(photo).crop((30, 16, 30 + samples.CROP, 16 + samples.CROP))
    assert np.array_equal(crop, part.resize((samples.SIDE,) * 2, Image.Resampling.LANCZOS))


def test_one_seed_gives_one_set_and_more_images_keep_the_first():
    first = samples.texture_set("grass", train=2, good=2, per_defect=1)
    more = samples.texture_set("grass", train=3, good=2, per_defect=1)
    other = samples.texture_set("grass", train=2, good=2, per_defect=1, seed=1)
    for a, b, c in zip(first.test, more.test, other.test, strict=True):
        assert np.array_equal(a, b)
        assert not np.array_equal(a, c)
    assert np.array_equal(first.train, more.train[:2])
    assert first.kinds == ["good", "good", "scratch", "hole", "stain", "patch"]
    assert first.labels == [0, 0, 1, 1, 1, 1]


def test_digits():
    sample = samples.digit_set(3, train=2)
    # The set has 1797 images, 183 of them threes; its first three is the fourth image.
    assert sample.train_names[0] == "0003"
    assert len(sample.test) == 1797 - 2
    assert sample.labels.count(0) == 183 - 2
    assert "0003" not in sample.names
    assert sample.train[0].shape == (8, 8)
    assert sample.train[0].max() == 239  # 15 of 16 grey levels


def test_faces():
    sample = samples.face_set(train=5)
    assert sample.labels == [0] * 95 + [1] * 100
    assert sample.train_names == ["0000", "0001", "0002", "0003", "0004"]
    assert sample.test[0].shape == (25, 25)
    assert sample.test[0].dtype == np.uint8


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: samples.texture_set("wood"), "no texture 'wood': choose from brick, grass"),
        (lambda: samples.digit_set(10), "no digit 10: choose from 0 to 9"),
        (lambda: samples.digit_set(3, train=183), "183 training images of class digit 3"),
        (lambda: samples.face_set(train=0), "0 training images of class face"),
    ],
)
def test_wrong_names_and_counts_are_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()
