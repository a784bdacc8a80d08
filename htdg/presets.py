"""The named presets, as options of ``HTDGConfig``."""

from __future__ import annotations

from typing import Any

#: What the presets for small images have in common.
NOVELTY: dict[str, Any] = dict(
    image_size=32,
    max_size=32,
    transformations="rotations",
    translation="pixel",
    niter=30,
    evidence="both",
    distance_min_size=16,
    distance_max_size=16,
    search_radius=0.1,
)
#: By the name of the preset, what differs from the defaults of ``HTDGConfig``.
OPTIONS: dict[str, dict[str, Any]] = {
    # The paper's settings (supplementary material, and the official code's defaults).
    "paper_rgb": {},
    "paper_grey": dict(transformations="grey42", niter=500),
    # Minutes on two CPU cores: four scales, all of them narrow, and few iterations.
    # Shifts by whole pixels are the fastest, and no worse (benchmarks/README.md).
    "tutorial": dict(
        image_size=64, max_size=41, transformations="auto", translation="pixel", niter=30
    ),
    # Defects, found and placed: votes and patch distances together (ours; docs/evidence.md).
    "inspect": dict(
        max_size=51,
        transformations="rotations",
        translation="pixel",
        niter=30,
        evidence="both",
    ),
    # Small images of which the whole is normal or not (ours). Grey shapes, as in FashionMNIST, are
    # compared in large patches, photographs, as in CIFAR10, whose parts move, in small ones, and
    # without their blur.
    "novelty": NOVELTY | dict(patch_side=11, patch_constant=0.3),
    "novelty_rgb": NOVELTY | dict(patch_side=3, patch_constant=0.05, high_pass=2.0),
    # Seconds: for tests and for trying the code out; not a good detector.
    "tiny": dict(
        image_size=20, min_size=14, max_size=20, channels=8, niter=3, transformations="rotations"
    ),
}
