"""What the benchmarks time: a training iteration, scoring, and the machine's own convolutions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch.nn import functional as F

from htdg import HTDGConfig, HTDGDetector
from htdg.fast.canvases import canvas_plan, canvases_of
from htdg.models import choose_backend
from htdg.pyramid import resize
from htdg.sampling import Scale
from htdg.state import ModelState
from htdg.training import ScaleTraining, freeze, start_scale


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    """The median time of ``repeats`` calls after one that warms up."""
    times = []
    for _ in range(repeats + 1):
        wait(device)
        started = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def iteration_seconds(
    config: HTDGConfig,
    device: torch.device,
    repeats: int,
    start: Callable[..., ScaleTraining] | None = None,
) -> list[float]:
    """The median seconds of an iteration at every scale, on one random image.

    ``start`` sets a scale up; by default with the backend that a detector would choose.
    """
    times = []
    for training in started_scales(config, device, start):
        if device.type == "cuda":
            training.step()  # the second iteration, of three steps a kind, records them
        times.append(median_seconds(training.step, repeats, device))
    return times


def started_scales(
    config: HTDGConfig, device: torch.device, start: Callable[..., ScaleTraining] | None = None
) -> Iterator[ScaleTraining]:
    """The training of one scale after another, each frozen before the next starts.

    It is on one random image; ``start`` is that of ``iteration_seconds``.
    """
    transformations = config.resolve_transformations(coloured=True)
    if start is None:
        start = partial(start_scale, backend=choose_backend(config, transformations, device))
    scales: list[Scale] = []
    for side in config.sides:
        real = torch.rand(1, 3, side, side, device=device) * 2 - 1
        training = start(config, transformations, scales, real)
        yield training
        scales.append(freeze(training.scale))


def untrained(config: HTDGConfig, device: torch.device) -> HTDGDetector:
    """A detector with fresh weights: scoring takes as long as with trained ones."""
    transformations, scales = config.resolve_transformations(coloured=True), []
    for n, side in enumerate(config.sides):
        real = torch.rand(1, 3, side, side, device=device) * 2 - 1
        wide = config.with_options(channels=config.width(n))
        scales.append(freeze(start_scale(wide, transformations, [], real).scale))
    model = ModelState(
        config=config.with_options(device=str(device)),
        sides=config.sides,
        transformations=transformations,
        scales=tuple(scales),
        images=torch.zeros(1, 3, config.image_size, config.image_size),
        image_names=("none",),
    )
    return HTDGDetector.from_model(model)


def scoring_ms(
    config: HTDGConfig,
    device: torch.device,
    images: int,
    straightforward: Callable[[Scale, list, str, torch.Tensor], float] | None = None,
) -> float:
    """Milliseconds an image, resizing included."""
    detector = untrained(config, device)
    batch = torch.rand(images, 3, config.image_size, config.image_size)

    def one_by_one() -> None:
        for image in batch:
            for scale in detector.scales_:
                small = resize(image[None] * 2 - 1, scale.side).to(device)
                straightforward(scale, detector.transformations_, config.translation, small)

    work = one_by_one if straightforward else lambda: detector.score_samples(batch)
    with torch.inference_mode():
        if images >= 100:  # long enough to need neither warming up nor a median
            detector.score_samples(batch[:8])
            started = time.perf_counter()
            work()
            return 1000 * (time.perf_counter() - started) / images
        return 1000 * median_seconds(work, 3, device) / images


def convolution_rate(width: int, precision: str, device: torch.device, images: int = 16) -> float:
    """Operations a second of one large 3 x 3 convolution, forward and backward together.

    ``images`` of 71 x 71 pixels go through it: a GPU needs more of them than a processor.
    """
    kind = torch.bfloat16 if precision == "bf16" else torch.float32

    def drawn(*shape: int) -> torch.Tensor:  # where it is used: a processor takes long for many
        noise = torch.randn(*shape, device=device)
        return noise.to(dtype=kind, memory_format=torch.channels_last)

    x = drawn(images, width, 71, 71).requires_grad_()
    w = drawn(width, width, 3, 3).requires_grad_()
    g = drawn(images, width, 69, 69)
    # Not ``backward``, which adds to the last gradients: memory passes, no convolution.
    seconds = median_seconds(lambda: torch.autograd.grad(F.conv2d(x, w), (x, w), g), 7, device)
    return 3 * 2 * 9 * width**2 * images * 69**2 / seconds


def iteration_operations(config: HTDGConfig, n: int) -> float:
    """Floating-point operations of D's convolutions over the smallest canvases, an iteration.

    G, which sees one image where D sees the copies of it, is left out.
    """
    transformations, side = config.resolve_transformations(True), config.sides[n]
    canvases = canvases_of(transformations, side, config.translation)
    width, classes = config.width(n), len(transformations) + 1
    channels = [3] + [width] * (config.layers - 1) + [classes]
    forward, first = 0.0, 0.0
    for layer in range(config.layers):
        positions = sum((c.height - 2 * layer - 2) * (c.width - 2 * layer - 2) for c in canvases)
        operations = 2 * 9 * channels[layer] * channels[layer + 1] * positions
        forward += operations
        first += operations if layer == 0 else 0
    # D steps: real and generated, each forward, to the weights, and to all inputs but the image.
    d_step = 2 * (3 * forward - first)
    return config.d_steps * d_step + config.g_steps * 2 * forward


def canvas_pixels(config: HTDGConfig, n: int) -> int:
    """Pixels of the canvases as they are computed."""
    shapes = (config.sides[n], config.translation, config.layers, torch.device("cpu"))
    return canvas_plan(config.resolve_transformations(True), *shapes).pixels
