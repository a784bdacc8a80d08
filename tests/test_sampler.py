"""Images that a trained model draws: against the generators one by one, seeds, sizes, mistakes."""

import numpy as np
import pytest
import torch

from htdg import ConfigError, HTDGConfig, HTDGDetector
from htdg.io.images import load_image
from htdg.pyramid import resize
from htdg.sampler import Sampler, sample_sizes
from htdg.sampling import generate, reconstruction_noise
from tests.models import QUIET

SIDES = (14, 16, 18, 20)


def test_samples_take_the_training_images_in_turn(two):
    """Every sample again by itself, through the generators one by one."""
    samples = two.sample(3, seed=5)
    assert samples.shape == (3, 3, 20, 20)
    rng = torch.Generator().manual_seed(5)
    noises = [
        torch.randn(3, 3 if n else 1, s.side, s.side, generator=rng)
        for n, s in enumerate(two.scales_)
    ]
    for i, k in enumerate((0, 1, 0)):
        x = torch.zeros(1, 3, 14, 14)
        for scale, noise in zip(two.scales_, noises, strict=True):
            with torch.no_grad():
                amplified = scale.sigma[k] * noise[i : i + 1].expand(-1, 3, -1, -1)
                x = scale.generator(amplified, resize(x, scale.side), torch.tensor([k]))
        torch.testing.assert_close(samples[i], x[0], atol=1e-5, rtol=0)


def test_samples_follow_their_seed_alone(two):
    torch.manual_seed(1)
    first = two.sample(2, seed=3)
    torch.manual_seed(2)
    assert torch.equal(two.sample(2, seed=3), first)
    assert not torch.equal(two.sample(2, seed=4), first)
    assert torch.isfinite(first).all()


def test_many_samples_begin_with_few(tiny):
    many = tiny.sample(70)  # more than are drawn at once
    assert many.shape == (70, 3, 20, 20)
    assert len({image.sum().item() for image in many}) == 70
    assert torch.equal(many[:64], tiny.sample(64))


def test_samples_do_not_depend_on_the_memory_there_is(tiny, monkeypatch):
    expected = tiny.sample(5, seed=2)
    monkeypatch.setattr("htdg.sampler.SAMPLING_BYTES", 1)  # one at a time
    torch.testing.assert_close(tiny.sample(5, seed=2), expected, atol=1e-5, rtol=0)


def test_where_randomness_begins(tiny):
    """Below it the image is rebuilt from z*, from it on noise is drawn: step by step by hand."""
    samples = tiny.sample(2, seed=5, from_scale=3)
    index = torch.zeros(2, dtype=torch.long)
    with torch.no_grad():
        below = generate(tiny.scales_[:3], reconstruction_noise(tiny.scales_), index)[-1]
        previous = resize(below, 20)
        z = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(5))
        last = tiny.scales_[3]
        expected = last.generator(last.sigma[0] * z, previous, index)
    torch.testing.assert_close(samples, expected, atol=1e-5, rtol=0)


def test_every_training_image_is_rebuilt(two):
    rebuilt = two.reconstruct()
    assert rebuilt.shape == (2, 3, 20, 20)
    assert not torch.equal(rebuilt[0], rebuilt[1])
    assert torch.equal(two.reconstruct(), rebuilt)


def test_what_is_rebuilt_is_like_the_image(tiny, brick):
    image = resize(load_image(brick[0][0])[None], 20)
    error = (tiny.reconstruct() - image).abs().mean()
    assert error < (image.mean() - image).abs().mean()


# --- Sizes --------------------------------------------------------------------------------------


def test_sizes_at_every_scale_by_hand():
    config = HTDGConfig.preset("tiny")
    assert sample_sizes(config, SIDES, None) == [(side, side) for side in SIDES]
    assert sample_sizes(config, SIDES, 20) == [(side, side) for side in SIDES]
    # 40 x 30 at the finest of 20 pixels: 28 and 21 at 14, 32 and 24 at 16, 36 and 27 at 18.
    assert sample_sizes(config, SIDES, (40, 30)) == [(28, 21), (32, 24), (36, 27), (40, 30)]


def test_samples_of_any_size(tiny):
    assert torch.equal(tiny.sample(2, size=20), tiny.sample(2))  # the finest side is 20
    assert tiny.sample(1, size=(20, 33)).shape == (1, 3, 20, 33)
    assert tiny.sample(1, size=[33, 20]).shape == (1, 3, 33, 20)
    assert tiny.sample(1, size=(20, 33), from_scale=2).shape == (1, 3, 20, 33)


@pytest.mark.parametrize("integer", [np.int64, np.int32, np.uint8])
def test_numpy_numbers_are_as_good_as_python_s(tiny, integer):
    expected = tiny.sample(2, seed=1, size=(30, 30), from_scale=1)
    samples = tiny.sample(
        integer(2), seed=integer(1), size=(integer(30), integer(30)), from_scale=integer(1)
    )
    assert torch.equal(samples, expected)
    square = tiny.sample(integer(2), seed=integer(1), size=integer(30), from_scale=integer(1))
    assert torch.equal(square, expected)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"n": 0}, "The number of samples is 0, but it must be a whole number, at least 1."),
        ({"n": -1}, "The number of samples is -1, but it must be a whole number, at least 1."),
        ({"n": 2.0}, "The number of samples is 2.0, but it must be a whole number, at least 1."),
        ({"n": True}, "The number of samples is True, but it must be a whole number, at least 1."),
        ({"seed": -1}, "The seed is -1, but it must be a whole number, at least 0."),
        ({"seed": 2**32}, "The seed is 4294967296, but it must be a whole number, no larger than "),
        ({"from_scale": 4}, "from_scale is 4, but it must be a whole number, from 0 to 3."),
        ({"from_scale": -1}, "from_scale is -1, but it must be a whole number, from 0 to 3."),
        ({"size": 15}, "size of a sample is 15 x 15 pixels, but each must be from 16 to 2048."),
        ({"size": (30, 4000)}, "size of a sample is 30 x 4000 pixels, but each must be from 16 to"),
        ({"size": (1, 2, 3)}, "size of a sample is (1, 2, 3), but it must be a side, or height"),
        ({"size": 20.0}, "The size of a sample is 20.0, but it must be a side, or height and"),
        ({"size": (20, True)}, "The size of a sample is (20, True), but it must be a side, or"),
        ({"size": "20"}, "The size of a sample is '20', but it must be a side, or height and"),
    ],
    ids=str,
)
def test_mistakes_get_one_sentence(tiny, arguments, sentence):
    with pytest.raises(ConfigError) as refused:
        tiny.sample(**arguments)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("method", ["mse", "no_generator"])
def test_without_a_generator_there_is_nothing_to_draw_with(brick, method):
    detector = HTDGDetector("tiny", method=method, niter=1).fit(brick[0][0], **QUIET)
    assert not detector.has_generator_
    with pytest.raises(ConfigError, match=f"made by the method {method}, which trains no gener"):
        Sampler(detector.model_, detector.device_)
    with pytest.raises(ConfigError, match="it can score images but not make any"):
        detector.sample()
