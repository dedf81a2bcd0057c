"""Experiments as data: a table in, a plan out; what cannot be is a sentence that names it. Nothing is run."""

import inspect
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labkit import api, demos, suite
from labkit.errors import UsageError
from labkit.experiment import MOST_LETTERS, Experiment, check_name
from labkit.outage import Conditions, Outage
from labkit.plan import OUT_OF_THE_BOX, Sweep
from labkit.protocols import PROTOCOLS
from labkit.trial import COMPARED, Guarantee, Measure, Timings
from labkit.workload import Workload, digest

REFERENCE = suite.load().experiments
WITH_TRIALS = [name for name, each in REFERENCE.items() if not each.demonstrates]


@pytest.fixture(autouse=True)
def own_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABKIT_NATS", raising=False)


def of(**table: Any) -> Experiment:
    return Experiment.from_table("mine", table)


@pytest.mark.parametrize("quick", [False, True], ids=["full", "quick"])
@pytest.mark.parametrize("name", WITH_TRIALS)
def test_every_experiment_of_the_reference_suite_can_be(name: str, quick: bool) -> None:
    plan = REFERENCE[name].plan(quick, repeat=3)
    plan.check()
    trials = plan.trials()
    assert len({trial.name for trial in trials}) == len(trials) > 0
    assert {trial.repeat for trial in trials} == {1, 2, 3}
    for load in {trial.workload for trial in trials}:
        assert digest(load.schedule())


@pytest.mark.parametrize("name", WITH_TRIALS)
def test_the_quick_form_is_the_same_trials_with_less_to_do(name: str) -> None:
    full, quick = REFERENCE[name].plan(), REFERENCE[name].plan(quick=True)
    assert [trial.name for trial in full.trials()] == [trial.name for trial in quick.trials()]
    assert (full.workload != quick.workload) == bool(REFERENCE[name].quick)
    for trial, short in zip(full.trials(), quick.trials(), strict=True):
        load, less = trial.workload, short.workload
        assert less.rate * less.length * less.subscribers <= load.rate * load.length * load.subscribers


@pytest.mark.parametrize("name", REFERENCE)
def test_an_experiment_is_its_table_and_back_through_json_too(name: str) -> None:
    table = json.loads(json.dumps(REFERENCE[name].to_table()))
    assert Experiment.from_table(name, table) == REFERENCE[name]


def test_a_comparison_takes_the_arguments_of_compare() -> None:
    plan = of(
        kind="compare",
        workload={"rate": 50, "duration": 0.6},
        protocols=["sse", "websocket"],
        guarantees="at-least-once",
        measures=["latency", "loss"],
        outage={"kind": "close", "at": 0.2, "lasts": 0.1},
        conditions={"delay": 0.01},
        timings={"poll": 0.1},
        repeat=2,
    ).plan()
    assert plan.workload == Workload(rate=50, duration=0.6)
    assert plan.protocols == ("sse", "websocket")
    assert plan.guarantees == (Guarantee.AT_LEAST_ONCE,)
    assert plan.measures == (Measure.LATENCY, Measure.LOSS)
    assert plan.outages == (Outage("close", 0.2, 0.1),)
    assert (plan.conditions, plan.timings, plan.repeat) == (Conditions(delay=0.01), Timings(poll=0.1), 2)


def test_what_a_comparison_leaves_out_is_as_with_compare() -> None:
    plan = of(kind="compare").plan()
    assert (plan.workload, plan.protocols, plan.repeat) == (Workload(), tuple(PROTOCOLS), 1)
    assert (plan.guarantees, plan.measures) == (OUT_OF_THE_BOX, COMPARED)
    assert [outage.kind for outage in plan.outages] == ["reset"]


def test_a_sweep_takes_the_arguments_of_sweep() -> None:
    table = {"over": "size", "values": [256, 4096], "protocols": "sse", "workload": {"rate": 20}}
    plan = of(kind="sweep", **table, linked=True).plan()
    assert plan.sweep == Sweep("size", (256.0, 4096.0))
    assert plan.measures == (Measure.COST,)
    assert of(kind="sweep", over="rate", values=[10]).plan().measures == (Measure.LATENCY,)


def test_quick_goes_over_the_workload_and_the_repeats_of_a_suite_over_ones_own() -> None:
    each = of(kind="compare", workload={"rate": 50, "size": 300}, quick={"rate": 10}, repeat=2)
    assert each.plan().workload == Workload(rate=50, size=300)
    assert each.plan(quick=True).workload == Workload(rate=10, size=300)
    assert each.plan().repeat == 2
    assert each.plan(repeat=4).repeat == 4


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, ["'mine' is of kind None", "compare, sweep, demonstrations"]),
        ({"kind": "guess"}, ["'mine' is of kind 'guess'", "compare, sweep, demonstrations"]),
        ({"kind": ["compare"]}, ["'mine' is of kind ['compare']"]),
        ({"kind": "compare", "quick": 5}, ["'mine' has quick 5"]),
        ({"kind": "compare", "same": "rate"}, ["'mine' has", "same 'rate'"]),
    ],
)
def test_a_table_that_describes_no_experiment_is_a_sentence(table: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        of(**table)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"rates": 1}, ["the experiment 'mine': it has 'rates'", "workload, protocols"]),
        ({"over": "rate"}, ["the experiment 'mine': ", "'over'"]),
        ({"workload": {"speeed": 1}}, ["the experiment 'mine': workload has 'speeed'", "rate, duration"]),
        ({"quick": {"speeed": 1}}, ["workload has 'speeed'"]),
        ({"workload": 5}, ["the experiment 'mine': workload is 5", "{ rate = 100 }"]),
        ({"workload": {"rate": 0}}, ["rate is 0", "0.1"]),
        ({"workload": {"rate": "fast"}}, ["rate is 'fast'", "a number"]),
        ({"workload": {"arrival": ["poisson"]}}, ["arrival is ['poisson']", "constant, poisson, bursty"]),
        ({"workload": {"rate": 10**6, "size": 10**6}}, ["1,000,000 events/s of 1,000,000 bytes", "lower one"]),
        ({"timings": "x"}, ["timings is 'x'; write it as a table, { poll = 0.1 }."]),
        ({"timings": 0}, ["timings is 0;"]),
        ({"conditions": 3}, ["conditions is 3; write it as a table, { delay = 0.02 }."]),
        ({"conditions": []}, ["conditions is [];"]),
        ({"workload": {"duration": 0.1}, "quick": {"duration": 0}, "measures": "cost"}, ["duration is 0"]),
        ({"timings": {"poll": -1}}, ["poll is -1"]),
        ({"timings": {"pol": 1}}, ["the experiment 'mine': timings has 'pol'", "poll"]),
        ({"conditions": {"delay": 100}}, ["delay is 100", "10 s"]),
        ({"protocols": "pigeon"}, ["'pigeon'", "websocket"]),
        ({"protocols": 5}, ["protocols is 5", "websocket"]),
        ({"protocols": [["sse"]]}, ["no protocol ['sse']"]),
        ({"protocols": []}, ["nothing to compare"]),
        ({"guarantees": "exactly-once"}, ["'exactly-once'", "at-least-once"]),
        ({"guarantees": [5]}, ["There is no guarantee '5'"]),
        ({"guarantees": 5}, ["guarantees is 5", "at-least-once"]),
        ({"measures": 5}, ["measures is 5", "latency"]),
        ({"measures": []}, ["nothing to measure", "latency"]),
        ({"measures": "loss", "outage": "none"}, ["Loss is measured in an outage", "name one"]),
        ({"measures": "beauty"}, ["'beauty'", "latency"]),
        ({"outage": "earthquake"}, ["'earthquake'", "reset"]),
        ({"outage": 5}, ["outage is 5", "reset"]),
        ({"outage": [{"kind": "reset"}]}, ["no outage {'kind': 'reset'}"]),
        ({"outage": {"kind": "close", "when": 1}}, ["the experiment 'mine': outage has 'when'", "lasts"]),
        ({"outage": {"kind": "close", "at": 0.1, "lasts": 0}}, ["lasts 0 s"]),
        ({"outage": "broker-crash", "protocols": "sse"}, ["sse has no broker"]),
        ({"repeat": 0}, ["repeat is 0", "100"]),
        ({"repeat": -1}, ["repeat is -1", "100"]),
        ({"repeat": 1.5}, ["repeat is 1.5"]),
        ({"repeat": "x"}, ["repeat is 'x'"]),
    ],
)
def test_a_comparison_that_cannot_be_is_a_sentence_with_the_value(table: dict[str, Any], words: list[str]) -> None:
    for repeat in (None, 2):  # what takes the place of its own repeat, does not hide that this is wrong
        with pytest.raises(UsageError) as caught:
            of(kind="compare", **table).plan(quick="quick" in table, repeat=repeat)
        for word in ("In the experiment 'mine': ", *words):
            assert word in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, ["the experiment 'mine': it has no 'over'; it needs over and values."]),
        ({"over": "rate"}, ["the experiment 'mine': it has no 'values'; it needs over and values."]),
        ({"over": ["rate"], "values": [1]}, ["no sweep over ['rate']", "rate, topics, subscribers, size, interval"]),
        ({"over": "rate", "values": [10], "linked": 1}, ["linked is 1; it has to be true or false."]),
        ({"over": "beauty", "values": [1]}, ["no sweep over 'beauty'", "rate, topics, subscribers, size, interval"]),
        ({"over": "rate", "values": []}, ["are ()", "1 to 20 different numbers"]),
        ({"over": "rate", "values": [10, 10]}, ["(10, 10)"]),
        ({"over": "rate", "values": "12"}, ["('1', '2')"]),
        ({"over": "rate", "values": [0]}, ["rate is 0"]),
        ({"over": "subscribers", "values": [1.5]}, ["subscribers is 1.5"]),
        ({"over": "interval", "values": [9]}, ["An interval of 9 s is longer"]),
        ({"over": "rate", "values": [10], "outage": "reset"}, ["the experiment 'mine': ", "'outage'"]),
    ],
)
def test_a_sweep_that_cannot_be_is_a_sentence_with_the_value(table: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        of(kind="sweep", **table).plan()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, ["the experiment 'mine': ", "'names'"]),
        ({"name": ["reach"]}, ["the experiment 'mine': ", "'name'"]),
        ({"names": 5}, ["no demonstration 5", "reach"]),
        ({"names": []}, ["no demonstration to carry out", "reach"]),
        ({"names": [["reach"]]}, ["no demonstration ['reach']"]),
        ({"names": ["reach", "fly"]}, ["no demonstration 'fly'", "reach"]),
    ],
)
def test_demonstrations_that_there_are_not_are_a_sentence_before_any_is_run(
    table: dict[str, Any], words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[str] = []
    monkeypatch.setitem(demos.DEMONSTRATIONS, "reach", lambda: iter(ran.append("reach") or ()))
    with pytest.raises(UsageError) as caught:
        of(kind="demonstrations", **table).demonstrate(tmp_path / "out")
    for word in words:
        assert word in str(caught.value)
    assert not ran
    assert not (tmp_path / "out").exists()


def test_demonstrations_are_named_one_or_several() -> None:
    assert of(kind="demonstrations", names="reach").demonstrated() == ["reach"]
    assert of(kind="demonstrations", names=["half_open", "reach"]).demonstrated() == ["half_open", "reach"]
    assert of(kind="demonstrations", names=["half_open", "reach", "half_open"]).demonstrated() == ["half_open", "reach"]


ODD: list[Any] = [-1, 0, 2.5, True, "", "x", [], [[]], [3], ["x", "x"], [{}], {"nope": 1}, {"": {}}, 10**400, math.nan]
WHOLE: list[tuple[str, dict[str, Any], Callable[..., Any]]] = [
    ("compare", {}, api.planned),
    ("sweep", {"over": "size", "values": [300]}, api.swept),
]
PARTS = {"workload": Workload, "timings": Timings, "outage": Outage, "conditions": Conditions}
PLACES = [(kind, table, (name,)) for kind, table, made in WHOLE for name in inspect.signature(made).parameters]
PLACES += [("compare", {}, (part, name)) for part, made in PARTS.items() for name in inspect.signature(made).parameters]


@pytest.mark.parametrize(("kind", "table", "place"), PLACES, ids=lambda part: ".".join(part))
def test_whatever_stands_in_any_place_is_a_plan_or_a_sentence(
    kind: str, table: dict[str, Any], place: tuple[str, ...]
) -> None:
    refused = 0
    for odd in ODD:
        given = {**table, "workload": {"rate": 10, "duration": 0.3}}
        inner = given if len(place) == 1 else given.setdefault(place[0], {})
        inner[place[-1]] = odd
        said = refusal(of(kind=kind, **given))
        if said:
            assert said.startswith("In the experiment 'mine': ")
            assert said.endswith(".")
        refused += bool(said)
    assert refused >= len(ODD) / 2


def refusal(experiment: Experiment) -> str:
    """Why it has no plan, or nothing where it has one."""
    try:
        return "" if experiment.plan(repeat=2).trials() else "no trial"
    except UsageError as error:
        return str(error)


@pytest.mark.parametrize("name", ["a", "A-b_3", "é" * MOST_LETTERS, "x" * MOST_LETTERS])
def test_what_a_folder_can_be_called_is_a_name(name: str) -> None:
    check_name("It", name)


@pytest.mark.parametrize(
    "name", ["", "-", ".", "..", "a b", "a/b", "a\\b", "a.b", "a\0", "x" * (MOST_LETTERS + 1), "x" * 300]
)
def test_what_no_folder_can_be_called_is_a_sentence(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_name("It", name)
    assert str(caught.value).startswith("It is called '")
    assert str(caught.value).endswith(", which no file can be; use letters and hyphens, at most 60.")
    assert len(str(caught.value)) < 120


def test_what_thresholds_rest_on_is_the_same_in_the_quick_form() -> None:
    for name, each in REFERENCE.items():
        assert set(each.quick) <= {"duration", "subscribers", "rate"}, name
        assert not set(each.quick) & set(each.same), name
