"""The figures show what they are given."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from htdg.evaluation import plots


def test_the_ranking_shows_the_right_images_in_order():
    images = [np.full((4, 4), i, np.uint8) for i in range(6)]
    scores = [0.3, 0.9, 0.1, 0.8, 0.5, 0.2]
    kinds = ["good", "hole", "good", "good", "hole", "hole"]
    labels = [0, 1, 0, 0, 1, 1]
    figure = plots.plot_ranking(images, kinds, labels, scores, count=2)
    shown = [ax.images[0].get_array()[0, 0] for band in figure.subfigs for ax in band.axes]
    titles = [ax.get_title() for band in figure.subfigs for ax in band.axes]
    assert shown == [1, 3, 2, 5]
    assert titles == ["! hole\n0.900", "good\n0.800", "good\n0.100", "! hole\n0.200"]


def test_the_histogram_counts_every_image_once():
    figure = plots.plot_histogram([0, 0, 0, 1, 1], [0.1, 0.2, 0.3, 0.3, 0.9])
    (ax,) = figure.axes
    heights = [sum(bar.get_height() for bar in bars) for bars in ax.containers]
    assert heights == [3, 2]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "normal (3 images)",
        "anomalous (2 images)",
    ]


def test_a_histogram_of_equal_scores_can_be_drawn():
    (ax,) = plots.plot_histogram([0, 1], [0.5, 0.5]).axes
    assert [sum(bar.get_height() for bar in bars) for bars in ax.containers] == [1, 1]


def test_the_roc_curve_and_its_area():
    (ax,) = plots.plot_roc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]).axes
    guess, curve = ax.lines
    assert curve.get_label() == "this detector (AUROC 0.750)"
    assert list(curve.get_xdata()) == [0, 0, 0.5, 0.5, 1]
    assert list(curve.get_ydata()) == [0, 0.5, 0.5, 1, 1]
    assert list(guess.get_ydata()) == [0, 1]


def test_a_figure_shows_its_alternative_text():
    figure = plots.plot_roc([0, 1], [0.1, 0.4])
    assert figure._repr_png_()[1].keys() == {"width"}
    assert repr(figure).startswith("<Figure")
    figure.alt = "a curve"
    assert figure._repr_png_()[1]["alt"] == repr(figure) == "a curve"


def test_losses_are_drawn_scale_by_scale(tiny):
    axes = plots.plot_losses(tiny.history_).axes
    assert [ax.get_title() for ax in axes] == [
        f"scale {n}, {side} px" for n, side in enumerate(tiny.config_.sides)
    ]
    for ax, scale in zip(axes, tiny.history_, strict=True):
        assert list(ax.lines[0].get_ydata()) == scale["d_real"]


def test_the_gallery_leaves_empty_places_empty():
    image = np.zeros((3, 3, 3), np.uint8)
    figure = plots.plot_gallery({"a": [(image, "x")], "b": []}, count=3)
    drawn = [len(ax.images) for band in figure.subfigs for ax in band.axes]
    assert drawn == [1, 0, 0, 0, 0, 0]


def test_a_saved_figure_is_a_png_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "deep" / "roc.png"
    plots.save_figure(plots.plot_roc([0, 1], [0.1, 0.9]), path)
    assert Image.open(path).format == "PNG"
    assert list(path.parent.iterdir()) == [path]


def test_a_figure_is_drawn_once_for_the_notebook_and_the_file_and_again_after_a_change(tmp_path):
    figure = plots.plot_roc([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4])
    shown, about = figure._repr_png_()
    assert about == {"width": 420}  # of 4.2 inches
    assert Image.open(io.BytesIO(shown)).width == 504
    plots.save_figure(figure, tmp_path / "roc.png")
    assert figure.png() is shown
    assert (tmp_path / "roc.png").read_bytes() == shown
    figure.axes[0].lines[1].set_linewidth(9)
    assert _blue(figure.png()) > 4 * _blue(shown) > 0


def _blue(png):
    """How many pixels have the colour of normal images."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    return (pixels == np.round(np.array(to_rgb(plots.NORMAL)) * 255)).all(axis=2).sum()


def test_a_figure_that_cannot_be_drawn_leaves_no_file(tmp_path, monkeypatch):
    figure = plots.plot_roc([0, 1], [0.1, 0.9])
    monkeypatch.setattr(figure, "savefig", lambda *a, **k: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        plots.save_figure(figure, tmp_path / "roc.png")
    assert list(tmp_path.iterdir()) == []


def test_a_single_image_in_a_row_can_be_drawn():
    image = np.full((3, 3, 3), 7, np.uint8)
    figure = plots.plot_gallery({"a group": [(image, "a caption")]}, count=1)
    (ax,) = figure.axes
    assert ax.get_title() == "a caption"
    figure = plots.plot_ranking([image] * 2, ["good", "hole"], [0, 1], [0.1, 0.9], count=1)
    assert [ax.get_title() for ax in figure.axes] == ["! hole\n0.900", "good\n0.100"]
