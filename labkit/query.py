"""One figure asked of a run, as data: a frame and a column, of which protocols, against which, under which conditions.

Repeats are pooled by their median. A figure that is not there stays NaN: never, or not measured. Nothing is guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pandas as pd

from labkit.errors import UsageError
from labkit.protocols import find

# What measures a frame, where `labkit compare` alone does not.
COMMANDS = {"duplex": "labkit compare --duplex", "demonstrations": "labkit claims"}


@dataclass(frozen=True)
class Query:
    """metric(of), or metric(of) / metric(against), once or for each value of the column `by`, in the rows of `where`.

    `frame` is a frame of a Run. `where`: columns, each with its value or a list of values. Several protocols in `of` or
    `against` count as their median, unless `by` is "protocol": then each of `of` has its own figure.
    """

    frame: str
    metric: str
    of: str | tuple[str, ...]
    against: str | tuple[str, ...] = ()
    by: str = ""
    where: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (*listed(self.of), *listed(self.against)):
            find(name)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> "Query":
        """The query that a TOML table describes; UsageError when it describes none."""
        known = [item.name for item in fields(cls)]
        wrong = [f"has {name!r}" for name in table if name not in known]
        for words in wrong + [f"lacks {name!r}" for name in known[:3] if not table.get(name)]:
            raise UsageError(f"The query {dict(table)} {words}; a query is of {', '.join(known)}.")
        values: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}
        return cls(**values)

    def ask(self, run: Any) -> dict[str, float]:
        """Condition -> figure, in order of appearance; without `by` the condition is "". UsageError where rows lack."""
        above = self._figures(rows := self._rows(run), self.of, self.by)
        if not self.against:
            return above
        below = self._figures(rows, self.against, "" if self.by == "protocol" else self.by)
        with np.errstate(divide="ignore", invalid="ignore"):
            return {key: float(np.divide(above[key], below.get(key, below.get("", np.nan)))) for key in above}

    def doubts(self, run: Any) -> dict[str, str]:
        """Condition -> why its figure measures nothing: a trial was inconclusive, or a time is the generator's own."""
        names = [*listed(self.of), *listed(self.against)]
        rows = self._rows(run)
        rows = rows[rows["protocol"].isin(names)]
        found: dict[str, str] = {}
        reasons = {"saturated": "generator saturated"} if self.metric.endswith("_ms") else {}
        for column, words in {**reasons, "inconclusive": "inconclusive"}.items():
            spoiled = rows[rows[column].astype(bool)] if column in rows else rows[:0]
            found |= dict.fromkeys(map(_label, spoiled[self.by]) if self.by else [""] * len(spoiled), words)
        below = [found[name] for name in listed(self.against) if self.by == "protocol" and name in found]
        return dict.fromkeys(listed(self.of), below[0]) | found if below else found

    def _rows(self, run: Any) -> pd.DataFrame:
        rows, again = getattr(run, self.frame, None), getattr(run, "again", "")
        run_it = f"run `{COMMANDS.get(self.frame, 'labkit compare')}"
        if not isinstance(rows, pd.DataFrame) or rows.empty:
            raise UsageError(f"This run measured no {self.frame}; {again or f'{run_it}` for one that does'}.")
        for name in [name for name in (self.metric, self.by, *self.where) if name and name not in rows]:
            raise UsageError(f"This run's {self.frame} has no column {name!r}; a newer run or a sweep may have it.")
        for name, value in self.where.items():
            there = ", ".join(dict.fromkeys(map(_label, rows[name])))
            rows = rows[rows[name].isin(value if isinstance(value, list | tuple) else [value])]
            if rows.empty:
                raise UsageError(
                    f"This run has {self.frame} only with {name} {there}; {again or f'{run_it}` with {value}'}."
                )
        for name in sorted({*listed(self.of), *listed(self.against)} - set(rows["protocol"])):
            asked = "".join(f" with {column} {value}" for column, value in self.where.items())
            raise UsageError(
                f"This run has no {self.frame} trial of {name}{asked}; {again or f'{run_it} --protocol {name}`'}."
            )
        return rows

    def _figures(self, rows: pd.DataFrame, of: str | tuple[str, ...], by: str) -> dict[str, float]:
        rows = rows[rows["protocol"].isin(listed(of))]
        groups = rows.groupby(by, sort=False, dropna=False) if by else [("", rows)]
        return {_label(key): _median(each.groupby("protocol")[self.metric].agg(_median)) for key, each in groups}


def listed(names: str | tuple[str, ...]) -> tuple[str, ...]:
    """The protocols that `of` or `against` names."""
    return (names,) if isinstance(names, str) else names


def _median(figures: "pd.Series[Any]") -> float:
    try:
        return float(np.median(figures.astype(float)))
    except ValueError:
        raise UsageError(f"The column {str(figures.name)!r} holds no numbers; ask for one that does.") from None


def _label(value: object) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)
