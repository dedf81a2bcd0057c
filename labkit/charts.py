"""Charts: a run in, one figure for each question out: latency, bandwidth, disconnect-loss.

Everything drawn or said comes from the run. Nothing here touches pyplot or global state, and one run folder
always gives the same bytes.
"""

import base64
import html
import io
import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import NDArray

from labkit.audit import Fate
from labkit.outage import OUTAGES
from labkit.protocols import PROTOCOLS
from labkit.results import ENOUGH, METRICS, Recording, Run
from labkit.trial import Guarantee, Measure, Payload

DPI = 100
WIDTH, MARGIN = 1150, 24
"""Pixels. All layout is in pixels from the top left, so that text and bars cannot drift apart."""

INK, SOFT, RULE, PALE = "#1b1f24", "#57606a", "#d8dee4", "#cfd6dd"
STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "hatch.linewidth": 1.0,
    "path.simplify": True,
    "svg.fonttype": "path",
    "svg.hashsalt": "labkit",
}
MEANING = {
    Guarantee.AT_MOST_ONCE: "as it comes out of the box",
    Guarantee.AT_LEAST_ONCE: "with its standard recovery switched on",
}


class Look(NamedTuple):
    """How a protocol is drawn in every chart."""

    colour: tuple[float, float, float]
    marker: str
    dash: str | tuple[float, tuple[float, ...]]
    hatch: str


def _looks() -> dict[str, Look]:
    black, orange, sky, green, _, blue, vermillion, purple = matplotlib.color_sequences["okabe_ito"]
    return {
        "websocket": Look(blue, "o", "-", ""),
        "webhook": Look(orange, "s", "-", ""),
        "resthooks": Look(vermillion, "D", "-", ""),
        "pubsub": Look(green, "^", "-", ""),
        "sse": Look(purple, "v", "-", ""),
        "polling": Look(black, "X", (0, (2.6, 1.6)), "////"),
        "longpolling": Look(sky, "P", (0, (2.6, 1.6, 0.8, 1.6)), "xxxx"),
    }


LOOKS = _looks()
"""Colour (okabe_ito, less the yellow that white drowns), marker, dash: only the baselines are dashed and hatched."""


class Share(NamedTuple):
    """How a fate is drawn, and what it is called."""

    label: str
    colour: str
    hatch: str = ""


FATES = {
    Fate.ON_TIME: Share("arrived on time", "#e4eaef"),
    Fate.LATE: Share("arrived once the link was back", "#a9bccb"),
    Fate.REJECTED: Share("lost, the producer knew", "#f2d13c", "///"),
    Fate.GAP_SEEN: Share("lost, the consumer knew", "#9a6414", "\\\\\\"),
    Fate.SILENT: Share("lost, nobody knew", "#4a0d2b", "xxx"),
}
"""From good to bad, and from light to dark within the lost."""


class Chart(Figure):
    """A figure with alt text made from its data; a notebook shows it as one picture that carries the text."""

    def __init__(self, height: float, title: str) -> None:
        super().__init__(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self)
        self.title = title
        self.alt = title
        self.write(MARGIN, 30, title, fontsize=15, fontweight="bold")

    def write(self, x: float, y: float, words: str, **how: Any) -> float:
        """Writes on the line centred at y, x and y in pixels from the top left; returns the x where it ends."""
        text = self.text(x / WIDTH, 1 - y / self.tall, words, **{"va": "center_baseline", **how})
        return float(text.get_window_extent().x1)

    def panel(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes at a place given in pixels from the top left."""
        return self.add_axes((left / WIDTH, 1 - (top + height) / self.tall, width / WIDTH, height / self.tall))

    @property
    def tall(self) -> float:
        """The height in pixels."""
        return float(self.bbox.height)

    def write_png(self, to: Any) -> None:
        """Writes a PNG with the alt text as its description."""
        with _styled():
            self.savefig(to, format="png", metadata={"Title": self.title, "Description": self.alt, "Software": None})

    def write_svg(self, to: Any) -> None:
        """Writes an SVG with the alt text as its description."""
        about = {"Title": self.title, "Description": self.alt, "Creator": "labkit", "Date": None}
        with _styled():
            self.savefig(to, format="svg", metadata=about)

    def _repr_html_(self) -> str:
        png = io.BytesIO()
        self.write_png(png)
        data = base64.b64encode(png.getvalue()).decode()
        return (
            f'<figure style="margin:0"><img style="max-width:100%;height:auto" width="{WIDTH}" '
            f'src="data:image/png;base64,{data}" alt="{html.escape(self.alt)}"></figure>'
        )


@dataclass(frozen=True)
class Group:
    """One protocol with one guarantee: all its repeats, pooled. `rows` are theirs in the frame of the measure."""

    recordings: list[Recording]
    rows: pd.DataFrame

    @property
    def protocol(self) -> str:
        """Its name in the table of protocols."""
        return self.recordings[0].trial.protocol

    @property
    def label(self) -> str:
        """What it is called in a chart."""
        thin = self.recordings[0].trial.payload is Payload.THIN
        return PROTOCOLS[self.protocol].title + (", thin" if thin else "")

    def count(self, *fates: Fate) -> int:
        """Owed deliveries that met one of these fates, or all of them."""
        return sum(recording.outcome.count(*(fates or Fate)) for recording in self.recordings)

    @property
    def verdict(self) -> str:
        """The worst of its repeats."""
        verdicts = {recording.outcome.verdict for recording in self.recordings}
        return next(verdict for verdict in ("inconclusive", "lossy", "complete") if verdict in verdicts)

    def cautions(self) -> list[str]:
        """What a reader has to know before trusting its figures."""
        delivered, owed = self.count(Fate.ON_TIME, Fate.LATE), self.count()
        found = [f"only {_percent(delivered, owed)} arrived"] if delivered < owed else []
        return found + (["inconclusive"] if self.verdict == "inconclusive" else [])


def latency(run: Run) -> Chart:
    """How long after it was due an event arrived: the distribution of each protocol, up to the rare slow ones."""
    title = "Latency: how long after it was due did an event arrive?"
    note = (
        "Latency is the first arrival minus the time the event was due, all subscribers together. A curve stops where "
        f"fewer than {ENOUGH} deliveries lie beyond it, and says nothing of what never arrived. Dashed: the baselines."
    )
    with _styled():
        chart, groups, top = _open(run, Measure.LATENCY, title, note, lambda groups: 460)
        span = (WIDTH - MARGIN - 74) / max(len(groups), 1)
        everything = np.concatenate([np.zeros(0), *(_pooled(g) for some in groups.values() for g in some)])
        most = max((len(_pooled(g)) for some in groups.values() for g in some), default=0)
        nines = max(math.log10(max(most, 1) / ENOUGH), 1.0) * 1.03
        low, high = max(everything.min(initial=1e9), 1e-3) / 1.3, max(everything.max(initial=1e-2), 1e-2) * 1.3
        for column, (guarantee, members) in enumerate(groups.items()):
            axes = chart.panel(74 + column * span, top + 30, span - 215, 380)
            axes.set(xlim=(0, nines), ylim=(low, high), yscale="log")
            _nines(axes, nines, labelled=column == 0, narrow=high / low < 100)
            _heading(chart, 74 + column * span, top + 10, guarantee)
            _curves(chart, axes, members)
            chart.alt += f" {str(guarantee).capitalize()}: " + "; ".join(map(_told_latency, members)) + "."
    return chart


def bandwidth(run: Run) -> Chart:
    """What one delivery, one set-up and one idle second cost in TCP stream bytes."""
    title = "Bandwidth: how many bytes does a protocol spend on one event?"
    note = (
        "TCP stream bytes at the link: no IP/TCP headers, no retransmissions. Per delivery: all bytes of the load "
        "divided by what arrived. Set-up and idle: both directions together. Hatched: the baselines."
    )
    row, head = 27, 34
    with _styled():
        chart, groups, top = _open(
            run, Measure.BANDWIDTH, title, note, lambda groups: 70 + sum(head + row * len(g) for g in groups.values())
        )
        if not groups:
            return chart
        costs = {id(group): _costs(group) for members in groups.values() for group in members}
        height = sum(head + row * len(members) for members in groups.values())
        panels = _byte_panels(chart, top + 26, height, list(costs.values()))
        y = 0.0
        for guarantee, members in groups.items():
            _heading(chart, MARGIN, top + 26 + y + head / 2, guarantee)
            y += head
            for group in members:
                _name(chart, MARGIN, top + 26 + y + row / 2, group)
                _byte_bars(panels, y + row / 2, group, costs[id(group)])
                y += row
            told = (_told_bandwidth(group, costs[id(group)]) for group in members)
            chart.alt += f" {str(guarantee).capitalize()}, bytes per delivery: " + "; ".join(told) + "."
    return chart


def loss(run: Run) -> Chart:
    """What became of the deliveries owed while the link broke, and who could know of those that were lost."""
    title = "Disconnect-loss: what became of the events when the link broke?"
    note = (
        "Owed is every event offered while the subscription stood, the outage included. Inconclusive: deliveries were "
        "still on their way when the trial ended, so what is missing cannot be called lost."
    )
    row = 54
    with _styled():
        chart, groups, top = _open(
            run, Measure.LOSS, title, note, lambda groups: 118 + row * max(map(len, groups.values()))
        )
        if not groups:
            return chart
        x: float = MARGIN
        for share in FATES.values():
            patch = Rectangle((x, chart.tall - top - 9), 20, 12, facecolor=share.colour, hatch=share.hatch, lw=0)
            patch.set(edgecolor="white", transform=IdentityTransform())
            chart.add_artist(patch)
            x = chart.write(x + 27, top + 3, share.label) + 24
        span = (WIDTH - MARGIN) / len(groups)
        for column, (guarantee, members) in enumerate(groups.items()):
            left = MARGIN + column * span
            _heading(chart, left, top + 40, guarantee)
            axes = chart.panel(left + 146, top + 56, span - 146 - 175, row * len(members))
            axes.set(xlim=(0, 100), ylim=(row * len(members), 0), xticks=(0, 25, 50, 75, 100))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
            axes.set_xlabel("share of the deliveries owed  (arrived: more is better →)")
            _bare(axes)
            for number, group in enumerate(members):
                y = row * (number + 0.5)
                _name(chart, left, top + 56 + y, group, cautions=False)
                _fates(axes, y, group)
            chart.alt += f" {str(guarantee).capitalize()}: " + "; ".join(map(_told_loss, members)) + "."
    return chart


CHARTS: dict[Measure, Callable[[Run], Chart]] = {
    Measure.LATENCY: latency,
    Measure.BANDWIDTH: bandwidth,
    Measure.LOSS: loss,
}


def save(run: Run, out: Path) -> list[Path]:
    """Writes out/{latency,bandwidth,loss}.{png,svg} and returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for measure, draw in CHARTS.items():
        chart = draw(run)
        for suffix, write in (("png", chart.write_png), ("svg", chart.write_svg)):
            paths.append(out / f"{measure}.{suffix}")
            write(paths[-1])
    return paths


def _styled() -> AbstractContextManager[None]:
    """The same looks whatever the user's own settings, which are back afterwards."""
    return matplotlib.style.context(["default", STYLE])


def _open(
    run: Run, measure: Measure, title: str, note: str, body: Callable[[dict[Guarantee, list[Group]]], float]
) -> tuple[Chart, dict[Guarantee, list[Group]], float]:
    """A chart with title, setting and notes; what there is to draw; and where to begin, in pixels from the top."""
    frame: pd.DataFrame = getattr(run, measure)
    recordings = run.of(measure)
    found: dict[tuple[Guarantee, str, Payload], list[int]] = {}
    for number, trial in enumerate(recording.trial for recording in recordings):
        found.setdefault((trial.guarantee, trial.protocol, trial.payload), []).append(number)
    groups: dict[Guarantee, list[Group]] = {}
    for (guarantee, *_), numbers in sorted(found.items(), key=lambda item: list(Guarantee).index(item[0][0])):
        groups.setdefault(guarantee, []).append(Group([recordings[n] for n in numbers], frame.iloc[numbers]))
    trials = [recording.trial for recording in recordings]
    setting = (
        _setting(trials) if trials else [f"This run has no finished {measure} trial, so there is nothing to draw."]
    )
    failed = [name for name in run.errors if name.startswith(f"{measure}-")]
    notes = textwrap.wrap(note, 165) if trials else []
    notes += textwrap.wrap(f"Failed, and so not shown: {', '.join(failed)}.", 165) if failed else []
    chart = Chart(60 + 17 * (len(setting) + len(notes)) + 30 + (body(groups) if groups else 0), title)
    chart.alt = " ".join([title, *(f"{line}." for line in setting), *notes]).replace("..", ".")
    for number, line in enumerate(setting):
        chart.write(MARGIN, 56 + 17 * number, line, color=SOFT)
    for number, line in enumerate(reversed(notes)):
        chart.write(MARGIN, chart.tall - 20 - 17 * number, line, color=SOFT, fontsize=8)
    return chart, groups, 56 + 17 * len(setting) + 12


def _setting(trials: Sequence[Trial]) -> list[str]:
    """In lines: what was offered, over which way, with which timings, through which outage, how often."""
    guarded = any(trial.recovers for trial in trials)
    timings = [f"heartbeat {_either(f'{t.timings.heartbeat:g}' for t in trials)} s"] if guarded else []
    if polled := [t for t in trials if t.protocol == "polling"]:
        timings.append(f"poll every {_either(f'{t.timings.poll:g}' for t in polled)} s")
    if held := [t for t in trials if t.protocol == "longpolling"]:
        timings.append(f"long poll held {_either(f'{t.timings.hold:g}' for t in held)} s")
    route = _either("through the link" if t.linked else "producer and consumer connected directly" for t in trials)
    lines = [_either(_offered(t.workload) for t in trials), ", ".join([route, *timings])]
    lines[1] = lines[1][0].upper() + lines[1][1:]
    if (repeats := max(t.repeat for t in trials)) > 1:
        thin = "; thin lines: each repeat alone" if trials[0].measure is Measure.LATENCY else ""
        lines[1] += f"; {repeats} repeats, pooled{thin}"
    if any(t.outage for t in trials):
        outages = (t.outage for t in trials if t.outage)
        lines.append(
            _either(
                f"Outage {o.at:g} s into the load, for {o.lasts:g} s: {o.kind} ({OUTAGES[o.kind]})" for o in outages
            )
        )
    return lines


def _offered(workload: Workload) -> str:
    to = f"to {workload.subscribers:,} subscriber{'s' if workload.subscribers > 1 else ''}"
    if workload.trace:
        return f"Trace {Path(workload.trace).name} at {workload.speed:g} times its speed, {to}"
    size = f"{workload.size:,} bytes" + ("" if workload.sizes == "fixed" else f" (median, {workload.sizes})")
    topics = f" on {workload.topics:,} topics" if workload.topics > 1 else ""
    return (
        f"{workload.rate:,g} events/s of {size}{topics} for {workload.duration:g} s {to}, "
        f"{workload.arrival} arrivals, seed {workload.seed}"
    )


def _either(texts: Iterable[str]) -> str:
    return " / ".join(dict.fromkeys(texts))


def _percent(part: int, whole: int) -> str:
    """A share that never reads 0 % or 100 % unless it is."""
    share = 100 * part / whole if whole else 0.0
    digits = 0 if share in (0, 100) else 1
    return f"{min(max(share, 0.1), 99.9) if digits else share:.{digits}f} %"


def _bytes(value: float) -> str:
    if abs(value) >= 100 or abs(value - round(value)) < 0.05 <= abs(value) or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 0.05 else "<0.1"


def _ink(protocol: str) -> tuple[float, ...]:
    """The protocol's colour, as dark as text on white has to be (WCAG contrast 4.5)."""
    colour = np.array(LOOKS[protocol].colour)
    while np.dot(colour**2.2, (0.2126, 0.7152, 0.0722)) > 1.05 / 4.5 - 0.05:
        colour *= 0.95
    return tuple(float(part) for part in colour)


def _heading(chart: Chart, x: float, y: float, guarantee: Guarantee) -> None:
    end = chart.write(x, y, str(guarantee), fontsize=11, fontweight="bold")
    chart.write(end + 8, y, MEANING[guarantee], color=SOFT)


def _name(chart: Chart, x: float, y: float, group: Group, cautions: bool = True) -> None:
    warned = " · ".join(group.cautions()) if cautions else ""
    chart.write(x, y - (6 if warned else 0), group.label, color=_ink(group.protocol), fontweight="bold")
    if warned:
        chart.write(x, y + 7, warned, fontsize=8)


def _bare(axes: Axes) -> None:
    axes.yaxis.set_major_locator(NullLocator())
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)


def _pooled(group: Group) -> NDArray[np.float64]:
    return np.sort(np.concatenate([recording.latencies_ms() for recording in group.recordings]))


def _nines(axes: Axes, nines: float, labelled: bool, narrow: bool) -> None:
    """Percentiles at equal steps for each tenth that remains, milliseconds in plain numbers."""
    shares = [0.0, 0.5] + [1 - 10.0**-n for n in range(1, math.floor(nines + 0.02) + 1)]
    axes.set_xticks([-math.log10(1 - share) for share in shares], [f"{100 * share:.8g} %" for share in shares])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.tick_params(length=0, labelleft=labelled)
    axes.set_xlabel("share of the deliveries that were at least this fast")
    if labelled:
        metric = METRICS["p50_ms"]
        axes.set_ylabel(f"latency in {metric.unit}, log scale  (← {metric.better} is better)")


def _curves(chart: Chart, axes: Axes, members: list[Group]) -> None:
    """Curves, and at their ends names and figures, moved apart as far as they need."""
    (nines, (low, high)), box = (axes.get_xlim()[1], axes.get_ylim()), axes.bbox
    texts, ends = [], []
    for group in members:
        look, ordered = LOOKS[group.protocol], _pooled(group)
        texts.append([group.label, _figures(ordered), *_warnings(group)])
        ends.append((1.0, 0.98))
        if len(ordered) <= ENOUGH:
            continue
        how: dict[str, Any] = {"color": look.colour, "linestyle": look.dash, "clip_on": False}
        faint = 0.4 if group.saturated else 1.0
        if len(group.recordings) > 1:
            for recording in group.recordings:
                axes.plot(*_curve(recording.latencies_ms()), lw=0.7, alpha=0.5 * faint, **how)
        x, y = _curve(ordered)
        axes.plot(x, y, lw=2, alpha=faint, **how)
