"""What choosing the training images is worth: ``python -m benchmarks.typical --data-root data``.

Of twelve normal images of every set, one and three train: all of them in turn, which is what chance
has on average, or the most typical ones (``htdg.typical``), as ``htdg inspect --shots N`` does.
Patch distances alone, so that minutes suffice; three draws of the twelve; at most 200 test images.
Every run is kept in ``typical.json`` as soon as it is done. Writes its part of
``benchmarks/README.md`` and prints it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks.detection import CASES, Case, test_samples
from benchmarks.kept import keep_and_report
from benchmarks.quality import commit
from benchmarks.studies import table
from htdg import HTDGDetector
from htdg.datasets import load_dataset
from htdg.evaluation.run import TestImages
from htdg.typical import scores_by_others

FILE = Path(__file__).parent / "typical.json"
TITLE = "Which images train"
CANDIDATES, SHOTS, DRAWS, MOST = 12, (1, 3), (0, 1, 2), 200


def perform(case: Case, draw: int, data_root: Path) -> dict[str, Any]:
    """The image AUROC of what chance trains on, and of the most typical images, by the shots."""
    dataset = load_dataset(case.dataset, data_root / case.folder)
    n = min(CANDIDATES, len(dataset.training_pool(case.normal_class)))
    images, names = dataset.training_images(case.normal_class, n, seed=draw)
    samples = test_samples(case, dataset, names, MOST)
    labels = [entry.label for entry in samples.entries]
    test_images = list(TestImages(samples, equalised=False))
    detector = HTDGDetector(case.preset, seed=draw, evidence="distance")
    order = np.argsort(scores_by_others(images, detector.resolved_config(), case.fraction))

    def auroc(numbers: Sequence[int]) -> float:
        detector.fit([images[i] for i in numbers], progress=False)
        return float(roc_auc_score(labels, detector.anomaly_score(test_images, case.fraction)))

    result: dict[str, Any] = {"set": case.group, "commit": commit(), "images": n}
    for shots in SHOTS:
        by_chance = [auroc(range(i, i + shots)) for i in range(0, n - shots + 1, shots)]
        result[str(shots)] = {"chance": by_chance, "typical": auroc(order[:shots].tolist())}
    return result


def page(kept: dict[str, Any]) -> str:
    """The part of the README, a row for each set."""
    of_set: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in kept["runs"].values():
        of_set[run["set"]].append(run)
    rows = []
    gains: dict[int, list[float]] = defaultdict(list)
    for name, runs in of_set.items():
        row = [name, str(len(runs))]
        for shots in SHOTS:
            figures = [run[str(shots)] for run in runs]
            chance = float(np.mean([np.mean(f["chance"]) for f in figures]))
            worst = float(np.mean([np.min(f["chance"]) for f in figures]))
            typical = float(np.mean([f["typical"] for f in figures]))
            gains[shots].append(typical - chance)
            row += [f"{chance:.3f}", f"{worst:.3f}", f"{typical:.3f}", f"{typical - chance:+.3f}"]
        rows.append(row)
    means = [f"{np.mean(gains[shots]):+.3f}" for shots in SHOTS]
    rows.append(["mean", "", "", "", "", means[0], "", "", "", means[1]])
    heads = ["set", "runs"]
    for shots in SHOTS:
        heads += [f"{shots}: chance", "worst", "most typical", "gain"]
    return (
        f"{kept['machine']}. Image AUROC with patch distances alone; of twelve normal images (ten "
        "of the textures) one or three train: by chance (the mean over all, or over all threes one "
        "after another), the worst of these, and the most typical. Means over runs, which are "
        "draws of the twelve, and over the classes of a set. "
        "`python -m benchmarks.typical --data-root data`\n\n"
    ) + "\n".join(table(heads, rows))


def main() -> None:
    """Run what is missing and write the page."""
    keep_and_report(
        "What choosing the training images is worth.",
        FILE,
        TITLE,
        lambda data_root: (
            (f"{case.name} {draw}", partial(perform, case, draw, data_root))
            for case in CASES
            for draw in (DRAWS if case.dataset != "textures" else DRAWS[:1])  # they have ten
        ),
        page,
    )


if __name__ == "__main__":
    main()
