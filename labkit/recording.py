"""Recordings: one finished trial, its files read and its ledgers audited. It computes no figure."""

import json
import math
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.audit import Offer, Outcome, Records, Terms, audit
from labkit.errors import UsageError
from labkit.ledger import Kind, read
from labkit.outage import Strikes
from labkit.protocols import find
from labkit.trial import Measure, Trial
from labkit.workload import Workload, digest

PHASES = ("setup", "warmup", "load", "settle", "settled", "stop")
"""Every trial has these; a bandwidth trial has `idle` between the last two."""


@dataclass(frozen=True)
class Recording:
    """One finished trial: its spec, its record, its ledgers, and what they come to."""

    trial: Trial
    phases: dict[str, int]
    record: dict[str, Any]
    offer: Offer
    outcome: Outcome
    link: Records
    producer: Records
    consumer: Records

    @property
    def seconds(self) -> float:
        """How long the load lasts: the duration, or the time of a trace's last event."""
        if self.trial.workload.trace is None:
            return self.trial.workload.duration
        return float(self.offer.due_ns[-1] - self.phases["load"]) / 1e9 or 1.0

    def latencies_ms(self) -> NDArray[np.float64]:
        """First arrival minus due time of every delivery, in milliseconds, sorted."""
        arrived = self.outcome.arrived_ns
        late = (arrived - self.offer.due_ns)[arrived > 0]
        return np.sort(late) / 1e6

    def lateness_p99_ms(self) -> float:
        """The producer's own lateness that one event in a hundred exceeds; infinite when it sent nothing at all."""
        lateness = self.outcome.lateness_ns
        return float(np.percentile(lateness, 99)) / 1e6 if len(lateness) else float("inf")

    def requests(self) -> int:
        """HTTP requests that either side made from the start of the load to its end."""
        return sum(
            len(self.within(records, Kind.REQUESTED, "load", "settle")) for records in (self.producer, self.consumer)
        )

    def within(self, records: Records, kind: Kind, since: str, until: str) -> Records:
        """The records of a kind between two phases."""
        times = records["time_ns"]
        inside = (times >= self.phases[since]) & (times < self.phases[until])
        found: Records = records[(records["kind"] == kind) & inside]
        return found

    def cpu_s(self, *roles: str) -> float:
        """CPU seconds that these took from the start of the load to its end; NaN where nobody counted."""
        used = self.record.get("load_cpu_s", {})
        return sum(used.get(role, 0.0) for role in roles) if used else math.nan

    def bytes(self, kind: Kind, since: str, until: str) -> int:
        """TCP stream bytes at the link in one direction between two phases."""
        return int(self.within(self.link, kind, since, until)["value"].sum())


def load(run: Path, folder: Path, offers: dict[tuple[str, Workload], Offer]) -> Recording:
    """The recording in a trial's folder; UsageError when it is damaged. `offers` keeps what trials have in common."""
    try:
        trial = Trial.from_json(json.loads((folder / "spec.json").read_text(encoding="utf-8")))
        find(trial.protocol)
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        drained, offered = bool(record["drained"]), str(record["digest"])
        names = PHASES + (("idle",) if trial.measure is Measure.BANDWIDTH else ())
        phases = {name: int(record["phases"][name]) for name in names}
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"The trial {folder.name} is damaged ({reason}); restore it, or run it again.") from None
    if (key := (offered, trial.workload)) not in offers:
        offers[key] = _offer(trial.under(run), offered)
    offer = replace(offers[key], due_ns=offers[key].due_ns + phases["load"])
    consumers = ("consumer", "spared") if trial.struck < trial.workload.subscribers else ("consumer",)
    producer = _records(folder, trial, phases["stop"], "producer")
    consumer = _records(folder, trial, phases["stop"], *consumers)
    if trial.duplex:  # requests are the load: the consumer sent them, and knows which failed
        requested = np.isin(consumer["kind"], (Kind.SENT, Kind.REJECTED))
        producer = np.concatenate([consumer[requested], producer])
    link = read(folder / "link.ledger") if trial.linked else producer[:0]
    outcome = audit(offer, producer, consumer, link, drained, _terms(trial))
    return Recording(trial, phases, record, offer, outcome, link, producer, consumer)


def _records(folder: Path, trial: Trial, until: int, *roles: str) -> Records:
    """What all processes of these roles wrote, each in order, later ones after earlier ones.

    What closing the trial did to its connections, after `until`, is no part of it.
    """
    records = np.concatenate([read(path) for role in roles for path in _ledgers(folder, trial, role)])
    return records[records["time_ns"] <= until]


def _ledgers(folder: Path, trial: Trial, role: str) -> list[Path]:
    """The ledgers that the processes of a role left, or have to have left: each crash has one more begun."""
    crashes = trial.outage.repeat if trial.outage and trial.outage.kind == f"{role}-crash" else 0
    there = [
        int(number) for path in folder.glob(f"{role}-*.ledger") if (number := path.stem[len(role) + 1 :]).isdecimal()
    ]
    later = range(2, max([1 + crashes, *there]) + 1)
    return [folder / f"{role}.ledger", *(folder / f"{role}-{number}.ledger" for number in later)]


def _terms(trial: Trial) -> Terms:
    row, strikes = find(trial.protocol), trial.outage.strikes if trial.outage else None
    logged = trial.durable or (row.brokered and trial.recovers)
    return Terms(
        owes=Kind.ACCEPTED if logged and not trial.duplex else Kind.SENT,
        struck=trial.struck,
        producer_ends=strikes is Strikes.PRODUCER,
        latest_only=row.latest_only and not trial.recovers,
    )


def _offer(trial: Trial, offered: str) -> Offer:
    """What the workload offers, due times counted from the start of the load; UsageError when it is not the offered."""
    schedule = trial.workload.schedule()
    if digest(schedule) != offered:
        fix = "its spec or trace was changed; restore it, or run it again"
        raise UsageError(f"The trial {trial.name} was offered another workload than its spec gives: {fix}.")
    interests = [trial.workload.interest(subscriber) for subscriber in range(trial.workload.subscribers)]
    topics = np.array([item.topic for item in schedule])
    wanted = np.array([np.ones(len(schedule), bool) if wish is None else topics == wish for wish in interests])
    return Offer(
        first=trial.workload.first,
        due_ns=np.array([item.due_ns for item in schedule], np.int64),
        size=np.array([len(item.raw) for item in schedule], np.int64),
        crc=np.array([zlib.crc32(item.raw) for item in schedule], np.int64),
        wanted=wanted,
    )
