"""Where the arithmetic runs and how precisely: ``auto`` resolved, and checked before use."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
import warnings
from functools import cache
from pathlib import Path

import torch

from htdg.config import ConfigError

#: The process that threads were started in, if any were.
_STARTED = os.getpid()


def resolve_device(name: str) -> torch.device:
    """The device called ``name``; ``auto`` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        ConfigError: this machine does not have it.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }[device.type]
    if (device.index or 0) >= there:
        raise ConfigError(
            f"Option device is {name!r}, but PyTorch finds no such device here: "
            "use 'cpu', or 'auto' to take the best there is."
        )
    return device


def machine(device: torch.device) -> str:
    """The processor's or GPU's name, as the system tells it, and how many threads are used.

    Processors of one name can differ in their speed: which vectors PyTorch uses is told, too.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    vectors = torch.backends.cpu.get_cpu_capability()  # AVX2, AVX512, ...
    name += "" if vectors in ("DEFAULT", "NO AVX") else f" ({vectors})"
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def resolve_precision(precision: str, device: torch.device) -> str:
    """``float32`` or ``bf16`` for a device: ``auto`` is bf16 on CUDA devices that have it.

    On MPS it is float32 throughout, whatever was asked for.
    """
    if device.type == "mps":
        return "float32"
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return "bf16" if fast else "float32"
    return precision


def reproducible() -> contextlib.AbstractContextManager[None]:
    """cuDNN without algorithms that give another result each time; TF32 stays on or off."""
    tf32 = torch.backends.cudnn.allow_tf32  # which ``flags`` would turn on
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32
    )


def one_thread_if_forked() -> None:
    """Have a process that was forked compute with one thread, and warn of it.

    The threads that its parent computed with are not there after a fork, and a second one would
    wait for them for ever. The same holds for all of PyTorch; processes that are spawned have
    threads of their own.
    """
    if os.getpid() != _STARTED and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        warnings.warn(
            "This process was forked, so it computes with one thread: several would hang. Start "
            'it with the method "spawn" to have more.',
            RuntimeWarning,
            stacklevel=3,
        )


@cache
def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next tensor instead of handing it back to the system.

    Training allocates and frees the same tensors of tens of MiB thousands of times. By default each
    is mapped anew and the system zeroes its pages again, which took half of the time at 64 pixels
    (16 s an iteration against 7.8 s: RGB, 54 transformations, width 64, two cores). Does nothing
    where there is no glibc.

    This holds for the whole process, so nothing in the package calls it but the command line and
    the benchmarks; a program of your own may.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 2**28)
