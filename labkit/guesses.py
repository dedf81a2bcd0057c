"""Guesses: what was predicted beside what was measured, one row a protocol. Values in, a chart out; never a verdict."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator

from labkit.figures import Metric
from labkit.looks import LOOKS, MARGIN, SOFT, Chart, styled
from labkit.protocols import PROTOCOLS

ROW, LEFT, SPAN, CLOSE = 40, 190, 460, 1.1
"""Pixels: height of a row, where the axis begins and how long it is. And the factor within which a guess is close."""

OFF = {"ms": ("too fast", "too slow"), "bytes": ("too few", "too many"), "bytes/s": ("too few", "too many")}
"""How a guess below and one above the measured figure is off, by unit; in all other units too low or too high."""


def number(value: float) -> str:
    """Three digits that count; NaN is nothing that could be measured."""
    if math.isnan(value):
        return "nothing"
    whole = abs(value) < 1e6 and (abs(value) >= 100 or value == round(value))
    return f"{value:,.0f}" if whole else f"{value:.3g}"


def compared(guess: float, measured: float, unit: str) -> str:
    """One guess in words: "you 1 ms, measured 0.31 ms: 3.2 times too slow"."""
    said = f"you {number(guess)} {unit}, measured {number(measured)} {unit}"
    if math.isnan(measured):
        return f"you {number(guess)} {unit}, no figure: too few arrived, or never"
    words = OFF.get(unit, ("too low", "too high"))[bool(guess > measured)]
    if guess == measured:
        return f"{said}: exactly"
    if not guess or not measured:
        return f"{said}: {words}"
    times = float(f"{max(guess / measured, measured / guess):.2g}")
    return f"{said}: {'close' if times <= CLOSE else f'{number(times)} times {words}'}"


def guesses(
    question: str, metric: Metric, pairs: Mapping[str, tuple[float, float]], notes: Sequence[str], alarm: str = ""
) -> Chart:
    """Protocol -> (predicted, measured): a hollow and a filled mark, and a line between. `alarm` is a note in bold."""
    said = {name: compared(*pair, metric.unit) for name, pair in pairs.items()}
    shown = [part for line in notes for part in textwrap.wrap(line, 165, break_on_hyphens=False)]
    titles = textwrap.wrap(question, 70) or [question]
    top = 22 + 22 * len(titles) + 17 * (len(shown) + bool(alarm)) + 40
    with styled():
        chart = Chart(top + ROW * len(pairs) + 56, titles[0])
        for line, words in enumerate(titles[1:], 1):
            chart.write(MARGIN, 30 + 22 * line, words, fontsize=15, fontweight="bold")
        y = 34.0 + 22 * len(titles)
        for line, words in enumerate([*shown, alarm]):
            chart.write(MARGIN, y + 17 * line, words, **({"color": SOFT} if words != alarm else {"fontweight": "bold"}))
        chart.write(LEFT, top - 14, "○ your prediction     ● measured on this machine", color=SOFT)
        axes = chart.panel(LEFT, top, SPAN, ROW * len(pairs))
        axes.set(ylim=(ROW * len(pairs), 0), yticks=())
        every = [value for pair in pairs.values() for value in pair if math.isfinite(value)] or [1.0]
        scale = _scaled(axes, every)
        way = f"  (← {metric.better} is better)" if metric.better else ""
        axes.set_xlabel(f"{metric.label} in {metric.unit}{scale}{way}")
        axes.tick_params(which="minor", length=0)
        axes.spines["left"].set_visible(False)
        for row, (name, (guess, measured)) in enumerate(pairs.items()):
            look, y = LOOKS[name], ROW * (row + 0.5)
            chart.write(MARGIN, top + y, PROTOCOLS[name].title, fontweight="bold")
            chart.write(LEFT + SPAN + 24, top + y, said[name])
            how: dict[str, Any] = {"color": look.colour, "clip_on": False}
            axes.plot([guess, measured], [y, y], lw=1.5, ls=look.dash, **how)
            axes.plot([measured], [y], look.marker, ms=7, zorder=4, **how)
            axes.plot([guess], [y], look.marker, ms=12, mfc="white", mew=1.8, zorder=3, **how)
    told = "; ".join(f"{PROTOCOLS[name].title} {words}" for name, words in said.items())
    parts = [question, *(f"{line}." for line in notes), alarm, f"{metric.label}: {told}."]
    chart.title, chart.alt = question, " ".join(filter(None, parts))
    return chart


def _scaled(axes: Axes, values: Sequence[float]) -> str:
    """A log axis where the spread asks for it, from zero where there is one; returns how the axis says so."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = min(positive), max(positive)
    if high / low < (20 if min(values) > 0 else 100):
        axes.set_xlim(0, high * 1.08)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(lambda value, _: number(value))
        return ""
    if min(values) > 0:
        axes.set(xscale="log", xlim=(low / 1.4, high * 1.4))
        axes.xaxis.set_major_locator(LogLocator(numticks=8))
    else:
        first, last = math.floor(math.log10(low)), math.floor(math.log10(high))
        axes.set_xscale("symlog", linthresh=10.0**first, linscale=0.5)
        axes.set_xlim(0, high * 1.4)
        powers = range(last, first - (last - first < 6), -math.ceil((last - first) / 6))
        axes.set_xticks([0.0, *(10.0**power for power in powers)])
    axes.xaxis.set_major_formatter(lambda value, _: number(value))
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    return ", log scale"
