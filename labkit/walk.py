"""The walk through one trial: setup, warm-up, load, (outage,) heal, settle, idle, stop."""

import math
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from labkit.errors import TrialError
from labkit.faults import FAULTS
from labkit.protocols import find
from labkit.stage import Stage
from labkit.station import Station, Stopped
from labkit.trial import Measure, Trial

WARM_LIMIT = 5.0
"""Seconds in which every subscriber has to have the last warm-up event; many of them have more."""

WARM_RATE = 100
"""Subscribers a second that get through the warm-up in any case."""

SETTLE_LIMIT = 20.0
"""Seconds after which a trial that has not gone quiet is inconclusive."""

LOOK_EVERY = 0.1

LOOKS = 8
"""So often in a row has a look to find nothing new before a trial counts as settled. Each passes through every node's
event loop, so that on a machine too busy to carry a delivery on, no time that passes is taken for quiet."""

OUTSIDE_QUIET = 1.5
"""Seconds without news after which subscribers outside the lab are quiet: a page that is hidden wakes once a second."""

TRAILING_NS = 100_000_000
"""After the last arrival: answers and acknowledgements still belong to the load, the first heartbeat does not."""


class Walk:
    """One trial, phase by phase, on a station's nodes: `run` walks through all of it.

    outside: where the subscribers are no node's, what tells of them as a consumer's `status` does.
    """

    def __init__(
        self,
        station: Station,
        trial: Trial,
        folder: Path,
        stop: threading.Event,
        loads: AbstractContextManager[Any],
        tapped: bool = False,
        origin: str | None = None,
        outside: Callable[[int], dict[str, Any]] | None = None,
    ):
        self._trial, self._stop, self._loads, self._outside = trial, stop, loads, outside
        self.phases: dict[str, int] = {}
        self.stage = Stage(station, trial, folder, tapped, origin, hosted=outside is None)
        self.digest = ""
        self._healed_ns = 0
        self._driver = "consumer" if trial.duplex else "producer"
        self._cpu_s: dict[str, float] = {}

    def run(self) -> dict[str, Any]:
        """The record of the trial: phases (monotonic ns), whether it settled, usage of each node, the digest.

        `load_cpu_s`: what each node used of the CPU until the load was over, in seconds.
        """
        self.set_up()
        with self._loads:
            # Only now: heartbeats and held requests of a trial that waits its turn would count as its set-up.
            self.connect()
            self.begin()
            self._break(self.phases["load"])
            self.end()
        return self.finish()

    def finish(self) -> dict[str, Any]:
        """From the end of the load to that of the trial; returns its record."""
        drained = self._settle()
        if self._trial.measure is Measure.BANDWIDTH:
            self._idle()
        usage = self._close()
        facts = {"phases": self.phases, "load_cpu_s": self._cpu_s, "usage": usage}
        return {"digest": self.digest, "drained": drained, **facts}

    def _mark(self, phase: str, at: int | None = None) -> None:
        self.phases[phase] = time.monotonic_ns() if at is None else at

    def set_up(self) -> None:
        """Opens everything; `digest` is then that of what the producer will offer."""
        self.digest = self.stage.set_up()

    def connect(self) -> None:
        """Connects both parties."""
        self._mark("setup")
        self.stage.connect()
        if self._trial.measure is Measure.BANDWIDTH:
            self._pause(find(self._trial.protocol).set_up_s)

    def _warm_up(self) -> None:
        self.stage.nodes[self._driver].ask("warm_up")
        count = self._trial.workload.subscribers
        limit = WARM_LIMIT + count // WARM_RATE
        until = time.monotonic() + limit
        while (warm := sum(node.ask("warm") for node in self.stage.consumers.values())) < count:
            if time.monotonic() > until:
                raise TrialError(
                    f"{count - warm} of {count} subscribers of {self._trial.protocol} got no event "
                    f"within {limit:g} s: the consumer cannot be reached from its producer."
                )
            self._pause(0.01)

    def begin(self) -> None:
        """Warms up, where the subscribers are the lab's own, and begins the load."""
        self._mark("warmup")
        if not self._outside:
            self._warm_up()
        start = time.monotonic_ns() + 30_000_000
        self._mark("load", start)
        for node in self.stage.nodes.values():
            node.tell("load", start_ns=start)
        for node in self.stage.nodes.values():
            node.answer()

    def end(self) -> None:
        """Returns when the load is over."""
        end = self.phases["load"] / 1e9 + self._trial.workload.length
        while not self.look()[self._driver]["done"]:
            self._pause(min(LOOK_EVERY, max(0.02, end - time.monotonic())))
        if self._trial.measure is Measure.COST:
            self._until(end)  # what is asked after the last event is part of what the load costs
        if self._trial.measure in (Measure.COST, Measure.LATENCY):
            self._hand_over()
        self._cpu_s = {role: look["cpu_s"] for role, look in self.look().items() if look and "cpu_s" in look}
        self._mark("settle")

    def _hand_over(self) -> None:
        """Waits for what an overloaded producer has queued: its requests and CPU are part of what the load costs."""
        until = time.monotonic() + SETTLE_LIMIT
        while self.stage.nodes["producer"].ask("pending") and time.monotonic() < until:
            self._pause(LOOK_EVERY)

    def _break(self, start: int) -> None:
        """Acts out the outage. Each lasts at least as long as planned, and so does the pause before the next."""
        if not (outage := self._trial.outage):
            return
        fault = FAULTS[outage.kind](self.stage, outage, start)
        begin = start / 1e9 + outage.at
        for number in range(outage.repeat):
            fault.prepare()
            self._until(begin)
            begun = time.monotonic()  # later than planned where what the fault prepares takes its time
            fault.cut()
            self._until(begun + outage.lasts)
            fault.heal()
            self._healed_ns = time.monotonic_ns()
            planned = start / 1e9 + outage.at + 2 * (number + 1) * outage.lasts
            begin = max(planned, self._healed_ns / 1e9 + outage.lasts)

    def _until(self, at: float) -> None:
        self._pause(max(0.0, at - time.monotonic()))

    def look(self, since_ns: int = 0) -> dict[str, Any]:
        """Every node's `status`; TrialError when one of them has failed."""
        consumers = self.stage.consumers
        for role, node in self.stage.nodes.items():
            node.tell("status", **({"since_ns": since_ns} if role in consumers else {}))
        return {role: node.answer() for role, node in self.stage.nodes.items()}

    def _settle(self) -> bool:
        """Whether everything that was under way has ended before the limit. `settled` is marked where it had."""
        quiet = round(max(self._trial.timings.poll + 0.1, OUTSIDE_QUIET if self._outside else 0) * 1e9)
        over = last = max(self.phases["settle"], self._healed_ns)
        drained, looks_in_a_row, limit = False, 0, time.monotonic() + SETTLE_LIMIT
        while not drained and time.monotonic() < limit:
            looks = self.look(over)
            consumers = [looks[role] for role in self.stage.consumers]
            consumers += [self._outside(over)] if self._outside else []
            newest = max(last, *(look["last_arrival_ns"] for look in consumers))
            looks_in_a_row = looks_in_a_row + 1 if newest == last and all(c["settled"] for c in consumers) else 0
            last, silent = newest, time.monotonic_ns() - newest
            if silent >= quiet and looks_in_a_row >= LOOKS:
                drained = self.stage.nodes["producer"].ask("pending") == 0
            if not drained:
                self._pause(min(LOOK_EVERY, quiet / 1e9 / (LOOKS + 1)))
        self._mark("settled", last + TRAILING_NS)
        return drained

    def _idle(self) -> None:
        """Two heartbeats of nothing, after a run-in of one, or whole long polls: what repeats is counted as it does."""
        timings = self._trial.timings
        self._pause(timings.heartbeat)
        self._mark("idle")
        lasts, hold = 2 * timings.heartbeat, timings.hold
        self._pause(math.ceil(lasts / hold) * hold if find(self._trial.protocol).held else lasts)
        self._mark("stop")

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped

    def _close(self) -> dict[str, Any]:
        """Ends the trial in the nodes. What closing sends comes after `stop`, and is no part of any phase."""
        if "link" in self.stage.nodes:
            self.stage.nodes["link"].ask("count")
        self.phases.setdefault("stop", time.monotonic_ns())
        return self.stage.close()
