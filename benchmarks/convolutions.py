"""Which convolutions are faster here, ours or PyTorch's: ``python -m benchmarks.convolutions``.

``htdg.fast.choice`` measures it only where it must, on processors with AMX in bf16; elsewhere
``htdg.fast.convolution`` is used by rule. This holds the rule against the machine: forward and
backward together, for each type, width and number of pixels, as the choice itself would time them.
Writes its part of ``benchmarks/README.md``; ``--print`` prints it only.
"""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path

import torch

from benchmarks.report import write_part
from benchmarks.studies import table
from htdg.fast import native
from htdg.fast.convolution import NARROWEST, times_as_fast
from htdg.runtime.device import keep_freed_memory, machine

#: Sides of a square with as many pixels as all canvases together: few, as in scoring, and many.
SIDES = (16, 32, 64, 128, 256)
WIDTHS = (16, NARROWEST, 32, 64)
ROUNDS = 3


def page() -> str:
    """How many times as fast as PyTorch's ours are, as Markdown."""
    rows = []
    for dtype, name in ((torch.float32, "float32"), (torch.bfloat16, "bf16")):
        if not native.lanes(dtype):
            rows.append([name, "not on this processor", *[""] * len(SIDES)])
            continue
        for width in WIDTHS:
            ratios = [
                statistics.median(1 / times_as_fast(dtype, width, width, s) for _ in range(ROUNDS))
                for s in SIDES
            ]
            rows.append([name, str(width), *(f"{ratio:.2f}" for ratio in ratios)])
    heads = ["type", "width", *(f"{side} x {side}" for side in SIDES)]
    return "\n".join(
        [
            f"{machine(torch.device('cpu'))}, PyTorch {torch.__version__}. How many times as fast",
            "as PyTorch's convolutions ours are, forward and backward, by the number of pixels of",
            f"all images together; medians of {ROUNDS}. Ours are used from {NARROWEST} channels.",
            "",
            *table(heads, rows),
            "",
        ]
    )


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="Ours or PyTorch's convolutions.")
    parser.add_argument("--print", action="store_true", help="write nothing")
    options = parser.parse_args()
    os.environ.pop("HTDG_CONVOLUTIONS", None)
    keep_freed_memory()
    if options.print:
        print(page())
    else:
        write_part(Path(__file__).with_name("README.md"), "Convolutions", page())


if __name__ == "__main__":
    main()
