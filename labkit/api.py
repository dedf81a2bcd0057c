"""The one call behind `labkit compare` and the notebooks: run a plan, audit it, draw it."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from labkit import charts
from labkit.errors import UsageError
from labkit.outage import OUTAGES, Outage
from labkit.protocols import PROTOCOLS
from labkit.results import Run
from labkit.runner import Plan, Runner
from labkit.trial import Guarantee, Timings
from labkit.workload import Workload


def compare(
    workload: Workload | None = None,
    *,
    protocols: str | Iterable[str] = tuple(PROTOCOLS),
    guarantees: str | Iterable[str] = tuple(Guarantee),
    outage: Outage | str | None = "reset",
    repeat: int = 1,
    timings: Timings | None = None,
    out: Path | str | None = None,
    argv: Iterable[str] = (),
) -> Run:
    """Drives one workload through protocols and guarantees; returns the run with its frames and charts.

    outage: an Outage, or a kind, which then begins after a third of the load and lasts a sixth of it; None for
    no outage trials. out: the run folder, new or empty; a temporary one when left out.
    A trial that fails is left out of the frames and named in `run.errors`. Raises UsageError for bad input, before
    anything starts. Ctrl-C ends it cleanly; what is finished is kept and drawn.
    """
    workload = workload or Workload()
    if outage == "none":
        outage = None
    if isinstance(outage, str):
        if outage not in OUTAGES:
            raise UsageError(f"There is no outage {outage!r}; choose {', '.join(OUTAGES)}, or none.")
        length = workload.length
        outage = Outage(outage, at=round(length / 3, 6), lasts=round(length / 6, 6))
    plan = Plan(
        workload=workload,
        protocols=(protocols,) if isinstance(protocols, str) else tuple(protocols),
        guarantees=tuple(map(Guarantee.named, [guarantees] if isinstance(guarantees, str) else guarantees)),
        outage=outage,
        repeat=repeat,
        timings=timings or Timings(),
    )
    folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="labkit-"))
    runner = Runner(plan, folder, list(argv), lambda *_: _advance(progress))
    with tqdm(total=len(runner.trials), unit="trial", desc="compare", dynamic_ncols=True) as progress:
        try:
            runner.run()
        except KeyboardInterrupt:
            _finish(folder)
            raise
    return _finish(folder)


def _advance(progress: "tqdm[Any]") -> None:
    progress.update()


def _finish(folder: Path) -> Run:
    run = Run(folder)
    run.save()
    charts.save(run, folder / "charts")
    return run
