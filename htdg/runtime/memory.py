"""How many training images fit into memory at a time.

With K shots a step runs D over all M copies of K images, and what it keeps for the gradient grows
with K. Where that is more than the machine has, the images go through in chunks (see
``training.ScaleTraining``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from htdg.config import HTDGConfig
from htdg.fast.canvases import canvas_plan
from htdg.fast.cuda_graphs import recordable
from htdg.transformations import Transformation

#: Floats that training keeps for each pixel of a canvas, and of a copy the plain way, times the
#: widest layer: measured with ``python -m benchmarks.growth`` (one layer's output is 1).
KEPT_LAYERS, KEPT_LAYERS_PLAIN = 16, 20
#: The part of the memory that training may fill: the rest of a computer needs some, too.
SHARE = {"cpu": 0.5, "cuda": 0.8, "mps": 0.5}
#: How many steps at a time it holds where they are recorded: the recordings', and one beside.
HELD = 2
#: Assumed where the system does not tell.
UNKNOWN = 8 * 2**30


def images_at_once(
    config: HTDGConfig,
    transformations: Sequence[Transformation],
    sides: Sequence[int],
    shots: int,
    device: torch.device,
) -> int:
    """How many of the K training images go through the networks at a time.

    ``config.images_at_once``, if it is set; else K in as few equal parts as the memory allows, so
    that the answer depends on the machine but not on what else runs there.
    """
    if config.images_at_once:
        return min(config.images_at_once, shots)
    budget = SHARE[device.type] * total_memory(device)
    if config.fast and recordable(device):
        budget /= HELD
    needs = [bytes_per_image(config, transformations, n, s) for n, s in enumerate(sides)]
    each = max(needs, default=1)  # nothing is trained without scales
    fitting = max(1, int(budget // each))
    parts = -(-shots // fitting)
    return -(-shots // parts)


def tell_plan(shots: int, at_once: int, why: str) -> None:
    """Say on standard error that the training images go through in chunks, and what that means."""
    print(
        f"htdg: of {shots} training images at most {at_once} at a time go through the networks, "
        f"{why}; batch normalisation sees each such part by itself (images_at_once).",
        file=sys.stderr,
    )


def bytes_per_image(
    config: HTDGConfig, transformations: Sequence[Transformation], scale: int, side: int
) -> int:
    """What a training step at a scale keeps for each training image, about."""
    widest = max(config.width(scale), len(transformations) + 1)
    if not config.fast:
        return 4 * KEPT_LAYERS_PLAIN * len(transformations) * side**2 * widest
    where = (side, config.translation, config.layers, torch.device("cpu"))
    return 4 * KEPT_LAYERS * canvas_plan(tuple(transformations), *where).pixels * widest


def total_memory(device: torch.device) -> int:
    """Bytes that this process can have at most on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return UNKNOWN
    return min([there, *_container_limits()])


def _container_limits() -> list[int]:
    """What the container that this runs in may use, if it is limited."""
    found = []
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroups of version 2 and 1
        try:
            found.append(int((Path("/sys/fs/cgroup") / name).read_text(encoding="ascii")))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return found
