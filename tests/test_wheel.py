"""The wheel has all that a student needs: built, installed outside of the repository, and used."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COURSE = "htdg/course/material"


def run(words, folder, **environment):
    """The standard output of a command, run elsewhere and knowing nothing of the repository."""
    inherited = {n: v for n, v in os.environ.items() if not n.startswith(("PYTHON", "COV_"))}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the repository: building in it would leave files there."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in ("htdg", "notebooks", "docs", "data/textures"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", built)
    run([sys.executable, "-m", "pip", "wheel", source, *options], source)
    (path,) = built.iterdir()
    return path


@pytest.fixture(scope="module")
def files(wheel):
    """The wheel's files and their contents."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A new environment with the wheel, and a way to run its programs in another folder.

    The packages that htdg needs are those of the environment that runs the tests.
    """
    folder = tmp_path_factory.mktemp("environment")
    home = tmp_path_factory.mktemp("home")
    run([sys.executable, "-m", "venv", "--without-pip", folder], home)
    places = {"base": str(folder), "platbase": str(folder)}
    python = Path(sysconfig.get_path("scripts", "venv", places)) / "python"
    packages = Path(sysconfig.get_path("purelib", "venv", places))
    # A path in a .pth file is searched last, and .pth files found there are not read: neither an
    # editable nor another installed htdg can stand in for the wheel's.
    others = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "packages_of_the_tests.pth").write_text("".join(f"{p}\n" for p in others))
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index")
    run([*pip, "--no-cache-dir", wheel], home)

    environment = {
        "HOME": str(home),
        "JUPYTER_DATA_DIR": str(home / "jupyter"),  # no kernel that a user has installed
        "JUPYTER_PATH": str(Path(sys.prefix) / "share" / "jupyter"),  # templates of pages
    }

    def execute(name, *words, within=home):
        return run([python.parent / name, *words], within, **environment)

    where = execute("python", "-c", "import htdg; print(htdg.__file__)")
    assert Path(where.strip()).is_relative_to(packages)
    return execute


def test_the_wheel_has_the_course_without_outputs(files):
    for path in sorted((ROOT / "notebooks").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        packed = json.loads(files[f"{COURSE}/notebooks/{path.relative_to(ROOT / 'notebooks')}"])
        cells = [cell for cell in packed["cells"] if cell["cell_type"] == "code"]
        assert [(c["outputs"], c["execution_count"]) for c in cells] == [([], None)] * len(cells)
        original = json.loads(path.read_text())
        assert packed["metadata"] == original["metadata"]
        for one, other in zip(packed["cells"], original["cells"], strict=True):
            assert one["metadata"] == other["metadata"]
            assert "".join(one["source"]) == re.sub(
                r"\]\(\.\./(\.\./)?docs/", r"](\1docs/", "".join(other["source"])
            )
    assert f"{COURSE}/notebooks/README.md" in files
    assert f"{COURSE}/notebooks/figures/ranking.png" in files
    assert b"# Specification" in files[f"{COURSE}/notebooks/docs/specification.md"]
    assert b"# Glossary" in files[f"{COURSE}/notebooks/docs/glossary.md"]


def test_the_wheel_has_the_textures_the_c_sources_and_the_mark_of_types(files):
    textures = ROOT / "data" / "textures"
    for path in textures.rglob("*.png"):
        name = f"{COURSE}/data/textures/{path.relative_to(textures).as_posix()}"
        assert files[name] == path.read_bytes()
    assert {"htdg/fast/kernels.c", "htdg/fast/winograd.c", "htdg/py.typed"} <= set(files)
    assert {f"htdg/course/patch_votes.{part}" for part in ("css", "html", "js")} <= set(files)
    assert {name.split("/")[0] for name in files} == {"htdg", "htdg-0.1.0.dist-info"}
    packed = {name for name in files if name.endswith(".py")}
    assert packed == {p.relative_to(ROOT).as_posix() for p in (ROOT / "htdg").rglob("*.py")}


def test_the_course_is_laid_out_and_its_quickstart_runs(installed, tmp_path):
    printed = installed("htdg", "course", "my course", within=tmp_path)
    assert printed.endswith("open it with: jupyter lab 'my course/00_quickstart.ipynb'\n")
    assert (tmp_path / "my course" / "solutions" / "06_few_shots_and_ablations.ipynb").is_file()
    words = ("run", "00_quickstart", "--out", "results", "-p", "niter", "3")
    printed = installed("htdg", *words, within=tmp_path)
    assert printed.splitlines()[-1] == "look at: results/00_quickstart.html"
    result = json.loads((tmp_path / "results" / "result.json").read_text())
    assert result["texture"] == "brick"
    assert 0 <= result["image_auroc"] <= 1
    page = (tmp_path / "results" / "00_quickstart.html").read_text()
    assert "image AUROC" in page
    assert "data:image/png;base64," in page
