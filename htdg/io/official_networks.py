"""Networks of the official code: its key names translated to ours, its files checked.

They are the networks of ``htdg.networks`` (supplementary material of the paper) under other names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from htdg.io.files import one_line
from htdg.io.model_directory import ModelError
from htdg.io.official_files import read_file


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
    if parts[0] == "body" and len(parts) > 1 and parts[1].startswith("block"):
        return ".".join(["blocks", parts[1].removeprefix("block"), *parts[2:]])
    if parts[0] == "tail":
        return f"tail.{parts[-1]}"
    raise ValueError(f"{key!r} is no key of an official HTDG network: head, body.block or tail.")


def _official_key(key: str) -> str:
    """How the official code calls our ``key``, for messages."""
    key = key.replace("blocks.0.", "head.")
    return re.sub(r"^blocks\.(\d+)\.", r"body.block\1.", key)


@dataclass(frozen=True)
class OfficialNetwork:
    """The weights of one network.

    Attributes:
        path: the file that they come from.
        state: the state dict under our key names.
    """

    path: Path
    state: dict[str, torch.Tensor]

    @classmethod
    def read(cls, path: Path) -> OfficialNetwork:
        """The network in a file; ModelError if it holds something else."""
        content = read_file(path)
        if not isinstance(content, Mapping) or not all(
            isinstance(key, str) and isinstance(value, torch.Tensor)
            for key, value in content.items()
        ):
            raise ModelError(f"{path} is no state dict: save the network's state_dict() there.")
        try:
            state = from_official_state(content)
        except ValueError as error:
            raise ModelError(f"{path} cannot be used: {one_line(str(error))}") from None
        for key in ("blocks.0.conv.weight", "tail.bias"):
            if key not in state or state[key].ndim == 0:
                raise ModelError(
                    f"{path} lacks {_official_key(key)}: it is no network of the official code."
                )
        return cls(path, state)

    @property
    def width(self) -> int:
        """Channels of the hidden layers."""
        return len(self.state["blocks.0.conv.weight"])

    def check_classes(self, m: int) -> None:
        """ModelError unless the network, a discriminator, has M + 1 classes."""
        classes = len(self.state["tail.bias"])
        if classes != m + 1:
            raise ModelError(
                f"{self.path} tells {classes - 1} transformations apart, but the list has {m}: "
                "give the list of this training (--transformations)."
            )

    def copy_into(self, network: nn.Module) -> None:
        """Give our ``network`` these weights; ModelError if they are not of its shapes."""
        expected = network.state_dict()
        for key in sorted(expected.keys() | self.state.keys()):
            name = one_line(_official_key(key))
            if key not in expected:
                raise ModelError(f"{self.path} has {name}, which is no part of it: check the file.")
            if key not in self.state:
                raise ModelError(f"{self.path} lacks {name}: save its whole state_dict().")
            value, shape = self.state[key], tuple(expected[key].shape)
            if tuple(value.shape) != shape:
                raise ModelError(
                    f"{self.path} has {name} of shape {tuple(value.shape)}, but it must be "
                    f"{shape}: check that this is the right network of the right scale."
                )
            if not value.float().isfinite().all():
                raise ModelError(
                    f"{self.path} has values that are not finite in {name}: that training diverged."
                )
            if key.endswith("running_var") and (value < 0).any():
                raise ModelError(f"{self.path} has negative variances in {name}: copy it again.")
        network.load_state_dict(self.state)
