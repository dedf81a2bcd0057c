"""Choosing: what every protocol measured, scored from worst to best, and weighed by what matters to a reader.

The scores come from measurements alone, the weights from the reader. It never recommends anything by itself.
"""

from collections.abc import Mapping
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from labkit.clients import effort
from labkit.errors import UsageError, shown
from labkit.protocols import PROTOCOLS, find
from labkit.results import Run
from labkit.trial import Measure


class Criterion(NamedTuple):
    """What may matter to a reader: how it is measured, what its column is called, its unit, and which way is better.

    `ratio`: twice as much is the same step wherever one starts, so that it is scored on a logarithmic scale.
    """

    title: str
    column: str
    unit: str
    better: str
    ratio: bool


CRITERIA = {
    "latency": Criterion("Latency: median wait for an event", "median wait", "ms", "lower", True),
    "bytes": Criterion("Bytes: overhead of a delivery", "overhead", "bytes", "lower", True),
    "loss": Criterion("Loss: what never arrived, with a break", "lost", "%", "lower", True),
    "reach": Criterion("Reach: ways that an event can take", "ways open", "%", "higher", False),
    "effort": Criterion("Effort: lines of the smallest client", "client", "lines", "lower", True),
    "scale": Criterion("Scale: CPU of a delivery, all processes", "CPU", "µs", "lower", True),
}
LEAST = 0.01
"""Of a figure on a logarithmic scale; what is less, nothing at all included, counts as this."""

MOST = 5
"""The largest weight; 0 leaves a criterion out."""


class About(NamedTuple):
    """What cannot be measured of a protocol: what it builds on, who keeps its standard, what to know besides."""

    builds_on: str
    body: str
    notes: str


ABOUT = {
    "websocket": About("TCP, opened by an HTTP Upgrade", "IETF, RFC 6455", "both sides may speak at any time"),
    "webhook": About("HTTP, a POST to the consumer", "none; Standard Webhooks by its vendors", "the consumer serves"),
    "resthooks": About("webhooks, subscribed to as a REST resource", "none; patterns of resthooks.org", "both serve"),
    "pubsub": About(
        "a broker's own protocol on TCP", "none; here NATS, a CNCF project", "neither side knows the other"
    ),
    "sse": About("HTTP, an answer that never ends", "WHATWG, HTML Living Standard", "reconnects and resumes by itself"),
    "polling": About("HTTP, a GET at an interval", "IETF, RFC 9110", "the baseline"),
    "longpolling": About("HTTP, a GET that waits", "IETF, RFC 9110 and RFC 7240", "the baseline"),
}


def table(run: Run, broken: Run, reach: pd.DataFrame) -> pd.DataFrame:
    """What was measured: one row a protocol, one column a criterion, in the units of `CRITERIA`; NaN where nothing was.

    run: cost trials. broken: loss trials; of repeats the median counts. Each is of one guarantee, so that like is
    set beside like. reach: rows of that demonstration, outcome 1 where an event got through, by protocol and
    condition; that the consumer needs no port which others can reach counts as one way more.
    """
    cost = run.cost[run.cost.measure == Measure.COST]
    for frame in (cost, broken.loss):
        if frame.guarantee.nunique() != 1:
            kinds = ", ".join(frame.guarantee.unique()) or "none"
            raise UsageError(f"A table to choose by needs trials of one guarantee in each run, here are {kinds}.")
    each = cost[cost.subscribers == cost.subscribers.max()].groupby("protocol")
    lost = (100 * broken.loss.lost / broken.loss.owed).groupby(broken.loss.protocol)
    columns: dict[str, pd.Series[float]] = {
        "latency": each.p50_ms.median(),
        "bytes": each.overhead_per_delivery.median(),
        "loss": lost.median(),
        "scale": each.cpu_us_per_delivery.median(),
    }
    names = [name for name in PROTOCOLS if any(name in column.index for column in columns.values())]
    columns["effort"] = pd.Series({name: effort(name).lines for name in names})
    inside = pd.DataFrame({"protocol": names, "outcome": [float(not effort(name).listens) for name in names]})
    ways = pd.concat([reach[["protocol", "outcome"]], inside]).astype({"outcome": float})
    columns["reach"] = 100 * ways.groupby("protocol").outcome.mean()
    return pd.DataFrame({name: columns[name].reindex(names) for name in CRITERIA}).astype(float).rename_axis("protocol")


def comparison(measured: pd.DataFrame) -> pd.DataFrame:
    """The textbook's table of protocols, with what was measured beside what is known."""
    titles = [find(name).title for name in measured.index]
    known = pd.DataFrame([ABOUT[name] for name in measured.index], columns=["builds on", "standard", "notes"])
    figures = measured.rename(columns={name: f"{item.column}, {item.unit}" for name, item in CRITERIA.items()})
    return pd.concat([known, figures.reset_index(drop=True)], axis=1).set_axis(pd.Index(titles, name="protocol"))


def scores(measured: pd.DataFrame) -> pd.DataFrame:
    """Each figure's place between the worst (0) and the best (1) of its column; all 1 where they are the same.

    What was not measured counts as the worst. A column with fewer than two figures compares nothing, and is all 0.
    """
    found = {}
    for name, column in measured.items():
        criterion = CRITERIA[str(name)]
        values = np.log10(column.clip(lower=LEAST)) if criterion.ratio else column
        values = -values if criterion.better == "lower" else values
        spread = values.max() - values.min()
        places = (values - values.min()) / spread if spread else values * 0 + 1
        found[name] = places.fillna(0.0) * (values.count() > 1)
    return pd.DataFrame(found)


def rank(measured: pd.DataFrame, weights: Mapping[str, float]) -> pd.DataFrame:
    """Protocols from the best to the worst: what each criterion adds to the score, and the score from 0 to 100."""
    parts = scores(measured) * _shares(measured, weights) * 100
    return parts.assign(score=parts.sum(axis=1)).sort_values("score", ascending=False, kind="stable")


def drivers(measured: pd.DataFrame, weights: Mapping[str, float]) -> dict[str, str]:
    """The criteria that decide: without any one of these another protocol would lead, which is its value."""
    leader = rank(measured, weights).index[0]
    found = {}
    for name in [name for name, weight in weights.items() if weight]:
        others = {**weights, name: 0}
        if any(others.values()) and (other := rank(measured, others).index[0]) != leader:
            found[name] = str(other)
    return found


def _shares(measured: pd.DataFrame, weights: Mapping[str, float]) -> pd.Series:
    """Each column's part of all weight. UsageError for weights that cannot be."""
    check_weights(weights)
    total = float(sum(weights.values()))
    return pd.Series({name: weights.get(str(name), 0) / total for name in measured.columns})


def check_weights(weights: Any) -> None:
    """UsageError for weights that cannot be."""
    if not isinstance(weights, Mapping):
        raise UsageError(f"The weights are {shown(weights)}; give a number for each criterion, as in {{'latency': 1}}.")
    for name, weight in weights.items():
        if name not in CRITERIA:
            raise UsageError(f"Nothing is measured for {name!r}; weigh {', '.join(CRITERIA)}.")
        number = isinstance(weight, Real) and not isinstance(weight, bool)
        if not number or not 0 <= weight <= MOST:
            raise UsageError(f"The weight of {name} is {shown(weight)}; it has to be a number from 0 to {MOST}.")
    if not any(weights.values()):
        raise UsageError("All weights are 0, so nothing matters; raise one of them.")
