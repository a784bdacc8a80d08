"""What each of two processes does in tests/test_sharing.py: ``torchrun -m tests.ranks_worker OUT``.

The first one writes what it finds into OUT; whether the others find the same is compared here.
"""

import sys
from pathlib import Path

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from htdg.config import HTDGConfig
from htdg.fast import losses
from htdg.fast.canvases import canvas_plan
from htdg.fast.ranks import RanksError, connected
from htdg.fast.sharing import SharingBackend
from htdg.networks import Discriminator, initialise
from htdg.sampling import freeze
from htdg.training import start_scale, train_scale
from htdg.transformations import CATALOGUE

CPU = torch.device("cpu")
TINY = HTDGConfig.preset("tiny", transformations="rgb54", translation="pixel", niter=2)
#: What is compared with one process: options, and how many training images.
TRAININGS = {
    "pixel": (TINY, 1),
    "stretched": (TINY.with_options(translation="stretched"), 1),
    "resampled": (TINY.with_options(translation="resampled", niter=1), 1),
    "three images": (TINY.with_options(transformations="grey42"), 3),
    "in chunks": (TINY.with_options(images_at_once=2), 3),
    "rotations": (TINY.with_options(transformations="rotations"), 2),
    "one class for real": (TINY.with_options(method="real_or_generated"), 1),
    "no generator": (TINY.with_options(method="no_generator"), 1),
}


def images(count, side, seed=3):
    """Blotches, in [-1, 1]."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, side, mode="bicubic").clamp(0, 1) * 2 - 1


def trained(config, count, make_backend, dtype=torch.float64):
    """Two scales after ``niter`` iterations: their weights, statistics and losses by name.

    In float64, so that only a mistake makes a difference.
    """
    catalogue = config.resolve_transformations(coloured=True)
    backend, scales, values = make_backend(config, catalogue, CPU), [], {}
    before = torch.get_default_dtype()
    canvas_plan.cache_clear()  # plans have numbers of the type that is the default
    torch.set_default_dtype(dtype)
    try:
        for n, side in enumerate((14, 18)):
            real = images(count, side).to(dtype)
            training = start_scale(config, catalogue, tuple(scales), real, backend)
            training.scale.discriminator.to(dtype)
            train_scale(training)
            for kind in ("generator", "discriminator"):
                states = getattr(training.scale, kind).state_dict()
                values |= {f"{n}.{kind}.{k}": v.clone() for k, v in states.items()}
            values |= {f"{n}.{k}": v.clone() for k, v in training.history.items()}
            scales.append(freeze(training.scale))
    finally:
        torch.set_default_dtype(before)
        canvas_plan.cache_clear()
    return values


def without_synchronised_statistics(ranks):
    """The weights of "pixel" if each process normalises by its own copies: what that would cost."""

    class Apart(SharingBackend):
        def real_loss(self, d, copies):
            return losses.real_loss(d, copies.sheets, copies.plan) * self._share(copies.plan)

        def generated_loss(self, d, copies):
            return losses.generated_loss(d, copies.sheets, copies.plan) * self._share(copies.plan)

    return trained(*TRAININGS["pixel"], lambda *of: Apart(*of, ranks))


def gradients_under_ddp(ranks):
    """D's gradients in this process, the same under DistributedDataParallel, and the mean's."""
    plan = canvas_plan(tuple(CATALOGUE), 14, "pixel", 5, CPU)
    sheets = plan.draw(images(1, 14, seed=ranks.rank))

    def gradients(wrap):
        d = Discriminator(4, len(CATALOGUE))
        initialise(d, torch.Generator().manual_seed(0))
        kept = wrap(d)  # its hooks end with it
        losses.real_loss(d, sheets, plan).backward()
        del kept
        return torch.cat([p.grad.flatten() for p in d.parameters()])

    own = gradients(lambda d: d)
    mean = ranks.sum(own.clone()) / ranks.size
    return {"own": own, "ddp": gradients(DistributedDataParallel), "mean": mean}


def main(out):
    with connected(CPU) as ranks:
        values = {
            name: trained(*training, lambda *of: SharingBackend(*of, ranks))
            for name, training in TRAININGS.items()
        }
        for of_training in values.values():
            for value in of_training.values():
                ours = value.double()
                assert ours.equal(ranks.sum(ours.clone()) / ranks.size)
        values["apart"] = without_synchronised_statistics(ranks)
        values["ddp"] = gradients_under_ddp(ranks)
        with pytest.raises(RanksError, match=r"2 processes .* differ in numbers \(\[5, 6\]\)"):
            ranks.check_same(5 + ranks.rank, "numbers")
        assert ranks.least(7 - ranks.rank) == 6
        if ranks.first:
            torch.save(values, Path(out) / "values.pt")


if __name__ == "__main__":
    main(sys.argv[1])
