"""Small data sets in the formats of the real ones, made of random images, for tests."""

from __future__ import annotations

import gzip
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from htdg.datasets.paris import Paris

LANDMARKS = Paris.classes


def random_image(seed: int, height: int = 30, width: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, seed: int, height: int = 30, width: int = 30) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random_image(seed, height, width)).save(path)
    return path


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.tobytes()


def mnist_files(train_labels: list[int], test_labels: list[int]) -> dict[str, bytes]:
    """The four packed files, named as the publisher's."""
    rng = np.random.default_rng(0)
    files = {}
    for part, labels in (("train", train_labels), ("t10k", test_labels)):
        images = rng.integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
        packed = gzip.compress(idx_bytes(images), mtime=0)
        files[f"{part}-images-idx3-ubyte.gz"] = packed
        packed = gzip.compress(idx_bytes(np.array(labels, np.uint8)), mtime=0)
        files[f"{part}-labels-idx1-ubyte.gz"] = packed
    return files


def make_mnist(
    root: Path,
    train_labels: list[int],
    test_labels: list[int],
    folder: str = "MNIST",
    packed: bool = True,
) -> Path:
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for name, content in mnist_files(train_labels, test_labels).items():
        if packed:
            (raw / name).write_bytes(content)
        else:
            (raw / name.removesuffix(".gz")).write_bytes(gzip.decompress(content))
    return root


def cifar_records(labels: list[int], seed: int) -> np.ndarray:
    """(n, 3073) uint8: class, then 3 x 32 x 32 pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    return np.concatenate([np.array(labels, np.uint8)[:, None], pixels], axis=1)


def make_cifar10(root: Path) -> Path:
    """Five training batches of the classes 0 to 9, a test batch of those twice."""
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for i in range(1, 6):
        cifar_records(list(range(10)), i).tofile(folder / f"data_batch_{i}.bin")
    cifar_records([*range(10), *range(10)], 6).tofile(folder / "test_batch.bin")
    return root


def make_paris(root: Path, per_landmark: int = 4) -> Path:
    """Photographs 1 to n of each landmark; 3, 1 and 2 of it are listed, and one general."""
    base = root / "paris"
    (base / "lab").mkdir(parents=True)
    for number, landmark in enumerate(LANDMARKS):
        for i in range(1, per_landmark + 1):
            path = base / "jpg" / landmark / f"paris_{landmark}_{i:06d}.jpg"
            save(path, 100 * number + i, 24, 32)
        listed = [[3], [1, 3], [2], [], []]
        for i, numbers in enumerate(listed, start=1):
            lines = "".join(f"paris_{landmark}_{n:06d}\n" for n in numbers)
            (base / "lab" / f"{landmark}_{i}_ok.txt").write_text(lines)
    for i in (1, 2):
        save(base / "jpg" / "general" / f"paris_general_{i:06d}.jpg", 5000 + i, 24, 32)
    with (base / "lab" / "eiffel_5_ok.txt").open("a") as file:
        file.write("paris_general_000002\n")
    return root


def make_category(root: Path, category: str = "bottle", size: tuple[int, int] = (30, 30)) -> Path:
    """A category of MVTec AD: 5 to train, 3 good and 2 + 2 defective to test, with masks."""
    place = root / category
    for i in range(5):
        save(place / "train" / "good" / f"{i:03d}.png", i, *size)
    for i in range(3):
        save(place / "test" / "good" / f"{i:03d}.png", 10 + i, *size)
    for number, defect in enumerate(("crack", "dent"), start=2):
        for i in range(2):
            save(place / "test" / defect / f"{i:03d}.png", 10 * number + i, *size)
            mask = np.zeros(size, np.uint8)
            mask[4:9, 6 : 8 + i] = 255
            path = place / "ground_truth" / defect / f"{i:03d}_mask.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)
    (place / "readme.txt").write_text("not an image\n")
    return place


def pack(folder: Path, archive: Path) -> Path:
    """Pack a folder, under its own name, as tar (also .gz, .xz) or zip by the archive's suffix."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as opened:
            for path in sorted(folder.rglob("*")):
                opened.write(path, path.relative_to(folder.parent))
    else:
        mode = {".gz": "w:gz", ".xz": "w:xz", ".tar": "w"}[archive.suffix]
        with tarfile.open(archive, mode) as opened:
            opened.add(folder, folder.name)
    return archive
