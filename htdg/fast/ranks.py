"""The processes that train one model together, a device each, as ``torchrun`` starts them.

They talk through ``torch.distributed``: over gloo on processors, over NCCL on GPUs. Which process
this is (its rank), how many there are and how to find the others is in the environment that
``torchrun`` sets.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import distributed

from htdg.errors import UserError


class RanksError(UserError):
    """The processes that train together do not fit together, or one has ended."""


def rank_here() -> int:
    """The number of this process among those that ``torchrun`` started, 0 without it."""
    return int(os.environ.get("RANK", "0")) if size_here() > 1 else 0


def size_here() -> int:
    """How many processes ``torchrun`` started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class Ranks:
    """All processes of one training, while they are connected (``connected``).

    Attributes:
        rank: the number of this one; 0 alone writes and shows progress.
        size: how many there are.
        device: what this one computes on.
    """

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        """For a process group that is there already."""
        self.rank, self.size, self.device = rank, size, device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of the tensors that all processes give, in place and the same for all.

        Raises:
            RanksError: one of them has ended.
        """
        with self._told():
            distributed.all_reduce(values)
        return values

    def mean(self, tensors: Sequence[torch.Tensor]) -> None:
        """Make each tensor the mean of those of all processes, in one exchange."""
        flat = self.sum(torch.cat([tensor.flatten() for tensor in tensors])) / self.size
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def least(self, number: int) -> int:
        """The least of the numbers that all processes give."""
        return min(self._all(number))

    def wait(self) -> None:
        """Until all are here."""
        self._all(0)

    def check_same(self, number: int, what: str) -> None:
        """Refuse processes that do not start from the same.

        Args:
            number: of this process.
            what: it is, for the message.

        Raises:
            RanksError: the processes have different ones.
        """
        numbers = self._all(number)
        if len(set(numbers)) > 1:
            raise RanksError(
                f"The {self.size} processes of this training differ in {what} ({numbers}): they "
                "need the same images, options and disk."
            )

    def _all(self, number: int) -> list[int]:
        numbers = torch.zeros(self.size, dtype=torch.int64, device=self.device)
        numbers[self.rank] = number
        return [int(n) for n in self.sum(numbers)]

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RanksError(
                f"Process {self.rank} of {self.size} has lost the others, one of which has ended: "
                "give the command again, and the training goes on."
            ) from error


@contextlib.contextmanager
def connected(device: torch.device) -> Iterator[Ranks | None]:
    """Wait for the other processes that ``torchrun`` started; None if this is the only one.

    Args:
        device: that the options ask for; with GPUs every process of a machine takes its own.

    Raises:
        RanksError: there are fewer GPUs than processes on this machine, or the device is neither a
            processor nor CUDA's.
    """
    if size_here() == 1:
        yield None
        return
    device = device_of_rank(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, rank, size = next(distributed.rendezvous("env://"))
    # When torchrun starts the processes again, its store still has the addresses of the dead ones.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = distributed.PrefixStore(f"attempt {attempt}", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        yield Ranks(rank, size, device)
    finally:
        distributed.destroy_process_group()


def device_of_rank(
    device: torch.device, count: Callable[[], int] = torch.cuda.device_count
) -> torch.device:
    """What this process computes on if the options say ``device``; errors as of ``connected``."""
    if device.type == "cpu":
        return device
    if device.type != "cuda" or device.index is not None:
        raise RanksError(
            f"Option device is '{device}', but of several processes each takes a device of its "
            "own: use 'cuda', 'cpu' or 'auto'."
        )
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if number >= count():
        raise RanksError(
            f"There are more processes than GPUs here, {count()}: give torchrun "
            f"--nproc-per-node={count()}."
        )
    return torch.device("cuda", number)
