"""What stands between the parties of a trial, as roles of a node: the link and the broker."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from labkit.broker import Broker
from labkit.ledger import Ledger
from labkit.link import Link
from labkit.usage import Usage


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
