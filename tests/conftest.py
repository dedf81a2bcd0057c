"""What the tests with real sockets and real processes share: a bench, and two ways to wait for a condition."""

import asyncio
import gc
import json
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import ClientSession, web

from labkit.broker import DEFAULT_SYNC, Broker
from labkit.errors import TrialError
from labkit.event import Event, encode
from labkit.ledger import Kind, Ledger, read
from labkit.protocols import find
from labkit.protocols.eventlog import EventLog
from labkit.protocols.streamlog import StreamLog
from labkit.trial import Guarantee, Measure, Payload, Timings, Trial
from labkit.workload import Scheduled, Workload

# What a script starts in the background ignores Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

LIMIT = 15.0
"""Seconds after which a condition counts as never coming true; only a failing test waits so long."""

FAST = Timings(
    heartbeat=0.2, poll=0.05, hold=8.0, retry=0.01, retry_limit=0.05, attempts=5, request=2.0, ack=0.5
)  # fmt: skip

PATIENT = replace(FAST, heartbeat=600.0, attempts=100_000)
"""Nothing happens by itself, and a delivery is never given up."""


class Plain:
    """A plain aiohttp server that answers as it is told and notes every request, its body and when it came."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self._answer = answer
        self.requests: list[web.BaseRequest] = []
        self.bodies: list[bytes] = []
        self.times: list[float] = []

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.times.append(asyncio.get_running_loop().time())
        self.requests.append(request)
        self.bodies.append(await request.read())
        answer = self._answer(request)
        if asyncio.iscoroutine(answer):
            answer = await answer
        return answer if isinstance(answer, web.StreamResponse) else web.Response(status=answer)

    async def __aenter__(self) -> "Plain":
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


class Bench:
    """Producers and consumers in this process, events to publish, and what the ledgers then say."""

    patient = PATIENT

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def trial(
        protocol: str,
        guarantee: str = "at-least-once",
        *,
        timings: Timings = FAST,
        payload: str = "full",
        subscribers: int = 1,
        topics: int = 1,
    ) -> Trial:
        workload = Workload(subscribers=subscribers, topics=topics)
        return Trial(
            "bench",
            Measure.LATENCY,
            protocol,
            Guarantee(guarantee),
            workload,
            uid=secrets.token_hex(4),
            payload=Payload(payload),
            timings=timings,
        )

    @staticmethod
    def events(count: int, start: int = 0, topics: int = 1, size: int = 0) -> list[Scheduled]:
        """Events in a row, on the topics t0, t1, ... in turn."""
        made = []
        for number in range(start, start + count):
            topic = f"t{number % topics}"
            raw = encode(Event(number, topic, number * 1000, "x" * size))
            made.append(Scheduled(number * 1000, number, topic, raw))
        return made

    @asynccontextmanager
    async def broker(self, sync: str = DEFAULT_SYNC) -> AsyncIterator[tuple[Broker, str]]:
        """The lab's own broker, and its URL."""
        broker = Broker(sync)
        try:
            yield broker, await broker.open()
        finally:
            broker.close()

    @asynccontextmanager
    async def stream_log(self, trial: Trial, url: str, name: str = "log") -> AsyncIterator[Any]:
        """An open event log on a broker, with a ledger of that name; abandoned in the end, as by a killed process."""
        with closing(Ledger(self.folder / f"{name}.ledger")) as ledger:
            log = StreamLog(trial, ledger, url)
            await log.open()
            try:
                yield log
                log.check()
            finally:
                await log._tasks.close()
                await log._client.close()

    @asynccontextmanager
    async def producer(
        self,
        trial: Trial,
        port: int = 0,
        log: EventLog | None = None,
        name: str = "producer",
        origin: str | None = None,
    ) -> AsyncIterator[tuple[Any, str]]:
        """An open producer and its URL, if it serves; `name` is that of its ledger."""
        with closing(Ledger(self.folder / f"{name}.ledger")) as ledger:
            producer = find(trial.protocol).producer()(trial, ledger, log)
            producer.origin = origin
            url = await producer.open(port)
            try:
                yield producer, url or ""
            finally:
                await producer.close()
            assert producer.tasks.failure is None

    @asynccontextmanager
    async def consumer(self, trial: Trial, port: int = 0, name: str = "consumer") -> AsyncIterator[tuple[Any, str]]:
        """An open consumer and its URL, if it serves; to be connected by the test. `name` is that of its ledger."""
        with closing(Ledger(self.folder / f"{name}.ledger")) as ledger:
            consumer = find(trial.protocol).consumer()(trial, ledger)
            url = await consumer.open(port)
            try:
                yield consumer, url or ""
            finally:
                await consumer.close()

    def records(self, side: str, kind: Kind) -> list[tuple[int, int, int]]:
        """(subscriber, sequence, value) of every record of a kind that `side` has written so far."""
        found = read(self.folder / f"{side}.ledger")
        return [(int(r["subscriber"]), int(r["sequence"]), int(r["value"])) for r in found[found["kind"] == kind]]

    def received(self, subscriber: int = 0, side: str = "consumer") -> list[int]:
        """The sequence numbers that reached a subscriber, in order of arrival."""
        return [sequence for who, sequence, _ in self.records(side, Kind.RECEIVED) if who == subscriber]

    def repeated(self, subscriber: int = 0, side: str = "consumer") -> list[int]:
        """The sequence numbers that came to a subscriber again and were dropped, in order of arrival."""
        return [sequence for who, sequence, _ in self.records(side, Kind.REPEATED) if who == subscriber]

    @staticmethod
    def server(*answers: Any) -> Plain:
        """A plain server. An answer is a status, a response, or a function of the request; the last one stays."""
        left = list(answers)

        def answer(request: Any) -> Any:
            now = left.pop(0) if len(left) > 1 else left[0]
            return now(request) if callable(now) else now

        return Plain(answer)

    @asynccontextmanager
    async def in_front_of(self, url: str) -> AsyncIterator[tuple[Plain, set[str]]]:
        """A server that passes each POST on to `url`, but answers 503 on the paths in the set it comes with."""
        held: set[str] = set()

        async def pass_on(request: Any) -> web.Response:
            if request.path in held:
                return web.Response(status=503)
            headers = {name: value for name, value in request.headers.items() if name not in ("Host", "Content-Length")}
            body = await request.read()
            async with client.post(url + request.path, headers=headers, data=body) as answer:
                kept = {name: value for name, value in answer.headers.items() if name == "X-Hook-Secret"}
                return web.Response(status=answer.status, headers=kept)

        async with ClientSession() as client, Plain(pass_on) as server:
            yield server, held

    async def refused(self, protocol: str, side: str, port: int) -> str:
        """The sentence with which a second server turns down a port that is taken."""
        other = Bench(self.folder / "other")
        other.folder.mkdir()
        with pytest.raises(TrialError) as caught:
            async with getattr(other, side)(self.trial(protocol), port):
                pass
        sentence = str(caught.value)
        del caught
        gc.collect()  # what the refused server left open is a warning in this test, not in a later one
        return sentence

    async def until(self, condition: Callable[[], Any], limit: float = LIMIT) -> None:
        """Returns once the condition holds, and fails when it does not in time."""
        end = time.monotonic() + limit
        for _ in iter(lambda: time.monotonic() < end, False):
            if condition():
                return
            await asyncio.sleep(0.005)
        assert condition(), "the condition did not come true in time"

    @staticmethod
    async def pending(producer: Any, count: int) -> None:
        """Returns once the producer says that so many deliveries are pending, and fails when it does not in time."""
        async with asyncio.timeout(LIMIT):
            for _ in iter(lambda: False, True):
                if await producer.pending() == count:
                    return
                await asyncio.sleep(0.005)

    async def curl(self, *arguments: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (names in lower case) and body of one request."""
        output, error = await self._curl("-i", *arguments)
        assert output, error.decode()
        head, _, body = output.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        return int(status.split()[1]), {name.lower(): value for name, value in headers.items()}, body

    async def _curl(self, *arguments: str) -> tuple[bytes, bytes]:
        need("curl")
        process = await asyncio.create_subprocess_exec(
            "curl", "-sS", "--max-time", "15", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        return await process.communicate()

    @asynccontextmanager
    async def deaf(self, url: str, request: bytes) -> AsyncIterator[None]:
        """A connection that sends a request and never reads the answer."""
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]), limit=1024)
        writer.write(request)
        try:
            yield
        finally:
            writer.transport.abort()

    @asynccontextmanager
    async def reading(self, *command: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """A client process whose output is read while it runs; its standard input stays open until the end."""
        need(command[0])
        process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            async with asyncio.timeout(LIMIT):
                yield process
        finally:
            if process.returncode is None:
                process.terminate()
            await process.communicate()


def need(program: str) -> None:
    """Skips a test whose independent judge is not on this machine."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed, and it is the judge here")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def wait_until(condition: Callable[[], Any], limit: float = LIMIT) -> None:
    """Returns once the condition holds, and fails when it does not in time."""
    end, pause = time.monotonic() + limit, threading.Event()
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        pause.wait(0.01)


@pytest.fixture
def until() -> Callable[..., None]:
    return wait_until


class Child:
    """A node, driven as the runner drives it: one line of JSON in, one line of JSON out."""

    def __init__(self, role: str, log: Path) -> None:
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "labkit.node", role],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )

    def tell(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """The whole answer, `result` or `error`."""
        assert self.process.stdout is not None
        self.tell(json.dumps({"do": do, **arguments}).encode())
        return dict(json.loads(self.process.stdout.readline()))

    def end(self) -> int:
        """Closes the node's standard input; returns its exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(LIMIT)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Callable[[str], Child]]:
    """Starts nodes; none, nor any process of theirs, is left when the test is over."""
    children: list[Child] = []

    def start(role: str) -> Child:
        children.append(Child(role, tmp_path / f"{role}{len(children)}.log"))
        return children[-1]

    yield start
    for child in children:
        for process in family(child.process.pid):
            process.kill()
        child.process.kill()
        child.process.wait()
        for pipe in (child.process.stdin, child.process.stdout):
            assert pipe is not None
            pipe.close()


def family(pid: int) -> list[psutil.Process]:
    """All descendants of a process."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def gone(process: psutil.Process) -> bool:
    """Whether a process has ended, whoever has yet to take note of it."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of 127.0.0.1 on which nothing listens and which nobody else is given meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
def mute_broker() -> Iterator[int]:
    """The port of a server that greets as NATS does, and never says another word."""
    stop = threading.Event()

    def serve(server: socket.socket) -> None:
        open_ones = []
        while not stop.is_set():
            with suppress(TimeoutError):
                open_ones.append(server.accept()[0])
                greeting = b'INFO {"server_id":"mute","version":"2.11.0","jetstream":true,"max_payload":1048576}\r\n'
                open_ones[-1].sendall(greeting)
        for connection in open_ones:
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        yield server.getsockname()[1]
        stop.set()
        thread.join()
