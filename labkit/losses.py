"""What broke, and what it cost: one outage in bars, all of them in a matrix, and each delivery on a time line."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from numpy.typing import NDArray

from labkit.audit import Fate, Outcome
from labkit.captions import percent
from labkit.errors import UsageError
from labkit.intervals import MEDIANS, Interval
from labkit.looks import INK, MARGIN, RULE, SOFT, WIDTH, Chart
from labkit.outage import OUTAGES, Strikes
from labkit.protocols import PROTOCOLS
from labkit.recording import Recording
from labkit.results import Run, opened
from labkit.sheet import Group, Groups, above, draw, heading, keys, outage_of
from labkit.trial import Guarantee, Measure, Trial

BESIDE: dict[str, Any] = {"textcoords": "offset points", "va": "center_baseline"}
ARRIVED, LOST = (Fate.ON_TIME, Fate.LATE), (Fate.REJECTED, Fate.GAP_SEEN, Fate.SILENT)
FATES = {
    Fate.ON_TIME: ("arrived on time", "#d3dee7", ""),
    Fate.LATE: ("arrived after the outage", "#8eabc0", ""),
    Fate.REJECTED: ("lost, the producer knew", "#f2d13c", "///"),
    Fate.GAP_SEEN: ("lost, the consumer knew", "#9a6414", "\\\\\\"),
    Fate.SILENT: ("lost, nobody knew", "#4a0d2b", "xxx"),
}
"""Words, colour and hatch, from good to bad; the lost are hatched, and darker the fewer knew."""

INCONCLUSIVE = """Inconclusive: something was still on its way when the trial ended, so what is missing cannot be called
    lost."""


def loss(run: Run | Path | str, outage: str | None = None) -> Chart:
    """What became of the deliveries owed while one kind of outage lasted, by default the run's first; who could know.

    UsageError where the run has no such outage.
    """
    run = opened(run)
    kind, others = _kind(run, outage)
    more = f"This is {kind} alone: the matrix shows every kind of outage in this run ({others})." if others > 1 else ""
    pooled = any(recording.trial.repeat > 1 for recording in run.of(Measure.LOSS))
    repeated = f"Bars: all repeats pooled. Figures: {MEDIANS}." if pooled else ""
    note = (
        f"{more} Owed: every event offered while the subscription stood, the outage included. {repeated} {INCONCLUSIVE}"
    )
    title = "Disconnect-loss: what became of the events when the link broke?"
    if kind in OUTAGES and (struck := OUTAGES[kind].strikes) is not Strikes.LINK:
        title = f"Disconnect-loss: what became of the events when the {struck} broke?"
    return draw(run, Measure.LOSS, title, note, _loss_height, _loss, lambda trial: outage_of(trial) == kind)


def matrix(run: Run | Path | str) -> Chart:
    """What every kind of outage costs every protocol: the share lost, who knew, duplicates, the time to recover."""
    whole = opened(run)
    pooled = any(recording.trial.repeat > 1 for recording in whole.of(Measure.LOSS))
    repeated = f"Share and duplicates: {MEDIANS}. Who knew: all repeats pooled." if pooled else ""
    note = f"""Share lost: of every event offered while the subscription stood, the outage included. {repeated}
        Back in: from the end of the last outage until the last subscriber had all it was still to get, and something
        new{"; the median too" if pooled else ""}. {INCONCLUSIVE}"""
    title = "Outage matrix: what does each way to break cost each protocol?"

    def height(groups: Groups) -> float:
        return 36 + sum(64 + CELL * len(_kinds(members)) for members in groups.values())

    def body(chart: Chart, groups: Groups, top: float) -> None:
        _matrix(chart, groups, top, whole.errors)

    return draw(whole, Measure.LOSS, title, note, height, body)


def timeline(run: Run | Path | str, guarantee: Guarantee | str | None = None, outage: str | None = None) -> Chart:
    """Each delivery of one kind of outage as a mark in the colour of its fate, subscriber by subscriber.

    By default all guarantees of the run, and its first kind of outage; UsageError where the run has no such trial.
    """
    run = opened(run)
    kind, others = _kind(run, outage)
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


def _kind(run: Run, wanted: str | None) -> tuple[str, int]:
    """The kind of outage to show, and how many there are; UsageError where that one is not."""
    kinds = list(dict.fromkeys(outage_of(recording.trial) for recording in run.of(Measure.LOSS)))
    if wanted is not None and kinds and wanted not in kinds:
        raise UsageError(f"This run has no outage {str(wanted)!r}; choose from {', '.join(kinds)}.")
    return wanted or (kinds[0] if kinds else "none"), len(kinds)


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


def _kinds(members: list[Group]) -> list[str]:
    return list(dict.fromkeys(group.outage for group in members))


def _fates(group: Group) -> str:
    return ", ".join(f"{group.count(fate):,} {FATES[fate][0]}" for fate in FATES if group.count(fate))


def _lost(group: Group) -> tuple[str, str]:
    """The share lost, and its bounds where it differs from repeat to repeat."""
    found = group.lost_percent
    median, low, high = (percent(0.0 if math.isnan(value) else value) for value in found)
    return median, f"{low.removesuffix(' %')} to {high}" if low != high else ""


def _short(bounds: Interval) -> str:
    """Bounds in percent for a cell, in as few digits as tell them apart; none where they are the same."""
    low, high = (f"{value:.{0 if value >= 10 else 1}f}".removesuffix(".0") for value in bounds[1:])
    return f"({low}–{high})" if low != high else ""


def _again(group: Group) -> str:
    """How many duplicates came, with a sign; where some repeats had none, between which bounds."""
    found = group.duplicated
    if found.median >= 1 or not group.rows["duplicated"].any():
        return f"+{found.median:,.0f}" if found.median else ""
    return f"+0 to {group.rows['duplicated'].max():,.0f}"


def _duplicates(group: Group) -> str:
    words = _again(group)
    return words and f"{words} duplicate{'s' if words != '+1' else ''}"


def _loss_height(groups: Groups) -> float:
    members = list(groups.values())
    return 24 + sum(82 + 54 * max(map(len, members[row : row + 2])) for row in range(0, len(members), 2))


def _loss(chart: Chart, groups: Groups, top: float) -> None:
    """One bar of shares for each protocol, one panel for each guarantee, a line of keys above."""
    keys(chart, top + 4, FATES.values())
    span, above = (WIDTH - MARGIN) / min(len(groups), 2), top + 24
    for number, (guarantee, members) in enumerate(groups.items()):
        left = MARGIN + number % 2 * span
        heading(chart, left, above + 14, guarantee)
        axes = chart.panel(left + 146, above + 28, span - 146 - 170, 54 * len(members))
        axes.set(xlim=(0, 100), ylim=(54 * len(members), 0), yticks=(), xticks=(0, 25, 50, 75, 100))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        axes.set_xlabel("share of deliveries owed  (arrived: more is better →)")
        axes.spines["left"].set_visible(False)
        told = []
        for row, group in enumerate(members):
            y = 54 * row + 27
            chart.write(left, above + 28 + y, group.label, color=group.ink, fontweight="bold")
            told.append(_shares(axes, y, group))
        chart.alt += f" {str(guarantee).capitalize()}: {'; '.join(told)}."
        if number % 2:
            above += 82 + 54 * max(map(len, list(groups.values())[number - 1 : number + 1]))


def _shares(axes: Axes, y: float, group: Group) -> str:
    """One bar, at its end the verdict; returns the same in words."""
    at, owed, lost = 0.0, group.count(*Fate), group.count(*LOST)
    for fate, (_, colour, hatch) in FATES.items():
        share = 100 * group.count(fate) / (owed or 1)
        axes.barh(y, share, left=at, height=24, color=colour, hatch=hatch, ec="white", lw=0)
        at += share
    (median, bounds), count = _lost(group), f"{lost:,} of {owed:,}"
    lines = [f"{group.verdict}: {median} lost", f"({bounds})" if bounds else "", count]
    if group.verdict == "inconclusive":
        lines = [group.verdict, f"{percent(lost, owed)} missing", count]
        axes.barh(y, 100, height=36, color="none", hatch="..", ec=SOFT, lw=1, ls="--", clip_on=False)
    lines = [line for line in (*lines, _duplicates(group)) if line]
    for number, line in enumerate(lines):
        how: dict[str, Any] = {"fontsize": 8} if number else {"fontweight": "bold"}
        down = 9.4 * (number - (len(lines) - 1) / 2)
        axes.annotate(line, (100, y), (7, -down), **BESIDE, **how)
    return f"{group.label} {', '.join(lines).replace(', (', ' (')} ({_fates(group)})"


CELL, NAMES = 44.0, 152.0
"""Height of a cell of the matrix, and width of the names beside its rows."""

STEPS = [(0, "0 %", "white"), (1, "up to 1 %", "#d6e6f4"), (10, "to 10 %", "#a5cbe3"), (25, "to 25 %", "#63a6d3")]
STEPS += [(50, "to 50 %", "#2a73b2"), (100, "above 50 %", "#0b3c73")]
"""Up to which share lost, in percent, a cell has which colour: nothing lost is white, and nothing else is."""


def _matrix(chart: Chart, groups: Groups, top: float, failed: Iterable[str]) -> None:
    """One block of cells for each guarantee: a row for each kind of outage, a column for each protocol."""
    end = chart.write(MARGIN, top + 4, "Share lost", fontweight="bold")
    keys(chart, top + 4, [(words, colour, "") for _, words, colour in STEPS], end + 10)
    end = chart.write(MARGIN, top + 26, "Of the lost", fontweight="bold")
    lost = [(FATES[fate][0].removeprefix("lost, "), FATES[fate][1], "") for fate in LOST]
    keys(chart, top + 26, lost, end + 10)
    chart.write(WIDTH - MARGIN, top + 26, "+9: nine duplicates arrived", ha="right")
    columns = {(g.trial.protocol, g.trial.payload): g for members in groups.values() for g in members}
    order = sorted(columns, key=lambda column: (list(PROTOCOLS).index(column[0]), column[1]))
    width = min((WIDTH - 2 * MARGIN - NAMES) / len(order), 190.0)
    above = top + 56
    for guarantee, members in groups.items():
        kinds = sorted(_kinds(members), key=[*OUTAGES, "none"].index)
        heading(chart, MARGIN, above, guarantee)
        axes = chart.panel(MARGIN + NAMES, above + 30, width * len(order), CELL * len(kinds))
        axes.set(xlim=(0, width * len(order)), ylim=(CELL * len(kinds), 0))
        axes.set_axis_off()
        cells = {(group.outage, group.trial.protocol, group.trial.payload): group for group in members}
        for number, column in enumerate(order):
            x = MARGIN + NAMES + (number + 0.5) * width
            name = columns[column]
            chart.write(x, above + 20, name.label, color=name.ink, fontweight="bold", ha="center")
        for row, kind in enumerate(kinds):
            y, told, whole = CELL * row, [], []
            chart.write(MARGIN, above + 30 + y + 14, kind, fontweight="bold")
            chart.write(MARGIN, above + 30 + y + 29, OUTAGES[kind].short if kind in OUTAGES else "", color=SOFT)
            for number, (protocol, payload) in enumerate(order):
                if group := cells.get((kind, protocol, payload)):
                    words = _cell(axes, number * width, y, width, group)
                    clean = group.verdict == "complete" and not _again(group)
                    whole += [group.label] if clean else []
                    told += [] if clean else [f"{group.label} {words}"]
                else:
                    why = _why_not(protocol, kind, guarantee, failed)
                    told.append(f"{columns[protocol, payload].label} {why}")
                    how: dict[str, Any] = {"color": SOFT, "ha": "center", "va": "center_baseline", "fontsize": 8}
                    axes.text((number + 0.5) * width, y + CELL / 2, f"—  {why}  —", **how)
            told += [f"nothing lost, nothing twice: {', '.join(whole)}"] if whole else []
            chart.alt += f" {str(guarantee).capitalize()}, {kind}: {'; '.join(told)}."
        above += 64 + CELL * len(kinds)


def _why_not(protocol: str, kind: str, guarantee: Guarantee, failed: Iterable[str]) -> str:
    """Why a cell has no trial."""
    if any(name.startswith(f"{Measure.LOSS}-{protocol}-{guarantee}-{kind}-") for name in failed):
        return "failed"
    brokered = PROTOCOLS[protocol].brokered or kind not in OUTAGES or OUTAGES[kind].strikes is not Strikes.BROKER
    return "not run" if brokered else "has no broker"


def _still_owed(group: Group) -> bool:
    """Whether anything was due after the last outage, so that its arrival could show the recovery."""
    for recording in group.recordings:
        windows, outcome = recording.outcome.windows, recording.outcome
        end = windows[-1][1] if windows else None
        if end is not None and (outcome.owed & (recording.offer.due_ns >= end)).any():
            return True
    return False


def _cell(axes: Axes, x: float, y: float, width: float, group: Group) -> str:
    """The share lost as colour and number, below it the time to recover and who knew; returns the same in words."""
    owed, counts = group.count(*Fate), {fate: group.count(fate) for fate in LOST}
    lost = sum(counts.values())
    open_end = group.verdict == "inconclusive"
    share, bounds = _lost(group)
    at_least = max(group.lost_percent.median, 0.01) if lost else 0.0  # white is for what no repeat lost
    colour = next(colour for limit, _, colour in STEPS if at_least <= limit)
    axes.barh(y + CELL / 2, width - 4, CELL - 4, x + 2, color="white" if open_end else colour, ec=RULE, lw=1)
    back = float(group.rows["recovered_ms"].median())
    after = "never back" if _still_owed(group) else "nothing due after it"
    after = after if math.isnan(back) else f"back in {back:,.0f} ms"
    first, second = share, after
    if open_end:
        axes.barh(y + CELL / 2, width - 4, CELL - 4, x + 2, color="none", ec=SOFT, lw=1, ls="--")
        first, second, bounds = "inconclusive", f"{percent(lost, owed)} missing", ""
    ink = "white" if not open_end and colour in [dark for _, _, dark in STEPS[4:]] else INK
    how: dict[str, Any] = {"va": "center_baseline", "color": ink}
    weight = "bold" if lost or open_end else "normal"
    axes.text(x + 9, y + 12, first, fontsize=9 if open_end else 10, fontweight=weight, **how)
    beside = [bounds and _short(group.lost_percent), _again(group).replace(" to ", "–")]
    axes.text(x + width - 9, y + 12, " ".join(filter(None, beside)), fontsize=8, ha="right", **how)
    axes.text(x + 9, y + 26, second, fontsize=8, **how)
    if lost:
        axes.barh(y + CELL - 10.5, width - 5, 1, x + 2.5, color="white", lw=0)
    at = x + 2.5
    for fate, count in ((fate, count) for fate, count in counts.items() if count):
        part = (width - 5) * count / lost
        axes.barh(y + CELL - 6, part, 8, at, color=FATES[fate][1], lw=0)
        at += part
    knew = ", ".join(f"{count:,} {FATES[fate][0]}" for fate, count in counts.items() if count)
    lost_words = first if open_end else f"{first} lost{bounds and f' ({bounds})'}"
    words = filter(None, [lost_words, second, _duplicates(group)])
    return ", ".join(words) + (f" ({knew})" if knew else "")


LEFT, RASTER, GAP = 172, 764, 14
"""Left edge and width of the rasters, and what lies between two, in pixels."""

BLANK, AGAIN, WAITING, REACH = 0, 3, 4, 4
LEVELS = {Fate.ON_TIME: 1, Fate.LATE: 2, Fate.REJECTED: 5, Fate.GAP_SEEN: 6, Fate.SILENT: 7}
"""How bad a mark is: 0 nothing offered, 3 arrived more than once, 4 still under way. REACH: its pixels at most."""

AGAIN_LOOK = ("arrived more than once", "#0b4fd6", "")
WAITING_LOOK = ("not here yet", SOFT, "")
SHADE = "#e6dcec"


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
    lines = [f"lost {lost:,} of {owed:,}", _duplicates(group)]
    if group.verdict == "inconclusive":
        lines = [f"missing {lost:,} of {owed:,}", ", ".join(filter(None, ["inconclusive", lines[1]]))]
    lines = [line for line in lines if line]
    for number, line in enumerate(lines):
        down = above + middle + 14 * (number - (len(lines) - 1) / 2)
        chart.write(
            LEFT + RASTER + 12, down, line, fontsize=8 if number else 9, fontweight="normal" if number else "bold"
        )
    return f"{group.label} {', '.join(lines)} ({_fates(group)})"


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
