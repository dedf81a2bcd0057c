import asyncio
import json
import urllib.request
from contextlib import asynccontextmanager, closing

import nats
import pytest

from labkit.errors import TrialError
from labkit.ledger import Kind, Ledger
from labkit.protocols.eventlog import CAPACITY, EventLog, Gap
from labkit.protocols.streamlog import StreamLog


@pytest.fixture(params=["memory", "stream"])
def open_log(request, bench):
    """Opens a log of each backend in turn; the stream lies with a broker that syncs every write."""

    @asynccontextmanager
    async def opened(capacity=CAPACITY):
        if request.param == "memory":
            log = EventLog(capacity)
            await log.open()
            yield log
            await log.close()
            return
        async with (
            bench.broker("always") as (_, url),
            bench.stream_log(bench.trial("sse", "durable", topics=3), url) as log,
        ):
            log._capacity = capacity
            yield log

    return opened


class Publisher:
    """What a producer does with its log: events go through `before`, and are appended when they are handed on."""

    def __init__(self, log):
        self.log, self.published = log, []
        self._accept = log.before(self._publish)

    async def _publish(self, item):
        self.published.append(item.sequence)
        self.log.append(item)

    async def accept(self, items):
        for item in items:
            await self._accept(item)

    async def publish(self, bench, items):
        await self.accept(items)
        await bench.until(lambda: self.log.unkept == 0)


def some(bench, *sequences, topics=3):
    """The events of these numbers."""
    return [item for item in bench.events(max(sequences) + 1, topics=topics) if item.sequence in sequences]


def sequences(items):
    return [item.sequence for item in items]


def gap_of(log, cursor, topic=None):
    with pytest.raises(Gap) as caught:
        log.after(cursor, topic)
    return caught.value.after, caught.value.oldest


def test_an_empty_log_has_nothing_and_nothing_is_missing_at_its_beginning(bench, open_log):
    async def scenario():
        async with open_log() as log:
            assert (log.oldest, log.next, log.unkept) == (0, 0, 0)
            assert (log.latest(), log.latest("t0"), log.get(0)) == (None, None, None)
            assert (log.after(-1), gap_of(log, 0)) == ([], (0, 0))
            log.check()

    asyncio.run(scenario())


def test_after_a_cursor_come_the_events_of_a_topic_or_all_oldest_first(bench, open_log):
    async def scenario():
        async with open_log() as log:
            items = bench.events(9, topics=3)
            await Publisher(log).publish(bench, items)
            assert log.after(-1) == items
            assert log.after(5) == items[6:]
            assert log.after(8) == []
            assert log.after(2, limit=2) == items[3:5]
            assert log.after(-1, "t1") == items[1::3]
            assert log.after(1, "t1", 1) == items[4:5]
            assert log.after(-1, "elsewhere") == []
            assert [log.get(number) for number in (0, 8, 9)] == [items[0], items[8], None]
            assert [log.latest(topic) for topic in (None, "t0", "t2", "elsewhere")] == [
                items[8],
                items[6],
                items[8],
                None,
            ]

    asyncio.run(scenario())


def test_numbers_that_nobody_used_are_left_out_and_are_no_gap(bench, open_log):
    async def scenario():
        async with open_log() as log:
            await Publisher(log).publish(bench, some(bench, 2, 3, 7, 11))
            assert (log.oldest, log.next) == (2, 12)
            found = {cursor: sequences(log.after(cursor)) for cursor in (1, 4, 7, 11)}
            assert found == {1: [2, 3, 7, 11], 4: [7, 11], 7: [11], 11: []}
            assert [log.get(number) is None for number in (3, 4, 7)] == [False, True, False]

    asyncio.run(scenario())


def test_when_full_the_oldest_goes_and_its_cursor_is_a_gap(bench, open_log):
    async def scenario():
        async with open_log(capacity=3) as log:
            await Publisher(log).publish(bench, some(bench, 0, 1, 4, 5, 8))
            assert (log.oldest, log.next) == (4, 9)
            assert sequences(log.after(3)) == [4, 5, 8]
            assert [gap_of(log, cursor) for cursor in (-1, 0, 2, 9, 99)] == [(c, 4) for c in (-1, 0, 2, 9, 99)]
            assert gap_of(log, 0, "t1") == (0, 4)
            assert [log.get(number) is None for number in (0, 1, 4, 8)] == [True, True, False, False]

    asyncio.run(scenario())


def test_a_replay_is_what_was_missed_or_a_gap_signal_and_all_that_is_kept(bench, open_log):
    async def scenario():
        async with open_log(capacity=3) as log:
            await Publisher(log).publish(bench, bench.events(6, topics=3))
            assert log.replay("00000003") == (None, log.after(3))
            assert log.replay("00000003", "t2") == (None, log.after(3, "t2"))
            for cursor, after in (("00000001", "00000001"), ("00000042", "00000042"), ("nonsense", "00000000")):
                signal, kept = log.replay(cursor)
                assert json.loads(signal)["data"] == {"after": after, "oldest": "00000003"}
                assert sequences(kept) == [3, 4, 5]

    asyncio.run(scenario())


def test_an_event_that_does_not_follow_the_newest_is_refused_and_changes_nothing(bench, open_log):
    async def scenario():
        async with open_log() as log:
            items = bench.events(3)
            await Publisher(log).publish(bench, items)
            for item in items:
                with pytest.raises(ValueError, match=f"event {item.sequence} does not follow 2"):
                    log.append(item)
            assert (log.after(-1), log.next) == (items, 3)

    asyncio.run(scenario())


def test_events_are_handed_on_once_each_and_in_the_order_in_which_they_were_taken(bench, open_log):
    async def scenario():
        async with open_log() as log:
            publisher = Publisher(log)
            await publisher.accept(bench.events(100, topics=3))
            await publisher.publish(bench, bench.events(100, start=100, topics=3))
            assert publisher.published == list(range(200))
            assert sequences(log.after(-1)) == list(range(200))

    asyncio.run(scenario())


def test_an_event_is_handed_on_only_after_it_was_recorded_as_accepted(bench):
    async def scenario():
        async with bench.broker("always") as (_, url), bench.stream_log(bench.trial("sse", "durable"), url) as log:
            items, handed_on = bench.events(20), []

            async def publish(item):
                accepted = {sequence: size for _, sequence, size in bench.records("log", Kind.ACCEPTED)}
                handed_on.append((item.sequence, accepted.get(item.sequence)))

            accept = log.before(publish)
            for item in items:
                await accept(item)
            await bench.until(lambda: len(handed_on) == 20)
            assert handed_on == [(item.sequence, len(item.raw)) for item in items]
            assert sequences_of(bench, "log") == list(range(20))

    asyncio.run(scenario())


def sequences_of(bench, side):
    return sorted(sequence for _, sequence, _ in bench.records(side, Kind.ACCEPTED))


def test_an_event_that_is_not_yet_accepted_holds_back_those_behind_it(bench):
    async def scenario():
        async with bench.broker() as (_, url), bench.stream_log(bench.trial("sse", "durable"), url) as log:
            submit, held = log._stream.submit, asyncio.Event()

            async def late(item):
                await held.wait()
                await submit(item)

            async def slow_for_the_second(item):
                if item.sequence == 1:
                    log._tasks.start(late(item))
                else:
                    await submit(item)

            log._stream.submit = slow_for_the_second
            publisher = Publisher(log)
            await publisher.accept(bench.events(5))
            await bench.until(lambda: sequences_of(bench, "log") == [0, 2, 3, 4] and publisher.published)
            assert (publisher.published, log.unkept) == ([0], 4)
            held.set()
            await bench.until(lambda: log.unkept == 0)
            assert publisher.published == [0, 1, 2, 3, 4]

    asyncio.run(scenario())


def test_what_keeps_an_event_from_being_handed_on_is_raised_by_the_check(bench):
    async def scenario():
        async with bench.broker() as (_, url):
            with closing(Ledger(bench.folder / "log.ledger")) as ledger:
                log = StreamLog(bench.trial("sse", "durable"), ledger, url)
                await log.open()

                async def publish(item):
                    raise ValueError("no room")

                await log.before(publish)(bench.events(1)[0])
                await bench.until(lambda: log._tasks.failure)
                with pytest.raises(ValueError, match="no room"):
                    log.check()
                await log.close()

    asyncio.run(scenario())


def test_a_log_that_was_abandoned_is_found_again_with_all_that_was_accepted(bench):
    async def scenario():
        trial = bench.trial("sse", "durable", topics=3)
        async with bench.broker("always") as (_, url):
            items = some(bench, 0, 1, 2, 4, 7)
            async with bench.stream_log(trial, url, "first") as log:
                await Publisher(log).publish(bench, items)
            async with bench.stream_log(trial, url, "second") as log:
                assert [(i.sequence, i.topic, i.raw) for i in log.after(-1)] == [
                    (i.sequence, i.topic, i.raw) for i in items
                ]
                assert (log.oldest, log.next, log.unkept) == (0, 8, 0)
                publisher = Publisher(log)
                await publisher.publish(bench, some(bench, 9, 10))
                assert (publisher.published, sequences(log.after(4))) == ([9, 10], [7, 9, 10])
            async with bench.stream_log(trial, url, "third") as log:
                assert sequences(log.after(-1)) == [0, 1, 2, 4, 7, 9, 10]

    asyncio.run(scenario())


def test_everything_accepted_is_found_again_after_producer_and_broker_were_killed(bench):
    async def scenario():
        trial = bench.trial("sse", "durable")
        async with bench.broker("always") as (broker, url):
            async with bench.stream_log(trial, url, "first") as log:
                publisher = Publisher(log)
                await publisher.accept(bench.events(200))
                await bench.until(lambda: len(publisher.published) > 50)
                broker.kill()
            accepted = sequences_of(bench, "first")
            await broker.open(int(url.rpartition(":")[2]))
            async with bench.stream_log(trial, url, "second") as log:
                found = sequences(log.after(-1))
                assert set(accepted) <= set(found)
                assert found == sorted(set(found))

    asyncio.run(scenario())


def test_more_than_one_batch_is_found_again_and_what_does_not_fit_is_evicted(bench):
    async def scenario():
        trial = bench.trial("sse", "durable")
        async with bench.broker() as (_, url):
            async with bench.stream_log(trial, url, "first") as log:
                await Publisher(log).publish(bench, bench.events(2345))
            async with bench.stream_log(trial, url, "second") as log:
                assert sequences(log.after(-1)) == list(range(2345))
            with closing(Ledger(bench.folder / "third.ledger")) as ledger:
                log = StreamLog(trial, ledger, url)
                log._capacity = 10
                await log.open()
                assert (log.oldest, sequences(log.after(2334))) == (2335, list(range(2335, 2345)))
                await log.close()

    asyncio.run(scenario())


def test_logs_of_two_trials_on_one_broker_know_nothing_of_each_other(bench):
    async def scenario():
        async with (
            bench.broker() as (_, url),
            bench.stream_log(bench.trial("sse", "durable"), url, "one") as one,
            bench.stream_log(bench.trial("sse", "durable"), url, "other") as other,
        ):
            await Publisher(one).publish(bench, bench.events(3))
            await Publisher(other).publish(bench, bench.events(2, start=7))
            assert (sequences(one.after(-1)), sequences(other.after(6))) == ([0, 1, 2], [7, 8])

    asyncio.run(scenario())


def test_closing_a_log_removes_its_stream(bench):
    async def scenario():
        async with bench.broker() as (_, url):
            client = await nats.connect(url)
            with closing(Ledger(bench.folder / "log.ledger")) as ledger:
                trial = bench.trial("sse", "durable")
                log = StreamLog(trial, ledger, url)
                await log.open()
                assert [i.config.name for i in await client.jetstream().streams_info()] == [f"labkit-{trial.uid}"]
                await log.close()
            assert await client.jetstream().streams_info() == []
            await client.close()

    asyncio.run(scenario())


def test_a_log_whose_broker_is_gone_can_be_closed(bench, monkeypatch):
    monkeypatch.setattr("labkit.protocols.jetstream.CONNECT_LIMIT", 0.5)

    async def scenario():
        async with bench.broker() as (broker, url):
            with closing(Ledger(bench.folder / "log.ledger")) as ledger:
                log = StreamLog(bench.trial("sse", "durable"), ledger, url)
                await log.open()
                broker.kill()
                await bench.until(lambda: not log._client.is_connected)
                await log.close()

    asyncio.run(scenario())


def test_a_log_that_found_no_broker_says_so_and_can_be_closed(bench, closed_port):
    async def scenario():
        with closing(Ledger(bench.folder / "log.ledger")) as ledger:
            log = StreamLog(bench.trial("sse", "durable"), ledger, f"nats://127.0.0.1:{closed_port}")
            with pytest.raises(TrialError, match=rf"^The broker at 127\.0\.0\.1:{closed_port} does not answer"):
                await log.open()
            await log.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(("sync", "always"), [("always", True), ("2m", None)])
def test_the_broker_syncs_each_write_where_it_is_told_to(bench, sync, always):
    def config(broker):
        with urllib.request.urlopen(f"{broker._monitor}/varz", timeout=5) as answer:
            return json.load(answer)["jetstream"]["config"]

    async def scenario():
        async with bench.broker(sync) as (broker, _):
            assert (await asyncio.to_thread(config, broker)).get("sync_always") == always

    asyncio.run(scenario())


@pytest.mark.parametrize("protocol", ["websocket", "sse", "polling", "longpolling"])
def test_a_subscriber_gets_all_that_was_accepted_once_and_in_order_from_one_producer_after_the_other(bench, protocol):
    async def scenario():
        trial, items = bench.trial(protocol, "durable"), bench.events(200)
        async with bench.broker("always") as (_, broker), bench.consumer(trial) as (consumer, _):
            async with (
                bench.stream_log(trial, broker, "log") as log,
                bench.producer(trial, log=log) as (producer, url),
            ):
                await consumer.connect(url, None)
                accept = log.before(producer.publish)
                for item in items[:150]:
                    await accept(item)
                await bench.until(lambda: len(bench.received()) > 10)
            seen, accepted = bench.received(), sequences_of(bench, "log")
            assert set(seen) <= set(accepted)
            async with bench.stream_log(trial, broker, "log-2") as log:
                held = sequences(log.after(-1))
                assert set(accepted) <= set(held)
                port = int(url.rpartition(":")[2])
                async with bench.producer(trial, port, log, "producer-2") as (producer, _):
                    accept = log.before(producer.publish)
                    for item in items[150:]:
                        await accept(item)
                    await bench.until(lambda: bench.received()[-1] == 199)
                    assert bench.received() == [*held, *range(150, 200)]
                    assert bench.records("consumer", Kind.GAP) == []

    asyncio.run(scenario())
