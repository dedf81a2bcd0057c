"""The manifest: what a run says of itself, and with what it goes on. No trial is run here."""

import getpass
import json
import os
import platform
import re
import socket
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_charts import LOAD, spec, write_run

from labkit import charts, manifest, provenance, report, widgets
from labkit.differences import compare_runs
from labkit.errors import UsageError
from labkit.outage import Conditions, Outage
from labkit.plan import Plan, Sweep
from labkit.results import Run
from labkit.trial import COMPARED, SCHEMA, Measure, Timings
from labkit.workload import Workload, digest

WORKLOAD = Workload(rate=100, duration=0.6, subscribers=3, seed=7)
PLAN = Plan(WORKLOAD, ("sse",), outages=(Outage("reset", at=0.2, lasts=0.1),))
DIGEST = digest(WORKLOAD.schedule())
MACHINE = {"cpu", "cores", "memory_gib", "system", "loop", "clock", "clock_resolution_ns", "commit", "dirty"}


def made(plan: Plan = PLAN, argv: list[str] | None = None) -> dict[str, Any]:
    return manifest.made(plan, DIGEST, argv or [])


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """The folder of a run that was begun, and has one trial."""
    about = made()
    about["trials"]["latency-sse-at-most-once-1"] = {"digest": DIGEST, "seconds": 1.0}
    manifest.write(tmp_path, about)
    finished(tmp_path, "latency-sse-at-most-once-1")
    return tmp_path


def finished(folder: Path, name: str, record: str | None = None) -> None:
    """A finished trial's folder, as far as a manifest asks for it."""
    (folder / "trials" / name).mkdir(parents=True)
    text = json.dumps({"digest": DIGEST, "seconds": 0.5}) if record is None else record
    (folder / "trials" / name / "record.json").write_text(text)


def changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Has a manifest say something else."""
    about = manifest.read(folder)
    change(about)
    manifest.write(folder, about)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_manifest_says_what_was_asked_for_and_on_what_machine() -> None:
    about = made()
    assert about["schema"] == SCHEMA
    assert about["seed"] == 7
    assert Workload(**about["workload"]) == WORKLOAD
    assert about["digest"] == DIGEST
    assert Timings(**about["timings"]) == Timings()
    assert about["planned"] == len(PLAN.trials()) == 6
    assert (about["parts"], about["trials"]) == ([], {})
    assert "sweep" not in about
    assert set(about["versions"]) == {"python", *provenance.PACKAGES}
    assert about["versions"]["python"] == platform.python_version()
    assert set(about["machine"]) == MACHINE
    assert about["machine"]["system"] == f"{platform.system()} {platform.release()}"
    assert about["machine"]["cores"] == os.cpu_count()
    assert about["machine"]["memory_gib"] > 0
    assert about["machine"]["clock_resolution_ns"] >= 1
    assert None not in (about["machine"]["cpu"], about["machine"]["clock"], about["machine"]["loop"])


def test_a_sweep_is_part_of_what_was_asked_for() -> None:
    about = made(Plan(WORKLOAD, ("sse",), sweep=Sweep("rate", (50, 100))))
    assert about["sweep"] == {"over": "rate", "values": (50.0, 100.0)}


def test_the_commit_is_that_of_the_checkout_and_dirty_says_whether_it_was_changed(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In a checkout that the test makes, with a copy of the module that asks."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    (tmp_path / "labkit").mkdir()
    copy = tmp_path / "labkit" / "provenance.py"
    copy.write_bytes(Path(provenance.__file__).read_bytes())
    ask = "import json, provenance; print(json.dumps(provenance._commit()))"

    def told(**more: str) -> dict[str, Any]:
        command, place = [sys.executable, "-B", "-c", ask], {"PYTHONPATH": str(copy.parent), **more}
        return dict(json.loads(subprocess.run(command, env=os.environ | place, capture_output=True, check=True).stdout))

    assert told() == {"commit": None, "dirty": None}
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert told() == {"commit": head, "dirty": False}
    other = tmp_path_factory.mktemp("other")  # as where a hook of another repository runs the lab
    subprocess.run([*git, "init", "-q", str(other)], check=True)
    for name, place in (("GIT_DIR", ".git"), ("GIT_WORK_TREE", "."), ("GIT_INDEX_FILE", ".git/index")):
        assert told(**{name: str(other / place)}) == {"commit": head, "dirty": False}
    (tmp_path / "new.py").write_text("")
    assert told() == {"commit": head, "dirty": True}


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("compare", "compare"),
        ("--rate", "--rate"),
        ("--values=-5,10", "--values=-5,10"),
        ("runs/today", "runs/today"),
        ("/home/someone/x", "x"),
        ("/home/someone/x/", "x"),
        ("/", "."),
        ("--out=/home/someone/x", "--out=x"),
        ("--trace=/home/someone/my log.jsonl", "--trace=my log.jsonl"),
        ("--out=", "--out="),
        ("--out=runs/a=/b", "--out=runs/a=/b"),
        ("../../home/someone/x", "x"),
        ("--out=../someone/x", "--out=x"),
        ("~/x", "x"),
        ("--out=~someone/x", "--out=x"),
        ("..", ".."),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="the paths are POSIX's")
def test_of_a_path_through_somebodys_folders_its_last_part_alone_is_kept(word: str, said: str) -> None:
    assert manifest.nameless(word) == said
    assert made(argv=["reference", word])["argv"] == ["reference", said]


def test_neither_the_machine_nor_its_user_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the names could come from, planted ones stand, which are nobody's word for anything else."""
    host, user = "planted-host", "planted-user"
    system = os.uname()
    named = os.uname_result((system.sysname, host, system.release, system.version, system.machine))
    monkeypatch.setattr(os, "uname", lambda: named)
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    monkeypatch.setattr(platform, "_uname_cache", None)
    for variable in ("USER", "LOGNAME", "USERNAME", "LNAME"):
        monkeypatch.setenv(variable, user)
    monkeypatch.setenv("HOSTNAME", host)
    assert (platform.node(), getpass.getuser()) == (host, user)
    text = json.dumps(made(argv=["compare", f"--out=/home/{user}/runs/x", "--trace", f"/net/{host}/log.jsonl"]))
    assert host not in text
    assert user not in text


def test_nor_are_the_real_ones() -> None:
    """A user called as an ordinary word of the manifest, "linux" or "seed", would be no leak."""
    about = made(argv=["compare", f"--out={Path.home() / 'runs'}"])
    words = set(re.findall(r"[\w.-]+", json.dumps(about)))
    ordinary = {*re.findall(r"[\w.-]+", json.dumps([*about, about["workload"], about["versions"]]))}
    assert not {socket.gethostname(), getpass.getuser()} & words - ordinary


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    about = made(Plan(WORKLOAD, ("sse",), sweep=Sweep("rate", (50, 100)), conditions=Conditions(delay=0.1)))
    manifest.write(tmp_path, about)
    assert manifest.read(tmp_path) == json.loads(json.dumps(about))
    assert [path.name for path in tmp_path.iterdir()] == [manifest.FILE]


def test_a_run_goes_on_with_what_it_was_begun_with_and_nothing_is_written_by_asking(begun: Path) -> None:
    before = files(begun)
    assert manifest.resumed(begun, made()) == manifest.read(begun)
    assert files(begun) == before


OTHERS = {
    "workload": (replace(PLAN, workload=replace(WORKLOAD, rate=50)), ['"rate": 100', '"rate": 50']),
    "outages": (replace(PLAN, outages=(Outage("close", at=0.2, lasts=0.1),)), ['"reset"', '"close"']),
    "conditions": (replace(PLAN, conditions=Conditions(delay=0.25)), ['"delay": 0.0', '"delay": 0.25']),
    "timings": (replace(PLAN, timings=Timings(heartbeat=0.3)), ['"heartbeat": 1.0', '"heartbeat": 0.3']),
    "planned": (replace(PLAN, repeat=2), ["(6)", "(12)"]),
    "sweep": (replace(PLAN, sweep=Sweep("rate", (50,))), ["(null)", '{"over": "rate", "values": [50.0]}']),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_run_does_not_go_on_with_another_plan_and_says_both(begun: Path, name: str) -> None:
    plan, words = OTHERS[name]
    before = files(begun)
    with pytest.raises(UsageError) as caught:
        manifest.resumed(begun, made(plan))
    told = str(caught.value)
    assert f"was begun with another {name} (" in told
    assert told.endswith("finish it as it was begun, or begin another run.")
    for word in words:
        assert word in told
    assert files(begun) == before


def test_a_run_does_not_go_on_with_another_trace_of_the_same_name(begun: Path) -> None:
    with pytest.raises(UsageError, match=rf'begun with another digest \("{DIGEST}"\) than .* \("0000"\)'):
        manifest.resumed(begun, manifest.made(PLAN, "0000", []))


def test_what_is_long_is_shortened(begun: Path) -> None:
    outages = tuple(Outage("reset", at=0.2, lasts=0.1 + number / 1000) for number in range(20))
    with pytest.raises(UsageError) as caught:
        manifest.resumed(begun, made(replace(PLAN, outages=outages)))
    assert len(str(caught.value)) < len(str(begun)) + 500


@pytest.mark.parametrize("kind", ["versions", "machine"])
@pytest.mark.parametrize("was", ["something else", None])
def test_a_run_goes_on_neither_with_other_packages_nor_on_another_machine(
    begun: Path, kind: str, was: str | None
) -> None:
    now, old = made(), manifest.read(begun)
    names = {name for name, value in now[kind].items() if value != was} - {"commit", "dirty", "memory_gib"}
    assert len(names) >= 5
    for name in names - {"cores"}:
        manifest.write(begun, old | {kind: old[kind] | {name: was}})
        with pytest.raises(UsageError) as caught:
            manifest.resumed(begun, now)
        assert f"was begun with {name} {was} and would go on with {now[kind][name]}, which is not" in str(caught.value)


def test_the_commit_and_the_free_memory_may_change_between_two_parts(begun: Path) -> None:
    other = {"commit": "0" * 40, "dirty": None, "memory_gib": 0.5}
    changed(begun, lambda about: about["machine"].update(other))
    assert other.items() <= manifest.resumed(begun, made())["machine"].items()


def test_a_trial_with_its_folder_and_no_entry_gets_the_entry(begun: Path) -> None:
    finished(begun, "bandwidth-sse-at-most-once-1")
    finished(begun, ".loss-sse-at-most-once-reset-1")
    found = manifest.resumed(begun, made())["trials"]
    assert found == {
        "latency-sse-at-most-once-1": {"digest": DIGEST, "seconds": 1.0},
        "bandwidth-sse-at-most-once-1": {"digest": DIGEST, "seconds": 0.5},
    }


def test_a_trial_that_failed_and_then_did_not_keeps_how_it_failed(begun: Path) -> None:
    name = "bandwidth-sse-at-most-once-1"
    finished(begun, name)
    changed(begun, lambda about: about["trials"].update({name: {"error": "Second.", "failed": ["First."]}}))
    found = manifest.resumed(begun, made())["trials"][name]
    assert found == {"digest": DIGEST, "seconds": 0.5, "failed": ["First.", "Second."]}


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"digest": "x"}', '{"digest": "x", "seconds": null}'])
def test_a_trial_without_an_entry_and_with_a_damaged_record_is_named(begun: Path, record: str) -> None:
    finished(begun, "bandwidth-sse-at-most-once-1", record)
    before = files(begun)
    with pytest.raises(UsageError, match=r"The trial bandwidth-sse-at-most-once-1 of the run .* is damaged"):
        manifest.resumed(begun, made())
    assert files(begun) == before


def test_a_run_does_not_go_on_with_another_number_of_cores(begun: Path) -> None:
    now = made()
    changed(begun, lambda about: about["machine"].update(cores=99))
    with pytest.raises(UsageError, match=rf"was begun with cores 99 and would go on with {now['machine']['cores']},"):
        manifest.resumed(begun, now)


@pytest.mark.parametrize("name", ["versions", "machine", "parts"])
def test_a_manifest_that_does_not_say_where_it_comes_from_is_damaged(begun: Path, name: str) -> None:
    changed(begun, lambda about: about.pop(name))
    before = files(begun)
    with pytest.raises(UsageError, match=rf"manifest of .* is damaged \(it lacks {name}\); restore it"):
        manifest.resumed(begun, made())
    assert files(begun) == before


PART = {"seconds": 1.0, "elsewhere_cpu_s": None}
DAMAGED: dict[str, tuple[dict[str, Any], str]] = {
    "no parts": ({"parts": None}, "parts is None"),
    "a part": ({"parts": [PART, 1]}, "parts[1] is 1"),
    "a part's time": ({"parts": [{"elsewhere_cpu_s": 1.0}]}, "parts[0] lacks seconds"),
    "a part's share": ({"parts": [{"seconds": 1.0}]}, "parts[0] lacks elsewhere_cpu_s"),
    "a part's long time": ({"parts": [PART | {"seconds": 10**400}]}, "parts[0].seconds is 1000000"),
    "a part's commit": ({"parts": [PART | {"commit": 5}]}, "parts[0].commit is 5"),
    "a part's load": ({"parts": [PART | {"load_before": 5}]}, "parts[0].load_before is 5"),
    "a machine without cores": ({"parts": [PART], "machine": {}}, "it has parts, and its machine lacks cores"),
    "outages": ({"outages": None}, "outages is None"),
    "an outage": ({"outages": [{"at": 1.0}]}, "outages[0] lacks kind"),
    "an outage's kind": ({"outages": [{"kind": ["reset"]}]}, "outages[0].kind is ['reset']"),
    "a machine": ({"machine": "mine"}, "machine is 'mine'"),
    "cores": ({"machine": {"cores": "two"}}, "machine.cores is 'two'"),
    "a commit": ({"machine": {"commit": 5}}, "machine.commit is 5"),
    "versions": ({"versions": ["3.11"]}, "versions is ['3.11']"),
    "a workload": ({"workload": None}, "workload is None"),
    "a rate": ({"workload": {**WORKLOAD.to_json(), "rate": "high"}}, "workload.rate is 'high'"),
    "a workload's own": ({"workload": {**WORKLOAD.to_json(), "arrival": [[]]}}, "workload['arrival'] is [[]]"),
    "conditions": ({"conditions": []}, "conditions is []"),
    "timings": ({"timings": 5}, "timings is 5"),
    "a digest": ({"digest": 5}, "digest is 5"),
    "a sweep": ({"sweep": {"over": "moon"}}, "sweep.over is 'moon'"),
    "a sweep's values": ({"sweep": {"over": "rate", "values": 5}}, "sweep.values is 5"),
    "planned": ({"planned": "ten"}, "planned is 'ten'"),
    "a command": ({"argv": [5]}, "argv[0] is 5"),
    "trials": ({"trials": None}, "trials is None"),
    "a trial": ({"trials": {"a": []}}, "trials['a'] is []"),
    "an error": ({"trials": {"a": {"error": None}}}, "trials['a'].error is None"),
    "errors": ({"trials": {"a": {"failed": "Twice."}}}, "trials['a'].failed is 'Twice.'"),
    "an end": ({"finished": "yesterday"}, "finished is 'yesterday'"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_what_is_wrong_with_a_damaged_manifest_is_said(begun: Path, damage: str) -> None:
    about, wrong = DAMAGED[damage]
    manifest.write(begun, made() | about)
    before = files(begun)
    for read in (manifest.read, lambda folder: manifest.resumed(folder, made())):
        with pytest.raises(UsageError) as caught:
            read(begun)
        assert str(caught.value).startswith(f"The manifest of {str(begun)!r} is damaged ({wrong}")
        assert str(caught.value).endswith("); restore it, or run the comparison again.")
    assert files(begun) == before


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with a trial of each measure, as those of its first part left it."""
    folder = tmp_path_factory.mktemp("recorded")
    run = write_run(folder, {spec(measure, "sse"): {} for measure in COMPARED}, {"latency-sse-durable-1": "It broke."})
    about = json.loads(json.dumps(made(replace(PLAN, workload=LOAD))))
    part = manifest.Part(about).so_far() | {"load_before": [0.5, 0.5, 0.5], "load_after": [1.0, 0.5, 0.5]}
    ends = {"parts": [part, part | {"elsewhere_cpu_s": 9.0}], "finished": part["finished"]}
    manifest.write(folder, about | ends | {"trials": run.manifest["trials"]})
    return folder


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of every value in a manifest the way to it; the manifest itself is one."""
    yield at
    for key, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(each, (*at, key))


def put(value: Any, at: tuple[Any, ...], other: Any) -> Any:
    """The same with another value there."""
    if not at:
        return other
    inner = dict(value) if isinstance(value, dict) else list(value)
    inner[at[0]] = put(value[at[0]], at[1:], other)
    return inner


OTHER = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.just(10**400) | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=3,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_one_value_is_replaced_by_the_run_can_be_used_or_is_refused(recorded: Path, data: Any) -> None:
    """By all that reads a manifest: a report, without its charts; a comparison; the dashboard's history; going on."""
    text = (recorded / manifest.FILE).read_text()
    about = json.loads(text)
    other = put(about, data.draw(st.sampled_from(list(places(about)))), data.draw(OTHER))
    said = []
    with TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "drawings", lambda *_, **__: {})
        (Path(place) / "trials").symlink_to(recorded / "trials")
        (Path(place) / manifest.FILE).write_text(json.dumps(other))
        for use in (
            lambda run: report.page(run.folder),
            lambda run: [str(each) for each in (compare_runs(run, recorded), compare_runs(recorded, run))],
            lambda run: widgets._label(run),
            lambda run: manifest.resumed(run.folder, about),
        ):
            try:
                use(Run(Path(place)))
            except UsageError as error:
                said.append(str(error))
    assert [sentence for sentence in said if not sentence.endswith(".") or "\n" in sentence] == []


@pytest.mark.parametrize("schema", [1, None, [[]]])
def test_of_another_schema_nothing_else_is_expected(tmp_path: Path, schema: Any) -> None:
    manifest.write(tmp_path, {"schema": schema, "trials": 5})
    with pytest.raises(UsageError, match=rf"has schema {re.escape(repr(schema))}; this labkit reads {SCHEMA}: use"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("text", ['{"schema": 2, "trials": %s', "%s"])
def test_a_manifest_that_is_nested_too_deeply_is_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / manifest.FILE).write_text(text % ("[" * 100_000))
    with pytest.raises(UsageError, match=r"is damaged \(it is no JSON that can be read\); restore it"):
        manifest.read(tmp_path)


def test_what_an_older_manifest_lacks_is_no_damage(tmp_path: Path) -> None:
    for lacking in made():
        if lacking not in ("schema", "trials"):
            about = {name: value for name, value in made().items() if name != lacking}
            manifest.write(tmp_path, about)
            assert manifest.read(tmp_path) == json.loads(json.dumps(about))
    manifest.write(tmp_path, {"schema": SCHEMA, "trials": {}})
    assert manifest.read(tmp_path) == {"schema": SCHEMA, "trials": {}}


def test_an_entry_keeps_every_way_in_which_its_trial_failed() -> None:
    trials: dict[str, Any] = {}
    for entry in ({"error": "One."}, {"error": "Two."}, {"digest": "x"}):
        trials["a"] = manifest.entered(trials, "a", dict(entry))
    assert trials == {"a": {"digest": "x", "failed": ["One.", "Two."]}}


@pytest.mark.parametrize(
    ("home", "said"),
    [
        ("/home/ann", "No room for ~/runs/a.log, and /home/annabel/b is full."),
        ("/", "No room for /home/ann/runs/a.log, and /home/annabel/b is full."),
    ],
)
def test_an_entry_that_quotes_a_path_does_not_say_whose_home_it_is_in(
    monkeypatch: pytest.MonkeyPatch, home: str, said: str
) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda _: home)
    error = "No room for /home/ann/runs/a.log, and /home/annabel/b is full."
    assert manifest.entered({}, "a", {"error": error}) == {"error": said}


Times = namedtuple("Times", "user nice system idle iowait irq softirq steal guest guest_nice")
IDLE = Times(100.0, 0.0, 50.0, 1000.0, 10.0, 0.0, 1.0, 0.0, 0.0, 0.0)
OWN = os.times_result((5.0, 1.0, 20.0, 4.0, 10_000.0))


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, Any]]]:
    """A part during which so much CPU was used, by the machine in all and by this process with its ended children."""

    def part(every: Times, mine: os.times_result) -> dict[str, Any]:
        monkeypatch.setattr(psutil, "cpu_times", lambda: IDLE)
        monkeypatch.setattr(os, "times", lambda: OWN)
        begun = manifest.Part({"machine": {"commit": "c", "dirty": False}})
        monkeypatch.setattr(psutil, "cpu_times", lambda: every)
        monkeypatch.setattr(os, "times", lambda: mine)
        return begun.ended()

    yield part
    monkeypatch.undo()


def later(times: tuple[float, ...], seconds: tuple[float, ...]) -> list[float]:
    return [before + more for before, more in zip_longest(times, seconds, fillvalue=0.0)]


@pytest.mark.skipif(sys.platform == "win32", reason="it does not count what ended children used")
@pytest.mark.parametrize(
    ("every", "mine", "elsewhere"),
    [
        ((0.5,), (), 0.5),  # a program that is none of ours
        ((0.25, 0.5, 0.125, 0, 0, 0.0625, 0.0625), (), 1.0),  # whatever it is used for
        ((0.5, 0, 0.25), (0.5, 0.25), 0.0),  # this process
        ((0.5, 0, 0.25), (0, 0, 0.5, 0.25), 0.0),  # its children that have ended
        ((2.0, 0, 1.0), (0.5, 0.25, 0.5, 0.25), 1.5),
        ((0, 0, 0, 30.0, 5.0), (), 0.0),  # nobody
        ((0, 0, 0, 0, 0, 0, 0, 0.5), (), 0.5),  # what the host of a virtual machine took from it
        ((0.5, 0, 0, 0, 0, 0, 0, 0, 0.5), (), 0.5),  # a guest's time is the user's already
        ((0.5,), (0.51,), 0.0),  # a tick of the one clock before the other
    ],
)
def test_what_other_programs_used_is_what_the_machine_used_without_this_one_and_its_children(
    used: Callable[..., dict[str, Any]], every: tuple[float, ...], mine: tuple[float, ...], elsewhere: float
) -> None:
    told = used(Times(*later(IDLE, every)), os.times_result(later(OWN, mine)))
    assert told["elsewhere_cpu_s"] == pytest.approx(elsewhere)


BURN = "import time\nwhile time.process_time() < 0.5: pass"
HELPER = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {BURN!r}], check=True)
print("burnt", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it does not count what ended children used")
def test_a_program_that_is_at_work_beside_a_run_shows() -> None:
    """The burning is done by a child of a process that is not over yet when the part is, so it is nobody's of us."""
    part = manifest.Part({"machine": {"commit": None, "dirty": None}})
    with subprocess.Popen([sys.executable, "-c", HELPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as helper:
        assert helper.stdout is not None
        assert helper.stdout.readline() == b"burnt\n"
        told = part.ended()
        helper.communicate()
    assert told["elsewhere_cpu_s"] >= 0.4
    assert told["seconds"] >= 0.4


def test_a_part_says_when_it_was_at_which_commit_and_beside_which_load(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = iter([(0.5, 0.25, 0.125), (2.0, 1.0, 0.333), (3.0, 1.5, 0.5)])
    monkeypatch.setattr(os, "getloadavg", lambda: next(loads), raising=False)
    part = manifest.Part({"machine": {"commit": "c", "dirty": True, "cpu": "x"}})
    so_far, ended = part.so_far(), part.ended()
    fields = ["started", "commit", "dirty", "load_before", "finished", "seconds", "load_after", "elsewhere_cpu_s"]
    assert list(so_far) == list(ended) == fields
    assert (ended["commit"], ended["dirty"]) == ("c", True)
    assert ended["load_before"] == so_far["load_before"] == [0.5, 0.25, 0.12]
    assert (so_far["load_after"], ended["load_after"]) == ([2.0, 1.0, 0.33], [3.0, 1.5, 0.5])
    times = [datetime.fromisoformat(each) for each in (ended["started"], so_far["finished"], ended["finished"])]
    assert sorted(times) == times
    assert all(time.tzinfo for time in times)


def test_of_a_part_that_lasts_nobody_can_tell_what_others_used() -> None:
    """Its own child processes are still at work, and none of what they use is counted before they end."""
    assert manifest.Part({"machine": {"commit": None, "dirty": None}}).so_far()["elsewhere_cpu_s"] is None


def test_where_ended_children_are_not_counted_nobody_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "name", "nt")
    part = manifest.Part({"machine": {"commit": None, "dirty": None}})
    told = part.ended()
    monkeypatch.undo()
    assert told["elsewhere_cpu_s"] is None


def test_a_system_without_a_load_average_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "getloadavg", raising=False)
    assert manifest.load_average() is None


def test_a_manifest_counts_its_trials_as_the_plan_does() -> None:
    plan = replace(PLAN, measures=(Measure.LATENCY,), repeat=3)
    assert made(plan)["planned"] == 2 * 3
