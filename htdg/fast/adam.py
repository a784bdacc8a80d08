"""PyTorch's Adam, which does not wait for ``torch.compile``.

The methods of PyTorch's optimisers are wrapped, so that ``torch.compile`` leaves them alone. The
first call of one imports what that needs, which takes two seconds and more. What is trained here is
not compiled, so the methods themselves are called: the arithmetic is the same, to the last digit.
"""

from __future__ import annotations

import inspect

import torch


class Adam(torch.optim.Adam):
    """``torch.optim.Adam``, whose first calls take no longer than the others."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))
