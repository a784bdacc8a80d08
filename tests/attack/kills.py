"""Kills commands before every event of the file system, starts them again, and compares.

A command is run in a folder once without harm, which also counts its events (``events.c``), and
then once for each of them: killed there, and started again. Right after the kill, whatever stood
there before or will stand there in the end must stand whole; after the second start everything must
be as if nobody had been killed, to the byte.

``python -m tests.attack.kills`` prints the outcome (``--help`` says more).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.attack.forked import answers, in_fork

SOURCE = Path(__file__).with_name("events.c")
#: What is still in work ends like one of these, or begins with a dot.
IN_WORK = (".unfinished", ".partial")

#: The content of files, None for folders, by their paths.
Tree = dict[str, bytes | None]
#: A command, from the folder of its input and the folder that it writes below.
Words = Callable[[Path, Path], list[str]]


class Scenario(NamedTuple):
    """A command, and what must hold whenever it is killed.

    Attributes:
        words: the command.
        before: commands that make what is there before.
        lasting: files and folders that at any time are as before or as in the end, whole.
        marker: while this file is there, so is everything as before or as in the end.
        models: models that in between are others, but models.
    """

    words: Words
    before: tuple[Words, ...] = ()
    lasting: tuple[str, ...] = ()
    marker: str | None = None
    models: tuple[str, ...] = ()


SMALL = ("--preset", "tiny", "--niter", "1", "--evidence", "both", "--device", "cpu")
SMALL += ("--distance-min-size", "18", "--distance-max-size", "20")


def train(seed: int, *more: str) -> Words:
    return lambda given, out: [
        *("train", f"{given}/good/1.png", "--out", f"{out}/model", "--seed", f"{seed}"),
        *(*SMALL, *more),
    ]


def evaluate(seed: int, *more: str) -> Words:
    return lambda given, out: [
        *("evaluate", "--dataset", "folder", "--data-root", f"{given}/set", "--out", f"{out}/run"),
        *("--seed", f"{seed}", *SMALL, *more),
    ]


def evaluate_archive() -> Words:
    return lambda given, out: [
        *("evaluate", "--dataset", "mvtec", "--category", "bottle", "--data-root", f"{out}/data"),
        *("--archive", f"{given}/bottle.tar", "--out", f"{out}/run", *SMALL),
    ]


def score(*more: str) -> Words:
    return lambda given, out: ["score", f"{out}/model", f"{given}/new", *more, "--device", "cpu"]


def score_to_files(fraction: str) -> Words:
    return lambda given, out: [
        *score("--csv", f"{out}/scores.csv", "--maps", f"{out}/maps")(given, out),
        *("--defect-fraction", fraction),
    ]


def calibrate(rate: str) -> Words:
    return lambda given, out: [
        *("calibrate", f"{out}/model", f"{given}/held", "--false-positive-rate", rate),
        *("--device", "cpu"),
    ]


def inspect(seed: int, *more: str) -> Words:
    return lambda given, out: [
        *("inspect", f"{given}/good", f"{given}/new", "--out", f"{out}/inspected", "--shots", "1"),
        *("--seed", f"{seed}", *SMALL, *more),
    ]


def sample(seed: int) -> Words:
    return lambda given, out: [
        *("sample", f"{out}/model", "-n", "2", "--out", f"{out}/samples", "--seed", f"{seed}"),
        *("--device", "cpu"),
    ]


SCENARIOS = {
    "train": Scenario(train(0), lasting=("model",)),
    "train --overwrite": Scenario(train(0, "--overwrite"), (train(1),), ("model",)),
    "evaluate": Scenario(evaluate(0), (), ("run/model",), "run/metrics.json"),
    "evaluate --overwrite": Scenario(
        evaluate(0, "--overwrite"), (evaluate(1),), ("run/model",), "run/metrics.json"
    ),
    "evaluate an archive": Scenario(evaluate_archive(), (), ("run/model",), "run/metrics.json"),
    "score": Scenario(score_to_files("0.5"), (train(0),), ("model", "scores.csv")),
    "score again": Scenario(
        score_to_files("0.5"), (train(0), score_to_files("1.0")), ("model", "scores.csv")
    ),
    "calibrate": Scenario(calibrate("0.3"), (train(0), calibrate("0.6")), ("model",)),
    "inspect": Scenario(inspect(0), (), models=("inspected/model",)),
    "inspect --retrain": Scenario(
        inspect(0, "--retrain"), (inspect(1),), models=("inspected/model",)
    ),
    "sample": Scenario(sample(0), (train(0), sample(1)), ("model",)),
}


class Outcome(NamedTuple):
    """What came of a scenario: its events, the kills that were tried, and every fault in words."""

    events: int
    tried: int
    faults: list[str]
    seconds: float


# --- The process that forks ---------------------------------------------------------------------


def attack(name: str, plan: Plan, work: Path) -> Outcome:
    """Kill a scenario as planned, in the folder ``work``."""
    scenario, started = SCENARIOS[name], time.monotonic()
    given, out, kept = work / "given", work / "out", work / "before"
    draw_images(given)
    out.mkdir()
    for words in scenario.before:
        assert run(words(given, out), out).code == 0, (work / "log").read_text()
    shutil.copytree(out, kept)
    words = scenario.words(given, out)
    whole = run(words, out)
    assert whole.code == 0, (work / "log").read_text()
    import_all(whole.modules)
    before, after = tree(kept), tree(out)
    faults, tried = [], 0
    rng, last = random.Random(0), min(plan.last, whole.events)
    kills = [(at,) for at in range(plan.first, last + 1, plan.every)]
    kills += [tuple(rng.choices(range(1, last + 1), k=2)) for _ in range(plan.twice)]
    for events in kills:
        shutil.rmtree(out)
        shutil.copytree(kept, out)
        problems, tried = [], tried + 1
        for i, at in enumerate(events):
            killed = run(words, out, at)
            if killed.code != -signal.SIGKILL and i == 0:  # the second start has less to do
                problems.append(f"was not killed, but ended with {killed.code}")
            problems += right_after(scenario, before, tree(out), after, out)
        again = run(words, out)
        now = tree(out)
        # A result that is complete by then is not made again, and that is said.
        if again.code != 0 and not (again.code == 2 and now == after):
            problems.append(f"stuck: {again.code}, {(work / 'log').read_text()[-300:]}")
        problems += [f"lost: {path}" for path in after if path not in now]
        problems += [f"left over: {path}" for path in now if path not in after]
        problems += [f"differs: {p}" for p in after if p in now and now[p] != after[p]]
        where = " and ".join(map(str, events))
        faults += [f"{name}, killed at event {where} of {whole.events}: {p}" for p in problems]
    return Outcome(whole.events, tried, faults, time.monotonic() - started)


def right_after(scenario: Scenario, before: Tree, now: Tree, after: Tree, out: Path) -> list[str]:
    """What is wrong with the files that a killed command left."""
    problems = []
    for path in scenario.lasting:
        if below(shown(now), path) not in (below(shown(before), path), below(shown(after), path)):
            problems.append(f"lost for a time: {path}")
    marker = scenario.marker
    if marker in now and shown(now) not in (shown(before), shown(after)):
        problems.append(f"{marker} is there, but not all that belongs to it")
    for path, content in shown(now).items():
        if path.startswith(scenario.models) or path in scenario.models:
            continue
        if content not in (before.get(path), after.get(path)):
            problems.append(f"corrupt: {path}")
    for path in scenario.models:
        complete = f"{path}/config.json" in now or path in before
        if complete and run(["info", f"{out}/{path}"], out).code != 0:
            problems.append(f"corrupt: {path}")
    return problems


def below(files: Tree, path: str) -> Tree:
    """A file or folder with what is in it."""
    return {p: content for p, content in files.items() if p == path or p.startswith(f"{path}/")}


def shown(files: Tree) -> Tree:
    """The files, without what is hidden or called unfinished."""
    return {
        path: content
        for path, content in files.items()
        if content is not None
        and not any(part.startswith(".") or part.endswith(IN_WORK) for part in path.split("/"))
    }


def tree(folder: Path) -> Tree:
    """Everything in a folder."""
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


class Run(NamedTuple):
    """How a command ended: its exit code, negative for a signal; its events; what it imported."""

    code: int
    events: int
    modules: list[str]


def run(words: list[str], out: Path, at: int = 0) -> Run:
    """Run a command in a fork of this process, killed before event ``at`` below ``out``."""

    def work() -> tuple[int, str]:
        from htdg.commands.cli import main

        events = ctypes.CDLL(None)
        events.watch(os.fsencode(out), ctypes.c_long(at))
        return main(words), f"{events.counted()} {' '.join(sys.modules)}"

    ended = in_fork(work, out.parent / "log")
    events, *modules = ended.answer.split() or ["0"]
    return Run(ended.code, int(events), modules)


def import_all(names: Sequence[str]) -> None:
    """Import here what a command imported, so that the next need not."""
    for name in names:
        if name.split(".")[0] in ("htdg", "matplotlib", "PIL", "torch"):
            with contextlib.suppress(Exception):  # some are none of their own
                importlib.import_module(name)


class Clock:
    """Stands for the module ``time``, so that nothing that is written says how long it took."""

    ticks = itertools.count(0, 1000)

    def monotonic(self) -> int:
        """A checkpoint is due whenever somebody looks."""
        return next(self.ticks)

    def perf_counter(self) -> float:
        return 0.0


def stop_clocks() -> None:
    """Have the commands take no time, use no memory, and write a checkpoint at every iteration."""
    from htdg import fitting
    from htdg.evaluation import run as evaluation
    from htdg.runtime import progress

    fitting.time = progress.time = evaluation.time = Clock()
    evaluation.peak_memory = lambda device: {}


def draw_images(given: Path) -> None:
    """Images of waves, some with a square in them."""
    import numpy as np
    from PIL import Image

    def draw(path: Path, phase: float, square: bool = False) -> None:
        y, x = np.mgrid[:40, :40]
        waves = 128 + 60 * np.sin(x / 3 + phase) + 60 * np.cos(y / 4)
        if square:
            waves[10:20, 10:20] = 255
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(waves.astype(np.uint8)).save(path)

    for i in range(4):
        draw(given / "good" / f"{i + 1}.png", i)
    for i in range(2):
        draw(given / "held" / f"{i + 1}.png", i + 0.5)
        draw(given / "new" / f"{i + 1}.png", i + 0.2, square=i == 1)
    draw(given / "set" / "train" / "good" / "1.png", 0)
    for i in range(2):
        draw(given / "set" / "test" / "good" / f"{i + 1}.png", i + 0.3)
        draw(given / "set" / "test" / "bad" / f"{i + 1}.png", i + 0.6, square=True)
        mask = np.zeros((40, 40), np.uint8)
        mask[10:20, 10:20] = 255
        (given / "set" / "ground_truth" / "bad").mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(given / "set" / "ground_truth" / "bad" / f"{i + 1}_mask.png")
    with tarfile.open(given / "bottle.tar", "w") as archive:
        archive.add(given / "set", "bottle")


# --- From outside -------------------------------------------------------------------------------


class Plan(NamedTuple):
    """Which events to kill at: every ``every``-th from the ``first`` to the ``last``.

    ``twice`` more times a command is killed at a random event, and so is its next start. ``plant``
    names a fault to be planted (``FAULTS``), so that the attack has something to see.
    """

    every: int = 1
    first: int = 1
    last: int = sys.maxsize
    twice: int = 0
    plant: str = ""


def outcomes(names: Sequence[str], plan: Plan) -> Iterator[tuple[str, Outcome]]:
    """The outcome of each scenario, from a process that ``events.c`` is loaded into."""
    with tempfile.TemporaryDirectory(prefix="htdg-kills-") as folder:
        library = Path(folder) / "events.so"
        flags = ["-O1", "-shared", "-fPIC"]
        subprocess.run(["cc", *flags, SOURCE, "-o", library, "-ldl"], check=True)
        environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
        words = [sys.executable, "-m", "tests.attack.kills", "--here", folder, *names]
        for name, value in plan._asdict().items():
            words += [f"--{name}", str(value)]
        for name, answer in zip(names, answers(words, environment), strict=True):
            yield name, Outcome(*answer)


def attack_here(names: Sequence[str], plan: Plan, folder: Path) -> None:
    """Print the outcome of each scenario as a line of JSON: what ``outcomes`` starts."""
    stop_clocks()
    if plan.plant:
        FAULTS[plan.plant]()
    for i, name in enumerate(names):
        work = folder / str(i)
        work.mkdir()
        print(json.dumps(attack(name, plan, work)), flush=True)
        shutil.rmtree(work)


def delete_before_rename() -> None:
    """Have a folder deleted before another takes its place."""
    from htdg.io import model_directory

    def put(new: Path, place: Path) -> None:
        shutil.rmtree(place, ignore_errors=True)
        new.rename(place)

    model_directory.put = put


def write_in_place() -> None:
    """Have files written where they are read."""
    from htdg.io import files, model_directory

    files.write_bytes = lambda path, content: path.write_bytes(content)
    model_directory.write_text = lambda path, text: path.write_text(text)


FAULTS = {"put": delete_before_rename, "write": write_in_place}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attack.kills", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--every", type=int, default=1, help="kill at every N-th event only")
    parser.add_argument("--first", type=int, default=1, help="the first event to kill at")
    parser.add_argument("--last", type=int, default=sys.maxsize, help="the last one")
    parser.add_argument("--twice", type=int, default=0, help="kill so often twice, at random")
    parser.add_argument("--plant", default="", choices=["", *FAULTS], help="a fault to be found")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.names) - SCENARIOS.keys():
        parser.error(f"there is no {unknown.pop()!r}: choose from {', '.join(SCENARIOS)}")
    names = options.names or list(SCENARIOS)
    plan = Plan(**{name: getattr(options, name) for name in Plan._fields})
    if options.here is not None:
        attack_here(names, plan, options.here)
        return 0
    n_tried = n_faults = 0
    for name, outcome in outcomes(names, plan):
        n_tried, n_faults = n_tried + outcome.tried, n_faults + len(outcome.faults)
        print(
            f"{name:<22} {outcome.events:>5} events  {outcome.tried:>5} kills  "
            f"{len(outcome.faults):>3} faults  {outcome.seconds:>5.0f} s",
            flush=True,
        )
        for fault in outcome.faults:
            print(f"  {fault}", flush=True)
    print(f"{n_tried} kills, {n_faults} faults")
    return int(n_faults > 0)


if __name__ == "__main__":
    sys.exit(main())
