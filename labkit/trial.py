"""Trials: one protocol, one guarantee, one workload, one outage plan. Spec in, spec out, as JSON."""

import json
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self

from labkit.errors import UsageError
from labkit.outage import Conditions, Outage
from labkit.workload import Workload

SCHEMA = 2


UNSENT_LIMIT = 8 * 1024 * 1024
"""The bounded queue of a stream: with more bytes unsent its subscriber is too slow, and is disconnected."""

RETRY_SPAN = 272_105
"""Seconds from the first to the last attempt in the example schedule of Standard Webhooks: 75:35:05, 10 attempts."""


class Choice(StrEnum):
    """One of a few words."""

    @classmethod
    def named(cls, name: str) -> Self:
        """The one of that name; UsageError names the ones there are."""
        if name not in list(cls):
            raise UsageError(f"There is no {cls.__name__.lower()} {str(name)!r}; choose from {', '.join(cls)}.")
        return cls(name)


class Guarantee(Choice):
    """At-most-once is the protocol out of the box; at-least-once has its own standard recovery switched on.

    Durable is at-least-once whose event log is a JetStream stream on disk: it outlives the producer.
    """

    AT_MOST_ONCE = "at-most-once"
    AT_LEAST_ONCE = "at-least-once"
    DURABLE = "durable"


class Payload(StrEnum):
    """What a REST hook carries: the whole event, or a claim check with which the consumer fetches it."""

    FULL = "full"
    THIN = "thin"


class Measure(Choice):
    """What a trial is for. Latency connects directly where the link has no conditions; all others go through it.

    Cost is what a delivery takes in bytes, CPU and requests. Duplex sends the events of the workload the other way, as
    requests, and measures until the answers are there.
    """

    LATENCY = "latency"
    BANDWIDTH = "bandwidth"
    LOSS = "loss"
    COST = "cost"
    DUPLEX = "duplex"


COMPARED = (Measure.LATENCY, Measure.BANDWIDTH, Measure.LOSS)
"""What is measured where nothing else is asked for."""


@dataclass(frozen=True)
class Timings:
    """Waits, in seconds. The lab's are short, so that a workshop sees in seconds what takes minutes in production.

    heartbeat: silence after which an at-least-once side asks whether the other is alive (production: 15 to 30).
    poll: interval of the polling baseline. hold: how long a long poll is held open (production: 30 to 60).
    retry, retry_limit: first and longest wait between attempts to reconnect or to deliver, doubling, with jitter
    (Standard Webhooks suggests 5 s to 10 h). attempts: deliveries tried before a webhook gives up.
    request: the limit of one HTTP request (Standard Webhooks: 15 to 30). ack: JetStream's AckWait (default 30).
    """

    heartbeat: float = 1.0
    poll: float = 0.25
    hold: float = 2.0
    retry: float = 0.05
    retry_limit: float = 1.0
    attempts: int = 12
    request: float = 2.0
    ack: float = 2.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            whole = name == "attempts"
            low, high, unit = (1, 1_000_000, "attempts") if whole else (0.001, 86_400, "seconds")
            fits = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
            if not fits or not low <= value <= high:
                kind = "a whole number" if whole else "a number"
                raise UsageError(f"{name} is {value!r}; it has to be {kind} from {low:g} to {high:,} {unit}.")

    @property
    def retry_span(self) -> float:
        """Seconds from the first to the last attempt at a delivery, without jitter."""
        return sum(min(self.retry * 2.0 ** min(number, 99), self.retry_limit) for number in range(self.attempts - 1))

    @property
    def compression(self) -> float:
        """How many times shorter that is than the example schedule of Standard Webhooks."""
        return RETRY_SPAN / self.retry_span if self.retry_span else float("inf")


@dataclass(frozen=True)
class Trial:
    """The whole spec of one trial. `uid` keeps trials apart on a broker they share."""

    name: str
    measure: Measure
    protocol: str
    guarantee: Guarantee
    workload: Workload
    outage: Outage | None = None
    repeat: int = 1
    uid: str = "00000000"
    payload: Payload = Payload.FULL
    timings: Timings = field(default_factory=Timings)
    conditions: Conditions = field(default_factory=Conditions)

    @property
    def linked(self) -> bool:
        """Whether traffic goes through the link."""
        return self.measure is not Measure.LATENCY or bool(self.conditions)

    @property
    def duplex(self) -> bool:
        """Whether the load is made of requests, which the producer answers."""
        return self.measure is Measure.DUPLEX

    @property
    def struck(self) -> int:
        """How many subscribers the outage strikes; all of them where there is none."""
        subscribers = self.workload.subscribers
        return self.outage.struck(subscribers) if self.outage else subscribers

    @property
    def recovers(self) -> bool:
        """Whether the protocol's recovery mechanism is switched on."""
        return self.guarantee is not Guarantee.AT_MOST_ONCE

    @property
    def durable(self) -> bool:
        """Whether what the producer accepted outlives it."""
        return self.guarantee is Guarantee.DURABLE

    def to_json(self) -> dict[str, Any]:
        """The spec as plain JSON values, with the schema version."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Trial":
        """The trial behind `to_json`; KeyError, TypeError or ValueError when it is not one."""
        fields = dict(fields)
        if fields.pop("schema") != SCHEMA:
            raise ValueError(f"a trial of another schema version; this labkit reads version {SCHEMA}")
        outage = fields["outage"]
        return cls(
            **{
                **fields,
                "measure": Measure(fields["measure"]),
                "guarantee": Guarantee(fields["guarantee"]),
                "payload": Payload(fields["payload"]),
                "workload": Workload(**fields["workload"]),
                "outage": Outage(**outage) if outage else None,
                "timings": Timings(**fields["timings"]),
                "conditions": Conditions(**fields["conditions"]),
            }
        )

    def save(self, path: Path) -> None:
        """Writes the spec; FileExistsError rather than overwriting one."""
        with path.open("x", encoding="utf-8") as file:
            json.dump(self.to_json(), file, indent=1)

    def under(self, run: Path) -> "Trial":
        """The same trial with its trace's path, relative to the run folder in the spec, made usable."""
        if self.workload.trace is None:
            return self
        return replace(self, workload=replace(self.workload, trace=str(run / self.workload.trace)))
