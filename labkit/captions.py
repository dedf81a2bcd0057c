"""Captions: what a chart says of its setting and its figures, in words."""

import math
from collections.abc import Sequence
from pathlib import Path

from labkit.outage import OUTAGES
from labkit.trial import Trial


def setting(trials: Sequence[Trial]) -> list[str]:
    """What was offered; over which way, with which timings, how often; through which outage. One run, one setting."""
    first, load, waits = trials[0], trials[0].workload, trials[0].timings
    said = {
        "All traffic through the link": first.linked,
        "Producer and consumer connected directly": not first.linked,
        f"heartbeat {waits.heartbeat:g} s": any(trial.recovers for trial in trials),
        f"poll every {waits.poll:g} s": any(trial.protocol == "polling" for trial in trials),
        f"long poll held {waits.hold:g} s": any(trial.protocol == "longpolling" for trial in trials),
    }
    way = ", ".join(words for words, true in said.items() if true)
    if (repeats := max(trial.repeat for trial in trials)) > 1:
        way += f"; {repeats} repeats, pooled" + ("" if first.linked else " (thin lines: each alone)")
    to = f"to {load.subscribers:,} subscriber{'s' if load.subscribers > 1 else ''}"
    size = f"{load.size:,} bytes" + ("" if load.sizes == "fixed" else f" (median, {load.sizes})")
    what = f"{load.rate:,g} events/s of {size}" + (f" on {load.topics:,} topics" if load.topics > 1 else "")
    offered = f"{what} for {load.duration:g} s {to}, {load.arrival} arrivals, seed {load.seed}"
    if load.trace:
        offered = f"Trace {Path(load.trace).name} at {load.speed:g} times its own speed, {to}"
    if not (cut := first.outage):
        return [offered, way]
    return [offered, way, f"Outage {cut.at:g} s into the load, for {cut.lasts:g} s: {cut.kind} ({OUTAGES[cut.kind]})"]


def percent(part: int, whole: int) -> str:
    """A share that reads 0 % or 100 % only where it is."""
    share = 100 * part / (whole or 1)
    return f"{share:.0f} %" if part in (0, whole) else f"{min(max(share, 0.1), 99.9):.1f} %"


def byte_count(value: float) -> str:
    if math.isnan(value) or 0 < value < 0.05:
        return "" if math.isnan(value) else "<0.1"
    return f"{value:,.0f}" if value >= 100 or abs(value - round(value)) < 0.05 else f"{value:.1f}"
