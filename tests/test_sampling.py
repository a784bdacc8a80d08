import pytest
import torch

from htdg.networks import Discriminator, Generator, initialise
from htdg.sampling import Scale, generate, random_noise, reconstruction_noise, upsampled


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def make_scale(side, generator, sigma=(1.0, 1.0), z_star=None):
    if z_star is None:
        z_star = torch.zeros(1, 1, side, side)
    return Scale(side, generator, None, z_star, torch.tensor(sigma))


def stub(noise, previous, index):
    """A generator that is easily worked out by hand: noise + previous / 2 + index / 10."""
    return noise + previous / 2 + index.view(-1, 1, 1, 1) / 10


def constant_noise(scale, side):
    return torch.full((2, 3, side, side), 0.1 * (scale + 1))


# --- Noise --------------------------------------------------------------------------------------


def test_noise_is_grey_at_the_coarsest_scale_and_coloured_above():
    draw = random_noise(torch.arange(3), seeded(0))
    coarsest, above = draw(0, 14), draw(1, 20)
    assert coarsest.shape == (3, 3, 14, 14)
    assert above.shape == (3, 3, 20, 20)
    assert torch.equal(coarsest[:, 0], coarsest[:, 1])
    assert torch.equal(coarsest[:, 0], coarsest[:, 2])
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        assert (above[:, a] - above[:, b]).abs().mean() > 0.5


@pytest.mark.parametrize("scale", [0, 1])
def test_noise_is_standard_normal_and_each_image_has_its_own(scale):
    noise = random_noise(torch.zeros(4, dtype=torch.long), seeded(0))(scale, 60)
    assert noise.mean().item() == pytest.approx(0, abs=0.04)
    assert noise.std().item() == pytest.approx(1, abs=0.04)
    assert (noise[0] - noise[1]).abs().mean() > 0.5


def test_noise_is_fresh_at_every_draw_and_repeated_by_its_seed():
    first, second, other = (random_noise(torch.arange(2), seeded(s)) for s in (7, 7, 8))
    a, b = first(1, 14), first(1, 14)
    assert not torch.equal(a, b)
    assert torch.equal(second(1, 14), a)
    assert torch.equal(second(1, 14), b)
    assert not torch.equal(other(1, 14), a)


def test_noise_goes_to_the_device_of_the_images_whatever_drew_it():
    index = torch.arange(2, device="meta")
    assert random_noise(index, seeded(0))(1, 5).device.type == "meta"


def test_reconstruction_noise_is_z_star_in_every_colour():
    scales = [
        make_scale(side, stub, z_star=torch.randn(1, 1, side, side, generator=seeded(side)))
        for side in (4, 6)
    ]
    draw = reconstruction_noise(scales)
    for n, scale in enumerate(scales):
        noise = draw(n, scale.side)
        assert noise.shape == (1, 3, scale.side, scale.side)
        for colour in range(3):
            assert torch.equal(noise[0, colour], scale.z_star[0, 0])


# --- Through the scales -------------------------------------------------------------------------


def test_generate_by_hand():
    scales = [make_scale(2, stub), make_scale(4, stub, (0.5, 1.0))]
    coarse, fine = generate(scales, constant_noise, torch.tensor([0, 1]))
    assert coarse.shape == (2, 3, 2, 2)
    assert fine.shape == (2, 3, 4, 4)
    # Scale 0 has noise 0.1 on zeros: 0.1 and 0.1 + 1 / 10.
    # Scale 1 has noise 0.5 * 0.2 and 1 * 0.2: 0.1 + 0.05 and 0.2 + 0.1 + 0.1.
    for images, values in [(coarse, (0.1, 0.2)), (fine, (0.15, 0.4))]:
        for image, value in zip(images, values, strict=True):
            torch.testing.assert_close(image, torch.full_like(image, value))


def test_sigma_and_number_belong_to_the_image():
    scales = [make_scale(2, stub, (0.5, 1.0, 2.0))]
    (images,) = generate(scales, lambda n, side: torch.ones(4, 3, 2, 2), torch.tensor([2, 0, 2, 1]))
    # sigma * 1 + index / 10
    expected = torch.tensor([2.2, 0.5, 2.2, 1.1])
    torch.testing.assert_close(images, expected.view(4, 1, 1, 1).expand(-1, 3, 2, 2))


def test_the_coarser_image_is_upsampled():
    def keep(noise, previous, index):
        return previous

    ramp = torch.linspace(-0.8, 0.8, 8).expand(1, 3, 8, 8)
    (image,) = generate(
        [make_scale(8, keep), make_scale(16, keep)],
        lambda n, side: torch.zeros(1, 3, side, side),
        torch.tensor([0]),
        start=ramp,
        first=1,
    )
    # Pixel j of 16 lies at (j + 0.5) / 2 - 0.5 of 8; a bicubic kernel returns straight lines.
    at = (torch.arange(16) + 0.5) / 2 - 0.5
    expected = -0.8 + at * 1.6 / 7
    torch.testing.assert_close(image[0, 0, 0, 4:12], expected[4:12])


def test_start_and_first():
    scales = [make_scale(2, None), make_scale(4, stub), make_scale(6, stub)]  # 0 must not be run
    start = torch.full((2, 3, 2, 2), 0.4)
    images = generate(scales, constant_noise, torch.tensor([0, 0]), start, first=1)
    assert [image.shape[-1] for image in images] == [4, 6]
    # 0.2 + 0.4 / 2 = 0.4, then 0.3 + 0.4 / 2 = 0.5
    torch.testing.assert_close(images[0], torch.full((2, 3, 4, 4), 0.4))
    torch.testing.assert_close(images[1], torch.full((2, 3, 6, 6), 0.5))


def test_the_same_start_given_or_generated():
    scales = [real_scale(n, 12 + 2 * n) for n in range(3)]
    index = torch.tensor([0, 1])
    draw = reconstruction_noise(scales)
    images = generate(scales, draw, index)
    from_one = generate(scales, draw, index, start=images[0], first=1)
    assert len(from_one) == 2
    torch.testing.assert_close(from_one[-1], images[-1])


def real_scale(n, side):
    generator, discriminator = Generator(4), Discriminator(4, 2)
    initialise(generator, seeded(n))
    z_star = torch.randn(1, 1, side, side, generator=seeded(100 + n))
    return Scale(side, generator.eval(), discriminator, z_star, torch.tensor([1.0, 0.5]))


def test_the_reconstruction_is_made_from_z_star():
    scales = [real_scale(0, 14), real_scale(1, 18)]
    index = torch.tensor([0, 1])
    with torch.no_grad():
        images = generate(scales, reconstruction_noise(scales), index)
        for k, sigma in enumerate([1.0, 0.5]):  # step by step, one image at a time
            image = torch.zeros(1, 3, 14, 14)
            for scale, got in zip(scales, images, strict=True):
                image = upsampled([image], scale.side, image)
                noise = sigma * scale.z_star.repeat(1, 3, 1, 1)
                image = scale.generator(noise, image, torch.tensor([k]))
                torch.testing.assert_close(got[k : k + 1], image)
        again = generate(scales, reconstruction_noise(scales), index)
    assert torch.equal(images[-1], again[-1])


def test_random_images_depend_on_the_seed():
    scales = [real_scale(0, 14), real_scale(1, 18)]
    index = torch.tensor([0, 0])
    with torch.no_grad():
        a, b, c = (generate(scales, random_noise(index, seeded(s)), index)[-1] for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert not torch.equal(a[0], a[1])


def test_upsampled():
    like = torch.ones(2, 3, 9, 9)
    assert torch.equal(upsampled([], 9, like), torch.zeros(2, 3, 9, 9))
    images = [torch.full((2, 3, 4, 4), 0.1), torch.full((2, 3, 6, 6), 0.3)]
    torch.testing.assert_close(upsampled(images, 9, like), torch.full((2, 3, 9, 9), 0.3))
