import asyncio
import json
import re

import pytest

from labkit.errors import TrialError
from labkit.ledger import Kind
from labkit.protocols.eventlog import EventLog
from labkit.trial import UNSENT_LIMIT, Timings

RETRY = b"retry: 10\n\n"
"""What the bench's reconnection time of 0.01 s makes of the opening block."""

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
CALM = Timings(heartbeat=600.0, retry=0.01)


def framed(item, event_id=True):
    head = b"id: %08d\n" % item.sequence if event_id else b""
    return head + b"data: " + item.raw + b"\n\n"


async def publish(producer, items):
    for item in items:
        await producer.publish(item)


@pytest.mark.parametrize(("guarantee", "with_id"), [("at-least-once", True), ("at-most-once", False)])
def test_curl_reads_the_retry_block_and_one_data_block_per_event(bench, guarantee, with_id):
    async def scenario():
        trial = bench.trial("sse", guarantee, timings=CALM)
        async with (
            bench.producer(trial) as (producer, url),
            bench.reading("curl", "-sSN", f"{url}/events") as curl,
        ):
            await bench.until(lambda: bench.records("producer", Kind.CONNECTED))
            items = bench.events(3)
            await publish(producer, items)
            expected = RETRY + b"".join(framed(item, with_id) for item in items)
            assert await curl.stdout.readexactly(len(expected)) == expected

    asyncio.run(scenario())


def test_the_response_is_an_event_stream_that_no_cache_keeps(bench):
    async def scenario():
        async with (
            bench.producer(bench.trial("sse")) as (_, url),
            bench.reading("curl", "-sSNi", f"{url}/events") as curl,
        ):
            head = (await curl.stdout.readuntil(b"\r\n\r\n")).lower()
            assert head.startswith(b"http/1.1 200 ok\r\n")
            assert b"\r\ncontent-type: text/event-stream\r\n" in head
            assert b"\r\ncache-control: no-store\r\n" in head

    asyncio.run(scenario())


def test_last_event_id_is_answered_with_what_followed_it_and_then_with_what_is_new(bench):
    async def scenario():
        async with bench.producer(bench.trial("sse", timings=CALM)) as (producer, url):
            items = bench.events(6)
            await publish(producer, items[:4])
            async with bench.reading("curl", "-sSN", "-H", "Last-Event-ID: 00000001", f"{url}/events") as curl:
                expected = RETRY + framed(items[2]) + framed(items[3])
                assert await curl.stdout.readexactly(len(expected)) == expected
                await publish(producer, items[4:])
                expected = framed(items[4]) + framed(items[5])
                assert await curl.stdout.readexactly(len(expected)) == expected

    asyncio.run(scenario())


@pytest.mark.parametrize(("header", "first"), [([], 2), (["-H", "Last-Event-ID: 00000002"], 3)])
def test_a_cursor_in_the_query_does_where_there_is_no_header(bench, header, first):
    async def scenario():
        async with bench.producer(bench.trial("sse", timings=CALM)) as (producer, url):
            items = bench.events(5)
            await publish(producer, items)
            async with bench.reading("curl", "-sSN", *header, f"{url}/events?after=00000001") as curl:
                expected = RETRY + b"".join(map(framed, items[first:]))
                assert await curl.stdout.readexactly(len(expected)) == expected

    asyncio.run(scenario())


def test_a_client_at_most_once_goes_on_from_now_whatever_id_it_names(bench):
    async def scenario():
        async with bench.producer(bench.trial("sse", "at-most-once")) as (producer, url):
            items = bench.events(3)
            await publish(producer, items[:2])
            async with bench.reading("curl", "-sSN", "-H", "Last-Event-ID: 00000000", f"{url}/events") as curl:
                await bench.until(lambda: bench.records("producer", Kind.CONNECTED))
                await publish(producer, items[2:])
                expected = RETRY + framed(items[2], False)
                assert await curl.stdout.readexactly(len(expected)) == expected

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("cursor", "after"),
    [("00000003", "00000003"), ("00000099", "00000099"), ("nonsense", "00000000"), ("²²²²²²²²", "00000000")],
)
def test_an_evicted_or_unknown_id_is_answered_with_a_gap_event_and_all_that_is_kept(bench, cursor, after):
    async def scenario():
        async with bench.producer(bench.trial("sse", timings=CALM), log=EventLog(3)) as (producer, url):
            items = bench.events(8)
            await publish(producer, items)
            async with bench.reading("curl", "-sSN", "-H", f"Last-Event-ID: {cursor}", f"{url}/events") as curl:
                assert await curl.stdout.readexactly(len(RETRY)) == RETRY
                kind, data = (await curl.stdout.readuntil(b"\n\n")).removesuffix(b"\n\n").split(b"\n")
                assert kind == b"event: gap"
                assert json.loads(data.removeprefix(b"data: "))["data"] == {"after": after, "oldest": "00000005"}
                expected = b"".join(framed(item) for item in items[5:])
                assert await curl.stdout.readexactly(len(expected)) == expected

    asyncio.run(scenario())


def test_a_quiet_stream_carries_heartbeat_comments(bench):
    async def scenario():
        async with (
            bench.producer(bench.trial("sse")) as (producer, url),
            bench.reading("curl", "-sSN", f"{url}/events") as curl,
        ):
            expected = RETRY + b":\n\n" * 3
            assert await curl.stdout.readexactly(len(expected)) == expected
            (item,) = bench.events(1)
            await producer.publish(item)
            assert framed(item) in await curl.stdout.readuntil(item.raw + b"\n\n")

    asyncio.run(scenario())


def test_a_subscription_to_a_topic_gets_that_topic_only_replay_included(bench):
    async def scenario():
        async with bench.producer(bench.trial("sse", timings=CALM)) as (producer, url):
            items = bench.events(8, topics=2)
            await publish(producer, items[:4])
            async with bench.reading("curl", "-sSN", "-H", "Last-Event-ID: 00000000", f"{url}/events?topic=t1") as curl:
                await bench.until(lambda: bench.records("producer", Kind.CONNECTED))
                await publish(producer, items[4:])
                expected = RETRY + b"".join(map(framed, items[1::2]))
                assert await curl.stdout.readexactly(len(expected)) == expected

    asyncio.run(scenario())


def test_a_client_that_leaves_is_forgotten(bench):
    async def scenario():
        async with bench.producer(bench.trial("sse")) as (producer, url):
            async with bench.reading("curl", "-sSN", f"{url}/events") as curl:
                await curl.stdout.readexactly(len(RETRY))
            await bench.until(lambda: bench.records("producer", Kind.DISCONNECTED))
            await publish(producer, bench.events(3))

    asyncio.run(scenario())


def test_a_peer_that_never_reads_is_cut_off_and_holds_up_nobody(bench):
    async def scenario():
        async with (
            bench.producer(bench.trial("sse", timings=CALM)) as (producer, url),
            bench.deaf(url, b"GET /events HTTP/1.1\r\nHost: lab\r\n\r\n"),
        ):
            await bench.until(lambda: bench.records("producer", Kind.CONNECTED))
            async with bench.reading("curl", "-sSN", f"{url}/events") as curl:
                assert await curl.stdout.readexactly(len(RETRY)) == RETRY
                for item in bench.events(200, size=100_000):
                    await producer.publish(item)
                    assert await curl.stdout.readexactly(len(framed(item))) == framed(item)
                await bench.until(lambda: bench.records("producer", Kind.DISCONNECTED))
                assert len(bench.records("producer", Kind.DISCONNECTED)) == 1
                ((_, _, unsent),) = bench.records("producer", Kind.OVERFLOWED)
                assert UNSENT_LIMIT - 101_000 < unsent <= UNSENT_LIMIT

    asyncio.run(scenario())


def test_to_a_peer_that_stopped_reading_megabytes_are_sent_in_success(bench):
    """The half-open trap: a send that succeeds says only that this machine's own kernel has taken it."""

    async def scenario():
        trial = bench.trial("sse", "at-most-once")
        async with (
            bench.producer(trial) as (producer, url),
            bench.deaf(url, b"GET /events HTTP/1.1\r\nHost: lab\r\n\r\n"),
        ):
            await bench.until(lambda: bench.records("producer", Kind.CONNECTED))
            (transport,) = producer._transports.values()
            sent = 0
            for item in bench.events(1000, size=10_000):
                await producer.publish(item)
                await asyncio.sleep(0)
                if transport.get_write_buffer_size():
                    break
                sent += len(item.raw)
            assert 1_000_000 < sent < 10_000_000
            for kind in (Kind.DISCONNECTED, Kind.FAILED, Kind.REJECTED, Kind.OVERFLOWED):
                assert bench.records("producer", kind) == []

    asyncio.run(scenario())


def test_a_port_in_use_is_named_in_one_sentence(bench):
    async def scenario():
        async with bench.producer(bench.trial("sse")) as (_, url):
            port = int(url.rpartition(":")[2])
            sentence = await bench.refused("sse", "producer", port)
            assert re.fullmatch(rf"Port {port} is in use .*free one\.", sentence)

    asyncio.run(scenario())


class Scripted:
    """A raw server: one script for each connection in turn, the last one for all that follow."""

    def __init__(self, *scripts):
        self.scripts = scripts
        self.requests = []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        self.over = asyncio.Event()
        return self

    async def __aexit__(self, *_):
        self.over.set()
        self.server.close()
        await self.server.wait_closed()

    async def _serve(self, reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode().lower().split("\r\n")[1:-2]
            self.requests.append(dict(line.split(": ", 1) for line in lines))
            script = self.scripts[min(len(self.requests), len(self.scripts)) - 1]
            await script(self, writer)
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


def says(*parts, hold=False):
    """Sends each part on its own, then ends the connection, or holds it open."""

    async def script(server, writer):
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        if hold:
            await server.over.wait()

    return script


def answers(status):
    head = b"HTTP/1.1 %d X\r\nContent-Type: text/plain\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    return says(head % status)


def chunks(body, size):
    """A chunked transfer coding of the body, in chunks of so many bytes."""
    for start in range(0, len(body), size):
        piece = body[start : start + size]
        yield b"%x\r\n%s\r\n" % (len(piece), piece)


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_our_client_reads_any_line_ends_in_any_chunks(bench, size, end):
    items = bench.events(4)
    body = b"\xef\xbb\xbf: hello\n\nretry: 10\n\n" + b"".join(map(framed, items)) + b":\n\n"
    parts = chunks(body.replace(b"\n", end), size)

    async def scenario():
        script = says(STREAM + b"Transfer-Encoding: chunked\r\n\r\n", *parts, hold=True)
        async with Scripted(script) as server, bench.consumer(bench.trial("sse", timings=CALM)) as (consumer, _):
            await consumer.connect(server.url, None)
            await bench.until(lambda: len(bench.received()) == 4)
            assert bench.received() == [0, 1, 2, 3]
            assert server.requests[0]["accept"] == "text/event-stream"
            assert "last-event-id" not in server.requests[0]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("guarantee", "cursors"), [("at-least-once", [None, "00000001", "00000003"]), ("at-most-once", [None, None, None])]
)
def test_our_client_reconnects_after_a_cut_and_names_the_last_id_it_saw_where_it_recovers(bench, guarantee, cursors):
    items = bench.events(6)
    blocks = [STREAM + b"\r\n" + framed(items[n]) + framed(items[n + 1]) for n in (0, 2, 4)]

    async def scenario():
        # A block that the cut leaves unfinished is discarded (WHATWG HTML 9.2.6).
        scripts = [says(block + framed(items[5])[:-1]) for block in blocks[:2]] + [says(blocks[2], hold=True)]
        async with (
            Scripted(*scripts) as server,
            bench.consumer(bench.trial("sse", guarantee)) as (consumer, _),
        ):
            await consumer.connect(server.url, None)
            await bench.until(lambda: 5 in bench.received())
            assert bench.received() == [0, 1, 2, 3, 4, 5]
            assert [request.get("last-event-id") for request in server.requests[:3]] == cursors

    asyncio.run(scenario())


@pytest.mark.parametrize("status", [204, 404, 500])
def test_an_answer_that_is_no_event_stream_ends_a_subscription_for_good(bench, status):
    opening = says(STREAM + b"\r\n" + framed(bench.events(1)[0]))

    async def scenario():
        async with (
            Scripted(opening, answers(status), opening) as server,
            bench.consumer(bench.trial("sse")) as (consumer, _),
        ):
            await consumer.connect(server.url, None)
            await bench.until(lambda: consumer.tasks.failure)
            assert isinstance(consumer.tasks.failure, TrialError)
            assert f"answered {status}" in str(consumer.tasks.failure)
            assert len(server.requests) == 2

    asyncio.run(scenario())


def test_another_content_type_ends_a_subscription_for_good(bench):
    opening = says(STREAM + b"\r\n")
    page = says(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n")

    async def scenario():
        async with Scripted(opening, page) as server, bench.consumer(bench.trial("sse")) as (consumer, _):
            await consumer.connect(server.url, None)
            await bench.until(lambda: consumer.tasks.failure)
            assert "text/html" in str(consumer.tasks.failure)

    asyncio.run(scenario())


@pytest.mark.parametrize("status", [204, 404])
def test_a_server_that_refuses_the_stream_is_quoted_when_the_connection_fails(bench, monkeypatch, status):
    monkeypatch.setattr("labkit.protocols.base.CONNECT_LIMIT", 0.5)

    async def scenario():
        async with Scripted(answers(status)) as server, bench.consumer(bench.trial("sse")) as (consumer, _):
            with pytest.raises(TrialError, match=f"answered {status} "):
                await consumer.connect(server.url, None)

    asyncio.run(scenario())


def test_network_errors_are_retried_until_the_stream_opens(bench):
    async def scenario():
        reset, opening = says(), says(STREAM + b"\r\n" + framed(bench.events(1)[0]), hold=True)
        async with (
            Scripted(reset, reset, reset, opening) as server,
            bench.consumer(bench.trial("sse")) as (consumer, _),
        ):
            await consumer.connect(server.url, None)
            await bench.until(lambda: bench.received() == [0])
            assert len(server.requests) == 4

    asyncio.run(scenario())


def test_our_client_leaves_a_server_that_has_gone_mute(bench):
    async def scenario():
        mute = says(STREAM + b"\r\n", hold=True)
        async with Scripted(mute) as server, bench.consumer(bench.trial("sse")) as (consumer, _):
            await consumer.connect(server.url, None)
            await bench.until(lambda: len(server.requests) >= 2)
            assert bench.records("consumer", Kind.DISCONNECTED)

    asyncio.run(scenario())


def test_heartbeats_keep_a_quiet_stream_open(bench):
    async def beat(server, writer):
        writer.write(STREAM + b"\r\n")
        for _ in range(10):
            writer.write(b":\n\n")
            await writer.drain()
            await asyncio.sleep(0.1)
        writer.write(framed(bench.events(1)[0]))
        await server.over.wait()

    async def scenario():
        async with Scripted(beat) as server, bench.consumer(bench.trial("sse")) as (consumer, _):
            await consumer.connect(server.url, None)
            await bench.until(lambda: bench.received() == [0])
            assert len(server.requests) == 1

    asyncio.run(scenario())


def test_our_client_records_a_gap_event_and_goes_on(bench):
    gap = b'event: gap\ndata: {"type":"labkit.gap","data":{"after":"00000003","oldest":"00000007"}}\n\n'

    async def scenario():
        opening = says(STREAM + b"\r\n" + gap + framed(bench.events(1, start=7)[0]), hold=True)
        async with Scripted(opening) as server, bench.consumer(bench.trial("sse")) as (consumer, _):
            await consumer.connect(server.url, None)
            await bench.until(lambda: bench.received() == [7])
            assert bench.records("consumer", Kind.GAP) == [(0, 3, 7)]

    asyncio.run(scenario())
