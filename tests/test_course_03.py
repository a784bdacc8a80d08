"""Notebook 03: its exercises, its figures, and the live plot."""

import inspect
import sys
import types
import warnings

import nbformat
import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle
from torch.nn import functional as F

from htdg import HTDGConfig, HTDGDetector
from htdg.course import checks_03 as checks
from htdg.course import draw_03 as draw
from htdg.course import live
from htdg.course.check import NotRight
from htdg.course.live import LivePlot
from htdg.networks import Discriminator, initialise
from htdg.training import start_scale
from tests.course import NOTEBOOKS, answers


@pytest.fixture(scope="module")
def answered():
    return answers("03_discriminator_training")


EXERCISES = {
    "clueless_loss": checks.check_clueless_loss,
    "patch_cross_entropy": checks.check_patch_cross_entropy,
    "true_classes": checks.check_true_classes,
    "generate_image": checks.check_generate_image,
    "iteration": checks.check_iteration,
    "noise_amplitude": checks.check_noise_amplitude,
}


def log_p(logits, axis=1):
    return logits.log_softmax(axis)


def true_class(values, true):
    return values[torch.arange(len(true)), true]


def one_hot(logits, true):
    """(B, C, h, w): 1 at the true class of each patch, else 0."""
    return F.one_hot(true, logits.shape[1])[:, :, None, None].expand_as(logits)


def padded(g, x, index):
    x = F.pad(x, [5] * 4)
    number = index.to(x).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[-2:])
    return g.body(torch.cat([x, number], 1))


def channel_before_padding(g, noise, previous, index):
    number = index.to(noise).view(-1, 1, 1, 1).expand(-1, 1, *noise.shape[-2:])
    return g.body(F.pad(torch.cat([noise + previous, number], 1), [5] * 4)).tanh() + previous


def unpadded(g, noise, previous, index):
    return unpadded_body(g, noise + previous, index).tanh()


def unpadded_body(g, x, index):
    number = index.to(x).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[-2:])
    return g.body(torch.cat([x, number], 1))


def joined(g, x, index, first=False, axis=1, wide=True, value=0):
    """``padded`` with mistakes in how the index channel is joined to the padded image."""
    x = F.pad(x, [5] * 4, value=value)
    number = index.to(x).view(-1, 1, 1, 1)
    number = number.expand(-1, 1, *x.shape[-2:]) if wide else number
    return g.body(torch.cat([number, x] if first else [x, number], axis))


def mean3(x):
    return x.mean((1, 2, 3))


def steps(order, previous_of=lambda drawn, i: drawn[min(i, len(drawn) - 1)], noise_each=False):
    """An iteration with this order of steps, a function of the number of steps."""

    def iteration(training):
        noise = training.draw_noise()
        drawn = training.draw_previous(training.config.d_steps)
        for i, kind in enumerate(order(training.config)):
            noise = training.draw_noise() if noise_each else noise
            step = training.d_step if kind == "D" else training.g_step
            step(noise, previous_of(drawn, i))

    return iteration


def right_order(config):
    return "D" * config.d_steps + "G" * config.g_steps


WRONG = [
    ("clueless_loss", np.log, "one class more"),
    ("clueless_loss", lambda m: np.log2(m + 1), "bits"),
    ("clueless_loss", lambda m: -np.log(m + 1), "sign"),
    ("clueless_loss", lambda m: 1 / (m + 1), "minus its logarithm"),
    ("clueless_loss", lambda m: 7.0, r"return 7\.000"),
    ("patch_cross_entropy", lambda x, t: -true_class(log_p(x), t).sum(), "the sum over all"),
    ("patch_cross_entropy", lambda x, t: -true_class(log_p(x), t).mean((1, 2)), "single number"),
    (
        "patch_cross_entropy",
        lambda x, t: -true_class(log_p(x), t).mean((1, 2)).sum(),
        "add up the images",
    ),
    ("patch_cross_entropy", lambda x, t: -true_class(log_p(x, 0), t).mean(), "axis 0"),
    ("patch_cross_entropy", lambda x, t: -true_class(log_p(x, 3), t).mean(), "axis 3"),
    (
        "patch_cross_entropy",
        lambda x, t: true_class(log_p(x).exp(), t).mean(),
        "logarithm is missing",
    ),
    (
        "patch_cross_entropy",
        lambda x, t: -true_class(log_p(x).exp(), t).mean().log(),
        "before the mean",
    ),
    ("patch_cross_entropy", lambda x, t: -true_class(x, t).mean(), "no probabilities yet"),
    ("patch_cross_entropy", lambda x, t: true_class(log_p(x), t).mean(), "sign"),
    ("patch_cross_entropy", lambda x, t: -log_p(x)[:, t].mean(), "pair image b"),
    ("patch_cross_entropy", lambda x, t: -true_class(x.softmax(1), t).log().mean(), "overflows"),
    ("patch_cross_entropy", lambda x, t: -true_class(log_p(x), t).mean().detach(), "gradient"),
    (
        "patch_cross_entropy",
        lambda x, t: -true_class(log_p(x), t).mean().item(),
        "must return a tensor",
    ),
    ("patch_cross_entropy", lambda x, t: -(one_hot(x, t) * log_p(x)).mean(), "number of classes"),
    (
        "patch_cross_entropy",
        lambda x, t: -true_class(log_p(x.mean((2, 3))), t).mean(),
        "before the soft",
    ),
    ("patch_cross_entropy", lambda x, t: F.cross_entropy(x, t), "cross_entropy is what you are"),
    ("patch_cross_entropy", lambda x, t: F.nll_loss(log_p(x), t), "nll_loss is what you are"),
    (
        "patch_cross_entropy",
        lambda x, t: next(F.cross_entropy(x, t[:, None, None].expand(x[:, 0].shape)) for _ in "a"),
        "cross_entropy is what you are",
    ),
    ("patch_cross_entropy", lambda x, t: -log_p(x).max(1).values.mean(), "the most probable class"),
    (
        "patch_cross_entropy",
        lambda x, t: -true_class(log_p(x.softmax(1)), t).mean(),
        "softmax twice",
    ),
    (
        "patch_cross_entropy",
        lambda x, t: (x.argmax(1) != t[:, None, None]).float().mean(),
        "named wrongly",
    ),
    (
        "patch_cross_entropy",
        lambda x, t: (one_hot(x, t) - x.softmax(1)).square().mean(),
        "mean squared error",
    ),
    ("true_classes", lambda m, b, real: torch.arange(m).repeat(b), "0, 0, 1, 1"),
    (
        "true_classes",
        lambda m, b, real: torch.arange(m).repeat_interleave(b),
        "not to be named by their transformation",
    ),
    (
        "true_classes",
        lambda m, b, real: (
            torch.arange(m).repeat_interleave(b) if real else torch.full((m * b,), m - 1)
        ),
        "the last transformation",
    ),
    ("true_classes", lambda m, b, real: torch.arange(1, m + 1).repeat_interleave(b), "from 1"),
    ("true_classes", lambda m, b, real: torch.arange(m), "6 copies|T_1 first|not to be named"),
    ("generate_image", lambda g, z, p, i: padded(g, z + p, i).tanh(), "previous image is missing"),
    ("generate_image", lambda g, z, p, i: padded(g, z + p, i) + p, "tanh is missing"),
    ("generate_image", lambda g, z, p, i: (padded(g, z + p, i) + p).tanh(), "before the tanh"),
    ("generate_image", lambda g, z, p, i: padded(g, z, i).tanh() + p, "not in the input: pad"),
    ("generate_image", lambda g, z, p, i: padded(g, p, i).tanh() + p, "noise is not in the input"),
    ("generate_image", lambda g, z, p, i: padded(g, z + p, 0 * i).tanh() + p, "same for all"),
    ("generate_image", channel_before_padding, "zero at the padded border"),
    ("generate_image", unpadded, "5 pixels off each side"),
    ("generate_image", lambda g, z, p, i: unpadded(g, z, p, i) + p, "Two tensors of different"),
    ("generate_image", lambda g, z, p, i: g.body(F.pad(z + p, [5] * 4)), "four channels"),
    ("generate_image", lambda g, z, p, i: g(z, p, i), "You call g, the whole generator"),
    ("generate_image", lambda g, z, p, i: (padded(g, z + p, i).tanh() + p).tanh(), "around every"),
    ("generate_image", lambda g, z, p, i: padded(g, z + p, i).tanh() + z, "add the noise at the"),
    ("generate_image", lambda g, z, p, i: padded(g, z + p, i).tanh() - p, "subtract the previous"),
    ("generate_image", lambda g, z, p, i: padded(g, p - z, i).tanh() + p, "noise is subtracted"),
    ("generate_image", lambda g, z, p, i: padded(g, z - p, i).tanh() + p, "not a difference"),
    ("generate_image", lambda g, z, p, i: padded(g, z / 10 + p, i).tanh() + p, "already multipl"),
    ("generate_image", lambda g, z, p, i: padded(g, z + p, i).sigmoid() + p, "sigmoid"),
    (
        "generate_image",
        lambda g, z, p, i: (padded(g, z + p, i).tanh() + p).clamp(-1, 1),
        "may leave that range",
    ),
    ("generate_image", lambda g, z, p, i: padded(g, z + p, i / 2).tanh() + p, "index is divided"),
    (
        "generate_image",
        lambda g, z, p, i: padded(g, z + p, i * 0 + i[-1]).tanh() + p,
        "that of the last one",
    ),
    ("generate_image", lambda g, z, p, i: joined(g, z + p, i, first=True).tanh() + p, "comes last"),
    ("generate_image", lambda g, z, p, i: joined(g, z + p, i, axis=0).tanh() + p, "along axis 0"),
    ("generate_image", lambda g, z, p, i: joined(g, z + p, i, wide=False).tanh() + p, "one pixel"),
    ("generate_image", lambda g, z, p, i: joined(g, z + p, i, value=1).tanh() + p, "with ones"),
    (
        "generate_image",
        lambda g, z, p, i: F.pad(unpadded_body(g, z + p, i), [5] * 4).tanh() + p,
        "pad what goes in",
    ),
    (
        "generate_image",
        lambda g, z, p, i: padded(g, z + p, i).detach().tanh() + p,
        "no gradient flows from it to the weights",
    ),
    (
        "generate_image",
        torch.no_grad()(lambda g, z, p, i: padded(g, z + p, i).tanh() + p),
        "no gradient flows from it to the weights",
    ),
    ("iteration", lambda training: training.step(), "which you are to write"),
    ("iteration", steps(lambda c: "DDDGGG"), "always make three"),
    ("iteration", steps(lambda c: "DG" * c.d_steps), "The order is|1 G|2 G"),
    ("iteration", steps(lambda c: "G" * c.g_steps + "D" * c.d_steps), "first come all the D"),
    ("iteration", steps(lambda c: "D" * c.d_steps), "0 G steps"),
    ("iteration", steps(right_order, noise_each=True), "drawn once"),
    ("iteration", steps(right_order, lambda drawn, i: drawn[0]), "share a previous"),
    ("iteration", steps(right_order, lambda drawn, i: drawn), "take one"),
    (
        "iteration",
        steps(right_order, lambda drawn, i: drawn[i] if i < len(drawn) else drawn[0]),
        r"\*last\* D step",
    ),
    ("noise_amplitude", lambda x, r, f=0.1: mean3((x - r).abs()), "factor is missing"),
    ("noise_amplitude", lambda x, r, f=0.1: f * mean3((x - r) ** 2).sqrt(), "root of the mean"),
    ("noise_amplitude", lambda x, r, f=0.1: f * mean3((x - r) ** 2), "average the squares"),
    ("noise_amplitude", lambda x, r, f=0.1: f * mean3(x - r), "cancel"),
    ("noise_amplitude", lambda x, r, f=0.1: f * (x - r).abs().mean(), "of its own"),
    ("noise_amplitude", lambda x, r, f=0.1: 0.1 * mean3((x - r).abs()), "whatever the factor"),
    ("noise_amplitude", lambda x, r, f=0.1: f * (x - r).abs().mean((2, 3)), "must be"),
]


@pytest.mark.parametrize(("name", "answer", "said"), WRONG)
def test_every_mistake_has_its_sentence(name, answer, said):
    with pytest.raises(NotRight, match=said):
        EXERCISES[name](answer)


def test_the_precision_of_an_answer_is_free(capsys):
    right = {
        "patch_cross_entropy": [
            lambda x, t: -true_class(log_p(x.double()), t).mean(),
            lambda x, t: (
                -torch.einsum("bchw,bchw->", one_hot(x, t).float(), log_p(x)) / x[:, 0].numel()
            ),
        ],
        "true_classes": [
            lambda m, b, real: (torch.arange(m * b) // b if real else torch.full((m * b,), m)).int()
        ],
        "generate_image": [
            lambda g, z, p, i: padded(g, (z + p).float(), i).double().tanh() + p.double()
        ],
        "noise_amplitude": [lambda x, r, f=0.1: f * mean3((x.double() - r).abs())],
    }
    for name, several in right.items():
        for answer in several:
            EXERCISES[name](answer)
            assert capsys.readouterr().out.startswith("Right"), name


def test_an_iteration_is_that_of_the_library(answered, tiny_config):
    real = torch.rand(1, 3, 14, 14, generator=torch.Generator().manual_seed(0)) * 2 - 1
    transformations = tiny_config.resolve_transformations(coloured=False)
    mine, theirs = (start_scale(tiny_config, transformations, [], real) for _ in range(2))
    answered["iteration"](mine)
    theirs.step()
    for name in ("generator", "discriminator"):
        one, other = (getattr(t.scale, name).state_dict() for t in (mine, theirs))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_text_has_the_constants_of_the_library():
    """What 08 takes from here: Adam, widths, fresh weights, start_scale and freeze."""
    book = nbformat.read(NOTEBOOKS / "solutions" / "03_discriminator_training.ipynb", as_version=4)
    text = "\n".join(c["source"] for c in book["cells"] if c["cell_type"] == "markdown")
    paper = HTDGConfig.preset("paper_rgb")
    assert paper.lr_d == paper.lr_g
    assert f"learning rate {paper.lr_d}, $\\beta_1 = {paper.beta1}$" in text
    assert f"$\\beta_2 = {paper.beta2}$" in text
    assert [paper.width(n) for n in (0, 3, 4, 8)] == [32, 32, 64, 128]
    assert "32 at scales 0 to 3, 64 at scales 4 to 7 and so on, doubling every four scales" in text
    assert "never more than `image_size`" in text
    fresh = Discriminator(256, 54)
    initialise(fresh, torch.Generator().manual_seed(0))
    of_kind = {
        kind: torch.cat([m.weight.flatten() for m in fresh.modules() if isinstance(m, kind)])
        for kind in (torch.nn.Conv2d, torch.nn.BatchNorm2d)
    }
    for mean, weights in zip((0, 1), of_kind.values(), strict=True):
        assert weights.mean().item() == pytest.approx(mean, abs=0.003)
        assert weights.std().item() == pytest.approx(0.02, rel=0.1)
        assert f"$N({mean}, 0.02)$" in text
    assert "*frozen* (`freeze`)" in text
    assert "`start_scale(config, transformations, coarser, real)`" in text
    assert list(inspect.signature(start_scale).parameters)[:4] == [
        "config",
        "transformations",
        "coarser",
        "real",
    ]


# --- The live plot ------------------------------------------------------------------------------


@pytest.fixture
def notebook(monkeypatch):
    """A stand-in for IPython in a kernel, which writes down what is displayed."""
    shown = []

    class Handle:
        def update(self, content, **options):
            assert options["raw"]
            shown.append(("again", content, options["metadata"]))

    def display(content, raw, display_id, metadata):
        assert raw
        assert display_id
        shown.append(("new", content, metadata))
        return Handle()

    module = types.SimpleNamespace(display=display)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(live, "suitable_look", lambda: "notebook")
    monkeypatch.setattr(live, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(live, "png", lambda figure: f"PNG of {figure.get_suptitle()}")
    return shown


def fit(brick, callback, **options):
    config = HTDGConfig.preset("tiny", **options)
    return HTDGDetector(config).fit(brick[0][0], progress=False, callback=callback)


@pytest.fixture(scope="module")
def watched(brick):
    """A live plot with two moments a scale, and the detector that it watched."""
    plot = LivePlot(every=2)  # of 3 iterations the second and the last
    return plot, fit(brick, plot)


def test_a_watched_training_is_the_same_bit_for_bit(watched, tiny):
    for mine, theirs in zip(watched[1].scales_, tiny.scales_, strict=True):
        assert torch.equal(mine.z_star, theirs.z_star)
        assert torch.equal(mine.sigma, theirs.sigma)
        for name in ("generator", "discriminator"):
            one, other = (getattr(s, name).state_dict() for s in (mine, theirs))
            assert all(torch.equal(one[key], other[key]) for key in one)


def test_in_a_notebook_one_figure_is_replaced(brick, notebook):
    detector = fit(brick, LivePlot(every=2))
    assert [kind for kind, *_ in notebook] == ["new"] + ["again"] * (len(notebook) - 1)
    assert len(notebook) == 2 * len(detector.sides_)
    _, content, metadata = notebook[-1]
    assert "3 iterations trained" in content["text/plain"]
    assert metadata["image/png"]["alt"] == content["text/plain"]
    assert content["image/png"] == f"PNG of {len(detector.sides_)} scales of 3 iterations trained"


def test_it_draws_no_more_often_than_it_may_but_always_the_end(brick, notebook, monkeypatch):
    monkeypatch.setattr(live, "SECONDS_BETWEEN", 1e9)
    fit(brick, LivePlot(every=1))
    assert [kind for kind, *_ in notebook] == ["new", "again"]
    assert "iteration 1 of 3" in notebook[0][1]["text/plain"]
    assert "trained" in notebook[1][1]["text/plain"]


def test_elsewhere_nothing_is_drawn(brick, capsys, monkeypatch):
    monkeypatch.setattr(live, "png", lambda figure: pytest.fail("drawn"))
    plot = LivePlot(every=3)
    fit(brick, plot)
    assert capsys.readouterr() == ("", "")
    assert plot.figure() is not None


def test_moments_tell_what_there_was(watched):
    plot, detector = watched
    places = [(m.scale, m.iteration) for m in plot.moments]
    assert places == [(n, i) for n in range(len(detector.sides_)) for i in (2, 3)]
    for moment in plot.moments:
        sides = detector.sides_[: moment.scale + 1]
        assert [s.shape for s in moment.samples] == [(side, side, 3) for side in sides]
        assert moment.real.shape == (sides[-1], sides[-1], 3)
        assert moment.real.dtype == np.uint8
    for n, scale in enumerate(detector.history_):
        assert np.array_equal(plot.history[n]["d_real"], np.asarray(scale["d_real"]))
    last = plot.moments[-1]
    assert np.array_equal(last.samples[0], plot.moments[-2].samples[0])  # the scales below rest
    assert not np.array_equal(last.samples[-1], plot.moments[-2].samples[-1])


def test_the_figure_of_a_moment_ends_there(watched):
    plot, detector = watched
    first, last = plot.figure(0), plot.figure()
    n = len(detector.sides_)

    def drawn(figure):
        return [
            [len(line.get_xdata()) for line in ax.lines if len(line.get_xdata())]
            for ax in figure.axes[:n]
        ]

    assert drawn(first) == [[2] * 3] + [[]] * (n - 1)
    assert drawn(last) == [[3] * 3] * n
    assert first.axes[0].get_ylim() == last.axes[0].get_ylim()
    images = [len(ax.images) for ax in first.axes[n:]]
    assert images == [1, 1] + [0] * (n - 1)
    assert [len(ax.images) for ax in last.axes[n:]] == [1] * (n + 1)
    with pytest.raises(IndexError):
        LivePlot().figure()


def test_another_training_starts_anew(brick, notebook):
    plot = LivePlot(every=3)
    fit(brick, plot)
    count = len(plot.moments)
    fit(brick, plot)
    assert len(plot.moments) == count
    assert [kind for kind, *_ in notebook].count("new") == 2


def test_a_model_without_a_generator_has_losses_but_no_samples(brick):
    plot = LivePlot(every=3)
    fit(brick, plot, method="no_generator", niter=3)
    assert all(moment.samples == [] for moment in plot.moments)
    assert set(plot.history[0]) == {"d_real"}
    assert len(plot.figure().axes[0].lines[0].get_xdata()) == 3


def test_every_must_be_positive():
    with pytest.raises(ValueError, match="at least 1"):
        LivePlot(every=0)


# --- The drawings -------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("k", range(4))
def test_a_corner_turns_with_the_map(k):
    places = torch.zeros(10, 10)
    places[4, 3] = 1
    row, column = draw.turned_corner((4, 3), k, 10)
    assert places.rot90(k)[row, column] == 1


def test_questions_show_the_patch_and_the_bars():
    copies = np.zeros((2, 20, 20, 3), np.uint8)
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    figure = draw.questions_figure(copies, [(4, 3), (0, 9)], p, ["a", "b", "generated"])
    frames = [ax.patches[-1] for ax in figure.axes[:2]]
    assert [frame.get_xy() for frame in frames] == [(2.5, 3.5), (8.5, -0.5)]
    assert all(isinstance(f, Rectangle) and f.get_width() == f.get_height() == 11 for f in frames)
    for m, ax in enumerate(figure.axes[2:]):
        assert [bar.get_height() for bar in ax.patches] == p[m].tolist()
        assert [bool(bar.get_hatch()) for bar in ax.patches] == [m == 0, m == 1, False]


def test_losses_have_the_line_of_a_guess():
    history = {k: np.linspace(1, 0.1, 5) for k in ("d_real", "d_fake", "g_adversarial")}
    figure = draw.losses_figure({**history, "g_reconstruction": np.ones(5)}, 4)
    left, right = figure.axes
    assert left.lines[-1].get_ydata() == pytest.approx([np.log(5)] * 2)
    assert left.texts[0].get_text() == "log 5"
    assert left.lines[0].get_ydata().tolist() == history["d_real"].tolist()
    assert right.get_yscale() == "log"


def test_the_missing_is_shown_with_its_mean_and_sigma():
    image, missing = np.zeros((6, 6, 3), np.uint8), np.full((6, 6), 0.25)
    figure = draw.missing_figure(image, image, missing, 0.025)
    assert "mean 0.250, so sigma = 0.0250" in figure.axes[2].get_title()
    assert np.array_equal(figure.axes[2].images[0].get_array(), missing)


def test_growth_has_a_row_for_each_scale(watched):
    plot, _ = watched
    figure = draw.growth_figure(plot.moments)
    rows = len({moment.scale for moment in plot.moments})
    assert len(figure.axes) == 2 * rows
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == [f"iteration {i}" for i in (2, 3)] * rows
    shown = figure.axes[-1].images[0].get_array()
    assert np.array_equal(shown, plot.moments[-1].samples[-1])


def test_rows_of_images():
    figure = draw.row_figure([np.zeros((4, 4, 3), np.uint8)] * 2, ["one", "two"])
    assert [ax.get_title() for ax in figure.axes] == ["one", "two"]


def test_confusion_counts_by_hand():
    said = np.array([[0, 1], [1, 2]])
    true = np.array([[0, 0], [1, 1]])
    wanted = [[0.5, 0.5, 0], [0, 0.5, 0.5], [0, 0, 0]]
    assert draw.confusion_matrix(said, true, 3).tolist() == wanted


def test_the_confusion_figure_says_per_cent():
    matrices = {"all": np.eye(3), "turns": np.array([[0.9, 0.1], [0.004, 0.996]])}
    figure = draw.confusion_figure(matrices, ["a", "b", "generated"])
    one, other = figure.axes
    assert [t.get_text() for t in other.texts] == ["90", "10", "0", "100"]
    assert [t.get_text() for t in one.get_xticklabels()] == ["a", "b", "generated"]
    assert [t.get_text() for t in other.get_xticklabels()] == ["a", "b"]
    assert one.get_xlim() == other.get_xlim()


def test_the_saved_notebooks_keep_only_the_last_state_of_the_live_plot():
    for folder in (NOTEBOOKS, NOTEBOOKS / "solutions"):
        notebook = nbformat.read(folder / "03_discriminator_training.ipynb", as_version=4)
        (cell,) = [cell for cell in notebook["cells"] if "LivePlot(every" in cell["source"]]
        (output,) = cell["outputs"]
        assert output["data"]["text/plain"].startswith("4 scales of 40 iterations trained")
