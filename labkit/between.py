"""What stands between the parties of a trial, as roles of a node: the link and the broker."""

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from labkit.broker import Broker
from labkit.ledger import Ledger
from labkit.link import Link
from labkit.usage import Usage


class LinkRole:
    """The link of a trial."""

    def __init__(self) -> None:
        self._exits = ExitStack()
        self._usage = Usage()

    async def open(self, ledger: str) -> None:
        self._ledger = Ledger(Path(ledger))
        self._exits.callback(self._ledger.close)
        self._link = Link(self._ledger)
        self._exits.callback(self._link.close)

    async def route(self, target: str, consumer_dials: bool) -> str:
        return await self._link.route(target, consumer_dials)

    async def plan(self, kind: str, cut_ns: int, heal_ns: int) -> None:
        """Cuts and heals at these times of the monotonic clock."""
        self._at(cut_ns, lambda: self._link.cut(kind))
        self._at(heal_ns, self._link.heal)

    def _at(self, when_ns: int, act: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._exits.callback(loop.call_later(max(0, when_ns - time.monotonic_ns()) / 1e9, act).cancel)

    async def load(self, start_ns: int) -> None:
        self._usage.start()

    async def status(self) -> None:
        self._usage.look()

    async def count(self) -> None:
        self._link.count()

    async def close(self) -> dict[str, float]:
        self._exits.close()
        return self._usage.to_json()


class BrokerRole:
    """The keeper of a nats-server, which would not notice by itself that its parent is gone."""

    def __init__(self) -> None:
        self._broker = Broker()
        self._usage: Usage | None = None

    async def open(self, port: int = 0) -> dict[str, Any]:
        url = await self._broker.open(port)
        self._usage = Usage(self._broker.process.pid)
        return {"url": url, "pid": self._broker.process.pid}

    async def load(self, start_ns: int) -> None:
        if self._usage:
            self._usage.start()

    async def status(self) -> None:
        self._broker.check()

    async def close(self) -> dict[str, float]:
        try:
            if self._usage:
                self._broker.check()
            return self._usage.to_json() if self._usage else {}
        finally:
            self._broker.close()
