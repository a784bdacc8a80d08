"""Compiled helpers for the CPU: ``kernels.c`` and ``winograd.c``, built once with a C compiler.

With PyTorch's operations, normalising and activating a canvas, forward and backward, reads and
writes it some twenty times, with these helpers eight times; ``htdg.fast.convolution`` calls those
for convolutions. Nothing here is needed, it only saves time: without a compiler, on other systems
than Linux and on other devices PyTorch's operations do the same but for rounding.

``HTDG_KERNELS=0`` turns the helpers off. ``HTDG_MARCH`` names the processor that they are built for
as the compiler's ``-march`` does (default ``native``): ``haswell`` stands for AVX2, ``x86-64`` for
plain C.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from htdg.fast.compiling import compiled_helpers, share_openmp

#: What the functions for each type of activations are called.
TYPE_NAMES = {torch.float32: "float", torch.bfloat16: "bf16"}
#: Of each function: p is an array or None, n a whole number, f another.
ARGUMENTS = {
    "normalise": "npppppnppffpp",
    "normalise_backward": "nppppppnpffppp",
    "softmax": "ppnnnfpp",
    "votes": "ppnnnnnpnnnp",
    "winograd_weights": "pnnnnnnnp",
    "winograd_forward": "pppfpnnnnnn",
    "winograd_sums": "nn",
    "winograd_backward_weights": "pppnnnnnn",
    "winograd_fold_gradient": "pnnnpp",
}
#: The most classes that ``softmax`` and ``votes`` have room for, as in kernels.c.
MOST_CLASSES = 1024


# --- Finding and loading them --------------------------------------------------------------------


def library() -> ctypes.CDLL | None:
    """The compiled helpers; None where they cannot be had, or HTDG_KERNELS is 0."""
    loaded = _library()
    return None if isinstance(loaded, str) else loaded


def missing() -> str:
    """Why the helpers cannot be had here; empty if they can, or if they are turned off."""
    loaded = _library()
    return loaded if isinstance(loaded, str) else ""


@cache
def warn_if_missing() -> None:
    """Say on standard error, once, why the helpers cannot be had here, if that can be mended.

    It cannot where they are turned off, or on a system that they are not for.
    """
    if reason := missing():
        print(
            f"htdg: {reason}, so training runs on PyTorch's operations alone: more slowly, and "
            "with other results than with the compiled helpers, as training amplifies differences "
            "in rounding (HTDG_KERNELS=0 turns this message off).",
            file=sys.stderr,
        )


@cache
def _library() -> ctypes.CDLL | str:
    """The compiled helpers, or why there are none; that is empty where nobody wants any."""
    if os.environ.get("HTDG_KERNELS") == "0" or not sys.platform.startswith("linux"):
        return ""
    try:
        share_openmp()
        path = compiled_helpers()
        loaded = ctypes.CDLL(str(path))
        _declare(loaded)
    except AttributeError:
        return f"{path} lacks functions (delete it, and it is built again)"
    except subprocess.SubprocessError:
        return "the C compiler fails"
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.filename:  # the system's own errors
            return f"{error.filename}: {error.strerror}"
        return str(error)
    return loaded


def _declare(library: ctypes.CDLL) -> None:
    """Declare the types of all arguments, so that numbers arrive in full length."""
    types = {"p": ctypes.c_void_p, "n": ctypes.c_ssize_t, "f": ctypes.c_float}
    for name, letters in ARGUMENTS.items():
        for type_name in TYPE_NAMES.values():
            if name.startswith("winograd") and not _lanes(library, type_name):
                continue  # there are no convolutions for this processor: see winograd.c
            declared = getattr(library, f"{name}_{type_name}")
            declared.argtypes = [types[letter] for letter in letters]
            declared.restype = ctypes.c_ssize_t if name == "winograd_sums" else ctypes.c_int


def usable(x: torch.Tensor) -> bool:
    """Whether the helpers can be used for activations like ``x``."""
    return x.device.type == "cpu" and x.dtype in TYPE_NAMES and library() is not None


def lanes(dtype: torch.dtype) -> int:
    """Floats in a register that the convolutions for this type use; 0 if there are none."""
    loaded = library()
    if loaded is None or dtype not in TYPE_NAMES:
        return 0
    return _lanes(loaded, TYPE_NAMES[dtype])


def _lanes(library: ctypes.CDLL, type_name: str) -> int:
    return getattr(library, f"winograd_lanes_{type_name}")()


# --- Calling them --------------------------------------------------------------------------------

#: What a compiled function can be handed: a number, or where an array lies.
Argument = int | float | ctypes.Array[Any] | None


def call(name: str, dtype: torch.dtype, *arguments: Argument) -> None:
    """Call the compiled function for activations of this type.

    Arrays come as ``address``, ``addresses`` or ``numbers`` give them.

    Raises:
        MemoryError: it ran out of memory.
    """
    if function(name, dtype)(*arguments) != 0:
        raise MemoryError(f"There is no memory left for {name}.")


def function(name: str, dtype: torch.dtype) -> Callable[..., int]:
    """The compiled function for activations of this type."""
    return getattr(library(), f"{name}_{TYPE_NAMES[dtype]}")


def address(
    name: str,
    tensor: torch.Tensor,
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    order: torch.memory_format = torch.contiguous_format,
) -> int:
    """Where the numbers of a tensor lie, if it is what the compiled function takes it for.

    The function gets the address alone: of another tensor it would read or write what is not its.

    Args:
        name: what the tensor is called in errors.
        tensor: the array to be read or written.
        shape, dtype: what it must have.
        order: how it must lie in memory; ``torch.preserve_format`` is any way.

    Raises:
        TypeError: it has another type, or lies on another device than the CPU.
        ValueError: it has another shape, or another order in memory.
    """
    if not tensor.is_cpu:
        raise TypeError(f"{name} lies on {tensor.device}, but compiled helpers need it on the CPU.")
    if tensor.dtype != dtype:
        raise TypeError(f"{name} is of {tensor.dtype}, but compiled helpers need {dtype}.")
    if tensor.shape != shape:
        raise ValueError(f"{name} is of shape {tuple(tensor.shape)}, but must be of {shape}.")
    if order != torch.preserve_format and not tensor.is_contiguous(memory_format=order):
        layout = "channels last" if order == torch.channels_last else "row by row"
        raise ValueError(f"{name} must lie {layout} in memory, without gaps.")
    return tensor.data_ptr()


def addresses(
    name: str,
    tensors: Sequence[torch.Tensor | None],
    shapes: Sequence[tuple[int, ...]],
    dtype: torch.dtype = torch.float32,
) -> ctypes.Array[ctypes.c_void_p]:
    """An array of the ``address`` of each tensor, which must have its shape; NULL for None."""
    _check_length(name, tensors, len(shapes))
    places = [
        None if tensor is None else address(name, tensor, shape, dtype)
        for tensor, shape in zip(tensors, shapes, strict=True)
    ]
    return (ctypes.c_void_p * len(places))(*places)


def _check_length(name: str, entries: Sequence[object], length: int) -> None:
    if len(entries) != length:
        raise ValueError(f"{name} has {len(entries)} entries, but must have {length}.")


def numbers(values: Sequence[int]) -> ctypes.Array[ctypes.c_ssize_t]:
    """An array of whole numbers."""
    return (ctypes.c_ssize_t * len(values))(*values)


# --- Normalisation, softmax and votes ------------------------------------------------------------

# Below, xs, ys, gs and dxs have an entry (rows, C) for each sheet of canvases. So have the weights,
# None or (period,): that of row r stands at r % period, and over all rows they add up to the count.


def normalise(
    xs: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor | None],
    counts: Sequence[int],
    gamma: torch.Tensor,
    beta: torch.Tensor,
    eps: float,
    slope: float,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Mean, variance, scale and shift (4, C), and the normalised, activated ys, like ``xs``.

    Scale and shift are what normalises: gamma / sqrt(variance + eps) and beta - scale * mean.
    """
    dtype, (channels, shapes, sheets) = xs[0].dtype, _sheets(xs, weights, counts)
    ys, statistics = [torch.empty_like(x) for x in xs], _floats(4, channels)
    call(
        "normalise",
        dtype,
        len(xs),
        addresses("x", xs, shapes, dtype),
        *sheets,
        address("gamma", gamma, (channels,)),
        address("beta", beta, (channels,)),
        eps,
        slope,
        addresses("y", ys, shapes, dtype),
        address("statistics", statistics, (4, channels)),
    )
    return statistics, ys


def normalise_backward(
    gs: Sequence[torch.Tensor],
    xs: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor | None],
    counts: Sequence[int],
    statistics: torch.Tensor,
    eps: float,
    slope: float,
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """The gradients to gamma and beta (C,) and to ``xs``, from those to the ys, ``gs``.

    ``statistics`` are those that ``normalise`` returned.
    """
    dtype, (channels, shapes, sheets) = xs[0].dtype, _sheets(xs, weights, counts)
    dxs = [torch.empty_like(x) for x in xs]
    d_gamma, d_beta = _floats(2, channels)
    call(
        "normalise_backward",
        dtype,
        len(xs),
        addresses("the gradient", gs, shapes, dtype),
        addresses("x", xs, shapes, dtype),
        *sheets,
        address("statistics", statistics, (4, channels)),
        eps,
        slope,
        addresses("dx", dxs, shapes, dtype),
        address("d_gamma", d_gamma, (channels,)),
        address("d_beta", d_beta, (channels,)),
    )
    return d_gamma, d_beta, dxs


def _sheets(
    xs: Sequence[torch.Tensor], weights: Sequence[torch.Tensor | None], counts: Sequence[int]
) -> tuple[int, list[tuple[int, ...]], tuple[Argument, ...]]:
    """The channels, the shape of each x, and as arguments weights, counts, rows and periods."""
    _check_length("weights", weights, len(xs))
    _check_length("counts", counts, len(xs))
    channels, rows = xs[0].shape[1], [len(x) for x in xs]
    periods = [_period(w, n) for w, n in zip(weights, rows, strict=True)]
    weighting = addresses("weights", weights, [(period,) for period in periods])
    sizes = [numbers(sizes) for sizes in (counts, rows, periods)]
    return channels, [(n, channels) for n in rows], (weighting, *sizes, channels)


def _period(w: torch.Tensor | None, rows: int) -> int:
    """After how many rows the weights begin anew."""
    period = 1 if w is None else len(w)
    if rows % period:
        raise ValueError(f"weights are for {period} rows, but x has {rows}, not a multiple of it.")
    return period


def _floats(*shape: int) -> torch.Tensor:
    """Room for results of float32, whatever PyTorch's default type and device are."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def log_sums(x: torch.Tensor) -> torch.Tensor:
    """log(sum(exp(x))) (rows,) of each row, in float32."""
    return _softmax(x, None, 1.0, None)


def softmax(
    x: torch.Tensor, w: torch.Tensor | None, factor: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """``log_sums``, and factor * w * softmax of each row in the type of ``x``."""
    p = torch.empty_like(x)
    return _softmax(x, w, factor, p), p


def _softmax(
    x: torch.Tensor, w: torch.Tensor | None, factor: float, p: torch.Tensor | None
) -> torch.Tensor:
    """The logarithms of the sums; the softmax goes to ``p`` unless that is None."""
    rows, classes = shape = (len(x), x.shape[1])
    if classes > MOST_CLASSES:
        raise ValueError(f"x has {classes} classes, but compiled helpers take {MOST_CLASSES}.")
    sums, period = _floats(rows), _period(w, rows)
    call(
        "softmax",
        x.dtype,
        address("x", x, shape, x.dtype),
        None if w is None else address("w", w, (period,)),
        rows,
        period,
        classes,
        factor,
        address("sums", sums, (rows,)),
        None if p is None else address("p", p, shape, x.dtype),
    )
    return sums


def votes(
    x: torch.Tensor, windows: torch.Tensor, binary: bool, side: int, result: torch.Tensor
) -> None:
    """Write the votes of the ``windows`` into ``result``.

    Args:
        x: logits (B, G, h, w, classes) of the canvases.
        windows: (W, 4) int64, of each the number m, canvas, top and left.
        binary: whether class 0 votes for every window, or for each the class m of its own.
        side: of the votes, pixels.
        result: (M, B, side, side) float32; row m is where the votes of window m go.
    """
    images, _, _, _, classes = x.shape
    sums = log_sums(x.view(-1, classes))
    call(
        "votes",
        x.dtype,
        address("x", x, tuple(x.shape), x.dtype),
        address("sums", sums, (len(sums),)),
        *x.shape,
        address("windows", windows, (len(windows), 4), torch.int64),
        len(windows),
        int(not binary),
        side,
        address("result", result, (len(result), images, side, side)),
    )
