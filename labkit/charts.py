"""Charts: a run in, one figure for each question out: latency, bandwidth, disconnect-loss.

Everything drawn or said comes from the run, and one run folder always gives the same bytes.
"""

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray
from tqdm.auto import tqdm

from labkit.audit import Fate
from labkit.captions import byte_count, percent, setting
from labkit.looks import LOOKS, MARGIN, PALE, SOFT, WIDTH, Chart, Look, styled
from labkit.protocols import PROTOCOLS
from labkit.results import ENOUGH, METRICS, Recording, Run, percentile
from labkit.trial import Guarantee, Measure, Payload

VERDICTS = ("inconclusive", "lossy", "complete")
BESIDE: dict[str, Any] = {"textcoords": "offset points", "va": "center_baseline"}
MEANING = {
    Guarantee.AT_MOST_ONCE: "out of the box",
    Guarantee.AT_LEAST_ONCE: "recovery switched on",
    Guarantee.DURABLE: "and the log on disk",
}


FATES = {
    Fate.ON_TIME: ("arrived on time", "#e4eaef", ""),
    Fate.LATE: ("arrived once the link was back", "#a9bccb", ""),
    Fate.REJECTED: ("lost, the producer knew", "#f2d13c", "///"),
    Fate.GAP_SEEN: ("lost, the consumer knew", "#9a6414", "\\\\\\"),
    Fate.SILENT: ("lost, nobody knew", "#4a0d2b", "xxx"),
}
"""Words, colour and hatch, from good to bad; the lost are hatched, and darker the fewer knew."""


@dataclass(frozen=True)
class _Group:
    """One protocol with one guarantee: all its repeats, pooled. `rows` are theirs in the frame of the measure."""

    recordings: list[Recording]
    rows: pd.DataFrame

    @property
    def look(self) -> Look:
        return LOOKS[self.recordings[0].trial.protocol]

    @property
    def ink(self) -> tuple[float, ...]:
        """Its colour, as dark as text on white has to be (WCAG contrast 4.5)."""
        colour = np.array(to_rgb(self.look.colour))
        while colour**2.2 @ (0.2126, 0.7152, 0.0722) > 1.05 / 4.5 - 0.05:
            colour *= 0.95
        return tuple(float(part) for part in colour)

    @property
    def label(self) -> str:
        trial = self.recordings[0].trial
        return PROTOCOLS[trial.protocol].title + (", thin" if trial.payload is Payload.THIN else "")

    @property
    def verdict(self) -> str:
        return min((recording.outcome.verdict for recording in self.recordings), key=VERDICTS.index)

    def count(self, *fates: Fate) -> int:
        return sum(recording.outcome.count(*fates) for recording in self.recordings)

    def latencies_ms(self) -> NDArray[np.float64]:
        return np.sort(np.concatenate([recording.latencies_ms() for recording in self.recordings]))

    def cautions(self) -> list[str]:
        """What a reader has to know before trusting its figures."""
        arrived, owed = self.count(Fate.ON_TIME, Fate.LATE), self.count(*Fate)
        saturated = "saturated" in self.rows and self.rows["saturated"].any()
        found = {
            f"only {percent(arrived, owed)} arrived": 0 < arrived < owed,
            "inconclusive": self.verdict == "inconclusive",
            "⚠ generator saturated": saturated,
        }
        return [words for words, true in found.items() if true]


Groups = dict[Guarantee, list[_Group]]


def latency(run: Run) -> Chart:
    """How long after it was due an event arrived: the distribution of each protocol, up to the rare slow ones."""
    note = f"""Latency: first arrival minus the time the event was due, all subscribers together. A curve stops where
        fewer than {ENOUGH} deliveries lie beyond it, and says nothing of what never arrived. Dashed: the baselines."""
    title = "Latency: how long after it was due did an event arrive?"
    return _draw(run, Measure.LATENCY, title, note, lambda groups: 440, _latency)


def bandwidth(run: Run) -> Chart:
    """What one delivery, one set-up and one idle second cost in TCP stream bytes."""
    note = """TCP stream bytes at the link: no IP/TCP headers, no retransmissions. Per delivery: the bytes of the load
        by the events that arrived. Set-up and idle: both directions together. A cut bar is longer than drawn.
        Hatched: the baselines."""
    title = "Bandwidth: how many bytes does a protocol spend on one event?"
    return _draw(run, Measure.BANDWIDTH, title, note, lambda groups: 44 + _starts(groups)[-1], _bandwidth)


def loss(run: Run) -> Chart:
    """What became of the deliveries owed while the link broke, and who could know of those that were lost."""
    note = """Owed: every event offered while the subscription stood, the outage included. Inconclusive: something was
        still on its way when the trial ended, so what is missing cannot be called lost."""
    title = "Disconnect-loss: what became of the events when the link broke?"
    return _draw(run, Measure.LOSS, title, note, lambda groups: 106 + 54 * max(map(len, groups.values())), _loss)


def save(run: Run, out: Path) -> list[Path]:
    """Writes out/{latency,bandwidth,loss}.{png,svg}; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    files: dict[Path, bytes] = {}
    drawings = (("latency", latency), ("bandwidth", bandwidth), ("loss", loss))
    for name, draw in tqdm(drawings, desc="charts", unit="chart", leave=False):
        chart = draw(run)
        files |= {out / f"{name}.png": chart.png(), out / f"{name}.svg": chart.svg()}
    for path, data in files.items():
        path.write_bytes(data)
    return list(files)


Height = Callable[[Groups], float]
Body = Callable[[Chart, Groups, float], None]


def _draw(run: Run, measure: Measure, title: str, note: str, height: Height, body: Body) -> Chart:
    """Title, setting, body and notes; where no trial finished, one sentence that says so."""
    frame: pd.DataFrame = getattr(run, measure)
    recordings, groups = run.of(measure), Groups()
    kinds = [(r.trial.guarantee, r.trial.protocol, r.trial.payload) for r in recordings]
    for kind in sorted(dict.fromkeys(kinds), key=lambda kind: list(Guarantee).index(kind[0])):
        mine = [number for number, other in enumerate(kinds) if other == kind]
        groups.setdefault(kind[0], []).append(_Group([recordings[number] for number in mine], frame.iloc[mine]))
    lines = [f"This run has no finished {measure} trial, so there is nothing to draw"]
    lines = setting([recording.trial for recording in recordings]) if recordings else lines
    failed = ", ".join(name for name in run.errors if name.startswith(f"{measure}-"))
    failed = failed and f"Failed, and so not shown: {failed}."
    notes = [line for text in (note if groups else "", failed) for line in textwrap.wrap(" ".join(text.split()), 190)]
    top = 56 + 17 * len(lines) + 12
    with styled():
        chart = Chart(top + (height(groups) if groups else 0) + 17 * len(notes) + 26, title)
        chart.alt = " ".join([title, *(f"{line}." for line in lines), *failed.splitlines()])
        for number, line in enumerate(lines):
            chart.write(MARGIN, 56 + 17 * number, line, color=SOFT)
        for number, line in enumerate(reversed(notes)):
            chart.write(MARGIN, chart.height - 20 - 17 * number, line, color=SOFT, fontsize=8)
        if groups:
            body(chart, groups, top)
    return chart


def _heading(chart: Chart, x: float, y: float, guarantee: Guarantee) -> None:
    end = chart.write(x, y, str(guarantee), fontsize=11, fontweight="bold")
    chart.write(end + 8, y, MEANING[guarantee], color=SOFT)


def _latency(chart: Chart, groups: Groups, top: float) -> None:
    """Curves on an axis of nines, one panel for each guarantee."""
    samples = [group.latencies_ms() for members in groups.values() for group in members]
    every = np.concatenate([*samples, [] if sum(map(len, samples)) else [0.1, 1.0]])
    low, high = max(every.min(), 1e-3) / 1.3, max(every.max(), 2e-3) * 1.3
    nines = max(math.log10(max(map(len, samples)) / ENOUGH + 1e-9), 1.0) + 0.05
    nines = max(nines, math.ceil(nines - 0.3) + 0.05)
    shares = [0.5] + [1 - 10.0**-n for n in range(1, math.floor(nines) + 1)]
    metric, span = METRICS["p50_ms"], (WIDTH - MARGIN - 74) / len(groups)
    for column, (guarantee, members) in enumerate(groups.items()):
        _heading(chart, 74 + column * span, top + 8, guarantee)
        axes = chart.panel(74 + column * span, top + 28, span - 215, 370)
        axes.set(xlim=(0, nines), ylim=(low, high), yscale="log", xlabel="share of deliveries at least this fast")
        axes.set_xticks([-math.log10(1 - share) for share in shares], [f"{100 * share:.8g} %" for share in shares])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: "")
        if column == 0:
            axes.set_ylabel(f"latency in {metric.unit}, log scale  (← {metric.better} is better)")
        told = "; ".join(_curves(chart, axes, members))
        chart.alt += f" {str(guarantee).capitalize()}, {metric.better} is better: {told}."


def _curves(chart: Chart, axes: Axes, members: list[_Group]) -> list[str]:
    """Draws curves, and beside them names and figures, moved apart as far as they need; returns those in words."""
    box, blocks, ends = axes.bbox, [], []
    for group in members:
        look, ordered = group.look, group.latencies_ms()
        blocks.append([_figures(ordered), *group.cautions()])
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
    heights = [25.0 + 13 * len(block) for block in blocks]
    centres = _dodge([end[1] * box.height for end in ends], heights, -20, box.height + 20)
    for group, block, end, height, centre in zip(members, blocks, ends, heights, centres, strict=True):
        path = ((end[0], 1, 1 + 22 / box.width), (end[1], end[1], centre / box.height))
        if end[0] < 1:
            style = ":" if end[0] < 0.85 else "-"
            axes.plot(*path, style, lw=0.8, color=group.ink, transform=axes.transAxes, clip_on=False)
        left, y = box.x1 + 27, chart.height - box.y0 - centre - height / 2 + 12
        chart.write(left, y, group.label, color=group.ink, fontweight="bold")
        for number, line in enumerate(block):
            chart.write(left, y + 14 + 13 * number, line, fontsize=8, fontweight="bold" if number else "normal")
    return [", ".join([group.label, *block]).replace(" ·", ",") for group, block in zip(members, blocks, strict=True)]


def _curve(ordered: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nines and milliseconds, up to where too few samples remain."""
    nines = np.linspace(0, math.log10(max(len(ordered), ENOUGH) / ENOUGH), 200)
    return nines, np.maximum(np.quantile(ordered, 1 - 10**-nines), 1e-3) if len(ordered) else nines * np.nan


def _dodge(wanted: Sequence[float], heights: Sequence[float], low: float, high: float) -> list[float]:
    """Centres nearest to those wanted (least squares, by isotonic regression), none overlapping, within the limits."""
    order = np.argsort(wanted, kind="stable")
    tall, n = np.array(heights)[order], len(order)
    stacked = np.cumsum(tall) - tall / 2
    free = np.array(wanted)[order] - stacked
    fit = [max(min(free[i : k + 1].mean() for k in range(j, n)) for i in range(j + 1)) for j in range(n)]
    centres = np.empty(n)
    centres[order] = np.clip(fit, low, max(high - tall.sum(), low)) + stacked
    return [float(centre) for centre in centres]


def _figures(ordered: NDArray[np.float64]) -> str:
    """Median and 99th percentile, as far as the samples allow."""
    p50, p99, (_, unit, digits, _) = percentile(ordered, 0.5), percentile(ordered, 0.99), METRICS["p50_ms"]
    if p50 is None:
        return f"{len(ordered)} arrived, too few for p50" if len(ordered) else "nothing arrived"
    rest = f" {unit}, too few for p99" if p99 is None else f" · p99 {p99:,.{digits}f} {unit}"
    return f"p50 {p50:,.{digits}f}{rest}"


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


def _costs(group: _Group) -> list[_Cost]:
    """Of a delivery (NaN where nothing arrived); of set-up and of an idle second per subscriber, both ways together."""
    total, mean = group.rows.sum(numeric_only=True), group.rows.mean(numeric_only=True)
    arrived, hosts = float(total["deliveries"]) or math.nan, group.recordings[0].trial.workload.subscribers
    return [
        _Cost(total["load_up"] / arrived, total["load_down"] / arrived, total["payload_bytes"] / arrived),
        _Cost(0, (mean["setup_up"] + mean["setup_down"]) / hosts),
        _Cost(0, (mean["idle_up_per_s"] + mean["idle_down_per_s"]) / hosts),
    ]


def _starts(groups: Groups) -> list[float]:
    """Where the bars of each guarantee begin, and the next would, in pixels from the top of the panel."""
    return [float(y) for y in np.cumsum([34] + [32 * len(members) + 34 for members in groups.values()])]


def _bandwidth(chart: Chart, groups: Groups, top: float) -> None:
    """Bars: a delivery's bytes in both directions, and beside them what it costs to connect and to stay idle."""
    places: dict[float, tuple[_Group, list[_Cost]]] = {}
    for start, (guarantee, members) in zip(_starts(groups), groups.items(), strict=False):
        _heading(chart, MARGIN, top + 24 + start - 14, guarantee)
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


def _bars(axes: Axes, places: dict[float, tuple[_Group, _Cost]], both: bool) -> float:
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


def _loss(chart: Chart, groups: Groups, top: float) -> None:
    """One bar of shares for each protocol, one panel for each guarantee, a line of keys above."""
    x, span = float(MARGIN), (WIDTH - MARGIN) / len(groups)
    for words, colour, hatch in FATES.values():
        axes = chart.panel(x, top - 3, 22, 13)
        axes.barh(0, 1, color=colour, hatch=hatch, ec="white", lw=0)
        axes.set(xlim=(0, 1), ylim=(-0.4, 0.4))
        axes.set_axis_off()
        x = chart.write(x + 29, top + 4, words) + 24
    for column, (guarantee, members) in enumerate(groups.items()):
        left = MARGIN + column * span
        _heading(chart, left, top + 38, guarantee)
        axes = chart.panel(left + 146, top + 52, span - 146 - 170, 54 * len(members))
        axes.set(xlim=(0, 100), ylim=(54 * len(members), 0), yticks=(), xticks=(0, 25, 50, 75, 100))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        axes.set_xlabel("share of deliveries owed  (arrived: more is better →)")
        axes.spines["left"].set_visible(False)
        told = []
        for number, group in enumerate(members):
            y = 54 * number + 27
            chart.write(left, top + 52 + y, group.label, color=group.ink, fontweight="bold")
            told.append(_shares(axes, y, group))
        chart.alt += f" {str(guarantee).capitalize()}: {'; '.join(told)}."


def _shares(axes: Axes, y: float, group: _Group) -> str:
    """One bar, at its end the verdict; returns the same in words."""
    at, owed, lost = 0.0, group.count(*Fate), group.count(Fate.REJECTED, Fate.GAP_SEEN, Fate.SILENT)
    for fate, (_, colour, hatch) in FATES.items():
        share = 100 * group.count(fate) / (owed or 1)
        axes.barh(y, share, left=at, height=24, color=colour, hatch=hatch, ec="white", lw=0)
        at += share
    lines = [f"{group.verdict}: {percent(lost, owed)} lost", f"{lost:,} of {owed:,}"]
    if group.verdict == "inconclusive":
        lines = [group.verdict, f"{percent(lost, owed)} missing", lines[1]]
        axes.barh(y, 100, height=36, color="none", hatch="..", ec=SOFT, lw=1, ls="--", clip_on=False)
    if again := int(group.rows["duplicated"].sum()):
        lines.append(f"+{again:,} duplicate{'s' if again > 1 else ''}")
    for number, line in enumerate(lines):
        how: dict[str, Any] = {"fontsize": 8} if number else {"fontweight": "bold"}
        down = 9.4 * (number - (len(lines) - 1) / 2)
        axes.annotate(line, (100, y), (7, -down), **BESIDE, **how)
    fates = (f"{group.count(fate):,} {FATES[fate][0]}" for fate in FATES if group.count(fate))
    return f"{group.label} {', '.join(lines)} ({', '.join(fates)})"
