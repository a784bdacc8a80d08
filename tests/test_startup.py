"""What commands import: whoever scores one image does not wait for what draws and measures.

No times are held here, but the names in ``sys.modules`` once a command is done.
``benchmarks.startup`` measures what they cost.
"""

import json
import os
import re
import subprocess
import sys

import pytest
from PIL import Image

from htdg.commands import cli

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


def test_training_waits_for_no_compiler(place, monkeypatch):
    """PyTorch's own Adam imports one, with SymPy and half of ``torch.distributed``."""
    monkeypatch.chdir(place)
    words = ("train", "a.png", "--out", "trained", "--preset", "tiny", "--niter", "1")
    code, names, _ = modules_after(*words)
    assert code == 0
    assert "htdg.fitting" in names
    assert names & {"matplotlib", "sympy", "torch._dynamo", "torch._inductor"} == set()


def test_adam_and_its_state_wait_for_none():
    """So that neither a checkpoint nor a training that goes on does."""
    script = """
import sys, torch
from htdg.fast.adam import Adam
weights = torch.ones(2, requires_grad=True)
for _ in range(2):
    adam = Adam([weights], 0.1)
    adam.zero_grad()
    weights.sum().backward()
    adam.step()
    adam.load_state_dict(adam.state_dict())
print("torch._dynamo" in sys.modules, weights.tolist())
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    compiled, first, _ = ran.stdout.split(maxsplit=2)
    assert compiled == "False"
    assert float(first.strip("[,")) == pytest.approx(0.8)


def test_garbage_is_collected_while_a_command_runs(place, monkeypatch):
    """It is not while libraries are imported, whose objects are frozen then."""
    monkeypatch.chdir(place)
    _, _, (enabled, frozen) = modules_after("score", "model", "a.png")
    assert enabled
    assert frozen > 50_000  # of PyTorch


def spins_of(*words, **variables):
    """What OpenMP (there may be several) read as PyTorch was imported, in a process of its own."""
    unset = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    ran = subprocess.run(
        [sys.executable, *map(str, words)],
        env={**environment, "OMP_DISPLAY_ENV": "verbose", **variables},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0
    return set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", ran.stderr))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="GCC's OpenMP")
def test_threads_of_commands_sleep_soon_unless_the_user_says_otherwise(place):
    command = ("-m", "htdg", "info", place / "model")
    assert spins_of(*command) == {cli.SPINS} == {"1000"}
    assert spins_of(*command, GOMP_SPINCOUNT="777") == {"777"}
    assert cli.SPINS not in spins_of(*command, OMP_WAIT_POLICY="passive")
    # The library leaves the process as it is.
    usual = spins_of("-c", "import torch")
    assert usual
    assert spins_of("-c", "import htdg.detector, htdg.commands.cli") == usual
    assert cli.SPINS not in usual
