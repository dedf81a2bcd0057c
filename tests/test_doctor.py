"""The doctor on this machine: what it says of it, and what it leaves behind."""

import os
import signal
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import psutil
import pytest

from labkit import doctor
from labkit.cli import main
from labkit.findings import Finding, State

HERE = ["Python", "packages", "sockets", "proxy", "open files", "clock", "disk", "browser", "curl", "nats-server"]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that the doctor takes for the machine's temporary one."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def states(found: list[Finding]) -> dict[str, State]:
    return {finding.name: finding.state for finding in found}


def test_the_quick_look_at_this_machine_finds_it_ready_and_leaves_nothing(temporary, capsys):
    assert main(["doctor", "--quick"]) == 0
    *lines, _, verdict = capsys.readouterr().out.splitlines()
    named = [line[9:].split("  ")[0] for line in lines if not line.startswith(" ")]
    assert named == HERE
    assert verdict.startswith("This machine looks ready")
    assert list(temporary.iterdir()) == []


def test_a_trial_of_a_protocol_delivers_everything_and_leaves_nothing(temporary):
    (found,) = doctor._trials(["sse"])
    owed = doctor.LOAD.rate * doctor.LOAD.duration * doctor.LOAD.subscribers
    assert found.state is not State.FAULT
    assert found.found.startswith(f"{owed:,.0f} of {owed:,.0f} delivered, median ")
    assert list(temporary.iterdir()) == []


def test_a_trial_that_fails_is_a_fault_with_its_reason(temporary, monkeypatch):
    monkeypatch.setattr("labkit.station.START_LIMIT", 0.0)
    monkeypatch.setattr("labkit.station.ASK_LIMIT", 0.0)
    (found,) = doctor._trials(["sse"])
    assert (found.name, found.state, found.found) == ("sse", State.FAULT, "the trial failed")
    assert "did not answer within 0 s" in found.fix


def test_with_a_package_missing_nothing_is_started(temporary, monkeypatch):
    def version(name: str) -> str:
        if name == "websockets":
            raise PackageNotFoundError(name)
        return "999"

    monkeypatch.setattr(doctor, "version", version)
    found = list(doctor.examine())
    assert "websockets is missing" in next(f.found for f in found if f.name == "packages")
    assert found[-1] == Finding("protocols", State.WARNING, "not tried", "mend the packages first")
    assert "nats-server" not in states(found)


def test_a_lab_that_is_not_installed_is_told_how_to_be(monkeypatch):
    def missing(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", missing)
    found = next(iter(doctor.examine(quick=True)))
    assert (found.name, found.state) == ("packages", State.FAULT)
    assert "pip install -e ." in found.fix


def test_without_a_broker_the_exit_status_is_1_and_pubsub_is_not_tried(monkeypatch, closed_port, capsys):
    monkeypatch.setenv("LABKIT_NATS", f"nats://127.0.0.1:{closed_port}")
    tried: list[list[str]] = []
    monkeypatch.setattr(doctor, "_trials", lambda protocols: tried.append(protocols) or [])
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "fault    nats-server" in said
    assert "where LABKIT_NATS points" in said
    assert "not ready: mend the fault above" in said
    assert "pubsub" not in tried[0]
    assert "websocket" in tried[0]


def test_the_clock_of_this_machine_is_measured():
    step_ms, late_ms = doctor._clock()
    assert 0 < step_ms < 20
    assert 0 <= late_ms < 100


@pytest.mark.skipif(sys.platform == "win32", reason="a test cannot press Ctrl-C there")
def test_ctrl_c_in_the_middle_of_the_trials_leaves_no_process_and_no_folder(tmp_path, until):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "labkit", "doctor"]
    lab = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    # The whole set of nodes is up when the first ledger of a consumer is there.
    until(lambda: list(tmp_path.glob("labkit-*/run/trials/*/consumer.ledger")) or lab.poll() is not None)
    children = psutil.Process(lab.pid).children(recursive=True)
    assert children
    lab.send_signal(signal.SIGINT)
    said, errors = lab.communicate(timeout=30)
    assert lab.returncode == 130
    assert "labkit: stopped." in errors
    assert "Traceback" not in errors
    assert "This machine" not in said
    assert psutil.wait_procs(children, timeout=5)[1] == []
    assert list(tmp_path.iterdir()) == []
