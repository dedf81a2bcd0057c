"""The event log of a durable producer: a JetStream stream on disk, and in memory a copy of it to answer from.

An event is handed on only when the stream has acknowledged it, and in the order in which it was taken; a new process
finds all that was acknowledged. Nothing that a consumer ever saw can be gone after a crash.
"""

import asyncio
from collections import deque
from contextlib import AsyncExitStack

from labkit.ledger import EVERYONE, Kind, Ledger
from labkit.protocols.base import Backoff, Tasks
from labkit.protocols.eventlog import EventLog, Publish
from labkit.protocols.jetstream import Stream, dial, hang_up
from labkit.trial import Trial
from labkit.workload import Scheduled


class StreamLog(EventLog):
    """The log of a trial on the broker at `url`, the lab's own or the user's."""

    def __init__(self, trial: Trial, ledger: Ledger, url: str) -> None:
        super().__init__()
        self._trial, self._ledger, self._url = trial, ledger, url
        self._tasks = Tasks()
        self._exits = AsyncExitStack()
        self._taken: deque[Scheduled] = deque()
        self._kept: set[int] = set()
        self._news = asyncio.Event()

    async def open(self) -> None:
        self._client = await dial(self._url, Backoff(self._trial, EVERYONE))
        self._exits.push_async_callback(hang_up, self._client)
        self._stream = Stream(self._trial, self._client, self._tasks, self._note)
        await self._stream.open()
        self._exits.push_async_callback(self._stream.delete)
        for item in await self._stream.read():
            self.append(item)

    def _note(self, item: Scheduled) -> None:
        self._ledger.write(Kind.ACCEPTED, item.sequence, value=len(item.raw))
        self._kept.add(item.sequence)
        self._news.set()

    def before(self, publish: Publish) -> Publish:
        async def take(item: Scheduled) -> None:
            self._taken.append(item)
            await self._stream.submit(item)

        self._tasks.start(self._hand_on(publish))
        return take

    async def _hand_on(self, publish: Publish) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._taken and self._taken[0].sequence in self._kept:
                item = self._taken.popleft()
                self._kept.discard(item.sequence)
                await publish(item)

    @property
    def unkept(self) -> int:
        return len(self._taken)

    def check(self) -> None:
        if self._tasks.failure:
            raise self._tasks.failure

    async def close(self) -> None:
        await self._tasks.close()
        await self._exits.aclose()
