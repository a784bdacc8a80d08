"""Every option of the method in one frozen, validated dataclass, and the named presets."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from htdg.numbers import (
    INTEGERS,
    LEAST_BLUR,
    MOST_SCALES,
    REALS,
    WIDEST,
    ConfigError,
    as_int,
    real_number,
    refuse,
    whole_number,
)
from htdg.presets import OPTIONS
from htdg.pyramid import pyramid_sides
from htdg.transformations import (
    TRANSLATIONS,
    Transformation,
    transformation_names,
    transformations_named,
)

#: The method itself, and the ablations that need code of their own, not just other sizes.
METHODS = ("htdg", "no_generator", "real_or_generated", "mse", "geom")
#: What an anomaly score is made of.
EVIDENCE = ("votes", "distance", "both")


@dataclass(frozen=True)
class HTDGConfig:
    """The options of HTDG. The defaults are the paper's for RGB images (its section 4).

    The symbols in brackets are the paper's. Construction validates every value and raises
    ``ConfigError`` with one sentence naming the option, the value and what is allowed.

    Attributes:
        image_size: side s of the square that every image is first resized to, pixels.
        min_size: side of the coarsest scale, pixels.
        max_size: side of the finest scale at most, pixels.
        scale_factor: wanted ratio between neighbouring scales, in (0, 1).
        transformations: ``"auto"`` (54 for colour images, 42 for grey ones), ``"rgb54"``,
            ``"grey42"``, ``"rotations"``, or a tuple of (grey, flip, tx, ty, k) [T_1 .. T_M].
        translation: ``"resampled"`` as the official code does, ``"pixel"``, whole pixels, or
            ``"stretched"``, whole pixels of a uniformly blurred copy (see ``transformations``).
        channels: width of the coarsest networks; doubles every four scales (see ``width``).
        layers: 3 x 3 convolutions in each network; the receptive field is 2 * layers + 1.
        niter: training iterations at each scale.
        d_steps, g_steps: steps of the discriminator, then of the generator, in an iteration.
        lr_d, lr_g: learning rates of the discriminators and of the generators (Adam).
        beta1, beta2: Adam's decay rates of the first and of the second moment.
        milestone_d: iteration from which on lr_d is multiplied by ``gamma``.
        milestone_g: the same for lr_g; as large as the paper's ``niter``, so it never acts there.
        gamma: that factor, in (0, 1].
        alpha: weight of the reconstruction loss of the generator [alpha].
        noise_amplitude: noise above scale 0 relative to the reconstruction error [sigma_n].
        seed: seed of everything random: weights, noise.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"`` ...
        precision: ``"float32"``, ``"bf16"`` (autocast) or ``"auto"`` (bf16 on CUDA devices that
            have it, float32 elsewhere).
        method: ``"htdg"``, or one of the ablations of the paper's Table 6: ``"no_generator"``,
            ``"real_or_generated"`` (no discrimination of transformations), ``"mse"`` and ``"geom"``
            (see ``htdg.ablations.variants``).
        images_at_once: with several training images, how many go through the networks together;
            0 chooses by the memory there is (see ``htdg.runtime.memory``).
        evidence: ``"votes"``, the paper's; ``"distance"``, patch distances, for which nothing is
            trained; or ``"both"`` (see ``htdg.distances`` and ``htdg.evidence``; ours).
        distance_min_size, distance_max_size: sides of the coarsest and, at most, the finest scale
            at which distances of pixels are taken; gradients are compared at ``image_size``.
        patch_side: of the patches whose pixels are compared.
        patch_constant: added to the deviation by which patches are divided; 0 leaves them as is.
        high_pass: standard deviation in pixels of the blur that is taken off an image before its
            gradients are compared, 0.5 to 100; 0 takes none off (``htdg.gradients``).
        search_radius: how far from its place the nearest patch may be, as a share of the side; 0
            looks everywhere. For images in which things have their places (``htdg.nearby``).
        geom_samples: images that the classifier of ``"geom"`` is trained on.
        geom_epochs: how often it sees each of their copies.
        tiles: cut images that are not square into overlapping squares (``htdg.tiles``; ours).
        white_level: what is white in images of more than 8 bits, 0: 65535 (``htdg.io.levels``).
        fast: compute the copies as windows of shared canvases, with hand-written gradients and
            folded normalisation; False is the plain way, with the same results but for rounding.
    """

    image_size: int = 128
    min_size: int = 25
    max_size: int = 64
    scale_factor: float = 0.75
    transformations: str | tuple[tuple[int, int, int, int, int], ...] = "rgb54"
    translation: str = "resampled"
    channels: int = 32
    layers: int = 5
    niter: int = 1000
    d_steps: int = 3
    g_steps: int = 3
    lr_d: float = 5e-4
    lr_g: float = 5e-4
    beta1: float = 0.5
    beta2: float = 0.999
    milestone_d: int = 500
    milestone_g: int = 1000
    gamma: float = 0.1
    alpha: float = 100.0
    noise_amplitude: float = 0.1
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    method: str = "htdg"
    images_at_once: int = 0
    evidence: str = "votes"
    distance_min_size: int = 53
    distance_max_size: int = 53
    patch_side: int = 5
    patch_constant: float = 0.0
    high_pass: float = 0.0
    search_radius: float = 0.0
    geom_samples: int = 6000
    geom_epochs: int = 4
    tiles: bool = False
    white_level: int = 0
    fast: bool = True

    def __post_init__(self) -> None:
        """Validate every option."""
        # The class is frozen; NumPy's numbers become Python's, which JSON knows.
        for name, limits in INTEGERS.items():
            number = whole_number(f"Option {name}", getattr(self, name), *limits)
            object.__setattr__(self, name, number)
        for name, bounds in REALS.items():
            object.__setattr__(self, name, real_number(name, getattr(self, name), *bounds))
        self._check_sizes()
        self._check_words()

    def _check_sizes(self) -> None:
        if self.max_size < self.min_size:
            refuse("max_size", self.max_size, f"at least min_size, which is {self.min_size}")
        if self.image_size < self.min_size:
            refuse("image_size", self.image_size, f"at least min_size, which is {self.min_size}")
        if self.min_size <= self.receptive_field:
            rule = f"above the receptive field of {self.layers} layers, {self.receptive_field}"
            refuse("min_size", self.min_size, rule)
        if 0 < self.high_pass < LEAST_BLUR:
            refuse("high_pass", self.high_pass, f"0, or at least {LEAST_BLUR}")
        if self.evidence != "votes":
            self._check_distance_sizes()
        compared = () if self.evidence == "votes" else self.distance_sides
        if max(len(self.sides), len(compared)) > MOST_SCALES:
            refuse("scale_factor", self.scale_factor, f"low enough for {MOST_SCALES} scales")
        if self.width(len(self.sides) - 1) > WIDEST:
            refuse("channels", self.channels, f"so few that no scale has more than {WIDEST}")

    def _check_distance_sizes(self) -> None:
        least = self.distance_min_size
        if self.distance_max_size < least:
            rule = f"at least distance_min_size, which is {least}"
            refuse("distance_max_size", self.distance_max_size, rule)
        if self.image_size < least:
            refuse("distance_min_size", least, f"at most image_size, which is {self.image_size}")
        if least <= self.patch_side:
            refuse("patch_side", self.patch_side, f"below distance_min_size, which is {least}")

    def _check_words(self) -> None:
        if self.translation not in TRANSLATIONS:
            refuse("translation", self.translation, f"one of {', '.join(TRANSLATIONS)}")
        if self.precision not in ("float32", "bf16", "auto"):
            refuse("precision", self.precision, "'float32', 'bf16' or 'auto'")
        if self.method not in METHODS:
            refuse("method", self.method, f"one of {', '.join(METHODS)}")
        if self.evidence not in EVIDENCE:
            refuse("evidence", self.evidence, f"one of {', '.join(EVIDENCE)}")
        if self.evidence != "votes" and self.method != "htdg":
            refuse("evidence", self.evidence, f"'votes' with method {self.method}")
        for name in ("tiles", "fast"):
            if not isinstance(getattr(self, name), bool):
                refuse(name, getattr(self, name), "True or False")
        device = re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", str(self.device))
        if not isinstance(self.device, str) or not device:
            refuse("device", self.device, "'auto', 'cpu', 'cuda', 'cuda:<number>' or 'mps'")
        if isinstance(self.transformations, str):
            names = ("auto", *transformation_names())
            if self.transformations not in names:
                rule = f"one of {', '.join(names)}, or a list of (grey, flip, tx, ty, k)"
                refuse("transformations", self.transformations, rule)
        else:
            object.__setattr__(self, "transformations", _as_catalogue(self.transformations))

    @property
    def receptive_field(self) -> int:
        """Side of the patch that one logit sees, pixels (11 for five layers)."""
        return 2 * self.layers + 1

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides of the scales, coarsest first: the pyramid plan, pixels."""
        return pyramid_sides(self.image_size, self.min_size, self.max_size, self.scale_factor)

    @property
    def distance_sides(self) -> tuple[int, ...]:
        """Sides of the scales at which patch distances are taken, coarsest first, pixels."""
        limits = self.distance_min_size, self.distance_max_size
        return pyramid_sides(self.image_size, *limits, self.scale_factor)

    def width(self, scale: int) -> int:
        """Channels of both networks at ``scale``, 0 the coarsest; at most image_size (official)."""
        return min(self.channels * 2 ** (scale // 4), self.image_size)

    def resolve_transformations(self, coloured: bool) -> tuple[Transformation, ...]:
        """The transformations T_1 .. T_M; ``coloured`` decides what ``"auto"`` means."""
        chosen = self.transformations
        if isinstance(chosen, str):
            if chosen == "auto":
                chosen = "rgb54" if coloured else "grey42"
            return transformations_named(chosen)
        return tuple(Transformation(*row) for row in chosen)

    @classmethod
    def preset(cls, name: str, **options: Any) -> HTDGConfig:
        """The preset called ``name`` with ``options`` changed. ConfigError if there is none."""
        if not isinstance(name, str) or name not in PRESETS:
            refuse("preset", name, f"one of {', '.join(PRESETS)}")
        return PRESETS[name].with_options(**options)

    def with_options(self, **options: Any) -> HTDGConfig:
        """A copy with ``options`` changed. ConfigError for an option that does not exist."""
        names = [field.name for field in fields(self)]
        for name in options:
            if name not in names:
                raise ConfigError(f"There is no option {name!r}: choose from {', '.join(names)}.")
        return replace(self, **options)

    def as_dict(self) -> dict[str, Any]:
        """All options as plain JSON values; ``HTDGConfig(**d)`` turns them back."""
        return asdict(self)


def _as_catalogue(rows: object) -> tuple[tuple[int, int, int, int, int], ...]:
    """User-defined transformations as a tuple of five-tuples of ints, checked."""
    rule = "a list of distinct (grey, flip, tx, ty, k), grey and flip 0 or 1, tx and ty -1, 0 "
    rule += "or 1, k 0 to 3"
    try:
        checked = [Transformation(*map(as_int, row)) for row in rows]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise ConfigError(f"Option transformations is {rows!r}, but it must be {rule}.") from None
    if not checked or len(set(checked)) < len(checked):
        refuse("transformations", rows, rule)
    return tuple((t.grey, t.flip, t.tx, t.ty, t.k) for t in checked)


PRESETS = {name: HTDGConfig(**options) for name, options in OPTIONS.items()}
