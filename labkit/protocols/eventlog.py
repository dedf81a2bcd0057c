"""A bounded replay buffer: what a producer remembers, so that a consumer can go on where it was cut off.

Promises every kept event after a cursor, in order, or an explicit `Gap`; never a silent hole. This one lives and dies
with its process; `streamlog` keeps the same on disk.
"""

from collections.abc import Awaitable, Callable
from itertools import islice

from labkit.event import decode_id, encode_gap
from labkit.workload import Scheduled

CAPACITY = 100_000

UNKNOWN = -2
"""A cursor that no log knows."""

Publish = Callable[[Scheduled], Awaitable[None]]


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
    """The newest `capacity` events, by rising sequence numbers; of what came before `first` it knows nothing."""

    def __init__(self, capacity: int = CAPACITY, first: int = 0) -> None:
        self._capacity = capacity
        self._items: dict[int, Scheduled] = {}
        self._latest: dict[str | None, Scheduled] = {}
        self.oldest = self.next = first

    async def open(self) -> None:
        """Makes the log ready; what it has kept from before is there afterwards."""

    def before(self, publish: Publish) -> Publish:
        """What takes an event, keeps it as safely as this log can, and only then hands it to `publish`."""
        return publish

    @property
    def unkept(self) -> int:
        """Events taken that are not yet safe."""
        return 0

    def check(self) -> None:
        """Raises what keeps the log from working, if anything does."""

    async def close(self) -> None:
        """Lets go of whatever the log has open."""

    def append(self, item: Scheduled) -> None:
        """Adds an event that is newer than all of its topic; evicts the oldest when full. Numbers may be left out."""
        newest = self._latest.get(item.topic)
        if newest and item.sequence <= newest.sequence:
            raise ValueError(f"event {item.sequence} does not follow {newest.sequence}")
        self.oldest = min(self.oldest, item.sequence) if self._items else item.sequence
        self._items[item.sequence] = item
        self._latest[item.topic] = self._latest[None] = item
        self.next = max(self.next, item.sequence + 1)
        if len(self._items) > self._capacity:
            del self._items[self.oldest]
            while self.oldest not in self._items:
                self.oldest += 1

    def after(self, cursor: int, topic: str | None = None, limit: int | None = None) -> list[Scheduled]:
        """The events after the cursor, oldest first, on one topic or (None) on all. Raises Gap."""
        if not self.oldest - 1 <= cursor < self.next:
            raise Gap(cursor, self.oldest)
        items = (self._items[sequence] for sequence in range(cursor + 1, self.next) if sequence in self._items)
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
