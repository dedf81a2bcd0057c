"""A job: one comparison that one thread carries out and that others watch, or cancel.

Its charts are drawn anew as trials finish. Trials that measure time wait for that: no drawing falls into one.
"""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from labkit import charts
from labkit.errors import TrialError, UsageError
from labkit.looks import Chart
from labkit.plan import Plan
from labkit.progress import Progress
from labkit.results import Run
from labkit.runner import Runner
from labkit.trial import Measure, Trial

_TURN = threading.Lock()
"""Whose job runs: two in one process would measure each other."""

PAUSE = 0.25
"""Seconds between two drawings at least."""

CHARTS: dict[Measure, Callable[[Run], Chart]] = {
    Measure.LATENCY: charts.latency,
    Measure.BANDWIDTH: charts.bandwidth,
    Measure.LOSS: charts.loss,
}


class Drawn(NamedTuple):
    """A chart as a page shows it."""

    png: bytes
    alt: str

    @classmethod
    def of(cls, chart: Chart) -> "Drawn":
        """The chart, drawn."""
        return cls(chart.png(), chart.alt)


class State(StrEnum):
    """How a job is."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


class Job:
    """A comparison to carry out. `changed` is called, from any thread, whenever there is something new to show.

    pictures: the newest chart of each measure. reason: what went wrong, in a sentence, where the job failed. waits: it
    is another job's turn.
    """

    def __init__(self, plan: Plan, folder: Path, changed: Callable[[], None]) -> None:
        self.plan, self.folder = plan, folder
        self.state, self.reason, self.waits = State.RUNNING, "", True
        self.progress = Progress(plan.trials())
        self.pictures: dict[str, Drawn] = {}
        self._changed, self._cancelled = changed, False
        self._runner: Runner | None = None
        self._stale, self._drawn, self._said = set(plan.measures), 0.0, 0.0

    def run(self) -> None:
        """Carries it out, to its end or until it is cancelled; what is finished is kept and drawn."""
        try:
            with self._turn():
                self._carry_out()
        except (UsageError, TrialError, OSError) as error:
            self.state, self.reason = State.FAILED, str(error)
        except BaseException as error:
            self.state, self.reason = State.FAILED, f"This should not happen: {error!r}"
            raise
        finally:
            self._changed()
            gc.collect()  # a chart holds itself by cycles, and left to chance, pixels would pile up from run to run

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Waits until no other job of this process runs, or until it is cancelled."""
        while not (mine := _TURN.acquire(timeout=0.1)) and not self._cancelled:
            pass
        try:
            yield
        finally:
            if mine:
                _TURN.release()

    def _carry_out(self) -> None:
        self.waits = False
        self._runner = Runner(self.plan, self.folder, [], self._ended, self._begun, self._waiting)
        if self._cancelled:
            self._runner.stop()
        self._runner.run()
        self.progress.stopped()
        self.state = State.CANCELLED if self._cancelled else State.RUNNING
        self._changed()
        run = Run(self.folder)
        run.save()
        self.pictures = {measure: Drawn.of(CHARTS[measure](run)) for measure in self.plan.measures}
        self.state = State.CANCELLED if self._cancelled else State.DONE

    def cancel(self) -> None:
        """Has it end what is under way, and begin nothing; returns at once."""
        self._cancelled = True
        if self._runner:
            self._runner.stop()

    def _begun(self, trial: Trial) -> None:
        self.progress.begun(trial)
        self._tell()

    def _ended(self, trial: Trial, error: str | None) -> None:
        self.progress.ended(trial, error)
        self._draw(trial.measure)
        self._tell()

    def _waiting(self) -> None:
        """The time that is left goes by while nothing else happens."""
        if time.monotonic() - self._said >= 1:
            self._tell()

    def _tell(self) -> None:
        self._said = time.monotonic()
        self._changed()

    def _draw(self, measure: Measure) -> None:
        """Draws what is out of date, unless something was drawn just now: the next trial then sees to it."""
        self._stale.add(measure)
        if time.monotonic() - self._drawn < PAUSE:
            return
        run = Run(self.folder)
        while self._stale:
            stale = self._stale.pop()
            self.pictures[stale] = Drawn.of(CHARTS[stale](run))
        self._drawn = time.monotonic()
