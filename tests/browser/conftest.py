"""A JupyterLab, a Voila and a Chromium for all tests of this folder; each test has a page and a kernel of its own.

A machine without Playwright or a browser skips them. A screenshot of the page of a failed test is kept.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from browser.board import Board
from browser.lab import ERRORS, KEPT, Lab
from browser.server import Server

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SWITCHES = [
    *("--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP lab.test 127.0.0.1",
]
"""It looks for no host of its own, and has another name for this machine."""

JUPYTERLAB = ("jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0", "--expose-app-in-browser")


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed, and the page is to be seen in one")
    as_root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=[*SWITCHES, *as_root])
        yield chromium
        chromium.close()


@pytest.fixture(scope="package")
def jupyterlab(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("jupyterlab"), *JUPYTERLAB) as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Tells the page's fixture how its test went."""
    report = yield
    item.stash.setdefault(OUTCOMES, []).append(report.outcome)
    return report


OUTCOMES = pytest.StashKey[list[str]]()


@pytest.fixture
def page(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page without a past."""
    context = browser.new_context(viewport={"width": 1400, "height": 1400})
    page = context.new_page()
    yield page
    context.close()


@pytest.fixture
def lab(jupyterlab: Server, page: Any, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A page of JupyterLab, to open a notebook in."""
    lab = Lab(jupyterlab, page)
    yield lab
    if "failed" in request.node.stash[OUTCOMES]:
        lab.shot(f"failed-{request.node.name}")
    lab.close()


@pytest.fixture
def board(lab: Lab) -> Iterator[Board]:
    """The dashboard in the first cell of a notebook; a second cell is empty."""
    lab.open("import labkit as lab\nlab.dashboard()", "")
    lab.run(0)
    yield Board(lab.page)
    assert lab.page.locator(ERRORS).all_inner_texts() == []


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Tells what was measured, and keeps it beside the screenshots: how fast a machine is, is not asserted."""

    def say(words: str) -> None:
        KEPT.mkdir(parents=True, exist_ok=True)
        with capsys.disabled(), (KEPT / "measured.txt").open("a") as file:
            print(f"\n    {words}")
            print(words, file=file)

    return say
