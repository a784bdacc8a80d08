"""Notebook 00: the images of a texture or of a reader's own photograph, and its figures."""

import re

import numpy as np
import pytest
from PIL import Image

from htdg.course import draw_00
from htdg.course.photo import CourseImagesError, course_images, grey_square
from htdg.datasets.samples import PHOTO, photo_set, texture_photo, texture_set


@pytest.fixture
def photo(tmp_path):
    """A photograph in colour, wider than high, and larger than the textures."""
    brick = np.kron(texture_photo("brick"), np.ones((2, 2), np.uint8))
    wide = np.pad(brick, ((0, 0), (100, 300)))
    path = tmp_path / "my wall.png"
    Image.fromarray(np.stack([wide, wide // 2, wide], -1)).save(path)
    return path


def test_without_a_photograph_the_images_are_those_of_the_texture():
    images, shipped = course_images("grass"), texture_set("grass")
    assert len(images.train) == 1
    assert images.names == shipped.names
    np.testing.assert_array_equal(images.train[0], shipped.train[0])
    np.testing.assert_array_equal(images.test, shipped.test)


def test_a_photograph_trains_and_tests_with_pieces_of_its_own(photo):
    square = grey_square(photo)
    assert square.shape == (PHOTO, PHOTO)
    assert square.dtype == np.uint8
    images = course_images("brick", f" {photo}".strip())
    assert images.kinds == texture_set("brick").kinds
    assert {image.shape for image in images.train + images.test} == {(96, 96)}
    for image, clean, mask in zip(
        images.test, photo_set(square, good=20).test, images.masks, strict=True
    ):
        np.testing.assert_array_equal(image, clean)
        assert mask is None or 5 < mask.sum() < 0.2 * mask.size
    # Training and test images share no pixel: the upper part does not change the training image.
    altered = square.copy()
    altered[: PHOTO - 240] = 0
    np.testing.assert_array_equal(photo_set(altered).train[0], images.train[0])
    assert not np.array_equal(photo_set(altered).test[0], images.test[0])
    below = square.copy()
    below[PHOTO - 240 :] = 0
    np.testing.assert_array_equal(photo_set(below).test, images.test)
    assert not np.array_equal(photo_set(square, seed=1).test, images.test)


def test_the_middle_of_a_photograph_is_taken(tmp_path):
    middle = np.tile(np.arange(300) // 2 + 50, (300, 1)).astype(np.uint8)
    wide = np.pad(middle, ((0, 0), (100, 120)))  # black on both sides
    for name, picture in (("wide", wide), ("high", wide.T)):
        Image.fromarray(np.ascontiguousarray(picture)).save(tmp_path / f"{name}.png")
        square = grey_square(tmp_path / f"{name}.png")
        edge = square[:, -12:] if name == "wide" else square[-12:]
        assert edge.max() < 20  # the middle reaches 10 pixels beyond the grey piece
        assert (square[20:-20, 20:-20] > 45).all()


@pytest.mark.parametrize(
    ("texture", "name", "sentence"),
    [
        ("brick", "gone.png", r"gone.png is not there: check the path\."),
        ("brick", "text.png", r"text.png is no image that can be read: give a file of the kinds"),
        ("brick", ".", r"is a folder: name an image file\."),
        ("brick", "small.png", r"small.png is 300 x 255 pixels: give a photograph of at least 256"),
        ("brick", "flat.png", r"flat.png is of one colour, so there is nothing to learn"),
        ("wood", "", r"There is no texture 'wood': choose from brick, grass, gravel\."),
    ],
)
def test_what_cannot_be_used_is_said_in_one_sentence(texture, name, sentence, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    Image.effect_noise((300, 255), 50).save(tmp_path / "small.png")
    Image.new("RGB", (300, 300), "red").save(tmp_path / "flat.png")
    with pytest.raises(CourseImagesError, match=sentence) as wrong:
        course_images(texture, str(tmp_path / name) if name else "")
    assert wrong.value._render_traceback_() == [str(wrong.value)]
    assert "\n" not in str(wrong.value)


def test_a_home_folder_may_be_a_tilde(photo, monkeypatch):
    monkeypatch.setenv("HOME", str(photo.parent))
    expected = course_images("brick", photo).train[0]
    for typed in ("~/my wall.png", " ~/my wall.png "):
        np.testing.assert_array_equal(course_images("brick", typed).train[0], expected)
    with pytest.raises(
        CourseImagesError, match=r"^~nobody_here/wall.png is not there: check the path"
    ):
        course_images("brick", "~nobody_here/wall.png")


def test_one_image_of_each_kind_is_drawn():
    images = texture_set("brick", train=1)
    chosen = draw_00.first_of_each_kind(images)
    assert [images.kinds[i] for i in chosen] == ["good", "scratch", "hole", "stain", "patch"]
    figure = draw_00.draw_kinds(images)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["the training image", *(f"test: {images.kinds[i]}" for i in chosen)]
    for ax, image in zip(
        figure.axes, [images.train[0], *(images.test[i] for i in chosen)], strict=True
    ):
        np.testing.assert_array_equal(ax.images[0].get_array(), image)


def test_the_highest_places_of_maps_are_marked_and_counted():
    images = texture_set("brick", train=1)
    chosen = draw_00.first_of_each_kind(images)
    right = [
        np.zeros((96, 96)) if images.masks[i] is None else images.masks[i].astype(float)
        for i in chosen
    ]
    wrong = [1 - m for m in right]
    assert draw_00.highest_place(right[1]) == tuple(np.argwhere(images.masks[chosen[1]])[0])
    figure = draw_00.draw_where(images, chosen, {"votes": right, "patch distances": wrong})
    assert re.search(r"in 4 by votes and in 0 by patch distances, of 4 damaged", figure.alt)
    for ax, i in zip(figure.axes[: len(chosen)], chosen, strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), images.test[i])
        assert bool(ax.collections) == (images.masks[i] is not None)
        if ax.collections:
            corners = np.concatenate([p.vertices for p in ax.collections[0].get_paths()])
            places = np.argwhere(images.masks[i])[:, ::-1]  # a line lies half a pixel outside
            np.testing.assert_allclose(corners.min(0), places.min(0) - 0.5)
            np.testing.assert_allclose(corners.max(0), places.max(0) + 0.5)
    cross = figure.axes[len(chosen) + 1].lines[-1]
    assert (cross.get_ydata()[0], cross.get_xdata()[0]) == draw_00.highest_place(right[1])
