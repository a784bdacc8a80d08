"""The transformations T_1 .. T_M: flip, translation, quarter turns, greyscale, and their undoing.

Paper section 3.2 and supplementary material: the discriminator learns to name which of them a
patch went through. They are data, so a model can use any subset.

Translation by t (-1, 0 or 1) along an axis of n pixels has three modes, with s = int(0.15 * n):

- ``pixel``: by t * s, whole pixels, exact.
- ``resampled``: by t * s * n / (n - 1), interpolated linearly. That is what the official
  implementation does (its coordinates are scaled by n - 1 in one place and by n in another): the
  copy lies between the pixels, so it is slightly blurred along the axis, which marks it even where
  no border is in sight.
- ``stretched``: ours, close to ``resampled`` and faster to compute. By t * s, whole pixels, of one
  image that is sampled at u * n / (n - 1) - 0.5 along both axes: the blur marks every translated
  copy, as in ``resampled``, but all of them show the same blurred image, which
  ``htdg.fast.canvases`` makes use of.

In all, what comes in over the border is the reflected image, the edge pixel repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache

import torch

#: How a translated copy is sampled.
TRANSLATIONS = ("pixel", "resampled", "stretched")
#: ITU-R 601 weights of red, green and blue.
LUMA = (0.299, 0.587, 0.114)
SHIFT = 0.15  # of the side


@dataclass(frozen=True)
class Transformation:
    """One member of the catalogue: flip, then translation, then rotation, then greyscale.

    Attributes:
        grey: 1 replaces the three channels by their luma.
        flip: 1 mirrors left and right.
        tx: -1, 0, 1: content moves by tx * int(0.15 * side) pixels along x (right is positive).
        ty: the same along y (down is positive).
        k: quarter turns, counter-clockwise.
    """

    grey: int
    flip: int
    tx: int
    ty: int
    k: int

    def __post_init__(self) -> None:
        """Refuse values outside the family."""
        ranges = {"grey": (0, 1), "flip": (0, 1), "tx": (-1, 0, 1), "ty": (-1, 0, 1)}
        ranges["k"] = (0, 1, 2, 3)
        for name, allowed in ranges.items():
            if getattr(self, name) not in allowed:
                value = getattr(self, name)
                raise ValueError(f"Transformation {name} is {value!r}, but must be in {allowed}.")

    @property
    def translated(self) -> bool:
        """Whether the copy is shifted along any axis."""
        return self.tx != 0 or self.ty != 0

    def apply(self, images: torch.Tensor, translation: str = "pixel") -> torch.Tensor:
        """The transformed copies of square images: (B, 3, H, H) -> (B, 3, H, H)."""
        x = images.flip(-1) if self.flip else images
        if self.translated:
            x = translate(x, self, translation)
        x = torch.rot90(x, self.k, (-2, -1))
        if self.grey:
            x = luma(x).expand_as(x)
        return x

    def undo(
        self, maps: torch.Tensor, side: int, translation: str = "pixel"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map values on the transformed copy back to image coordinates.

        Args:
            maps: (..., h, h), one value for each patch of the copy; ``side - h`` is even and the
                value at (i, j) belongs to the pixel ``(side - h) / 2`` further down and right. An
                image itself is the case h = side.
            side: side of the image in pixels.
            translation: the mode that the copy was made with.

        Returns:
            The maps (..., h, h) in image coordinates, and the (h, h) boolean mask of where they
            are defined: patches that contain reflected border pixels correspond to no image patch.
            Undefined places hold 0. Exact in ``pixel`` mode; ``resampled`` copies lie between
            pixels and are interpolated linearly.
        """
        maps = torch.rot90(maps, -self.k, (-2, -1))
        phase_y, phase_x = self.phases(translation)
        h = maps.shape[-1]
        rows, rows_defined = _undo_matrix(h, side, self.ty, phase_y, translation)
        cols, cols_defined = _undo_matrix(h, side, self.tx, phase_x, translation)
        if self.translated:
            maps = rows.to(maps) @ maps @ cols.to(maps).T  # (..., h, h)
        defined = rows_defined[:, None] & cols_defined[None, :]
        if self.flip:
            maps, defined = maps.flip(-1), defined.flip(-1)
        return maps, defined.to(maps.device)

    def phases(self, translation: str) -> tuple[int, int]:
        """Which sampling of the image the copy shows, along y and x: see ``sampling_matrix``.

        0 is the image's own pixels. In ``resampled`` mode every shift t lies elsewhere between
        them, so the phase is t itself; in ``stretched`` mode there is one blurred image, phase 1.
        Copies of equal phases show the same pixels at whole-pixel offsets.
        """
        if translation == "resampled":
            return self.ty, self.tx
        both = int(translation == "stretched" and self.translated)
        return both, both

    def __str__(self) -> str:
        """In words, such as ``flip, shift (+1, 0), turn 90``."""
        words = ["flip"] if self.flip else []
        words += [f"shift ({self.tx:+d}, {self.ty:+d})"] if self.translated else []
        words += [f"turn {90 * self.k}"] if self.k else []
        words += ["grey"] if self.grey else []
        return ", ".join(words) or "identity"


def shift_pixels(side: int) -> int:
    """By how many pixels a translation moves an image of this side."""
    return int(SHIFT * side)


def luma(images: torch.Tensor) -> torch.Tensor:
    """ITU-R 601 luma of (..., 3, H, W) as (..., 1, H, W)."""
    # A tensor of the weights would be sent to a GPU at every call.
    red, green, blue = (c * w for c, w in zip(images.split(1, -3), LUMA, strict=True))
    return red + green + blue


def translate(images: torch.Tensor, t: Transformation, translation: str) -> torch.Tensor:
    """Images (..., n, n) with their content moved by (t.tx, t.ty): right and down are positive.

    Every mode is one small matrix along each axis, so it is differentiable and runs anywhere.
    """
    n = images.shape[-1]
    shift = shift_pixels(n)
    (phase_y, phase_x), top, left = t.phases(translation), -t.ty * shift, -t.tx * shift
    rows = sampling_matrix(n, top, top + n, phase_y, translation).to(images)
    cols = sampling_matrix(n, left, left + n, phase_x, translation).to(images)
    return rows @ images @ cols.T


def transform_all(
    images: torch.Tensor, transformations: Sequence[Transformation], translation: str
) -> torch.Tensor:
    """All transformed copies: (B, 3, H, H) -> (M, B, 3, H, H). This is the plain way."""
    return torch.stack([t.apply(images, translation) for t in transformations])


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # what is cached must be usable in training, whoever asks first
def sampling_matrix(side: int, start: int, stop: int, phase: int, translation: str) -> torch.Tensor:
    """(stop - start, side): row i holds the weights that make pixel ``start + i`` of an axis.

    Pixels below 0 and from ``side`` on show the reflected image. Phase 0 is the image as it is; the
    others are the interpolated ones of ``translation``.
    """
    u = torch.arange(start, stop, dtype=torch.float64)
    x = _source(u, side, phase, translation)
    # Reflect about the outer edges -0.5 and side - 0.5: the edge pixel is repeated.
    x = (x + 0.5) % (2 * side)
    x = torch.where(x > side, 2 * side - x, x) - 0.5
    return _linear_weights(x.clamp(0, side - 1), side)


def _source(u: torch.Tensor, side: int, phase: int, translation: str) -> torch.Tensor:
    """The position in the image that position u of an axis shows, in pixels."""
    if phase == 0:
        return u
    if translation == "stretched":
        return u * side / (side - 1) - 0.5
    # u contains the shift by -t s already: with -t s / (n - 1) more it is -t s n / (n - 1).
    return u - phase * shift_pixels(side) / (side - 1)


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _undo_matrix(
    h: int, side: int, t: int, phase: int, translation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """(h, h) weights that bring a map over the copy back along one axis, and where it is defined.

    Entry i of a map belongs to the patch of the pixels i .. i + side - h of the copy. It counts if
    all of them show the image and not its reflection: with side 25, h 15 and a shift by 3, the
    first three entries do not, and entry 3 goes to place 0.
    """
    shift = t * shift_pixels(side)
    patches, radius = torch.arange(h, dtype=torch.float64), (side - h) / 2
    first = _source(patches - shift, side, phase, translation)  # the first and last pixel shown
    last = _source(patches - shift + side - h, side, phase, translation)
    # Half a pixel beyond the edge still shows the edge pixel alone.
    tolerance = 1e-9 + (0.5 if phase and translation == "stretched" else 0.0)
    inside = (first >= -tolerance) & (last <= side - 1 + tolerance)
    # Where in the copy's map the patches of the image lie: _source is linear, so two points give it
    source_of_0, source_of_1 = _source(torch.arange(2.0).double(), side, phase, translation)
    position = (patches + radius - source_of_0) / (source_of_1 - source_of_0) + shift - radius
    weights = _linear_weights(position.clamp(0, h - 1), h) * inside
    weights[(position < -tolerance) | (position > h - 1 + tolerance)] = 0
    defined = weights.sum(1) > 1 - 1e-6  # every patch interpolated between counts
    weights[~defined] = 0
    return weights, defined


def _linear_weights(positions: torch.Tensor, side: int) -> torch.Tensor:
    """(len(positions), side) weights of linear interpolation at positions in [0, side - 1]."""
    pixels = torch.arange(side, dtype=torch.float64)
    return (1 - (positions[:, None] - pixels[None, :]).abs()).clamp(min=0).float()


def _catalogue() -> tuple[Transformation, ...]:
    """T_1 .. T_54 in the order of the paper's supplementary material."""
    rows = [(0, f, tx, ty, k) for f in (0, 1) for tx in (0, 1) for ty in (0, 1) for k in range(4)]
    rows += [(0, f, tx, -1, 0) for f in (0, 1) for tx in (-1, 1, 0)]  # T_33 .. T_38
    rows += [(0, f, -1, ty, 0) for f in (0, 1) for ty in (0, 1)]  # T_39 .. T_42
    rows += [(1, f, 0, 0, k) for f in (0, 1) for k in range(4)]  # T_43 .. T_50
    rows += [(1, 0, tx, 0, 0) for tx in (-1, 1)]  # T_51, T_52
    rows += [(1, 0, 0, ty, 0) for ty in (-1, 1)]  # T_53, T_54
    return tuple(Transformation(*row) for row in rows)


#: T_1 .. T_54 (index 0 is T_1).
CATALOGUE = _catalogue()

_NAMED = {
    "rgb54": CATALOGUE,
    "grey42": CATALOGUE[:42],
    "rotations": CATALOGUE[:4],
}


def transformation_names() -> tuple[str, ...]:
    """Names of the ready-made subsets of the catalogue."""
    return tuple(_NAMED)


def transformations_named(name: str) -> tuple[Transformation, ...]:
    """The subset called ``name``: ``rgb54``, ``grey42`` or ``rotations``. KeyError otherwise."""
    return _NAMED[name]


def as_rows(transformations: Sequence[Transformation]) -> list[list[int]]:
    """The transformations as rows (grey, flip, tx, ty, k) of plain integers, for JSON."""
    return [list(astuple(t)) for t in transformations]
