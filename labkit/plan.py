"""Plans: which trials a run consists of, and whether they can be, before any of them starts. Pure data."""

import math
import os
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

from labkit.errors import UsageError, shown
from labkit.outage import Conditions, Outage, Strikes
from labkit.protocols import PROTOCOLS, find
from labkit.trial import COMPARED, Guarantee, Measure, Timings, Trial
from labkit.workload import MAX_TOPICS, Workload

OUT_OF_THE_BOX = (Guarantee.AT_MOST_ONCE, Guarantee.AT_LEAST_ONCE)
"""The guarantees that are compared where none are named."""

ROOM = 4
"""How many loads may be under way at one time, each counted as `weight` says."""

LIGHT = 1000
"""Deliveries a second that count as one load."""

SWEPT = {
    "rate": Measure.LATENCY,
    "topics": Measure.LATENCY,
    "subscribers": Measure.COST,
    "size": Measure.COST,
    "interval": Measure.COST,
}
"""What can be swept, and what is measured at each value: time directly, or bytes, CPU and requests through the link."""

ALONE = (Measure.LATENCY, Measure.COST, Measure.DUPLEX)
"""What measures time: these trials run one at a time, with nothing else going on."""

MOST_VALUES, MOST_REPEATS = 20, 100


@dataclass(frozen=True)
class Sweep:
    """One parameter of the workload, or the interval of polling in seconds, and the values it takes in turn."""

    over: str
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.over not in list(SWEPT):  # what has no hash is none of them either
            raise UsageError(f"There is no sweep over {shown(self.over)}; choose from {', '.join(SWEPT)}.")
        numbers = [value for value in self.values if isinstance(value, Real) and not isinstance(value, bool)]
        fit = [value for value in numbers if not isinstance(value, int) or abs(value) <= sys.float_info.max]
        digits = {f"{float(value):.12g}" for value in fit}  # as many as the name of a trial has of it
        if not 1 <= len(digits) == len(self.values) <= MOST_VALUES:
            raise UsageError(
                f"The values to sweep over are {shown(self.values)}; give 1 to {MOST_VALUES} different numbers, as "
                "1,10,100."
            )
        object.__setattr__(self, "values", tuple(map(float, self.values)))

    def at(self, trial: Trial, value: float) -> Trial:
        """The trial at one of the values. UsageError when that is out of range."""
        load = trial.workload
        if load.trace and self.over in ("rate", "size", "topics"):
            raise UsageError(
                f"A trace has a {self.over} of its own; sweep over subscribers or interval, or leave it out."
            )
        if self.over == "interval" and value > load.length:
            raise UsageError(
                f"An interval of {value:g} s is longer than the load of {load.length:g} s, in which a subscriber may "
                "not ask even once; raise the duration, or leave the value out."
            )
        if self.over == "interval":
            return replace(trial, timings=replace(trial.timings, poll=value))
        whole = self.over != "rate" and value.is_integer()
        changed: dict[str, Any] = {self.over: int(value) if whole else value}
        return replace(trial, workload=replace(load, **changed))


@dataclass(frozen=True)
class Plan:
    """What a run consists of: every measure of every protocol and guarantee, at each value swept over, repeatedly."""

    workload: Workload
    protocols: tuple[str, ...] = tuple(PROTOCOLS)
    guarantees: tuple[Guarantee, ...] = OUT_OF_THE_BOX
    measures: tuple[Measure, ...] = COMPARED
    outages: tuple[Outage, ...] = ()
    repeat: int = 1
    timings: Timings = field(default_factory=Timings)
    conditions: Conditions = field(default_factory=Conditions)
    sweep: Sweep | None = None

    def __post_init__(self) -> None:
        for name in self.protocols:
            find(name)
        for several in ("protocols", "guarantees", "measures", "outages"):  # named twice it is the same trials
            object.__setattr__(self, several, tuple(dict.fromkeys(getattr(self, several))))
        if not self.protocols or not self.guarantees:
            raise UsageError(f"There is nothing to compare; name a protocol ({', '.join(PROTOCOLS)}) and a guarantee.")
        if isinstance(self.repeat, bool) or not (isinstance(self.repeat, int) and 1 <= self.repeat <= MOST_REPEATS):
            raise UsageError(f"repeat is {shown(self.repeat)}; it has to be a whole number from 1 to {MOST_REPEATS}.")
        if Measure.DUPLEX in self.measures and set(self.guarantees) == {Guarantee.DURABLE}:
            raise UsageError("No log keeps an answer, so there is no durable duplex trial; choose another guarantee.")
        if self.sweep and self.sweep.over == "interval" and "polling" not in self.protocols:
            raise UsageError(
                "The interval is polling's: nothing else changes with it; have polling among the protocols."
            )
        for outage in self.outages:
            reasons = [reason for name in self.protocols if (reason := unmet(name, outage))]
            # Of several kinds each protocol meets those it can; one kind is meant for all that are named.
            if reasons and (len(self.outages) == 1 or len(reasons) == len(self.protocols)):
                raise UsageError(reasons[0])

    def check(self) -> None:
        """UsageError when one of its trials cannot be, or an outage does not fall within the load."""
        self.trials()
        for outage in self.outages:
            outage.check_within(self.workload.length)

    def trials(self) -> list[Trial]:
        """All trials, latency first. UsageError when one of them cannot be."""
        uid = secrets.token_hex(3)
        found: list[Trial] = []
        for measure in self.measures:
            for outage in self.outages if measure is Measure.LOSS else (None,):
                for repeat in range(1, self.repeat + 1):
                    for trial in self._points(measure, outage, repeat):
                        found.append(replace(trial, uid=f"{uid}{len(found):03d}"))
        return found

    def _points(self, measure: Measure, outage: Outage | None, repeat: int) -> Iterator[Trial]:
        """One trial of each protocol and guarantee, at each value of the sweep."""
        workload = _conversation(self.workload) if measure is Measure.DUPLEX else self.workload
        for value in self.sweep.values if self.sweep else (None,):
            for guarantee in self.guarantees:
                for protocol in self.protocols:
                    no_answer = measure is Measure.DUPLEX and guarantee is Guarantee.DURABLE
                    if no_answer or (outage and unmet(protocol, outage)):
                        continue
                    number = f"{outage.kind}-{repeat}" if outage else f"{repeat}"
                    name = f"{measure}-{protocol}-{guarantee}-"
                    trial = Trial(name + number, measure, protocol, guarantee, workload, outage, repeat)
                    trial = replace(trial, timings=self.timings, conditions=self.conditions)
                    if self.sweep and value is not None:
                        trial = replace(
                            self.sweep.at(trial, value), name=f"{name}{self.sweep.over}-{value:.12g}-{number}"
                        )
                    yield trial


def _conversation(workload: Workload) -> Workload:
    """The same load as requests: each is one subscriber's, and so is its answer."""
    if workload.trace:
        raise UsageError("A trace has no requests; leave --trace out for a duplex run, or duplex out for a trace.")
    if workload.subscribers > MAX_TOPICS:
        raise UsageError(
            f"{workload.subscribers:,} subscribers are too many for a duplex run, where each has a topic of its own; "
            f"take at most {MAX_TOPICS:,}."
        )
    return replace(workload, topics=workload.subscribers)


def unmet(protocol: str, outage: Outage) -> str | None:
    """Why this protocol cannot meet this outage, or None when it can."""
    if outage.strikes is not Strikes.BROKER:
        return None
    brokered = [name for name, row in PROTOCOLS.items() if row.brokered]
    if protocol not in brokered:
        return f"{protocol} has no broker that could crash; {outage.kind} is for {', '.join(brokered)} only."
    if os.environ.get("LABKIT_NATS"):
        return (
            f"{outage.kind} would kill the broker that LABKIT_NATS points to, which is not the lab's; "
            "unset LABKIT_NATS, or choose another outage."
        )
    return None


def weight(trial: Trial) -> int:
    """As how many loads it counts. Bytes are the same on a busy machine; how soon a break is mended is not."""
    if trial.measure is not Measure.LOSS:
        return 1
    return min(max(1, math.ceil(trial.workload.rate * trial.workload.subscribers / LIGHT)), ROOM)
