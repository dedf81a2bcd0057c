"""What a recording holds: requests as each protocol makes them, and an offer that is its own trial's."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Bench
from test_charts import LOAD, spec, write_run
from trials import Lab

from labkit.ledger import Kind
from labkit.outage import Outage
from labkit.plan import OUT_OF_THE_BOX, Plan
from labkit.recording import Recording
from labkit.trial import Guarantee, Measure, Timings
from labkit.workload import Workload

WORKLOAD = Workload(rate=100, duration=0.5, subscribers=3)
EVENTS, HOSTS = 50, WORKLOAD.subscribers
TIMINGS = Timings(heartbeat=30, poll=0.05, hold=5.0)


@pytest.fixture(scope="module")
def stations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"), len(OUT_OF_THE_BOX))
    yield lab
    lab.close()


def costs(stations: Lab, protocol: str) -> list[Recording]:
    """A cost trial of each guarantee."""
    return stations.run(Plan(WORKLOAD, (protocol,), measures=(Measure.COST,), timings=TIMINGS).trials())


def before_the_load(recording: Recording) -> int:
    sides = (recording.producer, recording.consumer)
    return sum(len(recording.within(side, Kind.REQUESTED, "setup", "load")) for side in sides)


@pytest.mark.parametrize("protocol", ["websocket", "sse"])
def test_a_stream_is_one_request_for_each_subscriber_and_none_for_events(stations: Lab, protocol: str) -> None:
    for recording in costs(stations, protocol):
        assert (before_the_load(recording), recording.requests()) == (HOSTS, 0)


def test_a_broker_is_asked_for_nothing_over_http(stations: Lab) -> None:
    for recording in costs(stations, "pubsub"):
        assert (before_the_load(recording), recording.requests()) == (0, 0)


@pytest.mark.parametrize(("protocol", "set_up"), [("webhook", 0), ("resthooks", 2 * HOSTS)])
def test_a_hook_is_one_request_for_each_delivery_besides_subscription_and_handshake(
    stations: Lab, protocol: str, set_up: int
) -> None:
    for recording in costs(stations, protocol):
        warmup = len(WORKLOAD.warmup()) * HOSTS
        assert before_the_load(recording) == set_up + warmup
        asked = recording.producer[recording.producer["kind"] == Kind.REQUESTED]
        of_the_load = asked[(asked["sequence"] >= WORKLOAD.first) & (asked["sequence"] < WORKLOAD.first + EVENTS)]
        assert len(of_the_load) == EVENTS * HOSTS
        # What the last events are still being delivered with comes after the load.
        assert EVENTS * HOSTS / 2 < recording.requests() <= EVENTS * HOSTS


def test_polling_asks_as_often_as_its_interval_says_whatever_happens(stations: Lab) -> None:
    for recording in costs(stations, "polling"):
        seconds = (recording.phases["settle"] - recording.phases["load"]) / 1e9
        polls = seconds / TIMINGS.poll * HOSTS
        assert polls - 2 * HOSTS <= recording.requests() <= polls + 2 * HOSTS


def test_polls_after_the_last_event_of_a_load_are_part_of_it(stations: Lab) -> None:
    load = Workload(rate=2, duration=1.0, subscribers=1)
    trials = Plan(load, ("polling",), measures=(Measure.COST,), timings=TIMINGS).trials()
    for recording in stations.run(trials):
        assert recording.phases["settle"] - recording.phases["load"] >= 1e9
        # The second and last event is due after half a second, when ten of the twenty polls are made.
        assert 17 <= recording.requests() <= 22


def test_an_overloaded_producers_requests_and_cpu_are_counted_to_the_last(stations: Lab) -> None:
    load = Workload(rate=20_000, duration=0.1, subscribers=1)
    (trial,) = Plan(load, ("webhook",), (Guarantee.AT_MOST_ONCE,), (Measure.LATENCY,), timings=TIMINGS).trials()
    (recording,) = stations.run([trial])
    assert recording.requests() == 2000 == recording.outcome.delivered
    assert recording.phases["settle"] - recording.phases["load"] > 0.1e9


def test_a_long_poll_that_is_held_is_counted_while_nothing_happens(stations: Lab) -> None:
    timings = replace(TIMINGS, heartbeat=0.2, hold=1.0)
    load = Workload(rate=50, duration=0.2, subscribers=2)
    trials = Plan(load, ("longpolling",), measures=(Measure.BANDWIDTH,), timings=timings).trials()
    for recording in stations.run(trials):
        assert (recording.phases["stop"] - recording.phases["idle"]) >= 1e9
        asked = len(recording.within(recording.consumer, Kind.REQUESTED, "idle", "stop"))
        assert asked == pytest.approx(load.subscribers, abs=load.subscribers / 2)


def test_a_long_poll_is_asked_again_for_each_answer(stations: Lab) -> None:
    for recording in costs(stations, "longpolling"):
        arrived = recording.outcome.arrived_ns
        answers = int(((arrived > 0) & (arrived < recording.phases["settle"])).sum())
        # On a busy machine one answer may bring several events.
        assert answers / 4 <= recording.requests() <= answers + HOSTS


def test_a_stream_that_was_cut_is_requested_again(stations: Lab) -> None:
    outage = Outage("reset", at=0.1, lasts=0.1)
    plan = Plan(WORKLOAD, ("websocket",), (Guarantee.AT_LEAST_ONCE,), (Measure.LOSS,), (outage,), timings=TIMINGS)
    (recording,) = stations.run(plan.trials())
    assert before_the_load(recording) == HOSTS
    assert recording.requests() >= HOSTS


def test_each_attempt_at_a_delivery_is_a_request(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.server(500, 503, 204) as server, bench.producer(bench.trial("webhook")) as (producer, _):
            await producer.connect(None)
            producer.add_endpoint(server.url)
            (item,) = bench.events(1)
            await producer.publish(item)
            await bench.pending(producer, 0)
            assert len(server.requests) == 3
            assert bench.records("producer", Kind.REQUESTED) == [(0, 0, 0)] * 3

    asyncio.run(scenario())


def test_each_poll_that_a_server_saw_is_a_request(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.server(204) as server:
            async with bench.consumer(bench.trial("polling")) as (consumer, _):
                await consumer.connect(server.url, None)
                await bench.until(lambda: len(server.requests) >= 5)
            # One may have been under way when the consumer was closed.
            assert 0 <= len(bench.records("consumer", Kind.REQUESTED)) - len(server.requests) <= 1

    asyncio.run(scenario())


def test_trials_that_were_offered_the_same_to_other_subscribers_keep_their_own(tmp_path: Path) -> None:
    few = spec(Measure.BANDWIDTH, "sse")
    many = replace(few, name="many", workload=replace(LOAD, subscribers=20))
    run = write_run(tmp_path, {few: {}, many: {}})
    shapes = {recording.trial.name: recording.outcome.owed.shape for recording in run.recordings}
    assert shapes == {few.name: (5, 200), "many": (20, 200)}
    assert sorted(run.bandwidth["deliveries"]) == [5 * 200, 20 * 200]
