"""A page's trial, without a page: what one would say is said here, to the same widget, about real nodes."""

import os
import tempfile
from contextlib import closing

import psutil
import pytest
from conftest import family, wait_until
from pages import PAGE, Page, says

from labkit import visitor
from labkit.errors import TrialError, UsageError
from labkit.event import encode_gap, encode_id
from labkit.ledger import NO_SEQUENCE, Kind, Retold, read
from labkit.trial import Guarantee, Measure, Timings, Trial
from labkit.visitor import FromPage, Retelling, Subscribers, asked
from labkit.workload import Workload

LOAD = Workload(rate=50, duration=60, subscribers=2)


@pytest.fixture
def widget():
    return Subscribers()


@pytest.fixture
def page(widget):
    with Page(widget) as page:
        yield page


@pytest.fixture
def trial(monkeypatch, tmp_path, widget):
    """Makes trials of the page; when the test is over nothing of theirs runs."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    made, before = [], family(os.getpid())

    def make(protocol="sse", guarantee="at-least-once", load=LOAD):
        made.append(FromPage(widget, protocol, guarantee, load))
        return made[-1]

    yield make
    for one in made:
        one.close()
    assert psutil.wait_procs(set(family(os.getpid())) - set(before), timeout=5)[1] == []


def offered(trial):
    """The events that the producer has sent by now."""
    count = len(trial.look().offer.due_ns)
    return trial.trial.workload.schedule()[:count]


def test_what_a_page_is_told_to_do_is_all_that_it_has_to_know(trial, page, widget):
    live = trial("polling", "at-most-once")
    live.start()
    task = widget.task
    assert task["view"] == "view"
    assert (task["protocol"], task["recovers"], task["subscribers"]) == ("polling", False, 2)
    assert live.url.endswith(f":{task['port']}")
    assert task["timings"] == {name: getattr(live.trial.timings, name) for name in task["timings"]}


def test_what_a_page_received_is_audited_with_the_times_it_tells(trial, page):
    live = trial()
    live.start()
    wait_until(lambda: len(offered(live)) >= 10)
    begin = live.look().phases["load"]
    for item in offered(live)[:8]:
        for subscriber in (0, 1):
            page.told([subscriber, "event", item.raw.decode()], at=begin + item.due_ns + 3_000_000)
    recording = live.look()
    assert recording.latencies_ms().tolist() == [3.0] * 16
    assert recording.outcome.delivered == 16
    assert (recording.outcome.unexpected, recording.outcome.corrupt) == (0, 0)
    assert live.error_ms == 0.25


def test_stopped_it_is_an_ordinary_run_and_the_page_is_told_to_rest(trial, page, widget):
    live = trial()
    live.start()
    wait_until(lambda: len(offered(live)) >= 10)
    for item in offered(live)[:8]:
        page.told([0, "event", item.raw.decode()], [1, "event", item.raw.decode()])
    run = live.stop()
    (row,) = run.loss.to_dict("records")
    assert (row["delivered"], row["silent"], row["verdict"]) == (16, row["owed"] - 16, "lossy")
    assert widget.task == {}
    (recording,) = run.recordings
    assert widget.ends == encode_id(int(recording.producer["sequence"][recording.producer["kind"] == Kind.SENT].max()))


def test_while_what_the_page_told_may_wait_in_a_busy_kernel_nothing_is_called_lost(trial, page, monkeypatch):
    monkeypatch.setattr("labkit.walk.SETTLE_LIMIT", 3.0)
    live = trial()
    live.start()
    wait_until(lambda: len(offered(live)) >= 10)
    page.marks = False
    (row,) = live.stop().loss.to_dict("records")
    assert (row["delivered"], row["verdict"]) == (0, "inconclusive")


def test_a_page_that_finds_no_way_is_told_what_to_install_and_nothing_runs(trial, widget):
    with Page(widget, reaches=False):
        live = trial()
        with pytest.raises(TrialError, match="install jupyter-server-proxy"):
            live.start()
    assert widget.task == {}
    with pytest.raises(UsageError, match="has ended"):
        live.look()


def test_subscribers_that_do_not_connect_in_time_are_counted(trial, widget, monkeypatch):
    monkeypatch.setattr(visitor, "CONNECT_LIMIT", 0.5)
    with Page(widget, connects=False):
        live = trial()
        with pytest.raises(TrialError, match=r"0 of 2 subscribers in the page connected within 0\.5 s"):
            live.start()


def test_a_trial_ends_when_its_page_is_gone(trial, page, monkeypatch, widget):
    monkeypatch.setattr(visitor, "GONE", 0.3)
    live = trial()
    live.start()
    live.look()
    page.__exit__()

    def ended():
        try:
            live.look()
        except TrialError as error:
            return "closed or reloaded" in str(error)
        return False

    wait_until(ended)
    assert widget.task == {}


def test_what_is_said_of_an_earlier_task_or_after_the_end_is_not_heard(trial, page, widget):
    live = trial()
    live.start()
    ledger, before = live.ledger.path, len(read(live.ledger.path))
    says(widget, view="view", task=widget.task["id"] - 1, told=[[0, 1, "down", ""]])
    assert len(read(ledger)) == before
    heard = live._heard
    live.close()
    heard({"told": [[0, 1, "down", ""]]})
    says(widget, view="view", task=99, told=[[0, 1, "down", ""]])


def test_the_newest_place_that_shows_the_panel_is_the_one_that_consumes(widget):
    with pytest.raises(UsageError, match="No page shows this"):
        _ = widget.view
    for view in ("first", "second"):
        says(widget, view=view, shown=True, origin=PAGE)
    assert widget.view == ("second", PAGE)
    says(widget, view="second", shown=False)
    assert widget.view == ("first", PAGE)
    says(widget, view="unknown", shown=False)
    says(widget, view="first", shown=False)
    with pytest.raises(UsageError, match="No page shows this"):
        _ = widget.view


def test_the_place_where_something_was_pressed_last_is_the_one_that_consumes(widget):
    for view in ("first", "second"):
        says(widget, view=view, shown=True, origin=PAGE)
    says(widget, view="first", shown=True, pressed=True, origin=PAGE)
    says(widget, view="second", shown=True, origin=PAGE)  # a sign of life
    assert widget.view == ("first", PAGE)
    says(widget, view="second", shown=True, pressed=True, origin=PAGE)
    assert widget.view == ("second", PAGE)


def test_a_place_without_signs_of_life_is_gone(widget, monkeypatch):
    says(widget, view="first", shown=True, origin=PAGE)
    says(widget, view="closed", shown=True, origin=PAGE)
    now = visitor.monotonic()
    monkeypatch.setattr(visitor, "monotonic", lambda: now + visitor.SILENCE - 1)
    says(widget, view="first", shown=True, origin=PAGE)
    assert widget.view == ("closed", PAGE)
    monkeypatch.setattr(visitor, "monotonic", lambda: now + visitor.SILENCE + 1)
    assert widget.view == ("first", PAGE)
    monkeypatch.setattr(visitor, "monotonic", lambda: now + 2 * visitor.SILENCE)
    with pytest.raises(UsageError, match="No page shows this"):
        _ = widget.view


@pytest.mark.parametrize(("protocol", "name"), [("sse", "Last-Event-ID: 00000007"), ("websocket", "after=00000007")])
def test_what_the_producer_was_asked_is_said_connection_by_connection(trial, page, bench, protocol, name):
    live = trial(protocol)
    live.start()
    with closing(Retold(live._place / "producer-2.ledger")) as other:
        other.time_ns = live.look().phases["load"] + 1_500_000_000
        for sequence in (7, NO_SEQUENCE):
            other.write(Kind.CONNECTED, sequence)
        assert asked(live.look(), False) == [f"1.500 s: {name}", "1.500 s: from now on"]


def test_a_poll_is_no_connection(trial, page):
    live = trial("polling")
    live.start()
    assert asked(live.look(), False) == []


class TestRetelling:
    """What one subscriber saw, and what is written down of it."""

    @pytest.fixture
    def told(self, tmp_path):
        """Tells a consumer of one subscriber what came, row by row, and returns what was written."""

        def told(guarantee, *rows, protocol="sse"):
            spec = Trial("t", Measure.LOSS, protocol, Guarantee(guarantee), Workload(subscribers=1), timings=Timings())
            with closing(Retold(tmp_path / "told.ledger")) as ledger:
                consumer = Retelling(spec, ledger)
                for number, (what, text) in enumerate(rows):
                    ledger.time_ns = number + 1
                    consumer.tell(0, what, text)
            self.consumer = consumer
            found = read(tmp_path / "told.ledger")
            return [(Kind(record["kind"]), int(record["sequence"]), int(record["value"])) for record in found]

        return told

    def events(self, *numbers):
        items = {item.sequence: item.raw.decode() for item in Workload().schedule()}
        return [("event", items[number]) for number in numbers]

    @pytest.mark.parametrize(
        ("guarantee", "kinds"),
        [
            ("at-least-once", [Kind.RECEIVED, Kind.RECEIVED, Kind.REPEATED, Kind.RECEIVED]),
            ("at-most-once", [Kind.RECEIVED] * 4),
        ],
    )
    def test_a_repeat_is_dropped_by_its_id_where_it_recovers(self, told, guarantee, kinds):
        written = told(guarantee, *self.events(10, 11, 10, 12))
        assert [kind for kind, _, _ in written] == kinds
        assert [number for _, number, _ in written] == [10, 11, 10, 12]

    def test_a_connection_is_noted_when_it_changes_alone(self, told):
        written = told("at-least-once", *[(what, "") for what in ("up", "up", "down", "down", "up")])
        assert [kind for kind, _, _ in written] == [Kind.CONNECTED, Kind.DISCONNECTED, Kind.CONNECTED]

    def test_a_gap_signal_in_a_stream_is_a_gap(self, told):
        signal = encode_gap(3, 11).decode()
        assert told("at-least-once", ("event", signal), *self.events(11))[:1] == [(Kind.GAP, 3, 11)]
        assert self.consumer.last == [11]

    def test_a_poll_that_is_told_of_a_gap_goes_on_with_the_oldest_event(self, told):
        written = told("at-least-once", ("gap", encode_gap(20, 11).decode()), *self.events(11), protocol="polling")
        assert [kind for kind, _, _ in written] == [Kind.GAP, Kind.RECEIVED]

    @pytest.mark.parametrize("text", ["", "nonsense", '{"type":"labkit.gap"}', "\ud800"])
    def test_what_is_no_event_is_told_apart(self, told, text):
        assert [kind for kind, _, _ in told("at-least-once", ("event", text))] == [Kind.RECEIVED]
        assert self.consumer.last == [None]
