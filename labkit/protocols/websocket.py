"""WebSocket (RFC 6455): the consumer dials and upgrades, the producer sends one text message per event.

At-most-once: reconnect and go on from now. At-least-once: reconnect with the last id seen, the producer
replays what followed; both sides ping when nothing was said for a heartbeat, and drop a peer that stays mute.
Compression (RFC 7692) is off: it would trade CPU for bytes behind the reader's back.
"""

import asyncio
from contextlib import suppress
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.http11 import Request, Response

from labkit.ledger import Kind
from labkit.protocols.base import BACKLOG, DRAINED, HOST, Audience, Consumer, Producer, every, port_error
from labkit.protocols.origin import REFUSED, foreign
from labkit.trial import UNSENT_LIMIT
from labkit.workload import Scheduled


def _ping_interval(recovers: bool) -> float | None:
    """Out of the box the library pings every 20 s; with recovery on, the lab itself pings what has gone quiet."""
    return None if recovers else 20.0


async def _alive(connection: Connection, seconds: float) -> bool:
    """Whether a ping is answered in time (RFC 6455 section 5.5.2)."""
    try:
        async with asyncio.timeout(seconds):
            await (await connection.ping())
    except (TimeoutError, ConnectionClosed):
        return False
    return True


class WebSocketProducer(Producer):
    """The server. `GET /?topic=T&after=ID` with an Upgrade is a subscription."""

    async def open(self, port: int = 0) -> str:
        self._audience: Audience[ServerConnection] = Audience()
        ping = _ping_interval(self.recovers)
        try:
            self._server = await serve(
                self._subscription,
                HOST,
                port,
                backlog=BACKLOG,
                process_request=self._admit if self.origin else None,
                compression=None,
                close_timeout=1,
                ping_interval=ping,
            )
        except OSError as error:
            raise port_error(error, port) from error
        self.exits.push_async_callback(self._hang_up)
        if self.recovers:
            self.tasks.start(every(self.timings.heartbeat, self._drop_dead))
        return f"ws://{HOST}:{self._server.sockets[0].getsockname()[1]}"

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        assert self.origin
        strange = foreign(request.headers, self.origin)
        return connection.respond(HTTPStatus.FORBIDDEN, REFUSED.format(self.origin)) if strange else None

    async def _subscription(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        fields = parse_qs(urlsplit(connection.request.path).query)
        topic, after = fields.get("topic", [None])[0], fields.get("after", [None])[0]
        connection.transport.set_write_buffer_limits(high=UNSENT_LIMIT)
        if self.recovers and after is not None:
            signal, missed = self.log.replay(after, topic)
            for raw in ([signal] if signal else []) + [item.raw for item in missed]:
                broadcast([connection], raw, text=True)
        # Nothing was awaited since the replay was read, so live delivery follows it without a hole.
        self._audience.add(topic, connection)
        self.subscribed(after)
        try:
            if self.trial.duplex:
                await self._requests(connection)
            await connection.wait_closed()
        finally:
            self._audience.discard(topic, connection)
            self.ledger.write(Kind.DISCONNECTED)

    async def _requests(self, connection: ServerConnection) -> None:
        """Requests come up the connection on which their answers go down."""
        with suppress(ConnectionClosed):
            while True:
                await self.answer(await connection.recv(decode=False))

    async def publish(self, item: Scheduled) -> None:
        connections = self._audience.wanting(item.topic)
        broadcast(connections, item.raw, text=True)
        if self.recovers:
            self.log.append(item)
        for connection in connections:
            unsent = connection.transport.get_write_buffer_size()
            if unsent > UNSENT_LIMIT and not connection.transport.is_closing():
                self.ledger.write(Kind.OVERFLOWED, value=unsent)
                connection.transport.abort()

    async def drain(self) -> None:
        while any(connection.transport.get_write_buffer_size() > DRAINED for connection in self._audience):
            await asyncio.sleep(0)

    async def _drop_dead(self) -> None:
        async def check(connection: ServerConnection) -> None:
            if not await _alive(connection, self.timings.heartbeat):
                connection.transport.abort()

        await asyncio.gather(*map(check, self._audience.idle(self.timings.heartbeat)))

    async def _hang_up(self) -> None:
        for connection in self._audience:
            connection.transport.abort()
        self._server.close(close_connections=False)
        await self._server.wait_closed()


class WebSocketConsumer(Consumer):
    """The clients, one connection for each subscriber."""

    async def connect(self, peer: str | None, public: str | None) -> None:
        assert peer is not None
        self._peer = peer
        self._streams: dict[int, Connection] = {}
        for subscriber in self.hosts:
            self.tasks.start(self.keep(subscriber, self._session, WebSocketException))
        await self.all_up(peer)

    async def _session(self, subscriber: int) -> None:
        url = f"{self._peer}/{self.query(subscriber)}"
        timeout, ping = self.among_many(self.timings.request), _ping_interval(self.recovers)
        self.ledger.write(Kind.REQUESTED, subscriber=subscriber)
        async with connect(
            url, compression=None, open_timeout=timeout, close_timeout=0, proxy=None, ping_interval=ping
        ) as stream:
            self._streams[subscriber] = stream
            self.up(subscriber)
            reader = asyncio.ensure_future(self._read(stream, subscriber))
            try:
                if self.recovers:
                    watch = asyncio.ensure_future(self._watch(stream, subscriber))
                    await asyncio.wait({reader, watch}, return_when=asyncio.FIRST_COMPLETED)
                    watch.cancel()
                await asyncio.wait({reader})
            finally:
                stream.transport.abort()
                reader.cancel()

    async def ask(self, item: Scheduled) -> None:
        try:
            await self._streams[self.asks(item)].send(item.raw, text=True)
        except ConnectionClosed:
            self.ledger.write(Kind.REJECTED, item.sequence, self.asks(item))

    async def _read(self, stream: Connection, subscriber: int) -> None:
        with suppress(ConnectionClosed):
            while True:
                self.deliver(subscriber, await stream.recv(decode=False))

    async def _watch(self, stream: Connection, subscriber: int) -> None:
        """Ends, and ends the connection, when the producer has gone mute."""
        while True:
            seen = self.last[subscriber]
            await asyncio.sleep(self.timings.heartbeat)
            if self.last[subscriber] == seen and not await _alive(stream, self.timings.heartbeat):
                stream.transport.abort()
                return
