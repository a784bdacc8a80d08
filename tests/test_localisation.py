"""Anomaly maps: every transformation undone exactly, borders left out, votes where they belong."""

import numpy as np
import pytest
import torch

from htdg.localisation import SPREAD, anomaly_map, patch_votes, pixel_votes, spread_matrix
from htdg.transformations import CATALOGUE, TRANSLATIONS, Transformation

SIDE, RADIUS = 48, 5
ODD = (21, 28)  # row and column: no symmetry maps it onto itself, and no border is near


def odd_image() -> torch.Tensor:
    """(1, 3, SIDE, SIDE), 0 but for one pixel of 1."""
    image = torch.zeros(1, 3, SIDE, SIDE)
    image[..., ODD[0], ODD[1]] = 1
    return image


def honest_votes(t: Transformation, image: torch.Tensor, translation: str) -> torch.Tensor:
    """(1, B, h, h): every patch of the copy votes 1 less the value in its middle."""
    copy = t.apply(image, translation)[:, 0]  # (B, SIDE, SIDE)
    return 1 - copy[None, :, RADIUS:-RADIUS, RADIUS:-RADIUS]


@pytest.mark.parametrize("translation", TRANSLATIONS)
@pytest.mark.parametrize("t", CATALOGUE, ids=str)
def test_the_odd_patch_is_found_under_every_single_transformation(t, translation):
    votes = honest_votes(t, odd_image(), translation)
    oddness = 1 - pixel_votes(votes, (t,), SIDE, translation)[0]
    peak = divmod(int(oddness.argmax()), SIDE)
    assert peak == ODD
    assert oddness.max() > 2 * oddness[oddness < oddness.max()].median() + 1e-3


@pytest.mark.parametrize("t", CATALOGUE, ids=str)
def test_undoing_whole_pixels_is_exact_and_reflections_do_not_vote(t):
    torch.manual_seed(1)
    image = torch.rand(2, 3, SIDE, SIDE)
    image = image[:, :1].expand(-1, 3, -1, -1)  # grey, so that every copy keeps the values
    patches, shown = patch_votes(honest_votes(t, image, "pixel"), (t,), SIDE, "pixel")
    expected = 1 - image[:, 0, RADIUS:-RADIUS, RADIUS:-RADIUS]
    torch.testing.assert_close(patches[:, shown], expected[:, shown], atol=1e-6, rtol=0)
    # What a copy shows of the image is SIDE - shift pixels long, and so many patches fit into it.
    shift = int(0.15 * SIDE)
    rows, columns = (SIDE - abs(n) * shift - 2 * RADIUS for n in (t.ty, t.tx))
    assert int(shown.sum()) == rows * columns
    assert (patches[:, ~shown] == 0).all()


def test_a_vote_for_the_reflection_cannot_move_the_map():
    shifted = Transformation(0, 0, 1, 0, 0)  # content to the right: the left columns are reflected
    votes = torch.full((2, 1, 38, 38), 0.8)
    votes[1, :, :, 0] = 0.0  # sees reflected pixels
    catalogue = (CATALOGUE[0], shifted)
    torch.testing.assert_close(
        pixel_votes(votes, catalogue, SIDE, "pixel"), torch.full((1, SIDE, SIDE), 0.8)
    )


def test_the_mean_is_over_those_that_show_the_patch():
    # By hand: the identity votes 0.2 everywhere, the copy that is shifted right by 7 votes 0.6.
    shifted = Transformation(0, 0, 1, 0, 0)
    votes = torch.stack([torch.full((1, 38, 38), 0.2), torch.full((1, 38, 38), 0.6)])
    patches, shown = patch_votes(votes, (CATALOGUE[0], shifted), SIDE, "pixel")
    assert shown.all()
    # The rightmost 7 columns of patches were shifted out of the copy: only the identity is left.
    torch.testing.assert_close(patches[0, :, :31], torch.full((38, 31), 0.4))
    torch.testing.assert_close(patches[0, :, 31:], torch.full((38, 7), 0.2))


def test_spreading_against_a_loop_over_patches():
    torch.manual_seed(0)
    votes = torch.rand(1, 1, 6, 6)
    side = 16
    spread = pixel_votes(votes, (CATALOGUE[0],), side, "pixel")[0]
    for y, x in [(0, 0), (3, 15), (8, 7), (15, 15), (10, 2)]:
        total = weight = 0.0
        for i in range(6):
            for j in range(6):
                dy, dx = y - (i + 5), x - (j + 5)
                if max(abs(dy), abs(dx)) <= 5:
                    w = np.exp(-(dy**2 + dx**2) / (2 * (SPREAD * 11) ** 2))
                    total, weight = total + w * float(votes[0, 0, i, j]), weight + w
        assert float(spread[y, x]) == pytest.approx(total / weight, abs=1e-6)


def test_rows_of_the_spread_are_weights():
    for h, side in [(54, 64), (1, 20), (20, 20), (2, 12)]:
        matrix = spread_matrix(h, side)
        torch.testing.assert_close(matrix.sum(1), torch.ones(side))
        assert (matrix >= 0).all()
    torch.testing.assert_close(spread_matrix(20, 20), torch.eye(20))  # votes that are pixels
    assert (spread_matrix(1, 20) == 1).all()  # one vote for the whole image


def test_only_shifts_leave_places_without_votes_and_these_hold_the_mean():
    shifted = (Transformation(0, 0, 1, 0, 0),)
    votes = torch.full((1, 1, 38, 38), 0.3)
    spread = pixel_votes(votes, shifted, SIDE, "pixel")
    torch.testing.assert_close(spread, torch.full((1, SIDE, SIDE), 0.3))


def test_a_map_has_the_size_of_the_image_and_is_the_mean_over_scales():
    scales = [torch.full((25, 25), 0.9), torch.full((41, 41), 0.5)]
    of_image = anomaly_map(scales, (30, 70))
    assert of_image.shape == (30, 70)
    torch.testing.assert_close(of_image, torch.full((30, 70), 0.3))


def test_a_map_keeps_places_at_another_resolution():
    votes = torch.ones(20, 20)
    votes[5, 15] = 0.0
    of_image = anomaly_map([votes], (100, 40))
    row, column = divmod(int(of_image.argmax()), 40)
    # Pixel 5 of 20 covers rows 25 to 29 of 100, pixel 15 columns 30 and 31 of 40.
    assert 25 <= row <= 29
    assert 30 <= column <= 31
