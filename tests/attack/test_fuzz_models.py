"""Model directories that are damaged, or made to harm: a model that scores, or one sentence.

Somebody who makes a model to harm signs it as htdg does, so most of what is tried here is signed
anew: the digest keeps out accidents alone.
"""

import copy
import hashlib
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from htdg import HTDGDetector
from htdg.commands.cli import main
from htdg.io.model_directory import description_text, digest
from tests.attack.profile import (
    EDITS,
    HOSTILE,
    SHARES,
    accepted_or_refused,
    check_refusal,
    edited,
    places,
    replace_at,
    tries,
)

FILES = ("config.json", "history.json", "weights.safetensors")
KINDS = ("votes", "both", "distance", "no_generator", "real_or_generated", "mse")
#: Seconds that reading a model may take, as long as it is small.
SECONDS = 1.0
#: The image that every model scores which is accepted.
IMAGE = np.random.default_rng(0).integers(0, 256, (22, 26, 3), dtype=np.uint8)


class Models(dict[str, dict[str, bytes]]):
    """The files of a model of every kind: its name -> name of the file -> content."""

    def __repr__(self) -> str:
        """Short, since it is written for every input that fails."""
        return "models"


@pytest.fixture(scope="module")
def models(brick, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    contents = Models()
    for kind in KINDS:
        options: dict[str, object] = {"niter": 1, "max_size": 16}
        if kind in ("both", "distance"):
            options |= dict(evidence=kind, distance_min_size=14, distance_max_size=14)
        elif kind != "votes":
            options |= dict(method=kind)
        model = HTDGDetector("tiny", **options).fit(brick[0][0][:24, :24], progress=False)
        if kind in ("votes", "both"):
            model.calibrate([image[:24, :24] for image in brick[1][:2]])
        model.save(folder / kind)
        contents[kind] = {name: (folder / kind / name).read_bytes() for name in FILES}
    return contents


@contextmanager
def directory(files: dict[str, bytes]) -> Iterator[Path]:
    """A folder with these files."""
    with tempfile.TemporaryDirectory(prefix="htdg-attack-") as name:
        for file, content in files.items():
            (Path(name) / file).write_bytes(content)
        yield Path(name)


def check(files: dict[str, bytes]) -> None:
    """The model is refused or scores; ``htdg info`` says the same of it."""
    with directory(files) as folder:
        with accepted_or_refused(SECONDS) as refusals:
            model = HTDGDetector.load(folder, device="cpu")
        if not refusals:
            with accepted_or_refused(30):
                score = model.anomaly_score(IMAGE)[0]
                assert 0 <= score <= 1
            with accepted_or_refused(30):
                if model.threshold_ is not None:
                    assert np.isin(model.predict(IMAGE), (-1, 1)).all()
        code, errors = info(folder)
        assert code == (2 if refusals else 0), errors
        if code:
            assert errors.startswith("htdg: ")
            check_refusal(errors.removesuffix("\n"))


def info(folder: Path) -> tuple[int, str]:
    """The exit code of ``htdg info``, and what it wrote to standard error."""
    # As the command line sets the streams of a process of its own.
    out, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace") for _ in range(2))
    with redirect_stdout(out), redirect_stderr(errors):
        code = main(["info", str(folder)])
    errors.flush()
    return code, errors.buffer.getvalue().decode()


def signed(files: dict[str, bytes], described: dict[str, object]) -> dict[str, bytes]:
    """The files with another description, signed as htdg does."""
    described = {name: value for name, value in described.items() if name != "digest"}
    return files | {"config.json": description_text(described).encode()}


def with_history(files: dict[str, bytes], text: str) -> dict[str, bytes]:
    """The files with another history, signed."""
    described = json.loads(files["config.json"])
    described["history"] = hashlib.sha256(text.encode()).hexdigest()
    return signed(files, described) | {"history.json": text.encode()}


def with_tensors(files: dict[str, bytes], tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    """The files with other tensors, signed."""
    described = json.loads(files["config.json"])
    described["tensors"] = {name: digest(tensor) for name, tensor in tensors.items()}
    return signed(files, described) | {"weights.safetensors": safetensors.torch.save(tensors)}


def test_the_models_that_are_changed_are_good_ones(models):
    for files in models.values():
        check(files)
        with directory(files) as folder:
            assert info(folder) == (0, "")


@tries(60)
@given(kind=st.sampled_from(KINDS), file=st.sampled_from(FILES), edits=EDITS, begin=st.booleans())
def test_bytes_are_changed(models, kind, file, edits, begin):
    files = dict(models[kind])
    files[file] = edited(files[file], edits, 4000 if begin else None)
    check(files)


@st.composite
def json_changes(draw):
    """Changes of values of a JSON document: shares of all its places, and what comes there."""
    change = st.tuples(SHARES, HOSTILE | st.just(...) | st.just(copy))
    return draw(st.lists(change, min_size=1, max_size=3))


def changed(document, changes, keep=()):
    """The document with these changes; ``keep`` names what is not to be changed."""
    document = copy.deepcopy(document)
    for share, value in changes:
        paths = [path for path in places(document) if path[0] not in keep]
        if not paths:
            return document
        heads = list(dict.fromkeys(path[0] for path in paths))  # of which one has most places
        head, share = divmod(share * len(heads), 1)
        paths = [path for path in paths if path[0] == heads[int(head)]]
        path = paths[int(share * len(paths))]
        if value is copy:  # of another place
            other = paths[(7 * int(share * len(paths)) + 3) % len(paths)]
            value = document
            for key in other:
                value = value[key]
        replace_at(document, path, value)
    return document


@tries(100)
@given(
    kind=st.sampled_from(("votes", "both", *KINDS)),
    changes=json_changes(),
    sign=st.booleans() | st.just(True),
)
def test_values_of_the_description_are_changed(models, kind, changes, sign):
    files = models[kind]
    described = changed(json.loads(files["config.json"]), changes, keep=("tensors", "digest"))
    if sign:
        check(signed(files, described))
    else:
        check(files | {"config.json": json.dumps(described).encode()})


@tries(40)
@given(kind=st.sampled_from(["votes", "both"]), changes=json_changes())
def test_values_of_the_threshold_are_changed(models, kind, changes):
    described = json.loads(models[kind]["config.json"])
    threshold = changed({"threshold": described["threshold"]}, changes)
    check(signed(models[kind], described | threshold))


@tries(40)
@given(kind=st.sampled_from(KINDS), changes=json_changes())
def test_values_of_the_history_are_changed(models, kind, changes):
    history = [json.loads(models[kind]["history.json"])]
    check(with_history(models[kind], json.dumps(changed(history, changes)[0:1] or 0)[1:-1]))


DTYPES = [
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.float8_e5m2,
]
TENSOR_CHANGES = st.lists(
    st.tuples(
        SHARES,
        st.sampled_from(["type", "shape", "flat", "scalar", "empty", "drop", "name", "add", "fill"])
        | st.just("fill"),
        st.sampled_from(DTYPES),
        st.sampled_from([0.0, -1.0, 1e-38, 1e20, 3e38, -3e38, float("nan"), float("inf"), 0.5]),
    ),
    min_size=1,
    max_size=3,
)


@tries(50)
@given(kind=st.sampled_from(KINDS), changes=TENSOR_CHANGES)
def test_tensors_are_changed(models, kind, changes):
    tensors = safetensors.torch.load(models[kind]["weights.safetensors"])
    for share, what, dtype, value in changes:
        names = sorted(tensors)
        if not names:
            break
        name = names[min(int(share * len(names)), len(names) - 1)]
        tensor = tensors[name]
        if what == "type":
            tensors[name] = tensor.to(dtype)
        elif what == "shape":
            tensors[name] = tensor[None].contiguous()
        elif what == "flat":
            tensors[name] = tensor.flatten()
        elif what == "scalar":
            tensors[name] = torch.tensor(value)
        elif what == "empty":
            tensors[name] = torch.empty(0, *tensor.shape[1:])
        elif what == "drop":
            del tensors[name]
        elif what == "name":
            tensors[name[:-1] + "\n"] = tensors.pop(name)
        elif what == "add":
            tensors[f"scale9.{name}"] = tensor.clone()
        elif tensor.is_floating_point() and dtype == torch.float64:
            tensors[name] = torch.full_like(tensor, value)
        elif tensor.is_floating_point() and tensor.numel():
            tensor.view(-1)[int(share * 1000) % tensor.numel()] = value
    check(with_tensors(models[kind], tensors))


@tries(60)
@given(kind=st.sampled_from(KINDS), changes=json_changes())
def test_the_list_of_tensors_is_changed(models, kind, changes):
    """The description that a file of weights begins with; the digests follow if they can."""
    content = models[kind]["weights.safetensors"]
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(changed(json.loads(content[8 : 8 + size]), changes)).encode()
    weights = len(header).to_bytes(8, "little") + header + content[8 + size :]
    try:
        files = with_tensors(models[kind], safetensors.torch.load(weights))
    except Exception:  # it cannot be read at all
        files = dict(models[kind])
    check(files | {"weights.safetensors": weights})


# --- What was once accepted, or ended in a traceback ---------------------------------------------


def with_values(**values):
    """A change of the description: a path with ``__`` between its keys -> the value there."""

    def change(files):
        described = json.loads(files["config.json"])
        for path, value in values.items():
            replace_at(described, tuple(path.split("__")), value)
        return signed(files, described)

    return change


def with_brackets(depth):
    def change(files):
        text = files["config.json"].decode().rstrip().removesuffix("}")
        return files | {"config.json": f'{text}, "x": {"[" * depth}{"]" * depth}}}'.encode()}

    return change


def with_tensor(name, tensor):
    def change(files):
        tensors = safetensors.torch.load(files["weights.safetensors"])
        return with_tensors(files, tensors | {name: tensor})

    return change


def with_header(header):
    return lambda files: (
        files
        | {"weights.safetensors": len(header).to_bytes(8, "little") + header.encode() + bytes(8)}
    )


def with_size(file, size):
    return lambda files: files | {file: b"[" + b"[]," * (size // 3) + b"0]"}


VARIANCE = "scale0.discriminator.blocks.0.norm.running_var"
CASES = [
    (with_values(training_images=[1]), "the names of its training images are no list of texts"),
    (with_values(training_images="abc"), "the names of its training images are no list of texts"),
    (with_values(threshold__least="x"), "its threshold has least 'x', which is not in [0, 1]"),
    (with_values(threshold__median=float("nan")), "its threshold has median nan"),
    (with_values(threshold__greatest=10**400), "its threshold has greatest 1000000"),
    (with_values(threshold__mean_vote=[1]), "its threshold has mean_vote [1]"),
    (with_values(threshold__limit=3), "its threshold has no name of an image"),
    (with_values(threshold__defect_fraction=[0.1, 0.2]), "several defect fractions"),
    (
        with_values(threshold__source="set by hand", threshold__false_positive_rate="x"),
        "its threshold has false_positive_rate 'x'",
    ),
    (
        with_values(transformations=[[0, 0, 0, 0, k + 0.0] for k in range(4)]),
        "its transformations are no whole numbers",
    ),
    (with_values(transformations=[[0, 0, 0, 0, 0]] * 4), "or has one of them twice"),
    (with_values(transformations=[]), "its list of transformations is empty"),
    (with_values(sides=[0] * 100_000), "its pyramid plan is [0, 0, 0, 0, 0, "),
    (with_values(config__seed="x" * 100_000), "Option seed is 'xxxxxxxxxxxx"),
    (with_brackets(2000), "is nested too deeply"),
    (with_tensor("a\nb", torch.zeros(1)), "has a tensor called a\\nb: it is no htdg model."),
    (with_tensor("a" * 100_000, torch.zeros(1)), "aaa...: it is no htdg model."),
    (with_tensor(VARIANCE, torch.ones(8).cfloat()), "has type torch.complex64 instead of float32"),
    (with_tensor(VARIANCE, torch.ones(8).bool()), "has type torch.bool instead of float32"),
    (with_header('{"a": "' + "x" * 5000 + '"}'), "weights.safetensors is damaged (Error while"),
    (with_size("config.json", 2**24), "bytes, more than 16,777,216)"),
    (with_size("history.json", 2**26), "bytes, more than 67,108,864)"),
]


@pytest.mark.parametrize(("change", "sentence"), CASES)
def test_what_was_once_accepted_is_refused(models, change, sentence):
    files = change(models["votes"])
    check(files)
    with directory(files) as folder, accepted_or_refused() as refusals:
        HTDGDetector.load(folder, device="cpu")
    assert sentence in str(refusals[0])


def test_names_of_images_do_not_rule_the_terminal(models, capsys):
    named = with_values(training_images=["a\x1b[2Jb\ud800"], trained_on="\x1b[31m")
    with directory(named(models["votes"])) as folder:
        assert main(["info", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert r"a\x1b[2Jb\ud800" in shown
    assert "\x1b" not in shown
