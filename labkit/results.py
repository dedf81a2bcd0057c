"""Results: a run folder in, tidy DataFrames out. Everything shown is computed here, from the recordings alone."""

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from labkit.audit import Fate, Offer, Outcome, Records, Terms, audit
from labkit.errors import UsageError
from labkit.ledger import Kind, read
from labkit.outage import OUTAGES, Strikes
from labkit.protocols import PROTOCOLS, find
from labkit.trial import SCHEMA, Guarantee, Measure, Trial
from labkit.workload import digest

SATURATED_MS = 5.0
"""A trial whose p99 lateness is above this measures its own generator as much as the protocol."""

PHASES = ("setup", "warmup", "load", "settle", "settled", "stop")
"""Every trial has these; a bandwidth trial has `idle` between the last two."""

ENOUGH = 10
"""Samples that have to lie beyond a percentile for it to be stated."""


class Metric(NamedTuple):
    """One figure: how it is called, its unit, how many digits are shown, and which way is better."""

    label: str
    unit: str
    digits: int
    better: str


METRICS = {
    "p50_ms": Metric("Median latency", "ms", 2, "lower"),
    "p90_ms": Metric("90th percentile", "ms", 2, "lower"),
    "p99_ms": Metric("99th percentile", "ms", 2, "lower"),
    "max_ms": Metric("Longest latency", "ms", 1, "lower"),
    "lateness_p99_ms": Metric("Producer's lateness, p99", "ms", 2, "lower"),
    "payload_bytes": Metric("Payload", "bytes", 0, ""),
    "setup_up": Metric("Set-up, to producer", "bytes", 0, "lower"),
    "setup_down": Metric("Set-up, to consumer", "bytes", 0, "lower"),
    "load_up": Metric("Load, to producer", "bytes", 0, "lower"),
    "load_down": Metric("Load, to consumer", "bytes", 0, "lower"),
    "idle_up_per_s": Metric("Idle, to producer", "bytes/s", 1, "lower"),
    "idle_down_per_s": Metric("Idle, to consumer", "bytes/s", 1, "lower"),
    "overhead_per_delivery": Metric("Overhead per delivery", "bytes", 1, "lower"),
    "noticed_ms": Metric("Time to notice", "ms", 1, "lower"),
    "noticed_producer_ms": Metric("Time until the producer noticed", "ms", 1, "lower"),
    "noticed_consumer_ms": Metric("Time until the consumer noticed", "ms", 1, "lower"),
    "recovered_ms": Metric("Time to recover", "ms", 1, "lower"),
}

COLUMNS = {
    Measure.LATENCY: """
        protocol guarantee trial subscribers deliveries p50_ms p90_ms p99_ms max_ms lateness_p99_ms saturated
    """,
    Measure.BANDWIDTH: """
        protocol guarantee trial deliveries payload_bytes setup_up setup_down load_up load_down
        idle_up_per_s idle_down_per_s overhead_per_delivery
    """,
    Measure.LOSS: """
        protocol guarantee outage trial owed delivered lost rejected gap_seen silent duplicated reordered
        unexpected corrupt noticed_ms recovered_ms verdict
        noticed_producer_ms noticed_consumer_ms unexplained overflowed
    """,
}
"""The columns of each measure's frame and CSV file."""


FOLDED = (
    *("trial", "subscribers", "saturated", "outage"),
    *("reordered", "unexpected", "corrupt", "unexplained", "overflowed"),
)
"""Columns that a table for a terminal leaves out where they say the same in every row."""


@dataclass(frozen=True)
class Recording:
    """One finished trial: its spec, its record, and its audited ledgers."""

    trial: Trial
    phases: dict[str, int]
    record: dict[str, Any]
    offer: Offer
    outcome: Outcome
    link: Records

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

    def bytes(self, kind: Kind, since: str, until: str) -> int:
        """TCP stream bytes at the link in one direction between two phases."""
        phases, records = self.phases, self.link
        times = records["time_ns"]
        within = (records["kind"] == kind) & (times >= phases[since]) & (times < phases[until])
        return int(records["value"][within].sum())


class Run:
    """A run folder, opened. Frames are computed when they are first asked for."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.manifest = _manifest(self.folder)

    @cached_property
    def recordings(self) -> list[Recording]:
        """Every finished trial, in the order of the tables: outage, protocol, guarantee; then by repeat."""
        folders = [path for path in (self.folder / "trials").glob("*") if not path.name.startswith(".")]
        wanted = {name for name, entry in self.manifest["trials"].items() if "error" not in entry}
        missing = sorted(wanted - {path.name for path in folders})
        if missing:
            raise UsageError(f"The run {str(self.folder)!r} lacks the trial {missing[0]}; restore it, or run it again.")
        protocols, guarantees, kinds = list(PROTOCOLS), list(Guarantee), list(OUTAGES)

        def place(recording: Recording) -> tuple[int, ...]:
            trial = recording.trial
            kind = kinds.index(trial.outage.kind) if trial.outage else -1
            return kind, protocols.index(trial.protocol), guarantees.index(trial.guarantee), trial.repeat

        offers: dict[str, Offer] = {}
        loaded = [_load(self.folder, path, offers) for path in sorted(folders) if path.name in wanted]
        return sorted(loaded, key=place)

    def of(self, measure: Measure) -> list[Recording]:
        """The recordings of one measure."""
        return [recording for recording in self.recordings if recording.trial.measure is measure]

    @cached_property
    def latency(self) -> pd.DataFrame:
        """One row a trial: percentiles in milliseconds, of all subscribers together."""
        return self._frame(Measure.LATENCY, _latency)

    @cached_property
    def bandwidth(self) -> pd.DataFrame:
        """One row a trial: TCP stream bytes by direction and phase."""
        return self._frame(Measure.BANDWIDTH, _bandwidth)

    @cached_property
    def loss(self) -> pd.DataFrame:
        """One row a trial: what became of what was owed, and when the outage was noticed and overcome."""
        return self._frame(Measure.LOSS, _loss)

    def _frame(self, measure: Measure, row: Callable[[Recording], dict[str, Any]]) -> pd.DataFrame:
        rows = []
        for recording in self.of(measure):
            trial = recording.trial
            keys = {"protocol": trial.protocol, "guarantee": str(trial.guarantee), "trial": trial.repeat}
            rows.append({**keys, **row(recording)})
        frame = pd.DataFrame(rows, columns=COLUMNS[measure].split())
        return frame.astype({name: float for name in METRICS if name.endswith("_ms") and name in frame})

    def save(self) -> None:
        """Writes latency.csv, bandwidth.csv and loss.csv."""
        for measure in Measure:
            self._rounded(measure).to_csv(self.folder / f"{measure}.csv", index=False, lineterminator="\n")

    def _rounded(self, measure: Measure) -> pd.DataFrame:
        frame: pd.DataFrame = getattr(self, measure)
        return frame.round({name: max(metric.digits, 3) for name, metric in METRICS.items() if name in frame})

    def table(self, measure: Measure) -> str:
        """The frame of a measure as text for a terminal; what is the same in every row stands below it, once."""
        frame: pd.DataFrame = getattr(self, measure)
        same = [name for name in FOLDED if name in frame and frame[name].nunique(dropna=False) == 1]
        formats = {name: _formatter(METRICS[name].digits) for name in frame if name in METRICS}
        table = frame.drop(columns=same).to_string(index=False, formatters=formats, na_rep="-")
        facts = ", ".join(f"{name} {frame[name].iloc[0]}" for name in same)
        return f"{table}\nIn all rows: {facts}." if same else table

    @property
    def errors(self) -> dict[str, str]:
        """The trials that failed, with the reason."""
        return {name: entry["error"] for name, entry in self.manifest["trials"].items() if "error" in entry}


def _formatter(digits: int) -> Callable[[float], str]:
    return lambda value: "-" if pd.isna(value) else f"{value:,.{digits}f}"


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise UsageError(f"{str(folder)!r} is not a run folder: it has no manifest.json; give what `--out` named.")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        schema = manifest["schema"]
        if not all(isinstance(entry, dict) for entry in manifest["trials"].values()):
            raise TypeError("a trial's entry is not an object")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(
            f"The manifest of {str(folder)!r} is damaged; restore it, or run the comparison again."
        ) from None
    if schema != SCHEMA:
        raise UsageError(
            f"The run {str(folder)!r} has schema {schema!r}; this labkit reads {SCHEMA}: use its own version."
        )
    return dict(manifest)


def _load(run: Path, folder: Path, offers: dict[str, Offer]) -> Recording:
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
    if offered not in offers:
        offers[offered] = _offer(trial.under(run), offered)
    offer = replace(offers[offered], due_ns=offers[offered].due_ns + phases["load"])
    consumers = ("consumer", "spared") if trial.struck < trial.workload.subscribers else ("consumer",)
    producer = _records(folder, trial, phases["stop"], "producer")
    consumer = _records(folder, trial, phases["stop"], *consumers)
    link = read(folder / "link.ledger") if trial.linked else producer[:0]
    return Recording(trial, phases, record, offer, audit(offer, producer, consumer, link, drained, _terms(trial)), link)


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
    return Terms(
        owes=Kind.ACCEPTED if trial.durable or (row.brokered and trial.recovers) else Kind.SENT,
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


def percentile(ordered: NDArray[np.float64], share: float) -> float | None:
    """A percentile of sorted samples, or None where fewer than ten lie beyond it."""
    return float(np.quantile(ordered, share)) if len(ordered) * (1 - share) >= ENOUGH - 1e-9 else None


def _latency(recording: Recording) -> dict[str, Any]:
    ordered, lateness = recording.latencies_ms(), recording.lateness_p99_ms()
    return {
        "subscribers": recording.trial.workload.subscribers,
        "deliveries": len(ordered),
        **{f"p{round(share * 100)}_ms": percentile(ordered, share) for share in (0.5, 0.9, 0.99)},
        "max_ms": float(ordered[-1]) if len(ordered) else None,
        "lateness_p99_ms": lateness,
        "saturated": lateness > SATURATED_MS,
    }


def _bandwidth(recording: Recording) -> dict[str, Any]:
    arrived = recording.outcome.arrived_ns > 0
    deliveries, payload = int(arrived.sum()), int((arrived * recording.offer.size).sum())
    phases = recording.phases
    idle_s = (phases["stop"] - phases["idle"]) / 1e9
    up, down = recording.bytes(Kind.UP, "load", "settled"), recording.bytes(Kind.DOWN, "load", "settled")
    return {
        "deliveries": deliveries,
        "payload_bytes": payload,
        "setup_up": recording.bytes(Kind.UP, "setup", "warmup"),
        "setup_down": recording.bytes(Kind.DOWN, "setup", "warmup"),
        "load_up": up,
        "load_down": down,
        "idle_up_per_s": recording.bytes(Kind.UP, "idle", "stop") / idle_s,
        "idle_down_per_s": recording.bytes(Kind.DOWN, "idle", "stop") / idle_s,
        "overhead_per_delivery": (up + down - payload) / deliveries if deliveries else None,
    }


def _loss(recording: Recording) -> dict[str, Any]:
    outcome, outage = recording.outcome, recording.trial.outage
    return {
        "outage": outage.kind if outage else "none",
        "owed": int(outcome.owed.sum()),
        "delivered": outcome.delivered,
        "lost": outcome.lost,
        "rejected": outcome.count(Fate.REJECTED),
        "gap_seen": outcome.count(Fate.GAP_SEEN),
        "silent": outcome.count(Fate.SILENT),
        "duplicated": outcome.duplicated,
        "reordered": outcome.reordered,
        "unexpected": outcome.unexpected,
        "corrupt": outcome.corrupt,
        "noticed_ms": _ms(outcome.noticed_ns),
        "recovered_ms": _ms(outcome.recovered_ns),
        "verdict": outcome.verdict,
        "noticed_producer_ms": _ms(outcome.noticed_producer_ns),
        "noticed_consumer_ms": _ms(outcome.noticed_consumer_ns),
        "unexplained": int(outcome.unexplained.sum()),
        "overflowed": outcome.overflowed + int(recording.record["usage"].get("broker", {}).get("slow_consumers", 0)),
    }


def _ms(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e6
