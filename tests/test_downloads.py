"""Downloads from a server on this machine, and archives as strangers might make them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from htdg.datasets import DatasetError, load_dataset
from htdg.datasets.archive import unpack
from htdg.datasets.cifar10 import ARCHIVE, Cifar10
from htdg.datasets.download import download
from htdg.datasets.mnist import Mnist
from tests import small_sets


class Server:
    """Serves ``files``: bytes by path; ``cut`` paths break off half-way, ``slow`` ones wait."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.slow: set[str] = set()
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.lstrip("/")
                outer.asked.append(name)
                if name not in outer.files:
                    self.send_error(404)
                    return
                content = outer.files[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if name in outer.slow:
                    time.sleep(1.5)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # hung up on us
                    self.wfile.write(content[: len(content) // (2 if name in outer.cut else 1)])

            def log_message(self, *arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    yield server
    server.close()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


CONTENT = np.random.default_rng(0).bytes(3_000_000)


def fails(server: Server, path: Path, words: str, content: bytes = CONTENT, **options) -> str:
    with pytest.raises(DatasetError, match=words) as caught:
        download([f"{server.url}{path.name}"], path, sha256(content), **options)
    text = str(caught.value)
    assert str(path.parent) in text
    assert text.endswith("by hand.")
    assert ". " not in text
    assert "\n" not in text
    assert not list(path.parent.iterdir())  # no torn file is left
    return text


def test_download(server, tmp_path, capfd):
    server.files["set.bin"] = CONTENT
    path = tmp_path / "deep" / "set.bin"
    download([f"{server.url}set.bin"], path, sha256(CONTENT))
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["set.bin"]
    shown = capfd.readouterr().err
    assert "set.bin, MB" in shown
    assert "3/3" in shown


def test_torn_downloads_start_again(server, tmp_path):
    server.files["set.bin"] = CONTENT
    server.cut.add("set.bin")
    path = tmp_path / "set.bin"
    fails(server, path, "broke off")
    server.cut.clear()
    download([f"{server.url}set.bin"], path, sha256(CONTENT))
    assert path.read_bytes() == CONTENT


def test_wrong_checksum(server, tmp_path):
    server.files["set.bin"] = CONTENT[:-1] + b"?"
    fails(server, tmp_path / "set.bin", "another SHA-256 than was published")


def test_no_such_file_no_server_and_no_answer(server, tmp_path):
    fails(server, tmp_path / "set.bin", "answered 404")
    server.files["set.bin"] = CONTENT
    server.slow.add("set.bin")
    fails(server, tmp_path / "set.bin", "did not answer within 0.2 seconds", timeout=0.2)
    server.close()
    fails(server, tmp_path / "set.bin", "no connection to 127.0.0.1")


def test_the_second_address_is_tried(server, tmp_path):
    server.files["b/set.bin"] = CONTENT
    urls = [f"{server.url}a/set.bin", f"{server.url}b/set.bin"]
    download(urls, tmp_path / "set.bin", sha256(CONTENT))
    assert server.asked == ["a/set.bin", "b/set.bin"]


def test_a_place_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot be written"):
        download([f"{server.url}set.bin"], tmp_path / "file" / "set.bin", sha256(CONTENT))


def test_mnist_comes_over_the_network(server, tmp_path, monkeypatch):
    labels = [*range(10), *range(10)]
    server.files = small_sets.mnist_files(labels, labels)
    sums = {name.split("-idx")[0]: sha256(content) for name, content in server.files.items()}
    monkeypatch.setattr(Mnist, "mirrors", (f"{server.url}",))
    monkeypatch.setattr(Mnist, "checksums", sums)
    last = "t10k-labels-idx1-ubyte.gz"
    server.cut.add(last)
    with pytest.raises(DatasetError, match=r"train-images.*t10k-labels.*MNIST/raw") as caught:
        load_dataset("mnist", tmp_path)
    assert ". " not in str(caught.value)
    server.cut.clear()
    server.asked.clear()
    data = load_dataset("mnist", tmp_path)
    assert server.asked == [last]  # what had come is kept
    assert data.training_images(7, 2)[1] == ["train/00007", "train/00017"]
    assert len(data.test_set(7)) == 20
    load_dataset("mnist", tmp_path)
    assert server.asked == [last]


def test_cifar10_comes_over_the_network(server, tmp_path, monkeypatch):
    folder = small_sets.make_cifar10(tmp_path / "made") / "cifar-10-batches-bin"
    content = small_sets.pack(folder, tmp_path / ARCHIVE).read_bytes()
    server.files[ARCHIVE] = content
    monkeypatch.setattr(Cifar10, "urls", (f"{server.url}{ARCHIVE}",))
    with pytest.raises(DatasetError, match="another SHA-256"):
        load_dataset("cifar10", tmp_path / "data")
    monkeypatch.setattr(Cifar10, "sha256", sha256(content))
    data = load_dataset("cifar10", tmp_path / "data")
    assert data.training_images("car", 1, index=2)[1] == ["train/00011"]
    assert len(server.asked) == 2
    load_dataset("cifar10", tmp_path / "data")
    assert len(server.asked) == 2
    # put there by hand: nothing is asked for
    (tmp_path / "by_hand").mkdir()
    (tmp_path / "by_hand" / ARCHIVE).write_bytes(content)
    assert len(load_dataset("cifar10", tmp_path / "by_hand").test_set(0)) == 20
    assert len(server.asked) == 2


# --- archives -----------------------------------------------------------------------------------


def tar_with(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for info, content in [(tarfile.TarInfo("set/first.txt"), b"first"), *members]:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def plain(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), b"evil"


EVIL_TARS = {
    "parent": [plain("../evil.txt")],
    "parent inside": [plain("set/../../evil.txt")],
    "absolute": [plain("/tmp/htdg_evil.txt")],
    "backslashes": [plain("..\\evil.txt")],
    "drive": [plain("C:evil.txt")],
    "symbolic link": [special("set/link", tarfile.SYMTYPE, "/etc/passwd")],
    "harmless symbolic link": [special("set/link", tarfile.SYMTYPE, "first.txt")],
    "link to write through": [special("set/out", tarfile.SYMTYPE, "../.."), plain("set/out/evil")],
    "hard link": [special("set/link", tarfile.LNKTYPE, "/etc/passwd")],
    "device": [special("set/null", tarfile.CHRTYPE)],
    "block device": [special("set/disk", tarfile.BLKTYPE)],
    "pipe": [special("set/pipe", tarfile.FIFOTYPE)],
    "twice": [plain("set/first.txt")],
}


def is_refused(archive: Path, into: Path, words: str) -> None:
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(DatasetError, match=words) as caught:
        unpack(archive, into)
    text = str(caught.value)
    assert str(archive) in text
    assert text.endswith(".")
    assert "\n" not in text
    assert not list(into.iterdir())
    after = set(archive.parent.rglob("*")) - {into}
    assert sorted(after) == [path for path in before if path != into]


@pytest.mark.parametrize("evil", EVIL_TARS)
def test_evil_tar_archives_write_nothing(tmp_path, evil):
    archive = tar_with(tmp_path / "evil.tar.gz", *EVIL_TARS[evil])
    is_refused(archive, tmp_path / "data", "refused because its member")
    assert not Path("/tmp/htdg_evil.txt").exists()


@pytest.mark.parametrize(
    "name", ["../evil.txt", "set/../../evil", "/tmp/htdg_evil.txt", "..\\evil", "C:\\evil"]
)
def test_evil_zip_archives_write_nothing(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("set/first.txt", "first")
        archive.writestr(name, "evil")
    is_refused(tmp_path / "evil.zip", tmp_path / "data", "leads out of its folder")


def test_links_in_zip_archives_are_refused(tmp_path):
    link = zipfile.ZipInfo("set/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("set/first.txt", "first")
        archive.writestr(link, "/etc/passwd")
    is_refused(tmp_path / "evil.zip", tmp_path / "data", "is a link or a device")


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.xz", ".tar", ".zip"])
def test_archives_cut_short_leave_nothing(tmp_path, suffix):
    folder = small_sets.make_category(tmp_path / "made")
    archive = small_sets.pack(folder, tmp_path / "archives" / f"bottle{suffix}")
    unpack(archive, tmp_path / "whole")
    unpacked = sorted((tmp_path / "whole").rglob("*.*"))
    originals = sorted((tmp_path / "made").rglob("*.*"))
    assert [p.read_bytes() for p in unpacked] == [p.read_bytes() for p in originals]
    assert len(unpacked) == 17
    content = archive.read_bytes()
    for share in (0, 0.3, 0.7):
        archive.write_bytes(content[: int(len(content) * share)])
        is_refused(archive, tmp_path / "data", "damaged or no archive")


def test_damaged_content_is_noticed(tmp_path):
    folder = small_sets.make_category(tmp_path / "made")
    for suffix in (".tar.gz", ".tar.xz", ".zip"):
        archive = small_sets.pack(folder, tmp_path / "archives" / f"bottle{suffix}")
        content = bytearray(archive.read_bytes())
        for at in range(len(content) // 2, len(content) // 2 + 50):
            content[at] ^= 0xFF
        archive.write_bytes(content)
        is_refused(archive, tmp_path / f"data{suffix}", "damaged or no archive")


def test_what_is_there_stays(tmp_path):
    folder = small_sets.make_category(tmp_path / "made")
    archive = small_sets.pack(folder, tmp_path / "bottle.zip")
    (tmp_path / "data" / "bottle").mkdir(parents=True)
    (tmp_path / "data" / "bottle" / "mine.txt").write_text("mine")
    unpack(archive, tmp_path / "data")
    assert [p.name for p in (tmp_path / "data").rglob("*")] == ["bottle", "mine.txt"]


def test_archives_that_are_missing_or_cannot_be_unpacked(tmp_path):
    with pytest.raises(DatasetError, match=r"no\.zip is not there"):
        unpack(tmp_path / "no.zip", tmp_path / "data")
    archive = tar_with(tmp_path / "good.tar.gz")
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot be unpacked into"):
        unpack(archive, tmp_path / "file")
    unpack(archive, tmp_path / "data")
    assert (tmp_path / "data" / "set" / "first.txt").read_text() == "first"
