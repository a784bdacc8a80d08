"""The compiled helpers against PyTorch's operations, and how to do without them."""

import copy

import pytest
import torch
from torch.nn import functional as F

from htdg.fast import losses as coverage
from htdg.fast import native as kernels
from htdg.fast.canvases import CanvasPlan
from htdg.networks import Discriminator, initialise
from htdg.transformations import CATALOGUE

compiled = pytest.mark.skipif(
    kernels.library() is None, reason="no C compiler here: PyTorch's operations are used"
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
    found, ys = kernels.normalise(xs, ws, counts, gamma, beta, eps, 0.2)
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=2e-5)
    rounding = 1e-2 if dtype is torch.bfloat16 else 2e-5
    for y, of_definition in zip(ys, expected_ys, strict=True):
        torch.testing.assert_close(y, of_definition.to(dtype), atol=1e-4, rtol=rounding)
    sum((g.double() * y).sum() for g, y in zip(gs, expected_ys, strict=True)).backward()
    to_gamma, to_beta, dxs = kernels.normalise_backward(gs, xs, ws, counts, found, eps, 0.2)
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
    sums, p = kernels.softmax(x, w, 0.25)
    torch.testing.assert_close(sums.double(), x.double().logsumexp(-1), atol=1e-6, rtol=2e-7)
    expected = 0.25 * weight * x.double().softmax(-1)
    rounding = 4e-3 if dtype is torch.bfloat16 else 4e-6  # of a difference of 60
    torch.testing.assert_close(p.double(), expected, atol=1e-30, rtol=rounding)
    assert kernels.log_sums(x).equal(sums)


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("each", [True, False])
def test_votes_against_their_definition(dtype, each):
    images, canvases, height, width, classes, side = 3, 2, 6, 5, 4, 3
    x = rows(images * canvases * height * width, classes, dtype)
    x = x.view(images, canvases, height, width, classes)
    windows = [(2, 0, 0, 1), (0, 1, 3, 2), (3, 1, 1, 0)]
    found = torch.full((4, images, side, side), -1.0)
    kernels.votes(x, torch.tensor(windows), each, side, found)
    p = x.double().softmax(-1)
    for m, canvas, top, left in windows:
        expected = p[:, canvas, top : top + side, left : left + side, m if each else 0]
        torch.testing.assert_close(found[m].double(), expected, atol=1e-6, rtol=1e-6)
    assert (found[1] == -1).all()  # in no window of this sheet


@compiled
@pytest.mark.parametrize("first", [0.0, 1e5])  # with a row at the start that is like no other
def test_moments_of_a_large_mean_keep_their_digits(first):
    x = rows(4000, 3, torch.float32) / 100 + 1000
    x[0] += first
    (mean, var, _, _), _ = kernels.normalise([x], [None], [4000], *torch.ones(2, 3), 1e-5, 0.2)
    torch.testing.assert_close(mean, x.double().mean(0).float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(var, x.double().var(0, correction=0).float(), atol=0, rtol=1e-4)


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("translation", ["pixel", "resampled"])
def test_a_network_is_the_same_with_and_without_them(translation, dtype, monkeypatch):
    plan = CanvasPlan(CATALOGUE, 14, translation, 3, torch.device("cpu"))
    images = torch.rand(2, 3, 14, 14, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with_them = Discriminator(20, 54, 3).train()
    initialise(with_them, torch.Generator().manual_seed(0))
    without = copy.deepcopy(with_them)
    losses = []
    for d, library in ((with_them, kernels.library()), (without, None)):
        monkeypatch.setattr(kernels, "library", lambda library=library: library)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            loss = coverage.real_loss(d, plan.draw(images), plan)
        loss.backward()
        losses.append(loss.item())
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    assert losses[0] == pytest.approx(losses[1], abs=tolerance)
    for a, b in zip(with_them.parameters(), without.parameters(), strict=True):
        assert (a.grad - b.grad).norm() <= 2e-5 + 20 * tolerance * b.grad.norm()
    for a, b in zip(with_them.buffers(), without.buffers(), strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def homeless():
    raise RuntimeError("Could not determine home directory.")


@pytest.fixture
def fresh_library():
    for made_once in (kernels._library, kernels.tell_missing):
        made_once.cache_clear()
    yield
    for made_once in (kernels._library, kernels.tell_missing):
        made_once.cache_clear()


def test_they_can_be_turned_off(monkeypatch, fresh_library, capsys):
    monkeypatch.setenv("HTDG_KERNELS", "0")
    assert kernels.library() is None
    kernels.tell_missing()
    assert capsys.readouterr().err == ""


@compiled
@pytest.mark.parametrize(
    ("problem", "said"),
    [
        ("no compiler", "there is no C compiler"),
        ("failing compiler", "the C compiler fails"),
        ("no place", "cache/htdg: Not a directory"),
        ("other system", ""),
        ("nobody's home", "Could not determine home directory."),
        ("others may write", "others may write into"),
    ],
)
def test_without_a_compiler_nothing_is_compiled(
    problem, said, monkeypatch, tmp_path, fresh_library, capsys
):
    monkeypatch.delenv("HTDG_KERNELS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if problem == "nobody's home":
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")
        monkeypatch.setattr(kernels.Path, "home", homeless)
    if problem == "others may write":
        (tmp_path / "cache" / "htdg").mkdir(parents=True)
        (tmp_path / "cache" / "htdg").chmod(0o777)
    if problem == "no compiler":
        monkeypatch.setattr(kernels.shutil, "which", lambda name: None)
    if problem == "failing compiler":
        monkeypatch.setattr(kernels.shutil, "which", lambda name: "/bin/false")
    if problem == "no place":
        (tmp_path / "cache").write_text("in the way")
    if problem == "other system":
        monkeypatch.setattr(kernels.sys, "platform", "win32")
    assert kernels.library() is None
    assert not list(tmp_path.rglob("*.so"))
    for _ in range(2):  # but said once
        kernels.tell_missing()
    told = capsys.readouterr().err
    assert said in told if said else told == ""
    assert told.count("\n") == bool(said)


@compiled
def test_they_are_compiled_once_and_leave_nothing_else(monkeypatch, tmp_path, fresh_library):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kernels.library() is not None
    (made,) = (path for path in tmp_path.rglob("*") if path.is_file())
    written = made.stat().st_mtime_ns
    kernels._library.cache_clear()
    assert kernels.library() is not None
    assert made.stat().st_mtime_ns == written
