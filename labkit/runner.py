"""The runner: starts the nodes of each trial, walks its phases and writes the run folder. It computes no result.

Phases: setup, warm-up, load, (outage,) heal, settle, idle, stop. Latency trials run one at a time with nothing else
going on; the others, which no delay can falsify, run side by side. A trial's folder appears whole or not at all.
"""

import json
import os
import queue
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from labkit.errors import TrialError, UsageError
from labkit.outage import Outage
from labkit.protocols import PROTOCOLS, find
from labkit.provenance import machine, versions
from labkit.trial import SCHEMA, Guarantee, Measure, Timings, Trial
from labkit.workload import Workload, digest

SIDE_BY_SIDE = 6
"""Trials that may be under way together where timing is not what they measure."""

LOADS = 4
"""Of these, how many may be in their load at one time."""

ASK_LIMIT = 10.0
WARM_LIMIT = 5.0
SETTLE_LIMIT = 20.0
LOOK_EVERY = 0.1
TRACE = "trace"


class Stopped(Exception):
    """The run was told to stop."""


@dataclass(frozen=True)
class Plan:
    """What a comparison runs: every measure of every protocol and guarantee, `repeat` times."""

    workload: Workload
    protocols: tuple[str, ...] = tuple(PROTOCOLS)
    guarantees: tuple[Guarantee, ...] = tuple(Guarantee)
    measures: tuple[Measure, ...] = tuple(Measure)
    outage: Outage | None = None
    repeat: int = 1
    timings: Timings = Timings()

    def __post_init__(self) -> None:
        for name in self.protocols:
            find(name)
        if not (isinstance(self.repeat, int) and 1 <= self.repeat <= 100):
            raise UsageError(f"repeat is {self.repeat!r}; it has to be a whole number from 1 to 100.")

    def trials(self) -> list[Trial]:
        """All trials, latency first."""
        uid = secrets.token_hex(3)
        found: list[Trial] = []
        for measure in self.measures:
            if measure is Measure.LOSS and self.outage is None:
                continue
            for repeat in range(1, self.repeat + 1):
                for guarantee in self.guarantees:
                    for protocol in self.protocols:
                        name = f"{measure}-{protocol}-{guarantee}-{repeat}"
                        outage = self.outage if measure is Measure.LOSS else None
                        trial = Trial(name, measure, protocol, guarantee, self.workload, outage, repeat)
                        found.append(replace(trial, uid=f"{uid}{len(found):03d}", timings=self.timings))
        return found


class Node:
    """The parent's side of one child process."""

    def __init__(self, role: str, log: Path, stop: threading.Event) -> None:
        self.role, self._log, self._stop = role, log, stop
        self.owned: int | None = None
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "labkit.node", role],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._answers: queue.Queue[bytes | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def tell(self, do: str, **arguments: Any) -> None:
        """Sends a command; its answer is to be fetched with `answer`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._ended() from error

    def answer(self, limit: float = ASK_LIMIT) -> Any:
        """The result of the oldest command not yet answered. Raises TrialError, or Stopped when the run is."""
        until = time.monotonic() + limit
        while not self._stop.is_set():
            try:
                line = self._answers.get(timeout=0.1)
            except queue.Empty:
                if time.monotonic() > until:
                    raise TrialError(f"The {self.role} did not answer within {limit:g} s.") from None
                continue
            if line is None:
                raise self._ended()
            reply = json.loads(line)
            if "error" in reply:
                raise TrialError(reply["error"])
            return reply["result"]
        raise Stopped

    def ask(self, do: str, **arguments: Any) -> Any:
        """Sends a command and returns its result."""
        self.tell(do, **arguments)
        return self.answer()

    def _ended(self) -> TrialError:
        status = self._process.wait()
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return TrialError(
            f"The {self.role} process ended (status {status}; {lines[-1] if lines else 'it said nothing'})."
        )

    def close(self) -> None:
        """Closes the child's standard input, which ends it, and waits; kills it, and what it owns, if it does not."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError:
            pass  # it is gone already, with the pipe unflushed
        try:
            self._process.wait(4)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.returncode and self.owned:
            _kill(self.owned)
        if self._log.exists() and not self._log.stat().st_size:
            self._log.unlink()


def _kill(pid: int) -> None:
    import psutil

    try:
        process = psutil.Process(pid)
        if "nats" in process.name():
            process.kill()
    except psutil.NoSuchProcess:
        pass


class Station:
    """A set of nodes that serves one trial after the other; a trial that fails takes its nodes with it."""

    def __init__(self, name: str, logs: Path, stop: threading.Event) -> None:
        self._name, self._logs, self._stop = name, logs, stop
        self._nodes: dict[str, Node] = {}

    def node(self, role: str) -> Node:
        """The station's node of that role, started when it is first asked for."""
        if role not in self._nodes:
            self._nodes[role] = Node(role, self._logs / f"{self._name}-{role}.log", self._stop)
        return self._nodes[role]

    def __enter__(self) -> "Station":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all nodes, together."""
        nodes, self._nodes = list(self._nodes.values()), {}
        for node in nodes:
            assert node._process.stdin is not None
            try:
                node._process.stdin.close()
            except OSError:
                pass
        for node in nodes:
            node.close()


class Walk:
    """One trial, phase by phase, on a station's nodes."""

    def __init__(self, station: Station, trial: Trial, folder: Path, stop: threading.Event, loads: threading.Semaphore):
        self._trial, self._folder, self._stop, self._loads = trial, folder, stop, loads
        self._row = find(trial.protocol)
        self._phases: dict[str, int] = {}
        brokered = self._row.brokered and "LABKIT_NATS" not in os.environ
        roles = ["broker"] * brokered + ["link"] * trial.linked + ["consumer", "producer"]
        self._nodes = {role: station.node(role) for role in roles}

    def run(self) -> dict[str, Any]:
        """The record of the trial: phases (monotonic ns), whether it settled, usage of each node, the digest."""
        workload_digest = self._set_up()
        with self._loads:
            self._warm_up()
            self._load()
        drained = self._settle()
        self._mark("settled")
        if self._trial.measure is Measure.BANDWIDTH:
            self._idle()
        usage = self._close()
        return {"digest": workload_digest, "drained": drained, "phases": self._phases, "usage": usage}

    def _mark(self, phase: str, at: int | None = None) -> None:
        self._phases[phase] = time.monotonic_ns() if at is None else at

    def _set_up(self) -> str:
        trial, nodes = self._trial, self._nodes
        spec = {**trial.to_json()}
        broker = os.environ.get("LABKIT_NATS") if self._row.brokered else None
        if "broker" in nodes:
            opened = nodes["broker"].ask("open")
            broker, nodes["broker"].owned = opened["url"], opened["pid"]
        for role in ("producer", "consumer"):
            nodes[role].tell("open", spec=spec, ledger=str(self._folder / f"{role}.ledger"))
        produced, consumed = nodes["producer"].answer(), nodes["consumer"].answer()
        producer_url, consumer_url = produced["url"], consumed["url"]
        consumer_peer = broker or producer_url
        if trial.linked:
            nodes["link"].ask("open", ledger=str(self._folder / "link.ledger"))
            if consumer_peer:
                consumer_peer = nodes["link"].ask("route", target=consumer_peer, consumer_dials=True)
            if consumer_url:
                consumer_url = nodes["link"].ask("route", target=consumer_url, consumer_dials=False)
        self._mark("setup")
        nodes["producer"].ask("connect", peer=broker or consumer_url)
        nodes["consumer"].ask("connect", peer=consumer_peer, public=consumer_url)
        return str(produced["digest"])

    def _warm_up(self) -> None:
        self._mark("warmup")
        self._nodes["producer"].ask("warm")
        count, until = self._trial.workload.subscribers, time.monotonic() + WARM_LIMIT
        while (warm := self._nodes["consumer"].ask("warm")) < count:
            if time.monotonic() > until:
                raise TrialError(
                    f"{count - warm} of {count} subscribers of {self._trial.protocol} got no event within {WARM_LIMIT:g} s: "
                    "the consumer cannot be reached from its producer."
                )
            self._pause(0.01)

    def _load(self) -> None:
        start = time.monotonic_ns() + 30_000_000
        self._mark("load", start)
        outage = self._trial.outage
        if outage:
            cut = start + round(outage.at * 1e9)
            self._nodes["link"].ask("plan", kind=outage.kind, cut_ns=cut, heal_ns=cut + round(outage.lasts * 1e9))
        for node in self._nodes.values():
            node.tell("load", start_ns=start)
        for node in self._nodes.values():
            node.answer()
        while not self._look()["producer"]["done"]:
            self._pause(LOOK_EVERY)
        self._mark("settle")

    def _look(self) -> dict[str, Any]:
        for node in self._nodes.values():
            node.tell("status")
        return {role: node.answer() for role, node in self._nodes.items()}

    def _settle(self) -> bool:
        """Whether everything that was under way has ended before the limit."""
        quiet = round((self._trial.timings.poll + 0.1) * 1e9)
        since, limit = self._phases["settle"], time.monotonic() + SETTLE_LIMIT
        if self._trial.outage:
            since = max(since, self._phases["load"] + round((self._trial.outage.at + self._trial.outage.lasts) * 1e9))
        while time.monotonic() < limit:
            consumer = self._look()["consumer"]
            last = max(since, consumer["last_arrival_ns"])
            silent = time.monotonic_ns() - last
            if silent >= quiet and consumer["settled"] and self._nodes["producer"].ask("pending") == 0:
                return True
            self._pause(min(LOOK_EVERY, max(0.01, (quiet - silent) / 1e9)))
        return False

    def _idle(self) -> None:
        """Two heartbeats of nothing, after a run-in of one, so that whole heartbeats are counted."""
        self._pause(self._trial.timings.heartbeat)
        self._mark("idle")
        self._pause(2 * self._trial.timings.heartbeat)
        self._mark("stop")

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped

    def _close(self) -> dict[str, Any]:
        """Ends the trial in the nodes. What closing sends comes after `stop`, and is no part of any phase."""
        if "link" in self._nodes:
            self._nodes["link"].ask("count")
        self._phases.setdefault("stop", time.monotonic_ns())
        order = [role for role in ("consumer", "producer", "link", "broker") if role in self._nodes]
        return {role: self._nodes[role].ask("close") for role in order}


class Runner:
    """Runs a plan into a folder. `progress` is told of each trial as it ends, with its error or None."""

    def __init__(self, plan: Plan, out: Path, argv: list[str], progress: Callable[[Trial, str | None], None]):
        self._plan, self._out, self._progress = plan, out, progress
        self._stop = threading.Event()
        self._loads = threading.Semaphore(LOADS)
        self._lock = threading.Lock()
        self._stations = 0
        schedule = plan.workload.schedule()
        prepare(out)
        self._keep_trace()
        self._manifest: dict[str, Any] = {
            "schema": SCHEMA,
            "argv": argv,
            "seed": plan.workload.seed,
            "workload": plan.workload.to_json(),
            "digest": digest(schedule),
            "outage": plan.outage.to_json() if plan.outage else None,
            "versions": versions(),
            "machine": machine(),
            "load_before": _load_average(),
            "trials": {},
        }
        self._trials = plan.trials()

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
            self._plan = replace(self._plan, workload=replace(self._plan.workload, trace=name))

    def run(self) -> dict[str, str]:
        """Runs every trial; returns the errors by trial. KeyboardInterrupt passes, finished trials kept."""
        started = time.monotonic()
        errors: dict[str, str] = {}
        logs = self._out / "nodes"
        logs.mkdir()
        self._save_manifest()
        alone = [trial for trial in self._trials if trial.measure is Measure.LATENCY]
        others = [trial for trial in self._trials if trial.measure is not Measure.LATENCY]
        try:
            for trials, width in ((alone, 1), (others, SIDE_BY_SIDE)):
                errors |= self._work(trials, min(width, len(trials)), logs)
        finally:
            if not any(logs.iterdir()):
                logs.rmdir()
            self._manifest |= {"seconds": round(time.monotonic() - started, 2), "load_after": _load_average()}
            self._save_manifest()
        return errors

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
                        station.close()
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
            record = Walk(station, trial.under(self._out), unfinished, self._stop, self._loads).run()
            if record["digest"] != self._manifest["digest"]:
                raise TrialError("The producer offered another workload than the manifest's.")
            (unfinished / "record.json").write_text(json.dumps(record, indent=1))
            unfinished.rename(place / trial.name)
        except TrialError as error:
            shutil.rmtree(unfinished)
            self._note(trial, {"error": str(error)})
            return str(error)
        except BaseException:
            shutil.rmtree(unfinished)
            raise
        self._note(trial, {"digest": record["digest"], "seconds": round(time.monotonic() - started, 2)})
        return None

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
        out.mkdir(parents=True, exist_ok=True)
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
