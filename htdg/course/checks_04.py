"""Self-checks of notebook 04, from votes to a score (paper section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from htdg.course.check import NOTHING, NotRight, check, expect, kind_of, like, names_in
from htdg.votes import aggregate_votes, votes_from_logits


def _number(result: object) -> float:
    """The result as a number; it must be a single one."""
    expect(result is not None, NOTHING)
    values = np.asarray(result, dtype=float)
    expect(
        values.size == 1, f"Return one number, but you return {values.size} (shape {values.shape})."
    )
    return float(values.reshape(()))


def _near(result: float, expected: float) -> bool:
    return abs(result - expected) < 1e-5


@check
def check_votes(answer: Callable[[torch.Tensor], torch.Tensor]) -> str:
    """Votes from logits: softmax over the first M classes, read at the copy's own class."""
    m, h, w = 3, 5, 7
    logits = 2 * torch.randn(m, m + 1, h, w, generator=torch.Generator().manual_seed(0))
    try:
        result = answer(logits.clone())
    except IndexError as error:
        raise NotRight(
            "You read beyond the copies or classes of the test, which has M = 3: take M from the "
            "argument, len(logits), not the notebook's M, which is 4."
        ) from error
    expect(result is not None, NOTHING)
    expect(isinstance(result, torch.Tensor), f"Return a tensor, not {kind_of(result)}.")
    result = like(result, logits)
    shape = tuple(result.shape)
    expect(
        shape not in ((m, m, h, w), (m, m + 1, h, w)),
        f"Your shape is {shape}, all probabilities of every patch. Of copy m keep only the one for "
        "class m.",
    )
    expect(
        shape != (h, w, m),
        f"Your shape is {shape}: diagonal puts the copies last. Bring them to the front with "
        ".permute(2, 0, 1).",
    )
    expect(
        shape == (m, h, w),
        f"For logits of shape ({m}, {m + 1}, {h}, {w}) the votes must have shape ({m}, {h}, {w}), "
        f"but yours is {shape}.",
    )
    for message, wrong in _wrong_votes(logits).items():
        expect(not torch.allclose(result, wrong, atol=1e-5), message)
    expect(
        torch.allclose(result, votes_from_logits(logits), atol=1e-5),
        "The shape is right, but the values are not those of the library.",
    )
    large = answer(300 * logits)
    expect(
        torch.isfinite(large).all(),
        "With large logits exp overflows, and votes become NaN: use .softmax, which takes care.",
    )
    return "your votes are those of the library"


def _wrong_votes(logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """The results of typical mistakes, by the message about each."""
    m = len(logits)
    first = logits[:, :m]

    def read_own_class(values: torch.Tensor) -> torch.Tensor:
        return torch.stack([values[i, i] for i in range(m)])

    kept = (
        '"generated" has a say in your votes: take the softmax over the first M = len(logits) '
        "classes only."
    )
    other = "You read class 0 of every copy: of copy m, read class m."
    axis = "Each patch's probabilities must sum to 1: the softmax goes over the classes, axis 1, "
    return {
        kept: read_own_class(logits.softmax(1)),
        'That is the probability of "generated": read class m of copy m.': logits.softmax(1)[:, m],
        "That is the probability of the most likely class. A vote is for the copy's own class, "
        "right or wrong.": first.softmax(1).amax(1),
        f"{kept} And it is the copy's own class, not the most likely one.": (
            logits.softmax(1)[:, :m].amax(1)
        ),
        axis + "not over the copies, axis 0.": read_own_class(first.softmax(0)),
        axis + "not over the rows of the map, axis 2.": read_own_class(first.softmax(2)),
        axis + "not over the columns of the map, axis 3.": read_own_class(first.softmax(3)),
        "You read off the logits themselves: take the softmax first.": read_own_class(first),
        "You take exp but do not divide by the sum over the classes.": read_own_class(first.exp()),
        "Those are logarithms of votes: take exp of them, or softmax for log_softmax.": (
            read_own_class(first.log_softmax(1))
        ),
        other: first.softmax(1)[:, 0],
        "That is one minus the votes: a vote is the probability itself.": (
            1 - read_own_class(first.softmax(1))
        ),
        "You average the probabilities over the classes, which is 1/M everywhere: of copy m read "
        "class m.": first.softmax(1).mean(1),
        "Yours are 0 or 1, whether the copy's own class is the most likely one: a vote is its "
        "probability.": read_own_class((first == first.amax(1, keepdim=True)).to(logits)),
        'You leave out the first class, but "generated" is the last one: logits[:, :M].': (
            read_own_class(logits[:, 1:].softmax(1))
        ),
    }


@check
def check_place(answer: Callable[[int, int, int, int], Sequence[int]]) -> str:
    """The pixel of the image that is the centre of a patch of a turned copy."""
    side, row, column = 25, 2, 9
    places = [_place(answer, row, column, k, side) for k in range(4)]
    still = places[0]
    expect(
        still != (row, column),
        "(2, 9) is the upper left pixel of the patch: its centre lies 5 pixels further down and "
        "right.",
    )
    expect(
        still not in ((row + 6, column + 6), (row + 11, column + 11), (row + 5.5, column + 5.5)),
        "The middle one of 11 pixels is 5 after the first: add 5.",
    )
    expect(still != (column + 5, row + 5), "Row and column are swapped: return the row first.")
    expect(
        still == (row + 5, column + 5),
        f"Of the copy that is not turned, the patch (2, 9) has its centre at (7, 14), but you get "
        f"{still}.",
    )
    expected = [_centre(row, column, k, side) for k in range(4)]
    expect(
        any(place != still for place in places[1:]),
        "You never undo the turn: for k = 1, 2, 3 the patch lies elsewhere in the image.",
    )
    expect(
        places != [expected[0], expected[3], expected[2], expected[1]],
        "You turn the copy on instead of back: the copy is turned counter-clockwise, so undo it "
        "clockwise.",
    )
    past = [_centre(row, column, k, side + 1) for k in range(4)]
    expect(
        places != past,
        "One pixel too far: the last of 25 pixels has the number 24, so a turn maps r to "
        "side - 1 - r.",
    )
    late = [tuple(v + 5 for v in _turned_back(row, column, k, side)) for k in range(4)]
    expect(
        places != late,
        "You turn the corner of the patch as if it were a pixel of the image, and add 5 then. But "
        "after a turn another pixel is the upper left one. Add 5 first, then turn back.",
    )
    expect(
        places != [still, still[::-1], still, still[::-1]],
        "For odd k you swap row and column: that mirrors the image. A turn also counts one of them "
        "from the other end, side - 1 - r.",
    )
    expect(
        places != [still, *[expected[1]] * 3],
        "You undo one quarter turn whatever k is: undo k of them.",
    )
    within_map = [_turned_back(row + 5, column + 5, k, side - 10) for k in range(4)]
    expect(
        places != within_map,
        "You turn back within side - 10 pixels, but (i + 5, j + 5) is a pixel of the copy, which "
        "has side pixels: use side - 1 - r.",
    )
    for k in (1, 2, 3):
        expect(
            places[k] == expected[k],
            f"For k = {k} the patch (2, 9) has its centre at {expected[k]} of the image, but you "
            f"get {places[k]}.",
        )
    for k in range(4):
        place = _place(answer, 30, 0, k, 41)
        expect(
            place == _centre(30, 0, k, 41),
            f"It is right for side 25, but not for side 41: (30, 0), k = {k} must be "
            f"{_centre(30, 0, k, 41)}, and you get {place}.",
        )
    return "every vote lands in the middle of its patch"


def _place(
    answer: Callable[[int, int, int, int], Sequence[int]], row: int, column: int, k: int, side: int
) -> tuple[float, ...]:
    """The answer's row and column."""
    result = answer(row, column, k, side)
    expect(result is not None, NOTHING)
    several = isinstance(result, (tuple, list, np.ndarray, torch.Tensor)) and np.ndim(result) == 1
    expect(several and len(result) == 2, "Return two numbers: return row, column.")
    return tuple(float(v) for v in result)


def _turned_back(row: int, column: int, k: int, side: int) -> tuple[int, int]:
    """The place in the image of pixel (row, column) of its copy turned k times to the left."""
    for _ in range(k):
        row, column = column, side - 1 - row
    return row, column


def _centre(row: int, column: int, k: int, side: int) -> tuple[int, int]:
    """The place in the image of the centre of the patch at (row, column) of the turned copy."""
    return _turned_back(row + 5, column + 5, k, side)


def _some_votes() -> list[np.ndarray]:
    """Votes of M = 3 transformations at five scales, whose means differ much."""
    rng = np.random.default_rng(0)
    means = (0.8, 0.6, 0.3, 0.5, 0.2)
    return [rng.uniform(0.5, 1, (3, 3 + n, 3 + n)) * mean for n, mean in enumerate(means)]


@check
def check_score(answer: Callable[[list[np.ndarray]], float]) -> str:
    """The anomaly score of one image from its votes at every scale."""
    votes = _some_votes()
    result = _number(_score(answer, [v.copy() for v in votes]))
    for message, wrong in _wrong_scores(votes).items():
        expect(not _near(result, wrong), message)
    expect(
        result <= 1,
        f"The score must be at most 1, but you get {result:.3f}: is something added "
        "up that should be averaged?",
    )
    right = 1 - float(np.mean([v.mean() for v in votes]))
    expect(
        _near(result, right),
        f"For the test votes it must be {right:.4f}, but you get {result:.4f}.",
    )
    perfect = _number(_score(answer, [np.ones((5, 2, 2)), np.ones((5, 4, 4))]))
    expect(
        _near(perfect, 0),
        f"With M = 5 and every vote 1 the score must be 0, but you get {perfect:.3f}: did you "
        "write a number of transformations or scales into the function?",
    )
    return "if all votes are 0 the score is 1, and if all are 1 it is 0"


def _score(answer: Callable[[list[np.ndarray]], float], votes: list[np.ndarray]) -> object:
    """The answer's score, with NumPy's error about shapes explained."""
    try:
        return answer(votes)
    except ValueError as error:
        complaint = str(error)
        expect(
            "inhomogeneous" not in complaint and "same shape" not in complaint,
            "The scales have different h, so their votes make no single array: loop over the list.",
        )
        raise


def _wrong_scores(votes: Sequence[np.ndarray]) -> dict[str, float]:
    """The results of typical mistakes with M = 3 transformations and five scales, by message."""
    m, scales = 3, len(votes)
    rows = [float(v.mean((1, 2)).sum()) for v in votes]
    normality = sum(rows) / scales
    pooled = 1 - float(np.concatenate([v.ravel() for v in votes]).mean())
    added = sum(float(v.sum()) for v in votes) / scales
    patches = (
        "You add up the patches of a scale: average over them (axes 1 and 2) and add up over the "
        "transformations (axis 0)."
    )
    other_m = (
        "The test has M = 3, but you divide by 4: take M from the argument, len(votes[0]), not the "
        "notebook's M."
    )
    return {
        "That is the normality, in [0, M]: divide it by M, and take it from 1.": normality,
        "Higher must be more anomalous, but normal votes are high: return 1 minus your value.": (
            normality / m
        ),
        "You forgot to divide the normality by M: the score must lie in [0, 1].": 1 - normality,
        "You divide by M but add the scales up: take their mean.": 1 - sum(rows) / m,
        "Divide by the number of scales and by M, then take the result from 1.": 1 - sum(rows),
        "You divide by M and by the number of scales, but twice by M: the mean over all axes is "
        "divided by M already.": 1 - normality / m**2,
        "You average over the patches of all scales together, so finer scales, which have more "
        "patches, count more. Average each scale first, then the scales.": pooled,
        "M - normality is in [0, M]: divide by M.": m - normality,
        "You divide twice by the number of scales: the second time it must be M, len(votes[0]).": (
            1 - normality / scales
        ),
        other_m: 1 - normality / 4,
        f"{other_m} And the number of scales is len(votes).": 1 - sum(rows) / 16,
        "The test has 5 scales, but you divide by 4: take their number from the argument, "
        "len(votes).": 1 - sum(rows) / 4 / m,
        patches: 1 - added / m,
        f"{patches} Then divide by M, too.": 1 - added,
        f"{patches} Divide by M once only.": 1 - added / m**2,
        "You take the finest scale only: take the mean over all scales.": 1 - rows[-1] / m,
        "You take the coarsest scale only: take the mean over all scales.": 1 - rows[0] / m,
        "You take the median of the scales: take their mean.": 1 - float(np.median(rows)) / m,
    }


@check
def check_lowest(answer: Callable[[np.ndarray, float], float]) -> str:
    """The normality of one scale from the lowest votes of each transformation."""
    rng = np.random.default_rng(1)
    votes = rng.uniform(0, 1, (4, 6, 6)) * np.array([1, 0.8, 0.5, 0.2])[:, None, None]
    fraction = 0.1  # of 36 patches: 3.6, so 3
    try:
        result = _number(answer(votes.copy(), fraction))
    except TypeError as error:
        expect(
            "slice indices" not in str(error),
            "P * fraction is no whole number, so it cannot end a slice: round it down with int.",
        )
        raise
    for message, wrong in _wrong_lowest(votes).items():
        expect(not _near(result, float(wrong)), message)
    right = float(np.sort(votes.reshape(4, -1), axis=1)[:, :3].mean(1).sum())
    expect(
        _near(result, right),
        f"For the test votes it must be {right:.4f}, but you get {result:.4f}.",
    )
    with np.errstate(all="ignore"):
        one = _number(answer(votes[:, :3, :3].copy(), fraction))
    least = float(votes[:, :3, :3].min((1, 2)).sum())
    expect(
        np.isfinite(one),
        "With 9 patches int(9 * 0.1) is 0, and the mean of nothing is NaN: take at least one "
        "patch.",
    )
    expect(
        _near(one, least),
        f"With 9 patches and a fraction of 0.1 one patch must be left, {least:.4f}, but you get "
        f"{one:.4f}.",
    )
    everything = _number(answer(votes.copy(), 1.0))
    expect(
        _near(everything, float(aggregate_votes(torch.from_numpy(votes[:, None]))[0])),
        "With fraction 1 all patches count, and the result must be the plain mean.",
    )
    return "the lowest votes count, and at least one of them"


def _wrong_lowest(votes: np.ndarray) -> dict[str, float]:
    """The results of typical mistakes with a tenth of the votes (4, 6, 6), by message."""
    ordered = np.sort(votes.reshape(4, -1), axis=1)
    right = float(ordered[:, :3].mean(1).sum())
    together = np.sort(votes.ravel())
    mixed = np.sort(votes.mean(0).ravel())[:3].mean()
    rows_of_map = (
        "You sort every row of the map by itself: make one list of all patches first, "
        "votes.reshape(len(votes), -1)."
    )
    return {
        "You average the highest votes; a defect is where votes are lowest.": (
            ordered[:, -3:].mean(1).sum()
        ),
        "You take the lowest votes of all transformations together. Each transformation has its "
        "own lowest patches: sort every row by itself.": 4 * together[:14].mean(),
        "You take the lowest votes of all transformations together (and their mean): sort every "
        "row by itself, then add the means of the rows.": together[:14].mean(),
        "You average the lowest 4 of 36 patches, but int(36 * 0.1) = 3 are meant.": (
            ordered[:, :4].mean(1).sum()
        ),
        "You average the lowest 14 patches of each transformation: votes.size counts the votes of "
        "all of them, but P is the number of patches, 36.": ordered[:, :14].mean(1).sum(),
        "You average over the transformations before you sort. Each one has its own lowest "
        "patches: sort every row by itself.": 4 * mixed,
        "You average over the transformations before you sort. Each one has its own lowest "
        "patches: sort every row by itself, then add the means of the rows.": mixed,
        "That is one minus the normality, but the normality itself is asked for here.": 1 - right,
        "That is M minus the normality, but the normality itself is asked for here.": 4 - right,
        "That is the anomaly score of the scale, but its normality is asked for here.": (
            1 - right / 4
        ),
        "You average over the transformations: their means are added, so that the result lies in "
        "[0, M].": ordered[:, :3].mean(),
        "You add the lowest votes up: take their mean for each transformation.": (
            ordered[:, :3].sum()
        ),
        rows_of_map: np.sort(votes, axis=2)[:, :, :1].mean((1, 2)).sum(),
        f"{rows_of_map} Then sort.": (np.sort(votes, axis=2).reshape(4, -1)[:, :3].mean(1).sum()),
        "You average over all patches: only the lowest ones count.": votes.mean((1, 2)).sum(),
        "You take the first patches of the map, not the lowest ones: sort the patches of each "
        "transformation first, np.sort(rows, axis=1) (axis 0 would mix the transformations).": (
            votes.reshape(4, -1)[:, :3].mean(1).sum()
        ),
        "That is the lowest vote of each transformation alone: average the lowest "
        "int(P * fraction).": ordered[:, 0].sum(),
        "That is the highest of the lowest votes (a quantile): average all that are as low.": (
            np.quantile(ordered, 0.1, axis=1).sum()
        ),
        "Those are the places of the lowest votes (argsort), not the votes: use np.sort.": (
            np.argsort(votes.reshape(4, -1), axis=1)[:, :3].mean(1).sum()
        ),
        "You compare votes with fraction, but that is a share of the patches, not a vote.": (
            votes[votes < 0.1].sum()
        ),
    }


@check
def check_auroc(answer: Callable[[np.ndarray, np.ndarray], float]) -> str:
    """The AUROC by counting pairs."""
    expect(
        not names_in(answer) & {"roc_auc_score", "image_metrics"},
        "That is the function of a library: here you count the pairs yourself.",
    )
    labels = np.array([0, 1, 0, 1, 1, 0, 0])
    scores = np.array([0.2, 0.3, 0.3, 0.9, 0.5, 0.6, 0.1])
    result = _number(answer(labels.copy(), scores.copy()))
    anomalous, normal = scores[labels == 1], scores[labels == 0]
    more = int((anomalous[:, None] > normal[None]).sum())
    less = int((anomalous[:, None] < normal[None]).sum())
    ties, pairs = 1, 12
    in_step = float(np.mean([a > b for a, b in zip(anomalous, normal, strict=False)]))
    for message, wrong in {
        "The tie counts nothing in your sum, but an anomalous image that scores like a normal one "
        "is half a success: add 1/2 (or, if you take the area, trapezoids for rectangles).": (
            more / pairs
        ),
        "The tie counts as a success in your sum (>=, or rectangles for trapezoids): it is half of "
        "one.": (more + ties) / pairs,
        "You pair the first anomalous image with the first normal one, the second with the second, "
        "and so on: count every anomalous image with every normal one.": in_step,
        "Upside down: count the pairs in which the anomalous image scores higher.": (
            (less + ties / 2) / pairs
        ),
        "Upside down, and the tie is left out: count the pairs in which the anomalous image scores "
        "higher, and half of the ties.": less / pairs,
        "You give the number of pairs: divide by how many pairs there are.": more + ties / 2,
        "You give the number of pairs, and leave out the tie: add 1/2 for it, and divide by how "
        "many pairs there are.": more,
        "You divide the pairs that are won by their number, but not the ties.": (
            more / pairs + ties / 2
        ),
        "That is by how much anomalous images score higher on average. By how much does not "
        "matter: count the pairs in which they do.": (anomalous.mean() - normal.mean()),
        "You compare each anomalous image with one threshold (such as the median of the normal "
        "ones): compare it with every normal image.": (
            float((anomalous > np.median(normal)).mean())
        ),
        "That is the share of images on the right side of a threshold (the accuracy). The AUROC "
        "has no threshold: count pairs.": float(((scores > 0.5) == labels).mean()),
        "You divide by all 7 * 7 pairs of images: a pair is one anomalous and one normal image, "
        "3 * 4.": (more + ties / 2) / 49,
        "You divide by 21, all pairs of two images: a pair is one anomalous and one normal image, "
        "3 * 4.": (more + ties / 2) / 21,
        "You divide by the number of images; there are 3 * 4 pairs.": (more + ties / 2) / 7,
    }.items():
        expect(not _near(result, wrong), message)
    right = (more + ties / 2) / pairs
    expect(
        _near(result, right),
        f"For the test scores it must be {right:.4f}, but you get {result:.4f}.",
    )
    alike = _number(answer(labels, np.zeros(7)))
    expect(_near(alike, 0.5), f"If all scores are equal it must be 0.5, but you get {alike:.3f}.")
    rng = np.random.default_rng(2)
    labels, scores = rng.integers(0, 2, 60), rng.integers(0, 9, 60) / 8
    pairs = scores[labels == 1][:, None] - scores[labels == 0][None]
    right = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    result = _number(answer(labels, scores))
    expect(
        _near(result, right),
        f"It is right for few images, but for 60 it must be {right:.4f}, and you get {result:.4f}.",
    )
    return "your AUROC is scikit-learn's, ties included"
