"""A discriminator on shared canvases: every position counts as often as windows cover it.

The plain way runs D over the M copies; here it runs over the canvases that the copies are windows
of (``htdg.canvases``) and gives the same losses, gradients, running statistics and votes. Three
things differ from running a network over images:

- batch normalisation needs the statistics of the *copies*: each position of a canvas is weighted by
  the number of windows that cover it, layer by layer;
- normalisation and activation are one step with a gradient written by hand, since after sharing
  they would cost nearly as much as the convolutions (``htdg.kernels`` compiles it where it can);
- the losses read the logits through the windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from htdg import kernels
from htdg.canvases import CanvasPlan
from htdg.networks import SLOPE, Discriminator

aten = torch.ops.aten


# --- Losses and votes ---------------------------------------------------------------------------


def real_loss(d: Discriminator, sheets: Sequence[torch.Tensor], plan: CanvasPlan) -> torch.Tensor:
    """``training.real_loss``, from the canvases ``plan.draw(images)``."""
    return _CoveredCrossEntropy.apply(plan, True, *discriminate(d, sheets, plan))


def generated_loss(
    d: Discriminator, sheets: Sequence[torch.Tensor], plan: CanvasPlan
) -> torch.Tensor:
    """``training.generated_loss``, from the canvases ``plan.draw(images)``."""
    return _CoveredCrossEntropy.apply(plan, False, *discriminate(d, sheets, plan))


def discriminate(
    d: Discriminator, sheets: Sequence[torch.Tensor], plan: CanvasPlan
) -> list[torch.Tensor]:
    """D in training mode over the canvases: logits (B * G, M + 1, h, w) for each sheet."""
    xs = list(sheets)
    for layer, block in enumerate(d.blocks, start=1):
        xs = normalise(block.norm, [block.conv(x) for x in xs], plan, layer)
    return [d.tail(x) for x in xs]


def canvas_votes(
    convolutions: Sequence[nn.Conv2d], sheets: Sequence[torch.Tensor], plan: CanvasPlan
) -> torch.Tensor:
    """``votes.votes_from_logits`` from the canvases of B images: (M, B, h, w).

    ``convolutions`` are D with its normalisation folded in (``htdg.folding``), the last one without
    the class "generated", which has no vote.
    """
    m, h, images = len(plan.transformations), plan.side - 2 * plan.layers, plan.images(sheets)
    found = []
    for x, own in zip(sheets, plan.own(m), strict=True):
        for convolution in convolutions[:-1]:
            x = F.leaky_relu_(convolution(x), SLOPE)
        p = _rows(convolutions[-1](x).float()).softmax(-1)  # (B * G * h' * w', M)
        found.append(p.view(images, -1)[:, own].view(images, -1, h, h))  # (B, windows, h, w)
    return torch.cat(found, 1)[:, plan.order].movedim(1, 0)


# --- Batch normalisation, and the activation after it -------------------------------------------


def normalise(
    norm: nn.BatchNorm2d, xs: Sequence[torch.Tensor], plan: CanvasPlan, layer: int
) -> list[torch.Tensor]:
    """Batch normalisation of what the windows show, and LeakyReLU: a (B * G, C, h, w) each sheet.

    ``norm`` is in training mode: its running statistics are updated as PyTorch does.
    """
    count = plan.images(xs) * plan.patches(layer)
    weights = [sheet.coverage[layer] for sheet in plan.sheets]
    shares = [sheet.copies / len(plan.transformations) for sheet in plan.sheets]
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


def _rows(x: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w), channels last in memory, as (B * h * w, C) without copying."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _images(rows: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The inverse of ``_rows``: (B * h * w, C) as (B, C, h, w), without copying."""
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
    rows = _rows(x)
    if kernels.usable(x):
        return kernels.moments(rows, w)
    images = rows.to(_precise(x.dtype))
    if w is None:
        return torch.var_mean(images, 0, correction=0)[::-1]
    images = images.view(-1, len(w), rows.shape[1])  # (B, G * h * w, C)
    w = w.to(images.dtype)
    share = w / (w.sum() * len(images))
    mean = _weighted_sum(share, images)
    return mean, _weighted_sum(share, (images - mean).square_())


def _activated(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """LeakyReLU(scale * x + shift), in the type and layout of ``x``."""
    rows = _rows(x)
    if kernels.usable(x):
        return _images(kernels.activate(rows, scale, shift, SLOPE), x.shape)
    return _images(F.leaky_relu_(torch.addcmul(shift, rows, scale), SLOPE).to(x.dtype), x.shape)


def _gradient_sums(
    g: torch.Tensor, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, mean: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums (C,) of h and of h * (x - mean), h being the gradient before the activation."""
    if kernels.usable(x):
        return kernels.gradient_sums(_rows(g), _rows(x), scale, shift, mean, SLOPE)
    h = _before_activation(g, x, scale, shift)
    return h.sum(0), (h * (_rows(x) - mean)).sum(0)


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
    rows = _rows(x)
    if kernels.usable(x):
        return _images(kernels.gradient(_rows(g), rows, w, scale, shift, p, q, SLOPE), x.shape)
    through = torch.addcmul(p, rows, q)
    if w is not None:
        through = through.view(-1, len(w), len(p)).mul_(w[:, None].to(p.dtype)).view(rows.shape)
    dx = through.addcmul_(_before_activation(g, x, scale, shift), scale)
    return _images(dx.to(x.dtype), x.shape)


def _before_activation(
    g: torch.Tensor, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
) -> torch.Tensor:
    """The gradient h before the activation, (B * G * h * w, C), at least in float32."""
    z = torch.addcmul(shift, _rows(x), scale)
    return aten.leaky_relu_backward(_rows(g).to(z.dtype), z, SLOPE, False)


def _precise(dtype: torch.dtype) -> torch.dtype:
    """The type that statistics and losses of activations of this type are computed in."""
    return torch.promote_types(dtype, torch.float32)


def _weighted_sum(w: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """(P,) weights times (B, P, C), summed over images and positions: (C,)."""
    return w @ images[0] if len(images) == 1 else (w @ images).sum(0)


# --- Cross-entropy ------------------------------------------------------------------------------


class _CoveredCrossEntropy(torch.autograd.Function):
    """The cross-entropy of every patch of every copy, from the logits of the canvases.

    A position that w windows cover counts w times, each time with the class of that window, or
    always as "generated". Its gradient is known at once: (w * softmax - how often each class) / N.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        plan: CanvasPlan,
        real: bool,
        *logits: torch.Tensor,
    ) -> torch.Tensor:
        images, classes = plan.images(logits), logits[0].shape[1]
        count = images * plan.patches(plan.layers)
        loss, gradients = 0.0, []
        for x, sheet, own in zip(logits, plan.sheets, plan.own(classes), strict=True):
            log_p = _rows(x).log_softmax(-1, dtype=_precise(x.dtype))  # (B * G * h * w, M + 1)
            w = sheet.coverage[plan.layers]
            each = 1 / count if w is None else (w.to(log_p) / count).repeat(images)[:, None]
            if real:
                loss = loss - log_p.view(images, -1)[:, own].sum() / count
                gradient = log_p.exp_().mul_(each)
                gradient.view(images, -1)[:, own] -= 1 / count
            else:
                loss = loss - (log_p[:, -1:] * each).sum()
                gradient = log_p.exp_().mul_(each)
                gradient[:, -1:] -= each
            gradients.append(gradient.to(x.dtype))
        ctx.save_for_backward(*gradients)
        ctx.shapes = [x.shape for x in logits]
        return loss

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        found = []
        for gradient, shape in zip(ctx.saved_tensors, ctx.shapes, strict=True):
            found.append(_images(gradient * g.to(gradient.dtype), shape))
        return None, None, *found
