"""Evidence: the frames that claims ask, of a run and of what is no run: demonstrations, the smallest clients.

It adds to a run's frames what only claims ask for: shares, sums, requests by phase. It never measures anything.
"""

from functools import cached_property
from types import SimpleNamespace
from typing import Any

import pandas as pd

from labkit.clients import effort
from labkit.figures import Metric
from labkit.ledger import Kind, are
from labkit.protocols import PROTOCOLS
from labkit.recording import Recording
from labkit.results import Run
from labkit.trial import Measure

SIDES = ("consumer", "producer")
SHARES = ("lost", "rejected", "gap_seen", "silent")

ADDED = {
    "outcome": Metric("", "", 0, ""),
    "deliveries": Metric("Deliveries", "", 0, ""),
    "lost": Metric("Lost", "events", 0, "lower"),
    "gap_signals": Metric("Gaps signalled to consumers", "", 0, ""),
    "unexpected": Metric("Not asked for", "events", 0, "lower"),
    "lost_percent": Metric("Lost of what was owed", "%", 1, "lower"),
    **{
        f"{name}_percent": Metric(f"{name.replace('_', ' ').capitalize()}, of the lost", "%", 1, "")
        for name in SHARES[1:]
    },
    "answered_percent": Metric("Requests answered", "%", 1, "higher"),
    "connections_each": Metric("Connections per subscriber", "", 1, "lower"),
    "setup_bytes": Metric("Set-up, both ways", "bytes", 0, "lower"),
    "idle_bytes_per_s": Metric("Idle, both ways", "bytes/s", 1, "lower"),
    "lines": Metric("Lines of the smallest client", "lines", 0, "lower"),
    **{
        f"{side}_{phase}": Metric(f"{side.capitalize()}'s requests, {words}", "per subscriber", 2, "lower")
        for side in SIDES
        for phase, words in {"setup": "set-up", "load": "load", "idle": "idle"}.items()
    },
}
"""What the columns that stand here alone are called; the rest is in `figures.METRICS`."""

SPANS = {"setup": ("setup", "warmup"), "load": ("load", "settled"), "idle": ("settled", "stop")}


class Evidence:
    """A run, asked by claims: each frame an attribute, as `Query` wants it. again: how to get what it lacks."""

    def __init__(self, run: Run, again: str = "run `labkit claims --out DIR` for a run that answers all") -> None:
        self.run, self.again = run, again

    def __getattr__(self, name: str) -> Any:
        return getattr(self.run, name)

    def _marked(self, frame: pd.DataFrame, *measures: Measure) -> pd.DataFrame:
        """Besides: whether the trial was inconclusive, so that what did not arrive cannot be called lost."""
        recordings = [recording for measure in measures for recording in self.run.of(measure)]
        return frame.assign(inconclusive=[recording.outcome.verdict == "inconclusive" for recording in recordings])

    @cached_property
    def latency(self) -> pd.DataFrame:
        """As the run's, marked."""
        return self._marked(self.run.latency, Measure.LATENCY)

    @cached_property
    def cost(self) -> pd.DataFrame:
        """As the run's, marked."""
        return self._marked(self.run.cost, Measure.LATENCY, Measure.COST)

    @cached_property
    def loss(self) -> pd.DataFrame:
        """Besides: shares in percent, gaps that were signalled to consumers; NaN where nothing was owed, or lost."""
        signals = [int(are(recording.consumer, Kind.GAP).sum()) for recording in self.run.of(Measure.LOSS)]
        frame = self._marked(self.run.loss, Measure.LOSS).assign(gap_signals=signals)
        frame["gap_signals"] = frame["gap_signals"].where(frame["lost"] > 0)
        parts = {name: frame["owed" if name == "lost" else "lost"] for name in SHARES}
        return frame.assign(**{f"{name}_percent": 100 * frame[name] / whole for name, whole in parts.items()})

    @cached_property
    def bandwidth(self) -> pd.DataFrame:
        """Besides: both directions together."""
        frame = self._marked(self.run.bandwidth, Measure.BANDWIDTH)
        idle = frame["idle_up_per_s"] + frame["idle_down_per_s"]
        return frame.assign(setup_bytes=frame["setup_up"] + frame["setup_down"], idle_bytes_per_s=idle)

    @cached_property
    def duplex(self) -> pd.DataFrame:
        """Besides: connections for each subscriber, requests answered in percent."""
        frame = self._marked(self.run.duplex, Measure.DUPLEX)
        answered = 100 * frame["answered"] / frame["requests"]
        return frame.assign(connections_each=frame["connections"] / frame["subscribers"], answered_percent=answered)

    @cached_property
    def requests(self) -> pd.DataFrame:
        """HTTP requests per subscriber, one row a bandwidth trial, by who made them and when."""
        keys = ["protocol", "guarantee", "trial"]
        rows = [_requests(recording) for recording in self.run.of(Measure.BANDWIDTH)]
        frame = pd.DataFrame(rows, columns=[*keys, *(f"{side}_{span}" for side in SIDES for span in SPANS)])
        return self._marked(frame, Measure.BANDWIDTH)


def _requests(recording: Recording) -> dict[str, Any]:
    trial = recording.trial
    hosts = trial.workload.subscribers
    counts = {
        f"{side}_{span}": len(recording.within(getattr(recording, side), Kind.REQUESTED, *ends)) / hosts
        for side in SIDES
        for span, ends in SPANS.items()
    }
    return {"protocol": trial.protocol, "guarantee": str(trial.guarantee), "trial": trial.repeat, **counts}


def clients() -> SimpleNamespace:
    """What the smallest client of each protocol takes, counted from its program."""
    rows = [{"protocol": name, **effort(name)._asdict()} for name in PROTOCOLS]
    return SimpleNamespace(effort=pd.DataFrame(rows))
