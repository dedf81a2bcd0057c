"""A JupyterLab in a real browser, driven as a user drives it: by menus, keys and what is to be seen."""

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from browser.server import LIMIT, Server, listening, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

KEPT = Path(os.environ.get("LABKIT_TEST_OUTPUT", Path(__file__).parents[2] / "test-output"))
"""The folder of the screenshots."""

IDLE = """() => {
    const session = window.jupyterapp?.shell.currentWidget?.sessionContext;
    const kernel = session?.session?.kernel;
    return session?.isReady && kernel?.connectionStatus === "connected" && kernel.status === "idle";
}"""
"""What the page itself knows; what it shows says idle before it has asked."""

ERRORS = "[data-mime-type='application/vnd.jupyter.error'], [data-mime-type='application/vnd.jupyter.stderr']"
DONE = re.compile(r"\[\d+\]:")


class Lab:
    """One page of JupyterLab with one notebook. Numbers of cells count from 0."""

    def __init__(self, server: Server, page: "Page") -> None:
        self.server, self.page = server, page
        self.troubles: list[str] = []
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("dialog", lambda dialog: dialog.accept())  # a changed notebook asks whether to leave it

    def open(self, *cells: str) -> None:
        """Opens a new notebook with these code cells; returns once its kernel is ready."""
        made = [
            {"cell_type": "code", "id": f"c{n}", "metadata": {}, "source": cell, "outputs": [], "execution_count": None}
            for n, cell in enumerate(cells)
        ]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        path = self.server.folder / "test.ipynb"
        path.write_text(json.dumps({"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
        self.visit(path.name)

    def visit(self, path: str) -> None:
        """Opens a notebook of the folder; returns once its kernel is ready."""
        base, _, token = self.server.url.partition("?")
        self.page.goto(f"{base}/tree/{path}?{token}&reset")
        self.wait_idle()

    def wait_idle(self, limit: float = LIMIT) -> None:
        """Returns once the kernel is idle and no cell waits for it."""
        self.page.wait_for_function(IDLE, timeout=limit * 1000)
        waiting = self.page.locator(".jp-InputPrompt", has_text="[*]")
        wait_until(lambda: waiting.count() == 0, waiting.count, limit)

    def cell(self, number: int) -> "Locator":
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(number)

    def start(self, number: int) -> None:
        """Runs a cell by its keys, and does not wait."""
        prompt = self.cell(number).locator(".jp-InputPrompt")
        prompt.evaluate("prompt => prompt.textContent = ''")  # the count of the run before it
        prompt.click()
        self.page.keyboard.press("Control+Enter")

    def run(self, number: int, limit: float = LIMIT) -> "Locator":
        """Runs a cell and returns it once it is done; fails with what it printed as an error."""
        self.start(number)
        cell = self.cell(number)
        cell.locator(".jp-InputPrompt", has_text=DONE).wait_for(timeout=limit * 1000)
        assert cell.locator(ERRORS).all_inner_texts() == []
        return cell

    def save(self) -> None:
        """By its keys; returns once it is saved."""
        path = self.server.folder / "test.ipynb"
        old = path.stat().st_mtime_ns
        self.page.keyboard.press("Control+s")
        wait_until(lambda: path.stat().st_mtime_ns > old)

    def restart_kernel(self) -> None:
        """By the menu; returns once another kernel is there."""
        old = self.kernel
        self.page.get_by_role("menuitem", name="Kernel", exact=True).click()
        self.page.get_by_role("menuitem", name=re.compile("Restart Kernel…")).click()
        self.page.get_by_role("dialog").get_by_role("button", name="Confirm Kernel Restart").click()
        wait_until(lambda: not old.is_running() and self.server.kernels(), self.server.log)
        self.wait_idle()

    def reload(self) -> None:
        """By the browser's own button; returns once the notebook is back."""
        self.page.reload()
        self.wait_idle()

    @property
    def kernel(self) -> psutil.Process:
        """The process of the notebook's kernel, the only one there is."""
        (kernel,) = self.server.kernels()
        return kernel

    def wait_nothing_left(self, ports: set[int]) -> None:
        """Returns once nothing runs that a kernel started, and nobody listens on these ports."""
        wait_until(lambda: not self.server.nodes(), lambda: [node.cmdline() for node in self.server.nodes()])
        wait_until(lambda: not ports & listening(), lambda: ports & listening())

    def close(self) -> None:
        """Ends the page and its kernel; what its cells started has to end with them."""
        self.page.close()
        base, _, token = self.server.url.partition("lab?")
        request = self.page.context.request
        for kernel in request.get(f"{base}api/kernels?{token}").json():
            request.delete(f"{base}api/kernels/{kernel['id']}?{token}")
        self.wait_nothing_left(set())
        assert self.troubles == []

    def shot(self, name: str) -> None:
        """A screenshot of the page as it is, kept."""
        shot(self.page, name)


def shot(page: "Page", name: str) -> None:
    """A screenshot of a page as it is, kept."""
    KEPT.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=KEPT / f"{name}.png")
