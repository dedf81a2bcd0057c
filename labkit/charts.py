"""Charts: a run in, one figure for each question out: latency, bandwidth, disconnect-loss.

Everything drawn or said comes from the run, and one run folder always gives the same bytes.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray
from tqdm.auto import tqdm

from labkit import disk
from labkit.captions import byte_count
from labkit.dialogue import duplex as duplex
from labkit.errors import UsageError
from labkit.figures import ENOUGH, METRICS
from labkit.intervals import MEDIANS, Interval, interval
from labkit.looks import MARGIN, MARKS, PALE, SOFT, WIDTH, Chart
from labkit.losses import loss as loss
from labkit.losses import matrix as matrix
from labkit.overlay import overlay as overlay
from labkit.ranking import ranking as ranking
from labkit.results import Run, opened
from labkit.sequence import sequence as sequence
from labkit.sequence import sequential
from labkit.sheet import Group, Groups, dodge, draw, heading, outage_of
from labkit.sweeps import sweep as sweep
from labkit.timeline import timeline as timeline
from labkit.trial import Measure

BESIDE: dict[str, Any] = {"textcoords": "offset points", "va": "center_baseline"}

TALL, AROUND, LABELS, BOUNDED = 370.0, 94.0, 215.0, 240.0
"""Of a panel of curves: its height at least, what is above and below it, and what its labels take of the width, without
and with bounds."""

HEAD, LINE, OVER = 25.0, 13.0, 20.0
"""Heights of a label's name and of a line below it; how far above and below the panel labels may go."""


def latency(run: Run | Path | str) -> Chart:
    """How long after it was due an event arrived: the distribution of each protocol, up to the rare slow ones."""
    run = opened(run)
    note = f"""Latency: first arrival minus the time the event was due, all subscribers together. A curve stops where
        fewer than {ENOUGH} deliveries lie beyond it, and says nothing of what never arrived. Dashed: the baselines."""
    if any(recording.trial.repeat > 1 for recording in run.of(Measure.LATENCY)):
        note += f" Curves: all repeats pooled. Figures: {MEDIANS}."
    title = "Latency: how long after it was due did an event arrive?"
    return draw(run, Measure.LATENCY, title, note, lambda groups: sum(_rows(groups)) - 24, _latency)


def bandwidth(run: Run | Path | str) -> Chart:
    """What one delivery, one set-up and one idle second cost in TCP stream bytes."""
    run = opened(run)
    note = """TCP stream bytes at the link: no IP/TCP headers, no retransmissions. Per delivery: the bytes of the load
        by the events that arrived. Set-up and idle: both directions together. A cut bar is longer than drawn.
        Hatched: the baselines."""
    if any(recording.trial.repeat > 1 for recording in run.of(Measure.BANDWIDTH)):
        note += " Of several repeats that in the middle is shown."
    title = "Bandwidth: how many bytes does a protocol spend on one event?"
    return draw(run, Measure.BANDWIDTH, title, note, lambda groups: 44 + _starts(groups)[-1], _bandwidth)


def drawings(run: Run, every: bool = True) -> dict[str, Callable[[Run], Chart]]:
    """The charts of a run by name: latency, bandwidth, loss; matrix and timeline where something broke.

    The time line is that of the first kind of outage; every other kind has one called timeline-KIND. A run with
    requests has duplex besides, one with a single subscriber a sequence of each protocol; a sweep has sweep alone.
    every: the first three also where nothing of them was measured, which they then say.
    """
    if run.swept:
        return {"sweep": sweep}
    three: dict[Measure, Callable[[Run], Chart]]
    three = {Measure.LATENCY: latency, Measure.BANDWIDTH: bandwidth, Measure.LOSS: loss}
    found = {str(measure): drawing for measure, drawing in three.items() if every or run.of(measure)}
    broken = [recording.trial for recording in run.of(Measure.LOSS)]
    found |= {"matrix": matrix, "timeline": timeline} if broken else {}
    kinds = dict.fromkeys(map(outage_of, broken))
    found |= {f"timeline-{kind}": partial(timeline, outage=kind) for kind in list(kinds)[1:]}
    alone = dict.fromkeys(trial.protocol for trial in broken if sequential(trial))
    found |= {f"sequence-{protocol}": partial(sequence, protocol=protocol) for protocol in alone}
    return found | ({"duplex": duplex} if run.of(Measure.DUPLEX) else {})


def save(run: Run | Path | str, out: Path) -> list[Path]:
    """Writes each of the run's `drawings` to out, as png and svg; returns the paths."""
    run = opened(run)
    written, _ = write({name: partial(drawing, run) for name, drawing in drawings(run).items()}, out)
    return written


Named = Mapping[str, Callable[[], Chart]]
"""What draws each chart, by name."""

Drawn = tuple[str, dict[str, bytes] | str]
"""A chart's name, and its files by their endings; or why it could not be drawn."""


def drawn(named: Named) -> Iterator[Drawn]:
    """Draws them one after the other."""
    for name, make in named.items():
        try:
            chart = make()
            yield name, {".png": chart.png(), ".svg": chart.svg()}
        except UsageError as error:
            yield name, f"no such chart could be drawn: {error}"


def write(
    named: Named, out: Path, drawing: Callable[[Named], Iterable[Drawn]] = drawn
) -> tuple[list[Path], dict[str, str]]:
    """Draws each chart and writes it to out/NAME.{png,svg}. A name may have a folder in it.

    Returns the paths, and by name why a chart could not be drawn. UsageError, before anything is drawn, where a file
    that is no chart of labkit has the name of one.
    """
    for path in (out / f"{name}{ending}" for name in named for ending in MARKS):
        if path.exists() and not _is_chart(path):
            raise UsageError(f"{str(path)!r} is no chart of labkit, and is kept as it is; choose another folder.")
        disk.folder(path.parent)
    progress = tqdm(drawing(named), "charts", len(named), leave=False, disable=not named, unit="chart")
    found = dict(progress)
    written: list[Path] = []
    undrawn: dict[str, str] = {}
    for name in named:
        match found[name]:
            case str(why):
                undrawn[name] = why
            case files:
                for ending, data in files.items():
                    written.append(out / f"{name}{ending}")
                    written[-1].write_bytes(data)
    return written, undrawn


def others(written: Iterable[Path]) -> list[Path]:
    """The charts that lie beside those just written, and are of another run."""
    mine = set(written)
    beside = sorted(path for folder in {path.parent for path in mine} for path in folder.iterdir())
    return [path for path in beside if path not in mine and path.suffix in MARKS and _is_chart(path)]


def _is_chart(path: Path) -> bool:
    return path.is_file() and MARKS[path.suffix] in path.read_bytes()


def _latency(chart: Chart, groups: Groups, top: float) -> None:
    """Curves on an axis of nines, one panel for each guarantee, two beside each other."""
    samples = [group.latencies_ms() for members in groups.values() for group in members]
    every = np.concatenate([*samples, [] if sum(map(len, samples)) else [0.1, 1.0]])
    low, high = max(every.min(), 1e-3) / 1.3, max(every.max(), 2e-3) * 1.3
    nines = max(math.log10(max(map(len, samples)) / ENOUGH + 1e-9), 1.0) + 0.05
    nines = max(nines, math.ceil(nines - 0.3) + 0.05)
    shares = [0.5] + [1 - 10.0**-n for n in range(1, math.floor(nines) + 1)]
    metric, span, rows = METRICS["p50_ms"], (WIDTH - MARGIN - 74) / min(len(groups), 2), _rows(groups)
    beside = BOUNDED if any(len(group.recordings) > 1 for members in groups.values() for group in members) else LABELS
    for number, (guarantee, members) in enumerate(groups.items()):
        left, above = 74 + number % 2 * span, top + sum(rows[: number // 2])
        heading(chart, left, above + 8, guarantee)
        axes = chart.panel(left, above + 28, span - beside, rows[number // 2] - AROUND)
        axes.set(xlim=(0, nines), ylim=(low, high), yscale="log", xlabel="share of deliveries at least this fast")
        axes.set_xticks([-math.log10(1 - share) for share in shares], [f"{100 * share:.8g} %" for share in shares])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: "")
        if number % 2 == 0:
            axes.set_ylabel(f"latency in {metric.unit}, log scale  (← {metric.better} is better)")
        told = "; ".join(_curves(chart, axes, members))
        chart.alt += f" {str(guarantee).capitalize()}, {metric.better} is better: {told}."


def _rows(groups: Groups) -> list[float]:
    """The height of each row of two panels: with as much room as its labels need."""
    needed = [
        sum(HEAD + LINE * len([*_figures(group), *group.cautions()]) for group in members) - 2 * OVER
        for members in groups.values()
    ]
    return [max(TALL, *needed[first : first + 2]) + AROUND for first in range(0, len(needed), 2)]


def _curves(chart: Chart, axes: Axes, members: list[Group]) -> list[str]:
    """Draws curves, and beside them names and figures, moved apart as far as they need; returns those in words."""
    box, blocks, ends = axes.bbox, [], []
    for group in members:
        look, ordered = group.look, group.latencies_ms()
        blocks.append([*_figures(group), *group.cautions()])
        ends.append((1.0, 1.0))
        if len(ordered) <= ENOUGH:
            continue
        saturated = bool(group.rows["saturated"].any())
        how: dict[str, Any] = {"color": look.colour, "clip_on": False, "alpha": 0.35 if saturated else 1.0}
        for recording in group.recordings if len(group.recordings) > 1 else []:
            axes.plot(*_curve(recording.latencies_ms()), ls=look.dash, lw=0.6, **how)
        x, y = _curve(ordered)
        axes.plot(x, y, ls=look.dash, lw=2, **how)
        marks = [tick for tick in axes.get_xticks() if tick <= x[-1]]
        axes.plot(marks, np.interp(marks, x, y), look.marker, mfc="white" if saturated else look.colour, **how)
        across, up = axes.transAxes.inverted().transform(axes.transData.transform((x[-1], y[-1])))
        ends[-1] = (float(across), float(up))
    heights = [HEAD + LINE * len(block) for block in blocks]
    centres = dodge([end[1] * box.height for end in ends], heights, -OVER, box.height + OVER)
    for group, block, end, height, centre in zip(members, blocks, ends, heights, centres, strict=True):
        path = ((end[0], 1, 1 + 22 / box.width), (end[1], end[1], centre / box.height))
        if end[0] < 1:
            style = ":" if end[0] < 0.85 else "-"
            axes.plot(*path, style, lw=0.8, color=group.ink, transform=axes.transAxes, clip_on=False)
        left, y = box.x1 + 27, chart.height - box.y0 - centre - height / 2 + 12
        chart.write(left, y, group.label, color=group.ink, fontweight="bold")
        for number, line in enumerate(block):
            plain = number < len(_figures(group))
            chart.write(left, y + 14 + LINE * number, line, fontsize=8, fontweight="normal" if plain else "bold")
    return [", ".join([group.label, *block]).replace(" ·", ",") for group, block in zip(members, blocks, strict=True)]


def _curve(ordered: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nines and milliseconds, up to where too few samples remain."""
    nines = np.linspace(0, math.log10(max(len(ordered), ENOUGH) / ENOUGH), 200)
    return nines, np.maximum(np.quantile(ordered, 1 - 10**-nines), 1e-3) if len(ordered) else nines * np.nan


def _figures(group: Group) -> list[str]:
    """Median and 99th percentile, as far as the samples allow; of repeats the median of theirs, each with bounds."""
    every = {name: interval(group.rows[f"{name}_ms"].astype(float)) for name in ("p50", "p99")}
    there = {name: found for name, found in every.items() if not math.isnan(found.median)}
    lacking = next((name for name in every if name not in there), None)
    if not (arrived := len(group.latencies_ms())):
        return ["nothing arrived"]
    if len(group.recordings) > 1:
        few = [f"too few in each repeat for {lacking}"] if lacking else []
        return [f"{name} {_bounded(found)}" for name, found in there.items()] + few
    digits = 0 if max((found.median for found in there.values()), default=0) >= 1000 else METRICS["p50_ms"].digits
    figures = " · ".join(f"{name} {found.median:,.{digits}f}" for name, found in there.items())
    start = f"{figures} {METRICS['p50_ms'].unit}" if there else f"{arrived} arrived"
    return [start + (f", too few for {lacking}" if lacking else "")]


def _bounded(found: Interval) -> str:
    median, low, high = (f"{value:,.{METRICS['p50_ms'].digits if value < 100 else 0}f}" for value in found)
    return f"{median} {METRICS['p50_ms'].unit}" + ("" if math.isnan(found.low) else f" ({low} to {high})")


class _Cost(NamedTuple):
    """Bytes to the producer, to the consumer, and the part of the latter that is payload."""

    up: float
    down: float
    payload: float = 0.0

    def __str__(self) -> str:
        over = self.down - self.payload
        if math.isnan(over):
            return "nothing arrived"
        start = f"{byte_count(self.payload)} {'−' if over < 0 else '+'} " if self.payload else ""
        return start + byte_count(abs(over))


COLUMNS = (
    (214, 504, "to the consumer:", "bytes per delivery"),
    (752, 174, "set-up, per subscriber", "bytes"),
    (952, 174, "idle, per subscriber", "bytes/s"),
)
"""Left edge, width, heading and unit of each panel of bars, in the order of `_costs`."""


def _costs(group: Group) -> list[_Cost]:
    """Of a delivery (NaN where nothing arrived); of set-up and of an idle second per subscriber, both ways together."""
    rows, hosts = group.rows, group.trial.workload.subscribers
    arrived = rows["deliveries"].where(rows["deliveries"] > 0)
    up, down, payload = (rows[name] / arrived for name in ("load_up", "load_down", "payload_bytes"))
    middle = _middle(up + down)
    return [
        _Cost(*(float(each[middle].mean()) for each in (up, down, payload))),
        _Cost(0, float((rows["setup_up"] + rows["setup_down"]).median()) / hosts),
        _Cost(0, float((rows["idle_up_per_s"] + rows["idle_down_per_s"]).median()) / hosts),
    ]


def _middle(values: "pd.Series[float]") -> "pd.Index[Any]":
    """Where the median is: at one row, or between two. No row where no value is known."""
    ordered = values.dropna().sort_values(kind="stable").index
    return ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]


def _starts(groups: Groups) -> list[float]:
    """Where the bars of each guarantee begin, and the next would, in pixels from the top of the panel."""
    return [float(y) for y in np.cumsum([34] + [32 * len(members) + 34 for members in groups.values()])]


def _bandwidth(chart: Chart, groups: Groups, top: float) -> None:
    """Bars: a delivery's bytes in both directions, and beside them what it costs to connect and to stay idle."""
    places: dict[float, tuple[Group, list[_Cost]]] = {}
    for start, (guarantee, members) in zip(_starts(groups), groups.items(), strict=False):
        heading(chart, MARGIN, top + 24 + start - 14, guarantee)
        chart.alt += f" {str(guarantee).capitalize()}, bytes per delivery (payload + overhead), set-up and idle: "
        told = []
        for y, group in zip(np.arange(len(members)) * 32 + start + 16, members, strict=True):
            places[float(y)] = group, (costs := _costs(group))
            load, setup, idle = costs
            way = f" to the consumer, {byte_count(load.up)} to the producer" if load.down >= 0 else ""
            stay = f"{setup} bytes and {idle} bytes/s per subscriber"
            told.append(", ".join([f"{group.label} {load}{way}", stay, *group.cautions()]))
            words = " · ".join(group.cautions())
            chart.write(MARGIN, top + 24 + y - (7 if words else 0), group.label, color=group.ink, fontweight="bold")
            chart.write(MARGIN, top + 24 + y + 6, words, fontsize=8)
        chart.alt += "; ".join(told) + "."
    better = METRICS["overhead_per_delivery"].better
    for number, (left, width, words, unit) in enumerate(COLUMNS):
        axes = chart.panel(left, top + 24, width, _starts(groups)[-1] - 34)
        zero = left + _bars(axes, {y: (group, costs[number]) for y, (group, costs) in places.items()}, number == 0)
        axes.set_xlabel(f"{unit}  ({'← ' if number else '→ towards 0: '}{better} is better{'' if number else ' ←'})")
        end = chart.write(zero + (0 if number else 8), top + 10, words, fontweight="bold")
        if number == 0:
            chart.write(zero - 8, top + 10, "to the producer", fontweight="bold", ha="right")
            end = chart.write(end + 8, top + 10, "■", color=PALE, fontsize=12)
            chart.write(end + 4, top + 10, "payload + overhead", color=SOFT)


def _bars(axes: Axes, places: dict[float, tuple[Group, _Cost]], both: bool) -> float:
    """Bars to the right of a zero line and, with both ways, to its left; returns where zero is."""
    width, (before, after) = axes.bbox.width, (56, 96) if both else (0, 62)
    times, costs = (3 if both else 8), [cost for _, cost in places.values()]
    up, down = _cap([cost.up for cost in costs], times), _cap([cost.down for cost in costs], times)
    zero = max(before + up * (width - before - after) / (up + down), 110) if both else 0.0
    scale = (width - zero - after) / down
    axes.set(xlim=(-zero / scale, (width - zero) / scale), ylim=(axes.bbox.height, 0), yticks=())
    axes.xaxis.set_major_locator(MaxNLocator(6 if both else 3))
    axes.xaxis.set_major_formatter(lambda value, _: byte_count(abs(value)))
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=SOFT, lw=1)
    for y, (group, cost) in places.items():
        look, filled = group.look, min(cost.payload, cost.down, down)
        axes.barh(y, filled, height=16, color=PALE)
        ways = [(1, filled, cost.down, down, str(cost)), (-1, 0.0, cost.up, up, byte_count(cost.up))]
        for sign, start, end, cap, label in ways[: 1 + both]:
            stop = sign * min(end, cap) if end >= 0 else 0.0
            axes.barh(y, stop - start, 16, start, color=look.colour, hatch=look.hatch, ec="white", lw=0)
            if end > cap:
                cut = stop + (np.array([-5, 0, 5, 0]) - sign * 14) / scale
                axes.fill(cut, [y + 9, y + 9, y - 9, y - 9], color="white", lw=0, zorder=3)
            axes.annotate(label, (stop, y), (4 * sign, 0), fontsize=8, ha="left" if sign > 0 else "right", **BESIDE)
    return zero


def _cap(values: Sequence[float], times: float) -> float:
    """Where bars are cut: one value so many times the median must not flatten the others."""
    there = [value for value in values if value > 0]
    return min(max(there), times * float(np.median(there))) if there else 1.0
