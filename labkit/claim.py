"""One claim: the figures that decide it, what they have to be, and the verdict they come to. Pure.

A verdict is computed, never written down. What a run does not answer is "not measured", with the reason.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from labkit.errors import UsageError
from labkit.evidence import ADDED
from labkit.figures import METRICS, Metric
from labkit.protocols import PROTOCOLS
from labkit.query import Query, listed

SIGNS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "<=": ("≤", operator.le),
    ">=": ("≥", operator.ge),
    "==": ("=", operator.eq),
    "<": ("<", operator.lt),
    ">": (">", operator.gt),
}

HOLDS = re.compile(r"(<=|>=|==|<|>) (-?\d+(?:\.\d+)?)")
NEVER = "never"
ABSENT = ("", "holds", "fails", "skip")
HEADINGS = {"general": "General", **{name: row.title for name, row in PROTOCOLS.items()}, "choosing": "Choosing"}
UNNAMED = Metric("", "", 2, "")


@dataclass(frozen=True)
class Figure:
    """A query of an experiment, and what each of its figures has to be: `holds`, as "<= 14", or "never".

    nan: what a figure that is not there counts as: holds, fails, or skip, for no case at all; undecided when left out.
    absent: what a case that decides nothing is called instead of "no case" or "undecided".
    base: the condition by whose figure those of the others are divided; baseline: the experiment by whose they are.
    """

    query: Query
    experiment: str
    holds: str
    label: str = ""
    nan: str = ""
    absent: str = ""
    base: str = ""
    baseline: str = ""

    @classmethod
    def from_table(cls, table: Mapping[str, Any], experiment: str = "") -> "Figure":
        """The figure that a TOML table describes, a query's keys among its own; UsageError when it describes none."""
        own = {item.name for item in fields(cls)} & set(table)
        values = {"experiment": experiment, "holds": "", **{name: str(table[name]) for name in own}}
        if values["holds"] != NEVER and not HOLDS.fullmatch(values["holds"]):
            raise UsageError(f"holds is {values['holds']!r}; write a comparison and a number, as '<= 14', or {NEVER}.")
        if values.get("nan", "") not in ABSENT:
            raise UsageError(f"nan is {values['nan']!r}; choose holds, fails or skip, or leave it out.")
        query = Query.from_table({name: value for name, value in table.items() if name not in own})
        return cls(query=query, **values)

    def ask(self, evidence: Mapping[str, Any]) -> dict[str, float]:
        """Condition -> figure. UsageError says why the run cannot answer."""
        found = self._answer(evidence, self.experiment)
        if self.base and self.base not in found:
            again = getattr(evidence[self.experiment], "again", "")
            words = f"There is no {self.query.by} {self.base} to compare with"
            raise UsageError(f"{words}; {again}." if again else f"{words}.")
        if not self.base and not self.baseline:
            return found
        below = self._answer(evidence, self.baseline) if self.baseline else dict.fromkeys(found, found[self.base])
        return {
            key: found[key] / below[key] if below.get(key) else math.nan for key in found if key != (self.base or None)
        }

    def doubts(self, evidence: Mapping[str, Any], found: Mapping[str, float]) -> dict[str, str]:
        """Condition -> why its figure decides nothing, what it is divided by included. After `ask`, which may fail."""
        own = self.query.doubts(evidence[self.experiment])
        below = self.query.doubts(evidence[self.baseline]) if self.baseline else {}
        return dict.fromkeys(found, own[self.base]) if self.base in own and self.base else {**own, **below}

    def _answer(self, evidence: Mapping[str, Any], name: str) -> dict[str, float]:
        run, query = evidence.get(name), self.query
        if run is None:
            raise UsageError(f"The experiment {name!r} is not in it.")
        if isinstance(run, UsageError):
            raise run
        for trial, error in getattr(run, "errors", {}).items():
            if trial.split("-")[1] in (*listed(query.of), *listed(query.against)):
                raise UsageError(f"The trial {trial} failed: {error}")
        return query.ask(run)

    def judge(self, value: float) -> bool | None:
        """Whether a figure holds; None when it decides nothing."""
        if self.holds == NEVER:
            return math.isnan(value)
        if math.isnan(value):
            return {"holds": True, "fails": False}.get(self.nan)
        sign, limit = self.holds.split()
        return SIGNS[sign][1](value, float(limit))

    def text(self, found: Mapping[str, float], doubts: Mapping[str, str]) -> str:
        """What was asked, in which conditions it holds, in which not, and in which nothing was measured."""
        none = self.absent or ("no case" if self.nan == "skip" else "undecided")
        sides: dict[str, list[str]] = {"yes": [], "no": [], none: []}
        for key, value in found.items():
            side = {True: "yes", False: "no", None: none}[self.judge(value)]
            side = f"not measured, {doubts[key]}" if key in doubts else side
            told = self._name(key) if doubts.get(key) == "inconclusive" else self._words(key, value)
            sides.setdefault(side, []).append(told)
        parts = [f"{side}: {', '.join(each)}".rstrip(": ") for side, each in sides.items() if each]
        return f"{self._asked()}? {'; '.join(parts)}."

    @property
    def _metric(self) -> Metric:
        metric = {**METRICS, **ADDED}.get(self.query.metric, UNNAMED)
        relative = self.query.against or self.base or self.baseline
        return metric._replace(unit="×", digits=2) if relative else metric

    @property
    def _worked(self) -> bool:
        """Whether its figures say no more than that something worked, or did not."""
        return self.query.frame == "demonstrations" and self.holds == "== 1"

    def _asked(self) -> str:
        if self._worked:
            return self.label
        if self.holds == NEVER:
            return f"{self.label or self._metric.label}: {NEVER}"
        sign, limit = self.holds.split()
        limit += self._metric.unit if self._metric.unit == "×" else f" {self._metric.unit}".rstrip()
        return f"{self.label or self._metric.label} {SIGNS[sign][0]} {limit}"

    def _name(self, key: str) -> str:
        by = self.query.by
        return HEADINGS[key] if by == "protocol" else f"{by} {key}" if key.replace(".", "").isdigit() else key

    def _words(self, key: str, value: float) -> str:
        key = self._name(key)
        if self._worked or (math.isnan(value) and self.nan == "skip"):
            return key
        shown = NEVER if math.isnan(value) else "∞" if math.isinf(value) else f"{value:,.{self._metric.digits}f}"
        return f"{key} ({shown})" if key else shown


@dataclass(frozen=True)
class Claim:
    """One claim in one plain sentence; where nothing was measured it is cited, from `source`.

    protocol: a protocol, general or choosing. depends: on what the verdict does where the conditions disagree.
    """

    id: str
    protocol: str
    claim: str
    why: str
    figures: tuple[Figure, ...] = ()
    depends: str = ""
    source: str = ""

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> "Claim":
        """The claim that a TOML table describes; UsageError when it describes none."""
        known = [item.name for item in fields(cls)]
        wrong = [f"has {name!r}" for name in table if name not in (*known, "experiment")]
        wrong += [f"lacks {name!r}" for name in known[:4] if not table.get(name)]
        if not table.get("source") and not table.get("figures"):
            wrong.append("lacks figures, or a source to cite")
        if not isinstance(table.get("figures", []), list):
            wrong.append(f"has figures that are none: {table['figures']!r}")
        elif table.get("figures") and not table.get("depends"):
            wrong.append("lacks 'depends'")
        if table.get("protocol") not in HEADINGS:
            wrong.append(f"is of {table.get('protocol')!r} and not of {', '.join(HEADINGS)}")
        try:
            if wrong:
                raise UsageError(f"it {wrong[0]}.")
            figures = [Figure.from_table(each, table.get("experiment", "")) for each in table.get("figures", [])]
        except UsageError as error:
            raise UsageError(f"The claim {table.get('id', dict(table))!r} is damaged: {error}") from None
        return cls(
            **{name: str(table[name]) for name in known if name in table and name != "figures"}, figures=tuple(figures)
        )

    def judge(self, evidence: Mapping[str, Any]) -> tuple[str, str]:
        """The verdict, and what it rests on in words. Evidence: experiment -> frames, or why there are none."""
        if not self.figures:
            return "cited", self.source
        try:
            found = [(figure, figure.ask(evidence)) for figure in self.figures]
            answers = [(figure, values, figure.doubts(evidence, values)) for figure, values in found]
        except UsageError as error:
            if self.source:
                return "cited", self.source
            return "not measured", f"Not measured in this run: {error}"
        held = {figure.judge(values[key]) for figure, values, doubts in answers for key in values if key not in doubts}
        held -= {None}
        text = "\n".join(
            [*(figure.text(values, doubts) for figure, values, doubts in answers), *filter(None, [self.source])]
        )
        if not held:
            return "not measured", f"Not measured in this run: no case decides it. {text}"
        shown = all(figure.query.frame == "demonstrations" for figure in self.figures)
        return "it depends" if len(held) == 2 else "refuted" if False in held else SHOWN[shown], text


SHOWN = {True: "demonstrated", False: "supported"}
