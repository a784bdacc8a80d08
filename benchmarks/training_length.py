"""How long ``inspect`` must train, and what bf16 costs: ``python -m benchmarks.training_length``.

Two studies. *Length*: three sets with defects, trained for 1 to 120 iterations a scale, in three
draws: how soon image AUROC and AUPRO are within 0.01 of where they end. *Precision*: five sets and
five draws, each trained in float32 and in bf16 with everything else equal, compared in pairs. Every
run is kept in ``training_length.json`` as soon as it is done, so a stopped benchmark goes on where
it was. Writes its part of ``benchmarks/README.md`` and prints it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.detection import CASES, Case, perform
from benchmarks.kept import keep_and_report
from benchmarks.studies import table

FILE = Path(__file__).parent / "training_length.json"
TITLE = "Length of training and precision"
#: Iterations a scale; ``inspect`` has 30.
ITERATIONS, DRAWS = (1, 5, 15, 30, 60, 120), (0, 1, 2)
#: Draws of the pairs of float32 and bf16, with the presets' own iterations.
PAIRS = (0, 1, 2, 3, 4)
LENGTH_SETS = ("bottle", "brick", "grid")
PRECISION_SETS = (*LENGTH_SETS, "fashionmnist Sneaker", "cifar10 plane")
#: Columns of the second study.
COMPARED = ("float32", "bf16", "difference")
#: What counts as having arrived.
NEAR = 0.01
Runs = dict[str, dict[str, Any]]


def plan() -> Iterator[tuple[str, Case, int, dict[str, Any]]]:
    """(key, case, draw, options), draw by draw."""
    cases = {case.name: case for case in CASES}
    for draw in PAIRS:
        for name in PRECISION_SETS:
            for precision in ("float32", "bf16"):
                yield (
                    f"precision {name} {draw} {precision}",
                    cases[name],
                    draw,
                    {"precision": precision},
                )
    for draw in DRAWS:
        for name in LENGTH_SETS:
            for niter in ITERATIONS:
                options = {"niter": niter, "precision": "float32"}
                yield f"length {name} {draw} {niter}", cases[name], draw, options


# --- The page -----------------------------------------------------------------------------------


def length_rows(runs: Runs) -> list[list[str]]:
    """For each set a row a length: seconds of training and, of votes and both, the metrics."""
    rows = []
    for name in LENGTH_SETS:
        means = {niter: lengths_mean(runs, name, niter) for niter in ITERATIONS}
        if not all(means.values()):
            continue
        arrived = first_near(means)
        for niter, mean in means.items():
            cells = [
                name,
                str(niter) + (" *" if niter == arrived else ""),
                f"{mean['seconds']:.1f}",
            ]
            keys = ("votes image_auroc", "both image_auroc", "both aupro")
            rows.append(cells + [f"{mean[key]:.3f}" for key in keys])
    return rows


def lengths_mean(runs: Runs, name: str, niter: int) -> dict[str, float]:
    """Means over the draws of a set's runs of one length; empty if one is missing."""
    of_length = [runs.get(f"length {name} {draw} {niter}") for draw in DRAWS]
    if not all(of_length):
        return {}
    kinds = [run["kinds"] for run in of_length if run]
    result = {"seconds": float(np.mean([kind["both"]["seconds"] for kind in kinds]))}
    for kind, metric in (("votes", "image_auroc"), ("both", "image_auroc"), ("both", "aupro")):
        result[f"{kind} {metric}"] = float(np.mean([of_run[kind][metric] for of_run in kinds]))
    return result


def first_near(means: dict[int, dict[str, float]]) -> int:
    """The first length from which on AUROC and AUPRO of both are within 0.01 of the longest's."""
    keys = ("both image_auroc", "both aupro")
    longest = means[max(means)]
    arrived = max(means)
    for niter in sorted(means, reverse=True):
        if any(abs(means[niter][key] - longest[key]) > NEAR for key in keys):
            break
        arrived = niter
    return arrived


def precision_rows(runs: Runs) -> list[list[str]]:
    """For each set and all: float32, bf16, and the paired difference with its standard error."""
    differences: dict[str, list[float]] = defaultdict(list)
    rows = []
    for name in PRECISION_SETS:
        pairs = [
            tuple(runs.get(f"precision {name} {draw} {p}") for p in ("float32", "bf16"))
            for draw in PAIRS
        ]
        done = [(one, other) for one, other in pairs if one and other]
        if not done:
            continue
        row = [name, str(len(done))]
        for kind in ("votes", "both"):
            aurocs = np.array(
                [[run["kinds"][kind]["image_auroc"] for run in pair] for pair in done]
            )  # (draws, 2)
            differences[kind] += list(aurocs[:, 1] - aurocs[:, 0])
            row += [f"{mean:.3f}" for mean in aurocs.mean(0)]
            row.append(with_error(aurocs[:, 1] - aurocs[:, 0]))
        rows.append(row)
    if rows:
        votes, both = (with_error(np.array(differences[kind])) for kind in ("votes", "both"))
        rows.append(["all", str(len(differences["votes"])), "", "", votes, "", "", both])
    return rows


def with_error(values: np.ndarray) -> str:
    """The mean of (n,) and its standard error."""
    if len(values) < 2:
        return f"{values.mean():+.3f}"
    return f"{values.mean():+.3f} ± {values.std(ddof=1) / len(values) ** 0.5:.3f}"


def page(kept: dict[str, Any]) -> str:
    """The part of the README."""
    lengths = table(
        ["set", "iterations", "seconds", "votes, AUROC", "both, AUROC", "both, AUPRO"],
        length_rows(kept["runs"]),
    )
    precisions = table(
        ["set", "draws", *(f"{kind}, {of}" for kind in ("votes", "both") for of in COMPARED)],
        precision_rows(kept["runs"]),
    )
    return "\n".join(
        [
            f"{kept['machine']}, one thread, other work beside it. One-shot, all test images of",
            "sets with defects, 1,000 of the others, all with the presets of *Finding defects*.",
            "`python -m benchmarks.training_length --data-root data`",
            "",
            "### Length",
            "",
            f"Means over {len(DRAWS)} draws, float32. Seconds are the processor's, for training",
            "and the memory bank. The star: from here on image AUROC and AUPRO of both kinds of",
            f"evidence together stay within {NEAR} of those after {max(ITERATIONS)} iterations.",
            "",
            *lengths,
            "",
            "### Precision",
            "",
            "Image AUROC, and the difference between bf16 and float32 with everything else equal:",
            "mean ± standard error over draws; in the last row over all draws of all sets.",
            "",
            *precisions,
            "",
        ]
    )


def main() -> None:
    """Run what is missing and write the page."""
    torch.set_num_threads(1)  # times are the processor's
    keep_and_report(
        "How long to train, and what bf16 costs.",
        FILE,
        TITLE,
        lambda data_root: (
            (key, partial(perform, case, 1, draw, data_root, **changed))
            for key, case, draw, changed in plan()
        ),
        page,
    )


if __name__ == "__main__":
    main()
