"""GEOM, a classifier of whole images that names which of the M transformations one went through.

Golan and El-Yaniv, "Deep Anomaly Detection Using Geometric Transformations" (2018). It needs many
normal images, so row g of the paper's ablations (Table 6) trains it on images that HTDG's
generators make from a few. The network comes first, then its training data, its training, and the
votes that it scores with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from htdg.io.checkpoint import adam_tensors, restore_adam
from htdg.io.model_directory import ModelError, digest, read_directory, write_directory
from htdg.training import chunks_of
from htdg.transformations import Transformation, as_rows

#: GEOM trains with the defaults of Adam in Keras.
LEARNING_RATE = 1e-3
#: Called after every batch with the number of batches done and their number in all epochs.
GeomCallback = Callable[[int, int], None]


# --- The network --------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, each after batch normalisation and ReLU, added to the input.

    Where the number of channels changes, a 1 x 1 convolution of the normalised input is added.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        """Create the block; the weights are set by ``initialise_classifier``."""
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in, H, W) -> (B, out, H / stride, W / stride), rounded up."""
        active = F.relu(self.norm1(x))
        branch = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return branch + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """Images -> a logit for each class: a wide residual network (Zagoruyko and Komodakis, 2016).

    For images of 32 x 32 pixels GEOM takes WRN-10-4: depth 10, and 4 times as wide as a plain
    residual network. Since it averages over all places at the end, images may have any side from 8
    pixels on.

    Attributes:
        width: channels of the first group, whose activations are the largest.
    """

    def __init__(self, n_classes: int, depth: int = 10, widen: int = 4) -> None:
        """Create the network; ValueError unless ``depth`` is 4 + 6 n, n blocks in each group."""
        super().__init__()
        if depth < 10 or (depth - 4) % 6 != 0:
            raise ValueError(f"depth is {depth}, but it must be 10, 16, 22 or so on (4 + 6 n).")
        n_blocks = (depth - 4) // 6
        self.width = 16 * widen
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        blocks: list[ResidualBlock] = []
        channels = 16
        for width, stride in ((16 * widen, 1), (32 * widen, 2), (64 * widen, 2)):
            for i in range(n_blocks):
                blocks.append(ResidualBlock(channels, width, stride if i == 0 else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, n_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] -> logits (B, n_classes)."""
        x = self.blocks(self.stem(images))  # (B, 64 widen, H / 4, W / 4)
        return self.head(F.relu(self.norm(x)).mean((2, 3)))


def initialise_classifier(network: WideResNet, generator: torch.Generator) -> None:
    """Draw fresh weights from ``generator``, on the CPU, so that every device starts alike.

    As in GEOM, convolutions are from N(0, 2 / fan in) (He), the last layer is uniform within
    1 / sqrt(fan in) with biases 0, and batch normalisation starts as the identity.
    """
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0.0, (2 / fan_in) ** 0.5, generator=generator)
            elif isinstance(module, nn.Linear):
                bound = module.in_features**-0.5
                module.weight.uniform_(-bound, bound, generator=generator)
                module.bias.zero_()
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()


def load_geom(
    tensors: Mapping[str, torch.Tensor],
    n_classes: int,
    device: torch.device,
    depth: int = 10,
    widen: int = 4,
) -> WideResNet:
    """The trained classifier on ``device``, from the tensors ``geom.*`` of a model.

    Raises:
        ValueError: a tensor is missing, superfluous or of another shape.
    """
    stored = {k.removeprefix("geom."): v for k, v in tensors.items() if k.startswith("geom.")}
    network = _empty_classifier(n_classes, depth, widen)
    expected = network.state_dict()
    for key in sorted(expected.keys() | stored.keys()):
        if key not in expected or key not in stored or expected[key].shape != stored[key].shape:
            raise ValueError(f"tensor geom.{key} does not follow from its options")
    network.load_state_dict(stored)
    return _finished(network.to(device))


def _empty_classifier(n_classes: int, depth: int, widen: int) -> WideResNet:
    """A network whose weights are still to be set."""
    # PyTorch fills new layers from the process's random state, which is the caller's.
    with torch.random.fork_rng(devices=[]):
        return WideResNet(n_classes, depth, widen)


def _finished(network: WideResNet) -> WideResNet:
    """In evaluation mode and with fixed weights."""
    return network.eval().requires_grad_(False)


# --- Training data ------------------------------------------------------------------------------


def epoch_order(seed: int, epoch: int, count: int) -> torch.Tensor:
    """The order of the pairs 0 .. count - 1 in an epoch, counted from 1.

    Pair p is sample p // M under transformation p % M. The order depends on nothing but the
    arguments, so that an interrupted training can go on with any epoch.
    """
    return torch.randperm(count, generator=_stream(seed, epoch))


def _stream(seed: int, number: int) -> torch.Generator:
    """A random stream, on the CPU: number 0 is for the weights, number e for epoch e."""
    # PyTorch keeps 32 bits of a seed; hashing both spreads them over these without a pattern.
    mixed = np.random.SeedSequence([seed, number]).generate_state(1)
    return torch.Generator().manual_seed(int(mixed[0]))


def transformed_batch(
    samples: torch.Tensor,
    pairs: torch.Tensor,
    transformations: Sequence[Transformation],
    translation: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The copies of some pairs, and which transformation each went through.

    Args:
        samples: (n, 3, s, s).
        pairs: (b,) numbers of pairs as in ``epoch_order``, on the CPU.
        transformations: T_1 .. T_M.
        translation: the mode that the copies are made with.

    Returns:
        (b, 3, s, s) and (b,), on the samples' device, ordered by transformation: all copies of one
        transformation are made together, and the loss of a batch does not depend on its order.
    """
    m = len(transformations)
    copies, classes = [], []
    for number, t in enumerate(transformations):
        members = pairs[pairs % m == number] // m
        if len(members):
            copies.append(t.apply(samples[members.to(samples.device)], translation))
            classes += [number] * len(members)
    return torch.cat(copies), torch.tensor(classes, device=samples.device)


# --- Training -----------------------------------------------------------------------------------


def train_geom(
    samples: torch.Tensor,
    transformations: Sequence[Transformation],
    translation: str,
    seed: int,
    epochs: int,
    batch_size: int = 128,
    callback: GeomCallback | None = None,
    checkpoint: Path | None = None,
    depth: int = 10,
    widen: int = 4,
) -> WideResNet:
    """Train the classifier with Adam on the cross-entropy; an epoch sees every copy once.

    GEOM's weight decay is left out.

    Args:
        samples: (n, 3, s, s) normal images in [-1, 1], s >= 8.
        transformations: T_1 .. T_M.
        translation: the mode that the copies are made with.
        seed: of the weights and of the order of the copies; the process's random state is neither
            used nor changed.
        epochs: how often every copy is seen.
        batch_size: the most copies in a step; an epoch is cut into parts of about equal size.
        callback: called after every batch; see ``GeomCallback``.
        checkpoint: directory that keeps the state after every epoch. If it is there already, the
            training goes on from it, to the same weights as without the interruption (on a GPU only
            with cuDNN's deterministic algorithms, which the detector switches on).
        depth: of the network.
        widen: see ``WideResNet``.

    Returns:
        The classifier on the samples' device, in evaluation mode and with fixed weights.

    Raises:
        ModelError: the checkpoint belongs to other options or samples.
    """
    network = _empty_classifier(len(transformations), depth, widen)
    initialise_classifier(network, _stream(seed, 0))
    network.to(samples.device).train()
    adam = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    saved = None
    if checkpoint is not None:
        options = [seed, epochs, batch_size, depth, widen, translation, as_rows(transformations)]
        saved = GeomCheckpoint(checkpoint, _fingerprint(options, samples))
    count = len(samples) * len(transformations)
    parts = chunks_of(count, batch_size)
    for epoch in range(saved.restore(network, adam) + 1 if saved else 1, epochs + 1):
        order = epoch_order(seed, epoch, count)
        for i, part in enumerate(parts, start=1):
            copies, classes = transformed_batch(samples, order[part], transformations, translation)
            adam.zero_grad()
            F.cross_entropy(network(copies), classes).backward()
            adam.step()
            if callback is not None:
                callback((epoch - 1) * len(parts) + i, epochs * len(parts))
        if saved:
            saved.write(network, adam, epoch)
    return _finished(network)


def _fingerprint(options: Sequence[object], samples: torch.Tensor) -> str:
    """Identifies what the training depends on: options, device kind, samples."""
    parts = [*options, samples.device.type, digest(samples)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True)
class GeomCheckpoint:
    """The state of the training after an epoch: a directory as in ``htdg.io.model_directory``.

    Attributes:
        folder: the directory.
        fingerprint: identifies the options and samples.
    """

    folder: Path
    fingerprint: str

    def write(self, network: WideResNet, adam: torch.optim.Adam, epoch: int) -> None:
        """Save the state after an epoch, in one step."""
        tensors = {f"network.{key}": value for key, value in network.state_dict().items()}
        tensors |= adam_tensors("adam", adam)
        described = {"fingerprint": self.fingerprint, "epoch": epoch}
        write_directory(self.folder, tensors, described, [])

    def restore(self, network: WideResNet, adam: torch.optim.Adam) -> int:
        """Restore the state of both; returns the number of finished epochs."""
        if not self.folder.exists():
            return 0
        tensors, described, _ = read_directory(self.folder)
        if described.get("fingerprint") != self.fingerprint:
            raise ModelError(
                f"{self.folder} is an unfinished GEOM classifier with other options or samples: "
                "train with those to finish it, or delete it."
            )
        network.load_state_dict({key: tensors[f"network.{key}"] for key in network.state_dict()})
        restore_adam("adam", adam, tensors)
        return described["epoch"]


# --- Scoring ------------------------------------------------------------------------------------


class GeomVoter:
    """The whole image votes under T_m with the probability that the classifier names its copy T_m.

    The mean of the votes over m is GEOM's simplified score. The full score weights the
    log-probabilities of all classes by a Dirichlet distribution that is fitted to the training
    images; it is left out here.
    """

    def __init__(
        self,
        classifier: WideResNet,
        transformations: Sequence[Transformation],
        translation: str,
        side: int = 128,
    ) -> None:
        """Vote with a trained classifier in evaluation mode, whose class m stands for T_m.

        ``side``, in pixels, is that of the images; only ``bytes_per_image`` depends on it.
        """
        self.classifier, self.transformations = classifier, tuple(transformations)
        self.translation, self.side = translation, side

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The votes (M, B, 1, 1), in [0, 1], of images (B, 3, s, s)."""
        votes = []
        for m, t in enumerate(self.transformations):  # one copy at a time, to save memory
            logits = self.classifier(t.apply(images, self.translation))  # (B, M)
            votes.append(logits.softmax(1)[:, m])  # (B,)
        return torch.stack(votes)[..., None, None]  # (M, B, 1, 1)

    def bytes_per_image(self) -> int:
        """The memory that an image takes: four layers' activations of one copy."""
        return 4 * 4 * self.classifier.width * self.side**2
