"""The command line as a user meets it: results against Python, help, mistakes, broken-off runs.

``test_defect_commands`` has maps, thresholds and samples of other sizes, ``test_notebook_run`` and
``test_course_folder`` the commands ``run`` and ``course``.
"""

import csv
import dataclasses
import io
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from htdg import HTDGConfig, HTDGDetector
from htdg.commands.cli import COMMANDS, build_parser, main
from htdg.commands.common import config_from
from htdg.io.images import to_uint8
from htdg.training import ScaleTraining
from tests.models import QUIET, same_weights

NAMES = [command.name for command in COMMANDS]
TINY = ["--preset", "tiny"]
# As many threads as the tests have: sums in another order round differently.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def htdg(*words, **how):
    """Run the command in a process of its own, as a shell would."""
    command = [sys.executable, "-m", "htdg", *map(str, words)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, **how)


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture(scope="module")
def place(tiny, brick, tmp_path_factory):
    """A folder that no test changes: a model, training images, and photos to score."""
    root = tmp_path_factory.mktemp("place")
    tiny.save(root / "model")
    for name, image in zip(("good", "good2"), brick[0], strict=True):
        Image.fromarray(image).save(root / f"{name}.png")
    photos = root / "photos"
    (photos / "more").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "only_text").mkdir()
    for i, image in enumerate(brick[1][:3]):
        Image.fromarray(image).save(photos / f"{i}.png")
    Image.fromarray(brick[1][3]).save(photos / "more" / "a, b.jpg", quality=95)
    (photos / "notes.txt").write_text("three of them are blurred")
    (photos / "broken.png").write_text("I am not a picture")
    (root / "only_text" / "notes.txt").write_text("no pictures here")
    cut = (root / "good.png").read_bytes()[:2000]
    (root / "cut.png").write_bytes(cut)
    Image.new("L", (30, 30), 7).save(root / "flat.png")
    Image.new("L", (1, 1), 7).save(root / "dot.png")
    return root


@pytest.fixture
def here(place, tmp_path, monkeypatch):
    """An empty working directory, so that nothing is written unnoticed."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- train and score ----------------------------------------------------------------------------


def test_scores_are_those_of_python_in_every_column(place, here):
    trained = htdg("train", place / "good.png", "--out", "m", *TINY, cwd=here)
    assert trained.returncode == 0
    assert trained.stdout == "m\n"
    scored = htdg("score", "m", place / "photos", "--csv", "tables/scores.csv", cwd=here)
    assert scored.returncode == 1  # one of the images is broken
    assert scored.stdout == "tables/scores.csv\n"
    model = HTDGDetector("tiny").fit(place / "good.png", **QUIET)
    photos = place / "photos"
    paths = [*(photos / f"{i}.png" for i in range(3)), photos / "more" / "a, b.jpg"]
    rows = rows_of((here / "tables" / "scores.csv").read_text())
    broken = [row for row in rows if row["problem"]]
    assert [row["image"] for row in broken] == [str(photos / "broken.png")]
    assert {v for k, v in broken[0].items() if k not in ("image", "problem")} == {""}
    assert "broken.png is no image that can be read" in broken[0]["problem"]
    rows = [row for row in rows if not row.pop("problem")]
    assert [row.pop("image") for row in rows] == [str(p) for p in paths]
    expected = model.anomaly_score(paths)
    per_scale = 1 - model.score_scales(paths) / 4
    for i, row in enumerate(rows):
        assert list(row) == ["anomaly_score", *(f"scale_{n}" for n in range(4))]
        values = [float(v) for v in row.values()]
        np.testing.assert_allclose(values, [expected[i], *per_scale[i]], atol=1e-6)
    # What was passed over is named; a pipe gets no carriage returns.
    assert f"htdg: {photos / 'notes.txt'} is no image: skipped.\n" in scored.stderr
    assert scored.stderr.endswith(
        "htdg: 1 of 5 images cannot be read: the column problem says why.\n"
    )
    assert "\r" not in trained.stderr + scored.stderr
    assert "4 scales of 3 iterations trained in" in trained.stderr
    assert sorted(p.name for p in here.iterdir()) == ["m", "tables"]
    files = ["config.json", "history.json", "weights.safetensors"]
    assert sorted(p.name for p in (here / "m").iterdir()) == files


def test_several_training_images(place, here):
    images = [str(place / "good.png"), str(place / "good2.png")]
    assert main(["train", *images, "--out", "m", *TINY, "--niter", "1"]) == 0
    expected = HTDGDetector("tiny", niter=1).fit(images, **QUIET)
    loaded = HTDGDetector.load("m")
    assert same_weights(loaded, expected)
    assert loaded.image_names_ == images


def test_a_folder_trains_on_its_images(place, here, capsys):
    (here / "good").mkdir()
    for name in ("good.png", "good2.png"):
        (here / "good" / name).write_bytes((place / name).read_bytes())
    assert main(["train", "good", "--out", "m", *TINY, "--niter", "1"]) == 0
    assert HTDGDetector.load("m").image_names_ == ["good/good.png", "good/good2.png"]
    assert "htdg: 2 images train; the time grows with their number." in capsys.readouterr().err


def test_options_of_the_command_line_reach_the_model(place, here):
    words = ["train", str(place / "good.png"), "--out", "m", *TINY]
    words += [
        "--niter",
        "1",
        "--lr-d",
        "1e-3",
        "--translation",
        "pixel",
        "--seed",
        "4",
        "--no-fast",
    ]
    assert main(words) == 0
    config = HTDGDetector.load("m").config_.with_options(device="auto")
    options = {"niter": 1, "lr_d": 1e-3, "translation": "pixel", "seed": 4, "fast": False}
    assert config == HTDGConfig.preset("tiny", **options)


@pytest.mark.parametrize("options", [[], ["--batch-size", "1"], ["--defect-fraction", "0.2"]])
def test_score_on_the_screen_in_the_order_given(options, place, tiny, capsys):
    paths = [str(place / "photos" / f"{i}.png") for i in (2, 0)]
    assert main(["score", str(place / "model"), *paths, *options]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert [row["image"] for row in rows] == paths
    fraction = 0.2 if "--defect-fraction" in options else None
    expected = tiny.anomaly_score(paths, fraction)
    np.testing.assert_allclose([float(r["anomaly_score"]) for r in rows], expected, atol=1e-6)


#: For every option a value that no preset has.
OPTIONS = {
    "image_size": 30,
    "min_size": 13,
    "max_size": 21,
    "scale_factor": 0.8,
    "transformations": "grey42",
    "translation": "pixel",
    "channels": 5,
    "layers": 4,
    "niter": 7,
    "d_steps": 2,
    "g_steps": 4,
    "lr_d": 0.01,
    "lr_g": 0.02,
    "beta1": 0.6,
    "beta2": 0.9,
    "milestone_d": 3,
    "milestone_g": 4,
    "gamma": 0.5,
    "alpha": 50.0,
    "noise_amplitude": 0.3,
    "seed": 9,
    "device": "cpu",
    "precision": "bf16",
    "method": "geom",
    "images_at_once": 2,
    "evidence": "votes",
    "distance_min_size": 26,
    "distance_max_size": 27,
    "patch_side": 5,
    "patch_constant": 0.2,
    "high_pass": 1.5,
    "search_radius": 0.3,
    "geom_samples": 11,
    "geom_epochs": 3,
    "tiles": True,
    "white_level": 4095,
    "fast": False,
}


def test_every_option_of_the_method_is_an_option_of_the_command_line():
    assert set(OPTIONS) == {f.name for f in dataclasses.fields(HTDGConfig)}
    words = ["train", "x.png", "--out", "m"]
    for name, value in OPTIONS.items():
        flag = name.replace("_", "-")
        flags = {True: [f"--{flag}"], False: [f"--no-{flag}"]}
        words += flags[value] if isinstance(value, bool) else [f"--{flag}", str(value)]
    config = config_from(build_parser().parse_args(words))
    assert config.as_dict() == OPTIONS
    # Those left out are the preset's.
    few = build_parser().parse_args(["train", "x.png", "--out", "m", *TINY, "--seed", "9"])
    assert config_from(few) == HTDGConfig.preset("tiny", seed=9)


def test_transformations_of_ones_own_are_a_list_in_json():
    words = ["train", "x.png", "--out", "m", "--transformations", "[[0,0,0,0,0],[1,0,0,0,2]]"]
    config = config_from(build_parser().parse_args(words))
    assert config.transformations == ((0, 0, 0, 0, 0), (1, 0, 0, 0, 2))


def test_another_model_is_replaced_only_on_request(place, here):
    words = ["train", str(place / "good.png"), "--out", "m", *TINY, "--niter", "1"]
    assert main(words) == 0
    assert main([*words, "--seed", "1"]) == 2
    assert HTDGDetector.load("m").config_.seed == 0
    assert main([*words, "--seed", "1", "--overwrite"]) == 0
    assert HTDGDetector.load("m").config_.seed == 1
    assert [p.name for p in here.iterdir()] == ["m"]


# --- help ---------------------------------------------------------------------------------------


def test_help_of_the_whole_says_what_each_command_is_for():
    words = " ".join(build_parser().format_help().split())
    for command, purpose in {
        "train": "Train a model on one or a few normal images.",
        "score": "Anomaly scores in [0, 1] of images or folders",
        "calibrate": "Choose the anomaly score from which on images are called anomalous",
        "sample": "Draw random images from a model",
        "info": "Say what a model is and how it was trained.",
        "evaluate": "Train on a data set's normal images, score its test images",
        "import-official": "Make a model of one that was trained with the official code.",
        "run": "Execute a notebook of the course",
        "course": "Copy the course's notebooks into a folder of your own",
    }.items():
        assert command in NAMES
        assert f" {command} {purpose}" in words


@pytest.mark.parametrize("command", NAMES)
def test_the_example_in_the_help_is_a_valid_command(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    example = text.split("example:\n")[1].replace("\\\n", " ").split()
    assert example[:2] == ["htdg", command]
    options = build_parser().parse_args(example[1:])
    assert callable(options.execute)
    if command in ("train", "evaluate"):
        config_from(options)
        for name in OPTIONS:
            assert f"--{name.replace('_', '-')} " in text


# --- mistakes -----------------------------------------------------------------------------------


MISTAKES = [
    ("train missing.png --out m", "missing.png is not there: check the path."),
    ("train {0}/empty --out m", "empty holds no image: name a folder with images in it."),
    ("train {0}/photos/broken.png --out m", "broken.png is no image that can be read"),
    ("train {0}/cut.png --out m", "cut.png is damaged or cannot be read"),
    ("train {0}/flat.png --out m", "flat.png is one flat colour, nothing to learn from"),
    ("train {0}/dot.png --out m", "dot.png is 1 x 1 pixels, too small"),
    ("train {0}/good.png --out {0}/model", "model is there already: choose another --out"),
    ("train {0}/good.png --out {0}/photos --overwrite", "photos is there and is no htdg model"),
    ("train {0}/good.png --out {0}/good.png/m", "m cannot be written"),
    ("train {0}/good.png --out m --niter 0", "Option niter is 0, but it must be"),
    ("train {0}/good.png --out m --lr-d nan", "Option lr_d is nan, but it must be"),
    ("train {0}/good.png --out m --beta1 1", "Option beta1 is 1.0, but it must be"),
    ("train {0}/good.png --out m --min-size 5", "Option min_size is 5, but it must be above the"),
    ("train {0}/good.png --out m --precision f8", "Option precision is 'f8', but it must be"),
    ("train {0}/good.png --out m --device tpu", "Option device is 'tpu', but it must be"),
    (
        "train {0}/good.png --out m --device cuda:77",
        "Option device is 'cuda:77', but PyTorch finds",
    ),
    ("train {0}/good.png --out m --transformations all", "Option transformations is 'all', but it"),
    ("train {0}/good.png --out m --lr-d 4e9 --lr-g 4e9", "The training diverged at 14 pixels"),
    ("train {0}/good.png --out m --transformations [[0,0,0,0,9]]", "Option transformations is [[0"),
    ("train {0}/good.png --out m --transformations [[0,", "Option transformations is '[[0,', but"),
    ("train {0}/good.png --out m --seed -1", "Option seed is -1, but it must be"),
    ("score missing {0}/good.png", "missing has no config.json: it is no htdg model directory."),
    ("score {0}/photos {0}/good.png", "photos has no config.json: it is no htdg model directory."),
    ("score {0}/good.png {0}/good.png", "good.png is a file, but a model is a directory."),
    ("score {0}/model missing.png", "missing.png is not there: check the path."),
    ("score {0}/model {0}/cut.png", "cut.png is damaged or cannot be read"),
    ("score {0}/model {0}/empty", "empty holds no image: name a folder with images in it."),
    ("score {0}/model {0}/only_text", "only_text holds no image"),
    ("score {0}/model {0}/photos --strict", "is no image: remove it, or do not be strict."),
    ("score {0}/model {0}/good.png --defect-fraction 1.5", "defect_fraction is 1.5, but it"),
    ("score {0}/model {0}/good.png --defect-fraction 0", "defect_fraction is 0.0, but it must"),
    ("score {0}/model {0}/good.png --batch-size 0", "batch_size is 0, but it must be"),
    ("score {0}/model {0}/good.png --defect-fraction nan", "defect_fraction is nan, but it"),
    ("score {0}/model {0}/good.png --batch-size -1", "batch_size is -1, but it must be"),
    ("score {0}/model {0}/good.png --device tpu", "Option device is 'tpu', but it must be"),
    ("score {0}/model {0}/good.png --csv {0}/good.png/x.csv", "x.csv cannot be written"),
    ("score {0}/model {0}/good.png --csv {0}/photos", "photos is a folder: name a file."),
    ("sample {0}/model -n 0 --out s", "-n is 0, but it must be at least 1."),
    ("sample {0}/model --out {0}/good.png/s", "s cannot be a folder"),
    ("sample {0}/model --out s --seed -1", "The seed is -1, but it must be a whole number, at"),
    ("sample {0}/model --out s --seed 99999999999999999999", "no larger than 4294967295."),
    ("calibrate {0}/model", "A threshold needs normal images that did not train: name some, or a"),
    ("calibrate {0}/model {0}/good.png --generated", "Images are named, and --generated is given:"),
    ("calibrate missing {0}/good.png", "missing has no config.json"),
    ("sample missing --out s", "missing has no config.json"),
    ("info {0}/photos", "photos has no config.json"),
]


def check_mistake(arguments, sentence, place, here, capsys):
    before = sorted(str(p) for p in place.rglob("*"))
    words = arguments.format(place).split()
    words += TINY if words[0] == "train" else []
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    progress = r"scale \d/4 .*|scoring  .*|4 scales .*|htdg: .* skipped\."
    lines = [x for x in shown.err.splitlines() if not re.fullmatch(progress, x)]
    assert len(lines) == 1
    assert lines[0].startswith("htdg: ")
    assert lines[0].endswith(".")
    assert sentence in lines[0]
    assert not (here / "m").exists()
    return before


@pytest.mark.parametrize(("arguments", "sentence"), MISTAKES)
def test_a_mistake_gets_one_sentence_and_changes_nothing(arguments, sentence, place, here, capsys):
    before = check_mistake(arguments, sentence, place, here, capsys)
    if "--overwrite" not in arguments:  # for that one see below
        assert sorted(str(p) for p in place.rglob("*")) == before
        assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("train {0}/good.png --out . --overwrite", "htdg model"),
        ("sample {0}/model -n 1 --out taken", "sample_000.png"),
        ("info bad_history", "history.json"),
    ],
)
def test_rarer_mistakes_get_a_sentence_too(arguments, sentence, place, tiny, here, capsys):
    (here / "taken" / "sample_000.png").mkdir(parents=True)
    tiny.save(here / "bad_history")
    (here / "bad_history" / "history.json").write_text("[1]")
    check_mistake(arguments, sentence, place, here, capsys)


def test_a_foreign_folder_is_refused_before_training(place, here, capsys):
    (here / "mine").mkdir()
    (here / "mine" / "photo.txt").write_text("")
    assert main(["train", str(place / "good.png"), "--out", "mine", "--overwrite", *TINY]) == 2
    assert "trained in" not in capsys.readouterr().err


def test_a_refused_training_leaves_no_empty_folders(here):
    assert main(["train", "missing.png", "--out", "new/deep/model", *TINY]) == 2
    assert list(here.iterdir()) == []


def test_places_without_permission(place, here, capsys, monkeypatch):
    monkeypatch.setattr(
        "htdg.io.model_directory.os.access", lambda *_: False
    )  # root may write anywhere
    for words in (
        ["score", str(place / "model"), str(place / "good.png"), "--csv", "scores.csv"],
        ["train", str(place / "good.png"), "--out", "m"],
    ):
        assert main(words) == 2
        assert "cannot be written: no permission for" in capsys.readouterr().err
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["paint"],
        ["train"],
        ["train", "x.png"],
        ["train", "x.png", "--out", "m", "--preset", "fast"],
        ["train", "x.png", "--out", "m", "--niter", "many"],
        ["train", "x.png", "--out", "m", "--speed", "9"],
        ["score", "m"],
        ["sample", "m", "--out", "s", "-n", "few"],
        ["calibrate", "m", "--generated", "many"],
    ],
    ids=" ".join,
)
def test_wrong_usage_says_what_is_wrong_in_the_last_line(words, capsys):
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("usage: htdg")
    assert re.match(r"htdg.*: error: .+", shown.err.splitlines()[-1])


def test_a_mistake_shows_no_traceback_in_a_shell(here):
    wrong = htdg("train", "missing.png", "--out", "m", *TINY, cwd=here)
    assert wrong.returncode == 2
    assert wrong.stdout == ""
    assert wrong.stderr == "htdg: missing.png is not there: check the path.\n"


def test_a_reader_that_stops_reading_is_no_error(place, monkeypatch):
    def write(text):
        raise BrokenPipeError  # as in ``htdg score ... | head -1``

    monkeypatch.setattr("sys.stdout.write", write)
    assert main(["score", str(place / "model"), str(place / "good.png")]) == 141


def test_nothing_is_said_when_a_pipe_breaks(place):
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "htdg", "score", place / "model", place / "good.png"]
    ended = subprocess.run(
        words, env=ENVIRONMENT, stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert ended.returncode == 141
    assert "Broken" not in ended.stderr
    assert "Traceback" not in ended.stderr


# --- broken off ---------------------------------------------------------------------------------


def test_a_training_stopped_by_hand_goes_on_when_started_again(place, here, capsys, monkeypatch):
    step, done = ScaleTraining.step, []

    def step_then_stop(self):
        step(self)
        done.append(self.scale.side)
        if len(done) == 5:  # in the second of four scales
            raise KeyboardInterrupt

    words = ["train", str(place / "good.png"), "--out", "m", *TINY]
    monkeypatch.setattr(ScaleTraining, "step", step_then_stop)
    assert main(words) == 130
    assert capsys.readouterr().err.endswith(
        "htdg: stopped; a training or a watch goes on when started again.\n"
    )
    assert [p.name for p in here.iterdir()] == ["m.unfinished"]
    # The unfinished training is not for other options.
    assert main([*words, "--seed", "1"]) == 2
    assert "m.unfinished is an unfinished training with other options" in capsys.readouterr().err
    assert main(words) == 0
    assert "going on with m.unfinished" in capsys.readouterr().err
    assert done[5:] == [16] * 3 + [18] * 3 + [20] * 3  # the first scale was not trained again
    straight = HTDGDetector("tiny").fit(place / "good.png", **QUIET)
    assert same_weights(HTDGDetector.load("m"), straight)
    assert [p.name for p in here.iterdir()] == ["m"]


def test_a_killed_training_leaves_the_model_that_it_was_to_replace(place, tiny, here):
    out, unfinished = here / "m", here / "m.unfinished"
    tiny.save(out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    options = [*TINY, "--niter", "15", "--seed", "1", "--overwrite"]
    words = ["train", str(place / "good.png"), "--out", str(out), *options]
    quiet = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    command = [sys.executable, "-m", "htdg", *words]
    process = subprocess.Popen(command, env=ENVIRONMENT, **quiet)
    deadline = time.monotonic() + 60
    while not (unfinished / "config.json").exists():  # written after the first scale
        assert process.poll() is None, "it finished before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert main(words) == 0
    straight = HTDGDetector("tiny", niter=15, seed=1).fit(place / "good.png", **QUIET)
    assert same_weights(HTDGDetector.load(out), straight)
    assert [p.name for p in here.iterdir()] == ["m"]


# --- sample and info ----------------------------------------------------------------------------


def test_samples_are_those_of_python(place, tiny, here, capsys):
    out = here / "a" / "b"
    words = ["sample", str(place / "model"), "-n", "3", "--out", str(out), "--seed", "7"]
    assert main(words) == 0
    paths = [out / f"sample_00{i}.png" for i in range(3)]
    assert sorted(out.iterdir()) == paths
    assert capsys.readouterr().out.splitlines() == [str(p) for p in paths]
    expected = to_uint8(tiny.sample(3, seed=7))
    for path, image in zip(paths, expected, strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), image)
    assert main(["sample", str(place / "model"), "--out", str(here / "usual")]) == 0
    assert len(list((here / "usual").iterdir())) == 8


def test_info_names_every_fact(place, tiny, capsys):
    assert main(["info", str(place / "model")]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["model"] == f"{place / 'model'} (format 5)"
    assert lines["trained"] == "on       image 1"
    assert re.fullmatch(r"htdg \S+, torch \S+, on cpu in \d+ s", lines["with"])
    assert lines["scales"] == "14 16 18 20 pixels"
    assert lines["transformations"] == "4, translation resampled"
    for name, value in tiny.config_.as_dict().items():
        if name not in ("transformations", "translation"):
            assert lines[name] == str(value)
