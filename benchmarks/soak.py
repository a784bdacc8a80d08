"""A long sweep on a running Dask cluster: does anything grow, and what is left of it?

    python -m benchmarks.soak [--runs 200] [--json FILE]

A scheduler, two workers and a client, each a process of its own, do many short runs that score 50
images each: 10,000 images in 200 runs. Meanwhile their memory, open files and sockets are looked
at, and afterwards what is left of processes, listening ports and files.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

from htdg.runtime.device import machine
from htdg.sweeps.cluster import NO_PROFILER

#: Of each part of the sweep; it is divided into as many, by runs that are done.
PARTS = 4
DIGITS = 10  # classes, each of whose test sets has five images of every digit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="a multiple of 10 (default: 200)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = soak(options.runs, Path(folder))
    print(report(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def soak(runs: int, folder: Path) -> dict[str, object]:
    """The figures of a sweep of so many runs in a folder."""
    grid = folder / "grid.yaml"
    draws = list(range(runs // DIGITS))
    grid.write_text(
        "dataset: digits\nnormal_class: all\npreset: tiny\nniter: 1\nlimit_per_kind: 5\n"
        f"runs:\n  - draw: {draws}\n"
    )
    started = {
        "scheduler": dask("scheduler", "--host", "127.0.0.1", "--port", "0", folder=folder),
    }
    while not (folder / "cluster.json").exists():
        time.sleep(0.1)
    started |= {f"worker {i}": dask("worker", "--nthreads", "1", folder=folder) for i in (1, 2)}
    address = json.loads((folder / "cluster.json").read_text())["address"]
    words = ["sweep", str(grid), "--out", str(folder / "out"), "--threads", "1"]
    words += ["--scheduler", address]
    with (folder / "client.log").open("w") as log:
        client = subprocess.Popen([sys.executable, "-m", "htdg", *words], stdout=log, stderr=log)
        began, samples, ports = time.monotonic(), [], set[int]()
        while client.poll() is None:
            done = len(list((folder / "out" / "runs").glob("*/metrics.json")))
            for name, process in {**started, "client": client}.items():
                samples += [{"done": done, "process": name, **look(process.pid)}]
                ports |= listening(process.pid)
            time.sleep(2)
    seconds = time.monotonic() - began
    if client.returncode != 0:
        raise SystemExit((folder / "client.log").read_text())
    children = [p for s in started.values() for p in psutil.Process(s.pid).children(recursive=True)]
    for process in started.values():
        process.terminate()
        process.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    results = [p for p in (folder / "out").rglob("*") if p.is_file()]
    inside = [p.relative_to(folder / "out") for p in results]
    kinds = {p.parts[2:] for p in inside if p.parts[0] == "runs"}
    return {
        "machine": machine(torch.device("cpu")),
        "runs": runs,
        "images": 50 * runs,
        "seconds": round(seconds),
        "parts": by_parts(samples, runs),
        "processes_left": len(alive),
        "ports": len(ports),
        "ports_left": len(ports & listening()),
        "files": len(results),
        "kinds_of_files_of_a_run": len(kinds),
        "other_files": sorted(str(p) for p in inside if p.parts[0] != "runs"),
    }


def dask(program: str, *words: str, folder: Path) -> subprocess.Popen[bytes]:
    """A program of Dask's that keeps what it writes in the folder."""
    command = [sys.executable, "-m", f"distributed.cli.dask_{program}", *words]
    command += ["--scheduler-file", str(folder / "cluster.json"), "--no-dashboard"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = os.environ | {NO_PROFILER: "False"}  # as docs/sweeps.md says
    return subprocess.Popen(command, cwd=folder, env=environment, **quiet)


def look(pid: int) -> dict[str, float]:
    """Memory in MiB, open files and sockets, and children of a process, with its children."""
    mib, files, sockets, processes = 0.0, 0, 0, 0
    try:
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            mib += one.memory_info().rss / 2**20
            files += one.num_fds()
            sockets += len(one.net_connections("inet"))
            processes += 1
    except psutil.Error:  # it is ending
        pass
    return {"mib": mib, "files": files, "sockets": sockets, "processes": processes}


def listening(pid: int | None = None) -> set[int]:
    """The ports on which somebody listens, or a process and its children."""
    found = psutil.net_connections("inet")
    with contextlib.suppress(psutil.Error):  # it is ending
        if pid is not None:
            one = psutil.Process(pid)
            pids = {pid, *(child.pid for child in one.children(recursive=True))}
            found = [connection for connection in found if connection.pid in pids]
    return {c.laddr.port for c in found if c.status == "LISTEN"}


def by_parts(samples: list[dict], runs: int) -> dict[str, dict[str, list[float]]]:
    """For each process and figure, its median in each part of the sweep."""
    parts: dict[str, dict[str, list[float]]] = {}
    for name in dict.fromkeys(s["process"] for s in samples):
        for figure in ("mib", "files", "sockets", "processes"):
            medians = []
            for part in range(PARTS):
                inside = [
                    s[figure]
                    for s in samples
                    if s["process"] == name and s["done"] * PARTS // (runs + 1) == part
                ]
                medians.append(round(statistics.median(inside), 1) if inside else 0.0)
            parts.setdefault(name, {})[figure] = medians
    return parts


def report(figures: dict) -> str:
    """The figures as Markdown."""
    lines = [
        f"{figures['runs']} runs, {figures['images']} images, {figures['seconds']} s, "
        f"{figures['machine']}. Medians in the four quarters of the sweep:",
        "",
        "| process | MiB | open files | sockets | processes |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, of in figures["parts"].items():
        cells = [", ".join(f"{v:g}" for v in medians) for medians in of.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Left afterwards: {figures['processes_left']} processes, {figures['ports_left']} of "
        f"{figures['ports']} ports; "
        f"{figures['files']} files, {figures['kinds_of_files_of_a_run']} kinds in the folders of "
        f"runs, and {', '.join(figures['other_files'])}.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
