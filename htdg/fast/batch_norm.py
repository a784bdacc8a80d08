"""Batch normalisation, and the activation after it, of the copies that shared canvases hold.

Batch normalisation needs the statistics of the *copies*, so every position of a canvas is weighted
by the number of windows that cover it. Normalisation and activation are one step with a gradient
written by hand, since after sharing they would cost nearly as much as the convolutions; where the
helpers of ``htdg.fast.native`` are compiled it is theirs, and below it stands in PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial, reduce

import torch
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from htdg.fast import native
from htdg.fast.canvases import CanvasPlan
from htdg.fast.convolution import convolve, layers_of
from htdg.networks import SLOPE, Generator, PatchNetwork

aten = torch.ops.aten
#: Adds up, in place, what each of the processes has that share the copies out.
Total = Callable[[torch.Tensor], torch.Tensor]


def alone(values: torch.Tensor) -> torch.Tensor:
    """The ``Total`` of a single process."""
    return values


def normalise(
    norm: nn.BatchNorm2d,
    xs: Sequence[torch.Tensor],
    plan: CanvasPlan,
    layer: int,
    total: Total = alone,
) -> list[torch.Tensor]:
    """Batch normalisation of what the windows show, and LeakyReLU: (B * G, C, h, w) for each sheet.

    ``norm`` is in training mode: its running statistics are updated as PyTorch does. Where
    processes share the copies out, ``total`` has the statistics be those of all copies.
    """
    weights = [sheet.coverage[layer] for sheet in plan.sheets]
    patches = plan.images(xs) * (plan.side - 2 * layer) ** 2
    counts = [sheet.copies * patches for sheet in plan.sheets]
    return _normalised(norm, xs, weights, counts, total, len(plan.transformations) * patches)


def run_normalised(network: PatchNetwork, x: torch.Tensor) -> torch.Tensor:
    """``PatchNetwork.body`` in training mode, (B, in, H, W) -> (B, out, H - 2L, W - 2L)."""
    for convolution, norm in layers_of(network):
        x = convolve(convolution, x)
        count = x[:, 0].numel()
        (x,) = _normalised(norm, [x], [None], [count], alone, count)
    return convolve(network.tail, x)


class TrainingGenerator(Generator):
    """A generator in training whose normalisation and convolutions run by this module."""

    def __init__(self, generator: Generator) -> None:
        """Share the layers of ``generator``: what is learnt here is learnt there."""
        nn.Module.__init__(self)  # Generator's would make layers of its own
        self.padding = generator.padding
        self.blocks = generator.blocks
        self.tail = generator.tail

    def body(self, x: torch.Tensor) -> torch.Tensor:
        """The convolutions, in training mode: (B, 4, H, W) -> (B, 3, H - 2L, W - 2L)."""
        return run_normalised(self, x)


def _normalised(
    norm: nn.BatchNorm2d,
    xs: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor | None],
    counts: Sequence[int],
    total: Total,
    whole: int,
) -> list[torch.Tensor]:
    """The xs (B * G, C, h, w) of all sheets, normalised together and activated.

    Args:
        norm: in training mode.
        xs: the convolutions' outputs.
        weights: how many windows cover each position of a sheet, as in ``Sheet.coverage``.
        counts: what the weights of each sheet add up to, over all its images.
        total: adds up over the processes.
        whole: what all counts of all processes add up to.
    """
    options = (weights, counts, total, whole)
    return list(_CoveredNorm.apply(norm.weight, norm.bias, norm, *options, *xs))


def _update(norm: nn.BatchNorm2d, mean: torch.Tensor, var: torch.Tensor, count: int) -> None:
    """The running statistics after a batch of ``count`` positions."""
    assert norm.momentum is not None  # None would be the mean over all batches
    norm.get_buffer("num_batches_tracked").add_(1)
    norm.get_buffer("running_mean").lerp_(mean, norm.momentum)
    norm.get_buffer("running_var").lerp_(var * (count / (count - 1)), norm.momentum)


class _Context(FunctionCtx):
    """What the forward pass keeps for the backward pass."""

    saved_tensors: tuple[torch.Tensor, ...]
    eps: float
    weights: Sequence[torch.Tensor | None]
    counts: Sequence[int]
    total: Total
    whole: int
    shapes: list[torch.Size]


class _CoveredNorm(torch.autograd.Function):
    """y = LeakyReLU(gamma * (x - mean) / sqrt(var + eps) + beta), mean and var over the windows.

    Forward also updates the running statistics of the ``norm`` it is given.

    With w the coverage and N its sum, mean = sum(w x) / N, and likewise var. Backward, with
    x^ = (x - mean) / sqrt(var + eps), s = gamma / sqrt(var + eps) and h the gradient before the
    activation, every position's gradient already being summed over the windows:

        dx = s * (h - w / N * (sum(h) + x^ * sum(h x^)))
    """

    @staticmethod
    def forward(
        ctx: _Context,
        gamma: torch.Tensor,
        beta: torch.Tensor,
        norm: nn.BatchNorm2d,
        weights: Sequence[torch.Tensor | None],
        counts: Sequence[int],
        total: Total,
        whole: int,
        *xs: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        rows = [rows_of(x.contiguous(memory_format=torch.channels_last)) for x in xs]
        compute: Callable[..., tuple[torch.Tensor, list[torch.Tensor]]]
        compute = partial(_normalise, total=total, whole=whole)
        if total is alone and native.usable(xs[0]):
            compute = native.normalise
        with torch.autocast(xs[0].device.type, enabled=False):  # statistics are in float32
            statistics, ys = compute(rows, weights, counts, gamma, beta, norm.eps, SLOPE)
            _update(norm, statistics[0], statistics[1], whole)
        ctx.eps, ctx.weights, ctx.counts = norm.eps, weights, counts
        ctx.total, ctx.whole = total, whole
        ctx.shapes = [x.shape for x in xs]
        ctx.save_for_backward(statistics, *rows)
        return tuple(map(images_of, ys, ctx.shapes))

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        statistics, *rows = ctx.saved_tensors
        gs = [rows_of(g.contiguous(memory_format=torch.channels_last)) for g in gradients]
        compute: Callable[..., tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]]
        compute = partial(_normalise_backward, total=ctx.total, whole=ctx.whole)
        if ctx.total is alone and native.usable(rows[0]):
            compute = native.normalise_backward
        sheets = (ctx.weights, ctx.counts)
        d_gamma, d_beta, dxs = compute(gs, rows, *sheets, statistics, ctx.eps, SLOPE)
        return d_gamma, d_beta, *[None] * 5, *map(images_of, dxs, ctx.shapes)


def rows_of(x: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w), channels last in memory, as (B * h * w, C) without copying."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def images_of(rows: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The inverse of ``rows_of``: (B * h * w, C) as (B, C, h, w), without copying."""
    b, _, h, w = shape
    return rows.view(b, h, w, -1).permute(0, 3, 1, 2)


# --- With PyTorch's operations, as native.normalise and native.normalise_backward ----------------


def _normalise(
    xs: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor | None],
    counts: Sequence[int],
    gamma: torch.Tensor,
    beta: torch.Tensor,
    eps: float,
    slope: float,
    total: Total,
    whole: int,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Mean, variance, scale and shift (4, C), and the normalised, activated xs."""
    mean, var = _moments(xs, weights, counts, total, whole)
    scale = gamma * (var + eps).rsqrt()
    shift = beta - scale * mean
    ys = [F.leaky_relu_(torch.addcmul(shift, x, scale), slope).to(x.dtype) for x in xs]
    return torch.stack([mean, var, scale, shift]), ys


def _normalise_backward(
    gs: Sequence[torch.Tensor],
    xs: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor | None],
    counts: Sequence[int],
    statistics: torch.Tensor,
    eps: float,
    slope: float,
    total: Total,
    whole: int,
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """The gradients to gamma and beta, from these xs, and to the xs, from all processes' losses."""
    mean, var, scale, shift = statistics
    inverse = (var + eps).rsqrt()
    hs = [_before_activation(g, x, scale, shift, slope) for g, x in zip(gs, xs, strict=True)]
    d_beta = _sum(h.sum(0) for h in hs)
    d_gamma = inverse * _sum((h * (x - mean)).sum(0) for h, x in zip(hs, xs, strict=True))
    # -s / N * (sum(h) + x^ * sum(h x^)) = p + q x
    sum_hx, sum_h = total(torch.stack([d_gamma, d_beta]))
    q = -scale / whole * inverse * sum_hx
    p = -scale / whole * sum_h - q * mean
    dxs = []
    for h, x, w in zip(hs, xs, weights, strict=True):
        through = torch.addcmul(p, x, q)
        if w is not None:
            through = through.view(-1, len(w), len(p)).mul_(w[:, None].to(p.dtype)).view(x.shape)
        dxs.append(through.addcmul_(h, scale).to(x.dtype))
    return d_gamma, d_beta, dxs


def _moments(
    xs: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor | None],
    counts: Sequence[int],
    total: Total,
    whole: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance (C,) of all sheets of all processes together, weighted by the coverage.

    Those of every sheet first, then put together (Chan, Golub and LeVeque, 1979): the mean of the
    squares less the square of the mean would lose digits.
    """
    parts = []
    for x, w, count in zip(xs, weights, counts, strict=True):
        rows = x.to(precise(x.dtype))
        m = _covered_sum(rows, w) / count
        parts.append((count / whole, m, _covered_sum((rows - m).square_(), w) / count))
    mean = total(_sum(share * m for share, m, _ in parts))
    return mean, total(_sum(share * (v + (m - mean) ** 2) for share, m, v in parts))


def _sum(terms: Iterable[torch.Tensor]) -> torch.Tensor:
    return reduce(torch.add, terms)


def _covered_sum(rows: torch.Tensor, w: torch.Tensor | None) -> torch.Tensor:
    """The sum (C,) of (B * G * h * w, C), weighted by (G * h * w,), or by ones for None."""
    if w is None:
        return rows.sum(0)
    return (w.to(rows.dtype) @ rows.view(-1, len(w), rows.shape[1])).sum(0)


def _before_activation(
    g: torch.Tensor, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, slope: float
) -> torch.Tensor:
    """The gradient h before the activation, (B * G * h * w, C), at least in float32."""
    z = torch.addcmul(shift, x, scale)
    return aten.leaky_relu_backward(g.to(z.dtype), z, slope, False)


def precise(dtype: torch.dtype) -> torch.dtype:
    """The type that statistics and losses of activations of this type are computed in."""
    return torch.promote_types(dtype, torch.float32)
