"""Files made to harm: refused in one sentence, with no program started and no memory filled."""

import io
import os
import tarfile
import time
import zipfile

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from htdg import HTDGDetector, ImageError, ModelError
from htdg.datasets import DatasetError
from htdg.datasets.archive import unpack
from htdg.images import list_images, load_image
from htdg.io.official_files import read_file

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


def test_postscript_starts_no_program_whatever_it_is_called(tmp_path, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", None)  # a TypeError if it were called
    (tmp_path / "image.png").write_bytes(POSTSCRIPT)
    for image in (tmp_path / "image.png", io.BytesIO(POSTSCRIPT)):
        with pytest.raises(ImageError, match=r"is no image that can be read: give a file of the"):
            load_image(image)
    assert list_images(tmp_path) == ([], [tmp_path / "image.png"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_nothing_is_read_from_a_pipe_or_a_device(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    started = time.monotonic()
    with pytest.raises(ImageError, match=r"pipe\.png .*it is no regular file"):
        load_image(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match=r"/dev/zero .*it is no regular file"):
        load_image("/dev/zero")
    with pytest.raises(DatasetError, match="it is no regular file"):
        unpack(tmp_path / "pipe.png", tmp_path / "into")
    with pytest.raises(ModelError, match="is not there"):
        read_file(tmp_path / "pipe.png")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_made_to_fill_the_disk_is_refused(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("htdg.datasets.archive.SPARE", 2**20)
    zeros = bytes(8 * 2**20)
    archive = tmp_path / f"bomb.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("zeros", zeros)
    else:
        info = tarfile.TarInfo("zeros")
        info.size = len(zeros)
        with tarfile.open(archive, "w:gz") as packed:
            packed.addfile(info, io.BytesIO(zeros))
    with pytest.raises(DatasetError, match="'zeros' makes it more than 50 times its size"):
        unpack(archive, tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == []


def test_an_archive_that_says_how_much_it_holds_is_not_unpacked_first(tmp_path):
    info = tarfile.TarInfo("zeros")
    info.size = 10**12  # of which it has nothing
    with (tmp_path / "bomb.tar").open("wb") as file:
        file.write(info.tobuf() + bytes(1024))
    with pytest.raises(DatasetError, match="'zeros' makes it more than 50 times its size"):
        unpack(tmp_path / "bomb.tar", tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == []


def test_a_packed_file_of_weights_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "Zs.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("archive/data/0", bytes(16 * 2**20))
    with pytest.raises(ModelError, match=r"Zs\.pth would have 16 MiB when unpacked"):
        read_file(tmp_path / "Zs.pth")


def test_a_score_that_is_not_finite_is_an_error(brick):
    model = HTDGDetector("tiny", niter=1).fit(brick[0][0], progress=False)
    model.scales_[0].discriminator.tail.bias.data.fill_(np.nan)
    with pytest.raises(ModelError, match="A score is not finite"):
        model.anomaly_score(brick[1][0])


def test_an_image_of_every_kind_that_is_meant_is_read(tmp_path):
    pixels = np.full((16, 16, 3), 200, np.uint8)
    for name in ("a.png", "a.jpg", "a.tif", "a.bmp", "a.webp", "a.gif", "a.ppm", "a.jp2"):
        Image.fromarray(pixels).save(tmp_path / name)
        assert abs(float(load_image(tmp_path / name).mean()) - (200 / 127.5 - 1)) < 0.02
