"""The one call behind `labkit compare` and the notebooks: run a plan, audit it, draw it."""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from labkit import charts, intervals
from labkit.errors import UsageError, shown
from labkit.outage import OUTAGES, Conditions, Outage
from labkit.plan import OUT_OF_THE_BOX, SWEPT, Plan, Sweep, unmet
from labkit.protocols import PROTOCOLS
from labkit.results import Run
from labkit.runner import Runner
from labkit.trial import COMPARED, Guarantee, Measure, Timings
from labkit.workload import Workload

ALL, NONE = "all", "none"
"""What may be said instead of a kind of outage."""


def compare(
    workload: Workload | None = None,
    *,
    protocols: str | Iterable[str] = tuple(PROTOCOLS),
    guarantees: str | Iterable[str] | None = None,
    measures: str | Iterable[str] = COMPARED,
    outage: Outage | str | Sequence[str] | None = "reset",
    conditions: Conditions | None = None,
    repeat: int = 1,
    timings: Timings | None = None,
    out: Path | str | None = None,
    argv: Iterable[str] = (),
    drawn: bool = True,
) -> Run:
    """Drives one workload through protocols and guarantees; returns the run with its frames and charts.

    measures: latency, bandwidth and loss, or some of them; cost and duplex besides, or instead. No
    duplex trial is durable, for no log keeps an answer.
    guarantees: those out of the box, at-most-once and at-least-once, when left out. outage: an Outage, or a kind, which
    then begins after a third of the load and lasts a sixth of it, or several; "all" for every kind that a protocol can
    meet, with all guarantees when none are named; None for no outage trials. conditions: what the link does to traffic
    while it works; with any, all trials go through it. out: the run folder, new or empty; a temporary one when left
    out. drawn: with its charts.
    A trial that fails is left out of the frames and named in `run.errors`. Raises UsageError for bad input, before
    anything starts. Ctrl-C ends it cleanly; what is finished is kept and drawn.
    """
    plan = planned(workload, protocols, guarantees, measures, outage, conditions, repeat, timings)
    return carry_out(plan, out, argv, "compare", drawn)


def planned(
    workload: Workload | None = None,
    protocols: str | Iterable[str] = tuple(PROTOCOLS),
    guarantees: str | Iterable[str] | None = None,
    measures: str | Iterable[str] = COMPARED,
    outage: Outage | str | Sequence[str] | None = "reset",
    conditions: Conditions | None = None,
    repeat: int = 1,
    timings: Timings | None = None,
) -> Plan:
    """What `compare` carries out when it is called so. UsageError for bad input."""
    workload = workload or Workload()
    if guarantees is None:
        guarantees = tuple(Guarantee) if outage == ALL else OUT_OF_THE_BOX
    names = tuple(_words("protocols", protocols, PROTOCOLS))
    plan = Plan(
        workload=workload,
        protocols=names,
        guarantees=tuple(map(Guarantee.named, _words("guarantees", guarantees, Guarantee))),
        measures=tuple(map(Measure.named, _words("measures", measures, Measure))),
        outages=_outages(outage, workload, names),
        repeat=repeat,
        timings=timings or Timings(),
        conditions=conditions or Conditions(),
    )
    if not plan.measures:
        raise UsageError(f"There is nothing to measure; name one or several of {', '.join(Measure)}.")
    if plan.measures == (Measure.LOSS,) and not plan.outages:
        raise UsageError("Loss is measured in an outage, and there is none; name one, or another measure.")
    return plan


def sweep(
    over: str,
    values: Iterable[float] | float,
    workload: Workload | None = None,
    *,
    protocols: str | Iterable[str] | None = None,
    guarantees: str | Iterable[str] | None = None,
    repeat: int = 1,
    timings: Timings | None = None,
    linked: bool = False,
    out: Path | str | None = None,
    argv: Iterable[str] = (),
    drawn: bool = True,
) -> Run:
    """Runs the workload at each value of one parameter; `run.cost` is the frame, `charts.sweep(run)` the picture.

    over: rate, subscribers, size or topics of the workload, or the interval at which a polling consumer asks, in
    seconds. With rate and topics the parties are connected directly; with the others their bytes are counted at the
    link, as they always are when `linked`. protocols: all, or for the interval the two that poll. guarantees:
    at-most-once when left out; for the interval at-least-once, where asking seldom costs time but no events:
    at-most-once polling takes the latest alone. Errors, Ctrl-C, `out` and `drawn` as with `compare`.
    """
    plan = swept(over, values, workload, protocols, guarantees, repeat, timings, linked)
    return carry_out(plan, out, argv, "sweep", drawn)


def swept(
    over: str,
    values: Iterable[float] | float,
    workload: Workload | None = None,
    protocols: str | Iterable[str] | None = None,
    guarantees: str | Iterable[str] | None = None,
    repeat: int = 1,
    timings: Timings | None = None,
    linked: bool = False,
) -> Plan:
    """What `sweep` carries out when it is called so. UsageError for bad input."""
    sweep = Sweep(over, tuple(values) if isinstance(values, Iterable) else (values,))
    if protocols is None:
        protocols = ("polling", "longpolling") if over == "interval" else tuple(PROTOCOLS)
    if not isinstance(linked, bool):
        raise UsageError(f"linked is {shown(linked)}; it has to be true or false.")
    if guarantees is None:
        guarantees = Guarantee.AT_LEAST_ONCE if over == "interval" else Guarantee.AT_MOST_ONCE
    return Plan(
        workload=workload or Workload(duration=1.0),
        protocols=tuple(_words("protocols", protocols, PROTOCOLS)),
        guarantees=tuple(map(Guarantee.named, _words("guarantees", guarantees, Guarantee))),
        measures=(Measure.COST if linked else SWEPT[over],),
        repeat=repeat,
        timings=timings or Timings(),
        sweep=sweep,
    )


def carry_out(plan: Plan, out: Path | str | None, argv: Iterable[str], what: str, drawn: bool) -> Run:
    """Runs a plan into a folder, with a bar of progress called `what`; errors and Ctrl-C as with `compare`."""
    folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="labkit-"))
    runner = Runner(plan, folder, list(argv), lambda *_: _advance(progress))
    with tqdm(total=len(runner.trials), unit="trial", desc=what, dynamic_ncols=True) as progress:
        try:
            runner.run()
        except KeyboardInterrupt:
            _finish(folder, drawn)
            raise
    return _finish(folder, drawn)


def _words(name: str, given: Any, known: Iterable[str]) -> list[Any]:
    """One word, or several. UsageError for what is neither; whether each is known, is for others to say."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, Iterable):
        raise UsageError(f"{name} is {shown(given)}; name one or several of {', '.join(known)}.")
    return list(given)


def _outages(
    wanted: Outage | str | Sequence[str] | None, workload: Workload, protocols: tuple[str, ...]
) -> tuple[Outage, ...]:
    if wanted is None or wanted == NONE:
        return ()
    if isinstance(wanted, Outage):
        return (wanted,)
    kinds = list(OUTAGES) if wanted == ALL else _words("outage", wanted, [*OUTAGES, ALL, NONE])
    for kind in kinds:
        if kind not in list(OUTAGES):  # what has no hash is none of them either
            raise UsageError(f"There is no outage {shown(kind)}; choose {', '.join(OUTAGES)}, {ALL}, or {NONE}.")
    length = workload.length
    outages = [Outage(kind, at=round(length / 3, 6), lasts=round(length / 6, 6)) for kind in kinds]
    if wanted == ALL:
        outages = [outage for outage in outages if any(unmet(name, outage) is None for name in protocols)]
    return tuple(outages)


def _advance(progress: "tqdm[Any]") -> None:
    progress.update()


def _finish(folder: Path, drawn: bool) -> Run:
    run = Run(folder)
    intervals.save(run)
    if drawn:
        charts.save(run, folder / "charts")
    return run
