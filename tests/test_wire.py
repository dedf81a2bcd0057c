"""The wire's parts: bytes written by hand, each wire cut short at every byte, and bytes that mean nothing."""

from collections import Counter
from itertools import accumulate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from labkit.event import Event, encode
from labkit.wire import KINDS, WIRES, Part, parts

EVENT = encode(Event(7, "t0", 0, "x" * 60))
BIG = encode(Event(8, "t0", 0, "y" * 70_000))


def masked(opcode: int, payload: bytes, mask: bytes = b"\x01\x02\x03\x04") -> bytes:
    """A client's frame (RFC 6455 section 5.3)."""
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    hidden = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes([0x80 | opcode]) + size + mask + hidden


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


ASKS = b"GET /events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BLOCK = b"id: 00000007\ndata: " + EVENT + b"\n\n"
UPGRADES = b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n"
UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
POSTS = (
    b"POST /hooks/0 HTTP/1.1\r\nwebhook-id: 00000007\r\nWebhook-Signature: v1,abc=\r\nContent-Length: %d\r\n\r\n%s"
    % (len(EVENT), EVENT)
)
ANSWERS = b"HTTP/1.1 204 No Content\r\nDate: now\r\n\r\n"
STREAMS = {
    "request": ("http", ASKS),
    "event stream": ("http", STREAM + chunk(b"retry: 50\n\n") + chunk(BLOCK) + chunk(b":\n\n") + b"0\r\n\r\n"),
    "frames up": ("http", UPGRADES + masked(9, b"ab") + masked(1, EVENT) + masked(8, b"\x03\xe8")),
    "frames down": (
        "http",
        UPGRADED + b"\x81\x7e" + len(EVENT).to_bytes(2, "big") + EVENT + b"\x8a\x02ab" + b"\x01\x01[\x80\x01]",
    ),
    "post": ("http", POSTS * 2),
    "answers": ("http", ANSWERS + b"HTTP/1.1 304 Not Modified\r\nETag: \"7\"\r\n\r\n" + ANSWERS),
    "lines": ("http", b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s\n%s\n" % (2 * len(EVENT) + 2, EVENT, EVENT)),
    "trailers": ("http", CHUNKED + b"3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\n" + ANSWERS),
    "until the end": ("http", b"HTTP/1.1 200 OK\r\n\r\n" + EVENT),
    "broker": (
        "nats",
        b'INFO {"server_id":"A"} \r\nPONG\r\n+OK\r\n-ERR \'Slow Consumer\'\r\nPING\r\nMSG a.b 1 %d\r\n%s\r\n'
        b"HMSG a.b 1 $JS.ACK.s.c.1.1.1.1.0 35 %d\r\nNATS/1.0\r\nNats-Msg-Id: 00000007\r\n\r\n%s\r\n"
        % (len(EVENT), EVENT, 35 + len(EVENT), EVENT),
    ),
    "broker's client": (
        "nats",
        b'CONNECT {"verbose":false}\r\nPING\r\nSUB a.* 1\r\nUNSUB 1 5\r\nPUB a.b 0\r\n\r\n'
        b"PUB $JS.ACK.s.c.1 _I.x 4\r\n+ACK\r\n"
        b"HPUB a.b 35 %d\r\nNATS/1.0\r\nNats-Msg-Id: 00000007\r\n\r\n%s\r\n" % (35 + len(EVENT), EVENT),
    ),
}  # fmt: skip


def joined(found: list[Part]) -> bytes:
    return b"".join(part.raw for part in found)


def kinds(name: str) -> Counter[str]:
    wire, stream = STREAMS[name]
    return Counter(part.kind for part in parts(stream, wire))


def of(kind: str, found: list[Part]) -> list[bytes]:
    return [part.raw for part in found if part.kind == kind]


@pytest.mark.parametrize("name", STREAMS)
def test_the_parts_are_the_stream_and_every_part_has_a_name(name: str) -> None:
    wire, stream = STREAMS[name]
    found = parts(stream, wire)
    assert joined(found) == stream
    assert of("other", found) == []
    assert {part.kind for part in found} <= set(KINDS)
    assert all(part.raw for part in found)


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_ends_anywhere_still_adds_up_and_begins_as_the_whole_one_does(name: str) -> None:
    wire, stream = STREAMS[name]
    whole = parts(stream, wire)
    for size in range(len(stream)):
        found = parts(stream[:size], wire)
        assert joined(found) == stream[:size]
        # What the unfinished line is, is not known yet: it may be up to two parts of the whole.
        certain = max(0, sum(end <= size for end in _ends(whole)) - 2)
        assert found[:certain] == whole[:certain]


def _ends(found: list[Part]) -> list[int]:
    return list(accumulate(len(part.raw) for part in found))


def test_an_event_stream_is_chunks_of_lines() -> None:
    assert parts(STREAM + chunk(BLOCK), "http")[4:] == [
        Part("chunk", b"%x\r\n" % len(BLOCK), f"{len(BLOCK)} bytes follow"),
        Part("field", b"id: 00000007\n", "the cursor with which to come back"),
        Part("field", b"data: ", "what the application gets"),
        Part("event", EVENT, "number 7"),
        Part("field", b"\n", "the line ends"),
        Part("field", b"\n", "a blank line: dispatch what was said"),
        Part("chunk", b"\r\n", "the chunk ends"),
    ]
    assert kinds("event stream")["chunk"] == 2 * 3 + 1


def test_a_line_that_goes_on_in_the_next_chunk_keeps_its_name() -> None:
    found = parts(STREAM + chunk(b"data: {") + chunk(b"}\n\n") + chunk(b"nonsense\n"), "http")
    assert [part.kind for part in found[5:]] == [
        *("field", "payload", "chunk", "chunk", "payload", "field", "chunk", "chunk", "other", "chunk")
    ]  # fmt: skip


def test_a_clients_frames_are_unmasked_in_the_note_and_left_as_they_are_in_the_bytes() -> None:
    found = parts(UPGRADES + masked(9, b"ab") + masked(1, EVENT), "http")[4:]
    assert [(part.kind, part.note) for part in found[:4]] == [
        ("frame", "FIN, opcode 9: ping"),
        ("frame", "masked, 2 bytes follow"),
        ("mask", "XOR with each byte in turn"),
        ("payload", "masked ping; it reads 'ab'"),
    ]
    assert found[3].raw == bytes([0x61 ^ 1, 0x62 ^ 2])
    assert (found[-1].kind, len(found[-1].raw)) == ("event", len(EVENT))
    assert found[-1].raw != EVENT


def test_a_servers_frames_carry_the_event_as_it_is_in_one_of_three_ways_to_say_its_length() -> None:
    found = parts(UPGRADED + b"\x81\x7f" + len(BIG).to_bytes(8, "big") + BIG + b"\x81\x02{}", "http")[3:]
    assert found == [
        Part("frame", b"\x81", "FIN, opcode 1: text"),
        Part("frame", b"\x7f" + len(BIG).to_bytes(8, "big"), f"not masked, {len(BIG)} bytes follow"),
        Part("event", BIG, "number 8"),
        Part("frame", b"\x81", "FIN, opcode 1: text"),
        Part("frame", b"\x02", "not masked, 2 bytes follow"),
        Part("payload", b"{}", "text"),
    ]
    assert [part.note for part in parts(*reversed(STREAMS["frames down"])) if part.kind == "frame"][4:] == [
        *("not FIN, opcode 1: text", "not masked, 1 bytes follow"),
        *("FIN, opcode 0: continuation", "not masked, 1 bytes follow"),
    ]


def test_an_upgrade_that_is_refused_leaves_the_connection_to_http() -> None:
    assert Counter(part.kind for part in parts(UPGRADES + ASKS, "http"))["request"] == 2


def test_signatures_are_told_from_other_headers() -> None:
    assert kinds("post") == {"request": 2, "signature": 4, "header": 2, "blank": 2, "event": 2}
    assert of("signature", parts(POSTS, "http"))[1] == b"Webhook-Signature: v1,abc=\r\n"


def test_what_has_no_body_is_followed_by_the_next_answer() -> None:
    assert kinds("answers") == {"status": 3, "header": 3, "blank": 3}


def test_several_events_in_one_body_are_told_apart() -> None:
    assert of("event", parts(*reversed(STREAMS["lines"]))) == [EVENT, EVENT]
    assert kinds("lines")["blank"] == 1 + 2


def test_a_brokers_verbs_headers_and_payloads_are_told_apart() -> None:
    wire, stream = STREAMS["broker"]
    found = parts(stream, wire)
    assert [raw.split()[0] for raw in of("verb", found)] == [
        *(b"INFO", b"PONG", b"+OK", b"-ERR", b"PING", b"MSG", b"HMSG")
    ]
    assert of("header", found) == [b"NATS/1.0\r\n", b"Nats-Msg-Id: 00000007\r\n"]
    assert of("event", found) == [EVENT, EVENT]


def test_an_acknowledgement_is_told_from_other_publishing() -> None:
    wire, stream = STREAMS["broker's client"]
    found = parts(stream, wire)
    assert of("ack", found) == [b"PUB $JS.ACK.s.c.1 _I.x 4\r\n"]
    assert of("payload", found)[-1] == b"+ACK"
    assert of("event", found) == [EVENT]


@pytest.mark.parametrize(
    ("wire", "stream"),
    [
        ("http", b"\x16\x03\x01\x02\x00"),
        ("http", b"HTTP/2 200 OK\r\n"),
        ("nats", b"HELLO\r\n"),
        ("nats", b"\r\n"),
    ],
)
def test_what_has_no_name_is_kept_as_such(wire: str, stream: bytes) -> None:
    assert parts(stream, wire) == [Part("other", stream, "")]


def test_after_a_line_without_a_name_the_rest_is_read_again() -> None:
    found = parts(CHUNKED + b"zz\r\n" + ANSWERS, "http")
    assert [part.kind for part in found] == ["status", "header", "blank", "other", "status", "header", "blank"]


PIECES = st.sampled_from([
    *(STREAM, ASKS, UPGRADES, UPGRADED, POSTS, ANSWERS, BLOCK, EVENT, EVENT[:30], b"\r\n", b"\n", b"\r", b":"),
    *(b"5\r\n", b"ffffffffffffff\r\n", b"\x81", b"\xff" * 10, b"\x82\x7f" + b"\xff" * 8, b"data", b"data:"),
    *(b"MSG a 1 5\r\n", b"HMSG a 1 9 3\r\n", b"HPUB a x y\r\n", b"PUB\r\n", b"INFO\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Content-Length: -1\r\n"),
])  # fmt: skip


@pytest.mark.parametrize("wire", WIRES)
@given(pieces=st.lists(PIECES | st.binary(max_size=40)))
@example(
    pieces=[b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n", EVENT[:27] + b'00000007","data":' + b"[" * 100_000]
)
def test_whatever_comes_the_parts_add_up(wire: str, pieces: list[bytes]) -> None:
    stream = b"".join(pieces)
    found = parts(stream, wire)
    assert joined(found) == stream
    assert all(part.raw and part.kind in KINDS for part in found)


def test_every_kind_is_easy_to_read_and_to_tell_from_the_others() -> None:
    assert len({row.label for row in KINDS.values()}) == len(KINDS)
    assert all(row.source for row in KINDS.values())
