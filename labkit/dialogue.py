"""Dialogue: requests and their answers, how long they take, in how many bytes and over how many connections."""

import math
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from labkit.figures import METRICS
from labkit.looks import MARGIN, SOFT, WIDTH, Chart
from labkit.results import Run, opened
from labkit.sheet import Group, Groups, draw, heading
from labkit.trial import Measure

ROW, HEAD, FOOT = 34.0, 42.0, 66.0
"""Heights of a protocol's row, of the heading above those of a guarantee, and of what is above and below them all."""

TIMES, BYTES, CONNECTIONS = "p50_ms", "bytes_per_answer", "connections"
PANELS = {
    TIMES: (196, 256, "Round trip"),
    BYTES: (680, 200, "Request and answer"),
    CONNECTIONS: (944, WIDTH - MARGIN - 944, "Connections"),
}
"""Left edge, width and heading of the panel of each column."""

BESIDE: dict[str, Any] = {"textcoords": "offset points", "va": "center_baseline", "fontsize": 8}


def duplex(run: Run | Path | str) -> Chart:
    """How long a request takes to be answered, in how many TCP stream bytes and over how many connections."""
    run = opened(run)
    note = """Round trip: from when the request was due to when its answer was there; a percentile is given where enough
        answers lie beyond it. Of repeats the median is shown. Bytes: of the TCP streams at the link, in both
        directions, by answers. Connections: those opened through the link from set-up to the last answer, by
        subscribers; a producer's POSTs share those to one host, here all subscribers. A subscriber's own POSTs go one
        after the other over one connection, so with a distance they queue. Dashed and hatched: the baselines."""
    title = "Duplex: what does it take to ask, and to be answered?"

    def height(groups: Groups) -> float:
        return FOOT + sum(HEAD + ROW * len(members) for members in groups.values())

    return draw(run, Measure.DUPLEX, title, note, height, _duplex)


def _duplex(chart: Chart, groups: Groups, top: float) -> None:
    """A row for each protocol under the heading of its guarantee; a panel for each column, over all rows."""
    rows: dict[float, Group] = {}
    y = 0.0
    for guarantee, members in groups.items():
        heading(chart, MARGIN, top + 20 + y + 24, guarantee)
        y, told = y + HEAD, []
        for group in members:
            rows[y + ROW / 2] = group
            cautions, middle = group.cautions(), top + 20 + y + ROW / 2
            chart.write(MARGIN, middle - (6 if cautions else 0), group.label, color=group.ink, fontweight="bold")
            chart.write(MARGIN, middle + 7, " · ".join(cautions), fontsize=8)
            told.append(", ".join([group.label, *(_words(group, name) for name in PANELS), *cautions]))
            y += ROW
        chart.alt += f" {str(guarantee).capitalize()}, lower is better: {'; '.join(told)}."
    for name, (left, width, words) in PANELS.items():
        metric, axes = METRICS[name], chart.panel(left, top + 20, width, y)
        axes.set(ylim=(y, 0), yticks=())
        axes.spines["left"].set_visible(False)
        end = chart.write(left, top + 6, words, fontweight="bold")
        chart.write(end + 8, top + 6, {TIMES: _lines(rows), CONNECTIONS: "per subscriber"}.get(name, ""), color=SOFT)
        unit = metric.unit + (", log scale" if name == TIMES else "")
        axes.set_xlabel(f"{unit}  (← {metric.better} is better)")
        (_dots if name == TIMES else _bars)(axes, rows, name)


def _lines(rows: dict[float, Group]) -> str:
    """What a mark and its lines are, as far as there are any."""
    ends = {"thick line to p90": "p90_ms", "thin to p99": "p99_ms"}
    there = [words for words, name in ends.items() if any(_value(group, name) > 0 for group in rows.values())]
    return ", ".join(["median", *there])


def _value(group: Group, name: str) -> float:
    """The median of the repeats; connections by subscribers."""
    value = float(group.rows[name].astype(float).median())
    return value / group.trial.workload.subscribers if name == CONNECTIONS else value


def _words(group: Group, name: str, spell: bool = True) -> str:
    """A figure as it stands beside its mark, and with its unit in the alternative text."""
    value, metric = _value(group, name), METRICS[name]
    if name == TIMES:
        shown = {share: _value(group, f"{share}_ms") for share in ("p50", "p90", "p99")}
        there = [f"{share} {figure:,.{metric.digits}f}" for share, figure in shown.items() if not math.isnan(figure)]
        return f"{' · '.join(there)} {metric.unit}" if there else "too few answers for p50"
    if math.isnan(value):
        return "nothing answered" if name == BYTES else "not counted"
    if name == BYTES:
        return f"{value:,.0f} {metric.unit}" if spell else f"{value:,.0f}"
    return f"connections per subscriber {value:.3g}" if spell else f"{value:.3g}"


def _dots(axes: Axes, rows: dict[float, Group], name: str) -> None:
    """Medians on a logarithmic axis, with a line to the higher percentiles there are."""
    shares = [[_value(group, f"{share}_ms") for share in ("p50", "p90", "p99")] for group in rows.values()]
    there = [value for values in shares for value in values if value > 0] or [1.0]
    low, high = min(there) / 1.5, max(max(there) * 1.2, min(there) * 10)
    axes.set(xscale="log", xlim=(low, high))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    for (y, group), (p50, p90, p99) in zip(rows.items(), shares, strict=True):
        look = group.look
        axes.hlines(y, p50, p99, color=look.colour, lw=1.2, ls=look.dash)
        axes.hlines(y, p50, p90, color=look.colour, lw=4, alpha=0.5)
        hollow = bool(group.rows["saturated"].any())
        axes.plot(p50, y, look.marker, color=look.colour, mfc="white" if hollow else look.colour, ms=8, clip_on=False)
        axes.annotate(_words(group, name), (high, y), (12, 0), annotation_clip=False, **BESIDE)


def _bars(axes: Axes, rows: dict[float, Group], name: str) -> None:
    longest = max([value for group in rows.values() if (value := _value(group, name)) > 0], default=1.0)
    axes.set_xlim(0, longest * 1.3)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    for y, group in rows.items():
        value = 0.0 if math.isnan(_value(group, name)) else _value(group, name)
        axes.barh(y, value, 16, color=group.look.colour, hatch=group.look.hatch, ec="white", lw=0)
        axes.annotate(_words(group, name, spell=False), (value, y), (4, 0), **BESIDE)
