"""The two parties of a trial as roles of a node: the producer with its load, and the consumer."""

import asyncio
import gc
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from labkit.ledger import Kind, Ledger
from labkit.pacing import paced
from labkit.protocols import find
from labkit.protocols.base import Consumer, Producer, Tasks
from labkit.trial import Trial
from labkit.usage import Usage
from labkit.workload import Scheduled, digest


class ProducerRole:
    """The producer of a trial, and the load that drives it."""

    def __init__(self) -> None:
        self._exits = AsyncExitStack()
        self._usage = Usage()
        self._tasks = Tasks()
        self._done = False

    async def open(self, spec: dict[str, Any], ledger: str) -> dict[str, Any]:
        self._trial = Trial.from_json(spec)
        self._schedule = self._trial.workload.schedule()
        self._ledger = Ledger(Path(ledger))
        self._exits.callback(self._ledger.close)
        self._producer: Producer = find(self._trial.protocol).producer()(self._trial, self._ledger)
        self._exits.push_async_callback(self._producer.close)
        self._exits.push_async_callback(self._tasks.close)
        return {"url": await self._producer.open(), "digest": digest(self._schedule)}

    async def connect(self, peer: str | None) -> None:
        await self._producer.connect(peer)

    async def warm(self) -> None:
        """Publishes the warm-up events; what the collector need not look at again is set aside after it."""
        await self._publish(self._trial.workload.warmup(), time.monotonic_ns())
        gc.collect()
        gc.freeze()

    async def load(self, start_ns: int) -> None:
        """Begins the load; `status` tells when it is over."""
        self._usage.start()
        self._tasks.start(self._load(start_ns))

    async def _load(self, start_ns: int) -> None:
        await self._publish(self._schedule, start_ns)
        self._done = True

    async def _publish(self, schedule: list[Scheduled], start_ns: int) -> None:
        sent, producer, ledger = Kind.SENT, self._producer, self._ledger
        async for item in paced(schedule, start_ns):
            ledger.write(sent, item.sequence, value=len(item.raw))
            await producer.publish(item)

    async def flood(self, count: int) -> None:
        """Publishes the first events of the schedule without regard to time, as fast as they leave the process."""
        for number, item in enumerate(self._schedule[:count]):
            self._ledger.write(Kind.SENT, item.sequence, value=len(item.raw))
            await self._producer.publish(item)
            if number % 16 == 15:
                await asyncio.sleep(0)
                await self._producer.drain()

    async def status(self) -> dict[str, Any]:
        self._usage.look()
        for tasks in (self._tasks, self._producer.tasks):
            if tasks.failure:
                raise tasks.failure
        return {"done": self._done}

    async def pending(self) -> int:
        return await self._producer.pending()

    async def close(self) -> dict[str, float]:
        await self._exits.aclose()
        gc.unfreeze()
        return self._usage.to_json()


class ConsumerRole:
    """The consumer of a trial."""

    def __init__(self) -> None:
        self._exits = AsyncExitStack()
        self._usage = Usage()

    async def open(self, spec: dict[str, Any], ledger: str) -> dict[str, Any]:
        trial = Trial.from_json(spec)
        self._ledger = Ledger(Path(ledger))
        self._exits.callback(self._ledger.close)
        self._consumer: Consumer = find(trial.protocol).consumer()(trial, self._ledger)
        self._exits.push_async_callback(self._consumer.close)
        warmup = trial.workload.warmup()
        wants = map(trial.workload.interest, range(trial.workload.subscribers))
        self._last_warmup = [max(i.sequence for i in warmup if want in (None, i.topic)) for want in wants]
        return {"url": await self._consumer.open()}

    async def connect(self, peer: str | None, public: str | None) -> None:
        await self._consumer.connect(peer, public)

    async def warm(self) -> int:
        """How many subscribers have the last warm-up event they want."""
        latest = self._ledger.latest
        return sum(latest.get(subscriber, -1) >= last for subscriber, last in enumerate(self._last_warmup))

    async def load(self, start_ns: int) -> None:
        gc.collect()
        gc.freeze()
        self._usage.start()

    async def status(self, since_ns: int = 0) -> dict[str, Any]:
        """`settled`: every subscriber is connected and, since that time, has nothing left to ask for."""
        self._usage.look()
        if self._consumer.tasks.failure:
            raise self._consumer.tasks.failure
        return {
            "last_arrival_ns": self._ledger.last_arrival_ns,
            "settled": self._consumer.connected == self._consumer.count and not self._consumer.pending(since_ns),
        }

    async def close(self) -> dict[str, float]:
        await self._exits.aclose()
        gc.unfreeze()
        return self._usage.to_json()
