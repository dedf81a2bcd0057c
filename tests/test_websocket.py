import asyncio
import json
import re
import sys

import pytest
import websockets.sync.client
from websockets.asyncio.server import serve

from labkit.errors import TrialError
from labkit.ledger import Kind
from labkit.protocols.eventlog import EventLog
from labkit.trial import UNSENT_LIMIT

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: lab\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""RFC 6455 section 1.3: the answer to the key above."""


def receive(url, count, **options):
    """What the library's blocking client gets, and what was negotiated."""
    with websockets.sync.client.connect(url, proxy=None, **options) as connection:
        return [connection.recv(timeout=10) for _ in range(count)], connection


async def publish(producer, items):
    for item in items:
        await producer.publish(item)


def test_the_websockets_cli_prints_every_event_as_a_text_message(bench):
    async def scenario():
        async with (
            bench.producer(bench.trial("websocket")) as (producer, url),
            bench.reading(sys.executable, "-m", "websockets", url) as cli,
        ):
            await bench.until(lambda: bench.records("producer", Kind.CONNECTED))
            items = bench.events(3)
            await publish(producer, items)
            for item in items:
                assert b"< " + item.raw in await cli.stdout.readuntil(item.raw)

    asyncio.run(scenario())


def test_a_client_that_asks_after_an_id_gets_what_followed_it_and_then_what_is_new(bench):
    async def scenario():
        async with bench.producer(bench.trial("websocket")) as (producer, url):
            items = bench.events(6)
            await publish(producer, items[:4])
            reading = asyncio.create_task(asyncio.to_thread(receive, f"{url}/?after=00000001", 4))
            await bench.until(lambda: bench.records("producer", Kind.CONNECTED))
            await publish(producer, items[4:])
            messages, _ = await reading
            assert messages == [item.raw.decode() for item in items[2:]]

    asyncio.run(scenario())


def test_a_client_at_most_once_goes_on_from_now_whatever_it_asks_for(bench):
    async def scenario():
        async with bench.producer(bench.trial("websocket", "at-most-once")) as (producer, url):
            items = bench.events(3)
            await publish(producer, items[:2])
            reading = asyncio.create_task(asyncio.to_thread(receive, f"{url}/?after=00000000", 1))
            await bench.until(lambda: bench.records("producer", Kind.CONNECTED))
            await publish(producer, items[2:])
            assert (await reading)[0] == [items[2].raw.decode()]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("cursor", "after"), [("00000003", "00000003"), ("00000099", "00000099"), ("nonsense", "00000000")]
)
def test_an_evicted_or_unknown_cursor_is_answered_with_a_gap_signal_and_all_that_is_kept(bench, cursor, after):
    async def scenario():
        async with bench.producer(bench.trial("websocket"), log=EventLog(3)) as (producer, url):
            items = bench.events(8)
            await publish(producer, items)
            (gap, *rest), _ = await asyncio.to_thread(receive, f"{url}/?after={cursor}", 4)
            assert json.loads(gap)["type"] == "labkit.gap"
            assert json.loads(gap)["data"] == {"after": after, "oldest": "00000005"}
            assert rest == [item.raw.decode() for item in items[5:]]

    asyncio.run(scenario())


def test_the_oldest_cursor_whose_successors_are_all_kept_is_no_gap(bench):
    async def scenario():
        async with bench.producer(bench.trial("websocket"), log=EventLog(3)) as (producer, url):
            items = bench.events(8)
            await publish(producer, items)
            messages, _ = await asyncio.to_thread(receive, f"{url}/?after=00000004", 3)
            assert messages == [item.raw.decode() for item in items[5:]]

    asyncio.run(scenario())


def test_a_subscription_to_a_topic_gets_that_topic_only_replay_included(bench):
    async def scenario():
        async with bench.producer(bench.trial("websocket")) as (producer, url):
            items = bench.events(8, topics=2)
            await publish(producer, items[:4])
            reading = asyncio.create_task(asyncio.to_thread(receive, f"{url}/?topic=t1&after=00000000", 4))
            await bench.until(lambda: bench.records("producer", Kind.CONNECTED))
            await publish(producer, items[4:])
            assert (await reading)[0] == [item.raw.decode() for item in items[1::2]]

    asyncio.run(scenario())


@pytest.mark.parametrize("guarantee", ["at-most-once", "at-least-once"])
def test_no_compression_is_negotiated_with_a_client_that_offers_it(bench, guarantee):
    async def scenario():
        async with bench.producer(bench.trial("websocket", guarantee)) as (_, url):
            _, connection = await asyncio.to_thread(receive, url, 0, compression="deflate")
            assert "permessage-deflate" in connection.request.headers["Sec-WebSocket-Extensions"]
            assert "Sec-WebSocket-Extensions" not in connection.response.headers

    asyncio.run(scenario())


def test_the_handshake_is_the_one_of_the_rfc_and_a_mute_peer_is_pinged_then_cut_off(bench):
    async def scenario():
        async with bench.producer(bench.trial("websocket")) as (_, url):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            writer.write(UPGRADE)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101")
            assert ACCEPT in head
            async with asyncio.timeout(10):
                opcode, length = await reader.readexactly(2)
                assert opcode == 0x89
                await reader.readexactly(length)
                # The ping stays unanswered; what comes is the end, by FIN or by RST.
                with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                    await reader.readexactly(1)
            await bench.until(lambda: bench.records("producer", Kind.DISCONNECTED))
            writer.close()

    asyncio.run(scenario())


def test_a_quiet_peer_that_answers_pings_stays_connected(bench):
    async def scenario():
        async with (
            bench.producer(bench.trial("websocket")) as (producer, url),
            websockets.connect(url, proxy=None) as client,
        ):
            pings = []
            answer = client.protocol.recv_frame
            client.protocol.recv_frame = lambda frame: (pings.append(frame.opcode.name), answer(frame))
            await bench.until(lambda: pings.count("PING") >= 3)
            (item,) = bench.events(1)
            await producer.publish(item)
            assert await client.recv() == item.raw.decode()
            assert bench.records("producer", Kind.DISCONNECTED) == []

    asyncio.run(scenario())


def test_a_peer_that_never_reads_is_cut_off_and_holds_up_nobody(bench):
    async def scenario():
        trial = bench.trial("websocket", "at-most-once")
        async with bench.producer(trial) as (producer, url), bench.deaf(url, UPGRADE):
            await bench.until(lambda: bench.records("producer", Kind.CONNECTED))
            items, got = bench.events(200, size=100_000), []

            def read():
                with websockets.sync.client.connect(url, proxy=None) as connection:
                    while len(got) < len(items):
                        got.append(connection.recv(timeout=10))

            reading = asyncio.create_task(asyncio.to_thread(read))
            await bench.until(lambda: len(bench.records("producer", Kind.CONNECTED)) == 2)
            for number, item in enumerate(items):
                await producer.publish(item)
                await bench.until(lambda number=number: len(got) > number - 8)
            await reading
            assert got == [item.raw.decode() for item in items]
            await bench.until(lambda: bench.records("producer", Kind.DISCONNECTED))
            ((_, _, unsent),) = bench.records("producer", Kind.OVERFLOWED)
            assert UNSENT_LIMIT < unsent <= UNSENT_LIMIT + 101_000

    asyncio.run(scenario())


def test_to_a_peer_that_stopped_reading_megabytes_are_sent_in_success(bench):
    """The half-open trap: a send that succeeds says only that this machine's own kernel has taken it."""

    async def scenario():
        trial = bench.trial("websocket", "at-most-once")
        async with bench.producer(trial) as (producer, url), bench.deaf(url, UPGRADE):
            await bench.until(lambda: bench.records("producer", Kind.CONNECTED))
            (connection,) = producer._audience
            sent = 0
            for item in bench.events(1000, size=10_000):
                await producer.publish(item)
                await asyncio.sleep(0)
                if connection.transport.get_write_buffer_size():
                    break
                sent += len(item.raw)
            assert 1_000_000 < sent < 10_000_000
            for kind in (Kind.DISCONNECTED, Kind.FAILED, Kind.REJECTED, Kind.OVERFLOWED):
                assert bench.records("producer", kind) == []

    asyncio.run(scenario())


def test_a_port_in_use_is_named_in_one_sentence(bench):
    async def scenario():
        async with bench.producer(bench.trial("websocket")) as (_, url):
            port = int(url.rpartition(":")[2])
            sentence = await bench.refused("websocket", "producer", port)
            assert re.fullmatch(rf"Port {port} is in use .*free one\.", sentence)

    asyncio.run(scenario())


async def served(handler):
    """A plain server of the library's, and its URL."""
    server = await serve(handler, "127.0.0.1", 0)
    return server, f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("guarantee", "paths"),
    [("at-least-once", ["/", "/?after=00000001", "/?after=00000003"]), ("at-most-once", ["/", "/", "/"])],
)
def test_our_client_reconnects_and_names_the_last_id_it_saw_where_it_recovers(bench, guarantee, paths):
    items, seen = bench.events(6), []

    async def handler(connection):
        number = len(seen)
        seen.append(connection.request.path)
        for item in items[2 * number : 2 * number + 2]:
            await connection.send(item.raw.decode())
        if number >= 2:
            await connection.wait_closed()

    async def scenario():
        server, url = await served(handler)
        async with server, bench.consumer(bench.trial("websocket", guarantee)) as (consumer, _):
            await consumer.connect(url, None)
            await bench.until(lambda: len(bench.received()) == 6)
            assert seen == paths
            assert bench.received() == [0, 1, 2, 3, 4, 5]
            assert len(bench.records("consumer", Kind.DISCONNECTED)) == 2

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("guarantee", "received", "repeated"), [("at-least-once", [0, 1, 2], [1, 0]), ("at-most-once", [0, 1, 1, 0, 2], [])]
)
def test_our_client_drops_repeats_by_id_where_it_recovers(bench, guarantee, received, repeated):
    items = bench.events(3)

    async def handler(connection):
        for number in (0, 1, 1, 0, 2):
            await connection.send(items[number].raw.decode())
        await connection.wait_closed()

    async def scenario():
        server, url = await served(handler)
        async with server, bench.consumer(bench.trial("websocket", guarantee)) as (consumer, _):
            await consumer.connect(url, None)
            await bench.until(lambda: 2 in bench.received())
            assert bench.received() == received
            assert [sequence for _, sequence, _ in bench.records("consumer", Kind.REPEATED)] == repeated

    asyncio.run(scenario())


def test_our_client_records_a_gap_signal_and_goes_on(bench):
    gap = '{"specversion":"1.0","type":"labkit.gap","source":"/labkit","data":{"after":"00000003","oldest":"00000007"}}'

    async def handler(connection):
        await connection.send(gap)
        await connection.send(bench.events(1, start=7)[0].raw.decode())
        await connection.wait_closed()

    async def scenario():
        server, url = await served(handler)
        async with server, bench.consumer(bench.trial("websocket")) as (consumer, _):
            await consumer.connect(url, None)
            await bench.until(lambda: bench.received() == [7])
            assert bench.records("consumer", Kind.GAP) == [(0, 3, 7)]

    asyncio.run(scenario())


def test_our_client_drops_a_server_that_answers_no_ping_and_dials_again(bench):
    dialled = []

    async def handler(connection):
        dialled.append(connection)
        if len(dialled) == 1:
            connection.transport.pause_reading()
        await connection.wait_closed()

    async def scenario():
        server, url = await served(handler)
        async with server, bench.consumer(bench.trial("websocket")) as (consumer, _):
            await consumer.connect(url, None)
            await bench.until(lambda: len(dialled) == 2)
            await bench.until(lambda: consumer.connected == 1)
            assert len(bench.records("consumer", Kind.DISCONNECTED)) == 1
            dialled[0].transport.abort()

    asyncio.run(scenario())


def test_our_client_offers_no_compression(bench):
    offered = []

    async def handler(connection):
        offered.append(connection.request.headers.get("Sec-WebSocket-Extensions"))
        await connection.wait_closed()

    async def scenario():
        server, url = await served(handler)
        async with server, bench.consumer(bench.trial("websocket")) as (consumer, _):
            await consumer.connect(url, None)
            assert offered == [None]

    asyncio.run(scenario())


def test_a_server_that_is_not_there_is_named_in_one_sentence(bench, monkeypatch, closed_port):
    monkeypatch.setattr("labkit.protocols.base.CONNECT_LIMIT", 0.3)

    async def scenario():
        async with bench.consumer(bench.trial("websocket", subscribers=3)) as (consumer, _):
            with pytest.raises(TrialError, match=r"^3 of 3 subscribers could not reach ws://127.0.0.1:.*within 0.3 s"):
                await consumer.connect(f"ws://127.0.0.1:{closed_port}", None)

    asyncio.run(scenario())
