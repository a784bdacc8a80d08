"""``htdg inspect`` from end to end: verdicts, pictures and page, wrong inputs, broken-off runs."""

import csv
import html
import os
import re
import shutil
import urllib.parse

import numpy as np
import pytest
import torch
from PIL import Image

from htdg import HTDGDetector
from htdg.commands import good_images, inspect
from htdg.commands.cli import main
from htdg.commands.good_images import number_that_train, split
from htdg.evaluation.inspection_page import (
    MOST_SHOWN,
    InspectedImage,
    inspection_page,
    overlay_picture,
    place_in_words,
)
from htdg.evaluation.overlays import ColourScale, clearest_tint, overlay
from htdg.evidence import DEFECT_FRACTION
from htdg.thresholds import Threshold
from htdg.training import ScaleTraining

#: Patch distances alone, small: a second.
SMALL = ["--evidence", "distance", "--image-size", "32", "--min-size", "20", "--max-size", "20"]
SMALL += ["--distance-min-size", "20", "--distance-max-size", "20", "--device", "cpu"]


def texture(seed, defect=False):
    """A wavy surface (40, 48) uint8 with some noise; the defect is a bright square, top left."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:40, :48]
    waves = 120 + 40 * np.sin(0.9 * x + rng.uniform(0, 6)) + 20 * np.cos(0.5 * y)
    surface = (waves + rng.normal(0, 4, waves.shape)).clip(0, 255).astype(np.uint8)
    if defect:
        surface[4:11, 5:13] = 255
    return surface


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Twelve good images, two new good ones and two with a defect; the working folder."""
    for i in range(12):
        save(tmp_path / "good" / f"{i:02d}.png", texture(i))
    for i in range(2):
        save(tmp_path / "new" / f"fine{i}.png", texture(50 + i))
        save(tmp_path / "new" / "more" / f"hole{i}.png", texture(60 + i, defect=True))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words):
    return main(["inspect", "good", "new", "--out", "out", *SMALL, *words])


def rows(place):
    with (place / "out" / "scores.csv").open(encoding="utf-8") as lines:
        return {row["file"]: row for row in csv.DictReader(lines)}


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- What comes out -----------------------------------------------------------------------------


def test_defects_are_told_from_good_parts(place, capsys):
    assert run() == 0
    shown = capsys.readouterr()
    assert "htdg: 6 of the 12 good images train, 6 are held out for the threshold.\n" in shown.err
    summary, threshold, page = shown.out.splitlines()
    assert summary == "4 images in new: 2 anomalous, 2 normal."
    assert "for 5.0% of normal images flagged, from 6 held-out images (so few that" in threshold
    assert page == "out/index.html"
    names = ["fine0.png", "fine1.png", "more/hole0.png", "more/hole1.png"]
    assert list(rows(place)) == names
    verdicts = [row["verdict"] for row in rows(place).values()]
    assert verdicts == ["normal", "normal", "anomalous", "anomalous"]
    written = sorted(p.name for p in (place / "out").iterdir())
    assert written == ["index.html", "model", "overlays", "scores.csv"]


def test_the_table_has_what_the_detector_says(place):
    assert run() == 0
    detector = HTDGDetector.load(place / "out" / "model", device="cpu")
    assert detector.threshold_.count == 6
    assert detector.threshold_.defect_fraction == DEFECT_FRACTION
    paths = [place / "new" / name for name in rows(place)]
    predictions = list(detector.predictions(paths, DEFECT_FRACTION))
    for row, prediction in zip(rows(place).values(), predictions, strict=True):
        columns = ["file", "score", "votes", "distance", "verdict", "overlay", "problem"]
        assert list(row) == columns
        assert (place / "out" / row["overlay"]).is_file()
        assert row["problem"] == ""
        assert float(row["score"]) == pytest.approx(float(prediction.scores[0]), abs=1e-5)
        distance = float(prediction.evidence["distance"][0])
        assert float(row["distance"]) == pytest.approx(distance, rel=1e-4)
        assert row["votes"] == ""
        anomalous = prediction.scores[0] > detector.threshold_.score
        assert row["verdict"] == ("anomalous" if anomalous else "normal")


def test_votes_have_their_column_where_there_are_any(place):
    assert run("--evidence", "both", "--niter", "1", "--shots", "1", "--channels", "4") == 0
    for row in rows(place).values():
        assert float(row["votes"]) > 0
        assert float(row["distance"]) > 0


def test_a_lower_rate_asks_for_a_higher_threshold(place):
    assert run("--shots", "2", "--false-positive-rate", "0.5") == 0
    loose = HTDGDetector.load(place / "out" / "model", device="cpu").threshold_
    assert run("--shots", "2", "--false-positive-rate", "0.1") == 0
    strict = HTDGDetector.load(place / "out" / "model", device="cpu").threshold_
    assert (loose.count, strict.count) == (10, 10)
    assert strict.score > loose.score


def test_overlays_show_where_the_defect_is(place):
    assert run("--tint", "vermillion") == 0
    folder = place / "out" / "overlays"
    names = ["fine0.png", "fine1.png", "more/hole0.png", "more/hole1.png"]
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png")) == names
    before = np.asarray(Image.open(place / "new" / "more" / "hole0.png")).astype(int)
    after = np.asarray(Image.open(folder / "more" / "hole0.png")).astype(int)
    assert after.shape == (40, 48, 3)
    blue = before - after[..., 2]  # what the tint takes away
    assert blue[5:10, 6:12].mean() > 100
    assert np.median(abs(blue[20:])) < 20


def test_the_page_has_the_worst_first_and_needs_nothing_else(place):
    assert run() == 0
    page = (place / "out" / "index.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    for sentence in ("4 images in new: 2 anomalous, 2 normal.", "from 6 held-out images"):
        assert sentence in page
    scores = {name: float(row["score"]) for name, row in rows(place).items()}
    worst_first = sorted(scores, key=scores.get, reverse=True)
    assert re.findall(r"<b>(.*?)</b>", page) == worst_first
    alts = re.findall(r'alt="(.*?)"', page)
    assert [alt.split(" and where")[0] for alt in alts] == worst_first
    assert all("anomalous, score 0." in alt for alt in alts[:2])
    assert all("most anomalous at the top left, " in alt for alt in alts[:2])
    # Everything it refers to is in it, or beside it.
    assert not re.search(r"https?:|<script|<link|@import|url\(", page)
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources(page))
    for address in re.findall(r'href="(.*?)"', page):
        assert (place / "out" / urllib.parse.unquote(address)).is_file()


def test_when_most_images_are_anomalous_the_page_says_what_may_be_wrong(place):
    hint = "More than half are called anomalous. If they should not be, they were taken otherwise"
    page = place / "out" / "index.html"
    assert run() == 0  # half of them
    assert hint not in page.read_text(encoding="utf-8")
    (place / "new" / "fine0.png").unlink()
    assert run() == 0
    assert hint in page.read_text(encoding="utf-8")


def sources(page):
    return re.findall(r'src="(.*?)"', page)


def test_file_names_are_escaped_and_those_that_are_no_text_too(place):
    odd = place / "new" / '<b>&"x"#1?.png'
    save(odd, texture(70))
    latin = os.fsencode(place / "new") + b"/caf\xe9.png"
    with open(latin, "wb") as copy:  # noqa: PTH123 - a name in another encoding
        copy.write(odd.read_bytes())
    assert run() == 0
    page = (place / "out" / "index.html").read_text(encoding="utf-8")
    assert html.escape(odd.name) in page
    assert odd.name not in page
    assert {odd.name, "caf\\xe9.png"} <= rows(place).keys()
    for address in re.findall(r'href="(.*?)"', page):
        there = os.fsencode(place / "out") + b"/" + urllib.parse.unquote_to_bytes(address)
        assert os.path.exists(there)  # noqa: PTH110


def test_the_choice_of_images_follows_from_the_seed(place):
    good = sorted((place / "good").iterdir())
    train, held_out = split(good, 6, 0)
    assert (len(train), len(held_out)) == (6, 6)
    assert sorted(train + held_out) == good
    assert split(good, 6, 0) == (train, held_out)
    assert split(good, 6, 1)[0] != train
    assert run() == 0
    model = HTDGDetector.load(place / "out" / "model", device="cpu")
    assert model.image_names_ == [str(path.relative_to(place)) for path in train]


@pytest.mark.parametrize(
    ("count", "shots", "trained"),
    [
        *[(1, None, 1), (7, None, 7), (8, None, 4), (19, None, 9), (20, None, 10), (99, None, 10)],
        *[(5, 2, 2), (9, 9, 9), (99, 40, 40)],
    ],
)
def test_how_many_images_train(count, shots, trained):
    assert number_that_train(count, shots) == trained
    train, held_out = split([*range(count)], trained, 3)
    assert (len(train), len(held_out)) == (trained, count - trained)
    assert sorted(train + held_out) == [*range(count)]


def odd_ones(place):
    """Have most good images hold what only one in four holds elsewhere; the typical ones do not."""
    for number, path in enumerate(sorted((place / "good").iterdir())):
        if number not in (3, 7):
            surface = texture(number)
            surface[10:30, 8 + number : 20 + number] = 20 * number
            save(path, surface)


def test_a_single_training_image_is_the_most_typical_candidate(place, capsys):
    odd_ones(place)
    assert run("--shots", "1", "--seed", "5") == 0
    shown = capsys.readouterr()
    good = sorted((place / "good").iterdir())
    candidates, held_out = split(good, 4, 5)
    options = dict(zip(SMALL[::2], SMALL[1::2], strict=True))
    options = {k[2:].replace("-", "_"): int(v) if v.isdigit() else v for k, v in options.items()}
    by_others = []  # one by one, another way
    for path in candidates:
        scores = [
            HTDGDetector("inspect", seed=5, **options)
            .fit(other, progress=False)
            .anomaly_score(path, DEFECT_FRACTION)[0]
            for other in candidates
            if other != path
        ]
        by_others.append(np.mean(scores))
    best = candidates[int(np.argmin(by_others))]
    sentence = (
        f"{best.name} was chosen from 4 good images for being the most typical: it scores "
        f"{min(by_others):.4f} with models of the others, the least typical one "
        f"{max(by_others):.4f}."
    )
    assert "htdg: 1 of the 12 good images train, 8 are held out" in shown.err
    assert f"htdg: {sentence}\n" in shown.err
    assert sentence in (place / "out" / "index.html").read_text()
    assert "1 of the 12 good images in good" in (place / "out" / "index.html").read_text()
    model = HTDGDetector.load(place / "out" / "model", device="cpu")
    assert model.image_names_ == [str(best.relative_to(place))]
    # None of the candidates is held out: the threshold would be too low.
    assert model.threshold_.count == len(held_out) == 8


def test_what_was_chosen_is_kept(place, monkeypatch, capsys):
    assert run("--shots", "1") == 0
    before = contents(place / "out")
    monkeypatch.setattr(good_images, "scores_by_others", None)
    assert run("--shots", "1") == 0
    assert contents(place / "out") == before
    assert "was chosen from 4 good images" in capsys.readouterr().err
    # It holds for these images and options.
    monkeypatch.undo()
    monkeypatch.chdir(place)
    candidate = split(sorted((place / "good").iterdir()), 4, 0)[0][0]
    os.utime(candidate, (1, 1))
    monkeypatch.setattr(good_images, "scores_by_others", None)
    with pytest.raises(TypeError):
        run("--shots", "1")


@pytest.mark.parametrize(
    ("count", "words"),
    [(12, []), (12, ["--shots", "2"]), (5, ["--shots", "1"]), (1, [])],
)
def test_nothing_is_chosen_where_there_is_no_choice(place, monkeypatch, count, words):
    monkeypatch.setattr(good_images, "scores_by_others", None)
    for path in sorted((place / "good").iterdir())[count:]:
        path.unlink()
    assert run(*words) == 0
    assert not (place / "out" / "model" / good_images.FILE).exists()


# --- Few good images ----------------------------------------------------------------------------


def test_one_good_image_makes_no_threshold_and_says_so(place, capsys):
    for path in sorted((place / "good").iterdir())[1:]:
        path.unlink()
    assert run() == 0
    shown = capsys.readouterr()
    assert "all good images, 1, train and none is held out, so there is no threshold" in shown.err
    assert shown.out.startswith("4 images in new: 4 no threshold.\nNo threshold: none of the good")
    assert [row["verdict"] for row in rows(place).values()] == ["no threshold"] * 4
    scores = {name: float(row["score"]) for name, row in rows(place).items()}
    assert min(scores["more/hole0.png"], scores["more/hole1.png"]) > max(
        scores["fine0.png"], scores["fine1.png"]
    )
    page = (place / "out" / "index.html").read_text(encoding="utf-8")
    assert "No threshold: none of the good images was held out" in page
    assert "Ordered by score, the most anomalous first (4)" in page
    assert "A line surrounds" not in page


# --- Broken files -------------------------------------------------------------------------------


def test_broken_files_cost_only_themselves(place, capsys):
    assert run() == 0
    before = rows(place)
    whole = (place / "new" / "fine0.png").read_bytes()
    (place / "new" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (place / "new" / "a text.jpg").write_text("no picture")
    (place / "new" / "notes.txt").write_text("not called a picture either")
    capsys.readouterr()
    assert run() == 1
    shown = capsys.readouterr()
    assert "4 images" not in shown.out
    assert shown.out.startswith("6 images in new: 2 anomalous, 2 normal, 2 unreadable.\n")
    lines = shown.err.splitlines()
    assert "htdg: new/notes.txt is no image: skipped." in lines
    assert any(re.match(r"htdg: new/cut.png is damaged or cannot be read", x) for x in lines)
    assert any(re.match(r"htdg: new/a text.jpg is no image that can be read", x) for x in lines)
    last = "htdg: 2 of 6 images cannot be read: out/scores.csv says which."
    assert lines[-1] == last
    after = rows(place)
    for name in ("cut.png", "a text.jpg"):
        row = after.pop(name)
        assert (row["verdict"], row["score"], row["distance"]) == ("unreadable", "", "")
        assert f"new/{name} is " in row["problem"]
    assert after == before
    page = (place / "out" / "index.html").read_text(encoding="utf-8")
    assert "Could not be read (2)" in page
    assert "<td>cut.png</td>" in page


def test_when_nothing_new_can_be_read_the_report_says_so(place):
    for path in [*(place / "new").glob("*.png"), *(place / "new" / "more").iterdir()]:
        path.write_text("broken")
    assert run() == 1
    assert {row["verdict"] for row in rows(place).values()} == {"unreadable"}
    assert (place / "out" / "index.html").is_file()


def test_a_file_that_vanishes_while_it_is_inspected(place, monkeypatch, capsys):
    load = inspect.load_uint8

    def gone(path, *others):  # when its picture is made: it was scored before
        if path.name == "hole0.png":
            path.unlink(missing_ok=True)
        return load(path, *others)

    monkeypatch.setattr(inspect, "load_uint8", gone)
    assert run() == 1
    assert "more/hole0.png is not there" in capsys.readouterr().err
    verdicts = [row["verdict"] for row in rows(place).values()]
    assert verdicts == ["normal", "normal", "unreadable", "anomalous"]


def test_copies_of_a_good_image_count_once(place, capsys):
    first = next((place / "good").iterdir())
    for n in range(3):
        shutil.copy(first, place / "good" / f"copy{n}.png")
    assert run() == 0
    shown = capsys.readouterr().err
    assert "htdg: 3 of 15 images are copies of others: left out.\n" in shown
    assert "6 of the 12 good images train, 6 are held out for the threshold." in shown


def test_a_broken_good_image_is_passed_over(place, capsys):
    (place / "good" / "03.png").write_bytes((place / "good" / "03.png").read_bytes()[:300])
    assert run() == 0
    shown = capsys.readouterr()
    assert "htdg: good/03.png is damaged or cannot be read" in shown.err
    assert "5 of the 11 good images train, 6 are held out" in shown.err
    assert [row["verdict"] for row in rows(place).values()].count("anomalous") == 2


# --- Wrong inputs -------------------------------------------------------------------------------

MISTAKES = [
    ("missing new --out out", "missing is no folder: give one that holds images."),
    ("good missing --out out", "missing is no folder: give one that holds images."),
    ("good/00.png new --out out", "good/00.png is a file: name the folder that holds it."),
    ("good new/fine0.png --out out", "fine0.png is a file: name the folder that holds it."),
    ("empty new --out out", "empty holds no image: name a folder with images in it."),
    ("good empty --out out", "empty holds no image: name a folder with images in it."),
    ("good text --out out", "text holds no image: name a folder with images in it."),
    ("broken new --out out", "None of the images in broken can be read: give others."),
    ("good good --out out", "good and good lie in each other, so images would count as good and"),
    ("good . --out out", "good and . lie in each other"),
    ("new/more new --out out", "new/more and new lie in each other"),
    ("good new --out new", "--out new lies in new, where results would be taken for images"),
    ("good new --out good/out", "--out good/out lies in good, where results would be taken for"),
    ("mine/overlays new --out mine", "mine/overlays lies in mine/overlays, which is replaced"),
    ("good new --out mine", "mine/overlays is there and is no result of htdg: choose another"),
    ("good new --out new/fine0.png/x", "lies in new"),
    ("good new --out text/notes.txt", "--out text/notes.txt cannot be a folder"),
    ("good new --out out --model text", "text is there and is no htdg model"),
    ("good new --out out --shots 0", "--shots is 0, but it must be at least 1."),
    ("good new --out out --shots 13", "--shots is 13, but there are 12 good images."),
    ("good new --out out --false-positive-rate 5", "must be between 0 and 1 (0.05 is 5 %)."),
    ("good new --out out --niter 0", "Option niter is 0, but it must be"),
    ("good new --out out --geom-epochs 3", "--geom-epochs makes no difference to method htdg"),
    ("good new --out out --device cuda:77", "Option device is 'cuda:77', but"),
    ("good new --out out --seed -1", "Option seed is -1, but it must be"),
]


@pytest.mark.parametrize(("words", "sentence"), MISTAKES)
def test_a_mistake_gets_one_sentence_and_changes_nothing(words, sentence, place, capsys):
    (place / "empty").mkdir()
    (place / "text").mkdir()
    (place / "text" / "notes.txt").write_text("no picture")
    (place / "broken").mkdir()
    (place / "broken" / "a.png").write_text("no picture")
    save(place / "mine" / "overlays" / "a.png", texture(0))
    before = contents(place)
    assert main(["inspect", *words.split(), *SMALL[:-2]]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = [x for x in shown.err.splitlines() if not re.search(r"skipped\.|broken/a.png", x)]
    assert len(lines) == 1
    assert lines[0].startswith("htdg: ")
    assert sentence in lines[0]
    assert contents(place) == before
    assert not (place / "out").exists()


# --- Again --------------------------------------------------------------------------------------


def test_a_second_run_takes_the_model_and_gives_the_same_results(place, capsys, monkeypatch):
    assert run() == 0
    first = contents(place / "out")
    capsys.readouterr()
    for name in ("fit", "calibrate"):
        monkeypatch.setattr(HTDGDetector, name, None)
    assert run() == 0
    assert "htdg: out/model is taken as it is.\n" in capsys.readouterr().err
    assert contents(place / "out") == first


def test_results_of_images_that_are_gone_go_too(place):
    assert run() == 0
    (place / "new" / "fine0.png").unlink()
    assert run() == 0
    assert len(rows(place)) == 3
    assert len(list((place / "out" / "overlays").rglob("*.png"))) == 3


def test_a_model_can_be_kept_elsewhere_and_shared(place, monkeypatch):
    assert run("--model", "shared/model") == 0
    monkeypatch.setattr(HTDGDetector, "fit", None)
    words = ["inspect", "good", "new", "--out", "later", "--model", "shared/model", *SMALL]
    assert main(words) == 0
    assert not (place / "later" / "model").exists()
    assert contents(place / "later") == contents(place / "out")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (["--patch-side", "7"], "other options (patch_side)"),
        (["--seed", "1"], "other options (seed)"),
        (["--shots", "3"], "other good images"),
        ([], "other good images"),
    ],
)
def test_a_model_of_other_images_or_options_is_refused(place, capsys, change, reason):
    assert run() == 0
    if not change:
        chosen = HTDGDetector.load(place / "out" / "model", device="cpu").image_names_[0]
        save(place / chosen, texture(99))
    before = contents(place / "out")
    capsys.readouterr()
    assert run(*change) == 2
    assert capsys.readouterr().err.endswith(
        f"htdg: out/model was made of {reason}: add --retrain to replace it, or choose another "
        "folder.\n"
    )
    assert contents(place / "out") == before
    assert run(*change, "--retrain") == 0
    assert contents(place / "out")[model_file()] != before[model_file()]


def model_file():
    return inspect.Path("model") / "config.json"


def test_a_damaged_model_is_replaced_only_on_request(place, capsys):
    assert run() == 0
    (place / "out" / "model" / "weights.safetensors").write_bytes(b"nothing")
    assert run() == 2
    assert "weights.safetensors is damaged" in capsys.readouterr().err
    assert run("--retrain") == 0
    assert len(rows(place)) == 4


def test_a_threshold_of_other_images_or_by_hand_is_chosen_anew(place):
    assert run("--shots", "2") == 0
    model = HTDGDetector.load(place / "out" / "model", device="cpu")
    chosen = model.threshold_
    model.calibrate([place / "new" / "fine0.png"], 0.3)
    model.save_threshold(place / "out" / "model")
    assert run("--shots", "2") == 0
    assert HTDGDetector.load(place / "out" / "model", device="cpu").threshold_ == chosen
    held_out = split(sorted((place / "good").iterdir()), 2, 0)[1]
    save(held_out[0], texture(81, defect=True))
    assert run("--shots", "2") == 0
    threshold = HTDGDetector.load(place / "out" / "model", device="cpu").threshold_
    assert threshold.score > chosen.score


# --- Broken off ---------------------------------------------------------------------------------

#: Votes, too, of two scales or more, with two iterations each.
TRAINED = ["--evidence", "both", "--niter", "2", "--channels", "4", "--shots", "1"]
TRAINED += ["--max-size", "32"]


def stop_training(monkeypatch):
    """Have the first training stop as by Ctrl-C, in its second scale."""
    step, done = ScaleTraining.step, []

    def step_then_stop(self):
        step(self)
        done.append(self.scale.side)
        if len(done) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(ScaleTraining, "step", step_then_stop)
    return done


def test_a_training_that_was_stopped_goes_on(place, monkeypatch, capsys):
    done = stop_training(monkeypatch)
    assert run(*TRAINED) == 130
    assert [p.name for p in (place / "out").iterdir()] == ["model.unfinished"]
    capsys.readouterr()
    assert run(*TRAINED, "--lr-d", "0.001") == 2
    assert "unfinished training with other options or images" in capsys.readouterr().err
    assert run(*TRAINED) == 0
    assert "going on with" in capsys.readouterr().err
    scales = HTDGDetector.load(place / "out" / "model", device="cpu").sides_
    assert len(done) == 3 + 2 * (len(scales) - 1)  # the first scale was not trained again
    assert not (place / "out" / "model.unfinished").exists()


def test_retraining_with_other_options_starts_afresh(place, monkeypatch):
    stop_training(monkeypatch)
    assert run(*TRAINED) == 130
    assert run(*TRAINED, "--lr-d", "0.001", "--retrain") == 0
    model = HTDGDetector.load(place / "out" / "model", device="cpu")
    assert model.config_.lr_d == 0.001
    assert not (place / "out" / "model.unfinished").exists()


def stop_after(monkeypatch, count):
    """Have the inspection stop as by Ctrl-C after so many images."""
    draw, done = inspect.pictures, []

    def draw_then_stop(path, *others):
        if len(done) == count:
            raise KeyboardInterrupt
        done.append(path.name)
        return draw(path, *others)

    monkeypatch.setattr(inspect, "pictures", draw_then_stop)
    return done


def test_an_inspection_that_was_stopped_goes_on_where_it_was(place, monkeypatch):
    assert run("--model", "m") == 0
    straight = contents(place / "out")
    save(place / "new" / "fine0.png", texture(51))
    done = stop_after(monkeypatch, 2)
    assert run("--model", "m") == 130
    # The earlier results are there, untouched.
    assert {k: v for k, v in contents(place / "out").items() if k in straight} == straight
    unfinished = place / "out" / "inspection.unfinished"
    with (unfinished / "results.jsonl").open("a") as lines:
        lines.write('{"name": "hole')  # killed while it was writing
    monkeypatch.undo()
    monkeypatch.chdir(place)
    monkeypatch.setattr(HTDGDetector, "calibrate", None)  # the threshold is known already
    drawn = stop_after(monkeypatch, -1)
    assert run("--model", "m") == 0
    assert (done, drawn) == (["fine0.png", "fine1.png"], ["hole0.png", "hole1.png"])
    assert not unfinished.exists()
    monkeypatch.undo()
    monkeypatch.chdir(place)
    resumed = contents(place / "out")
    assert run("--model", "m") == 0
    assert contents(place / "out") == resumed
    assert resumed != straight


@pytest.mark.parametrize("change", ["image", "rate", "held out"])
def test_results_so_far_are_dropped_when_what_they_depend_on_changes(place, monkeypatch, change):
    stop_after(monkeypatch, 2)
    assert run() == 130
    monkeypatch.undo()
    monkeypatch.chdir(place)
    words = []
    if change == "image":
        save(place / "new" / "fine0.png", texture(80, defect=True))
    elif change == "rate":
        words = ["--false-positive-rate", "0.4"]
    else:
        held_out = split(sorted((place / "good").iterdir()), 6, 0)[1]
        save(held_out[0], texture(81, defect=True))
    assert run(*words) == 0
    resumed = contents(place / "out")
    assert run(*words) == 0
    assert contents(place / "out") == resumed


def test_stopped_between_the_overlays_and_the_table(place, monkeypatch):
    write = inspect.write_text

    def stop_at_the_table(path, text):
        if path.name == "scores.csv":
            raise KeyboardInterrupt
        write(path, text)

    monkeypatch.setattr(inspect, "write_text", stop_at_the_table)
    assert run() == 130
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert run() == 0
    assert len(list((place / "out" / "overlays").rglob("*.png"))) == len(rows(place)) == 4


# --- Pictures and page --------------------------------------------------------------------------


def threshold(pixel):
    return Threshold(0.6, pixel, 0.05, 20, "held-out images", DEFECT_FRACTION)


def test_the_scale_follows_from_the_threshold_alone():
    scale = ColourScale.of_threshold(0.8)
    assert (scale.low, scale.high, scale.line) == pytest.approx((0.75, 0.9, 0.8))
    assert ColourScale.of_threshold(threshold(0.8)) == scale
    assert ColourScale.of_threshold(None) == ColourScale(0.5, 1.0, None)
    assert ColourScale.of_threshold(1.0).low < 1  # nothing is divided by 0


def test_the_scale_of_maps_goes_from_their_middle_to_the_highest_value_of_all():
    assert ColourScale.of_maps([0.9, 0.97, 0.95], [0.96, 0.99, 0.98]) == ColourScale(
        0.95, 0.99, None
    )
    constant = ColourScale.of_maps([0.7], [0.7])
    assert constant.low == 0.7 < constant.high  # nothing is divided by 0


def test_equal_values_have_equal_tints_in_all_images():
    image = np.full((20, 20, 3), 100, np.uint8)
    scale = ColourScale(0.4, 0.8, None)
    calm, wild = np.full((20, 20), 0.4, np.float32), np.full((20, 20), 0.4, np.float32)
    calm[0, 0] = wild[0, 0] = 0.6
    wild[9, 9] = 1.0
    drawn = [overlay(image, of_image, scale) for of_image in (calm, wild)]
    assert (drawn[0][0, 0] == drawn[1][0, 0]).all()
    assert (drawn[0][5, 5] == 100).all()
    # Half of the tint at 0.6, all of it from 0.8 on: vermillion is (213, 94, 0).
    np.testing.assert_allclose(drawn[0][0, 0], 100 + 0.275 * (np.array([213, 94, 0]) - 100), atol=1)
    np.testing.assert_allclose(drawn[1][9, 9], 100 + 0.55 * (np.array([213, 94, 0]) - 100), atol=1)


@pytest.mark.parametrize("grey", [0, 255])
def test_the_line_is_seen_on_black_and_on_white(grey):
    image = np.full((30, 30, 3), grey, np.uint8)
    of_image = np.zeros((30, 30), np.float32)
    of_image[10:15, 10:15] = 0.7
    drawn = overlay(image, of_image, ColourScale(0.8, 0.9, 0.6))  # nothing is tinted
    assert (drawn[10:15, 10:15] == grey).all()
    assert (drawn[9, 10:15] == 255).all()
    assert (drawn[8, 10:15] == 0).all()
    assert (drawn[:7] == grey).all()


def test_large_images_have_smaller_overlays():
    image = np.zeros((600, 2400, 3), np.uint8)
    of_image = np.zeros((600, 2400), np.float32)
    scale = ColourScale.of_threshold(None)
    assert overlay_picture(image, of_image, scale).shape == (300, 1200, 3)
    assert overlay_picture(image[:5, :7], of_image[:5, :7], scale).shape == (5, 7, 3)


@pytest.mark.parametrize(
    ("spot", "words"),
    [((0, 0), "top left"), ((5, 5), "centre"), ((8, 4), "bottom"), ((4, 8), "right")],
)
def test_where_in_words(spot, words):
    of_image = np.zeros((9, 9))
    of_image[spot] = 1
    assert place_in_words(of_image) == words


def test_a_page_of_very_many_images_shows_the_worst_and_lists_the_rest():
    images = [
        InspectedImage(f"{i}.png", 0.9, {}, "anomalous", f"overlays/{i}.png", "centre", 0.1)
        for i in range(MOST_SHOWN + 2)
    ]
    asked = []

    def picture(image):
        asked.append(image.file)
        return b"jpeg"

    page = inspection_page("t", "s", [], images, {}, ColourScale.of_threshold(None), picture)
    assert asked == [f"{i}.png" for i in range(MOST_SHOWN)]
    assert "The other 2, less anomalous" in page
    assert f'<a href="overlays/{MOST_SHOWN}.png">{MOST_SHOWN}.png</a>' in page
    assert f"✕ Anomalous ({MOST_SHOWN + 2})" in page


# --- The tint -----------------------------------------------------------------------------------


def one_colour(red, green, blue):
    """A training image (1, 3, 8, 8) in [-1, 1] of one colour, given in [0, 1]."""
    return torch.tensor([red, green, blue]).view(1, 3, 1, 1).expand(1, 3, 8, 8) * 2 - 1


@pytest.mark.parametrize(
    ("colour", "unlike"),
    [
        ((0.84, 0.37, 0.0), {"vermillion", "yellow"}),  # orange parts
        ((0.0, 0.8, 1.0), {"cyan"}),
        ((0.9, 0.0, 0.9), {"magenta"}),
        ((1.0, 0.9, 0.0), {"yellow", "vermillion"}),
    ],
)
def test_the_tint_is_unlike_the_training_images(colour, unlike):
    assert clearest_tint(one_colour(*colour)) not in unlike


def test_a_tint_counts_by_the_pixels_that_it_is_seen_least_on():
    # Brown in a fifth of it, white around: cyan differs from both, vermillion not from brown.
    image = one_colour(1.0, 1.0, 1.0).clone()
    image[..., :2, :] = one_colour(0.6, 0.3, 0.1)[..., :2, :]
    assert clearest_tint(image) == "cyan"


def test_the_tint_of_the_overlays_can_be_chosen(place):
    def overlays():
        folder = place / "out" / "overlays"
        return np.asarray(Image.open(folder / "more" / "hole0.png")).astype(int)[5:10, 6:12]

    assert run("--tint", "cyan") == 0
    cyan = overlays()
    assert run("--tint", "vermillion") == 0  # the results are made anew
    red = overlays()
    assert (cyan[..., 2] > red[..., 2]).all()
    assert (cyan[..., 0] < red[..., 0]).all()
    assert "rgba(213,94,0,0)" in (place / "out" / "index.html").read_text(encoding="utf-8")
