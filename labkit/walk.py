"""The walk through one trial: setup, warm-up, load, (outage,) heal, settle, idle, stop."""

import os
import threading
import time
from pathlib import Path
from typing import Any

from labkit.errors import TrialError
from labkit.protocols import find
from labkit.station import Station, Stopped
from labkit.trial import Measure, Trial

WARM_LIMIT = 5.0
"""Seconds in which every subscriber has to have the last warm-up event."""

SETTLE_LIMIT = 20.0
"""Seconds after which a trial that has not gone quiet is inconclusive."""

LOOK_EVERY = 0.1

TRAILING_NS = 100_000_000
"""After the last arrival: answers and acknowledgements still belong to the load, the first heartbeat does not."""


class Walk:
    """One trial, phase by phase, on a station's nodes."""

    def __init__(self, station: Station, trial: Trial, folder: Path, stop: threading.Event, loads: threading.Semaphore):
        self._trial, self._folder, self._stop, self._loads = trial, folder, stop, loads
        self._row = find(trial.protocol)
        self._phases: dict[str, int] = {}
        brokered = self._row.brokered and "LABKIT_NATS" not in os.environ
        roles = ["broker"] * brokered + ["link"] * trial.linked + ["consumer", "producer"]
        self._nodes = {role: station.node(role) for role in roles}

    def run(self) -> dict[str, Any]:
        """The record of the trial: phases (monotonic ns), whether it settled, usage of each node, the digest."""
        workload_digest = self._set_up()
        with self._loads:
            self._warm_up()
            self._load()
        drained = self._settle()
        if self._trial.measure is Measure.BANDWIDTH:
            self._idle()
        usage = self._close()
        return {"digest": workload_digest, "drained": drained, "phases": self._phases, "usage": usage}

    def _mark(self, phase: str, at: int | None = None) -> None:
        self._phases[phase] = time.monotonic_ns() if at is None else at

    def _set_up(self) -> str:
        trial, nodes = self._trial, self._nodes
        spec = {**trial.to_json()}
        broker = os.environ.get("LABKIT_NATS") if self._row.brokered else None
        if "broker" in nodes:
            opened = nodes["broker"].ask("open")
            broker, nodes["broker"].owned = opened["url"], opened["pid"]
        for role in ("producer", "consumer"):
            nodes[role].tell("open", spec=spec, ledger=str(self._folder / f"{role}.ledger"))
        produced, consumed = nodes["producer"].answer(), nodes["consumer"].answer()
        producer_url, consumer_url = produced["url"], consumed["url"]
        consumer_peer = broker or producer_url
        if trial.linked:
            nodes["link"].ask("open", ledger=str(self._folder / "link.ledger"))
            if consumer_peer:
                consumer_peer = nodes["link"].ask("route", target=consumer_peer, consumer_dials=True)
            if consumer_url:
                consumer_url = nodes["link"].ask("route", target=consumer_url, consumer_dials=False)
        self._mark("setup")
        nodes["producer"].ask("connect", peer=broker or consumer_url)
        nodes["consumer"].ask("connect", peer=consumer_peer, public=consumer_url)
        if trial.measure is Measure.BANDWIDTH:
            self._pause(self._row.set_up_s)
        return str(produced["digest"])

    def _warm_up(self) -> None:
        self._mark("warmup")
        self._nodes["producer"].ask("warm")
        count, until = self._trial.workload.subscribers, time.monotonic() + WARM_LIMIT
        while (warm := self._nodes["consumer"].ask("warm")) < count:
            if time.monotonic() > until:
                raise TrialError(
                    f"{count - warm} of {count} subscribers of {self._trial.protocol} got no event "
                    f"within {WARM_LIMIT:g} s: the consumer cannot be reached from its producer."
                )
            self._pause(0.01)

    def _load(self) -> None:
        start = time.monotonic_ns() + 30_000_000
        self._mark("load", start)
        outage = self._trial.outage
        if outage:
            cut = start + round(outage.at * 1e9)
            self._nodes["link"].ask("plan", kind=outage.kind, cut_ns=cut, heal_ns=cut + round(outage.lasts * 1e9))
        for node in self._nodes.values():
            node.tell("load", start_ns=start)
        for node in self._nodes.values():
            node.answer()
        end = start / 1e9 + self._trial.workload.length
        while not self._look()["producer"]["done"]:
            self._pause(min(LOOK_EVERY, max(0.02, end - time.monotonic())))
        self._mark("settle")

    def _look(self, since_ns: int = 0) -> dict[str, Any]:
        for role, node in self._nodes.items():
            node.tell("status", **({"since_ns": since_ns} if role == "consumer" else {}))
        return {role: node.answer() for role, node in self._nodes.items()}

    def _settle(self) -> bool:
        """Whether everything that was under way has ended before the limit. `settled` is marked where it had."""
        quiet = round((self._trial.timings.poll + 0.1) * 1e9)
        last, limit = self._phases["settle"], time.monotonic() + SETTLE_LIMIT
        if outage := self._trial.outage:
            last = max(last, self._phases["load"] + round((outage.at + outage.lasts) * 1e9))
        over, drained = last, False
        while not drained and time.monotonic() < limit:
            consumer = self._look(over)["consumer"]
            last = max(last, consumer["last_arrival_ns"])
            silent = time.monotonic_ns() - last
            if silent >= quiet and consumer["settled"]:
                drained = self._nodes["producer"].ask("pending") == 0
            if not drained:
                self._pause(min(LOOK_EVERY, max(0.01, (quiet - silent) / 1e9)))
        self._mark("settled", last + TRAILING_NS)
        return drained

    def _idle(self) -> None:
        """Two heartbeats of nothing, after a run-in of one, so that whole heartbeats are counted."""
        self._pause(self._trial.timings.heartbeat)
        self._mark("idle")
        self._pause(2 * self._trial.timings.heartbeat)
        self._mark("stop")

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped

    def _close(self) -> dict[str, Any]:
        """Ends the trial in the nodes. What closing sends comes after `stop`, and is no part of any phase."""
        if "link" in self._nodes:
            self._nodes["link"].ask("count")
        self._phases.setdefault("stop", time.monotonic_ns())
        order = [role for role in ("consumer", "producer", "link", "broker") if role in self._nodes]
        return {role: self._nodes[role].ask("close") for role in order}
