"""Pacing: every event at its due time, to a few microseconds, without keeping a core busy."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator

from labkit.workload import Scheduled

LEAD_NS = 300_000
"""A sleeping thread wakes the event loop so long before an event is due; the loop itself waits out the rest."""


async def paced(schedule: list[Scheduled], start_ns: int) -> AsyncIterator[Scheduled]:
    """Yields each event when it is due, counted from `start_ns`, or at once when that is past. Open loop."""
    now = time.monotonic_ns
    with Alarm([start_ns + item.due_ns - LEAD_NS for item in schedule]) as alarm:
        for item in schedule:
            due = start_ns + item.due_ns
            while (left := due - now()) > 0:
                if left > LEAD_NS:
                    await alarm.rings()
                else:
                    await asyncio.sleep(0)
            yield item


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
