"""Which convolutions are faster on this processor: those of ``htdg.fast.convolution`` or PyTorch's.

Processors with AMX multiply matrices of bfloat16 in a unit that PyTorch uses and ``winograd.c``
does not. There both ways are timed once for each kind of convolution. What was measured is kept
beside the compiled helpers, so that the next process chooses the same and its results are the same.
Everywhere else, and in float32, nothing is timed and those of ``htdg.fast.convolution`` are used.

``HTDG_CONVOLUTIONS=ours`` or ``HTDG_CONVOLUTIONS=torch`` decides instead.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from htdg.config import HTDGConfig
from htdg.errors import UserError
from htdg.fast import native
from htdg.fast.compiling import SOURCES, cache_folder, digest, processor

#: Pixels, as powers of two, below and above which convolutions count as so large.
SMALLEST, LARGEST = 8, 16
#: (type, inputs, outputs, side of an image) -> how many times as fast as ours PyTorch's are.
Timing = Callable[[torch.dtype, int, int, int], float]
#: What each file says, as far as this process knows: see ``_read``.
_ratios: dict[Path, dict[str, float]] = {}


def ours_is_faster(
    dtype: torch.dtype, inputs: int, outputs: int, pixels: int, times_as_fast: Timing
) -> bool:
    """Whether to convolve with ``htdg.fast.convolution``, which can.

    Args:
        dtype: of the activations.
        inputs, outputs: channels.
        pixels: of all images together.
        times_as_fast: measures it, if it must be measured.

    Raises:
        UserError: HTDG_CONVOLUTIONS is something that it cannot be.
    """
    forced = _forced()
    if forced or dtype != torch.bfloat16 or not _has_amx():
        return forced != "torch"
    size = min(max((pixels - 1).bit_length(), SMALLEST), LARGEST)
    key = f"{inputs} {outputs} {size}"
    try:
        path = _file(torch.get_num_threads())
    except OSError:  # what cannot be kept might be chosen otherwise next time
        return True
    ratios = _known_ratios(path)
    if key not in ratios:
        ratio = times_as_fast(dtype, inputs, outputs, round(2 ** (size / 2)))
        # Another process may have measured meanwhile; what it kept holds for all.
        ratios.update({key: ratio} | _read(path))
        try:
            _write(path, ratios)
        except OSError:
            ratios[key] = 1.0  # likewise
    return ratios[key] <= 1


def describe_choices() -> str:
    """One line that says what computes on this machine's CPU, and why."""
    if native.library() is None:
        turned_off = os.environ.get("HTDG_KERNELS") == "0"
        reason = "HTDG_KERNELS is 0" if turned_off else "compiled helpers are for Linux only"
        return f"PyTorch's operations: {native.missing() or reason}"
    names = {16: "AVX-512", 8: "AVX2"}
    compiled = f"compiled ({names.get(native.lanes(torch.float32), 'plain C')})"
    single = _convolutions(torch.float32)
    if single.startswith("PyTorch's"):  # and then those in bf16, too
        return f"{compiled}, convolutions: {single}"
    return f"{compiled}, bf16 convolutions: {_convolutions(torch.bfloat16)}"


def describe_training(device: torch.device, config: HTDGConfig) -> str:
    """What else than processor and threads the last digits of a training hang on, for its model."""
    wanted = config.fast and config.evidence != "distance"  # distances alone train nothing
    if not wanted or device.type != "cpu" or native.library() is None:
        return "without compiled helpers"
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    return f"with compiled helpers, convolutions: {_convolutions(dtype)}"


def _convolutions(dtype: torch.dtype) -> str:
    """Whose are used for large activations of that type, and why, beside the compiled helpers."""
    forced = _forced()
    if forced == "torch":
        return "PyTorch's, as HTDG_CONVOLUTIONS says"
    if not native.lanes(dtype):
        return "PyTorch's"
    if forced == "ours":
        return "ours, as HTDG_CONVOLUTIONS says"
    return _measurements() if dtype == torch.bfloat16 and _has_amx() else "ours"


def _measurements() -> str:
    """What was measured so far, of each width at the largest size."""
    try:
        ratios = _known_ratios(_file(torch.get_num_threads()))
    except OSError:
        ratios = {}
    by_width = {}
    for key in sorted(ratios, key=lambda key: int(key.split()[2])):
        by_width[int(key.split()[0])] = ratios[key]
    phrases = []
    for width, ratio in sorted(by_width.items()):
        faster, times = ("ours", 1 / ratio) if ratio <= 1 else ("PyTorch's", ratio)
        phrases.append(f"{faster}, measured {times:.1f} times as fast at width {width}")
    return "; ".join(phrases) or "the faster ones, to be measured when they are first used"


def _forced() -> str:
    """The wish of HTDG_CONVOLUTIONS: "ours", "torch" or ""."""
    value = os.environ.get("HTDG_CONVOLUTIONS", "")
    if value not in ("", "ours", "torch"):
        raise UserError(f'HTDG_CONVOLUTIONS is "{value}", but it must be "ours" or "torch".')
    return value


def _has_amx() -> bool:
    return "amx_bf16" in processor().split()


# --- What was measured ---------------------------------------------------------------------------


@cache
def _file(threads: int) -> Path:
    """Where it is kept: a file for each processor, PyTorch, number of threads and helpers."""
    parts = [processor(), torch.__version__, str(threads)]
    sources = [source.read_bytes() for source in SOURCES]
    return cache_folder() / f"convolutions-{digest([*map(str.encode, parts), *sources])}.json"


def _known_ratios(path: Path) -> dict[str, float]:
    if path not in _ratios:
        _ratios[path] = _read(path)
    return _ratios[path]


def _read(path: Path) -> dict[str, float]:
    """How many times as fast PyTorch's are, by "inputs outputs size"; empty if it is damaged."""
    try:
        ratios = json.loads(path.read_text())
        sound = all(len([int(n) for n in key.split()]) == 3 for key in ratios) and all(
            0 < ratio < math.inf for ratio in ratios.values()
        )
        return ratios if sound else {}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(path: Path, ratios: dict[str, float]) -> None:
    """Replace the file as a whole: whoever reads it sees the old one or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".json")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(ratios, file)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
