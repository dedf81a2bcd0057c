"""The browser as consumer: a panel whose live trials have their subscribers in the page that shows it.

And what only a browser can show of EventSource, tried in that page; all that is said of it here, the page found out.
"""

import html
import queue
import tempfile
import threading
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from labkit.controls import alert, remark
from labkit.endless import OUTSIDE
from labkit.errors import TrialError, UsageError
from labkit.figures import percentile
from labkit.ledger import Kind, are
from labkit.page import HEADER, RETRY_MS
from labkit.panel import FASTEST, MOST_EVENTS, Panel
from labkit.protocols import find
from labkit.results import Run
from labkit.station import Station
from labkit.trial import Guarantee
from labkit.visitor import UNREACHED, FromPage, Subscribers, Visitor, port_of, script
from labkit.workload import MAX_DURATION, Workload

SAYS = """<b>This page is the consumer.</b> Start, and it opens a native EventSource, WebSocket or fetch for each
    subscriber. Cut the link, heal it, and watch it connect again; then stop, and read what the audit says."""

MOST = 4
"""Subscribers at the most: a browser opens few connections to one server, and a remote notebook needs some of them."""

TRIED_LIMIT = 60.0
"""Seconds in which a page has to have tried everything; it gives each thing a few."""


def browser_consumer(
    protocol: str = "sse",
    guarantee: Guarantee | str = Guarantee.AT_LEAST_ONCE,
    rate: float = 10,
    subscribers: int = 1,
) -> "BrowserConsumer":
    """A panel whose page is the consumer of a live trial, to be broken by hand; display it in a notebook.

    protocol: sse, websocket, polling or longpolling. rate: events per second, 100 at the most. subscribers: 4 at the
    most, all in that page. `.run` is the run of the trial that was stopped last. UsageError for what cannot be.
    """
    row = find(protocol)
    if protocol not in OUTSIDE:
        why = "this broker speaks no WebSocket" if row.brokered else "a page cannot listen for its deliveries"
        raise UsageError(f"A page cannot be a consumer of {protocol}: {why}; choose from {', '.join(OUTSIDE)}.")
    if not _number(rate) or not 1 <= rate <= FASTEST:
        raise UsageError(f"The rate is {rate!r}; a page takes 1 to {FASTEST} events a second here.")
    if not _number(subscribers) or not isinstance(subscribers, int) or not 1 <= subscribers <= MOST:
        raise UsageError(f"subscribers is {subscribers!r}; a page has a whole number of them here, from 1 to {MOST}.")
    workload = Workload(rate, min(MAX_DURATION, MOST_EVENTS / rate), subscribers=subscribers)
    return BrowserConsumer(protocol, Guarantee.named(guarantee), workload)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class BrowserConsumer(Panel):
    """The panel of `browser_consumer`. `page` shows the subscribers, `facts` what only a browser can show."""

    def __init__(self, protocol: str, guarantee: Guarantee, workload: Workload) -> None:
        self._workload = workload
        self._trial: FromPage | None = None
        self.page, self.facts = Subscribers(), Facts()
        super().__init__(self._begun, SAYS, OUTSIDE, protocol, guarantee, workload.subscribers)
        self.children = (*self.children, self.page, self.facts)  # type: ignore[has-type]

    def _enter(self, state: str, words: str | None = None, wrong: bool = False) -> None:
        super()._enter(state, words, wrong)
        self.facts.button.disabled = state != "idle"  # its many connections would get in the way of a trial's

    def _begun(self, protocol: str, guarantee: str) -> FromPage:
        self._trial = FromPage(self.page, protocol, guarantee, self._workload)
        return self._trial

    def verdict(self, run: Run) -> str:
        """What the audit says of a page's trial."""
        assert self._trial
        return verdict(run, self._trial.error_ms, self._trial.proxied)


def verdict(run: Run, error_ms: float, proxied: bool) -> str:
    """What the audit says, in a sentence; a percentile that too few samples state is left out."""
    (recording,) = run.recordings
    outcome, ordered = recording.outcome, recording.latencies_ms()
    shares = {"p50": percentile(ordered, 0.5), "p99": percentile(ordered, 0.99)}
    stated = [f"{name} {value:,.1f} ms" for name, value in shares.items() if value is not None]
    latency = f"latency {', '.join(stated)} (its clock is right to ±{error_ms:.2f} ms)" if stated else "too few events"
    ups = recording.consumer[are(recording.consumer, Kind.CONNECTED)]["subscriber"]
    way = ", by way of jupyter-server-proxy" if proxied else ""
    return (
        f"In the browser{way}: {latency}; of {int(outcome.owed.sum()):,} deliveries {outcome.delivered:,} arrived, "
        f"{outcome.lost:,} were lost and {outcome.duplicated:,} repeated; {len(ups) - len(set(ups.tolist())):,} "
        f"reconnects. The verdict: {outcome.verdict}."
    )


class Facts(widgets.VBox):
    """What only a browser can show of EventSource. `found` is what the page that tried it last found out."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self._thread: threading.Thread | None = None
        self._page = Trier()
        self.button = widgets.Button(
            description="Try it in this page", tooltip="While no trial runs", layout={"width": "max-content"}
        )
        self.button.on_click(lambda _: self._clicked())
        self.said = widgets.HTML()
        title = widgets.HTML("<b>What only a browser can show</b> of EventSource, beside fetch and WebSocket.")
        super().__init__([title, self.button, self._page, self.said])

    def _clicked(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._try, name="labkit facts", daemon=True)
            self._thread.start()

    def _try(self) -> None:
        self.said.value = remark("Trying: it takes some seconds.")
        try:
            self.found = self._page.found()
            self.said.value = table(self.found)
        except (UsageError, TrialError) as error:
            self.said.value = alert(str(error))


class Trier(Visitor):
    """The part of a page that tries things."""

    _esm = script("reach", "facts")

    def found(self) -> dict[str, Any]:
        """What a page finds out; None where nothing came in time. UsageError without a page, TrialError otherwise."""
        view, origin = self.view
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with (
            tempfile.TemporaryDirectory(prefix="labkit-facts-") as folder,
            Station("facts", Path(folder), threading.Event()) as station,
        ):
            opened = station.node("page").ask("open", origin=origin)
            self.give(view, answers.put, page=port_of(opened["url"]))
            try:
                found: dict[str, Any] = answers.get(timeout=TRIED_LIMIT)["facts"]
            except queue.Empty:
                raise TrialError(f"The page did not answer within {TRIED_LIMIT:g} s.") from None
            finally:
                self.rest()
        if not found["reached"]:
            raise TrialError(UNREACHED)
        return found


def table(found: dict[str, Any]) -> str:
    """What a page found out, as a table."""
    many, again = found["of"], found["reconnect"]
    rows = [
        ("", "EventSource", "for comparison"),
        (
            f"A header of the page's own ({HEADER})",
            _arrived(found["eventsource_header"]),
            f"with fetch: {_arrived(found['fetch_header'])}",
        ),
        (
            "The server ends the stream",
            f"back by itself after {again['ms']:,.0f} ms (asked for: {RETRY_MS} ms), with "
            + (f"Last-Event-ID: {again['asked']}" if again["asked"] else "no Last-Event-ID")
            if again
            else "not back in time",
            "",
        ),
        (
            f"{many} connections to one server at once",
            _open(found["eventsources"], many),
            f"WebSocket: {_open(found['websockets'], many)}",
        ),
    ]
    head, *body = ([html.escape(cell) for cell in row] for row in rows)
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = [f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in body]
    return f'<table class="labkit-facts"><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


def _arrived(header: bool | None) -> str:
    return "no answer in time" if header is None else "it arrived" if header else "it did not arrive"


def _open(count: int | None, many: int) -> str:
    return "no answer in time" if count is None else f"{count} of {many} open"
