"""``htdg score --watch``: scores the images of a folder as they come, until it is stopped.

The folder is looked at again and again. Systems can tell of new files, too, but not of those that
another computer puts onto a network drive, and each system in its own way.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from htdg.commands.common import UsageError, free_name, is_our_picture, say_unreadable
from htdg.commands.kept import cut_broken_end, hash_of, json_lines
from htdg.commands.scoring import Scoring
from htdg.io.damaged import ImagesOrGrey, grey_square, is_called_an_image
from htdg.io.files import OutputError, check_writable, printable, write_text
from htdg.io.images import files_below, is_image
from htdg.io.locks import only_one
from htdg.runtime.progress import name_skipped, say
from htdg.scorer import Prediction

#: Seconds between two looks, unless somebody asks for others.
INTERVAL = 1.0
#: How often a file that cannot be read is tried before it counts as unreadable: who writes it may
#: have paused. After 1, 2, 4 and 8 looks it is tried again.
TRIES = 5
#: Seconds between two lines on what was scored, while many images wait.
SECONDS_BETWEEN_LINES = 10.0

#: Size of a file in bytes, and when it was changed, ns.
State = tuple[int, int]


def check_interval(seconds: float | None) -> float:
    """The seconds between two looks; UsageError if they are none."""
    if seconds is None:
        return INTERVAL
    if not 0 < seconds < math.inf:
        raise UsageError(f"--interval is {seconds:g}, but must be a number of seconds above 0.")
    return seconds


def check_new(out: Path) -> None:
    """Refuse a folder whose table a watch did not write; OutputError if it cannot be written to."""
    for name in (Scores.TABLE, Scores.JOURNAL):
        check_writable(out / name)
    if (out / Scores.TABLE).exists() and not (out / Scores.JOURNAL).exists():
        raise UsageError(
            f"{out / Scores.TABLE} is there, and no --watch wrote it: choose another --out."
        )


def watch(
    folder: Path, out: Path, scoring: Scoring, interval: float, identity: Sequence[object]
) -> NoReturn:
    """Score what is in ``folder``, and what comes into it, until somebody stops this.

    Args:
        folder: of the images, and of folders with images.
        out: for the table; it exists.
        scoring: how to score.
        interval: seconds between two looks.
        identity: what the scores depend on, as plain JSON values.

    Raises:
        BusyError: another program writes to ``out``.
        UsageError: a watch of another ``identity`` wrote to it, or what the colours of overlays
            stand for is not known from the beginning.
        OutputError: the results cannot be written.
    """
    leave_out = [out]
    if scoring.maps is not None:
        leave_out.append(scoring.maps.folder)
        if scoring.maps.scale is None:
            raise UsageError(
                "--watch --maps needs a threshold, which says what the colours of overlays stand "
                "for: htdg calibrate chooses one, and --threshold sets one."
            )
    with only_one(out):
        check_new(out)
        scores = Scores(out, [*identity, str(folder.resolve())], _columns(scoring))
        if scoring.maps is not None:
            scoring.maps.finish()  # what the colours mean
        watched, work = WatchedFolder(folder, scores, leave_out), Work(folder, scoring, scores)
        say([printable(f"watching {folder} every {interval:g} s; scores go to {scores.table}")])
        if scores.done:
            say([f"going on: {len(scores.done)} images have a row already"])
        while True:
            if ready := watched.look():
                work.score(ready)
            time.sleep(interval)


def _columns(scoring: Scoring) -> str:
    """The first line of the table, from a grey square that is scored for it."""
    prediction = next(scoring.predictions(grey_square()))
    pictures = {} if scoring.maps is None else scoring.maps.paths("grey")
    return scoring.rows.row(Path("grey"), prediction, pictures, "")[0]


class Scores:
    """The table, and beside it the journal, from which a killed watch goes on.

    The journal has a line for each row: of which file, in which state, and the row itself. The
    table is made of it when a watch starts, so the two agree whatever happened before: a row that
    was only half written is there again, or its image is scored again.

    Attributes:
        table, journal: the two files.
        columns: the first line of the table.
        done: the state in which each file was scored last, by its path below the folder.
    """

    TABLE, JOURNAL = "scores.csv", "watched.jsonl"

    def __init__(self, out: Path, identity: Sequence[object], columns: str) -> None:
        """Go on with the results in ``out``; UsageError if they are of another ``identity``."""
        self.table, self.journal = out / self.TABLE, out / self.JOURNAL
        self.columns, self.done = columns, dict[str, State]()
        first = {"watch": hash_of([*identity, columns])}
        cut_broken_end(self.journal)
        lines = json_lines(self.journal)
        begun = next(lines, None)
        if begun is None:
            write_text(self.journal, json.dumps(first) + "\n")
        elif begun != first:
            raise UsageError(
                f"{out} has the scores of another folder, model, threshold or options: choose "
                "another --out, or give the same as then."
            )
        rows = [columns]
        for line in lines:
            self.done[line["name"]] = (line["size"], line["changed"])
            rows.append(line["row"])
        write_text(self.table, "".join(rows))

    def add(self, name: str, state: State, row: str) -> None:
        """Add the row of a file in a state; OutputError if it cannot be written."""
        line = {"name": name, "size": state[0], "changed": state[1], "row": row}
        try:
            with self.journal.open("a", encoding="utf-8") as journal:
                journal.write(json.dumps(line) + "\n")
            with self.table.open("a", encoding="utf-8", newline="") as table:
                if table.tell() == 0:  # somebody took it away
                    table.write(self.columns)
                table.write(row)
        except OSError as error:
            raise OutputError(f"{self.table} cannot be written: {error.strerror}.") from None
        self.done[name] = state


class WatchedFolder:
    """Which files of a folder are complete and wait to be scored, look by look.

    A file is complete when size and time are those of the look before. One that was scored waits
    again if they have changed since.
    """

    def __init__(self, folder: Path, scores: Scores, leave_out: Sequence[Path]) -> None:
        """Watch ``folder``; what lies below the folders ``leave_out`` is no input."""
        self.folder, self.scores = folder, scores
        self.leave_out = [place.resolve() for place in leave_out]
        self.before: dict[Path, State] = {}
        self.passed: dict[Path, State] = {}  # the state of files that are not to be scored
        self.there = True

    def look(self) -> dict[Path, State]:
        """The files to score now, and their states."""
        self._say_if_gone()
        states = {path: _state(path) for path in files_below(self.folder)[0]}
        now = {path: state for path, state in states.items() if state is not None}
        waiting = {
            path: state
            for path, state in now.items()
            if self.before.get(path) == state
            and self.passed.get(path) != state
            and self.scores.done.get(str(path.relative_to(self.folder))) != state
        }
        self.before = now
        ready = {path: state for path, state in waiting.items() if self._is_input(path)}
        self.passed |= {path: state for path, state in waiting.items() if path not in ready}
        return ready

    def _is_input(self, path: Path) -> bool:
        """Whether a file is an image, also a damaged one, and not a result of ours."""
        place = path.resolve()
        if any(place.is_relative_to(results) for results in self.leave_out):
            return False
        if is_our_picture(path):
            return False
        if is_called_an_image(path) or is_image(path):
            return True
        name_skipped([path])
        return False

    def _say_if_gone(self) -> None:
        """Say once if the folder is gone, as that of a network drive can be, and if it is back."""
        there = self.folder.is_dir()
        if there != self.there:
            say([f"{self.folder} is {'there again' if there else 'gone: waiting for it'}"])
        self.there = there


def _state(path: Path) -> State | None:
    """The state of a file, or None if it is gone by now."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns


@dataclass
class _Tries:
    """How often a file in a state was tried, and how many looks later it is tried again."""

    state: State
    count: int = 0
    looks: int = 0


class Work:
    """Scores images, adds their rows, and says now and then how far it has come."""

    def __init__(self, folder: Path, scoring: Scoring, scores: Scores) -> None:
        """Score images of ``folder`` into ``scores``."""
        self.folder, self.scoring, self.scores = folder, scoring, scores
        self.tries: dict[Path, _Tries] = {}
        self.names: dict[str, str] = {}  # of maps, and the file that each belongs to
        self.line = _Line()
        for name in scores.done:
            self._name_of_map(name)

    def score(self, ready: Mapping[Path, State]) -> None:
        """Score files in these states; one that cannot be read may be tried again later."""
        paths = [path for path, state in ready.items() if self._is_due(path, state)]
        if not paths:
            return
        images = ImagesOrGrey(paths, white_level=self.scoring.white_level)
        predictions = self.scoring.predictions(images)
        try:
            for i, (path, prediction) in enumerate(zip(paths, predictions, strict=True)):
                self._add(path, ready[path], prediction, images.problems.get(i, ""))
                self.line.say_if(time.monotonic() - self.line.since >= SECONDS_BETWEEN_LINES)
        finally:
            self.line.say_if(True)

    def _add(self, path: Path, state: State, prediction: Prediction, problem: str) -> None:
        """Add the row of a file, and write its map, unless it is to be tried again."""
        if _state(path) not in (state, None):  # changed while it was read: later, when complete
            return
        name = str(path.relative_to(self.folder))
        pictures, problem = self.scoring.pictures(
            self._name_of_map(name), path, prediction, problem
        )
        if problem and self._try_again(path, state):
            return
        rows = self.scoring.rows
        self.scores.add(name, state, rows.row(path, prediction, pictures, problem)[1])
        self.tries.pop(path, None)
        say_unreadable([problem] if problem else [])
        score = prediction.scores[0]
        anomalous = not problem and rows.limit is not None and score > rows.limit
        self.line.count(bool(problem), bool(anomalous))

    def _is_due(self, path: Path, state: State) -> bool:
        """Whether a file is to be tried now; called once a look."""
        tries = self.tries.get(path)
        if tries is None or tries.state != state:
            return True
        tries.looks -= 1
        return tries.looks <= 0

    def _try_again(self, path: Path, state: State) -> bool:
        """Whether a file that cannot be read is left for later: it may not be complete."""
        tries = self.tries.get(path)
        if tries is None or tries.state != state:
            tries = self.tries[path] = _Tries(state)
        tries.looks = 2**tries.count
        tries.count += 1
        return tries.count < TRIES

    def _name_of_map(self, name: str) -> str:
        """What to call the map of a file: like the file, with its ending if that is taken.

        The same for the same files in the same order, and so after a restart.
        """
        path = Path(name)
        for wanted in (free_name(path.with_suffix(""), ()), free_name(path, ())):
            if self.names.setdefault(wanted, name) == name:
                return wanted
        others = {taken for taken, of_file in self.names.items() if of_file != name}
        wanted = free_name(path, others)
        self.names[wanted] = name
        return wanted


class _Line:
    """A line on standard error now and then: what was scored since the last one."""

    def __init__(self) -> None:
        self.counts, self.since = Counter[str](), time.monotonic()

    def count(self, unreadable: bool, anomalous: bool) -> None:
        """Count an image."""
        self.counts["unreadable" if unreadable else "scored"] += 1
        self.counts["anomalous"] += anomalous

    def say_if(self, due: bool) -> None:
        """Say it if it is ``due`` and there is anything to say."""
        words = [f"{count} {word}" for word, count in self.counts.items() if count]
        if due and words:
            say([f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {', '.join(words)}"])
            self.counts.clear()
            self.since = time.monotonic()


def model_digest(folder: Path) -> str:
    """Identifies a saved model: its description has the digests of all that it consists of."""
    return hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
