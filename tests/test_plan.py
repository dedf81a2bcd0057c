"""Plans as values: what is run, in which order, under which names, and what is refused before anything starts."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labkit.errors import UsageError
from labkit.outage import OUTAGES, Conditions, Outage
from labkit.plan import LIGHT, MOST_VALUES, OUT_OF_THE_BOX, ROOM, SWEPT, Plan, Sweep, unmet, weight
from labkit.protocols import PROTOCOLS
from labkit.trial import COMPARED, Guarantee, Measure, Timings, Trial
from labkit.workload import MAX_TOPICS, Workload

WORKLOAD = Workload(rate=100, duration=0.6, subscribers=3, seed=7)
OUTAGE = Outage("reset", at=0.2, lasts=0.15)

BROKER_CRASH = Outage("broker-crash", at=0.2, lasts=0.15)


def test_a_plan_has_a_loss_trial_for_each_outage_and_the_other_measures_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABKIT_NATS", raising=False)
    outages = tuple(Outage(kind, at=0.2, lasts=0.1) for kind in ("reset", "producer-crash", "broker-crash"))
    conditions, timings = Conditions(delay=0.01), Timings(poll=0.1)
    plan = Plan(WORKLOAD, ("sse", "pubsub"), outages=outages, repeat=2, conditions=conditions, timings=timings)
    trials = plan.trials()
    assert [trial.measure for trial in trials] == sorted((t.measure for t in trials), key=list(Measure).index)
    names = [trial.name for trial in trials]
    assert len(set(names)) == len(names) == len({trial.uid for trial in trials})
    pairs = [(protocol, guarantee) for guarantee in OUT_OF_THE_BOX for protocol in ("sse", "pubsub")]
    expected = [f"{m}-{p}-{g}-{n}" for m in ("latency", "bandwidth") for n in (1, 2) for p, g in pairs]
    for outage in outages:
        able = [(p, g) for p, g in pairs if outage.kind != "broker-crash" or p == "pubsub"]
        expected += [f"loss-{p}-{g}-{outage.kind}-{n}" for n in (1, 2) for p, g in able]
    assert names == expected
    for trial in trials:
        kind = trial.name.removesuffix(f"-{trial.repeat}").partition(f"{trial.guarantee}-")[2]
        assert (trial.outage.kind if trial.outage else "") == kind
        assert (trial.conditions, trial.timings, trial.workload) == (conditions, timings, WORKLOAD)


def test_a_plan_without_an_outage_has_no_loss_trials() -> None:
    assert {trial.measure for trial in Plan(WORKLOAD).trials()} == {Measure.LATENCY, Measure.BANDWIDTH}
    assert Plan(WORKLOAD, measures=(Measure.LOSS,)).trials() == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_only_a_broker_of_the_labs_own_can_be_killed(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABKIT_NATS", raising=False)
    others = [Outage(kind, at=0.2, lasts=0.1) for kind in OUTAGES if kind != "broker-crash"]
    assert [unmet(protocol, outage) for outage in others] == [None] * 8
    reason = unmet(protocol, BROKER_CRASH)
    if protocol == "pubsub":
        assert reason is None
        monkeypatch.setenv("LABKIT_NATS", "nats://127.0.0.1:4222")
        reason = unmet(protocol, BROKER_CRASH)
        assert reason.startswith("broker-crash would kill the broker that LABKIT_NATS points to")
        assert reason.endswith("unset LABKIT_NATS, or choose another outage.")
    else:
        assert reason == f"{protocol} has no broker that could crash; broker-crash is for pubsub only."
    assert [unmet(protocol, outage) for outage in others] == [None] * 8


def test_an_outage_that_a_protocol_cannot_meet_is_refused_alone_and_left_out_among_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LABKIT_NATS", raising=False)
    with pytest.raises(UsageError, match=r"^sse has no broker that could crash"):
        Plan(WORKLOAD, ("pubsub", "sse"), outages=(BROKER_CRASH,))
    with pytest.raises(UsageError, match=r"^websocket has no broker that could crash"):
        Plan(WORKLOAD, ("websocket", "sse"), outages=(OUTAGE, BROKER_CRASH))
    both = Plan(WORKLOAD, ("pubsub", "sse"), measures=(Measure.LOSS,), outages=(OUTAGE, BROKER_CRASH)).trials()
    assert [(t.protocol, t.outage.kind) for t in both if t.outage == BROKER_CRASH] == [("pubsub", "broker-crash")] * 2
    assert len(both) == 6
    monkeypatch.setenv("LABKIT_NATS", "nats://127.0.0.1:4222")
    with pytest.raises(UsageError, match=r"^broker-crash would kill the broker that LABKIT_NATS points to"):
        Plan(WORKLOAD, ("pubsub",), outages=(BROKER_CRASH,))


def swept(over: str, *values: float, workload: Workload = WORKLOAD, **plan: object) -> list[Trial]:
    return Plan(
        workload, ("polling",), (Guarantee.AT_MOST_ONCE,), (SWEPT[over],), sweep=Sweep(over, values), **plan
    ).trials()


@pytest.mark.parametrize(
    ("over", "values", "found"),
    [
        ("rate", (50, 0.5, 2e5), lambda trial: trial.workload.rate),
        ("subscribers", (1, 5000), lambda trial: trial.workload.subscribers),
        ("size", (256, 1_000_000), lambda trial: trial.workload.size),
        ("topics", (1, 1000), lambda trial: trial.workload.topics),
        ("interval", (0.001, 0.6), lambda trial: trial.timings.poll),
    ],
)
def test_a_sweep_changes_its_parameter_and_nothing_else(
    over: str, values: tuple[float, ...], found: Callable[[Trial], float]
) -> None:
    timings = Timings(heartbeat=0.5, poll=0.1)
    trials = swept(over, *values, workload=(load := replace(WORKLOAD, duration=10)), timings=timings)
    assert [found(trial) for trial in trials] == list(values)
    assert [type(found(trial)) for trial in trials] == [float if over in ("rate", "interval") else int] * len(values)
    for trial in trials:
        if over == "interval":
            assert (trial.workload, replace(trial.timings, poll=0.1)) == (load, timings)
        else:
            assert (replace(trial.workload, **{over: getattr(load, over)}), trial.timings) == (load, timings)
        assert trial.measure is SWEPT[over]


def test_every_value_is_run_with_every_protocol_and_guarantee_as_often_as_asked_for() -> None:
    sweep = Sweep("rate", (50, 1_000_000, 999_999.5, 0.125))
    plan = Plan(replace(WORKLOAD, duration=1), ("sse", "polling"), measures=(Measure.LATENCY,), repeat=2, sweep=sweep)
    names = [trial.name for trial in plan.trials()]
    assert len(set(names)) == len(names) == 4 * 2 * 2 * 2
    assert names[:4] == [f"latency-{p}-{g}-rate-50-1" for g in OUT_OF_THE_BOX for p in ("sse", "polling")]
    assert {name.split("-rate-")[1] for name in names} == {
        f"{value}-{repeat}" for value in ("50", "1000000", "999999.5", "0.125") for repeat in (1, 2)
    }
    assert len({trial.uid for trial in plan.trials()}) == len(names)


def test_the_values_may_come_from_numpy() -> None:
    assert Sweep("size", tuple(np.array([200, 400]))) == Sweep("size", (200.0, 400.0))
    assert swept("size", *np.array([200, 400]))[1].workload.size == 400


@pytest.mark.parametrize(
    "values",
    [
        *((), (1, 1), (1, 1.0), (1, 1 + 1e-13), (1, True), (1, "2"), ("1,2",), (None,), ([1],), (10**400,)),
        tuple(range(1, MOST_VALUES + 2)),
    ],
    ids=lambda values: str(values)[:20],
)
def test_values_that_are_not_different_numbers_are_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match=r"^The values to sweep over are .*; give 1 to 20 different numbers, as 1,10,"):
        Sweep("rate", values)


def test_as_many_values_as_allowed_are_taken() -> None:
    assert len(swept("rate", *range(1, MOST_VALUES + 1), workload=replace(WORKLOAD, duration=1))) == MOST_VALUES


@pytest.mark.parametrize("over", ["seed", ["rate"], 5], ids=str)
def test_what_cannot_be_swept_over_is_refused_with_what_can(over: Any) -> None:
    with pytest.raises(UsageError) as caught:
        Sweep(over, (1, 2))
    choices = "rate, topics, subscribers, size, interval"
    assert str(caught.value) == f"There is no sweep over {over!r}; choose from {choices}."


@pytest.mark.parametrize(
    ("over", "value", "sentence"),
    [
        ("rate", 0, r"^rate is 0\.0; it has to be a number from 0\.1 to 1,000,000 events per second\.$"),
        ("rate", math.nan, r"^rate is nan; it has to be a number"),
        ("rate", math.inf, r"^rate is inf; it has to be a number"),
        ("subscribers", 2.5, r"^subscribers is 2\.5; it has to be a whole number from 1 to 5,000 subscribers\.$"),
        ("subscribers", 5001, r"^subscribers is 5001; it has to be a whole number from 1 to 5,000"),
        ("size", 20, r"^size is 20; it has to be a whole number from \d+ to 1,000,000 bytes, the bare envelope being"),
        ("topics", 0, r"^topics is 0; it has to be a whole number from 1 to 1,000 topics\.$"),
        ("interval", 0, r"^poll is 0\.0; it has to be a number from 0\.001 to 86,400 seconds\.$"),
        (
            "interval",
            0.7,
            r"^An interval of 0\.7 s is longer than the load of 0\.6 s, in which a subscriber may not ask even once; "
            r"raise the duration, or leave the value out\.$",
        ),
    ],
)
def test_a_value_out_of_range_is_one_sentence_about_it(over: str, value: float, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        swept(over, value)


def test_a_trace_is_swept_over_what_it_has_not_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("time,type\n0,a\n1,b\n")
    trace = Workload(trace=str(log), subscribers=2)
    assert [trial.workload.subscribers for trial in swept("subscribers", 1, 3, workload=trace)] == [1, 3]
    assert [trial.timings.poll for trial in swept("interval", 0.1, 1, workload=trace)] == [0.1, 1]
    for over, value in (("rate", 50), ("size", 500), ("topics", 2)):
        sentence = rf"^A trace has a {over} of its own; sweep over subscribers or interval, or leave it out\.$"
        with pytest.raises(UsageError, match=sentence):
            swept(over, value, workload=trace)


def test_what_is_named_twice_is_the_same_trials_once() -> None:
    twice = Plan(
        WORKLOAD,
        ("sse", "websocket", "sse"),
        (Guarantee.DURABLE, Guarantee.DURABLE),
        (Measure.LOSS, Measure.LATENCY, Measure.LOSS),
        (OUTAGE, replace(OUTAGE)),
    )
    once = Plan(WORKLOAD, ("sse", "websocket"), (Guarantee.DURABLE,), (Measure.LOSS, Measure.LATENCY), (OUTAGE,))
    assert twice == once
    assert [trial.name for trial in twice.trials()] == [trial.name for trial in once.trials()]


def duplex(workload: Workload = WORKLOAD, **plan: object) -> list[Trial]:
    return Plan(workload, ("sse", "webhook"), measures=(Measure.DUPLEX,), **plan).trials()


@pytest.mark.parametrize("subscribers", [1, 3, MAX_TOPICS])
def test_in_a_duplex_trial_each_subscriber_has_a_topic_of_its_own(subscribers: int) -> None:
    for trial in duplex(replace(WORKLOAD, subscribers=subscribers, topics=2, arrival="bursty")):
        load = trial.workload
        assert load == replace(WORKLOAD, subscribers=subscribers, topics=subscribers, arrival="bursty")
        assert trial.duplex
        assert trial.linked


def test_a_duplex_run_that_is_durable_alone_is_refused() -> None:
    with pytest.raises(UsageError, match="No log keeps an answer, so there is no durable duplex trial; choose another"):
        Plan(Workload(), guarantees=(Guarantee.DURABLE,), measures=(*COMPARED, Measure.DUPLEX))


def test_a_durable_log_has_no_answers_and_is_left_out_of_duplex_alone() -> None:
    assert [trial.guarantee for trial in duplex()] == [g for g in OUT_OF_THE_BOX for _ in range(2)]
    both = Plan(WORKLOAD, ("sse",), tuple(Guarantee), (Measure.BANDWIDTH, Measure.DUPLEX)).trials()
    assert [trial.name for trial in both] == [
        *(f"bandwidth-sse-{guarantee}-1" for guarantee in Guarantee),
        *(f"duplex-sse-{guarantee}-1" for guarantee in OUT_OF_THE_BOX),
    ]


def test_the_other_measures_keep_the_topics_that_were_asked_for() -> None:
    trials = Plan(WORKLOAD, ("sse",), measures=(Measure.LATENCY, Measure.DUPLEX)).trials()
    assert [trial.workload.topics for trial in trials] == [1, 1, 3, 3]


@pytest.mark.parametrize(
    ("load", "sentence"),
    [
        ({"trace": "log.csv"}, r"^A trace has no requests; leave --trace out for a duplex run, or duplex out for"),
        (
            {"subscribers": MAX_TOPICS + 1},
            r"^1,001 subscribers are too many .* a topic of its own; take at most 1,000\.$",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(load: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        duplex(replace(WORKLOAD, **load))


def test_an_event_too_small_for_the_name_of_its_topic_is_refused() -> None:
    smallest = next(size for size in range(50, 300) if fits(size))
    assert duplex(replace(WORKLOAD, size=smallest))
    with pytest.raises(UsageError, match=rf"^size is {smallest}; it has to be a whole number from {smallest + 1} to"):
        duplex(replace(WORKLOAD, size=smallest, subscribers=11))


def fits(size: int) -> bool:
    try:
        return bool(replace(WORKLOAD, size=size))
    except UsageError:
        return False


def test_only_loads_that_are_broken_count_for_more_than_one() -> None:
    heavy = replace(WORKLOAD, rate=LIGHT, subscribers=2)
    weights = {}
    for subscribers in (1, 2, 100):
        load = replace(heavy, subscribers=subscribers)
        (trial,) = Plan(load, ("sse",), (Guarantee.AT_MOST_ONCE,), (Measure.LOSS,), (OUTAGE,)).trials()
        weights[subscribers] = weight(trial)
        assert weight(replace(trial, measure=Measure.BANDWIDTH)) == 1
    assert weights == {1: 1, 2: 2, 100: ROOM}


def test_an_interval_that_changes_nothing_is_refused() -> None:
    sweep = Sweep("interval", (0.05, 0.1))
    with pytest.raises(UsageError, match=r"^The interval is polling's: .*; have polling among the protocols\.$"):
        Plan(Workload(), ("websocket", "longpolling"), sweep=sweep)
    assert Plan(Workload(), ("websocket", "polling"), sweep=sweep).sweep == sweep
