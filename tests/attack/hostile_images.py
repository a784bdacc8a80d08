"""Images that are damaged, huge, of strange kinds and names, or none."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.attack.cases import EITHER, NO_FILES, PICKLE, Case
from tests.attack.kills import SMALL


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
        ("a pickle", PICKLE),
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
