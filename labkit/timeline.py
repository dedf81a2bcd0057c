"""The time line: each delivery as a mark in the colour of its fate, subscriber by subscriber, and the outage behind."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from numpy.typing import NDArray

from labkit.audit import Fate, Outcome
from labkit.errors import UsageError
from labkit.looks import INK, MARGIN, SOFT, WIDTH, Chart
from labkit.losses import FATES, INCONCLUSIVE, LOST, counted, duplicates, kind_of
from labkit.outage import OUTAGES
from labkit.recording import Recording
from labkit.results import Run, opened
from labkit.sheet import Group, Groups, above, draw, heading, keys, outage_of
from labkit.trial import Guarantee, Measure, Trial

LEFT, RASTER, GAP = 172, 764, 14
"""Left edge and width of the rasters, and what lies between two, in pixels."""

BLANK, AGAIN, WAITING, REACH = 0, 3, 4, 4
LEVELS = {Fate.ON_TIME: 1, Fate.LATE: 2, Fate.REJECTED: 5, Fate.GAP_SEEN: 6, Fate.SILENT: 7}
"""How bad a mark is: 0 nothing offered, 3 arrived more than once, 4 still under way. REACH: its pixels at most."""

AGAIN_LOOK = ("arrived more than once", "#0b4fd6", "")
WAITING_LOOK = ("not here yet", SOFT, "")
SHADE = "#e6dcec"


def timeline(run: Run | Path | str, guarantee: Guarantee | str | None = None, outage: str | None = None) -> Chart:
    """Each delivery of one kind of outage as a mark in the colour of its fate, subscriber by subscriber.

    By default all guarantees of the run, and its first kind of outage; UsageError where the run has no such trial.
    """
    run = opened(run)
    kind, others = kind_of(run, outage)
    wanted = list(Guarantee) if guarantee is None else [Guarantee.named(guarantee)]
    there = list(dict.fromkeys(str(recording.trial.guarantee) for recording in run.of(Measure.LOSS)))
    if there and not set(wanted) & set(there):
        raise UsageError(f"This run has no loss trial with {wanted[0]}; choose from {', '.join(there)}.")
    chosen, repeats = _in_the_middle(run, kind)
    alone = f"Of {repeats} repeats of each that in the middle is shown, by its share lost." if repeats > 1 else ""
    more = f"This is {kind} alone, of {others} kinds of outage in this run." if others > 1 else ""
    note = f"""{more} {alone} Where marks share a pixel, the worse fate is shown, so no loss is hidden. Where there is
        no mark, nothing was offered. {INCONCLUSIVE}"""
    title = "Timeline: what became of each event, for each subscriber?"

    def only(trial: Trial) -> bool:
        return trial in chosen and trial.guarantee in wanted

    return draw(run, Measure.LOSS, title, note, _timeline_height, _timeline, only)


def _in_the_middle(run: Run, kind: str) -> tuple[set[Trial], int]:
    """Of the repeats of each trial with this outage the one whose share lost is their median, and how many there are.

    Of an even number it is the one with the lower share.
    """
    repeats: dict[tuple[str, ...], list[tuple[float, int, Trial]]] = {}
    for recording in run.of(Measure.LOSS):
        trial, lost = recording.trial, recording.outcome.lost / (int(recording.outcome.owed.sum()) or 1)
        if outage_of(trial) == kind:
            repeats.setdefault((trial.protocol, trial.guarantee, trial.payload), []).append((lost, trial.repeat, trial))
    chosen = {sorted(mine, key=lambda each: each[:2])[(len(mine) - 1) // 2][2] for mine in repeats.values()}
    return chosen, max(map(len, repeats.values()), default=1)


def levels(recording: Recording, width: int = RASTER, rows: int = 60) -> NDArray[np.int8]:
    """Rows of subscribers x pixels of time, each the worst of the marks that fall on it.

    A mark reaches from when its event was due to when the next one was, at most `REACH` pixels. With more than `rows`
    subscribers neighbours share a row.
    """
    due, level = recording.offer.due_ns - recording.phases["load"], marks(recording.outcome)
    hosts = len(level)
    level = np.maximum.reduceat(level, np.arange(min(hosts, rows)) * hosts // min(hosts, rows), axis=0)
    starts = np.clip((due * width / (recording.seconds * 1e9)).astype(int), 0, width - 1)
    return raster(level, starts, width)


def marks(outcome: Outcome, events: slice = slice(None)) -> NDArray[np.int8]:
    """Subscribers x events: how bad each delivery's mark is."""
    level = np.array([LEVELS[fate] for fate in Fate], np.int8)[outcome.fate[:, events]]
    level[(outcome.copies[:, events] > 0) & (outcome.arrived_ns[:, events] > 0)] = AGAIN
    level[~outcome.owed[:, events]] = BLANK
    return level


def raster(level: NDArray[np.int8], starts: NDArray[np.int64], width: int, gap: int = 0) -> NDArray[np.int8]:
    """Rows x pixels: each mark reaches up to `gap` before the next, at most `REACH` pixels; of several the worst."""
    reach = np.clip(np.diff(starts, append=width + gap) - gap, 1, REACH)
    picture = np.zeros((len(level), width), np.int8)
    for step in range(REACH):
        there = (step < reach) & (starts + step < width)
        np.maximum.at(picture.T, starts[there] + step, level.T[there])
    return picture


def _tall(recording: Recording) -> int:
    """Height of a row of its raster, in pixels."""
    return int(np.clip(40 // recording.trial.workload.subscribers, 1, 14))


def _raster_height(group: Group) -> int:
    return max(min(group.trial.workload.subscribers, 60) * _tall(group.recordings[0]), 28)


def _timeline_height(groups: Groups) -> float:
    return 40 + sum(88 + sum(_raster_height(group) + GAP for group in members) for members in groups.values())


def _timeline(chart: Chart, groups: Groups, top: float) -> None:
    """One block of rasters for each guarantee, all on one axis of time."""
    items = [*FATES.values()]
    items.insert(2, AGAIN_LOOK)
    shown = [(words, colour, "") for words, colour, _ in items]
    y = keys(chart, top + 4, [*shown, ("outage", SHADE, "")])
    words = "one thin row: one subscriber  ·  one mark: one event, at the time it was due"
    chart.write(WIDTH - MARGIN, y, words, color=SOFT, ha="right")
    above = y + 30
    for guarantee, members in groups.items():
        heading(chart, MARGIN, above, guarantee)
        tall = sum(_raster_height(group) + GAP for group in members) + GAP + 8
        axes = chart.panel(LEFT, above + 4, RASTER, tall)
        length = members[0].recordings[0].seconds
        axes.set(xlim=(0, length), ylim=(tall, 0), yticks=(), xlabel="seconds of the load")
        axes.grid(False)
        axes.spines["left"].set_visible(False)
        y, told = float(GAP + 14), []
        for group in members:
            told.append(_raster(chart, axes, y, above + 4, group))
            y += _raster_height(group) + GAP
        _name_outage(axes, members[0], length)
        chart.alt += f" {str(guarantee).capitalize()}: {'; '.join(told)}."
        above += 66 + tall


def _raster(chart: Chart, axes: Axes, y: float, above: float, group: Group) -> str:
    """One protocol's image, the outage behind it, its name and its losses beside it; returns the same in words."""
    recording, middle = group.recordings[0], y + _raster_height(group) / 2
    picture, tall, length = levels(recording), _tall(recording), recording.seconds
    until, struck = y + len(picture) * tall, group.trial.struck / group.trial.workload.subscribers
    bottom = until + GAP / 2 if struck == 1 else y + math.ceil(struck * len(picture)) * tall
    for begin, end in _windows(recording, length):
        axes.fill([begin, end, end, begin], [y - GAP / 2, y - GAP / 2, bottom, bottom], color=SHADE, lw=0)
        if (end - begin) / length * RASTER > 8:
            axes.vlines([begin, end], y - GAP / 2, bottom, color=INK, lw=0.8, ls=(0, (3, 2)), zorder=3)
    axes.imshow(colours()[picture], extent=(0, length, until, y), aspect="auto", interpolation="none", zorder=2)
    chart.write(MARGIN, above + middle, group.label, color=group.ink, fontweight="bold")
    owed, lost = group.count(*Fate), group.count(*LOST)
    lines = [f"lost {lost:,} of {owed:,}", duplicates(group)]
    if group.verdict == "inconclusive":
        lines = [f"missing {lost:,} of {owed:,}", ", ".join(filter(None, ["inconclusive", lines[1]]))]
    lines = [line for line in lines if line]
    for number, line in enumerate(lines):
        down = above + middle + 14 * (number - (len(lines) - 1) / 2)
        chart.write(
            LEFT + RASTER + 12, down, line, fontsize=8 if number else 9, fontweight="normal" if number else "bold"
        )
    return f"{group.label} {', '.join(lines)} ({counted(group)})"


def colours() -> NDArray[np.uint8]:
    """RGBA of each level; nothing offered lets what lies behind show through."""
    shown = {BLANK: "none", AGAIN: AGAIN_LOOK[1], WAITING: WAITING_LOOK[1]}
    shown |= {level: FATES[fate][1] for fate, level in LEVELS.items()}
    return np.round(255 * to_rgba_array([shown[level] for level in sorted(shown)])).astype(np.uint8)


def _windows(recording: Recording, length: float) -> Iterator[tuple[float, float]]:
    """Begin and end of each outage as it was, in seconds of the load, as far as they lie in it."""
    start = recording.phases["load"]
    for begin, end in recording.outcome.windows:
        since, until = (begin - start) / 1e9, length if end is None else (end - start) / 1e9
        if since < length:
            yield max(since, 0.0), min(until, length)


def _name_outage(axes: Axes, group: Group, length: float) -> None:
    """Above the outage: what it is, and to whom."""
    outage, windows, kinds = group.trial.outage, list(_windows(group.recordings[0], length)), group.recordings[0].kinds
    if outage is None or not windows:
        return
    often = f"{len(kinds)} × " if len(kinds) > 1 else ""
    whom = (
        f", to {group.trial.struck:,} of {group.trial.workload.subscribers:,} subscribers" if outage.share < 1 else ""
    )
    spans = [(windows[0][0], windows[-1][1], f"outage: {often}{outage.kind} ({OUTAGES[outage.kind].short}){whom}")]
    if len(set(kinds)) > 1:
        spans = [(*window, kind) for window, kind in zip(windows, kinds, strict=False)]
    for middle, words in above(spans, length, 6.4 / RASTER * length):
        axes.text(middle, 12, words, ha="center", va="center_baseline", color=INK, fontweight="bold", fontsize=8)
