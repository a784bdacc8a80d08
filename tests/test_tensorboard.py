"""What a training writes for TensorBoard, read back with TensorBoard's own reader."""

import sys

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from htdg import HTDGDetector
from htdg.commands.cli import main
from htdg.training import LOSSES

WORDS = ["--preset", "tiny", "--device", "cpu", "--niter", "2"]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, brick):
    """The folder of a training with --tensorboard, and its two images."""
    folder = tmp_path_factory.mktemp("tracked")
    for number, image in enumerate(brick[0]):
        Image.fromarray(image).save(folder / f"wall {number}.png")
    images = sorted(folder.glob("*.png"))
    words = [*map(str, images), "--out", str(folder / "model"), *WORDS]
    assert main(["train", *words, "--tensorboard", str(folder / "board")]) == 0
    return folder, images


@pytest.fixture(scope="module")
def read(tracked):
    accumulator = EventAccumulator(str(tracked[0] / "board"), {"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def test_losses_and_rates_are_those_of_the_model(tracked, read):
    model = HTDGDetector.load(tracked[0] / "model")
    assert len(model.history_) > 1
    for n, scale in enumerate(model.history_):
        for name in (*LOSSES, "lr_d", "lr_g"):
            events = read.Scalars(f"scale {n + 1} ({scale['side']} px)/{name}")
            assert [e.step for e in events] == [2 * n + 1, 2 * n + 2]
            np.testing.assert_allclose([e.value for e in events], scale[name], rtol=1e-6)


def test_images_and_maps_are_there(tracked, read):
    model, images = HTDGDetector.load(tracked[0] / "model"), tracked[1]
    wanted = {f"anomaly map/{path.name}" for path in images}
    shapes = {"random": 4, "rebuilt": 2, "training": 2}
    for n, side in enumerate(model.sides_):
        for kind, count in shapes.items():
            (event,) = read.Images(f"scale {n + 1} ({side} px)/{kind}")
            assert (event.height, event.width, event.step) == (side, count * side, 2 * (n + 1))
            wanted.add(f"scale {n + 1} ({side} px)/{kind}")
    assert set(read.Tags()["images"]) == wanted
    (event,) = read.Images(f"anomaly map/{images[0].name}")
    assert (event.height, event.width) == (96, 96)


def test_tracking_changes_nothing_about_the_training(tracked):
    folder, images = tracked
    out = folder / "without"
    assert main(["train", *map(str, images), "--out", str(out), *WORDS]) == 0
    weights = "weights.safetensors"
    assert (out / weights).read_bytes() == (folder / "model" / weights).read_bytes()


def test_a_missing_package_is_named(tracked, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    out = tmp_path / "model"
    words = [str(tracked[1][0]), "--out", str(out), *WORDS, "--tensorboard", str(tmp_path / "b")]
    assert main(["train", *words]) == 2
    assert "pip install 'htdg[tracking]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_refused(tracked, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    out, board = tmp_path / "model", tmp_path / "file" / "board"
    words = [str(tracked[1][0]), "--out", str(out), *WORDS, "--tensorboard", str(board)]
    assert main(["train", *words]) == 2
    assert f"--tensorboard {board} cannot be written" in capsys.readouterr().err
    assert not out.exists()


def test_images_of_one_name_have_a_map_each(brick, tmp_path):
    for folder, image in zip("ab", brick[0], strict=True):
        (tmp_path / "walls" / folder).mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / "walls" / folder / "wall.png")
    words = [str(tmp_path / "walls"), "--out", str(tmp_path / "model"), *WORDS]
    assert main(["train", *words, "--tensorboard", str(tmp_path / "board")]) == 0
    accumulator = EventAccumulator(str(tmp_path / "board"), {"images": 0})
    accumulator.Reload()
    maps = {tag for tag in accumulator.Tags()["images"] if tag.startswith("anomaly map/")}
    assert maps == {"anomaly map/a/wall.png", "anomaly map/b/wall.png"}
