"""Compiled helpers for the CPU: ``kernels.c`` and ``winograd.c``, built once with a C compiler.

With PyTorch's operations, normalising and activating a canvas, forward and backward, reads and
writes it some twenty times, with these helpers eight times; ``htdg.winograd`` calls those for
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
from functools import cache
from pathlib import Path

import torch

SOURCES = tuple(Path(__file__).with_name(name) for name in ("kernels.c", "winograd.c"))
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC")
#: What the functions for each type of activations are called.
NAMES = {torch.float32: "float", torch.bfloat16: "bf16"}
Pair = tuple[torch.Tensor, torch.Tensor]
#: Of each function: p is an array or None, n a whole number, f another.
ARGUMENTS = {
    "moments": "ppnnnp",
    "activate": "ppppfnn",
    "gradient_sums": "pppppfnnp",
    "gradient": "ppppppppfnnn",
    "softmax": "ppnnnfpp",
    "winograd_weights": "pnnnnnnnp",
    "winograd_forward": "pppfpnnnnnn",
    "winograd_backward_weights": "ppppnnnnn",
}
#: Classes that ``softmax`` knows at most.
MOST_CLASSES = 1024


@cache
def library() -> ctypes.CDLL | None:
    """The compiled helpers; None where they cannot be had, or HTDG_KERNELS is 0."""
    if os.environ.get("HTDG_KERNELS") == "0" or not sys.platform.startswith("linux"):
        return None
    try:
        # PyTorch's own OpenMP, so that both share one set of threads instead of competing.
        for runtime in (Path(torch.__file__).parent / "lib").glob("libgomp*.so*"):
            ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
        found = ctypes.CDLL(str(_compiled()))
        _declare(found)
    except (OSError, RuntimeError, subprocess.SubprocessError):
        return None
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


# x, y, g and dx below are (rows, C), contiguous; w is None or (period,), rows a multiple of it.


def moments(x: torch.Tensor, w: torch.Tensor | None) -> Pair:
    """Mean and variance (C,), each row weighted by its coverage."""
    sums = torch.empty(2, x.shape[1], dtype=torch.float64)
    call_for("moments", x, x, w, *_lengths(x, w), x.shape[1], sums)
    total = len(x) if w is None else float(w.sum(dtype=torch.float64)) * (len(x) // len(w))
    first, second = sums / total
    return (x[0].double() + first).float(), (second - first * first).clamp_(min=0).float()


def activate(
    x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, slope: float
) -> torch.Tensor:
    """LeakyReLU(scale * x + shift) in the type of ``x``."""
    y = torch.empty_like(x)
    call_for("activate", x, x, y, scale, shift, slope, len(x), x.shape[1])
    return y


def gradient_sums(
    g: torch.Tensor,
    x: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor,
    mean: torch.Tensor,
    slope: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums (C,) of h and of h * (x - mean), h being the gradient before the activation."""
    sums = torch.empty(2, x.shape[1], dtype=torch.float64)
    call_for("gradient_sums", x, g, x, scale, shift, mean, slope, len(x), x.shape[1], sums)
    of_h, of_hx = sums.float()
    return of_h, of_hx


def gradient(
    g: torch.Tensor,
    x: torch.Tensor,
    w: torch.Tensor | None,
    scale: torch.Tensor,
    shift: torch.Tensor,
    p: torch.Tensor,
    q: torch.Tensor,
    slope: float,
) -> torch.Tensor:
    """scale * h + w * (p + q * x), the gradient to ``x``, in its type."""
    dx = torch.empty_like(x)
    call_for("gradient", x, g, x, dx, w, scale, shift, p, q, slope, *_lengths(x, w), x.shape[1])
    return dx


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


def _lengths(x: torch.Tensor, w: torch.Tensor | None) -> tuple[int, int]:
    return len(x), 1 if w is None else len(w)


def call_for(name: str, like: torch.Tensor, *arguments: torch.Tensor | float | None) -> None:
    """Call the compiled function for the type of ``like``; MemoryError if it ran out of memory."""
    plain = [a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments]
    if getattr(library(), f"{name}_{NAMES[like.dtype]}")(*plain) != 0:
        raise MemoryError(f"There is no memory left for {name}.")
