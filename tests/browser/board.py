"""The dashboard in a page, by what its user sees: labels, roles and alternative texts."""

import re
from typing import TYPE_CHECKING

from browser.server import LIMIT, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

CHARTS = {"Latency": "Latency: ", "Bandwidth": "Bandwidth: ", "Disconnect-loss": "Disconnect-loss: "}
"""Of each view, how its alternative text begins."""


class Board:
    """The one dashboard of a page."""

    def __init__(self, page: "Page") -> None:
        self.page = page
        self.button("Run").wait_for()

    def button(self, name: str) -> "Locator":
        return self.page.get_by_role("button", name=name, exact=True)

    def field(self, name: str) -> "Locator":
        return self.page.get_by_role("textbox", name=name, exact=True)

    def box(self, name: str) -> "Locator":
        return self.page.get_by_role("checkbox", name=name, exact=True)

    def chart(self, view: str) -> "Locator":
        return self.page.get_by_alt_text(re.compile(f"^{CHARTS[view]}"))

    def says(self, words: str, limit: float = LIMIT) -> None:
        """Returns once the status says so."""
        self.page.get_by_role("status").filter(has_text=re.compile(words)).wait_for(timeout=limit * 1000)

    def small(self, duration: float = 0.2) -> None:
        """Chooses the least there is to run: one protocol, one guarantee, nothing that breaks."""
        for box in self.page.get_by_role("checkbox").all():
            box.uncheck()
        self.box("Server-Sent Events").check()
        self.box("at-most-once (out of the box)").check()
        self.page.get_by_label("Outage").select_option("none")
        for name, value in {"Subscribers": "2", "Poll every": "0.05", "Duration": f"{duration:g}"}.items():
            self.field(name).fill(value)
        wait_until(lambda: f"duration={duration:g}" in self.field("In a cell").input_value())
