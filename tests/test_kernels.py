"""The compiled helpers against PyTorch's operations, and how to do without them."""

import copy

import pytest
import torch

from htdg import coverage, kernels
from htdg.canvases import CanvasPlan
from htdg.networks import Discriminator, initialise
from htdg.transformations import CATALOGUE

compiled = pytest.mark.skipif(
    kernels.library() is None, reason="no C compiler here: PyTorch's operations are used"
)


def rows(count, channels, dtype, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(count, channels, generator=rng) + 1).to(dtype)


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 15, 16, 28, 64])  # with and without a rest of 16
@pytest.mark.parametrize("count", [1, 127, 128, 1290])  # with and without a rest of 128
@pytest.mark.parametrize("covered", [False, True])
def test_each_helper_against_its_definition(dtype, channels, count, covered):
    x, g = rows(2 * count, channels, dtype), rows(2 * count, channels, dtype, seed=1)
    w = torch.arange(count) % 4.0 + 1 if covered else None
    weight = (torch.ones(count) if w is None else w).repeat(2).double()[:, None]
    scale, shift, p, q = (torch.linspace(-a, a + 0.5, channels) for a in (1, 2, 3, 4))
    exact, gradient = x.double(), g.double()
    mean = (weight * exact).sum(0) / weight.sum()
    var = (weight * (exact - mean) ** 2).sum(0) / weight.sum()
    for found, expected in zip(kernels.moments(x, w), (mean, var), strict=True):
        torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-5)
    z = exact * scale + shift
    rounding = {"atol": 1e-4, "rtol": 1e-2 if dtype is torch.bfloat16 else 1e-5}
    y = kernels.activate(x, scale, shift, 0.2)
    torch.testing.assert_close(y, torch.where(z > 0, z, 0.2 * z).to(dtype), **rounding)
    h = torch.where(z > 0, gradient, 0.2 * gradient)
    sums = kernels.gradient_sums(g, x, scale, shift, mean.float(), 0.2)
    for found, expected in zip(sums, (h.sum(0), (h * (exact - mean)).sum(0)), strict=True):
        torch.testing.assert_close(found, expected.float(), atol=1e-2, rtol=1e-5)
    dx = kernels.gradient(g, x, w, scale, shift, p, q, 0.2)
    expected = scale * h + weight * (p + q * exact)
    torch.testing.assert_close(dx, expected.to(dtype), **rounding)


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
def test_moments_of_a_large_mean_keep_their_digits():
    x = rows(4000, 3, torch.float32) / 100 + 1000
    mean, var = kernels.moments(x, None)
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
    kernels.library.cache_clear()
    yield
    kernels.library.cache_clear()


def test_they_can_be_turned_off(monkeypatch, fresh_library):
    monkeypatch.setenv("HTDG_KERNELS", "0")
    assert kernels.library() is None


@compiled
@pytest.mark.parametrize(
    "problem",
    [
        "no compiler",
        "failing compiler",
        "no place",
        "other system",
        "nobody's home",
        "others may write",
    ],
)
def test_without_a_compiler_nothing_is_compiled(problem, monkeypatch, tmp_path, fresh_library):
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


@compiled
def test_they_are_compiled_once_and_leave_nothing_else(monkeypatch, tmp_path, fresh_library):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kernels.library() is not None
    (made,) = (path for path in tmp_path.rglob("*") if path.is_file())
    written = made.stat().st_mtime_ns
    kernels.library.cache_clear()
    assert kernels.library() is not None
    assert made.stat().st_mtime_ns == written
