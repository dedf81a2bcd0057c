"""Packing: a run, or all of a suite, into folders small enough to be published, from which everything is redrawn.

What no table or chart shows is left out: the last digits of times, and how bytes of one phase were cut into chunks.
Each packed trial is audited again; where anything but those digits came out different, its ledgers stay as they are.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from labkit import archive, demos, disk, intervals, manifest
from labkit.archive import Packed
from labkit.audit import Records
from labkit.collection import FILE, Collection
from labkit.errors import UsageError
from labkit.figures import METRICS, ROWS
from labkit.ledger import Kind, are
from labkit.recording import Recording, load
from labkit.results import Run
from labkit.trial import Measure

STEP_NS = {
    Measure.LATENCY: 1_000,
    Measure.DUPLEX: 5_000,
    Measure.COST: 5_000,
    Measure.LOSS: 100_000,
    Measure.BANDWIDTH: 1_000_000,
}
"""To what times are rounded: no more than the figures of a measure show. Bytes depend on their phase alone."""

FACTS = demos.FILE
JSON = ("spec.json", "record.json")


def pack(source: Path, out: Path) -> None:
    """Packs a run or a suite's folder into a new or empty one; UsageError for anything else."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{str(out)!r} already holds something, which is kept as it is; choose another folder.")
    if not (source / FILE).exists():
        _run(Run(source), out)
        return
    found = Collection(source)
    for name in found:  # a damaged one is refused before anything is written; all together need not be in memory
        _ = Run(source / name).recordings
    for facts in source.glob(f"[!.]*/{FACTS}"):
        _ = demos.load(facts.parent)
    disk.folder(out)
    disk.write(out / FILE, (source / FILE).read_bytes())
    for name in found:
        _run(Run(source / name), out / name)
    for facts in sorted(source.glob(f"[!.]*/{FACTS}")):
        (out / facts.parent.name).mkdir()
        shutil.copyfile(facts, out / facts.parent.name / FACTS)


def _run(run: Run, out: Path) -> None:
    trials = {each.trial.name: _packed(run, each) for each in run.recordings}
    disk.folder(out)
    archive.write(out / archive.FILE, trials)
    for trace in run.folder.glob("trace.*"):
        shutil.copyfile(trace, out / trace.name)
    disk.write(out / manifest.FILE, json.dumps(run.manifest, separators=(",", ":")))
    intervals.save(Run(out))


def _packed(run: Run, recording: Recording) -> Packed:
    """The trial with rounded times, if it is still the same trial then; one that can be drawn event by event, whole."""
    name, offer, files = recording.trial.name, recording.offer, run.files[recording.trial.name]
    ledgers = {file: files.ledger(file, offer) for file in files.ledgers()}
    whole = recording.trial.measure is Measure.LOSS and recording.trial.workload.subscribers == 1
    for step in (1,) if whole else (STEP_NS[recording.trial.measure], 1):
        kept = ledgers if step == 1 else {file: _thinned(each, recording, step) for file, each in ledgers.items()}
        masked = {file: archive.masked(records, offer) for file, records in kept.items()}
        packed = Packed(name, {file: files.json(file) for file in JSON}, masked, step)
        if _alike(recording, load(run.folder, packed, {})):
            return packed
    raise AssertionError(f"{name} is not what it was")


def _thinned(records: Records, recording: Recording, step: int) -> Records:
    """Times rounded, each within its phase; the link's bytes added up by phase and direction."""
    bounds = np.array(sorted({*recording.phases.values(), recording.phases["stop"] + 1}))  # what is at its end is in it
    phase = np.searchsorted(bounds, records["time_ns"], side="right")
    found, keep = records.copy(), np.ones(len(records), bool)
    for kind in (Kind.UP, Kind.DOWN):
        for number in range(len(bounds) + 1):
            chunks = np.flatnonzero(are(records, kind) & (phase == number))
            if len(chunks):
                found["value"][chunks[0]] = records["value"][chunks].sum()
                keep[chunks[1:]] = False
    first = np.array([0, *(-(-bounds // step) * step)])
    last = np.array([*((bounds - 1) // step * step), np.iinfo(np.int64).max])
    found["time_ns"] = np.clip((records["time_ns"] + step // 2) // step * step, first[phase], last[phase])
    return found[keep]


def _alike(one: Recording, other: Recording) -> bool:
    """Whether two recordings come to the same: every delivery's fate, and every figure up to the rounding of times."""
    fates = (
        np.array_equal(getattr(one.outcome, name), getattr(other.outcome, name)) for name in ("owed", "fate", "copies")
    )
    same = all(fates) and one.kinds == other.kinds and _requests(one) == _requests(other)
    mine, theirs = (ROWS[each.trial.measure](each) for each in (one, other))
    return same and all(_close(name, value, theirs[name], one.trial.measure) for name, value in mine.items())


def _requests(recording: Recording) -> list[list[int]]:
    """How many requests each side made, up to the beginning of each phase."""
    made = (records["time_ns"][are(records, Kind.REQUESTED)] for records in (recording.producer, recording.consumer))
    return [[int((times < begin).sum()) for begin in recording.phases.values()] for times in made]


def _close(name: str, one: Any, other: Any, measure: Measure) -> bool:
    if name in METRICS and METRICS[name].unit == "ms" and one is not None and other is not None:
        return math.isclose(one, other, abs_tol=2 * STEP_NS[measure] / 1e6)
    return bool(one == other) or (one != one and other != other)
