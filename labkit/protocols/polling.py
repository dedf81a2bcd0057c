"""Polling, the baseline: the consumer asks again and again (HTTP, RFC 9110), and long polling, where the answer waits.

At-most-once: "give me the latest", with an ETag and 304 when it is still the same. At-least-once: a cursor, "what
came after this id", so nothing is missed; a cursor that is evicted is answered 410 with the gap spelled out.
Long polling is the same with `Prefer: wait=` (RFC 7240 section 4.3): the producer holds the request open.
"""

import asyncio
import random
from collections.abc import Callable
from time import monotonic_ns
from typing import TypeVar

from aiohttp import ClientError, ClientResponse, web

from labkit.errors import TrialError
from labkit.event import decode_gap, decode_id, encode_id
from labkit.ledger import Kind
from labkit.protocols.base import Consumer, Producer, gap_response
from labkit.protocols.eventlog import UNKNOWN, Gap
from labkit.workload import Scheduled

Found = TypeVar("Found")

PAGE = 1000
"""The most events in one answer."""


class PollingProducer(Producer):
    """The server. `GET /events/latest` and `GET /events?after=ID`, both with `topic`; one event a line (NDJSON)."""

    async def open(self, port: int = 0) -> str:
        self._news = asyncio.Event()
        app = web.Application()
        app.router.add_get("/events/latest", self._latest)
        app.router.add_get("/events", self._after)
        return await self.serve(app, port)

    async def _latest(self, request: web.Request) -> web.Response:
        topic, known = request.query.get("topic"), request.headers.get("If-None-Match")

        def changed() -> Scheduled | None:
            item = self.log.latest(topic)
            return item if item and _etag(item) != known else None

        item = await self._within(_preferred_wait(request, self.timings.hold), changed)
        return _answer([item]) if item else _unchanged(request, self.log.latest(topic))

    async def _after(self, request: web.Request) -> web.Response:
        topic, after = request.query.get("topic"), request.query.get("after")
        cursor = self.log.oldest - 1 if after is None else decode_id(after)
        cursor = UNKNOWN if cursor is None else cursor
        wait = _preferred_wait(request, self.timings.hold)
        try:
            items = await self._within(wait, lambda: self.log.after(cursor, topic, PAGE))
        except Gap as gap:
            return gap_response(gap)
        return _answer(items) if items else _unchanged(request, self.log.get(cursor))

    async def _within(self, wait: float, look: Callable[[], Found]) -> Found:
        """What `look` finds at once or, looking again after each new event, within `wait` seconds."""
        try:
            async with asyncio.timeout(wait):
                while not (found := look()) and wait:
                    await self._news.wait()
        except TimeoutError:
            pass
        return found

    async def publish(self, item: Scheduled) -> None:
        self.log.append(item)
        self._news.set()
        self._news = asyncio.Event()


def _preferred_wait(request: web.Request, limit: float) -> float:
    for preference in request.headers.get("Prefer", "").split(","):
        name, _, value = preference.strip().partition("=")
        if name == "wait" and value.isascii() and value.isdigit():
            return min(int(value), limit)
    return 0.0


def _etag(item: Scheduled) -> str:
    return f'"{encode_id(item.sequence)}"'


def _answer(items: list[Scheduled]) -> web.Response:
    headers = {"ETag": _etag(items[-1]), "Content-Type": "application/x-ndjson"}
    return web.Response(body=b"".join(item.raw + b"\n" for item in items), headers=headers)


def _unchanged(request: web.Request, item: Scheduled | None) -> web.Response:
    """304 with the ETag it confirms (RFC 9110 section 15.4.5) where one was asked about, else 204."""
    if item and "If-None-Match" in request.headers:
        return web.Response(status=304, headers={"ETag": _etag(item)})
    return web.Response(status=204)


class PollingConsumer(Consumer):
    """The clients, each polling on its own, at a phase of its own."""

    held = False

    async def connect(self, peer: str | None, public: str | None) -> None:
        assert peer is not None
        self._url = f"{peer}/events" if self.recovers else f"{peer}/events/latest"
        self._asked = dict.fromkeys(self.hosts, 0)
        self._asking: set[int] = set()
        self._client = await self.client(self.timings.request + (self.timings.hold if self.held else 0))
        for subscriber in self.hosts:
            self.tasks.start(self.keep(subscriber, self._session, ClientError))
        await self.all_up(self._url)

    async def _session(self, subscriber: int) -> None:
        """Polls until a request fails."""
        loop, interval = asyncio.get_running_loop(), 0.0 if self.held else self.timings.poll
        # Without a random phase all subscribers would ask in the same instant, and look faster or slower than they are.
        due = loop.time() + interval * random.Random(f"{self.trial.workload.seed} {subscriber}").random()
        while True:
            asked = monotonic_ns()
            self._asking.add(subscriber)
            while await self._poll(subscriber):
                pass  # a gap tells what is missing, and nothing yet of what there is
            self._asking.discard(subscriber)
            self._asked[subscriber] = asked
            self.up(subscriber)
            due += interval
            await asyncio.sleep(max(0.0, due - loop.time()))

    def pending(self, since_ns: int) -> int:
        """A held request hears of news at once, once it is made; any other subscriber has to have asked again."""
        if self.held:
            return self.count - len(self._asking)
        return sum(asked < since_ns for asked in self._asked.values())

    async def _poll(self, subscriber: int) -> bool:
        """One request; True when it was answered with a gap signal."""
        last = self.last[subscriber]
        headers = {"Prefer": f"wait={round(self.timings.hold)}"} if self.held and subscriber in self.live else {}
        if last is not None:
            headers["If-None-Match"] = f'"{encode_id(last)}"'
        self.ledger.write(Kind.REQUESTED, subscriber=subscriber)
        async with self._client.get(self._url + self.query(subscriber), headers=headers) as response:
            body = await response.read()
            return self._take(subscriber, response, body)

    def _take(self, subscriber: int, response: ClientResponse, body: bytes) -> bool:
        if response.status == 200:
            for raw in body.splitlines():
                self.deliver(subscriber, raw)
        elif response.status == 410 and (gap := decode_gap(body)):
            self.ledger.write(Kind.GAP, gap[0], subscriber, gap[1])
            self.last[subscriber] = gap[1] - 1 if gap[1] else None
            return True
        elif response.status not in (204, 304):
            raise TrialError(f"{self._url} answered {response.status}, which is no answer to a poll.")
        return False


class LongPollingProducer(PollingProducer):
    """The same server: holding a request open is the client's wish."""


class LongPollingConsumer(PollingConsumer):
    """The clients, each with one request open nearly all the time."""

    held = True
