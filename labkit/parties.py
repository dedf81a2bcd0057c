"""The two parties of a trial as roles of a node: the producer with its load, and the consumer."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from math import inf
from pathlib import Path
from typing import Any

from labkit.ledger import NO_SEQUENCE, RECORD, Kind, Ledger
from labkit.pacing import paced
from labkit.protocols import find
from labkit.protocols.base import Consumer, Producer, Tasks
from labkit.protocols.eventlog import EventLog
from labkit.trial import Trial
from labkit.usage import Usage
from labkit.workload import Scheduled, digest


class Load:
    """Drives a schedule: each event is recorded when it is due, and handed on."""

    def __init__(self, schedule: list[Scheduled], ledger: Ledger, accept: Callable[[Scheduled], Awaitable[None]]):
        self.schedule, self._ledger, self._accept = schedule, ledger, accept
        self.tasks = Tasks()
        self.done = False
        self._enough: float = inf

    async def warm_up(self, events: list[Scheduled]) -> None:
        """Publishes the warm-up events; what the collector need not look at again is set aside after it."""
        await self._publish(events, time.monotonic_ns())
        gc.collect()
        gc.freeze()

    def begin(self, start_ns: int) -> None:
        """Begins; `done` tells when it is over."""
        self.tasks.start(self._run(start_ns))

    def halt(self, least: int) -> None:
        """Ends the load with the event that is due next, but not before so many were offered."""
        self._enough = self.schedule[0].sequence + least - 1

    async def _run(self, start_ns: int) -> None:
        await self._publish(self.schedule, start_ns)
        self.done = True

    async def _publish(self, schedule: list[Scheduled], start_ns: int) -> None:
        sent, accept, ledger = Kind.SENT, self._accept, self._ledger
        async for item in paced(schedule, start_ns):
            ledger.write(sent, item.sequence, value=len(item.raw))
            await accept(item)
            if item.sequence >= self._enough:
                return

    async def flood(self, count: int, drain: Callable[[], Awaitable[None]]) -> None:
        """Publishes the first events without regard to time, as fast as they leave the process."""
        for number, item in enumerate(self.schedule[:count]):
            self._ledger.write(Kind.SENT, item.sequence, value=len(item.raw))
            await self._accept(item)
            if number % 16 == 15:
                await asyncio.sleep(0)
                await drain()


class ProducerRole:
    """The producer of a trial, and the load that drives it."""

    def __init__(self) -> None:
        self._exits = AsyncExitStack()
        self._usage = Usage()

    async def open(
        self,
        spec: dict[str, Any],
        ledger: str,
        broker: str | None = None,
        since_ns: int | None = None,
        origin: str | None = None,
    ) -> dict[str, Any]:
        """Opens the producer; with `since_ns`, the start of the load, one that goes on for a killed process.

        origin: the one web origin whose pages may connect, besides clients that have none.
        """
        self._trial = trial = Trial.from_json(spec)
        schedule = trial.workload.schedule()
        workload_digest, first = digest(schedule), 0
        if since_ns is not None:
            # The clock goes on: what was due while no producer was there, nobody offered.
            passed, end = time.monotonic_ns() - since_ns, schedule[-1].sequence + 1
            schedule = [item for item in schedule if item.due_ns >= passed]
            first = schedule[0].sequence if schedule else end
        self._ledger = Ledger(Path(ledger))
        self._exits.callback(self._ledger.close)
        self._log = await self._open_log(broker, first)
        self._producer: Producer = find(trial.protocol).producer()(trial, self._ledger, self._log)
        self._producer.origin = origin
        self._exits.push_async_callback(self._producer.close)
        self._load = Load(schedule, self._ledger, self._log.before(self._producer.publish))
        self._exits.push_async_callback(self._load.tasks.close)
        return {"url": await self._producer.open(), "digest": workload_digest}

    async def _open_log(self, broker: str | None, first: int) -> EventLog:
        log = EventLog(first=first)
        if broker:
            from labkit.protocols.streamlog import StreamLog

            log = StreamLog(self._trial, self._ledger, broker)
        self._exits.push_async_callback(log.close)
        await log.open()
        return log

    async def connect(self, peer: str | None, spared: str | None = None) -> None:
        await self._producer.connect(peer, spared)

    async def warm_up(self) -> None:
        """Publishes the warm-up events."""
        await self._load.warm_up(self._trial.workload.warmup())

    async def load(self, start_ns: int) -> None:
        """Begins the load, unless it is the consumer's; `status` tells when it is over."""
        self._usage.start()
        if not self._trial.duplex:
            self._load.begin(start_ns)

    async def halt(self, least: int) -> None:
        """Ends the load before its time, with `least` events at the least; `status` tells when it is over."""
        self._load.halt(least)

    async def flood(self, count: int) -> None:
        """Publishes the first events of the schedule as fast as they leave the process."""
        await self._load.flood(count, self._producer.drain)

    async def status(self) -> dict[str, Any]:
        """`done`: the load is over. `cpu_s`: CPU seconds since it began."""
        self._usage.look()
        self._log.check()
        for tasks in (self._load.tasks, self._producer.tasks):
            if tasks.failure:
                raise tasks.failure
        return {"done": self._load.done, "cpu_s": self._usage.cpu_s}

    async def pending(self) -> int:
        return self._log.unkept + await self._producer.pending()

    async def close(self) -> dict[str, float]:
        await self._exits.aclose()
        gc.unfreeze()
        return self._usage.to_json()


class ConsumerRole:
    """The consumer of a trial."""

    def __init__(self) -> None:
        self._exits = AsyncExitStack()
        self._usage = Usage()

    async def open(
        self, spec: dict[str, Any], ledger: str, hosts: tuple[int, int], predecessors: list[str] | None = None
    ) -> dict[str, Any]:
        """Opens the consumer of some subscribers; with the ledgers of killed processes, one that goes on for them."""
        self._trial = trial = Trial.from_json(spec)
        self._ledger = Ledger(Path(ledger))
        self._exits.callback(self._ledger.close)
        self._consumer: Consumer = find(trial.protocol).consumer()(trial, self._ledger, range(*hosts))
        self._exits.push_async_callback(self._consumer.close)
        warmup, interest = trial.workload.warmup(), trial.workload.interest
        self._last_warmup = {
            subscriber: max(i.sequence for i in warmup if interest(subscriber) in (None, i.topic))
            for subscriber in self._consumer.hosts
        }
        self._load = Load(trial.workload.schedule() if trial.duplex else [], self._ledger, self._consumer.ask)
        self._exits.push_async_callback(self._load.tasks.close)
        url = await self._consumer.open()
        if predecessors:
            self._consumer.resume(_received(map(Path, predecessors)))
        return {"url": url}

    async def connect(self, peer: str | None, public: str | None) -> None:
        self._consumer.upstream = peer or ""
        await self._consumer.connect(peer, public)

    async def warm(self) -> int:
        """How many subscribers have the last warm-up event they want."""
        latest = self._ledger.latest
        return sum(latest.get(subscriber, -1) >= last for subscriber, last in self._last_warmup.items())

    async def warm_up(self) -> None:
        """Sends the warm-up events as requests."""
        await self._load.warm_up(self._trial.workload.warmup())

    async def load(self, start_ns: int) -> None:
        """The load begins; that of requests is the consumer's own."""
        gc.collect()
        gc.freeze()
        self._usage.start()
        if self._trial.duplex:
            self._load.begin(start_ns)

    async def status(self, since_ns: int = 0) -> dict[str, Any]:
        """`settled`: every subscriber is connected and, since that time, has nothing left to ask for.

        `done`: its own load is over. `cpu_s`: CPU seconds since the load began.
        """
        self._usage.look()
        for tasks in (self._load.tasks, self._consumer.tasks):
            if tasks.failure:
                raise tasks.failure
        return {
            "done": self._load.done,
            "cpu_s": self._usage.cpu_s,
            "last_arrival_ns": self._ledger.last_arrival_ns,
            "settled": self._consumer.connected == self._consumer.count and not self._consumer.pending(since_ns),
        }

    async def close(self) -> dict[str, float]:
        await self._exits.aclose()
        gc.unfreeze()
        return self._usage.to_json()


def _received(ledgers: Iterable[Path]) -> dict[int, list[int]]:
    """The events that each subscriber's application has, in the order in which it got them."""
    found: dict[int, list[int]] = {}
    for path in ledgers:
        for _, _, sequence, subscriber, _, kind in RECORD.iter_unpack(path.read_bytes()[RECORD.size :]):
            if kind == Kind.RECEIVED and sequence != NO_SEQUENCE:
                found.setdefault(subscriber, []).append(sequence)
    return found
