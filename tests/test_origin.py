import asyncio
from urllib.parse import urlsplit

import pytest
from conftest import Bench

from labkit.event import encode_id
from labkit.ledger import NO_SEQUENCE, Kind

PAGE, FOREIGN = "http://localhost:8888", "http://localhost:8889"
UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
DOORS = {
    "sse": ("/events", {}, 200),
    "websocket": ("/", UPGRADE, 101),
    "polling": ("/events", {}, 204),
    "longpolling": ("/events/latest", {"Prefer": "wait=0"}, 204),
}
"""Where a subscription goes, with which headers, and how a producer that has no events yet answers it."""

ASKS_FIRST = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "if-none-match,prefer"}

ALL = pytest.mark.parametrize("protocol", DOORS)
OVER_HTTP = pytest.mark.parametrize("protocol", [name for name in DOORS if name != "websocket"])


async def asked(url, path, headers, method="GET"):
    """The status and the headers, names in lower case, with which a request is answered."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    fields = {"Host": place.netloc} | headers
    lines = [f"{method} {path} HTTP/1.1", *(f"{n}: {v}" for n, v in fields.items())]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    async with asyncio.timeout(10):
        status, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    writer.transport.abort()
    return int(status.split()[1]), {n.lower(): v for n, v in (field.split(": ", 1) for field in fields)}


def answer(bench: Bench, protocol, origin, more, method="GET"):
    """How a producer with an origin of its own, or none, answers a subscription, or a question about one."""

    async def scenario():
        async with bench.producer(bench.trial(protocol), origin=origin) as (_, url):
            path, headers, _ = DOORS[protocol]
            return await asked(url, path, more if method == "OPTIONS" else headers | more, method)

    return asyncio.run(scenario())


@ALL
def test_a_page_of_the_origin_may_connect(bench, protocol):
    status, _ = answer(bench, protocol, PAGE, {"Origin": PAGE})
    assert status == DOORS[protocol][2]


@OVER_HTTP
def test_a_page_of_the_origin_may_read_the_answer_and_its_etag(bench, protocol):
    _, headers = answer(bench, protocol, PAGE, {"Origin": PAGE})
    assert headers["access-control-allow-origin"] == PAGE
    assert headers["access-control-expose-headers"] == "ETag"
    assert headers["vary"] == "Origin"


@ALL
@pytest.mark.parametrize("origin", [FOREIGN, "", "null", "http://localhost:88888", f"{PAGE}.evil.test"])
def test_a_page_of_any_other_origin_is_refused(bench, protocol, origin):
    status, headers = answer(bench, protocol, PAGE, {"Origin": origin})
    assert status == 403
    assert "access-control-allow-origin" not in headers
    assert bench.records("producer", Kind.CONNECTED) == []


@ALL
def test_a_client_that_is_no_page_is_answered_as_ever(bench, protocol):
    status, headers = answer(bench, protocol, PAGE, {})
    assert status == DOORS[protocol][2]
    assert "access-control-allow-origin" not in headers


@ALL
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_a_page_of_another_origin_fetches_without_naming_it_is_refused(bench, protocol, site):
    status, _ = answer(bench, protocol, PAGE, {"Sec-Fetch-Site": site})
    assert status == 403
    assert bench.records("producer", Kind.CONNECTED) == []


@ALL
def test_a_page_on_this_machine_may_know_it_by_another_of_its_names(bench, protocol):
    status, _ = answer(bench, protocol, PAGE, {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"})
    assert status == DOORS[protocol][2]


@ALL
@pytest.mark.parametrize("host", ["evil.test", "evil.test:8888", "192.0.2.1:80", "127.0.0.1.evil.test", "[x"])
def test_a_name_that_is_nobodys_here_is_refused(bench, protocol, host):
    status, _ = answer(bench, protocol, PAGE, {"Host": host})
    assert status == 403
    assert bench.records("producer", Kind.CONNECTED) == []


@ALL
@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "127.1.2.3:80", "[::1]:80", "lab.test:80"])
def test_a_name_of_this_machine_or_of_the_notebook_server_is_answered(bench, protocol, host):
    status, _ = answer(bench, protocol, "http://lab.test:8888", {"Host": host, "Sec-Fetch-Site": "same-origin"})
    assert status == DOORS[protocol][2]


@OVER_HTTP
def test_a_page_that_asks_first_learns_which_headers_it_may_send(bench, protocol):
    status, headers = answer(bench, protocol, PAGE, {"Origin": PAGE, **ASKS_FIRST}, "OPTIONS")
    assert status == 204
    assert headers["access-control-allow-origin"] == PAGE
    assert headers["access-control-allow-headers"] == "If-None-Match, Prefer"


@OVER_HTTP
def test_a_page_of_another_origin_that_asks_first_learns_nothing(bench, protocol):
    status, headers = answer(bench, protocol, PAGE, {"Origin": FOREIGN, **ASKS_FIRST}, "OPTIONS")
    assert status == 403
    assert not {"access-control-allow-origin", "access-control-allow-headers"} & set(headers)


@OVER_HTTP
def test_what_is_not_there_is_said_to_a_page_too(bench, protocol):
    async def scenario():
        async with bench.producer(bench.trial(protocol), origin=PAGE) as (_, url):
            return await asked(url, "/nothing", {"Origin": PAGE})

    status, headers = asyncio.run(scenario())
    assert status == 404
    assert headers["access-control-allow-origin"] == PAGE


@ALL
def test_a_producer_without_an_origin_says_nothing_of_origins(bench, protocol):
    status, headers = answer(bench, protocol, None, {"Origin": FOREIGN})
    assert status == DOORS[protocol][2]
    assert not {"vary", "access-control-allow-origin", "access-control-expose-headers"} & set(headers)


@pytest.mark.parametrize(
    ("protocol", "path", "headers"),
    [("sse", "/events", {"Last-Event-ID": encode_id(7)}), ("websocket", f"/?after={encode_id(7)}", UPGRADE)],
)
@pytest.mark.parametrize("guarantee", ["at-least-once", "at-most-once"])
def test_the_producer_notes_after_which_event_a_subscription_asks_to_go_on(bench, protocol, path, headers, guarantee):
    async def scenario():
        async with bench.producer(bench.trial(protocol, guarantee)) as (_, url):
            plain = {name: value for name, value in headers.items() if name in UPGRADE}
            for place, fields in ((path, headers), (path.partition("?")[0], plain)):
                await asked(url, place, fields)
            await bench.until(lambda: len(bench.records("producer", Kind.CONNECTED)) == 2)
        assert sorted(sequence for _, sequence, _ in bench.records("producer", Kind.CONNECTED)) == [7, NO_SEQUENCE]

    asyncio.run(scenario())
