"""Suites: which experiments, how often, in which order. Pure data, from a TOML file or from a folder begun earlier.

A suite runs in rounds: each round has one repeat of every trial, its experiments and their trials in an order that the
seed shuffles. So no protocol always comes first, and whatever the machine did for some minutes is in one repeat of all.
"""

import json
import random
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from labkit import several
from labkit.claims import load as load_claims
from labkit.collection import HOME
from labkit.errors import UsageError, shown
from labkit.experiment import Experiment, check_name
from labkit.plan import MOST_REPEATS, Plan
from labkit.shape import DEEPEST, anything
from labkit.trial import Trial

REFERENCE = HOME / "suites" / "reference.toml"
CHARTS = "charts"
REPEATS = 5
MOST_SEED = 2**32 - 1


@dataclass(frozen=True)
class Suite:
    """What there is to run. tables: each experiment as its TOML table says. quick: the quick form of each.

    charts: those of several experiments, as `labkit.several` says and `labkit.album` draws them.
    """

    title: str
    tables: Mapping[str, Mapping[str, Any]]
    charts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seed: int = 1
    repeat: int = REPEATS
    quick: bool = False

    def __post_init__(self) -> None:
        for name, value, low, high in (("repeat", self.repeat, 1, MOST_REPEATS), ("seed", self.seed, 0, MOST_SEED)):
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise UsageError(f"{name} is {shown(value)}; it has to be a whole number from {low} to {high:,}.")
        if not self.tables:
            raise UsageError("The suite has no experiment; write one as a table [experiment.NAME].")
        for name in self.tables:
            check_name("An experiment", name)
            if name.casefold() == CHARTS:
                raise UsageError(f"An experiment is called {name!r}, as the folder of its charts will be; rename it.")
            if name in self.charts:
                raise UsageError(f"A chart and an experiment are both called {name!r}; rename one.")
        for names in (self.tables, self.charts):
            alike: dict[str, str] = {}
            for name in names:
                if (other := alike.setdefault(name.casefold(), name)) != name:
                    raise UsageError(f"{other!r} and {name!r} are one file where capitals do not count; rename one.")

    @property
    def experiments(self) -> dict[str, Experiment]:
        """By name, in the order of the file."""
        return {name: Experiment.from_table(name, table) for name, table in self.tables.items()}

    def plans(self) -> dict[str, Plan]:
        """What each experiment with trials consists of; UsageError, which names it or a chart, where that cannot be."""
        found, demonstrated = {}, set()
        for name, experiment in self.experiments.items():
            if experiment.demonstrates:
                demonstrated.update(experiment.demonstrated())
            else:
                found[name] = experiment.plan(self.quick, self.repeat)
        for name, table in self.charts.items():
            several.check(name, table, found, demonstrated)
        return found

    def steps(self, plans: Mapping[str, Plan]) -> Iterator[tuple[str, int, list[Trial]]]:
        """Experiment, round, and the trials to run then, in order. Demonstrations come once, and have no trials."""
        order = random.Random(f"order {self.seed}")
        every = {name: plan.trials() for name, plan in plans.items()}
        for number in range(1, self.repeat + 1):
            names = [name for name in self.tables if name in every or number == 1]
            order.shuffle(names)
            for name in names:
                trials = [trial for trial in every.get(name, []) if trial.repeat == number]
                order.shuffle(trials)
                yield name, number, trials

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values; `Suite(**fields)` is the way back."""
        return asdict(self)


def load(path: Path = REFERENCE, seed: int = 1, repeat: int | None = None, quick: bool = False) -> Suite:
    """The suite in a TOML file; UsageError where it is none.

    Its tables are `experiment.NAME`, each with the arguments of `lab.compare`, `lab.sweep` or `demos.run`; `title` says
    what it is for, `chart.NAME` a chart of several, and with `claims = true` it has every experiment behind the claims
    besides. repeat: 5, or 1 where quick, when left out.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        if not anything(tables):
            raise RecursionError
        json.dumps(tables)
    except (OSError, ValueError) as error:
        raise UsageError(f"The suite {str(path)!r} cannot be read: {error}; give a TOML file of experiments.") from None
    except RecursionError:
        raise UsageError(
            f"The suite {str(path)!r} has values within values, more than {DEEPEST} deep; write them flat."
        ) from None
    except TypeError as error:
        raise UsageError(f"The suite {str(path)!r} cannot be kept as JSON: {error}; write it as text.") from None
    if wrong := set(tables) - {"title", "claims", "experiment", "chart"}:
        raise UsageError(f"The suite {str(path)!r} has {min(wrong)!r}; it is of title, claims, experiment and chart.")
    title, claimed = tables.get("title", path.stem), tables.get("claims", False)
    if not isinstance(title, str) or not isinstance(claimed, bool):
        raise UsageError(
            f"The suite {str(path)!r} has title {shown(title)} and claims {shown(claimed)}; write a text, and true or "
            "false."
        )
    for kind in ("experiment", "chart"):
        found = tables.setdefault(kind, {})
        if not isinstance(found, dict) or not all(isinstance(table, dict) for table in found.values()):
            raise UsageError(f"The suite {str(path)!r} has {kind} {shown(found)}; write each as a table [{kind}.NAME].")
    mine = dict(tables["experiment"])
    theirs = {name: each.to_table() for name, each in load_claims()[0].items()} if claimed else {}
    if both := set(mine) & set(theirs):
        raise UsageError(f"The suite's experiment {min(both)!r} is called as one of the claims'; rename it.")
    return Suite(
        title,
        mine | theirs,
        tables["chart"],
        seed,
        repeat if repeat is not None else 1 if quick else REPEATS,
        quick,
    )
