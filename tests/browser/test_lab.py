"""A notebook of the lab in a real JupyterLab: pictures with their texts, and nothing left behind."""

import pytest

from browser.lab import Lab
from browser.server import wait_until

COMPARE = """import labkit as lab
run = lab.compare(lab.Workload(duration={}, subscribers=2), protocols="sse", measures="latency")"""
CHART = "lab.charts.latency(run)"


def test_a_chart_is_a_picture_with_an_alternative_text(lab: Lab) -> None:
    lab.open(COMPARE.format(0.3), CHART)
    lab.run(0)
    cell = lab.run(1)
    picture = cell.get_by_role("img", name="Server-Sent Events, p50")
    assert picture.evaluate("img => img.complete && img.naturalWidth > 500")
    lab.shot("lab-chart")


class TestNothingIsLeft:
    """A comparison of many seconds is on when the page or the kernel goes."""

    @pytest.fixture
    def ports(self, lab: Lab) -> set[int]:
        lab.open(COMPARE.format(60))
        lab.start(0)
        wait_until(lambda: lab.server.ports())
        return lab.server.ports()

    def test_when_the_kernel_restarts(self, lab: Lab, ports: set[int]) -> None:
        lab.restart_kernel()
        lab.wait_nothing_left(ports)

    def test_when_the_kernel_is_killed(self, lab: Lab, ports: set[int]) -> None:
        lab.kernel.kill()
        lab.wait_nothing_left(ports)

    def test_when_the_cell_is_interrupted(self, lab: Lab, ports: set[int]) -> None:
        lab.page.get_by_role("menuitem", name="Kernel", exact=True).click()
        lab.page.get_by_role("menuitem", name="Interrupt Kernel").click()
        lab.wait_nothing_left(ports)
        lab.wait_idle()


def test_a_page_that_is_loaded_again_shows_what_was_saved_and_holds_nothing(lab: Lab) -> None:
    lab.open(COMPARE.format(0.3), CHART)
    lab.run(0)
    lab.run(1)
    lab.save()
    lab.reload()
    lab.page.get_by_role("img", name="Server-Sent Events, p50").wait_for()
    lab.wait_nothing_left(set())
