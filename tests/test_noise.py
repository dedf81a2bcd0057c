"""Noise: nothing on a quiet machine; each kind of noise is one sentence, on every chart of what it touched."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_charts import OUTAGE, assert_legible, spec, words, write_run
from test_dialogue import asked
from test_dialogue import planned as requests
from test_ranking import FIGURES
from test_sweeps import planned, swept

from labkit import charts
from labkit.figures import SATURATED_MS
from labkit.looks import Chart
from labkit.noise import BUSY, WIDE, elsewhere, noise
from labkit.results import Run
from labkit.trial import COMPARED, Guarantee, Measure, Trial

ONCE, AT_LEAST = Guarantee.AT_MOST_ONCE, Guarantee.AT_LEAST_ONCE
DRAWS = [charts.latency, charts.bandwidth, charts.loss, charts.matrix, charts.timeline]


def part(seconds: float, elsewhere_cpu_s: float | None) -> dict[str, Any]:
    return {"seconds": seconds, "elsewhere_cpu_s": elsewhere_cpu_s}


def about(*parts: dict[str, Any], cores: int | None = 2) -> dict[str, Any]:
    """What a manifest says of the machine and of the parts of its run."""
    return {"machine": {"cores": cores}, "parts": list(parts)}


def measured(folder: Path, trials: dict[Trial, dict[str, Any]], *parts: dict[str, Any], **machine: Any) -> Run:
    return told(write_run(folder, trials), *parts, **machine)


def told(run: Run, *parts: dict[str, Any], **machine: Any) -> Run:
    """The run, with parts in its manifest."""
    path = run.folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **about(*parts, **machine)}))
    return Run(run.folder)


def shown(chart: Chart) -> str:
    return " ".join(words(chart))


QUIET = part(100.0, 4.0)
LOUD = part(100.0, 60.0)


@pytest.mark.parametrize(
    ("found", "share"),
    [
        ({}, 0.0),
        ({"parts": []}, 0.0),
        (about(), 0.0),
        (about(part(100, 20)), 0.1),
        (about(part(100, 20), cores=1), 0.2),
        (about(part(100, 20), cores=None), 0.2),
        (about(part(100, 20), part(300, 220)), 0.3),
        (about(part(100, 20), part(10_000, None)), 0.1),
        (about(part(100, None)), 0.0),
        (about(part(0.0, 0.0)), 0.0),
        (about(part(100, 0.0)), 0.0),
    ],
)
def test_the_share_of_other_programs_is_of_all_cores_and_of_the_parts_that_know_it(
    found: dict[str, Any], share: float
) -> None:
    assert elsewhere(found) == pytest.approx(share)


@pytest.fixture
def calm(tmp_path: Path) -> dict[Trial, dict[str, Any]]:
    """Trials of every measure, three times each, that differ by little."""
    return {spec(m, "sse", ONCE, n): {"delay_ms": 10 + n} for m in COMPARED for n in (1, 2, 3)}


@pytest.mark.parametrize("parts", [[QUIET], [QUIET, QUIET], [part(100.0, None)], []])
def test_a_quiet_run_has_no_noise(tmp_path: Path, calm: Any, parts: Any) -> None:
    run = measured(tmp_path, calm, *parts)
    assert [noise(run, measure) for measure in COMPARED] == [[], [], []]


def test_charts_of_a_quiet_run_say_nothing_of_it(tmp_path: Path, calm: Any) -> None:
    run = measured(tmp_path, calm, QUIET)
    for draw in DRAWS:
        chart = draw(run)
        assert "noisy" not in chart.alt + shown(chart)


def test_a_manifest_made_before_there_were_parts_says_nothing_of_other_programs(tmp_path: Path, calm: Any) -> None:
    run = write_run(tmp_path, calm)
    assert not {"parts", "machine"} & set(run.manifest)
    assert [noise(run, measure) for measure in COMPARED] == [[], [], []]


@pytest.mark.parametrize("measure", COMPARED)
def test_other_programs_are_noise_of_every_measure(tmp_path: Path, calm: Any, measure: Measure) -> None:
    run = measured(tmp_path, calm, QUIET, LOUD)
    assert noise(run, measure) == ["other programs used 16% of the CPU meanwhile"]


def test_just_the_share_that_is_allowed_is_none(tmp_path: Path, calm: Any) -> None:
    allowed, above = BUSY * 100 * 2, BUSY * 100 * 2 + 1
    assert noise(measured(tmp_path / "run", calm, part(100, allowed)), Measure.LATENCY) == []
    assert noise(told(Run(tmp_path / "run"), part(100, above)), Measure.LATENCY) != []


@pytest.mark.parametrize(
    ("measure", "draw"),
    [
        (Measure.LATENCY, charts.latency),
        (Measure.BANDWIDTH, charts.bandwidth),
        (Measure.LOSS, charts.loss),
        (Measure.LOSS, charts.matrix),
    ],
)
def test_a_producer_that_was_late_is_counted_by_its_trials(
    tmp_path: Path, calm: Any, measure: Measure, draw: Any
) -> None:
    late = [trial for trial in calm if trial.measure is measure][:2]
    run = measured(tmp_path, calm | {trial: {"delay_ms": 10, "late_ms": SATURATED_MS + 1} for trial in late}, QUIET)
    said = "in 2 of 3 trials the producer was over 5 ms late itself"
    assert [noise(run, each) for each in COMPARED] == [[said] if each is measure else [] for each in COMPARED]
    assert f"⚠ A noisy machine: {said}." in draw(run).alt


def test_a_chart_counts_those_trials_that_it_shows(tmp_path: Path, calm: Any) -> None:
    _, second, _ = late = [trial for trial in calm if trial.measure is Measure.LOSS]
    other = {replace(t, name=f"{t.name}-close", outage=replace(t.outage, kind="close")): calm[t] for t in late}
    run = measured(tmp_path, calm | other | {second: {"delay_ms": 10, "late_ms": SATURATED_MS + 1}}, QUIET)
    assert "in 1 of 6 trials the producer" in charts.matrix(run).alt
    assert "in 1 of 3 trials the producer" in charts.loss(run, "reset").alt
    assert "noisy" not in charts.loss(run, "close").alt
    assert "in 1 of 1 trials the producer" in charts.timeline(run, outage="reset").alt


def test_a_producer_that_the_outage_ends_is_late_because_of_it(tmp_path: Path) -> None:
    ended = replace(OUTAGE, kind="producer-crash")
    trials: dict[Trial, dict[str, Any]] = {spec(Measure.LOSS, "sse", ONCE, outage=ended): {"late_ms": 90.0}}
    assert noise(measured(tmp_path, trials, QUIET), Measure.LOSS) == []


def test_an_outage_that_began_late_is_counted_by_its_trials(tmp_path: Path, calm: Any) -> None:
    loss = [trial for trial in calm if trial.measure is Measure.LOSS]
    delays = dict(zip(loss, (SATURATED_MS, SATURATED_MS + 1, 0.0), strict=True))
    run = measured(tmp_path, calm | {trial: {"struck_ms": delay} for trial, delay in delays.items()}, QUIET)
    said = "in 1 of 3 trials the outage began over 5 ms late"
    assert noise(run, Measure.LOSS) == [said]
    assert said in charts.matrix(run).alt


def test_medians_that_differ_widely_are_said_with_their_protocols_in_order(tmp_path: Path) -> None:
    trials = {}
    for protocol, factor in {"polling": 2.0, "sse": 1.0 + 0.9 * (WIDE - 1), "websocket": 3.0}.items():
        for guarantee in (ONCE, AT_LEAST):
            for repeat in (1, 2, 3):
                trials[spec(Measure.LATENCY, protocol, guarantee, repeat)] = {
                    "delay_ms": factor if repeat == 2 and guarantee is AT_LEAST else 1.0
                }
    run = measured(tmp_path, trials, QUIET)
    said = "the median latency differs from repeat to repeat, over 1.5 times, for WebSocket, Polling"
    assert noise(run, Measure.LATENCY) == [said]


def test_one_repeat_tells_nothing_of_how_medians_differ(tmp_path: Path) -> None:
    trials = {spec(Measure.LATENCY, "sse", guarantee): {"delay_ms": d} for guarantee, d in ((ONCE, 1), (AT_LEAST, 9))}
    assert noise(measured(tmp_path, trials, QUIET), Measure.LATENCY) == []


def test_a_repeat_in_which_nothing_arrived_leaves_open_how_medians_differ(tmp_path: Path) -> None:
    trials = {
        spec(Measure.LATENCY, "sse", ONCE, n): {"delay_ms": 1.0 * n, "keep": float(n < 3)} for n in (1, 2, 3)
    }  # fmt: skip
    assert noise(measured(tmp_path, trials, QUIET), Measure.LATENCY) == []


def test_round_trips_are_noisy_as_latencies_are(tmp_path: Path) -> None:
    trials = {
        trial: {"delay_ms": 1.0 * trial.repeat, "late_ms": 9.0 * (trial.repeat == 3)}
        for trial in requests(("sse",), guarantees=(ONCE,), repeat=3)
    }
    run = told(asked(tmp_path / "run", trials), LOUD)
    assert noise(run, Measure.DUPLEX) == [
        "other programs used 30% of the CPU meanwhile",
        "in 1 of 3 trials the producer was over 5 ms late itself",
        "the median latency differs from repeat to repeat, over 1.5 times, for Server-Sent Events",
    ]
    assert f"⚠ A noisy machine: {'; '.join(noise(run, Measure.DUPLEX))}." in charts.duplex(run).alt


@pytest.mark.parametrize("over", ["rate", "size"])
def test_a_sweep_says_at_which_values_its_figures_differ_widely(tmp_path: Path, over: str) -> None:
    trials = planned(over, protocols=("sse", "polling"), guarantees=(ONCE,), repeat=3)
    low, *_, high = sorted({getattr(trial.workload, over) for trial in trials})
    made = {
        trial: {
            "delay_ms": 3.0 * (trial.repeat if trial.protocol == "sse" and value in (low, high) else 1.0),
            "late_ms": 9.0 * (value == high),
        }
        for trial in trials
        for value in [getattr(trial.workload, over)]
    }
    run = told(swept(tmp_path / over, over, made), LOUD)
    said = [
        "other programs used 30% of the CPU meanwhile",
        "in 6 of 18 trials the producer was over 5 ms late itself",
        "the median latency differs from repeat to repeat, over 1.5 times, for Server-Sent Events at "
        f"{low:,.10g} and {high:,.10g}",
    ]
    assert noise(run, Measure.COST) == said
    chart = charts.sweep(run)
    assert_legible(chart)
    assert f"⚠ A noisy machine: {'; '.join(said)}." in chart.alt


def test_a_quiet_sweep_has_no_noise(tmp_path: Path) -> None:
    trials = planned("rate", protocols=("sse",), guarantees=(ONCE,), repeat=3)
    run = told(swept(tmp_path / "run", "rate", {trial: {"delay_ms": 3.0} for trial in trials}), QUIET)
    assert noise(run, Measure.COST) == []
    assert "noisy" not in charts.sweep(run).alt


def test_cpu_that_differs_widely_is_noise_of_a_sweep(tmp_path: Path) -> None:
    trials = planned("size", protocols=("sse",), guarantees=(ONCE,), repeat=3)
    run = told(swept(tmp_path / "run", "size", {trial: {"delay_ms": 3.0} for trial in trials}), QUIET)
    first = next(trial for trial in trials if trial.repeat == 2)
    path = run.folder / "trials" / first.name / "record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "load_cpu_s": {role: 2 * s for role, s in record["load_cpu_s"].items()}}))
    (said,) = noise(Run(run.folder), Measure.COST)
    at = f"{first.workload.size:,.10g}"
    assert said == f"the CPU per delivery differs from repeat to repeat, over 1.5 times, for Server-Sent Events at {at}"


def test_bytes_that_differ_widely_are_noise_of_a_bandwidth(tmp_path: Path) -> None:
    trials = {spec(Measure.BANDWIDTH, "sse", ONCE, n): {"keep": 1.0 if n < 3 else 0.5} for n in (1, 2, 3)}
    (said,) = noise(measured(tmp_path, trials, QUIET), Measure.BANDWIDTH)
    assert said.startswith("the number of bytes per delivery differs from repeat to repeat")


def test_a_ranking_says_of_its_runs_what_was_offered_and_what_was_noisy(tmp_path: Path, calm: Any) -> None:
    run = measured(tmp_path, calm, LOUD)
    chart = charts.ranking(FIGURES, {"latency": 1, "bytes": 1}, [run])
    assert_legible(chart)
    for text in (chart.alt, shown(chart)):
        assert "Loss: 200 events/s of 256 bytes" in text
        assert "⚠ A noisy machine: other programs used 30% of the CPU meanwhile" in text
    assert "noisy" not in charts.ranking(FIGURES, {"latency": 1, "bytes": 1}, [told(run, QUIET)]).alt


@pytest.mark.parametrize("draw", DRAWS)
def test_every_chart_says_so_in_the_picture_and_in_its_alternative_text(tmp_path: Path, calm: Any, draw: Any) -> None:
    chart = draw(measured(tmp_path, calm, LOUD))
    assert_legible(chart)
    said = "⚠ A noisy machine: other programs used 30% of the CPU meanwhile"
    assert said in shown(chart)
    assert f" {said}." in chart.alt


def test_a_sentence_too_long_for_a_line_is_wrapped(tmp_path: Path) -> None:
    trials = {
        spec(Measure.LATENCY, protocol, ONCE, n): {"delay_ms": 1.0 * n, "late_ms": 9.0}
        for protocol in ("websocket", "webhook", "resthooks", "pubsub", "sse", "polling", "longpolling")
        for n in (1, 2, 3)
    }
    run = measured(tmp_path, trials, LOUD)
    chart = charts.latency(run)
    assert_legible(chart)
    assert "; ".join(noise(run, Measure.LATENCY)) in shown(chart)


def test_what_was_not_measured_is_not_noisy(tmp_path: Path) -> None:
    chart = charts.latency(measured(tmp_path, {spec(Measure.LOSS, "sse"): {}}, LOUD))
    assert "noisy" not in chart.alt
    assert "nothing to draw" in chart.alt


def test_an_overlay_names_the_runs_of_a_noisy_machine(tmp_path: Path, calm: Any) -> None:
    quiet = measured(tmp_path / "quiet", calm, QUIET)
    trials = {trial: {**how, "late_ms": 9.0 * (trial.measure is Measure.LATENCY)} for trial, how in calm.items()}
    chart = charts.overlay({"before": quiet, "after": measured(tmp_path / "loud", trials, LOUD)})
    assert_legible(chart)
    late = "in 3 of 3 trials the producer was over 5 ms late itself"
    for text in (chart.alt, shown(chart)):
        assert f"⚠ A noisy machine in B: other programs used 30% of the CPU meanwhile; {late}." in text
        assert text.count("noisy") == 1
    assert "noisy" not in charts.overlay([quiet, quiet]).alt
