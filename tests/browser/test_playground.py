"""The playground in JupyterLab: a learner pulls the cable, and watches what comes back and what is lost."""

import re
from typing import TYPE_CHECKING

import pytest

from browser.lab import Lab
from browser.server import LIMIT, wait_until
from labkit.sheet import MEANING

if TYPE_CHECKING:
    from playwright.sync_api import Locator

RUNNING = re.compile(
    r"Running for \d+ s: ([\d,]+) deliveries owed, ([\d,]+) here, ([\d,]+) lost, ([\d,]+) not here yet"
)
STOPPED = re.compile(r"Stopped after \d+ s: of ([\d,]+) deliveries owed ([\d,]+) arrived and ([\d,]+) were lost")


class Panel:
    """The playground in the first cell of a notebook."""

    def __init__(self, lab: Lab, source: str) -> None:
        self.lab, self.page = lab, lab.page
        lab.open(source)
        lab.run(0)
        self.button("Start").wait_for()

    def button(self, name: str) -> "Locator":
        shown = self.lab.cell(0).locator(".jp-OutputArea")
        return shown.get_by_role("button", name=re.compile(f"^{name}"))

    def says(self, pattern: re.Pattern[str], limit: float = LIMIT) -> list[int]:
        """The numbers in what it says, once it says so."""
        self.page.get_by_text(pattern).wait_for(timeout=limit * 1000)
        found = pattern.search(self.page.get_by_text(pattern).inner_text())
        assert found
        return [int(number.replace(",", "")) for number in found.groups()]

    def lost(self) -> int:
        return self.says(RUNNING)[2]

    def missing(self) -> int:
        return self.says(RUNNING)[3]


@pytest.mark.parametrize("guarantee", ["at-least-once", "at-most-once"])
def test_what_was_cut_off_comes_back_or_is_lost(lab: Lab, guarantee: str) -> None:
    panel = Panel(lab, "import labkit as lab\nlab.playground('sse')")
    panel.page.get_by_label("Guarantee").select_option(f"{guarantee} ({MEANING[guarantee]})")
    panel.button("Start").click()
    wait_until(lambda: panel.says(RUNNING)[1] > 10)
    assert panel.button("Heal").is_disabled()
    panel.button("Cut").click()
    panel.page.get_by_text("The link is cut.").wait_for()
    wait_until(lambda: panel.missing() >= 30)
    picture = panel.page.get_by_alt_text(re.compile("^Live: "))
    lab.shot(f"playground-{guarantee}-cut")
    panel.button("Heal").click()
    panel.page.get_by_text("The link works.").wait_for()
    wait_until(lambda: panel.missing() < 10)
    lab.shot(f"playground-{guarantee}-healed")
    assert picture.is_visible()
    panel.button("Stop").click()
    owed, arrived, lost = panel.says(STOPPED)
    assert owed == arrived + lost
    assert (lost == 0) if guarantee == "at-least-once" else (lost >= 30)
    panel.page.get_by_alt_text(re.compile("^Timeline: ")).wait_for()
    lab.shot(f"playground-{guarantee}-stopped")
    lab.wait_nothing_left(set())


PATIENCE = """
import labkit.panel, labkit.picture
labkit.panel.UNSEEN, labkit.picture.SILENCE = 1, 8
"""
"""A page that is gone is noticed within seconds, for a test; a page tells every five that it is there."""


class TestNothingIsLeft:
    """A trial runs without end when the page or the kernel goes."""

    @pytest.fixture
    def panel(self, lab: Lab) -> Panel:
        panel = Panel(lab, f"{PATIENCE}\nimport labkit as lab\nlab.playground('sse')")
        panel.button("Start").click()
        panel.says(RUNNING)
        return panel

    def test_when_the_kernel_restarts(self, lab: Lab, panel: Panel) -> None:
        ports = lab.server.ports()
        assert ports
        lab.restart_kernel()
        lab.wait_nothing_left(ports)

    def test_when_the_page_goes(self, lab: Lab, panel: Panel) -> None:
        ports = lab.server.ports()
        assert ports
        lab.page.goto("about:blank")
        lab.wait_nothing_left(ports)

    def test_a_page_that_is_loaded_again_has_it_again(self, lab: Lab, panel: Panel) -> None:
        lab.save()
        lab.reload()
        panel.says(RUNNING)
        panel.page.get_by_alt_text(re.compile("^Live: ")).wait_for()
        ports = lab.server.ports()
        panel.button("Stop").click()
        panel.says(STOPPED)
        lab.wait_nothing_left(ports)
