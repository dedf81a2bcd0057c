"""`launch`: a live server to poke at, with commands that work when pasted into another terminal."""

import json
import secrets
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from labkit.errors import UsageError
from labkit.protocols import find
from labkit.station import Node

RECEIVER = (
    "import http.server as s; "
    "H=type('H',(s.BaseHTTPRequestHandler,),{'do_POST':lambda h:("
    "print(h.rfile.read(int(h.headers.get('Content-Length') or 0)).decode(),flush=True),"
    "h.send_response(200),"
    "h.send_header('X-Hook-Secret',h.headers.get('X-Hook-Secret') or ''),"
    "h.send_header('Content-Length','0'),h.end_headers())}); "
    "s.HTTPServer(('127.0.0.1',{port}),H).serve_forever()"
)
"""A webhook receiver on the standard library alone. It echoes the handshake of REST Hooks and checks no signature."""

SUBSCRIBER = (
    "exec('import asyncio,nats\\nasync def main():\\n"
    " client=await nats.connect(\\x27{url}\\x27)\\n"
    " stream=await client.subscribe(\\x27{subject}\\x27)\\n"
    " async for message in stream.messages: print(message.subject,message.data.decode(),flush=True)\\n"
    "asyncio.run(main())')"
)
"""A plain NATS subscriber. Neither program has a double quote, a dollar or a bang: they fit between double quotes."""


class Place(NamedTuple):
    """Where a live server is: its own URL, the control server's, and what the commands need besides."""

    url: str
    control: str
    subject: str
    receiver: int


class Command(NamedTuple):
    """One command and what it is for."""

    purpose: str
    line: str


def _python(arguments: str) -> str:
    program = f'"{sys.executable}"' if " " in sys.executable else sys.executable
    return f"{program} {arguments}"


def _program(code: str) -> str:
    return _python(f'-c "{code}"')


def _post(url: str, body: str) -> str:
    return f"curl -s -X POST {url} -H 'Content-Type: application/json' -d '{body}'"


def _receive(place: Place) -> Command:
    return Command("receive", _program(RECEIVER.replace("{port}", str(place.receiver))))


def _target(place: Place) -> str:
    return f"http://127.0.0.1:{place.receiver}/"


COMMANDS: dict[str, Callable[[Place], list[Command]]] = {
    "websocket": lambda at: [Command("subscribe", _python(f"-m websockets {at.url}/"))],
    "webhook": lambda at: [
        _receive(at),
        Command("subscribe", _post(f"{at.control}/endpoints", f'{{"url": "{_target(at)}"}}')),
    ],
    "resthooks": lambda at: [
        _receive(at),
        Command("subscribe", _post(f"{at.url}/subscriptions", f'{{"target_url": "{_target(at)}"}}')),
        Command("list", f"curl -s {at.url}/subscriptions"),
    ],
    "pubsub": lambda at: [
        Command("subscribe", _program(SUBSCRIBER.replace("{url}", at.url).replace("{subject}", at.subject)))
    ],
    "sse": lambda at: [
        Command("subscribe", f"curl -N {at.url}/events"),
        Command("resume", f"curl -N -H 'Last-Event-ID: 00000000' {at.url}/events"),
    ],
    "polling": lambda at: [
        Command("poll", f"curl -i {at.url}/events/latest"),
        Command("go on", f"curl -i '{at.url}/events?after=00000000'"),
    ],
    "longpolling": lambda at: [
        Command("wait", f"curl -i -H 'Prefer: wait=10' {at.url}/events"),
    ],
}


class Server:
    """A live server. `url` is where it listens; `commands` are for a terminal; close it, or use it as a context."""

    def __init__(self, protocol: str, port: int, rate: float) -> None:
        self.protocol = protocol
        self._closed = False
        self._folder = tempfile.TemporaryDirectory(prefix="labkit-launch-")
        self._node = Node("live", Path(self._folder.name) / "live.log", threading.Event())
        uid = secrets.token_hex(4)
        try:
            opened = self._node.ask("open", protocol=protocol, port=port, rate=rate, uid=uid)
        except BaseException:
            self.close()
            raise
        self._node.owned = opened["pid"]
        self.url: str = opened["url"]
        place = Place(self.url, opened["control"], f"labkit.{uid}.>", free_port())
        publish = Command("publish", _post(f"{place.control}/publish", '{"data": {"hello": "world"}}'))
        self.commands = [*COMMANDS[protocol](place), publish]

    def publish(self, data: Any, topic: str = "t0") -> str:
        """Publishes one event now; returns its id. UsageError for data that JSON cannot hold."""
        try:
            json.dumps(data, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UsageError(f"The data is not JSON ({error}); publish what JSON can hold.") from None
        if self._closed:
            raise UsageError("This server has ended; launch another one.")
        event_id: str = self._node.ask("publish", data=data, topic=topic)
        return event_id

    def check(self) -> None:
        """TrialError when the server, or its broker, has failed."""
        self._node.ask("status")

    def close(self) -> None:
        """Ends the server's process and all that it started."""
        self._closed = True
        self._node.close()
        self._folder.cleanup()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        lines = [f"{find(self.protocol).title} at {self.url}", ""]
        for command in self.commands:
            lines += [f"  # {command.purpose}", f"  {command.line}", ""]
        return "\n".join(lines)


def launch(protocol: str, port: int = 0, rate: float = 0.0) -> Server:
    """A live server of a protocol on a loopback port (0: a free one), publishing `rate` events a second by itself.

    Raises UsageError for a protocol, port or rate that cannot be; TrialError when the port is in use.
    """
    find(protocol)
    if not (isinstance(port, int) and 0 <= port <= 65535):
        raise UsageError(f"The port is {port!r}; it has to be a whole number from 0 (any free one) to 65535.")
    if not 0 <= rate <= 1000:
        raise UsageError(f"The rate is {rate!r}; a live server publishes 0 to 1000 events per second by itself.")
    return Server(protocol, port, rate)


def free_port() -> int:
    """A port that is free now, for the receiver that the user may start."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
