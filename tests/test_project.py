"""The repository's own promises: files in step with each other, and notebooks fit to be read."""

import ast
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from htdg import __version__
from tests.oldest import constraints

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(p for p in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_" not in str(p))


def test_environment_yml_installs_what_pyproject_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip = environment["dependencies"][0], environment["dependencies"][-1]
    assert pip == {"pip": ["-e .[notebooks,tests]"]}
    extras = project["optional-dependencies"]
    beside = {"export", "site", "sweep", "tracking"}
    assert set(extras) == {"browser", "datasets", "notebooks", "tests", *beside}
    # Neither lacks what another one brings.
    assert "htdg[datasets]" in extras["notebooks"]
    assert "htdg[datasets,export,sweep,tracking]" in extras["tests"]
    assert python.removeprefix("python=") == project["requires-python"].removeprefix(">=")


def test_oldest_versions_are_the_lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    written = {
        line
        for lines in (project["dependencies"], *project["optional-dependencies"].values())
        for line in lines
        if not line.startswith("htdg[")
    }
    assert {line.replace("==", ">=") for line in constraints(project)} == written
    for line in ("numpy", "numpy<2", "numpy>=1.26,<2"):
        with pytest.raises(ValueError, match=f"'{line}' has no lower bound"):
            constraints({**project, "dependencies": [line]})


#: Packages that are imported by another name than they are installed by.
DISTRIBUTIONS = {
    "IPython": "ipykernel",
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "dask": "distributed",
    "dask_jobqueue": "dask-jobqueue",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
}


def imported_packages(nodes):
    """The packages that imports among these nodes of a syntax tree need, without Python's own."""
    modules = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
    modules |= {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module}
    packages = {module.split(".")[0] for module in modules} - {"htdg"} - sys.stdlib_module_names
    return {DISTRIBUTIONS.get(package, package) for package in packages}


def test_dependencies_are_what_is_imported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    required, optional = (
        {re.match(r"[\w-]+", line)[0] for line in lines}
        for lines in (
            project["dependencies"],
            [
                line
                for name in ("datasets", "export", "notebooks", "sweep")
                for line in extras[name]
            ],
        )
    )
    everywhere = set()
    for path in (ROOT / "htdg").rglob("*.py"):
        tree = ast.parse(path.read_text())
        everywhere |= (anywhere := imported_packages(list(ast.walk(tree))))
        assert anywhere <= required | optional, path
        if path.parent.name != "course":  # needs the notebooks' packages, and belongs to them
            assert imported_packages(tree.body) <= required, path
    assert required <= everywhere


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project["version"] == citation["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_nothing_is_unpickled():
    for path in (ROOT / "htdg").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in getattr(node, "names", []) if isinstance(a, ast.alias)]
            assert "pickle" not in names, path
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and called.attr == "load":
                owner = getattr(called.value, "id", "")
                assert owner not in ("pickle", "joblib"), path
                if owner == "torch":  # tensors and plain containers, no objects with code
                    options = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
                    assert options.get("weights_only") is True, path
        assert "allow_pickle=True" not in path.read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_fit_to_be_read(path):
    text = path.read_text()
    notebook = json.loads(text)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert len(text) < 1.5 * 2**20
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs
    assert not [o for o in outputs if o["output_type"] == "error"]
    said = json.dumps([o for o in outputs]) + "".join("".join(c["source"]) for c in cells)
    assert not re.search(r"[\"' (]/(home|root|tmp|Users|work|mnt)/", said)
    assert "\\r" not in said
    assert "it/s" not in said


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_say_what_cannot_be_seen(path):
    for cell in json.loads(path.read_text())["cells"]:
        outputs = [output for output in cell.get("outputs", []) if "data" in output]
        for output in outputs:
            if "image/png" in output["data"]:
                alt = output["metadata"]["image/png"]["alt"]
                assert len(alt) > 20
                assert output["data"]["text/plain"] == [alt]
        if "widget" in cell["metadata"].get("tags", []):
            assert [set(output["data"]) for output in outputs] == [{"image/png", "text/plain"}]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_explain_before_they_compute(path):
    cells = json.loads(path.read_text())["cells"]
    assert cells[0]["cell_type"] == "markdown"
    assert "**After this notebook" in "".join(cells[0]["source"])
    assert "## Recap" in "".join("".join(c["source"]) for c in cells[-1:])
    assert max(len(c["source"]) for c in cells if c["cell_type"] == "code") <= 25
