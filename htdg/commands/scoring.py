"""How ``htdg score`` scores an image, be it once or in a folder that it watches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from htdg.commands.score_table import Rows
from htdg.io.images import Images
from htdg.scorer import Prediction, Scorer
from htdg.thresholds import Threshold

if TYPE_CHECKING:  # it brings Matplotlib along
    from htdg.commands.maps import MapWriter


@dataclass(frozen=True)
class Scoring:
    """What the options of ``htdg score`` come to.

    Attributes:
        scorer: of the model.
        fraction: the defect fraction, or None.
        threshold: the model's, or the one given instead, or None.
        rows: how an image becomes a row.
        maps: what writes maps, if they are asked for.
        batch_size, map_size: as of ``Scorer.predictions``.
    """

    scorer: Scorer
    fraction: float | None
    threshold: Threshold | None
    rows: Rows
    maps: MapWriter | None
    batch_size: int | None
    map_size: int | None

    @property
    def white_level(self) -> int:
        """That of ``load_image``."""
        return self.scorer.model.config.white_level

    def predictions(self, images: Images, progress: bool = False) -> Iterator[Prediction]:
        """The scores of images, and their maps if there is somebody to write them."""
        return self.scorer.predictions(
            images,
            (self.fraction,),
            self.maps is not None,
            self.batch_size,
            progress,
            self.map_size,
        )

    def pictures(
        self, name: str, path: Path, prediction: Prediction, problem: str
    ) -> tuple[dict[str, str], str]:
        """Write the map and the overlay of an image, if there are to be any.

        Args:
            name: of the two, with folders.
            path: of the image.
            prediction: of the image.
            problem: why it cannot be read, so that nothing is written; or "".

        Returns:
            Where they are, by column, and what is wrong with the image, or "".
        """
        if self.maps is None:
            return {}, problem
        if not problem:
            assert prediction.anomaly_map is not None  # since maps were asked for
            problem = self.maps.write(name, path, prediction.anomaly_map)
        return self.maps.paths(name), problem
