"""Charts of a sweep, from runs written by hand."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_charts import LOAD, assert_legible, words, write_run

from labkit import charts
from labkit.errors import UsageError
from labkit.figures import METRICS
from labkit.looks import LOOKS, Chart
from labkit.plan import MOST_VALUES, SWEPT, Plan, Sweep
from labkit.protocols import PROTOCOLS
from labkit.results import Run
from labkit.sweeps import VIEWS, keys, knee
from labkit.trial import Guarantee, Timings, Trial

VALUES = {
    "rate": (50, 200, 400),
    "topics": (1, 5, 20),
    "subscribers": (1, 5, 20),
    "size": (200, 1000, 50_000),
    "interval": (0.02, 0.1, 1.0),
}


def planned(over: str, values: tuple[float, ...] = (), protocols: tuple[str, ...] = (), **plan: Any) -> list[Trial]:
    sweep = Sweep(over, values or VALUES[over])
    return Plan(LOAD, protocols or tuple(PROTOCOLS), measures=(SWEPT[over],), sweep=sweep, **plan).trials()


def swept(folder: Path, over: str, trials: dict[Trial, dict[str, Any]], errors: dict[str, str] | None = None) -> Run:
    """A run folder of trials, each with `delay_ms` and so on, and with its CPU counted: 10 ms a delivery."""
    write_run(folder, trials, errors)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sweep"] = {"over": over, "values": list(VALUES[over])}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for trial in trials:
        path = folder / "trials" / trial.name / "record.json"
        deliveries = len(trial.workload.schedule()) * trial.workload.subscribers
        cpu = {"producer": 0.004 * deliveries, "consumer": 0.006 * deliveries}
        path.write_text(json.dumps({**json.loads(path.read_text()), "load_cpu_s": cpu}))
    return Run(folder)


@pytest.fixture(scope="module", params=VALUES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Every protocol with two guarantees at three values of each parameter; latencies grow from one to the next."""
    over, trials = request.param, planned(request.param)
    delays = {trial: 1 + number / len(trials) for number, trial in enumerate(trials)}
    folder = tmp_path_factory.mktemp("runs") / over
    return swept(folder, over, {trial: {"delay_ms": delay} for trial, delay in delays.items()})


def panels(chart: Chart) -> list[Any]:
    return [axes for axes in chart.axes if axes.get_xlabel()]


def test_each_guarantee_has_a_row_of_two_panels_with_units_and_which_way_is_better(run: Run) -> None:
    chart, view = charts.sweep(run), VIEWS[run.swept]
    shown = panels(chart)
    assert len(shown) == 4
    assert len({round(axes.get_position().x0, 3) for axes in shown}) == 2
    for axes, name in zip(shown, view.metrics * 2, strict=True):
        assert axes.get_xlabel() == f"{view.axis}, log scale"
        assert axes.get_ylabel() == f"{METRICS[name].unit}, log scale  (← lower is better)"
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        low, high = axes.get_xlim()
        assert low < VALUES[run.swept][0] < VALUES[run.swept][-1] < high
    assert {METRICS[name].label for name in view.metrics} <= set(words(chart))
    assert {"at-most-once", "at-least-once"} <= set(words(chart))


def test_every_protocol_has_its_own_look_and_its_name_beside_it(run: Run) -> None:
    chart = charts.sweep(run)
    for axes in panels(chart):
        drawn = {line.get_color(): line for line in axes.lines if line.get_linewidth() == 1.8}
        for name, look in LOOKS.items():
            xs, ys = drawn[look.colour].get_data()
            known = np.isfinite(ys)
            assert set(np.array(xs)[known]) <= set(VALUES[run.swept]), name
    for row in PROTOCOLS.values():
        assert words(chart).count(row.title) == 4


def test_the_points_are_the_figures_of_the_frame(run: Run) -> None:
    shown = panels(charts.sweep(run))
    for axes, (guarantee, name) in zip(
        shown, [(g, name) for g in Guarantee if g != "durable" for name in VIEWS[run.swept].metrics], strict=True
    ):
        rows = run.cost[(run.cost["protocol"] == "sse") & (run.cost["guarantee"] == guarantee)].dropna(subset=[name])
        rows = rows[rows[name] > 0]
        (line,) = [
            each for each in axes.lines if each.get_color() == LOOKS["sse"].colour and each.get_linewidth() == 1.8
        ]
        assert list(line.get_xdata()) == list(rows[run.swept])
        assert list(line.get_ydata()) == pytest.approx(list(rows[name]))


def test_nothing_overlaps_and_nothing_is_clipped(run: Run) -> None:
    assert_legible(charts.sweep(run))


def test_the_caption_gives_the_swept_parameter_as_a_range(run: Run) -> None:
    said = {
        "rate": "50 to 400 events/s of 256 bytes for 1 s to 5 subscribers",
        "topics": "200 events/s of 256 bytes on 1 to 20 topics for 1 s to 5 subscribers",
        "subscribers": "200 events/s of 256 bytes for 1 s to 1 to 20 subscribers",
        "size": "200 events/s of 200 to 50,000 bytes for 1 s to 5 subscribers",
        "interval": "poll every 0.02 to 1 s",
    }
    alt = charts.sweep(run).alt
    assert said[run.swept] in alt
    assert ("directly" in alt) == (run.swept in ("rate", "topics"))


def test_the_alternative_text_says_title_figures_and_better(run: Run) -> None:
    alt, view = charts.sweep(run).alt, VIEWS[run.swept]
    assert alt.startswith(view.title)
    for name in view.metrics:
        assert f"At-least-once, {METRICS[name].label}, lower is better: WebSocket " in alt
    assert "nan" not in alt


def test_a_sweep_is_saved_as_one_picture_and_redrawn_byte_for_byte(run: Run, tmp_path: Path) -> None:
    once, again = charts.save(run, tmp_path / "once"), charts.save(Run(run.folder), tmp_path / "again")
    assert [path.name for path in once] == ["sweep.png", "sweep.svg"]
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]
    assert sorted(path.name for path in (tmp_path / "once").iterdir()) == ["sweep.png", "sweep.svg"]


def test_a_run_that_is_no_sweep_is_refused_with_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"^This run is no sweep; `labkit sweep --over rate --values 50,200,1000` makes"
    ):
        charts.sweep(write_run(tmp_path / "run", {}))


def test_a_sweep_of_which_nothing_finished_says_so(tmp_path: Path) -> None:
    chart = charts.sweep(swept(tmp_path / "run", "rate", {}, {"latency-sse-at-most-once-rate-50-1": "broke"}))
    assert "This run has no finished latency trial, so there is nothing to draw." in chart.alt
    assert "Failed, and so not shown: latency-sse-at-most-once-rate-50-1." in chart.alt
    assert not chart.axes


def test_a_trial_that_failed_leaves_its_point_out_and_its_name_in(tmp_path: Path) -> None:
    trials = planned("rate", protocols=("sse", "websocket"), guarantees=(Guarantee.AT_MOST_ONCE,))
    failed = next(trial for trial in trials if trial.protocol == "sse" and trial.workload.rate == 400)
    run = swept(tmp_path / "run", "rate", {t: {} for t in trials if t is not failed}, {failed.name: "broke"})
    chart = charts.sweep(run)
    assert words(chart).count("failed") == 2
    assert f"Failed, and so not shown: {failed.name}." in chart.alt


def test_a_single_value_is_drawn(tmp_path: Path) -> None:
    for over, values in VALUES.items():
        trials = planned(over, values[-1:], ("sse", "polling"))
        chart = charts.sweep(swept(tmp_path / over, over, {trial: {} for trial in trials}))
        for axes in panels(chart):
            low, high = axes.get_xlim()
            assert low < values[-1] < high
        assert chart.png()


def test_many_values_have_as_many_labels_as_there_is_room_for(tmp_path: Path) -> None:
    values = tuple(float(value) for value in range(100, 100 + MOST_VALUES))
    trials = planned("rate", values, ("sse",), guarantees=(Guarantee.AT_MOST_ONCE,))
    chart = charts.sweep(swept(tmp_path / "run", "rate", {trial: {} for trial in trials}))
    for axes in panels(chart):
        assert 2 <= len(axes.get_xticks()) < MOST_VALUES
        assert axes.get_xticks()[0] == values[-1]
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
        for left, right in zip(boxes[1:], boxes, strict=False):
            assert left.x1 < right.x0


@pytest.mark.parametrize(
    ("medians", "found"),
    [
        ([1, 1, 1], None),
        ([1, 10, 10], None),
        ([1, 2, 10.1], 200),
        ([1, 11, 1], 50),
        ([5, 0.1, 0.4], None),
        ([np.nan, 1, 11], 200),
        ([1, np.nan, 11], 50),
        ([np.nan] * 3, None),
        ([3, np.nan, np.nan], None),
    ],
)
def test_the_knee_is_the_last_rate_before_the_median_is_ten_times_its_first(
    medians: list[float], found: float | None
) -> None:
    assert knee(pd.Series(medians, index=[50.0, 200.0, 1000.0])) == found


def test_the_knee_is_ringed_in_both_panels_and_said(tmp_path: Path) -> None:
    trials = planned("rate", protocols=("sse", "websocket"), guarantees=(Guarantee.AT_MOST_ONCE,))
    slow = {t: {"delay_ms": 30} for t in trials if t.protocol == "sse" and t.workload.rate == 400}
    run = swept(tmp_path / "run", "rate", {trial: slow.get(trial, {}) for trial in trials})
    chart = charts.sweep(run)
    assert words(chart).count("knee at 200/s") == 1
    assert re.search(r"Server-Sent Events 5\.50 at 50, 165 ms at 400, knee at 200/s", chart.alt)
    rings = [line for line in panels(chart)[0].lines if line.get_markersize() == 13]
    assert [list(ring.get_xdata()) for ring in rings] == [[200.0]]
    assert "the last rate before the median is more than 10 times that of the lowest rate" in " ".join(words(chart))


def test_a_point_of_a_saturated_generator_is_hollow_and_said(tmp_path: Path) -> None:
    trials = planned("rate", protocols=("sse",), guarantees=(Guarantee.AT_MOST_ONCE,))
    late = {t: {"late_ms": 9.0} for t in trials if t.workload.rate == 400}
    chart = charts.sweep(swept(tmp_path / "run", "rate", {trial: late.get(trial, {}) for trial in trials}))
    faces = {
        x: line.get_markerfacecolor()
        for line in panels(chart)[0].lines
        if line.get_marker() == LOOKS["sse"].marker
        for x in line.get_xdata()
    }
    assert faces == {50.0: LOOKS["sse"].colour, 200.0: LOOKS["sse"].colour, 400.0: "white"}
    assert words(chart).count("⚠ generator saturated") == 1


@pytest.mark.parametrize("values", [(50, 200), (200,)])
def test_repeats_are_pooled_by_their_median_between_the_lowest_and_the_highest(
    values: tuple[float, ...], tmp_path: Path
) -> None:
    trials = planned("rate", values, ("sse",), guarantees=(Guarantee.AT_MOST_ONCE,), repeat=3)
    delays = {trial: {"delay_ms": {1: 1, 2: 2, 3: 6}[trial.repeat]} for trial in trials}
    chart = charts.sweep(swept(tmp_path / "run", "rate", delays))
    axes = panels(chart)[0]
    (line,) = [each for each in axes.lines if each.get_linewidth() == 1.8]
    assert list(line.get_ydata()) == pytest.approx([11] * len(values))
    (spans,) = axes.collections
    assert [segment[:, 1].tolist() for segment in spans.get_segments()] == [pytest.approx([5.5, 33])] * len(values)
    assert axes.get_ylim()[0] < 5.5 < 33 < axes.get_ylim()[1]
    assert "3 repeats." in chart.alt


def test_what_did_not_arrive_is_said_where_its_figure_would_stand(tmp_path: Path) -> None:
    trials = planned("subscribers", protocols=("sse", "polling"), guarantees=(Guarantee.AT_MOST_ONCE,))
    keep = {t: {"keep": 0.0 if t.protocol == "sse" else 0.02} for t in trials}
    chart = charts.sweep(swept(tmp_path / "run", "subscribers", keep))
    assert words(chart).count("nothing arrived") == 2
    assert words(chart).count("only 2.0 % arrived") == 1
    trials = planned("rate", protocols=("polling",), guarantees=(Guarantee.AT_MOST_ONCE,))
    chart = charts.sweep(swept(tmp_path / "few", "rate", {trial: {"keep": 0.005} for trial in trials}))
    assert {"too few arrived for p50", "too few arrived for p99"} <= set(words(chart))


def test_requests_that_were_never_made_are_nought_and_have_no_point(tmp_path: Path) -> None:
    trials = planned("interval", protocols=("polling",), guarantees=(Guarantee.AT_LEAST_ONCE,))
    chart = charts.sweep(swept(tmp_path / "run", "interval", {trial: {} for trial in trials}))
    assert "0.000 requests" in words(chart)
    assert not [line for line in panels(chart)[0].lines if line.get_linewidth() == 1.8 and len(line.get_xdata())]


def test_the_interval_of_the_plan_is_not_taken_for_that_of_the_sweep(tmp_path: Path) -> None:
    trials = planned("interval", (0.5,), ("polling",), timings=Timings(poll=0.05))
    chart = charts.sweep(swept(tmp_path / "run", "interval", {trial: {} for trial in trials}))
    assert "poll every 0.5 s" in chart.alt
    assert replace(trials[0].timings, poll=0.05) == Timings(poll=0.05)


def cost(**columns: list[object]) -> pd.DataFrame:
    """Two points of one protocol, unsaturated, all figures there."""
    plain = {"protocol": ["sse", "sse"], "trial": [1, 1], "saturated": [False, False], "p50_ms": [1.0, 1.0]}
    return pd.DataFrame({**plain, "p99_ms": [2.0, 2.0], **columns})


def test_a_chart_explains_no_mark_that_it_does_not_have() -> None:
    assert keys(cost(), ("p50_ms", "p99_ms")) == []
    assert keys(cost(p99_ms=[np.nan, 2.0]), ("requests_per_event", "p50_ms")) == []


@pytest.mark.parametrize(
    ("columns", "word"),
    [
        ({"p99_ms": [np.nan, 2.0]}, "No point"),
        ({"trial": [1, 2]}, "Points: the median of the repeats"),
        ({"saturated": [False, True]}, "Hollow"),
        ({"protocol": ["sse", "polling"]}, "Dashed"),
    ],
)
def test_a_mark_that_it_has_is_explained(columns: dict[str, list[object]], word: str) -> None:
    (line,) = keys(cost(**columns), ("p50_ms", "p99_ms"))
    assert line.startswith(word)
