"""Workloads: what is offered, when, and to whom. Pure data with a seed, the same for every protocol.

A workload yields a schedule of (due time, event). The schedule never waits for the system under test (open loop).
"""

import hashlib
import math
import random
import string
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from labkit.errors import UsageError, shown
from labkit.event import Event, encode
from labkit.trace import Entry
from labkit.trace import load as load_trace

WARMUP = 10
"""At least so many events are sent before the load; they are never owed."""

MAX_SIZE = 1_000_000
"""Bytes; NATS turns away more than 1 MiB out of the box, and one workload must fit every protocol."""

MAX_TOPICS = 1000
MAX_EVENTS = 10_000_000

MAX_BYTES = 2_000_000_000
"""Of all events together: a producer has its whole load in memory, and several trials run at a time."""

MAX_DURATION = 3600.0
LOGNORMAL_SIGMA = 0.6
BURST_EVENTS = 20
BURST_FACTOR = 10


class Scheduled(NamedTuple):
    """An event with its due time (ns after the start of the load) and its encoded bytes."""

    due_ns: int
    sequence: int
    topic: str
    raw: bytes


def _constant(rate: float, _: random.Random) -> Iterator[float]:
    number = 0
    while True:
        yield number / rate
        number += 1


def _poisson(rate: float, rng: random.Random) -> Iterator[float]:
    at = 0.0
    while True:
        at += rng.expovariate(rate)
        yield at


def _bursty(rate: float, _: random.Random) -> Iterator[float]:
    number = 0
    while True:
        burst, within = divmod(number, BURST_EVENTS)
        yield burst * BURST_EVENTS / rate + within / (rate * BURST_FACTOR)
        number += 1


ARRIVALS: dict[str, Callable[[float, random.Random], Iterator[float]]] = {
    "constant": _constant,
    "poisson": _poisson,
    "bursty": _bursty,
}
SIZES: dict[str, Callable[[int, random.Random], int]] = {
    "fixed": lambda size, _: size,
    "lognormal": lambda size, rng: round(size * math.exp(rng.gauss(0, LOGNORMAL_SIGMA))),
}


@dataclass(frozen=True)
class Workload:
    """What is offered in one trial.

    rate: events per second. duration: seconds. size: bytes of an encoded event (the median where sizes
    are log-normal). subscribers: how many. topics: above 1, subscriber k takes topic k modulo topics and
    nothing else. arrival: constant, poisson or bursty. trace: a log whose own events, times and topics
    take the place of all of these but subscribers; speed compresses its time.
    Raises UsageError for values out of range.
    """

    rate: float = 200.0
    duration: float = 3.0
    size: int = 256
    subscribers: int = 10
    topics: int = 1
    arrival: str = "constant"
    sizes: str = "fixed"
    seed: int = 1
    trace: str | None = None
    speed: float = 1.0

    def __post_init__(self) -> None:
        _check("rate", self.rate, 0.1, 1_000_000, "events per second")
        _check("duration", self.duration, 0.1, MAX_DURATION, "seconds")
        _check("subscribers", self.subscribers, 1, 5000, "subscribers", whole=True)
        _check("topics", self.topics, 1, MAX_TOPICS, "topics", whole=True)
        _check("seed", self.seed, 0, 2**32 - 1, "as a seed", whole=True)
        _check("speed", self.speed, 1e-3, 1e12, "times the trace's own speed")
        if not isinstance(self.trace, str | PathLike | None):
            raise UsageError(f"trace is {shown(self.trace)}; it has to be the path of a .jsonl or .csv file.")
        _choose("arrival", self.arrival, ARRIVALS)
        _choose("sizes", self.sizes, SIZES)
        smallest = len(encode(Event(0, self._topic(self.topics - 1), 0, "")))
        _check("size", self.size, smallest, MAX_SIZE, "bytes, the bare envelope being the smallest event", whole=True)
        if self.rate * self.duration > MAX_EVENTS:
            raise UsageError(
                f"{self.rate:g} events/s for {self.duration:g} s are over {MAX_EVENTS:,} events; lower one."
            )
        if self.rate * self.duration * self.size > MAX_BYTES:
            raise UsageError(
                f"{self.rate:,.10g} events/s of {self.size:,} bytes for {self.duration:,.10g} s are over {MAX_BYTES:,} "
                "bytes; lower one."
            )

    @staticmethod
    def _topic(number: int) -> str:
        return f"t{number}"

    def interest(self, subscriber: int) -> str | None:
        """The one topic that this subscriber takes, or None when it takes all."""
        return self._topic(subscriber % self.topics) if self.topics > 1 and self.trace is None else None

    @property
    def length(self) -> float:
        """Seconds from the start of the load to its end: the duration, or the time of the trace's last event."""
        return self.schedule()[-1].due_ns / 1e9 if self.trace else self.duration

    @property
    def first(self) -> int:
        """The first sequence number of the load; all below are warm-up events."""
        return -(-WARMUP // self.topics) * self.topics

    def warmup(self) -> list[Scheduled]:
        """Warm-up events, 5 ms apart, as many on each topic."""
        topics = [self._topic(n % self.topics) for n in range(self.first)]
        raws = [encode(Event(n, topic, 0, "warm-up")) for n, topic in enumerate(topics)]
        return [
            Scheduled(n * 5_000_000, n, topic, raw) for n, (topic, raw) in enumerate(zip(topics, raws, strict=True))
        ]

    def schedule(self) -> list[Scheduled]:
        """All events of the load, in order of due time, sequence numbers from `first` upwards."""
        return self._replayed(load_trace(Path(self.trace))) if self.trace else self._generated()

    def _generated(self) -> list[Scheduled]:
        rng = random.Random(self.seed)
        letters = "".join(rng.choices(string.ascii_letters + string.digits, k=65536))
        size_rng, topic_rng = random.Random(f"size {self.seed}"), random.Random(f"topic {self.seed}")
        arrivals, sizes = ARRIVALS[self.arrival](self.rate, rng), SIZES[self.sizes]
        bares = {topic: len(encode(Event(0, topic, 0, ""))) for topic in map(self._topic, range(self.topics))}
        items: list[Scheduled] = []
        # A hair of slack keeps 3 s at 200/s at 600 events whatever the rounding of 599/200.
        while (at := next(arrivals)) < self.duration - 1e-9:
            due, sequence = round(at * 1e9), self.first + len(items)
            topic = self._topic(topic_rng.randrange(self.topics))
            fill = min(max(sizes(self.size, size_rng), bares[topic]), MAX_SIZE) - bares[topic]
            start = sequence * 61 % len(letters)
            text = (letters[start:] + letters * (fill // len(letters) + 1))[:fill]
            items.append(Scheduled(due, sequence, topic, encode(Event(sequence, topic, due, text))))
        if not items:
            raise UsageError(f"A rate of {self.rate:g}/s gives no event within {self.duration:g} s; raise either.")
        return items

    def _replayed(self, entries: list[Entry]) -> list[Scheduled]:
        if len(entries) > MAX_EVENTS:
            raise UsageError(f"The trace has {len(entries):,} events; the limit is {MAX_EVENTS:,}: cut it.")
        lasts = entries[-1].at / self.speed
        if lasts > MAX_DURATION:
            fit = math.ceil(entries[-1].at / 60)
            raise UsageError(
                f"The trace lasts {lasts:,.0f} s at --speed {self.speed:g}, over the limit of {MAX_DURATION:g} s; "
                f"--speed {fit} replays it within a minute."
            )
        items = []
        for number, entry in enumerate(entries):
            due, sequence = round(entry.at / self.speed * 1e9), self.first + number
            raw = encode(Event(sequence, entry.topic, due, entry.data))
            if len(raw) > MAX_SIZE:
                raise UsageError(f"Event {number + 1} of the trace is {len(raw):,} bytes; the limit is {MAX_SIZE:,}.")
            items.append(Scheduled(due, sequence, entry.topic, raw))
        return items

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values; `Workload(**fields)` is the way back."""
        return asdict(self)


def digest(schedule: list[Scheduled]) -> str:
    """SHA-256 over every due time and every byte: two trials with one digest were offered the same."""
    sha = hashlib.sha256()
    for item in schedule:
        sha.update(b"%d %d " % (item.due_ns, len(item.raw)))
        sha.update(item.raw)
    return sha.hexdigest()


def _check(name: str, value: float, low: float, high: float, unit: str, whole: bool = False) -> None:
    kind = "a whole number" if whole else "a number"
    fits = isinstance(value, int) if whole else isinstance(value, int | float)
    if not fits or isinstance(value, bool) or not low <= value <= high:
        raise UsageError(f"{name} is {value!r}; it has to be {kind} from {low:,.10g} to {high:,.10g} {unit}.")


def _choose(name: str, value: str, table: dict[str, Any]) -> None:
    if value not in list(table):  # what has no hash is none of them either
        raise UsageError(f"{name} is {shown(value)}; choose one of {', '.join(table)}.")
