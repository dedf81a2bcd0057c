"""Ledgers written by hand: a perfect trial, into which a test plants its faults."""

import zlib

import numpy as np

from labkit.audit import Offer, Outcome, Terms, audit
from labkit.ledger import EVERYONE, MAGIC, NO_SEQUENCE, RECORD, Kind

DTYPE = np.dtype(
    [("time_ns", "<i8"), ("value", "<i8"), ("sequence", "<u4"), ("subscriber", "<u2"), ("_", "u1"), ("kind", "u1")]
)
"""What `labkit.ledger.read` gives."""

FIRST = 10
START = 5_000_000_000
STEP = 10_000_000
LATENCY = 1_000_000
LATENESS = 20_000


def record(kind, at, sequence=NO_SEQUENCE, subscriber=EVERYONE, value=0):
    return (at, value, sequence, subscriber, 0, kind)


def records(rows):
    """Records as `read` gives them, in order of time as one process writes them."""
    return np.array(sorted(rows, key=lambda row: row[0]), DTYPE)


def ledger_bytes(rows):
    """The same as a ledger file holds them."""
    return MAGIC.ljust(RECORD.size, b"\0") + records(rows).tobytes()


def crc(number):
    return zlib.crc32(b"event %d" % number)


class History:
    """A trial in which every event was sent and reached all who wanted it, in order.

    Events are numbered from 0 here: `number` n bears the sequence FIRST + n and is due at `due(n)`.
    """

    def __init__(self, events=20, subscribers=2, wanted=None):
        numbers = range(events)
        wanted = np.ones((subscribers, events), bool) if wanted is None else wanted
        due = np.array([self.due(n) for n in numbers], np.int64)
        self.offer = Offer(FIRST, due, np.full(events, 256), np.array([crc(n) for n in numbers]), wanted)
        self.producer = [record(Kind.SENT, self.due(n) + LATENESS, FIRST + n, value=256) for n in numbers]
        self.consumer, self.link = [], []
        self.arrivals = {(int(subscriber), int(n)): self.due(int(n)) + LATENCY for subscriber, n in np.argwhere(wanted)}

    @staticmethod
    def due(number):
        return START + number * STEP

    def produced(self, kind, at, number=None, subscriber=EVERYONE, value=0):
        self.producer.append(record(kind, at, NO_SEQUENCE if number is None else FIRST + number, subscriber, value))

    def consumed(self, kind, at, number=None, subscriber=0, value=None):
        """A consumer's record; the value of an arrival is the right checksum unless told otherwise."""
        if value is None:
            value = 0 if number is None else crc(number)
        self.consumer.append(record(kind, at, NO_SEQUENCE if number is None else FIRST + number, subscriber, value))

    def gap(self, at, after, oldest, subscriber=0):
        """The consumer is told that all between the events `after` and `oldest` is gone."""
        self.consumed(Kind.GAP, at, after, subscriber, FIRST + oldest)

    def lose(self, number, subscriber=0):
        """The event never arrives; returns when it would have."""
        return self.arrivals.pop((subscriber, number))

    def outage(self, cut, healed):
        self.link += [record(Kind.CUT, cut), record(Kind.HEALED, healed)]

    def judge(self, drained=True, **terms) -> Outcome:
        """What the audit says; `terms` are those of `labkit.audit.Terms`."""
        received = [record(Kind.RECEIVED, at, FIRST + n, who, crc(n)) for (who, n), at in self.arrivals.items()]
        producer, consumer, link = map(records, (self.producer, self.consumer + received, self.link))
        return audit(self.offer, producer, consumer, link, drained, Terms(**terms))
