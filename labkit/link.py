"""The link: a TCP relay between two sides that counts every byte, and cuts and heals on command.

Promises that what it does not cut arrives unchanged and in order; every chunk is in the ledger before it goes on.
It knows nothing of protocols, and nothing of why it is told to cut.
"""

import asyncio
import socket
import struct
from typing import cast
from urllib.parse import urlsplit

from labkit.ledger import Kind, Ledger

HOST = "127.0.0.1"
_RST_ON_CLOSE = struct.pack("ii", 1, 0)
_BYTES_RECEIVED = slice(128, 136)
"""tcpi_bytes_received in Linux's struct tcp_info."""


class Link:
    """Listens for one side and forwards to the other; as many routes as are asked for."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._servers: list[asyncio.Server] = []
        self._sides: set[_Side] = set()
        self.outage: str | None = None

    async def route(self, target: str, consumer_dials: bool) -> str:
        """Opens a way to the target's host and port; returns the target's URL with the link in its place."""
        parts = urlsplit(target)
        upstream = (parts.hostname or HOST, parts.port or 0)
        kinds = (Kind.UP, Kind.DOWN) if consumer_dials else (Kind.DOWN, Kind.UP)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Side(self, kinds[0], upstream, kinds[1]), HOST, 0)
        self._servers.append(server)
        login = parts.netloc.rpartition("@")[0]
        port = server.sockets[0].getsockname()[1]
        return parts._replace(netloc=f"{login}@{HOST}:{port}" if login else f"{HOST}:{port}").geturl()

    def cut(self, kind: str) -> None:
        """Begins an outage of this kind (a row of OUTAGES)."""
        self._ledger.write(Kind.CUT)
        self.outage = kind
        for side in list(self._sides):
            side.suffer(kind)

    def heal(self) -> None:
        """Ends the outage."""
        self.outage = None
        self._ledger.write(Kind.HEALED)
        for side in list(self._sides):
            side.resume()

    def count(self) -> None:
        """Records the kernel's own counts of the connections that are open."""
        for side in self._sides:
            side.count_kernel()

    def close(self) -> None:
        """Ends every connection."""
        for server in self._servers:
            server.close()
        for side in list(self._sides):
            side.transport.abort()


class _Side(asyncio.Protocol):
    """One of the two connections that make up a relayed one; the accepted side dials its peer."""

    transport: asyncio.Transport

    def __init__(
        self, link: Link, kind: Kind, upstream: tuple[str, int] | None = None, answer: Kind = Kind.DOWN
    ) -> None:
        self._link, self._kind, self._upstream, self._answer = link, kind, upstream, answer
        self._peer: _Side | None = None
        self._held = b""
        self._full = False
        self._ended = self._passed_end = False
        self._counted = False
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast(asyncio.Transport, transport)
        self._link._sides.add(self)
        if self._upstream is None:
            return
        if self._link.outage in ("reset", "close"):
            self.suffer(self._link.outage)
        else:
            self._task = asyncio.ensure_future(self._dial(self._upstream))

    async def _dial(self, upstream: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        peer = _Side(self._link, self._answer)
        peer._peer = self
        try:
            await loop.create_connection(lambda: peer, *upstream)
        except OSError:
            # The listener behind the link is not there: the dialler learns it as it would have without a link.
            self._reset()
            return
        self._peer = peer
        if self.transport.is_closing():
            peer.transport.abort()
        self.resume()
        peer.resume()

    def data_received(self, data: bytes) -> None:
        if self._peer and not self._link.outage:
            self._forward(data)
        else:
            # The peer is not there yet, or the link is down: a transport may hand over one more chunk after a pause.
            self._held += data
            self.transport.pause_reading()

    def _forward(self, data: bytes) -> None:
        assert self._peer
        self._link._ledger.write(self._kind, value=len(data))
        self._peer.transport.write(data)

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
        self._link._sides.discard(self)
        if self._task:
            self._task.cancel()
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
        else:
            self.transport.close()

    def resume(self) -> None:
        """Passes on what was held back and reads on, unless an outage or a full peer says otherwise."""
        if not self._peer or self._link.outage or self.transport.is_closing():
            return
        if self._held:
            self._forward(self._held)
            self._held = b""
        if self._ended:
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
        self._link._ledger.write(Kind.KERNEL_UP if self._kind is Kind.UP else Kind.KERNEL_DOWN, value=received)
