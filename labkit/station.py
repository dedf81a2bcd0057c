"""A station: the child processes that serve one trial after the other, seen from their parent."""

import json
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import psutil

from labkit.broker import clear
from labkit.errors import NoRoomError, TrialError

ASK_LIMIT = 10.0
"""Seconds in which a node has to answer."""

LIMITS = {"connect": 60.0}
"""Commands that may take longer: 5,000 subscribers connect, and the node itself watches over that."""

PATIENCE = 4.0
"""Seconds in which a node has to end when it is asked to."""

START_LIMIT = 30.0
"""Seconds in which a node has to answer first: on a busy machine it takes some to start."""


class Stopped(Exception):
    """The run was told to stop."""


class Node:
    """The parent's side of one child process."""

    def __init__(self, role: str, log: Path, stop: threading.Event) -> None:
        self.role, self._log, self._stop = role, log, stop
        self.owned: int | None = None
        self._answered = False
        self._limits: deque[float] = deque()
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "labkit.node", role],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._answers: queue.Queue[bytes | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as answers:
            for line in answers:
                self._answers.put(line)
        self._answers.put(None)

    def tell(self, do: str, **arguments: Any) -> None:
        """Sends a command; its answer is to be fetched with `answer`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
            self._limits.append(LIMITS.get(do, ASK_LIMIT))
        except OSError as error:
            raise self._ended() from error

    def answer(self) -> Any:
        """The result of the oldest command not yet answered. Raises TrialError, or Stopped when the run is."""
        limit = self._limits.popleft() if self._answered else max(START_LIMIT, self._limits.popleft())
        until = time.monotonic() + limit
        while not self._stop.is_set():
            try:
                line = self._answers.get(timeout=0.1)
            except queue.Empty:
                if time.monotonic() > until:
                    raise TrialError(f"The {self.role} did not answer within {limit:g} s.") from None
                continue
            if line is None:
                raise self._ended()
            self._answered = True
            reply = json.loads(line)
            if "error" in reply:
                raise (TrialError if reply.get("room", True) else NoRoomError)(reply["error"])
            return reply["result"]
        raise Stopped

    def ask(self, do: str, **arguments: Any) -> Any:
        """Sends a command and returns its result."""
        self.tell(do, **arguments)
        return self.answer()

    def _ended(self) -> TrialError:
        status = self._process.wait()
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return TrialError(
            f"The {self.role} process ended (status {status}; {lines[-1] if lines else 'it said nothing'})."
        )

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def kill(self) -> None:
        """Ends the process with SIGKILL: it has no time to clean up."""
        self._process.kill()
        self._process.wait()
        self._reader.join(1)
        self.hang_up()

    def _kill_all(self) -> None:
        """What it started would outlive it, and it may have had no time yet to say what that is."""
        process = psutil.Process(self._process.pid)
        process.suspend()  # it starts nothing more
        children = process.children(recursive=True)
        for child in children:
            child.kill()
        process.kill()
        self._process.wait()
        psutil.wait_procs(children, timeout=1)

    def hang_up(self) -> None:
        """Closes the child's standard input, which ends it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError:
            pass  # it is gone already, with the pipe unflushed

    def close(self) -> None:
        """Hangs up and waits for the child's end; kills it, and what it started, if that does not come.

        Whoever stopped the run does not want to wait: then it is killed at once.
        """
        self.hang_up()
        try:
            self._process.wait(0 if self._stop.is_set() else PATIENCE)
        except subprocess.TimeoutExpired:
            self._kill_all()
        self._reader.join(1)
        if self._process.returncode:
            if self.owned:
                _kill(self.owned)
            clear(self._process.pid)
        if self._log.exists() and not self._log.stat().st_size:
            self._log.unlink()


def _kill(pid: int) -> None:
    try:
        process = psutil.Process(pid)
        if "nats" in process.name():
            process.kill()
            psutil.wait_procs([process], timeout=1)
    except psutil.NoSuchProcess:
        pass


class Station:
    """A set of nodes that serves one trial after the other; a trial that fails takes its nodes with it."""

    def __init__(self, name: str, logs: Path, stop: threading.Event) -> None:
        self._name, self._logs, self._stop = name, logs, stop
        self._nodes: dict[str, Node] = {}
        self._spares: dict[str, Node] = {}

    def _start(self, role: str) -> Node:
        return Node(role, self._logs / f"{self._name}-{role}.log", self._stop)

    def node(self, role: str) -> Node:
        """The station's node of that role, started when it is first asked for."""
        if role not in self._nodes:
            self._nodes[role] = self._start(role)
        return self._nodes[role]

    def prepare(self, role: str) -> None:
        """Starts a second node of that role, which is there when the first one is killed."""
        if role not in self._spares:
            self._spares[role] = self._start(role)

    def replace(self, role: str) -> Node:
        """A new node in the place of one that was killed."""
        self._nodes[role] = self._spares.pop(role) if role in self._spares else self._start(role)
        return self._nodes[role]

    def __enter__(self) -> "Station":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all nodes, together."""
        nodes = [*self._nodes.values(), *self._spares.values()]
        self._nodes, self._spares = {}, {}
        for node in nodes:
            node.hang_up()
        for node in nodes:
            node.close()
