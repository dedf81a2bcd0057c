"""Cost and duplex, row by row, from ledgers written by hand; and sweep.csv."""

import csv
import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from histories import record
from test_results import MS, PHASES, START, Recorded, fingerprint, row

from labkit.audit import Fate
from labkit.errors import UsageError
from labkit.ledger import Kind
from labkit.results import Run
from labkit.trial import Measure, Timings

CPU = {"producer": 0.002, "consumer": 0.003, "spared": 0.001, "broker": 0.004, "link": 9.0}
"""Seconds of the load; the link is the lab's own, and no part of any cost."""

Make = Callable[..., Recorded]


@pytest.fixture
def recorded(tmp_path: Path) -> Make:
    return lambda **workload: Recorded(tmp_path / "run", **workload)


def used(place: Path, cpu: dict[str, float]) -> None:
    """Notes in a trial's record what its nodes used of the CPU during the load."""
    path = place / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "load_cpu_s": cpu}))


def link(*counts: tuple[Kind, str, int]) -> list[Any]:
    """The link's records: kind, the phase in which, value."""
    return [record(kind, PHASES[phase] + MS, value=value) for kind, phase, value in counts]


BYTES = link(
    (Kind.UP, "setup", 10_000),
    (Kind.DOWN, "warmup", 20_000),
    (Kind.UP, "load", 300),
    (Kind.DOWN, "load", 6000),
    (Kind.DOWN, "settle", 700),
    (Kind.UP, "settled", 40_000),
)
"""7,000 bytes belong to the load and what is still on its way after it."""


def test_bytes_cpu_and_requests_are_shared_out_among_what_arrived(recorded: Make) -> None:
    made = recorded(rate=10, duration=1, subscribers=2, size=300)
    rows = made.rows()
    rows["link"] = BYTES
    rows["consumer"] += [record(Kind.REQUESTED, START + n * MS, subscriber=n % 2) for n in range(30)]
    rows["producer"] += [record(Kind.REQUESTED, START + MS, made.workload.first)]
    # Neither those that opened the connections nor those of the time after the load.
    rows["consumer"] += [record(Kind.REQUESTED, PHASES[phase] + MS) for phase in ("setup", "warmup", "settle")]
    used(made.add("cost", rows=rows, timings=Timings(poll=0.125)), CPU)
    found = row(Run(made.folder).cost)
    assert {name: found[name] for name in list(found)[:11]} == {
        "protocol": "sse",
        "guarantee": "at-most-once",
        "trial": 1,
        "measure": "cost",
        "rate": 10,
        "size": 300,
        "subscribers": 2,
        "topics": 1,
        "interval": 0.125,
        "events": 10,
        "deliveries": 20,
    }
    assert found["p50_ms"] == pytest.approx(1.0)
    assert found["bytes_per_delivery"] == pytest.approx(7000 / 20)
    assert found["overhead_per_delivery"] == pytest.approx(7000 / 20 - 300)
    assert found["requests_per_event"] == pytest.approx(31 / 10 / 2)
    assert found["producer_us_per_event"] == pytest.approx(200.0)
    assert found["consumer_us_per_delivery"] == pytest.approx(200.0)
    assert found["cpu_us_per_delivery"] == pytest.approx(500.0)


def test_cpu_is_shared_out_among_what_arrived_while_it_was_counted(recorded: Make) -> None:
    made = recorded(rate=10, duration=1, subscribers=2)
    rows = made.rows()
    # Of the last event of each subscriber only its bytes are counted: it came when the load was over.
    late = PHASES["settle"] + MS
    rows["consumer"] = rows["consumer"][:-2] + [(late, *each[1:]) for each in rows["consumer"][-2:]]
    rows["link"] = BYTES
    used(made.add("cost", rows=rows), CPU)
    found = row(Run(made.folder).cost)
    assert found["deliveries"] == 20
    assert found["bytes_per_delivery"] == pytest.approx(7000 / 20)
    assert found["cpu_us_per_delivery"] == pytest.approx(0.010 / 18 * 1e6)
    assert found["producer_us_per_event"] == pytest.approx(200.0)


def test_nothing_that_was_not_counted_is_a_nought(recorded: Make) -> None:
    made = recorded()
    made.add("cost", rows={**made.rows(), "link": BYTES})
    found = row(Run(made.folder).cost)
    assert [name for name in found if "us_per" in name and not math.isnan(found[name])] == []
    assert found["requests_per_event"] == 0
    assert found["bytes_per_delivery"] == pytest.approx(350)


def test_where_nothing_arrived_there_is_no_cost_of_a_delivery(recorded: Make) -> None:
    made = recorded()
    used(made.add("cost", rows={**made.rows(), "consumer": [], "link": BYTES}), CPU)
    found = row(Run(made.folder).cost)
    assert (found["deliveries"], found["producer_us_per_event"]) == (0, pytest.approx(200.0))
    for name in ("bytes_per_delivery", "overhead_per_delivery", "consumer_us_per_delivery", "cpu_us_per_delivery"):
        assert math.isnan(found[name]), name
    assert math.isnan(found["p50_ms"])


def test_a_latency_trial_stands_among_the_costs_without_bytes(recorded: Make) -> None:
    made = recorded()
    used(made.add("latency", rows=made.rows()), CPU)
    used(made.add("cost", rows={**made.rows(), "link": BYTES}), CPU)
    direct, linked = Run(made.folder).cost.to_dict("records")
    assert (direct["measure"], linked["measure"]) == ("latency", "cost")
    assert math.isnan(direct["bytes_per_delivery"])
    assert math.isnan(direct["overhead_per_delivery"])
    assert direct["cpu_us_per_delivery"] == linked["cpu_us_per_delivery"] == pytest.approx(500.0)


def asked(made: Recorded) -> dict[str, list[Any]]:
    """The ledgers of a perfect duplex trial: the consumer sends, and each answer reaches the one who asked."""
    rows = made.rows(latency=2 * MS)
    who = {item.sequence: int(item.topic[1:]) for item in made.schedule}
    answers = [each for each in rows["consumer"] if who[each[2]] == each[3]]
    return {"producer": [], "consumer": rows["producer"] + answers, "link": []}


def test_a_round_trip_runs_from_the_due_time_of_the_request_to_its_answer(recorded: Make) -> None:
    made = recorded(rate=40, duration=1, subscribers=4, topics=4)
    rows = asked(made)
    rows["link"] = [*BYTES, *link((Kind.CONNECTED, "setup", 1), (Kind.CONNECTED, "warmup", 2))]
    rows["link"] += link((Kind.CONNECTED, "load", 3), (Kind.CONNECTED, "settled", 4))
    rows["link"].append(record(Kind.CONNECTED, PHASES["setup"] - MS, value=0))
    made.add("duplex", "websocket", rows=rows)
    found = row(Run(made.folder).duplex)
    assert found == {
        "protocol": "websocket",
        "guarantee": "at-most-once",
        "trial": 1,
        "subscribers": 4,
        "requests": 40,
        "answered": 40,
        "p50_ms": pytest.approx(2.0),
        "p90_ms": pytest.approx(math.nan, nan_ok=True),
        "p99_ms": pytest.approx(math.nan, nan_ok=True),
        "max_ms": pytest.approx(2.0),
        "lateness_p99_ms": pytest.approx(0.0),
        "saturated": False,
        "connections": 3,
        "load_up": 300,
        "load_down": 6700,
        "bytes_per_answer": pytest.approx(175.0),
    }


def test_a_request_that_failed_is_rejected_and_has_no_answer(recorded: Make) -> None:
    made = recorded(rate=10, duration=1, subscribers=2, topics=2)
    rows = asked(made)
    lost = made.schedule[3]
    rows["consumer"] = [each for each in rows["consumer"] if each[0] < START + lost.due_ns or each[2] != lost.sequence]
    at, who = START + lost.due_ns, int(lost.topic[1:])
    rows["consumer"] += [record(Kind.SENT, at, lost.sequence, value=256), record(Kind.REJECTED, at, lost.sequence, who)]
    rows["link"] = BYTES
    made.add("duplex", rows=rows)
    run = Run(made.folder)
    (recording,) = run.of(Measure.DUPLEX)
    assert (recording.outcome.delivered, recording.outcome.lost) == (9, 1)
    assert (recording.outcome.count(Fate.REJECTED), recording.outcome.count(Fate.SILENT)) == (1, 0)
    found = row(run.duplex)
    assert (found["requests"], found["answered"]) == (10, 9)
    assert found["bytes_per_answer"] == pytest.approx(7000 / 9)


def test_an_answer_to_somebody_else_is_unexpected(recorded: Make) -> None:
    made = recorded(rate=10, duration=1, subscribers=2, topics=2)
    rows, item = asked(made), made.schedule[0]
    other = 1 - int(item.topic[1:])
    rows["consumer"].append(record(Kind.RECEIVED, START + 9 * MS, item.sequence, other, zlib.crc32(item.raw)))
    made.add("duplex", rows=rows)
    (recording,) = Run(made.folder).of(Measure.DUPLEX)
    assert (recording.outcome.unexpected, recording.outcome.delivered) == (1, 10)


def test_connections_that_nobody_counted_and_answers_that_never_came_are_left_empty(recorded: Make) -> None:
    made = recorded(rate=10, duration=1, subscribers=2, topics=2)
    rows = asked(made)
    rows["consumer"] = [each for each in rows["consumer"] if each[5] == Kind.SENT]
    made.add("duplex", rows=rows)
    found = row(Run(made.folder).duplex)
    assert (found["requests"], found["answered"]) == (10, 0)
    assert math.isnan(found["connections"])
    assert math.isnan(found["bytes_per_answer"])


def swept(made: Recorded, over: str = "subscribers") -> Run:
    made.manifest["sweep"] = {"over": over, "values": [1, 2]}
    made.save_manifest()
    return Run(made.folder)


def test_a_sweep_is_saved_as_one_file_with_a_row_for_each_trial(recorded: Make) -> None:
    made = recorded()
    used(made.add("cost", rows={**made.rows(), "link": BYTES}), CPU)
    made.add("cost", "websocket", repeat=2, rows={**made.rows(), "link": BYTES})
    run = swept(made)
    assert run.swept == "subscribers"
    run.save()
    assert [path.name for path in made.folder.glob("*.csv")] == ["sweep.csv"]
    with (made.folder / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(each["protocol"], each["trial"]) for each in rows] == [("websocket", "2"), ("sse", "1")]
    assert [each["cpu_us_per_delivery"] for each in rows] == ["", "500.0"]
    assert list(rows[0]) == list(run.cost)
    assert "None" not in run.table(Measure.COST)


def test_a_run_that_is_no_sweep_has_the_files_of_what_was_measured(recorded: Make) -> None:
    made = recorded(rate=10, duration=1, subscribers=2, topics=2)
    made.add("duplex", rows=asked(made))
    run = Run(made.folder)
    assert run.swept is None
    run.save()
    names = {path.stem for path in made.folder.glob("*.csv")}
    assert names == {"latency", "bandwidth", "loss", "duplex"}
    assert len(pd.read_csv(made.folder / "duplex.csv")) == 1


@pytest.mark.parametrize("sweep", [{"over": "moon"}, {}, "rate", {"over": ["rate"]}, None])
def test_a_manifest_whose_sweep_is_none_is_damaged(recorded: Make, sweep: Any) -> None:
    made = recorded()
    made.manifest["sweep"] = sweep
    made.save_manifest()
    before = fingerprint(made.folder)
    with pytest.raises(UsageError, match=r"^The manifest of .* is damaged \(.*\); restore it, or run .* again\.$"):
        Run(made.folder)
    assert fingerprint(made.folder) == before
