"""A small reverse proxy: what stands between a client and a server nearly everywhere, with its two habits to switch.

Promises HTTP/1.1 as an intermediary handles it (RFC 9110 section 7.6), with bodies that stream both ways.
Never fit for more than lessons: no TLS, no cache, no limit to what a slow reader makes a tunnel hold.
"""

import asyncio
import re
import threading
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from yarl import URL

from labkit.errors import UsageError
from labkit.protocols.base import serve_http

HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"}
"""Header fields for one connection only; those that `Connection` names are added (RFC 9110 section 7.6.1)."""

TARGET = re.compile(r"(?:http|ws)://([^/:@]+):(\d{1,5})/?")

HELD = 8192
"""Bytes of an answer that a buffering proxy waits for, unless the answer ends before: one large buffer of nginx."""

BARE = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
"""Fields that the HTTP client would add by itself; a proxy passes on what there is."""


class Proxy:
    """A proxy in front of `target`, in a thread of its own, listening at `url`. Close it, or use it as a context.

    upgrades: an Upgrade to WebSocket is passed on, and what follows is tunnelled; otherwise it is dropped, as every
    hop-by-hop field is. buffers: an answer is held until it is complete or large, unless the server forbids that
    with nginx's `X-Accel-Buffering: no`. `answered` counts the answers of the server that have begun.
    """

    def __init__(self, target: str, *, upgrades: bool = True, buffers: bool = False) -> None:
        match = TARGET.fullmatch(target) if isinstance(target, str) else None
        if not match or not 0 < int(match[2]) < 65536:
            raise UsageError(
                f"The target is {target!r}; a proxy needs http://HOST:PORT or ws://HOST:PORT, a port up to 65535."
            )
        self._host, self._port = match[1], int(match[2])
        self._upgrades, self._buffers = upgrades, buffers
        self.answered = 0
        self._exits = AsyncExitStack()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.url: str = self._run(self._open())

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _open(self) -> str:
        connector, limits = TCPConnector(limit=0), ClientTimeout(total=None, sock_connect=2.0)
        client = ClientSession(connector=connector, timeout=limits, auto_decompress=False, cookie_jar=DummyCookieJar())
        self._client = await self._exits.enter_async_context(client)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner, url = await serve_http(app, 0)
        self._exits.push_async_callback(runner.cleanup)
        return url

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        upgrade = self._upgrades and request.headers.get("Upgrade", "").lower() == "websocket"
        try:
            return await (self._tunnel(request) if upgrade else self._forward(request))
        except (ClientError, OSError, TimeoutError) as error:
            return web.Response(status=502, text=f"The server gave no answer ({type(error).__name__}).\n")

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        url = URL(f"http://{self._host}:{self._port}{request.rel_url.raw_path_qs}", encoded=True)
        fields = [(name, value) for name, value in _end_to_end(request.headers) if name.lower() != "host"]
        body = request.content if request.body_exists else None
        async with self._client.request(
            request.method, url, headers=fields, data=body, allow_redirects=False, skip_auto_headers=BARE
        ) as answer:
            self.answered += 1
            kept = _end_to_end(answer.headers)
            response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=kept)
            hold, held = HELD if self._buffers and answer.headers.get("X-Accel-Buffering") != "no" else 0, b""
            if not hold:
                await response.prepare(request)
            try:
                async for chunk in answer.content.iter_any():
                    held += chunk
                    if len(held) >= hold:
                        await response.prepare(request)
                        await response.write(held)
                        held = b""
            except ClientError:
                if request.transport is None or not response.prepared:
                    raise
                # The head is out: only a broken connection says that this is not all (RFC 9112 section 8).
                request.transport.abort()
                return response
            await response.prepare(request)
            await response.write_eof(held)
            return response

    async def _tunnel(self, request: web.Request) -> web.StreamResponse:
        """Passes the request on as it came, then bytes both ways until one side ends (RFC 9110 section 7.8)."""

        def upwards(data: bytes) -> tuple[bool, bytes]:
            writer.write(data)
            return False, b""

        reader, writer = await asyncio.open_connection(self._host, self._port)
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        writer.write(f"{request.method} {request.raw_path} HTTP/1.1\r\n{head}\r\n".encode())
        parser: Any = SimpleNamespace(feed_data=upwards, feed_eof=writer.close)
        request.protocol.set_parser(parser)
        try:
            while (chunk := await reader.read(65536)) and request.transport:
                request.transport.write(chunk)
                self.answered += not self.answered
        except ConnectionError:
            pass
        finally:
            writer.close()
            if request.transport:
                request.transport.close()
        return web.Response()

    def close(self) -> None:
        """Ends the proxy and every connection through it."""
        self._run(self._exits.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _end_to_end(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """The header fields that are passed on, and the proxy's own mark (RFC 9110 section 7.6.3)."""
    listed = ",".join(value for name, value in headers.items() if name.lower() == "connection")
    dropped = HOP_BY_HOP | {name.strip().lower() for name in listed.split(",")}
    return [*((name, value) for name, value in headers.items() if name.lower() not in dropped), ("Via", "1.1 labkit")]
