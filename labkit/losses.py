"""What broke, and what it cost: one outage in bars, all of them in a matrix, and each delivery on a time line."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from labkit.audit import Fate
from labkit.captions import percent
from labkit.errors import UsageError
from labkit.intervals import MEDIANS, Interval
from labkit.looks import INK, MARGIN, RULE, SOFT, WIDTH, Chart
from labkit.outage import OUTAGES, Strikes
from labkit.protocols import PROTOCOLS
from labkit.results import Run, opened
from labkit.sheet import Group, Groups, draw, heading, keys, outage_of
from labkit.trial import Guarantee, Measure

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
    kind, others = kind_of(run, outage)
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


def kind_of(run: Run, wanted: str | None) -> tuple[str, int]:
    """The kind of outage to show, and how many there are; UsageError where that one is not."""
    kinds = list(dict.fromkeys(outage_of(recording.trial) for recording in run.of(Measure.LOSS)))
    if wanted is not None and kinds and wanted not in kinds:
        raise UsageError(f"This run has no outage {str(wanted)!r}; choose from {', '.join(kinds)}.")
    return wanted or (kinds[0] if kinds else "none"), len(kinds)


def _kinds(members: list[Group]) -> list[str]:
    return list(dict.fromkeys(group.outage for group in members))


def counted(group: Group) -> str:
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


def duplicates(group: Group) -> str:
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
    lines = [line for line in (*lines, duplicates(group)) if line]
    for number, line in enumerate(lines):
        how: dict[str, Any] = {"fontsize": 8} if number else {"fontweight": "bold"}
        down = 9.4 * (number - (len(lines) - 1) / 2)
        axes.annotate(line, (100, y), (7, -down), **BESIDE, **how)
    return f"{group.label} {', '.join(lines).replace(', (', ' (')} ({counted(group)})"


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
    words = filter(None, [lost_words, second, duplicates(group)])
    return ", ".join(words) + (f" ({knew})" if knew else "")
