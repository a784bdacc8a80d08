"""Some of the kills of ``tests.attack.kills``; all of them take half an hour (``make attack``)."""

import shutil
import sys

import pytest

from tests.attack.kills import SCENARIOS, Plan, outcomes, right_after

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("cc") is None,
    reason="events of the file system are counted by a library made for Linux",
)


def test_whenever_a_command_is_killed_nothing_is_lost_and_the_next_start_ends_the_same():
    """Every command that writes, killed at a few events of its many, and once twice."""
    results = dict(outcomes(list(SCENARIOS), Plan(every=45, first=7, twice=1)))
    assert results.keys() == SCENARIOS.keys()
    assert [fault for outcome in results.values() for fault in outcome.faults] == []
    assert all(outcome.events >= 5 and outcome.tried >= 1 for outcome in results.values())
    assert sum(outcome.tried for outcome in results.values()) > 30


@pytest.mark.parametrize(
    ("name", "plan", "fault"),
    [
        ("calibrate", Plan(plant="write"), "corrupt: model/config.json"),
        # The events at which the old model is replaced, among the last.
        ("train --overwrite", Plan(plant="put", first=126, every=2), "lost for a time: model"),
    ],
)
def test_a_planted_fault_is_found(name, plan, fault):
    ((_, outcome),) = outcomes([name], plan)
    assert any(line.endswith(fault) for line in outcome.faults), outcome


def test_what_is_wrong_right_after_a_kill():
    scenario = SCENARIOS["train --overwrite"]
    before, after = {"model": None, "model/a": b"1"}, {"model": None, "model/a": b"2"}
    for now in (before, after, {**before, ".model.9.tmp": None, "model.unfinished": None}):
        assert right_after(scenario, before, now, after, None) == []
    assert right_after(scenario, before, {}, after, None) == ["lost for a time: model"]
    half = {"model": None, "model/a": b""}
    assert right_after(scenario, before, half, after, None) == [
        "lost for a time: model",
        "corrupt: model/a",
    ]
    evaluated = SCENARIOS["evaluate"]
    whole = {"run": None, "run/metrics.json": b"m", "run/scores.csv": b"s"}
    wrong = {"run": None, "run/metrics.json": b"m"}
    assert right_after(evaluated, {}, wrong, whole, None) == [
        "run/metrics.json is there, but not all that belongs to it"
    ]
