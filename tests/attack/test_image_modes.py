"""Images of every mode of PIL and of every shape: one tensor, or one sentence.

The same picture in whatever form gives the same tensor, and what that is is said by a second,
plainer reading of the same pixels here.
"""

import io

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from htdg.images import load_image
from htdg.io.images import read_image
from htdg.io.problems import ImageError
from tests.attack.profile import accepted_or_refused, tries

pytestmark = pytest.mark.filterwarnings("ignore")

MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB"]
MODES += ["HSV", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"]
#: Width and height.
SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9)) | st.sampled_from(
    [(1, 1), (1, 5000), (5000, 1), (3, 2), (2, 3), (1, 2), (257, 3), (64, 64), (11, 11)]
)
#: What may be beside the pixels of an image.
INFO = st.sampled_from(
    [
        {},
        {"transparency": 0},
        {"transparency": 255},
        {"transparency": 70000},
        {"transparency": -1},
        {"transparency": (1, 2, 3)},
        {"transparency": (1, 2)},
        {"transparency": b"\0\xff"},
        {"transparency": b""},
        {"transparency": "x"},
        {"transparency": None},
        {"gamma": 0.0},
        {"icc_profile": b"x"},
        {"exif": b"Exif\0\0no"},
        {"exif": b""},
        {"dpi": (0, 0)},
    ]
)


def filled(mode: str, size: tuple[int, int], content: bytes) -> Image.Image:
    """An image with these bytes, over and over, for pixels."""
    image = Image.new(mode, size)
    length = len(image.tobytes())
    return Image.frombytes(mode, size, (content * (length // len(content) + 1))[:length])


def check(tensor: torch.Tensor, size: tuple[int, int]) -> None:
    assert tensor.dtype == torch.float32
    assert tensor.shape == (3, size[1], size[0])
    assert tensor.isfinite().all()
    assert tensor.abs().max() <= 1
    assert tensor.is_contiguous()


@tries(400)
@given(
    mode=st.sampled_from(MODES),
    size=SIZES,
    content=st.binary(min_size=1, max_size=40) | st.sampled_from([b"\0", b"\xff", b"\0\0\x80\x3f"]),
    info=INFO,
    palette=st.none() | st.tuples(st.sampled_from(["RGB", "RGBA"]), st.binary(max_size=800)),
)
def test_every_mode_is_read_or_refused(mode, size, content, info, palette):
    try:
        image = filled(mode, size, content)
    except ValueError:  # PIL has no such mode, or makes none of bytes
        assume(False)
    if palette is not None and mode in ("P", "PA", "L"):
        try:
            image.putpalette(palette[1], palette[0])
        except ValueError:
            assume(False)
    image.info |= info
    with accepted_or_refused() as refusals:
        check(load_image(image), size)
    if refusals:
        assert isinstance(refusals[0], ImageError)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_that_has_colours_is_read(mode):
    """A refusal of everything would pass the test above."""
    check(load_image(Image.new(mode, (3, 2))), (3, 2))


SMALL = st.tuples(st.integers(1, 7), st.integers(1, 7))
COLOURS = SMALL.flatmap(lambda s: hnp.arrays(np.uint8, (*s, 3)))
GREYS = SMALL.flatmap(lambda s: hnp.arrays(np.uint8, s))


def expected(pixels: np.ndarray) -> torch.Tensor:
    """The tensor of colour pixels (H, W, 3) uint8."""
    return torch.from_numpy(pixels.astype(np.float32) / 255 * 2 - 1).permute(2, 0, 1)


def assert_same(tensor: torch.Tensor, other: torch.Tensor) -> None:
    assert tensor.shape == other.shape
    torch.testing.assert_close(tensor, other, rtol=0, atol=1e-6)


@tries(60)
@given(pixels=COLOURS)
def test_the_same_colours_in_any_form_are_the_same_tensor(pixels):
    height, width = pixels.shape[:2]
    opaque = np.dstack([pixels, np.full((height, width, 1), 255, np.uint8)])
    colours, numbers = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    palette = Image.fromarray(numbers.reshape(height, width).astype(np.uint8), "L")
    palette.putpalette(colours.tobytes(), "RGB")
    forms = [
        Image.fromarray(pixels),
        Image.fromarray(opaque),
        palette,
        pixels,
        opaque,
        pixels[:, ::-1][:, ::-1],
        np.asfortranarray(pixels),
        pixels.astype(np.float64) / 255,
        pixels.astype(np.uint16) * 257,
        pixels.astype(">u2") * np.array(257, ">u2"),
        torch.from_numpy(pixels).permute(2, 0, 1),
        torch.from_numpy(pixels / 255).permute(2, 0, 1),
    ]
    assert palette.mode == "P"
    for form in forms:
        assert_same(load_image(form), expected(pixels))
    for image in forms[:3]:
        for kind in ("PNG", "TIFF"):
            assert_same(load_image(saved(image, kind)), expected(pixels))
    assert_same(load_image(saved(forms[0], "BMP")), expected(pixels))
    assert_same(load_image(saved(forms[0], "PPM")), expected(pixels))
    assert_same(load_image(saved(forms[0], "WEBP", lossless=True)), expected(pixels))


def saved(image: Image.Image, kind: str, **options) -> io.BytesIO:
    """An image as a file of this kind."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


@tries(60)
@given(pixels=GREYS)
def test_the_same_greys_in_any_form_are_the_same_tensor(pixels):
    grey = expected(np.dstack([pixels] * 3))
    image = Image.fromarray(pixels)
    alpha = Image.merge("LA", [image, Image.new("L", image.size, 255)])
    forms = [image, alpha, image.convert("RGB"), image.convert("P"), pixels, pixels[..., None]]
    forms += [np.dstack([pixels] * 3), pixels.astype(np.uint16) * 257, pixels / 255]
    forms += [Image.fromarray(pixels.astype(np.uint16) * 257)]
    forms += [Image.fromarray(pixels.astype(np.float32) / 255)]
    forms += [torch.from_numpy(pixels), torch.from_numpy(pixels)[None]]
    for form in forms:
        assert_same(load_image(form), grey)
    for form in (image, alpha, forms[9]):
        assert_same(load_image(saved(form, "PNG")), grey)
        assert_same(load_image(saved(form, "TIFF")), grey)


@tries(60)
@given(pixels=COLOURS, data=st.data())
def test_transparency_is_laid_over_white_in_any_form(pixels, data):
    height, width = pixels.shape[:2]
    alpha = data.draw(hnp.arrays(np.uint8, (height, width)))
    share = (alpha / 255)[..., None]
    wanted = torch.from_numpy(pixels / 255 * share + (1 - share)).permute(2, 0, 1).float() * 2 - 1
    array = np.dstack([pixels, alpha])
    image = Image.fromarray(array)
    for form in (array, image, saved(image, "PNG"), saved(image, "TIFF"), array / 255):
        assert_same(load_image(form), wanted)


@tries(60)
@given(pixels=GREYS, hidden=st.integers(0, 255), data=st.data())
def test_a_transparent_number_of_a_palette_is_white(pixels, hidden, data):
    colours = data.draw(hnp.arrays(np.uint8, (256, 3)))
    image = Image.fromarray(pixels, "L")
    image.putpalette(colours.tobytes(), "RGB")
    seen = colours[pixels]
    seen[pixels == hidden] = 255
    for kind in ("PNG", "GIF"):
        file = saved(image, kind, transparency=hidden, **({"optimize": False}))
        assert_same(load_image(file), expected(seen))
    image.info["transparency"] = hidden
    assert_same(load_image(image), expected(seen))


@tries(40)
@given(pixels=COLOURS, orientation=st.integers(-2, 20))
def test_the_noted_orientation_is_applied_in_any_file(pixels, orientation):
    turned = {
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels),
    }
    exif = Image.Exif()
    exif[0x0112] = max(0, orientation)
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        file = saved(Image.fromarray(pixels), kind, exif=exif, **options)
        upright = np.ascontiguousarray(turned.get(orientation, pixels))
        assert_same(load_image(file), expected(upright))
        assert np.array_equal(read_image(file), upright)


@tries(100)
@given(
    values=hnp.arrays(
        st.sampled_from([np.int8, np.int16, np.int32, np.int64, np.uint32, np.float16, np.float32])
        | st.sampled_from([np.float64, np.longdouble, np.complex64, np.bool_, "U1", object]),
        hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5),
    ),
    white=st.sampled_from([0, 1, 255, 4095, 65535, 2**32 - 1]),
)
def test_arrays_of_any_type_and_shape_are_read_or_refused(values, white):
    with accepted_or_refused() as refusals:
        tensor = load_image(values, white_level=white)
        check(tensor, (values.shape[1], values.shape[0]))
    if refusals:
        assert isinstance(refusals[0], ImageError)


@tries(60)
@given(
    kind=st.sampled_from([torch.float16, torch.bfloat16, torch.float64, torch.int16, torch.bool])
    | st.sampled_from([torch.complex64, torch.uint8, torch.float8_e5m2, torch.uint16]),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    fill=st.sampled_from([0, 1, -1, 0.5]),
    form=st.sampled_from(["plain", "sparse", "meta", "expanded", "conj", "grad"]),
)
def test_tensors_of_any_type_and_shape_are_read_or_refused(kind, shape, fill, form):
    tensor = torch.full(shape, fill).to(kind)
    if form == "sparse" and kind not in (torch.float8_e5m2, torch.uint16):
        tensor = tensor.to_sparse()
    elif form == "meta":
        tensor = tensor.to("meta")
    elif form == "expanded":
        tensor = tensor[None].expand(3, *tensor.shape)
    elif form == "conj" and kind == torch.complex64:
        tensor = tensor.conj()
    elif form == "grad" and tensor.is_floating_point():
        tensor.requires_grad_()
    with accepted_or_refused() as refusals:
        read = load_image(tensor)
        check(read, (tensor.shape[-1], tensor.shape[-2]))
    if refusals:
        assert isinstance(refusals[0], ImageError)
