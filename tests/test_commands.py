"""The command line: train, score, sample, info; mistakes; and a training that was killed."""

import csv
import dataclasses
import io
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from htdg import HTDGConfig, HTDGDetector
from htdg.commands.cli import build_parser, main
from htdg.io.checkpoint import scale_tensors


@pytest.fixture
def photos(tmp_path, brick):
    """A folder of test images, one of them deeper, and a file that is no image."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for i, image in enumerate(brick[1]):
        Image.fromarray(image).save(folder / ("more" if i == 5 else "") / f"{i}.png")
    (folder / "notes.txt").write_text("three images are blurred")
    return folder


@pytest.fixture
def good(tmp_path, brick):
    path = tmp_path / "good.png"
    Image.fromarray(brick[0][0]).save(path)
    return path


@pytest.fixture
def model(tiny, tmp_path):
    tiny.save(tmp_path / "model")
    return tmp_path / "model"


def test_train_score_and_the_api_give_the_same_scores(good, photos, tiny, tmp_path, capsys):
    out, table = tmp_path / "trained", tmp_path / "tables" / "scores.csv"
    assert main(["train", str(good), "--out", str(out), "--preset", "tiny"]) == 0
    arguments = ["score", str(out), str(photos), "--csv", str(table), "--defect-fraction", "0.1"]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert f"htdg: {photos / 'notes.txt'} is no image: skipped." in said.err
    with table.open() as file:
        rows = list(csv.DictReader(file))
    paths = [photos / f"{i}.png" for i in range(5)] + [photos / "more" / "5.png"]
    assert [row["image"] for row in rows] == [str(p) for p in paths]
    # The session's detector was trained from Python on the same image with the same options.
    per_scale = 1 - tiny.score_scales(paths, 0.1) / 4
    for n in range(4):
        written = [float(row[f"scale_{n}"]) for row in rows]
        np.testing.assert_allclose(written, per_scale[:, n], atol=1e-6)
    written = [float(row["anomaly_score"]) for row in rows]
    np.testing.assert_allclose(written, tiny.anomaly_score(paths, 0.1), atol=1e-6)
    assert sorted(p.name for p in out.iterdir()) == [
        "config.json",
        "history.json",
        "weights.safetensors",
    ]
    assert not list(tmp_path.glob("*unfinished"))


def test_scores_go_to_the_screen_without_a_file(model, photos, capsys):
    assert main(["score", str(model), str(photos / "0.png")]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["image"] for row in rows] == [str(photos / "0.png")]


def test_options_of_the_command_line_reach_the_model(good, tmp_path):
    out = tmp_path / "m"
    given = ["--niter", "1", "--lr-d", "1e-3", "--translation", "pixel", "--seed", "4"]
    assert main(["train", str(good), "--out", str(out), "--preset", "tiny", *given]) == 0
    config = HTDGDetector.load(out).config.with_options(device="auto")
    assert config == HTDGConfig.preset("tiny", niter=1, lr_d=1e-3, translation="pixel", seed=4)


def test_every_command_shows_an_example_and_every_option(capsys):
    commands = build_parser()._subparsers._group_actions[0].choices
    names = {"train", "score", "calibrate", "sample", "info", "evaluate", "import-official", "run"}
    assert set(commands) == names
    for name in commands:
        with pytest.raises(SystemExit) as left:
            main([name, "--help"])
        assert left.value.code == 0
        text = capsys.readouterr().out
        assert f"example:\n  htdg {name} " in text
        if name in ("train", "evaluate"):
            for field in dataclasses.fields(HTDGConfig):
                assert f"--{field.name.replace('_', '-')} " in text


def test_samples_are_written_and_follow_their_seed(model, tmp_path):
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        arguments = ["sample", str(model), "-n", "2", "--out", str(tmp_path / out)]
        assert main([*arguments, "--seed", str(seed)]) == 0
    a, b, c = (
        [np.array(Image.open(tmp_path / out / f"sample_00{i}.png")) for i in (0, 1)]
        for out in "abc"
    )
    assert a[0].shape == (20, 20, 3)
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert len(list((tmp_path / "a").iterdir())) == 2


def test_info_tells_what_the_model_is(model, capsys):
    assert main(["info", str(model)]) == 0
    said = capsys.readouterr().out
    for fact in (
        "14 16 18 20 pixels",
        "image 1",
        "format 2",
        "niter            3",
        "4, translation",
    ):
        assert fact in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("train nowhere.png --out m", "nowhere.png is not there: check the path."),
        ("train {photos} --out m", "is a folder: name the image files to train on."),
        ("train {good} --out {model}", "is there already: choose another --out or --overwrite it."),
        ("train {good} --out m --niter 0", "Option niter is 0, but it must be"),
        ("train {good} --out m --transformations all", "Option transformations is 'all'"),
        ("train {good} --out m --device cuda:77", "Option device is 'cuda:77'"),
        ("train {photos}/notes.txt --out m", "notes.txt is no image that can be read"),
        ("train {good} --out {good}/m", "cannot be written"),
        ("score {model} nowhere.png", "nowhere.png is not there"),
        ("score {model} {empty}", "holds no image: name a folder with images in it."),
        ("score {model} {photos} --strict", "notes.txt is no image"),
        ("score {model} {photos} --defect-fraction 0", "defect_fraction is 0.0, but it must"),
        ("score {model} {photos} --batch-size 0", "batch_size is 0, but it must"),
        ("score {model} {photos} --csv {good}/x.csv", "x.csv cannot be written"),
        ("score {model} {good} --csv {photos}", "is a folder: name a file."),
        ("score {photos} {good}", "has no config.json: it is no htdg model directory."),
        ("score nowhere {good}", "nowhere has no config.json"),
        ("score {good} {good}", "is a file, but a model is a directory."),
        ("sample {model} -n 0 --out s", "-n is 0, but it must be at least 1."),
        ("sample {model} --out {good}", "cannot be a folder"),
        ("info nowhere", "nowhere has no config.json"),
    ],
)
def test_mistakes_get_one_sentence_and_exit_code_2(
    arguments, said, good, photos, model, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    places = {"good": good, "photos": photos, "model": model, "empty": tmp_path / "empty"}
    words = arguments.format(**places).split()
    if words[0] == "train":
        words += ["--preset", "tiny"]
    assert main(words) == 2
    progress = ("scale ", "scoring ", "4 scales")
    said_lines = capsys.readouterr().err.splitlines()
    lines = [x for x in said_lines if not x.startswith(progress) and not x.endswith("skipped.")]
    assert len(lines) == 1
    assert lines[0].startswith("htdg: ")
    assert said in lines[0]
    assert not (tmp_path / "m").exists()


def test_wrong_usage_exits_with_2(capsys):
    for words in (["train"], ["train", "x", "--out", "m", "--preset", "fast"], ["paint"]):
        with pytest.raises(SystemExit) as left:
            main(words)
        assert left.value.code == 2


def test_a_killed_training_leaves_no_model_and_goes_on(good, tmp_path):
    out, unfinished = tmp_path / "m", tmp_path / "m.unfinished"
    options = ["--preset", "tiny", "--niter", "40"]
    words = [sys.executable, "-m", "htdg", "train", str(good), "--out", str(out), *options]
    # As many threads as here: sums in another order round differently.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    quiet = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    process = subprocess.Popen(words, env=environment, **quiet)
    deadline = time.monotonic() + 120
    while not (unfinished / "config.json").exists():  # written after the first scale
        assert process.poll() is None, "it finished before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    assert main(words[3:]) == 0
    config = HTDGConfig.preset("tiny", niter=40)
    straight = HTDGDetector(config).fit(good, progress=False)
    resumed = HTDGDetector.load(out)
    one, two = scale_tensors(straight.scales), scale_tensors(resumed.scales)
    assert all((one[name] == two[name]).all() for name in one)
    assert not unfinished.exists()
