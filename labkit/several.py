"""Charts of several experiments, as a suite's tables have them: of which, and whether these measure what is drawn."""

from collections.abc import Collection, Mapping
from typing import Any

from labkit import choice
from labkit.errors import UsageError, shown
from labkit.experiment import check_name
from labkit.overlay import LETTERS
from labkit.plan import Plan
from labkit.trial import COMPARED, Measure

REACH = "reach"
"""The demonstration that a ranking has the ways of an event from."""


def named(table: Any) -> list[str]:
    """The experiments that a chart of several is made from; none where its table is not of these."""
    match table:
        case {"overlay": Mapping() as runs, **others} if not others:
            names = [*runs.values()]
        case {"cost": cost, "loss": loss, "weights": _, **others} if not others:
            names = [cost, loss]
        case _:
            names = []
    return names if all(isinstance(name, str) for name in names) else []


def check_table(name: str, table: Any) -> None:
    """UsageError where the chart can have no such name, or its table is that of no chart of several."""
    check_name("A chart", name)
    if not named(table):
        fix = "it is of overlay, with an experiment for each label, or of cost, loss and weights"
        raise UsageError(f"The chart {name!r} is {shown(table)}; {fix}.")


def check(name: str, table: Any, plans: Mapping[str, Plan], demonstrated: Collection[str]) -> None:
    """UsageError where it could not be drawn from what these plans and demonstrations come to."""
    check_table(name, table)
    try:
        for experiment in named(table):
            if experiment not in plans:
                choose = f"choose from {', '.join(plans)}" if plans else "write one"
                raise UsageError(f"there is no experiment {shown(experiment)} with trials; {choose}.")
        if "overlay" in table:
            _check_overlay({experiment: plans[experiment] for experiment in named(table)}, len(named(table)))
        else:
            choice.check_weights(table["weights"])
            for part in (Measure.COST, Measure.LOSS):
                _check_part(part, table[part], plans[table[part]])
            if REACH not in demonstrated:
                fix = f'write an experiment of kind "demonstrations" with names = ["{REACH}"]'
                raise UsageError(f"a ranking needs demonstrations of {REACH}, and there are none; {fix}.")
    except UsageError as error:
        raise UsageError(f"In the chart {name!r}: {error}") from None


def _check_overlay(plans: Mapping[str, Plan], count: int) -> None:
    if count > len(LETTERS):
        raise UsageError(f"there are {count} experiments to lay over each other; name from 1 to {len(LETTERS)}.")
    for name, plan in plans.items():
        if plan.sweep:
            raise UsageError(f"the experiment {name!r} is a sweep, which cannot be laid over another; leave it out.")
    measured = [
        {(trial.measure, trial.protocol, trial.guarantee) for trial in plan.trials() if trial.measure in COMPARED}
        for plan in plans.values()
    ]
    together = [each for mine in measured for each in mine]
    if not together:
        raise UsageError(f"the experiments measure nothing that it shows; have one of {', '.join(COMPARED)} in each.")
    if len(plans) > 1 and len(set(together)) == len(together):
        raise UsageError(
            "no two of its experiments measure the same of a protocol with the same guarantee; choose others."
        )


def _check_part(measure: Measure, name: str, plan: Plan) -> None:
    """The trials of this measure have to be there, and of one guarantee, so that like is set beside like."""
    guarantees = dict.fromkeys(trial.guarantee for trial in plan.trials() if trial.measure is measure)
    if not guarantees:
        fix = "and an outage" if measure is Measure.LOSS else "in it"
        raise UsageError(f'its {measure} is {name!r}, which has no trial of it; write measures = "{measure}" {fix}.')
    if len(guarantees) > 1:
        said = " and ".join(guarantees)
        raise UsageError(f"its {measure} is {name!r}, which is {said}; name one guarantee in it.")
