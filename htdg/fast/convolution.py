"""Convolutions with fewer multiplications on the CPU: Winograd's minimal filtering.

Where ``winograd.c`` is compiled, a 3 x 3 convolution, forward and backward, takes 36
multiplications for every sixteen outputs where summing directly takes 144, in bfloat16 16 for four
where it takes 36: on two cores with AVX-512 well below half the time of PyTorch's. The sums are the
same but for rounding, which is about twice as large. Other devices and networks that are too narrow
to gain have PyTorch's convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from htdg.fast import native as kernels

#: Channels in and out below which PyTorch's convolutions are faster (measured: 16 slower, 28 not).
NARROWEST = 24
#: Of a tile of inputs, as in winograd.c.
SIDES = {torch.float32: 6, torch.bfloat16: 4}


def convolve(convolution: nn.Conv2d, x: torch.Tensor, slope: float = 1.0) -> torch.Tensor:
    """What ``convolution``, 3 x 3 without padding, makes of x (B, C, H, W): (B, D, H - 2, W - 2).

    Differentiable, channels last in memory. Under autocast in bfloat16, as PyTorch's would be. With
    ``slope`` LeakyReLU follows, and nothing is differentiable.
    """
    return convolve_all(convolution, [x], slope)[0]


def convolve_all(
    convolution: nn.Conv2d, xs: Sequence[torch.Tensor], slope: float = 1.0
) -> list[torch.Tensor]:
    """``convolve`` of some arrays of one type, whose weights are made ready once."""
    weight, kind = convolution.weight, xs[0].device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else xs[0].dtype
    narrow = min(weight.shape[:2]) < NARROWEST
    if narrow or kind != "cpu" or not _lanes(dtype):
        ys = [convolution(x) for x in xs]
        return ys if slope == 1 else [F.leaky_relu_(y, slope) for y in ys]
    xs = [x.to(dtype) for x in xs]
    if slope != 1:
        return _convolved(xs, weight, convolution.bias, slope=slope)
    return list(_Convolution.apply(weight, convolution.bias, *xs))


def _lanes(dtype: torch.dtype) -> int:
    """Floats in a register that the compiled functions for this type use; 0 if there are none."""
    library = kernels.library()
    if library is None or dtype not in kernels.NAMES:
        return 0
    return getattr(library, f"winograd_lanes_{kernels.NAMES[dtype]}")()


class _Convolution(torch.autograd.Function):
    """y = weight * x + bias in the type of x, for each x, and the gradients."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        weight: torch.Tensor,
        bias: torch.Tensor,
        *xs: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        xs = tuple(_channels_last(x) for x in xs)
        ctx.save_for_backward(weight, *xs)
        return tuple(_convolved(xs, weight, bias))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        weight, *xs = ctx.saved_tensors
        gs = [_channels_last(g) for g in gs]
        dxs, d_weight, d_bias = [None] * len(xs), None, None
        if any(ctx.needs_input_grad[2:]):
            # Every input is summed into the outputs around it with the weight opposite.
            dxs = _convolved(gs, weight.transpose(0, 1), None, pad=2)
        if ctx.needs_input_grad[0]:
            d_weight, d_bias = _weight_gradients(gs, xs, weight)
        return d_weight, d_bias, *dxs


def _weight_gradients(
    gs: Sequence[torch.Tensor], xs: Sequence[torch.Tensor], weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients to the weight (D, C, 3, 3) and the bias (D,), from those to all outputs."""
    (outputs, inputs), threads = weight.shape[:2], torch.get_num_threads()
    floats = kernels.function_for("winograd_sums", xs[0])(inputs, outputs)
    sums = torch.zeros(threads * floats)
    for g, x in zip(gs, xs, strict=True):
        sizes = _sizes(x, outputs)
        kernels.call_for("winograd_backward_weights", x, x, g, sums, threads, *sizes)
    by_place, d_bias = torch.empty(3, 3, inputs, outputs), torch.empty(outputs)
    ends = (inputs, outputs, by_place, d_bias)
    kernels.call_for("winograd_fold_gradient", xs[0], sums, threads, *ends)
    return by_place.permute(3, 2, 0, 1).to(weight.dtype), d_bias.to(weight.dtype)


def _convolved(
    xs: Sequence[torch.Tensor],
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    pad: int = 0,
    slope: float = 1.0,
) -> list[torch.Tensor]:
    """The convolution of each x (B, C, H, W) with ``pad`` zeros around it, then LeakyReLU.

    With ``pad`` 2 the weights (D, C, 3, 3) are turned by 180 degrees.
    """
    (outputs, inputs), turned, dtype = weight.shape[:2], int(pad == 2), xs[0].dtype
    weight, bias = weight.float(), None if bias is None else bias.float()
    v = xs[0].new_empty(SIDES[dtype] ** 2 * _padded(inputs, dtype) * _padded(outputs, dtype))
    of_weight = (*weight.stride(), outputs, inputs)
    kernels.call_for("winograd_weights", v, weight, *of_weight, turned, v)
    ys = []
    for x in map(_channels_last, xs):
        b, _, height, width = x.shape
        y = x.new_empty(b, height + 2 * pad - 2, width + 2 * pad - 2, outputs)
        kernels.call_for("winograd_forward", x, x, v, bias, slope, y, *_sizes(x, outputs), pad)
        ys.append(y.permute(0, 3, 1, 2))  # (B, D, H', W')
    return ys


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _sizes(x: torch.Tensor, outputs: int) -> tuple[int, ...]:
    b, inputs, height, width = x.shape
    return b, height, width, inputs, outputs


def _padded(channels: int, dtype: torch.dtype) -> int:
    """Channels as they lie in memory: whole blocks of two registers."""
    block = 2 * _lanes(dtype)
    return -(-channels // block) * block
