"""The two backends: the fast one gives what the plain one gives, in everything that is asked of it.

``test_canvases``, ``test_convolution`` and ``test_native`` look at the parts of the fast one.
"""

import copy
import inspect

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from htdg import HTDGConfig
from htdg.backend import Backend, PlainBackend, autocast
from htdg.fast import native
from htdg.fast.adam import Adam
from htdg.fast.backend import FastBackend
from htdg.losses import generated_loss, real_loss
from htdg.models import choose_backend
from htdg.networks import Discriminator, Generator, initialise
from htdg.sampling import Scale, freeze
from htdg.scorer import SCORING_BYTES
from htdg.training import start_scale
from htdg.transformations import CATALOGUE, TRANSLATIONS

CPU = torch.device("cpu")
TINY = HTDGConfig.preset("tiny", niter=4, precision="float32")
EVERY_TRANSLATION = pytest.mark.parametrize("translation", TRANSLATIONS)
BOTH = pytest.mark.parametrize("kind", [PlainBackend, FastBackend])


def pair(config, transformations=CATALOGUE):
    """The plain and the fast backend for the same options."""
    return PlainBackend(config, transformations, CPU), FastBackend(config, transformations, CPU)


def images(side, count=1, seed=0, dtype=torch.float32):
    rng = torch.Generator().manual_seed(seed)
    return (torch.rand(count, 3, side, side, generator=rng, dtype=torch.float64) * 2 - 1).to(dtype)


def strong(network, width=6):
    """A network with weights and normalisation far from the neutral values that they start with."""
    initialise(network, torch.Generator().manual_seed(1))
    for block in network.blocks:
        block.conv.weight.data.mul_(8)
        block.norm.weight.data.add_(torch.linspace(-0.5, 0.5, width))
        block.norm.bias.data.add_(torch.linspace(-1, 1, width))
    return network


def scale_of(config, side, classes=54, shots=1):
    """A trained-looking scale, frozen, with running statistics other than 0 and 1."""
    d, g = strong(Discriminator(6, classes, config.layers)), strong(Generator(6, config.layers))
    d.tail.weight.data.mul_(10)  # so that votes are far from alike
    d.tail.weight.data.mul_(10)  # so that votes are far from alike
    x = images(side, 4, seed=5)
    d(x)
    g(x, x.flip(0), torch.arange(4))
    return freeze(Scale(side, g, d, torch.zeros(1, 1, side, side), torch.ones(shots)))


@pytest.fixture(params=["compiled helpers", "PyTorch alone"])
def helpers(request, monkeypatch):
    """With the compiled helpers, where they are there, and without."""
    if request.param == "PyTorch alone":
        monkeypatch.setattr(native, "library", lambda: None)


# --- Which backend ------------------------------------------------------------------------------


def test_both_offer_the_whole_interface():
    names = [name for name in vars(Backend) if not name.startswith("_")]
    assert {"copies", "real_loss", "generated_loss", "generator", "optimiser", "run", "voter"} < {
        *names
    }
    for kind in (PlainBackend, FastBackend):
        for name in names:
            asked = inspect.signature(getattr(Backend, name)).parameters
            assert list(inspect.signature(getattr(kind, name)).parameters) == list(asked), name


@pytest.mark.parametrize(("fast", "kind"), [(True, FastBackend), (False, PlainBackend)])
def test_the_option_fast_chooses(fast, kind):
    config = TINY.with_options(fast=fast, precision="auto")
    backend = choose_backend(config, CATALOGUE, CPU)
    assert type(backend) is kind
    assert backend.config.precision == "float32"  # decided for this device
    assert backend.transformations == CATALOGUE


def test_training_is_plain_unless_a_backend_is_given():
    training = start_scale(TINY, CATALOGUE, [], images(14))
    assert type(training.backend) is PlainBackend
    backend = FastBackend(TINY, CATALOGUE, CPU)
    assert start_scale(TINY, CATALOGUE, [], images(14), backend).backend is backend


# --- The plain one is what it says --------------------------------------------------------------


@EVERY_TRANSLATION
def test_the_plain_one_in_a_few_lines(translation):
    backend = PlainBackend(TINY.with_options(translation=translation), CATALOGUE, CPU)
    x = images(15, 2)
    copies = backend.copies(x)
    assert copies.shape == (54, 2, 3, 15, 15)
    for m, t in enumerate(CATALOGUE):
        torch.testing.assert_close(copies[m], t.apply(x, translation))
    d, g = Discriminator(4, 54), Generator(4)
    assert torch.equal(backend.real_loss(d, copies), real_loss(d, copies))
    assert torch.equal(backend.generated_loss(d, copies), generated_loss(d, copies))
    assert backend.generator(g) is g


@BOTH
def test_a_step_that_is_run_is_done_once_and_gives_its_losses(kind):
    backend = kind(TINY, CATALOGUE, CPU)
    calls = []

    def step(noise, previous):
        calls.append((noise, previous))
        return {"loss": noise}

    backend.begin_scale(scale_of(TINY, 14), 1)
    noise = torch.ones(())
    assert backend.run(step, noise, None) == {"loss": noise}
    assert calls == [(noise, None)]


# --- Losses, gradients, running statistics ------------------------------------------------------


@EVERY_TRANSLATION
@pytest.mark.usefixtures("helpers")
@pytest.mark.parametrize("shots", [1, 3])
@pytest.mark.parametrize("method", ["htdg", "real_or_generated"])
def test_losses_gradients_and_statistics_are_the_same(translation, shots, method):
    """In float64, so that only a mistake makes a difference: to the weights and to the images."""
    config = TINY.with_options(translation=translation, method=method)
    plain, fast = pair(config)
    d = strong(Discriminator(6, 54 if method == "htdg" else 1).double()).train()
    others = copy.deepcopy(d)
    first, second = (images(16, shots, dtype=torch.float64).requires_grad_() for _ in range(2))
    copies, canvases = plain.copies(first), fast.copies(second)
    for kind in ("real_loss", "generated_loss"):
        expected = getattr(plain, kind)(d, copies)
        loss = getattr(fast, kind)(others, canvases)
        assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
        wanted = torch.autograd.grad(expected, [first, *d.parameters()], retain_graph=True)
        gradients = torch.autograd.grad(loss, [second, *others.parameters()], retain_graph=True)
        for a, b in zip(wanted, gradients, strict=True):
            torch.testing.assert_close(b, a, atol=1e-9, rtol=1e-7)
    for a, b in zip(d.buffers(), others.buffers(), strict=True):
        torch.testing.assert_close(b, a, atol=1e-9, rtol=1e-7)


@pytest.mark.usefixtures("helpers")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_generator_in_training_is_the_same(dtype):
    plain, fast = pair(TINY)
    g = strong(Generator(6).to(dtype)).train()
    other = copy.deepcopy(g)
    noise, previous, index = images(20, 3, 1, dtype), images(20, 3, 2, dtype), torch.arange(3)
    outputs = [b.generator(n)(noise, previous, index) for b, n in ((plain, g), (fast, other))]
    exact = dtype == torch.float64
    torch.testing.assert_close(*outputs, atol=1e-9 if exact else 1e-4, rtol=0)
    for output in outputs:
        output.square().sum().backward()
    for p, q in zip(g.parameters(), other.parameters(), strict=True):
        if exact:
            torch.testing.assert_close(q.grad, p.grad, atol=1e-7, rtol=1e-7)
        else:
            # Relative to all of them: that of a bias before a normalisation is rounding alone.
            assert (p.grad - q.grad).norm() < 1e-3 * max(1, p.grad.norm())
    for p, q in zip(g.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(q, p, atol=1e-5, rtol=1e-5)


def test_a_frozen_generator_is_the_same_and_changes_nothing():
    plain, fast = pair(TINY)
    g = scale_of(TINY, 20).generator
    before = copy.deepcopy(g.state_dict())
    noise, previous, index = images(20, 3, 1), images(20, 3, 2), torch.arange(3)
    expected = plain.generator(g)(noise, previous, index)
    output = fast.generator(g)(noise, previous, index)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)
    assert not output.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in g.state_dict().items())


def test_the_optimisers_are_adam_with_the_options_of_the_config():
    config = TINY.with_options(beta1=0.4, beta2=0.8)
    start = torch.randn(7, generator=torch.Generator().manual_seed(0))
    parameters = [start.clone().requires_grad_() for _ in range(3)]
    plain, fast = pair(config)
    fast.begin_scale(scale_of(config, 14), 1)
    optimisers = [
        *(b.optimiser([p], 0.1) for b, p in zip((plain, fast), parameters[:2], strict=True)),
        torch.optim.Adam([parameters[2]], 0.1, (0.4, 0.8)),
    ]
    for _ in range(5):
        for parameter, adam in zip(parameters, optimisers, strict=True):
            adam.zero_grad()
            (parameter**2).sum().backward()
            adam.step()
    assert parameters[0].equal(parameters[2])
    torch.testing.assert_close(parameters[1], parameters[2], atol=1e-6, rtol=1e-6)
    assert not parameters[0].equal(start)


def test_adam_without_its_wrapping_is_adam_to_the_last_digit():
    """Hooks, another rate and a state that is loaded included."""
    start = torch.randn(2, 7, generator=torch.Generator().manual_seed(0))
    weights, hooked = [], []
    for kind in (torch.optim.Adam, Adam):
        rows = [row.clone().requires_grad_() for row in start]
        unused = torch.ones(3, requires_grad=True)
        adam = kind([*rows, unused], 0.1, (0.4, 0.8), fused=True)
        adam.register_step_pre_hook(lambda *_, kind=kind: hooked.append(kind))
        for number in range(6):
            adam.zero_grad()
            assert all(row.grad is None for row in rows)
            sum((row**2).sum() for row in rows).backward()
            adam.step()
            if number == 2:
                adam.param_groups[0]["lr"] = 0.02
            if number == 3:
                state = adam.state_dict()
                adam = kind([*rows, unused], 1.0, (0.1, 0.1), fused=True)
                adam.load_state_dict(state)
        assert adam.step(lambda: torch.tensor(3.0)) == 3
        assert unused.equal(torch.ones(3))
        weights.append(torch.stack(rows).detach())
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], start)
    assert hooked == [torch.optim.Adam] * 4 + [Adam] * 4  # hooks are not a part of the state


# --- Whole iterations ---------------------------------------------------------------------------


def iteration(backend, config, transformations, count, coarser, side):
    training = start_scale(config, transformations, coarser, images(side, count), backend)
    training.step()
    return training


@EVERY_TRANSLATION
@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 1),
        ({}, 2),
        ({"images_at_once": 2}, 3),
        ({"method": "no_generator"}, 2),
        ({"method": "real_or_generated"}, 1),
    ],
    ids=str,
)
def test_an_iteration_is_the_same(translation, options, count):
    """Losses of all steps, and the weights after them, above a coarser scale."""
    config = TINY.with_options(translation=translation, channels=6, **options)
    transformations = CATALOGUE[::3]
    classes = 1 if config.method == "real_or_generated" else len(transformations)
    after = []
    for backend in pair(config, transformations):
        coarser = [scale_of(config, 14, classes, count)]
        after.append(iteration(backend, config, transformations, count, coarser, 16))
    plain, fast = after
    for name, values in plain.history.items():
        assert fast.history[name][0].item() == pytest.approx(values[0].item(), rel=2e-3), name
    for network in ("generator", "discriminator"):
        states = (getattr(of_backend.scale, network).state_dict() for of_backend in after)
        expected, state = states
        # Adam's first steps turn rounding errors of gradients that are zero into full steps.
        for key, value in expected.items():
            if not key.endswith(("conv.bias", "running_mean", "tracked")):
                assert (state[key] - value).abs().mean() < 2e-4, (network, key)


# --- Votes --------------------------------------------------------------------------------------


@EVERY_TRANSLATION
@pytest.mark.usefixtures("helpers")
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("method", ["htdg", "real_or_generated"])
def test_votes_are_the_same(translation, count, method):
    config = TINY.with_options(translation=translation, method=method)
    scale = scale_of(config, 20, 54 if method == "htdg" else 1)
    plain, fast = pair(config)
    x = images(20, count)
    with torch.inference_mode():
        expected, votes = plain.voter(scale)(x), fast.voter(scale)(x)
    assert expected.shape == votes.shape == (54, count, 10, 10)
    assert expected.std() > 0.1 * expected.mean()
    torch.testing.assert_close(votes, expected, atol=1e-5, rtol=0)


def test_what_the_votes_of_an_image_take():
    config = HTDGConfig.preset("paper_rgb", translation="pixel", precision="float32")
    wide = config.with_options(channels=64)
    scale = freeze(start_scale(wide, CATALOGUE, [], torch.zeros(1, 3, 64, 64)).scale)
    plain, fast = pair(config)
    # 54 copies x 64 channels x 64 x 64 pixels x 4 bytes x 3 layers: 170 MB an image.
    assert plain.voter(scale).bytes_per_image() == 54 * 64 * 64 * 64 * 4 * 3
    # 16 canvases: 3 of 82 x 82, 6 of 73 x 73, 7 of 64 x 64.
    canvases, votes = 80_818 * 3 * 4 * 2, 54 * 64 * 64 * 4 * 4
    expected = 6 * 73 * 73 * 64 * 4 * 2 + canvases + votes  # the largest sheet has 6 canvases
    assert fast.voter(scale).bytes_per_image() == expected
    for backend in pair(TINY):
        assert backend.voter(scale_of(TINY, 20)).bytes_per_image() < SCORING_BYTES


def test_what_the_training_on_an_image_takes():
    config = HTDGConfig(translation="pixel", precision="float32")
    plain, fast = pair(config)
    # 80,818 pixels of canvases, 64 channels, 4 bytes.
    assert fast.training_bytes(4, 64) == 4 * FastBackend.KEPT_LAYERS * 80_818 * 64
    assert plain.training_bytes(4, 64) == 4 * PlainBackend.KEPT_LAYERS * 54 * 64 * 64 * 64


# --- Precision ----------------------------------------------------------------------------------


def test_autocast_is_on_for_bf16_only():
    with autocast(CPU, "float32"):
        assert not torch.is_autocast_enabled("cpu")
    with autocast(CPU, "bf16"):
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16


@BOTH
def test_copies_are_drawn_in_float32_also_under_autocast(kind):
    """Otherwise D could tell generated patches from real ones by their rounding."""
    backend = kind(TINY.with_options(precision="bf16"), CATALOGUE, CPU)
    with backend.autocast():
        assert torch.is_autocast_enabled("cpu")
        inside = backend.copies(images(14))
    outside = backend.copies(images(14))
    if kind is FastBackend:
        inside, outside = inside.sheets, outside.sheets
    for a, b in zip(inside, outside, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    ("device", "has_bf16", "precision", "expected"),
    [
        ("cuda", True, "auto", torch.bfloat16),
        ("cuda", False, "auto", torch.float32),
        ("cuda", True, "float32", torch.float32),
        ("cpu", True, "auto", torch.float32),
        ("cpu", True, "bf16", torch.bfloat16),
        ("mps", True, "bf16", torch.float32),
    ],
)
def test_the_precision_that_votes_are_computed_in(
    device, has_bf16, precision, expected, fast, monkeypatch
):
    """Runs on the CPU and only believes that it were another device."""
    scale = scale_of(TINY, 14)
    outputs = []
    forward = torch.nn.Conv2d.forward

    def watched(self, x):
        outputs.append(forward(self, x))
        return outputs[-1]

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watched)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16)
    real_autocast = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda kind, **how: real_autocast("cpu", **how))
    config = TINY.with_options(precision=precision, fast=fast)
    backend = choose_backend(config, CATALOGUE, torch.device(device))
    with torch.inference_mode():
        votes = backend.voter(scale)(images(14))
    assert [y.dtype for y in outputs] == [expected] * 5
    assert votes.dtype == torch.float32  # softmax is never taken in bf16


# --- Nothing waits for the device ---------------------------------------------------------------


class NeverWaits(TorchDispatchMode):
    """Refuses operations for which a program waits for a GPU: numbers it has to know or to send.

    On a processor ``cpu``, ``to`` and ``tolist`` do not show; the test on a GPU sees them.
    """

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal")
    WAITS += ("unique_dim", "_unique2", "unique_consecutive")
    WAITS += ("lift_fresh",)  # a constant from the computer's memory

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in self.WAITS, name
        assert func != torch.ops.aten.repeat_interleave.Tensor, name
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            assert not any(i is not None and i.dtype == torch.bool for i in args[1]), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: float(x[0]),
        lambda x: bool((x > 0).all()),
        lambda x: x[x > 0],
        lambda x: x.new_tensor([1.0]),
        lambda x: x.unique(),
        lambda x: x.repeat_interleave(torch.ones_like(x, dtype=torch.long)),
    ],
)
def test_what_waits_is_noticed(wait):
    x = torch.ones(3)
    with NeverWaits(), pytest.raises(AssertionError):
        wait(x)


@EVERY_TRANSLATION
def test_an_iteration_of_the_fast_one_never_waits_for_the_device(translation, monkeypatch):
    monkeypatch.setattr(native, "library", lambda: None)  # with PyTorch alone, as on a GPU
    config = TINY.with_options(translation=translation, channels=6)
    backend = FastBackend(config, CATALOGUE, CPU)
    trainings = []
    for coarser in ([], [scale_of(config, 14)]):
        trainings.append(start_scale(config, CATALOGUE, coarser, images(16), backend))
        with NeverWaits():
            trainings[-1].step()
    assert all(training.iteration == 1 for training in trainings)
