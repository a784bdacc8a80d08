"""Models on disk: nothing lost, nothing half-written, nothing altered unnoticed, no code inside."""

import ast
import hashlib
import json
import os
import platform
import shutil
import struct
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

import htdg
from htdg import ConfigError, HTDGConfig, HTDGDetector, ModelError
from htdg.commands.cli import main
from htdg.fast import native
from htdg.fast.choice import describe_training
from htdg.io import folders, model_directory
from htdg.io.files import OutputError, check_writable, write_text
from htdg.io.model_directory import (
    description_text,
    digest,
    load_model,
    read_directory,
    save_model,
    scale_tensors,
)
from htdg.runtime.device import machine
from tests.models import QUIET, same_weights

FILES = ["config.json", "history.json", "weights.safetensors"]


@pytest.fixture
def saved(tiny, tmp_path):
    tiny.save(tmp_path / "model")
    return tmp_path / "model"


def contents(folder):
    """Every file below a folder, hidden ones too: path -> bytes."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def layouts(detector):
    """How all weights lie in memory."""
    networks = [n for s in detector.scales_ for n in (s.generator, s.discriminator)]
    return [weight.stride() for network in networks for weight in network.parameters()]


# --- there and back -----------------------------------------------------------------------------


def test_a_loaded_model_is_the_saved_one(two, brick, tmp_path):
    """Two training images, so that everything with a K has more than one entry."""
    two.save(tmp_path / "m")
    loaded = HTDGDetector.load(tmp_path / "m", device="cpu")
    assert same_weights(loaded, two)
    assert layouts(loaded) == layouts(two)  # on which the last digits of convolutions can hang
    for fraction in (None, 0.1):
        expected = two.score_scales(brick[1], fraction)
        np.testing.assert_allclose(loaded.score_scales(brick[1], fraction), expected, atol=1e-12)
    assert torch.equal(loaded.reconstruct(), two.reconstruct())
    assert torch.equal(loaded.sample(3, seed=2), two.sample(3, seed=2))
    assert torch.equal(loaded.images_, two.images_)
    assert loaded.image_names_ == two.image_names_
    assert loaded.history_ == two.history_
    assert loaded.trained_with_ == two.trained_with_
    assert loaded.sides_ == two.sides_
    assert loaded.transformations_ == two.transformations_
    assert loaded.config_ == two.config_.with_options(device="cpu")


def test_a_state_is_saved_and_loaded_without_a_detector(two, brick, tmp_path):
    save_model(two.model_, tmp_path / "m")
    state = load_model(tmp_path / "m", "cpu")
    again = HTDGDetector.from_model(state)
    np.testing.assert_array_equal(again.score_samples(brick[1]), two.score_samples(brick[1]))
    with pytest.raises(FrozenInstanceError):
        state.threshold = None


def test_a_loaded_model_saves_the_same_files(two, tmp_path):
    two.save(tmp_path / "a")
    HTDGDetector.load(str(tmp_path / "a")).save(str(tmp_path / "deeper" / "b"))
    assert contents(tmp_path / "a") == contents(tmp_path / "deeper" / "b")


def test_transformations_of_ones_own_come_back(brick, tmp_path):
    rows = ((0, 0, 0, 0, 0), (0, 1, -1, 0, 3), (1, 0, 0, 1, 0))
    model = HTDGDetector("tiny", niter=1, transformations=rows, translation="pixel")
    model.fit(brick[0][0], **QUIET).save(tmp_path / "m")
    loaded = HTDGDetector.load(tmp_path / "m")
    assert loaded.config_.transformations == rows
    assert loaded.transformations_ == model.transformations_
    np.testing.assert_allclose(
        loaded.score_samples(brick[1]), model.score_samples(brick[1]), atol=1e-12
    )


def test_config_json_says_everything(tiny, saved):
    cpu = torch.device("cpu")
    described = json.loads((saved / "config.json").read_text())
    tensors = safetensors.torch.load_file(saved / "weights.safetensors")
    assert described.pop("tensors") == {name: digest(t) for name, t in tensors.items()}
    assert HTDGConfig(**described.pop("config")) == tiny.config_
    history = (saved / "history.json").read_bytes()
    digest_of_all = described.pop("digest")
    plain = json.loads((saved / "config.json").read_text())
    del plain["digest"]
    text = json.dumps(plain, sort_keys=True)
    assert digest_of_all == hashlib.sha256(text.encode()).hexdigest()
    assert described.pop("history") == hashlib.sha256(history).hexdigest()
    assert described == {
        "format": 5,
        "htdg": htdg.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "trained_on": "cpu",
        "machine": f"{machine(cpu)}, {describe_training(cpu, tiny.config_)}",
        "sides": [14, 16, 18, 20],
        "transformations": [[0, 0, 0, 0, k] for k in range(4)],
        "training_images": ["image 1"],
        "images_at_once": 1,
        "threshold": None,
    }
    assert set(tensors) == {*scale_tensors(tiny.scales_), "images"}


def test_a_model_says_what_its_last_digits_hang_on(brick, tmp_path, monkeypatch, capsys):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = HTDGDetector("tiny", niter=1).fit(brick[0][0], **QUIET).trained_with_["machine"]
        torch.set_num_threads(2)
        monkeypatch.setattr(native, "library", lambda: None)
        model = HTDGDetector("tiny", niter=1).fit(brick[0][0], **QUIET)
    finally:
        torch.set_num_threads(threads)
    assert ", 1 threads, with" in one
    two = model.trained_with_["machine"]
    assert two.endswith("2 threads, without compiled helpers")
    model.save(tmp_path / "model")
    assert HTDGDetector.load(tmp_path / "model").trained_with_["machine"] == two
    main(["info", str(tmp_path / "model")])
    assert two in capsys.readouterr().out
    monkeypatch.setattr(native, "library", object)  # there, but not asked for
    plain = HTDGDetector("tiny", niter=1, fast=False).fit(brick[0][0], **QUIET)
    assert plain.trained_with_["machine"].endswith("without compiled helpers")


def test_a_model_of_the_first_format_is_still_read(tiny, saved, brick):
    described = json.loads((saved / "config.json").read_text())
    for name in ("images_at_once", "threshold"):
        del described[name]
    for name in ("method", "images_at_once", "geom_samples", "geom_epochs"):
        del described["config"][name]
    del described["digest"]
    (saved / "config.json").write_text(json.dumps(described | {"format": 1}))
    again = HTDGDetector.load(saved, device="cpu")
    assert again.threshold_ is None
    assert again.anomaly_score(brick[1][0])[0] == tiny.anomaly_score(brick[1][0])[0]


def test_a_digest_by_hand():
    header, data = b"torch.float32 (1, 2) ", struct.pack("<2f", 1.0, -2.0)
    tensor = torch.tensor([[1.0, -2.0]])
    assert digest(tensor) == hashlib.sha256(header + data).hexdigest()
    others = [tensor.T, tensor.double(), tensor.view(torch.int32), -tensor, tensor[:, :1]]
    assert digest(tensor) not in {digest(t) for t in others}
    # What counts are the values, not how they lie in memory.
    assert digest(torch.tensor([[1.0], [-2.0]]).T) == digest(tensor)


# --- damaged and altered ------------------------------------------------------------------------


def flip_a_bit(model):
    """In the last byte of the weights: the file stays well-formed."""
    path = model / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut_short(model):
    path = model / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def change_tensors(change):
    def damage(model):
        tensors = safetensors.torch.load_file(model / "weights.safetensors")
        change(tensors)
        safetensors.torch.save_file(tensors, model / "weights.safetensors")

    return damage


def signed(change):
    """A change of the description by somebody who knows how to sign it."""

    def damage(model):
        path = model / "config.json"
        described = json.loads(path.read_text())
        del described["digest"]
        change(described)
        path.write_text(description_text(described))

    return damage


def unsigned(change):
    """A change of the description by hand."""

    def damage(model):
        path = model / "config.json"
        described = json.loads(path.read_text())
        change(described)
        path.write_text(json.dumps(described))

    return damage


def edit(**changes):
    return signed(lambda described: described.update(changes))


def set_option(**options):
    return signed(lambda described: described["config"].update(options))


def forget(key):
    return signed(lambda described: described.pop(key))


def set_tensors(change):
    """A change of the weights by somebody who knows how to sign them."""

    def damage(model):
        change_tensors(change)(model)
        tensors = safetensors.torch.load_file(model / "weights.safetensors")
        digests = {name: digest(tensor) for name, tensor in tensors.items()}
        edit(tensors=digests)(model)

    return damage


def set_history(history):
    def damage(model):
        text = json.dumps(history)
        (model / "history.json").write_text(text)
        edit(history=hashlib.sha256(text.encode()).hexdigest())(model)

    return damage


def pipe(name):
    def damage(model):
        (model / name).unlink()
        os.mkfifo(model / name)

    return damage


def one_value(name, value):
    return lambda tensors: tensors[name].view(-1)[:1].fill_(value)


VARIANCE = "scale0.discriminator.blocks.0.norm.running_var"
BIAS = "scale0.discriminator.blocks.0.norm.bias"


def replace_by_a_file(model):
    shutil.rmtree(model)
    model.write_text("weights")


DAMAGE = [
    (flip_a_bit, "is not the one that was saved: copy the model again."),
    (change_tensors(lambda t: t.update(extra=torch.ones(1))), "Tensor extra in "),
    (change_tensors(lambda t: t.pop("images")), "has no tensor images: copy it again."),
    (change_tensors(lambda t: t.update(images=t["images"].double())), "Tensor images in "),
    (change_tensors(lambda t: t.update(images=t["images"][..., :-1].clone())), "Tensor images in "),
    (change_tensors(dict.clear), "has no tensor images"),
    (lambda m: (m / "weights.safetensors").write_bytes(b""), "weights.safetensors is damaged ("),
    (lambda m: (m / "weights.safetensors").write_bytes(b"PK" * 50), "weights.safetensors is dam"),
    (cut_short, "weights.safetensors is damaged ("),
    (lambda m: (m / "weights.safetensors").unlink(), "has no weights.safetensors: copy the model"),
    (lambda m: (m / "config.json").unlink(), "has no config.json: it is no htdg model directory."),
    (shutil.rmtree, "has no config.json: it is no htdg model directory."),
    (edit(format=6), "has model format 6, but this htdg reads up to 5: update htdg."),
    (edit(format=10**30), "but this htdg reads up to 5: update htdg."),
    (edit(format="1"), "has no format number: it is no htdg model."),
    (lambda m: (m / "config.json").write_text("[1]"), "has no format number"),
    (lambda m: (m / "config.json").write_text('{"format": 1'), "config.json cannot be read ("),
    (lambda m: (m / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json cannot be read ("),
    (lambda m: (m / "history.json").write_text("["), "history.json cannot be read ("),
    (lambda m: (m / "history.json").write_text("[1]"), "history.json is not the one that was"),
    (replace_by_a_file, "is a file, but a model is a directory."),
    (forget("tensors"), "is not the one that was saved"),
    (forget("config"), "is no complete htdg model"),
    (forget("sides"), "is no complete htdg model"),
    (forget("transformations"), "is no complete htdg model"),
    (edit(config=[]), "is no complete htdg model"),
    (
        edit(sides=[14, 16, 18]),
        "tensor scale3.discriminator.blocks.0.conv.bias does not follow from its options.",
    ),
    (edit(sides=[14, 16, 18, 21]), "scale3.z_star does not follow from its options."),
    (edit(sides=[16, 14, 18, 20]), "its pyramid plan is [16, 14, 18, 20]."),
    (edit(sides=[9, 16, 18, 20]), "its pyramid plan is [9, 16, 18, 20]."),
    (edit(sides=[14, 16, 16, 20]), "its pyramid plan is [14, 16, 16, 20]."),
    (edit(sides="14"), "its pyramid plan is '14'."),
    (edit(threshold=[1]), "is no complete htdg model"),
    (set_option(lr_d=-1), "Option lr_d is -1, but it must be"),
    (set_option(seed=None), "Option seed is None, but it must be"),
    (set_option(transformations="rgb55"), "Option transformations is 'rgb55', but it must be"),
    (set_option(layers=4), "is no complete htdg model"),
    (set_option(channels=16), "is no complete htdg model"),
    (set_option(speed=9), "unexpected keyword argument 'speed'"),
    (edit(transformations=[[0, 0, 0, 0, 0]]), "is no complete htdg model"),
    (edit(transformations=[[0, 0, 0, 0, 9]]), "Transformation k is 9"),
    (edit(tensors=[]), "htdg model"),
    (edit(format=0), "format"),
    # Altered by hand: the model would give other scores.
    (unsigned(lambda d: d["transformations"].reverse()), "config.json is not the one that was sav"),
    (unsigned(lambda d: d["config"].update(image_size=24)), "config.json is not the one that was"),
    (unsigned(lambda d: d.update(threshold=None, sides=[])), "config.json is not the one that was"),
    (unsigned(lambda d: d.pop("digest")), "config.json is not the one that was saved"),
    # Signed, and yet no model.
    (set_option(image_size=24), "its training images have shape (1, 3, 20, 20)."),
    (set_tensors(one_value(VARIANCE, np.nan)), f"tensor {VARIANCE} holds values that are not"),
    (set_tensors(one_value(VARIANCE, np.inf)), f"tensor {VARIANCE} holds values that are not"),
    (set_tensors(one_value(VARIANCE, -1)), f"tensor {VARIANCE} holds negative variances."),
    (set_tensors(one_value("images", np.nan)), "tensor images holds values that are not finite."),
    (set_tensors(lambda t: t.update(bank=torch.arange(9))), "bank does not follow from its opt"),
    (set_tensors(one_value("images", 3)), "its training images are no floats in [-1, 1]."),
    (set_tensors(lambda t: t.update({BIAS: t[BIAS].bfloat16()})), "has type torch.bfloat16 inst"),
    (
        set_tensors(lambda t: t.update({BIAS: t[BIAS].to(torch.float8_e4m3fn)})),
        "has type torch.float8_e4m3fn instead of float32.",
    ),
    (set_history([{"seconds": "x"}]), "its history has no seconds for a scale."),
    (set_history([[]]), "its history has no seconds for a scale."),
    (edit(images_at_once=float("inf")), "is no complete htdg model"),
    (lambda m: (m / "config.json").write_text("[" * 100_000), "config.json is nested too deeply"),
    (pipe("config.json"), "config.json cannot be read (it is no regular file)."),
    (pipe("weights.safetensors"), "weights.safetensors is damaged (it is no regular file)."),
]


@pytest.mark.parametrize(("damage", "sentence"), DAMAGE)
def test_a_damaged_model_gets_one_sentence(damage, sentence, saved):
    damage(saved)
    with pytest.raises((ModelError, ConfigError)) as refused:
        HTDGDetector.load(saved)
    text = str(refused.value)
    assert sentence in text
    assert text.endswith(".")
    assert "\n" not in text
    assert ". " not in text.replace(str(saved), "").replace("HTDGConfig.__init__", "")


def test_every_tensor_is_watched(saved):
    """Whatever one value is changed, its name is called."""
    loaded = safetensors.torch.load_file(saved / "weights.safetensors")
    # Older versions of safetensors map the file, which is written over below.
    tensors = {name: tensor.clone() for name, tensor in loaded.items()}
    for name in list(tensors)[:: max(1, len(tensors) // 12)]:
        altered = {k: t.clone() for k, t in tensors.items()}
        altered[name].view(-1)[-1] += 1
        safetensors.torch.save_file(altered, saved / "weights.safetensors")
        with pytest.raises(ModelError, match=f"^Tensor {name} in "):
            read_directory(saved)


def test_a_model_without_its_history_still_scores(tiny, saved, brick):
    (saved / "history.json").unlink()
    loaded = HTDGDetector.load(saved)
    np.testing.assert_array_equal(loaded.score_samples(brick[1]), tiny.score_samples(brick[1]))
    assert loaded.history_ == []


# --- writing ------------------------------------------------------------------------------------


def test_another_model_is_replaced_whole(two, saved, tmp_path):
    (saved / "notes.txt").write_text("about the old model")
    two.save(saved)
    assert sorted(p.name for p in saved.iterdir()) == FILES
    assert HTDGDetector.load(saved).config_.seed == 1
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["cat.txt", ".hidden", "config.json", "deep/config.json"])
def test_a_folder_of_something_else_is_left_alone(tiny, name, tmp_path):
    path = tmp_path / "photos" / name
    path.parent.mkdir(parents=True)
    path.write_text("meow")
    before = contents(tmp_path)
    with pytest.raises(ModelError, match="photos is there and is no htdg model: choose another"):
        tiny.save(tmp_path / "photos")
    assert contents(tmp_path) == before


def test_a_file_is_not_overwritten(tiny, tmp_path):
    (tmp_path / "model").write_text("a file")
    with pytest.raises(ModelError, match="is there and is no htdg model"):
        tiny.save(tmp_path / "model")
    assert contents(tmp_path) == {"model": b"a file"}


def test_an_empty_folder_is_filled_and_parents_are_made(tiny, tmp_path):
    (tmp_path / "empty").mkdir()
    for place in ("empty", "some/where/else"):
        tiny.save(tmp_path / place)
        assert sorted(p.name for p in (tmp_path / place).iterdir()) == FILES


def test_what_a_killed_program_left_behind_is_cleared_away(tiny, tmp_path):
    others = [".model.v2.123.tmp", ".two.123.tmp"]
    for name in (".model.123.tmp", *others):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.safetensors").write_text("half")
    tiny.save(tmp_path / "model")
    # Other models' temporary folders may be in use.
    assert sorted(p.name for p in tmp_path.iterdir()) == [*others, "model"]


def fail_to_save_tensors(monkeypatch, error):
    def save_file(tensors, path):
        Path(path).write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(model_directory.safetensors.torch, "save_file", save_file)


def fail_to_write(name):
    """The disk is full when the file called ``name`` is written."""

    def fail(monkeypatch, error):
        write = Path.write_text

        def write_text(self, text, **how):
            if self.name == name:
                raise error
            return write(self, text, **how)

        monkeypatch.setattr(Path, "write_text", write_text)

    return fail


def fail_to_rename(number):
    """The ``number``-th rename goes wrong: 1 puts the old model aside, 2 the new one in place."""

    def fail(monkeypatch, error):
        monkeypatch.setattr(folders, "exchange", lambda *_: False)  # as on other systems
        rename, calls = Path.rename, []

        def rename_or_fail(self, target):
            calls.append(target)
            if len(calls) == number:
                raise error
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", rename_or_fail)

    return fail


FULL = OSError(28, "No space left on device")
FAILURES = [
    pytest.param(fail_to_save_tensors, FULL, id="weights"),
    pytest.param(
        fail_to_save_tensors,
        SafetensorError("I/O error: No space left on device"),
        id="weights, as safetensors says it",
    ),
    pytest.param(fail_to_write("history.json"), FULL, id="history"),
    pytest.param(fail_to_write("config.json"), FULL, id="config"),
    pytest.param(fail_to_rename(1), FULL, id="first rename"),
    pytest.param(fail_to_rename(2), FULL, id="second rename"),
]


@pytest.mark.parametrize(("fail", "error"), FAILURES)
def test_a_failure_leaves_the_old_model_and_nothing_else(fail, error, two, saved, monkeypatch):
    before = contents(saved.parent)
    with monkeypatch.context() as patch:
        fail(patch, error)
        with pytest.raises(ModelError, match=r"model cannot be written: .*No space left"):
            two.save(saved)
    assert contents(saved.parent) == before
    assert [p.name for p in saved.parent.iterdir()] == ["model"]
    HTDGDetector.load(saved)


@pytest.mark.parametrize("error", [FULL, SafetensorError("full"), KeyboardInterrupt()])
def test_a_first_save_that_fails_leaves_nothing(error, tiny, tmp_path, monkeypatch):
    fail_to_save_tensors(monkeypatch, error)
    with pytest.raises((ModelError, SafetensorError, KeyboardInterrupt)):
        tiny.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_text_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "made" / "scores.csv"
    write_text(path, "old\n")
    write_text(path, "new\n")
    assert contents(tmp_path) == {"made/scores.csv": b"new\n"}
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(FULL))
    with pytest.raises(OutputError, match=r"scores\.csv cannot be written: No space left"):
        write_text(path, "newer\n")
    assert contents(tmp_path) == {"made/scores.csv": b"new\n"}


def test_places_that_cannot_be_written_are_known_beforehand(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file/x cannot be written"):
        check_writable(tmp_path / "file" / "x")
    check_writable(tmp_path / "x")
    assert not (tmp_path / "x").exists()
    monkeypatch.setattr(model_directory.os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(OutputError, match="x cannot be written: no permission for "):
        check_writable(tmp_path / "x")


# --- no code inside -----------------------------------------------------------------------------


def test_a_model_holds_no_pickle(saved, tiny, brick, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    HTDGDetector("tiny", niter=1).fit(brick[0][0], checkpoint=checkpoint, **QUIET)
    for folder in (saved, checkpoint):
        assert sorted(p.name for p in folder.iterdir()) == FILES
        for name in ("config.json", "history.json"):
            json.loads((folder / name).read_text())
        # safetensors: the length of a JSON header, the header, and then plain numbers.
        data = (folder / "weights.safetensors").read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        assert max(t["data_offsets"][1] for t in header.values()) == len(data) - 8 - length


def test_the_package_never_unpickles():
    forbidden = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve"}
    for path in Path(htdg.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            imported = set()
            if isinstance(node, ast.Import):
                imported = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported = {(node.module or "").split(".")[0], *(a.name for a in node.names)}
            assert not imported & forbidden, f"{path}:{node.lineno}"
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called != "torch.save", f"{path}:{node.lineno}"
                safe = "weights_only=True" in ast.unparse(node)  # tensors and plain containers
                assert called != "torch.load" or safe, f"{path}:{node.lineno}"
                assert "allow_pickle=True" not in ast.unparse(node), f"{path}:{node.lineno}"
