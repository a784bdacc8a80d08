import pytest
import torch

from htdg.networks import Discriminator, Generator, initialise


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def make(network, gain=5):
    """In evaluation mode, in float64 and with larger weights, so that no effect is rounded away."""
    initialise(network, seeded(0))
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(gain)
    return network.eval().double()


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=seeded(seed), dtype=torch.float64) * 2 - 1


def box_of(changed):
    """First and last row and column of True."""
    rows, cols = torch.nonzero(changed, as_tuple=True)
    return rows.min().item(), rows.max().item(), cols.min().item(), cols.max().item()


@pytest.mark.parametrize("layers", [2, 3, 5])
def test_one_pixel_reaches_the_logits_of_its_receptive_field(layers):
    network = make(Discriminator(4, 3, layers))
    before = uniform(1, 3, 25, 25)
    after = before.clone()
    after[0, 1, 12, 13] += 1
    with torch.no_grad():
        changed = (network(after) != network(before)).any(1)[0]
    # Logit (i, j) sees the pixels i .. i + 2 L, so pixel 12 is seen by 12 - 2 L .. 12.
    assert box_of(changed) == (12 - 2 * layers, 12, 13 - 2 * layers, 13)
    assert changed.sum() == (2 * layers + 1) ** 2  # 11 x 11 for five layers


@pytest.mark.parametrize("layers", [2, 5])
def test_one_pixel_of_noise_reaches_the_image_around_it(layers):
    network = make(Generator(4, layers), gain=2)
    noise, previous, index = uniform(1, 3, 19, 19), uniform(1, 3, 19, 19, seed=1), torch.zeros(1)
    other = noise.clone()
    other[0, 2, 9, 8] += 1
    with torch.no_grad():
        difference = network(other, previous, index) != network(noise, previous, index)
    changed = difference.any(1)[0]
    assert box_of(changed) == (9 - layers, 9 + layers, 8 - layers, 8 + layers)
    assert changed.sum() == (2 * layers + 1) ** 2


@pytest.mark.parametrize(("side", "m"), [(11, 4), (14, 4), (25, 54)])
def test_shapes(side, m):
    images = torch.zeros(2, 3, side, side)
    assert Discriminator(8, m)(images).shape == (2, m + 1, side - 10, side - 10)
    assert Generator(8)(images, images, torch.arange(2)).shape == images.shape


@pytest.mark.parametrize(
    ("network", "count"),
    [
        # Width 4, M = 2. First block 3 * 9 * 4 + 4 = 112 and norm 8; three blocks of
        # 4 * 9 * 4 + 4 = 148 and 8; tail 4 * 9 * 3 + 3 = 111.
        (Discriminator(4, 2), 120 + 3 * 156 + 111),
        # The fourth input channel adds 9 * 4 = 36; the tail has 3 outputs again.
        (Generator(4), 156 + 3 * 156 + 111),
        # The paper's: 896 + 64, three times 9248 + 64, 32 * 9 * 55 + 55.
        (Discriminator(32, 54), 960 + 27_936 + 15_895),
        # 4 * 9 * 32 + 32 + 64, three times 9312, 32 * 9 * 3 + 3.
        (Generator(32), 1_248 + 27_936 + 867),
        # Two layers: one block and the tail.
        (Discriminator(4, 2, layers=2), 120 + 111),
    ],
)
def test_parameter_counts_by_hand(network, count):
    assert sum(p.numel() for p in network.parameters()) == count


def test_a_network_of_one_layer_is_a_convolution():
    network = make(Discriminator(4, 2, layers=1))
    x = uniform(1, 3, 5, 5)
    expected = torch.nn.functional.conv2d(x, network.tail.weight, network.tail.bias)
    assert torch.equal(network(x), expected)


def test_the_generator_adds_to_the_coarser_image():
    network = make(Generator(4), gain=2)
    noise, previous = uniform(2, 3, 14, 14), uniform(2, 3, 14, 14, seed=1)
    index = torch.tensor([0, 1])
    with torch.no_grad():
        added = network(noise, previous, index) - previous
        assert added.abs().max() < 1  # a tanh
        assert added.std() > 0.01
        network.tail.weight.zero_()
        network.tail.bias.copy_(torch.tensor([0.0, 20.0, -20.0]))
        bounded = network(noise, previous, index) - previous
    expected = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64).view(1, 3, 1, 1)
    torch.testing.assert_close(bounded, expected.expand_as(bounded))


def test_the_generator_sees_noise_plus_the_coarser_image_in_zeros():
    network = make(Generator(4), gain=2)
    noise, previous = uniform(1, 3, 14, 14), uniform(1, 3, 14, 14, seed=1)
    x = torch.zeros(1, 4, 24, 24, dtype=torch.float64)
    x[:, :3, 5:19, 5:19] = noise + previous
    x[:, 3] = 2  # the number of the image, over the padding, too
    with torch.no_grad():
        expected = torch.tanh(network.body(x)) + previous
        got = network(noise, previous, torch.tensor([2]))
    torch.testing.assert_close(got, expected)


def test_the_number_of_the_image_matters():
    network = make(Generator(4), gain=2)
    same = uniform(1, 3, 14, 14).expand(2, -1, -1, -1)
    with torch.no_grad():
        out = network(same, torch.zeros_like(same), torch.tensor([0, 1]))
        swapped = network(same, torch.zeros_like(same), torch.tensor([1, 0]))
    assert (out[0] - out[1]).abs().max() > 1e-3
    torch.testing.assert_close(out.flip(0), swapped)


@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, 3), (4, 2)])
def test_the_discriminator_does_not_know_where_a_patch_lies(down, right):
    network = make(Discriminator(4, 3))
    images = uniform(1, 3, 24, 24)
    with torch.no_grad():
        logits = network(images)  # (1, 4, 14, 14)
        of_crop = network(images[..., down : down + 18, right : right + 18])  # (1, 4, 8, 8)
    torch.testing.assert_close(of_crop, logits[..., down : down + 8, right : right + 8])


def test_activation_is_leaky_by_a_fifth():
    network = Discriminator(1, 1, layers=2)
    block = network.blocks[0].eval()
    with torch.no_grad():
        block.conv.weight.zero_()
        for value in (2.0, -2.0):
            block.conv.bias.fill_(value)
            out = block(torch.zeros(1, 3, 3, 3)).item()
            assert out == pytest.approx(value if value > 0 else 0.2 * value, rel=1e-4)


def test_initialise_draws_the_papers_distributions():
    network = Discriminator(128, 54)
    for p in network.parameters():
        torch.nn.init.constant_(p, 9.0)
    initialise(network, seeded(0))
    for block in network.blocks[1:]:
        weight = block.conv.weight  # 147 456 draws: the standard error of both is below 1e-4
        assert weight.mean().item() == pytest.approx(0, abs=3e-4)
        assert weight.std().item() == pytest.approx(0.02, abs=3e-4)
        assert (block.norm.bias == 0).all()
    norms = torch.cat([block.norm.weight for block in network.blocks])  # 512 draws
    assert norms.mean().item() == pytest.approx(1, abs=0.005)
    assert norms.std().item() == pytest.approx(0.02, abs=0.003)


def test_initialise_draws_biases_within_one_over_root_fan_in():
    network = Discriminator(128, 54)
    initialise(network, seeded(0))
    for conv, fan_in in [(network.blocks[0].conv, 27), (network.blocks[1].conv, 1152)]:
        bound = fan_in**-0.5
        assert conv.bias.abs().max() <= bound
        assert conv.bias.max() > 0.9 * bound
        assert conv.bias.min() < -0.9 * bound


def test_initialise_resets_running_statistics():
    network = Discriminator(4, 2)
    network(torch.randn(2, 3, 14, 14))
    initialise(network, seeded(0))
    for block in network.blocks:
        assert (block.norm.running_mean == 0).all()
        assert (block.norm.running_var == 1).all()


def test_initialise_depends_on_its_seed_only():
    states = []
    for process_seed, seed in [(1, 5), (2, 5), (2, 6)]:
        torch.manual_seed(process_seed)
        network = Generator(4)
        initialise(network, seeded(seed))
        states.append(torch.cat([p.flatten() for p in network.parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[1], states[2])
