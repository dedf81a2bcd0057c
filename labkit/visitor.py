"""A page as the consumer of a live trial: it opens the connections, and tells what came and when.

What that means is decided here, by the rules of the lab's own consumers, and audited like theirs. A trial ends when its
page is gone.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic, monotonic_ns
from typing import Any

import traitlets
from anywidget import AnyWidget

from labkit.endless import SHORTEST, Endless
from labkit.errors import TrialError, UsageError
from labkit.event import decode_gap, encode_id
from labkit.ledger import NO_SEQUENCE, Kind, are
from labkit.picture import SILENCE
from labkit.protocols.base import Consumer
from labkit.protocols.sse import MUTE
from labkit.recording import Recording
from labkit.results import Run
from labkit.station import Stopped
from labkit.trial import Guarantee
from labkit.workload import Workload

DATA = Path(__file__).parent / "data"

CONNECT_LIMIT = 15.0
"""Seconds in which a page has to find its way to the lab and connect every subscriber."""

SPARSE = 5
"""Intervals between two events without one, after which a stream behind a proxy is taken for dead; or as the lab's own
consumer takes it, when that is later."""

FRESH_NS = 1_000_000_000
"""As old may the newest mark be that came back from a page, for all that the page has told to be here."""

GONE = 5.0
"""Seconds without a connection to its page after which a trial ends; a page tries to have another one every second."""

UNREACHED = (
    "This page cannot reach the lab's servers, which run beside the kernel: install jupyter-server-proxy beside the "
    "notebook server, or open the notebook on the machine that it runs on."
)


def script(*names: str) -> str:
    """One module out of several files, in this order."""
    return "".join((DATA / f"{name}.js").read_text(encoding="utf-8") for name in names)


Heard = Callable[[Mapping[str, Any]], None]


class Visitor(AnyWidget):
    """A widget whose page does something for the kernel: `task` says what, for one of the places that show it."""

    _css = DATA / "visitor.css"
    task = traitlets.Dict().tag(sync=True)

    def __init__(self) -> None:
        super().__init__()
        self._views: dict[str, tuple[str, float]] = {}
        self._tasks = 0
        self.on_msg(self._on_message)

    @property
    def view(self) -> tuple[str, str]:
        """The place that shows it and its web origin; UsageError where there is none.

        Of several it is the one where something was pressed last, or else the newest; without signs of life it is gone.
        """
        there = [(view, origin) for view, (origin, at) in list(self._views.items()) if monotonic() - at < SILENCE]
        if not there:
            raise UsageError("No page shows this; display it in a notebook that is open in a browser.")
        return there[-1]

    def give(self, view: str, heard: Heard, **task: Any) -> None:
        """Gives a page a task in the place of the one before; `heard` takes, in the kernel's thread, what it says."""
        self._tasks += 1
        self._heard = heard
        self.task = {"view": view, "id": self._tasks, **task}

    def rest(self) -> None:
        """Has the page end what it was given to do."""
        self.task = {}

    def _on_message(self, _: Any, content: Mapping[str, Any], buffers: Any) -> None:
        if content.get("shown"):
            if content.get("pressed"):
                self._views.pop(str(content["view"]), None)  # it is the last one from now on
            self._views[str(content["view"])] = str(content["origin"]), monotonic()
        elif "shown" in content:
            self._views.pop(str(content["view"]), None)
        elif content["task"] == self.task.get("id"):
            self._heard(content)


class Subscribers(Visitor):
    """The subscribers in a page. `asked` is shown there: what the producer was asked for, connection by connection.

    mark: the page sends it back, behind all that it has to tell.
    ends: the id of the last event, once the load is over; who has it waits for nothing more.
    """

    _esm = script("reach", "native", "consumer")
    asked: traitlets.List[Any] = traitlets.List().tag(sync=True)
    since_ns = traitlets.Int().tag(sync=True)
    mark = traitlets.Int().tag(sync=True)
    ends = traitlets.Unicode().tag(sync=True)


class Retelling(Consumer):
    """A consumer that is elsewhere: what it is told of its subscribers, it writes down as if it were its own."""

    async def connect(self, peer: str | None, public: str | None) -> None:
        """It connects by itself."""

    def tell(self, subscriber: int, what: str, text: str) -> None:
        """What a subscriber saw: its connection is `up` or `down`; an `event`; the `gap` that a poll was told of."""
        raw = text.encode(errors="replace")
        if what == "up":
            self.up(subscriber)
        elif what == "down":
            self.down(subscriber, "")
        elif what == "event":
            self.deliver(subscriber, raw)
        elif what == "gap" and (gap := decode_gap(raw)):
            self.ledger.write(Kind.GAP, gap[0], subscriber, gap[1])
            self.last[subscriber] = gap[1] - 1 if gap[1] else None


class FromPage(Endless):
    """A live trial whose subscribers are in a page.

    error_ms: how far off the page's clock may be, at the most. proxied: whether the page comes by the notebook server.
    """

    def __init__(self, page: Subscribers, protocol: str, guarantee: Guarantee | str, workload: Workload) -> None:
        self._view, origin = page.view
        super().__init__(protocol, guarantee, workload, hosted=False, origin=origin)
        self._page = page
        self.error_ms, self.proxied = 0.0, False
        self._unreached, self._marked_ns = False, 0
        self._seen = 0.0

    def start(self) -> None:
        """As any live trial's; then has the page connect, and begins the load."""
        super().start()
        with self._or_close():
            assert self._station is not None
            assert self.ledger is not None
            opened = self._station.node("page").ask("open", origin=self._origin)
            self._consumer = Retelling(self.trial, self.ledger)
            self._page.asked, self._page.since_ns, self._page.ends = [], 0, ""
            timings, rate = self.trial.timings, self.trial.workload.rate
            self._page.give(
                self._view,
                self._heard,
                protocol=self.trial.protocol,
                recovers=self.trial.recovers,
                subscribers=self._consumer.count,
                port=port_of(self.url),
                page=port_of(opened["url"]),
                silence=max(MUTE * timings.heartbeat, SPARSE / rate),
                timings={name: getattr(timings, name) for name in ("poll", "hold", "request", "retry", "retry_limit")},
            )
            self._await_page()
        self.begin()
        self._seen = monotonic()
        self._page.since_ns = self._walk.phases["load"]

    def _await_page(self) -> None:
        until = monotonic() + CONNECT_LIMIT
        while (there := self._consumer.connected) < self._consumer.count:
            if self._unreached:
                raise TrialError(UNREACHED)
            if monotonic() > until:
                raise TrialError(
                    f"{there} of {self._consumer.count} subscribers in the page connected within {CONNECT_LIMIT:g} s."
                )
            if self._stop.wait(0.02):
                raise Stopped

    def _heard(self, content: Mapping[str, Any]) -> None:
        assert self.ledger
        self._unreached = content.get("reached") is False
        self.proxied = content.get("proxied", self.proxied)
        self._marked_ns = content.get("mark", self._marked_ns)
        self.error_ms = max(self.error_ms, content.get("error_ms", 0.0))
        for subscriber, time_ns, what, text in content.get("told", []):
            self.ledger.time_ns = int(time_ns)
            self._consumer.tell(int(subscriber), what, text)

    def look(self) -> Recording:
        """As any live trial's; TrialError, besides, when the page is gone."""
        recording = super().look()
        with self._or_close():
            assert self._station
            if self._station.node("page").ask("status")["sockets"]:
                self._seen = monotonic()
            elif monotonic() - self._seen > GONE:
                raise TrialError("The page that received the events was closed or reloaded, so the trial was ended.")
        self._page.asked = asked(recording, self.proxied)
        return recording

    def _outside(self, since_ns: int) -> dict[str, Any]:
        """As of any subscribers from outside; and what the page told must not wait in a busy kernel to be heard."""
        told = super()._outside(since_ns)
        self._page.mark = monotonic_ns()
        return {**told, "settled": told["settled"] and monotonic_ns() - self._marked_ns < FRESH_NS}

    def stop(self) -> Run:
        """As any live trial's; tells the page, as soon as the load is over, what its last event is."""
        self._check()
        with self._or_close():
            if self.broken:
                self.heal()
            producer, rate = self._walk.stage.nodes["producer"], self.trial.workload.rate
            producer.ask("halt", least=math.ceil(SHORTEST * rate))
            while not producer.ask("status")["done"]:
                if self._stop.wait(0.02):
                    raise Stopped
            self._page.ends = encode_id(self._offer.first + self._offered(self._read("producer")) - 1)
        return super().stop()

    def _end(self) -> None:
        self._page.rest()
        super()._end()


def port_of(url: str) -> int:
    """The port of a URL of the lab."""
    return int(url.rpartition(":")[2])


def asked(recording: Recording, proxied: bool) -> list[str]:
    """What the producer of a stream was asked to go on after, connection by connection.

    Behind a proxy an EventSource may be another one, which names it in its query.
    """
    names = {"sse": "Last-Event-ID or after: {}" if proxied else "Last-Event-ID: {}", "websocket": "after={}"}
    if (name := names.get(recording.trial.protocol)) is None:
        return []
    found, start = recording.producer, recording.phases["load"]
    lines = []
    for record in found[are(found, Kind.CONNECTED)]:
        since = (int(record["time_ns"]) - start) / 1e9
        cursor = name.format(encode_id(int(record["sequence"]))) if record["sequence"] != NO_SEQUENCE else "from now on"
        lines.append(f"{f'{since:.3f} s' if since > 0 else 'before the load'}: {cursor}")
    return lines
