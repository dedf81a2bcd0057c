"""The link: a TCP relay between two sides that counts every byte, delays, and cuts and heals on command.

Promises that what it does not cut arrives unchanged and in order; every chunk is in the ledger before it goes on.
It knows nothing of protocols, and nothing of why it is told to cut. A tap gets the bytes themselves.
"""

import asyncio
import random
import socket
import struct
import sys
from collections import deque
from collections.abc import Iterator
from time import monotonic
from typing import BinaryIO, cast
from urllib.parse import urlsplit

from labkit.ledger import Kind, Ledger
from labkit.outage import Conditions

HOST = "127.0.0.1"
BACKLOG = 4096
"""Connections that may wait to be taken: as many as a server of the lab lets wait."""

UNDER_WAY = 4 * 1024 * 1024
"""Bytes that may be under way in one direction of a slow connection before its sender has to wait."""

TAP = ".tap"
"""The suffix of the file, beside the ledger's, that a tap is."""

LAST_PART = 100
"""An interrupted message lacks so many bytes at its end, or half of it when it is short: fewer than any event has."""

_RST_ON_CLOSE = struct.pack("ii", 1, 0)
_BYTES_RECEIVED = slice(128, 136)
"""tcpi_bytes_received in Linux's struct tcp_info."""


class Link:
    """Listens for one side and forwards to the other; as many routes as are asked for.

    tap: takes what the ledger counts, chunk by chunk: record by record of `UP` and `DOWN`, the next so many bytes.
    """

    def __init__(
        self, ledger: Ledger, conditions: Conditions | None = None, seed: int = 0, tap: BinaryIO | None = None
    ) -> None:
        self.ledger, self.tap = ledger, tap
        self.connections = 0
        self.conditions = conditions or Conditions()
        self._rng = random.Random(seed)
        self._free = {Kind.UP: 0.0, Kind.DOWN: 0.0}
        self._routes: list[_Route] = []

    async def route(self, target: str, consumer_dials: bool, spared: bool = False) -> str:
        """Opens a way to the target's host and port; returns the target's URL with the link in its place.

        A spared route is never cut.
        """
        route = _Route(self, target, consumer_dials, spared)
        self._routes.append(route)
        await route.listen()
        parts = urlsplit(target)
        login = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{login}@{HOST}:{route.port}" if login else f"{HOST}:{route.port}").geturl()

    def retarget(self, old: str, new: str) -> None:
        """What was on its way to the old target's host and port goes to the new one's from the next connection on."""
        for route in self._routes:
            if route.upstream == _address(old):
                route.upstream = _address(new)

    async def cut(self, kind: str) -> None:
        """Begins an outage of this kind (a row of OUTAGES that strikes the link)."""
        self.ledger.write(Kind.CUT)
        for route in self._routes:
            route.cut(kind)

    async def heal(self) -> None:
        """Ends the outage."""
        self.ledger.write(Kind.HEALED)
        for route in self._routes:
            await route.heal()

    def crosses(self, kind: Kind, size: int) -> float:
        """When so many bytes that set out now in this direction will have crossed (loop-independent monotonic s)."""
        begins = max(monotonic(), self._free[kind])
        width = self.conditions.bandwidth
        self._free[kind] = begins + size / width if width else begins
        return self._free[kind] + self.conditions.delay + self._rng.uniform(0, self.conditions.jitter)

    def accepted(self) -> int:
        """Records a connection that was accepted, and gives it its number, from 1."""
        self.connections += 1
        self.ledger.write(Kind.CONNECTED, value=self.connections)
        return self.connections

    def count(self) -> None:
        """Records the kernel's own counts of the connections that are open."""
        for route in self._routes:
            for side in route.sides:
                side.count_kernel()

    def close(self) -> None:
        """Ends every connection."""
        for route in self._routes:
            route.close()


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or HOST, parts.port or 0


class _Route:
    """One listener and where it leads."""

    def __init__(self, link: Link, target: str, consumer_dials: bool, spared: bool) -> None:
        self.link, self.upstream, self._spared = link, _address(target), spared
        self.asks, self.answers = (Kind.UP, Kind.DOWN) if consumer_dials else (Kind.DOWN, Kind.UP)
        self.sides: set[_Side] = set()
        self.outage: str | None = None
        self._server: asyncio.Server | None = None
        # Bound and never listening: while new connections are refused, nobody else is given the port. Elsewhere than
        # on Linux a second socket could not be bound beside it.
        self._claim = _bound(0)
        self.port: int = self._claim.getsockname()[1]
        if sys.platform != "linux":
            self._claim.close()

    async def listen(self) -> None:
        """Takes connections from now on."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Side(self, self.asks), sock=_bound(self.port), backlog=BACKLOG)

    def cut(self, kind: str) -> None:
        """Breaks, unless it is spared."""
        if self._spared:
            return
        self.outage = kind
        if kind == "refuse":
            self._deafen()
        for side in list(self.sides):
            side.suffer(kind)

    async def heal(self) -> None:
        """Works again."""
        if self.outage == "refuse":
            await self.listen()
        self.outage = None
        for side in list(self.sides):
            side.resume()

    def _deafen(self) -> None:
        if self._server:
            self._server.close()
            self._server = None

    def close(self) -> None:
        """Ends the listener and every connection."""
        self._deafen()
        self._claim.close()
        for side in list(self.sides):
            side.transport.abort()


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    if sys.platform != "win32":
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((HOST, port))
    return bound


class _Side(asyncio.Protocol):
    """One of the two connections that make up a relayed one; the accepted side dials its peer."""

    transport: asyncio.Transport

    def __init__(self, route: _Route, kind: Kind) -> None:
        self._route, self._kind = route, kind
        self._peer: _Side | None = None
        self._held: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._full = False
        self._ended = self._passed_end = False
        self._cut_short = False
        self._counted = False
        self._task: asyncio.Task[None] | None = None
        self._number = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast(asyncio.Transport, transport)
        self._route.sides.add(self)
        if self._peer:
            self._peer._meet(self)
            return
        self._number = self._route.link.accepted()
        if self._route.outage in ("reset", "close"):
            self.suffer(self._route.outage)
        else:
            self._task = asyncio.ensure_future(self._dial(self._route.upstream))

    async def _dial(self, upstream: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        peer = _Side(self._route, self._route.answers)
        peer._peer, peer._number = self, self._number
        try:
            await loop.create_connection(lambda: peer, *upstream)
        except OSError:
            # The listener behind the link is not there: the dialler learns it as it would have without a link.
            self._reset()

    def _meet(self, peer: "_Side") -> None:
        """Its peer is connected; done at once, so that neither can end without the other's knowing."""
        self._peer = peer
        if self.transport.is_closing():
            peer.transport.abort()
        self.resume()
        peer.resume()

    def data_received(self, data: bytes) -> None:
        if self._cut_short:
            return  # a transport may hand over one more chunk after a pause
        slow = self._route.link.conditions
        if self._route.outage == "midmessage" and self._kind is Kind.DOWN:
            data, self._cut_short = data[: -min(LAST_PART, (len(data) + 1) // 2)], True
        elif self._free and not slow:
            self._forward(data)
            return
        # The peer is not there yet, the link is slow, or it is down: here too one more chunk may come after a pause.
        if data:
            self._held.append((self._route.link.crosses(self._kind, len(data)) if slow else 0.0, data))
            self._held_bytes += len(data)
        if self._cut_short or not self._free or self._held_bytes > UNDER_WAY:
            self.transport.pause_reading()
        if self._cut_short:
            self.resume()
        else:
            self._release()

    @property
    def _free(self) -> bool:
        """Whether traffic may pass."""
        return self._peer is not None and self._route.outage != "silent"

    def _forward(self, data: bytes) -> None:
        assert self._peer
        link = self._route.link
        link.ledger.write(self._kind, self._number, value=len(data))
        if link.tap:
            link.tap.write(data)
        self._peer.transport.write(data)

    def _release(self) -> None:
        """Passes on what has crossed by now, and wakes up for the rest."""
        for data in self._crossed() if self._free else ():
            self._forward(data)
        if self._alarm:
            self._alarm.cancel()
            self._alarm = None
        if self._held and self._free:
            wait = self._held[0][0] - monotonic()
            self._alarm = asyncio.get_running_loop().call_later(max(0.0, wait), self.resume)

    def _crossed(self) -> Iterator[bytes]:
        # A chunk never overtakes the one before it: the first in the queue holds up the rest.
        while self._held and self._held[0][0] <= monotonic():
            _, data = self._held.popleft()
            self._held_bytes -= len(data)
            yield data

    def eof_received(self) -> bool:
        self.count_kernel(fin=1)
        self._ended = True
        self.resume()
        return True

    def _end_peer(self) -> None:
        """Passes the end on; with both ends passed on, the connection is over."""
        assert self._peer
        if not self._passed_end and not self._peer.transport.is_closing():
            self._peer.transport.write_eof()
        self._passed_end = True
        if self._peer._passed_end:
            self.transport.close()
            self._peer.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._route.sides.discard(self)
        if self._task:
            self._task.cancel()
        if self._alarm:
            self._alarm.cancel()
        peer = self._peer
        if peer and not peer.transport.is_closing():
            if isinstance(exc, ConnectionResetError):
                peer._reset()
            else:
                peer.transport.close()

    def pause_writing(self) -> None:
        self._full = True
        if self._peer:
            self._peer.transport.pause_reading()

    def resume_writing(self) -> None:
        self._full = False
        if self._peer:
            self._peer.resume()

    def suffer(self, kind: str) -> None:
        """Breaks in the given way."""
        if kind == "silent":
            self.transport.pause_reading()
        elif kind == "reset":
            self._reset()
        elif kind == "close":
            self.transport.close()

    def resume(self) -> None:
        """Passes on what was held back and reads on, unless an outage or a full peer says otherwise."""
        if not self._free or self.transport.is_closing():
            return
        assert self._peer
        self._release()
        if self._cut_short:
            if not self._held:
                self._peer.transport.close()
                self.transport.close()
            return
        if self._held_bytes > UNDER_WAY:
            return
        if self._ended:
            if not self._held:
                self._end_peer()
        elif not self._peer._full:
            self.transport.resume_reading()

    def _reset(self) -> None:
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        self.transport.abort()

    def count_kernel(self, fin: int = 0) -> None:
        """Records what the kernel says this side received, where it says so; a FIN counts as one byte there."""
        if self._counted or not hasattr(socket, "TCP_INFO"):
            return
        self._counted = True
        info = self.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
        received = int.from_bytes(info[_BYTES_RECEIVED], "little") - fin
        self._route.link.ledger.write(Kind.KERNEL_UP if self._kind is Kind.UP else Kind.KERNEL_DOWN, value=received)
