"""A bounded replay buffer: what a producer remembers, so that a consumer can go on where it was cut off.

Promises every kept event after a cursor, in order, or an explicit `Gap`; never a silent hole.
"""

from itertools import islice

from labkit.event import decode_id, encode_gap
from labkit.workload import Scheduled

CAPACITY = 100_000

UNKNOWN = -2
"""A cursor that no log knows."""


class Gap(Exception):
    """The cursor is evicted or unknown: what followed it is not known to be complete. `oldest` is still kept."""

    def __init__(self, after: int, oldest: int) -> None:
        super().__init__(f"nothing is known after {after}; the oldest event kept is {oldest}")
        self.after = after
        self.oldest = oldest

    def signal(self) -> bytes:
        """The same as an event for the consumer."""
        return encode_gap(max(self.after, 0), self.oldest)


class EventLog:
    """The newest `capacity` events, by consecutive sequence numbers."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._items: dict[int, Scheduled] = {}
        self._latest: dict[str | None, Scheduled] = {}
        self.next = 0

    @property
    def oldest(self) -> int:
        """The lowest sequence number still kept; `next` when nothing is."""
        return self.next - len(self._items)

    def append(self, item: Scheduled) -> None:
        """Adds the event that follows the newest; evicts the oldest when full."""
        if self._items and item.sequence != self.next:
            raise ValueError(f"event {item.sequence} does not follow {self.next - 1}")
        self._items[item.sequence] = item
        self._latest[item.topic] = self._latest[None] = item
        self.next = item.sequence + 1
        if len(self._items) > self._capacity:
            del self._items[self.next - 1 - self._capacity]

    def after(self, cursor: int, topic: str | None = None, limit: int | None = None) -> list[Scheduled]:
        """The events after the cursor, oldest first, on one topic or (None) on all. Raises Gap."""
        if not self.oldest - 1 <= cursor < self.next:
            raise Gap(cursor, self.oldest)
        items = (self._items[sequence] for sequence in range(cursor + 1, self.next))
        return list(islice((item for item in items if topic in (None, item.topic)), limit))

    def replay(self, cursor: str, topic: str | None = None) -> tuple[bytes | None, list[Scheduled]]:
        """What a consumer with this id as its cursor gets first: a gap signal, if it needs one, and what is kept."""
        sequence = decode_id(cursor)
        try:
            return None, self.after(UNKNOWN if sequence is None else sequence, topic)
        except Gap as gap:
            return gap.signal(), self.after(gap.oldest - 1, topic)

    def latest(self, topic: str | None = None) -> Scheduled | None:
        """The newest event on a topic, or on all."""
        return self._latest.get(topic)

    def get(self, sequence: int) -> Scheduled | None:
        """One event, if it is still kept."""
        return self._items.get(sequence)
