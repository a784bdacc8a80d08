"""How the compiled helpers are built, where they are kept, and which OpenMP they share.

Linux only: a C compiler is called, and its result is kept in the user's cache folder, under a name
that depends on everything it was built from.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import torch

from htdg.fast.private import check_private, is_ours, make_private

SOURCES = tuple(Path(__file__).with_name(name) for name in ("kernels.c", "winograd.c"))
#: Without the last one a compiler keeps a branch for each element where a comparison chooses
#: between products, as in LeakyReLU, since the one that is not chosen could trap. Nobody looks at
#: traps, and the branches take up to ten times as long. Values change by rounding alone.
FLAGS = ("-O3", "-fopenmp", "-fPIC", "-fno-trapping-math")
#: OpenMP runtimes by the names under which PyTorch may have loaded one, whoever built it.
OPENMP_NAMES = ("libgomp.so.1", "libiomp5.so", "libomp.so.5", "libomp.so")
#: Names of instruction sets that a compiler uses by itself, among its predefined macros.
INSTRUCTION_SETS = re.compile(
    r"#define __((?:SSE|AVX|FMA|BMI|LZCNT|POPCNT|MOVBE|ARM_FEATURE)\w*?)(?:__)? "
)


def compiled_helpers() -> Path:
    """Where the compiled helpers are kept; compiles them if they are not. OSError if it cannot."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise OSError("there is no C compiler")
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    march = os.environ.get("HTDG_MARCH") or "native"
    flags = (*FLAGS, f"-march={march}")
    parts = [version, processor().encode(), *(flag.encode() for flag in flags)]
    parts += [source.read_bytes() for source in SOURCES]
    target = cache_folder() / f"kernels-{digest(parts)}.so"
    if is_ours(target):
        return target
    _check_march(compiler, march)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        objects = [str(Path(name) / f"{source.stem}.o") for source in SOURCES]
        linked = Path(name) / "kernels.so"
        for words in (
            *(
                [compiler, *flags, "-c", str(source), "-o", compiled]
                for source, compiled in zip(SOURCES, objects, strict=True)
            ),
            # Linked without OpenMP, so that PyTorch's is found when it is loaded.
            [compiler, "-shared", *objects, "-o", str(linked)],
        ):
            subprocess.run(words, capture_output=True, check=True, timeout=120)
        linked.chmod(0o700)  # whatever the umask: see is_ours
        linked.replace(target)
    return target


def _check_march(compiler: str, march: str) -> None:
    """OSError if the compiler does not know ``march``, or this processor cannot run it."""
    if march == "native":
        return
    try:
        lacking = _instruction_sets(compiler, march) - _instruction_sets(compiler, "native")
    except subprocess.CalledProcessError:
        raise OSError(f"HTDG_MARCH is {march}, which the C compiler does not know") from None
    if lacking:
        names = ", ".join(sorted(lacking))
        raise OSError(f"HTDG_MARCH is {march}, but this processor lacks {names}")


def _instruction_sets(compiler: str, march: str) -> set[str]:
    """The instruction sets that the compiler uses by itself for ``-march=march``."""
    words = [compiler, f"-march={march}", "-dM", "-E", "-x", "c", "/dev/null"]
    macros = subprocess.run(words, capture_output=True, check=True, text=True).stdout
    return set(INSTRUCTION_SETS.findall(macros))


def cache_folder() -> Path:
    """The folder where what is built or measured once is kept. OSError if it cannot be used."""
    cache_home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache_home.is_absolute():
        cache_home = Path.home() / ".cache"
    folder = cache_home / "htdg"
    make_private(folder)
    check_private(folder)
    return folder


def digest(parts: Iterable[bytes]) -> str:
    """A short name for a file that depends on all of ``parts``."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


@cache
def processor() -> str:
    """What ``-march=native`` depends on: the machine, and the processor's name and features."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    kept = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return "\n".join([platform.machine(), *kept[:2]])


def share_openmp() -> None:
    """Let what is loaded next find an OpenMP runtime: PyTorch's, so that both share its threads.

    Wheels bring one of their own. Where PyTorch is a distribution's, it has loaded one of the
    system's; else the helpers load that themselves.
    """
    folder = Path(torch.__file__).parent
    bundled = [*folder.glob("lib/libgomp*.so*"), *folder.parent.glob("torch.libs/libgomp*.so*")]
    loaded_only = ctypes.RTLD_GLOBAL | os.RTLD_NOLOAD
    candidates = [(str(path), ctypes.RTLD_GLOBAL) for path in bundled]
    candidates += [(name, loaded_only) for name in OPENMP_NAMES]
    candidates += [(OPENMP_NAMES[0], ctypes.RTLD_GLOBAL)]
    for name, mode in candidates:
        try:
            ctypes.CDLL(name, mode=mode)
        except OSError:
            continue
        return
    raise OSError("there is no OpenMP runtime (libgomp.so.1)")
