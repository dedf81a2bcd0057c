"""The panel, driven as a page drives it, with real processes behind it."""

import html
import os
import re
import signal
import tempfile
import threading
import time

import psutil
import pytest
from conftest import family, wait_until

import labkit as lab
from labkit import panel as panels
from labkit.endless import Endless
from labkit.errors import UsageError
from labkit.panel import ACTS, PAUSE, playground
from labkit.protocols import PROTOCOLS
from labkit.trial import Guarantee

PATIENCE = 60.0
"""Seconds that a busy machine may take to start a trial, or to bring it to rest; only a failing test waits so long."""


class Hand:
    """Somebody in front of a panel."""

    def __init__(self, panel):
        self.panel = panel

    def can(self):
        """What may be clicked."""
        return {name for name, button in self.panel.buttons.items() if not button.disabled}

    def click(self, name):
        self.panel.buttons[name].click()

    def reads(self):
        return html.unescape(re.sub("<[^>]*>", "", self.panel.status.value))

    def sees(self, words):
        wait_until(lambda: re.search(words, self.reads()), PATIENCE)

    def starts(self):
        self.click("start")
        self.sees(r"Running for \d+ s: [1-9][\d,]* deliveries owed")

    def stops(self):
        self.click("stop")
        self.sees("^Stopped after")
        return self.panel.run

    def ended(self):
        """Nothing of the panel's is left, neither thread nor process."""
        self.panel._thread.join(PATIENCE)
        return not self.panel._thread.is_alive() and psutil.wait_procs(family(os.getpid()), timeout=5)[1] == []


@pytest.fixture
def hand(monkeypatch, tmp_path):
    monkeypatch.delenv("LABKIT_NATS", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    hands = []

    def make(*arguments, **more):
        hands.append(Hand(playground(*arguments, **more)))
        return hands[-1]

    yield make
    for one in hands:
        one.panel.close()
        if one.panel._thread:
            assert one.ended()


IDLE, WORKS, BROKEN = {"start"}, {"cut", "freeze", "stop"}, {"heal", "stop"}


@pytest.mark.parametrize(
    ("protocol", "guarantee", "act", "state"),
    [
        ("sse", "at-most-once", "cut", "The link is cut."),
        ("websocket", "at-least-once", "freeze", "The link is frozen."),
        ("webhook", "at-least-once", "cut", "The link is cut."),
        ("pubsub", "at-most-once", "freeze", "The link is frozen."),
    ],
)
def test_a_learner_breaks_the_link_heals_it_and_sees_what_became_of_each_event(hand, protocol, guarantee, act, state):
    mine = hand(protocol, guarantee, rate=40)
    assert (mine.can(), mine.reads()) == (IDLE, "Nothing runs yet: press Start.")
    mine.starts()
    assert mine.can() == WORKS
    assert mine.panel.protocol.disabled
    assert mine.panel.guarantee.disabled
    mine.sees("0 not here yet. The link works.$")
    mine.click(act)
    mine.sees(rf"[1-9]\d* not here yet. {state}$")
    assert mine.can() == BROKEN
    wait_until(lambda: re.search(r"broken: .* not here yet", mine.panel.picture.alt))
    mine.click("heal")
    mine.sees("The link works.$")
    assert mine.can() == WORKS
    mine.sees(" 0 not here yet")
    run = mine.stops()
    assert mine.can() == IDLE
    assert not mine.panel.protocol.disabled
    (row,) = run.loss.to_dict("records")
    assert (row["protocol"], row["guarantee"], row["outage"]) == (
        protocol,
        guarantee,
        {"cut": "reset"}.get(act, "silent"),
    )
    assert row["verdict"] in ("complete", "lossy")
    assert (
        f"of {row['owed']:,} deliveries owed {row['delivered']:,} arrived and {row['lost']:,} were lost" in mine.reads()
    )
    assert mine.panel.picture.alt.startswith("Timeline: what became of each event")
    assert mine.ended()


def test_a_second_trial_has_what_was_chosen_for_it_and_only_one_runs_at_a_time(hand):
    mine = hand("sse", "at-most-once")
    mine.starts()
    first = mine.panel._thread
    mine.click("start")
    assert mine.panel._thread is first
    mine.stops()
    mine.panel.protocol.value, mine.panel.guarantee.value = "polling", "durable"
    mine.starts()
    run = mine.stops()
    assert run.loss[["protocol", "guarantee"]].values.tolist() == [["polling", "durable"]]


def test_a_click_that_comes_twice_or_too_late_does_nothing_more(hand):
    mine = hand()
    for name in ("cut", "freeze", "heal", "stop"):
        mine.click(name)
    assert mine.reads() == "Nothing runs yet: press Start."
    mine.starts()
    mine.click("heal")
    mine.click("cut")
    mine.click("cut")
    mine.click("freeze")
    mine.sees("The link is cut.$")
    (recording,) = mine.stops().recordings
    assert len(recording.outcome.windows) == 1


def test_a_click_waits_for_nothing_that_the_trial_does(hand, monkeypatch):
    mine, go_on = hand(), threading.Event()
    for name in ("start", "cut", "stop"):
        method = getattr(Endless, name)
        monkeypatch.setattr(Endless, name, lambda self, method=method: go_on.wait(PATIENCE) and method(self))
    for name, state in (("start", "The link works.$"), ("cut", "The link is cut.$"), ("stop", "^Stopped after")):
        mine.click(name)
        assert mine.can() == set()
        go_on.set()
        mine.sees(state)
        go_on.clear()


def test_a_click_while_the_trial_ends_leaves_no_panel_that_is_busy_for_good(hand, monkeypatch):
    mine = hand()
    mine.panel._enter("works")
    ends = threading.Thread(target=mine.panel._enter, args=("idle", "It has ended."))

    class Meanwhile(tuple):
        """A trial ends while it is asked whether a click makes sense."""

        __slots__ = ()

        def __contains__(self, state):
            if not ends.ident:
                ends.start()
                ends.join(0.5)
            return super().__contains__(state)

    monkeypatch.setitem(ACTS, "cut", ACTS["cut"]._replace(when=Meanwhile(("works",))))
    mine.click("cut")
    ends.join(10)
    assert (mine.panel.state, mine.can()) == ("idle", IDLE)


def test_the_picture_is_drawn_anew_at_most_four_times_a_second(hand, monkeypatch):
    mine, times = hand(), []
    mine.panel.picture.observe(lambda _: times.append(time.monotonic()), "png")
    mine.starts()
    wait_until(lambda: len(times) > 8)
    shown = list(times)
    assert shown[8] - shown[0] > 8 * PAUSE * 0.8


def test_the_words_and_the_picture_always_say_the_same_even_while_the_next_is_drawn(hand, monkeypatch):
    mine, seen, draw = hand(rate=40), [], panels.fates

    def drawing(*arguments):
        seen.append((mine.reads(), mine.panel.picture.alt))
        return draw(*arguments)

    monkeypatch.setattr(panels, "fates", drawing)
    mine.starts()
    mine.click("cut")
    mine.sees(r"[1-9]\d* not here yet. The link is cut.$")
    wait_until(lambda: len(seen) > 5)
    for said, shown in [pair for pair in seen if pair[0].startswith("Running")]:
        seconds, owed = re.match(r"Running for (\d+) s: ([\d,]+) deliveries owed", said).groups()
        assert f" {seconds} s into the load" in shown
        assert f"Since the start {owed} deliveries owed" in shown
        (waiting,) = re.findall(r"([\d,]+) not here yet", said)
        assert (f" {waiting} not here yet" in shown) is (waiting != "0")


def test_a_trial_that_no_page_shows_any_more_is_stopped(hand, monkeypatch):
    monkeypatch.setattr(panels, "UNSEEN", 1.0)
    mine = hand()
    picture = mine.panel.picture
    picture._heard(None, {"view": "a", "shown": True}, None)
    mine.starts()
    mine.sees(r"Running for ([2-9]|\d\d) s")  # as long as it is shown it runs
    picture._heard(None, {"view": "a", "shown": False}, None)
    mine.sees("^No page has shown this panel for 1 s. Stopped after")
    assert mine.can() == IDLE
    assert mine.ended()


def test_a_process_that_dies_is_one_sentence_and_the_panel_can_start_again(hand):
    mine = hand()
    mine.starts()
    victim = next(p for p in family(os.getpid()) if p.cmdline()[-1] == "producer")
    victim.send_signal(signal.SIGKILL)
    mine.sees("^⚠ The producer process ended")
    assert 'role="alert"' in mine.panel.status.value
    assert mine.can() == IDLE
    assert mine.ended()
    mine.starts()
    mine.stops()


def test_a_broker_that_cannot_be_used_is_one_sentence(hand, monkeypatch, closed_port):
    monkeypatch.setenv("LABKIT_NATS", f"nats://127.0.0.1:{closed_port}")
    mine = hand("pubsub")
    mine.click("start")
    mine.sees("^⚠ No NATS server answers at")
    assert mine.can() == IDLE
    assert mine.ended()


def test_a_fast_trial_that_has_sent_all_it_had_says_so_and_is_audited(hand, monkeypatch):
    monkeypatch.setattr("labkit.panel.MOST_EVENTS", 100)
    mine = hand(rate=100, subscribers=1)
    mine.click("start")
    mine.sees("^All events there were have been sent. Stopped after 1 s: of 100 deliveries owed 100 arrived")


def test_what_had_not_come_to_rest_is_missing_and_not_called_lost(hand, monkeypatch):
    monkeypatch.setattr("labkit.walk.SETTLE_LIMIT", 0.0)
    mine = hand(rate=40)
    mine.starts()
    mine.stops()
    assert re.search(r"arrived and [\d,]+ are missing, which is no loss yet", mine.reads())


def test_a_panel_that_is_closed_ends_its_trial(hand):
    mine = hand()
    mine.starts()
    mine.panel.close()
    assert mine.ended()


def test_everything_has_a_label_and_says_what_it_does(hand):
    panel = hand().panel
    assert [panel.protocol.description, panel.guarantee.description] == ["Protocol", "Guarantee"]
    assert [value for _, value in panel.protocol.options] == list(PROTOCOLS)
    assert [value for _, value in panel.guarantee.options] == list(Guarantee)
    for name, act in ACTS.items():
        assert panel.buttons[name].description == act.label
        assert panel.buttons[name].tooltip == act.says
    assert (panel.protocol.value, panel.guarantee.value) == ("sse", "at-least-once")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"protocol": "gopher"}, "There is no protocol 'gopher'"),
        ({"guarantee": "twice"}, "There is no guarantee 'twice'"),
        ({"rate": 0}, "The rate is 0; for events that can be seen one by one it is 1 to 100 a second."),
        ({"rate": "fast"}, "The rate is 'fast'"),
        ({"rate": float("nan")}, "The rate is nan"),
        ({"subscribers": 0}, "subscribers is 0; it has to be a whole number from 1"),
        ({"subscribers": 13}, "subscribers is 13; each has a row of its own here, so there are 12 at most."),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence_before_anything_starts(arguments, words):
    threads = threading.active_count()
    with pytest.raises(UsageError) as caught:
        lab.playground(**arguments)
    assert words in str(caught.value)
    assert threading.active_count() == threads
