"""Tables of results beside the paper's, as CSV and Markdown, and as a figure."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from htdg.evaluation.plots import GREY, NORMAL, Figure
from htdg.sweeps.results import FIGURES, Row, Setting

#: What a cell without a value shows.
MISSING = "–"
#: Columns that say what a row is about.
_ABOUT = (
    "dataset",
    "class",
    "shots",
    "variant",
    "evidence",
    "transformations",
    "fraction",
    "options",
)
_TITLES = {"image_auroc": "AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}


def table_rows(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Plain values of each row by the names of columns; None where there is none.

    AUROCs are fractions, ``<name>_sd`` is the standard deviation over runs, and ``runs`` of
    ``planned`` are in the means. ``within_one_sd`` says whether the difference to the paper is at
    most the paper's standard deviation.
    """
    options = _telling_options([row.setting for row in rows])
    return [_plain_row(row, options[row.setting]) for row in rows]


def _plain_row(row: Row, options: str) -> dict[str, object]:
    about = row.setting
    plain: dict[str, object] = {
        "dataset": about.dataset,
        "class": about.normal_class,
        "shots": about.shots,
        "variant": about.variant or None,
        "evidence": about.evidence,
        "transformations": about.transformations,
        "fraction": about.fraction,
        "options": options or None,
        "runs": row.n_runs,
        "planned": row.planned,
    }
    for name in FIGURES:
        mean, deviation = row.summary(name)
        plain[name], plain[f"{name}_sd"] = _or_none(mean), _or_none(deviation)
    ours, paper = plain["image_auroc"], row.paper
    plain["paper"] = None if paper is None else round(paper.auroc, 4)
    plain["paper_sd"] = None if paper is None else _or_none(paper.deviation)
    plain["paper_table"] = None if paper is None else paper.table
    plain["difference"] = plain["within_one_sd"] = None
    if isinstance(ours, float) and paper is not None:
        plain["difference"] = _or_none(ours - paper.auroc)
        if not math.isnan(paper.deviation):
            plain["within_one_sd"] = bool(abs(ours - paper.auroc) <= paper.deviation)
    return plain


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _telling_options(settings: Sequence[Setting]) -> dict[Setting, str]:
    """Of settings that else look the same, the options in which they differ."""
    alike: dict[tuple[object, ...], list[Setting]] = defaultdict(list)
    for setting in settings:
        alike[setting[:-1]].append(setting)
    words = {}
    for group in alike.values():
        options = [json.loads(setting.rest) for setting in group]
        names = sorted({name for one in options for name in one})
        telling = [n for n in names if len({json.dumps(one.get(n)) for one in options}) > 1]
        for setting, one in zip(group, options, strict=True):
            words[setting] = ", ".join(f"{name} {one.get(name)}" for name in telling)
    return words


def csv_table(rows: Sequence[Row]) -> str:
    """The table as CSV, with all columns; cells without a value are empty."""
    plain, text = table_rows(rows), io.StringIO()
    writer = csv.DictWriter(text, list(plain[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in plain)
    return text.getvalue()


def markdown_table(rows: Sequence[Row]) -> str:
    """The table as Markdown: columns that say something, mean ± standard deviation."""
    plain = table_rows(rows)
    about = [name for name in _ABOUT if len({row[name] for row in plain} - {None}) > 1]
    about = [name for name in _ABOUT if name in {"dataset", "class", "shots", *about}]
    figures = [name for name in FIGURES if any(row[name] is not None for row in plain)]
    with_paper = any(row["paper"] is not None for row in plain)
    titles = [*about, "runs", *(_TITLES.get(name, name) for name in figures)]
    titles += ["paper", "difference"] if with_paper else []
    lines = ["| " + " | ".join(titles) + " |", "| " + " | ".join("---" for _ in titles) + " |"]
    for row in plain:
        cells = [MISSING if row[name] is None else str(row[name]) for name in about]
        whole = row["runs"] == row["planned"]
        cells.append(str(row["runs"]) if whole else f"{row['runs']} of {row['planned']}")
        cells += [_with_deviation(row, name) for name in figures]
        cells += [_with_deviation(row, "paper"), _difference(row)] if with_paper else []
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _with_deviation(row: Mapping[str, object], name: str) -> str:
    mean, deviation = row[name], row[f"{name}_sd"]
    if not isinstance(mean, float):
        return MISSING
    return f"{mean:.3f}" + (f" ± {deviation:.3f}" if isinstance(deviation, float) else "")


def _difference(row: Mapping[str, object]) -> str:
    """The difference to the paper, and whether it is within the paper's deviation."""
    if not isinstance(row["difference"], float):
        return MISSING
    words = {True: " (within)", False: " (outside)", None: ""}
    within = row["within_one_sd"]
    return f"{row['difference']:+.3f}" + words[within if isinstance(within, bool) else None]


def figure(rows: Sequence[Row]) -> Figure:
    """AUROC of each row, a point for each run and a bar for the mean, and the paper's beside it."""
    drawn = [row for row in rows if row.figures["image_auroc"]]
    options = _telling_options([row.setting for row in rows])
    height = max(2.0, 0.9 + 0.32 * len(drawn))
    picture = Figure(figsize=(7.0, height), layout="constrained")
    ax = picture.subplots()
    for y, row in enumerate(drawn):
        values = row.figures["image_auroc"]
        mean, _ = row.summary("image_auroc")
        ax.plot(values, [y] * len(values), ".", color=NORMAL, alpha=0.5)
        ax.plot([mean], [y], "|", color=NORMAL, markersize=16, markeredgewidth=2.5)
        if row.paper is not None:
            deviation = 0.0 if math.isnan(row.paper.deviation) else row.paper.deviation
            ax.errorbar([row.paper.auroc], [y + 0.25], xerr=[deviation], fmt="d", color=GREY)
    ax.set_yticks(range(len(drawn)), [_label(row, options[row.setting]) for row in drawn])
    ax.set_ylim(len(drawn) - 0.4, -0.6)
    ax.axvline(0.5, color="0.8", linewidth=1)
    points = "runs, of averages classes" if any(row.classes for row in drawn) else "runs"
    label = f"image AUROC: {points} (points), their mean (bar), the paper's (diamond)"
    picture.supxlabel(label, size=9)
    return picture


def _label(row: Row, options: str) -> str:
    about = row.setting
    words = [about.dataset, about.normal_class, f"{about.shots} shot{'s' * (about.shots > 1)}"]
    words += [about.variant, about.evidence if about.evidence != "votes" else "", options]
    words += [f"{100 * about.fraction:g} %" if about.fraction else ""]
    return ", ".join(word for word in words if word)
