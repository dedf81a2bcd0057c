"""A server of notebooks as a process of its own: JupyterLab or Voila, on a free port, in a temporary folder.

All that it starts, the kernels and their children, is found by a mark in the environment and ends with it.
"""

import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
LIMIT = 30.0
"""Seconds after which a condition counts as never coming true; only a failing test waits so long."""

MARK = "LABKIT_BROWSER_TEST"
SERVERS = ("jupyterlab", "labkit", "voila", "ipykernel_launcher")

SETTINGS = {
    "notebook-extension/tracker": '{"windowingMode": "none"}',
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
}
"""Every cell of a notebook is in the page, whether or not it is in view; and nobody is asked about news."""


class Server:
    """`python -m module ...` with settings of its own; `url` is the one that it prints."""

    def __init__(self, folder: Path, *command: str) -> None:
        self.folder, self.mark = folder, secrets.token_hex(8)
        self._log = folder.with_suffix(".log")
        settings = folder.with_suffix(".settings")
        for name, text in SETTINGS.items():
            path = settings / f"config/lab/user-settings/@jupyterlab/{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True)
            path.write_text(text)
        places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime"}
        environment = os.environ | {name: str(settings / place) for name, place in places.items()}
        environment |= {"IPYTHONDIR": str(settings / "ipython"), "PYTHONPATH": str(ROOT), MARK: self.mark}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.url = ""

    def __enter__(self) -> "Server":
        try:
            wait_until(self._ready, self.log)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ready(self) -> bool:
        assert self.process.poll() is None, self.log()
        found = re.search(r"http://(?:localhost|127\.0\.0\.1):[1-9]\d*/\S*", self.log())
        self.url = found[0] if found else ""
        return bool(found)

    def log(self) -> str:
        return self._log.read_text()

    def kernels(self) -> list[psutil.Process]:
        """The kernels that run in it, the oldest first."""
        return [process for process in self._all() if _module(process) == "ipykernel_launcher"]

    def nodes(self) -> list[psutil.Process]:
        """All that the kernels have started and that still runs, orphans too."""
        return [process for process in self._all() if _module(process) not in SERVERS]

    def ports(self) -> set[int]:
        """The TCP ports on which one of these nodes listens."""
        found = set()
        for node in self.nodes():
            try:
                connections = node.net_connections("tcp")
            except psutil.NoSuchProcess:
                continue
            found |= {connection.laddr.port for connection in connections if connection.status == psutil.CONN_LISTEN}
        return found

    def _all(self) -> list[psutil.Process]:
        found = [process for process in psutil.process_iter(["environ", "create_time"]) if process.info["environ"]]
        found = [process for process in found if process.info["environ"].get(MARK) == self.mark]
        return sorted(found, key=lambda process: float(process.info["create_time"]))

    def close(self) -> None:
        """Ends it with all that it started."""
        self.process.terminate()
        try:
            self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        left = self._all()
        for process in left:
            process.kill()
        psutil.wait_procs(left, LIMIT)


def _module(process: psutil.Process) -> str:
    """What python was told to run with -m."""
    try:
        words = ["", *process.cmdline(), "-m", ""]
    except psutil.NoSuchProcess:
        return ""
    return words[words.index("-m") + 1]


def listening() -> set[int]:
    """The TCP ports of this machine on which somebody listens."""
    return {found.laddr.port for found in psutil.net_connections("tcp") if found.status == psutil.CONN_LISTEN}


def wait_until(condition: Callable[[], Any], why: Callable[[], object] = lambda: "", limit: float = LIMIT) -> None:
    """Returns once the condition holds; fails when it does not in time, and says why it may be."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"the condition did not come true in time\n{why()}"
        time.sleep(0.02)
