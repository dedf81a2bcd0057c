"""Packing: a packed run says what the run said, up to the last digits of times; a trial that would not stays whole."""

import json
import lzma
import re
import shutil
import zlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from histories import ledger_bytes, record
from suites import ALONE, EVERY, FAILED, ONCE, RUNS, trials, write_suite
from test_charts import LOAD, MS, OUTAGE, START, S, write_run
from test_results import fingerprint
from test_sweeps import planned, swept

from labkit import album, archive, charts
from labkit.audit import Fate
from labkit.cli import main
from labkit.collection import Collection
from labkit.errors import UsageError
from labkit.evidence import Evidence
from labkit.figures import METRICS
from labkit.intervals import KEYS, measures, save, summary
from labkit.ledger import Kind, read
from labkit.packing import STEP_NS, pack
from labkit.recording import Recording
from labkit.results import Run
from labkit.trial import COMPARED, Measure, Trial
from labkit.workload import Workload

END = START + 2 * S
SMALL = Workload(rate=20, duration=1.0, subscribers=3)
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def jittered(folder: Path, seed: int = 1, most_ns: int = 400_000) -> Run:
    """The run with times as a clock gives them: each a little later, and written in the order that they then have."""
    chance = np.random.default_rng(seed)
    for path in sorted(folder.glob("trials/*/*.ledger")):
        rows = read(path).copy()
        rows["time_ns"] += chance.integers(0, most_ns, len(rows))
        path.write_bytes(ledger_bytes(rows.tolist()))
    return Run(folder)


def add(run: Run, trial: Trial, role: str, *rows: tuple[int, ...]) -> None:
    """Writes further records into a ledger, each where its time belongs."""
    path = run.folder / "trials" / trial.name / f"{role}.ledger"
    path.write_bytes(ledger_bytes([*read(path).tolist(), *rows]))


def packed(run: Run, out: Path | None = None) -> Run:
    out = out or run.folder.parent / f"{run.folder.name}-packed"
    pack(run.folder, out)
    return Run(out)


def raw(run: Run, recording: Recording) -> dict[str, bytes]:
    """Every ledger of a trial, as it is read."""
    files = run.files[recording.trial.name]
    return {file: files.ledger(file, recording.offer).tobytes() for file in files.ledgers()}


def assert_same(one: Run, other: Run) -> None:
    """Fates, verdicts, errors, bytes and counts are the same; times too, up to the rounding."""
    assert other.manifest == one.manifest
    assert other.errors == one.errors
    for mine, theirs in zip(one.recordings, other.recordings, strict=True):
        assert theirs.trial == mine.trial
        assert theirs.record == mine.record
        for name in ("owed", "fate", "copies", "unexplained"):
            assert np.array_equal(getattr(mine.outcome, name), getattr(theirs.outcome, name)), (mine.trial.name, name)
        assert theirs.outcome.verdict == mine.outcome.verdict
        assert len(theirs.outcome.windows) == len(mine.outcome.windows)
        shift = np.abs(theirs.outcome.arrived_ns - mine.outcome.arrived_ns).max(initial=0)
        assert shift <= STEP_NS[mine.trial.measure]
    for measure in Measure:
        _assert_close(getattr(one, measure), getattr(other, measure), measure)
    mine, theirs = Evidence(one), Evidence(other)
    pd.testing.assert_frame_equal(mine.requests, theirs.requests)
    pd.testing.assert_series_equal(mine.loss["gap_signals"], theirs.loss["gap_signals"])


def _assert_close(mine: pd.DataFrame, theirs: pd.DataFrame, measure: Measure) -> None:
    """Columns of times up to the rounding, all others exactly."""
    assert list(mine) == list(theirs)
    rounded = [name for name in mine if name in METRICS and METRICS[name].unit == "ms"]
    pd.testing.assert_frame_equal(mine.drop(columns=rounded), theirs.drop(columns=rounded))
    for name in rounded:
        within = 2 * STEP_NS[measure] / MS
        assert theirs[name].to_numpy() == pytest.approx(mine[name].to_numpy(), abs=within, rel=0, nan_ok=True), name


def alts(run: Run) -> dict[str, str]:
    return {name: draw(run).alt for name, draw in charts.drawings(run).items()}


def assert_told_alike(one: str, other: str) -> None:
    """The same words; the numbers in them differ by no more than a last digit does that was rounded twice."""
    assert NUMBER.sub("#", one) == NUMBER.sub("#", other)
    for mine, theirs in zip(NUMBER.findall(one), NUMBER.findall(other), strict=True):
        step = 10.0 ** -len(mine.partition(".")[2])
        assert abs(float(mine.replace(",", "")) - float(theirs.replace(",", ""))) < 1.01 * step, (mine, theirs)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """A run whose times are whole milliseconds, with losses, duplicates and a failure, and the same packed."""
    how = trials(*COMPARED, repeats=(1, 2, 3))
    for trial, arguments in how.items():
        if trial.measure is Measure.LOSS and trial.protocol == "sse":
            arguments |= {"keep": 0.9, "copies": trial.repeat}
    run = write_run(tmp_path_factory.mktemp("runs") / "run", how, FAILED)
    return run, packed(run)


@pytest.fixture(scope="module")
def rough(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """A run of every measure, with times as a clock gives them, and the same packed."""
    run = write_run(tmp_path_factory.mktemp("runs") / "run", trials(*COMPARED, Measure.COST, repeats=(1, 2, 3)))
    for trial in [each for each in trials(*COMPARED, repeats=(1, 2)) if each.linked]:
        add(run, trial, "link", record(Kind.KERNEL_UP, END + S // 3, 1, value=71), record(Kind.CONNECTED, START, 1))
        add(run, trial, "consumer", *(record(Kind.REQUESTED, START + n * 9 * MS, subscriber=0) for n in range(40)))
    run = jittered(run.folder)
    return run, packed(run)


@pytest.mark.parametrize("made", ["exact", "rough"])
def test_a_packed_run_comes_to_the_same(made: str, request: pytest.FixtureRequest) -> None:
    assert_same(*request.getfixturevalue(made))


def test_charts_of_whole_milliseconds_say_the_same_to_the_letter(exact: tuple[Run, Run]) -> None:
    assert alts(exact[0]) == alts(exact[1])
    assert "Failed, and so not shown: loss-polling-durable-1." in charts.loss(exact[1]).alt


def test_charts_of_any_times_say_the_same_up_to_a_last_digit(rough: tuple[Run, Run]) -> None:
    mine, theirs = map(alts, rough)
    assert list(mine) == list(theirs)
    for name, alt in mine.items():
        assert_told_alike(alt, theirs[name])


def test_intervals_are_the_same_up_to_the_rounding(rough: tuple[Run, Run]) -> None:
    mine, theirs = map(summary, rough)
    assert mine[[*KEYS, "figure", "repeats"]].equals(theirs[[*KEYS, "figure", "repeats"]])
    times = mine["figure"].str.endswith("_ms")
    for bound in ("median", "low", "high"):
        pd.testing.assert_series_equal(mine[bound][~times], theirs[bound][~times])
        pd.testing.assert_series_equal(mine[bound][times], theirs[bound][times], rtol=0, atol=0.2)


def test_nearly_every_trial_is_rounded_and_the_folder_far_smaller(rough: tuple[Run, Run]) -> None:
    """An arrival that happens to be near the end of an outage keeps its trial whole."""
    whole = 0
    for name, files in rough[1].files.items():
        assert isinstance(files, archive.Packed)
        assert files.step_ns in (1, STEP_NS[Measure(name.partition("-")[0])])
        whole += files.step_ns == 1
        for records in files.records.values():
            assert not (records["time_ns"] % files.step_ns).any()
    assert whole <= len(rough[1].files) / 6
    sizes = [sum(path.stat().st_size for path in run.folder.rglob("*") if path.is_file()) for run in rough]
    assert sizes[1] < sizes[0] / 8


def test_the_kernels_own_counts_stay_and_chunks_become_one_a_phase_and_direction(rough: tuple[Run, Run]) -> None:
    for mine, theirs in zip(*(run.recordings for run in rough), strict=True):
        for kind in (Kind.KERNEL_UP, Kind.KERNEL_DOWN, Kind.CONNECTED, Kind.CUT, Kind.HEALED):
            one, other = (each.link[each.link["kind"] == kind] for each in (mine, theirs))
            for column in ("value", "sequence", "subscriber"):
                assert one[column].tolist() == other[column].tolist()
        for kind in (Kind.UP, Kind.DOWN):
            assert (theirs.link["kind"] == kind).sum() <= len(mine.phases) + 1
            assert (
                theirs.link["value"][theirs.link["kind"] == kind].sum()
                == mine.link["value"][mine.link["kind"] == kind].sum()
            )


def test_the_tables_of_a_packed_run_are_its_own(exact: tuple[Run, Run]) -> None:
    run, small = exact
    save(run)
    there = {path.name: path.read_text() for path in small.folder.glob("*.csv")}
    assert there == {path.name: path.read_text() for path in run.folder.glob("*.csv")}
    assert "intervals.csv" in there
    assert sorted(path.name for path in small.folder.iterdir()) == sorted([*there, "manifest.json", archive.FILE])


def test_packing_reads_and_changes_nothing(exact: tuple[Run, Run], tmp_path: Path) -> None:
    before = fingerprint(exact[0].folder)
    again = packed(exact[0], tmp_path / "deep" / "again")
    assert fingerprint(exact[0].folder) == before
    assert fingerprint(again.folder) == fingerprint(exact[1].folder)


def test_a_packed_run_is_packed_again_to_the_same_bytes(rough: tuple[Run, Run], tmp_path: Path) -> None:
    again = packed(rough[1], tmp_path / "again")
    assert fingerprint(again.folder) == fingerprint(rough[1].folder)


CUT, HEALED = START + round(OUTAGE.at * S), START + round((OUTAGE.at + OUTAGE.lasts) * S)


@pytest.mark.parametrize(("before_ns", "whole"), [(3, True), (49_000, True), (-3, False), (60_000, False), (MS, False)])
def test_a_trial_that_rounding_would_change_keeps_its_ledgers_to_the_bit(
    tmp_path: Path, before_ns: int, whole: bool
) -> None:
    """An event due in the outage that arrives just before its end is on time; rounded up to that end it were late."""
    planted, plain = trials(Measure.LOSS)
    run = write_run(tmp_path / "run", {planted: {"keep": 0.5}, plain: {"keep": 0.5}})
    item = next(each for each in LOAD.schedule() if each.due_ns == 550 * MS)
    at = HEALED - before_ns
    add(run, planted, "consumer", record(Kind.RECEIVED, at, item.sequence, 0, zlib.crc32(item.raw)))
    add(run, planted, "link", *(record(Kind.DOWN, START + 2 * MS + n, value=n) for n in range(9)))
    run = Run(run.folder)
    small = packed(run)
    assert_same(run, small)
    fates = [recording.outcome.fate[0, item.sequence - LOAD.first] for recording in run.recordings]
    assert (fates[0] == Fate.ON_TIME) == (before_ns > 0)
    assert {name: files.step_ns for name, files in small.files.items()} == {
        planted.name: 1 if whole else STEP_NS[Measure.LOSS],
        plain.name: STEP_NS[Measure.LOSS],
    }
    assert (raw(run, run.recordings[0]) == raw(small, small.recordings[0])) == whole


SIGNS = (Kind.REQUESTED, Kind.DISCONNECTED, Kind.CONNECTED, Kind.GAP, Kind.FAILED, Kind.OVERFLOWED)


def snapped(run: Run, seed: int) -> Run:
    """The run with odd phases, and with a part of all records within a few nanoseconds of where one thing ends."""
    chance = np.random.default_rng(seed)
    for place in sorted(run.folder.glob("trials/*")):
        about = json.loads((place / "record.json").read_text())
        about["phases"] = {name: at + int(chance.integers(-999, 999)) for name, at in about["phases"].items()}
        (place / "record.json").write_text(json.dumps(about))
        ends = np.array([*about["phases"].values(), CUT, HEALED, HEALED + STEP_NS[Measure.LOSS] // 2])
        for path in sorted(place.glob("*.ledger")):
            rows = read(path).copy()
            moved = (chance.random(len(rows)) < 0.3) & ~np.isin(rows["kind"], (Kind.CUT, Kind.HEALED))
            rows["time_ns"] += chance.integers(0, MS, len(rows)) * ~np.isin(rows["kind"], (Kind.CUT, Kind.HEALED))
            near = ends[chance.integers(0, len(ends), len(rows))] + chance.integers(-3, 4, len(rows))
            rows["time_ns"][moved] = near[moved]
            path.write_bytes(ledger_bytes(rows.tolist()))
    return Run(run.folder)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_at_the_edge_of_a_phase_or_an_outage_is_on_the_same_side_of_it(
    tmp_path: Path, seed: int
) -> None:
    made = trials(*COMPARED, Measure.COST, workload=SMALL)
    run = write_run(tmp_path / "run", made)
    for trial in made:
        rows = [
            record(kind, START + n * 99 * MS, SMALL.first + n, n % 3, SMALL.first + n + 2)
            for n in range(12)
            for kind in SIGNS
        ]
        for role in ("producer", "consumer"):
            add(run, trial, role, *rows)
    run = snapped(run, seed)
    assert_same(run, packed(run))


def test_requests_at_the_edges_of_phases_are_rounded_within_them(tmp_path: Path) -> None:
    (trial, *_) = made = trials(Measure.BANDWIDTH)
    run = write_run(tmp_path / "run", made)
    about = run.folder / "trials" / trial.name / "record.json"
    fields = json.loads(about.read_text())
    fields["phases"] = {name: at + 499_999 + n * 50 * MS for n, (name, at) in enumerate(fields["phases"].items())}
    about.write_text(json.dumps(fields))
    edges = [record(Kind.REQUESTED, at + side, subscriber=0) for at in fields["phases"].values() for side in (-1, 0, 1)]
    add(run, trial, "consumer", *[each for each in edges if each[0] != fields["phases"]["stop"]])
    run = Run(run.folder)
    small = packed(run)
    assert_same(run, small)
    assert small.files[trial.name].step_ns == STEP_NS[Measure.BANDWIDTH]


def test_what_is_written_after_the_end_stays_after_it_also_where_the_clock_is_coarse(tmp_path: Path) -> None:
    """Closing the trial tells the consumer of a gap, 3 ns after an end that the rounding would move it to."""
    (trial, *_) = trials(Measure.LOSS)
    run = write_run(tmp_path / "run", {trial: {"keep": 0.5}})
    stop = run.recordings[0].phases["stop"]
    assert not stop % STEP_NS[trial.measure]
    add(run, trial, "consumer", record(Kind.GAP, stop + 3, LOAD.first + 150, 0, LOAD.first + 151))
    run = Run(run.folder)
    small = packed(run)
    assert_same(run, small)
    assert small.files[trial.name].step_ns == STEP_NS[trial.measure]


def test_a_trial_in_which_nothing_was_sent_and_nothing_arrived_is_packed(tmp_path: Path) -> None:
    made = trials(*COMPARED, Measure.COST)
    run = write_run(tmp_path / "run", made)
    for path in run.folder.glob("trials/*/*.ledger"):
        path.write_bytes(ledger_bytes([]))
    run = Run(run.folder)
    assert_same(run, packed(run))


def test_a_run_of_which_nothing_finished_is_packed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {}, FAILED)
    small = packed(run)
    assert_same(run, small)
    assert small.errors == FAILED


def test_one_subscriber_alone_is_kept_chunk_by_chunk_for_its_diagram(tmp_path: Path) -> None:
    made = trials(Measure.LOSS, workload=ALONE, repeats=(1, 2))
    run = write_run(tmp_path / "run", made)
    for trial in made:
        chunks = [
            record(kind, START + n * 61 * MS, n, value=50 + n) for n in range(15) for kind in (Kind.UP, Kind.DOWN)
        ]
        add(run, trial, "link", *chunks)
    run = jittered(run.folder)
    small = packed(run)
    assert [raw(run, each) for each in run.recordings] == [raw(small, each) for each in small.recordings]
    for name, draw in charts.drawings(run).items():
        assert draw(small).png() == draw(run).png(), name
    assert charts.sequence(small, "sse").png() == charts.sequence(run, "sse").png()


@pytest.mark.parametrize("over", ["rate", "size"])
def test_a_sweep_is_packed(tmp_path: Path, over: str) -> None:
    made = planned(over, protocols=("sse", "polling"), guarantees=(ONCE,), repeat=2)
    run = swept(tmp_path / "run", over, {trial: {"delay_ms": trial.repeat} for trial in made})
    run = jittered(run.folder)
    small = packed(run)
    assert_same(run, small)
    assert small.swept == over
    assert_told_alike(charts.sweep(run).alt, charts.sweep(small).alt)
    assert sorted(path.name for path in small.folder.glob("*.csv")) == ["intervals.csv", "sweep.csv"]


def test_a_trace_goes_with_the_run_that_replayed_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    lines = [{"time": n / 20, "type": f"t{n % 2}", "data": {"n": n}} for n in range(30)]
    (folder / "trace.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    load = Workload(trace=str(folder / "trace.jsonl"), subscribers=2)
    made = trials(Measure.LATENCY, Measure.LOSS, workload=load)
    run = write_run(folder, made)
    for spec_file in folder.glob("trials/*/spec.json"):
        fields = json.loads(spec_file.read_text())
        fields["workload"]["trace"] = "trace.jsonl"
        spec_file.write_text(json.dumps(fields))
    run = jittered(folder)
    small = packed(run)
    assert len(run.recordings) == len(made)
    shutil.rmtree(folder / "trials")
    assert (small.folder / "trace.jsonl").read_bytes() == (folder / "trace.jsonl").read_bytes()
    shutil.move(small.folder, tmp_path / "elsewhere")
    assert_same(run, Run(tmp_path / "elsewhere"))


def test_a_second_process_and_spared_subscribers_keep_their_own_ledgers(tmp_path: Path) -> None:
    crash = replace(OUTAGE, kind="consumer-crash", share=0.4)
    (trial, *_) = trials(Measure.LOSS, outage=crash)
    run = write_run(tmp_path / "run", {trial: {"keep": 0.9}})
    item = LOAD.schedule()[-1]
    add(run, trial, "consumer-2", record(Kind.RECEIVED, START + 999 * MS, item.sequence, 0, zlib.crc32(item.raw)))
    add(run, trial, "spared", record(Kind.RECEIVED, START + 999 * MS, item.sequence, 3, zlib.crc32(item.raw)))
    run = jittered(run.folder)
    small = packed(run)
    assert_same(run, small)
    assert run.loss["delivered"].tolist() == [902]
    names = small.files[trial.name].ledgers()
    assert sorted(names) == sorted(path.name for path in (run.folder / "trials" / trial.name).glob("*.ledger"))


def test_a_ledger_that_a_packed_run_lacks_is_named_with_its_trial(rough: tuple[Run, Run], tmp_path: Path) -> None:
    shutil.copytree(rough[1].folder, tmp_path / "run")
    found = archive.read(tmp_path / "run" / archive.FILE)
    name = "loss-sse-at-most-once-reset-1"
    less = {file: rows for file, rows in found[name].records.items() if file != "link.ledger"}
    archive.write(tmp_path / "run" / archive.FILE, {**found, name: replace(found[name], records=less)})
    with pytest.raises(
        UsageError, match=rf"^The ledger link\.ledger of trial {name} is missing; restore the archive\.$"
    ):
        charts.loss(tmp_path / "run")


def test_a_trial_that_an_archive_lacks_is_named(rough: tuple[Run, Run], tmp_path: Path) -> None:
    shutil.copytree(rough[1].folder, tmp_path / "run")
    found = archive.read(tmp_path / "run" / archive.FILE)
    name = "loss-sse-at-most-once-reset-1"
    archive.write(tmp_path / "run" / archive.FILE, {each: found[each] for each in found if each != name})
    with pytest.raises(UsageError, match=f"lacks the trial {name}; restore it"):
        charts.loss(tmp_path / "run")


@pytest.mark.parametrize("file", ["spec.json", "record.json"])
def test_a_trial_whose_files_an_archive_lacks_is_damaged(rough: tuple[Run, Run], tmp_path: Path, file: str) -> None:
    shutil.copytree(rough[1].folder, tmp_path / "run")
    found = archive.read(tmp_path / "run" / archive.FILE)
    name = "loss-sse-at-most-once-reset-1"
    less = {each: content for each, content in found[name].files.items() if each != file}
    archive.write(tmp_path / "run" / archive.FILE, {**found, name: replace(found[name], files=less)})
    with pytest.raises(UsageError, match=f"The trial {name} is damaged"):
        charts.loss(tmp_path / "run")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> tuple[Collection, Collection]:
    """A suite's folder, with what a campaign leaves beside its runs, and the same packed."""
    folder = tmp_path_factory.mktemp("suites") / "suite"
    found = write_suite(folder, EVERY)
    for name in RUNS:
        (folder / name / "logs").mkdir()
        (folder / name / "logs" / "consumer.log").write_text(f"FileNotFoundError: {folder}")
    (folder / ".lock").touch()
    (folder / ".unfinished").mkdir()
    (folder / ".unfinished" / "demonstrations.json").write_text("[]")
    pack(folder, folder.parent / "packed")
    return found, Collection(folder.parent / "packed")


def test_a_packed_suite_has_every_run_its_own_data_and_its_demonstrations(suite: tuple[Collection, Collection]) -> None:
    whole, small = suite
    assert list(small) == list(whole) == list(RUNS)
    assert small.about == whole.about
    assert small.errors == whole.errors == {f"comparison/{name}": said for name, said in FAILED.items()}
    for name in RUNS:
        assert_same(whole[name], small[name])
    files = {str(path.relative_to(small.folder)) for path in small.folder.rglob("*") if path.is_file()}
    kinds = {name: [*measures(small[name]), *COMPARED] for name in RUNS}
    tables = {f"{name}/{each}.csv" for name, each in ((n, m) for n in RUNS if n != "rate" for m in kinds[n])}
    assert files == {
        "suite.json",
        "seen/demonstrations.json",
        "rate/sweep.csv",
        "comparison/intervals.csv",
        *tables,
        *(f"{name}/{file}" for name in RUNS for file in ("manifest.json", archive.FILE)),
    }
    for file in ("suite.json", "seen/demonstrations.json"):
        assert (small.folder / file).read_bytes() == (whole.folder / file).read_bytes()


def test_an_album_of_a_packed_suite_is_that_of_the_suite(suite: tuple[Collection, Collection]) -> None:
    mine, theirs = map(album.drawings, suite)
    assert list(mine) == list(theirs)
    for name, draw in mine.items():
        assert draw().alt == theirs[name]().alt, name


def test_a_packed_suite_is_packed_again_to_the_same_bytes(suite: tuple[Collection, Collection], tmp_path: Path) -> None:
    pack(suite[1].folder, tmp_path / "again")
    assert fingerprint(tmp_path / "again") == fingerprint(suite[1].folder)


def contents(folder: Path) -> Iterable[tuple[Path, str]]:
    """Every file's text; of an archive, its header."""
    for path in filter(Path.is_file, folder.rglob("*")):
        data = path.read_bytes()
        yield path, (lzma.decompress(data).partition(b"\n")[0] if path.name == archive.FILE else data).decode()


def test_no_file_tells_of_a_folder_outside(suite: tuple[Collection, Collection]) -> None:
    whole, small = suite
    for path, text in contents(small.folder):
        assert str(whole.folder.parent) not in text, path
        assert str(Path.home()) == "/" or str(Path.home()) not in text, path
        assert not re.search(r'"/\w|[A-Z]:\\\\', text), path


def held(target: Path, folder: Path) -> str:
    """The sentence with which a target is refused, in which nothing has changed."""
    before = fingerprint(target) if target.is_dir() else target.read_bytes()
    with pytest.raises(UsageError) as caught:
        pack(folder, target)
    assert (fingerprint(target) if target.is_dir() else target.read_bytes()) == before
    return str(caught.value)


@pytest.mark.parametrize("of", ["run", "suite"])
def test_a_target_that_holds_something_is_left_alone(
    exact: tuple[Run, Run], suite: tuple[Collection, Collection], tmp_path: Path, of: str
) -> None:
    source = exact[0].folder if of == "run" else suite[0].folder
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".hidden").write_text("mine")
    for target in (tmp_path / "file", tmp_path / "folder", source, exact[1].folder):
        assert "already holds something, which is kept as it is; choose another folder." in held(target, source)


def test_an_empty_folder_is_filled(exact: tuple[Run, Run], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert_same(exact[0], packed(exact[0], tmp_path / "out"))


def test_what_is_no_run_is_refused_and_no_folder_made(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "file").write_text("mine")
    for source in (tmp_path / "notes", tmp_path / "file", tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="is not a run folder"):
            pack(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("of", ["run", "suite"])
def test_a_run_with_a_damaged_trial_is_refused_and_leaves_nothing_half_packed(tmp_path: Path, of: str) -> None:
    made = write_suite(tmp_path / "suite", ("before", "cost"), {})
    (tmp_path / "suite" / "cost" / "trials" / "cost-sse-at-most-once-1" / "link.ledger").write_bytes(b"damaged")
    with pytest.raises(UsageError, match=r"ledger link\.ledger of trial cost-sse-at-most-once-1 is damaged"):
        pack(made.folder if of == "suite" else made.folder / "cost", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_says_how_large_the_folder_is(exact: tuple[Run, Run], tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert main(["pack", str(exact[0].folder), "--out", str(out)]) == 0
    size = sum(path.stat().st_size for path in out.iterdir())
    assert capsys.readouterr().out == f"{out}: {size:,} bytes\n"
    assert main(["pack", str(exact[0].folder), "--out", str(out)]) == 2
    assert "already holds something" in capsys.readouterr().err
