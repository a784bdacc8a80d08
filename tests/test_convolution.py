"""Convolutions by minimal filtering against PyTorch's, forward and backward, in both types.

``test_compiling`` runs this file again for other processors than this one.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from htdg.fast import batch_norm, convolution, losses, native
from htdg.fast.batch_norm import TrainingGenerator
from htdg.fast.canvases import CanvasPlan
from htdg.fast.convolution import convolve, convolve_all
from htdg.losses import real_loss
from htdg.networks import SLOPE, Discriminator, Generator, initialise
from htdg.transformations import CATALOGUE, transform_all

TYPES = [
    pytest.param(
        dtype,
        marks=pytest.mark.skipif(
            not native.lanes(dtype),
            reason=f"no compiler, or no instructions for {dtype} here: PyTorch's are used",
        ),
    )
    for dtype in (torch.float32, torch.bfloat16)
]
#: Of the greatest entry. PyTorch's: 1e-6 and 1e-2; sums are rounded more in tiles.
CLOSE = {torch.float32: 5e-6, torch.bfloat16: 1.5e-2}


@pytest.fixture(autouse=True)
def ours_on_every_processor(monkeypatch):
    monkeypatch.setenv("HTDG_CONVOLUTIONS", "ours")


def pair(inputs, outputs, seed=0):
    """A convolution in float64 and its copy in float32, as laid out in training."""
    exact = nn.Conv2d(inputs, outputs, 3)
    rng = torch.Generator().manual_seed(seed)
    for parameter in exact.parameters():
        parameter.data = torch.randn(parameter.shape, generator=rng) / (3 * inputs**0.5)
    ours = copy.deepcopy(exact).to(memory_format=torch.channels_last)
    return exact.double(), ours


def assert_near(result, exact, dtype):
    assert result.shape == exact.shape
    assert (result.double() - exact).abs().max() <= CLOSE[dtype] * exact.abs().max()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("inputs", "outputs"), [(24, 24), (32, 55), (64, 64), (33, 40), (28, 32)])
@pytest.mark.parametrize("size", [(3, 3), (4, 7), (5, 3), (30, 25), (12, 12)])  # odd and even
def test_a_convolution_and_its_gradients(dtype, inputs, outputs, size):
    exact, ours = pair(inputs, outputs)
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(3, inputs, *size, generator=rng).to(dtype)
    first, second = x.double().requires_grad_(), x.clone().requires_grad_()
    expected = exact(first)
    g = torch.randn(expected.shape, generator=rng).to(dtype)
    result = convolve(ours, second)
    assert result.dtype == dtype
    assert type(result.grad_fn).__name__ == "_ConvolutionBackward"  # not PyTorch's
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert_near(result, expected, dtype)
    expected.backward(g.double())
    result.backward(g)
    assert_near(second.grad, first.grad, dtype)
    for a, b in zip(ours.parameters(), exact.parameters(), strict=True):
        assert a.grad.dtype == torch.float32
        assert_near(a.grad, b.grad, dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_a_picture_by_hand(dtype):
    # Weights that take channel c from the place c % 9 of the window: shifted copies of the input.
    shifts = nn.Conv2d(27, 27, 3)
    nn.init.zeros_(shifts.weight)
    nn.init.zeros_(shifts.bias)
    for c in range(27):
        shifts.weight.data[c, c, c % 9 // 3, c % 3] = 1
    x = (torch.arange(27 * 7 * 6) % 17).view(1, 27, 7, 6).to(dtype)  # exact in bfloat16, as sums
    result = convolve(shifts, x).detach()
    for c in range(27):
        row, column = c % 9 // 3, c % 3
        there = x[0, c, row : row + 5, column : column + 4]
        # In float32 the weights are multiplied by thirds, which no binary number is.
        torch.testing.assert_close(
            result[0, c], there, atol=8e-5 * (dtype is torch.float32), rtol=0
        )


@pytest.mark.parametrize("dtype", TYPES)
def test_with_an_activation_after_it(dtype):
    exact, ours = pair(32, 32)
    x = torch.randn(2, 32, 9, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        expected = F.leaky_relu(exact(x.double()), SLOPE)
        assert_near(convolve(ours, x, SLOPE), expected, dtype)
        expected[expected.abs() < 1e-2] = 0  # where rounding may take it over zero
        assert ((convolve(ours, x, SLOPE).double() < 0) >= (expected < 0)).all()


@pytest.mark.parametrize("dtype", TYPES[:1])
def test_what_is_not_a_number_stays_so(dtype):
    _, ours = pair(32, 32)
    x = torch.zeros(1, 32, 6, 6)
    x[0, 0, 0, 0] = torch.nan
    result = convolve(ours, x, SLOPE)
    assert result[0, :, 0, 0].isnan().all()
    assert not result[0, :, 2:, 2:].isnan().any()


@pytest.mark.parametrize("dtype", TYPES[:1])
def test_the_same_every_time(dtype):
    _, ours = pair(64, 55)
    x = torch.randn(4, 64, 21, 20, generator=torch.Generator().manual_seed(1)).requires_grad_()
    results = []
    for _ in range(3):
        y = convolve(ours, x)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, *ours.parameters()])])
    for again in results[1:]:
        assert all(a.equal(b) for a, b in zip(again, results[0], strict=True))


def test_narrow_ones_double_precision_and_no_library_are_left_to_pytorch(monkeypatch):
    _, wide = pair(32, 32)
    _, narrow = pair(16, 32)
    x = torch.zeros(1, 32, 5, 5)
    assert "ConvolutionBackward0" in type(convolve(narrow, x[:, :16]).grad_fn).__name__
    double = copy.deepcopy(wide).double()
    assert "ConvolutionBackward0" in type(convolve(double, x.double()).grad_fn).__name__
    monkeypatch.setattr(native, "library", lambda: None)
    assert "ConvolutionBackward0" in type(convolve(wide, x).grad_fn).__name__
    negative = convolve(wide, x, SLOPE) < 0
    assert convolve(wide, x, SLOPE)[negative].equal(SLOPE * convolve(wide, x)[negative])


def no_activation_near_zero(network):
    """Shift every second channel well above zero, the others below.

    Otherwise rounding takes one of half a million activations over the kink of LeakyReLU, where
    the gradient jumps, now and then.
    """
    for block in network.blocks:
        sign = 1 - 2 * (torch.arange(len(block.norm.bias)) % 2)
        block.norm.bias.data = 4.0 * sign


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("translation", ["pixel", "stretched"])
@pytest.mark.parametrize("slope", [SLOPE, 1.0])
def test_a_wide_discriminator_is_that_of_the_plain_way(dtype, translation, slope, monkeypatch):
    """Loss, gradients and running statistics over shared canvases, at the paper's width."""
    plan = CanvasPlan(CATALOGUE, 17, translation, 5, torch.device("cpu"))
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 17, 17, generator=rng) * 2 - 1
    ours = Discriminator(32, 54).train()
    initialise(ours, rng)
    if slope == SLOPE and dtype is torch.float32:
        no_activation_near_zero(ours)
    monkeypatch.setattr(batch_norm, "SLOPE", slope)
    plain = copy.deepcopy(ours).double()
    for block in plain.blocks:
        block.activation.negative_slope = slope
    expected = real_loss(plain, transform_all(images.double(), CATALOGUE, translation))
    expected.backward()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        loss = losses.real_loss(ours, plan.draw(images), plan)
    loss.backward()
    exact = dtype is torch.float32
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5 if exact else 1e-2)
    for (name, a), b in zip(ours.named_parameters(), plain.parameters(), strict=True):
        if "conv.bias" in name or b.grad.norm() < 1e-5:
            # Zero but for rounding: the next normalisation takes it away, where no kink is between.
            assert (a.grad - b.grad).abs().max() < (1e-6 if exact else 1e-3)
        else:
            within = 1e-5 if exact else 0.2  # PyTorch's autocast: 0.15
            assert (a.grad - b.grad).norm() <= within * b.grad.norm() + 1e-8, name
    for a, b in zip(ours.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a.double(), b.double(), atol=1e-5 if exact else 2e-2, rtol=1e-5)


def test_a_generator_in_training_is_the_plain_one():
    # No activation so near to zero that rounding takes it over the kink of LeakyReLU.
    rng = torch.Generator().manual_seed(1)
    ours = Generator(32).train()
    initialise(ours, rng)
    plain = copy.deepcopy(ours).double()
    noise, index = torch.randn(2, 3, 15, 15, generator=rng), torch.arange(2)
    previous = torch.zeros_like(noise)
    expected = plain(noise.double(), previous.double(), index)
    images = TrainingGenerator(ours)(noise, previous, index)
    torch.testing.assert_close(images.double(), expected, atol=1e-5, rtol=0)
    expected.square().sum().backward()
    images.square().sum().backward()
    for (name, a), b in zip(ours.named_parameters(), plain.parameters(), strict=True):
        if "conv.bias" not in name:
            assert (a.grad - b.grad).norm() <= 1e-5 * b.grad.norm()
    for a, b in zip(ours.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a.double(), b.double(), atol=1e-5, rtol=1e-5)


# --- What they refuse ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TYPES)
def test_no_images_at_all_are_convolved_to_none(dtype):
    _, ours = pair(32, 28)
    x = torch.zeros(0, 32, 6, 5, dtype=dtype, requires_grad=True)
    y = convolve(ours, x)
    assert y.shape == (0, 28, 4, 3)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert not ours.weight.grad.any()
    assert not ours.bias.grad.any()


@pytest.mark.parametrize("dtype", TYPES[:1])
def test_what_they_would_misread_is_refused(dtype):
    _, ours = pair(32, 28)
    x = torch.ones(1, 32, 5, 5)
    with pytest.raises(
        ValueError, match=r"^x is of shape \(1, 33, 5, 5\), but must be of \(1, 32,"
    ):
        convolve_all(ours, [x, torch.ones(1, 33, 5, 5)])
    with pytest.raises(TypeError, match=r"^x lies on meta"):
        convolve_all(ours, [x, x.to("meta")], SLOPE)
    with pytest.raises(TypeError, match=r"^weight lies on meta"):
        convolve(copy.deepcopy(ours).to("meta"), x)
    bias_elsewhere = copy.deepcopy(ours)
    bias_elsewhere.bias = nn.Parameter(torch.ones(28, device="meta"))
    with pytest.raises(TypeError, match=r"^bias lies on meta"):
        convolve(bias_elsewhere, x)
    short = copy.deepcopy(ours)
    short.bias = nn.Parameter(torch.ones(27))
    with pytest.raises(ValueError, match=r"^bias is of shape \(27,\), but must be of \(28,\)"):
        convolve(short, x)


@pytest.mark.parametrize("dtype", TYPES[:1])
@pytest.mark.parametrize(
    ("gradient", "error", "message"),
    [
        (torch.ones(1, 28, 3, 3).double(), TypeError, "^the gradient is of torch.float64"),
        (torch.ones(1, 28, 3, 3, device="meta"), TypeError, "^the gradient lies on meta"),
        (torch.ones(1, 28, 3, 3), ValueError, "^the gradient must lie channels last in memory"),
        (torch.ones(1, 28, 3, 2), ValueError, "^the gradient is of shape"),
    ],
)
def test_gradients_that_they_would_misread_are_refused(dtype, gradient, error, message):
    _, ours = pair(32, 28)
    x = torch.ones(1, 32, 5, 5).contiguous(memory_format=torch.channels_last)
    with pytest.raises(error, match=message):
        convolution._weight_gradients([gradient], [x], ours.weight)
