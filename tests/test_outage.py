import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.errors import UsageError
from labkit.outage import MAX_REPEAT, OUTAGES, Conditions, Outage, Strikes

# A busy machine must not fail a test.
SOME = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])


def refusal(function, *arguments, **fields):
    """The one sentence with which the call is refused."""
    with pytest.raises(UsageError) as caught:
        function(*arguments, **fields)
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


LINK = ["close", "reset", "silent", "refuse", "midmessage"]
PROCESS = {
    "consumer-crash": Strikes.CONSUMER,
    "consumer-freeze": Strikes.CONSUMER,
    "producer-crash": Strikes.PRODUCER,
    "broker-crash": Strikes.BROKER,
}


def test_there_are_nine_kinds_each_with_what_it_strikes_and_its_explanation():
    assert {kind: row.strikes for kind, row in OUTAGES.items()} == dict.fromkeys(LINK, Strikes.LINK) | PROCESS
    assert all(row.short and row.says for row in OUTAGES.values())
    assert {Outage(kind).strikes for kind in PROCESS} == {Strikes.CONSUMER, Strikes.PRODUCER, Strikes.BROKER}


@pytest.mark.parametrize("kind", ["", "Reset", "power", None, 3])
def test_an_unknown_kind_is_refused_with_those_there_are(kind):
    text = refusal(Outage, kind)
    assert repr(kind) in text
    assert f"choose one of {', '.join([*LINK, *PROCESS])}." in text


@pytest.mark.parametrize("at", [-0.001, -1, -math.inf, math.nan, "1", None], ids=repr)
def test_an_outage_that_begins_before_the_load_or_never_is_refused(at):
    text = refusal(Outage, at=at)
    assert f"begins at {at!r} s" in text
    assert "a number from 0 to 1,000,000 s" in text


@pytest.mark.parametrize("lasts", [0, 0.0, -0.5, 600.001, math.inf, math.nan, "1", None], ids=repr)
def test_an_outage_of_no_length_or_too_long_is_refused(lasts):
    text = refusal(Outage, lasts=lasts)
    assert f"lasts {lasts!r} s" in text
    assert "a number above 0 s and at most 600 s" in text


@pytest.mark.parametrize("kind", OUTAGES)
@pytest.mark.parametrize(("at", "lasts"), [(0, 0.001), (0, 600), (1e6, 1)])
def test_the_limits_themselves_are_taken(kind, at, lasts):
    outage = Outage(kind, at, lasts)
    assert (outage.kind, outage.at, outage.lasts) == (kind, at, lasts)


@pytest.mark.parametrize(("at", "lasts", "duration"), [(1.0, 0.5, 1.5), (1.0, 0.5, 1.2), (4.0, 0.5, 3.0), (0, 3, 3)])
def test_an_outage_that_does_not_end_before_the_load_is_refused(at, lasts, duration):
    text = refusal(Outage("reset", at, lasts).check_within, duration)
    assert f"ends {at + lasts:g} s into a load of {duration:g} s" in text


def test_an_outage_that_never_begins_is_within_no_load():
    with pytest.raises(UsageError):
        Outage("reset", at=math.inf).check_within(3600)


@SOME
@given(st.floats(0, 3600), st.floats(0.001, 600), st.floats(0.1, 3600))
def test_an_outage_is_within_a_load_exactly_when_it_ends_earlier(at, lasts, duration):
    outage, refused = Outage("close", at, lasts), False
    try:
        outage.check_within(duration)
    except UsageError:
        refused = True
    assert refused is (at + lasts >= duration)


@SOME
@given(st.builds(Outage, st.sampled_from(list(OUTAGES)), st.floats(0, 1e6), st.floats(0.001, 600)))
def test_an_outage_survives_json(outage):
    assert Outage(**json.loads(json.dumps(outage.to_json()))) == outage


@pytest.mark.parametrize("share", [0, -0.1, 1.001, 2, math.inf, math.nan, "1", None, True], ids=repr)
def test_a_share_of_nobody_or_of_more_than_all_is_refused(share):
    text = refusal(Outage, share=share)
    assert f"share is {share!r}" in text
    assert "above 0 and at most 1" in text


@pytest.mark.parametrize("repeat", [0, -1, 1.5, 2.0, MAX_REPEAT + 1, "2", None, True], ids=repr)
def test_a_repeat_that_is_no_number_of_times_is_refused(repeat):
    text = refusal(Outage, repeat=repeat)
    assert f"repeat is {repeat!r}" in text
    assert "a whole number from 1 to 1,000" in text


@pytest.mark.parametrize("kind", OUTAGES)
def test_what_there_is_one_of_is_struck_for_all_subscribers_or_refused(kind):
    if OUTAGES[kind].strikes in (Strikes.PRODUCER, Strikes.BROKER):
        text = refusal(Outage, kind, share=0.25)
        assert f"{kind} with a share of 0.25 cannot be: there is one {OUTAGES[kind].strikes}" in text
        assert "leave the share at 1" in text
    else:
        assert Outage(kind, share=0.25).struck(8) == 2
    assert Outage(kind, share=1, repeat=MAX_REPEAT).struck(8) == 8


@pytest.mark.parametrize(
    ("share", "subscribers", "struck"),
    [
        *[(1, 1, 1), (1.0, 5000, 5000), (0.5, 10, 5), (0.5, 5, 3), (0.5, 1, 1), (0.01, 10, 1), (1e-9, 1, 1)],
        # In binary 0.07 * 100, 0.29 * 100, 0.55 * 100 and 0.1 * 3 * 10 are a little more than whole.
        *[(0.07, 100, 7), (0.29, 100, 29), (0.55, 100, 55), (0.1 * 3, 10, 3), (1 / 3, 3, 1), (2 / 3, 3, 2)],
        *[(0.34, 3, 2), (0.999, 1000, 999), (0.9991, 1000, 1000), (0.0002, 5000, 1), (0.0003, 5000, 2)],
    ],
)
def test_a_share_strikes_so_many_subscribers_rounded_up(share, subscribers, struck):
    assert Outage(share=share).struck(subscribers) == struck


@SOME
@given(st.floats(1e-6, 1), st.integers(1, 5000))
def test_a_share_strikes_somebody_and_never_more_than_there_are(share, subscribers):
    struck = Outage(share=share).struck(subscribers)
    assert 1 <= struck <= subscribers
    assert share * subscribers - 1e-6 <= struck < share * subscribers + 1


def test_between_two_of_a_repeated_outage_lies_a_pause_as_long_as_the_outage():
    outage = Outage("silent", at=1.0, lasts=0.25, repeat=3)
    assert outage.windows() == [(1.0, 1.25), (1.5, 1.75), (2.0, 2.25)]
    assert outage.ends == 2.25


@SOME
@given(st.sampled_from(list(OUTAGES)), st.floats(0, 1000), st.floats(0.001, 600), st.integers(1, MAX_REPEAT))
def test_the_windows_follow_each_other_and_the_last_one_is_the_end(kind, at, lasts, repeat):
    outage = Outage(kind, at, lasts, repeat=repeat)
    windows = outage.windows()
    assert len(windows) == repeat
    assert windows[0] == (at, at + lasts)
    assert windows[-1][1] == pytest.approx(outage.ends)
    assert [end - begin for begin, end in windows] == pytest.approx([lasts] * repeat)
    pauses = [later - end for (_, end), (later, _) in pairwise(windows)]
    assert pauses == pytest.approx([lasts] * (repeat - 1))


@pytest.mark.parametrize(("repeat", "duration", "fits"), [(1, 1.6, True), (2, 2.4, False), (2, 2.6, True)])
def test_the_last_repeat_has_to_end_before_the_load(repeat, duration, fits):
    outage = Outage("reset", at=1.0, lasts=0.5, repeat=repeat)
    if fits:
        outage.check_within(duration)
    else:
        text = refusal(outage.check_within, duration)
        assert "ends 2.5 s into a load of 2.4 s" in text
        assert "longer than 2.5 s" in text


@SOME
@given(
    st.builds(
        Outage,
        st.sampled_from(list(OUTAGES)),
        st.floats(0, 1e6),
        st.floats(0.001, 600),
        repeat=st.integers(1, MAX_REPEAT),
    )
    | st.builds(Outage, st.sampled_from(LINK), share=st.floats(0.001, 1))
)
def test_share_and_repeat_survive_json(outage):
    fields = json.loads(json.dumps(outage.to_json()))
    assert fields.keys() == {"kind", "at", "lasts", "share", "repeat"}
    assert Outage(**fields) == outage


@pytest.mark.parametrize("name", ["delay", "jitter"])
@pytest.mark.parametrize("value", [-0.001, 10.001, math.inf, -math.inf, math.nan, "1", None, True], ids=repr)
def test_a_delay_or_jitter_out_of_bounds_is_refused(name, value):
    assert refusal(Conditions, **{name: value}) == (
        f"The link's {name} is {value!r} s; it has to be from 0 to 10 s, which the command line takes in milliseconds."
    )


@pytest.mark.parametrize("value", [-1, 0.5, 999, 1e12 + 1000, math.inf, math.nan, "1000", None, True], ids=repr)
def test_a_bandwidth_out_of_bounds_is_refused(value):
    text = refusal(Conditions, bandwidth=value)
    assert f"bandwidth is {value!r}" in text
    assert "at least 1000 bytes/s" in text
    assert "0 for no limit" in text


@pytest.mark.parametrize(
    ("fields", "some"),
    [
        ({}, False),
        ({"delay": 0, "jitter": 0, "bandwidth": 0}, False),
        ({"delay": 10}, True),
        ({"jitter": 10.0}, True),
        ({"bandwidth": 1000}, True),
        ({"bandwidth": 1e12}, True),
        ({"delay": 0.001, "jitter": 0.5, "bandwidth": 5e6}, True),
    ],
    ids=str,
)
def test_conditions_within_their_limits_are_taken_and_none_are_none(fields, some):
    assert bool(Conditions(**fields)) is some


def test_even_the_smallest_share_strikes_somebody():
    assert Outage("reset", share=1e-12).struck(5) == 1


def test_numbers_of_other_libraries_are_numbers_and_are_stored_as_plain_ones():
    outage = Outage("reset", at=np.int64(1), lasts=np.float32(0.5), share=np.float64(0.5), repeat=np.int64(2))
    assert json.loads(json.dumps(outage.to_json())) == outage.to_json()
    assert outage == Outage("reset", 1.0, 0.5, 0.5, 2)
