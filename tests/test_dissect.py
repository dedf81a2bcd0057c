"""Anatomy: the parts of a real exchange add up to what the link counted, and the event is one of them."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import product

import numpy as np
import psutil
import pytest

from labkit.dissect import DIRECTIONS, PHASES, Anatomy, _row, _tint, anatomy, cut
from labkit.dissect import count as link_count
from labkit.errors import UsageError
from labkit.ledger import Kind
from labkit.protocols import PROTOCOLS
from labkit.wire import KINDS
from labkit.workload import Workload

CELLS = list(product(PHASES, DIRECTIONS))
MARKS = {"setup": 100, "warmup": 200, "load": 300, "settle": 350, "settled": 400, "stop": 500}


def event(size: int = 256) -> str:
    """The one event, as every trial of this seed offers it."""
    return Workload(rate=10, duration=0.1, size=size, subscribers=1).schedule()[0].raw.decode()


def check(found: Anatomy, size: int = 256) -> None:
    """What holds for every anatomy."""
    parts = found.parts
    sums = parts.groupby(["phase", "direction"])["bytes"].sum().to_dict()
    for cell in CELLS:
        assert found.total(*cell) == found.counted(*cell) == sums.get(cell, 0)
    assert set(parts["kind"]) <= set(KINDS) - {"other"}
    assert parts[(parts["phase"] == "event") & (parts["kind"] == "event")]["text"].tolist() == [event(size)]
    assert found.counted("event", "down") > size


@pytest.mark.parametrize("guarantee", ["at-most-once", "at-least-once"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_parts_add_up_to_the_links_own_count_and_hold_the_event(protocol: str, guarantee: str) -> None:
    check(anatomy(protocol, guarantee))


@pytest.mark.parametrize("protocol", ["pubsub", "resthooks"])
def test_a_durable_log_is_no_part_of_the_link_and_its_exchange_adds_up_too(protocol: str) -> None:
    check(anatomy(protocol, "durable"))


def test_an_event_of_any_size_is_counted_whole_and_shown_shortened() -> None:
    found = anatomy("websocket", size=100_000)
    check(found, 100_000)
    assert max(map(len, str(found).splitlines())) < 200
    assert len(found._repr_html_()) < 50_000
    assert "[...]" in str(found)


@pytest.fixture(scope="module")
def sse() -> Anatomy:
    return anatomy("sse", "at-least-once")


def test_each_protocol_shows_what_makes_it_what_it_is(sse: Anatomy) -> None:
    found = {
        "sse": sse,
        **{name: anatomy(name, "at-least-once") for name in ("websocket", "webhook", "pubsub")},
    }
    said = {name: set(one.parts[one.parts["phase"] == "event"]["text"]) for name, one in found.items()}
    assert {"id: 00000010\\n", "data: "} <= said["sse"]
    assert {"81", "7e 01 00"} <= said["websocket"]
    assert any(text.startswith("webhook-signature: v1,") for text in said["webhook"])
    assert any(text.startswith("PUB $JS.ACK.") for text in said["pubsub"])


def test_a_poll_that_finds_nothing_new_is_seen_too() -> None:
    # On a machine that stalls in just that moment, it comes too late.
    tries = (set(anatomy("polling", guarantee).parts["text"]) for guarantee in ["at-most-once", "at-least-once"] * 3)
    assert any("HTTP/1.1 304 Not Modified\\r\\n" in said for said in tries)


def test_a_row_says_which_connection_and_direction_and_what(sse: Anatomy) -> None:
    parts = sse.parts
    assert parts.columns.tolist() == ["phase", "direction", "connection", "kind", "note", "bytes", "text"]
    first = parts.iloc[0]
    assert (first["phase"], first["direction"], first["connection"], first["kind"]) == ("setup", "up", 1, "request")
    assert (first["text"], first["bytes"]) == ("GET /events HTTP/1.1\\r\\n", 22)
    assert parts["phase"].drop_duplicates().tolist() == ["setup", "event"]


def test_in_a_terminal_every_part_is_a_line_with_its_bytes_and_colour_comes_when_asked_for(sse: Anatomy) -> None:
    plain, coloured = str(sse), sse.text(colour=True)
    counts = [int(found.replace(",", "")) for found in re.findall(r"^ {0,6}([\d,]+)  \w", plain, re.M)]
    assert counts == sse.parts["bytes"].tolist()
    assert plain.isascii()
    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain
    assert f"{sse.counted('event', 'down')} counted by the link" in plain
    assert max(map(len, plain.splitlines())) < 160


class Page(HTMLParser):
    """The words of a page, its coloured spans' titles, and its tags in balance."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.titles: list[str] = []
        self.styles: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        found = dict(attributes)
        self.styles.append(found.get("style") or "")
        if found.get("title"):
            self.titles.append(found["title"] or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_is_complete_in_itself_and_says_in_words_what_it_says_in_colour(sse: Anatomy) -> None:
    source = sse._repr_html_()
    page = Page(source)
    assert page.open == []
    assert not re.search(r"<script|<link|<style|https?:|url\(", source)
    parts = sse.parts
    assert [int(re.findall(r"([\d,]+) bytes", title)[0].replace(",", "")) for title in page.titles] == parts[
        "bytes"
    ].tolist()
    for kind in set(parts["kind"]):
        assert KINDS[kind].label in page.words
        assert KINDS[kind].source in page.words
    assert event() in page.words
    for phase, direction in CELLS:
        words = f"{DIRECTIONS[direction]}: {sse.total(phase, direction):,} bytes in parts"
        assert words in page.words


def test_dark_text_on_every_kinds_colour_is_easy_to_read() -> None:
    def luminance(colour: list[int]) -> float:
        parts = [value / 255 for value in colour]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    ink = luminance([0x1B, 0x1F, 0x24])
    for kind in KINDS:
        assert (luminance(_tint(kind)) + 0.05) / (ink + 0.05) >= 4.5


def test_what_is_in_a_stream_is_no_part_of_the_pages_own_language() -> None:
    asks = b"GET /<b>&amp; HTTP/1.1\r\n"
    (piece,) = cut(crossed([(1, Kind.UP, 310, asks)]), asks, MARKS, "http")
    assert "<b>" not in _row(piece)
    assert "GET /&lt;b&gt;&amp;amp; HTTP/1.1" in _row(piece)


def crossed(chunks: list[tuple[int, Kind, int, bytes]]) -> np.ndarray:
    """The link's records of (connection, direction, time, bytes)."""
    dtype = [("time_ns", "<i8"), ("value", "<i8"), ("sequence", "<u4"), ("subscriber", "<u2"), ("kind", "u1")]
    return np.array([(at, len(raw), number, 0, kind) for number, kind, at, raw in chunks], dtype)


def pieces(chunks: list[tuple[int, Kind, int, bytes]]) -> list[tuple[str, str, int, str, bytes]]:
    found = cut(crossed(chunks), b"".join(chunk[3] for chunk in chunks), MARKS, "nats")
    sums = link_count(crossed(chunks), MARKS)
    for cell in CELLS:
        assert sums[cell] == sum(len(piece.raw) for piece in found if (piece.phase, piece.direction) == cell)
    return [(piece.phase, piece.direction, piece.connection, piece.kind, piece.raw) for piece in found]


def test_connections_and_directions_are_read_apart_and_shown_in_the_order_of_time() -> None:
    assert pieces([
        (1, Kind.DOWN, 100, b"PI"), (2, Kind.UP, 110, b"PON"), (1, Kind.DOWN, 120, b"NG\r\nPONG\r\n"),
        (2, Kind.UP, 130, b"G\r\n"), (2, Kind.DOWN, 300, b"+OK\r\n"), (1, Kind.UP, 310, b"PING\r\n"),
    ]) == [
        ("setup", "down", 1, "verb", b"PING\r\n"), ("setup", "up", 2, "verb", b"PONG\r\n"),
        ("setup", "down", 1, "verb", b"PONG\r\n"),
        ("event", "down", 2, "verb", b"+OK\r\n"), ("event", "up", 1, "verb", b"PING\r\n"),
    ]  # fmt: skip


def test_what_lies_between_the_phases_is_read_and_left_out() -> None:
    assert pieces([
        (1, Kind.DOWN, 99, b"PING\r\n"), (1, Kind.DOWN, 199, b"PONG\r\n"),
        (1, Kind.DOWN, 200, b"PING\r\nMSG a 1 2\r\n"), (1, Kind.DOWN, 299, b"a"),
        (1, Kind.DOWN, 300, b"b\r\n"), (1, Kind.DOWN, 399, b"PONG\r\n"), (1, Kind.DOWN, 400, b"PING\r\n"),
    ]) == [
        ("setup", "down", 1, "verb", b"PONG\r\n"), ("event", "down", 1, "payload", b"b"),
        ("event", "down", 1, "blank", b"\r\n"), ("event", "down", 1, "verb", b"PONG\r\n"),
    ]  # fmt: skip


def test_a_part_that_reaches_from_one_phase_into_another_is_divided_between_them() -> None:
    assert pieces([
        (1, Kind.UP, 190, b"PUB a 9\r\nab"), (1, Kind.UP, 195, b"c"), (1, Kind.UP, 250, b"de"),
        (1, Kind.UP, 310, b"fg"), (1, Kind.UP, 390, b"h"), (1, Kind.UP, 410, b"i\r\n"),
    ]) == [
        ("setup", "up", 1, "verb", b"PUB a 9\r\n"), ("setup", "up", 1, "payload", b"abc"),
        ("event", "up", 1, "payload", b"fgh"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"protocol": "carrier pigeon"}, "There is no protocol 'carrier pigeon'; choose from websocket"),
        ({"protocol": "sse", "guarantee": "twice"}, "There is no guarantee 'twice'; choose from at-most-once"),
        ({"protocol": "sse", "size": 3}, "size is 3; it has to be a whole number from"),
        ({"protocol": "sse", "size": "big"}, "size is 'big'; it has to be a whole number from"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(arguments: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        anatomy(**arguments)  # type: ignore[arg-type]


def test_a_phase_or_direction_that_does_not_exist_is_named(sse: Anatomy) -> None:
    with pytest.raises(UsageError, match=r"There is no 'idle' here; choose from setup, event\."):
        sse.total("idle", "up")
    with pytest.raises(UsageError, match=r"There is no 'left' here; choose from up, down\."):
        sse.counted("event", "left")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT can be sent to a single process there")
def test_ctrl_c_ends_it_and_all_that_it_started(until: Callable[..., None]) -> None:
    command = [sys.executable, "-m", "labkit", "anatomy", "pubsub", "--guarantee", "durable"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        me = psutil.Process(process.pid)
        until(lambda: any("nats" in child.name() for child in me.children(recursive=True)))
        started = me.children(recursive=True)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (130, "\nlabkit: stopped.\n")
    assert psutil.wait_procs(started, timeout=10)[1] == []


def test_the_command_prints_plain_text_where_nobody_looks() -> None:
    run = [sys.executable, "-m", "labkit", "anatomy", "webhook", "--guarantee", "at-least-once", "--size", "300"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60, encoding="utf-8")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Webhook, at-least-once: one event of 300 bytes\n")
    assert "\x1b" not in done.stdout
    done = subprocess.run([*run[:4], "gopher"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("labkit: There is no protocol 'gopher'")
