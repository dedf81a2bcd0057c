import asyncio
import json
import re
import time
from datetime import UTC, datetime

import aiohttp
import pytest
from standardwebhooks import Webhook

from labkit.ledger import NO_SEQUENCE, Kind
from labkit.protocols.delivery import derived_secret
from labkit.protocols.eventlog import EventLog


def signed(secret, item, **change):
    now = datetime.now(UTC)
    event_id = f"{item.sequence:08d}"
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(event_id, now, item.raw.decode()),
        **change,
    }


def as_curl(headers):
    return [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]


async def post(bench, url, headers, body):
    return await bench.curl("-X", "POST", *as_curl(headers), "--data-binary", body.decode(), url)


def test_every_endpoint_gets_the_events_of_its_topic_signed_with_its_own_secret(bench):
    async def scenario():
        trial = bench.trial("webhook", subscribers=2, topics=2)
        async with bench.server(204) as server, bench.producer(trial) as (producer, _):
            await producer.connect(server.url)
            extra = producer.add_endpoint(f"{server.url}/extra")
            items = bench.events(4, topics=2)
            for item in items:
                await producer.publish(item)
            await bench.until(lambda: len(server.requests) == 8)
            secrets = {
                "/hooks/0": derived_secret(trial, 0),
                "/hooks/1": derived_secret(trial, 1),
                "/extra": extra,
            }
            got = {path: [] for path in secrets}
            for request, body in zip(server.requests, server.bodies, strict=True):
                Webhook(secrets[request.path]).verify(body, dict(request.headers))
                got[request.path].append(body)
            raws = [item.raw for item in items]
            assert got == {"/hooks/0": raws[::2], "/hooks/1": raws[1::2], "/extra": raws}
            assert len(set(secrets.values())) == 3

    asyncio.run(scenario())


def test_a_slow_endpoint_holds_up_neither_the_producer_nor_the_others(bench):
    async def scenario():
        release = asyncio.Event()

        async def answer(request):
            if request.path == "/hooks/0":
                await release.wait()
            return 204

        trial = bench.trial("webhook", subscribers=2)
        async with bench.server(answer) as server, bench.producer(trial) as (producer, _):
            await producer.connect(server.url)
            for item in bench.events(5):
                await producer.publish(item)
            try:
                await bench.until(lambda: [r.path for r in server.requests].count("/hooks/1") == 5)
                await bench.pending(producer, 5)
                assert [r.path for r in server.requests].count("/hooks/0") == 1
            finally:
                release.set()
            await bench.until(lambda: [r.path for r in server.requests].count("/hooks/0") == 5)

    asyncio.run(scenario())


@pytest.mark.parametrize(("guarantee", "attempts"), [("at-least-once", 3), ("at-most-once", 1)])
def test_the_producer_retries_where_it_recovers_and_tries_once_where_it_does_not(bench, guarantee, attempts):
    async def scenario():
        async with (
            bench.server(500, 500, 204) as server,
            bench.producer(bench.trial("webhook", guarantee)) as (producer, _),
        ):
            await producer.connect(server.url)
            (item,) = bench.events(1)
            await producer.publish(item)
            await bench.until(lambda: len(server.requests) == attempts)
            await bench.pending(producer, 0)
            assert len(server.requests) == attempts
            assert len(bench.records("producer", Kind.REJECTED)) == (guarantee == "at-most-once")

    asyncio.run(scenario())


def test_410_ends_an_endpoint_and_what_is_published_later_is_recorded_as_rejected(bench):
    async def scenario():
        async with bench.server(410) as server, bench.producer(bench.trial("webhook")) as (producer, _):
            await producer.connect(server.url)
            first, second = bench.events(2)
            await producer.publish(first)
            await bench.until(lambda: bench.records("producer", Kind.REJECTED) == [(0, 0, 410)])
            await producer.publish(second)
            await bench.until(lambda: len(bench.records("producer", Kind.REJECTED)) == 2, limit=2)
            assert await producer.pending() == 0
            assert len(server.requests) == 1

    asyncio.run(scenario())


def test_a_genuine_delivery_by_curl_is_taken_whatever_the_case_of_its_headers(bench):
    async def scenario():
        trial = bench.trial("webhook")
        async with bench.consumer(trial) as (_, url):
            (item,) = bench.events(1)
            headers = {name.title(): value for name, value in signed(derived_secret(trial, 0), item).items()}
            status, _, body = await post(bench, f"{url}/hooks/0", headers, item.raw)
            assert (status, body) == (204, b"")
            assert bench.received() == [0]

    asyncio.run(scenario())


@pytest.mark.parametrize(("guarantee", "received"), [("at-least-once", [0, 1]), ("at-most-once", [0, 0, 1])])
def test_a_repeated_id_is_answered_alike_and_dropped_where_the_consumer_recovers(bench, guarantee, received):
    async def scenario():
        trial = bench.trial("webhook", guarantee)
        async with bench.consumer(trial) as (_, url):
            first, second = bench.events(2)
            for item in (first, first, second):
                headers = signed(derived_secret(trial, 0), item)
                assert (await post(bench, f"{url}/hooks/0", headers, item.raw))[0] == 204
            assert bench.received() == received
            assert len(bench.records("consumer", Kind.REPEATED)) == 3 - len(received)

    asyncio.run(scenario())


NOW = int(time.time())


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-signature": "v1," + "A" * 43 + "="},
        {"webhook-signature": "v1"},
        {"webhook-signature": "v1,*"},
        {"webhook-signature": "v1,YQ"},
        {"webhook-signature": "v1,a,b"},
        {"webhook-signature": "v1,\u00e9\u00e9\u00e9\u00e9"},
        {"webhook-timestamp": str(NOW - 4000)},
        {"webhook-timestamp": str(NOW + 4000)},
        {"webhook-timestamp": f"{NOW:_}"},
        {"webhook-timestamp": f"{NOW}.0"},
        {"webhook-timestamp": "9" * 5000},
        {"webhook-id": "00000001"},
        {"webhook-id": ""},
    ],
)
def test_a_hostile_header_is_answered_401_and_leaves_no_trace(bench, change):
    async def scenario():
        trial = bench.trial("webhook")
        async with bench.consumer(trial) as (_, url), aiohttp.ClientSession() as client:
            (item,) = bench.events(1)
            good = signed(derived_secret(trial, 0), item)
            async with client.post(f"{url}/hooks/0", headers={**good, **change}, data=item.raw) as response:
                assert response.status == 401
            assert bench.received() == []
            async with client.post(f"{url}/hooks/0", headers=good, data=item.raw) as response:
                assert response.status == 204
            assert bench.received() == [0]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "raw_header",
    [b"webhook-signature: v1,\xff\xfe\xfd", b"webhook-timestamp: \xb2\xb2", b"webhook-id: \x80", b"X: y"],
)
def test_header_bytes_that_are_not_utf8_are_answered_401(bench, raw_header):
    async def scenario():
        async with bench.consumer(bench.trial("webhook")) as (_, url):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            rest = b"".join(
                line + b"\r\n"
                for line in (b"webhook-signature: v1,AAAA", b"webhook-timestamp: %d" % NOW, b"webhook-id: 00000000")
                if not raw_header.startswith(line.partition(b":")[0])
            )
            writer.write(
                b"POST /hooks/0 HTTP/1.1\r\nHost: lab\r\nContent-Length: 2\r\nConnection: close\r\n"
                + rest + raw_header + b"\r\n\r\n{}"
            )  # fmt: skip
            assert (await reader.read()).startswith(b"HTTP/1.1 401 ")
            writer.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff\xfe\x00", b"\xed\xa0\x80"])
def test_a_body_that_the_signature_does_not_cover_is_answered_401(bench, body):
    async def scenario():
        trial = bench.trial("webhook")
        async with bench.consumer(trial) as (_, url), aiohttp.ClientSession() as client:
            headers = signed(derived_secret(trial, 0), bench.events(1)[0])
            async with client.post(f"{url}/hooks/0", headers=headers, data=body) as response:
                assert response.status == 401
            assert bench.received() == []

    asyncio.run(scenario())


def test_a_delivery_meant_for_another_subscriber_is_answered_401(bench):
    async def scenario():
        trial = bench.trial("webhook", subscribers=2)
        async with bench.consumer(trial) as (_, url):
            (item,) = bench.events(1)
            headers = signed(derived_secret(trial, 1), item)
            assert (await post(bench, f"{url}/hooks/0", headers, item.raw))[0] == 401
            assert (await post(bench, f"{url}/hooks/1", headers, item.raw))[0] == 204
            assert (bench.received(0), bench.received(1)) == ([], [0])

    asyncio.run(scenario())


def test_paths_methods_and_sizes_that_nobody_asked_for_are_turned_away(bench):
    async def scenario():
        async with bench.consumer(bench.trial("webhook")) as (_, url):
            assert (await bench.curl("-X", "POST", f"{url}/hooks/1"))[0] == 410
            assert (await bench.curl("-X", "POST", f"{url}/hooks/9999"))[0] == 410
            assert (await bench.curl("-X", "POST", f"{url}/hooks/x"))[0] == 404
            assert (await bench.curl(f"{url}/hooks/0"))[0] == 405
            huge = bench.folder / "huge"
            huge.write_bytes(b"x" * 3_000_000)
            assert (await bench.curl("-H", "Expect:", "--data-binary", f"@{huge}", f"{url}/hooks/0"))[0] == 413
            assert bench.received() == []

    asyncio.run(scenario())


@pytest.mark.parametrize("guarantee", ["at-most-once", "at-least-once"])
def test_our_producer_and_our_consumer_understand_each_other(bench, guarantee):
    async def scenario():
        trial = bench.trial("webhook", guarantee, subscribers=3, topics=2)
        async with bench.consumer(trial) as (consumer, url), bench.producer(trial) as (producer, _):
            await producer.connect(url)
            await consumer.connect(None, url)
            for item in bench.events(6, topics=2):
                await producer.publish(item)
            await bench.until(lambda: len(bench.records("consumer", Kind.RECEIVED)) == 9)
            assert [bench.received(subscriber) for subscriber in range(3)] == [[0, 2, 4], [1, 3, 5], [0, 2, 4]]

    asyncio.run(scenario())


def test_a_port_in_use_is_named_in_one_sentence(bench):
    async def scenario():
        async with bench.consumer(bench.trial("webhook")) as (_, url):
            port = int(url.rpartition(":")[2])
            sentence = await bench.refused("webhook", "consumer", port)
            assert re.fullmatch(rf"Port {port} is in use .*free one\.", sentence)

    asyncio.run(scenario())


def ended(bench):
    """How far each endpoint has come, as a durable producer last saved it."""
    return {row["subscriber"]: row["ended_with"] for row in json.loads((bench.folder / "endpoints.json").read_text())}


@pytest.mark.parametrize(
    ("save_every", "repeated"),
    [(0.01, [[], []]), (600, [[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3]])],
    ids=["lately", "never"],
)
def test_a_new_durable_producer_goes_on_where_each_endpoint_was_and_repeats_are_dropped(
    bench, monkeypatch, save_every, repeated
):
    monkeypatch.setattr("labkit.protocols.webhook.SAVE_EVERY", save_every)

    async def scenario():
        trial, items = bench.trial("webhook", "durable", subscribers=2, timings=bench.patient), bench.events(10)
        async with (
            bench.broker("always") as (_, broker),
            bench.consumer(trial) as (consumer, public),
            bench.in_front_of(public) as (front, held),
        ):
            await consumer.connect(None, public)
            async with (
                bench.stream_log(trial, broker, "log") as log,
                bench.producer(trial, log=log) as (producer, _),
            ):
                await producer.connect(front.url)
                accept = log.before(producer.publish)
                for item in items[:4]:
                    await accept(item)
                await bench.until(lambda: len(bench.received(0)) == len(bench.received(1)) == 4)
                held.add("/hooks/1")
                for item in items[4:8]:
                    await accept(item)
                await bench.until(lambda: len(bench.received(0)) == 8 and bench.records("producer", Kind.FAILED))
                if save_every < 1:
                    await bench.until(lambda: ended(bench) == {0: 7, 1: 3})
            held.clear()
            async with (
                bench.stream_log(trial, broker, "log-2") as log,
                bench.producer(trial, log=log, name="producer-2") as (producer, _),
            ):
                await producer.connect(front.url)
                accept = log.before(producer.publish)
                for item in items[8:]:
                    await accept(item)
                await bench.until(lambda: bench.received(0)[-1:] == bench.received(1)[-1:] == [9])
                assert bench.received(0) == bench.received(1) == list(range(10))
                assert [bench.repeated(0), bench.repeated(1)] == repeated

    asyncio.run(scenario())


def test_a_new_durable_producer_delivers_to_each_endpoint_its_own_topic_only(bench, monkeypatch):
    monkeypatch.setattr("labkit.protocols.webhook.SAVE_EVERY", 600)

    async def scenario():
        trial = bench.trial("webhook", "durable", subscribers=2, topics=2, timings=bench.patient)
        log, items = EventLog(), bench.events(8, topics=2)
        async with bench.server(503) as away, bench.producer(trial, log=log) as (producer, _):
            await producer.connect(away.url)
            for item in items[:6]:
                await producer.publish(item)
        async with bench.consumer(trial) as (_, public), bench.producer(trial, log=log, name="again") as (producer, _):
            await producer.connect(public)
            for item in items[6:]:
                await producer.publish(item)
            await bench.until(lambda: len(bench.received(0)) == len(bench.received(1)) == 4)
            assert [bench.received(0), bench.received(1)] == [[0, 2, 4, 6], [1, 3, 5, 7]]

    asyncio.run(scenario())


def test_a_durable_producer_whose_log_has_evicted_what_was_not_delivered_goes_on_with_the_oldest_kept(bench):
    async def scenario():
        trial, log = bench.trial("webhook", "durable", timings=bench.patient), EventLog(3)
        async with bench.server(503) as away, bench.producer(trial, log=log) as (producer, _):
            await producer.connect(away.url)
            for item in bench.events(8):
                await producer.publish(item)
        async with bench.consumer(trial) as (_, public), bench.producer(trial, log=log, name="again") as (producer, _):
            await producer.connect(public)
            await bench.until(lambda: len(bench.received()) == 3)
            assert bench.received() == [5, 6, 7]

    asyncio.run(scenario())


@pytest.mark.parametrize("guarantee", ["at-most-once", "at-least-once"])
def test_a_producer_that_is_not_durable_remembers_nothing(bench, guarantee):
    async def scenario():
        trial = bench.trial("webhook", guarantee, timings=bench.patient)
        async with bench.server(503) as away, bench.producer(trial) as (producer, _):
            await producer.connect(away.url)
            await producer.publish(bench.events(1)[0])
        assert not (bench.folder / "endpoints.json").exists()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("guarantee", "again", "repeated"), [("at-least-once", [3], [0, 1, 2]), ("at-most-once", [0, 1, 2, 3], [])]
)
def test_a_resumed_consumer_drops_what_its_predecessor_had_where_it_recovers(bench, guarantee, again, repeated):
    async def scenario():
        trial = bench.trial("webhook", guarantee)
        async with bench.consumer(trial) as (consumer, url):
            consumer.resume({0: [0, 1, 2]})
            assert bench.records("consumer", Kind.DISCONNECTED) == [(0, NO_SEQUENCE, 0)]
            await consumer.connect(None, url)
            for item in bench.events(4):
                headers = signed(derived_secret(trial, 0), item)
                assert (await post(bench, f"{url}/hooks/0", headers, item.raw))[0] == 204
            assert (bench.received(), bench.repeated()) == (again, repeated)

    asyncio.run(scenario())
