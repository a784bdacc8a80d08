"""PyTorch's Adam, ready a second sooner.

Its methods are wrapped for ``torch.compile``: the first call of each imports the compiler, which
takes longer than training a small scale, and is not used here.
"""

from __future__ import annotations

from inspect import unwrap

import torch


class Adam(torch.optim.Adam):
    """``torch.optim.Adam``, the same but for its imports."""

    add_param_group = unwrap(torch.optim.Adam.add_param_group)
    zero_grad = unwrap(torch.optim.Adam.zero_grad)
    state_dict = unwrap(torch.optim.Adam.state_dict)
    load_state_dict = unwrap(torch.optim.Adam.load_state_dict)
    step = torch.no_grad()(unwrap(torch.optim.Adam.step))
