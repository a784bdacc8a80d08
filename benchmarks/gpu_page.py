"""What a run on a GPU found, told: targets met and missed, and its part of the README."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.gpu_modes import told_failures
from benchmarks.gpu_report import Results
from benchmarks.paper_settings import EXPERIMENTS, verdict
from benchmarks.studies import table
from htdg.errors import UserError

TITLE = "On a GPU"
#: Recorded steps are to be so many times as fast as the straightforward version, at sides in pixels
#: from .. to.
RATIOS = ((0, 41, 5.0), (64, 64, 3.0))
#: A whole colour model at the paper's settings is to take so many minutes at most.
MINUTES = 3.0
WHOLE = ("bottle-rotations", "bottle-54", "sneaker", "plane")


def merged(runs: Sequence[Results]) -> Results:
    """Several runs as one: of each part the last run that has it.

    Raises:
        UserError: they are of several cards, versions of PyTorch or commits, or not of a GPU.
    """
    for results in runs:
        if results["device"] != "cuda" or results["quick"]:
            made = "with --quick" if results["quick"] else f"on a {results['device']}"
            raise UserError(
                f"These results were made {made}: the page takes those of a whole run on a GPU."
            )
        for key in ("card", "torch", "commit"):
            if results[key] != runs[0][key]:
                raise UserError(
                    f"These results differ in {key} ({runs[0][key]}, {results[key]}): "
                    "a page is of one."
                )
    if len(runs) > 1 and runs[0]["commit"] == "unknown":
        raise UserError("Nobody knows whether these results are of one commit: --commit says it.")
    parts: dict[str, Any] = {}
    for results in runs:
        for name, of in results["parts"].items():
            if of["state"] != "skipped" or name not in parts:
                parts[name] = of
    return {**runs[0], "parts": parts}


def found(results: Results, part: str) -> dict[str, Any]:
    """The figures of a part, none if it was not run."""
    return results["parts"].get(part, {}).get("results", {})


# --- Targets --------------------------------------------------------------------------------------


def targets(results: Results) -> list[tuple[str, str]]:
    """(what was to be reached, with what was; met, missed or not measured)."""
    return [
        _tests(found(results, "tests")),
        *_agreement(results),
        _memory(found(results, "memory").get("memory")),
        *_ratio_targets(results),
        *_minutes(results),
    ]


def _outcome(met: bool | None) -> str:
    return "not measured" if met is None else "met" if met else "missed"


def _tests(outcomes: dict[str, Any]) -> tuple[str, str]:
    each = [value for name, value in outcomes.items() if "::" in name]
    text = f"tests on a GPU: {each.count('passed')} of {len(each)} passed"
    return text, _outcome(outcomes.get("passed"))


def _agreement(results: Results) -> Iterator[tuple[str, str]]:
    for part, name in (("training", "losses"), ("training", "weights"), ("votes", "votes")):
        for arithmetic in ("float32", "TF32", "bf16"):
            of = {k: v for k, v in found(results, part).items() if k.split()[1] == arithmetic}
            largest = max((check["differences"][name] for check in of.values()), default=None)
            limit = next((check["tolerances"][name] for check in of.values()), None)
            if largest is None or limit is None:
                yield f"{name} as on a CPU, {arithmetic}", "not measured"
            else:
                said = f"{largest:.1e} apart, at most {limit:.0e}, {len(of)} comparisons"
                yield f"{name} as on a CPU, {arithmetic}: {said}", _outcome(largest <= limit)
    recorded = [c["recorded"] for k, c in found(results, "training").items() if "not rec" not in k]
    text = f"steps were recorded in {sum(recorded)} of {len(recorded)} trainings"
    yield text, _outcome(all(recorded) if recorded else None)


def _memory(check: dict[str, Any] | None) -> tuple[str, str]:
    if check is None:
        return "memory of models that are gone is given back", "not measured"
    text = f"tensors grew by {check['growth_mib']:.2f} MiB, reserved memory by "
    text += (
        f"{check['reserved_growth_mib']:.0f} MiB, while {check['models']} models came and went; "
    )
    text += f"kept canvas plans held {check['plans_mib']:.2f} MiB"
    return text, _outcome(check["passed"])


def _ratio_targets(results: Results) -> Iterator[tuple[str, str]]:
    rows = ratios(results)
    if not rows:
        yield "recorded steps and the straightforward version", "not measured"
    for name, of_side in rows.items():
        for first, last, least in RATIOS:
            inside = {side: ratio for side, ratio in of_side.items() if first <= side <= last}
            if inside:
                said = ", ".join(f"{side} px {ratio:.1f}" for side, ratio in inside.items())
                text = f"{name}, recorded, at least {least:g} times as fast: {said}"
                yield text, _outcome(min(inside.values()) >= least)


def ratios(results: Results) -> dict[str, dict[int, float]]:
    """How many times as fast recorded steps are as the straightforward version, by side.

    Only of what was recorded: by preset, translation and arithmetic.
    """
    rows, of = found(results, "iterations"), {}
    for name, row in rows.items():
        base = rows.get(name.replace("recorded", "straightforward"))
        if name.endswith(" recorded") and base is not None and row["recorded"]:
            pairs = zip(row["sides"], base["iteration_s"], row["iteration_s"], strict=True)
            of[name.removesuffix(" recorded")] = {side: b / t for side, b, t in pairs}
    return of


def _minutes(results: Results) -> Iterator[tuple[str, str]]:
    for name in WHOLE:
        if EXPERIMENTS[name].preset != "paper_rgb":
            continue
        text = f"{name}, a whole colour model, at most {MINUTES:g} minutes"
        part = results["parts"].get(name, {})
        result = found(results, name).get("result")
        if result is not None and not result["stand_in"]:
            yield f"{text}: {result['minutes']:.2f}", _outcome(result["minutes"] <= MINUTES)
        else:
            # Stopped after less than that, without what loading took, it may have met the target.
            trained = found(results, name).get("trained_s", 0.0)
            missed = part.get("state") == "stopped" and trained >= 60 * MINUTES
            why = f": {part['why']}" if part.get("why") else ""
            yield f"{text}{why}", _outcome(False if missed else None)


def summary(results: Results) -> str:
    """The run in some lines: the machine, what became of each part, the targets."""
    machine = f"{results['card']}, driver {results['driver'] or 'none'}, torch {results['torch']}"
    lines = [f"{machine}, Python {results['python']}, commit {results['commit']}"]
    if results["quick"] or results["device"] != "cuda":
        lines.append("NOT A MEASUREMENT OF A GPU: this only shows that the script works.")
    for name, part in results["parts"].items():
        lines.append(f"{name}: {_state(part)}")
    lines += [f"{outcome.upper()}: {text}" for text, outcome in targets(results)]
    return "\n".join(lines)


def _state(part: dict[str, Any]) -> str:
    line = part["state"] if part["state"] != "running" else "broken off"
    if "seconds" in part:
        line += f" after {part['seconds']:.0f} s"
    if part.get("why"):
        line += f": {part['why'].splitlines()[-1]}"
    if part.get("left_out"):
        line += f"; no time for {', '.join(part['left_out'])}"
    return line


# --- The page -------------------------------------------------------------------------------------


def page(results: Results) -> str:
    """The part of the README."""
    lines = [
        f"Machine: {results['card']}, driver {results['driver']}; torch {results['torch']}, Python "
        f"{results['python']}; commit {results['commit']}. float32 is without TF32; TF32 is "
        'PyTorch\'s default for `precision="float32"` on a GPU; bf16 is what `auto` chooses there.',
        "",
        *table(["target", "outcome"], [[text, outcome] for text, outcome in targets(results)]),
        "",
    ]
    unfinished = {n: p for n, p in results["parts"].items() if p["state"] != "done"}
    if unfinished:
        said = "; ".join(f"`{name}` {_state(part)}" for name, part in unfinished.items())
        lines += [f"Not complete: {said}.", ""]
    for section in (_iterations, _scoring, _profiles, _whole, _shots, _together):
        lines += section(results)
    return "\n".join(lines)


def _iterations(results: Results) -> list[str]:
    rows = found(results, "iterations")
    rates = rows.get("convolution_rate", {})
    timed = {name: row for name, row in rows.items() if "iteration_s" in row}
    if not timed:
        return []
    sides = next(iter(timed.values()))["sides"]
    head = ["", *(f"{side} px" for side in sides), "sum", "ratio", "least", "share"]
    cells = []
    for name, row in timed.items():
        times = row["iteration_s"]
        base = timed.get(" ".join([*name.split()[:3], "straightforward"]))
        line = [name + told_failures(row.get("failures", []))]
        line += [*(f"{1000 * t:.2f}" for t in times), f"{1000 * sum(times):.1f}"]
        if base:
            each = [b / t for b, t in zip(base["iteration_s"], times, strict=True)]
            line += [f"{sum(base['iteration_s']) / sum(times):.2f}", f"{min(each):.2f}"]
        else:
            line += ["", ""]
        share = row.get("share")
        line.append(f"{share[0]:.1%}, {share[-1]:.1%}" if share else "")
        cells.append(line)
    said = ", ".join(f"{rate / 1e12:.1f} TFLOP/s ({name})" for name, rate in rates.items())
    return [
        "Milliseconds an iteration (3 D steps, 3 G steps) at each side. *Ratio*, *least*: how many "
        "times as fast as the straightforward version, all sides together, and at the side where "
        "it is least. *Share*: D's convolutions over the canvases, as a share of the rate of one "
        f"large convolution, at the coarsest and the finest side: {said}.",
        "",
        *table(head, cells),
        "",
    ]


def _scoring(results: Results) -> list[str]:
    values = found(results, "scoring")
    if not values:
        return []
    rows = [[*name.split(), f"{value:.3f}"] for name, value in values.items()]
    return [
        "Scoring (`paper_rgb`, `pixel`), resizing included; the straightforward version, which has "
        "no bf16, one by one:",
        "",
        *table(["", "images at a time", "milliseconds an image"], rows),
        "",
    ]


def _profiles(results: Results) -> list[str]:
    rows = []
    for name, row in found(results, "profile").items():
        longest = "; ".join(f"{key[:60]} {1000 * s:.2f} ms" for key, s, _ in row["longest"][:3])
        busy = row["busy_s"] / row["iteration_s"]
        named = name + told_failures(row["failures"])
        cells = [named, f"{1000 * row['iteration_s']:.2f}", f"{busy:.0%}", str(row["kernels"])]
        rows.append([*cells, longest.replace("|", "/")])
    if not rows:
        return []
    head = ["an iteration, bf16", "ms", "device busy", "kernels", "the longest"]
    return ["Where the time goes (`paper_rgb`, `pixel`):", "", *table(head, rows), ""]


def _whole(results: Results) -> list[str]:
    rows = []
    for name in WHOLE:
        result, chosen = found(results, name).get("result"), EXPERIMENTS[name]
        if result is not None:
            published = chosen.paper[chosen.fraction]
            auroc = result["image_auroc"][str(chosen.fraction)]
            paper = f"{published.auroc / 100:.3f} ± {published.deviation / 100:.3f}"
            cells = [chosen.title, chosen.transformations, f"{result['minutes']:.2f}"]
            cells += [f"{auroc:.3f}", f"{paper} (Table {published.table})"]
            cells[0] += told_failures(result.get("failures", []))
            rows.append([*cells, verdict(auroc, published), result["equalise"]])
    if not rows:
        return []
    head = ["normal class", "transformations", "minutes of training", "image AUROC", "paper"]
    head += ["within one deviation?", "equalised"]
    return ["The paper's settings, bf16, `pixel`, one shot, one draw:", "", *table(head, rows), ""]


def _shots(results: Results) -> list[str]:
    rows = [
        [
            *(name + told_failures(row["failures"]), str(row["shots"]), f"{row['seconds']:.3f}"),
            *(f"{row[key]:.0f}" for key in ("mib", "reserved_mib", "planned_mib")),
            str(row["images_at_once"]),
        ]
        for name, row in found(results, "ten_shots").items()
    ]
    if not rows:
        return []
    head = ["at 64 pixels", "shots", "seconds", "MiB of tensors", "MiB reserved", "MiB planned"]
    head.append("images at once")
    return ["An iteration with several images, bf16, `pixel`:", "", *table(head, rows), ""]


def _together(results: Results) -> list[str]:
    of = found(results, "side_by_side")
    if "1 models" not in of:
        return []
    alone = of["1 models"]["rate"]
    rows = [
        [name + told_failures(row["failures"]), f"{row['rate']:.1f}", f"{row['rate'] / alone:.2f}"]
        for name, row in of.items()
    ]
    head = ["in one process, 40 pixels", "iterations a second", "times one"]
    return [*table(head, rows), ""]
