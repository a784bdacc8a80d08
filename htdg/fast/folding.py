"""Trained networks made faster: batch normalisation folded into the convolutions before it.

With fixed statistics, gamma * (W x + b - mean) / sqrt(var + eps) + beta is again a convolution. The
results are those of evaluation mode but for rounding; nothing is left to train.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from htdg.fast.convolution import convolve, layers_of
from htdg.networks import SLOPE, Discriminator, Generator, PatchNetwork


def folded_convolutions(network: PatchNetwork) -> list[nn.Conv2d]:
    """The convolutions of a network in evaluation mode, normalisation folded in.

    LeakyReLU belongs between them: ``run_folded``. Weights lie channels last, as they are used.
    """
    folded = [fuse_conv_bn_eval(convolution, norm) for convolution, norm in layers_of(network)]
    return [_ready(convolution) for convolution in [*folded, copy.deepcopy(network.tail)]]


def voting_convolutions(d: Discriminator) -> list[nn.Conv2d]:
    """``folded_convolutions`` of D, without the class "generated", which has no vote."""
    *hidden, tail = folded_convolutions(d)
    assert tail.bias is not None
    tail.weight = nn.Parameter(tail.weight[:-1].clone())
    tail.bias = nn.Parameter(tail.bias[:-1].clone())
    tail.out_channels -= 1
    return [*hidden, _ready(tail)]


def run_folded(convolutions: Sequence[nn.Conv2d], x: torch.Tensor) -> torch.Tensor:
    """``PatchNetwork.body`` with folded convolutions: LeakyReLU after all but the last."""
    for convolution in convolutions[:-1]:
        x = convolve(convolution, x, SLOPE)
    return convolve(convolutions[-1], x)


class FoldedGenerator(Generator):
    """A trained generator, its normalisation folded in."""

    def __init__(self, generator: Generator) -> None:
        """Fold ``generator``, which stays as it is."""
        nn.Module.__init__(self)
        self.padding = generator.padding
        self.convolutions = nn.ModuleList(folded_convolutions(generator))

    def body(self, x: torch.Tensor) -> torch.Tensor:
        """The convolutions: (B, 4, H, W) -> (B, 3, H - 2L, W - 2L)."""
        convolutions = cast(list[nn.Conv2d], list(self.convolutions))
        return run_folded(convolutions, x.contiguous(memory_format=torch.channels_last))


def _ready(convolution: nn.Conv2d) -> nn.Conv2d:
    return convolution.to(memory_format=torch.channels_last).requires_grad_(False)
