"""A suite's folder made of synthetic runs, as a campaign leaves it, small enough to be drawn in a test."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from test_charts import LOAD, OUTAGE, spec, write_run
from test_dialogue import asked
from test_dialogue import planned as requests
from test_sweeps import planned, swept

from labkit.collection import FILE, Collection
from labkit.demos import FILE as FACTS
from labkit.demos import Fact
from labkit.trial import COMPARED, SCHEMA, Guarantee, Measure, Trial
from labkit.workload import Workload

ONCE = Guarantee.AT_MOST_ONCE
ALONE = Workload(rate=10, duration=1.0, subscribers=1)
PROTOCOLS = ("websocket", "sse")
FAILED = {"loss-polling-durable-1": "The producer process ended (status 1; it said nothing)."}
FACT = Fact("reach", "websocket", "buffers", 1.0)
CHARTS: dict[str, Any] = {
    "two": {"overlay": {"Before": "before", "After": "after"}},
    "choose": {"cost": "cost", "loss": "loss", "weights": {"latency": 1, "reach": 2}},
}


def trials(*measures: Measure, repeats: Iterable[int] = (1,), **changed: Any) -> dict[Trial, dict[str, Any]]:
    """Of each protocol, out of the box."""
    return {
        replace(spec(measure, protocol, ONCE, repeat), **changed): {"delay_ms": 1.0 + number + repeat / 10}
        for measure in measures
        for number, protocol in enumerate(PROTOCOLS)
        for repeat in repeats
    }


def demonstrate(folder: Path, *facts: Fact) -> None:
    folder.mkdir(parents=True)
    (folder / FACTS).write_text(json.dumps([fact._asdict() for fact in facts]))


def write_suite(folder: Path, names: Iterable[str], charts: Mapping[str, Any] = CHARTS) -> Collection:
    """These experiments, and a chart of several for each table; `later` is one that was not begun."""
    made = {
        "comparison": lambda place: write_run(place, trials(*COMPARED, repeats=(1, 2)), FAILED),
        "broken": lambda place: write_run(
            place,
            {
                replace(trial, name=f"{trial.name}-{kind}", outage=replace(OUTAGE, kind=kind)): {}
                for kind in ("close", "silent")
                for trial in trials(Measure.LOSS)
            },
        ),
        "alone": lambda place: write_run(place, trials(Measure.LOSS, workload=ALONE)),
        "answers": lambda place: asked(place, {trial: {} for trial in requests(PROTOCOLS, guarantees=(ONCE,))}),
        "rate": lambda place: swept(
            place, "rate", {trial: {} for trial in planned("rate", (50, 200), PROTOCOLS, guarantees=(ONCE,))}
        ),
        "cost": lambda place: write_run(place, trials(Measure.COST)),
        "loss": lambda place: write_run(place, trials(Measure.LOSS)),
        "before": lambda place: write_run(place, trials(Measure.LATENCY)),
        "after": lambda place: write_run(place, trials(Measure.LATENCY, workload=replace(LOAD, rate=100))),
        "rates": lambda place: write_run(place, trials(Measure.COST)),  # called as one of the claims'
        "seen": lambda place: demonstrate(place, FACT, FACT._replace(protocol="sse", outcome=0.0)),
        "later": lambda place: None,
    }
    folder.mkdir(parents=True)
    for name in names:
        made[name](folder / name)
    said = {
        "title": "What is what?",
        "tables": {name: {"kind": "demonstrations" if name == "seen" else "compare"} for name in names},
        "charts": charts,
    }
    (folder / FILE).write_text(json.dumps({"schema": SCHEMA, "argv": ["reference"], "suite": said, "parts": []}))
    return Collection(folder)


RUNS = ("comparison", "broken", "alone", "answers", "rate", "cost", "loss", "before", "after", "rates")
EVERY = (*RUNS, "seen", "later")
