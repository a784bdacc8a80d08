"""Notebook 02: its answers pass, typical mistakes are told apart, its figures are right."""

import re
from itertools import pairwise

import nbformat
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from htdg.course import checks_02, draw_02
from htdg.course.check import NotRight
from htdg.transformations import (
    CATALOGUE,
    TRANSLATIONS,
    Transformation,
    luma,
    shift_pixels,
    translate,
)
from tests.course import NOTEBOOKS, answers

CHECKS = {
    "turn": checks_02.check_turn,
    "grey": checks_02.check_grey,
    "shift": checks_02.check_shift,
    "transform": checks_02.check_transform,
    "turn_then_flip": checks_02.check_number,
    "undo_map": checks_02.check_undo_map,
    "predictions": checks_02.check_predictions,
}


# --- The exercises ------------------------------------------------------------------------------


def padded_shift(x, right, down, mode):
    n, pad = x.shape[-1], 8
    wide = np.pad(x.numpy(), [(0, 0), (0, 0), (pad, pad), (pad, pad)], mode=mode)
    top, left = pad - down, pad - right
    return torch.from_numpy(wide[..., top : top + n, left : left + n])


def in_place(x, k):
    x *= 1
    x += 0.5
    return x


def loops(votes, t, n, turn=-1, sign=1, side=None, unknown=torch.nan, turn_last=False):
    """Undoing a map by loops, or almost: the options make the mistakes."""
    s, h = shift_pixels(side or n), len(votes)
    votes = votes if turn_last else torch.rot90(votes, turn * t.k)
    undone = torch.full((h, h), unknown, dtype=votes.dtype)
    for i in range(h):
        for j in range(h):
            row, column = i + sign * t.ty * s, j + sign * t.tx * s
            if 0 <= row < h and 0 <= column < h:
                undone[i, j] = votes[row, column]
    if turn_last:
        undone = torch.rot90(undone, turn * t.k)
    return undone.flip(-1) if t.flip else undone


def rot(x, k):
    return torch.rot90(x, k, (-2, -1))


def grey_if(x, t):
    return luma(x).expand_as(x) if t.grey else x


def flip_if(x, t):
    return x.flip(-1) if t.flip else x


def moved(x, t):
    return translate(x, t, "pixel")


def rolled(votes, t, n):
    s = shift_pixels(n)
    return flip_if(rot(votes, -t.k).roll((-t.ty * s, -t.tx * s), (-2, -1)), t)


def indexed(x, tx, ty, s=None, both=False, upper=True):
    """A shift by positions, with its mistakes as options."""
    n = x.shape[-1]
    s = s or shift_pixels(n)

    def source(t):
        u = torch.arange(n) - t * s
        u = torch.where(u < 0, -1 - u, u)
        return torch.where(u >= n, 2 * n - 1 - u, u) if upper else u

    if both:
        return x[..., source(ty), source(tx)]
    return x[..., source(ty), :][..., source(tx)]


def grey_of_images(x, by_image=True):
    mixed = 0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]
    return mixed[:, None].expand_as(x) if by_image else mixed


def predicted(change=None, **sounds):
    """The right predictions, but for those of some sounds, or the word of one transformation."""
    right = {
        sound: {name: word for name, (word, _) in row.items()}
        for sound, row in checks_02.PREDICTIONS.items()
    }
    if change:
        sound, name, word = change
        right[sound][name] = word
    return right | sounds


WEIGHTS = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)

WRONG = {
    "turn": {
        "clockwise": lambda x, k: rot(x, -k),
        "mirrors the image at a diagonal": lambda x, k: x.transpose(-2, -1) if k else x,
        "half a turn": lambda x, k: x.flip(-2, -1) if k else x,
        "k = 2 turns once only": lambda x, k: rot(x, min(k, 1)),
        "k = 0 must give the image back": lambda x, k: rot(x, k + 1),
        "shape is": lambda x, k: x[0],
        "changes the tensor": in_place,
        "returns an ndarray": lambda x, k: x.numpy(),
        "IndexError": lambda x, k: x[:, :, 99],
        "rot90 is what you are to write yourself": lambda x, k: torch.rot90(x, k, (-2, -1)),
        "yourself: exchange rows": lambda x, k: next(y.rot90(k, (-2, -1)) for y in (x,)),
        "a flip alone is no turn": lambda x, k: x.flip(-2) if k else x,
        "exchange the last two axes only": lambda x, k: x.permute(3, 2, 1, 0) if k else x,
        "does not move a single pixel": lambda x, k: x.flip(0) if k else x,
        "k = 2 mirrors the image along one axis": lambda x, k: x.flip(-2) if k == 2 else rot(x, k),
        "k = 3 makes half a turn": lambda x, k: rot(x, min(k, 2)),
    },
    "grey": {
        "One channel is left": luma,
        "plain mean": lambda x: x.mean(1, keepdim=True).expand_as(x),
        "Red and blue are exchanged": lambda x: luma(x.flip(1)).expand_as(x),
        "HDTV": lambda x: (
            (x * torch.tensor([0.2126, 0.7152, 0.0722]).view(3, 1, 1)).sum(1, True).expand_as(x)
        ),
        "not summed": lambda x: x * WEIGHTS,
        "channels differ": lambda x: x,
        "It mixes the three images": grey_of_images,
        "the first axis is the batch": lambda x: grey_of_images(x, by_image=False),
        "a third of the luma": lambda x: (x * WEIGHTS).mean(1, keepdim=True).expand_as(x),
        "not for one image": lambda x: luma(x).expand(3, 3, -1, -1),
        "One channel is left: the": lambda x: x[:, 0],
        "shape is": lambda x: x[:1],
        "but are not the luma": lambda x: x.max(1, keepdim=True).values.expand_as(x),
    },
    "shift": {
        "moves the content left": lambda x, tx, ty: padded_shift(x, -3 * tx, -3 * ty, "symmetric"),
        "moves the content down": lambda x, tx, ty: padded_shift(x, 3 * ty, 3 * tx, "symmetric"),
        "moves by 4 px": lambda x, tx, ty: padded_shift(x, 4 * tx, 4 * ty, "symmetric"),
        "edge pixel must be repeated": lambda x, tx, ty: padded_shift(x, 3 * tx, 3 * ty, "reflect"),
        "that is a roll": lambda x, tx, ty: x.roll((3 * ty, 3 * tx), (-2, -1)),
        "edge pixel alone": lambda x, tx, ty: padded_shift(x, 3 * tx, 3 * ty, "edge"),
        "filled with a constant": lambda x, tx, ty: padded_shift(x, 3 * tx, 3 * ty, "constant"),
        "ty = 1 is not": lambda x, tx, ty: padded_shift(x, 3 * tx, 4 * ty, "symmetric"),
        "changes nothing": lambda x, tx, ty: x,
        "moves by 1 px": lambda x, tx, ty: padded_shift(x, tx, ty, "edge"),
        "moves the content down as well": lambda x, tx, ty: indexed(x, tx, tx),
        "tx = 0, ty = 1 changes nothing": lambda x, tx, ty: indexed(x, tx, 0),
        "ty = 1 moves up instead of down": lambda x, tx, ty: indexed(x, tx, -ty),
        "tx = -1, ty = 0 moves to the wrong side": lambda x, tx, ty: indexed(x, abs(tx), ty),
        "On that side, too: the edge pixel must be repeated": lambda x, tx, ty: padded_shift(
            x, 3 * tx, 3 * ty, "reflect" if tx < 0 else "symmetric"
        ),
        "cannot be used as an index": lambda x, tx, ty: x[..., torch.arange(25) - tx * 0.15 * 25],
        "The first axis is the batch": lambda x, tx, ty: x[torch.arange(25)],
        "take pairs, the diagonal": lambda x, tx, ty: indexed(x, tx, ty, both=True),
        "from n on must be reflected": lambda x, tx, ty: indexed(x, tx, ty, upper=False),
        "IndexError": lambda x, tx, ty: x[..., 99],
        "At side 64 it still moves by 3": lambda x, tx, ty: indexed(x, tx, ty, s=3),
        "but not for 64": lambda x, tx, ty: indexed(x, tx, ty, s=3 if x.shape[-1] < 64 else 10),
        "are not its reflection": lambda x, tx, ty: (
            padded_shift(x, 3 * tx, 3 * ty, "symmetric")
            * torch.where(torch.arange(25) < 3 * tx, 0.5, 1.0)
        ),
    },
    "transform": {
        "turn, then flip, then shift": lambda x, t: grey_if(moved(flip_if(rot(x, t.k), t), t), t),
        "shift, then flip, then turn": lambda x, t: grey_if(rot(flip_if(moved(x, t), t), t.k), t),
        "flip, then turn, then shift": lambda x, t: grey_if(moved(rot(flip_if(x, t), t.k), t), t),
        "flip only if": lambda x, t: grey_if(rot(moved(x.flip(-1), t), t.k), t),
        "make a copy grey only if": lambda x, t: luma(t.apply(x)).expand_as(x),
        "The identity is grey": lambda x, t: luma(t.apply(x)),
        "still coloured": lambda x, t: rot(moved(flip_if(x, t), t), t.k),
        "one channel": lambda x, t: (
            luma(t.apply(x)) if t.grey else rot(moved(flip_if(x, t), t), t.k)
        ),
        "The flip alone": lambda x, t: grey_if(rot(moved(x, t), t.k), t),
        "three quarters alone": lambda x, t: grey_if(rot(moved(flip_if(x, t), t), min(t.k, 1)), t),
    },
    "turn_then_flip": {
        "one too small": lambda k: 16 + -k % 4,
        "flip first and then the turn": lambda k: 17 + k,
        "no flip in them": lambda k: 1 + -k % 4,
        "must be an integer": lambda k: CATALOGUE[0],
        "which is T_17": lambda k: 18,
        "For k = 1, T_19": lambda k: [17, 19, 19, 18][k],
    },
    "undo_map": {
        "turns once more": lambda v, t, n: loops(v, t, n, turn=1),
        "shifts once more": lambda v, t, n: loops(v, t, n, sign=-1),
        "the flip is not undone": lambda v, t, n: loops(
            v, Transformation(0, 0, t.tx, t.ty, t.k), n
        ),
        "has to be undone last": lambda v, t, n: loops(
            flip_if(v, t), Transformation(0, 0, t.tx, t.ty, t.k), n
        ),
        "put NaN where no patch": lambda v, t, n: loops(v, t, n, unknown=0.0),
        "where no patch of the copy tells": rolled,
        "has to be undone before it": lambda v, t, n: loops(v, t, n, turn_last=True),
        "tx and ty are exchanged": lambda v, t, n: loops(
            v, Transformation(0, t.flip, t.ty, t.tx, t.k), n
        ),
        "not of the map's side": lambda v, t, n: loops(v, t, n, side=len(v)),
        "shape is": lambda v, t, n: v[None],
    },
    "predictions": {
        "hum, flip: not 'all'. A steady hum": lambda: predicted(("hum", "flip", "all")),
        "hum, shift right: not 'border'": lambda: predicted(("hum", "shift right", "border")),
        "hum, shift down: not 'all'. A patch does not know its row": lambda: predicted(
            ("hum", "shift down", "all")
        ),
        "plucks, shift right: not 'none'": lambda: predicted(("plucks", "shift right", "none")),
        "plucks, half turn: not 'none'": lambda: predicted(("plucks", "half turn", "none")),
        "sirens, half turn: not 'all'": lambda: predicted(("sirens", "half turn", "all")),
        "sirens, quarter turn: not 'none'": lambda: predicted(("sirens", "quarter turn", "none")),
        "must be 'none', 'border' or 'all', not 'some'": lambda: predicted(
            ("plucks", "flip", "some")
        ),
        "hum: there is no prediction for 'flip'": lambda: predicted(hum={}),
        "There is no prediction for 'hum'": dict,
        "a dictionary for each sound": lambda: ["none"],
        "a dictionary for each": lambda: {"hum": "none"},
        "There is no sound siren": lambda: predicted(siren={}),
        "There is no sound 3, siren": lambda: {**predicted(), 3: {}, "siren": {}},
    },
}


@pytest.mark.parametrize(
    ("name", "said"), [(name, said) for name, wrong in WRONG.items() for said in wrong]
)
def test_each_typical_mistake_has_its_own_message(name, said):
    with pytest.raises(NotRight, match=re.escape(said)):
        CHECKS[name](WRONG[name][said])


def test_other_right_answers_are_right_as_well(capsys):
    checks_02.check_turn(lambda x, k: rot(x, k))
    checks_02.check_shift(lambda x, tx, ty: translate(x, Transformation(0, 0, tx, ty, 0), "pixel"))
    checks_02.check_transform(lambda x, t: t.apply(x))
    checks_02.check_undo_map(loops)
    checks_02.check_shift(indexed)
    assert capsys.readouterr().out.count("Right: ") == 5


def test_double_precision_is_right_as_well(capsys):
    weights = torch.from_numpy(np.array([0.299, 0.587, 0.114])).view(3, 1, 1)
    checks_02.check_turn(lambda x, k: rot(x.double(), k))
    checks_02.check_grey(lambda x: (x * weights).sum(1, keepdim=True).expand(x.shape))
    checks_02.check_shift(lambda x, tx, ty: indexed(x, tx, ty).double())
    checks_02.check_transform(lambda x, t: t.apply(x.double()))
    checks_02.check_undo_map(lambda v, t, n: loops(v.double(), t, n))
    assert capsys.readouterr().out.count("Right: ") == 5


def test_the_predictions_are_what_the_notebook_measures():
    book = nbformat.read(NOTEBOOKS / "solutions" / "02_transformations.ipynb", as_version=4)
    cells = {cell["id"]: cell["source"] for cell in book["cells"]}
    defined = answers("02_transformations")
    for name in ("sounds", "sounds-shares"):
        exec(cells[name], defined)

    def word(share):
        return "none" if share > 0.99 else "all" if share < 0.01 else "border"

    measured = {
        sound: {name: word(share) for name, share in row.items()}
        for sound, row in defined["found"].items()
    }
    assert measured == predicted()
    assert all(x.shape == (1, 3, 64, 64) for x in defined["spectrograms"].values())


@pytest.mark.parametrize("t", CATALOGUE[:42:3], ids=str)
def test_the_map_of_the_check_is_that_of_the_library(t):
    votes = torch.rand(21, 21, generator=torch.Generator().manual_seed(2))
    undone, defined = t.undo(votes, 31)
    mine = checks_02._undone(votes, t, 31)
    assert torch.equal(~mine.isnan(), defined)
    assert torch.equal(mine[defined], undone[defined])


# --- The figures --------------------------------------------------------------------------------


def shown(ax):
    return np.asarray(ax.get_images()[0].get_array())


def test_the_example_image_has_no_symmetry():
    image = draw_02.example_image(41)
    assert image.shape == (1, 3, 41, 41)
    assert float(image.abs().max()) <= 1
    copies = {t.apply(image).numpy().tobytes() for t in CATALOGUE}
    assert len(copies) == 54


def test_numbers_of_the_catalogue():
    assert [draw_02.number_of(t) for t in CATALOGUE] == list(range(1, 55))
    assert draw_02.number_of(Transformation(0, 0, 0, -1, 1)) is None
    assert draw_02.describe(CATALOGUE[13]) == "$T_{14}$: shift (+1, +1), turn 90"
    odd = Transformation(1, 1, 1, 0, 0)
    assert draw_02.describe(odd).startswith("not among the 54 (without grey it is $T_{25}$)")
    assert draw_02.describe(Transformation(0, 0, 0, -1, 1)) == (
        "not among the 54: shift (+0, -1), turn 90"
    )


@pytest.mark.parametrize("mode", TRANSLATIONS)
def test_the_builder_draws_the_copy_and_its_number(mode):
    figure = draw_02.draw_builder(True, 1, 0, 3, False, mode)
    image = draw_02.example_image()
    before, after = (shown(ax) for ax in figure.axes)
    assert np.array_equal(before, draw_02.picture(image))
    t = Transformation(0, 1, 1, 0, 3)
    assert np.array_equal(after, draw_02.picture(t.apply(image, mode)))
    assert figure.get_suptitle() == "$T_{28}$\nflip, shift (+1, +0), turn 270"


def test_the_catalogue_shows_every_copy_under_its_number():
    image = draw_02.example_image(24)
    copies = [t.apply(image) for t in CATALOGUE]
    drawn = [ax for ax in draw_02.draw_catalogue(copies).axes if ax.get_images()]
    assert [ax.get_title() for ax in drawn] == [f"$T_{{{m}}}$" for m in range(1, 55)]
    for ax, copy in zip(drawn, copies, strict=True):
        assert np.array_equal(shown(ax), draw_02.picture(copy))
    assert draw_02.ROWS[0][1] == 1
    ends = [(first, last) for _, first, last in draw_02.ROWS]
    assert all(b[0] == a[1] + 1 for a, b in pairwise(ends))


def test_the_enlarged_border_names_the_columns_that_it_shows():
    image = draw_02.example_image(24)  # s = 3
    copy = CATALOGUE[8].apply(image)
    large = draw_02.draw_shift(image, copy, rows=4).axes[2]
    columns = [int(text.get_text()) for text in large.texts]
    assert columns == [2, 1, 0, 0, 1, 2]
    assert np.array_equal(shown(large), draw_02.picture(image)[10:14, columns])


def test_rows_and_orders_show_the_images_in_turn():
    image = draw_02.example_image(24)
    other = image.flip(-1)
    row = draw_02.draw_row({"one": image, "two": other})
    assert [ax.get_title() for ax in row.axes] == ["one", "two"]
    assert np.array_equal(shown(row.axes[1]), draw_02.picture(other))
    orders = draw_02.draw_orders({"a": [("x", image), ("y", other)], "b": [("x", image)] * 2})
    assert [ax.get_title() for ax in orders.axes] == ["x", "y", "x", "x"]
    assert np.array_equal(shown(orders.axes[1]), draw_02.picture(other))


@pytest.mark.parametrize("t", [CATALOGUE[i] for i in (0, 8, 13, 29, 32, 41)], ids=str)
def test_the_hatch_covers_what_the_reflection_shows(t):
    n, s = 24, 3
    figure = draw_02.draw_undone(draw_02.example_image(n), t)
    area = n * n - (n - s * abs(t.tx)) * (n - s * abs(t.ty))
    for ax in figure.axes[1:]:
        assert sum(p.get_width() * p.get_height() for p in ax.patches) == area
    # Whatever is not hatched holds pixels of the image, and no place twice: all pixels differ here.
    marked = torch.arange(n * n, dtype=torch.float32).view(1, 1, n, n)
    copy = t.apply(marked)[0, 0].clone()
    for box in figure.axes[1].patches:
        top, left = round(box.get_y() + 0.5), round(box.get_x() + 0.5)
        copy[top : top + round(box.get_height()), left : left + round(box.get_width())] = torch.nan
    assert len(copy[~copy.isnan()].unique()) == n * n - area


def test_maps_of_differences():
    one, two = np.zeros((6, 6)), np.full((6, 6), 0.5)
    one[:, :2] = two[:, :2] = np.nan
    figure = draw_02.draw_differences({"pixel": one, "resampled": two})
    assert [ax.get_title() for ax in figure.axes[:2]] == [
        "pixel: mean 0.000",
        "resampled: mean 0.500",
    ]
    assert figure.axes[0].patches[0].get_width() == 2
    assert figure.axes[0].get_images()[0].get_clim() == (0, 0.5)


def test_the_search_circles_the_nearest_patch():
    image, errors = draw_02.example_image(24), np.ones((14, 14))
    errors[3, 5] = 0.25
    figure = draw_02.draw_search(image, {"pixel": image}, (1, 2), {"pixel": errors})
    copy, where, nearest = figure.axes[:3]
    assert "least 0.250 at (3, 5)" in where.get_title()
    assert [float(v) for v in where.lines[0].get_xydata()[0]] == [5, 3]
    assert copy.patches[0].get_xy() == (1.5, 0.5)
    assert nearest.patches[0].get_xy() == (4.5, 2.5)
    assert nearest.patches[0].get_width() == 11


def test_curves_and_points_hold_the_values():
    f = np.linspace(0, 0.5, 4)
    ax = draw_02.draw_spectrum(f, {"pixel": f + 1, "resampled": 1 - f}, 1 - f).axes[0]
    assert np.array_equal(ax.lines[1].get_ydata(), 1 - f)
    assert [line.get_label() for line in ax.lines][2] == "formula"

    image = draw_02.example_image(24)
    before = np.array([0.4, 0.3, 0.2, 0.1])
    shares = {"brick": (before, np.roll(before, 1)), "gravel": (before, before)}
    figure = draw_02.draw_directions(dict.fromkeys(shares, image), shares)
    stairs = figure.axes[2].patches
    assert np.allclose(stairs[0].get_data().values, 100 * before)
    assert np.allclose(stairs[1].get_data().values, 100 * np.roll(before, 1))
    assert figure.axes[0].get_title() == "brick"

    sounds = draw_02.draw_sounds({"hum": image, "other": -image}, 1.0, (2, 6))
    assert [ax.get_title() for ax in sounds.axes] == ["hum", "other"]
    assert np.array_equal(shown(sounds.axes[1]), draw_02.picture(-image))
    assert list(sounds.axes[0].get_images()[0].get_extent()) == [0, 1, 2, 6]
    (frame,) = sounds.axes[0].patches
    assert (frame.get_width(), frame.get_height()) == pytest.approx((11 / 24, 4 * 11 / 24))

    votes = {"brick": {"a": 0.5, "b": 0.6}, "gravel": {"a": 0.3, "b": 0.9}}
    ax = draw_02.draw_votes(votes, chance=0.25).axes[0]
    points = [tuple(map(float, line.get_xydata()[0])) for line in ax.lines[:4]]
    assert points == [(0.5, 0), (0.6, 0), (0.3, 1), (0.9, 1)]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["brick", "gravel"]
    assert isinstance(figure, Figure)
