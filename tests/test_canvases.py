"""Shared canvases against the copies they stand for: pixels, losses, gradients, votes."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from htdg import losses as plain_losses
from htdg.fast import losses as canvas_losses
from htdg.fast.batch_norm import normalise
from htdg.fast.canvases import CanvasPlan, arranged, canvases_of
from htdg.fast.folding import FoldedGenerator, folded_convolutions, voting_convolutions
from htdg.networks import Discriminator, Generator, initialise
from htdg.transformations import CATALOGUE, TRANSLATIONS, Transformation, transform_all
from htdg.votes import aggregate_votes, votes_from_logits

CPU = torch.device("cpu")
LAYERS = 3  # receptive field 7: small images suffice


def plan_of(transformations, side, translation, layers=LAYERS):
    return CanvasPlan(transformations, side, translation, layers, CPU)


def random_images(count, side, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, side, side, generator=rng, dtype=torch.float64) * 2 - 1


def discriminator(m, layers=LAYERS, width=6):
    d = Discriminator(width, m, layers).double()
    initialise(d, torch.Generator().manual_seed(1))
    for block in d.blocks:  # far from the neutral values that they start with
        block.conv.weight.data.mul_(8)
        block.norm.weight.data.add_(torch.linspace(-0.5, 0.5, width))
        block.norm.bias.data.add_(torch.linspace(-1, 1, width))
    return d.train()


# --- Which canvases there are -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("translation", "count", "pixels"),
    [
        # 3 of 82 x 82, 6 of 73 x 73, 7 of 64 x 64
        ("pixel", 54, 3 * 82**2 + 6 * 73**2 + 7 * 64**2),
        # the shared ones as above, and the 16 copies that are not translated by themselves
        ("stretched", 54, 3 * 82**2 + 6 * 73**2 + 16 * 64**2),
        ("resampled", 54, 54 * 64**2),  # nothing is shared
        ("pixel", 42, 2 * 82**2 + 6 * 73**2),
        ("stretched", 42, 2 * 82**2 + 6 * 73**2 + 8 * 64**2),
    ],
)
def test_pixels_of_the_canvases_by_hand(translation, count, pixels):
    canvases = canvases_of(CATALOGUE[:count], 64, translation)
    assert sum(c.height * c.width for c in canvases) == pixels
    assert sorted(m for c in canvases for m, _, _ in c.copies) == list(range(count))
    # At this size no canvas is enlarged to another's shape.
    assert plan_of(CATALOGUE[:count], 64, translation).pixels == pixels


def test_small_canvases_of_few_images_are_put_together():
    # 3 of 32 x 32, 6 of 29 x 29 and 7 of 26 x 26 at 26 pixels. To put the 6 with the 3 takes
    # 6 * (32 ** 2 - 29 ** 2) = 1,098 pixels more, to put the 7 with them 2,436: more than a pass.
    shapes = [(32, 32)] * 9, [(26, 26)] * 7
    for images, expected in ((1, shapes), (2, ([(32, 32)] * 3, [(29, 29)] * 6, [(26, 26)] * 7))):
        groups = arranged(canvases_of(CATALOGUE, 26, "pixel"), images)
        assert [[c.shape for c in group] for group in groups] == list(expected)


@pytest.mark.parametrize("translation", TRANSLATIONS)
@pytest.mark.parametrize("side", [14, 15, 26])
def test_every_window_shows_its_copy(translation, side):
    images = random_images(2, side)
    copies = transform_all(images, CATALOGUE, translation)
    plan = plan_of(CATALOGUE, side, translation)
    seen = set()
    for sheet, drawn in zip(plan.sheets, plan.draw(images), strict=True):
        drawn = drawn.unflatten(0, (2, -1))  # (B, G, 3, h, w)
        for g, canvas in enumerate(sheet.canvases):
            for m, top, left in canvas.windows(side):
                window = drawn[:, g, :, top : top + side, left : left + side]
                torch.testing.assert_close(window, copies[m], atol=1e-12, rtol=0)
                seen.add(m)
    assert seen == set(range(54))


def test_coverage_by_hand():
    # One pixel to the right or not: the columns 1 to 6 of 8 are in both windows.
    pair = [Transformation(0, 0, 0, 0, 0), Transformation(0, 0, 1, 0, 0)]
    (sheet,) = plan_of(pair, 7, "pixel", layers=1).sheets
    assert sheet.coverage[0].view(7, 8)[0].tolist() == [1, 2, 2, 2, 2, 2, 2, 1]
    assert sheet.coverage[1].view(5, 6)[0].tolist() == [1, 2, 2, 2, 2, 1]
    assert plan_of(pair[:1], 7, "pixel", layers=1).sheets[0].coverage == (None, None)


# --- What networks make of them -----------------------------------------------------------------

SUBSETS = st.lists(st.sampled_from(CATALOGUE), min_size=1, max_size=9, unique=True)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    subset=SUBSETS,
    side=st.integers(8, 21),
    count=st.integers(1, 3),
    translation=st.sampled_from(TRANSLATIONS),
    binary=st.booleans(),
)
def test_training_is_that_of_the_plain_way(subset, side, count, translation, binary):
    """Losses, gradients to the weights and to the images, running statistics; in float64."""
    d = discriminator(1 if binary else len(subset))
    check_training(subset, side, count, translation, d)


@pytest.mark.parametrize("translation", TRANSLATIONS)
@pytest.mark.parametrize(("catalogue", "side"), [(54, 14), (42, 15), (54, 27)])
def test_whole_catalogues_too(translation, catalogue, side):
    for classes in (catalogue, 1):  # also of ``real_or_generated``, which has one for all
        check_training(CATALOGUE[:catalogue], side, 2, translation, discriminator(classes))


@pytest.mark.parametrize("translation", TRANSLATIONS)
def test_float32_agrees_to_a_hundred_thousandth(translation):
    d = discriminator(54, layers=5, width=8).float()
    images, plan = random_images(1, 26).float(), plan_of(CATALOGUE, 26, translation, 5)
    plain, shared = d, copy.deepcopy(d)
    copies = transform_all(images, CATALOGUE, translation)
    for kind in ("real_loss", "generated_loss"):
        expected = getattr(plain_losses, kind)(plain, copies)
        loss = getattr(canvas_losses, kind)(shared, plan.draw(images), plan)
        assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
        plain.zero_grad()
        shared.zero_grad()
        expected.backward()
        loss.backward()
        for p, q in zip(plain.parameters(), shared.parameters(), strict=True):
            # A position at the kink of LeakyReLU may fall on its other side by rounding.
            assert (p.grad - q.grad).norm() < 1e-5 + 1e-3 * p.grad.norm()
    for p, q in zip(plain.buffers(), shared.buffers(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-5)


def check_training(subset, side, count, translation, d):
    plan = plan_of(subset, side, translation)
    plain, shared = d, copy.deepcopy(d)
    first, second = (random_images(count, side).requires_grad_() for _ in range(2))
    copies, sheets = transform_all(first, subset, translation), plan.draw(second)
    for kind in ("real_loss", "generated_loss"):
        expected = getattr(plain_losses, kind)(plain, copies)
        loss = getattr(canvas_losses, kind)(shared, sheets, plan)
        assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
        wanted = torch.autograd.grad(expected, [first, *plain.parameters()], retain_graph=True)
        gradients = torch.autograd.grad(loss, [second, *shared.parameters()], retain_graph=True)
        for a, b in zip(wanted, gradients, strict=True):
            torch.testing.assert_close(b, a, atol=1e-9, rtol=1e-7)
    for a, b in zip(plain.buffers(), shared.buffers(), strict=True):
        torch.testing.assert_close(b, a, atol=1e-9, rtol=1e-7)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    subset=SUBSETS,
    side=st.integers(8, 21),
    count=st.integers(1, 3),
    translation=st.sampled_from(TRANSLATIONS),
)
def test_votes_are_those_of_the_plain_way(subset, side, count, translation):
    d = discriminator(len(subset))
    images = random_images(count, side)
    copies = transform_all(images, subset, translation)
    d(copies.flatten(0, 1))  # running statistics other than 0 and 1
    d.eval()
    plan = plan_of(subset, side, translation)
    with torch.inference_mode():
        expected = votes_from_logits(d(copies.flatten(0, 1)).unflatten(0, copies.shape[:2]))
        convolutions = voting_convolutions(d)
        votes = canvas_losses.canvas_votes(convolutions, plan.draw(images), plan)
    assert votes.shape == (len(subset), count, side - 2 * LAYERS, side - 2 * LAYERS)
    torch.testing.assert_close(votes, expected.float(), atol=1e-6, rtol=0)
    for fraction in (None, 0.1):
        scores, wanted = (aggregate_votes(v.double(), fraction) for v in (votes, expected))
        torch.testing.assert_close(scores, wanted, atol=1e-5, rtol=0)


def test_moments_do_not_lose_digits():
    """A mean a thousand times the deviation: the mean of squares less its square has none left."""
    pair = [Transformation(0, 0, 0, 0, 0), Transformation(0, 0, 1, 0, 0)]
    plan = plan_of(pair, 12, "pixel", layers=1)
    norm = torch.nn.BatchNorm2d(1)
    x = torch.randn(1, 1, 10, 11, generator=torch.Generator().manual_seed(0))
    for shift in (0, 1000):
        (y,) = normalise(norm, [x + shift], plan, 1)
        if shift == 0:
            expected = y
    torch.testing.assert_close(y, expected, atol=2e-3, rtol=0)  # x + 1000 itself is rounded


# --- Folding ------------------------------------------------------------------------------------


def test_a_folded_generator_gives_the_same_images():
    g = Generator(8)
    initialise(g, torch.Generator().manual_seed(0))
    noise, previous = torch.randn(2, 3, 20, 20), torch.rand(2, 3, 20, 20)
    index = torch.arange(2)
    g(noise * 3, previous, index)  # running statistics other than 0 and 1
    before = copy.deepcopy(g.eval().state_dict())
    folded = FoldedGenerator(g)
    torch.testing.assert_close(
        folded(noise, previous, index), g(noise, previous, index), atol=1e-5, rtol=0
    )
    assert all(torch.equal(v, before[k]) for k, v in g.state_dict().items())
    assert not any(p.requires_grad for p in folded.parameters())


def test_the_vote_of_generated_is_left_out():
    d = discriminator(4).eval()
    assert [c.out_channels for c in folded_convolutions(d)] == [6, 6, 5]
    voting = voting_convolutions(d)
    assert [c.out_channels for c in voting] == [6, 6, 4]
    assert torch.equal(voting[-1].weight, d.tail.weight[:4])
