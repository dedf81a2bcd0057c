import errno
import hashlib
import json
import os
import re
import shutil
import zlib

import numpy as np
import pandas as pd
import pytest
from histories import ledger_bytes, record

from labkit import disk
from labkit.errors import UsageError
from labkit.figures import METRICS, percentile
from labkit.ledger import RECORD, Kind
from labkit.outage import Conditions, Outage
from labkit.results import Run
from labkit.trial import COMPARED, SCHEMA, Guarantee, Measure, Trial
from labkit.workload import Workload, digest

START = 7_000_000_000
MS = 1_000_000
SECOND = 1000 * MS
PHASES = {
    "setup": START - 2 * SECOND,
    "warmup": START - SECOND,
    "load": START,
    "settle": START + 2 * SECOND,
    "settled": START + 3 * SECOND,
    "idle": START + 4 * SECOND,
    "stop": START + 6 * SECOND,
}
COLUMNS = {
    "latency": "protocol, guarantee, trial, subscribers, deliveries, p50_ms, p90_ms, p99_ms, max_ms, lateness_p99_ms, "
    "saturated",
    "bandwidth": "protocol, guarantee, trial, deliveries, payload_bytes, setup_up, setup_down, load_up, load_down, "
    "idle_up_per_s, idle_down_per_s, overhead_per_delivery",
    "loss": "protocol, guarantee, outage, trial, owed, delivered, lost, rejected, gap_seen, silent, duplicated, "
    "reordered, unexpected, corrupt, noticed_ms, recovered_ms, verdict",
}
"""Section 7 of the design, word for word."""

COLUMNS["cost"] = (
    "protocol, guarantee, trial, measure, rate, size, subscribers, topics, interval, events, deliveries, p50_ms, "
    "p90_ms, p99_ms, max_ms, lateness_p99_ms, saturated, bytes_per_delivery, overhead_per_delivery, "
    "requests_per_event, producer_us_per_event, consumer_us_per_delivery, cpu_us_per_delivery"
)
COLUMNS["duplex"] = (
    "protocol, guarantee, trial, subscribers, requests, answered, p50_ms, p90_ms, p99_ms, max_ms, lateness_p99_ms, "
    "saturated, connections, load_up, load_down, bytes_per_answer"
)

RESET = Outage("reset", at=0.3, lasts=0.2)
COLUMNS["loss"] += ", noticed_producer_ms, noticed_consumer_ms, unexplained, overflowed"


class Recorded:
    """A run folder made by hand. Every trial in it went perfectly until a test changes its rows."""

    def __init__(self, folder, **workload):
        self.folder = folder
        self.workload = Workload(**{"rate": 10, "duration": 1, "subscribers": 2, **workload})
        self.schedule = self.workload.schedule()
        self.manifest = {"schema": SCHEMA, "trials": {}}
        folder.mkdir()
        self.save_manifest()

    def save_manifest(self):
        (self.folder / "manifest.json").write_text(json.dumps(self.manifest))

    def rows(self, latency=MS, lateness=0):
        """The ledgers of a perfect trial; the latency of the nth delivery is `latency(n)` where that is a function."""
        delays = latency if callable(latency) else lambda _: latency
        sent = [
            record(Kind.SENT, START + item.due_ns + lateness, item.sequence, value=len(item.raw))
            for item in self.schedule
        ]
        received, number = [], 0
        for item in self.schedule:
            for who in range(self.workload.subscribers):
                at = START + item.due_ns + delays(number)
                received.append(record(Kind.RECEIVED, at, item.sequence, who, zlib.crc32(item.raw)))
                number += 1
        return {"producer": sent, "consumer": received, "link": []}

    def add(
        self,
        measure="latency",
        protocol="sse",
        guarantee="at-most-once",
        repeat=1,
        rows=None,
        drained=True,
        outage=RESET,
        usage=None,
        **spec,
    ):
        """Records one trial; returns its folder. `rows` are by the name of the ledger; only a loss has an outage."""
        outage = outage if measure == "loss" else None
        kind = f"{outage.kind}-" if outage and outage.kind != "reset" else ""
        name = f"{measure}-{protocol}-{guarantee}-{kind}{repeat}"
        trial = Trial(name, Measure(measure), protocol, Guarantee(guarantee), self.workload, outage, repeat, **spec)
        place = self.folder / "trials" / name
        place.mkdir(parents=True)
        trial.save(place / "spec.json")
        entry = {"digest": digest(self.schedule), "drained": drained, "phases": PHASES, "usage": usage or {}}
        (place / "record.json").write_text(json.dumps(entry))
        for role, content in (rows or self.rows()).items():
            if role != "link" or trial.linked:
                (place / f"{role}.ledger").write_bytes(ledger_bytes(content))
        self.manifest["trials"][name] = {"digest": entry["digest"], "seconds": 1.0}
        self.save_manifest()
        return place

    def fail(self, name, error):
        self.manifest["trials"][name] = {"error": error}
        self.save_manifest()


@pytest.fixture
def recorded(tmp_path):
    return lambda **workload: Recorded(tmp_path / "run", **workload)


def fingerprint(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def refusal(folder):
    """The one sentence with which a run is refused when all its frames are asked for; no file has changed."""
    before = fingerprint(folder)
    with pytest.raises(UsageError) as caught:
        frames(Run(folder))
    assert fingerprint(folder) == before
    text = str(caught.value)
    assert text.endswith(".")
    assert re.search(r"[.!?]\s", text) is None
    assert "\n" not in text
    return text


def frames(run):
    return run.latency, run.bandwidth, run.loss


def row(frame):
    """The only row."""
    assert len(frame) == 1
    return frame.iloc[0].to_dict()


@pytest.mark.parametrize("measure", list(Measure))
def test_the_frames_have_exactly_the_columns_of_the_contract(recorded, measure):
    made = recorded()
    assert list(getattr(Run(made.folder), measure)) == COLUMNS[measure].split(", ")
    made.add(measure)
    frame = getattr(Run(made.folder), measure)
    assert list(frame) == COLUMNS[measure].split(", ")
    assert len(frame) == 1


@pytest.mark.parametrize("measure", COMPARED)
def test_a_trial_stands_in_the_frame_of_its_measure_alone(recorded, measure):
    made = recorded()
    made.add(measure)
    run = Run(made.folder)
    assert [len(frame) for frame in frames(run)] == [int(other is measure) for other in COMPARED]
    assert [recording.trial.measure for recording in run.of(measure)] == [measure]


def test_latencies_run_from_the_due_time_over_all_subscribers(recorded):
    made = recorded(rate=250, duration=2)
    # 1000 deliveries, 0.00 to 9.99 ms in steps of 10 us, in a scrambled order.
    made.add(rows=made.rows(latency=lambda number: number * 7 % 1000 * 10_000, lateness=2 * MS))
    found = row(Run(made.folder).latency)
    assert found == {
        "protocol": "sse",
        "guarantee": "at-most-once",
        "trial": 1,
        "subscribers": 2,
        "deliveries": 1000,
        "p50_ms": pytest.approx(4.995),
        "p90_ms": pytest.approx(8.991),
        "p99_ms": pytest.approx(9.8901),
        "max_ms": pytest.approx(9.99),
        "lateness_p99_ms": pytest.approx(2.0),
        "saturated": False,
    }
    (recording,) = Run(made.folder).of(Measure.LATENCY)
    assert recording.latencies_ms() == pytest.approx(np.arange(1000) / 100)


@pytest.mark.parametrize(("lateness", "saturated"), [(4_900_000, False), (5_000_000, False), (5_100_000, True)])
def test_a_producer_later_than_the_bound_is_marked_saturated(recorded, lateness, saturated):
    made = recorded()
    made.add(rows=made.rows(lateness=lateness))
    found = row(Run(made.folder).latency)
    assert found["lateness_p99_ms"] == pytest.approx(lateness / MS)
    assert found["saturated"] == saturated


def test_only_the_first_good_arrival_counts_for_latency(recorded):
    made = recorded(subscribers=1)
    rows = made.rows(latency=2 * MS)
    copies = [record(Kind.REPEATED, row[0] + 500 * MS, *row[2:4], row[1]) for row in rows["consumer"]]
    damaged = [record(Kind.RECEIVED, row[0] - MS, *row[2:4], -1) for row in rows["consumer"]]
    warm_up = [record(Kind.RECEIVED, START - 500 * MS, 3, 0, 1)]
    made.add(rows={**rows, "consumer": rows["consumer"] + copies + damaged + warm_up})
    found = row(Run(made.folder).latency)
    assert (found["deliveries"], found["max_ms"]) == (10, pytest.approx(2.0))


@pytest.mark.parametrize(
    ("share", "enough", "value"), [(0.5, 20, 9.5), (0.9, 100, 89.1), (0.99, 1000, 989.01), (0.75, 40, 29.25)]
)
def test_a_percentile_is_stated_only_where_ten_samples_lie_beyond_it(share, enough, value):
    assert percentile(np.arange(float(enough)), share) == pytest.approx(value)
    assert percentile(np.arange(float(enough - 1)), share) is None
    assert percentile(np.array([]), share) is None


@pytest.mark.parametrize(
    ("deliveries", "stated"), [(19, []), (20, ["p50_ms"]), (99, ["p50_ms"]), (100, ["p50_ms", "p90_ms"])]
)
def test_percentiles_without_enough_samples_are_left_empty(recorded, deliveries, stated):
    made = recorded(rate=deliveries, subscribers=1)
    made.add()
    frame = Run(made.folder).latency
    found = row(frame)
    assert [name for name in ("p50_ms", "p90_ms", "p99_ms") if not np.isnan(found[name])] == stated
    assert found["max_ms"] == pytest.approx(1.0)
    assert frame["p99_ms"].dtype == float


def test_bytes_are_summed_by_direction_and_phase(recorded):
    made = recorded()
    rows = made.rows()
    at = {phase: PHASES[phase] + MS for phase in PHASES}
    up = {
        "setup": 100,
        "warmup": 1_000_000,
        "load": 40,
        "settle": 2,
        "settled": 3_000_000,
        "idle": 7,
        "stop": 9_000_000,
    }
    rows["link"] = [record(Kind.UP, at[phase], value=value) for phase, value in up.items()]
    rows["link"] += [record(Kind.DOWN, at[phase] + 1, value=10 * value) for phase, value in up.items()]
    rows["link"] += [record(Kind.UP, START - 9 * SECOND, value=5_000_000), record(Kind.UP, at["load"] + 5, value=8)]
    rows["link"] += [record(Kind.KERNEL_UP, at["load"], value=70), record(Kind.KERNEL_DOWN, at["load"], value=71)]
    made.add("bandwidth", rows=rows)
    payload = 2 * sum(len(item.raw) for item in made.schedule)
    assert row(Run(made.folder).bandwidth) == {
        "protocol": "sse",
        "guarantee": "at-most-once",
        "trial": 1,
        "deliveries": 20,
        "payload_bytes": payload,
        "setup_up": 100,
        "setup_down": 1000,
        "load_up": 50,
        "load_down": 420,
        "idle_up_per_s": 3.5,
        "idle_down_per_s": 35.0,
        "overhead_per_delivery": pytest.approx((470 - payload) / 20),
    }


def test_a_phase_begins_with_its_mark_and_ends_before_the_next(recorded):
    made = recorded()
    rows = made.rows()
    marks = {"setup": 1, "warmup": 10, "load": 100, "settled": 1000, "idle": 10_000, "stop": 100_000}
    rows["link"] = [record(Kind.DOWN, PHASES[phase], value=value) for phase, value in marks.items()]
    made.add("bandwidth", rows=rows)
    found = row(Run(made.folder).bandwidth)
    assert (found["setup_down"], found["load_down"], found["idle_down_per_s"]) == (1, 100, 5000.0)


def test_payload_is_what_arrived_not_what_was_sent(recorded):
    made = recorded(sizes="lognormal", size=400)
    rows = made.rows()
    lost = made.schedule[4]
    rows["consumer"] = [row for row in rows["consumer"] if row[2] != lost.sequence]
    made.add("bandwidth", rows=rows)
    found = row(Run(made.folder).bandwidth)
    assert found["deliveries"] == 18
    assert found["payload_bytes"] == 2 * sum(len(item.raw) for item in made.schedule if item is not lost)


def test_a_bandwidth_trial_without_deliveries_has_no_overhead_per_delivery(recorded):
    made = recorded()
    made.add("bandwidth", rows={**made.rows(), "consumer": []})
    found = row(Run(made.folder).bandwidth)
    assert (found["deliveries"], found["payload_bytes"]) == (0, 0)
    assert found["overhead_per_delivery"] is None or np.isnan(found["overhead_per_delivery"])


def outage_rows(made):
    """One of each: silent, rejected, gap seen, duplicated, reordered, unexpected, corrupt."""
    rows, first = made.rows(), made.workload.first
    cut, healed = START + 300 * MS, START + 500 * MS
    received = {(row[3], row[2] - first): row for row in rows["consumer"]}
    silent, rejected, unseen = ((0, number) for number in (6, 7, 8))
    for cell in (silent, rejected, unseen):
        del received[cell]
    late, early = received[1, 6], received[1, 7]
    received[1, 6], received[1, 7] = (early[0], *late[1:]), (late[0], *early[1:])
    consumer = [*received.values()]
    consumer += [
        record(Kind.DISCONNECTED, cut + 3 * MS, subscriber=1),
        record(Kind.CONNECTED, cut + 4 * MS, subscriber=1),
        record(Kind.GAP, START + 899 * MS, first + 7, 0, first + 9),
        (START + 950 * MS, *received[1, 2][1:]),
        record(Kind.RECEIVED, START + 960 * MS, first + 500, 0, 1),
        record(Kind.RECEIVED, START + 970 * MS, first + 2, 0, -1),
    ]
    producer = [*rows["producer"], record(Kind.REJECTED, START + 700 * MS, first + 7, 0, 500)]
    return {"producer": producer, "consumer": consumer, "link": [record(Kind.CUT, cut), record(Kind.HEALED, healed)]}


def test_losses_are_those_planted_and_told_apart(recorded):
    made = recorded()
    made.add("loss", "websocket", "at-least-once", 3, rows=outage_rows(made))
    assert row(Run(made.folder).loss) == {
        "protocol": "websocket",
        "guarantee": "at-least-once",
        "outage": "reset",
        "trial": 3,
        "owed": 20,
        "delivered": 17,
        "lost": 3,
        "rejected": 1,
        "gap_seen": 1,
        "silent": 1,
        "duplicated": 1,
        "reordered": 1,
        "unexpected": 1,
        "corrupt": 1,
        "noticed_ms": pytest.approx(3.0),
        "recovered_ms": pytest.approx(1.0),
        "verdict": "lossy",
        "noticed_producer_ms": pytest.approx(400.0),
        "noticed_consumer_ms": pytest.approx(3.0),
        "unexplained": 3,
        "overflowed": 0,
    }


def test_a_perfect_trial_is_complete_and_nobody_noticed_anything(recorded):
    made = recorded()
    made.add("loss")
    found = row(Run(made.folder).loss)
    assert (found["owed"], found["delivered"], found["lost"], found["verdict"]) == (20, 20, 0, "complete")
    assert np.isnan(found["noticed_ms"])
    assert np.isnan(found["recovered_ms"])


@pytest.mark.parametrize("side", ["producer", "consumer"])
def test_connections_that_the_end_of_the_trial_closes_are_no_sign_of_the_outage(recorded, side):
    made = recorded()
    rows = made.rows()
    rows["link"] = [record(Kind.CUT, START + 300 * MS), record(Kind.HEALED, START + 500 * MS)]
    rows[side].append(record(Kind.DISCONNECTED, PHASES["stop"] + MS, subscriber=0))
    made.add("loss", rows=rows)
    found = row(Run(made.folder).loss)
    assert np.isnan(found["noticed_ms"])
    assert found["verdict"] == "complete"


def test_a_silent_loss_stays_silent_when_the_end_of_the_trial_disconnects_the_consumer(recorded):
    made = recorded()
    rows = made.rows()
    last = made.schedule[-1].sequence
    rows["consumer"] = [row for row in rows["consumer"] if row[2:4] != (last, 0)]
    rows["consumer"].append(record(Kind.DISCONNECTED, PHASES["stop"] + MS, subscriber=0))
    made.add("loss", rows=rows)
    found = row(Run(made.folder).loss)
    assert (found["lost"], found["gap_seen"], found["silent"]) == (1, 0, 1)


def test_a_trial_that_was_not_drained_is_inconclusive(recorded):
    made = recorded()
    made.add("loss", drained=False)
    assert row(Run(made.folder).loss)["verdict"] == "inconclusive"


def test_a_subscriber_is_owed_its_own_topic_only(recorded):
    made = recorded(topics=2, rate=40)
    rows = made.rows()
    own = {item.sequence: int(item.topic[1:]) for item in made.schedule}
    mine = [row for row in rows["consumer"] if own[row[2]] == row[3]]
    assert 0 < sum(own.values()) < len(own)
    made.add("loss", rows={**rows, "consumer": mine})
    made.add("loss", repeat=2, rows=rows)
    frame = Run(made.folder).loss
    assert frame["owed"].tolist() == [40, 40]
    assert frame["delivered"].tolist() == [40, 40]
    assert frame["unexpected"].tolist() == [0, 40]


@pytest.mark.parametrize("measure", list(Measure))
def test_a_trial_in_which_nothing_was_offered_has_a_row_of_its_own(recorded, measure):
    made = recorded()
    made.add(measure, rows={"producer": [], "consumer": [], "link": []})
    found = row(getattr(Run(made.folder), measure))
    assert found.get("deliveries", 0) == 0
    assert found.get("verdict", "inconclusive") == "inconclusive"


def test_rows_follow_the_table_of_protocols_then_guarantee_then_repeat(recorded):
    made = recorded()
    for repeat in (10, 2, 1):
        for guarantee in ("at-least-once", "at-most-once"):
            for protocol in ("polling", "sse", "websocket"):
                made.add("latency", protocol, guarantee, repeat)
    frame = Run(made.folder).latency
    assert list(frame[["protocol", "guarantee", "trial"]].itertuples(index=False, name=None)) == [
        (protocol, guarantee, repeat)
        for protocol in ("websocket", "sse", "polling")
        for guarantee in ("at-most-once", "at-least-once")
        for repeat in (1, 2, 10)
    ]


def test_failed_trials_are_left_out_and_named_with_their_error(recorded):
    made = recorded()
    made.add(repeat=1)
    half = made.add(repeat=2)
    (half / "record.json").unlink()
    made.fail("latency-sse-at-most-once-2", "The producer died.")
    made.fail("latency-webhook-at-most-once-1", "No port.")
    run = Run(made.folder)
    assert run.errors == {
        "latency-sse-at-most-once-2": "The producer died.",
        "latency-webhook-at-most-once-1": "No port.",
    }
    assert run.latency["trial"].tolist() == [1]


def test_unfinished_and_foreign_folders_are_left_alone(recorded):
    made = recorded()
    made.add()
    for name in (".latency-sse-at-most-once-2", "notes"):
        (made.folder / "trials" / name).mkdir()
    assert len(Run(made.folder).latency) == 1
    assert Run(made.folder).errors == {}


def test_a_run_without_trials_has_empty_frames(recorded):
    assert [len(frame) for frame in frames(Run(recorded().folder))] == [0, 0, 0]


def test_reading_a_run_changes_no_file(recorded):
    made = recorded()
    for measure in Measure:
        made.add(measure)
    before = fingerprint(made.folder)
    run = Run(made.folder)
    frames(run)
    for measure in Measure:
        run.table(measure)
    assert fingerprint(made.folder) == before


def test_saved_files_hold_the_frames(recorded):
    made = recorded()
    made.add("latency", rows=made.rows(lateness=2 * MS))
    made.add("bandwidth")
    made.add("loss", rows=outage_rows(made))
    before = fingerprint(made.folder)
    run = Run(made.folder)
    run.save()
    after = fingerprint(made.folder)
    assert after.keys() - before.keys() == {"latency.csv", "bandwidth.csv", "loss.csv"}
    assert before.items() <= after.items()
    for measure in COMPARED:
        read = pd.read_csv(made.folder / f"{measure}.csv")
        pd.testing.assert_frame_equal(read, getattr(run, measure), check_dtype=False, atol=1e-3)


def test_every_figure_that_is_measured_has_a_row_in_the_table_of_metrics():
    measured = {name for names in COLUMNS.values() for name in names.split(", ") if "_ms" in name or "_per_" in name}
    assert measured <= METRICS.keys()
    assert all(metric.better in ("lower", "higher", "") for metric in METRICS.values())


def test_a_folder_without_manifest_is_not_a_run(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"beach")
    text = refusal(tmp_path)
    assert str(tmp_path) in text
    assert "not a run folder" in text


def test_a_folder_that_is_not_there_is_not_a_run_and_is_not_made(tmp_path):
    assert "not a run folder" in refusal(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_file_is_not_a_run(tmp_path):
    (tmp_path / "file").write_text("{}")
    with pytest.raises(UsageError, match="not a run folder"):
        Run(tmp_path / "file")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"null", b"[]", b"7", b"{}", b'{"schema": 2}', b'{"schema": 2, "trials": []}'],
)
def test_a_damaged_manifest_is_refused(recorded, content):
    made = recorded()
    made.add()
    (made.folder / "manifest.json").write_bytes(content)
    text = refusal(made.folder)
    assert "manifest" in text
    assert " is damaged (" in text
    assert str(made.folder) in text


@pytest.mark.parametrize("finished", [None, 3, "yesterday", "2026-01-01T00:00:00"])
def test_a_manifest_that_names_no_time_of_its_end_is_refused(recorded, finished):
    made = recorded()
    made.manifest["finished"] = finished
    made.save_manifest()
    assert "damaged" in refusal(made.folder)


@pytest.mark.parametrize("entry", [None, 3, []])
def test_a_manifest_whose_trials_are_no_entries_is_refused(recorded, entry):
    made = recorded()
    made.add()
    made.manifest["trials"]["latency-sse-at-most-once-1"] = entry
    made.save_manifest()
    assert "damaged" in refusal(made.folder)


@pytest.mark.parametrize("schema", [SCHEMA + 1, 0, "1", None])
def test_a_run_of_another_schema_is_refused_with_both_versions(recorded, schema):
    made = recorded()
    made.manifest["schema"] = schema
    made.save_manifest()
    text = refusal(made.folder)
    assert f"schema {schema!r}" in text
    assert f"reads {SCHEMA}" in text


def test_a_missing_trial_is_named(recorded):
    made = recorded()
    made.add(repeat=1)
    made.add(repeat=2).rename(made.folder / "elsewhere")
    assert "latency-sse-at-most-once-2" in refusal(made.folder)


@pytest.mark.parametrize("role", ["producer", "consumer", "link"])
@pytest.mark.parametrize("harm", ["header", "torn", "hole", "empty", "gone"])
def test_a_damaged_ledger_is_named_with_its_trial(recorded, role, harm):
    made = recorded()
    made.add("loss", "webhook")
    place = made.add("loss", rows=outage_rows(made))
    path = place / f"{role}.ledger"
    raw = bytearray(path.read_bytes())
    if harm == "header":
        raw[0] ^= 1
    elif harm == "torn":
        del raw[-5:]
    elif harm == "hole":
        raw[2 * RECORD.size - 1] = 0
    elif harm == "empty":
        raw.clear()
    path.write_bytes(raw)
    if harm == "gone":
        path.unlink()
    text = refusal(made.folder)
    assert f"{role}.ledger" in text
    assert "loss-sse-at-most-once-1" in text


@pytest.mark.parametrize("file", ["consumer.ledger", "link.ledger", "spec.json", "record.json"])
def test_a_sealed_trial_of_which_a_file_was_changed_is_named_though_it_could_be_read(recorded, file):
    made = recorded()
    place = made.add("loss", rows=outage_rows(made))
    disk.seal(place)
    frames(Run(made.folder))
    raw = (place / file).read_bytes()
    (place / file).write_bytes(raw[: -RECORD.size] if file.endswith("ledger") else raw + b" ")
    text = refusal(made.folder)
    assert text.startswith(f"The trial {place.name} is damaged ({file} is not as it was recorded);")


def test_a_trial_under_another_name_is_refused(recorded):
    made = recorded()
    first, second = made.add(repeat=1), made.add(repeat=2)
    shutil.rmtree(second)
    shutil.copytree(first, second)
    assert f"The trial {second.name} is damaged (what it holds is the trial {first.name});" in refusal(made.folder)


def test_a_trial_that_was_offered_another_workload_than_the_manifest_says_is_refused(recorded):
    made = recorded()
    name = made.add().name
    made.manifest["trials"][name]["digest"] = "abc"
    made.save_manifest()
    assert f"The trial {name} is not the one that the manifest names" in refusal(made.folder)


def test_tables_that_there_is_no_room_for_leave_the_old_ones(recorded, monkeypatch):
    made = recorded()
    made.add()
    run = Run(made.folder)
    run.save()
    before = fingerprint(made.folder)
    run.latency["p50_ms"] = 5.0

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run.save()
    assert fingerprint(made.folder) == before


def test_how_much_has_finished_is_said_where_it_is_not_all(recorded):
    made = recorded()
    made.add()
    assert Run(made.folder).lacking == {}
    made.manifest["planned"] = 3
    made.save_manifest()
    assert Run(made.folder).lacking == {"": "1 of its 3 trials have finished"}


SPARING = Outage("reset", at=0.3, lasts=0.2, share=0.5)
CRASH = Outage("consumer-crash", at=0.3, lasts=0.1, repeat=2)


def by_process(made, outage):
    """The rows of a perfect trial, the consumer's spread over the ledgers that its processes leave in this outage."""
    rows = made.rows()
    received = rows.pop("consumer")
    for number, (begin, end) in enumerate(outage.windows()):
        rows["link"] += [
            record(Kind.CUT, START + round(begin * SECOND)),
            record(Kind.HEALED, START + round(end * SECOND)),
        ]
        parts = [row for row in received if row[0] < START + begin * SECOND]
        rows[f"consumer-{number + 1}" if number else "consumer"] = parts
        received = [row for row in received if row not in parts]
    return {**rows, f"consumer-{outage.repeat + 1}": received}


def sparing(made):
    """The rows of a perfect trial in which the second subscriber has a process of its own."""
    rows = made.rows()
    rows["spared"] = [row for row in rows["consumer"] if row[3] == 1]
    rows["consumer"] = [row for row in rows["consumer"] if row[3] == 0]
    return rows


def test_what_all_processes_of_a_consumer_received_counts_together(recorded):
    made = recorded()
    made.add("loss", rows=by_process(made, CRASH), outage=CRASH)
    found = row(Run(made.folder).loss)
    assert (found["owed"], found["delivered"], found["reordered"], found["verdict"]) == (20, 20, 0, "complete")
    assert (found["duplicated"], found["unexpected"], found["unexplained"]) == (0, 0, 0)


def test_ten_processes_are_read_in_the_order_in_which_they_lived(recorded):
    made = recorded(duration=3)
    outage = Outage("consumer-crash", at=0.1, lasts=0.1, repeat=10)
    made.add("loss", rows=by_process(made, outage), outage=outage)
    found = row(Run(made.folder).loss)
    assert (found["delivered"], found["reordered"], found["verdict"]) == (60, 0, "complete")


def test_what_an_earlier_process_received_is_a_duplicate_in_a_later_one(recorded):
    made = recorded()
    rows = by_process(made, CRASH)
    again = rows["consumer"][0]
    rows["consumer-2"].append((START + 450 * MS, *again[1:]))
    made.add("loss", rows=rows, outage=CRASH)
    found = row(Run(made.folder).loss)
    assert (found["delivered"], found["duplicated"], found["reordered"]) == (20, 1, 0)


def test_two_processes_of_a_producer_offer_what_was_due_while_they_were_there(recorded):
    made = recorded()
    outage = Outage("producer-crash", at=0.35, lasts=0.2)
    rows, away = made.rows(), {made.workload.first + number for number in (4, 5)}
    sent = [row for row in rows["producer"] if row[2] not in away]
    begin, end = START + 350 * MS, START + 550 * MS
    rows = {
        "producer": [row for row in sent if row[0] < begin],
        "producer-2": [row for row in sent if row[0] > end],
        "consumer": [row for row in rows["consumer"] if row[2] not in away],
        "link": [record(Kind.CUT, begin), record(Kind.HEALED, end)],
    }
    made.add("loss", rows=rows, outage=outage)
    made.add("loss", rows={**rows, "producer-2": rows["producer-2"][1:]}, outage=outage, repeat=2)
    frame = Run(made.folder).loss
    assert frame["verdict"].tolist() == ["complete", "inconclusive"]
    assert frame["owed"].tolist() == [16, 14]


def test_spared_subscribers_are_read_and_their_losses_have_no_excuse(recorded):
    made = recorded()
    rows = sparing(made)
    cut, healed = START + 300 * MS, START + 500 * MS
    rows["link"] = [record(Kind.CUT, cut), record(Kind.HEALED, healed)]
    lost = made.workload.first + 4
    for role in ("consumer", "spared"):
        rows[role] = [row for row in rows[role] if row[2] != lost]
    made.add("loss", rows=rows, outage=SPARING)
    found = row(Run(made.folder).loss)
    assert (found["owed"], found["delivered"], found["lost"], found["unexplained"]) == (20, 18, 2, 1)


@pytest.mark.parametrize("name", ["consumer-2", "consumer-3", "spared", "producer-2"])
@pytest.mark.parametrize("harm", ["torn", "gone"])
def test_a_damaged_ledger_of_a_second_process_is_named_with_its_trial(recorded, name, harm):
    made = recorded()
    if name == "spared":
        place = made.add("loss", rows=sparing(made), outage=SPARING)
    elif name == "producer-2":
        place = made.add("loss", rows={**made.rows(), name: []}, outage=Outage("producer-crash", at=0.3, lasts=0.2))
    else:
        place = made.add("loss", rows=by_process(made, CRASH), outage=CRASH)
    path = place / f"{name}.ledger"
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-5])
    text = refusal(made.folder)
    assert f"{name}.ledger" in text
    assert place.name in text
    assert ("missing" if harm == "gone" else "damaged") in text


def test_rows_of_several_outages_follow_the_table_of_outages_first(recorded):
    made = recorded()
    kinds = ["producer-crash", "silent", "close", "consumer-crash"]
    for repeat in (2, 1):
        for kind in kinds:
            for guarantee in ("durable", "at-least-once", "at-most-once"):
                for protocol in ("polling", "websocket"):
                    outage = Outage(kind, at=0.3, lasts=0.2)
                    later = {f"{outage.strikes}-2": []} if kind.endswith("crash") else {}
                    made.add("loss", protocol, guarantee, repeat, {**made.rows(), **later}, outage=outage)
    frame = Run(made.folder).loss
    assert list(frame[["outage", "protocol", "guarantee", "trial"]].itertuples(index=False, name=None)) == [
        (kind, protocol, guarantee, repeat)
        for kind in ("close", "silent", "consumer-crash", "producer-crash")
        for protocol in ("websocket", "polling")
        for guarantee in ("at-most-once", "at-least-once", "durable")
        for repeat in (1, 2)
    ]


@pytest.mark.parametrize(
    ("protocol", "guarantee", "owed"),
    [
        ("sse", "durable", 18),
        ("pubsub", "durable", 18),
        ("pubsub", "at-least-once", 18),
        ("sse", "at-least-once", 20),
        ("pubsub", "at-most-once", 20),
    ],
)
def test_what_a_log_outlives_its_producer_with_is_owed_from_when_it_was_accepted(recorded, protocol, guarantee, owed):
    made = recorded()
    outage = Outage("producer-crash", at=0.35, lasts=0.01)
    cut = START + 350 * MS
    rows, last = made.rows(), made.workload.first + 3
    accepted = [record(Kind.ACCEPTED, row[0] + 1, row[2], value=row[1]) for row in rows["producer"] if row[2] != last]
    rows["producer"], rows["producer-2"] = (
        [row for row in rows["producer"] + accepted if (row[0] < cut) == early] for early in (True, False)
    )
    rows["consumer"] = [row for row in rows["consumer"] if row[2] != last]
    rows["link"] = [record(Kind.CUT, cut), record(Kind.HEALED, cut + 10 * MS)]
    made.add("loss", protocol, guarantee, rows=rows, outage=outage)
    found = row(Run(made.folder).loss)
    assert (found["owed"], found["delivered"], found["lost"]) == (owed, 18, owed - 18)
    assert found["verdict"] == ("complete" if owed == 18 else "lossy")
    assert found["unexplained"] == 0


@pytest.mark.parametrize(("guarantee", "unexplained"), [("at-most-once", 0), ("at-least-once", 2)])
@pytest.mark.parametrize("protocol", ["polling", "longpolling"])
def test_only_a_poll_for_the_latest_may_pass_over_what_came_before(recorded, protocol, guarantee, unexplained):
    made = recorded()
    rows = made.rows()
    rows["consumer"] = [row for row in rows["consumer"] if row[2] != made.workload.first + 8]
    made.add("loss", protocol, guarantee, rows=rows)
    found = row(Run(made.folder).loss)
    assert (found["lost"], found["unexplained"]) == (2, unexplained)


def test_the_brokers_slow_consumers_are_overflows_too(recorded):
    made = recorded()
    rows = made.rows()
    rows["producer"].append(record(Kind.OVERFLOWED, START + MS, subscriber=0, value=1))
    made.add("loss", rows=rows, usage={"broker": {"slow_consumers": 3}})
    made.add("loss", repeat=2, usage={"broker": {}, "producer": {}})
    assert Run(made.folder).loss["overflowed"].tolist() == [4, 0]


def test_each_sides_notice_has_its_own_column(recorded):
    made = recorded()
    cut = START + 300 * MS
    rows = {**made.rows(), "link": [record(Kind.CUT, cut), record(Kind.HEALED, cut + 200 * MS)]}
    rows["producer"].append(record(Kind.FAILED, cut + 7 * MS, made.workload.first + 3, 0))
    made.add("loss", rows=rows)
    found = row(Run(made.folder).loss)
    assert (found["noticed_ms"], found["noticed_producer_ms"]) == (pytest.approx(7.0), pytest.approx(7.0))
    assert np.isnan(found["noticed_consumer_ms"])


@pytest.mark.parametrize("measure", ["latency", "bandwidth"])
def test_a_trial_over_a_slow_link_is_read_like_any_other(recorded, measure):
    made = recorded()
    place = made.add(measure, conditions=Conditions(delay=0.02, jitter=0.001))
    assert (place / "link.ledger").exists()
    (recording,) = Run(made.folder).of(Measure(measure))
    assert recording.trial.conditions == Conditions(delay=0.02, jitter=0.001)
    assert row(getattr(Run(made.folder), measure))["deliveries"] == 20


@pytest.mark.parametrize("name", ["spec.json", "record.json"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b"null", b"[]", b"{}", b'"text"'])
def test_a_damaged_spec_or_record_names_its_trial(recorded, name, content):
    made = recorded()
    path = made.add("bandwidth") / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    text = refusal(made.folder)
    assert "bandwidth-sse-at-most-once-1" in text
    assert "damaged" in text


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("phase", ["setup", "warmup", "load", "settled", "idle", "stop"])
@pytest.mark.parametrize("value", [None, "soon"])
def test_a_record_whose_phases_are_damaged_names_its_trial(recorded, phase, value):
    made = recorded()
    path = made.add("bandwidth") / "record.json"
    phases = {name: at for name, at in PHASES.items() if name != phase}
    change(path, phases=phases if value is None else {**phases, phase: value})
    assert "bandwidth-sse-at-most-once-1" in refusal(made.folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"schema": SCHEMA + 1},
        {"protocol": "pigeon"},
        {"guarantee": "always"},
        {"measure": "beauty"},
        {"workload": {"rate": 0}},
        {"outage": {"kind": "meteor"}},
        {"surplus": 1},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_spec_with_an_impossible_value_names_its_trial(recorded, fields):
    made = recorded()
    change(made.add() / "spec.json", **fields)
    assert "latency-sse-at-most-once-1" in refusal(made.folder)


def test_a_spec_whose_workload_is_not_what_was_offered_is_refused_rather_than_judged(recorded):
    made = recorded()
    path = made.add("loss") / "spec.json"
    change(path, workload={**json.loads(path.read_text())["workload"], "seed": 2})
    assert "loss-sse-at-most-once-1" in refusal(made.folder)
