"""Server-Sent Events (WHATWG HTML, section 9.2): one endless HTTP response, one `data:` block per event.

At-most-once: no ids, reconnect and go on from now. At-least-once: `id:` on every event, `Last-Event-ID` on
reconnect, the producer replays what followed; a comment when nothing was said for a heartbeat.
"""

import asyncio
from collections.abc import Iterator
from typing import NamedTuple, cast

from aiohttp import ClientError, StreamReader, web

from labkit.errors import TrialError
from labkit.event import encode_id
from labkit.ledger import Kind
from labkit.protocols.base import (
    DRAINED,
    Audience,
    Consumer,
    Producer,
    every,
)
from labkit.trial import UNSENT_LIMIT
from labkit.workload import Scheduled

HEARTBEAT = b":\n\n"
MUTE = 2.5
"""Heartbeats without a byte after which a consumer takes the producer for dead."""


class Message(NamedTuple):
    """What one block of a stream dispatches: event type, data, and the last event id as it then stands."""

    event: str
    data: bytes
    id: str


class Parser:
    """The event stream interpretation of section 9.2.6, on bytes: feed it chunks, it yields messages.

    `retry` is the reconnection time in milliseconds once the stream has set one.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._started = False
        self._after_cr = False
        self._event = b""
        self._data: list[bytes] = []
        self._last_id = ""
        self.retry: int | None = None

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """The messages that this chunk completes; an unfinished block is kept for the next chunk."""
        text = self._rest + (chunk.removeprefix(b"\n") if self._after_cr else chunk)
        self._after_cr = chunk.endswith(b"\r") if chunk else self._after_cr
        if not self._started:
            if len(text) < 3 and b"\xef\xbb\xbf".startswith(text):
                self._rest = text
                return
            text, self._started = text.removeprefix(b"\xef\xbb\xbf"), True
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._rest = text.split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                self._data.append(line[6:])
            elif line:
                self._field(line)
            elif self._data:
                yield self._dispatch()
            else:
                self._event = b""

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value
        elif name == b"id" and b"\0" not in value:
            self._last_id = value.decode(errors="replace")
        elif name == b"retry" and value.isdigit() and len(value) < 16:
            self.retry = int(value)

    def _dispatch(self) -> Message:
        event = self._event.decode(errors="replace") if self._event else ""
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._event, self._data = b"", []
        return Message(event or "message", data, self._last_id)


def frame(raw: bytes, event_id: str | None = None, event: str | None = None) -> bytes:
    """One block. The data must be free of line ends, as canonical JSON is."""
    head = f"event: {event}\n".encode() if event else b""
    head += f"id: {event_id}\n".encode() if event_id else b""
    return head + b"data: " + raw + b"\n\n"


class SseProducer(Producer):
    """The server. `GET /events?topic=T` is a subscription, `Last-Event-ID` its cursor.

    Or `after=ID`: a page that has to open another EventSource cannot give it a header.
    """

    async def open(self, port: int = 0) -> str:
        self._audience: Audience[web.StreamResponse] = Audience()
        self._transports: dict[web.StreamResponse, asyncio.Transport] = {}
        app = web.Application()
        app.router.add_get("/events", self._subscription)
        url = await self.serve(app, port)
        self.exits.callback(self._hang_up)
        if self.recovers:
            self.tasks.start(every(self.timings.heartbeat, self._heartbeat))
        return url

    async def _subscription(self, request: web.Request) -> web.StreamResponse:
        topic = request.query.get("topic")
        after = request.headers.get("Last-Event-ID") or request.query.get("after")
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await stream.prepare(request)
        transport = cast(asyncio.Transport, request.transport)
        transport.set_write_buffer_limits(high=2 * UNSENT_LIMIT)
        opening = f"retry: {round(self.timings.retry * 1000)}\n\n".encode()
        if self.recovers and after:
            signal, missed = self.log.replay(after, topic)
            opening += frame(signal, event="gap") if signal else b""
            opening += b"".join(frame(item.raw, encode_id(item.sequence)) for item in missed)
        self._transports[stream] = transport
        self._audience.add(topic, stream)
        self.subscribed(after)
        try:
            # The first write goes out with the headers at once, before any event published later.
            await stream.write(opening)
            await asyncio.Event().wait()
        except ConnectionError:
            pass
        finally:
            self._audience.discard(topic, stream)
            del self._transports[stream]
            self.ledger.write(Kind.DISCONNECTED)
        return stream

    async def publish(self, item: Scheduled) -> None:
        if self.recovers:
            self.log.append(item)
            block = frame(item.raw, encode_id(item.sequence))
        else:
            block = frame(item.raw)
        await self._write(self._audience.wanting(item.topic), block)

    async def _write(self, streams: list[web.StreamResponse], block: bytes) -> None:
        for stream in streams:
            transport = self._transports[stream]
            if transport.is_closing():
                continue
            if (unsent := transport.get_write_buffer_size()) + len(block) > UNSENT_LIMIT:
                self.ledger.write(Kind.OVERFLOWED, value=unsent)
                transport.abort()
            else:
                # So far below the high-water mark this never waits: one slow subscriber does not hold up the others.
                await stream.write(block)

    async def _heartbeat(self) -> None:
        await self._write(self._audience.idle(self.timings.heartbeat), HEARTBEAT)

    async def drain(self) -> None:
        while any(transport.get_write_buffer_size() > DRAINED for transport in self._transports.values()):
            await asyncio.sleep(0)

    def _hang_up(self) -> None:
        for transport in self._transports.values():
            transport.abort()


async def _read(content: StreamReader, silence: float | None) -> bytes:
    """The next bytes; TimeoutError when they take longer than the silence that is allowed."""
    if silence is None:
        return await content.readany()
    async with asyncio.timeout(silence):
        return await content.readany()


class SseConsumer(Consumer):
    """The EventSources, one response for each subscriber."""

    async def connect(self, peer: str | None, public: str | None) -> None:
        assert peer is not None
        self._url = f"{peer}/events"
        self._client = await self.client()
        for subscriber in self.hosts:
            self.tasks.start(self.keep(subscriber, self._session, ClientError))
        await self.all_up(self._url)

    async def _session(self, subscriber: int) -> None:
        topic, last = self.trial.workload.interest(subscriber), self.last[subscriber]
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self.recovers and last is not None:
            headers["Last-Event-ID"] = encode_id(last)
        # Without heartbeats, silence says nothing; with them, a long one says that the producer is gone.
        silence = self.timings.heartbeat * MUTE if self.recovers else None
        params = {"topic": topic} if topic else None
        self.ledger.write(Kind.REQUESTED, subscriber=subscriber)
        async with self._client.get(self._url, params=params, headers=headers) as response:
            if response.status != 200 or response.content_type != "text/event-stream":
                # Section 9.2.3: any other answer fails the connection, and no attempt follows.
                raise TrialError(
                    f"{self._url} answered {response.status} {response.content_type}, not an event stream."
                )
            self.up(subscriber)
            parser = Parser()
            while True:
                chunk = await _read(response.content, silence)
                if not chunk:
                    return
                for message in parser.feed(chunk):
                    self.deliver(subscriber, message.data)
