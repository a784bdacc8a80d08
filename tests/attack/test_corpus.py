"""Some of the hostile files of ``tests.attack.corpus``; all take ten minutes (``make attack``)."""

import os

import pytest

from tests.attack.cases import Case
from tests.attack.corpus import KINDS, Limits, outcomes, wrong
from tests.attack.forked import Ended

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
#: Every so many-th case is tried.
SOME = {"models": 60, "images": 7, "archives": 3, "official": 6, "options": 14, "notebooks": 3}


def test_hostile_files_are_refused_in_a_sentence_or_accepted_rightly():
    # On a machine that does other things as well, what takes a blink may take a while.
    results = dict(outcomes(KINDS, SOME, Limits(seconds=20)))
    assert [fault for outcome in results.values() for fault in outcome.faults] == []
    assert all(outcome.tried >= 10 for outcome in results.values())
    assert all(outcome.refused >= outcome.tried / 2 for outcome in results.values())


SCORE = Case("an image", ["score", "model", "image"])


@pytest.mark.parametrize(
    ("code", "said", "answer", "table", "fault"),
    [
        (2, "htdg: image is damaged: get it again.\n", "", "", None),
        (2, "image is damaged\n", "", "", "no sentence"),
        (2, "htdg: image is damaged: get it again.\n", "os.exec ('gs')", "", "did what it may not"),
        (70, "Traceback (most recent call last):\n", "", "", "ended with 70"),
        (-14, "", "", "", "ended with -14"),
        (0, "", "", "image,anomaly_score\na,0.5\n", "ended with 0"),
    ],
)
def test_what_is_wrong_with_an_end(tmp_path, code, said, answer, table, fault):
    (tmp_path / "out").write_text(table)
    problems = wrong(SCORE, Ended(code, answer, 0.1, 10.0), said, tmp_path / "out")
    assert bool(problems) == (fault is not None)
    assert fault is None or problems[0].startswith(fault)


@pytest.mark.parametrize(("score", "right"), [("0.5", True), ("nan", False), ("1.5", False)])
def test_scores_must_be_in_range(tmp_path, score, right):
    case = SCORE._replace(expected=(0,))
    (tmp_path / "out").write_text(f"image,anomaly_score\na,{score}\n")
    assert (wrong(case, Ended(0, "", 0.1, 10.0), "", tmp_path / "out") == []) is right
    (tmp_path / "out").write_text("image,anomaly_score\n")
    assert wrong(case, Ended(0, "", 0.1, 10.0), "", tmp_path / "out") == ["no scores"]
