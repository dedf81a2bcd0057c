"""Sequence: one subscriber's trial as a diagram, from its ledgers: time runs downwards, every event is an arrow.

Promises that an arrow begins when its event was sent and ends when it arrived, or in a cross when it was lost.
It never says where on the way that was, for no ledger does.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from labkit.audit import Fate
from labkit.errors import UsageError
from labkit.ledger import Kind
from labkit.looks import INK, MARGIN, RULE, SOFT, WIDTH, Chart
from labkit.losses import FATES, LOST
from labkit.outage import OUTAGES, Strikes
from labkit.protocols import PROTOCOLS
from labkit.results import Run, opened
from labkit.sheet import Group, Groups, draw, heading, outage_of
from labkit.story import Story, ids, story
from labkit.timeline import SHADE
from labkit.trial import Guarantee, Measure, Trial

MOST, FEW = 200, 30
"""Events that one diagram shows at most: with more, no arrow could be told from the next."""

SHOWN = (Measure.LOSS, Measure.BANDWIDTH, Measure.COST, Measure.LATENCY)
"""Whose trial is taken first. In a duplex trial the consumer begins, and what is sent is not what arrives."""

GUTTER, LEFT, RIGHT, HEAD, EDGE, NEAR = 44, 98, 100, 68, 16, 7
"""Pixels: the axis of time, the words beside the lifelines, what stands above the panel, its inner edge, too close."""

LINK, GREY = 0.3, "#8b949e"
"""Where between the last two lifelines the link stands, and the colour of what else it carries."""

SMALL: dict[str, Any] = {
    "fontsize": 8,
    "va": "center_baseline",
    "path_effects": [withStroke(linewidth=2.5, foreground="white")],
}
Timed = TypeVar("Timed", bound=tuple[Any, ...])


def sequential(trial: Trial) -> bool:
    """Whether a trial has one subscriber, and few enough events to draw each on a page."""
    load = trial.workload
    return load.subscribers == 1 and not load.trace and load.rate * load.duration <= FEW


def sequence(
    run: Run | Path | str,
    protocol: str | None = None,
    guarantee: Guarantee | str | None = None,
    subscriber: int = 0,
    seconds: tuple[float, float] | None = None,
    outage: str | None = None,
) -> Chart:
    """What went between producer, broker and one subscriber: each guarantee beside the other, time downwards.

    By default the run's only protocol, all its guarantees and its first kind of outage. seconds: the part of the load
    to zoom in on. UsageError where the run has no such trial, subscriber or time, or the part has over `MOST` events.
    """
    run = opened(run)
    there = [found.trial.protocol for measure in SHOWN for found in run.of(measure)]
    if protocol is None and len(set(there)) > 1:
        raise UsageError(f"A sequence shows one protocol; choose from {', '.join(dict.fromkeys(there))}.")
    protocol = _pick("protocol", protocol, there)
    by_measure = ([r for r in run.of(m) if r.trial.protocol == protocol] for m in SHOWN)
    mine = next(filter(None, by_measure), [])
    kind = _pick("outage", outage, [outage_of(found.trial) for found in mine])
    mine = [found for found in mine if outage_of(found.trial) == kind]
    if guarantee is not None:
        _pick("guarantee", Guarantee.named(guarantee), [found.trial.guarantee for found in mine])
        mine = [found for found in mine if found.trial.guarantee == guarantee]
    first, last = (pick((found.trial.repeat for found in mine), default=1) for pick in (min, max))
    mine = [found for found in mine if found.trial.repeat == first]
    stories = {found.trial: story(found, subscriber) for found in mine}
    ends = [message.arrived or message.sent for told in stories.values() for message in told.messages]
    since, until = _part(seconds, max([0.001, *ends, *(found.seconds for found in mine)]))
    shown = max((sum(since <= m.sent <= until for m in told.messages) for told in stories.values()), default=0)
    if shown > MOST:
        part = f"seconds=({since:g}, {since + (until - since) * MOST / shown:.2g})"
        raise UsageError(f"A sequence shows at most {MOST} events and here are {shown:,}; zoom in, as with {part}.")
    tall = float(np.clip(44 * shown, 380, 720))

    def body(chart: Chart, groups: Groups, top: float) -> None:
        _legend(chart, top + 4, groups, {message.fate for told in stories.values() for message in told.messages})
        left, wide = MARGIN + GUTTER, (WIDTH - 2 * MARGIN - GUTTER) / len(groups)
        for number, (guarantee, (group, *_)) in enumerate(groups.items()):
            heading(chart, left + number * wide, top + 34, guarantee)
            axes = chart.panel(left + number * wide, top + 34 + HEAD, wide - 14, tall)
            _Page(axes, group, stories[group.trial], since, until).draw(number == 0)
            chart.alt += f" {str(guarantee).capitalize()}: {_told(stories[group.trial])}."

    hosts = mine[0].trial.workload.subscribers if mine else 1
    said = {
        f"This is subscriber {subscriber}, of those from 0 to {hosts - 1}.": hosts > 1,
        f"Of {last} repeats the first is shown.": last > first,
    }
    grey = "what else the link carried" if hosts == 1 else "what the link carried towards the producer, for everybody"
    note = f"""{" ".join(words for words, true in said.items() if true)} Numbers: the last three digits of event ids. A
        cross says that an event was lost, not where: no ledger tells. Grey: {grey}, in TCP stream bytes; chunks close
        together are one arrow, set off a little from those of events, and left out where there is no room."""
    name = f"{PROTOCOLS[protocol].title}, " if protocol else ""
    title, measure = f"Sequence: {name}what went from whom to whom, and when?", Measure.LOSS
    measure = mine[0].trial.measure if mine else measure
    return draw(run, measure, title, note, lambda _: 34 + HEAD + tall + 14, body, lambda trial: trial in stories)


def _pick(what: str, wanted: str | None, there: Sequence[str]) -> str:
    """The wanted one, or the first there is; UsageError where it is not there."""
    if wanted is not None and there and wanted not in there:
        choice = ", ".join(dict.fromkeys(there))
        raise UsageError(f"This run has no {what} {str(wanted)!r} to show; choose from {choice}.")
    return wanted or next(iter(there), "")


def _part(wanted: tuple[float, float] | None, ends: float) -> tuple[float, float]:
    """The part of the load to show, in seconds."""
    try:
        since, until = map(float, wanted or (0.0, ends))
    except (TypeError, ValueError):
        since = until = 0.0
    if not 0 <= since < min(until, ends):
        raise UsageError(f"seconds is {wanted!r}; it has to be (from, to), within the 0 to {ends:.3g} s of this load.")
    return since, until


class _Page:
    """One trial's panel, in pixels: lifelines, and what goes between them."""

    def __init__(self, axes: Axes, group: Group, told: Story, since: float, until: float) -> None:
        self.axes, self.group, self.told, self.since, self.until = axes, group, told, since, until
        self.trial, self.row, self.colour = group.trial, PROTOCOLS[group.trial.protocol], group.look.colour
        self.wide, self.tall = float(axes.bbox.width), float(axes.bbox.height)
        axes.set(xlim=(0, self.wide), ylim=(self.tall, 0))
        axes.set_axis_off()
        self.producer, self.consumer = float(LEFT), self.wide - RIGHT
        self.source = (self.producer + self.consumer) / 2 if self.row.brokered else self.producer
        self.link = self.source + LINK * (self.consumer - self.source)
        self.taken: list[Bbox] = []
        shown = sum(map(self.shown, (message.sent for message in told.messages)))
        self.weight = float(np.clip(self.tall / (6 * max(shown, 1)), 0.5, 1.3))

    def draw(self, first: bool) -> None:
        self.frame(first)
        self.outages()
        self.events()
        self.notices()
        self.traffic()

    def y(self, at: float) -> float:
        return EDGE + (at - self.since) / (self.until - self.since) * (self.tall - 2 * EDGE)

    def shown(self, at: float) -> bool:
        return self.since <= at <= self.until

    def broken(self, y: float) -> bool:
        """Whether that height lies in an outage."""
        return any(self.y(a) < y < self.y(self.until if b is None else b) for a, b in self.told.windows)

    def near(self, items: Iterable[Timed]) -> list[list[Timed]]:
        """Those shown, in order of time, which comes first in each; those together that lie too close."""
        groups: list[list[Timed]] = []
        for item in sorted(item for item in items if self.shown(item[0])):
            if groups and self.y(item[0]) - self.y(groups[-1][0][0]) < NEAR:
                groups[-1].append(item)
            else:
                groups.append([item])
        return groups

    def say(self, x: float, y: float, words: str, shifts: Sequence[float] = (0,), **how: Any) -> None:
        """Writes at the first of the shifts where nothing is written yet; where there is no room, not at all."""
        for shift in shifts:
            text = self.axes.text(x, y + shift, words, **{**SMALL, "zorder": 6, **how})
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in self.taken):
                self.taken.append(box)
                return
            text.remove()

    def arrow(self, start: tuple[float, float], end: tuple[float, float], label: str, **how: Any) -> None:
        how = {
            "arrowstyle": "-|>",
            "mutation_scale": 7 * self.weight,
            "lw": self.weight,
            "zorder": 3,
            "color": self.colour,
            **how,
        }
        self.axes.add_patch(FancyArrowPatch(start, end, label=label, shrinkA=0, shrinkB=0, **how))

    def frame(self, first: bool) -> None:
        """The axis of time, and the lifelines with who listens and who dials."""
        unit, factor = ("ms", 1000) if self.until - self.since < 0.5 else ("s", 1)
        for at in filter(self.shown, MaxNLocator(8).tick_values(self.since, self.until)):
            self.axes.axhline(self.y(at), color=RULE, lw=0.6, zorder=0)
            if first:
                how = {**SMALL, "ha": "right", "color": SOFT}
                self.axes.text(-6, self.y(at), f"{at * factor:g} {unit}", **how)
        row, box = self.row, {"boxstyle": "round,pad=0.4", "fc": "white", "ec": self.group.ink, "lw": 1.2}
        lines = [
            ("producer", self.producer, row.producer_serves, row.brokered or row.consumer_serves),
            ("consumer", self.consumer, row.consumer_serves, row.brokered or row.producer_serves),
            *([("broker", self.source, True, False)] if row.brokered else []),
        ]
        for name, x, serves, dials in lines:
            self.axes.vlines(x, -8, self.tall, color=INK, lw=1.2, zorder=2, clip_on=False)
            self.axes.text(x, -36, name, ha="center", va="center", fontweight="bold", bbox=box)
            words = " and ".join(["server"] * serves + ["client"] * dials)
            self.axes.text(x, -15, words, **{**SMALL, "ha": "center", "color": SOFT})
        if self.trial.linked:
            self.axes.vlines(self.link, 0, self.tall, color=GREY, lw=1, ls=(0, (1, 2.5)), zorder=1)
            self.axes.text(self.link, self.tall + 9, "link", **{**SMALL, "ha": "center", "color": SOFT})

    def outages(self) -> None:
        """What is struck has no lifeline while an outage lasts."""
        places = (self.link, self.consumer, self.producer, self.source)
        for begin, end in self.told.windows:
            top = self.y(max(begin, self.since))
            bottom = self.y(self.until if end is None else min(end, self.until))
            if self.trial.outage is None or bottom <= top:
                continue
            kind, strikes = self.trial.outage.kind, self.trial.outage.strikes
            self.axes.axhspan(top, bottom, color=SHADE, lw=0, zorder=-1, label="outage")
            x = dict(zip(Strikes, places, strict=True))[strikes]
            self.axes.vlines(x, top, bottom, color=SHADE, lw=3, zorder=2)
            names = [f"outage: {kind} ({OUTAGES[kind].short})", f"outage: {kind}", f"outage:\n{kind}", "outage"]
            fitting = [words for words in names if 7 * max(map(len, words.split("\n"))) < bottom - top]
            for words in fitting[:1]:
                how: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "center", "fontweight": "bold"}
                self.say(15, (top + bottom) / 2, words, **how)

    def events(self) -> None:
        """An arrow for each event, over the broker where there is one; a lost one ends in a cross."""
        down = self.trial.outage is not None and self.trial.outage.strikes is Strikes.BROKER
        for message in self.told.messages:
            if (message.arrived or message.sent) < self.since or message.sent > self.until:
                continue
            start, words = (self.producer, self.y(message.sent)), FATES[message.fate][0]
            struck = down and any(a <= message.stored <= (b or self.until) for a, b in self.told.windows)
            if self.row.brokered and not struck and (message.arrived or message.fate is not Fate.REJECTED):
                self.arrow(start, (start := (self.source, self.y(message.stored))), "to the broker")
            if message.arrived:
                dash = (0, (4, 2)) if message.fate is Fate.LATE else "-"
                self.arrow(start, (self.consumer, self.y(message.arrived)), words, ls=dash)
                continue
            x = self.link if start[0] == self.source else (start[0] + self.source) / 2
            self.axes.plot([start[0], x], [start[1]] * 2, color=self.colour, lw=self.weight, zorder=3)
            _cross(self.axes, x, start[1], message.fate)
            for said in (words, words.replace("lost, ", "").replace("the ", "")):
                if 14 + 6 * len(said) < self.consumer - x:
                    self.say(x + 9, start[1], said)
                    break

    def notices(self) -> None:
        """Beside the lifelines what each side noticed, what came late or again, ids, and attempts that failed."""
        sides = {"producer": (self.producer, -8, "right"), "consumer": (self.consumer, 8, "left")}
        beside: list[tuple[float, str, str]] = []
        for side, signs in self.told.signs.items():
            for words in dict.fromkeys(words for _, words in signs):
                for group in self.near(sign for sign in signs if sign[1] == words):
                    beside.append((group[0][0], words + (f" ×{len(group)}" if len(group) > 1 else ""), side))
                    self.axes.plot(sides[side][0], self.y(group[0][0]), "o", mfc="white", mec=INK, ms=5, zorder=4)
        slow = [m for m in self.told.messages if m.arrived and self.y(m.arrived) - self.y(m.sent) > NEAR]
        late = [m for m in self.told.messages if m.fate is Fate.LATE]
        for suffix, there in {
            " late": [(m.arrived or 0.0, m.number) for m in late],
            " again": self.told.again,
            "": [(m.arrived or 0.0, m.number) for m in slow if m.fate is not Fate.LATE],
        }.items():
            for events in self.near(there):
                words = ids(number for _, number in events)
                words = words if len(words) < 12 else f"{len(events)} events"
                beside.append((events[0][0], words + suffix, "consumer"))
        for at, words, side in beside:
            x, off, ha = sides[side]
            self.say(x + off, self.y(at), words, (0, 13, -13, 26), ha=ha)
        for message in filter(lambda message: self.shown(message.sent), self.told.messages):
            self.say(self.producer - 8, self.y(message.sent), f"{message.number % 1000}", ha="right")
        rejected = {m.number: m.sent for m in self.told.messages if m.fate is Fate.REJECTED}
        for at, number, status in self.told.failed:
            if self.shown(at) and abs(self.y(at) - self.y(rejected.get(number, -1e9))) > NEAR:
                x, y = self.producer, self.y(at)
                self.arrow((x, y), (x + 26, y), "failed", arrowstyle="|-|,widthA=0", color=INK, mutation_scale=4)
                self.say(x + 32, y, f"{number % 1000} failed" + (f": {status}" if status else ""))

    def traffic(self) -> None:
        """Thin arrows for what else the link carried, set off from what lies there; the order stays what it was."""
        there = [(m.arrived, m.number) for m in self.told.messages if m.arrived] + self.told.again
        arrivals, firsts = [self.y(at) for at, _ in there], [self.y(group[0][0]) for group in self.near(there)]
        drawn: list[tuple[float, str]] = []
        ways = self.told.chunks if self.trial.workload.subscribers == 1 else (Kind.UP,)
        bursts = [(burst, way) for way in ways for burst in self.near(self.told.chunks[way])]
        for burst, way in sorted(bursts):
            at = self.y(burst[0][0])
            if way is Kind.DOWN and any(abs(at - other) < NEAR for other in arrivals):
                continue  # the events themselves
            busy, last = [*arrivals, *(y for y, _ in drawn)], max((y for y, _ in drawn), default=0.0)
            places = [at + NEAR / 2 * step for step in (0, 1, -1, 2, -2, 3, -3, 4, -4)]
            places = [y for y in places if y > last and all(abs(y - other) > NEAR - 2 for other in busy)]
            places = [y for y in places if all((first <= at) == (first < y) for first in firsts)]
            y = next((y for y in places if self.broken(y) == self.broken(at)), None)
            if y is None:
                continue
            start, end = (self.consumer, self.source)[:: 1 if way is Kind.UP else -1]
            self.arrow(
                (start, y), (end, y), way.name, arrowstyle="->", color=GREY, lw=0.7, mutation_scale=6, zorder=1.5
            )
            drawn.append((y, f"{sum(size for _, size in burst):,} bytes"))
        lines, along = [y for y, _ in drawn], 34 / (self.consumer - self.source)
        for message in self.told.messages:
            lines.append(self.y(message.stored + along * ((message.arrived or message.stored) - message.stored)))
        for y, words in drawn:
            free = (y + off for off in (7, -7) if all(abs(y + off - line) > 5 for line in lines))
            if 16 + 5.4 * len(words) < self.consumer - self.source:
                for middle in list(free)[:1]:
                    self.say(self.source + 9, middle, words, color=SOFT, fontsize=7)


def _cross(axes: Axes, x: float, y: float, fate: Fate) -> None:
    axes.plot(x, y, "X", mfc=FATES[fate][1], mec=INK, mew=0.8, ms=9, zorder=5, label=FATES[fate][0])


def _legend(chart: Chart, y: float, groups: Groups, fates: set[Fate]) -> None:
    """A line of samples and their words."""
    x, colour = float(MARGIN), next(iter(groups.values()))[0].look.colour
    for fate in [*(fate for fate in FATES if fate in fates), None]:
        axes = chart.panel(x, y - 7, 30, 14)
        axes.set(xlim=(0, 30), ylim=(0, 14))
        axes.set_axis_off()
        how: dict[str, Any] = {"color": colour, "lw": 1.3, "ls": (0, (4, 2)) if fate is Fate.LATE else "-"}
        how |= {"color": GREY, "lw": 0.7} if fate is None else {}
        end, style = (20, "-") if fate in LOST else (30, "-|>")
        axes.add_patch(
            FancyArrowPatch((0, 7), (end, 7), arrowstyle=style, shrinkA=0, shrinkB=0, mutation_scale=9, **how)
        )
        if fate in LOST:
            _cross(axes, end, 7, Fate(fate))
        x = chart.write(x + 38, y, "other traffic on the link" if fate is None else FATES[fate][0]) + 26


def _told(told: Story) -> str:
    """The same in words."""
    said = []
    for fate in FATES:
        mine = [message.number for message in told.messages if message.fate is fate]
        said += [f"{len(mine):,} {FATES[fate][0]} ({ids(mine)})"] if mine else []
    said += [f"{len(told.again):,} came again ({ids(n for _, n in told.again)})"] if told.again else []
    said += [f"{len(told.failed):,} attempts failed ({ids(n for _, n, _ in told.failed)})"] if told.failed else []
    said += [f"outage from {a:.3f} s {'on' if b is None else f'to {b:.3f} s'}" for a, b in told.windows]
    said += [f"{side} {words} at {at:.3f} s" for side, signs in told.signs.items() for at, words in signs]
    return "; ".join(dict.fromkeys(said))
