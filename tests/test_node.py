import json
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

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


class NotFound(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(404)

    def log_message(self, *_):
        pass


def soon():
    return time.monotonic_ns() + 10_000_000


@pytest.fixture
def loaded(node, tmp_path, until):
    """A producer and a consumer in the middle of a load of a minute."""
    producer, consumer = node("producer"), node("consumer")
    url = producer.ask("open", spec=spec(), ledger=str(tmp_path / "producer.ledger"))["result"]["url"]
    consumer.ask("open", spec=spec(), ledger=str(tmp_path / "consumer.ledger"))
    assert producer.ask("connect", peer=None) == {"result": None}
    assert consumer.ask("connect", peer=url, public=None) == {"result": None}
    producer.ask("warm")
    until(lambda: consumer.ask("warm")["result"] == 2)
    start = soon()
    for child in (producer, consumer):
        child.ask("load", start_ns=start)
    until(lambda: len(read(tmp_path / "consumer.ledger")) > 60)
    return producer, consumer


def count(path, kind):
    return int((read(path)["kind"] == kind).sum())


def test_a_producer_and_a_consumer_serve_one_trial_after_the_other(node, tmp_path, until):
    producer, consumer = node("producer"), node("consumer")

    def serve(turn):
        short = spec(duration=0.2)
        sent, received = tmp_path / f"sent{turn}", tmp_path / f"received{turn}"
        opened = producer.ask("open", spec=short, ledger=str(sent))["result"]
        assert opened["digest"] == digest(Trial.from_json(short).workload.schedule())
        consumer.ask("open", spec=short, ledger=str(received))
        producer.ask("connect", peer=None)
        consumer.ask("connect", peer=opened["url"], public=None)
        producer.ask("warm")
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
        ("link", {"do": "open", "ledger": "/nowhere/at/all"}),
        ("producer", {}),
        ("producer", {"spec": {}}),
    ],
    ids=json.dumps,
)
def test_a_bad_command_is_answered_with_an_error_and_the_node_goes_on(node, tmp_path, role, command):
    child = node(role)
    child.tell(json.dumps(command).encode())
    assert set(json.loads(child.process.stdout.readline() or "null") or {}) == {"error"}
    arguments = {"ledger": str(tmp_path / "ledger")} | ({"spec": spec()} if role == "producer" else {})
    assert "result" in child.ask("open", **arguments)
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
    assert "result" in child.ask("open", spec=spec(protocol), ledger=str(tmp_path / "ledger"))
    assert child.end() == 0
    assert (tmp_path / f"{role}0.log").read_text() == ""


def test_a_failure_in_the_background_is_told_by_the_status(node, tmp_path, until):
    """The event stream has ended, and what now has its port answers 404 to whoever reconnects."""
    producer, consumer = node("producer"), node("consumer")
    url = producer.ask("open", spec=spec(), ledger=str(tmp_path / "producer.ledger"))["result"]["url"]
    consumer.ask("open", spec=spec(), ledger=str(tmp_path / "consumer.ledger"))
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


def test_a_link_node_cuts_and_heals_at_the_times_it_was_given(node, tmp_path, until):
    link = node("link")
    link.ask("open", ledger=str(tmp_path / "ledger"))
    link.ask("load", start_ns=0)
    cut = time.monotonic_ns() + 50_000_000
    link.ask("plan", kind="reset", cut_ns=cut, heal_ns=cut + 50_000_000)
    until(lambda: Kind.HEALED in read(tmp_path / "ledger")["kind"])
    records = read(tmp_path / "ledger")
    assert [int(kind) for kind in records["kind"]] == [Kind.CUT, Kind.HEALED]
    # Event loops count whole milliseconds.
    assert records["time_ns"][0] >= cut - 1_500_000
    assert records["time_ns"][1] >= cut + 50_000_000 - 1_500_000
    assert link.end() == 0


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
