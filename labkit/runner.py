"""The runner: sends every trial of a plan to a station and writes the run folder. It computes no result.

Trials that measure time run one at a time with nothing else going on; the others, which no delay can falsify, run side
by side. A trial's folder appears whole or not at all, and is on the disk before its entry in the manifest.
"""

import asyncio
import json
import os
import queue
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from labkit import broker, disk, manifest
from labkit.errors import NoRoomError, TrialError, UsageError
from labkit.plan import ALONE, ROOM, Plan, weight
from labkit.protocols import find
from labkit.station import Station, Stopped
from labkit.trial import Guarantee, Trial
from labkit.walk import Walk
from labkit.workload import digest

SIDE_BY_SIDE = 8
"""Trials that may be under way together where timing is not what they measure."""

TRACE = "trace"
TRIALS = "trials"
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

    begun: told of each trial as it begins. waiting: called when there was nothing to tell for a moment. All in the
    thread that called `run`, and nothing of it falls into a trial that measures time: such a trial waits for it.
    room: how many loads may be under way at one time. trials: those of the plan to run now, in this order; all of them,
    in the plan's own, when left out. resume: goes on with the run in `out`, if one was begun there: what is finished is
    not run again, what failed is.
    """

    def __init__(
        self,
        plan: Plan,
        out: Path,
        argv: list[str],
        progress: Callable[[Trial, str | None], None],
        begun: Callable[[Trial], None] = lambda trial: None,
        waiting: Callable[[], None] = lambda: None,
        room: int = ROOM,
        trials: Sequence[Trial] | None = None,
        resume: bool = False,
    ) -> None:
        self._plan, self._out = plan, out
        self._progress, self._begun, self._waiting = progress, begun, waiting
        self._stop = threading.Event()
        self._room = Room(room)
        self._lock = threading.Lock()
        self._stations = 0
        plan.check()
        self._trials = plan.trials() if trials is None else list(trials)
        self._digests = {load: digest(load.schedule()) for load in {t.workload for t in self._trials} | {plan.workload}}
        if Guarantee.DURABLE in plan.guarantees or any(find(name).brokered for name in plan.protocols):
            broker.external(streams=any(guarantee is not Guarantee.AT_MOST_ONCE for guarantee in plan.guarantees))
        self._goes_on = resume and (out / manifest.FILE).exists()
        if not self._goes_on:
            prepare(out, resume)
        self._keep_trace()
        self._fresh = manifest.made(self._plan, self._digests[self._plan.workload], argv)
        self._manifest = manifest.resumed(out, self._fresh) if self._goes_on else self._fresh
        if foreign := set(self._manifest["trials"]) - {trial.name for trial in plan.trials()}:
            place = str(out / TRIALS / min(foreign))
            raise UsageError(f"{place!r} is none of the trials that the run was begun with; take it away, and go on.")
        self._trials = [trial for trial in self._trials if not self._finished(trial)]

    @property
    def trials(self) -> list[Trial]:
        """The trials that are to be run."""
        return self._trials

    def _finished(self, trial: Trial) -> bool:
        """Whether it is recorded, and its folder there: one that was damaged is run again when that is removed."""
        entry = self._manifest["trials"].get(trial.name, {"error": "not yet run"})
        return "error" not in entry and (self._out / TRIALS / trial.name).is_dir()

    def _tidy(self) -> None:
        """Removes what a killed run had begun, and has the manifest on the disk say what it had finished."""
        self._clear()
        for log in (self._out / LOGS).glob("*"):
            if not log.stat().st_size:
                log.unlink()
        self._put_away(self._out / LOGS)
        if self._manifest != manifest.read(self._out):
            self._save_manifest()

    def _clear(self) -> None:
        """Removes folders of trials that did not finish; one that a killed run's node still writes to, another time."""
        for place in (self._out / TRIALS).glob(".*"):
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place, ignore_errors=True)

    @staticmethod
    def _put_away(logs: Path) -> None:
        """Removes the folder of logs where nobody had anything to say."""
        if logs.exists() and not any(logs.iterdir()):
            logs.rmdir()

    def _keep_trace(self) -> None:
        """Copies the trace into the run folder: the run stays complete when the original is gone."""
        if self._plan.workload.trace:
            source = Path(self._plan.workload.trace)
            name = TRACE + source.suffix.lower()
            if not (self._out / name).exists():
                disk.write(self._out / name, source.read_bytes())
            self._trials = [replace(trial, workload=replace(trial.workload, trace=name)) for trial in self._trials]
            self._digests |= {replace(load, trace=name): found for load, found in self._digests.items()}
            self._plan = replace(self._plan, workload=replace(self._plan.workload, trace=name))

    def run(self) -> dict[str, str]:
        """Runs every trial, or until `stop`; returns the errors by trial.

        KeyboardInterrupt passes, and so does what ends every trial: NoRoomError and OSError, of a disk that is full.
        Either way what is finished is kept.
        """
        if self._goes_on:
            self._tidy()
            if not self._trials:
                return {}
        self._part = manifest.Part(self._fresh)
        self._manifest["parts"].append(self._part.so_far())
        errors: dict[str, str] = {}
        logs = self._out / LOGS
        logs.mkdir(exist_ok=True)
        self._save_manifest()
        alone = [trial for trial in self._trials if trial.measure in ALONE]
        others = [trial for trial in self._trials if trial.measure not in ALONE]
        try:
            for trials, width in ((alone, 1), (others, SIDE_BY_SIDE)):
                errors |= self._work(trials, min(width, len(trials)), logs)
        except Stopped:
            pass  # as it was told to
        finally:
            self._sweep()
            self._clear()
            self._put_away(logs)
            self._manifest["parts"][-1] = self._part.ended()
            self._manifest["finished"] = self._manifest["parts"][-1]["finished"]
            self._save_manifest()
        return errors

    def stop(self) -> None:
        """Ends the trials under way, and begins none; from any thread. What is finished is kept."""
        self._stop.set()

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
        news: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        for trial in trials:
            todo.put(trial)

        def tell(what: Callable[[], None]) -> None:
            told = threading.Event()

            def hear() -> None:
                what()
                told.set()

            news.put(hear)
            while width == 1 and not told.wait(0.1) and not self._stop.is_set():
                pass  # whatever the caller does with it, it does not do during a trial that measures time

        def worker() -> None:
            with self._station(logs) as station:
                while not self._stop.is_set():
                    try:
                        trial = todo.get_nowait()
                    except queue.Empty:
                        return
                    tell(partial(self._begun, trial))
                    error = self._one(trial, station)
                    if error:
                        errors[trial.name] = error
                    tell(partial(self._progress, trial, error))

        if not width:
            return errors
        with self._pool(width) as pool:
            self._wait_all([pool.submit(worker) for _ in range(width)], news)
        return errors

    def _wait_all(self, left: "list[Future[None]]", news: "queue.SimpleQueue[Callable[[], None]]") -> None:
        """Hears what workers tell until all have ended, in short steps, so that Ctrl-C is handled on every platform.

        Raises what a worker raised.
        """
        while left or not news.empty():
            try:
                news.get(timeout=0.2)()
            except queue.Empty:
                self._waiting()
            for future in [future for future in left if future.done()]:
                left.remove(future)
                future.result()

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
        place = self._out / TRIALS
        unfinished = place / f".{trial.name}-{os.getpid()}"  # another than that of a killed run, whose nodes may linger
        unfinished.mkdir(parents=True)
        started = time.monotonic()
        try:
            trial.save(unfinished / "spec.json")
            loads = self._room.hold(weight(trial))
            record = Walk(station, trial.under(self._out), unfinished, self._stop, loads).run()
            if record["digest"] != self._digests[trial.workload]:
                raise TrialError("The producer offered another workload than the trial's.")
            record["seconds"] = round(time.monotonic() - started, 2)
            (unfinished / "record.json").write_text(json.dumps(record, indent=1))
            disk.publish(unfinished, place / trial.name)
        except BaseException as error:
            self._discard(unfinished, station)
            if not isinstance(error, TrialError) or isinstance(error, NoRoomError):
                raise
            said = str(error).replace(f"{self._out.absolute()}{os.sep}", "")  # where that is on this machine is no news
            self._note(trial, {"error": said})
            return said
        self._note(trial, {"digest": record["digest"], "seconds": record["seconds"]})
        return None

    def _discard(self, unfinished: Path, station: Station) -> None:
        # The nodes go first: they have the ledgers open, which not every platform lets one delete.
        station.close()
        if unfinished.exists():
            shutil.rmtree(unfinished)

    def _note(self, trial: Trial, entry: dict[str, Any]) -> None:
        """Enters what a trial came to; how it failed before, if it did, is kept."""
        with self._lock:
            trials = self._manifest["trials"]
            trials[trial.name] = manifest.entered(trials, trial.name, entry)
            self._manifest["parts"][-1] = self._part.so_far()
            self._save_manifest()

    def _save_manifest(self) -> None:
        manifest.write(self._out, self._manifest)


def prepare(out: Path, resume: bool = False) -> None:
    """Makes the run folder; UsageError when it is a file, or holds something already.

    resume: what a run holds that was killed before it had a manifest is no hindrance.
    """
    mine = (LOGS, f"{manifest.FILE}.new", f"{TRACE}.") if resume else ()
    if out.exists() and (not out.is_dir() or not all(path.name.startswith(mine) for path in out.iterdir())):
        fix = f"restore its {manifest.FILE}" if resume else "choose another folder"
        raise UsageError(f"{str(out)!r} already holds something, which is kept as it is; {fix}.")
    try:
        (out / LOGS).mkdir(parents=True, exist_ok=resume)
    except OSError as error:
        raise UsageError(
            f"The run folder {str(out)!r} cannot be made ({error.strerror}); choose another folder."
        ) from None
