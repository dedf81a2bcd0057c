import shutil
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from conftest import family, gone

from labkit import demos
from labkit.errors import UsageError
from labkit.protocols import PROTOCOLS


def outcomes(facts) -> dict[tuple[str, str], float]:
    return {(fact.protocol, fact.condition): fact.outcome for fact in facts}


@pytest.fixture(scope="module")
def reached() -> dict[tuple[str, str], float]:
    return outcomes(demos.reach())


def test_every_protocol_is_tried_behind_every_kind_of_proxy(reached) -> None:
    assert set(reached) == {(protocol, habit) for protocol in PROTOCOLS for habit in demos.HABITS}


def test_a_websocket_needs_a_proxy_that_knows_upgrade(reached) -> None:
    assert [reached["websocket", habit] for habit in demos.HABITS] == [1, 0, 1]


def test_a_stream_needs_a_proxy_that_does_not_hold_it_back(reached) -> None:
    assert [reached["sse", habit] for habit in demos.HABITS] == [1, 1, 0]


def test_whole_requests_and_answers_pass_everywhere(reached) -> None:
    whole = ("webhook", "resthooks", "polling", "longpolling")
    assert {reached[protocol, habit] for protocol in whole for habit in demos.HABITS} == {1}


def test_what_is_not_http_passes_no_http_proxy(reached) -> None:
    assert {reached["pubsub", habit] for habit in demos.HABITS} == {0}


def test_a_server_takes_a_delivery_that_verifies_if_it_has_a_handler_for_post() -> None:
    facts = list(demos.any_server())
    assert [(fact.outcome, fact.detail) for fact in facts] == [(1, ""), (1, ""), (0, "answered 501")]


KILLED = """
import sys
from labkit import demos
with demos._stock() as (url, _):
    print(url, flush=True)
    sys.stdin.read()
"""


def test_the_stock_server_does_not_outlive_a_lab_that_is_killed(until) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as lab:
        assert lab.stdout.readline().startswith(b"http://127.0.0.1:")
        (server,) = family(lab.pid)
        lab.kill()
    try:
        until(lambda: gone(server))
    finally:
        if not gone(server):
            server.kill()


def test_the_stock_server_ends_whatever_happens() -> None:
    urls = []

    def interrupted() -> None:
        with demos._stock() as (url, _):
            urls.append(url)
            with urlopen(url, timeout=demos.LIMIT) as answer:
                assert answer.status == 200
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(URLError, match="refused"):
        urlopen(urls[0], timeout=demos.LIMIT)


def test_a_delivery_that_was_changed_on_the_way_does_not_verify() -> None:
    with demos._plain_server() as (url, received), demos.launch("webhook") as server:
        secret = demos._endpoint(server.url, url)
        server.publish({"hello": "world"})
        headers, body = received()
    assert demos._verifies(secret, headers, body)
    assert not demos._verifies(secret, headers, body.replace(b"world", b"World"))


@pytest.mark.parametrize("serving", list(demos.SERVERS.values())[:2])
def test_a_delivery_that_never_comes_is_waited_for_in_bounds(serving, monkeypatch) -> None:
    monkeypatch.setattr(demos, "LIMIT", 0.05)
    with serving() as (_, received), pytest.raises(TimeoutError):
        received()


def test_connections_share_the_port_of_the_server_and_have_one_each_of_their_own() -> None:
    found = {condition: outcome for (_, condition), outcome in outcomes(demos.one_port()).items()}
    assert found == {"connections": demos.CROWD, "ports of the server": 1, "ports of the clients": demos.CROWD}


def test_a_peer_that_never_reads_swallows_bytes_that_were_sent_successfully() -> None:
    (fact,) = demos.half_open()
    assert fact.outcome > 10_000


def test_eventsource_sends_no_authorization_header_and_fetch_does() -> None:
    if not any(map(shutil.which, demos.CHROMES)):
        pytest.skip("no Chromium is installed, and it is the judge here")
    assert outcomes(demos.eventsource()) == {("sse", "EventSource"): 0, ("sse", "fetch"): 1}


def test_without_a_browser_there_is_no_row(monkeypatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert list(demos.eventsource()) == []


def test_what_was_found_is_saved_and_never_overwritten(tmp_path: Path) -> None:
    facts = demos.run(["half_open"])
    assert list(facts) == ["demonstration", "protocol", "condition", "outcome", "detail"]
    demos.save(facts, tmp_path)
    before = (tmp_path / demos.FILE).read_bytes()
    with pytest.raises(FileExistsError):
        demos.save(facts, tmp_path)
    assert (tmp_path / demos.FILE).read_bytes() == before


def test_there_has_to_be_such_a_demonstration() -> None:
    with pytest.raises(UsageError) as caught:
        demos.run(["magic"])
    assert str(caught.value).startswith("There is no demonstration 'magic'; choose from reach, any_server, ")


@pytest.mark.parametrize("name", [None, 3, [[]], []])
def test_what_is_no_name_is_no_demonstration(name) -> None:
    with pytest.raises(UsageError, match="There is no demonstration"):
        demos.run(name)


def test_one_demonstration_may_be_named_alone() -> None:
    assert set(demos.run("half_open").demonstration) == {"half_open"}


def test_a_demonstration_named_twice_is_carried_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fact = demos.Fact("reach", "sse", "buffers", 1.0)
    monkeypatch.setitem(demos.DEMONSTRATIONS, "reach", lambda: iter([fact]))
    assert len(demos.run(["reach", "reach"])) == 1


def test_a_proxy_for_the_world_outside_is_not_asked(monkeypatch, closed_port) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port}")
    with demos._plain_server() as (url, _), demos.launch("webhook") as server:
        assert demos._endpoint(server.url, url)
