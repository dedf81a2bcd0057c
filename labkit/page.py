"""What a page has to ask that is no part of a protocol: the lab's clock, and what becomes of an EventSource.

It answers pages of one origin and refuses all others. It judges nothing: what came of it, the page finds out.
"""

import asyncio
import json
from contextlib import AsyncExitStack
from time import monotonic_ns

from aiohttp import web

from labkit.protocols.base import serve_http
from labkit.protocols.origin import admit
from labkit.protocols.sse import frame

HEADER = "X-Labkit"
"""A header of one's own, which a page may send here."""

_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store"}

RETRY_MS = 200
"""What a stream that ends asks to be waited before its page connects again."""


class PageRole:
    """`/clock`; the event streams `/asked`, `/ending` and `/staying`; `/socket`, the counterpart of the last one."""

    def __init__(self) -> None:
        self._exits = AsyncExitStack()
        self._sockets = 0

    async def open(self, origin: str) -> dict[str, str]:
        app = web.Application()
        admit(app, origin, HEADER)
        for path in ("clock", "asked", "ending", "staying", "socket"):
            app.router.add_get(f"/{path}", getattr(self, f"_{path}"))
        runner, url = await serve_http(app, 0)
        self._exits.push_async_callback(runner.cleanup)
        return {"url": url}

    async def status(self) -> dict[str, int]:
        """How many sockets pages have open: with none, no page is there."""
        return {"sockets": self._sockets}

    async def _clock(self, request: web.Request) -> web.Response:
        """`time.monotonic_ns()`, the clock of every ledger."""
        return web.Response(text=str(monotonic_ns()), headers={"Cache-Control": "no-store"})

    async def _asked(self, request: web.Request) -> web.Response:
        """One event: the headers that the request came with, by their names in lower case."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        return _stream(b"retry: 86400000\n\n" + frame(json.dumps(headers).encode()))

    async def _ending(self, request: web.Request) -> web.Response:
        """One event, and the end: the `Last-Event-ID` that was asked for, if any; its own id is the next number."""
        last = request.headers.get("Last-Event-ID")
        number = int(last) + 1 if last and last.isascii() and last.isdigit() else 1
        return _stream(b"retry: %d\n\n" % RETRY_MS + frame(json.dumps(last).encode(), str(number)))

    async def _staying(self, request: web.Request) -> web.StreamResponse:
        """A stream that says nothing and stays open until its client leaves."""
        stream = web.StreamResponse(headers=_HEADERS)
        await stream.prepare(request)
        await stream.write(b":\n\n")
        await asyncio.Event().wait()
        return stream

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        """Whatever it is told, it answers with the time."""
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        self._sockets += 1
        try:
            async for _ in socket:
                await socket.send_str(str(monotonic_ns()))
        finally:
            self._sockets -= 1
        return socket

    async def close(self) -> None:
        await self._exits.aclose()


def _stream(body: bytes) -> web.Response:
    """An event stream that ends."""
    return web.Response(body=body, headers=_HEADERS)
