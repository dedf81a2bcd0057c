"""The audit: a pure function of the ledgers. What was owed, what arrived, when, and who could know of the rest.

It knows nothing of protocols. Always `owed = delivered + lost`, and a trial that was not drained is never "lost".
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from labkit.ledger import EVERYONE, NO_SEQUENCE, Kind, are

Records = NDArray[np.void]

NEVER = np.iinfo(np.int64).max
SIGNS = (Kind.DISCONNECTED, Kind.FAILED, Kind.REJECTED, Kind.GAP, Kind.OVERFLOWED)
"""What a side writes down when it notices that something is wrong."""


class Fate(IntEnum):
    """What became of one owed delivery."""

    ON_TIME = 0
    LATE = 1  # due before an outage ended, and arrived only afterwards
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
class Terms:
    """What was agreed on in a trial, as far as it takes more than the ledgers to judge it.

    owes: the producer's record from which on an event is owed: `SENT`, or `ACCEPTED` by a durable log.
    struck: how many subscribers, the first ones, the outage strikes; None for all. producer_ends: whether it ends the
    producer, which then offers nothing. latest_only: a later event stands for all before it, so that a subscriber who
    got one has the others superseded.
    """

    owes: Kind = Kind.SENT
    struck: int | None = None
    producer_ends: bool = False
    latest_only: bool = False


PLAIN = Terms()


@dataclass(frozen=True)
class Outcome:
    """What the ledgers say. Matrices are subscribers x events.

    owed: the delivery was due. arrived_ns: first good arrival, 0 where there was none. copies: good arrivals beyond the
    first; twice: how many of them the application got, the others it dropped by their id. fate: a `Fate`, meaningful
    where owed. unexplained: lost deliveries that no outage accounts for. lateness_ns: the producer's own, one value for
    each event it sent. overflowed: how often a subscriber was too slow for its bounded queue. windows: begin and end of
    each outage, ns; the end is None where nothing healed it. noticed_ns and its two sides, recovered_ns: after the
    first cut and the last heal, None without an outage or where nobody noticed.
    """

    owed: NDArray[np.bool_]
    arrived_ns: NDArray[np.int64]
    copies: NDArray[np.int64]
    twice: int
    fate: NDArray[np.int8]
    unexplained: NDArray[np.bool_]
    lateness_ns: NDArray[np.int64]
    reordered: int
    unexpected: int
    corrupt: int
    overflowed: int
    windows: list[tuple[int, int | None]]
    noticed_producer_ns: int | None
    noticed_consumer_ns: int | None
    recovered_ns: int | None
    verdict: str

    def count(self, *fates: Fate) -> int:
        """How many owed deliveries met one of these fates."""
        return sum(int(self._fates[fate]) for fate in fates)

    @cached_property
    def _fates(self) -> NDArray[np.int64]:
        """How many owed deliveries met each fate."""
        return np.bincount(self.fate[self.owed], minlength=len(Fate))

    @property
    def delivered(self) -> int:
        """Owed deliveries that arrived."""
        return self.count(Fate.ON_TIME, Fate.LATE)

    @property
    def lost(self) -> int:
        """Owed deliveries that did not."""
        return self.count(Fate.REJECTED, Fate.GAP_SEEN, Fate.SILENT)

    @property
    def duplicated(self) -> int:
        """Good arrivals beyond the first of their delivery."""
        return int(self.copies.sum())

    @property
    def noticed_ns(self) -> int | None:
        """From the first cut to the first sign on either side."""
        signs = [sign for sign in (self.noticed_producer_ns, self.noticed_consumer_ns) if sign is not None]
        return min(signs, default=None)


def audit(
    offer: Offer,
    producer: Records,
    consumer: Records,
    outages: Records,
    drained: bool,
    terms: Terms = PLAIN,
) -> Outcome:
    """Judges one trial. `outages` holds the records of whoever broke things, the link's among them.

    Owed is every wanted event that the producer says it sent, or accepted. An arrival counts when its bytes are right
    (CRC-32) and it was wanted; what the consumer dropped by its id counts as a copy alone, for the application never
    saw it. Lost deliveries are `REJECTED` where the producer recorded so, else `GAP_SEEN` where a
    gap signal covers them or they were due between the last arrival before a disconnection and the reconnection.
    """
    sent = producer[are(producer, Kind.SENT) & _in_load(producer, offer)]
    events = sent["sequence"].astype(np.int64) - offer.first
    offered = _events(producer, offer, Kind.SENT)
    agreed = _events(producer, offer, terms.owes)

    arrivals = consumer[are(consumer, Kind.RECEIVED, Kind.REPEATED) & _of_load(consumer, offer)]
    good, corrupt, unexpected = _sort(arrivals, offer, offer.wanted & offered)
    arrived, copies, twice, reordered = _first_arrivals(arrivals[good], offer, offer.wanted.shape)
    # A durable log may hold what its producer did not live to see accepted: it does where anyone got the event.
    agreed |= (arrived > 0).any(axis=0)
    owed = offer.wanted & agreed

    windows = _windows(outages)
    fate = np.full(owed.shape, int(Fate.SILENT), np.int8)
    fate[_gaps(consumer, offer, arrived)] = int(Fate.GAP_SEEN)
    fate[_rejections(producer, offer, owed.shape)] = int(Fate.REJECTED)
    fate[arrived > 0] = int(Fate.ON_TIME)
    struck = (np.arange(len(owed)) < (len(owed) if terms.struck is None else terms.struck))[:, np.newaxis]
    for _, healed in windows:
        if healed is not None:
            fate[struck & (arrived >= healed) & (offer.due_ns < healed)] = int(Fate.LATE)

    lost = owed & (arrived == 0)
    unoffered, open_end = ~offered, offered & ~agreed
    if terms.producer_ends:
        unoffered &= ~_absent(offer, sent, windows)
        open_end &= ~_events(sent[sent["time_ns"] <= _last_end(windows)], offer, Kind.SENT)
    unclear = not drained or unoffered.any() or (open_end & offer.wanted).any()
    begins = windows[0][0] if windows else None
    return Outcome(
        owed=owed,
        arrived_ns=arrived,
        copies=copies,
        twice=twice,
        fate=fate,
        unexplained=lost & ~_explained(offer, arrived, windows, terms),
        lateness_ns=sent["time_ns"] - offer.due_ns[events],
        reordered=reordered,
        unexpected=unexpected,
        corrupt=corrupt,
        overflowed=sum(int(are(records, Kind.OVERFLOWED).sum()) for records in (producer, consumer)),
        windows=windows,
        noticed_producer_ns=_noticed(producer, begins),
        noticed_consumer_ns=_noticed(consumer, begins),
        recovered_ns=_recovered(offer, arrived, owed & struck, windows[-1][1] if windows else None),
        verdict="inconclusive" if unclear else "lossy" if lost.any() else "complete",
    )


def _in_load(records: Records, offer: Offer) -> NDArray[np.bool_]:
    number = records["sequence"].astype(np.int64) - offer.first
    return (number >= 0) & (number < len(offer.due_ns))


def _of_load(records: Records, offer: Offer) -> NDArray[np.bool_]:
    """All but warm-up events: also what bears a number that was never given out."""
    return records["sequence"] >= offer.first


def _events(producer: Records, offer: Offer, kind: Kind) -> NDArray[np.bool_]:
    """Which events of the load the producer has a record of this kind of."""
    found = np.zeros(len(offer.due_ns), bool)
    mine = producer[(producer["kind"] == int(kind)) & _in_load(producer, offer)]
    found[mine["sequence"].astype(np.int64) - offer.first] = True
    return found


def _absent(offer: Offer, sent: Records, windows: list[tuple[int, int | None]]) -> NDArray[np.bool_]:
    """Events that were due while no producer was there: from the last one sent before its end to the first after."""
    cells = np.zeros(len(offer.due_ns), bool)
    for begin, end in windows:
        before = sent["sequence"][sent["time_ns"] <= begin].astype(np.int64) - offer.first
        last = before.max() if len(before) else -1
        cells |= (np.arange(len(cells)) > last) & (offer.due_ns <= (NEVER if end is None else end))
    return cells


def _last_end(windows: list[tuple[int, int | None]]) -> int:
    """When the last outage ended; before any time where there was none."""
    return max((NEVER if end is None else end for _, end in windows), default=-1)


def _sort(arrivals: Records, offer: Offer, owed: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int, int]:
    """Which arrivals are good; how many are corrupt; how many are sound, but nobody's due."""
    known = _in_load(arrivals, offer) & (arrivals["subscriber"] < owed.shape[0])
    number = np.where(known, arrivals["sequence"].astype(np.int64) - offer.first, 0)
    subscriber = np.where(known, arrivals["subscriber"], 0)
    sound = known & (arrivals["value"] == offer.crc[number])
    malformed = (arrivals["sequence"] == NO_SEQUENCE) | (known & ~sound)
    good = sound & owed[subscriber, number]
    return good, int(malformed.sum()), int((~malformed & ~good).sum())


def _first_arrivals(
    arrivals: Records, offer: Offer, shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64], int, int]:
    """First arrival times (0: none) and arrivals beyond the first; how many of these the application got; and how many
    first arrivals a later event had overtaken.

    The first is one that the application got; with repeats alone there is none.
    """
    arrived, copies = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    cells = arrivals["subscriber"].astype(np.int64) * shape[1] + arrivals["sequence"].astype(np.int64) - offer.first
    unique, times = np.unique(cells, return_counts=True)
    copies.ravel()[unique] = times - 1
    taken = np.flatnonzero(are(arrivals, Kind.RECEIVED))
    unique, first = np.unique(cells[taken], return_index=True)
    arrived.ravel()[unique] = arrivals["time_ns"][taken[first]]
    firsts = arrivals[taken[np.sort(first)]]
    by_subscriber = firsts[np.argsort(firsts["subscriber"], kind="stable")]
    _, starts = np.unique(by_subscriber["subscriber"], return_index=True)
    reordered = 0
    for numbers in np.split(by_subscriber["sequence"], starts[1:]):
        if len(numbers):
            reordered += int((numbers < np.maximum.accumulate(numbers)).sum())
    return arrived, copies, len(taken) - len(first), reordered


def _windows(outages: Records) -> list[tuple[int, int | None]]:
    """Begin and end of each outage, in order."""
    windows: list[tuple[int, int | None]] = []
    for record in outages[are(outages, Kind.CUT, Kind.HEALED)]:
        is_open = bool(windows) and windows[-1][1] is None
        if record["kind"] == int(Kind.CUT) and not is_open:
            windows.append((int(record["time_ns"]), None))
        elif record["kind"] == int(Kind.HEALED) and is_open:
            windows[-1] = (windows[-1][0], int(record["time_ns"]))
    return windows


def _explained(
    offer: Offer, arrived: NDArray[np.int64], windows: list[tuple[int, int | None]], terms: Terms
) -> NDArray[np.bool_]:
    """Cells that an outage accounts for, or that a later event stands for.

    For a struck subscriber an outage reaches from the last event that had arrived before it, as what follows may have
    been under way, to the first that was due after its end and arrived: only that shows it to be over.
    """
    cells, numbers = np.zeros(arrived.shape, bool), np.arange(arrived.shape[1])
    for subscriber, row in enumerate(arrived):
        got = np.flatnonzero(row)
        if terms.latest_only and len(got):
            cells[subscriber, : got.max()] = True
        if terms.struck is not None and subscriber >= terms.struck:
            continue
        for begin, end in windows:
            before = got[row[got] < begin]
            after = got[offer.due_ns[got] >= (NEVER if end is None else end)]
            since, until = before.max(initial=-1), after.min(initial=len(numbers))
            cells[subscriber, (numbers > since) & (numbers < until)] = True
    return cells


def _rejections(producer: Records, offer: Offer, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    cells = np.zeros(shape, bool)
    rejected = producer[are(producer, Kind.REJECTED) & _in_load(producer, offer)]
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
    for record in consumer[are(consumer, Kind.GAP)]:
        after, oldest = int(record["sequence"]), int(record["value"])
        cells[record["subscriber"], (numbers > after) & (numbers < oldest)] = True
    for subscriber in np.unique(consumer["subscriber"][are(consumer, Kind.DISCONNECTED)]):
        mine = consumer[consumer["subscriber"] == subscriber]
        # By the order of writing: on a coarse clock a loss and what followed it bear the same time.
        downs, ups, receipts = (
            np.flatnonzero(are(mine, kind)) for kind in (Kind.DISCONNECTED, Kind.CONNECTED, Kind.RECEIVED)
        )
        for down in downs:
            before, later = receipts[receipts < down], ups[ups > down]
            since = int(mine["time_ns"][before[-1]]) if len(before) else 0
            until = int(mine["time_ns"][later[0]]) if len(later) else NEVER
            # An event that was due just before the last arrival may have been in flight behind it.
            cells[subscriber, (offer.due_ns <= until) & _after_last(offer, arrived[subscriber], since)] = True
    return cells


def _after_last(offer: Offer, arrived: NDArray[np.int64], since: int) -> NDArray[np.bool_]:
    """Events that follow the newest one that had arrived by then."""
    seen = np.flatnonzero((arrived > 0) & (arrived <= since))
    return np.arange(len(offer.due_ns)) > (seen.max() if len(seen) else -1)


def _noticed(records: Records, begins: int | None) -> int | None:
    """From the first cut to this side's first sign of it."""
    if begins is None:
        return None
    signs = records["time_ns"][are(records, *SIGNS)]
    after = signs[signs >= begins]
    return int(after.min()) - begins if len(after) else None


def _recovered(offer: Offer, arrived: NDArray[np.int64], owed: NDArray[np.bool_], healed: int | None) -> int | None:
    """From the heal until the last subscriber had what it was still to get of the past, and something new.

    A subscriber that is owed nothing new has only the past to get; where none is, nothing shows the recovery.
    """
    if healed is None:
        return None
    past = owed & (offer.due_ns < healed) & (arrived >= healed)
    fresh = owed & (offer.due_ns >= healed)
    if not fresh.any():
        return None
    caught_up = np.where(past, arrived, healed).max(axis=1, initial=healed)
    alive = np.where(fresh & (arrived > 0), arrived, NEVER).min(axis=1, initial=NEVER)
    last = int(np.maximum(caught_up, np.where(fresh.any(axis=1), alive, healed)).max())
    return last - healed if last < NEVER else None
