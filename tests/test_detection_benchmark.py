"""The benchmark of detection: tables and targets by hand, resumption, and a run of its own."""

import argparse
import json

import pytest

from benchmarks import detection
from benchmarks.detection import CASES, Case, benchmark, perform, plan, run_missing
from benchmarks.detection_page import TARGETS, commit_lines, page, target_lines
from htdg.datasets import DatasetError
from htdg.training import ScaleTraining
from tests.small_sets import save

TINY = {"image_size": 20, "min_size": 14, "max_size": 20, "channels": 8, "niter": 1}
TINY |= {"distance_min_size": 14, "distance_max_size": 20}


def figures(image_auroc, **more):
    """What a kind of evidence reached, in words of the results."""
    return {"image_auroc": image_auroc, "average_precision": 0.5, "ms": 10.0, "seconds": 2.0} | more


def run(group, aurocs, *, name=None, draw=0, shots=1, alarms=None, **more):
    """A made-up run with these image AUROC of votes, distance and both; ``more`` is of both."""
    votes, distance, both = aurocs
    kinds = {
        "votes": figures(votes),
        "distance": figures(distance),
        "both": figures(both, **more),
        "mse": figures(0.4, ms=1.0, seconds=0.0),
    }
    return {
        "set": group,
        "class": name or group,
        "shots": shots,
        "draw": draw,
        "kinds": kinds,
        "false_alarms": alarms,
        "test_images": 40,
        "commit": "abc",
    }


def shown(*runs):
    return page({str(i): r for i, r in enumerate(runs)}, "a machine")


def test_the_figures_are_means_over_draws_with_the_least_and_the_greatest():
    text = shown(
        run("bottle", (0.80, 0.90, 0.94), pixel_auroc=0.9, aupro=0.80, ms=100.0, seconds=60.0),
        run("bottle", (0.70, 0.94, 0.98), draw=1, pixel_auroc=0.8, aupro=0.84, ms=200.0),
        run("bottle", (0.10, 0.10, 0.50), shots=5),
    )
    start = "| bottle | 1 | both | 2 | 0.960 (0.940 to 0.980) | 0.500 (0.500 to 0.500) "
    rest = "| 0.850 (0.800 to 0.900) | 0.820 (0.800 to 0.840) | 150 | 31.0 |\n"
    assert start + rest in text
    assert "| bottle | 1 | votes | 2 | 0.750 (0.700 to 0.800) | " in text
    assert "| bottle | 1 | distance (nearest patch) | 2 | 0.920 (0.900 to 0.940) | " in text
    assert "| bottle | 1 | mean squared error | 2 | 0.400 (0.400 to 0.400) | " in text
    assert "|  |  | 1 | 0.0 |\n" in text  # no maps were measured
    assert "| bottle | 5 | both | 1 | 0.500 | 0.500 |  |  | 10 | 2.0 |\n" in text


def test_of_several_classes_the_mean_is_taken_first():
    """Draw 0: (0.8 + 0.9) / 2 = 0.85; draw 1: (0.7 + 0.6) / 2 = 0.65; mean 0.75."""
    runs = [
        run("cifar10", (0.5, 0.5, 0.8), name="plane"),
        run("cifar10", (0.5, 0.5, 0.9), name="car"),
        run("cifar10", (0.5, 0.5, 0.7), name="plane", draw=1),
        run("cifar10", (0.5, 0.5, 0.6), name="car", draw=1),
    ]
    text = shown(*runs)
    assert "| cifar10 | 1 | both | 2 | 0.750 (0.650 to 0.850) | " in text
    assert "| cifar10 | plane | 1 | 0.500 | 0.500 | 0.750 | 0.400 |\n" in text
    assert "| cifar10 | car | 1 | 0.500 | 0.500 | 0.750 | 0.400 |\n" in text
    reached = "met, 0.750 (0.650 to 0.850), 2 classes, draws: 2"
    assert f"- cifar10, image AUROC at least 0.69: {reached}\n" in text


def test_targets_are_met_missed_or_were_not_run():
    alarms = {"held_out": 20, "normal": 20, "flagged": 2}
    lines = target_lines(
        [
            run("bottle", (0.8, 0.9, 0.96), pixel_auroc=0.919, aupro=0.80, alarms=alarms),
            run("bottle", (0.1, 0.1, 0.1), shots=5, alarms=alarms | {"flagged": 20}),
            run("grass", (0.7, 0.6, 0.69), alarms=alarms),
        ]
    )
    assert "- bottle, image AUROC at least 0.95: met, 0.960, draws: 1" in lines
    assert "- bottle, pixel AUROC at least 0.92: missed, 0.919, draws: 1" in lines
    assert "- bottle, AUPRO at least 0.80: met, 0.800, draws: 1" in lines
    assert "- brick, AUPRO at least 0.83: not run" in lines
    assert "- grass, image AUROC at least 0.70: missed, 0.690, draws: 1" in lines
    assert "- grass, both no worse than the better kind alone: missed, 0.690 and 0.700" in lines
    assert "- gravel, both no worse than the better kind alone: not run" in lines
    assert (
        "- bottle, false alarms at most 10%: met, 2 of 20, draws: 1, 0.100 (20 held out)" in lines
    )
    assert "- Sneaker, false alarms at most 10%: not run" in lines


def test_the_gain_is_over_all_classes_and_the_loss_of_the_worst_set():
    """Votes 2.4 / 4 = 0.6, distance 2.0 / 4 = 0.5, both 2.7 / 4 = 0.675: 0.075 above.

    Bottle loses 0.025 against its votes, and CIFAR10, whose classes count together, gains 0.02,
    though the class plane loses 0.04.
    """
    runs = [
        run("bottle", (0.9, 0.4, 0.875)),
        run("grid", (0.3, 0.6, 0.585)),
        run("cifar10", (0.7, 0.5, 0.66), name="plane"),
        run("cifar10", (0.5, 0.5, 0.58), name="car"),
    ]
    lines = target_lines(runs)
    detail = "+0.075 (both 0.675, votes 0.600, distance 0.500; 4 sets and classes)"
    assert f"- both at least 0.02 above the better kind on average: met, {detail}" in lines
    worst = "- both on no set more than 0.02 below its better kind: missed, worst bottle -0.025"
    assert worst in lines
    runs[0] = run("bottle", (0.9, 0.4, 0.885))
    assert any(line.endswith("kind: met, worst bottle -0.015") for line in target_lines(runs))
    runs[3] = run("cifar10", (0.5, 0.5, 0.30), name="car")
    lines = target_lines(runs)  # both 2.43 / 4 = 0.6075
    assert any("average: missed, +0.008 (both 0.608" in line for line in lines)
    assert any("worst cifar10 -0.120" in line for line in lines)


def test_each_draws_false_alarms_are_shown():
    """6 of 57 in two draws are more than a tenth, though one of them alone is not."""
    few = {"held_out": 20, "normal": 37, "flagged": 1}
    many = {"held_out": 12, "normal": 20, "flagged": 5}
    text = shown(run("grid", (0.5,) * 3, alarms=few), run("grid", (0.5,) * 3, draw=1, alarms=many))
    assert "| grid | 1 | 0 | 20 | 1 of 37 | 0.027 |\n" in text
    assert "| grid | 1 | 1 | 12 | 5 of 20 | 0.250 |\n" in text
    reached = "missed, 6 of 57, draws: 2, 0.105 (12 to 20 held out)"
    assert f"- grid, false alarms at most 10%: {reached}\n" in text


def test_published_figures_have_their_source():
    lines = shown(run("bottle", (0.5,) * 3)).splitlines()
    rows = [line for line in lines if "| PatchCore |" in line]
    figures = "0.834 ± 0.030 | 0.920 ± 0.010 | 0.797 ± 0.020 | arXiv 2303.14814, "
    assert len(rows) == 1
    assert figures in rows[0]


def test_the_plan_has_every_set_class_and_draw_once_and_defects_first():
    runs = list(plan(tuple(TARGETS), (1, 5), (0, 1, 2)))
    keys = [key for key, *_ in runs]
    assert len(set(keys)) == len(keys) == 26 * 2 * 3
    first = ["bottle 1 0", "brick 1 0", "grid 1 0", "magnetic_tile 1 0", "grass 1 0", "gravel 1 0"]
    assert keys[:7] == [*first, "bottle 1 1"]
    assert keys[18] == "fashionmnist T-shirt/top 1 0"
    assert {case.group for case in CASES} == set(TARGETS)
    assert [key for key, *_ in plan(("grid",), (5,), (7,))] == ["grid 5 7"]


def test_a_finished_run_is_not_repeated_and_a_missing_set_costs_no_other(
    monkeypatch, tmp_path, capsys
):
    calls = []

    def instead(case, shots, draw, data_root):
        calls.append((case.name, shots, draw))
        if case.name == "grid":
            raise DatasetError("There is no such set.")
        return run(case.group, (0.5, 0.5, 0.5), draw=draw)

    monkeypatch.setattr(detection, "perform", instead)
    file = tmp_path / "results.json"
    kept = {"machine": "", "runs": {"bottle 1 0": run("bottle", (0.9, 0.9, 0.9))}}

    def again(sets):
        return run_missing(kept, file, plan(sets, (1,), (0, 1)), tmp_path)

    assert not again(("bottle", "grid"))
    assert calls == [("grid", 1, 0), ("bottle", 1, 1), ("grid", 1, 1)]
    assert "grid 1 0: There is no such set." in capsys.readouterr().err
    kept = json.loads(file.read_text())
    assert list(kept["runs"]) == ["bottle 1 0", "bottle 1 1"]
    assert kept["runs"]["bottle 1 0"]["kinds"]["both"]["image_auroc"] == 0.9
    assert again(("bottle",))
    assert len(calls) == 3


@pytest.fixture
def small_folder(tmp_path):
    """4 good images to train on, and 2 good and 3 defective ones, all random."""
    root = tmp_path / "data" / "small"
    places = ["train/good"] * 4 + ["test/good"] * 2 + ["test/bent"] * 3
    for i, place in enumerate(places):
        save(root / place / f"{i:03}.png", i)
    for i in (6, 7):  # nothing says where the third is defective
        save(root / "ground_truth" / "bent" / f"{i:03}_mask.png", i)
    return tmp_path / "data"


def test_one_training_serves_all_kinds(monkeypatch, small_folder):
    step, steps = ScaleTraining.step, []

    def counted(training, *args):
        steps.append(training.scale.side)
        return step(training, *args)

    monkeypatch.setattr(ScaleTraining, "step", counted)
    case = Case("small", "folder", "good", folder="small", held_out=True)
    result = perform(case, 1, 3, small_folder, **TINY)
    assert steps == [14, 16, 18, 20]
    assert (result["set"], result["shots"], result["draw"]) == ("small", 1, 3)
    assert result["test_images"] == 5
    assert result["false_alarms"]["held_out"] == 3  # of the 20 that would be taken
    assert result["false_alarms"]["normal"] == 2
    scores = {kind: of_kind["image_auroc"] for kind, of_kind in result["kinds"].items()}
    assert list(scores) == ["votes", "distance", "both", "mse"]
    for kind, of_kind in result["kinds"].items():
        measured = ("image_auroc", "average_precision", "pixel_auroc", "aupro")
        assert all(0 <= of_kind[name] <= 1 for name in measured), kind
        assert of_kind["ms"] > 0
    seconds = {kind: of_kind["seconds"] for kind, of_kind in result["kinds"].items()}
    assert seconds["votes"] > seconds["mse"]  # nothing was trained


def test_the_quick_run_needs_no_data(monkeypatch, tmp_path, capsys):
    """Four test images a texture, with the same code as a whole run and a tiny model."""
    whole = detection.perform

    def smaller(case, shots, draw, data_root, most, **options):
        assert (shots, draw, most) == (1, 0, 20)
        return whole(case, shots, draw, data_root, 6, **{**options, **TINY})

    monkeypatch.setattr(detection, "perform", smaller)
    monkeypatch.setattr(detection, "QUICK", tmp_path / "quick")
    options = argparse.Namespace(quick=True, report_only=False, data_root=tmp_path / "none")
    options.shots, options.draws = [1, 5], [0, 1, 2]
    assert benchmark(options, tuple(TARGETS))
    kept = json.loads((tmp_path / "quick" / "detection.json").read_text())
    assert list(kept["runs"]) == ["brick 1 0", "grass 1 0", "gravel 1 0"]
    assert {r["test_images"] for r in kept["runs"].values()} == {6}
    text = (tmp_path / "quick" / "README.md").read_text()
    assert text.count("| brick | 1 | ") == 4
    assert "### Classes" not in text  # none has several
    assert "### False alarms" not in text
    title, part = text.split("## Finding defects\n\n")
    assert title == "# Benchmarks\n\n"
    assert part in capsys.readouterr().out


def test_the_page_says_which_commit_measured_what():
    grid, digits = run("grid", (0.5, 0.6, 0.7)), run("mnist", (0.5, 0.6, 0.7), shots=5)
    runs = [grid, grid | {"draw": 1}, digits, run("mnist", (0.5, 0.6, 0.7)) | {"commit": "def"}]
    assert commit_lines(runs) == ["abc (grid 1-shot, mnist 5-shot)", "def (mnist 1-shot)"]
