"""PyTorch's Adam, which does not wait for ``torch.compile``.

The methods of PyTorch's optimisers are wrapped, so that ``torch.compile`` leaves them alone. The
first call of one imports it, which takes two seconds and more. What is trained here is compiled by
nobody, so what they wrap is called: the arithmetic is the same, to the last digit.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

_add_param_group: Callable[..., None] = inspect.unwrap(torch.optim.Optimizer.add_param_group)
_zero_grad: Callable[..., None] = inspect.unwrap(torch.optim.Optimizer.zero_grad)
_step: Callable[..., None] = inspect.unwrap(torch.optim.Adam.step)


class Adam(torch.optim.Adam):
    """``torch.optim.Adam``, whose first call takes no longer than the others."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As PyTorch's; the constructor calls it."""
        _add_param_group(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As PyTorch's."""
        _zero_grad(self, set_to_none)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """As PyTorch's, hooks included; without a closure."""
        _step(self)
