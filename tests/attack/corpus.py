"""Hands hostile files of every kind to the command that reads them.

Each must be refused in one sentence with exit code 2, or accepted rightly (its scores lie in
[0, 1]), without a traceback, a hang, a program that is started, a connection, or a file changed
outside the output folder; what is refused, within the seconds and megabytes of ``Limits``.

``python -m tests.attack.corpus`` prints how many were tried, refused and accepted, and each fault.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.attack.cases import Case
from tests.attack.forked import Ended, answers, in_fork, output_beside
from tests.attack.kills import SMALL, draw_images, tree

#: What no command here may do: start a program, or connect to anything (names of audit events).
FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn")
FORBIDDEN += ("socket.connect", "socket.bind", "socket.getaddrinfo", "pickle.find_class")
#: Classes of PyTorch's and NumPy's that their safe readers look for.
HARMLESS_CLASSES = ("torch", "collections", "numpy", "_codecs")


class Limits(NamedTuple):
    """Seconds, and megabytes besides those of a command that does nothing."""

    seconds: float = 1.0
    megabytes: float = 500.0


KINDS = ("models", "images", "archives", "official", "options", "notebooks")


def cases(kind: str, model: Path, given: Path, work: Path) -> Iterator[Case]:
    """The cases of one kind; their files are made as they come."""
    from tests.attack import hostile_folders, hostile_images, hostile_models, hostile_words

    match kind:
        case "models":
            return hostile_models.model_cases(model, given, work)
        case "images":
            return hostile_images.image_cases(model, given, work)
        case "archives":
            return hostile_folders.archive_cases(work)
        case "official":
            return hostile_folders.official_cases(work)
        case "options":
            return hostile_words.option_cases(model, given, work)
    return hostile_words.notebook_cases(work)


# --- The process that forks ----------------------------------------------------------------------


class Outcome(NamedTuple):
    """What came of the cases of a kind."""

    tried: int
    refused: int
    accepted: int
    faults: list[str]
    slowest: tuple[float, str]
    largest: tuple[float, str]


def attack(kind: str, every: int, limits: Limits, work: Path) -> Outcome:
    """Hand every ``every``-th case of a kind to its command."""
    given, out, log = work / "given", work / "out", work / "log"
    os.environ["HTDG_HARM"] = str(work / "harm")
    draw_images(given)
    out.mkdir()
    train = ["train", f"{given}/good/1.png", "--out", f"{work}/model", *SMALL]
    for words in (train, ["calibrate", f"{work}/model", f"{given}/held", "--device", "cpu"]):
        assert run(words, log).code == 0, log.read_text()
    idle = run(["info", f"{work}/model"], log)
    counts, faults = Counter[int](), list[str]()
    slowest, largest = (0.0, ""), (0.0, "")
    for i, case in enumerate(cases(kind, work / "model", given, work)):
        if i % every:
            continue
        before = around(work)
        ended = run(case.words, log, limit=60)
        said = log.read_text(errors="replace")
        counts[ended.code] += 1
        seconds, megabytes = ended.seconds - idle.seconds, ended.megabytes - idle.megabytes
        problems = wrong(case, ended, said, output_beside(log))
        if ended.code == 2:  # what is accepted takes what its work takes
            slowest = max(slowest, (round(seconds, 2), case.name))
            largest = max(largest, (round(megabytes), case.name))
            if seconds > limits.seconds:
                problems.append(f"{seconds:.1f} s")
            if megabytes > limits.megabytes:
                problems.append(f"{megabytes:.0f} MB")
        if around(work) != before:
            problems.append("changed files outside its output")
        if any("evil" in path for path in tree(out)):
            problems.append("wrote what it was to refuse")
        faults += [f"{case.name}: {problem}" for problem in problems]
        if out.exists():
            shutil.rmtree(out)
        out.mkdir()
    tried = sum(counts.values())
    return Outcome(tried, counts[2], counts[0] + counts[1], faults, slowest, largest)


def around(work: Path) -> list[str]:
    """The files of the input, and the folders beside the work."""
    names = [p.name for p in work.iterdir() if not p.name.startswith(("model", "official"))]
    return [*sorted(names), *tree(work / "given"), *sorted(tree(work / "model"))]


def wrong(case: Case, ended: Ended, said: str, output: Path) -> list[str]:
    """What is wrong with how a command ended, and with what it said."""
    problems = []
    if ended.code not in case.expected:
        problems.append(f"ended with {ended.code}: {said[-200:]}")
    if "Traceback" in said:
        problems.append(f"a traceback: {said[-200:]}")
    if ended.answer:
        problems.append(f"did what it may not: {ended.answer}")
    if ended.code == 2:
        sentence = said.rstrip("\n").split("\n")[-1]
        usage = ": error: " in sentence  # argparse's own
        if not sentence.startswith("htdg") or not (usage or sentence.endswith((".", ")"))):
            problems.append(f"no sentence: {sentence[-200:]!r}")
    if ended.code in (0, 1) and case.words[0] == "score" and "--csv" not in case.words:
        table = csv.DictReader(io.StringIO(output.read_text()))
        values = [row["anomaly_score"] for row in table if row["anomaly_score"]]
        problems += [f"a score of {value}" for value in values if not 0 <= float(value) <= 1]
        problems += [] if values else ["no scores"]
    return problems


def run(words: list[str], log: Path, limit: int = 600) -> Ended:
    """Run a command in a fork of this process; the answer is what it did that it may not."""

    def work() -> tuple[int, str]:
        from htdg.commands.cli import main

        done: list[str] = []

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            if event in FORBIDDEN:
                harmless = event == "pickle.find_class" and str(arguments[0]).startswith(
                    HARMLESS_CLASSES
                )
                if not harmless:
                    done.append(f"{event} {str(arguments)[:80]}")

        sys.addaudithook(watch)
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        return code, "; ".join(done)

    return in_fork(work, log, limit)


# --- From outside --------------------------------------------------------------------------------


def outcomes(
    kinds: Sequence[str], every: Mapping[str, int], limits: Limits
) -> Iterator[tuple[str, Outcome]]:
    """The outcome of each kind, of which every so many-th case is tried, from another process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HTDG_KERNELS": "0"}
    words = [sys.executable, "-m", "tests.attack.corpus", "--here", json.dumps(every), *kinds]
    words += ["--seconds", str(limits.seconds), "--megabytes", str(limits.megabytes)]
    for kind, answer in zip(kinds, answers(words, environment), strict=True):
        yield kind, Outcome(*answer)


def attack_here(kinds: Sequence[str], every: Mapping[str, int], limits: Limits) -> None:
    """Print the outcome of each kind as a line of JSON: what ``outcomes`` starts."""
    import_everything()
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="htdg-corpus-") as folder:
            print(json.dumps(attack(kind, every[kind], limits, Path(folder))), flush=True)


def import_everything() -> None:
    """Import here what commands import, so that the forks need not."""
    from htdg.commands.cli import COMMANDS, build_parser

    for command in COMMANDS:
        build_parser([command.name])
    for name in ("nbclient", "nbconvert", "papermill"):
        importlib.import_module(name)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attack.corpus", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--every", type=int, default=1, help="try every N-th case only")
    parser.add_argument("--seconds", type=float, default=Limits().seconds)
    parser.add_argument("--megabytes", type=float, default=Limits().megabytes)
    parser.add_argument("--here", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.kinds) - set(KINDS):
        parser.error(f"there is no {unknown.pop()!r}: choose from {', '.join(KINDS)}")
    kinds, limits = options.kinds or KINDS, Limits(options.seconds, options.megabytes)
    if options.here is not None:
        attack_here(kinds, options.here, limits)
        return 0
    faults = 0
    for kind, came in outcomes(kinds, dict.fromkeys(KINDS, options.every), limits):
        faults += len(came.faults)
        print(
            f"{kind:<10} {came.tried:>5} tried  {came.refused:>5} refused  "
            f"{came.accepted:>4} accepted  {len(came.faults):>3} faults   "
            f"slowest {came.slowest[0]} s ({came.slowest[1]}), "
            f"most memory {came.largest[0]} MB ({came.largest[1]})",
            flush=True,
        )
        for fault in came.faults:
            print(f"  {fault}", flush=True)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
