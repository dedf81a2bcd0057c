"""Progress: which trials of a run wait, are under way or have ended, and how long the rest will take. No clock of its
own is hidden in it: it is told when trials begin and end, and asked at a time.
"""

import html
import math
import time
from collections.abc import Callable, Sequence

from labkit.plan import ALONE, ROOM
from labkit.protocols import PROTOCOLS, find
from labkit.trial import Measure, Trial

OVERHEAD = 0.4
"""Seconds that a trial takes besides its load: its nodes are connected, warmed up and wound up."""

SURE = 5.0
"""Seconds as planned that are counted besides what has been seen: one slow trial, the first, is not the pace of all."""

GROW = "@keyframes labkit-grow{from{width:0}to{width:100%}}"
INK, RIM = "var(--jp-ui-font-color1,#1b1f24)", "var(--jp-ui-font-color2,#57606a)"
CELL = f"padding:0 8px 0 0;font:12px/18px sans-serif;text-align:left;white-space:nowrap;color:{INK}"
FRAME = f"display:inline-block;width:24px;height:9px;border:1px solid {RIM};border-radius:2px;margin-right:3px"
FILL = "display:block;height:100%"
DONE, DOING, FAILED = "#0072b2", "#56b4e9", "repeating-linear-gradient(45deg,#d55e00 0 3px,#fff 3px 6px)"


class Progress:
    """How far a run of these trials has come."""

    def __init__(self, trials: Sequence[Trial], clock: Callable[[], float] = time.monotonic) -> None:
        self.trials, self._clock = list(trials), clock
        self._began: dict[str, float] = {}
        self._took: dict[str, float] = {}
        self.errors: dict[str, str] = {}

    def begun(self, trial: Trial) -> None:
        """Notes that a trial begins."""
        self._began[trial.name] = self._clock()

    def ended(self, trial: Trial, error: str | None) -> None:
        """Notes that it has ended, well or not."""
        self._took[trial.name] = self._clock() - self._began[trial.name]
        if error:
            self.errors[trial.name] = error

    def stopped(self) -> None:
        """Notes that what had begun and not ended never will."""
        self._began = {name: at for name, at in self._began.items() if name in self._took}

    @property
    def finished(self) -> int:
        """How many trials have ended."""
        return len(self._took)

    def left_s(self) -> float:
        """Seconds until the last trial ends, as far as can be told: as planned, and as much off as it was so far."""
        planned = sum(expected_s(trial) for trial in self.trials if trial.name in self._took)
        pace = (sum(self._took.values()) + SURE) / (planned + SURE)
        left = {True: 0.0, False: 0.0}
        for trial in self.trials:
            if trial.name not in self._took:
                gone = self._clock() - self._began.get(trial.name, self._clock())
                left[trial.measure in ALONE] += max(0.0, expected_s(trial) * pace - gone)
        return left[True] + left[False] / ROOM

    def html(self) -> str:
        """A table with a bar for each trial: a row for each measure, a column for each protocol."""
        measures = list(dict.fromkeys(trial.measure for trial in self.trials))
        protocols = [name for name in PROTOCOLS if any(trial.protocol == name for trial in self.trials)]
        heads = "".join(f'<th scope="col" style="{CELL}">{html.escape(find(name).title)}</th>' for name in protocols)
        rows = []
        for measure in measures:
            cells = (self._bars(name, measure) for name in protocols)
            bars = "".join(f'<td style="{CELL}">{found}</td>' for found in cells)
            rows.append(f'<tr><th scope="row" style="{CELL}">{measure.capitalize()}</th>{bars}</tr>')
        guarantees = ", ".join(dict.fromkeys(str(trial.guarantee) for trial in self.trials))
        says = f'<caption style="{CELL};caption-side:bottom">A bar each: {guarantees}.</caption>'
        body = f"{says}<tr><td></td>{heads}</tr>{''.join(rows)}"
        return f'<style>{GROW}</style><table style="border-spacing:0">{body}</table>'

    def _bars(self, protocol: str, measure: Measure) -> str:
        return "".join(self._bar(t) for t in self.trials if (t.protocol, t.measure) == (protocol, measure))

    def _bar(self, trial: Trial) -> str:
        """The page lets a bar grow by itself, so that nothing has to be sent while it does."""
        fill, says, share = "width:0", "waits", 0.0
        if trial.name in self.errors:
            fill, says, share = f"background:{FAILED}", f"failed: {self.errors[trial.name]}", 1.0
        elif trial.name in self._took:
            fill, says, share = f"background:{DONE}", f"took {self._took[trial.name]:.1f} s", 1.0
        elif trial.name in self._began:
            lasts, gone = expected_s(trial), self._clock() - self._began[trial.name]
            fill = f"background:{DOING};animation:labkit-grow {lasts:.1f}s linear {-gone:.1f}s forwards"
            says, share = f"is under way, about {max(0.0, lasts - gone):.0f} s left", min(gone / lasts, 0.99)
        name = f"{trial.measure.capitalize()} of {find(trial.protocol).title}, {trial.guarantee}"
        words = html.escape(f"{name}: {says}")
        state = f'aria-valuenow="{100 * share:.0f}" aria-valuetext="{words}"'
        bar = f'<i style="{FILL};{fill}"></i>'
        return f'<span role="progressbar" title="{words}" aria-label="{words}" {state} style="{FRAME}">{bar}</span>'


def expected_s(trial: Trial) -> float:
    """Seconds that a trial takes on a machine with nothing else to do."""
    seconds = OVERHEAD + trial.workload.length + trial.timings.poll
    if trial.measure is Measure.BANDWIDTH:
        row, timings = find(trial.protocol), trial.timings
        idle = 2 * timings.heartbeat
        seconds += row.set_up_s + timings.heartbeat
        seconds += math.ceil(idle / timings.hold) * timings.hold if row.held else idle
    return seconds
