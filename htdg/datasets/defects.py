"""Defects drawn onto photographs of textures: scratch, hole, stain, and a patch of another texture.

With them the course's textures become a small counterpart of MVTec AD, on which the paper (section
4) detects defects. Each function takes a grey crop (H, W) uint8 and a random generator, and returns
the defective crop, (H, W) uint8, and its mask, (H, W) bool, which is True exactly where the two
crops differ. Sizes, contrasts and places vary from obvious to hard to see.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

#: Shapes are drawn this many times larger and averaged down, for smooth edges.
OVERSAMPLING = 4
#: Changes by fewer grey levels than this are left out: nobody could see them.
LEAST_CHANGE = 4

#: A defective crop and its mask.
Defective = tuple[np.ndarray, np.ndarray]


def scratch(crop: np.ndarray, rng: np.random.Generator) -> Defective:
    """A thin, slightly bent line, 15 to 60 pixels long, brighter or darker by 25 to 90 levels."""
    length, width = rng.uniform(15, 60), rng.uniform(1.0, 2.6)
    steps = 12
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.09, steps))
    path = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1) * length / steps, axis=0)
    path += _centre(crop, rng, length / 2) - path.mean(0)
    line = [tuple(point) for point in path * OVERSAMPLING]

    def draw(canvas: ImageDraw.ImageDraw) -> None:
        canvas.line(line, fill=255, width=max(1, round(width * OVERSAMPLING)), joint="curve")

    change = rng.choice([-1, 1]) * rng.uniform(25, 90)
    return blend(crop, crop + change, coverage(crop.shape, draw))


def hole(crop: np.ndarray, rng: np.random.Generator) -> Defective:
    """An irregular blob, 3 to 10 pixels in radius, that is darker and lacks the texture."""
    radius = rng.uniform(3, 10)
    cover = _blob(crop, rng, radius)
    depth = rng.uniform(0.25, 0.75)
    inside = np.median(crop) * depth + (crop - np.median(crop)) * 0.25
    return blend(crop, inside, cover)


def stain(crop: np.ndarray, rng: np.random.Generator) -> Defective:
    """A soft spot, 7 to 18 pixels in radius, that darkens or brightens by 10 to 35 per cent."""
    radius = rng.uniform(7, 18)
    y, x = np.mgrid[: crop.shape[0], : crop.shape[1]]
    centre, angle = _centre(crop, rng, radius), rng.uniform(0, np.pi)
    u = (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)
    v = (y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)
    distance = np.hypot(u / radius, v / (radius * rng.uniform(0.5, 1.0)))
    cover = np.clip(1.6 * (1 - distance), 0, 1)
    factor = 1 + rng.choice([-1, 1]) * rng.uniform(0.10, 0.35)
    return blend(crop, crop * factor, cover)


def foreign_patch(crop: np.ndarray, rng: np.random.Generator, other: np.ndarray) -> Defective:
    """A blob, 6 to 16 pixels in radius, showing another texture at nearly the same brightness.

    ``other`` is the photograph (H', W') uint8 that the patch is taken from.
    """
    cover = _blob(crop, rng, rng.uniform(6, 16))
    height, width = crop.shape
    top = rng.integers(0, other.shape[0] - height + 1)
    left = rng.integers(0, other.shape[1] - width + 1)
    patch = other[top : top + height, left : left + width].astype(float)
    # The same brightness as what it covers, so that only the texture gives it away.
    patch += np.average(crop, weights=cover) - np.average(patch, weights=cover)
    return blend(crop, patch + rng.uniform(-12, 12), cover)


#: The defects that need nothing but the crop.
DEFECTS: dict[str, Callable[[np.ndarray, np.random.Generator], Defective]] = {
    "scratch": scratch,
    "hole": hole,
    "stain": stain,
}


def _centre(crop: np.ndarray, rng: np.random.Generator, extent: float) -> np.ndarray:
    """A random place (x, y) whose surroundings lie mostly inside the crop."""
    margin = min(extent, min(crop.shape) / 2 - 1) * 0.8
    height, width = crop.shape
    return np.array([rng.uniform(margin, width - margin), rng.uniform(margin, height - margin)])


def _blob(crop: np.ndarray, rng: np.random.Generator, radius: float) -> np.ndarray:
    """Coverage (H, W) in [0, 1] of a wobbly disc."""
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radii = np.full_like(angles, radius)
    for k in (2, 3, 5):
        radii *= 1 + rng.uniform(0, 0.28) / k * np.cos(k * angles + rng.uniform(0, 2 * np.pi))
    outline = np.stack([np.cos(angles) * radii, np.sin(angles) * radii], 1)
    outline += _centre(crop, rng, radius)
    points = [tuple(point) for point in outline * OVERSAMPLING]
    return coverage(crop.shape, lambda canvas: canvas.polygon(points, fill=255))


def coverage(shape: tuple[int, ...], draw: Callable[[ImageDraw.ImageDraw], None]) -> np.ndarray:
    """The share of each pixel (H, W), in [0, 1], that is covered by what ``draw`` draws."""
    height, width = shape
    large = Image.new("L", (width * OVERSAMPLING, height * OVERSAMPLING))
    draw(ImageDraw.Draw(large))
    return np.asarray(large.reduce(OVERSAMPLING), dtype=float) / 255


def blend(crop: np.ndarray, defect: np.ndarray, cover: np.ndarray) -> Defective:
    """The defect laid over the crop by its coverage, and the mask of what changed."""
    blended = crop + cover * (np.clip(defect, 0, 255) - crop)
    rounded = np.round(blended).astype(np.uint8)
    mask = np.abs(rounded.astype(int) - crop) >= LEAST_CHANGE
    return np.where(mask, rounded, crop), mask
