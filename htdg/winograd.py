"""Convolutions with fewer multiplications on the CPU: Winograd's minimal filtering.

Where ``winograd.c`` is compiled, a 3 x 3 convolution, forward and backward, takes 36
multiplications for every sixteen outputs where summing directly takes 144, in bfloat16 16 for four
where it takes 36: on two cores with AVX-512 well below half the time of PyTorch's. The sums are the
same but for rounding, which is about twice as large. Other devices and networks that are too narrow
to gain have PyTorch's convolutions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from htdg import kernels

#: Channels in and out below which PyTorch's convolutions are faster (measured: 16 slower, 28 not).
NARROWEST = 24
#: Of a tile of inputs, as in winograd.c.
SIDES = {torch.float32: 6, torch.bfloat16: 4}


def convolve(convolution: nn.Conv2d, x: torch.Tensor, slope: float = 1.0) -> torch.Tensor:
    """What ``convolution``, 3 x 3 without padding, makes of x (B, C, H, W): (B, D, H - 2, W - 2).

    Differentiable, channels last in memory. Under autocast in bfloat16, as PyTorch's would be. With
    ``slope`` LeakyReLU follows, and nothing is differentiable.
    """
    weight, kind = convolution.weight, x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    narrow = min(weight.shape[:2]) < NARROWEST
    if narrow or kind != "cpu" or not _lanes(dtype):
        y = convolution(x)
        return y if slope == 1 else F.leaky_relu_(y, slope)
    if slope != 1:
        return _convolved(_channels_last(x.to(dtype)), weight, convolution.bias, slope=slope)
    return _Convolution.apply(x.to(dtype), weight, convolution.bias)


def _lanes(dtype: torch.dtype) -> int:
    """Floats in a register that the compiled functions for this type use; 0 if there are none."""
    library = kernels.library()
    if library is None or dtype not in kernels.NAMES:
        return 0
    return getattr(library, f"winograd_lanes_{kernels.NAMES[dtype]}")()


class _Convolution(torch.autograd.Function):
    """y = weight * x + bias in the type of x, and its gradients."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
    ) -> torch.Tensor:
        x = _channels_last(x)
        ctx.save_for_backward(x, weight)
        return _convolved(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        g = _channels_last(g)
        dx = d_weight = d_bias = None
        if ctx.needs_input_grad[0]:
            # Every input is summed into the outputs around it with the weight opposite.
            dx = _convolved(g, weight.transpose(0, 1), None, pad=2)
        if ctx.needs_input_grad[1]:
            by_place = weight.new_empty(3, 3, x.shape[1], g.shape[1], dtype=torch.float32)
            d_bias = by_place.new_empty(g.shape[1])
            sizes = _sizes(x, g.shape[1])
            kernels.call_for("winograd_backward_weights", x, x, g, by_place, d_bias, *sizes)
            d_weight = by_place.permute(3, 2, 0, 1).to(weight.dtype)
            d_bias = d_bias.to(weight.dtype)
        return dx, d_weight, d_bias


def _convolved(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    pad: int = 0,
    slope: float = 1.0,
) -> torch.Tensor:
    """The convolution of x (B, C, H, W), channels last, with ``pad`` zeros around it.

    With ``pad`` 2 the weights (D, C, 3, 3) are turned by 180 degrees.
    """
    (outputs, inputs), turned = weight.shape[:2], int(pad == 2)
    weight, bias = weight.float(), None if bias is None else bias.float()
    v = x.new_empty(SIDES[x.dtype] ** 2 * _padded(inputs, x.dtype) * _padded(outputs, x.dtype))
    of_weight = (*weight.stride(), outputs, inputs)
    kernels.call_for("winograd_weights", x, weight, *of_weight, turned, v)
    b, _, height, width = x.shape
    y = x.new_empty(b, height + 2 * pad - 2, width + 2 * pad - 2, outputs)
    kernels.call_for("winograd_forward", x, x, v, bias, slope, y, *_sizes(x, outputs), pad)
    return y.permute(0, 3, 1, 2)  # (B, D, H', W')


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _sizes(x: torch.Tensor, outputs: int) -> tuple[int, ...]:
    b, inputs, height, width = x.shape
    return b, height, width, inputs, outputs


def _padded(channels: int, dtype: torch.dtype) -> int:
    """Channels as they lie in memory: whole blocks of two registers."""
    block = 2 * _lanes(dtype)
    return -(-channels // block) * block
