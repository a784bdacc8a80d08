"""Weights of the official implementation under its own key names, translated to ours."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def from_official_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict for our networks from one of the official ``netD`` or ``netG``.

    ``head.conv.weight`` -> ``blocks.0.conv.weight``, ``body.block2.norm.bias`` ->
    ``blocks.2.norm.bias``, ``tail.weight`` and ``tail.0.weight`` -> ``tail.weight``; the prefix
    ``module.`` that data parallelism adds is dropped.

    Raises:
        ValueError: a key is none of those.
    """
    return {_our_key(key): value for key, value in state.items()}


def _our_key(key: str) -> str:
    parts = key.removeprefix("module.").split(".")
    if parts[0] == "head":
        return ".".join(["blocks", "0", *parts[1:]])
    if parts[0] == "body" and parts[1].startswith("block"):
        return ".".join(["blocks", parts[1].removeprefix("block"), *parts[2:]])
    if parts[0] == "tail":
        return f"tail.{parts[-1]}"
    raise ValueError(f"{key!r} is no key of an official HTDG network: head, body.block or tail.")
