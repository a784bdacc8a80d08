"""Unpacking archives that nobody has checked: no file is written outside the folder asked for."""

from __future__ import annotations

import gzip
import lzma
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from htdg.datasets.base import DatasetError
from htdg.datasets.download import MegabyteBar
from htdg.io.files import check_regular

SUFFIXES = (".tar.xz", ".tar.gz", ".tgz", ".tar.bz2", ".tar", ".zip")
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    gzip.BadGzipFile,
    RuntimeError,  # a zip that is encrypted or compressed in an unusual way
)
#: An archive is refused if it holds more than so many times its size, and these bytes besides: one
#: made to fill the disk holds a thousand times as much, and one of images about as much.
LARGEST_RATIO, SPARE = 50, 2**27
#: A member: its name, and its content, or None for a folder.
Member = tuple[str, IO[bytes] | None]


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
        with tempfile.TemporaryDirectory(prefix=".unpack-", dir=into) as name:
            temporary = Path(name)
            _unpack_all(archive, temporary)
            for item in sorted(temporary.iterdir()):
                if not (into / item.name).exists():
                    item.rename(into / item.name)
    except FileNotFoundError:
        raise DatasetError(f"{archive} is not there: check the path.") from None
    except _DAMAGE as error:
        reason = f"{error}\n{type(error).__name__}".strip().splitlines()[0].rstrip(".:")
        raise DatasetError(
            f"{archive} is damaged or no archive ({reason}): get it again."
        ) from None
    except OSError as error:
        raise DatasetError(
            f"{archive} cannot be unpacked into {into} ({error.strerror or error})."
        ) from None


def _unpack_all(archive: Path, into: Path) -> None:
    check_regular(archive)
    size = archive.stat().st_size
    bar, left = MegabyteBar(f"unpacking {archive.name}", size), LARGEST_RATIO * size + SPARE
    with archive.open("rb") as raw:
        position = 0  # in the archive, up to which the bar has counted
        for name, content in _members(archive, raw):
            target = into / _safe_path(name, archive)
            if content is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                raise _unsafe(archive, name, "comes twice")
            with content, target.open("xb") as out:
                while block := content.read(2**20):
                    left -= len(block)
                    if left < 0:
                        raise _unsafe(
                            archive, name, f"makes it more than {LARGEST_RATIO} times its size"
                        )
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
                yield info.filename, None if info.is_dir() else packed.open(info)
        return
    raw.seek(0)
    with tarfile.open(fileobj=raw) as tar:
        for member in tar:
            if not (member.isfile() or member.isdir()):
                raise _unsafe(archive, member.name, "is a link or a device")
            yield member.name, None if member.isdir() else tar.extractfile(member)
        _check_end(tar, raw)


def _check_end(tar: tarfile.TarFile, raw: IO[bytes]) -> None:
    """Read the archive to its end, which shows whether it is whole; tarfile stops before."""
    if tar.fileobj is not None and tar.fileobj is not raw:  # compressed: its checksum comes last
        while tar.fileobj.read(2**20):
            pass
        return
    raw.seek(tar.offset)
    if raw.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # zeros end an archive
        raise tarfile.ReadError("its end is missing")


def _safe_path(name: str, archive: Path) -> PurePosixPath:
    """A member's name as a path that stays inside the folder, on Windows too."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
        raise _unsafe(archive, name, "leads out of its folder")
    return path


def _unsafe(archive: Path, name: str, problem: str) -> DatasetError:
    return DatasetError(
        f"{archive} is refused because its member {name!r} {problem}: get it from its publisher."
    )
