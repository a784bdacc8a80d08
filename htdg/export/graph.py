"""A trained detector as one function of a batch of images, made of operators that ONNX has.

The arithmetic is the detector's own. What differs is how it is written down: no compiled helpers,
no loop over the images of a batch, whose number stays open, and no shapes that depend on values.
``tests/test_export.py`` holds both against each other.

Constants are made with the modules, never in ``forward``: what the functions that they come from
keep for later calls would be no real tensors while the graph is traced.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from htdg.backend import Backend
from htdg.distances import PatchComparison, UniqueDistances
from htdg.evidence import Evidence, as_score, combined, highest_mean, resized
from htdg.fast.canvases import canvas_plan
from htdg.fast.folding import folded_convolutions
from htdg.localisation import spread_matrix
from htdg.nearby import NearbyBank, NearbyDistances, related
from htdg.nearest import CELLS_SEARCHED, CellSearch, as_distances, nearest_centres
from htdg.networks import SLOPE
from htdg.patches import Description, laying_matrix
from htdg.pyramid import resize
from htdg.sampling import Scale
from htdg.state import ModelState
from htdg.transformations import Transformation
from htdg.votes import aggregate_votes

#: Images of a bank whose patches are compared at a time, where things have their places: what is
#: made of them should not fill the memory.
IMAGES_AT_ONCE = 16


class ScoringGraph(nn.Module):
    """Images in, anomaly scores and maps out: what ``htdg.scorer`` computes of them.

    Attributes:
        image_size: side s of the images, pixels.
        fraction: share of the votes, and of the pixels of distances, that makes the score.
    """

    def __init__(self, model: ModelState, backend: Backend, fraction: float | None) -> None:
        """Lay down what ``model`` computes on the CPU; ``backend`` measures normal images."""
        super().__init__()
        config = model.config
        self.image_size, self.fraction = config.image_size, fraction
        self.n_transformations = len(model.transformations)
        self.votes = nn.ModuleList([ScaleVotes(model, scale) for scale in model.scales])
        self.evidence: Evidence | None = None
        if config.evidence == "votes":
            self.maps = nn.ModuleList([ScaleMap(model, scale.side) for scale in model.scales])
        else:
            voters = [backend.voter(scale) for scale in model.scales]
            self.evidence = Evidence(model, voters, torch.device("cpu"))
            self.distances = DistanceMap(self.evidence)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of (B, 3, s, s) in [0, 1] the anomaly scores (B,) and maps (B, s, s), both in [0, 1]."""
        images = 2 * images - 1
        votes = [of_scale(images) for of_scale in self.votes]  # (M, B, h, h) each
        m = self.n_transformations
        shares = [aggregate_votes(of_scale, self.fraction) / m for of_scale in votes]  # (B,) each
        if self.evidence is None:
            maps = [laid(of_scale) for laid, of_scale in zip(self.maps, votes, strict=True)]
            return 1 - torch.stack(shares).mean(0), (1 - torch.stack(maps).mean(0)).clamp(0, 1)
        distance = self.distances(images)  # (B, s, s)
        ratio = self.evidence.votes_ratio(shares) if shares else None
        evidence = combined(highest_mean(distance, self.fraction), ratio)
        return as_score(evidence), as_score(distance)


class Resize(nn.Module):
    """``htdg.pyramid.resize`` to one side as a matrix along each axis, which every runtime has."""

    def __init__(self, before: int, after: int) -> None:
        """From squares of one side to another, pixels."""
        super().__init__()
        # Along the rows of a unit matrix nothing is resized.
        self.matrix = resize(torch.eye(before)[None, None], (after, before))[0, 0]
        self.same = before == after

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, before, before) -> (B, C, after, after), in [-1, 1]."""
        return images if self.same else (self.matrix @ images @ self.matrix.T).clamp(-1, 1)


class ScaleVotes(nn.Module):
    """The votes of one scale, from the canvases of ``htdg.fast.canvases``."""

    def __init__(self, model: ModelState, scale: Scale) -> None:
        """Of a trained scale on the CPU."""
        super().__init__()
        config, device = model.config, torch.device("cpu")
        self.resize = Resize(config.image_size, scale.side)
        self.plan = canvas_plan(
            model.transformations, scale.side, config.translation, config.layers, device
        )
        self.binary = config.method == "real_or_generated"
        # The class "generated" has no vote where there are others.
        self.classes = scale.discriminator.tail.out_channels - (not self.binary)
        self.places = self.plan.logit_places(self.classes, self.binary)
        self.convolutions = nn.ModuleList(folded_convolutions(scale.discriminator))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The votes (M, B, h, h), in [0, 1], of (B, 3, s, s) in [-1, 1]."""
        h, (*hidden, tail) = self.plan.side - 2 * self.plan.layers, self.convolutions
        parts = []
        for x, places in zip(self.plan.draw(self.resize(images)), self.places, strict=True):
            for convolution in hidden:
                x = F.leaky_relu(convolution(x), SLOPE)
            log_p = tail(x)[:, : self.classes].log_softmax(1)  # (B * G, M, h', w')
            rows = log_p.permute(0, 2, 3, 1).reshape(images.shape[0], -1)  # (B, G * h' * w' * M)
            parts.append(rows[:, places].exp().unflatten(1, (-1, h, h)))  # (B, windows, h, h)
        return torch.cat(parts, 1)[:, self.plan.order].movedim(1, 0)


class ScaleMap(nn.Module):
    """The votes of one scale laid over the image, as ``htdg.localisation`` does it.

    Undoing a transformation is a product with a matrix for the rows and one for the columns, of the
    votes, or of the transposed votes after an odd number of quarter turns.
    """

    def __init__(self, model: ModelState, side: int) -> None:
        """Of the scale of this side, pixels."""
        super().__init__()
        self.image_size, h = model.config.image_size, side - 2 * model.config.layers
        rows, columns, count = [], [], torch.zeros(h, h)
        for t in model.transformations:
            row, column, defined = undo_matrices(t, h, side, model.config.translation)
            rows.append(row)
            columns.append(column)
            count += defined
        self.rows, self.columns = torch.stack(rows)[:, None], torch.stack(columns)[:, None]
        turned = [bool(t.k % 2) for t in model.transformations]
        self.turned = torch.tensor(turned)[:, None, None, None]
        self.count, self.defined = count.clamp(min=1), (count > 0).float()  # (h, h)
        self.spread = spread_matrix(h, side)  # (side, h)
        self.weight = self.spread @ self.defined @ self.spread.T  # (side, side)

    def forward(self, votes: torch.Tensor) -> torch.Tensor:
        """``pixel_votes`` of (M, B, h, h), at the size of the image: (B, s, s)."""
        placed = torch.where(self.turned, votes.mT, votes)
        patches = (self.rows @ placed @ self.columns.mT).sum(0) / self.count  # (B, h, h)
        mean = patches.sum((-2, -1), keepdim=True) / self.defined.sum().clamp(min=1)
        pixels = self.spread @ patches @ self.spread.T / self.weight.clamp(min=1e-9)
        pixels = torch.where(self.weight > 1e-9, pixels, mean).clamp(0, 1)
        return resized(pixels, self.image_size)


def undo_matrices(
    t: Transformation, h: int, side: int, translation: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``t.undo`` of maps x (h, h) as matrices (h, h): it is rows @ x @ columns.T.

    After an odd number of quarter turns x is to be transposed before. The third is where it is
    defined.
    """
    unit = torch.eye(h)
    rows, defined = t.undo(unit[:, :, None].expand(h, h, h), side, translation)  # 1 in row a
    columns, _ = t.undo(unit[:, None, :].expand(h, h, h), side, translation)  # 1 in column a
    if t.k % 2:
        rows, columns = columns, rows
    # What is 1 along a line stays the same along it, but for places that are not defined.
    return rows.amax(2).T, columns.amax(1).T, defined


class DistanceMap(nn.Module):
    """``Evidence.distance_map`` of a batch."""

    def __init__(self, evidence: Evidence) -> None:
        """With what ``evidence`` knows of normal patches."""
        super().__init__()
        self.image_size = evidence.image_size
        self.resizes = nn.ModuleList([Resize(self.image_size, side) for side in evidence.sides])
        self.pixels = nn.ModuleList([laid_down(of_scale) for of_scale in evidence.pixels])
        self.gradients = laid_down(evidence.gradients)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The relative distance at each pixel of (B, 3, s, s) in [-1, 1]: (B, s, s)."""
        maps = [
            resized(of_scale(resize(images)), self.image_size)
            for of_scale, resize in zip(self.pixels, self.resizes, strict=True)
        ]
        return (torch.stack(maps).mean(0) * self.gradients(images)).sqrt()


def laid_down(distances: UniqueDistances | NearbyDistances) -> nn.Module:
    """The distances of one kind of patches, for a batch."""
    if isinstance(distances, NearbyDistances):
        return NearbyGraph(distances)
    return UniqueGraph(distances)


class UniqueGraph(nn.Module):
    """``UniqueDistances`` of a batch."""

    def __init__(self, distances: UniqueDistances) -> None:
        """With these patches of the training images."""
        super().__init__()
        self.distances, compared = distances, distances.compared
        self.nearest = Nearest(compared)
        self.laid = LaidOver(compared.describe, compared.starts, distances.side)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The evidence at each pixel of (B, C, H, H): (B, H, H)."""
        compared, limited = self.distances.compared, self.distances.limited
        patches = compared.describe(images, compared.starts)  # (B, Q, D)
        ratios = self.nearest(patches.flatten(0, 1)).view(patches.shape[:2]) / compared.mean
        unique = self.unique(patches)
        ratios = (ratios.minimum(unique) if limited else ratios) * unique
        return self.laid(ratios)

    def unique(self, patches: torch.Tensor) -> torch.Tensor:
        """``Uniqueness`` of each patch of a batch (B, Q, D): (B, Q)."""
        unique = self.distances.unique
        squares = patches.square().sum(-1)  # (B, Q)
        table = squares[:, None, :] - 2 * patches @ patches.mT + unique.excluded  # (B, Q, Q)
        nearest = ((table.amin(-1) + squares).clamp(min=0) / patches.shape[-1]).sqrt()
        return (torch.where(unique.alone, 0.0, nearest) / unique.usual).clamp(min=1)


class LaidOver(nn.Module):
    """``htdg.patches.laid_over`` of a batch."""

    def __init__(self, describe: Description, starts: torch.Tensor, side: int) -> None:
        """Of patches that start at these rows and columns (G,) of an image of this side."""
        super().__init__()
        self.matrix = laying_matrix(starts, describe.side, side)  # (H, G)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(B, G * G) -> (B, H, H)."""
        grid = values.unflatten(1, (self.matrix.shape[1],) * 2)  # (B, G, G)
        return self.matrix @ grid @ self.matrix.T


class Nearest(nn.Module):
    """The distance of each patch to its nearest neighbour in a bank, as it is searched there."""

    def __init__(self, compared: PatchComparison) -> None:
        """In the bank of ``compared``."""
        super().__init__()
        self.cells = compared.cells
        self.bank = compared.bank.patches

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Of (R, D): (R,)."""
        if self.cells is None:
            halves = -0.5 * self.bank.square().sum(1)
            return as_distances(patches, torch.addmm(halves, patches, self.bank.T).amax(1))
        return self.in_cells(self.cells, patches)

    @staticmethod
    def in_cells(search: CellSearch, patches: torch.Tensor) -> torch.Tensor:
        """``CellSearch``: all cells are searched, which no shape depends on; the nearest count."""
        patches = search.coordinates(patches)
        searched = min(CELLS_SEARCHED, len(search.centres))
        nearest = nearest_centres(patches, search.centres, searched)  # (R, searched)
        pairs = zip(search.cells, search.halves, strict=True)
        best = [torch.addmm(halves, patches, cell.T).amax(1) for cell, halves in pairs]
        return as_distances(patches, torch.stack(best, 1).gather(1, nearest).amax(1))


class NearbyGraph(nn.Module):
    """``NearbyDistances`` of a batch."""

    def __init__(self, distances: NearbyDistances) -> None:
        """With these patches of the training images."""
        super().__init__()
        self.distances = distances
        self.laid = LaidOver(distances.describe, distances.starts, distances.side)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The evidence at each pixel of (B, C, H, H): (B, H, H)."""
        of = self.distances
        patches = of.describe(images, of.starts)  # (B, Q, D)
        upright, turned = (self.nearest(patches, bank) for bank in (of.upright, of.turned))
        return self.laid(related(upright, turned) / of.mean)

    @staticmethod
    def nearest(patches: torch.Tensor, bank: NearbyBank) -> torch.Tensor:
        """``NearbyBank.distances`` of a batch (B, Q, D), all images counting: (B, Q)."""
        greatest = []
        for part in bank.patches.split(IMAGES_AT_ONCE):  # (n, P, D)
            part = part.flatten(0, 1)
            table = patches @ part.T - 0.5 * part.square().sum(1)  # (B, Q, n * P)
            # What is near is the same in every image of the bank, which come one after another.
            of_places = table.unflatten(-1, (-1, bank.near.shape[1])).amax(2)  # (B, Q, P)
            greatest.append(of_places.masked_fill(~bank.near, -torch.inf).amax(-1))
        return as_distances(patches, torch.stack(greatest).amax(0))
