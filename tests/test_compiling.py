"""How the compiled helpers are built and loaded, or done without; every variant is right."""

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from htdg.fast import compiling, native

compiled = pytest.mark.skipif(
    native.library() is None, reason="no C compiler here: PyTorch's operations are used"
)
ROOT = Path(__file__).parents[1]


@pytest.fixture
def nothing_loaded():
    """As in a process that has not asked for the helpers yet."""
    cached = native._library, native.warn_if_missing
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


def run(*words, **variables):
    """What a Python of its own prints, run from the repository."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- Without them --------------------------------------------------------------------------------


def no_home():
    raise RuntimeError("Could not determine home directory.")


def test_they_can_be_turned_off(monkeypatch, nothing_loaded, capsys):
    monkeypatch.setenv("HTDG_KERNELS", "0")
    assert native.library() is None
    native.warn_if_missing()
    assert capsys.readouterr().err == ""


@compiled
@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        ("no compiler", "there is no C compiler"),
        ("failing compiler", "the C compiler fails"),
        ("no place", "cache/htdg: Not a directory"),
        ("other system", ""),
        ("nobody's home", "Could not determine home directory."),
        ("others may write", "others may write into"),
        ("no such processor", "HTDG_MARCH is abacus, which the C compiler does not know"),
        ("no OpenMP", "there is no OpenMP runtime (libgomp.so.1)"),
    ],
)
def test_without_a_compiler_nothing_is_compiled(
    problem, reason, monkeypatch, tmp_path, nothing_loaded, capsys
):
    monkeypatch.delenv("HTDG_KERNELS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if problem == "nobody's home":
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")
        monkeypatch.setattr(compiling.Path, "home", no_home)
    if problem == "others may write":
        (tmp_path / "cache" / "htdg").mkdir(parents=True)
        (tmp_path / "cache" / "htdg").chmod(0o777)
    if problem == "no compiler":
        monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    if problem == "failing compiler":
        monkeypatch.setattr(compiling.shutil, "which", lambda name: "/bin/false")
    if problem == "no place":
        (tmp_path / "cache").write_text("in the way")
    if problem == "other system":
        monkeypatch.setattr(native.sys, "platform", "win32")
    if problem == "no such processor":
        monkeypatch.setenv("HTDG_MARCH", "abacus")
    if problem == "no OpenMP":
        openmp(monkeypatch, bundled=[], loaded=[])
    assert native.library() is None
    assert native.missing().startswith(reason) or problem == "no place"
    assert not list(tmp_path.rglob("*.so"))
    for _ in range(2):  # but says so once
        native.warn_if_missing()
    message = capsys.readouterr().err
    assert reason in message if reason else message == ""
    assert message.count("\n") == bool(reason)
    assert ("amplifies differences in rounding" in message) == bool(reason)
    # And everything goes on with PyTorch's operations.
    assert not native.usable(torch.ones(2, 3))


@compiled
def test_they_are_compiled_once_and_leave_nothing_else(monkeypatch, tmp_path, nothing_loaded):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.library() is not None
    (target,) = (path for path in tmp_path.rglob("*") if path.is_file())
    written = target.stat().st_mtime_ns
    native._library.cache_clear()
    assert native.library() is not None
    assert target.stat().st_mtime_ns == written


# --- One OpenMP for PyTorch and for them ----------------------------------------------------------


def openmp(monkeypatch, bundled, loaded, installed=()):
    """Let there be just these OpenMP runtimes; a list of what was tried is returned."""
    tried, glob = [], compiling.Path.glob

    def find(self, pattern, **options):
        if "libgomp" not in str(pattern):  # rglob comes here since Python 3.13
            return glob(self, pattern, **options)
        return [p for p in bundled if Path(p).match(pattern)]

    def load(name, mode=0):
        tried.append(name)
        there = name in loaded or (name in installed and not mode & os.RTLD_NOLOAD)
        assert mode & ctypes.RTLD_GLOBAL
        if name not in map(str, bundled) and not there:
            raise OSError

    monkeypatch.setattr(compiling.ctypes, "CDLL", load)
    monkeypatch.setattr(compiling.Path, "glob", find)
    return tried


@pytest.mark.parametrize(
    ("there", "used"),
    [
        # A wheel's comes first, whatever else there is.
        ({"bundled": ["lib/libgomp.so.1"], "loaded": ["libgomp.so.1"]}, "lib/libgomp.so.1"),
        (
            {"bundled": ["torch.libs/libgomp-1a2b.so.1.0.0"], "loaded": []},
            "torch.libs/libgomp-1a2b.so.1.0.0",
        ),
        # Then what PyTorch has loaded, in the place of one that nobody uses.
        ({"bundled": [], "loaded": ["libiomp5.so"], "installed": ["libgomp.so.1"]}, "libiomp5.so"),
        ({"bundled": [], "loaded": ["libomp.so.5"]}, "libomp.so.5"),
        ({"bundled": [], "loaded": [], "installed": ["libgomp.so.1"]}, "libgomp.so.1"),
    ],
)
def test_which_openmp_is_shared(there, used, monkeypatch):
    tried = openmp(monkeypatch, **there)
    compiling.share_openmp()
    assert tried[-1] == used


WITHOUT_A_BUNDLED_ONE = """
from pathlib import Path
import torch
from htdg.fast import native

whole = Path.glob
Path.glob = lambda self, pattern: iter(()) if "libgomp" in pattern else whole(self, pattern)
assert native.library() is not None, native.missing()
x = torch.randn(1000, 32)
(mean, *_), _ = native.normalise([x], [None], [1000], *torch.ones(2, 32), 1e-5, 0.2)
torch.testing.assert_close(mean, x.mean(0), atol=1e-6, rtol=0)
lines = Path("/proc/self/maps").read_text().splitlines()
print(*{Path(line.split()[-1]).resolve() for line in lines if "omp" in line and ".so" in line})
"""


@compiled
def test_they_load_where_pytorch_brings_no_openmp():
    """Next to the one that PyTorch has loaded no second one, whose threads would compete."""
    (runtime,) = run("-c", WITHOUT_A_BUNDLED_ONE).split()
    assert re.match(r"lib(g|i|)omp", Path(runtime).name)


# --- Other processors ----------------------------------------------------------------------------


def lacking(march):
    """Why no helpers for this processor can be tried here; empty where they can."""
    words = compiling.processor().split()
    if words[0] not in ("x86_64", "AMD64"):
        return "these are x86 processors"
    if march == "haswell" and not {"avx2", "fma"} <= set(words):
        return "this processor has no AVX2"
    return ""


@compiled
@pytest.mark.parametrize("march", ["haswell", "x86-64"])
def test_other_variants_pass_the_same_tests(march):
    """AVX2 and plain C, each in a process of its own; this one has what HTDG_MARCH says."""
    if reason := lacking(march):
        pytest.skip(reason)
    files = ["tests/test_native.py", "tests/test_convolution.py"]
    options = ["--noconftest", "-q", "-p", "no:cacheprovider", "-p", "no:nbval"]
    report = run("-m", "pytest", *options, *files, HTDG_MARCH=march)
    passed = int(re.search(r"(\d+) passed", report)[1])
    assert passed > (220 if march == "x86-64" else 260)  # plain C has no convolutions


@compiled
def test_a_processor_that_this_one_is_not_is_refused(monkeypatch, tmp_path, nothing_loaded):
    """Helpers for it would be killed by an illegal instruction."""
    if lacking("x86-64"):
        pytest.skip(lacking("x86-64"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HTDG_MARCH", "haswell")
    whole = compiling._instruction_sets
    monkeypatch.setattr(
        compiling,
        "_instruction_sets",
        lambda compiler, march: whole(compiler, "x86-64" if march == "native" else march),
    )
    assert native.library() is None
    assert re.match("HTDG_MARCH is haswell, but this processor lacks AVX, AVX2,", native.missing())
    assert not list(tmp_path.rglob("*.so"))
