import asyncio
import json
import re
from dataclasses import replace
from datetime import UTC, datetime

import aiohttp
import openapi_spec_validator
import pytest
from aiohttp.web import Response, json_response
from standardwebhooks import Webhook, WebhookVerificationError

from labkit.errors import TrialError
from labkit.event import encode_gap
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
            wishes = [json.dumps({"target_url": target.url, "event": event}) for event in ("t0", "*")]
            answers = await asyncio.gather(*(bench.curl("--json", wish, f"{url}/subscriptions") for wish in wishes))
            assert [status for status, _, _ in answers] == [201, 201]
            await publish(producer, bench.events(1))
            await bench.until(lambda: len(bench.records("producer", Kind.REJECTED)) == 2)
            assert sorted(bench.records("producer", Kind.REJECTED)) == [(0, 0, 500), (1, 0, 500)]

    asyncio.run(scenario())


def secrets_of(target):
    """The secrets of all handshakes, in their order."""
    return [r.headers["X-Hook-Secret"] for r in target.requests if "X-Hook-Secret" in r.headers]


def test_subscribing_again_to_the_same_event_renews_the_subscription_and_switches_its_secret(bench):
    async def scenario():
        trial = bench.trial("resthooks", "at-most-once")
        async with bench.producer(trial) as (producer, url), bench.server(agrees) as target:
            wish = {"target_url": target.url, "event": "t0"}
            status, headers, body = await subscribe(bench, url, wish)
            assert status == 201
            again, headers_again, body_again = await subscribe(bench, url, wish)
            assert (again, headers_again["location"], body_again) == (200, headers["location"], body)
            assert json.loads((await bench.curl(f"{url}/subscriptions"))[2]) == [json.loads(body)]
            old, new = secrets_of(target)
            assert old != new
            (item,) = bench.events(1)
            await producer.publish(item)
            await bench.until(lambda: deliveries(target))
            ((headers, body),) = deliveries(target)
            Webhook(new).verify(body, headers)
            with pytest.raises(WebhookVerificationError):
                Webhook(old).verify(body, headers)

    asyncio.run(scenario())


@pytest.mark.parametrize("change", [{"event": "t1"}, {"event": "*"}, {"target_url": "/other"}])
def test_another_event_or_another_target_is_another_subscription(bench, change):
    async def scenario():
        trial = bench.trial("resthooks")
        async with bench.producer(trial) as (_, url), bench.server(agrees) as target:
            wish = {"target_url": target.url + "/", "event": "t0"}
            other = {**wish, **change}
            if "target_url" in change:
                other["target_url"] = target.url + change["target_url"]
            answers = [await subscribe(bench, url, body) for body in (wish, other, wish, other)]
            assert [status for status, _, _ in answers] == [201, 201, 200, 200]
            places = [headers["location"] for _, headers, _ in answers]
            assert places[:2] == places[2:]
            assert len(set(places)) == len(json.loads((await bench.curl(f"{url}/subscriptions"))[2])) == 2

    asyncio.run(scenario())


def test_a_renewal_keeps_the_subscribers_number_and_takes_the_new_payload(bench):
    async def scenario():
        def fails(request):
            return agrees(request) if "X-Hook-Secret" in request.headers else 500

        trial = bench.trial("resthooks", "at-most-once")
        async with bench.producer(trial) as (producer, url), bench.server(fails) as target:
            wishes = [{"target_url": f"{target.url}/{name}"} for name in "ab"]
            for wish in wishes:
                await subscribe(bench, url, wish)
            _, _, body = await subscribe(bench, url, {**wishes[1], "payload": "thin"})
            assert json.loads(body)["payload"] == "thin"
            await publish(producer, bench.events(1))
            await bench.until(lambda: len(bench.records("producer", Kind.REJECTED)) == 2)
            assert sorted(bench.records("producer", Kind.REJECTED)) == [(0, 0, 500), (1, 0, 500)]
            thin = [body for request, body in zip(target.requests, target.bodies, strict=True) if b"href" in body]
            assert [json.loads(body)["id"] for body in thin] == ["00000000"]

    asyncio.run(scenario())


def test_a_renewal_keeps_what_is_queued_and_signs_it_anew(bench):
    async def scenario():
        ready = asyncio.Event()

        def answer(request):
            if "X-Hook-Secret" in request.headers:
                return agrees(request)
            return 204 if ready.is_set() else 503

        trial = bench.trial("resthooks", timings=bench.patient)
        async with bench.producer(trial) as (producer, url), bench.server(answer) as target:
            await subscribe(bench, url, {"target_url": target.url})
            items = bench.events(4)
            await publish(producer, items)
            await bench.until(lambda: deliveries(target))
            await subscribe(bench, url, {"target_url": target.url})
            tried = len(deliveries(target))
            ready.set()
            await bench.pending(producer, 0)
            # One attempt with the old secret may have been on its way.
            taken = deliveries(target)[tried + 1 :]
            assert [body for _, body in taken][-3:] == [item.raw for item in items[1:]]
            for headers, body in taken:
                Webhook(secrets_of(target)[-1]).verify(body, headers)

    asyncio.run(scenario())


@pytest.mark.parametrize("guarantee", ["at-most-once", "at-least-once", "durable"])
def test_subscriptions_outlive_the_producer_with_their_id_number_and_secret(bench, guarantee):
    async def scenario():
        trial = bench.trial("resthooks", guarantee, timings=replace(bench.patient, attempts=1))

        def answer(request):
            return agrees(request) if "X-Hook-Secret" in request.headers else 500

        async with bench.server(answer) as target:
            async with bench.producer(trial) as (_, url):
                created = [
                    await subscribe(
                        bench, url, {"target_url": f"{target.url}/{name}", "event": event, "payload": payload}
                    )
                    for name, event, payload in (("a", "*", "full"), ("b", "t0", "thin"), ("c", "*", "full"))
                ]
                assert (await bench.curl("-X", "DELETE", url + created[0][1]["location"]))[0] == 204
            async with bench.producer(trial, name="again") as (producer, url):
                kept = [json.loads(body) for _, _, body in created[1:]]
                assert json.loads((await bench.curl(f"{url}/subscriptions"))[2]) == kept
                status, _, body = await subscribe(bench, url, {"target_url": f"{target.url}/d"})
                assert (status, json.loads(body)["id"] in {subscription["id"] for subscription in kept}) == (201, False)
                await publish(producer, bench.events(2, topics=2))
                await bench.until(lambda: len(bench.records("again", Kind.REJECTED)) == 5)
                assert sorted(bench.records("again", Kind.REJECTED)) == [
                    (1, 0, 500),
                    (2, 0, 500),
                    (2, 1, 500),
                    (3, 0, 500),
                    (3, 1, 500),
                ]
                secret = dict(zip("abcd", secrets_of(target), strict=True))
                for request, body in zip(target.requests, target.bodies, strict=True):
                    if "X-Hook-Secret" not in request.headers:
                        Webhook(secret[request.path[1:]]).verify(body, dict(request.headers))
                        assert (b"href" in body) == (request.path == "/b")

    asyncio.run(scenario())


@pytest.mark.parametrize("end", ["deleted", "gone"])
def test_a_subscription_that_ended_does_not_come_back_with_a_new_producer(bench, end):
    async def scenario():
        def leaves(request):
            return agrees(request) if "X-Hook-Secret" in request.headers else 410

        trial = bench.trial("resthooks")
        async with bench.server(leaves) as target:
            async with bench.producer(trial) as (producer, url):
                _, headers, _ = await subscribe(bench, url, {"target_url": target.url})
                if end == "deleted":
                    await bench.curl("-X", "DELETE", url + headers["location"])
                else:
                    await publish(producer, bench.events(1))
                    await bench.until(lambda: bench.records("producer", Kind.REJECTED))
            async with bench.producer(trial, name="again") as (_, url):
                assert json.loads((await bench.curl(f"{url}/subscriptions"))[2]) == []

    asyncio.run(scenario())


def ended(bench):
    """How far each subscription has come, as the producer last saved it."""
    return {row["number"]: row["ended_with"] for row in json.loads((bench.folder / "endpoints.json").read_text())}


@pytest.mark.parametrize("payload", ["full", "thin"])
@pytest.mark.parametrize(
    ("save_every", "repeated"),
    [(0.01, [[], []]), (600, [[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3]])],
    ids=["lately", "never"],
)
def test_a_new_durable_producer_goes_on_where_each_subscription_was_and_repeats_are_dropped(
    bench, monkeypatch, save_every, repeated, payload
):
    monkeypatch.setattr("labkit.protocols.resthooks.SAVE_EVERY", save_every)

    async def scenario():
        trial = bench.trial("resthooks", "durable", subscribers=2, timings=bench.patient, payload=payload)
        items = bench.events(10)
        async with (
            bench.broker("always") as (_, broker),
            bench.consumer(trial) as (consumer, public),
            bench.in_front_of(public) as (front, held),
        ):
            async with (
                bench.stream_log(trial, broker, "log") as log,
                bench.producer(trial, log=log) as (producer, url),
            ):
                await consumer.connect(url, front.url)
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
                bench.producer(trial, int(url.rpartition(":")[2]), log, "producer-2") as (producer, _),
            ):
                accept = log.before(producer.publish)
                for item in items[8:]:
                    await accept(item)
                await bench.until(lambda: bench.received(0)[-1:] == bench.received(1)[-1:] == [9])
                assert bench.received(0) == bench.received(1) == list(range(10))
                assert [bench.repeated(0), bench.repeated(1)] == repeated

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
def test_an_evicted_or_unknown_cursor_is_answered_410_with_the_gap_spelled_out(bench, cursor, after):
    async def scenario():
        async with bench.producer(bench.trial("resthooks"), log=EventLog(3)) as (producer, url):
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


@pytest.mark.parametrize("guarantee", ["at-most-once", "at-least-once", "durable"])
def test_a_resumed_consumer_asks_deliveries_to_wait_until_it_has_subscribed_again(bench, guarantee):
    async def scenario():
        trial = bench.trial("resthooks", guarantee, subscribers=2)
        async with bench.producer(trial) as (producer, url), bench.consumer(trial) as (consumer, public):
            assert (await bench.curl("-X", "POST", f"{public}/hooks/0"))[0] == 410
            consumer.resume({0: [0, 1]})
            for path, status in (("/hooks/0", 503), ("/hooks/1", 503), ("/hooks/2", 410)):
                assert (await bench.curl("-X", "POST", public + path))[0] == status
            await consumer.connect(url, public)
            assert (await bench.curl("-X", "POST", f"{public}/hooks/0"))[0] == 401
            await publish(producer, bench.events(1, start=2))
            await bench.until(lambda: bench.received(0) == bench.received(1) == [2])

    asyncio.run(scenario())


def test_a_consumer_that_takes_a_killed_ones_place_renews_its_subscription_and_gets_nothing_twice(bench):
    async def scenario():
        trial = bench.trial("resthooks", timings=bench.patient)
        async with bench.producer(trial) as (producer, url):
            items = bench.events(9)
            async with bench.consumer(trial) as (consumer, public):
                port = int(public.rpartition(":")[2])
                await consumer.connect(url, public)
                await publish(producer, items[:3])
                await bench.until(lambda: bench.received() == [0, 1, 2])
            before = (await bench.curl(f"{url}/subscriptions"))[2]
            await publish(producer, items[3:6])
            await bench.until(lambda: bench.records("producer", Kind.FAILED))
            async with bench.consumer(trial, port, "consumer-2") as (consumer, public):
                consumer.resume({0: [0, 1, 2]})
                await consumer.connect(url, public)
                await publish(producer, items[6:])
                await bench.pending(producer, 0)
                await bench.until(lambda: len(bench.received(side="consumer-2")) == 6)
                assert sorted(bench.received(side="consumer-2")) == [3, 4, 5, 6, 7, 8]
                assert (await bench.curl(f"{url}/subscriptions"))[2] == before
                assert bench.records("producer", Kind.REJECTED) == []

    asyncio.run(scenario())


class PlainProducer:
    """A hand-written producer: accepts every subscription, and answers /events from its own list, in pages.

    `at_once` is delivered before the subscription is answered; up to `evicted` its log knows nothing.
    """

    PAGE = 1000

    def __init__(self, bench, items):
        self.items = items
        self.asked = []
        self.at_once, self.evicted = [], -1
        self.server = bench.server(self.answer)

    async def answer(self, request):
        if request.method == "POST":
            self.target = json.loads(await request.read())["target_url"]
            await self.post({"X-Hook-Secret": "whsec_c2VjcmV0"}, b"")
            for item in self.at_once:
                await self.deliver(item)
            return Response(status=201, body=b"{}")
        after = request.query.get("after")
        self.asked.append(after)
        if after is not None and int(after) < self.evicted:
            return Response(status=410, body=encode_gap(int(after), self.evicted + 1))
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


@pytest.mark.parametrize(
    ("guarantee", "asked", "received"), [("at-least-once", ["00000001"], [2, 3, 4]), ("at-most-once", [], [])]
)
def test_a_resumed_consumer_looks_into_the_log_at_once_where_it_recovers(bench, guarantee, asked, received):
    async def scenario():
        items = bench.events(5)
        plain = PlainProducer(bench, items)
        trial = bench.trial("resthooks", guarantee, timings=bench.patient)
        async with plain.server as server, bench.consumer(trial) as (consumer, public):
            consumer.resume({0: [0, 1]})
            assert consumer.pending(0) == len(asked)
            await consumer.connect(server.url, public)
            await bench.until(lambda: bench.received() == received and consumer.pending(0) == 0)
            assert plain.asked == asked
            assert bench.repeated() == []

    asyncio.run(scenario())


def test_what_is_delivered_before_a_resumed_consumer_has_looked_hides_nothing_that_came_before(bench):
    async def scenario():
        items = bench.events(7)
        plain = PlainProducer(bench, items)
        plain.at_once = items[5:]
        trial = bench.trial("resthooks", timings=bench.patient)
        async with plain.server as server, bench.consumer(trial) as (consumer, public):
            consumer.resume({0: [0, 1]})
            await consumer.connect(server.url, public)
            await bench.until(lambda: consumer.pending(0) == 0)
            assert plain.asked == ["00000001"]
            assert bench.received() == [5, 6, 2, 3, 4]
            assert bench.repeated() == [5, 6]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("guarantee", "received", "repeated"),
    [("at-least-once", [2], [0, 1]), ("durable", [2], [0, 1]), ("at-most-once", [0, 1, 2], [])],
)
def test_a_resumed_consumer_drops_what_its_predecessor_had_where_it_recovers(bench, guarantee, received, repeated):
    async def scenario():
        items = bench.events(3)
        plain = PlainProducer(bench, items)
        plain.at_once = items
        trial = bench.trial("resthooks", guarantee, timings=bench.patient)
        async with plain.server as server, bench.consumer(trial) as (consumer, public):
            consumer.resume({0: [0, 1]})
            await consumer.connect(server.url, public)
            await bench.until(lambda: consumer.pending(0) == 0)
            # Looking into the log, it finds the third event, which it has by then.
            assert (bench.received(), bench.repeated()[: len(repeated)]) == (received, repeated)

    asyncio.run(scenario())


def test_a_resumed_consumer_whose_cursor_is_evicted_records_the_gap_and_fetches_all_that_is_kept(bench):
    async def scenario():
        plain = PlainProducer(bench, bench.events(4, start=5))
        plain.evicted = 4
        trial = bench.trial("resthooks", timings=bench.patient)
        async with plain.server as server, bench.consumer(trial) as (consumer, public):
            consumer.resume({0: [0, 1]})
            await consumer.connect(server.url, public)
            await bench.until(lambda: consumer.pending(0) == 0)
            assert bench.records("consumer", Kind.GAP) == [(0, 1, 5)]
            assert bench.received() == [5, 6, 7, 8]

    asyncio.run(scenario())


def test_a_consumer_that_is_ahead_of_a_new_producers_empty_log_records_one_gap_and_goes_on(bench):
    async def scenario():
        trial = bench.trial("resthooks", timings=bench.patient)
        async with bench.producer(trial) as (producer, url), bench.consumer(trial) as (consumer, public):
            consumer.resume({0: [6, 7]})
            await consumer.connect(url, public)
            await bench.until(lambda: consumer.pending(0) == 0)
            await publish(producer, bench.events(2))
            await bench.until(lambda: bench.received() == [0, 1])
            assert bench.records("consumer", Kind.GAP) == [(0, 7, 0)]

    asyncio.run(scenario())


def test_a_resumed_consumer_looks_again_until_the_log_can_be_read(bench):
    async def scenario():
        items, refusals = bench.events(4), [500, 500]
        plain = PlainProducer(bench, items)
        answer = plain.answer

        async def fails_first(request):
            if request.method == "GET" and refusals:
                request.transport.close()
                return refusals.pop()
            return await answer(request)

        async with bench.server(fails_first) as server, bench.consumer(bench.trial("resthooks")) as (consumer, public):
            consumer.resume({0: [0]})
            await consumer.connect(server.url, public)
            await bench.until(lambda: consumer.pending(0) == 0)
            assert (refusals, bench.received()) == ([], [1, 2, 3])

    asyncio.run(scenario())
