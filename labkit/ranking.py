"""The ranking chart: what each criterion adds to a protocol's score, with the measurement behind it."""

import math
from collections.abc import Iterable, Mapping

import pandas as pd

from labkit.captions import NO_BREAK, setting, wrapped
from labkit.choice import CRITERIA, drivers, rank
from labkit.looks import INK, LOOKS, MARGIN, RULE, SOFT, Chart, styled
from labkit.noise import noise
from labkit.protocols import find
from labkit.results import Run
from labkit.sheet import ink, keys
from labkit.trial import Measure

SHADES = {
    "latency": "#9ecae9",
    "bytes": "#ffd8a8",
    "loss": "#f4b6b6",
    "reach": "#b7e0b0",
    "effort": "#d9c7ec",
    "scale": "#e3d5b8",
}
"""Pale enough for dark text: a criterion is told by its place, its key and its unit, not by its colour alone."""

ROW, LEFT, BAR = 46, 178, 880
"""Height of a row, where bars begin, and the length of a score of 100, in pixels."""


def ranking(measured: pd.DataFrame, weights: Mapping[str, float], runs: Iterable[Run] = ()) -> Chart:
    """One bar for each protocol, best first, made of what every criterion adds; `measured` is `choice.table`.

    runs: those that it was made from, so that the chart says what was offered, and on how noisy a machine.
    """
    ranked, decide = rank(measured, weights), drivers(measured, weights)
    places = [str(name) for name in ranked.index]
    wanted = [name for name in CRITERIA if weights.get(name)]
    said = ", ".join(f"{name} {weights[name]:g}" for name in wanted)
    leader = find(places[0]).title
    driven = "; ".join(f"without {name}, {find(other).title} would lead" for name, other in decide.items())
    lines = [f"What matters: {said}", f"{leader} leads; {driven or 'no single criterion decides it'}"]
    lines += [line for run in runs for line in _measured(run)]
    shown = wrapped(lines)
    top = 56 + 17 * len(shown) + 46
    note = "Score, higher is better: each figure's place between the worst and the best here. In the bars: the figures."
    with styled():
        chart = Chart(top + ROW * len(ranked) + 50, "Choosing: which protocol fits what matters to you?")
        for number, line in enumerate(shown):
            chart.write(MARGIN, 56 + 17 * number, line, color=SOFT)
        keys(chart, top - 32, [(CRITERIA[name].title, SHADES[name], "") for name in wanted])
        chart.write(MARGIN, chart.height - 18, note, color=SOFT, fontsize=8)
        axes = chart.panel(LEFT, top, BAR, ROW * len(ranked))
        axes.set(xlim=(0, 100), ylim=(ROW * len(ranked), 0), yticks=())
        axes.set_axis_off()
        told = []
        for number, (protocol, parts) in enumerate(ranked.iterrows()):
            y, at, words = ROW * number + ROW / 2, 0.0, []
            chart.write(MARGIN, top + y, find(str(protocol)).title, color=ink(LOOKS[str(protocol)]), fontweight="bold")
            for name in wanted:
                figure = _figure(measured[name].to_dict()[protocol], name)
                axes.barh(y, parts[name], ROW - 14, at, color=SHADES[name], ec="white", lw=1.5)
                if parts[name] * BAR / 100 > 6.5 * len(figure):
                    axes.text(at + parts[name] / 2, y, figure, ha="center", va="center_baseline", fontsize=8, color=INK)
                words.append(f"{name} {figure}")
                at += parts[name]
            axes.plot([at + 3, 100], [y, y], color=RULE, lw=0.6, zorder=0)
            axes.text(at + 0.8, y, f"{parts['score']:.0f}", va="center_baseline", fontweight="bold", color=INK)
            told.append(f"{find(str(protocol)).title} {parts['score']:.0f} ({', '.join(words)})")
    about = ". ".join(lines).replace(NO_BREAK, " ")
    chart.alt = f"{chart.title} {about}. Scores from 0 to 100, higher is better: {'; '.join(told)}."
    return chart


def _measured(run: Run) -> list[str]:
    """What was offered in a run, and what was noisy about its machine, measure by measure."""
    said = []
    for measure in (measure for measure in Measure if run.of(measure)):
        offered = ". ".join(setting([recording.trial for recording in run.of(measure)], alone=False))
        said.append(f"{measure.capitalize()}: {offered}")
        said += [f"⚠ A noisy machine: {'; '.join(noisy)}"] if (noisy := noise(run, measure)) else []
    return said


def _figure(value: float, name: str) -> str:
    if math.isnan(value):
        return "not measured"
    digits = 0 if value >= 10 or value == round(value) else 1 if value >= 1 else 2
    return f"{value:,.{digits}f} {CRITERIA[name].unit}"
