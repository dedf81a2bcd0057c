"""The controls: what they come to, and what is wrong, beside the control that it is wrong with."""

import html
import re

import pytest

from labkit.controls import Controls
from labkit.outage import OUTAGES
from labkit.presets import PRESETS
from labkit.trial import Guarantee


@pytest.fixture
def controls():
    return Controls()


def field(controls, label):
    """The control of that label, as a page shows it."""
    found = [control for control in controls._all() if control.description.startswith(label)]
    assert len(found) == 1, label
    return found[0]


def beside(controls, label):
    """What stands beside it, without its markup."""
    for place in (*controls._numbers.values(), controls._arrival, controls._outage):
        if place.control.description == label:
            return html.unescape(re.sub("<[^>]*>", "", place._words.value))
    raise AssertionError(label)


def alerts(controls):
    places = [place._words for place in (*controls._numbers.values(), controls._arrival, controls._outage)]
    return [place.value for place in (*places, *controls._chosen.values()) if 'role="alert"' in place.value]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fills_in_every_control_and_comes_to_its_own_setting(controls, name):
    controls.preset.value = name
    assert controls.setting == PRESETS[name].setting
    assert PRESETS[name].says in controls._says.value
    assert alerts(controls) == []


def test_what_is_no_presets_setting_is_called_ones_own_and_the_preset_can_be_chosen_again(controls):
    for typed in ("12.5", "abc"):
        field(controls, "Rate").value = typed
        assert controls.preset.value == "your own"
        controls.preset.value = "Quick look"
        assert controls.setting == PRESETS["Quick look"].setting
    field(controls, "Rate").value = "12.5"
    field(controls, "Rate").value = "200"
    assert controls.preset.value == "Quick look"
    before = controls.setting
    controls.preset.value = "your own"
    assert controls.setting == before


def test_every_control_has_a_label(controls):
    assert all(control.description for control in (controls.preset, *controls._all()))


def test_what_is_typed_and_ticked_is_what_comes_out(controls):
    field(controls, "Rate").value = "12.5"
    field(controls, "Subscribers").value = "3"
    field(controls, "Poll every").value = "0.5"
    field(controls, "Webhook").value = False
    field(controls, "durable").value = True
    field(controls, "Outage").value = "silent"
    setting = controls.setting
    assert (setting.workload.rate, setting.workload.subscribers, setting.timings.poll) == (12.5, 3, 0.5)
    assert "webhook" not in setting.protocols
    assert setting.guarantees == tuple(Guarantee)
    assert setting.outage == "silent"


def test_thousands_may_be_written_as_the_sentences_write_them(controls):
    field(controls, "Rate").value, field(controls, "Size").value = "1,000", "12,345"
    assert (controls.setting.workload.rate, controls.setting.workload.size) == (1000, 12345)
    field(controls, "Rate").value = "0,5"
    assert "rate is '0,5'" in beside(controls, "Rate")


@pytest.mark.parametrize(
    ("label", "typed", "said"),
    [
        ("Rate", "abc", "rate is 'abc'"),
        ("Rate", "0", "rate is 0"),
        ("Rate", "", "rate is ''"),
        ("Rate", "nan", "rate is nan"),
        ("Size", "10", "size is 10"),
        ("Size", "256.5", "size is '256.5'"),
        ("Subscribers", "5001", "1 to 5,000 subscribers"),
        ("Topics", "-1", "topics is -1"),
        ("Duration", "1e9", "duration is 1000000000.0"),
        ("Poll every", "0", "poll is 0"),
    ],
)
def test_a_bad_value_is_said_beside_its_control_and_nowhere_else(controls, label, typed, said):
    unit = beside(controls, label)
    field(controls, label).value = typed
    assert controls.setting is None
    assert said in beside(controls, label)
    assert len(alerts(controls)) == 1
    controls.preset.value = "Chat"
    assert alerts(controls) == []
    assert beside(controls, label) == unit


def test_values_that_are_wrong_only_together_are_said_beside_one_of_them(controls):
    field(controls, "Rate").value, field(controls, "Duration").value = "1000000", "3600"
    assert "over 10,000,000 events" in beside(controls, "Rate")
    field(controls, "Rate").value, field(controls, "Duration").value = "1", "0.5"
    assert controls.setting is not None
    field(controls, "Outage").value = "broker-crash"
    assert "has no broker that could crash" in beside(controls, "Outage")
    assert controls.setting is None


def test_the_smallest_size_depends_on_the_topics(controls):
    smallest = next(n for n in range(100, 300) if _fits(controls, n))
    field(controls, "Topics").value = "1000"
    assert f"size is {smallest}" in beside(controls, "Size")


def _fits(controls, size):
    field(controls, "Size").value = str(size)
    return controls.setting is not None


def test_nothing_to_compare_is_said_below_what_is_to_be_chosen(controls):
    for guarantee in Guarantee:
        field(controls, guarantee).value = False
    assert controls.setting is None
    assert "Choose one at least" in controls._chosen["guarantees"].value
    assert controls._chosen["protocols"].value == ""


def test_every_outage_says_what_happens(controls):
    for kind, row in OUTAGES.items():
        field(controls, "Outage").value = kind
        assert row.says in beside(controls, "Outage") or kind == "broker-crash"
    field(controls, "Outage").value = "none"
    assert beside(controls, "Outage") == "nothing breaks"
    assert controls.setting.outage is None
