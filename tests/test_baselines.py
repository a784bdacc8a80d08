"""The voters of the ablations f and g: votes by hand, and the training of GEOM's classifier."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from htdg.ablations import geom
from htdg.ablations.geom import (
    GeomVoter,
    WideResNet,
    epoch_order,
    load_geom,
    train_geom,
    transformed_batch,
)
from htdg.ablations.nearest_image import NearestVoter
from htdg.io.model_directory import ModelError, read_directory
from htdg.transformations import CATALOGUE, transform_all, transformations_named
from htdg.votes import aggregate_votes

ROTATIONS = transformations_named("rotations")
#: Of the catalogue one of each kind: identity, turned, shifted both ways, flipped, grey.
MIXED = tuple(CATALOGUE[i] for i in (0, 3, 5, 12, 17, 32, 44, 53))


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# --- The mean squared error ---------------------------------------------------------------------


def test_votes_of_the_nearest_of_two_training_images_by_hand():
    black, white = torch.full((3, 2, 2), -1.0), torch.ones(3, 2, 2)
    dark, light = black.clone(), white.clone()
    dark[0, 0, 1] = 1.0  # differs from black by 2 in one channel: 4 / 3
    dark[:, 1, 0] = torch.tensor([0.0, -1.0, -0.5])  # by 1, 0 and 0.5: 1.25 / 3
    light[:, 1, 1] = -1.0  # differs from white by 2 in every channel: 4
    votes = NearestVoter(torch.stack([black, white]))(torch.stack([dark, light]))
    expected = torch.tensor(
        [[[1, 1 - 4 / 3 / 4], [1 - 1.25 / 3 / 4, 1]], [[1, 1], [1, 0]]],
    )
    torch.testing.assert_close(votes, expected[None])  # (1, 2, 2, 2)


def test_nearest_is_decided_for_the_whole_image():
    left, right = torch.zeros(3, 1, 4), torch.zeros(3, 1, 4)
    left[..., 0], right[..., 1:] = 1.0, 0.5
    image = torch.zeros(1, 3, 1, 4)
    # Squared differences: left 1, 0, 0, 0 (mean 0.25), right 0, 0.25, 0.25, 0.25 (mean 0.1875).
    votes = NearestVoter(torch.stack([left, right]))(image)
    assert votes.flatten().tolist() == [1, 1 - 1 / 16, 1 - 1 / 16, 1 - 1 / 16]


def test_a_training_image_is_entirely_normal_and_its_negative_entirely_odd():
    image = uniform(1, 3, 6, 6).sign()
    voter = NearestVoter(image)
    assert torch.equal(voter(image), torch.ones(1, 1, 6, 6))
    assert torch.equal(voter(-image), torch.zeros(1, 1, 6, 6))


def test_its_aggregate_is_the_least_mean_squared_error():
    train, test = uniform(3, 3, 7, 7), uniform(5, 3, 7, 7, seed=1)
    least = [min(F.mse_loss(x, t).item() for t in train) for x in test]
    scores = aggregate_votes(NearestVoter(train)(test))
    torch.testing.assert_close(scores, 1 - torch.tensor(least) / 4)


# --- The votes of GEOM --------------------------------------------------------------------------


class TopLeft(nn.Module):
    """Logits are the channels of the top left pixel: known, and other under every rotation."""

    def forward(self, images):
        return images[:, :, 0, 0]  # (B, 3)


def test_geom_votes_by_hand():
    image = torch.zeros(1, 3, 2, 2)
    image[0, :, 0, 0] = torch.tensor([1.0, 2.0, 3.0]).log()  # seen by the identity
    # A quarter turn counter-clockwise brings the top right corner to the top left one.
    image[0, :, 0, 1] = torch.tensor([5.0, 1.0, 4.0]).log()
    image[0, :, 1, 1] = torch.tensor([1.0, 1.0, 6.0]).log()  # half a turn
    votes = GeomVoter(TopLeft(), ROTATIONS[:3], "pixel")(image)
    # Class 0 has 1 of 6, class 1 has 1 of 10, class 2 has 6 of 8.
    torch.testing.assert_close(votes, torch.tensor([1 / 6, 1 / 10, 6 / 8]).view(3, 1, 1, 1))


@pytest.mark.parametrize("translation", ["pixel", "resampled", "stretched"])
def test_geom_votes_equal_a_plain_loop(translation):
    images = uniform(3, 3, 10, 10)
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(300, len(MIXED)))
    votes = GeomVoter(classifier, MIXED, translation)(images)
    assert votes.shape == (len(MIXED), 3, 1, 1)
    for m, t in enumerate(MIXED):
        for b in range(3):
            logits = classifier(t.apply(images[b : b + 1], translation))[0].double().exp()
            assert votes[m, b].item() == pytest.approx((logits[m] / logits.sum()).item(), rel=1e-5)


def test_memory_of_both():
    assert NearestVoter(torch.zeros(2, 3, 8, 8)).bytes_per_image() == 3 * 3 * 8 * 8 * 4
    voter = GeomVoter(WideResNet(4, widen=2), ROTATIONS, "pixel", side=16)
    assert voter.bytes_per_image() == 4 * 32 * 16 * 16 * 4


# --- The network --------------------------------------------------------------------------------


def test_parameter_count_of_wrn_10_4_by_hand():
    # Each block: two norms, two 3 x 3 convolutions, and the 1 x 1 one where channels change.
    first = 2 * 16 + 9 * 16 * 64 + 2 * 64 + 9 * 64 * 64 + 16 * 64
    second = 2 * 64 + 9 * 64 * 128 + 2 * 128 + 9 * 128 * 128 + 64 * 128
    third = 2 * 128 + 9 * 128 * 256 + 2 * 256 + 9 * 256 * 256 + 128 * 256
    count = 9 * 3 * 16 + first + second + third + 2 * 256 + 256 * 54 + 54
    assert sum(p.numel() for p in WideResNet(54).parameters()) == count


@pytest.mark.parametrize(("depth", "widen", "side"), [(10, 2, 8), (16, 1, 13)])
def test_the_network_equals_a_slow_version(depth, widen, side):
    torch.manual_seed(0)
    network = WideResNet(5, depth, widen).double()
    images = uniform(4, 3, side, side).double()
    for module in network.modules():  # so that the order of norm, ReLU and convolution matters
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
            nn.init.uniform_(module.running_mean, -1, 1)
    p = network.eval().state_dict()

    def activated(x, name):
        return F.relu(
            F.batch_norm(
                x,
                *(p[f"{name}.running_mean"], p[f"{name}.running_var"]),
                *(p[f"{name}.weight"], p[f"{name}.bias"]),
            )
        )

    x = F.conv2d(images, p["stem.weight"], padding=1)
    per_group = (depth - 4) // 6
    for i in range(3 * per_group):
        stride = 2 if i in (per_group, 2 * per_group) else 1
        name, active = f"blocks.{i}", activated(x, f"blocks.{i}.norm1")
        inner = F.conv2d(active, p[f"{name}.conv1.weight"], stride=stride, padding=1)
        inner = F.conv2d(activated(inner, f"{name}.norm2"), p[f"{name}.conv2.weight"], padding=1)
        if i % per_group == 0 and (i > 0 or widen > 1):
            x = F.conv2d(active, p[f"{name}.shortcut.weight"], stride=stride)
        x = x + inner
    # Half of the side, rounded up, twice.
    assert x.shape == (4, 64 * widen, -(-side // 4), -(-side // 4))
    logits = activated(x, "norm").mean((2, 3)) @ p["head.weight"].T + p["head.bias"]
    torch.testing.assert_close(network(images), logits)


@pytest.mark.parametrize("depth", [4, 11, 12])
def test_impossible_depths_are_refused(depth):
    with pytest.raises(ValueError, match=f"depth is {depth}, but it must be 10, 16, 22"):
        WideResNet(4, depth)


def test_initial_weights_have_the_spread_of_geom():
    network = WideResNet(54)
    geom.initialise_classifier(network, torch.Generator().manual_seed(0))
    weight = network.blocks[2].conv2.weight  # fan in 9 * 256
    assert weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)
    assert weight.mean().item() == pytest.approx(0, abs=1e-4)
    assert network.head.weight.abs().max().item() == pytest.approx(1 / 16, rel=0.01)
    assert not network.head.bias.any()


# --- What it learns from ------------------------------------------------------------------------


@pytest.mark.parametrize("translation", ["pixel", "resampled"])
def test_a_batch_holds_the_copies_of_its_pairs(translation):
    samples = uniform(3, 3, 9, 9)
    pairs = torch.tensor([17, 2, 9, 8, 1, 22, 0])  # sample p // 8 under transformation p % 8
    copies, classes = transformed_batch(samples, pairs, MIXED, translation)
    expected = sorted((p % 8, p // 8) for p in pairs.tolist())
    assert classes.tolist() == [m for m, _ in expected]
    labelled_copies = {
        (m, tuple(c.flatten().tolist())) for m, c in zip(classes.tolist(), copies, strict=True)
    }
    assert labelled_copies == {
        (m, tuple(MIXED[m].apply(samples[n : n + 1], translation).flatten().tolist()))
        for m, n in expected
    }


def test_every_copy_is_seen_exactly_once_an_epoch(monkeypatch):
    samples, seen = uniform(5, 3, 8, 8), []
    forward = WideResNet.forward

    def recorded(self, images):
        seen.append(images)
        return forward(self, images)

    monkeypatch.setattr(WideResNet, "forward", recorded)
    counts = []
    train_geom(
        *(samples, MIXED, "pixel", 0),
        epochs=2,
        batch_size=12,
        callback=lambda *count: counts.append(count),
        widen=1,
    )
    # 40 copies in as few equal parts of at most 12 as there can be: 4 of 10.
    assert [len(images) for images in seen] == [10] * 8
    assert counts == [(i, 8) for i in range(1, 9)]
    all_copies = transform_all(samples, MIXED, "pixel").flatten(0, 1).flatten(1)  # (40, 192)
    wanted = sorted(all_copies.tolist())
    first, second = torch.cat(seen[:4]).flatten(1).tolist(), torch.cat(seen[4:]).flatten(1).tolist()
    assert sorted(first) == sorted(second) == wanted
    assert {tuple(c) for c in first[:10]} != {tuple(c) for c in second[:10]}  # in another order


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone():
    orders = [epoch_order(seed, epoch, 50).tolist() for seed in (0, 1) for epoch in (1, 2)]
    torch.manual_seed(5)
    assert epoch_order(1, 2, 50).tolist() == orders[-1]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


# --- Training -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def samples():
    """Four images (4, 3, 12, 12) without symmetry: bright at the top, and red at the left."""
    ramp = torch.linspace(-0.6, 0.6, 12)
    images = 0.3 * uniform(4, 3, 12, 12)
    images -= ramp.view(1, 1, 12, 1)
    images[:, 0] -= ramp.view(1, 1, 12)
    return images.clamp(-1, 1)


def short(samples, seed=0, **options):
    """A training of three epochs of two batches each."""
    options = {"epochs": 3, "batch_size": 8, "widen": 1} | options
    return train_geom(samples, ROTATIONS, "pixel", seed, **options)


def same(one, other):
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(states[0][key], states[1][key]) for key in states[0] | states[1])


def test_it_learns_to_name_the_transformations(samples):
    network = short(samples, epochs=20)
    copies = transform_all(samples, ROTATIONS, "pixel")  # (4, 4, 3, 12, 12)
    named = network(copies.flatten(0, 1)).argmax(1).view(4, 4)
    assert (named == torch.arange(4)[:, None]).float().mean() > 0.9  # chance is 0.25
    votes = GeomVoter(network, ROTATIONS, "pixel")(samples)
    assert votes.mean() > 0.7
    # To an image that is upside down every name is wrong.
    odd = GeomVoter(network, ROTATIONS, "pixel")(torch.rot90(samples, 2, (-2, -1)))
    assert odd.mean() < 0.2


def test_what_comes_back_is_ready_for_use(samples):
    network = short(samples, epochs=1)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    assert len(network.blocks) == 3
    assert len(short(samples, epochs=1, depth=16).blocks) == 6


def test_one_seed_gives_one_result_whatever_the_state_of_the_process(samples):
    torch.manual_seed(1)
    before, first = torch.random.get_rng_state(), short(samples)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(first, short(samples))
    assert not same(first, short(samples, seed=1))


def test_the_first_step_is_one_of_adam(samples):
    network = WideResNet(4, widen=1)
    geom.initialise_classifier(network, geom._stream(0, 0))
    copies = transform_all(samples, ROTATIONS, "pixel").flatten(0, 1)
    F.cross_entropy(network(copies), torch.arange(16) // 4).backward()
    # Adam's first step is lr times the sign of the gradient, but for epsilon.
    g = network.head.weight.grad
    expected = network.head.weight.detach() - 1e-3 * g / (g.abs() + 1e-8)
    trained = short(samples, epochs=1, batch_size=16)
    torch.testing.assert_close(trained.head.weight, expected, rtol=0, atol=2e-5)


class Killed(Exception):
    pass


def kill_at(batch):
    def callback(done, total):
        if done == batch:
            raise Killed

    return callback


@pytest.mark.parametrize("batch", [3, 4, 5])
def test_a_killed_training_goes_on_to_the_same_weights(samples, tmp_path, batch):
    with pytest.raises(Killed):
        short(samples, checkpoint=tmp_path / "geom", callback=kill_at(batch))
    epochs_done = (batch - 1) // 2
    assert read_directory(tmp_path / "geom")[1]["epoch"] == epochs_done
    counts = []
    torch.manual_seed(batch)
    resumed = short(
        samples, checkpoint=tmp_path / "geom", callback=lambda *count: counts.append(count)
    )
    assert counts == [(i, 6) for i in range(2 * epochs_done + 1, 7)]
    assert same(resumed, short(samples))
    assert not resumed.training


def test_a_finished_training_is_not_repeated(samples, tmp_path):
    first = short(samples, checkpoint=tmp_path / "geom")
    again = short(samples, checkpoint=tmp_path / "geom", callback=kill_at(1))
    assert same(first, again)
    assert [p.name for p in tmp_path.iterdir()] == ["geom"]


def test_a_training_killed_in_its_first_epoch_leaves_no_checkpoint(samples, tmp_path):
    with pytest.raises(Killed):
        short(samples, checkpoint=tmp_path / "geom", callback=kill_at(2))
    assert not (tmp_path / "geom").exists()


def test_a_foreign_checkpoint_is_refused(samples, tmp_path):
    place = {"checkpoint": tmp_path / "geom"}
    short(samples, epochs=1, **place)
    others = [
        lambda: short(samples, epochs=2, **place),
        lambda: short(samples, epochs=1, seed=1, **place),
        lambda: short(samples, epochs=1, **place | {"batch_size": 4}),
        lambda: short(samples, epochs=1, **place | {"widen": 2}),
        lambda: short(samples, epochs=1, **place | {"depth": 16}),
        lambda: short(samples.flip(0), epochs=1, **place),
        lambda: train_geom(samples, ROTATIONS, "resampled", 0, 1, 8, **place, widen=1),
        lambda: train_geom(samples, ROTATIONS[::-1], "pixel", 0, 1, 8, **place, widen=1),
    ]
    for other in others:
        with pytest.raises(ModelError, match="unfinished GEOM classifier with other options"):
            other()


def test_something_else_in_the_place_of_the_checkpoint_is_refused(samples, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="it is no htdg model"):
        short(samples, checkpoint=tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


# --- In a model ---------------------------------------------------------------------------------


def test_a_classifier_comes_back_from_the_tensors_of_a_model(samples):
    network = short(samples, epochs=1)
    tensors = {f"geom.{key}": value for key, value in network.state_dict().items()}
    tensors["images"] = samples
    before = torch.random.get_rng_state()
    loaded = load_geom(tensors, 4, torch.device("cpu"), widen=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same(network, loaded)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    with pytest.raises(ValueError, match=r"tensor geom\.head\.bias does not follow"):
        load_geom(tensors, 5, torch.device("cpu"), widen=1)
    with pytest.raises(ValueError, match=r"tensor geom\.extra does not follow"):
        load_geom(tensors | {"geom.extra": samples}, 4, torch.device("cpu"), widen=1)
    del tensors["geom.stem.weight"]
    with pytest.raises(ValueError, match=r"tensor geom\.stem\.weight does not follow"):
        load_geom(tensors, 4, torch.device("cpu"), widen=1)
