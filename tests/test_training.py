"""Training: the losses against loops, who learns in which step, and repeatability.

All of it with the plain backend; ``test_backend`` compares the fast one with it.
"""

import math

import pytest
import torch

from htdg import HTDGConfig
from htdg.backend import PlainBackend
from htdg.losses import generated_loss, real_loss
from htdg.networks import Discriminator
from htdg.pyramid import resize
from htdg.runtime.progress import TrainingClock
from htdg.sampling import (
    Scale,
    freeze,
    generate,
    noise_amplitudes,
    reconstruction_noise,
)
from htdg.training import (
    ScaleTraining,
    learning_rates,
    start_scale,
    train_pyramid,
    train_scale,
)

CONFIG = HTDGConfig.preset("tiny", niter=4, precision="float32")
TRANSFORMATIONS = CONFIG.resolve_transformations(coloured=True)


def image(side=14, count=1, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, side, side, generator=rng) * 2 - 1


def fresh(config=CONFIG, coarser=(), side=14, count=1):
    return start_scale(config, TRANSFORMATIONS, list(coarser), image(side, count))


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def trained(config=CONFIG, count=1, sides=(14, 16)):
    scales = []
    for side in sides:
        training = fresh(config, scales, side, count)
        for _ in range(config.niter):
            training.step()
        scales.append(freeze(training.scale))
    return scales


def test_losses_equal_the_slow_version():
    d = Discriminator(4, 3).double().train()
    copies = torch.rand(3, 2, 3, 13, 13, dtype=torch.float64)
    logits = d(copies.flatten(0, 1))  # (6, 4, 3, 3), transformation by transformation
    on_real, on_fake, count = 0.0, 0.0, 0
    for m in range(3):
        for b in range(2):
            for i in range(3):
                for j in range(3):
                    e = [math.exp(v) for v in logits[m * 2 + b, :, i, j].tolist()]
                    on_real -= math.log(e[m] / sum(e))
                    on_fake -= math.log(e[3] / sum(e))
                    count += 1
    assert real_loss(d, copies).item() == pytest.approx(on_real / count, rel=1e-9)
    assert generated_loss(d, copies).item() == pytest.approx(on_fake / count, rel=1e-9)


def test_d_step_moves_d_only():
    training = fresh()
    g, d = weights(training.scale.generator), weights(training.scale.discriminator)
    training.d_step(training.draw_noise(), training.draw_previous(1)[0])
    assert torch.equal(weights(training.scale.generator), g)
    assert not torch.equal(weights(training.scale.discriminator), d)
    assert all(p.grad is None for p in training.scale.generator.parameters())


def test_g_step_moves_g_only_but_d_keeps_counting_its_statistics():
    training = fresh()
    g, d = weights(training.scale.generator), weights(training.scale.discriminator)
    statistics = training.scale.discriminator.blocks[0].norm.running_mean.clone()
    training.g_step(training.draw_noise(), training.draw_previous(1)[0])
    assert not torch.equal(weights(training.scale.generator), g)
    assert torch.equal(weights(training.scale.discriminator), d)
    assert all(p.grad is None for p in training.scale.discriminator.parameters())
    assert all(p.requires_grad for p in training.scale.discriminator.parameters())
    assert not torch.equal(training.scale.discriminator.blocks[0].norm.running_mean, statistics)


def test_g_is_pulled_to_the_image_with_weight_alpha():
    """The gradient of a G step is that of adversarial + alpha * reconstruction."""
    training = fresh()
    noise, previous = training.draw_noise(), training.draw_previous(1)[0]
    g, d = training.scale.generator, training.scale.discriminator
    fake_copies = training.backend.copies(g(noise, previous, training.index))
    adversarial = real_loss(d, fake_copies)
    rebuilt = g(training.rec_noise, training.rec_previous, training.index)
    loss = adversarial + CONFIG.alpha * ((rebuilt - training.real) ** 2).mean()
    expected = torch.autograd.grad(loss, list(g.parameters()))
    losses = training.g_step(noise, previous)
    for p, gradient in zip(g.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)
    assert losses["g_adversarial"].item() == pytest.approx(adversarial.item(), rel=1e-6)


def test_an_iteration_draws_its_noise_once_and_previous_for_each_d_step(monkeypatch):
    training = fresh(CONFIG.with_options(d_steps=2, g_steps=3))
    calls = []
    monkeypatch.setattr(training, "draw_noise", lambda: calls.append("noise") or "noise")
    monkeypatch.setattr(training, "draw_previous", lambda count: list(range(1, count + 1)))
    for kind in ("d", "g"):
        step = lambda noise, previous, kind=kind: calls.append((kind, noise, previous)) or {}  # noqa: E731
        monkeypatch.setattr(training, f"{kind}_step", step)
    training.step()
    assert calls == [
        "noise",
        ("d", "noise", 1),
        ("d", "noise", 2),
        *[("g", "noise", 2)] * 3,
    ]


def test_learning_rates_fall_after_their_milestones():
    config = HTDGConfig(milestone_d=2, milestone_g=3, gamma=0.1, lr_d=1e-3, lr_g=2e-3)
    rates = [learning_rates(config, i) for i in range(4)]
    assert [r[0] for r in rates] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])
    assert [r[1] for r in rates] == pytest.approx([2e-3, 2e-3, 2e-3, 2e-4])


def test_the_optimisers_get_these_learning_rates():
    training = fresh(CONFIG.with_options(milestone_d=1, milestone_g=2))
    seen = []
    for _ in range(3):
        training.step()
        seen.append([a.param_groups[0]["lr"] for a in (training.adam_d, training.adam_g)])
    assert seen == [pytest.approx(v) for v in ([5e-4, 5e-4], [5e-5, 5e-4], [5e-5, 5e-5])]


def test_noise_amplitudes():
    assert noise_amplitudes(CONFIG, [], image(count=2)).tolist() == [1, 1]
    scales = trained(count=2, sides=(14,))
    real = image(14, 2)
    rebuilt = generate(scales, reconstruction_noise(scales), torch.arange(2))[-1].clamp(-1, 1)
    for k, sigma in enumerate(noise_amplitudes(CONFIG, scales, real)):
        assert sigma.item() == pytest.approx(
            0.1 * (real - rebuilt)[k].abs().mean().item(), rel=1e-5
        )


def test_weights_pass_to_the_next_scale_where_the_widths_agree():
    (coarse,) = trained(sides=(14,))
    next_scale = fresh(coarser=[coarse], side=16).scale
    assert torch.equal(weights(next_scale.discriminator), weights(coarse.discriminator))
    assert torch.equal(weights(next_scale.generator), weights(coarse.generator))
    assert next_scale.generator.training
    assert all(p.requires_grad for p in next_scale.generator.parameters())
    # The fifth scale is twice as wide and starts afresh.
    fifth = start_scale(CONFIG, TRANSFORMATIONS, [coarse] * 4, image(16)).scale
    assert fifth.discriminator.tail.weight.shape[1] == 2 * coarse.discriminator.tail.weight.shape[1]


def test_training_a_scale_leaves_the_coarser_ones_alone():
    scales = trained(sides=(14,))
    before = {k: v.clone() for k, v in scales[0].generator.state_dict().items()}
    training = fresh(coarser=scales, side=16)
    training.step()
    for key, value in scales[0].generator.state_dict().items():
        assert torch.equal(value, before[key])


def test_one_seed_gives_one_result():
    first, again = trained(), trained()
    other = trained(CONFIG.with_options(seed=1))
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(weights(a.generator), weights(b.generator))
        assert torch.equal(weights(a.discriminator), weights(b.discriminator))
        assert torch.equal(a.z_star, b.z_star)
        assert not torch.equal(weights(a.discriminator), weights(c.discriminator))
        assert not torch.equal(a.z_star, c.z_star)


def test_training_learns():
    training = fresh(CONFIG.with_options(niter=25))
    for _ in range(25):
        training.step()
    history = training.history
    assert history["d_real"][-1] < 0.6 * history["d_real"][0]
    assert history["g_reconstruction"][-1] < 0.3 * history["g_reconstruction"][0]


def test_bf16_gives_nearly_the_same_losses():
    values = {}
    for precision in ("float32", "bf16"):
        training = fresh(CONFIG.with_options(precision=precision))
        training.step()
        values[precision] = [v[0].item() for v in training.history.values()]
        assert next(training.scale.generator.parameters()).dtype == torch.float32
    # After three steps of each: Adam's first ones turn the sign of a tiny gradient into a full one.
    assert values["bf16"] == pytest.approx(values["float32"], rel=0.1)
    assert values["bf16"] != values["float32"]


def test_history_has_an_entry_for_every_iteration():
    training: ScaleTraining = fresh()
    training.step()
    training.step()
    for values in training.history.values():
        assert (values[:2] > 0).all()
        assert (values[2:] == 0).all()


# --- One step at a time -------------------------------------------------------------------------


def test_losses_see_each_patch_for_itself():
    """In evaluation mode the batch is no matter: one copy at a time gives the same mean."""
    rng = torch.Generator().manual_seed(3)
    d = Discriminator(4, 3).double().eval()
    for p in d.parameters():
        p.data.mul_(3)
    copies = torch.rand(3, 2, 3, 13, 13, generator=rng, dtype=torch.float64)
    on_real, on_fake = [], []
    for m in range(3):
        for b in range(2):
            log_p = d(copies[m, b][None])[0].log_softmax(0)  # (4, 3, 3)
            on_real += (-log_p[m]).flatten().tolist()
            on_fake += (-log_p[3]).flatten().tolist()
    assert real_loss(d, copies).item() == pytest.approx(sum(on_real) / 54, rel=1e-9)
    assert generated_loss(d, copies).item() == pytest.approx(sum(on_fake) / 54, rel=1e-9)


def test_the_gradient_of_a_d_step_is_that_of_both_losses():
    """Real and generated patches have a forward pass each, hence batch statistics of their own."""
    training = fresh(count=2)
    noise, previous = training.draw_noise(), training.draw_previous(1)[0]
    g, d = training.scale.generator, training.scale.discriminator
    fake_copies = training.backend.copies(g(noise, previous, training.index).detach())
    (real_copies,) = training.real_copies
    on_real, on_fake = real_loss(d, real_copies), generated_loss(d, fake_copies)
    expected = torch.autograd.grad(on_real + on_fake, list(d.parameters()))
    losses = training.d_step(noise, previous)
    for p, gradient in zip(d.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)
    assert losses["d_real"].item() == pytest.approx(on_real.item(), rel=1e-6)
    assert losses["d_fake"].item() == pytest.approx(on_fake.item(), rel=1e-6)


def test_what_a_scale_in_training_starts_from():
    scales = trained(count=2, sides=(14,))
    training = fresh(coarser=scales, side=16, count=2)
    # z* in every colour, times each image's sigma; the frozen scales' reconstruction upsampled.
    for k, sigma in enumerate(training.scale.sigma):
        for colour in range(3):
            expected = sigma * training.scale.z_star[0, 0]
            torch.testing.assert_close(training.rec_noise[k, colour], expected)
    rebuilt = generate(scales, reconstruction_noise(scales), torch.arange(2))[-1]
    torch.testing.assert_close(training.rec_previous, resize(rebuilt, 16))
    (real_copies,) = training.real_copies  # one chunk holds both images
    assert real_copies.shape == (4, 2, 3, 16, 16)
    for m, t in enumerate(TRANSFORMATIONS):
        torch.testing.assert_close(real_copies[m], t.apply(training.real))


def test_random_draws_of_the_coarsest_scale():
    training = fresh(count=2)
    assert torch.equal(training.draw_previous(2), torch.zeros(2, 2, 3, 14, 14))
    first, second = training.draw_noise(), training.draw_noise()
    assert first.std().item() == pytest.approx(1, abs=0.1)  # sigma is 1
    assert torch.equal(first[:, 0], first[:, 2])  # grey
    assert not torch.equal(first, second)


def test_random_draws_of_a_finer_scale():
    training = fresh(coarser=trained(count=2, sides=(14,)), side=16, count=2)
    training.scale.sigma = torch.tensor([0.01, 0.5])
    first, second = training.draw_previous(2)
    assert first.shape == (2, 3, 16, 16)
    assert (first - second).abs().max() > 1e-3  # fresh noise below
    assert not first.requires_grad
    noise = training.draw_noise()
    assert noise[0].std().item() == pytest.approx(0.01, rel=0.1)
    assert noise[1].std().item() == pytest.approx(0.5, rel=0.1)
    assert not torch.equal(noise[:, 0], noise[:, 1])  # coloured


def test_noise_amplitudes_by_hand():
    def rebuild(noise, previous, index):
        return torch.full((2, 3, 4, 4), 0.25)

    coarse = Scale(4, rebuild, None, torch.zeros(1, 1, 4, 4), torch.ones(2))
    real = torch.full((2, 3, 6, 6), 0.25)
    real[0, :, :3] = 0.75  # half of it misses by 0.5
    real[1, 0] = -0.5  # a third of it by 0.75
    amplitudes = noise_amplitudes(CONFIG.with_options(noise_amplitude=0.2), [coarse], real)
    assert amplitudes.tolist() == pytest.approx([0.2 * 0.25, 0.2 * 0.25])
    assert noise_amplitudes(CONFIG, [coarse], real * 0 + 0.25).max() < 1e-7


def test_the_history_keeps_the_last_step_of_an_iteration(monkeypatch):
    training = fresh(CONFIG.with_options(d_steps=3, g_steps=2))
    count = {"d": 0, "g": 0}

    def step(kind, *names):
        def count_it(noise, previous):
            count[kind] += 1
            return {name: torch.tensor(float(count[kind])) for name in names}

        return count_it

    monkeypatch.setattr(training, "d_step", step("d", "d_real", "d_fake"))
    monkeypatch.setattr(training, "g_step", step("g", "g_adversarial", "g_reconstruction"))
    training.step()
    training.step()
    assert training.history["d_real"].tolist() == [3, 6, 0, 0]
    assert training.history["g_reconstruction"].tolist() == [2, 4, 0, 0]


# --- What a scale depends on --------------------------------------------------------------------


def test_the_random_stream_of_a_scale_does_not_depend_on_the_others():
    a = fresh(coarser=trained(sides=(14,)), side=16)
    b = fresh(coarser=trained(CONFIG.with_options(niter=1), sides=(14,)), side=16)
    assert not torch.equal(weights(a.scale.generator), weights(b.scale.generator))
    assert torch.equal(a.scale.z_star, b.scale.z_star)
    assert torch.equal(a.rng.get_state(), b.rng.get_state())
    # But every scale has another one, and so has every seed.
    finer = fresh(coarser=[a.scale] * 2, side=16)
    assert not torch.equal(finer.scale.z_star, a.scale.z_star)
    assert not torch.equal(finer.rng.get_state(), a.rng.get_state())
    other = fresh(CONFIG.with_options(seed=1), trained(sides=(14,)), side=16)
    assert not torch.equal(other.scale.z_star, a.scale.z_star)


def test_training_does_not_depend_on_the_random_state_of_the_process():
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        results.append(weights(trained(sides=(14,))[0].discriminator))
    assert torch.equal(*results)


def test_a_frozen_scale_never_changes_again():
    """Neither its weights nor its running statistics, in whatever finer training it is used."""
    scales = trained(sides=(14,))
    networks = (scales[0].generator, scales[0].discriminator)
    assert not any(network.training for network in networks)
    assert not any(p.requires_grad for network in networks for p in network.parameters())
    before = [{k: v.clone() for k, v in n.state_dict().items()} for n in networks]
    training = fresh(coarser=scales, side=16)
    started = weights(training.scale.generator)
    for _ in range(2):
        training.step()
    assert not torch.equal(weights(training.scale.generator), started)
    for network, old in zip(networks, before, strict=True):
        assert all(torch.equal(v, old[k]) for k, v in network.state_dict().items())


def test_a_wider_scale_starts_from_fresh_weights():
    (coarse,) = trained(sides=(14,))
    discriminators = [
        start_scale(CONFIG, TRANSFORMATIONS, [coarse] * n, image(16)).scale.discriminator
        for n in (3, 4)
    ]
    first_layers = [d.blocks[0].conv.weight for d in discriminators]
    assert torch.equal(first_layers[0], coarse.discriminator.blocks[0].conv.weight)
    assert first_layers[1].shape[0] == 16  # 8 * 2 ** (4 // 4)
    assert first_layers[1].std().item() == pytest.approx(0.02, rel=0.2)
    assert (discriminators[1].blocks[0].norm.running_mean == 0).all()


# --- Progress -----------------------------------------------------------------------------------


def test_the_clock_says_where_a_training_stands(monkeypatch):
    config = CONFIG.with_options(niter=3)
    seconds = iter(range(100))  # every iteration takes a second
    monkeypatch.setattr("htdg.runtime.progress.time.perf_counter", lambda: next(seconds))
    training = start_scale(config, TRANSFORMATIONS, [], image(14))
    clock, seen = TrainingClock(training, (14, 28)), []

    def after_iteration():
        progress = clock.progress()
        seen.append((progress, progress.losses()))

    train_scale(training, after_iteration)
    assert [p.iteration for p, _ in seen] == [1, 2, 3]
    for p, losses in seen:
        assert (p.scale, p.n_scales, p.side, p.niter) == (0, 2, 14, 3)
        assert p.training is training
        assert losses == {k: v[p.iteration - 1].item() for k, v in training.history.items()}
    assert [p.seconds for p, _ in seen] == [1, 2, 3]
    # 2, 1 and 0 iterations are left, and 3 of the next scale, which has four times the pixels.
    assert [p.seconds_left for p, _ in seen] == pytest.approx([14, 13, 12])


def test_the_clock_counts_from_where_a_training_goes_on(monkeypatch):
    training = start_scale(CONFIG, TRANSFORMATIONS, [], image(14))
    training.iteration = 2  # of 4, done before it was broken off
    seconds = iter(range(100))
    monkeypatch.setattr("htdg.runtime.progress.time.perf_counter", lambda: next(seconds))
    clock = TrainingClock(training, (14,))
    training.step()
    progress = clock.progress()
    assert (progress.iteration, progress.seconds, progress.seconds_left) == (3, 1, 1)


# --- Scales and the pyramid ---------------------------------------------------------------------


def test_a_scale_is_trained_to_its_last_iteration_and_no_further():
    training = fresh(CONFIG.with_options(niter=2))
    training.step()
    train_scale(training)
    assert training.iteration == 2
    done = weights(training.scale.generator)
    train_scale(training)
    assert torch.equal(weights(training.scale.generator), done)


def test_a_pyramid_is_trained_scale_by_scale():
    """Every scale is trained on its level, above those before it, and then frozen."""
    config, images, seen = CONFIG.with_options(niter=2), image(20, 2), []

    def train(training):
        assert not any(s.generator.training for s in training.coarser)
        assert training.scale.generator.training
        seen.append((training.real, len(training.coarser)))
        train_scale(training)

    backend = PlainBackend(config, TRANSFORMATIONS, images.device)
    pyramid = (config, TRANSFORMATIONS, images, (14, 17, 20), backend)
    scales = train_pyramid(*pyramid, train)
    assert [(real.shape[-1], below) for real, below in seen] == [(14, 0), (17, 1), (20, 2)]
    for real, _ in seen:
        torch.testing.assert_close(real, resize(images, real.shape[-1]))
    one_by_one = []
    for side in (14, 17, 20):
        training = start_scale(config, TRANSFORMATIONS, one_by_one, resize(images, side))
        train_scale(training)
        one_by_one.append(freeze(training.scale))
    for alike in (one_by_one, train_pyramid(*pyramid)):
        for scale, expected in zip(scales, alike, strict=True):
            assert not scale.discriminator.training
            assert torch.equal(weights(scale.discriminator), weights(expected.discriminator))
            assert torch.equal(weights(scale.generator), weights(expected.generator))
