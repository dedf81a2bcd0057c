"""The envelope: a CloudEvents 1.0 event in its JSON format, in one canonical byte form.

The bytes depend on nothing but the event, so they are identical in every protocol.
Source: CloudEvents 1.0.2, "Context Attributes", and the JSON Event Format 1.0.2.
"""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

ID_DIGITS = 8
SOURCE = "/labkit"
GAP_TYPE = "labkit.gap"
TOPIC = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")

PREFIX = b'{"specversion":"1.0","id":"'
_ID_END = len(PREFIX) + ID_DIGITS
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `sequence` becomes the id, `topic` the type, `offset_ns` (from the workload's own zero) the time."""

    sequence: int
    topic: str
    offset_ns: int
    data: Any


def encode(event: Event) -> bytes:
    """The event as compact JSON, attributes in a fixed order, pure ASCII. ValueError for data that JSON cannot hold."""
    time = (_EPOCH + timedelta(microseconds=event.offset_ns // 1000)).isoformat(timespec="microseconds")
    body = {"source": SOURCE, "type": event.topic, "time": time[:-6] + "Z", "data": event.data}
    rest = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
    return b'%s%0*d",%s' % (PREFIX, ID_DIGITS, event.sequence, rest[1:])


def decode(raw: bytes) -> Event:
    """The event behind canonical bytes; ValueError when they are not such an event."""
    sequence = sequence_of(raw)
    if sequence < 0:
        raise ValueError("not an event of this lab: " + repr(raw[:40]))
    try:
        fields = json.loads(raw)
        since = datetime.fromisoformat(fields["time"]) - _EPOCH
        return Event(sequence, fields["type"], since // timedelta(microseconds=1) * 1000, fields["data"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"event {sequence} has no proper {error}") from None


def sequence_of(raw: bytes) -> int:
    """The sequence number in canonical bytes without parsing the rest, or -1 where there is none."""
    digits = raw[len(PREFIX) : _ID_END]
    if raw.startswith(PREFIX) and raw[_ID_END : _ID_END + 1] == b'"' and digits.isdigit():
        return int(digits)
    return -1


def encode_id(sequence: int) -> str:
    """The id of an event, as it stands in the envelope and in every protocol's cursor."""
    return f"{sequence:0{ID_DIGITS}d}"


def decode_id(text: str) -> int | None:
    """The sequence number behind an id, or None when the text is not an id of this lab."""
    return int(text) if len(text) == ID_DIGITS and text.isascii() and text.isdigit() else None


def encode_gap(after: int, oldest: int) -> bytes:
    """The explicit gap signal: what followed `after` is gone, the oldest event still kept is `oldest`."""
    data = {"after": encode_id(after), "oldest": encode_id(oldest)}
    gap_id = f"gap-{data['after']}-{data['oldest']}"
    # The id does not come first, as it does in every event: so one is told from the other at a glance.
    body = {"specversion": "1.0", "type": GAP_TYPE, "source": SOURCE, "id": gap_id, "data": data}
    return json.dumps(body, separators=(",", ":")).encode()


def decode_gap(raw: bytes) -> tuple[int, int] | None:
    """(after, oldest) of a gap signal, or None when the bytes are anything else."""
    if raw.startswith(PREFIX):
        return None
    try:
        signal = json.loads(raw)
        if signal["type"] != GAP_TYPE:
            return None
        data = signal["data"]
        after, oldest = decode_id(data["after"]), decode_id(data["oldest"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return None if after is None or oldest is None else (after, oldest)
