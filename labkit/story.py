"""Story: what the ledgers of one trial tell of one subscriber, as plain values; all times are seconds of the load.

Warm-up and stop are left out. It judges nothing: what was owed and what became of it is the audit's.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from labkit.audit import Fate, Records
from labkit.errors import UsageError
from labkit.ledger import EVERYONE, Kind, are
from labkit.recording import Recording

WORDS = {Kind.DISCONNECTED: "cut off", Kind.CONNECTED: "connected again", Kind.OVERFLOWED: "too slow"}


class Message(NamedTuple):
    """One owed event: its number, when it was sent, when it was in the broker's log, when it arrived if ever, its fate.

    Where nobody says when the broker had it, it is taken to be there when it was sent.
    """

    number: int
    sent: float
    stored: float
    arrived: float | None
    fate: Fate


@dataclass(frozen=True)
class Story:
    """failed: attempts, with the HTTP status of the answer, or 0. again: arrivals beyond an event's first.

    signs: what each side noticed. chunks: what crossed the link, in bytes, for all subscribers. windows: the outages
    that struck this subscriber, the end None where nothing healed it.
    """

    messages: list[Message]
    failed: list[tuple[float, int, int]]
    again: list[tuple[float, int]]
    signs: dict[str, list[tuple[float, str]]]
    chunks: dict[Kind, list[tuple[float, int]]]
    windows: list[tuple[float, float | None]]


def story(recording: Recording, subscriber: int) -> Story:
    """Reads it; UsageError where the trial has no such subscriber."""
    trial, outcome, offer, start = recording.trial, recording.outcome, recording.offer, recording.phases["load"]
    hosts = trial.workload.subscribers
    if isinstance(subscriber, bool) or subscriber not in range(hosts):
        raise UsageError(f"This run has no subscriber {subscriber!r}; they are numbered from 0 to {hosts - 1}.")

    def of(records: Records, *kinds: Kind) -> list[tuple[float, int, int, Kind]]:
        """Time, event, value and kind of each record of these kinds."""
        mine = are(records, *kinds) & np.isin(records["subscriber"], (subscriber, EVERYONE))
        found = records[mine & (records["time_ns"] >= start)]
        return [(seconds(r["time_ns"]), int(r["sequence"]), int(r["value"]), Kind(r["kind"])) for r in found]

    def seconds(time_ns: int) -> float:
        return (int(time_ns) - start) / 1e9

    producer, consumer = recording.producer, recording.consumer
    stored = {number: at for at, number, *_ in of(producer, Kind.ACCEPTED)}
    sent = {number: at for at, number, *_ in reversed(of(producer, Kind.SENT)) if number >= offer.first}
    messages = []
    for event in np.flatnonzero(outcome.owed[subscriber]):
        number, arrived_ns = int(offer.first + event), int(outcome.arrived_ns[subscriber, event])
        arrived = seconds(arrived_ns) if arrived_ns else None
        there = stored.get(number, sent[number])
        fate = Fate(outcome.fate[subscriber, event])
        messages.append(Message(number, sent[number], min(there, arrived or there), arrived, fate))
    firsts = {(message.number, message.arrived) for message in messages}
    arrivals = of(consumer, Kind.RECEIVED, Kind.REPEATED)
    signs = {
        side: [(at, WORDS[kind]) for at, _, _, kind in of(records, *WORDS)]
        for side, records in (("producer", producer), ("consumer", consumer))
    }
    signs["consumer"] += [(at, f"gap: {ids(range(n + 1, oldest))}") for at, n, oldest, _ in of(consumer, Kind.GAP)]
    return Story(
        messages,
        [(at, number, status) for at, number, status, _ in of(producer, Kind.FAILED) if number in sent],
        [(at, number) for at, number, *_ in arrivals if number in sent and (number, at) not in firsts],
        signs,
        {way: _chunks(recording, way) for way in (Kind.UP, Kind.DOWN)},
        [
            (seconds(begin), None if end is None else seconds(end))
            for begin, end in (outcome.windows if subscriber < trial.struck else [])
        ],
    )


def _chunks(recording: Recording, way: Kind) -> list[tuple[float, int]]:
    records, start = recording.link, recording.phases["load"]
    found = records[(records["kind"] == way) & (records["time_ns"] >= start)]
    return [((int(r["time_ns"]) - start) / 1e9, int(r["value"])) for r in found]


def ids(numbers: Iterable[int]) -> str:
    """Event numbers by their last three digits, neighbours together: 15–19, 21."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{r[0] % 1000}–{r[-1] % 1000}" if len(r) > 1 else f"{r[0] % 1000}" for r in runs)
