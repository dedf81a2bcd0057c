"""Experiments: what is run, as data. A TOML table holds the arguments of `lab.compare`, `lab.sweep` or `demos.run`."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from labkit import api, demos
from labkit.errors import UsageError, shown
from labkit.outage import Conditions, Outage
from labkit.plan import Plan
from labkit.trial import Timings
from labkit.workload import Workload

DEMONSTRATIONS = "demonstrations"
MOST_LETTERS = 60
PLANS: dict[str, Callable[..., Plan]] = {"compare": api.planned, "sweep": api.swept}
KINDS = (*PLANS, DEMONSTRATIONS)
MADE = {"workload": Workload, "timings": Timings, "conditions": Conditions, "outage": Outage}
TABLES = {"workload": "{ rate = 100 }", "timings": "{ poll = 0.1 }", "conditions": "{ delay = 0.02 }"}
"""What can be written as a table alone, and what one is like; an outage may have its kind's name instead."""


@dataclass(frozen=True)
class Experiment:
    """One experiment, by name.

    quick: what then goes over the workload's. same: what of the workload an ordinary run has to share to stand for it,
    because thresholds rest on it.
    """

    name: str
    kind: str
    arguments: Mapping[str, Any]
    quick: Mapping[str, Any]
    same: tuple[str, ...] = ()

    @classmethod
    def from_table(cls, name: str, table: Mapping[str, Any]) -> "Experiment":
        """The experiment that a TOML table describes; UsageError when it describes none."""
        arguments = dict(table)
        kind, quick, same = (
            arguments.pop(key, default) for key, default in (("kind", None), ("quick", {}), ("same", ()))
        )
        if kind not in KINDS:
            raise UsageError(f"The experiment {name!r} is of kind {kind!r}; choose from {', '.join(KINDS)}.")
        if not isinstance(quick, Mapping) or not isinstance(same, list | tuple):
            raise UsageError(
                f"The experiment {name!r} has quick {shown(quick)} and same {shown(same)}; write {{}} and []."
            )
        return cls(name, kind, arguments, quick, tuple(same))

    def to_table(self) -> dict[str, Any]:
        """The table behind `from_table`."""
        return {"kind": self.kind, **self.arguments, "quick": dict(self.quick), "same": list(self.same)}

    @property
    def demonstrates(self) -> bool:
        """Whether it is a series of demonstrations, which have no trials and no repeats."""
        return self.kind == DEMONSTRATIONS

    def plan(self, quick: bool = False, repeat: int | None = None) -> Plan:
        """What there is to run; UsageError, which names the experiment, where that cannot be.

        repeat: takes the place of its own.
        """
        with self._named():
            given = {"workload": {}, **self.arguments}
            _check_names("it", given, PLANS[self.kind])
            for name, example in TABLES.items():
                if name in given and not isinstance(given[name], Mapping):
                    raise UsageError(f"{name} is {shown(given[name])}; write it as a table, {example}.")
            given["workload"] = {**given["workload"], **(self.quick if quick else {})}
            for name, made in MADE.items():
                if isinstance(given.get(name), Mapping):
                    _check_names(name, given[name], made)
                    given[name] = made(**given[name])
            plan = PLANS[self.kind](**given)
            plan = plan if repeat is None else replace(plan, repeat=repeat)
            plan.check()
            for load in {trial.workload for trial in plan.trials()}:
                load.schedule()
            return plan

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except UsageError as error:
            raise UsageError(f"In the experiment {self.name!r}: {error}") from None

    def carry_out(self, out: Path, quick: bool = False) -> None:
        """Runs it into a folder. UsageError before anything starts."""
        if self.demonstrates:
            self.demonstrate(out)
        else:
            api.carry_out(self.plan(quick), out, (), self.name, drawn=False)

    def demonstrated(self) -> list[str]:
        """The demonstrations it names; UsageError where there is one that is none."""
        with self._named():
            _check_names("it", self.arguments, demos.run)
            if "names" not in self.arguments:
                raise UsageError(f"it has no 'names'; choose from {', '.join(demos.DEMONSTRATIONS)}.")
            return demos.wanted(self.arguments["names"])

    def demonstrate(self, out: Path) -> None:
        """Runs the demonstrations it names into a folder."""
        facts = demos.run(self.demonstrated())
        out.mkdir(parents=True)
        demos.save(facts, out)

    def is_quick(self, found: Any) -> bool:
        """Whether what was run is the quick form of it, where that has a workload of its own."""
        if not self.quick or not hasattr(found, "manifest"):
            return False
        load, full = found.manifest["workload"], self.arguments.get("workload", {})
        return any(load.get(name) == value != full.get(name) for name, value in self.quick.items())

    def asked_of(self, run: Any) -> Any:
        """An ordinary run in its place, or the UsageError that says why it cannot be."""
        if self.demonstrates:
            return None
        over = self.arguments.get("over")
        mine = Workload(**self.arguments.get("workload", {})).to_json()
        lacking = [f"{name} {mine[name]:g}" for name in self.same if mine[name] != run.manifest["workload"].get(name)]
        if over != run.swept:
            return UsageError(f"It takes a sweep over {over}." if over else "It takes a comparison, not a sweep.")
        return UsageError(f"It takes a run with {', '.join(lacking)}.") if lacking else run


def check_name(what: str, name: str) -> None:
    """UsageError where a folder or a file cannot have the name on every system: of 255 bytes, a letter may take 4."""
    if not name.replace("-", "").replace("_", "").isalnum() or len(name) > MOST_LETTERS:
        raise UsageError(
            f"{what} is called {shown(name)}, which no file can be; use letters and hyphens, at most {MOST_LETTERS}."
        )


def _check_names(what: str, given: Mapping[str, Any], made: Callable[..., Any]) -> None:
    """UsageError where something is given that is no argument of what is made of it, or one is lacking."""
    known = inspect.signature(made).parameters
    if unknown := [name for name in given if name not in known]:
        raise UsageError(f"{what} has {shown(unknown[0])}; choose from {', '.join(known)}.")
    needed = [name for name, parameter in known.items() if parameter.default is parameter.empty]
    if lacking := [name for name in needed if name not in given]:
        raise UsageError(f"{what} has no {lacking[0]!r}; it needs {' and '.join(needed)}.")
