"""Standard output and error that are closed, full or a terminal; Ctrl-C before anything begins."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from htdg.commands import streams
from htdg.commands.cli import main
from htdg.commands.streams import HARMLESS, HarmlessText
from htdg.io.files import OutputError, check_writable, printable

IMAGE = Path(__file__).parents[2] / "data" / "textures" / "brick" / "train" / "good" / "000.png"
HTDG = f"exec {sys.executable} -m htdg"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="shells differ")
full = pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no /dev/full")


def shell(command, folder):
    """Run a command line with redirections; returns its exit code, and what it still printed."""
    ended = subprocess.run(
        ["sh", "-c", f"{HTDG} {command}"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in ended.stdout + ended.stderr
    assert "Exception ignored" not in ended.stderr
    return ended.returncode, ended.stdout, ended.stderr


CANNOT = "htdg: Standard output cannot be written: No space left on device.\n"


@full
def test_a_full_disk_under_the_output_is_told(tmp_path):
    assert shell("--version > /dev/full", tmp_path) == (2, "", CANNOT)
    assert shell("--help > /dev/full", tmp_path) == (2, "", CANNOT)
    assert shell("info nothing > /dev/full 2> /dev/full", tmp_path) == (2, "", "")


def test_closed_streams_lead_nowhere_and_cost_no_result(tmp_path):
    """The model's files must not take the numbers of the closed streams."""
    words = f"train {IMAGE} --preset tiny --niter 1 --out model"
    assert shell(f"{words} <&- >&- 2>&-", tmp_path) == (0, "", "")
    assert main(["info", str(tmp_path / "model")]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@full
def test_messages_that_cannot_be_written_do_not_stop_the_work(tmp_path):
    code, out, _ = shell(f"train {IMAGE} --preset tiny --niter 1 --out m 2> /dev/full", tmp_path)
    assert (code, out) == (0, "m\n")


def test_what_ends_with_its_reader_ends_quietly(tmp_path):
    raw = streams._Messages(os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT), "w")
    assert raw.write(b"abc") == 3
    reading, writing = os.pipe()
    os.close(reading)
    for kind in (streams._Messages, streams._Output):
        with kind(os.dup(writing), "w") as raw, pytest.raises(BrokenPipeError):
            raw.write(b"abc")
    os.close(writing)
    raw = streams._Output(os.open(tmp_path / "log", os.O_RDONLY), "w")
    with pytest.raises(OutputError, match="Standard output cannot be written: Bad file desc"):
        raw.write(b"abc")


@pytest.mark.parametrize("seconds", [0.2, 0.5, 1.0])
def test_ctrl_c_while_pytorch_is_imported_ends_quietly(tmp_path, seconds):
    words = [sys.executable, "-m", "htdg", "train", str(IMAGE), "--out", "model"]
    words += ["--preset", "tiny", "--niter", "1000000"]
    child = subprocess.Popen(
        words,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell may have started the tests in the background, where nobody hears Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(seconds)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (130, "")
    assert err.splitlines()[-1].startswith("htdg: stopped")
    assert "Traceback" not in err


# --- What names can hold -------------------------------------------------------------------------


def harmless(text):
    raw = io.BytesIO()
    stream = HarmlessText(raw, encoding="utf-8", errors="backslashreplace")
    print(text, file=stream, end="", flush=True)
    return raw.getvalue().decode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("a\x9b31m", "a\\x9b31m"),
        ("a\rb", "a\\x0db"),
        ("\rbar", "\rbar"),  # a progress bar's own
        ("\r\x1b", "\r\\x1b"),
        ("one\ntwo\tthree ä 漢 😀", "one\ntwo\tthree ä 漢 😀"),
        ("gnp.\u202eexe", "gnp.\\u202eexe"),
        ("\ud800", "\\ud800"),
        ("", ""),
    ],
)
def test_a_terminal_shows_names_and_does_not_obey_them(text, shown):
    assert harmless(text) == shown


def test_every_control_character_but_ends_of_lines_and_tabs_is_harmless():
    controls = {chr(code) for code in (*range(32), *range(127, 160))}
    assert {chr(code) for code in HARMLESS} >= controls - {"\n", "\t"}


def test_escapes_in_a_models_names_are_shown(tmp_path):
    (tmp_path / "\x1b[31mred.png").write_bytes(IMAGE.read_bytes())
    words = ["train", str(tmp_path / "\x1b[31mred.png"), "--out", str(tmp_path / "m")]
    assert main([*words, "--preset", "tiny", "--niter", "1"]) == 0
    code, out, err = shell("info m", tmp_path)
    assert code == 0
    assert "\\x1b[31mred.png\n" in out
    assert "\x1b" not in out + err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (os.fsdecode(b"a\xff.png"), "a\\xff.png"),
        ("\ud800x", "\\ud800x"),
        ("\udfff\udcfe", "\\udfff\\xfe"),
        ("ä 漢", "ä 漢"),
    ],
)
def test_every_text_can_be_written_as_utf_8(text, shown):
    assert printable(text) == shown
    assert printable(text).encode() == shown.encode()


# --- Where results go ----------------------------------------------------------------------------


def test_no_file_takes_the_place_of_a_pipe_or_a_device(tmp_path):
    """As root, ``--csv /dev/null`` would otherwise put a table there."""
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(OutputError, match="is no regular file"):
            check_writable(place)
    check_writable(tmp_path / "new")
    check_writable(tmp_path)
