"""The smallest clients: each receives from a live server, and costs what is said of it."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest

from labkit.clients import Client, effort, measured, path, source
from labkit.errors import UsageError
from labkit.protocols import PROTOCOLS
from labkit.server import free_port, launch

LONGEST = 25
"""Lines of code that a lesson may have."""

LISTENING = [name for name, row in PROTOCOLS.items() if row.consumer_serves]

ANY_PROGRAM = '''"""What it is.

Usage: none.
"""
# a comment

import json, os.path  # the standard library
from nats.aio import client
import aiohttp

text = """one
two"""
'''


def listens(client: Client) -> bool:
    connections = psutil.Process(client.pid).net_connections("tcp")
    return any(one.status == psutil.CONN_LISTEN for one in connections)


def hear(client: Client, publish: Callable[[], str], wanted: int) -> list[dict[str, Any]]:
    """Publishes until the client prints an event, then `wanted` more; returns what it prints of those."""
    knocks = set()
    while (first := client.event(0.1)) is None:
        assert not client.ended, client.trouble()
        knocks.add(publish())
    assert first["id"] in knocks
    ids, heard = [publish() for _ in range(wanted)], []
    while len(heard) < wanted:
        event = client.event(10)
        assert event is not None, client.trouble()
        if event["id"] in ids:
            heard.append(event)
    return heard


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_prints_what_is_published_and_ends_when_told(protocol: str) -> None:
    with launch(protocol) as server, Client(protocol, server.url) as client:
        heard = hear(client, lambda: server.publish({"hello": protocol}), 2)
        assert [event["data"] for event in heard] == [{"hello": protocol}] * 2
        assert heard[0]["id"] < heard[1]["id"]
        assert listens(client) == effort(protocol).listens
        client.close()
        assert client.ended
        assert not psutil.pid_exists(client.pid)


def test_one_runs_by_its_module_too() -> None:
    with launch("polling") as server:
        server.publish("first")
        command = [sys.executable, "-m", "labkit.clients.polling", server.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout is not None
            assert '"data":"first"' in client.stdout.readline()
            client.terminate()
        assert client.returncode


@pytest.mark.parametrize("protocol", LISTENING)
def test_a_forged_delivery_is_refused_and_not_printed(protocol: str) -> None:
    port = free_port()
    with launch(protocol) as server, Client(protocol, server.url, port=port) as client:
        hear(client, lambda: server.publish("genuine"), 1)
        forged = Request(f"http://127.0.0.1:{port}/", b'{"id": "forged"}', {"webhook-id": "forged"})
        with pytest.raises(HTTPError, match="401") as refusal:
            urlopen(forged)
        refusal.value.close()
        last = server.publish("genuine")
        while (event := client.event(10)) is not None and event["id"] != last:
            assert event["id"] != "forged"
        assert event is not None


def test_the_secret_of_a_hook_cannot_be_replaced_by_another_handshake() -> None:
    port = free_port()
    with launch("resthooks") as server, Client("resthooks", server.url, port=port) as client:
        hear(client, lambda: server.publish("genuine"), 1)
        with pytest.raises(HTTPError, match="401") as refusal:
            urlopen(Request(f"http://127.0.0.1:{port}/", b"", {"X-Hook-Secret": "whsec_AAAA"}))
        refusal.value.close()
        assert hear(client, lambda: server.publish("still genuine"), 1)


@pytest.mark.parametrize("protocol", [name for name, row in PROTOCOLS.items() if not row.brokered])
def test_without_a_server_it_ends_and_says_why(protocol: str, closed_port: int, until: Callable[..., None]) -> None:
    scheme = "ws" if protocol == "websocket" else "http"
    with Client(protocol, f"{scheme}://127.0.0.1:{closed_port}") as client:
        until(lambda: client.ended)
        assert client.event(0) is None
        assert "refused" in client.trouble() or "Cannot connect" in client.trouble()


def test_a_client_dies_with_the_process_that_started_it(until: Callable[..., None]) -> None:
    with launch("longpolling") as server:
        code = (
            f"from labkit.clients import Client; print(Client('longpolling', {server.url!r}).pid, flush=True); input()"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            assert psutil.pid_exists(pid)
            parent.kill()
        until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_it_is_short_and_uses_nothing_of_the_lab(protocol: str) -> None:
    found = effort(protocol)
    assert 0 < found.lines <= LONGEST
    assert "labkit" not in found.packages
    assert path(protocol).read_text().isascii()


def test_effort_is_counted_from_the_program() -> None:
    assert measured(ANY_PROGRAM) == (5, ("aiohttp", "nats"), False)
    assert measured("import asyncio\nasyncio.start_server(print, 'host', 0)\n") == (2, (), True)
    assert measured("x = 1\n'not about it'\n").lines == 2
    assert measured("") == (0, (), False)


def test_a_notebook_shows_the_program_as_code() -> None:
    assert source("sse").data == f"```python\n{path('sse').read_text()}```"


def test_an_unknown_protocol_has_no_client() -> None:
    for ask in (effort, source, lambda name: Client(name, "http://127.0.0.1:1")):
        with pytest.raises(UsageError, match="'telegraph'"):
            ask("telegraph")


@pytest.mark.parametrize("url", [None, 3, "", "here"])
def test_a_client_needs_the_url_of_a_server(url) -> None:
    with pytest.raises(UsageError, match=r"a client needs its URL, as launch\('sse'\).url is one"):
        Client("sse", url)


def test_what_has_no_hash_is_no_protocol_either() -> None:
    with pytest.raises(UsageError, match="There is no protocol"):
        effort(["sse"])
