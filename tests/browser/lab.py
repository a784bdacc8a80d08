"""A JupyterLab of one's own, on a copy of the notebooks, that asks nobody anything."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parents[2]
#: Seconds that the server may take to answer the first time, and to end.
START, STOP = 120, 30
#: What is not as in a fresh JupyterLab: all cells are in the page at once, and nothing pops up.
SETTINGS = {
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification": {
        "checkForUpdates": False,
        "doNotDisturbMode": True,
        "fetchNews": "false",
    },
}


class Lab:
    """A running JupyterLab.

    Attributes:
        url: its address.
        token: what lets one in.
        folder: what it serves; ``notebooks`` and ``data`` lie in it.
    """

    def __init__(self, url: str, token: str, folder: Path) -> None:
        """Describe a server that runs already, or will soon."""
        self.url, self.token, self.folder = url, token, folder

    def ask(self, path: str, method: str = "GET") -> Any:
        """What the server's REST interface answers."""
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(f"{self.url}/api/{path}", method=method, headers=headers)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")

    def page(self, notebook: str) -> str:
        """The address of a notebook's page, in a workspace where nothing else is open."""
        return f"{self.url}/lab/tree/{notebook}?token={self.token}&reset"

    def stop_kernels(self) -> None:
        """End the kernels of all notebooks."""
        for session in self.ask("sessions"):
            self.ask(f"sessions/{session['id']}", "DELETE")


def copy_notebooks(folder: Path) -> None:
    """Copy the notebooks, without their outputs, and the images that they read into ``folder``."""
    ignored = shutil.ignore_patterns(".ipynb_checkpoints")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=ignored)
    shutil.copytree(ROOT / "data" / "textures", folder / "data" / "textures")
    for path in (folder / "notebooks").rglob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell["outputs"], cell["execution_count"] = [], None
        nbformat.write(notebook, path)


def free_port() -> int:
    """A port on this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment(folder: Path) -> dict[str, str]:
    """The server's environment: its settings, workspaces and histories lie below ``folder``."""
    settings = folder / "settings"
    for name, values in SETTINGS.items():
        path = settings / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    variables = {
        "IPYTHONDIR": "ipython",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "share",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    }
    places = {name: str(folder / place) for name, place in variables.items()}
    # One thread: the browser wants a core, too.
    places |= {"JUPYTERLAB_SETTINGS_DIR": str(settings), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **places}


@contextmanager
def jupyterlab(folder: Path, log: Path) -> Iterator[Lab]:
    """A JupyterLab on a copy of the notebooks in ``folder``; ended, whatever happens.

    Args:
        folder: an empty folder, where the server may leave what it likes.
        log: the file that the server's messages go to.
    """
    served = folder / "served"
    served.mkdir(parents=True)
    copy_notebooks(served)
    port, token = free_port(), secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    command += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={served}"]
    command += [f"--IdentityProvider.token={token}", "--LabApp.news_url=None"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    command += ["--LabApp.extension_manager=readonly"]
    lab = Lab(f"http://127.0.0.1:{port}", token, served)
    with log.open("w") as messages:
        server = subprocess.Popen(
            command,
            cwd=served,
            env=environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=messages,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_for(lab, server, log)
            yield lab
        finally:
            end(server)


def wait_for(lab: Lab, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server answers.

    Raises:
        RuntimeError: it ended, or takes too long.
    """
    until = time.monotonic() + START
    while time.monotonic() < until and server.poll() is None:
        try:
            lab.ask("status")
        except OSError:
            time.sleep(0.3)
        else:
            return
    raise RuntimeError(f"JupyterLab did not start; its messages are in {log}")


def end(server: subprocess.Popen[bytes]) -> None:
    """End the server, which ends its kernels; kill it if it does not listen."""
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(STOP)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
