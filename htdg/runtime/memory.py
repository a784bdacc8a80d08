"""How many training images fit into memory at a time.

With K shots a step runs D over all M copies of K images, and what it keeps for the gradient grows
with K. Where that is more than the machine has, the images go through in chunks (see
``htdg.training.ScaleTraining``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from htdg.backend import Backend

#: The part of the memory that training may fill: the rest of a computer needs some, too.
SHARE = {"cpu": 0.5, "cuda": 0.8, "mps": 0.5}
#: Assumed where the system does not say, bytes.
UNKNOWN = 8 * 2**30


def images_at_once(
    backend: Backend, sides: Sequence[int], shots: int, wanted: int, device: torch.device
) -> int:
    """How many of the K training images go through the networks at a time.

    Args:
        backend: what trains; it knows how much an image takes.
        sides: of the scales, pixels.
        shots: K.
        wanted: ``config.images_at_once``; 0 takes K in as few equal parts as the memory allows, so
            that the answer depends on the machine but not on what else runs there.
        device: whose memory.
    """
    if wanted:
        return min(wanted, shots)
    budget = SHARE[device.type] * total_memory(device)
    needs = [backend.training_bytes(n, side) for n, side in enumerate(sides)]
    largest = max(needs, default=1)  # nothing is trained without scales
    fitting = max(1, int(budget // largest))
    parts = -(-shots // fitting)
    return -(-shots // parts)


def say_chunks(shots: int, at_once: int, why: str) -> None:
    """Say on standard error that the training images go through in chunks, and what that means."""
    print(
        f"htdg: of {shots} training images at most {at_once} at a time go through the networks, "
        f"{why}; batch normalisation sees each such part by itself (images_at_once).",
        file=sys.stderr,
    )


def total_memory(device: torch.device) -> int:
    """Bytes that this process can have at most on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    try:
        installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return UNKNOWN
    return min([installed, *_container_limits()])


def _container_limits() -> list[int]:
    """What the container that this runs in may use, if it is limited."""
    limits = []
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroups of version 2 and 1
        try:
            limits.append(int((Path("/sys/fs/cgroup") / name).read_text(encoding="ascii")))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return limits
