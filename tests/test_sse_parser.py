"""The event stream interpretation, against the clauses and the examples of WHATWG HTML, section 9.2.6."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from labkit.event import Event, encode
from labkit.protocols.sse import HEARTBEAT, Message, Parser, frame


def parse(*chunks):
    parser = Parser()
    return [message for chunk in chunks for message in parser.feed(chunk)]


def data(stream):
    """The data of every message, which are all of the default type."""
    messages = parse(stream)
    assert {message.event for message in messages} <= {"message"}
    return [message.data for message in messages]


def retry(stream):
    parser = Parser()
    list(parser.feed(stream))
    return parser.retry


def test_the_first_example_of_the_standard_is_one_message_of_three_lines():
    assert parse(b"data: YHOO\ndata: +2\ndata: 10\n\n") == [Message("message", b"YHOO\n+2\n10", "")]


def test_the_example_with_ids_dispatches_three_messages_and_resets_the_id():
    stream = b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n"
    assert parse(stream) == [
        Message("message", b"first event", "1"),
        Message("message", b"second event", ""),
        Message("message", b" third event", ""),
    ]


def test_the_example_with_empty_data_dispatches_an_empty_message_and_a_newline_but_not_the_unfinished_one():
    assert data(b"data\n\ndata\ndata\n\ndata:") == [b"", b"\n"]


def test_the_example_with_and_without_a_space_dispatches_two_equal_messages():
    assert data(b"data:test\n\ndata: test\n\n") == [b"test", b"test"]


def test_only_one_leading_space_is_removed_and_nothing_else():
    assert data(b"data:  two\n\ndata:\ttab\n\ndata: end \n\n") == [b" two", b"\ttab", b"end "]


def test_comments_dispatch_nothing_and_leave_the_block_alone():
    assert parse(b":\n\n: x\n\n:data: no\n\n") == []
    assert data(b": before\ndata: a\n:between\ndata: b\n: after\n\n") == [b"a\nb"]
    assert parse(HEARTBEAT) == []


def test_a_colon_within_the_value_belongs_to_the_value():
    assert data(b"data: a:b: c\n\ndata::\n\n") == [b"a:b: c", b":"]


@pytest.mark.parametrize(
    "line", [b"Data: x", b"DATA: x", b" data: x", b"data : x", b"dat: x", b"datax", b"\tdata: x", b"x"]
)
def test_field_names_are_matched_to_the_letter_and_others_are_ignored(line):
    assert data(line + b"\n\n" + line + b"\ndata: y\n\n") == [b"y"]


def test_a_field_without_colon_has_the_empty_value():
    assert parse(b"event: e\nevent\nid: 4\nid\ndata\n\n") == [Message("message", b"", "")]


def test_event_names_hold_for_one_block_and_the_last_one_counts():
    stream = b"event: add\ndata: 1\n\ndata: 2\n\nevent: a\ndata: 3\nevent: b\n\n"
    assert [message.event for message in parse(stream)] == ["add", "message", "b"]


def test_an_empty_event_name_is_the_default_one():
    assert [message.event for message in parse(b"event: a\nevent:\ndata: 1\n\nevent: \ndata: 2\n\n")] == [
        "message",
        "message",
    ]


def test_a_block_without_data_dispatches_nothing_and_its_event_name_is_forgotten():
    assert parse(b"event: ghost\n\ndata: x\n\n") == [Message("message", b"x", "")]


def test_an_id_stays_until_another_one_comes():
    stream = b"id: 1\ndata: a\n\ndata: b\n\nid: 2\nid: 3\ndata: c\n\n"
    assert [message.id for message in parse(stream)] == ["1", "1", "3"]


def test_a_block_without_data_still_sets_the_id():
    assert parse(b"id: 9\n\ndata: a\n\n") == [Message("message", b"a", "9")]


@pytest.mark.parametrize("value", [b"\0", b"2\0", b"\x002", b"2\x003"])
def test_an_id_with_a_null_is_ignored(value):
    assert parse(b"id: 1\ndata: a\n\nid: " + value + b"\ndata: b\n\n")[1] == Message("message", b"b", "1")


def test_names_and_ids_are_utf_8_and_what_is_not_is_replaced():
    assert parse("event: zoë\nid: ß\ndata: ü\n\n".encode()) == [Message("zoë", "ü".encode(), "ß")]
    assert parse(b"event: \xff\nid: \xfe\ndata: a\n\n") == [Message("\ufffd", b"a", "\ufffd")]


def test_data_are_kept_byte_by_byte():
    every = bytes(value for value in range(256) if value not in b"\r\n")
    assert data(b"data: " + every + b"\n\n") == [every]


@pytest.mark.parametrize(("value", "milliseconds"), [(b"10", 10), (b" 3000", 3000), (b"0", 0), (b"007", 7)])
def test_retry_sets_the_reconnection_time(value, milliseconds):
    assert retry(b"retry:" + value + b"\n\n") == milliseconds


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b"-1",
        b"+1",
        b"1.5",
        b"1e3",
        b"10 ",
        b"  10",
        b"1_000",
        b"ten",
        "٣".encode(),
        "²".encode(),
        "１".encode(),
    ],
)
def test_a_retry_of_anything_but_ascii_digits_is_ignored(value):
    assert retry(b"retry: " + value + b"\n\n") is None
    assert retry(b"retry: 5\n\nretry: " + value + b"\n\n") == 5


def test_a_retry_of_thousands_of_digits_does_not_break_the_stream():
    assert data(b"retry: " + b"9" * 5000 + b"\ndata: a\n\n") == [b"a"]


def test_retry_counts_from_its_line_on_even_when_the_block_is_never_finished():
    assert retry(b"retry: 10\n") == 10


def test_retry_is_unset_at_first_and_dispatches_nothing():
    assert Parser().retry is None
    assert parse(b"retry: 10\n\n") == []


def test_one_byte_order_mark_at_the_very_start_is_dropped():
    mark = b"\xef\xbb\xbf"
    assert data(mark + b"data: a\n\n") == [b"a"]
    assert data(mark + mark + b"data: a\n\ndata: b\n\n") == [b"b"]
    assert data(b"data: a\n\n" + mark + b"data: b\n\ndata: c\n\n") == [b"a", b"c"]
    assert data(b"data: " + mark + b"a\n\n") == [mark + b"a"]


def test_what_only_begins_like_a_byte_order_mark_is_kept():
    assert data(b"\xef\xbbdata: a\n\ndata: b\n\n") == [b"b"]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"], ids=["LF", "CR", "CRLF"])
def test_every_line_end_of_the_standard_ends_lines_and_blocks(end):
    lines = [b"event: e", b"id: 1", b"data: a", b"data: b", b"", b": comment", b"data: c", b"", b"", b"data: d", b""]
    stream = b"".join(line + end for line in lines) + b":"
    assert parse(stream) == [Message("e", b"a\nb", "1"), Message("message", b"c", "1"), Message("message", b"d", "1")]


def test_line_ends_may_be_mixed():
    assert data(b"data: a\r\n\ndata: b\n\r\ndata: c\r\n\r\ndata: d\n\r:") == [b"a", b"b", b"c", b"d"]
    assert data(b"data: a\rdata: b\ndata: c\r\n\n") == [b"a\nb\nc"]


@pytest.mark.parametrize("blank", [b"\r\r", b"\n\r", b"\r\n\r"], ids=["CR CR", "LF CR", "CRLF CR"])
def test_a_carriage_return_ends_a_block_at_once_whatever_may_follow(blank):
    assert data(b"data: a" + blank) == [b"a"]
    assert [m.data for m in parse(b"data: a" + blank, b"\ndata: b\n\n")] == [b"a", b"b"]


@pytest.mark.parametrize("text", ["a\u2028b", "a\u2029b", "a\u0085b", "a\vb", "a\fb", "a\x1cb", "a\x1db", "a\x1eb"])
def test_no_other_character_ends_a_line(text):
    raw = text.encode()
    assert data(b"data: " + raw + b"\n\n") == [raw]
    assert parse(b"id: " + raw + b"\nevent: " + raw + b"\ndata: x\n\n") == [Message(text, b"x", text)]


@pytest.mark.parametrize("rest", [b"", b"data: b", b"data: b\n", b"id: 2\ndata: b\r\n", b"\n\ndata: b\nda"])
def test_a_block_that_the_end_of_the_stream_cuts_off_is_not_dispatched(rest):
    assert parse(b"id: 1\ndata: a\n\n" + rest) == [Message("message", b"a", "1")]


def test_blank_lines_dispatch_nothing():
    assert parse(b"\n\n\n\n\r\n\r\n\r\r") == []
    assert data(b"\n\n\ndata: a\n\n\n\n\ndata: b\n\n") == [b"a", b"b"]


def test_an_empty_chunk_changes_nothing():
    assert [m.data for m in parse(b"", b"data: a", b"", b"\n", b"", b"\n", b"")] == [b"a"]


def test_a_message_is_dispatched_with_the_chunk_that_completes_it():
    parser = Parser()
    assert list(parser.feed(b"data: a\n")) == []
    assert [m.data for m in parser.feed(b"\ndata: b")] == [b"a"]
    assert [m.data for m in parser.feed(b"\r\n\r\n")] == [b"b"]


PIECES = [
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b"\r\r", b":", b": ", b" ", b"\0", b"\xef\xbb\xbf", b"\xff"),
    *(b"data", b"data: ", b"data:", b"event: ", b"id: ", b"id", b"retry: ", b"12", b"x", b"data: y\n\n"),
    *("\u2028".encode(), "\u0085".encode(), "ü".encode()),
]
STREAMS = st.one_of(st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join), st.binary(max_size=60))


def lines_of(stream):
    """The lines that the stream has ended, read character by character as the grammar has it."""
    stream, lines, line, at = stream.removeprefix(b"\xef\xbb\xbf"), [], bytearray(), 0
    while at < len(stream):
        if stream[at] in b"\r\n":
            at += 2 if stream[at : at + 2] == b"\r\n" else 1
            lines.append(bytes(line))
            line.clear()
        else:
            line.append(stream[at])
            at += 1
    return lines


def by_the_book(stream):
    """The steps of section 9.2.6, one line after the other."""
    kept, event, last_id, messages = bytearray(), b"", b"", []
    for line in lines_of(stream):
        name, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if not line:
            if kept:
                messages.append(
                    Message(
                        event.decode(errors="replace") or "message", bytes(kept[:-1]), last_id.decode(errors="replace")
                    )
                )
            kept, event = bytearray(), b""
        elif name == b"event":
            event = value
        elif name == b"data":
            kept += value + b"\n"
        elif name == b"id" and b"\0" not in value:
            last_id = value
    return messages


@given(STREAMS)
@settings(max_examples=300, deadline=None)
def test_every_stream_is_read_as_the_steps_of_the_standard_read_it(stream):
    # Closed by a comment, so that no message hangs on whether a last CR is half of a CRLF.
    assert parse(stream + b"\n:") == by_the_book(stream + b"\n:")


@given(STREAMS, st.lists(st.integers(0, 200), max_size=8))
@example(b"data: a\r\n\r\ndata: b\r\n\r\n", [8, 10, 20])
@example(b"\xef\xbb\xbfdata: a\n\n", [1, 2])
@example(b"data: a\r\rdata: b\r\r", [8, 9])
@settings(max_examples=300, deadline=None)
def test_any_chunking_gives_the_same_messages(stream, cuts):
    cuts = sorted(min(cut, len(stream)) for cut in cuts)
    chunks = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    whole, split = Parser(), Parser()
    messages = list(whole.feed(stream))
    assert [message for chunk in chunks for message in split.feed(chunk)] == messages
    assert split.retry == whole.retry
    assert list(split.feed(b":\n\n\ndata: on\n\n")) == list(whole.feed(b":\n\n\ndata: on\n\n"))


@given(STREAMS)
@settings(max_examples=100, deadline=None)
def test_byte_by_byte_gives_the_same_messages(stream):
    assert parse(*(stream[at : at + 1] for at in range(len(stream)))) == parse(stream)


def test_a_frame_is_one_block_with_event_then_id_then_data():
    assert frame(b"{}") == b"data: {}\n\n"
    assert frame(b"{}", "00000007") == b"id: 00000007\ndata: {}\n\n"
    assert frame(b"{}", "7", "gap") == b"event: gap\nid: 7\ndata: {}\n\n"


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1, max_size=10).filter(
    lambda name: not name.startswith(" ")
)
LINES = st.binary(max_size=40).map(lambda raw: raw.replace(b"\r", b"").replace(b"\n", b""))


@given(st.lists(st.tuples(LINES, NAMES, st.none() | NAMES), max_size=5))
@settings(max_examples=100, deadline=None)
def test_what_was_framed_is_what_is_parsed(blocks):
    stream = b"".join(frame(raw, event_id, event) for raw, event_id, event in blocks)
    assert parse(stream) == [Message(event or "message", raw, event_id) for raw, event_id, event in blocks]


@given(st.text(), st.integers(0, 10**8 - 1))
@settings(max_examples=100, deadline=None)
def test_an_event_of_the_lab_comes_out_of_its_frame_unchanged_whatever_its_data(text, sequence):
    raw = encode(Event(sequence, "t0", 0, text))
    assert data(frame(raw)) == [raw]
