"""Convolutions with fewer multiplications on the CPU: Winograd's minimal filtering.

Where ``winograd.c`` is compiled, a 3 x 3 convolution, forward and backward, takes 36
multiplications for every sixteen outputs where summing directly takes 144, in bfloat16 16 for four
where it takes 36: on two cores with AVX-512 well below half the time of PyTorch's. The sums are the
same but for rounding, which is about twice as large. Other devices, networks that are too narrow to
gain, and whatever ``htdg.fast.choice`` says have PyTorch's convolutions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from htdg.fast import choice, native
from htdg.networks import PatchNetwork

#: Channels in and out below which PyTorch's convolutions are faster (measured: 16 slower, 28 not).
NARROWEST = 24
#: Of a tile of inputs, as in winograd.c.
SIDES = {torch.float32: 6, torch.bfloat16: 4}
#: How often each way is tried to find the faster one; the quickest counts.
TRIALS = 5


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
    if kind != "cpu" or not _minimal_filtering(convolution, xs, dtype):
        ys = [convolution(x) for x in xs]
        return ys if slope == 1 else [F.leaky_relu_(y, slope) for y in ys]
    xs = [x.to(dtype) for x in xs]
    if slope != 1:
        return _convolved(xs, weight, convolution.bias, slope=slope)
    return list(_Convolution.apply(weight, convolution.bias, *xs))


def layers_of(network: PatchNetwork) -> Iterable[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """The convolution and the normalisation of each hidden layer."""
    for block in network.blocks:
        yield cast(nn.Conv2d, block.conv), cast(nn.BatchNorm2d, block.norm)


# --- Which convolutions are used -----------------------------------------------------------------


def _minimal_filtering(
    convolution: nn.Conv2d, xs: Sequence[torch.Tensor], dtype: torch.dtype
) -> bool:
    """Whether those of this module are used, not PyTorch's."""
    outputs, inputs = convolution.weight.shape[:2]
    if min(inputs, outputs) < NARROWEST or not native.lanes(dtype):
        return False
    positions = sum(x.shape[0] * x.shape[2] * x.shape[3] for x in xs)
    return choice.ours_is_faster(dtype, inputs, outputs, positions, times_as_fast)


@torch.inference_mode(False)
@torch.enable_grad()
@torch.autocast("cpu", enabled=False)
def times_as_fast(dtype: torch.dtype, inputs: int, outputs: int, side: int) -> float:
    """How many times as fast as this module PyTorch convolves an image of this side, and back."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, inputs, side, side, generator=rng, dtype=torch.float32)
    weight = torch.randn(outputs, inputs, 3, 3, generator=rng, dtype=torch.float32)
    x, weight = (_channels_last(t.to(dtype)).requires_grad_() for t in (x, weight))
    bias = torch.zeros(outputs, dtype=dtype, requires_grad=True)
    ours = _seconds(lambda: _Convolution.apply(weight, bias, x)[0], (x, weight))
    return ours / _seconds(lambda: F.conv2d(x, weight, bias), (x, weight))


def _seconds(forward: Callable[[], torch.Tensor], tensors: Sequence[torch.Tensor]) -> float:
    """The least time of some trials, forward and backward, the first one not counted."""
    durations = []
    for _ in range(TRIALS + 1):
        start = time.perf_counter()
        y = forward()
        torch.autograd.grad(y, tensors, y.detach())
        durations.append(time.perf_counter() - start)
    return min(durations[1:])


# --- Those of winograd.c -------------------------------------------------------------------------


class _Context(FunctionCtx):
    """What the forward pass keeps for the backward pass, and what that is asked for."""

    saved_tensors: tuple[torch.Tensor, ...]
    needs_input_grad: tuple[bool, ...]


class _Convolution(torch.autograd.Function):
    """y = weight * x + bias in the type of x, for each x, and the gradients."""

    @staticmethod
    def forward(
        ctx: _Context, weight: torch.Tensor, bias: torch.Tensor, *xs: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        xs = tuple(_channels_last(x) for x in xs)
        ctx.save_for_backward(weight, *xs)
        return tuple(_convolved(xs, weight, bias))

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weight, *xs = ctx.saved_tensors
        gs = [_channels_last(g) for g in gradients]
        dxs: Sequence[torch.Tensor | None] = [None] * len(xs)
        d_weight, d_bias = None, None
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
    (outputs, inputs), threads, dtype = weight.shape[:2], torch.get_num_threads(), xs[0].dtype
    floats_per_thread = native.function("winograd_sums", dtype)(inputs, outputs)
    sums = torch.zeros(threads * floats_per_thread, dtype=torch.float32, device="cpu")
    of_sums = native.address("sums", sums, (threads * floats_per_thread,))
    for g, x in zip(gs, xs, strict=True):
        b, _, height, width = x.shape
        if not b:
            continue
        native.call(
            "winograd_backward_weights",
            dtype,
            _address("x", x, (b, inputs, height, width), dtype),
            _address("the gradient", g, (b, outputs, height - 2, width - 2), dtype),
            of_sums,
            threads,
            *(b, height, width, inputs, outputs),
        )
    by_place = torch.empty(3, 3, inputs, outputs, dtype=torch.float32, device="cpu")
    d_bias = torch.empty(outputs, dtype=torch.float32, device="cpu")
    native.call(
        "winograd_fold_gradient",
        dtype,
        of_sums,
        *(threads, inputs, outputs),
        native.address("the gradient to the weights", by_place, (3, 3, inputs, outputs)),
        native.address("the gradient to the bias", d_bias, (outputs,)),
    )
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
    (outputs, inputs), dtype = weight.shape[:2], xs[0].dtype
    weight, bias = weight.float(), None if bias is None else bias.float()
    size = SIDES[dtype] ** 2 * _padded(inputs, dtype) * _padded(outputs, dtype)
    v = torch.empty(size, dtype=dtype, device="cpu")
    of_v = native.address("v", v, (size,), dtype)
    native.call(
        "winograd_weights",
        dtype,
        native.address("weight", weight, (outputs, inputs, 3, 3), order=torch.preserve_format),
        *(*weight.stride(), outputs, inputs),
        int(pad == 2),
        of_v,
    )
    of_bias = None if bias is None else native.address("bias", bias, (outputs,))
    ys = []
    for x in map(_channels_last, xs):
        b, _, height, width = x.shape
        if not b:  # the compiled function needs an image
            ys.append(x.new_empty(0, outputs, height + 2 * pad - 2, width + 2 * pad - 2))
            continue
        shape = (b, height + 2 * pad - 2, width + 2 * pad - 2, outputs)
        y = torch.empty(shape, dtype=dtype, device="cpu")
        native.call(
            "winograd_forward",
            dtype,
            _address("x", x, (b, inputs, height, width), dtype),
            of_v,
            of_bias,
            slope,
            native.address("y", y, shape, dtype),
            *(b, height, width, inputs, outputs, pad),
        )
        ys.append(y.permute(0, 3, 1, 2))  # (B, D, H', W')
    return ys


def _address(name: str, x: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """``native.address`` of images (B, C, H, W), channels last."""
    return native.address(name, x, shape, dtype, torch.channels_last)


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _padded(channels: int, dtype: torch.dtype) -> int:
    """Channels as they lie in memory: whole blocks of two registers."""
    block = 2 * native.lanes(dtype)
    return -(-channels // block) * block
