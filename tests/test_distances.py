"""Patch distances: by hand, against a slow search, and what they see and do not see."""

import numpy as np
import pytest
import torch

from htdg import distances
from htdg.distances import PatchComparison, UniqueDistances, brightened, memory_bank
from htdg.gradients import GradientPatches
from htdg.localisation import SPREAD
from htdg.nearest import nearest_distances
from htdg.patches import PixelPatches, apart, patch_places, patch_starts

#: Patches as they are, and normalised ones.
CONSTANTS = (0, 0.05)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture
def whole_bank(monkeypatch):
    """The bank keeps every patch of these small images."""
    monkeypatch.setattr(distances, "BANK_SIZE", 10**6)


def noise(count, side, seed=0):
    """Random colour images (count, 3, side, side) in [-1, 1]: no two patches are alike."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.uniform(-1, 1, (count, 3, side, side))).float()


def flat(value, side=10):
    """A grey image (3, side, side) of one value."""
    return torch.full((3, side, side), float(value))


def stripes(side, seed=0, level=0.0, contrast=0.4):
    """Horizontal stripes, four pixels apart, under a little noise: (3, side, side)."""
    rows = torch.arange(side)[:, None] * torch.pi / 2
    rng = np.random.default_rng(seed)
    grain = torch.from_numpy(rng.normal(0, 0.02, (side, side))).float()
    return (level + contrast * (rows.sin() + grain)).expand(3, side, side).clone()


# --- A slow version -------------------------------------------------------------------------------


def cut_patches(images, side, constant=0):
    """All patches of (B, C, H, H), row by row: (B, P, D)."""
    return PixelPatches(side, constant)(images, torch.arange(images.shape[-1] - side + 1))


def ratios(comparison, image):
    """Those of the patches of (3, H, H)."""
    return comparison.ratios(comparison.patches(image))


def slow_patches(image, side, constant):
    """All patches of (3, H, H) as {(row, column): (3, side, side)}, normalised with a constant."""
    h = image.shape[-1] - side + 1
    patches = {}
    for i in range(h):
        for j in range(h):
            patch = image[:, i : i + side, j : j + side].astype(float)
            if constant:
                patch = (patch - patch.mean()) / (patch.std() + constant)
            patches[i, j] = patch
    return patches


def slow_eight(image):
    """The eight turned and mirrored copies of (3, H, H)."""
    return [np.rot90(x, k, (1, 2)) for x in (image, image[:, :, ::-1]) for k in range(4)]


def slow_distance(patch, others):
    """The least root mean squared difference; infinite without others."""
    return min((np.sqrt(((patch - other) ** 2).mean()) for other in others), default=np.inf)


def slow_bank(images, side, constant):
    """The patches, and of each the number of its image and its place in it."""
    bank = []
    for n, image in enumerate(images):
        for place, patch in slow_patches(image, side, constant).items():
            bank += [(n, *place, turned) for turned in slow_eight(patch)]
    return np.stack([patch for *_, patch in bank]), np.array([origin for *origin, _ in bank])


def slow_ratios(images, test, side, constant):
    """Of every patch of (3, H, H), row by row, in units of normal ones."""
    images, test = images.numpy(), test.numpy()
    patches, origins = slow_bank(images, side, constant)
    numbers, places = origins[:, 0], origins[:, 1:]

    def of_image(image, least_away=0, left_out=None):
        nearest = []
        for place, patch in slow_patches(image, side, constant).items():
            away = np.abs(places - place).max(1)
            count = (away >= least_away) & (numbers != left_out)
            squared = ((patches[count] - patch) ** 2).mean((1, 2, 3))
            nearest.append(np.sqrt(squared.min(initial=np.inf)))
        return np.array(nearest)

    if len(images) > 1:
        normal = [of_image(image, left_out=n) for n, image in enumerate(images)]
    else:
        alterations = (0.9, 0), (1.1, 0), (1, -0.05), (1, 0.05)
        altered = [(images[0] + 1) / 2 * gain + shift for gain, shift in alterations]
        normal = [of_image(np.clip(image, 0, 1) * 2 - 1, side) for image in altered]
    normal, found = np.concatenate(normal), of_image(test)
    normal = normal[np.isfinite(normal)]
    return found / normal.mean()


def slow_unique(images, test, side):
    """Of every patch of (3, H, H), row by row: how unique it is, as the training images' are."""

    def of_image(image):
        patches, away = slow_patches(image.numpy(), side, 0), []
        for i, j in patches:
            apart = [q for (y, x), q in patches.items() if max(abs(y - i), abs(x - j)) >= side]
            away.append(slow_distance(patches[i, j], apart))
        return np.nan_to_num(away, posinf=0)  # no room for another one

    usual = np.quantile(np.concatenate([of_image(image) for image in images]), 0.9)
    return np.maximum(of_image(test) / usual, 1)


def slow_map(ratios, side, patch_side):
    """The weighted mean, at each pixel, of the patches that cover it: (side, side)."""
    h = side - patch_side + 1
    values, middle = ratios.reshape(h, h), (patch_side - 1) / 2
    blurred = np.zeros((side, side))
    for y in range(side):
        for x in range(side):
            total = weight = 0.0
            for i in range(max(0, y - patch_side + 1), min(h, y + 1)):
                for j in range(max(0, x - patch_side + 1), min(h, x + 1)):
                    away = (i + middle - y) ** 2 + (j + middle - x) ** 2
                    w = np.exp(-away / (2 * (SPREAD * patch_side) ** 2))
                    total, weight = total + w * values[i, j], weight + w
            blurred[y, x] = total / weight
    return blurred


# --- Patches and their distances by hand ----------------------------------------------------------


@pytest.mark.parametrize("constant", CONSTANTS)
def test_patches_are_cut_row_by_row(constant):
    images = noise(2, 7)
    patches = cut_patches(images, 3, constant)
    assert patches.shape == (2, 25, 27)
    for of_image, image in zip(patches, images.numpy(), strict=True):
        slow = slow_patches(image, 3, constant)
        expected = np.stack([slow[i, j].ravel() for i in range(5) for j in range(5)])
        np.testing.assert_allclose(of_image, expected, atol=1e-5)


def test_raw_distances_by_hand():
    image = torch.tensor([[0.0, 1, 2], [3, 4, 5], [6, 7, 8]])
    patches = cut_patches(image[None, None], 2)[0, :2]
    assert patches.tolist() == [[0, 1, 3, 4], [1, 2, 4, 5]]
    bank = torch.tensor([[0.0, 1, 3, 8], [1, 2, 4, 9]])
    # The first patch differs from the first of the bank by 0, 0, 0, 4: sqrt(16 / 4) = 2, and from
    # the second by 1, 1, 1, 5: sqrt(28 / 4) = sqrt(7). The second patch differs from the first by
    # 1, 1, 1, 3: sqrt(12 / 4) = sqrt(3), and from the second by 0, 0, 0, 4: 2.
    np.testing.assert_allclose(nearest_distances(patches, bank), [2, np.sqrt(3)], rtol=1e-6)
    crossed = torch.tensor([[False, True], [False, True]])
    found = nearest_distances(patches, bank, crossed)
    np.testing.assert_allclose(found, [np.sqrt(7), 2], rtol=1e-6)


def test_normalised_distances_by_hand():
    images = torch.tensor([[[1.0, 1], [5, 5]], [[0, 0], [2, 2]], [[4, 4], [4, 4]]])
    first, second, level = cut_patches(images[:, None], 2, 0.5)[:, 0]
    # 1, 1, 5, 5: mean 3, standard deviation 2, divided by 2 + 0.5. 0, 0, 2, 2: mean 1, standard
    # deviation 1, divided by 1 + 0.5. A flat patch has nothing left.
    np.testing.assert_allclose(first, [-0.8, -0.8, 0.8, 0.8], rtol=1e-6)
    np.testing.assert_allclose(second, [-2 / 3, -2 / 3, 2 / 3, 2 / 3], rtol=1e-6)
    assert level.tolist() == [0, 0, 0, 0]
    # Each value differs by 0.8 - 2 / 3; the flat patch is further away, by 0.8.
    found = nearest_distances(first[None], torch.stack([second, level]))
    np.testing.assert_allclose(found, [0.8 - 2 / 3], rtol=1e-5)


def test_a_patch_s_channels_are_normalised_together():
    pixel = torch.tensor([0.0, 0, 3])[None, :, None, None]
    # Mean 1, standard deviation sqrt((1 + 1 + 4) / 3) = sqrt(2): a colour stays a colour.
    (patch,) = cut_patches(pixel, 1, 0.1)[0]
    np.testing.assert_allclose(patch, np.array([-1, -1, 2]) / (np.sqrt(2) + 0.1), rtol=1e-6)


def test_only_the_patches_that_start_there_are_cut():
    images, starts = noise(2, 9), torch.tensor([1, 4, 6])
    numbers = [7 * row + column for row in (1, 4, 6) for column in (1, 4, 6)]
    for constant in CONSTANTS:
        found = PixelPatches(3, constant)(images, starts)
        assert torch.equal(found, cut_patches(images, 3, constant)[:, numbers])


@pytest.mark.parametrize(
    ("h", "at_most", "expected"),
    [
        (1, 4, [0]),
        (4, 4, [0, 1, 2, 3]),
        (5, 4, [0, 2, 4]),
        (8, 4, [0, 2, 4, 6, 7]),
        (9, 4, [0, 3, 6, 8]),
        (117, 32, [*range(0, 117, 4)]),
    ],
)
def test_of_many_rows_every_second_or_third_is_compared_and_the_last(h, at_most, expected):
    assert patch_starts(h, at_most).tolist() == expected


def test_places_go_row_by_row_and_are_apart_by_their_greater_difference():
    places = patch_places(torch.tensor([0, 3]))
    assert places.tolist() == [[0, 0], [0, 3], [3, 0], [3, 3]]
    away = apart(places, torch.tensor([[1, 5], [0, 0]]))
    assert away.tolist() == [[5, 0], [2, 3], [5, 3], [2, 3]]
    assert patch_places(torch.tensor([0])).tolist() == [[0, 0]]


# --- The search -----------------------------------------------------------------------------------


@pytest.mark.parametrize("table_bytes", [1, 1000, 2**24])
def test_the_search_equals_a_slow_one(table_bytes, monkeypatch):
    monkeypatch.setattr(distances, "TABLE_BYTES", table_bytes, raising=False)
    rng = np.random.default_rng(1)
    patches, bank = rng.normal(size=(37, 12)), rng.normal(size=(23, 12))
    allowed = rng.random((37, 23)) < 0.2
    allowed[5] = False  # a patch without neighbours
    allowed[6] = np.arange(23) == 22
    expected = [slow_distance(patch, bank) for patch in patches]
    among = [slow_distance(p, bank[of_p]) for p, of_p in zip(patches, allowed, strict=True)]
    assert among[5] == np.inf
    assert np.mean(np.array(among) > expected) > 0.5
    q, b = (torch.from_numpy(x).float() for x in (patches, bank))
    np.testing.assert_allclose(nearest_distances(q, b), expected, rtol=1e-5)
    found = nearest_distances(q, b, torch.from_numpy(allowed))
    np.testing.assert_allclose(found, among, rtol=1e-5)


@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize("bank_size", [100, 10**6])
def test_each_patch_of_the_bank_is_a_turn_of_the_one_at_its_place(bank_size, constant, monkeypatch):
    monkeypatch.setattr(distances, "BANK_SIZE", bank_size)
    images = noise(3, 8)
    bank = memory_bank(images, PixelPatches(3, constant))
    slow = [slow_patches(image, 3, constant) for image in images.numpy()]
    seen = set()
    for patch, place, origin in zip(bank.patches, bank.places, bank.origins, strict=True):
        upright = slow[int(origin)][tuple(place.tolist())]
        turns = [slow_distance(patch.numpy().reshape(3, 3, 3), [t]) for t in slow_eight(upright)]
        assert sorted(turns)[0] < 1e-5 < 0.1 < sorted(turns)[1]
        seen.add((int(origin), *place.tolist(), int(np.argmin(turns))))
    # Each of the 36 patches of each image in each of its eight turns, once: 864.
    assert len(seen) == len(bank.patches) == min(bank_size, 3 * 36 * 8)
    assert {origin for origin, *_ in seen} == {0, 1, 2}
    assert {turn for *_, turn in seen} == set(range(8))


def test_a_limited_bank_of_many_images_is_always_the_same_and_finds_no_nearer_patch(monkeypatch):
    images, test = noise(12, 12), noise(1, 12, seed=1)[0]
    full = PatchComparison(images, PixelPatches(5))
    monkeypatch.setattr(distances, "BANK_SIZE", 300)
    torch.manual_seed(1)
    limited = PatchComparison(images, PixelPatches(5))
    torch.manual_seed(2)
    again = PatchComparison(images, PixelPatches(5))
    assert len(limited.bank.patches) == 300
    assert sorted(set(limited.bank.origins.tolist())) == list(range(12))
    patches = full.patches(test)
    assert torch.equal(limited.ratios(patches), again.ratios(patches))
    assert (limited.distances(patches) >= full.distances(patches) - 1e-6).all()
    assert (limited.distances(patches) > full.distances(patches) + 1e-3).float().mean() > 0.5
    # What normal patches have is measured with the same bank, and takes that up.
    expected = float(full.ratios(patches).mean())
    assert float(limited.ratios(patches).mean()) == pytest.approx(expected, 0.1)


# --- Ratios ---------------------------------------------------------------------------------------


def test_brightened_copies_by_hand():
    image = torch.tensor([-1.0, 0, 1]).view(1, 1, 1, 3)
    # In [0, 1] the pixels are 0, 0.5, 1; times 0.9, times 1.1, less 0.05, plus 0.05, cut off.
    expected = [[0, 0.45, 0.9], [0, 0.55, 1], [0, 0.45, 0.95], [0.05, 0.55, 1]]
    copies = (brightened(image) + 1) / 2
    np.testing.assert_allclose(copies[:, 0, 0], expected, atol=1e-6)


def test_ratios_by_hand():
    # Pixels as patches. All of the one training image are 0.5 from the other's: the mean is 0.5.
    comparison = PatchComparison(torch.stack([flat(0), flat(-0.5)]), PixelPatches(1))
    assert comparison.mean == 0.5
    half = flat(0)
    half[:, :5] = 0.9  # half of the distances are 0.9, the others 0
    found = ratios(comparison, half).view(10, 10)
    np.testing.assert_allclose(found[:5], 0.9 / 0.5, rtol=1e-6)
    np.testing.assert_allclose(found[5:], 0, atol=1e-6)
    np.testing.assert_allclose(ratios(comparison, flat(0.25)), 0.25 / 0.5, rtol=1e-6)
    # Between the two the nearer one counts: 0.1 from -0.5, and 0.4 from 0.
    np.testing.assert_allclose(ratios(comparison, flat(-0.4)), 0.1 / 0.5, rtol=1e-5)


def test_the_image_itself_does_not_count_among_the_normal_ones():
    image, other = noise(2, 14)
    twice = PatchComparison(torch.stack([image, image]), PixelPatches(5))
    assert twice.mean == pytest.approx(0.001)  # the other one is the same; no smaller mean counts
    for images in (image[None], torch.stack([image, other])):  # alone nothing is like it
        assert PatchComparison(images, PixelPatches(5)).mean > 0.3


def test_what_is_normal_with_a_single_image_by_hand():
    # Pixels as patches, in [0, 1] 0.2, 0.4, 0.6, 0.8. Each pixel of the four copies, and how far
    # the nearest of the *other* pixels of the image is:
    #   times 0.9    0.18 0.36 0.54 0.72    0.22 0.16 0.14 0.12
    #   times 1.1    0.22 0.44 0.66 0.88    0.18 0.16 0.14 0.28
    #   less 0.05    0.15 0.35 0.55 0.75    0.25 0.15 0.15 0.15
    #   plus 0.05    0.25 0.45 0.65 0.85    0.15 0.15 0.15 0.25
    # Their mean is 2.8 / 16 = 0.175, in [-1, 1] twice that.
    image = torch.tensor([[0.2, 0.4], [0.6, 0.8]]).expand(1, 3, 2, 2) * 2 - 1
    comparison = PatchComparison(image, PixelPatches(1))
    assert comparison.mean == pytest.approx(2 * 0.175, rel=1e-4)
    np.testing.assert_allclose(ratios(comparison, image[0]), 0, atol=0.01)


@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize("shots", [1, 3])
def test_ratios_equal_a_slow_version(shots, constant, whole_bank):
    images, test = noise(shots, 11), noise(1, 11, seed=1)[0]
    test[:, 2:9, 1:8] = images[-1][:, 1:8, 2:9].flip(-1)  # something to be known again
    comparison = PatchComparison(images, PixelPatches(4, constant))
    expected = slow_ratios(images, test, 4, constant)
    assert expected.min() < 0.1 < 0.5 < expected.max()
    rounding = 1e-3 / comparison.mean
    np.testing.assert_allclose(ratios(comparison, test), expected, rtol=2e-3, atol=rounding)


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("shots", [1, 3])
def test_maps_equal_a_slow_version(shots, limited, whole_bank):
    images, tests = 0.8 * noise(shots, 10), noise(2, 10, seed=1)
    tests[0, :, 2:8, 2:8] = images[0, :, 2:8, 2:8]
    found = UniqueDistances(images, PixelPatches(3), limited)(tests)
    assert found.shape == (2, 10, 10)
    for of_image, test in zip(found, tests, strict=True):
        raw, unique = slow_ratios(images, test, 3, 0), slow_unique(images, test, 3)
        assert (unique > 1).any()
        assert (unique < raw).any()
        evidence = (np.minimum(raw, unique) if limited else raw) * unique
        expected = slow_map(evidence, 10, 3)
        np.testing.assert_allclose(of_image, expected, rtol=3e-3, atol=0.01)


def test_an_image_has_the_same_map_in_any_company():
    of_scale = UniqueDistances(noise(2, 14), PixelPatches(5), True)
    tests = noise(3, 14, seed=1)
    together = of_scale(tests)
    for image, of_image in zip(tests, together, strict=True):
        assert torch.equal(of_scale(image[None])[0], of_image)


@pytest.mark.parametrize("side", [7, 8, 9])
def test_a_patch_nearly_as_large_as_the_image_leaves_no_patches_apart(side):
    images = noise(1, side)
    of_scale = UniqueDistances(images, PixelPatches(7), True)
    assert of_scale(images).max() < 0.1
    other = of_scale(noise(1, side, seed=1))
    assert other.isfinite().all()
    assert other.min() >= 0


# --- What is seen ---------------------------------------------------------------------------------


@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize("shots", [1, 3])
def test_a_training_image_is_at_no_distance(shots, constant, whole_bank):
    images = noise(shots, 16)
    comparison = PatchComparison(images, PixelPatches(5, constant))
    rounding = 1e-3 / comparison.mean
    for image in images:
        for copy in (image, image.flip(-1), image.rot90(1, (-2, -1))):
            assert ratios(comparison, copy).max() < rounding


@pytest.mark.parametrize("side", [24, 44])
@pytest.mark.parametrize("shots", [1, 2])
def test_a_planted_square_has_the_highest_values_where_it_is(side, shots):
    images = torch.stack([stripes(side, seed) for seed in range(shots)])
    clean = stripes(side, seed=7)
    planted = clean.clone()
    planted[:, 8:14, 4:10] = noise(1, 6)[0]
    of_scale = UniqueDistances(images, PixelPatches(5), True)
    normal, found = of_scale(torch.stack([clean, planted]))
    inside = torch.zeros(side, side, dtype=torch.bool)
    inside[8:14, 4:10] = True
    beside = torch.zeros(side, side, dtype=torch.bool)
    beside[3:19, :15] = True  # covered by a patch that touches the square
    assert inside.flatten()[found.argmax()]
    assert found[inside].min() > 1.5 * found[~beside].max()
    assert found[inside].mean() > 3 * normal[inside].mean()
    np.testing.assert_allclose(found[~beside], normal[~beside], rtol=0.2, atol=0.1)


def test_pixels_see_stains_and_gradients_see_structure():
    side, square = 24, (slice(None), slice(8, 17), slice(8, 17))
    # Many levels of brightness and contrast are normal, of horizontal stripes.
    images = [stripes(side, n, level, 0.1) for n, level in enumerate((-0.2, 0.0, 0.2))]
    clean = stripes(side, 7, 0.0, 0.1)
    stained, crossed = clean.clone(), clean.clone()
    stained[square] += 0.6
    diagonal = torch.arange(side)[:, None] + torch.arange(side)
    crossed[square] = (0.1 * (diagonal * torch.pi / 2).sin()).expand(3, side, side)[square]
    pixels = PatchComparison(torch.stack(images), PixelPatches(5))
    gradients = PatchComparison(torch.stack(images), GradientPatches(2))

    def in_square(comparison, image):
        h = side - comparison.describe.side + 1
        return float(ratios(comparison, image).view(h, h)[10:12, 10:12].mean())

    assert in_square(pixels, stained) > 1.7 > 1.5 > in_square(gradients, stained)
    assert in_square(pixels, crossed) < 1 < 3 < in_square(gradients, crossed)


# --- What makes no difference ---------------------------------------------------------------------


def turned(maps, k, flip):
    """Images or maps (..., H, H), mirrored if asked for and turned k times."""
    return (maps.flip(-1) if flip else maps).rot90(k, (-2, -1))


@pytest.mark.parametrize("shots", [1, 2])
@pytest.mark.parametrize(("k", "flip"), [(1, False), (2, False), (3, False), (0, True), (1, True)])
def test_turning_and_mirroring_an_image_turns_its_map(k, flip, shots, whole_bank):
    images, test = noise(shots, 14), noise(1, 14, seed=9)
    test[0, :, 1:8, 4:12] = images[0, :, 1:8, 4:12]
    of_scale = UniqueDistances(images, PixelPatches(5), True)
    expected = turned(of_scale(test), k, flip)
    assert (of_scale(test) - expected).abs().max() > 0.4
    np.testing.assert_allclose(of_scale(turned(test, k, flip)), expected, atol=0.01)


@pytest.mark.parametrize("side", [41, 42])
def test_turning_a_large_image_turns_its_map_about(side, whole_bank):
    # Here every second patch is compared, and of an even number of patches not the same ones.
    image = stripes(side)
    test = stripes(side, seed=1)
    test[:, 20:27, 6:13] = noise(1, 7)[0]
    of_scale = UniqueDistances(image[None], PixelPatches(5), True)
    expected = turned(of_scale(test[None]), 1, True)
    found = of_scale(turned(test[None], 1, True))
    assert expected.max() > 5
    assert float((found - expected).abs().mean() / expected.mean()) < 0.15
    places = [divmod(int(of_image.argmax()), side) for of_image in (found[0], expected[0])]
    assert np.abs(np.subtract(*places)).max() <= 2


def test_colour_counts():
    grey = noise(2, 14)[:, :1].repeat(1, 3, 1, 1)
    of_scale = UniqueDistances(grey, PixelPatches(5), False)
    tinted = grey[:1].clone()
    tinted[:, 1, 4:10, 4:10] *= -1
    assert of_scale(tinted)[0, 5:9, 5:9].min() > 0.5 > 0.01 > of_scale(grey[:1]).max()
    # And the other way round: of a coloured image and its grey first channel.
    coloured = noise(2, 14)
    of_scale = UniqueDistances(coloured, PixelPatches(5), False)
    washed_out = coloured[:1, :1].repeat(1, 3, 1, 1)
    assert of_scale(washed_out).min() > 0.5
