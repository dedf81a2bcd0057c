"""How charts look: a figure that carries its alternative text, laid out in pixels, and one look for each protocol.

Nothing here touches pyplot or global state; the same drawing always gives the same bytes.
"""

import base64
import html
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

DPI, WIDTH, MARGIN = 100, 1150, 24
"""Layout is in pixels from the top left, so that text and bars cannot drift apart."""

INK, SOFT, RULE, PALE = "#1b1f24", "#57606a", "#d8dee4", "#cfd6dd"
STYLE = {
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), SOFT),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size", "ytick.minor.size"), 0),
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "font.size": 9.0,
    "font.family": ["DejaVu Sans"],
    "svg.hashsalt": "labkit",
}


MAKER = "labkit"
MARKS = {".png": f"Software\0{MAKER}".encode(), ".svg": f"<dc:title>{MAKER}</dc:title>".encode()}
"""What tells a chart of labkit from another file, by its ending."""

_STYLING = threading.RLock()


class Look(NamedTuple):
    """How a protocol is drawn in every chart."""

    colour: str
    marker: str
    dash: str | tuple[float, tuple[float, ...]] = "-"
    hatch: str = ""


BLACK, ORANGE, SKY, GREEN, _, BLUE, VERMILLION, PURPLE = map(to_hex, matplotlib.color_sequences["okabe_ito"])
LOOKS = {
    "websocket": Look(BLUE, "o"),
    "webhook": Look(ORANGE, "s"),
    "resthooks": Look(VERMILLION, "D"),
    "pubsub": Look(GREEN, "^"),
    "sse": Look(PURPLE, "v"),
    "polling": Look(BLACK, "X", (0, (2.6, 1.4)), "////"),
    "longpolling": Look(SKY, "P", (0, (2.6, 1.4, 0.8, 1.4)), "xxxx"),
}
"""Okabe and Ito's colours, less the yellow that white drowns. The baselines, and only they, are dashed and hatched."""


class Chart(Figure):
    """A figure with alt text made from its data; a notebook shows one picture that carries the text."""

    def __init__(self, height: float, title: str) -> None:
        super().__init__(figsize=(WIDTH / DPI, height / DPI), dpi=DPI)
        FigureCanvasAgg(self)
        self.height, self.title, self.alt = height, title, title
        self.write(MARGIN, 30, title, fontsize=15, fontweight="bold")

    def write(self, x: float, y: float, words: str, **how: Any) -> float:
        """Writes with the line's middle at y, in pixels from the top left; returns the x where the text ends."""
        text = self.text(x / WIDTH, 1 - y / self.height, words, **{"va": "center_baseline", **how})
        return float(text.get_window_extent().x1)

    def panel(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes at a place in pixels from the top left."""
        return self.add_axes((left / WIDTH, 1 - (top + height) / self.height, width / WIDTH, height / self.height))

    def png(self, scale: int = 1) -> bytes:
        """The picture with its alt text inside. 256 colours, the rare ones too, at a third of the bytes."""
        return self.packed(self.pixels(scale).quantize(256, Image.Quantize.MAXCOVERAGE), compress_level=8)

    def pixels(self, scale: int = 1) -> Image.Image:
        """What is drawn, in RGB, with so many pixels for each of the layout's."""
        pixels, width = io.BytesIO(), WIDTH * scale
        with styled():
            self.savefig(pixels, format="rgba", dpi=DPI * scale)
        return Image.frombytes("RGBA", (width, len(pixels.getvalue()) // width // 4), pixels.getvalue()).convert("RGB")

    def packed(self, image: Image.Image, **how: Any) -> bytes:
        """A picture as a PNG file that bears the title and the alt text."""
        file, about = io.BytesIO(), PngInfo()
        about.add_text("Software", MAKER)
        about.add_itxt("Title", self.title)
        about.add_itxt("Description", self.alt)
        image.save(file, "png", pnginfo=about, **how)
        return file.getvalue()

    def svg(self) -> bytes:
        """The drawing with its alt text inside."""
        file, about = io.BytesIO(), {"Title": self.title, "Description": self.alt, "Creator": MAKER, "Date": None}
        with styled():
            self.savefig(file, format="svg", metadata=about)
        return file.getvalue()

    def _ipython_display_(self) -> None:
        """One picture: once a widget was used, IPython would show every figure a second time, without its text."""
        from IPython.display import display

        display({"text/html": self._repr_html_(), "text/plain": self.alt}, raw=True)  # type: ignore[no-untyped-call]

    def _repr_html_(self) -> str:
        source = f"data:image/png;base64,{base64.b64encode(self.png()).decode()}"
        image = f'<img style="max-width:100%" width="{WIDTH}" src="{source}" alt="{html.escape(self.alt)}">'
        return f'<figure style="margin:0">{image}</figure>'


@contextmanager
def styled() -> Iterator[None]:
    """The same looks whatever the user's own settings, which are back afterwards.

    One thread at a time: matplotlib has one set of settings for all.
    """
    with _STYLING, matplotlib.style.context(["default", STYLE]):
        yield
