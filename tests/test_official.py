"""Models of the official code: what comes in is what was there, and nothing else comes in."""

import builtins
import copy
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from htdg import ConfigError, HTDGConfig, HTDGDetector, ModelError
from htdg.commands.cli import main
from htdg.io.model_directory import load_model, save_model, scale_tensors
from htdg.io.official import from_official_state, import_official
from htdg.networks import Discriminator, Generator
from htdg.pyramid import resize
from htdg.sampling import Scale, freeze
from htdg.state import ModelState
from htdg.transformations import Transformation, as_rows, transform_all
from htdg.votes import aggregate_votes, votes_from_logits

#: No options lead to these.
SIDES = (14, 17, 20)
SIZE = 20  # also the networks' width
#: Shuffled, as the official code does.
ROWS = [[0, 1, -1, 0, 0], [0, 0, 0, 0, 3], [0, 0, 0, 0, 0], [1, 0, 0, 0, 2], [0, 0, 1, 1, 0]]
#: The folder of a training, in the folder that has the model's name.
TRAINING = "scale_factor=0.750000,alpha=100"


def random_state(network, seed):
    """A network's state in which nothing has its initial value."""
    rng = torch.Generator().manual_seed(seed)
    state = network.state_dict()
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(270)
        elif key.endswith("running_var") or "norm.weight" in key:
            state[key] = torch.rand(value.shape, generator=rng) + 0.5
        else:
            state[key] = torch.randn(value.shape, generator=rng) * (0.1 if value.ndim > 1 else 0.3)
    return state


def official_keys(state, kind, prefix=""):
    """The same state under the official names."""
    tail = "tail.0." if kind == "netG" else "tail."
    renamed = {}
    for key, value in state.items():
        key = re.sub(r"^tail\.", tail, key).replace("blocks.0.", "head.")
        renamed[prefix + re.sub(r"^blocks\.", "body.block", key)] = value
    return renamed


class Official:
    """A model like the official code's: its parts, and how to write them."""

    def __init__(self, shots):
        rng = torch.Generator().manual_seed(shots)
        self.shots = shots
        self.g = [Generator(SIZE) for _ in SIDES]
        self.d = [Discriminator(SIZE, len(ROWS)) for _ in SIDES]
        for seed, network in enumerate([*self.g, *self.d]):
            network.load_state_dict(random_state(network, seed))
            network.eval()
        self.z = [torch.randn(1, 1, side, side, generator=rng) for side in SIDES]
        self.sigma = [
            torch.ones(shots),
            torch.arange(shots) / 8 + 0.1,
            torch.rand(shots, generator=rng),
        ]
        # At each scale, for each training image (1, 3, H, H).
        self.reals = [
            [torch.rand(1, 3, side, side, generator=rng) * 2 - 1 for _ in range(shots)]
            for side in SIDES
        ]

    def padded(self, n):
        return F.pad(self.z[n], [5] * 4).repeat(1, 3, 1, 1)

    def write_networks(self, folder, prefix):
        for n in range(len(SIDES)):
            (folder / str(n)).mkdir(parents=True)
            for kind, network in (("netG", self.g[n]), ("netD", self.d[n])):
                state = official_keys(network.state_dict(), kind, prefix)
                torch.save(state, folder / str(n) / f"{kind}.pth")

    def write(self, name_folder, prefix=""):
        """The folder as the official code writes it."""
        folder, scales = name_folder / TRAINING, range(len(SIDES))
        self.write_networks(folder, prefix)
        np.save(name_folder / "transformations.npy", np.array(ROWS))
        for n in scales:
            torch.save(self.padded(n), folder / str(n) / "z_opt.pth")
        z, amplitudes, reals = {}, {}, {}
        for k in range(self.shots):
            z[k] = [self.padded(n) for n in scales]
            amplitudes[k] = [self.sigma[n][k].view(1, 1) for n in scales]
            amplitudes[k][0] = amplitudes[k][0].long()
            reals[k] = [self.reals[n][k] for n in scales]
        torch.save(z, folder / "Zs.pth")
        torch.save(amplitudes, folder / "NoiseAmp.pth")
        torch.save(reals, folder / "reals.pth")
        (folder / "Gs.pth").write_bytes(b"whole pickled networks")
        return folder

    def write_lists(self, folder, prefix="", single=False, reals=True):
        """The flat form: one list for all images, or files in each scale's folder."""
        self.write_networks(folder, prefix)
        sigma = [torch.tensor([[1.0]]), self.sigma[1][:, None], self.sigma[2]]
        padded = [self.padded(n) for n in range(len(SIDES))]
        if single:
            for n in range(len(SIDES)):
                torch.save(padded[n], folder / str(n) / "z_opt.pth")
                torch.save(sigma[n], folder / str(n) / "noise_amp.pth")
        else:
            torch.save(padded, folder / "Zs.pth")
            torch.save([1, *sigma[1:]], folder / "NoiseAmp.pth")
        if reals:
            torch.save([torch.cat(images) for images in self.reals], folder / "reals.pth")
        (folder / "transformations.json").write_text(json.dumps(ROWS))
        return folder

    def model(self):
        """What an import is to give, put together by hand."""
        parts = zip(SIDES, self.g, self.d, self.z, self.sigma, strict=True)
        return ModelState(
            config=HTDGConfig(
                image_size=SIZE,
                min_size=SIDES[0],
                max_size=SIDES[-1],
                transformations=tuple(map(tuple, ROWS)),
                translation="resampled",
                precision="float32",
                device="cpu",
            ),
            sides=SIDES,
            transformations=tuple(Transformation(*row) for row in ROWS),
            scales=tuple(freeze(copy.deepcopy(Scale(*part))) for part in parts),
            images=torch.cat(self.reals[-1]),
            image_names=tuple(f"official image {k + 1}" for k in range(self.shots)),
        )


def assert_same_model(model, expected):
    """All that is trained, all options and all images are equal, bit for bit."""
    one, two = scale_tensors(model.scales), scale_tensors(expected.scales)
    assert one.keys() == two.keys()
    for key in one:
        assert torch.equal(one[key], two[key]), key
    for name in ("config", "sides", "transformations", "image_names", "threshold", "history"):
        assert getattr(model, name) == getattr(expected, name), name
    assert torch.equal(model.images, expected.images)


@pytest.fixture(scope="module")
def official():
    """A model of two training images."""
    return Official(2)


@pytest.fixture
def folder(official, tmp_path):
    return official.write_lists(tmp_path / "official")


@pytest.fixture
def training(official, tmp_path):
    return official.write(tmp_path / "TrainedModels" / "car")


@pytest.fixture(scope="module")
def photos():
    rng = np.random.default_rng(2)
    return list(rng.integers(0, 256, (3, 30, 26, 3), dtype=np.uint8))


# --- As the official code writes it -------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("shots", [1, 3])
def test_the_official_layout(photos, tmp_path, shots, prefix):
    official = Official(shots)
    training = official.write(tmp_path / "TrainedModels" / "car", prefix)
    expected = official.model()
    scores = HTDGDetector.from_model(expected).score_scales(photos)
    assert scores.std() > 0.001
    for folder in (training, training.parent):
        model = import_official(folder, SIZE)
        assert_same_model(model, expected)
        assert as_rows(model.transformations) == ROWS
        assert model.images.shape == (shots, 3, SIZE, SIZE)
        for n, scale in enumerate(model.scales):
            assert not scale.discriminator.training
            assert not any(p.requires_grad for p in scale.discriminator.parameters())
            assert scale.sigma.dtype == torch.float32
            patches = torch.rand(2, 3, SIDES[n], SIDES[n], generator=torch.manual_seed(n))
            index = torch.tensor([0, shots - 1])
            with torch.no_grad():
                assert torch.equal(scale.discriminator(patches), official.d[n](patches))
                theirs = official.g[n](0.3 * patches, patches, index)
                assert torch.equal(scale.generator(0.3 * patches, patches, index), theirs)
        assert np.array_equal(HTDGDetector.from_model(model).score_scales(photos), scores)


def test_the_official_layout_from_within(training, official, monkeypatch):
    for folder in (training, training.parent):
        monkeypatch.chdir(folder)
        assert_same_model(import_official(".", SIZE), official.model())


def test_images_come_in_the_order_of_their_numbers(training, official):
    """Also where a dictionary was filled in another order."""
    for name in ("NoiseAmp.pth", "reals.pth"):
        content = torch.load(training / name, weights_only=True)
        torch.save(dict(reversed(content.items())), training / name)
    assert_same_model(import_official(training, SIZE), official.model())


def test_noise_of_each_scale_does_without_that_of_all(training, official):
    (training / "Zs.pth").unlink()
    assert_same_model(import_official(training, SIZE), official.model())


def test_images_that_do_not_fit_are_rebuilt(training):
    reals = torch.load(training / "reals.pth", weights_only=True)
    for wrong in ({0: reals[0]}, {k: list_[:1] for k, list_ in reals.items()}, {0: [], 1: []}):
        torch.save(wrong, training / "reals.pth")
        model = import_official(training, SIZE)
        rebuilt = HTDGDetector.from_model(model).reconstruct()
        assert torch.equal(model.images, rebuilt.clamp(-1, 1))


@pytest.mark.parametrize("dtype", ["int64", "int8", "float32"])
def test_a_list_of_any_numbers(training, official, dtype):
    np.save(training.parent / "transformations.npy", np.array(ROWS, dtype))
    assert_same_model(import_official(training, SIZE), official.model())


def test_the_list_may_be_beside_the_scales(training, official):
    (training.parent / "transformations.npy").rename(training / "transformations.npy")
    assert_same_model(import_official(training.parent, SIZE), official.model())
    # Of a folder with another name, nothing above it is looked at.
    (training / "transformations.npy").rename(training.parent / "transformations.npy")
    other = training.rename(training.parent / "other")
    with pytest.raises(ModelError, match=r"other has no transformations\.pth, .* give the list"):
        import_official(other, SIZE)


def test_several_trainings_are_named(training, official):
    second = training.parent / "scale_factor=0.800000,alpha=10"
    shutil.copytree(training, second)
    with pytest.raises(ModelError) as refused:
        import_official(training.parent, SIZE)
    message = str(refused.value)
    assert f"{training.name} and {second.name}: name one of these folders." in message
    assert message.startswith(f"{training.parent} holds several trainings")
    assert_same_model(import_official(second, SIZE), official.model())


def test_whole_pickled_networks_are_never_opened(training, official, tmp_path, monkeypatch):
    sprung, opened = tmp_path / "sprung", []
    (training / "Gs.pth").write_bytes(pickle.dumps(Trap(sprung), protocol=2))
    really_open = builtins.open

    def watched(file, *arguments, **options):
        opened.append(Path(file).name if isinstance(file, (str, Path)) else file)
        return really_open(file, *arguments, **options)

    monkeypatch.setattr(builtins, "open", watched)
    for folder in (training, training.parent):
        assert_same_model(import_official(folder, SIZE), official.model())
    monkeypatch.undo()
    assert "Zs.pth" in opened
    assert "Gs.pth" not in opened
    assert not sprung.exists()
    # The trap is one: read the careless way, it snaps.
    pickle.loads((training / "Gs.pth").read_bytes())
    assert sprung.is_dir()


# --- One list for all images --------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("single", [False, True])
def test_lists_for_all_images(official, tmp_path, prefix, single):
    folder = official.write_lists(tmp_path / "official", prefix, single)
    assert_same_model(import_official(folder, SIZE), official.model())


def test_votes_are_those_of_the_networks(official, photos, folder):
    detector = HTDGDetector.from_model(import_official(str(folder), SIZE))
    square = resize(torch.from_numpy(photos[0]).permute(2, 0, 1)[None] / 127.5 - 1, SIZE)
    votes = detector.votes(photos[0])
    scores = detector.score_scales(photos[:1])[0]
    for n, side in enumerate(SIDES):
        image = resize(square, side)
        copies = transform_all(image, detector.transformations_, "resampled")[:, 0]
        with torch.no_grad():
            expected = votes_from_logits(official.d[n](copies))
        np.testing.assert_allclose(votes[n], expected, atol=1e-5)
        np.testing.assert_allclose(scores[n], aggregate_votes(expected[:, None])[0], atol=1e-5)
    assert detector.sample(3, seed=1).shape == (3, 3, 20, 20)


@pytest.mark.parametrize(
    "reals",
    [
        None,
        torch.zeros(2, 3, 20, 20),
        [torch.zeros(2, 3, 20, 20), torch.zeros(2, 3, 14, 14)],
        [torch.full((2, 3, 20, 20), 255.0)],
        [torch.full((2, 3, 20, 20), torch.nan)],
    ],
    ids=["none", "no list", "finest first", "8 bits", "nan"],
)
def test_without_images_they_are_rebuilt(official, tmp_path, reals):
    folder = official.write_lists(tmp_path / "official", reals=False)
    if reals is not None:
        torch.save(reals, folder / "reals.pth")
    model = import_official(folder, SIZE)
    rebuilt = HTDGDetector.from_model(model).reconstruct()
    assert torch.equal(model.images, rebuilt.clamp(-1, 1))
    assert not torch.equal(model.images[0], model.images[1])


@pytest.mark.parametrize("kind", ["pth", "tensor", "json", "npy"])
def test_the_list_in_every_form(folder, tmp_path, kind):
    file = tmp_path / f"list.{'pth' if kind == 'tensor' else kind}"
    other = [*ROWS[1:], ROWS[0]]
    if kind == "pth":
        torch.save([(bool(grey), *map(float, rest)) for grey, *rest in other], file)
    elif kind == "tensor":
        torch.save(torch.tensor(other), file)
    elif kind == "npy":
        np.save(file, np.array(other))
    else:
        file.write_text(json.dumps(other))
    model = import_official(folder, SIZE, file)  # before the one in the folder
    assert model.config.transformations == tuple(map(tuple, other))
    shutil.copy(file, folder / f"transformations{file.suffix}")
    if kind != "json":
        (folder / "transformations.json").unlink()
    assert import_official(folder, SIZE).config == model.config


def test_a_saved_import_is_the_same(training, photos, tmp_path):
    model = import_official(str(training), SIZE)
    assert model.sides != model.config.sides
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model", "cpu")
    assert_same_model(loaded, model)
    one, two = HTDGDetector.from_model(model), HTDGDetector.from_model(loaded)
    assert np.array_equal(one.score_scales(photos), two.score_scales(photos))
    assert torch.equal(one.sample(2, seed=3), two.sample(2, seed=3))


def test_wider_scales_need_no_exact_image_size(tmp_path):
    """Five scales, the last twice as wide: the widths do not tell the image size."""
    folder = tmp_path / "wide"
    for n in range(5):
        (folder / str(n)).mkdir(parents=True)
        for kind, network in (
            ("netG", Generator(64 if n == 4 else 32)),
            ("netD", Discriminator(64 if n == 4 else 32, len(ROWS))),
        ):
            state = official_keys(network.state_dict(), kind)
            torch.save(state, folder / str(n) / f"{kind}.pth")
    padded = [F.pad(torch.ones(1, 3, 12 + n, 12 + n), [5] * 4) for n in range(5)]
    torch.save(padded, folder / "Zs.pth")
    torch.save([0.1] * 5, folder / "NoiseAmp.pth")
    np.save(folder / "transformations.npy", np.array(ROWS))
    for size in (64, 128):
        model = import_official(folder, size)
        assert model.images.shape == (1, 3, size, size)
        assert model.sides == (12, 13, 14, 15, 16)
    with pytest.raises(ModelError, match="at least 64"):
        import_official(folder, 63)


# --- What is refused ----------------------------------------------------------------------------


def change(name, edit):
    """A damage: the file's content replaced by what ``edit`` makes of it."""

    def damage(folder):
        torch.save(edit(torch.load(folder / name, weights_only=True)), folder / name)

    return damage


def without(*names):
    def damage(folder):
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def rows(content):
    return text("transformations.json", json.dumps(content))


def changed(values, n, value):
    return [*values[:n], value, *values[n + 1 :]]


def no_dict(folder):
    torch.save({"state_dict": {"head.conv.weight": torch.zeros(1)}}, folder / "0" / "netD.pth")


def narrow_scale(folder):
    state = official_keys(Discriminator(8, len(ROWS)).state_dict(), "netD")
    torch.save(state, folder / "1" / "netD.pth")


def swapped(folder):
    shutil.copy(folder / "1" / "netD.pth", folder / "1" / "netG.pth")


REFUSED = {
    "gap": (without("1"), "has a folder 2 but no folder 1: copy all scales"),
    "no scales": (without("0", "1", "2"), "has no folders 0, 1, ..."),
    "no netD": (without("2/netD.pth"), "2/netD.pth is not there: copy it too"),
    "no netG": (without("0/netG.pth"), "0/netG.pth is not there: copy it too"),
    "damaged": (text("0/netG.pth", "not a network"), "0/netG.pth is damaged, or holds objects"),
    "no state dict": (no_dict, "0/netD.pth is no state dict"),
    "no mapping": (change("0/netD.pth", list), "0/netD.pth is no state dict"),
    "foreign key": (
        change("0/netD.pth", lambda s: {**s, "encoder.weight": torch.zeros(1)}),
        "0/netD.pth cannot be used: 'encoder.weight' is no key",
    ),
    "bare body": (
        change("0/netD.pth", lambda s: {**s, "body": torch.zeros(1)}),
        "0/netD.pth cannot be used: 'body' is no key",
    ),
    "no head": (
        change("0/netD.pth", lambda s: {k: v for k, v in s.items() if k != "head.conv.weight"}),
        "0/netD.pth lacks head.conv.weight: it is no network of the official code",
    ),
    "missing tensor": (
        change(
            "1/netG.pth",
            lambda s: {k: v for k, v in s.items() if k != "body.block2.norm.running_var"},
        ),
        "1/netG.pth lacks body.block2.norm.running_var: save its whole state_dict()",
    ),
    "more layers": (
        change("1/netG.pth", lambda s: {**s, "body.block4.conv.weight": torch.zeros(1)}),
        "1/netG.pth has body.block4.conv.weight, which is no part of it",
    ),
    "wrong shape": (
        change("1/netD.pth", lambda s: {**s, "tail.weight": torch.zeros(6, 20, 5, 5)}),
        "1/netD.pth has tail.weight of shape (6, 20, 5, 5), but it must be (6, 20, 3, 3)",
    ),
    "swapped": (swapped, "1/netG.pth has head.conv.weight of shape (20, 3, 3, 3), but it must be"),
    "not finite": (
        change("2/netD.pth", lambda s: {**s, "tail.bias": s["tail.bias"] * torch.nan}),
        "2/netD.pth has values that are not finite in tail.bias",
    ),
    "widths": (narrow_scale, "are 20 8 20 channels wide, which no image_size gives"),
    "no noise": (without("Zs.pth"), "has no Zs.pth and no 0/z_opt.pth: copy one of them too"),
    "noise too short": (change("Zs.pth", lambda z: z[:2]), "Zs.pth holds a list of 2, but must be"),
    "noise no list": (
        change("Zs.pth", lambda z: z[0]),
        "Zs.pth holds a tensor of shape (1, 3, 24, 24), but must be a list",
    ),
    "noise not padded": (
        change("Zs.pth", lambda z: changed(z, 1, z[1] + 1)),
        "Entry 1 in {folder}/Zs.pth is a tensor of shape (1, 3, 27, 27), but must be noise (1, 3,",
    ),
    "noise not square": (
        change("Zs.pth", lambda z: changed(z, 1, z[1][..., :-1])),
        "Entry 1 in {folder}/Zs.pth is a tensor of shape (1, 3, 27, 26), but must",
    ),
    "noise of several channels": (
        change("Zs.pth", lambda z: changed(z, 0, z[0] * torch.tensor([1, 2, 3]).view(3, 1, 1))),
        "the same in every channel",
    ),
    "noise no tensor": (
        change("Zs.pth", lambda z: changed(z, 2, "z")),
        "is a value of type str, but must be",
    ),
    "noise order": (
        change("Zs.pth", lambda z: z[::-1]),
        "has 20 17 14 pixels, but every scale must be larger than the one before and than 11",
    ),
    "noise small": (
        change("Zs.pth", lambda z: changed(z, 0, torch.zeros(1, 3, 21, 21))),
        "has 11 17 20 pixels",
    ),
    "no amplitudes": (without("NoiseAmp.pth"), "has no NoiseAmp.pth and no 0/noise_amp.pth"),
    "amplitudes too few": (
        change("NoiseAmp.pth", lambda a: a[:1]),
        "NoiseAmp.pth holds a list of 1, but must be a list with an entry for each of the 3 scales",
    ),
    "amplitudes of a map": (
        change("NoiseAmp.pth", lambda a: changed(a, 1, torch.ones(2, 2))),
        "is a tensor of shape (2, 2), but must be a finite amplitude",
    ),
    "amplitude empty": (
        change("NoiseAmp.pth", lambda a: changed(a, 1, torch.ones(0))),
        "is a tensor of shape (0,), but must be a finite amplitude",
    ),
    "amplitude infinite": (
        change("NoiseAmp.pth", lambda a: changed(a, 0, float("inf"))),
        "Entry 0 in {folder}/NoiseAmp.pth is a value of type float, but must be a finite",
    ),
    "amplitude text": (
        change("NoiseAmp.pth", lambda a: changed(a, 0, "one")),
        "is a value of type str, but must be a finite amplitude",
    ),
    "amplitudes of other images": (
        change("NoiseAmp.pth", lambda a: changed(a, 1, torch.ones(3))),
        "are for 2 training images at one scale and for 3 at another",
    ),
    "no list": (
        without("transformations.json"),
        "has no transformations.pth, transformations.json or transformations.npy",
    ),
    "two lists": (
        lambda folder: np.save(folder / "transformations.npy", np.array(ROWS)),
        "transformations.npy are both there: say which one it is (--transformations)",
    ),
    "list damaged": (text("transformations.json", "[[0,"), "transformations.json is damaged"),
    "list of nothing": (rows([]), "transformations.json holds a list of 0, but must be"),
    "list no list": (
        rows("rgb54"),
        "transformations.json holds a value of type str, but must be a list of rows",
    ),
    "short list": (
        rows(ROWS[:4]),
        "0/netD.pth tells 5 transformations apart, but the list has 4: give the list of this",
    ),
    "twice": (
        rows([*ROWS[:4], ROWS[0]]),
        "has the transformation [0, 1, -1, 0, 0] 2 times, but all must be different",
    ),
    "short row": (rows(changed(ROWS, 2, [0, 0, 0, 0])), "has [0, 0, 0, 0] as transformation 3"),
    "outside": (rows(changed(ROWS, 0, [0, 0, 2, 0, 0])), "has [0, 0, 2, 0, 0] as transformation 1"),
    "fraction": (rows(changed(ROWS, 0, [0.5, 0, 0, 0, 0])), "as transformation 1, but must have"),
    "number": (rows(changed(ROWS, 4, 7)), "has 7 as transformation 5, but must have"),
    "word": (rows(changed(ROWS, 1, ["0"] * 5)), "as transformation 2, but must have"),
}


def of_images(name, edit):
    """A damage: the dictionary of a file, from images to lists, changed by ``edit`` in place."""

    def damage(folder):
        content = torch.load(folder / name, weights_only=True)
        edit(content)
        torch.save(content, folder / name)

    return damage


def no_list(folder):
    (folder.parent / "transformations.npy").unlink()


def list_of_objects(folder):
    rows = np.array(ROWS, dtype=object)
    np.save(folder.parent / "transformations.npy", rows, allow_pickle=True)


#: The same in the official layout: {folder} is the one with the scales, {above} the one above it.
REFUSED_LAYOUT = {
    "an image too few": (
        of_images("Zs.pth", lambda z: z.pop(1)),
        "The fixed noise and the noise amplitudes in {folder} are for different numbers of "
        "training images, 1 and 2: copy files",
    ),
    "an amplitude too few": (
        of_images("NoiseAmp.pth", lambda a: a.pop(1)),
        "The fixed noise and the noise amplitudes in {folder} are for different numbers of "
        "training images, 2 and 1: copy files",
    ),
    "a scale too few": (
        of_images("NoiseAmp.pth", lambda a: a[1].pop()),
        "{folder}/NoiseAmp.pth holds a list of 2 for training image 1, but must be a list with an "
        "entry for each of the 3 scales",
    ),
    "no scales": (
        of_images("Zs.pth", lambda z: z.update({0: torch.zeros(3)})),
        "{folder}/Zs.pth holds a tensor of shape (3,) for training image 0, but must be a list",
    ),
    "a gap between images": (
        of_images("NoiseAmp.pth", lambda a: a.update({4: a.pop(1)})),
        "{folder}/NoiseAmp.pth is a dictionary with the keys 0, 4, but these must be the numbers",
    ),
    "images by name": (
        of_images("Zs.pth", lambda z: z.update({"last": z.pop(1)})),
        "{folder}/Zs.pth is a dictionary with the keys 0, 'last', but these must be the numbers",
    ),
    "no images": (
        of_images("Zs.pth", lambda z: z.clear()),
        "{folder}/Zs.pth is a dictionary with the keys none, but these must be the numbers",
    ),
    "photographs by name": (
        of_images("reals.pth", lambda r: r.update({"car": r.pop(0)})),
        "{folder}/reals.pth is a dictionary with the keys 1, 'car', but these must be the numbers",
    ),
    "noise of several images": (
        of_images("Zs.pth", lambda z: z[1].__setitem__(2, 2 * z[1][2])),
        "Entry 2 for training image 0 in {folder}/Zs.pth is other noise than that of the other",
    ),
    "noise without border": (
        of_images("Zs.pth", lambda z: z[1].__setitem__(0, torch.ones(1, 3, 24, 24))),
        "Entry 0 for training image 1 in {folder}/Zs.pth is a tensor of shape (1, 3, 24, 24), but",
    ),
    "several amplitudes of an image": (
        of_images("NoiseAmp.pth", lambda a: a[1].__setitem__(1, torch.ones(2, 1))),
        "Entry 1 for training image 1 in {folder}/NoiseAmp.pth is a tensor of shape (2, 1), but "
        "must be a finite amplitude of the noise for training image 1",
    ),
    "an infinite amplitude": (
        of_images("NoiseAmp.pth", lambda a: a[0].__setitem__(1, torch.tensor([[torch.inf]]))),
        "Entry 1 for training image 0 in {folder}/NoiseAmp.pth is a tensor of shape (1, 1), but "
        "must be a finite amplitude",
    ),
    "no list": (
        no_list,
        "{folder}, like the folder above it, has no transformations.pth, transformations.json or "
        "transformations.npy, and the order",
    ),
    "a list above and one beside": (
        text("transformations.json", json.dumps(ROWS)),
        "{folder}/transformations.json and {above}/transformations.npy are both there",
    ),
    "a list of objects": (
        list_of_objects,
        "{above}/transformations.npy holds Python objects, which only running code from it would "
        "restore: save it again as an array of whole numbers.",
    ),
}


def is_one_sentence(error):
    """No line breaks, no full stop within, one at the end."""
    message = str(error)
    return "\n" not in message and message.endswith(".") and not re.search(r"\. [A-Z]", message)


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_a_sentence(case, folder):
    damage, part = REFUSED[case]
    damage(folder)
    with pytest.raises(ModelError) as refused:
        import_official(folder, SIZE)
    assert part.replace("{folder}", str(folder)) in str(refused.value)
    assert str(folder) in str(refused.value)
    assert is_one_sentence(refused.value)


@pytest.mark.parametrize("case", REFUSED_LAYOUT)
def test_the_same_in_the_official_layout(case, training):
    damage, part = REFUSED_LAYOUT[case]
    damage(training)
    for folder in (training, training.parent):
        with pytest.raises(ModelError) as refused:
            import_official(folder, SIZE)
        assert part.format(folder=training, above=training.parent) in str(refused.value)
        assert is_one_sentence(refused.value)


def test_image_sizes_that_do_not_fit(folder):
    with pytest.raises(ModelError, match=r"20 20 20 channels wide, .* give image_size 20\.") as no:
        import_official(folder)  # 128
    assert is_one_sentence(no.value)
    with pytest.raises(ModelError, match="give image_size 20"):
        import_official(folder, 19)
    for size in (13, 0, "20"):
        with pytest.raises(ConfigError, match="Option image_size is"):
            import_official(folder, size)


def test_widths_below_the_largest_side_are_no_official_model(folder):
    larger = torch.load(folder / "Zs.pth", weights_only=True)
    larger[2] = F.pad(torch.ones(1, 3, 21, 21), [5] * 4)
    torch.save(larger, folder / "Zs.pth")
    with pytest.raises(ModelError, match="no image_size gives with scales of 14 17 21 pixels"):
        import_official(folder, 21)


@pytest.mark.parametrize("what", ["missing", "file"])
def test_a_folder_that_is_none(what, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=f"{what} is no folder: name the one"):
        import_official(tmp_path / what, SIZE)


def test_a_missing_list_is_refused(folder):
    with pytest.raises(ModelError, match=r"gone\.json is not there"):
        import_official(folder, SIZE, folder / "gone.json")


# --- Code is not run ----------------------------------------------------------------------------


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "name",
    ["0/netG.pth", "2/netD.pth", "Zs.pth", "NoiseAmp.pth", "reals.pth", "transformations.pth"],
)
@pytest.mark.parametrize("bare", [False, True])
def test_code_in_a_file_is_refused_and_does_not_run(folder, tmp_path, name, bare):
    (folder / "transformations.json").rename(tmp_path / "list.json")
    listed = None if "transformations" in name else tmp_path / "list.json"
    sprung = tmp_path / "sprung"
    if bare:
        (folder / name).write_bytes(pickle.dumps(Trap(sprung), protocol=2))
    else:
        torch.save([Trap(sprung)] * 3, folder / name)
    with pytest.raises(ModelError, match="only running its code would restore") as refused:
        import_official(folder, SIZE, listed)
    assert str(folder / name) in str(refused.value)
    assert is_one_sentence(refused.value)
    assert not sprung.exists()
    if not bare:  # the trap is one: read the careless way, it snaps
        torch.load(folder / name, weights_only=False)
        assert sprung.is_dir()


def test_code_in_an_array_is_refused_and_does_not_run(folder, tmp_path):
    sprung = tmp_path / "sprung"
    np.save(tmp_path / "list.npy", np.array([Trap(sprung), 0], dtype=object), allow_pickle=True)
    with pytest.raises(ModelError, match=r"list\.npy holds Python objects, which only running"):
        import_official(folder, SIZE, tmp_path / "list.npy")
    assert not sprung.exists()


# --- Keys ---------------------------------------------------------------------------------------


def test_keys_there_and_back(official):
    for kind, network in (("netG", official.g[0]), ("netD", official.d[0])):
        state = network.state_dict()
        for prefix in ("", "module."):
            renamed = official_keys(state, kind, prefix)
            assert f"{prefix}body.block3.norm.running_mean" in renamed
            assert list(from_official_state(renamed)) == list(state)


# --- The command --------------------------------------------------------------------------------


def test_the_command_writes_a_model(folder, tmp_path, capsys):
    model, listed = tmp_path / "deep" / "model", tmp_path / "list.json"
    (folder / "transformations.json").rename(listed)
    command = ["import-official", str(folder), str(model), "--image-size", "20"]
    command += ["--transformations", str(listed)]
    assert main(command) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{model}\n"
    assert shown.err == ""
    assert_same_model(load_model(model, "cpu"), import_official(folder, SIZE, listed))
    assert main(["info", str(model)]) == 0
    assert "imported from the official code" in capsys.readouterr().out
    # It is replaced on request only.
    assert main(command) == 2
    assert "model is there already: choose another MODEL or --overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("missing model", "missing is no folder"),
        ("official model", "give image_size 20."),
        ("official model --image-size -1", "Option image_size is -1"),
        ("official model --image-size 20 --transformations gone.npy", "gone.npy is not there"),
        ("official official --overwrite", "official is there and is no htdg model"),
        ("official official/Zs.pth/model", "model cannot be written"),
    ],
)
def test_the_command_names_mistakes(arguments, message, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder.parent)
    before = sorted(folder.parent.rglob("*"))
    assert main(["import-official", *arguments.split()]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert message in shown.err
    assert sorted(folder.parent.rglob("*")) == before
