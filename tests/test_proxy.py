"""The proxy: what it passes on, what it drops, what it holds back, and how it fails."""

import asyncio
import gzip
import logging
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientPayloadError, ClientSession, web
from conftest import Bench
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from labkit.errors import UsageError
from labkit.proxy import HELD, Proxy


def through(
    bench: Bench, answer: Any, use: Callable[[ClientSession, Proxy, Any], Awaitable[None]], **habits: bool
) -> None:
    """Runs `use` with a client, a proxy and the server behind it, which answers as it is told."""

    async def scenario() -> None:
        async with bench.server(answer) as server, ClientSession(auto_decompress=False) as client:
            proxy = await asyncio.to_thread(Proxy, server.url, **habits)
            try:
                async with asyncio.timeout(15):
                    await use(client, proxy, server)
            finally:
                await asyncio.to_thread(proxy.close)

    asyncio.run(scenario())


def test_method_path_fields_and_body_come_through_unchanged(bench: Bench) -> None:
    body = gzip.compress(b"hello" * 1000)

    def answer(_: Any) -> web.Response:
        return web.Response(status=207, reason="Odd", body=body, headers={"Content-Encoding": "gzip", "X-A": "1"})

    async def use(client: ClientSession, proxy: Proxy, server: Any) -> None:
        headers = {"X-Asked": "yes", "Content-Type": "text/odd"}
        async with client.patch(proxy.url + "/a%2Fb/c?d=%20e", data=body, headers=headers) as response:
            assert (response.status, response.reason, await response.read()) == (207, "Odd", body)
            assert response.headers["X-A"] == "1"
            assert response.headers["Via"] == "1.1 labkit"
            assert int(response.headers["Content-Length"]) == len(body)
        (request,) = server.requests
        assert (request.method, request.raw_path) == ("PATCH", "/a%2Fb/c?d=%20e")
        assert request.headers["X-Asked"] == "yes"
        assert request.headers["Content-Type"] == "text/odd"
        assert request.headers["Host"] == server.url.removeprefix("http://")
        assert server.bodies == [body]
        assert proxy.answered == 1

    through(bench, answer, use)


def test_hop_by_hop_fields_and_those_that_connection_names_are_dropped(bench: Bench) -> None:
    def answer(_: Any) -> web.Response:
        return web.Response(headers={"Connection": "X-Mine", "X-Mine": "1", "Keep-Alive": "timeout=5", "ETag": '"1"'})

    async def use(client: ClientSession, proxy: Proxy, server: Any) -> None:
        headers = {"Connection": "X-Private, keep-alive", "X-Private": "1", "TE": "trailers", "Upgrade": "h2c"}
        async with client.get(proxy.url, headers=headers) as response:
            assert {"X-Mine", "Keep-Alive"} & set(response.headers) == set()
            assert response.headers["ETag"] == '"1"'
        (request,) = server.requests
        assert {"X-Private", "TE", "Upgrade", "Keep-Alive"} & set(request.headers) == set()

    through(bench, answer, use)


def test_a_request_without_a_body_gets_none_and_nothing_is_added(bench: Bench) -> None:
    async def use(client: ClientSession, proxy: Proxy, server: Any) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(proxy.url.rpartition(":")[2]))
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 204")
        writer.close()
        assert set(server.requests[0].headers) == {"Host", "Via"}

    through(bench, 204, use)


def test_a_large_body_in_chunks_streams_up_and_down(bench: Bench) -> None:
    parts = [bytes([number]) * 65536 for number in range(12)]

    async def echo(request: Any) -> web.StreamResponse:
        return web.Response(body=await request.read())

    async def chunks() -> Any:
        for part in parts:
            yield part

    async def use(client: ClientSession, proxy: Proxy, server: Any) -> None:
        async with client.post(proxy.url, data=chunks()) as response:
            assert await response.read() == b"".join(parts)
        assert server.requests[0].headers["Transfer-Encoding"] == "chunked"

    through(bench, echo, use)


def stream(first: bytes, go_on: asyncio.Event, **headers: str) -> Callable[[Any], Awaitable[web.StreamResponse]]:
    """An answer that sends `first` and the rest when it is told to."""

    async def answer(request: Any) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **headers})
        await response.prepare(request)
        await response.write(first)
        await go_on.wait()
        await response.write(b"the rest")
        return response

    return answer


@pytest.mark.parametrize(
    ("habits", "headers"),
    [({}, {}), ({"buffers": True}, {"X-Accel-Buffering": "no"})],
    ids=["a proxy that streams", "a buffering proxy, told not to"],
)
def test_a_stream_comes_through_as_it_is_written(bench: Bench, habits: Any, headers: dict[str, str]) -> None:
    go_on = asyncio.Event()

    async def use(client: ClientSession, proxy: Proxy, _: Any) -> None:
        async with client.get(proxy.url) as response:
            assert await response.content.readany() == b"first"
            go_on.set()
            assert await response.read() == b"the rest"

    through(bench, stream(b"first", go_on, **headers), use, **habits)


def test_a_buffering_proxy_holds_a_stream_until_it_ends(bench: Bench) -> None:
    go_on = asyncio.Event()

    async def use(client: ClientSession, proxy: Proxy, _: Any) -> None:
        asking = asyncio.ensure_future(client.get(proxy.url))
        await bench.until(lambda: proxy.answered)
        done, _pending = await asyncio.wait({asking}, timeout=0.3)
        assert not done, "not even the head of the answer may have come"
        go_on.set()
        async with await asking as response:
            assert await response.read() == b"firstthe rest"

    through(bench, stream(b"first", go_on), use, buffers=True)


def test_a_buffering_proxy_passes_on_what_has_become_large(bench: Bench) -> None:
    async def use(client: ClientSession, proxy: Proxy, _: Any) -> None:
        async with client.get(proxy.url) as response:
            assert await response.content.readexactly(HELD) == b"x" * HELD

    through(bench, stream(b"x" * HELD, asyncio.Event()), use, buffers=True)


def test_a_client_that_leaves_takes_the_request_behind_the_proxy_with_it(bench: Bench) -> None:
    left = asyncio.Event()

    async def answer(request: Any) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x")
                await asyncio.sleep(0.01)
        finally:
            left.set()

    async def use(client: ClientSession, proxy: Proxy, _: Any) -> None:
        async with client.get(proxy.url) as response:
            assert await response.content.readexactly(1) == b"x"
        await left.wait()

    through(bench, answer, use)


def test_no_server_behind_it_is_a_502(closed_port: int) -> None:
    async def ask(proxy: Proxy) -> None:
        async with ClientSession() as client, client.get(proxy.url) as response:
            assert response.status == 502
            assert "no answer" in await response.text()
        with pytest.raises(InvalidStatus, match="502"):
            await connect(proxy.url.replace("http", "ws"), proxy=None)

    with Proxy(f"http://127.0.0.1:{closed_port}") as proxy:
        asyncio.run(ask(proxy))
        assert proxy.answered == 0


def test_an_answer_that_breaks_off_does_not_look_complete() -> None:
    server = socket.create_server(("127.0.0.1", 0))

    def break_off() -> None:
        peer, _ = server.accept()
        with peer:
            peer.recv(65536)
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    async def ask(url: str) -> None:
        async with ClientSession() as client, client.get(url) as response:
            with pytest.raises(ClientPayloadError):
                await response.read()

    thread = threading.Thread(target=break_off)
    thread.start()
    with server, Proxy(f"http://127.0.0.1:{server.getsockname()[1]}") as proxy:
        asyncio.run(ask(proxy.url))
    thread.join()


def websocket(use: Callable[[str, Any], Awaitable[None]], **habits: bool) -> None:
    """Runs `use` with the URL of a proxy in front of a WebSocket server that echoes."""

    async def echo(connection: Any) -> None:
        async for message in connection:
            if message == "drop":
                connection.transport.abort()
            await connection.send(message)

    async def scenario() -> None:
        async with serve(echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            proxy = await asyncio.to_thread(Proxy, f"ws://127.0.0.1:{port}", **habits)
            try:
                await use(proxy.url.replace("http", "ws"), server)
            finally:
                await asyncio.to_thread(proxy.close)

    asyncio.run(scenario())


def test_a_websocket_is_tunnelled_with_its_frames_untouched(caplog: pytest.LogCaptureFixture) -> None:
    async def use(url: str, server: Any) -> None:
        async with connect(url, proxy=None) as client:
            # Compression is negotiated end to end: the proxy reads no frame.
            assert client.protocol.extensions
            for message in ["a", "b" * 300_000, b"\0\xff"]:
                await client.send(message)
                assert await client.recv() == message
        await asyncio.to_thread(lambda: None)

    with caplog.at_level(logging.WARNING):
        websocket(use)
    assert caplog.records == []


def test_each_end_of_a_tunnel_closes_the_other(bench: Bench) -> None:
    async def use(url: str, server: Any) -> None:
        async with connect(url, proxy=None) as client:
            await client.send("drop")
            with pytest.raises(ConnectionClosedError):
                await client.recv()
        async with connect(url, proxy=None) as client:
            assert len(server.connections) == 1
            client.transport.abort()
        await bench.until(lambda: not server.connections)

    websocket(use)


def test_without_upgrades_a_websocket_is_refused_by_the_server() -> None:
    async def use(url: str, server: Any) -> None:
        with pytest.raises(InvalidStatus, match="426"):
            await connect(url, proxy=None)

    websocket(use, upgrades=False)


def test_closing_ends_what_is_open(bench: Bench) -> None:
    async def use(client: ClientSession, proxy: Proxy, _: Any) -> None:
        async with client.get(proxy.url) as response:
            assert await response.content.readany() == b"first"
            port = int(proxy.url.rpartition(":")[2])
            await asyncio.to_thread(proxy._run, proxy._exits.aclose())
            with pytest.raises(ClientPayloadError):
                await response.read()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)

    through(bench, stream(b"first", asyncio.Event()), use)


@pytest.mark.parametrize(
    "target",
    [
        *("", "ftp://127.0.0.1:1", "127.0.0.1:80", "http://127.0.0.1", "http://127.0.0.1:1/path"),
        *(None, "http://127.0.0.1:99999", "http://127.0.0.1:0"),
    ],
)
def test_a_target_that_is_none_is_refused(target: Any) -> None:
    threads = threading.active_count()
    with pytest.raises(UsageError, match="http://HOST:PORT"):
        Proxy(target)
    assert threading.active_count() == threads
