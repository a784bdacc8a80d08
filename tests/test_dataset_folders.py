"""The data sets that lie in folders: one's own, MVTec AD and Paris."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from htdg.datasets import DatasetError, load_dataset
from htdg.datasets.paris import CORRUPT
from htdg.io.images import load_image
from tests import small_sets
from tests.small_sets import save


def kinds(tested) -> dict[str, int | None]:
    return {Path(entry.name).stem: entry.label for entry in tested.entries}


# --- folder -------------------------------------------------------------------------------------


def test_folder_in_mvtecs_layout(tmp_path):
    data = load_dataset("folder", small_sets.make_category(tmp_path))
    _, names = data.training_images(None, 2, index=2)
    assert names == [str(tmp_path / f"bottle/train/good/00{i}.png") for i in (2, 3)]
    tested = data.test_set("good", names)
    assert [(entry.kind, entry.label) for entry in tested.entries] == [
        *[("crack", 1)] * 2,
        *[("dent", 1)] * 2,
        *[("good", 0)] * 3,
    ]
    mask = np.zeros((30, 30), bool)
    mask[4:9, 6:9] = True
    assert np.array_equal(tested[1].mask, mask)
    assert tested[4].mask is None
    assert np.array_equal(tested[4].image, small_sets.random_image(10))


def test_training_folder_without_good_and_separate_places(tmp_path):
    save(tmp_path / "a" / "2.png", 2)
    save(tmp_path / "a" / "1.png", 1)
    save(tmp_path / "a" / "deeper" / "3.png", 3)
    save(tmp_path / "b" / "good" / "4.png", 4)
    save(tmp_path / "b" / "hole" / "small" / "5.png", 5)
    save(tmp_path / "c" / "hole" / "small" / "5.png", 6)
    data = load_dataset("folder", train=tmp_path / "a", test=tmp_path / "b", masks=tmp_path / "c")
    assert [Path(name).stem for name in data.training_pool("good")] == ["1", "2", "3"]
    tested = data.test_set(None)
    assert kinds(tested) == {"4": 0, "5": 1}
    bright = small_sets.random_image(6).max(-1)
    assert np.array_equal(tested[1].mask, bright > 0)


def test_only_defects_or_nothing_known(tmp_path):
    save(tmp_path / "train" / "1.png", 1)
    save(tmp_path / "test" / "hole" / "2.png", 2)
    data = load_dataset("folder", tmp_path)
    assert kinds(data.test_set(None)) == {"2": 1}
    save(tmp_path / "test" / "3.png", 3)
    with pytest.raises(DatasetError, match=r"3\.png.*move them into") as caught:
        data.test_set(None)
    assert ". " not in str(caught.value)
    shutil.rmtree(tmp_path / "test" / "hole")
    assert kinds(data.test_set(None)) == {"3": None}
    assert data.test_set(None)[0].label is None


def test_training_images_in_the_test_folder_are_left_out(tmp_path):
    for i in range(3):
        save(tmp_path / "good" / f"{i}.png", i)
    save(tmp_path / "hole" / "7.png", 7)
    shutil.copy(tmp_path / "good" / "1.png", tmp_path / "good" / "copy.png")
    data = load_dataset("folder", train=tmp_path / "good", test=tmp_path)
    _, names = data.training_images(None, 1, index=2)
    assert kinds(data.test_set(None, names)) == {"0": 0, "2": 0, "7": 1}
    assert kinds(data.test_set(None)) == {"0": 0, "1": 0, "2": 0, "copy": 0, "7": 1}
    # the same when the folder of good images is not called so
    (tmp_path / "good").rename(tmp_path / "fine")
    data = load_dataset("folder", train=tmp_path / "fine", test=tmp_path)
    _, names = data.training_images(None, 1)
    assert kinds(data.test_set(None, names)) == {"1": 0, "2": 0, "copy": 0, "7": 1}


def test_folder_reads_every_kind_of_image(tmp_path):
    train, wide = tmp_path / "train", np.arange(100, dtype=np.uint16).reshape(10, 10) * 650
    image = Image.fromarray(small_sets.random_image(1, 9, 14))
    train.mkdir()
    image.convert("L").save(train / "1_grey.png")
    image.convert("RGBA").save(train / "2_rgba.png")
    Image.fromarray(wide).save(train / "3_sixteen.png")
    image.quantize(16).save(train / "4_palette.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(train / "5_turned.png", exif=exif)
    image.save(train / "6_other_size.bmp")
    images, names = load_dataset("folder", tmp_path).training_images(None, 6)
    assert [i.shape[:2] for i in images] == [(9, 14), (9, 14), (10, 10), (9, 14), (14, 9), (9, 14)]
    for array, name in zip(images, names, strict=True):
        assert torch.equal(load_image(array), load_image(name)), name
    assert images[2].dtype == np.uint16
    assert np.array_equal(images[2], wide)


def test_files_that_are_no_images_are_named_or_refused(tmp_path):
    place = small_sets.make_category(tmp_path)
    notes = place / "train" / "good" / "notes.png"
    notes.write_text("not an image")
    log = place / "test" / "log.txt"
    log.write_text("not an image")
    data = load_dataset("folder", place)
    assert data.skipped == [notes]
    data.test_set(None)
    assert data.skipped == [notes, log]
    with pytest.raises(DatasetError, match=r"notes\.png is no image"):
        load_dataset("folder", place, strict=True)
    notes.unlink()
    with pytest.raises(DatasetError, match=r"log\.txt is no image"):
        load_dataset("folder", place, strict=True).test_set(None)


def test_folders_that_are_missing_empty_or_damaged(tmp_path):
    with pytest.raises(DatasetError, match=r"train is no folder"):
        load_dataset("folder", tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(DatasetError, match=r"train holds no images"):
        load_dataset("folder", tmp_path)
    path = save(tmp_path / "train" / "1.png", 1)
    data = load_dataset("folder", tmp_path)
    with pytest.raises(DatasetError, match=r"test is no folder"):
        data.test_set(None)
    with pytest.raises(DatasetError, match=r"nowhere is no folder"):
        load_dataset("folder", tmp_path, masks=tmp_path / "nowhere")
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(DatasetError, match=r"1\.png is damaged"):
        data.training_images(None, 1)
    save(tmp_path / "test" / "good" / "1.png", 1)
    names = data.training_pool("good")
    shutil.copy(tmp_path / "test" / "good" / "1.png", path)
    with pytest.raises(DatasetError, match="no images left to test on"):
        data.test_set(None, names)


def test_masks_are_read_as_they_come(tmp_path):
    place = small_sets.make_category(tmp_path)
    masks = place / "ground_truth"
    marked = np.zeros((30, 30), bool)
    marked[2:5, 3:7] = True
    Image.fromarray(marked.astype(np.uint8)).save(masks / "crack" / "000_mask.png")  # 0 and 1
    Image.fromarray(marked).save(masks / "crack" / "001_mask.png")  # black and white
    (masks / "dent" / "000_mask.png").unlink()
    Image.fromarray(np.zeros((29, 30), np.uint8)).save(masks / "dent" / "001_mask.png")
    tested = load_dataset("folder", place).test_set(None)
    assert np.array_equal(tested[0].mask, marked)
    assert np.array_equal(tested[1].mask, marked)
    assert tested[2].mask is None
    with pytest.raises(DatasetError, match="30 x 29 pixels but its image 30 x 30"):
        tested[3]
    (masks / "dent" / "001_mask.png").unlink()
    shutil.rmtree(masks)
    masks.mkdir()
    assert load_dataset("folder", place).test_set(None)[3].mask is None


# --- Masks, links and names ---------------------------------------------------------------------


def one_mask(tmp_path, image):
    """The mask of the first image, stored like this, and what was said of it."""
    place = small_sets.make_category(tmp_path)
    path = place / "ground_truth" / "crack" / "000_mask.png"
    image.save(path)
    data = load_dataset("folder", place)
    tested = data.test_set(None)
    said = len(data.notes)
    return tested[0].mask, data.notes[said:]


@pytest.mark.parametrize("mode", ["L", "I;16", "P", "RGB", "1"])
def test_every_value_but_0_marks_a_defect(mode, tmp_path):
    labels = np.zeros((30, 30), np.uint16)
    labels[2:5, 3:7], labels[10:20, 12:14] = 1, 2  # of 255, or of 65,535
    if mode == "I;16":
        image = Image.fromarray(labels)
    elif mode == "RGB":  # a colour for each
        image = Image.fromarray(np.array([[0, 0, 0], [0, 3, 0], [0, 0, 200]], np.uint8)[labels])
    elif mode == "1":
        image = Image.fromarray(labels > 0)
    else:
        image = Image.fromarray(labels.astype(np.uint8))
    if mode == "P":
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    mask, said = one_mask(tmp_path, image)
    assert np.array_equal(mask, labels > 0)
    assert said == []


@pytest.mark.parametrize("drawn_in", [0, 255])
def test_what_is_transparent_in_a_mask_is_not_marked(drawn_in, tmp_path):
    layer = np.full((30, 30, 4), 255, np.uint8)
    layer[..., :3], layer[..., 3] = drawn_in, 0
    layer[2:5, 3:7, 3] = 255
    mask, _ = one_mask(tmp_path, Image.fromarray(layer))
    assert mask.sum() == 12
    assert mask[2:5, 3:7].all()


def test_a_mask_with_many_values_says_how_it_was_read(tmp_path):
    smooth = np.zeros((30, 30), np.uint8)
    smooth[10] = np.arange(30)  # 29 pixels from 1 to 29
    smooth[11, 5] = 255
    mask, said = one_mask(tmp_path, Image.fromarray(smooth))
    assert np.array_equal(mask, smooth > 0)
    assert len(said) == 1
    assert said[0].endswith(
        "000_mask.png has 31 values: what is not black counts as a defect, 3.3 % of it."
    )


def test_noise_in_a_jpeg_mask_is_no_defect(tmp_path):
    place = small_sets.make_category(tmp_path)
    marked = np.zeros((30, 30), np.uint8)
    marked[8:20, 6:15] = 255
    folder = place / "ground_truth" / "crack"
    (folder / "000_mask.png").unlink()
    Image.fromarray(marked).save(folder / "000_mask.jpg", quality=60)
    assert (np.asarray(Image.open(folder / "000_mask.jpg")) > 0).mean() > 0.15  # 0.12 are marked
    data = load_dataset("folder", place)
    assert np.array_equal(data.test_set(None)[0].mask, marked > 0)
    assert data.notes[-1].endswith(
        "what is brighter than half of its brightest pixel counts as a defect, 12 % of it."
    )


@pytest.mark.parametrize("ending", ["_mask", "_gt", "_label", ""])
def test_masks_are_found_by_the_names_that_people_give_them(ending, tmp_path):
    place = small_sets.make_category(tmp_path)
    expected = [sample.mask for sample in load_dataset("folder", place).test_set(None)]
    for path in (place / "ground_truth").rglob("*.png"):
        path.rename(path.with_name(path.name.replace("_mask", ending)))
    data = load_dataset("folder", place)
    for sample, mask in zip(data.test_set(None), expected, strict=True):
        assert (sample.mask is None) == (mask is None)
        assert mask is None or np.array_equal(sample.mask, mask)
    assert len(data.notes) == 1  # the layout alone


def test_how_many_defects_have_a_mask_is_said(tmp_path):
    place = small_sets.make_category(tmp_path)
    masks = place / "ground_truth"
    (masks / "dent" / "001_mask.png").rename(masks / "dent" / "001_drawing.png")

    def said():
        data = load_dataset("folder", place)
        data.test_set(None)
        return data.notes[1:]

    assert said() == [f"3 of 4 anomalous images have a mask in {masks}."]
    for path in masks.rglob("*_mask.png"):
        path.unlink()
    ending = "so there are no pixel metrics."
    assert said() == [f"0 of 4 anomalous images have a mask in {masks}, {ending}"]
    shutil.rmtree(masks)
    assert said() == [f"0 of 4 anomalous images have a mask as there is no {masks}, {ending}"]


def test_a_damaged_mask_is_named_and_costs_no_other(tmp_path):
    place = small_sets.make_category(tmp_path)
    path = place / "ground_truth" / "crack" / "001_mask.png"
    path.write_bytes(path.read_bytes()[:60])
    data = load_dataset("folder", place)
    tested = data.test_set(None)
    assert tested[1].mask is None
    assert tested[0].mask.any()
    assert f"{path} is damaged" in data.notes[-1]
    assert data.notes[-1].endswith("Its image counts as one without a mask.")
    with pytest.raises(DatasetError, match=r"001_mask\.png is damaged"):
        load_dataset("folder", place, strict=True).test_set(None)[1]


def test_what_was_understood_of_the_folders_is_said_in_a_line(tmp_path):
    place = small_sets.make_category(tmp_path)
    data = load_dataset("folder", place)
    data.test_set(None)
    assert data.notes == [
        f"5 good images to train on in {place / 'train' / 'good'}; in {place / 'test'} 3 good ones "
        "and 4 others (crack 2, dent 2)."
    ]
    loose = load_dataset("folder", place, test=place / "test" / "good")
    loose.test_set(None)
    assert loose.notes == [f"what the 3 images in {place / 'test' / 'good'} are is unknown."]


def test_good_images_may_be_called_otherwise(tmp_path):
    place = small_sets.make_category(tmp_path)
    for folder in ("train", "test"):
        (place / folder / "good").rename(place / folder / "OK")
    data = load_dataset("folder", place)
    assert {entry.label for entry in data.test_set(None).entries} == {1}
    assert "None of its folders is called good: name those with good images" in data.notes[0]
    for names in (["ok"], ("fine", "Ok"), "ok"):
        data = load_dataset("folder", place, good=names)
        assert data.train == place / "train" / "OK"
        kinds = Counter(entry.kind for entry in data.test_set(None).entries)
        assert kinds == {"good": 3, "crack": 2, "dent": 2}
        assert "3 good ones and 4 others" in data.notes[0]


def test_links_to_folders_are_followed_and_circles_are_not(tmp_path):
    place = small_sets.make_category(tmp_path / "real")
    linked = tmp_path / "linked"
    (linked / "test").mkdir(parents=True)
    (linked / "train").symlink_to(place / "train", target_is_directory=True)
    for kind in ("good", "crack"):
        (linked / "test" / kind).symlink_to(place / "test" / kind, target_is_directory=True)
    circle = linked / "test" / "again"
    circle.symlink_to(linked, target_is_directory=True)
    data = load_dataset("folder", linked)
    assert len(data.training_pool("good")) == 5
    kinds = Counter(entry.kind for entry in data.test_set(None).entries)
    assert kinds == {"good": 3, "crack": 2}
    assert data.skipped == [circle]


# --- MVTec AD -----------------------------------------------------------------------------------


def test_mvtec_masks_stay_with_their_images(tmp_path):
    small_sets.make_category(tmp_path / "mvtec", "pill", size=(20, 30))
    data = load_dataset("mvtec", tmp_path)
    images, names = data.training_images("pill", 1, index=5)
    assert names == ["pill/train/good/004.png"]
    assert np.array_equal(images[0], small_sets.random_image(4, 20, 30)[:, 5:25])
    tested = data.test_set("pill", names)
    assert [entry.name for entry in tested.entries][:2] == [
        "pill/test/crack/000.png",
        "pill/test/crack/001.png",
    ]
    mask = np.zeros((20, 20), bool)
    mask[4:9, 1:4] = True  # columns 6 to 8 of the whole image
    assert np.array_equal(tested[1].mask, mask)
    assert np.array_equal(tested[1].image, small_sets.random_image(21, 20, 30)[:, 5:25])
    assert tested[6].mask is None
    assert Counter(entry.label for entry in tested.entries) == {0: 3, 1: 4}


def test_mvtec_says_where_to_get_it(tmp_path):
    data = load_dataset("mvtec", tmp_path)
    with pytest.raises(DatasetError, match=r"grid is not in .*mvtec\.com.*CC BY-NC-SA 4\.0"):
        data.training_images("grid", 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".tar.xz", ".tar.gz", ".tar", ".zip"])
@pytest.mark.parametrize("whole", [True, False])
def test_mvtec_is_unpacked_from_an_archive(tmp_path, suffix, whole):
    category = small_sets.make_category(tmp_path / "made" / "mvtec_anomaly_detection")
    if whole:
        small_sets.make_category(category.parent, "cable")
    folder = category.parent if whole else category
    small_sets.pack(folder, tmp_path / "data" / "mvtec" / f"{folder.name}{suffix}")
    data = load_dataset("mvtec", tmp_path / "data")
    images, names = data.training_images("bottle", 1)
    assert np.array_equal(images[0], small_sets.random_image(0))
    assert len(data.test_set("bottle", names)) == 7
    if whole:
        assert len(data.test_set("cable")) == 7
    assert not list((tmp_path / "data" / "mvtec").glob(".*"))
    # a second time it is only read
    for archive in (tmp_path / "data" / "mvtec").glob(f"*{suffix}"):
        archive.unlink()
    assert load_dataset("mvtec", tmp_path / "data").training_images("bottle", 1)[1] == names


def test_mvtec_archive_named_by_its_path(tmp_path):
    category = small_sets.make_category(tmp_path / "made")
    archive = small_sets.pack(category, tmp_path / "downloads" / "my.zip")
    data = load_dataset("mvtec", tmp_path / "data", archive=archive)
    assert len(data.test_set("bottle")) == 7
    with pytest.raises(DatasetError, match="carpet is not in"):
        data.test_set("carpet")
    with pytest.raises(DatasetError, match=r"no\.zip is not there"):
        load_dataset("mvtec", tmp_path / "other", archive=tmp_path / "no.zip").test_set("bottle")


# --- Paris --------------------------------------------------------------------------------------


@pytest.fixture
def paris(tmp_path):
    return small_sets.make_paris(tmp_path)


def test_paris_lists(paris):
    data = load_dataset("paris", paris)
    # lists: 3; then 1, 3; then 2. Each once, in this order, and for eiffel a general one.
    assert data.training_pool("louvre") == [f"paris_louvre_{i:06d}" for i in (3, 1, 2)]
    assert data.training_images("louvre", 1, index=2)[1] == ["paris_louvre_000001"]
    assert data.training_images("eiffel", 2, index=2)[1] == [
        "paris_eiffel_000002",
        "paris_general_000002",
    ]


def test_paris_tests_all_others(paris):
    data = load_dataset("paris", paris)
    _, names = data.training_images("louvre", 2)
    tested = data.test_set("louvre", names)
    # 11 landmarks of 4 and a listed general one, less the two that train
    assert len(tested) == 44 + 1 - 2
    labels = {entry.name: entry.label for entry in tested.entries}
    assert [name for name, label in labels.items() if label == 0] == ["paris_louvre_000002"]
    assert labels["paris_louvre_000004"] == 1  # no list has it
    assert labels["paris_general_000002"] == 1
    assert "paris_general_000001" not in labels
    kinds = {entry.name: entry.kind for entry in tested.entries}
    assert kinds["paris_louvre_000004"] == "louvre (unlisted)"
    assert kinds["paris_eiffel_000001"] == "eiffel"
    assert kinds["paris_general_000002"] == "general"
    names = [entry.name for entry in tested.entries]
    assert names == sorted(names)
    tested = data.test_set("eiffel")
    assert {e.name: e.label for e in tested.entries}["paris_general_000002"] == 0


def test_paris_does_not_test_what_trained_under_its_path(paris):
    data = load_dataset("paris", paris)
    name = data.training_pool("eiffel")[0]
    names = [entry.name for entry in data.test_set("eiffel", [str(data.files[name])]).entries]
    assert len(names) == len(data.files) - 1
    assert name not in names


def test_paris_leaves_out_the_corrupt(paris):
    assert sum(map(len, CORRUPT.values())) == 20
    for landmark, numbers in CORRUPT.items():
        for number in numbers:
            path = paris / "paris" / "jpg" / landmark / f"paris_{landmark}_{number:06d}.jpg"
            path.write_bytes(b"")
            with (paris / "paris" / "lab" / f"{landmark}_1_ok.txt").open("a") as file:
                file.write(f"{path.stem}\n")
    data = load_dataset("paris", paris)
    assert len(data.test_set("louvre")) == 45
    assert len(data.training_pool("pompidou")) == 3


def test_paris_thumbnails_are_cached_and_originals_untouched(paris):
    large = paris / "paris" / "jpg" / "louvre" / "paris_louvre_000003.jpg"
    gradient = np.linspace(0, 255, 900)[None, :, None] * np.ones((600, 1, 3))
    Image.fromarray(gradient.astype(np.uint8)).save(large, quality=95)
    tall = paris / "paris" / "jpg" / "louvre" / "paris_louvre_000001.jpg"
    Image.fromarray(gradient.astype(np.uint8).transpose(1, 0, 2)).save(tall, quality=95)
    originals = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in (paris / "paris").rglob("*.*")}
    data = load_dataset("paris", paris)
    images, _ = data.training_images("louvre", 3)
    assert [image.shape for image in images] == [(300, 450, 3), (450, 300, 3), (24, 32, 3)]
    assert np.abs(images[0][150, :, 0] - np.linspace(0, 255, 450)).max() < 4
    cache = paris / "paris" / "paris_450"
    assert sorted(p.name for p in cache.iterdir()) == [
        f"paris_louvre_{i:06d}.jpg" for i in (1, 2, 3)
    ]
    for path, (content, changed) in originals.items():
        assert (path.read_bytes(), path.stat().st_mtime_ns) == (content, changed)
    # from the cache: the same pixels, even when the original cannot be read
    small = Image.open(cache / large.name)
    small.save(cache / large.name, quality=1)
    changed = large.stat().st_mtime_ns
    os.utime(cache / large.name, ns=(changed, changed))
    second, _ = load_dataset("paris", paris).training_images("louvre", 3)
    assert np.array_equal(second[1], images[1])
    assert not np.array_equal(second[0], images[0])  # it was indeed read from there
    os.utime(large, ns=(changed + 10**9, changed + 10**9))  # a changed original is read again
    third, _ = load_dataset("paris", paris).training_images("louvre", 1)
    assert np.array_equal(third[0], images[0])


def test_paris_without_a_place_to_write(paris, tmp_path):
    cached, _ = load_dataset("paris", paris, cache=tmp_path / "c").training_images("triomphe", 2)
    (tmp_path / "blocked").write_text("a file, so that no folder can be made here")
    data = load_dataset("paris", paris, cache=tmp_path / "blocked" / "cache")
    images, _ = data.training_images("triomphe", 2)
    assert np.array_equal(images[0], cached[0])
    assert np.array_equal(images[1], cached[1])
    assert len(list((tmp_path / "c").iterdir())) == 2


def test_paris_missing_or_damaged(paris, tmp_path):
    with pytest.raises(DatasetError, match=r"Paris Buildings is not in .*robots\.ox\.ac\.uk"):
        load_dataset("paris", tmp_path / "nowhere")
    data = load_dataset("paris", paris)
    photograph = paris / "paris" / "jpg" / "louvre" / "paris_louvre_000003.jpg"
    photograph.write_bytes(photograph.read_bytes()[:900])
    with pytest.raises(DatasetError, match=r"paris_louvre_000003\.jpg is damaged"):
        data.training_images("louvre", 1)
    (paris / "paris" / "lab" / "defense_2_ok.txt").unlink()
    with pytest.raises(DatasetError, match=r"defense_2_ok\.txt is missing"):
        load_dataset("paris", paris)
    for i in range(1, 6):
        (paris / "paris" / "lab" / f"defense_{i}_ok.txt").write_text("")
    with pytest.raises(DatasetError, match="Class defense of paris has no images to train on"):
        load_dataset("paris", paris).training_images("defense", 1)
    shutil.rmtree(paris / "paris" / "jpg")
    with pytest.raises(DatasetError, match="photographs in jpg/"):
        load_dataset("paris", paris)
