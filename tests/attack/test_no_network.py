"""No socket is opened unless a download was asked for.

Python tells a hook of every socket that is made, connected or bound, and of every name that is
looked up; not of those of compiled libraries. The hook stays for the rest of a process, hence a
process of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import importlib, json, pkgutil, sys
from pathlib import Path

seen = []

def watch(event, arguments):
    if event.startswith("socket."):
        seen.append(event)
        raise ConnectionRefusedError(event)  # so that the download goes nowhere, either

sys.addaudithook(watch)

import htdg
from htdg.commands.cli import main
from htdg.datasets import DatasetError, load_dataset

textures, out = map(Path, sys.argv[1:])
modules = [m.name for m in pkgutil.walk_packages(htdg.__path__, "htdg.")]
for name in modules:
    if name != "htdg.__main__":  # is the command line, which runs below
        importlib.import_module(name)
photos = [str(path) for path in sorted((textures / "brick/test").rglob("*.png"))[:3]]
good = [str(path) for path in sorted((textures / "brick/train").rglob("*.png"))[:1]]
model, data = str(out / "model"), ["--data-root", str(textures.parent), "--normal-class", "brick"]
codes = [
    main(words.split("\\n"))
    for words in map("\\n".join, (
        ["train", *good, "--out", model, "--preset", "tiny", "--niter", "1"],
        ["score", model, *photos, "--csv", str(out / "scores.csv"), "--maps", str(out / "maps")],
        ["calibrate", model, *photos],
        ["info", model],
        ["evaluate", "--dataset", "textures", *data, "--limit-per-kind", "1", "--model", model,
         "--out", str(out / "run")],
    ))
]
before = list(seen)
try:
    load_dataset("mnist", out / "data")
    refused = ""
except DatasetError as error:
    refused = str(error)
found = {"modules": modules, "codes": codes, "before": before, "after": seen[len(before):],
         "refused": refused}
(out / "found.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the hook saw in a process that uses htdg, and then asks for a download."""
    out = tmp_path_factory.mktemp("no_network")
    words = [sys.executable, "-c", SCRIPT, str(ROOT / "data" / "textures"), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "found.json").read_text())


def test_no_socket_is_opened_unless_a_download_was_asked_for(found):
    assert found["codes"] == [0] * 5
    assert {"htdg.detector", "htdg.datasets.mnist", "htdg.course.files"} <= set(found["modules"])
    assert found["before"] == []


def test_the_hook_sees_a_download_that_was_asked_for(found):
    assert "socket.getaddrinfo" in found["after"]
    assert "could not be downloaded (no connection to " in found["refused"]
