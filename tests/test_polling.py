import asyncio
import json
import re
from dataclasses import replace

import pytest
from aiohttp.web import Response
from conftest import FAST

from labkit.errors import TrialError
from labkit.ledger import NO_SEQUENCE, Kind
from labkit.protocols.eventlog import EventLog


def lines(items):
    return b"".join(item.raw + b"\n" for item in items)


async def publish(producer, items):
    for item in items:
        await producer.publish(item)


def test_the_latest_event_comes_with_an_etag_and_304_while_it_is_the_latest(bench):
    async def scenario():
        async with bench.producer(bench.trial("polling")) as (producer, url):
            items = bench.events(3)
            await publish(producer, items[:2])
            status, headers, body = await bench.curl(f"{url}/events/latest")
            assert (status, headers["etag"], body) == (200, '"00000001"', lines(items[1:2]))
            assert headers["content-type"] == "application/x-ndjson"
            status, headers, body = await bench.curl("-H", 'If-None-Match: "00000001"', f"{url}/events/latest")
            assert (status, headers["etag"], body) == (304, '"00000001"', b"")
            await publish(producer, items[2:])
            status, headers, body = await bench.curl("-H", 'If-None-Match: "00000001"', f"{url}/events/latest")
            assert (status, headers["etag"], body) == (200, '"00000002"', lines(items[2:]))

    asyncio.run(scenario())


def test_curls_own_etag_memory_works_with_the_server(bench):
    async def scenario():
        async with bench.producer(bench.trial("polling")) as (producer, url):
            (item,) = bench.events(1)
            await producer.publish(item)
            memory = str(bench.folder / "etag")
            ask = ["--etag-save", memory, "--etag-compare", memory, f"{url}/events/latest"]
            assert (await bench.curl(*ask))[0] == 200
            assert (await bench.curl(*ask))[0] == 304

    asyncio.run(scenario())


def test_before_the_first_event_there_is_no_content(bench):
    async def scenario():
        async with bench.producer(bench.trial("polling")) as (_, url):
            for path in ("/events/latest", "/events", "/events/latest?topic=t9"):
                status, headers, body = await bench.curl(url + path)
                assert (status, body) == (204, b"")
                assert "etag" not in headers

    asyncio.run(scenario())


def test_a_cursor_gets_everything_after_it_one_event_a_line(bench):
    async def scenario():
        async with bench.producer(bench.trial("polling")) as (producer, url):
            items = bench.events(5)
            await publish(producer, items)
            status, headers, body = await bench.curl(f"{url}/events?after=00000001")
            assert (status, headers["etag"], body) == (200, '"00000004"', lines(items[2:]))
            assert (await bench.curl(f"{url}/events"))[2] == lines(items)

    asyncio.run(scenario())


def test_a_cursor_that_is_up_to_date_is_confirmed_with_304(bench):
    async def scenario():
        async with bench.producer(bench.trial("polling")) as (producer, url):
            await publish(producer, bench.events(3))
            status, headers, body = await bench.curl("-H", 'If-None-Match: "00000002"', f"{url}/events?after=00000002")
            assert (status, headers["etag"], body) == (304, '"00000002"', b"")

    asyncio.run(scenario())


def test_a_request_without_a_condition_is_never_answered_304(bench):
    """RFC 9110 section 15.4.5: 304 says that a conditional request has been received."""

    async def scenario():
        async with bench.producer(bench.trial("polling")) as (producer, url):
            await publish(producer, bench.events(3))
            status, _, body = await bench.curl(f"{url}/events?after=00000002")
            assert status in (200, 204)
            assert body == b""

    asyncio.run(scenario())


def test_topics_are_kept_apart(bench):
    async def scenario():
        async with bench.producer(bench.trial("polling")) as (producer, url):
            items = bench.events(6, topics=2)
            await publish(producer, items)
            assert (await bench.curl(f"{url}/events/latest?topic=t0"))[2] == lines(items[4:5])
            assert (await bench.curl(f"{url}/events?topic=t0&after=00000000"))[2] == lines(items[2::2])

    asyncio.run(scenario())


def test_a_long_backlog_comes_in_pages_that_lose_nothing(bench):
    async def scenario():
        async with bench.producer(bench.trial("polling")) as (producer, url):
            items = bench.events(2500)
            await publish(producer, items)
            found, cursor = b"", "00000000"
            for _ in range(3):
                _, headers, body = await bench.curl(f"{url}/events?after={cursor}")
                found, cursor = found + body, headers["etag"].strip('"')
            assert found == lines(items[1:])

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("cursor", "after"),
    [("00000003", "00000003"), ("00000099", "00000099"), ("nonsense", "00000000"), ("", "00000000")],
)
def test_an_evicted_or_unknown_cursor_is_answered_410_with_the_gap_spelled_out(bench, cursor, after):
    async def scenario():
        async with bench.producer(bench.trial("polling"), log=EventLog(3)) as (producer, url):
            await publish(producer, bench.events(8))
            status, _, body = await bench.curl(f"{url}/events?after={cursor}")
            assert status == 410
            assert json.loads(body)["data"] == {"after": after, "oldest": "00000005"}

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/events?after=00000000", "/events/latest"])
def test_a_client_that_prefers_to_wait_is_answered_when_something_happens(bench, path):
    async def scenario():
        async with bench.producer(bench.trial("longpolling")) as (producer, url):
            items = bench.events(2)
            await publish(producer, items[:1])
            held = asyncio.create_task(
                bench.curl("-H", "Prefer: wait=9", "-H", 'If-None-Match: "00000000"', url + path)
            )
            # The same question without the wish to wait is answered at once, while the other is held.
            assert (await bench.curl("-H", 'If-None-Match: "00000000"', url + path))[0] == 304
            assert not held.done()
            await publish(producer, items[1:])
            status, headers, body = await held
            assert (status, headers["etag"], body) == (200, '"00000001"', lines(items[1:]))

    asyncio.run(scenario())


def test_a_wait_that_ends_without_news_is_answered_304(bench):
    async def scenario():
        async with bench.producer(bench.trial("longpolling")) as (producer, url):
            await publish(producer, bench.events(1))
            loop = asyncio.get_running_loop()
            before = loop.time()
            question = ["-H", 'If-None-Match: "00000000"', f"{url}/events?after=00000000"]
            assert (await bench.curl("-H", "Prefer: respond-async, wait=1", *question))[0] == 304
            assert loop.time() - before >= 1

    asyncio.run(scenario())


@pytest.mark.parametrize("wish", ["wait=", "wait=-1", "wait=soon", "wait=²", "wait", "await=9"])
def test_a_malformed_wish_to_wait_is_no_wish(bench, wish):
    async def scenario():
        async with bench.producer(bench.trial("longpolling")) as (producer, url):
            await publish(producer, bench.events(1))
            question = ["-H", 'If-None-Match: "00000000"', f"{url}/events?after=00000000"]
            assert (await bench.curl("--max-time", "5", "-H", f"Prefer: {wish}", *question))[0] == 304

    asyncio.run(scenario())


def test_a_port_in_use_is_named_in_one_sentence(bench):
    async def scenario():
        async with bench.producer(bench.trial("polling")) as (_, url):
            port = int(url.rpartition(":")[2])
            sentence = await bench.refused("polling", "producer", port)
            assert re.fullmatch(rf"Port {port} is in use .*free one\.", sentence)

    asyncio.run(scenario())


@pytest.mark.parametrize("protocol", ["polling", "longpolling"])
def test_our_client_moves_its_cursor_and_states_what_it_has(bench, protocol):
    items = bench.events(4)

    async def scenario():
        answers = [204, Response(status=200, body=lines(items[:3])), 304, Response(status=200, body=lines(items[3:]))]
        async with bench.server(*answers, 304) as server, bench.consumer(bench.trial(protocol)) as (consumer, _):
            await consumer.connect(server.url, None)
            await bench.until(lambda: len(server.requests) >= 5)
            assert bench.received() == [0, 1, 2, 3]
            asked = [(r.path_qs, r.headers.get("If-None-Match")) for r in server.requests[:5]]
            assert asked == [
                ("/events", None),
                ("/events", None),
                ("/events?after=00000002", '"00000002"'),
                ("/events?after=00000002", '"00000002"'),
                ("/events?after=00000003", '"00000003"'),
            ]
            wishes = {r.headers.get("Prefer") for r in server.requests[1:]}
            assert wishes == ({"wait=8"} if protocol == "longpolling" else {None})

    asyncio.run(scenario())


def test_our_client_at_most_once_asks_for_the_latest_only(bench):
    items = bench.events(5)

    async def scenario():
        answers = [Response(status=200, body=lines(items[:1])), Response(status=200, body=lines(items[4:]))]
        async with (
            bench.server(*answers, 304) as server,
            bench.consumer(bench.trial("polling", "at-most-once")) as (consumer, _),
        ):
            await consumer.connect(server.url, None)
            await bench.until(lambda: len(server.requests) >= 3)
            assert bench.received() == [0, 4]
            asked = [(r.path_qs, r.headers.get("If-None-Match")) for r in server.requests[:3]]
            assert asked == [
                ("/events/latest", None),
                ("/events/latest", '"00000000"'),
                ("/events/latest", '"00000004"'),
            ]

    asyncio.run(scenario())


def test_our_client_records_a_gap_and_goes_on_with_the_oldest_event_kept(bench):
    gap = (
        b'{"specversion":"1.0","type":"labkit.gap","source":"/labkit","data":{"after":"00000001","oldest":"00000007"}}'
    )

    async def scenario():
        answers = [
            Response(status=200, body=lines(bench.events(2))),
            Response(status=410, body=gap),
            Response(status=200, body=lines(bench.events(1, start=7))),
        ]
        async with bench.server(*answers, 304) as server, bench.consumer(bench.trial("polling")) as (consumer, _):
            await consumer.connect(server.url, None)
            await bench.until(lambda: bench.received() == [0, 1, 7])
            assert server.requests[2].path_qs == "/events?after=00000006"
            assert bench.records("consumer", Kind.GAP) == [(0, 1, 7)]

    asyncio.run(scenario())


def test_an_answer_that_is_none_to_a_poll_fails_the_trial_and_is_quoted(bench):
    async def scenario():
        async with (
            bench.server(204, 500) as server,
            bench.consumer(bench.trial("polling")) as (consumer, _),
        ):
            await consumer.connect(server.url, None)
            await bench.until(lambda: consumer.tasks.failure)
            assert isinstance(consumer.tasks.failure, TrialError)
            assert "answered 500" in str(consumer.tasks.failure)

    asyncio.run(scenario())


@pytest.mark.parametrize("protocol", ["polling", "longpolling"])
@pytest.mark.parametrize("guarantee", ["at-most-once", "at-least-once"])
def test_our_client_and_our_server_understand_each_other(bench, protocol, guarantee):
    async def scenario():
        trial = bench.trial(protocol, guarantee, subscribers=2)
        async with bench.producer(trial) as (producer, url), bench.consumer(trial) as (consumer, _):
            await consumer.connect(url, None)
            for number, item in enumerate(bench.events(3)):
                await producer.publish(item)
                await bench.until(lambda n=number: bench.received(0)[-1:] == bench.received(1)[-1:] == [n])
            assert bench.received(0) == bench.received(1) == [0, 1, 2]

    asyncio.run(scenario())


@pytest.mark.parametrize("protocol", ["polling", "longpolling"])
@pytest.mark.parametrize(
    ("guarantee", "asked"),
    [
        ("at-least-once", ("/events?after=00000007", '"00000007"')),
        ("durable", ("/events?after=00000007", '"00000007"')),
        ("at-most-once", ("/events/latest", None)),
    ],
)
def test_a_resumed_client_asks_after_the_newest_event_where_it_recovers(bench, protocol, guarantee, asked):
    async def scenario():
        trial = bench.trial(protocol, guarantee)
        async with bench.server(204) as server, bench.consumer(trial) as (consumer, _):
            consumer.resume({0: [5, 6, 7]})
            assert bench.records("consumer", Kind.DISCONNECTED) == [(0, NO_SEQUENCE, 0)]
            await consumer.connect(server.url, None)
            first = server.requests[0]
            assert (first.path_qs, first.headers.get("If-None-Match")) == asked

    asyncio.run(scenario())


@pytest.mark.parametrize("protocol", ["polling", "longpolling"])
@pytest.mark.parametrize(("guarantee", "received"), [("at-least-once", [2, 3, 4, 5]), ("at-most-once", [4, 5])])
def test_a_client_in_a_killed_ones_place_misses_nothing_and_has_nothing_twice_where_it_recovers(
    bench, protocol, guarantee, received
):
    async def scenario():
        trial = bench.trial(protocol, guarantee, subscribers=2)
        async with bench.producer(trial) as (producer, url), bench.consumer(trial) as (consumer, _):
            items = bench.events(6)
            await publish(producer, items[:5])
            consumer.resume({0: [0, 1], 1: [0, 1, 2, 3, 4]})
            await consumer.connect(url, None)
            await publish(producer, items[5:])
            await bench.until(lambda: bench.received(0)[-1:] == bench.received(1)[-1:] == [5])
            # At most once, the newest event is asked for whoever had it.
            assert (bench.received(0), bench.received(1)) == (received, [5] if guarantee == "at-least-once" else [4, 5])
            assert bench.records("consumer", Kind.REPEATED) == bench.records("consumer", Kind.GAP) == []

    asyncio.run(scenario())


@pytest.mark.parametrize("protocol", ["polling", "longpolling"])
def test_a_new_producer_with_the_same_log_goes_on_for_those_who_ask_again(bench, protocol):
    async def scenario():
        trial, log, items = bench.trial(protocol, "durable"), EventLog(), bench.events(9)
        async with bench.consumer(trial) as (consumer, _):
            async with bench.producer(trial, log=log) as (producer, url):
                await consumer.connect(url, None)
                await publish(producer, items[:3])
                await bench.until(lambda: bench.received() == [0, 1, 2])
            await bench.until(lambda: consumer.connected == 0)
            for item in items[3:5]:
                log.append(item)
            async with bench.producer(trial, int(url.rpartition(":")[2]), log, "producer-2") as (producer, _):
                await publish(producer, items[5:])
                await bench.until(lambda: len(bench.received()) == 9)
                assert (bench.received(), bench.repeated()) == (list(range(9)), [])

    asyncio.run(scenario())


def test_a_producer_that_is_closed_waits_for_no_request_it_holds(bench):
    async def scenario():
        async with bench.producer(bench.trial("longpolling")) as (producer, url):
            await publish(producer, bench.events(1))
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            held = b"GET /events?after=00000000 HTTP/1.1\r\nHost: lab\r\nPrefer: wait=8\r\n\r\n"
            writer.write(b"GET /events HTTP/1.1\r\nHost: lab\r\n\r\n" + held)
            await reader.readuntil(bench.events(1)[0].raw)
            async with asyncio.timeout(4):
                await producer.close()
            writer.close()

    asyncio.run(scenario())


def test_a_gap_is_followed_at_once_by_what_there_is(bench):
    """An interval later a trial may be over, and what nobody had asked for would look lost."""

    async def scenario():
        slow = bench.trial("polling", timings=replace(FAST, poll=30.0))
        async with bench.consumer(slow) as (consumer, _):
            consumer.last[0] = 3
            log = EventLog(first=7)
            async with bench.producer(slow, log=log) as (producer, url):
                for item in bench.events(3, start=7):
                    await producer.publish(item)
                await consumer.connect(url, None)
                await bench.until(lambda: bench.received() == [7, 8, 9])
        assert bench.records("consumer", Kind.GAP) == [(0, 3, 7)]

    asyncio.run(scenario())
