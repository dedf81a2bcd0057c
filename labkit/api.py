"""The one call behind `labkit compare` and the notebooks: run a plan, audit it, draw it."""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from labkit import charts, intervals
from labkit.errors import UsageError
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
    names = (protocols,) if isinstance(protocols, str) else tuple(protocols)
    return Plan(
        workload=workload,
        protocols=names,
        guarantees=tuple(map(Guarantee.named, [guarantees] if isinstance(guarantees, str) else guarantees)),
        measures=tuple(map(Measure.named, [measures] if isinstance(measures, str) else measures)),
        outages=_outages(outage, workload, names),
        repeat=repeat,
        timings=timings or Timings(),
        conditions=conditions or Conditions(),
    )


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
    wanted = protocols or (("polling", "longpolling") if over == "interval" else tuple(PROTOCOLS))
    if guarantees is None:
        guarantees = Guarantee.AT_LEAST_ONCE if over == "interval" else Guarantee.AT_MOST_ONCE
    return Plan(
        workload=workload or Workload(duration=1.0),
        protocols=(wanted,) if isinstance(wanted, str) else tuple(wanted),
        guarantees=tuple(map(Guarantee.named, [guarantees] if isinstance(guarantees, str) else guarantees)),
        measures=(Measure.COST if linked else SWEPT.get(over, Measure.COST),),
        repeat=repeat,
        timings=timings or Timings(),
        sweep=Sweep(over, tuple(values) if isinstance(values, Iterable) else (values,)),
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


def _outages(
    wanted: Outage | str | Sequence[str] | None, workload: Workload, protocols: tuple[str, ...]
) -> tuple[Outage, ...]:
    if wanted is None or wanted == NONE:
        return ()
    if isinstance(wanted, Outage):
        return (wanted,)
    kinds = list(OUTAGES) if wanted == ALL else [wanted] if isinstance(wanted, str) else list(wanted)
    for kind in kinds:
        if kind not in OUTAGES:
            raise UsageError(f"There is no outage {kind!r}; choose {', '.join(OUTAGES)}, {ALL}, or {NONE}.")
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
