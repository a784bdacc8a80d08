"""What may import what: the rooms of the package, held against every import in its syntax trees.

docs/architecture.md says the same in words. An import counts wherever it stands: at the top, inside
a function, under TYPE_CHECKING, as a call of ``import_module``.
"""

import ast
import graphlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "htdg"

#: The method: a file an idea, each may import those before it. ``backend`` stands among them, since
#: training speaks its words.
METHOD = (
    "version",
    "errors",
    "numbers",
    "presets",
    "pyramid",
    "transformations",
    "config",
    "networks",
    "sampling",
    "losses",
    "votes",
    "localisation",
    "thresholds",
    "state",
    "backend",
    "training",
    "nearest",
    "patches",
    "uniqueness",
    "distances",
    "gradients",
    "nearby",
    "evidence",
)
#: Room: its files or folders, and the rooms that it may import besides itself.
ROOMS = {
    "method": (METHOD, ()),
    "fast": (("fast",), ("method",)),
    "runtime": (("runtime",), ("method",)),
    "io": (("io", "images"), ("method", "runtime")),
    "ablations": (("ablations",), ("method", "runtime", "io")),
    "detector": (
        ("tiles", "sampler", "scorer", "models", "fitting", "detector", "typical"),
        ("method", "fast", "runtime", "io", "ablations"),
    ),
    "export": (("export",), ("method", "fast", "runtime", "io", "detector")),
    "datasets": (("datasets",), ("errors", "runtime", "io")),
    "evaluation": (
        ("evaluation",),
        ("method", "runtime", "io", "ablations", "detector", "datasets"),
    ),
    "sweeps": (
        ("sweeps",),
        ("method", "runtime", "io", "ablations", "detector", "datasets", "evaluation"),
    ),
    "commands": (
        ("commands", "__main__"),
        (
            *("method", "fast", "runtime", "io", "ablations", "detector", "export"),
            *("datasets", "evaluation", "sweeps"),
        ),
    ),
    "course": (
        ("course",),
        ("method", "fast", "runtime", "io", "ablations", "detector", "datasets", "evaluation"),
    ),
}
#: Modules of another room that a room may import all the same: the command line lays the course's
#: files out.
SHARED = {"commands": {"htdg.course.files"}}


def modules():
    """Every module of the package by its dotted name."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = modules()


def imports(name, source):
    """What a module imports of the package: dotted names of modules, or of what they hold."""
    targets, calls = [], {"import_module", "__import__"}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "importlib":
            calls |= {a.asname for a in node.names if a.name == "import_module" and a.asname}
        if isinstance(node, ast.Import):
            targets += [a.name for a in node.names if a.name.split(".")[0] == "htdg"]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                is_package = MODULES.get(name, Path()).name == "__init__.py"
                up = node.level - is_package  # a package is its own first parent
                parents = name.split(".")[: -up or None]
                base = ".".join([*parents, *([base] if base else [])])
            if base.split(".")[0] == "htdg":
                targets += [
                    f"{base}.{a.name}" if base == "htdg" or f"{base}.{a.name}" in MODULES else base
                    for a in node.names
                ]
        elif isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in calls:
                targets.append(called_for(node))
    return [target for target in targets if target is not None]


def called_for(call):
    """What a call of ``import_module`` imports of htdg; None where it is another library.

    Of f"htdg.commands.{name}" the package: so the command line reads the file of a command, and any
    file of its room may be. ``htdg/__init__.py``, which fetches the public names that way, belongs
    to no room and may import all. Where nothing can be read the answer is "?", which is no module.
    """
    target = call.args[0] if call.args else None
    if isinstance(target, ast.JoinedStr):
        target = target.values[0]
    if not isinstance(target, ast.Constant) or not isinstance(target.value, str):
        return "?"
    if target.value.startswith("."):
        return "?"
    return target.value.rstrip(".") if target.value.split(".")[0] == "htdg" else None


def room_of(name):
    """The room that a module belongs to, by the first part of its name below the package."""
    part = name.split(".")[1] if "." in name else ""
    return next((room for room, (parts, _) in ROOMS.items() if part in parts), None)


def violations(name, source):
    """A sentence for each import that the table does not allow."""
    room, wrong = room_of(name), []
    for target in imports(name, source):
        there = room_of(target)
        if target not in MODULES or there is None or target == "htdg":
            wrong.append(f"{name} imports {target}, which is no module of a room")
        elif room == there == "method":
            if METHOD.index(target.split(".")[1]) >= METHOD.index(name.split(".")[1]):
                wrong.append(f"{name} imports {target}, which is not below it")
        elif there != room and target not in SHARED.get(room, ()):
            allowed = ROOMS[room][1]
            if there not in allowed and target.split(".")[1] not in allowed:
                wrong.append(f"{name}, of {room}, imports {target}, of {there}")
    return wrong


INSIDE = [name for name in MODULES if name != "htdg"]


def test_every_module_has_a_room():
    assert [name for name in INSIDE if room_of(name) is None] == []


def test_every_entry_of_the_table_is_there():
    parts = {part for parts, _ in ROOMS.values() for part in parts}
    assert [part for part in sorted(parts) if f"htdg.{part}" not in MODULES] == []
    allowed = {part for _, allowed in ROOMS.values() for part in allowed}
    assert allowed <= ROOMS.keys() | parts
    assert {target for targets in SHARED.values() for target in targets} <= MODULES.keys()


@pytest.mark.parametrize("name", INSIDE)
def test_imports_go_downwards(name):
    assert violations(name, MODULES[name].read_text()) == []


def packages_above(name):
    """The packages that a module lies in, but for htdg itself."""
    parts = name.split(".")
    return {".".join(parts[:n]) for n in range(2, len(parts))}


def circle(sources):
    """Modules that import each other in a circle, or nothing."""
    graph = {}
    for name, source in sources.items():
        targets = set(imports(name, source)) & MODULES.keys()
        # ``import htdg.datasets.base`` runs the package htdg.datasets, too, and what that imports.
        # Not so from inside it: there it is running already.
        packages = set().union(*(packages_above(target) for target in targets))
        graph[name] = (targets | (packages - packages_above(name))) - {name, "htdg"}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


SOURCES = {name: MODULES[name].read_text() for name in INSIDE}


def test_nothing_imports_in_a_circle():
    assert circle(SOURCES) == []


@pytest.mark.parametrize(
    ("name", "planted"),
    [
        ("htdg.fast.canvases", "from htdg.fast import backend"),
        ("htdg.fast.canvases", "def f():\n    from .backend import FastBackend"),
        ("htdg.fast.canvases", 'importlib.import_module("htdg.fast.backend")'),
        ("htdg.datasets.base", "from htdg.datasets import load_dataset"),
        ("htdg.datasets.base", "from . import load_dataset"),
    ],
)
def test_a_planted_circle_is_seen(name, planted):
    assert name in circle({**SOURCES, name: f"{SOURCES[name]}\n{planted}\n"})


def test_a_circle_by_way_of_a_package_is_seen():
    sources = {
        "htdg.io.files": "import htdg.datasets.base",
        "htdg.datasets": "from htdg.datasets import mnist",
        "htdg.datasets.mnist": "from htdg.io import files",
        "htdg.datasets.base": "",
    }
    assert "htdg.io.files" in circle(sources)
    assert circle({**sources, "htdg.datasets.mnist": ""}) == []


@pytest.mark.parametrize(
    ("name", "planted"),
    [
        ("htdg.votes", "from htdg import detector"),
        ("htdg.votes", "import htdg.cli"),
        ("htdg.votes", "import htdg.commands.cli"),
        ("htdg.votes", "import htdg"),
        ("htdg.votes", "from htdg import HTDGDetector"),
        ("htdg.votes", "def f():\n    from htdg.detector import HTDGDetector"),
        ("htdg.votes", "if TYPE_CHECKING:\n    from htdg.training import ScaleTraining"),
        ("htdg.votes", "from . import training"),
        ("htdg.votes", "from .fast import native"),
        ("htdg.votes", "import numpy, htdg.detector as d"),
        ("htdg.training", "from htdg.fast.canvases import canvas_plan"),
        ("htdg.training", "from htdg.runtime.device import resolve_device"),
        ("htdg.fast.native", "from htdg.runtime import device"),
        ("htdg.fast.native", "from ..io import images"),
        ("htdg.runtime.memory", "import htdg.fast.canvases"),
        ("htdg.io.official", "from htdg.detector import HTDGDetector"),
        ("htdg.io.images", "from htdg.ablations.geom import load_geom"),
        ("htdg.ablations.geom", "from htdg.scorer import Scorer"),
        ("htdg.detector", "from htdg.export.graph import ScoringGraph"),
        ("htdg.evaluation.run", "from htdg.export import onnx_file"),
        ("htdg.datasets.base", "from htdg.config import HTDGConfig"),
        ("htdg.evaluation.run", "from htdg.commands.common import UsageError"),
        ("htdg.evaluation.run", "from htdg.fast import canvases"),
        ("htdg.course.show", "from htdg.commands import common"),
        ("htdg.commands.score", "from htdg.course import show"),
        ("htdg.detector", "from htdg.evaluation.metrics import image_metrics"),
        ("htdg.votes", "from htdg.course.files import course_folder"),
        ("htdg.datasets.samples", "from htdg.course import files"),
        ("htdg.fast", "from ..detector import HTDGDetector"),
        ("htdg.fast", "from .. import detector"),
        ("htdg.io", "from ..commands import cli"),
        ("htdg.votes", 'importlib.import_module("htdg.detector")'),
        ("htdg.votes", 'from importlib import import_module\nimport_module("htdg.detector")'),
        ("htdg.votes", '__import__("htdg.detector")'),
        ("htdg.votes", 'importlib.import_module(f"htdg.commands.{name}")'),
        ("htdg.votes", 'importlib.import_module("htdg." + name)'),
        ("htdg.votes", "importlib.import_module(name)"),
        ("htdg.votes", 'importlib.import_module(".detector", __package__)'),
        ("htdg.votes", 'from importlib import import_module as load\nload("htdg.detector")'),
        ("htdg.commands.cli", 'importlib.import_module(f"htdg.course.{name}")'),
    ],
)
def test_a_planted_violation_is_seen(name, planted):
    assert violations(name, MODULES[name].read_text()) == []
    assert violations(name, f"{MODULES[name].read_text()}\n{planted}\n")


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("htdg.training", "from htdg.backend import Backend"),
        ("htdg.fast.backend", "from htdg.backend import autocast"),
        ("htdg.detector", "from htdg.fast.backend import FastBackend"),
        ("htdg.datasets.base", "from htdg.io import images"),
        ("htdg.commands.score", "def f():\n    from htdg.evaluation import plots"),
        ("htdg.commands.course", "from htdg.course.files import notebook_files"),
        ("htdg.fast", "from .backend import FastBackend"),
        ("htdg.fast", "from ..backend import Backend"),
        ("htdg.fast.backend", "from .canvases import CanvasPlan"),
        ("htdg.votes", 'importlib.import_module("numpy.linalg")'),
        ("htdg.commands.cli", 'importlib.import_module(f"htdg.commands.{name}")'),
    ],
)
def test_what_is_allowed_is_not_a_violation(name, allowed):
    assert violations(name, allowed) == []


#: Of the method's room, but not of its eleven files: what is not in the paper.
BESIDE = {"version", "backend", "state", "numbers", "presets"} | {
    "nearest",
    "patches",
    "uniqueness",
    "distances",
    "gradients",
    "nearby",
    "evidence",
}


def too_long(lines):
    """What is too long, of the number of lines of each file of the method."""
    wrong = [f"{name} has {count} lines" for name, count in lines.items() if count > 300]
    total = sum(count for name, count in lines.items() if name not in BESIDE)
    return wrong + ([f"all have {total} lines"] if total > 1500 else [])


def test_the_method_stays_readable():
    """An evening's reading: eleven files of at most 1,500 lines together, none above 300.

    What comes beside them (``BESIDE``: the backend, the state, the checks of numbers, and the patch
    distances, which are ours) is not in the sum; those have at most 300 lines each, too.
    """
    lines = {name: len(MODULES[f"htdg.{name}"].read_text().splitlines()) for name in METHOD}
    assert len(lines.keys() - BESIDE) == 11
    assert too_long(lines) == []


def test_what_grows_too_long_is_seen():
    whole = dict.fromkeys(METHOD, 136)  # 11 * 136 = 1,496
    assert too_long(whole | {"votes": 140, "backend": 300, "state": 300}) == []
    assert too_long(whole | {"votes": 141}) == ["all have 1501 lines"]
    for name in BESIDE:
        assert too_long(whole | {name: 301}) == [f"{name} has 301 lines"]
    assert too_long(dict.fromkeys(METHOD, 1) | {"training": 301}) == ["training has 301 lines"]
