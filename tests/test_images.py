"""Images in: every form of the same picture gives the same tensor, and every mistake a sentence."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from htdg import ConfigError
from htdg.io import images
from htdg.io.images import (
    ImageError,
    iterate_images,
    list_images,
    load_image,
    load_images,
    read_ahead,
    read_image,
    to_uint8,
)


@pytest.fixture
def colour() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (5, 4, 3), dtype=np.uint8)


@pytest.fixture
def grey() -> np.ndarray:
    return np.arange(0, 256, dtype=np.uint8).reshape(16, 16)


def one_pixel(value, mode: str) -> list[float]:
    """The three channels of a 1 x 1 PIL image."""
    return load_image(Image.new(mode, (1, 1), value)).flatten().tolist()


def test_values_of_eight_and_sixteen_bits():
    image = np.array([[[0, 51, 255]]], np.uint8)
    torch.testing.assert_close(load_image(image).flatten(), torch.tensor([-1.0, -0.6, 1.0]))
    image = np.array([[0, 13107, 65535]], np.uint16)
    torch.testing.assert_close(load_image(image)[0, 0], torch.tensor([-1.0, -0.6, 1.0]))
    assert load_image(image).dtype == torch.float32


def test_channels_first_and_rows_before_columns():
    image = np.zeros((2, 3, 3), np.uint8)
    image[1, 2] = (255, 0, 0)
    loaded = load_image(image)
    assert loaded.shape == (3, 2, 3)
    assert loaded[:, 1, 2].tolist() == [1, -1, -1]
    assert loaded[0].sum() == 1 - 5


def test_colour_is_the_same_in_every_form(colour, tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(colour).save(path)
    channels_first = torch.from_numpy(colour).permute(2, 0, 1)
    opaque = np.dstack([colour, np.full((5, 4), 255, np.uint8)])
    forms = {
        "path": path,
        "string": str(path),
        "file": Image.open(path),
        "pil": Image.fromarray(colour),
        "rgba pil": Image.fromarray(opaque),
        "rgba array": opaque,
        "float64": colour / 255,
        "float32": colour.astype(np.float32) / 255,
        "16 bits": colour.astype(np.uint16) * 257,
        "big-endian": (colour.astype(np.uint16) * 257).astype(">u2"),
        "read_image": read_image(path),
        "tensor": channels_first,
        "float tensor": channels_first.float() / 255,
        "rgba tensor": torch.from_numpy(opaque).permute(2, 0, 1),
        "flipped twice": colour[::-1].copy()[::-1],
    }
    expected = load_image(colour)
    torch.testing.assert_close(expected, channels_first.float() / 127.5 - 1)
    for form, image in forms.items():
        assert torch.equal(load_image(image), expected), form
    assert np.array_equal(to_uint8(expected[None])[0], colour)


def test_grey_is_the_same_in_every_form(grey, tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(grey).save(path)
    wide = grey.astype(np.uint16) * 257
    Image.fromarray(wide).save(tmp_path / "sixteen.png")
    palette = Image.fromarray(grey, "L").convert("P")
    forms = {
        "path": path,
        "pil": Image.fromarray(grey),
        "with alpha": Image.fromarray(grey).convert("LA"),
        "palette": palette,
        "I": Image.fromarray(wide.astype(np.int32)),
        "I;16": Image.fromarray(wide),
        "16 bit file": tmp_path / "sixteen.png",
        "F": Image.fromarray((grey / 255).astype(np.float32)),
        "(H, W, 1)": grey[..., None],
        "three channels": np.stack([grey] * 3, axis=-1),
        "float64": grey / 255,
        "tensor": torch.from_numpy(grey),
        "(1, H, W)": torch.from_numpy(grey)[None],
        "double tensor": torch.from_numpy(grey)[None].double() / 255,
    }
    expected = load_image(grey)
    assert expected.shape == (3, 16, 16)
    assert torch.equal(expected[0], expected[1])
    assert torch.equal(expected[0], expected[2])
    for form, image in forms.items():
        assert torch.equal(load_image(image), expected), form


def test_black_and_white():
    mask = np.array([[True, False]])
    expected = torch.tensor([[[1.0, -1.0]]] * 3)
    assert torch.equal(load_image(mask), expected)
    assert torch.equal(load_image(Image.fromarray(mask)), expected)
    assert torch.equal(load_image(torch.from_numpy(mask)), expected)


def test_transparency_is_laid_over_white():
    # black covering a fifth: 0.8 of white, which is 0.6 in [-1, 1]
    assert one_pixel((0, 0, 0, 51), "RGBA") == pytest.approx([0.6] * 3)
    assert one_pixel((0, 51), "LA") == pytest.approx([0.6] * 3)
    assert one_pixel((255, 0, 0, 0), "RGBA") == [1, 1, 1]
    array = np.array([[[0, 0, 0, 0.2]]])
    assert load_image(array).flatten().tolist() == pytest.approx([0.6] * 3)


def test_palette_with_a_transparent_colour(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    image.save(tmp_path / "palette.png", transparency=1)
    loaded = load_image(tmp_path / "palette.png")
    assert loaded[:, 0, 0].tolist() == [1, -1, -1]
    assert loaded[:, 0, 1].tolist() == [1, 1, 1]


def test_other_colour_models():
    assert one_pixel((0, 0, 0, 0), "CMYK") == [1, 1, 1]
    assert one_pixel((0, 255, 255, 0), "CMYK") == [1, -1, -1]
    assert one_pixel((0, 0, 255), "HSV") == [1, 1, 1]


def test_orientation_noted_by_the_camera(tmp_path):
    # Orientation 6: turn clockwise to see it upright, so that what is stored left comes to the top.
    stored = np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    upright = load_image(tmp_path / "turned.png")
    assert torch.equal(upright, load_image(stored.transpose(1, 0, 2)))
    assert torch.equal(load_image(Image.open(tmp_path / "turned.png")), upright)


def test_half_precision_tensors_are_read():
    image = torch.tensor([[0.0, 0.5, 1.0]])
    for kind in (torch.float16, torch.bfloat16):
        assert load_image(image.to(kind))[0].tolist() == [[-1, 0, 1]]


WRONG = {
    "no pixels": np.zeros((0, 4, 3), np.uint8),
    "one axis": np.zeros(4, np.uint8),
    "two channels": np.zeros((4, 4, 2), np.uint8),
    "channels first": np.zeros((3, 8, 8), np.uint8),
    "channels last tensor": torch.zeros(8, 8, 3),
    "four axes": torch.zeros(1, 3, 8, 8),
    "float beyond 1": np.full((4, 4), 255.0),
    "float below 0": torch.full((3, 4, 4), -0.5),
    "nan": np.full((4, 4), np.nan),
    "infinite": torch.full((4, 4), torch.inf),
    "negative numbers": np.full((4, 4), -1, np.int64),
    "complex": np.zeros((4, 4), np.complex64),
    "text": np.array([["a"]]),
    "beyond 16 bits": Image.fromarray(np.full((4, 4), 70000, np.int32)),
    "negative": Image.fromarray(np.full((4, 4), -1, np.int32)),
    "float pil": Image.fromarray(np.full((4, 4), 2, np.float32)),
    "a number": 3,
    "nothing": None,
    "too large": np.broadcast_to(np.uint8(0), (20000, 20000)),
}


def is_one_sentence(text: str) -> bool:
    return text.endswith(".") and ". " not in text and "\n" not in text


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_image_gets_one_sentence(wrong):
    with pytest.raises(ImageError, match="the thing") as caught:
        load_image(WRONG[wrong], name="the thing")
    assert is_one_sentence(str(caught.value))


def test_files_that_are_no_images_get_one_sentence(tmp_path):
    good = tmp_path / "good.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(good)
    (tmp_path / "text.png").write_text("I am not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:5000])
    Image.open(good).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:1500])
    (tmp_path / "folder.png").mkdir()
    for name, words in {
        "text.png": "no image",
        "empty.png": "no image",
        "cut.png": "damaged",
        "cut.jpg": "damaged",
        "folder.png": "folder",
        "missing.png": "not there",
    }.items():
        with pytest.raises(ImageError, match=words) as caught:
            load_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert is_one_sentence(str(caught.value))
    with pytest.raises(ImageError, match="damaged"):
        load_image(Image.open(tmp_path / "cut.png"))  # opens, and fails only when read


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_file_of_few_bytes_and_very_many_pixels_is_refused(tmp_path):
    for name, side in (("large.png", 11000), ("bomb.png", 14000)):
        Image.new("1", (side, side)).save(tmp_path / name)
        with pytest.raises(ImageError, match="million pixels") as caught:
            load_image(tmp_path / name)
        assert is_one_sentence(str(caught.value))


def test_one_image_a_list_or_a_batch(colour, grey):
    expected = load_image(colour)
    for single in (colour, Image.fromarray(colour), torch.from_numpy(colour).permute(2, 0, 1)):
        (loaded,) = load_images(single)
        assert torch.equal(loaded, expected)
    assert len(load_images(grey)) == 1
    mixed = load_images([colour, Image.fromarray(grey)])
    assert [tuple(image.shape) for image in mixed] == [(3, 5, 4), (3, 16, 16)]
    other = 255 - colour
    batch = np.stack([colour, other])
    for several in (batch, torch.from_numpy(batch).permute(0, 3, 1, 2), iter([colour, other])):
        first, second = load_images(several)
        assert torch.equal(first, expected)
        torch.testing.assert_close(second, -expected)


def test_mistakes_in_lists_are_numbered(colour):
    with pytest.raises(ImageError, match="image 3 has float values"):
        load_images([colour, colour, colour.astype(float)])
    with pytest.raises(ImageError, match="empty"):
        load_images([])
    with pytest.raises(ImageError, match="empty"):
        load_images(np.zeros((0, 8, 8, 3), np.uint8))
    with pytest.raises(ImageError, match=r"\(2, 8, 8\)"):
        load_images(np.zeros((2, 8, 8), np.uint8))
    with pytest.raises(ImageError, match="int"):
        load_images(3)


def test_three_planes_are_one_colour_image_and_a_batch_is_asked_for_by_its_shape():
    planes = np.random.default_rng(0).integers(0, 256, (3, 9, 8), dtype=np.uint8)
    tensor = torch.from_numpy(planes)
    (colour,) = load_images(tensor)
    assert torch.equal(colour, load_image(planes.transpose(1, 2, 0)))
    for batch in (tensor[:, None], planes[..., None]):
        greys = load_images(batch)
        assert len(greys) == 3
        for grey, plane in zip(greys, planes, strict=True):
            assert torch.equal(grey, load_image(plane))


@pytest.mark.parametrize(
    ("several", "advice"),
    [
        (torch.zeros(5, 9, 8), "give 5 grey images as (5, 1, 9, 8), by images[:, None]."),
        (np.zeros((3, 9, 8)), "give 3 grey images as (3, 9, 8, 1), by images[..., None]."),
    ],
)
def test_grey_images_without_a_channel_axis_are_told_how_to_be_a_batch(several, advice):
    with pytest.raises(ImageError) as caught:
        load_images(several)
    assert str(caught.value).endswith(advice)
    assert is_one_sentence(str(caught.value))


def test_folder_listing_goes_by_content(tmp_path, colour):
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    image = Image.fromarray(colour)
    for name in ("b/2.png", "a.dat", ".hidden/3.png"):
        image.save(tmp_path / name, format="PNG")
    (tmp_path / "notes.png").write_text("text")
    (tmp_path / "b" / "readme.txt").write_text("text")
    images, skipped = list_images(tmp_path)
    assert images == [tmp_path / "a.dat", tmp_path / "b/2.png"]
    assert skipped == [tmp_path / "b/readme.txt", tmp_path / "notes.png"]
    with pytest.raises(ImageError, match=r"readme\.txt is no image"):
        list_images(str(tmp_path), strict=True)
    with pytest.raises(ImageError, match="no folder"):
        list_images(tmp_path / "missing")


def test_hidden_files_are_passed_over_in_silence(tmp_path, colour):
    for name in (".thumbnail.png", "b.png", "a.png"):
        Image.fromarray(colour).save(tmp_path / name)
    (tmp_path / ".notes").write_text("not even in strict mode is this worth a word")
    listed = [tmp_path / "a.png", tmp_path / "b.png"]
    assert list_images(tmp_path) == (listed, [])
    assert list_images(tmp_path, strict=True) == (listed, [])


def test_an_empty_folder_lists_nothing(tmp_path):
    assert list_images(tmp_path, strict=True) == ([], [])


#: How a camera held in each of the eight ways stores an upright picture (EXIF tag 0x0112).
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_all_eight_orientations_come_out_upright(orientation, colour, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](colour))
    Image.fromarray(stored).save(tmp_path / "photo.png", exif=exif)
    assert torch.equal(load_image(tmp_path / "photo.png"), load_image(colour))


def as_tensor(array):
    return torch.from_numpy(array).movedim(-1, 0)


@pytest.mark.parametrize("form", [np.asarray, as_tensor], ids=["array", "tensor"])
@pytest.mark.parametrize(("kind", "top"), [(np.uint8, 255), (np.uint16, 65535), (np.float64, 1)])
def test_transparency_in_every_type(form, kind, top):
    rgba = np.array([[[0.2, 0.4, 1.0, 0.6]]]) * top  # fifths are whole numbers in every type
    # c * a + 1 - a = 0.12 + 0.4, 0.24 + 0.4, 0.6 + 0.4
    loaded = load_image(form(rgba.round(6).astype(kind))).flatten()
    assert loaded.tolist() == pytest.approx([0.04, 0.28, 1.0], abs=1e-6)


def test_sixteen_bits_are_finer_than_eight(tmp_path):
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16)  # below one 8-bit step
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    expected = torch.arange(256.0).view(16, 16) / 32767.5 - 1
    for form in (ramp, tmp_path / "ramp.png", torch.from_numpy(ramp)):
        torch.testing.assert_close(load_image(form)[1], expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F"])
def test_black_and_white_in_every_mode_of_pil(mode):
    image = Image.new("L", (2, 1))
    image.putpixel((1, 0), 255)
    converted = image.convert("RGB").convert(mode) if mode in ("P", "CMYK") else image.convert(mode)
    if mode == "I":
        converted = converted.point(lambda v: v * 257)  # 32 bits hold 16-bit values
    if mode == "F":
        converted = converted.point(lambda v: v / 255)
    assert load_image(converted).tolist() == [[[-1, 1]]] * 3


@pytest.mark.parametrize(
    "form",
    [
        lambda i: i,
        Image.fromarray,
        torch.from_numpy,
        lambda i: np.broadcast_to(i[..., None], (*i.shape, 3)),
        lambda i: i / 255,
    ],
)
def test_the_limit_of_pixels_holds_for_every_form(form, grey, monkeypatch):
    monkeypatch.setattr(images, "MEGAPIXELS", 256e-6)
    assert load_image(form(grey)).shape == (3, 16, 16)
    monkeypatch.setattr(images, "MEGAPIXELS", 255e-6)
    with pytest.raises(ImageError, match=r"the thing has more than .* pixels") as caught:
        load_image(form(grey), name="the thing")
    assert is_one_sentence(str(caught.value))


def test_the_limit_of_pixels_is_an_option(monkeypatch, tmp_path):
    Image.new("L", (1200, 1000)).save(tmp_path / "a.png")
    monkeypatch.setenv("HTDG_MAX_MEGAPIXELS", "1")
    with pytest.raises(ImageError, match="more than 1 million pixels: make it smaller first, or"):
        load_image(tmp_path / "a.png")
    monkeypatch.setenv("HTDG_MAX_MEGAPIXELS", "2")
    assert load_image(tmp_path / "a.png").shape == (3, 1000, 1200)
    for wrong in ("0", "many", "-3", "179", "²"):
        monkeypatch.setenv("HTDG_MAX_MEGAPIXELS", wrong)
        with pytest.raises(ConfigError, match=f"HTDG_MAX_MEGAPIXELS is '{wrong}', but it must"):
            load_image(tmp_path / "a.png")


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0, 3), (0, 4, 4)])
def test_images_without_pixels(shape):
    array = np.zeros(shape, np.uint8)
    for form in (array, torch.from_numpy(array)):
        with pytest.raises(ImageError) as caught:
            load_image(form, name="the thing")
        assert is_one_sentence(str(caught.value))


@pytest.mark.parametrize(
    "wrong", [None, 3, [], (), np.zeros((2, 8, 8)), torch.zeros(2, 8, 8), np.zeros(5), [None]]
)
def test_what_is_no_list_of_images_gets_one_sentence(wrong):
    with pytest.raises(ImageError) as caught:
        load_images(wrong)
    assert is_one_sentence(str(caught.value))


def test_images_are_read_when_their_turn_comes(tmp_path, colour):
    Image.fromarray(colour).save(tmp_path / "there.png")
    several = iterate_images([tmp_path / "there.png", tmp_path / "missing.png"])
    assert torch.equal(next(several), load_image(colour))
    with pytest.raises(ImageError, match=r"missing\.png is not there"):
        next(several)


def test_the_input_is_left_as_it_was(colour):
    floats = colour / 255
    for form in (colour, floats, as_tensor(colour), as_tensor(floats)):
        before = form.copy() if isinstance(form, np.ndarray) else form.clone()
        loaded = load_image(form)
        loaded += 1  # nor do they share memory
        assert (form == before).all()


def test_every_grey_level_survives_there_and_back(grey):
    assert np.array_equal(to_uint8(load_image(grey)[None])[0, ..., 0], grey)


def test_to_uint8_rounds_to_the_nearest_level_and_cuts_off():
    levels = torch.tensor([0.4, 0.6, 127.4, 127.6, 254.4, 254.6, -9.0, 300.0])
    pixels = (levels / 127.5 - 1).view(1, 1, 2, 4).expand(1, 3, 2, 4)
    assert to_uint8(pixels).shape == (1, 2, 4, 3)
    assert to_uint8(pixels)[0, ..., 2].ravel().tolist() == [0, 1, 127, 128, 254, 255, 0, 255]


@pytest.mark.parametrize("off", [-1e-9, 1 + 1e-9])
def test_rounding_errors_just_outside_the_range_are_forgiven(off):
    # Interpolation of a float image leaves [0, 1] by that much.
    assert load_image(np.array([[0.5, off]])).abs().max() <= 1


# --- Reading ahead ------------------------------------------------------------------------------


def flat_images(levels):
    return [np.full((4, 5), level, np.uint8) for level in levels]


@pytest.mark.parametrize("ahead", [1, 2, 16])
@pytest.mark.parametrize("form", [list, iter, tuple], ids=["list", "iterator", "tuple"])
def test_reading_ahead_keeps_the_order(form, ahead):
    def slow_at_first(image):
        time.sleep(0.02 if image.max() < -0.9 else 0)
        return image.max().item()

    images = form(flat_images(range(0, 255, 17)))
    levels = list(read_ahead(images, slow_at_first, workers=4, ahead=ahead))
    assert levels == pytest.approx([v / 127.5 - 1 for v in range(0, 255, 17)])


def test_reading_ahead_stops_a_few_images_ahead():
    read = []

    class Watched(Sequence):
        def __len__(self):
            return 100

        def __getitem__(self, i):
            read.append(i)
            return flat_images([i])[0]

    loaded = read_ahead(Watched(), lambda image: image, workers=2, ahead=5)
    next(loaded)
    loaded.close()
    assert sorted(read) == list(range(len(read)))
    assert len(read) <= 6


def test_an_image_that_cannot_be_read_is_named_when_its_turn_comes():
    images = [*flat_images([10, 20]), np.zeros((2, 2, 2), np.uint8)]
    loaded = read_ahead(images, lambda image: image)
    next(loaded)
    next(loaded)
    with pytest.raises(ImageError, match=r"image 3 has shape \(2, 2, 2\)"):
        next(loaded)
    with pytest.raises(ImageError, match="list of images is empty"):
        next(read_ahead([], lambda image: image))
    with pytest.raises(ImageError, match="The images are of type int"):
        next(read_ahead(7, lambda image: image))


def test_one_pil_image_given_many_times_is_decoded_once_at_a_time(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    with Image.open(tmp_path / "large.png") as image:
        sums = list(read_ahead([image] * 4, lambda i: i.sum().item(), workers=4))
    assert sums == [load_image(noise).sum().item()] * 4
