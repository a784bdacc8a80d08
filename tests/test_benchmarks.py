"""The straightforward version that speed is measured against computes what ours does."""

import json

import pytest
import torch

from benchmarks import quality
from benchmarks.kept import do_missing
from benchmarks.measure import iteration_operations, iteration_seconds, scoring_ms
from benchmarks.report import write_part
from benchmarks.straightforward import score, start_straightforward
from htdg import HTDGConfig
from htdg.fast.backend import FastBackend
from htdg.training import freeze, start_scale
from htdg.votes import aggregate_votes

CONFIG = HTDGConfig.preset(
    "tiny", transformations="rgb54", translation="pixel", precision="float32", fast=False
)


def test_an_iteration_and_a_score_of_the_straightforward_version():
    transformations = CONFIG.resolve_transformations(True)
    real = torch.rand(1, 3, 14, 14, generator=torch.Generator().manual_seed(0)) * 2 - 1
    backend = FastBackend(CONFIG, transformations, real.device)
    ours = start_scale(CONFIG, transformations, [], real, backend)
    theirs = start_straightforward(CONFIG, transformations, [], real)
    ours.step()
    theirs.step()
    for name, values in ours.history.items():
        assert values[0].item() == pytest.approx(theirs.history[name][0].item(), rel=2e-4)
    scale = freeze(ours.scale)
    with torch.inference_mode():
        votes = backend.voter(scale)(real)
        expected = score(scale, list(transformations), "pixel", real)
    assert aggregate_votes(votes).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("added", ["channels_last", "compiled"])
def test_what_is_added_to_the_straightforward_version_changes_no_loss(added, monkeypatch):
    transformations = CONFIG.resolve_transformations(True)
    real = torch.rand(1, 3, 14, 14, generator=torch.Generator().manual_seed(0)) * 2 - 1
    prepared = set()  # compiling takes half a minute: here it is enough that it is asked for
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: prepared.add(module))
    ours = start_straightforward(CONFIG, transformations, [], real)
    theirs = start_straightforward(CONFIG, transformations, [], real, **{added: True})
    networks = {theirs.scale.discriminator, theirs.scale.generator}
    assert prepared == (networks if added == "compiled" else set())
    last = theirs.scale.discriminator.tail.weight.is_contiguous(memory_format=torch.channels_last)
    assert last == (added == "channels_last")
    ours.step()
    theirs.step()
    for name, values in ours.history.items():
        assert values[0].item() == pytest.approx(theirs.history[name][0].item(), rel=1e-4)


def test_scoring_can_be_timed_both_ways():
    for way in (None, score):
        assert scoring_ms(CONFIG, torch.device("cpu"), 2, straightforward=way) > 0


def test_iterations_can_be_timed_both_ways():
    for start in (None, start_straightforward):
        times = iteration_seconds(CONFIG, torch.device("cpu"), 1, start)
        assert len(times) == len(CONFIG.sides)
        assert min(times) > 0


def test_operations_by_hand():
    # One transformation, one canvas of 14 x 14, two layers: 12 x 12 x 9 x 3 x 8 multiplications,
    # then 10 x 10 x 9 x 8 x 2, each with an addition.
    config = CONFIG.with_options(
        transformations=((0, 0, 0, 0, 0),), layers=2, channels=8, d_steps=1, g_steps=2
    )
    first, second = 2 * 144 * 9 * 3 * 8, 2 * 100 * 9 * 8 * 2
    d_step = 2 * (2 * first + 3 * second)  # no gradient to the image
    g_step = 2 * (first + second)  # none to the weights
    assert iteration_operations(config, 0) == d_step + 2 * g_step


def test_a_part_of_the_page_replaces_its_former_self(tmp_path, capsys):
    page = tmp_path / "README.md"
    write_part(page, "One", "1")
    write_part(page, "Two", "2")
    write_part(page, "One", "new")
    assert page.read_text() == "# Benchmarks\n\n## Two\n\n2\n\n## One\n\nnew\n"


def test_times_to_quality_are_means_over_draws():
    def run(niter, seed, auroc):
        options = {"image_size": 28, "niter": niter, "seed": seed}
        return {"study": "time", "class": "Bag", "options": options, "image_auroc": auroc}

    found = [run(12, 0, 0.9), run(4, 0, 0.7), run(4, 1, 0.895), run(12, 1, 0.9), run(4, 2, 1.1)]
    paces = {"28": {"grey42": 30.0, "rgb54": 60.0}}
    (row,) = quality._times(quality.timed(found, paces))[2:]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        "Bag",
        "28",
        "3/2",
        "4: 0.898 [0.700 to 1.100] (2.00); 12: 0.900 [0.900 to 0.900] (6.00)",
        "2.00 minutes, 4 iterations",
    ]
    (line,) = quality.plot(quality.timed(found, paces)).axes[0].lines
    assert list(line.get_xdata()) == [2.0, 6.0]
    assert line.get_ydata() == pytest.approx([0.89833, 0.9], abs=1e-4)


def test_what_another_run_wrote_meanwhile_is_kept(tmp_path):
    file, kept = tmp_path / "kept.json", {"machine": "m", "runs": {"a": {"value": 1}}}

    def perform():  # and beside it another process does c
        other = {"machine": "m", "runs": {"a": {"value": 1}, "c": {"value": 3}}}
        file.write_text(json.dumps(other))
        return {"value": 2}

    assert do_missing(kept, file, [("a", None), ("b", perform)])
    expected = {"a": {"value": 1}, "b": {"value": 2}, "c": {"value": 3}}
    assert json.loads(file.read_text())["runs"] == kept["runs"] == expected
