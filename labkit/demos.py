"""Demonstrations: what no figure of a run can tell, tried with real servers, proxies and a browser, each in seconds.

Every row says what was tried and what came of it, as a number. What cannot be tried on a machine has no row.
"""

import asyncio
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.request import ProxyHandler, Request, build_opener

from labkit import disk
from labkit.clients import Client
from labkit.errors import UsageError, shown
from labkit.protocols import PROTOCOLS
from labkit.proxy import Proxy
from labkit.server import Server, free_port, launch

FILE = "demonstrations.json"
RATE, PATIENCE, LIMIT = 5.0, 2.5, 8.0
"""Events a second; seconds to wait for one once an answer has begun; and in all, for a client that gets none."""

CROWD = 100
"""Connections to one server: enough to tell a port for each from one for all, and open files for any machine."""

CHROMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge", "microsoft-edge")


class Fact(NamedTuple):
    """One thing tried: with which protocol, under which condition; 1 or 0 for worked or not, or a count."""

    demonstration: str
    protocol: str
    condition: str
    outcome: float
    detail: str = ""


HABITS: dict[str, dict[str, bool]] = {
    "passes Upgrade": {},
    "drops Upgrade": {"upgrades": False},
    "buffers": {"buffers": True},
}
"""What reverse proxies do; the last one passes Upgrade too."""


def reach() -> Iterator[Fact]:
    """Does an event get through a reverse proxy that passes Upgrade, that drops it, and that buffers answers?"""
    with ThreadPoolExecutor(4) as pool:
        for facts in pool.map(_reached, PROTOCOLS):
            yield from facts


def _reached(protocol: str) -> list[Fact]:
    with launch(protocol, rate=RATE) as server, ThreadPoolExecutor(len(HABITS)) as pool:
        found = pool.map(lambda habit: _through(server, habit), HABITS.values())
        return [
            Fact("reach", protocol, condition, float(arrived), detail)
            for condition, (arrived, detail) in zip(HABITS, found, strict=True)
        ]


def _through(server: Server, habit: dict[str, bool]) -> tuple[bool, str]:
    """Whether the smallest client gets an event behind such a proxy, which stands before whoever listens."""
    port = free_port()
    listens = PROTOCOLS[server.protocol].consumer_serves
    scheme, _, address = server.url.partition("://")
    with Proxy(f"http://127.0.0.1:{port}" if listens else f"http://{address}", **habit) as proxy:
        url = server.url if listens else f"{scheme}://{proxy.url.partition('://')[2]}"
        with Client(server.protocol, url, port=port, public=f"{proxy.url}/" if listens else "") as client:
            begun, until = None, time.monotonic() + LIMIT
            while (now := time.monotonic()) < until and not client.ended:
                if client.event(0.1) is not None:
                    return True, ""
                begun = begun or (now if proxy.answered else None)
                if begun and now - begun > PATIENCE:
                    break
            return False, client.trouble() or "nothing came"


def any_server() -> Iterator[Fact]:
    """Do servers that know nothing of webhooks take a signed delivery, and does its signature verify?"""
    for condition, serving in SERVERS.items():
        with serving() as (url, received), launch("webhook") as server:
            secret = _endpoint(server.url, url)
            server.publish({"hello": "world"})
            try:
                genuine, detail = _verifies(secret, *received()), ""
            except TimeoutError:
                genuine, detail = False, "nothing came"
            except Refused as refused:
                genuine, detail = False, str(refused)
            yield Fact("any_server", "webhook", condition, float(genuine), detail)


def _endpoint(control: str, url: str) -> str:
    """Has a live webhook producer deliver to a URL; returns the secret."""
    wish = Request(f"{control}/endpoints", json.dumps({"url": url}).encode(), {"Content-Type": "application/json"})
    directly = build_opener(ProxyHandler({}))  # a proxy for the world outside does not lead to this machine
    with directly.open(wish, timeout=LIMIT) as answer:
        return str(json.load(answer)["secret"])


def _verifies(secret: str, headers: dict[str, str], body: bytes) -> bool:
    from standardwebhooks import Webhook, WebhookVerificationError

    try:
        Webhook(secret).verify(body, headers)
    except (WebhookVerificationError, ValueError):
        return False
    return True


Received = Callable[[], tuple[dict[str, str], bytes]]


@contextmanager
def _plain_server() -> Iterator[tuple[str, Received]]:
    """A server that keeps the first POST it gets."""
    came, kept = threading.Event(), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            kept.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            came.set()

        def log_message(self, *_: object) -> None: ...

    def received() -> tuple[dict[str, str], bytes]:
        if not came.wait(LIMIT):
            raise TimeoutError
        return kept[0]

    with _serving(Handler) as url:
        yield url, received


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@contextmanager
def _fixed() -> Iterator[tuple[str, Received]]:
    """A socket that reads one request and answers it without having understood it."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        listener.settimeout(LIMIT)

        def once() -> tuple[dict[str, str], bytes]:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as stream:
                fields = [line.decode().strip().partition(": ") for line in iter(stream.readline, b"\r\n")]
                headers = {name.lower(): value for name, _, value in fields}
                body = stream.read(int(headers["content-length"]))
                connection.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
                return headers, body

        yield f"http://127.0.0.1:{listener.getsockname()[1]}", pool.submit(once).result


class Refused(Exception):
    """A server answered a delivery and kept nothing of it; the text has its answer."""


STOCK = """
import os, runpy, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
runpy.run_module("http.server", run_name="__main__", alter_sys=True)
"""
"""`python -m http.server`, which ends when its standard input closes: so a killed parent does not leave it behind."""


@contextmanager
def _stock() -> Iterator[tuple[str, Received]]:
    """Python's own file server, as `python -m http.server` starts it; it tells each request in its log."""
    with tempfile.TemporaryDirectory(prefix="labkit-files-") as folder, ThreadPoolExecutor(1) as pool:
        command = [sys.executable, "-u", "-c", STOCK, "0", "--bind", "127.0.0.1", "--directory", folder]
        server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

        def line(pattern: str) -> str:
            found = (re.search(pattern, line) for line in iter(server.stdout.readline, ""))  # type: ignore[union-attr]
            return next((match[1] for match in found if match), "")

        def received() -> tuple[dict[str, str], bytes]:
            raise Refused(f"answered {pool.submit(line, POSTED).result(LIMIT)}")

        with server:
            try:
                yield f"http://127.0.0.1:{pool.submit(line, r' port ([0-9]+)').result(LIMIT)}", received
            finally:
                server.terminate()


POSTED = r'"POST [^"]*" ([0-9]{3})'
"""A line of that server's log: a delivery, and the status it was answered with."""

SERVERS = {
    "a handler for POST": _plain_server,
    "a fixed answer on a socket": _fixed,
    "python -m http.server": _stock,
}
"""Servers that know nothing of webhooks."""


def one_port() -> Iterator[Fact]:
    """How many ports do many WebSocket connections take, on the server's side and on their own?"""
    with launch("websocket") as server, ThreadPoolExecutor(1) as pool:
        # A notebook's kernel has an event loop of its own in this thread.
        ends = pool.submit(asyncio.run, _crowd(server.url)).result()
    yield Fact("one_port", "websocket", "connections", len(ends))
    yield Fact("one_port", "websocket", "ports of the server", len({there for _, there in ends}))
    yield Fact("one_port", "websocket", "ports of the clients", len({here for here, _ in ends}))


async def _crowd(url: str) -> list[tuple[int, int]]:
    """The local and the remote port of every connection, all open together."""
    from websockets.asyncio.client import connect

    clients = await asyncio.gather(*(connect(url, proxy=None, compression=None) for _ in range(CROWD)))
    ends = [(client.local_address[1], client.remote_address[1]) for client in clients]
    await asyncio.gather(*(client.close() for client in clients))
    return ends


def half_open() -> Iterator[Fact]:
    """How many bytes does plain TCP send, successfully, to a peer that never reads?"""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sender:
        peer, _ = listener.accept()
        with peer:
            sender.setblocking(False)
            swallowed = 0
            try:
                while True:
                    swallowed += sender.send(bytes(1024))
            except BlockingIOError:
                yield Fact("half_open", "websocket", "bytes sent to nobody", swallowed)


PAGE = b"""<!doctype html><script>
const headers = {Authorization: "Bearer secret"}, how = new URLSearchParams(location.search).get("how");
if (how == "EventSource") new EventSource("/asked", {headers});
if (how == "fetch") fetch("/asked", {headers});
</script>"""


def eventsource() -> Iterator[Fact]:
    """Does an Authorization header arrive that a page gives to EventSource, and to fetch? Needs a Chromium."""
    browser = next(filter(None, map(shutil.which, CHROMES)), None)
    for how in ("EventSource", "fetch") if browser else ():
        asked: Counter[bool] = Counter()
        with _serving(_page(asked)) as url, tempfile.TemporaryDirectory(prefix="labkit-browser-") as profile:
            switches = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}"]
            switches += ["--disable-background-networking", "--disable-sync", "--timeout=2000", "--dump-dom"]
            with suppress(subprocess.TimeoutExpired):  # a browser that hangs has shown nothing, or enough
                subprocess.run([str(browser), *switches, f"{url}/?how={how}"], capture_output=True, timeout=30)
        if asked:
            yield Fact("eventsource", "sse", how, float(asked[True] > 0), "Authorization header")


def _page(asked: "Counter[bool]") -> type[BaseHTTPRequestHandler]:
    """A server of the page that counts the requests it makes, by whether they carry the header."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = self.path.startswith("/?")
            if self.path == "/asked":
                asked["Authorization" in self.headers] += 1
            body, kind = (PAGE, "text/html") if page else (b"retry: 60000\ndata: 1\n\n", "text/event-stream")
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    return Handler


DEMONSTRATIONS: dict[str, Callable[[], Iterator[Fact]]] = {
    "reach": reach,
    "any_server": any_server,
    "one_port": one_port,
    "half_open": half_open,
    "eventsource": eventsource,
}


def run(names: str | Iterable[str] = tuple(DEMONSTRATIONS)) -> Any:
    """Carries out demonstrations: a DataFrame with the columns of `Fact`. UsageError for a name that is none."""
    import pandas as pd

    return pd.DataFrame([fact for name in wanted(names) for fact in DEMONSTRATIONS[name]()], columns=Fact._fields)


def wanted(names: Any) -> list[str]:
    """The demonstrations of these names, each once; UsageError for none, and for a name that is none."""
    several = list(names) if isinstance(names, Iterable) and not isinstance(names, str) else [names]
    for name in several:
        if name not in list(DEMONSTRATIONS):
            raise UsageError(f"There is no demonstration {shown(name)}; choose from {', '.join(DEMONSTRATIONS)}.")
    if not several:
        raise UsageError(f"There is no demonstration to carry out; name one or several of {', '.join(DEMONSTRATIONS)}.")
    return list(dict.fromkeys(several))


def save(facts: Any, folder: Path) -> None:
    """Writes what `run` found; FileExistsError rather than overwriting what was found before."""
    with (folder / FILE).open("x", encoding="utf-8") as file:
        json.dump(facts.to_dict("records"), file, indent=1)


def load(folder: Path) -> SimpleNamespace:
    """What demonstrations came to, as `demonstrations`; UsageError when their file is damaged."""
    import pandas as pd

    try:
        if changed := disk.changed(folder):
            raise ValueError(f"{changed} is not as it was written")
        rows = json.loads((folder / FILE).read_text(encoding="utf-8"))
        frame = pd.DataFrame(rows)[list(Fact._fields)].astype({"outcome": float})
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"The demonstrations in {str(folder)!r} are damaged or missing; run them again.") from None
    return SimpleNamespace(demonstrations=frame)
