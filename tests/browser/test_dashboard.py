"""The dashboard as its user meets it in JupyterLab: by labels, roles and alternative texts, with mouse and keyboard."""

import re
import time
from typing import Any

from browser.board import CHARTS, Board
from browser.lab import Lab
from browser.server import wait_until


def test_one_click_gives_three_charts_and_the_call_that_gives_them_again(lab: Lab, board: Board, report: Any) -> None:
    began = time.monotonic()
    board.button("Run").click()
    board.chart("Latency").wait_for()
    report(f"first chart after {time.monotonic() - began:.1f} s")
    board.says("^Done", limit=90)
    report(f"all charts after {time.monotonic() - began:.1f} s")
    for view in CHARTS:
        board.button(view).click()
        board.chart(view).wait_for()
        text = board.chart(view).get_attribute("alt")
        assert text.count("Server-Sent Events") >= 2  # with either guarantee
        lab.shot(f"dashboard-{view.lower()}")
    board.small()
    lab.cell(1).locator(".cm-content").click()
    board.page.keyboard.insert_text(board.field("In a cell").input_value() + "lab.charts.latency(run)")
    lab.run(1).get_by_alt_text(re.compile("^Latency: .*Server-Sent Events")).wait_for()


def test_cancel_takes_effect_at_once_and_keeps_what_is_done(lab: Lab, board: Board, report: Any) -> None:
    board.button("Run").click()
    board.says("^3 of 42 trials")
    nodes, ports = lab.server.nodes(), lab.server.ports()
    assert nodes
    began = time.monotonic()
    board.button("Cancel").click()
    board.says("^Cancelled; the [3-9] of 42 trials that were finished are kept")
    report(f"cancelled after {time.monotonic() - began:.2f} s")
    lab.wait_nothing_left(ports)
    report(f"nothing runs any more after {time.monotonic() - began:.2f} s")
    history = board.page.get_by_role("listbox", name="History")
    history.get_by_role("option", name=re.compile(r"\(\d trials\)")).wait_for()
    assert board.chart("Latency").is_visible()
    wait_until(board.button("Run").is_enabled)


WRONG = [("Rate", "0"), ("Rate", "many"), ("Size", "1"), ("Subscribers", "1.5"), ("Duration", "-1"), ("Poll every", "")]


def test_what_is_wrong_is_said_beside_its_control_and_nothing_starts(lab: Lab, board: Board) -> None:
    for name, value in WRONG:
        good = board.field(name).input_value()
        board.field(name).fill(value)
        alert = board.page.get_by_role("alert")
        alert.wait_for()
        assert alert.count() == 1
        field, words = board.field(name).bounding_box(), alert.bounding_box()
        assert field["x"] + field["width"] <= words["x"] <= field["x"] + field["width"] + 20
        assert abs(field["y"] - words["y"]) < 15
        assert board.button("Run").is_disabled()
        assert board.field("In a cell").input_value() == ""
        lab.shot(f"dashboard-wrong-{name.split()[0].lower()}")
        board.field(name).fill(good)
        alert.wait_for(state="detached")
        assert board.button("Run").is_enabled()
    for box in board.page.get_by_role("checkbox").all():
        box.uncheck()
    wait_until(lambda: board.page.get_by_role("alert").all_inner_texts() == ["⚠ Choose one at least."] * 2)
    assert board.button("Run").is_disabled()
    assert lab.server.nodes() == []


FOCUSED = """() => {
    const element = document.activeElement;
    return element.labels?.[0]?.innerText ?? element.innerText;
}"""


def tab_to(board: Board, name: str, key: str = "Tab") -> None:
    """Goes on by the keyboard until a control has the focus."""
    for _ in range(60):
        if board.page.evaluate(FOCUSED).strip() == name:
            return
        board.page.keyboard.press(key)
    raise AssertionError(f"{key} does not lead to {name}")


def test_the_keyboard_does_it_all(lab: Lab, board: Board) -> None:
    press, text = board.page.keyboard.press, board.page.keyboard.insert_text
    source = lab.cell(0).locator(".cm-content").inner_text()
    for name in ("WebSocket", "Webhook", "REST Hooks", "Pub-Sub", "Polling", "Long polling"):
        tab_to(board, name)
        press("Space")
        assert not board.box(name).is_checked()
    tab_to(board, "Duration")
    press("Control+a")
    text("0.2")
    tab_to(board, "Arrival")
    press("ArrowDown")
    wait_until(lambda: "duration=0.2, arrival='poisson'" in board.field("In a cell").input_value())
    tab_to(board, "Run")
    press("Enter")
    board.says("^Done")
    for view, key in (("Bandwidth", "Space"), ("Disconnect-loss", "Enter"), ("Latency", "Space")):
        tab_to(board, view, "Tab" if view != "Latency" else "Shift+Tab")
        press(key)
        board.chart(view).wait_for()
    tab_to(board, "Preset", "Shift+Tab")
    assert board.page.get_by_label("Preset").input_value() == "your own"
    for subscribers in ("10", "50"):
        press("ArrowDown")
        wait_until(lambda wanted=subscribers: board.field("Subscribers").input_value() == wanted)
    tab_to(board, "Run")
    press("Space")
    board.says("trials, about")
    tab_to(board, "Cancel")
    press("Enter")
    board.says("^Cancelled")
    wait_until(board.page.get_by_label("History").is_enabled)
    tab_to(board, "History")
    press("ArrowDown")
    tab_to(board, "Export")
    press("Enter")
    board.page.get_by_role("link", name=re.compile("^Download .*zip")).wait_for()
    assert lab.cell(0).locator(".cm-content").inner_text() == source
