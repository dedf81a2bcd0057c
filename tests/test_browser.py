"""The panel, driven as a page drives it: by clicks, traits and messages. That a browser shows it is tested there."""

import html
import os
import re
import tempfile

import psutil
import pytest
from conftest import family
from pages import Page, says

import labkit as lab
from labkit.browser import MOST, Facts, table
from labkit.errors import UsageError
from labkit.ledger import Kind

FOUND = {
    "reached": True,
    "eventsource_header": False,
    "fetch_header": True,
    "reconnect": {"ms": 204.4, "asked": "1"},
    "eventsources": 6,
    "websockets": 8,
    "of": 8,
}


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path, until):
    """Everything that a test started has ended, and has left nothing outside its folder."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    before = family(os.getpid())
    yield
    assert psutil.wait_procs(set(family(os.getpid())) - set(before), timeout=10)[1] == []


def words(widget):
    return html.unescape(re.sub(r"<[^>]*>", " ", widget.value)).strip()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("webhook",), "cannot be a consumer of webhook: a page cannot listen .* sse, polling, longpolling"),
        (("resthooks",), "cannot be a consumer of resthooks: a page cannot listen"),
        (("pubsub",), "cannot be a consumer of pubsub: this broker speaks no WebSocket"),
        (("carrier pigeon",), "There is no protocol 'carrier pigeon'"),
        (("sse", "twice"), "There is no guarantee 'twice'"),
        (("sse", "at-least-once", 0), "The rate is 0; a page takes 1 to 100 events a second"),
        (("sse", "at-least-once", 101), "The rate is 101"),
        (("sse", "at-least-once", True), "The rate is True"),
        (("sse", "at-least-once", float("nan")), "The rate is nan"),
        (("sse", "at-least-once", "10"), "The rate is '10'"),
        (("sse", "at-least-once", 10, 0), f"subscribers is 0; .* from 1 to {MOST}"),
        (("sse", "at-least-once", 10, MOST + 1), f"subscribers is {MOST + 1}"),
        (("sse", "at-least-once", 10, 1.5), "subscribers is 1.5"),
        (("sse", "at-least-once", 10, True), "subscribers is True"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence_before_anything_starts(given, says):
    with pytest.raises(UsageError, match=says) as caught:
        lab.browser_consumer(*given)
    assert str(caught.value).endswith(".")
    assert ". " not in str(caught.value)


def test_only_what_a_page_can_be_a_consumer_of_can_be_chosen():
    panel = lab.browser_consumer("longpolling", "at-most-once")
    assert panel.protocol.value == "longpolling"
    assert panel.guarantee.value == "at-most-once"
    assert [value for _, value in panel.protocol.options] == ["websocket", "sse", "polling", "longpolling"]
    panel.close()


def test_a_trial_is_started_broken_healed_and_stopped_by_clicks_and_told_in_a_sentence(until):
    panel = lab.browser_consumer("sse", rate=50, subscribers=2)
    with Page(panel.page) as page:
        panel.buttons["start"].click()
        until(lambda: panel.state == "works")
        assert panel.facts.button.disabled
        offered = panel._trial.trial.workload.schedule()
        until(lambda: len(panel._trial._read("producer")) > 40)
        for item in offered[:30]:
            page.told([0, "event", item.raw.decode()], [1, "event", item.raw.decode()])
        page.told([0, "event", offered[0].raw.decode()], [0, "down", ""])
        panel.buttons["cut"].click()
        until(lambda: panel.state == "broken")
        panel.buttons["heal"].click()
        until(lambda: panel.state == "works")
        page.told([0, "up", ""])
        panel.buttons["stop"].click()
        until(lambda: panel.state == "idle", 40)
    (recording,) = panel.run.recordings
    owed = int(recording.outcome.owed.sum())
    assert recording.outcome.delivered == 60
    assert (recording.consumer["kind"] == Kind.REPEATED).sum() == 1
    said = words(panel.status)
    assert re.match(r"In the browser: latency p50 [\d,]+\.\d ms \(its clock is right to ±0\.25 ms\); ", said)
    assert f"of {owed:,} deliveries 60 arrived, {owed - 60:,} were lost and 1 repeated; 1 reconnects." in said
    assert "p99" not in said  # sixty samples do not state it
    assert panel.picture.alt.startswith("Timeline")
    assert not panel.facts.button.disabled
    panel.close()


def test_without_a_page_nothing_starts():
    panel = lab.browser_consumer()
    panel.buttons["start"].click()
    panel._thread.join(20)
    assert panel.state == "idle"
    assert "No page shows this" in words(panel.status)
    panel.close()


def test_a_page_that_finds_no_way_is_told_what_to_install(until):
    panel = lab.browser_consumer("websocket")
    with Page(panel.page, reaches=False):
        panel.buttons["start"].click()
        until(lambda: panel.state == "idle" and panel._thread and not panel._thread.is_alive(), 30)
    assert "install jupyter-server-proxy" in words(panel.status)
    assert 'role="alert"' in panel.status.value
    panel.close()


def test_a_panel_that_is_closed_ends_its_trial(until):
    panel = lab.browser_consumer()
    with Page(panel.page):
        panel.buttons["start"].click()
        until(lambda: panel.state == "works")
        panel.close()
        panel._thread.join(40)
        assert not panel._thread.is_alive()


def test_what_a_page_finds_out_is_shown_as_a_table(until):
    facts = Facts()
    with Page(facts._page, facts=FOUND):
        facts.button.click()
        until(lambda: facts.found)
        facts._thread.join(20)
    assert facts.found == FOUND
    assert facts.said.value == table(FOUND)
    assert "6 of 8 open" in words(facts.said)


def test_facts_need_a_page():
    facts = Facts()
    facts.button.click()
    facts._thread.join(20)
    assert "No page shows this" in words(facts.said)


def test_facts_that_a_page_cannot_find_out_say_why():
    facts = Facts()
    with Page(facts._page, facts={"reached": False}):
        facts.button.click()
        facts._thread.join(20)
    assert "install jupyter-server-proxy" in words(facts.said)


def test_a_page_that_does_not_answer_is_not_waited_for_forever(monkeypatch):
    monkeypatch.setattr("labkit.browser.TRIED_LIMIT", 0.2)
    facts = Facts()
    says(facts._page, view="mute", shown=True, origin="http://localhost:8888")
    facts.button.click()
    facts._thread.join(20)
    assert "did not answer within 0.2 s" in words(facts.said)
    assert facts._page.task == {}


def test_the_table_says_what_was_found_and_nothing_else():
    shown = words(type("Shown", (), {"value": table(FOUND)}))
    assert "it did not arrive" in shown
    assert "with fetch: it arrived" in shown
    assert "after 204 ms (asked for: 200 ms), with Last-Event-ID: 1" in shown
    other = FOUND | {"eventsource_header": True, "reconnect": {"ms": 50, "asked": None}, "eventsources": 8, "of": 9}
    shown = words(type("Shown", (), {"value": table(other)}))
    assert "did not arrive" not in shown
    assert "no Last-Event-ID" in shown
    assert "8 of 9 open" in shown
    nothing = dict.fromkeys(FOUND) | {"of": 8}
    assert words(type("Shown", (), {"value": table(nothing)})).count("no answer in time") == 4
