"""``htdg score --watch``: rows of images as they come, whatever happens to files and processes.

Most tests let the sleep between two looks do what happens meanwhile; the last ones have real
processes.
"""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from htdg.commands import watch as watching
from htdg.commands.cli import main
from htdg.commands.kept import cut_broken_end, json_lines
from htdg.commands.watch import TRIES, WatchedFolder

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
THRESHOLD = ["--threshold", "0.5"]


@pytest.fixture(scope="module")
def model(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("watch") / "model"
    tiny.save(folder)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch, model, brick):
    """A working directory with a folder ``new`` for images, and four of them beside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new").mkdir()
    for name, image in zip("abcd", brick[1], strict=False):
        Image.fromarray(image).save(f"{name}.png")
    return tmp_path


def rows(table="out/scores.csv"):
    with Path(table).open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def names(table="out/scores.csv"):
    return [row["image"].removeprefix("new/") for row in rows(table)]


def come(name, source, as_name=None):
    """An image comes into the folder."""
    shutil.copy(f"{source}.png", f"new/{as_name or name}")


def watched(model, monkeypatch, *steps, words=()):
    """The exit code of a watch; each of ``steps`` happens between two looks, then Ctrl-C."""
    left = iter(steps)

    def sleep(_seconds):
        step = next(left, None)
        if step is None:
            raise KeyboardInterrupt
        step()

    monkeypatch.setattr(watching.time, "sleep", sleep)
    return main(["score", str(model), "new", "--out", "out", "--watch", *THRESHOLD, *words])


def nothing():
    """What happens when nothing does."""


def plain(model, words=()):
    """The rows of ``htdg score``, by its own table."""
    main(["score", str(model), "new", "--csv", "plain.csv", *THRESHOLD, *words])
    return rows("plain.csv")


def by_name(some):
    return sorted(some, key=lambda row: row["image"])


# --- What comes ---------------------------------------------------------------------------------


def test_rows_are_those_of_score(model, here, monkeypatch, capsys):
    come("a.png", "a")
    (here / "new" / "more").mkdir()
    (here / "new" / "notes.txt").write_text("no picture")

    def later():
        come("more/b.png", "b")
        come("c.png", "c")

    assert watched(model, monkeypatch, nothing, later, nothing, nothing) == 130
    said = capsys.readouterr().err
    assert names() == ["a.png", "c.png", "more/b.png"]
    assert by_name(rows()) == by_name(plain(model))
    assert said.count("notes.txt is no image: skipped.") == 1
    assert "  2 scored" in said
    assert "htdg: stopped; a training or a watch goes on when started again." in said


def test_what_changes_while_it_is_read_has_one_row(model, here, monkeypatch):
    """That of the file that is there in the end, although two looks saw the one before."""
    come("a.png", "a")
    read, changes = watching.ImagesOrGrey, []

    def changed(paths, **options):
        if not changes:
            changes.append(come("a.png", "b"))
            os.utime("new/a.png", ns=(1, 1))
        return read(paths, **options)

    monkeypatch.setattr(watching, "ImagesOrGrey", changed)
    assert watched(model, monkeypatch, nothing, nothing, nothing, nothing) == 130
    assert len(changes) == 1
    assert rows() == plain(model)


def test_what_grows_waits_until_two_looks_see_the_same(here):
    scores = SimpleNamespace(done={})
    folder = WatchedFolder(here / "new", scores, [])
    path, whole = here / "new" / "a.png", (here / "a.png").read_bytes()
    path.write_bytes(whole[:100])
    assert folder.look() == {}
    path.write_bytes(whole[:200])
    assert folder.look() == {}
    path.write_bytes(whole)
    os.utime(path, ns=(0, 1))
    assert folder.look() == {}
    os.utime(path, ns=(0, 2))  # of the same size, and written to
    assert folder.look() == {}
    assert folder.look() == {path: (len(whole), 2)}
    assert list(folder.look()) == [path]  # until it is done
    scores.done["a.png"] = (len(whole), 2)
    assert folder.look() == {}
    os.utime(path, ns=(0, 3))  # replaced
    assert folder.look() == {}
    assert list(folder.look()) == [path]


def test_results_and_hidden_files_are_no_input(model, here, monkeypatch):
    come("a.png", "a")
    come(".b.png", "b")
    words = ["--maps", "new/maps"]
    assert watched(model, monkeypatch, *[nothing] * 4, words=words) == 130
    assert names() == ["a.png"]
    drawn = ["a_map.png", "a_overlay.png", "overlay_colours.png"]
    assert sorted(p.name for p in (here / "new" / "maps").iterdir()) == drawn


def test_a_file_that_is_replaced_is_scored_again(model, here, monkeypatch):
    come("a.png", "a")
    assert watched(model, monkeypatch, nothing, lambda: come("a.png", "b"), nothing) == 130
    first, second = rows()
    assert first["image"] == second["image"] == "new/a.png"
    assert first["anomaly_score"] != second["anomaly_score"]
    assert [second] == plain(model)
    assert watched(model, monkeypatch, nothing, nothing) == 130  # and not once more
    assert rows() == [first, second]


def test_a_file_that_can_be_read_later_has_one_row(model, here, monkeypatch):
    whole = (here / "a.png").read_bytes()
    path = here / "new" / "a.png"
    path.write_bytes(whole[: len(whole) // 2])
    steps = [*[nothing] * 4, lambda: path.write_bytes(whole), nothing, nothing]
    assert watched(model, monkeypatch, *steps) == 130
    assert rows() == plain(model)
    assert rows()[0]["problem"] == ""


def test_a_file_that_cannot_be_read_has_its_row_after_some_tries(
    model, here, monkeypatch, capsys, brick
):
    (here / "new" / "bad.png").write_text("no picture")
    come("a.png", "a")
    reads = []
    read = watching.ImagesOrGrey.__getitem__
    monkeypatch.setattr(
        watching.ImagesOrGrey,
        "__getitem__",
        lambda self, i: (reads.append(self.paths[i].name), read(self, i))[1],
    )
    assert watched(model, monkeypatch, *[nothing] * 15) == 130
    assert names() == ["a.png"]
    assert watched(model, monkeypatch, *[nothing] * 20) == 130
    assert names() == ["a.png", "bad.png"]
    assert reads.count("bad.png") == 4 + TRIES  # at looks 1, 2, 4 and 8 the first time
    assert by_name(rows()) == by_name(plain(model))
    assert "1 unreadable" in capsys.readouterr().err


def test_a_file_that_goes_again_has_no_row(model, here, monkeypatch):
    come("a.png", "a")
    gone = here / "new" / "b.png"
    come("b.png", "b")
    seen = WatchedFolder.look

    def look(self):
        ready = seen(self)
        if ready:
            gone.unlink(missing_ok=True)  # when its turn comes
        return ready

    monkeypatch.setattr(WatchedFolder, "look", look)
    assert watched(model, monkeypatch, *[nothing] * 20) == 130
    assert names() == ["a.png"]


def test_a_folder_that_is_gone_is_waited_for(model, here, monkeypatch, capsys):
    come("a.png", "a")
    away = [lambda: Path("new").rename("away"), nothing, lambda: Path("away").rename("new")]
    steps = [nothing, *away, lambda: come("b.png", "b"), nothing, nothing]
    assert watched(model, monkeypatch, *steps) == 130
    assert names() == ["a.png", "b.png"]
    said = capsys.readouterr().err
    assert said.count("new is gone: waiting for it") == said.count("new is there again") == 1


# --- Maps ---------------------------------------------------------------------------------------


def test_maps_are_those_of_score_and_keep_their_names(model, here, monkeypatch):
    come("a.png", "a")
    words = ["--maps", "maps"]
    second = [nothing, lambda: come("b.png", "b"), nothing, nothing]
    assert watched(model, monkeypatch, *second, words=words) == 130
    expected = plain(model, ["--maps", "plain_maps"])
    for row in expected:
        for kind in ("map", "overlay"):
            row[kind] = row[kind].removeprefix("plain_")
            with Image.open(row[kind]) as ours, Image.open(f"plain_{row[kind]}") as theirs:
                np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    assert rows() == expected
    Image.open("c.png").save("new/a.bmp")  # would be called like a.png's
    come("a.png.png", "d")
    assert watched(model, monkeypatch, *[nothing] * 3, words=words) == 130
    assert {row["image"]: row["map"] for row in rows()} == {
        "new/a.png": "maps/a_map.png",
        "new/b.png": "maps/b_map.png",
        "new/a.bmp": "maps/a.bmp_map.png",
        "new/a.png.png": "maps/a.png_map.png",
    }


# --- Going on -----------------------------------------------------------------------------------


def test_a_watch_goes_on_after_a_power_cut(model, here, monkeypatch, capsys):
    for name in "ab":
        come(f"{name}.png", name)
    assert watched(model, monkeypatch, nothing, nothing) == 130
    whole = (here / "out" / "scores.csv").read_text()
    # Half a row of the table, and half a line of the journal, of the second image.
    (here / "out" / "scores.csv").write_text(whole[:-20])
    journal = here / "out" / "watched.jsonl"
    journal.write_bytes(journal.read_bytes()[:-30])
    come("c.png", "c")
    assert watched(model, monkeypatch, nothing, nothing) == 130
    assert "htdg: going on: 1 images have a row already" in capsys.readouterr().err
    assert (here / "out" / "scores.csv").read_text().startswith(whole)
    assert names() == ["a.png", "b.png", "c.png"]
    assert rows() == plain(model)


def test_a_table_that_was_taken_away_begins_anew(model, here, monkeypatch):
    come("a.png", "a")

    def taken():
        Path("out/scores.csv").rename("yesterday.csv")
        come("b.png", "b")

    assert watched(model, monkeypatch, nothing, taken, nothing, nothing) == 130
    assert names("yesterday.csv") == ["a.png"]
    assert names() == ["b.png"]
    assert rows("yesterday.csv") + rows() == plain(model)


def test_only_whole_lines_of_a_journal_are_kept(tmp_path):
    path = tmp_path / "lines"
    for end in (b"", b'{"n": 3', b'{"n": 3}', b"\0\0\0\0", b'\xff\n{"n": 3}\n'):
        path.write_bytes(b'{"n": 1}\n{"n": 2}\n' + end)
        assert list(json_lines(path)) == [{"n": 1}, {"n": 2}]
        cut_broken_end(path)
        assert path.read_bytes() == b'{"n": 1}\n{"n": 2}\n'
    cut_broken_end(tmp_path / "not there")


@pytest.mark.parametrize(
    "words", [["--threshold", "0.4"], ["--defect-fraction", "0.2"], ["--maps", "maps"]]
)
def test_rows_of_other_options_are_not_mixed(model, here, monkeypatch, capsys, words):
    come("a.png", "a")
    assert watched(model, monkeypatch, nothing) == 130
    before = (here / "out" / "scores.csv").read_text()
    assert watched(model, monkeypatch, nothing, words=words) == 2
    assert "out has the scores of another folder, model, threshold or options" in (
        capsys.readouterr().err
    )
    assert (here / "out" / "scores.csv").read_text() == before


# --- Mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["new", "--watch"], "--watch writes DIR/scores.csv: name DIR with --out, and no --csv."),
        (["new", "--watch", "--out", "out", "--csv", "x.csv"], "and no --csv."),
        (["new", "a.png", "--watch", "--out", "out"], "one folder, but a.png is given."),
        (["a.png", "--watch", "--out", "out"], "one folder, but a.png is given."),
        (["nowhere", "--watch", "--out", "out"], "one folder, but nowhere is given."),
        (["new", "--watch", "--out", "out", "--strict"], "leave out --strict."),
        (["new", "--watch", "--out", "out", "--interval", "0"], "--interval is 0, but must be"),
        (["new", "--watch", "--out", "out", "--interval", "nan"], "--interval is nan, but must be"),
        (["new", "--watch", "--out", "new"], "--out new holds images to score"),
        (["new", "--watch", "--out", "."], "new lies in ., where results go"),
        (["new", "--watch", "--out", "out", "--maps", "."], "new lies in ., where results go"),
        (["new", "--watch", "--out", "a.png"], "--out a.png cannot be a folder"),
        (["new", "--watch", "--out", "out", "--maps", "maps"], "--watch --maps needs a threshold"),
        (["new", "--watch", "--out", "old"], "old/scores.csv is there, and no --watch wrote it"),
        (["new", "--out", "out"], "--out and --interval are for --watch"),
        (["new", "--interval", "1"], "--out and --interval are for --watch"),
    ],
)
def test_mistakes_are_told(model, here, capsys, words, sentence):
    (here / "old").mkdir()
    (here / "old" / "scores.csv").write_text("mine\n")
    assert main(["score", str(model), *words]) == 2
    assert sentence in capsys.readouterr().err
    assert (here / "old" / "scores.csv").read_text() == "mine\n"
    assert not (here / "out" / "scores.csv").exists()


# --- Processes ----------------------------------------------------------------------------------


def started(model, said):
    """A watch in a process of its own."""
    words = ["score", str(model), "new", "--out", "out", "--watch", "--interval", "0.5"]
    with Path(said).open("w") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "htdg", *words, *THRESHOLD],
            env=ENVIRONMENT,
            stderr=errors,
            stdout=errors,
        )


def wait_for(condition, process, seconds=120):
    """Wait until something is so, while the watch runs."""
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)


def has(*expected):
    """Whether the table has the rows of these files, whole ones."""
    try:
        return set(expected) <= set(names())
    except FileNotFoundError:
        return False


def test_killed_in_the_middle_and_started_again(model, here):
    come("a.png", "a")
    first = started(model, "first")
    try:
        wait_for(lambda: has("a.png"), first)
        refused = subprocess.run(started_words(model), env=ENVIRONMENT, capture_output=True)
        assert refused.returncode == 2
        assert f"out is being written by process {first.pid}".encode() in refused.stderr
        whole = (here / "b.png").read_bytes()
        with Path("new/b.png").open("wb") as slow:  # in two halves
            slow.write(whole[: len(whole) // 2])
            slow.flush()
            time.sleep(1.2)
            slow.write(whole[len(whole) // 2 :])
        (here / "new" / "bad.png").write_text("no picture")
        wait_for(lambda: has("b.png"), first)
        for n in range(20):
            come(f"{n}.png", "abcd"[n % 4])
        wait_for(lambda: len(names()) > 2, first)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    come("c.png", "c")
    second = started(model, "second")
    try:
        everything = ["a.png", "b.png", "c.png", "bad.png", *(f"{n}.png" for n in range(20))]
        wait_for(lambda: has(*everything), second)
    finally:
        second.send_signal(signal.SIGINT)
        assert second.wait() == 130
    assert by_name(rows()) == by_name(plain(model))
    lines = list(json_lines(Path("out/watched.jsonl")))
    assert len(lines) == 1 + len(everything)
    assert sorted(p.name for p in (here / "out").iterdir()) == ["scores.csv", "watched.jsonl"]


def started_words(model):
    """The words of a second watch into the same place."""
    words = ["score", str(model), "new", "--out", "out", "--watch"]
    return [sys.executable, "-m", "htdg", *words, *THRESHOLD]
