"""Two runs side by side, from runs written by hand."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_charts import LOAD, OUTAGE, spec, write_run
from test_sweeps import planned, swept

import labkit as lab
from labkit.cli import main
from labkit.differences import COLUMNS, Differences, compare_runs
from labkit.errors import UsageError
from labkit.intervals import interval
from labkit.outage import Outage
from labkit.packing import pack
from labkit.protocols import PROTOCOLS
from labkit.results import Run
from labkit.trial import COMPARED, SCHEMA, Guarantee, Measure, Trial
from labkit.workload import digest

ONCE, LEAST = Guarantee.AT_MOST_ONCE, Guarantee.AT_LEAST_ONCE
LATENCY = (Measure.LATENCY,)
"""Where it does not matter what is measured."""

ABOUT: dict[str, Any] = {
    "workload": LOAD.to_json(),
    "digest": digest(LOAD.schedule()),
    "outages": [OUTAGE.to_json()],
    "conditions": {"delay": 0.0, "jitter": 0.0, "bandwidth": 0.0},
    "timings": {"heartbeat": 1.0, "poll": 0.25},
    "versions": {"python": "3.11.7", "aiohttp": "3.14.5"},
    "machine": {"cpu": "AMD", "cores": 2, "commit": "0123456789abcdef", "dirty": False},
}
"""What a manifest says besides its trials."""


def steady(trial: Trial) -> dict[str, Any]:
    """Repeats of a latency differ by a hundredth: 1.01 to 1.05; all else is exact."""
    return {"delay_ms": 1 + trial.repeat / 100} if trial.measure is Measure.LATENCY else {}


def slower(by: float, protocol: str = "sse") -> Callable[[Trial], dict[str, Any]]:
    """The same, but the latency of one protocol so many times as high."""

    def how(trial: Trial) -> dict[str, Any]:
        found = steady(trial)
        return {name: value * by for name, value in found.items()} if trial.protocol == protocol else found

    return how


def made(
    folder: Path,
    how: Callable[[Trial], dict[str, Any]] = steady,
    protocols: tuple[str, ...] = ("sse", "polling"),
    guarantees: tuple[Guarantee, ...] = (LEAST,),
    measures: tuple[Measure, ...] = COMPARED,
    outages: tuple[Outage, ...] = (OUTAGE,),
    repeat: int = 5,
    errors: dict[str, str] | None = None,
    **about: Any,
) -> Run:
    """A run; `how` is what happens in each trial, `about` goes over what its manifest says."""
    trials = {}
    for measure, protocol, guarantee, number in itertools.product(measures, protocols, guarantees, range(repeat)):
        for outage in outages if measure is Measure.LOSS else outages[:1]:
            trial = spec(measure, protocol, guarantee, number + 1, outage)
            trials[trial] = how(trial)
    write_run(folder, trials, errors)
    return said(folder, **{**ABOUT, "outages": [outage.to_json() for outage in outages], **about})


def said(folder: Path, **about: Any) -> Run:
    """The run, of which the manifest says that besides."""
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **about}))
    return Run(folder)


def suite(folder: Path, runs: dict[str, dict[str, Any]], quick: bool = False, **about: Any) -> Path:
    """A suite's folder of such runs, by experiment."""
    folder.mkdir()
    about = {"schema": SCHEMA, "parts": [], "machine": ABOUT["machine"], "versions": ABOUT["versions"], **about}
    about["suite"] = {"title": "Some", "tables": {name: {} for name in runs}, "charts": {}, "quick": quick}
    (folder / "suite.json").write_text(json.dumps(about))
    for name, fields in runs.items():
        made(folder / name, **fields)
    return folder


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made(tmp_path_factory.mktemp("runs") / "calm")


def refusal(a: Any, b: Any) -> str:
    """The one sentence with which two are refused."""
    with pytest.raises(UsageError) as caught:
        compare_runs(a, b)
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


def flat(found: Differences) -> str:
    """Its text, in one line with single spaces."""
    return " ".join(str(found).split())


def of(found: Differences, verdict: str) -> list[tuple[str, str]]:
    rows = found.frame[found.frame["verdict"] == verdict]
    return list(zip(rows["protocol"], rows["figure"], strict=True))


def test_a_planted_difference_is_found_and_nothing_else(calm: Run, tmp_path: Path) -> None:
    found = compare_runs(calm, made(tmp_path / "b", slower(2)))
    assert of(found, "exceeds") == [("sse", "p50_ms"), ("sse", "p90_ms"), ("sse", "p99_ms")]
    row = found.frame[found.frame["verdict"] == "exceeds"].iloc[0]
    assert [row[name] for name in ("a", "a_low", "a_high")] == pytest.approx([5.665, 5.555, 5.775])
    assert [row[name] for name in ("b", "b_low", "b_high")] == pytest.approx([11.33, 11.11, 11.55])
    assert row["ratio"] == pytest.approx(2)
    assert (row["experiment"], row["measure"], row["guarantee"], row["unit"]) == ("", "latency", "at-least-once", "ms")
    assert math.isnan(row["at"])
    assert list(found.frame) == COLUMNS
    line = (
        "Server-Sent Events at-least-once: Median latency: A 5.67 ms (5.55 to 5.78), B 11.33 ms (11.11 to 11.55), worse"
    )
    assert f"×2.00 {line} ×2.00" in flat(found)
    assert "Polling" not in str(found)


def test_which_way_is_better_follows_from_the_order_of_the_runs(calm: Run, tmp_path: Path) -> None:
    text = flat(compare_runs(made(tmp_path / "b", slower(2)), calm))
    assert "÷2.00 Server-Sent Events at-least-once: Median latency: A 11.33 ms (11.11 to 11.55), B 5.67" in text
    assert text.count("better") == 3
    assert "worse" not in text


@pytest.mark.parametrize(("by", "verdict"), [(1.02, "within"), (1.05 / 1.01, "within"), (1.05, "exceeds")])
def test_intervals_that_meet_are_no_difference(calm: Run, tmp_path: Path, by: float, verdict: str) -> None:
    found = compare_runs(calm, made(tmp_path / "b", slower(by), measures=LATENCY))
    assert ("sse", "p50_ms") in of(found, verdict)
    assert ("Median latency" in str(found)) == (verdict == "exceeds")


def test_what_is_equal_is_the_same_and_counted_so(calm: Run) -> None:
    found = compare_runs(calm, calm.folder)
    assert set(found.frame["verdict"]) == {"the same", "in neither"}
    same = len(of(found, "the same"))
    assert found.counts == (
        f"{same} figures compared: 0 exceed the intervals, 0 within them, {same} the same, 0 without an interval."
    )
    assert str(found).endswith(found.counts)
    assert repr(found) == str(found)
    assert found.frame[found.frame["verdict"] == "the same"]["ratio"].eq(1).all()


def test_an_exact_figure_exceeds_when_it_differs_at_all(calm: Run, tmp_path: Path) -> None:
    found = compare_runs(calm, made(tmp_path / "b", lambda trial: {**steady(trial), "copies": 1}))
    assert of(found, "exceeds") == [("sse", "duplicated"), ("polling", "duplicated")]
    assert "from 0 Server-Sent Events at-least-once, reset: Duplicates: A 0, B 1, worse" in flat(found)


def test_digits_are_shown_until_the_two_differ(tmp_path: Path) -> None:
    a, b = (
        made(tmp_path / name, lambda trial, ms=ms: {"delay_ms": ms}, measures=LATENCY)
        for name, ms in (("a", 1.0), ("b", 1.0002))
    )
    found = compare_runs(a, b)
    assert ("sse", "p50_ms") in of(found, "exceeds")
    assert "×1.00 Server-Sent Events at-least-once: Median latency: A 5.500 ms, B 5.501 ms, worse" in flat(found)


def test_the_largest_ratio_comes_first_whichever_way(calm: Run, tmp_path: Path) -> None:
    def how(trial: Trial) -> dict[str, Any]:
        return slower(0.2)(trial) if trial.protocol == "sse" else slower(3, "polling")(trial)

    rows = [
        line[:9].strip() for line in str(compare_runs(calm, made(tmp_path / "b", how))).split("\n") if line[:1] in "×÷"
    ]
    assert [row for row in rows if row] == ["÷5.00"] * 3 + ["×3.00"] * 3


def test_one_repeat_has_no_interval_and_nothing_is_said_of_it(calm: Run, tmp_path: Path) -> None:
    found = compare_runs(calm, made(tmp_path / "b", slower(2), repeat=1, measures=LATENCY))
    assert not of(found, "exceeds")
    assert ("sse", "p50_ms") in of(found, "no interval")
    assert "One repeat has no interval; run both with --repeat 5." in flat(found)
    assert "is without an interval: nothing can be said." in flat(found)
    assert "Repeats: 5 in A, 1 in B." in str(found)
    assert "×" not in flat(found)
    alike = compare_runs(Run(tmp_path / "b"), Run(tmp_path / "b"))
    assert ("sse", "p50_ms") in of(alike, "the same")


@pytest.mark.parametrize("repeat", [2, 4])
def test_of_few_repeats_it_says_that_intervals_miss_each_other_by_chance(tmp_path: Path, repeat: int) -> None:
    both = [made(tmp_path / name, slower(by), repeat=repeat, measures=LATENCY) for name, by in (("a", 1), ("b", 2))]
    text = str(compare_runs(*both))
    assert "With fewer than 5 repeats in both, intervals miss each other by chance quite often" in text
    assert "×2.00" in text


@pytest.mark.parametrize("repeat", [2, 3, 4, 5])
def test_an_interval_of_up_to_five_repeats_is_all_of_them(repeat: int) -> None:
    found = interval(range(repeat))
    assert (found.low, found.high) == (0, repeat - 1)


def test_many_figures_differ_by_chance_and_it_says_so_where_one_does(calm: Run, tmp_path: Path) -> None:
    words = "Of many figures some exceed their intervals by chance"
    assert words in str(compare_runs(calm, made(tmp_path / "b", slower(2))))
    assert words not in str(compare_runs(calm, calm))


def test_what_never_came_in_one_of_them_is_said(calm: Run, tmp_path: Path) -> None:
    lost = made(tmp_path / "b", lambda trial: {"keep": 0.3} if trial.measure is Measure.LOSS else steady(trial))
    found = compare_runs(calm, lost)
    assert ("sse", "recovered_ms") in of(found, "never in B")
    assert "reset: Time to recover: A 5.0 ms, B never Polling" in flat(found)
    few = made(tmp_path / "few", lambda trial: {"keep": 0.01} if trial.measure is Measure.LATENCY else steady(trial))
    found = compare_runs(few, calm)
    assert ("sse", "p50_ms") in of(found, "not measured in A")
    assert "Median latency: A not measured, B 5.67 ms (5.55 to 5.78) Server" in flat(found)


NOTHING = "A and B have no figure in common{}; give two runs that measured the same of one protocol."
CAN = "Only runs of one workload, sweep, link and timings can be compared, and here is "
AGAIN = "; run one of them again as the other was."


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"workload": {**ABOUT["workload"], "rate": 400.0}}, "rate 200 in A and 400 in B"),
        ({"workload": {**ABOUT["workload"], "seed": 8}}, "seed 7 in A and 8 in B"),
        ({"workload": {**ABOUT["workload"], "trace": "trace.csv"}}, "trace none in A and trace.csv in B"),
        ({"digest": "abc"}, f"digest of the events {ABOUT['digest'][:12]} in A and abc in B"),
        (
            {"sweep": {"over": "rate", "values": [1.0, 2.5]}},
            "sweep over none in A and rate in B, values none in A and 1 2.5 in B",
        ),
        ({"conditions": {**ABOUT["conditions"], "delay": 0.05}}, "link's delay 0 in A and 0.05 in B"),
        ({"timings": {"heartbeat": 0.5, "poll": 0.1}}, "heartbeat 1 in A and 0.5 in B, poll 0.25 in A and 0.1 in B"),
        (
            {"workload": {**ABOUT["workload"], "rate": 1, "size": 300, "subscribers": 6, "topics": 2, "seed": 0}},
            "rate 200 in A and 1 in B, size 256 in A and 300 in B, subscribers 5 in A and 6 in B, and 2 more",
        ),
    ],
)
def test_runs_of_another_workload_are_refused_with_what_differs_first(
    calm: Run, tmp_path: Path, about: dict[str, Any], words: str
) -> None:
    assert refusal(calm, made(tmp_path / "b", measures=(), **about)) == f"{CAN}{words}{AGAIN}"


def test_a_setting_that_only_one_of_them_knows_is_no_reason(calm: Run, tmp_path: Path) -> None:
    old = made(tmp_path / "old", measures=LATENCY, timings={"heartbeat": 1.0}, machine={"cpu": "AMD"}, versions={})
    assert "Commit: 0123456789 in A, unknown in B." in str(compare_runs(calm, old))
    bare = {name: how for name, how in ABOUT.items() if name not in ("machine", "versions", "timings")}
    folder = made(tmp_path / "bare", measures=LATENCY).folder
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(
        json.dumps({name: value for name, value in manifest.items() if name in bare or name in ("schema", "trials")})
    )
    assert "Machine and versions are unknown." in str(compare_runs(calm, folder))


def test_what_differs_in_machine_versions_and_commit_is_said_on_top(calm: Run, tmp_path: Path) -> None:
    assert "Machine and versions are the same.\nCommit: 0123456789 in both." in str(compare_runs(calm, calm))
    machine = {**ABOUT["machine"], "cpu": "Intel", "commit": "fedcba9876543210", "dirty": True}
    other = made(
        tmp_path / "b",
        measures=LATENCY,
        machine=machine,
        versions={"python": "3.12.1", "aiohttp": "3.14.5", "uvloop": None},
    )
    lines = str(compare_runs(calm, other)).split("\n")
    assert lines[0].startswith("In both: rate 200, duration 1, size 256, subscribers 5, topics 1, arrival constant")
    assert "What differs: cpu AMD in A and Intel in B, python 3.11.7 in A and 3.12.1 in B." in lines
    assert "Commit: 0123456789 in A, fedcba9876 with changes in B." in lines
    part = {"elsewhere_cpu_s": None, "seconds": 1.0, "dirty": False}
    resumed = made(tmp_path / "c", measures=LATENCY, parts=[{**part, "commit": "a" * 40}, {**part, "commit": "b" * 40}])
    assert "Commit: 0123456789 in A, aaaaaaaaaa, then bbbbbbbbbb in B." in str(compare_runs(calm, resumed))


def test_noise_and_failures_of_each_are_said(calm: Run, tmp_path: Path) -> None:
    part = {"elsewhere_cpu_s": 10.0, "seconds": 20.0, "commit": None, "dirty": None}
    noisy = made(tmp_path / "b", measures=LATENCY, parts=[part], errors={"latency-sse-at-least-once-9": "broke"})
    text = str(compare_runs(calm, noisy))
    assert "Noise in B: other programs used 25% of the CPU meanwhile." in text
    assert "Failed in B: latency-sse-at-least-once-9." in text
    assert "in A: other" not in text
    assert "Failed in A" not in text


def test_outages_that_came_otherwise_are_left_out_and_named(tmp_path: Path) -> None:
    later = Outage("reset", at=0.5, lasts=0.2)
    both = Outage("close", at=0.3, lasts=0.1)
    a = made(tmp_path / "a", outages=(OUTAGE, both), measures=(Measure.LOSS,))
    b = made(tmp_path / "b", outages=(later, both), measures=(Measure.LOSS,))
    found = compare_runs(a, b)
    assert set(found.frame["outage"]) == {"close"}
    ways = [f"at {at}, lasts 0.2, share 1, repeat 1" for at in (0.4, 0.5)]
    assert f"Not comparable: outage reset: {ways[0]} in A and {ways[1]} in B." in str(found)
    assert "the same timings, outage close: at 0.3, lasts 0.1, share 1, repeat 1. Repeats: 5 in both." in flat(found)
    why = f"not comparable: outage reset: {ways[0]} in A and {ways[1]} in B"
    assert refusal(
        made(tmp_path / "c", outages=(OUTAGE,), measures=(Measure.LOSS,)),
        made(tmp_path / "d", outages=(later,), measures=(Measure.LOSS,)),
    ) == NOTHING.format(f" ({why})")


def test_what_only_one_of_them_measured_is_named_by_what_is_new_in_it(calm: Run, tmp_path: Path) -> None:
    wide = (OUTAGE, Outage("close", at=0.4, lasts=0.2))
    more = made(tmp_path / "b", protocols=("sse", "polling", "webhook"), outages=wide)
    found = compare_runs(calm, more)
    assert "Only in B: protocol webhook; outage close." in str(found)
    assert set(found.frame[found.frame["protocol"] == "webhook"]["verdict"]) == {"only in B"}
    assert not of(found, "exceeds")
    less = made(tmp_path / "c", measures=(Measure.LATENCY, Measure.BANDWIDTH))
    assert "Only in A: measure loss." in str(compare_runs(calm, less))
    folder = made(tmp_path / "d").folder
    trials = json.loads((folder / "manifest.json").read_text())["trials"]
    kept = {name: entry for name, entry in trials.items() if not name.startswith("latency-sse")}
    assert "Only in A: latency of Server-Sent Events at-least-once." in str(
        compare_runs(calm, said(folder, trials=kept))
    )


def test_runs_without_a_figure_in_common_are_refused_with_what_each_has(calm: Run, tmp_path: Path) -> None:
    a, b = "only in A: protocol sse; protocol polling; measure bandwidth; measure loss", "only in B: protocol webhook"
    other = made(tmp_path / "b", protocols=("webhook",), measures=LATENCY)
    assert refusal(calm, other) == NOTHING.format(f" ({a}; {b})")
    one = made(tmp_path / "c", guarantees=(LEAST,), measures=LATENCY)
    why = "only in A: guarantee at-least-once; only in B: guarantee at-most-once"
    assert refusal(one, made(tmp_path / "d", guarantees=(ONCE,), measures=LATENCY)) == NOTHING.format(f" ({why})")
    none = made(tmp_path / "e", protocols=())
    assert refusal(none, none) == NOTHING.format("")


def test_runs_that_differ_only_in_the_kind_of_outage_are_refused_with_both_kinds(tmp_path: Path) -> None:
    kinds = [(OUTAGE,), (Outage("close", at=OUTAGE.at, lasts=OUTAGE.lasts),)]
    runs = [made(tmp_path / f"{n}", outages=kind, measures=(Measure.LOSS,)) for n, kind in enumerate(kinds)]
    assert refusal(*runs) == NOTHING.format(" (only in A: outage reset; only in B: outage close)")


def test_a_run_that_was_stopped_is_said_to_be_unfinished(calm: Run, tmp_path: Path) -> None:
    whole = made(tmp_path / "a", measures=LATENCY, planned=10)
    stopped = made(tmp_path / "b", measures=LATENCY, repeat=2, planned=10)
    assert "Unfinished is B: 4 of its 10 trials have finished." in str(compare_runs(whole, stopped))
    assert "Unfinished is A: 4 of its 10 trials have finished." in str(compare_runs(stopped, calm))
    assert "Unfinished" not in str(compare_runs(whole, calm))  # which does not say how many were planned
    assert "Unfinished" not in str(compare_runs(whole, whole))
    begun = made(tmp_path / "c", protocols=(), planned=10)
    assert "unfinished is B: 0 of its 10 trials have finished); give" in refusal(whole, begun)


def sweep(folder: Path, slow_at: float = 0.0, over: str = "rate", skip: float = -1.0) -> Run:
    trials = planned(over, protocols=("sse",), guarantees=(ONCE,), repeat=5)
    value = lambda trial: getattr(trial.workload, over)  # noqa: E731
    how = {t: {"delay_ms": (2 if value(t) == slow_at else 1) + t.repeat / 100} for t in trials if value(t) != skip}
    swept(folder, over, how)
    return said(folder, **ABOUT)


def test_sweeps_are_compared_value_by_value(tmp_path: Path) -> None:
    found = compare_runs(sweep(tmp_path / "a"), sweep(tmp_path / "b", slow_at=200))
    rows = found.frame[found.frame["verdict"] == "exceeds"]
    assert set(rows["at"]) == {200.0}
    assert set(rows["measure"]) == {"cost"}
    line = (
        "Server-Sent Events at-most-once, at 200: Median latency: A 5.67 ms (5.55 to 5.78), B 11.16 ms (11.05 to 11.27)"
    )
    assert f"×1.97 {line}, worse" in flat(found)
    lacking = compare_runs(Run(tmp_path / "a"), sweep(tmp_path / "c", skip=400))
    assert "Only in A: at 400." in str(lacking)
    assert not of(lacking, "exceeds")


def test_a_figure_that_not_every_repeat_has_is_without_an_interval(calm: Run, tmp_path: Path) -> None:
    some = made(tmp_path / "b", lambda trial: {"keep": 0.01} if trial.repeat == 3 else steady(trial))
    found = compare_runs(calm, some)
    assert ("sse", "p50_ms") in of(found, "no interval")
    assert "run both with --repeat 5" not in flat(found)


def test_a_figure_of_cost_or_duplex_names_its_measure(tmp_path: Path) -> None:
    fields = {"measures": (Measure.LATENCY, Measure.COST), "protocols": ("sse",)}
    both = [made(tmp_path / name, lambda trial, ms=ms: {"delay_ms": ms}, **fields) for name, ms in (("a", 1), ("b", 2))]
    assert "Server-Sent Events at-least-once: Median latency (cost): A 5.50 ms, B 11.00 ms, worse" in flat(
        compare_runs(*both)
    )


def test_sweeps_of_bytes_and_requests_are_compared_too(tmp_path: Path) -> None:
    both = [sweep(tmp_path / name, over="subscribers", slow_at=at) for name, at in (("a", 0), ("b", 5))]
    found = compare_runs(*both)
    assert set(found.frame[found.frame["verdict"] == "exceeds"]["at"]) == {5.0}
    assert ("sse", "bytes_per_delivery") in of(found, "the same")


@pytest.mark.parametrize("order", [1, -1])
def test_a_packed_run_differs_from_its_source_by_no_more_than_rounding(tmp_path: Path, order: int) -> None:
    raw = made(tmp_path / "raw", lambda trial: {"delay_ms": 1.000377})
    pack(raw.folder, tmp_path / "packed")
    found = compare_runs(*[raw, Run(tmp_path / "packed")][::order])
    assert (found.frame["a"] - found.frame["b"]).abs().max() > 0
    assert set(found.frame["verdict"]) == {"the same", "in neither"}


@pytest.fixture
def small() -> dict[str, Any]:
    return {"protocols": ("sse",), "measures": LATENCY}


def test_suites_are_compared_experiment_by_experiment(tmp_path: Path, small: dict[str, Any]) -> None:
    a = suite(tmp_path / "a", {"idle": small, "chat": small, "mine": small})
    b = suite(tmp_path / "b", {"idle": small, "chat": {**small, "how": slower(2)}, "theirs": small, "ours": small})
    found = compare_runs(a, lab.Collection(b))
    assert set(found.frame["experiment"]) == {"idle", "chat"}
    assert set(found.frame[found.frame["verdict"] == "exceeds"]["experiment"]) == {"chat"}
    text = str(found)
    assert "Only in A: experiment mine.\nOnly in B: experiment theirs; experiment ours." in text
    assert text.index("IDLE") < text.index("CHAT") < text.index("×2.00")
    assert str(compare_runs(a, a)).count("×") == 0


def test_an_experiment_that_was_another_one_is_left_out_and_refused_alone(
    tmp_path: Path, small: dict[str, Any]
) -> None:
    a = suite(tmp_path / "a", {"idle": small, "chat": small})
    other = {**small, "workload": {**ABOUT["workload"], "rate": 1.0}}
    found = compare_runs(a, suite(tmp_path / "b", {"idle": other, "chat": small}))
    why = f"{CAN}rate 200 in A and 1 in B{AGAIN}"
    assert f"IDLE Not compared. {why}" in " ".join(str(found).split())
    assert set(found.frame["experiment"]) == {"chat"}
    assert refusal(a, suite(tmp_path / "c", {"idle": other})) == f"In the experiment 'idle': {why}"


@pytest.mark.parametrize("about", [{"versions": None}, {"parts": [1]}, {"machine": {"commit": 5}}])
def test_a_suite_whose_file_is_damaged_is_refused(tmp_path: Path, small: dict[str, Any], about: dict[str, Any]) -> None:
    a = suite(tmp_path / "a", {"idle": small})
    assert "suite.json' is damaged (" in refusal(a, suite(tmp_path / "b", {"idle": small}, **about))


def test_suites_that_cannot_be_compared_are_refused(tmp_path: Path, calm: Run, small: dict[str, Any]) -> None:
    a, b = suite(tmp_path / "a", {"idle": small}), suite(tmp_path / "b", {"chat": small})
    quick = suite(tmp_path / "quick", {"idle": small}, quick=True)
    assert refusal(a, b) == "A and B have no experiment in common; give the folders of two runs of one suite."
    words = "is quick, which is a look, and"
    assert refusal(a, quick) == f"B {words} A is not; run both with --quick, or neither."
    assert refusal(quick, a) == f"A {words} B is not; run both with --quick, or neither."
    assert "Both are quick: a look, no measurement." in str(compare_runs(quick, quick))
    place = "one run; give the sub-folder of an experiment in"
    assert refusal(a, calm) == f"A is a suite's folder and B is {place} {str(a)!r}."
    assert refusal(calm, b) == f"B is a suite's folder and A is {place} {str(b)!r}."
    assert "is no run; make one first" in refusal(calm, 3)


def test_a_terminal_of_120_columns_is_wide_enough(tmp_path: Path) -> None:
    fields = {"protocols": tuple(PROTOCOLS), "measures": (Measure.LATENCY, Measure.LOSS), "repeat": 2}
    a = made(tmp_path / "a", **fields)
    b = made(
        tmp_path / "b",
        lambda trial: {"delay_ms": 300, "late_ms": 20.0, "keep": 0.9},
        **fields,
        machine={"cpu": "x" * 300},
    )
    text = str(compare_runs(a, b))
    assert max(map(len, text.split("\n"))) <= 120
    assert len(text.split("\n")) > 20


def test_a_notebook_shows_a_table_in_which_nothing_is_markup(calm: Run, tmp_path: Path) -> None:
    machine = {**ABOUT["machine"], "cpu": "<script>alert(1)</script>"}
    found = compare_runs(calm, made(tmp_path / "b", slower(2), machine=machine, measures=LATENCY))
    page = found._repr_html_()
    assert page.startswith("<table>")
    assert page.endswith("</table>")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert page.count("×2.00") == 3
    assert found.counts in page
    assert "worse</td>" in page
    assert page.count("<tr>") == page.count("</tr>")


def test_the_command_says_it_and_ends_with_0(calm: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = made(tmp_path / "b", slower(2))
    assert main(["compare-runs", str(calm.folder), str(other.folder)]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{compare_runs(calm, other)}\n"
    assert shown.err == ""


@pytest.mark.parametrize("case", ["workload", "missing", "damaged"])
def test_the_command_refuses_in_one_sentence_and_ends_with_2(
    calm: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    other = made(tmp_path / "b", **({"digest": "abc"} if case == "workload" else {})).folder
    if case == "damaged":
        next(other.glob("trials/*/consumer.ledger")).write_bytes(b"no")
    assert main(["compare-runs", str(calm.folder), str(tmp_path / "none" if case == "missing" else other)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("labkit: ")
    assert shown.err.count("\n") == 1
    assert "Traceback" not in shown.err


def test_it_is_one_of_the_names_of_the_package() -> None:
    assert lab.compare_runs is compare_runs
    assert "compare_runs" in lab.__all__
