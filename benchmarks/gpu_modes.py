"""How a GPU is measured: how precisely it computes, and whether steps are recorded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from htdg.fast import cuda_graphs

#: float32 in full; with convolutions in TF32, as PyTorch has it by default on a GPU, and so what
#: ``precision="float32"`` means there; and bf16, which ``precision="auto"`` chooses there.
ARITHMETICS = ("float32", "TF32", "bf16")


def precision(arithmetic: str) -> str:
    """The option ``precision`` of a config."""
    return "bf16" if arithmetic == "bf16" else "float32"


@contextmanager
def computing(arithmetic: str) -> Iterator[None]:
    """Float32 convolutions in full, or else in TF32 where the device has it."""
    cudnn = torch.backends.cudnn
    before, cudnn.allow_tf32 = cudnn.allow_tf32, arithmetic != "float32"
    try:
        yield
    finally:
        cudnn.allow_tf32 = before


@contextmanager
def recording(wanted: bool) -> Iterator[None]:
    """Steps recorded as CUDA graphs, or not.

    A recording that failed earlier in this process does not count: each figure stands for itself.
    """
    before = os.environ.get("HTDG_GRAPHS")
    os.environ["HTDG_GRAPHS"] = "1" if wanted else "0"
    cuda_graphs._failures.clear()
    try:
        yield
    finally:
        del os.environ["HTDG_GRAPHS"]
        if before is not None:
            os.environ["HTDG_GRAPHS"] = before


def failures() -> list[str]:
    """Why recordings failed since ``recording`` began."""
    return list(cuda_graphs._failures)


def told_failures(reasons: Sequence[str]) -> str:
    """Why recordings failed, as the end of a line; empty where none did."""
    return f"; recording failed: {', '.join(reasons).replace('|', '/')}" if reasons else ""
