"""Self-checks of notebook 03: losses, generator, noise, the order of the steps.

Paper sections 3.1 and 3.2, and supplementary material.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from htdg.config import HTDGConfig
from htdg.course.check import NOTHING, NotRight, check, expect, expect_own, kind_of
from htdg.networks import Generator, initialise

#: An answer of an exercise.
Answer = Callable[..., Any]


def _close(result: float | torch.Tensor, expected: float | torch.Tensor) -> bool:
    return torch.allclose(
        torch.as_tensor(result).double(), torch.as_tensor(expected).double(), rtol=1e-4, atol=1e-6
    )


def _tensor(result: object) -> torch.Tensor:
    """The result, which must be a tensor."""
    expect(result is not None, NOTHING)
    if not isinstance(result, torch.Tensor):
        raise NotRight(f"The function returns {kind_of(result)}, but it must return a tensor.")
    return result


# --- Exercise 1 ---------------------------------------------------------------------------------


@check
def check_clueless_loss(answer: Answer) -> str:
    """The loss of a D that gives every class the same probability."""
    for m in (4, 54):
        result = answer(m)
        expect(result is not None, NOTHING)
        result = float(result)
        mistakes = {
            -math.log(m + 1): "The sign is wrong: the logarithm of a probability is negative, and "
            "the loss is minus that.",
            math.log(m): f"That is log {m}, but there is one class more than transformations: "
            '"generated".',
            math.log2(m + 1): "That is in bits (logarithm to base 2); the losses here are in nats "
            "(natural logarithm).",
            math.log10(m + 1): "That is the logarithm to base 10; take the natural one.",
            1 / (m + 1): "That is the probability of the true class; the loss is minus its "
            "logarithm.",
            1 / m: "That is a probability, and of too few classes; the loss is minus the logarithm "
            "of 1 / (M + 1).",
        }
        for value, message in mistakes.items():
            expect(not math.isclose(result, value, abs_tol=5e-3), message)
        expect(
            math.isclose(result, math.log(m + 1), abs_tol=5e-3),
            f"For M = {m} you return {result:.3f}, which is not the loss of probabilities "
            f"1 / {m + 1}.",
        )
    return f"a D that knows nothing has loss log(M + 1), {math.log(5):.2f} for the four rotations"


# --- Exercise 2 ---------------------------------------------------------------------------------


def _wrong_cross_entropies(logits: torch.Tensor, true: torch.Tensor) -> dict[str, torch.Tensor]:
    """The results of typical mistakes, by the message about each."""
    b, _, h, w = logits.shape
    rows = torch.arange(b)
    true_log_p = F.log_softmax(logits, 1)[rows, true]  # (B, h, w), log p of the true class
    mean_probability, raw = true_log_p.exp().mean(), logits[rows, true]
    messages = {
        "That is the sum over all patches; the loss is their mean.": -true_log_p.sum(),
        "You average over the patches but add up the images: divide by their number, too.": -(
            true_log_p.sum() / (h * w)
        ),
        "You average over the images but add up their patches: divide by their number, too.": -(
            true_log_p.sum() / b
        ),
        "The sign is wrong: the loss is minus the logarithm.": true_log_p.mean(),
        "The logarithm is missing: you average the probabilities themselves.": mean_probability,
        "The logarithm is missing: you average the probabilities (with a minus).": (
            -mean_probability
        ),
        "That is one minus the probability; the loss is minus its logarithm.": 1 - mean_probability,
        "The logarithm comes before the mean: minus the mean of the logarithms, not minus the "
        "logarithm of the mean.": -mean_probability.log(),
        "You average the logits of the true class, but they are no probabilities yet: softmax "
        "first.": -raw.mean(),
        "That is in bits: take the natural logarithm.": -true_log_p.mean() / math.log(2),
    }
    for axis, name in ((0, "the images"), (2, "the rows of patches"), (3, "the patches of a row")):
        other = F.log_softmax(logits, axis)[rows, true]
        messages[
            f"Your softmax runs over axis {axis}, {name}; classes are axis 1, and over them the "
            "probabilities of a patch add up to 1."
        ] = -other.mean()
    of_mean = F.log_softmax(logits.mean((2, 3)), 1)[rows, true]
    messages[
        "You average the logits of an image's patches before the softmax: each patch has a loss of "
        "its own, and the losses are averaged."
    ] = -of_mean.mean()
    everywhere = F.log_softmax(logits, 1)
    one_hot = F.one_hot(true, logits.shape[1])[:, :, None, None]
    messages[
        "That is too small by the number of classes: you average over the classes, too, where all "
        "but the true one are 0. Add up over axis 1, then take the mean."
    ] = -true_log_p.mean() / logits.shape[1]
    messages[
        "You average over all classes, not only the true one of each image."
    ] = -everywhere.mean()
    messages[
        "You take the most probable class of each patch; the loss is about the true one, whatever "
        "D thinks of it."
    ] = -everywhere.max(1).values.mean()
    messages[
        "You apply softmax twice: log_softmax takes the logits themselves, not probabilities."
    ] = -everywhere.exp().log_softmax(1)[rows, true].mean()
    messages[
        "That is the share of patches that are named wrongly; it has no gradient, so take minus "
        "the logarithm of the probability of the true class."
    ] = (logits.argmax(1) != true.view(-1, 1, 1)).float().mean()
    squares = (one_hot - everywhere.exp()).square()
    for value in (squares.mean(), squares.sum(1).mean()):
        messages[
            f"That is a mean squared error ({value.item():.2f}); cross-entropy is minus the "
            "logarithm of the probability of the true class."
        ] = value
    messages["All images are given the class of the first one."] = -everywhere[:, true[0]].mean()
    pairs = -everywhere[:, true].mean()
    messages[
        "Each image is read at the true classes of all images: pair image b with true[b], as in "
        "log_p[torch.arange(B), true]."
    ] = pairs
    return messages


@check
def check_patch_cross_entropy(answer: Answer) -> str:
    """Minus the log-probability of the true class, averaged over images and patches."""
    expect_own(
        answer,
        {"cross_entropy", "nll_loss", "CrossEntropyLoss", "NLLLoss"},
        "pick the logarithms of the true classes and average them.",
    )
    rng = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(3, 5, 4, 6, generator=rng)
    true = torch.tensor([4, 0, 2])
    result = _tensor(answer(logits.clone(), true))
    expect(
        result.numel() == 1,
        f"The loss has the shape {tuple(result.shape)}, but it must be a single number: average "
        "over images and patches.",
    )
    result = result.reshape(())
    for message, value in _wrong_cross_entropies(logits, true).items():
        expect(not _close(result, value), message)
    expected = F.cross_entropy(logits, true.view(3, 1, 1).expand(3, 4, 6))
    expect(
        _close(result, expected),
        f"You return {result.item():.4f} where it must be {expected.item():.4f}.",
    )
    extreme = torch.tensor([2000.0, 0.0]).view(1, 2, 1, 1)
    expect(
        _close(answer(extreme, torch.tensor([1])), 2000.0),
        "Right for small logits, but for large ones exp overflows (or the logarithm of 0 is "
        "infinite): take log_softmax, or subtract the largest logit first.",
    )
    learning = logits.clone().requires_grad_()
    expect(
        answer(learning, true).requires_grad,
        "Nothing can be learnt from it: no gradient flows from the loss to the logits (is there a "
        ".item(), .detach() or no_grad?).",
    )
    return "this is the cross-entropy that PyTorch computes, gradient included"


# --- Exercise 3 ---------------------------------------------------------------------------------


@check
def check_true_classes(answer: Answer) -> str:
    """The class of every copy in the batch of M * B copies, transformation by transformation."""
    for m, b in ((3, 2), (4, 1)):
        real, fake = _tensor(answer(m, b, True)), _tensor(answer(m, b, False))
        for classes in (real, fake):
            expect(
                classes.shape == (m * b,),
                f"For M = {m} and B = {b} there are {m * b} copies, but you return the shape "
                f"{tuple(classes.shape)}.",
            )
            expect(
                not classes.dtype.is_floating_point,
                "The classes are floating point numbers; cross_entropy wants whole ones "
                "(dtype=torch.long).",
            )
        numbers = torch.arange(m)
        expected = numbers.repeat_interleave(b)
        expect(
            not torch.equal(real, expected + 1),
            "You count the classes from 1, as the formulas do; the indices of Python start at 0.",
        )
        expect(
            b == 1 or not torch.equal(real, numbers.repeat(b)),
            "The batch has all images under T_1 first, then all under T_2 ...: with two images "
            "0, 0, 1, 1, 2, 2. You have 0, 1, 2, 0, 1, 2.",
        )
        expect(
            torch.equal(real, expected),
            f"For real copies, M = {m}, B = {b}, you return {real.tolist()} instead of "
            f"{expected.tolist()}.",
        )
        expect(
            not torch.equal(fake, expected),
            "Generated copies are not to be named by their transformation: D must say "
            '"generated" of all of them.',
        )
        expect(
            not (fake == m - 1).all(),
            f"For generated copies you return {m - 1}, but that is the index of the last "
            'transformation: "generated" comes after it.',
        )
        expect(
            not (fake == m + 1).all(),
            f"There is no index {m + 1}: the {m + 1} classes have the indices 0 to {m}.",
        )
        expect(
            (fake == m).all(), f"For generated copies you return {fake.tolist()}, but all are {m}."
        )
    return 'copies under T_1 come first and have index 0, and "generated" has index M'


# --- Exercise 4 ---------------------------------------------------------------------------------


def _generator_output(
    g: Generator,
    noise: torch.Tensor,
    previous: torch.Tensor,
    index: torch.Tensor,
    mode: str = "constant",
    number_at_border: bool = True,
    index_first: bool = False,
    border: float = 0.0,
    padded_after: bool = False,
) -> torch.Tensor:
    """What the generator's tanh is applied to; the options make typical mistakes."""
    number = index.to(noise).view(-1, 1, 1, 1)
    x = noise + previous
    if padded_after:
        x = torch.cat([x, number.expand(-1, 1, *x.shape[-2:])], 1)
        return F.pad(g.body(x), [5] * 4)
    if number_at_border:
        x = F.pad(x, [5] * 4, mode=mode, value=border if mode == "constant" else None)
        parts = [x, number.expand(-1, 1, *x.shape[-2:])]
        x = torch.cat(parts[::-1] if index_first else parts, 1)
    else:
        x = F.pad(torch.cat([x, number.expand(-1, 1, *x.shape[-2:])], 1), [5] * 4)
    return g.body(x)


class _Unwritten(Generator):
    """A generator whose forward pass is still to be written."""

    def forward(self, *_: object) -> torch.Tensor:
        raise NotRight("You call g, the whole generator, which you are to write: use g.body.")


@check
def check_generate_image(answer: Answer) -> str:
    """tanh(body(pad(noise + previous), index)) + previous."""
    g = _Unwritten(4)
    rng = torch.Generator().manual_seed(5)
    initialise(g, rng)
    g.eval()
    with torch.no_grad():
        for module in g.blocks.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.mul_(10)  # so that every mistake shows
        g.tail.weight.mul_(5)
        noise, previous = (torch.rand(2, 3, 12, 14, generator=rng) * 2 - 1 for _ in range(2))
        index = torch.tensor([0, 1])
        result = _tensor(_generated(answer, g, noise, previous, index))
        expect(
            result.shape == noise.shape,
            f"The output has the shape {tuple(result.shape)} instead of {tuple(noise.shape)}: five "
            "convolutions without padding take 5 pixels off each side, so pad by 5 first.",
        )
        for message, value in _wrong_images(g, noise, previous, index).items():
            expect(not _close(result, value), message)
        expect(
            _close(result, Generator.forward(g, noise, previous, index)),
            "The shape is right, but the values are not those of "
            "tanh(body(padded input with its index)) + previous.",
        )
        expect(_unchanged(answer, g), "The function changes its arguments: work on new tensors.")
    image = answer(g, noise, previous, index)
    gradient = (
        image.requires_grad
        and torch.autograd.grad(image.square().sum(), g.tail.weight, allow_unused=True)[0]
    )
    expect(
        isinstance(gradient, torch.Tensor) and gradient.any(),
        "The image is right, but nothing can be learnt from it: no gradient flows from it to the "
        "weights of g (is there a no_grad, .detach() or .data?).",
    )
    return "your generator and the library's agree, pixel by pixel"


def _generated(answer: Answer, g: Generator, *arguments: torch.Tensor) -> object:
    """The answer's image, with PyTorch's errors about shapes explained."""
    try:
        return answer(g, *(argument.clone() for argument in arguments))
    except RuntimeError as error:
        complaint = str(error)
        expect(
            "channels" not in complaint,
            "The convolutions want four channels: three colours and one that holds the index of "
            "the training image. Use torch.cat(..., dim=1).",
        )
        expect(
            "except in dimension 0" not in complaint,
            "You put tensors together along axis 0, which counts the images; channels are axis 1: "
            "torch.cat(..., dim=1).",
        )
        expect(
            "got size 1 for tensor number 1" not in complaint,
            "The index channel is one pixel large: repeat it over the padded height and width "
            "(expand).",
        )
        expect(
            "must match the size" not in complaint and "Sizes of tensors" not in complaint,
            "Two tensors of different size meet. Five convolutions take 5 pixels off each side: "
            "pad by 5 what goes into them, give the index channel the padded size, and add "
            "previous as it is, without padding.",
        )
        raise


def _wrong_images(
    g: Generator, noise: torch.Tensor, previous: torch.Tensor, index: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The results of typical mistakes, by the message about each."""
    body = _generator_output(g, noise, previous, index)
    zeros = torch.zeros_like
    right = body.tanh() + previous

    def other(
        noise: torch.Tensor, previous_input: torch.Tensor, index: torch.Tensor, **options: Any
    ) -> torch.Tensor:
        return _generator_output(g, noise, previous_input, index, **options).tanh() + previous

    return {
        "The previous image is missing in the output: the convolutions only add detail to it.": (
            body.tanh()
        ),
        "The tanh is missing around what the convolutions give.": body + previous,
        "The previous image is added before the tanh: tanh(body) + previous, not tanh(body + "
        "previous).": (body + previous).tanh(),
        "You add the noisy image at the end; add previous without the noise.": right + noise,
        "You add the noise at the end; what is added is previous.": body.tanh() + noise,
        "The tanh is around everything: it belongs around the convolutions alone, and previous is "
        "added to it.": right.tanh(),
        "You subtract the previous image at the end; add it.": body.tanh() - previous,
        "You cut the image off to [-1, 1], but here the sum may leave that range.": right.clamp(
            -1, 1
        ),
        "That is a sigmoid, which lies in [0, 1]; tanh lies in [-1, 1].": body.sigmoid() + previous,
        "The noise is not in the input: pad noise + previous.": other(
            zeros(noise), previous, index
        ),
        "You multiply the noise by 0.1, but it is already multiplied by sigma: use it as it is.": (
            other(0.1 * noise, previous, index)
        ),
        "The input is noise + previous, not a difference.": other(noise, -previous, index),
        "The noise is subtracted in the input: pad noise + previous.": other(
            -noise, previous, index
        ),
        "The previous image is not in the input: pad noise + previous.": other(
            noise, zeros(previous), index
        ),
        "The index channel is the same for all images: image b has index[b] everywhere.": other(
            noise, previous, zeros(index)
        ),
        "The index channel is the same for all images, that of the last one: image b has index[b] "
        "everywhere.": other(noise, previous, 0 * index + index[-1]),
        "The index channel is counted from 1: use index as it is.": other(
            noise, previous, index + 1
        ),
        "The index is divided by the number of images: use it as it is.": other(
            noise, previous, index / len(index)
        ),
        "The index channel comes last, after the three colours.": (
            _generator_output(g, noise, previous, index, index_first=True).tanh() + previous
        ),
        "The border is filled with ones; fill it with zeros.": (
            _generator_output(g, noise, previous, index, border=1.0).tanh() + previous
        ),
        "You pad what comes out of the convolutions; pad what goes in.": (
            _generator_output(g, noise, previous, index, padded_after=True).tanh() + previous
        ),
        "The index channel is zero at the padded border: pad first, then add the channel.": other(
            noise, previous, index, number_at_border=False
        ),
        "You pad by reflection; here the border is filled with zeros.": other(
            noise, previous, index, mode="reflect"
        ),
        "You pad by repeating the edge; here the border is filled with zeros.": other(
            noise, previous, index, mode="replicate"
        ),
    }


def _unchanged(answer: Answer, g: Generator) -> bool:
    """Whether the answer leaves its arguments as they are."""
    noise = torch.ones(1, 3, 12, 12)
    previous, index = 0.5 * noise, torch.tensor([1])
    before = [t.clone() for t in (noise, previous, index)]
    answer(g, noise, previous, index)
    return all(map(torch.equal, before, (noise, previous, index)))


# --- Exercise 5 ---------------------------------------------------------------------------------


@check
def check_noise_amplitude(answer: Answer) -> str:
    """sigma_n = factor * mean |real - rebuilt|, one for each image."""
    rng = torch.Generator().manual_seed(7)
    real = torch.rand(3, 3, 9, 8, generator=rng) * 2 - 1
    rebuilt = real + 0.3 * torch.randn(real.shape, generator=rng)
    rebuilt[1] = real[1] + 0.5 * (rebuilt[1] - real[1])  # one that is rebuilt better
    difference = real - rebuilt
    absolute = difference.abs().mean((1, 2, 3))
    root_mean_square = difference.square().mean((1, 2, 3)).sqrt()
    for factor in (0.1, 0.25):
        result = _tensor(answer(real.clone(), rebuilt.clone(), factor))
        expect(
            result.numel() != 1,
            "You return one number, but each of the K training images has a sigma of its own: "
            "average over axes 1, 2 and 3.",
        )
        expect(
            result.shape == (3,),
            f"The shape is {tuple(result.shape)}, but it must be (3,), one sigma for each of the "
            "three images.",
        )
        mistakes = {
            "The factor is missing: sigma is only a tenth (factor) of what is missing.": absolute,
            "That is 0.1 whatever the factor is: use the argument.": 0.1 * absolute,
            "That is the root of the mean square; here it is the mean of the absolute "
            "differences.": factor * root_mean_square,
            "That is the root of the mean square, and the factor is missing.": root_mean_square,
            "You average the squares; here it is the absolute differences.": factor
            * root_mean_square**2,
            "Without absolute values positive and negative differences cancel.": factor
            * difference.mean((1, 2, 3)),
            "Absolute values must be taken before the mean, not after it.": factor
            * difference.mean((1, 2, 3)).abs(),
            "You add up the pixels; take their mean.": factor * difference.abs().sum((1, 2, 3)),
            "You divide by the factor; multiply by it.": absolute / factor,
        }
        if factor == 0.1:
            del mistakes["That is 0.1 whatever the factor is: use the argument."]
        for message, value in mistakes.items():
            expect(not _close(result, value), message)
        expect(
            _close(result, factor * absolute),
            "The shape is right, but the values are not factor * mean |real - rebuilt|.",
        )
    return "each image gets a tenth of what its reconstruction still misses"


# --- Exercise 6 ---------------------------------------------------------------------------------


class _StepRecorder:
    """Stands in for a ScaleTraining and records the steps that are made with it."""

    def __init__(self, d_steps: int, g_steps: int) -> None:
        self.config = HTDGConfig.preset("tiny", d_steps=d_steps, g_steps=g_steps)
        self.steps: list[tuple[str, float, float]] = []  # kind, noise, previous
        self.noises: list[float] = []
        self.previous: list[float] = []

    def draw_noise(self) -> torch.Tensor:
        self.noises.append(len(self.noises) + 1.0)
        return torch.full((1, 3, 14, 14), self.noises[-1])

    def draw_previous(self, count: int) -> torch.Tensor:
        new = [100.0 + len(self.previous) + i for i in range(count)]
        self.previous += new
        return torch.tensor(new).view(-1, 1, 1, 1, 1).expand(-1, 1, 3, 14, 14)

    def step(self) -> None:
        raise NotRight(
            "training.step() is the library's iteration, which you are to write: use draw_noise, "
            "draw_previous, d_step and g_step."
        )

    def d_step(self, noise: torch.Tensor, previous: torch.Tensor) -> dict[str, torch.Tensor]:
        return self._record("D", noise, previous)

    def g_step(self, noise: torch.Tensor, previous: torch.Tensor) -> dict[str, torch.Tensor]:
        return self._record("G", noise, previous)

    def _record(
        self, kind: str, noise: torch.Tensor, previous: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        for name, value, drawn in (
            ("noise", noise, self.noises),
            ("previous", previous, self.previous),
        ):
            expect(
                isinstance(value, torch.Tensor) and value.shape == (1, 3, 14, 14),
                f"A {kind} step takes a single {name} of shape (K, 3, H, H); draw_previous(count) "
                "gives count of them, (count, K, 3, H, H): take one, previous[i].",
            )
            expect(
                float(value.flatten()[0]) in drawn,
                f"The {name} of a {kind} step does not come from draw_{name} (is the order of the "
                "arguments noise, previous?).",
            )
        self.steps.append((kind, float(noise.flatten()[0]), float(previous.flatten()[0])))
        return {}


@check
def check_iteration(answer: Answer) -> str:
    """All D steps, then all G steps; one noise; a new ``previous`` for each D step."""
    for d_steps, g_steps in ((3, 3), (2, 4)):
        recorder = _StepRecorder(d_steps, g_steps)
        answer(recorder)
        kinds = [kind for kind, _, _ in recorder.steps]
        count = f"{kinds.count('D')} D steps and {kinds.count('G')} G steps"
        expect(kinds, "Nothing is trained: call training.d_step and training.g_step.")
        expect(
            (d_steps, g_steps) == (3, 3) or (kinds.count("D"), kinds.count("G")) != (3, 3),
            "You always make three steps; take the numbers from training.config.d_steps and "
            "training.config.g_steps.",
        )
        expect(
            (kinds.count("D"), kinds.count("G")) == (d_steps, g_steps),
            f"You make {count}, but the configuration asks for {d_steps} and {g_steps}.",
        )
        expect(
            kinds == ["D"] * d_steps + ["G"] * g_steps,
            f"The order is {' '.join(kinds)}, but first come all the D steps, then all the G "
            "steps.",
        )
        expect(
            len({noise for _, noise, _ in recorder.steps}) == 1,
            "The noise changes between the steps; it is drawn once, and all steps of an iteration "
            "use the same.",
        )
        of_d = [previous for kind, _, previous in recorder.steps if kind == "D"]
        of_g = [previous for kind, _, previous in recorder.steps if kind == "G"]
        expect(
            len(set(of_d)) == d_steps,
            "The D steps share a previous image; each D step needs a new one, or D sees the same "
            "fake again.",
        )
        expect(
            len(set(of_g)) == 1,
            "The G steps use several previous images; they all reuse that of the last D step.",
        )
        expect(
            set(of_g) == {of_d[-1]},
            "The G steps must reuse the previous image of the *last* D step.",
        )
    return "all D steps, then all G steps, one noise for all, and a new previous for each D step"
