"""Live trials, on real nodes: broken by hand, looked at while they run, and an ordinary run when they are stopped."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import psutil
import pytest
from conftest import family, wait_until
from test_charts import words

from labkit import charts
from labkit.audit import Fate
from labkit.endless import Endless
from labkit.errors import TrialError, UsageError
from labkit.event import sequence_of
from labkit.fates import fates
from labkit.ledger import Kind
from labkit.recording import PHASES
from labkit.results import Run
from labkit.trial import Guarantee, Timings
from labkit.workload import Workload

LOAD = Workload(rate=50, duration=60, subscribers=2)
TIMINGS = Timings(heartbeat=0.2, poll=0.1, retry_limit=0.1, attempts=1000, request=0.5, ack=0.5)


@pytest.fixture
def live(monkeypatch, tmp_path):
    """Makes live trials in a place of their own; when the test is over nothing of theirs runs."""
    monkeypatch.delenv("LABKIT_NATS", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    made, before = [], family(os.getpid())

    def make(protocol="sse", guarantee="at-least-once", workload=LOAD, **more):
        made.append(Endless(protocol, guarantee, workload, TIMINGS, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()
    assert psutil.wait_procs(set(family(os.getpid())) - set(before), timeout=5)[1] == []


def arrived(trial):
    """Waits until so many more deliveries are there."""
    seen = trial.look().outcome.delivered
    wait_until(lambda: trial.look().outcome.delivered > seen + 5)


def missing(trial, count=10):
    """Waits until so many more deliveries are owed than are there, which a working link never lets happen."""

    def lacking():
        outcome = trial.look().outcome
        return int(outcome.owed.sum()) - outcome.delivered

    wait_until(lambda: lacking() >= count)


def refusal(action):
    with pytest.raises(UsageError) as caught:
        action()
    text = str(caught.value)
    assert text.endswith(".")
    assert ". " not in text
    return text


def check_run(run, trial, kinds):
    """What holds for every live trial that was stopped, whatever was done to it."""
    (recording,) = Run(run.folder).recordings
    outcome, load = recording.outcome, recording.trial.workload
    sent = recording.producer[recording.producer["kind"] == Kind.SENT]
    offered = sent["sequence"][sent["sequence"] >= load.first].tolist()
    assert offered == [item.sequence for item in load.schedule()]
    assert recording.record["digest"] == run.manifest["digest"]
    assert len(outcome.windows) == len(kinds)
    assert all(end for _, end in outcome.windows)
    assert (recording.trial.outage.kind if recording.trial.outage else None) == (kinds[0] if kinds else None)
    assert outcome.delivered + outcome.lost == int(outcome.owed.sum()) == len(offered) * load.subscribers
    assert outcome.verdict == ("lossy" if outcome.lost else "complete")
    assert run.loss["owed"].tolist() == [int(outcome.owed.sum())]
    assert not (run.folder / "nodes").exists()
    for chart in (charts.timeline(run), charts.loss(run)):
        assert f"{int(outcome.owed.sum()):,}" in chart.alt
    assert refusal(trial.look) == "This live trial has ended; make another one."
    return outcome


@pytest.mark.parametrize(
    ("protocol", "guarantee", "kind"),
    [
        ("sse", "at-most-once", "reset"),
        ("websocket", "at-least-once", "silent"),
        ("webhook", "at-least-once", "close"),
        ("polling", "at-least-once", "refuse"),
        ("pubsub", "at-least-once", "consumer-crash"),
        ("longpolling", "durable", "consumer-freeze"),
    ],
)
def test_what_breaks_and_heals_by_hand_is_seen_at_once_and_is_an_ordinary_run_in_the_end(
    live, protocol, guarantee, kind
):
    trial = live(protocol, guarantee)
    trial.start()
    arrived(trial)
    assert (trial.broken, trial.look().outcome.windows) == (None, [])
    if kind == "refuse":
        trial.cut("close")  # only new connections are refused
        trial.heal()
    trial.cut(kind)
    assert trial.broken == kind
    missing(trial)
    looked = trial.look()
    assert looked.outcome.windows[-1][1] is None
    assert looked.outcome.verdict == "inconclusive"
    trial.heal()
    assert trial.broken is None
    arrived(trial)
    kinds = ["close", kind] if kind == "refuse" else [kind]
    outcome = check_run(trial.stop(), trial, kinds)
    assert (outcome.lost == 0) is (guarantee != Guarantee.AT_MOST_ONCE)
    assert outcome.unexpected == outcome.corrupt == 0


def test_each_look_has_all_of_the_one_before_and_counts_every_event_that_was_offered_by_then(live):
    trial = live()
    trial.start()
    looks = []
    while len(looks) < 30 or not looks[-1].outcome.delivered:
        looks.append(trial.look())
    for before, after in pairwise(looks):
        there = before.outcome.owed.shape[1]
        assert after.outcome.owed.shape[1] >= there
        assert np.array_equal(after.offer.due_ns[:there], before.offer.due_ns)
        came = before.outcome.arrived_ns > 0
        assert np.array_equal(after.outcome.arrived_ns[:, :there][came], before.outcome.arrived_ns[came])
    for look in looks:
        outcome = look.outcome
        assert outcome.owed.all()
        assert outcome.unexpected == outcome.corrupt == 0
        assert outcome.delivered + outcome.lost == outcome.owed.size
        assert look.phases.keys() >= set(PHASES)


def test_a_trial_that_is_stopped_while_it_is_broken_is_healed_first(live):
    trial = live()
    trial.start()
    arrived(trial)
    trial.freeze()
    missing(trial)
    run = trial.stop()
    assert check_run(run, trial, ["silent"]).lost == 0
    assert run.loss["outage"].tolist() == ["silent"]


def test_several_outages_are_all_named_by_their_kinds(live):
    trial = live("sse", "at-most-once")
    trial.start()
    for kind in ("silent", "reset", "silent"):
        arrived(trial)
        trial.cut(kind)
        missing(trial, 60)  # long enough that each outage has room for its name in a picture of them all
        trial.heal()
    looked, now = trial.look(), time.monotonic_ns()
    assert looked.kinds == ["silent", "reset", "silent"]
    seconds = (now - looked.phases["load"]) / 1e9
    assert {"silent", "reset"} <= set(words(fates(looked, now, seconds=seconds)))
    run = trial.stop()
    check_run(run, trial, ["silent", "reset", "silent"])
    assert run.loss["outage"].tolist() == ["silent, reset"]
    shown = charts.timeline(run)
    named = [text.get_text() for axes in shown.axes for text in axes.texts]
    assert {"silent", "reset"} <= set(named)
    assert not [name for name in named if name.startswith("outage:")]
    assert "Further outages after that one: reset (RST), silent (stall)." in shown.alt


def test_a_trial_that_is_stopped_at_once_has_offered_as_much_as_the_shortest_workload_has(live):
    trial = live(workload=Workload(rate=200, duration=60, subscribers=1))
    trial.start()
    run = trial.stop()
    check_run(run, trial, [])
    assert run.recordings[0].trial.workload.duration >= 0.1


def test_a_workload_that_has_come_to_its_end_is_over_and_stays_there_to_be_broken_and_stopped(live):
    trial = live(workload=Workload(rate=30, duration=0.35, subscribers=1))
    trial.start()
    wait_until(lambda: trial.over)
    assert trial.look().outcome.owed.size == 11
    trial.cut()
    trial.heal()
    run = trial.stop()
    check_run(run, trial, ["reset"])
    assert run.recordings[0].trial.workload.duration == 0.35


def test_a_folder_of_ones_own_is_the_run_and_has_to_be_empty(live, tmp_path):
    trial = live(out=tmp_path / "run")
    trial.start()
    assert trial.stop().folder == tmp_path / "run"
    before = sorted((tmp_path / "run").rglob("*"))
    assert "already holds something" in refusal(live(out=tmp_path / "run").start)
    assert sorted((tmp_path / "run").rglob("*")) == before


class Reader(threading.Thread):
    """The one subscriber of an event stream, outside the lab: it connects again with the last id it has, and tells."""

    def __init__(self, trial):
        super().__init__(daemon=True)
        self.trial, self.last, self.done = trial, None, False

    @property
    def ledger(self):
        self.trial.ledger.time_ns = time.monotonic_ns()
        return self.trial.ledger

    def run(self):
        while not self.done:
            headers = {"Last-Event-ID": self.last} if self.last else {}
            try:
                with urlopen(Request(self.trial.url + "/events", headers=headers)) as stream:
                    self.ledger.write(Kind.CONNECTED, subscriber=0)
                    for line in stream:
                        self.take(line.strip())
            except (OSError, HTTPException):
                time.sleep(0.01)
            self.ledger.write(Kind.DISCONNECTED, subscriber=0)

    def take(self, line):
        if line.startswith(b"id: "):
            self.next = line[4:].decode()
        if line.startswith(b"data: "):
            self.last = self.next
            self.ledger.received(0, sequence_of(line[6:]), line[6:])


def test_subscribers_from_outside_come_through_the_link_and_what_reaches_the_ledger_counts(live):
    trial = live(hosted=False, workload=Workload(rate=50, duration=60, subscribers=1))
    trial.start()
    assert "has not begun: call begin()" in refusal(trial.look)
    reader = Reader(trial)
    reader.start()
    wait_until(lambda: trial._outside(0)["settled"])
    trial.begin()
    arrived(trial)
    trial.cut()
    missing(trial)
    trial.heal()
    arrived(trial)
    reader.done = True
    outcome = check_run(trial.stop(), trial, ["reset"])
    assert outcome.lost == 0
    assert outcome.count(Fate.LATE) >= 10
    assert "has ended" in refusal(trial.begin)
    reader.join(10)


def test_subscribers_from_outside_that_never_come_back_leave_the_trial_inconclusive(live, monkeypatch):
    monkeypatch.setattr("labkit.walk.SETTLE_LIMIT", 2.0)
    trial = live(hosted=False)
    trial.start()
    trial.begin()
    wait_until(lambda: trial.look().outcome.owed.any())
    (recording,) = trial.stop().recordings
    assert (recording.outcome.verdict, recording.outcome.delivered) == ("inconclusive", 0)


def test_only_the_origin_that_was_named_is_answered(live):
    trial = live(hosted=False, origin="http://localhost:8888")
    trial.start()
    for origin, status in (("http://localhost:8888", b"200"), ("http://elsewhere", b"403")):
        with socket.create_connection(("127.0.0.1", int(trial.url.rpartition(":")[2]))) as page:
            page.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\nOrigin: %s\r\n\r\n" % origin.encode())
            assert page.recv(1000).split()[1] == status


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"protocol": "gopher"}, "There is no protocol 'gopher'"),
        ({"guarantee": "twice"}, "There is no guarantee 'twice'"),
        ({"workload": Workload(arrival="poisson")}, "constant arrivals"),
        ({"workload": 3}, "workload is 3; it has to be a labkit Workload, or left out."),
        ({"out": 5}, "out is 5; it has to be the path of a folder, or left out."),
        ({"origin": "*"}, "origin is '*'; name one web origin, such as 'http://localhost:8888'."),
        ({"origin": 5}, "origin is 5; name one web origin"),
        ({"origin": "http://localhost:8888/lab"}, "name one web origin"),
        ({"protocol": "webhook", "hosted": False}, "choose from websocket, sse, polling, longpolling"),
        ({"protocol": "pubsub", "hosted": False}, "choose from websocket, sse, polling, longpolling"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(live, arguments, words):
    assert words in refusal(lambda: live(**arguments))


def test_timings_are_timings():
    assert "timings is 3; it has to be a labkit Timings, or left out." in refusal(lambda: Endless("sse", timings=3))


@pytest.mark.parametrize("act", ["look", "stop"])
def test_a_run_folder_that_is_deleted_meanwhile_ends_the_trial_with_a_sentence(live, tmp_path, act):
    trial = live(out=tmp_path / "run")
    trial.start()
    nodes = list(trial._walk.stage.nodes.values())
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(TrialError, match=r"^The live trial cannot go on: its run folder '.*run' was deleted\.$"):
        getattr(trial, act)()
    assert not any(psutil.pid_exists(node.pid) for node in nodes)


def test_what_makes_no_sense_at_the_moment_is_said_and_changes_nothing(live):
    trial = live(workload=Workload(rate=50, duration=60, subscribers=1))
    for action in (trial.look, trial.cut, trial.heal, trial.stop, trial.begin):
        assert refusal(action) == "This live trial is not started."
    trial.start()
    assert "started or closed already" in refusal(trial.start)
    assert refusal(trial.begin) == "The load of this live trial has begun."
    assert "nothing to heal" in refusal(trial.heal)
    assert "The outage kind is 'axe'; choose one of close, reset" in refusal(lambda: trial.cut("axe"))
    assert "producer-crash strikes the producer; here it has to be the link or the consumer" in refusal(
        lambda: trial.cut("producer-crash")
    )
    trial.cut()
    assert "broken already (reset); heal it first" in refusal(trial.freeze)
    trial.heal()
    arrived(trial)
    check_run(trial.stop(), trial, ["reset"])


def test_a_consumer_from_outside_is_not_the_labs_to_kill(live):
    trial = live(hosted=False)
    trial.start()
    trial.begin()
    assert "here it has to be the link." in refusal(lambda: trial.cut("consumer-crash"))


@pytest.mark.parametrize("role", ["producer", "consumer", "link"])
def test_a_process_that_dies_ends_the_trial_with_a_sentence_and_leaves_nothing(live, tmp_path, role):
    trial = live()
    trial.start()
    nodes = trial._walk.stage.nodes
    os.kill(nodes[role].pid, signal.SIGKILL)
    with pytest.raises(TrialError, match=f"The {role} process ended"):
        wait_until(lambda: trial.look() and False)
    assert not any(psutil.pid_exists(node.pid) for node in nodes.values())
    assert list(tmp_path.iterdir()) == []


def test_a_closed_trial_leaves_nothing_however_often_it_is_closed_and_even_while_it_is_frozen(live, tmp_path):
    with live("pubsub") as trial:
        trial.start()
        trial.cut("consumer-freeze")
        started = family(os.getpid())
        assert len(started) >= 5
    trial.close()
    assert psutil.wait_procs(started, timeout=5)[1] == []
    assert list(tmp_path.iterdir()) == []
    unused = live()
    unused.close()
    for closed in (trial, unused):
        assert refusal(closed.start) == "This live trial was started or closed already; make another one."


PARENT = """
from labkit.endless import Endless
with Endless("pubsub") as trial:
    trial.start()
    trial.cut("consumer-freeze")
    print("runs", flush=True)
    while True:
        trial.look()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT can be sent to a single process there")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_a_killed_parent_leave_no_process(tmp_path, how):
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as parent:
        try:
            assert parent.stdout.readline() == b"runs\n"
            started = family(parent.pid)
            assert len(started) >= 5
            parent.send_signal(how)
            parent.communicate(timeout=20)
        finally:
            parent.kill()  # one that does not end is this test's failure, and no other's
    assert psutil.wait_procs(started, timeout=10)[1] == []
    assert how == signal.SIGKILL or list(Path(tmp_path).iterdir()) == []
