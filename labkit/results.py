"""Results: a run folder in, tidy DataFrames out. Everything shown is computed here, from the recordings alone."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import pandas as pd

from labkit import disk, manifest
from labkit.audit import Offer
from labkit.errors import UsageError
from labkit.figures import COLUMNS, METRICS, ROWS
from labkit.outage import OUTAGES
from labkit.protocols import PROTOCOLS
from labkit.recording import Files, Recording, load, trials_of
from labkit.trial import COMPARED, Guarantee, Measure
from labkit.workload import Workload

FOLDED = (
    *("trial", "subscribers", "saturated", "outage"),
    *("reordered", "unexpected", "corrupt", "unexplained", "overflowed"),
)
"""Columns that a table for a terminal leaves out where they say the same in every row."""


class Run:
    """A run folder, opened. Frames are computed when they are first asked for."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.manifest = manifest.read(self.folder)

    @cached_property
    def files(self) -> dict[str, Files]:
        """What each trial left, by its name."""
        return trials_of(self.folder)

    @cached_property
    def recordings(self) -> list[Recording]:
        """Every finished trial, in the order of the tables: outage, protocol, guarantee; swept value; repeat."""
        wanted = {name for name, entry in self.manifest["trials"].items() if "error" not in entry}
        missing = sorted(wanted - set(self.files))
        if missing:
            raise UsageError(f"The run {str(self.folder)!r} lacks the trial {missing[0]}; restore it, or run it again.")
        protocols, guarantees, kinds = list(PROTOCOLS), list(Guarantee), list(OUTAGES)

        def place(recording: Recording) -> tuple[float, ...]:
            trial = recording.trial
            load, poll = trial.workload, trial.timings.poll
            swept = load.rate, load.size, load.subscribers, load.topics, poll
            kind = kinds.index(trial.outage.kind) if trial.outage else -1
            return kind, protocols.index(trial.protocol), guarantees.index(trial.guarantee), *swept, trial.repeat

        offers: dict[tuple[str, Workload], Offer] = {}
        loaded = [load(self.folder, self.files[name], offers) for name in sorted(wanted)]
        for recording in loaded:
            entered = self.manifest["trials"][recording.trial.name].get("digest")
            if entered not in (None, recording.record["digest"]):
                fix = "restore the run, or run it again"
                raise UsageError(f"The trial {recording.trial.name} is not the one that the manifest names; {fix}.")
        return sorted(loaded, key=place)

    @property
    def lacking(self) -> dict[str, str]:
        """How much of it has finished, in words, under no name: it is the run's own. Empty where all has."""
        finished, planned = len(self.manifest["trials"]) - len(self.errors), self.manifest.get("planned", 0)
        return {"": f"{finished:,} of its {planned:,} trials have finished"} if finished < planned else {}

    def of(self, measure: Measure) -> list[Recording]:
        """The recordings of one measure."""
        return [recording for recording in self.recordings if recording.trial.measure is measure]

    @cached_property
    def latency(self) -> pd.DataFrame:
        """One row a trial: percentiles in milliseconds, of all subscribers together."""
        return self._frame(Measure.LATENCY)

    @cached_property
    def bandwidth(self) -> pd.DataFrame:
        """One row a trial: TCP stream bytes by direction and phase."""
        return self._frame(Measure.BANDWIDTH)

    @cached_property
    def loss(self) -> pd.DataFrame:
        """One row a trial: what became of what was owed, and when the outage was noticed and overcome."""
        return self._frame(Measure.LOSS)

    @cached_property
    def cost(self) -> pd.DataFrame:
        """One row a trial of cost or latency: bytes (through the link only), CPU in microseconds, requests, latency."""
        return self._frame(Measure.COST, *self.of(Measure.LATENCY))

    @cached_property
    def duplex(self) -> pd.DataFrame:
        """One row a trial: round trips from the time a request was due to its answer, in milliseconds; bytes."""
        return self._frame(Measure.DUPLEX)

    @property
    def ended(self) -> datetime:
        """When the run had ended (UTC); an older one does not say, so there it is when its manifest was written."""
        if "finished" in self.manifest:
            return datetime.fromisoformat(self.manifest["finished"])
        return datetime.fromtimestamp((self.folder / "manifest.json").stat().st_mtime, UTC)

    @property
    def swept(self) -> str | None:
        """The parameter that changes from trial to trial, a column of `cost`; None where the run is no sweep."""
        return str(self.manifest["sweep"]["over"]) if "sweep" in self.manifest else None

    def _frame(self, measure: Measure, *others: Recording) -> pd.DataFrame:
        rows = []
        for recording in (*others, *self.of(measure)):
            trial = recording.trial
            keys = {"protocol": trial.protocol, "guarantee": str(trial.guarantee), "trial": trial.repeat}
            rows.append({**keys, **ROWS[measure](recording)})
        frame = pd.DataFrame(rows, columns=COLUMNS[measure].split())
        empty = [name for name in METRICS if name in frame and frame[name].dtype == object]  # None in every row
        return frame.astype(dict.fromkeys(empty, float))

    def tables(self) -> dict[str, str]:
        """Its CSV files by name: latency, bandwidth, loss, and other measures where there are any; or sweep alone."""
        frames = {str(measure): measure for measure in Measure if measure in COMPARED or self.of(measure)}
        frames = {"sweep": Measure.COST} if self.swept else frames
        return {
            f"{name}.csv": self._rounded(measure).to_csv(index=False, lineterminator="\n")
            for name, measure in frames.items()
        }

    def save(self) -> None:
        """Writes its tables into its folder."""
        for name, text in self.tables().items():
            disk.write(self.folder / name, text)

    def _rounded(self, measure: Measure) -> pd.DataFrame:
        frame: pd.DataFrame = getattr(self, measure)
        return frame.round({name: max(metric.digits, 3) for name, metric in METRICS.items() if name in frame})

    def table(self, measure: Measure) -> str:
        """The frame of a measure as text for a terminal; what is the same in every row stands below it, once."""
        frame: pd.DataFrame = getattr(self, measure)
        same = [name for name in FOLDED if name in frame and frame[name].nunique(dropna=False) == 1]
        formats = {name: _formatter(METRICS[name].digits) for name in frame if name in METRICS}
        table = frame.drop(columns=same).to_string(index=False, formatters=formats, na_rep="-")
        facts = ", ".join(f"{name} {frame[name].iloc[0]}" for name in same)
        return f"{table}\nIn all rows: {facts}." if same else table

    @property
    def errors(self) -> dict[str, str]:
        """The trials that failed, with the reason."""
        return {name: entry["error"] for name, entry in self.manifest["trials"].items() if "error" in entry}


def opened(run: Run | Path | str) -> Run:
    """The run, or the one in that folder; UsageError where it is neither."""
    if isinstance(run, str | Path):
        return Run(run)
    if not isinstance(run, Run):
        raise UsageError(f"{run!r} is no run; make one first, with run = lab.compare(), or open its folder.")
    return run


def _formatter(digits: int) -> Callable[[float], str]:
    return lambda value: "-" if pd.isna(value) else f"{value:,.{digits}f}"
