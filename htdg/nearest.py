"""The distance of each patch to its nearest neighbour in a memory bank: exactly, or quickly.

The exact search compares each patch with the whole bank. The quick one, for large banks, compares
principal components, and only those of patches in the same part of space: about a tenth of the
time. What that costs in accuracy is measured in docs/evidence.md.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

#: Cells of a large bank, and in how many of them, the nearest, each patch looks for its neighbour.
CELLS, CELLS_SEARCHED = 32, 2
#: Steps of k-means that make the cells.
CELL_STEPS = 10
#: Principal components that stand for the patches of a large bank, beside what they leave out.
COMPONENTS = 32
#: No patches are so alike that a smaller distance means anything.
LEAST_DISTANCE = 1e-3
#: Bytes of the table of distances that is made at once.
TABLE_BYTES = 2**24


def nearest_distances(
    patches: torch.Tensor, bank: torch.Tensor, allowed: torch.Tensor | None = None
) -> torch.Tensor:
    """The distance of each patch to its nearest neighbour in the bank, by exact search.

    Args:
        patches: (Q, D).
        bank: (N, D).
        allowed: (Q, N) boolean, which neighbours count; None lets all count.

    Returns:
        (Q,) root mean squared difference per pixel and channel; infinite where none is allowed.
    """
    # |q - b|^2 = |q|^2 - 2 (q.b - |b|^2 / 2): the nearest has the greatest bracket.
    halves = -0.5 * bank.square().sum(-1)  # (N,)
    rows = max(1, TABLE_BYTES // (4 * len(bank)))
    greatest = []
    for start in range(0, len(patches), rows):
        table = torch.addmm(halves, patches[start : start + rows], bank.T)  # (rows, N)
        if allowed is not None:
            table.masked_fill_(~allowed[start : start + rows], -torch.inf)
        greatest.append(table.amax(1))
    return as_distances(patches, torch.cat(greatest))


def as_distances(patches: torch.Tensor, greatest: torch.Tensor) -> torch.Tensor:
    """Root mean squared differences (...) of patches (..., D) to their nearest neighbours.

    ``greatest`` is, for each, the greatest q.b - |b|^2 / 2 over its neighbours b.
    """
    squared = patches.square().sum(-1) - 2 * greatest
    return (squared.clamp(min=0) / patches.shape[-1]).sqrt()


class CellSearch:
    """Finds nearest neighbours in a large bank quickly, nearly always the right ones.

    Principal components of the bank stand for the patches; the length of what they leave out is one
    coordinate more, so that a patch unlike all others stays far away. The distance of two patches
    in these coordinates is at most their true one. K-means divides the bank into cells, and a patch
    is compared with what is in the cells whose centres are nearest to it.
    """

    def __init__(self, bank: torch.Tensor) -> None:
        """Divide ``bank`` (N, D), which is in random order, into cells."""
        self.mean = bank.mean(0)
        centred = (bank - self.mean).cpu().double()
        axes = torch.linalg.eigh(centred.T @ centred).eigenvectors  # (D, D), the greatest last
        self.axes = axes[:, -COMPONENTS:].to(bank)
        self.bank = self.coordinates(bank)
        centres = self.bank[:CELLS]
        for _ in range(CELL_STEPS):
            cells = nearest_centres(self.bank, centres, 1)[:, 0]
            members = F.one_hot(cells, len(centres)).to(bank)  # (N, M)
            members = members[:, members.any(0)]  # a centre may have lost all
            centres = members.T @ self.bank / members.sum(0)[:, None]
        cells = nearest_centres(self.bank, centres, 1)[:, 0]
        self.centres = centres[cells.unique()]
        self.cells = [self.bank[cells == n] for n in cells.unique()]
        self.halves = [-0.5 * of_cell.square().sum(1) for of_cell in self.cells]

    def coordinates(self, patches: torch.Tensor) -> torch.Tensor:
        """Principal components of (Q, D) and the length of the rest: (Q, COMPONENTS + 1).

        They are scaled so that the mean over them is one over the pixels and channels.
        """
        patches = patches - self.mean
        components = patches @ self.axes
        rest = patches.square().sum(1) - components.square().sum(1)
        joined = torch.cat([components, rest.clamp(min=0).sqrt()[:, None]], 1)
        return joined * (joined.shape[1] / patches.shape[1]) ** 0.5

    def exact(self, patches: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
        """Distances (Q,) of patches (Q, D) to the whole bank: as ``nearest_distances``."""
        return nearest_distances(self.coordinates(patches), self.bank, allowed)

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Distances (Q,) of patches (Q, D) to the nearest cells."""
        patches = self.coordinates(patches)
        searched = min(CELLS_SEARCHED, len(self.centres))
        cells = nearest_centres(patches, self.centres, searched).flatten()  # (Q * searched,)
        order = cells.argsort(stable=True)
        counts = torch.bincount(cells, minlength=len(self.centres)).tolist()
        by_cell = patches.index_select(0, order // searched).split(counts)
        best = [
            torch.addmm(halves, those, of_cell.T).amax(1)
            for those, of_cell, halves in zip(by_cell, self.cells, self.halves, strict=True)
        ]
        greatest = torch.empty(len(order)).to(patches).index_copy_(0, order, torch.cat(best))
        return as_distances(patches, greatest.view(-1, searched).amax(1))


def coreset(patches: torch.Tensor, count: int) -> torch.Tensor:
    """Which of the patches (N, D) stand for all, none being far from them: (count,), ascending.

    Greedily, as in PatchCore (Roth et al., 2022): the next is the one furthest from those chosen so
    far; the first is the first.
    """
    squares = patches.square().sum(1)  # (N,)
    nearest = torch.full_like(squares, torch.inf)  # the squared distance to those chosen
    chosen = [torch.zeros((), dtype=torch.long, device=patches.device)]
    for _ in range(count - 1):
        last = patches[chosen[-1]]
        nearest = nearest.minimum(
            torch.addmv(squares + last.square().sum(), patches, last, alpha=-2)
        )
        nearest[chosen[-1]] = -torch.inf  # not twice
        chosen.append(nearest.argmax())
    return torch.stack(chosen).sort().values


def nearest_centres(patches: torch.Tensor, centres: torch.Tensor, count: int) -> torch.Tensor:
    """The numbers of the ``count`` nearest of the centres (M, D) to each of (Q, D): (Q, count)."""
    brackets = torch.addmm(-0.5 * centres.square().sum(1), patches, centres.T)  # (Q, M)
    columns = []
    for _ in range(count):  # of so few much faster than topk
        columns.append(brackets.max(1, keepdim=True).indices)
        brackets.scatter_(1, columns[-1], -torch.inf)
    return torch.cat(columns, 1)


def quantile(values: torch.Tensor, share: float) -> torch.Tensor:
    """What a share of the values (n,) stay below: a single number, interpolated."""
    place = share * (len(values) - 1)
    ordered = values.sort().values  # much faster than torch.quantile
    low = int(place)
    return torch.lerp(ordered[low], ordered[min(low + 1, len(values) - 1)], place - low)
