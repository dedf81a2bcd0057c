"""Requests and their answers, as every protocol carries them: real trials, and what happens when a request fails."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Bench
from trials import Lab

import labkit as lab
from labkit.audit import Fate
from labkit.ledger import Kind
from labkit.plan import OUT_OF_THE_BOX, Plan
from labkit.promises import broken
from labkit.protocols import PROTOCOLS, find
from labkit.recording import Recording
from labkit.trial import Guarantee, Measure, Timings, Trial
from labkit.workload import Workload

WORKLOAD = Workload(rate=100, duration=0.5, subscribers=4, size=300)
TIMINGS = Timings(heartbeat=0.3, poll=0.03, hold=5.0)
POSTING = [name for name, row in PROTOCOLS.items() if name != "websocket" and not row.brokered]
"""The protocols whose requests are POSTs of their own."""


@pytest.fixture(scope="module")
def stations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"), len(OUT_OF_THE_BOX))
    yield lab
    lab.close()


@pytest.fixture(scope="module", params=PROTOCOLS)
def recordings(request: pytest.FixtureRequest, stations: Lab) -> list[Recording]:
    """One trial of each guarantee."""
    return stations.run(Plan(WORKLOAD, (request.param,), measures=(Measure.DUPLEX,), timings=TIMINGS).trials())


def test_every_request_is_answered_with_its_own_bytes_to_the_one_who_asked(recordings: list[Recording]) -> None:
    assert [recording.trial.guarantee for recording in recordings] == list(OUT_OF_THE_BOX)
    for recording in recordings:
        outcome, trial = recording.outcome, recording.trial
        assert broken(recording) == [], trial.guarantee
        assert int(outcome.owed.sum()) == len(recording.offer.due_ns) == 50
        assert outcome.owed.sum(axis=0).tolist() == [1] * 50
        # An arrival counts only when its checksum is that of the request.
        assert (outcome.unexpected, outcome.corrupt, outcome.count(Fate.REJECTED)) == (0, 0, 0)
        superseding = find(trial.protocol).latest_only and not trial.recovers
        assert outcome.lost == 0 or superseding
        assert outcome.delivered > 0
        assert (recording.latencies_ms() > 0).all()


def test_requests_go_up_the_link_and_answers_come_down(recordings: list[Recording]) -> None:
    for recording in recordings:
        sizes, outcome = recording.offer.size, recording.outcome
        answers = int(((outcome.arrived_ns > 0) * sizes).sum())
        assert recording.bytes(Kind.UP, "load", "settled") >= int(sizes.sum())
        assert recording.bytes(Kind.DOWN, "load", "settled") >= answers


def test_a_subscriber_has_as_many_connections_as_its_protocol_needs_for_both_ways(recordings: list[Recording]) -> None:
    subscribers = WORKLOAD.subscribers
    for recording in recordings:
        protocol = recording.trial.protocol
        found = len(recording.within(recording.link, Kind.CONNECTED, "setup", "settled"))
        if protocol in ("websocket", "pubsub"):
            assert found == subscribers
        elif protocol in ("webhook", "resthooks"):
            assert found > subscribers  # one for each, and those on which the producer delivers
        else:
            assert found == 2 * subscribers


def test_the_load_is_the_consumers_and_the_producer_sends_nothing_of_its_own(recordings: list[Recording]) -> None:
    for recording in recordings:
        sent = recording.producer[recording.producer["kind"] == Kind.SENT]
        mine = recording.consumer[recording.consumer["kind"] == Kind.SENT]
        assert np.array_equal(sent, mine)
        assert recording.outcome.lateness_ns.min() >= 0


@pytest.mark.parametrize("load", [{"subscribers": 1}, {"subscribers": 1, "arrival": "bursty"}, {"arrival": "bursty"}])
def test_one_subscriber_and_bursts_are_answered_too(stations: Lab, load: dict[str, Any]) -> None:
    workload = replace(WORKLOAD, **load)
    for protocol in ("websocket", "pubsub", "longpolling"):
        plan = Plan(workload, (protocol,), (Guarantee.AT_LEAST_ONCE,), (Measure.DUPLEX,), timings=TIMINGS)
        (recording,) = stations.run(plan.trials())
        assert broken(recording) == []
        assert (recording.outcome.delivered, recording.outcome.lost) == (len(workload.schedule()), 0)


def test_duplex_alone_is_compared_and_drawn(tmp_path: Path) -> None:
    run = lab.compare(
        replace(WORKLOAD, subscribers=1, duration=0.2),
        protocols="sse",
        guarantees="at-most-once",
        measures=["duplex"],
        out=tmp_path / "run",
    )
    assert run.errors == {}
    (found,) = run.duplex.to_dict("records")
    assert (found["requests"], found["answered"], found["connections"]) == (20, 20, 2)
    assert {"duplex.png", "duplex.svg"} <= {path.name for path in (run.folder / "charts").iterdir()}


def trial(bench: Bench, protocol: str, subscribers: int = 2) -> Trial:
    made = bench.trial(protocol, "at-most-once", subscribers=subscribers, topics=subscribers)
    return replace(made, measure=Measure.DUPLEX)


@pytest.mark.parametrize("protocol", POSTING)
def test_a_request_that_is_turned_down_or_reaches_nobody_is_rejected(
    bench: Bench, protocol: str, closed_port: int
) -> None:
    async def scenario() -> None:
        async with bench.server(202, 503) as server, bench.consumer(trial(bench, protocol)) as (consumer, _):
            items = bench.events(3, topics=2)
            consumer.upstream = server.url
            for number, item in enumerate(items[:2]):
                await consumer.ask(item)
                await bench.until(lambda so_far=number + 1: len(server.requests) == so_far)
            await bench.until(lambda: bench.records("consumer", Kind.REJECTED))
            assert [(request.method, request.path) for request in server.requests] == [("POST", "/requests")] * 2
            assert server.bodies == [item.raw for item in items[:2]]
            consumer.upstream = f"http://127.0.0.1:{closed_port}"
            await consumer.ask(items[2])
            await bench.until(lambda: len(bench.records("consumer", Kind.REJECTED)) == 2)
            assert bench.records("consumer", Kind.REJECTED) == [(1, 1, 503), (0, 2, 0)]
            assert bench.records("consumer", Kind.REQUESTED) == [(0, 0, 0), (1, 1, 0), (0, 2, 0)]

    asyncio.run(scenario())


def test_a_websocket_that_was_closed_takes_no_request(bench: Bench) -> None:
    async def scenario() -> None:
        made = trial(bench, "websocket")
        async with bench.consumer(made) as (consumer, _):
            async with bench.producer(made) as (_, url):
                await consumer.connect(url, None)
                await consumer.ask(bench.events(1)[0])
                await bench.until(bench.received)
            await bench.until(lambda: not consumer.live)
            await consumer.ask(bench.events(2, topics=2)[1])
            assert bench.records("consumer", Kind.REJECTED) == [(1, 1, 0)]
            assert (bench.received(0), bench.received(1)) == ([0], [])

    asyncio.run(scenario())


def test_a_request_that_nobody_on_the_broker_answers_is_rejected(bench: Bench) -> None:
    async def scenario() -> None:
        made = trial(bench, "pubsub")
        async with bench.broker() as (_, url), bench.consumer(made) as (consumer, _):
            await consumer.connect(url, None)
            await consumer.ask(bench.events(2, topics=2)[1])
            await bench.until(lambda: bench.records("consumer", Kind.REJECTED))
            assert bench.records("consumer", Kind.REJECTED) == [(1, 1, 0)]
            async with bench.producer(made) as (producer, _):
                await producer.connect(url)
                await consumer.ask(bench.events(1)[0])
                await bench.until(bench.received)
            assert len(bench.records("consumer", Kind.REJECTED)) == 1

    asyncio.run(scenario())


def test_requests_of_one_subscriber_arrive_in_the_order_in_which_they_were_due(bench: Bench) -> None:
    """More are asked for at every turn of the loop, so at whatever moment an answer frees the connection."""

    async def scenario() -> None:
        items = bench.events(500)
        async with bench.server(202) as server, bench.consumer(trial(bench, "sse", subscribers=1)) as (consumer, _):
            consumer.upstream = server.url
            for item in items:
                await consumer.ask(item)
                await asyncio.sleep(0)
            await bench.until(lambda: len(server.bodies) == len(items))
            assert server.bodies == [item.raw for item in items]
            assert bench.records("consumer", Kind.REJECTED) == []

    asyncio.run(scenario())


@pytest.mark.parametrize("protocol", POSTING)
def test_a_producer_takes_requests_in_a_duplex_trial_alone(bench: Bench, protocol: str) -> None:
    async def scenario() -> None:
        raw = bench.events(1)[0].raw.decode()
        made = trial(bench, protocol)
        async with bench.producer(made) as (producer, url):
            await producer.connect(None)
            assert (await bench.curl("-X", "POST", "-d", raw, f"{url}/requests"))[0] == 202
        if protocol != "webhook":  # whose producer has no server otherwise
            async with bench.producer(replace(made, measure=Measure.LATENCY), name="other") as (_, url):
                assert (await bench.curl("-X", "POST", "-d", raw, f"{url}/requests"))[0] in (404, 405)

    asyncio.run(scenario())
