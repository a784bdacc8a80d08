"""Which of several normal images is most like the others."""

import numpy as np
import pytest

from htdg import ConfigError, HTDGConfig, HTDGDetector
from htdg.typical import scores_by_others
from tests.models import QUIET

OPTIONS = {"image_size": 32, "min_size": 20, "max_size": 20, "device": "cpu"}
OPTIONS |= {"distance_min_size": 20, "distance_max_size": 20}


def stripes(seed, odd=False):
    """Stripes (40, 40) uint8 with some noise; the odd ones run the other way and have a spot."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:40, :40]
    surface = 120 + 60 * np.sin(0.9 * columns + seed) + rng.normal(0, 4, (40, 40))
    if odd:
        surface[8:20, 10:25] = 10 * rows[8:20, 10:25]
    return surface.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("evidence", ["votes", "distance", "both"])
@pytest.mark.parametrize("fraction", [None, 0.1])
def test_an_image_is_scored_by_the_models_of_the_others(evidence, fraction):
    images = [stripes(1), stripes(2), stripes(3, odd=True)]
    config = HTDGConfig.preset("inspect", evidence=evidence, **OPTIONS)
    scores = scores_by_others(images, config, fraction)
    alone = config.with_options(evidence="distance")
    by = [HTDGDetector(alone).fit([image], **QUIET) for image in images]
    for i in range(3):
        others = [by[j].anomaly_score(images[i], fraction)[0] for j in range(3) if j != i]
        assert scores[i] == pytest.approx(np.mean(others), rel=1e-6)


def test_what_is_odd_is_the_least_typical():
    images = [stripes(n, odd=n == 2) for n in range(5)]
    scores = scores_by_others(images, HTDGConfig.preset("inspect", **OPTIONS), 0.1)
    assert scores.argmax() == 2
    assert scores[2] > np.delete(scores, 2).max() + 0.05


def test_typical_takes_two():
    with pytest.raises(ConfigError, match="must be at least two images"):
        scores_by_others([stripes(1)], HTDGConfig.preset("inspect", **OPTIONS))
