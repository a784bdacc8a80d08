"""A discriminator on shared canvases: every position counts as often as windows cover it.

The plain way (``htdg.losses``) runs D over the M copies; here it runs over the canvases that the
copies are windows of (``htdg.fast.canvases``) and gives the same losses, gradients, running
statistics and votes, but for rounding. Two things differ from running a network over images: batch
normalisation weights each position (``htdg.fast.batch_norm``), and the losses read the logits
through the windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable

from htdg.fast import native
from htdg.fast.batch_norm import Total, alone, images_of, normalise, precise, rows_of
from htdg.fast.canvases import CanvasPlan
from htdg.fast.convolution import convolve_all, layers_of
from htdg.fast.folding import run_folded
from htdg.networks import Discriminator

# --- Losses and votes ---------------------------------------------------------------------------


def real_loss(
    d: Discriminator, sheets: Sequence[torch.Tensor], plan: CanvasPlan, total: Total = alone
) -> torch.Tensor:
    """``htdg.losses.real_loss``, from the canvases ``plan.draw(images)``.

    With some of the copies only, their mean; ``total`` is then as of ``batch_norm.normalise``.
    """
    return _CoveredCrossEntropy.apply(plan, True, *discriminate(d, sheets, plan, total))


def generated_loss(
    d: Discriminator, sheets: Sequence[torch.Tensor], plan: CanvasPlan, total: Total = alone
) -> torch.Tensor:
    """``htdg.losses.generated_loss``, from the canvases ``plan.draw(images)``, likewise."""
    return _CoveredCrossEntropy.apply(plan, False, *discriminate(d, sheets, plan, total))


def discriminate(
    d: Discriminator, sheets: Sequence[torch.Tensor], plan: CanvasPlan, total: Total = alone
) -> list[torch.Tensor]:
    """D in training mode over the canvases: logits (B * G, M + 1, h, w) for each sheet."""
    xs = list(sheets)
    for layer, (convolution, norm) in enumerate(layers_of(d), start=1):
        xs = normalise(norm, convolve_all(convolution, xs), plan, layer, total)
    return convolve_all(d.tail, xs)


def canvas_votes(
    convolutions: Sequence[nn.Conv2d],
    sheets: Sequence[torch.Tensor],
    plan: CanvasPlan,
    binary: bool = False,
) -> torch.Tensor:
    """``votes.votes_from_logits`` from the canvases of B images: (M, B, h, w) float32, in [0, 1].

    Args:
        convolutions: D with its normalisation folded in (``htdg.fast.folding``), the last one
            without the class "generated", which has no vote.
        sheets: the canvases ``plan.draw(images)``, in the type of the convolutions.
        plan: what drew them.
        binary: whether D has but one class for all that is real; then the convolutions have both
            classes, and the votes are those of ``votes.binary_votes``.
    """
    h, images = plan.side - 2 * plan.layers, plan.images(sheets)
    classes = convolutions[-1].out_channels
    if native.usable(sheets[0]) and classes <= native.MOST_CLASSES:
        votes = torch.empty(len(plan.transformations), images, h, h, dtype=torch.float32)
        for x, windows in zip(sheets, plan.windows, strict=True):
            logits = run_folded(convolutions, x).permute(0, 2, 3, 1)  # (B * G, h', w', M)
            native.votes(logits.unflatten(0, (images, -1)), windows, binary, h, votes)
        return votes
    parts = []
    for x, places in zip(sheets, plan.logit_places(classes, binary), strict=True):
        rows = rows_of(run_folded(convolutions, x))  # (B * G * h' * w', M)
        logits = rows.view(images, -1)[:, places].to(precise(rows.dtype))  # (B, windows * h * w)
        sums = _log_sums(rows).view(images, -1)[:, places // classes]
        parts.append((logits - sums).exp_().view(images, -1, h, h))  # (B, windows, h, w)
    return torch.cat(parts, 1)[:, plan.order].movedim(1, 0).float()


def _log_sums(rows: torch.Tensor) -> torch.Tensor:
    """log(sum(exp(x))) (rows,) of the logits (rows, classes) of each position."""
    return rows.to(precise(rows.dtype)).logsumexp(-1)


# --- Cross-entropy ------------------------------------------------------------------------------


class _Context(FunctionCtx):
    """What the forward pass keeps for the backward pass."""

    saved_tensors: tuple[torch.Tensor, ...]
    shapes: list[torch.Size]


class _CoveredCrossEntropy(torch.autograd.Function):
    """The cross-entropy of every patch of every copy, from the logits of the canvases.

    A position that w windows cover counts w times, each time with the class of that window, or
    always as "generated". Its gradient is known at once: (w * softmax - how often each class) / N.
    """

    @staticmethod
    def forward(ctx: _Context, plan: CanvasPlan, real: bool, *logits: torch.Tensor) -> torch.Tensor:
        images, classes = plan.images(logits), logits[0].shape[1]
        count = images * plan.patches(plan.layers)
        terms, gradients = [], []
        binary = classes <= len(plan.transformations)
        all_places = plan.logit_places(classes, binary)
        for x, sheet, places in zip(logits, plan.sheets, all_places, strict=True):
            rows, coverage = rows_of(x), sheet.coverage[plan.layers]  # (B * G * h * w, M + 1)
            # -log p of a class is log(sum(exp(logits))), here for all windows, less its logit.
            sums, gradient = _softmax(rows, coverage, 1 / count)
            w = sums.new_ones(()) if coverage is None else coverage.to(sums).repeat(images)
            terms.append((w * sums).sum() / count)
            if real:
                terms.append(-(rows.view(images, -1)[:, places].to(sums).sum() / count))
                if binary:  # windows that overlap have places in common
                    gradient[:, 0] -= w / count
                else:
                    gradient.view(images, -1)[:, places] -= 1 / count
            else:
                terms.append(-((w * rows[:, -1]).sum() / count))
                gradient[:, -1] -= w / count
            gradients.append(gradient)
        ctx.save_for_backward(*gradients)
        ctx.shapes = [x.shape for x in logits]
        return cast(torch.Tensor, sum(terms))

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients = zip(ctx.saved_tensors, ctx.shapes, strict=True)
        to_logits = [images_of(rows * g.to(rows.dtype), shape) for rows, shape in gradients]
        return None, None, *to_logits


def _softmax(
    rows: torch.Tensor, w: torch.Tensor | None, factor: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """``_log_sums``, and factor * w * softmax of each row in the type of ``rows``."""
    if native.usable(rows) and rows.shape[1] <= native.MOST_CLASSES:
        return native.softmax(rows, w, factor)
    sums = _log_sums(rows)
    p = (rows - sums[:, None]).exp_().mul_(factor)
    if w is not None:
        p.view(-1, len(w), rows.shape[1]).mul_(w[:, None].to(p))
    return sums, p.to(rows.dtype)
