"""The command line: ``htdg train``, ``score``, ``calibrate``, ``sample``, ``info``, ``evaluate``,
``import-official`` and ``run``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

import htdg
from htdg.checkpoint import remove_checkpoint
from htdg.config import PRESETS, ConfigError, HTDGConfig
from htdg.datasets import DatasetError, dataset_names
from htdg.detector import HTDGDetector
from htdg.evaluation import EQUALISE, EvaluationError, Task, default_equalise, evaluate
from htdg.images import ImageError, list_images, load_image, to_uint8
from htdg.notebook_run import NotebookError, run_notebook, summary
from htdg.official import import_official
from htdg.plots import overlay, plot_sample_grid, png_bytes, save_figure
from htdg.progress import name_skipped
from htdg.scores import score_table
from htdg.storage import (
    ModelError,
    OutputError,
    check_replaceable,
    check_writable,
    write_bytes,
    write_text,
)
from htdg.thresholds import Threshold
from htdg.variants import VARIANTS, variant_named
from htdg.verdicts import Verdict


class UsageError(ValueError):
    """The command cannot be carried out as given; the message says what to change."""


#: What a user can cause: shown as one sentence, exit code 2.
USER_ERRORS = (
    UsageError,
    ConfigError,
    DatasetError,
    EvaluationError,
    ImageError,
    ModelError,
    NotebookError,
    OutputError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, or 2 after a mistake of the user's.

    As shells have it, 130 after Ctrl-C, and 141 when nobody reads the output to its end.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        options.command(options)
        sys.stdout.flush()  # so that a broken pipe shows here
    except USER_ERRORS as error:
        print(f"htdg: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nhtdg: stopped; a training goes on when started again.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as in ``htdg score ... | head -1``
        # Python flushes once more when it ends; that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())
        return 141
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser with all its commands."""
    parser = argparse.ArgumentParser(
        prog="htdg", description="Few-shot anomaly detection from one to ten normal images (HTDG)."
    )
    parser.add_argument("--version", action="version", version=f"htdg {htdg.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_score(commands)
    _add_calibrate(commands)
    _add_sample(commands)
    _add_info(commands)
    _add_evaluate(commands)
    _add_import_official(commands)
    _add_run(commands)
    return parser


def _command(
    commands: argparse._SubParsersAction, name: str, summary: str, example: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


# --- train --------------------------------------------------------------------------------------


def _add_train(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "train",
        "Train a model on one or a few normal images.",
        "htdg train good.png --out runs/model --preset tutorial --niter 100",
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="normal images")
    parser.add_argument("--out", required=True, type=Path, help="model directory to write")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a model that is there under this name"
    )
    _add_config_options(parser)
    parser.set_defaults(command=_train)


def _add_config_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="tutorial", choices=PRESETS, help="default: tutorial")
    group = parser.add_argument_group("options of the method, in place of the preset's")
    for field in fields(HTDGConfig):
        if field.type == "bool":
            flag = f"--{field.name.replace('_', '-')}"
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None)
            continue
        kind = {"int": int, "float": float, "str": str}.get(str(field.type), name_or_list)
        group.add_argument(
            f"--{field.name.replace('_', '-')}", type=kind, metavar=kind.__name__.upper()
        )


def name_or_list(text: str) -> object:
    """A list written as JSON, or else the text itself."""
    try:
        return json.loads(text) if text.startswith("[") else text
    except ValueError:
        return text


def config_from(options: argparse.Namespace) -> HTDGConfig:
    """The preset with the options that were given. ConfigError if one is not allowed."""
    given = {f.name: getattr(options, f.name) for f in fields(HTDGConfig)}
    return HTDGConfig.preset(options.preset, **{k: v for k, v in given.items() if v is not None})


def _train(options: argparse.Namespace) -> None:
    config = config_from(options)
    if options.out.exists() and not options.overwrite:
        raise UsageError(f"{options.out} is there already: choose another --out or --overwrite it.")
    check_writable(options.out)
    check_replaceable(options.out)
    for path in options.images:
        if path.is_dir():
            raise UsageError(f"{path} is a folder: name the image files to train on.")
    out = options.out if options.out.name else options.out.resolve()
    unfinished = out.with_name(f"{out.name}.unfinished")
    if unfinished.exists():
        print(f"going on with {unfinished}", file=sys.stderr)
    detector = HTDGDetector(config).fit(options.images, checkpoint=unfinished)
    detector.save(options.out)
    remove_checkpoint(unfinished)
    print(options.out)


# --- score --------------------------------------------------------------------------------------


def _add_score(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "score",
        "Anomaly scores in [0, 1] of images or folders, higher is more anomalous, as CSV.",
        "htdg score runs/model photos/ --csv scores.csv --defect-fraction 0.05",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="model directory")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE_OR_FOLDER")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write there, not to the screen")
    parser.add_argument(
        "--defect-fraction",
        type=float,
        metavar="F",
        help="average only this share of the lowest votes, for small defects (0.05 is the paper's)",
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="images at a time")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--strict", action="store_true", help="refuse files that are no images")
    parser.add_argument(
        "--maps",
        type=Path,
        metavar="DIR",
        help="write anomaly maps there: for each image a 16-bit PNG, and an overlay with the "
        "contour at the threshold",
    )
    parser.set_defaults(command=_score)


def _score(options: argparse.Namespace) -> None:
    if options.csv is not None:
        if options.csv.is_dir():
            raise UsageError(f"--csv {options.csv} is a folder: name a file.")
        check_writable(options.csv)
    if options.maps is not None:
        check_folder("--maps", options.maps)
    detector = HTDGDetector.load(options.model, device=options.device)
    paths = collect_images(options.images, options.strict)
    threshold = detector.threshold
    fraction = options.defect_fraction
    if fraction is None and threshold is not None:
        fraction = threshold.defect_fraction
    if fraction is not None and not 0 < fraction <= 1:
        raise UsageError(f"--defect-fraction is {fraction}, but it must be above 0 and at most 1.")
    how = ((fraction,), options.maps is not None, options.batch_size, True)
    rows = []
    for i, verdict in enumerate(detector.judge(paths, *how)):
        rows.append(verdict.normality[0])
        if options.maps is not None:
            write_maps(options.maps, map_name(paths, i), paths[i], verdict, threshold)
    rows = np.stack(rows)  # (B, N + 1)
    m = len(detector.transformations)
    others = {}
    if threshold is not None and threshold.defect_fraction == fraction:
        others["anomalous"] = (1 - rows.mean(1) / m > threshold.score).astype(int)
    table = score_table([str(p) for p in paths], None, rows, m, others)
    if options.csv is None:
        print(table, end="")
    else:
        write_text(options.csv, table)
        print(options.csv)
    _tell_threshold(options, fraction, threshold)


def _tell_threshold(
    options: argparse.Namespace, fraction: float | None, threshold: Threshold | None
) -> None:
    """Say on standard error what was called anomalous, or why nothing was."""
    if threshold is None:
        told = f"no threshold, so nothing is called anomalous: htdg calibrate {options.model}"
    elif threshold.defect_fraction != fraction:
        told = (
            f"the threshold is for --defect-fraction {threshold.defect_fraction}, so nothing is "
            "called anomalous: calibrate again with this one"
        )
    else:
        told = f"threshold {threshold}"
    print(f"htdg: {told}", file=sys.stderr)


def map_name(paths: Sequence[Path], i: int) -> str:
    """What to call the maps of image i: like the image, with its number if others are, too."""
    stem = paths[i].stem
    return stem if sum(p.stem == stem for p in paths) == 1 else f"{stem}_{i:04d}"


def write_maps(
    folder: Path, name: str, path: Path, verdict: Verdict, threshold: Threshold | None
) -> None:
    """``<name>_map.png``, 0 to 65535 for 0 to 1, and ``<name>_overlay.png``."""
    found = verdict.anomaly_map
    levels = np.round(found * 65535).astype(np.uint16)
    write_bytes(folder / f"{name}_map.png", png_bytes(levels))
    image = to_uint8(load_image(path)[None])[0]
    limit = None if threshold is None else threshold.pixel
    write_bytes(folder / f"{name}_overlay.png", png_bytes(overlay(image, found, limit)))


def check_folder(option: str, folder: Path) -> None:
    """Make the folder of an option; UsageError if that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{option} {folder} cannot be a folder: {error.strerror}.") from None


def collect_images(places: Sequence[Path], strict: bool = False) -> list[Path]:
    """The image files among ``places`` and below the folders in it, in order.

    Other files in folders are named on standard error and passed over, or refused if ``strict``.
    UsageError if nothing is left.
    """
    found: list[Path] = []
    for place in places:
        if not place.is_dir():
            found.append(place)
            continue
        inside, skipped = list_images(place, strict)
        name_skipped(skipped)
        if not inside:
            raise UsageError(f"{place} holds no image: name a folder with images in it.")
        found += inside
    return found


# --- calibrate ----------------------------------------------------------------------------------


def _add_calibrate(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "calibrate",
        "Choose the anomaly score from which on images are called anomalous, from normal ones.",
        "htdg calibrate runs/model held_out/ --false-positive-rate 0.05",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="model directory")
    parser.add_argument(
        "images",
        nargs="*",
        type=Path,
        metavar="IMAGE_OR_FOLDER",
        help="normal images that did not train; without any, the model generates some, which is "
        "less reliable",
    )
    parser.add_argument(
        "--false-positive-rate",
        type=float,
        default=0.05,
        metavar="P",
        help="share of normal images that may be called anomalous (default: 0.05)",
    )
    parser.add_argument(
        "--defect-fraction", type=float, metavar="F", help="as it will be given to score"
    )
    parser.add_argument(
        "--generated", type=int, default=200, metavar="N", help="images to generate (default: 200)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of their noise (default: 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.set_defaults(command=_calibrate)


def _calibrate(options: argparse.Namespace) -> None:
    fraction = options.defect_fraction
    if fraction is not None and not 0 < fraction <= 1:
        raise UsageError(f"--defect-fraction is {fraction}, but it must be above 0 and at most 1.")
    detector = HTDGDetector.load(options.model, device=options.device)
    threshold = detector.calibrate(
        collect_images(options.images) if options.images else None,
        options.false_positive_rate,
        fraction,
        options.generated,
        options.seed,
        progress=True,
    )
    detector.save(options.model)
    print(f"threshold {threshold}")


# --- sample and info ----------------------------------------------------------------------------


def _add_sample(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "sample",
        "Draw random images from a model, to see what it has learnt.",
        "htdg sample runs/model -n 8 --out samples --size 64 128",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="model directory")
    parser.add_argument("-n", type=int, default=8, help="how many (default: 8)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the PNG files")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument(
        "--size",
        type=int,
        nargs="+",
        metavar="PIXELS",
        help="side, or height and width (default: that of the finest scale)",
    )
    parser.add_argument(
        "--from-scale",
        type=int,
        default=0,
        metavar="N",
        help="coarser scales rebuild the training image, only those from this one on are random",
    )
    parser.add_argument(
        "--grid",
        action="store_true",
        help="also grid.png: a row of samples for each scale that randomness can begin at",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.set_defaults(command=_sample)


def _sample(options: argparse.Namespace) -> None:
    if options.n < 1:
        raise UsageError(f"-n is {options.n}, but it must be at least 1.")
    size = options.size
    if size is not None:
        if len(size) > 2:
            raise UsageError(f"--size has {len(size)} numbers, but it is a side, or two.")
        size = size[0] if len(size) == 1 else tuple(size)
    detector = HTDGDetector.load(options.model, device=options.device)
    samples = detector.sample(options.n, options.seed, size, options.from_scale)  # (n, 3, H, W)
    check_folder("--out", options.out)
    for i, sample in enumerate(to_uint8(samples)):
        path = options.out / f"sample_{i:03d}.png"
        write_bytes(path, png_bytes(sample))
        print(path)
    drawn = [samples]
    if options.grid:
        rows = {}
        for n, side in enumerate(detector.sides):
            drawn.append(detector.sample(options.n, options.seed, size, n))
            rows[f"random from scale {n}\n({side} px)"] = to_uint8(drawn[-1])
        save_figure(plot_sample_grid(rows), options.out / "grid.png")
        print(options.out / "grid.png")
    beyond = float((torch.cat(drawn).abs() > 1).double().mean())
    if beyond:
        print(
            f"htdg: {beyond:.2%} of the values lay beyond black or white and were cut.",
            file=sys.stderr,
        )


def _add_info(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "info", "Say what a model is and how it was trained.", "htdg info runs/model"
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="model directory")
    parser.set_defaults(command=_info)


def _info(options: argparse.Namespace) -> None:
    detector = HTDGDetector.load(options.model, device="cpu")
    config = detector.config
    described = json.loads((options.model / "config.json").read_text())
    seconds = sum(scale["seconds"] for scale in detector.history)
    print(f"model            {options.model} (format {described['format']})")
    print(f"trained on       {', '.join(detector.image_names)}")
    print(
        f"                 with htdg {described['htdg']}, torch {described['torch']}, on "
        f"{described['trained_on']} in {seconds:.0f} s"
    )
    print(f"scales           {' '.join(str(s) for s in detector.sides)} pixels")
    print(f"transformations  {len(detector.transformations)}, translation {config.translation}")
    print(f"threshold        {detector.threshold or 'none: htdg calibrate makes one'}")
    for name, value in described["config"].items():
        if name not in ("transformations", "translation"):
            print(f"{name:<16} {value}")


# --- evaluate -----------------------------------------------------------------------------------


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "evaluate",
        "Train on a data set's normal images, score its test images, and report metrics.",
        "htdg evaluate --dataset fashionmnist --normal-class Sneaker --shots 1 --index 1 \\\n"
        "      --limit 1000 --out runs/sneaker",
    )
    data = parser.add_argument_group("which images")
    data.add_argument("--dataset", required=True, metavar="NAME", help=", ".join(dataset_names()))
    data.add_argument(
        "--normal-class", "--category", metavar="CLASS", help="name or number of the normal class"
    )
    data.add_argument("--shots", type=int, default=1, metavar="K", help="training images")
    data.add_argument("--index", type=int, metavar="I", help="the I-th block of K, from 1")
    data.add_argument("--draw", type=int, metavar="SEED", help="draw them with this seed instead")
    data.add_argument("--limit", type=int, metavar="N", help="test on the first N images only")
    data.add_argument("--limit-per-kind", type=int, metavar="N", help="on the first N of each kind")
    data.add_argument("--data-root", type=Path, default=Path("data"), help="default: data")
    data.add_argument(
        "--equalise",
        choices=EQUALISE,
        help="even out contrast of colour images (default: train for paper_rgb, else none)",
    )
    data.add_argument(
        "--defect-fraction",
        type=float,
        nargs="+",
        metavar="F",
        help="average only the lowest share of the votes; several come from one pass",
    )
    data.add_argument(
        "--variant",
        metavar="LETTER",
        help="an ablation of the paper's Table 6: "
        + ", ".join(f"{v.letter} {v.name}" for v in VARIANTS),
    )
    own = parser.add_argument_group("options of single data sets")
    own.add_argument("--train", metavar="DIR", help="folder: good images")
    own.add_argument("--test", metavar="DIR", help="folder: images to test")
    own.add_argument("--masks", metavar="DIR", help="folder: masks of the defects")
    own.add_argument("--strict", action="store_true", default=None, help="folder: images only")
    own.add_argument("--archive", metavar="FILE", help="mvtec: archive to unpack")
    parser.add_argument("--model", type=Path, help="use this trained model, do not train")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run's results")
    _add_config_options(parser)
    parser.set_defaults(command=_evaluate)


def _evaluate(options: argparse.Namespace) -> None:
    names = ("train", "test", "masks", "strict", "archive")
    config = config_from(options)
    if options.model is not None:
        _check_no_training_options(options)
    if options.variant is not None:
        variant = variant_named(options.variant)
        for name in variant.options:
            if getattr(options, name) is not None:
                raise UsageError(
                    f"Variant {variant.letter} ({variant.name}) sets {name} itself: leave out "
                    f"--{name.replace('_', '-')}."
                )
    own = {n: getattr(options, n) for n in names if getattr(options, n) is not None}
    task = Task(
        dataset=options.dataset,
        normal_class=options.normal_class,
        shots=options.shots,
        index=options.index,
        draw=options.draw,
        limit=options.limit,
        limit_per_kind=options.limit_per_kind,
        data_root=options.data_root,
        options=own,
        equalise=options.equalise or default_equalise(options.preset, config),
        defect_fraction=options.defect_fraction,
        variant=options.variant,
    )
    metrics = evaluate(task, options.out, config, model=options.model, overwrite=options.overwrite)
    for fraction, auroc in metrics.get("image_auroc_per_fraction", {}).items():
        print(f"image_auroc, lowest {float(fraction):.0%} of the votes  {auroc:.4f}")
    names = ("image_auroc", "average_precision", "f1_max", "pixel_auroc", "aupro")
    for name in (*names, "undefined_because", "pixel_undefined_because"):
        if metrics.get(name) is not None:
            value = metrics[name]
            print(f"{name:<18} {value if isinstance(value, str) else format(value, '.4f')}")
    print(f"results in         {options.out}")


def _check_no_training_options(options: argparse.Namespace) -> None:
    for field in fields(HTDGConfig):
        if field.name != "device" and getattr(options, field.name) is not None:
            raise UsageError(
                f"--{field.name.replace('_', '-')} changes nothing about a trained model: leave "
                "out either it or --model."
            )


# --- import-official ----------------------------------------------------------------------------


def _add_import_official(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "import-official",
        "Make a model of one that was trained with the official code.",
        "htdg import-official TrainedModels/car runs/car --transformations car.json",
    )
    parser.add_argument(
        "folder",
        type=Path,
        metavar="DIR",
        help="holds 0/netG.pth, 0/netD.pth, 1/..., Zs.pth and NoiseAmp.pth; no code in them is run",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="model directory to write")
    parser.add_argument(
        "--image-size",
        type=int,
        default=128,
        metavar="S",
        help="side that the training had images resized to (default: 128)",
    )
    parser.add_argument(
        "--transformations",
        type=Path,
        metavar="FILE",
        help="their list in the order of the classes, rows of grey, flip, tx, ty, k, as .pth, "
        ".json or .npy (default: DIR/transformations.pth, .json or .npy)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a model that is there under this name"
    )
    parser.set_defaults(command=_import_official)


def _import_official(options: argparse.Namespace) -> None:
    model = options.model
    if model.exists() and not options.overwrite:
        raise UsageError(f"{model} is there already: choose another MODEL or --overwrite it.")
    check_writable(model)
    check_replaceable(model)
    import_official(options.folder, options.image_size, options.transformations).save(model)
    print(model)


# --- run ----------------------------------------------------------------------------------------


def _add_run(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "run",
        "Execute a notebook of the course with parameters and keep its results.",
        "htdg run 00_quickstart --out runs/grass -p texture grass",
    )
    parser.add_argument("notebook", metavar="NOTEBOOK", help="its name, or a path")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter of the notebook, in the type of its default",
    )
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> None:
    result = run_notebook(options.notebook, options.out, dict(options.p))
    print(summary(result, options.out))
