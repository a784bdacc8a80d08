"""A live view of a training: losses and samples, redrawn in place while the scales are trained.

    detector = HTDGDetector(config).fit(images, progress=False, callback=LivePlot())

In a notebook one figure is replaced again and again, and the saved notebook keeps only its last
state. Elsewhere nothing is drawn, but ``moments`` and ``figure`` can still be used.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from htdg.course.show import png
from htdg.evaluation.plots import ANOMALOUS, NORMAL, OTHERS, show_image
from htdg.io.images import to_uint8
from htdg.runtime.progress import TrainingProgress, clock, suitable_look
from htdg.sampling import generate, random_noise

#: The losses that are drawn: key, label, colour, style.
LINES = (
    ("d_real", "D, real patches", NORMAL, "-"),
    ("d_fake", "D, generated patches", ANOMALOUS, "--"),
    ("g_adversarial", "G, adversarial", OTHERS[0], ":"),
)
#: The figure is drawn no more often than this, so that drawing does not slow the training down.
SECONDS_BETWEEN = 0.5


@dataclass
class Moment:
    """The state of a training after an iteration.

    Attributes:
        scale: number of the scale in training.
        iteration: number of its iterations done.
        real: (H, W, 3) uint8, the first training image at this scale.
        samples: a random sample at every scale so far, coarsest first, uint8 (H, W, 3), always of
            the same noise, so that only the generators change it; empty without generators.
        title: text above the figure.
        left: the time left at that moment, as text; shown only during training.
    """

    scale: int
    iteration: int
    real: np.ndarray
    samples: list[np.ndarray]
    title: str
    left: str


class LivePlot:
    """Draws the losses and a row of samples during training; a callback for ``fit``.

    It does not influence the training: the weights are the same, bit for bit, without it.

    Attributes:
        every: iterations from one moment to the next; the last iteration of a scale is always one.
        seed: of the noise of the samples.
        moments: all moments so far, in order.
        history: the losses of every scale so far, one value an iteration.
        n_scales: number of scales of the model.
        niter: number of iterations of every scale.
    """

    def __init__(self, every: int = 5, seed: int = 0) -> None:
        """Look at the training after every ``every`` iterations; ``seed`` is of the samples."""
        if not isinstance(every, Integral) or isinstance(every, bool) or every < 1:
            raise ValueError(f"every is {every!r}, but it must be a whole number, at least 1.")
        self.every: int = int(every)
        self.seed: int = seed
        self.n_scales: int = 0
        self.niter: int = 0
        self._begin()

    def _begin(self) -> None:
        self.moments: list[Moment] = []
        self.history: dict[int, dict[str, np.ndarray]] = {}
        self._handle: Any = None
        self._drawn = -np.inf

    def __call__(self, state: TrainingProgress) -> None:
        """Take a moment, if it is time, and redraw the figure."""
        if self.moments:
            last = self.moments[-1]
            if (state.scale, state.iteration) <= (last.scale, last.iteration):
                self._begin()  # another training
        last_iteration = state.iteration == state.niter
        if state.iteration % self.every and not last_iteration:
            return
        self.n_scales, self.niter = state.n_scales, state.niter
        self.history[state.scale] = {
            name: values[: state.iteration].cpu().numpy().copy()
            for name, values in state.training.history.items()
        }
        self.moments.append(moment_of(state, self.seed))
        finished = last_iteration and state.scale + 1 == state.n_scales
        if finished or time.monotonic() - self._drawn >= SECONDS_BETWEEN:
            self._show()

    def figure(self, moment: int = -1) -> Figure:
        """The losses up to a moment, by default the last, above the samples of that moment.

        Raises:
            IndexError: there is no such moment.
        """
        chosen = self.moments[moment]
        history = {n: losses for n, losses in self.history.items() if n < chosen.scale}
        history[chosen.scale] = {
            name: values[: chosen.iteration] for name, values in self.history[chosen.scale].items()
        }
        drawn = [key for key, *_ in LINES]
        # Over all moments, so that the axes are the same in every figure.
        maxima = [
            values.max()
            for losses in self.history.values()
            for key, values in losses.items()
            if key in drawn
        ]
        return live_figure(
            chosen, history, self.n_scales, self.niter, float(max(maxima, default=1))
        )

    def _show(self) -> None:
        if suitable_look() != "notebook":
            return
        from IPython.display import display

        alt = f"{self.moments[-1].title}: losses at each scale, and a sample of each scale so far"
        figure = self.figure()
        if self.moments[-1].left:
            figure.suptitle(f"{self.moments[-1].title}, {self.moments[-1].left}", fontsize=10)
        content = {"image/png": png(figure), "text/plain": alt}
        metadata = {"image/png": {"alt": alt}}
        if self._handle is None:
            self._handle = display(content, display_id=True, raw=True, metadata=metadata)
        else:
            self._handle.update(content, raw=True, metadata=metadata)
        self._drawn = time.monotonic()


def moment_of(state: TrainingProgress, seed: int) -> Moment:
    """The state of a training, which is not influenced by it."""
    title = (
        f"scale {state.scale} of 0 to {state.n_scales - 1} ({state.side} px), "
        f"iteration {state.iteration} of {state.niter}"
    )
    left = f"{clock(state.seconds_left)} left"
    if state.iteration == state.niter and state.scale + 1 == state.n_scales:
        title = f"{state.n_scales} scales of {state.niter} iterations trained"
        left = ""
    real = to_uint8(state.training.real[:1])[0]
    return Moment(state.scale, state.iteration, real, samples_of(state, seed), title, left)


@torch.no_grad()
def samples_of(state: TrainingProgress, seed: int) -> list[np.ndarray]:
    """One random sample at every scale up to the one in training, uint8 (H, W, 3).

    The generator in training is copied, because a pass in training mode would change its running
    statistics; and the noise has a source of its own, because the training's would give other noise
    afterwards.
    """
    training = state.training
    if training.config.method == "no_generator":
        return []
    current = replace(training.scale, generator=copy.deepcopy(training.scale.generator).eval())
    index = training.index[:1]
    rng = torch.Generator(training.real.device).manual_seed(seed)
    images = generate([*training.chain, current], random_noise(index, rng), index)
    return [to_uint8(image)[0] for image in images]


def live_figure(
    moment: Moment,
    history: Mapping[int, Mapping[str, np.ndarray]],
    n_scales: int,
    niter: int,
    highest: float,
) -> Figure:
    """The losses of the scales so far, up to ``highest``, above the moment's images.

    Scales to come have empty places, so that nothing moves when they are filled.
    """
    figure = Figure(figsize=(1.9 * n_scales + 1.0, 4.3), layout="constrained")
    figure.suptitle(moment.title, fontsize=10)
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.35, 1))[:, 0]
    axes = above.subplots(1, n_scales, sharey=True, squeeze=False)[0]
    for n, ax in enumerate(axes):
        _draw_losses(ax, history.get(n, {}), niter, highest)
        ax.set_title(f"scale {n}", fontsize=9)
    axes[0].set_ylabel("cross-entropy (nats)")
    # Lines without points, so that the legend is complete, and stays in place, from the start.
    handles = [axes[0].plot([], [], style, color=colour)[0] for _, _, colour, style in LINES]
    labels = [label for _, label, _, _ in LINES]
    above.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    _draw_images(below.subplots(1, n_scales + 1, squeeze=False)[0], moment)
    return figure


def _draw_losses(ax: Axes, losses: Mapping[str, np.ndarray], niter: int, highest: float) -> None:
    for key, _, colour, style in LINES:
        if key in losses:
            iterations = np.arange(1, len(losses[key]) + 1)
            ax.plot(iterations, losses[key], style, color=colour, linewidth=1.2)
    ax.set_xlim(0, niter + 1)
    ax.set_ylim(0, highest * 1.05)
    ax.set_xlabel("iteration")


def _draw_images(axes: Sequence[Axes], moment: Moment) -> None:
    show_image(axes[0], moment.real, "training image")
    for n, ax in enumerate(axes[1:]):
        if n < len(moment.samples):
            sample = moment.samples[n]
            show_image(ax, sample, f"sample, scale {n}\n{sample.shape[1]} px")
        else:
            ax.axis("off")
