"""The command line as a user meets it: real processes, exit statuses, files on disk."""

import csv
import errno
import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError

import psutil
import pytest
from nbconvert.preprocessors import TagRemovePreprocessor
from nbformat.v4 import new_code_cell, new_notebook

from labkit.cli import main
from labkit.outage import OUTAGES
from labkit.protocols import PROTOCOLS
from labkit.trial import Guarantee

SMALL = ["--rate", "100", "--subscribers", "3", "--duration", "0.6"]
HEADERS = {
    "latency": "protocol,guarantee,trial,subscribers,deliveries,p50_ms,p90_ms,p99_ms,max_ms,lateness_p99_ms,saturated",
    "bandwidth": (
        "protocol,guarantee,trial,deliveries,payload_bytes,setup_up,setup_down,load_up,load_down,"
        "idle_up_per_s,idle_down_per_s,overhead_per_delivery"
    ),
    "loss": (
        "protocol,guarantee,outage,trial,owed,delivered,lost,rejected,gap_seen,silent,duplicated,"
        "reordered,unexpected,corrupt,noticed_ms,recovered_ms,verdict,"
        "noticed_producer_ms,noticed_consumer_ms,unexplained,overflowed"
    ),
}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One comparison of everything, made through the command line."""
    out = tmp_path_factory.mktemp("compare") / "run"
    assert main(["compare", *SMALL, "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("measure", HEADERS)
def test_compare_writes_each_table_with_the_columns_of_the_contract(run: Path, measure: str) -> None:
    path = run / f"{measure}.csv"
    assert path.read_text().split("\n")[0] == HEADERS[measure]
    pairs = {(row["protocol"], row["guarantee"]) for row in rows(path)}
    assert pairs == {(protocol, g) for protocol in PROTOCOLS for g in ("at-most-once", "at-least-once")}


def test_every_delivery_is_accounted_for_and_recovery_recovers(run: Path) -> None:
    for row in rows(run / "loss.csv"):
        assert int(row["owed"]) == int(row["delivered"]) + int(row["lost"])
        assert int(row["lost"]) == int(row["rejected"]) + int(row["gap_seen"]) + int(row["silent"])
        assert row["unexpected"] == row["corrupt"] == "0"
        if row["guarantee"] == "at-least-once":
            assert (row["lost"], row["verdict"]) == ("0", "complete"), row
        elif row["protocol"] in ("websocket", "sse", "pubsub"):
            assert int(row["lost"]) > 0, row


def test_the_manifest_says_what_was_offered_and_that_all_were_offered_the_same(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["workload"]["rate"] == 100
    assert {entry["digest"] for entry in manifest["trials"].values()} == {manifest["digest"]}
    assert len(manifest["trials"]) == 42


def test_charts_redraws_the_same_files_and_touches_nothing_else(run: Path, tmp_path: Path) -> None:
    before = hashes(run)
    assert main(["charts", str(run), "--out", str(tmp_path)]) == 0
    assert hashes(run) == before
    assert hashes(tmp_path) == {name.split("/")[1]: h for name, h in before.items() if name.startswith("charts/")}
    assert hashes(tmp_path).keys() >= {f"{measure}.{suffix}" for measure in HEADERS for suffix in ("png", "svg")}


def test_a_run_folder_that_holds_something_is_refused_and_kept(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = hashes(run)
    assert main(["compare", *SMALL, "--out", str(run)]) == 2
    assert "already holds something" in capsys.readouterr().err
    assert hashes(run) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate", "0"], ["rate is 0.0", "0.1", "1,000,000"]),
        (["--rate", "nan"], ["rate is nan"]),
        (["--size", "20"], ["size is 20", "envelope"]),
        (["--subscribers", "0"], ["subscribers is 0", "5,000"]),
        (["--protocol", "carrier-pigeon"], ["'carrier-pigeon'", "websocket"]),
        (["--guarantee", "exactly-once"], ["'exactly-once'", "at-least-once"]),
        (["--outage", "earthquake"], ["'earthquake'", "reset"]),
        (["--arrival", "sometimes"], ["'sometimes'", "poisson"]),
        (["--repeat", "0"], ["repeat is 0", "100"]),
        (["--trace", "nowhere.jsonl"], ["'nowhere.jsonl'", "does not exist"]),
        (["--speed", "60"], ["--speed", "--trace"]),
        (["--outage", "All"], ["'All'", "broker-crash, all, or none"]),
        (["--outage", ""], ["''", "reset"]),
        (["--outage", "broker-crash", "--protocol", "websocket"], ["websocket has no broker", "pubsub only"]),
        (["--outage", "broker-crash"], ["websocket has no broker", "pubsub only"]),
        (["--delay", "-1"], ["delay is -0.001", "from 0 to 10 s"]),
        (["--delay", "10001"], ["delay is 10.001", "from 0 to 10 s"]),
        (["--delay", "nan"], ["delay is nan", "from 0 to 10 s"]),
        (["--jitter", "-5"], ["jitter is -0.005", "from 0 to 10 s"]),
        (["--jitter", "inf"], ["jitter is inf", "from 0 to 10 s"]),
        (["--bandwidth", "-1"], ["bandwidth is -1000.0", "at least 1000 bytes/s", "0 for no limit"]),
        (["--bandwidth", "0.5"], ["bandwidth is 500.0", "at least 1000 bytes/s"]),
        (["--bandwidth", "nan"], ["bandwidth is nan", "at least 1000 bytes/s"]),
    ],
)
def test_bad_input_is_one_sentence_before_anything_starts(
    arguments: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *arguments, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("labkit: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--delay", "--jitter", "--bandwidth"])
@pytest.mark.parametrize("value", ["fast", "", "1,5"])
def test_a_condition_that_is_no_number_is_bad_usage(option: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["compare", option, value, "--out", str(tmp_path / "run")])
    assert caught.value.code == 2
    assert not (tmp_path / "run").exists()


def test_a_broker_that_is_the_users_own_is_not_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LABKIT_NATS", "nats://127.0.0.1:4222")
    out = tmp_path / "run"
    assert main(["compare", "--protocol", "pubsub", "--outage", "broker-crash", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "LABKIT_NATS points to, which is not the lab's; unset LABKIT_NATS" in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_all_outages_are_run_with_all_guarantees_and_each_protocol_meets_those_it_can(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--protocol", "sse", "--rate", "50", "--subscribers", "2", "--duration", "0.6"]
    assert main(["compare", *options, "--outage", "all", "--out", str(out)]) == 0
    found = rows(out / "loss.csv")
    kinds = [kind for kind in OUTAGES if kind != "broker-crash"]
    assert [(row["outage"], row["guarantee"]) for row in found] == [(k, g) for k in kinds for g in Guarantee]
    for row in found:
        assert int(row["owed"]) == int(row["delivered"]) + int(row["lost"])


def test_the_links_conditions_are_milliseconds_and_kilobytes_and_every_trial_is_under_them(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--protocol", "websocket", "--guarantee", "at-least-once", *SMALL]
    conditions = ["--delay", "40", "--jitter", "2.5", "--bandwidth", "500"]
    assert main(["compare", *options, *conditions, "--out", str(out)]) == 0
    expected = {"delay": 0.04, "jitter": 0.0025, "bandwidth": 500_000.0}
    assert json.loads((out / "manifest.json").read_text())["conditions"] == expected
    specs = [json.loads(path.read_text()) for path in out.glob("trials/*/spec.json")]
    assert [spec["conditions"] for spec in specs] == [expected] * 3
    (latency,) = rows(out / "latency.csv")
    assert float(latency["p50_ms"]) >= 40


def test_a_trace_does_not_go_with_a_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.csv"
    log.write_text("time,type\n0,a\n1,b\n")
    assert main(["compare", "--trace", str(log), "--rate", "5"]) == 2
    assert "--rate 5.0 does not go with --trace" in capsys.readouterr().err


def test_a_trace_with_a_missing_column_names_the_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.csv"
    log.write_text("when,type\n0,a\n")
    assert main(["compare", "--trace", str(log), "--out", str(tmp_path / "run")]) == 2
    assert "no column 'time' (found: when, type)" in capsys.readouterr().err


def test_charts_of_what_is_no_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["charts", str(tmp_path)]) == 2
    assert "no manifest.json" in capsys.readouterr().err


def test_a_repository_s_history_reaches_every_subscriber_of_every_protocol(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository, log, out = tmp_path / "repository", tmp_path / "pushes.jsonl", tmp_path / "run"
    git = ["git", "-C", str(repository), "-c", "user.name=Ada Lovelace", "-c", "user.email=ada@example.org"]
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    for number in range(30):
        (repository / "notes.txt").write_text(f"line {number}\n")
        subprocess.run([*git, "add", "."], check=True)
        when = {"GIT_AUTHOR_DATE": f"{1_700_000_000 + number * 60} +0000"}
        when["GIT_COMMITTER_DATE"] = when["GIT_AUTHOR_DATE"]
        subprocess.run([*git, "commit", "-qm", f"Change {number}"], check=True, env={**when, "PATH": "/usr/bin:/bin"})
    assert main(["trace", "git", str(repository), "--out", str(log)]) == 0
    assert "Ada" not in log.read_text()
    assert "ada@" not in log.read_text()
    speed = str(29 * 60 / 0.8)
    assert main(["compare", "--trace", str(log), "--speed", speed, "--subscribers", "2", "--out", str(out)]) == 0
    for row in rows(out / "loss.csv"):
        if row["guarantee"] == "at-least-once":
            assert (row["owed"], row["delivered"]) == ("60", "60"), row
    for row in rows(out / "latency.csv"):
        if (row["protocol"], row["guarantee"]) != ("polling", "at-most-once"):
            assert int(row["deliveries"]) >= 58 if row["protocol"] == "longpolling" else row["deliveries"] == "60", row


SWEEP = ["--rate", "60", "--subscribers", "2", "--duration", "0.3", "--protocol", "sse", "longpolling"]


def test_a_sweep_writes_one_table_and_one_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    options = ["--over", "subscribers", "--values", "1,3", *SWEEP[:2], *SWEEP[4:], "--repeat", "2"]
    assert main(["sweep", *options, "--out", str(out)]) == 0
    found = rows(out / "sweep.csv")
    expected = [(p, h, str(r)) for p in ("sse", "longpolling") for h in ("1", "3") for r in (1, 2)]
    assert [(row["protocol"], row["subscribers"], row["trial"]) for row in found] == expected
    for row in found:
        assert (row["guarantee"], row["measure"], row["deliveries"]) == ("at-most-once", "cost", row["deliveries"])
        assert float(row["bytes_per_delivery"]) > 256
        assert float(row["cpu_us_per_delivery"]) > 0
    files = ["charts", "intervals.csv", "manifest.json", "sweep.csv", "trials"]
    assert sorted(path.name for path in out.iterdir()) == files
    assert sorted(path.name for path in (out / "charts").iterdir()) == ["sweep.png", "sweep.svg"]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["sweep"] == {"over": "subscribers", "values": [1.0, 3.0]}
    assert manifest["argv"][:5] == ["sweep", "--over", "subscribers", "--values", "1,3"]
    printed = capsys.readouterr().out
    assert "cpu_us_per_delivery" in printed
    assert f"Charts: {out / 'charts'}" in printed
    before = hashes(out)
    assert main(["charts", str(out), "--out", str(tmp_path / "again")]) == 0
    assert hashes(tmp_path / "again") == {n.split("/")[1]: h for n, h in before.items() if n.startswith("charts/")}
    assert hashes(out) == before


def test_a_sweep_over_the_interval_is_of_polling_with_a_cursor(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(["sweep", "--over", "interval", "--values", "0.05,0.2", *SWEEP[:6], "--out", str(out)]) == 0
    found = rows(out / "sweep.csv")
    assert [row["protocol"] for row in found] == ["polling", "polling", "longpolling", "longpolling"]
    assert {row["guarantee"] for row in found} == {"at-least-once"}
    assert {row["deliveries"] for row in found} == {str(18 * 2)}
    often, seldom = (float(row["requests_per_event"]) for row in found[:2])
    assert often > 2 * seldom
    assert float(found[1]["p50_ms"]) > 2 * float(found[0]["p50_ms"])


def test_a_sweep_over_the_rate_measures_time_directly(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--over", "rate", "--values", "50,100", "--guarantee", "at-least-once", *SWEEP[2:6]]
    assert main(["sweep", *options, "--protocol", "sse", "--out", str(out)]) == 0
    found = rows(out / "sweep.csv")
    assert [(row["rate"], row["measure"], row["events"]) for row in found] == [
        ("50.0", "latency", "15"),
        ("100.0", "latency", "30"),
    ]
    assert [row["bytes_per_delivery"] for row in found] == ["", ""]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--values", "fast"], ["--values 'fast' is no list of numbers", "1,10,100"]),
        (["--values", "1,,2"], ["--values '1,,2' is no list of numbers"]),
        (["--values", ""], ["--values '' is no list of numbers"]),
        (["--values", "50,50"], ["(50.0, 50.0)", "1 to 20 different numbers"]),
        (["--values", ",".join(map(str, range(1, 22)))], ["1 to 20 different numbers"]),
        (["--values", "0"], ["rate is 0.0", "0.1", "1,000,000"]),
        (["--values", "50,nan"], ["rate is nan"]),
        (["--values", "50", "--over", "seed"], ["no sweep over 'seed'", "rate, topics, subscribers, size, interval"]),
        (["--values", "50", "--rate", "7"], ["--rate 7.0 is what is swept over; leave it out"]),
        (["--values", "2", "--over", "interval"], ["An interval of 2 s is longer than the load of 1 s"]),
        (["--values", "-5,10"], ["rate is -5.0"]),
        (["--values", "0.1", "--over", "interval", "--protocol", "websocket"], ["The interval is polling's"]),
        (["--values", "1.5", "--over", "topics"], ["topics is 1.5", "a whole number"]),
        (["--values", "20", "--over", "size"], ["size is 20", "envelope"]),
        (["--values", "50", "--protocol", "carrier-pigeon"], ["'carrier-pigeon'", "websocket"]),
        (["--values", "50", "--guarantee", "exactly-once"], ["'exactly-once'", "at-least-once"]),
        (["--values", "50", "--repeat", "0"], ["repeat is 0", "100"]),
    ],
)
def test_a_bad_sweep_is_one_sentence_before_anything_starts(
    arguments: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    over = [] if "--over" in arguments else ["--over", "rate"]
    assert main(["sweep", *over, *arguments, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("labkit: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arguments", [["--values", "1,2"], ["--over", "rate"]])
def test_a_sweep_needs_a_parameter_and_values(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["sweep", *arguments, "--out", str(tmp_path / "run")])
    assert caught.value.code == 2
    assert not (tmp_path / "run").exists()


def test_duplex_is_measured_and_drawn_besides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    options = ["--duplex", "--outage", "none", "--guarantee", "at-least-once", *SWEEP]
    assert main(["compare", *options, "--out", str(out)]) == 0
    found = rows(out / "duplex.csv")
    assert ",".join(found[0]) == (
        "protocol,guarantee,trial,subscribers,requests,answered,p50_ms,p90_ms,p99_ms,max_ms,lateness_p99_ms,saturated,"
        "connections,load_up,load_down,bytes_per_answer"
    )
    for row in found:
        assert (row["subscribers"], row["requests"], row["answered"], row["connections"]) == ("2", "18", "18", "4")
    assert {path.stem for path in (out / "charts").iterdir()} == {"latency", "bandwidth", "loss", "duplex"}
    assert {path.name for path in out.glob("*.csv")} == {f"{n}.csv" for n in ("latency", "bandwidth", "loss", "duplex")}
    assert "\nDUPLEX\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--subscribers", "1001"], ["1,001 subscribers are too many for a duplex run", "at most 1,000"]),
        (["--subscribers", "1000", "--size", "109"], ["size is 109", "envelope"]),
    ],
)
def test_what_no_duplex_run_can_be_is_one_sentence(
    arguments: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--duplex", *arguments, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for word in words:
        assert word in error
    assert not (tmp_path / "run").exists()


def test_a_trace_has_no_duplex_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.csv"
    log.write_text("time,type\n0,a\n1,b\n")
    assert main(["compare", "--duplex", "--trace", str(log), "--out", str(tmp_path / "run")]) == 2
    assert "A trace has no requests; leave --trace out" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_ctrl_c_keeps_the_finished_trials_and_leaves_no_process(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "labkit", "compare", "--protocol", "sse", "pubsub", "--out", str(out)]
    lab = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finished = out / "trials" / "latency-sse-at-most-once-1"
    deadline = time.monotonic() + 30
    while not finished.exists() and lab.poll() is None and time.monotonic() < deadline:
        psutil.wait_procs([psutil.Process(lab.pid)], timeout=0.05)
    children = psutil.Process(lab.pid).children(recursive=True)
    assert children
    lab.send_signal(signal.SIGINT)
    _, errors = lab.communicate(timeout=30)
    assert lab.returncode == 130
    assert "the finished trials are in" in errors
    assert "Traceback" not in errors
    assert psutil.wait_procs(children, timeout=5)[1] == []
    assert rows(out / "latency.csv")[0]["protocol"] == "sse"
    assert not [path for path in (out / "trials").iterdir() if path.name.startswith(".")]


def test_importing_labkit_loads_none_of_the_heavy_libraries() -> None:
    heavy = ["pandas", "matplotlib", "numpy", "aiohttp", "websockets", "nats", "uvloop", "IPython"]
    code = f"import sys, labkit; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; make room, or choose"),
        (PermissionError(errno.EACCES, "Permission denied", "/run"), "Permission denied '/run'; make room, or choose"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "Connection refused."),
        (URLError(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")), "Connection refused."),
        (OSError(errno.EMFILE, "Too many open files", "/run"), "Too many open files '/run'."),
        (URLError("no host given"), "no host given."),
    ],
)
def test_only_trouble_with_the_disk_is_told_to_make_room(
    error: OSError, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(quick: bool) -> None:
        raise error

    monkeypatch.setattr("labkit.doctor.examine", fail)
    assert main(["doctor"]) == 1
    assert capsys.readouterr().err.startswith(f"labkit: {said}")


def test_the_app_says_what_installs_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("labkit.cli.find_spec", lambda name: None)
    assert main(["app", "--no-browser"]) == 2
    assert capsys.readouterr().err == "labkit: Voila is not installed; pip install 'labkit[app]' installs it.\n"


@pytest.mark.skipif(sys.platform == "win32", reason="no process takes another's place there")
def test_a_server_of_notebooks_ends_with_the_process_that_was_started() -> None:
    command = [sys.executable, "-m", "labkit", "lab", "--no-browser", "--port=0", "--allow-root"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout is not None
        said = next(line for line in server.stdout if "is running at" in line or "rror" in line)
        assert "is running at" in said
        assert "jupyterlab" in psutil.Process(server.pid).cmdline()
        server.terminate()
        server.stdout.read()
    assert not psutil.pid_exists(server.pid)


def test_the_app_leaves_out_what_is_a_lesson(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the settings it gives to Voila, as Voila itself reads them."""
    voila = pytest.importorskip("voila.app", reason="voila is not installed")
    commands: list[list[str]] = []
    monkeypatch.setattr("labkit.cli._become", lambda command, more: commands.append(command) or 0)
    assert main(["app", "--no-browser"]) == 0
    (command,) = commands
    app = voila.Voila()
    app.parse_command_line(command[1:])
    cells = [new_code_cell("lesson", metadata={"tags": ["lesson"]}), new_code_cell("dashboard")]
    left, _ = TagRemovePreprocessor(config=app.config).preprocess(new_notebook(cells=cells), {})
    assert [cell.source for cell in left.cells] == ["dashboard"]
