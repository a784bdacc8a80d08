"""Hostile files of every kind, handed to the command that reads them.

Each must be refused in one sentence with exit code 2, or accepted rightly (its scores are finite and
lie in [0, 1]), without a traceback, a hang, a program that is started, a connection, or a file
outside the output folder; within seconds and megabytes that ``Limits`` names.

``python -m tests.attack.corpus`` prints how many were tried, refused, and accepted, and each fault.
"""

from __future__ import annotations

import argparse
import copy
import csv
import io
import json
import os
import shutil
import struct
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.attack.forked import Ended, in_fork, output_beside
from tests.attack.kills import SMALL, draw_images, tree

#: What no command here may do: start a program, or connect to anything (names of audit events).
FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn")
FORBIDDEN += ("socket.connect", "socket.bind", "socket.getaddrinfo", "pickle.find_class")
#: Classes of PyTorch's and NumPy's that their safe readers look for.
HARMLESS_CLASSES = ("torch", "collections", "numpy", "_codecs")


class Limits(NamedTuple):
    """Seconds, and megabytes besides those of a command that does nothing."""

    seconds: float = 1.0
    megabytes: float = 500.0


class Case(NamedTuple):
    """A hostile input.

    Attributes:
        name: what is wrong with it.
        words: the command that reads it.
        expected: the exit codes that are right.
    """

    name: str
    words: list[str]
    expected: tuple[int, ...] = (2,)


EITHER = (0, 2)
#: Values that no description holds, or few.
HOSTILE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "x", "\ud800", "\x1b[31m", "../../../etc/passwd", "9" * 5000, [], {}, [[]], [None]),
    *({"a": {"b": 1}}, [0] * 1000),
)


# --- Models --------------------------------------------------------------------------------------


def described(model: Path) -> dict[str, Any]:
    return json.loads((model / "config.json").read_text())


def altered(model: Path, folder: Path, **files: bytes | None) -> Path:
    """A copy of a model with other files; ``None`` for one that is missing."""
    shutil.copytree(model, folder)
    names = {"config": "config.json", "weights": "weights.safetensors", "history": "history.json"}
    for name, content in files.items():
        path = folder / names[name]
        path.unlink()
        if content is not None:
            path.write_bytes(content)
    return folder


def signed(description: dict[str, Any]) -> bytes:
    """A description with a digest that fits: nothing shows that it was altered."""
    from htdg.io.model_directory import description_text

    return description_text(description).encode("utf-8", "surrogatepass")


def descriptions(model: Path) -> Iterator[tuple[str, bytes, tuple[int, ...]]]:
    """Altered ``config.json``: what was altered, the file, and the exit codes that are right."""
    whole = described(model)
    places: list[tuple[str, ...]] = [(key,) for key in whole]
    places += [("config", key) for key in whole["config"]]
    places += [("threshold", key) for key in whole["threshold"]]
    for place in places:
        for value in HOSTILE:
            changed = copy.deepcopy(whole)
            inside = changed
            for key in place[:-1]:
                inside = inside[key]
            if inside[place[-1]] == value and type(inside[place[-1]]) is type(value):
                continue
            inside[place[-1]] = value
            name = f"{'.'.join(place)} = {str(value)[:20]!r}"
            unsigned = json.dumps(changed).encode()
            yield f"{name}, not signed", unsigned, (2,)
            if place != ("digest",):
                yield f"{name}, signed", signed(changed), EITHER
        without = copy.deepcopy(whole)
        inside = without
        for key in place[:-1]:
            inside = inside[key]
        del inside[place[-1]]
        yield f"without {'.'.join(place)}", signed(without), EITHER
    for depth in (1_000, 100_000):
        yield f"nested {depth} deep", b"[" * depth + b"]" * depth, (2,)
        yield f"nested {depth} deep in a dict", b'{"a":' * depth + b"1" + b"}" * depth, (2,)
    text = signed(whole)
    for name, content in (
        *(("empty", b""), ("a list", b"[]"), ("null", b"null"), ("a number", b"1")),
        *(
            ("zeros", bytes(1000)),
            ("bytes", bytes(range(256))),
            ("UTF-16", text.decode().encode("utf-16")),
        ),
        *(
            ("cut short", text[: len(text) // 2]),
            ("twice", text * 2),
            ("a huge number", b"1" * 10**6),
        ),
        (
            "reversed transformations",
            json.dumps({**whole, "transformations": whole["transformations"][::-1]}).encode(),
        ),
    ):
        yield f"config.json: {name}", content, (2,)


def weights(model: Path) -> Iterator[tuple[str, bytes]]:
    """Altered ``weights.safetensors``."""
    whole = (model / "weights.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header, data = whole[8 : 8 + length], whole[8 + length :]
    entries = json.loads(header)

    def built(changed: dict[str, Any], content: bytes = data) -> bytes:
        text = json.dumps(changed).encode()
        return struct.pack("<Q", len(text)) + text + content

    for cut in (0, 1, 7, 8, 9, 100, 8 + length, 8 + length + 1, len(whole) // 2, len(whole) - 1):
        yield f"cut to {cut} bytes", whole[:cut]
    for size in (0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1):
        yield f"header of {size} bytes", struct.pack("<Q", size) + whole[8:]
    yield "one byte more", whole + b"\0"
    yield "a flipped byte of data", whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:]
    yield "no tensors", built({}, b"")
    yield "a pickle", b"\x80\x04cposix\nsystem\n(S'touch /tmp/htdg-pwned'\ntR."
    name = next(key for key in entries if key.endswith("conv.weight"))
    for kind in ("F64", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "I8", "U8", "BOOL", "X"):
        yield f"{name} of type {kind}", built({**entries, name: {**entries[name], "dtype": kind}})
    for shape in ([], [0], [-1], [2**62, 4], [1] * 100, [2**31], "x", None, [1.5]):
        yield (
            f"{name} of shape {shape!r:.20}",
            built({**entries, name: {**entries[name], "shape": shape}}),
        )
    for offsets in ([0, 0], [0, 2**63], [-1, 5], [5, 1], [], None):
        changed = {**entries, name: {**entries[name], "data_offsets": offsets}}
        yield f"{name} at {offsets!r}", built(changed)
    yield "nested header", struct.pack("<Q", 200_000) + b"[" * 100_000 + b"]" * 100_000


def tensors(model: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Altered tensors, in a model whose every digest fits."""
    import safetensors.torch
    import torch

    whole = safetensors.torch.load_file(model / "weights.safetensors")
    for ending in ("conv.weight", "running_var", "running_mean", "z_star", "sigma", "images"):
        name = next(key for key in whole if key.endswith(ending))
        value = whole[name]
        for what, changed in (
            ("NaN", torch.full_like(value, float("nan"))),
            ("infinite", torch.full_like(value, float("inf"))),
            ("negative", -torch.ones_like(value)),
            ("huge", torch.full_like(value, 3e38)),
            ("whole numbers", value.long()),
            ("float64", value.double()),
            ("bfloat16", value.bfloat16()),
            ("float8", value.to(torch.float8_e4m3fn)),
            ("complex", value.to(torch.complex64)),
            ("without elements", value[:0]),
            ("one axis more", value[None]),
            ("flat", value.flatten()),
        ):
            yield f"{name} {what}", {**whole, name: changed.contiguous()}
        yield f"without {name}", {key: v for key, v in whole.items() if key != name}
    yield "a tensor too many", {**whole, "extra": whole["images"].clone()}
    yield "a scale too many", {**whole, "scale9.z_star": whole["images"].clone()}


def models(model: Path, given: Path, work: Path) -> Iterator[Case]:
    """Cases of altered models: scored with, and those with other descriptions looked at."""
    from htdg.io.model_directory import write_directory

    image, count = str(given / "new" / "1.png"), 0

    def place() -> Path:
        nonlocal count
        count += 1
        return work / f"model{count}"

    def score(name: str, folder: Path, expected: tuple[int, ...] = (2,)) -> Case:
        return Case(f"model: {name}", ["score", str(folder), image, "--device", "cpu"], expected)

    for name, content, expected in descriptions(model):
        folder = altered(model, place(), config=content)
        yield score(name, folder, expected)
        if "config." not in name:
            yield Case(f"info: {name}", ["info", str(folder)], expected)
    for name, content in weights(model):
        yield score(f"weights: {name}", altered(model, place(), weights=content))
    whole, history = described(model), json.loads((model / "history.json").read_text())
    for name, changed in tensors(model):
        folder = place()
        write_directory(folder, changed, whole, history)
        right = EITHER if "huge" in name or "negative" in name or "whole" in name else (2,)
        yield score(f"signed: {name}", folder, right)
    for value in HOSTILE:
        folder = place()
        content = signed({**whole, "history": _sha256(json.dumps(value).encode())})
        altered(model, folder, config=content, history=json.dumps(value).encode())
        right = EITHER if value == [] else (2,)
        yield Case(f"info: history {str(value)[:20]!r}", ["info", str(folder)], right)
        scales = [{**scale, "seconds": value} for scale in history]
        text = json.dumps(scales).encode()
        altered(model, place(), config=signed({**whole, "history": _sha256(text)}), history=text)
        folder = work / f"model{count}"
        yield Case(f"info: seconds {str(value)[:20]!r}", ["info", str(folder)], EITHER)
    for file in ("config", "weights", "history"):
        right = EITHER if file == "history" else (2,)  # nothing depends on it
        yield score(f"without {file}", altered(model, place(), **{file: None}), right)
        for kind, make in NO_FILES.items():
            folder = altered(model, place(), **{file: None})
            names = {"config": "config.json", "weights": "weights.safetensors"}
            make(folder / names.get(file, "history.json"))
            yield score(f"{file} is {kind}", folder, right)
    for kind, make in NO_FILES.items():
        make(folder := place())
        yield score(f"is {kind}", folder)


def _sha256(content: bytes) -> str:
    import hashlib

    return (
        hashlib.sha256(content + b"\n").hexdigest()
        if False
        else hashlib.sha256(content).hexdigest()
    )


def pipe(path: Path) -> None:
    os.mkfifo(path)


def huge(path: Path) -> None:
    """A file of a terabyte that takes no room on the disk."""
    with path.open("wb") as file:
        file.truncate(2**40)


#: What stands where a file should be.
NO_FILES: dict[str, Callable[[Path], None]] = {
    "a pipe": pipe,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a terminal": lambda path: path.symlink_to("/dev/tty"),
    "a folder": lambda path: path.mkdir(),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "another text": lambda path: path.symlink_to("/etc/passwd"),
    "a terabyte": huge,
}


# --- Images --------------------------------------------------------------------------------------


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(
    width: int, height: int, data: bytes, *more: bytes, bits: int = 8, colour: int = 0
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = b"".join([png_chunk(b"IHDR", header), *more, png_chunk(b"IDAT", zlib.compress(data))])
    return b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IEND", b"")


def images() -> Iterator[tuple[str, bytes, tuple[int, ...]]]:
    """Image files: what is wrong, the content, and the exit codes that are right."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)

    def saved(kind: str, image: Image.Image, **options: object) -> bytes:
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    colour = Image.fromarray(pixels)
    for kind in (
        "PNG",
        "JPEG",
        "TIFF",
        "BMP",
        "WEBP",
        "GIF",
        "PPM",
        "JPEG2000",
        "ICO",
        "TGA",
        "PCX",
        "PDF",
        "EPS",
    ):
        whole = saved(kind, colour)
        right = (2,) if kind in ("ICO", "TGA", "PCX", "PDF", "EPS") else (0,)
        yield f"{kind} as it is", whole, right
        for share in (0.02, 0.1, 0.5, 0.9, 0.99):
            yield f"{kind} cut to {share:.0%}", whole[: int(share * len(whole))], EITHER
        for i in range(0, len(whole), max(1, len(whole) // 12)):
            changed = bytearray(whole)
            changed[i : i + 4] = b"\xff" * len(changed[i : i + 4])
            yield f"{kind} with ones at byte {i}", bytes(changed), EITHER
    for name, content in (
        *(("empty", b""), ("one byte", b"\x89"), ("zeros", bytes(5000)), ("text", b"hello\n" * 50)),
        ("PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n"),
        ("an SVG", b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"),
        ("a pickle", b"\x80\x04cposix\nsystem\n(S'touch /tmp/htdg-pwned'\ntR."),
        ("a FITS", b"SIMPLE  =                    T" + b" " * 2850),
        ("PNG of 2^31 x 2^31", png(2**31 - 1, 2**31 - 1, b"")),
        ("PNG of 0 x 0", png(0, 0, b"")),
        ("PNG without data", png(100, 100, b"")),
        ("PNG of 100,000 x 100,000", png(100_000, 100_000, bytes(1000))),
        ("PNG of 200 megapixels", png(20_000, 10_001, bytes(20_001 * 10_001), bits=8)),
        ("PNG of 101 megapixels", png(10_100, 10_000, bytes(10_101 * 10_000), bits=8)),
        (
            "BMP of 2^31 rows",
            b"BM"
            + struct.pack(
                "<IHHIIiiHHIIIIII", 54, 0, 0, 54, 40, 9, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0
            ),
        ),
        ("PPM of 10^9 x 10^9", b"P6 1000000000 1000000000 255\n"),
        (
            "TIFF that points at itself",
            b"II*\0\x08\0\0\0\x01\0\0\x01\x03\0\x01\0\0\0\x09\0\0\0\x08\0\0\0",
        ),
        (
            "GIF of 65,535 x 65,535",
            b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x08\0;",
        ),
    ):
        yield name, content, (2,)
    text_bomb = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50 * 2**20)))
    yield "PNG with 50 MB of packed text", png(40, 40, bytes(41 * 40), text_bomb), EITHER
    profile = png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(50 * 2**20)))
    yield "PNG with 50 MB of colour profile", png(40, 40, bytes(41 * 40), profile), EITHER
    for size in ((1, 1), (1, 20_000), (20_000, 1), (2, 3), (5000, 7)):
        yield f"{size[0]} x {size[1]} pixels", saved("PNG", Image.new("L", size, 9)), EITHER
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        yield f"PNG of mode {mode}", saved("PNG", Image.new(mode, (40, 40))), (0,)
    for mode in ("CMYK", "YCbCr", "L", "RGB"):
        yield f"JPEG of mode {mode}", saved("JPEG", Image.new(mode, (40, 40))), (0,)
    for mode in ("F", "LAB", "CMYK", "I;16", "1"):
        yield f"TIFF of mode {mode}", saved("TIFF", Image.new(mode, (40, 40))), EITHER
    pages = [Image.new("L", (40, 40), i) for i in range(30)]
    for kind in ("GIF", "TIFF", "PNG", "WEBP"):
        more = {"save_all": True, "append_images": pages[1:]}
        yield f"{kind} of 30 pages", saved(kind, pages[0], **more), (0,)
    infinite = Image.fromarray(np.full((40, 40), np.inf, np.float32))
    yield "TIFF of infinite values", saved("TIFF", infinite), (2,)
    yield "TIFF of NaN", saved("TIFF", Image.fromarray(np.full((40, 40), np.nan, np.float32))), (2,)


#: Names of image files, as bytes.
NAMES = (b"\xff\xfe.png", b"a\nb.png", b"\x1b[2Jclear.png", b"-x.png", b"a b.png", b"%s%n.png")
NAMES += (b'a,b".png', b"=1+1.png", "\u202egnp.exe.png".encode(), b"a" * 240 + b".png", b"~.png")


def image_cases(model: Path, given: Path, work: Path) -> Iterator[Case]:
    """Cases of images: scored alone, and some with maps, or to train on."""
    place = work / "images"
    place.mkdir()

    def score(name: str, path: Path, expected: tuple[int, ...]) -> Case:
        words = ["score", str(model), str(path), "--device", "cpu"]
        return Case(f"image: {name}", words, expected)

    for i, (name, content, expected) in enumerate(images()):
        path = place / f"{i}.png"
        path.write_bytes(content)
        yield score(name, path, expected)
        if "cut" not in name and "byte" not in name and "megapixels" not in name:
            words = ["train", str(path), "--out", f"{work}/out/t{i}", *SMALL]
            yield Case(f"train on {name}", words, EITHER)
    for i, (kind, make) in enumerate(NO_FILES.items()):
        path = place / f"none{i}.png"
        make(path)
        yield score(kind, path, (2,))
    good = (given / "new" / "1.png").read_bytes()
    for i, encoded in enumerate(NAMES):
        folder = place / f"named{i}"
        folder.mkdir()
        path = folder / os.fsdecode(encoded)
        path.write_bytes(good)
        yield score(f"named {encoded[:20]!r}", path if encoded[0] != 45 else folder, (0,))
        words = ["--csv", f"{work}/out/n{i}.csv", "--maps", f"{work}/out/n{i}", "--device", "cpu"]
        yield Case(f"maps named {encoded[:20]!r}", ["score", str(model), str(folder), *words], (0,))
    mixed = place / "mixed"
    mixed.mkdir()
    (mixed / "good.png").write_bytes(good)
    (mixed / "bad.png").write_bytes(good[:60])
    for kind, make in NO_FILES.items():
        make(mixed / f"{kind}.png")
    yield score("a folder of all these and a good one", mixed, (1,))
    circle = place / "circle"
    circle.mkdir()
    (circle / "good.png").write_bytes(good)
    (circle / "again").symlink_to(".")
    (circle / "up").symlink_to("..")
    yield score("a folder with links to itself and above", circle, (0, 1))


# --- Archives, official models, options, notebooks -----------------------------------------------


def tar_of(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def zip_of(*members: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def archives() -> Iterator[tuple[str, str, bytes]]:
    """Archives: what is wrong, the ending of the name, and the content."""

    def member(
        name: str, kind: bytes = tarfile.REGTYPE, target: str = ""
    ) -> tuple[tarfile.TarInfo, bytes]:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        return info, b"evil" if kind == tarfile.REGTYPE else b""

    outside = ("../evil", "bottle/../../evil", "/tmp/htdg-evil", "..\\evil", "C:\\evil", "a\0b", "")
    for name in outside:
        yield f"tar with {name!r}", ".tar.gz", tar_of(member(name))
        if "\0" not in name:
            yield f"zip with {name!r}", ".zip", zip_of((name, b"evil"))
    for kind in (
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        b"Z",
    ):
        yield (
            f"tar with a member of kind {kind!r}",
            ".tar",
            tar_of(member("bottle/x", kind, "/etc/passwd"), mode="w:"),
        )
    through = (member("bottle/out", tarfile.SYMTYPE, "../.."), member("bottle/out/evil"))
    yield "tar to write through a link", ".tar.gz", tar_of(*through)
    yield "tar with a name twice", ".tar.gz", tar_of(member("a"), member("a"))
    yield "tar with a folder as file", ".tar.gz", tar_of(member("a"), member("a/b"))
    zeros = bytes(400 * 2**20)
    info = tarfile.TarInfo("bottle/zeros")
    yield "tar that unpacks to 1,000 times its size", ".tar.gz", tar_of((info, zeros))
    yield "zip that unpacks to 1,000 times its size", ".zip", zip_of(("bottle/zeros", zeros))
    many = [member(f"bottle/{i}") for i in range(3)]
    whole = tar_of(*many)
    for ending, content in (
        (".tar.gz", whole),
        (".tar", tar_of(*many, mode="w:")),
        (".tar.xz", tar_of(*many, mode="w:xz")),
        (".zip", zip_of(("a", b"b" * 100))),
    ):
        for share in (0, 0.3, 0.9):
            yield f"{ending} cut to {share:.0%}", ending, content[: int(share * len(content))]
        changed = bytearray(content)
        changed[len(changed) // 2] ^= 255
        yield f"{ending} with a flipped byte", ending, bytes(changed)
    for ending in (".tar.gz", ".tar", ".tar.xz", ".tar.bz2", ".zip", ".7z", ".rar"):
        yield f"{ending} of text", ending, b"hello\n" * 100


def archive_cases(given: Path, work: Path) -> Iterator[Case]:
    place = work / "archives"
    place.mkdir()

    def evaluate(name: str, path: Path, i: int) -> Case:
        words = [
            "evaluate",
            "--dataset",
            "mvtec",
            "--normal-class",
            "bottle",
            "--archive",
            str(path),
        ]
        words += ["--data-root", f"{work}/out/data{i}", "--out", f"{work}/out/run{i}", *SMALL]
        return Case(f"archive: {name}", words)

    i = 0
    for name, ending, content in archives():
        path = place / f"{(i := i + 1)}{ending}"
        path.write_bytes(content)
        yield evaluate(name, path, i)
    for kind, make in NO_FILES.items():
        path = place / f"{(i := i + 1)}.tar"
        make(path)
        yield evaluate(kind, path, i)


def official_cases(work: Path) -> Iterator[Case]:
    """Models of the official code, with one of their files altered."""
    import numpy as np
    import torch

    from tests.test_official import TRAINING, Official

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("touch /tmp/htdg-pwned",)

    whole = work / "official"
    Official(shots=1).write(whole)
    files = ("0/netG.pth", "0/netD.pth", "Zs.pth", "NoiseAmp.pth", "reals.pth")
    contents: dict[str, object] = {
        "code": Trap(),
        "a number": 1,
        "nothing": None,
        "a list": [],
        "a dictionary": {},
        "an expanded tensor": torch.zeros(1).expand(60_000, 60_000),
        "expanded tensors": {0: [torch.zeros(1).expand(1, 3, 60_000, 60_000)] * 3},
        "NaN": {0: [torch.full((1, 3, 24, 24), float("nan"))] * 3},
        "text": "x" * 1000,
        "a huge number": 10**400,
        "nested lists": _nested(500),
    }
    count = 0

    def case(name: str, file: str, make: Callable[[Path], object]) -> Case:
        nonlocal count
        count += 1
        folder = work / f"official{count}"
        shutil.copytree(whole, folder)
        path = folder / file
        path.unlink()
        make(path)
        words = [
            "import-official",
            str(folder),
            f"{work}/out/imported{count}",
            "--image-size",
            "20",
        ]
        return Case(f"official: {file} {name}", words, EITHER if "reals" in file else (2,))

    for file in files:
        path = f"{TRAINING}/{file}"
        original = (whole / path).read_bytes()
        for name, content in contents.items():
            yield case(name, path, lambda to, content=content: torch.save(content, to))
        for share in (0, 0.5, 0.99):
            cut = original[: int(share * len(original))]
            yield case(f"cut to {share:.0%}", path, lambda to, cut=cut: to.write_bytes(cut))
        bomb = zip_of(("archive/data.pkl", b"x"), ("archive/data/0", bytes(50 * 2**20)))
        yield case("is a bomb", path, lambda to: to.write_bytes(bomb))
        for kind, make in NO_FILES.items():
            yield case(f"is {kind}", path, make)
    rows: dict[str, object] = {"objects": np.array([Trap()], object), "a number": np.array(1)}
    rows |= {"NaN": np.full((5, 5), np.nan), "too many": np.zeros((10**6, 5), int)}
    for name, array in rows.items():
        yield case(name, "transformations.npy", lambda to, array=array: np.save(to, array))


def _nested(depth: int) -> list[object]:
    content: list[object] = []
    for _ in range(depth):
        content = [content]
    return content


def option_cases(model: Path, given: Path, work: Path) -> Iterator[Case]:
    """Values of options."""
    from dataclasses import fields

    from htdg.config import HTDGConfig

    image = str(given / "good" / "1.png")
    values = ("", "x", "-1", "0", "nan", "inf", "1e400", "9" * 5000, "20000", "0.999999999999", "[")
    values += ("[[0,0,0,0,0]]", "[" * 5000, "\ud800", "\x1b[31m", "2147483648", "²")
    for i, field in enumerate(fields(HTDGConfig)):
        if field.type == "bool" or field.name == "device":
            continue
        for value in values:
            words = ["train", image, "--out", f"{work}/out/o{i}", *SMALL, "--overwrite"]
            if field.name in ("niter", "d_steps", "g_steps", "geom_epochs") and value in (
                "20000",
                "2147483648",
            ):
                continue  # these are allowed, and take their time
            words += [f"--{field.name.replace('_', '-')}={value}"]
            yield Case(f"option {field.name} = {value[:20]!r}", words, EITHER)
    for option in (
        "--defect-fraction",
        "--threshold",
        "--batch-size",
        "--map-size",
        "--white-level",
    ):
        for value in values:
            words = ["score", str(model), image, "--device", "cpu", f"{option}={value}"]
            if option == "--map-size":
                words += ["--maps", f"{work}/out/maps"]
            yield Case(f"score {option} = {value[:20]!r}", words, EITHER)


def notebook_cases(work: Path) -> Iterator[Case]:
    """Notebooks that are none: refused before a kernel is started."""
    place = work / "notebooks"
    place.mkdir()
    cell = {"cell_type": "code", "source": "1", "metadata": {}, "outputs": [], "execution_count": 1}
    tagged = {**cell, "metadata": {"tags": ["parameters"]}, "source": "a ="}
    contents: dict[str, bytes] = {
        "empty": b"",
        "text": b"hello",
        "a list": b"[]",
        "null": b"null",
        "no cells": b"{}",
        "zeros": bytes(100),
        "deep": b"[" * 100_000,
        "of format 99": json.dumps(
            {"cells": [], "metadata": {}, "nbformat": 99, "nbformat_minor": 0}
        ).encode(),
        "of format x": json.dumps(
            {"cells": [], "metadata": {}, "nbformat": "x", "nbformat_minor": 0}
        ).encode(),
        "cells no list": json.dumps(
            {"cells": 1, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        ).encode(),
        "a cell no dict": json.dumps(
            {"cells": [1], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        ).encode(),
        "parameters that are no Python": json.dumps(
            {"cells": [tagged], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        ).encode(),
    }
    for i, (name, content) in enumerate(contents.items()):
        path = place / f"{i}.ipynb"
        path.write_bytes(content)
        for more in ([], ["-p", "a", "1"]):
            words = ["run", str(path), "--out", f"{work}/out/nb{i}", *more]
            yield Case(f"notebook: {name} {' '.join(more)}", words)
    for i, (kind, make) in enumerate(NO_FILES.items()):
        path = place / f"none{i}.ipynb"
        make(path)
        yield Case(f"notebook: {kind}", ["run", str(path), "--out", f"{work}/out/nb_{i}"])


KINDS = ("models", "images", "archives", "official", "options", "notebooks")


def cases(kind: str, model: Path, given: Path, work: Path) -> Iterator[Case]:
    """The cases of one kind; their files are made as they come."""
    match kind:
        case "models":
            return models(model, given, work)
        case "images":
            return image_cases(model, given, work)
        case "archives":
            return archive_cases(given, work)
        case "official":
            return official_cases(work)
        case "options":
            return option_cases(model, given, work)
    return notebook_cases(work)


# --- The process that forks ----------------------------------------------------------------------


class Outcome(NamedTuple):
    """What came of the cases of a kind."""

    tried: int
    refused: int
    accepted: int
    faults: list[str]
    slowest: tuple[float, str]
    largest: tuple[float, str]


def attack(kind: str, every: int, limits: Limits, work: Path) -> Outcome:
    """Hand every ``every``-th case of a kind to its command."""
    given, out, log = work / "given", work / "out", work / "log"
    draw_images(given)
    out.mkdir()
    train = ["train", f"{given}/good/1.png", "--out", f"{work}/model", *SMALL]
    for words in (train, ["calibrate", f"{work}/model", f"{given}/held", "--device", "cpu"]):
        assert run(words, log).code == 0, log.read_text()
    idle = run(["info", f"{work}/model"], log)
    counts, faults = Counter[int](), list[str]()
    slowest, largest = (0.0, ""), (0.0, "")
    for i, case in enumerate(cases(kind, work / "model", given, work)):
        if i % every:
            continue
        before = around(work)
        ended = run(case.words, log, limit=60)
        said = log.read_text(errors="replace")
        counts[ended.code] += 1
        seconds, megabytes = ended.seconds - idle.seconds, ended.megabytes - idle.megabytes
        problems = wrong(case, ended, said, output_beside(log))
        if ended.code == 2:  # what is accepted takes what its work takes
            slowest = max(slowest, (round(seconds, 2), case.name))
            largest = max(largest, (round(megabytes), case.name))
            if seconds > limits.seconds:
                problems.append(f"{seconds:.1f} s")
            if megabytes > limits.megabytes:
                problems.append(f"{megabytes:.0f} MB")
        if around(work) != before or Path("/tmp/htdg-pwned").exists():
            problems.append("changed files outside its output")
        faults += [f"{case.name}: {problem}" for problem in problems]
        if out.exists():
            shutil.rmtree(out)
        out.mkdir()
    tried = sum(counts.values())
    return Outcome(tried, counts[2], counts[0] + counts[1], faults, slowest, largest)


def around(work: Path) -> list[str]:
    """The files of the input, and the folders beside the work."""
    names = [p.name for p in work.iterdir() if not p.name.startswith(("model", "official"))]
    return [*sorted(names), *tree(work / "given"), *sorted(tree(work / "model"))]


def wrong(case: Case, ended: Ended, said: str, output: Path) -> list[str]:
    """What is wrong with how a command ended, and with what it said."""
    problems = []
    if ended.code not in case.expected:
        problems.append(f"ended with {ended.code}: {said[-200:]}")
    if "Traceback" in said:
        problems.append(f"a traceback: {said[-200:]}")
    if ended.answer:
        problems.append(f"did what it may not: {ended.answer}")
    if ended.code == 2:
        sentence = said.rstrip("\n").split("\n")[-1]
        if not sentence.startswith("htdg") or not sentence.rstrip().endswith((".", ")")):
            problems.append(f"no sentence: {sentence[-200:]!r}")
    if ended.code in (0, 1) and case.words[0] == "score" and "--csv" not in case.words:
        table = csv.DictReader(io.StringIO(output.read_text()))
        values = [row["anomaly_score"] for row in table if row["anomaly_score"]]
        problems += [f"a score of {value}" for value in values if not 0 <= float(value) <= 1]
        problems += [] if values else ["no scores"]
    return problems


def run(words: list[str], log: Path, limit: int = 600) -> Ended:
    """Run a command in a fork of this process; the answer is what it did that it may not."""

    def work() -> tuple[int, str]:
        from htdg.commands.cli import main

        done: list[str] = []

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            if event in FORBIDDEN:
                harmless = event == "pickle.find_class" and str(arguments[0]).startswith(
                    HARMLESS_CLASSES
                )
                if not harmless:
                    done.append(f"{event} {str(arguments)[:80]}")

        sys.addaudithook(watch)
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        return code, "; ".join(done)

    return in_fork(work, log, limit)


# --- From outside --------------------------------------------------------------------------------


def outcome(kind: str, every: int, limits: Limits) -> Outcome:
    """The outcome of a kind, from a process of its own."""
    import subprocess

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HTDG_KERNELS": "0"}
    words = [sys.executable, "-m", "tests.attack.corpus", kind, "--every", str(every), "--json"]
    words += ["--seconds", str(limits.seconds), "--megabytes", str(limits.megabytes)]
    repository = Path(__file__).parents[2]
    ended = subprocess.run(
        words, cwd=repository, env=environment, stdout=subprocess.PIPE, check=True
    )
    return Outcome(*json.loads(ended.stdout))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attack.corpus", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--every", type=int, default=1, help="try every N-th case only")
    parser.add_argument("--seconds", type=float, default=Limits().seconds)
    parser.add_argument("--megabytes", type=float, default=Limits().megabytes)
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    limits = Limits(options.seconds, options.megabytes)
    if options.json:
        import htdg.commands.cli as cli

        for command in cli.COMMANDS:  # so that the forks need not
            cli.build_parser([command.name])
        with tempfile.TemporaryDirectory(prefix="htdg-corpus-") as folder:
            print(json.dumps(attack(options.kinds[0], options.every, limits, Path(folder))))
        return 0
    faults = 0
    for kind in options.kinds or KINDS:
        came = outcome(kind, options.every, limits)
        faults += len(came.faults)
        print(
            f"{kind:<10} {came.tried:>5} tried  {came.refused:>5} refused  {came.accepted:>4} accepted  "
            f"{len(came.faults):>3} faults   slowest {came.slowest[0]} s ({came.slowest[1]}), most "
            f"memory {came.largest[0]} MB ({came.largest[1]})",
            flush=True,
        )
        for fault in came.faults:
            print(f"  {fault}", flush=True)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
