"""The chart of requests and answers, from runs written by hand."""

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_charts import LOAD, MS, START, S, assert_legible, words, write_ledger, write_run

from labkit import charts
from labkit.ledger import Kind
from labkit.looks import LOOKS, Chart
from labkit.plan import OUT_OF_THE_BOX, Plan
from labkit.protocols import PROTOCOLS
from labkit.results import Run
from labkit.trial import Guarantee, Measure, Trial


def planned(protocols: tuple[str, ...] = tuple(PROTOCOLS), load: Any = LOAD, **plan: Any) -> list[Trial]:
    return Plan(load, protocols, measures=(Measure.DUPLEX,), **plan).trials()


def asked(
    folder: Path,
    trials: dict[Trial, dict[str, Any]],
    connections: int | None = 10,
) -> Run:
    """Runs in which request k is answered after delay_ms x (1 + k mod 10), the first `keep` of them."""
    run = write_run(folder, {trial: {} for trial in trials})
    for trial, how in trials.items():
        delay_ms, keep, late_ms = how.get("delay_ms", 1.0), how.get("keep", 1.0), how.get("late_ms", 0.0)
        place, schedule, rows = folder / "trials" / trial.name, trial.workload.schedule(), []
        for number, item in enumerate(schedule):
            due = START + item.due_ns + int(late_ms * MS)
            rows.append((due, len(item.raw), item.sequence, 2**16 - 1, Kind.SENT))
            at, crc = due + int(delay_ms * (1 + number % 10) * MS), zlib.crc32(item.raw)
            if number < keep * len(schedule):
                rows.append((at, crc, item.sequence, int(item.topic[1:]), Kind.RECEIVED))
        write_ledger(place / "producer.ledger", [])
        write_ledger(place / "consumer.ledger", sorted(rows))
        link = [
            (START - S, 0, 0, 0, Kind.UP),
            (START + MS, 60_000, 0, 0, Kind.UP),
            (START + MS, 40_000, 0, 0, Kind.DOWN),
        ]
        link += [(START - S // 2, number, number, 0, Kind.CONNECTED) for number in range(connections or 0)]
        write_ledger(place / "link.ledger", sorted(link))
    return Run(run.folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All protocols with both guarantees; polling answers a part."""
    trials = {
        trial: {"delay_ms": 1 + number, "keep": 0.5 if trial.protocol == "polling" else 1.0}
        for number, trial in enumerate(planned())
    }
    return asked(tmp_path_factory.mktemp("runs") / "duplex", trials)


def panels(chart: Chart) -> list[Any]:
    return [axes for axes in chart.axes if axes.get_xlabel()]


def test_three_panels_have_units_and_which_way_is_better(run: Run) -> None:
    chart = charts.duplex(run)
    assert [axes.get_xlabel() for axes in panels(chart)] == [
        "ms, log scale  (← lower is better)",
        "bytes  (← lower is better)",
        "connections  (← lower is better)",
    ]
    for row in PROTOCOLS.values():
        assert words(chart).count(row.title) == len(OUT_OF_THE_BOX)
    assert {str(guarantee) for guarantee in OUT_OF_THE_BOX} <= set(words(chart))


def test_the_alternative_text_says_times_bytes_connections_and_what_was_not_answered(run: Run) -> None:
    alt = charts.duplex(run).alt
    assert "200 requests/s of 256 bytes for 1 s from 5 subscribers, each answered alone" in alt
    assert "topics" not in alt
    assert "At-most-once, lower is better: WebSocket, p50 5.50 · p90 9.10 ms, 500 bytes, connections per subscr" in alt
    assert "Polling, p50 33.00 · p90 54.60 ms, 1,000 bytes, connections per subscriber 2, only 50.0 % answered" in alt
    assert "nan" not in alt


def test_medians_percentiles_and_bars_are_the_figures_of_the_frame(run: Run) -> None:
    times, sizes, connections = panels(charts.duplex(run))
    rows = run.duplex.sort_values("guarantee", key=lambda names: names.map(list(Guarantee).index), kind="stable")
    assert [line.get_xdata()[0] for line in times.lines] == pytest.approx(list(rows["p50_ms"]))
    assert [bar.get_width() for bar in sizes.patches] == pytest.approx(list(rows["bytes_per_answer"]))
    assert [bar.get_width() for bar in connections.patches] == [2.0] * len(rows)
    looks = [LOOKS[name] for name in rows["protocol"]]
    assert [line.get_marker() for line in times.lines] == [look.marker for look in looks]
    assert [bar.get_hatch() or "" for bar in sizes.patches] == [look.hatch for look in looks]


def test_nothing_overlaps_and_nothing_is_clipped(run: Run) -> None:
    assert_legible(charts.duplex(run))


def test_the_99th_percentile_is_a_thin_line_where_there_are_enough_answers(tmp_path: Path) -> None:
    (trial,) = planned(("sse",), replace(LOAD, rate=1000), guarantees=(Guarantee.AT_MOST_ONCE,))
    chart = charts.duplex(asked(tmp_path / "run", {trial: {"delay_ms": 100}}))
    assert "p50 550.00 · p90 910.00 · p99 1,000.00 ms" in words(chart)
    widths = {
        lines.get_linewidth()[0]: lines.get_segments()[0][:, 0].tolist() for lines in panels(chart)[0].collections
    }
    assert widths == {1.2: pytest.approx([550, 1000]), 4.0: pytest.approx([550, 910])}


def test_files_are_written_beside_the_others_and_the_same_again(run: Run, tmp_path: Path) -> None:
    once, again = charts.save(run, tmp_path / "once"), charts.save(Run(run.folder), tmp_path / "again")
    assert [path.stem for path in once][::2] == ["latency", "bandwidth", "loss", "duplex"]
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]


def test_what_was_not_counted_or_not_answered_is_said(tmp_path: Path) -> None:
    first, second = planned(("sse",))
    chart = charts.duplex(asked(tmp_path / "run", {first: {"keep": 0.0}, second: {}}, connections=None))
    assert words(chart).count("not counted") == 2
    assert words(chart).count("nothing answered") == 1
    assert "too few answers for p50" in words(chart)
    assert chart.png()


def test_saturated_and_repeated_trials_are_marked(tmp_path: Path) -> None:
    trials = planned(("sse", "websocket"), guarantees=(Guarantee.AT_MOST_ONCE,), repeat=3)
    how = {t: {"delay_ms": t.repeat, "late_ms": 9.0 if t.protocol == "sse" else 0.0} for t in trials}
    chart = charts.duplex(asked(tmp_path / "run", how))
    assert words(chart).count("⚠ generator saturated") == 1
    faces = {line.get_marker(): line.get_markerfacecolor() for line in panels(chart)[0].lines}
    assert faces == {LOOKS["sse"].marker: "white", LOOKS["websocket"].marker: LOOKS["websocket"].colour}
    assert "p50 11.00 · p90 18.20 ms" in words(chart)
    assert "3 repeats." in chart.alt


def test_a_run_without_requests_says_so(tmp_path: Path) -> None:
    chart = charts.duplex(write_run(tmp_path, {}, {"duplex-sse-at-most-once-1": "broke"}))
    assert "This run has no finished duplex trial, so there is nothing to draw." in chart.alt
    assert "duplex-sse-at-most-once-1" in chart.alt
    assert not chart.axes
