"""The page as the consumer: native connections through a link that breaks, and the audit of what the page received."""

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from browser.conftest import JUPYTERLAB
from browser.lab import ERRORS, Lab
from browser.server import LIMIT, Server, wait_until
from labkit.ledger import NO_SEQUENCE, Kind
from labkit.panel import ACTS
from labkit.recording import Recording
from labkit.results import Run

if TYPE_CHECKING:
    from playwright.sync_api import Locator

OPEN = "import labkit as lab\npanel = lab.browser_consumer({!r}, {!r}, rate=20, subscribers={})\npanel"
FOLDER, URL = "print(panel.run.folder)", "print(panel._trial.url)"
LABELS = {name: act.label for name, act in ACTS.items()} | {"try": "Try it in this page"}
REMOTE = "lab.test"
"""A name that this browser takes for this machine, and that is none of those by which a page knows its own."""


class Consumer:
    """The panel in the first cell of a notebook; the second tells the run's folder, the third a live trial's URL."""

    def __init__(self, lab: Lab, protocol: str, guarantee: str = "at-least-once", subscribers: int = 2) -> None:
        self.lab, self.page, self.subscribers = lab, lab.page, subscribers
        lab.open(OPEN.format(protocol, guarantee, subscribers), FOLDER, URL)
        lab.run(0)

    def click(self, name: str) -> None:
        self.page.get_by_role("button", name=LABELS[name], exact=True).click()

    def says(self, words: str, limit: float = LIMIT) -> str:
        """What the panel says, once that matches."""
        said = self.lab.cell(0).locator(".widget-html-content", has_text=re.compile(words))
        said.last.wait_for(timeout=limit * 1000)
        return str(said.last.inner_text())

    def start(self) -> None:
        self.click("start")
        self.says("Running for")
        self.here(20)

    def here(self, more: int) -> None:
        """Waits until so many more deliveries have arrived."""
        until = self.count("here") + more
        wait_until(lambda: self.count("here") >= until, lambda: self.says("owed"))

    def missing(self, count: int) -> None:
        """Waits until so many deliveries are owed that have not arrived."""
        wait_until(lambda: self.count("not here yet") >= count, lambda: self.says("owed"))

    def count(self, what: str) -> int:
        found = re.search(rf"([\d,]+) {what}", self.says("Running for"))
        return int(found[1].replace(",", "")) if found else 0

    def row(self, subscriber: int) -> "Locator":
        return self.page.get_by_role("table").first.get_by_role("row").nth(subscriber + 1)

    def stop(self) -> Recording:
        """Stops the trial; returns what was recorded."""
        self.click("stop")
        self.says("The verdict", 2 * LIMIT)
        (recording,) = Run(self.printed(1)).recordings
        return recording

    def printed(self, cell: int) -> str:
        return str(self.lab.run(cell).locator(".jp-OutputArea-output").inner_text()).strip()


Open = Callable[..., Consumer]


@pytest.fixture
def consumer(lab: Lab) -> Iterator[Open]:
    yield lambda *given, **more: Consumer(lab, *given, **more)
    assert lab.page.locator(ERRORS).all_inner_texts() == []


def cursors(recording: Recording) -> list[int]:
    """What the producer was asked to go on after, connection by connection; -1 for nothing."""
    found = recording.producer["sequence"][recording.producer["kind"] == Kind.CONNECTED]
    return [-1 if sequence == NO_SEQUENCE else int(sequence) for sequence in found]


def had(recording: Recording, subscriber: int) -> int:
    """The newest event that a subscriber had when it was cut off."""
    mine = recording.consumer[recording.consumer["subscriber"] == subscriber]
    down = int(np.flatnonzero(mine["kind"] == Kind.DISCONNECTED)[0])
    return int(mine["sequence"][:down][mine["kind"][:down] == Kind.RECEIVED].max())


def times(recording: Recording, kind: Kind) -> int:
    return int((recording.consumer["kind"] == kind).sum())


@pytest.mark.parametrize("protocol", ["sse", "websocket", "polling", "longpolling"])
def test_a_page_gets_every_event_although_the_link_is_cut(consumer: Open, protocol: str) -> None:
    panel = consumer(protocol)
    panel.start()
    panel.click("cut")
    panel.missing(20)
    panel.says("The link is cut")
    panel.click("heal")
    wait_until(lambda: panel.count("not here yet") < 5)
    panel.here(20)
    assert [panel.row(number).get_by_role("cell").nth(1).inner_text() for number in (0, 1)] == ["open", "open"]
    panel.lab.shot(f"consumer-{protocol}")
    recording = panel.stop()
    outcome = recording.outcome
    assert (outcome.lost, outcome.verdict, len(outcome.windows)) == (0, "complete", 1)
    assert (outcome.unexpected, outcome.corrupt, outcome.reordered) == (0, 0, 0)
    assert times(recording, Kind.CONNECTED) >= 2 * panel.subscribers
    if protocol in ("sse", "websocket"):
        first, again = cursors(recording)[: panel.subscribers], cursors(recording)[-panel.subscribers :]
        assert first == [-1] * panel.subscribers
        assert sorted(again) == sorted(had(recording, subscriber) for subscriber in range(panel.subscribers))
    found = re.search(r"latency p50 ([\d.,]+) ms.*±([\d.]+) ms", panel.says("The verdict"))
    assert found
    p50, error = (float(text.replace(",", "")) for text in found.groups())
    assert 0 < error < 50
    assert recording.latencies_ms()[0] >= -error  # nothing arrives before it is due
    assert p50 == pytest.approx(np.median(recording.latencies_ms()), rel=0.2)


def test_a_native_eventsource_without_ids_goes_on_from_now_and_the_page_is_told_what_it_lost(consumer: Open) -> None:
    panel = consumer("sse", "at-most-once")
    panel.start()
    panel.click("cut")
    panel.missing(20)
    panel.click("heal")
    panel.here(20)
    recording = panel.stop()
    assert recording.outcome.lost >= 20
    assert recording.outcome.verdict == "lossy"
    assert set(cursors(recording)) == {-1}


def test_what_was_held_back_by_a_frozen_link_comes_when_it_is_healed(consumer: Open) -> None:
    panel = consumer("sse", subscribers=1)
    panel.start()
    panel.click("freeze")
    panel.missing(10)
    panel.click("heal")
    panel.here(20)
    recording = panel.stop()
    assert (recording.outcome.lost, recording.outcome.verdict) == (0, "complete")


REFUSED = """async ({url, ws}) => {
    const fetched = await fetch(url + "/events/latest").then(() => "answered", (error) => error.name);
    const source = new EventSource(url + "/events");
    const stream = await new Promise((resolve) => {
        source.onopen = () => resolve("open");
        source.onerror = () => resolve(source.readyState === EventSource.CLOSED ? "closed for good" : "trying again");
    });
    const socket = new WebSocket(ws);
    const socketed = await new Promise((resolve) => {
        socket.onopen = () => resolve("open");
        socket.onclose = () => resolve("closed");
    });
    source.close();
    socket.close();
    return [fetched, stream, socketed];
}"""
"""What a page of another origin gets that tries everything."""


@pytest.mark.parametrize("protocol", ["sse", "websocket"])
def test_a_page_of_another_origin_gets_nothing(consumer: Open, lab: Lab, protocol: str) -> None:
    panel = consumer(protocol, subscribers=1)
    panel.start()
    url = panel.printed(2)
    mine = lab.page.evaluate("location.origin")
    foreign = mine.replace("localhost", "127.0.0.1") if "localhost" in mine else mine.replace("127.0.0.1", "localhost")
    other = lab.page.context.new_page()
    other.goto(f"{foreign}/static/favicons/favicon.ico")
    assert other.evaluate("location.origin") == foreign
    place = url.partition("://")[2]
    got = other.evaluate(REFUSED, {"url": f"http://{place}", "ws": f"ws://{place}"})
    other.close()
    assert got == ["TypeError", "closed for good", "closed"]
    recording = panel.stop()
    # It was never a subscriber either.
    assert len(cursors(recording)) == 1
    assert recording.outcome.verdict == "complete"


def test_what_only_a_browser_can_show_is_tried_and_told(consumer: Open) -> None:
    panel = consumer("sse", subscribers=1)
    panel.click("try")
    table = panel.page.locator("table.labkit-facts")
    table.wait_for(timeout=LIMIT * 1000)
    rows = [row.split("\t") for row in table.inner_text().splitlines()]
    header, ends, many = rows[1:]
    assert header[1:] == ["it did not arrive", "with fetch: it arrived"]
    assert re.fullmatch(r"back by itself after \d+ ms \(asked for: 200 ms\), with Last-Event-ID: 1", ends[1])
    assert many[1:] == ["6 of 8 open", "WebSocket: 8 of 8 open"]
    table.scroll_into_view_if_needed()
    panel.lab.shot("consumer-facts")
    panel.lab.wait_nothing_left(set())


class TestNothingIsLeft:
    """A trial is on when its page goes."""

    @pytest.fixture
    def ports(self, consumer: Open, lab: Lab) -> set[int]:
        consumer("sse").start()
        return lab.server.ports()

    def test_when_the_page_is_loaded_again(self, lab: Lab, ports: set[int]) -> None:
        lab.reload()
        lab.wait_nothing_left(ports)

    def test_when_the_cell_with_the_panel_is_run_again(self, lab: Lab, ports: set[int]) -> None:
        lab.run(0)
        lab.wait_nothing_left(ports)

    def test_when_the_kernel_restarts(self, lab: Lab, ports: set[int]) -> None:
        lab.restart_kernel()
        lab.wait_nothing_left(ports)


class Remote(Lab):
    """A JupyterLab that the page does not know to be on its own machine."""

    def visit(self, path: str) -> None:
        base, _, token = self.server.url.partition("?")
        self.page.goto(f"{re.sub('localhost|127.0.0.1', REMOTE, base)}/tree/{path}?{token}&reset")
        self.wait_idle()


@pytest.fixture(scope="module")
def extended(browser: Any, tmp_path_factory: pytest.TempPathFactory, request: Any) -> Iterator[Server]:
    """With or without jupyter-server-proxy, as the parameter says."""
    pytest.importorskip("jupyter_server_proxy", reason="jupyter-server-proxy is not installed")
    more = f"--ServerApp.jpserver_extensions=jupyter_server_proxy={request.param}"
    folder = tmp_path_factory.mktemp("remote")
    with Server(folder, *JUPYTERLAB, "--ServerApp.allow_remote_access=True", more) as server:
        yield server


@pytest.fixture
def remote(extended: Server, page: Any) -> Iterator[Remote]:
    remote = Remote(extended, page)
    yield remote
    remote.close()


def reconnects(panel: Consumer) -> tuple[int, int]:
    """How many there were, as the page's table tells and as the sentence after Stop does."""
    said = re.search(r"([\d,]+) reconnects", panel.says("The verdict"))
    assert said
    table = sum(int(panel.row(n).get_by_role("cell").nth(4).inner_text()) for n in range(panel.subscribers))
    return table, int(said[1].replace(",", ""))


@pytest.mark.parametrize("extended", [True], indirect=True)
@pytest.mark.parametrize(
    ("protocol", "guarantee"),
    [
        ("sse", "at-least-once"),
        ("sse", "at-most-once"),
        ("websocket", "at-least-once"),
        ("longpolling", "at-least-once"),
    ],
)
def test_a_remote_page_comes_by_way_of_the_proxy_and_goes_on_too(remote: Remote, protocol: str, guarantee: str) -> None:
    panel = Consumer(remote, protocol, guarantee)
    panel.start()
    panel.click("cut")
    panel.missing(20)
    panel.click("heal")
    panel.here(60)
    recording = panel.stop()
    assert "by way of jupyter-server-proxy" in panel.says("The verdict")
    verdict = "complete" if guarantee == "at-least-once" else "lossy"
    assert (recording.outcome.lost > 0, recording.outcome.verdict) == (verdict == "lossy", verdict)
    in_table, in_words = reconnects(panel)
    assert in_table == in_words
    # One each, and not one for each handshake of a proxy that has nobody behind it.
    assert panel.subscribers <= in_words <= 3 * panel.subscribers


@pytest.mark.parametrize("extended", [False], indirect=True)
def test_a_remote_page_without_the_proxy_says_what_to_install_and_nothing_runs(remote: Remote) -> None:
    panel = Consumer(remote, "sse")
    for name in ("start", "try"):
        panel.click(name)
        panel.says("install jupyter-server-proxy beside the notebook server, or open the notebook on the machine")
        remote.wait_nothing_left(set())
    remote.shot("consumer-remote")
