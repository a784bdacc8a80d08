"""Models of the official code: what comes in is what was there, and nothing else comes in."""

import json
import os
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from htdg import ConfigError, HTDGDetector, ModelError
from htdg.commands.cli import main
from htdg.io.checkpoint import scale_tensors
from htdg.io.official import from_official_state, import_official
from htdg.networks import Discriminator, Generator
from htdg.pyramid import resize
from htdg.transformations import transform_all
from htdg.votes import aggregate_votes, votes_from_logits

#: No options lead to these.
SIDES = (14, 17, 20)
SIZE = 20  # also the networks' width
K = 2
#: Shuffled, as the official code does.
ROWS = [[0, 1, -1, 0, 0], [0, 0, 0, 0, 3], [0, 0, 0, 0, 0], [1, 0, 0, 0, 2], [0, 0, 1, 1, 0]]


def random_state(network, seed):
    """A network's state of which nothing is as it was when it was made."""
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

    def __init__(self):
        rng = torch.Generator().manual_seed(1)
        self.g = [Generator(SIZE) for _ in SIDES]
        self.d = [Discriminator(SIZE, len(ROWS)) for _ in SIDES]
        for seed, network in enumerate([*self.g, *self.d]):
            network.load_state_dict(random_state(network, seed))
            network.eval()
        self.z = [torch.randn(1, 1, side, side, generator=rng) for side in SIDES]
        self.sigma = [torch.tensor([[1.0]]), torch.tensor([[0.2], [0.3]]), torch.tensor([0.1, 0.4])]
        self.reals = [torch.rand(K, 3, side, side, generator=rng) * 2 - 1 for side in SIDES]

    def padded(self):
        return [F.pad(z, [5] * 4).expand(1, 3, -1, -1) for z in self.z]

    def write(self, folder, prefix="", single=False, reals=True):
        for n in range(len(SIDES)):
            (folder / str(n)).mkdir(parents=True)
            for kind, network in (("netG", self.g[n]), ("netD", self.d[n])):
                state = official_keys(network.state_dict(), kind, prefix)
                torch.save(state, folder / str(n) / f"{kind}.pth")
            if single:
                torch.save(self.padded()[n], folder / str(n) / "z_opt.pth")
                torch.save(self.sigma[n], folder / str(n) / "noise_amp.pth")
        if not single:
            torch.save(self.padded(), folder / "Zs.pth")
            torch.save([1, *self.sigma[1:]], folder / "NoiseAmp.pth")
        if reals:
            torch.save(self.reals, folder / "reals.pth")
        (folder / "transformations.json").write_text(json.dumps(ROWS))
        return folder


@pytest.fixture(scope="module")
def official():
    return Official()


@pytest.fixture
def folder(official, tmp_path):
    return official.write(tmp_path / "official")


@pytest.fixture(scope="module")
def photos():
    rng = np.random.default_rng(2)
    return list(rng.integers(0, 256, (3, 30, 26, 3), dtype=np.uint8))


# --- What comes in ------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("single", [False, True])
def test_logits_and_votes_are_those_of_the_networks(official, photos, tmp_path, prefix, single):
    folder = official.write(tmp_path / "official", prefix, single)
    detector = import_official(folder, SIZE)
    assert detector.sides == SIDES
    assert [[t.grey, t.flip, t.tx, t.ty, t.k] for t in detector.transformations] == ROWS
    assert detector.config.translation == "resampled"
    square = resize(torch.from_numpy(photos[0]).permute(2, 0, 1)[None] / 127.5 - 1, SIZE)
    votes = detector.votes(photos[0])
    scores = detector.score_scales(photos[:1])[0]
    for n, scale in enumerate(detector.scales):
        assert not scale.discriminator.training
        assert not any(p.requires_grad for p in scale.discriminator.parameters())
        image = resize(square, SIDES[n])
        copies = transform_all(image, detector.transformations, "resampled")[:, 0]
        with torch.no_grad():
            expected = official.d[n](copies)
            assert torch.equal(scale.discriminator(copies), expected)
            noise, index = 0.3 * image, torch.ones(1)
            made = scale.generator(noise, image, index)
            assert torch.equal(made, official.g[n](noise, image, index))
        own = votes_from_logits(expected)
        np.testing.assert_allclose(votes[n], own, atol=1e-5)
        np.testing.assert_allclose(scores[n], aggregate_votes(own[:, None])[0], atol=1e-5)


def test_noise_amplitudes_and_images_come_along(official, folder):
    detector = import_official(folder, SIZE)
    for scale, z, side in zip(detector.scales, official.z, SIDES, strict=True):
        assert torch.equal(scale.z_star, z)
        assert scale.side == side
    amplitudes = [scale.sigma.tolist() for scale in detector.scales]
    np.testing.assert_allclose(amplitudes, [[1, 1], [0.2, 0.3], [0.1, 0.4]])
    assert torch.equal(detector.images, official.reals[-1])
    assert detector.image_names == ["official image 1", "official image 2"]
    assert detector.history == []
    assert detector.sample(3, seed=1).shape == (3, 3, 20, 20)


@pytest.mark.parametrize(
    "reals",
    [
        None,
        torch.zeros(K, 3, 20, 20),
        [torch.zeros(K, 3, 20, 20), torch.zeros(K, 3, 14, 14)],
        [torch.full((K, 3, 20, 20), 255.0)],
        [torch.full((K, 3, 20, 20), torch.nan)],
    ],
    ids=["none", "no list", "finest first", "8 bits", "nan"],
)
def test_without_images_they_are_rebuilt(official, tmp_path, reals):
    folder = official.write(tmp_path / "official", reals=False)
    if reals is not None:
        torch.save(reals, folder / "reals.pth")
    detector = import_official(folder, SIZE)
    assert torch.equal(detector.images, detector.reconstruct().clamp(-1, 1))
    assert not torch.equal(detector.images[0], detector.images[1])


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
    detector = import_official(folder, SIZE, file)  # before the one in the folder
    assert detector.config.transformations == tuple(map(tuple, other))
    shutil.copy(file, folder / f"transformations{file.suffix}")
    if kind != "json":
        (folder / "transformations.json").unlink()
    assert import_official(folder, SIZE).config == detector.config


def test_a_saved_import_is_the_same(folder, photos, tmp_path):
    detector = import_official(str(folder), SIZE)
    assert detector.sides != detector.config.sides
    detector.save(tmp_path / "model")
    loaded = HTDGDetector.load(tmp_path / "model", device="cpu")
    one, two = scale_tensors(detector.scales), scale_tensors(loaded.scales)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert loaded.sides == SIDES
    assert loaded.config == detector.config
    assert loaded.transformations == detector.transformations
    assert torch.equal(loaded.images, detector.images)
    assert np.array_equal(loaded.score_scales(photos), detector.score_scales(photos))
    assert torch.equal(loaded.sample(2, seed=3), detector.sample(2, seed=3))


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
        detector = import_official(folder, size)
        assert detector.images.shape == (1, 3, size, size)
        assert detector.sides == (12, 13, 14, 15, 16)
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
        "Zs.pth is a tensor of shape (1, 3, 27, 27), but must be noise (1, 3, side + 10",
    ),
    "noise not square": (
        change("Zs.pth", lambda z: changed(z, 1, z[1][..., :-1])),
        "Entry 1 of",
    ),
    "noise of several channels": (
        change("Zs.pth", lambda z: changed(z, 0, z[0] * torch.tensor([1, 2, 3]).view(3, 1, 1))),
        "the same in every channel",
    ),
    "noise no tensor": (change("Zs.pth", lambda z: changed(z, 2, "z")), "is a str, but must be"),
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
        "Entry 0 of",
    ),
    "amplitude text": (
        change("NoiseAmp.pth", lambda a: changed(a, 0, "one")),
        "is a str, but must be a finite amplitude",
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
        "has transformations.json and transformations.npy: say which one it is",
    ),
    "list damaged": (text("transformations.json", "[[0,"), "transformations.json is damaged"),
    "list of nothing": (rows([]), "transformations.json holds a list of 0, but must be"),
    "list no list": (rows("rgb54"), "transformations.json holds a str, but must be a list of rows"),
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


def one_sentence(error):
    """No line breaks, no full stop within, one at the end."""
    said = str(error)
    return "\n" not in said and said.endswith(".") and not re.search(r"\. [A-Z]", said)


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_a_sentence(case, folder):
    damage, said = REFUSED[case]
    damage(folder)
    with pytest.raises(ModelError) as refused:
        import_official(folder, SIZE)
    assert said in str(refused.value)
    assert str(folder) in str(refused.value)
    assert one_sentence(refused.value)


def test_image_sizes_that_do_not_fit(folder):
    with pytest.raises(ModelError, match=r"20 20 20 channels wide, .* give image_size 20\.") as no:
        import_official(folder)  # 128
    assert one_sentence(no.value)
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
    assert one_sentence(refused.value)
    assert not sprung.exists()
    if not bare:  # the trap is one: read the careless way, it snaps
        torch.load(folder / name, weights_only=False)
        assert sprung.is_dir()


def test_code_in_an_array_is_refused_and_does_not_run(folder, tmp_path):
    sprung = tmp_path / "sprung"
    np.save(tmp_path / "list.npy", np.array([Trap(sprung), 0], dtype=object), allow_pickle=True)
    with pytest.raises(ModelError, match=r"list\.npy is damaged, or holds objects"):
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


def test_the_command_writes_a_model(folder, photos, tmp_path, capsys):
    model, listed = tmp_path / "deep" / "model", tmp_path / "list.json"
    (folder / "transformations.json").rename(listed)
    words = ["import-official", str(folder), str(model), "--image-size", "20"]
    words += ["--transformations", str(listed)]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{model}\n"
    assert shown.err == ""
    expected = import_official(folder, SIZE, listed).anomaly_score(photos)
    found = HTDGDetector.load(model, device="cpu").anomaly_score(photos)
    assert np.array_equal(found, expected)
    assert main(["info", str(model)]) == 0
    assert "imported from the official code" in capsys.readouterr().out
    # It is replaced on request only.
    assert main(words) == 2
    assert "model is there already: choose another MODEL or --overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("missing model", "missing is no folder"),
        ("official model", "give image_size 20."),
        ("official model --image-size -1", "Option image_size is -1"),
        ("official model --image-size 20 --transformations gone.npy", "gone.npy is not there"),
        ("official official --overwrite", "official is there and is no htdg model"),
        ("official official/Zs.pth/model", "model cannot be written"),
    ],
)
def test_the_command_tells_mistakes(words, said, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder.parent)
    before = sorted(folder.parent.rglob("*"))
    assert main(["import-official", *words.split()]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert said in shown.err
    assert sorted(folder.parent.rglob("*")) == before
