"""Compiled helpers for the CPU: ``kernels.c`` and ``winograd.c``, built once with a C compiler.

With PyTorch's operations, normalising and activating a canvas, forward and backward, reads and
writes it some twenty times, with these helpers eight times; ``htdg.fast.convolution`` calls those for
convolutions. Nothing here is needed, it only saves time: without a compiler, on other systems than
Linux and on other devices there is PyTorch alone.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

SOURCES = tuple(Path(__file__).with_name(name) for name in ("kernels.c", "winograd.c"))
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC")
#: What the functions for each type of activations are called.
NAMES = {torch.float32: "float", torch.bfloat16: "bf16"}
Pair = tuple[torch.Tensor, torch.Tensor]
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
#: Classes that ``softmax`` knows at most.
MOST_CLASSES = 1024


def library() -> ctypes.CDLL | None:
    """The compiled helpers; None where they cannot be had, or HTDG_KERNELS is 0."""
    found = _library()
    return None if isinstance(found, str) else found


@cache
def tell_missing() -> None:
    """Say on standard error, once, why the helpers cannot be had here, if that can be mended.

    It cannot where they are turned off, or on a system that they are not for.
    """
    why = _library()
    if isinstance(why, str) and why:
        print(
            f"htdg: {why}, so training goes without the compiled helpers, the same but slower "
            "(HTDG_KERNELS=0 does not try).",
            file=sys.stderr,
        )


@cache
def _library() -> ctypes.CDLL | str:
    """The compiled helpers, or why there are none: "" where none are wanted."""
    if os.environ.get("HTDG_KERNELS") == "0" or not sys.platform.startswith("linux"):
        return ""
    try:
        # PyTorch's own OpenMP, so that both share one set of threads instead of competing.
        for runtime in (Path(torch.__file__).parent / "lib").glob("libgomp*.so*"):
            ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
        found = ctypes.CDLL(str(_compiled()))
        _declare(found)
    except subprocess.SubprocessError:
        return "the C compiler fails"
    except (OSError, RuntimeError) as error:
        named = getattr(error, "filename", None)  # the system's own errors
        return f"{named}: {error.strerror}" if named else str(error)
    return found


def _declare(library: ctypes.CDLL) -> None:
    """Tell the types of all arguments, so that numbers arrive in full length."""
    kinds = {"p": ctypes.c_void_p, "n": ctypes.c_ssize_t, "f": ctypes.c_float}
    for name, letters in ARGUMENTS.items():
        for kind in NAMES.values():
            # Of convolutions there may be none for this processor: see winograd.c.
            if not name.startswith("winograd") or getattr(library, f"winograd_lanes_{kind}")():
                getattr(library, f"{name}_{kind}").argtypes = [kinds[letter] for letter in letters]


def _compiled() -> Path:
    """Where the compiled helpers are kept; compiles them if they are not. OSError if it cannot."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise OSError("there is no C compiler")
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    made_of = [version, _processor(), *(flag.encode() for flag in FLAGS)]
    made_of += [source.read_bytes() for source in SOURCES]
    digest = hashlib.sha256(b"\0".join(made_of)).hexdigest()[:16]
    cache_home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache_home.is_absolute():
        cache_home = Path.home() / ".cache"
    folder = cache_home / "htdg"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.stat()
    if about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise OSError(f"others may write into {folder}")  # and what is loaded from it is run
    target = folder / f"kernels-{digest}.so"
    if target.is_file():
        return target
    with tempfile.TemporaryDirectory(dir=folder) as name:
        made = [str(Path(name) / f"{source.stem}.o") for source in SOURCES]
        linked = Path(name) / "kernels.so"
        for words in (
            *(
                [compiler, *FLAGS, "-c", str(s), "-o", o]
                for s, o in zip(SOURCES, made, strict=True)
            ),
            # Linked without OpenMP, so that PyTorch's is found when it is loaded.
            [compiler, "-shared", *made, "-o", str(linked)],
        ):
            subprocess.run(words, capture_output=True, check=True, timeout=120)
        linked.replace(target)
    return target


def _processor() -> bytes:
    """What ``-march=native`` depends on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    kept = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return "\n".join([platform.machine(), *kept[:2]]).encode()


def usable(x: torch.Tensor) -> bool:
    """Whether the helpers can be used for activations like ``x``."""
    return x.device.type == "cpu" and x.dtype in NAMES and library() is not None


# x, y, g and dx below are (rows, C), contiguous; w is None or (period,), rows a multiple of it, and
# over all rows adds up to the count. Lists have one for each sheet of canvases.


def normalise(
    xs: Sequence[torch.Tensor],
    ws: Sequence[torch.Tensor | None],
    counts: Sequence[int],
    gamma: torch.Tensor,
    beta: torch.Tensor,
    eps: float,
    slope: float,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Mean, variance, scale and shift (4, C), and the normalised, activated ys, like ``xs``.

    scale and shift are what normalises: gamma / sqrt(variance + eps), beta - scale * mean.
    """
    ys, found = [torch.empty_like(x) for x in xs], torch.empty(4, xs[0].shape[1])
    sheets = _sheets(xs, ws, counts)
    fixed = (gamma, beta, eps, slope)
    call_for("normalise", xs[0], len(xs), xs, *sheets, *fixed, ys, found)
    return found, ys


def normalise_backward(
    gs: Sequence[torch.Tensor],
    xs: Sequence[torch.Tensor],
    ws: Sequence[torch.Tensor | None],
    counts: Sequence[int],
    found: torch.Tensor,
    eps: float,
    slope: float,
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """The gradients to gamma and beta (C,) and to ``xs``; ``found`` as ``normalise`` found it."""
    dxs = [torch.empty_like(x) for x in xs]
    d_gamma, d_beta = torch.empty(2, xs[0].shape[1])
    fixed = (found, eps, slope)
    sheets = _sheets(xs, ws, counts)
    call_for("normalise_backward", xs[0], len(xs), gs, xs, *sheets, *fixed, dxs, d_gamma, d_beta)
    return d_gamma, d_beta, dxs


def _sheets(
    xs: Sequence[torch.Tensor], ws: Sequence[torch.Tensor | None], counts: Sequence[int]
) -> tuple[Any, ...]:
    """Coverage, its sum, rows and period of each, and the channels."""
    rows = [len(x) for x in xs]
    periods = [1 if w is None else len(w) for w in ws]
    return ws, counts, rows, periods, xs[0].shape[1]


def log_sums(x: torch.Tensor) -> torch.Tensor:
    """log(sum(exp(x))) (rows,) of each row, in float32."""
    found = torch.empty(len(x))
    call_for("softmax", x, x, None, len(x), 1, x.shape[1], 1.0, found, None)
    return found


def softmax(x: torch.Tensor, w: torch.Tensor | None, over: float) -> Pair:
    """``log_sums``, and over * w * softmax of each row in the type of ``x``."""
    found, p = torch.empty(len(x)), torch.empty_like(x)
    call_for("softmax", x, x, w, *_lengths(x, w), x.shape[1], over, found, p)
    return found, p


def votes(
    x: torch.Tensor, windows: torch.Tensor, each: bool, side: int, found: torch.Tensor
) -> None:
    """Write the votes of the ``windows`` into ``found`` (M, B, side, side) float32.

    Args:
        x: logits (B, G, h, w, classes) of the canvases.
        windows: (W, 4) int64, of each the number m, canvas, top and left.
        each: whether each has a class of its own, m, or all have class 0.
        side: of the votes.
        found: where they go, row m each.
    """
    sums = log_sums(x.view(-1, x.shape[-1]))
    call_for("votes", x, x, sums, *x.shape, windows, len(windows), int(each), side, found)


def _lengths(x: torch.Tensor, w: torch.Tensor | None) -> tuple[int, int]:
    return len(x), 1 if w is None else len(w)


def call_for(name: str, like: torch.Tensor, *arguments: Any) -> None:  # noqa: ANN401
    """Call the compiled function for the type of ``like``; MemoryError if it ran out of memory.

    The arguments are numbers, tensors, None, and sequences of either, which become arrays.
    """
    if function_for(name, like)(*map(_plain, arguments)) != 0:
        raise MemoryError(f"There is no memory left for {name}.")


def function_for(name: str, like: torch.Tensor) -> Any:  # noqa: ANN401
    """The compiled function for the type of ``like``."""
    return getattr(library(), f"{name}_{NAMES[like.dtype]}")


def _plain(argument: Any) -> Any:  # noqa: ANN401
    if argument is None or isinstance(argument, (int, float)):
        return argument
    if isinstance(argument, torch.Tensor):
        return argument.data_ptr()
    entries = [_plain(entry) for entry in argument]
    kind = ctypes.c_ssize_t if isinstance(argument[0], int) else ctypes.c_void_p
    return (kind * len(entries))(*entries)
