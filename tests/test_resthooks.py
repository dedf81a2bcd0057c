import asyncio
import json
import re
from datetime import UTC, datetime

import aiohttp
import openapi_spec_validator
import pytest
from aiohttp.web import Response, json_response
from standardwebhooks import Webhook

from labkit.errors import TrialError
from labkit.ledger import Kind
from labkit.protocols.eventlog import EventLog
from labkit.trial import Timings


def agrees(request):
    """A target that confirms the handshake and takes every event."""
    secret = request.headers.get("X-Hook-Secret")
    return Response(status=200, headers={"X-Hook-Secret": secret}) if secret else 204


def secret_of(target):
    """The secret that the handshake handed over."""
    return next(r.headers["X-Hook-Secret"] for r in target.requests if "X-Hook-Secret" in r.headers)


def deliveries(target):
    """Headers and body of every POST but the handshake's."""
    pairs = zip(target.requests, target.bodies, strict=True)
    return [(dict(request.headers), body) for request, body in pairs if "X-Hook-Secret" not in request.headers]


async def subscribe(bench, url, body):
    text = body if isinstance(body, str) else json.dumps(body)
    wish = bench.folder / "wish"
    wish.write_text(text)
    return await bench.curl("-H", "Expect:", "--data-binary", f"@{wish}", f"{url}/subscriptions")


async def publish(producer, items):
    for item in items:
        await producer.publish(item)


def test_a_subscription_is_created_listed_read_deleted_and_then_gone(bench):
    async def scenario():
        async with bench.producer(bench.trial("resthooks")) as (_, url), bench.server(agrees) as target:
            status, headers, body = await subscribe(bench, url, {"target_url": target.url, "event": "t1"})
            created = json.loads(body)
            assert status == 201
            assert created == {"id": created["id"], "target_url": target.url, "event": "t1", "payload": "full"}
            assert headers["location"] == f"/subscriptions/{created['id']}"
            assert secret_of(target) not in body.decode()

            here = url + headers["location"]
            status, _, body = await bench.curl(here)
            assert (status, json.loads(body)) == (200, created)
            status, _, body = await bench.curl(f"{url}/subscriptions")
            assert (status, json.loads(body)) == (200, [created])

            assert (await bench.curl("-X", "DELETE", here))[0] == 204
            assert (await bench.curl(here))[0] == 404
            assert (await bench.curl("-X", "DELETE", here))[0] == 404
            assert json.loads((await bench.curl(f"{url}/subscriptions"))[2]) == []

    asyncio.run(scenario())


def test_the_handshake_hands_over_the_secret_that_signs_each_delivery(bench):
    async def scenario():
        async with (
            bench.producer(bench.trial("resthooks", "at-most-once")) as (producer, url),
            bench.server(agrees) as target,
        ):
            assert (await subscribe(bench, url, {"target_url": f"{target.url}/hook"}))[0] == 201
            items = bench.events(3)
            await publish(producer, items)
            await bench.until(lambda: len(deliveries(target)) == 3)
            for (headers, body), item in zip(deliveries(target), items, strict=True):
                assert body == item.raw
                Webhook(secret_of(target)).verify(body, headers)

    asyncio.run(scenario())


def test_two_subscriptions_have_two_secrets_and_get_their_own_topics(bench):
    async def scenario():
        async with (
            bench.producer(bench.trial("resthooks")) as (producer, url),
            bench.server(agrees) as first,
            bench.server(agrees) as second,
        ):
            await subscribe(bench, url, {"target_url": first.url, "event": "t0"})
            await subscribe(bench, url, {"target_url": second.url, "event": "*"})
            items = bench.events(4, topics=2)
            await publish(producer, items)
            await bench.until(lambda: len(deliveries(first)) == 2 and len(deliveries(second)) == 4)
            assert [body for _, body in deliveries(first)] == [item.raw for item in items[::2]]
            assert [body for _, body in deliveries(second)] == [item.raw for item in items]
            assert secret_of(first) != secret_of(second)

    asyncio.run(scenario())


def test_a_thin_payload_is_a_claim_check_that_can_be_redeemed(bench):
    async def scenario():
        async with bench.producer(bench.trial("resthooks")) as (producer, url), bench.server(agrees) as target:
            _, _, body = await subscribe(bench, url, {"target_url": target.url, "payload": "thin"})
            assert json.loads(body)["payload"] == "thin"
            (item,) = bench.events(1)
            await producer.publish(item)
            await bench.until(lambda: deliveries(target))
            ((headers, body),) = deliveries(target)
            Webhook(secret_of(target)).verify(body, headers)
            claim = json.loads(body)
            assert claim["id"] == "00000000"
            status, headers, body = await bench.curl(url + claim["href"])
            assert (status, headers["content-type"], body) == (200, "application/cloudevents+json", item.raw)

    asyncio.run(scenario())


GOOD = "http://127.0.0.1:9/"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "nonsense",
        "null",
        "[]",
        '"text"',
        "7",
        "{}",
        "[" * 100_000,
        '{"a":' * 100_000,
        {"target_url": None},
        {"target_url": 7},
        {"target_url": [GOOD]},
        {"target_url": ""},
        {"target_url": "nonsense"},
        {"target_url": "/hook"},
        {"target_url": "https://127.0.0.1/"},
        {"target_url": "ftp://127.0.0.1/"},
        {"target_url": "http://example.com/"},
        {"target_url": "http://10.0.0.1/"},
        {"target_url": "http://169.254.169.254/latest/meta-data"},
        {"target_url": "http://127.0.0.1@example.com/"},
        {"target_url": "http://127.0.0.1.example.com/"},
        {"target_url": "http://0.0.0.0/"},
        {"target_url": "http://127.0.0.1:99999/"},
        {"target_url": "http://127.0.0.1:port/"},
        {"target_url": "http://[::1/"},
        {"target_url": "http://127.0.0.1:9/\ud800"},
        {"target_url": "http://127.0.0.1:9/ \n"},
        {"target_url": GOOD, "event": None},
        {"target_url": GOOD, "event": 7},
        {"target_url": GOOD, "event": ""},
        {"target_url": GOOD, "event": "t1."},
        {"target_url": GOOD, "event": "t1\n"},
        {"target_url": GOOD, "event": ">"},
        {"target_url": GOOD, "event": ["t1"]},
        {"target_url": GOOD, "payload": None},
        {"target_url": GOOD, "payload": "half"},
        {"target_url": GOOD, "payload": ["thin"]},
        {"target_url": GOOD, "payload": {}},
    ],
    ids=lambda body: ascii(body)[:50],
)
def test_a_body_that_asks_for_no_subscription_is_answered_422_with_the_reason(bench, body):
    async def scenario():
        async with bench.producer(bench.trial("resthooks")) as (_, url):
            status, headers, answer = await subscribe(bench, url, body)
            assert status == 422
            assert headers["content-type"].startswith("application/json")
            assert json.loads(answer)["detail"].endswith(".")
            assert json.loads((await bench.curl(f"{url}/subscriptions"))[2]) == []

    asyncio.run(scenario())


def test_a_body_that_is_not_utf8_is_answered_422(bench):
    async def scenario():
        async with bench.producer(bench.trial("resthooks")) as (_, url):
            wish = bench.folder / "bytes"
            wish.write_bytes(b'{"target_url":"\xff\xfe"}')
            assert (await bench.curl("--data-binary", f"@{wish}", f"{url}/subscriptions"))[0] == 422

    asyncio.run(scenario())


def test_a_body_too_large_is_answered_413(bench):
    async def scenario():
        async with bench.producer(bench.trial("resthooks")) as (_, url):
            assert (await subscribe(bench, url, {"target_url": GOOD + "x" * 2_000_000}))[0] == 413

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "answer",
    [
        200,
        204,
        404,
        410,
        500,
        lambda request: Response(headers={"X-Hook-Secret": "another"}),
        lambda request: Response(headers={"X-Hook-Secret": request.headers["X-Hook-Secret"] + "x"}),
        lambda request: Response(status=404, headers={"X-Hook-Secret": request.headers["X-Hook-Secret"]}),
    ],
)
def test_a_target_that_does_not_confirm_the_handshake_is_not_subscribed(bench, answer):
    async def scenario():
        async with bench.producer(bench.trial("resthooks")) as (producer, url), bench.server(answer) as target:
            status, _, body = await subscribe(bench, url, {"target_url": target.url})
            assert status == 422
            assert "did not confirm" in json.loads(body)["detail"]
            assert json.loads((await bench.curl(f"{url}/subscriptions"))[2]) == []
            await publish(producer, bench.events(1))
            assert await producer.pending() == 0

    asyncio.run(scenario())


def test_a_target_that_is_not_there_is_not_subscribed(bench, closed_port):
    async def scenario():
        async with bench.producer(bench.trial("resthooks")) as (_, url):
            status, _, body = await subscribe(bench, url, {"target_url": f"http://127.0.0.1:{closed_port}/"})
            assert status == 422
            assert "could not be reached" in json.loads(body)["detail"]

    asyncio.run(scenario())


@pytest.mark.parametrize("status", [302, 307])
def test_the_handshake_follows_no_redirect_off_the_target_that_was_checked(bench, status):
    async def scenario():
        async with bench.server(agrees) as elsewhere:
            away = Response(status=status, headers={"Location": elsewhere.url})
            async with bench.producer(bench.trial("resthooks")) as (_, url), bench.server(away) as target:
                assert (await subscribe(bench, url, {"target_url": target.url}))[0] == 422
                assert elsewhere.requests == []

    asyncio.run(scenario())


def test_410_ends_the_subscription(bench):
    async def scenario():
        def leaves(request):
            return agrees(request) if "X-Hook-Secret" in request.headers else 410

        async with bench.producer(bench.trial("resthooks")) as (producer, url), bench.server(leaves) as target:
            _, headers, _ = await subscribe(bench, url, {"target_url": target.url})
            items = bench.events(3)
            await publish(producer, items[:2])
            await bench.until(lambda: len(bench.records("producer", Kind.REJECTED)) == 2)
            assert (await bench.curl(url + headers["location"]))[0] == 404
            await publish(producer, items[2:])
            assert await producer.pending() == 0
            assert len(deliveries(target)) == 1

    asyncio.run(scenario())


def test_a_deleted_subscription_gets_nothing_more_not_even_a_retry(bench):
    async def scenario():
        def fails(request):
            return agrees(request) if "X-Hook-Secret" in request.headers else 500

        trial = bench.trial("resthooks", timings=Timings(retry=0.05, retry_limit=0.05, attempts=10))
        async with (
            bench.producer(trial) as (producer, url),
            bench.server(fails) as deleted,
            bench.server(fails) as kept,
        ):
            _, headers, _ = await subscribe(bench, url, {"target_url": deleted.url})
            await subscribe(bench, url, {"target_url": kept.url})
            await publish(producer, bench.events(1))
            await bench.until(lambda: deliveries(deleted))
            assert (await bench.curl("-X", "DELETE", url + headers["location"]))[0] == 204
            tried = len(deliveries(deleted))
            # The other one shows how far the retries would have gone; one attempt may have been on its way.
            await bench.until(lambda: len(deliveries(kept)) == 10)
            assert len(deliveries(deleted)) <= tried + 1

    asyncio.run(scenario())


def test_subscriptions_created_at_one_time_are_told_apart_in_the_ledger(bench):
    async def scenario():
        both = asyncio.Barrier(2)

        async def answer(request):
            if "X-Hook-Secret" in request.headers:
                await both.wait()
                return agrees(request)
            return 500

        async with (
            bench.producer(bench.trial("resthooks", "at-most-once")) as (producer, url),
            bench.server(answer) as target,
        ):
            ask = ["--json", json.dumps({"target_url": target.url}), f"{url}/subscriptions"]
            answers = await asyncio.gather(bench.curl(*ask), bench.curl(*ask))
            assert [status for status, _, _ in answers] == [201, 201]
            await publish(producer, bench.events(1))
            await bench.until(lambda: len(bench.records("producer", Kind.REJECTED)) == 2)
            assert sorted(bench.records("producer", Kind.REJECTED)) == [(0, 0, 500), (1, 0, 500)]

    asyncio.run(scenario())


def test_the_event_log_is_read_by_cursor_topic_and_id(bench):
    async def scenario():
        async with bench.producer(bench.trial("resthooks")) as (producer, url):
            items = bench.events(6, topics=2)
            await publish(producer, items)
            status, headers, body = await bench.curl(f"{url}/events?after=00000002")
            assert (status, headers["content-type"]) == (200, "application/x-ndjson")
            assert body.splitlines() == [item.raw for item in items[3:]]
            assert (await bench.curl(f"{url}/events"))[2].splitlines() == [item.raw for item in items]
            _, _, body = await bench.curl(f"{url}/events?after=00000000&topic=t1")
            assert body.splitlines() == [item.raw for item in items[1::2]]
            status, _, body = await bench.curl(f"{url}/events/00000004")
            assert (status, body) == (200, items[4].raw)
            for missing in ("00000006", "4", "nonsense"):
                status, _, body = await bench.curl(f"{url}/events/{missing}")
                assert status == 404
                assert json.loads(body)["detail"]

    asyncio.run(scenario())


@pytest.mark.parametrize(("cursor", "after"), [("00000003", "00000003"), ("nonsense", "00000000")])
def test_an_evicted_or_unknown_cursor_is_answered_410_with_the_gap_spelled_out(bench, monkeypatch, cursor, after):
    monkeypatch.setattr("labkit.protocols.resthooks.EventLog", lambda: EventLog(3))

    async def scenario():
        async with bench.producer(bench.trial("resthooks")) as (producer, url):
            await publish(producer, bench.events(8))
            status, _, body = await bench.curl(f"{url}/events?after={cursor}")
            assert status == 410
            assert json.loads(body)["data"] == {"after": after, "oldest": "00000005"}
            assert (await bench.curl(f"{url}/events/00000004"))[0] == 404

    asyncio.run(scenario())


def test_the_openapi_document_is_valid_and_names_every_route_there_is(bench):
    async def scenario():
        async with bench.producer(bench.trial("resthooks")) as (producer, url):
            status, _, body = await bench.curl(f"{url}/openapi.json")
            document = json.loads(body)
            assert status == 200
            openapi_spec_validator.validate(document)
            assert document["servers"] == [{"url": url}]
            served = {
                (route.resource.canonical, route.method.lower())
                for route in producer._app.router.routes()
                if route.method != "HEAD" and route.resource.canonical != "/openapi.json"
            }
            methods = {"get", "post", "delete"}
            described = {(path, m) for path, item in document["paths"].items() for m in methods & item.keys()}
            assert described == served

    asyncio.run(scenario())


@pytest.mark.parametrize("side", ["producer", "consumer"])
def test_a_port_in_use_is_named_in_one_sentence(bench, side):
    async def scenario():
        async with bench.producer(bench.trial("resthooks")) as (_, url):
            port = int(url.rpartition(":")[2])
            sentence = await bench.refused("resthooks", side, port)
            assert re.fullmatch(rf"Port {port} is in use .*free one\.", sentence)

    asyncio.run(scenario())


@pytest.mark.parametrize("payload", ["full", "thin"])
@pytest.mark.parametrize("guarantee", ["at-most-once", "at-least-once"])
def test_our_consumer_and_our_producer_understand_each_other(bench, guarantee, payload):
    async def scenario():
        trial = bench.trial("resthooks", guarantee, payload=payload, subscribers=3, topics=2)
        async with bench.producer(trial) as (producer, url), bench.consumer(trial) as (consumer, public):
            await consumer.connect(url, public)
            for item in bench.events(6, topics=2):
                await producer.publish(item)
            await bench.until(lambda: len(bench.records("consumer", Kind.RECEIVED)) == 9)
            assert [sorted(bench.received(subscriber)) for subscriber in range(3)] == [[0, 2, 4], [1, 3, 5], [0, 2, 4]]

    asyncio.run(scenario())


def test_our_consumer_takes_no_secret_from_strangers(bench):
    async def scenario():
        trial = bench.trial("resthooks")
        async with bench.producer(trial) as (producer, url), bench.consumer(trial) as (consumer, public):
            stranger = ["-X", "POST", "-H", "X-Hook-Secret: whsec_AAAA"]
            assert (await bench.curl(*stranger, f"{public}/hooks/0"))[0] == 410
            await consumer.connect(url, public)
            assert (await bench.curl(*stranger, f"{public}/hooks/0"))[0] == 401
            assert (await bench.curl("-X", "POST", f"{public}/hooks/1"))[0] == 410
            await publish(producer, bench.events(1))
            await bench.until(lambda: bench.received() == [0])

    asyncio.run(scenario())


def test_a_producer_that_refuses_to_subscribe_is_quoted(bench):
    async def scenario():
        refusal = json_response({"detail": "No room."}, status=503)
        async with bench.server(refusal) as server, bench.consumer(bench.trial("resthooks")) as (consumer, public):
            with pytest.raises(TrialError, match=r"answered 503: .*No room\."):
                await consumer.connect(server.url, public)

    asyncio.run(scenario())


class PlainProducer:
    """A hand-written producer: accepts every subscription, and answers /events from its own list, in pages."""

    PAGE = 1000

    def __init__(self, bench, items):
        self.items = items
        self.asked = []
        self.server = bench.server(self.answer)

    async def answer(self, request):
        if request.method == "POST":
            self.target = json.loads(await request.read())["target_url"]
            await self.post({"X-Hook-Secret": "whsec_c2VjcmV0"}, b"")
            return Response(status=201, body=b"{}")
        after = request.query.get("after")
        self.asked.append(after)
        left = [item for item in self.items if after is None or item.sequence > int(after)]
        return Response(body=b"".join(item.raw + b"\n" for item in left[: self.PAGE]))

    async def post(self, headers, body):
        async with aiohttp.ClientSession() as client, client.post(self.target, headers=headers, data=body) as response:
            return response.status

    async def deliver(self, item):
        now, event_id = datetime.now(UTC), f"{item.sequence:08d}"
        headers = {
            "webhook-id": event_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook("whsec_c2VjcmV0").sign(event_id, now, item.raw.decode()),
        }
        return await self.post(headers, item.raw)


def test_our_consumer_reconciles_after_a_heartbeat_without_a_delivery_and_drops_what_it_has(bench):
    async def scenario():
        items = bench.events(5)
        plain = PlainProducer(bench, items[:2])
        async with plain.server as server, bench.consumer(bench.trial("resthooks")) as (consumer, public):
            await consumer.connect(server.url, public)
            assert await plain.deliver(items[0]) == 204
            await bench.until(lambda: bench.received() == [0, 1])
            plain.items = items
            await bench.until(lambda: bench.received() == [0, 1, 2, 3, 4])
            assert "00000001" in plain.asked

    asyncio.run(scenario())


def test_reconciliation_reads_page_after_page_until_nothing_is_missing(bench):
    async def scenario():
        items = bench.events(2501)
        plain = PlainProducer(bench, items)
        async with plain.server as server, bench.consumer(bench.trial("resthooks")) as (consumer, public):
            await consumer.connect(server.url, public)
            await bench.until(lambda: plain.asked)
            # What is delivered meanwhile must not hide the hole before it.
            assert await plain.deliver(items[2500]) == 204
            await bench.until(lambda: len(set(bench.received())) == 2501, limit=5)

    asyncio.run(scenario())


def test_our_consumer_at_most_once_reconciles_nothing(bench):
    async def scenario():
        items = bench.events(2)
        plain = PlainProducer(bench, items)
        async with (
            plain.server as server,
            bench.consumer(bench.trial("resthooks", "at-most-once")) as (consumer, public),
        ):
            await consumer.connect(server.url, public)
            for item in (items[1], items[1]):
                assert await plain.deliver(item) == 204
            assert bench.received() == [1, 1]
            assert plain.asked == []

    asyncio.run(scenario())
