"""Fates: the last seconds of a trial that still runs, each delivery a mark in the colour of what became of it so far.

It looks as the time line of a finished trial does. What can still arrive is never called lost.
"""

from itertools import zip_longest

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from labkit.audit import Fate
from labkit.looks import LOOKS, MARGIN, SOFT, WIDTH, Chart, styled
from labkit.losses import FATES
from labkit.outage import OUTAGES
from labkit.protocols import find
from labkit.recording import Recording
from labkit.sheet import above, ink
from labkit.timeline import AGAIN_LOOK, BLANK, LEFT, RASTER, REACH, SHADE, WAITING, WAITING_LOOK, colours, marks, raster

ROWS, ROW, TALL, STUB = 12, 26, 18, 6
"""Subscribers shown at most; pixels from one to the next, of a mark, and of the mark of what is not here yet."""

TOP, FOOT = 148, 62
"""Pixels above and below the rows."""

APART = 3
"""Where events are due so many pixels apart or more, a blank one between two marks tells them apart."""


class Live(Chart):
    """A chart that another soon takes the place of: no time is spent on making its file small."""

    def png(self, scale: int = 1) -> bytes:
        """The picture with its alt text inside, in all its colours, in a tenth of the time."""
        return self.packed(self.pixels(scale), compress_level=1)


HOLDING = ("silent", "consumer-freeze")
"""Outages that keep what was sent into them, and let it arrive when they end."""


def decided(recording: Recording, now_ns: int) -> NDArray[np.bool_]:
    """Subscribers x events: nothing more is to be expected of this delivery at `now_ns`.

    It arrived, or was rejected, unless an outage holds the request that was given up, or held it less than a request's
    limit ago; or a later event has reached that subscriber, and the protocol keeps their order with
    this guarantee (`PROTOCOLS[...].reorders`), which also supersedes what a poll for the latest passes over.
    """
    trial, arrived = recording.trial, recording.outcome.arrived_ns > 0
    rejected = recording.outcome.fate == int(Fate.REJECTED)
    if trial.guarantee in find(trial.protocol).reorders:
        rejected &= ~_held(recording, now_ns)
    known: NDArray[np.bool_] = arrived | rejected
    if trial.guarantee in find(trial.protocol).reorders:
        return known
    return known | np.maximum.accumulate(arrived[:, ::-1], axis=1)[:, ::-1]


def _held(recording: Recording, now_ns: int) -> NDArray[np.bool_]:
    """Events that may have been sent into an outage which held them until now, or until shortly before."""
    due, limit = recording.offer.due_ns, round(recording.trial.timings.request * 1e9)
    held = np.zeros(len(due), bool)
    for number, (begin, end) in enumerate(recording.outcome.windows):
        kind = recording.kinds[number] if number < len(recording.kinds) else None
        if (kind is None or kind in HOLDING) and (end is None or now_ns < end + limit):
            held |= (due > begin - limit) & (due < (now_ns if end is None else end))
    return held


def fates(recording: Recording, now_ns: int, broken: str | None = None, seconds: float = 20.0) -> Live:
    """The last `seconds` before `now_ns`, a row for each subscriber; above them what became of all since the start.

    broken: the kind of the outage that lasts, if one does. As many subscribers, as large a picture. Only the start of
    the load is asked of the recording's phases, so that it may be one that a trial has made up to now.
    """
    trial, owed = recording.trial, recording.outcome.owed
    hosts = min(trial.workload.subscribers, ROWS)
    waiting = owed & ~decided(recording, now_ns)
    title = "Live: what becomes of each event?"
    with styled():
        chart = Live(TOP + ROW * hosts + FOOT, title)
        said = [_setting(chart, recording, now_ns, broken), _counts(chart, recording, waiting)]
        _rows(chart, recording, waiting[:hosts], now_ns, broken, seconds)
        more = f"The first {hosts} of {len(owed):,} subscribers are shown, and all of them counted."
        if len(owed) > hosts:
            chart.write(MARGIN, chart.height - 16, more, color=SOFT, fontsize=8)
            said.append(more)
    chart.alt = " ".join([title, *said, f"Shown are the last {seconds:g} s."])
    return chart


def _setting(chart: Chart, recording: Recording, now_ns: int, broken: str | None) -> str:
    """What is running, for how long, and whether the link works; returns the same in words."""
    trial, load = recording.trial, recording.trial.workload
    hosts = f"{load.subscribers:,} subscriber{'s' if load.subscribers > 1 else ''}"
    since = max(now_ns - recording.phases["load"], 0) / 1e9
    words = f"{trial.guarantee}, {load.rate:g} events/s of {load.size:,} bytes to {hosts}, {since:.0f} s into the load"
    state = f"broken: {broken} ({OUTAGES[broken].short})" if broken else "the link works"
    label = find(trial.protocol).title
    end = chart.write(MARGIN, 58, label, color=ink(LOOKS[trial.protocol]), fontweight="bold")
    chart.write(end + 8, 58, words, color=SOFT)
    chart.write(WIDTH - MARGIN, 58, state, ha="right", fontweight="bold" if broken else "normal")
    return f"{label}, {words}; {state}."


def _counts(chart: Chart, recording: Recording, waiting: NDArray[np.bool_]) -> str:
    """Since the start: how many were owed and met which fate; each count is the key of its colour."""
    outcome = recording.outcome
    closed = outcome.fate[outcome.owed & ~waiting]
    found = [("owed since the start", "", int(outcome.owed.sum()))]
    found += [(words, colour, int((closed == fate).sum())) for fate, (words, colour, _) in FATES.items()]
    found.append((*WAITING_LOOK[:2], int(waiting.sum())))
    found.append((*AGAIN_LOOK[:2], int(((outcome.copies > 0) & (outcome.arrived_ns > 0) & outcome.owed).sum())))
    x = float(MARGIN)
    for words, colour, count in found:
        if colour:
            tall = STUB if words == WAITING_LOOK[0] else 14
            where = x / WIDTH, 1 - 96 / chart.height
            chart.add_artist(Rectangle(where, 14 / WIDTH, tall / chart.height, color=colour, lw=0))
        chart.write(x + (20 if colour else 0), 90, f"{count:,}", fontsize=12, fontweight="bold")
        x = chart.write(x, 108, words, fontsize=8, color=SOFT) + 24
    (_, _, owed), *rest = found
    told = ", ".join(f"{count:,} {words}" for words, _, count in rest if count)
    return f"Since the start {owed:,} deliveries owed" + (f": {told}." if told else ".")


def _rows(
    chart: Chart,
    recording: Recording,
    waiting: NDArray[np.bool_],
    now_ns: int,
    broken: str | None,
    seconds: float,
) -> None:
    """A row of marks for each subscriber, outages behind them; the newest at the right.

    The axis counts the seconds ago, so that nothing moves but the marks; and they move by whole pixels, so that none
    flickers between two widths.
    """
    start, step, hosts = recording.phases["load"], int(seconds * 1e9 / RASTER), len(waiting)
    first = (now_ns - start) // step - RASTER + 1
    places = (recording.offer.due_ns - start) // step - first
    events = slice(*np.searchsorted(places, (-REACH, RASTER)).tolist())
    level = marks(recording.outcome, events)[:hosts]
    level[waiting[:, events]] = WAITING
    gap = int(len(level.T) > 1 and np.diff(places[events]).mean() >= APART)
    levels = raster(level, places[events] + REACH, RASTER + REACH, gap)[:, REACH:]
    picture = np.full((ROW * hosts, RASTER, 3), 255, np.uint8)
    spans = []
    for (begin, end), kind in zip_longest(recording.outcome.windows, recording.kinds[: len(recording.outcome.windows)]):
        until = RASTER + 1 if end is None else (end - start) // step - first + 1
        name = kind or (broken if broken and end is None else "outage")
        spans += _shade(picture, (begin - start) // step - first, until, name)
    for middle, name in above(spans, RASTER, 7.2):
        chart.write(LEFT + middle, TOP - 9, name, ha="center", fontsize=8, fontweight="bold")
    for number, row in enumerate(levels):
        y = number * ROW + (ROW - TALL) // 2
        tall = np.where(row == WAITING, STUB, np.where(row == BLANK, 0, TALL))
        there = np.arange(TALL)[::-1, np.newaxis] < tall
        picture[y : y + TALL][there] = colours()[np.broadcast_to(row, there.shape)[there], :3]
        _beside(chart, number, recording, waiting[number])
    chart.figimage(picture, LEFT, int(chart.height) - TOP - len(picture), zorder=-1)
    axes = chart.panel(LEFT, TOP, RASTER, len(picture))
    axes.set(xlim=(-seconds, 0), ylim=(0, 1), xlabel="seconds ago, when the event was due", facecolor="none")
    axes.yaxis.set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{-value:g}" if value else "now")
    axes.spines["left"].set_visible(False)
    axes.grid(False)


def _shade(picture: NDArray[np.uint8], begin: int, end: int, name: str) -> list[tuple[int, int, str]]:
    """An outage behind the marks, from pixel to pixel; returns as much of it as is seen, if any."""
    since, until = max(begin, 0), min(end, RASTER)
    if since >= until:
        return []
    picture[:, since:until] = np.round(255 * np.array(to_rgb(SHADE)))
    for edge in {begin, end - 1} & set(range(RASTER)):
        picture[np.arange(len(picture)) % 5 < 3, edge] = 0
    return [(since, until, name)]


def _beside(chart: Chart, number: int, recording: Recording, waiting: NDArray[np.bool_]) -> None:
    """Who a row is, and what it lacks."""
    middle, outcome = TOP + (number + 0.5) * ROW, recording.outcome
    lost = int((outcome.owed[number] & ~waiting & (outcome.arrived_ns[number] == 0)).sum())
    chart.write(LEFT - 12, middle, f"{number}" if number else "subscriber 0", ha="right")
    words = {f"lost {lost:,}": lost, f"{waiting.sum():,} not here yet": waiting.any()}
    said = ", ".join(each for each, true in words.items() if true) or "all here"
    chart.write(LEFT + RASTER + 12, middle, said, fontsize=8, fontweight="bold" if lost else "normal")
