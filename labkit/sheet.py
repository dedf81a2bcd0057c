"""What every chart shares: the groups of trials behind it, a title, the setting below it, keys, and notes."""

import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from labkit.audit import Fate
from labkit.captions import NO_BREAK, further, percent, setting, wrapped
from labkit.intervals import Interval, interval
from labkit.looks import LOOKS, MARGIN, SOFT, WIDTH, Chart, Look, styled
from labkit.noise import noise
from labkit.protocols import PROTOCOLS
from labkit.recording import Recording
from labkit.results import Run
from labkit.trial import Guarantee, Measure, Payload, Trial

VERDICTS = ("inconclusive", "lossy", "complete")
MEANING = {
    Guarantee.AT_MOST_ONCE: "out of the box",
    Guarantee.AT_LEAST_ONCE: "recovery switched on",
    Guarantee.DURABLE: "and the log on disk",
}


@dataclass(frozen=True)
class Group:
    """One protocol with one guarantee: all its repeats. `rows` are theirs in the frame of the measure."""

    recordings: list[Recording]
    rows: pd.DataFrame

    @property
    def trial(self) -> Trial:
        return self.recordings[0].trial

    @property
    def look(self) -> Look:
        return LOOKS[self.trial.protocol]

    @property
    def ink(self) -> tuple[float, ...]:
        return ink(self.look)

    @property
    def label(self) -> str:
        thin = self.trial.payload is Payload.THIN
        return PROTOCOLS[self.trial.protocol].title + (", thin" if thin else "")

    @property
    def outage(self) -> str:
        """The kind of its outage."""
        return outage_of(self.trial)

    @property
    def verdict(self) -> str:
        return min((recording.outcome.verdict for recording in self.recordings), key=VERDICTS.index)

    @property
    def lost_percent(self) -> Interval:
        """Of what was owed; NaN where that was nothing."""
        return interval(100 * self.rows["lost"] / self.rows["owed"].where(self.rows["owed"] > 0))

    @property
    def duplicated(self) -> Interval:
        return interval(self.rows["duplicated"].astype(float))

    def count(self, *fates: Fate) -> int:
        return sum(recording.outcome.count(*fates) for recording in self.recordings)

    def latencies_ms(self) -> NDArray[np.float64]:
        return np.sort(np.concatenate([recording.latencies_ms() for recording in self.recordings]))

    def cautions(self) -> list[str]:
        """What a reader has to know before trusting its figures."""
        arrived, owed = self.count(Fate.ON_TIME, Fate.LATE), self.count(*Fate)
        came = "answered" if self.trial.duplex else "arrived"
        saturated = "saturated" in self.rows and self.rows["saturated"].any()
        found = {
            f"only {percent(arrived, owed)} {came}": 0 < arrived < owed,
            "inconclusive": self.verdict == "inconclusive",
            "⚠ generator saturated": saturated,
        }
        return [words for words, true in found.items() if true]


Groups = dict[Guarantee, list[Group]]
Height = Callable[[Groups], float]
Body = Callable[[Chart, Groups, float], None]


def ink(look: Look) -> tuple[float, ...]:
    """A protocol's colour, as dark as text on white has to be (WCAG contrast 4.5)."""
    colour = np.array(to_rgb(look.colour))
    while colour**2.2 @ (0.2126, 0.7152, 0.0722) > 1.05 / 4.5 - 0.05:
        colour *= 0.95
    return tuple(float(part) for part in colour)


def outage_of(trial: Trial) -> str:
    return trial.outage.kind if trial.outage else "none"


def draw(
    run: Run,
    measure: Measure,
    title: str,
    note: str,
    height: Height,
    body: Body,
    only: Callable[[Trial], bool] = lambda trial: True,
    frame: pd.DataFrame | None = None,
) -> Chart:
    """Title, setting, body and notes; where no trial finished, one sentence that says so.

    `frame` has a row for each recording of the measure; the measure's own by default.
    """
    own = frame is None
    frame = getattr(run, measure) if frame is None else frame
    chosen = [(number, found) for number, found in enumerate(run.of(measure)) if only(found.trial)]
    groups, trials = _grouped(chosen, frame), [recording.trial for _, recording in chosen]
    if all(len(group.recordings) == 1 for members in groups.values() for group in members):
        trials = [replace(trial, repeat=1) for trial in trials]  # one of each is shown, whichever it is
    lines = [f"This run has no finished {measure} trial, so there is nothing to draw"]
    lines = setting(trials, alone=own) if chosen else lines
    lines += further([found.record.get("kinds", []) for _, found in chosen])
    said = noise(run, measure, [found for _, found in chosen]) if chosen else []
    lines += [f"⚠ A noisy machine: {'; '.join(said)}"] if said else []
    failed = ", ".join(name for name in run.errors if name.startswith(f"{measure}-"))
    failed = failed and f"Failed, and so not shown: {failed}."
    notes = [
        line
        for text in (note if groups else "", failed)
        for line in textwrap.wrap(" ".join(text.split()), 190, break_on_hyphens=False)
    ]
    shown = wrapped(lines)
    lines = [line.replace(NO_BREAK, " ") for line in lines]
    top = 56 + 17 * len(shown) + 12
    with styled():
        chart = Chart(top + (height(groups) if groups else 0) + 17 * len(notes) + 26, title)
        chart.alt = " ".join([title, *(f"{line}." for line in lines), *failed.splitlines()])
        for number, line in enumerate(shown):
            chart.write(MARGIN, 56 + 17 * number, line, color=SOFT)
        for number, line in enumerate(reversed(notes)):
            chart.write(MARGIN, chart.height - 20 - 17 * number, line, color=SOFT, fontsize=8)
        if groups:
            body(chart, groups, top)
    return chart


def _grouped(chosen: list[tuple[int, Recording]], frame: pd.DataFrame) -> Groups:
    """Repeats together, by guarantee; within one in the order of the tables: outage, protocol, payload."""
    kinds: dict[tuple[Guarantee, str, str, Payload], list[tuple[int, Recording]]] = {}
    for number, found in chosen:
        trial = found.trial
        key = (trial.guarantee, outage_of(trial), trial.protocol, trial.payload)
        kinds.setdefault(key, []).append((number, found))
    groups = Groups()
    for key, mine in sorted(kinds.items(), key=lambda item: list(Guarantee).index(item[0][0])):
        group = Group([found for _, found in mine], frame.iloc[[number for number, _ in mine]])
        groups.setdefault(key[0], []).append(group)
    return groups


def heading(chart: Chart, x: float, y: float, guarantee: Guarantee) -> None:
    end = chart.write(x, y, str(guarantee), fontsize=11, fontweight="bold")
    chart.write(end + 8, y, MEANING[guarantee], color=SOFT)


def keys(chart: Chart, y: float, items: Iterable[tuple[str, str, str]], x: float = MARGIN) -> float:
    """A line of keys: words, colour and hatch of each, wrapped where it is full; returns the middle of the last."""
    for words, colour, hatch in items:
        if x + 29 + 6.2 * len(words) > WIDTH - MARGIN:
            x, y = MARGIN, y + 20
        swatch(chart, x, y, colour, hatch)
        x = chart.write(x + 29, y, words) + 24
    return y


def above(spans: Iterable[tuple[float, float, str]], length: float, letter: float) -> Iterator[tuple[float, str]]:
    """Middle and name of each of these (begin, end, name) that has room for it, as wide as its letters; last first."""
    room = length
    for begin, end, name in reversed(list(spans)):
        half = letter * len(name) / 2
        middle = min(max((begin + end) / 2, half), length - half)
        if middle + half <= room:
            yield middle, name
            room = middle - half


def swatch(chart: Chart, x: float, y: float, colour: str, hatch: str = "") -> None:
    corner, wide, tall = (x / WIDTH, 1 - (y + 6) / chart.height), 22 / WIDTH, 13 / chart.height
    key = Rectangle(corner, wide, tall, fc=colour, hatch=hatch, ec="white", lw=0, transform=chart.transFigure)
    if colour == "white":
        key.set(edgecolor=SOFT, linewidth=1)
    chart.add_artist(key)


def dodge(wanted: Sequence[float], heights: Sequence[float], low: float, high: float) -> list[float]:
    """Centres nearest to those wanted (least squares, by isotonic regression), none overlapping, within the limits."""
    order = np.argsort(wanted, kind="stable")
    tall, n = np.array(heights)[order], len(order)
    stacked = np.cumsum(tall) - tall / 2
    free = np.array(wanted)[order] - stacked
    fit = [max(min(free[i : k + 1].mean() for k in range(j, n)) for i in range(j + 1)) for j in range(n)]
    centres = np.empty(n)
    centres[order] = np.clip(fit, low, max(high - tall.sum(), low)) + stacked
    return [float(centre) for centre in centres]
