import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.errors import UsageError
from labkit.outage import OUTAGES, Outage

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


def test_there_are_three_kinds_each_with_its_explanation():
    assert OUTAGES.keys() == {"reset", "close", "silent"}
    assert all(OUTAGES.values())


@pytest.mark.parametrize("kind", ["", "Reset", "power", None, 3])
def test_an_unknown_kind_is_refused_with_those_there_are(kind):
    text = refusal(Outage, kind)
    assert repr(kind) in text
    assert "reset, close, silent" in text


@pytest.mark.parametrize("at", [-0.001, -1, -math.inf, math.nan, "1", None], ids=repr)
def test_an_outage_that_begins_before_the_load_or_never_is_refused(at):
    text = refusal(Outage, at=at)
    assert f"begins at {at!r} s" in text
    assert "0 s or later" in text


@pytest.mark.parametrize("lasts", [0, 0.0, -0.5, 600.001, math.inf, math.nan, "1", None], ids=repr)
def test_an_outage_of_no_length_or_too_long_is_refused(lasts):
    text = refusal(Outage, lasts=lasts)
    assert f"lasts {lasts!r} s" in text
    assert "more than 0 s and at most 600 s" in text


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
