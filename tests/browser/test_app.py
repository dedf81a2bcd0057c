"""The dashboard as an app: Voila shows it alone and runs it, asks nothing of the internet, and ends with its page."""

import re
import shutil
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from browser.board import Board
from browser.lab import shot
from browser.server import ROOT, Server, wait_until


@pytest.fixture
def voila(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("voila", reason="voila is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("voila")
    for part in ("labkit", "notebooks"):
        shutil.copytree(ROOT / part, folder / part)  # the runs of the dashboard lie beside its notebook
    with Server(folder, "labkit", "app", "--no-browser", f"--port={port}") as server:
        yield server


def test_the_app_runs_a_comparison_and_ends_with_its_page(voila: Server, page: Any) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(voila.url)
    board = Board(page)
    board.small()
    board.button("Run").click()
    board.chart("Latency").wait_for()
    board.says("^Done")
    shot(page, "app")
    assert page.get_by_role("heading").count() == 0, "a lesson is shown, too"
    assert [url for url in asked if not re.match(rf"data:|blob:|{voila.url}", url)] == []
    (kernel,) = voila.kernels()
    page.reload()
    board.button("Run").click()
    wait_until(voila.ports)
    assert not kernel.is_running()
    page.goto("about:blank")
    wait_until(lambda: not voila.kernels(), voila.log)
    wait_until(lambda: not voila.nodes())
