"""Scoring: what a trained model knows of images, their scores and anomaly maps.

Paper sections 3.2 and 3.3: at every scale the patches of all transformed copies vote for their
transformation (``htdg.votes``), the votes are averaged to a normality of each scale, and laid over
the image to a map (``htdg.localisation``). Patch distances can take their place, or count beside
them (``htdg.evidence``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch

from htdg.ablations.geom import GeomVoter, WideResNet
from htdg.ablations.nearest_image import NearestVoter
from htdg.backend import Backend, Voter
from htdg.evidence import Evidence, as_score, combined, highest_mean, resized
from htdg.io.images import Images, read_ahead
from htdg.io.model_directory import ModelError
from htdg.localisation import anomaly_map, pixel_votes
from htdg.numbers import whole_number
from htdg.pyramid import build_pyramid, resize
from htdg.runtime.device import reproducible
from htdg.runtime.progress import ProgressBar
from htdg.state import ModelState
from htdg.tiles import Tiles, squares
from htdg.transformations import Transformation
from htdg.votes import Fractions, aggregate_votes, anomaly_scores, as_fractions

#: Bytes that the activations of one scoring batch may take. A processor is fastest with what fits
#: its caches (measured: docs/speed.md), a GPU with much at once.
SCORING_BYTES, SCORING_BYTES_ON_GPU = 2**26, 2**29
#: Images at a time where distances alone are taken, whose memory does not depend on it.
COMPARED_AT_ONCE = 16


@dataclass(frozen=True)
class Prediction:
    """What is known of an image once its patches have voted, or have been compared.

    Attributes:
        scores: (F,) the anomaly score for each defect fraction, in [0, 1].
        normality: (F, N + 1), for each defect fraction and scale, in [0, M]; higher is more normal.
            Of distances alone (F, 0).
        evidence: what each kind of evidence contributed to the scores, (F,) each, relative to
            normal patches: 1 is normal. Empty with votes alone, whose scores are the paper's.
        anomaly_map: (H, W) float32 in [0, 1] at the image's own resolution, or None if not asked
            for; higher is more anomalous.
    """

    scores: np.ndarray
    normality: np.ndarray
    anomaly_map: np.ndarray | None
    evidence: Mapping[str, np.ndarray] = field(default_factory=dict)


class Scorer:
    """Scores images with a trained model."""

    def __init__(
        self,
        model: ModelState,
        backend: Backend,
        device: torch.device,
        evidence: Evidence | None = None,
    ) -> None:
        """Score with ``model``, whose scales are on ``device``, through ``backend``.

        ``evidence`` is what normal patches have, as an earlier scorer of the model measured it.
        """
        self.model, self.backend, self.device = model, backend, device
        config = model.config
        # The ablations mse and geom look at the whole image, at one scale.
        whole = config.method in ("mse", "geom")
        self.sides = (config.image_size,) if whole else model.sides
        self.evidence = evidence
        if evidence is None and config.evidence != "votes":
            with reproducible(), torch.inference_mode():
                self.evidence = Evidence(model, self.voters(), device)

    def predictions(
        self,
        images: Images,
        defect_fractions: Fractions = None,
        maps: bool = False,
        batch_size: int | None = None,
        progress: bool = False,
        map_size: int | None = None,
    ) -> Iterator[Prediction]:
        """Scores and anomaly maps of any number of images in one pass, one image after another.

        Args:
            images: one image or any number of them; paths are read batch by batch.
            defect_fractions: average only the lowest share of the votes (see ``aggregate_votes``);
                several come from the same votes.
            maps: make anomaly maps, too.
            batch_size: images at a time; by default as many as fit a modest amount of memory.
                The results do not depend on it.
            progress: show a progress bar.
            map_size: longer side of the maps, pixels; those of smaller images, and without it all,
                have the image's own resolution.

        Raises:
            ConfigError: a fraction, the batch size or the map size is out of range.
            ModelError: a score is not finite.
            ImageError: an image cannot be read (when its turn comes).
        """
        fractions = as_fractions(defect_fractions)
        batch_size = None if batch_size is None else whole_number("batch_size", batch_size, 1)
        map_size = None if map_size is None else whole_number("map_size", map_size, 1)
        return self._predictions(images, fractions, maps, batch_size, progress, map_size)

    def _predictions(
        self,
        images: Images,
        fractions: Sequence[float | None],
        maps: bool,
        batch_size: int | None,
        progress: bool,
        map_size: int | None,
    ) -> Iterator[Prediction]:
        total = None
        if isinstance(images, Sequence) and not isinstance(images, str):
            total = len(images)
        with ProgressBar.for_scoring(progress, total) as bar:
            voters = self.voters()
            if batch_size is None:
                batch_size = self._batch_size(voters)
            for batch in self._batches(images, batch_size, map_size):
                scored = self._squares_scored(batch, batch_size, voters, fractions, maps)
                for image in batch:
                    prediction = image.prediction(list(islice(scored, len(image.squares))))
                    if not np.isfinite(prediction.scores).all():
                        raise ModelError(
                            "A score is not finite, so the weights of the model are damaged: train "
                            "it again."
                        )
                    bar.advance(1)
                    yield prediction

    def _batch_size(self, voters: Sequence[Voter]) -> int:
        """As many images at a time as fit a modest amount of memory."""
        if not voters:
            return COMPARED_AT_ONCE
        most = SCORING_BYTES if self.device.type == "cpu" else SCORING_BYTES_ON_GPU
        return max(1, most // max(voter.bytes_per_image() for voter in voters))

    def _squares_scored(
        self,
        batch: Sequence[_Prepared],
        batch_size: int,
        voters: Sequence[Voter],
        fractions: Sequence[float | None],
        maps: bool,
    ) -> Iterator[Prediction]:
        """The predictions of the squares of some images, so many at a time."""
        squares = torch.cat([image.squares for image in batch])  # (B, 3, s, s)
        sizes = [size for image in batch for size in image.sizes]
        for start in range(0, len(squares), batch_size):
            chunk = slice(start, start + batch_size)
            # Entered for each chunk: between them the caller's own code runs.
            with reproducible(), torch.inference_mode():
                on_device = squares[chunk].to(self.device)
                scored = self._scored(on_device, voters, fractions, sizes[chunk] if maps else None)
            yield from scored

    def _scored(
        self,
        batch: torch.Tensor,
        voters: Sequence[Voter],
        fractions: Sequence[float | None],
        sizes: Sequence[tuple[int, int]] | None,
    ) -> Iterator[Prediction]:
        """The predictions of (B, 3, s, s); maps at ``sizes``, or none."""
        config, transformations = self.model.config, self.model.transformations
        votes = self._votes_of(batch, voters) if voters else iter(())
        applied = (transformations, self.sides if voters else (), config.translation)
        if self.evidence is None:
            return batch_predictions(votes, *applied, fractions, sizes)
        return evidence_predictions(
            self.evidence, self.evidence.distance_map(batch), votes, *applied, fractions, sizes
        )

    def votes(self, image: torch.Tensor) -> list[torch.Tensor]:
        """The votes (M, H - 10, H - 10) at every scale of one image (3, H, W) in [-1, 1].

        The image is squeezed into a square, whatever ``tiles`` says.
        """
        batch = resize(image[None], self.model.config.image_size).to(self.device)
        with reproducible(), torch.inference_mode():
            return [of_scale[:, 0].cpu() for of_scale in self._votes_of(batch, self.voters())]

    def voters(self) -> list[Voter]:
        """One for each scale, made anew for the weights as they are; none of distances alone."""
        config = self.model.config
        if config.evidence == "distance":
            return []
        if config.method == "mse":
            return [NearestVoter(self.model.images.to(self.device))]
        if config.method == "geom":
            assert isinstance(self.model.classifier, WideResNet)
            applied = (self.model.transformations, config.translation, config.image_size)
            return [GeomVoter(self.model.classifier, *applied)]
        return [self.backend.voter(scale) for scale in self.model.scales]

    def _votes_of(self, batch: torch.Tensor, voters: Sequence[Voter]) -> Iterator[torch.Tensor]:
        """The votes of (B, 3, s, s) at every scale, (M, B, H - 10, H - 10), one after another."""
        for voter, images in zip(voters, build_pyramid(batch, self.sides), strict=True):
            yield voter(images)

    def _batches(
        self, images: Images, batch_size: int, map_size: int | None
    ) -> Iterator[list[_Prepared]]:
        """Images as squares, as many as have ``batch_size`` of them, or just more."""
        config = self.model.config

        def prepared(image: torch.Tensor) -> _Prepared:
            made = squares(image, config.image_size, config.tiles)
            height, width = image.shape[-2:]
            longer = max(height, width)
            size = fitted(height, width, min(map_size or longer, longer))
            return _Prepared(made, size, Tiles.spread(*size, len(made)))

        batch: list[_Prepared] = []
        for image in read_ahead(images, prepared, white_level=config.white_level):
            batch.append(image)
            if sum(len(image.squares) for image in batch) >= batch_size:
                yield batch
                batch = []
        if batch:
            yield batch


@dataclass(frozen=True)
class _Prepared:
    """An image on its way to be scored.

    Attributes:
        squares: (T, 3, s, s) on the CPU, its tiles, or the one that it is squeezed into.
        size: the height and width of its map.
        tiles: where they lie in the map, if they are several.
    """

    squares: torch.Tensor
    size: tuple[int, int]
    tiles: Tiles

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """The height and width of what became of each square's map."""
        if len(self.squares) == 1:
            return [self.size]
        return [(self.tiles.side, self.tiles.side)] * len(self.squares)

    def prediction(self, parts: Sequence[Prediction]) -> Prediction:
        """That of the image: it is as anomalous as the worst of its tiles."""
        if len(parts) == 1:
            return parts[0]
        worst = np.argmax([part.scores for part in parts], 0)  # (F,)
        of_fractions = [(parts[t], f) for f, t in enumerate(worst)]
        maps = [part.anomaly_map for part in parts if part.anomaly_map is not None]
        return Prediction(
            np.array([part.scores[f] for part, f in of_fractions]),
            np.stack([part.normality[f] for part, f in of_fractions]),
            self.tiles.joined(maps) if maps else None,
            {
                kind: np.array([part.evidence[kind][f] for part, f in of_fractions])
                for kind in parts[0].evidence
            },
        )


def fitted(height: int, width: int, longer: int) -> tuple[int, int]:
    """A height and width in the same proportion, of which the longer one is ``longer``."""
    factor = longer / max(height, width)
    return max(1, round(factor * height)), max(1, round(factor * width))


def batch_predictions(
    votes: Iterable[torch.Tensor],
    transformations: Sequence[Transformation],
    sides: Sequence[int],
    translation: str,
    defect_fractions: Sequence[float | None],
    sizes: Sequence[tuple[int, int]] | None,
) -> Iterator[Prediction]:
    """The predictions for B images, whose votes come scale by scale.

    Maps are made one by one, when asked for: at the images' own size they can be large.

    Args:
        votes: (M, B, h, h) of every scale, coarsest first.
        transformations: T_1 .. T_M.
        sides: of the scales, pixels.
        translation: the mode that the copies were made with.
        defect_fractions: F of them: see ``aggregate_votes``.
        sizes: (H, W) of each image, to make maps of; None makes none.
    """
    maps = sizes is not None
    rows, located = aggregated(votes, transformations, sides, translation, defect_fractions, maps)
    normality = by_image(rows)  # (B, F, N + 1)
    scores = anomaly_scores(normality, len(transformations))  # (B, F)
    return (
        Prediction(scores[i], of_image, None if sizes is None else _map(located, i, sizes[i]))
        for i, of_image in enumerate(normality)
    )


def aggregated(
    votes: Iterable[torch.Tensor],
    transformations: Sequence[Transformation],
    sides: Sequence[int],
    translation: str,
    defect_fractions: Sequence[float | None],
    maps: bool,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The normality (F, B) of every scale and, for ``maps``, its ``pixel_votes`` (B, H, H).

    The arguments are those of ``batch_predictions``; the votes of a scale are needed no longer when
    those of the next one come.
    """
    rows, located = [], []
    for of_scale, side in zip(votes, sides, strict=True):
        rows.append(aggregate_votes(of_scale, defect_fractions))
        if maps:
            located.append(pixel_votes(of_scale, transformations, side, translation))
    return rows, located


def by_image(rows: Sequence[torch.Tensor]) -> np.ndarray:
    """(F, B) of every scale as (B, F, N + 1)."""
    return torch.stack(list(rows), -1).movedim(1, 0).cpu().double().numpy()


def evidence_predictions(
    evidence: Evidence,
    distance: torch.Tensor,
    votes: Iterable[torch.Tensor],
    transformations: Sequence[Transformation],
    sides: Sequence[int],
    translation: str,
    defect_fractions: Sequence[float | None],
    sizes: Sequence[tuple[int, int]] | None,
) -> Iterator[Prediction]:
    """The predictions for B images from patch distances, and from votes where there are any.

    The maps are those of the distances alone: votes say whether, and hardly where.

    Args:
        evidence: what is normal.
        distance: (B, s, s) the relative distance at each pixel.
        votes, transformations, sides, translation: as of ``batch_predictions``; no votes and no
            sides with distances alone.
        defect_fractions: F shares of the votes, and of the pixels, that make the score.
        sizes: (H, W) of each image, to make maps of; None makes none.
    """
    rows, _ = aggregated(votes, transformations, sides, translation, defect_fractions, maps=False)
    shares = torch.stack([highest_mean(distance, f) for f in defect_fractions])  # (F, B)
    kinds, ratio = {"distance": shares}, None
    normality = np.zeros((len(distance), len(defect_fractions), 0))
    if rows:
        ratio = evidence.votes_ratio([of_scale / len(transformations) for of_scale in rows])
        kinds, normality = {"votes": ratio, **kinds}, by_image(rows)  # (B, F, N + 1)
    scores = as_score(combined(shares, ratio)).T.cpu().double().numpy()  # (B, F)
    contributed = {kind: values.cpu().double().numpy() for kind, values in kinds.items()}
    return (
        Prediction(
            scores[i],
            normality[i],
            None if sizes is None else _at_size(as_score(distance[i]), sizes[i]),
            {kind: values[:, i] for kind, values in contributed.items()},
        )
        for i in range(len(distance))
    )


@torch.inference_mode()
def _at_size(of_image: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """A map (s, s) at the image's own resolution (H, W)."""
    return resized(of_image[None], size)[0].clamp(0, 1).cpu().numpy()


@torch.inference_mode()
def _map(located: Sequence[torch.Tensor], i: int, size: tuple[int, int]) -> np.ndarray:
    """The map (H, W) of image i of a batch."""
    return anomaly_map([of_scale[i] for of_scale in located], size).cpu().numpy()
