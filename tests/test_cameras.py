"""Images as cameras and programs give them: 12 bits in 16, pages, open files, large ones."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from htdg import HTDGConfig, HTDGDetector, ImageError, ImageWarning
from htdg import scorer as scorer_module
from htdg.commands.cli import main
from htdg.images import load_image, load_images, read_image
from tests.models import QUIET

GREY = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)  # 0 to 252


def warned(caught):
    return [str(warning.message) for warning in caught if warning.category is ImageWarning]


def save_12_bits(path, image):
    """An 8-bit image (H, W) as a camera of 12 bits would have seen it, in a PNG file of 16 bits."""
    Image.fromarray((image * (4095 / 255)).round().astype(np.uint16)).save(path)


def save_colours_of_16_bits(path, values):
    """Values (H, W, 3) uint16 as a PNG file, which PIL cannot write."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


# --- 6: what is white -----------------------------------------------------------------------------


def test_a_file_of_32_bits_that_holds_8_is_read_as_8(tmp_path):
    Image.fromarray(GREY.astype(np.int32)).save(tmp_path / "image.tif")
    with pytest.warns(ImageWarning, match="read as 8 bits if no value is above 255"):
        assert torch.equal(load_image(tmp_path / "image.tif"), load_image(GREY))


def test_a_file_of_32_bits_that_holds_16_is_read_as_16(tmp_path):
    wide = GREY.astype(np.uint16) * 257
    Image.fromarray(wide.astype(np.int32)).save(tmp_path / "image.tif")
    assert torch.equal(load_image(tmp_path / "image.tif"), load_image(wide))


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64, np.uint32, np.uint64])
def test_arrays_of_whole_numbers_are_read_by_the_same_rule(kind):
    with pytest.warns(ImageWarning, match=f"Images of type {np.dtype(kind)} are read as 8 bits"):
        assert torch.equal(load_image(GREY.astype(kind)), load_image(GREY))
    dark = np.array([[3, 200]], kind)  # who knows better says so
    of_16 = load_image(dark.astype(np.uint16), white_level=65535)
    assert torch.equal(load_image(dark, white_level=65535), of_16)


@pytest.mark.parametrize(("bits", "level"), [(8, 255), (10, 1023), (12, 4095), (14, 16383)])
def test_fewer_bits_in_16_are_told_with_the_white_level(bits, level):
    image = np.array([[0, level // 3, level]], np.uint16)
    with pytest.warns(ImageWarning) as caught:
        load_image(image)
    (message,) = warned(caught)
    assert f"no value above {level}, as of a camera of {bits} bits" in message
    assert f"white_level={level}" in message
    exact = [-1, 2 * (level // 3) / level - 1, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(image, white_level=level)[0, 0].tolist() == pytest.approx(exact, 1e-6)


def test_what_uses_16_bits_or_is_black_is_not_told():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for image in (np.array([[0, 16384]], np.uint16), np.zeros((2, 2), np.uint16)):
            load_image(image)


def test_the_white_level_leaves_8_bits_and_floats_alone():
    assert torch.equal(load_image(GREY, white_level=4095), load_image(GREY))
    unit = GREY / 255
    assert torch.equal(load_image(unit, white_level=4095), load_image(unit))


def test_values_above_the_white_level_are_white_and_told():
    with pytest.warns(ImageWarning, match="above the white level, 4095"):
        image = load_image(np.array([[4095, 5000]], np.uint16), white_level=4095)
    assert image[0].tolist() == [[1, 1]]


def test_dark_colours_of_16_bits_are_told(tmp_path):
    bright = np.full((4, 5, 3), 40000, np.uint16)
    save_colours_of_16_bits(tmp_path / "bright.png", bright)
    save_colours_of_16_bits(tmp_path / "dark.png", bright // 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(tmp_path / "bright.png")[0, 0, 0] == pytest.approx(2 * 156 / 255 - 1)
    with pytest.warns(ImageWarning, match="uses no more than 14 of them"):
        load_image(tmp_path / "dark.png")


def test_a_model_remembers_the_white_level(brick, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, image in (("good", brick[0][0]), ("new", brick[1][0])):
        save_12_bits(tmp_path / f"{name}12.png", image)
        Image.fromarray(image).save(tmp_path / f"{name}8.png")
    train = ["train", "--preset", "tiny", "--niter", "2", "--out"]
    assert main([*train, "dark", "good12.png"]) == 0
    assert "--white-level 4095" in capsys.readouterr().err
    assert main([*train, "model", "good12.png", "--white-level", "4095"]) == 0
    assert "white" not in capsys.readouterr().err
    model = HTDGDetector.load(tmp_path / "model")
    assert model.config_.white_level == 4095
    eight = HTDGDetector("tiny", niter=2).fit(tmp_path / "good8.png", **QUIET)
    assert torch.allclose(model.images_, eight.images_, atol=2 / 4095)

    def scored(*words):
        assert main(["score", *words]) == 0
        return float(capsys.readouterr().out.splitlines()[1].split(",")[1])

    of_8 = scored("model", "new8.png")
    assert scored("model", "new12.png") == pytest.approx(of_8, abs=2e-4)
    # A model of 8 bits scores 12 as dark images, says so, and is told otherwise.
    eight.save(tmp_path / "eight")
    assert abs(scored("eight", "new12.png") - scored("eight", "new8.png")) > 1e-3
    assert main(["score", "eight", "new12.png"]) == 0
    assert "htdg: An image of 16 bits has no value above 4095" in capsys.readouterr().err
    right = scored("eight", "new12.png", "--white-level", "4095")
    assert right == pytest.approx(scored("eight", "new8.png"), abs=2e-4)
    assert main(["calibrate", "eight", "new12.png", "--white-level", "4095"]) == 0
    assert HTDGDetector.load(tmp_path / "eight").config_.white_level == 0


def test_overlays_show_12_bits_as_bright_as_8(brick, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.save(tmp_path / "model")
    save_12_bits(tmp_path / "image.png", brick[1][0])
    words = ["score", "model", "image.png", "--white-level", "4095", "--maps", "maps"]
    assert main(words) == 0
    drawn = np.asarray(Image.open(tmp_path / "maps" / "image_overlay.png")).astype(float)
    assert abs(drawn.mean() - brick[1][0].mean()) < 40  # 60 of 255 is what 12 bits in 16 leave


def test_a_warning_comes_once_for_many_images(brick, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny.save(tmp_path / "model")
    (tmp_path / "new").mkdir()
    for n in range(5):
        save_12_bits(tmp_path / "new" / f"{n}.png", brick[1][0])
    assert main(["score", "model", "new"]) == 0
    assert capsys.readouterr().err.count("no value above 4095") == 1


@pytest.mark.parametrize(("name", "options"), [("scan.tif", {}), ("film.gif", {"duration": 100})])
def test_pages_after_the_first_are_told(tmp_path, name, options):
    pages = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (0, 128, 255)]
    pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:], **options)
    with pytest.warns(ImageWarning) as caught:
        assert load_image(tmp_path / name).max() == -1  # the first
    (message,) = warned(caught)
    assert message.startswith(f"{tmp_path / name} has 3 pages, of which only the first is read")


def test_a_preview_is_no_second_page(tmp_path):
    pages = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (0, 128)]
    pages[0].save(tmp_path / "photo.jpg", "MPO", save_all=True, append_images=pages[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_image(tmp_path / "photo.jpg")


# --- 16: maps at a size, open files, NumPy's numbers, bounded memory ----------------------------


@pytest.fixture
def wide(brick):
    """An image (120, 200)."""
    return np.tile(brick[1][0], (2, 3))[:120, :200]


def prediction(detector, image, **options):
    (one,) = detector.predictions([image], (None, 0.05), True, **options)
    return one


def test_maps_at_a_size(tiny, wide):
    whole, small = prediction(tiny, wide), prediction(tiny, wide, map_size=50)
    assert whole.anomaly_map.shape == (120, 200)
    assert small.anomaly_map.shape == (30, 50)
    assert np.array_equal(whole.scores, small.scores)
    assert np.array_equal(prediction(tiny, wide, map_size=4000).anomaly_map, whole.anomaly_map)
    four = whole.anomaly_map.reshape(30, 4, 50, 4)[:, 1:3, :, 1:3].mean((1, 3))  # the middle
    assert np.abs(small.anomaly_map - four).max() < 0.2 * np.ptp(four)
    assert np.corrcoef(small.anomaly_map.ravel(), four.ravel())[0, 1] > 0.99
    assert tiny.anomaly_map(wide, map_size=50).shape == (1, 30, 50)


def test_maps_of_tiles_at_a_size(brick, wide):
    detector = HTDGDetector("tiny", niter=1, tiles=True).fit(brick[0][0], **QUIET)
    whole, small = prediction(detector, wide), prediction(detector, wide, map_size=100)
    assert small.anomaly_map.shape == (60, 100)
    two = whole.anomaly_map.reshape(60, 2, 100, 2).mean((1, 3))
    assert np.corrcoef(small.anomaly_map.ravel(), two.ravel())[0, 1] > 0.99
    assert np.array_equal(whole.scores, small.scores)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "50"])
def test_a_wrong_map_size_is_refused_in_a_sentence(tiny, wide, size):
    with pytest.raises(ValueError, match=r"^map_size is .*, but it must be a whole number, at"):
        prediction(tiny, wide, map_size=size)


def test_the_command_writes_maps_and_overlays_at_a_size(tiny, wide, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny.save(tmp_path / "model")
    Image.fromarray(wide).save(tmp_path / "wide.png")
    words = ["score", "model", "wide.png", "--maps", "maps", "--map-size"]
    assert main([*words, "50"]) == 0
    for picture in ("wide_map.png", "wide_overlay.png"):
        assert Image.open(tmp_path / "maps" / picture).size == (50, 30)
    assert main([*words, "0"]) == 2
    assert "map_size is 0" in capsys.readouterr().err


def png(image):
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content


def test_open_files_are_images(brick, tiny, tmp_path):
    image = brick[1][0]
    Image.fromarray(image).save(tmp_path / "image.png")
    expected = load_image(image)
    content = png(image)  # its position is the end
    assert torch.equal(load_image(content), expected)
    assert torch.equal(load_image(content), expected)  # and a second time
    with (tmp_path / "image.png").open("rb") as file:
        assert torch.equal(load_images(file)[0], expected)
        assert np.array_equal(read_image(file), image)
        several = [content, file, content, tmp_path / "image.png"] * 8  # two threads read them
        scores = tiny.anomaly_score(several)
        assert (scores == tiny.anomaly_score(image)).all()
        assert not file.closed


def test_training_names_open_files(brick, tmp_path):
    Image.fromarray(brick[0][0]).save(tmp_path / "image.png")
    with (tmp_path / "image.png").open("rb") as file:
        detector = HTDGDetector("tiny", niter=1).fit([png(brick[0][1]), file], **QUIET)
    assert detector.image_names_ == ["image 1", str(tmp_path / "image.png")]
    content = png(brick[0][0])
    detector.fit_predict(content, held_out=[content], **QUIET)
    assert detector.image_names_ == ["image 1"]


def test_files_that_are_no_images_are_refused_in_a_sentence(tmp_path):
    (tmp_path / "text.txt").write_text("no picture")
    with (tmp_path / "text.txt").open() as file:
        with pytest.raises(ImageError, match=r'open as text: open it with mode "rb"\.'):
            load_image(file)
        with pytest.raises(ImageError, match="open as text"):
            load_image(io.StringIO("no picture"))
    with pytest.raises(ImageError, match=r"^the image is no image that can be read"):
        load_image(io.BytesIO(b"no picture"))
    with (tmp_path / "text.txt").open("rb") as file:
        pass
    with pytest.raises(ImageError, match=r"text.txt is damaged .*closed"):
        load_image(file)


def test_numbers_of_numpy_are_numbers(brick, tiny):
    options = {"niter": np.int64(1), "image_size": np.int32(40), "lr_d": np.float32(0.001)}
    config = HTDGConfig.preset("tiny", seed=np.int16(3), **options)
    assert (config.niter, config.image_size, config.seed) == (1, 40, 3)
    assert type(config.image_size) is int
    image = brick[1][0]
    one = prediction(tiny, image, batch_size=np.int64(1), map_size=np.int32(48))
    assert one.anomaly_map.shape == (48, 48)
    assert tiny.sample(np.int64(1), np.int64(2), np.int64(40)).shape == (1, 3, 40, 40)


def test_memory_is_bounded_by_default(brick, tiny, monkeypatch):
    """However many images there are, few of them are in memory, and their activations are."""
    at_once = []
    whole = tiny._scorer().voters()
    usual = type(whole[-1]).__call__

    def watched(voter, images):
        at_once.append(len(images) * voter.bytes_per_image())
        return usual(voter, images)

    monkeypatch.setattr(type(whole[-1]), "__call__", watched)
    monkeypatch.setattr(scorer_module, "SCORING_BYTES", 5 * whole[-1].bytes_per_image())
    tiny.anomaly_score([brick[1][0]] * 23)
    assert max(at_once) == scorer_module.SCORING_BYTES
