"""The runner: sends every trial of a plan to a station and writes the run folder. It computes no result.

Trials that measure time run one at a time with nothing else going on; the others, which no delay can falsify, run side
by side. A trial's folder appears whole or not at all.
"""

import asyncio
import json
import os
import queue
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit import broker
from labkit.errors import TrialError, UsageError
from labkit.plan import ROOM, Plan, weight
from labkit.protocols import find
from labkit.provenance import machine, versions
from labkit.station import Station
from labkit.trial import SCHEMA, Guarantee, Measure, Trial
from labkit.walk import Walk
from labkit.workload import digest

SIDE_BY_SIDE = 8
"""Trials that may be under way together where timing is not what they measure."""

ALONE = (Measure.LATENCY, Measure.COST, Measure.DUPLEX)

TRACE = "trace"
LOGS = "nodes"


class Room:
    """So much may be under way at one time."""

    def __init__(self, size: int) -> None:
        self._free, self._changed = size, threading.Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Waits until there is room for so much, and takes it for as long as the block runs."""
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()


class Runner:
    """Runs a plan into a folder. `progress` is told of each trial as it ends, with its error or None.

    room: how many loads may be under way at one time.
    """

    def __init__(
        self, plan: Plan, out: Path, argv: list[str], progress: Callable[[Trial, str | None], None], room: int = ROOM
    ) -> None:
        self._plan, self._out, self._progress = plan, out, progress
        self._stop = threading.Event()
        self._room = Room(room)
        self._lock = threading.Lock()
        self._stations = 0
        self._trials = plan.trials()
        self._digests = {load: digest(load.schedule()) for load in {t.workload for t in self._trials} | {plan.workload}}
        for outage in plan.outages:
            outage.check_within(plan.workload.length)
        if Guarantee.DURABLE in plan.guarantees or any(find(name).brokered for name in plan.protocols):
            broker.external(streams=any(guarantee is not Guarantee.AT_MOST_ONCE for guarantee in plan.guarantees))
        prepare(out)
        self._keep_trace()
        self._manifest: dict[str, Any] = {
            "schema": SCHEMA,
            "argv": argv,
            "seed": plan.workload.seed,
            "workload": self._plan.workload.to_json(),
            "digest": self._digests[plan.workload],
            "outages": [outage.to_json() for outage in plan.outages],
            "conditions": asdict(plan.conditions),
            "timings": asdict(plan.timings),
            "retry_compression": round(plan.timings.compression) if plan.timings.retry_span else None,
            "versions": versions(),
            "machine": machine(),
            "load_before": _load_average(),
            "trials": {},
        }
        if plan.sweep:
            self._manifest["sweep"] = asdict(plan.sweep)

    @property
    def trials(self) -> list[Trial]:
        """The trials of the plan."""
        return self._trials

    def _keep_trace(self) -> None:
        """Copies the trace into the run folder: the run stays complete when the original is gone."""
        if self._plan.workload.trace:
            source = Path(self._plan.workload.trace)
            name = TRACE + source.suffix.lower()
            shutil.copyfile(source, self._out / name)
            self._trials = [replace(trial, workload=replace(trial.workload, trace=name)) for trial in self._trials]
            self._digests |= {replace(load, trace=name): found for load, found in self._digests.items()}
            self._plan = replace(self._plan, workload=replace(self._plan.workload, trace=name))

    def run(self) -> dict[str, str]:
        """Runs every trial; returns the errors by trial. KeyboardInterrupt passes, finished trials kept."""
        started = time.monotonic()
        errors: dict[str, str] = {}
        logs = self._out / LOGS
        self._save_manifest()
        alone = [trial for trial in self._trials if trial.measure in ALONE]
        others = [trial for trial in self._trials if trial.measure not in ALONE]
        try:
            for trials, width in ((alone, 1), (others, SIDE_BY_SIDE)):
                errors |= self._work(trials, min(width, len(trials)), logs)
        finally:
            self._sweep()
            if not any(logs.iterdir()):
                logs.rmdir()
            self._manifest |= {"seconds": round(time.monotonic() - started, 2), "load_after": _load_average()}
            self._manifest["finished"] = datetime.now(UTC).isoformat()
            self._save_manifest()
        return errors

    def _sweep(self) -> None:
        """Leaves nothing on the user's broker: a trial stopped while its producer was dead left its stream there."""
        if not (url := os.environ.get("LABKIT_NATS")) or not self._stop.is_set():
            return
        from labkit.protocols.jetstream import FAILURES, stream_name, sweep

        names = {stream_name(trial.uid) for trial in self._trials}
        # A notebook's kernel has an event loop of its own in this thread.
        with ThreadPoolExecutor(1) as pool:
            try:
                pool.submit(asyncio.run, sweep(url, names)).result()
            except FAILURES as error:
                print(f"labkit: {url} may still have streams named labkit-* ({error}).", file=sys.stderr)

    def _work(self, trials: list[Trial], width: int, logs: Path) -> dict[str, str]:
        errors: dict[str, str] = {}
        todo: queue.SimpleQueue[Trial] = queue.SimpleQueue()
        for trial in trials:
            todo.put(trial)

        def worker() -> None:
            with self._station(logs) as station:
                while not self._stop.is_set():
                    try:
                        trial = todo.get_nowait()
                    except queue.Empty:
                        return
                    error = self._one(trial, station)
                    if error:
                        errors[trial.name] = error
                    self._progress(trial, error)

        if not width:
            return errors
        with self._pool(width) as pool:
            _wait_all([pool.submit(worker) for _ in range(width)])
        return errors

    @contextmanager
    def _pool(self, width: int) -> Iterator[ThreadPoolExecutor]:
        """A pool whose work is told to stop when the block is left by an exception, Ctrl-C among them."""
        pool = ThreadPoolExecutor(width)
        try:
            yield pool
        except BaseException:
            self._stop.set()
            raise
        finally:
            pool.shutdown()

    @contextmanager
    def _station(self, logs: Path) -> Iterator[Station]:
        with self._lock:
            self._stations += 1
            name = f"station{self._stations}"
        with Station(name, logs, self._stop) as station:
            yield station

    def _one(self, trial: Trial, station: Station) -> str | None:
        """Runs one trial; returns its error. The folder gets its name when all is in it."""
        place = self._out / "trials"
        unfinished = place / f".{trial.name}"
        unfinished.mkdir(parents=True)
        started = time.monotonic()
        try:
            trial.save(unfinished / "spec.json")
            loads = self._room.hold(weight(trial))
            record = Walk(station, trial.under(self._out), unfinished, self._stop, loads).run()
            if record["digest"] != self._digests[trial.workload]:
                raise TrialError("The producer offered another workload than the trial's.")
            (unfinished / "record.json").write_text(json.dumps(record, indent=1))
            unfinished.rename(place / trial.name)
        except TrialError as error:
            self._discard(unfinished, station)
            self._note(trial, {"error": str(error)})
            return str(error)
        except BaseException:
            self._discard(unfinished, station)
            raise
        self._note(trial, {"digest": record["digest"], "seconds": round(time.monotonic() - started, 2)})
        return None

    def _discard(self, unfinished: Path, station: Station) -> None:
        # The nodes go first: they have the ledgers open, which not every platform lets one delete.
        station.close()
        shutil.rmtree(unfinished)

    def _note(self, trial: Trial, entry: dict[str, Any]) -> None:
        with self._lock:
            self._manifest["trials"][trial.name] = entry
            self._save_manifest()

    def _save_manifest(self) -> None:
        new = self._out / "manifest.json.new"
        new.write_text(json.dumps(self._manifest, indent=1))
        new.replace(self._out / "manifest.json")


def prepare(out: Path) -> None:
    """Makes the run folder; UsageError when it is a file, or holds something already."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{str(out)!r} already holds something, which is kept as it is; choose another --out.")
    try:
        (out / LOGS).mkdir(parents=True)
    except OSError as error:
        raise UsageError(
            f"The run folder {str(out)!r} cannot be made ({error.strerror}); choose another --out."
        ) from None


def _wait_all(futures: list[Future[None]]) -> None:
    """Waits in short steps, so that Ctrl-C is handled on every platform; raises what a worker raised."""
    left = set(futures)
    while left:
        done, left = wait(left, timeout=0.2, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()


def _load_average() -> list[float] | None:
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None
