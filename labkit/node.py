"""Child entry: one process that is a producer, a consumer, a link or a broker.

    python -m labkit.node ROLE

Each line on standard input is a JSON command `{"do": NAME, ...}`, each line on standard output its answer:
`{"result": ...}` or `{"error": ...}`. A node serves one trial after the other, and ends, with all that it started,
when its standard input closes: so a killed parent leaves nothing behind.
"""

import asyncio
import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from labkit.broker import Broker
from labkit.errors import TrialError, UsageError
from labkit.ledger import Kind, Ledger
from labkit.link import Link
from labkit.live import LiveRole
from labkit.protocols import find
from labkit.protocols.base import Consumer, Producer, Tasks
from labkit.trial import Trial
from labkit.workload import Scheduled, digest

LEAD_NS = 300_000
"""A sleeping thread wakes the event loop so long before an event is due; the loop itself waits out the rest."""

EXIT_LIMIT = 3.0


class Usage:
    """CPU seconds since `start`, and the largest resident set seen at any `look`."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.peak = 0
        self.start()

    def _cpu(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system

    def start(self) -> None:
        """Begins counting."""
        self._from = self._cpu()

    def look(self) -> None:
        """Notes the present memory."""
        self.peak = max(self.peak, self._process.memory_info().rss)

    def to_json(self) -> dict[str, float]:
        """cpu_s and peak_rss in bytes."""
        self.look()
        return {"cpu_s": self._cpu() - self._from, "peak_rss": self.peak}


class ProducerRole:
    """The producer of a trial, and the load that drives it."""

    async def open(self, spec: dict[str, Any], ledger: str) -> dict[str, Any]:
        self._trial = Trial.from_json(spec)
        self._schedule = self._trial.workload.schedule()
        self._ledger = Ledger(Path(ledger))
        self._producer: Producer = find(self._trial.protocol).producer()(self._trial, self._ledger)
        self._tasks = Tasks()
        self._usage = Usage()
        self._done = False
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
        """Open loop: every event at its due time, or as soon after as the process gets to it."""
        sent, producer, ledger, now = Kind.SENT, self._producer, self._ledger, time.monotonic_ns
        with Alarm([start_ns + item.due_ns - LEAD_NS for item in schedule]) as alarm:
            for item in schedule:
                due = start_ns + item.due_ns
                while (left := due - now()) > 0:
                    if left > LEAD_NS:
                        await alarm.rings()
                    else:
                        await asyncio.sleep(0)
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
        await self._tasks.close()
        await self._producer.close()
        self._ledger.close()
        gc.unfreeze()
        return self._usage.to_json()


class Alarm:
    """A thread that wakes the event loop at given times: an event loop's own timers are only exact to a millisecond."""

    def __init__(self, times_ns: list[int]) -> None:
        self._times = times_ns
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        for at in self._times:
            left = at - time.monotonic_ns()
            if left > 0:
                # Event.wait is not as exact as sleep; a long wait is cut short so that a stop is noticed.
                while left > 50_000_000 and not self._stop.is_set():
                    self._stop.wait((left - 20_000_000) / 1e9)
                    left = at - time.monotonic_ns()
                if self._stop.is_set():
                    return
                time.sleep(max(0, left) / 1e9)
                self._loop.call_soon_threadsafe(self._event.set)

    async def rings(self) -> None:
        """Returns at the next of the times."""
        self._event.clear()
        await self._event.wait()

    def __enter__(self) -> "Alarm":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()


class ConsumerRole:
    """The consumer of a trial."""

    async def open(self, spec: dict[str, Any], ledger: str) -> dict[str, Any]:
        trial = Trial.from_json(spec)
        self._ledger = Ledger(Path(ledger))
        self._consumer: Consumer = find(trial.protocol).consumer()(trial, self._ledger)
        self._usage = Usage()
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

    async def status(self) -> dict[str, Any]:
        self._usage.look()
        if self._consumer.tasks.failure:
            raise self._consumer.tasks.failure
        return {
            "last_arrival_ns": self._ledger.last_arrival_ns,
            "settled": self._consumer.connected == self._consumer.count and not self._consumer.pending,
        }

    async def close(self) -> dict[str, float]:
        await self._consumer.close()
        self._ledger.close()
        gc.unfreeze()
        return self._usage.to_json()


class LinkRole:
    """The link of a trial."""

    async def open(self, ledger: str) -> None:
        self._ledger = Ledger(Path(ledger))
        self._link = Link(self._ledger)
        self._usage = Usage()
        self._timers: list[asyncio.TimerHandle] = []

    async def route(self, target: str, consumer_dials: bool) -> str:
        return await self._link.route(target, consumer_dials)

    async def plan(self, kind: str, cut_ns: int, heal_ns: int) -> None:
        """Cuts and heals at these times of the monotonic clock."""
        self._at(cut_ns, lambda: self._link.cut(kind))
        self._at(heal_ns, self._link.heal)

    def _at(self, when_ns: int, act: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._timers.append(loop.call_later(max(0, when_ns - time.monotonic_ns()) / 1e9, act))

    async def load(self, start_ns: int) -> None:
        self._usage.start()

    async def status(self) -> None:
        self._usage.look()

    async def count(self) -> None:
        self._link.count()

    async def close(self) -> dict[str, float]:
        for timer in self._timers:
            timer.cancel()
        self._link.close()
        self._ledger.close()
        return self._usage.to_json()


class BrokerRole:
    """The keeper of a nats-server, which would not notice by itself that its parent is gone."""

    async def open(self, port: int = 0) -> dict[str, Any]:
        self._broker = Broker()
        url = await self._broker.open(port)
        self._process = psutil.Process(self._broker.process.pid)
        return {"url": url, "pid": self._broker.process.pid}

    async def load(self, start_ns: int) -> None:
        self._from = sum(self._process.cpu_times()[:2])

    async def status(self) -> None:
        self._broker.check()

    async def close(self) -> dict[str, float]:
        self._broker.check()
        usage = {"cpu_s": sum(self._process.cpu_times()[:2]) - self._from, "peak_rss": self._process.memory_info().rss}
        self._broker.close()
        return usage


ROLES: dict[str, Callable[[], Any]] = {
    "producer": ProducerRole,
    "consumer": ConsumerRole,
    "link": LinkRole,
    "broker": BrokerRole,
    "live": LiveRole,
}
COMMANDS = {
    *("open", "connect", "route", "plan", "warm", "load", "flood", "publish"),
    *("status", "pending", "count", "close"),
}


async def serve(role_name: str) -> None:
    """Answers commands until standard input closes."""
    loop = asyncio.get_running_loop()
    commands: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    threading.Thread(target=_read_commands, args=(loop, commands), daemon=True).start()
    if sys.platform != "win32":
        loop.add_signal_handler(signal.SIGTERM, commands.put_nowait, None)
    role: Any = None
    while command := await commands.get():
        name = command.pop("do")
        try:
            if name not in COMMANDS:
                raise ValueError(f"no such command: {name}")
            if name == "open":
                role = ROLES[role_name]()
            result = await getattr(role, name)(**command)
            answer = {"result": result}
        except (TrialError, UsageError) as error:
            answer = {"error": str(error)}
        except Exception as error:
            answer = {"error": f"The {role_name} failed: {type(error).__name__}: {error}"}
            sys.excepthook(type(error), error, error.__traceback__)
        if name == "close":
            role = None
        print(json.dumps(answer), flush=True)
    if role is not None:
        await role.close()


def _read_commands(loop: asyncio.AbstractEventLoop, commands: "asyncio.Queue[dict[str, Any] | None]") -> None:
    for line in sys.stdin:
        loop.call_soon_threadsafe(commands.put_nowait, json.loads(line))
    loop.call_soon_threadsafe(commands.put_nowait, None)
    # Whatever hangs on the way out, the process ends.
    time.sleep(EXIT_LIMIT)
    os._exit(1)


def run(main: Any) -> None:
    """Runs a coroutine on uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run(serve(sys.argv[1]))
    # The reading thread may still hold standard input, which an ordinary exit would wait for.
    os._exit(0)
