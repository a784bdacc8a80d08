"""What holds for every data set, and the sets that come as arrays or as samples."""

from __future__ import annotations

import pickle
from collections import Counter
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from htdg.datasets import (
    Dataset,
    DatasetError,
    Entry,
    choose,
    dataset_names,
    equalise,
    load_dataset,
    register,
)
from htdg.datasets import base as registry
from htdg.datasets.cifar10 import Cifar10
from htdg.datasets.mnist import read_idx
from htdg.io.images import load_image
from tests import small_sets

LABELS = [*range(10), *range(10), *range(10)]
SUBSET_CLASSES = np.array(["airplane", "automobile", *Cifar10.classes[2:]])


def make_subset(path: Path, **changes: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    arrays = {
        "train_x": rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8),
        "train_y": np.repeat(np.arange(10), 2),
        "test_x": rng.integers(0, 256, (30, 32, 32, 3), dtype=np.uint8),
        "test_y": np.repeat(np.arange(10), 3),
        "classes": SUBSET_CLASSES,
    }
    np.savez(path, **arrays | changes)


def make(name: str, root: Path) -> tuple[Dataset, str | None]:
    """A small data set of each kind, and a class of it."""
    if name == "mnist":
        return load_dataset(name, small_sets.make_mnist(root, LABELS, LABELS)), "3"
    if name == "fashionmnist":
        small_sets.make_mnist(root, LABELS, LABELS, "FashionMNIST", packed=False)
        return load_dataset(name, root), "Sneaker"
    if name == "cifar10":
        return load_dataset(name, small_sets.make_cifar10(root)), "car"
    if name == "paris":
        return load_dataset(name, small_sets.make_paris(root)), "eiffel"
    if name == "mvtec":
        small_sets.make_category(root / "mvtec")
        return load_dataset(name, root), "bottle"
    if name == "folder":
        return load_dataset(name, small_sets.make_category(root)), None
    return load_dataset(name, root), {"digits": "3", "faces": None, "textures": "brick"}[name]


EVERY = ["mnist", "fashionmnist", "cifar10", "paris", "mvtec", "folder", "digits", "faces"]
EVERY.append("textures")


def test_all_are_registered():
    assert set(EVERY) <= set(dataset_names())


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("chosen", [{"index": 1}, {"index": 2}, {"seed": 5}])
def test_what_trains_never_tests(name, chosen, tmp_path):
    data, normal = make(name, tmp_path)
    images, names = data.training_images(normal, 1, **chosen)
    tested = data.test_set(normal, names)
    assert not set(names) & {entry.name for entry in tested.entries}
    trained = {image.tobytes() for image in images}
    assert not [sample.name for sample in tested if sample.image.tobytes() in trained]
    assert {entry.label for entry in tested.entries} == {0, 1}


@pytest.mark.parametrize("name", EVERY)
def test_every_set_keeps_to_the_interface(name, tmp_path):
    data, normal = make(name, tmp_path)
    images, names = data.training_images(normal, 2)
    assert len(images) == len(names) == len(set(names)) == 2
    assert names == list(data.training_pool(data.resolve_class(normal)))[:2]
    tested = data.test_set(normal, names)
    listed = [entry.name for entry in tested.entries]
    assert len(set(listed)) == len(listed) == len(tested)
    for image, sample in zip(images, islice(tested, 3), strict=False):
        assert load_image(image).shape[0] == load_image(sample.image).shape[0] == 3
        assert sample.mask is None or sample.mask.dtype == bool
    for entry, sample in zip(tested.entries, tested, strict=True):
        assert (entry.name, entry.kind, entry.label) == (sample.name, sample.kind, sample.label)
        assert sample.mask is None or (sample.label == 1 and sample.mask.any())
    if len({str(image.shape) for image in images}) == 1 and not data.colour:
        assert images[0].ndim == 2
    assert data.description
    # the same by number, and a second time
    by_number = data.training_images(data.classes.index(data.resolve_class(normal)), 2)
    assert np.array_equal(by_number[0][1], images[1])
    assert by_number[1] == names


@pytest.mark.parametrize("name", EVERY)
def test_mistakes_get_one_sentence(name, tmp_path):
    data, normal = make(name, tmp_path)
    count = len(data.training_pool(data.resolve_class(normal)))
    for wrong in ("nothing like it", -1, 99, "-1", 1.0, True, b"x"):
        with pytest.raises(DatasetError, match=f"{name} has no class") as caught:
            data.test_set(wrong)
        assert is_one_sentence(str(caught.value))
    for shots in (0, -1, count + 1, 1.5, True, "1", None):
        with pytest.raises(DatasetError, match="shots") as caught:
            data.training_images(normal, shots)
        assert is_one_sentence(str(caught.value))
    for index in (0, count + 1, 1.5):
        with pytest.raises(DatasetError, match="index") as caught:
            data.training_images(normal, 1, index=index)
        assert is_one_sentence(str(caught.value))
    for limit in (0, -3, 2.5):
        with pytest.raises(DatasetError, match="limit"):
            data.test_set(normal, limit=limit)
    with pytest.raises(DatasetError, match="index or by seed"):
        data.training_images(normal, 1, index=1, seed=1)


def is_one_sentence(text: str) -> bool:
    return text.endswith(".") and ". " not in text and "\n" not in text


# --- choosing -----------------------------------------------------------------------------------


def test_blocks_are_counted_from_one_in_file_order():
    pool = list("abcdefgh")
    assert choose(pool, 1) == ["a"]
    assert choose(pool, 1, index=3) == ["c"]
    assert choose(pool, 3) == ["a", "b", "c"]
    assert choose(pool, 3, index=2) == ["d", "e", "f"]
    assert choose(pool, 8) == pool
    with pytest.raises(DatasetError, match="no block 3 of 3: choose an index from 1 to 2"):
        choose(pool, 3, index=3)  # g and h alone are no block


def test_a_seed_takes_the_start_of_a_permutation():
    pool = list("abcdefgh")
    order = np.random.default_rng(7).permutation(8)
    assert choose(pool, 8, seed=7) == [pool[i] for i in order]
    assert choose(pool, 2, seed=7) == [pool[order[0]], pool[order[1]]]
    assert choose(pool, 2, seed=7) == choose(pool, 5, seed=7)[:2]
    # written down, so that a change of numpy's stream, and with it of every draw, would be noticed
    assert np.random.default_rng(0).permutation(5).tolist() == [2, 4, 3, 0, 1]
    assert choose(pool[:5], 3, seed=0) == ["c", "e", "d"]
    assert len({tuple(choose(pool, 2, seed=seed)) for seed in range(20)}) > 10


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint8])
def test_whole_numbers_of_numpy_are_whole_numbers(kind, tmp_path):
    pool = list("abcdefgh")
    assert choose(pool, kind(3), index=kind(2)) == ["d", "e", "f"]
    assert choose(pool, kind(2), seed=kind(7)) == choose(pool, 2, seed=7)
    data = load_dataset("mnist", small_sets.make_mnist(tmp_path, LABELS, LABELS))
    limited = data.test_set(kind(1), limit=kind(3), limit_per_kind=kind(1))
    assert limited.entries == data.test_set(1, limit=3, limit_per_kind=1).entries
    assert limited[kind(0)].name == limited[0].name
    with pytest.raises(DatasetError, match=r"shots is .*2\.0"):
        choose(pool, np.float64(2))


def test_a_class_without_images_is_named(tmp_path):
    labels = [i for i in LABELS if i != 4]
    data = load_dataset("mnist", small_sets.make_mnist(tmp_path, labels, labels))
    with pytest.raises(DatasetError, match="Class 4 of mnist has no images to train on"):
        data.training_images("4", 1)
    assert {entry.label for entry in data.test_set("4").entries} == {1}


# --- limits, laziness, the registry -------------------------------------------------------------


def test_limits(tmp_path):
    data = load_dataset("mnist", small_sets.make_mnist(tmp_path, LABELS, [1, 1, 0, 1, 0, 2, 1]))
    names = [f"test/{i:05d}" for i in range(7)]

    def names_within(**limits: int) -> list[str]:
        return [entry.name for entry in data.test_set("1", **limits).entries]

    assert names_within() == names
    assert names_within(limit=3) == names[:3]
    assert names_within(limit=100) == names
    assert names_within(limit_per_kind=1) == [names[0], names[2], names[5]]
    assert names_within(limit_per_kind=2) == [names[i] for i in (0, 1, 2, 4, 5)]
    assert names_within(limit_per_kind=2, limit=2) == names[:2]
    labels = [entry.label for entry in data.test_set("1").entries]
    assert labels == [0, 0, 1, 0, 1, 1, 0]


@pytest.fixture
def numbers():
    """A data set of one's own, as the package's text tells to write it."""
    before = dict(registry._REGISTRY)

    @register("numbers")
    class Numbers(Dataset):
        classes = ("even", "odd")

        def __init__(self, root: Path, top: int = 10_000) -> None:
            self.top = top
            self.read_names: list[str] = []

        def training_pool(self, normal_class: str) -> list[str]:
            return [str(i) for i in range(self.classes.index(normal_class), self.top, 2)]

        def test_entries(self, normal_class: str) -> list[Entry]:
            normal = self.classes.index(normal_class)
            return [Entry(str(i), self.classes[i % 2], i % 2 ^ normal) for i in range(self.top)]

        def read(self, name: str) -> np.ndarray:
            self.read_names.append(name)
            return np.full((4, 4), int(name) % 256, np.uint8)

    yield
    registry._REGISTRY.clear()
    registry._REGISTRY.update(before)


def test_a_data_set_of_ones_own(numbers):
    data = load_dataset("numbers", top=7)
    assert data.name == "numbers"
    images, names = data.training_images("odd", 2)
    assert names == ["1", "3"]
    assert images[1][0, 0] == 3
    tested = data.test_set("odd", names)
    assert [(e.name, e.label) for e in tested.entries] == [
        ("0", 1), ("2", 1), ("4", 1), ("5", 0), ("6", 1)
    ]  # fmt: skip
    with pytest.raises(DatasetError, match="no option 'bottom': its options are top"):
        load_dataset("numbers", bottom=3)
    with pytest.raises(DatasetError, match="no data set 'letters': choose from cifar10"):
        load_dataset("letters")


def test_images_are_read_one_at_a_time(numbers):
    data = load_dataset("numbers")
    tested = data.test_set("even")
    assert len(tested) == 10_000
    assert data.read_names == []
    samples = iter(tested)
    assert [next(samples).name for _ in range(3)] == ["0", "1", "2"]
    assert data.read_names == ["0", "1", "2"]
    assert tested[-1].name == "9999"
    assert [sample.name for sample in tested[5:7]] == ["5", "6"]
    assert data.read_names == ["0", "1", "2", "9999", "5", "6"]


# --- MNIST, FashionMNIST ------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_values(tmp_path, packed):
    data = load_dataset("mnist", small_sets.make_mnist(tmp_path, LABELS, [7, 3], packed=packed))
    rng = np.random.default_rng(0)  # as small_sets draws them
    train = rng.integers(0, 256, (30, 28, 28), dtype=np.uint8)
    test = rng.integers(0, 256, (2, 28, 28), dtype=np.uint8)
    images, names = data.training_images(3, 2, index=1)
    assert names == ["train/00003", "train/00013"]
    assert np.array_equal(images[0], train[3])
    assert np.array_equal(images[1], train[13])
    assert data.training_images(3, 1, index=3)[1] == ["train/00023"]
    seven, three = data.test_set("3")
    assert (seven.label, seven.kind, seven.name) == (1, "7", "test/00000")
    assert (three.label, three.mask) == (0, None)
    assert np.array_equal(three.image, test[1])


def test_nothing_is_written_beside_mnist(tmp_path):
    small_sets.make_mnist(tmp_path, LABELS, LABELS)
    before = sorted(tmp_path.rglob("*"))
    raw = tmp_path / "MNIST" / "raw"
    raw.chmod(0o555)
    data = load_dataset("mnist", tmp_path)
    assert len(data.test_set(1)) == 30
    raw.chmod(0o755)
    assert sorted(tmp_path.rglob("*")) == before


def test_fashion_classes_by_any_spelling(tmp_path):
    data, _ = make("fashionmnist", tmp_path)
    for spelling in ("Ankle boot", "ankle-boot", "ANKLEBOOT", 9, "9", np.int64(9)):
        assert data.resolve_class(spelling) == "Ankle boot"
    assert data.resolve_class("t-shirt") == data.resolve_class(0) == "T-shirt/top"


DAMAGE = {
    "cut short": lambda content: content[:-1],
    "too long": lambda content: content + b"x",
    "no header": lambda content: content[:3],
    "other type": lambda content: b"\0\0\x0d" + content[3:],
    "empty": lambda content: b"",
    "huge": lambda content: content[:4] + b"\xff" * 12 + content[16:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_mnist_files(tmp_path, damage):
    good = small_sets.idx_bytes(np.zeros((2, 3, 4), np.uint8))
    path = tmp_path / "images"
    path.write_bytes(good)
    assert read_idx(path).shape == (2, 3, 4)
    path.write_bytes(DAMAGE[damage](good))
    with pytest.raises(DatasetError, match="damaged or of another format") as caught:
        read_idx(path)
    assert is_one_sentence(str(caught.value))


def test_a_packed_file_cut_short_and_mixed_files(tmp_path):
    small_sets.make_mnist(tmp_path, LABELS, LABELS)
    raw = tmp_path / "MNIST" / "raw"
    data = load_dataset("mnist", tmp_path)
    labels = raw / "train-labels-idx1-ubyte.gz"
    images = raw / "train-images-idx3-ubyte.gz"
    content = images.read_bytes()
    images.write_bytes(content[: len(content) // 2])
    with pytest.raises(DatasetError, match="cannot be read"):
        data.training_images(1, 1)
    images.write_bytes(b"<html>not found</html>")
    with pytest.raises(DatasetError, match="cannot be read"):
        data.training_images(1, 1)
    images.write_bytes(labels.read_bytes())
    with pytest.raises(DatasetError, match="mixed up"):
        data.training_images(1, 1)
    other = small_sets.mnist_files(LABELS[:-1], LABELS)
    images.write_bytes(other["train-images-idx3-ubyte.gz"])
    with pytest.raises(DatasetError, match="do not fit their labels"):
        data.training_images(1, 1)


# --- CIFAR10 ------------------------------------------------------------------------------------


def test_cifar10_values(tmp_path):
    data = load_dataset("cifar10", small_sets.make_cifar10(tmp_path))
    images, names = data.training_images("automobile", 2, index=2)
    assert names == ["train/00021", "train/00031"]
    record = small_sets.cifar_records(list(range(10)), 3)[1]  # the third batch's car
    assert record[0] == 1
    assert images[0].shape == (32, 32, 3)
    for channel, y, x in ((0, 0, 0), (1, 0, 5), (2, 31, 7)):
        assert images[0][y, x, channel] == record[1 + channel * 1024 + y * 32 + x]
    assert Counter(entry.kind for entry in data.test_set("car").entries)["car"] == 2
    assert [e.name for e in data.test_set("car").entries if e.label == 0] == [
        "test/00001",
        "test/00011",
    ]
    assert "part" not in data.description


def test_cifar10_subset_is_used_when_there_is_no_full_set(tmp_path):
    make_subset(tmp_path / "cifar10_subset.npz")
    data = load_dataset("cifar10", tmp_path)
    assert "part of CIFAR10" in data.description
    assert data.training_images("plane", 2)[1] == ["train/00000", "train/00001"]
    with np.load(tmp_path / "cifar10_subset.npz") as arrays:
        assert np.array_equal(data.test_set("truck")[29].image, arrays["test_x"][29])
    small_sets.make_cifar10(tmp_path)
    assert "part" not in load_dataset("cifar10", tmp_path).description


@pytest.mark.parametrize(
    "changes",
    [
        {"train_x": np.zeros((20, 3, 32, 32), np.uint8)},
        {"train_x": np.zeros((20, 32, 32, 3))},
        {"train_x": np.zeros((19, 32, 32, 3), np.uint8)},
        {"train_y": np.full(20, 10)},
        {"classes": SUBSET_CLASSES[::-1]},
        {"classes": np.array(["cow"] * 10)},
        {"classes": np.array([print] * 10)},  # pickled, so it must not be read
    ],
)
def test_other_arrays_are_refused(tmp_path, changes):
    make_subset(tmp_path / "cifar10_subset.npz", **changes)
    with pytest.raises(DatasetError) as caught:
        load_dataset("cifar10", tmp_path).training_images(0, 1)
    assert is_one_sentence(str(caught.value))


def test_damaged_cifar10(tmp_path):
    (tmp_path / "cifar10_subset.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(DatasetError, match=r"cifar10_subset\.npz cannot be read"):
        load_dataset("cifar10", tmp_path).training_images(0, 1)
    folder = small_sets.make_cifar10(tmp_path) / "cifar-10-batches-bin"
    (folder / "data_batch_2.bin").write_bytes(b"\0" * 3072)
    with pytest.raises(DatasetError, match=r"data_batch_2\.bin is damaged"):
        load_dataset("cifar10", tmp_path).training_images(0, 1)
    (folder / "data_batch_2.bin").unlink()
    with pytest.raises(DatasetError, match=r"data_batch_2\.bin is not there"):
        load_dataset("cifar10", tmp_path).training_images(0, 1)
    assert len(load_dataset("cifar10", tmp_path).test_set(0)) == 20


class _Bomb:
    def __reduce__(self):
        return (Path.touch, (Path(_Bomb.path),))


def test_pickled_batches_run_only_if_they_are_the_publishers(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    _Bomb.path = str(tmp_path / "exploded")
    names = [name for name, _ in CIFAR10.train_list + CIFAR10.test_list]
    for name in [*names, "batches.meta"]:
        (folder / name).write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(DatasetError, match="not the publisher's"):
        load_dataset("cifar10", tmp_path).training_images(0, 1)
    assert not (tmp_path / "exploded").exists()

    # with the right checksums they are read
    from torchvision.datasets.utils import calculate_md5

    def write(name: str, content: dict) -> tuple[str, str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return name, calculate_md5(folder / name)

    batches = []
    for i, name in enumerate(names):
        records = small_sets.cifar_records(list(range(10)), i)
        batches.append(write(name, {"data": records[:, 1:], "labels": records[:, 0].tolist()}))
    meta = write("batches.meta", {"label_names": list(SUBSET_CLASSES)})
    monkeypatch.setattr(CIFAR10, "train_list", batches[:5])
    monkeypatch.setattr(CIFAR10, "test_list", batches[5:])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "filename": meta[0], "md5": meta[1]})
    images, chosen = load_dataset("cifar10", tmp_path).training_images("bird", 1, index=4)
    assert chosen == ["train/00032"]
    record = small_sets.cifar_records(list(range(10)), 3)[2]
    assert np.array_equal(images[0], record[1:].reshape(3, 32, 32).transpose(1, 2, 0))


# --- sample sets --------------------------------------------------------------------------------


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    digits = load_digits()
    data = load_dataset("digits")
    third = np.flatnonzero(digits.target == 6)[2]
    images, names = data.training_images(6, 1, index=3)
    assert names == [f"{third:04d}"]
    assert np.allclose(images[0] / 255, digits.images[third] / 16, atol=1 / 255)
    tested = data.test_set(6, names)
    assert len(tested) == len(digits.target) - 1
    normal = [int(entry.name) for entry in tested.entries if entry.label == 0]
    assert normal == [i for i in np.flatnonzero(digits.target == 6) if i != third]
    fresh = load_dataset("digits").read("0042")
    assert np.allclose(fresh / 255, digits.images[42] / 16, atol=1 / 255)


def test_faces():
    data = load_dataset("faces")
    _, names = data.training_images(None, 100)
    assert names == [f"{i:04d}" for i in range(100)]
    _, names = data.training_images("face", 10, index=2)
    assert names == [f"{i:04d}" for i in range(10, 20)]
    labels = [entry.label for entry in data.test_set(None, names).entries]
    assert labels == [0] * 90 + [1] * 100


def test_textures_are_those_of_the_repository():
    data = load_dataset("textures")
    images, names = data.training_images("gravel", 2, index=2)
    assert names == ["gravel/train/good/002", "gravel/train/good/003"]
    shipped = Path(__file__).parents[1] / "data" / "textures"
    for image, name in zip(images, names, strict=True):
        assert torch.equal(load_image(image), load_image(shipped / f"{name}.png"))
    tested = data.test_set("gravel", names)
    assert Counter(e.kind for e in tested.entries) == {
        "good": 20, "scratch": 8, "hole": 8, "stain": 8, "patch": 8
    }  # fmt: skip
    for sample in (tested[0], tested[25]):
        assert torch.equal(load_image(sample.image), load_image(shipped / f"{sample.name}.png"))
    mask = load_image(shipped / f"{tested[25].name.replace('test', 'ground_truth')}_mask.png")
    assert np.array_equal(tested[25].mask, mask[0].numpy() > 0)
    assert tested[0].mask is None
    assert len(load_dataset("textures", train=12, good=1, per_defect=2).test_set("brick")) == 9


# --- equalisation -------------------------------------------------------------------------------


def test_equalising_changes_the_value_channel_only():
    image = small_sets.random_image(4, 64, 48)
    result = equalise(image)
    expected = cv2.createCLAHE(2.0, (8, 8)).apply(image.max(-1))
    assert np.array_equal(result.max(-1), expected)
    strong = (image.max(-1) > 80) & (expected > 80) & (image.max(-1) - image.min(-1) > 40)
    before, after = (
        cv2.cvtColor(i, cv2.COLOR_RGB2HSV)[strong].astype(int) for i in (image, result)
    )
    turn = np.abs(before[:, 0] - after[:, 0])  # hue in half degrees, a circle of 180
    assert np.minimum(turn, 180 - turn).max() <= 3
    assert np.abs(before[:, 1] - after[:, 1]).max() <= 6


def test_equalising_grey_stays_grey():
    # tiles large enough, and greys few enough, for the clip limit to bite
    image = np.random.default_rng(0).integers(90, 120, (160, 160), dtype=np.uint8)
    result = equalise(image)
    expected = cv2.createCLAHE(2.0, (8, 8)).apply(image)
    for channel in range(3):
        assert np.array_equal(result[..., channel], expected)
    assert result.std() > 1.5 * image.std()


def test_equalising_after_resizing():
    from PIL import Image

    image = small_sets.random_image(4, 20, 32)
    square = Image.fromarray(image).resize((48, 48), Image.Resampling.BICUBIC)
    assert np.array_equal(equalise(image, 48), equalise(square))
    assert np.array_equal(equalise(image / 255), equalise(image))
