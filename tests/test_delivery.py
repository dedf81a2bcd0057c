import asyncio
import secrets
import time
from base64 import b64encode
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime

import pytest
from aiohttp import ClientSession, ClientTimeout
from aiohttp.web import HTTPUnauthorized, Response
from standardwebhooks import Webhook

from labkit.ledger import Kind, Ledger
from labkit.protocols import delivery
from labkit.protocols.delivery import Endpoint, Receiver, Table

SECRET = "whsec_" + b64encode(secrets.token_bytes(24)).decode()


@asynccontextmanager
async def endpoint_to(bench, url, guarantee="at-least-once", **options):
    """A running endpoint that delivers to the URL."""
    trial = bench.trial("webhook", guarantee)
    with closing(Ledger(bench.folder / "producer.ledger")) as ledger:
        async with ClientSession(timeout=ClientTimeout(total=trial.timings.request)) as client:
            endpoint = Endpoint(trial, ledger, client, subscriber=7, url=url, secret=SECRET, **options)
            task = asyncio.create_task(endpoint.run())
            yield endpoint
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def ids(server):
    return [request.headers["webhook-id"] for request in server.requests]


def test_each_event_is_one_post_that_standard_webhooks_verifies(bench):
    async def scenario():
        async with bench.server(200, 204, 299) as server, endpoint_to(bench, f"{server.url}/hook") as endpoint:
            items = bench.events(3)
            for item in items:
                endpoint.push(item, item.raw)
            await bench.until(lambda: endpoint.pending == 0)
            assert server.bodies == [item.raw for item in items]
            assert ids(server) == ["00000000", "00000001", "00000002"]
            for request, body in zip(server.requests, server.bodies, strict=True):
                assert (request.method, request.path) == ("POST", "/hook")
                assert request.headers["Content-Type"] == "application/cloudevents+json"
                Webhook(SECRET).verify(body, dict(request.headers))
            assert bench.records("producer", Kind.FAILED) == []

    asyncio.run(scenario())


def test_a_failed_delivery_is_repeated_with_the_same_id_before_the_next_one_is_tried(bench):
    async def scenario():
        async with bench.server(500, 503, 200) as server, endpoint_to(bench, server.url) as endpoint:
            for item in bench.events(2):
                endpoint.push(item, item.raw)
            await bench.until(lambda: endpoint.pending == 0)
            assert ids(server) == ["00000000", "00000000", "00000000", "00000001"]
            for request, body in zip(server.requests, server.bodies, strict=True):
                Webhook(SECRET).verify(body, dict(request.headers))
            assert bench.records("producer", Kind.FAILED) == [(7, 0, 500), (7, 0, 503)]
            assert bench.records("producer", Kind.REJECTED) == []

    asyncio.run(scenario())


def test_waits_between_attempts_grow(bench):
    """With full jitter over the upper half: at least half of 10, 20, 40 and 50 ms."""

    async def scenario():
        async with bench.server(500) as server, endpoint_to(bench, server.url) as endpoint:
            (item,) = bench.events(1)
            endpoint.push(item, item.raw)
            await bench.until(lambda: endpoint.pending == 0)
            waits = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
            assert all(wait >= least for wait, least in zip(waits, (0.005, 0.010, 0.020, 0.025), strict=True))

    asyncio.run(scenario())


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(bench, status):
    async def scenario():
        busy = Response(status=status, headers={"Retry-After": "1"})
        async with bench.server(busy, 200) as server, endpoint_to(bench, server.url) as endpoint:
            (item,) = bench.events(1)
            endpoint.push(item, item.raw)
            await bench.until(lambda: endpoint.pending == 0)
            first, second = server.times
            assert second - first >= 1

    asyncio.run(scenario())


@pytest.mark.parametrize("value", ["", "soon", "-1", "1.5", "\u00b2", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_retry_after_that_is_no_number_of_seconds_does_not_stop_the_retries(bench, value):
    async def scenario():
        busy = Response(status=503, headers={"Retry-After": value})
        async with bench.server(busy, 200) as server, endpoint_to(bench, server.url) as endpoint:
            (item,) = bench.events(1)
            endpoint.push(item, item.raw)
            await bench.until(lambda: endpoint.pending == 0)
            assert len(server.requests) == 2

    asyncio.run(scenario())


def test_attempts_that_are_used_up_end_in_a_rejection_and_the_next_event_has_its_turn(bench):
    async def scenario():
        async with bench.server(*[500] * 5, 200) as server, endpoint_to(bench, server.url) as endpoint:
            for item in bench.events(2):
                endpoint.push(item, item.raw)
            await bench.until(lambda: endpoint.pending == 0)
            assert ids(server) == ["00000000"] * 5 + ["00000001"]
            assert bench.records("producer", Kind.FAILED) == [(7, 0, 500)] * 5
            assert bench.records("producer", Kind.REJECTED) == [(7, 0, 500)]

    asyncio.run(scenario())


def test_at_most_once_tries_once(bench):
    async def scenario():
        async with bench.server(500, 200) as server, endpoint_to(bench, server.url, "at-most-once") as endpoint:
            for item in bench.events(2):
                endpoint.push(item, item.raw)
            await bench.until(lambda: endpoint.pending == 0)
            assert ids(server) == ["00000000", "00000001"]
            assert bench.records("producer", Kind.REJECTED) == [(7, 0, 500)]

    asyncio.run(scenario())


def test_410_stops_the_endpoint_and_rejects_what_is_queued(bench):
    async def scenario():
        told = asyncio.Event()
        async with bench.server(200, 410) as server, endpoint_to(bench, server.url, gone=told.set) as endpoint:
            for item in bench.events(4):
                endpoint.push(item, item.raw)
            await bench.until(told.is_set)
            assert endpoint.pending == 0
            assert ids(server) == ["00000000", "00000001"]
            assert bench.records("producer", Kind.REJECTED) == [(7, 1, 410), (7, 2, 410), (7, 3, 410)]

    asyncio.run(scenario())


def test_no_answer_is_a_failure_without_a_status(bench, closed_port):
    async def scenario():
        async with endpoint_to(bench, f"http://127.0.0.1:{closed_port}/") as endpoint:
            (item,) = bench.events(1)
            endpoint.push(item, item.raw)
            await bench.until(lambda: endpoint.pending == 0)
            assert bench.records("producer", Kind.FAILED) == [(7, 0, 0)] * 5
            assert bench.records("producer", Kind.REJECTED) == [(7, 0, 0)]

    asyncio.run(scenario())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure_and_is_never_followed(bench, status):
    """Only 2xx is a success; 301 to 303 would even be followed by a GET that carries no event."""

    async def scenario():
        async with bench.server(200) as elsewhere:
            away = Response(status=status, headers={"Location": elsewhere.url})
            async with bench.server(away) as server, endpoint_to(bench, server.url, "at-most-once") as endpoint:
                (item,) = bench.events(1)
                endpoint.push(item, item.raw)
                await bench.until(lambda: endpoint.pending == 0)
                assert elsewhere.requests == []
                assert bench.records("producer", Kind.REJECTED) == [(7, 0, status)]

    asyncio.run(scenario())


def test_stopping_ends_the_retries_of_the_delivery_under_way(bench):
    async def scenario():
        async with bench.server(500) as server, endpoint_to(bench, f"{server.url}/stopped") as endpoint:
            (item,) = bench.events(1)
            endpoint.push(item, item.raw)
            await bench.until(lambda: server.requests)
            endpoint.stop()
            tried = len(server.requests)
            await bench.until(lambda: endpoint.pending == 0)
            # One attempt may have been on its way.
            assert len(server.requests) <= tried + 1

    asyncio.run(scenario())


def test_a_full_queue_rejects_what_is_further_pushed_and_still_delivers_what_it_holds(bench, monkeypatch):
    monkeypatch.setattr(delivery, "QUEUE_LIMIT", 3)

    async def scenario():
        release = asyncio.Event()

        async def answer(request):
            await release.wait()
            return 204

        async with bench.server(answer) as server, endpoint_to(bench, server.url) as endpoint:
            items = bench.events(9)
            endpoint.push(items[0], items[0].raw)
            await bench.until(lambda: server.requests)
            for item in items[1:6]:
                endpoint.push(item, item.raw)
            assert endpoint.pending == 4
            assert bench.records("producer", Kind.OVERFLOWED) == [(7, 4, 3), (7, 5, 3)]
            assert bench.records("producer", Kind.REJECTED) == [(7, 4, 0), (7, 5, 0)]
            release.set()
            await bench.until(lambda: endpoint.pending == 0)
            for item in items[6:]:
                endpoint.push(item, item.raw)
            await bench.until(lambda: endpoint.pending == 0)
            assert ids(server) == [f"{number:08d}" for number in (0, 1, 2, 3, 6, 7, 8)]
            assert len(bench.records("producer", Kind.REJECTED)) == 2

    asyncio.run(scenario())


def test_a_delivery_has_ended_when_it_succeeded_or_was_given_up_and_not_before(bench):
    async def scenario():
        ended = []

        def answer(status):
            def note(request):
                ended.append(endpoint.ended_with)
                return status

            return note

        async with (
            bench.server(*map(answer, (500, 204, *[500] * 5, 204))) as server,
            endpoint_to(bench, server.url) as endpoint,
        ):
            for item in bench.events(3, start=4):
                endpoint.push(item, item.raw)
            assert endpoint.ended_with == -1
            await bench.until(lambda: endpoint.pending == 0)
            assert ended == [-1, -1, *[4] * 5, 5]
            assert endpoint.ended_with == 6
            assert bench.records("producer", Kind.REJECTED) == [(7, 5, 500)]

    asyncio.run(scenario())


def test_another_secret_signs_from_the_next_attempt_on(bench):
    async def scenario():
        other = "whsec_" + b64encode(secrets.token_bytes(24)).decode()

        def refuse(request):
            endpoint.rekey(other)
            return 401

        async with bench.server(refuse, 204) as server, endpoint_to(bench, server.url) as endpoint:
            (item,) = bench.events(1)
            endpoint.push(item, item.raw)
            await bench.until(lambda: endpoint.pending == 0)
            for request, secret in zip(server.requests, (SECRET, other), strict=True):
                Webhook(secret).verify(item.raw, dict(request.headers))

    asyncio.run(scenario())


@pytest.fixture
def table(bench):
    with closing(Ledger(bench.folder / "producer.ledger")) as ledger:
        yield Table(ledger)


ROWS = [{"subscriber": 0, "ended_with": 7}, {"subscriber": 1, "topic": None, "secret": "whsec_\u00e9"}]


def test_a_table_has_the_rows_last_saved_and_at_first_none(table):
    assert table.load() == []
    table.save(ROWS)
    assert table.load() == ROWS
    table.save(ROWS[:1])
    assert table.load() == ROWS[:1]
    table.save([])
    assert table.load() == []


def test_a_table_is_shared_by_all_processes_whose_ledgers_lie_in_one_folder(bench, table):
    table.save(ROWS)
    with closing(Ledger(bench.folder / "producer-2.ledger")) as ledger:
        assert Table(ledger).load() == ROWS


@pytest.mark.parametrize("half", ["", "[", '[{"subscriber": 0, "ended'])
def test_a_save_that_was_cut_off_leaves_the_rows_of_the_one_before(bench, table, half):
    table.save(ROWS)
    (bench.folder / "endpoints.new").write_text(half)
    assert table.load() == ROWS
    table.save(ROWS[1:])
    assert table.load() == ROWS[1:]
    assert not (bench.folder / "endpoints.new").exists()


def genuine(event_id="00000000", body=b"{}", at=None, secret=SECRET):
    now = datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(event_id, now, body.decode()),
    }


def signature():
    return genuine()["webhook-signature"]


def test_a_genuine_delivery_is_known_by_its_id():
    assert Receiver(SECRET, drop_repeats=True).verify(genuine("00000042"), b"{}") == "00000042"


@pytest.mark.parametrize("wrap", ["v1,AAAA {}", "{} v1,AAAA", "v1a,AAAA {}", "v2,AAAA {}"])
def test_one_good_signature_among_several_is_enough(wrap):
    """Standard Webhooks: several signatures, separated by spaces, let a secret be rotated."""
    headers = genuine() | {"webhook-signature": wrap.format(signature())}
    assert Receiver(SECRET, drop_repeats=True).verify(headers, b"{}") == "00000000"


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": None},
        {"webhook-id": ""},
        {"webhook-id": "00000001"},
        {"webhook-timestamp": None},
        {"webhook-timestamp": ""},
        {"webhook-timestamp": "nan"},
        {"webhook-timestamp": "inf"},
        {"webhook-timestamp": "-1"},
        {"webhook-timestamp": "9" * 30},
        {"webhook-timestamp": "9" * 400},
        {"webhook-timestamp": "9" * 5000},
        {"webhook-timestamp": f"{int(time.time()):_}"},
        {"webhook-timestamp": f" {int(time.time())}"},
        {"webhook-timestamp": f"{int(time.time())}.0"},
        {"webhook-timestamp": "".join(chr(0x0660 + int(digit)) for digit in str(int(time.time())))},
        {"webhook-signature": None},
        {"webhook-signature": ""},
        {"webhook-signature": "v1"},
        {"webhook-signature": "v1,"},
        {"webhook-signature": ","},
        {"webhook-signature": "v1,*"},
        {"webhook-signature": "v1,YQ"},
        {"webhook-signature": "v1,\u00e9\u00e9\u00e9\u00e9"},
        {"webhook-signature": "v1,a,b"},
        {"webhook-signature": "v1," + "A" * 44},
        {"webhook-signature": signature().replace("v1,", "v2,")},
    ],
)
def test_a_malformed_or_wrong_header_is_unauthorized(change):
    headers = {name: value for name, value in {**genuine(), **change}.items() if value is not None}
    with pytest.raises(HTTPUnauthorized):
        Receiver(SECRET, drop_repeats=True).verify(headers, b"{}")


@pytest.mark.parametrize("age", [-400, 400])
def test_a_genuine_signature_of_another_time_is_unauthorized(age):
    with pytest.raises(HTTPUnauthorized):
        Receiver(SECRET, drop_repeats=True).verify(genuine(at=time.time() - age), b"{}")


@pytest.mark.parametrize("body", [b"{ }", b"", b"\xff\xfe", b"\xed\xa0\x80"])
def test_another_body_is_unauthorized(body):
    with pytest.raises(HTTPUnauthorized):
        Receiver(SECRET, drop_repeats=True).verify(genuine(), body)


def test_repeats_are_known_by_id_up_to_the_number_remembered(monkeypatch):
    monkeypatch.setattr(delivery, "REMEMBERED", 2)
    receiver = Receiver(SECRET, drop_repeats=True)
    assert [receiver.repeated(name) for name in "abab"] == [False, False, True, True]
    assert [receiver.repeated(name) for name in "cba"] == [False, True, False]


def test_what_a_receiver_is_told_to_remember_is_a_repeat():
    receiver = Receiver(SECRET, drop_repeats=True)
    receiver.remember(iter("ab"))
    assert [receiver.repeated(name) for name in "abcc"] == [True, True, False, True]


def test_a_receiver_that_keeps_repeats_knows_none():
    receiver = Receiver(SECRET, drop_repeats=False)
    assert [receiver.repeated(name) for name in "aa"] == [False, False]
