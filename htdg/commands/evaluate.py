"""``htdg evaluate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from htdg.ablations.variants import VARIANTS, as_variant, variant_named
from htdg.commands.common import (
    UsageError,
    add_config_options,
    config_from,
    given_options,
    refuse_ignored,
)
from htdg.datasets import dataset_names
from htdg.errors import UnreadableImages
from htdg.evaluation.run import (
    DATASET_OPTIONS,
    EQUALISE,
    Task,
    default_equalise,
    default_fraction,
    evaluate,
)
from htdg.evidence import DEFECT_FRACTION


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    data = parser.add_argument_group("which images")
    data.add_argument("--dataset", required=True, metavar="NAME", help=", ".join(dataset_names()))
    data.add_argument(
        "--normal-class", "--category", metavar="CLASS", help="name or number of the normal class"
    )
    data.add_argument("--shots", type=int, metavar="K", help="training images (default: 1)")
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
        help="average only this share of the votes, and of the pixels of distances, the most "
        f"anomalous; several come from one pass (default: {DEFECT_FRACTION} for inspect, else all)",
    )
    data.add_argument(
        "--variant",
        metavar="LETTER",
        help="an ablation of the paper's Table 6: "
        + ", ".join(f"{v.letter} {v.name}" for v in VARIANTS),
    )
    single = parser.add_argument_group("options of single data sets")
    single.add_argument("--train", metavar="DIR", help="folder: good images")
    single.add_argument("--test", metavar="DIR", help="folder: images to test")
    single.add_argument("--masks", metavar="DIR", help="folder: masks of the defects")
    single.add_argument(
        "--good", nargs="+", metavar="NAME", help="folder: subfolders of good images, not good"
    )
    single.add_argument("--strict", action="store_true", default=None, help="folder: images only")
    single.add_argument("--archive", metavar="FILE", help="mvtec: archive to unpack")
    parser.add_argument("--model", type=Path, help="use this trained model, do not train")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run's results")
    add_config_options(parser)


def execute(options: argparse.Namespace) -> None:
    """Carry the command out."""
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
    refuse_ignored(as_variant(config, options.variant) if options.variant else config, options)
    given = {name: getattr(options, name) for name in DATASET_OPTIONS}
    of_dataset = {name: value for name, value in given.items() if value is not None}
    task = Task(
        dataset=options.dataset,
        normal_class=options.normal_class,
        shots=1 if options.shots is None else options.shots,
        index=options.index,
        draw=options.draw,
        limit=options.limit,
        limit_per_kind=options.limit_per_kind,
        data_root=options.data_root,
        options=of_dataset,
        equalise=options.equalise or default_equalise(options.preset, config),
        defect_fraction=options.defect_fraction or default_fraction(options.preset),
        variant=options.variant,
    )
    metrics = evaluate(task, options.out, config, model=options.model, overwrite=options.overwrite)
    for fraction, auroc in metrics.get("image_auroc_per_fraction", {}).items():
        if auroc is not None:
            print(f"image_auroc, most anomalous {100 * float(fraction):g}%  {auroc:.4f}")
    names = ("image_auroc", "average_precision", "f1_max", "pixel_auroc", "aupro")
    for name in (*names, "undefined_because", "pixel_undefined_because"):
        if metrics.get(name) is not None:
            value = metrics[name]
            print(f"{name:<18} {value if isinstance(value, str) else format(value, '.4f')}")
    print(f"results in         {options.out}")
    if count := len(metrics["unreadable"]):
        raise UnreadableImages(
            f"{count} of {metrics['test_images'] + count} test images cannot be read and did not "
            f"count: {options.out / 'metrics.json'} says why."
        )


def _check_no_training_options(options: argparse.Namespace) -> None:
    trained_with = [name for name in given_options(options) if name != "device"]
    drawing = ("shots", "index", "draw")
    trained_with += [name for name in drawing if getattr(options, name) is not None]
    if trained_with:
        raise UsageError(
            f"--{trained_with[0].replace('_', '-')} changes nothing about a trained model: leave "
            "out either it or --model."
        )
