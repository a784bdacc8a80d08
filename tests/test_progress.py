"""Progress lines: what they say, and how they are drawn in a terminal, a pipe and a notebook."""

import io
import sys
import types

import pytest

from htdg.runtime import progress
from htdg.runtime.progress import (
    ProgressBar,
    TrainingProgress,
    clock,
    draw_bar,
    suitable_look,
    training_bar,
)


class Terminal(io.StringIO):
    """Understands carriage returns, so that tests see what a reader sees."""

    def isatty(self):
        return True

    def screen(self):
        lines = [""]
        for part in self.getvalue().splitlines(keepends=True):
            text = part.rstrip("\r\n")
            lines[-1] = text + lines[-1][len(text) :]
            if part.endswith("\n"):
                lines.append("")
        return [line.rstrip() for line in lines[:-1]] + [lines[-1]]


@pytest.fixture
def now(monkeypatch):
    """A clock that the test sets: now[0] seconds."""
    time = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: time[0])
    return time


@pytest.fixture
def terminal(monkeypatch):
    stream = Terminal()
    # pytest sets sys.stderr again after the fixtures, so only what the module sees is replaced.
    seen = types.SimpleNamespace(stderr=stream, modules=sys.modules)
    monkeypatch.setattr(progress, "sys", seen)
    return stream


@pytest.fixture
def notebook(monkeypatch):
    """A stand-in for IPython in a kernel, which writes down what is displayed."""
    shown = []

    class Handle:
        def update(self, content, **options):
            shown.append(("update", content, options))

    def display(content, **options):
        shown.append(("display", content, options))
        return Handle()

    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=None)
    ipython.display = types.ModuleType("IPython.display")
    ipython.display.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    return shown


def state(scale, iteration, left, niter=100):
    return TrainingProgress(
        scale=scale,
        n_scales=4,
        side=41,
        iteration=iteration,
        niter=niter,
        training=None,
        seconds=1.0,
        seconds_left=left,
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (7, "0:07"),
        (7.6, "0:08"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (754, "12:34"),
        (3599.7, "1:00:00"),
        (3723, "1:02:03"),
        (360000, "100:00:00"),
    ],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("done", "total", "bar"),
    [
        (0, 3, "[..........]"),
        (1, 3, "[###.......]"),
        (2, 3, "[######....]"),
        (3, 3, "[##########]"),
        (999, 1000, "[#########.]"),  # full only when all is done
        (0, 0, "[..........]"),
    ],
)
def test_draw_bar(done, total, bar):
    assert draw_bar(done, total, width=10) == bar


def test_the_usual_bar_has_twenty_places():
    assert draw_bar(8, 20) == "[########............]"


def test_training_names_scale_iteration_and_time_left(now, terminal):
    bar = ProgressBar("terminal")
    bar.show(state(1, 25, left=65))
    assert terminal.screen() == ["scale 2/4 (41 px)  [#####...............] 25/100  1:05 left"]


def test_training_ends_with_what_was_done(now, terminal):
    with ProgressBar("terminal") as bar:
        now[0] += 65
        bar.show(state(3, 100, left=0))
    assert terminal.screen() == ["4 scales of 100 iterations trained in 1:05", ""]


def test_scoring_estimates_what_is_left(now, terminal):
    with ProgressBar("terminal", "scoring", 8) as bar:
        now[0] += 20
        bar.advance(2)  # 10 s an image, 6 to go
        assert terminal.screen() == ["scoring  [#####...............] 2/8  1:00 left"]
        now[0] += 10
        bar.advance(6)
    assert terminal.screen() == ["scoring  [####################] 8/8  0:30", ""]


def test_without_a_total_the_images_are_counted(now, terminal):
    with ProgressBar("terminal", "scoring") as bar:
        now[0] += 20
        bar.advance(2)
        now[0] += 5
        bar.advance(3)
    assert terminal.screen() == ["scoring  5 images  0:25", ""]


def test_a_terminal_has_one_line_without_leftovers(now, terminal):
    with ProgressBar("terminal") as bar:
        for text in ("a long line of text", "short", "longer again"):
            now[0] += 1
            bar.say(text)
            assert terminal.screen()[0].rstrip() == text
    assert terminal.screen() == ["longer again", ""]


def test_a_terminal_is_not_redrawn_too_often_but_shows_the_last(now, terminal):
    with ProgressBar("terminal") as bar:
        for i in range(1, 50):
            now[0] += 0.01
            bar.show(state(0, i, left=9))
        assert 4 <= terminal.getvalue().count("\r") <= 5  # 0.49 s, ten a second at most
        assert "49/100" not in terminal.screen()[0]
    assert "49/100" in terminal.screen()[0]


def test_a_pipe_gets_whole_lines_now_and_then(now, capsys):
    with ProgressBar("lines") as bar:
        for i in range(1, 101):
            now[0] += 1
            bar.show(state(0, i, left=100 - i))
    said = capsys.readouterr()
    assert said.out == ""
    assert "\r" not in said.err
    lines = said.err.splitlines()
    assert [line.split()[5] for line in lines] == [f"{i}/100" for i in range(10, 101, 10)]


def test_a_pipe_is_told_the_last_state_of_what_was_broken_off(now, capsys):
    bar = ProgressBar("lines")
    bar.show(state(0, 3, left=9))
    assert capsys.readouterr().err == ""
    bar.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert "3/100" in capsys.readouterr().err


def test_no_line_is_printed_twice_in_a_pipe(now, capsys):
    with ProgressBar("lines", "scoring", 2) as bar:
        now[0] += 60
        bar.advance(1)
        bar.advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("] ")[1] for line in lines] == ["1/2  1:00 left", "2/2  1:00"]


def test_silence(now, capsys):
    with training_bar(False) as bar:
        now[0] += 60
        bar.show(state(0, 3, left=9))
        bar.show(state(3, 100, left=0))
    with ProgressBar.for_scoring(False, 3) as bar:
        bar.advance(3)
    with ProgressBar("lines"):
        pass  # nothing to show
    assert capsys.readouterr() == ("", "")


def test_a_notebook_shows_one_output_and_replaces_it(now, notebook):
    with training_bar(True) as bar:
        assert bar.look == "notebook"
        for i in (25, 50, 75):
            now[0] += 1
            bar.show(state(0, i, left=9))
    texts = [content["text/plain"].split("] ")[1] for _, content, _ in notebook]
    assert texts == ["25/100  0:09 left", "50/100  0:09 left", *["75/100  0:09 left"] * 2]
    assert [kind for kind, _, _ in notebook] == ["display", "update", "update", "update"]
    assert notebook[0][2]["display_id"] is True
    assert all(options["raw"] for _, _, options in notebook)


def test_where_it_is_shown_decides_the_look(terminal, monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert suitable_look() == "terminal"
    progress.sys.stderr = io.StringIO()
    assert suitable_look() == "lines"
    # IPython in a terminal has a shell but no kernel.
    shell = types.SimpleNamespace(get_ipython=lambda: object())
    monkeypatch.setitem(sys.modules, "IPython", shell)
    assert suitable_look() == "lines"


def test_a_bar_of_ones_own_is_taken():
    bar = ProgressBar("silent")
    assert training_bar(bar) is bar
