"""Recordings: one finished trial, its files read and its ledgers audited. It computes no figure."""

import json
import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from labkit import archive, disk
from labkit.audit import Offer, Outcome, Records, Terms, audit
from labkit.errors import UsageError
from labkit.ledger import Kind, are, read
from labkit.outage import OUTAGES, Strikes
from labkit.protocols import find
from labkit.trial import Measure, Trial
from labkit.workload import Scheduled, Workload, digest

PHASES = ("setup", "warmup", "load", "settle", "settled", "stop")
"""Every trial has these; a bandwidth trial has `idle` between the last two."""


class Files(Protocol):
    """What one trial left: two JSON files, spec and record, and ledgers, each by its file's name."""

    @property
    def name(self) -> str: ...
    def json(self, file: str) -> Any: ...
    def ledgers(self) -> list[str]: ...
    def ledger(self, file: str, offer: Offer) -> Records: ...
    def changed(self) -> str | None: ...


@dataclass(frozen=True)
class Folder:
    """The files as the trial wrote them."""

    path: Path

    @property
    def name(self) -> str:
        """The trial's."""
        return self.path.name

    def json(self, file: str) -> Any:
        """What is in a JSON file; OSError or ValueError where there is none."""
        return json.loads((self.path / file).read_text(encoding="utf-8"))

    def ledgers(self) -> list[str]:
        """The names of its ledgers."""
        return sorted(path.name for path in self.path.glob("*.ledger"))

    def ledger(self, file: str, offer: Offer) -> Records:
        """The records of a ledger; UsageError when it is missing or damaged."""
        return read(self.path / file)

    def changed(self) -> str | None:
        """The first file that is not as the trial left it, if there is one."""
        return disk.changed(self.path)


def trials_of(run: Path) -> dict[str, Files]:
    """The finished trials of a run folder, by name: their folders, or what its archive holds."""
    if (run / archive.FILE).exists():
        return dict(archive.read(run / archive.FILE))
    return {path.name: Folder(path) for path in sorted((run / "trials").glob("[!.]*"))}


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
    def kinds(self) -> list[str]:
        """The kind of each outage, in the order of the windows. A live trial's spec names no more than the first."""
        outage = self.trial.outage
        found: list[str] = self.record.get("kinds", [outage.kind] * outage.repeat if outage else [])
        return found

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
        found: Records = records[are(records, kind) & inside]
        return found

    def cpu_s(self, *roles: str) -> float:
        """CPU seconds that these took from the start of the load to its end; NaN where nobody counted."""
        used = self.record.get("load_cpu_s", {})
        return sum(used.get(role, 0.0) for role in roles) if used else math.nan

    def bytes(self, kind: Kind, since: str, until: str) -> int:
        """TCP stream bytes at the link in one direction between two phases."""
        return int(self.within(self.link, kind, since, until)["value"].sum())


def load(run: Path, files: Files, offers: dict[tuple[str, Workload], Offer]) -> Recording:
    """The recording that a trial's files hold; UsageError when one is damaged. `offers` keeps what trials share."""
    if changed := files.changed():
        raise _damaged(files, f"{changed} is not as it was recorded")
    try:
        trial = Trial.from_json(files.json("spec.json"))
        find(trial.protocol)
        record = files.json("record.json")
        drained, offered = bool(record["drained"]), str(record["digest"])
        if not set(record.get("kinds", [])) <= set(OUTAGES):
            raise ValueError(f"kinds of outages are {record['kinds']!r}")
        names = PHASES + (("idle",) if trial.measure is Measure.BANDWIDTH else ())
        phases = {name: int(record["phases"][name]) for name in names}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise _damaged(files, f"{type(error).__name__}: {error}") from None
    if trial.name != files.name:
        raise _damaged(files, f"what it holds is the trial {trial.name}")
    if (key := (offered, trial.workload)) not in offers:
        offers[key] = _offered(trial.under(run), offered)
    offer = replace(offers[key], due_ns=offers[key].due_ns + phases["load"])
    consumers = ("consumer", "spared") if trial.struck < trial.workload.subscribers else ("consumer",)
    producer = _records(files, trial, offer, phases["stop"], "producer")
    consumer = _records(files, trial, offer, phases["stop"], *consumers)
    if trial.duplex:  # requests are the load: the consumer sent them, and knows which failed
        requested = are(consumer, Kind.SENT, Kind.REJECTED)
        producer = np.concatenate([consumer[requested], producer])
    link = files.ledger("link.ledger", offer) if trial.linked else producer[:0]
    outcome = audit(offer, producer, consumer, link, drained, terms_of(trial))
    return Recording(trial, phases, record, offer, outcome, link, producer, consumer)


def _damaged(files: Files, reason: str) -> UsageError:
    return UsageError(f"The trial {files.name} is damaged ({reason}); restore it, or run it again.")


def _records(files: Files, trial: Trial, offer: Offer, until: int, *roles: str) -> Records:
    """What all processes of these roles wrote, each in order, later ones after earlier ones.

    What closing the trial did to its connections, after `until`, is no part of it.
    """
    there = files.ledgers()
    names = [name for role in roles for name in ledgers_of(there, trial, role)]
    records = np.concatenate([files.ledger(name, offer) for name in names])
    return records[records["time_ns"] <= until]


def ledgers_of(there: Iterable[str], trial: Trial, role: str) -> list[str]:
    """The ledgers, of those that are there, that the processes of a role left; and those they have to have left, for
    each crash has one more begun."""
    crashes = trial.outage.repeat if trial.outage and trial.outage.kind == f"{role}-crash" else 0
    stems = [name.removesuffix(".ledger").removeprefix(f"{role}-") for name in there if name.startswith(f"{role}-")]
    numbers = [int(stem) for stem in stems if stem.isdecimal()]
    later = range(2, max([1 + crashes, *numbers]) + 1)
    return [f"{role}.ledger", *(f"{role}-{number}.ledger" for number in later)]


def terms_of(trial: Trial) -> Terms:
    """What a trial is judged by, besides its ledgers."""
    row, strikes = find(trial.protocol), trial.outage.strikes if trial.outage else None
    logged = trial.durable or (row.brokered and trial.recovers)
    return Terms(
        owes=Kind.ACCEPTED if logged and not trial.duplex else Kind.SENT,
        struck=trial.struck,
        producer_ends=strikes is Strikes.PRODUCER,
        latest_only=row.latest_only and not trial.recovers,
    )


def _offered(trial: Trial, offered: str) -> Offer:
    """The offer of a trial; UsageError when it is not the offered."""
    schedule = trial.workload.schedule()
    if digest(schedule) != offered:
        fix = "its spec or trace was changed; restore it, or run it again"
        raise UsageError(f"The trial {trial.name} was offered another workload than its spec gives: {fix}.")
    return offer_of(trial.workload, schedule)


def offer_of(workload: Workload, schedule: list[Scheduled]) -> Offer:
    """What a workload offers with its schedule, due times counted from the start of the load."""
    interests = [workload.interest(subscriber) for subscriber in range(workload.subscribers)]
    topics = np.array([item.topic for item in schedule])
    wanted = np.array([np.ones(len(schedule), bool) if wish is None else topics == wish for wish in interests])
    return Offer(
        first=workload.first,
        due_ns=np.array([item.due_ns for item in schedule], np.int64),
        size=np.array([len(item.raw) for item in schedule], np.int64),
        crc=np.array([zlib.crc32(item.raw) for item in schedule], np.int64),
        wanted=wanted,
    )
