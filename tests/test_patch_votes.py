"""The picture whose patches show their votes: its values, and a page that needs nobody."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import binary_erosion, binary_fill_holes

from htdg import HTDGConfig, HTDGDetector
from htdg.course.frozen import frozen
from htdg.course.patch_votes import PatchVotes, short_name, votes_of_patches
from htdg.datasets.samples import texture_set
from htdg.localisation import patch_votes
from htdg.nearest import nearest_distances
from htdg.patches import PixelPatches

IMAGES = texture_set("brick", train=1)
DAMAGED = IMAGES.kinds.index("patch")
IMAGE, MASK = IMAGES.test[DAMAGED], IMAGES.masks[DAMAGED]


@pytest.fixture(scope="module")
def detector():
    return frozen("brick")


@pytest.fixture(scope="module")
def scales(detector):
    return votes_of_patches(detector, IMAGE)


@pytest.fixture(scope="module")
def shown(detector):
    return PatchVotes(detector, IMAGE, MASK)


def test_votes_are_the_library_s_at_the_place_of_each_patch(detector, scales):
    by_library = detector.votes(IMAGE)
    assert [scale.side for scale in scales] == list(detector.sides_)
    for scale, of_copies in zip(scales, by_library, strict=True):
        h = of_copies.shape[-1]
        assert (scale.patch, scale.votes.shape) == (11, (4, h, h))
        # A copy that is rotated by k quarter turns has patch (i, j) of the image elsewhere.
        for k in range(4):
            np.testing.assert_array_equal(scale.votes[k], np.rot90(of_copies[k], -k))
        votes = torch.from_numpy(of_copies)[:, None]
        mean, _ = patch_votes(votes, detector.transformations_, scale.side, "pixel")
        np.testing.assert_allclose(scale.means, mean[0], atol=1e-6)


def test_the_nearest_patch_is_that_of_a_search_through_all(detector, scales):
    scale = scales[1]
    describe, h = PixelPatches(11), len(scale.distances)
    seen, training = (
        torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
        for image in (scale.image, scale.training)
    )
    patches, bank = (describe(x, torch.arange(h))[0] for x in (seen, training))
    # The pictures are rounded to 8 bits, which changes a distance by less than a level of grey.
    np.testing.assert_allclose(
        scale.distances.ravel(), nearest_distances(patches, bank), atol=2 / 255
    )
    rng = np.random.default_rng(0)
    for row, column in rng.integers(0, h, (40, 2)):
        patch = scale.image[row : row + 11, column : column + 11].astype(float) / 127.5
        away = {
            (i, j): np.sqrt(
                np.square(scale.training[i : i + 11, j : j + 11] / 127.5 - patch).mean()
            )
            for i in range(h)
            for j in range(h)
        }
        nearest = tuple(int(n) for n in scale.nearest[row, column])
        assert away[nearest] == pytest.approx(min(away.values()), abs=2 / 255)
        assert scale.distances[row, column] == pytest.approx(away[nearest], abs=2 / 255)


def test_the_training_image_is_its_own_neighbour(detector):
    (scale, *_) = votes_of_patches(detector, (detector.images_[0] + 1) / 2)
    h = len(scale.distances)
    np.testing.assert_array_equal(scale.nearest, np.moveaxis(np.indices((h, h)), 0, -1))
    assert scale.distances.max() < 1e-3


def test_a_place_is_that_of_the_patch_around_it(scales):
    for scale in scales:
        last = scale.side - 11
        assert scale.place(0, 1) == (0, last)
        for row, column in ((0, 0), (3, last), (last, 5)):
            centre = (row + 5.5) / scale.side, (column + 5.5) / scale.side
            assert scale.place(*centre) == (row, column)


def test_it_begins_in_the_damage_or_at_the_lowest_votes(detector, shown, scales):
    y, x = shown.start
    assert MASK[int(y * 96), int(x * 96)]
    elsewhere = PatchVotes(detector, IMAGE)
    means = scales[-1].means
    assert means[scales[-1].place(*elsewhere.start)] == means.min()


def test_what_the_script_is_given_are_the_votes(shown, scales):
    data = json.loads(json.dumps(shown.data()))
    assert data["start"] == list(shown.start)
    assert data["names"] == ["0°", "90°", "180°", "270°"]
    for given, scale in zip(data["scales"], scales, strict=True):
        h = len(scale.distances)
        votes = np.reshape(given["votes"], (4, h, h)) / 1000
        np.testing.assert_allclose(votes, scale.votes, atol=5.1e-4)
        np.testing.assert_allclose(
            np.reshape(given["distances"], (h, h)) / 1000, scale.distances, atol=5.1e-4
        )
        np.testing.assert_array_equal(np.reshape(given["nearest"], (h, h, 2)), scale.nearest)
        for key, image in (("image", scale.image), ("training", scale.training)):
            decoded = Image.open(io.BytesIO(base64.b64decode(given[key]))).convert("RGB")
            np.testing.assert_array_equal(np.asarray(decoded), image)


def test_the_damage_is_outlined(shown, detector):
    large = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown.data()["picture"]))))
    red = (large == (255, 0, 0)).all(-1)
    assert red.any()
    inside = np.kron(binary_fill_holes(MASK), np.ones((4, 4), bool))
    assert not red[~inside].any()
    assert not red[binary_erosion(inside, iterations=2)].any()  # a border, not a filled shape
    plain = Image.open(io.BytesIO(base64.b64decode(PatchVotes(detector, IMAGE).data()["picture"])))
    np.testing.assert_array_equal(np.asarray(plain), IMAGE)


class Elements(HTMLParser):
    """The elements of a piece of HTML; it must close all that it opens."""

    VOID = ("img", "br", "hr")

    def __init__(self, text):
        super().__init__()
        self.open, self.seen = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_html_that_needs_nothing_else(shown):
    page = shown.page()
    seen = Elements(page).seen
    assert [tag for tag, _ in seen] == ["div", "img", "script", "script"]
    assert not any("id" in attributes for _, attributes in seen)  # several may be on one page
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttp|import\s|src=\"//", page)
    assert len(page) < 300_000
    assert "@" not in re.sub(r"base64,[^\"]+", "", page.split("<script")[0])
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', page, re.S)
    assert json.loads(data) == json.loads(json.dumps(shown.data()))


def test_where_scripts_do_not_run_there_is_a_figure_that_is_described(shown, scales):
    picture = Elements(shown.page()).seen[1][1]
    content = base64.b64decode(picture["src"].removeprefix("data:image/png;base64,"))
    assert Image.open(io.BytesIO(content)).width == 756
    assert picture["alt"] == shown.alt
    for scale in scales:
        assert f"{scale.means[scale.place(*shown.start)]:.2f}" in shown.alt
    assert "Guessing gives 0.25." in shown.alt
    bars = [ax.patches for ax in shown.figure().axes[2:]]
    for scale, of_scale in zip(scales, bars, strict=True):
        heights = [bar.get_height() for bar in of_scale]
        np.testing.assert_allclose(heights, scale.votes[:, *scale.place(*shown.start)])


def test_the_figure_frames_the_patch_and_its_nearest(shown, scales):
    test, training, *_ = shown.figure().axes
    for n, scale in enumerate(scales):
        place, zoom = scale.place(*shown.start), 96 / scale.side
        for ax, (row, column) in ((test, place), (training, scale.nearest[place])):
            side = shown.training.shape[0] if ax is training else 96
            corner = np.array((column, row)) * side / scale.side - 0.5
            np.testing.assert_allclose(ax.patches[n].get_xy(), corner)
        assert test.patches[n].get_width() == pytest.approx(11 * zoom)


def test_an_image_that_is_not_square_is_framed_where_its_square_is(detector):
    wide = IMAGE[:64]  # 64 x 96, which the model sees as a square
    shown = PatchVotes(detector, wide)
    ax = shown.figure().axes[0]
    for frame, scale in zip(ax.patches, shown.scales, strict=True):
        row, column = scale.place(*shown.start)
        assert frame.get_xy() == pytest.approx(
            (column * 96 / scale.side - 0.5, row * 64 / scale.side - 0.5)
        )
        size = (frame.get_width(), frame.get_height())
        assert size == pytest.approx((11 * 96 / scale.side, 11 * 64 / scale.side))


def test_a_mask_of_another_size_is_refused(detector):
    with pytest.raises(ValueError, match=r"mask has \(64, 96\) pixels and the image \(96, 96\)"):
        PatchVotes(detector, IMAGE, MASK[:64])


def test_notebooks_display_it(shown):
    assert shown._repr_mimebundle_() == {"text/html": shown.page(), "text/plain": shown.alt}


def test_other_transformations_have_numbers_and_gaps():
    config = HTDGConfig.preset(
        "tiny", niter=1, transformations=((0, 0, 0, 0, 0), (0, 0, 1, 0, 0), (0, 1, 0, 0, 1))
    )
    small = HTDGDetector(config).fit(IMAGES.train[0], progress=False)
    scale = votes_of_patches(small, IMAGE)[-1]
    assert np.isnan(scale.votes[1]).any()
    assert not np.isnan(scale.votes[0]).any()
    shown = PatchVotes(small, IMAGE)
    assert None in shown.data()["scales"][-1]["votes"][1]
    assert shown.names == ["0°", "2", "3"]
    assert np.isfinite(shown.start).all()
    shown.figure()
    assert short_name(small.transformations_[0], 1) == "0°"
