"""Figures: what a recording comes to, one row for each measure; the table of metrics and the columns of each frame."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labkit.audit import Fate
from labkit.ledger import Kind
from labkit.recording import Recording
from labkit.trial import Measure

SATURATED_MS = 5.0
"""A trial whose p99 lateness is above this measures its own generator as much as the protocol."""

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
    "bytes_per_delivery": Metric("Bytes per delivery", "bytes", 1, "lower"),
    "requests_per_event": Metric("Requests per event and subscriber", "requests", 3, "lower"),
    "producer_us_per_event": Metric("Producer's CPU per event", "µs", 1, "lower"),
    "consumer_us_per_delivery": Metric("Consumer's CPU per delivery", "µs", 1, "lower"),
    "cpu_us_per_delivery": Metric("CPU per delivery, all processes", "µs", 1, "lower"),
    "connections": Metric("Connections in all", "connections", 0, "lower"),
    "bytes_per_answer": Metric("Bytes per request and answer", "bytes", 1, "lower"),
    "lost": Metric("Lost", "deliveries", 0, "lower"),
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
    Measure.COST: """
        protocol guarantee trial measure rate size subscribers topics interval events deliveries
        p50_ms p90_ms p99_ms max_ms lateness_p99_ms saturated
        bytes_per_delivery overhead_per_delivery requests_per_event
        producer_us_per_event consumer_us_per_delivery cpu_us_per_delivery
    """,
    Measure.DUPLEX: """
        protocol guarantee trial subscribers requests answered p50_ms p90_ms p99_ms max_ms lateness_p99_ms saturated
        connections load_up load_down bytes_per_answer
    """,
}
"""The columns of each measure's frame and CSV file. Latency trials have a row among the costs too."""


def percentile(ordered: NDArray[np.float64], share: float) -> float | None:
    """A percentile of sorted samples, or None where fewer than ten lie beyond it."""
    return float(np.quantile(ordered, share)) if len(ordered) * (1 - share) >= ENOUGH - 1e-9 else None


def _latencies(recording: Recording) -> dict[str, Any]:
    ordered, lateness = recording.latencies_ms(), recording.lateness_p99_ms()
    return {
        **{f"p{round(share * 100)}_ms": percentile(ordered, share) for share in (0.5, 0.9, 0.99)},
        "max_ms": float(ordered[-1]) if len(ordered) else None,
        "lateness_p99_ms": lateness,
        "saturated": lateness > SATURATED_MS,
    }


def _latency(recording: Recording) -> dict[str, Any]:
    hosts = recording.trial.workload.subscribers
    return {"subscribers": hosts, "deliveries": recording.outcome.delivered, **_latencies(recording)}


def _load_bytes(recording: Recording) -> tuple[int, int]:
    return recording.bytes(Kind.UP, "load", "settled"), recording.bytes(Kind.DOWN, "load", "settled")


def _bandwidth(recording: Recording) -> dict[str, Any]:
    arrived = recording.outcome.arrived_ns > 0
    deliveries, payload = int(arrived.sum()), int((arrived * recording.offer.size).sum())
    phases = recording.phases
    idle_s = (phases["stop"] - phases["idle"]) / 1e9
    up, down = _load_bytes(recording)
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


def _cost(recording: Recording) -> dict[str, Any]:
    """CPU and requests from the start of the load to its end, by what had arrived then; bytes by all that arrived."""
    trial, arrived = recording.trial, recording.outcome.arrived_ns
    load, events, deliveries = trial.workload, len(recording.offer.due_ns), int((arrived > 0).sum())
    in_time = int(((arrived > 0) & (arrived < recording.phases["settle"])).sum())
    sent, payload = sum(_load_bytes(recording)), int(((arrived > 0) * recording.offer.size).sum())
    every = recording.cpu_s("producer", "consumer", "spared", "broker")
    return {
        "measure": str(trial.measure),
        **{name: getattr(load, name) for name in ("rate", "size", "subscribers", "topics")},
        "interval": trial.timings.poll,
        "events": events,
        "deliveries": deliveries,
        **_latencies(recording),
        "bytes_per_delivery": _each(sent, deliveries) if trial.linked else None,
        "overhead_per_delivery": _each(sent - payload, deliveries) if trial.linked else None,
        "requests_per_event": recording.requests() / events / load.subscribers,
        "producer_us_per_event": recording.cpu_s("producer") / events * 1e6,
        "consumer_us_per_delivery": _each(recording.cpu_s("consumer", "spared") * 1e6, in_time),
        "cpu_us_per_delivery": _each(every * 1e6, in_time),
    }


def _each(total: float, count: int) -> float | None:
    return total / count if count else None


def _duplex(recording: Recording) -> dict[str, Any]:
    up, down = _load_bytes(recording)
    return {
        "subscribers": recording.trial.workload.subscribers,
        "requests": int(recording.outcome.owed.sum()),
        "answered": recording.outcome.delivered,
        **_latencies(recording),
        "connections": len(recording.within(recording.link, Kind.CONNECTED, "setup", "settled")) or None,
        "load_up": up,
        "load_down": down,
        "bytes_per_answer": _each(up + down, recording.outcome.delivered),
    }


def _loss(recording: Recording) -> dict[str, Any]:
    outcome = recording.outcome
    return {
        "outage": ", ".join(dict.fromkeys(recording.kinds)) or "none",
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


ROWS: dict[Measure, Callable[[Recording], dict[str, Any]]] = {
    Measure.LATENCY: _latency,
    Measure.BANDWIDTH: _bandwidth,
    Measure.LOSS: _loss,
    Measure.COST: _cost,
    Measure.DUPLEX: _duplex,
}
"""What makes a row of each frame from a recording."""
