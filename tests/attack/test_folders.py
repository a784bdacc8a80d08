"""Folders that are replaced and deleted in one step, whoever is killed; one writer at a time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from htdg.io import folders
from htdg.io.folders import beside, exchange, put, recover, remove
from htdg.io.locks import BusyError, only_one


def folder(path, text):
    path.mkdir(parents=True)
    (path / "a.txt").write_text(text)
    return path


def dead():
    """The number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


@pytest.mark.parametrize("atomic", [True, False])
def test_a_folder_takes_the_place_of_another(tmp_path, monkeypatch, atomic):
    if not atomic:
        monkeypatch.setattr(folders, "exchange", lambda *_: False)
    put(folder(tmp_path / "new", "first"), tmp_path / "place")
    put(folder(tmp_path / "new", "second"), tmp_path / "place")
    assert (tmp_path / "place" / "a.txt").read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["place"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone exchanges")
def test_two_folders_change_places_in_one_step(tmp_path):
    one, two = folder(tmp_path / "1", "one"), folder(tmp_path / "2", "two")
    assert exchange(one, two)
    assert (one / "a.txt").read_text(), (two / "a.txt").read_text() == ("two", "one")
    assert not exchange(one, tmp_path / "nowhere")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone exchanges")
def test_while_a_folder_is_replaced_there_is_always_one(tmp_path, monkeypatch):
    """Between any two calls of the system."""
    put(folder(tmp_path / "new", "first"), tmp_path / "place")
    rename, rmtree, seen = Path.rename, folders.shutil.rmtree, []

    def look():
        seen.append((tmp_path / "place" / "a.txt").read_text())

    def watched(call):
        def watch(*arguments, **options):
            look()
            result = call(*arguments, **options)
            look()
            return result

        return watch

    monkeypatch.setattr(Path, "rename", watched(rename))
    monkeypatch.setattr(folders.shutil, "rmtree", watched(rmtree))
    put(folder(tmp_path / "new", "second"), tmp_path / "place")
    assert seen == ["second"] * 2


def test_what_a_killed_exchange_left_is_put_right(tmp_path):
    number = dead()
    # Killed between the two renames of a system that cannot exchange.
    folder(tmp_path / f".m.{number}.old", "old")
    folder(tmp_path / f".m.{number}.tmp", "half")
    folder(tmp_path / f".other.{number}.tmp", "of another")
    recover(tmp_path / "m")
    assert (tmp_path / "m" / "a.txt").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == [f".other.{number}.tmp", "m"]
    # Killed while the old one was deleted.
    folder(tmp_path / f".m.{number}.old", "older")
    recover(tmp_path / "m")
    assert (tmp_path / "m" / "a.txt").read_text() == "old"
    assert not (tmp_path / f".m.{number}.old").exists()


def test_what_a_running_program_writes_is_left_alone(tmp_path):
    running = folder(tmp_path / f".m.{os.getppid()}.tmp", "half")
    own = folder(tmp_path / f".m.{os.getpid()}.tmp", "of a killed one with our number")
    recover(tmp_path / "m")
    assert running.exists()
    assert not own.exists()


def test_a_folder_is_gone_at_once(tmp_path, monkeypatch):
    place = folder(tmp_path / "m", "old")

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(folders.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove(place)
    assert not place.exists()
    monkeypatch.undo()
    assert (beside(place, "gone") / "a.txt").is_file()
    recover(place)  # as the next training does
    assert list(tmp_path.iterdir()) == []
    remove(tmp_path / "nowhere")


# --- One writer ---------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from htdg.io.locks import only_one
with only_one(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that writes to ``m``."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "m")], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "locked\n"
    yield child
    child.kill()
    child.wait()


@pytest.mark.skipif(os.name != "posix", reason="there are no such locks")
def test_the_second_writer_is_refused_and_told_of_the_first(tmp_path, holder):
    with pytest.raises(BusyError) as refused, only_one(tmp_path / "m"):
        pass
    assert str(refused.value) == (
        f"{tmp_path / 'm'} is being written by process {holder.pid}: wait until it is done, or "
        "choose another place."
    )
    with only_one(tmp_path / "n"):  # another place is free
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with only_one(tmp_path / "m"):  # and a killed one holds nothing
        assert (tmp_path / ".m.lock").read_text() == f"{os.getpid()}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_lock_leaves_no_folders_behind(tmp_path):
    with only_one(tmp_path / "a" / "b" / "m"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with only_one(tmp_path / "a" / "b" / "m"):
        (tmp_path / "a" / "b" / "m").mkdir()
    assert (tmp_path / "a" / "b" / "m").is_dir()


@pytest.mark.skipif(os.name != "posix", reason="there are no such locks")
def test_a_second_training_into_the_same_folder_is_refused_at_once(tmp_path):
    image = Path(__file__).parents[2] / "data" / "textures" / "brick" / "train" / "good"
    words = [sys.executable, "-m", "htdg", "train", str(sorted(image.glob("*.png"))[0])]
    words += ["--preset", "tiny", "--niter", "100000", "--out", str(tmp_path / "m")]
    first = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / ".m.lock").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        second = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    finally:
        first.kill()
        first.wait()
    assert second.returncode == 2
    assert second.stderr.endswith(
        f"m is being written by process {first.pid}: wait until it is done, or choose another "
        "place.\n"
    )
