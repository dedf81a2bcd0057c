"""A dashboard that is in use for long: it answers while it runs, does not grow, and goes without a trace."""

from statistics import median
from typing import TYPE_CHECKING, Any

import pytest

from browser.board import Board
from browser.lab import Lab
from browser.server import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import CDPSession

CLICK = """async ([from, to]) => {
    const picture = document.querySelector(`img[alt^="${from}: "]`);
    const button = [...document.querySelectorAll("button")].find((found) => found.textContent.trim() === to);
    const began = performance.now();
    button.click();
    while (picture.alt.startsWith(`${from}: `)) await new Promise(requestAnimationFrame);
    const took = performance.now() - began;
    button.parentElement.querySelector("button").click();
    while (!picture.alt.startsWith(`${from}: `)) await new Promise(requestAnimationFrame);
    return took;
}"""
"""Milliseconds from a click on a view until the kernel has changed the picture; then goes back to the first view."""


def test_a_click_is_handled_while_a_comparison_runs(board: Board, report: Any) -> None:
    board.button("Run").click()
    board.chart("Latency").wait_for()
    took = sorted(board.page.evaluate(CLICK, ["Latency", "Bandwidth"]) for _ in range(30))
    assert board.button("Cancel").is_enabled(), "the comparison was over too early"
    board.button("Cancel").click()
    board.says("^Cancelled")
    report(
        f"a click is handled within {median(took):.0f} ms (median), {took[-4]:.0f} ms (90 %), {took[-1]:.0f} ms (all)"
    )
    assert median(took) < 1000


def weigh(lab: Lab, devtools: "CDPSession") -> dict[str, float]:
    """Nodes and megabytes of the page after its garbage was collected, and megabytes of the kernel."""
    devtools.send("HeapProfiler.collectGarbage")
    return {
        "nodes of the page": devtools.send("Memory.getDOMCounters")["nodes"],
        "MB of the page": devtools.send("Runtime.getHeapUsage")["usedSize"] / 1e6,
        "MB of the kernel": lab.kernel.memory_info().rss / 1e6,
    }


@pytest.mark.timeout(600)
def test_twenty_runs_grow_neither_the_page_nor_the_kernel(lab: Lab, board: Board, report: Any) -> None:
    devtools = board.page.context.new_cdp_session(board.page)
    board.small()
    history = board.page.get_by_role("listbox", name="History").get_by_role("option")
    weights, before = [], history.count()
    for number in range(1, 21):
        board.button("Run").click()
        wait_until(lambda number=number: history.count() == before + number, limit=90)
        board.says("^Done")
        weights.append(weigh(lab, devtools))
    grown = {}
    for name in weights[0]:
        # What the kernel holds goes up and down by some megabytes from run to run.
        early, late = (median(weight[name] for weight in some) for some in (weights[1:4], weights[-3:]))
        report(f"{name}: {early:,.1f} after 3 runs, {late:,.1f} after 20")
        grown[name] = late / early
    assert {name: ratio for name, ratio in grown.items() if ratio > 1.1} == {}


class TestNothingIsLeft:
    """A comparison is on when the page or the kernel goes."""

    @pytest.fixture
    def ports(self, lab: Lab, board: Board) -> set[int]:
        board.small(duration=2.5)
        board.button("Run").click()
        wait_until(lab.server.ports)
        return lab.server.ports()

    def test_when_the_kernel_restarts(self, lab: Lab, board: Board, ports: set[int]) -> None:
        lab.restart_kernel()
        lab.wait_nothing_left(ports)

    def test_when_the_page_is_loaded_again(self, lab: Lab, board: Board, ports: set[int]) -> None:
        lab.save()
        lab.reload()
        board.says("^Done")  # the kernel went on, and the page shows how it ended
        board.chart("Latency").wait_for()
        lab.wait_nothing_left(ports)
