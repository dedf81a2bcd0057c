"""Ledgers: the append-only binary record that one process of a trial writes, and its reader.

Every record lies in a shared memory map as soon as it is written, so it survives SIGKILL of its writer.
A record's kind is stored last: a torn record has kind 0 and is never read. Nothing is ever overwritten.
"""

import mmap
import os
import struct
from enum import IntEnum
from functools import reduce
from operator import or_
from pathlib import Path
from threading import Lock
from time import monotonic_ns
from typing import TYPE_CHECKING
from zlib import crc32

from labkit.errors import NoRoomError, UsageError

if TYPE_CHECKING:
    import numpy as np

RECORD = struct.Struct("<qqIHBB")
"""time_ns i64, value i64, sequence u32, subscriber u16, unused u8, kind u8: 24 bytes."""

MAGIC = b"labkit ledger 1\n"
CHUNK = RECORD.size * 65536
"""A multiple of every platform's map granularity."""

BLOCK = RECORD.size * 4096
"""So much is read at one time of a ledger that is still written."""

NO_SEQUENCE = 2**32 - 1
EVERYONE = 2**16 - 1


class Kind(IntEnum):
    """What a record says; the comment gives the meaning of its value."""

    SENT = 1  # producer: the event was handed to the protocol; bytes
    FAILED = 2  # producer: one attempt at this delivery failed, others may follow; HTTP status, 0 without an answer
    REJECTED = 3  # producer: this delivery failed for good, and the producer knows; likewise
    RECEIVED = 4  # consumer: the event reached the application; CRC-32 of its bytes
    REPEATED = 5  # consumer: the event came again and was dropped by its id; CRC-32
    GAP = 6  # consumer: told that the events after this one are missing; the oldest that is still to be had
    CONNECTED = 7  # either side: this subscriber's connection is up; link: it accepted one; its number
    # (7 at the producer of a stream: the sequence is that of the id it was asked to go on after, if any)
    DISCONNECTED = 8  # either side: this subscriber's connection is lost
    UP = 9  # link: bytes relayed from consumer to producer; the sequence is the connection's number
    DOWN = 10  # link: bytes relayed from producer to consumer; likewise
    CUT = 11  # link, or the walk: the outage begins
    HEALED = 12  # likewise: the outage ends
    KERNEL_UP = 13  # link: the kernel's own count of what came from the consumer's side
    KERNEL_DOWN = 14  # link: the kernel's own count of what came from the producer's side
    ACCEPTED = 15  # producer: the event is in a durable log; bytes
    OVERFLOWED = 16  # either side: a subscriber too slow for its bounded queue was cut off, or missed this delivery
    REQUESTED = 17  # either side: an HTTP request was made, the one that opens a stream included


_RECEIVED = int(Kind.RECEIVED)


class Ledger:
    """A writer. `write` costs about a microsecond and never blocks on the disk.

    latest: the last sequence number that reached each subscriber. last_arrival_ns: when anything last arrived.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("x+b")
        self._size = 0
        self._map = self._grow()
        self._map[: len(MAGIC)] = MAGIC
        self._at = RECORD.size
        self.latest: dict[int, int] = {}
        self.last_arrival_ns = 0

    def write(self, kind: int, sequence: int = NO_SEQUENCE, subscriber: int = EVERYONE, value: int = 0) -> None:
        """Appends one record, stamped with `time.monotonic_ns()`."""
        self._append(monotonic_ns(), value, sequence, subscriber, kind)

    def _append(self, time_ns: int, value: int, sequence: int, subscriber: int, kind: int) -> None:
        if self._at == CHUNK:
            self._map.close()
            self._map = self._grow()
        RECORD.pack_into(self._map, self._at, time_ns, value, sequence, subscriber, 0, kind)
        self._at += RECORD.size

    def received(self, subscriber: int, sequence: int, raw: bytes) -> None:
        """Records an arrival, stamped before anything else is done; its sequence is -1 where the bytes are no event."""
        self.last_arrival_ns = time_ns = monotonic_ns()
        self._append(time_ns, crc32(raw), sequence & NO_SEQUENCE, subscriber, _RECEIVED)
        self.latest[subscriber] = sequence

    def repeated(self, subscriber: int, sequence: int, raw: bytes) -> None:
        """Records an arrival that the consumer dropped because it had seen the id before."""
        self.write(Kind.REPEATED, sequence & NO_SEQUENCE, subscriber, crc32(raw))
        self.last_arrival_ns = monotonic_ns()

    def close(self) -> None:
        """Cuts the file to what was written."""
        if not self._file.closed:
            used = self._size - CHUNK + self._at
            self._map.close()
            self._file.truncate(used)
            self._file.close()

    def _grow(self) -> mmap.mmap:
        """Maps the next chunk. Its place on the disk is reserved: a map without one ends its process with a SIGBUS."""
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._file.fileno(), self._size, CHUNK)
            else:
                self._file.truncate(self._size + CHUNK)
        except OSError as error:
            where = f"{self.path.name} of trial {self.path.parent.name.lstrip('.')}"
            raise NoRoomError(f"There is no room for the ledger {where} ({error.strerror}); free some disk.") from error
        chunk = mmap.mmap(self._file.fileno(), CHUNK, offset=self._size)
        self._size += CHUNK
        self._at = 0
        return chunk


class Retold(Ledger):
    """A writer of what was observed elsewhere: its records bear `time_ns`, set beforehand. Closed, it takes no more."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.time_ns = 0
        self._turn = Lock()

    def write(self, kind: int, sequence: int = NO_SEQUENCE, subscriber: int = EVERYONE, value: int = 0) -> None:
        with self._turn:
            if not self._file.closed:
                self._append(self.time_ns, value, sequence, subscriber, kind)

    def received(self, subscriber: int, sequence: int, raw: bytes) -> None:
        self.write(_RECEIVED, sequence & NO_SEQUENCE, subscriber, crc32(raw))
        self.last_arrival_ns, self.latest[subscriber] = self.time_ns, sequence

    def repeated(self, subscriber: int, sequence: int, raw: bytes) -> None:
        self.write(Kind.REPEATED, sequence & NO_SEQUENCE, subscriber, crc32(raw))
        self.last_arrival_ns = self.time_ns

    def close(self) -> None:
        with self._turn:
            super().close()


def read(path: Path) -> "np.ndarray":
    """The records of a ledger, in writing order, as a structured array.

    Fields: time_ns, value, sequence, subscriber, kind. UsageError when the file is missing or damaged.
    """
    import numpy as np

    fix = "restore the run folder, or run the comparison again into a new one"
    if not path.is_file():
        raise UsageError(f"The ledger {path.name} of trial {path.parent.name} is missing; {fix}.")
    raw = path.read_bytes()
    if not raw.startswith(MAGIC) or len(raw) % RECORD.size:
        raise UsageError(f"The ledger {path.name} of trial {path.parent.name} is damaged; {fix}.")
    records = np.frombuffer(raw, dtype())[1:]
    written = records["kind"] > 0
    if not written.all() and written[int(np.argmin(written)) :].any():
        raise UsageError(f"The ledger {path.name} of trial {path.parent.name} has a hole; {fix}.")
    return records[written]


def are(records: "np.ndarray", *kinds: Kind) -> "np.ndarray":
    """Which records are of one of these kinds: a mask.

    NumPy is handed plain numbers: what it asks of an enum's member runs Python, where it swallows a Ctrl-C.
    """
    return reduce(or_, (records["kind"] == int(kind) for kind in kinds))


class Tail:
    """A reader of a ledger that is still written: what it has read once, it does not read again."""

    def __init__(self, path: Path) -> None:
        import numpy as np

        self._path, self._at = path, RECORD.size
        self._records = np.empty(0, dtype())

    def read(self) -> "np.ndarray":
        """All records so far, as `read` gives them, up to the first that is not there, or not whole."""
        import numpy as np

        found = [self._records]
        with self._path.open("rb", buffering=0) as file:
            while True:
                file.seek(self._at)
                written = np.frombuffer(file.read(BLOCK), dtype())["kind"] > 0
                if not (count := len(written) if written.all() else int(np.argmin(written))):
                    break
                # Again: the writer may have been between what was read of a record first, and its kind.
                file.seek(self._at)
                found.append(np.frombuffer(file.read(count * RECORD.size), dtype()))
                self._at += count * RECORD.size
        self._records = np.concatenate(found)
        return self._records


def dtype() -> "np.dtype[np.void]":
    """One record."""
    import numpy as np

    return np.dtype(
        [("time_ns", "<i8"), ("value", "<i8"), ("sequence", "<u4"), ("subscriber", "<u2"), ("_", "u1"), ("kind", "u1")]
    )
