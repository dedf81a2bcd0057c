"""The contracts of a producer and a consumer, and the few things that several protocols need.

A producer never waits for its consumers; a consumer hosts many subscribers and keeps each one connected.
Neither knows of outages, ledger formats or measures: they say what happens to the ledger, as it happens.
"""

import asyncio
import errno
import random
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from time import monotonic
from typing import Generic, TypeVar
from urllib.parse import urlencode

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web

from labkit.errors import TrialError
from labkit.event import decode, decode_gap, decode_id, encode_id, sequence_of
from labkit.ledger import NO_SEQUENCE, Kind, Ledger
from labkit.protocols.eventlog import EventLog, Gap
from labkit.protocols.origin import admit
from labkit.trial import Trial
from labkit.workload import Scheduled

HOST = "127.0.0.1"
CONNECT_LIMIT = 4.0
"""Seconds in which every subscriber has to be connected, or the trial fails. Many of them have more."""

CONNECT_RATE = 100
"""Subscribers a second that a busy laptop connects in any case."""

BACKLOG = 4096
"""Connections that a server lets wait. Beyond the usual 100, Linux drops a SYN, and it is sent again after 1 s."""

HANG_UP = 0.01
"""Seconds that a request under way has left when its server closes. (0 would be no limit, to aiohttp.)"""

DRAINED = 64 * 1024
"""Bytes a stream may have unsent and still count as drained: asyncio's own high-water mark."""


Stream = TypeVar("Stream")


class Party:
    """What both sides have: the trial's spec, a ledger, and tasks, clients and servers that end with them.

    origin: the one web origin whose pages may connect to this side's server; clients that name none always may.
    """

    origin: str | None = None

    def __init__(self, trial: Trial, ledger: Ledger) -> None:
        self.trial = trial
        self.timings = trial.timings
        self.recovers, self.durable = trial.recovers, trial.durable
        self.ledger = ledger
        self.tasks = Tasks()
        self.exits = AsyncExitStack()

    async def open(self, port: int = 0) -> str | None:
        """Binds this side's server, if it has one; returns its URL."""
        return None

    async def serve(self, app: web.Application, port: int) -> str:
        """Serves an aiohttp application until the party closes; returns its URL."""
        if self.origin:
            admit(app, self.origin)
        runner, url = await serve_http(app, port)
        self.exits.push_async_callback(runner.cleanup)
        return url

    def among_many(self, seconds: float) -> float:
        """The limit in which one subscriber has to connect, from that of one alone, when all of them do so at once."""
        return seconds + self.trial.workload.subscribers // CONNECT_RATE

    async def client(self, limit: float | None = None, connections: int = 0) -> ClientSession:
        """An HTTP client that closes with the party; without cookies; no limit of time (None) or number (0)."""
        limits = ClientTimeout(total=limit, sock_connect=self.among_many(2.0))
        connector = TCPConnector(limit=connections, ttl_dns_cache=None)
        return await self.exits.enter_async_context(
            ClientSession(connector=connector, timeout=limits, auto_decompress=False)
        )

    async def close(self) -> None:
        """Ends every task, then, last come first gone, every client, connection and server."""
        await self.tasks.close()
        await self.exits.aclose()


class Producer(Party, ABC):
    """The side that has the events. Its log may have kept some from before, when it goes on for another process."""

    def __init__(self, trial: Trial, ledger: Ledger, log: EventLog | None = None) -> None:
        super().__init__(trial, ledger)
        self.log = log or EventLog()

    async def serve(self, app: web.Application, port: int) -> str:
        """As any party's; in a duplex trial `POST /requests` besides, which takes a request and answers 202."""
        if self.trial.duplex:
            app.router.add_post("/requests", self._request)
        return await super().serve(app, port)

    async def _request(self, request: web.Request) -> web.Response:
        await self.answer(await request.read())
        return web.Response(status=202)

    async def answer(self, raw: bytes) -> None:
        """Answers a request with its own bytes: an event on its subscriber's topic, the protocol's own way."""
        event = decode(raw)
        await self.publish(Scheduled(event.offset_ns, event.sequence, event.topic, raw))

    def subscribed(self, cursor: str | None) -> None:
        """Notes a subscription, and the id it asks to go on after, if any."""
        after = decode_id(cursor) if cursor else None
        self.ledger.write(Kind.CONNECTED, NO_SEQUENCE if after is None else after)

    async def connect(self, peer: str | None, spared: str | None = None) -> None:
        """Learns where the consumer's server or the broker is; where the subscribers an outage spares, if elsewhere."""
        return None

    @abstractmethod
    async def publish(self, item: Scheduled) -> None:
        """Hands one event to the protocol; returns without waiting for any consumer."""

    async def drain(self) -> None:
        """Waits until what was published has left, nearly, the process; for loads without a schedule."""
        return None

    async def pending(self) -> int:
        """Deliveries accepted and not yet ended in success or failure, as far as the producer can know."""
        return 0


class Consumer(Party, ABC):
    """The side that wants the events; hosts all subscribers of the trial, numbered from 0, or those in `hosts`."""

    def __init__(self, trial: Trial, ledger: Ledger, hosts: range | None = None) -> None:
        super().__init__(trial, ledger)
        self.hosts = range(trial.workload.subscribers) if hosts is None else hosts
        self.count = len(self.hosts)
        self.last: list[int | None] = [None] * trial.workload.subscribers
        self.live: set[int] = set()
        self._changed = asyncio.Event()
        self.tasks.on_failure = self._changed.set
        self._trouble: dict[int, str] = {}
        self.upstream = ""
        self._upstreams: dict[int, ClientSession] = {}
        self._turns: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def ask(self, item: Scheduled) -> None:
        """Sends an event as a request on behalf of the subscriber that takes its topic; does not wait for the answer.

        Unless the protocol has a way of its own, with a POST to `upstream`, over one connection for each subscriber.
        """
        self.tasks.start(self._post(item))

    async def _post(self, item: Scheduled) -> None:
        subscriber = self.asks(item)
        # The client alone gives a connection that is free again to a newcomer, before those who wait: out of order.
        async with self._turns[subscriber]:
            status = await self._post_now(item, subscriber)
        if not 200 <= status < 300:
            self.ledger.write(Kind.REJECTED, item.sequence, subscriber, status)

    async def _post_now(self, item: Scheduled, subscriber: int) -> int:
        """The status of the answer; 0 when there was none."""
        if subscriber not in self._upstreams:
            self._upstreams[subscriber] = await self.client(self.timings.request, connections=1)
        self.ledger.write(Kind.REQUESTED, item.sequence, subscriber)
        try:
            url, headers = f"{self.upstream}/requests", {"Content-Type": "application/cloudevents+json"}
            async with self._upstreams[subscriber].post(url, data=item.raw, headers=headers) as response:
                return response.status
        except (ClientError, OSError, TimeoutError):
            return 0

    def asks(self, item: Scheduled) -> int:
        """Who sends this request: the one subscriber that takes its topic."""
        return int(item.topic[1:])

    @abstractmethod
    async def connect(self, peer: str | None, public: str | None) -> None:
        """Connects every subscriber to `peer`; `public` is where the peer finds this consumer's own server."""

    def resume(self, received: dict[int, list[int]]) -> None:
        """Goes on, once open, for a process that was killed; `received` are the events its subscribers have.

        They are what an application finds in its own store: with recovery on, it goes on after the newest.
        """
        for subscriber in self.hosts:
            self.ledger.write(Kind.DISCONNECTED, subscriber=subscriber)
            if self.recovers:
                self.last[subscriber] = max(received.get(subscriber, []), default=None)

    @property
    def connected(self) -> int:
        """How many subscribers can be reached at this moment, as far as the consumer can know."""
        return len(self.live)

    def pending(self, since_ns: int) -> int:
        """Subscribers that still have to fetch something, or have not looked since that time (monotonic)."""
        return 0

    def up(self, subscriber: int) -> None:
        """Notes that a subscriber's connection is there."""
        if subscriber not in self.live:
            self.live.add(subscriber)
            self.ledger.write(Kind.CONNECTED, subscriber=subscriber)
            self._changed.set()

    def down(self, subscriber: int, reason: str) -> None:
        """Notes that a subscriber's connection is lost, or could not be had."""
        self._trouble[subscriber] = reason
        if subscriber in self.live:
            self.live.discard(subscriber)
            self.ledger.write(Kind.DISCONNECTED, subscriber=subscriber)

    def deliver(self, subscriber: int, raw: bytes) -> None:
        """Hands an event of an ordered stream to the application; with recovery on, a repeat is dropped by its id.

        A gap signal in its place is recorded as what it is.
        """
        sequence = sequence_of(raw)
        if sequence < 0 and (gap := decode_gap(raw)):
            self.ledger.write(Kind.GAP, gap[0], subscriber, gap[1])
            return
        if self.recovers and (last := self.last[subscriber]) is not None and 0 <= sequence <= last:
            self.ledger.repeated(subscriber, sequence, raw)
            return
        self.ledger.received(subscriber, sequence, raw)
        if sequence >= 0:
            self.last[subscriber] = sequence

    async def keep(self, subscriber: int, session: Callable[[int], Awaitable[None]], *errors: type[Exception]) -> None:
        """Runs `session` for a subscriber again and again, with growing waits between attempts that fail.

        The session calls `up` once it is connected and ends, or raises one of `errors`, when it is cut off.
        """
        backoff = Backoff(self.trial, subscriber)
        expected: tuple[type[Exception], ...] = (*errors, OSError, TimeoutError)
        while True:
            reason = "the connection was closed"
            try:
                await session(subscriber)
            except expected as error:
                reason = f"{type(error).__name__}: {error}"
            if subscriber in self.live:
                backoff.reset()
            self.down(subscriber, reason)
            await asyncio.sleep(backoff.next())

    async def all_up(self, peer: str) -> None:
        """Returns once every subscriber is connected; TrialError when that takes too long."""
        limit = self.among_many(CONNECT_LIMIT)
        try:
            async with asyncio.timeout(limit):
                while len(self.live) < self.count:
                    if self.tasks.failure:
                        raise self.tasks.failure
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            missing = self.count - len(self.live)
            reason = next(iter(self._trouble.values()), "no answer")
            raise TrialError(
                f"{missing} of {self.count} subscribers could not reach {peer} within {limit:g} s ({reason})."
            ) from None

    def query(self, subscriber: int, **more: str) -> str:
        """The query string of a subscription: its topic, and in `after` the last id seen, where there is one."""
        topic, last = self.trial.workload.interest(subscriber), self.last[subscriber]
        fields = {"topic": topic, "after": encode_id(last) if self.recovers and last is not None else None, **more}
        given = {key: value for key, value in fields.items() if value is not None}
        return "?" + urlencode(given) if given else ""


class Audience(Generic[Stream]):
    """The open streams of a producer, by the one topic they want (None: all)."""

    def __init__(self) -> None:
        self._groups: dict[str | None, set[Stream]] = {}
        self._sent: dict[str | None, float] = {}

    def add(self, topic: str | None, stream: Stream) -> None:
        """Adds a stream; from now on it is among the `wanting` of its topic."""
        self._groups.setdefault(topic, set()).add(stream)
        self._sent[topic] = monotonic()

    def discard(self, topic: str | None, stream: Stream) -> None:
        """Removes a stream, if it is there."""
        self._groups.get(topic, set()).discard(stream)

    def wanting(self, topic: str) -> list[Stream]:
        """The streams that want this topic; notes that they are being written to."""
        now = monotonic()
        found: list[Stream] = []
        for group in (None, topic):
            if streams := self._groups.get(group):
                found.extend(streams)
                self._sent[group] = now
        return found

    def idle(self, seconds: float) -> list[Stream]:
        """The streams that nothing was written to for so long."""
        before = monotonic() - seconds
        groups = [streams for topic, streams in self._groups.items() if self._sent.get(topic, 0) <= before]
        return [stream for streams in groups for stream in streams]

    def __iter__(self) -> Iterator[Stream]:
        return iter([stream for streams in self._groups.values() for stream in streams])


class Backoff:
    """Waits between attempts: doubling from `timings.retry` to `timings.retry_limit`, each with full jitter, seeded."""

    def __init__(self, trial: Trial, subscriber: int) -> None:
        self._first, self._limit = trial.timings.retry, trial.timings.retry_limit
        self._rng = random.Random(f"{trial.workload.seed} {trial.repeat} {subscriber}")
        self._wait = self._first

    def reset(self) -> None:
        """Starts again from the shortest wait, after an attempt that succeeded."""
        self._wait = self._first

    def next(self) -> float:
        """Seconds to wait before the next attempt."""
        wait, self._wait = self._wait, min(self._wait * 2, self._limit)
        return wait * (0.5 + self._rng.random() / 2)


class Tasks:
    """Background tasks that end together. A task that fails is remembered, never lost."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self.failure: BaseException | None = None
        self.on_failure: Callable[[], None] = lambda: None

    def start(self, work: Awaitable[None]) -> None:
        """Starts a task."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception():
            self.failure = self.failure or task.exception()
            self.on_failure()

    async def close(self) -> None:
        """Cancels every task and waits for its end.

        Again, where need be: up to Python 3.11 `asyncio.wait_for` swallows a cancellation that comes with the result.
        """
        while tasks := list(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=0.1)


async def every(seconds: float, beat: Callable[[], Awaitable[None]]) -> None:
    """Calls `beat` on an interval, forever."""
    while True:
        await asyncio.sleep(seconds)
        await beat()


async def serve_http(app: web.Application, port: int) -> tuple[web.AppRunner, str]:
    """Serves an aiohttp application on 127.0.0.1; a handler is cancelled when its client is gone."""
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=HANG_UP)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port, backlog=BACKLOG).start()
    except OSError as error:
        await runner.cleanup()
        raise port_error(error, port) from error
    return runner, f"http://{HOST}:{runner.addresses[0][1]}"


def port_error(error: OSError, port: int) -> TrialError:
    """The sentence for a server that could not bind."""
    if error.errno in (errno.EADDRINUSE, errno.EACCES):
        return TrialError(f"Port {port} is in use or not allowed; choose another, or leave it out to get a free one.")
    return TrialError(f"No server could be opened on {HOST}:{port} ({error.strerror}).")


def gap_response(gap: Gap) -> web.Response:
    """The answer to a cursor that is evicted or unknown: 410, and which events are still to be had."""
    return web.Response(status=410, body=gap.signal(), content_type="application/json")
