"""Captions: what a chart says of its setting and its figures, in words."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from labkit.outage import OUTAGES, Conditions, Outage
from labkit.trial import Measure, Timings, Trial

NO_BREAK = "\N{NO-BREAK SPACE}"
"""Holds words together where a line is wrapped; then it is drawn as any other."""

RETRYING = ("webhook", "resthooks")
"""The protocols whose recovery is to deliver again, as Standard Webhooks does."""


def setting(trials: Sequence[Trial], alone: bool = True) -> list[str]:
    """What was offered; over which way, with which timings, how often; through which outage. One run, one setting.

    A sweep's parameter is given as the range of its values. alone: each repeat of a latency is drawn besides.
    """
    first, load, waits = trials[0], trials[0].workload, trials[0].timings
    loads = [trial.workload for trial in trials]
    said = {
        f"All traffic through the link{_link(first.conditions)}": first.linked,
        "Producer and consumer connected directly": not first.linked,
        f"heartbeat {waits.heartbeat:g} s": any(trial.recovers for trial in trials),
        f"poll every {_range(trial.timings.poll for trial in trials)} s": any(
            trial.protocol == "polling" for trial in trials
        ),
        f"long poll held {waits.hold:g} s": any(trial.protocol == "longpolling" for trial in trials),
    }
    recovering = [trial for trial in trials if trial.recovers and trial.protocol in RETRYING]
    said[_retries(waits)] = bool(recovering) and waits.attempts > 1
    way = ", ".join(words for words, true in said.items() if true)
    if (repeats := max(trial.repeat for trial in trials)) > 1:
        way += f"; {repeats}{NO_BREAK}repeats"
        way += " (thin lines: each alone)" if alone and first.measure is Measure.LATENCY else ""
    many = max(each.subscribers for each in loads) > 1
    hosts = f"{_range(each.subscribers for each in loads)} subscriber{'s' if many else ''}"
    to = f"from {hosts}, each answered alone" if first.duplex else f"to {hosts}"
    size = f"{_range(each.size for each in loads)} bytes" + (
        "" if load.sizes == "fixed" else f" (median, {load.sizes})"
    )
    what = f"{_range(each.rate for each in loads)} {'requests' if first.duplex else 'events'}/s of {size}"
    if max(each.topics for each in loads) > 1 and not first.duplex:
        what += f" on {_range(each.topics for each in loads)} topics"
    offered = f"{what} for {load.duration:g} s {to}, {load.arrival} arrivals, seed {load.seed}"
    if load.trace:
        offered = f"Trace {Path(load.trace).name} at {load.speed:g} times its own speed, {to}"
    return [offered, way, *_outages(trials)]


WAITS = {
    "heartbeat": "heartbeat {:g} s",
    "poll": "poll every {:g} s",
    "hold": "long poll held {:g} s",
    "retry": "first retry after {:g} s",
    "retry_limit": "retries at most {:g} s apart",
    "attempts": "{:,} attempts",
    "request": "a request may take {:g} s",
    "ack": "an acknowledgement may take {:g} s",
}
"""Each of the `Timings` in words."""


def parameters(trials: Sequence[Trial], outage: str | None) -> dict[str, str]:
    """Each parameter of a run in words with its unit, so that those of two runs can be told apart.

    outage: the kind that is shown, of those there may be.
    """
    load, waits, link = trials[0].workload, trials[0].timings, trials[0].conditions
    said = {"trace": f"trace {Path(load.trace).name}", "speed": f"{load.speed:g} times its speed"} if load.trace else {}
    if not load.trace:
        said["rate"] = f"{load.rate:,.10g} events/s"
        said["size"] = f"{load.size:,} bytes" + ("" if load.sizes == "fixed" else f" (median, {load.sizes})")
        said["topics"] = f"{load.topics:,} topic{'s' if load.topics > 1 else ''}"
        said["duration"] = f"{load.duration:g} s of load"
        said["arrival"], said["seed"] = f"{load.arrival} arrivals", f"seed {load.seed}"
    said["subscribers"] = f"{load.subscribers:,} subscriber{'s' if load.subscribers > 1 else ''}"
    kinds = dict.fromkeys(trial.outage for trial in trials if trial.outage)
    said["outage"] = f"outage {outage}" if outage in OUTAGES else "no outage"
    for broken in [each for each in kinds if each.kind == outage]:
        said["outage"] += f", the first of {len(kinds)} kinds" if len(kinds) > 1 else ""
        said["at"], said["lasts"] = f"outage begins at {broken.at:.3g} s", f"outage lasts {broken.lasts:.3g} s"
        if broken.share < 1:
            said["share"] = f"outage of {broken.struck(load.subscribers):,} subscribers"
        if broken.repeat > 1:
            said["often"] = f"outage {broken.repeat:,} times"
    said |= {name: WAITS[name].format(value) for name, value in asdict(waits).items()}
    said["link"] = _link(link).strip(" ()") or "a link without delay or limit"
    repeats = max(trial.repeat for trial in trials)
    return {**said, "repeats": f"{repeats:,} repeat{'s' if repeats > 1 else ''}"}


def _range(values: Iterable[float]) -> str:
    """One value, or the first and the last of several."""
    low, *others = sorted(set(values))
    return f"{low:,.10g}" + (f" to {others[-1]:,.10g}" if others else "")


def _link(conditions: Conditions) -> str:
    said = {
        f"{1000 * conditions.delay:g} ms of delay each way": conditions.delay,
        f"up to {1000 * conditions.jitter:g} ms of jitter": conditions.jitter,
        f"{conditions.bandwidth:,.0f} bytes/s": conditions.bandwidth,
    }
    made = ", ".join(words for words, there in said.items() if there)
    return made and f" ({made})"


def _retries(timings: Timings) -> str:
    """How many times faster than the example schedule, in two significant digits of it."""
    times = float(f"{timings.compression:.2g}")
    return f"webhook retries {times:,.0f} times faster than Standard Webhooks' example schedule"


def _outages(trials: Sequence[Trial]) -> list[str]:
    """One sentence for all outages that begin together and last as long; one kind alone is explained."""
    alike: dict[Outage, list[str]] = {}
    for outage in dict.fromkeys(trial.outage for trial in trials if trial.outage):
        alike.setdefault(replace(outage, kind="close"), []).append(outage.kind)
    said = []
    for outage, kinds in alike.items():
        kinds.sort(key=list(OUTAGES).index)
        which = f"{kinds[0]} ({OUTAGES[kinds[0]].says})"
        which = which if len(kinds) == 1 else ", ".join(f"{kind} ({OUTAGES[kind].short})" for kind in kinds)
        often = f", {outage.repeat:,} times with as long a pause between" if outage.repeat > 1 else ""
        hosts = trials[0].workload.subscribers
        whom = f", to the first {outage.struck(hosts):,} of {hosts:,} subscribers" if outage.share < 1 else ""
        start = "Outage" if len(kinds) == 1 else f"{len(kinds)} kinds of outage, each"
        unnoticed = [kind for kind in ("silent", "consumer-freeze") if kind in kinds]
        if unnoticed and outage.lasts < trials[0].timings.heartbeat:
            which += f"; too short for a heartbeat to notice: {', '.join(unnoticed)}"
        said.append(f"{start} {outage.at:.3g} s into the load, for {outage.lasts:.3g} s{often}{whom}: {which}")
    return said


def wrapped(lines: Iterable[str]) -> list[str]:
    """Sentences in lines that a chart has room for."""
    parts = (part for line in lines for part in textwrap.wrap(line, 165, break_on_hyphens=False))
    return [part.replace(NO_BREAK, " ") for part in parts]


def further(kinds: Iterable[Sequence[str]]) -> list[str]:
    """What broke after the first outage, which the spec of a live trial does not say. A row of kinds for each trial."""
    later = list(dict.fromkeys(kind for row in kinds for kind in row[1:]))
    named = ", ".join(f"{kind} ({OUTAGES[kind].short})" for kind in later)
    return [f"Further outages after that one: {named}"] if later else []


def percent(part: float, whole: float = 100) -> str:
    """A share that reads 0 % or 100 % only where it is."""
    share = 100 * part / (whole or 1)
    return f"{share:.0f} %" if part in (0, whole) else f"{min(max(share, 0.1), 99.9):.1f} %"


def byte_count(value: float) -> str:
    if math.isnan(value) or 0 < value < 0.05:
        return "" if math.isnan(value) else "<0.1"
    return f"{value:,.0f}" if value >= 100 or abs(value - round(value)) < 0.05 else f"{value:.1f}"
