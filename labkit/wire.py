"""The wire: what one side of a connection sent, cut into named parts. Pure; no protocol of the lab is imported.

Promises that the parts of a stream, put together, are the stream, whatever it holds and wherever it ends. What has no
name is a part of kind "other". It judges nothing: a part's name says what the bytes are, not that they are right.
"""

import json
import re
from collections.abc import Callable
from io import BytesIO
from itertools import cycle
from typing import NamedTuple

from labkit.event import PREFIX, sequence_of


class Row(NamedTuple):
    """How a kind of part is called and drawn (Okabe and Ito's colours), and where it is specified."""

    label: str
    colour: str
    source: str


BLUE, SKY, GREEN, ORANGE, YELLOW = "#0072b2", "#56b4e9", "#009e73", "#e69f00", "#f0e442"
VERMILLION, PURPLE, SLATE, GREY = "#d55e00", "#cc79a7", "#57606a", "#8c959f"
KINDS = {
    "request": Row("request line", BLUE, "RFC 9112 section 3"),
    "status": Row("status line", VERMILLION, "RFC 9112 section 4"),
    "verb": Row("broker verb", BLUE, "NATS client protocol"),
    "ack": Row("acknowledgement", VERMILLION, "NATS, JetStream consumers: acknowledgement"),
    "header": Row("header", SKY, "RFC 9112 section 5; for NATS, ADR-4"),
    "signature": Row("signature header", PURPLE, "Standard Webhooks 1.0, webhook metadata"),
    "blank": Row("line end", GREY, "RFC 9112 section 2.1; NATS client protocol"),
    "chunk": Row("chunk frame", ORANGE, "RFC 9112 section 7.1"),
    "field": Row("stream field", YELLOW, "WHATWG HTML section 9.2.6"),
    "frame": Row("frame header", ORANGE, "RFC 6455 section 5.2"),
    "mask": Row("masking key", YELLOW, "RFC 6455 section 5.3"),
    "payload": Row("other payload", SLATE, "RFC 9112 section 6; RFC 6455 section 5.5"),
    "event": Row("the event", GREEN, "CloudEvents 1.0.2, JSON format"),
    "other": Row("not recognised", VERMILLION, "nothing that this view knows"),
}
"""Every kind of part. Of two with one colour, no stream of the lab has both."""


class Part(NamedTuple):
    """A run of bytes with one meaning. `note` adds to the kind's label; it may be empty."""

    kind: str
    raw: bytes
    note: str


HEADERS = {
    b"upgrade": "asks to leave HTTP, or agrees to",
    b"sec-websocket-key": "a nonce, which the answer has to show that it has read",
    b"sec-websocket-accept": "SHA-1 of the key and a fixed text: a WebSocket server answers",
    b"last-event-id": "the cursor: replay what came after",
    b"etag": "the version of what follows",
    b"if-none-match": "the version that is known: answer 304 if it still holds",
    b"prefer": "how long the answer may wait for news",
    b"transfer-encoding": "the length is not known yet: chunks follow",
    b"content-length": "where the body ends",
    b"x-hook-secret": "the handshake: it hands over the signing secret, and comes back as consent",
    b"nats-msg-id": "the id by which a stream drops repeats",
    b"webhook-id": "the event's id: by it the consumer drops repeats",
    b"webhook-timestamp": "when it was sent: an old one is a replay",
    b"webhook-signature": "HMAC-SHA256 over id, timestamp and body",
}
STATUSES = {101: "leaves HTTP: frames follow", 204: "no body", 304: "no body: nothing new"}
FIELDS = {
    b"id": "the cursor with which to come back",
    b"retry": "milliseconds to wait before reconnecting",
    b"data": "what the application gets",
    b"event": "the event's type",
    b"": "a comment: a sign of life",
}
OPCODES = {0: "continuation", 1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}
EXTENDED = {126: 2, 127: 8}
VERBS = {
    b"INFO": "the broker introduces itself",
    b"CONNECT": "the client introduces itself",
    b"SUB": "subject, the subscription's number",
    b"UNSUB": "the subscription's number",
    b"PING": "are you there?",
    b"PONG": "yes",
    b"+OK": "accepted",
    b"-ERR": "refused",
    b"PUB": "subject, where to answer, bytes that follow",
    b"HPUB": "subject, where to answer, bytes of headers, bytes in all",
    b"MSG": "subject, the subscription's number, where to answer, bytes that follow",
    b"HMSG": "subject, the subscription's number, where to answer, bytes of headers, bytes in all",
}
ACK = b"$JS.ACK."
SIZES = {b"PUB": 1, b"MSG": 1, b"HPUB": 2, b"HMSG": 2}
"""How many sizes end a verb's line: that of all that follows, and before it that of the headers."""

_REQUEST = re.compile(rb"[!-~]+ [!-~]+ HTTP/1\.[01]\r?\n")
_STATUS = re.compile(rb"HTTP/1\.[01] (\d\d\d)( [ -~]*)?\r?\n")
_HEADER = re.compile(rb"([!#-'*+.^-z|~0-9A-Z-]+):[\t -~\x80-\xff]*\r?\n")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(;[\t -~]*)?\r?\n")
_DATA = re.compile(rb"data: ?")
_JSON = json.JSONDecoder()


class _Cursor:
    """A place in a stream; `parts` is everything before it."""

    def __init__(self, stream: bytes) -> None:
        self._stream, self.at = stream, 0
        self.parts: list[Part] = []

    @property
    def left(self) -> int:
        return len(self._stream) - self.at

    def peek(self, size: int) -> bytes:
        return self._stream[self.at : self.at + size]

    def line(self) -> bytes:
        """The line that begins here, its end included; the rest of the stream where it has none."""
        return self._stream[self.at : (self._stream.find(b"\n", self.at) + 1) or None]

    def take(self, size: int, kind: str, note: str = "") -> None:
        """The next bytes become a part; fewer where the stream ends, none where there is nothing to take."""
        if raw := self.peek(size):
            self.parts.append(Part(kind, raw, note))
            self.at += len(raw)

    def end(self, kind: str, note: str) -> bool:
        """Takes a line end; False where there is none."""
        found = self.peek(2) == b"\r\n"
        self.take(2 * found, kind, note)
        return found

    def payload(self, size: int, note: str = "") -> None:
        """The next bytes are content: events, and what stands around them."""
        content = self.peek(size)
        while content:
            before = content.find(PREFIX)
            number = sequence_of(content[before:]) if before >= 0 else -1
            length = _json_length(content[before:]) if number >= 0 else 0
            if not length:
                before = len(content)
            self.take(before, "blank" if content[:before] == b"\n" else "payload", note)
            self.take(length, "event", f"number {number}")
            content = content[before + length :]


def _json_length(text: bytes) -> int:
    """Bytes of the JSON value that begins here; 0 where none does."""
    try:
        # One character for each byte, so that the end is counted in bytes.
        return _JSON.raw_decode(text.decode("latin-1"))[1]
    except (ValueError, RecursionError):
        return 0


def _http(cursor: _Cursor) -> None:
    """RFC 9112, one direction; RFC 6455 after an upgrade. A frame has no reserved bit set, a start line has."""
    upgraded = False
    while cursor.left:
        if upgraded and not cursor.peek(1)[0] & 0x70:
            _frame(cursor)
        else:
            upgraded = _message(cursor) or upgraded


def _message(cursor: _Cursor) -> bool:
    """One request or response; whether frames follow it."""
    line = cursor.line()
    status = _STATUS.fullmatch(line)
    if not status and not _REQUEST.fullmatch(line):
        cursor.take(len(line), "other")
        return False
    code = int(status[1]) if status else 0
    cursor.take(len(line), "status" if status else "request", STATUSES.get(code, ""))
    headers = _headers(cursor)
    if code in STATUSES:
        return code == 101
    if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
        _chunks(cursor, headers.get(b"content-type", b"").startswith(b"text/event-stream"))
    elif (length := headers.get(b"content-length", b"")).isdigit() and len(length) < 16:
        cursor.payload(int(length))
    elif code >= 200:
        cursor.payload(cursor.left, "up to the end of the connection")
    return not status and headers.get(b"upgrade", b"").lower() == b"websocket"


def _headers(cursor: _Cursor) -> dict[bytes, bytes]:
    """Header lines up to the blank one, which is taken too."""
    headers: dict[bytes, bytes] = {}
    while found := _HEADER.fullmatch(line := cursor.line()):
        name = found[1].lower()
        headers[name] = line.partition(b":")[2].strip()
        cursor.take(len(line), "signature" if name.startswith(b"webhook-") else "header", HEADERS.get(name, ""))
    cursor.end("blank", "the headers end")
    return headers


def _chunks(cursor: _Cursor, is_event_stream: bool) -> None:
    """RFC 9112 section 7.1: a size in hexadecimal digits, so many bytes, a line end; a size of 0 is the end."""
    unfinished = ""
    while found := _CHUNK.fullmatch(line := cursor.line()):
        size = int(found[1], 16)
        cursor.take(len(line), "chunk", f"{size} bytes follow" if size else "the last chunk")
        if not size:
            _headers(cursor)
            return
        if is_event_stream:
            unfinished = _fields(cursor, size, unfinished)
        else:
            cursor.payload(size)
        if not cursor.end("chunk", "the chunk ends"):
            return


def _fields(cursor: _Cursor, size: int, unfinished: str) -> str:
    """WHATWG HTML section 9.2.6, lines that end in LF; returns the kind of a line that the next chunk goes on with."""
    for line in BytesIO(cursor.peek(size)):
        name = line.partition(b":")[0]
        if unfinished:
            cursor.take(len(line), unfinished, "goes on")
        elif line == b"\n":
            cursor.take(1, "field", "a blank line: dispatch what was said")
        elif found := _DATA.match(line):
            cursor.take(found.end(), "field", FIELDS[name])
            cursor.payload(len(line.rstrip(b"\n")) - found.end())
            cursor.take(line.endswith(b"\n"), "field", "the line ends")
        else:
            cursor.take(len(line), "field" if name in FIELDS else "other", FIELDS.get(name, ""))
        unfinished = "" if line.endswith(b"\n") else cursor.parts[-1].kind
    return unfinished


def _frame(cursor: _Cursor) -> None:
    """RFC 6455 section 5.2: FIN and opcode, mask bit and length, masking key, payload."""
    first, second = (cursor.peek(2) + b"\0\0")[:2]
    opcode, size, extended = first & 0x0F, second & 0x7F, EXTENDED.get(second & 0x7F, 0)
    what = OPCODES.get(opcode, "reserved")
    cursor.take(1, "frame", f"{'FIN' if first & 0x80 else 'not FIN'}, opcode {opcode}: {what}")
    size = int.from_bytes(cursor.peek(1 + extended)[1:], "big") if extended else size
    cursor.take(1 + extended, "frame", f"{'masked' if second & 0x80 else 'not masked'}, {size} bytes follow")
    if second & 0x80:
        mask = cursor.peek(4)
        cursor.take(4, "mask", "XOR with each byte in turn")
        plain = bytes(byte ^ key for byte, key in zip(cursor.peek(size), cycle(mask), strict=False))
        kind = "event" if sequence_of(plain) >= 0 else "payload"
        cursor.take(size, kind, f"masked {what}; it reads {plain[:60].decode('latin-1')!r}{'...' * (len(plain) > 60)}")
    else:
        cursor.payload(size, what)


def _nats(cursor: _Cursor) -> None:
    """The NATS client protocol: a verb and its arguments on one line, then a payload where they end in its size."""
    while cursor.left:
        line = cursor.line()
        verb, *arguments = line.split() or [b""]
        if verb not in VERBS or not line.endswith(b"\r\n"):
            cursor.take(len(line), "other")
        elif verb in (b"INFO", b"CONNECT", b"-ERR"):
            cursor.take(len(verb), "verb", VERBS[verb])
            cursor.payload(len(line) - len(verb) - 2)
            cursor.end("blank", "the line ends")
        else:
            is_ack = verb == b"PUB" and bool(arguments) and arguments[0].startswith(ACK)
            cursor.take(len(line), "ack" if is_ack else "verb", "it need not come again" if is_ack else VERBS[verb])
            if verb in SIZES:
                _content(cursor, arguments[-SIZES[verb] :])


def _content(cursor: _Cursor, sizes: list[bytes]) -> None:
    """Headers (ADR-4), payload and line end."""
    if not sizes or not all(size.isdigit() and len(size) < 16 for size in sizes):
        return
    total = int(sizes[-1])
    of_headers = min(int(sizes[0]), total) if len(sizes) == 2 else 0
    for line in BytesIO(cursor.peek(of_headers)):
        name = line.partition(b":")[0].lower()
        is_blank = not line.strip()
        cursor.take(len(line), "blank" if is_blank else "header", HEADERS.get(name, "the headers end" * is_blank))
    cursor.payload(total - of_headers)
    cursor.end("blank", "the message ends")


WIRES: dict[str, Callable[[_Cursor], None]] = {"http": _http, "nats": _nats}


def parts(stream: bytes, wire: str) -> list[Part]:
    """The parts of one direction of a connection, from its first byte on; `wire` is a name in `WIRES`."""
    cursor = _Cursor(stream)
    WIRES[wire](cursor)
    return cursor.parts
