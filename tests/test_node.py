import json
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.error import HTTPError
from urllib.request import urlopen

import psutil
import pytest

from labkit.ledger import Kind, read
from labkit.trial import Guarantee, Measure, Timings, Trial
from labkit.workload import Workload, digest


def spec(protocol="sse", guarantee=Guarantee.AT_LEAST_ONCE, **workload):
    settings = {"rate": 200, "duration": 60.0, "subscribers": 2, **workload}
    timings = Timings(heartbeat=0.2)
    trial = Trial("t", Measure.LATENCY, protocol, guarantee, Workload(**settings), uid="00aa11bb", timings=timings)
    return trial.to_json()


CLEAR = {"conditions": {}, "seed": 1}
"""A link that is not slow."""


def opening(role, ledger, trial=None):
    """What a node of a role is opened with."""
    if role == "broker":
        return {}
    if role == "link":
        return {"ledger": str(ledger), **CLEAR}
    return {"spec": trial or spec(), "ledger": str(ledger)} | ({"hosts": (0, 2)} if role == "consumer" else {})


class NotFound(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(404)

    def log_message(self, *_):
        pass


class Teapot(NotFound):
    def do_GET(self):
        self.send_error(418)


def answered(url):
    """The status with which a GET is answered."""
    with pytest.raises(HTTPError) as caught, urlopen(url, timeout=10):
        pass
    caught.value.close()
    return caught.value.code


def soon():
    return time.monotonic_ns() + 10_000_000


@pytest.fixture
def loaded_at(node, tmp_path, until):
    """A producer and a consumer in the middle of a load of a minute, and the producer's URL."""
    producer, consumer = node("producer"), node("consumer")
    url = producer.ask("open", spec=spec(), ledger=str(tmp_path / "producer.ledger"))["result"]["url"]
    consumer.ask("open", spec=spec(), ledger=str(tmp_path / "consumer.ledger"), hosts=(0, 2))
    assert producer.ask("connect", peer=None) == {"result": None}
    assert consumer.ask("connect", peer=url, public=None) == {"result": None}
    producer.ask("warm_up")
    until(lambda: consumer.ask("warm")["result"] == 2)
    start = soon()
    for child in (producer, consumer):
        child.ask("load", start_ns=start)
    until(lambda: len(read(tmp_path / "consumer.ledger")) > 60)
    return producer, consumer, url


@pytest.fixture
def loaded(loaded_at):
    """The two nodes alone."""
    return loaded_at[:2]


def count(path, kind):
    return int((read(path)["kind"] == kind).sum())


def test_a_producer_and_a_consumer_serve_one_trial_after_the_other(node, tmp_path, until):
    producer, consumer = node("producer"), node("consumer")

    def serve(turn):
        short = spec(duration=0.2)
        sent, received = tmp_path / f"sent{turn}", tmp_path / f"received{turn}"
        opened = producer.ask("open", spec=short, ledger=str(sent))["result"]
        assert opened["digest"] == digest(Trial.from_json(short).workload.schedule())
        consumer.ask("open", spec=short, ledger=str(received), hosts=(0, 2))
        producer.ask("connect", peer=None)
        consumer.ask("connect", peer=opened["url"], public=None)
        producer.ask("warm_up")
        until(lambda: consumer.ask("warm")["result"] == 2)
        start = soon()
        producer.ask("load", start_ns=start)
        consumer.ask("load", start_ns=start)
        until(lambda: producer.ask("status")["result"]["done"])
        until(lambda: count(received, Kind.RECEIVED) == 2 * count(sent, Kind.SENT))
        assert consumer.ask("status")["result"]["settled"] is True
        for child in (consumer, producer):
            usage = child.ask("close")["result"]
            assert usage["cpu_s"] >= 0
            assert usage["peak_rss"] > 1_000_000
        assert count(sent, Kind.SENT) == 10 + 40

    serve(1)
    serve(2)
    assert (producer.end(), consumer.end()) == (0, 0)


def test_an_event_is_never_sent_before_it_is_due(node, tmp_path, until):
    short = spec("polling", duration=0.3)
    producer = node("producer")
    producer.ask("open", spec=short, ledger=str(tmp_path / "ledger"))
    producer.ask("connect", peer=None)
    start = soon()
    producer.ask("load", start_ns=start)
    until(lambda: producer.ask("status")["result"]["done"])
    records = read(tmp_path / "ledger")
    sent = records[records["kind"] == Kind.SENT]
    schedule = Trial.from_json(short).workload.schedule()
    assert [int(number) for number in sent["sequence"]] == [item.sequence for item in schedule]
    assert all(at >= start + item.due_ns for at, item in zip(sent["time_ns"], schedule, strict=True))


@pytest.mark.parametrize("role", ["producer", "consumer", "link", "broker"])
def test_a_node_that_was_asked_nothing_ends_when_its_standard_input_closes(node, role):
    assert node(role).end() == 0


def test_nodes_end_in_the_middle_of_a_load_when_their_standard_input_closes(loaded):
    for child in loaded:
        assert child.end() == 0


def test_nodes_end_in_the_middle_of_a_load_when_they_are_told_to_terminate(loaded):
    for child in loaded:
        child.process.send_signal(signal.SIGTERM)
        assert child.process.wait(10) == 0


def test_an_interrupt_is_not_for_the_nodes(loaded, tmp_path, until):
    for child in loaded:
        child.process.send_signal(signal.SIGINT)
    count = len(read(tmp_path / "consumer.ledger"))
    until(lambda: len(read(tmp_path / "consumer.ledger")) > count + 20)
    for child in loaded:
        assert "result" in child.ask("status")


def test_what_was_recorded_survives_a_kill(loaded, tmp_path):
    for child in loaded:
        child.process.kill()
        child.process.wait()
    for role in ("producer", "consumer"):
        records = read(tmp_path / f"{role}.ledger")
        assert len(records) > 20
        assert (records["kind"] > 0).all()


@pytest.mark.parametrize(
    ("role", "command"),
    [
        ("producer", {"do": "dance"}),
        ("producer", {"do": "__init__"}),
        ("producer", {"do": "_load", "start_ns": 0}),
        ("producer", {"do": "status"}),
        ("producer", {"do": "open"}),
        ("producer", {"do": "open", "spec": {}, "ledger": "x"}),
        ("producer", {"do": "route", "target": "", "consumer_dials": True}),
        ("link", {"do": "flood", "count": 1}),
        ("link", {"do": "open", "ledger": "/nowhere/at/all", **CLEAR}),
        ("link", {"do": "open", "ledger": "/nowhere/at/all"}),
        ("link", {"do": "freeze", "pid": 0}),
        ("link", {"do": "thaw"}),
        ("consumer", {"do": "open", "spec": spec(), "ledger": "/nowhere/at/all", "hosts": [0, 2]}),
        ("broker", {"do": "kill"}),
        ("broker", {"do": "restart"}),
        ("producer", {}),
        ("producer", {"spec": {}}),
    ],
    ids=json.dumps,
)
def test_a_bad_command_is_answered_with_an_error_and_the_node_goes_on(node, tmp_path, role, command):
    child = node(role)
    child.tell(json.dumps(command).encode())
    assert set(json.loads(child.process.stdout.readline() or "null") or {}) == {"error"}
    assert "result" in child.ask("open", **opening(role, tmp_path / "ledger"))
    assert child.end() == 0


def test_a_line_that_is_not_json_does_not_keep_a_node_from_ending(node):
    child = node("producer")
    child.tell(b"nonsense")
    child.end()


def test_a_failing_open_is_answered_with_a_sentence_and_the_next_one_works(node, tmp_path):
    child = node("producer")
    first = child.ask("open", spec=spec() | {"protocol": "pigeon"}, ledger=str(tmp_path / "a"))
    assert first["error"].startswith("There is no protocol 'pigeon'")
    (tmp_path / "b").touch()
    assert "FileExistsError" in child.ask("open", spec=spec(), ledger=str(tmp_path / "b"))["error"]
    assert child.ask("open", spec=spec(), ledger=str(tmp_path / "c"))["result"]["url"].startswith("http://127.0.0.1:")
    assert child.ask("close")["result"]
    assert child.end() == 0


@pytest.mark.parametrize("role", ["producer", "consumer"])
@pytest.mark.parametrize("protocol", ["websocket", "webhook", "resthooks", "pubsub", "sse", "polling", "longpolling"])
def test_a_node_that_was_opened_and_never_connected_ends_cleanly(node, tmp_path, protocol, role):
    child = node(role)
    assert "result" in child.ask("open", **opening(role, tmp_path / "ledger", spec(protocol)))
    assert child.end() == 0
    assert (tmp_path / f"{role}0.log").read_text() == ""


def test_a_failure_in_the_background_is_told_by_the_status(node, tmp_path, until):
    """The event stream has ended, and what now has its port answers 404 to whoever reconnects."""
    producer, consumer = node("producer"), node("consumer")
    url = producer.ask("open", spec=spec(), ledger=str(tmp_path / "producer.ledger"))["result"]["url"]
    consumer.ask("open", spec=spec(), ledger=str(tmp_path / "consumer.ledger"), hosts=(0, 2))
    producer.ask("connect", peer=None)
    assert consumer.ask("connect", peer=url, public=None) == {"result": None}
    assert "result" in consumer.ask("status")
    producer.ask("close")
    port = int(url.rpartition(":")[2])
    with HTTPServer(("127.0.0.1", port), NotFound) as server:
        answering = threading.Thread(target=server.serve_forever)
        answering.start()
        until(lambda: "error" in consumer.ask("status"))
        server.shutdown()
        answering.join()
    assert "answered 404" in consumer.ask("status")["error"]


@pytest.fixture
def link(node, tmp_path):
    child = node("link")
    assert child.ask("open", ledger=str(tmp_path / "link.ledger"), **CLEAR) == {"result": None}
    return child


def kinds(path):
    return [Kind(kind) for kind in read(path)["kind"]]


def test_a_link_node_cuts_and_heals_and_notes_when_it_is_told_to(link, tmp_path):
    told = []
    for command in ({"do": "cut", "kind": "reset"}, {"do": "heal"}, {"do": "note", "kind": Kind.CUT}):
        told.append(time.monotonic_ns())
        assert link.ask(**command) == {"result": None}
    told.append(time.monotonic_ns())
    records = read(tmp_path / "link.ledger")
    assert kinds(tmp_path / "link.ledger") == [Kind.CUT, Kind.HEALED, Kind.CUT]
    assert all(before <= at <= after for before, at, after in zip(told, records["time_ns"], told[1:], strict=False))
    assert link.end() == 0


def test_a_link_node_leads_to_another_target_once_it_is_told_of_it(link, until):
    with HTTPServer(("127.0.0.1", 0), NotFound) as old, HTTPServer(("127.0.0.1", 0), Teapot) as new:
        urls = [f"http://127.0.0.1:{server.server_port}" for server in (old, new)]
        serving = [threading.Thread(target=server.serve_forever, args=(0.01,)) for server in (old, new)]
        for thread in serving:
            thread.start()
        way = link.ask("route", target=urls[0], consumer_dials=True)["result"]
        assert answered(way) == 404
        assert link.ask("retarget", old=urls[0], new=urls[1]) == {"result": None}
        assert answered(way) == 418
        for server in (old, new):
            server.shutdown()
        for thread in serving:
            thread.join()


@pytest.fixture
def other():
    """Another process, which is never still while it runs."""
    command = [sys.executable, "-c", "while True: pass"]
    with subprocess.Popen(command) as process:
        yield psutil.Process(process.pid)
        process.kill()


def goes_on(process, until):
    """Returns once the process is seen to run and to use the processor."""
    used = process.cpu_times().user
    until(lambda: process.cpu_times().user > used)
    assert process.status() != psutil.STATUS_STOPPED


def test_a_link_node_freezes_another_process_and_thaws_it_several_times(link, other, tmp_path, until):
    goes_on(other, until)
    for _ in range(3):
        assert link.ask("freeze", pid=other.pid) == {"result": None}
        until(lambda: other.status() == psutil.STATUS_STOPPED)
        assert link.ask("thaw") == {"result": None}
        goes_on(other, until)
    assert kinds(tmp_path / "link.ledger") == [Kind.CUT, Kind.HEALED] * 3
    assert link.end() == 0
    goes_on(other, until)


@pytest.mark.parametrize("end", ["stdin", "terminate", "close"])
def test_a_frozen_process_goes_on_when_the_link_node_ends(link, other, until, end):
    link.ask("freeze", pid=other.pid)
    until(lambda: other.status() == psutil.STATUS_STOPPED)
    if end == "stdin":
        assert link.end() == 0
    elif end == "terminate":
        link.process.terminate()
        assert link.process.wait(10) == 0
    else:
        assert "result" in link.ask("close")
    goes_on(other, until)


def test_a_process_that_was_killed_while_it_was_frozen_does_not_hold_up_the_link_node(link, other, until):
    link.ask("freeze", pid=other.pid)
    other.kill()
    until(lambda: gone(other))
    assert link.end() == 0


def test_a_frozen_consumer_records_nothing_and_then_everything(loaded, link, tmp_path, until):
    _, consumer = loaded
    ledger = tmp_path / "consumer.ledger"
    link.ask("freeze", pid=consumer.process.pid)
    until(lambda: psutil.Process(consumer.process.pid).status() == psutil.STATUS_STOPPED)
    before, sent = len(read(ledger)), count(tmp_path / "producer.ledger", Kind.SENT)
    until(lambda: count(tmp_path / "producer.ledger", Kind.SENT) > sent + 20)
    assert len(read(ledger)) == before
    link.ask("thaw")
    until(lambda: count(ledger, Kind.RECEIVED) > 2 * (sent + 20))
    records = read(ledger)
    for subscriber in (0, 1):
        mine = records[(records["kind"] == Kind.RECEIVED) & (records["subscriber"] == subscriber)]
        assert list(mine["sequence"]) == list(range(len(mine)))


def arrivals(path, subscriber):
    """The sequence numbers a subscriber's application got, in that order."""
    records = read(path)
    mine = records[(records["kind"] == Kind.RECEIVED) & (records["subscriber"] == subscriber)]
    return [int(sequence) for sequence in mine["sequence"]]


def test_a_consumer_goes_on_after_the_newest_event_in_the_ledgers_of_those_before_it(loaded_at, node, tmp_path, until):
    """Twice over: the third process finds what the first and the second have."""
    _, consumer, url = loaded_at
    ledgers = [tmp_path / "consumer.ledger"]
    for turn in (2, 3):
        consumer.process.kill()
        consumer.process.wait()
        sent = count(tmp_path / "producer.ledger", Kind.SENT)
        until(lambda sent=sent: count(tmp_path / "producer.ledger", Kind.SENT) > sent + 20)
        consumer, own = node("consumer"), tmp_path / f"consumer-{turn}.ledger"
        before = list(map(str, ledgers))
        consumer.ask("open", spec=spec(), ledger=str(own), hosts=(0, 2), predecessors=before)
        # Each subscriber's connection was lost with the process, and only the next one could say so.
        records = read(own)
        assert [int(kind) for kind in records["kind"]] == [Kind.DISCONNECTED] * 2
        assert [int(subscriber) for subscriber in records["subscriber"]] == [0, 1]
        consumer.ask("connect", peer=url, public=None)
        ledgers.append(own)
        until(lambda own=own, sent=sent: min(len(arrivals(own, s)) for s in (0, 1)) > 40)
    for subscriber in (0, 1):
        found = [number for ledger in ledgers for number in arrivals(ledger, subscriber)]
        assert found == list(range(len(found)))
    assert all(count(ledger, Kind.REPEATED) == 0 for ledger in ledgers)


def test_a_consumer_without_recovery_goes_on_from_now(node, tmp_path, until):
    trial, sent = spec(guarantee=Guarantee.AT_MOST_ONCE), tmp_path / "producer.ledger"
    producer, consumer = node("producer"), node("consumer")
    url = producer.ask("open", spec=trial, ledger=str(sent))["result"]["url"]
    consumer.ask("open", spec=trial, ledger=str(tmp_path / "one"), hosts=(0, 2))
    producer.ask("connect", peer=None)
    consumer.ask("connect", peer=url, public=None)
    producer.ask("load", start_ns=soon())
    until(lambda: len(arrivals(tmp_path / "one", 0)) > 20)
    consumer.process.kill()
    consumer.process.wait()
    before = count(sent, Kind.SENT)
    until(lambda: count(sent, Kind.SENT) > before + 20)
    consumer = node("consumer")
    consumer.ask("open", spec=trial, ledger=str(tmp_path / "two"), hosts=(0, 2), predecessors=[str(tmp_path / "one")])
    assert count(tmp_path / "two", Kind.DISCONNECTED) == 2
    consumer.ask("connect", peer=url, public=None)
    until(lambda: len(arrivals(tmp_path / "two", 0)) > 20)
    one, two = arrivals(tmp_path / "one", 0), arrivals(tmp_path / "two", 0)
    assert two[0] > one[-1] + 20
    assert two == list(range(two[0], two[0] + len(two)))


def test_a_consumer_hosts_the_subscribers_it_is_given_and_no_others(node, tmp_path, until):
    trial = spec(subscribers=5)
    producer, first, second = node("producer"), node("consumer"), node("spared")
    url = producer.ask("open", spec=trial, ledger=str(tmp_path / "producer"))["result"]["url"]
    producer.ask("connect", peer=None)
    for child, hosts in ((first, (0, 2)), (second, (2, 5))):
        child.ask("open", spec=trial, ledger=str(tmp_path / f"from{hosts[0]}"), hosts=hosts)
        child.ask("connect", peer=url, public=None)
    producer.ask("warm_up")
    until(lambda: (first.ask("warm")["result"], second.ask("warm")["result"]) == (2, 3))
    assert {int(subscriber) for subscriber in read(tmp_path / "from0")["subscriber"]} == {0, 1}
    assert {int(subscriber) for subscriber in read(tmp_path / "from2")["subscriber"]} == {2, 3, 4}


def test_a_producer_in_the_place_of_another_offers_only_what_is_due_from_then_on(node, tmp_path, until):
    trial = spec(duration=6.0)
    schedule = Trial.from_json(trial).workload.schedule()
    producer = node("producer")
    assert "error" in producer.ask("status")  # it is up
    start = time.monotonic_ns() - 4_000_000_000
    before = time.monotonic_ns() - start
    opened = producer.ask("open", spec=trial, ledger=str(tmp_path / "ledger"), since_ns=start)["result"]
    after = time.monotonic_ns() - start
    # The digest is that of the whole workload, as its predecessor's was.
    assert opened["digest"] == digest(schedule)
    producer.ask("connect", peer=None)
    producer.ask("load", start_ns=start)
    until(lambda: producer.ask("status")["result"]["done"])
    records = read(tmp_path / "ledger")
    sent = [int(number) for number in records[records["kind"] == Kind.SENT]["sequence"]]
    due = {item.sequence: item.due_ns for item in schedule}
    assert before <= due[sent[0]]
    assert due.get(sent[0] - 1, 0) < after
    assert sent == list(range(sent[0], schedule[-1].sequence + 1))


def test_a_producer_that_comes_after_the_end_of_the_load_offers_nothing_and_is_done(node, tmp_path, until):
    trial, start = spec(duration=0.5), time.monotonic_ns() - 1_000_000_000
    producer = node("producer")
    assert "result" in producer.ask("open", spec=trial, ledger=str(tmp_path / "ledger"), since_ns=start)
    producer.ask("connect", peer=None)
    producer.ask("load", start_ns=start)
    until(lambda: producer.ask("status")["result"]["done"])
    assert count(tmp_path / "ledger", Kind.SENT) == 0


@pytest.fixture
def broker(node):
    child = node("broker")
    return child, psutil.Process(child.ask("open")["result"]["pid"])


def gone(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("load", [True, False], ids=["in a load", "before a load"])
@pytest.mark.parametrize("end", ["stdin", "terminate"])
def test_a_broker_node_takes_its_nats_server_with_it(broker, until, load, end):
    child, server = broker
    if load:
        child.ask("load", start_ns=0)
    assert server.is_running()
    if end == "stdin":
        child.end()
    else:
        child.process.terminate()
        child.process.wait(10)
    until(lambda: gone(server), limit=5)


def test_a_broker_node_tells_that_its_nats_server_is_gone(broker, until):
    child, server = broker
    child.ask("load", start_ns=0)
    server.kill()
    # One of its threads may outlive the others for a moment.
    until(lambda: "ended in the middle" in child.ask("status").get("error", ""))
    assert "ended in the middle" in child.ask("close")["error"]
    answer = child.ask("open")
    assert answer["result"]["url"].startswith("nats://127.0.0.1:")


@pytest.mark.parametrize("killed", [False, True])
def test_a_broker_node_leaves_no_store_behind(node, tmp_path, monkeypatch, until, killed):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    child = node("broker")
    server = psutil.Process(child.ask("open")["result"]["pid"])
    child.ask("load", start_ns=0)
    assert list(temporary.iterdir())
    if killed:
        server.kill()
        until(lambda: gone(server))
    child.ask("close")
    child.end()
    assert list(temporary.iterdir()) == []


def test_a_broker_node_serves_one_trial_after_the_other(broker, until):
    child, server = broker
    child.ask("load", start_ns=0)
    usage = child.ask("close")["result"]
    assert usage["peak_rss"] > 1_000_000
    until(lambda: gone(server))
    second = psutil.Process(child.ask("open")["result"]["pid"])
    child.ask("load", start_ns=0)
    assert child.end() == 0
    until(lambda: gone(second))
