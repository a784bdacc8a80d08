"""Self-checks of notebook 02, the transformations (paper section 3.2, supplementary material)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np
import torch

from htdg.course.check import NOTHING, check, expect, expect_own, kind_of, like
from htdg.transformations import (
    CATALOGUE,
    LUMA,
    Transformation,
    luma,
    shift_pixels,
    translate,
)

#: An answer of an exercise: takes images or a map, and returns one.
Answer = Callable[..., torch.Tensor]
TOLERANCE = 1e-4


def _random(side: int, seed: int = 0) -> torch.Tensor:
    """A random colour image (1, 3, side, side) without any symmetry."""
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(1, 3, side, side, generator=generator) - 1


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, atol=TOLERANCE)


def _ask(answer: Answer, images: torch.Tensor, *options: object) -> torch.Tensor:
    """The answer's result, which must be a tensor; the images must stay as they are."""
    before = images.clone()
    result = answer(images, *options)
    expect(result is not None, NOTHING)
    expect(
        isinstance(result, torch.Tensor),
        f"The function returns {kind_of(result)}, but it must return a torch tensor.",
    )
    expect(
        torch.equal(before, images),
        "The function changes the tensor that it is given: make a new one (clone it first).",
    )
    return like(result, images)


def _expect_shape(result: torch.Tensor, expected: torch.Size) -> None:
    expect(
        result.shape == expected,
        f"The shape is {tuple(result.shape)}, but it must stay {tuple(expected)}.",
    )


@check
def check_turn(turn: Answer) -> str:
    """Quarter turns, counter-clockwise."""
    expect_own(
        turn,
        {"rot90", "rotate", "apply"},
        "exchange rows and columns with transpose, then reverse one axis with flip.",
    )
    x = _random(5)
    zero, one = _ask(turn, x, 0), _ask(turn, x, 1)
    expect(
        zero.shape != x.shape or one.shape not in ((5, 5, 3, 1), (3, 1, 5, 5), (1, 5, 3, 5)),
        f"The shape is {tuple(one.shape)}: exchange the last two axes only, transpose(-2, -1).",
    )
    _expect_shape(one, x.shape)
    expect(_same(zero, x), "k = 0 must give the image back as it is.")
    expect(
        not _same(one, torch.rot90(x, -1, (-2, -1))),
        "It turns clockwise: what was at the right edge must come to the top, not to the bottom.",
    )
    expect(
        not _same(one, x.transpose(-2, -1)) and not _same(one, x.transpose(-2, -1).flip(-2, -1)),
        "It mirrors the image at a diagonal: transposing alone is no turn, a flip must follow.",
    )
    expect(
        not _same(one, x.flip(-2, -1)),
        "k = 1 gives half a turn: flipping both axes turns by 180 degrees.",
    )
    for axis in (-2, -1):
        expect(
            not _same(one, x.flip(axis)),
            "k = 1 mirrors the image: a flip alone is no turn, rows and columns must also change "
            "places (transpose).",
        )
    expect(
        not _same(one, x) and not _same(one, x.flip(1)),
        "k = 1 does not move a single pixel of a channel: rows and columns are the last two axes, "
        "-2 and -1.",
    )
    expect(_same(one, torch.rot90(x, 1, (-2, -1))), "k = 1 is not a quarter turn of the image.")
    for k in (2, 3):
        result = _ask(turn, x, k)
        expect(not _same(result, one), f"k = {k} turns once only: turn k times, one after another.")
        for axis in (-2, -1):
            expect(
                not _same(result, x.flip(axis)),
                f"k = {k} mirrors the image along one axis: half a turn reverses both.",
            )
        expect(
            not (k == 3 and _same(result, x.flip(-2, -1))),
            "k = 3 makes half a turn: there must be three quarter turns, one after another.",
        )
        expect(
            _same(result, torch.rot90(x, k, (-2, -1))),
            f"k = 1 is right, but k = {k} is not: turn k times, one after another.",
        )
    return "your turns go counter-clockwise, whatever k is"


@check
def check_grey(grey: Answer) -> str:
    """Luma in three channels."""
    x = torch.cat([_random(6, seed) for seed in range(3)])  # so images[0] to images[2] exist
    result = _ask(grey, x)
    images_mixed = (x * x.new_tensor(LUMA).view(3, 1, 1, 1)).sum(0)  # (3, 6, 6)
    for wrong in (images_mixed, images_mixed[:, None].expand_as(x), images_mixed.expand_as(x)):
        expect(
            not _same(result, wrong),
            "It mixes the three images: the first axis is the batch, so images[:, 0] is red.",
        )
    expect(
        result.shape not in ((3, 1, 6, 6), (3, 6, 6)),
        "One channel is left: the networks take three, so repeat it (expand_as does that).",
    )
    _expect_shape(result, x.shape)
    weights = x.new_tensor(LUMA).view(3, 1, 1)
    expect(
        not _same(result, x * weights),
        "Every channel is weighted, but they are not summed: the result is still coloured.",
    )
    expect(
        _same(result[:, :1].expand_as(result), result),
        "The three channels differ: that is no grey.",
    )
    others = {
        "It is the plain mean of the channels: the eye sees green as brighter than blue, so "
        "weight them.": (1 / 3, 1 / 3, 1 / 3),
        "Red and blue are exchanged: channel 0 is red here, and weighs 0.299.": LUMA[::-1],
        "Those are the weights of HDTV (ITU-R 709): take the ones of the formula.": (
            0.2126,
            0.7152,
            0.0722,
        ),
        "It is a third of the luma: add the weighted channels up, do not take their mean.": tuple(
            weight / 3 for weight in LUMA
        ),
    }
    for message, wrong_weights in others.items():
        mixed = (x * x.new_tensor(wrong_weights).view(3, 1, 1)).sum(1, keepdim=True).expand_as(x)
        expect(not _same(result, mixed), message)
    expect(_same(result, luma(x).expand_as(x)), "The three channels agree, but are not the luma.")
    expect(
        _same(_ask(grey, x[:1]), luma(x[:1]).expand_as(x[:1])),
        "It is right for a batch of 3 images, but not for one image.",
    )
    return "that is the luma, in all three channels"


def _moved(x: torch.Tensor, right: int, down: int, border: str) -> torch.Tensor:
    """The content moved by whole pixels; ``border`` is a mode of ``numpy.pad``."""
    n, pad = x.shape[-1], max(abs(right), abs(down))
    padded = np.pad(x.numpy(), [(0, 0), (0, 0), (pad, pad), (pad, pad)], mode=border)  # type: ignore[call-overload]
    top, left = pad - down, pad - right
    return torch.from_numpy(padded[..., top : top + n, left : left + n])


_BORDERS = {
    "reflect": "The edge pixel must be repeated: the border must read 2 1 0 | 0 1 2, and yours "
    "reads 3 2 1 | 0 1 2.",
    "wrap": "What leaves on one side comes in on the other: that is a roll; reflect instead.",
    "edge": "The edge pixel alone fills the border: reflect the image instead.",
    "constant": "The border is filled with a constant: fill it with the reflected image.",
}


def _ask_to_shift(shift: Answer, x: torch.Tensor, tx: int, ty: int) -> torch.Tensor:
    try:
        return _ask(shift, x, tx, ty)
    except IndexError as error:
        expect(
            "used as indices" not in str(error),
            "The positions are not whole numbers, so they cannot be used as an index: the shift is "
            "int(0.15 * n).",
        )
        expect(
            "dimension 0 with size 1" not in str(error),
            "The first axis is the batch, which has one image here: take rows with [..., rows, :] "
            "and columns with [..., columns].",
        )
        expect(
            tx >= 0 and ty >= 0,
            f"It fails for tx = {tx}, ty = {ty} ({error}): positions from n on must be reflected, "
            "too.",
        )
        raise


def _expect_moved(result: torch.Tensor, x: torch.Tensor, tx: int, ty: int) -> None:
    """What is wrong with a shift in another direction, where the one to the right was right."""
    s, begin = shift_pixels(x.shape[-1]), f"tx = 1, ty = 0 is right, but tx = {tx}, ty = {ty} "
    expect(not _same(result, x), f"{begin}changes nothing.")
    for border, message in _BORDERS.items():
        expect(
            not _same(result, _moved(x, tx * s, ty * s, border)),
            f"{begin}is not. On that side, too: {message[0].lower()}{message[1:]}",
        )
    for wrong, what in (
        (
            (tx, -ty),
            "moves up instead of down: ty = 1 must move the content down, towards larger i",
        ),
        ((-tx, ty), "moves to the wrong side: tx = -1 must move the content to the left"),
        ((tx, 0), "does not move rows: take them with [..., rows, :], which follow ty"),
        ((0, ty), "does not move columns: take them with [..., columns], which follow tx"),
    ):
        moved = _moved(x, wrong[0] * s, wrong[1] * s, "symmetric")
        expect(wrong == (tx, ty) or not _same(result, moved), f"{begin}{what}.")
    expect(_same(result, _moved(x, tx * s, ty * s, "symmetric")), f"{begin}is not.")


@check
def check_shift(shift: Answer) -> str:
    """Whole pixels, reflected border."""
    x = _random(25)  # 0.15 * 25 = 3.75
    s = shift_pixels(25)
    result = _ask_to_shift(shift, x, 0, 0)
    expect(
        result.shape != x.shape[:-1],
        f"The shape is {tuple(result.shape)}, but it must stay {tuple(x.shape)}: index one axis "
        "after the other, since two tensors of positions at once take pairs, the diagonal.",
    )
    _expect_shape(result, x.shape)
    expect(_same(result, x), "tx = ty = 0 must give the image back as it is.")
    result = _ask_to_shift(shift, x, 1, 0)
    _expect_shape(result, x.shape)
    expect(not _same(result, x), "tx = 1 changes nothing.")
    expect(
        not _same(result, _moved(x, s, s, "symmetric")),
        "tx = 1 moves the content down as well: rows are to follow ty, and columns tx.",
    )
    for border in ("symmetric", *_BORDERS):
        expect(
            not _same(result, _moved(x, -s, 0, border)),
            "tx = 1 moves the content left: pixel j of the copy must show pixel j - s.",
        )
        expect(
            not _same(result, _moved(x, 0, s, border)),
            "tx = 1 moves the content down: x runs along columns, the last axis.",
        )
    for distance in range(1, 20):
        expect(
            distance == s or not _same(result[..., distance:], x[..., :-distance]),
            f"At side 25 it moves by {distance} px, but int(0.15 * 25) is {s}.",
        )
    for border, message in _BORDERS.items():
        expect(not _same(result, _moved(x, s, 0, border)), message)
    inside = torch.equal(result[..., s:], x[..., :-s])
    expect(
        _same(result, _moved(x, s, 0, "symmetric")),
        f"The content is in its place, but the first {s} columns are not its reflection."
        if inside
        else "tx = 1 does not move the content to the right by int(0.15 * n) pixels.",
    )
    for tx, ty in ((-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1)):
        _expect_moved(_ask_to_shift(shift, x, tx, ty), x, tx, ty)
    x = _random(64)
    result = _ask(shift, x, 1, -1)
    expect(
        not _same(result, _moved(x, s, -s, "symmetric")),
        f"At side 64 it still moves by {s} pixels as at 25, but int(0.15 * 64) is "
        f"{shift_pixels(64)}.",
    )
    expect(
        _same(result, _moved(x, shift_pixels(64), -shift_pixels(64), "symmetric")),
        "It is right for images of 25 pixels, but not for 64.",
    )
    return "the content moves, and its reflection follows"


_STEPS: dict[str, Callable[[torch.Tensor, Transformation], torch.Tensor]] = {
    "flip": lambda x, t: x.flip(-1) if t.flip else x,
    "shift": lambda x, t: translate(x, t, "pixel") if t.translated else x,
    "turn": lambda x, t: torch.rot90(x, t.k, (-2, -1)),
}


def _in_order(x: torch.Tensor, t: Transformation, order: tuple[str, ...]) -> torch.Tensor:
    for step in order:
        x = _STEPS[step](x, t)
    return x


@check
def check_transform(transform: Answer) -> str:
    """Flip, shift, turn, grey, in this order."""
    x = _random(21)
    result = _ask(transform, x, Transformation(0, 0, 0, 0, 0))
    greyed = luma(x).expand_as(x)
    expect(
        not _same(result, x.flip(-1)) and not _same(result, greyed.flip(-1)),
        "The identity is flipped: flip only if t.flip is 1.",
    )
    expect(
        not _same(result, greyed) and not _same(result, luma(x)),
        "The identity is grey: make a copy grey only if t.grey is 1.",
    )
    for t, part in (
        (Transformation(0, 0, 0, 0, 0), "The identity"),
        (Transformation(0, 1, 0, 0, 0), "The flip"),
        (Transformation(0, 0, 1, 0, 0), "The shift along x"),
        (Transformation(0, 0, 0, 1, 0), "The shift along y"),
        (Transformation(0, 0, 0, 0, 1), "The quarter turn"),
        (Transformation(0, 0, 0, 0, 3), "The turn by three quarters"),
    ):
        result = _ask(transform, x, t)
        _expect_shape(result, x.shape)
        expect(_same(result, t.apply(x)), f"{part} alone is not right yet: look at t = ({t}).")
    grey = _ask(transform, x, Transformation(1, 0, 0, 0, 0))
    expect(grey.shape[1] == 3, "The grey copy has one channel: repeat it with .expand_as(images).")
    expect(not _same(grey, x), "t.grey is not looked at: the grey copies are still coloured.")
    expect(_same(grey, Transformation(1, 0, 0, 0, 0).apply(x)), "The grey copy is not the luma.")
    probe = Transformation(0, 1, 1, 0, 1)  # every order gives another copy
    result = _ask(transform, x, probe)
    for order in permutations(_STEPS):
        expect(
            order == tuple(_STEPS) or not _same(result, _in_order(x, probe, order)),
            f"The order is {', then '.join(order)}, but it must be flip, then shift, then turn.",
        )
    for m, t in enumerate(CATALOGUE, start=1):
        expect(_same(_ask(transform, x, t), t.apply(x)), f"T_{m} ({t}) is not right yet.")
    return "all 54 copies are those of the library"


@check
def check_number(number: Callable[[int], int]) -> str:
    """The number m of the T_m that equals a turn by k quarters, then a flip."""
    numbers = [number(k) for k in range(4)]
    expect(None not in numbers, NOTHING)
    expect(
        all(isinstance(m, (int, np.integer)) for m in numbers),
        f"It returns {numbers[0]!r}, but the number m must be an integer.",
    )
    right = [17, 20, 19, 18]
    expect(
        numbers != [m - 1 for m in right],
        "All are one too small: T_1 is CATALOGUE[0], so m is the index plus 1.",
    )
    expect(
        numbers not in ([17, 18, 19, 20], [16, 17, 18, 19]),
        "That is the flip first and then the turn by k; here the turn comes first.",
    )
    expect(
        numbers not in ([1, 4, 3, 2], [0, 3, 2, 1]),
        "The turn is right, but those numbers have no flip in them.",
    )
    expect(
        numbers[0] == 17,
        f"For k = 0 only the flip is left, which is T_17, but you say T_{numbers[0]}.",
    )
    for k, (named, m) in enumerate(zip(numbers, right, strict=True)):
        expect(named == m, f"For k = {k}, T_{named} gives another copy: compare the pictures.")
    return "turning by k and then flipping is flipping and then turning by -k"


def _undone(
    votes: torch.Tensor,
    t: Transformation,
    n: int,
    turn: int = -1,
    sign: int = -1,
    flip_first: bool = False,
    flips: bool = True,
    turn_last: bool = False,
) -> torch.Tensor:
    """The map undone in whole pixels; the options make typical mistakes."""
    s, h = shift_pixels(n), votes.shape[-1]
    if flip_first and t.flip:
        votes = votes.flip(-1)
    if not turn_last:
        votes = torch.rot90(votes, turn * t.k, (-2, -1))
    undone = torch.full_like(votes, torch.nan)
    down, right = sign * t.ty * s, sign * t.tx * s
    for i in range(h):
        for j in range(h):
            if 0 <= i - down < h and 0 <= j - right < h:
                undone[i, j] = votes[i - down, j - right]
    if turn_last:
        undone = torch.rot90(undone, turn * t.k, (-2, -1))
    return undone.flip(-1) if t.flip and flips and not flip_first else undone


def _same_map(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, atol=TOLERANCE, equal_nan=True)


@check
def check_undo_map(undo_map: Answer) -> str:
    """A map of votes back to the places of the image."""
    n, h = 28, 18
    votes = torch.rand(h, h, generator=torch.Generator().manual_seed(1))
    cases = {
        "the identity": Transformation(0, 0, 0, 0, 0),
        "a quarter turn": Transformation(0, 0, 0, 0, 1),
        "a flip": Transformation(0, 1, 0, 0, 0),
        "a shift to the right": Transformation(0, 0, 1, 0, 0),
        "a shift down": Transformation(0, 0, 0, 1, 0),
        "a shift up and left": Transformation(0, 0, -1, -1, 0),
        "flip and shift": Transformation(0, 1, 1, 0, 0),
        "flip and turn": Transformation(0, 1, 0, 0, 1),
        "shift and turn": Transformation(0, 0, 1, 0, 1),
        "flip, shift and turn": Transformation(0, 1, 1, 1, 3),
    }
    for name, t in cases.items():
        result, right = _ask(undo_map, votes, t, n), _undone(votes, t, n)
        _expect_shape(result, right.shape)
        if _same_map(result, right):
            continue
        # With a flip, a wrong order looks like a wrong sign, which the cases before exclude.
        expect(
            not t.flip or not _same_map(result, _undone(votes, t, n, flips=False)),
            f"With {name}: the flip is not undone.",
        )
        expect(
            not t.flip or not _same_map(result, _undone(votes, t, n, flip_first=True)),
            f"With {name}: the flip came first and so has to be undone last.",
        )
        expect(
            t.k == 0 or not _same_map(result, _undone(votes, t, n, turn=1)),
            f"With {name}: it turns once more instead of back (turn by -k).",
        )
        expect(
            not t.translated or not _same_map(result, _undone(votes, t, n, sign=1)),
            f"With {name}: it shifts once more instead of back.",
        )
        expect(
            not (t.k and t.translated)
            or not _same_map(result, _undone(votes, t, n, turn_last=True)),
            f"With {name}: the turn came after the shift and so has to be undone before it.",
        )
        exchanged = Transformation(t.grey, t.flip, t.ty, t.tx, t.k)
        expect(
            t.tx == t.ty or not _same_map(result, _undone(votes, exchanged, n)),
            f"With {name}: tx and ty are exchanged; tx moves columns (the last axis), ty rows.",
        )
        if t.translated:
            defined = ~right.isnan()
            expect(
                not (_same(result[defined], right[defined]) and not result[~defined].isnan().all()),
                f"With {name}: put NaN where no patch of the copy tells, at the places that left "
                "the image with the shift.",
            )
            expect(
                not _same_map(result, _undone(votes, t, h)),
                f"With {name}: the shift is int(0.15 * n) pixels of the image's side n = {n}, not "
                f"of the map's side {h}.",
            )
        expect(False, f"With {name} (t = {t}), the map is not what it was before.")
    return "every vote is back at its place"


#: What a student may predict of a transformation, in words.
_WORDS = ("none", "border", "all")
#: The right predictions of ``check_predictions`` by sound and transformation, each with a hint.
#: They are measured in the notebook; ``tests/test_course_02.py`` holds them to it.
PREDICTIONS = {
    "hum": {
        "flip": ("none", "A steady hum that is played backwards is the same hum."),
        "shift right": (
            "none",
            "The reflection that comes in on the left shows the same tones as the rest.",
        ),
        "shift down": (
            "border",
            "A patch does not know its row, so inner patches of lower tones look like others; but "
            "is the distance between two tones right where the reflection begins?",
        ),
        "quarter turn": ("all", "What were lines along the time now run along the frequency."),
        "half turn": (
            "none",
            "Upside down, the tones still lie eight rows apart, and backwards they sound the same.",
        ),
    },
    "plucks": {
        "flip": (
            "all",
            "A pluck lasts eight columns and a patch has eleven, so it shows an attack.",
        ),
        "shift right": (
            "border",
            "Inner patches are those of an earlier moment, but in the reflection time runs back.",
        ),
        "shift down": (
            "border",
            "A patch does not know its row; but is the distance between two tones right where the "
            "reflection begins?",
        ),
        "quarter turn": ("all", "The plucks die away along the frequency, which no patch did."),
        "half turn": ("all", "Half a turn reverses the time, too: the plucks swell."),
    },
    "sirens": {
        "flip": ("all", "A siren that is played backwards falls."),
        "shift right": (
            "border",
            "Inner patches are those of an earlier moment, but in the reflection the tones fall.",
        ),
        "shift down": (
            "border",
            "Inner patches are those of other rows, but in the reflection the tones fall.",
        ),
        "quarter turn": ("all", "Draw a rising line and turn the paper by a quarter: it falls."),
        "half turn": (
            "none",
            "Draw a rising line and turn the paper by half a turn: it rises as before.",
        ),
    },
}


@check
def check_predictions(predict: Callable[[], dict[str, dict[str, str]]]) -> str:
    """How many patches of three spectrograms can tell which transformation was applied."""
    predicted = predict()
    expect(predicted is not None, NOTHING)
    expect(
        isinstance(predicted, dict) and all(isinstance(row, dict) for row in predicted.values()),
        "Return a dictionary that holds a dictionary for each sound, as the text shows.",
    )
    for sound, right in PREDICTIONS.items():
        expect(sound in predicted, f"There is no prediction for {sound!r}.")
        for name, (word, why) in right.items():
            expect(name in predicted[sound], f"{sound}: there is no prediction for {name!r}.")
            said = predicted[sound][name]
            expect(
                said in _WORDS,
                f"{sound}, {name}: the prediction must be 'none', 'border' or 'all', not {said!r}.",
            )
            expect(said == word, f"{sound}, {name}: not {said!r}. {why}")
    unknown = sorted(map(str, set(predicted) - set(PREDICTIONS)))
    expect(not unknown, f"There is no sound {', '.join(unknown)}.")
    return "all fifteen predictions are what is measured below"
