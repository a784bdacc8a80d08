"""Self-checks of notebook 08, the method from scratch: each function against the library's.

Notebook 08 keeps a scale as a plain object ``s`` with plain ``nn.Sequential`` networks, and its
options as a plain object ``o``. ``as_state`` and ``as_scale`` translate between them and ours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from htdg.backend import PlainBackend
from htdg.config import HTDGConfig
from htdg.course.check import NOTHING, NotRight, check, expect, kind_of
from htdg.localisation import anomaly_map, pixel_votes
from htdg.losses import generated_loss, real_loss
from htdg.networks import ConvBlock, Discriminator, Generator, PatchNetwork, initialise
from htdg.pyramid import pyramid_sides, resize
from htdg.sampling import (
    Scale,
    empty_scale,
    freeze,
    generate,
    random_noise,
    reconstruction_noise,
    upsampled,
)
from htdg.training import LOSSES, ScaleTraining, start_scale
from htdg.transformations import CATALOGUE, Transformation, as_rows, transform_all
from htdg.votes import aggregate_votes

#: An answer of an exercise.
Answer = Callable[..., Any]

#: What the options of the method are called in ``HTDGConfig``; those of the notebook are the same.
OPTIONS = (
    *("image_size", "min_size", "max_size", "scale_factor", "translation", "channels", "niter"),
    *("d_steps", "g_steps", "lr_d", "lr_g", "beta1", "beta2", "milestone_d", "milestone_g"),
    *("gamma", "alpha", "noise_amplitude", "seed"),
)


# --- Between the notebook's objects and the library's ---------------------------------------------


def as_config(o: SimpleNamespace) -> HTDGConfig:
    """The library's options for those of the notebook."""
    options = {name: getattr(o, name) for name in OPTIONS}
    rows = tuple(tuple(row) for row in o.transformations)
    return HTDGConfig(
        **options, transformations=rows, precision="float32", device="cpu", fast=False
    )


def as_options(config: HTDGConfig) -> SimpleNamespace:
    """The notebook's options for those of the library."""
    rows = as_rows(config.resolve_transformations(coloured=True))
    options = {name: getattr(config, name) for name in OPTIONS}
    return SimpleNamespace(**options, transformations=[tuple(row) for row in rows])


def as_sequential(network: PatchNetwork) -> nn.Sequential:
    """The layers of a network, the same ones, one after another."""
    blocks = [block for block in network.blocks if isinstance(block, ConvBlock)]
    return nn.Sequential(*(layer for block in blocks for layer in block), network.tail)


def as_scale(s: SimpleNamespace, o: SimpleNamespace) -> Scale:
    """The library's scale with the weights and the noise of the notebook's, frozen."""
    shots = len(s.sigma)
    scale = empty_scale(as_config(o), s.n, s.side, len(o.transformations), shots)
    for network, layers in ((scale.generator, s.g), (scale.discriminator, s.d)):
        values = layers.state_dict().values()
        network.load_state_dict(dict(zip(network.state_dict(), values, strict=True)))
    scale.z_star, scale.sigma = s.z_star, s.sigma
    return freeze(scale)


def as_state(training: ScaleTraining, coarser: Sequence[SimpleNamespace] = ()) -> SimpleNamespace:
    """The notebook's object for a scale in training; networks and optimisers are the same ones."""
    scale = training.scale
    return SimpleNamespace(
        n=len(training.coarser),
        side=scale.side,
        width=scale.discriminator.tail.in_channels,
        coarser=tuple(coarser),
        g=as_sequential(scale.generator),
        d=as_sequential(scale.discriminator),
        z_star=scale.z_star,
        sigma=scale.sigma,
        real=training.real,
        copies=training.real_copies[0],
        index=training.index,
        previous_star=training.rec_previous,
        adam_d=training.adam_d,
        adam_g=training.adam_g,
        rng=training.rng,
        iteration=training.iteration,
    )


@contextmanager
def double_precision() -> Iterator[None]:
    """Makes new tensors float64 meanwhile, so that two trainings stay together.

    In float32 the gradient of a bias before BatchNorm is nothing but rounding error, of which Adam
    makes full steps; in float64 it is far below Adam's epsilon.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# --- What the checks look at ------------------------------------------------------------------


def _config(**options: Any) -> HTDGConfig:
    """A model of 14, 16, 18 and 20 pixels that is quick to train."""
    small: dict[str, Any] = {"channels": 8, "seed": 5, "niter": 1, "translation": "pixel"}
    return HTDGConfig.preset("tiny", **small | {"fast": False, "device": "cpu"} | options)


def _images(side: int, count: int = 2, seed: int = 0) -> torch.Tensor:
    """Smooth colourful images (count, 3, side, side) in [-1, 1]."""
    rng = torch.Generator().manual_seed(seed)
    return resize(torch.rand(count, 3, 6, 6, generator=rng) * 2 - 1, side)


def _training(config: HTDGConfig, coarser: Sequence[Scale] = ()) -> ScaleTraining:
    """The next scale of a small model, about to be trained on two images."""
    transformations = config.resolve_transformations(coloured=True)
    real = _images(config.sides[len(coarser)])
    return start_scale(config, transformations, tuple(coarser), real)


def _two_scales(config: HTDGConfig) -> tuple[list[SimpleNamespace], ScaleTraining]:
    """Scale 0 after an iteration, frozen, as the notebook has it, and scale 1 before its first."""
    first = _training(config)
    first.step()
    with torch.no_grad():
        first.scale.generator.tail.weight *= 20  # so that its images differ much
    freeze(first.scale)
    return [as_state(first)], _training(config, [first.scale])


def _tensor(result: object, shape: Sequence[int], name: str = "The result") -> torch.Tensor:
    """The result, which must be a tensor of this shape."""
    expect(result is not None, NOTHING)
    if not isinstance(result, torch.Tensor):
        raise NotRight(f"{name} is {kind_of(result)}, but it must be a tensor.")
    expect(
        tuple(result.shape) == tuple(shape),
        f"{name} has the shape {tuple(result.shape)}, but it must be {tuple(shape)}.",
    )
    return result.detach()


def _close(one: torch.Tensor, other: torch.Tensor, tolerance: float = 1e-4) -> bool:
    return torch.allclose(one.float(), other.float(), atol=tolerance, rtol=0, equal_nan=True)


def _attributes(s: object, names: Sequence[str]) -> None:
    """Refuse an object for a scale that lacks something."""
    for name in names:
        expect(hasattr(s, name), f"The object that you return has no s.{name}.")


# --- 1: the pyramid -------------------------------------------------------------------------------


@check
def check_sides(answer: Answer) -> str:
    """Rules P3 to P5."""
    cases = [(128, 25, 64, 0.75), (28, 25, 64, 0.75), (64, 27, 64, 0.75), (25, 25, 64, 0.75)]
    cases += [(450, 25, 64, 0.75), (30, 28, 64, 0.98), (64, 25, 64, 0.98)]
    for case in cases:
        result = answer(*case)
        expect(result is not None, NOTHING)
        sides, expected = [*result], [*pyramid_sides(*case)]
        expect(
            sides != [26, 32, 41, 51, 64],
            "The sides are 26 and 41 where they must be 25 and 40: round to nine decimals before "
            "you round up (P5).",
        )
        expect(
            len(set(sides)) == len(sides),
            f"For {case} you have two scales of one side, {sides}: keep one of them (P5).",
        )
        expect(
            sides == expected or case != (64, 25, 64, 0.98),
            f"For {case} N is levels - cut = 48: P5 allows at most ceil(t * log(t / m)), here 61.",
        )
        expect(sides == expected, f"For {case} you return {sides}, but they are {expected}.")
    return "your sides are those of the specification"


# --- 2 and 3: transformations --------------------------------------------------------------------


@check
def check_shift(answer: Answer) -> str:
    """Rules T3, T4 and T7, along the last axis."""
    images = _images(20)
    for translation in ("pixel", "resampled"):
        for t in (0, 1, -1):
            result = _tensor(answer(images.clone(), t, translation), images.shape)
            wanted, opposite, down = (
                Transformation(0, 0, tx, ty, 0).apply(images, translation)
                for tx, ty in ((t, 0), (-t, 0), (0, t))
            )
            if t:
                expect(
                    not _close(result, opposite), "The content moves the wrong way: t = 1 is right."
                )
                expect(not _close(result, down), "The content moves down: move the last axis.")
            by_pixels = Transformation(0, 0, t, 0, 0).apply(images, "pixel")
            expect(
                translation == "pixel" or t == 0 or not _close(result, by_pixels),
                "With 'resampled' you move by whole pixels, but the distance is h n / (n - 1), and "
                "pixels are interpolated (T4).",
            )
            inner = slice(4, -4)
            expect(
                not _close(result[..., inner], wanted[..., inner]) or _close(result, wanted),
                "In the middle it is right, but not at the border: what comes in is the "
                "reflection, edge pixel repeated.",
            )
            expect(
                _close(result, wanted),
                f"With t = {t} and {translation!r} the values are not those of the library.",
            )
    return "content moves by whole pixels and between them"


@check
def check_transform(answer: Answer) -> str:
    """Rules T1 to T7: all 54."""
    images = _images(20)
    for translation in ("pixel", "resampled"):
        for m, t in enumerate(CATALOGUE, start=1):
            row = tuple(as_rows([t])[0])
            result = _tensor(answer(images.clone(), row, translation), images.shape)
            expect(
                _close(result, t.apply(images, translation)),
                f"T_{m}, {row}, is wrong with {translation!r}: {t}. The order is flip, shift, "
                "turn, grey.",
            )
    return "all 54 copies are those of the library, in both modes"


# --- 4 to 6: networks and losses ------------------------------------------------------------------


@check
def check_network(answer: Answer) -> str:
    """Rules N1, N4, N5, N7 and the order of I10."""
    theirs: PatchNetwork
    for inputs, theirs in ((4, Generator(8)), (3, Discriminator(8, 4))):
        outputs = theirs.tail.out_channels
        result = answer(inputs, 8, outputs, torch.Generator().manual_seed(1))
        expect(result is not None, NOTHING)
        expect(isinstance(result, nn.Sequential), f"Return nn.Sequential, not {kind_of(result)}.")
        kinds = [type(layer).__name__ for layer in result]
        wanted = [type(layer).__name__ for layer in as_sequential(theirs)]
        expect(
            kinds == wanted, f"The layers must be {', '.join(wanted)}, but are {', '.join(kinds)}."
        )
        size = tuple(result(_images(15)[:, :1].expand(-1, inputs, -1, -1)).shape)
        expect(
            size == (2, outputs, 5, 5),
            f"15 x 15 pixels become {size[2:]} and {size[1]} channels, but must become (5, 5) and "
            f"{outputs}: kernels are 3 x 3, without padding.",
        )
        for layer in result:
            expect(
                getattr(layer, "negative_slope", 0.2) == 0.2, "The slope of LeakyReLU must be 0.2."
            )
            if isinstance(layer, nn.BatchNorm2d):
                expect(
                    (layer.weight != 1).any(),
                    "The weights of BatchNorm are all 1, but must be drawn from N(1, 0.02) (N5).",
                )
        initialise(theirs, torch.Generator().manual_seed(1))
        # Not in training mode, which hides what biases before BatchNorm do.
        named = as_sequential(theirs).named_parameters()
        for mine, (name, wanted_values) in zip(result.parameters(), named, strict=True):
            number, kind = name.split(".")
            expect(
                _close(mine.detach(), wanted_values, 1e-6),
                f"The {kind} of layer {number}, {kinds[int(number)]}, is the first that differs "
                "from the library's with the same random numbers: draw it from the distribution of "
                "N5, layer by layer and the weights before the biases (I10).",
            )
    return "layers and fresh weights are those of the library"


@check
def check_generate(answer: Answer) -> str:
    """Rules N7 and N8."""
    generator = Generator(8)  # in training mode: what it makes of fresh weights is larger
    initialise(generator, torch.Generator().manual_seed(2))
    noise, previous, index = _images(14, seed=1), _images(14, seed=2), torch.tensor([1, 0])
    with torch.no_grad():
        expected = generator(noise, previous, index)
        result = answer(as_sequential(generator), noise.clone(), previous.clone(), index)
        result = _tensor(result, expected.shape)
        expect(
            not _close(result + previous, expected),
            "prev is missing from the output: it is added after the tanh, too.",
        )
        expect(
            not _close(result, generator(noise, previous, torch.zeros(2))),
            "The number of the image makes no difference: the fourth channel holds index (N8).",
        )
        expect(
            _close(result, expected),
            "The images are not those of the library: noise + prev, 5 zeros around, the number as "
            "fourth channel, network, tanh, + prev (N7, N8).",
        )
    return "your generator's images are the library's"


@check
def check_patch_loss(answer: Answer) -> str:
    """Rules L1 and L2."""
    discriminator = Discriminator(8, 3)  # in training mode: logits of fresh weights differ more
    initialise(discriminator, torch.Generator().manual_seed(3))
    copies = torch.stack([_images(14, seed=seed) for seed in range(3)])  # (3, 2, 3, 14, 14)
    layers = as_sequential(discriminator)
    losses = {True: real_loss(discriminator, copies), False: generated_loss(discriminator, copies)}
    for real, expected in losses.items():
        result = answer(layers, copies.clone(), real)
        expect(result is not None, NOTHING)
        expect(
            isinstance(result, torch.Tensor) and result.requires_grad,
            "The loss has no gradient: return a tensor, without .item() or no_grad.",
        )
        result = _tensor(result, (), "The loss")
        expect(not _close(result, -expected, 1e-5), "The sign is wrong: it is minus the logarithm.")
        expect(
            not _close(result, losses[not real], 1e-5),
            "The two losses are exchanged, or both the same: look at the argument real.",
        )
        expect(
            _close(result, expected, 1e-5),
            f"With real = {real} you return {result.item():.4f}, but it is {expected.item():.4f}: "
            "the copies are one batch of M * K images, all images under T_1 first.",
        )
    return "both losses are those of the library"


# --- 7 to 12: training ---------------------------------------------------------------------------


@check
def check_climb(answer: Answer) -> str:
    """Rules S1 to S3."""
    states, second = _two_scales(_config())
    second.step()
    second.scale.sigma = torch.tensor([4.0, 0.5])  # far apart
    states.append(as_state(second, states))
    scales = [*second.coarser, freeze(second.scale)]
    index = torch.tensor([1, 0, 1])
    with torch.no_grad():
        empty = answer([], None, index, 14)
        expect(empty is not None, NOTHING)
        expect(
            not _tensor(empty, (3, 3, 14, 14)).any(),
            "Without any scale the result must be zeros: prev of scale 0.",
        )
        for name, fixed in (("fresh noise", False), ("z*", True)):
            streams = torch.Generator().manual_seed(4), torch.Generator().manual_seed(4)
            draw = reconstruction_noise(scales) if fixed else random_noise(index, streams[0])
            theirs = reconstruction_noise(scales) if fixed else random_noise(index, streams[1])
            images = generate(scales, theirs, index)
            expected = upsampled(images, 20, images[-1])
            result = _tensor(answer(states, draw, index, 20), expected.shape)
            expect(
                _close(result, expected),
                f"With {name} the images are not the library's: for each scale resize, multiply "
                "the noise by sigma[index], generate; at the end resize to side (S3).",
            )
    return "your way through the scales is the library's"


#: What ``start_scale`` puts into s.
_PARTS = ("g", "d", "z_star", "rng", "real", "copies", "index", "previous_star", "sigma")


@check
def check_start(answer: Answer) -> str:
    """Rules N2, N3, S2, S4, I4, I7 and I10."""
    config = _config(beta1=0.4, lr_d=1e-3)
    states, second = _two_scales(config)
    wide = config.with_options(channels=12)  # twice as many at scale 4 are more than image_size
    first = _two_scales(wide)
    fourfold = tuple(first[1].coarser) * 4  # so that the next one is scale 4
    transformations = wide.resolve_transformations(coloured=True)
    wider = start_scale(wide, transformations, fourfold, first[1].real)
    scales: list[tuple[HTDGConfig, tuple[SimpleNamespace, ...], ScaleTraining]] = [
        (config, (), _training(config)),
        (config, tuple(states), second),
        (wide, tuple(first[0] * 4), wider),
    ]
    for options, coarser, theirs in scales:
        try:
            s = answer(as_options(options), coarser, theirs.real.clone())
        except RuntimeError as error:
            expect(
                "size mismatch for" not in str(error),
                f"The weights of scale {len(coarser) - 1} do not fit scale {len(coarser)}: load "
                "them only if the two have the same width (I7).",
            )
            raise
        expect(s is not None, NOTHING)
        _attributes(s, (*_PARTS, "n", "side", "width", "coarser", "adam_d", "adam_g", "iteration"))
        n = len(coarser)
        wanted = as_state(theirs, coarser)
        for name in ("n", "side", "iteration"):
            value, right = getattr(s, name), getattr(wanted, name)
            expect(value == right, f"s.{name} of scale {n} is {value}, but it must be {right}.")
        expect(
            s.width == wanted.width,
            f"s.width of scale {n} is {s.width}, but with {options.channels} channels and an "
            f"image_size of {options.image_size} it must be {wanted.width} (N2, N3).",
        )
        carried = bool(coarser) and coarser[-1].width == wanted.width
        reason = (
            "they come from the coarser scale, statistics included"
            if carried
            else "they are fresh, G's drawn before D's"
        )
        for name in ("g", "d"):
            mine, right = getattr(s, name).state_dict(), getattr(wanted, name).state_dict()
            expect(
                [*map(tuple, (v.shape for v in mine.values()))]
                == [*map(tuple, (v.shape for v in right.values()))],
                f"The layers of s.{name} of scale {n} have other sizes than the library's: G has 4 "
                "channels in and 3 out, D has 3 in and M + 1 out, and between them are s.width "
                "(N4, N7).",
            )
            expect(
                all(_close(a, b, 1e-6) for a, b in zip(mine.values(), right.values(), strict=True)),
                f"The weights of s.{name} of scale {n} are wrong: {reason} (I7, I10).",
            )
        for name in ("z_star", "real", "copies", "index", "previous_star", "sigma"):
            right = getattr(wanted, name)
            result = _tensor(getattr(s, name), right.shape, f"s.{name}")
            expect(_close(result, right), f"s.{name} of scale {n} is wrong.")
        expect(
            torch.equal(s.rng.get_state(), wanted.rng.get_state()),
            "s.rng is not seeded as I10 says: with a whole number below 2 ** 62, drawn after z*.",
        )
        for name in ("adam_d", "adam_g"):
            mine, right = (getattr(x, name).param_groups[0] for x in (s, wanted))
            for key in ("lr", "betas", "eps", "weight_decay"):
                expect(
                    mine[key] == right[key],
                    f"s.{name} has {key} {mine[key]}, but it must be {right[key]} (I4).",
                )
        expect(
            {id(p) for p in s.adam_d.param_groups[0]["params"]} == {*map(id, s.d.parameters())},
            "s.adam_d must have the parameters of s.d.",
        )
    return "scales 0, 1 and 4 start as the library's do"


def _losses(result: object, count: int) -> torch.Tensor:
    """The losses that a step returns, as numbers."""
    expect(result is not None, NOTHING)
    values: list[Any] = [*result] if isinstance(result, (tuple, list)) else [result]
    expect(
        len(values) == count,
        f"Return {count} numbers, but you return {len(values)}.",
    )
    expect(
        not any(isinstance(value, torch.Tensor) and value.requires_grad for value in values),
        "Return the losses as numbers: loss.item(), or each of them keeps its whole graph.",
    )
    return torch.tensor([float(value) for value in values])


def _same_losses(result: torch.Tensor, expected: torch.Tensor, names: Sequence[str]) -> None:
    """Refuse other losses than the library's; ``names`` say what each of them is."""
    for mine, right, name in zip(result, expected, names, strict=True):
        expect(_close(mine, right), f"You return {mine:.4f}, but it must be {right:.4f}: {name}.")


def _with_old_gradients(network: nn.Module) -> None:
    """Leave gradients of an earlier step in the network, which a new step must set to zero."""
    for p in network.parameters():
        p.grad = torch.ones_like(p)


def _parameters(network: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def _steps(config: HTDGConfig) -> Iterator[tuple[ScaleTraining, ScaleTraining, SimpleNamespace]]:
    """A scale 0 and a scale 1 in training, each twice, and the notebook's object for the first."""
    states, second = _two_scales(config)
    for training, coarser in ((_training(config), []), (second, states)):
        mine = copy.deepcopy(training)
        yield training, mine, as_state(mine, coarser)


@check
@double_precision()
def check_d_step(answer: Answer) -> str:
    """Rules L3, L4 and I6."""
    config = _config()
    for theirs, mine, s in _steps(config):
        noise, previous = theirs.draw_noise(), theirs.draw_previous(1)[0]
        before = _parameters(mine.scale.generator)
        _with_old_gradients(mine.scale.discriminator)
        result = _losses(answer(s, noise, previous, as_options(config)), 2)
        named = theirs.d_step(noise, previous)
        expected = torch.stack([named["d_real"], named["d_fake"]])
        expect(not _close(result, expected.flip(0)), "The two losses are exchanged.")
        names = (
            "the first is the real loss, of s.copies",
            "the second is the generated loss, of the copies of G(noise, prev), whose noise is "
            "multiplied by sigma_n already",
        )
        _same_losses(result, expected, names)
        expect(torch.equal(before, _parameters(mine.scale.generator)), "G's weights have changed.")
        expect(
            all(p.grad is None for p in mine.scale.generator.parameters()),
            "A gradient has gone to G: make the generated images under torch.no_grad().",
        )
        _same_gradients(mine.scale.discriminator, theirs.scale.discriminator, "D")
        _same_statistics(mine.scale.discriminator, theirs.scale.discriminator, "D")
    return "losses, gradients and statistics are those of the library"


@check
@double_precision()
def check_g_step(answer: Answer) -> str:
    """Rules L5 and I6."""
    config = _config()
    for theirs, mine, s in _steps(config):
        noise, previous = theirs.draw_noise(), theirs.draw_previous(1)[0]
        before = _parameters(mine.scale.discriminator)
        _with_old_gradients(mine.scale.generator)
        result = _losses(answer(s, noise, previous, as_options(config)), 2)
        named = theirs.g_step(noise, previous)
        expected = torch.stack([named["g_adversarial"], named["g_reconstruction"]])
        expect(
            not _close(result, expected * torch.tensor([1, config.alpha])),
            "Return the reconstruction loss without alpha; only the sum that is minimised has it.",
        )
        names = (
            "the first is the adversarial loss, the real loss of the copies of G(noise, prev)",
            "the second is the mean squared difference of G(sigma_n z*, prev*) and s.real",
        )
        _same_losses(result, expected, names)
        expect(
            torch.equal(before, _parameters(mine.scale.discriminator)), "D's weights have changed."
        )
        expect(
            all(p.requires_grad for p in mine.scale.discriminator.parameters()),
            "D stays fixed after the step: let it learn again, requires_grad_(True).",
        )
        _same_gradients(mine.scale.generator, theirs.scale.generator, "G")
        _same_statistics(mine.scale.generator, theirs.scale.generator, "G")
        _same_statistics(mine.scale.discriminator, theirs.scale.discriminator, "D")
    return "losses, gradients and statistics are those of the library"


def _same_gradients(mine: nn.Module, theirs: nn.Module, name: str) -> None:
    """Refuse other gradients, or another step of Adam, than the library's."""
    gradients = []
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        if p.grad is None or q.grad is None:
            raise NotRight(f"{name} has no gradients: call backward().")
        gradients.append((p.grad, q.grad))
    largest = max(float(b.abs().max()) for _, b in gradients)
    expect(
        max(float((a - b).abs().max()) for a, b in gradients) < 1e-3 * largest,
        f"The losses are right, but {name}'s gradients are not: call zero_grad first, or those of "
        "the step before are added, and backward for everything that is minimised.",
    )
    moved = (_parameters(mine) - _parameters(theirs)).abs()
    expect(moved.max() < 1e-5, f"{name}'s weights have not moved as the library's: call step().")


def _same_statistics(mine: nn.Module, theirs: nn.Module, name: str) -> None:
    """Refuse other running statistics than the library's."""
    expect(
        all(_close(a, b, 1e-3) for a, b in zip(mine.buffers(), theirs.buffers(), strict=True)),
        f"{name}'s running statistics differ: each pass in training mode updates them once (I6).",
    )


@check
@double_precision()
def check_iteration(answer: Answer) -> str:
    """Rules I1, I2, I5 and the order of I10."""
    milestones = [{"milestone_d": 1}, {"milestone_g": 1}]
    for number, changes in enumerate([{"d_steps": 2}, *milestones]):
        before = min(number, 1)  # iterations that have been done
        config = _config(niter=2, **changes)
        for theirs, mine, s in _steps(config):
            n = len(theirs.coarser)
            theirs.iteration = s.iteration = before
            result = _losses(answer(s, as_options(config)), 4)
            theirs.step()
            expected = torch.stack([theirs.history[name][before] for name in LOSSES])
            expect(
                torch.equal(mine.rng.get_state(), theirs.rng.get_state()),
                f"At scale {n} other noise was drawn than the library's: first z, then prev of all "
                "D steps in one batch (I2, I10).",
            )
            rates = [adam.param_groups[0]["lr"] for adam in (s.adam_d, s.adam_g)]
            wanted = [adam.param_groups[0]["lr"] for adam in (theirs.adam_d, theirs.adam_g)]
            expect(
                np.allclose(rates, wanted, rtol=1e-6),
                f"The learning rates in iteration {before} are {rates}, but with milestones at "
                f"{config.milestone_d} and {config.milestone_g} they must be {wanted} (I5).",
            )
            expect(
                s.iteration == before + 1,
                f"s.iteration was {before} and is {s.iteration} after the iteration.",
            )
            expect(
                _close(result, expected),
                f"The losses of scale {n} are {_digits(result)}, but they must be "
                f"{_digits(expected)}: those of the last D step and the last G step.",
            )
    return "all steps, the right noise, the right learning rates"


def _digits(values: torch.Tensor) -> str:
    return ", ".join(f"{value:.4f}" for value in values.tolist())


@check
@double_precision()
def check_train(answer: Answer) -> str:
    """Rules P7, I1 and I8."""
    config = _config(niter=2, min_size=16)
    images = _images(config.image_size)
    scales = answer(as_options(config), images.clone())
    expect(scales is not None, NOTHING)
    sides = [s.side for s in scales]
    expect(sides == [*config.sides], f"The sides are {sides}, but they must be {[*config.sides]}.")
    theirs = start_scale(
        config, config.resolve_transformations(True), (), resize(images, config.sides[0])
    )
    for s in scales:
        expect(hasattr(s, "losses"), "A scale has no s.losses.")
        count = len(s.losses)
        expect(count == 2, f"There are {count} iterations at a scale, but niter is 2.")
        for network in (s.g, s.d):
            expect(not network.training, "A trained scale is not in evaluation mode (I8).")
            expect(
                not any(p.requires_grad for p in network.parameters()),
                "The weights of a trained scale are not fixed: requires_grad_(False) (I8).",
            )
    theirs.step()
    expected = torch.stack([theirs.history[name][0] for name in LOSSES])
    expect(
        _close(torch.tensor(scales[0].losses[0]), expected),
        "The first losses are not the library's: each scale is trained on the images at its side.",
    )
    wanted = [[n for n in range(m)] for m in range(len(scales))]
    numbers = [[lower.n for lower in s.coarser] for s in scales]
    expect(numbers == wanted, "Each scale must be given all coarser ones, and no others.")
    return "one scale after another, each frozen before the next"


# --- 13 to 16: votes and maps ---------------------------------------------------------------------


@check
def check_votes(answer: Answer) -> str:
    """Rules V1 and V2."""
    config = _config()
    (s,), second = _two_scales(config)
    images = _images(s.side, 3, seed=7)
    backend = PlainBackend(config, config.resolve_transformations(True), torch.device("cpu"))
    with torch.no_grad():
        expected = backend.voter(second.coarser[0])(images)
        result = _tensor(answer(s, images.clone(), as_options(config)), expected.shape)
    logits = second.coarser[0].discriminator(
        transform_all(images, config.resolve_transformations(True), "pixel").flatten(0, 1)
    )
    kept = logits.unflatten(0, (4, 3)).softmax(2)
    kept = torch.stack([kept[m, :, m] for m in range(4)])
    expect(
        not _close(result, kept, 1e-5),
        '"generated" has a say in your votes: softmax over the first M logits only (V2).',
    )
    expect(_close(result, expected, 1e-5), "The shape is right, but these are not the votes.")
    return "your votes are those of the library"


@check
def check_normality(answer: Answer) -> str:
    """Rules V3 to V5."""
    votes = torch.rand(4, 3, 7, 7, generator=torch.Generator().manual_seed(8))
    for fraction in (1.0, 0.1, 0.001):
        result = _tensor(answer(votes.clone(), fraction), (3,))
        expected = aggregate_votes(votes, fraction)
        expect(not result.isnan().any(), "There are NaN: at least one vote counts for each m (V5).")
        expect(not _close(4 * result, expected), "Add the means of the M transformations up (V3).")
        pooled = votes.transpose(0, 1).flatten(1).sort(1).values
        pooled = 4 * pooled[:, : max(1, int(fraction * pooled.shape[1]))].mean(1)
        expect(
            fraction == 1 or not _close(result, pooled),
            "The lowest votes are chosen from all transformations together, but each has its own.",
        )
        expect(
            _close(result, expected),
            f"With fraction {fraction} you return {_digits(result)}, but it must be "
            f"{_digits(expected)}.",
        )
    return "all votes or the lowest, and at least one"


@check
def check_undo(answer: Answer) -> str:
    """Rules M1 and M2."""
    side = 25
    votes = torch.rand(2, 15, 15, generator=torch.Generator().manual_seed(9))
    for translation in ("pixel", "resampled"):
        for m, t in enumerate(CATALOGUE, start=1):
            row = tuple(as_rows([t])[0])
            result = _tensor(answer(votes.clone(), row, side, translation), votes.shape)
            maps, defined = t.undo(votes, side, translation)
            expected = maps.masked_fill(~defined, torch.nan)
            expect(
                torch.equal(result.isnan(), expected.isnan()),
                f"T_{m}, {row}, with {translation!r}: NaN must stand where no vote counts, at "
                f"{int((~defined).sum())} of 225 places, and you have "
                f"{int(result[0].isnan().sum())} (M2).",
            )
            expect(
                _close(result, expected, 1e-5),
                f"T_{m}, {row}, with {translation!r}: votes are at a wrong place. Undo the last "
                "part first: turn by -k, shift back, flip (M1).",
            )
    return "every vote is back at its place, in both modes"


@check
def check_map(answer: Answer) -> str:
    """Rules M3 to M5."""
    config = _config(transformations="grey42", translation="resampled")
    o, transformations = as_options(config), config.resolve_transformations(True)
    rng = torch.Generator().manual_seed(10)
    sides, size = (25, 31), (40, 36)
    votes = [torch.rand(42, 2, side - 10, side - 10, generator=rng) for side in sides]
    result = _tensor(answer(votes, sides, size, o), (2, *size))
    pixels = [
        pixel_votes(of_scale, transformations, side, "resampled")
        for of_scale, side in zip(votes, sides, strict=True)
    ]
    expected = torch.stack([anomaly_map([p[i] for p in pixels], size) for i in range(2)])
    expect(not result.isnan().any(), "There are NaN: take the mean of those that are defined (M3).")
    expect(not _close(1 - result, expected), "High means anomalous: 1 - the mean vote (M5).")
    expect(_close(result, expected), "The map is not the library's: look at M3 to M5 one by one.")
    return "your map is the library's"
