import signal
import sys
import tempfile
import threading

import psutil
import pytest

from labkit import station
from labkit.errors import TrialError
from labkit.station import Node


@pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be stopped there")
def test_each_answer_has_the_limit_of_its_own_command(tmp_path, monkeypatch):
    monkeypatch.setattr(station, "ASK_LIMIT", 0.1)
    monkeypatch.setattr(station, "LIMITS", {"connect": 0.3})
    node = Node("link", tmp_path / "link.log", threading.Event())
    try:
        with pytest.raises(TrialError, match="there is no command 'dance'"):
            node.ask("dance")
        psutil.Process(node.pid).send_signal(signal.SIGSTOP)
        node.tell("connect")
        node.tell("status")
        for limit in ("0.3", "0.1"):
            with pytest.raises(TrialError, match=f"The link did not answer within {limit} s"):
                node.answer()
    finally:
        psutil.Process(node.pid).send_signal(signal.SIGCONT)
        node.close()


def test_a_broker_that_is_killed_at_once_leaves_no_server_and_no_store(tmp_path, monkeypatch):
    store = tmp_path / "store"
    store.mkdir()
    monkeypatch.setenv("TMPDIR", str(store))
    monkeypatch.setattr(tempfile, "tempdir", None)
    stop = threading.Event()
    node = Node("broker", tmp_path / "broker.log", stop)
    node.ask("open")
    assert list(store.iterdir())
    started = psutil.Process(node.pid).children(recursive=True)
    assert started
    stop.set()
    node.close()
    assert psutil.wait_procs(started, timeout=5)[1] == []
    assert list(store.iterdir()) == []
