"""The playground: a panel to break a live trial with, a picture of each event's fate, and how things are in words.

A click is only noted down: one thread carries out the trial and draws, and ends with it. A trial that no page shows any
more is stopped. Nothing is measured here.
"""

import html
import queue
import threading
from collections.abc import Callable, Sequence
from time import monotonic, monotonic_ns
from typing import NamedTuple

import ipywidgets as widgets

from labkit.controls import alert
from labkit.endless import WORKLOAD, Endless
from labkit.errors import TrialError, UsageError
from labkit.fates import FOOT, ROW, ROWS, TOP, decided, fates
from labkit.keys import Keys
from labkit.looks import WIDTH
from labkit.picture import Picture
from labkit.protocols import PROTOCOLS
from labkit.recording import Recording
from labkit.results import Run
from labkit.sheet import MEANING
from labkit.timeline import timeline
from labkit.trial import Guarantee
from labkit.workload import MAX_DURATION, Workload

SAYS = "<b>Break it yourself:</b> start, cut the link, and watch each event; heal it, and see what comes back."

FASTEST = 100
"""Events per second at the most: each is to be seen."""

MOST_EVENTS = 72_000
"""A faster trial lasts shorter: a producer makes all its events before the first is sent."""

PAUSE = 0.25
"""Seconds from one drawing to the next, at the least."""

UNSEEN = 60.0
"""Seconds after which a trial that no page shows is stopped."""

TALL = 390
"""Pixels of the picture at the least: room for the time line of the finished trial too."""

BROKEN = {None: "The link works.", "reset": "The link is cut.", "silent": "The link is frozen."}

Make = Callable[[str, str], Endless]
"""Makes the live trial of a protocol and a guarantee. UsageError for what cannot be."""


class Act(NamedTuple):
    """A button: its label, what it is for, and in which states of the panel it makes sense."""

    label: str
    says: str
    when: tuple[str, ...]
    style: str = ""


ACTS = {
    "start": Act("Start", "Opens a producer, a link and subscribers, and begins to send events", ("idle",), "primary"),
    "cut": Act("Cut (RST)", "Ends every connection with a TCP RST, new ones too, until you heal the link", ("works",)),
    "freeze": Act("Freeze (silence)", "Connections stay open and carry nothing until you heal the link", ("works",)),
    "heal": Act("Heal", "The link works again", ("broken",)),
    "stop": Act("Stop", "Ends the trial, waits for what is under way, and audits it", ("works", "broken")),
}
"""What a click does. The states: idle, busy, and while a trial runs works or broken."""


class Panel(widgets.VBox):
    """Starts, breaks and stops the trials that `make` makes. `run` is the newest that was stopped.

    says: what there is to try. protocols: those there are to choose from.
    """

    def __init__(
        self, make: Make, says: str, protocols: Sequence[str], protocol: str, guarantee: str, subscribers: int
    ) -> None:
        self.run: Run | None = None
        self.state = "idle"
        self._make = make
        self._commands: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._turn = threading.RLock()
        self.protocol = _choice("Protocol", {PROTOCOLS[name].title: name for name in protocols}, protocol)
        meanings = {f"{name} ({MEANING[name]})": str(name) for name in Guarantee}
        self.guarantee = _choice("Guarantee", meanings, str(guarantee))
        self.buttons = {
            name: widgets.Button(description=act.label, tooltip=act.says, button_style=act.style)
            for name, act in ACTS.items()
        }
        for name, button in self.buttons.items():
            button.on_click(lambda _, name=name: self._clicked(name))
        self.status = widgets.HTML()
        self.picture = Picture(WIDTH, max(TALL, TOP + ROW * min(subscribers, ROWS) + FOOT))
        chosen, buttons = widgets.HBox([self.protocol, self.guarantee]), widgets.HBox([*self.buttons.values()])
        for row in (chosen, buttons):
            row.layout.flex_flow = "row wrap"
        super().__init__([widgets.HTML(says), chosen, buttons, self.status, self.picture, Keys()])
        self._enter("idle", "Nothing runs yet: press Start.")

    def _enter(self, state: str, words: str | None = None, wrong: bool = False) -> None:
        """Enables what makes sense in this state, and says how things are."""
        with self._turn:
            self.state = state
            for name, act in ACTS.items():
                self.buttons[name].disabled = state not in act.when
            self.protocol.disabled = self.guarantee.disabled = state != "idle"
            if words:
                self._say(words, wrong)

    def _say(self, words: str, wrong: bool = False) -> None:
        self.status.value = alert(words) if wrong else html.escape(words)

    def _clicked(self, name: str) -> None:
        """Notes a click down; one that no longer makes sense came before its button was seen to be disabled."""
        with self._turn:
            if self.state not in ACTS[name].when:
                return
            self._enter("busy", "Starting." if name == "start" else None)
        if name != "start":
            self._commands.put(name)
            return
        self._commands = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="labkit panel", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the trial too, if one runs."""
        self._commands.put("stop")
        super().close()

    def _work(self) -> None:
        """One trial, from its start to its audit."""
        try:
            with self._make(self.protocol.value, self.guarantee.value) as trial:
                trial.start()
                self._enter("works")
                why = self._watch(trial)
                self._enter("busy", "Stopping: waiting for what is still under way.")
                self.run = trial.stop()
            self.picture.show(timeline(self.run))
            self._enter("idle", why + self.verdict(self.run))
        except (TrialError, UsageError) as error:
            self._enter("idle", str(error), wrong=True)
        except BaseException as error:
            self._enter("idle", f"The panel failed: {type(error).__name__}: {error}", wrong=True)
            raise

    def _watch(self, trial: Endless) -> str:
        """Does as it is told and draws, until the trial is to be stopped; says why, if not because of a click."""
        seen = due = monotonic()
        while (command := self._told(due)) != "stop":
            if command:
                getattr(trial, command)()
                self._enter("broken" if trial.broken else "works")
                continue
            began = monotonic()
            recording, now_ns = trial.look(), monotonic_ns()
            chart = fates(recording, now_ns, trial.broken)
            picture = chart.png()
            self._say(progress(recording, now_ns, trial.broken))  # both at once: drawing takes its time
            self.picture.put(picture, chart.alt)
            due = max(began + PAUSE, 2 * monotonic() - began)
            if trial.over:
                return "All events there were have been sent. "
            if self.picture.views:
                seen = monotonic()
            elif monotonic() - seen > UNSEEN:
                return f"No page has shown this panel for {UNSEEN:g} s. "
        return ""

    def _told(self, until: float) -> str | None:
        """What was clicked next, or None when it is time to draw."""
        try:
            return self._commands.get(timeout=max(0.0, until - monotonic()))
        except queue.Empty:
            return None

    def verdict(self, run: Run) -> str:
        """What the audit says, in words."""
        (recording,) = run.recordings
        outcome = recording.outcome
        again = f", {outcome.duplicated:,} came again" if outcome.duplicated else ""
        open_end = outcome.verdict == "inconclusive"
        lost = "are missing, which is no loss yet: not all had come to rest" if open_end else "were lost"
        return (
            f"Stopped after {recording.seconds:,.0f} s: of {int(outcome.owed.sum()):,} deliveries owed "
            f"{outcome.delivered:,} arrived and {outcome.lost:,} {lost}{again}. Try another guarantee."
        )


def playground(
    protocol: str = "sse",
    guarantee: Guarantee | str = Guarantee.AT_LEAST_ONCE,
    rate: float = 10,
    subscribers: int = 3,
) -> Panel:
    """A panel to start a live trial with, to cut, freeze and heal its link, and to stop it; display it in a notebook.

    rate: events per second, 100 at the most. subscribers: 12 at the most. `.run` is the run of the trial that was
    stopped last. UsageError for what cannot be.
    """
    number = isinstance(rate, int | float) and not isinstance(rate, bool)
    if not number or not 1 <= rate <= FASTEST:
        raise UsageError(f"The rate is {rate!r}; for events that can be seen one by one it is 1 to {FASTEST} a second.")
    workload = Workload(rate, min(MAX_DURATION, MOST_EVENTS / rate), WORKLOAD.size, subscribers)
    if subscribers > ROWS:
        raise UsageError(f"subscribers is {subscribers}; each has a row of its own here, so there are {ROWS} at most.")

    def make(protocol: str, guarantee: str) -> Endless:
        return Endless(protocol, guarantee, workload)

    make(protocol, str(guarantee))
    return Panel(make, SAYS, list(PROTOCOLS), protocol, str(guarantee), subscribers)


def progress(recording: Recording, now_ns: int, broken: str | None) -> str:
    """What has become so far of what was offered since the start, and whether the link works."""
    outcome, begun = recording.outcome, recording.phases["load"]
    here, closed = outcome.arrived_ns > 0, decided(recording, now_ns)
    since = max(0, now_ns - begun) / 1e9
    lost, waiting = int((outcome.owed & ~here & closed).sum()), int((outcome.owed & ~closed).sum())
    return (
        f"Running for {since:.0f} s: {int(outcome.owed.sum()):,} deliveries owed, {outcome.delivered:,} here, "
        f"{lost:,} lost, {waiting:,} not here yet. {BROKEN.get(broken, 'The link is broken.')}"
    )


def _choice(label: str, options: dict[str, str], value: str) -> widgets.Dropdown:
    """A labelled choice; `options`: what is shown, and what it stands for."""
    shown = list(options.items())
    style, layout = {"description_width": "initial"}, {"width": "max-content"}
    return widgets.Dropdown(options=shown, value=value, description=label, style=style, layout=layout)
