"""Intervals: against values worked out by hand, against a bootstrap written here, and against a truth that is known."""

import itertools
import json
import math
import random
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from histories import ledger_bytes, record
from hypothesis import given, settings
from hypothesis import strategies as st
from test_charts import LOAD, MS, OUTAGE, START, S, spec, write_run
from test_dialogue import asked
from test_dialogue import planned as requests
from test_sweeps import planned, swept

from labkit.figures import COLUMNS, METRICS
from labkit.intervals import (
    ADDED,
    EVERY,
    FIGURES,
    KEYS,
    LEVEL,
    Interval,
    figures,
    interval,
    measures,
    metric,
    save,
    summary,
)
from labkit.ledger import RECORD, Kind, read
from labkit.results import Run
from labkit.trial import Guarantee, Measure, Trial

NAN = math.nan
ONCE = Guarantee.AT_MOST_ONCE


def same(one: Interval, other: tuple[float, float, float]) -> bool:
    """NaN is the same as NaN."""
    return one == pytest.approx(other, nan_ok=True)


def exact(values: list[float]) -> tuple[float, float]:
    """The bounds from every draw there is, by counting: the least value that 2.5 %, and 97.5 %, of medians reach."""
    medians = sorted(statistics.median(draw) for draw in itertools.product(values, repeat=len(values)))
    tail = (1 - LEVEL) / 2
    return tuple(medians[math.ceil(share * len(medians) - 1e-9) - 1] for share in (tail, 1 - tail))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([], (NAN, NAN, NAN)),
        ([4.0], (4, NAN, NAN)),
        # Of 4 draws one has the lower value alone, and one the higher.
        ([1.0, 3.0], (2, 1, 3)),
        # Of 27 draws 7 have the lowest value at least twice, which is then their median: 26 % are more than 2.5 %.
        ([9.0, 1.0, 2.0], (2, 1, 9)),
        # Of 256 draws 13 have it at least three times, which are 5 %.
        ([1.0, 2.0, 4.0, 100.0], (3, 1, 100)),
        # Of 3,125 draws 181 have it at least three times, which are 6 %.
        ([5.0, 1.0, 4.0, 2.0, 100.0], (4, 1, 100)),
        ([4.0, 4.0, 4.0], (4, 4, 4)),
        ([0.0, 0.0], (0, 0, 0)),
        ([7.0] * 9, (7, 7, 7)),
    ],
)
def test_the_bounds_of_few_repeats_are_those_worked_out_by_hand(values: list[float], found: Any) -> None:
    assert same(interval(values), found)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([1.0, NAN, 3.0], (2, NAN, NAN)),
        ([NAN, 5.0], (5, NAN, NAN)),
        ([NAN, 1.0, 2.0, 3.0, 4.0, 5.0], (3, NAN, NAN)),
        ([NAN], (NAN, NAN, NAN)),
        ([NAN, NAN], (NAN, NAN, NAN)),
    ],
)
def test_where_a_repeat_has_no_figure_there_are_no_bounds(values: list[float], found: Any) -> None:
    assert same(interval(values), found)


@pytest.mark.parametrize("count", range(2, EVERY + 1))
def test_up_to_five_repeats_every_draw_is_made_as_in_a_bootstrap_by_brute_force(count: int) -> None:
    for seed in range(20):
        values = [random.Random(f"{count} {seed} {number}").expovariate(1) for number in range(count)]
        found = interval(values)
        assert found.median == statistics.median(values)
        assert found[1:] == exact(values)


def test_of_more_repeats_so_many_draws_are_made_that_the_bounds_are_those_of_every_draw_or_next_to_them() -> None:
    values = [random.Random(number).expovariate(1) for number in range(6)]
    medians = sorted(statistics.median(draw) for draw in itertools.product(values, repeat=len(values)))
    found = interval(values)
    below = sum(median <= found.low + 1e-12 for median in medians) / len(medians)
    above = sum(median >= found.high - 1e-12 for median in medians) / len(medians)
    short = sum(median < found.low - 1e-12 for median in medians) / len(medians)
    over = sum(median > found.high + 1e-12 for median in medians) / len(medians)
    assert below >= 0.018
    assert above >= 0.018
    assert short <= 0.032
    assert over <= 0.032
    assert found.median == statistics.median(values)


def test_the_interval_covers_the_true_median_about_as_often_as_it_says() -> None:
    samples = np.random.default_rng(5).normal(10.0, 2.0, (200, 20))
    found = [interval(sample) for sample in samples]
    assert 0.88 <= np.mean([each.low <= 10.0 <= each.high for each in found]) <= 0.99
    # And not by being as wide as the sample.
    assert np.mean([each.high - each.low for each in found]) < 0.6 * np.mean(np.ptp(samples, axis=1))


FINITE = st.lists(st.floats(0, 1e6), min_size=2, max_size=7)


@given(FINITE)
@settings(deadline=None)
def test_the_median_lies_between_the_bounds_and_they_between_the_repeats(values: list[float]) -> None:
    found = interval(values)
    assert min(values) <= found.low <= found.median <= found.high <= max(values)


@given(FINITE, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_the_repeats_makes_no_difference(values: list[float], chance: random.Random) -> None:
    shuffled = chance.sample(values, len(values))
    assert interval(shuffled) == interval(values) == interval(iter(values))


def test_nor_does_it_where_not_every_draw_is_made() -> None:
    chance = np.random.default_rng(3)
    values = chance.normal(size=2 * EVERY)
    assert {interval(chance.permutation(values)) for _ in range(50)} == {interval(values)}


@pytest.mark.parametrize("count", [2, 5, 6, 20])
def test_nothing_about_it_is_random(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    before = values.copy()
    assert interval(values) == interval(values.tolist())
    assert values.tolist() == before.tolist()


@pytest.mark.parametrize(
    ("one", "other", "met"),
    [
        ((2, 1, 3), (3, 2, 4), True),
        ((2, 1, 3), (4, 3, 5), True),
        ((2, 1, 3), (4, 3.1, 5), False),
        ((2, 1, 9), (4, 3, 5), True),
        ((2, 2, 2), (2, 2, 2), True),
        ((2, 2, 2), (3, 3, 3), False),
        ((2, NAN, NAN), (2, 1, 3), False),
        ((2, NAN, NAN), (2, NAN, NAN), False),
    ],
)
def test_two_intervals_meet_where_they_share_a_value_and_never_without_bounds(one: Any, other: Any, met: bool) -> None:
    assert Interval(*one).meets(Interval(*other)) is met
    assert Interval(*other).meets(Interval(*one)) is met


def test_an_interval_is_written_with_its_bounds() -> None:
    assert str(Interval(1.23456, 0.5, 12345.6)) == "1.235 (0.5 to 1.235e+04)"


def test_every_figure_has_a_name_a_unit_and_a_better_way() -> None:
    assert set(FIGURES) == set(Measure)
    assert not set(ADDED) & set(METRICS)
    for measure, names in FIGURES.items():
        for name in names:
            assert name in COLUMNS[measure].split() or name in ADDED or name == "bytes_per_delivery", name
            assert metric(name).label
            assert metric(name).unit
            assert metric(name).better == "lower"


def repeated(folder: Path, measure: Measure, protocols: tuple[str, ...] = ("sse",), **how: Any) -> Run:
    """Three repeats of each protocol; what a keyword lists is the argument of each repeat in turn."""
    trials = {}
    for protocol in protocols:
        for repeat in (1, 2, 3):
            arguments = {name: value[repeat - 1] if isinstance(value, list) else value for name, value in how.items()}
            trials[spec(measure, protocol, ONCE, repeat)] = arguments
    return write_run(folder, trials)


def of(run: Run, **keys: Any) -> dict[str, Interval]:
    """The intervals of the rows of a summary that have these values, by figure; each figure once."""
    frame = summary(run)
    for name, value in keys.items():
        frame = frame[frame[name] == value]
    assert frame["figure"].is_unique
    return {row.figure: Interval(row.median, row.low, row.high) for row in frame.itertuples()}


def test_latencies_have_the_median_and_the_bounds_of_their_repeats(tmp_path: Path) -> None:
    run = repeated(tmp_path, Measure.LATENCY, delay_ms=[1.0, 4.0, 2.0])
    # Event k arrives after delay x (1 + k mod 10): p50 is 5.5 times the delay, p99 10 times.
    assert figures(run, Measure.LATENCY)["p50_ms"].tolist() == pytest.approx([5.5, 22, 11])
    assert figures(run, Measure.LATENCY)["trial"].tolist() == [1, 2, 3]
    found = of(run)
    assert set(found) == set(FIGURES[Measure.LATENCY])
    assert same(found["p50_ms"], (11, 5.5, 22))
    assert same(found["p99_ms"], (20, 10, 40))


def test_bytes_are_by_delivery_and_set_up_and_idle_by_subscriber(tmp_path: Path) -> None:
    found = of(repeated(tmp_path, Measure.BANDWIDTH))
    # 300,000 bytes down and 10,000 up for 1,000 deliveries of 256 bytes; 800 of set-up, 90 idle in a second, by 5.
    assert same(found["bytes_per_delivery"], (310, 310, 310))
    assert same(found["overhead_per_delivery"], (54, 54, 54))
    assert same(found["setup_each"], (160, 160, 160))
    assert same(found["idle_each"], (18, 18, 18))


def test_ten_subscribers_have_half_the_set_up_of_five_that_cost_the_same_together(tmp_path: Path) -> None:
    many = replace(LOAD, subscribers=10)
    trials: dict[Trial, dict[str, Any]] = {
        replace(spec(Measure.BANDWIDTH, "sse"), workload=many): {},
        replace(spec(Measure.BANDWIDTH, "websocket"), workload=many): {},
    }
    run = write_run(tmp_path, trials)
    assert of(run, protocol="sse")["setup_each"].median == pytest.approx(80)
    assert of(run, protocol="websocket")["idle_each"].median == pytest.approx(9)


def test_where_nothing_arrived_a_delivery_has_no_bytes_and_set_up_still_has(tmp_path: Path) -> None:
    found = of(repeated(tmp_path, Measure.BANDWIDTH, keep=0.0))
    assert same(found["bytes_per_delivery"], (NAN, NAN, NAN))
    assert same(found["setup_each"], (160, 160, 160))
    some = of(repeated(tmp_path / "some", Measure.BANDWIDTH, keep=[0.0, 1.0, 0.5]))
    assert same(some["bytes_per_delivery"], (465, NAN, NAN))


def test_losses_are_in_percent_of_what_was_owed_and_unknown_where_inconclusive(tmp_path: Path) -> None:
    found = of(repeated(tmp_path, Measure.LOSS, keep=[1.0, 0.9, 0.5], copies=[0, 3, 1]))
    assert same(found["lost_percent"], (10, 0, 50))
    assert same(found["duplicated"], (1, 0, 3))
    assert same(found["noticed_ms"], (NAN, NAN, NAN))
    run = repeated(tmp_path / "unclear", Measure.LOSS, keep=[1.0, 0.9, 0.5], drained=[True, False, True])
    assert same(of(run)["lost_percent"], (25, NAN, NAN))
    assert run.loss["lost"].tolist() == [0, 100, 500]


def test_a_trial_that_owed_nothing_lost_no_share_of_it(tmp_path: Path) -> None:
    run = write_run(tmp_path, {spec(Measure.LOSS, "sse"): {}})
    for ledger in ("producer", "consumer"):
        path = tmp_path / "trials" / "loss-sse-at-least-once-reset-1" / f"{ledger}.ledger"
        path.write_bytes(path.read_bytes()[: RECORD.size])
    assert run.loss["owed"].tolist() == [0]
    assert math.isnan(of(run)["lost_percent"].median)


def test_requests_have_round_trips_bytes_and_connections(tmp_path: Path) -> None:
    trials = {trial: {"delay_ms": float(trial.repeat)} for trial in requests(("sse",), guarantees=(ONCE,), repeat=3)}
    found = of(asked(tmp_path, trials))
    assert set(found) == set(FIGURES[Measure.DUPLEX])
    assert same(found["p50_ms"], (11, 5.5, 16.5))
    assert same(found["bytes_per_answer"], (500, 500, 500))
    assert same(found["connections"], (10, 10, 10))


def test_costs_of_a_comparison_are_those_of_its_cost_trials_alone(tmp_path: Path) -> None:
    trials = {spec(measure, "sse"): {} for measure in (Measure.LATENCY, Measure.COST)}
    run = write_run(tmp_path, trials)
    assert measures(run) == [Measure.LATENCY, Measure.COST]
    assert len(run.cost) == 2
    assert len(figures(run, Measure.COST)) == 1
    assert of(run, measure="cost")["bytes_per_delivery"].median == pytest.approx(310)


@pytest.mark.parametrize(("over", "values"), [("rate", [50, 200, 400]), ("interval", [0.02, 0.1, 1.0])])
def test_a_sweep_has_a_row_of_each_figure_at_each_value(tmp_path: Path, over: str, values: list[float]) -> None:
    trials = planned(over, protocols=("sse", "polling"), guarantees=(ONCE,), repeat=2)
    run = swept(tmp_path / "run", over, {trial: {"delay_ms": float(trial.repeat)} for trial in trials})
    assert measures(run) == [Measure.COST]
    frame = summary(run)
    assert set(frame["measure"]) == {"cost"}
    assert set(frame["repeats"]) == {2}
    assert len(frame) == len(FIGURES[Measure.COST]) * len(values) * 2
    assert list(dict.fromkeys(frame["at"])) == values
    assert of(run, protocol="sse", at=values[1])["p50_ms"] == pytest.approx((8.25, 5.5, 11))
    assert of(run, protocol="sse", at=values[1])["cpu_us_per_delivery"].median == pytest.approx(10_000)


def test_each_kind_of_outage_and_each_guarantee_stands_for_itself(tmp_path: Path) -> None:
    trials = {}
    for number, (kind, guarantee) in enumerate(itertools.product(("close", "reset", "silent"), Guarantee)):
        for repeat in (1, 2):
            trial = spec(Measure.LOSS, "sse", guarantee, repeat, replace(OUTAGE, kind=kind))
            trials[trial] = {"keep": 1 - 0.1 * number}
    run = write_run(tmp_path, trials)
    for number, (kind, guarantee) in enumerate(itertools.product(("close", "reset", "silent"), Guarantee)):
        lost = of(run, outage=kind, guarantee=str(guarantee))["lost_percent"]
        assert same(lost, (10 * number,) * 3), (kind, guarantee)
    assert list(dict.fromkeys(summary(run)["outage"])) == ["close", "reset", "silent"]


def test_a_summary_has_one_row_a_figure_in_the_order_of_the_tables(tmp_path: Path) -> None:
    trials: dict[Trial, dict[str, Any]] = {
        spec(measure, protocol, guarantee, repeat): {}
        for measure in (Measure.LOSS, Measure.BANDWIDTH, Measure.LATENCY)
        for protocol in ("sse", "polling", "websocket")
        for guarantee in (Guarantee.AT_LEAST_ONCE, ONCE)
        for repeat in (2, 1)
    }
    frame = summary(write_run(tmp_path, trials))
    assert list(frame) == [*KEYS, "figure", "repeats", "median", "low", "high"]
    assert set(frame["repeats"]) == {2}
    assert not frame.duplicated([*KEYS, "figure"]).any()
    rows = frame[["measure", "protocol", "guarantee", "figure"]].drop_duplicates()
    assert rows.to_numpy().tolist() == [
        [str(measure), protocol, str(guarantee), name]
        for measure in (Measure.LATENCY, Measure.BANDWIDTH, Measure.LOSS)
        for protocol in ("websocket", "sse", "polling")
        for guarantee in (ONCE, Guarantee.AT_LEAST_ONCE)
        for name in FIGURES[measure]
    ]


def test_a_run_of_which_nothing_finished_has_an_empty_summary_with_its_columns(tmp_path: Path) -> None:
    frame = summary(write_run(tmp_path, {}, {"latency-sse-at-most-once-1": "broke"}))
    assert frame.empty
    assert list(frame) == [*KEYS, "figure", "repeats", "median", "low", "high"]


def test_one_repeat_that_failed_is_not_counted(tmp_path: Path) -> None:
    trials = {spec(Measure.LATENCY, "sse", ONCE, repeat): {"delay_ms": float(repeat)} for repeat in (1, 3)}
    run = write_run(tmp_path, trials, {"latency-sse-at-most-once-2": "broke"})
    assert set(summary(run)["repeats"]) == {2}
    assert same(of(run)["p50_ms"], (11, 5.5, 16.5))


def test_frames_of_the_run_are_as_they_were(tmp_path: Path) -> None:
    run = repeated(tmp_path, Measure.BANDWIDTH)
    before = run.bandwidth.copy()
    summary(run)
    pd.testing.assert_frame_equal(run.bandwidth, before)


def test_the_same_run_has_the_same_summary(tmp_path: Path) -> None:
    run = repeated(tmp_path, Measure.LOSS, ("sse", "webhook"), keep=[1.0, 0.9, 0.5])
    first = summary(run)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["trials"] = dict(reversed(manifest["trials"].items()))
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    pd.testing.assert_frame_equal(summary(Run(tmp_path)), first)


def test_times_of_an_outage_have_intervals_as_far_as_every_repeat_has_them(tmp_path: Path) -> None:
    run = repeated(tmp_path, Measure.LOSS)
    for repeat, late in ((1, 10), (2, 30), (3, 20)):
        path = tmp_path / "trials" / f"loss-sse-at-most-once-reset-{repeat}" / "consumer.ledger"
        cut = START + int(OUTAGE.at * S)
        path.write_bytes(ledger_bytes([*read(path).tolist(), record(Kind.DISCONNECTED, cut + late * MS, subscriber=0)]))
    assert same(of(run)["noticed_ms"], (20, 10, 30))


def test_saved_intervals_are_those_of_the_summary_rounded_to_what_is_shown_or_three_digits(tmp_path: Path) -> None:
    run = repeated(tmp_path, Measure.LOSS, keep=[1.0, 0.987, 0.5], copies=[0, 2, 1])
    save(run)
    saved, found = pd.read_csv(tmp_path / "intervals.csv"), summary(run)
    assert list(saved) == list(found)
    assert len(saved) == len(found)
    for column in ("median", "low", "high"):
        assert saved[column].to_numpy() == pytest.approx(found[column].to_numpy(float), abs=5.1e-4, nan_ok=True)
    assert saved[saved["figure"] == "lost_percent"][["median", "low", "high"]].to_numpy().tolist() == [[1, 0, 50]]
    assert b"\r" not in (tmp_path / "intervals.csv").read_bytes()
    assert {path.name for path in tmp_path.glob("*.csv")} == {
        *(f"{name}.csv" for name in ("latency", "bandwidth", "loss", "intervals"))
    }


def test_of_trials_that_were_not_repeated_no_intervals_are_saved(tmp_path: Path) -> None:
    run = write_run(tmp_path, {spec(Measure.LATENCY, "sse"): {}, spec(Measure.LATENCY, "polling"): {}})
    save(run)
    assert not (tmp_path / "intervals.csv").exists()
    assert (tmp_path / "latency.csv").exists()


def test_saving_twice_gives_the_same_bytes_and_leaves_the_summary_as_it_is(tmp_path: Path) -> None:
    run = repeated(tmp_path, Measure.LATENCY, delay_ms=[1.23456, 2.34567, 3.45678])
    before = summary(run)
    save(run)
    first = (tmp_path / "intervals.csv").read_bytes()
    save(Run(tmp_path))
    assert (tmp_path / "intervals.csv").read_bytes() == first
    pd.testing.assert_frame_equal(summary(run), before)
