"""The results of evaluations, gathered: one row for each class, over its draws and seeds."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sklearn.metrics import roc_auc_score

from htdg.ablations.variants import VARIANTS
from htdg.datasets import dataset_classes
from htdg.errors import UserError
from htdg.io.files import check_regular
from htdg.runtime.progress import say
from htdg.sweeps.grid import Run
from htdg.sweeps.paper import Published, column_of, published
from htdg.sweeps.sweep import RECORD

#: The figures of a row: AUROC of the score, of what votes and distances contribute to it, and of
#: maps.
FIGURES = ("image_auroc", "votes", "distance", "pixel_auroc", "aupro")
#: Options that say nothing about the method.
_BESIDE = ("seed", "device", "images_at_once", "fast")
#: Bytes of a file of results at most.
_LARGEST = 2**28
AVERAGE = "average"


class ResultsError(UserError):
    """Results that cannot be gathered; the message says where."""


class Setting(NamedTuple):
    """What runs have in common whose mean is a row; they differ in draws and seeds.

    Attributes:
        dataset, normal_class, shots: what trains.
        variant: the letter of Table 6, or empty.
        evidence, transformations: the options of these names.
        fraction: the defect fraction; None for the whole image.
        rest: all other options, and how many images were tested, as JSON.
    """

    dataset: str
    normal_class: str
    shots: int
    variant: str
    evidence: str
    transformations: str
    fraction: float | None
    rest: str


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        setting: what it is about.
        figures: of each of ``FIGURES`` the values of all runs, of an average those of the classes;
            none where nothing is defined.
        n_runs: how many runs are in it.
        planned: how many there should be; 0 where nothing says so.
        paper: the paper's figure, if it has one.
        classes: of an average, the rows of all classes.
    """

    setting: Setting
    figures: Mapping[str, Sequence[float]]
    n_runs: int
    planned: int
    paper: Published | None
    classes: tuple[Row, ...] = ()

    def summary(self, name: str) -> tuple[float, float]:
        """Mean and standard deviation of a figure over runs; NaN where they are not defined.

        As in the paper, the deviation of an average is the mean of those of the classes.
        """
        if not self.classes:
            return mean_and_deviation(self.figures[name])
        of_classes = [row.summary(name) for row in self.classes]
        means, deviations = zip(*of_classes, strict=True)
        return statistics.fmean(means), statistics.fmean(deviations)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and the standard deviation of a sample; NaN where they are not defined."""
    mean = statistics.fmean(values) if values else math.nan
    return mean, statistics.stdev(values) if len(values) > 1 else math.nan


def gather(folders: Sequence[Path]) -> list[Row]:
    """The rows of everything that was evaluated below these folders, and of what a sweep plans.

    Raises:
        ResultsError: a folder has no results, or they are damaged.
    """
    read: dict[Path, dict[Setting, dict[str, float]]] = {}
    results: dict[Setting, list[dict[str, float]]] = defaultdict(list)
    planned: dict[Setting, int] = defaultdict(int)
    for folder in folders:
        paths = sorted(folder.rglob("metrics.json")) if folder.is_dir() else []
        records = sorted(folder.rglob(RECORD)) if folder.is_dir() else []
        if not paths and not records:
            raise ResultsError(f"{folder} holds no results: name a folder of evaluations.")
        for path in paths:
            read[path] = read_result(path)
            for setting, figures in read[path].items():
                results[setting].append(figures)
        for record in records:
            for setting in _planned(record, read, results):
                planned[setting] += 1
    rows = [
        _row(setting, results.get(setting, []), planned.get(setting, 0))
        for setting in sorted({*results, *planned}, key=_order)
    ]
    return [*rows, *_averages(rows)]


def read_result(path: Path) -> dict[Setting, dict[str, float]]:
    """What a run was about, and its figures, from its ``metrics.json`` and what lies beside it.

    With several defect fractions it was about several things, of which the first has all figures.

    Raises:
        ResultsError: one of the files is missing or damaged.
    """
    metrics, config = _json(path), _json(path.with_name("config.json"))
    try:
        setting = _setting(metrics, config)
        figures = {name: float(v) for name in FIGURES if (v := metrics.get(name)) is not None}
        others = {
            _of_fraction(setting, float(fraction)): {"image_auroc": float(auroc)}
            for fraction, auroc in metrics.get("image_auroc_per_fraction", {}).items()
            if auroc is not None and fraction != "None"
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ResultsError(f"{path} is no result of this htdg ({error!r}).") from None
    figures |= _of_each_kind(path.with_name("scores.csv"), setting.evidence)
    return {**others, setting: figures}


def _of_fraction(setting: Setting, fraction: float) -> Setting:
    return setting._replace(fraction=None if fraction == 1.0 else fraction)


def _setting(metrics: Mapping[str, Any], config: Mapping[str, Any]) -> Setting:
    letters = {variant.name: variant.letter for variant in VARIANTS}
    chosen = config["transformations"]
    rest = {name: v for name, v in config.items() if name not in (*_BESIDE, "transformations")}
    rest |= {name: metrics[name] for name in ("equalise", "test_images", "test_images_anomalous")}
    fraction = metrics["defect_fraction"]
    return Setting(
        str(metrics["dataset"]),
        str(metrics["normal_class"]),
        int(metrics["shots"]),
        letters.get(metrics.get("variant") or "", ""),
        str(config.get("evidence", "votes")),
        chosen if isinstance(chosen, str) else json.dumps(chosen),
        None if fraction in (None, 1.0) else float(fraction),
        json.dumps(rest, sort_keys=True),
    )


def _of_each_kind(path: Path, evidence: str) -> dict[str, float]:
    """The AUROC of what each kind of evidence contributed, from the table of scores."""
    try:
        check_regular(path, _LARGEST)
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        labels = [int(row["label"]) for row in rows]
        if len(set(labels)) < 2:
            return {}
        kinds = ("votes", "distance") if evidence == "both" else (evidence,)
        column = {kind: kind if evidence == "both" else "anomaly_score" for kind in kinds}
        return {k: roc_auc_score(labels, [float(r[column[k]]) for r in rows]) for k in kinds}
    except KeyError:  # not every image has a label
        return {}
    except (OSError, ValueError, csv.Error) as error:
        raise ResultsError(f"{path} cannot be read ({error}): evaluate again.") from None


def _planned(
    record: Path, read: Mapping[Path, Iterable[Setting]], results: Iterable[Setting]
) -> list[Setting]:
    """The settings of all runs of a sweep: what those that are done are about, or will be."""
    try:
        settings: list[Setting] = []
        for parameters in _json(record)["runs"].values():
            run = Run(parameters)
            path = record.parent / "runs" / run.name / "metrics.json"
            settings += read[path] if path in read else _expected(run, results)
        return settings
    except (KeyError, TypeError, AttributeError, UserError) as error:
        say([f"{record} does not say what was planned ({error})."])
        return []


def _expected(run: Run, results: Iterable[Setting]) -> list[Setting]:
    """What a run will be about once it is done."""
    task, config = run.task(), run.config()
    metrics = {
        "dataset": task.dataset,
        "normal_class": task.normal_class,
        "shots": task.shots,
        "variant": task.variant,
        "defect_fraction": task.fractions[0],
        "equalise": task.equalise,
        "test_images": None,
        "test_images_anomalous": None,
    }
    wanted = _setting(metrics, config.as_dict())
    fractions = [1.0 if fraction is None else fraction for fraction in task.fractions]
    settings = [_of_fraction(wanted, fraction) for fraction in fractions]
    # How many images are tested shows once one of such runs is done.
    alike = [next((s for s in results if s[:-1] == w[:-1]), w) for w in settings]
    return list(dict.fromkeys(alike))


def _row(setting: Setting, runs: Sequence[Mapping[str, float]], planned: int) -> Row:
    figures = {name: [run[name] for run in runs if name in run] for name in FIGURES}
    paper = _in_the_paper(setting, setting.normal_class)
    return Row(setting, figures, len(runs), max(planned, len(runs)), paper)


def _in_the_paper(setting: Setting, normal_class: str) -> Published | None:
    column = column_of(
        setting.dataset,
        setting.transformations,
        setting.variant,
        setting.fraction,
        setting.shots,
    )
    return published(setting.dataset, normal_class, setting.shots, column)


def _averages(rows: Sequence[Row]) -> list[Row]:
    """The mean over all classes of a data set, where each of them has all its runs."""
    groups: dict[Setting, list[Row]] = defaultdict(list)
    for row in rows:
        same = row.setting._replace(normal_class=AVERAGE, rest=_without_counts(row.setting.rest))
        groups[same].append(row)
    averages = []
    for setting, members in sorted(groups.items(), key=lambda item: _order(item[0])):
        classes = {str(name) for name in dataset_classes(setting.dataset)}
        complete = all(row.n_runs and row.n_runs == row.planned for row in members)
        if len(classes) < 2 or {row.setting.normal_class for row in members} != classes:
            continue
        if not complete or len({row.n_runs for row in members}) > 1 or len(members) != len(classes):
            continue
        paper = _in_the_paper(setting, "Avg")
        n_runs = members[0].n_runs
        figures = {name: [row.summary(name)[0] for row in members] for name in FIGURES}
        averages.append(Row(setting, figures, n_runs, n_runs, paper, tuple(members)))
    return averages


def _without_counts(rest: str) -> str:
    """How many images are tested may differ from class to class."""
    options = json.loads(rest)
    return json.dumps({n: v for n, v in options.items() if not n.startswith("test_images")})


def _order(setting: Setting) -> tuple[object, ...]:
    """In the order of the data set's own classes."""
    classes = [str(name) for name in dataset_classes(setting.dataset)]
    known = setting.normal_class in classes
    place = classes.index(setting.normal_class) if known else len(classes)
    fraction = 1.0 if setting.fraction is None else setting.fraction
    start = setting.dataset, setting.variant, setting.shots, setting.evidence
    rest = _without_counts(setting.rest)
    return (*start, setting.transformations, fraction, rest, place, setting.normal_class)


def _json(path: Path) -> dict[str, Any]:
    try:
        check_regular(path, _LARGEST)
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ResultsError(f"{path} cannot be read ({error}): evaluate again.") from None
    if not isinstance(content, dict):
        raise ResultsError(f"{path} holds no results: evaluate again.")
    return content
