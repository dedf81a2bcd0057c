import json
import math
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.event import Event, decode, decode_gap, decode_id, encode, encode_gap, encode_id, sequence_of

# A busy machine must not fail a test.
SOME = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])

SEQUENCES = st.integers(0, 99_999_999)
WORDS = st.text("ab0Z_-", min_size=1, max_size=6)
TOPICS = st.lists(WORDS, min_size=1, max_size=3).map(".".join)
MICROSECONDS = st.integers(0, 3600 * 10**6)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
EVENTS = st.builds(
    lambda sequence, topic, micros, data: Event(sequence, topic, micros * 1000, data),
    SEQUENCES,
    TOPICS,
    MICROSECONDS,
    JSON_VALUES,
)
WHOLE = encode(Event(7, "t0", 5_000, "hello"))


def not_json(name):
    raise AssertionError(f"{name} is not JSON")


@SOME
@given(EVENTS)
def test_the_bytes_are_a_cloudevent_in_ascii_json_with_every_required_attribute(event):
    raw = encode(event)
    assert raw.isascii()
    fields = json.loads(raw, parse_constant=not_json)
    assert fields.keys() == {"specversion", "id", "source", "type", "time", "data"}
    assert fields["specversion"] == "1.0"
    assert fields["id"] == encode_id(event.sequence)
    assert fields["source"] == "/labkit"
    assert fields["type"] == event.topic
    assert fields["data"] == event.data
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", fields["time"], re.ASCII)


@pytest.mark.parametrize(
    ("offset", "time"),
    [
        (0, "2026-01-01T00:00:00.000000Z"),
        (1_999, "2026-01-01T00:00:00.000001Z"),
        (1_500_000_000, "2026-01-01T00:00:01.500000Z"),
        (86_400 * 10**9, "2026-01-02T00:00:00.000000Z"),
    ],
)
def test_the_time_is_the_offset_from_a_fixed_moment_in_whole_microseconds(offset, time):
    assert json.loads(encode(Event(0, "t0", offset, "")))["time"] == time


def test_the_canonical_bytes_are_these():
    assert WHOLE == (
        b'{"specversion":"1.0","id":"00000007","source":"/labkit","type":"t0",'
        b'"time":"2026-01-01T00:00:00.000005Z","data":"hello"}'
    )


@SOME
@given(EVENTS)
def test_an_event_survives_encoding_and_decoding(event):
    assert decode(encode(event)) == event


@SOME
@given(EVENTS)
def test_decoding_and_encoding_again_gives_the_same_bytes(event):
    assert encode(decode(encode(event))) == encode(event)


FEW = st.builds(
    Event,
    st.sampled_from([1, 10]),
    st.sampled_from(["a", "b"]),
    st.sampled_from([0, 1000]),
    st.sampled_from(["", "1", {}]),
)


@SOME
@given(FEW, FEW)
def test_bytes_are_equal_exactly_when_the_events_are(one, other):
    assert (encode(one) == encode(other)) is (one == other)


def test_the_order_of_keys_in_data_is_kept():
    assert encode(Event(0, "t0", 0, {"b": 1, "a": 2})).endswith(b'"data":{"b":1,"a":2}}')


@pytest.mark.parametrize("data", [math.nan, math.inf, -math.inf, {"deep": [math.nan]}])
def test_data_that_json_cannot_hold_is_refused_rather_than_written_as_something_else(data):
    with pytest.raises(ValueError, match=r".+"):
        encode(Event(0, "t0", 0, data))


@SOME
@given(EVENTS)
def test_the_sequence_number_is_read_without_the_rest(event):
    raw = encode(event)
    assert sequence_of(raw) == event.sequence
    assert sequence_of(raw[:60]) == event.sequence


@pytest.mark.parametrize("length", range(WHOLE.index(b'","source"')))
def test_bytes_cut_off_before_the_end_of_the_id_have_no_sequence_number(length):
    assert sequence_of(WHOLE[:length]) == -1


NOT_EVENTS = {
    "empty": b"",
    "null": b"null",
    "an array": b"[]",
    "an object": b"{}",
    "no JSON": b"\xff\xfe\x00\x00" * 20,
    "another event": b'{"specversion":"1.0","source":"/labkit","id":"00000007","type":"t0"}',
    "another version": WHOLE.replace(b'"1.0"', b'"0.3"'),
    "a space in front": b" " + WHOLE,
    "spaces between": WHOLE.replace(b'","', b'", "'),
    "a sign": WHOLE.replace(b"00000007", b"+0000007"),
    "a negative id": WHOLE.replace(b"00000007", b"-0000007"),
    "spaces in the id": WHOLE.replace(b"00000007", b"       7"),
    "an underscore in the id": WHOLE.replace(b"00000007", b"0000_007"),
    "letters in the id": WHOLE.replace(b"00000007", b"0000000a"),
    "Arabic digits": WHOLE.replace(b"00000007", "٠٠٠٧".encode()),
    "superscript digits": WHOLE.replace(b"00000007", "²²²²".encode()),
    "superscript digits in Latin-1": WHOLE.replace(b"00000007", b"\xb2" * 8),
    "an id too short": WHOLE.replace(b"00000007", b"0000007"),
    "an id too long": WHOLE.replace(b"00000007", b"000000070"),
    "a number as the id": b'{"specversion":"1.0","id":00000007,"source":"/labkit"}',
    "a gap signal": encode_gap(1, 5),
}


@pytest.mark.parametrize("raw", NOT_EVENTS.values(), ids=NOT_EVENTS.keys())
def test_bytes_that_are_no_event_of_this_lab_have_no_sequence_number(raw):
    assert sequence_of(raw) == -1


@SOME
@given(st.binary(max_size=80))
def test_random_bytes_have_no_sequence_number(raw):
    assert sequence_of(raw) == -1


@pytest.mark.parametrize("raw", NOT_EVENTS.values(), ids=NOT_EVENTS.keys())
def test_decoding_what_is_no_event_is_a_value_error_that_shows_its_beginning(raw):
    with pytest.raises(ValueError, match=r"not an event of this lab: b['\"]"):
        decode(raw)


DAMAGED = {
    "the rest cut off": WHOLE[:60],
    "no closing brace": WHOLE[:-1],
    "no time": WHOLE.replace(b'"time"', b'"tine"'),
    "no type": WHOLE.replace(b'"type"', b'"tipe"'),
    "no data": WHOLE.replace(b'"data"', b'"date"'),
    "a time that is none": WHOLE.replace(b"2026-01-01T", b"2026-13-01T"),
    "a time without a zone": WHOLE.replace(b'Z","data"', b'","data"'),
    "a number as the time": WHOLE.replace(b'"2026-01-01T00:00:00.000005Z"', b"5"),
    "not UTF-8": WHOLE.replace(b"hello", b"\xff"),
}


@pytest.mark.parametrize("raw", DAMAGED.values(), ids=DAMAGED.keys())
def test_decoding_a_damaged_event_is_a_value_error(raw):
    assert raw != WHOLE
    with pytest.raises(ValueError, match=r".+"):
        decode(raw)


@SOME
@given(SEQUENCES)
def test_an_id_has_eight_digits_and_leads_back_to_its_number(sequence):
    text = encode_id(sequence)
    assert len(text) == 8
    assert decode_id(text) == sequence


@SOME
@given(SEQUENCES, SEQUENCES)
def test_ids_sort_as_their_numbers_do(one, other):
    assert (encode_id(one) < encode_id(other)) is (one < other)


NOT_IDS = ["", "7", "0000007", "000000007", "+0000007", "-0000007", " 0000007", "0000007\n", "0000_007", "0x000007"]
NOT_IDS += ["٠٠٠٠٠٠٠٧", "²²²²²²²²", "abcdefgh", "1.000000", "00000007; drop"]


@pytest.mark.parametrize("text", NOT_IDS)
def test_text_that_is_no_id_is_none(text):
    assert decode_id(text) is None


@SOME
@given(SEQUENCES, SEQUENCES)
def test_a_gap_signal_survives_encoding_and_decoding(after, oldest):
    raw = encode_gap(after, oldest)
    assert decode_gap(raw) == (after, oldest)
    assert raw == encode_gap(after, oldest)


def test_a_gap_signal_is_json_that_names_both_ids_and_its_kind():
    fields = json.loads(encode_gap(3, 12))
    assert fields["type"] == "labkit.gap"
    assert fields["data"] == {"after": "00000003", "oldest": "00000012"}


@SOME
@given(EVENTS)
def test_no_event_is_taken_for_a_gap_signal(event):
    assert decode_gap(encode(event)) is None


@pytest.mark.parametrize("topic", ["labkit.gap", "labkit.gap.labkit.gap"])
def test_not_even_an_event_whose_topic_and_data_are_a_gap_signals(topic):
    assert decode_gap(encode(Event(0, topic, 0, {"after": "00000001", "oldest": "00000002"}))) is None


def gap_with(data):
    return b'{"specversion":"1.0","type":"labkit.gap","source":"/labkit","data":' + data + b"}"


NOT_GAPS = {
    "empty": b"",
    "the type alone": b"labkit.gap",
    "a string": b'"labkit.gap"',
    "an array": b'["labkit.gap"]',
    "cut off": encode_gap(1, 5)[:-1],
    "not UTF-8": gap_with(b'{"after":"\xff","oldest":"00000005"}'),
    "another type": b'{"type":"other","was":"labkit.gap","data":{"after":"00000001","oldest":"00000005"}}',
    "no data": b'{"type":"labkit.gap"}',
    "data null": gap_with(b"null"),
    "data a string": gap_with(b'"00000001"'),
    "data an array": gap_with(b'["00000001","00000005"]'),
    "no after": gap_with(b'{"oldest":"00000005"}'),
    "no oldest": gap_with(b'{"after":"00000001"}'),
    "after null": gap_with(b'{"after":null,"oldest":"00000005"}'),
    "after an array": gap_with(b'{"after":[1],"oldest":"00000005"}'),
    "after a word": gap_with(b'{"after":"yesterday","oldest":"00000005"}'),
    "after empty": gap_with(b'{"after":"","oldest":"00000005"}'),
    "after true": gap_with(b'{"after":true,"oldest":"00000005"}'),
    "after a fraction": gap_with(b'{"after":1.5,"oldest":"00000005"}'),
    "after Infinity": gap_with(b'{"after":Infinity,"oldest":"00000005"}'),
    "after too large a number": gap_with(b'{"after":1e999,"oldest":"00000005"}'),
    "after NaN": gap_with(b'{"after":NaN,"oldest":"00000005"}'),
    "after in Arabic digits": gap_with('{"after":"٠٠٠٠٠٠٠١","oldest":"00000005"}'.encode()),
    "after with an underscore": gap_with(b'{"after":"0000_001","oldest":"00000005"}'),
    "after negative": gap_with(b'{"after":"-0000001","oldest":"00000005"}'),
    "nested too deeply": gap_with(b"[" * 100_000),
    "oldest a word": gap_with(b'{"after":"00000001","oldest":"now"}'),
    "oldest too large a number": gap_with(b'{"after":"00000001","oldest":1e999}'),
}


@pytest.mark.parametrize("raw", NOT_GAPS.values(), ids=NOT_GAPS.keys())
def test_a_malformed_gap_signal_is_none(raw):
    assert decode_gap(raw) is None
