"""A chart in a page: a picture of fixed size that is drawn anew in its place, with its alternative text.

ipywidgets' own Image has no alternative text. Nothing is drawn here: it shows the charts that it is given.
"""

from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import traitlets
from anywidget import AnyWidget

from labkit.looks import WIDTH, Chart

SILENCE = 90.0
"""Seconds without a sign of life after which a page is gone; a browser lets a hidden one speak once a minute."""


class Picture(AnyWidget):
    """One picture, `width` x `height` CSS pixels at most; a taller chart is scrolled in it."""

    _esm = Path(__file__).parent / "data" / "picture.js"
    width = traitlets.Int(WIDTH).tag(sync=True)
    height = traitlets.Int(640).tag(sync=True)
    png = traitlets.Bytes(b"").tag(sync=True)
    alt = traitlets.Unicode("").tag(sync=True)

    def __init__(self, width: int = WIDTH, height: int = 640) -> None:
        super().__init__(width=width, height=height)
        self._views: dict[str, float] = {}
        self.on_msg(self._heard)

    def show(self, chart: Chart) -> None:
        """Shows a chart in the place of what was there; may be called from any thread."""
        self.put(chart.png(), chart.alt)

    def put(self, png: bytes, alt: str) -> None:
        """Shows a chart that was drawn before."""
        with self.hold_sync():
            self.alt, self.png = alt, png

    @property
    def views(self) -> int:
        """In how many places pages show it, as far as they have given a sign of life."""
        return sum(monotonic() - at < SILENCE for at in list(self._views.values()))

    @property
    def seen(self) -> float | None:
        """When a page last said that it shows it (monotonic seconds); None where none ever did."""
        return max(list(self._views.values()), default=None)

    def _heard(self, _: Any, content: Mapping[str, Any], buffers: Any) -> None:
        self._views[str(content["view"])] = monotonic() if content["shown"] else float("-inf")
