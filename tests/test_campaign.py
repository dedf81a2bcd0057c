"""A suite that is killed, stopped, refused or out of room: what is recorded stays, and is not recorded again.

The commands are real processes where they are killed, and run in this one where they are not.
"""

import fcntl
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import family, gone, wait_until

from labkit import album, campaign, demos, manifest, provenance, runner, suite
from labkit.cli import main
from labkit.collection import FILE, Collection
from labkit.errors import TrialError
from labkit.ledger import RECORD
from labkit.results import Run
from labkit.trial import SCHEMA
from labkit.walk import Walk

HEAD = 'title = "Small"\n'
PUSHED = """
[experiment.pushed]
kind = "compare"
measures = "latency"
guarantees = "at-most-once"
protocols = ["websocket", "sse"]
workload = { rate = 50, duration = 0.1, subscribers = 1 }
timings = { poll = 0.05 }
"""
SWEPT = """
[experiment.swept]
kind = "sweep"
over = "subscribers"
values = [1, 2]
protocols = "sse"
workload = { rate = 50, duration = 0.1 }
timings = { poll = 0.05 }
"""
BROKEN = """
[experiment.broken]
kind = "compare"
measures = "loss"
guarantees = "at-least-once"
protocols = ["websocket", "sse"]
outage = { kind = "close", at = 0.1, lasts = 0.05 }
workload = { rate = 50, duration = 0.2, subscribers = 1 }
timings = { poll = 0.05 }
"""
ALL = HEAD + PUSHED + SWEPT + BROKEN
A_ROUND = 6
"""Trials in one round of all three."""

Snapshot = dict[str, tuple[str, int, int]]


def toml(folder: Path, text: str = ALL) -> Path:
    path = folder / "small.toml"
    path.write_text(text)
    return path


def trials_of(out: Path) -> set[str]:
    """EXPERIMENT/TRIAL of each that is finished."""
    return {f"{path.parent.parent.name}/{path.name}" for path in out.glob("*/trials/[!.]*")}


def snapshot(out: Path) -> Snapshot:
    """Every file of every finished trial: what is in it, that it is the same file, and when it was written."""
    found = {}
    for path in sorted(out.glob("*/trials/[!.]*/*")):
        about = path.stat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(out))] = (digest, about.st_ino, about.st_mtime_ns)
    return found


def everything(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def entries(out: Path, experiment: str) -> dict[str, Any]:
    return dict(json.loads((out / experiment / manifest.FILE).read_text())["trials"])


def change(path: Path, how: Callable[[dict[str, Any]], Any]) -> None:
    about = json.loads(path.read_text())
    how(about)
    path.write_text(json.dumps(about))


class Command:
    """`labkit reference`, a process in a group of its own."""

    def __init__(self, *arguments: object, limit: int | None = None) -> None:
        refuse = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit)) if limit else None
        self.process = subprocess.Popen(
            [sys.executable, "-m", "labkit", "reference", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=refuse,
        )
        # Its bar of progress would fill the pipe otherwise.
        self._said: dict[str, str] = {}
        self._readers = [threading.Thread(target=self._read, args=(name,)) for name in ("stdout", "stderr")]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str) -> None:
        self._said[name] = getattr(self.process, name).read()

    def until(self, condition: Callable[[], Any], limit: float = 40.0) -> None:
        """Returns once the condition holds; fails when the command ends before, or nothing comes of it in time."""
        wait_until(lambda: condition() or self.process.poll() is not None, limit)
        assert self.process.poll() is None, self.ended()

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Ends it, and returns when none of the processes that it had started is left."""
        started = family(self.process.pid)
        os.kill(self.process.pid, how)
        self.process.wait(20)
        wait_until(lambda: all(map(gone, started)))

    def ended(self) -> tuple[int, str, list[str]]:
        """Exit status, standard output, and the lines of standard error that are no progress."""
        self.process.wait(60)
        for reader in self._readers:
            reader.join()
        lines = self._said["stderr"].replace("\r", "\n").splitlines()
        told = [line for line in lines if line and not re.search(r"\d+/\d+ \[", line)]
        return self.process.returncode, self._said["stdout"], told

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *_: object) -> None:
        for child in family(self.process.pid):
            child.kill()
        self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite that was carried out, once for all workers of this test run; to be copied, and never changed."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    with (root / "campaign.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "campaign" / "status").exists():
            (root / "campaign").mkdir()
            command = ["reference", "--suite", str(toml(root / "campaign")), "--repeat", "2", "--seed", "3"]
            status = main([*command, f"--out={root / 'campaign' / 'out'}"])
            (root / "campaign" / "status").write_text(str(status))
    return root / "campaign"


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A copy of that suite's folder."""
    return shutil.copytree(whole / "out", tmp_path / "out")


def resumed(out: Path) -> int:
    return main(["reference", "--resume", str(out)])


def untouched(out: Path, *arguments: str, folder: Path | None = None) -> None:
    """Has a command refused, in a sentence, and nothing changed by it."""
    before = everything(folder or out)
    assert main(["reference", *arguments]) == 2
    assert everything(folder or out) == before


def test_a_suite_that_is_carried_out_has_every_trial_of_its_plans_and_their_tables(whole: Path) -> None:
    out = whole / "out"
    assert (whole / "status").read_text() == "0"
    found = Collection(out)
    plans = suite.load(whole / "small.toml", repeat=2).plans()
    assert {name: set(run.manifest["trials"]) for name, run in found.items()} == {
        name: {trial.name for trial in plan.trials()} for name, plan in plans.items()
    }
    assert len(trials_of(out)) == sum(len(run.recordings) for run in found.values()) == 2 * A_ROUND
    assert found.errors == {}
    assert len(found["pushed"].latency) == len(found["swept"].cost) == len(found["broken"].loss) == 4
    assert set(found["broken"].loss["verdict"]) == {"complete"}
    assert {path.name for path in out.iterdir()} - {campaign.LOCK} == {FILE, "pushed", "swept", "broken"}
    assert {path.name for path in (out / "swept").iterdir()} == {manifest.FILE, "trials", "sweep.csv", "intervals.csv"}


def test_the_folder_says_what_it_is_with_which_seed_and_on_what_machine_and_names_no_path(whole: Path) -> None:
    about = json.loads((whole / "out" / FILE).read_text())
    assert about["schema"] == SCHEMA
    assert about["argv"] == ["reference", "--suite", "small.toml", "--repeat", "2", "--seed", "3", "--out=out"]
    assert (about["suite"]["seed"], about["suite"]["repeat"], about["suite"]["title"]) == (3, 2, "Small")
    assert list(about["suite"]["tables"]) == ["pushed", "swept", "broken"]
    assert about["versions"] == provenance.versions()
    assert {"cpu", "cores", "memory_gib", "system", "loop", "clock", "commit", "dirty"} <= set(about["machine"])
    (part,) = about["parts"]
    assert {"started", "finished", "seconds", "load_before", "load_after", "commit", "dirty"} < set(part)
    assert part["elsewhere_cpu_s"] >= 0
    for path in whole.glob("out/**/*.json"):
        assert str(whole.parent) not in path.read_text(), path


def test_each_round_of_an_experiment_is_a_part_of_its_run(whole: Path) -> None:
    for run in Collection(whole / "out").values():
        parts = run.manifest["parts"]
        assert len(parts) == 2
        times = [part[end] for part in parts for end in ("started", "finished")]
        assert sorted(times) == times
        assert run.manifest["finished"] == times[-1]
        assert all(part["elsewhere_cpu_s"] is not None and part["load_after"] for part in parts)


def test_a_suite_killed_at_five_random_moments_goes_on_each_time_and_repeats_nothing(tmp_path: Path) -> None:
    out, seed, pause = tmp_path / "out", random.SystemRandom().getrandbits(32), threading.Event()
    print(f"seed {seed}")  # which is shown where the test fails
    dice = random.Random(seed)
    begin = ("--suite", toml(tmp_path), "--repeat", 3, "--out", out)
    plans = suite.load(toml(tmp_path), repeat=3).plans()
    planned = {f"{name}/{trial.name}" for name, plan in plans.items() for trial in plan.trials()}
    recorded: Snapshot = {}
    for number in range(5):
        # The first two fall anywhere after the start, the others on or after the end of a trial.
        target, delay = len(trials_of(out)) + (number > 1), dice.uniform(0.0, 1.0)
        with Command(*(("--resume", out) if number else begin)) as command:
            command.until(lambda target=target: (out / FILE).exists() and len(trials_of(out)) >= target)
            pause.wait(delay)  # the moment itself is what is random here
            command.kill()
            assert command.process.returncode == -signal.SIGKILL
        assert recorded.items() <= snapshot(out).items()
        recorded = snapshot(out)
    assert len(trials_of(out)) < len(planned)
    with Command("--resume", out) as command:
        status, said, errors = command.ended()
    assert (status, errors) == (0, [])
    assert said == f"18 trials in {out}\n"
    assert recorded.items() <= snapshot(out).items()
    assert trials_of(out) == planned
    for name, run in Collection(out).items():
        assert set(run.manifest["trials"]) == {trial.name for trial in plans[name].trials()}
        assert all(set(entry) == {"digest", "seconds"} for entry in run.manifest["trials"].values())
        assert len(run.recordings) == 6
    assert not [path for path in out.rglob("*") if path.name.startswith(".") and path.name != campaign.LOCK]
    assert not [path for path in out.rglob("*") if path.suffix == ".new" or path.name == runner.LOGS]


def test_every_part_is_there_even_one_that_was_killed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Command("--suite", toml(tmp_path, HEAD + PUSHED), "--repeat", 2, "--out", out) as command:
        command.until(lambda: trials_of(out))
        command.kill()
    before = json.loads((out / FILE).read_text())
    (part,) = before["parts"]
    assert (part["commit"], part["dirty"]) == (before["machine"]["commit"], before["machine"]["dirty"])
    assert part["elsewhere_cpu_s"] is None
    assert resumed(out) == 0
    after = json.loads((out / FILE).read_text())
    assert after["parts"][0] == part
    assert after["parts"][1]["started"] > part["finished"]
    of_run = json.loads((out / "pushed" / manifest.FILE).read_text())["parts"]
    assert of_run[0]["started"] < after["parts"][1]["started"] < of_run[-1]["started"]


def test_a_suite_that_is_complete_is_not_run_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "Walk", None)
    recorded, manifests = snapshot(out), [(out / name / manifest.FILE).read_bytes() for name in Collection(out)]
    tree = set(everything(out))
    assert resumed(out) == 0
    assert snapshot(out) == recorded
    assert [(out / name / manifest.FILE).read_bytes() for name in Collection(out)] == manifests
    assert set(everything(out)) == tree


def test_a_trial_whose_folder_was_there_before_its_entry_is_not_run_again(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "Walk", None)
    before, recorded = entries(out, "swept"), snapshot(out)
    for name in list(before)[:2]:
        change(out / "swept" / manifest.FILE, lambda about, name=name: about["trials"].pop(name))
    assert resumed(out) == 0
    assert snapshot(out) == recorded
    assert entries(out, "swept") == before


def test_a_trial_whose_folder_is_gone_is_run_again_and_no_other_is(out: Path) -> None:
    recorded = snapshot(out)
    lost = sorted(trials_of(out))[0]
    experiment, _, name = lost.partition("/")
    before = entries(out, experiment)
    shutil.rmtree(out / experiment / "trials" / name)
    assert resumed(out) == 0
    found = snapshot(out)
    assert found.keys() == recorded.keys()
    assert {path for path in found if found[path] != recorded[path]} == {
        path for path in recorded if path.startswith(f"{experiment}/trials/{name}/")
    }
    after = entries(out, experiment)
    assert {each for each in after if after[each] != before[each]} <= {name}
    assert len(Run(out / experiment).recordings) == 4


@pytest.mark.parametrize("left", [[], ["nodes"], ["nodes", "manifest.json.new"]])
def test_an_experiment_that_was_killed_before_it_had_a_manifest_is_begun(out: Path, left: list[str]) -> None:
    recorded = snapshot(out)
    shutil.rmtree(out / "pushed")
    (out / "pushed").mkdir()
    for name in left:
        (out / "pushed" / name).mkdir() if name == "nodes" else (out / "pushed" / name).write_text('{"sch')
    assert resumed(out) == 0
    assert snapshot(out).keys() == recorded.keys()
    tables = {"latency.csv", "bandwidth.csv", "loss.csv", "intervals.csv"}
    assert {path.name for path in (out / "pushed").iterdir()} == {manifest.FILE, "trials", *tables}


def test_what_a_killed_trial_left_is_removed_whichever_experiment_it_is_of(out: Path) -> None:
    recorded = snapshot(out)
    half = out / "broken" / "trials" / ".loss-sse-at-least-once-close-1"
    shutil.copytree(out / "broken" / "trials" / half.name[1:], half)
    assert resumed(out) == 0
    assert not half.exists()
    assert snapshot(out) == recorded


def test_what_a_file_manager_leaves_among_the_trials_is_no_hindrance_and_stays(out: Path) -> None:
    trials, recorded = out / "broken" / "trials", snapshot(out)
    (trials / ".DS_Store").write_text("theirs")
    (trials / ".elsewhere").symlink_to(out / "swept")
    assert resumed(out) == 0
    assert (trials / ".DS_Store").read_text() == "theirs"
    assert (trials / ".elsewhere").is_symlink()
    assert snapshot(out) == recorded


def test_a_suite_goes_on_while_a_killed_ones_node_still_writes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Command("--suite", toml(tmp_path, HEAD + BROKEN), "--repeat", "1", "--out", out) as command:
        command.until(lambda: list(out.glob("broken/trials/.*/*.ledger")))
        started = family(command.process.pid)
        (left,) = {path.parent for path in list(out.glob("broken/trials/.*/*.ledger"))[:1]}
        command.process.kill()
        command.process.wait(20)
        assert resumed(out) == 0  # its nodes are given no time to end
        wait_until(lambda: all(map(gone, started)))
    assert len(trials_of(out)) == 2
    assert not any("failed" in entry for entry in entries(out, "broken").values())
    assert resumed(out) == 0
    assert not left.exists()


def test_a_suite_keeps_its_traces_and_says_of_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, out = tmp_path / "alice", tmp_path / "out"
    home.mkdir()
    trace = home / "pushes.csv"
    trace.write_text("time,type\n0,a\n0.05,b\n0.1,a\n")
    played = PUSHED.replace("rate = 50, duration = 0.1", f'trace = "{trace}"')
    later = played.replace("experiment.pushed", "experiment.later")
    monkeypatch.setattr(campaign, "_carry_out", lambda suite, plans, out, about: Collection(out))
    assert main(["reference", f"--suite={toml(tmp_path, HEAD + played + later)}", "--repeat=1", f"--out={out}"]) == 0
    monkeypatch.undo()
    assert album.readable(Collection(out))[1].keys() == {"pushed", "later"}
    shutil.rmtree(home)
    monkeypatch.chdir(out)
    assert resumed(out) == 0
    assert len(trials_of(out)) == 4
    assert [path for path in out.rglob("*.json") if "alice" in path.read_text()] == []
    assert (out / "pushed" / "trace.csv").read_text() == (out / "later" / "trace.csv").read_text()


def test_a_suite_that_was_killed_before_it_had_its_file_is_begun_anew(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / campaign.LOCK).touch()
    (out / f"{FILE}.new").write_text('{"sch')
    untouched(out, "--resume", str(out))
    assert main(["reference", "--suite", str(toml(tmp_path, HEAD + PUSHED)), "--repeat", "1", "--out", str(out)]) == 0
    assert len(trials_of(out)) == 2
    assert not (out / f"{FILE}.new").exists()


def test_what_becomes_of_the_file_of_a_suite_does_not_matter_once_it_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder knows which experiments, seed and repeats it was begun with."""
    out, path = tmp_path / "out", toml(tmp_path, HEAD + PUSHED)
    names = [f"latency-{protocol}-at-most-once-1" for protocol in ("sse", "websocket")]
    with monkeypatch.context() as patch:
        fails(patch, *names)
        assert main(["reference", "--suite", str(path), "--repeat", "1", "--seed", "5", "--out", str(out)]) == 1
    about = json.loads((out / FILE).read_text())["suite"]
    path.write_text("title = ")
    assert resumed(out) == 0
    path.unlink()
    assert resumed(out) == 0
    assert trials_of(out) == {f"pushed/{name}" for name in names}
    assert json.loads((out / FILE).read_text())["suite"] == about
    assert (about["seed"], about["repeat"]) == (5, 1)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--seed", "3"], "seed"),
        (["--seed", "0"], "seed"),
        (["--repeat", "2"], "repeat"),
        (["--repeat", "0"], "repeat"),
        (["--quick"], "quick"),
        (["--suite", "small.toml"], "suite"),
        (["--out", "elsewhere"], "out"),
    ],
)
def test_what_was_said_when_a_suite_was_begun_is_not_said_again(
    out: Path, arguments: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    untouched(out, "--resume", str(out), *arguments)
    told = capsys.readouterr().err
    assert told == f"labkit: --{name} was said when '{out}' was begun; leave it out to go on.\n"
    assert not Path("elsewhere").exists()


def no_suite(out: Path) -> None:
    (out / FILE).unlink()


def of_another_schema(out: Path) -> None:
    change(out / FILE, lambda about: about.update(schema=SCHEMA + 1))


def cut_short(out: Path) -> None:
    (out / FILE).write_bytes((out / FILE).read_bytes()[:-40])


def with_a_field_too_many(out: Path) -> None:
    change(out / FILE, lambda about: about["suite"].update(colour="red"))


def with_a_field_too_few(out: Path) -> None:
    change(out / FILE, lambda about: about["suite"].pop("tables"))


def with_an_experiment_that_cannot_be(out: Path) -> None:
    change(out / FILE, lambda about: about["suite"]["tables"]["swept"].update(values=[]))


def with_a_run_of_another_schema(out: Path) -> None:
    change(out / "broken" / manifest.FILE, lambda about: about.update(schema=SCHEMA + 1))


def with_a_damaged_run(out: Path) -> None:
    (out / "broken" / manifest.FILE).write_text("")


def with_a_run_that_says_nothing_of_its_machine(out: Path) -> None:
    change(out / "broken" / manifest.FILE, lambda about: about.pop("machine"))


def with_a_run_of_another_machine(out: Path) -> None:
    change(out / "broken" / manifest.FILE, lambda about: about["machine"].update(cpu="Babbage 1"))


def with_a_run_of_another_version(out: Path) -> None:
    change(out / "broken" / manifest.FILE, lambda about: about["versions"].update(aiohttp="0.1"))


def with_another_workload(out: Path) -> None:
    change(out / "broken" / manifest.FILE, lambda about: about["workload"].update(rate=49))


def with_a_run_that_lost_its_manifest(out: Path) -> None:
    (out / "broken" / manifest.FILE).unlink()


def with_a_damaged_trial(out: Path) -> None:
    name = sorted(entries(out, "broken"))[0]
    change(out / "broken" / manifest.FILE, lambda about: about["trials"].pop(name))
    (out / "broken" / "trials" / name / "record.json").write_text("{")


def with_a_ledger_that_lacks_its_last_record(out: Path) -> None:
    ledger = next((out / "swept" / "trials").glob("*/consumer.ledger"))
    ledger.write_bytes(ledger.read_bytes()[: -RECORD.size])


def with_an_edited_spec(out: Path) -> None:
    change(next((out / "broken" / "trials").glob("*-sse-*/spec.json")), lambda spec: spec.update(protocol="webhook"))


def with_one_trial_in_the_place_of_another(out: Path) -> None:
    first, second = sorted((out / "broken" / "trials").iterdir())[:2]
    shutil.rmtree(second)
    shutil.copytree(first, second)


def with_a_trial_that_was_never_planned(out: Path) -> None:
    shutil.copytree(sorted((out / "broken" / "trials").iterdir())[0], out / "broken" / "trials" / "copy")


def with_changed_demonstrations(out: Path) -> None:
    tables = {"shown": {"kind": "demonstrations", "names": ["reach"]}}
    change(out / FILE, lambda about: about["suite"]["tables"].update(tables))
    (out / "shown").mkdir()
    (out / "shown" / demos.FILE).write_text("[1]")


DAMAGES: dict[Callable[[Path], None], str] = {
    no_suite: "is no suite's folder: it has no suite.json; give what `labkit reference` named.",
    of_another_schema: f"has schema {SCHEMA + 1}; this labkit reads {SCHEMA}: use its own version.",
    cut_short: "suite.json' is damaged (it is no JSON that can be read); restore it, or run the suite again.",
    with_a_field_too_many: "suite.json' is damaged",
    with_a_field_too_few: "suite.json' is damaged",
    with_an_experiment_that_cannot_be: "In the experiment 'swept': The values to sweep over are ()",
    with_a_run_of_another_schema: f"broken' has schema {SCHEMA + 1}; this labkit reads {SCHEMA}",
    with_a_damaged_run: "The manifest of",
    with_a_run_that_says_nothing_of_its_machine: "The manifest of",
    with_a_run_of_another_machine: "was begun with cpu Babbage 1 and would go on with",
    with_a_run_of_another_version: "was begun with aiohttp 0.1 and would go on with",
    with_another_workload: 'begun with another workload ({"rate": 49',
    with_a_run_that_lost_its_manifest: "broken' already holds something, which is kept as it is; restore its manifest",
    with_a_damaged_trial: "is damaged; restore it, or remove its folder.",
    with_a_ledger_that_lacks_its_last_record: "damaged (consumer.ledger is not as it was recorded); restore it, or",
    with_an_edited_spec: "is damaged (spec.json is not as it was recorded); restore it, or run it again. To have it",
    with_one_trial_in_the_place_of_another: "is damaged (what it holds is the trial ",
    with_a_trial_that_was_never_planned: "copy' is none of the trials that the run was begun with; take it away",
    with_changed_demonstrations: "are damaged or missing; run them again. To have them repeated, remove",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_cannot_go_on_is_one_sentence_before_anything_starts_and_stays_as_it_is(
    damage: Callable[[Path], None], out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "Walk", None)
    shutil.rmtree(out / "pushed")  # there would be something to do before what is wrong is come to
    damage(out)
    untouched(out, "--resume", str(out))
    told = capsys.readouterr().err
    assert told.startswith("labkit: ")
    assert told.count("\n") == 1
    assert DAMAGES[damage] in told


@pytest.mark.parametrize("what", ["swept", "nowhere", FILE, "empty"])
def test_what_is_no_suites_folder_is_one_sentence(out: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    (out / "empty").mkdir()
    untouched(out, "--resume", str(out / what))
    told = capsys.readouterr().err
    assert told == (
        f"labkit: '{out / what}' is no suite's folder: it has no suite.json; give what `labkit reference` named.\n"
    )


def test_a_folder_that_holds_something_is_refused_and_a_suites_says_how_to_go_on(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(toml(tmp_path))
    untouched(out, "--suite", path, "--out", str(out), folder=tmp_path)
    assert f"choose another folder, or go on with --resume {out}.\n" in capsys.readouterr().err
    untouched(out, "--suite", path, "--out", str(out / "swept"), folder=tmp_path)
    assert "swept' already holds something, which is kept as it is; choose another folder.\n" in capsys.readouterr().err
    untouched(out, "--suite", path, "--out", path, folder=tmp_path)
    assert "small.toml' already holds something" in capsys.readouterr().err
    untouched(out, "--suite", path, "--out", f"{path}/out", folder=tmp_path)
    assert "small.toml/out' cannot be made (Not a directory); choose another.\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--suite", "nowhere.toml"], "'nowhere.toml' cannot be read"),
        (["--repeat", "0"], "repeat is 0; it has to be a whole number from 1 to 100."),
        (["--repeat", "101"], "repeat is 101;"),
        (["--seed", "-1"], "seed is -1;"),
        (["--seed", "4294967296"], "seed is 4294967296;"),
    ],
)
def test_a_bad_suite_is_one_sentence_and_no_folder(
    tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reference", *arguments, "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_of_two_at_work_in_one_folder_the_second_is_told_and_ctrl_c_ends_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with Command("--suite", toml(tmp_path, HEAD + PUSHED), "--repeat", 4, "--out", out) as command:
        command.until(lambda: trials_of(out) and family(command.process.pid))
        assert resumed(out) == 2
        told = capsys.readouterr().err
        assert told == f"labkit: Another labkit is at work in '{out}'; wait for it, or stop it.\n"
        command.kill(signal.SIGINT)
        status, _, errors = command.ended()
    assert status == 130
    assert errors == [f"labkit: stopped; `labkit reference --resume {out}` goes on."]
    recorded = snapshot(out)
    assert recorded
    assert not list(out.glob("*/trials/.*"))
    (part,) = json.loads((out / FILE).read_text())["parts"]
    assert part["elsewhere_cpu_s"] is not None
    words = errors[0].partition("`labkit ")[2].partition("`")[0].split()
    assert main(words) == 0
    assert recorded.items() <= snapshot(out).items()
    assert len(trials_of(out)) == 8


def test_ctrl_c_before_there_is_anything_to_go_on_with_says_nothing_of_going_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(suite.Suite, "plans", interrupted)
    command = ["reference", "--suite", str(toml(tmp_path)), "--out", str(tmp_path / "out")]
    assert main(command) == 130
    assert capsys.readouterr().err == "\nlabkit: stopped.\n"


def test_a_suite_that_is_ended_leaves_no_process(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Command("--suite", toml(tmp_path), "--repeat", 2, "--out", out) as command:
        command.until(lambda: trials_of(out) and family(command.process.pid))
        command.kill(signal.SIGTERM)
    assert command.process.returncode == -signal.SIGTERM


def fails(monkeypatch: pytest.MonkeyPatch, *names: str) -> Counter[str]:
    """Has trials of these names fail; counts how often each trial is tried."""
    tried: Counter[str] = Counter()

    def run(walk: Walk) -> dict[str, Any]:
        tried[walk._trial.name] += 1
        if walk._trial.name in names:
            raise TrialError("The link stopped.")
        return walked(walk)

    walked = Walk.run
    monkeypatch.setattr(Walk, "run", run)
    return tried


def test_a_trial_that_fails_is_named_stops_no_other_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, name, other = tmp_path / "out", "latency-sse-at-most-once-1", "latency-websocket-at-most-once-1"
    with monkeypatch.context() as patch:
        tried = fails(patch, name)
        command = ["reference", "--suite", str(toml(tmp_path, HEAD + PUSHED)), "--repeat", "1", "--out", str(out)]
        assert main(command) == 1
        assert tried == {name: 1, other: 1}
        told = capsys.readouterr().err.splitlines()[-2:]
        assert told == [
            f"labkit: pushed/{name}: The link stopped.",
            f"labkit: `labkit reference --resume {out}` tries again what failed.",
        ]
        recorded = snapshot(out)
        assert trials_of(out) == {f"pushed/{other}"}
        assert resumed(out) == 1
        assert tried == {name: 2, other: 1}
        assert entries(out, "pushed")[name] == {"error": "The link stopped.", "failed": ["The link stopped."]}
    tried = fails(monkeypatch)
    assert resumed(out) == 0
    assert tried == {name: 1}
    entry = entries(out, "pushed")[name]
    assert set(entry) == {"digest", "seconds", "failed"}
    assert entry["failed"] == ["The link stopped."] * 2
    assert recorded.items() <= snapshot(out).items()
    assert Collection(out).errors == {}


TRIED = HEAD + PUSHED + '[experiment.tried]\nkind = "demonstrations"\nnames = ["half_open"]\n'


def test_demonstrations_come_once_and_one_that_fails_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, asked = tmp_path / "out", []

    def half_open() -> Iterator[demos.Fact]:
        asked.append("half_open")
        if len(asked) == 1:
            raise TrialError("No server answered.")
        yield demos.Fact("half_open", "websocket", "bytes", 1.0)

    monkeypatch.setitem(demos.DEMONSTRATIONS, "half_open", half_open)
    assert main(["reference", "--suite", str(toml(tmp_path, TRIED)), "--repeat", "2", "--out", str(out)]) == 1
    assert "labkit: tried: No server answered.\n" in capsys.readouterr().err
    assert len(trials_of(out)) == 4
    assert not (out / "tried").exists()
    assert resumed(out) == 0
    assert asked == ["half_open"] * 2
    assert json.loads((out / "tried" / demos.FILE).read_text())[0]["outcome"] == 1.0
    assert Collection(out).errors == {}
    assert resumed(out) == 0
    assert asked == ["half_open"] * 2


def test_demonstrations_that_were_under_way_when_all_was_killed_are_done_again(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(demos.DEMONSTRATIONS, "half_open", lambda: iter([demos.Fact("half_open", "sse", "x", 2.0)]))
    table = {"kind": "demonstrations", "names": ["half_open"], "quick": {}, "same": []}
    change(out / FILE, lambda about: about["suite"]["tables"].update(tried=table))
    (out / ".tried").mkdir()
    (out / ".tried" / demos.FILE).write_text("[{")
    assert resumed(out) == 0
    assert json.loads((out / "tried" / demos.FILE).read_text())[0]["outcome"] == 2.0
    assert not (out / ".tried").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB, for the test alone."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "labkit-test", str(place)]
    if shutil.which("mount") is None or (tried := subprocess.run(command, capture_output=True, text=True)).returncode:
        why = tried.stderr.strip() if shutil.which("mount") else "there is no mount"
        pytest.skip(f"no file system can be mounted here: {why}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, left: int) -> None:
    """Takes all room on a file system but so many bytes."""
    if (free := shutil.disk_usage(place).free - left) > 0:
        with (place / "filler").open("ab", buffering=0) as file:
            try:
                file.write(bytes(free))
            except OSError:
                pass  # somebody else took it


@contextmanager
def full(place: Path, left: int) -> Iterator[None]:
    """For as long as the block runs, whatever room comes free on a file system is taken at once."""
    over = threading.Event()

    def filling() -> None:
        while not over.is_set():
            fill(place, left)
            over.wait(0.002)

    thread = threading.Thread(target=filling)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        (place / "filler").unlink()


@pytest.mark.parametrize("left", [0, 1_000_000], ids=["for nothing", "for anything but a ledger"])
def test_a_disk_that_fills_up_ends_the_suite_and_with_room_it_goes_on(small_disk: Path, left: int) -> None:
    out = small_disk / "out"
    with Command("--suite", toml(small_disk), "--repeat", 2, "--out", out) as command:
        command.until(lambda: len(trials_of(out)) > 1)
        recorded = snapshot(out)
        with full(small_disk, left):
            status, _, errors = command.ended()
        ended(status, errors, out, recorded)
    assert len(trials_of(out)) < 2 * A_ROUND
    recorded = snapshot(out)
    assert resumed(out) == 0
    assert recorded.items() <= snapshot(out).items()
    assert len(trials_of(out)) == sum(len(run.recordings) for run in Collection(out).values()) == 2 * A_ROUND


def ended(status: int, errors: list[str], out: Path, recorded: Snapshot) -> None:
    """A suite that had no room on the disk said so once, and what it had recorded is there, to be read."""
    assert status == 1
    assert len(errors) == 1, errors
    assert errors[0].startswith("labkit: ")
    assert "No space left" in errors[0] or "File too large" in errors[0]
    assert "free some disk" in errors[0] or "make room" in errors[0]
    assert errors[0].endswith(f"`labkit reference --resume {out}` goes on.")
    assert recorded.items() <= snapshot(out).items()
    found = Collection(out)
    assert found.errors == {}
    assert {f"{name}/{each.trial.name}" for name, run in found.items() for each in run.recordings} <= trials_of(out)


def test_a_file_that_may_not_grow_ends_the_suite_and_when_it_may_it_goes_on(out: Path) -> None:
    """As on a disk that is full: no ledger has room. Wherever no file system can be mounted, this is tried."""
    shutil.rmtree(out / "swept")
    recorded = snapshot(out)
    with Command("--resume", out, limit=1_000_000) as command:
        status, _, errors = command.ended()
    assert errors[0].startswith("labkit: There is no room for the ledger ")
    ended(status, errors, out, recorded)
    assert resumed(out) == 0
    assert recorded.items() <= snapshot(out).items()
    assert len(trials_of(out)) == 2 * A_ROUND
