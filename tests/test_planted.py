"""Faults planted between real servers, real clients and real processes: the audit of their ledgers finds just those."""

import asyncio
import random
import subprocess
import sys
import time
import zlib
from contextlib import AsyncExitStack, asynccontextmanager, closing

import numpy as np
import pytest
from aiohttp import ClientSession, web

from labkit.audit import Fate, Offer, Terms, audit
from labkit.event import sequence_of
from labkit.ledger import CHUNK, Kind, Ledger, read
from labkit.link import Link
from labkit.protocols import find
from labkit.protocols.base import serve_http
from labkit.protocols.sse import frame
from labkit.trial import Timings
from labkit.workload import Workload

EVENTS, SUBSCRIBERS, TOPICS = 60, 4, 2
FAULTS = ("lost", "again", "swapped", "corrupt", "stranger", "other topic", "rubbish")
CALM = Timings(heartbeat=600.0, retry=0.01, retry_limit=0.05, request=15.0)
"""No busy machine makes a side take the other for dead: whatever is noticed was planted."""

RUBBISH = frame(b'{"specversion":"1.0","id":"none"}')


def offered(items, due, subscribers, topics=1):
    """What was offered: these events at these times, each subscriber wanting its own topic where there are several."""
    topic = np.array([int(item.topic[1:]) for item in items])
    return Offer(
        first=items[0].sequence,
        due_ns=np.array(due, np.int64),
        size=np.array([len(item.raw) for item in items]),
        crc=np.array([zlib.crc32(item.raw) for item in items]),
        wanted=np.array([topic == subscriber % topics for subscriber in range(subscribers)]),
    )


async def publish(producer, items, due):
    """Publishes as a node does, and notes when."""
    for item in items:
        due.append(time.monotonic_ns())
        producer.ledger.write(Kind.SENT, item.sequence, value=len(item.raw))
        await producer.publish(item)


class Saboteur:
    """A relay of event streams, block by block. `/K/events` is the stream of subscriber K; `plan` says what it suffers.

    plan: (subscriber, sequence) -> one of FAULTS. strangers: the blocks that are slipped in.
    """

    def __init__(self, target, plan, strangers):
        self._target, self._plan, self._strangers = target, plan, strangers

    async def _relay(self, request):
        who, held = int(request.match_info["who"]), b""
        async with (
            ClientSession() as client,
            client.get(f"{self._target}/events", params=request.query, headers=request.headers) as upstream,
        ):
            response = web.StreamResponse(headers={"Content-Type": upstream.content_type})
            await response.prepare(request)
            async for block in self._blocks(upstream.content):
                treated, held = self._treat(who, block, held)
                await response.write(treated)
        return response

    @staticmethod
    async def _blocks(content):
        rest = b""
        async for chunk in content.iter_any():
            *blocks, rest = (rest + chunk).split(b"\n\n")
            for block in blocks:
                yield block + b"\n\n"

    def _treat(self, who, block, held):
        """What goes on in the place of a block, and what is held back to follow the next one."""
        _, is_event, raw = block.partition(b"data: ")
        what = self._plan.get((who, sequence_of(raw))) if is_event else None
        if what == "swapped":
            return b"", block
        if what == "lost":
            block = b""
        elif what == "corrupt":
            block = block.replace(b"xx", b"xy", 1)
        elif what in self._strangers:
            block += self._strangers[what][who % TOPICS]
        # Of a heartbeat there is nothing to overtake.
        return (block * (2 if what == "again" else 1) + held, b"") if is_event else (block, held)

    @asynccontextmanager
    async def serving(self):
        app = web.Application()
        app.router.add_get("/{who:[0-9]+}/events", self._relay)
        runner, url = await serve_http(app, 0)
        try:
            yield url
        finally:
            await runner.cleanup()


def planned(seed):
    """Faults for random cells: (subscriber, sequence) -> fault. The first and the last event of each pass untouched."""
    rng, plan = random.Random(seed), {}
    for who in range(SUBSCRIBERS):
        numbers = list(range(who % TOPICS + TOPICS, EVENTS - TOPICS, TOPICS))
        while len(numbers) > 1:
            number = numbers.pop(0)
            if rng.random() < 0.6:
                plan[who, number] = rng.choice(FAULTS)
            if plan.get((who, number)) == "swapped":
                numbers.pop(0)
    assert set(plan.values()) == set(FAULTS)
    return plan


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("guarantee", ["at-most-once", "at-least-once"])
def test_what_a_relay_did_to_real_event_streams_is_what_the_audit_finds(bench, guarantee, seed):
    trial = bench.trial("sse", guarantee, timings=CALM, subscribers=SUBSCRIBERS, topics=TOPICS)
    items, plan, due = bench.events(EVENTS, topics=TOPICS, size=40), planned(seed), []
    unknown = [frame(item.raw) for item in bench.events(TOPICS, EVENTS + 100, TOPICS)]
    other = [frame(items[-1].raw), frame(items[-2].raw)]
    strangers = {"stranger": unknown, "other topic": other, "rubbish": [RUBBISH] * TOPICS}
    if guarantee == "at-least-once":
        # An unknown number would make the consumer take all that follows for repeats: that is another fault.
        plan = {cell: what for cell, what in plan.items() if what not in ("stranger", "other topic")}
    ledgers = [bench.folder / f"consumer-{who}.ledger" for who in range(SUBSCRIBERS)]

    async def scenario():
        async with AsyncExitStack() as stack:
            producer, url = await stack.enter_async_context(bench.producer(trial))
            relay = await stack.enter_async_context(Saboteur(url, plan, strangers).serving())
            for who, path in enumerate(ledgers):
                ledger = stack.enter_context(closing(Ledger(path)))
                consumer = find("sse").consumer()(trial, ledger, range(who, who + 1))
                await consumer.open()
                stack.push_async_callback(consumer.close)
                await consumer.connect(f"{relay}/{who}", None)
            await bench.until(lambda: len(bench.records("producer", Kind.CONNECTED)) == SUBSCRIBERS)
            await publish(producer, items, due)
            last = [max(n for n in range(EVENTS) if n % TOPICS == who % TOPICS) for who in range(SUBSCRIBERS)]
            await bench.until(lambda: all(last[who] in sequences(path) for who, path in enumerate(ledgers)))

    asyncio.run(scenario())
    none = read(bench.folder / "producer.ledger")[:0]
    received = np.concatenate([read(path) for path in ledgers])
    offer = offered(items, due, SUBSCRIBERS, TOPICS)
    outcome = audit(offer, read(bench.folder / "producer.ledger"), received, none, drained=True)

    def of(*faults):
        return {cell for cell, what in plan.items() if what in faults}

    recovers = guarantee == "at-least-once"
    # A stream with recovery drops by its id what comes behind a later event: its application never gets it.
    lost = of("lost", "corrupt", "swapped") if recovers else of("lost", "corrupt")
    assert cells(outcome.owed) == cells(offer.wanted)
    assert cells(outcome.owed & (outcome.fate == Fate.SILENT)) == lost
    assert cells(outcome.owed & (outcome.fate == Fate.ON_TIME)) == cells(offer.wanted) - lost
    assert cells(outcome.copies) == of("again")
    assert outcome.duplicated == len(of("again"))
    assert outcome.reordered == (0 if recovers else len(of("swapped")))
    assert outcome.corrupt == len(of("corrupt", "rubbish"))
    assert outcome.unexpected == len(of("stranger", "other topic"))
    assert cells(outcome.unexplained) == lost
    assert int(outcome.owed.sum()) == outcome.delivered + outcome.lost == EVENTS * SUBSCRIBERS // TOPICS
    assert outcome.verdict == "lossy"


def cells(matrix):
    return {(int(who), int(number)) for who, number in np.argwhere(matrix)}


def sequences(path):
    """The sequence numbers of all that was received, by an open ledger."""
    records = read(path)
    return set(records["sequence"][records["kind"] == Kind.RECEIVED].tolist())


@asynccontextmanager
async def over_a_link(bench, trial):
    """A producer and a consumer with a link between them, connected: (producer, consumer, link)."""
    with closing(Ledger(bench.folder / "link.ledger")) as ledger:
        link, dials = Link(ledger), find(trial.protocol).producer_serves
        async with bench.producer(trial) as (producer, served), bench.consumer(trial) as (consumer, public):
            way = await link.route(served if dials else public, consumer_dials=dials)
            try:
                await producer.connect(None if dials else way)
                await consumer.connect(way if dials else None, None if dials else way)
                if dials:
                    await bench.until(lambda: len(bench.records("producer", Kind.CONNECTED)) == consumer.count)
                yield producer, consumer, link
            finally:
                link.close()


def have(bench, trial, item):
    """Whether every subscriber has this event."""
    return all(item.sequence in bench.received(who) for who in range(trial.workload.subscribers))


def judged(bench, trial, items, due, until, **terms):
    """The audit of the real ledgers up to the time when the test began to take things down."""
    producer, consumer, link = (read(bench.folder / f"{role}.ledger") for role in ("producer", "consumer", "link"))
    producer, consumer = (records[records["time_ns"] <= until] for records in (producer, consumer))
    offer = offered(items, due, trial.workload.subscribers)
    return audit(offer, producer, consumer, link, drained=True, terms=Terms(**terms)), producer, consumer, link


def times(records, kind):
    return records["time_ns"][records["kind"] == kind]


@pytest.mark.parametrize("kind", ["reset", "close"])
def test_real_outages_explain_just_what_was_published_in_them_and_each_side_notices_for_itself(bench, kind):
    trial = bench.trial("sse", "at-most-once", timings=CALM, subscribers=3)
    items, due, ends = bench.events(20), [], []

    async def scenario():
        async with over_a_link(bench, trial) as (producer, consumer, link):
            await publish(producer, items[:4], due)
            await bench.until(lambda: have(bench, trial, items[3]))
            for begin in (4, 12):
                await link.cut(kind)
                await bench.until(lambda: not consumer.live and streams() == 0)
                await publish(producer, items[begin : begin + 4], due)
                await link.heal()
                await bench.until(lambda: len(consumer.live) == streams() == 3)
                await publish(producer, items[begin + 4 : begin + 8], due)
                await bench.until(lambda begin=begin: have(bench, trial, items[begin + 7]))
            ends.append(time.monotonic_ns())

    def streams():
        """How many the producer has open."""
        return len(bench.records("producer", Kind.CONNECTED)) - len(bench.records("producer", Kind.DISCONNECTED))

    asyncio.run(scenario())
    outcome, producer, consumer, link = judged(bench, trial, items, due, ends[0])
    away = [*range(4, 8), *range(12, 16)]
    assert cells(outcome.arrived_ns == 0) == {(who, number) for who in range(3) for number in away}
    assert outcome.count(Fate.GAP_SEEN) == outcome.lost == 24
    assert not outcome.unexplained.any()
    (first, last), healed = times(link, Kind.CUT), times(link, Kind.HEALED)[1]
    assert outcome.windows == [(first, times(link, Kind.HEALED)[0]), (last, healed)]
    assert outcome.noticed_producer_ns == times(producer, Kind.DISCONNECTED)[0] - first
    assert outcome.noticed_consumer_ns == times(consumer, Kind.DISCONNECTED)[0] - first
    assert outcome.noticed_ns == min(outcome.noticed_producer_ns, outcome.noticed_consumer_ns)
    assert outcome.recovered_ns == outcome.arrived_ns[:, 16].max() - healed
    assert outcome.verdict == "lossy"


def test_a_stall_that_nobody_is_told_of_makes_late_what_was_published_in_it_and_nobody_notices(bench):
    trial = bench.trial("sse", "at-most-once", timings=CALM, subscribers=2)
    items, due, ends = bench.events(12), [], []

    async def scenario():
        async with over_a_link(bench, trial) as (producer, _, link):
            await publish(producer, items[:4], due)
            await bench.until(lambda: have(bench, trial, items[3]))
            await link.cut("silent")
            await publish(producer, items[4:8], due)
            await link.heal()
            await publish(producer, items[8:], due)
            await bench.until(lambda: have(bench, trial, items[-1]))
            ends.append(time.monotonic_ns())

    asyncio.run(scenario())
    outcome, _, _, link = judged(bench, trial, items, due, ends[0])
    assert cells(outcome.fate == Fate.LATE) == {(who, number) for who in range(2) for number in range(4, 8)}
    assert (outcome.noticed_producer_ns, outcome.noticed_consumer_ns, outcome.noticed_ns) == (None, None, None)
    assert outcome.recovered_ns == outcome.arrived_ns[:, 8].max() - times(link, Kind.HEALED)[0]
    assert outcome.verdict == "complete"


def test_only_the_producer_notices_where_only_the_producer_dials(bench):
    trial = bench.trial("webhook", "at-most-once", timings=CALM, subscribers=2)
    items, due, ends = bench.events(12), [], []

    async def scenario():
        async with over_a_link(bench, trial) as (producer, _, link):
            await publish(producer, items[:4], due)
            await bench.until(lambda: have(bench, trial, items[3]))
            await bench.pending(producer, 0)
            await link.cut("reset")
            await publish(producer, items[4:8], due)
            await bench.pending(producer, 0)
            await link.heal()
            await publish(producer, items[8:], due)
            await bench.until(lambda: have(bench, trial, items[-1]))
            ends.append(time.monotonic_ns())

    asyncio.run(scenario())
    outcome, producer, _, link = judged(bench, trial, items, due, ends[0])
    assert cells(outcome.fate == Fate.REJECTED) == {(who, number) for who in range(2) for number in range(4, 8)}
    assert outcome.count(Fate.REJECTED) == outcome.lost == 8
    assert not outcome.unexplained.any()
    assert outcome.noticed_producer_ns == times(producer, Kind.FAILED)[0] - times(link, Kind.CUT)[0]
    assert outcome.noticed_consumer_ns is None
    assert outcome.recovered_ns == outcome.arrived_ns[:, 8].max() - times(link, Kind.HEALED)[0]


WRITER = """
import sys
from pathlib import Path
from labkit.ledger import Kind, Ledger
from labkit.workload import Workload

folder, number, begin, told, end = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
producer, consumer = (Ledger(folder / f"{role}{number}.ledger") for role in ("producer", "consumer"))
for item in Workload(rate=1000, duration=3).schedule()[begin:end]:
    producer.write(Kind.SENT, item.sequence, value=len(item.raw))
    for subscriber in (0, 1):
        consumer.received(subscriber, item.sequence, item.raw)
    if item.sequence == told:
        print("written", flush=True)
sys.stdin.read()
"""
"""Records some events of a schedule as sent and received, and then waits to be killed, if it still can be."""


@pytest.fixture
def killed(tmp_path):
    """Has a real process record events, and kills it (SIGKILL) as soon as it says that one of them is written."""

    def run(number, begin, told, end):
        arguments = [str(tmp_path), number, str(begin), str(told), str(end)]
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            try:
                assert process.stdout.readline() == b"written\n"
            finally:
                process.kill()

    return run


def recorded(folder, role, numbers):
    return np.concatenate([read(folder / f"{role}{number}.ledger") for number in numbers])


def test_the_ledgers_of_killed_processes_are_judged_to_the_last_record(tmp_path, killed):
    items = Workload(rate=1000, duration=3).schedule()
    first = items[0].sequence
    killed("", 0, first + 999, 1000)
    killed("-2", 1500, items[-1].sequence, 3000)
    assert (tmp_path / "consumer.ledger").stat().st_size == CHUNK
    producer, consumer = (recorded(tmp_path, role, ("", "-2")) for role in ("producer", "consumer"))
    assert (len(producer), len(consumer)) == (2500, 5000)
    offer = offered(items, producer["time_ns"][0] + np.arange(3000), 2)
    outcome = audit(offer, producer, consumer, producer[:0], drained=True)
    assert outcome.verdict == "inconclusive"
    assert cells(outcome.owed) == {(who, n) for who in (0, 1) for n in (*range(1000), *range(1500, 3000))}
    assert (outcome.delivered, outcome.lost) == (5000, 0)
    assert (outcome.duplicated, outcome.reordered, outcome.corrupt, outcome.unexpected) == (0, 0, 0, 0)


@pytest.mark.parametrize("told", [0, 7, 1234])
def test_a_process_killed_in_the_middle_of_writing_leaves_all_that_it_had_written(tmp_path, killed, told):
    items = Workload(rate=1000, duration=3).schedule()
    killed("", 0, items[told].sequence, 3000)
    producer, consumer = (recorded(tmp_path, role, [""]) for role in ("producer", "consumer"))
    sent, received = len(producer), len(consumer)
    assert sent > told
    assert 2 * sent - 2 <= received <= 2 * sent
    offer = offered(items, producer["time_ns"][0] + np.arange(3000), 2)
    outcome = audit(offer, producer, consumer, producer[:0], drained=True)
    assert cells(outcome.owed) == {(who, number) for who in (0, 1) for number in range(sent)}
    assert (outcome.delivered, outcome.lost) == (received, 2 * sent - received)
    assert (outcome.duplicated, outcome.reordered, outcome.corrupt, outcome.unexpected) == (0, 0, 0, 0)
    assert outcome.verdict == ("inconclusive" if sent < 3000 else "lossy" if outcome.lost else "complete")
