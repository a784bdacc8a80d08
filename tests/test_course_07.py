"""Notebook 07: what is said of a folder of images, and how it is drawn."""

import csv
import re
import sys
from dataclasses import replace

import nbformat
import numpy as np
import pytest
from PIL import Image

from htdg import HTDGConfig, HTDGDetector
from htdg.commands import common
from htdg.course import checks_07, draw_07
from htdg.course.check import NotRight
from htdg.course.draw_07 import Finding, findings, folder_box, folder_page
from htdg.course.execute import WIDGET
from htdg.course.photo import CourseImagesError
from htdg.course.photographs import squares_of
from htdg.datasets.samples import texture_set
from htdg.errors import UserError
from htdg.evaluation.plots import ANOMALOUS, NORMAL
from htdg.thresholds import HELD_OUT, Threshold
from tests.course import NOTEBOOKS

PAGE = NOTEBOOKS / "07_your_own_images.ipynb"


@pytest.fixture(scope="module")
def calibrated(brick):
    """A tiny detector with a threshold that is certain to flag some images and not others."""
    (train, _), test = brick
    detector = HTDGDetector(HTDGConfig.preset("tiny", niter=2)).fit(train, progress=False)
    detector.calibrate(test, 0.5, defect_fraction=0.1)
    return detector


@pytest.fixture
def folder(tmp_path, brick):
    """A folder of images, one of them in a subfolder, and a file that is none."""
    (tmp_path / "more").mkdir()
    for number, image in enumerate(brick[1]):
        place = tmp_path / "more" if number == 1 else tmp_path
        Image.fromarray(image).save(place / f"photo_{number}.png")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_findings_agree_with_the_detector_and_are_sorted(calibrated, folder):
    report = findings(calibrated, folder)
    assert len(report) == 6
    assert "more/photo_1.png" in [finding.name for finding in report]
    scores = [finding.score for finding in report]
    assert scores == sorted(scores, reverse=True)
    paths = [folder / finding.name for finding in report]
    np.testing.assert_allclose(scores, calibrated.anomaly_score(paths, 0.1), atol=1e-6)
    labels = np.where([finding.anomalous for finding in report], -1, 1)
    np.testing.assert_array_equal(labels, calibrated.predict(paths))
    assert set(labels) == {-1, 1}
    assert report[0].rows.shape == (len(calibrated.sides_),)
    assert report[0].picture.shape == (96, 96, 3)
    assert report[0].picture.dtype == np.uint8


@pytest.mark.parametrize("kind", ["distance", "both"])
def test_findings_count_every_kind_of_evidence(kind, brick, folder):
    (train, _), test = brick
    small = {"distance_min_size": 13, "distance_max_size": 18}
    config = HTDGConfig.preset("tiny", niter=1, evidence=kind, **small)
    detector = HTDGDetector(config).fit(train, progress=False)
    detector.calibrate(test, 0.5, defect_fraction=0.1)
    report = findings(detector, folder)
    paths = [folder / finding.name for finding in report]
    scores = [finding.score for finding in report]
    np.testing.assert_allclose(scores, detector.anomaly_score(paths, 0.1), atol=1e-6)
    labels = np.where([finding.anomalous for finding in report], -1, 1)
    np.testing.assert_array_equal(labels, detector.predict(paths))
    assert set(labels) == {-1, 1}
    assert {len(finding.rows) for finding in report} == {0 if kind == "distance" else 4}


def test_a_page_counts_names_and_escapes(calibrated, folder, brick):
    Image.fromarray(brick[1][0]).save(folder / "<b> & c.png")
    page = folder_page(calibrated, str(folder))
    flagged = sum(finding.anomalous for finding in findings(calibrated, folder))
    limit = calibrated.threshold_.score
    assert f"{flagged} of 7 images score above the threshold of {limit:.3f}" in page
    assert page.count("<img ") == 7
    assert page.count(" anomalous</figcaption>") == flagged
    assert "&lt;b&gt; &amp; c.png" in page
    assert "<b>" not in page


def test_a_page_shows_the_oddest_only(calibrated, folder, monkeypatch):
    monkeypatch.setattr(draw_07, "MAX_SHOWN", 2)
    page = folder_page(calibrated, folder)
    oddest = [finding.name for finding in findings(calibrated, folder)][:2]
    assert "The 2 most anomalous are shown" in page
    assert re.findall(r'alt="([^,]+),', page) == oddest


def test_what_is_wrong_with_a_folder_is_said(calibrated, tiny, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no image" in folder_page(calibrated, tmp_path / "empty")
    assert "is no folder" in folder_page(calibrated, tmp_path / "missing")
    assert "Give the path of a folder" in folder_page(calibrated, "  ")
    with pytest.raises(UserError, match="no threshold"):
        findings(tiny, tmp_path)


def test_the_button_scores_the_folder_that_was_typed(calibrated, folder):
    box = folder_box(calibrated).box
    (place, button), page = box.children[0].children, box.children[1]
    button.click()
    assert "Give the path" in page.value
    place.value = str(folder)
    button.click()
    assert page.value == folder_page(calibrated, folder)


def test_the_box_leaves_a_figure_that_says_what_the_page_says(calibrated, folder, monkeypatch):
    monkeypatch.setattr(draw_07, "MAX_SHOWN", 4)
    figure, alt = draw_07.folder_figure(calibrated, folder)
    report = findings(calibrated, folder)
    page = folder_page(calibrated, folder)
    summary = " ".join(re.findall("<p>(.*?)</p>", page))
    assert figure._suptitle.get_text() == summary
    assert summary.endswith("The 4 most anomalous are shown.")
    shown = [ax for ax in figure.axes if ax.images]
    assert len(shown) == 4 == page.count("<img ")
    for ax, finding in zip(shown, report, strict=False):
        np.testing.assert_array_equal(ax.images[0].get_array(), finding.picture)
        assert f"{finding.score:.3f}" in ax.get_title()
        assert ("!" in ax.get_title()) == finding.anomalous
    data, metadata = folder_box(calibrated, str(folder))._repr_mimebundle_()
    assert data["text/plain"] == metadata["image/png"]["alt"] == alt
    assert alt.startswith(summary)
    assert set(data) == {WIDGET, "image/png", "text/plain"}


def test_the_figure_of_a_folder_that_is_missing_says_so(calibrated, tmp_path):
    figure, alt = draw_07.folder_figure(calibrated, tmp_path / "missing")
    assert "is no folder" in figure._suptitle.get_text()
    assert "is no folder" in alt
    assert "Give the path" in folder_box(calibrated)._repr_mimebundle_()[0]["text/plain"]


def test_without_ipywidgets_the_findings_are_shown_and_what_to_install(
    calibrated, folder, monkeypatch
):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    page = folder_box(calibrated, str(folder))._repr_html_()
    assert page.startswith(folder_page(calibrated, folder))
    assert page.endswith("install ipywidgets: pip install ipywidgets</p>")
    assert "Give the path" not in folder_box(calibrated)._repr_html_()


def test_images_in_rows():
    image = np.zeros((4, 4), np.uint8)
    figure = draw_07.draw_images({"one": [image], "three": [image] * 3})
    assert [band._suptitle.get_text() for band in figure.subfigs] == ["one", "three"]
    assert [sum(bool(ax.images) for ax in band.axes) for band in figure.subfigs] == [1, 3]


def test_a_quarter_turn_is_counter_clockwise():
    image = np.arange(4, dtype=np.uint8).reshape(2, 2)
    first, second = draw_07.draw_turned({"x": image}).axes
    np.testing.assert_array_equal(first.images[0].get_array(), [[0, 1], [2, 3]])
    np.testing.assert_array_equal(second.images[0].get_array(), [[1, 3], [0, 2]])
    assert second.get_title() == "x, a quarter turn"


def test_labels_are_framed_and_marked():
    normal = Finding("a/b.png", 0.25, False, np.zeros((4, 4, 3), np.uint8), np.zeros(2))
    odd = replace(normal, name="c.png", score=0.75, anomalous=True)
    axes = draw_07.draw_findings([odd, normal, normal], columns=2).axes
    assert [ax.get_title() for ax in axes] == ["c\n! 0.750", "b\n0.250", "b\n0.250", ""]
    colours = [ax.spines["left"].get_edgecolor() for ax in axes[:2]]
    assert colours == [draw_07_colour(ANOMALOUS), draw_07_colour(NORMAL)]
    assert [ax.axison for ax in axes] == [True, True, True, False]


def draw_07_colour(name):
    """A colour as matplotlib gives it back."""
    from matplotlib.colors import to_rgba

    return to_rgba(name)


def test_thresholds_are_lines_across_the_groups():
    groups = {"held out": [0.1, 0.2], "new, normal": [0.15], "new, damaged": [0.4, 0.5, 0.6]}
    (ax,) = draw_07.draw_thresholds(groups, {"some": 0.25, "others": 0.45}).axes
    dots, lines = ax.lines[:3], ax.lines[3:]
    assert [list(line.get_xdata()) for line in dots] == list(groups.values())
    assert [line.get_color() for line in dots] == [NORMAL, NORMAL, ANOMALOUS]
    assert [line.get_marker() for line in dots] == ["o", "o", "x"]
    assert [line.get_xdata()[0] for line in lines] == [0.25, 0.45]
    assert [line.get_label() for line in lines] == ["some", "others"]
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["held out (2)", "new, normal (1)", "new, damaged (3)"]
    assert "anomaly score" in ax.get_xlabel()


# --- Photographs of one's own -------------------------------------------------------------------


@pytest.fixture
def photographs(tmp_path):
    """A folder of three photographs of 90 x 62 pixels, whose squares can be told apart."""
    for number in range(3):
        values = np.full((62, 90), 10 * number, np.uint8)
        values[1:31, 15:45] += 1  # the square in the upper left, where it is cut into 2 x 2
        values[31:61, 45:75] += 2
        Image.fromarray(values).save(tmp_path / f"photo_{number}.png")
    return tmp_path


def test_photographs_are_cut_from_their_middle(photographs):
    squares = squares_of(photographs, 2)
    assert squares.source == "your photographs photo_0.png, photo_1.png, photo_2.png"
    assert squares.train.shape == (31, 31, 3)
    assert [square.shape for square in squares.held_out] == [(31, 31, 3)] * 8
    assert squares.train[0, 0, 0] == 0  # the third of the first: below, on the left
    assert squares.held_out[0][5, 5, 0] == 11
    assert squares.held_out[7][5, 5, 0] == 22
    whole = squares_of(photographs, 1)
    assert whole.train.shape == (62, 62, 3)
    assert len(whole.held_out) == 2
    (photographs / "photo_2.png").unlink()
    assert len(squares_of(str(photographs), 2).held_out) == 4


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "missing", "missing is no folder: give one that holds images."),
        (lambda folder: folder, "holds no image that can be read: put two or three"),
        (lambda folder: with_images(folder, 1), "holds only one image that can be read: put"),
        (lambda folder: with_images(folder, 2, 60), "photo_0.png has 60 x 60 pixels, too few for"),
        (lambda folder: with_images(folder, 2, damaged=True), "photo_1.png"),
    ],
)
def test_shipped_images_stand_in_for_a_folder_that_cannot_be_used(make, said, tmp_path):
    squares = squares_of(make(tmp_path), 3)
    assert said in squares.source
    assert squares.source.endswith(" Instead: 19 shipped crops of brick")
    assert len(squares.held_out) == 18
    np.testing.assert_array_equal(squares.train, texture_set("brick").train[0])


def with_images(folder, count, side=200, damaged=False):
    for number in range(count):
        Image.fromarray(np.zeros((side, side), np.uint8)).save(folder / f"photo_{number}.png")
    if damaged:
        path = folder / f"photo_{count - 1}.png"
        path.write_bytes(path.read_bytes()[:60])
    return folder


def test_without_a_folder_shipped_images_are_taken():
    squares = squares_of(" ", 1, "gravel")
    assert squares.source == "3 shipped crops of gravel"
    np.testing.assert_array_equal(squares.held_out[1], texture_set("gravel").test[1])
    with pytest.raises(CourseImagesError, match="no texture 'sand'"):
        squares_of("", 1, "sand")
    for cuts in (0, 6, 2.0, "3", None):
        with pytest.raises(
            CourseImagesError, match=f"cuts is {cuts!r}, but it must be a whole number"
        ):
            squares_of("", cuts)
    assert squares_of("~nobody_here", 1).source.startswith("~nobody_here is no folder")


def threshold(mean_vote, count, rate=0.05):
    return Threshold(0.8, 0.9, rate, count, HELD_OUT, 0.02, mean_vote=mean_vote)


@pytest.mark.parametrize(
    ("vote", "count", "tells", "keeps"),
    [
        (0.47, 18, True, False),
        (0.26, 18, False, False),
        (0.2749, 19, False, True),
        (0.2751, 40, True, True),
    ],
)
def test_predictions_are_held_against_what_was_measured(vote, count, tells, keeps, capsys):
    def check(*predictions):
        checks_07.check_predictions(*predictions, threshold(vote, count), 4)

    check(tells, keeps)
    said = capsys.readouterr().out
    assert said.startswith(f"Right: the mean vote of the {count} held-out images is {vote:.2f}")
    about_rotations = "have a direction|has a direction" if tells else "the same in all directions"
    about_promise = "can promise 5%, since" if keeps else f"no less than 1 / .{count} . 1. = "
    with pytest.raises(NotRight, match=about_rotations) as wrong:
        check(not tells, keeps)
    assert "can_promise should" not in str(wrong.value)
    with pytest.raises(NotRight, match=about_promise) as wrong:
        check(tells, not keeps)
    assert "can_tell should" not in str(wrong.value)
    with pytest.raises(NotRight, match=f"can_tell should be {tells}.* can_promise should be"):
        check(not tells, not keeps)


def test_a_guess_is_told_as_by_the_command_line():
    assert checks_07.CHANCE == common.CHANCE


def test_what_the_promise_takes_is_said():
    with pytest.raises(NotRight, match=r"1 / \(18 \+ 1\) = 5\.3%; 5% take 19 or more"):
        checks_07.check_predictions(True, True, threshold(0.4, 18), 4)
    with pytest.raises(NotRight, match="10% take 9 or more"):
        checks_07.check_predictions(True, True, threshold(0.4, 8, 0.1), 4)


def test_predictions_come_first_and_are_true_or_false(capsys):
    checks_07.check_predictions(None, True, threshold(0.4, 18), 4)
    assert capsys.readouterr().out.startswith("Not done yet")
    with pytest.raises(NotRight, match="can_tell is 'yes': write True or False"):
        checks_07.check_predictions("yes", True, threshold(0.4, 18), 4)


def test_a_detector_s_threshold_has_what_the_check_needs(calibrated):
    assert calibrated.threshold_.mean_vote is not None
    with pytest.raises(NotRight, match="can_promise should be True: 6 held-out images"):
        checks_07.check_predictions(False, False, calibrated.threshold_, 4)


# --- The page -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def said():
    """What the cells of the saved notebook printed, by the cell's name."""
    cells = nbformat.read(PAGE, as_version=4)["cells"]
    return {
        cell["id"]: "".join(out.get("text", "") for out in cell.get("outputs", []))
        for cell in cells
    }


def test_the_page_s_words_agree_with_its_numbers(said):
    votes = dict(re.findall(r"mean vote (\w+) +([\d.]+)", said["chance"]))
    assert float(votes["brick"]) > 0.4
    assert abs(float(votes["gravel"]) - 0.25) < 0.03
    rates = {
        name.strip(): (int(alarms), int(hits))
        for name, alarms, hits in re.findall(r"^(.{35}) +(\d+)% +(\d+)%$", said["truth"], re.M)
    }
    assert len(rates) == 4
    assert rates["40 held-out images"][0] <= 10
    assert rates["40 held-out images"][1] > 60
    assert rates["200 generated images"][1] < 10
    assert "100% of the normal images flagged" in said["truth"]


def test_the_report_is_a_table(said):
    lines = said["report"].splitlines()[1:]
    (first, *_) = csv.DictReader(lines)
    assert first["anomalous"] == "1"
    scales = [float(value) for key, value in first.items() if key.startswith("scale_")]
    assert float(first["anomaly_score"]) == pytest.approx(np.mean(scales), abs=1e-6)


def test_the_page_closes_with_three_questions_and_keeps_a_picture_of_its_widget():
    cells = nbformat.read(PAGE, as_version=4)["cells"]
    assert cells[-1]["source"].startswith("## Recap")
    assert cells[-1]["source"].count("<details>") == 3
    (widget,) = [c for c in cells if "widget" in c["metadata"].get("tags", [])]
    assert [set(output["data"]) for output in widget["outputs"]] == [{"image/png", "text/plain"}]
    for cell in cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                assert len(output["metadata"]["image/png"]["alt"]) > 20
