"""What stands between the parties of a trial, as roles of a node: the link and the broker."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from labkit.broker import DEFAULT_SYNC, Broker
from labkit.ledger import Kind, Ledger
from labkit.link import TAP, Link
from labkit.outage import Conditions
from labkit.usage import Usage


class LinkRole:
    """The link of a trial."""

    def __init__(self) -> None:
        self._exits = ExitStack()
        self._usage = Usage()

    async def open(self, ledger: str, conditions: dict[str, float], seed: int, tapped: bool = False) -> None:
        """With `tapped`, the bytes that pass are in a file beside the ledger."""
        self._ledger = Ledger(Path(ledger))
        self._exits.callback(self._ledger.close)
        tap = self._exits.enter_context(Path(ledger).with_suffix(TAP).open("xb")) if tapped else None
        self._link = Link(self._ledger, Conditions(**conditions), seed, tap)
        self._exits.callback(self._link.close)

    async def route(self, target: str, consumer_dials: bool, spared: bool = False) -> str:
        return await self._link.route(target, consumer_dials, spared)

    async def retarget(self, old: str, new: str) -> None:
        self._link.retarget(old, new)

    async def cut(self, kind: str) -> None:
        await self._link.cut(kind)

    async def heal(self) -> None:
        await self._link.heal()

    async def freeze(self, pid: int) -> None:
        """Stops a process; should the trial end before it is thawed, it goes on with the end of this node."""
        frozen = psutil.Process(pid)
        self._ledger.write(Kind.CUT)
        self._frozen = self._exits.enter_context(ExitStack())
        self._frozen.callback(frozen.resume)
        frozen.suspend()

    async def thaw(self) -> None:
        """Lets it go on."""
        self._ledger.write(Kind.HEALED)
        self._frozen.close()

    async def note(self, kind: int) -> None:
        """Writes down an outage that somebody else brings about."""
        self._ledger.write(kind)

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
        self._usage: Usage | None = None
        self._up = False

    async def open(self, port: int = 0, sync: str = DEFAULT_SYNC) -> dict[str, Any]:
        self._broker = Broker(sync)
        return await self._start(port)

    async def _start(self, port: int) -> dict[str, Any]:
        url = await self._broker.open(port)
        self._port = urlsplit(url).port or 0
        self._usage, self._up = Usage(self._broker.process.pid), True
        return {"url": url, "pid": self._broker.process.pid}

    async def kill(self) -> None:
        """Kills the server; the trial knows of it."""
        self._up = False
        self._broker.kill()

    async def restart(self) -> dict[str, Any]:
        """A new server in its place, on the same port and store."""
        return await self._start(self._port)

    async def load(self, start_ns: int) -> None:
        if self._usage:
            self._usage.start()

    async def status(self) -> dict[str, float]:
        if not self._usage or not self._up:
            return {}
        self._broker.check()
        return {"cpu_s": self._usage.cpu_s}

    async def close(self) -> dict[str, float]:
        """CPU, memory, and how many slow consumers the server has cut off."""
        try:
            if not self._usage or not self._up:
                return {}
            self._broker.check()
            return {**self._usage.to_json(), "slow_consumers": self._broker.slow_consumers()}
        finally:
            self._broker.close()
