"""Anomaly maps and overlays as files: for ``--maps`` of ``htdg score``.

Whoever imports this waits for Matplotlib.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from htdg.commands.common import BAR, MAP_ENDING, OVERLAY_ENDING, say_unreadable
from htdg.evaluation.colours import ANOMALOUS, TINTS
from htdg.evaluation.overlays import (
    ColourScale,
    clearest_tint,
    colour_bar,
    overlay,
    resized_picture,
)
from htdg.evaluation.plots import png_bytes
from htdg.io.files import write_bytes
from htdg.io.images import load_uint8, read_image
from htdg.io.problems import ImageError
from htdg.state import ModelState


def tint_of(name: str, model: ModelState) -> str:
    """The colour that ``--tint`` asks for."""
    return TINTS[clearest_tint(model.images) if name == "auto" else name]


def known_scale(model: ModelState, tint: str = ANOMALOUS) -> ColourScale | None:
    """The scale of colours that follows from a model, or None if all its maps must be seen first.

    A threshold says what is normal, and so do distances. What votes have there differs from model
    to model.
    """
    if model.threshold is None and model.config.evidence == "votes":
        return None
    return ColourScale.of_threshold(model.threshold, tint)


def map_writer(folder: Path, model: ModelState, tint: str) -> MapWriter:
    """What writes the maps of a model into ``folder``; ``tint`` is what ``--tint`` asks for."""
    colour = tint_of(tint, model)
    return MapWriter(folder, known_scale(model, colour), colour, model.config.white_level)


class MapWriter:
    """Writes anomaly maps into a folder, and overlays that all have the same scale of colours.

    Attributes:
        folder: where to.
        scale: that of the overlays; None takes it from the maps, so that overlays wait for the
            last of them.
        white_level: that of ``load_image``.
        waiting: name and path of the images whose overlays wait.
        medians, highest: the median and the highest value of the maps of these images.
    """

    def __init__(
        self,
        folder: Path,
        scale: ColourScale | None,
        tint: str = ANOMALOUS,
        white_level: int = 0,
    ) -> None:
        """Write into ``folder``, which exists; ``tint`` is that of a scale from the maps."""
        self.folder, self.scale, self.tint = folder, scale, tint
        self.white_level = white_level
        self.waiting: list[tuple[str, Path]] = []
        self.medians: list[float] = []
        self.highest: list[float] = []

    def paths(self, name: str) -> dict[str, str]:
        """Where the map and the overlay of a name are, by the columns of the table."""
        return {"map": str(self._map(name)), "overlay": str(self._overlay(name))}

    def write(self, name: str, path: Path, anomaly_map: np.ndarray) -> str:
        """Write ``<name>_map.png``, 0 to 65535 for 0 to 1, and the overlay if it need not wait.

        Args:
            name: of the files, with folders.
            path: of the image.
            anomaly_map: (H, W) in [0, 1], in the proportions of the image.

        Returns:
            What is wrong with the image, if it cannot be read again; else "".
        """
        levels = np.round(anomaly_map * 65535).astype(np.uint16)
        try:
            if self.scale is not None:
                self._write_overlay(name, path, anomaly_map, self.scale)
            write_bytes(self._map(name), png_bytes(levels))
        except ImageError as error:  # it is gone by now
            return str(error)
        if self.scale is None:
            self.waiting.append((name, path))
            self.medians.append(float(np.median(anomaly_map)))
            self.highest.append(float(anomaly_map.max()))
        return ""

    def finish(self) -> None:
        """Write what the colours mean, and the overlays that wait.

        The maps of these are read again, since all may be too many.
        """
        scale = self.scale
        if scale is None:
            if not self.waiting:
                return
            scale = ColourScale.of_maps(self.medians, self.highest, self.tint)
        write_bytes(self.folder / BAR, colour_bar(scale))
        for name, path in self.waiting:
            try:
                self._write_overlay(name, path, read_image(self._map(name)) / 65535, scale)
            except ImageError as error:  # it is gone by now
                say_unreadable([str(error)])

    def _map(self, name: str) -> Path:
        return self.folder / f"{name}{MAP_ENDING}"

    def _overlay(self, name: str) -> Path:
        return self.folder / f"{name}{OVERLAY_ENDING}"

    def _write_overlay(
        self, name: str, path: Path, anomaly_map: np.ndarray, scale: ColourScale
    ) -> None:
        """``<name>_overlay.png``."""
        image = load_uint8(path, self.white_level)
        drawn = overlay(resized_picture(image, anomaly_map.shape), anomaly_map, scale)
        write_bytes(self._overlay(name), png_bytes(drawn))
