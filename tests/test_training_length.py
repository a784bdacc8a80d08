"""What the benchmark of lengths and precisions says of its runs."""

import numpy as np

from benchmarks import training_length
from benchmarks.training_length import first_near, length_rows, plan, precision_rows, with_error


def run_of(votes, both=0.9, aupro=0.8, seconds=1.0):
    return {
        "kinds": {
            "votes": {"image_auroc": votes},
            "both": {"image_auroc": both, "aupro": aupro, "seconds": seconds},
        }
    }


def means(*pairs):
    return {
        niter: {"both image_auroc": auroc, "both aupro": aupro}
        for niter, (auroc, aupro) in zip((1, 5, 15), pairs, strict=True)
    }


def test_the_first_length_from_which_on_both_metrics_stay_near_the_end():
    assert first_near(means((0.9, 0.8), (0.9, 0.8), (0.905, 0.8))) == 1
    assert first_near(means((0.9, 0.8), (0.92, 0.8), (0.905, 0.8))) == 15  # left it again
    assert first_near(means((0.9, 0.7), (0.9, 0.795), (0.905, 0.8))) == 5  # AUPRO came later


def test_rows_of_lengths_are_means_over_draws():
    runs = {
        f"length bottle {draw} {niter}": run_of(0.5 + 0.1 * draw, both, 0.8, niter / 10)
        for draw in (0, 1, 2)
        for niter, both in zip(training_length.ITERATIONS, (0.8, *[0.9] * 5), strict=True)
    }
    rows = length_rows(runs)
    assert [row[1] for row in rows] == ["1", "5 *", "15", "30", "60", "120"]
    assert rows[0] == ["bottle", "1", "0.1", "0.600", "0.800", "0.800"]
    del runs["length bottle 1 15"]
    assert length_rows(runs) == []  # no mean over fewer draws than it says


def test_precisions_are_compared_in_pairs():
    runs = {}
    for draw, (one, other) in enumerate([(0.8, 0.82), (0.9, 0.9), (0.7, 0.71)]):
        runs[f"precision brick {draw} float32"] = run_of(one)
        runs[f"precision brick {draw} bf16"] = run_of(other)
    runs["precision brick 3 float32"] = run_of(0.1)  # without its pair
    brick, every = precision_rows(runs)
    # Differences 0.02, 0 and 0.01: deviation 0.01, divided by the root of 3.
    assert brick[:5] == ["brick", "3", "0.800", "0.810", "+0.010 ± 0.006"]
    assert brick[5:] == ["0.900", "0.900", "+0.000 ± 0.000"]
    assert every[:2] == ["all", "3"]
    assert every[4] == "+0.010 ± 0.006"


def test_of_one_pair_there_is_no_error():
    assert with_error(np.array([0.25])) == "+0.250"


def test_pairs_differ_in_precision_alone():
    planned = [entry for entry in plan() if entry[0].startswith("precision")]
    assert len(planned) == 2 * 5 * 5
    for one, other in zip(planned[::2], planned[1::2], strict=True):
        assert one[1:3] == other[1:3]
        assert {one[3].pop("precision"), other[3].pop("precision")} == {"float32", "bf16"}
        assert one[3] == other[3] == {}
