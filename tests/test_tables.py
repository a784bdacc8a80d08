"""Tables of results: means and deviations by hand, the paper's figures, what is missing."""

import csv
import io
import json
import math

import pytest

from htdg.commands.cli import main
from htdg.datasets import dataset_classes
from htdg.sweeps.grid import Run
from htdg.sweeps.paper import column_of, published
from htdg.sweeps.results import AVERAGE, ResultsError, gather, mean_and_deviation
from htdg.sweeps.sweep import Sweep, record
from htdg.sweeps.tables import csv_table, figure, markdown_table

SNEAKER = {"dataset": "fashionmnist", "normal_class": "Sneaker", "preset": "paper_grey"}


def write(out, auroc, draw=0, scores=None, metrics=(), **parameters):
    """What an evaluation leaves, without evaluating."""
    run = Run({**SNEAKER, "draw": draw, **parameters})
    task, config = run.task(), run.config().with_options(seed=draw)
    folder = out / "runs" / run.name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.as_dict()))
    described = {
        "dataset": task.dataset,
        "normal_class": task.normal_class,
        "shots": task.shots,
        "variant": task.variant,
        "defect_fraction": task.fractions[0],
        "equalise": task.equalise,
        "test_images": 1000,
        "test_images_anomalous": 900,
        "image_auroc": auroc,
        **dict(metrics),
    }
    (folder / "metrics.json").write_text(json.dumps(described))
    text = scores or "image,label,anomaly_score\na,0,0.1\nb,1,0.9\n"
    (folder / "scores.csv").write_text(text)
    return run


def rows_of(out):
    return list(csv.DictReader(io.StringIO(csv_table(gather([out])))))


def test_means_and_deviations_by_hand():
    assert mean_and_deviation([0.5, 0.7]) == pytest.approx((0.6, math.sqrt(0.02)))
    mean, deviation = mean_and_deviation([0.5])
    assert mean == 0.5
    assert math.isnan(deviation)
    assert math.isnan(mean_and_deviation([])[0])


def test_a_row_is_over_draws_and_stands_beside_the_papers(tmp_path):
    for draw, auroc in enumerate((0.96, 0.98, 0.97)):
        write(tmp_path, auroc, draw)
    (row,) = rows_of(tmp_path)
    assert (row["dataset"], row["class"], row["shots"]) == ("fashionmnist", "Sneaker", "1")
    assert (row["runs"], row["planned"]) == ("3", "3")
    assert (row["image_auroc"], row["image_auroc_sd"]) == ("0.97", "0.01")
    assert (row["paper"], row["paper_sd"], row["paper_table"]) == ("0.979", "0.007", "1")
    assert (row["difference"], row["within_one_sd"]) == ("-0.009", "False")
    assert row["votes"] == "1.0"
    text = markdown_table(gather([tmp_path]))
    assert text.splitlines()[0] == (
        "| dataset | class | shots | runs | AUROC | votes | paper | difference |"
    )
    assert text.splitlines()[2] == (
        "| fashionmnist | Sneaker | 1 | 3 | 0.970 ± 0.010 | 1.000 ± 0.000 | 0.979 ± 0.007 | "
        "-0.009 (outside) |"
    )


def test_what_is_within_one_deviation(tmp_path):
    write(tmp_path, 0.975)
    (row,) = rows_of(tmp_path)
    assert (row["difference"], row["within_one_sd"], row["image_auroc_sd"]) == (
        "-0.004",
        "True",
        "",
    )


def test_planned_runs_that_are_not_done_are_missing_and_no_mean_hides_it(tmp_path):
    runs = [write(tmp_path, 0.9, draw) for draw in range(2)]
    runs += [Run({**SNEAKER, "draw": 2}), Run({**SNEAKER, "normal_class": "Bag", "draw": 0})]
    record(Sweep(tmp_path, runs, 1))
    sneaker, bag = rows_of(tmp_path)
    assert (sneaker["class"], sneaker["runs"], sneaker["planned"]) == ("Sneaker", "2", "3")
    assert (bag["class"], bag["runs"], bag["planned"], bag["image_auroc"]) == ("Bag", "0", "1", "")
    text = markdown_table(gather([tmp_path]))
    assert "| Sneaker | 1 | 2 of 3 | 0.900" in text
    assert "| Bag | 1 | 0 of 1 | – | – | 0.772 ± 0.154 | – |" in text


def test_an_average_only_over_all_classes_with_all_their_runs(tmp_path):
    classes = dataset_classes("fashionmnist")
    runs = []
    for i, name in enumerate(classes):
        for draw in range(2):
            auroc = 0.8 + 0.01 * i + 0.1 * draw
            counts = {"test_images_anomalous": 900 - i}  # which change nothing about the order
            runs.append(write(tmp_path, auroc, draw, metrics=counts, normal_class=name))
    rows = rows_of(tmp_path)
    assert [row["class"] for row in rows] == [*classes, AVERAGE]
    assert (rows[-1]["image_auroc"], rows[-1]["runs"]) == ("0.895", "2")
    # As the paper's: the mean of the deviations of the classes, each 0.1 / sqrt(2).
    assert rows[-1]["image_auroc_sd"] == f"{0.1 / math.sqrt(2):.4f}"
    assert (rows[-1]["paper"], rows[-1]["paper_table"]) == ("0.839", "1")
    record(Sweep(tmp_path, [*runs, Run({**SNEAKER, "draw": 9})], 1))
    assert [row["class"] for row in rows_of(tmp_path)] == list(classes)  # one is not done


def test_several_shares_of_the_votes_are_several_rows(tmp_path):
    write(
        tmp_path,
        0.8,
        dataset="mvtec",
        normal_class="bottle",
        preset="paper_rgb",
        transformations="rotations",
        defect_fraction=[0.05, 1.0],
        metrics={"image_auroc_per_fraction": {"0.05": 0.8, "1.0": 0.6}, "aupro": 0.3},
    )
    rows = rows_of(tmp_path)
    assert [(r["fraction"], r["image_auroc"], r["paper"], r["aupro"]) for r in rows] == [
        ("0.05", "0.8", "0.85", "0.3"),
        ("", "0.6", "0.67", ""),
    ]


def test_what_votes_and_distances_contribute_comes_from_the_scores(tmp_path):
    text = "image,label,anomaly_score,votes,distance\n"
    text += "a,0,0.1,0.5,0.1\nb,0,0.2,0.7,0.2\nc,1,0.9,0.6,0.9\n"
    write(tmp_path, 1.0, scores=text, evidence="both", distance_min_size=25, distance_max_size=28)
    (row,) = rows_of(tmp_path)
    assert (row["votes"], row["distance"]) == ("0.5", "1.0")


def test_settings_that_look_alike_say_in_what_they_differ(tmp_path):
    write(tmp_path, 0.8, niter=100)
    write(tmp_path, 0.9, niter=200)
    write(tmp_path, 0.7, niter=200, draw=1)
    rows = rows_of(tmp_path)
    assert [(row["options"], row["runs"]) for row in rows] == [
        ("niter 100", "1"),
        ("niter 200", "2"),
    ]


@pytest.mark.parametrize(
    ("what", "column"),
    [
        (("fashionmnist", "grey42", "", None, 1), "HTDG"),
        (("fashionmnist", "rotations", "", None, 1), ""),
        (("cifar10", "auto", "", 1.0, 5), "HTDG"),
        (("cifar10", "rgb54", "c", None, 1), "c"),
        (("mvtec", "rotations", "", 0.05, 1), "5"),
        (("mvtec", "rotations", "", None, 1), "100"),
        (("mvtec", "rgb54", "", 0.05, 1), "HTDG-54"),
        (("mvtec", "rgb54", "", 0.1, 1), ""),
        (("mvtec", "rgb54", "", 0.1, 5), "HTDG-54"),
    ],
)
def test_the_column_of_the_paper(what, column):
    assert column_of(*what) == column


@pytest.mark.parametrize(
    ("what", "figure"),
    [
        (("cifar10", "plane", 1, "HTDG"), (0.672, 0.058, 1)),
        (("fashionmnist", "T-shirt/top", 1, "HTDG"), None),
        (("fashionmnist", "Sandal", 5, "HTDG"), None),
        (("fashionmnist", "Ankle boot", 10, "HTDG"), None),
        (("mvtec", "metal_nut", 1, "HTDG-54"), None),
        (("mvtec", "metal_nut", 1, "20"), None),
        (("mvtec", "bottle", 1, "HTDG-54"), (0.763, 0.069, 5)),
        (("cifar10", "plane", 1, "a"), (0.589, 0.125, 6)),
    ],
)
def test_every_class_of_the_paper_is_there(what, figure):
    cell = published(*what)
    assert cell is not None
    assert figure is None or cell == pytest.approx(figure)


def test_the_paper_has_figures_for_every_class_of_its_data_sets():
    for name, column in (
        *(("cifar10", "HTDG"), ("mnist", "HTDG"), ("fashionmnist", "HTDG"), ("paris", "HTDG")),
        *(("mvtec", "HTDG-54"), ("mvtec", "1"), ("cifar10", "g")),
    ):
        for chosen in (*dataset_classes(name), "Avg"):
            missing = published(name, chosen, 1, column) is None
            assert not missing or (name, chosen, column) == ("mvtec", "Avg", "1"), (name, chosen)
    assert published("textures", "brick", 1, "HTDG") is None


def test_the_command_writes_what_it_shows(tmp_path, capsys):
    write(tmp_path / "sweep", 0.97)
    files = [tmp_path / name for name in ("t.csv", "t.md", "t.png")]
    options = ["--csv", str(files[0]), "--markdown", str(files[1]), "--figure", str(files[2])]
    assert main(["tables", str(tmp_path / "sweep"), *options]) == 0
    assert capsys.readouterr().out == files[1].read_text()
    assert files[2].read_bytes().startswith(b"\x89PNG")


def test_the_figure_has_a_row_for_everything_that_has_a_value(tmp_path):
    runs = [write(tmp_path, 0.9), write(tmp_path, 0.8, draw=1), Run({**SNEAKER, "shots": 5})]
    record(Sweep(tmp_path, runs, 1))
    (ax,) = figure(gather([tmp_path])).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["fashionmnist, Sneaker, 1 shot"]
    assert sorted(ax.lines[0].get_xdata()) == [0.8, 0.9]
    assert ax.lines[1].get_xdata() == pytest.approx([0.85])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("metrics.json", "[", "metrics.json cannot be read"),
        ("metrics.json", "[]", "metrics.json holds no results"),
        ("metrics.json", "{}", "metrics.json is no result of this htdg"),
        ("config.json", None, "config.json cannot be read"),
        ("scores.csv", "image,label,anomaly_score\na,x,1\n", "scores.csv cannot be read"),
        ("scores.csv", None, "scores.csv cannot be read"),
    ],
)
def test_damaged_results_are_named(tmp_path, name, content, words):
    run = write(tmp_path, 0.9)
    path = tmp_path / "runs" / run.name / name
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(ResultsError, match=words) as caught:
        gather([tmp_path])
    assert str(path) in str(caught.value)


def test_a_folder_without_results_is_refused(tmp_path, capsys):
    assert main(["tables", str(tmp_path)]) == 2
    assert "holds no results: name a folder of evaluations" in capsys.readouterr().err
    assert main(["tables", str(tmp_path / "nothing")]) == 2
