"""The two networks of a scale: five 3 x 3 convolutions without padding, receptive field 11.

Paper section 3.1 and supplementary material. The convolutions do not pad, so every output looks at
exactly one 11 x 11 patch, and D cannot tell from zeros at a border where a patch lies. G's input is
padded once, by 5 zeros, so that its output keeps its size.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

#: Of LeakyReLU for negative values.
SLOPE = 0.2


class ConvBlock(nn.Sequential):
    """3 x 3 convolution without padding, batch normalisation, LeakyReLU(0.2)."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Create the block; the weights are set by ``initialise``."""
        super().__init__()
        self.add_module("conv", nn.Conv2d(in_channels, out_channels, 3))
        self.add_module("norm", nn.BatchNorm2d(out_channels))
        self.add_module("activation", nn.LeakyReLU(SLOPE))


class PatchNetwork(nn.Module):
    """L - 1 blocks and a plain convolution: (B, in, H, W) -> (B, out, H - 2 L, W - 2 L)."""

    def __init__(self, in_channels: int, width: int, out_channels: int, layers: int) -> None:
        """Create L = ``layers`` convolutions whose hidden layers are ``width`` channels wide."""
        super().__init__()
        inputs = [in_channels] + [width] * (layers - 2)
        self.blocks = nn.ModuleList([ConvBlock(c, width) for c in inputs[: layers - 1]])
        self.tail = nn.Conv2d(width if layers > 1 else in_channels, out_channels, 3)
        self.padding = layers  # what a same-size output needs on each side

    def body(self, x: torch.Tensor) -> torch.Tensor:
        """The convolutions: (B, in, H, W) -> (B, out, H - 2L, W - 2L)."""
        for block in self.blocks:
            x = block(x)
        return self.tail(x)


class Discriminator(PatchNetwork):
    """D^n: images -> M + 1 logits for each patch; class M is "generated"."""

    def __init__(self, width: int, n_transformations: int, layers: int = 5) -> None:
        """Create the network for M = ``n_transformations``."""
        super().__init__(3, width, n_transformations + 1, layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W), about in [-1, 1] -> logits (B, M + 1, H - 10, W - 10)."""
        return self.body(images)


class Generator(PatchNetwork):
    """G^n: noise on the coarser scale's image -> the image of this scale."""

    def __init__(self, width: int, layers: int = 5) -> None:
        """Create the network; its fourth input channel holds the number of the image."""
        super().__init__(4, width, 3, layers)

    def forward(
        self, noise: torch.Tensor, previous: torch.Tensor, index: torch.Tensor
    ) -> torch.Tensor:
        """The generated images (B, 3, H, W).

        Args:
            noise: (B, 3, H, W), already multiplied by sigma_n.
            previous: (B, 3, H, W), the coarser scale's image, upsampled; zeros at scale 0.
            index: (B,) number of the training image that each is made from, 0 .. K - 1; it goes in
                as one more channel, constant over the image (official), so that one generator can
                rebuild several training images.

        Values can leave [-1, 1] a little, since ``previous`` is added after tanh; they are clamped
        where the image is resized for the next scale.
        """
        x = F.pad(noise + previous, [self.padding] * 4)  # (B, 3, H + 10, W + 10)
        number = index.to(x).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[-2:])
        x = torch.cat([x, number], dim=1)  # (B, 4, H + 10, W + 10)
        return torch.tanh(self.body(x)) + previous  # (B, 3, H, W)


def initialise(network: nn.Module, rng: torch.Generator) -> None:
    """Set fresh weights from ``rng``, on the CPU, so that every device starts alike.

    Convolution weights from N(0, 0.02), their biases as PyTorch's default, uniform within
    1 / sqrt(fan in); BatchNorm weights from N(1, 0.02), biases 0 (DCGAN's choice, which SinGAN and
    HTDG follow).
    """
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                assert module.bias is not None
                module.weight.normal_(0.0, 0.02, generator=rng)
                bound = module.weight[0].numel() ** -0.5
                module.bias.uniform_(-bound, bound, generator=rng)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.weight.normal_(1.0, 0.02, generator=rng)
                module.bias.zero_()
