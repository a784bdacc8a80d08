"""Folders as they come from a camera: damaged files, odd names, copies, our own pictures."""

import csv
import io
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from htdg import HTDGDetector, Task, evaluate
from htdg.commands.cli import main
from htdg.commands.common import map_names
from tests import small_sets
from tests.models import QUIET


@pytest.fixture
def place(tiny, brick, tmp_path, monkeypatch):
    """A model, and a folder of ten photos, in the working directory."""
    tiny.save(tmp_path / "model")
    for n in range(10):
        path = tmp_path / "photos" / ("left" if n % 2 else "right") / f"{n // 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(brick[1][0], 5 * n, 1)).save(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def damage(folder):
    """Three files that cannot be read: cut off, no image, and floats that nobody can scale."""
    whole = next(folder.rglob("*.png")).read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("no picture")
    Image.fromarray(np.full((20, 20), 300.0, np.float32)).save(folder / "float.tif")
    return ["cut.png", "float.tif", "text.jpg"]


# --- 9: one damaged file costs no other ---------------------------------------------------------


def test_damaged_images_cost_the_others_nothing_in_score(place, capsys):
    assert main(["score", "model", "photos", "--csv", "before.csv"]) == 0
    names = damage(place / "photos")
    capsys.readouterr()
    words = ["score", "model", "photos", "--csv", "after.csv", "--maps", "maps"]
    assert main(words) == 1
    rows = rows_of((place / "after.csv").read_text())
    broken = [row for row in rows if row["problem"]]
    assert [row["image"] for row in broken] == [f"photos/{name}" for name in names]
    for row in broken:
        assert row["image"] in row["problem"]
        assert {row[column] for column in row if column not in ("image", "problem")} == {""}
    fine = [{k: v for k, v in row.items() if k not in ("map", "overlay")} for row in rows]
    before = rows_of((place / "before.csv").read_text())
    assert [row for row in fine if not row["problem"]] == before
    shown = capsys.readouterr().err.splitlines()
    assert shown[-1] == "htdg: 3 of 13 images cannot be read: the column problem says why."
    assert sum("cut.png is damaged" in line for line in shown) == 1
    assert len(list((place / "maps").rglob("*_map.png"))) == 10  # of grey squares there are none


def test_strict_scoring_refuses_damaged_images_and_leaves_nothing(place, capsys):
    (place / "photos" / "cut.png").write_bytes((place / "photos/left/0.png").read_bytes()[:2000])
    assert main(["score", "model", "photos", "--csv", "s.csv", "--strict"]) == 2
    assert "photos/cut.png is damaged" in capsys.readouterr().err.splitlines()[-1]
    assert not list(place.glob("s.csv*"))


def test_when_nothing_can_be_read_scoring_is_refused(place, capsys):
    (place / "cut.png").write_bytes(b"\x89PNG\r\n")
    assert main(["score", "model", "cut.png", "--csv", "s.csv"]) == 2
    assert "cut.png is no image that can be read" in capsys.readouterr().err
    assert main(["score", "model", "photos", "gone.png", "--csv", "s.csv"]) == 2
    assert capsys.readouterr() == ("", "htdg: gone.png is not there: check the path.\n")
    assert not list(place.glob("s.csv*"))


def test_damaged_images_cost_the_others_nothing_in_calibrate(place, capsys):
    assert main(["calibrate", "model", "photos"]) == 0
    before = HTDGDetector.load("model").threshold_
    damage(place / "photos")
    capsys.readouterr()
    assert main(["calibrate", "model", "photos"]) == 1
    assert HTDGDetector.load("model").threshold_ == before
    shown = capsys.readouterr().err
    assert "photos/float.tif has float values from 300 to 300" in shown
    assert shown.endswith("htdg: 3 images cannot be read and did not count.\n")


def test_damaged_images_cost_the_others_nothing_in_evaluate(tmp_path, capsys):
    data = small_sets.make_category(tmp_path)
    options = {"niter": 1, "image_size": 20, "min_size": 14, "max_size": 14}
    task = Task("folder", data_root=data, draw=0)
    whole = evaluate(task, tmp_path / "a", "tiny", progress=False)
    assert whole["unreadable"] == {}
    cut = data / "test" / "crack" / "000.png"
    content = cut.read_bytes()
    cut.unlink()
    expected = evaluate(task, tmp_path / "b", "tiny", progress=False)
    cut.write_bytes(content[: len(content) // 2])
    found = evaluate(task, tmp_path / "c", "tiny", progress=False)
    assert list(found["unreadable"]) == [str(cut)]
    assert "is damaged" in found["unreadable"][str(cut)]
    for name in ("test_images", "image_auroc", "average_precision", "pixel_auroc", "aupro"):
        assert found[name] == expected[name], name
    assert (tmp_path / "c" / "scores.csv").read_text() == (
        tmp_path / "b" / "scores.csv"
    ).read_text()
    words = ["evaluate", "--dataset", "folder", "--data-root", str(data), "--out"]
    words += [str(tmp_path / "d"), "--preset", "tiny"]
    words += [w for k, v in options.items() for w in (f"--{k.replace('_', '-')}", str(v))]
    capsys.readouterr()
    assert main(words) == 1
    shown = capsys.readouterr().err.splitlines()[-1]
    assert shown.startswith("htdg: 1 of 7 test images cannot be read and did not count:")


# --- 3: held-out images did not train, and count once -------------------------------------------


def test_what_trained_and_copies_are_not_held_out(place, brick, capsys):
    Image.fromarray(brick[0][0]).save(place / "good.png")
    HTDGDetector("tiny", niter=1).fit("good.png", **QUIET).save("model2")
    folder = place / "held"
    shutil.copytree(place / "photos", folder)
    assert main(["calibrate", "model2", "held"]) == 0
    expected = HTDGDetector.load("model2").threshold_
    assert expected.count == 10
    Image.fromarray(brick[0][0]).save(folder / "the same picture.bmp")
    shutil.copy("good.png", folder)
    for n in range(20):
        shutil.copy(folder / "left" / "0.png", folder / f"again{n}.png")
    capsys.readouterr()
    assert main(["calibrate", "model2", "held"]) == 0
    assert HTDGDetector.load("model2").threshold_ == expected
    assert capsys.readouterr().err.splitlines()[:3] == [
        "htdg: 20 of 32 images are copies of others: left out.",
        "htdg: 2 of 32 images trained the model, or are copies: left out.",
        "htdg: 10 images remain for the threshold.",
    ]
    assert main(["calibrate", "model2", "good.png"]) == 2
    assert capsys.readouterr().err.endswith(
        "None of the 1 images is left for a threshold: name normal images that did not train the "
        "model.\n"
    )


# --- 10: whatever the names ---------------------------------------------------------------------


def in_a_process(words, **environment):
    """The command line in a process of its own: exit code, standard output, standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "htdg", *words],
        capture_output=True,
        env={**os.environ, **environment},
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def odd_names(folder):
    """An image whose name is no UTF-8, and one with letters that few encodings have."""
    image = next(folder.rglob("*.png")).read_bytes()
    with open(os.fsencode(folder) + b"/caf\xe9.png", "wb") as copy:  # noqa: PTH123
        copy.write(image)
    (folder / "größe 寸法.png").write_bytes(image)


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_results_go_out_whatever_the_names(place, encoding):
    odd_names(place / "photos")
    code, out, err = in_a_process(["score", "model", "photos"], PYTHONIOENCODING=encoding)
    assert code == 0
    assert b"Traceback" not in err
    names = [row["image"] for row in rows_of(out.decode(encoding))]
    assert len(names) == 12
    assert "photos/caf\\xe9.png" in names
    spelt = "größe 寸法".encode(encoding, "backslashreplace").decode(encoding)
    assert f"photos/{spelt}.png" in names


def test_a_table_and_maps_are_written_whatever_the_names(place):
    odd_names(place / "photos")
    code, _, err = in_a_process(
        ["score", "model", "photos", "--csv", "s.csv", "--maps", "maps"], PYTHONIOENCODING="ascii"
    )
    assert code == 0, err
    rows = rows_of((place / "s.csv").read_text(encoding="utf-8"))
    assert {"photos/caf\\xe9.png", "photos/größe 寸法.png"} <= {row["image"] for row in rows}
    assert len(list((place / "maps").rglob("*_overlay.png"))) == 12
    assert os.path.exists(b"maps/caf\xe9_map.png")  # noqa: PTH110


def test_rows_are_there_as_soon_as_they_are_scored(place):
    """A run that is killed leaves what it had, under another name."""
    for n in range(300):
        shutil.copy(place / "photos/left/0.png", place / "photos" / f"more{n}.png")
    words = ["score", "model", "photos", "--csv", "s.csv", "--batch-size", "1"]
    started = subprocess.Popen([sys.executable, "-m", "htdg", *words], stderr=subprocess.DEVNULL)
    partial = place / "s.csv.partial"
    for _ in range(600):
        if partial.is_file() and len(partial.read_text().splitlines()) > 5:
            break
        time.sleep(0.05)
    started.send_signal(signal.SIGKILL)
    started.wait()
    rows = rows_of(partial.read_text())
    assert len(rows) >= 4
    assert not (place / "s.csv").exists()
    assert main(words) == 0
    assert len(rows_of((place / "s.csv").read_text())) == 310
    assert not partial.exists()


# --- 11: our own pictures -----------------------------------------------------------------------


def test_maps_lie_in_folders_like_the_images_and_the_table_says_where(place):
    assert main(["score", "model", "photos", "--csv", "s.csv", "--maps", "maps"]) == 0
    for row in rows_of((place / "s.csv").read_text()):
        stem = row["image"].removeprefix("photos/").removesuffix(".png")
        assert row["map"] == f"maps/{stem}_map.png"
        assert row["overlay"] == f"maps/{stem}_overlay.png"
        assert (place / row["map"]).is_file()
        assert (place / row["overlay"]).is_file()


def test_maps_are_not_scored_the_next_time(place, capsys):
    assert main(["score", "model", "photos", "--csv", "a.csv", "--maps", "photos/maps"]) == 0
    (place / "photos" / "left" / "road_map.png").write_bytes(
        (place / "photos/left/0.png").read_bytes()
    )  # called like a map of ours, but without an overlay
    capsys.readouterr()
    assert main(["score", "model", "photos", "--csv", "b.csv"]) == 0
    line = "htdg: 21 maps and overlays in photos, which htdg wrote, are left out.\n"
    assert line in capsys.readouterr().err
    before = [row["image"] for row in rows_of((place / "a.csv").read_text())]
    after = [row["image"] for row in rows_of((place / "b.csv").read_text())]
    assert sorted(after) == sorted([*before, "photos/left/road_map.png"])


def test_a_bar_beside_the_overlays_says_what_the_colours_mean(place):
    assert main(["calibrate", "model", "photos"]) == 0
    assert main(["score", "model", "photos", "--csv", "s.csv", "--maps", "maps"]) == 0
    bar = np.asarray(Image.open(place / "maps" / "overlay_colours.png").convert("RGB"))
    assert bar.shape[1] > 3 * bar.shape[0]
    assert len(np.unique(bar.reshape(-1, 3), axis=0)) > 50  # a gradient


def test_names_of_maps():
    def names(*paths):
        return map_names([small_sets.Path(path) for path in paths])

    assert names("a.png", "b/a.png", "b/c.jpg") == ["a", "b/a", "b/c"]
    assert names("a.png", "a.jpg", "b.png") == ["a.png", "a.jpg", "b"]
    # Files of several folders that were named may have the very same path.
    assert names("a.png", "a.png", "a.png") == ["a.png", "a.png_2", "a.png_3"]
    assert names("x", "x_2", "x") == ["x", "x_2", "x_3"]
    # A name may have 255 bytes, without room for an ending.
    assert names(f"b/{'x' * 251}.png") == [f"b/{'x' * 200}"]
    assert names(f"{'x' * 250}1.png", f"{'x' * 250}2.png") == ["x" * 200, f"{'x' * 200}_2"]
    assert names("x" + "漢" * 80) == ["x" + "漢" * 66]  # of 3 bytes each
