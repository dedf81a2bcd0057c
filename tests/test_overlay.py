"""Runs laid over each other, from runs written by hand."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_charts import LOAD, OUTAGE, assert_legible, spec, words, write_run
from test_sweeps import planned, swept

from labkit import charts
from labkit.captions import parameters
from labkit.errors import UsageError
from labkit.looks import LOOKS
from labkit.overlay import PANELS
from labkit.protocols import PROTOCOLS
from labkit.results import Run
from labkit.trial import COMPARED, Guarantee, Measure, Timings, Trial
from labkit.workload import Workload

ONCE, LEAST = Guarantee.AT_MOST_ONCE, Guarantee.AT_LEAST_ONCE


def planted(folder: Path, protocols=("sse", "polling"), guarantees=(LEAST,), trial=None, repeat=1, **how: Any) -> Run:
    """A run of all measures; `trial` are fields of its trials, a workload or timings, `how` is what happens in them."""
    trials = {
        replace(spec(measure, protocol, guarantee, number), **(trial or {})): how
        for measure, protocol, guarantee in itertools.product(COMPARED, protocols, guarantees)
        for number in range(1, repeat + 1)
    }
    return write_run(folder, trials)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Every protocol, twice: the second is twice as slow, of twice the rate, and loses a part."""
    folder = tmp_path_factory.mktemp("runs")
    first = planted(folder / "first", tuple(PROTOCOLS), (ONCE, LEAST))
    faster = {"workload": replace(LOAD, rate=400)}
    return {
        "calm": first,
        "hasty": planted(folder / "b", tuple(PROTOCOLS), (ONCE, LEAST), faster, delay_ms=2, keep=0.8),
    }


def panels(chart: charts.Chart) -> list[Any]:
    return [axes for axes in chart.axes if axes.get_xlabel()]


def marks(axes: Any) -> list[tuple[float, float]]:
    """Where the marks of a panel are."""
    found = [line for line in axes.lines if line.get_marker() == "o"]
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in found]


def test_there_is_a_row_for_each_protocol_under_its_guarantee_and_a_panel_for_each_figure(runs):
    chart = charts.overlay(runs)
    assert len(panels(chart)) == 2 * len(PANELS)
    for panel in PANELS:
        assert words(chart).count(panel.name.capitalize()) == 2
    for row in PROTOCOLS.values():
        assert words(chart).count(row.title) == 2
    assert {"at-most-once", "at-least-once"} <= set(words(chart))
    for axes in panels(chart):
        assert axes.get_xlabel().endswith("(← lower is better)")
    assert [axes.get_xscale() for axes in panels(chart)[:4]] == ["log", "log", "log", "linear"]


def test_the_marks_are_the_figures_of_the_frames(runs):
    chart = charts.overlay(runs)
    for number, (name, column) in enumerate([("latency", "p50_ms"), ("latency", "p99_ms")]):
        at = [x for x, _ in marks(panels(chart)[number])]
        frames = [getattr(run, name) for run in runs.values()]
        frames = [frame[frame["guarantee"] == "at-most-once"][column] for frame in frames]
        assert sorted(at) == pytest.approx(sorted(value for frame in frames for value in frame.dropna()))
    lost = [x for x, _ in marks(panels(chart)[3])]
    shares = [
        100 * row.lost / row.owed
        for run in runs.values()
        for row in run.loss[run.loss["guarantee"] == "at-most-once"].itertuples()
    ]
    assert sorted(lost) == pytest.approx(sorted(shares))


def test_every_mark_bears_its_letter_and_its_figure_stands_beside_it(runs):
    chart = charts.overlay(runs)
    shown = sum(len(marks(axes)) for axes in panels(chart))
    assert words(chart).count("A") + words(chart).count("B") == shown + 2
    assert {"  5.50", "  11.00", "  20.0 %"} <= set(words(chart))
    for axes in panels(chart):
        assert (np.diff(sorted(y for _, y in marks(axes))) >= 13).all()


def test_a_line_leads_from_the_first_run_to_the_last(runs):
    axes = panels(charts.overlay(runs))[0]
    lines = [line for line in axes.lines if line.get_color() == LOOKS["sse"].colour and len(line.get_xdata()) == 2]
    assert [list(line.get_xdata()) for line in lines] == [pytest.approx([5.5, 11.0])]
    dashed = [line for line in axes.lines if line.get_color() == LOOKS["polling"].colour and len(line.get_xdata()) == 2]
    assert [line.get_linestyle() for line in dashed] == ["--"]


def test_the_alternative_text_says_labels_differences_and_every_figure(runs):
    alt = charts.overlay(runs).alt
    assert alt.startswith(
        "Overlay: what changed between these runs? In all runs: 256 bytes, 1 s of load, 5 subscribers"
    )
    assert " A: calm. 200 events/s. B: hasty. 400 events/s." in alt
    assert (
        "At-least-once, lower is better. WebSocket: median latency A 5.50, B 11.00 ms; 99th percentile A 10.00, " in alt
    )
    assert "share lost A 0 %, B 20.0 %." in alt


def test_only_the_parameters_that_differ_are_in_the_key(tmp_path):
    slow = {"timings": Timings(poll=0.5), "workload": replace(LOAD, size=1000, subscribers=1)}
    both = [planted(tmp_path / "a"), planted(tmp_path / "b", trial=slow)]
    chart = charts.overlay(both)
    assert {"256 bytes · 5 subscribers · poll every 0.25 s", "1,000 bytes · 1 subscriber · poll every 0.5 s"} <= set(
        words(chart)
    )
    assert "In all runs: 200 events/s, 1 s of load, constant arrivals, seed 7, outage reset, " in chart.alt


def test_where_nothing_differs_there_are_labels_alone_or_no_key(tmp_path):
    run = planted(tmp_path / "run")
    assert " A: before. B: after. At-least-once" in charts.overlay({"before": run, "after": run}).alt
    alone = charts.overlay([run, run])
    assert "In all runs: 200 events/s" in alone.alt
    assert " A: " not in alone.alt


def test_kinds_of_outage_are_told_apart_and_of_several_the_first_is_shown(tmp_path):
    first = planted(tmp_path / "a")
    trials: dict[Trial, dict[str, Any]] = {spec(Measure.LATENCY, "sse"): {}}
    trials[spec(Measure.LOSS, "sse", outage=replace(OUTAGE, kind="close", repeat=2, share=0.5))] = {"keep": 0.5}
    trials[spec(Measure.LOSS, "sse", outage=replace(OUTAGE, kind="silent"))] = {"keep": 0.0}
    chart = charts.overlay([first, write_run(tmp_path / "b", trials)])
    assert "outage close, the first of 2 kinds · outage of 3 subscribers · outage 2 times" in chart.alt
    assert "; bytes per delivery A 310; share lost A 0 %, B 50.0 %." in chart.alt


def test_missing_figures_have_no_mark_and_are_named_with_the_reason(tmp_path):
    trials: dict[Trial, dict[str, Any]] = {spec(Measure.LATENCY, "sse"): {"keep": 0.02}}
    trials[spec(Measure.LATENCY, "polling")] = {"keep": 0}
    trials[spec(Measure.LOSS, "sse")] = {"drained": False, "keep": 0.9}
    trials[spec(Measure.LOSS, "polling")] = {}
    lame = write_run(tmp_path / "b", trials, {"bandwidth-sse-at-least-once-1": "broke"})
    chart = charts.overlay([planted(tmp_path / "a"), lame])
    for sentence in (
        "B without median latency of Polling at-least-once: nothing arrived.",
        "B without 99th percentile of Server-Sent Events at-least-once: too few arrived.",
        "B without bytes per delivery of Server-Sent Events at-least-once: failed.",
        "B without bytes per delivery of Polling at-least-once: not run.",
        "B without share lost of Server-Sent Events at-least-once: inconclusive.",
    ):
        assert sentence in chart.alt
        assert sentence.split(":")[0] in " ".join(words(chart))
    assert [len(marks(axes)) for axes in panels(chart)] == [3, 2, 2, 3]


def test_what_no_run_measured_has_no_panel(tmp_path):
    run = write_run(tmp_path / "run", {spec(Measure.LATENCY, "sse"): {}})
    chart = charts.overlay([run, run])
    assert len(panels(chart)) == 2
    assert "No run has this figure: share lost." in chart.alt
    assert "Latency: first arrival minus" in " ".join(words(chart))
    assert "TCP stream bytes" not in " ".join(words(chart))


def test_repeats_are_pooled_by_their_median_between_the_lowest_and_the_highest(tmp_path):
    trials = {
        spec(Measure.LATENCY, "sse", repeat=number): {"delay_ms": delay} for number, delay in enumerate((1, 2, 6), 1)
    }
    chart = charts.overlay([write_run(tmp_path / "a", trials), planted(tmp_path / "b", ("sse",))])
    axes = panels(chart)[0]
    assert [x for x, _ in marks(axes)] == pytest.approx([11, 5.5])
    spans = [segment[:, 0].tolist() for each in axes.collections for segment in each.get_segments()]
    assert spans[0] == pytest.approx([5.5, 33])
    assert "median latency A 11.00 (5.50 to 33.00), B 5.50 ms" in chart.alt
    assert "lowest and highest of the repeats" in " ".join(words(chart))
    assert "3 repeats" in chart.alt


def test_a_saturated_generator_makes_the_mark_hollow(tmp_path):
    chart = charts.overlay([planted(tmp_path / "a", ("sse",)), planted(tmp_path / "b", ("sse",), late_ms=9.0)])
    faces = [line.get_markerfacecolor() for line in panels(chart)[0].lines if line.get_marker() == "o"]
    assert [face == "white" for face in faces] == [False, True]
    assert "Hollow: the generator was saturated" in " ".join(words(chart))
    assert "Hollow" not in " ".join(words(charts.overlay(planted(tmp_path / "c"))))


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_up_to_eight_runs_are_legible(runs, count):
    every = [run for _ in range(4) for run in runs.values()][:count]
    for chart in (charts.overlay(every), charts.overlay({f"run {n} of a class": run for n, run in enumerate(every)})):
        assert_legible(chart)
        assert chart.png()


def test_figures_far_apart_have_as_many_ticks_as_there_is_room_for(tmp_path):
    far = [planted(tmp_path / "a", delay_ms=0.001), planted(tmp_path / "b", delay_ms=900)]
    chart = charts.overlay(far)
    assert_legible(chart)
    assert 2 <= len(panels(chart)[0].get_xticks()) <= 4


def test_protocols_and_guarantees_that_one_run_has_alone_are_shown_too(tmp_path):
    one = planted(tmp_path / "a", ("sse",), (LEAST,))
    more = planted(tmp_path / "b", ("sse", "pubsub"), (ONCE, LEAST))
    chart = charts.overlay([one, more])
    assert words(chart).count("Pub-Sub") == 2
    assert "A without median latency of any protocol at-most-once: not run." in chart.alt
    assert "A without median latency of Pub-Sub at-least-once: not run." in chart.alt
    assert "WebSocket" not in chart.alt


def test_folders_one_run_and_strange_labels_do(tmp_path):
    run = planted(tmp_path / "run")
    alone = charts.overlay(run)
    assert alone.png() == charts.overlay(run.folder).png() == charts.overlay([str(run.folder)]).png()
    assert "In all runs" not in alone.alt
    odd = charts.overlay({"$5 and $6\n": run, 7: run.folder, "long " * 99: run})
    assert {"$5 and $6", "7"} <= set(words(odd))
    assert "long long …" in odd.alt
    assert_legible(odd)


def test_what_cannot_be_laid_over_is_refused_in_a_sentence(tmp_path):
    run = planted(tmp_path / "run", ("sse",))
    other = planted(tmp_path / "other", ("websocket",))
    sweep = swept(tmp_path / "sweep", "rate", {trial: {} for trial in planned("rate", protocols=("sse",))})
    empty = write_run(tmp_path / "empty", {})
    for wrong, said in [
        ([], "There are 0 runs to lay over each other; give from 1 to 8."),
        ({}, "There are 0 runs"),
        ([run] * 9, "There are 9 runs"),
        ([run, None], "None is no run; make one first"),
        ({"a": 3}, "3 is no run"),
        (3, "3 is no run"),
        ([run, tmp_path], "is not a run folder"),
        ([run, sweep], "Run B is a sweep over rate; show it with charts.sweep"),
        ([run, other], "These runs have nothing in common to show"),
        ([empty], "There is no finished latency, bandwidth or loss trial to show"),
        ([empty, empty], "There is no finished"),
    ]:
        with pytest.raises(UsageError, match=said):
            charts.overlay(wrong)


def test_the_same_runs_give_the_same_bytes_and_carry_the_text(runs, tmp_path):
    once, again = charts.overlay(runs), charts.overlay(runs)
    assert once.png() == again.png()
    assert once.alt in once.svg().decode().replace("&gt;", ">")
    (tmp_path / "chart.png").write_bytes(once.png())
    with Image.open(tmp_path / "chart.png") as image:
        assert image.info["Description"] == once.alt


def test_every_parameter_is_said_with_its_unit():
    load = Workload(rate=1500, duration=2, size=4096, subscribers=1, topics=3, arrival="poisson", sizes="lognormal")
    trial = replace(spec(Measure.LOSS, "sse"), workload=load, timings=Timings(attempts=1000))
    said = parameters([trial], "reset")
    assert said["rate"] == "1,500 events/s"
    assert said["size"] == "4,096 bytes (median, lognormal)"
    assert (said["topics"], said["subscribers"]) == ("3 topics", "1 subscriber")
    assert (said["outage"], said["at"], said["lasts"]) == (
        "outage reset",
        "outage begins at 0.4 s",
        "outage lasts 0.2 s",
    )
    assert (said["attempts"], said["heartbeat"], said["repeats"]) == ("1,000 attempts", "heartbeat 1 s", "1 repeat")
    traced = replace(spec(Measure.LATENCY, "sse"), workload=replace(LOAD, trace="data/log.csv", speed=10))
    said = parameters([traced], "none")
    assert (said["trace"], said["speed"], said["outage"]) == ("trace log.csv", "10 times its speed", "no outage")
    assert "rate" not in said
