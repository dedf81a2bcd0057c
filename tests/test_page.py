import asyncio
import json
import time
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from labkit.page import HEADER, RETRY_MS, PageRole
from labkit.protocols.sse import Parser

PAGE = "http://localhost:8888"
FOREIGN = "http://localhost:9999"
PATHS = pytest.mark.parametrize("path", ["clock", "asked", "ending", "staying", "socket"])


@asynccontextmanager
async def page_role():
    role = PageRole()
    opened = await role.open(PAGE)
    try:
        yield role, opened["url"]
    finally:
        await role.close()


def messages(body):
    parser = Parser()
    return list(parser.feed(body)), parser.retry


async def ended(role):
    async with asyncio.timeout(10):
        while await role.status() != {"sockets": 0}:
            await asyncio.sleep(0.005)


def socket_of(url):
    return f"ws{url.removeprefix('http')}/socket"


def test_the_clock_is_the_one_of_the_ledgers_and_no_cache_keeps_it(bench):
    async def scenario():
        async with page_role() as (_, url):
            before = time.monotonic_ns()
            status, headers, body = await bench.curl(f"{url}/clock")
            assert status == 200
            assert headers["cache-control"] == "no-store"
            assert before < int(body) < time.monotonic_ns()

    asyncio.run(scenario())


def test_a_page_of_the_origin_may_read_the_clock(bench):
    async def scenario():
        async with page_role() as (_, url):
            _, headers, _ = await bench.curl("-H", f"Origin: {PAGE}", f"{url}/clock")
            assert headers["access-control-allow-origin"] == PAGE

    asyncio.run(scenario())


@PATHS
def test_a_page_of_another_origin_is_refused(bench, path):
    async def scenario():
        async with page_role() as (role, url):
            status, headers, _ = await bench.curl("-H", f"Origin: {FOREIGN}", f"{url}/{path}")
            assert status == 403
            assert "access-control-allow-origin" not in headers
            assert await role.status() == {"sockets": 0}

    asyncio.run(scenario())


def test_a_page_that_asks_first_may_send_a_header_of_its_own(bench):
    wish = ["-X", "OPTIONS", "-H", "Access-Control-Request-Method: GET", "-H", f"Origin: {PAGE}"]

    async def scenario():
        async with page_role() as (_, url):
            _, headers, _ = await bench.curl(*wish, f"{url}/asked")
            assert headers["access-control-allow-headers"] == HEADER

    asyncio.run(scenario())


def test_a_stream_tells_the_headers_that_it_was_asked_with(bench):
    async def scenario():
        async with page_role() as (_, url):
            status, headers, body = await bench.curl("-H", f"{HEADER}: mine", f"{url}/asked")
            assert (status, headers["content-type"]) == (200, "text/event-stream")
            ((_, data, _),), _ = messages(body)
            assert json.loads(data)[HEADER.lower()] == "mine"

    asyncio.run(scenario())


@pytest.mark.parametrize(("last", "following"), [(None, "1"), ("1", "2"), ("41", "42"), ("²", "1"), ("x", "1")])
def test_a_stream_that_ends_tells_the_id_that_it_was_asked_with(bench, last, following):
    async def scenario():
        async with page_role() as (_, url):
            _, _, body = await bench.curl(*(["-H", f"Last-Event-ID: {last}"] if last else []), f"{url}/ending")
            ((_, data, event_id),), retry = messages(body)
            assert (json.loads(data), event_id, retry) == (last, following, RETRY_MS)

    asyncio.run(scenario())


def test_a_stream_and_a_socket_stay_open_and_sockets_are_counted(bench):
    async def scenario():
        async with page_role() as (role, url), bench.reading("curl", "-sSNi", f"{url}/staying") as curl:
            assert b"200 OK" in await curl.stdout.readuntil(b"\r\n\r\n")
            assert await curl.stdout.readexactly(3) == b":\n\n"
            async with connect(socket_of(url), proxy=None, origin=PAGE) as socket:
                before = time.monotonic_ns()
                await socket.send("")
                assert before < int(await socket.recv()) < time.monotonic_ns()
                assert await role.status() == {"sockets": 1}
            await ended(role)
            assert curl.returncode is None

    asyncio.run(scenario())


def test_a_page_of_another_origin_gets_no_socket():
    async def scenario():
        async with page_role() as (_, url):
            with pytest.raises(InvalidStatus, match="403"):
                async with connect(socket_of(url), proxy=None, origin=FOREIGN):
                    pass

    asyncio.run(scenario())


def test_a_node_plays_the_role_and_ends_with_its_standard_input(node):
    child = node("page")
    assert child.ask("open", origin=PAGE)["result"]["url"].startswith("http://127.0.0.1:")
    assert child.ask("status") == {"result": {"sockets": 0}}
    assert child.end() == 0
