"""What commands import: whoever scores one image does not wait for what draws and measures.

No times are held here, but the names in ``sys.modules`` once a command is done.
``benchmarks.startup`` measures what they cost.
"""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

#: The command line as a process of its own; then, on the last line, what is imported.
COMMAND = """
import gc, json, sys
from htdg.commands.cli import main
try:
    code = main()
except SystemExit as stopped:
    code = stopped.code
roots = sorted({name for name in sys.modules if name.count(".") < 2})
print(json.dumps([code or 0, roots, gc.isenabled(), gc.get_freeze_count()]))
"""
#: Libraries that take a tenth of a second and more.
HEAVY = ("matplotlib", "onnx", "onnxruntime", "pandas", "scipy", "skimage", "sklearn")
HEAVY += ("torch._dynamo", "torch._inductor", "torchvision", "distributed", "papermill", "IPython")


def modules_after(*words):
    """The exit code of a command, and the names of what it imported, to the second level."""
    ran = subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    code, names, *collector = json.loads(ran.stdout.splitlines()[-1])
    return code, set(names), collector


@pytest.fixture(scope="module")
def place(tiny, brick, tmp_path_factory):
    root = tmp_path_factory.mktemp("startup")
    tiny.save(root / "model")
    Image.fromarray(brick[1][0]).save(root / "a.png")
    return root


@pytest.mark.parametrize("word", ["--version", "--help"])
def test_version_and_help_import_no_library(word):
    code, names, _ = modules_after(word)
    assert code == 0
    assert "htdg.commands" in names
    assert names & {"torch", "numpy", "PIL", *HEAVY} == set()


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["score", "model", "a.png"], 0), (["info", "model"], 0), (["score", "nowhere", "a.png"], 2)],
)
def test_scoring_imports_only_what_it_computes_with(place, monkeypatch, words, expected):
    monkeypatch.chdir(place)
    code, names, _ = modules_after(*words)
    assert code == expected
    assert {"torch", "numpy", "PIL"} <= names
    assert names & {*HEAVY, "htdg.detector"} == set()


def test_maps_wait_for_matplotlib_alone(place, monkeypatch):
    monkeypatch.chdir(place)
    code, names, _ = modules_after("score", "model", "a.png", "--maps", "maps")
    assert code == 0
    assert "matplotlib" in names
    assert names & (set(HEAVY) - {"matplotlib", "scipy"} | {"scipy.stats"}) == set()


def test_garbage_is_collected_while_a_command_runs(place, monkeypatch):
    """It is not while libraries are imported, whose objects are frozen then."""
    monkeypatch.chdir(place)
    _, _, (enabled, frozen) = modules_after("score", "model", "a.png")
    assert enabled
    assert frozen > 50_000  # of PyTorch
