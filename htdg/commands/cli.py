"""The command line: ``htdg inspect``, ``train``, ``score``, ``calibrate``, ``sample``, ``info``,
``export``, ``evaluate``, ``sweep``, ``tables``, ``import-official``, ``run`` and ``course``.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from htdg.commands.streams import prepare_streams, settle_output, stop_quietly
from htdg.errors import UnreadableImages, UserError, is_out_of_memory
from htdg.io.files import printable
from htdg.io.problems import ImageWarning
from htdg.version import __version__


class Command(NamedTuple):
    """A command; the file of its name in ``htdg.commands`` has its arguments and what it does."""

    name: str
    summary: str
    example: str


COMMANDS = (
    Command(
        "inspect",
        "Learn from a folder of good parts, and show which new ones are anomalous, and where.",
        "htdg inspect good/ new/ --out runs/inspection",
    ),
    Command(
        "train",
        "Train a model on one or a few normal images.",
        "htdg train good.png --out runs/model --preset tutorial --niter 100",
    ),
    Command(
        "score",
        "Anomaly scores in [0, 1] of images or folders, higher is more anomalous, as CSV.",
        "htdg score runs/model photos/ --csv scores.csv --defect-fraction 0.05",
    ),
    Command(
        "calibrate",
        "Choose the anomaly score from which on images are called anomalous, from normal ones.",
        "htdg calibrate runs/model held_out/ --false-positive-rate 0.05",
    ),
    Command(
        "sample",
        "Draw random images from a model, to see what it has learnt.",
        "htdg sample runs/model -n 8 --out samples --size 64 128",
    ),
    Command(
        "info",
        "Say what a model is and how it was trained.",
        "htdg info runs/model",
    ),
    Command(
        "export",
        "Write a model as an ONNX file that scores images without Python, and check the file.",
        "htdg export runs/model --onnx runs/model.onnx",
    ),
    Command(
        "evaluate",
        "Train on a data set's normal images, score its test images, and report metrics.",
        "htdg evaluate --dataset fashionmnist --normal-class Sneaker --shots 1 --index 1 \\\n"
        "      --limit 1000 --out runs/sneaker",
    ),
    Command(
        "sweep",
        "Do all the evaluations of a grid, on several processes or machines, and go on with them.",
        "htdg sweep notebooks/runs/grids/smoke.yaml --out runs/smoke",
    ),
    Command(
        "tables",
        "Tables of what sweeps and evaluations found, beside the paper's.",
        "htdg tables runs/smoke --csv smoke.csv --figure smoke.png",
    ),
    Command(
        "import-official",
        "Make a model of one that was trained with the official code.",
        "htdg import-official TrainedModels/car runs/car --image-size 128",
    ),
    Command(
        "run",
        "Execute a notebook of the course with parameters and keep its results.",
        "htdg run 00_quickstart --out runs/grass -p texture grass",
    ),
    Command(
        "course",
        "Copy the course's notebooks into a folder of your own, to work in.",
        "htdg course my_course",
    ),
)
NO_MEMORY = (
    "There is not enough memory: close other programs, or give less at a time (smaller images, "
    "fewer of them, a lower --batch-size, --images-at-once 1)."
)
#: Commands that train or score.
COMPUTING = ("inspect", "train", "score", "calibrate", "sample", "export", "evaluate")
#: What ``keep_freed_memory`` sets, as glibc reads it from the environment of a new process.
KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(2**28),
}
#: How often a thread of OpenMP looks for the others before it sleeps; GCC's own is 300,000.
SPINS = "1000"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0: all is well. 1: all is done, but for images that could not be read. 2: a mistake of the
    user's. As shells have it, 130 after Ctrl-C, and 141 when nobody reads the output to its end.
    """
    if arguments is not None:
        return run(list(arguments))
    # A process of our own.
    if interruptible := signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop_quietly)  # while PyTorch is imported
    prepare_streams()
    bound_spinning()
    # PyTorch makes hundreds of thousands of objects as it is imported, all of which stay. To look
    # through them for garbage takes 0.2 s during the import, and half a second as Python ends.
    gc.disable()

    def begin(command: str) -> None:
        gc.freeze()
        gc.enable()
        set_allocator(command)
        if interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        return run(sys.argv[1:], begin)
    finally:
        settle_output()
        gc.freeze()


def run(words: Sequence[str], begin: Callable[[str], None] = lambda _: None) -> int:
    """``main`` with the words of a command; ``begin`` is called with its name before it starts."""
    try:
        try:
            options = build_parser(words[:1]).parse_args(words)
        except SystemExit:  # after --help, or a mistake
            sys.stdout.flush()
            raise
        begin(words[0])
        with warnings.catch_warnings():
            say_image_warnings()
            options.execute(options)
        sys.stdout.flush()  # so that a broken pipe or a full disk shows here
    except UnreadableImages as error:
        print(f"htdg: {error}", file=sys.stderr)
        return 1
    except UserError as error:
        print(f"htdg: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nhtdg: stopped; a training or a watch goes on when started again.", file=sys.stderr)
        return 130
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"htdg: {NO_MEMORY}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # as in ``htdg score ... | head -1``
        return 141
    return 0


def say_image_warnings() -> None:
    """Have warnings of images come as lines like others on standard error, each once."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, ImageWarning):
            print(f"htdg: {printable(str(message))}", file=sys.stderr)
        else:
            usual(message, category, *where, **more)

    warnings.showwarning = show
    warnings.simplefilter("default", ImageWarning)
    # PIL's, of images that are large but below the limit (``htdg.io.images.check_pixels``).
    warnings.filterwarnings("ignore", "Image size .* exceeds limit of .* pixels")


def bound_spinning() -> None:
    """Have OpenMP's threads, here and in processes that are started, sleep while they wait.

    They meet after every operation. The first ones spin, and where another program has the core of
    the last one, they do so for whole time slices (``benchmarks.busy``). OpenMP reads this as
    PyTorch is imported. It is for the whole process, so the command line sets it and the library
    never does; what the user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def set_allocator(command: str) -> None:
    """Have glibc keep freed memory, in this process or in those that ``run`` and ``sweep`` start.

    Training allocates the same tensors thousands of times, and without this the system would zero
    their pages each time. The setting is the whole process's, so the command line makes it and the
    library never does.
    """
    if command in COMPUTING:
        from htdg.runtime.device import keep_freed_memory

        keep_freed_memory()
    elif command in ("run", "sweep") and sys.platform.startswith("linux"):
        for name, value in KEEP_FREED_MEMORY.items():
            os.environ.setdefault(name, value)


def build_parser(only: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The parser with all its commands, or with the arguments of some of them only."""
    parser = argparse.ArgumentParser(
        prog="htdg",
        description="Few-shot anomaly detection from one to ten normal images (HTDG).",
        epilog="exit codes: 0 all is well; 1 all is done, but for images that could not be read; "
        "2 refused, with a sentence that says why; 130 stopped by Ctrl-C; 141 nobody reads the "
        "output any more",
    )
    parser.add_argument("--version", action="version", version=f"htdg {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        added = commands.add_parser(
            command.name,
            help=command.summary,
            description=command.summary,
            epilog=f"example:\n  {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if only is not None and command.name not in only:
            continue  # reading a command's file brings PyTorch along, which takes seconds
        module = importlib.import_module(f"htdg.commands.{command.name.replace('-', '_')}")
        module.add_arguments(added)
        added.set_defaults(execute=module.execute)
    return parser
