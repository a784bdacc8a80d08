"""What the trainings of notebooks 02 and 03 give, measured for ``htdg.course.seeds``.

Both notebooks train while the reader watches, so their own figures differ from one processor to the
next. What the text says in numbers are the ranges of these figures over several seeds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from htdg.config import HTDGConfig
from htdg.course.draw_03 import turned_corner
from htdg.course.live import LivePlot
from htdg.datasets.samples import TEXTURES, texture_set
from htdg.detector import HTDGDetector
from htdg.io.images import load_image
from htdg.pyramid import resize
from htdg.sampling import generate, random_noise, reconstruction_noise
from htdg.training import freeze, noise_amplitudes, real_loss, start_scale
from htdg.transformations import transform_all

#: The settings of notebook 02 for a single scale of a texture.
TEXTURE = HTDGConfig.preset("tutorial", transformations="rotations", min_size=41, niter=30)
#: The settings of notebook 03.
COINS = HTDGConfig.preset(
    "tutorial", transformations="rotations", image_size=32, min_size=20, niter=40
)
#: The upper left corner of the patch that notebook 03 looks at.
CORNER = (4, 3)
#: Lengths of training whose effect on other coins is measured, iterations a scale.
LENGTHS = (20, 40, 80, 160)

#: Figures of one training: numbers, or lists of them.
Figures = dict[str, float | list[float]]


def texture_figures(seed: int) -> Figures:
    """The votes and the AUROC of notebook 02, where the seed is of crops, defects and training.

    For each texture, such as brick, ``training_vote_brick``, ``other_vote_brick`` and
    ``auroc_brick``.
    """
    figures: dict[str, object] = {}
    for texture in TEXTURES:
        sample = texture_set(texture, train=1, seed=seed)
        detector = HTDGDetector(replace(TEXTURE, seed=seed)).fit(sample.train[0], progress=False)
        scores = detector.anomaly_score(sample.test, defect_fraction=0.05)
        figures |= {
            f"training_vote_{texture}": detector.score_scales(sample.train).mean() / 4,
            f"other_vote_{texture}": detector.score_scales(sample.test[:20]).mean() / 4,
            f"auroc_{texture}": roc_auc_score(sample.labels, scores),
        }
    return _rounded(figures)


def _photographs() -> dict[str, np.ndarray]:
    """The images of notebook 03."""
    from skimage import data

    coins = data.coins()
    left, right = coins[:192, :192], coins[:192, 192:]
    return {"training": left, "other": right, "bricks": data.brick()[:240, :240]}


def _at_scale(photograph: np.ndarray, n: int) -> torch.Tensor:
    return resize(resize(load_image(photograph)[None], COINS.image_size), COINS.sides[n])


def coin_figures(seed: int) -> Figures:
    """The figures of notebook 03: those of ``_first_scale``, ``_pyramid`` and ``_longer``."""
    return _first_scale(seed) | _pyramid(seed) | _longer(seed)


def _first_scale(seed: int) -> Figures:
    """Scale 0, trained the plain way.

    ``d_first`` and ``d_last`` (real, generated) are D's losses in the first and the last iteration,
    ``d_lowest`` their minima, ``g_adversarial`` the least and the greatest loss of G, ``patch`` the
    probability of the true class of the patch at ``CORNER`` under each turn, ``apart`` and
    ``together`` the real loss with and without a forward pass of its own, and ``missing`` what the
    reconstruction misses at scale 1.
    """
    config = replace(COINS, fast=False, seed=seed)
    turns = config.resolve_transformations(coloured=False)
    photograph = _photographs()["training"]
    training = start_scale(config, turns, [], _at_scale(photograph, 0))
    while training.iteration < config.niter:
        training.step()
    history = {name: values.numpy() for name, values in training.history.items()}
    of_d = np.array([history["d_real"], history["d_fake"]])

    copies = training.real_copies[0]  # (4, 1, 3, 20, 20)
    with torch.no_grad():
        logits = copy.deepcopy(training.scale.discriminator)(copies.flatten(0, 1))
        corners = [turned_corner(CORNER, t.k, logits.shape[-1]) for t in turns]
        patch = [logits[m, :, r, c].softmax(0)[m].item() for m, (r, c) in enumerate(corners)]
        fake = training.scale.generator(
            training.draw_noise(), torch.zeros_like(training.real), training.index
        )
        fakes = transform_all(fake, turns, config.translation)
        d = copy.deepcopy(training.scale.discriminator)
        apart = real_loss(d, copies)
        log_p = d(torch.cat([copies, fakes]).flatten(0, 1)).log_softmax(1)  # (8, 5, 10, 10)
        together = -torch.stack([log_p[m, m] for m in range(4)]).mean()
    frozen = [freeze(training.scale)]
    sigma = noise_amplitudes(config, frozen, _at_scale(photograph, 1))
    figures: Mapping[str, object] = {
        "d_first": of_d[:, 0],
        "d_last": of_d[:, -1],
        "d_lowest": of_d.min(1),
        "g_adversarial": [history["g_adversarial"].min(), history["g_adversarial"].max()],
        "patch": patch,
        "apart": apart.item(),
        "together": together.item(),
        "missing": sigma.item() / config.noise_amplitude,
    }
    return _rounded(figures)


def _pyramid(seed: int) -> Figures:
    """The whole pyramid.

    ``d_real_starts`` is D's real loss in the first iteration of each scale, ``sigmas`` the
    amplitudes, and ``moves`` how much a sample of each scale changes (mean absolute difference)
    from the tenth iteration to the last. Of the finest discriminator on the training image:
    ``batch_right`` (real, generated) are the shares of patches that it names with the statistics of
    the batch, ``called_generated`` and ``generated_right`` the shares that it calls generated with
    running statistics, of real patches and of generated ones. ``right_training``, ``right_other``
    and ``right_bricks`` are what ``turns_right`` gives for three photographs. ``rebuilt`` is
    the mean absolute difference of the reconstruction from the training image.
    """
    config = replace(COINS, seed=seed)
    live = LivePlot(every=10)
    detector = HTDGDetector(config)
    detector.fit(_photographs()["training"], progress=False, callback=live)
    turns = detector.transformations_
    real = _at_scale(_photographs()["training"], 3)
    index = torch.tensor([0])
    sample = generate(
        detector.scales_, random_noise(index, torch.Generator().manual_seed(0)), index
    )[-1].clamp(-1, 1)
    rebuilt = generate(detector.scales_, reconstruction_noise(detector.scales_), index)[-1]

    d = detector.scales_[-1].discriminator
    in_training = copy.deepcopy(d).train()
    named = {}
    with torch.no_grad():
        for kind, image in (("real", real), ("generated", sample)):
            copies = transform_all(image, turns, config.translation).flatten(0, 1)
            named[kind] = [network(copies).argmax(1) for network in (in_training, d)]
    moments = {(m.scale, m.iteration): m.samples[-1] for m in live.moments}
    moves = [
        np.abs(moments[n, 10].astype(float) - moments[n, config.niter]).mean() for n in range(4)
    ]
    of_turns = torch.arange(4).view(-1, 1, 1)
    figures: dict[str, object] = {
        "d_real_starts": [live.history[n]["d_real"][0] for n in range(4)],
        "sigmas": [scale.sigma.item() for scale in detector.scales_],
        "moves": moves,
        "batch_right": [_share(named["real"][0] == of_turns), _share(named["generated"][0] == 4)],
        "called_generated": _share(named["real"][1] == 4),
        "generated_right": _share(named["generated"][1] == 4),
        "rebuilt": (rebuilt.clamp(-1, 1) - real).abs().mean().item(),
    }
    for name, photograph in _photographs().items():
        figures[f"right_{name}"] = turns_right(detector, photograph)
    return _rounded(figures)


def turns_right(detector: HTDGDetector, photograph: np.ndarray) -> list[float]:
    """The share of patches whose turn is named, among the turns alone, at each scale."""
    shares = []
    for n, scale in enumerate(detector.scales_):
        views = transform_all(_at_scale(photograph, n), detector.transformations_, "pixel")
        with torch.no_grad():
            named = scale.discriminator(views.flatten(0, 1))[:, :4].argmax(1)  # (4, h, w)
        shares.append(_share(named == torch.arange(4).view(-1, 1, 1)))
    return shares


def _longer(seed: int) -> Figures:
    """``other_after``: the mean over the scales of ``right_other`` after each of ``LENGTHS``."""
    photographs, shares = _photographs(), []
    for niter in LENGTHS:
        detector = HTDGDetector(replace(COINS, seed=seed, niter=niter))
        detector.fit(photographs["training"], progress=False)
        shares.append(np.mean(turns_right(detector, photographs["other"])))
    return _rounded({"other_after": shares})


def _share(which: torch.Tensor) -> float:
    return which.float().mean().item()


def _rounded(figures: Mapping[str, object]) -> Figures:
    return {name: np.round(np.asarray(value, float), 4).tolist() for name, value in figures.items()}


#: The trainings that are measured, by name.
TRAININGS: dict[str, Callable[[int], Figures]] = {
    "textures": texture_figures,
    "coins": coin_figures,
}
