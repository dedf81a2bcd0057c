"""`launch`: what it prints works when pasted into another terminal."""

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from labkit.errors import TrialError, UsageError
from labkit.protocols import PROTOCOLS
from labkit.server import Command, launch

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="the commands to paste use curl")


@contextmanager
def pasted(command: Command, output: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The command, running in a shell of its own, its output in a file."""
    with output.open("wb") as file:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command.line}"], stdin=subprocess.PIPE, stdout=file, stderr=file
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        psutil.cpu_percent(interval=0.02)


def by_purpose(commands: list[Command]) -> dict[str, Command]:
    return {command.purpose: command for command in commands}


@needs_curl
@pytest.mark.parametrize("protocol", ["websocket", "sse", "pubsub"])
def test_a_pasted_subscriber_gets_what_a_pasted_publisher_sends(protocol: str, tmp_path: Path) -> None:
    with launch(protocol) as server:
        commands, output = by_purpose(server.commands), tmp_path / "subscriber"
        with pasted(commands["subscribe"], output) as subscriber:
            # Events published before the subscriber is there are not for it: publish until the first arrives.
            until(lambda: bool(server.publish("knock")) and b"knock" in output.read_bytes(), "no event came")
            subprocess.run(["bash", "-c", commands["publish"].line], check=True, capture_output=True)
            until(lambda: b'"hello":"world"' in output.read_bytes(), "the published event did not come")
            assert subscriber.poll() is None


@needs_curl
@pytest.mark.parametrize("protocol", ["webhook", "resthooks"])
def test_a_pasted_receiver_gets_what_a_pasted_publisher_sends(protocol: str, tmp_path: Path) -> None:
    with launch(protocol) as server:
        commands, output = by_purpose(server.commands), tmp_path / "receiver"
        with pasted(commands["receive"], output):
            port = int(commands["receive"].line.split("127.0.0.1',")[1].split(")")[0])
            until(lambda: reachable(port), "the receiver did not listen")
            done = subprocess.run(["bash", "-c", commands["subscribe"].line], check=True, capture_output=True)
            assert b"error" not in done.stdout
            subprocess.run(["bash", "-c", commands["publish"].line], check=True, capture_output=True)
            until(lambda: b'"hello":"world"' in output.read_bytes(), "the delivery did not come")


def reachable(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@needs_curl
@pytest.mark.parametrize("protocol", ["polling", "longpolling"])
def test_a_pasted_poll_is_answered_with_the_latest_event(protocol: str) -> None:
    with launch(protocol) as server:
        server.publish({"hello": "poll"})
        for command in server.commands[:-1]:
            if "after=" not in command.line:
                answer = subprocess.run(["bash", "-c", command.line], check=True, capture_output=True).stdout
                assert b"HTTP/1.1 200" in answer
                assert b'"hello":"poll"' in answer


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_closing_a_launched_server_leaves_no_process_and_no_port(protocol: str) -> None:
    mine = psutil.Process()
    with launch(protocol) as server:
        port = int(server.url.rsplit(":", 1)[1])
        assert reachable(port)
        children = mine.children(recursive=True)
    assert psutil.wait_procs(children, timeout=5)[1] == []
    assert not reachable(port)


def test_a_port_in_use_is_said_within_seconds() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for protocol in PROTOCOLS:
            with pytest.raises(TrialError, match=str(port)):
                launch(protocol, port)


def test_bad_arguments_are_refused_before_anything_starts() -> None:
    with pytest.raises(UsageError, match="'telegraph'"):
        launch("telegraph")
    with pytest.raises(UsageError, match="70000"):
        launch("sse", 70000)
    with pytest.raises(UsageError, match="rate is -1"):
        launch("sse", rate=-1)


def test_a_bad_topic_is_refused_and_the_server_goes_on() -> None:
    with launch("sse") as server:
        with pytest.raises(TrialError, match="topic is 'no spaces'"):
            server.publish({}, topic="no spaces")
        assert server.publish({}) == "00000000"


def test_the_command_ends_with_ctrl_c_and_leaves_nothing() -> None:
    lab = subprocess.Popen(
        [sys.executable, "-m", "labkit", "launch", "pubsub"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert lab.stdout is not None
    while "Ctrl-C" not in lab.stdout.readline():
        assert lab.poll() is None
    children = psutil.Process(lab.pid).children(recursive=True)
    assert any("nats" in child.name() for child in children)
    lab.send_signal(signal.SIGINT)
    _, errors = lab.communicate(timeout=20)
    assert lab.returncode == 130
    assert "Traceback" not in errors
    assert psutil.wait_procs(children, timeout=5)[1] == []
