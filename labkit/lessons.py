"""Lessons: predict, run, explain. A prediction is recorded first and drawn over what was measured; answers to exercises
are compared with a run of the reader's own machine, and met with a hint.

Predictions are only ever appended, in the current folder. Nothing needs a network.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from labkit.captions import setting
from labkit.errors import UsageError, shown
from labkit.figures import METRICS
from labkit.guesses import guesses, number
from labkit.looks import Chart
from labkit.predictions import FILE, Prediction, is_number, newest
from labkit.predictions import predict as predict
from labkit.protocols import PROTOCOLS
from labkit.query import Query
from labkit.results import Run, opened
from labkit.trial import Guarantee, Measure, Trial

APART = ("outage", "measure", "rate", "size", "subscribers", "topics", "interval")
"""Conditions whose figures are not to be pooled: where a run has several, one has to be named."""


def reveal(
    guess: Prediction | str,
    run: Run | Path | str,
    guarantee: Guarantee | str = Guarantee.AT_MOST_ONCE,
    frame: str = "",
    file: Path | str = FILE,
    **where: Any,
) -> Chart:
    """The prediction, or the newest to a question, over what the run measured.

    frame: of the run's, the first that has the metric when left out. where: one of several conditions that the run has,
    such as outage="silent". A prediction made after the run had ended is drawn, and named so.
    UsageError where a figure lacks.
    """
    guess = guess if isinstance(guess, Prediction) else newest(str(guess), file)
    run, metric, guarantee = opened(run), METRICS[guess.metric], Guarantee.named(guarantee)
    having = [name for name in Measure if guess.metric in _frame(run, name)]
    name = frame or next((name for name in having if not _frame(run, name).empty), having[0])
    rows = _frame(run, name)
    for column in [column for column in APART if column in rows and column not in where and len(set(rows[column])) > 1]:
        several = list(dict.fromkeys(rows[column].tolist()))
        raise UsageError(f"This run has {column} {', '.join(map(str, several))}; say which: {column}={several[0]!r}.")
    where = {"guarantee": str(guarantee), **where}
    there = set(rows[rows["guarantee"] == guarantee]["protocol"]) if len(rows) else set()
    of = tuple(protocol for protocol in guess.values if protocol in there) or tuple(guess.values)
    measured = Query(name, guess.metric, of, by="protocol", where=where).ask(run)
    pairs = {protocol: (value, measured.get(protocol, math.nan)) for protocol, value in guess.values.items()}
    trials = [found.trial for found in run.of(Measure.named(name)) if _shown(found.trial, guarantee, where, of)]
    late = datetime.fromisoformat(guess.made) > run.ended
    notes = [", ".join([metric.label, *(f"{column} {value}" for column, value in where.items())])]
    notes += setting(trials) if trials and not run.swept else []
    return guesses(guess.question, metric, pairs, notes, "Predicted after the run had ended." if late else "")


@dataclass(frozen=True)
class Reply:
    """What an answer gets back: whether it is right, and why, or a hint."""

    right: bool
    text: str

    def __str__(self) -> str:
        return f"{'Right.' if self.right else 'Not yet.'} {self.text}"

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        return f"**{'Right.' if self.right else 'Not yet.'}** {self.text}"


@dataclass(frozen=True)
class Exercise:
    """A question that a run answers; the fields are those of data/exercises.toml."""

    id: str
    question: str
    query: Query
    hints: tuple[Mapping[str, str], ...]
    explain: str
    kind: str = "number"
    unit: str = ""
    best: str = ""
    tolerance: float = 1.0
    slack: float = 0.0
    scale: float = 1.0
    per: Query | None = None

    def _repr_markdown_(self) -> str:
        query, among = self.query, (self.query.of,) if isinstance(self.query.of, str) else self.query.of
        named = [*among, *((query.against,) if isinstance(query.against, str) else query.against)]
        asked = " and ".join([f"protocol in {named}", *(f"{name} == {value!r}" for name, value in query.where.items())])
        columns = [query.metric, *([self.per.metric] if self.per else [])]
        look = f'run.{query.frame}.query("{asked}")[{["protocol", *columns]}]'
        answer = "a protocol" if self.kind == "protocol" else f"a number ({self.unit})"
        folded = f"<details><summary>Solution</summary>\n\n{self.explain}\n\n```python\n{look}\n```\n\n</details>"
        how = f"Answer with {answer}: `lab.lessons.check({self.id!r}, answer, run)`"
        return f"**Exercise.** {self.question}\n\n{how}\n\n{folded}"


def exercises() -> dict[str, Exercise]:
    """All exercises by id, in the order of the file."""
    tables = tomllib.loads((files("labkit") / "data" / "exercises.toml").read_text(encoding="utf-8"))["exercise"]
    found = {}
    for table in tables:
        queries = {name: Query.from_table(table[name]) for name in ("query", "per") if name in table}
        found[table["id"]] = Exercise(**{**table, **queries, "hints": tuple(table["hints"])})
    return found


def exercise(id: str) -> Exercise:
    """The exercise of that id: in a notebook its question, with the solution folded away."""
    found = exercises()
    if id not in list(found):
        raise UsageError(f"There is no exercise {shown(id)}; choose from {', '.join(found)}.")
    return found[id]


def check(id: str, answer: object, run: Run | Path | str) -> Reply:
    """Compares an answer with this run; a wrong one gets a hint. UsageError where the run has no figure for it."""
    asked = exercise(id)
    judge = _protocol if asked.kind == "protocol" else _number
    return judge(asked, answer, opened(run))


def _number(asked: Exercise, answer: object, run: Run) -> Reply:
    figure = asked.query.ask(run)[""] / (asked.per.ask(run)[""] if asked.per else 1.0) * asked.scale
    if math.isnan(figure):
        raise UsageError(f"This run has no figure for {asked.id!r}: too little arrived; run a longer workload.")
    if not is_number(answer):
        said = _said(answer, "is no number")
        return Reply(False, f"{said}: answer with a number in digits, without quotes ({asked.unit}).")
    value = float(answer)
    measured = f"This machine measured {number(figure)} {asked.unit}; you said {number(value)}."
    near = min(value, figure) > 0 and max(value / figure, figure / value) <= asked.tolerance
    if near or abs(value - figure) <= asked.slack or value == figure:
        return Reply(True, f"{measured} {asked.explain}")
    side = "low" if value < figure else "high"
    return Reply(False, f"That is too {side}. {_hint(asked, side)}")


def _protocol(asked: Exercise, answer: object, run: Run) -> Reply:
    figures = {name: figure for name, figure in asked.query.ask(run).items() if not math.isnan(figure)}
    if len(set(figures.values())) < 2:
        raise UsageError(f"This run tells no difference for {asked.id!r}; run a longer workload.")
    named = {row.title.lower(): name for name, row in PROTOCOLS.items()} | {name: name for name in PROTOCOLS}
    name = named.get(answer.strip().lower(), "") if isinstance(answer, str) else ""
    if name not in asked.query.of:
        said = _said(answer, "is none of the protocols asked for")
        return Reply(False, f"{said}: choose from {', '.join(map(repr, asked.query.of))}.")
    best = min(figures.values()) if asked.best == "min" else max(figures.values())
    if figures.get(name) != best:
        return Reply(False, f"Not {PROTOCOLS[name].title} here. {_hint(asked, name)}")
    told = ", ".join(f"{PROTOCOLS[name].title} {number(figure)} {asked.unit}" for name, figure in figures.items())
    return Reply(True, f"This machine measured: {told}. {asked.explain}")


def _said(answer: object, wrong: str) -> str:
    return "There is no answer yet" if answer is None or answer is ... else f"{shown(answer)} {wrong}"


def _hint(asked: Exercise, *cases: str) -> str:
    return next(hint["text"] for hint in asked.hints if hint["when"] in (*cases, "other"))


def _shown(trial: Trial, guarantee: Guarantee, where: Mapping[str, Any], of: tuple[str, ...]) -> bool:
    kind = trial.outage.kind if trial.outage else "none"
    return trial.guarantee == guarantee and trial.protocol in of and where.get("outage", kind) == kind


def _frame(run: Run, name: str) -> pd.DataFrame:
    found = getattr(run, name, None)
    if not isinstance(found, pd.DataFrame):
        raise UsageError(f"A run has no frame {name!r}; choose from {', '.join(Measure)}.")
    return found
