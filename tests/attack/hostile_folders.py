"""Archives, and folders of the official code's models."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from tests.attack.cases import EITHER, HARM, NO_FILES, Case
from tests.attack.kills import SMALL
from tests.test_official import TRAINING, Official


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


def archives(work: Path) -> Iterator[tuple[str, str, bytes]]:
    """Archives: what is wrong, the ending of the name, and the content.

    What would be written outside is called evil.
    """

    def member(
        name: str, kind: bytes = tarfile.REGTYPE, target: str = ""
    ) -> tuple[tarfile.TarInfo, bytes]:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        return info, b"evil" if kind == tarfile.REGTYPE else b""

    outside = ("../evil", "bottle/../../evil", f"{work}/evil", "..\\evil", "C:\\evil", "a\0b", "")
    for name in outside:
        yield f"tar with {name!r}", ".tar.gz", tar_of(member(name))
        if name and "\0" not in name:
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


def archive_cases(work: Path) -> Iterator[Case]:
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
    for name, ending, content in archives(work):
        path = place / f"{(i := i + 1)}{ending}"
        path.write_bytes(content)
        yield evaluate(name, path, i)
    for kind, make in NO_FILES.items():
        path = place / f"{(i := i + 1)}.tar"
        make(path)
        yield evaluate(kind, path, i)


def official_cases(work: Path) -> Iterator[Case]:
    """Models of the official code, with one of their files altered."""

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (HARM,)

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
        "nested lists": _nested(200),
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
        # Without images they are rebuilt, and the noise lies beside each network, too.
        optional = "reals" in file or ("Zs" in file and not path.is_file())
        return Case(f"official: {file} {name}", words, EITHER if optional else (2,))

    for file in files:
        path = f"{TRAINING}/{file}"
        original = (whole / path).read_bytes()
        for name, content in contents.items():
            yield case(name, path, lambda to, content=content: torch.save(content, to))
        for share in (0, 0.5, 0.99):
            cut = original[: int(share * len(original))]
            yield case(f"cut to {share:.0%}", path, lambda to, cut=cut: to.write_bytes(cut))
        bomb = zip_of(("archive/data.pkl", b"x"), ("archive/data/0", bytes(50 * 2**20)))
        yield case("is a bomb", path, lambda to, bomb=bomb: to.write_bytes(bomb))
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
