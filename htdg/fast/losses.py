"""A discriminator on shared canvases: every position counts as often as windows cover it.

The plain way runs D over the M copies; here it runs over the canvases that the copies are windows
of (``htdg.fast.canvases``) and gives the same losses, gradients, running statistics and votes. Two
things differ from running a network over images: batch normalisation weights each position
(``htdg.fast.batch_norm``), and the losses read the logits through the windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from htdg.fast import native as kernels
from htdg.fast.batch_norm import images_of, normalise, precise, rows_of
from htdg.fast.canvases import CanvasPlan
from htdg.fast.convolution import convolve_all
from htdg.fast.folding import run_folded
from htdg.networks import Discriminator

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
        xs = normalise(block.norm, convolve_all(block.conv, xs), plan, layer)
    return convolve_all(d.tail, xs)


def canvas_votes(
    convolutions: Sequence[nn.Conv2d],
    sheets: Sequence[torch.Tensor],
    plan: CanvasPlan,
    binary: bool = False,
) -> torch.Tensor:
    """``votes.votes_from_logits`` from the canvases of B images: (M, B, h, w).

    ``convolutions`` are D with its normalisation folded in (``htdg.fast.folding``), the last one without
    the class "generated", which has no vote. ``binary``: with both classes, where D has but one for
    all that is real (``votes.binary_votes``).
    """
    h, images = plan.side - 2 * plan.layers, plan.images(sheets)
    classes = convolutions[-1].out_channels
    if kernels.usable(sheets[0]) and classes <= kernels.MOST_CLASSES:
        votes = torch.empty(len(plan.transformations), images, h, h)
        for x, windows in zip(sheets, plan.windows, strict=True):
            logits = run_folded(convolutions, x).permute(0, 2, 3, 1)  # (B * G, h', w', M)
            kernels.votes(logits.unflatten(0, (images, -1)), windows, not binary, h, votes)
        return votes
    found = []
    for x, own in zip(sheets, plan.own(classes, each=not binary), strict=True):
        rows = rows_of(run_folded(convolutions, x))  # (B * G * h' * w', M)
        logits = rows.view(images, -1)[:, own].to(precise(rows.dtype))  # (B, windows * h * w)
        sums = _log_sums(rows).view(images, -1)[:, own // classes]
        found.append((logits - sums).exp_().view(images, -1, h, h))  # (B, windows, h, w)
    return torch.cat(found, 1)[:, plan.order].movedim(1, 0).float()


def _log_sums(rows: torch.Tensor) -> torch.Tensor:
    """log(sum(exp(x))) (rows,) of the logits (rows, classes) of each position."""
    return rows.to(precise(rows.dtype)).logsumexp(-1)


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
        each = classes > len(plan.transformations)
        places = plan.own(classes, each=each)
        for x, sheet, own in zip(logits, plan.sheets, places, strict=True):
            rows, w = rows_of(x), sheet.coverage[plan.layers]  # (B * G * h * w, M + 1)
            # -log p of a class is log(sum(exp(logits))), here for all windows, less its logit.
            sums, gradient = _softmax(rows, w, 1 / count)
            w = sums.new_ones(()) if w is None else w.to(sums).repeat(images)
            loss = loss + (w * sums).sum() / count
            if real:
                loss = loss - rows.view(images, -1)[:, own].to(sums).sum() / count
                if each:
                    gradient.view(images, -1)[:, own] -= 1 / count
                else:  # windows that overlap have places in common
                    gradient[:, 0] -= w / count
            else:
                loss = loss - (w * rows[:, -1]).sum() / count
                gradient[:, -1] -= w / count
            gradients.append(gradient)
        ctx.save_for_backward(*gradients)
        ctx.shapes = [x.shape for x in logits]
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        found = []
        for gradient, shape in zip(ctx.saved_tensors, ctx.shapes, strict=True):
            found.append(images_of(gradient * g.to(gradient.dtype), shape))
        return None, None, *found


def _softmax(
    rows: torch.Tensor, w: torch.Tensor | None, over: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """``_log_sums``, and over * w * softmax of each row in the type of ``rows``."""
    if kernels.usable(rows) and rows.shape[1] <= kernels.MOST_CLASSES:
        return kernels.softmax(rows, w, over)
    sums = _log_sums(rows)
    p = (rows - sums[:, None]).exp_().mul_(over)
    if w is not None:
        p.view(-1, len(w), rows.shape[1]).mul_(w[:, None].to(p))
    return sums, p.to(rows.dtype)
