"""Sweeps: what one parameter does to latency, cost and requests; two figures beside each other, value by value.

Both axes are logarithmic, repeats are pooled by their median. A figure that is missing or nought has no point: words
in its place say why.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from labkit.errors import UsageError
from labkit.figures import ENOUGH, METRICS, SATURATED_MS
from labkit.looks import LOOKS, MARGIN, SOFT, WIDTH, Chart
from labkit.plan import SWEPT
from labkit.results import Run, opened
from labkit.sheet import Group, Groups, dodge, draw, heading

KNEE = 10
"""So many times its median at the lowest rate, and a protocol no longer keeps up: events are waiting in line."""

LEFT, LABELS, TALL, AROUND = 76, 176, 350, 108
"""Of a panel: what its axis and its labels take of the width, its height at least, and what is above and below it."""

HEAD, LINE, OVER = 23.0, 12.0, 30.0
"""Heights of a label's name and of a line below it; how far below the axis labels may go."""

TICK = 38
"""Two values on the axis that are nearer to each other, in pixels, have one label."""


class View(NamedTuple):
    """How the sweep over one parameter is shown: title, the two figures, the axis, a value's unit, a note."""

    title: str
    metrics: tuple[str, str]
    axis: str
    unit: str
    note: str = ""

    def value(self, value: float) -> str:
        """A value of the parameter in words."""
        one = {"events/s": "event/s", "topics": "topic", "subscribers": "subscriber", "bytes": "byte"}
        return f"{value:,.10g} {one.get(self.unit, self.unit) if value == 1 else self.unit}"


LATENCY = "Latency: first arrival minus the time the event was due, all subscribers together."
COST = """CPU of producer, consumer and broker, with what makes and checks the events, and TCP stream bytes at the link,
    in both directions, from the start of the load on, by deliveries."""
VIEWS = {
    "rate": View(
        "Latency against rate: how much does a protocol take before events wait in line?",
        ("p50_ms", "p99_ms"),
        "events per second",
        "events/s",
        f"""{LATENCY} Ringed: the knee, the last rate before the median is more than {KNEE} times that of the lowest
        rate.""",
    ),
    "topics": View(
        "Latency against topics: what does it cost to have many of them?",
        ("p50_ms", "p99_ms"),
        "topics",
        "topics",
        f"""{LATENCY} With more than one topic each subscriber takes one of them alone, so with more topics than
        subscribers nobody takes the rest.""",
    ),
    "subscribers": View(
        "Cost against subscribers: what does one more delivery take?",
        ("cpu_us_per_delivery", "bytes_per_delivery"),
        "subscribers",
        "subscribers",
        COST,
    ),
    "size": View(
        "Cost against size: what does a larger event take?",
        ("cpu_us_per_delivery", "bytes_per_delivery"),
        "bytes of an event",
        "bytes",
        COST,
    ),
    "interval": View(
        "The poll interval: how much latency do fewer requests cost?",
        ("requests_per_event", "p50_ms"),
        "seconds from one poll to the next",
        "s",
        f"""Requests: those made during the load, by events and subscribers; below 1, one request brings several
        events. {LATENCY} A long poll is asked again as soon as it is answered, whatever the interval.""",
    ),
}


def sweep(run: Run | Path | str) -> Chart:
    """What the swept parameter does: latency against rate or topics, cost against subscribers or size, requests and
    latency against the poll interval. UsageError where the run is no sweep."""
    run = opened(run)
    if run.swept is None:
        raise UsageError("This run is no sweep; `labkit sweep --over rate --values 50,200,1000` makes one.")
    over, view = run.swept, VIEWS[run.swept]

    def body(chart: Chart, groups: Groups, top: float) -> None:
        _sweep(chart, groups, top, over)

    note = " ".join([view.note, *keys(run.cost, view.metrics)])
    return draw(run, SWEPT[over], view.title, note, lambda groups: sum(_rows(groups, over)), body, frame=run.cost)


def keys(cost: pd.DataFrame, metrics: Iterable[str]) -> list[str]:
    """What the marks on a chart of these rows mean, and why some points are missing; no word of what is not there."""
    timed = [name for name in metrics if name.endswith("_ms")]
    found = {
        f"No point: fewer than {ENOUGH} deliveries lie beyond that percentile.": cost[timed].isna().any().any(),
        "Points: the median of the repeats; thin upright lines: their lowest and highest.": cost["trial"].nunique() > 1,
        f"""Hollow: the generator was saturated (1 event in 100 more than {SATURATED_MS:g} ms late), so the point is as
        much the lab's as the protocol's.""": cost["saturated"].any(),
        "Dashed: the baselines.": any(LOOKS[name].dash != "-" for name in cost["protocol"]),
    }
    return [words for words, true in found.items() if true]


def knee(medians: "pd.Series[Any]") -> float | None:
    """The last value before the median exceeds `KNEE` times its first; None where it never does.

    medians: by value, in rising order; those missing are passed over.
    """
    known = medians.dropna()
    past = np.flatnonzero(known.to_numpy() > KNEE * known.iloc[0]) if len(known) else np.array([], int)
    return float(known.index[past[0] - 1]) if len(past) else None


def points(group: Group, over: str, metric: str) -> pd.DataFrame:
    """By value of the parameter: median, min and max of the repeats, and whether one of them was saturated."""
    found = group.rows.groupby(over)[metric].agg(["median", "min", "max"])
    return found.assign(saturated=group.rows.groupby(over)["saturated"].any())


def _rows(groups: Groups, over: str) -> list[float]:
    """The height of each guarantee's row: with as much room as its labels need."""
    name, last = VIEWS[over].metrics[0], _values(groups, over)[-1]
    blocks = [[_block(group, over, name, last) for group in members] for members in groups.values()]
    return [max(TALL, sum(HEAD + LINE * len(block) for block in those) - OVER) + AROUND for those in blocks]


def _values(groups: Groups, over: str) -> list[float]:
    return sorted({float(value) for members in groups.values() for group in members for value in group.rows[over]})


def _sweep(chart: Chart, groups: Groups, top: float, over: str) -> None:
    """A row of two panels for each guarantee, all of one unit on the same scale."""
    view, span, values = VIEWS[over], (WIDTH - MARGIN) / 2, _values(groups, over)
    members = [group for each in groups.values() for group in each]
    above = top
    for (guarantee, those), tall in zip(groups.items(), _rows(groups, over), strict=True):
        heading(chart, MARGIN, above + 4, guarantee)
        for side, name in enumerate(view.metrics):
            metric, left = METRICS[name], LEFT + side * span
            chart.write(left, above + 28, metric.label, fontweight="bold")
            chart.write(left + span - LABELS - LEFT + 27, above + 28, f"at {view.value(values[-1])}", color=SOFT)
            axes = chart.panel(left, above + 44, span - LABELS - LEFT, tall - AROUND)
            alike = [other for other in view.metrics if METRICS[other].unit == metric.unit]
            _frame(axes, values, _limits(points(group, over, each) for group in members for each in alike))
            axes.set_xlabel(f"{view.axis}, log scale")
            axes.set_ylabel(f"{metric.unit}, log scale  (← {metric.better} is better)")
            told = "; ".join(_lines(chart, axes, those, over, name, values[-1]))
            chart.alt += f" {str(guarantee).capitalize()}, {metric.label}, {metric.better} is better: {told}."
        above += tall


def _limits(found: Iterable[pd.DataFrame]) -> tuple[float, float]:
    """From below the lowest repeat to above the highest, a factor of ten at least."""
    every = np.concatenate([each[["min", "max"]].to_numpy().ravel() for each in found])
    there = every[every > 0] if (every > 0).any() else np.array([0.1, 1.0])
    low, high = float(there.min()) / 1.4, float(there.max()) * 1.4
    spare = max(10 / (high / low), 1) ** 0.5
    return low / spare, high * spare


def _frame(axes: Axes, values: list[float], limits: tuple[float, float]) -> None:
    """Scales and ticks; of the values as many are named as there is room for, the last of them always."""
    pad = (values[-1] / values[0]) ** 0.05 if len(values) > 1 else 2.0
    axes.set(xscale="log", yscale="log", xlim=(values[0] / pad, values[-1] * pad), ylim=limits)
    named: list[float] = []
    places = {value: float(axes.transData.transform((value, limits[0]))[0]) for value in values}
    for value in reversed(values):
        if not named or places[named[-1]] - places[value] >= TICK:
            named.append(value)
    axes.xaxis.set_major_locator(FixedLocator(named))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if limits[1] / limits[0] < 100 else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,.10g}")


def _lines(chart: Chart, axes: Axes, members: list[Group], over: str, name: str, last: float) -> list[str]:
    """Draws lines, and beside them names and last figures, moved apart as far as they need; returns those in words."""
    box, ends = axes.bbox, []
    blocks = [_block(group, over, name, last) for group in members]
    for group in members:
        found, look = points(group, over, name), group.look
        shown, bend = found[found["median"] > 0], _knee(group, over)
        how: dict[str, Any] = {"color": look.colour, "clip_on": False}
        axes.plot(shown.index, shown["median"], ls=look.dash, lw=1.8, **how)
        axes.vlines(shown.index, shown["min"].clip(lower=axes.get_ylim()[0]), shown["max"], lw=0.8, **how)
        for hollow, marks in shown.groupby("saturated"):
            axes.plot(marks.index, marks["median"], look.marker, mfc="white" if hollow else look.colour, **how)
        if bend is not None and bend in shown.index:
            axes.plot(bend, shown["median"][bend], "o", ms=13, mfc="none", mec=group.ink, mew=1.3, clip_on=False)
        end = (shown.index[-1], shown["median"].iloc[-1]) if len(shown) else (axes.get_xlim()[1], axes.get_ylim()[0])
        across, up = axes.transAxes.inverted().transform(axes.transData.transform(end))
        ends.append((float(across), float(up)))
    heights = [HEAD + LINE * len(block) for block in blocks]
    centres = dodge([end[1] * box.height for end in ends], heights, -OVER, box.height)
    told = []
    for group, block, end, height, centre in zip(members, blocks, ends, heights, centres, strict=True):
        path = ((end[0], 1.02, 1 + 22 / box.width), (end[1], end[1], centre / box.height))
        axes.plot(*path, "-" if end[0] > 0.9 else ":", lw=0.8, color=group.ink, transform=axes.transAxes, clip_on=False)
        left, y = box.x1 + 27, chart.height - box.y0 - centre - height / 2 + 11
        chart.write(left, y, group.label, color=group.ink, fontweight="bold")
        for number, line in enumerate(block):
            chart.write(left, y + 13 + LINE * number, line, fontsize=8, fontweight="bold" if number else "normal")
        known = points(group, over, name)["median"].dropna()
        start = f"{known.iloc[0]:,.{METRICS[name].digits}f} at {known.index[0]:,.10g}, " if len(known) > 1 else ""
        told.append(f"{group.label} {start}{block[0]} at {last:,.10g}" + "".join(f", {line}" for line in block[1:]))
    return told


def _block(group: Group, over: str, name: str, last: float) -> list[str]:
    """What stands below a name: the figure at the last value; in the first panel its knee, and what to know of it."""
    bend, there = _knee(group, over), group.rows[over] == last
    at_last = Group([each for each, mine in zip(group.recordings, there, strict=True) if mine], group.rows[there])
    lines = [_figure(at_last, name)]
    if name == VIEWS[over].metrics[0]:
        lines += [f"knee at {bend:,.10g}/s"] if bend else []
        lines += at_last.cautions() if at_last.recordings else []
    return lines


def _knee(group: Group, over: str) -> float | None:
    return knee(points(group, over, "p50_ms")["median"]) if over == "rate" else None


def _figure(group: Group, name: str) -> str:
    """The median of repeats at one value, or why there is none."""
    metric, value = METRICS[name], float(group.rows[name].median())
    if not math.isnan(value):
        return f"{value:,.{0 if value >= 100 else metric.digits}f} {metric.unit}"
    if not group.rows["deliveries"].sum():
        return "nothing arrived" if group.recordings else "failed"
    return f"too few arrived for {name[:3]}" if name.endswith("_ms") else "not counted"
