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
)
#: Room: its files or folders, and the rooms that it may import besides itself.
ROOMS = {
    "method": (METHOD, ()),
    "fast": (("fast",), ("method",)),
    "runtime": (("runtime",), ("method",)),
    "io": (("io", "images"), ("method", "runtime")),
    "ablations": (("ablations",), ("method", "runtime", "io")),
    "detector": (
        ("sampler", "scorer", "fitting", "detector"),
        ("method", "fast", "runtime", "io", "ablations"),
    ),
    "datasets": (("datasets",), ("errors", "runtime", "io")),
    "evaluation": (
        ("evaluation",),
        ("method", "runtime", "io", "ablations", "detector", "datasets"),
    ),
    "commands": (
        ("commands", "__main__"),
        ("method", "fast", "runtime", "io", "ablations", "detector", "datasets", "evaluation"),
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
    targets = []
    for node in ast.walk(ast.parse(source)):
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
            if called in ("import_module", "__import__"):
                texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
                # Of f"htdg.commands.{name}" the package.
                targets += [str(t).rstrip(".") for t in texts if str(t).startswith("htdg")]
    return targets


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


@pytest.mark.parametrize("name", INSIDE)
def test_imports_go_downwards(name):
    assert violations(name, MODULES[name].read_text()) == []


def test_nothing_imports_in_a_circle():
    graph = {}
    for name in INSIDE:
        targets = set(imports(name, MODULES[name].read_text())) & MODULES.keys()
        # That an import runs the packages above the module, too, is left out: only htdg and
        # htdg.datasets hold imports, and everything in a package would be in a circle with it.
        graph[name] = targets - {name, "htdg"}
    graphlib.TopologicalSorter(graph).prepare()  # CycleError if there is one


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
    ],
)
def test_what_is_allowed_is_not_a_violation(name, allowed):
    assert violations(name, allowed) == []


def test_the_method_stays_readable():
    """An evening's reading: eleven files of at most 1,500 lines together, none above 300.

    ``backend`` and ``state``, which come beside them, are not the paper's and not in the sum.
    """
    lines = {name: len(MODULES[f"htdg.{name}"].read_text().splitlines()) for name in METHOD}
    assert max(lines.values()) <= 300
    beside = {"version", "backend", "state"}
    assert sum(count for name, count in lines.items() if name not in beside) <= 1500
