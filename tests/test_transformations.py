import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from htdg import transformations as module
from htdg.transformations import (
    CATALOGUE,
    Transformation,
    as_rows,
    luma,
    shift_pixels,
    transform_all,
    transformation_names,
    transformations_named,
    translate,
)

MODES = ("pixel", "resampled", "stretched")
EVERY = pytest.mark.parametrize("t", CATALOGUE, ids=str)
EACH_MODE = pytest.mark.parametrize("mode", MODES)


def random_images(side, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(batch, 3, side, side, generator=generator) - 1


def smooth_image(side):
    """A slow wave, other in every colour: linear interpolation of it is nearly right."""
    at = torch.arange(side, dtype=torch.float32) / side
    waves = [torch.sin(2.1 * at[:, None] + c) * torch.cos(1.7 * at + 2 * c) for c in range(3)]
    return torch.stack(waves)[None]


def grey_of(image):
    """Luma by its definition, in all three channels."""
    r, g, b = image[:, 0:1], image[:, 1:2], image[:, 2:3]
    return (0.299 * r + 0.587 * g + 0.114 * b).expand(-1, 3, -1, -1)


# --- Against plain loops over pixels ------------------------------------------------------------


def pixel_at(row, i):
    """Pixel i of a row, reflected about its outer edges: ... 1 0 | 0 1 2 ... n-1 | n-1 n-2 ..."""
    n = len(row)
    while not 0 <= i < n:
        i = -1 - i if i < 0 else 2 * n - 1 - i
    return row[i]


def loop_shift_row(row, t, mode, translated):
    n = len(row)
    if not translated or (t == 0 and mode != "stretched"):
        return row.copy()
    distance = t * int(0.15 * n)
    new = np.zeros_like(row)
    for u in range(n):
        x = u - distance
        if mode == "resampled":
            x = u - distance * n / (n - 1)
        if mode == "stretched":
            x = x * n / (n - 1) - 0.5
        left = math.floor(x)
        part = x - left
        new[u] = (1 - part) * pixel_at(row, left) + part * pixel_at(row, left + 1)
    return new


def loop_transform(t, image, mode):
    """T(image) for an (H, H, 3) array, one pixel after the other."""
    n = len(image)
    if t.flip:
        mirrored = np.zeros_like(image)
        for i in range(n):
            for j in range(n):
                mirrored[i, j] = image[i, n - 1 - j]
        image = mirrored
    image = np.stack([loop_shift_row(row, t.tx, mode, t.translated) for row in image])
    image = np.stack(
        [loop_shift_row(image[:, j], t.ty, mode, t.translated) for j in range(n)], axis=1
    )
    for _ in range(t.k):  # counter-clockwise: the right column becomes the top row
        turned = np.zeros_like(image)
        for i in range(n):
            for j in range(n):
                turned[i, j] = image[j, n - 1 - i]
        image = turned
    if t.grey:
        grey = np.zeros_like(image)
        for i in range(n):
            for j in range(n):
                r, g, b = image[i, j]
                grey[i, j] = 0.299 * r + 0.587 * g + 0.114 * b
        image = grey
    return image


@EACH_MODE
@pytest.mark.parametrize("side", [14, 15, 20])  # shifts of 2, 2 and 3 pixels
def test_all_54_against_loops(mode, side):
    images = random_images(side)
    array = images[0].permute(1, 2, 0).double().numpy()
    for t in CATALOGUE:
        expected = torch.tensor(loop_transform(t, array, mode)).permute(2, 0, 1)
        got = t.apply(images, mode)[0].double()
        torch.testing.assert_close(got, expected, atol=2e-6, rtol=0, msg=f"{t}, {mode}")


RIGHT = Transformation(0, 0, 1, 0, 0)


def test_a_row_shifted_by_hand():
    # n = 7 and one pixel (int(1.05)); the edge pixel is repeated.
    row = torch.tensor([1.0, 2, 3, 4, 5, 6, 7]).expand(1, 3, 7, -1)
    right = translate(row, RIGHT, "pixel")[0, 0, 0]
    left = translate(row, Transformation(0, 0, -1, 0, 0), "pixel")[0, 0, 0]
    assert right.tolist() == [1, 1, 2, 3, 4, 5, 6]
    assert left.tolist() == [2, 3, 4, 5, 6, 7, 7]
    # 7/6 of a pixel: 5/6 of the neighbour and 1/6 of the one after it.
    resampled = translate(row, RIGHT, "resampled")[0, 0, 0]
    expected = torch.tensor([1 + 1 / 6, 1, 2 - 1 / 6, 3 - 1 / 6, 4 - 1 / 6, 5 - 1 / 6, 6 - 1 / 6])
    torch.testing.assert_close(resampled, expected)
    # Pixel u of the stretched image lies at u * 7/6 - 1/2: at -1/2, 2/3, 11/6, 3, 25/6, 16/3, 13/2.
    # The copy shows its pixels -1 to 5; -1 lies at -5/3, reflected at the edge to 2/3.
    stretched = translate(row, RIGHT, "stretched")[0, 0, 0]
    expected = torch.tensor([5 / 3, 1, 5 / 3, 17 / 6, 4, 31 / 6, 19 / 3])
    torch.testing.assert_close(stretched, expected)


def test_a_small_image_by_hand():
    image = torch.tensor([[1.0, 2], [3, 4]]).expand(1, 3, 2, 2)
    turned = Transformation(0, 0, 0, 0, 1).apply(image)[0, 0]
    assert turned.tolist() == [[2, 4], [1, 3]]  # counter-clockwise
    flipped_first = Transformation(0, 1, 0, 0, 1).apply(image)[0, 0]
    assert flipped_first.tolist() == [[1, 3], [2, 4]]


def test_luma_by_hand():
    image = torch.tensor([1.0, -1.0, 0.5]).view(1, 3, 1, 1)
    assert luma(image).item() == pytest.approx(0.299 - 0.587 + 0.057)
    assert Transformation(1, 0, 0, 0, 0).apply(image).flatten().tolist() == pytest.approx(
        [-0.231] * 3
    )


@pytest.mark.parametrize(
    ("side", "pixels"), [(64, 9), (25, 3), (40, 6), (20, 3), (27, 4), (7, 1), (6, 0)]
)
def test_shift_pixels(side, pixels):
    assert shift_pixels(side) == pixels


# --- The catalogue ------------------------------------------------------------------------------


def test_there_are_54_different_ones():
    assert len(CATALOGUE) == 54
    assert len(set(CATALOGUE)) == 54


@EACH_MODE
def test_all_effects_on_an_asymmetric_image_differ(mode):
    copies = transform_all(random_images(20), CATALOGUE, mode).flatten(1)  # (54, P)
    distances = torch.cdist(copies, copies, p=torch.inf) + 9 * torch.eye(54)
    assert distances.min() > 0.1


def test_the_papers_order():
    # (grey, flip, tx, ty, k), counted from T_1 as in the supplementary material.
    wanted = {
        1: (0, 0, 0, 0, 0),
        4: (0, 0, 0, 0, 3),
        32: (0, 1, 1, 1, 3),
        38: (0, 1, 0, -1, 0),
        42: (0, 1, -1, 1, 0),
        43: (1, 0, 0, 0, 0),
        50: (1, 1, 0, 0, 3),
        51: (1, 0, -1, 0, 0),
        52: (1, 0, 1, 0, 0),
        53: (1, 0, 0, -1, 0),
        54: (1, 0, 0, 1, 0),
    }
    rows = as_rows(CATALOGUE)
    assert {n: tuple(rows[n - 1]) for n in wanted} == wanted


def test_the_papers_groups():
    rows = [tuple(row) for row in as_rows(CATALOGUE)]
    binary = {(0, f, tx, ty, k) for f in (0, 1) for tx in (0, 1) for ty in (0, 1) for k in range(4)}
    assert set(rows[:32]) == binary
    assert set(rows[32:38]) == {(0, f, tx, -1, 0) for f in (0, 1) for tx in (-1, 0, 1)}
    assert set(rows[38:42]) == {(0, f, -1, ty, 0) for f in (0, 1) for ty in (0, 1)}
    assert set(rows[42:50]) == {(1, f, 0, 0, k) for f in (0, 1) for k in range(4)}
    assert set(rows[50:52]) == {(1, 0, -1, 0, 0), (1, 0, 1, 0, 0)}
    assert set(rows[52:]) == {(1, 0, 0, -1, 0), (1, 0, 0, 1, 0)}


def test_named_subsets():
    assert set(transformation_names()) == {"rgb54", "grey42", "rotations"}
    assert transformations_named("rgb54") == CATALOGUE
    assert transformations_named("grey42") == CATALOGUE[:42]
    assert not any(t.grey for t in transformations_named("grey42"))
    turns = [(0, 0, 0, 0, k) for k in range(4)]
    assert [tuple(row) for row in as_rows(transformations_named("rotations"))] == turns
    with pytest.raises(KeyError):
        transformations_named("flips")


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ((2, 0, 0, 0, 0), "grey"),
        ((0, -1, 0, 0, 0), "flip"),
        ((0, 0, 2, 0, 0), "tx"),
        ((0, 0, 0, -2, 0), "ty"),
        ((0, 0, 0, 0, 4), "k"),
    ],
)
def test_values_outside_the_family_are_refused(row, name):
    with pytest.raises(ValueError, match=f"Transformation {name} is"):
        Transformation(*row)


def test_in_words():
    assert str(Transformation(0, 0, 0, 0, 0)) == "identity"
    assert str(Transformation(1, 1, 1, -1, 3)) == "flip, shift (+1, -1), turn 270, grey"
    assert len({str(t) for t in CATALOGUE}) == 54


# --- Undoing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [20, 21])
@EVERY
def test_undo_returns_the_image_exactly_in_pixel_mode(t, side):
    image = random_images(side)
    back, defined = t.undo(t.apply(image, "pixel"), side, "pixel")
    expected = grey_of(image) if t.grey else image
    torch.testing.assert_close(back[..., defined], expected[..., defined], atol=1e-6, rtol=0)
    assert (back[..., ~defined] == 0).all()
    # A shift by 3 pixels costs 3 rows or columns, nothing else does.
    assert defined.sum() == (side - 3 * abs(t.tx)) * (side - 3 * abs(t.ty))


@pytest.mark.parametrize("side", [20, 27])
@EVERY
def test_undo_returns_the_image_to_interpolation_in_resampled_mode(t, side):
    image = smooth_image(side)
    back, defined = t.undo(t.apply(image, "resampled"), side, "resampled")
    expected = grey_of(image) if t.grey else image
    worst = (back - expected)[..., defined].abs().max()
    # Interpolating twice with parts p and 1 - p errs by up to p (1 - p) times the second
    # derivative along each axis, 0.16 * 0.84 * (0.011 + 0.007) = 0.0024 at side 20. The wave
    # changes by up to 0.1 a pixel, so a place wrong by even a tenth of a pixel would show.
    assert worst < (3e-3 if t.translated else 1e-6)
    assert (back[..., ~defined] == 0).all()


@pytest.mark.parametrize(
    ("t", "rows", "cols"),
    [
        # What went out over the right border is lost on the right, and so on; n = 20, s = 3.
        ((0, 0, 1, 0, 0), (0, 20), (0, 17)),
        ((0, 0, -1, 0, 0), (0, 20), (3, 20)),
        ((0, 0, 0, 1, 0), (0, 17), (0, 20)),
        ((0, 0, 0, -1, 0), (3, 20), (0, 20)),
        ((0, 1, 1, 1, 2), (0, 17), (3, 20)),  # the flip came first: lost on the left
    ],
)
def test_where_undoing_is_defined(t, rows, cols):
    expected = torch.zeros(20, 20, dtype=torch.bool)
    expected[rows[0] : rows[1], cols[0] : cols[1]] = True
    _, defined = Transformation(*t).undo(torch.zeros(20, 20), 20, "pixel")
    assert torch.equal(defined, expected)


@pytest.mark.parametrize(
    ("tx", "mode", "cols"),
    [
        # side 28, s = 4, 18 patches a row. Patch i of the image is patch i + 4 of the copy.
        (1, "pixel", (0, 14)),
        (-1, "pixel", (4, 18)),
        # s * 28 / 27 = 4.15: patch i lies between i + 4 and i + 5 of the copy; for i = 0 the first
        # of them begins in the reflection, for i = 13 the second does not exist.
        (1, "resampled", (1, 13)),
        (-1, "resampled", (5, 17)),
    ],
)
def test_which_patches_are_defined(tx, mode, cols):
    maps, defined = Transformation(0, 0, tx, 0, 0).undo(torch.ones(18, 18), 28, mode)
    expected = torch.zeros(18, 18, dtype=torch.bool)
    expected[:, cols[0] : cols[1]] = True
    assert torch.equal(defined, expected)
    torch.testing.assert_close(maps, expected.float())


def patch_means(images):
    """The mean of every 11 x 11 patch: a map such as the discriminator makes."""
    return F.avg_pool2d(images, 11, stride=1)


@EVERY
def test_undo_on_patch_maps_in_pixel_mode(t):
    image = random_images(28)
    image[..., 12, 17] = 40  # an odd patch, far from symmetric places
    back, defined = t.undo(patch_means(t.apply(image, "pixel")), 28, "pixel")
    expected = patch_means(grey_of(image) if t.grey else image)
    torch.testing.assert_close(back[..., defined], expected[..., defined], atol=1e-5, rtol=0)
    assert defined.sum() == (18 - 4 * abs(t.tx)) * (18 - 4 * abs(t.ty))


@EVERY
def test_undo_on_patch_maps_in_resampled_mode(t):
    image = smooth_image(28)
    image[..., 10:16, 15:21] += 5  # what is spread over patches stays where it is
    back, defined = t.undo(patch_means(t.apply(image, "resampled")), 28, "resampled")
    expected = patch_means(grey_of(image) if t.grey else image)
    # A place wrong by half a pixel moves half of 6 of the 121 pixels: 0.12.
    assert (back - expected)[..., defined].abs().max() < (0.07 if t.translated else 1e-5)
    # By hand above: 12 of 18 patches along a shifted axis.
    assert defined.sum() == (12 if t.tx else 18) * (12 if t.ty else 18)


def test_undo_takes_any_leading_shape():
    t = CATALOGUE[20]
    maps = torch.randn(4, 2, 5, 14, 14)
    together, defined = t.undo(maps, 24)
    assert together.shape == maps.shape
    for i in range(4):
        alone, alone_defined = t.undo(maps[i, 1, 3], 24)
        torch.testing.assert_close(together[i, 1, 3], alone)
        assert torch.equal(defined, alone_defined)


# --- As part of a network -----------------------------------------------------------------------


@EACH_MODE
def test_gradients_against_finite_differences(mode):
    x = random_images(7).double().requires_grad_()
    for t in CATALOGUE:
        assert torch.autograd.gradcheck(lambda x, t=t: t.apply(x, mode), x, fast_mode=True), str(t)


def test_gradients_reach_the_image_through_every_copy():
    x = random_images(14).requires_grad_()
    for t in CATALOGUE:
        (gradient,) = torch.autograd.grad(t.apply(x, "pixel").sum(), x)
        # Every copy has as many pixels as the image, so the gradients sum to them.
        assert gradient.sum().item() == pytest.approx(3 * 14 * 14, rel=1e-5), str(t)


@EACH_MODE
def test_a_batch_equals_one_by_one(mode):
    images = random_images(15, batch=3)
    copies = transform_all(images, CATALOGUE, mode)
    assert copies.shape == (54, 3, 3, 15, 15)
    for m, t in enumerate(CATALOGUE):
        for b in range(3):
            torch.testing.assert_close(copies[m, b], t.apply(images[b : b + 1], mode)[0])


def test_the_input_is_left_as_it_is():
    images = random_images(14)
    before = images.clone()
    transform_all(images, CATALOGUE, "pixel")
    assert torch.equal(images, before)


@EACH_MODE
def test_what_scoring_has_cached_serves_training(mode):
    # A tensor made in inference mode could not be used for gradients afterwards.
    module.sampling_matrix.cache_clear()
    t = Transformation(0, 0, 1, 0, 0)
    with torch.inference_mode():
        t.apply(random_images(13), mode)
    x = random_images(13).requires_grad_()
    t.apply(x, mode).square().sum().backward()
    assert x.grad.abs().sum() > 0
