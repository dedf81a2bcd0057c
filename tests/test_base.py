import asyncio

import pytest

from labkit.ledger import NO_SEQUENCE, Kind
from labkit.protocols.base import Tasks
from labkit.protocols.eventlog import EventLog

STREAMS = pytest.mark.parametrize("protocol", ["websocket", "sse"])


def test_a_task_that_swallows_a_cancellation_is_cancelled_again():
    """As `asyncio.wait_for` does up to Python 3.11 when a result and a cancellation come together."""

    async def scenario():
        tasks, swallowed = Tasks(), 0

        async def stubborn():
            nonlocal swallowed
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    swallowed += 1
                    if swallowed == 3:
                        raise

        tasks.start(stubborn())
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await tasks.close()
        assert swallowed == 3
        assert tasks.failure is None

    asyncio.run(scenario())


@STREAMS
@pytest.mark.parametrize(("guarantee", "received"), [("at-least-once", [2, 3, 4, 5]), ("at-most-once", [5])])
def test_a_consumer_in_a_killed_ones_place_goes_on_after_the_newest_event_where_it_recovers(
    bench, protocol, guarantee, received
):
    async def scenario():
        trial = bench.trial(protocol, guarantee, subscribers=2, topics=1)
        async with bench.producer(trial) as (producer, url), bench.consumer(trial) as (consumer, _):
            items = bench.events(6)
            for item in items[:5]:
                await producer.publish(item)
            consumer.resume({0: [0, 1], 1: [0, 1, 2, 3, 4]})
            assert bench.records("consumer", Kind.DISCONNECTED) == [(0, NO_SEQUENCE, 0), (1, NO_SEQUENCE, 0)]
            await consumer.connect(url, None)
            await bench.until(lambda: len(bench.records("producer", Kind.CONNECTED)) == 2)
            for item in items[5:]:
                await producer.publish(item)
            await bench.until(lambda: bench.received(0)[-1:] == bench.received(1)[-1:] == [5])
            assert (bench.received(0), bench.received(1)) == (received, [5])
            assert bench.records("consumer", Kind.REPEATED) == bench.records("consumer", Kind.GAP) == []

    asyncio.run(scenario())


@STREAMS
def test_a_new_producer_with_the_same_log_goes_on_for_those_who_reconnect(bench, protocol):
    async def scenario():
        trial, log, items = bench.trial(protocol, "durable"), EventLog(), bench.events(9)
        async with bench.consumer(trial) as (consumer, _):
            async with bench.producer(trial, log=log) as (producer, url):
                await consumer.connect(url, None)
                for item in items[:3]:
                    await producer.publish(item)
                await bench.until(lambda: bench.received() == [0, 1, 2])
            await bench.until(lambda: consumer.connected == 0)
            for item in items[3:5]:
                log.append(item)
            async with bench.producer(trial, int(url.rpartition(":")[2]), log, "producer-2") as (producer, _):
                await bench.until(lambda: consumer.connected == 1)
                for item in items[5:]:
                    await producer.publish(item)
                await bench.until(lambda: len(bench.received()) == 9)
                assert (bench.received(), bench.repeated()) == (list(range(9)), [])

    asyncio.run(scenario())
