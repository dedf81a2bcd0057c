import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import ClassVar

import pytest
from conftest import family, gone

from labkit import disk, manifest
from labkit.errors import NoRoomError, TrialError, UsageError
from labkit.ledger import MAGIC, Kind, read
from labkit.outage import Conditions, Outage
from labkit.plan import OUT_OF_THE_BOX, Plan
from labkit.protocols import PROTOCOLS
from labkit.results import Run
from labkit.runner import Runner
from labkit.trial import SCHEMA, Guarantee, Measure, Timings
from labkit.workload import Workload, digest

WORKLOAD = Workload(rate=100, duration=0.6, subscribers=3, seed=7)
OUTAGE = Outage("reset", at=0.2, lasts=0.15)
STREAMS = ("websocket", "sse", "pubsub")
ALL = [(protocol, str(guarantee)) for protocol in PROTOCOLS for guarantee in OUT_OF_THE_BOX]


def run(plan, out):
    return Runner(plan, out, ["test"], lambda *_: None).run()


def recorded(out, trial):
    """How many arrivals a trial that is under way has recorded; 0 while the file is being made."""
    ledgers = [path for path in out.glob(f"trials/.{trial}-*/consumer.ledger") if path.read_bytes().startswith(MAGIC)]
    return sum(len(read(path)) for path in ledgers)


@pytest.fixture(scope="session")
def comparison(tmp_path_factory):
    """Every protocol, guarantee and measure, run once for all workers of this test run."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    with (root / "comparison.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        errors = root / "comparison.errors"
        if not errors.exists():
            errors.write_text(json.dumps(run(Plan(WORKLOAD, outages=(OUTAGE,)), root / "comparison")))
    return Run(root / "comparison"), json.loads(errors.read_text())


def keys(frame):
    return list(zip(frame["protocol"], frame["guarantee"], strict=True))


def test_a_comparison_of_all_protocols_ends_without_errors_and_keeps_every_trial(comparison):
    opened, errors = comparison
    assert errors == {}
    assert opened.errors == {}
    assert keys(opened.latency) == keys(opened.bandwidth) == keys(opened.loss) == ALL
    assert not list(opened.folder.glob("trials/.*"))
    assert not (opened.folder / "nodes").exists()


def test_every_trial_was_offered_the_workload_of_the_manifest(comparison):
    opened, _ = comparison
    expected = digest(WORKLOAD.schedule())
    assert opened.manifest["digest"] == expected
    assert {entry["digest"] for entry in opened.manifest["trials"].values()} == {expected}
    assert {recording.record["digest"] for recording in opened.recordings} == {expected}


def test_what_is_owed_is_delivered_or_lost_and_nothing_else_arrives(comparison):
    opened, _ = comparison
    for row in opened.loss.to_dict("records"):
        assert row["owed"] == 60 * 3, row
        assert row["owed"] == row["delivered"] + row["lost"], row
        assert row["lost"] == row["rejected"] + row["gap_seen"] + row["silent"], row
        assert row["unexpected"] == row["corrupt"] == 0, row
    for recording in opened.recordings:
        assert (recording.outcome.unexpected, recording.outcome.corrupt) == (0, 0), recording.trial.name


def test_at_least_once_loses_nothing_to_a_reset_and_says_so(comparison):
    opened, _ = comparison
    rows = opened.loss[opened.loss["guarantee"] == "at-least-once"]
    assert dict(zip(rows["protocol"], rows["lost"], strict=True)) == dict.fromkeys(PROTOCOLS, 0)
    assert dict(zip(rows["protocol"], rows["verdict"], strict=True)) == dict.fromkeys(PROTOCOLS, "complete")


def test_at_most_once_streams_lose_what_was_sent_during_a_reset(comparison):
    opened, _ = comparison
    rows = opened.loss[(opened.loss["guarantee"] == "at-most-once") & opened.loss["protocol"].isin(STREAMS)]
    assert len(rows) == 3
    assert (rows["lost"] > 0).all()
    assert (rows["verdict"] == "lossy").all()
    assert (rows["noticed_ms"] >= 0).all()


def test_without_an_outage_nothing_but_polling_for_the_latest_loses_anything(comparison):
    opened, _ = comparison
    for recording in opened.recordings:
        latest_only = "polling" in recording.trial.protocol and not recording.trial.recovers
        if recording.trial.outage is None and not latest_only:
            assert recording.outcome.verdict == "complete", recording.trial.name
            assert recording.outcome.delivered == 180, recording.trial.name


def test_no_delivery_arrives_before_its_event_was_due_and_no_event_leaves_early(comparison):
    opened, _ = comparison
    for recording in opened.recordings:
        assert (recording.latencies_ms() > 0).all(), recording.trial.name
        assert (recording.outcome.lateness_ns >= 0).all(), recording.trial.name


def test_the_phases_of_every_trial_follow_each_other(comparison):
    opened, _ = comparison
    order = ["setup", "warmup", "load", "settle", "settled", "idle", "stop"]
    for recording in opened.recordings:
        phases = recording.record["phases"]
        wanted = [name for name in order if name != "idle" or recording.trial.measure is Measure.BANDWIDTH]
        assert sorted(phases, key=phases.get) == wanted, recording.trial.name
        assert recording.record["drained"] is True


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux's TCP_INFO counts the bytes received")
def test_the_links_count_of_a_bandwidth_trial_is_the_kernels_byte_for_byte(comparison):
    """The kernel is asked right after `stop`; what a poll brings in between is in the link's next totals."""
    opened, _ = comparison
    for recording in opened.of(Measure.BANDWIDTH):
        link, stop = recording.link, recording.record["phases"]["stop"]
        for kind, kernel in ((Kind.UP, Kind.KERNEL_UP), (Kind.DOWN, Kind.KERNEL_DOWN)):
            mine = link[link["kind"] == kind]
            at_stop = int(mine["value"][mine["time_ns"] < stop].sum())
            totals = at_stop + mine["value"][mine["time_ns"] >= stop].cumsum()
            counted = int(link["value"][link["kind"] == kernel].sum())
            assert at_stop > 0
            assert counted in {at_stop, *map(int, totals)}, (recording.trial.name, kind.name)


def test_every_payload_byte_of_a_delivery_went_over_the_link(comparison):
    opened, _ = comparison
    for row in opened.bandwidth.to_dict("records"):
        assert row["deliveries"] > 0
        assert row["load_down"] >= row["payload_bytes"], row
        # A webhook has nothing to set up: both sides were told beforehand.
        assert (row["setup_up"] + row["setup_down"] > 0) == (row["protocol"] != "webhook"), row


def test_one_seed_gives_the_same_bytes_to_the_consumer_in_every_run(comparison, tmp_path):
    opened, _ = comparison
    plan = Plan(WORKLOAD, protocols=STREAMS, measures=(Measure.BANDWIDTH,))
    assert run(plan, tmp_path / "again") == {}

    def load_down(frame):
        rows = frame[frame["protocol"].isin(STREAMS)]
        return dict(zip(keys(rows), rows["load_down"], strict=True))

    assert load_down(Run(tmp_path / "again").bandwidth) == load_down(opened.bandwidth)


def test_topics_random_arrivals_and_random_sizes_lose_nothing_at_least_once(tmp_path):
    workload = Workload(
        rate=150, duration=0.6, subscribers=4, topics=3, arrival="poisson", sizes="lognormal", size=300, seed=3
    )
    plan = Plan(workload, guarantees=(Guarantee.AT_LEAST_ONCE,), measures=(Measure.LOSS,), outages=(OUTAGE,))
    assert run(plan, tmp_path / "run") == {}
    topics = [item.topic for item in workload.schedule()]
    owed = sum(topics.count(f"t{subscriber % 3}") for subscriber in range(4))
    assert 0 < owed < 4 * len(topics)
    for row in Run(tmp_path / "run").loss.to_dict("records"):
        assert (row["owed"], row["delivered"], row["verdict"]) == (owed, owed, "complete"), row
        assert (row["unexpected"], row["corrupt"]) == (0, 0), row


def test_a_trace_ends_with_every_event_delivered_at_least_once_and_is_kept_with_the_run(tmp_path):
    trace = tmp_path / "log.jsonl"
    lines = [{"time": 100 + n * 0.02, "type": f"kind.{n % 3}", "data": {"n": n, "text": "ä" * n}} for n in range(30)]
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    plan = Plan(
        Workload(trace=str(trace), subscribers=3),
        guarantees=(Guarantee.AT_LEAST_ONCE,),
        measures=(Measure.LOSS,),
        outages=(OUTAGE,),
    )
    assert run(plan, tmp_path / "run") == {}
    trace.unlink()
    rows = Run(tmp_path / "run").loss
    assert list(rows["protocol"]) == list(PROTOCOLS)
    for row in rows.to_dict("records"):
        assert (row["owed"], row["delivered"], row["verdict"]) == (90, 90, "complete"), row


def test_a_trial_of_polling_is_not_over_before_every_subscriber_has_polled_again(tmp_path):
    """This seed's subscriber polls at once after a reconnection, and then nearly two intervals later."""
    workload = Workload(rate=200, duration=0.45, subscribers=1, seed=14)
    plan = Plan(workload, ("polling",), (Guarantee.AT_LEAST_ONCE,), (Measure.LOSS,), (OUTAGE,), repeat=6)
    assert run(plan, tmp_path / "run") == {}
    rows = Run(tmp_path / "run").loss
    assert list(rows["lost"]) == [0] * 6
    assert list(rows["verdict"]) == ["complete"] * 6


def test_each_of_several_outages_has_to_end_within_the_load(tmp_path):
    outages = (OUTAGE, Outage("silent", at=0.2, lasts=0.1, repeat=3))
    with pytest.raises(UsageError, match=r"^The outage ends 0\.7 s into a load of 0\.6 s"):
        Runner(Plan(WORKLOAD, ("sse",), outages=outages), tmp_path / "run", [], lambda *_: None)
    assert not (tmp_path / "run").exists()


def manifest_of(plan, out):
    """The manifest of a plan with no trial in it."""
    assert run(plan, out) == {}
    return json.loads((out / "manifest.json").read_text())


def test_the_manifest_holds_every_outage_the_conditions_and_how_much_faster_the_retries_are(tmp_path):
    outages = (OUTAGE, Outage("silent", 0.1, 0.05, share=0.5, repeat=2))
    conditions, timings = Conditions(0.02, 0.01, 1e6), Timings(retry=1.0, retry_limit=100.0, attempts=5)
    plan = Plan(WORKLOAD, ("sse",), measures=(), outages=outages, conditions=conditions, timings=timings)
    manifest = manifest_of(plan, tmp_path / "run")
    assert manifest["schema"] == SCHEMA == 2
    assert tuple(Outage(**fields) for fields in manifest["outages"]) == outages
    assert Conditions(**manifest["conditions"]) == conditions
    assert Timings(**manifest["timings"]) == timings
    assert manifest["retry_compression"] == 18140  # 272105 s in 15 s


def test_a_single_attempt_is_compared_with_no_schedule(tmp_path):
    plan = Plan(WORKLOAD, ("sse",), measures=(), timings=Timings(attempts=1))
    manifest = manifest_of(plan, tmp_path / "run")
    assert manifest["retry_compression"] is None
    assert manifest["outages"] == []


def test_several_outages_and_conditions_end_with_every_event_accounted_for(tmp_path):
    outages = (Outage("refuse", 0.2, 0.1), Outage("midmessage", 0.1, 0.05, share=0.5, repeat=2))
    plan = Plan(WORKLOAD, ("sse", "webhook"), (Guarantee.AT_LEAST_ONCE,), (Measure.LOSS,), outages)
    assert run(replace(plan, conditions=Conditions(delay=0.01, jitter=0.01)), tmp_path / "run") == {}
    rows = Run(tmp_path / "run").loss.to_dict("records")
    pairs = [(outage.kind, protocol) for outage in outages for protocol in ("webhook", "sse")]
    assert [(row["outage"], row["protocol"]) for row in rows] == pairs
    for row in rows:
        assert (row["owed"], row["delivered"], row["verdict"]) == (180, 180, "complete"), row


def test_a_broker_that_does_not_answer_is_said_before_anything_starts(tmp_path, monkeypatch, closed_port):
    monkeypatch.setenv("LABKIT_NATS", f"nats://127.0.0.1:{closed_port}")
    with pytest.raises(UsageError, match=f"No NATS server answers at 127.0.0.1:{closed_port}"):
        Runner(Plan(Workload(), ("sse", "pubsub")), tmp_path / "run", [], lambda *_: None)
    assert not (tmp_path / "run").exists()
    Runner(Plan(Workload(), ("sse",)), tmp_path / "run", [], lambda *_: None)


def test_one_protocol_that_fails_is_reported_and_the_others_are_kept(tmp_path, monkeypatch, mute_broker):
    monkeypatch.setenv("LABKIT_NATS", f"nats://127.0.0.1:{mute_broker}")
    workload = Workload(rate=50, duration=0.2, subscribers=1)
    plan = Plan(workload, ("sse", "pubsub", "polling"), (Guarantee.AT_LEAST_ONCE,), (Measure.LATENCY,))
    ended, told = [time.monotonic()], {}

    def progress(trial, error):
        ended.append(time.monotonic())
        told[trial.name] = (error, ended[-1] - ended[-2])

    errors = Runner(plan, tmp_path / "run", [], progress).run()
    failing = "latency-pubsub-at-least-once-1"
    kept = ["latency-polling-at-least-once-1", "latency-sse-at-least-once-1"]
    opened = Run(tmp_path / "run")
    assert opened.errors == errors == {failing: errors[failing]}
    assert f"127.0.0.1:{mute_broker} does not answer" in errors[failing]
    error, seconds = told[failing]
    assert error == errors[failing]
    # Four seconds in which the broker might answer, and the end of the nodes.
    assert seconds < 6
    assert sorted(recording.trial.name for recording in opened.recordings) == kept
    assert sorted(path.name for path in (tmp_path / "run" / "trials").iterdir()) == kept


@pytest.mark.parametrize("held", ["file", "folder"])
def test_an_out_folder_that_holds_something_is_refused_and_left_as_it_is(tmp_path, held):
    out = tmp_path / "out"
    if held == "folder":
        out.mkdir()
        (out / "mine").write_text("precious")
    else:
        out.write_text("precious")
    with pytest.raises(UsageError, match="already holds something"):
        Runner(Plan(WORKLOAD), out, [], lambda *_: None)
    assert (out / "mine" if held == "folder" else out).read_text() == "precious"
    assert [path.name for path in tmp_path.rglob("*")] == (["out", "mine"] if held == "folder" else ["out"])


def test_an_empty_out_folder_is_used(tmp_path):
    workload = Workload(rate=50, duration=0.1, subscribers=1)
    plan = Plan(workload, ("polling",), (Guarantee.AT_LEAST_ONCE,), (Measure.LATENCY,))
    assert run(plan, tmp_path) == {}
    assert len(Run(tmp_path).recordings) == 1


def test_a_nats_server_that_is_killed_fails_the_trial_with_a_sentence_and_leaves_no_process(tmp_path, until):
    plan = Plan(
        Workload(rate=100, duration=60, subscribers=2), ("pubsub",), (Guarantee.AT_LEAST_ONCE,), (Measure.LATENCY,)
    )
    errors = {}
    runner = Runner(plan, tmp_path / "run", [], lambda *_: None)
    thread = threading.Thread(target=lambda: errors.update(runner.run()))
    thread.start()
    until(lambda: recorded(tmp_path / "run", "latency-pubsub-at-least-once-1") > 100)
    started = family(os.getpid())
    (server,) = [process for process in started if "nats" in process.name()]
    server.kill()
    thread.join(5)
    assert not thread.is_alive()
    assert errors == {"latency-pubsub-at-least-once-1": errors["latency-pubsub-at-least-once-1"]}
    assert "nats-server ended in the middle of the trial" in errors["latency-pubsub-at-least-once-1"]
    until(lambda: all(map(gone, started)))


SCRIPT = """
import sys
from pathlib import Path
from labkit.plan import Plan
from labkit.runner import Runner
from labkit.trial import Measure, Timings
from labkit.workload import Workload
workload, timings = Workload(rate=100, duration={duration}, subscribers=2), Timings(heartbeat=0.2)
plan = Plan(workload, {protocols}, measures=(Measure.{measure},), timings=timings)
Runner(plan, Path(sys.argv[1]), [], lambda *_: None).run()
"""


@contextmanager
def parent(out, protocols, measure, duration):
    """A real process, in a process group of its own, that runs a comparison."""
    script = SCRIPT.format(protocols=tuple(protocols), measure=measure.name, duration=duration)
    command = [sys.executable, "-c", script, str(out)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        for child in family(process.pid):
            child.kill()
        process.kill()
        process.communicate()


def finished(out):
    return [path.parent.name for path in out.glob("trials/*/record.json") if not path.parent.name.startswith(".")]


def test_ctrl_c_leaves_no_process_and_keeps_the_trials_that_were_finished(tmp_path, until):
    out = tmp_path / "run"
    with parent(out, PROTOCOLS, Measure.BANDWIDTH, 0.3) as process:
        until(lambda: finished(out), limit=40)
        started = family(process.pid)
        assert started
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=20)
        assert process.returncode != 0
        assert b"KeyboardInterrupt" in error
        until(lambda: all(map(gone, started)))
    opened = Run(out)
    assert sorted(recording.trial.name for recording in opened.recordings) == sorted(finished(out))
    assert len(opened.bandwidth) == len(finished(out)) > 0
    assert not list(out.glob("trials/.*"))


@pytest.mark.parametrize("moment", ["as soon as there is a broker", "in the middle of a load"])
def test_a_parent_that_is_killed_leaves_no_node_and_no_nats_server(tmp_path, until, moment):
    out = tmp_path / "run"
    with parent(out, ["pubsub"], Measure.LATENCY, 60) as process:
        if moment == "in the middle of a load":
            until(lambda: recorded(out, "latency-pubsub-at-most-once-1") > 100)
        until(lambda: any("nats" in child.name() for child in family(process.pid)))
        started = family(process.pid)
        process.kill()
        process.wait()
        try:
            until(lambda: all(map(gone, started)), limit=10)
        finally:
            for child in started:
                if not gone(child):
                    child.kill()


def test_the_manifest_says_when_the_run_ended(tmp_path):
    before = datetime.now(UTC)
    ended = datetime.fromisoformat(manifest_of(Plan(WORKLOAD, ("sse",), measures=()), tmp_path / "run")["finished"])
    assert before <= ended <= datetime.now(UTC)
    assert Run(tmp_path / "run").ended == ended


PUSHED = Plan(Workload(rate=50, duration=0.1, subscribers=1), ("sse", "websocket"), measures=(Measure.LATENCY,))


def runner(out, trials=None, resume=True, plan=PUSHED):
    """One that tells which trials it begins, in order."""
    begun = []
    return Runner(plan, out, [], lambda *_: None, lambda t: begun.append(t.name), trials=trials, resume=resume), begun


def test_the_trials_that_are_named_are_run_in_their_order_and_no_others(tmp_path):
    trials = PUSHED.trials()
    chosen = [trials[3], trials[0]]
    made, begun = runner(tmp_path / "run", chosen, resume=False)
    assert made.trials == chosen
    assert made.run() == {}
    assert begun == [trial.name for trial in chosen]
    about = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert set(about["trials"]) == set(begun)
    assert about["planned"] == len(trials) == 4
    assert len(Run(tmp_path / "run").recordings) == 2


def test_a_run_that_goes_on_runs_what_it_lacks_and_is_one_run_in_two_parts(tmp_path):
    out, trials = tmp_path / "run", PUSHED.trials()
    first, _ = runner(out, trials[:1])
    assert first.run() == {}
    kept = (out / "trials" / trials[0].name / "record.json").stat()
    second, begun = runner(out)
    assert [trial.name for trial in second.trials] == [trial.name for trial in trials[1:]]
    assert second.run() == {}
    assert begun == [trial.name for trial in trials[1:]]
    again = (out / "trials" / trials[0].name / "record.json").stat()
    assert (again.st_ino, again.st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)
    opened = Run(out)
    assert len(opened.latency) == 4
    one, two = opened.manifest["parts"]
    assert one["finished"] <= two["started"] <= two["finished"] == opened.manifest["finished"]
    third, begun = runner(out)
    assert third.trials == []
    assert third.run() == {}
    assert begun == []
    assert Run(out).manifest == opened.manifest
    assert not (out / "nodes").exists()


def test_a_run_goes_on_only_where_that_is_asked_for(tmp_path):
    out = tmp_path / "run"
    assert runner(out, PUSHED.trials()[:1])[0].run() == {}
    with pytest.raises(UsageError, match=r"already holds something, which is kept as it is; choose another folder\."):
        runner(out, resume=False)


def test_a_run_with_a_trace_that_was_killed_as_it_began_is_begun_again(tmp_path):
    """Whatever of it was there by then: the folder of logs, the trace, a manifest that was not yet one."""
    out, trace = tmp_path / "run", tmp_path / "log.jsonl"
    trace.write_text("".join(json.dumps({"time": n * 0.02, "type": "a", "data": n}) + "\n" for n in range(5)))
    (out / "nodes").mkdir(parents=True)
    (out / "trace.jsonl.new").write_text('{"ti')
    (out / "manifest.json.new").write_text('{"sch')
    plan = replace(PUSHED, workload=Workload(trace=str(trace), subscribers=1), protocols=("sse",))
    trials = plan.trials()
    assert runner(out, trials[:1], plan=plan)[0].run() == {}
    assert not list(out.glob("*.new"))
    trace.write_text(trace.read_text() + '{"time": 1, "type": "a", "data": "later"}\n')
    with pytest.raises(UsageError, match="was begun with another digest"):
        runner(out, plan=plan)


class Walked:
    """In the place of a walk: what becomes of a trial is planted, by its name."""

    planted: ClassVar[dict[str, BaseException]] = {}

    def __init__(self, station, trial, folder, *_):
        self._trial, self._folder = trial, folder

    def run(self):
        (self._folder / "producer.ledger").write_bytes(MAGIC)
        if error := self.planted.get(self._trial.name):
            raise error
        return {"digest": digest(self._trial.workload.schedule())}


@pytest.fixture
def planted(monkeypatch):
    monkeypatch.setattr("labkit.runner.Walk", Walked)
    monkeypatch.setattr(Walked, "planted", {})
    return Walked.planted


def names_in(out):
    return sorted(path.name for path in (out / "trials").iterdir())


def test_a_trial_that_fails_is_entered_and_the_others_are_run(tmp_path, planted):
    names = [trial.name for trial in PUSHED.trials()]
    planted[names[1]] = TrialError("The link stopped.")
    made, begun = runner(tmp_path)
    assert made.run() == {names[1]: "The link stopped."}
    assert begun == names
    assert names_in(tmp_path) == sorted({*names} - {names[1]})


@pytest.mark.parametrize(
    "error",
    [
        NoRoomError("There is no room for the ledger."),
        OSError(errno.ENOSPC, "No space left on device"),
        ZeroDivisionError("a mistake of the lab's own"),
        KeyboardInterrupt(),
    ],
)
def test_what_would_fail_every_trial_ends_the_run_and_what_is_finished_is_kept(tmp_path, planted, error):
    names = [trial.name for trial in PUSHED.trials()]
    planted[names[1]] = error
    made, begun = runner(tmp_path)
    with pytest.raises(type(error)):
        made.run()
    assert begun == names[:2]
    assert names_in(tmp_path) == names[:1]
    about = json.loads((tmp_path / "manifest.json").read_text())
    assert list(about["trials"]) == names[:1]
    assert about["finished"] == about["parts"][0]["finished"]
    assert not (tmp_path / "nodes").exists()
    planted.clear()
    again, begun = runner(tmp_path)
    assert again.run() == {}
    assert begun == names[1:]


def test_a_trial_is_on_the_disk_before_its_entry_is(tmp_path, planted, monkeypatch):
    order, publish, write = [], disk.publish, manifest.write

    def published(unfinished, place):
        publish(unfinished, place)
        order.append(place.name)

    def written(folder, about):
        write(folder, about)
        order.append(len(about["trials"]))

    monkeypatch.setattr(disk, "publish", published)
    monkeypatch.setattr(manifest, "write", written)
    names = [trial.name for trial in PUSHED.trials()]
    assert runner(tmp_path)[0].run() == {}
    assert order == [0, names[0], 1, names[1], 2, names[2], 3, names[3], 4, 4]


def test_a_manifest_that_cannot_be_written_ends_the_run_and_loses_no_trial(tmp_path, planted, monkeypatch):
    names, write = [trial.name for trial in PUSHED.trials()], manifest.write

    def full(folder, about):
        if about["trials"]:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(folder, about)

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "write", full)
        with pytest.raises(OSError, match="No space left"):
            runner(tmp_path)[0].run()
    assert names_in(tmp_path) == names[:1]
    assert Run(tmp_path).manifest["trials"] == {}
    again, begun = runner(tmp_path)
    assert again.run() == {}
    assert begun == names[1:]
    assert set(Run(tmp_path).manifest["trials"]) == set(names)


def test_a_folder_that_has_its_name_but_not_yet_on_the_disk_is_kept(tmp_path, planted, monkeypatch):
    names, sync = [trial.name for trial in PUSHED.trials()], disk._sync

    def refused(path):
        if path.name == "trials":
            raise OSError(errno.EIO, "Input/output error")
        sync(path)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "_sync", refused)
        with pytest.raises(OSError, match="Input/output error"):
            runner(tmp_path)[0].run()
    assert names_in(tmp_path) == names[:1]


def test_a_run_that_is_killed_says_when_its_last_trial_ended(tmp_path, planted, monkeypatch):
    """After each trial the manifest tells of the part so far: nobody knows which will be the last one."""
    told, write = [], manifest.write

    def written(folder, about):
        told.append(json.loads(json.dumps(about)))
        write(folder, about)

    monkeypatch.setattr(manifest, "write", written)
    assert runner(tmp_path)[0].run() == {}
    parts = [about["parts"] for about in told]
    assert [len(each) for each in parts] == [1] * 6
    assert [each[0]["elsewhere_cpu_s"] is None for each in parts] == [True] * 5 + [os.name == "nt"]
    ends = [each[0]["finished"] for each in parts]
    assert ends == sorted(set(ends))
    assert len({each[0]["started"] for each in parts}) == 1
