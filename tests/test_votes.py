"""Votes and what they add up to, against loops and by hand."""

import math

import numpy as np
import pytest
import torch

from htdg import ConfigError
from htdg.votes import aggregate_votes, as_fractions, votes_from_logits


def random_logits(m=4, batch=2, side=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(m, batch, m + 1, side, side, generator=generator)


def test_votes_by_hand():
    # M = 2, one image, a 1 x 2 map. Class 2 is "generated" and must have no say.
    logits = torch.zeros(2, 1, 3, 1, 2)
    logits[0, 0, :, 0, 0] = torch.tensor([math.log(3), 0.0, 50.0])  # T_1: 3 / (3 + 1)
    logits[0, 0, :, 0, 1] = torch.tensor([0.0, math.log(4), -50.0])  # T_1: 1 / (1 + 4)
    logits[1, 0, :, 0, 0] = torch.tensor([math.log(3), 0.0, 50.0])  # T_2: 1 / (3 + 1)
    logits[1, 0, :, 0, 1] = torch.tensor([7.0, 7.0, 0.0])  # T_2: 1 / 2
    votes = votes_from_logits(logits)
    assert votes.shape == (2, 1, 1, 2)
    assert votes.flatten().tolist() == pytest.approx([0.75, 0.2, 0.25, 0.5])
    # (0.75 + 0.2) / 2 + (0.25 + 0.5) / 2; with half of the patches 0.2 + 0.25.
    assert aggregate_votes(votes).tolist() == pytest.approx([0.85])
    assert aggregate_votes(votes, 0.5).tolist() == pytest.approx([0.45])


def test_the_generated_class_has_no_say():
    logits = random_logits()
    changed = logits.clone()
    changed[:, :, -1] += torch.linspace(-30, 30, 9).view(3, 3)
    assert torch.equal(votes_from_logits(changed), votes_from_logits(logits))


def test_every_other_class_has_a_say():
    logits = random_logits()
    votes = votes_from_logits(logits)
    for c in range(4):
        changed = logits.clone()
        changed[:, :, c] += 1
        rises = votes_from_logits(changed) > votes
        assert rises[c].all()
        assert not rises[[m for m in range(4) if m != c]].any()


def test_votes_against_loops():
    logits = random_logits(m=3)
    votes = votes_from_logits(logits)
    for m in range(3):
        for b in range(2):
            for i in range(3):
                for j in range(3):
                    patch = [math.exp(v) for v in logits[m, b, :3, i, j].tolist()]
                    assert votes[m, b, i, j].item() == pytest.approx(patch[m] / sum(patch), 1e-5)


def test_votes_without_a_batch_dimension():
    logits = random_logits(batch=1)
    torch.testing.assert_close(votes_from_logits(logits[:, 0]), votes_from_logits(logits)[:, 0])


def test_votes_are_stable_for_large_logits():
    logits = torch.tensor([900.0, 0.0, 0.0, 0.0, 900.0, 0.0]).view(2, 1, 3, 1, 1)
    assert votes_from_logits(logits).flatten().tolist() == [1, 1]


def slow_aggregate(votes, count):
    """For each image, the sum over m of the mean of the ``count`` lowest votes."""
    result = []
    for b in range(votes.shape[1]):
        total = 0
        for m in range(votes.shape[0]):
            lowest = sorted(votes[m, b].flatten().tolist())[:count]
            total += sum(lowest) / count
        result.append(total)
    return result


@pytest.mark.parametrize(
    ("fraction", "count"),
    [
        (None, 25),
        (1.0, 25),
        (1, 25),
        (0.5, 12),  # int(12.5)
        (0.1, 2),
        (0.05, 1),  # int(1.25)
        (0.04, 1),
        (0.01, 1),  # int(0.25) = 0, but at least one
        (0.999, 24),
    ],
)
def test_aggregate_against_loops(fraction, count):
    generator = torch.Generator().manual_seed(1)
    votes = torch.rand(4, 3, 5, 5, generator=generator)
    assert aggregate_votes(votes, fraction).tolist() == pytest.approx(slow_aggregate(votes, count))


def test_the_lowest_are_chosen_for_each_transformation_and_image():
    votes = torch.full((2, 2, 2, 2), 0.9)
    votes[0, 0, 0, 1] = 0.1
    votes[1, 0, 1, 0] = 0.3
    votes[1, 1, 1, 1] = 0.5
    # A quarter of four patches: 0.1 + 0.3, and 0.9 + 0.5.
    assert aggregate_votes(votes, 0.25).tolist() == pytest.approx([0.4, 1.4])
    # The mean over all: (2.8 + 3.0) / 4, and (3.6 + 3.2) / 4.
    assert aggregate_votes(votes).tolist() == pytest.approx([1.45, 1.7])


def test_the_bounds():
    assert aggregate_votes(torch.ones(3, 2, 4, 4)).tolist() == [3, 3]
    assert aggregate_votes(torch.zeros(3, 2, 4, 4), 0.1).tolist() == [0, 0]


def test_several_fractions_by_hand():
    votes = torch.tensor([0.9, 0.1, 0.5, 0.3]).view(1, 1, 2, 2)
    sums = aggregate_votes(votes, (0.25, 0.5, 0.01, None, 0.74))
    assert sums[:, 0].tolist() == pytest.approx([0.1, 0.2, 0.1, 0.45, 0.2])


def test_several_fractions_are_what_one_is_alone():
    votes = torch.rand(4, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    fractions = (None, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
    together = aggregate_votes(votes, fractions)
    assert together.shape == (7, 3)
    for fraction, of_fraction in zip(fractions, together, strict=True):
        torch.testing.assert_close(of_fraction, aggregate_votes(votes, fraction))


def test_an_array_of_fractions_is_a_list_of_them():
    votes = torch.rand(4, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    fractions = [0.01, 0.05, 0.5]
    expected = aggregate_votes(votes, fractions)
    assert expected.shape == (3, 3)
    assert torch.equal(aggregate_votes(votes, np.array(fractions)), expected)
    assert aggregate_votes(votes, np.array([0.05])).shape == (1, 3)


@pytest.mark.parametrize(
    ("fractions", "expected"),
    [
        (None, (None,)),
        (np.float32(0.5), (0.5,)),
        (1, (1.0,)),
        ([None, 0.5], (None, 0.5)),
        (np.array([0.25, 0.5]), (0.25, 0.5)),
    ],
)
def test_fractions_become_floats(fractions, expected):
    assert as_fractions(fractions) == expected
    assert all(type(f) in (float, type(None)) for f in as_fractions(fractions))


@pytest.mark.parametrize("wrong", [(), np.array([])], ids=repr)
def test_no_fraction_is_refused(wrong):
    with pytest.raises(ConfigError, match="defect_fraction is an empty list: give a fraction"):
        aggregate_votes(torch.ones(2, 1, 3, 3), wrong)


@pytest.mark.parametrize(
    "fraction",
    [
        *(0, 0.0, -0.1, 1.01, math.nan, math.inf),
        *("0.1", True, {0.1}, {0.1: 1}, torch.tensor([0.1, 0.2])),
        *(np.array([0.1, 0.0]), np.array([[0.1, 0.2]]), np.array(["0.1"])),
        *([[0.1], [0.2, 0.3]], b"0.1"),
    ],
    ids=repr,
)
def test_a_wrong_fraction_is_refused(fraction):
    with pytest.raises(ConfigError, match=r"defect_fraction is .* above 0 and at most 1"):
        aggregate_votes(torch.ones(2, 1, 3, 3), fraction)


def test_an_array_without_dimensions_is_a_number():
    votes = torch.rand(3, 2, 10, 10)
    assert as_fractions(np.array(0.1)) == (0.1,)
    one = aggregate_votes(votes, np.array(0.1))
    assert one.shape == (2,)
    assert torch.equal(one, aggregate_votes(votes, 0.1))
