"""Images, data sets, archives and official models that are damaged or made to harm.

They are read, or refused in one sentence; no code of theirs is run, and nothing is written outside
the folder that they are unpacked into.
"""

import contextlib
import gzip
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from htdg.datasets.archive import unpack
from htdg.datasets.base import Dataset
from htdg.datasets.cifar10 import Cifar10
from htdg.datasets.folder import Folder
from htdg.datasets.mnist import Mnist, read_idx
from htdg.datasets.mvtec import Mvtec
from htdg.datasets.paris import Paris
from htdg.images import list_images, load_image
from htdg.io.official import import_official
from tests.attack.profile import (
    EDITS,
    HOSTILE,
    accepted_or_refused,
    edited,
    places,
    replace_at,
    tries,
)
from tests.small_sets import (
    LANDMARKS,
    idx_bytes,
    make_category,
    make_cifar10,
    make_mnist,
    make_paris,
)
from tests.test_official import ROWS, SIZE, Official

pytestmark = pytest.mark.filterwarnings("ignore")


@contextmanager
def temporary() -> Iterator[Path]:
    """A folder with nothing in it."""
    with tempfile.TemporaryDirectory(prefix="htdg-attack-") as name:
        yield Path(name)


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


# --- Images -------------------------------------------------------------------------------------

PIXELS = np.random.default_rng(5).integers(0, 256, (12, 17, 3), dtype=np.uint8)


def image_files() -> dict[str, bytes]:
    """A small file of every kind that is read, by a name for it."""
    colour = Image.fromarray(PIXELS)
    grey, palette = colour.convert("L"), colour.quantize(8)
    deep = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
    floats = Image.fromarray(PIXELS[..., 0].astype(np.float32) / 255)
    alpha = colour.copy()
    alpha.putalpha(grey)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "seen"
    kinds = {
        "png": (colour, "PNG", {"exif": exif}),
        "png-palette": (palette, "PNG", {"transparency": 3}),
        "png-deep": (deep, "PNG", {}),
        "png-alpha": (alpha, "PNG", {"dpi": (72, 72), "icc_profile": b"x" * 130}),
        "apng": (colour, "PNG", {"save_all": True, "append_images": [colour.rotate(90)]}),
        "jpeg": (colour, "JPEG", {"exif": exif}),
        "jpeg-progressive": (colour, "JPEG", {"progressive": True}),
        "jpeg-cmyk": (colour.convert("CMYK"), "JPEG", {}),
        "mpo": (colour, "MPO", {"save_all": True, "append_images": [colour]}),
        "tiff": (colour, "TIFF", {"exif": exif}),
        "tiff-lzw": (colour, "TIFF", {"compression": "tiff_lzw"}),
        "tiff-deflate": (deep, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "tiff-floats": (floats, "TIFF", {}),
        "tiff-pages": (grey, "TIFF", {"save_all": True, "append_images": [grey]}),
        "bmp": (colour, "BMP", {}),
        "bmp-palette": (palette, "BMP", {}),
        "gif": (palette, "GIF", {"transparency": 2}),
        "gif-frames": (colour, "GIF", {"save_all": True, "append_images": [colour.rotate(90)]}),
        "webp": (colour, "WEBP", {"lossless": True, "exif": exif}),
        "webp-alpha": (alpha, "WEBP", {}),
        "ppm": (colour, "PPM", {}),
        "pgm-deep": (deep, "PPM", {}),
        "jp2": (colour, "JPEG2000", {}),
    }
    if features.check("avif"):
        kinds["avif"] = (colour, "AVIF", {})
    files = {}
    for name, (image, kind, options) in kinds.items():
        packed = io.BytesIO()
        image.save(packed, kind, **options)
        files[name] = packed.getvalue()
    files["ppm-plain"] = b"P3\n3 2\n255\n" + b"1 2 3 " * 6
    files["pfm"] = b"Pf\n3 2\n-1.0\n" + np.linspace(0, 1, 6, dtype="<f4").tobytes()
    return files


IMAGES = image_files()


def check_image(content: bytes) -> None:
    """The image is read or refused, in every way of giving it."""
    with temporary() as folder:
        path = folder / "image.png"
        path.write_bytes(content)
        for image in (path, io.BytesIO(content)):
            with accepted_or_refused():
                tensor = load_image(image)
                assert tensor.dtype == torch.float32
                assert tensor.ndim == 3
                assert tensor.shape[0] == 3
                assert tensor.numel() > 0
                assert tensor.abs().max() <= 1
        with accepted_or_refused():
            images, others = list_images(folder)
            assert [*images, *others] == [path]
        try:  # as a program that gives htdg an image of PIL's
            opened = Image.open(io.BytesIO(content))
        except Exception:
            return
        with opened, accepted_or_refused():
            load_image(opened)


def test_the_images_that_are_changed_are_good_ones():
    for name, content in IMAGES.items():
        tensor = load_image(io.BytesIO(content), name)
        assert tensor.isfinite().all()
        check_image(content)


@tries(300)
@given(kind=st.sampled_from(sorted(IMAGES)), edits=EDITS, begin=st.booleans())
def test_bytes_of_an_image_are_changed(kind, edits, begin):
    check_image(edited(IMAGES[kind], edits, 120 if begin else None))


@tries(100)
@given(
    first=st.sampled_from(sorted(IMAGES)), other=st.sampled_from(sorted(IMAGES)), at=st.floats(0, 1)
)
def test_two_images_in_one_file(first, other, at):
    one, two = IMAGES[first], IMAGES[other]
    check_image(one[: int(at * len(one))] + two[int(at * len(two)) :])


# --- MNIST --------------------------------------------------------------------------------------


def check_set(make, normal_class: str) -> None:
    """The data set that ``make`` gives is used in full, or refused."""
    with accepted_or_refused(10):
        dataset = make()
        assert isinstance(dataset, Dataset)
        images, names = dataset.training_images(normal_class, 1)
        load_image(images[0])
        test = dataset.test_set(normal_class, names)
        for sample in test:
            load_image(sample.image)
            assert sample.label in (0, 1, None)
            assert sample.mask is None or sample.mask.dtype == bool


@st.composite
def idx_files(draw):
    """A header that promises something, and some bytes."""
    sizes = draw(
        st.lists(
            st.sampled_from([0, 1, 2, 28, 255, 2**16, 2**31, 2**32 - 1]) | st.integers(0, 30),
            max_size=4,
        )
        | st.just([1] * 70)
        | st.just([0, *[2**32 - 1] * 3])
    )
    header = bytes([0, 0, draw(st.sampled_from([8, 8, 8, 9, 0])), len(sizes)])
    header += b"".join(size.to_bytes(4, "big") for size in sizes)
    product = int(np.prod([float(size) for size in sizes]))
    count = product if product < 10**5 and draw(st.booleans()) else draw(st.integers(0, 200))
    return header + bytes(count)


MNIST_LABELS = [3, 1, 3, 5, 0]


@tries(60)
@given(
    file=st.sampled_from(["train-images", "train-labels", "t10k-images", "t10k-labels"]),
    packed=st.booleans(),
    edits=EDITS,
    whole=st.none() | idx_files(),
    repack=st.booleans(),
)
def test_files_of_mnist_are_changed(file, packed, edits, whole, repack):
    with temporary() as root:
        make_mnist(root, MNIST_LABELS, MNIST_LABELS, packed=packed)
        path = next((root / "MNIST" / "raw").glob(f"{file}-*"))
        content = path.read_bytes()
        if packed and (repack or whole is not None):
            content = gzip.compress(whole or edited(gzip.decompress(content), edits, 30))
        else:
            content = whole or edited(content, edits)
        path.write_bytes(content)
        check_set(lambda: Mnist(root), "3")


# --- CIFAR10 ------------------------------------------------------------------------------------


@tries(30)
@given(
    file=st.sampled_from(["data_batch_1.bin", "data_batch_4.bin", "test_batch.bin"]), edits=EDITS
)
def test_binary_files_of_cifar10_are_changed(file, edits):
    with temporary() as root:
        path = make_cifar10(root) / "cifar-10-batches-bin" / file
        path.write_bytes(edited(path.read_bytes(), edits))
        check_set(lambda: Cifar10(root), "cat")


def subset_arrays() -> dict[str, np.ndarray]:
    labels = np.array([3, 1, 3, 5])
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    parts = {"train_x": pixels, "train_y": labels, "test_x": pixels, "test_y": labels}
    return {**parts, "classes": np.array(Cifar10.classes)}


ARRAYS = st.sampled_from(
    [
        np.array(3),
        np.array([3, 1, 3, 5]),
        np.array([[3], [1], [3], [5]]),
        np.array([3.0, 1.0, 3.0, 5.0]),
        np.array([3, 1, 3, np.nan]),
        np.array([True, False, True, True]),
        np.array(["3", "1", "3", "5"]),
        np.array([3, 1, 3, 5], dtype="c16"),
        np.array([3, 1, 3, 5], dtype=">i8"),
        np.array([3, 1, 3, 5], dtype="M8[s]"),
        np.zeros(4, dtype=[("a", "i4")]),
        np.zeros((4, 32, 32, 3), np.float32),
        np.zeros((0, 32, 32, 3), np.uint8),
        np.zeros(0, np.int64),
        np.array(Cifar10.classes[::-1]),
        np.array([b"plane"] * 10),
        np.array(["plane"] * 10),
        np.array([]),
        np.array("plane"),
        np.array([None, 1], dtype=object),
    ]
)


@tries(60)
@given(
    name=st.sampled_from(sorted(subset_arrays())),
    array=ARRAYS,
    edits=st.none() | EDITS,
    packed=st.booleans(),
    also=st.none() | ARRAYS,
)
def test_the_small_file_of_cifar10_is_changed(name, array, edits, packed, also):
    with temporary() as root:
        path = root / "cifar10_subset.npz"
        changed = subset_arrays() | {name: array}
        if also is not None:
            changed |= {"train_y": also, "test_y": also}
        (np.savez_compressed if packed else np.savez)(path, **changed)
        if edits is not None:
            np.savez(path, **subset_arrays())
            path.write_bytes(edited(path.read_bytes(), edits, 200))
        check_set(lambda: Cifar10(root), "cat")


def test_files_of_cifar10_that_would_run_code_do_not():
    with temporary() as root:
        batches = root / "cifar-10-batches-py"
        batches.mkdir()
        for name in ["batches.meta", "test_batch", *(f"data_batch_{i}" for i in range(1, 6))]:
            (batches / name).write_bytes(pickle.dumps(Touch(root / "ran")))
        with accepted_or_refused() as refusals:
            Cifar10(root).training_images("cat", 1)
        assert "is incomplete or not the publisher's" in str(refusals[0])
        shutil.rmtree(batches)
        np.savez(root / "cifar10_subset.npz", train_x=np.array([Touch(root / "ran")]))
        with accepted_or_refused() as refusals:
            Cifar10(root).training_images("cat", 1)
        assert "cannot be read" in str(refusals[0])
        assert not (root / "ran").exists()


# --- Folders ------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    [
        "train",
        "test",
        "good",
        "GOOD",
        "ground_truth",
        "crack",
        "000.png",
        "000_mask.png",
        "001.png",
        "a b.png",
        "-x.png",
        "a\nb.png",
        "\udcff.png",
        ".hidden.png",
        "ä.png",
        "x" * 250 + ".png",
        "mask.tif",
        "no_ending",
        "%s{0}.png",
    ]
)
THINGS = st.sampled_from(
    ["image", "image", "image", "large", "mask", "deep", "float", "alpha", "text", "empty"]
) | st.sampled_from(["half", "folder", "circle", "broken", "pipe", "link"])
TREES = st.lists(st.tuples(st.lists(NAMES, min_size=1, max_size=4), THINGS), max_size=4)


def plant(root: Path, names: list[str], thing: str) -> None:
    """Put something into a folder, instead of what is there if need be."""
    path = root.joinpath(*names)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and not path.is_symlink():
            if thing in ("folder", "image"):
                return
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        packed = io.BytesIO()
        shape = (40, 20) if thing == "large" else (30, 30)
        values = np.random.default_rng(len(names)).integers(0, 256, shape, dtype=np.uint8)
        image = Image.fromarray(values)
        if thing == "deep":
            image = Image.fromarray(values.astype(np.uint16) * 3)
        elif thing == "float":
            image = Image.fromarray(values.astype(np.float32) - 4)
        elif thing == "alpha":
            image = Image.fromarray(np.stack([values] * 4, -1))
        elif thing == "mask":
            image = Image.fromarray((values > 200).astype(np.uint8) * 255)
        image.save(packed, "TIFF" if thing == "float" else "PNG")
        if thing == "folder":
            path.mkdir()
        elif thing == "circle":
            path.symlink_to(root)
        elif thing == "broken":
            path.symlink_to(root / "nowhere.png")
        elif thing == "link":
            path.symlink_to(next(root.rglob("*.*g")))
        elif thing == "pipe":
            os.mkfifo(path)
        else:
            content = {"text": b"no image", "empty": b"", "half": packed.getvalue()[:70]}
            path.write_bytes(content.get(thing, packed.getvalue()))


@pytest.fixture(scope="module")
def category(tmp_path_factory):
    return make_category(tmp_path_factory.mktemp("mvtec"), "bottle")


@tries(40)
@given(tree=TREES, kind=st.sampled_from(["folder", "mvtec", "strict"]))
def test_things_are_put_into_a_folder_of_images(category, tree, kind):
    with temporary() as root:
        shutil.copytree(category, root / "bottle")
        for names, thing in tree:
            plant(root / "bottle", names, thing)
        if kind == "mvtec":
            check_set(lambda: Mvtec(root), "bottle")
        else:
            check_set(lambda: Folder(root / "bottle", strict=kind == "strict"), "good")


@pytest.fixture(scope="module")
def paris(tmp_path_factory):
    return make_paris(tmp_path_factory.mktemp("paris"), per_landmark=2)


PARIS_NAMES = st.sampled_from(
    [
        ["jpg", "eiffel", "paris_eiffel_000001.jpg"],
        ["jpg", "eiffel", "paris_eiffel_000009.jpg"],
        ["jpg", "paris__.jpg"],
        ["jpg", "paris_a_b_c.jpg"],
        ["jpg", "general", "paris_general_000002.jpg"],
        ["jpg", "eiffel"],
        ["lab", "eiffel_1_ok.txt"],
        ["lab", "defense_4_ok.txt"],
        ["paris_450"],
        ["paris_450", "paris_eiffel_000001.jpg"],
        ["jpg"],
        ["lab"],
    ]
)
LISTED = st.sampled_from(
    [
        b"../../x",
        b"/etc/passwd",
        b"paris_eiffel_000001.jpg",
        b"paris_general_000001",
        b"\xff\xfe",
        b"\0",
        b"x" * 5000,
        b"",
    ]
)


@tries(20)
@given(
    tree=st.lists(st.tuples(PARIS_NAMES, THINGS), max_size=3),
    lines=st.lists(LISTED, max_size=3),
)
def test_things_are_put_into_paris(paris, tree, lines):
    with temporary() as outside:
        root = outside / "root"
        shutil.copytree(paris, root)
        if lines:
            (root / "paris" / "lab" / "eiffel_2_ok.txt").write_bytes(b"\n".join(lines))
        for names, thing in tree:
            plant(root / "paris", names, thing)
        check_set(lambda: Paris(root), "eiffel")
        assert [path.name for path in outside.iterdir()] == ["root"]


# --- Archives -----------------------------------------------------------------------------------

MEMBER_NAMES = st.sampled_from(
    [
        "a.png",
        "a",
        "a/b",
        "a/b/c.png",
        "./a.png",
        "a//b",
        ".",
        "",
        "/",
        "/etc/htdg-attack",
        "../outside",
        "a/../../outside",
        "a/..",
        "..",
        "C:\\x",
        "a\\b",
        "C:x",
        "x" * 300,
        "d/" * 300 + "x",
        "\udcff",
        "ä",
        "a\nb",
        ".unpack-x",
        "a.png/",
        "~/x",
        "con",
    ]
)
MEMBERS = st.lists(
    st.tuples(
        MEMBER_NAMES,
        st.sampled_from(["file", "file", "file", "folder", "link", "hard", "pipe", "device"])
        | st.sampled_from(["sparse", "huge", "negative", "packed", "locked"]),
        st.binary(max_size=40),
    ),
    max_size=4,
)


def tar_bytes(members, mode: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=f"w:{mode}", format=tarfile.GNU_FORMAT) as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            types = {"folder": tarfile.DIRTYPE, "link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE}
            types |= {"pipe": tarfile.FIFOTYPE, "device": tarfile.CHRTYPE}
            types |= {"sparse": tarfile.GNUTYPE_SPARSE, "locked": b"7"}
            info.type = types.get(kind, tarfile.REGTYPE)
            info.linkname = "/etc/passwd" if kind in ("link", "hard") else ""
            info.size = len(content) if info.isreg() else 0
            if kind in ("huge", "negative"):
                info.size = 2**40 if kind == "huge" else -(2**20)
                tar.addfile(info)
            else:
                tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def zip_bytes(members) -> bytes:
    packed = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(packed, "w") as opened:
        warnings.simplefilter("ignore")  # of names that come twice
        for name, kind, content in members:
            info = zipfile.ZipInfo(name.encode("utf-8", "replace").decode() or "x")
            modes = {"link": 0o120777, "folder": 0o040755, "pipe": 0o010644, "device": 0o020644}
            info.external_attr = modes.get(kind, 0o100644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED if kind == "packed" else zipfile.ZIP_STORED
            if kind == "folder":
                info.filename = info.filename.rstrip("/") + "/"
            opened.writestr(info, content)
            info.flag_bits |= kind == "locked"
            info.file_size = 2**31 if kind == "huge" else info.file_size
    return packed.getvalue()


def everything_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@tries(60)
@given(
    kind=st.sampled_from(["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"]),
    members=MEMBERS,
    edits=st.none() | EDITS,
    begin=st.booleans(),
)
def test_archives_write_nothing_outside_their_folder(kind, members, edits, begin):
    try:
        content = zip_bytes(members) if kind == "zip" else tar_bytes(members, kind[4:])
    except (ValueError, OSError, struct.error):  # such an archive cannot be made in this way
        return
    if edits is not None:
        content = edited(content, edits, 600 if begin else None)
    with temporary() as outside:
        archive = outside / f"archive.{kind}"
        archive.write_bytes(content)
        into = outside / "into"
        with accepted_or_refused(10) as refusals:
            unpack(archive, into)
        assert {path.name for path in outside.iterdir()} == {archive.name, "into"}
        if refusals:
            assert everything_below(into) == set()
        for path in into.rglob("*"):
            assert not path.is_symlink()
            assert path.is_file() or path.is_dir()
        assert not Path("/etc/htdg-attack").exists()


# --- Models of the official code ----------------------------------------------------------------


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A model of the official code with files of every kind."""
    folder = tmp_path_factory.mktemp("official")
    Official(2).write(folder)
    return folder


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyTorch will drop them one day
    QUANTISED = torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.quint8)

TENSORS = st.sampled_from(
    [
        torch.tensor(1.0),
        torch.tensor(float("nan")),
        torch.tensor([]),
        torch.zeros(2, 3),
        torch.zeros(1, 3, 24, 24),
        torch.ones(1, 3, 24, 24),
        torch.zeros(1, 3, 24, 24, dtype=torch.float64),
        torch.zeros(1, 3, 24, 24, dtype=torch.complex64),
        torch.zeros(1, 3, 24, 24, dtype=torch.int8),
        torch.zeros(1, 1, 24, 24).expand(1, 3, 24, 24),
        torch.zeros(1).expand(1, 3, 60_000, 60_000),
        torch.zeros(1).expand(2**40),
        torch.zeros(4, 4).to_sparse(),
        torch.zeros(1, 3, 24, 24).to_sparse(),
        torch.zeros(4, 4, device="meta"),
        QUANTISED,
        torch.tensor([1e300], dtype=torch.float64),
        torch.tensor([True]),
        torch.nn.Parameter(torch.ones(3)),
    ]
)


def parts_of(content: object, at: tuple = ()) -> Iterator[tuple]:
    """The places inside what a file of PyTorch's holds."""
    inside = content.items() if isinstance(content, dict) else ()
    if isinstance(content, list):
        inside = enumerate(content)
    for key, value in inside:
        yield (*at, key)
        yield from parts_of(value, (*at, key))


@tries(35)
@given(data=st.data())
def test_files_of_an_official_model_are_changed(official, data):
    with temporary() as folder:
        shutil.copytree(official, folder / "model")
        files = sorted(path for path in (folder / "model").rglob("*") if path.is_file())
        path = data.draw(st.sampled_from(files), "file")
        way = data.draw(st.sampled_from(["bytes", "value", "value", "value", "whole"]), "way")
        if path.suffix == ".npy":
            arrays = [np.array(ROWS, float), np.array(ROWS)[0], np.array(ROWS)[None], np.array(3)]
            arrays += [np.array(ROWS, "U1"), np.array(ROWS) == 1, np.array([[0, 0, 0, 0, 2**62]])]
            arrays += [np.array(ROWS, complex), np.zeros((5, 0)), np.array(ROWS, "M8[D]")]
            np.save(path, data.draw(st.sampled_from(arrays), "array"))
        elif path.name != "Gs.pth" and way != "bytes":
            value = data.draw(TENSORS | HOSTILE, "value")
            content = torch.load(path, weights_only=True)
            paths = list(parts_of(content))
            if way == "whole" or not paths:
                content = value
            else:
                place = data.draw(st.sampled_from(paths), "place")
                inside = content
                for key in place[:-1]:
                    inside = inside[key]
                if data.draw(st.booleans(), "delete"):
                    del inside[place[-1]]
                else:
                    inside[place[-1]] = value
            torch.save(content, path)
        if way == "bytes":
            path.write_bytes(edited(path.read_bytes(), data.draw(EDITS, "edits")))
        check_official(folder)


def check_official(folder: Path) -> None:
    """The model is imported, saved, loaded and scores; or it is refused."""
    from htdg import HTDGDetector

    with accepted_or_refused(10) as refusals:
        model = HTDGDetector.from_model(import_official(folder / "model", SIZE))
    if refusals:
        return
    with accepted_or_refused(10) as refusals:
        model.save(folder / "saved")
        loaded = HTDGDetector.load(folder / "saved", device="cpu")
    assert not refusals, refusals  # what is written can be read
    with accepted_or_refused(10) as refusals:
        assert 0 <= loaded.anomaly_score(PIXELS)[0] <= 1


@tries(30)
@given(rows=HOSTILE, share=st.floats(0, 1), text=st.booleans())
def test_lists_of_transformations_are_changed(official, rows, share, text):
    with temporary() as folder:
        shutil.copytree(official, folder / "model")
        (folder / "model" / "transformations.npy").unlink()
        listed = [list(row) for row in ROWS]
        paths = list(places(listed))
        replace_at(listed, paths[min(int(share * len(paths)), len(paths) - 1)], rows)
        path = folder / "model" / "transformations.json"
        path.write_text(json.dumps(rows if text else listed))
        check_official(folder)


def test_an_official_model_that_would_run_code_does_not(official):
    with temporary() as folder:
        shutil.copytree(official, folder / "model")
        for path in (folder / "model").rglob("netG.pth"):
            torch.save({"head.conv.weight": Touch(folder / "ran")}, path)
        with accepted_or_refused() as refusals:
            import_official(folder / "model", SIZE)
        assert "objects that only running its code would restore" in str(refusals[0])
        assert not (folder / "ran").exists()


# --- What once ended in a traceback, was accepted, or filled the memory --------------------------


def refusal(call) -> str:
    """The sentence in which ``call`` is refused."""
    with accepted_or_refused() as refusals:
        call()
    return str(refusals[0])


@pytest.mark.skipif("avif" not in IMAGES, reason="PIL was built without AVIF")
def test_a_damaged_avif_file_is_refused(tmp_path):
    (tmp_path / "a.avif").write_bytes(edited(IMAGES["avif"], [("put", 0.25, b"\0", 1)]))
    assert "a.avif is damaged or cannot be read" in refusal(lambda: load_image(tmp_path / "a.avif"))
    assert list_images(tmp_path) == ([], [tmp_path / "a.avif"])


@pytest.mark.parametrize("shape", [[1] * 70, [0, 2**32 - 1, 2**32 - 1], [], [2**32 - 1] * 3])
def test_impossible_shapes_of_mnist_are_refused(tmp_path, shape):
    header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    path = tmp_path / "idx"
    path.write_bytes(header + bytes(len(shape) == 70))
    assert refusal(lambda: read_idx(path)).startswith(f"{path} is damaged or of another format")


def test_a_file_of_mnist_that_unpacks_to_far_more_is_refused(tmp_path):
    path = tmp_path / "idx.gz"
    zeros = gzip.compress(bytes(2**24))
    path.write_bytes(gzip.compress(idx_bytes(np.zeros((1, 2, 3), np.uint8))) + zeros * 64)
    assert refusal(lambda: read_idx(path)).startswith(f"{path} is damaged or of another format")


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": np.array("plane")},
        {"train_y": np.array([[3], [1], [3], [5]])},
        {"train_y": np.array([3.0, 1.0, 3.0, 5.0])},
        {"train_y": np.array(["3", "1", "3", "5"])},
    ],
)
def test_labels_of_cifar10_that_are_none_are_refused(tmp_path, changes):
    np.savez(tmp_path / "cifar10_subset.npz", **subset_arrays() | changes)
    assert "cifar10_subset.npz is not laid out" in refusal(
        lambda: Cifar10(tmp_path).training_images("cat", 1)
    )


def test_a_part_of_cifar10_that_unpacks_to_far_more_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("htdg.datasets.cifar10.LARGEST_SUBSET", 2**15)
    np.savez_compressed(tmp_path / "cifar10_subset.npz", **subset_arrays(), more=np.zeros(2**16))
    assert "it is far too large when unpacked" in refusal(
        lambda: Cifar10(tmp_path).training_images("cat", 1)
    )


def test_photographs_and_lists_of_paris_that_are_no_files_are_refused(paris, tmp_path):
    shutil.copytree(paris / "paris", tmp_path / "paris")
    plant(tmp_path / "paris", ["jpg", "eiffel", "paris_eiffel_000001.jpg"], "broken")
    name = "paris_eiffel_000001"
    assert f"{name}.jpg cannot be read (No such file" in refusal(lambda: Paris(tmp_path).read(name))
    plant(tmp_path / "paris", ["lab", f"{LANDMARKS[0]}_3_ok.txt"], "pipe")
    assert "_3_ok.txt is missing or cannot be read" in refusal(lambda: Paris(tmp_path))


def test_pipes_among_the_files_of_data_sets_are_refused(tmp_path):
    os.mkfifo(tmp_path / "idx.gz")
    assert "it is no regular file" in refusal(lambda: read_idx(tmp_path / "idx.gz"))
    path = make_cifar10(tmp_path) / "cifar-10-batches-bin" / "data_batch_1.bin"
    path.unlink()
    os.mkfifo(path)
    assert "data_batch_1.bin" in refusal(lambda: Cifar10(tmp_path).training_images("cat", 1))


def test_a_vast_name_in_an_archive_is_not_read(tmp_path):
    """tarfile reads a name of any length at once, and a file of 1 MB may hold one of 1 GB."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**30
    header = info.tobuf(tarfile.GNU_FORMAT)
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as packed:
        packed.write(header)
        for _ in range(2**10):
            packed.write(bytes(2**20))
    with accepted_or_refused(megabytes=100) as refusals:
        unpack(path, tmp_path / "into")
    assert "(a name in it is too long): get it again." in str(refusals[0])


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_of_very_many_empty_files_is_refused(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("htdg.datasets.archive.SPARE", 2**18)
    monkeypatch.setattr("htdg.datasets.archive.LARGEST_RATIO", 1)
    members = [(f"{n:04d}", "file", b"") for n in range(1000)]
    content = zip_bytes(members) if kind == "zip" else tar_bytes(members, "gz")
    path = tmp_path / f"a.{kind}"
    path.write_bytes(content)
    assert "makes it more than 1 times its size" in refusal(lambda: unpack(path, tmp_path / "into"))
    assert list((tmp_path / "into").iterdir()) == []


def test_an_archive_that_goes_on_and_on_after_its_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("htdg.datasets.archive.SPARE", 2**20)
    path = tmp_path / "a.tar.gz"
    path.write_bytes(tar_bytes([("a", "file", b"1")], "gz") + gzip.compress(bytes(2**24)) * 4)
    assert "too much comes after its end" in refusal(lambda: unpack(path, tmp_path / "into"))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_of_members_are_shown_in_part(tmp_path, kind):
    members = [("x" * 5000, "link", b"")]
    path = tmp_path / f"a.{kind}"
    path.write_bytes(zip_bytes(members) if kind == "zip" else tar_bytes(members, ""))
    assert "xxx' is a link or a device" in refusal(lambda: unpack(path, tmp_path / "into"))


def test_names_of_members_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "a.zip"
    content = zip_bytes([("ä", "file", b"")])
    path.write_bytes(content.replace("ä".encode(), b"\xc3\xc3", 1))
    assert "a.zip is damaged or no archive ('utf-8' codec" in refusal(
        lambda: unpack(path, tmp_path / "into")
    )


def change_official(official, tmp_path, name, change) -> Path:
    """A copy of an official model in which a file holds something else."""
    shutil.copytree(official, tmp_path / "model")
    path = next((tmp_path / "model").rglob(name))
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return tmp_path / "model"


def test_an_official_amplitude_may_be_a_bare_number(official, tmp_path):
    folder = change_official(
        official, tmp_path, "NoiseAmp.pth", lambda amplitudes: amplitudes[0].__setitem__(0, 1)
    )
    for one, other in zip(
        import_official(folder, SIZE).scales, import_official(official, SIZE).scales, strict=True
    ):
        assert torch.equal(one.sigma, other.sigma)


def in_zs(value):
    return "Zs.pth", lambda noise: noise[0].__setitem__(0, value)


def in_d(name, value):
    return "netD.pth", lambda state: state.__setitem__(name, value)


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        (in_zs(torch.zeros(1).expand(1, 3, 60_000, 60_000)), "far larger than the file"),
        (in_zs(torch.zeros(1, 3, 24, 24).to_sparse()), "of a kind that the official code does not"),
        (in_zs(torch.zeros(1, 3, 24, 24).cfloat()), "of a kind that the official code does not"),
        (in_d("head.norm.running_var", -torch.ones(SIZE)), "negative variances in head.norm."),
        (in_d("head.norm.bias", torch.full((SIZE,), 1e300, dtype=torch.double)), "not finite in"),
        (in_d("head." + "x" * 5000, torch.ones(1)), "xxx..., which is no part of it"),
        (in_d("head.a\n", torch.ones(1)), r"has head.a\n, which is no part of it"),
        (in_zs(QUANTISED), "of a kind that the official code does not"),
    ],
)
def test_official_tensors_that_are_none_are_refused(official, tmp_path, part, sentence):
    folder = change_official(official, tmp_path, *part)
    assert sentence in refusal(lambda: import_official(folder, SIZE))
