"""The smallest clients: one program per protocol that prints each event, as a developer would write it.

They are lessons, to be copied, and use nothing of the lab; what they cost to write is counted here from their files.
What they leave out is what the lab's own consumers add: reconnecting, replay, dropping repeats.
"""

import ast
import io
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import tokenize
from pathlib import Path
from typing import Any, NamedTuple

from labkit.errors import UsageError
from labkit.protocols import find
from labkit.server import free_port

SERVING = {
    "HTTPServer",
    "ThreadingHTTPServer",
    "TCPSite",
    "run_app",
    "start_server",
    "create_server",
    "listen",
    "serve",
}
"""Who calls one of these listens on a port."""

IDLE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


class Effort(NamedTuple):
    """What a client costs: lines of code, third-party packages, and whether it listens on a port of its own."""

    lines: int
    packages: tuple[str, ...]
    listens: bool


def path(protocol: str) -> Path:
    """Where the program is; UsageError for a protocol that is none."""
    find(protocol)
    return Path(__file__).with_name(f"{protocol}.py")


def source(protocol: str) -> Any:
    """The program, which a notebook shows in colour; its `data` is the text."""
    from IPython.display import Markdown

    return Markdown(f"```python\n{path(protocol).read_text()}```")  # type: ignore[no-untyped-call]


def effort(protocol: str) -> Effort:
    """Counted from the program itself."""
    return measured(path(protocol).read_text())


def measured(program: str) -> Effort:
    """The effort of any Python program. Blank lines, comments and its own docstring do not count as lines."""
    tree = ast.parse(program)
    imported, called = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
        elif isinstance(node, ast.Call):
            called.add(ast.unparse(node.func).rpartition(".")[2])
    packages = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names
    about = tree.body[0] if ast.get_docstring(tree) else None
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(program).readline):
        if token.type not in IDLE and not (about and token.start[0] <= (about.end_lineno or 0)):
            lines |= set(range(token.start[0], token.end[0] + 1))
    return Effort(len(lines), tuple(sorted(packages)), bool(called & SERVING))


LEASH = (
    "import os, runpy, sys, threading; sys.argv.pop(0); "
    "threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start(); "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)
"""Runs a program unchanged, and ends it when its standard input closes: with the process that started it."""


class Client:
    """One of the programs, running. Close it, or use it as a context."""

    def __init__(self, protocol: str, url: str, *, port: int = 0, public: str = "", subject: str = "labkit.>") -> None:
        """url: the server's (`launch(protocol).url`). port, public: where a client that listens does so (0: a free
        port), and the URL that leads there, if it is another. subject: what a subscriber of Pub-Sub wants."""
        row = find(protocol)
        if not isinstance(url, str) or "://" not in url:
            raise UsageError(f"The server is {url!r}; a client needs its URL, as launch({protocol!r}).url is one.")
        arguments = [url]
        if row.consumer_serves:
            port = port or free_port()
            arguments += [str(port), public or f"http://127.0.0.1:{port}/"]
        elif row.brokered:
            arguments.append(subject)
        self._folder = tempfile.TemporaryDirectory(prefix="labkit-client-")
        self._errors = Path(self._folder.name) / "errors"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", LEASH, str(path(protocol)), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                # A proxy that the user has set for the world outside does not lead to this machine.
                env={**os.environ, "no_proxy": "*"},
            )
        self.pid = self._process.pid
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._events.put(json.loads(line))

    def event(self, limit: float) -> dict[str, Any] | None:
        """The next event that it printed, or None when there is none within `limit` seconds."""
        try:
            return self._events.get(timeout=limit)
        except queue.Empty:
            return None

    @property
    def ended(self) -> bool:
        """Whether the program has come to its end."""
        return self._process.poll() is not None

    def trouble(self) -> str:
        """The last line that it wrote to standard error."""
        return self._errors.read_text(errors="replace").strip().rpartition("\n")[2]

    def close(self) -> None:
        """Ends the program."""
        assert self._process.stdin is not None
        self._process.terminate()
        self._process.wait()
        self._process.stdin.close()
        self._reader.join()
        self._folder.cleanup()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
