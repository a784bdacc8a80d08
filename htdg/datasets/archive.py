"""Unpacking archives that nobody has checked: no file is written outside the folder asked for."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from htdg.datasets.base import DatasetError
from htdg.datasets.download import MegabyteBar
from htdg.io.files import check_regular, one_line
from htdg.io.folders import beside, recover

SUFFIXES = (".tar.xz", ".tar.gz", ".tgz", ".tar.bz2", ".tar", ".zip")
#: An archive is refused if it holds more than so many times its size, and these bytes besides: one
#: made to fill the disk holds a thousand times as much, and one of images about as much.
LARGEST_RATIO, SPARE = 50, 2**27
#: What a file takes on a disk, be it empty; and how much of an archive tarfile may read at once,
#: which it does with names, of whatever length they are.
BLOCK, STEP = 4096, 2**20
#: How a compressed archive begins, and what unpacks it.
_OPENERS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
#: A member: its name, what size it is said to have, and its content, or None for a folder.
Member = tuple[str, int, IO[bytes] | None]


def clean_up(into: Path) -> None:
    """Delete what a killed program left in a folder that it unpacked into."""
    recover(into / "unpacked")


def unpack(archive: Path, into: Path) -> None:
    """Unpack a tar (also .gz, .xz, .bz2) or zip archive into a folder.

    Everything is first unpacked into a temporary folder inside ``into`` and then renamed; files and
    folders that are there already stay as they are. A progress bar counts the archive's megabytes.

    Raises:
        DatasetError: the archive is missing or damaged, its files cannot be written, or it holds a
            link, a device, a name that leads out of the folder, or far more than its size. Nothing
            is left behind then.
    """
    try:
        into.mkdir(parents=True, exist_ok=True)
        clean_up(into)
        temporary = beside(into / "unpacked", "tmp")
        try:
            temporary.mkdir()
            _unpack_all(archive, temporary)
            for item in sorted(temporary.iterdir()):
                if not (into / item.name).exists():
                    item.rename(into / item.name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except DatasetError:
        raise
    except FileNotFoundError:
        raise DatasetError(f"{archive} is not there: check the path.") from None
    except Exception as error:  # a damaged archive can raise nearly anything
        if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
            raise DatasetError(
                f"{archive} cannot be unpacked into {into} ({error.strerror or error})."
            ) from None
        reason = f"{error}\n{type(error).__name__}".strip().splitlines()[0].rstrip(".:")
        raise DatasetError(
            f"{archive} is damaged or no archive ({one_line(reason)}): get it again."
        ) from None


def _unpack_all(archive: Path, into: Path) -> None:
    check_regular(archive)
    size = archive.stat().st_size
    bar, left = MegabyteBar(f"unpacking {archive.name}", size), LARGEST_RATIO * size + SPARE
    with archive.open("rb") as raw:
        position = 0  # in the archive, up to which the bar has counted
        for name, said, content in _members(archive, raw):
            left -= BLOCK
            if said > left:
                raise _too_much(archive, name)
            target = into / _safe_path(name, archive)
            if content is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                raise _unsafe(archive, name, "comes twice")
            with content, target.open("xb") as out:
                while block := content.read(STEP):
                    left -= len(block)
                    if left < 0:
                        raise _too_much(archive, name)
                    out.write(block)
            bar.update(max(0, raw.tell() - position))
            position = max(position, raw.tell())
    bar.close()


def _members(archive: Path, raw: IO[bytes]) -> Iterator[Member]:
    """The files and folders of an archive in order; anything else in it is refused."""
    if zipfile.is_zipfile(raw):
        with zipfile.ZipFile(raw) as packed:
            for info in packed.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _unsafe(archive, info.filename, "is a link or a device")
                content = None if info.is_dir() else packed.open(info)
                yield info.filename, info.file_size, content
        return
    raw.seek(0)
    begin = raw.read(6)
    raw.seek(0)
    unpacked = next((_OPENERS[magic](raw) for magic in _OPENERS if begin.startswith(magic)), raw)
    with tarfile.open(fileobj=_InSteps(unpacked), mode="r:") as tar:  # type: ignore[call-overload]
        for member in tar:
            if not (member.isfile() or member.isdir()):
                raise _unsafe(archive, member.name, "is a link or a device")
            content = None if member.isdir() else tar.extractfile(member)
            yield member.name, member.size, content
        if unpacked is raw:
            _check_end(tar, raw)
        else:
            _read_to_end(unpacked, LARGEST_RATIO * archive.stat().st_size + SPARE)


class _InSteps:
    """A file of which nobody reads more than ``STEP`` bytes at once."""

    def __init__(self, file: IO[bytes]) -> None:
        """What tarfile needs of ``file``."""
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        """So many bytes; ReadError if they are too many."""
        if not 0 <= size <= STEP:
            raise tarfile.ReadError("a name in it is too long")
        return self._file.read(size)


def _read_to_end(unpacked: IO[bytes], most: int) -> None:
    """Read a compressed archive to its end, where its checksum is; tarfile stops before."""
    while block := unpacked.read(STEP):
        most -= len(block)
        if most < 0:
            raise tarfile.ReadError("too much comes after its end")


def _check_end(tar: tarfile.TarFile, raw: IO[bytes]) -> None:
    """Check that an archive that is not compressed has its end; tarfile does not."""
    raw.seek(tar.offset)
    if raw.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # zeros end an archive
        raise tarfile.ReadError("its end is missing")


def _safe_path(name: str, archive: Path) -> PurePosixPath:
    """A member's name as a path that stays inside the folder, on Windows too."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
        raise _unsafe(archive, name, "leads out of its folder")
    return path


def _too_much(archive: Path, name: str) -> DatasetError:
    return _unsafe(archive, name, f"makes it more than {LARGEST_RATIO} times its size")


def _unsafe(archive: Path, name: str, problem: str) -> DatasetError:
    return DatasetError(
        f"{archive} is refused because its member {name[:200]!r} {problem}: get it from its "
        "publisher."
    )
