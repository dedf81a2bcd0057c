import json
import re
from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.errors import UsageError
from labkit.outage import OUTAGES, Conditions, Outage
from labkit.trial import RETRY_SPAN, SCHEMA, Guarantee, Measure, Payload, Timings, Trial
from labkit.workload import Workload

# A busy machine must not fail a test.
SOME = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])

SECONDS = st.floats(0.001, 1000)
OUTAGE = st.builds(
    Outage, st.sampled_from(list(OUTAGES)), st.floats(0, 1000), st.floats(0.01, 600), repeat=st.integers(1, 9)
) | st.builds(Outage, share=st.floats(0.01, 1))
CONDITIONS = st.builds(
    Conditions, delay=st.floats(0, 10), jitter=st.floats(0, 10), bandwidth=st.just(0) | st.floats(1000, 1e9)
)
TIMINGS = st.builds(
    Timings,
    heartbeat=SECONDS,
    poll=SECONDS,
    hold=SECONDS,
    retry=SECONDS,
    retry_limit=SECONDS,
    attempts=st.integers(1, 100),
    request=SECONDS,
    ack=SECONDS,
)
WORKLOAD = st.builds(
    Workload,
    rate=st.floats(1, 1000),
    topics=st.integers(1, 9),
    arrival=st.sampled_from(["constant", "poisson", "bursty"]),
    sizes=st.sampled_from(["fixed", "lognormal"]),
    trace=st.none() | st.text(min_size=1),
)
TRIALS = st.builds(
    Trial,
    name=st.text(),
    measure=st.sampled_from(Measure),
    protocol=st.sampled_from(["websocket", "webhook", "longpolling"]),
    guarantee=st.sampled_from(Guarantee),
    workload=WORKLOAD,
    outage=st.none() | OUTAGE,
    repeat=st.integers(1, 99),
    uid=st.text("0123456789abcdef", min_size=8, max_size=8),
    payload=st.sampled_from(Payload),
    timings=TIMINGS,
    conditions=CONDITIONS,
)
TRIAL = Trial("latency-sse-1", Measure.LATENCY, "sse", Guarantee.AT_LEAST_ONCE, Workload(), Outage("close", 1.0, 0.5))


@SOME
@given(TRIALS)
def test_a_trial_survives_json(trial):
    again = Trial.from_json(json.loads(json.dumps(trial.to_json())))
    assert again == trial
    for name in ("measure", "guarantee", "payload", "workload", "outage", "timings", "conditions"):
        assert type(getattr(again, name)) is type(getattr(trial, name))
    # They are compared by identity elsewhere, and a plain string would be equal but not identical.
    assert (again.linked, again.recovers, again.durable) == (trial.linked, trial.recovers, trial.durable)


def test_the_spec_is_plain_json_that_holds_every_field_and_the_schema():
    spec = json.loads(json.dumps(TRIAL.to_json(), allow_nan=False))
    assert spec.keys() == {"schema", *(field.name for field in fields_of(Trial))}
    assert (spec["schema"], spec["measure"], spec["guarantee"], spec["payload"]) == (
        SCHEMA,
        "latency",
        "at-least-once",
        "full",
    )
    assert spec["outage"] == {"kind": "close", "at": 1.0, "lasts": 0.5, "share": 1.0, "repeat": 1}
    assert spec["conditions"] == {"delay": 0.0, "jitter": 0.0, "bandwidth": 0.0}


def test_reading_a_spec_leaves_it_as_it_was():
    spec = TRIAL.to_json()
    Trial.from_json(spec)
    assert spec == TRIAL.to_json()


@pytest.mark.parametrize("schema", [SCHEMA + 1, 0, -1, "1", None, [1]])
def test_another_schema_is_a_value_error_that_names_the_one_that_is_read(schema):
    with pytest.raises(ValueError, match=rf"schema.*{SCHEMA}"):
        Trial.from_json({**TRIAL.to_json(), "schema": schema})


@pytest.mark.parametrize(
    "name", ["schema", *(field.name for field in fields_of(Trial) if field.name not in ("repeat", "uid"))]
)
def test_a_missing_part_is_an_error_that_names_it(name):
    spec = TRIAL.to_json()
    del spec[name]
    with pytest.raises((KeyError, TypeError), match=name):
        Trial.from_json(spec)


@pytest.mark.parametrize(
    "damage",
    [
        {"measure": "speed"},
        {"guarantee": "exactly-once"},
        {"guarantee": None},
        {"payload": ""},
        {"surprise": 1},
        {"workload": {"rate": 0}},
        {"workload": {"colour": "red"}},
        {"workload": None},
        {"outage": {"kind": "power"}},
        {"outage": {"kind": "reset", "since": 1}},
        {"outage": "reset"},
        {"timings": {"nap": 1}},
        {"timings": []},
        {"conditions": {"fog": 1}},
        {"conditions": {"delay": -1}},
        {"conditions": None},
        {"outage": {"kind": "broker-crash", "share": 0.5}},
    ],
    ids=str,
)
def test_a_damaged_spec_is_an_error(damage):
    with pytest.raises((KeyError, TypeError, ValueError)):
        Trial.from_json({**TRIAL.to_json(), **damage})


def test_save_writes_the_spec(tmp_path):
    path = tmp_path / "spec.json"
    trial = replace(TRIAL, name="größe", outage=None)
    trial.save(path)
    assert Trial.from_json(json.loads(path.read_text(encoding="utf-8"))) == trial


def test_save_refuses_to_overwrite_and_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "spec.json"
    path.write_text("recorded")
    with pytest.raises(FileExistsError):
        TRIAL.save(path)
    assert path.read_text() == "recorded"


def test_under_a_run_folder_the_trace_is_found_there_and_nothing_else_changes():
    trial = replace(TRIAL, workload=Workload(trace="trace.jsonl", speed=2.0, subscribers=3))
    placed = trial.under(Path("/runs/one"))
    assert Path(placed.workload.trace) == Path("/runs/one/trace.jsonl")
    assert replace(placed, workload=replace(placed.workload, trace="trace.jsonl")) == trial
    assert trial.workload.trace == "trace.jsonl"


def test_a_trial_without_a_trace_is_the_same_under_any_run_folder():
    assert TRIAL.under(Path("/runs/one")) == TRIAL


def test_a_trace_under_a_run_folder_can_be_read(tmp_path):
    (tmp_path / "trace.jsonl").write_text('{"time": 1, "type": "a", "data": 1}\n')
    trial = replace(TRIAL, workload=Workload(trace="trace.jsonl"))
    assert [item.topic for item in trial.under(tmp_path).workload.schedule()] == ["a"]


@pytest.mark.parametrize("guarantee", Guarantee)
def test_a_guarantee_is_found_by_its_name(guarantee):
    assert Guarantee.named(guarantee.value) is guarantee
    assert Guarantee.named(guarantee) is guarantee


@pytest.mark.parametrize("name", ["exactly-once", "", "At-Most-Once", "AT_MOST_ONCE", "at-most-once ", None])
def test_an_unknown_guarantee_is_refused_with_those_there_are(name):
    with pytest.raises(UsageError) as caught:
        Guarantee.named(name)
    assert str(caught.value) == (
        f"There is no guarantee {str(name)!r}; choose from at-most-once, at-least-once, durable."
    )


@pytest.mark.parametrize(
    ("measure", "linked"), [(Measure.LATENCY, False), (Measure.BANDWIDTH, True), (Measure.LOSS, True)]
)
@pytest.mark.parametrize("conditions", [Conditions(), Conditions(delay=0.01), Conditions(bandwidth=1e6)], ids=str)
def test_only_a_latency_trial_connects_directly_and_only_where_the_link_has_no_conditions(measure, linked, conditions):
    assert replace(TRIAL, measure=measure, conditions=conditions).linked is (linked or bool(conditions))


@pytest.mark.parametrize(
    ("guarantee", "recovers", "durable"),
    [("at-most-once", False, False), ("at-least-once", True, False), ("durable", True, True)],
)
def test_recovery_and_durability_are_switched_on_by_the_guarantee(guarantee, recovers, durable):
    trial = replace(TRIAL, guarantee=Guarantee(guarantee))
    assert (trial.recovers, trial.durable) == (recovers, durable)


@pytest.mark.parametrize(("share", "struck"), [(None, 5), (1, 5), (0.5, 3), (0.2, 1), (0.01, 1)])
def test_an_outage_strikes_its_share_of_the_subscribers_and_without_one_all_are_the_same(share, struck):
    outage = None if share is None else Outage(share=share)
    assert replace(TRIAL, workload=Workload(subscribers=5), outage=outage).struck == struck


EXAMPLE = [0, 5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600]
"""The waits before each attempt in the example schedule of the Standard Webhooks specification."""


def test_the_schedule_that_timings_are_compared_with_is_the_example_of_standard_webhooks():
    assert sum(EXAMPLE) == RETRY_SPAN == 272_105
    assert RETRY_SPAN == 75 * 3600 + 35 * 60 + 5


@pytest.mark.parametrize(
    ("timings", "span"),
    [
        (Timings(retry=1.0, retry_limit=100.0, attempts=5), 1 + 2 + 4 + 8),
        (Timings(retry=1.0, retry_limit=4.0, attempts=6), 1 + 2 + 4 + 4 + 4),
        (Timings(retry=3.0, retry_limit=2.0, attempts=3), 2 + 2),
        (Timings(retry=3.0, attempts=2, retry_limit=9.0), 3),
        (Timings(), 0.05 + 0.1 + 0.2 + 0.4 + 0.8 + 6 * 1.0),
    ],
    ids=str,
)
def test_the_waits_between_the_attempts_double_up_to_their_limit_and_add_up_to_the_span(timings, span):
    assert timings.retry_span == pytest.approx(span)
    assert timings.compression == pytest.approx(272_105 / span)


def test_a_single_attempt_has_no_span_and_no_finite_compression():
    assert Timings(attempts=1).retry_span == 0
    assert Timings(attempts=1).compression == float("inf")


def test_many_attempts_do_not_overflow_their_span():
    assert Timings(attempts=2000).retry_span == pytest.approx(0.05 + 0.1 + 0.2 + 0.4 + 0.8 + 1994 * 1.0)


@pytest.mark.parametrize("name", [field.name for field in fields_of(Timings)])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "1", None, True])
def test_a_wait_that_cannot_be_is_one_sentence_with_value_and_limits(name, value):
    with pytest.raises(UsageError, match=rf"^{name} is {re.escape(repr(value))}; it has to be a .*number from .* to "):
        Timings(**{name: value})
