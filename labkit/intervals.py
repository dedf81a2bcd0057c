"""Intervals: how far a figure may be trusted, from the repeats of its trial, by the bootstrap. Values in, values out.

The unit is the trial, for deliveries of one trial are not independent of each other. The figure of several repeats is
their median, and its interval the middle 95 % of the medians that drawing repeats anew would give (Efron's percentile
bootstrap). Every draw is made where there are few enough repeats, so that nothing about it is random.

Up to five repeats give the lowest and the highest of them. That has the true median between them in 1 - 2**(1 - n) of
all cases: 94 of 100 with five repeats, three in four with three, and one in two with two.
"""

import itertools
import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from labkit import disk
from labkit.figures import METRICS, Metric
from labkit.results import Run
from labkit.trial import Measure

LEVEL = 0.95
MEDIANS = (
    f"the median of the repeats, and in brackets between which bounds the bootstrap has {LEVEL:.0%} of such medians"
)
"""What a figure with an interval is, in a chart's notes."""

EVERY = 5
"""Up to so many repeats every draw is made, which are 3,125; of more, as many as `DRAWS`, with a seed."""

DRAWS = 4999
KEYS = ("measure", "protocol", "guarantee", "outage", "at")
"""What tells figures of one run apart; `at` is the value that the run sweeps over."""

FIGURES = {
    Measure.LATENCY: ("p50_ms", "p90_ms", "p99_ms"),
    Measure.BANDWIDTH: ("bytes_per_delivery", "overhead_per_delivery", "setup_each", "idle_each"),
    Measure.LOSS: ("lost_percent", "duplicated", "noticed_ms", "recovered_ms"),
    Measure.COST: ("p50_ms", "p99_ms", "bytes_per_delivery", "requests_per_event", "cpu_us_per_delivery"),
    Measure.DUPLEX: ("p50_ms", "p90_ms", "p99_ms", "bytes_per_answer", "connections"),
}
"""The figures of each measure that have an interval."""

ADDED = {
    "setup_each": Metric("Set-up of one subscriber, both ways", "bytes", 0, "lower"),
    "idle_each": Metric("Idle, one subscriber, both ways", "bytes/s", 1, "lower"),
    "lost_percent": Metric("Lost of what was owed", "%", 2, "lower"),
    "duplicated": Metric("Duplicates", "deliveries", 0, "lower"),
}
"""Those that are no column of the run's frames; the rest is in `METRICS`."""


class Interval(NamedTuple):
    """The median of repeats, and between which bounds it is; without at least two repeats the bounds are NaN."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.4g} ({self.low:.4g} to {self.high:.4g})"

    def meets(self, other: "Interval") -> bool:
        """Whether the two overlap; so the difference may be chance. Never without bounds, which tell nothing."""
        return self.low <= other.high and other.low <= self.high


@lru_cache
def _draws(count: int) -> NDArray[np.intp]:
    if count <= EVERY:
        return np.array(list(itertools.product(range(count), repeat=count)))
    return np.random.default_rng(count).integers(0, count, (DRAWS, count))


def interval(values: Iterable[float]) -> Interval:
    """Of the repeats of one figure, in any order. Where some have none (NaN) there is a median of the others, without
    bounds."""
    every = np.sort(np.array(list(values), float))
    there = every[~np.isnan(every)]
    if not len(there):
        return Interval(math.nan, math.nan, math.nan)
    if len(there) < max(len(every), 2):
        return Interval(float(np.median(there)), math.nan, math.nan)
    medians = np.median(there[_draws(len(there))], axis=1)
    low, high = np.quantile(medians, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    return Interval(float(np.median(there)), float(low), float(high))


def figures(run: Run, measure: Measure) -> pd.DataFrame:
    """One row a trial: what tells it apart, and the figures that have an interval. In the order of the tables."""
    frame: pd.DataFrame = getattr(run, measure).copy()
    if measure is Measure.BANDWIDTH:
        hosts = pd.Series([recording.trial.workload.subscribers for recording in run.of(measure)], frame.index)
        arrived = frame["deliveries"].where(frame["deliveries"] > 0)
        frame["bytes_per_delivery"] = (frame["load_up"] + frame["load_down"]) / arrived
        frame["setup_each"] = (frame["setup_up"] + frame["setup_down"]) / hosts
        frame["idle_each"] = (frame["idle_up_per_s"] + frame["idle_down_per_s"]) / hosts
    if measure is Measure.LOSS:
        known = frame["owed"].where((frame["owed"] > 0) & (frame["verdict"] != "inconclusive"))
        frame["lost_percent"] = 100 * frame["lost"] / known
    if measure is Measure.COST:
        frame = frame[frame["measure"] == (Measure.COST if run.of(Measure.COST) else Measure.LATENCY)]
    frame = frame.assign(measure=str(measure), at=frame[run.swept] if run.swept else math.nan)
    frame = frame if "outage" in frame else frame.assign(outage="")
    return frame[[*KEYS, "trial", *FIGURES[measure]]]


def summary(run: Run) -> pd.DataFrame:
    """One row a figure: what it is of, its repeats, their median, and the bounds of its interval."""
    rows: list[dict[str, Any]] = []
    for measure in measures(run):
        for key, group in figures(run, measure).groupby(list(KEYS), sort=False, dropna=False):
            for name in FIGURES[measure]:
                found = interval(group[name].astype(float))
                rows.append(
                    {**dict(zip(KEYS, key, strict=True)), "figure": name, "repeats": len(group), **found._asdict()}
                )
    return pd.DataFrame(rows, columns=[*KEYS, "figure", "repeats", *Interval._fields])


def save(run: Run) -> None:
    """Writes the run's tables, and intervals.csv where its trials were repeated."""
    run.save()
    if any(recording.trial.repeat > 1 for recording in run.recordings):
        table = summary(run)
        digits = {name: max(metric(name).digits, 3) for name in table["figure"].unique()}
        for name, places in digits.items():
            mine = table["figure"] == name
            table.loc[mine, [*Interval._fields]] = table.loc[mine, [*Interval._fields]].round(places)
        disk.write(run.folder / "intervals.csv", table.to_csv(index=False, lineterminator="\n"))


def measures(run: Run) -> list[Measure]:
    """Those that the run's figures are of: a sweep is all cost, though it may measure latency."""
    return [Measure.COST] if run.swept else [measure for measure in Measure if run.of(measure)]


def metric(figure: str) -> Metric:
    """How a figure is called, its unit, its digits, and which way is better."""
    return ADDED[figure] if figure in ADDED else METRICS[figure]
