"""Shared canvases: the transformed copies as windows of a few larger images.

Copies under transformations that differ only by whole-pixel translation show the same pixels at
different offsets. All of them are windows of *one* canvas, the image padded by its reflection, and
convolutions without padding commute with translation: a network that runs over the canvas once has
computed every copy. In ``pixel`` mode the 54 copies are windows of 16 canvases, which at 64 pixels
have 2.7 times fewer pixels than the copies; in ``stretched`` mode the translated copies share
canvases and the others stay by themselves (1.9 times); in ``resampled`` mode every translated copy
lies between other pixels, so nothing can be shared.

The plain way is ``transformations.transform_all`` (paper section 3.2); this one gives the same
numbers sooner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch.nn import functional as F

from htdg.transformations import Transformation, luma, sampling_matrix, shift_pixels

#: The number m of a transformation, and the top and left pixel of its copy in a canvas.
Window = tuple[int, int, int]
#: See ``arranged``; measured on two CPU cores, where it matters most.
MERGED_PIXELS = 1_500


@dataclass(frozen=True)
class Canvas:
    """One padded image and the copies it holds.

    Attributes:
        flip, k, grey: as in ``Transformation``, the same for all its copies.
        phase_y, phase_x: likewise, how the image is sampled (``Transformation.phases``).
        top, left: where it starts in the coordinates of the (flipped) image, before rotation.
        height, width: its size in pixels, before rotation.
        copies: number m, top and left of each copy in the canvas, before rotation.
    """

    flip: int
    k: int
    grey: int
    phase_y: int
    phase_x: int
    top: int
    left: int
    height: int
    width: int
    copies: tuple[Window, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Its height and width after rotation."""
        return (self.width, self.height) if self.k % 2 else (self.height, self.width)

    def windows(self, side: int) -> list[Window]:
        """Number m, top and left of each copy in the canvas after rotation."""
        windows = []
        for m, top, left in self.copies:
            height, width = self.height, self.width
            for _ in range(self.k):  # a quarter turn, counter-clockwise
                top, left = width - (left + side), top
                height, width = width, height
            windows.append((m, top, left))
        return windows

    def enlarged(self, shape: tuple[int, int]) -> Canvas:
        """The same with more of the reflected image, which no copy shows, to fill ``shape``."""
        height, width = shape[::-1] if self.k % 2 else shape
        return replace(self, height=height, width=width)


def canvases_of(
    transformations: Sequence[Transformation], side: int, translation: str
) -> list[Canvas]:
    """The smallest canvases that hold every copy of an image of this side."""
    groups: dict[tuple[int, int, int, int, int], list[int]] = {}
    for m, t in enumerate(transformations):
        groups.setdefault((t.flip, t.k, t.grey, *t.phases(translation)), []).append(m)
    shift, canvases = shift_pixels(side), []
    for (flip, k, grey, phase_y, phase_x), members in groups.items():
        tops = [-transformations[m].ty * shift for m in members]
        lefts = [-transformations[m].tx * shift for m in members]
        top, left = min(tops), min(lefts)
        height, width = max(tops) - top + side, max(lefts) - left + side
        places = zip(members, tops, lefts, strict=True)
        copies = tuple((m, y - top, x - left) for m, y, x in places)
        canvases.append(Canvas(flip, k, grey, phase_y, phase_x, top, left, height, width, copies))
    return canvases


def dealt_out(canvases: Sequence[Canvas], part: tuple[int, int]) -> list[Canvas]:
    """Part i of n of the canvases, the same in all processes: the parts have about as many pixels.

    ``part`` is (i, n), i from 0 to n - 1; (0, 1) is all of them.
    """
    number, parts = part
    pixels, hands = [0] * parts, [list[Canvas]() for _ in range(parts)]
    for canvas in sorted(canvases, key=lambda c: c.height * c.width, reverse=True):
        least = pixels.index(min(pixels))
        hands[least].append(canvas)
        pixels[least] += canvas.height * canvas.width
    return hands[number] if parts > 1 else list(canvases)


def arranged(canvases: Sequence[Canvas], images: int = 1) -> list[list[Canvas]]:
    """The canvases in groups of one shape, which can go through a network as one batch.

    A batch more costs about as much as ``MERGED_PIXELS`` pixels more of all ``images`` together, so
    small canvases of few images are enlarged to the next larger ones' shape.
    """
    by_shape: dict[tuple[int, int], list[Canvas]] = {}
    for canvas in canvases:
        by_shape.setdefault(canvas.shape, []).append(canvas)
    groups: list[list[Canvas]] = []
    for shape in sorted(by_shape, key=math.prod, reverse=True):
        group = by_shape[shape]
        if groups:
            height, width = groups[-1][0].shape
            common = max(height, shape[0]), max(width, shape[1])
            merged = [canvas.enlarged(common) for canvas in groups[-1] + group]
            added = _pixels(merged) - _pixels(groups[-1]) - _pixels(group)
            if added * images <= MERGED_PIXELS:
                groups[-1] = merged
                continue
        groups.append(group)
    return groups


def _pixels(canvases: Sequence[Canvas]) -> int:
    return sum(canvas.height * canvas.width for canvas in canvases)


@dataclass(frozen=True)
class Sheet:
    """The canvases of one shape, which go through a network as one batch.

    Attributes:
        canvases: the G canvases.
        coverage: for the output of each layer, the image itself first, how many windows cover each
            position: (G * h * w,) float, or None where every position is covered once.
    """

    canvases: tuple[Canvas, ...]
    coverage: tuple[torch.Tensor | None, ...]

    @property
    def copies(self) -> int:
        """How many copies of an image these canvases hold."""
        return sum(len(canvas.copies) for canvas in self.canvases)


class CanvasPlan:
    """Everything about the canvases that depends only on transformations, side and device.

    Attributes:
        side: of the image, pixels.
        transformations: T_1 .. T_M.
        sheets: the canvases, those of one shape together.
        copies: how many of the M copies of an image they hold.
        order: (copies,) where the copy under T_m comes among the windows, sheet by sheet.
        windows: of each sheet (W, 4), the windows' number m, canvas, top and left.
    """

    def __init__(
        self,
        transformations: Sequence[Transformation],
        side: int,
        translation: str,
        layers: int,
        device: torch.device,
        images: int = 1,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        """Lay the copies out, for networks of ``layers`` 3 x 3 convolutions.

        ``images`` is how many there will be at a time, for the best arrangement; ``part`` says
        which of the canvases, all by default (``dealt_out``).
        """
        self.side, self.translation, self.layers = side, translation, layers
        self.transformations = tuple(transformations)
        canvases = dealt_out(canvases_of(transformations, side, translation), part)
        groups = arranged(canvases, images)
        self.sheets = [Sheet(tuple(g), _coverage(g, side, layers, device)) for g in groups]
        copies = [m for group in groups for canvas in group for m, _, _ in canvas.copies]
        self.copies = len(copies)
        self.order = torch.argsort(torch.tensor(copies)).to(device)
        self.device = device
        self._sampled, places = _lookup(self.sheets, side, translation)
        self._sampled = [(flip, r.to(device), c.to(device)) for flip, r, c in self._sampled]
        self._places = [p.to(device) for p in places]
        self.windows = [_windows(sheet.canvases, side).to(device) for sheet in self.sheets]
        self._logit_places: dict[tuple[int, bool], list[torch.Tensor]] = {}

    @property
    def pixels(self) -> int:
        """How many pixels the canvases have; the copies have M * side ** 2."""
        return sum(_pixels(sheet.canvases) for sheet in self.sheets)

    @property
    def canvases(self) -> int:
        """How many canvases there are."""
        return sum(len(sheet.canvases) for sheet in self.sheets)

    @property
    def most_pixels(self) -> int:
        """How many pixels the canvases of the largest sheet have."""
        return max(_pixels(sheet.canvases) for sheet in self.sheets)

    def patches(self, layer: int) -> int:
        """How many positions the copies of one image have after ``layer`` layers."""
        return self.copies * (self.side - 2 * layer) ** 2

    def images(self, sheets: Sequence[torch.Tensor]) -> int:
        """How many images B these canvases, or what a network made of them, were drawn from."""
        return len(sheets[0]) // len(self.sheets[0].canvases)

    def draw(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The canvases of images (B, 3, H, H): for each sheet (B * G, 3, h, w), image by image.

        Every pixel of a canvas is one of the image, or of what is sampled between its pixels, or
        its luma: all of them are made once, and canvases look theirs up. Differentiable, like
        ``Transformation.apply``.
        """
        parts = [images.flatten(2)]  # (B, 3, H * H)
        for flip, rows, cols in self._sampled:
            x = images.flip(-1) if flip else images
            parts.append((rows.to(x) @ x @ cols.to(x).T).flatten(2))
        pixels = torch.cat(parts, -1)
        if any(canvas.grey for sheet in self.sheets for canvas in sheet.canvases):
            grey = luma(pixels[..., None])[..., 0]  # (B, 1, P)
            pixels = torch.cat([pixels, grey.expand_as(pixels)], -1)  # (B, 3, 2 * P)
        b, channels, count = pixels.shape
        pixels = pixels.movedim(1, -1).reshape(b * count, channels)
        first = torch.arange(b, device=self.device)[:, None] * count
        sheets = []
        for sheet, places in zip(self.sheets, self._places, strict=True):
            height, width = sheet.canvases[0].shape
            shown = _looked_up(pixels, first + places)  # (B, G * h * w, 3)
            sheets.append(shown.view(-1, height, width, channels).permute(0, 3, 1, 2))
        return sheets

    def logit_places(self, classes: int, binary: bool = False) -> list[torch.Tensor]:
        """Where every window of a sheet reads the logits of its transformation, for each sheet.

        Args:
            classes: how many the network has.
            binary: whether class 0 stands for all transformations.

        Returns:
            Places (windows * h * w,) in one image's part of the network's output, which lies in
            memory as (G, h, w, classes).
        """
        key = (classes, binary)
        if key not in self._logit_places:
            self._logit_places[key] = [
                _logit_places(s.canvases, self.side, self.layers, classes, binary).to(self.device)
                for s in self.sheets
            ]
        return self._logit_places[key]


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def canvas_plan(
    transformations: tuple[Transformation, ...],
    side: int,
    translation: str,
    layers: int,
    device: torch.device,
    images: int = 1,
    part: tuple[int, int] = (0, 1),
) -> CanvasPlan:
    """A ``CanvasPlan``, made once for all who ask for the same; its arguments are these."""
    return CanvasPlan(transformations, side, translation, layers, device, images, part)


def _coverage(
    canvases: Sequence[Canvas], side: int, layers: int, device: torch.device
) -> tuple[torch.Tensor | None, ...]:
    height, width = canvases[0].shape
    coverage = []
    for border in range(0, 2 * layers + 1, 2):  # what the layers so far have cut off
        counts = torch.zeros(len(canvases), height - border, width - border)
        h = side - border
        for g, canvas in enumerate(canvases):
            for _, top, left in canvas.windows(side):
                counts[g, top : top + h, left : left + h] += 1
        coverage.append(None if bool((counts == 1).all()) else counts.flatten().to(device))
    return tuple(coverage)


def _looked_up(pixels: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The rows (..., C) of pixels (P, C) at these places (...)."""
    if pixels.device.type != "cpu":
        return F.embedding(places, pixels)
    # Number by number: the gradient of whole rows takes PyTorch ten times as long.
    channels = pixels.shape[1]
    single = places[..., None] * channels + torch.arange(channels)
    return pixels.flatten().index_select(0, single.flatten()).view(single.shape)


#: Whether the image is mirrored, and what samples it along y (h, H) and x (w, H).
Sampled = tuple[int, torch.Tensor, torch.Tensor]


def _lookup(
    sheets: Sequence[Sheet], side: int, translation: str
) -> tuple[list[Sampled], list[torch.Tensor]]:
    """What is sampled of an image, and which pixels each sheet shows: see ``CanvasPlan.draw``.

    Pixels are numbered: first the image's own, then those of each sampling, row by row; as many
    more for their lumas. For each sheet (G * h * w,).
    """
    canvases = [canvas for sheet in sheets for canvas in sheet.canvases]
    sampled, numbers, count = [], {}, side**2
    image = torch.arange(side**2, dtype=torch.float64).view(side, side)
    for key in dict.fromkeys(_sampling(c) for c in canvases):
        flip, phase_y, phase_x = key
        of_key = [c for c in canvases if _sampling(c) == key]
        top, left = min(c.top for c in of_key), min(c.left for c in of_key)
        bottom = max(c.top + c.height for c in of_key)
        right = max(c.left + c.width for c in of_key)
        rows = sampling_matrix(side, top, bottom, phase_y, translation)
        cols = sampling_matrix(side, left, right, phase_x, translation)
        if phase_y == phase_x == 0:  # they only pick pixels of the image, here their numbers
            mirrored = image.flip(-1) if flip else image
            numbered = rows.double() @ mirrored @ cols.double().T
        else:
            sampled.append((flip, rows, cols))
            numbered = count + torch.arange(len(rows) * len(cols)).view(len(rows), -1)
            count += numbered.numel()
        numbers[key] = (numbered.long(), top, left)
    places = []
    for sheet in sheets:
        shown = []
        for c in sheet.canvases:
            numbered, top, left = numbers[_sampling(c)]
            y, x = c.top - top, c.left - left
            turned = torch.rot90(numbered[y : y + c.height, x : x + c.width], c.k)
            shown.append((turned + c.grey * count).flatten())
        places.append(torch.cat(shown))
    return sampled, places


def _sampling(c: Canvas) -> tuple[int, int, int]:
    return c.flip, c.phase_y, c.phase_x


def _windows(canvases: Sequence[Canvas], side: int) -> torch.Tensor:
    return torch.tensor(
        [(m, g, top, left) for g, c in enumerate(canvases) for m, top, left in c.windows(side)]
    )


def _logit_places(
    canvases: Sequence[Canvas], side: int, layers: int, classes: int, binary: bool
) -> torch.Tensor:
    height, width = (n - 2 * layers for n in canvases[0].shape)
    patch = torch.arange(side - 2 * layers)
    places = []
    for g, canvas in enumerate(canvases):
        for m, top, left in canvas.windows(side):
            rows = g * height + top + patch[:, None]  # (h, 1)
            places.append(((rows * width + left + patch) * classes + m * (not binary)).flatten())
    return torch.cat(places)
