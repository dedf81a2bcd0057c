"""Overlay: runs laid over each other, to see what changed between them; one lettered mark for each run in every row.

A mark bears its run's letter, so nothing depends on colour alone. A figure that a run lacks has no mark, and is named.
"""

import itertools
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

from labkit.captions import NO_BREAK, byte_count, parameters, percent
from labkit.errors import UsageError
from labkit.looks import INK, LOOKS, MARGIN, RULE, SOFT, WIDTH, Chart, styled
from labkit.noise import noise
from labkit.protocols import PROTOCOLS
from labkit.results import Run, opened
from labkit.sheet import heading, ink, outage_of
from labkit.trial import COMPARED, Guarantee, Measure, Payload

LETTERS = "ABCDEFGH"
"""A run's mark; as many as can be told apart in one row."""

TITLE = "Overlay: what changed between these runs?"
NOTES = {
    Measure.LATENCY: "Latency: first arrival minus the time the event was due.",
    Measure.BANDWIDTH: "Bytes: TCP stream bytes of the load at the link, both ways, by the events that arrived.",
    Measure.LOSS: "Share lost: of every event offered while the subscription stood, the outage included.",
}

BESIDE: dict[str, Any] = {"textcoords": "offset points", "va": "center_baseline", "fontsize": 8, "color": SOFT}
BESIDE |= {"zorder": 2, "bbox": {"fc": "white", "ec": "none", "pad": 0}}
LETTER: dict[str, Any] = {"fontsize": 8, "fontweight": "bold", "ha": "center", "va": "center_baseline"}


class Row(NamedTuple):
    """What is measured in several runs: a protocol with a guarantee, and what its messages carry."""

    guarantee: Guarantee
    protocol: str
    payload: Payload

    @property
    def label(self) -> str:
        return PROTOCOLS[self.protocol].title + (", thin" if self.payload is Payload.THIN else "")


class Spot(NamedTuple):
    """A figure of one run: the median of its repeats, the lowest and the highest, and whether one was saturated."""

    median: float
    low: float
    high: float
    saturated: bool


class Panel(NamedTuple):
    """One figure: its measure, name, unit and words, and how a row of the frame gives it; NaN where there is none."""

    measure: Measure
    name: str
    unit: str
    words: Callable[[float], str]
    figure: Callable[[Mapping[str, Any]], float]


def _bytes(row: Mapping[str, Any]) -> float:
    return float(row["load_up"] + row["load_down"]) / row["deliveries"] if row["deliveries"] else math.nan


def _lost(row: Mapping[str, Any]) -> float:
    return math.nan if row["verdict"] == "inconclusive" else 100 * row["lost"] / (row["owed"] or 1)


def _ms(value: float) -> str:
    return f"{value:,.{2 if value < 100 else 0}f}"


PANELS = (
    Panel(Measure.LATENCY, "median latency", "ms", _ms, lambda row: float(row["p50_ms"])),
    Panel(Measure.LATENCY, "99th percentile", "ms", _ms, lambda row: float(row["p99_ms"])),
    Panel(Measure.BANDWIDTH, "bytes per delivery", "bytes", byte_count, _bytes),
    Panel(Measure.LOSS, "share lost", "%", lambda value: percent(round(value * 1e6), 10**8), _lost),
)
Found = dict[tuple[Row, Panel], Spot | str]
"""Every figure of a run that it measured, or in words why there is none."""

Blocks = dict[Guarantee, list[Row]]

COMMON = ("trace", "speed", "rate", "size", "duration", "subscribers", "arrival", "seed", "outage", "at", "lasts")
"""The parameters that are said where they are the same in all runs; all the others only where they differ."""

NAMES, FREE = 150.0, 26.0
"""Widths in pixels: of the names, and of what is free between two panels."""

BEFORE, AFTER = 14.0, 62.0
"""Pixels of a panel to the left of the lowest mark, and to the right of the highest, where its figure stands."""

HEAD, FOOT = 46.0, 50.0
"""Pixels above the rows of a guarantee, for its name and those of the figures, and below them, for the axes."""


def overlay(runs: Mapping[str, Run | Path | str] | Iterable[Run | Path | str] | Run | Path | str) -> Chart:
    """Latency, bytes and loss of 1 to 8 runs of any workloads, protocol by protocol; a mapping gives them labels.

    A key says in which settings they differ. Of several kinds of outage in a run its first is shown. UsageError for no
    run or more than 8, for a sweep, and where no two of them measured the same.
    """
    labels, shown = _lettered(runs)
    found = {letter: _found(run) for letter, run in shown.items()}
    blocks, panels = _in_common(found)
    same, keys = _settings(labels, shown)
    more = [*_lacking(shown, found, blocks, panels), *_noisy(shown)]
    lines, notes = textwrap.wrap(same, 165), _notes(panels, [*_cautions(found), *more])
    tall = (15.0 if len(shown) <= 4 else 13.0) * len(shown) + 10
    top = 62.0 + 17 * len(lines) + sum(17 * len(words) + 4 for words in keys.values())
    with styled():
        chart = Chart(
            top + sum(HEAD + tall * len(rows) + FOOT for rows in blocks.values()) + 17 * len(notes) + 16, TITLE
        )
        chart.alt = " ".join([TITLE, *(f"{line}." for line in [same] if line)])
        for number, line in enumerate(lines):
            chart.write(MARGIN, 56 + 17 * number, line, color=SOFT, parse_math=False)
        y = 60.0 + 17 * len(lines)
        for letter, words in keys.items():
            _key(chart, y, letter, labels[letter], words)
            y += 17 * len(words) + 4
            chart.alt += f" {letter}: {'. '.join(filter(None, [labels[letter], ' '.join(words)]))}."
        for guarantee, rows in blocks.items():
            heading(chart, MARGIN, top + 8, guarantee)
            told = _block(chart, top + HEAD, tall, rows, panels, found)
            chart.alt += f" {str(guarantee).capitalize()}, lower is better. {told}"
            top += HEAD + tall * len(rows) + FOOT
        for number, line in enumerate(notes):
            chart.write(MARGIN, top + 12 + 17 * number, line, color=SOFT, fontsize=8)
    chart.alt = " ".join([chart.alt, *more])
    return chart


def _lettered(runs: Any) -> tuple[dict[str, str], dict[str, Run]]:
    """Labels and runs by their letters; UsageError for none, for too many, for a sweep and for what is no run."""
    if isinstance(runs, Run | Path | str) or not isinstance(runs, Iterable):
        runs = [runs]
    named = list(runs.items()) if isinstance(runs, Mapping) else [("", run) for run in runs]
    if not 1 <= len(named) <= len(LETTERS):
        raise UsageError(f"There are {len(named)} runs to lay over each other; give from 1 to {len(LETTERS)}.")
    found = {letter: opened(run) for letter, (_, run) in zip(LETTERS, named, strict=False)}
    for letter, run in found.items():
        if run.swept:
            raise UsageError(
                f"Run {letter} is a sweep over {run.swept}; show it with charts.sweep, and leave it out here."
            )
    labels = {
        at: textwrap.shorten(str(label), 90, placeholder=" …") for at, (label, _) in zip(found, named, strict=True)
    }
    return labels, found


def _outage(run: Run) -> str:
    """The kind of outage that is shown: the run's first."""
    return next((outage_of(recording.trial) for recording in run.of(Measure.LOSS)), "none")


def _found(run: Run) -> Found:
    """The figures of one run, its repeats pooled, and why some are missing."""
    rows: dict[tuple[Row, Panel], list[Mapping[str, Any]]] = {}
    for panel in PANELS:
        for recording, row in zip(run.of(panel.measure), getattr(run, panel.measure).to_dict("records"), strict=True):
            trial = recording.trial
            if panel.measure is not Measure.LOSS or outage_of(trial) == _outage(run):
                rows.setdefault((Row(trial.guarantee, trial.protocol, trial.payload), panel), []).append(row)
    found = Found()
    for (row, panel), mine in rows.items():
        known = [figure for each in mine if not math.isnan(figure := panel.figure(each))]
        saturated = any(each.get("saturated", False) for each in mine)
        arrived = any(each.get("deliveries", 1) for each in mine)
        why = "inconclusive" if panel.measure is Measure.LOSS else "too few arrived" if arrived else "nothing arrived"
        found[row, panel] = Spot(float(np.median(known)), min(known), max(known), saturated) if known else why
    return found


def _in_common(found: Mapping[str, Found]) -> tuple[Blocks, list[Panel]]:
    """The rows of each guarantee, and the panels, that have a figure; UsageError where no two runs share one."""
    known = [key for each in found.values() for key, spot in each.items() if isinstance(spot, Spot)]
    if not known:
        raise UsageError("There is no finished latency, bandwidth or loss trial to show; run the comparison again.")
    if len(found) > 1 and len(set(known)) == len(known):
        raise UsageError(
            "These runs have nothing in common to show: no two of them measured the same of a protocol with the same "
            "guarantee; choose runs that share a protocol."
        )
    rows = sorted({row for row, _ in known}, key=lambda row: (list(PROTOCOLS).index(row.protocol), row.payload))
    blocks = {guarantee: [row for row in rows if row.guarantee is guarantee] for guarantee in Guarantee}
    panels = [panel for panel in PANELS if any(other is panel for _, other in known)]
    return {guarantee: those for guarantee, those in blocks.items() if those}, panels


def _settings(labels: Mapping[str, str], shown: Mapping[str, Run]) -> tuple[str, dict[str, list[str]]]:
    """What is the same in all runs, and lines that say how each differs; no key where there is nothing to say."""
    facts = {}
    for letter, run in shown.items():
        trials = [recording.trial for measure in COMPARED for recording in run.of(measure)]
        facts[letter] = parameters(trials, _outage(run)) if trials else {}
    names = dict.fromkeys(name for each in facts.values() for name in each)
    same = {name for name in names if len({each.get(name) for each in facts.values()}) == 1}
    common = ", ".join(facts["A"][name] for name in COMMON if name in same)
    common = f"In all runs: {common}" if common and len(shown) > 1 else common
    keys = {}
    for letter, each in facts.items():
        own = " · ".join(words.replace(" ", NO_BREAK) for name, words in each.items() if name not in same)
        lines = textwrap.wrap(own, 160 - len(labels[letter])) or [""]
        keys[letter] = [line.replace(NO_BREAK, " ").strip(" ·") for line in lines]
    return common, keys if any(labels.values()) or any(map(any, keys.values())) else {}


def _lacking(shown: Mapping[str, Run], found: Mapping[str, Found], blocks: Blocks, panels: list[Panel]) -> list[str]:
    """Sentences that name every figure which a run has not, and why."""
    said = [f"No run has this figure: {panel.name}." for panel in PANELS if panel not in panels]
    gone: dict[str, list[str]] = {}
    for letter, (guarantee, rows), panel in itertools.product(shown, blocks.items(), panels):
        why: dict[str, list[str]] = {}
        for row in rows:
            failed = any(
                name.startswith(f"{panel.measure}-{row.protocol}-{guarantee}-") for name in shown[letter].errors
            )
            spot = found[letter].get((row, panel)) or ("failed" if failed else "not run")
            if not isinstance(spot, Spot):
                why.setdefault(spot, []).append(row.label)
        for reason, who in why.items():
            those = "any protocol" if len(who) == len(rows) else ", ".join(who)
            gone.setdefault(f"{panel.name} of {those} {guarantee}: {reason}", []).append(letter)
    return said + [f"{', '.join(letters)} without {words}." for words, letters in gone.items()]


def _noisy(shown: Mapping[str, Run]) -> list[str]:
    """Sentences that name every run of a noisy machine, and what was noisy."""
    said = {
        letter: dict.fromkeys(words for of in COMPARED for words in noise(run, of)) for letter, run in shown.items()
    }
    return [f"⚠ A noisy machine in {letter}: {'; '.join(words)}." for letter, words in said.items() if words]


def _cautions(found: Mapping[str, Found]) -> list[str]:
    spots = [spot for each in found.values() for spot in each.values() if isinstance(spot, Spot)]
    said = {
        "Thin level lines: lowest and highest of the repeats.": any(spot.low < spot.high for spot in spots),
        "Hollow: the generator was saturated, so the figure is as much the lab's.": any(s.saturated for s in spots),
    }
    return [words for words, true in said.items() if true]


def _notes(panels: list[Panel], more: list[str]) -> list[str]:
    """What the figures that are shown mean, and whatever else there is to know of them, in lines."""
    meant = dict.fromkeys(NOTES[panel.measure] for panel in panels)
    return textwrap.wrap(" ".join(" ".join([*meant, *more]).split()), 190, break_on_hyphens=False)


def _key(chart: Chart, y: float, letter: str, label: str, words: list[str]) -> None:
    """A run's mark, its label, and how its settings differ."""
    place = (MARGIN + 8) / WIDTH, 1 - y / chart.height
    chart.add_artist(Line2D(place[:1], place[1:], marker="o", ms=10.5, color=INK, transform=chart.transFigure))
    chart.text(*place, letter, color="white", **LETTER)
    end = MARGIN + 24.0
    if label:
        end = chart.write(end, y, label, fontweight="bold", parse_math=False) + 10
    for number, line in enumerate(words):
        chart.write(end, y + 17 * number, line, color=SOFT, parse_math=False)


def _block(
    chart: Chart, top: float, tall: float, rows: list[Row], panels: list[Panel], found: Mapping[str, Found]
) -> str:
    """The rows of one guarantee over all panels; returns their figures in words."""
    told: dict[Row, list[str]] = {row: [] for row in rows}
    span = (WIDTH - 2 * MARGIN - NAMES + FREE) / len(panels)
    for number, row in enumerate(rows):
        chart.write(MARGIN, top + tall * (number + 0.5), row.label, color=ink(LOOKS[row.protocol]), fontweight="bold")
    for number, panel in enumerate(panels):
        left = MARGIN + NAMES + span * number
        chart.write(left, top - 14, panel.name.capitalize(), fontweight="bold")
        axes = chart.panel(left, top, span - FREE, tall * len(rows))
        _frame(axes, panel, tall * len(rows), found)
        for at, row in enumerate(rows):
            axes.axhline(tall * at, color=RULE, lw=0.8)
            spots = [each.get((row, panel)) for each in found.values()]
            known = [spot if isinstance(spot, Spot) else None for spot in spots]
            if words := _marks(axes, panel, row.protocol, tall * at + 5, (tall - 10) / len(found), known):
                told[row].append(f"{panel.name} {', '.join(words)}{' ms' if panel.unit == 'ms' else ''}")
    return " ".join(f"{row.label}: {'; '.join(words)}." for row, words in told.items())


def _frame(axes: Axes, panel: Panel, tall: float, found: Mapping[str, Found]) -> None:
    """Scale and ticks; figures of one unit share a scale, and beside the highest there is room for its words."""
    alike = [spot for each in found.values() for (_, other), spot in each.items() if other.unit == panel.unit]
    ends = [end for spot in alike if isinstance(spot, Spot) for end in (spot.low, spot.high)]
    share, width = panel.unit == "%", axes.bbox.width - BEFORE - AFTER
    low = 0.0 if share else max(min(ends), 1e-3)
    high = max(max(ends), 5.0 if share else 3 * low)
    axes.set(ylim=(tall, 0), yticks=())
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"{panel.unit}{'' if share else ', log scale'}  (← lower is better)", fontsize=8)
    if share:
        axes.set(xlim=(-BEFORE * high / width, high * (1 + AFTER / width)))
        axes.set_xticks([tick for tick in MaxNLocator(4, integer=True).tick_values(0, high) if tick <= 100])
        return
    pixel = (high / low) ** (1 / width)
    axes.set(xscale="log", xlim=(low / pixel**BEFORE, high * pixel**AFTER))
    few, some = (1, 2, 3, 5, 7), (1, 3)
    ticks = LogLocator(subs=few if high < 6 * low else some if high < 100 * low else (1,)).tick_values(low, high)
    ticks = [tick for tick in ticks if low / 1.2 < tick <= high * 1.2]
    axes.xaxis.set_major_locator(FixedLocator(ticks[:: math.ceil(len(ticks) / 4)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")


def _marks(axes: Axes, panel: Panel, protocol: str, top: float, lane: float, spots: list[Spot | None]) -> list[str]:
    """One mark for each run, one below the other, the figure beside it, a line from the first to the last."""
    look, colour, told = LOOKS[protocol], ink(LOOKS[protocol]), []
    there = {top + lane * (at + 0.5): (LETTERS[at], spot) for at, spot in enumerate(spots) if spot}
    axes.plot([spot.median for _, spot in there.values()], list(there), ls=look.dash, lw=1, color=look.colour)
    for y, (letter, spot) in there.items():
        face, inside = ("white", colour) if spot.saturated else (colour, "white")
        axes.hlines(y, spot.low, spot.high, lw=0.8, color=colour)
        axes.annotate(f"  {panel.words(spot.median)}", (spot.high, y), (lane * 0.36, 0), **BESIDE)
        axes.plot(spot.median, y, "o", ms=lane * 0.68, color=colour, mfc=face, clip_on=False, zorder=4)
        axes.text(spot.median, y, letter, color=inside, zorder=5, **LETTER)
        spread = f" ({panel.words(spot.low)} to {panel.words(spot.high)})" if spot.low < spot.high else ""
        told.append(f"{letter} {panel.words(spot.median)}{spread}")
    return told
