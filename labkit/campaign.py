"""A campaign: a suite carried out, step by step, into a folder of run folders; killed at any point, it goes on.

What is finished is on the disk, and is never run again. The folder says itself what it is to become: to go on takes no
more than its name.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from labkit import demos, disk, intervals, manifest
from labkit.audit import Offer
from labkit.collection import FILE, Collection
from labkit.errors import TrialError, UsageError
from labkit.plan import Plan
from labkit.provenance import machine, versions
from labkit.recording import load, trials_of
from labkit.results import Run
from labkit.runner import TRACE, TRIALS, Runner
from labkit.suite import Suite
from labkit.trial import SCHEMA
from labkit.workload import Workload

LOCK = ".lock"
Tables = Mapping[str, Mapping[str, Any]]
"""The experiments of a suite, each as its table says."""


def begin(suite: Suite, out: Path, argv: list[str]) -> Collection:
    """Carries a suite out into a new or empty folder. UsageError for what cannot be, before anything starts."""
    plans = suite.plans()
    _check_new(out)
    disk.folder(out)
    about = {
        "schema": SCHEMA,
        "argv": [manifest.nameless(word) for word in argv],
        "suite": {**suite.to_json(), "tables": _own_traces(suite.tables)},
        "versions": versions(),
        "machine": machine(),
        "parts": [],
    }
    with _alone(out):
        _check_new(out)
        _keep_traces(suite.tables, out)
        _write(out, about)
        return _carry_out(suite, plans, out, about)


def resume(out: Path) -> Collection:
    """Goes on with what was begun in a folder; what is finished is not run again."""
    _ = Collection(out)
    with _alone(out):
        about = Collection(out).about
        try:
            suite = Suite(**about["suite"])
            suite = replace(suite, tables=_kept_traces(suite.tables, out))
        except TypeError as error:
            raise UsageError(f"{str(out / FILE)!r} is damaged ({error}); restore it, or run the suite again.") from None
        plans = suite.plans()
        for name in suite.tables:
            if (out / name).exists():  # one that cannot go on says so before anything starts
                _check(out / name, plans.get(name))
        return _carry_out(suite, plans, out, about)


def _check(place: Path, plan: Plan | None) -> None:
    """UsageError where what an experiment has come to cannot be gone on with, or is damaged."""
    if plan is None:
        try:
            demos.load(place)
        except UsageError as error:
            raise UsageError(f"{error} To have them repeated, remove {str(place)!r} and resume.") from None
        return
    Runner(plan, place, [], lambda *_: None, trials=(), resume=True)
    offers: dict[tuple[str, Workload], Offer] = {}
    for name, files in trials_of(place).items():
        try:
            load(place, files, offers)
        except UsageError as error:
            folder = str(place / TRIALS / name)
            raise UsageError(f"{error} To have it repeated, remove {folder!r} and resume.") from None


def _traces(tables: Tables) -> dict[str, Path]:
    """The trace of every experiment that plays one."""
    loads = {name: table.get("workload") for name, table in tables.items()}
    return {name: Path(load["trace"]) for name, load in loads.items() if isinstance(load, Mapping) and "trace" in load}


def _kept_at(name: str, trace: Path) -> Path:
    """Where an experiment's copy of its trace is, in the suite's folder: where the run itself will look for it."""
    return Path(name) / f"{TRACE}{trace.suffix.lower()}"


def _keep_traces(tables: Tables, out: Path) -> None:
    """Copies traces: the suite goes on when they are gone, or when it is resumed from another folder."""
    for name, trace in _traces(tables).items():
        disk.folder(out / name)
        disk.write(out / _kept_at(name, trace), trace.read_bytes())


def _own_traces(tables: Tables) -> Tables:
    """The tables with the suite's own copies, in paths that do not say whose machine it is."""
    return _played(tables, {name: _kept_at(name, trace) for name, trace in _traces(tables).items()})


def _kept_traces(tables: Tables, out: Path) -> Tables:
    """The tables with paths at which the copies can be read."""
    return _played(tables, {name: out / trace for name, trace in _traces(tables).items()})


def _played(tables: Tables, traces: Mapping[str, Path]) -> Tables:
    said = {name: {**tables[name]["workload"], "trace": str(path)} for name, path in traces.items()}
    return {name: {**table, "workload": said[name]} if name in said else table for name, table in tables.items()}


def _check_new(out: Path) -> None:
    """UsageError where there is something already, but for what is left of a suite that was killed as it began."""
    if out.exists() and (not out.is_dir() or any(path.name not in (LOCK, f"{FILE}.new") for path in out.iterdir())):
        fix = "choose another folder" + (f", or go on with --resume {out}" if (out / FILE).exists() else "")
        raise UsageError(f"{str(out)!r} already holds something, which is kept as it is; {fix}.")


def _carry_out(suite: Suite, plans: dict[str, Plan], out: Path, about: dict[str, Any]) -> Collection:
    steps = list(suite.steps(plans))
    part = manifest.Part({"machine": machine()})
    about["errors"] = {}
    about["parts"].append(part.so_far())
    with tqdm(total=sum(max(len(trials), 1) for *_, trials in steps), unit="trial", dynamic_ncols=True) as progress:
        try:
            for name, number, trials in steps:
                about["parts"][-1] = part.so_far()
                _write(out, about)
                progress.set_description(f"round {number} of {suite.repeat}, {name}")
                if name not in plans:
                    about["errors"] |= _demonstrate(suite, name, out)
                    progress.update()
                    continue
                runner = Runner(plans[name], out / name, [], lambda *_: _advance(progress), trials=trials, resume=True)
                progress.update(len(trials) - len(runner.trials))
                runner.run()
        finally:
            about["parts"][-1] = part.ended()
            _write(out, about)
    found = Collection(out)
    for name in found:
        intervals.save(Run(out / name))  # opened anew: all of a suite's ledgers are more than has to be in memory
    return found


def _write(out: Path, about: dict[str, Any]) -> None:
    disk.write(out / FILE, json.dumps(about, indent=1))


def _demonstrate(suite: Suite, name: str, out: Path) -> dict[str, str]:
    """Demonstrations appear whole, or not at all; returns why not. As a trial that fails, they stop nothing else."""
    place, under_way = out / name, out / f".{name}"
    if place.exists():
        return {}
    shutil.rmtree(under_way, ignore_errors=True)
    try:
        suite.experiments[name].demonstrate(under_way)
    except TrialError as error:
        return {name: str(error)}
    disk.publish(under_way, place)
    return {}


def _advance(progress: "tqdm[Any]") -> None:
    progress.update()


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """UsageError where another process is at work in the folder. The system frees the lock of one that was killed."""
    try:
        with FileLock(out / LOCK, timeout=0):
            yield
    except Timeout:
        raise UsageError(f"Another labkit is at work in {str(out)!r}; wait for it, or stop it.") from None
