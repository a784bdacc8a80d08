"""The compiled helpers against PyTorch's operations, and what they refuse.

``test_compiling`` runs this file again for other processors than this one.
"""

import copy
import os

import pytest
import torch
from torch.nn import functional as F

from htdg import HTDGConfig
from htdg.fast import losses, native
from htdg.fast.backend import FastBackend
from htdg.fast.canvases import CanvasPlan
from htdg.networks import Discriminator, initialise
from htdg.training import start_scale
from htdg.transformations import CATALOGUE

compiled = pytest.mark.skipif(
    native.library() is None, reason="no C compiler here: PyTorch's operations are used"
)


def rows(count, channels, dtype, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(count, channels, generator=rng) + 1).to(dtype)


def by_definition(xs, weights, gamma, beta, eps):
    """Batch normalisation of all weighted rows in float64, then LeakyReLU: each sheet's."""
    count = sum(w.sum() for w in weights)
    mean = sum((w * x).sum(0) for w, x in zip(weights, xs, strict=True)) / count
    var = sum((w * (x - mean) ** 2).sum(0) for w, x in zip(weights, xs, strict=True)) / count
    scale = gamma / (var + eps).sqrt()
    zs = [scale * (x - mean) + beta for x in xs]
    return torch.stack([mean, var, scale, beta - scale * mean]), [F.leaky_relu(z, 0.2) for z in zs]


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 15, 16, 28, 64])  # with and without a rest of 16
@pytest.mark.parametrize("count", [1, 127, 128, 1290])  # with and without a rest of 128
@pytest.mark.parametrize("covered", [False, True])
@pytest.mark.parametrize("sheets", [1, 3])
def test_normalisation_against_its_definition(dtype, channels, count, covered, sheets):
    ks = range(sheets)
    xs = [rows(2 * count, channels, dtype, seed=k) + k for k in ks]
    gs = [rows(2 * count, channels, dtype, seed=9 + k) for k in ks]
    ws = [(torch.arange(count) + k) % 4.0 + 1 if covered else None for k in ks]
    weights = [torch.ones(2 * count) if w is None else w.repeat(2) for w in ws]
    counts = [int(w.sum()) for w in weights]
    weights = [w.double()[:, None] for w in weights]
    gamma, beta = torch.linspace(0.5, 1.5, channels), torch.linspace(-1, 1, channels)
    exact = [x.double().requires_grad_() for x in xs]
    ends = [p.double().requires_grad_() for p in (gamma, beta)]
    eps = 1e-3  # with one row there is no variance, and 1e-5 makes large gradients
    expected, expected_ys = by_definition(exact, weights, *ends, eps)
    statistics, ys = native.normalise(xs, ws, counts, gamma, beta, eps, 0.2)
    torch.testing.assert_close(statistics.double(), expected, atol=2e-5, rtol=2e-5)
    rounding = 1e-2 if dtype is torch.bfloat16 else 2e-5
    for y, of_definition in zip(ys, expected_ys, strict=True):
        torch.testing.assert_close(y, of_definition.to(dtype), atol=1e-4, rtol=rounding)
    sum((g.double() * y).sum() for g, y in zip(gs, expected_ys, strict=True)).backward()
    to_gamma, to_beta, dxs = native.normalise_backward(gs, xs, ws, counts, statistics, eps, 0.2)
    for grad, end in zip((to_gamma, to_beta), ends, strict=True):
        # In float32 a single activation on the other side of its kink would be seen.
        assert (grad.double() - end.grad).abs().max() <= 1e-4 * (1 + end.grad.abs().max())
    for dx, x in zip(dxs, exact, strict=True):
        assert dx.dtype == dtype
        # Of two rows the parts of a gradient nearly cancel.
        within = rounding * (1 + x.grad.abs().max()) * (5 if count == 1 else 1)
        assert (dx.double() - x.grad).abs().max() <= within


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("classes", [1, 2, 16, 55, 200])
@pytest.mark.parametrize("covered", [False, True])
def test_softmax_against_its_definition(dtype, classes, covered):
    x = 10 * rows(40, classes, dtype)
    x[0] = 0  # all alike
    x[1, 0] = 500  # so much above the others that these vanish
    w = torch.arange(20) % 4.0 + 1 if covered else None
    weight = (torch.ones(20) if w is None else w).repeat(2).double()[:, None]
    sums, p = native.softmax(x, w, 0.25)
    torch.testing.assert_close(sums.double(), x.double().logsumexp(-1), atol=1e-6, rtol=2e-7)
    expected = 0.25 * weight * x.double().softmax(-1)
    rounding = 4e-3 if dtype is torch.bfloat16 else 4e-6  # of a difference of 60
    torch.testing.assert_close(p.double(), expected, atol=1e-30, rtol=rounding)
    assert native.log_sums(x).equal(sums)


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("binary", [False, True])
def test_votes_against_their_definition(dtype, binary):
    images, canvases, height, width, classes, side = 3, 2, 6, 5, 4, 3
    x = rows(images * canvases * height * width, classes, dtype)
    x = x.view(images, canvases, height, width, classes)
    windows = [(2, 0, 0, 1), (0, 1, 3, 2), (3, 1, 1, 0)]
    votes = torch.full((4, images, side, side), -1.0)
    native.votes(x, torch.tensor(windows), binary, side, votes)
    p = x.double().softmax(-1)
    for m, canvas, top, left in windows:
        expected = p[:, canvas, top : top + side, left : left + side, 0 if binary else m]
        torch.testing.assert_close(votes[m].double(), expected, atol=1e-6, rtol=1e-6)
    assert (votes[1] == -1).all()  # in no window of this sheet


@compiled
@pytest.mark.parametrize("first", [0.0, 1e5])  # with a row at the start that is like no other
def test_moments_of_a_large_mean_keep_their_digits(first):
    x = rows(4000, 3, torch.float32) / 100 + 1000
    x[0] += first
    (mean, var, _, _), _ = native.normalise([x], [None], [4000], *torch.ones(2, 3), 1e-5, 0.2)
    torch.testing.assert_close(mean, x.double().mean(0).float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(var, x.double().var(0, correction=0).float(), atol=0, rtol=1e-4)


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("translation", ["pixel", "resampled"])
def test_a_network_is_the_same_with_pytorch_alone(translation, dtype, monkeypatch):
    plan = CanvasPlan(CATALOGUE, 14, translation, 3, torch.device("cpu"))
    images = torch.rand(2, 3, 14, 14, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with_them = Discriminator(20, 54, 3).train()
    initialise(with_them, torch.Generator().manual_seed(0))
    without = copy.deepcopy(with_them)
    both_losses = []
    for d, library in ((with_them, native.library()), (without, None)):
        monkeypatch.setattr(native, "library", lambda library=library: library)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            loss = losses.real_loss(d, plan.draw(images), plan)
        loss.backward()
        both_losses.append(loss.item())
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    assert both_losses[0] == pytest.approx(both_losses[1], abs=tolerance)
    for a, b in zip(with_them.parameters(), without.parameters(), strict=True):
        assert (a.grad - b.grad).norm() <= 2e-5 + 20 * tolerance * b.grad.norm()
    for a, b in zip(with_them.buffers(), without.buffers(), strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@compiled
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_training_has_the_losses_of_pytorch_alone(precision, monkeypatch):
    """Whatever the processor, so that those of different processors are alike, too."""
    monkeypatch.setenv("HTDG_CONVOLUTIONS", "ours")
    options = {"image_size": 32, "max_size": 32, "channels": 32, "niter": 2}
    config = HTDGConfig.preset("tiny", precision=precision, **options)
    assert config.width(0) == 32  # wide enough for the convolutions of htdg
    rows, cpu = config.resolve_transformations(True), torch.device("cpu")
    real = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    histories = []
    for library in (native.library(), None):
        monkeypatch.setattr(native, "library", lambda library=library: library)
        training = start_scale(config, rows, [], real, FastBackend(config, rows, cpu))
        for _ in range(config.niter):
            training.step()
        histories.append(training.history)
    # After six steps of each network. Found: 3e-7 and 3e-3.
    within = 1e-5 if precision == "float32" else 1e-2
    assert set(histories[0]) == {"d_real", "d_fake", "g_adversarial", "g_reconstruction"}
    for name, losses_of_it in histories[0].items():
        torch.testing.assert_close(losses_of_it, histories[1][name], atol=within, rtol=0)


@compiled
def test_this_is_the_variant_that_was_asked_for():
    lanes = [native.lanes(dtype) for dtype in (torch.float32, torch.bfloat16)]
    match os.environ.get("HTDG_MARCH", "native"):
        case "haswell":
            assert lanes == [8, 0]
        case "x86-64":
            assert lanes == [0, 0]
        case "native":
            assert lanes in ([16, 16], [16, 0], [8, 0], [0, 0])


# --- What they refuse ----------------------------------------------------------------------------


def strided(*shape, dtype=torch.float32):
    """Values with gaps between them."""
    return torch.ones(*shape, 2, dtype=dtype)[..., 0]


def normalise_arguments():
    return {
        "xs": [torch.ones(6, 4), torch.ones(9, 4)],
        "weights": [None, torch.ones(3)],
        "counts": [6, 9],
        "gamma": torch.ones(4),
        "beta": torch.ones(4),
        "eps": 1e-5,
        "slope": 0.2,
    }


@compiled
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"gamma": torch.ones(4).double()}, TypeError, "^gamma is of torch.float64, .*float32"),
        ({"beta": torch.ones(4, dtype=torch.int32)}, TypeError, "^beta is of torch.int32"),
        ({"gamma": torch.ones(4, device="meta")}, TypeError, "^gamma lies on meta"),
        ({"xs": [torch.ones(6, 4), torch.ones(9, 4, device="meta")]}, TypeError, "^x lies on"),
        ({"xs": [torch.ones(6, 4), torch.ones(9, 4).bfloat16()]}, TypeError, "^x is of"),
        ({"xs": [torch.ones(6, 4), torch.ones(4, 9).T]}, ValueError, "^x must lie row by row"),
        ({"xs": [torch.ones(6, 4), torch.ones(9, 5)]}, ValueError, r"^x .*\(9, 5\), .* \(9, 4\)"),
        ({"beta": strided(4)}, ValueError, "^beta must lie row by row in memory, without gaps"),
        ({"beta": torch.ones(3)}, ValueError, r"^beta is of shape \(3,\), but must be of \(4,\)"),
        ({"weights": [None, torch.ones(3).double()]}, TypeError, "^weights is of torch.float64"),
        ({"weights": [None, torch.ones(4)]}, ValueError, "4 rows, but x has 9"),
        ({"weights": [None]}, ValueError, "^weights has 1 entries, but must have 2"),
        ({"counts": [6]}, ValueError, "^counts has 1 entries, but must have 2"),
    ],
)
def test_normalisation_refuses_what_it_would_misread(changes, error, message):
    native.normalise(**normalise_arguments())
    with pytest.raises(error, match=message):
        native.normalise(**normalise_arguments() | changes)


@compiled
@pytest.mark.parametrize(
    ("gradient", "statistics", "error", "message"),
    [
        (torch.ones(6, 4).double(), torch.ones(4, 4), TypeError, "^the gradient is of"),
        (torch.ones(4, 6).T, torch.ones(4, 4), ValueError, "^the gradient must lie"),
        (torch.ones(5, 4), torch.ones(4, 4), ValueError, "^the gradient is of shape"),
        (torch.ones(6, 4, device="meta"), torch.ones(4, 4), TypeError, "^the gradient lies on"),
        (torch.ones(6, 4), torch.ones(4, 5), ValueError, "^statistics is of shape"),
        (torch.ones(6, 4), torch.ones(4, 4).half(), TypeError, "^statistics is of"),
    ],
)
def test_its_gradient_refuses_it_too(gradient, statistics, error, message):
    with pytest.raises(error, match=message):
        native.normalise_backward(
            [gradient], [torch.ones(6, 4)], [None], [6], statistics, 1e-5, 0.2
        )


@compiled
@pytest.mark.parametrize(
    ("x", "w", "error", "message"),
    [
        (torch.ones(5, 6).T, None, ValueError, "^x must lie"),
        (torch.ones(6, 5, device="meta"), None, TypeError, "^x lies on meta"),
        (torch.ones(6, 5), torch.ones(3, dtype=torch.long), TypeError, "^w is of torch.int64"),
        (torch.ones(6, 5), strided(3), ValueError, "^w must lie"),
        (torch.ones(6, 5), torch.ones(4), ValueError, "4 rows, but x has 6"),
        (torch.ones(2, 1025), None, ValueError, "1025 classes, but compiled helpers take 1024"),
    ],
)
def test_softmax_refuses_it(x, w, error, message):
    with pytest.raises(error, match=message):
        native.softmax(x, w, 1.0)


@compiled
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"windows": torch.zeros(1, 4, dtype=torch.int32)},
            TypeError,
            "^windows is of torch.int32",
        ),
        ({"windows": torch.zeros(1, 3, dtype=torch.long)}, ValueError, "^windows is of shape"),
        ({"result": torch.zeros(3, 2, 2, 2).double()}, TypeError, "^result is of torch.float64"),
        ({"result": torch.zeros(3, 2, 2, 2, device="meta")}, TypeError, "^result lies on meta"),
        ({"result": torch.zeros(3, 1, 2, 2)}, ValueError, "^result is of shape"),
        ({"result": strided(3, 2, 2, 2)}, ValueError, "^result must lie"),
        ({"x": strided(2, 1, 4, 4, 3)}, ValueError, "^x must lie"),
    ],
)
def test_votes_refuse_it(changes, error, message):
    arguments = {
        "x": torch.zeros(2, 1, 4, 4, 3),
        "windows": torch.zeros(1, 4, dtype=torch.long),
        "binary": False,
        "side": 2,
        "result": torch.zeros(3, 2, 2, 2),
    }
    native.votes(**arguments)
    with pytest.raises(error, match=message):
        native.votes(**arguments | changes)


@compiled
def test_results_are_float32_whatever_the_default_type_is():
    arguments = normalise_arguments()
    expected = native.normalise(**arguments)[0]
    torch.set_default_dtype(torch.float64)
    try:
        statistics = native.normalise(**arguments)[0]
        sums = native.log_sums(torch.ones(6, 4, dtype=torch.float32))
    finally:
        torch.set_default_dtype(torch.float32)
    assert statistics.equal(expected)
    assert sums.dtype == torch.float32
