"""A grid: a YAML file that says which evaluations to run.

    data_root: data
    runs:
      - dataset: textures
        normal_class: [brick, grass]
        preset: tiny
        draw: [0, 1]

Each entry of ``runs`` has parameters of ``htdg evaluate``. A list stands for each of its values,
and several lists for all combinations: these are four runs. Where a value is itself a list (several
defect fractions, rows of transformations), it stands in a list of lists. ``normal_class: all`` is
all classes of the data set. What stands beside ``runs`` holds for every entry.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from htdg.config import HTDGConfig
from htdg.datasets import dataset_classes
from htdg.errors import UserError
from htdg.evaluation.run import DATASET_OPTIONS, Task, default_equalise, default_fraction
from htdg.io.files import check_regular, one_line

#: Bytes of a grid, and runs in it, at most.
LARGEST, MOST_RUNS = 2**20, 100_000
_OF_TASK = tuple(f.name for f in fields(Task) if f.name != "options")
_OF_CONFIG = tuple(f.name for f in fields(HTDGConfig))
PARAMETERS = ("preset", *_OF_TASK, *DATASET_OPTIONS, *_OF_CONFIG)


class GridError(UserError):
    """A grid that cannot be run; the message names the file, the entry, and what is wrong."""


@dataclass(frozen=True)
class Run:
    """One evaluation of a grid.

    Attributes:
        parameters: those of ``htdg evaluate`` that the grid sets, by name.
    """

    parameters: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What its folder is called: the same for the same parameters, in whatever grid."""
        text = json.dumps(self.parameters, sort_keys=True)
        chosen = (self.parameters.get(key, "") for key in ("dataset", "normal_class"))
        words = "-".join(str(word) for word in chosen if word != "")
        plain = "".join(c if c.isalnum() or c in "-_" else "_" for c in words)[:60]
        return f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    def task(self) -> Task:
        """The experiment. UserError if a parameter of it is wrong."""
        preset = self.parameters.get("preset", "tutorial")
        given = {name: self.parameters[name] for name in _OF_TASK if name in self.parameters}
        options = {n: self.parameters[n] for n in DATASET_OPTIONS if n in self.parameters}
        defaults = {
            "equalise": default_equalise(preset, self.config()),
            "defect_fraction": default_fraction(preset),
        }
        return Task(**{**defaults, **given, "options": options})

    def config(self) -> HTDGConfig:
        """The options of the method. ConfigError if one is wrong."""
        chosen = {name: self.parameters[name] for name in _OF_CONFIG if name in self.parameters}
        return HTDGConfig.preset(self.parameters.get("preset", "tutorial"), **chosen)


def read_grid(path: Path) -> tuple[Run, ...]:
    """The runs of a grid, in order and without repetitions, each with its parameters checked.

    Data sets are not opened: see ``htdg.sweeps.running.check_runs``.

    Raises:
        GridError: it cannot be read, or a parameter is unknown or has a wrong value.
    """
    content = _read(path)
    if not isinstance(content, dict) or not isinstance(content.get("runs"), list):
        raise GridError(
            f"{path} has no list of runs: begin it with runs:, as in the grids shipped."
        )
    common = {name: value for name, value in content.items() if name != "runs"}
    runs: dict[str, Run] = {}
    for number, entry in enumerate(content["runs"], start=1):
        where = f"Entry {number} of runs in {path}"
        if not isinstance(entry, dict):
            raise GridError(f"{where} is {one_line(repr(entry))}, but must have parameters.")
        for parameters in _combinations({**common, **entry}, where):
            run = _checked(parameters, where)
            runs[run.name] = run
    if not runs:
        raise GridError(f"{path} has no runs: add an entry below runs:.")
    return tuple(runs.values())


def _read(path: Path) -> Any:  # noqa: ANN401 - whatever the file has
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError:
        raise GridError("PyYAML is missing: pip install 'htdg[sweep]'.") from None
    try:
        check_regular(path, LARGEST)
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_loader(yaml))
    except FileNotFoundError:
        raise GridError(f"{path} is not there: check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise GridError(f"{path} cannot be read ({one_line(str(error))}).") from None
    except RecursionError:
        raise GridError(f"{path} is nested too deeply.") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise GridError(f"{path} is no YAML file ({one_line(str(error))}).") from None


def _loader(yaml: Any) -> Any:  # noqa: ANN401 - a module without types
    """A safe loader that refuses references: a file of a few lines can stand for gigabytes."""

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:  # noqa: ANN401
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("references (*name) are not allowed")
            return super().compose_node(parent, index)

    return Loader


def _combinations(entry: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """The parameters of each run of an entry."""
    for name in entry:
        if name not in PARAMETERS:
            raise GridError(
                f"{where} has the parameter {one_line(repr(name))}, which there is not: choose "
                f"from {', '.join(PARAMETERS)}."
            )
    values = {name: v if isinstance(v, list) else [v] for name, v in entry.items()}
    if math.prod(map(len, values.values())) > MOST_RUNS:
        raise GridError(f"{where} stands for more than {MOST_RUNS:,} runs: divide it.")
    for chosen in itertools.product(*values.values()):
        parameters = dict(zip(values, chosen, strict=True))
        if parameters.get("normal_class") != "all":
            yield parameters
            continue
        classes = dataset_classes(str(parameters.get("dataset")))
        if not classes:
            raise GridError(f"{where} asks for all classes of an unknown data set.")
        yield from ({**parameters, "normal_class": name} for name in classes)


def _checked(parameters: dict[str, Any], where: str) -> Run:
    if not isinstance(parameters.get("dataset"), str):
        raise GridError(f"{where} has no dataset: name one.")
    try:
        json.dumps(parameters)
    except (TypeError, ValueError):
        raise GridError(f"{where} has a date or another value that no option has.") from None
    run = Run(parameters)
    try:
        run.task()  # which checks the options of the method, too
    except (UserError, TypeError) as error:
        raise GridError(f"{where}: {one_line(str(error))}") from None
    return run
