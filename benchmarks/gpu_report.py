"""What a run on a GPU leaves behind while it runs: ``gpu.json`` and ``gpu.txt`` in a folder.

Every figure is on disk as soon as it is there, so that a run that is cut off loses nothing else.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from htdg.errors import UserError
from htdg.io.files import write_text
from htdg.runtime.device import machine

#: What can have become of a part. One that is still "running" afterwards was cut off from outside.
STATES = ("running", "done", "incomplete", "stopped", "failed", "skipped")
Results = dict[str, Any]


def read_results(file: Path) -> Results:
    """What a run wrote. UserError if there is no such file, or it is none of ours."""
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{file} cannot be read: {why}.") from None
    if not isinstance(results, dict) or not {"parts", "device", "quick"} <= results.keys():
        raise UserError(f"{file} does not hold what python -m benchmarks.gpu writes.")
    return results


def described(device: torch.device, quick: bool, commit: str) -> Results:
    """The beginning of the results: what runs, and where."""
    return {
        "device": device.type,
        "card": machine(device),
        "driver": driver() if device.type == "cuda" else "",
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "commit": commit,
        "quick": quick,
        "parts": {},
    }


def driver() -> str:
    """The version of the GPU's driver, "unknown" where nobody says."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(words, check=True, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return (said.splitlines() or ["unknown"])[0].strip()


class Report:
    """The files of a run; the process that is at work on a part alone writes them."""

    def __init__(self, folder: Path) -> None:
        """The files in a folder, which need not exist yet."""
        self.file, self.text = folder / "gpu.json", folder / "gpu.txt"

    def begin(self, description: Results) -> None:
        """Start anew, or go on with the parts of a run of the same kind on the same card."""
        same = ("device", "card", "torch", "quick", "commit")
        results = description
        if self.file.is_file():
            earlier = read_results(self.file)
            if any(earlier[key] != description[key] for key in same):
                raise UserError(
                    f"{self.file} is of another commit, card or PyTorch, or --quick: "
                    "choose another --out."
                )
            if description["commit"] == "unknown":
                raise UserError(
                    f"{self.file} is of an unknown commit, perhaps another one: "
                    "choose another --out, or say with --commit what runs, each time."
                )
            results = earlier
        self._write(results)

    def results(self) -> Results:
        """All that is known so far."""
        return read_results(self.file)

    def set_state(self, part: str, state: str, **more: object) -> None:
        """What has become of a part, and whatever else is to be known of it."""
        assert state in STATES
        results = self.results()
        results["parts"].setdefault(part, {"results": {}}).update(state=state, **more)
        self._write(results)

    def restart(self, part: str, limit: float = 0.0) -> None:
        """A part begins that may take so many seconds: what an earlier run found is forgotten."""
        results = self.results()
        begun = {"state": "running", "limit": limit, "results": {}, "left_out": []}
        results["parts"][part] = begun
        self._write(results)

    def keep(self, part: str, key: str, value: object) -> None:
        """A figure of a part."""
        results = self.results()
        results["parts"][part]["results"][key] = value
        self._write(results)

    def leave_out(self, part: str, key: str) -> None:
        """A figure that there was no time for."""
        results = self.results()
        results["parts"][part]["left_out"].append(key)
        self._write(results)

    def say(self, text: str) -> None:
        """Print it, and add it to the text file."""
        print(text, flush=True)
        with self.text.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")

    def _write(self, results: Results) -> None:
        write_text(self.file, json.dumps(results, indent=1) + "\n")


class OutOfTime(Exception):
    """A part's time is up; the message says how far it came."""


@dataclass
class Run:
    """What a part is given: where it computes, until when, and where its figures go.

    Attributes:
        part: its name.
        device: where it computes.
        quick: whether it only shows that it works, at tiny sizes.
        data_root: folder that holds the data sets.
        report: where its figures go.
        seconds: after which it is to begin nothing else.
    """

    part: str
    device: torch.device
    quick: bool
    data_root: Path
    report: Report
    seconds: float
    _started: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        """Seconds that are left, negative afterwards."""
        return self.seconds - (time.monotonic() - self._started)

    def has_time(self, key: str) -> bool:
        """Whether there is time for a figure; where there is none, that is said and kept."""
        if self.left() > 0:
            return True
        self.report.leave_out(self.part, key)
        self.report.say(f"{key}: skipped, no time left")
        return False

    def keep(self, key: str, value: object, line: str) -> None:
        """A figure, and the line that tells it."""
        self.report.keep(self.part, key, value)
        self.report.say(f"{key}: {line}")
