"""Suites: the reference suite is well formed, its rounds are fair, and a bad file is one sentence. Nothing is run."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit import claims, suite
from labkit.errors import UsageError
from labkit.plan import MOST_REPEATS
from labkit.several import named
from labkit.suite import MOST_SEED, REPEATS, Suite

SMALL: dict[str, dict[str, Any]] = {
    "pushed": {"kind": "compare", "measures": "latency", "protocols": ["sse", "websocket"]},
    "swept": {"kind": "sweep", "over": "rate", "values": [10, 20, 30], "protocols": "sse"},
    "tried": {"kind": "demonstrations", "names": ["half_open"]},
}


@pytest.fixture(autouse=True)
def own_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABKIT_NATS", raising=False)


def order_of(found: Suite) -> list[tuple[str, int, list[str]]]:
    """The steps, each with its trials' names."""
    return [(name, number, [trial.name for trial in trials]) for name, number, trials in found.steps(found.plans())]


@pytest.mark.parametrize(("quick", "repeat"), [(False, 5), (True, 1)])
def test_the_reference_suite_is_well_formed_and_all_of_it_can_be(quick: bool, repeat: int) -> None:
    found = suite.load(quick=quick)
    assert (found.repeat, found.quick, found.seed) == (repeat, quick, 1)
    assert found.title.endswith("?")
    assert set(claims.load()[0]) < set(found.tables)
    plans = found.plans()
    assert set(found.tables) - set(plans) == {"demonstrations"}
    assert sum(len(plan.trials()) for plan in plans.values()) >= 400 * repeat


def test_every_chart_of_the_reference_suite_is_made_from_experiments_that_it_has() -> None:
    found = suite.load()
    assert found.charts
    for name, table in found.charts.items():
        assert named(table), name
        assert set(named(table)) <= set(found.tables), name


@pytest.mark.parametrize("quick", [False, True])
def test_all_rounds_of_the_reference_suite_together_are_each_trial_of_its_plans_once(quick: bool) -> None:
    found = suite.load(quick=quick, repeat=2)
    plans = found.plans()
    ran = Counter((name, trial.name) for name, _, trials in found.steps(plans) for trial in trials)
    assert ran == Counter((name, trial.name) for name, plan in plans.items() for trial in plan.trials())
    assert set(ran.values()) == {1}


def test_a_round_has_one_repeat_of_every_trial_and_the_first_has_the_demonstrations() -> None:
    found = Suite("Small", SMALL, repeat=3)
    rounds: dict[int, list[str]] = {}
    for name, number, trials in found.steps(found.plans()):
        rounds.setdefault(number, []).append(name)
        assert {trial.repeat for trial in trials} <= {number}
        assert len(trials) == {"pushed": 4, "swept": 3, "tried": 0}[name]
    assert list(rounds) == [1, 2, 3]
    assert [sorted(names) for names in rounds.values()] == [sorted(SMALL), ["pushed", "swept"], ["pushed", "swept"]]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, MOST_SEED), repeat=st.integers(1, 4))
def test_whatever_the_seed_each_trial_is_run_once_in_the_round_of_its_repeat(seed: int, repeat: int) -> None:
    found = Suite("Small", SMALL, seed=seed, repeat=repeat)
    plans = found.plans()
    order = order_of(found)
    assert [number for _, number, _ in order] == sorted(number for _, number, _ in order)
    ran = Counter((name, trial) for name, _, trials in order for trial in trials)
    assert ran == Counter((name, trial.name) for name, plan in plans.items() for trial in plan.trials())
    assert [name for name, *_ in order].count("tried") == 1
    assert order == order_of(Suite("Small", SMALL, seed=seed, repeat=repeat))


def test_another_seed_is_another_order_and_nothing_else_random_has_a_say_in_it() -> None:
    random.seed(7)
    first = order_of(suite.load(repeat=1))
    random.seed(8)
    assert order_of(suite.load(repeat=1)) == first
    assert len({json.dumps(order_of(suite.load(seed=seed, repeat=1))) for seed in range(5)}) == 5


def test_no_experiment_always_comes_first() -> None:
    found = Suite("Small", dict.fromkeys("abc", SMALL["pushed"]), repeat=30)
    rounds = [[name for name, number, _ in order_of(found) if number == each] for each in range(1, 31)]
    assert {sorted(names) == ["a", "b", "c"] for names in rounds} == {True}
    assert set(Counter(names[0] for names in rounds)) == {"a", "b", "c"}


def test_no_protocol_always_comes_first() -> None:
    found = Suite("Small", {"all": {"kind": "compare", "measures": "latency"}}, repeat=30)
    firsts = Counter(trials[0].protocol for _, _, trials in found.steps(found.plans()))
    assert len(firsts) == 7
    assert max(firsts.values()) < 15


def test_a_suite_is_its_fields_and_back_through_json_with_the_same_order() -> None:
    found = suite.load(seed=3, quick=True)
    again = Suite(**json.loads(json.dumps(found.to_json())))
    assert again.to_json() == json.loads(json.dumps(found.to_json()))
    assert order_of(again) == order_of(found)


def test_a_suite_of_ones_own_has_what_its_file_says_and_no_claims(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[experiment.a]\nkind = "compare"\n[chart.b]\noverlay = { A = "a" }\n')
    found = suite.load(path)
    assert (found.title, found.seed, found.repeat, found.quick) == ("mine", 1, REPEATS, False)
    assert found.tables == {"a": {"kind": "compare"}}
    assert found.charts == {"b": {"overlay": {"A": "a"}}}
    path.write_text('title = "Mine"\nclaims = true\n')
    assert suite.load(path).title == "Mine"
    assert set(suite.load(path).tables) == set(claims.load()[0])


KIND = '[experiment.a]\nkind = "compare"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[experiment\n", ["cannot be read", "give a TOML file of experiments"]),
        (KIND + KIND, ["cannot be read"]),
        (b"\xff\xfe", ["cannot be read"]),
        ("", ["no experiment", "[experiment.NAME]"]),
        ('titel = "A"\n' + KIND, ["has 'titel'", "title, claims, experiment and chart"]),
        ("experiment = 5\n", ["has experiment 5", "[experiment.NAME]"]),
        ("experiment.a = 5\n", ["has experiment {'a': 5}", "[experiment.NAME]"]),
        ("chart = [1]\n" + KIND, ["has chart [1]", "[chart.NAME]"]),
        (KIND + "[chart]\na = 5\n", ["has chart {'a': 5}", "[chart.NAME]"]),
        ('[experiment."a/b"]\nkind = "compare"\n', ["called 'a/b'", "letters and hyphens"]),
        ('[experiment.""]\nkind = "compare"\n', ["called ''", "letters and hyphens"]),
        ('[experiment.".."]\nkind = "compare"\n', ["called '..'"]),
        ('[experiment.charts]\nkind = "compare"\n', ["called 'charts'"]),
        ("claims = true\n[experiment.sizes]\nkind = 'compare'\n", ["'sizes' is called as one of"]),
        ("[experiment.a]\nkind = 'guess'\n", ["'a' is of kind 'guess'"]),
        (KIND + "workload = { rate = 0 }\n", ["In the experiment 'a'", "rate is 0"]),
        (KIND + "outage = 'none'\nworkload = { trace = 5 }\n", ["In the experiment 'a'", "trace is 5"]),
        (KIND + "outage = 'none'\nworkload = { trace = 'no.jsonl' }\n", ["In the experiment 'a'", "'no.jsonl'"]),
        (
            KIND + "outage = 'none'\nworkload = { rate = 0.1, duration = 0.1, arrival = 'poisson' }\n",
            ["In the experiment 'a'", "no event within 0.1 s"],
        ),
        (KIND + "outage = 2026-01-01\n", ["cannot be kept", "date"]),
        (KIND + "outage = 5\n", ["In the experiment 'a'"]),
        (KIND + "protocol = 'sse'\n", ["In the experiment 'a': it has 'protocol'", "workload, protocols"]),
        ("title = 5\n" + KIND, ["has title 5 and claims False", "a text"]),
        ("claims = 'yes'\n" + KIND, ["claims 'yes'", "true or false"]),
        (KIND + "outage = { kind = 'reset', at = 2.9, lasts = 0.5 }\n", ["In the experiment 'a'", "a load of 3 s"]),
        ("[experiment.a]\nkind = 'demonstrations'\nnames = ['fly']\n", ["In the experiment 'a'", "'fly'"]),
        (KIND + "[chart.b]\nwhen = 2026-01-01\n", ["cannot be kept", "date"]),
        (f"a = {'[' * 5000}{']' * 5000}\n" + KIND, ["values within values", "more than 10 deep"]),
        (KIND + f"same = {'[' * 9}{']' * 9}\n", ["more than 10 deep"]),
        (f"[experiment.a.quick.{'.'.join('a' * 600)}]\n", ["more than 10 deep"]),
        (f"[experiment.{'x' * 300}]\nkind = 'compare'\n", ["called 'xxx", "at most 60"]),
        ("[experiment.Charts]\nkind = 'compare'\n", ["called 'Charts'"]),
        (KIND + "[experiment.A]\nkind = 'compare'\n", ["'a' and 'A'", "capitals"]),
        (KIND + "[chart]\nb.overlay.A = 'a'\nB.overlay.A = 'a'\n", ["'b' and 'B'", "capitals"]),
        (KIND + "[chart.'a/b']\noverlay = { A = 'a' }\n", ["A chart is called 'a/b'"]),
        (KIND + "[chart.b]\noverlay = { A = 'c' }\n", ["In the chart 'b'", "no experiment 'c'", "choose from a."]),
        (KIND + "[chart.b]\ncost = 'a'\nloss = 'a'\nweights = 5\n", ["In the chart 'b'", "weights are 5"]),
        (
            "[experiment.a]\nkind = 'compare'\nmeasures = ['cost', 'loss']\nguarantees = 'durable'\n"
            "[experiment.d]\nkind = 'demonstrations'\nnames = 'half_open'\n"
            "[chart.b]\ncost = 'a'\nloss = 'a'\nweights = { latency = 1 }\n",
            ["In the chart 'b'", "demonstrations of reach"],
        ),
    ],
)
def test_a_bad_file_is_one_sentence_that_names_what_is_wrong(
    tmp_path: Path, text: str | bytes, words: list[str]
) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UsageError) as caught:
        suite.load(path).plans()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere.toml", "."])
def test_what_is_no_file_is_a_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be read: .*; give a TOML file of experiments"):
        suite.load(tmp_path / name)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"repeat": 0}, f"repeat is 0; it has to be a whole number from 1 to {MOST_REPEATS}."),
        ({"repeat": MOST_REPEATS + 1}, "repeat is 101;"),
        ({"repeat": True}, "repeat is True;"),
        ({"repeat": 1.0}, "repeat is 1.0;"),
        ({"seed": -1}, "seed is -1; it has to be a whole number from 0 to 4,294,967,295."),
        ({"seed": 2**32}, "seed is 4294967296;"),
        ({"seed": "1"}, "seed is '1';"),
        ({"seed": 10**5000}, "seed is That number;"),
    ],
)
def test_a_bad_seed_or_repeat_is_a_sentence_with_the_value_and_the_limit(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        suite.load(**given)
    assert words in str(caught.value)


def test_the_limits_themselves_are_taken() -> None:
    for seed, repeat in ((0, 1), (MOST_SEED, MOST_REPEATS)):
        assert Suite("Small", SMALL, seed=seed, repeat=repeat).plans()
