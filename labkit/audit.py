"""The audit: a pure function of the ledgers. What was owed, what arrived, when, and who could know of the rest.

It knows nothing of protocols. Always `owed = delivered + lost`, and a trial that was not drained is never "lost".
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from labkit.ledger import EVERYONE, NO_SEQUENCE, Kind

Records = NDArray[np.void]


class Fate(IntEnum):
    """What became of one owed delivery."""

    ON_TIME = 0
    LATE = 1  # due before the link healed, and arrived only afterwards
    REJECTED = 2  # lost, and the producer was told
    GAP_SEEN = 3  # lost, and the consumer was told, or knew that it was cut off
    SILENT = 4  # lost, and nobody could know


@dataclass(frozen=True)
class Offer:
    """What a trial offered: the schedule and who wanted what.

    first: sequence number of the first event. due_ns, size, crc: one value for each event, the due time
    absolute. wanted: subscribers x events, True where the subscription covers the event.
    """

    first: int
    due_ns: NDArray[np.int64]
    size: NDArray[np.int64]
    crc: NDArray[np.int64]
    wanted: NDArray[np.bool_]


@dataclass(frozen=True)
class Outcome:
    """What the ledgers say. Matrices are subscribers x events.

    owed: the delivery was due. arrived_ns: first good arrival, 0 where there was none. fate: a `Fate`,
    meaningful where owed. lateness_ns: the producer's own, one value for each event it sent.
    noticed_ns, recovered_ns: after the cut and after the heal, None without an outage or where nobody noticed.
    """

    owed: NDArray[np.bool_]
    arrived_ns: NDArray[np.int64]
    fate: NDArray[np.int8]
    lateness_ns: NDArray[np.int64]
    duplicated: int
    reordered: int
    unexpected: int
    corrupt: int
    noticed_ns: int | None
    recovered_ns: int | None
    verdict: str

    def count(self, *fates: Fate) -> int:
        """How many owed deliveries met one of these fates."""
        return int(np.isin(self.fate[self.owed], fates).sum())

    @property
    def delivered(self) -> int:
        """Owed deliveries that arrived."""
        return self.count(Fate.ON_TIME, Fate.LATE)

    @property
    def lost(self) -> int:
        """Owed deliveries that did not."""
        return self.count(Fate.REJECTED, Fate.GAP_SEEN, Fate.SILENT)


def audit(offer: Offer, producer: Records, consumer: Records, link: Records, drained: bool) -> Outcome:
    """Judges one trial.

    Owed is every wanted event that the producer says it offered. An arrival counts when its bytes are right
    (CRC-32) and it was wanted. Lost deliveries are `REJECTED` where the producer recorded so, else `GAP_SEEN` where a
    gap signal covers them or they were due between the last arrival before a disconnection and the reconnection.
    """
    sent = producer[(producer["kind"] == Kind.SENT) & _in_load(producer, offer)]
    events = sent["sequence"].astype(np.int64) - offer.first
    offered = np.zeros(len(offer.due_ns), bool)
    offered[events] = True
    owed = offer.wanted & offered

    arrivals = consumer[np.isin(consumer["kind"], (Kind.RECEIVED, Kind.REPEATED)) & (_of_load(consumer, offer))]
    good, corrupt, unexpected = _sort(arrivals, offer, owed)
    arrived, duplicated, reordered = _first_arrivals(arrivals[good], offer, owed.shape)

    cut, healed = _window(link)
    fate = np.full(owed.shape, Fate.SILENT, np.int8)
    fate[_gaps(consumer, offer, arrived)] = Fate.GAP_SEEN
    fate[_rejections(producer, offer, owed.shape)] = Fate.REJECTED
    fate[arrived > 0] = Fate.ON_TIME
    if healed is not None:
        fate[(arrived >= healed) & (offer.due_ns < healed)] = Fate.LATE

    complete = len(np.unique(events)) == len(offer.due_ns)
    lost = bool((owed & (arrived == 0)).any())
    return Outcome(
        owed=owed,
        arrived_ns=np.where(owed, arrived, 0),
        fate=fate,
        lateness_ns=sent["time_ns"] - offer.due_ns[events],
        duplicated=duplicated,
        reordered=reordered,
        unexpected=unexpected,
        corrupt=corrupt,
        noticed_ns=_noticed(producer, consumer, cut),
        recovered_ns=_recovered(offer, arrived, owed, healed),
        verdict="inconclusive" if not drained or not complete else "lossy" if lost else "complete",
    )


def _in_load(records: Records, offer: Offer) -> NDArray[np.bool_]:
    number = records["sequence"].astype(np.int64) - offer.first
    return (number >= 0) & (number < len(offer.due_ns))


def _of_load(records: Records, offer: Offer) -> NDArray[np.bool_]:
    """All but warm-up events: also what bears a number that was never given out."""
    return records["sequence"] >= offer.first


def _sort(arrivals: Records, offer: Offer, owed: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int, int]:
    """Which arrivals are good; how many are corrupt; how many are sound, but nobody's due."""
    known = _in_load(arrivals, offer) & (arrivals["subscriber"] < owed.shape[0])
    number = np.where(known, arrivals["sequence"].astype(np.int64) - offer.first, 0)
    subscriber = np.where(known, arrivals["subscriber"], 0)
    sound = known & (arrivals["value"] == offer.crc[number])
    malformed = (arrivals["sequence"] == NO_SEQUENCE) | (known & ~sound)
    good = sound & owed[subscriber, number]
    return good, int(malformed.sum()), int((~malformed & ~good).sum())


def _first_arrivals(arrivals: Records, offer: Offer, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], int, int]:
    """First arrival times (0: none), copies beyond the first, and first arrivals that a later event had overtaken."""
    arrived = np.zeros(shape, np.int64)
    cells = arrivals["subscriber"].astype(np.int64) * shape[1] + arrivals["sequence"].astype(np.int64) - offer.first
    _, first = np.unique(cells, return_index=True)
    arrived.ravel()[cells[first]] = arrivals["time_ns"][first]
    firsts = arrivals[np.sort(first)]
    by_subscriber = firsts[np.argsort(firsts["subscriber"], kind="stable")]
    _, starts = np.unique(by_subscriber["subscriber"], return_index=True)
    reordered = 0
    for numbers in np.split(by_subscriber["sequence"], starts[1:]):
        if len(numbers):
            reordered += int((numbers < np.maximum.accumulate(numbers)).sum())
    return arrived, len(arrivals) - len(first), reordered


def _window(link: Records) -> tuple[int | None, int | None]:
    cut, healed = link["time_ns"][link["kind"] == Kind.CUT], link["time_ns"][link["kind"] == Kind.HEALED]
    return (int(cut[0]) if len(cut) else None), (int(healed[-1]) if len(healed) else None)


def _rejections(producer: Records, offer: Offer, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    cells = np.zeros(shape, bool)
    rejected = producer[(producer["kind"] == Kind.REJECTED) & _in_load(producer, offer)]
    numbers = rejected["sequence"].astype(np.int64) - offer.first
    for_all = rejected["subscriber"] == EVERYONE
    cells[:, numbers[for_all]] = True
    known = rejected["subscriber"] < shape[0]
    cells[rejected["subscriber"][known], numbers[known]] = True
    return cells


def _gaps(consumer: Records, offer: Offer, arrived: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Cells that a gap signal covers, or that were due while the subscriber knew itself cut off."""
    cells = np.zeros(arrived.shape, bool)
    consumer = consumer[consumer["subscriber"] < arrived.shape[0]]
    numbers = np.arange(len(offer.due_ns)) + offer.first
    for record in consumer[consumer["kind"] == Kind.GAP]:
        after, oldest = int(record["sequence"]), int(record["value"])
        cells[record["subscriber"], (numbers > after) & (numbers < oldest)] = True
    for subscriber in np.unique(consumer["subscriber"][consumer["kind"] == Kind.DISCONNECTED]):
        mine = consumer[consumer["subscriber"] == subscriber]
        ups = mine["time_ns"][mine["kind"] == Kind.CONNECTED]
        receipts = mine["time_ns"][mine["kind"] == Kind.RECEIVED]
        for down in mine["time_ns"][mine["kind"] == Kind.DISCONNECTED]:
            before, later = receipts[receipts < down], ups[ups > down]
            since = int(before[-1]) if len(before) else 0
            until = int(later[0]) if len(later) else np.iinfo(np.int64).max
            # An event that was due just before the last arrival may have been in flight behind it.
            cells[subscriber, (offer.due_ns <= until) & _after_last(offer, arrived[subscriber], since)] = True
    return cells


def _after_last(offer: Offer, arrived: NDArray[np.int64], since: int) -> NDArray[np.bool_]:
    """Events that follow the newest one that had arrived by then."""
    seen = np.flatnonzero((arrived > 0) & (arrived <= since))
    return np.arange(len(offer.due_ns)) > (seen.max() if len(seen) else -1)


def _noticed(producer: Records, consumer: Records, cut: int | None) -> int | None:
    """From the cut to the first sign on either side."""
    if cut is None:
        return None
    signs = [
        records["time_ns"][np.isin(records["kind"], (Kind.DISCONNECTED, Kind.FAILED, Kind.REJECTED, Kind.GAP))]
        for records in (producer, consumer)
    ]
    after = np.concatenate(signs)
    after = after[after >= cut]
    return int(after.min()) - cut if len(after) else None


def _recovered(offer: Offer, arrived: NDArray[np.int64], owed: NDArray[np.bool_], healed: int | None) -> int | None:
    """From the heal until the last subscriber had what it was still to get of the past, and something new."""
    if healed is None:
        return None
    past = owed & (offer.due_ns < healed) & (arrived >= healed)
    new = owed & (offer.due_ns >= healed) & (arrived > 0)
    never = np.iinfo(np.int64).max
    caught_up = np.where(past, arrived, healed).max(axis=1, initial=healed)
    alive = np.where(new, arrived, never).min(axis=1, initial=never)
    last = int(np.maximum(caught_up, alive).max())
    return last - healed if last < never else None
