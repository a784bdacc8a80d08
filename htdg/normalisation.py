"""Batch normalisation, and the activation after it, of the copies that shared canvases hold.

Batch normalisation needs the statistics of the *copies*, so every position of a canvas is weighted
by the number of windows that cover it. Normalisation and activation are one step with a gradient
written by hand, since after sharing they would cost nearly as much as the convolutions;
``htdg.kernels`` compiles the four passes over memory where it can, and here they stand in PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from htdg import kernels
from htdg.canvases import CanvasPlan
from htdg.networks import SLOPE, PatchNetwork
from htdg.winograd import convolve

aten = torch.ops.aten


def normalise(
    norm: nn.BatchNorm2d, xs: Sequence[torch.Tensor], plan: CanvasPlan, layer: int
) -> list[torch.Tensor]:
    """Batch normalisation of what the windows show, and LeakyReLU: a (B * G, C, h, w) each sheet.

    ``norm`` is in training mode: its running statistics are updated as PyTorch does.
    """
    weights = [sheet.coverage[layer] for sheet in plan.sheets]
    shares = [sheet.copies / len(plan.transformations) for sheet in plan.sheets]
    return _normalised(norm, xs, weights, shares, plan.images(xs) * plan.patches(layer))


def run_normalised(network: PatchNetwork, x: torch.Tensor) -> torch.Tensor:
    """``PatchNetwork.body`` in training mode, (B, in, H, W) -> (B, out, H - 2L, W - 2L)."""
    for block in network.blocks:
        x = convolve(block.conv, x)
        (x,) = _normalised(block.norm, [x], [None], [1.0], x[:, 0].numel())
    return convolve(network.tail, x)


def _normalised(
    norm: nn.BatchNorm2d,
    xs: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor | None],
    shares: Sequence[float],
    count: int,
) -> list[torch.Tensor]:
    with torch.autocast(xs[0].device.type, enabled=False):  # statistics are taken in float32
        fixed = (norm.eps, weights, shares, count)
        mean, var, *ys = _CoveredNorm.apply(norm.weight, norm.bias, *fixed, *xs)
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(var * (count / (count - 1)), norm.momentum)
    return ys


class _CoveredNorm(torch.autograd.Function):
    """y = LeakyReLU(gamma * (x - mean) / sqrt(var + eps) + beta), mean and var over the windows.

    With w the coverage and N its sum, mean = sum(w x) / N, and likewise var. Backward, with
    x^ = (x - mean) / sqrt(var + eps), s = gamma / sqrt(var + eps) and h the gradient before the
    activation, every position's gradient already being summed over the windows:

        dx = s * (h - w / N * (sum(h) + x^ * sum(h x^)))
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        gamma: torch.Tensor,
        beta: torch.Tensor,
        eps: float,
        weights: list[torch.Tensor | None],
        shares: list[float],
        count: int,
        *xs: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        xs = tuple(x.contiguous(memory_format=torch.channels_last) for x in xs)
        mean, var = _moments(xs, weights, shares)
        s = gamma * (var + eps).rsqrt()
        ys = [_activated(x, s, beta - s * mean) for x in xs]
        ctx.eps, ctx.weights, ctx.count = eps, weights, count
        ctx.save_for_backward(gamma, beta, mean, var, *xs)
        ctx.mark_non_differentiable(mean, var)
        return (mean, var, *ys)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        _mean: torch.Tensor,
        _var: torch.Tensor,
        *gradients: torch.Tensor,
    ) -> tuple[torch.Tensor | None, ...]:
        gamma, beta, mean, var, *xs = ctx.saved_tensors
        gradients = [g.contiguous(memory_format=torch.channels_last) for g in gradients]
        inverse = (var + ctx.eps).rsqrt()
        s = gamma * inverse
        shift = beta - s * mean
        sums = [_gradient_sums(g, x, s, shift, mean) for g, x in zip(gradients, xs, strict=True)]
        of_h, of_hx = (sum(parts) for parts in zip(*sums, strict=True))
        d_gamma = inverse * of_hx
        # -s / N * (sum(h) + x^ * sum(h x^)) = p + q x
        q = -s / ctx.count * inverse * d_gamma
        p = -s / ctx.count * of_h - q * mean
        dxs = [
            _input_gradient(g, x, w, s, shift, p, q)
            for g, x, w in zip(gradients, xs, ctx.weights, strict=True)
        ]
        return d_gamma, of_h, None, None, None, None, *dxs


def rows_of(x: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w), channels last in memory, as (B * h * w, C) without copying."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def images_of(rows: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The inverse of ``rows_of``: (B * h * w, C) as (B, C, h, w), without copying."""
    b, _, h, w = shape
    return rows.view(b, h, w, -1).permute(0, 3, 1, 2)


def _moments(
    xs: Sequence[torch.Tensor], weights: Sequence[torch.Tensor | None], shares: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance (C,), in float32, of all sheets together, weighted by the coverage.

    Every sheet about its own mean first, then put together (Chan, Golub and LeVeque, 1979): the
    mean of the squares less the square of the mean would lose digits.
    """
    parts = [_moments_of_sheet(x, w) for x, w in zip(xs, weights, strict=True)]
    if len(parts) == 1:
        return parts[0]
    mean = sum(n * m for n, (m, _) in zip(shares, parts, strict=True))
    var = sum(n * (v + (m - mean) ** 2) for n, (m, v) in zip(shares, parts, strict=True))
    return mean, var


def _moments_of_sheet(x: torch.Tensor, w: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance (C,) of a sheet (B * G, C, h, w)."""
    rows = rows_of(x)
    if kernels.usable(x):
        return kernels.moments(rows, w)
    rows = rows.to(precise(x.dtype))
    mean = _covered_mean(rows, w)
    return mean, _covered_mean((rows - mean).square_(), w)


def _covered_mean(rows: torch.Tensor, w: torch.Tensor | None) -> torch.Tensor:
    """The mean (C,) of (B * G * h * w, C), weighted by (G * h * w,), or by ones for None."""
    if w is None:
        return rows.sum(0) / len(rows)
    images = rows.view(-1, len(w), rows.shape[1])  # (B, G * h * w, C)
    w = w.to(rows.dtype)
    return (w @ images).sum(0) / (w.sum() * len(images))


def _activated(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """LeakyReLU(scale * x + shift), in the type and layout of ``x``."""
    rows = rows_of(x)
    if kernels.usable(x):
        return images_of(kernels.activate(rows, scale, shift, SLOPE), x.shape)
    return images_of(F.leaky_relu_(torch.addcmul(shift, rows, scale), SLOPE).to(x.dtype), x.shape)


def _gradient_sums(
    g: torch.Tensor, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, mean: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums (C,) of h and of h * (x - mean), h being the gradient before the activation."""
    if kernels.usable(x):
        return kernels.gradient_sums(rows_of(g), rows_of(x), scale, shift, mean, SLOPE)
    h = _before_activation(g, x, scale, shift)
    return h.sum(0), (h * (rows_of(x) - mean)).sum(0)


def _input_gradient(
    g: torch.Tensor,
    x: torch.Tensor,
    w: torch.Tensor | None,
    scale: torch.Tensor,
    shift: torch.Tensor,
    p: torch.Tensor,
    q: torch.Tensor,
) -> torch.Tensor:
    """scale * h + w * (p + q * x), in the type and layout of ``x``."""
    rows = rows_of(x)
    if kernels.usable(x):
        return images_of(kernels.gradient(rows_of(g), rows, w, scale, shift, p, q, SLOPE), x.shape)
    through = torch.addcmul(p, rows, q)
    if w is not None:
        through = through.view(-1, len(w), len(p)).mul_(w[:, None].to(p.dtype)).view(rows.shape)
    dx = through.addcmul_(_before_activation(g, x, scale, shift), scale)
    return images_of(dx.to(x.dtype), x.shape)


def _before_activation(
    g: torch.Tensor, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
) -> torch.Tensor:
    """The gradient h before the activation, (B * G * h * w, C), at least in float32."""
    z = torch.addcmul(shift, rows_of(x), scale)
    return aten.leaky_relu_backward(rows_of(g).to(z.dtype), z, SLOPE, False)


def precise(dtype: torch.dtype) -> torch.dtype:
    """The type that statistics and losses of activations of this type are computed in."""
    return torch.promote_types(dtype, torch.float32)
