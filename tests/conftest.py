"""What several test files share: a small image and a detector trained on it in a second."""

import numpy as np
import pytest
import torch

from htdg import HTDGConfig, HTDGDetector
from htdg.datasets.samples import texture_set

# Two threads wait for each other longer than they work on images this small.
torch.set_num_threads(1)

#: The files that take longest, which are run first: a process that is given one of them in the end
#: keeps the other waiting for minutes.
LONGEST = ("test_kills", "test_sweeps", "test_export", "test_sharing", "test_notebook_run")


def pytest_collection_modifyitems(items):
    """Put the tests of ``LONGEST`` before the others."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(scope="session")
def brick():
    """A training crop (96, 96) uint8 and some test crops of the brick photograph."""
    sample = texture_set("brick", train=2, good=2, per_defect=1)
    return sample.train, sample.test


@pytest.fixture(scope="session")
def tiny(brick):
    """A detector trained on one image with the ``tiny`` preset; not to be changed by a test."""
    return HTDGDetector("tiny").fit(brick[0][0], progress=False)


@pytest.fixture(scope="session")
def two(brick):
    """Another one, trained on two images, so that everything with a K has more than one entry."""
    return HTDGDetector("tiny", seed=1, niter=1).fit(brick[0], progress=False)


@pytest.fixture
def colour_image():
    """A random colour image (1, 3, 24, 24) in [-1, 1] without any symmetry."""
    rng = np.random.default_rng(3)
    return torch.from_numpy(rng.uniform(-1, 1, (1, 3, 24, 24))).float()


@pytest.fixture
def tiny_config():
    """The options of the ``tiny`` preset."""
    return HTDGConfig.preset("tiny")
